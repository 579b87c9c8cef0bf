//! What a packet of a published port costs in an uplink's driver, whose backend is on another node.
//!
//! The program changes the packet, so that the kernel's repeated runs would see it once only: each run is one call, and
//! the kernel's own statistics say how long the program took. The caches are less warm than in repeated runs.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use hivemind::{
    dataplane::{
        Dataplane,
        bpf::{BpfDataplane, TestRun},
        tables::{Frontend, NodeRow, PeerRow, ServiceRow, Tables},
    },
    model::Protocol,
    net::Family,
};
use hivemind_ebpf::program;

use super::{ACK, SYN};
use crate::stats::Series;

/// The published port.
const PORT: u16 = 9000;
/// How many packets before the kernel is asked for the next hop again, which it is every second at least.
const BATCH: u32 = 200;
/// What the program says of a frame that it leaves to the stack, and of one that it sends.
const PASS: i32 = 2;
const SEND: i32 = 3;

/// Client, node, other node, its instance.
const V4: [&str; 4] = ["198.51.100.7", "192.0.2.1", "192.0.2.3", "10.88.7.9"];
const V6: [&str; 4] = ["2001:db8:9::7", "2001:db8::1", "2001:db8::3", "fd68:6d00:0:1::709"];

/// Nanoseconds of a packet of each family, and of a frame that is left at once.
#[derive(Default)]
pub(super) struct Costs {
    pub(super) sent: [Series; 2],
    pub(super) left: Series,
}

/// Adds the rows of another node that `device` leads to.
pub(super) fn tables(mut tables: Tables, device: u32) -> Result<Tables> {
    for ends in [V4, V6] {
        let [_, own, node, far] = addresses(ends)?;
        tables.node_addresses.insert(own);
        tables.nodes.insert(node, NodeRow { device, mtu: 1500 });
        tables.peers.insert(far, PeerRow { class: 300, tenant: 0, ifindex: 0, node: Some(node) });
        let family = if own.is_ipv4() { Family::V4 } else { Family::V6 };
        let mut row = ServiceRow::equal(900, [(far, 8080)]);
        row.choice.alike = true;
        tables.services.insert(Frontend::Published(family, PORT, Protocol::Tcp), row);
    }
    Ok(tables)
}

/// One round of `count` packets of each kind.
pub(super) fn round(plane: &mut BpfDataplane, device: u32, count: u32, costs: &mut Costs) -> Result<()> {
    for (n, ends) in [V4, V6].into_iter().enumerate() {
        let ends = addresses(ends)?;
        let begins = packet(ends, SYN);
        let more = packet(ends, ACK);
        shown(plane, program::PUB_SELECT, &begins, device)?;
        // The kernel sends the first one, and its next hop is learnt from what it has made of it.
        let sent = shown(plane, program::FROM_UPLINK, &more, device)?.packet;
        ensure!(sent.len() > more.len(), "the kernel sends nothing on");
        let cost = measure(plane, &more, device, count, SEND, &sent)?;
        costs.sent[n].0.push(cost);
        if n == 0 {
            let mut other = more.clone();
            other[12..14].copy_from_slice(&[0x08, 0x06]);
            costs.left.0.push(measure(plane, &other, device, count, PASS, &sent)?);
        }
    }
    Ok(())
}

/// Nanoseconds of one run.
fn measure(plane: &mut BpfDataplane, packet: &[u8], device: u32, count: u32, verdict: i32, hop: &[u8]) -> Result<f64> {
    let measuring = plane.measure()?;
    let mut all = (0, Duration::ZERO);
    for _ in 0..count / BATCH {
        shown(plane, program::TO_UPLINK, hop, device)?;
        let before = runs(plane)?;
        for _ in 0..BATCH {
            let found = shown(plane, program::UPLINK_DRIVER, packet, device)?.verdict;
            ensure!(found == verdict, "verdict {found} of a driver");
        }
        let after = runs(plane)?;
        all = (all.0 + after.0 - before.0, all.1 + (after.1 - before.1));
    }
    drop(measuring);
    ensure!(all.0 > 0, "the kernel has counted nothing");
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    Ok(all.1.as_secs_f64() * 1e9 / all.0 as f64)
}

fn shown(plane: &BpfDataplane, name: &str, packet: &[u8], device: u32) -> Result<TestRun> {
    plane.test_run(name, packet, device, 1).with_context(|| format!("cannot show a packet to {name}"))
}

/// How often the driver's program has run while it was measured, and for how long.
fn runs(plane: &mut BpfDataplane) -> Result<(u64, Duration)> {
    let all = plane.runs().context("cannot read what was measured")?;
    let of = all.into_iter().find(|runs| runs.name == program::UPLINK_DRIVER).context("it is not loaded")?;
    Ok((of.runs, of.time))
}

fn addresses(texts: [&str; 4]) -> Result<[IpAddr; 4]> {
    let mut all = [IpAddr::from([0; 4]); 4];
    for (address, text) in all.iter_mut().zip(texts) {
        *address = text.parse().with_context(|| format!("{text} is no address"))?;
    }
    Ok(all)
}

/// A TCP packet of the client to the published port. The programs do not look at its checksum.
fn packet([client, own, ..]: [IpAddr; 4], flags: u8) -> Vec<u8> {
    let mut packet = vec![2, 0x68, 0, 0, 0, 9, 2, 0x68, 0, 0, 0, 8];
    match (client, own) {
        (IpAddr::V4(client), IpAddr::V4(own)) => {
            packet.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0]);
            packet.extend(client.octets());
            packet.extend(own.octets());
        }
        (client, own) => {
            packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
            for end in [client, own] {
                if let IpAddr::V6(end) = end {
                    packet.extend(end.octets());
                }
            }
        }
    }
    packet.extend(40_000_u16.to_be_bytes());
    packet.extend(PORT.to_be_bytes());
    packet.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    packet
}
