//! How instances are replaced: its flags, and how an update is shown.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::parse::duration;
use crate::{
    api::view::AppView,
    model::{ErrorCode, Problem, Rollout, RolloutState},
    spec::v1::{DEFAULT_PROGRESS, OnContent, OnFailure, Order, Portion, UpdateSpec},
};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OrderFlag {
    /// The new one is ready before an old one goes
    StartFirst,
    /// The old one is gone before a new one comes
    StopFirst,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FailureFlag {
    /// What was in place last is put back
    Rollback,
    /// It stays as it is then
    Pause,
    /// It is tried on and on
    Continue,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ContentsFlag {
    /// They are replaced, as when the app is changed
    Replace,
    /// They stay, and get it when they are started the next time
    Keep,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Updates")]
pub(super) struct UpdateArgs {
    /// Whether a new instance comes before an old one goes
    #[arg(long, value_enum, default_value_t = OrderFlag::StartFirst, value_name = "ORDER")]
    update_order: OrderFlag,
    /// How many instances at a time; 0: all [default: 1]
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["max_surge", "max_unavailable"])]
    update_parallelism: Option<u32>,
    /// How many instances more than asked for there may be meanwhile: 2, 25% [default: 1, with stop-first 0]
    #[arg(long, value_name = "NUMBER|PERCENT")]
    max_surge: Option<Portion>,
    /// How many fewer than asked for may serve meanwhile [default: 0, with stop-first 1]
    #[arg(long, value_name = "NUMBER|PERCENT")]
    max_unavailable: Option<Portion>,
    /// How long a new instance must have been ready before it counts [default: 0s]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    min_ready: Option<Duration>,
    /// From one step to the next [default: 0s]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    update_delay: Option<Duration>,
    /// How long nothing may come further until the update has failed [default: 2m]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    update_deadline: Option<Duration>,
    /// What becomes of an update whose instances do not come up
    #[arg(long, value_enum, default_value_t = FailureFlag::Rollback, value_name = "WHAT")]
    update_failure: FailureFlag,
    /// What becomes of instances when a secret or a config of theirs gets another content
    #[arg(long, value_enum, default_value_t = ContentsFlag::Replace, value_name = "WHAT")]
    update_contents: ContentsFlag,
}

impl UpdateArgs {
    pub(super) fn spec(&self, faults: &mut Vec<String>) -> UpdateSpec {
        let mut seconds = |flag: &str, time: Option<Duration>, default: u32| whole_seconds(flag, time, default, faults);
        let spec = UpdateSpec {
            order: match self.update_order {
                OrderFlag::StartFirst => Order::StartFirst,
                OrderFlag::StopFirst => Order::StopFirst,
            },
            max_surge: self.max_surge,
            max_unavailable: self.max_unavailable,
            min_ready_seconds: seconds("--min-ready", self.min_ready, 0),
            delay_seconds: seconds("--update-delay", self.update_delay, 0),
            progress_seconds: seconds("--update-deadline", self.update_deadline, DEFAULT_PROGRESS),
            on_failure: match self.update_failure {
                FailureFlag::Rollback => OnFailure::Rollback,
                FailureFlag::Pause => OnFailure::Pause,
                FailureFlag::Continue => OnFailure::Continue,
            },
            contents: match self.update_contents {
                ContentsFlag::Replace => OnContent::Replace,
                ContentsFlag::Keep => OnContent::Keep,
            },
        };
        match self.update_parallelism {
            Some(count) => spec.at_a_time(count),
            None => spec,
        }
    }
}

/// A time that is kept in seconds, or a fault.
pub(super) fn whole_seconds(flag: &str, time: Option<Duration>, default: u32, faults: &mut Vec<String>) -> u32 {
    let Some(time) = time else { return default };
    match u32::try_from(time.as_secs()) {
        Ok(seconds) if time.subsec_millis() == 0 => seconds,
        _ => {
            faults.push(format!("{flag}: write whole seconds, e.g. 30s"));
            default
        }
    }
}

/// What is not as by default, in words; empty if nothing is.
pub(super) fn words(update: &UpdateSpec) -> String {
    let default = UpdateSpec::default();
    let mut words = Vec::new();
    let mut word = |differs: bool, text: String| words.extend(differs.then_some(text));
    word(update.order != default.order, update.order.as_str().into());
    for (name, portion) in [("surge", update.max_surge), ("unavailable", update.max_unavailable)] {
        word(portion.is_some(), format!("{name} {}", portion.unwrap_or(Portion::Count(0))));
    }
    for (name, seconds, usual) in [
        ("ready for", update.min_ready_seconds, 0),
        ("delay", update.delay_seconds, 0),
        ("deadline", update.progress_seconds, DEFAULT_PROGRESS),
    ] {
        word(seconds != usual, format!("{name} {seconds}s"));
    }
    word(update.contents != default.contents, "contents keep".into());
    word(update.on_failure != default.on_failure, format!("on failure {}", update.on_failure.as_str()));
    words.join(", ")
}

/// How an update stands, with what it takes back and why it does not come further.
pub(super) fn shown(rollout: &Rollout) -> Vec<String> {
    let mut lines = Vec::new();
    let held = |word: &str| match rollout.message.as_str() {
        "" => word.to_owned(),
        message => format!("{word}: {message}"),
    };
    match rollout.state {
        RolloutState::Complete => {}
        RolloutState::Progressing => {
            let from = rollout.good.filter(|good| *good != rollout.generation);
            let to = format!("to generation {}", rollout.generation);
            lines.push(held(&from.map_or(to.clone(), |from| format!("from generation {from} {to}"))));
        }
        RolloutState::Paused => lines.push(held(&format!("generation {} is held", rollout.generation))),
    }
    if let Some(undone) = &rollout.undone {
        lines.push(format!("generation {} was taken back: {}", undone.generation, undone.reason));
    }
    lines
}

/// Whether the daemon decides what becomes of instances that do not come up: there is something to go back to.
pub(super) fn decides(view: &AppView) -> bool {
    let progressing = view.rollout.as_ref().filter(|rollout| rollout.state == RolloutState::Progressing);
    let something = progressing.is_some_and(|rollout| rollout.good.is_some_and(|good| good != rollout.generation));
    something && view.spec.update.on_failure != OnFailure::Continue
}

/// Why waiting for a generation has come to its end, if the update was taken back or is held. `seen` is what was seen of
/// its instances.
pub(super) fn ended(view: &AppView, asked: u64, seen: Option<&Problem>) -> Option<Problem> {
    let rollout = view.rollout.as_ref()?;
    let app = &view.name;
    let details = || seen.map(|seen| seen.details.clone()).unwrap_or_default();
    let (code, title, hint) = match &rollout.undone {
        Some(undone) if undone.generation == asked => {
            let Rollout { generation, same_as, .. } = rollout;
            let title = format!("{app} was rolled back: generation {asked} did not come up: {}", undone.reason);
            let back = same_as.map(|former| format!("; generation {former} is put back as {generation}"));
            (ErrorCode::RolledBack, title + &back.unwrap_or_default(), format!("hivemind history {app} -o wide"))
        }
        _ if rollout.generation == asked && rollout.state == RolloutState::Paused => {
            let title = format!("the update of {app} is held: {}", rollout.message);
            (ErrorCode::UpdatePaused, title, format!("hivemind app info {app}   hivemind rollback {app}"))
        }
        _ => return None,
    };
    Some(Problem { code, title, details: details(), hint: Some(hint) })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    struct Line {
        #[command(flatten)]
        args: UpdateArgs,
    }

    fn spec(line: &str) -> Result<UpdateSpec, String> {
        let parsed = Line::try_parse_from(["x"].into_iter().chain(line.split_whitespace()));
        let args = parsed.map_err(|error| error.to_string())?.args;
        let mut faults = Vec::new();
        let spec = args.spec(&mut faults);
        if faults.is_empty() { Ok(spec) } else { Err(faults.join("; ")) }
    }

    #[test]
    fn every_flag_has_its_field_and_its_word() {
        assert_eq!(spec(""), Ok(UpdateSpec::default()));
        assert_eq!(words(&UpdateSpec::default()), "");
        let line = "--update-order stop-first --max-surge 2 --max-unavailable 25% --min-ready 5s --update-delay 1m \
                    --update-deadline 90s --update-failure pause --update-contents keep";
        let spec = spec(line).expect("valid");
        let expected = serde_json::json!({
            "order": "stop-first",
            "max_surge": 2,
            "max_unavailable": "25%",
            "min_ready_seconds": 5,
            "delay_seconds": 60,
            "progress_seconds": 90,
            "on_failure": "pause",
            "contents": "keep",
        });
        assert_eq!(serde_json::to_value(&spec).expect("JSON"), expected);
        let shown = "stop-first, surge 2, unavailable 25%, ready for 5s, delay 60s, deadline 90s, contents keep, \
                     on failure pause";
        assert_eq!(words(&spec), shown);
    }

    #[test]
    fn a_number_at_a_time_is_one_of_the_two_bounds() {
        assert_eq!(spec("--update-parallelism 3").map(|spec| spec.max_surge), Ok(Some(Portion::Count(3))));
        let all = spec("--update-order stop-first --update-parallelism 0").expect("valid");
        assert_eq!((all.max_surge, all.max_unavailable), (None, Some(Portion::Percent(100))));
        assert!(spec("--update-parallelism 3 --max-surge 1").is_err());
        assert!(spec("--update-delay 1500ms").expect_err("refused").contains("--update-delay: write whole seconds"));
        assert!(spec("--max-surge 101%").expect_err("refused").contains("write 2 or 25%"));
    }
}
