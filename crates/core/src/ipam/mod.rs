//! Floor 1: which address is free. Pure: the used ones come in, a free one comes out.
//!
//! There is no table of allocations: an address is used as long as a row has it (`docs/adr/0001-rows-own-addresses.md`).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// IPv6 ranges are used up to this many addresses: more than any node or cluster has.
const V6_USED: u128 = 1 << 32;

/// The node's own address in its range: the first usable one, if the range has any.
pub fn node_v4(range: Ipv4Net) -> Option<Ipv4Addr> {
    range.hosts().next()
}

/// As [`node_v4`].
pub fn node_v6(range: Ipv6Net) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(range.network()) + 1)
}

/// The first free address after `after` (wrapping around), so that an address is not used again at once: somebody may
/// still know it. Never the network's, the node's (the first) or the broadcast address. `None` if all are used.
pub fn free_v4(range: Ipv4Net, used: impl Fn(&Ipv4Addr) -> bool, after: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
    let (first, last) = (u32::from(range.network()).checked_add(2)?, u32::from(range.broadcast()).checked_sub(1)?);
    let used = |n: u128| u32::try_from(n).is_ok_and(|n| used(&Ipv4Addr::from(n)));
    let free = free(first.into(), last.into(), after.map(|a| u32::from(a).into()), used)?;
    u32::try_from(free).ok().map(Ipv4Addr::from)
}

/// As [`free_v4`], in the first 2^32 addresses of the range.
pub fn free_v6(range: Ipv6Net, used: impl Fn(&Ipv6Addr) -> bool, after: Option<Ipv6Addr>) -> Option<Ipv6Addr> {
    let network = u128::from(range.network());
    let last = network.saturating_add(V6_USED - 1).min(u128::from(range.broadcast()).checked_sub(1)?);
    let used = |n: u128| used(&Ipv6Addr::from(n));
    free(network.checked_add(2)?, last, after.map(u128::from), used).map(Ipv6Addr::from)
}

/// Looks from behind `after` to the end, then from the beginning. The number of steps is at most one more than the
/// number of used addresses.
fn free(first: u128, last: u128, after: Option<u128>, used: impl Fn(u128) -> bool) -> Option<u128> {
    if first > last {
        return None;
    }
    let start = after.filter(|after| (first..last).contains(after)).map_or(first, |after| after + 1);
    (start..=last).chain(first..start).find(|n| !used(*n))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn v4(text: &str) -> Ipv4Addr {
        text.parse().expect("an address")
    }

    #[test]
    fn begins_behind_the_node_and_goes_round() {
        let range = "10.0.0.0/29".parse().expect("a range");
        let mut used = BTreeSet::new();
        let mut last = None;
        for expected in ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"] {
            let got = free_v4(range, |a| used.contains(a), last);
            assert_eq!(got, Some(v4(expected)));
            used.extend(got);
            last = got;
        }
        assert_eq!(free_v4(range, |a| used.contains(a), last), None, "network, node and broadcast are never given");
        used.remove(&v4("10.0.0.3"));
        assert_eq!(free_v4(range, |a| used.contains(a), last), Some(v4("10.0.0.3")));
    }

    #[test]
    fn ipv6_begins_behind_the_node_too_and_ends_before_the_last() {
        let range: Ipv6Net = "fd00::/125".parse().expect("a range");
        assert_eq!(node_v6(range), "fd00::1".parse::<Ipv6Addr>().expect("an address"));
        let mut used = BTreeSet::new();
        for expected in ["fd00::2", "fd00::3", "fd00::4", "fd00::5", "fd00::6"] {
            let got = free_v6(range, |a| used.contains(a), None);
            assert_eq!(got, expected.parse().ok());
            used.extend(got);
        }
        assert_eq!(free_v6(range, |a| used.contains(a), None), None, "neither the node's nor the last is given");
        let large = "fd00::/64".parse().expect("a range");
        // Round the end of what is used of a large range, back to behind the node.
        let end = "fd00::ffff:ffff".parse().ok();
        assert_eq!(free_v6(large, |_| false, end), "fd00::2".parse().ok());
    }

    #[test]
    fn what_was_just_freed_is_not_given_again_at_once() {
        let range = "10.0.0.0/24".parse().expect("a range");
        assert_eq!(free_v4(range, |_| false, Some(v4("10.0.0.9"))), Some(v4("10.0.0.10")));
        let range6 = "fd00::/64".parse().expect("a range");
        let last = "fd00::9".parse().ok();
        assert_eq!(free_v6(range6, |_| false, last), "fd00::a".parse().ok());
    }

    proptest! {
        #[test]
        fn never_gives_what_is_used_and_always_finds_what_is_free(
            prefix in 24u8..=30, taken in proptest::collection::btree_set(0u32..256, 0..256), after in 0u32..300,
        ) {
            let range = Ipv4Net::new(v4("10.9.8.0"), prefix).expect("a range");
            let base = u32::from(range.network());
            let used: BTreeSet<_> = taken.iter().map(|n| Ipv4Addr::from(base + n)).collect();
            let usable = (base + 2..u32::from(range.broadcast())).map(Ipv4Addr::from);
            let any = usable.clone().any(|address| !used.contains(&address));
            let got = free_v4(range, |a| used.contains(a), Some(Ipv4Addr::from(base + after)));
            prop_assert_eq!(got.is_some(), any);
            if let Some(got) = got {
                prop_assert!(!used.contains(&got) && usable.clone().any(|address| address == got));
            }
        }
    }
}
