//! What the maps hold of services: the rows of frontends, the groups that they point to, and the way to others.
//!
//! A group is written whole, under a number of its own, before its frontend points to it. A large one of which little
//! changes is changed in its place: slots, members and table first, then the frontend's row with the count, then what
//! is behind the count goes. Each row names a backend of the old or of the new group, and no row is missing that a
//! reader may look for.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::MapError;
use hivemind_ebpf::{
    abi::{Addr, Frontend as Front, PART, SlotKey},
    map,
};
use imbl::OrdMap;

use super::{
    group::{self, Group, GroupKey},
    maps::Maps,
    place::{self, placed},
    rows::Row,
    strange::Strange,
    writes::{REMOVE, WRITE, Writes},
};
use crate::{
    DataplaneError,
    diff::{Changes, changes},
    tables::{BackendRow, Frontend, ServiceRow},
};

/// The groups that the maps hold.
#[derive(Debug, Default)]
pub(super) struct Groups {
    of: BTreeMap<Frontend, Held>,
    /// Rows of groups that no frontend points to: that were replaced, or left by a daemon that was killed between two
    /// writes.
    stray: Vec<GroupKey>,
    next: u32,
}

/// The group of a frontend.
#[derive(Debug, Default)]
struct Held {
    number: u32,
    /// Its backends as the slots have them, if that is another order than the row's.
    order: Option<Vec<BackendRow>>,
    /// Rows that may be there besides, after a change that was refused half-way. Such a group is replaced.
    loose: Vec<GroupKey>,
}

/// What of a group is looked up; the rest is stray.
struct Used {
    count: u32,
    parts: u32,
    members: BTreeSet<Addr>,
}

impl Used {
    fn new(front: &Front, row: &ServiceRow) -> Self {
        let sticky = row.backends.iter().filter(|_| row.choice.affinity != 0);
        Self {
            count: front.count,
            parts: front.table.div_ceil(PART as u32),
            members: sticky.map(|backend| Addr::from(backend.address)).collect(),
        }
    }

    fn has(&self, key: &GroupKey) -> bool {
        match key {
            GroupKey::Slot(key) => key.index < self.count,
            GroupKey::Part(key) => key.part < self.parts,
            GroupKey::Member(key) => self.members.contains(&key.addr),
        }
    }
}

impl Groups {
    /// What the maps hold. What cannot be read goes to `strange`.
    pub(super) fn look(
        maps: &Maps,
        strange: &mut Strange,
    ) -> Result<(Self, OrdMap<Frontend, ServiceRow>), DataplaneError> {
        let slots: BTreeMap<_, _> = maps.slots.raw_rows()?.into_iter().collect();
        let (mut groups, mut rows) = (Self::default(), OrdMap::new());
        // Groups that are whole.
        let mut used = BTreeMap::new();
        for (key, front) in maps.frontends.raw_rows()? {
            let Some(name) = Frontend::decode(key) else {
                strange.frontends.push(key);
                continue;
            };
            let own = SlotKey { group: front.group, index: 0 }..SlotKey { group: front.group, index: front.count };
            let mut row = group::row(&front, slots.range(own).map(|(_, slot)| *slot));
            let whole = Group::new(front.group, &row).is_in(maps);
            if whole && group::frontend(front.group, &row) == front {
                used.insert(front.group, Used::new(&front, &row));
            } else {
                // Nothing that could be wanted: it is written anew, and its rows are stray.
                row = ServiceRow { id: 0, ..ServiceRow::default() };
            }
            groups.of.insert(name, Held { number: front.group, ..Held::default() });
            rows.insert(name, row);
        }
        let slots = slots.into_keys().map(GroupKey::Slot);
        let members = maps.members.raw_rows()?.into_iter().map(|(key, _)| GroupKey::Member(key));
        let parts = maps.parts.keys()?.into_iter().map(GroupKey::Part);
        let keys: Vec<_> = slots.chain(members).chain(parts).collect();
        let numbers = keys.iter().map(GroupKey::group).chain(groups.of.values().map(|held| held.number));
        groups.next = numbers.max().map_or(1, next);
        let is_stray = |key: &GroupKey| used.get(&key.group()).is_none_or(|used| !used.has(key));
        groups.stray = keys.into_iter().filter(is_stray).collect();
        Ok((groups, rows))
    }

    /// The number of the next group.
    pub(super) const fn next(&self) -> u32 {
        self.next
    }

    /// Numbers of groups are not given out again while a reader may still have them.
    pub(super) fn continue_from(&mut self, next: u32) {
        self.next = self.next.max(next);
    }

    /// How many rows no frontend points to.
    pub(super) fn strays(&self) -> usize {
        self.stray.len()
    }

    /// Writes what has come or is another. `rows` are those that the maps hold.
    pub(super) fn put(
        &mut self,
        writes: &mut Writes,
        maps: &mut Maps,
        rows: &mut OrdMap<Frontend, ServiceRow>,
        services: &Changes<'_, Frontend, ServiceRow>,
    ) {
        // Behind the last that a frontend counts: gone when all of them are written.
        let mut behind = Vec::new();
        for (front, row) in &services.put {
            match self.in_place(front, rows.get(*front), row) {
                Some(order) => self.change(writes, maps, rows, (front, row, order), &mut behind),
                None => self.replace(writes, maps, rows, front, row),
            }
        }
        for (front, key) in behind {
            if !removed(writes, maps, &key)
                && let Some(held) = self.of.get_mut(&front)
            {
                held.loose.push(key);
            }
        }
    }

    /// The order of slots for `row`, if its group can be changed where it is.
    fn in_place(&self, front: &Frontend, have: Option<&ServiceRow>, row: &ServiceRow) -> Option<Vec<BackendRow>> {
        let (held, have) = (self.of.get(front)?, have?);
        if have.id != row.id || have.choice != row.choice || !held.loose.is_empty() {
            return None;
        }
        // Left by a daemon that was killed: it would be removed after it is written.
        if self.stray.iter().any(|key| key.group() == held.number) {
            return None;
        }
        let before = held.order.as_ref().unwrap_or(&have.backends);
        let order = placed(before, &row.backends)?;
        (order == *before || place::is_worth(before, &order, row.choice)).then_some(order)
    }

    fn change(
        &mut self,
        writes: &mut Writes,
        maps: &mut Maps,
        rows: &mut OrdMap<Frontend, ServiceRow>,
        (front, row, order): (&Frontend, &ServiceRow, Vec<BackendRow>),
        behind: &mut Vec<(Frontend, GroupKey)>,
    ) {
        let (Some(held), Some(have)) = (self.of.get_mut(front), rows.get_mut(front)) else { return };
        let number = held.number;
        let before = held.order.take().unwrap_or_else(|| have.backends.clone());
        if before != order {
            let [was, is] = [before, order].map(|backends| ServiceRow { id: row.id, backends, choice: row.choice });
            let mut delta = place::Delta::new(number, &was, &is);
            // Of a table little moves, and to read a part costs less than to write it.
            delta.put.parts.retain(|(key, part)| maps.parts.get(key).as_ref() != Some(part));
            let written = put(writes, maps, &delta.put) && delta.leave.iter().all(|key| removed(writes, maps, key));
            let value = group::frontend(number, &is);
            let told = value == group::frontend(number, &was)
                || written && writes.done(maps.frontends.insert(front.encode(), value), WRITE, map::FRONTENDS);
            if !written || !told {
                // Nothing that could be wanted: it is replaced the next time.
                held.loose = group::keys(number, &is).collect();
                *have = ServiceRow { id: 0, ..was };
                return;
            }
            behind.extend(delta.cut.into_iter().map(|key| (*front, key)));
            held.order = Some(is.backends);
        } else {
            held.order = Some(order);
        }
        held.order.take_if(|order| *order == row.backends);
        have.clone_from(row);
    }

    /// Writes a whole group under a new number.
    fn replace(
        &mut self,
        writes: &mut Writes,
        maps: &mut Maps,
        rows: &mut OrdMap<Frontend, ServiceRow>,
        front: &Frontend,
        row: &ServiceRow,
    ) {
        let number = self.next;
        self.next = next(number);
        let whole = put(writes, maps, &Group::new(number, row));
        let value = group::frontend(number, row);
        if whole && writes.done(maps.frontends.insert(front.encode(), value), WRITE, map::FRONTENDS) {
            self.forget(rows, front);
            self.of.insert(*front, Held { number, ..Held::default() });
            rows.insert(*front, row.clone());
        } else {
            self.stray.extend(group::keys(number, row));
        }
    }

    /// Removes frontends, and what no frontend points to any more.
    pub(super) fn cut(
        &mut self,
        writes: &mut Writes,
        maps: &mut Maps,
        rows: &mut OrdMap<Frontend, ServiceRow>,
        services: &Changes<'_, Frontend, ServiceRow>,
    ) {
        for front in &services.cut {
            if writes.done(maps.frontends.remove(&front.encode()), REMOVE, map::FRONTENDS) {
                self.forget(rows, front);
            }
        }
        self.stray.retain(|key| !removed(writes, maps, key));
    }

    /// The frontend is gone or points elsewhere: the rows of its group are stray.
    fn forget(&mut self, rows: &mut OrdMap<Frontend, ServiceRow>, front: &Frontend) {
        if let (Some(held), Some(row)) = (self.of.remove(front), rows.remove(front)) {
            self.stray.extend(group::keys(held.number, &row));
            self.stray.extend(held.loose);
        }
    }
}

/// `have` with the order of backends of `want` where that is all that differs: slots have an order of their own.
pub(super) fn in_order_of(
    have: &OrdMap<Frontend, ServiceRow>,
    want: &OrdMap<Frontend, ServiceRow>,
) -> OrdMap<Frontend, ServiceRow> {
    let mut ordered = have.clone();
    for (front, row) in changes(have, want).put {
        let alike = have.get(front).filter(|of| of.id == row.id && of.choice == row.choice);
        if alike.is_some_and(|of| placed(&of.backends, &row.backends).as_ref() == Some(&of.backends)) {
            ordered.insert(*front, row.clone());
        }
    }
    ordered
}

fn put(writes: &mut Writes, maps: &mut Maps, group: &Group) -> bool {
    let Group { slots, members, parts } = group;
    slots.iter().all(|(key, slot)| writes.done(maps.slots.insert(*key, *slot), WRITE, map::SLOTS))
        && members.iter().all(|(key, at)| writes.done(maps.members.insert(*key, *at), WRITE, map::MEMBERS))
        && parts.iter().all(|(key, part)| writes.done(maps.parts.insert(*key, *part), WRITE, map::PARTS))
}

/// Whether the row is gone.
fn removed(writes: &mut Writes, maps: &mut Maps, key: &GroupKey) -> bool {
    let (removed, map) = match key {
        GroupKey::Slot(key) => (maps.slots.remove(key), map::SLOTS),
        GroupKey::Member(key) => (maps.members.remove(key), map::MEMBERS),
        GroupKey::Part(key) => (maps.parts.remove(key), map::PARTS),
    };
    match removed {
        // One that was refused when it was written is not there.
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => true,
        result => writes.done(result, REMOVE, map),
    }
}

/// The number after this one; never 0.
fn next(group: u32) -> u32 {
    group.wrapping_add(1).max(1)
}
