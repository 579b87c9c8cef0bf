//! Health checks and probes: their flags, and how they are shown.

use std::time::Duration;

use clap::Args;

use super::parse::duration;
use crate::spec::v1::{AppSpec, Check, HealthSpec, Probe, ProbeSpec, ProbesSpec};

#[derive(Args, Debug)]
#[command(next_help_heading = "Health")]
pub(super) struct HealthArgs {
    /// Ready when GET answers with 200 to 399: PORT/PATH, e.g. 80/healthz
    #[arg(long, value_name = "PORT/PATH", group = "check")]
    health_http: Option<String>,
    /// Ready when the port accepts a connection
    #[arg(long, value_name = "PORT", group = "check")]
    health_tcp: Option<u16>,
    /// Ready when the server says SERVING by grpc.health.v1: PORT, or PORT/SERVICE
    #[arg(long, value_name = "PORT[/SERVICE]", group = "check")]
    health_grpc: Option<String>,
    /// Ready when this shell command ends with 0
    #[arg(long, value_name = "COMMAND", group = "check")]
    health_exec: Option<String>,
    /// From one check to the next [default: 5s]
    #[arg(long, value_parser = duration, value_name = "TIME", requires = "check")]
    health_interval: Option<Duration>,
    /// How long a check may take [default: 2s]
    #[arg(long, value_parser = duration, value_name = "TIME", requires = "check")]
    health_timeout: Option<Duration>,
    /// Failures in a row until the process is started again [default: 3]
    #[arg(long, value_name = "NUMBER", requires = "check")]
    health_retries: Option<u32>,
    /// Time after the start during which failures do not count [default: 10s]
    #[arg(long, value_parser = duration, value_name = "TIME", requires = "check")]
    health_start_period: Option<Duration>,
    /// The other probes begin when this one has passed; if it fails, the process is started again. A check is
    /// http:PORT/PATH, tcp:PORT, grpc:PORT[/SERVICE] or exec:COMMAND; OPTIONs are initial-delay, period, timeout,
    /// failure-threshold and success-threshold, before or behind it (before exec:), e.g. http:80/up,period=1s
    #[arg(long, value_name = "[OPTION=…,]CHECK", conflicts_with = "check")]
    startup_probe: Option<String>,
    /// While it fails, the instance gets no traffic, and its process stays
    #[arg(long, value_name = "[OPTION=…,]CHECK", conflicts_with = "check")]
    readiness_probe: Option<String>,
    /// If it fails, the process is started again
    #[arg(long, value_name = "[OPTION=…,]CHECK", conflicts_with = "check")]
    liveness_probe: Option<String>,
}

impl HealthArgs {
    pub(super) fn spec(self, faults: &mut Vec<String>) -> (Option<HealthSpec>, ProbesSpec) {
        let mut of_flag = |flag: &str, text: Option<String>| match read(&text?) {
            Ok(probe) => Some(probe),
            Err(why) => {
                faults.push(format!("{flag}: {why}"));
                None
            }
        };
        let probes = ProbesSpec {
            startup: of_flag("--startup-probe", self.startup_probe.clone()),
            readiness: of_flag("--readiness-probe", self.readiness_probe.clone()),
            liveness: of_flag("--liveness-probe", self.liveness_probe.clone()),
        };
        (self.health(faults), probes)
    }

    fn health(self, faults: &mut Vec<String>) -> Option<HealthSpec> {
        let mut of_flag = |flag: &str, kind: &str, text: Option<String>| {
            let check = check(kind, &text?);
            check.map_err(|why| faults.push(format!("{flag} {why}"))).ok()
        };
        let http = of_flag("--health-http", "http", self.health_http);
        let grpc = of_flag("--health-grpc", "grpc", self.health_grpc);
        let tcp = self.health_tcp.map(|port| Check::Tcp { port });
        let mut health = HealthSpec::new(http.or(grpc).or(tcp).or(self.health_exec.map(shell))?);
        let set = |field: &mut u32, time: Option<Duration>| *field = time.map_or(*field, millis);
        set(&mut health.interval_ms, self.health_interval);
        set(&mut health.timeout_ms, self.health_timeout);
        set(&mut health.start_period_ms, self.health_start_period);
        health.unhealthy_after = self.health_retries.unwrap_or(health.unhealthy_after);
        Some(health)
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn shell(command: String) -> Check {
    Check::Exec { command: vec!["/bin/sh".into(), "-c".into(), command] }
}

/// A check of a kind that a flag names.
fn check(kind: &str, text: &str) -> Result<Check, String> {
    let (port, path) = text.split_once('/').unwrap_or((text, ""));
    let port = |form: &str| port.parse().map_err(|_| format!("{text:?}: write {form}"));
    Ok(match kind {
        "http" => Check::Http { port: port("PORT/PATH, e.g. 80/healthz")?, path: format!("/{path}") },
        "grpc" => Check::Grpc { port: port("PORT or PORT/SERVICE, e.g. 50051")?, service: path.to_owned() },
        "tcp" => Check::Tcp { port: text.parse().map_err(|_| format!("{text:?}: write PORT, e.g. 5432"))? },
        "exec" if text.trim().is_empty() => return Err("exec: write the command behind it".into()),
        "exec" => shell(text.to_owned()),
        _ => return Err(format!("{kind:?} is no kind of check; there are http, tcp, grpc and exec")),
    })
}

/// `period=1s,http:80/up`, `http:80/up,period=1s`, `period=1s,exec:COMMAND`.
fn read(text: &str) -> Result<ProbeSpec, String> {
    let mut options = Vec::new();
    let mut found = None;
    let mut rest = text;
    while !rest.is_empty() {
        // A command may have commas: all behind its kind is its own.
        if let Some(command) = rest.strip_prefix("exec:").filter(|_| found.is_none()) {
            found = Some(check("exec", command)?);
            break;
        }
        let (part, behind) = rest.split_once(',').unwrap_or((rest, ""));
        rest = behind;
        match (part.split_once('='), part.split_once(':')) {
            (Some((name, value)), None) => options.push((name, value)),
            (_, Some((kind, of))) if found.is_none() => found = Some(check(kind, of)?),
            (_, Some(_)) => return Err(format!("{part:?}: there is a check already")),
            (None, None) => return Err(format!("{part:?}: write OPTION=VALUE, or a check, e.g. http:80/healthz")),
        }
    }
    let mut spec =
        ProbeSpec::new(found.ok_or("write a check, e.g. http:80/healthz, tcp:5432, grpc:50051 or exec:COMMAND")?);
    for (name, value) in options {
        let count = || value.parse().map_err(|_| format!("{name}: {value:?} is not a number"));
        let time = || duration(value).map(millis).map_err(|why| format!("{name}: {why}"));
        match name {
            "initial-delay" => spec.initial_delay_ms = time()?,
            "period" => spec.period_ms = time()?,
            "timeout" => spec.timeout_ms = time()?,
            "failure-threshold" => spec.failure_threshold = count()?,
            "success-threshold" => spec.success_threshold = count()?,
            _ => {
                let all = "initial-delay, period, timeout, failure-threshold and success-threshold";
                return Err(format!("there is no option {name:?}; there are {all}"));
            }
        }
    }
    Ok(spec)
}

/// What is asked of an app's instances, each with its title.
pub(super) fn shown(spec: &AppSpec) -> Vec<(&'static str, String)> {
    let time = |millis: u32| match millis % 1_000 {
        0 => format!("{} s", millis / 1_000),
        _ => format!("{millis} ms"),
    };
    let every = |check: &Check, interval: u32, timeout: u32, failures: u32| {
        let (interval, timeout) = (time(interval), time(timeout));
        format!("{}, every {interval}, for at most {timeout}, {failures} failures in a row", words(check))
    };
    let health = spec.health.as_ref().map(|health| {
        let HealthSpec { interval_ms, timeout_ms, unhealthy_after, start_period_ms, .. } = *health;
        let start =
            if start_period_ms == 0 { String::new() } else { format!(", not in the first {}", time(start_period_ms)) };
        ("Health", format!("{}{start}", every(&health.check, interval_ms, timeout_ms, unhealthy_after)))
    });
    let probes = spec.probes.iter().map(|(probe, of)| {
        let title = match probe {
            Probe::Startup => "Startup",
            Probe::Readiness => "Readiness",
            Probe::Liveness => "Liveness",
        };
        let delay =
            if of.initial_delay_ms == 0 { String::new() } else { format!(", after {}", time(of.initial_delay_ms)) };
        let successes =
            if of.success_threshold == 1 { String::new() } else { format!(", {} successes", of.success_threshold) };
        let text = every(&of.check, of.period_ms, of.timeout_ms, of.failure_threshold);
        (title, format!("{text}{successes}{delay}"))
    });
    health.into_iter().chain(probes).collect()
}

fn words(check: &Check) -> String {
    match check {
        Check::Http { port, path } => format!("GET :{port}{path}"),
        Check::Tcp { port } => format!("TCP :{port}"),
        Check::Grpc { port, service } if service.is_empty() => format!("gRPC :{port}"),
        Check::Grpc { port, service } => format!("gRPC :{port} {service}"),
        // What follows the program may be long, or a secret; `-o json` shows it to those who ask.
        Check::Exec { command } => match command.as_slice() {
            [shell, flag, line] if shell == "/bin/sh" && flag == "-c" => {
                format!("exec {}", line.split_whitespace().next().unwrap_or_default())
            }
            words => format!("exec {}", words.first().map(String::as_str).unwrap_or_default()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_read_with_their_options_on_either_side() {
        let http = || ProbeSpec::new(Check::Http { port: 80, path: "/up?a=b".into() });
        for (text, expected) in [
            ("http:80/up?a=b", http()),
            ("period=1s,http:80/up?a=b,timeout=500ms", ProbeSpec { period_ms: 1_000, timeout_ms: 500, ..http() }),
            ("tcp:5432", ProbeSpec::new(Check::Tcp { port: 5432 })),
            ("grpc:50051", ProbeSpec::new(Check::Grpc { port: 50051, service: String::new() })),
            (
                "grpc:50051/a.b.C,failure-threshold=30,initial-delay=2m",
                ProbeSpec {
                    failure_threshold: 30,
                    initial_delay_ms: 120_000,
                    ..ProbeSpec::new(Check::Grpc { port: 50051, service: "a.b.C".into() })
                },
            ),
            (
                "success-threshold=2,exec:test a=b, or tcp:1",
                ProbeSpec { success_threshold: 2, ..ProbeSpec::new(shell("test a=b, or tcp:1".into())) },
            ),
        ] {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_probe_is_said() {
        for (text, part) in [
            ("", "write a check"),
            ("period=1s", "write a check"),
            ("http:x/", "PORT/PATH"),
            ("tcp:1/a", "write PORT"),
            ("udp:1", "no kind of check"),
            ("exec: ", "write the command"),
            ("tcp:1,tcp:2", "already"),
            ("tcp:1,often", "OPTION=VALUE"),
            ("tcp:1,period=often", "period: \"often\" is not a time"),
            ("tcp:1,failure-threshold=x", "not a number"),
            ("tcp:1,interval=1s", "no option \"interval\""),
        ] {
            let why = read(text).expect_err(text);
            assert!(why.contains(part), "{text}: {why}");
        }
    }

    #[test]
    fn what_is_asked_is_shown() {
        let mut spec = AppSpec::new("web");
        assert_eq!(shown(&spec), []);
        spec.probes.readiness =
            Some(read("http:80/up,period=1500ms,initial-delay=1s,success-threshold=2").expect("a probe"));
        spec.probes.liveness = Some(read("exec:check --password x").expect("a probe"));
        let expected = [
            ("Readiness", "GET :80/up, every 1500 ms, for at most 1 s, 3 failures in a row, 2 successes, after 1 s"),
            ("Liveness", "exec check, every 10 s, for at most 1 s, 3 failures in a row"),
        ];
        assert_eq!(shown(&spec), expected.map(|(title, text)| (title, text.to_owned())));
    }
}
