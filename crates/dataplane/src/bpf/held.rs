//! What the maps hold, part by part, for who looks at it.

use std::collections::BTreeMap;

use hivemind_ebpf::limit::PACED;

use super::{accounts::Accounts, maps::Maps, rows::Row, services::Groups, strange::Strange};
use crate::{
    DataplaneError,
    tables::{Part, Tables},
};

/// Reads these parts; the others are empty. Rows that cannot be read back are left out.
pub(super) fn held(maps: &Maps, parts: &[Part]) -> Result<Tables, DataplaneError> {
    let (mut tables, mut strange) = (Tables::default(), Strange::default());
    tables.paced = maps.told_nodes()? & PACED != 0;
    for part in parts {
        read(&mut tables, *part, maps, &mut strange)?;
    }
    Ok(tables)
}

/// Reads one part into `tables`.
pub(super) fn read(tables: &mut Tables, part: Part, maps: &Maps, strange: &mut Strange) -> Result<(), DataplaneError> {
    match part {
        Part::Endpoints => tables.endpoints = maps.endpoints.rows(&mut strange.endpoints)?,
        Part::Peers => tables.peers = maps.peers.rows(&mut strange.peers)?,
        Part::Services => (_, tables.services) = Groups::look(maps, strange)?,
        Part::Sources => tables.sources = maps.sources.rows()?,
        Part::NodeAddresses => {
            let own = maps.node_addresses.rows::<_, u32>(&mut strange.node_addresses)?;
            tables.node_addresses = own.keys().copied().collect();
        }
        Part::Nodes => tables.nodes = maps.nodes.rows(&mut strange.nodes)?,
        Part::Served => {
            let rows = maps.served.raw_rows()?.into_iter();
            tables.served = rows.filter_map(|(key, row)| Some((Row::decode(key)?, row.service))).collect();
        }
        Part::Rules => tables.rules = maps.rules.rows(&mut strange.rules)?,
        Part::Intervals => tables.intervals = maps.ports.read()?,
        Part::Blocks => tables.blocks = maps.blocks.rows()?,
        Part::Limits => {
            let endpoints = maps.endpoints.raw_rows()?.into_iter();
            let accounts = endpoints.filter(|(_, row)| row.account != 0).map(|(ifindex, row)| (ifindex, row.account));
            tables.limits = Accounts::read(maps, accounts.collect::<BTreeMap<_, _>>())?.held();
        }
    }
    Ok(())
}
