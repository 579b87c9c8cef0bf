//! The stage of measurements with the real daemon: an app that sends back what it gets, behind a service and a
//! published port; an app to ask from; another machine outside.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Child,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;
use xtask::{image, machine::Machine};

use crate::{
    child::Role,
    clock::wait_for,
    lab::{self, Place, Server},
};

/// Longer than anything takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The server's port, and the one it is published under.
pub(crate) const PORT: u16 = 7000;
pub(crate) const PUBLISHED: u16 = 17_000;
/// The node's addresses on the cable to the other machine.
pub(crate) const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// Another machine at the end of a cable: a network namespace in the sandbox, which goes with it.
const OUTSIDE: &str = "ip netns add outside
    ip link add uplink type veth peer name eth0 netns outside
    ip address add 192.0.2.1/24 dev uplink; ip address add 2001:db8::1/64 dev uplink nodad
    ip -n outside address add 192.0.2.2/24 dev eth0; ip -n outside address add 2001:db8::2/64 dev eth0 nodad
    ip link set uplink up; ip -n outside link set eth0 up; ip -n outside link set lo up";

/// The two apps, ready.
pub(crate) struct Stage {
    /// The network namespace of the app `echo`, which has the label `app=echo`.
    pub(crate) server: PathBuf,
    /// That of the app `client`, which has the label `app=client`.
    pub(crate) client: PathBuf,
    _server: Server,
}

impl Stage {
    /// Deploys both; the server runs on `cpu`, or on any.
    pub(crate) fn set(machine: &Machine, cpu: Option<usize>) -> Result<Self> {
        let web = machine.push(&image::web()?, "web", "1")?;
        let deploy = |name: &str, more: &[&str]| -> Result<()> {
            let label = format!("app={name}");
            let app = ["app", "deploy", "--image", &web, "--name", name, "--label", &label];
            let sleeps = ["--entrypoint", "sleep", "--stop-grace", "0s"];
            machine.hivemind(&[&app[..], &sleeps, more, &["--", "1d"]].concat())?.ok().map(drop)
        };
        let [tcp, udp] = ["tcp", "udp"].map(|protocol| format!("{PUBLISHED}:{PORT}/{protocol}"));
        deploy("echo", &["--service", "echo.local", "--port", &tcp, "--port", &udp])?;
        deploy("client", &[])?;
        // Ready only when it answers, so the server is put into its namespace first.
        let [server, client] = [namespace(machine, "echo")?, namespace(machine, "client")?];
        let place = Place { netns: server.clone(), cgroup: None, cpu };
        let serving = place.serve(&Role::Serve { request: vec![], bulk: PORT + 1, echo: PORT })?;
        wait_for("the service to be Ready", PATIENCE, || {
            let info = machine.hivemind(&["app", "info", "echo", "-o", "json"])?.json()?;
            Ok((info["status"]["ready"].as_u64() == Some(1)).then_some(()))
        })?;
        Ok(Self { server, client, _server: serving })
    }

    /// The service's virtual address.
    pub(crate) fn service(&self, machine: &Machine, ipv6: bool) -> Result<IpAddr> {
        let info = machine.hivemind(&["service", "info", "echo.local", "-o", "json"])?.json()?;
        Ok(text(&info["addresses"][["v4", "v6"][usize::from(ipv6)]])?.parse()?)
    }
}

/// Connects another machine.
pub(crate) fn outside(machine: &Machine) -> Result<Keeper> {
    lab::check(machine.sandbox.command("sh").args(["-ec", OUTSIDE]))?;
    Keeper::start(machine)
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
pub(crate) struct Keeper(Child);

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

    pub(crate) fn netns(&self) -> PathBuf {
        Path::new("/proc").join(self.0.id().to_string()).join("ns/net")
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
