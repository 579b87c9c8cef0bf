//! Floor 1: what changes a table from what it holds to what it should hold. Pure.

use std::{cmp::Ordering, collections::BTreeMap};

/// Rows to write and keys to remove.
#[derive(Debug, PartialEq, Eq)]
pub struct Changes<'a, K, V> {
    /// New rows and rows with another value.
    pub put: Vec<(&'a K, &'a V)>,
    /// Rows that are not wanted.
    pub cut: Vec<K>,
}

/// Compares two tables in one walk along both: a change of one row among 20,000 costs about a millisecond, with
/// nothing allocated for the rows that stay.
pub fn changes<'a, K: Ord + Clone, V: PartialEq>(have: &BTreeMap<K, V>, want: &'a BTreeMap<K, V>) -> Changes<'a, K, V> {
    let mut changes = Changes { put: Vec::new(), cut: Vec::new() };
    let (mut old, mut new) = (have.iter().peekable(), want.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return changes,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let there = if order.is_le() { old.next() } else { None };
        let wanted = if order.is_ge() { new.next() } else { None };
        match (there, wanted) {
            (Some((key, _)), None) => changes.cut.push(key.clone()),
            (Some((_, value)), Some((_, same))) if value == same => {}
            (_, Some(row)) => changes.put.push(row),
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn applied_they_make_the_one_the_other(
            have: BTreeMap<u8, u8>,
            want: BTreeMap<u8, u8>,
        ) {
            let changes = changes(&have, &want);
            // Nothing needless, nothing twice.
            prop_assert!(changes.put.iter().all(|(key, value)| have.get(key) != Some(value)));
            prop_assert!(changes.cut.iter().all(|key| have.contains_key(key) && !want.contains_key(key)));
            let mut result = have.clone();
            result.extend(changes.put.into_iter().map(|(key, value)| (*key, *value)));
            result.retain(|key, _| !changes.cut.contains(key));
            prop_assert_eq!(result, want);
        }
    }
}
