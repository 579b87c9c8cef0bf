//! Where an instance fits. There is one `fit`, used by whoever asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use super::Cursor;
use crate::{
    ipam,
    model::{Addresses, ClusterSnapshot, Node, NodeName, NodeStatus},
    spec::v1::Resources,
};

/// A node with what is left of it.
struct Candidate {
    node: Arc<Node>,
    status: NodeStatus,
    cpu_milli: u64,
    memory_bytes: u64,
    instances: usize,
    used_v4: BTreeSet<Ipv4Addr>,
    used_v6: BTreeSet<Ipv6Addr>,
}

/// All nodes, with what is reserved on them. Placing reserves.
pub(super) struct Nodes {
    candidates: BTreeMap<NodeName, Candidate>,
}

impl Nodes {
    pub(super) fn new(snapshot: &ClusterSnapshot) -> Self {
        let candidate = |node: &Arc<Node>| Candidate {
            node: Arc::clone(node),
            status: snapshot.node_status.get(&node.name).map(|row| (*row.object).clone()).unwrap_or_default(),
            cpu_milli: 0,
            memory_bytes: 0,
            instances: 0,
            used_v4: BTreeSet::new(),
            used_v6: BTreeSet::new(),
        };
        let mut candidates: BTreeMap<_, _> =
            snapshot.nodes.values().map(|row| (row.object.name.clone(), candidate(&row.object))).collect();
        for instance in snapshot.instances.values().map(|row| &row.object) {
            if let Some(candidate) = candidates.get_mut(&instance.node) {
                candidate.reserve(&instance.spec.resources, &instance.addresses);
            }
        }
        Self { candidates }
    }

    /// The fitting node with the fewest instances, and addresses on it; else a line for each node that says why not.
    pub(super) fn place(
        &mut self,
        resources: &Resources,
        cursor: &mut Cursor,
    ) -> Result<(NodeName, Addresses), Vec<String>> {
        let mut reasons = Vec::new();
        let mut order: Vec<_> = self.candidates.values_mut().collect();
        order.sort_by_key(|candidate| candidate.instances);
        for candidate in order {
            match candidate.fit(resources).and_then(|()| candidate.addresses(*cursor)) {
                Ok(addresses) => {
                    candidate.reserve(resources, &addresses);
                    *cursor = Cursor { v4: addresses.v4.or(cursor.v4), v6: addresses.v6.or(cursor.v6) };
                    return Ok((candidate.node.name.clone(), addresses));
                }
                Err(reason) => reasons.push(format!("{}: {reason}", candidate.node.name)),
            }
        }
        if reasons.is_empty() {
            reasons.push("there is no node yet".into());
        }
        Err(reasons)
    }
}

impl Candidate {
    fn reserve(&mut self, resources: &Resources, addresses: &Addresses) {
        self.cpu_milli += resources.cpu.map_or(0, |cpu| cpu.0.into());
        self.memory_bytes += resources.memory.map_or(0, |memory| memory.0);
        self.instances += 1;
        self.used_v4.extend(addresses.v4);
        self.used_v6.extend(addresses.v6);
    }

    /// Whether the node is ready and the limits fit into what no other limit has claimed.
    fn fit(&self, resources: &Resources) -> Result<(), String> {
        if !self.status.ready {
            let why = &self.status.message;
            return Err(if why.is_empty() { "not ready".into() } else { format!("not ready: {why}") });
        }
        let cpu = resources.cpu.map_or(0, |cpu| cpu.0.into());
        let free_cpu = u64::from(self.status.cpu_milli).saturating_sub(self.cpu_milli);
        if cpu > free_cpu {
            return Err(format!("{cpu}m CPU wanted, {free_cpu}m of {}m not yet claimed", self.status.cpu_milli));
        }
        let memory = resources.memory.map_or(0, |memory| memory.0);
        let free_memory = self.status.memory_bytes.saturating_sub(self.memory_bytes);
        if memory > free_memory {
            let mib = |bytes: u64| bytes >> 20;
            let (wanted, free, all) = (mib(memory), mib(free_memory), mib(self.status.memory_bytes));
            return Err(format!("{wanted} MiB of memory wanted, {free} of {all} MiB not yet claimed"));
        }
        Ok(())
    }

    fn addresses(&self, cursor: Cursor) -> Result<Addresses, String> {
        let used_up = |range: &dyn std::fmt::Display| format!("no free address in {range}");
        let v4 = self
            .node
            .instances_v4
            .map(|range| ipam::free_v4(range, &self.used_v4, cursor.v4).ok_or_else(|| used_up(&range)));
        let v6 = self
            .node
            .instances_v6
            .map(|range| ipam::free_v6(range, &self.used_v6, cursor.v6).ok_or_else(|| used_up(&range)));
        Ok(Addresses { v4: v4.transpose()?, v6: v6.transpose()? })
    }
}
