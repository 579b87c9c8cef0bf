//! Which slot a backend has in a group that is changed where it is: whoever stays keeps its slot, but for the last ones,
//! which fill the holes. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use super::group::{self, Group, GroupKey};
use crate::tables::{BackendRow, Choice, ServiceRow};

/// Groups of fewer rows are replaced as a whole: that costs less than a millisecond.
const LARGE: usize = 512;
/// A group is changed where it is if at most one of so many slots is another then.
const FEW: usize = 4;

/// `wanted` in an order that differs from `before` as little as can be. None if a backend is there twice.
pub(super) fn placed(before: &[BackendRow], wanted: &[BackendRow]) -> Option<Vec<BackendRow>> {
    let same = before.iter().zip(wanted).take_while(|(one, other)| one == other).count();
    let (was, is) = (&before[same..], &wanted[same..]);
    let behind = was.iter().rev().zip(is.iter().rev()).take_while(|(one, other)| one == other).count();
    let mut missing: HashMap<(IpAddr, u16), u16> = HashMap::with_capacity(is.len() - behind);
    let (is, was) = (&is[..is.len() - behind], &was[..was.len() - behind]);
    for backend in is {
        if missing.insert(name(backend), backend.weight).is_some() {
            return None;
        }
    }
    let mut order: Vec<Option<BackendRow>> = before[..same].iter().copied().map(Some).collect();
    for backend in was {
        let weight = missing.remove(&name(backend));
        order.push(weight.map(|weight| BackendRow { weight, ..*backend }));
    }
    order.extend(before[before.len() - behind..].iter().copied().map(Some));
    let mut new = is.iter().filter(|backend| missing.contains_key(&name(backend))).copied();
    for hole in order.iter_mut().filter(|slot| slot.is_none()) {
        match new.next() {
            Some(backend) => *hole = Some(backend),
            None => break,
        }
    }
    order.extend(new.map(Some));
    let mut at = 0;
    while at < order.len() {
        if order[at].is_some() {
            at += 1;
        } else {
            order.swap_remove(at);
        }
    }
    let order: Vec<BackendRow> = order.into_iter().flatten().collect();
    (order.len() == wanted.len()).then_some(order)
}

fn name(backend: &BackendRow) -> (IpAddr, u16) {
    (backend.address, backend.port)
}

/// Whether it is less to change the group where it is, and little of it differs meanwhile.
pub(super) fn is_worth(before: &[BackendRow], order: &[BackendRow], choice: Choice) -> bool {
    let sizes = [before, order].map(|of| group::table_size(of.len(), choice));
    // Behind the table's end nothing may be looked for, and a group of none is no group.
    if sizes[0] != sizes[1] || before.is_empty() || order.is_empty() {
        return false;
    }
    let longest = before.len().max(order.len());
    let kept = before.iter().zip(order).filter(|(one, other)| one == other).count();
    // With weights that differ nearly every slot has another share then.
    let even = |of: &[BackendRow]| of.iter().all(|backend| backend.weight == of[0].weight);
    longest + sizes[0] as usize / hivemind_ebpf::abi::PART >= LARGE
        && (longest - kept) * FEW <= longest
        && even(before)
        && even(order)
}

/// The rows by which two states of one group differ.
#[derive(Debug)]
pub(super) struct Delta {
    pub(super) put: Group,
    /// Those that clients stay with no more: to be removed before the frontend is written.
    pub(super) leave: Vec<GroupKey>,
    /// What nothing looks for when all else is written.
    pub(super) cut: Vec<GroupKey>,
}

impl Delta {
    /// From `was` to `is`. The tables of both have the same size.
    pub(super) fn new(number: u32, was: &ServiceRow, is: &ServiceRow) -> Self {
        let (before, mut put) = (Group::without_table(number, was), Group::new(number, is));
        let cut = before.slots.iter().skip(put.slots.len()).map(|(key, _)| GroupKey::Slot(*key)).collect();
        let stay: BTreeSet<_> = put.members.iter().map(|(key, _)| key).collect();
        let gone = before.members.iter().filter(|(key, _)| !stay.contains(key));
        let leave = gone.map(|(key, _)| GroupKey::Member(*key)).collect();
        let mut slots = before.slots.iter();
        put.slots.retain(|slot| slots.next() != Some(slot));
        let members: BTreeMap<_, _> = before.members.into_iter().collect();
        put.members.retain(|(key, index)| members.get(key) != Some(index));
        Self { put, leave, cut }
    }
}

#[cfg(test)]
mod tests {
    use hivemind_ebpf::abi::{Backend, PART, PartKey, SlotKey};
    use proptest::prelude::*;

    use super::*;

    fn backend(n: u32) -> BackendRow {
        BackendRow { address: std::net::Ipv4Addr::from_bits(0x0a58_0000 + n).into(), port: 80, weight: 100 }
    }

    fn service(order: impl IntoIterator<Item = u32>, choice: Choice) -> ServiceRow {
        ServiceRow { id: 7, backends: order.into_iter().map(backend).collect(), choice }
    }

    /// What the maps hold of a group.
    #[derive(Clone, Debug, PartialEq, Eq, Default)]
    struct Held {
        slots: BTreeMap<SlotKey, Backend>,
        members: BTreeMap<hivemind_ebpf::abi::MemberKey, u32>,
        parts: BTreeMap<PartKey, Vec<u16>>,
    }

    impl Held {
        fn put(&mut self, group: &Group) {
            self.slots.extend(group.slots.iter().copied());
            self.members.extend(group.members.iter().copied());
            self.parts.extend(group.parts.iter().map(|(key, part)| (*key, part.slots.to_vec())));
        }

        fn new(row: &ServiceRow) -> Self {
            let mut held = Self::default();
            held.put(&Group::new(9, row));
            held
        }

        fn cut(&mut self, keys: &[GroupKey]) {
            for key in keys {
                let gone = match key {
                    GroupKey::Slot(key) => self.slots.remove(key).is_some(),
                    GroupKey::Member(key) => self.members.remove(key).is_some(),
                    GroupKey::Part(key) => self.parts.remove(key).is_some(),
                };
                assert!(gone, "{key:?} was not there");
            }
        }

        /// Every backend that a reader with this count may get, each by slot, by table or as the one it stays with.
        fn chosen(&self, count: usize, table: usize) -> BTreeSet<IpAddr> {
            let at = |index: u32| IpAddr::from(self.slots[&SlotKey { group: 9, index }].addr);
            let entries = self.parts.values().flatten().take(table).copied().map(u32::from);
            let by_chance = (0..count as u32).flat_map(|index| [index, self.slots[&SlotKey { group: 9, index }].alias]);
            by_chance.chain(entries).chain(self.members.values().copied()).map(at).collect()
        }
    }

    fn addresses(row: &ServiceRow) -> BTreeSet<IpAddr> {
        row.backends.iter().map(|backend| backend.address).collect()
    }

    fn choices() -> impl Strategy<Value = Choice> {
        (any::<bool>(), any::<bool>()).prop_map(|(sticky, alike)| Choice {
            affinity: if sticky { 60 } else { 0 },
            alike,
            ..Choice::default()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_changed_group_is_a_new_one_and_readers_find_all_they_look_for(
            before in prop::collection::btree_set(0..60_u32, 12..50),
            gone in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            come in prop::collection::btree_set(60..70_u32, 0..6),
            turn in 0..50_usize,
            choice in choices(),
        ) {
            let mut order: Vec<u32> = before.into_iter().collect();
            let wanted: Vec<u32> = {
                let mut left = order.clone();
                for at in &gone {
                    left.remove(at.index(left.len()));
                }
                left.into_iter().chain(come).collect()
            };
            // As it has become by earlier changes.
            let by = turn % order.len();
            order.rotate_left(by);
            let (was, want) = (service(order, choice), service(wanted, choice));
            let placed = placed(&was.backends, &want.backends).expect("none is there twice");
            let named = |rows: &[BackendRow]| rows.iter().map(name).collect::<BTreeSet<_>>();
            prop_assert_eq!(named(&placed), named(&want.backends));
            let is = ServiceRow { backends: placed, ..want.clone() };
            let sizes = [&was, &is].map(|row| group::table_size(row.backends.len(), choice) as usize);
            if sizes[0] != sizes[1] {
                return Ok(());
            }
            let delta = Delta::new(9, &was, &is);
            let mut held = Held::new(&was);
            let either: BTreeSet<IpAddr> = addresses(&was).union(&addresses(&is)).copied().collect();
            // Row by row, by readers that know the old count, and the new one when it is told.
            let Group { slots, members, parts } = &delta.put;
            let steps = slots.iter().map(|slot| Group { slots: vec![*slot], ..Group::default() })
                .chain(members.iter().map(|member| Group { members: vec![*member], ..Group::default() }))
                .chain(parts.iter().map(|part| Group { parts: vec![*part], ..Group::default() }));
            for step in steps {
                held.put(&step);
                prop_assert!(held.chosen(was.backends.len(), sizes[0]).is_subset(&either));
            }
            held.cut(&delta.leave);
            prop_assert!(held.chosen(was.backends.len(), sizes[0]).is_subset(&either));
            prop_assert!(held.chosen(is.backends.len(), sizes[1]).is_subset(&addresses(&is)));
            held.cut(&delta.cut);
            prop_assert_eq!(held, Held::new(&is));
        }
    }

    fn delta(was: &ServiceRow, want: &ServiceRow) -> (ServiceRow, Delta) {
        let placed = placed(&was.backends, &want.backends).expect("none is there twice");
        assert!(is_worth(&was.backends, &placed, want.choice));
        let is = ServiceRow { backends: placed, ..want.clone() };
        let delta = Delta::new(9, was, &is);
        (is, delta)
    }

    #[test]
    fn of_ten_thousand_one_less_is_one_row_and_one_more_too() {
        let all = service(0..10_000, Choice::default());
        let fewer = service((0..10_000).filter(|n| *n != 5_000), Choice::default());
        let (is, less) = delta(&all, &fewer);
        assert_eq!((less.put.slots.len(), less.cut.len()), (1, 1));
        assert_eq!(is.backends[5_000], backend(9_999), "the last one fills the hole");
        let (_, more) = delta(&is, &all);
        assert_eq!((more.put.slots.len(), more.cut.len()), (1, 0));
        let (_, other) = delta(&is, &service((0..9_999).filter(|n| *n != 5_000).chain([20_000]), Choice::default()));
        assert_eq!((other.put.slots.len(), other.cut.len()), (1, 0), "one in the place of another");
        let sticky = Choice { affinity: 60, ..Choice::default() };
        let (_, less) = delta(&service(0..10_000, sticky), &ServiceRow { choice: sticky, ..fewer });
        assert_eq!((less.put.slots.len(), less.put.members.len()), (1, 1));
        assert_eq!((less.leave.len(), less.cut.len()), (1, 1));
    }

    #[test]
    fn what_is_small_or_becomes_another_is_replaced() {
        let worth = |was: &ServiceRow, want: &ServiceRow| {
            let order = placed(&was.backends, &want.backends).expect("none is there twice");
            is_worth(&was.backends, &order, want.choice)
        };
        let plain = Choice::default();
        assert!(!worth(&service(0..500, plain), &service(1..500, plain)), "it costs little");
        assert!(!worth(&service(0..1_000, plain), &service(300..1_000, plain)), "too many go");
        assert!(!worth(&service(0..1_000, plain), &service(500..1_500, plain)), "too many are others");
        assert!(!worth(&service(0..1_000, plain), &service([], plain)), "none is left");
        let alike = Choice { alike: true, ..plain };
        assert!(!worth(&service(0..328, alike), &service(0..327, alike)), "another size of table");
        let mut uneven = service(0..1_000, plain);
        uneven.backends[0].weight = 50;
        assert!(!worth(&uneven, &ServiceRow { backends: uneven.backends[1..].to_vec(), ..uneven.clone() }), "uneven");
        assert_eq!(group::table_size(328, alike).div_ceil(PART as u32), 512);
    }
}
