//! What the daemon needs of the machine: looked at first, then made; undone again if the start does not succeed.

use std::{fs, path::PathBuf, sync::Arc};

use ipnet::IpNet;
use tokio::sync::{mpsc, watch};

use super::{DaemonConfig, named, needs};
use crate::{
    agent::{self, datapath::InPlace, hosts::HostNames},
    control::{self, Loaded},
    dataplane::{
        Dataplane, DataplaneError,
        bpf::{self, BpfDataplane, DataplaneConfig},
    },
    dns::{DnsConfig, DnsServer, DnsTable, Resolved},
    model::{ErrorCode, InstanceId, Problem},
    net::{
        HostLink, Net, NetError, NodeNet, PUBLISH_DEVICE,
        linux::{LinuxNet, NetConfig},
    },
    runtime::{ContainerdRuntime, Runtime, RuntimeConfig},
    store::{RedbStore, StoreError},
};

/// The port of the name server.
const DNS_PORT: u16 = 53;

/// The adapters, ready to be used.
pub(super) struct Prepared {
    pub(super) runtime: Arc<ContainerdRuntime>,
    pub(super) rows: Loaded,
    pub(super) net: Arc<dyn Net>,
    pub(super) dns: DnsServer,
    pub(super) dataplane: BpfDataplane,
    pub(super) in_place: InPlace,
}

/// Everything that can fail without a trace comes first. What a former daemon left (instances run on without one) is
/// taken over, and stays if this start fails; what this start made of a machine without instances does not.
pub(super) async fn prepare(
    config: &DaemonConfig,
    network: &NodeNet,
    names: watch::Receiver<Arc<DnsTable>>,
    opener: mpsc::Sender<Resolved>,
) -> Result<Prepared, Problem> {
    let runtime = runtime(config).await?;
    let cgroup = cgroup(config)?;
    let net = LinuxNet::new(NetConfig::new(config.run_dir.join("netns"))).map_err(network_problem)?;
    net.check_ranges(network).await.map_err(network_problem)?;
    let store = RedbStore::open(config.state_dir.join("store.redb")).await.map_err(store_problem)?;
    let rows = control::load(Arc::new(store)).await?;
    named::check_ranges(&rows, network)?;
    let links = net.list_links().await.map_err(network_problem)?;
    if !config.remove_unknown {
        refuse_to_forget(&rows, &*runtime, &links, config).await?;
    }
    let made = make(config, network, cgroup, &net, names, opener).await;
    if made.is_err() && links.is_empty() {
        if let Err(error) = net.remove_node().await {
            tracing::warn!(%error, "what the start made of the network is left");
        }
        if let Err(error) = bpf::remove_pins(&config.bpf_root) {
            tracing::warn!(%error, "what the start made of the data plane is left");
        }
    }
    let (dns, mut dataplane) = made?;
    let attached = dataplane.attached().map_err(dataplane_problem)?;
    let whole = links.into_iter().filter_map(|(id, link)| Some((id, link?)));
    let in_place = InPlace {
        links: whole.filter(|(id, _)| attached.contains(id)).collect(),
        addresses: net
            .node_addresses()
            .await
            .map_err(network_problem)?
            .into_iter()
            .chain(network.gateways().map(IpNet::from))
            .collect(),
        ways: dataplane.ways(),
        hosts: HostNames::open(
            config.state_dir.join("hosts.json"),
            config.dns_least_ttl,
            network.ranges().collect(),
            network.gateways().collect(),
        ),
    };
    Ok(Prepared { runtime, rows, net: Arc::new(net), dns, dataplane, in_place })
}

/// An empty store on a machine with instances is a lost one, or one that is not mounted: to go by it would remove them.
async fn refuse_to_forget(
    rows: &Loaded,
    runtime: &dyn Runtime,
    links: &[(InstanceId, Option<HostLink>)],
    config: &DaemonConfig,
) -> Result<(), Problem> {
    if rows.revision() > 0 {
        return Ok(());
    }
    let containers = runtime.list().await.map_err(|error| Problem::new(error.code(), error.to_string()))?;
    let ours = containers.iter().filter(|container| agent::is_ours(container)).count().max(links.len());
    if ours == 0 {
        return Ok(());
    }
    let dir = config.state_dir.display();
    let title = format!("the store in {dir} is new, but {ours} instances of an earlier one are on this machine");
    Err(Problem::new(ErrorCode::StoreLost, title)
        .detail("they go on as they are; this daemon would remove them")
        .hint("findmnt -T the directory; or name the right one with --state-dir; or, to remove them: --remove-unknown"))
}

async fn make(
    config: &DaemonConfig,
    network: &NodeNet,
    cgroup: PathBuf,
    net: &LinuxNet,
    names: watch::Receiver<Arc<DnsTable>>,
    opener: mpsc::Sender<Resolved>,
) -> Result<(DnsServer, BpfDataplane), Problem> {
    net.ensure_node(network).await.map_err(network_problem)?;
    let dns = DnsConfig {
        clients: network.instance_ranges().collect(),
        upstreams: config.dns_upstreams.clone(),
        opener: Some(opener),
        ..DnsConfig::new(config.name_servers().into_iter().map(|ip| (ip, DNS_PORT).into()).collect())
    };
    let dns = DnsServer::start(&dns, names)
        .await
        .map_err(|error| Problem::new(ErrorCode::PortTaken, error.to_string()).hint("hivemind doctor"))?;
    let dataplane = BpfDataplane::open(DataplaneConfig {
        root: config.bpf_root.clone(),
        cgroup,
        network: network.clone(),
        publish_device: PUBLISH_DEVICE.into(),
        log_dir: config.state_dir.join("verifier"),
        flow_share: hivemind_ebpf::abi::FLOW_SHARE,
    })
    .map_err(dataplane_problem)?;
    Ok((dns, dataplane))
}

pub(super) async fn runtime(config: &DaemonConfig) -> Result<Arc<ContainerdRuntime>, Problem> {
    let problem = |error: crate::runtime::RuntimeError| {
        Problem::new(ErrorCode::NoContainerd, error.to_string())
            .hint("systemctl start containerd   (or name its socket with --containerd-socket)")
    };
    let binary = std::env::current_exe()
        .map_err(|error| Problem::new(ErrorCode::Internal, format!("this program's own path is not known: {error}")))?;
    let runtime = ContainerdRuntime::connect(RuntimeConfig {
        socket: config.containerd_socket.clone(),
        namespace: config.containerd_namespace.clone(),
        log_dir: config.state_dir.join("logs"),
        files_dir: config.state_dir.join("containers"),
        log_writer: binary,
        cgroup_parent: config.cgroup_parent.clone(),
        plain_http_registries: config.plain_http_registries.clone(),
        registry_auth: config.registry_auth.clone(),
        registry_ca: config.registry_ca.clone(),
        registry_mirrors: config.registry_mirrors.clone(),
        ..RuntimeConfig::default()
    })
    .map_err(problem)?;
    let version = runtime.version().await.map_err(problem)?;
    tracing::info!(version, "containerd answers");
    Ok(Arc::new(runtime))
}

/// The cgroup2 folder for the socket programs: the configured one, or the root of the tree.
fn cgroup(config: &DaemonConfig) -> Result<PathBuf, Problem> {
    if let Some(path) = &config.cgroup_root {
        if needs::is_cgroup2(path) {
            return Ok(path.clone());
        }
        let title = format!("{} is no folder of a cgroup2 tree", path.display());
        return Err(Problem::new(ErrorCode::Kernel, title).hint("name one with --cgroup-root, or leave it out"));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let point = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - cgroup2 ")?;
        let _ = after;
        before.split(' ').nth(4)
    });
    point.map(PathBuf::from).ok_or_else(|| {
        Problem::new(ErrorCode::Kernel, "no cgroup2 tree is mounted").hint("mount -t cgroup2 none /sys/fs/cgroup")
    })
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn network_problem(error: NetError) -> Problem {
    Problem::new(error.code(), error.to_string()).hint("hivemind doctor")
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn dataplane_problem(error: DataplaneError) -> Problem {
    Problem::new(error.code(), error.to_string()).hint("hivemind doctor")
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn store_problem(error: StoreError) -> Problem {
    Problem::new(error.code(), error.to_string())
}
