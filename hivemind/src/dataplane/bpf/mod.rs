//! The adapter to the kernel: loads, pins, attaches and takes over, with aya.
//!
//! Everything is pinned under `<root>/v<ABI>/`: maps in `maps/`, links in `links/`. A new daemon finds them there,
//! checks that each map is what it needs, loads its own programs onto the same maps, and puts them in the place of the
//! old ones link by link, each in one step: no packet passes unseen and none is lost.

mod attach;
mod link;
mod maps;
mod sync;

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use aya::{Ebpf, EbpfLoader};
use hivemind_ebpf::{
    ABI_VERSION, CONFIG,
    abi::{Addr, Config, Range},
    map, program,
};

use super::{Counter, Dataplane, DataplaneError, DataplaneInfo, SweepReport, SyncReport, tables::Tables};
use crate::{
    model::InstanceId,
    net::{HostLink, NodeNet},
};
use maps::Maps;
use sync::Shadow;

/// The object that this binary was built with; empty without the BPF toolchain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/hivemind-ebpf"));

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
}

/// The data plane in the kernel.
#[derive(Debug)]
pub struct BpfDataplane {
    config: DataplaneConfig,
    ebpf: Ebpf,
    maps: Maps,
    shadow: Shadow,
    /// Devices with the uplink's program.
    uplinks: BTreeSet<String>,
    info: DataplaneInfo,
}

impl BpfDataplane {
    /// Loads the programs onto the pinned maps, or onto new ones, and takes over what is attached. The devices of
    /// instances are taken over one by one with [`Dataplane::attach`].
    pub fn open(config: DataplaneConfig) -> Result<Self, DataplaneError> {
        if OBJECT.is_empty() {
            return Err(DataplaneError::Stub);
        }
        let base = base(&config.root);
        for dir in ["maps", "links"] {
            let path = base.join(dir);
            fs::create_dir_all(&path).map_err(|source| DataplaneError::File { action: "create", path, source })?;
        }
        maps::check_pinned(&base.join("maps"), OBJECT)?;
        let constants = constants(&config.network);
        let mut loader = EbpfLoader::new();
        loader.override_global(CONFIG, &constants, true);
        for name in map::ALL {
            loader.map_pin_path(name, base.join("maps").join(name));
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| DataplaneError::Kernel {
            what: "support for the data plane's maps",
            why: chain(&error),
        })?;
        attach::load_programs(&mut ebpf, &config.log_dir)?;
        let info = info(&ebpf);
        let maps = Maps::take(&mut ebpf)?;
        let shadow = Shadow::read(&maps)?;
        let mut dataplane = Self { config, ebpf, maps, shadow, uplinks: BTreeSet::new(), info };
        dataplane.attach_sockets()?;
        Ok(dataplane)
    }

    /// Runs a device's program on one packet that seems to have come by the interface `ifindex`, without sending
    /// anything. Returns the verdict and the packet as it is afterwards.
    #[cfg(feature = "testkit")]
    pub fn test_run(&self, name: &str, packet: &[u8], ifindex: u32) -> Result<(i32, Vec<u8>), DataplaneError> {
        use aya::{TestRun, TestRunOptions, programs::Program};
        let fail = |why| DataplaneError::Kernel { what: "a test run of a program", why };
        let Some(Program::SchedClassifier(program)) = self.ebpf.program(name) else {
            return Err(fail(format!("{name} is not a device's program")));
        };
        // `struct __sk_buff`: the interface index is its eleventh word.
        let mut context = [0u8; 192];
        context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
        let mut out = vec![0; packet.len() + 256];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = program.test_run(options).map_err(|error| fail(chain(&error)))?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value.cast_signed(), out))
    }

    fn links(&self) -> PathBuf {
        base(&self.config.root).join("links")
    }
}

/// `<root>/v<ABI>`
fn base(root: &Path) -> PathBuf {
    root.join(format!("v{ABI_VERSION}"))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

fn constants(network: &NodeNet) -> Config {
    let range = |net: Option<ipnet::IpNet>| {
        net.map_or(Range::NONE, |net| {
            let mask = match net {
                // The 96 bits before an IPv4 address must match as well.
                ipnet::IpNet::V4(net) => {
                    let Addr { words_be } = Addr::from(IpAddr::V4(net.netmask()));
                    Addr { words_be: [u32::MAX, u32::MAX, u32::MAX, words_be[3]] }
                }
                ipnet::IpNet::V6(net) => Addr::from(IpAddr::V6(net.netmask())),
            };
            Range { network: Addr::from(net.network()), mask }
        })
    };
    let own = |address: Option<IpAddr>| address.map_or(Addr::default(), Addr::from);
    Config {
        host_netns: netns_cookie(),
        services: [range(network.services_v4.map(Into::into)), range(network.services_v6.map(Into::into))],
        instances: [range(network.instances_v4.map(Into::into)), range(network.instances_v6.map(Into::into))],
        gateways: [own(network.gateway.v4.map(Into::into)), own(network.gateway.v6.map(Into::into))],
    }
}

/// The cookie of this thread's network namespace; 0, which no namespace has, if the kernel does not say.
fn netns_cookie() -> u64 {
    use std::os::fd::AsRawFd;
    /// SO_NETNS_COOKIE of asm-generic/socket.h, Linux 5.14 (e8b9eab99232).
    const SO_NETNS_COOKIE: i32 = 71;
    let Ok(socket) = std::net::UdpSocket::bind("127.0.0.1:0") else { return 0 };
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option writes at most `length` bytes to `cookie`, which has as many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { cookie } else { 0 }
}

fn info(ebpf: &Ebpf) -> DataplaneInfo {
    let names = program::DEVICE.iter().chain(&program::SOCKET);
    let programs = names.filter_map(|name| {
        let info = ebpf.program(name)?.info().ok()?;
        Some(((*name).to_owned(), info.verified_instruction_count().unwrap_or(0)))
    });
    DataplaneInfo {
        abi: ABI_VERSION,
        attach: if attach::has_tcx() { "tcx" } else { "tc" }.into(),
        programs: programs.collect(),
        maps: maps::sizes(ebpf),
    }
}

impl Dataplane for BpfDataplane {
    fn attach(&mut self, id: &InstanceId, link: &HostLink) -> Result<(), DataplaneError> {
        self.attach_device(program::FROM_CONTAINER, &format!("{id}-from"), &link.name)?;
        self.attach_device(program::TO_CONTAINER, &format!("{id}-to"), &link.name)
    }

    fn detach(&mut self, id: &InstanceId) -> Result<(), DataplaneError> {
        self.unpin_link(&format!("{id}-from"))?;
        self.unpin_link(&format!("{id}-to"))
    }

    fn attached(&mut self) -> Result<Vec<InstanceId>, DataplaneError> {
        let path = self.links();
        let entries = fs::read_dir(&path).map_err(|source| DataplaneError::File { action: "list", path, source })?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.strip_suffix("-from")?.parse().ok()).collect())
    }

    fn attach_uplinks(&mut self, devices: &[String]) -> Result<(), DataplaneError> {
        let publish = self.config.publish_device.clone();
        self.attach_device(program::PUB_SELECT, "publish", &publish)?;
        let wanted: BTreeSet<String> = devices.iter().cloned().collect();
        for device in self.uplinks.difference(&wanted).cloned().collect::<Vec<_>>() {
            self.unpin_link(&format!("uplink-{device}"))?;
            self.uplinks.remove(&device);
        }
        for device in wanted {
            self.attach_device(program::FROM_UPLINK, &format!("uplink-{device}"), &device)?;
            self.uplinks.insert(device);
        }
        Ok(())
    }

    fn sync(&mut self, desired: &Tables) -> Result<SyncReport, DataplaneError> {
        self.shadow.sync(&mut self.maps, desired)
    }

    fn counters(&mut self) -> Result<Vec<Counter>, DataplaneError> {
        self.maps.counters()
    }

    fn sweep(&mut self) -> Result<SweepReport, DataplaneError> {
        self.maps.sweep()
    }

    fn info(&self) -> DataplaneInfo {
        self.info.clone()
    }

    fn unload(&mut self) -> Result<(), DataplaneError> {
        let path = self.links();
        let entries = fs::read_dir(&path).map_err(|source| DataplaneError::File { action: "list", path, source })?;
        for entry in entries.flatten() {
            if let Ok(name) = entry.file_name().into_string() {
                self.unpin_link(&name)?;
            }
        }
        let path = self.config.root.clone();
        fs::remove_dir_all(&path).map_err(|source| DataplaneError::File { action: "remove", path, source })
    }
}
