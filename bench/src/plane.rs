//! hivemind's own data plane in a lab: the adapter that the daemon uses, with the lab's folder, cgroup and devices.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use hivemind::{
    dataplane::{
        Dataplane, SyncReport,
        bpf::{BpfDataplane, DataplaneConfig, TestRun},
        tables::Tables,
    },
    model::{Addresses, InstanceId},
    net::{HostLink, Mac, NodeNet},
};

use hivemind_ebpf::program;

use crate::{
    lab::{GATEWAY, HOST_ENDS, Lab, MACS, Netns},
    supervisor::Run,
    watched::Watcher,
};

/// The ids of client and server.
const IDS: [u64; 2] = [1, 2];

/// The data plane, attached to a lab.
#[derive(Debug)]
pub(crate) struct Plane {
    node: Netns,
    inner: BpfDataplane,
}

impl Plane {
    /// Loads the programs in `node`, or takes over what is pinned. Processes in `cgroup` reach services through sockets.
    pub(crate) fn open(run: &Run, tag: &str, node: &Netns, cgroup: &Path) -> Result<Self> {
        let config = DataplaneConfig {
            root: run.pins().join(tag),
            cgroup: cgroup.to_owned(),
            network: network()?,
            publish_device: String::new(),
            log_dir: log_dir(run, tag)?,
            flow_share: 0,
        };
        fs::create_dir_all(&config.root).with_context(|| format!("cannot make {}", config.root.display()))?;
        let inner = node.enter(|| BpfDataplane::open(config).context("cannot open the data plane"))?;
        Ok(Self { node: node.clone(), inner })
    }

    /// Attaches the programs to a lab's devices, anew if they are.
    pub(crate) fn attach(&mut self, lab: &Lab) -> Result<()> {
        let ends = lab.host_ends()?;
        let netns = [&lab.client, &lab.server];
        for i in 0..IDS.len() {
            let [host_mac, instance_mac] = MACS[i].map(Mac);
            let name = HOST_ENDS[i].to_owned();
            let link = HostLink { netns: netns[i].path(), name, ifindex: ends[i], host_mac, instance_mac };
            let inner = &mut self.inner;
            self.node.enter(|| inner.attach(&InstanceId::from_bits(IDS[i]), &link).context("cannot attach"))?;
        }
        Ok(())
    }

    /// Writes what differs from `tables`.
    pub(crate) fn sync(&mut self, tables: &Tables) -> Result<SyncReport> {
        self.inner.sync(tables).context("cannot write the tables")
    }

    /// Has somebody listen to what the programs tell, once; `cpu`: on this one only.
    pub(crate) fn listen(&mut self, cpu: Option<usize>) -> Result<Watcher> {
        let ring = self.inner.ring().context("somebody listens already")?;
        Watcher::start(ring, self.inner.watch(), cpu)
    }

    /// Name, entries and bytes of every map, as they were when it was opened.
    pub(crate) fn maps(&self) -> Vec<(String, u32, u64)> {
        self.inner.info().maps
    }

    /// Shows a packet to the program of the instances' host devices, as one that came by the device `ifindex`.
    pub(crate) fn show(&self, packet: &[u8], ifindex: u32, repeat: u32) -> Result<TestRun> {
        let run = self.inner.test_run(program::FROM_CONTAINER, packet, ifindex, repeat);
        run.context("cannot show a packet to the program")
    }

    /// Works with the data plane where it is.
    pub(crate) fn inside<T: Send>(&mut self, work: impl FnOnce(&mut BpfDataplane) -> Result<T> + Send) -> Result<T> {
        let inner = &mut self.inner;
        self.node.enter(|| work(inner))
    }
}

fn log_dir(run: &Run, tag: &str) -> Result<PathBuf> {
    let path = run.files().join(tag);
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

/// The default ranges, of `docs/ARCHITECTURE.md`.
fn network() -> Result<NodeNet> {
    Ok(NodeNet {
        instances_v4: Some("10.88.0.0/16".parse()?),
        instances_v6: Some("fd68:6d00:0:1::/64".parse()?),
        services_v4: Some("10.96.0.0/16".parse()?),
        services_v6: Some("fd68:6d00:0:2::/112".parse()?),
        gateway: Addresses { v4: Some(GATEWAY.0), v6: Some(GATEWAY.1) },
    })
}
