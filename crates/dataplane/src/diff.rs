//! Floor 1: what changes a table from what it holds to what it should hold. Pure.

use imbl::{OrdMap, ordmap::DiffItem};

/// Rows to write and keys to remove.
#[derive(Debug, PartialEq, Eq)]
pub struct Changes<'a, K, V> {
    /// New rows and rows with another value.
    pub put: Vec<(&'a K, &'a V)>,
    /// Rows that are not wanted.
    pub cut: Vec<K>,
}

/// Compares two tables. It costs by what they do not share, so that one row more among 20,000 is found in microseconds
/// if the one table was made from a clone of the other.
pub fn changes<'a, K: Ord + Clone, V: PartialEq>(have: &OrdMap<K, V>, want: &'a OrdMap<K, V>) -> Changes<'a, K, V> {
    let mut changes = Changes { put: Vec::new(), cut: Vec::new() };
    for change in have.diff(want) {
        match change {
            DiffItem::Add(key, value) | DiffItem::Update { new: (key, value), .. } => changes.put.push((key, value)),
            DiffItem::Remove(key, _) => changes.cut.push(key.clone()),
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn applied_they_make_the_one_the_other(
            have: BTreeMap<u16, u8>,
            more: BTreeMap<u16, u8>,
            without in prop::collection::btree_set(0..300_usize, 0..20),
            shared: bool,
        ) {
            let have: OrdMap<u16, u8> = have.into();
            // Made from the other, or by itself.
            let mut want = if shared { have.clone() } else { OrdMap::new() };
            let gone: BTreeSet<_> = have.keys().enumerate().filter(|(n, _)| without.contains(n)).map(|(_, k)| *k).collect();
            want.extend(more);
            for key in &gone {
                want.remove(key);
            }
            let changes = changes(&have, &want);
            // Nothing needless, nothing twice.
            prop_assert!(changes.put.iter().all(|(key, value)| have.get(*key) != Some(*value)));
            prop_assert!(changes.cut.iter().all(|key| have.contains_key(key) && !want.contains_key(key)));
            let mut result = have.clone();
            result.extend(changes.put.into_iter().map(|(key, value)| (*key, *value)));
            for key in &changes.cut {
                result.remove(key);
            }
            prop_assert_eq!(result, want);
        }
    }
}
