//! Messages lost while the daemon restarts, is killed, is replaced.
//!
//! The real daemon on a machine of its own (`xtask::machine`). Six streams run at once, over TCP and UDP, each
//! * by socket: from a container; the socket hooks choose the instance,
//! * by packet: from the same container, but from a cgroup without hooks; the device's program chooses,
//! * from outside: from another machine, through a published port.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Child,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::{image, machine::Machine};

use crate::{
    Common,
    child::Role,
    clock::{Moment, pause, wait_for},
    lab::{self, Place, Server},
    report::{Report, Target},
    stats::Series,
    stream::{Counted, Stream},
};

/// How long a daemon stays, once it is ready.
const STAY: Duration = Duration::from_millis(300);
/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// The server's port, and the one it is published under.
const PORT: u16 = 7000;
const PUBLISHED: u16 = 17_000;
/// The node's addresses on the cable to the other machine.
const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// Another machine at the end of a cable: a network namespace in the sandbox, which goes with it.
const OUTSIDE: &str = "ip netns add outside
    ip link add uplink type veth peer name eth0 netns outside
    ip address add 192.0.2.1/24 dev uplink; ip address add 2001:db8::1/64 dev uplink nodad
    ip -n outside address add 192.0.2.2/24 dev eth0; ip -n outside address add 2001:db8::2/64 dev eth0 nodad
    ip link set uplink up; ip -n outside link set eth0 up; ip -n outside link set lo up";

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Over IPv6
    #[arg(long)]
    ipv6: bool,
    /// Fail if a message is lost
    #[arg(long)]
    strict: bool,
    /// Messages of each stream per second
    #[arg(long, default_value_t = 1000)]
    rate: u64,
}

/// How a daemon ends before the next one starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It is asked to.
    Restart,
    /// It is killed.
    Kill,
    /// It is asked to, and the next one is another binary.
    Upgrade,
}

impl End {
    const fn name(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Kill => "kill -9",
            Self::Upgrade => "upgrade",
        }
    }
}

/// Measures and reports.
pub(crate) fn run(common: &Common, args: &Args) -> Result<()> {
    let messages = common.pick(1000, 10_000);
    let family = if args.ipv6 { "IPv6" } else { "IPv4" };
    let mut report = Report::new(format!("Messages lost of {messages}, {} per second and stream; {family}", args.rate));
    let mut machine = Machine::start(if args.ipv6 { "loss6" } else { "loss" }, &[])?;
    let result = measure(&mut machine, args, messages, &mut report);
    let log = machine.daemon.log();
    machine.close()?;
    result.with_context(|| {
        let last: Vec<&str> = log.lines().rev().take(20).collect();
        last.into_iter().rev().collect::<Vec<_>>().join("\n")
    })?;
    report.note("\"socket\": the client's socket calls were balanced; \"packet\": each of its packets was, with a connection table; \"outside\": through a published port, from another machine. A message counts as lost if its answer does not come back.");
    report.print(common.json)?;
    if args.strict { report.strictly() } else { Ok(()) }
}

fn measure(machine: &mut Machine, args: &Args, messages: u64, report: &mut Report) -> Result<()> {
    let web = machine.push(&image::web()?, "web", "1")?;
    let deploy = |name: &str, more: &[&str]| -> Result<()> {
        let app = ["app", "deploy", "--image", &web, "--name", name, "--entrypoint", "sleep", "--stop-grace", "0s"];
        machine.hivemind(&[&app[..], more, &["--", "1d"]].concat())?.ok().map(drop)
    };
    let [tcp, udp] = ["tcp", "udp"].map(|protocol| format!("{PUBLISHED}:{PORT}/{protocol}"));
    deploy("echo", &["--service", "echo.local", "--port", &tcp, "--port", &udp])?;
    deploy("client", &[])?;
    // Ready only when it answers, so the server is put into its namespace first.
    let [server, client] = [namespace(machine, "echo")?, namespace(machine, "client")?];
    let _server: Server = Place { netns: server, cgroup: None, cpu: None }.serve(&Role::Serve {
        request: vec![],
        bulk: PORT + 1,
        echo: PORT,
    })?;
    wait_for("the service to be Ready", PATIENCE, || {
        let info = machine.hivemind(&["app", "info", "echo", "-o", "json"])?.json()?;
        Ok((info["status"]["ready"].as_u64() == Some(1)).then_some(()))
    })?;
    let hooked = machine.sandbox.cgroup().join("streams");
    fs::create_dir(&hooked)?;
    lab::check(machine.sandbox.command("sh").args(["-ec", OUTSIDE]))?;
    let keeper = Keeper::start(machine)?;
    let family = usize::from(args.ipv6);
    let info = machine.hivemind(&["service", "info", "echo.local", "-o", "json"])?.json()?;
    let service: IpAddr = text(&info["addresses"][["v4", "v6"][family]])?.parse()?;
    let ways = [
        ("socket", Place { netns: client.clone(), cgroup: Some(hooked), cpu: None }, SocketAddr::new(service, PORT)),
        ("packet", Place { netns: client, cgroup: None, cpu: None }, SocketAddr::new(service, PORT)),
        (
            "outside",
            Place { netns: keeper.netns(), cgroup: None, cpu: None },
            SocketAddr::new(NODE[family].parse()?, PUBLISHED),
        ),
    ];
    for end in [End::Restart, End::Kill, End::Upgrade] {
        eprintln!("{}", end.name());
        disturb(machine, args, &ways, end, messages, report).with_context(|| end.name())?;
    }
    Ok(())
}

fn disturb(
    machine: &mut Machine,
    args: &Args,
    ways: &[(&str, Place, SocketAddr)],
    end: End,
    messages: u64,
    report: &mut Report,
) -> Result<()> {
    let mut streams = Vec::new();
    for (way, place, to) in ways {
        for (protocol, tcp) in [("TCP", true), ("UDP", false)] {
            let stream = Stream { to: *to, tcp, messages, rate: args.rate };
            streams.push((format!("{}: {protocol} by {way}", end.name()), place.start(&Role::Count(stream))?));
        }
    }
    let mut without = Series::default();
    while streams.iter_mut().map(|(_, client)| client.is_running()).collect::<Result<Vec<_>>>()?.contains(&true) {
        pause(STAY);
        let begin = Moment::now();
        match end {
            End::Kill => machine.daemon.kill()?,
            End::Restart | End::Upgrade => drop(machine.daemon.stop()?),
        }
        if end == End::Upgrade {
            let newer = machine.sandbox.dir().join(format!("hivemind-{}", without.0.len()));
            fs::copy(machine.daemon.program(), &newer)?;
            machine.daemon.replace_binary(&newer);
        }
        machine.daemon.start(&machine.sandbox)?;
        without.0.push(begin.elapsed().as_secs_f64());
    }
    let times = without.0.len();
    ensure!(times > 0, "the streams were over before the daemon was disturbed");
    for (name, client) in streams {
        let counted: Counted = client.finish().with_context(|| name.clone())?;
        ensure!(counted.sent == messages, "{name}: only {} messages were sent", counted.sent);
        report.figure(format!("{name}: longest silence"), "ms", &Series(vec![counted.gap]));
        report.limit(format!("{name}: lost"), "messages", &Series(vec![counted.lost as f64]), Target::AtMost(0.0));
    }
    report.figure(format!("{}: until the next daemon is ready", end.name()), "s", &without);
    report.note(format!("{}: {times} times while the streams ran", end.name()));
    Ok(())
}

/// The network namespace of an app's only instance.
pub(crate) fn namespace(machine: &Machine, app: &str) -> Result<PathBuf> {
    let pid = wait_for("the container to run", PATIENCE, || {
        let listed = machine.hivemind(&["ps", app, "-o", "json"])?.json()?;
        let Some(id) = listed[0]["id"].as_str() else { return Ok(None) };
        let tasks = machine.containerd.ctr(&["tasks", "ls"])?;
        let mut words = tasks.lines().map(str::split_whitespace);
        Ok(words.find_map(|mut words| (words.next() == Some(id)).then(|| words.next().map(str::to_owned))?))
    })?;
    Ok(Path::new("/proc").join(pid).join("ns/net"))
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("not a text: {value}"))
}

/// A process on the other machine, by which its namespace is found. It ends with the sandbox.
struct Keeper(Child);

impl Keeper {
    fn start(machine: &Machine) -> Result<Self> {
        let mut command = machine.sandbox.command("ip");
        let child = command.args(["netns", "exec", "outside", "sleep", "1d"]).spawn()?;
        let keeper = Self(child);
        let node = format!("/proc/{}/ns/net", machine.daemon.pid().context("the daemon does not run")?);
        let node = fs::read_link(node)?;
        wait_for("the other machine", PATIENCE, || Ok((fs::read_link(keeper.netns())? != node).then_some(())))?;
        Ok(keeper)
    }

    fn netns(&self) -> PathBuf {
        Path::new("/proc").join(self.0.id().to_string()).join("ns/net")
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
