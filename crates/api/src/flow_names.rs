//! By which names flows are shown: whose addresses, services and rules are, and who decided about what was dropped.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hivemind_ebpf::{packet, reason::Reason};
use tokio::time::Instant;

use super::{
    ApiState, flow_limits,
    flow_view::{DroppedView, FlowEndView, FlowKind, FlowVerdict, FlowView},
};
use hivemind_agent::datapath::{Names, User};
use hivemind_core::{
    ipam,
    model::{ClusterSnapshot, Instance, InstanceId, NodeDesired, NodeName, Protocol},
};
use hivemind_dataplane::{
    DataplaneError,
    flows::{DropRecord, FlowEnd, FlowRecord},
    tables::Usage,
};
use hivemind_policy::{Direction, PolicyRef, RuleName, Verdict, closed_by_host};

/// For how long who reads a stream is told of everybody by the same names, if nothing of the cluster changes.
const LATELY: Duration = Duration::from_millis(100);

/// Whose addresses, services and rules are.
pub(super) struct Who {
    at: Instant,
    pub(super) snapshot: Arc<ClusterSnapshot>,
    names: Names,
    addresses: HashMap<IpAddr, InstanceId>,
    services: HashMap<u32, String>,
    virtual_addresses: HashMap<IpAddr, String>,
    /// Services by the ports of the node that they publish.
    published: HashMap<(u16, Protocol), String>,
    uses: Vec<(User, Usage)>,
    node: NodeName,
    /// The policies of tiers, and nothing else.
    of_host: NodeDesired,
}

impl Who {
    pub(super) async fn now(state: &ApiState) -> Result<Self, DataplaneError> {
        let uses = state.datapath.uses().await?;
        Ok(Self::new(state.control.snapshot(), state.datapath.names().await?, uses, state.node.clone()))
    }

    /// What is known still, or as it is now. To list everybody takes longer than to name the few who have just spoken.
    pub(super) async fn lately(state: &ApiState, known: Option<Self>) -> Result<Self, DataplaneError> {
        match known {
            Some(known) if known.at.elapsed() < LATELY && Arc::ptr_eq(&known.snapshot, &state.control.snapshot()) => {
                Ok(known)
            }
            _ => Self::now(state).await,
        }
    }

    pub(super) fn new(snapshot: Arc<ClusterSnapshot>, names: Names, uses: Vec<(User, Usage)>, node: NodeName) -> Self {
        let instances = snapshot.instances.values().map(|row| &row.object);
        let addresses = instances.flat_map(|i| i.addresses.iter().map(|address| (address, i.id.clone()))).collect();
        let all = || snapshot.services.values().map(|row| &row.object);
        let services = all().map(|service| (service.id, service.key.to_string())).collect();
        let virtual_addresses = all()
            .flat_map(|service| service.addresses.iter().map(|address| (address, service.key.to_string())))
            .collect();
        let ports = all().flat_map(|service| service.ports.iter().map(move |port| (service, port)));
        let published = ports.filter_map(|(of, port)| Some(((port.published?, port.protocol), of.key.to_string())));
        let published = published.collect();
        let at = Instant::now();
        let tiers = snapshot.tiers.iter().map(|(key, row)| (key.clone(), Arc::clone(&row.object))).collect();
        let of_host = NodeDesired { tiers, ..NodeDesired::default() };
        Self { at, snapshot, names, addresses, services, virtual_addresses, published, uses, node, of_host }
    }

    /// Whether it is an address of this node, or of another one towards its instances.
    fn is_node(&self, address: IpAddr) -> bool {
        let mut nodes = self.snapshot.nodes.values().map(|row| &row.object);
        let gateways = nodes.any(|node| match address {
            IpAddr::V4(v4) => node.instances_v4.is_some_and(|range| ipam::node_v4(range) == Some(v4)),
            IpAddr::V6(v6) => node.instances_v6.is_some_and(|range| ipam::node_v6(range) == v6),
        });
        gateways || address.is_loopback() || self.names.addresses.contains(&address)
    }

    pub(super) fn end(&self, address: IpAddr, port: u16, traffic: (u64, u64)) -> FlowEndView {
        let instance = self.addresses.get(&address).and_then(|id| self.snapshot.instances.get(id));
        let instance = instance.map(|row| &row.object);
        let gone = || {
            let in_range = |range: Option<ipnet::IpNet>| range.is_some_and(|range| range.contains(&address));
            let mut nodes = self.snapshot.nodes.values().map(|row| &row.object);
            nodes.any(|node| in_range(node.instances_v4.map(Into::into)) || in_range(node.instances_v6.map(Into::into)))
        };
        let who = match instance {
            Some(_) => String::new(),
            None if self.is_node(address) => "host".into(),
            None if self.virtual_addresses.contains_key(&address) => "service".into(),
            None if gone() => "gone".into(),
            None => "world".into(),
        };
        let (packets, bytes) = traffic;
        let mut end = FlowEndView { who, address: Some(address), port, packets, bytes, ..FlowEndView::default() };
        if let Some(instance) = instance {
            end.is_of(instance);
        }
        end
    }

    /// The instance behind a device, or what the device is.
    pub(super) fn instance_at(&self, device: u32) -> String {
        let instance = self.names.devices.get(&device).and_then(|id| self.snapshot.instances.get(id));
        match (instance, device) {
            (Some(row), _) => row.object.name(),
            (None, 0) => "node".into(),
            (None, hivemind_ebpf::abi::RETIRED) => "gone".into(),
            (None, index) => format!("interface-{index}"),
        }
    }

    /// The name of an instance, or its id.
    pub(super) fn name_of_instance(&self, id: &InstanceId) -> String {
        self.snapshot.instances.get(id).map_or_else(|| id.to_string(), |row| row.object.name())
    }

    /// The name of a tenant by its number, or the number; nothing for none.
    pub(super) fn tenant_of(&self, number: u32) -> String {
        if number == 0 {
            return String::new();
        }
        let mut peers = self.names.policies.peers.iter().filter(|(_, peer)| peer.tenant == number);
        let name = peers.find_map(|(id, _)| Some(self.snapshot.instances.get(id)?.object.app.scope.tenant.to_string()));
        name.unwrap_or_else(|| format!("number {number}"))
    }

    /// Whose an address is.
    pub(super) fn name_of(&self, address: IpAddr) -> String {
        self.end(address, 0, (0, 0)).who
    }

    /// One end of a flow: who, and its port.
    pub(super) fn end_of(&self, address: IpAddr, port: u16) -> String {
        let who = self.name_of(address);
        let at = SocketAddr::new(address, port);
        if matches!(who.as_str(), "host" | "service" | "gone" | "world") {
            at.to_string()
        } else {
            format!("{who}:{port}")
        }
    }

    /// The name of a service by its number, or the number; nothing for none.
    pub(super) fn service_of(&self, number: u32) -> String {
        if number == 0 {
            return String::new();
        }
        self.services.get(&number).cloned().unwrap_or_else(|| format!("number {number}"))
    }

    /// The name of a rule by its number, or the number; nothing for none.
    pub(super) fn rule_of(&self, number: u32) -> String {
        match self.rule(number) {
            None if number == 0 => String::new(),
            None => format!("number {number}"),
            Some(rule) => format!("rule {} of {}", rule.index, rule.policy),
        }
    }

    /// The same, in words for people; nothing for none.
    fn by_rule(&self, number: u32) -> Option<String> {
        match self.rule(number) {
            None if number == 0 => None,
            None => Some("a rule that is gone".into()),
            Some(RuleName { policy, direction: Direction::Published, index }) => {
                Some(format!("rule {index} for published ports of policy {policy}"))
            }
            Some(RuleName { policy: PolicyRef::Failsafe, .. }) => Some(PolicyRef::Failsafe.to_string()),
            Some(RuleName { policy, index, .. }) => Some(format!("rule {index} of policy {policy}")),
        }
    }

    fn rule(&self, number: u32) -> Option<&RuleName> {
        // Of what is gone the name is as it was: history is not written anew.
        self.names.policies.names.get(&number).or_else(|| self.names.retired.get(&number))
    }

    pub(super) fn flow(&self, kind: FlowKind, flow: &FlowRecord) -> FlowView {
        let end = |end: &FlowEnd| self.end(end.address, end.port, (end.packets, end.bytes));
        let asked = flow.asked;
        let rule = self.rule(flow.rule);
        FlowView {
            kind,
            verdict: FlowVerdict::Forwarded,
            from: end(&flow.from),
            to: end(&flow.to),
            protocol: protocol(flow.protocol),
            service: self.service(flow.service, asked),
            asked: asked.map(|asked| asked.to_string()),
            policy: rule.map(|rule| rule.policy.to_string()),
            rule: rule.map(|rule| rule.index),
            by: self.by_rule(flow.rule),
            dropped: None,
            limit: None,
            housekeeping: false,
            first: flow.first,
            last: flow.last,
            answered: flow.answered,
            closed: flow.closed,
            missed: 0,
        }
    }

    fn service(&self, number: u32, asked: Option<SocketAddr>) -> Option<String> {
        let by_address = || self.virtual_addresses.get(&asked?.ip());
        self.services.get(&number).or_else(by_address).cloned()
    }

    pub(super) fn dropped(&self, drops: &DropRecord) -> FlowView {
        let traffic = (drops.packets, drops.bytes);
        let nobody = || FlowEndView { who: "unknown".into(), ..FlowEndView::default() };
        let (mut from, mut to) = match drops.ends {
            Some((from, to)) => (self.end(from.ip(), from.port(), (0, 0)), self.end(to.ip(), to.port(), (0, 0))),
            None => (nobody(), nobody()),
        };
        (from.packets, from.bytes) = traffic;
        let at = self.names.devices.get(&drops.device).and_then(|id| self.snapshot.instances.get(id));
        // Whatever address a packet carries, it is known who has sent it, or whom it came to.
        let own = if drops.direction == Direction::In { &mut to } else { &mut from };
        if let (Some(row), None) = (at, &own.instance) {
            own.is_of(&row.object);
        }
        let direction = if drops.direction == Direction::In { "in" } else { "out" };
        let tried = self.tried(drops);
        let passes = matches!(drops.reason, Reason::Audit | Reason::Untracked);
        let rule = self.rule(drops.rule);
        let service = drops.ends.and_then(|(_, to)| self.asked_for(to, drops.protocol));
        let mut view = FlowView {
            kind: if passes { FlowKind::Tried } else { FlowKind::Dropped },
            verdict: if passes { FlowVerdict::Forwarded } else { FlowVerdict::Dropped },
            from,
            to,
            protocol: protocol(drops.protocol),
            service,
            asked: None,
            policy: rule.map(|rule| rule.policy.to_string()),
            rule: rule.map(|rule| rule.index),
            by: None,
            dropped: Some(DroppedView {
                reason: drops.reason.as_str().into(),
                at: at.map_or_else(|| "node".into(), |row| row.object.name()),
                direction: direction.into(),
            }),
            limit: None,
            housekeeping: is_housekeeping(drops),
            first: drops.first,
            last: drops.last,
            answered: false,
            closed: false,
            missed: 0,
        };
        if let [policy] = tried {
            view.policy = Some(policy.to_string());
        }
        let ends = drops.ends.map(|(from, to)| (self.instance_of(from.ip()), self.instance_of(to.ip())));
        let (sender, receiver) = ends.unwrap_or_default();
        view.limit = flow_limits::whose(&self.snapshot, &self.uses, drops.reason, sender, receiver);
        view.by = self.by_rule(drops.rule).or_else(|| self.by(drops, tried, &view));
        view
    }

    /// Who decided about a drop, where no rule has.
    fn by(&self, drops: &DropRecord, tried: &[PolicyRef], view: &FlowView) -> Option<String> {
        let names = |policies: &[PolicyRef]| {
            let names: Vec<_> = policies.iter().map(ToString::to_string).collect();
            names.join(", ")
        };
        let of_host = |direction| {
            let desired = &self.of_host;
            let mut closed_by = closed_by_host(desired, &self.node, direction, Verdict::Denied);
            // Who came later has not decided.
            closed_by.retain(|policy| match policy {
                PolicyRef::Tier(key) => desired.tiers.get(key).is_some_and(|of| of.created_at <= drops.last),
                PolicyRef::Namespace(_) | PolicyRef::Failsafe => false,
            });
            match closed_by.as_slice() {
                [] => "no rule allows it".to_owned(),
                [one] => format!("no rule of policy {one} allows it"),
                all => format!("no rule of policies {} allows it", names(all)),
            }
        };
        match drops.reason {
            Reason::PolicyIn | Reason::PolicyOut | Reason::Rejected => Some("no rule allows it".into()),
            Reason::OtherTenant => Some("no rule names that tenant".into()),
            Reason::HostIn => Some(of_host(Direction::In)),
            Reason::HostOut => Some(of_host(Direction::Out)),
            Reason::Published => Some(of_host(Direction::Published)),
            Reason::SourceRange => view.service.as_ref().map(|service| format!("source ranges of service {service}")),
            Reason::Audit => Some(match tried {
                [] => "a policy on trial that is gone".into(),
                [one] => format!("policy {one}, on trial"),
                all => format!("policies {}, on trial", names(all)),
            }),
            Reason::RateLimited | Reason::ConnectionLimit => view.limit.as_ref().map(|of| format!("limit of {of}")),
            Reason::FlowShare => view.limit.as_ref().map(|of| format!("share of the table of flows of {of}")),
            _ => None,
        }
    }

    /// Whose trial let something pass.
    fn tried(&self, drops: &DropRecord) -> &[PolicyRef] {
        let place = (drops.device, drops.direction);
        let all = (drops.reason == Reason::Audit).then(|| self.names.trials.get(&place)).flatten();
        all.map_or(&[], Vec::as_slice)
    }

    fn instance_of(&self, address: IpAddr) -> Option<&Instance> {
        Some(&*self.snapshot.instances.get(self.addresses.get(&address)?)?.object)
    }

    /// The service that a packet to this address and port asks for: by its own, or by one that the node publishes.
    fn asked_for(&self, to: SocketAddr, protocol: u8) -> Option<String> {
        if let Some(service) = self.virtual_addresses.get(&to.ip()) {
            return Some(service.clone());
        }
        let protocol = match protocol {
            packet::TCP => Protocol::Tcp,
            packet::UDP => Protocol::Udp,
            _ => return None,
        };
        self.published.get(&(to.port(), protocol)).filter(|_| self.is_node(to.ip())).cloned()
    }

    /// The cluster as it was when they were known.
    pub(super) fn snapshot(&self) -> &ClusterSnapshot {
        &self.snapshot
    }
}

/// Whether it is what a kernel says of itself when an instance's interface goes up, inside or at the host's end, which is
/// nobody's doing: that it looks whether its address is free, asks for routers, and tells which groups it listens to.
fn is_housekeeping(drops: &DropRecord) -> bool {
    // Types of ICMPv6, which are in place of a port.
    let kinds = [131, 132, 133, 135, 143];
    let Some((SocketAddr::V6(from), SocketAddr::V6(to))) = drops.ends else { return false };
    drops.protocol == packet::ICMPV6
        && matches!(drops.reason, Reason::SpoofedAddress | Reason::Multicast | Reason::Neighbour | Reason::Unroutable)
        && kinds.contains(&to.port())
        && (from.ip().is_unspecified() || from.ip().is_unicast_link_local())
        // Groups of the link.
        && to.ip().segments()[0] == 0xff02
}

/// A protocol's name, or its number.
pub(super) fn protocol(number: u8) -> String {
    match number {
        packet::TCP => "tcp".into(),
        packet::UDP => "udp".into(),
        packet::ICMP | packet::ICMPV6 => "icmp".into(),
        packet::SCTP => "sctp".into(),
        other => other.to_string(),
    }
}
