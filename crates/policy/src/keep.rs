//! Numbers that stay with those who have them.
//!
//! A class or a set is numbered by what it is. One selector more makes another class of the same instances, and one
//! policy more another set of them: if these had other numbers, all rows that name them would be written anew for one
//! that is added. So a number goes over to whatever the same instances, and nobody else, have now. What is looked up
//! under it in the meantime is what they had or what they get.
//!
//! What is about other instances than before gets a number that nobody had. Otherwise one of them would see the rows of
//! another while they are written.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Compiled, OWN,
    number::{Kind, digest},
};
use hivemind_core::model::InstanceId;

/// The numbers of classes and of sets, by the fingerprint of what they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Given {
    pub(super) classes: BTreeMap<u64, u32>,
    pub(super) sets: BTreeMap<u64, u32>,
}

/// Who has which number, the last time.
#[derive(Clone, Copy)]
pub(super) struct Before<'a>(pub(super) &'a Compiled);

impl Before<'_> {
    /// The numbers of classes, by their fingerprints and with all their instances.
    pub(super) fn classes(self, groups: &BTreeMap<u64, Vec<&InstanceId>>) -> BTreeMap<u64, u32> {
        let had = |id: &InstanceId| self.0.peers.get(id).map(|peer| peer.class);
        let there = groups.values().flatten().copied();
        numbers(Kind::Class, groups, &self.0.given.classes, had, there)
    }

    /// The numbers of sets; `groups` has for each the instances whose [`OWN`] it is. `there` are all instances of the
    /// node, also those without any.
    pub(super) fn sets<'i>(
        self,
        groups: &BTreeMap<u64, Vec<&'i InstanceId>>,
        there: impl Iterator<Item = &'i InstanceId>,
    ) -> BTreeMap<u64, u32> {
        let had = |id: &InstanceId| self.0.endpoints.get(id).map(|of| of.sets[OWN]).filter(|set| *set != 0);
        numbers(Kind::Set, groups, &self.0.given.sets, had, there)
    }
}

/// A number for each of `groups`, all different. `given` are those of the last time as far as it is known what they
/// were given to; who `had` one that is not among them has it from the maps.
fn numbers<'i>(
    kind: Kind,
    groups: &BTreeMap<u64, Vec<&'i InstanceId>>,
    given: &BTreeMap<u64, u32>,
    had: impl Fn(&InstanceId) -> Option<u32>,
    there: impl Iterator<Item = &'i InstanceId>,
) -> BTreeMap<u64, u32> {
    let mut holders: BTreeMap<u32, usize> = BTreeMap::new();
    there.filter_map(&had).for_each(|number| *holders.entry(number).or_default() += 1);
    let known: BTreeSet<u32> = given.values().copied().collect();
    let mut numbers = BTreeMap::new();
    let mut used = BTreeSet::new();
    // What is there still keeps its own, whoever has it.
    for print in groups.keys() {
        if let Some(number) = given.get(print)
            && used.insert(*number)
        {
            numbers.insert(*print, *number);
        }
    }
    for (print, members) in groups {
        let Some(number) = members.first().and_then(|id| had(id)).filter(|_| !numbers.contains_key(print)) else {
            continue;
        };
        let same = members.iter().all(|id| had(id) == Some(number)) && holders.get(&number) == Some(&members.len());
        if same && used.insert(number) {
            numbers.insert(*print, number);
        }
    }
    for (print, members) in groups {
        if numbers.contains_key(print) {
            continue;
        }
        let own = |number: u32| {
            // After a restart: its own number, and nobody has it who is something else now.
            let theirs = members.iter().filter(|id| had(id) == Some(number)).count();
            !known.contains(&number) && holders.get(&number) == Some(&theirs)
        };
        let free = |number: &u32, attempt: u32| {
            let fresh = !known.contains(number) && !holders.contains_key(number);
            fresh || attempt == 0 && own(*number)
        };
        let mut attempts = (0..).filter_map(|attempt| Some((kind.shape(digest(&(kind, print, attempt)))?, attempt)));
        let number = attempts.find(|(number, attempt)| free(number, *attempt) && used.insert(*number));
        numbers.extend(number.map(|(number, _)| (*print, number)));
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(of: &[u64]) -> Vec<InstanceId> {
        of.iter().map(|n| InstanceId::from_bits(*n)).collect()
    }

    struct Node {
        given: BTreeMap<u64, u32>,
        had: BTreeMap<InstanceId, u32>,
    }

    impl Node {
        /// Gives numbers to these groups; `others` are there and in none.
        fn next(&mut self, groups: &[(u64, &[u64])], others: &[u64]) -> Vec<u32> {
            let owned: Vec<_> = groups.iter().map(|(print, of)| (*print, ids(of))).collect();
            let groups: BTreeMap<u64, Vec<&InstanceId>> =
                owned.iter().map(|(print, of)| (*print, of.iter().collect())).collect();
            let others = ids(others);
            let there = groups.values().flatten().copied().chain(&others);
            let numbers = numbers(Kind::Set, &groups, &self.given, |id| self.had.get(id).copied(), there);
            assert_eq!(numbers.values().collect::<BTreeSet<_>>().len(), groups.len(), "one for each");
            self.had =
                groups.iter().flat_map(|(print, of)| of.iter().map(|id| ((*id).clone(), numbers[print]))).collect();
            let result = owned.iter().map(|(print, _)| numbers[print]).collect();
            self.given = numbers;
            result
        }

        /// What a daemon that comes after it knows.
        fn restarted(&self) -> Self {
            Self { given: BTreeMap::new(), had: self.had.clone() }
        }
    }

    fn node() -> (Node, [u32; 2]) {
        let mut node = Node { given: BTreeMap::new(), had: BTreeMap::new() };
        let numbers = node.next(&[(1, &[10, 11]), (2, &[20])], &[30]);
        (node, [numbers[0], numbers[1]])
    }

    #[test]
    fn what_becomes_something_else_keeps_its_number() {
        let (mut node, [one, two]) = node();
        assert_eq!(node.next(&[(3, &[10, 11]), (2, &[20])], &[30]), [one, two]);
        assert_eq!(node.restarted().next(&[(3, &[10, 11]), (4, &[20])], &[30]), [one, two], "also over a restart");
        assert_eq!(node.next(&[(4, &[10]), (2, &[20])], &[30]), [one, two], "one of them is gone");
    }

    #[test]
    fn what_is_there_keeps_its_number_whoever_has_it() {
        let (mut node, [one, two]) = node();
        assert_eq!(node.next(&[(1, &[10, 30, 40]), (2, &[11])], &[20]), [one, two]);
    }

    #[test]
    fn what_is_about_others_gets_a_number_that_nobody_had() {
        for (groups, others) in [
            // One of those that have it gets something else, or nothing.
            (&[(3, &[10][..]), (4, &[11]), (2, &[20])][..], &[30][..]),
            (&[(3, &[10])], &[11, 20, 30]),
            // One that had none gets it too, or one that is new, or one that had another.
            (&[(3, &[10, 11, 30]), (2, &[20])], &[]),
            (&[(3, &[10, 11, 40]), (2, &[20])], &[30]),
            (&[(3, &[10, 11, 20])], &[30]),
        ] {
            let (mut first, [one, two]) = node();
            for mut node in [first.restarted(), Node { given: first.given.clone(), had: first.had.clone() }] {
                let numbers = node.next(groups, others);
                assert!(numbers[0] != one && numbers[0] != two, "{groups:?}: {numbers:?} of {one} and {two}");
            }
            first.next(groups, others);
        }
    }

    #[test]
    fn after_a_restart_each_has_its_own_also_with_somebody_new() {
        let (node, [one, two]) = node();
        assert_eq!(node.restarted().next(&[(1, &[10, 11, 40]), (2, &[20])], &[30]), [one, two]);
        // But not if somebody who has it is something else now.
        assert_ne!(node.restarted().next(&[(1, &[10, 40]), (3, &[11])], &[])[0], one);
    }

    #[test]
    fn a_number_that_went_over_is_not_given_to_what_had_it_first() {
        let (mut node, [one, two]) = node();
        assert_eq!(node.next(&[(3, &[10, 11]), (2, &[20])], &[30]), [one, two]);
        let numbers = node.next(&[(1, &[30]), (3, &[10, 11])], &[20]);
        assert!(numbers[0] != one && numbers[0] != two && numbers[1] == one, "{numbers:?}");
    }
}
