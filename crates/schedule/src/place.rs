//! Where an instance fits. There is one `fit`, used by whoever asks.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::{Ipv4Net, Ipv6Net};

use hivemind_core::{
    ipam,
    model::{Addresses, ClusterSnapshot, Cursor, Held, HeldAddresses, Node, NodeName, NodeStatus},
    spec::v1::Resources,
};

/// A node with what its instances hold of it.
struct Candidate {
    node: Arc<Node>,
    status: Arc<NodeStatus>,
    held: Held,
}

/// All nodes and addresses, with what is held of them. Placing holds.
pub(super) struct Nodes {
    candidates: BTreeMap<NodeName, Candidate>,
    addresses: HeldAddresses,
}

impl Nodes {
    pub(super) fn new(snapshot: &ClusterSnapshot) -> Self {
        let candidate = |node: &Arc<Node>| Candidate {
            node: Arc::clone(node),
            status: snapshot.node_status.get(&node.name).map(|row| Arc::clone(&row.object)).unwrap_or_default(),
            held: snapshot.held_of(&node.name),
        };
        let candidates = snapshot.nodes.values().map(|row| (row.object.name.clone(), candidate(&row.object))).collect();
        Self { candidates, addresses: snapshot.held_addresses().clone() }
    }

    /// The fitting node with the fewest instances, and addresses on it; else a line for each node that says why not.
    pub(super) fn place(
        &mut self,
        resources: &Resources,
        cursor: &mut Cursor,
    ) -> Result<(NodeName, Addresses), Vec<String>> {
        let mut reasons = Vec::new();
        let mut order: Vec<_> = self.candidates.values_mut().collect();
        order.sort_by_key(|candidate| candidate.held.instances);
        for candidate in order {
            match candidate.fit(resources).and_then(|()| candidate.addresses(&self.addresses, *cursor)) {
                Ok(addresses) => {
                    candidate.hold(resources);
                    self.addresses.add(&addresses);
                    cursor.instances = last(addresses, cursor.instances);
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
    fn hold(&mut self, resources: &Resources) {
        self.held.cpu_milli += resources.cpu.map_or(0, |cpu| cpu.0.into());
        self.held.memory_bytes += resources.memory.map_or(0, |memory| memory.0);
        self.held.instances += 1;
    }

    /// Whether the node is ready and the limits fit into what no other limit has claimed.
    fn fit(&self, resources: &Resources) -> Result<(), String> {
        if !self.status.ready {
            let why = &self.status.message;
            return Err(if why.is_empty() { "not ready".into() } else { format!("not ready: {why}") });
        }
        let cpu = resources.cpu.map_or(0, |cpu| cpu.0.into());
        let free_cpu = u64::from(self.status.cpu_milli).saturating_sub(self.held.cpu_milli);
        if cpu > free_cpu {
            return Err(format!("{cpu}m CPU wanted, {free_cpu}m of {}m not yet claimed", self.status.cpu_milli));
        }
        let memory = resources.memory.map_or(0, |memory| memory.0);
        let free_memory = self.status.memory_bytes.saturating_sub(self.held.memory_bytes);
        if memory > free_memory {
            let mib = |bytes: u64| bytes >> 20;
            let (wanted, free, all) = (mib(memory), mib(free_memory), mib(self.status.memory_bytes));
            return Err(format!("{wanted} MiB of memory wanted, {free} of {all} MiB not yet claimed"));
        }
        Ok(())
    }

    fn addresses(&self, held: &HeldAddresses, cursor: Cursor) -> Result<Addresses, String> {
        free(held, (self.node.instances_v4, self.node.instances_v6), cursor.instances)
    }
}

/// A free address of each family there is a range for, behind `after`.
pub(super) fn free(
    held: &HeldAddresses,
    (v4, v6): (Option<Ipv4Net>, Option<Ipv6Net>),
    after: Addresses,
) -> Result<Addresses, String> {
    let used_up = |range: &dyn std::fmt::Display| format!("no free address in {range}");
    let v4 = v4.map(|range| ipam::free_v4(range, |a| held.v4.contains(a), after.v4).ok_or_else(|| used_up(&range)));
    let v6 = v6.map(|range| ipam::free_v6(range, |a| held.v6.contains(a), after.v6).ok_or_else(|| used_up(&range)));
    Ok(Addresses { v4: v4.transpose()?, v6: v6.transpose()? })
}

/// The address given last in each family: `given`, or else the one before.
pub(super) fn last(given: Addresses, before: Addresses) -> Addresses {
    Addresses { v4: given.v4.or(before.v4), v6: given.v6.or(before.v6) }
}
