//! `cargo xtask api-fuzz`: every operation of the API, asked in ways that nobody has thought of.
//!
//! schemathesis makes requests of the API's own description, valid ones and broken ones, and checks that each answer is one that
//! the description has. Here it gets a daemon on a machine of its own, with something on it to ask for, and the description with
//! the names of that ([`document`]). What it cannot see is looked at afterwards: the daemon's log, memory and leftovers.
//!
//! It comes from Python's package index into a folder under `target/`, in the versions of `requirements.txt`. That needs a network, so
//! this is no part of `cargo xtask test` but with `--long`; what was found is kept by tests of its own.

mod document;

use std::{
    collections::BTreeMap,
    fs,
    hash::{BuildHasher, Hasher, RandomState},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use xtask::{image, machine::Machine, shell, wait};

use crate::{build, interrupt::Interrupt, setup};

/// The sandbox's name.
const NAME: &str = "api-fuzz";
/// What pip installs, transitively.
const REQUIREMENTS: &str = include_str!("requirements.txt");
/// What schemathesis is to know of this API.
const HOOKS: &str = include_str!("hooks.py");
/// The port that the API has by default.
const ORIGIN: &str = "http://127.0.0.1:3000";
/// The counter of answers.
const REQUESTS: &str = "hivemind_api_requests_total";
/// A few addresses: no request makes more instances than these, however many it asks for.
const FLAGS: [&str; 4] = ["--instance-cidr4", "10.88.0.0/28", "--instance-cidr6", "fd68:6d00:0:1::/64"];
/// Longer than the app needs to be ready, or to be so again.
const READY: Duration = Duration::from_secs(60);
/// How much larger the daemon may be after all requests than before, in KiB: what it keeps of events, answers with keys and names is bounded,
/// and the allocator keeps some of what it had.
const GROWTH: u64 = 64 << 10;
/// How much larger it may ever be, in KiB: the largest body is 1 MiB, and requests come one after the other.
const PEAK: u64 = 256 << 10;

/// How much is tried.
struct Effort {
    /// Requests made by chance for each operation, in each mode.
    examples: u32,
    /// All of it takes no longer.
    limit: Duration,
}

const SHORT: Effort = Effort { examples: 5, limit: Duration::from_secs(10 * 60) };
const LONG: Effort = Effort { examples: 200, limit: Duration::from_secs(3 * 60 * 60) };

/// Runs it, for all operations or those whose paths match. Without a seed one is drawn; it is printed.
pub(crate) fn run(long: bool, seed: Option<u32>, path: Option<&str>) -> Result<()> {
    let effort = if long { LONG } else { SHORT };
    // The standard library's way to something random.
    let seed = seed.unwrap_or_else(|| (RandomState::new().build_hasher().finish() >> 32) as u32);
    setup::run_for_api_fuzz()?;
    // One that is named, as in the tests, is built already.
    if std::env::var_os("HIVEMIND_BINARY").is_none() {
        build::run(false)?;
    }
    let home = shell::cache("api-fuzz");
    let python = environment(&home)?;
    let mut machine = Machine::prepare(NAME, &FLAGS)?;
    let interrupt = Interrupt::watch(machine.sandbox.cgroup())?;
    let result = machine.daemon.start(&machine.sandbox).and_then(|()| {
        println!("api-fuzz: seed {seed}");
        fuzz(&machine, &home, &python, &settings(&effort, seed), effort.limit, path)
    });
    let log = home.join("daemon.log");
    fs::write(&log, machine.daemon.log())?;
    let closed = machine.close();
    if interrupt.came() {
        bail!("interrupted");
    }
    result.and(closed.context("the machine was not clean afterwards")).with_context(|| {
        let again = if long { " --long" } else { "" };
        format!("again: cargo xtask api-fuzz{again} --seed {seed}; the daemon's log is {}", log.display())
    })
}

/// Python with schemathesis, made if it is not there or is another one.
fn environment(home: &Path) -> Result<PathBuf> {
    let (venv, stamp) = (home.join("venv"), home.join("venv/requirements.txt"));
    let python = venv.join("bin/python");
    if fs::read_to_string(&stamp).is_ok_and(|there| there == REQUIREMENTS) {
        return Ok(python);
    }
    println!("api-fuzz: going to install schemathesis into {}", venv.display());
    fs::create_dir_all(home)?;
    shell::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    let wanted = home.join("requirements.txt");
    fs::write(&wanted, REQUIREMENTS)?;
    let mut pip = Command::new(&python);
    shell::run(pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--requirement"]).arg(&wanted))?;
    // Last: it says that all before is there.
    fs::rename(&wanted, &stamp)?;
    Ok(python)
}

fn fuzz(
    machine: &Machine,
    home: &Path,
    python: &Path,
    settings: &str,
    limit: Duration,
    path: Option<&str>,
) -> Result<()> {
    let image = machine.push(&image::web()?, "web", "1")?;
    furnish(machine, &image)?;
    let instances: Value = serde_json::from_str(&machine.daemon.get("/v1/instances")?)?;
    let instance = instances[0]["name"].as_str().context("the app has no instance")?;
    let mut description: Value = serde_json::from_str(&machine.daemon.get("/openapi.json")?)?;
    document::furnish(&mut description, &image, instance);
    fs::write(home.join("openapi.json"), description.to_string())?;
    fs::write(home.join("hooks.py"), HOOKS)?;
    fs::write(home.join("schemathesis.toml"), settings)?;
    let before = Memory::of(machine)?;
    let mut command = machine.sandbox.command(python);
    command.args(["-m", "schemathesis.cli"]).arg("--config-file").arg(home.join("schemathesis.toml"));
    command.arg("run").arg(home.join("openapi.json"));
    command.args(path.iter().flat_map(|path| ["--include-path-regex", path]));
    command.env("HIVEMIND_OPENAPI", home.join("openapi.json"));
    command.env("PYTHONPATH", home).env("SCHEMATHESIS_HOOKS", "hooks");
    // Not among the arguments, which everybody sees.
    command.env("HIVEMIND_TOKEN", fs::read_to_string(machine.daemon.dir().join("state/api-token"))?.trim());
    let status = within(&mut command, limit)?;
    let after = Memory::of(machine).context("the daemon has ended")?;
    let answers = Answers::read(&machine.daemon.get("/metrics")?);
    println!("api-fuzz: answers by status: {:?}; never with a success: {:?}", answers.statuses, answers.refusing());
    println!("api-fuzz: the daemon had {} KiB, has {} KiB, and had {} KiB at most", before.now, after.now, after.most);
    let mut faults = Vec::new();
    if !status.success() {
        faults.push(format!("schemathesis has found something, see above ({status})"));
    }
    faults.extend(machine.daemon.log().lines().filter(|line| line.contains("panicked at")).map(str::to_owned));
    if machine.daemon.get("/readyz").is_err() {
        faults.push("the daemon is not ready any more".into());
    }
    faults.extend(after.faults(before));
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// Something to ask for: an app with an instance, a service and a port, a volume, a secret, a config, a policy, a tenant.
fn furnish(machine: &Machine, image: &str) -> Result<()> {
    let scope = "/v1/tenants/default/namespaces/default";
    for (path, document) in document::objects(image) {
        let path = path.replace('…', scope);
        machine.daemon.put(&path, &document).with_context(|| format!("cannot make {path}"))?;
    }
    wait::until("the app to be ready", READY, || {
        let app: Value = serde_json::from_str(&machine.daemon.get(&format!("{scope}/apps/{}", document::KEPT))?)?;
        ensure!(app["state"] == "ready", "it is {}", app["state"]);
        Ok(())
    })
}

/// schemathesis's settings. The statuses that are no faults: what a registry that is not there is, and what is full.
fn settings(effort: &Effort, seed: u32) -> String {
    let examples = effort.examples;
    format!(
        r#"base-url = "{ORIGIN}"
headers = {{ Authorization = "Bearer ${{HIVEMIND_TOKEN}}" }}
seed = {seed}
request-timeout = 90
continue-on-failure = true
suppress-health-check = ["all"]
color = false
warnings = false

[generation]
mode = "all"
max-examples = {examples}
database = "none"

[cache]
enabled = false

[phases]
stateful.enabled = false
# What answers name stays: only `spare` is changed and removed.
coverage.extra-data-sources.responses = false
fuzzing.extra-data-sources.responses = false

[checks]
enabled = false
not_a_server_error = {{ enabled = true, expected-statuses = ["1XX", "2XX", "3XX", "4XX", 502, 507] }}
status_code_conformance.enabled = true
content_type_conformance.enabled = true
response_headers_conformance.enabled = true
response_schema_conformance.enabled = true
unsupported_method.enabled = true
lines_conformance.enabled = true
"#
    )
}

/// Runs a command to its end; one that takes longer is ended and an error.
fn within(command: &mut Command, limit: Duration) -> Result<ExitStatus> {
    let mut child = command.spawn().context("cannot start schemathesis")?;
    let status =
        wait::until("schemathesis to end", limit, || child.try_wait()?.ok_or_else(|| anyhow!("it still runs")));
    if status.is_err() {
        // It may have ended in between; then there is nothing to kill.
        let _ = child.kill();
        let _ = child.wait();
    }
    status
}

/// How large a process is, in KiB.
#[derive(Clone, Copy, Debug)]
struct Memory {
    now: u64,
    most: u64,
}

impl Memory {
    /// Of the daemon.
    fn of(machine: &Machine) -> Result<Self> {
        let pid = machine.daemon.pid().context("the daemon does not run")?;
        Self::read(&fs::read_to_string(format!("/proc/{pid}/status"))?)
    }

    /// Of what `/proc/<pid>/status` says (proc_pid_status(5)).
    fn read(status: &str) -> Result<Self> {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).with_context(|| format!("no {name}"))
        };
        Ok(Self { now: field("VmRSS")?, most: field("VmHWM")? })
    }

    /// What is too much, since `before`.
    fn faults(self, before: Self) -> Vec<String> {
        let growth = self.now.saturating_sub(before.now);
        let peak = self.most.saturating_sub(before.now);
        let mut faults = Vec::new();
        if growth > GROWTH {
            faults.push(format!("the daemon has grown by {growth} KiB, more than {GROWTH}"));
        }
        if peak > PEAK {
            faults.push(format!("the daemon was larger by {peak} KiB at times, more than {PEAK}"));
        }
        faults
    }
}

/// What the daemon has counted of its answers.
#[derive(Debug, Default)]
struct Answers {
    statuses: BTreeMap<String, u64>,
    /// Each route, and whether it has answered with a success.
    routes: BTreeMap<String, bool>,
}

impl Answers {
    /// Of the daemon's metrics.
    fn read(metrics: &str) -> Self {
        let mut answers = Self::default();
        for line in metrics.lines().filter_map(|line| line.strip_prefix(REQUESTS)) {
            // {route="/v1/apps",status="200"} 17
            let mut words = line.split('"').skip(1).step_by(2);
            let (Some(route), Some(status)) = (words.next(), words.next()) else { continue };
            let count = line.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0);
            *answers.statuses.entry(status.to_owned()).or_default() += count;
            *answers.routes.entry(route.to_owned()).or_default() |= status.starts_with(['1', '2']);
        }
        answers
    }

    /// The routes that have only refused.
    fn refusing(&self) -> Vec<&str> {
        self.routes.iter().filter(|(_, success)| !**success).map(|(route, _)| route.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Answers, GROWTH, Memory, PEAK, REQUIREMENTS};

    #[test]
    fn memory_is_read_and_bounded() {
        let read = Memory::read("Name:\thivemind\nVmHWM:\t  90000 kB\nVmRSS:\t   70000 kB\n").expect("a status");
        assert_eq!((read.now, read.most), (70_000, 90_000));
        assert!(Memory::read("Name:\tkthreadd\n").is_err());
        let before = Memory { now: 1000, most: 1000 };
        assert!(Memory { now: 1000 + GROWTH, most: 1000 + PEAK }.faults(before).is_empty());
        assert_eq!(Memory { now: 1001 + GROWTH, most: 1001 + PEAK }.faults(before).len(), 2);
        assert!(Memory { now: 500, most: 500 }.faults(before).is_empty());
    }

    #[test]
    fn answers_are_counted_by_status_and_by_route() {
        let metrics = "# TYPE x counter\n\
            hivemind_api_requests_total{route=\"/a/{b}\",status=\"200\"} 3\n\
            hivemind_api_requests_total{route=\"/a/{b}\",status=\"404\"} 4\n\
            hivemind_api_requests_total{route=\"/c\",status=\"404\"} 5\n";
        let answers = Answers::read(metrics);
        assert_eq!(answers.statuses, [("200".to_owned(), 3), ("404".to_owned(), 9)].into());
        assert_eq!(answers.refusing(), ["/c"]);
    }

    #[test]
    fn every_package_has_its_version() {
        let lines: Vec<_> = REQUIREMENTS.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(lines.iter().all(|line| line.contains("==")), "{lines:?}");
        assert!(lines.iter().any(|line| line.starts_with("schemathesis==")), "{lines:?}");
    }
}
