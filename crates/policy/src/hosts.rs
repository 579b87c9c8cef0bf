//! Names of hosts: which addresses they stand for, as the node's name server has told instances, and for how long. Pure.
//!
//! An address is kept under the name that a *policy* has, not under what was asked for: what one instance has asked for
//! opens nothing for another one whose policies do not have the same name.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use ipnet::IpNet;

use hivemind_core::model::Timestamp;

/// The most addresses of a name.
const MAX_NAME_ADDRESSES: usize = 1_024;
/// The most addresses of all names: with the most blocks of addresses that policies may have they fit into the table.
const MAX_HOST_ADDRESSES: usize = 16_384;
/// An answer is believed no longer than this, whatever it says.
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// The addresses of each name.
pub type KnownNames = BTreeMap<String, BTreeSet<IpAddr>>;

/// The addresses of names, and until when they are to be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    names: BTreeMap<String, BTreeMap<IpAddr, Timestamp>>,
    refused: u64,
}

impl Hosts {
    /// What was kept.
    pub fn new(names: BTreeMap<String, BTreeMap<IpAddr, Timestamp>>) -> Self {
        Self { names, refused: 0 }
    }

    /// Until when the addresses of each name are to be kept.
    pub fn names(&self) -> &BTreeMap<String, BTreeMap<IpAddr, Timestamp>> {
        &self.names
    }

    /// The addresses of each name.
    pub fn known(&self) -> KnownNames {
        self.names.iter().map(|(name, addresses)| (name.clone(), addresses.keys().copied().collect())).collect()
    }

    /// How many addresses there are.
    pub fn len(&self) -> usize {
        self.names.values().map(BTreeMap::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many addresses found no place since the start.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Adds an address to a name, or keeps it for longer: for `ttl` from now, up to a day. True if it is new; an address
    /// for which there is no place is not taken, and counted.
    pub fn learn(&mut self, name: &str, address: IpAddr, ttl: Duration, now: Timestamp) -> bool {
        let ttl = i64::try_from(ttl.min(MAX_TTL).as_millis()).unwrap_or(i64::MAX);
        let until = Timestamp::from_millis(now.as_millis().saturating_add(ttl));
        if let Some(kept) = self.names.get_mut(name).and_then(|addresses| addresses.get_mut(&address)) {
            *kept = until.max(*kept);
            return false;
        }
        if self.names.get(name).map_or(0, BTreeMap::len) >= MAX_NAME_ADDRESSES || self.len() >= MAX_HOST_ADDRESSES {
            self.refused += 1;
            return false;
        }
        self.names.entry(name.to_owned()).or_default().insert(address, until);
        true
    }

    /// The addresses whose time is over for some name.
    pub fn over(&self, now: Timestamp) -> BTreeSet<IpAddr> {
        let all = self.names.values().flatten();
        all.filter(|(_, until)| **until <= now).map(|(address, _)| *address).collect()
    }

    /// Removes what is over, but for addresses `in_use`, and names that no policy has (`named`). True if something went.
    pub fn forget(&mut self, now: Timestamp, in_use: &BTreeSet<IpAddr>, named: &BTreeSet<String>) -> bool {
        let before = self.len();
        self.names.retain(|name, addresses| {
            addresses.retain(|address, until| *until > now || in_use.contains(address));
            !addresses.is_empty() && named.contains(name)
        });
        self.len() != before
    }
}

/// Whether a name of hosts may stand for an address. Never for the cluster's own (`ours`), nor for those that mean this
/// machine or its link: who answers for a name must not open what is inside.
pub fn may_stand_for(address: IpAddr, ours: &[IpNet]) -> bool {
    let outside = match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || v4.octets()[0] == 0)
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified())
                && v6.to_ipv4_mapped().is_none()
        }
    };
    outside && !ours.iter().any(|range| range.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn ip(n: usize) -> IpAddr {
        IpAddr::from([203, 0, (n >> 8) as u8, n as u8])
    }

    #[test]
    fn an_address_is_kept_for_its_time_and_as_long_as_it_is_used() {
        let mut hosts = Hosts::default();
        let named = BTreeSet::from(["a.b".to_owned()]);
        assert!(hosts.learn("a.b", ip(1), MINUTE, at(0)));
        assert!(!hosts.learn("a.b", ip(1), MINUTE, at(30)), "it is there");
        assert!(hosts.over(at(89)).is_empty());
        assert_eq!(hosts.over(at(90)), BTreeSet::from([ip(1)]));
        assert!(!hosts.forget(at(90), &BTreeSet::from([ip(1)]), &named), "a flow lives");
        assert!(hosts.forget(at(91), &BTreeSet::new(), &named) && hosts.is_empty());
        // A shorter answer takes nothing away.
        hosts.learn("a.b", ip(1), 2 * MINUTE, at(0));
        hosts.learn("a.b", ip(1), MINUTE, at(0));
        assert!(hosts.over(at(119)).is_empty());
        assert!(hosts.forget(at(0), &BTreeSet::new(), &BTreeSet::new()), "no policy has the name any more");
    }

    #[test]
    fn what_finds_no_place_is_counted() {
        let mut hosts = Hosts::default();
        let learned = (0..MAX_NAME_ADDRESSES + 3).filter(|n| hosts.learn("a.b", ip(*n), MINUTE, at(0))).count();
        assert_eq!((learned, hosts.len(), hosts.refused()), (MAX_NAME_ADDRESSES, MAX_NAME_ADDRESSES, 3));
        assert!(hosts.learn("c.d", ip(0), MINUTE, at(0)), "another name has a place");
        for name in 0..MAX_HOST_ADDRESSES / MAX_NAME_ADDRESSES {
            for n in 0..MAX_NAME_ADDRESSES {
                hosts.learn(&name.to_string(), ip(n), MINUTE, at(0));
            }
        }
        assert_eq!(hosts.len(), MAX_HOST_ADDRESSES);
    }

    #[test]
    fn a_name_opens_nothing_inside() {
        let ours: Vec<IpNet> = vec!["10.88.0.0/16".parse().expect("a net"), "fd68::/16".parse().expect("a net")];
        for (address, may) in [
            ("203.0.113.1", true),
            ("10.1.2.3", true),
            ("2001:db8::1", true),
            ("10.88.0.9", false),
            ("fd68::1", false),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
            ("::1", false),
            ("fe80::1", false),
            ("::ffff:10.88.0.9", false),
        ] {
            assert_eq!(may_stand_for(address.parse().expect("an address"), &ours), may, "{address}");
        }
    }
}
