//! Accounts: who has which, what each may use, and what it uses.
//!
//! The daemon writes what they may. What they use is the programs' to count; here counts are put right that have drifted
//! from the table of flows, as when two processors ended one flow at once, or a tenant got limits while connections of it
//! were open.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    mem::offset_of,
    ops::RangeInclusive,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{Array, MapData};
use hivemind_ebpf::{
    abi::{ACCOUNTS, Flow, IN, INSTANCE_ACCOUNTS, Limit, OUT, Rate, Use},
    limit::{CONNECTION, HELD, holder},
    map,
};
use imbl::OrdMap;

use super::{
    mapped::Mapped,
    maps::{Maps, failed},
};
use crate::{
    DataplaneError,
    tables::{LimitOwner, LimitRow, Tables, Usage},
};
use hivemind_core::{
    lifecycle::killpoint,
    model::{BitRate, PerSecond},
    spec::v1::LimitSpec,
};

/// A full bucket of bytes or packets lasts for so long: longer than the 200 ms after which TCP sends again what it takes
/// for lost (Linux, TCP_RTO_MIN). With 100 ms it got 53 % of 20 Mbit/s, with 250 ms 97 % and more: what came in while it
/// waited did not fit into the bucket.
const BURST_NS: u64 = 250_000_000;
/// And has at least so many: the largest packet that the kernel makes of TCP, twice.
const LEAST_BYTES: u64 = 2 * 65_536;
/// And so many packets: one such in pieces, and as many more.
const LEAST_PACKETS: u64 = 2 * 45;
/// As many connections may begin at once as may in a second.
const SECOND_NS: u64 = 1_000_000_000;

/// Words of eight bytes of one [`Use`].
const WORDS: usize = size_of::<Use>() / 8;

/// Who has which account. The rows in the kernel say the same: this is read from them.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    owners: BTreeMap<LimitOwner, u32>,
    used: BTreeSet<u32>,
    limits: BTreeMap<u32, Limit>,
    /// The accounts that were given last, of an instance and of a tenant: the search goes on behind them, so that one is
    /// not another's soon.
    last: [u32; 2],
    /// By how much counts differed from the flows at the last sweep.
    drift: BTreeMap<(u32, usize), i64>,
}

/// An account, and whose it is as far as that is known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Account {
    number: u32,
    owner: Option<LimitOwner>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.owner {
            Some(LimitOwner::Instance(ifindex)) => {
                write!(f, "account {} (the instance at device {ifindex})", self.number)
            }
            Some(LimitOwner::Tenant(number)) => write!(f, "account {} (the tenant with number {number})", self.number),
            None => write!(f, "account {} (nobody's)", self.number),
        }
    }
}

/// The words of a count.
const CONNECTIONS: usize = offset_of!(Use, connections) / 8;
const FLOWS: usize = offset_of!(Use, flows) / 8;

impl Accounts {
    /// As the kernel's rows have them: `instances` by their interface index.
    pub(super) fn read(maps: &Maps, instances: BTreeMap<u32, u32>) -> Result<Self, DataplaneError> {
        let mut accounts = Self { limits: maps.limits.read()?, ..Self::default() };
        accounts.owners = instances.into_iter().map(|(ifindex, it)| (LimitOwner::Instance(ifindex), it)).collect();
        let tenants = accounts.limits.range(INSTANCE_ACCOUNTS + 1..).filter(|(_, limit)| limit.owner != 0);
        accounts.owners.extend(tenants.map(|(account, limit)| (LimitOwner::Tenant(limit.owner), *account)));
        accounts.used = accounts.owners.values().copied().collect();
        Ok(accounts)
    }

    /// The account of an owner; `None` if there is none left. A new one begins with nothing used.
    pub(super) fn of(&mut self, maps: &Maps, owner: LimitOwner) -> Option<u32> {
        if let Some(account) = self.owners.get(&owner) {
            return Some(*account);
        }
        let (range, last) = match owner {
            LimitOwner::Instance(_) => (1..=INSTANCE_ACCOUNTS, &mut self.last[0]),
            LimitOwner::Tenant(_) => (INSTANCE_ACCOUNTS + 1..=ACCOUNTS - 1, &mut self.last[1]),
        };
        let account = next(range, *last, &self.used)?;
        *last = account;
        maps.uses.clear(account, 0..WORDS);
        self.used.insert(account);
        self.owners.insert(owner, account);
        Some(account)
    }

    /// Writes what is wanted of the tables. Returns how many rows were written and how many tenants found no account.
    pub(super) fn write(&mut self, maps: &mut Maps, wanted: &Tables) -> Result<(u64, u64), DataplaneError> {
        let mut limits = BTreeMap::new();
        let mut refused = 0;
        // Tenants first: the rows of instances name them.
        for (owner, row) in wanted.limits.iter().rev() {
            let Some(account) = self.of(maps, *owner) else {
                refused += 1;
                continue;
            };
            let limit = match owner {
                LimitOwner::Tenant(number) => Limit { owner: *number, ..encode(&row.spec) },
                LimitOwner::Instance(_) => {
                    let tenant = self.owners.get(&LimitOwner::Tenant(row.tenant)).copied().unwrap_or(0);
                    Limit { tenant, ..encode(&row.spec) }
                }
            };
            limits.insert(account, limit);
        }
        let mut written = 0;
        let accounts: BTreeSet<u32> = limits.keys().chain(self.limits.keys()).copied().collect();
        for account in accounts.into_iter().rev() {
            let limit = limits.get(&account).copied().unwrap_or_default();
            if self.limits.get(&account).copied().unwrap_or_default() == limit {
                continue;
            }
            maps.limits.write(account, limit)?;
            // What was overdrawn at another rate is not a debt at this one.
            maps.uses.clear(account, 0..CONNECTIONS);
            written += 1;
            if limits.contains_key(&account) {
                self.limits.insert(account, limit);
            } else {
                self.limits.remove(&account);
            }
        }
        Ok((written, refused))
    }

    /// Takes back the accounts of those that are gone from the tables.
    pub(super) fn release(&mut self, wanted: &Tables) {
        let gone = |owner: &LimitOwner| match owner {
            LimitOwner::Instance(ifindex) => !wanted.endpoints.contains_key(ifindex),
            LimitOwner::Tenant(_) => !wanted.limits.contains_key(owner),
        };
        for (_, account) in self.owners.extract_if(.., |owner, _| gone(owner)) {
            self.used.remove(&account);
        }
    }

    /// What everybody uses who has an account.
    pub(super) fn usage(&self, maps: &Maps) -> BTreeMap<LimitOwner, Usage> {
        self.owners.iter().map(|(owner, account)| (*owner, maps.uses.read(*account))).collect()
    }

    /// All counts as they stand.
    pub(super) fn counts(&self, maps: &Maps) -> BTreeMap<(u32, usize), i64> {
        let words = [CONNECTIONS, CONNECTIONS + 1, FLOWS];
        let of = |account: &u32| words.map(|word| ((*account, word), maps.uses.count(*account, word)));
        self.owners.values().flat_map(of).collect()
    }

    /// Adds what a row of the table is counted for: the accounts that its instances have now. It names those that they had
    /// when it was decided, which of another ABI's daemon were others.
    pub(super) fn add(&self, row: &Flow, counted: &mut BTreeMap<(u32, usize), i64>) {
        let mut add = |account: u32, word| {
            if account != 0 {
                *counted.entry((account, word)).or_default() += 1;
            }
        };
        let accounts = [0, 1].map(|side| {
            let owner = LimitOwner::Instance(row.devices[side]);
            let now = self.owners.get(&owner).and_then(|account| u16::try_from(*account).ok());
            now.unwrap_or(row.accounts[side])
        });
        for (side, account) in accounts.iter().enumerate().filter(|_| row.counted & CONNECTION != 0) {
            let direction = if side == usize::from(row.origin & 1) { OUT } else { IN };
            let account = u32::from(*account);
            add(account, CONNECTIONS + usize::from(direction));
            let tenant = self.limits.get(&account).map_or(0, |limit| limit.tenant);
            add(tenant, CONNECTIONS + usize::from(direction));
        }
        if row.counted & HELD != 0 {
            add(holder(accounts, row.origin).into(), FLOWS);
        }
    }

    /// Counts the table of flows anew, where none of the programs that run counts.
    pub(super) fn recount(&self, maps: &Maps) -> Result<(), DataplaneError> {
        let mut counted = BTreeMap::new();
        for (_, row) in maps.flows.raw_rows()? {
            self.add(&row, &mut counted);
        }
        for ((account, word), now) in self.counts(maps) {
            maps.uses.adjust(account, word, counted.get(&(account, word)).copied().unwrap_or(0) - now);
        }
        Ok(())
    }

    /// What the rows say, in the words of the tables.
    pub(super) fn held(&self) -> OrdMap<LimitOwner, LimitRow> {
        let row = |(owner, account): (&LimitOwner, &u32)| {
            let limit = self.limits.get(account)?;
            let tenant = self.limits.get(&limit.tenant).map_or(0, |tenant| tenant.owner);
            Some((*owner, LimitRow { spec: decode(limit), tenant }))
        };
        self.owners.iter().filter_map(row).collect()
    }

    /// What each account may, with the owners that `known` has for them.
    pub(super) fn rows(&self, known: &Self) -> OrdMap<Account, Limit> {
        let owners: BTreeMap<u32, LimitOwner> = known.owners.iter().map(|(owner, number)| (*number, *owner)).collect();
        let account = |number: &u32| Account { number: *number, owner: owners.get(number).copied() };
        self.limits.iter().map(|(number, limit)| (account(number), *limit)).collect()
    }

    /// Puts counts right that have drifted. The table changes while it is read: what is between the count before and
    /// after it is right, and else only the part that a second sweep confirms is put right.
    pub(super) fn correct(
        &mut self,
        maps: &Maps,
        before: &BTreeMap<(u32, usize), i64>,
        counted: &BTreeMap<(u32, usize), i64>,
    ) -> u64 {
        let mut corrected = 0;
        let mut drift = BTreeMap::new();
        for (key, after) in self.counts(maps) {
            let before = before.get(&key).copied().unwrap_or(after);
            let counted = counted.get(&key).copied().unwrap_or(0);
            let (now, sure) = difference(before, after, counted, self.drift.get(&key).copied().unwrap_or(0));
            if sure != 0 {
                maps.uses.adjust(key.0, key.1, sure);
                corrected += 1;
            }
            if now != 0 {
                drift.insert(key, now);
            }
        }
        self.drift = drift;
        corrected
    }

    /// A row was removed by the daemon: it is counted no more.
    pub(super) fn ended(&self, maps: &Maps, row: &Flow) {
        let mut counted = BTreeMap::new();
        self.add(row, &mut counted);
        for ((account, word), number) in counted {
            maps.uses.adjust(account, word, -number);
        }
    }
}

/// By how much a count is too small, and how much of that is sure since it was so at the last time as well.
fn difference(before: i64, after: i64, counted: i64, last: i64) -> (i64, i64) {
    let now = counted - counted.clamp(before.min(after), before.max(after));
    let sure = if now.signum() == last.signum() { now.signum() * now.abs().min(last.abs()) } else { 0 };
    (now - sure, sure)
}

/// The first number of the range that is free, behind `last`.
fn next(range: RangeInclusive<u32>, last: u32, used: &BTreeSet<u32>) -> Option<u32> {
    let free = |account: &u32| !used.contains(account);
    let behind = (last + 1).max(*range.start())..=*range.end();
    behind.into_iter().find(free).or_else(|| range.into_iter().find(free))
}

fn encode(spec: &LimitSpec) -> Limit {
    let LimitSpec { egress, ingress, egress_packets, ingress_packets, connections, new_connections } = *spec;
    let bytes = |rate: Option<BitRate>| {
        rate.map_or(Rate::NONE, |rate| Rate::per_second((rate.0 / 8).max(1), BURST_NS, LEAST_BYTES))
    };
    let packets = |rate: Option<PerSecond>| {
        rate.map_or(Rate::NONE, |rate| Rate::per_second(rate.0.max(1), BURST_NS, LEAST_PACKETS))
    };
    // The one that overdraws it is one of them.
    let begins = new_connections.map_or(Rate::NONE, |rate| {
        let rate = Rate::per_second(rate.0.max(1), SECOND_NS, 1);
        Rate { depth: rate.depth.saturating_sub(rate.cost(1)), ..rate }
    });
    Limit {
        bytes: [bytes(egress), bytes(ingress)],
        packets: [packets(egress_packets), packets(ingress_packets)],
        begins: [begins; 2],
        connections: [connections.unwrap_or(0); 2],
        ..Limit::default()
    }
}

/// The limits of a row. A rate is as near as its row has it, in four digits: it is kept as the time that one byte takes.
fn decode(limit: &Limit) -> LimitSpec {
    let number = |rate: Rate, unit: u64| {
        let number = rate.number()?.saturating_mul(unit);
        let unsaid = 10_u64.pow(number.checked_ilog10()?.saturating_sub(3));
        Some(number.saturating_add(unsaid / 2) / unsaid * unsaid)
    };
    let ([egress, ingress], [egress_packets, ingress_packets]) = (limit.bytes, limit.packets);
    LimitSpec {
        egress: number(egress, 8).map(BitRate),
        ingress: number(ingress, 8).map(BitRate),
        egress_packets: number(egress_packets, 1).map(PerSecond),
        ingress_packets: number(ingress_packets, 1).map(PerSecond),
        connections: Some(limit.connections[0]).filter(|most| *most != 0),
        new_connections: number(limit.begins[0], 1).map(PerSecond),
    }
}

/// What accounts may use.
pub(super) struct Limits(Array<MapData, Limit>);

impl Limits {
    pub(super) fn take(map: aya::maps::Map) -> Result<Self, DataplaneError> {
        Array::try_from(map).map(Self).map_err(|error| failed("use", map::LIMITS, &error))
    }

    /// Those of all accounts that have some.
    fn read(&self) -> Result<BTreeMap<u32, Limit>, DataplaneError> {
        let mut limits = BTreeMap::new();
        for account in 1..ACCOUNTS {
            let limit = self.0.get(&account, 0).map_err(|error| failed("read", map::LIMITS, &error))?;
            if limit != Limit::default() {
                limits.insert(account, limit);
            }
        }
        Ok(limits)
    }

    fn write(&mut self, account: u32, limit: Limit) -> Result<(), DataplaneError> {
        killpoint::before("writing a row of a map");
        self.0.set(account, limit, 0).map_err(|error| failed("write", map::LIMITS, &error))
    }
}

/// What accounts use.
pub(super) struct Uses(Mapped);

impl Uses {
    pub(super) fn map(data: &MapData) -> Result<Self, DataplaneError> {
        Mapped::new(data, map::USES, ACCOUNTS as usize * size_of::<Use>()).map(Self)
    }

    fn word(&self, account: u32, word: usize) -> Option<&AtomicU64> {
        self.0.word(account as usize * WORDS + word)
    }

    fn clear(&self, account: u32, words: std::ops::Range<usize>) {
        words.filter_map(|word| self.word(account, word)).for_each(|word| word.store(0, Ordering::Relaxed));
    }

    fn count(&self, account: u32, word: usize) -> i64 {
        self.word(account, word).map_or(0, |word| word.load(Ordering::Relaxed)).cast_signed()
    }

    fn adjust(&self, account: u32, word: usize, by: i64) {
        if let Some(word) = self.word(account, word) {
            word.fetch_add(by.cast_unsigned(), Ordering::Relaxed);
        }
    }

    fn read(&self, account: u32) -> Usage {
        let count = |word| u64::try_from(self.count(account, word)).unwrap_or(0);
        let pair = |offset: usize| [count(offset / 8), count(offset / 8 + 1)];
        Usage {
            connections: pair(offset_of!(Use, connections)),
            flows: count(FLOWS),
            unshared: count(offset_of!(Use, unshared) / 8),
            dropped_packets: pair(offset_of!(Use, dropped_packets)),
            dropped_bytes: pair(offset_of!(Use, dropped_bytes)),
            refused: pair(offset_of!(Use, refused)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_put_right_by_what_two_sweeps_found() {
        for (before, after, counted, last, expected) in [
            (5, 5, 5, 0, (0, 0)),
            // In between: it moved while the table was read.
            (5, 9, 7, 3, (0, 0)),
            (9, 5, 9, -3, (0, 0)),
            // Found once, then confirmed; less of it the second time; another way the second time.
            (5, 5, 3, 0, (-2, 0)),
            (5, 5, 3, -2, (0, -2)),
            (5, 6, 2, -1, (-2, -1)),
            (5, 5, 8, -2, (3, 0)),
            (-2, -2, 0, 2, (0, 2)),
        ] {
            assert_eq!(difference(before, after, counted, last), expected, "{before} {after} {counted} {last}");
        }
    }

    #[test]
    fn limits_are_read_as_they_were_written() {
        let rate = |text: &str| text.parse::<BitRate>().ok();
        for (egress, packets, connections) in
            [("8kbit", 1, 1), ("10mbit", 500, 100), ("2.5gbit", 12_345, 65_536), ("1tbit", 1_000_000, 7)]
        {
            let spec = LimitSpec {
                egress: rate(egress),
                ingress_packets: Some(PerSecond(packets)),
                connections: Some(connections),
                ..LimitSpec::default()
            };
            // Four digits are as many as are told.
            let told = LimitSpec {
                ingress_packets: Some(PerSecond(if packets == 12_345 { 12_350 } else { packets })),
                ..spec
            };
            assert_eq!(decode(&encode(&spec)), told, "{egress}");
            let begins =
                LimitSpec { new_connections: Some(PerSecond(packets)), ingress: rate(egress), ..LimitSpec::default() };
            assert_eq!(decode(&encode(&begins)).ingress, begins.ingress);
        }
        assert_eq!(decode(&Limit::default()), LimitSpec::default());
    }

    #[test]
    fn an_account_is_given_again_as_late_as_can_be() {
        let used = |numbers: &[u32]| numbers.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(next(1..=4, 0, &used(&[])), Some(1));
        assert_eq!(next(1..=4, 1, &used(&[1])), Some(2));
        assert_eq!(next(1..=4, 4, &used(&[1, 3])), Some(2));
        assert_eq!(next(1..=4, 2, &used(&[1, 2, 3, 4])), None);
        assert_eq!(next(5..=8, 0, &used(&[])), Some(5));
    }

    #[test]
    fn buckets_last_a_quarter_of_a_second_and_take_large_packets() {
        let spec = LimitSpec {
            egress: Some(BitRate(80_000_000)),
            ingress: Some(BitRate(80_000)),
            egress_packets: Some(PerSecond(10_000)),
            new_connections: Some(PerSecond(100)),
            connections: Some(7),
            ..LimitSpec::default()
        };
        let limit = encode(&spec);
        // In sixteenths of a nanosecond: 250 ms; 131,072 bytes of 10,000 in a second; 99 hundredths of a second.
        let depths = [limit.bytes[0], limit.bytes[1], limit.packets[0], limit.begins[1]].map(|rate| rate.depth);
        assert_eq!(depths, [4_000_000_000, 131_072 * 1_600_000, 4_000_000_000, 15_840_000_000]);
        assert_eq!((limit.packets[1], limit.connections), (Rate::NONE, [7, 7]));
    }
}
