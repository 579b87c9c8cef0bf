//! Two nodes and a client on one wire: a port that is published on the first, and served by an instance of the second.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::mpsc,
};

use hivemind::{
    dataplane::{
        Dataplane, DataplaneError,
        bpf::{BpfDataplane, DataplaneConfig},
        tables::{Frontend, NodeRow, PeerRow, ServiceRow},
    },
    model::Protocol,
    net::Family,
};
use hivemind_ebpf::abi::{BY_DRIVER, BY_STACK};

use crate::{
    Open,
    lab::{self, FAMILIES, Lab, Ns, firewall, isolated, outside as client, sh, uplink as first},
    traffic::{Echo, PATIENCE, tcp_ask, tcp_ask_on, tcp_bulk, tcp_connects_within, udp_ask},
};

/// The second node's addresses.
const SECOND: [&str; 2] = ["192.0.2.3", "2001:db8::3"];
/// The bytes of a long answer.
const ANSWER: usize = 8 << 20;

/// Two nodes, and between them a switch, which is the client as well: it is where the first lab's outside is.
struct Wire {
    first: Lab,
    second: Lab,
    /// Where the second node is.
    there: Ns,
    /// Where the first one's data plane is pinned.
    root: std::path::PathBuf,
}

impl Wire {
    /// `mtu` is that of the switch's port to the first node.
    fn new(cgroup: &Path, open: Open, mtu: u32) -> Self {
        let at = |config: DataplaneConfig, name: &str| DataplaneConfig { root: config.root.join(name), ..config };
        let begin = |config, name: &str| -> Result<BpfDataplane, DataplaneError> { open(at(config, name)) };
        let first = Lab::with(cgroup, 0, |config| begin(config, "first"));
        firewall("9000, 9001, 9002", 9001);
        let there = Ns::new();
        let second = there.run(|| {
            let mut second = Lab::with(cgroup, 1, |config| begin(config, "second"));
            second.ready(0);
            second
        });
        let switch = first.outside.tid();
        second.outside.run(|| sh(&format!("ip link set eth0 down; ip link set eth0 netns {switch} name eth1")));
        there.run(|| {
            sh("ip addr flush dev uplink scope global; ip addr add 192.0.2.3/24 dev uplink
                ip addr add 2001:db8::3/64 dev uplink nodad; ip link set uplink up");
        });
        first.outside.run(|| {
            sh(&format!(
                "ip addr flush dev eth0; ip link add br0 type bridge; ip link set eth0 mtu {mtu}
                 for port in eth0 eth1; do ip link set $port master br0 up; done
                 ip link set br0 mtu 1500 up
                 ip addr add 192.0.2.2/24 dev br0; ip addr add 2001:db8::2/64 dev br0 nodad"
            ));
            // What a driver sends is not looked at by a device that only hands on sums that were never made.
            for port in ["eth0", "eth1"] {
                offload(port, false);
            }
        });
        let root = at(lab::config(cgroup), "first").root;
        let mut wire = Self { first, second, there, root };
        wire.publish();
        wire
    }

    /// Port 9000 and the closed port 9001 of the first node lead to the second one's instance.
    fn publish(&mut self) {
        let Self { first: one, second: two, there, .. } = self;
        let index = |ns: Option<&Ns>| {
            let index = || nix::net::if_::if_nametoindex("uplink").expect("a device");
            ns.map_or_else(index, |ns| ns.run(index))
        };
        let (here, beyond) = (index(None), index(Some(there)));
        for (n, family) in FAMILIES.into_iter().enumerate() {
            let (backend, node) = (two.instances[0].address(family), SECOND[n].parse().expect("an address"));
            let class = lab::class(0);
            one.tables.peers.insert(backend, PeerRow { class, tenant: lab::TENANT, ifindex: 0, node: Some(node) });
            one.tables.nodes.insert(node, NodeRow { device: here, mtu: 1500 });
            two.tables.nodes.insert(first(family), NodeRow { device: beyond, mtu: 1500 });
            two.tables.node_addresses.insert(node);
            two.tables.node_addresses.remove(&first(family));
            for (port, target) in [(9000, 8080), (9001, 8080), (9002, 8081)] {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    let mut row = ServiceRow::equal(1, [(backend, target)]);
                    row.choice.alike = true;
                    for tables in [&mut one.tables, &mut two.tables] {
                        tables.services.insert(Frontend::Published(family, port, protocol), row.clone());
                    }
                    two.tables.served.insert((two.instances[0].link.ifindex, target, protocol), 1);
                }
            }
        }
        one.sync();
        there.run(|| two.sync());
    }

    /// The switch's port to the first node takes what a driver sends.
    fn peer_runs(&mut self) {
        let Lab { dataplane, outside, .. } = &mut self.first;
        outside.run(|| dataplane.run_in_driver("eth0").expect("a program"));
    }

    /// Packets that the first node has sent on, by its uplink's driver and by the kernel.
    fn sent_on(&self) -> (u64, u64) {
        let counts = self.first.dataplane.info().sent_on;
        (counts[BY_DRIVER as usize].packets, counts[BY_STACK as usize].packets)
    }

    fn unload(mut self) {
        self.first.dataplane.unload().expect("to unload");
        self.there.run(|| self.second.dataplane.unload().expect("to unload"));
    }
}

/// Whether a device makes the sums of what it sends, in the calling thread's namespace.
fn offload(device: &str, on: bool) {
    /// `ETHTOOL_STXCSUM` of linux/ethtool.h.
    const SUMS: u32 = 0x17;
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        data: *mut Value,
        rest: [u64; 2],
    }
    use std::os::fd::AsRawFd;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
    let mut value = Value { command: SUMS, data: on.into() };
    let mut request = Request { name: [0; 16], data: &raw mut value, rest: [0; 2] };
    request.name[..device.len()].copy_from_slice(device.as_bytes());
    // SAFETY: the structures are those of the request, and live longer than the call.
    let result = unsafe { nix::libc::ioctl(socket.as_raw_fd(), nix::libc::SIOCETHTOOL as _, &raw mut request) };
    assert_eq!(result, 0, "{device}: {}", std::io::Error::last_os_error());
}

/// Bytes that the first node's uplink has sent and received.
fn passed() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/dev").expect("statistics");
    let line = text.lines().find_map(|line| line.trim().strip_prefix("uplink:")).expect("the uplink");
    // The first of each eight numbers: received, then sent.
    let numbers = line.split_whitespace().map(|number| number.parse::<u64>().expect("a number"));
    numbers.step_by(8).sum()
}

/// A server that says much to everybody who connects, in the calling thread's namespace; it ends with the sender.
fn speaks(ns: &Ns, port: u16) -> mpsc::Sender<()> {
    let (stop, stopped) = mpsc::channel::<()>();
    let listener = ns.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("a listener"));
    std::thread::spawn(move || {
        while stopped.try_recv() != Err(mpsc::TryRecvError::Disconnected) {
            let Ok((mut stream, _)) = listener.accept() else { return };
            // A client that has gone is its own business.
            let _ = stream.write_all(&vec![b'x'; ANSWER]);
        }
    });
    stop
}

fn hears(from: SocketAddr) -> usize {
    let mut stream = TcpStream::connect_timeout(&from, PATIENCE).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.read_to_end(&mut Vec::new()).expect("an answer")
}

/// Everything that a client does, whoever sends it on.
fn serves(wire: &mut Wire) {
    let instance = &wire.second.instances[0].ns;
    let _echo = Echo::start(instance, 8080, "there");
    let _speaker = speaks(instance, 8081);
    for family in FAMILIES {
        let published = SocketAddr::new(first(family), 9000);
        let ask = || tcp_ask(published);
        for _ in 0..8 {
            let answer = wire.first.outside.run(ask).expect("tcp");
            assert_eq!((&answer.name[..], answer.client, answer.peer), ("there", client(family), published));
        }
        for connected in [true, false] {
            let answer = wire.first.outside.run(|| udp_ask(published, connected)).expect("udp");
            assert_eq!((&answer.name[..], answer.client, answer.peer), ("there", client(family), published));
        }
        // Longer packets than fit through the tunnel: the client is told, or the kernel cuts them shorter.
        let (sent, received) = wire.first.outside.run(|| tcp_bulk(published, 4 << 20)).expect("bulk");
        assert_eq!(sent, received);
        let before = passed();
        let loud = SocketAddr::new(first(family), 9002);
        assert_eq!(wire.first.outside.run(|| hears(loud)), ANSWER);
        let through = usize::try_from(passed() - before).expect("few");
        assert!(through < ANSWER / 4, "{through} of {ANSWER} bytes of the answer passed the first node");
        // The first node's firewall decides.
        let closed = SocketAddr::new(first(family), 9001);
        let short = std::time::Duration::from_millis(300);
        assert!(!wire.first.outside.run(|| tcp_connects_within(closed, short)), "{closed} is closed");
    }
    let flows = wire.there.run(|| wire.second.dataplane.flows()).expect("flows");
    assert!(flows.iter().any(|flow| flow.service == 1), "the node that has the instance knows the flows");
    assert!(wire.first.dataplane.flows().expect("flows").iter().all(|flow| flow.service != 1));
}

#[test]
fn a_port_of_one_node_is_served_by_another_which_answers_itself() {
    for open in crate::WAYS {
        isolated(|cgroup| {
            let mut wire = Wire::new(cgroup, open, 1500);
            wire.peer_runs();
            let uplinks = wire.first.dataplane.info().uplinks;
            assert!(uplinks.iter().all(|uplink| uplink.driver) && uplinks.len() == 1, "{uplinks:?}");
            serves(&mut wire);
            let (driver, stack) = wire.sent_on();
            println!("sent on: {driver} by the driver, {stack} by the kernel");
            assert!(driver > 100 && stack > 0, "{driver}, {stack}");
            // A daemon that begins again takes over; nobody notices.
            let _echo = Echo::start(&wire.second.instances[0].ns, 8080, "there");
            let connect = || TcpStream::connect(SocketAddr::new(first(Family::V6), 9000));
            let kept = wire.first.outside.run(connect).expect("a connection");
            let config = DataplaneConfig { root: wire.root.clone(), ..lab::config(cgroup) };
            wire.first.dataplane = open(config).expect("to open again");
            wire.peer_runs();
            wire.first.dataplane.attach_uplinks(&["uplink".into()]).expect("uplinks");
            assert_eq!(wire.first.sync().written, 0);
            tcp_ask_on(&kept).expect("the connection lives");
            assert!(wire.first.dataplane.info().uplinks[0].driver);
            assert_eq!(wire.first.dataplane.check().expect("to look"), []);
            // Without other nodes nothing of it is there.
            wire.first.tables.nodes.clear();
            wire.first.sync();
            assert!(!wire.first.dataplane.info().uplinks[0].driver);
            wire.unload();
        });
    }
}

#[test]
fn where_the_driver_refuses_the_kernel_sends_on() {
    for open in crate::WAYS {
        isolated(|cgroup| {
            // A device of this kind runs no program if what its peer may send is longer than a page.
            let mut wire = Wire::new(cgroup, open, 9000);
            let uplinks = wire.first.dataplane.info().uplinks;
            assert!(!uplinks[0].driver && !uplinks[0].why.is_empty(), "{uplinks:?}");
            println!("{}", uplinks[0].why);
            serves(&mut wire);
            let (driver, stack) = wire.sent_on();
            assert!(driver == 0 && stack > 100, "{driver}, {stack}");
            wire.unload();
        });
    }
}
