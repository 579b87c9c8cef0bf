//! `hivemind app …`

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use http::Method;

use super::{
    Context,
    output::{Format, Listed, age},
    wait,
};
use crate::{
    api::{
        apps::{Scale, WrittenView},
        view::{AppView, InstanceView},
    },
    model::{AppName, Bytes, ErrorCode, MilliCpu, Problem},
    spec::v1::{AppSpec, Check, HealthSpec, PortSpec, PullPolicy, RestartPolicy},
};

#[derive(Subcommand, Debug)]
pub(super) enum AppCommand {
    /// Create an app, or change it to what is said here
    Deploy(Box<DeployArgs>),
    /// List the apps
    Ls,
    /// Show an app with its instances
    Info(Named),
    /// Change the number of instances
    Scale(ScaleArgs),
    /// Stop and remove an app
    Rm(RmArgs),
    /// Replace all instances, one after the other
    Restart(RestartArgs),
}

#[derive(Args, Debug)]
pub(super) struct Named {
    /// Name of the app
    #[arg(long = "name", value_name = "NAME", conflicts_with = "app", required_unless_present = "app")]
    name: Option<AppName>,
    /// Name of the app
    app: Option<AppName>,
}

impl Named {
    fn get(&self) -> Result<&AppName, Problem> {
        let missing = || Problem::new(ErrorCode::Invalid, "name the app");
        self.name.as_ref().or(self.app.as_ref()).ok_or_else(missing)
    }
}

#[derive(Args, Debug)]
pub(super) struct Waiting {
    /// Wait until all instances are ready
    #[arg(long)]
    wait: bool,
    /// How long to wait, e.g. 90s or 5m
    #[arg(long, default_value = "5m", value_parser = duration, value_name = "TIME")]
    timeout: Duration,
}

#[derive(Args, Debug)]
pub(super) struct ScaleArgs {
    #[command(flatten)]
    app: Named,
    /// How many instances
    #[arg(long)]
    replicas: u32,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Args, Debug)]
pub(super) struct RmArgs {
    #[command(flatten)]
    app: Named,
    /// Wait until nothing is left of it
    #[arg(long)]
    wait: bool,
    /// How long to wait, e.g. 90s or 5m
    #[arg(long, default_value = "5m", value_parser = duration, value_name = "TIME")]
    timeout: Duration,
}

#[derive(Args, Debug)]
pub(super) struct RestartArgs {
    #[command(flatten)]
    app: Named,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Restart {
    Always,
    OnFailure,
    Never,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Pull {
    IfMissing,
    Always,
    Never,
}

#[derive(Args, Debug)]
pub(super) struct DeployArgs {
    /// Image, e.g. nginx:latest or registry.local:5000/team/web@sha256:…
    #[arg(long)]
    image: String,
    /// Name of the app: letters a-z, digits and '-'
    #[arg(long)]
    name: AppName,
    /// DNS name of the app's service; may be repeated
    #[arg(long, value_name = "DNS-NAME")]
    service: Vec<String>,
    /// How many instances; when the app exists, what it has
    #[arg(long)]
    replicas: Option<u32>,
    /// Port: 80, or published on the node: 8080:80, 5353:53/udp; may be repeated
    #[arg(long, short, value_name = "[PUBLISHED:]PORT[/udp]")]
    port: Vec<PortSpec>,
    /// Environment variable; without a value, the one of this shell; may be repeated
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// File with a NAME=VALUE on each line
    #[arg(long, value_name = "PATH")]
    env_file: Vec<PathBuf>,
    /// Limit of CPUs: 500m, 0.5 or 2
    #[arg(long)]
    cpu: Option<MilliCpu>,
    /// Limit of memory: 64Mi, 1Gi
    #[arg(long)]
    memory: Option<Bytes>,
    /// Limit of processes and threads
    #[arg(long)]
    pids: Option<u32>,
    /// User, or user:group, by name or number
    #[arg(long)]
    user: Option<String>,
    /// Working directory
    #[arg(long)]
    workdir: Option<String>,
    /// Replaces the image's entrypoint; the words after -- are its arguments
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// When to start a process again that has ended
    #[arg(long, value_enum, default_value_t = Restart::Always)]
    restart: Restart,
    /// When to fetch the image
    #[arg(long, value_enum, default_value_t = Pull::IfMissing)]
    pull: Pull,
    /// Ready when GET answers with 200 to 399: PORT/PATH, e.g. 80/healthz
    #[arg(long, value_name = "PORT/PATH", group = "health")]
    health_http: Option<String>,
    /// Ready when the port accepts a connection
    #[arg(long, value_name = "PORT", group = "health")]
    health_tcp: Option<u16>,
    /// Ready when this shell command ends with 0
    #[arg(long, value_name = "COMMAND", group = "health")]
    health_exec: Option<String>,
    /// From one check to the next
    #[arg(long, value_parser = duration, value_name = "TIME", requires = "health")]
    health_interval: Option<Duration>,
    /// How long a check may take
    #[arg(long, value_parser = duration, value_name = "TIME", requires = "health")]
    health_timeout: Option<Duration>,
    /// Failures in a row until the process is started again
    #[arg(long, requires = "health")]
    health_retries: Option<u32>,
    /// Time after the start during which failures do not count
    #[arg(long, value_parser = duration, value_name = "TIME", requires = "health")]
    health_start_period: Option<Duration>,
    /// First signal of a stop; the image's by default
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Seconds from the first signal to SIGKILL
    #[arg(long, value_name = "SECONDS")]
    stop_grace: Option<u32>,
    /// Label; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    #[command(flatten)]
    waiting: Waiting,
    /// Arguments instead of the image's
    #[arg(last = true)]
    args: Vec<String>,
}

/// `90s`, `5m`, `1h`, `500ms`, or seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "write e.g. 90s, 5m or 500ms".to_owned())?;
    let factor = match unit {
        "ms" => return Ok(Duration::from_millis(number)),
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err("the unit is ms, s, m or h".into()),
    };
    number.checked_mul(factor).map(Duration::from_secs).ok_or_else(|| "is too long".into())
}

/// `web=3`.
pub(super) fn assignment(text: &str) -> Result<(String, u32), String> {
    let (app, number) = text.split_once('=').ok_or("write APP=NUMBER, e.g. web=3")?;
    let number = number.parse().map_err(|_| format!("{number:?} is not a number of instances"))?;
    Ok((app.to_owned(), number))
}

impl Listed for AppView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["NAME", "IMAGE", "READY", "STATE", "PORTS", "AGE"], &["SERVICES", "GENERATION"]);

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self) -> Vec<String> {
        let ports: Vec<_> = self.spec.ports.iter().map(ToString::to_string).collect();
        vec![
            self.name.clone(),
            self.spec.image.clone(),
            format!("{}/{}", self.status.ready, self.status.desired),
            self.state.to_string(),
            ports.join(" "),
            age(self.created_at),
            self.spec.services.join(" "),
            self.generation.to_string(),
        ]
    }
}

pub(super) async fn run(context: &Context, command: AppCommand) -> Result<(), Problem> {
    match command {
        AppCommand::Deploy(args) => deploy(context, *args).await,
        AppCommand::Ls => {
            let apps: Vec<AppView> = context.client.get(&context.path("apps")).await?;
            context
                .output
                .list(&apps, "no apps yet; try: hivemind app deploy --image nginx:latest --name web --port 8080:80")
        }
        AppCommand::Info(named) => info(context, named.get()?).await,
        AppCommand::Scale(args) => {
            let name = args.app.get()?;
            scale(context, name.as_str(), args.replicas).await?;
            finish(context, name.as_str(), &args.waiting).await
        }
        AppCommand::Rm(args) => remove(context, &args).await,
        AppCommand::Restart(args) => {
            let name = args.app.get()?;
            let path = context.path(&format!("apps/{name}/restart"));
            let _: WrittenView = context.client.call(Method::POST, &path).await?;
            context.output.say(&format!("{name} is being restarted"));
            finish(context, name.as_str(), &args.waiting).await
        }
    }
}

pub(super) async fn scale_many(context: &Context, apps: &[(String, u32)]) -> Result<(), Problem> {
    for (app, replicas) in apps {
        let _: AppName = app.parse().map_err(|e| Problem::new(ErrorCode::Invalid, format!("{e}")))?;
        scale(context, app, *replicas).await?;
    }
    Ok(())
}

async fn scale(context: &Context, app: &str, replicas: u32) -> Result<(), Problem> {
    let path = context.path(&format!("apps/{app}/scale"));
    let _: WrittenView = context.client.send(Method::POST, &path, &Scale { replicas }).await?;
    context.output.say(&format!("{app} is being scaled to {replicas}"));
    Ok(())
}

async fn finish(context: &Context, app: &str, waiting: &Waiting) -> Result<(), Problem> {
    if waiting.wait { wait::until_ready(context, app, waiting.timeout).await } else { Ok(()) }
}

async fn remove(context: &Context, args: &RmArgs) -> Result<(), Problem> {
    let name = args.app.get()?;
    let path = context.path(&format!("apps/{name}"));
    let _: WrittenView = context.client.call(Method::DELETE, &path).await?;
    context.output.say(&format!("{name} is being removed"));
    if args.wait { wait::until_gone(context, name.as_str(), args.timeout).await } else { Ok(()) }
}

async fn info(context: &Context, name: &AppName) -> Result<(), Problem> {
    let app: AppView = context.client.get(&context.path(&format!("apps/{name}"))).await?;
    let instances: Vec<InstanceView> = context.client.get(&context.path("instances")).await?;
    let instances: Vec<_> = instances.into_iter().filter(|instance| instance.app == app.name).collect();
    match context.output.format {
        Format::Name => println!("{}", app.name),
        Format::Json | Format::Yaml => {
            let mut document = serde_json::to_value(&app).unwrap_or_default();
            document["instances"] = serde_json::to_value(&instances).unwrap_or_default();
            return context.output.document(&document);
        }
        Format::Table | Format::Wide => {
            let ports: Vec<_> = app.spec.ports.iter().map(ToString::to_string).collect();
            let line = |title: &str, text: String| {
                if !text.is_empty() {
                    println!("{title:<12}{text}");
                }
            };
            line("Name", app.name.clone());
            line("Scope", format!("{}/{}", app.tenant, app.namespace));
            line("Image", app.spec.image.clone());
            line("State", format!("{} ({} of {} ready)", app.state, app.status.ready, app.status.desired));
            line("Services", app.spec.services.join(" "));
            line("Ports", ports.join(" "));
            line("Generation", app.generation.to_string());
            line("Age", age(app.created_at));
            println!();
            context.output.list(&instances, "no instances")?;
        }
    }
    Ok(())
}

async fn deploy(context: &Context, args: DeployArgs) -> Result<(), Problem> {
    let name = args.name.clone();
    let path = context.path(&format!("apps/{name}"));
    let replicas = match args.replicas {
        Some(replicas) => replicas,
        None => match context.client.get::<AppView>(&path).await {
            Ok(app) => app.spec.replicas,
            Err(problem) if problem.code == ErrorCode::NotFound => 1,
            Err(problem) => return Err(problem),
        },
    };
    let waiting = Waiting { wait: args.waiting.wait, timeout: args.waiting.timeout };
    let spec = args.spec(replicas)?;
    let written: WrittenView = context.client.send(Method::PUT, &path, &spec).await?;
    let what = if written.created { "is being created" } else { "is as asked for, or is being changed" };
    context.output.say(&format!("{name} {what} (revision {})", written.revision));
    if context.output.format == Format::Name {
        println!("{name}");
    }
    finish(context, name.as_str(), &waiting).await
}

impl DeployArgs {
    fn spec(self, replicas: u32) -> Result<AppSpec, Problem> {
        let mut faults = Vec::new();
        let mut spec = AppSpec::new(self.image.clone());
        spec.env = environment(&self.env, &self.env_file, &mut faults);
        spec.labels = pairs(&self.label, &mut faults);
        let check = health(self.health_http.as_deref(), self.health_tcp, self.health_exec.as_deref(), &mut faults);
        spec.health = check.map(|check| {
            let mut health = HealthSpec::new(check);
            let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
            let set = |field: &mut u32, time: Option<Duration>| *field = time.map_or(*field, millis);
            set(&mut health.interval_ms, self.health_interval);
            set(&mut health.timeout_ms, self.health_timeout);
            set(&mut health.start_period_ms, self.health_start_period);
            health.unhealthy_after = self.health_retries.unwrap_or(health.unhealthy_after);
            health
        });
        if !faults.is_empty() {
            let title = format!("{} cannot be deployed", self.name);
            return Err(Problem { code: ErrorCode::Invalid, title, details: faults, hint: None });
        }
        spec.replicas = replicas;
        spec.command = self.entrypoint.map(|program| vec![program]);
        spec.args = (!self.args.is_empty()).then_some(self.args);
        spec.user = self.user;
        spec.workdir = self.workdir;
        spec.resources.cpu = self.cpu;
        spec.resources.memory = self.memory;
        spec.resources.pids = self.pids;
        spec.ports = self.port;
        spec.services = self.service;
        spec.restart = match self.restart {
            Restart::Always => RestartPolicy::Always,
            Restart::OnFailure => RestartPolicy::OnFailure,
            Restart::Never => RestartPolicy::Never,
        };
        spec.pull = match self.pull {
            Pull::IfMissing => PullPolicy::IfMissing,
            Pull::Always => PullPolicy::Always,
            Pull::Never => PullPolicy::Never,
        };
        spec.stop.signal = self.stop_signal;
        spec.stop.grace_seconds = self.stop_grace.unwrap_or(spec.stop.grace_seconds);
        Ok(spec)
    }
}

fn health(http: Option<&str>, tcp: Option<u16>, exec: Option<&str>, faults: &mut Vec<String>) -> Option<Check> {
    if let Some(text) = http {
        let (port, path) = text.split_once('/').unwrap_or((text, ""));
        return match port.parse() {
            Ok(port) => Some(Check::Http { port, path: format!("/{path}") }),
            Err(_) => {
                faults.push(format!("--health-http {text:?}: write PORT/PATH, e.g. 80/healthz"));
                None
            }
        };
    }
    let shell = |command: &str| Check::Exec { command: ["/bin/sh", "-c", command].map(str::to_owned).to_vec() };
    tcp.map(|port| Check::Tcp { port }).or_else(|| exec.map(shell))
}

/// The files' variables first, so that flags win.
fn environment(flags: &[String], files: &[PathBuf], faults: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for file in files {
        match std::fs::read_to_string(file) {
            Ok(text) => {
                for (number, line) in text.lines().enumerate().map(|(i, line)| (i + 1, line.trim())) {
                    match line.split_once('=') {
                        _ if line.is_empty() || line.starts_with('#') => {}
                        Some((name, value)) => {
                            all.insert(name.trim().to_owned(), value.to_owned());
                        }
                        None => faults.push(format!("--env-file {}, line {number}: write NAME=VALUE", file.display())),
                    }
                }
            }
            Err(error) => faults.push(format!("--env-file {}: {error}", file.display())),
        }
    }
    for flag in flags {
        match flag.split_once('=') {
            Some((name, value)) => {
                all.insert(name.to_owned(), value.to_owned());
            }
            None => match std::env::var(flag) {
                Ok(value) => {
                    all.insert(flag.clone(), value);
                }
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
            Some((name, value)) if !name.is_empty() => {
                all.insert(name.to_owned(), value.to_owned());
            }
            _ => faults.push(format!("--label {flag:?}: write NAME=VALUE")),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [("90s", 90_000), ("5m", 300_000), ("500ms", 500), ("2", 2_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1s", "1d", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn health_flags() {
        let mut faults = Vec::new();
        let http = health(Some("80/healthz"), None, None, &mut faults);
        assert_eq!(http, Some(Check::Http { port: 80, path: "/healthz".into() }));
        assert_eq!(health(None, Some(5432), None, &mut faults), Some(Check::Tcp { port: 5432 }));
        assert!(faults.is_empty());
        assert_eq!((health(Some("x"), None, None, &mut faults), faults.len()), (None, 1));
    }
}
