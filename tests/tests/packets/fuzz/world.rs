//! The node that frames are tried on: who is there, and what policies say about whom. It is written down twice: as rows
//! for the data plane, and in the words of `docs/policies.md`, by which the model judges.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    path::Path,
};

use hivemind::{
    dataplane::tables::{Frontend, PeerRow, ServiceRow},
    model::Protocol,
    net::Family,
    policy::{
        ADMIN, ALL_PORTS, ANYBODY, BASELINE, BLOCK, Direction, EndpointPolicy, FIRST_CLASS, OTHERS, OWN, RuleKey,
        RuleRow, SETS, WORLD, interval,
    },
    spec::v1::{Action, PolicyProtocol},
};
use hivemind_ebpf::reason::Reason;
use ipnet::IpNet;

use super::parse::{End, Packet};
use crate::{
    bench::{Bench, FRIENDS},
    frame::{ICMP, ICMPV6, SCTP, TCP, UDP},
    lab::{self, FAMILIES, GATEWAY, TENANT, UPLINK, sh, vip},
};

/// Instances, by what they are for: the first sends, the second serves, the third is not ready, the fourth and fifth
/// are isolated, and the last is another tenant's.
pub(crate) const COUNT: usize = 6;
const UNREADY: usize = 2;
const FOREIGN: usize = 5;

/// Whom a rule means.
#[derive(Clone, Copy, Debug)]
enum Peer {
    Anybody,
    World,
    /// The instance of that number.
    Instance(usize),
    /// An instance of another node.
    Remote,
    /// [`BLOCKS`] without [`HOLES`].
    Block,
}
const BLOCKS: [&str; 2] = ["192.0.2.0/24", "2001:db8::/32"];
const HOLES: [&str; 2] = ["192.0.2.128/25", "2001:db8:7::/48"];

/// A rule of an instance.
#[derive(Clone, Copy, Debug)]
struct Rule {
    about: usize,
    tier: usize,
    way: Direction,
    action: Action,
    peer: Peer,
    protocol: Option<PolicyProtocol>,
    ports: Option<(u16, u16)>,
}

const fn rule(
    about: usize,
    tier: usize,
    way: Direction,
    action: Action,
    peer: Peer,
    protocol: Option<PolicyProtocol>,
    ports: Option<(u16, u16)>,
) -> Rule {
    Rule { about, tier, way, action, peer, protocol, ports }
}

/// All rules; of a tier of an instance the first that matches decides. `variant` 1 has some of them revoked.
fn rules(variant: usize) -> Vec<Rule> {
    use Action::{Accept, Deny, Pass};
    use Direction::{In, Out};
    let (tcp, udp, icmp) = (Some(PolicyProtocol::Tcp), Some(PolicyProtocol::Udp), Some(PolicyProtocol::Icmp));
    let mut rules = vec![
        rule(0, ADMIN, In, Accept, Peer::Instance(FOREIGN), udp, None),
        rule(1, BASELINE, In, Deny, Peer::Anybody, tcp, Some((22, 23))),
        rule(3, OWN, In, Accept, Peer::Instance(0), tcp, Some((8000, 8100))),
        rule(3, OWN, In, Accept, Peer::Block, udp, None),
        rule(3, OWN, In, Accept, Peer::World, tcp, Some((443, 443))),
        rule(3, OWN, In, Accept, Peer::Anybody, icmp, Some((8, 8))),
        rule(3, OWN, In, Accept, Peer::Remote, None, None),
        rule(4, ADMIN, In, Deny, Peer::Anybody, udp, Some((53, 53))),
        rule(4, ADMIN, In, Accept, Peer::Instance(0), udp, None),
        rule(4, ADMIN, In, Pass, Peer::Instance(1), tcp, None),
        rule(4, ADMIN, In, Deny, Peer::Instance(1), None, None),
        rule(4, OWN, In, Accept, Peer::Instance(1), tcp, Some((1, 1023))),
        rule(4, OWN, Out, Accept, Peer::Instance(0), udp, None),
        rule(4, OWN, Out, Accept, Peer::Block, tcp, Some((443, 444))),
        rule(4, OWN, Out, Accept, Peer::Anybody, icmp, Some((128, 128))),
        rule(4, OWN, Out, Accept, Peer::Instance(1), None, None),
        rule(4, BASELINE, Out, Accept, Peer::Anybody, None, None),
        rule(FOREIGN, BASELINE, Out, Deny, Peer::Instance(1), tcp, Some((8080, 8080))),
    ];
    if variant == 1 {
        rules.retain(|rule| !matches!(rule.peer, Peer::Instance(_)) || rule.action != Accept);
    }
    rules
}

/// Who is isolated: only what rules of its namespace allow passes.
const fn isolated(instance: usize, way: Direction) -> bool {
    match way {
        Direction::In => instance == 3 || instance == 4,
        Direction::Out => instance == 4,
        Direction::Published => false,
    }
}

/// An instance of this node.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) ifindex: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) host_mac: [u8; 6],
    pub(crate) addresses: [IpAddr; 2],
    pub(crate) ready: bool,
}

/// What is behind a frontend.
#[derive(Clone, Debug)]
pub(crate) enum Behind {
    Backend(End),
    Nobody(Reason),
}

/// Everything that the model knows.
pub(crate) struct World {
    pub(crate) hosts: Vec<Host>,
    /// Instances of another node: one of the tenant, one of another.
    pub(crate) remotes: Vec<IpAddr>,
    pub(crate) node: Vec<IpAddr>,
    pub(crate) frontends: HashMap<(IpAddr, u16, u8), Behind>,
    pub(crate) vips: BTreeSet<IpAddr>,
    /// By family (IPv4?), port and protocol; whether only [`FRIENDS`] may come.
    pub(crate) published: HashMap<(bool, u16, u8), (End, bool)>,
    friends: Vec<IpNet>,
    ranges: Vec<IpNet>,
    services: Vec<IpNet>,
    rules: Vec<Rule>,
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a block")
}

impl World {
    /// Makes the node.
    pub(crate) fn new(cgroup: &Path) -> (Bench, Self) {
        let mut bench = Bench::new(cgroup);
        // Routes need the address that it has lost with the link.
        sh("ip link set hm-node up; ip addr replace fd68:6d00:0:1::1/128 dev hm-node nodad");
        for index in 3..COUNT {
            let new = bench.lab.add_instance();
            assert_eq!(new, index);
            let instance = &bench.lab.instances[new];
            instance.ns.run(|| sh("ip link set eth0 down"));
            sh(&format!("ip link set {} down", instance.link.name));
            bench.lab.ready(new);
        }
        sh("ip link set hm-node down");
        let mut remotes = Vec::new();
        for (n, tenant) in [(5, TENANT), (6, TENANT + 1)] {
            for text in [format!("10.88.1.{n}"), format!("fd68:6d00:0:1::1:{n}")] {
                let address: IpAddr = text.parse().expect("an address");
                bench
                    .lab
                    .tables
                    .peers
                    .insert(address, PeerRow { class: FIRST_CLASS + 20 + n, tenant, ifindex: 0, node: None });
                remotes.push(address);
            }
        }
        let foreign = bench.lab.instances[FOREIGN].link.ifindex;
        bench.lab.tables.endpoints.get_mut(&foreign).expect("a row").tenant = TENANT + 1;
        for family in FAMILIES {
            let address = bench.address(FOREIGN, family);
            bench.lab.tables.peers.get_mut(&address).expect("a row").tenant = TENANT + 1;
        }
        let hosts = (0..COUNT).map(|n| {
            let link = &bench.lab.instances[n].link;
            Host {
                ifindex: link.ifindex,
                mac: link.instance_mac.0,
                host_mac: link.host_mac.0,
                addresses: FAMILIES.map(|family| bench.address(n, family)),
                ready: n != UNREADY,
            }
        });
        let mut world = Self {
            hosts: hosts.collect(),
            remotes,
            node: [UPLINK[0].0.into(), UPLINK[0].1.into(), GATEWAY.0.into(), GATEWAY.1.into()].into(),
            frontends: HashMap::new(),
            vips: BTreeSet::new(),
            published: HashMap::new(),
            friends: FRIENDS.map(net).into(),
            ranges: ["10.88.0.0/16", "fd68:6d00:0:1::/64"].map(net).into(),
            services: ["10.96.0.0/16", "fd68:6d00:0:2::/112"].map(net).into(),
            rules: rules(0),
        };
        world.serve(&mut bench);
        world.legislate(&mut bench, 0);
        (bench, world)
    }

    /// Services and published ports: those of the bench, one of an isolated instance, one of another node's.
    fn serve(&mut self, bench: &mut Bench) {
        for (protocol, number) in [(Protocol::Tcp, TCP), (Protocol::Udp, UDP)] {
            bench.lab.service(5, 80, 8050, protocol, &[3]);
            bench.lab.publish(5, 9003, 443, protocol, &[3]);
            for (side, family) in FAMILIES.into_iter().enumerate() {
                let remote = (self.remotes[side], 8080);
                let row = ServiceRow::equal(6, [remote]);
                bench.lab.tables.services.insert(Frontend::Virtual(vip(family, 6), 80, protocol), row);
                bench.lab.tables.services.insert(Frontend::Address(vip(family, 6)), ServiceRow::equal(6, []));
                let backend = |n: usize, port| (self.hosts[n].addresses[side], port);
                for (n, behind) in [
                    (1, Behind::Backend(backend(1, 8080))),
                    (2, Behind::Backend(backend(1, 8080))),
                    (3, Behind::Nobody(Reason::NoBackend)),
                    (4, Behind::Nobody(Reason::NoLocalBackend)),
                    (5, Behind::Backend(backend(3, 8050))),
                    (6, Behind::Backend(remote)),
                ] {
                    self.frontends.insert((vip(family, n), 80, number), behind);
                    self.vips.insert(vip(family, n));
                }
                let v4 = family == Family::V4;
                for (port, to, friends) in
                    [(9000, backend(1, 8080), false), (9002, backend(1, 8080), true), (9003, backend(3, 443), false)]
                {
                    self.published.insert((v4, port, number), (to, friends));
                }
            }
        }
    }

    /// Writes the rules of `variant` into the tables, and goes by them.
    pub(crate) fn legislate(&mut self, bench: &mut Bench, variant: usize) {
        self.rules = rules(variant);
        let class = BLOCK | 9;
        bench.lab.tables.blocks.extend(BLOCKS.map(|block| (net(block), class)));
        bench.lab.tables.blocks.extend(HOLES.map(|hole| (net(hole), 0_u32)));
        let mut begins: BTreeMap<PolicyProtocol, BTreeSet<u16>> = BTreeMap::new();
        for rule in &self.rules {
            if let (Some(protocol), Some((first, last))) = (rule.protocol, rule.ports) {
                begins.entry(protocol).or_insert_with(|| [0].into()).extend([first, last + 1]);
            }
        }
        let mut rows = Vec::new();
        for (order, rule) in (1..).zip(&self.rules) {
            let set = set(rule.about, rule.tier);
            let peers: Vec<u32> = match rule.peer {
                Peer::Anybody if rule.action == Action::Deny => [ANYBODY, OTHERS].into(),
                Peer::Anybody => [ANYBODY].into(),
                Peer::World => [WORLD].into(),
                Peer::Instance(n) => [lab::class(n)].into(),
                Peer::Remote => [FIRST_CLASS + 25].into(),
                Peer::Block => [class].into(),
            };
            let ports: BTreeSet<u32> = match (rule.protocol, rule.ports) {
                (Some(protocol), Some((first, last))) => {
                    (first..=last).map(|port| interval(begins.get(&protocol), port)).collect()
                }
                _ => [ALL_PORTS].into(),
            };
            for peer in peers {
                for port in &ports {
                    let key = RuleKey { set, direction: rule.way, peer, protocol: rule.protocol, port: *port };
                    rows.push((key, RuleRow { number: order, action: rule.action, order }));
                }
            }
        }
        // Of two rules with one key the first decides.
        rows.reverse();
        bench.lab.tables.rules = rows.into_iter().collect();
        bench.lab.tables.intervals = begins;
        for n in 0..COUNT {
            let Some(row) = bench.lab.tables.endpoints.get_mut(&self.hosts[n].ifindex) else { continue };
            let ruled = |way| isolated(n, way) || self.rules.iter().any(|rule| rule.about == n && rule.way == way);
            let has = |tier| self.rules.iter().any(|rule| rule.about == n && rule.tier == tier);
            let mut sets = [0; SETS];
            for tier in [ADMIN, OWN, BASELINE].into_iter().filter(|tier| has(*tier)) {
                sets[tier] = set(n, tier);
            }
            row.policy = EndpointPolicy {
                sets,
                isolated_in: isolated(n, Direction::In),
                isolated_out: isolated(n, Direction::Out),
                ruled_in: ruled(Direction::In),
                ruled_out: ruled(Direction::Out),
                ..EndpointPolicy::default()
            };
            row.blocks = true;
        }
        bench.lab.sync();
    }

    /// The instance of this node that has the address.
    pub(crate) fn host_of(&self, address: IpAddr) -> Option<usize> {
        self.hosts.iter().position(|host| host.addresses.contains(&address))
    }

    pub(crate) fn is_instance(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(&address))
    }

    pub(crate) fn is_service(&self, address: IpAddr) -> bool {
        self.services.iter().any(|range| range.contains(&address))
    }

    pub(crate) fn is_friend(&self, address: IpAddr) -> bool {
        self.friends.iter().any(|range| range.contains(&address))
    }

    /// May what begins `packet`, from `from` to `to`, leave the instance `sender` and enter the instance `receiver`?
    pub(crate) fn may(
        &self,
        packet: &Packet,
        [from, to]: [End; 2],
        [sender, receiver]: [Option<usize>; 2],
    ) -> Result<(), Reason> {
        let port = if packet.is_icmp() { packet.detail.into() } else { to.1 };
        if let Some(sender) = sender {
            if !self.hosts[sender].ready {
                return Err(Reason::NotReady);
            }
            self.judge(Direction::Out, sender, to.0, packet.protocol, port)?;
        }
        let Some(receiver) = receiver else { return Ok(()) };
        if !self.hosts[receiver].ready {
            return Err(Reason::PeerNotReady);
        }
        self.judge(Direction::In, receiver, from.0, packet.protocol, port)
    }

    /// `docs/policies.md`, "What decides".
    fn judge(&self, way: Direction, about: usize, peer: IpAddr, protocol: u8, port: u16) -> Result<(), Reason> {
        let denied = if way == Direction::In { Reason::PolicyIn } else { Reason::PolicyOut };
        let instance = self.host_of(peer);
        let remote = self.remotes.iter().position(|remote| *remote == peer);
        if instance.is_none() && self.node.contains(&peer) {
            return Ok(());
        }
        if instance.is_none() && remote.is_none() && self.is_instance(peer) {
            return Err(Reason::SpoofedAddress);
        }
        let foreign = |n: Option<usize>| n == Some(FOREIGN);
        let theirs = foreign(instance) || remote.is_some_and(|n| n >= 2);
        let other = way == Direction::In && (instance.is_some() || remote.is_some()) && theirs != (about == FOREIGN);
        let protocol = match protocol {
            TCP => Some(PolicyProtocol::Tcp),
            UDP => Some(PolicyProtocol::Udp),
            SCTP => Some(PolicyProtocol::Sctp),
            ICMP | ICMPV6 => Some(PolicyProtocol::Icmp),
            _ => None,
        };
        let matches = |rule: &&Rule, tier| {
            let who = match rule.peer {
                Peer::Anybody => !other || rule.action == Action::Deny,
                Peer::World => instance.is_none() && remote.is_none(),
                Peer::Instance(n) => instance == Some(n),
                Peer::Remote => remote.is_some_and(|n| n < 2),
                Peer::Block => {
                    let within = |blocks: [&str; 2]| blocks.map(net).iter().any(|block| block.contains(&peer));
                    !other && within(BLOCKS) && !within(HOLES)
                }
            };
            let what = rule.protocol.is_none() || rule.protocol == protocol;
            let which = rule.ports.is_none_or(|(first, last)| (first..=last).contains(&port));
            (rule.about, rule.tier, rule.way) == (about, tier, way) && who && what && which
        };
        let first = |tier| self.rules.iter().find(|rule| matches(rule, tier)).map(|rule| rule.action);
        match first(ADMIN) {
            Some(Action::Accept) => return Ok(()),
            Some(Action::Deny) => return Err(denied),
            _ => {}
        }
        if isolated(about, way) {
            let none = if other { Reason::OtherTenant } else { denied };
            return first(OWN).map(|_| ()).ok_or(none);
        }
        match first(BASELINE) {
            Some(Action::Accept) => Ok(()),
            Some(Action::Deny) => Err(denied),
            _ if other => Err(Reason::OtherTenant),
            _ => Ok(()),
        }
    }
}

/// The number of an instance's set of a tier.
fn set(about: usize, tier: usize) -> u32 {
    u32::try_from(about * 10 + tier + 100).expect("few")
}
