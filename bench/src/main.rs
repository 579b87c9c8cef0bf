//! Measures hivemind beside what others do, in one run on one machine: medians, and ratios taken within each round.
//!
//! Everything happens in network namespaces of its own that have no way out, and nothing is left behind
//! ([`supervisor`]). `docs/BENCHMARKS.md` holds the results and says how to read them.

mod all;
mod changes;
mod child;
mod clock;
mod crr;
mod cycles;
mod daemon;
mod device;
mod dns;
mod enforcement;
mod flood;
mod flows;
mod idle;
mod instances;
mod lab;
mod lines;
mod live;
mod load;
mod loss;
mod memory;
mod names;
mod one_more;
mod overload;
mod packet;
mod peers;
mod plane;
mod policies;
mod pull;
mod report;
mod rules;
mod services;
mod stage;
mod stats;
mod stream;
mod supervisor;
mod throughput;
mod up;
mod update;
mod watched;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "hivemind-bench", about = "Measures hivemind beside what others do")]
struct Cli {
    /// Without one, all of them are measured and docs/BENCHMARKS.md is written
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    common: Common,
}

/// What every measurement knows.
#[derive(Clone, Debug, clap::Args)]
struct Common {
    /// Fewer and shorter rounds: shows that it works, not how fast
    #[arg(long, global = true)]
    quick: bool,
    /// JSON instead of tables
    #[arg(long, global = true)]
    json: bool,
    /// The run that this process belongs to; its supervisor sets it
    #[arg(long, global = true, hide = true)]
    run: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// New connections through a service, beside nftables, iptables, the direct way and loopback
    Crr(crr::Args),
    /// New connections, and exchanges on one, between containers with policies, beside none, nftables and iptables
    Policies(policies::Args),
    /// Bulk data over TCP, beside a plain routed veth
    Throughput(throughput::Args),
    /// New connections while flows are watched, beside nobody watching
    Flows(flows::Args),
    /// The programs, packet by packet, over one that does nothing
    Packet(packet::Args),
    /// Loading many services and adding one, beside nftables and iptables
    Services(services::Args),
    /// One policy, one rule or one backend among 10,000, from the tables to the kernel's maps
    Changes(changes::Args),
    /// Memory of all maps of the data plane
    Memory(memory::Args),
    /// From a policy's request to its enforcement on a flow that lives
    Enforcement(enforcement::Args),
    /// Known flows while many times more arrives than one CPU can do
    Overload(overload::Args),
    /// Messages lost while the daemon restarts, is killed, is replaced
    Loss(loss::Args),
    /// Requests without an answer while an app's instances are replaced under load
    Update(update::Args),
    /// The daemon: start, memory, how soon names are right; with nothing to do and with many instances
    Daemon(daemon::Args),
    /// The name server, beside dnsmasq and unbound
    Dns(dns::Args),
    /// `up` of a project of ten services, and the second one that does nothing, beside Docker Compose
    Up(up::Args),
    /// Many instances of an image that is there, beside Swarm and bare containerd
    Instances(instances::Args),
    /// Deploy, scale, crash, remove, ten thousand times: memory, and what is left; more than an hour
    Cycles(cycles::Args),
    /// Processor time of a hundred instances at rest, with health checks and without, beside Docker Engine
    Idle(idle::Args),
    /// Lines of logs kept a second, and what they cost, beside Docker Engine
    Lines(lines::Args),
    /// An image from a registry of this machine, beside `ctr image pull`
    Pull(pull::Args),
    /// One of the measuring processes
    #[command(hide = true)]
    Child(child::Args),
}

impl Common {
    /// The one or the other, as `--quick` says.
    const fn pick<T: Copy>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let Some(command) = &cli.command else { return all::run(&cli.common) };
    let measured = match (command, &cli.common.run) {
        (Command::Child(args), _) => child::run(args),
        // Their machines clean up after themselves.
        (Command::Daemon(args), _) => daemon::run(&cli.common, args),
        (Command::Enforcement(args), _) => enforcement::run(&cli.common, args),
        (Command::Cycles(args), _) => cycles::run(&cli.common, args),
        (Command::Idle(args), _) => idle::run(&cli.common, args),
        (Command::Instances(args), _) => instances::run(&cli.common, args),
        (Command::Lines(args), _) => lines::run(&cli.common, args),
        (Command::Loss(args), _) => loss::run(&cli.common, args),
        (Command::Overload(args), _) => overload::run(&cli.common, args),
        (Command::Pull(args), _) => pull::run(&cli.common, args),
        (Command::Up(args), _) => up::run(&cli.common, args),
        (Command::Update(args), _) => update::run(&cli.common, args),
        (_, None) => return supervisor::supervise(),
        (command, Some(run)) => measure(command, &cli.common, &supervisor::Run::named(run)?),
    };
    measured.map(|()| ExitCode::SUCCESS)
}

fn measure(command: &Command, common: &Common, run: &supervisor::Run) -> Result<()> {
    supervisor::begin(run)?;
    match command {
        Command::Crr(args) => crr::run(run, common, args),
        Command::Policies(args) => policies::run(run, common, args),
        Command::Throughput(args) => throughput::run(run, common, args),
        Command::Flows(args) => flows::run(run, common, args),
        Command::Packet(args) => packet::run(run, common, args),
        Command::Services(args) => services::run(run, common, args),
        Command::Changes(args) => changes::run(run, common, args),
        Command::Memory(args) => memory::run(run, common, args),
        Command::Dns(args) => dns::run(run, common, args),
        Command::Child(_)
        | Command::Cycles(_)
        | Command::Daemon(_)
        | Command::Enforcement(_)
        | Command::Idle(_)
        | Command::Instances(_)
        | Command::Lines(_)
        | Command::Loss(_)
        | Command::Overload(_)
        | Command::Pull(_)
        | Command::Up(_)
        | Command::Update(_) => Ok(()),
    }
}
