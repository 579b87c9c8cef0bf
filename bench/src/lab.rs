//! A small node in network namespaces: the node's, a client's and a server's, connected by routed veths as
//! `docs/ARCHITECTURE.md` has them. There is no way out of it.

use std::{
    env,
    fs::File,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use serde::de::DeserializeOwned;

use crate::{child::Role, supervisor::Run};

/// The node's address, the gateway of the containers.
pub(crate) const GATEWAY: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 88, 0, 1), Ipv6Addr::new(0xfd68, 0x6d00, 0, 1, 0, 0, 0, 1));
/// The client's addresses.
pub(crate) const CLIENT: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 88, 0, 2), Ipv6Addr::new(0xfd68, 0x6d00, 0, 1, 0, 0, 0, 2));
/// The server's addresses.
pub(crate) const SERVER: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 88, 0, 3), Ipv6Addr::new(0xfd68, 0x6d00, 0, 1, 0, 0, 0, 3));

/// The node's ends of the veths.
pub(crate) const HOST_ENDS: [&str; 2] = ["hmclient", "hmserver"];
/// Ethernet addresses: the node's end and the container's, of client and server.
pub(crate) const MACS: [[[u8; 6]; 2]; 2] =
    [[[2, 0x68, 0, 0, 0, 1], [2, 0x68, 0, 0, 1, 1]], [[2, 0x68, 0, 0, 0, 2], [2, 0x68, 0, 0, 1, 2]]];

/// A network namespace that was made for a run, which also removes it.
#[derive(Clone, Debug)]
pub(crate) struct Netns {
    name: String,
}

/// The three namespaces, connected.
#[derive(Debug)]
pub(crate) struct Lab {
    /// Where the rules, routes and programs are.
    pub(crate) node: Netns,
    /// The container that asks.
    pub(crate) client: Netns,
    /// The container that answers.
    pub(crate) server: Netns,
}

impl Netns {
    /// Makes an empty one with its loopback up.
    pub(crate) fn new(run: &Run, tag: &str) -> Result<Self> {
        let namespace = Self { name: format!("{}-{tag}", run.name()) };
        namespace.make()?;
        Ok(namespace)
    }

    fn make(&self) -> Result<()> {
        check(Command::new("ip").args(["netns", "add", &self.name]))?;
        self.ip("link set lo up\n")
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Runs `what` on a thread of its own inside: sockets it opens and processes it starts stay there.
    pub(crate) fn enter<T: Send>(&self, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                join(&self.path())?;
                what()
            });
            inside.join().map_err(|_| anyhow!("the thread in {} ended in a panic", self.name))?
        })
    }

    /// Runs a command inside, which must succeed, with `input`.
    pub(crate) fn run(&self, command: &str, args: &[&str], input: &str) -> Result<()> {
        self.enter(|| feed(Command::new(command).args(args), input))
    }

    /// Runs a batch of `ip` commands inside.
    pub(crate) fn ip(&self, batch: &str) -> Result<()> {
        self.run("ip", &["-batch", "-"], batch)
    }

    /// Sets a `net.` variable inside; `key` with slashes, without `net/`.
    fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(key);
        self.enter(|| std::fs::write(&path, value).with_context(|| format!("cannot set {}", path.display())))
    }
}

impl Lab {
    /// The one of this tag, which is there.
    pub(crate) fn there(run: &Run, tag: &str) -> Self {
        let [node, client, server] =
            ["n", "c", "s"].map(|which| Netns { name: format!("{}-{tag}-{which}", run.name()) });
        Self { node, client, server }
    }

    /// Makes the namespaces and connects them.
    pub(crate) fn new(run: &Run, tag: &str) -> Result<Self> {
        let lab = Self::there(run, tag);
        for namespace in [&lab.node, &lab.client, &lab.server] {
            namespace.make()?;
        }
        lab.node.sysctl("ipv4/ip_forward", "1")?;
        lab.node.sysctl("ipv6/conf/all/forwarding", "1")?;
        let (v4, v6) = GATEWAY;
        lab.node.ip(&format!(
            "addr add {v4}/32 dev lo\naddr add {v6}/128 dev lo nodad\n\
             route add unreachable 10.88.0.0/16 metric 4278198272\nroute add unreachable 10.96.0.0/16\n\
             route add unreachable fd68:6d00:0:1::/64 metric 4278198272\nroute add unreachable fd68:6d00:0:2::/112\n"
        ))?;
        for (i, (container, address)) in [(&lab.client, CLIENT), (&lab.server, SERVER)].into_iter().enumerate() {
            lab.connect(container, address, HOST_ENDS[i], MACS[i])?;
        }
        Ok(lab)
    }

    /// The interface indices of the node's ends, the client's and the server's.
    pub(crate) fn host_ends(&self) -> Result<[u32; 2]> {
        self.node.enter(|| {
            let [client, server] = HOST_ENDS.map(nix::net::if_::if_nametoindex);
            Ok([client?, server?])
        })
    }

    /// Connects client and server by a veth without the node; the server's addresses on it.
    pub(crate) fn pair(&self) -> Result<(Ipv4Addr, Ipv6Addr)> {
        self.client.ip(&format!(
            "link add pair type veth peer name pair netns {}\nlink set pair up\n\
             addr add 192.0.2.1/30 dev pair\naddr add 2001:db8::1/126 dev pair nodad\n",
            self.server.name
        ))?;
        self.server
            .ip("link set pair up\naddr add 192.0.2.2/30 dev pair\naddr add 2001:db8::2/126 dev pair nodad\n")?;
        Ok((Ipv4Addr::new(192, 0, 2, 2), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)))
    }

    fn connect(&self, container: &Netns, (v4, v6): (Ipv4Addr, Ipv6Addr), host: &str, macs: [[u8; 6]; 2]) -> Result<()> {
        let [host_mac, own_mac] = macs.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
        let (gateway4, gateway6) = GATEWAY;
        self.node.ip(&format!(
            "link add {host} address {host_mac} type veth peer name eth0 address {own_mac} netns {}\n\
             link set {host} addrgenmode none\nlink set {host} up\n\
             route add {v4}/32 dev {host}\nroute add {v6}/128 dev {host}\n\
             neigh replace {v4} lladdr {own_mac} dev {host} nud permanent\n\
             neigh replace {v6} lladdr {own_mac} dev {host} nud permanent\n",
            container.name
        ))?;
        container.ip(&format!(
            "link set eth0 addrgenmode none\nlink set eth0 up\n\
             addr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\n\
             neigh replace {gateway4} lladdr {host_mac} dev eth0 nud permanent\n\
             neigh replace {gateway6} lladdr {host_mac} dev eth0 nud permanent\n\
             route add default via {gateway4} dev eth0 onlink\n\
             route add ::/0 via {gateway6} dev eth0 onlink\n"
        ))
    }
}

/// How a measuring process runs: where, and on which CPU.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its network namespace.
    pub(crate) netns: PathBuf,
    /// Its cgroup, if it is to have one of its own.
    pub(crate) cgroup: Option<PathBuf>,
    /// The CPU it is bound to.
    pub(crate) cpu: Option<usize>,
}

/// A server, until it is dropped.
#[derive(Debug)]
pub(crate) struct Server(Child);

impl Place {
    fn command(&self, role: &Role) -> Result<Command> {
        // Before all else that runs on the machine: a compiler beside it changes the figures less.
        let mut command = Command::new("nice");
        command.args(["-n", "-20"]).arg(env::current_exe()?).arg("child").arg("--netns").arg(&self.netns);
        if let Some(cgroup) = &self.cgroup {
            command.arg("--cgroup").arg(cgroup);
        }
        if let Some(cpu) = self.cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        command.arg("--role").arg(serde_json::to_string(role)?).stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(command)
    }

    /// Starts a server here and waits until it is ready.
    pub(crate) fn serve(&self, role: &Role) -> Result<Server> {
        let mut server = Server(self.command(role)?.spawn().context("cannot start the server")?);
        let mut line = String::new();
        let out = server.0.stdout.take().context("the server has no output")?;
        BufReader::new(out).read_line(&mut line)?;
        anyhow::ensure!(line == "ready\n", "the server did not start");
        Ok(server)
    }

    /// Runs a client here to its end.
    pub(crate) fn ask<T: DeserializeOwned>(&self, role: &Role) -> Result<T> {
        self.start(role)?.finish()
    }

    /// Starts a client here.
    pub(crate) fn start(&self, role: &Role) -> Result<Client> {
        let mut child = self.command(role)?.spawn().context("cannot start the client")?;
        let out = child.stdout.take().context("the client has no output")?;
        Ok(Client { child, out: BufReader::new(out) })
    }
}

/// A client that runs.
#[derive(Debug)]
pub(crate) struct Client {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Client {
    /// Waits for a line of it, before its answer.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Waits for its answer.
    pub(crate) fn finish<T: DeserializeOwned>(mut self) -> Result<T> {
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        let status = self.child.wait()?;
        anyhow::ensure!(status.success(), "the client failed ({status})");
        serde_json::from_str(&line).context("the client's answer is not what it should be")
    }
}

impl Client {
    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; nothing else can be done about it, and the run's end kills the rest.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Moves the calling thread into a network namespace.
pub(crate) fn join(netns: &Path) -> Result<()> {
    let file = File::open(netns).with_context(|| format!("cannot open {}", netns.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {}", netns.display()))
}

/// Runs a command that must succeed.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    feed(command, "")
}

/// Runs a command that must succeed, with `input`.
pub(crate) fn feed(command: &mut Command, input: &str) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name} (hint: cargo xtask setup)"))?;
    // A command that ends without reading closes the pipe; its status tells more than the broken pipe.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said: Vec<&str> = said.lines().take(5).collect();
        anyhow::bail!("{command:?} failed ({}): {}", output.status, said.join("; "));
    }
    written.with_context(|| format!("cannot write to {name}"))
}

/// The address of one family.
pub(crate) fn pick((v4, v6): (Ipv4Addr, Ipv6Addr), ipv6: bool) -> IpAddr {
    if ipv6 { v6.into() } else { v4.into() }
}
