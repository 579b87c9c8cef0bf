//! The kernel data plane as the daemon sees it. `tables` (floor 1) computes the rows that should be there, the
//! adapter (floor 2, the only place that names `aya`) compares them with the pinned maps and writes the difference.

pub mod bpf;
pub mod capture;
pub mod diff;
pub mod drift;
mod error;
pub mod flows;
pub mod follow;
pub mod judged;
mod probe;
pub mod round_trips;
pub mod share;
pub mod tables;
mod watch;

pub use capture::{CaptureFilter, CapturedPacket, Captures, Capturing};
pub use error::DataplaneError;
pub use probe::{Finding, probe};
pub use watch::{Listener, Watch};

use drift::{Difference, Repairs};
use flows::{DropRecord, FlowRecord};
use round_trips::RoundTrips;
use tables::{LimitOwner, Part, Tables, Usage};

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::OwnedFd,
    time::Duration,
};

use hivemind_ebpf::{abi::Count, reason::Reason};

use hivemind_core::model::InstanceId;
use hivemind_net::HostLink;

/// The data plane of this node. Calls are system calls of microseconds to milliseconds and block: one owner calls
/// them from its own thread.
pub trait Dataplane: Send + std::fmt::Debug {
    /// Attaches the programs to both directions of an instance's host device. From then on every packet is denied
    /// until [`Dataplane::sync`] brings a row for its interface. Attaching again replaces the programs in place,
    /// without a moment in which packets pass unseen or are lost.
    fn attach(&mut self, id: &InstanceId, link: &HostLink) -> Result<(), DataplaneError>;

    /// Detaches and unpins. Ok if nothing is attached, or the device is gone.
    fn detach(&mut self, id: &InstanceId) -> Result<(), DataplaneError>;

    /// The instances that have pinned links.
    fn attached(&mut self) -> Result<Vec<InstanceId>, DataplaneError>;

    /// Attaches the programs for published ports to the node's uplinks (interface names) and to the device that the
    /// firewall hands accepted connections to, and detaches from others.
    fn attach_uplinks(&mut self, devices: &[String]) -> Result<(), DataplaneError>;

    /// Writes the difference between `desired` and the maps: additions first, then removals, so that a packet never
    /// meets a half-written service. With a row refused (map full), the others are still written and the error
    /// names the first map that did; calling again retries them.
    fn sync(&mut self, desired: &Tables) -> Result<SyncReport, DataplaneError>;

    /// All counters, summed over the CPUs.
    fn counters(&mut self) -> Result<Vec<Counter>, DataplaneError>;

    /// How many packets each rule of policies has allowed, or denied, by its number; answers are not counted.
    fn rule_hits(&mut self) -> Result<BTreeMap<u32, u64>, DataplaneError>;

    /// What every instance uses, and every tenant that has limits.
    fn uses(&mut self) -> Result<BTreeMap<LimitOwner, Usage>, DataplaneError>;

    /// The round-trip times that TCP has measured between instances.
    fn round_trips(&mut self) -> Result<Vec<RoundTrips>, DataplaneError>;

    /// The flows that are in the table now.
    fn flows(&mut self) -> Result<Vec<FlowRecord>, DataplaneError>;

    /// The latest drops, one for all packets of a kind.
    fn drops(&mut self) -> Result<Vec<DropRecord>, DataplaneError>;

    /// Where to listen to flows that begin and end, and to drops. What a sweep ends is told as well.
    fn watch(&self) -> Watch;

    /// Where to capture the packets of instances.
    fn captures(&self) -> Captures;

    /// Bookkeeping to be called every few seconds: removes what has timed out; now and then compares the maps with what
    /// was written last, and puts right what someone else has changed.
    fn sweep(&mut self) -> Result<SweepReport, DataplaneError>;

    /// Has the kernel measure how long programs run, for as long as the answer lives. It costs every program of the
    /// machine two looks at a clock for each run.
    fn measure(&mut self) -> Result<Measuring, DataplaneError>;

    /// How often each program has run while it was measured, and for how long, since it was loaded.
    fn runs(&mut self) -> Result<Vec<ProgramRuns>, DataplaneError>;

    /// Compares what is in the kernel with what this daemon has written and attached. Changes nothing.
    fn check(&mut self) -> Result<Vec<Difference>, DataplaneError>;

    /// What was written last; at first, what the last daemon has left in the maps.
    fn written(&self) -> Tables;

    /// What the maps hold now of these parts; the others are empty.
    fn held(&mut self, parts: &[Part]) -> Result<Tables, DataplaneError>;

    /// Those of the addresses that a flow lives to or from.
    fn in_use(&mut self, among: &BTreeSet<IpAddr>) -> Result<BTreeSet<IpAddr>, DataplaneError>;

    /// What is used of the kernel, for `node info` and `doctor`.
    fn info(&self) -> DataplaneInfo;

    /// Detaches and unpins everything. Nothing of hivemind is left in the kernel's BPF file system.
    fn unload(&mut self) -> Result<(), DataplaneError>;
}

/// What [`Dataplane::sync`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SyncReport {
    /// Rows written.
    pub written: u64,
    /// Rows removed.
    pub removed: u64,
    /// Rows that were not what this daemon last wrote: someone else changed them.
    pub repaired: u64,
}

/// What [`Dataplane::sweep`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SweepReport {
    /// Connections that are tracked.
    pub connections: u64,
    /// Kinds of packets that were dropped of late: rows of the table of drops.
    pub dropped: u64,
    /// Connections that were removed.
    pub expired: u64,
    /// Counts of connections and of rows that had drifted and were put right.
    pub corrected: u64,
    /// What someone else had changed and that was put right.
    pub repairs: Repairs,
}

/// Which way what a counter counts has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Way {
    /// Packets out of the instance.
    Out = hivemind_ebpf::abi::OUT,
    /// Packets into it.
    In = hivemind_ebpf::abi::IN,
    /// Connections that sockets opened to the service: `packets` counts connections, `bytes` is 0.
    Opened = hivemind_ebpf::abi::OPENED,
}

impl Way {
    /// `out`, `in` or `opened`
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
            Self::Opened => "opened",
        }
    }
}

/// One counter: packets and bytes of an endpoint, for a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Interface index of the instance's host device; 0 for the node itself.
    pub endpoint: u32,
    /// The service's number; 0 for none.
    pub service: u32,
    /// Which way.
    pub direction: Way,
    /// Why they were dropped or refused; none: they were not.
    pub reason: Option<Reason>,
    /// Packets.
    pub packets: u64,
    /// Bytes, with the Ethernet header.
    pub bytes: u64,
}

impl Counter {
    /// What metrics and tables show of [`Counter::reason`]: its name, or `forwarded`.
    pub const fn verdict(&self) -> &'static str {
        match self.reason {
            Some(reason) => reason.as_str(),
            None => "forwarded",
        }
    }
}

/// While this lives, the kernel measures how long programs run.
#[derive(Debug, Default)]
pub struct Measuring {
    /// Closing it ends the measuring.
    _statistics: Option<OwnedFd>,
}

/// How often a program has run, and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramRuns {
    /// Its name.
    pub name: String,
    /// How often.
    pub runs: u64,
    /// How long, all runs together.
    pub time: Duration,
}

/// What the data plane uses.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DataplaneInfo {
    /// ABI version of programs and maps.
    pub abi: u32,
    /// `tcx` or `tc`.
    pub attach: String,
    /// Name and verified instructions of every program.
    pub programs: Vec<(String, u32)>,
    /// Name, entries it can hold, and bytes of memory of every map.
    pub maps: Vec<(String, u32, u64)>,
    /// The uplinks.
    pub uplinks: Vec<Uplink>,
    /// Whether packets over a rate wait at the uplinks for their time of departure, [`tables::Tables::paced`].
    pub paced: bool,
    /// What was sent on to other nodes: by drivers ([`hivemind_ebpf::abi::BY_DRIVER`]), and by the kernel.
    pub sent_on: [Count; 2],
}

/// How an uplink sends packets for published ports on to other nodes that have the instance.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Uplink {
    /// Its device.
    pub device: String,
    /// Whether its driver does, before the kernel sees them.
    pub driver: bool,
    /// Why not, if not.
    pub why: String,
    /// The queue that its packets go through, as [`hivemind_net::Net::queues`] has it; empty if that is not known.
    pub queue: String,
}
