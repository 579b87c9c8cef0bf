//! The adapter to the kernel: loads, pins, attaches and takes over, with aya.
//!
//! Everything is pinned under `<root>/v<ABI>/`: maps in `maps/`, links in `links/`. A new daemon finds them there,
//! checks that each map is what it needs, loads its own programs onto the same maps, and puts them in the place of the
//! old ones link by link, each in one step: no packet passes unseen and none is lost.

mod accounts;
mod adopt;
mod attach;
mod constants;
mod driver;
mod group;
mod held;
mod hits;
mod intervals;
mod kept;
mod link;
mod load;
#[cfg(feature = "bpf-log")]
mod log;
mod mapped;
mod maps;
mod mend;
mod packets;
mod place;
mod round_trips;
mod rows;
mod seen;
mod services;
mod slots;
mod sources;
mod strange;
mod sweep;
mod sync;
mod trial;
mod writes;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use aya::{Ebpf, EbpfLoader};
use hivemind_ebpf::{ABI_VERSION, CONFIG, abi::Config, map, program};

use super::{
    Captures, Counter, Dataplane, DataplaneError, DataplaneInfo, Measuring, ProgramRuns, SweepReport, SyncReport,
    Watch,
    drift::Difference,
    flows::{DropRecord, FlowRecord},
    probe,
    round_trips::RoundTrips,
    tables::{LimitOwner, NodeRow, Part, Tables, Usage},
};
use attach::Place;
use constants::constants;
use hivemind_core::model::{InstanceId, chain};
use hivemind_net::{HostLink, NodeNet, host_device};
use maps::Maps;
pub use packets::PacketRing;
pub use seen::Ring;
use sync::Shadow;
pub use trial::TestRun;

/// Every how many sweeps the maps are read and compared.
const REPAIR_EVERY: u32 = 12;

/// The object that this binary was built with; empty without the BPF toolchain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/hivemind-ebpf"));

/// Whether this binary was built with the programs.
pub fn has_programs() -> bool {
    !OBJECT.is_empty()
}

/// How the data plane is set up.
#[derive(Clone, Debug)]
pub struct DataplaneConfig {
    /// Folder in the BPF file system.
    pub root: PathBuf,
    /// The cgroup2 folder whose processes reach services.
    pub cgroup: PathBuf,
    /// Ranges and own addresses of the node.
    pub network: NodeNet,
    /// The device to which the firewall's rules hand accepted connections.
    pub publish_device: String,
    /// Where the verifier's logs are kept.
    pub log_dir: PathBuf,
    /// How many rows of the table of flows one instance may hold, [`hivemind_ebpf::abi::FLOW_SHARE`] by default; 0: all.
    pub flow_share: u32,
}

/// The data plane in the kernel.
#[derive(Debug)]
pub struct BpfDataplane {
    config: DataplaneConfig,
    ebpf: Ebpf,
    maps: Maps,
    shadow: Shadow,
    watch: Watch,
    ring: Option<Ring>,
    captures: Captures,
    packets: Option<PacketRing>,
    tcx: bool,
    sweeps: u32,
    hits: hits::Seen,
    ids: mend::Ids,
    drivers: driver::Drivers,
    /// Where programs of devices are attached.
    attached: BTreeSet<Place>,
    info: DataplaneInfo,
    /// What a daemon of another ABI has attached goes on with its tables until ours are written: where we attach then.
    waiting: Option<Vec<(Place, String)>>,
}

impl BpfDataplane {
    /// Loads the programs onto the pinned maps, or onto new ones, and puts them in the place of those that a former
    /// daemon attached. Call it in the network namespace that is the host's.
    pub fn open(config: DataplaneConfig) -> Result<Self, DataplaneError> {
        Self::open_with(config, OBJECT, attach::has_tcx())
    }

    /// The same with the way of kernels before 6.6, whatever this one has.
    #[cfg(feature = "testkit")]
    pub fn open_without_tcx(config: DataplaneConfig) -> Result<Self, DataplaneError> {
        Self::open_with(config, OBJECT, false)
    }

    /// The same with an object of which something was changed.
    #[cfg(feature = "testkit")]
    pub fn open_changed(config: DataplaneConfig, change: impl FnOnce(&mut [u8])) -> Result<Self, DataplaneError> {
        let mut object = OBJECT.to_vec();
        change(&mut object);
        Self::open_with(config, &object, attach::has_tcx())
    }

    fn open_with(config: DataplaneConfig, object: &[u8], tcx: bool) -> Result<Self, DataplaneError> {
        let object = load::programs(object)?;
        probe::ensure_bpffs(&config.root)?;
        let base = base(&config.root);
        make_folders(&base)?;
        let in_use = !tcx || !attach::list(&base.join("links"))?.is_empty();
        let wants = maps::parse(object)?;
        maps::check_pinned(&base.join("maps"), &wants, in_use)?;
        let former = attach::predecessor(&config.root)?;
        let theirs = former.as_ref().map(|former| kept::take(former, &base, &wants)).transpose()?.flatten();
        let constants = Config { share: config.flow_share, ..constants(&config.network)? };
        let mut loader = EbpfLoader::new();
        loader.override_global(CONFIG, &constants, true);
        for name in map::ALL {
            loader.map_pin_path(name, base.join("maps").join(name));
        }
        let mut ebpf = loader.load(object).map_err(|error| DataplaneError::Kernel {
            what: "support for the data plane's maps",
            why: chain(&error),
        })?;
        load::all(&mut ebpf, &config.log_dir)?;
        #[cfg(feature = "bpf-log")]
        log::read(&mut ebpf);
        let info = info(&ebpf, tcx);
        let ids = mend::Ids::of(&ebpf);
        let mut maps = Maps::take(&mut ebpf)?;
        theirs.map_or(Ok(()), |generation| kept::move_away(&mut maps, generation))?;
        let (ring, watch) = seen::take(&mut ebpf)?;
        let (packets, captures) = packets::take(&mut ebpf)?;
        let shadow = Shadow::read(&mut maps)?;
        let waiting = former.as_ref().map(|_| Vec::new());
        let (ring, packets) = (Some(ring), Some(packets));
        let drivers = driver::Drivers::new(!shadow.nodes().is_empty());
        let mut dataplane = Self {
            config,
            ebpf,
            maps,
            shadow,
            watch,
            ring,
            captures,
            packets,
            tcx,
            sweeps: 0,
            hits: hits::Seen::default(),
            ids,
            drivers,
            attached: BTreeSet::new(),
            info,
            waiting,
        };
        dataplane.take_over(former.as_deref())?;
        if dataplane.waiting.is_none() {
            dataplane.attach_sockets()?;
        }
        Ok(dataplane)
    }

    /// The ring of what the programs tell, once: somebody must read it for those who listen.
    pub fn ring(&mut self) -> Option<Ring> {
        self.ring.take()
    }

    /// The ring of captured packets, once: somebody must read it for those who capture.
    pub fn packets(&mut self) -> Option<PacketRing> {
        self.packets.take()
    }

    /// How the addresses of other nodes are reached, as the maps have it.
    pub fn ways(&self) -> BTreeMap<IpAddr, NodeRow> {
        self.shadow.nodes().iter().map(|(address, way)| (*address, *way)).collect()
    }

    /// How many entries each map holds.
    #[cfg(feature = "testkit")]
    pub fn entries(&self) -> Result<std::collections::BTreeMap<&'static str, usize>, DataplaneError> {
        self.maps.entries()
    }

    /// How many sockets are counted for each backend.
    #[cfg(feature = "testkit")]
    pub fn loads(&self) -> Result<BTreeMap<IpAddr, u64>, DataplaneError> {
        Ok(self.maps.loads.raw_rows()?.into_iter().map(|(addr, load)| (addr.into(), load)).collect())
    }

    fn links(&self) -> PathBuf {
        base(&self.config.root).join("links")
    }
}

/// The folders of pins.
fn make_folders(base: &Path) -> Result<(), DataplaneError> {
    for dir in ["maps", "links"] {
        let path = base.join(dir);
        fs::create_dir_all(&path).map_err(|source| DataplaneError::file("create", &path, source))?;
    }
    Ok(())
}

/// `<root>/v<ABI>`
fn base(root: &Path) -> PathBuf {
    root.join(format!("v{ABI_VERSION}"))
}

fn info(ebpf: &Ebpf, tcx: bool) -> DataplaneInfo {
    let programs = program::all().filter_map(|name| {
        let info = ebpf.program(name)?.info().ok()?;
        Some((name.to_owned(), info.verified_instruction_count().unwrap_or(0)))
    });
    DataplaneInfo {
        abi: ABI_VERSION,
        attach: if tcx { "tcx" } else { "tc" }.into(),
        programs: programs.collect(),
        maps: maps::sizes(ebpf),
        ..DataplaneInfo::default()
    }
}

impl Dataplane for BpfDataplane {
    fn attach(&mut self, id: &InstanceId, link: &HostLink) -> Result<(), DataplaneError> {
        self.attach_device(&Place::From(id.clone()), &link.name)?;
        self.attach_device(&Place::To(id.clone()), &link.name)
    }

    fn detach(&mut self, id: &InstanceId) -> Result<(), DataplaneError> {
        let device = host_device(id);
        self.detach_device(&Place::From(id.clone()), &device)?;
        self.detach_device(&Place::To(id.clone()), &device)
    }

    fn attached(&mut self) -> Result<Vec<InstanceId>, DataplaneError> {
        self.attached_instances()
    }

    fn attach_uplinks(&mut self, devices: &[String]) -> Result<(), DataplaneError> {
        let publish = self.config.publish_device.clone();
        self.attach_device(&Place::Publish, &publish)?;
        let (mut wanted, mut uplinks) = (Vec::new(), Vec::new());
        let before = self.attached.clone();
        for device in devices {
            if !is_ethernet(device) {
                // Its packets take the longer way, by the firewall and `publish_device`.
                tracing::info!(device, "no short way for published ports: not an Ethernet device");
                continue;
            }
            let index = nix::net::if_::if_nametoindex(device.as_str()).map_err(|error| DataplaneError::Attach {
                program: program::FROM_UPLINK,
                to: device.clone(),
                why: error.to_string(),
            })?;
            uplinks.push((device.clone(), index));
            // What goes out first: the answers of what comes in then are known.
            for place in [Place::UplinkOut(index), Place::Uplink(index)] {
                self.attach_device(&place, device)?;
                wanted.push(place);
            }
        }
        if wanted.iter().any(|place| !before.contains(place)) {
            self.shadow.adopt(&mut self.maps)?;
        }
        self.drive_uplinks(uplinks)?;
        if !self.tcx {
            return self.detach_uplinks_but(&wanted);
        }
        for (pin, place) in self.places()? {
            if matches!(place, Place::Uplink(_) | Place::UplinkOut(_)) && !wanted.contains(&place) {
                attach::remove_pin(&pin)?;
                self.attached.remove(&place);
            }
        }
        Ok(())
    }

    fn sync(&mut self, desired: &Tables) -> Result<SyncReport, DataplaneError> {
        let report = self.shadow.sync(&mut self.maps, desired)?;
        if let Some(waiting) = self.waiting.take() {
            self.follow(waiting)?;
        }
        self.drive_for(!desired.nodes.is_empty())?;
        Ok(report)
    }

    fn counters(&mut self) -> Result<Vec<Counter>, DataplaneError> {
        sweep::counters(&self.maps, self.shadow.slots())
    }

    fn rule_hits(&mut self) -> Result<BTreeMap<u32, u64>, DataplaneError> {
        self.hits.read(&self.maps)
    }

    fn round_trips(&mut self) -> Result<Vec<RoundTrips>, DataplaneError> {
        round_trips::read(&self.maps)
    }

    fn uses(&mut self) -> Result<BTreeMap<LimitOwner, Usage>, DataplaneError> {
        Ok(self.shadow.accounts().usage(&self.maps))
    }

    fn flows(&mut self) -> Result<Vec<FlowRecord>, DataplaneError> {
        let clock = seen::Clock::now();
        let rows = self.maps.flows.raw_rows()?;
        Ok(rows.iter().map(|(key, row)| seen::flow(key, row, false, clock)).collect())
    }

    fn drops(&mut self) -> Result<Vec<DropRecord>, DataplaneError> {
        let clock = seen::Clock::now();
        let rows = self.maps.drops.raw_rows()?;
        Ok(rows.iter().filter_map(|(key, row)| seen::dropped(key, row, clock)).collect())
    }

    fn watch(&self) -> Watch {
        self.watch.clone()
    }

    fn captures(&self) -> Captures {
        self.captures.clone()
    }

    fn sweep(&mut self) -> Result<SweepReport, DataplaneError> {
        if self.waiting.is_some() {
            // By empty tables every flow has lost its instance.
            return Ok(SweepReport { repairs: self.mend()?, ..SweepReport::default() });
        }
        let mut report = sweep::flows(&mut self.maps, self.shadow.accounts(), &self.watch)?;
        // Without the list nothing is taken for gone.
        if let Ok(devices) = nix::net::if_::if_nameindex() {
            let devices: BTreeSet<u32> = devices.iter().map(nix::net::if_::Interface::index).collect();
            sweep::retire(&mut self.maps, |index| devices.contains(&index))?;
        }
        sweep::loads(&mut self.maps, &self.shadow.backends())?;
        self.sweeps += 1;
        if self.sweeps >= REPAIR_EVERY {
            self.sweeps = 0;
            round_trips::sweep(&mut self.maps, &self.shadow.classes())?;
            let rules: BTreeSet<u32> = self.shadow.rows().rules.values().map(|rule| rule.number).collect();
            self.hits.retire(&mut self.maps, &rules)?;
            report.repairs.rows = self.shadow.repair(&mut self.maps)?;
        }
        report.repairs += self.mend()?;
        Ok(report)
    }

    fn measure(&mut self) -> Result<Measuring, DataplaneError> {
        let statistics = aya::sys::enable_stats(aya::sys::Stats::RunTime)
            .map_err(|error| DataplaneError::Kernel { what: "measuring of programs", why: chain(&error) })?;
        Ok(Measuring { _statistics: Some(statistics) })
    }

    fn runs(&mut self) -> Result<Vec<ProgramRuns>, DataplaneError> {
        let runs = program::all().filter_map(|name| {
            let info = self.ebpf.program(name)?.info().ok()?;
            Some(ProgramRuns { name: name.to_owned(), runs: info.run_count(), time: info.run_time() })
        });
        Ok(runs.collect())
    }

    fn check(&mut self) -> Result<Vec<Difference>, DataplaneError> {
        let mut all = self.look();
        all.extend(self.shadow.check(&self.maps)?);
        Ok(all)
    }

    fn written(&self) -> Tables {
        self.shadow.rows().clone()
    }

    fn held(&mut self, parts: &[Part]) -> Result<Tables, DataplaneError> {
        held::held(&self.maps, parts)
    }

    fn in_use(&mut self, among: &BTreeSet<IpAddr>) -> Result<BTreeSet<IpAddr>, DataplaneError> {
        sweep::in_use(&self.maps, among)
    }

    fn info(&self) -> DataplaneInfo {
        let (uplinks, paced) = (self.uplinks(), self.shadow.is_paced());
        DataplaneInfo { uplinks, paced, sent_on: self.maps.forwarded(), ..self.info.clone() }
    }

    fn unload(&mut self) -> Result<(), DataplaneError> {
        unload(&self.config.root).map(drop)
    }
}

/// Detaches and removes what any daemon has left below `root`, of every version, and our filters on the devices of the
/// calling thread's network namespace. Returns how many pins there were.
///
/// # Errors
/// If a pin cannot be read or removed.
pub fn unload(root: &Path) -> Result<usize, DataplaneError> {
    let mut pins = 0;
    for version in attach::list(root)? {
        for dir in ["maps", "links"] {
            pins += attach::list(&root.join(&version).join(dir))?.len();
        }
    }
    attach::detach_filters();
    remove_pins(root)?;
    Ok(pins)
}

/// How many instances use the data plane below `root`: those with a pinned link, or, of one without links, those with a
/// device in the calling thread's network namespace.
///
/// # Errors
/// If the pins cannot be listed.
pub fn attached(root: &Path) -> Result<usize, DataplaneError> {
    if !root.exists() {
        return Ok(0);
    }
    let pinned = attach::list(&base(root).join("links"))?;
    let pinned = pinned.iter().filter(|pin| attach::is_instance(pin)).count();
    Ok(if pinned > 0 { pinned } else { attach::instance_devices().len() })
}

/// Removes everything that is pinned below `root`: the kernel ends programs that were attached with a link only.
pub fn remove_pins(root: &Path) -> Result<(), DataplaneError> {
    match fs::remove_dir_all(root) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(DataplaneError::file("remove", root, source))
        }
        _ => Ok(()),
    }
}

/// Whether packets of a device begin with an Ethernet header. If sysfs does not say, it is taken for one.
fn is_ethernet(device: &str) -> bool {
    /// ARPHRD_ETHER
    const ETHERNET: &str = "1";
    fs::read_to_string(format!("/sys/class/net/{device}/type")).map_or(true, |kind| kind.trim() == ETHERNET)
}
