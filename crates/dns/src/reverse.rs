//! Names of addresses: `2.0.88.10.in-addr.arpa` (RFC 1035), `….ip6.arpa` (RFC 3596). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const V4: &str = "in-addr.arpa";
const V6: &str = "ip6.arpa";

/// The addresses that a name (lower case, without a final dot) is about: one, or all that begin so. `None` if it is no
/// name of addresses.
pub(super) fn addresses(name: &str) -> Option<IpNet> {
    if let Some(rest) = beneath(name, V4) {
        let mut octets = [0; 4];
        let mut count = 0;
        for label in rest.rsplit('.').filter(|label| !label.is_empty()) {
            // `02` is not how an address is written: it is no name of one.
            let octet = label.parse::<u8>().ok().filter(|octet| octet.to_string() == label)?;
            *octets.get_mut(count)? = octet;
            count += 1;
        }
        let length = u8::try_from(count * 8).ok()?;
        return Ipv4Net::new(Ipv4Addr::from(octets), length).ok().map(IpNet::from);
    }
    let rest = beneath(name, V6)?;
    let mut bits = 0u128;
    let mut count = 0;
    for label in rest.rsplit('.').filter(|label| !label.is_empty()) {
        let [digit] = label.as_bytes() else { return None };
        let nibble = char::from(*digit).to_digit(16).filter(|_| count < 32)?;
        bits |= u128::from(nibble) << (124 - count * 4);
        count += 1;
    }
    let length = u8::try_from(count * 4).ok()?;
    Ipv6Net::new(Ipv6Addr::from(bits), length).ok().map(IpNet::from)
}

/// What is before `zone` in a name that is it, or ends with it.
fn beneath<'a>(name: &'a str, zone: &str) -> Option<&'a str> {
    let rest = name.strip_suffix(zone)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_suffix('.') }
}

/// The zone that an address of `range` is in: the smallest with a name of its own that has the address and lies within the
/// range, so that nothing is claimed of others' addresses.
pub(super) fn zone(address: IpAddr, range: &IpNet) -> String {
    let length = usize::from(range.prefix_len());
    let labels = |bits: usize| length.div_ceil(bits);
    match address {
        IpAddr::V4(v4) => {
            let octets = v4.octets();
            let kept = octets[..labels(8)].iter().rev().map(|octet| format!("{octet}."));
            kept.collect::<String>() + V4
        }
        IpAddr::V6(v6) => {
            let bits = u128::from(v6);
            let kept = (0..labels(4)).rev().map(|at| format!("{:x}.", (bits >> (124 - at * 4)) & 0xf));
            kept.collect::<String>() + V6
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_addresses_or_what_they_begin_with() {
        let v6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.0.0.0.0.0.0.d.6.8.6.d.f.ip6.arpa";
        for (name, addresses_of) in [
            ("2.0.88.10.in-addr.arpa", Some("10.88.0.2/32")),
            ("88.10.in-addr.arpa", Some("10.88.0.0/16")),
            ("in-addr.arpa", Some("0.0.0.0/0")),
            (v6, Some("fd68:6d00:0:2::2/128")),
            ("8.6.d.f.ip6.arpa", Some("fd68::/16")),
            ("1.2.0.88.10.in-addr.arpa", None),
            ("02.0.88.10.in-addr.arpa", None),
            ("256.0.88.10.in-addr.arpa", None),
            ("x.in-addr.arpa", None),
            ("xin-addr.arpa", None),
            ("fd.ip6.arpa", None),
            ("g.ip6.arpa", None),
            ("arpa", None),
            ("web.local", None),
        ] {
            let expected = addresses_of.map(|net| net.parse::<IpNet>().expect("a block"));
            assert_eq!(addresses(name), expected, "{name}");
        }
        assert_eq!(addresses(&format!("0.{v6}")), None, "33 digits");
    }

    #[test]
    fn a_zone_is_within_its_range() {
        for (address, range, expected) in [
            ("10.88.3.4", "10.88.0.0/16", "88.10.in-addr.arpa"),
            ("10.88.3.4", "10.80.0.0/12", "88.10.in-addr.arpa"),
            ("10.88.3.4", "10.88.3.0/25", "4.3.88.10.in-addr.arpa"),
            ("fd68:6d00:0:2::2", "fd68:6d00:0:2::/64", "2.0.0.0.0.0.0.0.0.0.d.6.8.6.d.f.ip6.arpa"),
        ] {
            let range: IpNet = range.parse().expect("a block");
            let found = zone(address.parse().expect("an address"), &range);
            assert_eq!(found, expected);
            assert!(range.contains(&addresses(&found).expect("a zone")), "{found} is within {range}");
        }
    }
}
