//! What the rows of the kernel say, in the words of policies: so that they can be judged by as what was compiled is. Pure.

use std::collections::BTreeMap;

use hivemind_ebpf::policy::HOST_ENDPOINT;

use super::tables::{Part, Tables};
use hivemind_core::model::{Addresses, InstanceId};
use hivemind_policy::{Compiled, PeerClass, RuleName};

/// The parts of [`Tables`] that are judged by.
pub const JUDGED: &[Part] = &[Part::Endpoints, Part::Peers, Part::Rules, Part::Intervals, Part::Blocks];

/// What `tables` hold of these instances, of the host, and of rules, which have these names.
pub fn compiled(
    tables: &Tables,
    instances: impl IntoIterator<Item = (InstanceId, Addresses)>,
    names: BTreeMap<u32, RuleName>,
) -> Compiled {
    let mut compiled = Compiled::default();
    compiled.host = tables.endpoints.get(&HOST_ENDPOINT).map(|row| row.policy);
    compiled.rules = tables.rules.clone();
    compiled.ports = tables.intervals.clone();
    compiled.blocks = tables.blocks.clone();
    compiled.names = names;
    for (id, addresses) in instances {
        let Some(row) = addresses.iter().find_map(|address| tables.peers.get(&address)) else { continue };
        if let Some(endpoint) = tables.endpoints.get(&row.ifindex) {
            compiled.endpoints.insert(id.clone(), endpoint.policy);
        }
        compiled.peers.insert(id, PeerClass { class: row.class, tenant: row.tenant });
    }
    compiled
}
