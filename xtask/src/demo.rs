//! `cargo xtask demo`: hivemind at work on a machine of its own inside this one, each command with what it really said.
//! With `--check` it is a test: every statement that the demo makes is checked, and the first that does not hold ends it.

use std::{collections::BTreeSet, fs, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use xtask::{
    daemon::{self, Said},
    image,
    machine::Machine,
    sandbox, shell,
    wait::{self, Stopwatch},
};

use crate::{build, forward, interrupt::Interrupt};

/// The sandbox's name. Two demos at once would also fight for the ports.
const NAME: &str = "demo";
/// The port of the demo's web server, inside and on this machine's loopback.
const PORT: u16 = 8080;
/// Another one, for the user's own app.
const SPARE_PORT: u16 = 8081;
/// How often all instances of an app are asked for by its name. With five instances chosen at random, one is missed by
/// 200 questions once in 10^19 runs.
const QUESTIONS: usize = 200;

/// Runs the demo.
pub(crate) fn run(check: bool) -> Result<()> {
    let whole = Stopwatch::start();
    preconditions()?;
    build::run(false)?;
    println!(
        "\nEverything happens on a machine of its own inside this one: a network namespace without a way out, its own\n\
         containerd and its own registry. Nothing of this machine is changed; Ctrl-C ends and removes it all."
    );
    let step = Step::begin("A machine: containerd, a registry, and the hivemind daemon");
    let mut machine = Machine::prepare(NAME, &[])?;
    let interrupt = Interrupt::watch(machine.sandbox.cgroup())?;
    let result = machine.daemon.start(&machine.sandbox).and_then(|()| {
        println!(
            "hivemind is ready (pid {}, log in {}/log)",
            machine.daemon.pid().unwrap_or(0),
            machine.daemon.dir().display()
        );
        step.end();
        let mut demo = Demo { machine: &machine, check, pushable: false };
        demo.steps()?;
        if !check {
            demo.next_steps();
            interrupt.wait();
        }
        Ok(())
    });
    let stopped = interrupt.came();
    let log = if result.is_err() && !stopped { keep_log(&machine) } else { String::new() };
    if stopped {
        println!("\nStopping.");
    }
    let step = Step::begin("The end: nothing is left");
    machine.close()?;
    sandbox::gone(NAME)?;
    println!("no process, container, network namespace, mount, cgroup, pin or file of the demo is left");
    step.end();
    match result {
        Err(error) if !stopped => Err(error.context(format!("the demo failed{log}"))),
        _ => {
            println!("\nThe demo took {:.0} s.", whole.elapsed().as_secs_f64());
            Ok(())
        }
    }
}

/// Saves the daemon's log, which would go with the sandbox; returns where to find it.
fn keep_log(machine: &Machine) -> String {
    let kept = shell::cache("demo-daemon.log");
    match fs::write(&kept, machine.daemon.log()) {
        Ok(()) => format!("; the daemon's log is in {}", kept.display()),
        Err(_) => String::new(),
    }
}

/// A titled part that says how long it took.
struct Step(Stopwatch);

impl Step {
    fn begin(title: &str) -> Self {
        println!("\n== {title}");
        Self(Stopwatch::start())
    }

    fn end(self) {
        println!("({:.1} s)", self.0.elapsed().as_secs_f64());
    }
}

struct Demo<'a> {
    machine: &'a Machine,
    check: bool,
    /// Whether the registry is reached from this machine.
    pushable: bool,
}

impl Demo<'_> {
    fn steps(&mut self) -> Result<()> {
        let image = self.images()?;
        let step = Step::begin("Three instances of a web server, under a name and on a port");
        let port = format!("{PORT}:80");
        self.show(&[
            "app",
            "deploy",
            "--image",
            &image,
            "--name",
            "web-app",
            "--service",
            "web.local",
            "--replicas",
            "3",
            "--port",
            &port,
            "--wait",
        ])?;
        self.show(&["ps"])?;
        let first = self.ready("web-app", 3)?;
        step.end();

        let step = Step::begin("Another container asks for it by name: all instances answer, on IPv4 and on IPv6");
        self.show(&[
            "app",
            "deploy",
            "--image",
            &image,
            "--name",
            "client",
            "--entrypoint",
            "sleep",
            "--wait",
            "--",
            "infinity",
        ])?;
        for family in ["4", "6"] {
            self.ask(family, &first)?;
        }
        step.end();

        let step = Step::begin("This machine reaches the published port");
        for port in [PORT, SPARE_PORT] {
            forward::start(&self.machine.sandbox, port)?;
        }
        self.pushable = !self.check && forward::start(&self.machine.sandbox, self.machine.registry.port()).is_ok();
        self.browse(&first)?;
        step.end();

        let step = Step::begin("Five instances");
        self.show(&["app", "scale", "--name", "web-app", "--replicas", "5", "--wait"])?;
        self.show(&["ps", "web-app"])?;
        let all = self.ready("web-app", 5)?;
        ensure!(first.is_subset(&all), "scaling replaced instances: before {first:?}, now {all:?}");
        self.ask("4", &all)?;
        step.end();

        let step = Step::begin("Its logs, a command inside, and the service's counters");
        let logs = self.show(&["logs", "web-app", "--tail", "2"])?;
        ensure!(logs.contains("url:/"), "no request is in the logs");
        let inside = self.show(&["exec", "web-app", "--", "sh", "-c", "echo $(hostname): $(busybox | head -1)"])?;
        ensure!(inside.contains("BusyBox"), "the command inside said something else");
        self.counters()?;
        step.end();

        if self.check {
            let step = Step::begin("Removed");
            self.show(&["app", "rm", "web-app", "--wait"])?;
            self.show(&["app", "rm", "client", "--wait"])?;
            self.ready("web-app", 0)?;
            let kept: Vec<_> = self
                .machine
                .containerd
                .keeps()?
                .into_iter()
                .filter(|kept| !kept.starts_with("snapshot sha256:"))
                .collect();
            ensure!(kept.is_empty(), "containerd still keeps {}", kept.join(", "));
            step.end();
        }
        Ok(())
    }

    /// Builds and pushes the images; returns the web server's name.
    fn images(&self) -> Result<String> {
        let step = Step::begin("Images, built from Debian's packages and pushed to the registry");
        let web = image::web()?;
        let name = self.machine.push(&web, "web", "1")?;
        println!("{name}: busybox httpd, {:.1} MB", web.size() as f64 / 1e6);
        if !self.check {
            let nginx = image::nginx()?;
            let name = self.machine.push(&nginx, "nginx", "latest")?;
            println!("{name}: nginx, {:.1} MB", nginx.size() as f64 / 1e6);
        }
        step.end();
        Ok(name)
    }

    /// Runs a command before the user's eyes; it must end well. Returns its output.
    fn show(&self, args: &[&str]) -> Result<String> {
        println!("$ {}", daemon::shown(args));
        let mut command = self.machine.daemon.command(&self.machine.sandbox, args);
        // Progress is shown as it comes.
        command.stderr(Stdio::inherit());
        let said =
            Said { err: String::new(), ..daemon::finish(command, &daemon::shown(args), Duration::from_secs(300))? };
        print!("{}", said.out);
        ensure!(said.code == 0, "{} ended with exit code {}", said.command, said.code);
        Ok(said.out)
    }

    /// The names of an app's instances, which must be that many, all ready.
    fn ready(&self, app: &str, count: usize) -> Result<BTreeSet<String>> {
        let listed = self.machine.hivemind(&["ps", "-o", "json"])?.json()?;
        let instances = listed.as_array().context("ps -o json gives no list")?;
        let names = instances.iter().filter(|instance| instance["app"] == app).map(|instance| {
            ensure!(instance["phase"] == "ready", "{} is {}", instance["name"], instance["phase"]);
            Ok(instance["name"].as_str().context("an instance has no name")?.to_owned())
        });
        let names = names.collect::<Result<BTreeSet<_>>>()?;
        ensure!(names.len() == count, "{count} instances were asked for, there are {names:?}");
        Ok(names)
    }

    /// Asks for the page by the service's name from the client's container until all of `instances` have answered.
    fn ask(&self, family: &str, instances: &BTreeSet<String>) -> Result<()> {
        let times = QUESTIONS.to_string();
        let args = ["exec", "client", "--", "ask", family, "http://web.local/", &times];
        println!("$ {}   # IPv{family}, {times} times", daemon::shown(&args));
        let said = self.machine.hivemind(&args)?.ok()?;
        let mut answers = std::collections::BTreeMap::<&str, usize>::new();
        for line in said.lines() {
            *answers.entry(line).or_default() += 1;
        }
        for (answer, count) in &answers {
            println!("{count:>4} x {answer}");
        }
        let expected: BTreeSet<String> = instances.iter().map(|name| format!("Hello from {name}")).collect();
        let seen: BTreeSet<String> = answers.keys().map(|answer| (*answer).to_owned()).collect();
        ensure!(seen == expected, "IPv{family}: the answers should have come from {instances:?}");
        ensure!(answers.values().sum::<usize>() == QUESTIONS, "IPv{family}: not every question was answered");
        Ok(())
    }

    /// Gets the page from this machine's loopback.
    fn browse(&self, instances: &BTreeSet<String>) -> Result<()> {
        for host in ["localhost", "127.0.0.1", "[::1]"] {
            let url = format!("http://{host}:{PORT}/");
            println!("$ curl {url}");
            let page = wait::until(&url, Duration::from_secs(10), || {
                Ok(ureq::get(&url).call()?.body_mut().read_to_string()?)
            })?;
            print!("{page}");
            let from = page.trim().strip_prefix("Hello from ").unwrap_or_default();
            ensure!(instances.contains(from), "the page is from none of {instances:?}");
        }
        Ok(())
    }

    /// Shows the counters, which must have seen the questions.
    fn counters(&self) -> Result<()> {
        self.show(&["service", "info", "web.local"])?;
        let info = self.machine.hivemind(&["service", "info", "web.local", "-o", "json"])?.json()?;
        for counter in ["packets_in", "packets_out", "bytes_in", "bytes_out"] {
            let seen = info["traffic"][counter].as_u64().unwrap_or(0);
            // A question and its answer take several packets each; the counters may lag by one reading.
            ensure!(seen > QUESTIONS as u64, "{counter} is {seen} after {} questions", 3 * QUESTIONS);
        }
        Ok(())
    }

    /// What the user can do now.
    fn next_steps(&self) {
        let daemon = &self.machine.daemon;
        let dir = daemon.program().parent().unwrap_or(daemon.program());
        println!(
            "\nhivemind is running. In a browser: http://localhost:{PORT}/\n\
             In another terminal, as root:\n\n  \
             export HIVEMIND_SOCKET={}\n  \
             export PATH={}:$PATH\n\n  \
             hivemind ps\n  \
             hivemind logs -f web-app\n  \
             hivemind exec -it client -- sh\n  \
             hivemind app deploy --image {}/nginx:latest --name site --service site.local --port {SPARE_PORT}:80 --wait\n  \
             curl http://localhost:{SPARE_PORT}/\n  \
             hivemind app scale --name web-app --replicas 10 --wait\n  \
             hivemind service ls -o wide\n  \
             hivemind events\n  \
             hivemind --help\n\n\
             This machine's ports {PORT} and {SPARE_PORT} lead to the same ports in there; others do not.{}\n\
             Ctrl-C here stops it all and leaves nothing behind.",
            daemon.socket().display(),
            dir.display(),
            self.machine.registry.host(),
            if self.pushable {
                let host = self.machine.registry.host();
                format!(
                    "\nAn image of your own: skopeo copy --dest-tls-verify=false docker-daemon:own:1 docker://{host}/own:1"
                )
            } else {
                String::new()
            },
        );
    }
}

/// What the demo cannot do without; said before the long build.
fn preconditions() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "the demo makes namespaces and loads eBPF programs: run it as root, e.g. with 'sudo -E env PATH=$PATH cargo xtask demo'"
        );
    }
    for port in [PORT, SPARE_PORT] {
        forward::ensure_free(port)?;
    }
    Ok(())
}
