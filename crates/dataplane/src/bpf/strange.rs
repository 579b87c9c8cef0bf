//! Rows that no daemon of this version has written: they cannot be read back.

use aya::{Pod, maps::MapError};
use hivemind_ebpf::abi::{Addr, FrontendKey, RuleKey, ServedKey};

use super::maps::{Maps, Table, failed};
use crate::{
    DataplaneError,
    drift::{Difference, Fault},
};

/// Keys of such rows.
#[derive(Debug, Default)]
pub(super) struct Strange {
    pub(super) endpoints: Vec<u32>,
    pub(super) peers: Vec<Addr>,
    pub(super) frontends: Vec<FrontendKey>,
    pub(super) served: Vec<ServedKey>,
    pub(super) node_addresses: Vec<Addr>,
    pub(super) nodes: Vec<Addr>,
    pub(super) rules: Vec<RuleKey>,
}

impl Strange {
    /// Removes the rows.
    pub(super) fn remove(&self, maps: &mut Maps) -> Result<(), DataplaneError> {
        remove(&mut maps.endpoints, &self.endpoints)?;
        remove(&mut maps.peers, &self.peers)?;
        remove(&mut maps.frontends, &self.frontends)?;
        remove(&mut maps.served, &self.served)?;
        remove(&mut maps.node_addresses, &self.node_addresses)?;
        remove(&mut maps.nodes, &self.nodes)?;
        remove(&mut maps.rules, &self.rules)
    }

    /// The rows as what they are: too much.
    pub(super) fn differences(&self) -> Vec<Difference> {
        fn each<K: std::fmt::Debug>(place: &'static str, keys: &[K]) -> impl Iterator<Item = Difference> {
            keys.iter().map(move |key| Difference {
                place,
                fault: Fault::Extra,
                what: format!("{key:?}"),
                wanted: String::new(),
                found: "a row that cannot be read".into(),
            })
        }
        let mut all: Vec<_> = each("endpoints", &self.endpoints).collect();
        all.extend(each("peers", &self.peers));
        all.extend(each("services", &self.frontends));
        all.extend(each("served", &self.served));
        all.extend(each("node-addresses", &self.node_addresses));
        all.extend(each("nodes", &self.nodes));
        all.extend(each("rules", &self.rules));
        all
    }
}

fn remove<K: Pod, V: Pod>(table: &mut Table<K, V>, keys: &[K]) -> Result<(), DataplaneError> {
    for key in keys {
        match table.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound | MapError::ElementNotFound) => {}
            Err(error) => return Err(failed("clean", table.name, &error)),
        }
    }
    Ok(())
}
