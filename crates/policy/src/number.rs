//! Numbers that are hashes of what they stand for: the same after a restart, whatever else there is.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{Hash, Hasher},
};

use sha2::{Digest as _, Sha256};

use super::FIRST_CLASS;

/// What tells a block class from the other numbers.
const BLOCK_BIT: u32 = 1 << 31;

/// The highest number of a rule: the bits above it say what the rule does.
const LAST_RULE: u32 = hivemind_ebpf::policy::LAST_RULE;

/// What is numbered. Numbers of different kinds may be the same.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) enum Kind {
    Class,
    BlockClass,
    Set,
    Rule,
    Tenant,
}

impl Kind {
    /// A number of this kind; `None` if it is one of those with a meaning of their own.
    pub(super) fn shape(self, number: u32) -> Option<u32> {
        let number = match self {
            Self::Class => number & !BLOCK_BIT,
            Self::BlockClass => number | BLOCK_BIT,
            Self::Rule => number & LAST_RULE,
            Self::Set | Self::Tenant => number,
        };
        (number >= FIRST_CLASS).then_some(number)
    }
}

/// A number for each of `things`, all different.
pub(super) fn numbers<T: Ord + Hash>(kind: Kind, things: impl IntoIterator<Item = T>) -> BTreeMap<T, u32> {
    assign(things, |thing, attempt| kind.shape(digest(&(kind, thing, attempt))))
}

/// Where two hashes are the same, the smaller thing has the number and the other one tries again: who has which depends
/// on what there is, not on the order it came in.
fn assign<T: Ord>(things: impl IntoIterator<Item = T>, hash: impl Fn(&T, u32) -> Option<u32>) -> BTreeMap<T, u32> {
    let things: BTreeSet<T> = things.into_iter().collect();
    let mut given = BTreeSet::new();
    let number = |thing: &T, given: &mut BTreeSet<u32>| {
        (0..).find_map(|attempt| hash(thing, attempt).filter(|number| given.insert(*number)))
    };
    // Attempts do not run out: there are more numbers than things that fit into memory.
    things.into_iter().filter_map(|thing| number(&thing, &mut given).map(|number| (thing, number))).collect()
}

pub(super) fn digest(thing: &impl Hash) -> u32 {
    (fingerprint(thing) >> 32) as u32
}

/// A number that another thing has only by an accident that nobody lives to see.
pub(super) fn fingerprint(thing: &impl Hash) -> u64 {
    let mut hasher = Sha(Sha256::new());
    thing.hash(&mut hasher);
    hasher.finish()
}

/// SHA-256 behind the standard library's trait. `Hash` is free of prefixes: two things are the same bytes only if they
/// are equal. Its bytes may change with the compiler; the rows are then replaced as after any other change.
struct Sha(Sha256);

impl Hasher for Sha {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collisions_are_resolved_and_do_not_depend_on_the_order() {
        // All things collide at the first attempt, and every number is near.
        let hash = |thing: &u32, attempt: u32| Some((if attempt == 0 { 0 } else { thing % 3 }) + attempt);
        let forward = assign(0..20, hash);
        assert_eq!(forward.len(), 20);
        assert_eq!(forward.values().collect::<BTreeSet<_>>().len(), 20);
        assert_eq!(forward[&0], 0, "the smallest has the first choice");
        assert_eq!(forward, assign((0..20).rev(), hash));
    }

    #[test]
    fn a_number_depends_on_its_thing_alone() {
        let many = numbers(Kind::Set, 0..1_000);
        assert_eq!(numbers(Kind::Set, [700])[&700], many[&700]);
        assert_ne!(numbers(Kind::Rule, [700])[&700], many[&700], "kinds are hashed too");
    }

    #[test]
    fn kinds_have_their_own_ranges() {
        let words: Vec<String> = (0..1_000).map(|n| format!("thing {n}")).collect();
        for kind in [Kind::Class, Kind::BlockClass, Kind::Set, Kind::Rule, Kind::Tenant] {
            let numbers = numbers(kind, &words);
            assert_eq!(numbers.len(), words.len());
            assert!(numbers.values().all(|number| *number >= FIRST_CLASS));
            match kind {
                Kind::Class => assert!(numbers.values().all(|number| number & BLOCK_BIT == 0)),
                Kind::BlockClass => assert!(numbers.values().all(|number| number & BLOCK_BIT != 0)),
                Kind::Rule => assert!(numbers.values().all(|number| *number <= LAST_RULE)),
                _ => {}
            }
        }
        for small in 0..FIRST_CLASS {
            assert_eq!(Kind::Class.shape(small | BLOCK_BIT), None);
            assert_eq!(Kind::Rule.shape(small), None);
        }
    }
}
