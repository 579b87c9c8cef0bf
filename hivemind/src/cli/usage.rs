//! `hivemind top` and `hivemind stats`

use std::{collections::HashMap, io::IsTerminal, time::Duration};

use clap::Args;
use serde::Serialize;
use tokio::time::MissedTickBehavior;

use super::{
    Context, Reach, complete,
    output::{Listed, bytes, line},
    verbs::running,
};
use crate::{
    api::usage::{ProcessView, StatsView},
    client::{GetStatsOfAllArgs, ListProcessesArgs},
    model::{ErrorCode, InstanceId, Problem, SidecarName, Timestamp},
};

/// How often `stats` looks.
const PERIOD: Duration = Duration::from_secs(1);

pub(super) const TOP_EXAMPLES: &str = "\
Examples:
  hivemind top web                     the processes of all instances of web
  hivemind top web-x7k2p -o json       of one instance, for programs";

pub(super) const STATS_EXAMPLES: &str = "\
Examples:
  hivemind stats                       all instances of the namespace, each second
  hivemind stats --no-stream web db    those of two apps, once
  hivemind stats -A -o json            one JSON document on a line for each instance and second";

#[derive(Args, Debug)]
pub(super) struct TopArgs {
    /// Of a sidecar of the instance, by its name [default: the app's own container]
    #[arg(short, long, value_name = "NAME")]
    container: Option<SidecarName>,
    /// App, or instance by name or id
    #[arg(value_name = "APP|INSTANCE", add = complete::targets())]
    target: String,
}

#[derive(Args, Debug)]
pub(super) struct StatsArgs {
    /// Only instances of these apps, or these instances
    #[arg(value_name = "APP|INSTANCE", add = complete::targets())]
    only: Vec<String>,
    /// Once, not each second
    #[arg(long)]
    no_stream: bool,
    #[command(flatten)]
    reach: Reach,
}

impl Listed for ProcessView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["INSTANCE", "PID", "INSIDE", "USER", "STATE", "CPU TIME", "MEMORY", "COMMAND"], &[]);

    fn name(&self) -> String {
        self.pid.to_string()
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.instance.clone(),
            self.pid.to_string(),
            self.container_pid.to_string(),
            self.user.clone(),
            self.state.clone(),
            cpu_time(self.cpu_seconds),
            bytes(self.memory_bytes),
            self.command.clone(),
        ]
    }
}

pub(super) async fn top(context: &Context, args: &TopArgs) -> Result<(), Problem> {
    let mut all: Vec<ProcessView> = Vec::new();
    let asked = ListProcessesArgs { container: args.container.as_ref().map(ToString::to_string) };
    for instance in running(context, &args.target).await? {
        match context.client.list_processes(&context.scope, instance.id.as_str(), &asked).await {
            Ok(found) => all.extend(found),
            // It has ended since; the others are still of interest.
            Err(problem) if matches!(problem.code, ErrorCode::NotRunning | ErrorCode::NotFound) => {
                context.output.say(&problem.title);
            }
            Err(problem) => return Err(problem),
        }
    }
    context.output.list(&all, "no processes")
}

/// What an instance uses, with what two looks tell.
#[derive(Serialize)]
struct Stats {
    #[serde(flatten)]
    view: StatsView,
    /// 100 is one CPU.
    cpu_percent: f64,
}

impl Listed for Stats {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) = (
        &["INSTANCE", "CPU", "MEMORY", "PIDS", "NET IN", "NET OUT", "READ", "WRITTEN"],
        &["PACKETS IN", "PACKETS OUT", "CPUS", "NODE"],
    );

    fn name(&self) -> String {
        self.view.instance.clone()
    }

    fn cells(&self) -> Vec<String> {
        let view = &self.view;
        let of = |used: String, limit: Option<String>| limit.map_or(used.clone(), |limit| format!("{used} / {limit}"));
        vec![
            view.instance.clone(),
            format!("{:.1} %", self.cpu_percent),
            of(bytes(view.memory_bytes), view.memory_limit_bytes.map(bytes)),
            of(view.pids.to_string(), view.pids_limit.map(|limit| limit.to_string())),
            bytes(view.bytes_in),
            bytes(view.bytes_out),
            bytes(view.read_bytes),
            bytes(view.written_bytes),
            view.packets_in.to_string(),
            view.packets_out.to_string(),
            view.cpu_limit.map(|limit| limit.to_string()).unwrap_or_default(),
            view.node.to_string(),
        ]
    }

    fn place(&self) -> (String, String) {
        (self.view.tenant.to_string(), self.view.namespace.to_string())
    }
}

type Before = HashMap<InstanceId, (Timestamp, f64)>;

pub(super) async fn stats(context: &Context, args: &StatsArgs) -> Result<(), Problem> {
    let mut before = Before::new();
    with_percent(look(context, args).await?, &mut before);
    known(context, args).await?;
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    let screen = std::io::stdout().is_terminal() && context.output.is_for_people() && !args.no_stream;
    loop {
        tick.tick().await;
        let now = with_percent(look(context, args).await?, &mut before);
        if screen {
            // From the top left corner, over what is there, and nothing beneath: without a flicker.
            print!("\x1b[2J\x1b[H");
        }
        if context.output.wants_document() && !args.no_stream {
            now.iter().try_for_each(|stats| context.output.streamed(stats))?;
        } else {
            context.output.list_with(args.reach.columns(), &now, "no running instances")?;
        }
        if args.no_stream {
            return Ok(());
        }
        if !screen && context.output.is_for_people() && !now.is_empty() {
            line("");
        }
    }
}

async fn look(context: &Context, args: &StatsArgs) -> Result<Vec<StatsView>, Problem> {
    let mut all: Vec<StatsView> = match args.reach.tenant(context) {
        None => context.client.get_stats(&context.scope).await?,
        Some(tenant) => context.client.get_stats_of_all(&GetStatsOfAllArgs { tenant }).await?,
    };
    all.retain(|one| args.only.is_empty() || args.only.iter().any(|word| means(word, one)));
    Ok(all)
}

fn means(word: &str, stats: &StatsView) -> bool {
    stats.app == word || stats.instance == word || (word.len() >= 3 && stats.id.as_str().starts_with(word))
}

/// That a name stands for nothing that runs is something else than that there is no such name.
async fn known(context: &Context, args: &StatsArgs) -> Result<(), Problem> {
    for word in args.only.iter().filter(|_| args.reach == Reach::default()) {
        let app = context.client.get_app(&context.scope, word).await;
        if app.is_err_and(|problem| problem.code == ErrorCode::NotFound) {
            context.client.get_instance(&context.scope, word).await?;
        }
    }
    Ok(())
}

/// Adds how much CPU each has taken since it was seen before, and remembers it. Less than before is a new process's.
fn with_percent(now: Vec<StatsView>, before: &mut Before) -> Vec<Stats> {
    let last = std::mem::take(before);
    let stats = now.into_iter().map(|view| {
        let (then, used) = last.get(&view.id).copied().unwrap_or((view.at, view.cpu_seconds));
        let used = if view.cpu_seconds < used { view.cpu_seconds } else { view.cpu_seconds - used };
        let millis = u32::try_from(view.at.as_millis() - then.as_millis()).unwrap_or(0);
        let cpu_percent = if millis == 0 { 0.0 } else { used / f64::from(millis) * 1e5 };
        before.insert(view.id.clone(), (view.at, view.cpu_seconds));
        Stats { view, cpu_percent: (cpu_percent * 10.0).round() / 10.0 }
    });
    stats.collect()
}

/// CPU time as `top` writes it: minutes, seconds, hundredths.
fn cpu_time(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the kernel's count, never negative")]
    let hundredths = (seconds * 100.0).round() as u64;
    format!("{}:{:02}.{:02}", hundredths / 6_000, hundredths / 100 % 60, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(at: i64, cpu_seconds: f64) -> StatsView {
        StatsView {
            instance: "web-abcde".into(),
            id: InstanceId::from_bits(1),
            tenant: "default".parse().expect("valid"),
            namespace: "default".parse().expect("valid"),
            app: "web".into(),
            node: "n1".parse().expect("valid"),
            at: Timestamp::from_millis(at),
            cpu_seconds,
            cpu_limit: None,
            memory_bytes: 1_000,
            memory_limit_bytes: Some(64_000_000),
            pids: 2,
            pids_limit: None,
            packets_in: 0,
            bytes_in: 0,
            packets_out: 0,
            bytes_out: 0,
            read_bytes: 0,
            written_bytes: 0,
        }
    }

    #[test]
    fn the_share_of_a_cpu_is_what_was_used_since_the_last_look() {
        let mut before = Before::new();
        let mut percent = |at, seconds| with_percent(vec![view(at, seconds)], &mut before)[0].cpu_percent;
        assert_eq!(
            [percent(0, 10.0), percent(1_000, 10.5), percent(1_500, 11.5), percent(2_500, 0.25), percent(2_500, 0.3)],
            [0.0, 50.0, 200.0, 25.0, 0.0],
            "first look, half a CPU, two CPUs, a new process, no time between"
        );
    }

    #[test]
    fn limits_are_shown_beside_what_is_used() {
        let stats = Stats { view: view(0, 0.0), cpu_percent: 12.34 };
        assert_eq!(stats.cells()[1..4], ["12.3 %", "1.0 kB / 64.0 MB", "2"]);
        assert_eq!([cpu_time(0.0), cpu_time(61.5), cpu_time(36_000.07)], ["0:00.00", "1:01.50", "600:00.07"]);
        assert!(means("web", &stats.view) && means("web-abcde", &stats.view) && !means("we", &stats.view));
    }
}
