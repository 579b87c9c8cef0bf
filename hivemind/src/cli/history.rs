//! `hivemind history|rollback` and `hivemind app diff`

use clap::Args;

use super::{
    Context,
    app::{Named, finish},
    deploy, difference,
    dry::Dry,
    output::{Listed, Tone, age, line},
    wait::Waiting,
};
use crate::{
    api::{apps::RollBack, view::AppView},
    model::{AppName, Cause, ErrorCode, Outcome, Past, Problem},
};

/// The exit code of `app diff --exit-code` where something differs, as `plan` has it.
const DIFFERS: u8 = 10;

#[derive(Args, Debug)]
pub(super) struct RollBackArgs {
    #[command(flatten)]
    app: Named,
    /// A generation of the history [default: the last that was in place and is another than now]
    #[arg(long, value_name = "GENERATION")]
    to: Option<u64>,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    dry: Dry,
}

#[derive(Args, Debug)]
pub(super) struct DiffArgs {
    #[command(flatten)]
    deploy: deploy::DeployArgs,
    /// End with 10 if something would change
    #[arg(long)]
    exit_code: bool,
}

/// A generation with what it changed.
#[derive(Debug, serde::Serialize)]
struct Shown {
    #[serde(flatten)]
    past: Past,
    /// What differs from the one before that is kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<String>,
    #[serde(skip)]
    newest: bool,
}

impl Listed for Shown {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["GENERATION", "AGE", "CAUSE", "STATE", "IMAGE", "CHANGES"], &["REASON"]);

    fn name(&self) -> String {
        self.past.generation.to_string()
    }

    fn cells(&self) -> Vec<String> {
        let (state, reason) = outcome(&self.past.outcome, self.newest);
        vec![
            self.past.generation.to_string(),
            age(self.past.at),
            cause(self.past.cause),
            state.into(),
            self.past.spec.image.clone(),
            self.changes.join("; "),
            reason,
        ]
    }

    fn tone(&self) -> Option<(usize, Tone)> {
        let tone = match &self.past.outcome {
            Outcome::Complete => Tone::Good,
            Outcome::Failed(_) => Tone::Bad,
            Outcome::Unknown if self.newest => Tone::Busy,
            Outcome::Unknown => Tone::Plain,
        };
        Some((3, tone))
    }
}

fn cause(cause: Cause) -> String {
    match cause {
        Cause::Deployed => "deploy".into(),
        Cause::Restarted => "restart".into(),
        Cause::Contents => "secret or config".into(),
        Cause::RolledBack(to) => format!("rollback to {to}"),
        Cause::Recovered(to) => format!("{to} put back"),
    }
}

fn outcome(outcome: &Outcome, newest: bool) -> (&'static str, String) {
    match outcome {
        Outcome::Complete => (if newest { "in place" } else { "was in place" }, String::new()),
        Outcome::Failed(reason) => ("failed", reason.clone()),
        Outcome::Unknown if newest => ("on its way", String::new()),
        Outcome::Unknown => ("overtaken", String::new()),
    }
}

pub(super) async fn history(context: &Context, app: &Named) -> Result<(), Problem> {
    let name = app.get()?;
    let all: Vec<Past> = context.client.get_app_history(&context.scope, name.as_str()).await?;
    let newest = all.last().map_or(0, |past| past.generation);
    let mut before: Option<Past> = None;
    let mut shown = Vec::new();
    for past in all {
        let changes = before.map(|before| difference::lines(&before.spec, &past.spec)).unwrap_or_default();
        before = Some(past.clone());
        shown.push(Shown { newest: past.generation == newest, past, changes });
    }
    context.output.list(&shown, "no history yet: nothing of it was ever deployed by a version that keeps one")
}

pub(super) async fn roll_back(context: &Context, args: &RollBackArgs) -> Result<(), Problem> {
    let name = args.app.get()?;
    let (scope, back) = (&context.scope, RollBack { to: args.to });
    let written = context.client.roll_back_app(scope, name.as_str(), &back, &args.dry.change()).await?.written;
    let to = written.back_to.unwrap_or_default();
    let goes = args.dry.word("goes", "would go");
    context.output.say(&format!("{name} {goes} back to generation {to}, as generation {}", written.generation));
    finish(context, name, &args.waiting, args.dry, &written).await
}

pub(super) async fn diff(context: &Context, args: DiffArgs) -> Result<u8, Problem> {
    let exit_code = args.exit_code;
    let (name, spec, before) = deploy::compared(context, args.deploy).await?;
    // The daemon says whether it would take it at all.
    deploy::put(context, &name, &spec, Dry { dry_run: true }).await?;
    let lines = changes(&name, before.as_ref(), &spec);
    let differs = !lines.is_empty();
    if context.output.wants_document() {
        context.output.document(&serde_json::json!({ "app": name, "differs": differs, "changes": lines }))?;
    } else {
        lines.iter().for_each(|text| line(text));
        if !differs {
            context.output.say(&format!("{name} is as asked for"));
        }
    }
    Ok(if differs && exit_code { DIFFERS } else { 0 })
}

fn changes(name: &AppName, before: Option<&AppView>, spec: &crate::spec::v1::AppSpec) -> Vec<String> {
    let Some(before) = before else { return vec![format!("{name} would be created")] };
    let mut lines = difference::lines(&before.spec, spec);
    if before.spec.replicas != spec.replicas {
        lines.push(format!("replicas is {}, was {}", spec.replicas, before.spec.replicas));
    }
    if !lines.is_empty() && before.spec.needs_new_instances(spec) {
        lines.push("its instances would be replaced".into());
    }
    lines
}

/// What makes no sense together with looking only.
pub(super) fn looking_only(flag: &str) -> Problem {
    Problem::new(ErrorCode::Invalid, format!("app diff changes nothing: leave {flag} out"))
}
