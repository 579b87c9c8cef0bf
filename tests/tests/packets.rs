//! Level 2: the programs in the kernel, one packet at a time (BPF_PROG_TEST_RUN). Nothing is sent.

#[path = "packets/balance.rs"]
mod balance;
#[path = "packets/bench.rs"]
mod bench;
#[path = "packets/borders.rs"]
mod borders;
#[path = "packets/budget.rs"]
mod budget;
#[path = "packets/changes.rs"]
mod changes;
#[path = "packets/floods.rs"]
mod floods;
#[path = "packets/forged.rs"]
mod forged;
#[path = "packets/frame.rs"]
mod frame;
#[path = "packets/fuzz.rs"]
mod fuzz;
#[path = "packets/host.rs"]
mod host;
#[expect(dead_code, reason = "the tests with traffic use the rest")]
#[path = "dataplane/lab.rs"]
mod lab;
#[path = "packets/leaks.rs"]
mod leaks;
#[path = "packets/limit.rs"]
mod limit;
#[path = "packets/paced.rs"]
mod paced;
#[path = "packets/pieces.rs"]
mod pieces;
#[path = "packets/policy.rs"]
mod policy;
#[path = "packets/refusal.rs"]
mod refusal;
#[path = "packets/silence.rs"]
mod silence;
#[path = "packets/table.rs"]
mod table;
#[path = "packets/tenants.rs"]
mod tenants;
#[path = "packets/tunnel.rs"]
mod tunnel;

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use bench::{Bench, DROP, Expect, PASS, REDIRECT, Row, service};
use frame::{ACK, Frame, SYN, TCP};
use hivemind::{dataplane::Dataplane, net::Family};
use hivemind_ebpf::{program, reason::Reason};
use lab::{FAMILIES, isolated};
use nix::{
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};

#[test]
fn every_packet_of_the_table_is_judged_as_it_says() {
    isolated(|cgroup| {
        // With the whole table to itself an instance can fill it.
        let mut bench = Bench::with_share(cgroup, 0);
        let rows = table::rows(&bench);
        let (mut reached, mut bad) = (BTreeSet::new(), Vec::new());
        for row in &rows {
            // All that are wrong are told, each with what is: one alone says less of what has broken.
            if catch_unwind(AssertUnwindSafe(|| bench.check(row))).is_err() {
                bad.push(&row.name);
            }
            if let Expect::Drop(reason) = row.expect {
                reached.insert(reason as u8);
            }
        }
        assert!(bad.is_empty(), "{} of {} rows are wrong, as told above: {bad:#?}", bad.len(), rows.len());
        for family in FAMILIES {
            changes::backend_gone(&mut bench, family);
        }
        table_full(&mut bench);
        reached.extend([Reason::BackendGone as u8, Reason::TableFull as u8]);
        // The kernel refuses to rewrite only without memory: no packet can bring that about.
        reached.insert(Reason::Rewrite as u8);
        // Policies and limits have tests of their own.
        reached.extend([Reason::RateLimited, Reason::ConnectionLimit, Reason::FlowShare].map(|r| r as u8));
        reached.extend([Reason::PolicyIn, Reason::PolicyOut, Reason::OtherTenant, Reason::Audit].map(|r| r as u8));
        reached.extend([Reason::Stranger, Reason::TooLong].map(|r| r as u8));
        reached.extend([Reason::HostIn, Reason::HostOut, Reason::Published, Reason::Rejected].map(|r| r as u8));
        // No packet is dropped for these.
        reached.extend([Reason::Untracked, Reason::Evicted].map(|r| r as u8));
        let missing: Vec<_> = Reason::ALL.into_iter().filter(|reason| !reached.contains(&(*reason as u8))).collect();
        assert!(missing.is_empty(), "no row reaches {missing:?}");
        println!("{} rows", rows.len());
        bench.lab.dataplane.unload().expect("to unload");
    });
}

/// More connections than the table holds: beginnings that nobody has answered make room, and only they do.
fn table_full(bench: &mut Bench) {
    // What makes room is remembered by CPU.
    let mut own = CpuSet::new();
    own.set(sched_getcpu().expect("a CPU")).expect("one of those");
    sched_setaffinity(Pid::from_raw(0), &own).expect("to stay");
    let to = service(Family::V4, 1);
    let ask = |bench: &Bench, port: u16| {
        let packet = bench.sent(0, TCP, port, to).bytes();
        bench.run(program::FROM_CONTAINER, &packet, bench.ifindex(0)).0
    };
    // Both packets that establish it.
    let answer = |bench: &Bench, port: u16| {
        let answers = bench.sent(1, TCP, 8080, (bench.address(0, Family::V4), port).into());
        let knows = Frame { detail: ACK, ..bench.sent(0, TCP, port, to) };
        for (frame, from) in
            [(Frame { detail: SYN | ACK, ..answers.clone() }, 1), (knows, 0), (Frame { detail: ACK, ..answers }, 1)]
        {
            let verdict = bench.run(program::FROM_CONTAINER, &frame.bytes(), bench.ifindex(from)).0;
            assert_eq!(verdict, REDIRECT, "the connection from {port}");
        }
    };
    let evicted = |bench: &mut Bench| bench.lab.packets(0, 0, Reason::Evicted as u8);
    for port in 10_000..10_100 {
        assert_eq!(ask(bench, port), REDIRECT);
        answer(bench, port);
    }
    for port in 10_100..=u16::MAX {
        assert_eq!(ask(bench, port), REDIRECT, "{port}");
    }
    assert!(evicted(bench) > 20_000);
    for port in 10_000..10_100 {
        answer(bench, port);
    }
    let full = (10_100..=u16::MAX).find(|port| {
        let verdict = ask(bench, *port);
        if verdict == REDIRECT {
            answer(bench, *port);
        }
        verdict == DROP
    });
    let port = full.expect("the table is full at last");
    let again = bench.sent(0, TCP, port, to);
    bench.check(&bench.sends("table full", &again, Expect::Drop(Reason::TableFull)));
    let known = Frame { detail: ACK, ..bench.sent(0, TCP, port - 1, to) };
    let there = Frame { dst: (bench.address(1, Family::V4), 8080), ..known.clone() }.bytes();
    bench.check(&bench.sends("known connections go on", &known, Expect::RedirectAs(there)));
    host::table_full(bench);
}

#[test]
fn a_packet_cut_at_any_length_never_passes_for_a_whole_one() {
    isolated(|cgroup| {
        let bench = Bench::new(cgroup);
        for Row { name, program, ifindex, packet, .. } in table::rows(&bench) {
            if name.contains("padding") {
                continue;
            }
            let arp = packet[12..14] == [0x08, 0x06];
            for length in shortest(&packet)..packet.len() {
                let cut = &packet[..length];
                let (verdict, out) = bench.run(program, cut, ifindex);
                let passes = program == program::FROM_UPLINK || arp && program == program::TO_CONTAINER;
                let wanted = if passes { PASS } else { DROP };
                assert_eq!(verdict, wanted, "{name}, {program}, {length} of {}", packet.len());
                assert_eq!(out, cut, "{name}, {length}: nothing is changed");
            }
        }
    });
}

/// The shortest frame of this Ethernet protocol that the kernel takes for a test run (Linux 6.18): with a whole IP
/// header, or at least a byte after Ethernet's. Shorter ones are tried on the parser itself, in hivemind-ebpf.
fn shortest(packet: &[u8]) -> usize {
    match packet[12..14] {
        [0x08, 0x00] => 14 + 20,
        [0x86, 0xdd] => 14 + 40,
        _ => 15,
    }
}

/// xorshift: the same numbers on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % end
    }
}

#[test]
fn mutated_packets_never_get_a_wrong_verdict() {
    isolated(|cgroup| {
        let bench = Bench::new(cgroup);
        let rows = table::rows(&bench);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let (mut verdicts, mut refused) = ([0; 3], 0);
        for round in 0..24_000 {
            let row = &rows[random.below(rows.len())];
            let mut packet = row.packet.clone();
            for _ in 0..=random.below(6) {
                let at = random.below(packet.len());
                packet[at] = u8::try_from(random.below(256)).expect("a byte");
            }
            if random.below(4) == 0 {
                packet.truncate(15 + random.below(packet.len() - 15));
            }
            if packet.len() < shortest(&packet) {
                refused += 1;
                continue;
            }
            let (verdict, out) = bench.run(row.program, &packet, row.ifindex);
            let which = [PASS, DROP, REDIRECT].iter().position(|allowed| *allowed == verdict);
            let Some(which) = which else { panic!("round {round}, {}: verdict {verdict}: {packet:02x?}", row.name) };
            verdicts[which] += 1;
            // Of an answer to what is dropped: whoever sent it gets it.
            if verdict == REDIRECT && is_answer(&packet, &out) {
                verdicts[1] += 1;
                continue;
            }
            assert_eq!(out.len(), packet.len(), "round {round}: no byte more or less");
            if verdict == DROP || row.program == program::TO_CONTAINER {
                assert_eq!(out, packet, "round {round}, {}: what is dropped is not changed", row.name);
            }
            if row.program == program::FROM_CONTAINER && verdict != DROP {
                assert!(is_own(&bench, row.ifindex, &packet), "round {round}, {}: {packet:02x?}", row.name);
            }
        }
        println!("passed, dropped, redirected: {verdicts:?}; too short for the kernel: {refused}");
        assert!(verdicts.iter().all(|count| *count > 500), "{verdicts:?}");
    });
}

/// Whether `out` goes back between the ends of `packet`. To itself nobody is handed what it has sent: if that came back
/// changed, it is an answer.
fn is_answer(packet: &[u8], out: &[u8]) -> bool {
    let (from, to, after) = if packet[12..14] == [0x08, 0x00] { (26, 30, 34) } else { (22, 38, 54) };
    let turned = out[from..to] == packet[to..after] && out[to..after] == packet[from..to];
    turned && (packet[from..to] != packet[to..after] || out != packet)
}

/// Whether a packet speaks for its sender only.
fn is_own(bench: &Bench, ifindex: u32, packet: &[u8]) -> bool {
    let instances = bench.lab.instances[..2].iter();
    let Some(own) = instances.into_iter().find(|instance| instance.link.ifindex == ifindex) else { return false };
    let quiet = |src: &[u8]| src[0] == 0xfe && src[1] & 0xc0 == 0x80 || src == [0; 16];
    own.link.instance_mac.0 == packet[6..12]
        && match packet[12..14] {
            [0x08, 0x06] => packet[22..28] == own.link.instance_mac.0 && packet[28..32] == own.v4.octets(),
            [0x08, 0x00] => packet[26..30] == own.v4.octets(),
            [0x86, 0xdd] => packet[22..38] == own.v6.octets() || quiet(&packet[22..38]) && packet[21] == 255,
            _ => false,
        }
}

#[test]
fn the_verifier_looks_at_no_more_instructions_than_the_budget() {
    isolated(|cgroup| {
        let mut bench = Bench::new(cgroup);
        let found = bench.lab.dataplane.info().programs;
        let mut over = Vec::new();
        for (name, actual) in &found {
            let budget = budget::BUDGET.iter().find(|(of, _)| of == name).map_or(0, |(_, budget)| *budget);
            println!("{name}: {actual} of {budget}");
            if *actual > budget || *actual == 0 {
                over.push(format!("{name}: {actual} of {budget}"));
            }
        }
        assert_eq!(found.len(), budget::BUDGET.len());
        assert!(over.is_empty(), "{over:?}");
        bench.lab.dataplane.unload().expect("to unload");
    });
}
