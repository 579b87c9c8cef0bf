//! Flows of the host from before its first policy: without a row of theirs, whose packets come next would be taken for who
//! has begun them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use hivemind_ebpf::{
    abi::{Addr, Flow, FlowKey, Tuple},
    flow::{ESTABLISHED, FINISHED, OPENED, SENT},
    map,
    packet::{SCTP, TCP, UDP},
    policy::{RULED_IN, RULED_OUT},
};

use super::{
    maps::{Maps, failed, is_full},
    sweep,
};
use crate::DataplaneError;
use hivemind_net::linux::{Begun, begun};

/// Whether uplinks look for rows of what the host sends and gets, by these flags.
pub(super) const fn follows(flags: u32) -> bool {
    flags & (RULED_IN | RULED_OUT) != 0
}

/// Makes a row for each connection of `own` addresses that the host has and that has none. It is decided by the policies
/// at its next packet, whoever sends it. Returns how many were made.
pub(super) fn adopt(maps: &mut Maps, own: &BTreeSet<IpAddr>) -> Result<u64, DataplaneError> {
    let (mut made, mut refused) = (0, 0_u64);
    // Of another generation: nothing passes by it before it was judged.
    let (now, generation) = (sweep::now(), maps.generation()?.wrapping_sub(1));
    for begun in begun(own) {
        // Instances and services have rows of their own making.
        if !matches!(begun.protocol, TCP | UDP | SCTP) || maps.peers.get(&Addr::from(begun.to.ip())).is_some() {
            continue;
        }
        let (key, row) = row(&begun, now, generation);
        match maps.flows.add(key, row) {
            Ok(true) => made += 1,
            Ok(false) => {}
            Err(error) if is_full(&error) => refused += 1,
            Err(error) => return Err(failed("write", map::FLOWS, &error)),
        }
    }
    if refused > 0 {
        tracing::warn!(
            refused,
            "the table of flows is full: the policies of the host take what comes in of these for new"
        );
    }
    Ok(made)
}

fn row(begun: &Begun, now: u64, generation: u32) -> (FlowKey, Flow) {
    let end = |end: SocketAddr| (Addr::from(end.ip()), end.port().to_be());
    let ((src, sport_be), (dst, dport_be)) = (end(begun.from), end(begun.to));
    let tuple = Tuple { src, dst, sport_be, dport_be, protocol: begun.protocol, pad: [0; 3] };
    let mut key = FlowKey::default();
    let origin = key.set(&tuple);
    // Who of the two has finished is not known: what is closing is forgotten soon after its last packet.
    let both = if begun.closing { SENT | ESTABLISHED | FINISHED } else { SENT | ESTABLISHED };
    let mut seen = [both; 2];
    seen[origin & 1] |= OPENED;
    let row = Flow {
        first_ns: now,
        last_ns: now,
        generation,
        tag: key.tag(),
        seen,
        origin: u8::from(origin != 0),
        forwarded: begun.forwarded.into(),
        ..Flow::default()
    };
    (key, row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_an_answered_flow_that_is_still_to_be_judged() {
        let ends = ["192.0.2.1:5000", "198.51.100.1:80"].map(|text| text.parse::<SocketAddr>().expect("an address"));
        for (from, to) in [(ends[0], ends[1]), (ends[1], ends[0])] {
            let (key, row) = row(&Begun { protocol: TCP, from, to, forwarded: false, closing: false }, 9, 7);
            assert_eq!(IpAddr::from(key.sent_by(row.origin.into()).src), from.ip());
            assert!(hivemind_ebpf::flow::is_begun(TCP, &row) && hivemind_ebpf::flow::is_answered(TCP, row.seen));
            assert_eq!((row.generation, row.tag, row.devices), (7, key.tag(), [0; 2]));
        }
    }
}
