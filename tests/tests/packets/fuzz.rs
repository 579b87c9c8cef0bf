//! Frames of every kind, whole, broken and overlapping, through the programs in the kernel, against a model of what
//! should become of them (`fuzz/model.rs`). A run is a seed and some frames; it is the same each time.
//!
//! `HIVEMIND_FUZZ_CASES` says how many frames, `HIVEMIND_FUZZ_SEED` with which seed it begins. What a seed has found is
//! kept in [`FOUND`].

#[path = "fuzz/frames.rs"]
mod frames;
#[path = "fuzz/model.rs"]
mod model;
#[path = "fuzz/never.rs"]
mod never;
#[path = "fuzz/parse.rs"]
mod parse;
#[path = "fuzz/place.rs"]
mod place;
#[path = "fuzz/world.rs"]
mod world;

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use hivemind::dataplane::Dataplane;
use hivemind_ebpf::{flow::CLOSED_NS, program, reason::Reason};
use xtask::wait::Stopwatch;

use self::{
    frames::{Frames, Try},
    model::{Change, Fate, Model},
    parse::{Packet, Part, be16},
    world::World,
};
use crate::{
    bench::{Bench, DROP, PASS, REDIRECT},
    frame::{TCP, UDP},
    lab::isolated,
    refusal, shortest,
};

/// Frames of a run: its flows are far from filling the table.
const RUN: usize = 20_000;
/// Frames between two looks at the counters.
const BATCH: usize = 200;
/// Frames between two changes of the policies.
const TERM: usize = 3_000;
/// Seeds that have found something in the programs, unless another is asked for they always run: a ping back that passed
/// as the answer to a ping, a TCP header that ends behind its packet, and an error about nothing that passed as a part
/// of a flow; and, of the model, a reset that it believed though the other side went on, and published datagrams that got a
/// backend anew each time, because its node said nobody served them. (They found it as frames were made then: who changes
/// `Frames` changes what a seed is.)
const FOUND: &[u64] =
    &[1, 18, 506, 1_882_490_961_657_857, 1_882_490_961_657_861, 1_882_524_667_084_801, 1_882_541_820_739_748];

/// Frames of a run that only repeats [`FOUND`]: what runs at every change is the same each time. New ones are looked for by
/// `cargo xtask test --long`.
const KEPT_ONLY: u64 = (FOUND.len() * RUN) as u64;

/// The model knows nothing of time: flows that are over are forgotten no sooner. What a slower run finds must be there in
/// another one too.
const TIMELESS: Duration = Duration::from_nanos(CLOSED_NS);

/// What came of a run: frames that passed, were dropped, were redirected, and drops by reason.
#[derive(Debug, Default)]
struct Seen {
    verdicts: [usize; 3],
    reasons: BTreeMap<u8, u64>,
}

/// Counts what should be dropped, as the counters have it.
type Drops = BTreeMap<(u32, u8, u8), u64>;

/// One run.
struct Run {
    bench: Bench,
    model: Model,
    /// What the counters said last, and what they should have counted since.
    counted: Drops,
    expected: Drops,
    /// Frames that were dropped since.
    batch: Vec<String>,
    seen: Seen,
}

impl Run {
    /// Tries that many frames.
    fn all(&mut self, frames: &mut Frames, cases: usize, batch: usize) -> Result<(), String> {
        self.counted = self.counters();
        for case in 0..cases {
            if case % TERM == TERM - 1 {
                self.model.world.legislate(&mut self.bench, case / TERM % 2);
            }
            let tried = frames.next(&self.model.world);
            let told = |wrong| {
                format!("frame {case}, {} of instance {}: {wrong}\n {}", tried.program, tried.host, hex(&tried.bytes))
            };
            self.check(&tried).map_err(told)?;
            if case % batch == 0 || case + 1 == cases {
                self.settle().map_err(told)?;
            }
        }
        Ok(())
    }

    /// Tries a frame; what is wrong with what became of it.
    fn check(&mut self, tried: &Try) -> Result<(), String> {
        let Try { program, host, bytes } = tried;
        if bytes.len() < 15 || bytes.len() < shortest(bytes) {
            return Ok(());
        }
        let device = self.device(program, *host);
        let opinion = self.model.opinion(program, *host, bytes);
        let only = opinion.fates.iter().all(|fate| matches!(fate, Fate::Drop(_)));
        let known = opinion.fates.iter().filter(|fate| matches!(fate, Fate::Drop(_))).count() < 2;
        if !known {
            self.settle()?;
        }
        let (verdict, out) = self.bench.run(program, bytes, device);
        let Some(which) = [PASS, DROP, REDIRECT].iter().position(|known| *known == verdict) else {
            return Err(format!("verdict {verdict}"));
        };
        self.seen.verdicts[which] += 1;
        let answered = verdict == REDIRECT && is_answer(bytes, &out);
        let dropped =
            verdict == DROP || answered && (only || !opinion.fates.iter().any(|fate| fate.verdict() == REDIRECT));
        let fate = if dropped {
            let reasons = opinion
                .fates
                .iter()
                .filter_map(|fate| if let Fate::Drop(reason) = fate { Some(*reason) } else { None });
            let reasons: Vec<Reason> = reasons.collect();
            let reason = match reasons[..] {
                [] => return Err(format!("dropped for {:?}, and not {:?}", self.risen(), opinion.fates)),
                [reason] => reason,
                _ => self.latest(&reasons)?,
            };
            self.expect(program, device, reason);
            refused(program, reason, bytes, verdict, &out)?;
            self.batch.push(format!("{reason:?} {program} {host}: {}", hex(bytes)));
            Fate::Drop(reason)
        } else {
            if let Some(wrong) = self.model.violation(program, *host, bytes, &out) {
                return Err(wrong);
            }
            let mut wrong = String::new();
            let fits = opinion.fates.iter().find(|fate| {
                fate.verdict() == verdict
                    && changed(&self.model.world, program, **fate, bytes, &out).map_err(|why| wrong = why).is_ok()
            });
            *fits.ok_or_else(|| format!("verdict {verdict}, not {:?} {wrong}\n out {}", opinion.fates, hex(&out)))?
        };
        self.model.remember(program, *host, bytes, opinion, fate);
        Ok(())
    }

    fn device(&self, program: &str, host: usize) -> u32 {
        let device = |name| nix::net::if_::if_nametoindex(name).expect("a device");
        match program {
            program::FROM_UPLINK => device("uplink"),
            program::PUB_SELECT => device("hm-pub"),
            _ => self.model.world.hosts[host].ifindex,
        }
    }

    fn expect(&mut self, program: &str, device: u32, reason: Reason) {
        let endpoint = if program.ends_with("cont") { device } else { 0 };
        let direction = u8::from(program != program::FROM_CONTAINER);
        *self.expected.entry((endpoint, direction, reason as u8)).or_default() += 1;
        *self.seen.reasons.entry(reason as u8).or_default() += 1;
    }

    /// The reasons that were counted since the last look.
    fn risen(&mut self) -> Vec<Option<Reason>> {
        let now = self.counters();
        let rose = now.iter().filter(|(key, count)| self.counted.get(*key).unwrap_or(&0) < *count);
        rose.map(|(key, _)| Reason::from_number(key.2)).collect()
    }

    /// Which of these reasons was just counted.
    fn latest(&mut self, reasons: &[Reason]) -> Result<Reason, String> {
        let rose = self.risen();
        let found = reasons.iter().find(|reason| rose == [Some(**reason)]);
        found.copied().ok_or_else(|| format!("counted {rose:?}, none of {reasons:?}"))
    }

    fn counters(&mut self) -> Drops {
        let mut sums = Drops::new();
        for c in self.bench.lab.dataplane.counters().expect("counters") {
            if let Some(reason) = c.reason {
                *sums.entry((c.endpoint, c.direction as u8, reason as u8)).or_default() += c.packets;
            }
        }
        sums
    }

    /// The drops are those that were expected.
    fn settle(&mut self) -> Result<(), String> {
        let now = self.counters();
        let mut rose = now.clone();
        rose.retain(|key, count| {
            *count -= self.counted.get(key).unwrap_or(&0);
            *count > 0
        });
        self.counted = now;
        let expected = std::mem::take(&mut self.expected);
        let batch = std::mem::take(&mut self.batch);
        if rose == expected {
            return Ok(());
        }
        let mut text = String::from("drops by device, direction and reason:");
        for key in rose.keys().chain(expected.keys().filter(|key| !rose.contains_key(key))) {
            let [was, wanted] = [&rose, &expected].map(|of| of.get(key).copied().unwrap_or(0));
            if was != wanted {
                let _ = write!(text, "\n {key:?} {:?}: {was}, and not {wanted}", Reason::from_number(key.2));
            }
        }
        if let [one] = &batch[..] {
            let _ = write!(text, "\n {one}");
        }
        Err(text)
    }
}

/// Runs a seed; `batch`: frames between two looks at the counters.
fn play(seed: u64, cases: usize, batch: usize) -> Result<Seen, String> {
    let mut result = Ok(Seen::default());
    isolated(|cgroup| {
        let (bench, world) = World::new(cgroup);
        let (counted, expected, seen) = (Drops::new(), Drops::new(), Seen::default());
        let mut run = Run { bench, model: Model::new(world), counted, expected, batch: Vec::new(), seen };
        let done = run.all(&mut Frames::new(seed), cases, batch);
        run.bench.lab.dataplane.unload().expect("to unload");
        result = done.map(|()| run.seen);
    });
    result
}

/// Number from the environment.
fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: not a number: {text}")))
}

#[test]
fn what_becomes_of_a_frame_is_what_the_model_says() {
    let cases =
        number("HIVEMIND_FUZZ_CASES").unwrap_or(if env::var("HIVEMIND_LONG").is_ok() { 4_000_000 } else { KEPT_ONLY });
    let asked = number("HIVEMIND_FUZZ_SEED");
    let first = asked.unwrap_or_else(|| {
        let now = SystemTime::UNIX_EPOCH.elapsed().expect("a clock after 1970");
        now.as_secs() << 20
    });
    let mut left = usize::try_from(cases).expect("a number of frames");
    let found = if asked.is_some() { &[] } else { FOUND };
    let mut seeds = found.iter().copied().chain(first..);
    let mut all = Seen::default();
    println!("seeds: {found:?}, then from {first}");
    while left > 0 {
        let (seed, count) = (seeds.next().expect("endless"), left.min(RUN));
        left -= count;
        println!("HIVEMIND_FUZZ_SEED={seed} HIVEMIND_FUZZ_CASES={count}");
        let watch = Stopwatch::start();
        let seen = play(seed, count, BATCH).unwrap_or_else(|wrong| {
            let late = watch.elapsed() > TIMELESS;
            // The counters tell which frame it was if they are read after each.
            match play(seed, count, 1) {
                Ok(seen) if late => seen,
                Ok(_) => panic!("HIVEMIND_FUZZ_SEED={seed} HIVEMIND_FUZZ_CASES={count}: {wrong}"),
                Err(exact) => panic!("HIVEMIND_FUZZ_SEED={seed} HIVEMIND_FUZZ_CASES={count}: {exact}"),
            }
        });
        (0..3).for_each(|n| all.verdicts[n] += seen.verdicts[n]);
        seen.reasons.into_iter().for_each(|(reason, count)| *all.reasons.entry(reason).or_default() += count);
    }
    println!("passed, dropped, redirected: {:?}", all.verdicts);
    // The model is no good if all that is tried is noise.
    let few = all.verdicts.iter().sum::<usize>() / 10;
    assert!(all.verdicts.iter().all(|count| *count > few), "of each verdict more than {few}");
    for (reason, count) in &all.reasons {
        println!("{}: {count}", Reason::from_number(*reason).map_or("?", Reason::as_str));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether `out` goes back between the ends of `frame`.
fn is_answer(frame: &[u8], out: &[u8]) -> bool {
    frame.len() > 34 && out.len() > 34 && crate::is_answer(frame, out)
}

/// What is dropped stays as it is, or is answered as the bench says; ICMP is answered a hundred times a second at most.
fn refused(program: &str, reason: Reason, frame: &[u8], verdict: i32, out: &[u8]) -> Result<(), String> {
    let tcp = parse::read(frame).is_ok_and(|packet| packet.protocol == TCP);
    if verdict == DROP && !tcp {
        return if out == frame { Ok(()) } else { Err("what is dropped is changed".into()) };
    }
    refusal::check(&hex(frame), program, reason, frame, verdict, out);
    Ok(())
}

/// Whether the packet was changed as `fate` says, and in nothing else.
fn changed(world: &World, program: &str, fate: Fate, frame: &[u8], out: &[u8]) -> Result<(), String> {
    let (Fate::Pass(change) | Fate::Redirect(change)) = fate else { return Ok(()) };
    if frame.len() != out.len() {
        return Err("another length".into());
    }
    if change == Change::Nothing {
        return if frame == out { Ok(()) } else { Err("it was changed".into()) };
    }
    let (Ok(before), Ok(after)) = (parse::read(frame), parse::read(out)) else {
        return Err("it cannot be read".into());
    };
    let sums = |bytes: &[u8], packet: &Packet| checksums(bytes, packet);
    if sums(frame, &before) != sums(out, &after) {
        return Err("a checksum is as right or wrong as it was no more".into());
    }
    let (address, port) = if before.from.0.is_ipv4() { (26, 4) } else { (22, 16) };
    let mut wanted = frame.to_vec();
    if program == program::PUB_SELECT {
        let to = world.hosts.iter().find(|host| host.addresses.contains(&after.to.0)).ok_or("nobody's")?;
        wanted[..6].copy_from_slice(&to.mac);
        wanted[6..12].copy_from_slice(&to.host_mac);
    }
    let (end, shift) = match change {
        Change::Source(end) => (end, 0),
        Change::Destination(end) => (end, 1),
        // What else is written lies in the packet that it tells of.
        _ => return if wanted[..14] == out[..14] { Ok(()) } else { Err("Ethernet".into()) },
    };
    let octets = match end.0 {
        std::net::IpAddr::V4(four) => four.octets().to_vec(),
        std::net::IpAddr::V6(six) => six.octets().to_vec(),
    };
    let at = address + shift * port;
    wanted[at..at + octets.len()].copy_from_slice(&octets);
    if port == 4 {
        wanted[24..26].copy_from_slice(&out[24..26]);
    }
    if before.part != Part::Later {
        let at = before.l4 + shift * 2;
        wanted[at..at + 2].copy_from_slice(&end.1.to_be_bytes());
        if let Some(at) = checksum_of(&before) {
            wanted[at..at + 2].copy_from_slice(&out[at..at + 2]);
        }
    }
    if wanted == out { Ok(()) } else { Err(format!("wanted {}", hex(&wanted))) }
}

fn checksum_of(packet: &Packet) -> Option<usize> {
    match packet.protocol {
        TCP => Some(packet.l4 + 16),
        UDP => Some(packet.l4 + 6),
        _ => None,
    }
}

/// The sums over IPv4's header and over what the transport's checksum is about: they stay the same if the checksums are
/// corrected for what is changed. (0 and 0xffff are one number here.)
fn checksums(bytes: &[u8], packet: &Packet) -> [u32; 2] {
    let sum = |part: &[u8]| {
        let words = part.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from));
        words.fold(0_u32, |sum, word| (sum + word) % 0xffff)
    };
    let v4 = packet.from.0.is_ipv4();
    let (header, addresses) = if v4 { (&bytes[14..34], &bytes[26..34]) } else { (&bytes[..0], &bytes[22..54]) };
    let transport = &bytes[packet.l4.min(bytes.len())..];
    let unsummed = packet.protocol == UDP && be16(transport, 6) == Some(0);
    let pseudo = if packet.protocol == crate::frame::ICMP { 0 } else { sum(addresses) };
    let second = match packet.part {
        Part::Later => sum(transport),
        _ if unsummed => 0,
        _ => (pseudo + sum(transport)) % 0xffff,
    };
    [if v4 { sum(header) } else { 0 }, second]
}
