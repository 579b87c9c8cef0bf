//! Whether what policies make of a cluster fits into the tables of its nodes.
//!
//! Half of a table is for rows that are there; the other half is for those that take their place: new rows are written
//! before old ones go, and a rule that denies must not be missing in between.

use std::collections::BTreeSet;

use hivemind_ebpf::policy::{BLOCK_ROWS, RULE_ROWS};

use super::compile;
use hivemind_core::model::{NodeDesired, NodeName};

/// The most rows of rules that a node may have.
pub const MAX_RULE_ROWS: usize = RULE_ROWS as usize / 2;
/// The most blocks of addresses that the rules of a node may tell apart.
pub const MAX_BLOCK_ROWS: usize = BLOCK_ROWS as usize / 2;

/// What does not fit on which node, with its numbers; empty if all fits.
pub fn too_large(desired: &NodeDesired) -> Vec<String> {
    let nodes: BTreeSet<&NodeName> = desired.peers.values().map(|peer| &peer.node).collect();
    let mut faults = Vec::new();
    for node in nodes {
        let compiled = compile(desired, node);
        for (what, found, most, mend) in [
            (
                "rules for each peer and range of ports",
                compiled.rules.len(),
                MAX_RULE_ROWS,
                "select peers by labels that many have in common, name fewer ranges of ports, or spread the instances over \
                 more nodes",
            ),
            ("blocks of addresses", compiled.blocks.len(), MAX_BLOCK_ROWS, "write larger blocks, or fewer exceptions"),
        ] {
            if found > most {
                faults.push(format!("node {node} would have {found} {what}, and {most} are the most; {mend}"));
            }
        }
    }
    faults
}
