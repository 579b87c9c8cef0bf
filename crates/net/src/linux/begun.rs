//! Which connections the host has, and who has begun them.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::{
    sockets::{self, Ends, Waiting},
    tracked::{self, Tracked},
};

/// A connection as it is at an uplink, or another flow with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Begun {
    /// The protocol's number.
    pub protocol: u8,
    /// Who has begun it.
    pub from: SocketAddr,
    /// Towards whom.
    pub to: SocketAddr,
    /// It goes through the host, with an address of the host's in place of its own.
    pub forwarded: bool,
    /// Of TCP: one side has finished.
    pub closing: bool,
}

/// The connections between `own` addresses of the host and others, of the calling thread's network namespace. What cannot
/// be read is as nothing, and said.
///
/// What is known best comes first: sockets at a port where somebody waits, then connections whose beginning was tracked,
/// then all other sockets, which are taken for the host's own, and what was first tracked in its middle.
pub fn begun(own: &BTreeSet<IpAddr>) -> Vec<Begun> {
    fn found<T: Default>(what: &'static str, result: io::Result<T>) -> T {
        result.unwrap_or_else(|error| {
            tracing::warn!(%error, what, "who has begun connections that are there is not known of these");
            T::default()
        })
    }
    let (connected, waiting) = found("sockets", sockets::all());
    let tracked = found("tracked connections", tracked::all());
    let sockets = of_sockets(&connected, &waiting.into_iter().collect());
    let (asked, own_doing): (Vec<_>, Vec<_>) = sockets.into_iter().partition(|begun| own.contains(&begun.to.ip()));
    let (guessed, seen): (Vec<_>, Vec<_>) = tracked.iter().partition(|tracked| tracked.guessed);
    let mut all = asked;
    all.extend(seen.into_iter().filter_map(|tracked| of_tracked(tracked, own)));
    all.extend(own_doing);
    all.extend(guessed.into_iter().filter_map(|tracked| of_tracked(tracked, own)));
    all.retain(|begun| own.contains(&begun.from.ip()) != own.contains(&begun.to.ip()));
    all
}

/// A socket whose port another one waits at was begun by its peer.
fn of_sockets(connected: &[Ends], waiting: &BTreeSet<Waiting>) -> Vec<Begun> {
    let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let begun = |Ends { protocol, local, peer, closing }: Ends| {
        let mut at = any.into_iter().chain([local.ip()]).map(|ip| (protocol, SocketAddr::new(ip, local.port())));
        let (from, to) = if at.any(|at| waiting.contains(&at)) { (peer, local) } else { (local, peer) };
        Begun { protocol, from, to, forwarded: false, closing }
    };
    connected.iter().copied().map(begun).collect()
}

/// What comes in is seen before it is translated, what goes out after it.
fn of_tracked(tracked: &Tracked, own: &BTreeSet<IpAddr>) -> Option<Begun> {
    let ((protocol, from, to), (_, answerer, answered), closing) = (tracked.there, tracked.back, tracked.closing);
    if own.contains(&to.ip()) && !own.contains(&from.ip()) {
        return Some(Begun { protocol, from, to, forwarded: false, closing });
    }
    let forwarded = !own.contains(&from.ip());
    own.contains(&answered.ip()).then_some(Begun { protocol, from: answered, to: answerer, forwarded, closing })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: u8 = 6;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn who_waits_at_a_port_has_not_begun() {
        let connected = [
            ("192.0.2.1:22", "198.51.100.1:5000"),
            ("192.0.2.1:443", "198.51.100.1:5000"),
            ("192.0.2.1:53", "198.51.100.1:5000"),
            ("[2001:db8::1]:80", "[2001:db8::2]:5000"),
        ]
        .map(|(local, peer)| Ends { protocol: TCP, local: at(local), peer: at(peer), closing: false });
        let waiting =
            [(TCP, at("[::]:22")), (TCP, at("192.0.2.9:443")), (17, at("0.0.0.0:53")), (TCP, at("[2001:db8::1]:80"))];
        let from: Vec<_> = of_sockets(&connected, &waiting.into()).into_iter().map(|begun| begun.from).collect();
        assert_eq!(from, [connected[0].peer, connected[1].local, connected[2].local, connected[3].peer]);
    }

    #[test]
    fn a_tracked_connection_is_as_the_uplink_sees_it() {
        let own = [at("192.0.2.1:0").ip()].into();
        let (host, client, container) = (at("192.0.2.1:8080"), at("198.51.100.1:5000"), at("172.17.0.2:80"));
        let begun = |from, to, forwarded| Some(Begun { protocol: TCP, from, to, forwarded, closing: false });
        for (name, there, back, expected) in [
            ("comes in", (client, host), (host, client), begun(client, host, false)),
            ("comes in and is handed on", (client, host), (container, client), begun(client, host, false)),
            ("goes out", (host, client), (client, host), begun(host, client, false)),
            ("goes through masqueraded", (container, client), (client, host), begun(host, client, true)),
            ("goes through", (container, client), (client, container), None),
        ] {
            let of = |(from, to): (SocketAddr, SocketAddr)| (TCP, from, to);
            let tracked = Tracked { there: of(there), back: of(back), guessed: false, closing: false };
            assert_eq!(of_tracked(&tracked, &own), expected, "{name}");
        }
    }
}
