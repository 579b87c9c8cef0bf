//! Whether the configured ranges overlap what the host has. Pure.

use ipnet::IpNet;

use super::{NodeNet, Overlap};

/// An address (with its prefix) or a route of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// The network.
    pub(super) net: IpNet,
    /// The device that has it.
    pub(super) device: String,
}

/// Default routes overlap everything and say nothing; VPNs split them into halves.
const DEFAULT_ROUTE_MAX_PREFIX: u8 = 1;

/// Every overlap of a configured range with what is taken, and of the configured ranges among themselves.
pub(super) fn overlaps(node: &NodeNet, taken: &[Taken]) -> Vec<Overlap> {
    let ranges = configured(node);
    let with_each_other = ranges.iter().enumerate().flat_map(|(i, (range, option))| {
        ranges[i + 1..].iter().filter(move |(other, _)| overlap(range, other)).map(move |(other, by)| Overlap {
            range: *range,
            option,
            other: *other,
            device: (*by).to_owned(),
        })
    });
    let mut found: Vec<Overlap> = with_each_other.collect();
    for (range, option) in &ranges {
        for Taken { net, device } in taken {
            let one = Overlap { range: *range, option, other: net.trunc(), device: device.clone() };
            if net.prefix_len() > DEFAULT_ROUTE_MAX_PREFIX && overlap(range, net) && !found.contains(&one) {
                found.push(one);
            }
        }
    }
    found
}

/// The configured ranges with the options that set them.
fn configured(node: &NodeNet) -> Vec<(IpNet, &'static str)> {
    [
        (node.instances_v4.map(IpNet::from), "--instance-cidr4"),
        (node.instances_v6.map(IpNet::from), "--instance-cidr6"),
        (node.services_v4.map(IpNet::from), "--service-cidr4"),
        (node.services_v6.map(IpNet::from), "--service-cidr6"),
    ]
    .into_iter()
    .filter_map(|(range, option)| Some((range?, option)))
    .collect()
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeNet {
        NodeNet {
            instances_v4: "10.88.0.0/16".parse().ok(),
            instances_v6: "fd68:6d00:0:1::/64".parse().ok(),
            services_v4: "10.96.0.0/16".parse().ok(),
            services_v6: "fd68:6d00:0:2::/112".parse().ok(),
            gateway: hivemind_core::model::Addresses::default(),
        }
    }

    fn found(taken: &[&str]) -> Vec<String> {
        let taken: Vec<Taken> =
            taken.iter().map(|net| Taken { net: net.parse().expect("a network"), device: "eth0".to_owned() }).collect();
        overlaps(&node(), &taken).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_every_overlap_once() {
        let both = found(&["10.0.0.0/8", "10.0.0.0/8", "fd68:6d00:0:2::5/128", "192.168.0.0/16"]);
        assert_eq!(
            both,
            [
                "the range 10.88.0.0/16 (--instance-cidr4) overlaps 10.0.0.0/8 on eth0",
                "the range 10.96.0.0/16 (--service-cidr4) overlaps 10.0.0.0/8 on eth0",
                "the range fd68:6d00:0:2::/112 (--service-cidr6) overlaps fd68:6d00:0:2::5/128 on eth0",
            ]
        );
        assert_eq!(found(&["10.88.255.7/24"]).len(), 1, "an address inside a range");
    }

    #[test]
    fn default_routes_and_neighbouring_ranges_are_no_overlap() {
        for net in ["0.0.0.0/0", "128.0.0.0/1", "::/0", "10.87.0.0/16", "10.89.0.0/16", "fd68:6d00:0:3::/64"] {
            assert_eq!(found(&[net]), Vec::<String>::new(), "{net}");
        }
    }

    #[test]
    fn ranges_may_not_overlap_each_other() {
        let node = NodeNet { services_v4: "10.88.7.0/24".parse().ok(), ..node() };
        let found = overlaps(&node, &[]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].device, "--service-cidr4");
    }
}
