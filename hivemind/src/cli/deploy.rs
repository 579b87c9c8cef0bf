//! `hivemind app deploy`: flags become the document of an app.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use http::Method;

use super::{
    Context, balance::BalanceArgs, container::ContainerArgs, difference, limits::TrafficArgs, output::Format,
    parse::duration, wait::Waiting,
};
use crate::{
    api::{apps::Written, view::AppView},
    model::{AppName, Bytes, ErrorCode, MilliCpu, Problem},
    spec::v1::{AppSpec, Check, HealthSpec, PortSpec, PullPolicy, RestartPolicy},
};

/// Shown beneath `hivemind app deploy --help`.
const EXAMPLES: &str = "\
Examples:
  hivemind app deploy --image nginx:latest --name web-app --service web.local
  hivemind app deploy --image nginx:latest --name web-app --port 8080:80 --replicas 3 --wait
  hivemind app deploy --image nginx:latest --name shop --port 8081:80 --affinity client-ip --source-range 192.0.2.0/24
  hivemind app deploy --image postgres:16 --name db --env POSTGRES_PASSWORD --memory 1Gi --health-tcp 5432
  hivemind app deploy --image nginx:latest --name web --limit-egress 10mbit --max-connections 500
  hivemind app deploy --image busybox --name client --entrypoint sleep -- infinity
  hivemind app deploy --image web --name web --read-only --tmpfs /tmp:size=64m --cap-drop ALL --init
The same command again with other flags changes the app: all that is not said goes back to its default,
but for the number of instances.";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Restart {
    /// Whatever its exit code
    Always,
    /// Unless its exit code is 0
    OnFailure,
    /// Leave it
    Never,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Pull {
    /// When the node does not have it
    IfMissing,
    /// Before every new instance
    Always,
    /// The node must have it
    Never,
}

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct DeployArgs {
    /// Image, e.g. nginx:latest or registry.local:5000/team/web@sha256:…
    #[arg(long)]
    image: String,
    /// Name of the app: letters a-z, digits and '-'
    #[arg(long, add = super::complete::apps())]
    name: AppName,
    /// How many instances [default: 1, or what the app has]
    #[arg(long, value_name = "NUMBER")]
    replicas: Option<u32>,
    /// When to fetch the image
    #[arg(long, value_enum, default_value_t = Pull::IfMissing, value_name = "WHEN")]
    pull: Pull,
    /// Label; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Check it, say what it would change, and change nothing; with -o yaml or json show the document
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    balance: BalanceArgs,
    #[command(flatten)]
    process: ProcessArgs,
    #[command(flatten)]
    container: ContainerArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    health: HealthArgs,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Network")]
struct NetworkArgs {
    /// DNS name of the app's service, besides <app>.<namespace>.<tenant>.hivemind; may be repeated
    #[arg(long, value_name = "DNS-NAME")]
    service: Vec<String>,
    /// Port: 80, or published on the node: 8080:80, 5353:53/udp; may be repeated
    #[arg(long, short, value_name = "[PUBLISHED:]PORT[/udp]")]
    port: Vec<PortSpec>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Process")]
struct ProcessArgs {
    /// Arguments instead of the image's
    #[arg(last = true)]
    args: Vec<String>,
    /// Program instead of the image's entrypoint; the words after -- are its arguments
    #[arg(long, visible_alias = "command", value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Environment variable; without a value, that of this shell; may be repeated
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// File with a NAME=VALUE on each line; may be repeated
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// User, or user:group, by name or number
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    workdir: Option<String>,
    /// When to start a process again that has ended
    #[arg(long, value_enum, default_value_t = Restart::Always, value_name = "WHEN")]
    restart: Restart,
    /// First signal of a stop [default: the image's, or SIGTERM]
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// From the first signal to SIGKILL, e.g. 30s [default: 10s]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    stop_grace: Option<Duration>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// CPUs: 500m, 0.5 or 2
    #[arg(long, value_name = "CPUS")]
    cpu: Option<MilliCpu>,
    /// Memory: 64Mi, 1Gi
    #[arg(long, value_name = "BYTES")]
    memory: Option<Bytes>,
    /// Processes and threads
    #[arg(long, value_name = "NUMBER")]
    pids: Option<u32>,
    #[command(flatten)]
    traffic: TrafficArgs,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Health")]
struct HealthArgs {
    /// Ready when GET answers with 200 to 399: PORT/PATH, e.g. 80/healthz
    #[arg(long, value_name = "PORT/PATH", group = "check")]
    health_http: Option<String>,
    /// Ready when the port accepts a connection
    #[arg(long, value_name = "PORT", group = "check")]
    health_tcp: Option<u16>,
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
}

pub(super) async fn run(context: &Context, args: DeployArgs) -> Result<(), Problem> {
    let (name, waiting, dry_run) = (args.name.clone(), args.waiting, args.dry_run);
    let path = context.path(&format!("apps/{name}"));
    let before = match context.client.get::<AppView>(&path).await {
        Ok(app) => Some(app),
        Err(problem) if problem.code == ErrorCode::NotFound => None,
        Err(problem) => return Err(problem),
    };
    let replicas = args.replicas.or(before.as_ref().map(|app| app.spec.replicas)).unwrap_or(1);
    let spec = args.spec(replicas)?;
    if dry_run {
        let written: Written = context.client.send(Method::PUT, &format!("{path}?dry_run=true"), &spec).await?;
        context.output.say(&format!("{name} {}; nothing was changed", effect(before.as_ref(), &written, &spec, true)));
        say_differences(context, before.as_ref(), &spec);
        return if context.output.wants_document() { context.output.document(&spec) } else { Ok(()) };
    }
    let written: Written = context.client.send(Method::PUT, &path, &spec).await?;
    context.output.say(&format!("{name} {}", effect(before.as_ref(), &written, &spec, false)));
    say_differences(context, before.as_ref(), &spec);
    if !waiting.wait {
        context.output.say(&format!("see: hivemind ps {name}   (--wait waits until it is ready)"));
    }
    super::app::finish(context, &name, &waiting, &written).await?;
    if context.output.format == Format::Name {
        super::output::line(name.as_str());
    }
    Ok(())
}

fn say_differences(context: &Context, before: Option<&AppView>, spec: &AppSpec) {
    for line in before.map(|app| difference::lines(&app.spec, spec)).unwrap_or_default() {
        context.output.say(&format!("  {line}"));
    }
}

/// What a deploy does or would do, in words.
fn effect(before: Option<&AppView>, written: &Written, spec: &AppSpec, dry_run: bool) -> &'static str {
    let word = |does, would| if dry_run { would } else { does };
    match before {
        _ if written.created => word("is being created", "would be created"),
        None => word("is being changed", "would be changed"),
        Some(before) if written.generation != before.generation => {
            word("is being changed: its instances are replaced one after the other", "would get new instances")
        }
        Some(before) if before.spec == *spec => word("is already as asked for", "is already as asked for"),
        Some(before) if before.spec.replicas != spec.replicas => word("is being scaled", "would be scaled"),
        Some(_) => word("is being changed; its instances stay", "would be changed; its instances would stay"),
    }
}

impl DeployArgs {
    /// The document, or all faults of the flags.
    fn spec(self, replicas: u32) -> Result<AppSpec, Problem> {
        let Self { process, limits, network, .. } = self;
        let mut faults = Vec::new();
        let mut spec = AppSpec::new(self.image);
        spec.env = environment(&process.env, &process.env_file, &mut faults);
        spec.labels = pairs(&self.label, &mut faults);
        spec.container = self.container.spec(&mut faults);
        spec.health = self.health.spec(&mut faults);
        if let Some(grace) = process.stop_grace {
            match u32::try_from(grace.as_secs()) {
                Ok(seconds) if grace.subsec_millis() == 0 => spec.stop.grace_seconds = seconds,
                _ => faults.push("--stop-grace: write whole seconds, e.g. 30s".into()),
            }
        }
        if !faults.is_empty() {
            let title = format!("{} cannot be deployed", self.name);
            return Err(Problem { code: ErrorCode::Invalid, title, details: faults, hint: None });
        }
        spec.replicas = replicas;
        spec.command = process.entrypoint.map(|program| vec![program]);
        spec.args = (!process.args.is_empty()).then_some(process.args);
        spec.user = process.user;
        spec.workdir = process.workdir;
        spec.resources.cpu = limits.cpu;
        spec.resources.memory = limits.memory;
        spec.resources.pids = limits.pids;
        spec.limits = limits.traffic.spec();
        spec.ports = network.port;
        spec.services = network.service;
        spec.balance = self.balance.spec();
        spec.restart = match process.restart {
            Restart::Always => RestartPolicy::Always,
            Restart::OnFailure => RestartPolicy::OnFailure,
            Restart::Never => RestartPolicy::Never,
        };
        spec.pull = match self.pull {
            Pull::IfMissing => PullPolicy::IfMissing,
            Pull::Always => PullPolicy::Always,
            Pull::Never => PullPolicy::Never,
        };
        spec.stop.signal = process.stop_signal;
        Ok(spec)
    }
}

impl HealthArgs {
    fn spec(self, faults: &mut Vec<String>) -> Option<HealthSpec> {
        let shell = |command: String| Check::Exec { command: vec!["/bin/sh".into(), "-c".into(), command] };
        let check = match self.health_http {
            Some(text) => {
                let (port, path) = text.split_once('/').unwrap_or((&text, ""));
                match port.parse() {
                    Ok(port) => Some(Check::Http { port, path: format!("/{path}") }),
                    Err(_) => {
                        faults.push(format!("--health-http {text:?}: write PORT/PATH, e.g. 80/healthz"));
                        None
                    }
                }
            }
            None => self.health_tcp.map(|port| Check::Tcp { port }).or_else(|| self.health_exec.map(shell)),
        };
        let mut health = HealthSpec::new(check?);
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let set = |field: &mut u32, time: Option<Duration>| *field = time.map_or(*field, millis);
        set(&mut health.interval_ms, self.health_interval);
        set(&mut health.timeout_ms, self.health_timeout);
        set(&mut health.start_period_ms, self.health_start_period);
        health.unhealthy_after = self.health_retries.unwrap_or(health.unhealthy_after);
        Some(health)
    }
}

/// The files' variables first, so that flags win.
fn environment(flags: &[String], files: &[PathBuf], faults: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for file in files {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => {
                faults.push(format!("--env-file {}: {error}", file.display()));
                continue;
            }
        };
        for (number, line) in text.lines().enumerate().map(|(i, line)| (i + 1, line.trim())) {
            match line.split_once('=') {
                _ if line.is_empty() || line.starts_with('#') => {}
                Some((name, value)) => drop(all.insert(name.trim().to_owned(), value.to_owned())),
                None => faults.push(format!("--env-file {}, line {number}: write NAME=VALUE", file.display())),
            }
        }
    }
    for flag in flags {
        match flag.split_once('=') {
            Some((name, value)) => drop(all.insert(name.to_owned(), value.to_owned())),
            None => match std::env::var(flag) {
                Ok(value) => drop(all.insert(flag.clone(), value)),
                Err(_) => faults.push(format!("--env {flag}: has no value, and this shell has no such variable")),
            },
        }
    }
    all
}

fn pairs(flags: &[String], faults: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for flag in flags {
        match flag.split_once('=') {
            Some((name, value)) if !name.is_empty() => drop(all.insert(name.to_owned(), value.to_owned())),
            _ => faults.push(format!("--label {flag:?}: write NAME=VALUE")),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: DeployArgs,
    }

    fn spec(line: &[&str]) -> Result<AppSpec, Problem> {
        let words = ["deploy", "--image", "a", "--name", "b"].iter().chain(line);
        Line::try_parse_from(words).expect("is understood").args.spec(1)
    }

    #[test]
    fn without_flags_it_is_the_default_document() {
        assert_eq!(spec(&[]), Ok(AppSpec::new("a")));
    }

    #[test]
    fn every_flag_has_its_field() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), "# comment\n\nA=file\n B = two words \n").expect("written");
        let path = file.path().to_str().expect("text");
        let line = format!(
            "--port 8080:80 --port 53/udp --affinity client-ip=60 --service web.local --env A=flag --env-file {path} --cpu 500m --memory 64Mi \
             --pids 9 --user 1:2 --workdir /srv --entrypoint sh --restart on-failure --pull always --health-http 80/up \
             --health-interval 1s --health-timeout 500ms --health-retries 7 --health-start-period 2m \
             --stop-signal SIGQUIT --stop-grace 1m --label team=x --hostname h --domainname d.example --read-only --privileged \
             --cap-add NET_ADMIN --cap-drop CHOWN --security-opt no-new-privileges=false --security-opt apparmor=own \
             --ulimit nofile=1:2 --ulimit core=-1 --tmpfs /t:size=1m --shm-size 2m --sysctl net.core.somaxconn=9 --init \
             --device /dev/fuse:r --device example.com/gpu=0 --add-host db:192.0.2.1 --dns 192.0.2.2 --dns-search d.example \
             --dns-option ndots:2 -t -i --group-add audio --oom-score-adj -5 --pre-start x --post-start true --pre-stop false \
             --annotation a.b=c -- -c exit"
        );
        let spec = spec(&line.split_whitespace().collect::<Vec<_>>()).expect("valid");
        let json = serde_json::to_value(&spec).expect("JSON");
        let expected = serde_json::json!({
            "image": "a",
            "replicas": 1,
            "command": ["sh"],
            "args": ["-c", "exit"],
            "env": { "A": "flag", "B": " two words" },
            "user": "1:2",
            "workdir": "/srv",
            "resources": { "cpu": "500m", "memory": "64Mi", "pids": 9 },
            "container": {
                "hostname": "h",
                "domainname": "d.example",
                "read_only": true,
                "privileged": true,
                "cap_add": ["NET_ADMIN"],
                "cap_drop": ["CHOWN"],
                "security": { "no_new_privileges": false, "apparmor": "own" },
                "ulimits": { "nofile": { "soft": 1, "hard": 2 }, "core": { "soft": -1, "hard": -1 } },
                "tmpfs": [{ "path": "/t", "size": "1Mi" }],
                "shm_size": "2Mi",
                "sysctls": { "net.core.somaxconn": "9" },
                "init": true,
                "devices": [{ "host": "/dev/fuse", "permissions": "r" }],
                "cdi": ["example.com/gpu=0"],
                "extra_hosts": [{ "name": "db", "address": "192.0.2.1" }],
                "dns": { "servers": ["192.0.2.2"], "search": ["d.example"], "options": ["ndots:2"] },
                "tty": true,
                "stdin_open": true,
                "group_add": ["audio"],
                "oom_score_adj": -5,
                "hooks": {
                    "pre_start": [{ "command": ["/bin/sh", "-c", "x"] }],
                    "post_start": [{ "command": ["/bin/sh", "-c", "true"], "timeout_seconds": 30 }],
                    "pre_stop": [{ "command": ["/bin/sh", "-c", "false"], "timeout_seconds": 30 }],
                },
                "annotations": { "a.b": "c" },
            },
            "ports": [
                { "target": 80, "published": 8080, "protocol": "tcp" },
                { "target": 53, "protocol": "udp" },
            ],
            "services": ["web.local"],
            "balance": { "affinity": { "client_ip_seconds": 60 } },
            "health": {
                "check": { "type": "http", "port": 80, "path": "/up" },
                "interval_ms": 1_000,
                "timeout_ms": 500,
                "healthy_after": 1,
                "unhealthy_after": 7,
                "start_period_ms": 120_000,
            },
            "restart": "on-failure",
            "stop": { "signal": "SIGQUIT", "grace_seconds": 60 },
            "pull": "always",
            "labels": { "team": "x" },
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn all_faults_of_the_flags_are_named_at_once() {
        let problem = spec(&[
            "--env",
            "HIVEMIND_TEST_NO_SUCH_VARIABLE",
            "--env-file",
            "/nonexistent/env",
            "--label",
            "x",
            "--health-http",
            "x",
            "--stop-grace",
            "1500ms",
            "--security-opt",
            "label=disable",
            "--annotation",
            "x",
        ])
        .expect_err("refused");
        let flags: Vec<_> = problem.details.iter().map(|line| line.split([' ', ':']).next().expect("flag")).collect();
        assert_eq!(
            flags,
            ["--env-file", "--env", "--label", "--security-opt", "--annotation", "--health-http", "--stop-grace"],
            "{problem}"
        );
        assert_eq!(problem.code.exit_code(), 2);
    }
}
