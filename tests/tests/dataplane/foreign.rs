//! Programs of others at the same places: what was attached by someone else stays where it is, and goes on.

use std::process::Command;

use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        tc::{NlOptions, SchedClassifierLinkId, TcAttachOptions, TcHandle},
    },
};
use hivemind::dataplane::{Dataplane, DataplaneError, bpf::BpfDataplane};
use hivemind_tests::netlab::until;

use crate::lab::{BPF_ROOT, Lab, config, isolated};

/// The sides of a device that ours are attached to.
const SIDES: [(TcAttachType, &str); 2] =
    [(TcAttachType::Ingress, "hm_from_uplink"), (TcAttachType::Egress, "hm_to_uplink")];

/// An object file with a program of a device, which passes every packet to the next one (`r0 = -1; exit`).
fn object(name: &str) -> Vec<u8> {
    const HEADER: u64 = 64;
    let code: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];
    let names = format!("\0{name}\0").into_bytes();
    let sections = b"\0classifier\0license\0.strtab\0.symtab\0".to_vec();
    let at = |text: &str| {
        let found = sections.windows(text.len()).position(|part| part == text.as_bytes());
        u32::try_from(found.expect("a section")).expect("small")
    };
    // Two symbols: none, and the function at the beginning of section 1.
    let mut symbols = vec![0; 24];
    symbols.extend(1u32.to_le_bytes());
    symbols.extend([0x12, 0, 1, 0]);
    symbols.extend([0u64, 16].map(u64::to_le_bytes).concat());
    let bodies: [(u32, u32, u32, u32, u64, Vec<u8>); 5] = [
        // Name, type, link, info, size of an entry: code, licence, names, symbols, and the sections' names.
        (at("classifier"), 1, 0, 0, 0, code.map(u64::to_le_bytes).concat()),
        (at("license"), 1, 0, 0, 0, b"GPL\0".to_vec()),
        (at(".strtab"), 3, 0, 0, 0, names),
        (at(".symtab"), 2, 3, 1, 24, symbols),
        (at(".strtab"), 3, 0, 0, 0, sections.clone()),
    ];
    let (mut body, mut table) = (Vec::new(), vec![0; 64]);
    for (name, kind, link, info, entry, bytes) in &bodies {
        body.resize(body.len().next_multiple_of(8), 0);
        // Of the code: it is loaded, and executable.
        let flags: u64 = if *entry == 0 && *kind == 1 { 6 } else { 0 };
        let (offset, size) = (HEADER + body.len() as u64, bytes.len() as u64);
        table.extend([*name, *kind].map(u32::to_le_bytes).concat());
        table.extend([flags, 0, offset, size].map(u64::to_le_bytes).concat());
        table.extend([*link, *info].map(u32::to_le_bytes).concat());
        table.extend([8, *entry].map(u64::to_le_bytes).concat());
        body.extend(bytes);
    }
    body.resize(body.len().next_multiple_of(8), 0);
    // Of 64 bits, little-endian; relocatable, for BPF (247); six sections, the last with their names.
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x01\0\xf7\0\x01\0\0\0".to_vec();
    file.extend([0, 0, HEADER + body.len() as u64].map(u64::to_le_bytes).concat());
    file.extend([0u16, 0, 64, 0, 0, 64, 6, 5].map(u16::to_le_bytes).concat());
    assert_eq!(file.len() as u64, HEADER);
    file.extend(body);
    file.extend(table);
    file
}

/// Somebody else's program.
struct Foreign {
    ebpf: Ebpf,
    name: &'static str,
    links: Vec<(TcAttachType, SchedClassifierLinkId)>,
}

impl Foreign {
    fn load(name: &'static str) -> Self {
        let mut ebpf = Ebpf::load(&object(name)).unwrap_or_else(|error| panic!("{error:?}"));
        program(&mut ebpf, name).load().unwrap_or_else(|error| panic!("{error:?}"));
        Self { ebpf, name, links: Vec::new() }
    }

    /// On both sides of a device, before all others: by a link, or as a filter.
    fn attach(&mut self, device: &str, tcx: bool, priority: u16) {
        let _ = aya::programs::tc::qdisc_add_clsact(device);
        for (side, _) in SIDES {
            let filter = NlOptions { priority, handle: TcHandle::from(7), classid: None };
            let how =
                if tcx { TcAttachOptions::TcxOrder(LinkOrder::first()) } else { TcAttachOptions::Netlink(filter) };
            let link = program(&mut self.ebpf, self.name).attach_with_options(device, side, how);
            self.links.push((side, link.unwrap_or_else(|error| panic!("{error:?}"))));
        }
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    ebpf.program_mut(name).expect("the program").try_into().expect("a device's program")
}

/// The names of the programs on one side of the uplink, in order.
fn on_uplink(side: TcAttachType, tcx: bool) -> Vec<String> {
    if tcx {
        let (_, all) = SchedClassifier::query_tcx("uplink", side).unwrap_or_else(|error| panic!("{error}"));
        return all.iter().filter_map(|info| info.name_as_str().map(str::to_owned)).collect();
    }
    let side = if side == TcAttachType::Ingress { "ingress" } else { "egress" };
    let shown = Command::new("tc").args(["filter", "show", "dev", "uplink", side]).output().expect("tc");
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let names = text.lines().filter_map(|line| Some(line.split_once(" handle ")?.1.split(' ').nth(1)?.to_owned()));
    names.collect()
}

#[test]
fn programs_of_others_stay_in_their_places() {
    // Kernels before 6.6 have filters only.
    let has_tcx = SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok();
    for tcx in [true, false].into_iter().filter(|tcx| has_tcx || !tcx) {
        isolated(|cgroup| {
            let open = if tcx { BpfDataplane::open } else { BpfDataplane::open_without_tcx };
            let mut before = Foreign::load("before");
            let mut lab = Lab::with(cgroup, 1, |config| {
                before.attach("uplink", tcx, 100);
                open(config)
            });
            let tcx = lab.dataplane.info().attach == "tcx";
            lab.ready(0);
            lab.sync();
            let is = |when: &str, wanted: fn(&'static str) -> Vec<&'static str>| {
                for (side, own) in SIDES {
                    assert_eq!(on_uplink(side, tcx), wanted(own), "{when}, {side:?}, by TCX: {tcx}");
                }
            };
            // By links ours sees packets first; filters are in the order of their priorities.
            let first: fn(_) -> _ = if tcx { |own| vec![own, "before"] } else { |own| vec!["before", own] };
            is("attached", first);
            let mut later = Foreign::load("later");
            later.attach("uplink", tcx, 200);
            let all: fn(_) -> _ =
                if tcx { |own| vec!["later", own, "before"] } else { |own| vec!["before", "later", own] };
            is("somebody comes later", all);
            let uplinks = ["uplink".to_owned()];
            lab.dataplane.attach_uplinks(&uplinks).expect("again");
            is("attached again", all);
            lab.dataplane = open(config(cgroup)).unwrap_or_else(|error| panic!("{error}"));
            lab.dataplane.attach_uplinks(&uplinks).expect("by the next daemon");
            lab.sync();
            is("restarted", all);
            // As by a daemon of another ABI.
            let own = format!("{BPF_ROOT}/v{}", hivemind_ebpf::ABI_VERSION);
            std::fs::rename(own, format!("{BPF_ROOT}/v0")).expect("the pins of another version");
            lab.dataplane = open(config(cgroup)).unwrap_or_else(|error| panic!("{error}"));
            lab.sync();
            lab.dataplane.attach_uplinks(&uplinks).expect("by a daemon of another version");
            is("upgraded", all);
            lab.dataplane.sweep().expect("to sweep");
            is("swept", all);
            lab.dataplane.unload().expect("to unload");
            // The kernel lets go of a link a moment after its last name is gone.
            let left = if tcx { ["later", "before"] } else { ["before", "later"] };
            until("ours to be gone, and the others to stay", || {
                SIDES.iter().all(|(side, _)| on_uplink(*side, tcx) == left).then_some(())
            });
        });
    }
}

#[test]
fn a_refused_program_leaves_its_log_and_the_old_ones_at_work() {
    isolated(|cgroup| {
        let mut lab = Lab::new(cgroup, 2);
        (0..2).for_each(|index| lab.ready(index));
        lab.sync();
        let _echo = crate::traffic::Echo::start(&lab.instances[1].ns, 8080, "i1");
        let server = std::net::SocketAddr::new(lab.instances[1].v4.into(), 8080);
        let pins = || {
            let mut all = Vec::new();
            for folder in ["maps", "links"] {
                let path = format!("{BPF_ROOT}/v{}/{folder}", hivemind_ebpf::ABI_VERSION);
                all.extend(std::fs::read_dir(path).expect("pins").map(|pin| pin.expect("a pin").path()));
            }
            all.sort();
            all
        };
        let before = pins();
        // No program ends any more: each of its ends (`exit`) goes back to itself.
        let endless = |object: &mut [u8]| {
            let (words, _) = object.as_chunks_mut::<8>();
            let ends = words.iter_mut().filter(|word| **word == [0x95, 0, 0, 0, 0, 0, 0, 0]);
            assert!(ends.map(|word| *word = [0x05, 0, 0xff, 0xff, 0, 0, 0, 0]).count() > 10);
        };
        let refused = match BpfDataplane::open_changed(config(cgroup), endless) {
            Err(error) => error,
            Ok(_) => panic!("a program without an end was loaded"),
        };
        let DataplaneError::Rejected { program, short, log } = &refused else { panic!("{refused:?}") };
        let full = std::fs::read_to_string(log).expect("the whole log");
        assert!(hivemind_ebpf::program::all().any(|name| name == program), "{program}");
        assert!(log.starts_with(crate::lab::log_dir()) && log.display().to_string().contains(program.as_str()));
        // What is wrong is at the end of the log; in the message is that, and not how the verifier got there.
        assert!(full.lines().count() > 20 && short.len() < 1_000 && short.len() * 2 < full.len(), "{short}\n{full}");
        assert!(short.split(" / ").all(|line| full.contains(line)), "{short}");
        let message = refused.to_string();
        assert!(message.contains(program.as_str()) && message.contains(short.as_str()), "{message}");
        assert!(message.contains(&log.display().to_string()), "{message}");
        assert_eq!(refused.code().as_str(), "E-BPF-002");
        // What was there is at work, and nothing else.
        assert_eq!(pins(), before);
        lab.instances[0].ns.run(|| crate::traffic::tcp_ask(server)).expect("an answer");
        lab.dataplane.unload().expect("to unload");
    });
}
