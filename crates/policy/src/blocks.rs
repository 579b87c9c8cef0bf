//! Block classes: which blocks of rules hold an address.
//!
//! The prefixes that occur, as blocks or as exceptions, cut the addresses into regions: what a prefix holds without the
//! longer ones in it. All of a region is in a block or none of it, so one look-up by longest prefix tells all blocks
//! that hold an address. A region that none holds has the number 0, so that the block around it does not answer.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{
    KnownNames,
    number::{Kind, numbers},
};
use hivemind_core::spec::v1::BlockPeer;

/// A block as it is compared.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Block {
    /// Without host bits, exceptions in order.
    Cidr(IpNet, BTreeSet<IpNet>),
    /// The addresses that a name of hosts stands for. It is compared by the name: an address more or less is a row of an
    /// address more or less, and no other class.
    Dns(String),
}

impl From<&BlockPeer> for Block {
    fn from(peer: &BlockPeer) -> Self {
        Self::Cidr(peer.cidr.trunc(), peer.except.iter().map(IpNet::trunc).collect())
    }
}

impl Block {
    /// The prefixes by which addresses begin to be in it.
    fn begins(&self, known: &KnownNames) -> Vec<IpNet> {
        match self {
            Self::Cidr(cidr, _) => vec![*cidr],
            Self::Dns(name) => known.get(name).into_iter().flatten().copied().map(IpNet::from).collect(),
        }
    }

    fn except(&self) -> Option<&BTreeSet<IpNet>> {
        match self {
            Self::Cidr(_, except) => Some(except),
            Self::Dns(_) => None,
        }
    }

    /// Whether all addresses of a region, with which the block begins, are in it; else none is.
    fn begins_with(&self, region: &IpNet) -> bool {
        self.except().into_iter().flatten().all(|except| !except.contains(region))
    }
}

/// The regions and who holds them.
#[derive(Default)]
pub(super) struct Blocks {
    pub(super) regions: BTreeMap<IpNet, u32>,
    by_block: BTreeMap<Block, BTreeSet<u32>>,
}

impl Blocks {
    /// Cuts the addresses by all `blocks`.
    pub(super) fn new(blocks: &BTreeSet<Block>, known: &KnownNames) -> Self {
        let mut beginning: BTreeMap<IpNet, Vec<&Block>> = BTreeMap::new();
        for block in blocks {
            for prefix in block.begins(known) {
                beginning.entry(prefix).or_default().push(block);
            }
        }
        let excepted = blocks.iter().filter_map(Block::except).flatten();
        let prefixes: BTreeSet<&IpNet> = beginning.keys().chain(excepted).collect();
        let held = holders(&prefixes, &beginning);
        let numbers = numbers(Kind::BlockClass, held.values().filter(|blocks| !blocks.is_empty()));
        let mut by_block: BTreeMap<Block, BTreeSet<u32>> = BTreeMap::new();
        for (blocks, number) in &numbers {
            for block in *blocks {
                by_block.entry((*block).clone()).or_default().insert(*number);
            }
        }
        let number = |blocks: &Vec<&Block>| numbers.get(blocks).copied().unwrap_or_default();
        let regions = held.iter().map(|(region, blocks)| (**region, number(blocks))).collect();
        Self { regions, by_block }
    }

    /// The classes of the regions in a block.
    pub(super) fn classes(&self, block: &Block) -> impl Iterator<Item = u32> {
        self.by_block.get(block).into_iter().flatten().copied()
    }
}

/// The blocks that hold each region, in their order. A region has the blocks of the one around it but for those that
/// except it, and those that begin with it: so each is asked about what is around it only, not about all blocks.
fn holders<'a>(
    prefixes: &BTreeSet<&'a IpNet>,
    beginning: &BTreeMap<IpNet, Vec<&'a Block>>,
) -> BTreeMap<&'a IpNet, Vec<&'a Block>> {
    let mut held: BTreeMap<&IpNet, Vec<&Block>> = BTreeMap::new();
    // What is around the prefix at hand: prefixes are in the order of their addresses, the longer behind the shorter.
    let mut around: Vec<&IpNet> = Vec::new();
    for prefix in prefixes {
        while around.pop_if(|outer| !outer.contains(*prefix)).is_some() {}
        let outer = around.last().and_then(|outer| held.get(outer)).into_iter().flatten();
        let kept = outer.filter(|block| block.except().is_none_or(|except| !except.contains(*prefix)));
        let own = beginning.get(prefix).into_iter().flatten().filter(|block| block.begins_with(prefix));
        let mut both: Vec<&Block> = kept.chain(own).copied().collect();
        both.sort();
        held.insert(prefix, both);
        around.push(prefix);
    }
    held
}
