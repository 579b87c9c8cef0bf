//! The same policies in the words of every contestant: the client may go out to so many peers, and as many may come in
//! to the server. Everything else of the two is denied. One peer is the other one of the two, in the middle of the
//! list; the others do not exist.

use std::{collections::BTreeSet, fmt::Write as _, net::Ipv4Addr};

use hivemind::{
    dataplane::tables::{EndpointRow, Tables},
    policy::{Direction, EndpointPolicy, RuleKey, RuleRow, interval},
    spec::v1::{Action, PolicyProtocol},
};

use super::{ANSWERING, BULK_PORT, ECHO_PORT};
use crate::lab::{CLIENT, SERVER};

/// The server's ports that the client may reach.
pub(crate) const OPEN: [u16; 3] = [ANSWERING[0], BULK_PORT, ECHO_PORT];
/// One that nobody may reach.
pub(crate) const CLOSED: u16 = ANSWERING[1];

/// The set of policies that is about both containers.
const SET: u32 = 7;
/// Classes of peers that do not exist begin here.
const STRANGERS: u32 = 100_000;

/// Isolates the instances of `tables`, which are all of one class, in both directions: half of `count` rules in each,
/// of which those for the ports `open` are about the other instance.
pub(crate) fn isolate(mut tables: Tables, count: u32, open: &[u16]) -> Tables {
    let policy = EndpointPolicy {
        sets: [0, 0, SET, 0, 0],
        isolated_in: true,
        isolated_out: true,
        ruled_in: true,
        ruled_out: true,
        ..EndpointPolicy::default()
    };
    tables.endpoints =
        tables.endpoints.into_iter().map(|(device, row)| (device, EndpointRow { policy, ..row })).collect();
    let begins: BTreeSet<u16> = open.iter().flat_map(|port| [*port, port + 1]).chain([0]).collect();
    tables.intervals.insert(PolicyProtocol::Tcp, begins);
    let begins = tables.intervals.get(&PolicyProtocol::Tcp).cloned();
    let class = tables.endpoints.values().next().map_or(0, |row| row.class);
    for direction in [Direction::In, Direction::Out] {
        let own = open.iter().map(|port| (class, *port));
        let others = open.iter().take(1).cycle().zip(STRANGERS..).map(|(port, peer)| (peer, *port));
        for ((peer, port), number) in own.chain(others).zip(1..=count / 2) {
            let port = interval(begins.as_ref(), port);
            let key = RuleKey { set: SET, direction, peer, protocol: Some(PolicyProtocol::Tcp), port };
            tables.rules.insert(key, RuleRow { number, action: Action::Accept, order: 0 });
        }
    }
    tables
}

/// Half of `count` peers of one end with the port that is open between them; `other` is in the middle.
fn peers(count: u32, other: Ipv4Addr) -> impl Iterator<Item = (Ipv4Addr, u16)> {
    let first = Ipv4Addr::new(10, 88, 16, 0).to_bits();
    let half = count / 2;
    let middle = half.saturating_sub(OPEN.len() as u32) / 2;
    (0..half).map(move |n| {
        let own = n.checked_sub(middle).and_then(|at| OPEN.get(at as usize));
        own.map_or_else(|| (Ipv4Addr::from_bits(first + n), OPEN[0]), |port| (other, *port))
    })
}

/// nftables as its makers advise: one look-up in a set for each direction, whatever its size, and none for what
/// belongs to a connection.
pub(crate) fn nft(count: u32) -> String {
    let (client, server) = (CLIENT.0, SERVER.0);
    let mut out = String::new();
    let mut into = String::new();
    for (peer, port) in peers(count, server) {
        let _ = write!(out, "{client} . {peer} . {port}, ");
    }
    for (peer, port) in peers(count, client) {
        let _ = write!(into, "{peer} . {server} . {port}, ");
    }
    format!(
        "add table ip policies\n\
         add set ip policies isolated {{ type ipv4_addr ; }}\n\
         add set ip policies out {{ type ipv4_addr . ipv4_addr . inet_service ; }}\n\
         add set ip policies into {{ type ipv4_addr . ipv4_addr . inet_service ; }}\n\
         add chain ip policies forward {{ type filter hook forward priority 0 ; policy accept ; }}\n\
         add rule ip policies forward ct state established,related accept\n\
         add rule ip policies forward ip saddr @isolated ip saddr . ip daddr . tcp dport != @out drop\n\
         add rule ip policies forward ip daddr @isolated ip saddr . ip daddr . tcp dport != @into drop\n\
         add element ip policies isolated {{ {client}, {server} }}\n\
         add element ip policies out {{ {out} }}\n\
         add element ip policies into {{ {into} }}\n"
    )
}

/// iptables: a chain for each end and direction, tried rule by rule.
pub(crate) fn iptables(count: u32) -> String {
    let (client, server) = (CLIENT.0, SERVER.0);
    let mut rules = format!(
        "*filter\n:POLICY-OUT - [0:0]\n:POLICY-IN - [0:0]\n\
         -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A FORWARD -s {client}/32 -j POLICY-OUT\n-A FORWARD -d {server}/32 -j POLICY-IN\n"
    );
    for (peer, port) in peers(count, server) {
        let _ = writeln!(rules, "-A POLICY-OUT -d {peer}/32 -p tcp -m tcp --dport {port} -j RETURN");
    }
    for (peer, port) in peers(count, client) {
        let _ = writeln!(rules, "-A POLICY-IN -s {peer}/32 -p tcp -m tcp --dport {port} -j RETURN");
    }
    rules += "-A POLICY-OUT -j DROP\n-A POLICY-IN -j DROP\nCOMMIT\n";
    rules
}

#[cfg(test)]
mod tests {
    use super::{OPEN, iptables, isolate, nft, peers};
    use crate::{
        lab::{CLIENT, SERVER},
        rules::{self, tables},
    };

    #[test]
    fn everybody_has_as_many_rules_and_the_measured_ones_are_among_them() {
        for count in [10, 1_000, 10_000] {
            let plain = tables::tables([1, 2], &rules::services(1, false), 0);
            let ours = isolate(plain, count, &OPEN);
            let class = ours.endpoints[&1].class;
            assert_eq!(ours.rules.len(), count as usize);
            assert_eq!(ours.rules.keys().filter(|key| key.peer == class).count(), 2 * OPEN.len());
            assert_eq!(nft(count).matches(" . 8080, ").count(), count as usize - 4, "all but the two other ports");
            assert_eq!(iptables(count).matches("-j RETURN").count(), count as usize);
        }
    }

    #[test]
    fn the_measured_rules_are_in_the_middle() {
        let all: Vec<_> = peers(10_000, SERVER.0).collect();
        let at = all.iter().position(|(peer, _)| *peer == SERVER.0).expect("it is there");
        assert!(all.len() == 5_000 && (2_490..2_510).contains(&at), "{at}");
        assert!(!all.iter().any(|(peer, _)| *peer == CLIENT.0));
    }
}
