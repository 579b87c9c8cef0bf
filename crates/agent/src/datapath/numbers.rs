//! The numbers that policies gave before this daemon was started: they are in the maps.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::Owner;
use hivemind_core::model::InstanceId;
use hivemind_policy::{Compiled, OWN, PeerClass};

impl Owner {
    /// What policies make of what the node is told. The first time the numbers of the last daemon are taken over, so
    /// that what has not changed is not written again.
    pub(super) fn compile(&mut self) -> Arc<Compiled> {
        if !self.knows_numbers && self.desired.revision != 0 {
            self.knows_numbers = true;
            self.take_over_numbers();
        }
        self.policies.compile(&self.desired, &self.node, self.hosts.known())
    }

    fn take_over_numbers(&mut self) {
        let written = self.dataplane.written();
        let devices: BTreeMap<u32, &InstanceId> = self.links.iter().map(|(id, link)| (link.ifindex, id)).collect();
        let sets = written.endpoints.iter().filter_map(|(ifindex, row)| {
            let set = row.policy.sets[OWN];
            Some(((*devices.get(ifindex)?).clone(), set)).filter(|_| set != 0)
        });
        let peers = self.desired.peers.iter().filter_map(|(id, peer)| {
            let mut rows = peer.addresses.iter().filter_map(|address: IpAddr| written.peers.get(&address));
            let row = rows.next().filter(|row| rows.all(|other| other.class == row.class))?;
            Some((id.clone(), PeerClass { class: row.class, tenant: row.tenant }))
        });
        self.policies.take_over(peers.collect(), sets.collect());
    }
}
