//! `hivemind app deploy`: flags become the document of an app.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{
    Context,
    balance::BalanceArgs,
    container::ContainerArgs,
    difference,
    dry::Dry,
    health::HealthArgs,
    history::looking_only,
    limits::TrafficArgs,
    mounts::MountArgs,
    output::Format,
    parse::duration,
    update::{UpdateArgs, whole_seconds},
    wait::Waiting,
};
use crate::{
    api::{apps::Written, view::AppView},
    model::{AppName, Bytes, ErrorCode, InvalidName, MilliCpu, Problem, ServiceName, VolumeName},
    spec::v1::{AppSpec, LogSpec, Order, PortSpec, PullPolicy, RestartPolicy, ServiceSpec},
};

/// Shown beneath `hivemind app deploy --help`.
const EXAMPLES: &str = "\
Examples:
  hivemind app deploy --image nginx:latest --name web-app --service web.local
  hivemind app deploy --image nginx:latest --name web-app --port 8080:80 --replicas 3 --wait
  hivemind app deploy --image nginx:latest --name shop --port 8081:80 --affinity client-ip --source-range 192.0.2.0/24
  hivemind app deploy --image postgres:16 --name db --env POSTGRES_PASSWORD --memory 1Gi --health-tcp 5432 \\
    --volume data:/var/lib/postgresql/data
  hivemind app deploy --image nginx:latest --name web --limit-egress 10mbit --max-connections 500
  hivemind app deploy --image busybox --name client --entrypoint sleep -- infinity
  hivemind app deploy --image postgres:16 --name db --replicas 3 --port 5432 --headless
  hivemind app deploy --image web --name web --port 80 --more-service admin=80:9090,dns=admin.local
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
    mounts: MountArgs,
    #[command(flatten)]
    container: ContainerArgs,
    /// A container beside the app's own in each instance, as a TOML file, or JSON if its name ends so; may be repeated
    #[arg(long, value_name = "FILE")]
    sidecar: Vec<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    health: HealthArgs,
    #[command(flatten)]
    update: UpdateArgs,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Network")]
struct NetworkArgs {
    /// DNS name of the app's service, besides <app>.<namespace>.<tenant>.hivemind; may be repeated
    #[arg(long, value_name = "DNS-NAME")]
    service: Vec<String>,
    /// No virtual address: the service's names stand for the Ready instances themselves
    #[arg(long)]
    headless: bool,
    /// One more service over the instances, with ports of its own, e.g. admin=9000:9090,dns=admin.local; may be repeated
    #[arg(long, value_name = "NAME=[PORT:]TARGET[/udp][,…]", value_parser = more_service)]
    more_service: Vec<(ServiceName, ServiceSpec)>,
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
    /// How much of its log is kept: max-size=10m of a file, max-file=3 of them, max-age=7d; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    log_opt: Vec<String>,
    /// When to start a process again that has ended
    #[arg(long, value_enum, default_value_t = Restart::Always, value_name = "WHEN")]
    restart: Restart,
    /// First signal of a stop [default: the image's, or SIGTERM]
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Before the first signal: how long who is connected may finish [default: 5s]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    stop_drain: Option<Duration>,
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

pub(super) async fn run(context: &Context, args: DeployArgs) -> Result<(), Problem> {
    let (name, waiting, dry_run) = (args.name.clone(), args.waiting, args.dry_run);
    let before = find(context, &name).await?;
    let replicas = args.replicas.or(before.as_ref().map(|app| app.spec.replicas)).unwrap_or(1);
    let spec = args.spec(replicas, |text| context.output.say(&text))?;
    if let Some(volume) = shared_while_updated(&spec) {
        context.output.say(&format!(
            "note: a change of {name} starts its next instance before this one ends, both with the volume {volume}; for what \
             does not bear that, as most databases: --update-order stop-first"
        ));
    }
    if dry_run {
        let written = put(context, &name, &spec, Dry { dry_run }).await?;
        context.output.say(&format!("{name} {}; nothing was changed", effect(before.as_ref(), &written, &spec, true)));
        say_differences(context, before.as_ref(), &spec);
        return if context.output.wants_document() { context.output.document(&spec) } else { Ok(()) };
    }
    let written = put(context, &name, &spec, Dry::default()).await?;
    context.output.say(&format!("{name} {}", effect(before.as_ref(), &written, &spec, false)));
    say_differences(context, before.as_ref(), &spec);
    if !waiting.wait {
        context.output.say(&format!("see: hivemind ps {name}   (--wait waits until it is ready)"));
    }
    super::app::finish(context, &name, &waiting, Dry::default(), &written).await?;
    if context.output.format == Format::Name {
        super::output::line(name.as_str());
    }
    Ok(())
}

/// The app as it is, if there is one.
async fn find(context: &Context, name: &AppName) -> Result<Option<AppView>, Problem> {
    match context.client.get_app(&context.scope, name.as_str()).await {
        Ok(app) => Ok(Some(app)),
        Err(problem) if problem.code == ErrorCode::NotFound => Ok(None),
        Err(problem) => Err(problem),
    }
}

/// Writes the app's document, or has it checked.
pub(super) async fn put(context: &Context, name: &AppName, spec: &AppSpec, dry: Dry) -> Result<Written, Problem> {
    Ok(context.client.put_app(&context.scope, name.as_str(), spec, &dry.change()).await?.written)
}

/// The app's name, the document of these flags, and the app as it is.
pub(super) async fn compared(
    context: &Context,
    args: DeployArgs,
) -> Result<(AppName, AppSpec, Option<AppView>), Problem> {
    let of_changes = [("--wait", args.waiting.wait), ("--dry-run", args.dry_run)];
    if let Some((flag, _)) = of_changes.iter().find(|(_, set)| *set) {
        return Err(looking_only(flag));
    }
    let name = args.name.clone();
    let before = find(context, &name).await?;
    let replicas = args.replicas.or(before.as_ref().map(|app| app.spec.replicas)).unwrap_or(1);
    Ok((name, args.spec(replicas, |_| {})?, before))
}

/// The volume that the only instance of an app writes to, if its next one does so beside it.
fn shared_while_updated(spec: &AppSpec) -> Option<&VolumeName> {
    let alone = spec.replicas == 1 && spec.update.order == Order::StartFirst;
    let written = spec.mounts.iter().filter(|mount| !mount.read_only);
    written.filter_map(|mount| mount.volume()).next().filter(|_| alone)
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
    fn spec(self, replicas: u32, say: impl FnMut(String)) -> Result<AppSpec, Problem> {
        let Self { process, limits, network, .. } = self;
        let mut faults = Vec::new();
        let mut more_services = BTreeMap::new();
        for (name, service) in network.more_service {
            if more_services.insert(name.clone(), service).is_some() {
                faults.push(format!("--more-service {name} is there twice: name all of its ports at once"));
            }
        }
        let mut spec = AppSpec::new(self.image);
        spec.more_services = more_services;
        spec.env = environment(&process.env, &process.env_file, &mut faults);
        spec.labels = pairs(&self.label, &mut faults);
        spec.container = self.container.spec(&mut faults);
        spec.sidecars = super::sidecar::read(&self.sidecar, &mut faults);
        (spec.health, spec.probes) = self.health.spec(&mut faults);
        spec.mounts = self.mounts.spec(&mut faults, say);
        spec.logging = logging(&process.log_opt, &mut faults);
        (spec.secrets, spec.configs) = self.mounts.files();
        let stop = &mut spec.stop;
        stop.grace_seconds = whole_seconds("--stop-grace", process.stop_grace, stop.grace_seconds, &mut faults);
        stop.drain_seconds = whole_seconds("--stop-drain", process.stop_drain, stop.drain_seconds, &mut faults);
        spec.update = self.update.spec(&mut faults);
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
        spec.headless = network.headless;
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

/// `NAME=ITEM,…`, each item a port, `dns=NAME` or `headless`.
fn more_service(text: &str) -> Result<(ServiceName, ServiceSpec), String> {
    let (name, items) = text.split_once('=').ok_or("write NAME=PORT, e.g. admin=9000:9090")?;
    let name = name.parse().map_err(|error: InvalidName| error.to_string())?;
    let mut service = ServiceSpec::default();
    for item in items.split(',') {
        match item.split_once('=') {
            None if item == "headless" => service.headless = true,
            None => service.ports.push(item.parse()?),
            Some(("dns", dns_name)) => service.dns_names.push(dns_name.to_owned()),
            Some(_) => return Err(format!("{item:?} is neither a port, dns=NAME nor headless")),
        }
    }
    Ok((name, service))
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

/// Docker's options, and an age that is written as times are.
fn logging(flags: &[String], faults: &mut Vec<String>) -> LogSpec {
    let mut spec = LogSpec::default();
    for flag in flags {
        let set = match flag.split_once('=') {
            Some(("max-age", age)) => duration(age).and_then(|age| spec.set("max-age", &age.as_secs().to_string())),
            Some((name, value)) => spec.set(name, value),
            None => Err("write NAME=VALUE, e.g. max-size=10m".into()),
        };
        faults.extend(set.err().map(|why| format!("--log-opt {flag:?}: {why}")));
    }
    spec
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
#[path = "deploy_tests.rs"]
mod tests;
