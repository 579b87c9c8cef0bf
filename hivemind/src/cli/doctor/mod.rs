//! `hivemind doctor`: looks at this machine with the daemon's flags, and needs no daemon; one that runs is asked for what
//! only it knows. It changes nothing.

mod machine;
mod network;
mod programs;

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{
    Context, daemon,
    output::{Format, Listed, Tone, colours, line},
};
use crate::{client::Target, daemon::DaemonConfig, model::Problem};

/// The daemon's flags: what is checked is what a daemon with these flags needs.
#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    daemon: daemon::DaemonArgs,
}

/// What came out of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// The daemon works, but something is worth mending.
    Warn,
    /// The daemon does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    /// How to mend it; empty if there is nothing to mend.
    mend: String,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), mend: String::new() }
    }

    fn warn(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warn, found: found.into(), mend: mend.into() }
    }

    fn fail(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fail, found: found.into(), mend: mend.into() }
    }
}

impl Listed for Finding {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) = (&["CHECK", "RESULT", "FOUND", "MEND"], &[]);

    fn name(&self) -> String {
        self.check.into()
    }

    fn cells(&self) -> Vec<String> {
        vec![self.check.into(), word(self.verdict).0.into(), self.found.clone(), self.mend.clone()]
    }
}

fn word(verdict: Verdict) -> (&'static str, Tone) {
    match verdict {
        Verdict::Ok => ("ok", Tone::Good),
        Verdict::Warn => ("warn", Tone::Busy),
        Verdict::Fail => ("FAIL", Tone::Bad),
    }
}

pub(super) async fn run(context: &Context, socket: Target, args: DoctorArgs) -> Result<ExitCode, Problem> {
    let Target::Unix(socket) = socket else {
        return Err(Problem::new(
            crate::model::ErrorCode::Invalid,
            "doctor looks at this machine only: --socket is a path",
        ));
    };
    let config = args.daemon.config(socket)?;
    config.validate()?;
    let running = context.client.get_version().await.is_ok();
    let mut findings = examine(&config, running).await;
    if running {
        findings.extend(network::uplinks(&context.client).await);
    }
    match context.output.format {
        Format::Json | Format::Yaml | Format::Name => context.output.list(&findings, "")?,
        Format::Table | Format::Wide => findings.iter().for_each(show),
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let summary = match (count(Verdict::Fail), count(Verdict::Warn)) {
        (0, 0) => "everything is as the daemon needs it".to_owned(),
        (0, n) => format!("the daemon works on this machine; {n} thing(s) are worth mending"),
        (n, _) => format!("the daemon does not work on this machine until {n} thing(s) are mended"),
    };
    context.output.say(&summary);
    Ok(if count(Verdict::Fail) > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A line for each finding, and one for how to mend it.
fn show(finding: &Finding) {
    let (word, tone) = word(finding.verdict);
    let colour = match tone {
        Tone::Good => 32,
        Tone::Busy => 33,
        Tone::Bad | Tone::Plain => 31,
    };
    let word = format!("{word:<6}");
    let word = if colours(&std::io::stdout()) { format!("\x1b[{colour}m{word}\x1b[0m") } else { word };
    line(&format!("{word}{:<14}{}", finding.check, finding.found));
    if !finding.mend.is_empty() {
        line(&format!("{:<20}-> {}", "", finding.mend));
    }
}

async fn examine(config: &DaemonConfig, running: bool) -> Vec<Finding> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut findings = vec![
        machine::root(),
        machine::capabilities(),
        machine::kernel(),
        machine::btf(),
        machine::programs(),
        machine::bpffs(&config.bpf_root),
        machine::cgroups(&mounts, config.cgroup_root.as_deref()),
        machine::memlock(),
        programs::containerd(config).await,
        programs::runc(),
        programs::nft(),
        network::ranges(config).await,
    ];
    findings.extend(network::forwarding(config));
    findings.extend([
        network::dns_port(config, running),
        network::web_port(config, running),
        network::failsafe(config, &std::fs::read_to_string("/etc/ssh/sshd_config").unwrap_or_default()),
        machine::clock(),
        machine::disk("state disk", &config.state_dir),
    ]);
    findings
}
