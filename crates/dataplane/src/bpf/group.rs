//! The rows of one frontend's backends: a group.

use hivemind_ebpf::abi::{
    ALIKE, Addr, Backend, Frontend, LEAST, LOCAL, MemberKey, PART, Part, PartKey, SOURCES, SlotKey,
};

use super::maps::Maps;
use crate::{
    share,
    tables::{BackendRow, Choice, ServiceRow},
};

const _: () = assert!(hivemind_core::model::MAX_WEIGHT == hivemind_ebpf::choose::MAX_WEIGHT, "one scale on both sides");

/// All rows of a group, in no order.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) slots: Vec<(SlotKey, Backend)>,
    /// For clients that stay with their backend.
    pub(super) members: Vec<(MemberKey, u32)>,
    /// The table for choices that every node makes alike.
    pub(super) parts: Vec<(PartKey, Part)>,
}

/// The key of one row of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum GroupKey {
    Slot(SlotKey),
    Member(MemberKey),
    Part(PartKey),
}

impl GroupKey {
    /// The number of the group.
    pub(super) const fn group(&self) -> u32 {
        match self {
            Self::Slot(key) => key.group,
            Self::Member(key) => key.group,
            Self::Part(key) => key.group,
        }
    }
}

impl Group {
    /// The rows of group `number`.
    pub(super) fn new(number: u32, row: &ServiceRow) -> Self {
        let mut group = Self::without_table(number, row);
        if table_size(row.backends.len(), row.choice) != 0 {
            for (part, entries) in (0..).zip(share::table(&row.backends).chunks(PART)) {
                let mut slots = [0; PART];
                slots[..entries.len()].copy_from_slice(entries);
                group.parts.push((PartKey { group: number, part }, Part { slots }));
            }
        }
        group
    }

    /// The same but for the table, which costs more than all else.
    pub(super) fn without_table(number: u32, row: &ServiceRow) -> Self {
        let mut group = Self::default();
        let aliases = share::aliases(row.backends.iter().map(|backend| backend.weight));
        for (index, (backend, (threshold, alias))) in (0..).zip(row.backends.iter().zip(aliases)) {
            let BackendRow { address, port, weight } = *backend;
            let (addr, port_be) = (Addr::from(address), port.to_be());
            let value = Backend { addr, port_be, weight, group: number, threshold, alias };
            group.slots.push((SlotKey { group: number, index }, value));
            if row.choice.affinity != 0 {
                group.members.push((MemberKey { addr, group: number }, index));
            }
        }
        group
    }

    /// Whether the maps hold all of it as it should be.
    pub(super) fn is_in(&self, maps: &Maps) -> bool {
        self.slots.iter().all(|(key, value)| maps.slots.get(key).as_ref() == Some(value))
            && self.members.iter().all(|(key, value)| maps.members.get(key) == Some(*value))
            && self.parts.iter().all(|(key, value)| maps.parts.get(key).as_ref() == Some(value))
    }
}

/// The keys of group `number`, without its tables being computed.
pub(super) fn keys(number: u32, row: &ServiceRow) -> impl Iterator<Item = GroupKey> {
    let count = u32::try_from(row.backends.len()).unwrap_or(u32::MAX);
    let parts = table_size(row.backends.len(), row.choice).div_ceil(PART as u32);
    let sticky = row.choice.affinity != 0;
    let slots = (0..count).map(move |index| GroupKey::Slot(SlotKey { group: number, index }));
    let members = row.backends.iter().filter(move |_| sticky);
    let member =
        move |backend: &BackendRow| GroupKey::Member(MemberKey { addr: Addr::from(backend.address), group: number });
    let parts = (0..parts).map(move |part| GroupKey::Part(PartKey { group: number, part }));
    slots.chain(members.map(member)).chain(parts)
}

/// Entries of the table that a group of so many backends has; 0: none.
pub(super) fn table_size(backends: usize, choice: Choice) -> u32 {
    if choice.alike { share::table_size(backends) } else { 0 }
}

/// The row that makes group `number` the frontend's.
pub(super) fn frontend(number: u32, row: &ServiceRow) -> Frontend {
    let Choice { affinity, least, sources, local, alike } = row.choice;
    let flags = [(least, LEAST), (sources, SOURCES), (local, LOCAL), (alike, ALIKE)];
    let flags = flags.into_iter().filter(|(set, _)| *set).fold(0, |flags, (_, bit)| flags | bit);
    let count = u32::try_from(row.backends.len()).unwrap_or(u32::MAX);
    Frontend {
        service: row.id,
        group: number,
        count,
        flags,
        affinity,
        table: table_size(row.backends.len(), row.choice),
    }
}

/// What a frontend's row says, with these slots.
pub(super) fn row(front: &Frontend, slots: impl Iterator<Item = Backend>) -> ServiceRow {
    let has = |bit| front.flags & bit != 0;
    let choice = Choice {
        affinity: front.affinity,
        least: has(LEAST),
        sources: has(SOURCES),
        local: has(LOCAL),
        alike: has(ALIKE),
    };
    let backend =
        |slot: Backend| BackendRow { address: slot.addr.into(), port: u16::from_be(slot.port_be), weight: slot.weight };
    ServiceRow { id: front.service, backends: slots.map(backend).collect(), choice }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(weights: &[u16]) -> ServiceRow {
        let backend =
            |(i, weight): (u8, &u16)| BackendRow { address: [10, 88, 0, i].into(), port: 80, weight: *weight };
        let choice = Choice { affinity: 60, least: true, sources: true, local: false, alike: true };
        ServiceRow { id: 7, backends: (2..).zip(weights).map(backend).collect(), choice }
    }

    #[test]
    fn a_row_comes_back_as_it_went() {
        for row_in in
            [sample(&[]), sample(&[3]), sample(&[1, 256, 7]), ServiceRow::equal(7, [([10, 0, 0, 1].into(), 8)])]
        {
            let group = Group::new(9, &row_in);
            let front = frontend(9, &row_in);
            assert_eq!(row(&front, group.slots.iter().map(|(_, slot)| *slot)), row_in);
            assert_eq!(front.count as usize, row_in.backends.len());
        }
    }

    #[test]
    fn the_keys_are_those_of_the_rows() {
        for row in [sample(&[]), sample(&[3]), sample(&[1, 256, 7]), ServiceRow::equal(7, [([10, 0, 0, 1].into(), 8)])]
        {
            let group = Group::new(9, &row);
            let (mut slots, mut members, mut parts) = (Vec::new(), Vec::new(), Vec::new());
            for key in keys(9, &row) {
                match key {
                    GroupKey::Slot(key) => slots.push(key),
                    GroupKey::Member(key) => members.push(key),
                    GroupKey::Part(key) => parts.push(key),
                }
            }
            assert!(slots.iter().eq(group.slots.iter().map(|(key, _)| key)));
            assert!(members.iter().eq(group.members.iter().map(|(key, _)| key)));
            assert!(parts.iter().eq(group.parts.iter().map(|(key, _)| key)));
        }
    }

    #[test]
    fn only_groups_that_need_them_have_tables_and_members() {
        let plain = ServiceRow { choice: Choice::default(), ..sample(&[1, 2]) };
        let group = Group::new(9, &plain);
        assert!(group.members.is_empty() && group.parts.is_empty());
        let group = Group::new(9, &sample(&[1, 2]));
        assert_eq!((group.members.len(), group.parts.len()), (2, 2));
    }
}
