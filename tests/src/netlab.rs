//! A node's network in namespaces: a host, and an outside that is reached by the host's one uplink. Nothing of it is in
//! the root namespace, and it leads nowhere.
//!
//! The threads of a namespace end with the test, and the namespace with them, however the test ends.

use std::{
    fs::File,
    future::Future,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use hivemind::{
    model::{Addresses, InstanceId},
    net::{InstanceLink, Net, NodeNet, linux::LinuxNet, linux::NetConfig},
};
use nix::sched::{CloneFlags, setns, unshare};

/// How long anything may take that is to happen.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// The host's addresses on its uplink.
pub const HOST: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
/// The outside's addresses.
pub const OUTSIDE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2))];
/// The host's own addresses towards its instances.
pub const GATEWAY: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 88, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfd68, 0x6d00, 0, 1, 0, 0, 0, 1))];

/// Runs a command line in the calling thread's namespaces and returns what it printed.
#[track_caller]
pub fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-ec", line]).output().expect("sh");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether the test may run; it fails, or with `HIVEMIND_ALLOW_SKIP=1` is skipped, without root.
#[must_use]
pub fn may_run() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("HIVEMIND_ALLOW_SKIP").is_some(), "this test needs root");
    // Past the test harness, which keeps what a passing test prints: `cargo xtask test` counts these lines.
    let _ = std::io::stdout().write_all(b"\nSKIPPED for want of root\n");
    false
}

/// A network namespace.
#[derive(Debug)]
pub struct Ns {
    file: File,
    /// A thread in it, by which `ip link … netns` finds it.
    pub tid: i32,
    _park: mpsc::Sender<()>,
}

impl Default for Ns {
    fn default() -> Self {
        let (park, parked) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
            let file = File::open("/proc/thread-self/ns/net").expect("own namespace");
            tell.send((file, nix::unistd::gettid().as_raw())).expect("a listener");
            // Until the sender is dropped.
            let _ = parked.recv();
        });
        let (file, tid) = told.recv().expect("a namespace");
        let ns = Self { file, tid, _park: park };
        ns.sh("ip link set lo up");
        ns
    }
}

impl Ns {
    /// The namespace that is mounted on a file.
    pub fn open(path: &Path) -> Self {
        let file = File::open(path).expect("the namespace's file");
        Self { file, tid: 0, _park: mpsc::channel().0 }
    }

    /// Runs `f` in the namespace, on a thread of its own.
    pub fn run<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        let body = || {
            setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).expect("setns");
            f()
        };
        thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a future in the namespace, on a runtime all of whose threads are in it.
    pub fn block_on<R: Send, F: Future<Output = R>>(&self, f: impl FnOnce() -> F + Send) -> R {
        self.run(|| {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime");
            runtime.block_on(f())
        })
    }

    /// Runs a command line in it.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        self.run(|| sh(line))
    }

    /// A TCP server in it that tells every client the client's address. It ends with the process.
    pub fn tells_peer(&self, port: u16) {
        let listener = self.run(|| TcpListener::bind(("::", port)).expect("a free port"));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream);
            }
        });
    }

    /// What a server of [`Ns::tells_peer`] says when asked from here.
    pub fn ask(&self, ip: IpAddr, port: u16) -> std::io::Result<IpAddr> {
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, port), DEADLINE)?;
            stream.set_read_timeout(Some(DEADLINE))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            text.parse().map_err(std::io::Error::other)
        })
    }

    /// Sends one datagram from here.
    pub fn send_udp(&self, ip: IpAddr, port: u16) -> std::io::Result<()> {
        self.run(|| {
            let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            UdpSocket::bind((any, 0))?.send_to(b"x", (ip, port)).map(|_| ())
        })
    }
}

fn serve(mut stream: TcpStream) {
    if let Ok(peer) = stream.peer_addr() {
        // A client that has gone is its own business.
        let _ = write!(stream, "{}", peer.ip().to_canonical());
    }
}

/// Polls until `what` returns something.
#[track_caller]
pub fn until<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let (tx, rx) = mpsc::channel::<()>();
    for _ in 0..DEADLINE.as_millis() / 10 {
        if let Some(found) = poll() {
            return found;
        }
        // Nobody sends: a pause.
        let _ = rx.recv_timeout(Duration::from_millis(10));
    }
    drop(tx);
    panic!("never: {what}");
}

/// A host with its outside.
#[derive(Debug)]
pub struct Lab {
    /// The node.
    pub host: Ns,
    /// What is beyond its uplink, with a default route back.
    pub outside: Ns,
    /// Where the instances' namespaces are mounted.
    pub netns_dir: PathBuf,
}

impl Lab {
    /// `name` is unique among the tests.
    pub fn new(name: &str) -> Self {
        let (host, outside) = (Ns::default(), Ns::default());
        let netns_dir = std::env::temp_dir().join(format!("hivemind-test-{}-{name}", std::process::id()));
        host.sh(&format!(
            "ip link add uplink type veth peer name eth0 netns {}
             ip addr add 192.0.2.1/24 dev uplink; ip addr add 2001:db8::1/64 dev uplink nodad
             ip link set uplink up",
            outside.tid
        ));
        outside.sh("ip addr add 192.0.2.2/24 dev eth0; ip addr add 2001:db8::2/64 dev eth0 nodad; ip link set eth0 up
             ip route add default via 192.0.2.1; ip -6 route add default via 2001:db8::1");
        host.sh("ip route add default via 192.0.2.2; ip -6 route add default via 2001:db8::2");
        Self { host, outside, netns_dir }
    }

    /// The configuration that the tests use.
    pub fn config(&self) -> NetConfig {
        NetConfig::new(&self.netns_dir)
    }

    /// Runs a future with the real network of the host.
    pub fn with_net<R: Send>(&self, f: impl AsyncFnOnce(&LinuxNet) -> R + Send) -> R {
        self.with_config(self.config(), f)
    }

    /// The same, with another configuration.
    pub fn with_config<R: Send>(&self, config: NetConfig, f: impl AsyncFnOnce(&LinuxNet) -> R + Send) -> R {
        self.host.block_on(|| async move {
            let net = LinuxNet::new(config).expect("the network");
            f(&net).await
        })
    }

    /// A node with so many instances, all up.
    pub fn with_instances(name: &str, count: u8) -> (Self, Vec<Instance>) {
        let lab = Self::new(name);
        let instances = lab.with_net(async |net| {
            net.ensure_node(&node()).await.expect("the node");
            let mut made = Vec::new();
            for n in 0..count {
                let link = link(n);
                let there = net.ensure_link(&link).await.expect("a link");
                net.bring_up(&link).await.expect("up");
                made.push(Instance { ns: Ns::open(&there.netns), addresses: link.addresses.iter().collect() });
            }
            made
        });
        (lab, instances)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The mounts are all that outlives the threads.
        let Ok(entries) = std::fs::read_dir(&self.netns_dir) else { return };
        for entry in entries.flatten() {
            let _ = nix::mount::umount2(&entry.path(), nix::mount::MntFlags::MNT_DETACH);
            let _ = std::fs::remove_file(entry.path());
        }
        while nix::mount::umount2(&self.netns_dir, nix::mount::MntFlags::MNT_DETACH).is_ok() {}
        let _ = std::fs::remove_dir_all(&self.netns_dir);
    }
}

/// An instance that is up.
#[derive(Debug)]
pub struct Instance {
    /// Its namespace.
    pub ns: Ns,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
}

/// The ranges of the tests.
pub fn node() -> NodeNet {
    NodeNet {
        instances_v4: "10.88.0.0/16".parse().ok(),
        instances_v6: "fd68:6d00:0:1::/64".parse().ok(),
        services_v4: "10.96.0.0/16".parse().ok(),
        services_v6: "fd68:6d00:0:2::/112".parse().ok(),
        gateway: addresses(1),
    }
}

/// The n-th addresses of the instance ranges.
pub fn addresses(n: u8) -> Addresses {
    Addresses {
        v4: Some(Ipv4Addr::new(10, 88, 0, n)),
        v6: Some(Ipv6Addr::new(0xfd68, 0x6d00, 0, 1, 0, 0, 0, n.into())),
    }
}

/// The link of the n-th instance.
pub fn link(n: u8) -> InstanceLink {
    InstanceLink {
        id: InstanceId::from_bits(u64::from(std::process::id()) << 8 | u64::from(n)),
        addresses: addresses(n + 2),
        gateway: addresses(1),
    }
}
