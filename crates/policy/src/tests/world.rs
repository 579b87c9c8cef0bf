//! A cluster that is only a node's view, and short words for what policies say.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use crate::{Compiled, Failsafe, KnownNames, compile_with};
use hivemind_core::{
    model::{Addresses, InstanceId, Namespace, NodeDesired, NodeName, Policy, PolicyKey, Scope, TierPolicy, Timestamp},
    spec::v1::{
        BlockPeer, InstancePeer, Operator, Otherwise, PolicyPeer, PolicyPort, PolicyProtocol, PolicyRule, PolicySpec,
        PortMatch, Requirement, Selector, TierSpec,
    },
};

/// The node whose view it is.
pub(crate) fn node() -> NodeName {
    name("node-1")
}

pub(crate) fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a valid word")
}

/// `tenant/namespace`, or a namespace of the tenant `default`.
pub(crate) fn scope(text: &str) -> Scope {
    let (tenant, namespace) = text.split_once('/').unwrap_or(("default", text));
    Scope { tenant: name(tenant), namespace: name(namespace) }
}

/// `key=value,key=value`
pub(crate) fn labels(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.into(), value.into())).collect()
}

#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(super) desired: NodeDesired,
    pub(super) known: KnownNames,
    pub(super) failsafe: Failsafe,
}

impl World {
    pub(crate) fn namespace(&mut self, at: &str, text: &str) {
        let namespace = Namespace { scope: scope(at), labels: labels(text), created_at: Timestamp::from_millis(0) };
        self.desired.namespaces.insert(scope(at), Arc::new(namespace));
    }

    /// The n-th instance has the addresses 10.0.0.n and fd00::n.
    pub(crate) fn instance(&mut self, at: &str, text: &str) -> InstanceId {
        self.instance_on("node-1", at, text)
    }

    pub(crate) fn instance_on(&mut self, on: &str, at: &str, text: &str) -> InstanceId {
        let n = self.desired.peers.len() as u32 + 1;
        let id = InstanceId::from_bits(n.into());
        let addresses = Addresses {
            v4: Some((u32::from_be_bytes([10, 0, 0, 0]) + n).into()),
            v6: Some((0xfd00_u128 << 112 | u128::from(n)).into()),
        };
        let peer = hivemind_core::model::Peer { node: name(on), addresses, scope: scope(at), labels: labels(text) };
        self.desired.peers.insert(id.clone(), Arc::new(peer));
        id
    }

    pub(crate) fn relabel(&mut self, id: &InstanceId, text: &str) {
        let mut peer = (*self.desired.peers[id]).clone();
        peer.labels = labels(text);
        self.desired.peers.insert(id.clone(), Arc::new(peer));
    }

    pub(crate) fn policy(&mut self, at: &str, called: &str, spec: PolicySpec) {
        let key = PolicyKey::new(scope(at), name(called));
        let policy = Policy { key: key.clone(), spec, created_at: Timestamp::from_millis(0) };
        self.desired.policies.insert(key, Arc::new(policy));
    }

    /// `NAME` of the operator's, `TENANT/NAME` of a tenant's.
    pub(crate) fn tier(&mut self, called: &str, spec: TierSpec) {
        let policy = TierPolicy { key: name(called), spec, created_at: Timestamp::from_millis(0) };
        self.desired.tiers.insert(policy.key.clone(), Arc::new(policy));
    }

    pub(crate) fn compile(&self) -> Compiled {
        compile_with(&self.desired, &node(), &self.known, &self.failsafe)
    }

    pub(crate) fn v4(&self, id: &InstanceId) -> IpAddr {
        IpAddr::from(self.desired.peers[id].addresses.v4.expect("it has one"))
    }
}

pub(crate) fn all() -> Selector {
    Selector::default()
}

pub(crate) fn with(text: &str) -> Selector {
    Selector { labels: labels(text), expressions: Vec::new() }
}

pub(crate) fn where_(key: &str, operator: Operator, values: &[&str]) -> Selector {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    Selector { labels: BTreeMap::new(), expressions: vec![Requirement { key: key.into(), operator, values }] }
}

pub(crate) fn pods(instances: Selector) -> PolicyPeer {
    PolicyPeer::Instances(InstancePeer { namespaces: None, instances })
}

pub(crate) fn namespaces(namespaces: Selector) -> PolicyPeer {
    both(namespaces, all())
}

pub(crate) fn both(namespaces: Selector, instances: Selector) -> PolicyPeer {
    PolicyPeer::Instances(InstancePeer { namespaces: Some(namespaces), instances })
}

pub(crate) fn block(cidr: &str, except: &[&str]) -> PolicyPeer {
    PolicyPeer::Block(BlockPeer { cidr: name(cidr), except: except.iter().map(|text| name(text)).collect() })
}

pub(crate) fn ports(protocol: PolicyProtocol, first: u16, last: u16) -> PolicyPort {
    PolicyPort { protocol, port: Some(PortMatch::Range(first, last)) }
}

pub(crate) fn tcp(port: u16) -> PolicyPort {
    ports(PolicyProtocol::Tcp, port, port)
}

pub(crate) fn rule(peers: impl Into<Vec<PolicyPeer>>, ports: impl Into<Vec<PolicyPort>>) -> PolicyRule {
    PolicyRule { peers: peers.into(), ports: ports.into() }
}

pub(crate) fn from(peers: impl Into<Vec<PolicyPeer>>) -> Vec<PolicyRule> {
    vec![rule(peers, [])]
}

pub(crate) fn spec(
    instances: Selector,
    ingress: Option<Vec<PolicyRule>>,
    egress: Option<Vec<PolicyRule>>,
) -> PolicySpec {
    PolicySpec { instances, ingress, egress, audit: false, otherwise: Otherwise::Deny }
}

pub(crate) fn ingress(instances: Selector, rules: impl Into<Vec<PolicyRule>>) -> PolicySpec {
    spec(instances, Some(rules.into()), None)
}

pub(crate) fn egress(instances: Selector, rules: impl Into<Vec<PolicyRule>>) -> PolicySpec {
    spec(instances, None, Some(rules.into()))
}
