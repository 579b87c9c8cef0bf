//! What a program costs for one packet, over one that does nothing: the kernel runs each on the same bytes a million
//! times (BPF_PROG_TEST_RUN). The caches are warm, and nothing is sent: for comparing, not for packets per second.

mod driver;
mod empty;

use anyhow::{Result, ensure};
use hivemind::dataplane::tables::Tables;

use crate::{
    Common,
    lab::{CLIENT, Lab, MACS, SERVER},
    plane::Plane,
    report::{Report, Target},
    rules::{self, policies, tables},
    stats::Series,
    supervisor::Run,
};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {}

/// How many rules there are, each for a peer of its own, with policies on.
const RULES: [u32; 3] = [10, 10_000, 60_000];
/// The verdicts of a packet that is dropped, and of one that goes straight into another instance.
const DROP: i32 = 2;
const REDIRECT: i32 = 7;

const SYN: u8 = 2;
const FIN_ACK: u8 = 17;
const ACK: u8 = 16;

/// Measures and reports.
pub(crate) fn run(run: &Run, common: &Common, _: &Args) -> Result<()> {
    let (rounds, repeat) = common.pick((3, 10_000), (15, 300_000));
    let lab = Lab::new(run, "pkt")?;
    let ends = lab.host_ends()?;
    let mut plane = Plane::open(run, "pkt", &lab.node, &run.cgroup()?)?;
    plane.attach(&lab)?;
    let plain = tables::tables(ends, &rules::services(1, false), 0);
    let mut subjects = vec![Subject { name: "no policy".into(), tables: plain.clone(), ..Subject::default() }];
    for count in RULES {
        let tables = policies::isolate(plain.clone(), count, &[80]);
        subjects.push(Subject { name: format!("{count} rules"), tables, ..Subject::default() });
    }
    let mut empty = Series::default();
    let nothing = empty::Program::load()?;
    let mut port = 20_000;
    for round in 0..rounds {
        eprintln!("showing packets, {} of {rounds}", round + 1);
        empty.0.push(nothing.run(&packet(0, [1, 80], ACK), repeat)?);
        for subject in &mut subjects {
            plane.sync(&subject.tables)?;
            port += 1;
            let shown = |port, flags, repeat| -> Result<f64> {
                let run = plane.show(&packet(0, [port, 80], flags), ends[0], repeat)?;
                ensure!(run.verdict == REDIRECT, "{}: verdict {}", subject.name, run.verdict);
                Ok(run.mean.as_secs_f64() * 1e9)
            };
            let other = plane.show(&packet(0, [port, 81], SYN), ends[0], 1)?.verdict;
            let wanted = if subject.tables.rules.is_empty() { REDIRECT } else { DROP };
            ensure!(other == wanted, "{}: verdict {other} for a port that no rule allows", subject.name);
            shown(port, SYN, 1)?;
            let answer = plane.show(&packet(1, [80, port], SYN | ACK), ends[1], 1)?.verdict;
            ensure!(answer == REDIRECT, "{}: verdict {answer} for the answer", subject.name);
            shown(port, ACK, 1)?;
            subject.established.0.push(shown(port, ACK, repeat)?);
            port += 1;
            // The end of a connection that nobody knows: it is judged each time, and makes no row.
            subject.judged.0.push(shown(port, FIN_ACK, repeat)?);
        }
    }
    let mut costs = driver::Costs::default();
    plane.sync(&driver::tables(plain, ends[0])?)?;
    for _ in 0..rounds {
        let count = common.pick(1_000, 20_000);
        plane.inside(|plane| driver::round(plane, ends[0], count, &mut costs))?;
    }
    report(common, &empty, &subjects, &costs)
}

#[derive(Default)]
struct Subject {
    name: String,
    tables: Tables,
    established: Series,
    judged: Series,
}

fn report(common: &Common, empty: &Series, subjects: &[Subject], driver: &driver::Costs) -> Result<()> {
    let over = |series: &Series| Series(series.0.iter().zip(&empty.0).map(|(all, none)| all - none).collect());
    let mut report =
        Report::new("One packet from instance to instance, in hm_from_cont, over a program that does nothing");
    report.figure("a program that does nothing", "ns", empty);
    for subject in subjects {
        let (established, judged) = (over(&subject.established), over(&subject.judged));
        let Subject { name, .. } = subject;
        report.limit(format!("of a known flow, {name}"), "ns", &established, Target::AtMost(60.0));
        report.figure(format!("judged, {name}"), "ns", &judged);
    }
    let policy = |with: &Subject| {
        Series(with.judged.0.iter().zip(&subjects[0].judged.0).map(|(with, without)| with - without).collect())
    };
    for subject in &subjects[1..] {
        report.limit(format!("the policies' part, {}", subject.name), "ns", &policy(subject), Target::AtMost(55.0));
    }
    report.figure("driver: a frame that is left at once", "ns", &driver.left);
    for (family, sent) in ["IPv4", "IPv6"].into_iter().zip(&driver.sent) {
        let own = Series(sent.0.iter().zip(&driver.left.0).map(|(all, none)| all - none).collect());
        report.limit(format!("driver: to another node, {family}"), "ns", &own, Target::AtMost(190.0));
    }
    report.note("driver: of a published port; over a frame that is left at once, each run a call of its own.");
    report.note("judged: what the first packet of a flow costs, but for the row that is made for it (about 290 ns).");
    report.print(common.json)
}

/// A TCP packet from the client (0) or the server (1). What the client acknowledges is what the server has said; the
/// programs do not look at its checksum.
fn packet(from: usize, [port, to]: [u16; 2], flags: u8) -> Vec<u8> {
    let (ends, sequence) = ([CLIENT.0, SERVER.0], if from == 0 { 1 } else { 0 });
    let [host, own] = MACS[from];
    let mut packet = [host, own].concat();
    packet.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0]);
    packet.extend(ends[from].octets());
    packet.extend(ends[1 - from].octets());
    packet.extend(port.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend([0, 0, 0, sequence, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    packet
}
