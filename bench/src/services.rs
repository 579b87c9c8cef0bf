//! What a change of the services costs: all of them from nothing, and one more when there are many.
//!
//! A contestant is measured as its owner would use it: `nft -f -` and `iptables-restore --noflush` as kube-proxy calls
//! them, the start of the program included; hivemind's own adapter as the daemon calls it.

use anyhow::{Context, Result};
use hivemind::dataplane::tables::Tables;

use crate::{
    Common,
    clock::timed,
    lab::Netns,
    plane::Plane,
    report::{Report, Target},
    rules::{self, Service, iptables, nft, tables},
    stats::Series,
    supervisor::Run,
};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// How many services there are
    #[arg(long, default_value_t = 10_000)]
    services: u32,
    /// The command that loads iptables rules
    #[arg(long, default_value = "iptables-restore")]
    iptables: String,
}

/// Something that holds services.
trait Contestant {
    fn name(&self) -> String;
    /// Loads `services` where nothing is.
    fn load(&mut self, services: &[Service]) -> Result<()>;
    /// Adds one.
    fn add(&mut self, service: &Service) -> Result<()>;
    /// Removes it.
    fn remove(&mut self, service: &Service) -> Result<()>;
    /// Removes everything.
    fn clear(&mut self) -> Result<()>;
}

struct Nftables(Netns);

impl Nftables {
    fn apply(&self, rules: &str) -> Result<()> {
        self.0.run("nft", &["-f", "-"], rules)
    }
}

impl Contestant for Nftables {
    fn name(&self) -> String {
        "nftables".to_owned()
    }
    fn load(&mut self, services: &[Service]) -> Result<()> {
        self.apply(&nft::load(services))
    }
    fn add(&mut self, service: &Service) -> Result<()> {
        self.apply(&nft::add(service))
    }
    fn remove(&mut self, service: &Service) -> Result<()> {
        self.apply(&nft::remove(service))
    }
    fn clear(&mut self) -> Result<()> {
        self.apply("flush ruleset\n")
    }
}

struct Iptables {
    netns: Netns,
    command: String,
}

impl Contestant for Iptables {
    fn name(&self) -> String {
        "iptables".to_owned()
    }
    fn load(&mut self, services: &[Service]) -> Result<()> {
        self.netns.run(&self.command, &[], &iptables::load(services))
    }
    fn add(&mut self, service: &Service) -> Result<()> {
        self.netns.run(&self.command, &["--noflush"], &iptables::add(service))
    }
    fn remove(&mut self, service: &Service) -> Result<()> {
        self.netns.run(&self.command, &["--noflush"], &iptables::remove(service))
    }
    fn clear(&mut self) -> Result<()> {
        self.netns.run(&self.command, &[], iptables::EMPTY)
    }
}

/// The data plane's adapter, with the rows that were written.
struct Hivemind {
    plane: Plane,
    tables: Tables,
}

impl Hivemind {
    fn apply(&mut self, change: impl FnOnce(&mut Tables)) -> Result<()> {
        change(&mut self.tables);
        self.plane.sync(&self.tables).map(drop)
    }
}

impl Contestant for Hivemind {
    fn name(&self) -> String {
        "hivemind".to_owned()
    }
    fn load(&mut self, services: &[Service]) -> Result<()> {
        self.apply(|held| *held = tables::elsewhere(services))
    }
    fn add(&mut self, service: &Service) -> Result<()> {
        self.apply(|held| tables::add(held, service))
    }
    fn remove(&mut self, service: &Service) -> Result<()> {
        self.apply(|held| tables::remove(held, service))
    }
    fn clear(&mut self) -> Result<()> {
        self.apply(|held| *held = Tables::default())
    }
}

/// Measures and reports.
pub(crate) fn run(run: &Run, common: &Common, args: &Args) -> Result<()> {
    let services = rules::services(args.services, false);
    let more = rules::other(args.services, false);
    let (loads, adds) = common.pick((1, 3), (3, 15));
    let mut contestants: Vec<Box<dyn Contestant>> = vec![
        Box::new(Nftables(Netns::new(run, "nft")?)),
        Box::new(Iptables { netns: Netns::new(run, "ipt")?, command: args.iptables.clone() }),
        Box::new(Hivemind {
            plane: Plane::open(run, "hm", &Netns::new(run, "hm")?, &run.cgroup()?)?,
            tables: Tables::default(),
        }),
    ];
    let mut load = vec![Series::default(); contestants.len()];
    let mut add = load.clone();
    for round in 0..loads {
        for (i, one) in contestants.iter_mut().enumerate() {
            eprintln!("loading {} services into {}, {} of {loads}", args.services, one.name(), round + 1);
            if round > 0 {
                one.clear().with_context(|| one.name())?;
            }
            let (done, seconds) = timed(|| one.load(&services));
            done.with_context(|| one.name())?;
            load[i].0.push(seconds);
        }
    }
    for round in 0..adds {
        eprintln!("adding a service, {} of {adds}", round + 1);
        for (i, one) in contestants.iter_mut().enumerate() {
            let (done, seconds) = timed(|| one.add(&more));
            done.with_context(|| one.name())?;
            add[i].0.push(seconds * 1000.0);
            one.remove(&more).with_context(|| one.name())?;
        }
    }
    let mut report = Report::new(format!("Changing services, {} of three endpoints each", args.services));
    for (i, one) in contestants.iter().enumerate() {
        report.figure(format!("{}: load all", one.name()), "s", &load[i]);
        report.figure(format!("{}: add one", one.name()), "ms", &add[i]);
    }
    let [nftables, _, ours] = [0, 1, 2];
    report.limit("hivemind: load all", "s", &load[ours], Target::AtMost(1.0));
    report.limit("hivemind: add one", "ms", &add[ours], Target::AtMost(5.0));
    report.ratio(("nftables: load all", &load[nftables]), ("hivemind", &load[ours]), None);
    report.ratio(("nftables: add one", &add[nftables]), ("hivemind", &add[ours]), None);
    report.note("hivemind: from the rows that should be there to the maps in the kernel; 30,000 backends as instances of other nodes are part of them.");
    report.print(common.json)
}
