//! Fragments that instances send up the stack: what becomes whole passes however much it is, and of what does not an
//! instance has its own share.

use std::net::SocketAddr;

use hivemind::{dataplane::Dataplane, net::Family};
use hivemind_ebpf::{pieces, program, reason::Reason};

use crate::{
    bench::{Bench, DROP, Expect},
    frame::{Frame, UDP},
    lab::{FAMILIES, isolated, outside},
};

/// Bytes of data in a fragment, a multiple of 8, and fragments of a datagram.
const DATA: usize = 1448;
const PIECES: usize = 40;

/// The fragments of a datagram to the outside, as instance `from` sends them.
fn datagram(bench: &Bench, from: usize, family: Family, ident: u16) -> Vec<Vec<u8>> {
    let link = &bench.lab.instances[from].link;
    let to = SocketAddr::new(outside(family), 9);
    let ports = bench.sent(from, UDP, 5000, to).bytes();
    let headers = if family == Family::V4 { 34 } else { 54 };
    let piece = |n: usize| {
        let (offset, more) = (n * DATA, n + 1 < PIECES);
        let mut bytes = [&link.host_mac.0[..], &link.instance_mac.0[..], &ports[12..headers]].concat();
        match family {
            Family::V4 => {
                bytes[16..18].copy_from_slice(&(20 + DATA as u16).to_be_bytes());
                bytes[18..20].copy_from_slice(&ident.to_be_bytes());
                bytes[20..22].copy_from_slice(&((offset / 8) as u16 | u16::from(more) << 13).to_be_bytes());
                bytes[24..26].fill(0);
                let words = bytes[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
                let sum: u32 = words.sum();
                let sum = (sum & 0xffff) + (sum >> 16);
                bytes[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
            }
            Family::V6 => {
                bytes[18..20].copy_from_slice(&(8 + DATA as u16).to_be_bytes());
                bytes[20] = 44;
                let [high, low] = (offset as u16).to_be_bytes();
                bytes.extend([UDP, 0, high, low | u8::from(more), 0, 0]);
                bytes.extend(ident.to_be_bytes());
            }
        }
        let data = if n == 0 { &ports[headers..headers + 8] } else { &[7; 8] };
        bytes.extend(data);
        bytes.resize(bytes.len() + DATA - 8, 7);
        bytes
    };
    (0..PIECES).map(piece).collect()
}

fn passes(bench: &Bench, from: usize, frame: &[u8]) -> bool {
    bench.run(program::FROM_CONTAINER, frame, bench.ifindex(from)).0 != DROP
}

#[test]
fn datagrams_that_become_whole_pass_however_many_there_are() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        for family in FAMILIES {
            // Twenty times what an instance may hold; always two of them at once.
            let pairs = 20 * pieces::ROOM as usize / (2 * PIECES * DATA);
            for pair in 0..pairs as u16 {
                let [one, other] = [2 * pair, 2 * pair + 1].map(|ident| datagram(&bench, 0, family, ident));
                for (n, pieces) in one.iter().zip(&other).enumerate() {
                    assert!(passes(&bench, 0, pieces.0), "{family:?}: fragment {n} of datagram {}", 2 * pair);
                    assert!(passes(&bench, 0, pieces.1), "{family:?}: fragment {n} of datagram {}", 2 * pair + 1);
                }
            }
        }
        bench.lab.dataplane.unload().expect("to unload");
    });
}

#[test]
fn an_instance_that_begins_and_never_ends_has_its_own_share_and_no_more() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        for (from, family) in FAMILIES.into_iter().enumerate() {
            let held = |what: &str, send: &dyn Fn(u16) -> Vec<Vec<u8>>| {
                let mut held = 0;
                for ident in 0..300 {
                    for frame in send(ident) {
                        if passes(&bench, from, &frame) {
                            held += frame.len() + 1024;
                        }
                    }
                }
                // What is free again while the test runs is little.
                let most = pieces::ROOM as usize * 5 / 4;
                assert!(held <= most, "{what}, {family:?}: {held} bytes are open");
                held
            };
            let all = |ident| datagram(&bench, from, family, ident);
            let first = held("only the first", &|ident| vec![all(ident).swap_remove(0)]);
            assert!(first >= pieces::ROOM as usize * 3 / 4, "{family:?}: it has its share, not {first}");
            // Once it is full nothing of these is held either: a hole before the last; a last one that the stack drops.
            let hole = held("with a hole", &|ident| {
                let mut pieces = all(ident + 10_000);
                pieces.remove(1);
                pieces
            });
            let forged = held("for another device", &|ident| {
                let mut pieces = all(ident + 20_000);
                pieces.truncate(2);
                for piece in &mut pieces {
                    piece[0..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
                }
                pieces
            });
            let most = pieces::ROOM as usize / 4;
            assert!(hole < most && forged < most, "{family:?}: {hole} and {forged} more are open");
            if from == 0 {
                // The other instance has its own.
                for frame in datagram(&bench, 1, family, 1) {
                    assert!(passes(&bench, 1, &frame), "{family:?}: another instance");
                }
            }
        }
        let frame: Frame = bench.sent(0, UDP, 5001, SocketAddr::new(outside(FAMILIES[0]), 9));
        bench.check(&bench.sends("what is whole", &frame, Expect::Pass));
        let first = Frame { fragment: 0x2000, payload: vec![7; 3000], ..frame };
        while passes(&bench, 0, &first.bytes()) {}
        bench.check(&bench.sends("a first fragment", &first, Expect::Drop(Reason::RateLimited)));
        bench.lab.dataplane.unload().expect("to unload");
    });
}
