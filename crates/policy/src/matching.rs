//! Which of many selectors match: found by a label that they ask for, without asking each.

use std::collections::{BTreeMap, HashMap};

use hivemind_core::spec::v1::Selector;

/// Things, each with a selector.
pub(super) struct Matching<'a, T> {
    things: Vec<(&'a Selector, T)>,
    /// Those whose selectors ask for a label with a value, by the first of these.
    by_label: HashMap<(&'a str, &'a str), Vec<usize>>,
    others: Vec<usize>,
}

impl<'a, T: Copy> Matching<'a, T> {
    pub(super) fn new(things: impl IntoIterator<Item = (&'a Selector, T)>) -> Self {
        let things: Vec<_> = things.into_iter().collect();
        let (mut by_label, mut others) = (HashMap::<_, Vec<usize>>::new(), Vec::new());
        for (n, (selector, _)) in things.iter().enumerate() {
            match selector.labels.first_key_value() {
                Some((key, value)) => by_label.entry((key.as_str(), value.as_str())).or_default().push(n),
                None => others.push(n),
            }
        }
        Self { things, by_label, others }
    }

    /// Those that match, in the order in which they came.
    pub(super) fn of(&self, labels: &BTreeMap<String, String>) -> Vec<T> {
        let asked = labels.iter().filter_map(|(key, value)| self.by_label.get(&(key.as_str(), value.as_str())));
        let mut found: Vec<usize> = asked.chain([&self.others]).flatten().copied().collect();
        found.retain(|n| self.things[*n].0.matches(labels));
        found.sort_unstable();
        found.into_iter().map(|n| self.things[n].1).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use hivemind_core::spec::v1::{Operator, Requirement};

    fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
        prop::collection::btree_map("[a-c]", "[x-z]", 0..3)
    }

    fn selectors() -> impl Strategy<Value = Selector> {
        (labels(), prop::option::of("[a-c]")).prop_map(|(labels, missing)| Selector {
            labels,
            expressions: Vec::from_iter(missing.map(|key| Requirement {
                key,
                operator: Operator::DoesNotExist,
                values: Vec::new(),
            })),
        })
    }

    proptest! {
        #[test]
        fn those_are_found_that_match(selectors in prop::collection::vec(selectors(), 0..20), labels in labels()) {
            let matching = Matching::new(selectors.iter().zip(0..));
            let asked = selectors.iter().zip(0..).filter(|(selector, _)| selector.matches(&labels));
            prop_assert_eq!(matching.of(&labels), asked.map(|(_, n)| n).collect::<Vec<usize>>());
        }
    }
}
