//! Who talks with whom, what was dropped, and which rule decided: live, and as it happens.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{Json as Body, extract::State, response::Response};
use futures::stream;
use hivemind_ebpf::{packet, reason::Reason};
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::IntoParams;

use super::{
    ApiState,
    events::{lines, ndjson},
    extract::Args,
    flow_view::{DroppedView, FlowEndView, FlowKind, FlowVerdict, FlowView},
    problem::{ApiError, with_nearest},
    serve::Stop,
};
use crate::{
    agent::datapath::{Names, Seen},
    dataplane::{
        DataplaneError,
        flows::{DropRecord, FlowEnd, FlowRecord, Told},
    },
    ipam,
    lifecycle::clock,
    model::{ClusterSnapshot, ErrorCode, InstanceId, NamespaceName, Problem, TenantName},
    policy::{Direction, RuleName},
};

/// What one line of the stream's batches has at most: then the next batch begins.
const BATCH: usize = 256;

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct FlowArgs {
    /// Only flows that an instance of this tenant takes part in.
    #[param(value_type = Option<String>)]
    tenant: Option<TenantName>,
    /// Only flows that an instance of a namespace of this name takes part in.
    #[param(value_type = Option<String>)]
    namespace: Option<NamespaceName>,
    /// Only flows that an instance of an app of this name takes part in.
    app: Option<String>,
    /// Only flows of the instance of this name or id.
    instance: Option<String>,
    /// Only flows of this address.
    #[param(value_type = Option<String>)]
    address: Option<IpAddr>,
    /// Who began it: an instance's name or id, an app as `APP`, `NAMESPACE/APP` or `TENANT/NAMESPACE/APP`, an IP
    /// address, `world` or `host`.
    from: Option<String>,
    /// Who was to be reached: the same, or a service's name.
    to: Option<String>,
    /// Only flows with this port at one end.
    port: Option<u16>,
    /// Only flows of this protocol: `tcp`, `udp`, `icmp`, `sctp`, or a number.
    protocol: Option<String>,
    /// Only what was forwarded, or dropped.
    verdict: Option<FlowVerdict>,
    /// Only what was dropped for this reason, as `policy-in`.
    reason: Option<String>,
}

impl FlowArgs {
    /// What can match nothing is a slip of the pen, not an empty list.
    fn check(self) -> Result<Self, ApiError> {
        if let Some(wanted) = &self.reason {
            let mut known = Reason::ALL.iter().map(|reason| reason.as_str());
            if !known.any(|known| known == wanted) {
                let problem =
                    Problem::new(ErrorCode::Invalid, format!("there is no reason {wanted} to drop a packet for"));
                let known = Reason::ALL.iter().map(|reason| reason.as_str());
                return Err(with_nearest(problem, wanted, known).hint("hivemind flows --dropped").into());
            }
        }
        if let Some(wanted) = &self.protocol {
            let known = ["tcp", "udp", "icmp", "sctp"];
            if !known.iter().any(|known| wanted.eq_ignore_ascii_case(known)) && wanted.parse::<u8>().is_err() {
                let what = format!("there is no protocol {wanted}: tcp, udp, icmp, sctp, or a number from 0 to 255");
                return Err(Problem::new(ErrorCode::Invalid, what).into());
            }
        }
        Ok(self)
    }

    fn wants(&self, view: &FlowView) -> bool {
        let ends = [&view.from, &view.to];
        // Tenant, namespace, app and instance are to be those of one end.
        let of_one = ends.iter().any(|end| {
            let is = |wanted: Option<&str>, own: Option<&str>| wanted.is_none() || wanted == own;
            is(self.tenant.as_ref().map(TenantName::as_str), end.tenant.as_deref())
                && is(self.namespace.as_ref().map(NamespaceName::as_str), end.namespace.as_deref())
                && is(self.app.as_deref(), end.app.as_deref())
                && self.instance.as_ref().is_none_or(|wanted| end.is_instance(wanted))
        });
        of_one
            && self.address.is_none_or(|wanted| ends.iter().any(|end| end.address == Some(wanted)))
            && self.port.is_none_or(|wanted| ends.iter().any(|end| end.port == wanted))
            && self.from.as_ref().is_none_or(|wanted| view.from.is(wanted))
            && self.to.as_ref().is_none_or(|wanted| view.to.is(wanted) || view.service_is(wanted))
            && self.protocol.as_ref().is_none_or(|wanted| view.protocol.eq_ignore_ascii_case(wanted))
            && self.verdict.is_none_or(|wanted| wanted == view.verdict)
            && self.reason.as_ref().is_none_or(|wanted| view.dropped.as_ref().is_some_and(|d| d.reason == *wanted))
    }
}

/// The live flows of this node, and what was dropped last; the latest come last.
#[utoipa::path(get, operation_id = "listFlows", path = "/v1/flows", tag = "flows", params(FlowArgs),
    responses((status = 200, body = [FlowView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    Args(args): Args<FlowArgs>,
) -> Result<Body<Vec<FlowView>>, ApiError> {
    let args = args.check()?;
    let Seen { flows, drops } = state.datapath.seen().await?;
    let who = Who::now(&state).await?;
    let flows = flows.iter().map(|flow| who.flow(FlowKind::Live, flow));
    let mut views: Vec<_> = flows.chain(drops.iter().map(|drops| who.dropped(drops))).collect();
    views.retain(|view| args.wants(view));
    views.sort_by_key(|view| (view.last, view.first));
    Ok(Body(views))
}

/// Flows of this node as they begin and end, and packets that are dropped: a JSON document for each, from now on. What
/// a reader is too slow for is said by a document of the kind `missed`.
#[utoipa::path(get, operation_id = "watchFlows", path = "/v1/flows/watch", tag = "flows", params(FlowArgs),
    responses((status = 200, body = FlowView, content_type = "application/x-ndjson"), (status = "4XX", body = Problem)))]
pub(super) async fn watch(
    State(state): State<ApiState>,
    State(stop): State<Stop>,
    Args(args): Args<FlowArgs>,
) -> Result<Response, ApiError> {
    let args = args.check()?;
    let listener = state.datapath.watch().listen()?;
    let chunks = stream::unfold((listener, state, args, None), |(mut listener, state, args, mut known)| async move {
        loop {
            let mut batch = vec![listener.next().await?];
            while let (true, Some(told)) = (batch.len() < BATCH, listener.try_next()) {
                batch.push(told);
            }
            // An error means that the daemon is stopping.
            let who = Who::lately(&state, known.take()).await.ok()?;
            let views = batch.into_iter().map(|told| match told {
                Ok(Told::Begun(flow)) => who.flow(FlowKind::Begun, &flow),
                Ok(Told::Ended(flow)) => who.flow(FlowKind::Ended, &flow),
                Ok(Told::Dropped(drops)) => who.dropped(&drops),
                Err(missed) => FlowView::missed(missed, clock::now()),
            });
            let views: Vec<_> = views.filter(|view| view.kind == FlowKind::Missed || args.wants(view)).collect();
            known = Some(who);
            if !views.is_empty() {
                return Some((Ok::<_, std::convert::Infallible>(lines(&views)), (listener, state, args, known)));
            }
        }
    });
    Ok(ndjson(chunks, stop))
}

/// For how long who reads a stream is told of everybody by the same names, if nothing of the cluster changes.
const LATELY: Duration = Duration::from_millis(100);

/// Whose addresses, services and rules are.
pub(super) struct Who {
    at: Instant,
    snapshot: Arc<ClusterSnapshot>,
    names: Names,
    addresses: HashMap<IpAddr, InstanceId>,
    services: HashMap<u32, String>,
    virtual_addresses: HashMap<IpAddr, String>,
}

impl Who {
    pub(super) async fn now(state: &ApiState) -> Result<Self, DataplaneError> {
        Ok(Self::new(state.control.snapshot(), state.datapath.names().await?))
    }

    /// What is known still, or as it is now. To list everybody takes longer than to name the few who have just spoken.
    async fn lately(state: &ApiState, known: Option<Self>) -> Result<Self, DataplaneError> {
        match known {
            Some(known) if known.at.elapsed() < LATELY && Arc::ptr_eq(&known.snapshot, &state.control.snapshot()) => {
                Ok(known)
            }
            _ => Self::now(state).await,
        }
    }

    fn new(snapshot: Arc<ClusterSnapshot>, names: Names) -> Self {
        let instances = snapshot.instances.values().map(|row| &row.object);
        let addresses = instances.flat_map(|i| i.addresses.iter().map(|address| (address, i.id.clone()))).collect();
        let all = || snapshot.services.values().map(|row| &row.object);
        let services = all().map(|service| (service.id, service.key.to_string())).collect();
        let virtual_addresses = all()
            .flat_map(|service| service.addresses.iter().map(|address| (address, service.key.to_string())))
            .collect();
        Self { at: Instant::now(), snapshot, names, addresses, services, virtual_addresses }
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

    fn end(&self, address: IpAddr, port: u16, traffic: (u64, u64)) -> FlowEndView {
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

    fn rule(&self, number: u32) -> Option<&RuleName> {
        self.names.policies.names.get(&number)
    }

    fn flow(&self, kind: FlowKind, flow: &FlowRecord) -> FlowView {
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
            dropped: None,
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

    fn dropped(&self, drops: &DropRecord) -> FlowView {
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
        let rule = self.rule(drops.rule);
        let direction = if drops.direction == Direction::In { "in" } else { "out" };
        FlowView {
            kind: FlowKind::Dropped,
            verdict: FlowVerdict::Dropped,
            from,
            to,
            protocol: protocol(drops.protocol),
            service: drops.ends.and_then(|(_, to)| self.service(0, Some(to))),
            asked: None,
            policy: rule.map(|rule| rule.policy.to_string()),
            rule: rule.map(|rule| rule.index),
            dropped: Some(DroppedView {
                reason: drops.reason.as_str().into(),
                at: at.map_or_else(|| "node".into(), |row| row.object.name()),
                direction: direction.into(),
            }),
            first: drops.first,
            last: drops.last,
            answered: false,
            closed: false,
            missed: 0,
        }
    }
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

#[cfg(test)]
#[path = "flows_tests.rs"]
pub(super) mod tests;
