//! The node on which the packets are tried: its tables are written by the product, its devices are silent.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use hivemind::{
    dataplane::{
        Dataplane,
        bpf::{BpfDataplane, DataplaneConfig},
        tables::{Frontend, PeerRow},
    },
    model::Protocol,
    net::Family,
};
use hivemind_ebpf::{abi::FLOW_SHARE, map, program, reason::Reason};
use hivemind_tests::each_row;

use crate::{
    frame::Frame,
    lab::{self, FAMILIES, Lab, sh, vip},
    refusal,
};

/// Verdicts of the programs, as the kernel numbers them.
pub(crate) const PASS: i32 = -1;
pub(crate) const DROP: i32 = 2;
pub(crate) const REDIRECT: i32 = 7;

/// From where service 4 may be reached.
pub(crate) const FRIENDS: [&str; 3] = ["198.51.100.0/24", "203.0.113.7/32", "2001:db8:7::/48"];

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    Drop(Reason),
    /// To the stack, as it is.
    Pass,
    /// To the stack, as these bytes.
    PassAs(Vec<u8>),
    /// By another device, as these bytes.
    RedirectAs(Vec<u8>),
}

/// One row of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) program: &'static str,
    pub(crate) ifindex: u32,
    pub(crate) packet: Vec<u8>,
    pub(crate) expect: Expect,
}

/// Two ready instances (0 sends, 1 serves), and a third without a row.
pub(crate) struct Bench {
    pub(crate) lab: Lab,
}

impl Bench {
    pub(crate) fn new(cgroup: &Path) -> Self {
        Self::with_share(cgroup, FLOW_SHARE)
    }

    /// The same where an instance may hold so many rows of the table of flows; 0: all.
    pub(crate) fn with_share(cgroup: &Path, flow_share: u32) -> Self {
        let mut lab = Lab::with(cgroup, 3, |config| BpfDataplane::open(DataplaneConfig { flow_share, ..config }));
        // Nothing but the tests' packets is counted: no device sends anything.
        for instance in &lab.instances {
            instance.ns.run(|| sh("ip link set eth0 down"));
            sh(&format!("ip link set {} down", instance.link.name));
        }
        lab.outside.run(|| sh("ip link set eth0 down"));
        sh("ip link set uplink down; ip link set hm-pub down; ip link set hm-node down");
        for ready in [0, 1] {
            lab.ready(ready);
        }
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            lab.service(1, 80, 8080, protocol, &[1]);
            lab.service(2, 80, 8080, protocol, &[1]);
            lab.service(3, 80, 8080, protocol, &[]);
            lab.publish(1, 9000, 8080, protocol, &[1]);
            // Service 4 is served on other nodes only; few may reach its published port.
            lab.service(4, 80, 8080, protocol, &[]);
            lab.publish(4, 9002, 8080, protocol, &[1]);
        }
        each_row(&mut lab.tables.services, |front, row| match front {
            Frontend::Virtual(..) if row.id == 4 => row.choice.local = true,
            Frontend::Published(..) if row.id == 4 => row.choice.sources = true,
            _ => {}
        });
        lab.tables.sources.extend(FRIENDS.map(|range| (4, range.parse().expect("a block"))));
        // The plane knows whose address it is before the instance may be sent to.
        for address in [lab.instances[2].v4.into(), lab.instances[2].v6.into()] {
            lab.tables.peers.insert(
                address,
                PeerRow {
                    class: lab::class(2),
                    tenant: lab::TENANT,
                    ifindex: lab.instances[2].link.ifindex,
                    node: None,
                },
            );
        }
        lab.sync();
        Self { lab }
    }

    /// How many entries each map holds. Without the counters, whose totals are kept: a row for each endpoint, service,
    /// direction and reason.
    pub(crate) fn entries(&self) -> BTreeMap<&'static str, usize> {
        let mut entries = self.lab.dataplane.entries().unwrap_or_else(|error| panic!("{error}"));
        entries.remove(map::COUNTERS);
        entries
    }

    pub(crate) fn ifindex(&self, instance: usize) -> u32 {
        self.lab.instances[instance].link.ifindex
    }

    pub(crate) fn address(&self, instance: usize, family: Family) -> IpAddr {
        self.lab.instances[instance].address(family)
    }

    /// A frame that instance `from` sends.
    pub(crate) fn sent(&self, from: usize, protocol: u8, sport: u16, to: SocketAddr) -> Frame {
        let family = if to.is_ipv4() { FAMILIES[0] } else { FAMILIES[1] };
        let link = &self.lab.instances[from].link;
        let mut frame = Frame::new(protocol, (self.address(from, family), sport), (to.ip(), to.port()));
        (frame.from_mac, frame.to_mac) = (link.instance_mac.0, link.host_mac.0);
        frame
    }

    /// The same frame as the host's device sends it to instance `to`.
    pub(crate) fn by_device(&self, to: usize, mut frame: Frame) -> Frame {
        let link = &self.lab.instances[to].link;
        (frame.to_mac, frame.from_mac) = (link.instance_mac.0, link.host_mac.0);
        frame
    }

    /// A row in which instance 0 sends.
    pub(crate) fn sends(&self, name: &str, frame: &Frame, expect: Expect) -> Row {
        let (program, ifindex) = (program::FROM_CONTAINER, self.ifindex(0));
        Row { name: name.into(), program, ifindex, packet: frame.bytes(), expect }
    }

    /// A row in which instance `from` sends.
    pub(crate) fn sends_from(&self, from: usize, name: &str, frame: &Frame, expect: Expect) -> Row {
        Row { ifindex: self.ifindex(from), ..self.sends(name, frame, expect) }
    }

    /// Runs a program.
    pub(crate) fn run(&self, program: &str, packet: &[u8], ifindex: u32) -> (i32, Vec<u8>) {
        let tried = self.lab.dataplane.test_run(program, packet, ifindex, 1);
        let tried = tried.unwrap_or_else(|error| panic!("{error}: {packet:02x?}"));
        (tried.verdict, tried.packet)
    }

    /// When a packet that instance `from` sends is to leave the machine, in nanoseconds of the monotonic clock; 0: at
    /// once; nothing if it is dropped.
    pub(crate) fn departs(&self, from: usize, packet: &[u8]) -> Option<u64> {
        let tried = self.lab.dataplane.test_run(program::FROM_CONTAINER, packet, self.ifindex(from), 1);
        let tried = tried.unwrap_or_else(|error| panic!("{error}: {packet:02x?}"));
        (tried.verdict != DROP).then_some(tried.departs)
    }

    /// Runs a row: verdict, bytes and counters are what it says.
    pub(crate) fn check(&mut self, row: &Row) {
        let Row { name, program, ifindex, packet, expect } = row;
        let before = self.counters();
        let (verdict, out) = self.run(program, packet, *ifindex);
        let mut rose = self.counters();
        rose.retain(|key, packets| {
            *packets -= before.get(key).copied().unwrap_or(0);
            *packets > 0
        });
        let drops: Vec<_> = rose.iter().filter(|((_, _, reason), _)| *reason != 0).collect();
        let (wanted, bytes) = match expect {
            Expect::Drop(reason) => {
                let outwards = [program::FROM_CONTAINER, program::TO_UPLINK].contains(program);
                let direction = u8::from(!outwards);
                let endpoint = if program.ends_with("cont") { *ifindex } else { 0 };
                assert_eq!(drops, [(&(endpoint, direction, *reason as u8), &1)], "{name}: {reason:?}");
                refusal::check(name, program, *reason, packet, verdict, &out);
                return;
            }
            Expect::Pass => (PASS, packet),
            Expect::PassAs(bytes) => (PASS, bytes),
            Expect::RedirectAs(bytes) => (REDIRECT, bytes),
        };
        assert!(drops.is_empty(), "{name}: {drops:?}");
        assert_eq!(verdict, wanted, "{name}");
        assert_eq!(&out, bytes, "{name}: the packet");
    }

    /// Packets by endpoint, direction and reason.
    fn counters(&mut self) -> BTreeMap<(u32, u8, u8), u64> {
        let mut sums = BTreeMap::new();
        for c in self.lab.dataplane.counters().expect("counters") {
            *sums.entry((c.endpoint, c.direction as u8, c.reason.map_or(0, |reason| reason as u8))).or_default() +=
                c.packets;
        }
        sums
    }
}

/// This thread stays on one CPU: what each CPU remembers for itself is then what it has seen.
pub(crate) fn one_cpu() {
    on_cpu(0);
}

/// The same, on the n-th CPU, or on the last if there are fewer.
pub(crate) fn on_cpu(n: usize) {
    let there = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN);
    let last = there.ok().flatten().and_then(|there| usize::try_from(there).ok()).map_or(0, |there| there - 1);
    let mut cpus = nix::sched::CpuSet::new();
    cpus.set(n.min(last)).expect("a CPU");
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus).expect("to stay on a CPU");
}

/// The n-th service's port 80.
pub(crate) fn service(family: Family, n: u8) -> SocketAddr {
    SocketAddr::new(vip(family, n), 80)
}
