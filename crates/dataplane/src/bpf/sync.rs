//! What the maps hold, and the way from there to what they should hold.
//!
//! Additions come before removals, and a service's new backends before the row that points to them. A reader in the
//! kernel sees the old or the new service, never a part of one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use hivemind_ebpf::{
    abi::{Endpoint, Served},
    limit::PACED,
    map,
    policy::HOST_ENDPOINT,
};
use imbl::{OrdMap, OrdSet, ordset::DiffItem};
use ipnet::IpNet;

use super::{
    accounts::Accounts,
    adopt, held,
    intervals::Intervals,
    maps::Maps,
    rows::{Row, flags},
    services::{Groups, in_order_of},
    slots::{Owner, Slots},
    strange::Strange,
    writes::{REMOVE, WRITE, Writes},
};
use crate::{
    DataplaneError, SyncReport,
    diff::changes,
    drift::{Difference, Fault, compare},
    tables::{LimitOwner, NodeRow, Part, Tables},
};
use hivemind_core::spec::v1::PolicyProtocol;

/// What the maps hold: read once when the daemon starts, then kept in step with what is written.
#[derive(Debug, Default)]
pub(super) struct Shadow {
    rows: Tables,
    /// What is behind the frontends.
    groups: Groups,
    slots: Slots,
    /// The flags that the programs know the host's policies by.
    host: u32,
    /// How many addresses of other nodes the programs know of, and whether uplinks keep packets, in one word.
    nodes: u32,
    accounts: Accounts,
}

impl Shadow {
    /// What the maps hold. Rows that cannot be read back are removed.
    pub(super) fn read(maps: &mut Maps) -> Result<Self, DataplaneError> {
        let mut strange = Strange::default();
        let shadow = Self::look(maps, &mut strange)?;
        strange.remove(maps)?;
        Ok(shadow)
    }

    /// What the maps hold, but for rows that cannot be read back.
    pub(super) fn look(maps: &Maps, strange: &mut Strange) -> Result<Self, DataplaneError> {
        let mut shadow = Self::default();
        (shadow.groups, shadow.rows.services) = Groups::look(maps, strange)?;
        (shadow.host, shadow.nodes) = (maps.host()?, maps.told_nodes()?);
        shadow.rows.paced = shadow.nodes & PACED != 0;
        // Services, served ports and limits are read with what is known of them besides.
        let plain = [
            Part::Endpoints,
            Part::Peers,
            Part::Sources,
            Part::NodeAddresses,
            Part::Nodes,
            Part::Rules,
            Part::Intervals,
            Part::Blocks,
        ];
        for part in plain {
            held::read(&mut shadow.rows, part, maps, strange)?;
        }
        let (mut owners, mut accounts) = (BTreeMap::new(), BTreeMap::new());
        for (ifindex, row) in maps.endpoints.raw_rows()? {
            if row.account != 0 {
                accounts.insert(ifindex, row.account);
            }
            owners.insert(Owner { ifindex, served: None }, row.slot);
        }
        for (key, row) in maps.served.raw_rows()? {
            let Some(decoded @ (ifindex, port, protocol)) = Row::decode(key) else {
                strange.served.push(key);
                continue;
            };
            owners.insert(Owner { ifindex, served: Some((port, protocol, row.service)) }, row.slot);
            shadow.rows.served.insert(decoded, row.service);
        }
        owners.retain(|_, slot| *slot != 0);
        shadow.slots = Slots::read(owners);
        shadow.accounts = Accounts::read(maps, accounts)?;
        Ok(shadow)
    }

    /// Reads the maps again and puts right what someone else has changed. Returns how many rows.
    pub(super) fn repair(&mut self, maps: &mut Maps) -> Result<u64, DataplaneError> {
        let found = Self::read(maps)?;
        let wanted = std::mem::replace(self, found);
        // Numbers of groups are not given out again while a reader may still have them.
        self.groups.continue_from(wanted.groups.next());
        let report = self.sync(maps, &wanted.rows)?;
        Ok(report.written + report.removed)
    }

    /// Who has which account.
    pub(super) fn accounts(&mut self) -> &mut Accounts {
        &mut self.accounts
    }

    /// What the maps hold that was not written, and what was written that they do not hold. Changes nothing.
    pub(super) fn check(&self, maps: &Maps) -> Result<Vec<Difference>, DataplaneError> {
        let mut strange = Strange::default();
        let found = Self::look(maps, &mut strange)?;
        let (have, want) = (&found.rows, &self.rows);
        let addresses = |set: &BTreeSet<IpAddr>| set.iter().map(|ip| (*ip, "own")).collect::<OrdMap<IpAddr, &str>>();
        let sources =
            |set: &OrdSet<_>| set.iter().map(|range| (*range, "allowed")).collect::<OrdMap<(u32, IpNet), &str>>();
        let mut all = strange.differences();
        all.extend(compare("endpoints", &have.endpoints, &want.endpoints));
        all.extend(compare("peers", &have.peers, &want.peers));
        all.extend(compare("services", &in_order_of(&have.services, &want.services), &want.services));
        all.extend(compare("served", &have.served, &want.served));
        all.extend(compare("sources", &sources(&have.sources), &sources(&want.sources)));
        all.extend(compare("node-addresses", &addresses(&have.node_addresses), &addresses(&want.node_addresses)));
        all.extend(compare("nodes", &have.nodes, &want.nodes));
        let queues = |tables: &Tables| OrdMap::<&str, bool>::from(vec![("packets wait at uplinks", tables.paced)]);
        all.extend(compare("uplinks", &queues(have), &queues(want)));
        all.extend(compare("rules", &have.rules, &want.rules));
        let ports = |intervals: &Intervals| OrdMap::<PolicyProtocol, BTreeSet<u16>>::from(intervals.clone());
        all.extend(compare("ports", &ports(&have.intervals), &ports(&want.intervals)));
        all.extend(compare("blocks", &have.blocks, &want.blocks));
        all.extend(compare("limits", &found.accounts.rows(&self.accounts), &self.accounts.rows(&self.accounts)));
        let stray = found.groups.strays().saturating_sub(self.groups.strays());
        if stray > 0 && all.is_empty() {
            let what = format!("{stray} rows of backends that no service points to");
            let (wanted, found) = (String::new(), String::new());
            all.push(Difference { place: "backends", fault: Fault::Extra, what, wanted, found });
        }
        Ok(all)
    }

    /// What was written last.
    pub(super) const fn rows(&self) -> &Tables {
        &self.rows
    }

    /// The addresses of other nodes.
    pub(super) const fn nodes(&self) -> &OrdMap<IpAddr, NodeRow> {
        &self.rows.nodes
    }

    /// Whether packets are kept until their time of departure.
    pub(super) const fn is_paced(&self) -> bool {
        self.nodes & PACED != 0
    }

    /// Who is counted where.
    pub(super) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Writes the difference, and has the flows decided anew by it. After it the shadow is what was written, also after
    /// an error.
    pub(super) fn sync(&mut self, maps: &mut Maps, wanted: &Tables) -> Result<SyncReport, DataplaneError> {
        let report = self.write(maps, wanted);
        if report.is_ok() {
            // The same rows, but shared: what differs is soon found the next time.
            self.rows = wanted.clone();
        }
        if !matches!(report, Ok(SyncReport { written: 0, removed: 0, .. })) {
            maps.next_generation()?;
        }
        let rows = &self.rows;
        self.slots.release(|owner| match owner.served {
            None => !rows.endpoints.contains_key(&owner.ifindex),
            Some((port, protocol, service)) => rows.served.get(&(owner.ifindex, port, protocol)) != Some(&service),
        });
        self.accounts.release(rows);
        self.slots.empty(maps)?;
        report
    }

    fn write(&mut self, maps: &mut Maps, wanted: &Tables) -> Result<SyncReport, DataplaneError> {
        let first = self.pass(maps, wanted);
        if first.full.is_empty() || first.report.removed == 0 {
            return first.finish(maps);
        }
        // Room was made: what was refused is tried again, once.
        let more = self.pass(maps, wanted).finish(maps)?;
        first.failed.map_or(Ok(()), Err)?;
        let report = first.report;
        Ok(SyncReport {
            written: report.written + more.written,
            removed: report.removed + more.removed,
            repaired: report.repaired + more.repaired,
        })
    }

    fn pass(&mut self, maps: &mut Maps, wanted: &Tables) -> Writes {
        let mut writes = Writes::default();
        let all = |set: &BTreeSet<_>| set.iter().map(|ip| (*ip, 1u32)).collect::<OrdMap<IpAddr, u32>>();
        let (mut own, wanted_own) = (all(&self.rows.node_addresses), all(&wanted.node_addresses));

        let endpoints = changes(&self.rows.endpoints, &wanted.endpoints);
        let peers = changes(&self.rows.peers, &wanted.peers);
        let served = changes(&self.rows.served, &wanted.served);
        let services = changes(&self.rows.services, &wanted.services);
        let addresses = changes(&own, &wanted_own);
        let nodes = changes(&self.rows.nodes, &wanted.nodes);

        let host = wanted.endpoints.get(&HOST_ENDPOINT).map_or(0, flags);
        // What is no way of a policy's any more is open before its rules go.
        self.tell_host(&mut writes, maps, self.host & host, &wanted.node_addresses);

        // Policies: first the rules under new numbers, then who and what has which number, at last old rules go: at no
        // moment something is looked up under a number that has no rules yet.
        let rules = changes(&self.rows.rules, &wanted.rules);
        let blocks = changes(&self.rows.blocks, &wanted.blocks);
        writes.put(&mut maps.rules, &mut self.rows.rules, &rules.put);
        for (block, class) in &blocks.put {
            if writes.done(maps.blocks.insert(**block, **class), WRITE, map::BLOCKS) {
                self.rows.blocks.insert(**block, **class);
            }
        }
        if self.rows.intervals != wanted.intervals {
            match maps.ports.write(&wanted.intervals) {
                Ok(()) => {
                    self.rows.intervals.clone_from(&wanted.intervals);
                    writes.report.written += 1;
                }
                Err(error) => drop(writes.failed.get_or_insert(error)),
            }
        }

        // Limits before the instances that have them.
        self.put_limits(&mut writes, maps, wanted);
        // Who comes is known before anything is opened: what it sends is dropped until then.
        let (come, others): (Vec<_>, Vec<_>) =
            peers.put.into_iter().partition(|(address, _)| !self.rows.peers.contains_key(*address));
        writes.put(&mut maps.peers, &mut self.rows.peers, &come);
        for (ifindex, row) in endpoints.put {
            let slot = self.slots.of(maps, Owner { ifindex: *ifindex, served: None });
            // Without one nothing of it is counted or limited: there are as many as rows, so that this does not happen.
            let account = self.accounts.of(maps, LimitOwner::Instance(*ifindex)).unwrap_or(0);
            let abi = Endpoint { slot, account, ..row.encode() };
            writes.put_row(&mut maps.endpoints, &mut self.rows.endpoints, (ifindex, row), abi);
        }
        // Peers come before services, so that a backend is known when it is chosen.
        writes.put(&mut maps.peers, &mut self.rows.peers, &others);
        if !addresses.put.is_empty() && adopt::follows(self.host) {
            // Before they are the host's: nothing of them has a row so far.
            writes.try_to(adopt::adopt(maps, &wanted.node_addresses));
        }
        writes.put(&mut maps.node_addresses, &mut own, &addresses.put);
        writes.put(&mut maps.nodes, &mut self.rows.nodes, &nodes.put);
        for (port, service) in served.put {
            let owner = Owner { ifindex: port.0, served: Some((port.1, port.2, *service)) };
            let abi = Served { service: *service, slot: self.slots.of(maps, owner) };
            writes.put_row(&mut maps.served, &mut self.rows.served, (port, service), abi);
        }
        // Ranges before the frontend that asks for them.
        let sources = self.rows.sources.clone();
        for change in sources.diff(&wanted.sources) {
            let DiffItem::Add((service, range)) = change else { continue };
            if writes.done(maps.sources.insert(*service, *range), WRITE, map::SOURCES) {
                self.rows.sources.insert((*service, *range));
            }
        }
        self.groups.put(&mut writes, maps, &mut self.rows.services, &services);
        // All that lets somebody pass is there.
        let complete = writes.full.is_empty() && writes.failed.is_none();
        if complete && self.rows.endpoints.get(&HOST_ENDPOINT) == wanted.endpoints.get(&HOST_ENDPOINT) {
            self.tell_host(&mut writes, maps, host, &wanted.node_addresses);
        }

        self.groups.cut(&mut writes, maps, &mut self.rows.services, &services);
        for change in sources.diff(&wanted.sources) {
            let DiffItem::Remove((service, range)) = change else { continue };
            if writes.done(maps.sources.remove(*service, *range), REMOVE, map::SOURCES) {
                self.rows.sources.remove(&(*service, *range));
            }
        }
        writes.cut(&mut maps.served, &mut self.rows.served, &served.cut);
        writes.cut(&mut maps.node_addresses, &mut own, &addresses.cut);
        writes.cut(&mut maps.nodes, &mut self.rows.nodes, &nodes.cut);
        // Who goes sends nothing any more before nobody knows it.
        writes.cut(&mut maps.endpoints, &mut self.rows.endpoints, &endpoints.cut);
        writes.cut(&mut maps.peers, &mut self.rows.peers, &peers.cut);
        for block in &blocks.cut {
            if writes.done(maps.blocks.remove(*block), REMOVE, map::BLOCKS) {
                self.rows.blocks.remove(block);
            }
        }
        writes.cut(&mut maps.rules, &mut self.rows.rules, &rules.cut);
        self.rows.node_addresses = own.keys().copied().collect();
        self.tell_nodes(&mut writes, maps, wanted.paced);
        writes
    }

    fn put_limits(&mut self, writes: &mut Writes, maps: &mut Maps, wanted: &Tables) {
        match self.accounts.write(maps, wanted) {
            Ok((written, refused)) => {
                writes.report.written += written;
                if refused > 0 {
                    *writes.full.entry(map::LIMITS).or_default() += refused;
                }
                self.rows.limits.clone_from(&wanted.limits);
            }
            Err(error) => drop(writes.failed.get_or_insert(error)),
        }
    }

    /// The programs look at the flags first: without them nothing of the host is judged. What the host has begun before
    /// gets its rows before they look for them, and what it has begun meanwhile right after.
    fn tell_host(&mut self, writes: &mut Writes, maps: &mut Maps, flags: u32, own: &BTreeSet<IpAddr>) {
        if self.host == flags {
            return;
        }
        let begins = !adopt::follows(self.host) && adopt::follows(flags);
        if begins {
            writes.try_to(adopt::adopt(maps, own));
        }
        if writes.done(maps.set_host(flags), WRITE, map::GENERATION) {
            self.host = flags;
        }
        if begins {
            writes.try_to(adopt::adopt(maps, own));
        }
    }

    /// Makes rows for what the host has begun where nobody looked, if policies are about it.
    pub(super) fn adopt(&self, maps: &mut Maps) -> Result<(), DataplaneError> {
        if adopt::follows(self.host) { adopt::adopt(maps, &self.rows.node_addresses).map(drop) } else { Ok(()) }
    }

    /// While there are none the programs look for no tunnels; while uplinks are not `paced`, no packet waits.
    fn tell_nodes(&mut self, writes: &mut Writes, maps: &mut Maps, paced: bool) {
        let nodes = u32::try_from(self.rows.nodes.len()).unwrap_or(u32::MAX).min(PACED - 1);
        let word = if paced { nodes | PACED } else { nodes };
        if self.nodes != word && writes.done(maps.set_nodes(word), WRITE, map::GENERATION) {
            (self.nodes, self.rows.paced) = (word, paced);
        }
    }

    /// The classes of all instances.
    pub(super) fn classes(&self) -> BTreeSet<u32> {
        self.rows.peers.values().map(|peer| peer.class).collect()
    }

    /// The addresses of all backends.
    pub(super) fn backends(&self) -> BTreeSet<IpAddr> {
        self.rows.services.values().flat_map(|row| &row.backends).map(|backend| backend.address).collect()
    }
}
