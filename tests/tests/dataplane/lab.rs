//! A node in namespaces of its own: a "host" with the real data plane, instances behind routed veth pairs, and an
//! outside that reaches the host by an uplink. Nothing of it is in the root namespaces, so that nothing can be left
//! but a cgroup, which is swept at the next start.

use std::{
    fs::{self, File},
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, mpsc},
    thread,
};

use aya::maps::{HashMap, Map, MapData};
use hivemind::{
    dataplane::{
        Dataplane, DataplaneError,
        bpf::{BpfDataplane, DataplaneConfig},
        tables::{EndpointRow, Frontend, PeerRow, ServiceRow, Tables},
    },
    model::{Addresses, InstanceId, NodeDesired, Protocol, Scope, TierPolicy, Timestamp},
    net::{Family, HostLink, Mac, NodeNet},
    policy::{Document, EndpointPolicy, FIRST_CLASS, Failsafe, FailsafePort, KnownNames, compile_with, read},
};
use hivemind_ebpf::{ABI_VERSION, policy::HOST_ENDPOINT, reason::Reason};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

/// Where the host's namespace has the BPF file system: the usual place, in a mount namespace of its own.
pub(crate) const BPF_ROOT: &str = "/sys/fs/bpf/hivemind";
/// What all cgroups of these tests begin with.
const CGROUP: &str = "hivemind-test-";
/// Addresses of host and outside on the uplink.
pub(crate) const UPLINK: [(Ipv4Addr, Ipv6Addr); 2] = [
    (Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    (Ipv4Addr::new(192, 0, 2, 2), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
];

/// The node's address on its uplink.
pub(crate) fn uplink(family: Family) -> IpAddr {
    match family {
        Family::V4 => UPLINK[0].0.into(),
        Family::V6 => UPLINK[0].1.into(),
    }
}

/// The address of who is outside.
pub(crate) fn outside(family: Family) -> IpAddr {
    match family {
        Family::V4 => UPLINK[1].0.into(),
        Family::V6 => UPLINK[1].1.into(),
    }
}

/// Runs `test` on a thread with its own network and mount namespace, in a cgroup of its own.
pub(crate) fn isolated(test: impl FnOnce(&Path) + Send) {
    if !hivemind_tests::netlab::may_run() {
        return;
    }
    // Tests of one process share its cgroup: one at a time.
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let cgroup = Cgroup::enter();
    let result = thread::scope(|scope| {
        let body = || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("unshare (these tests need root)");
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).expect("/");
            mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), None::<&str>).expect("bpffs");
            sh("ip link set lo up");
            test(&cgroup.path);
        };
        scope.spawn(body).join()
    });
    drop(cgroup);
    drop(one);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// A cgroup with this process in it.
struct Cgroup {
    path: PathBuf,
    former: PathBuf,
}

impl Cgroup {
    fn enter() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("a cgroup2 mount");
        let root = PathBuf::from(line.split(' ').nth(4).expect("the mount point"));
        for entry in fs::read_dir(&root).expect("cgroups").flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix(CGROUP)?.parse::<u32>().ok());
            // One whose process is alive may be empty for a moment: see `past_the_sockets`.
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
                let _ = fs::remove_dir(entry.path());
            }
        }
        let own = fs::read_to_string("/proc/self/cgroup").expect("own cgroup");
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("own cgroup2");
        let path = root.join(format!("{CGROUP}{}", std::process::id()));
        fs::create_dir_all(&path).expect("a cgroup");
        fs::write(path.join("cgroup.procs"), "0").expect("to enter the cgroup");
        Self { path, former: root.join(own) }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.former.join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&self.path);
        let _ = fs::remove_dir_all(log_dir());
    }
}

/// Runs `f` while this process is in no cgroup of the data plane: sockets made by it go past the socket programs, and
/// their packets are balanced one by one.
pub(crate) fn past_the_sockets<R>(cgroup: &Path, f: impl FnOnce() -> R) -> R {
    let root = cgroup.parent().expect("a parent");
    fs::write(root.join("cgroup.procs"), "0").expect("to leave the cgroup");
    let result = f();
    fs::write(cgroup.join("cgroup.procs"), "0").expect("to come back");
    result
}

/// The firewall of a host: what `hivemind` adds for these published TCP and UDP ports, after a filter of the host's own
/// that refuses what goes to port `refused`, and that tracks connections.
pub(crate) fn firewall(ports: &str, refused: u16) {
    let ours = |family: &str, next_hop: &str| {
        let rule = |protocol: &str| {
            format!(
                "{protocol} dport {{ {ports} }} iifname != \"lo\" fib daddr type local \
                 dup to {next_hop} device \"hm-pub\" drop\n"
            )
        };
        format!(
            "table {family} hivemind-test {{ chain input {{ type filter hook input priority 300; policy accept;\n{}{} }}\n}}\n",
            rule("tcp"),
            rule("udp")
        )
    };
    nft(&format!(
        "table inet host {{ chain input {{ type filter hook input priority 0; policy accept;
            ct state invalid drop
            tcp dport {refused} drop\nudp dport {refused} drop\n }}\n}}\n{}{}",
        ours("ip", "10.88.0.254"),
        ours("ip6", "fd68:6d00:0:1::fffe")
    ));
    sh("ip route add 10.88.0.254 dev hm-pub
        ip -6 route add fd68:6d00:0:1::fffe dev hm-pub
        ip neigh replace 10.88.0.254 lladdr 02:00:00:00:00:01 dev hm-pub nud permanent
        ip neigh replace fd68:6d00:0:1::fffe lladdr 02:00:00:00:00:01 dev hm-pub nud permanent");
}

/// A map of the running data plane, as anybody with root can open it.
pub(crate) fn any_map(name: &str) -> Map {
    let path = format!("{BPF_ROOT}/v{ABI_VERSION}/maps/{name}");
    Map::from_map_data(MapData::from_pin(path).expect("a pin")).expect("a map")
}

/// The same of rows by key.
pub(crate) fn map<K: aya::Pod, V: aya::Pod>(name: &str) -> HashMap<MapData, K, V> {
    HashMap::try_from(any_map(name)).expect("its types")
}

/// Runs a command line in the calling thread's namespaces.
#[track_caller]
pub(crate) fn sh(line: &str) {
    let output = Command::new("sh").args(["-ec", line]).output().expect("sh");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Feeds rules to nft in the calling thread's namespaces.
#[track_caller]
pub(crate) fn nft(rules: &str) {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft");
    child.stdin.take().expect("stdin").write_all(rules.as_bytes()).expect("to write rules");
    assert!(child.wait().expect("nft").success(), "{rules}");
}

/// A network namespace.
#[derive(Debug)]
pub(crate) struct Ns {
    file: File,
    /// A thread in it, by which `ip link … netns` finds it.
    tid: i32,
    _park: mpsc::Sender<()>,
}

impl Ns {
    pub(crate) fn new() -> Self {
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
        ns.run(|| sh("ip link set lo up"));
        ns
    }

    /// A thread in it.
    pub(crate) const fn tid(&self) -> i32 {
        self.tid
    }

    /// Runs `f` in the namespace, on a thread of its own.
    pub(crate) fn run<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        let body = || {
            setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).expect("setns");
            f()
        };
        thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts `f` in the namespace, on a thread of its own.
    pub(crate) fn spawn<R: Send + 'static>(&self, f: impl FnOnce() -> R + Send + 'static) -> thread::JoinHandle<R> {
        let file = self.file.try_clone().expect("a descriptor");
        thread::spawn(move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET).expect("setns");
            f()
        })
    }
}

/// An instance.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) ns: Ns,
    pub(crate) link: HostLink,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
}

impl Instance {
    /// Its address of a family.
    pub(crate) fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }
}

/// The node.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) dataplane: BpfDataplane,
    pub(crate) tables: Tables,
    pub(crate) instances: Vec<Instance>,
    pub(crate) outside: Ns,
}

/// The configuration of the data plane in these tests.
pub(crate) fn config(cgroup: &Path) -> DataplaneConfig {
    let parse = |text: &str| text.parse().expect("a range");
    DataplaneConfig {
        root: BPF_ROOT.into(),
        cgroup: cgroup.into(),
        network: NodeNet {
            instances_v4: Some(parse("10.88.0.0/16")),
            instances_v6: Some("fd68:6d00:0:1::/64".parse().expect("a range")),
            services_v4: Some(parse("10.96.0.0/16")),
            services_v6: Some("fd68:6d00:0:2::/112".parse().expect("a range")),
            gateway: Addresses { v4: Some(GATEWAY.0), v6: Some(GATEWAY.1) },
        },
        publish_device: "hm-pub".into(),
        log_dir: log_dir(),
        flow_share: hivemind_ebpf::abi::FLOW_SHARE,
    }
}

/// Where the verifier's logs are kept while a test runs.
pub(crate) fn log_dir() -> PathBuf {
    std::env::temp_dir().join(format!("{CGROUP}{}-verifier", std::process::id()))
}

/// The node's own addresses towards its instances.
pub(crate) const GATEWAY: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 88, 0, 1), Ipv6Addr::new(0xfd68, 0x6d00, 0, 1, 0, 0, 0, 1));

/// The n-th virtual address of a family.
pub(crate) fn vip(family: Family, n: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 96, 0, n).into(),
        Family::V6 => Ipv6Addr::new(0xfd68, 0x6d00, 0, 2, 0, 0, 0, n.into()).into(),
    }
}

pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The tenant of all instances.
pub(crate) const TENANT: u32 = 4;

/// The class of the n-th instance: its own.
pub(crate) fn class(index: usize) -> u32 {
    FIRST_CLASS + u32::try_from(index).expect("few")
}

impl Lab {
    /// A node with `count` instances that are attached and up, but not in the tables yet. In the calling thread's
    /// namespaces.
    pub(crate) fn new(cgroup: &Path, count: u8) -> Self {
        Self::with(cgroup, count, BpfDataplane::open)
    }

    /// The same with a data plane opened by `open`.
    pub(crate) fn with(
        cgroup: &Path,
        count: u8,
        open: impl FnOnce(DataplaneConfig) -> Result<BpfDataplane, DataplaneError>,
    ) -> Self {
        sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
            ip link add hm-node type veth peer name hm-pub; ip link set hm-node up
            ip addr add 10.88.0.1/32 dev hm-node; ip addr add fd68:6d00:0:1::1/128 dev hm-node nodad
            ip link set hm-pub mtu 65535 up
            for range in 10.88.0.0/16 10.96.0.0/16; do ip route add unreachable $range metric 4294967295; done
            for range in fd68:6d00:0:1::/64 fd68:6d00:0:2::/112; do
                ip -6 route add unreachable $range metric 4294967295; done");
        let outside = Ns::new();
        sh(&format!("ip link add uplink type veth peer name eth0 netns {}", outside.tid));
        sh("ip addr add 192.0.2.1/24 dev uplink; ip addr add 2001:db8::1/64 dev uplink nodad; ip link set uplink up");
        outside.run(|| {
            sh("ip addr add 192.0.2.2/24 dev eth0; ip addr add 2001:db8::2/64 dev eth0 nodad; ip link set eth0 up
                ip route add default via 192.0.2.1; ip -6 route add default via 2001:db8::1");
        });
        let mut dataplane = open(config(cgroup)).unwrap_or_else(|error| panic!("{error}"));
        println!("attached by {}", dataplane.info().attach);
        dataplane.attach_uplinks(&["uplink".into()]).unwrap_or_else(|error| panic!("{error}"));
        let node_addresses = [UPLINK[0].0.into(), UPLINK[0].1.into(), GATEWAY.0.into(), GATEWAY.1.into()];
        let tables = Tables { node_addresses: node_addresses.into(), ..Tables::default() };
        let mut lab = Self { dataplane, tables, instances: Vec::new(), outside };
        for _ in 0..count {
            lab.add_instance();
        }
        lab
    }

    /// One more instance, attached and up, not in the tables.
    pub(crate) fn add_instance(&mut self) -> usize {
        let n = u8::try_from(self.instances.len()).expect("few instances") + 2;
        let id = InstanceId::from_bits(n.into());
        let ns = Ns::new();
        let name = format!("hm{id}");
        let (host_mac, own_mac) = (Mac([2, 0, 0, 0, 1, n]), Mac([2, 0, 0, 0, 2, n]));
        sh(&format!(
            "ip link add {name} address {host_mac} type veth peer name eth0 address {own_mac} netns {tid}
             echo 1 > /proc/sys/net/ipv6/conf/{name}/addr_gen_mode",
            tid = ns.tid
        ));
        let ifindex = nix::net::if_::if_nametoindex(name.as_str()).expect("the device");
        let link = HostLink { netns: PathBuf::new(), name: name.clone(), ifindex, host_mac, instance_mac: own_mac };
        self.dataplane.attach(&id, &link).unwrap_or_else(|error| panic!("{error}"));
        let (v4, v6) = (Ipv4Addr::new(10, 88, 0, n), Ipv6Addr::new(0xfd68, 0x6d00, 0, 1, 0, 0, 0, n.into()));
        ns.run(|| {
            sh(&format!(
                "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_ra; ip link set eth0 up
                 ip addr add {v4}/32 dev eth0; ip addr add {v6}/128 dev eth0 nodad
                 ip neigh replace 10.88.0.1 lladdr {host_mac} dev eth0 nud permanent
                 ip neigh replace fd68:6d00:0:1::1 lladdr {host_mac} dev eth0 nud permanent
                 ip route add 10.88.0.1 dev eth0 scope link; ip route add default via 10.88.0.1 dev eth0
                 ip -6 route add fd68:6d00:0:1::1 dev eth0; ip -6 route add default via fd68:6d00:0:1::1 dev eth0"
            ));
        });
        sh(&format!(
            "ip link set {name} up; ip neigh replace {v4} lladdr {own_mac} dev {name} nud permanent
             ip neigh replace {v6} lladdr {own_mac} dev {name} nud permanent
             ip route add {v4}/32 dev {name} src 10.88.0.1; ip -6 route add {v6}/128 dev {name} src fd68:6d00:0:1::1"
        ));
        self.instances.push(Instance { id, ns, link, v4, v6 });
        self.instances.len() - 1
    }

    /// Puts an instance into the tables; no policy is about it.
    pub(crate) fn ready(&mut self, index: usize) {
        let instance = &self.instances[index];
        let HostLink { ifindex, host_mac, instance_mac, .. } = instance.link;
        let class = class(index);
        let (v4, v6) = (Some(instance.v4), Some(instance.v6));
        self.tables.endpoints.insert(
            ifindex,
            EndpointRow {
                v4,
                v6,
                instance_mac,
                host_mac,
                class,
                tenant: TENANT,
                policy: EndpointPolicy::default(),
                blocks: false,
                limited: false,
            },
        );
        for address in [instance.v4.into(), instance.v6.into()] {
            self.tables.peers.insert(address, PeerRow { class, tenant: TENANT, ifindex, node: None });
        }
    }

    /// Takes an instance out of the tables.
    pub(crate) fn gone(&mut self, index: usize) {
        let instance = &self.instances[index];
        self.tables.endpoints.remove(&instance.link.ifindex);
        for address in [IpAddr::from(instance.v4), instance.v6.into()] {
            self.tables.peers.remove(&address);
        }
    }

    /// Service number `n` on the n-th virtual addresses, both families: `port` leads to `target` of `backends`.
    pub(crate) fn service(&mut self, n: u8, port: u16, target: u16, protocol: Protocol, backends: &[usize]) {
        for family in FAMILIES {
            let row = self.row(n, target, family, backends);
            self.tables.services.insert(Frontend::Virtual(vip(family, n), port, protocol), row);
            let known = ServiceRow::equal(n.into(), []);
            self.tables.services.insert(Frontend::Address(vip(family, n)), known);
        }
        let is_other = |key: &(u32, u16, Protocol), of: &u32| (*of, key.1, key.2) != (u32::from(n), target, protocol);
        let served = std::mem::take(&mut self.tables.served);
        self.tables.served = served.into_iter().filter(|(key, of)| is_other(key, of)).collect();
        for index in backends {
            self.tables.served.insert((self.instances[*index].link.ifindex, target, protocol), n.into());
        }
    }

    /// Publishes a port on the node.
    pub(crate) fn publish(&mut self, n: u8, port: u16, target: u16, protocol: Protocol, backends: &[usize]) {
        for family in FAMILIES {
            let mut row = self.row(n, target, family, backends);
            row.choice.alike = true;
            self.tables.services.insert(Frontend::Published(family, port, protocol), row);
        }
        for index in backends {
            self.tables.served.insert((self.instances[*index].link.ifindex, target, protocol), n.into());
        }
    }

    fn row(&self, n: u8, target: u16, family: Family, backends: &[usize]) -> ServiceRow {
        ServiceRow::equal(n.into(), backends.iter().map(|index| (self.instances[*index].address(family), target)))
    }

    /// Only these policies, of the host; port 22 and what goes to port 123 are always open.
    pub(crate) fn host(&mut self, text: &str) {
        let mut desired = NodeDesired::default();
        let read = |text| read(text, &Scope::default()).unwrap_or_else(|faults| panic!("{faults:#?}"));
        for document in if text.is_empty() { Vec::new() } else { read(text) } {
            let Document::Tier(key, spec) = document else { panic!("not of the host") };
            let policy = TierPolicy { key: key.clone(), spec, created_at: Timestamp::default() };
            desired.tiers.insert(key, Arc::new(policy));
        }
        let port = |text: &str| vec![text.parse::<FailsafePort>().expect("a port").0];
        let failsafe = Failsafe { inbound: port("22/tcp"), outbound: port("123/udp") };
        let node = "node".parse().expect("a name");
        let compiled = compile_with(&desired, &node, &KnownNames::new(), &failsafe);
        self.tables.endpoints.remove(&HOST_ENDPOINT);
        if let Some(host) = compiled.host {
            self.tables.endpoints.insert(HOST_ENDPOINT, EndpointRow::host(host, compiled.has_blocks(&host)));
        }
        let tables = &mut self.tables;
        (tables.rules, tables.intervals, tables.blocks) = (compiled.rules, compiled.ports, compiled.blocks);
    }

    /// Writes the tables.
    #[track_caller]
    pub(crate) fn sync(&mut self) -> hivemind::dataplane::SyncReport {
        self.dataplane.sync(&self.tables).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Packets counted for an endpoint, direction and reason, over all services.
    pub(crate) fn packets(&mut self, endpoint: u32, direction: u8, reason: u8) -> u64 {
        let all = self.dataplane.counters().unwrap_or_else(|error| panic!("{error}"));
        let reason = Reason::from_number(reason);
        let of = all.iter().filter(|c| (c.endpoint, c.direction as u8, c.reason) == (endpoint, direction, reason));
        of.map(|c| c.packets).sum()
    }
}
