//! A cluster that is only a node's view, and short words for what policies say.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use crate::{
    model::{Addresses, InstanceId, Namespace, NodeDesired, NodeName, Policy, PolicyKey, Scope, TierPolicy, Timestamp},
    policy::{Compiled, Failsafe, KnownNames, compile_with},
    spec::v1::{
        BlockPeer, InstancePeer, Operator, Otherwise, PolicyPeer, PolicyPort, PolicyProtocol, PolicyRule, PolicySpec,
        PortMatch, Requirement, Selector, TierSpec,
    },
};

/// The node whose view it is.
pub(in crate::policy) fn node() -> NodeName {
    name("node-1")
}

pub(in crate::policy) fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a valid word")
}

/// `tenant/namespace`, or a namespace of the tenant `default`.
pub(in crate::policy) fn scope(text: &str) -> Scope {
    let (tenant, namespace) = text.split_once('/').unwrap_or(("default", text));
    Scope { tenant: name(tenant), namespace: name(namespace) }
}

/// `key=value,key=value`
pub(in crate::policy) fn labels(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.into(), value.into())).collect()
}

#[derive(Clone, Debug, Default)]
pub(in crate::policy) struct World {
    pub(super) desired: NodeDesired,
    pub(super) known: KnownNames,
    pub(super) failsafe: Failsafe,
}

impl World {
    pub(in crate::policy) fn namespace(&mut self, at: &str, text: &str) {
        let namespace = Namespace { scope: scope(at), labels: labels(text), created_at: Timestamp::from_millis(0) };
        self.desired.namespaces.insert(scope(at), Arc::new(namespace));
    }

    /// The n-th instance has the addresses 10.0.0.n and fd00::n.
    pub(in crate::policy) fn instance(&mut self, at: &str, text: &str) -> InstanceId {
        self.instance_on("node-1", at, text)
    }

    pub(in crate::policy) fn instance_on(&mut self, on: &str, at: &str, text: &str) -> InstanceId {
        let n = self.desired.peers.len() as u32 + 1;
        let id = InstanceId::from_bits(n.into());
        let addresses = Addresses {
            v4: Some((u32::from_be_bytes([10, 0, 0, 0]) + n).into()),
            v6: Some((0xfd00_u128 << 112 | u128::from(n)).into()),
        };
        let peer = crate::model::Peer { node: name(on), addresses, scope: scope(at), labels: labels(text) };
        self.desired.peers.insert(id.clone(), Arc::new(peer));
        id
    }

    pub(in crate::policy) fn relabel(&mut self, id: &InstanceId, text: &str) {
        let mut peer = (*self.desired.peers[id]).clone();
        peer.labels = labels(text);
        self.desired.peers.insert(id.clone(), Arc::new(peer));
    }

    pub(in crate::policy) fn policy(&mut self, at: &str, called: &str, spec: PolicySpec) {
        let key = PolicyKey::new(scope(at), name(called));
        let policy = Policy { key: key.clone(), spec, created_at: Timestamp::from_millis(0) };
        self.desired.policies.insert(key, Arc::new(policy));
    }

    /// `NAME` of the operator's, `TENANT/NAME` of a tenant's.
    pub(in crate::policy) fn tier(&mut self, called: &str, spec: TierSpec) {
        let policy = TierPolicy { key: name(called), spec, created_at: Timestamp::from_millis(0) };
        self.desired.tiers.insert(policy.key.clone(), Arc::new(policy));
    }

    pub(in crate::policy) fn compile(&self) -> Compiled {
        compile_with(&self.desired, &node(), &self.known, &self.failsafe)
    }

    pub(in crate::policy) fn v4(&self, id: &InstanceId) -> IpAddr {
        IpAddr::from(self.desired.peers[id].addresses.v4.expect("it has one"))
    }
}

pub(in crate::policy) fn all() -> Selector {
    Selector::default()
}

pub(in crate::policy) fn with(text: &str) -> Selector {
    Selector { labels: labels(text), expressions: Vec::new() }
}

pub(in crate::policy) fn where_(key: &str, operator: Operator, values: &[&str]) -> Selector {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    Selector { labels: BTreeMap::new(), expressions: vec![Requirement { key: key.into(), operator, values }] }
}

pub(in crate::policy) fn pods(instances: Selector) -> PolicyPeer {
    PolicyPeer::Instances(InstancePeer { namespaces: None, instances })
}

pub(in crate::policy) fn namespaces(namespaces: Selector) -> PolicyPeer {
    both(namespaces, all())
}

pub(in crate::policy) fn both(namespaces: Selector, instances: Selector) -> PolicyPeer {
    PolicyPeer::Instances(InstancePeer { namespaces: Some(namespaces), instances })
}

pub(in crate::policy) fn block(cidr: &str, except: &[&str]) -> PolicyPeer {
    PolicyPeer::Block(BlockPeer { cidr: name(cidr), except: except.iter().map(|text| name(text)).collect() })
}

pub(in crate::policy) fn ports(protocol: PolicyProtocol, first: u16, last: u16) -> PolicyPort {
    PolicyPort { protocol, port: Some(PortMatch::Range(first, last)) }
}

pub(in crate::policy) fn tcp(port: u16) -> PolicyPort {
    ports(PolicyProtocol::Tcp, port, port)
}

pub(in crate::policy) fn rule(peers: impl Into<Vec<PolicyPeer>>, ports: impl Into<Vec<PolicyPort>>) -> PolicyRule {
    PolicyRule { peers: peers.into(), ports: ports.into() }
}

pub(in crate::policy) fn from(peers: impl Into<Vec<PolicyPeer>>) -> Vec<PolicyRule> {
    vec![rule(peers, [])]
}

pub(in crate::policy) fn spec(
    instances: Selector,
    ingress: Option<Vec<PolicyRule>>,
    egress: Option<Vec<PolicyRule>>,
) -> PolicySpec {
    PolicySpec { instances, ingress, egress, audit: false, otherwise: Otherwise::Deny }
}

pub(in crate::policy) fn ingress(instances: Selector, rules: impl Into<Vec<PolicyRule>>) -> PolicySpec {
    spec(instances, Some(rules.into()), None)
}

pub(in crate::policy) fn egress(instances: Selector, rules: impl Into<Vec<PolicyRule>>) -> PolicySpec {
    spec(instances, None, Some(rules.into()))
}
