//! Starts everything in order, runs until told to stop, and leaves containers, links and the data plane as they are.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use super::{DaemonConfig, local::LocalUpstream};
use crate::{
    agent::{
        Agent, datapath,
        node::{self, NodeKeeper},
        upstream::Upstream,
    },
    api::{self, ApiState, auth::Token},
    control::{self, ControlConfig},
    dataplane::{
        DataplaneError,
        bpf::{BpfDataplane, DataplaneConfig},
    },
    dns::{DnsConfig, DnsServer, DnsTable},
    lifecycle::{clock, readiness::Readiness},
    model::{ErrorCode, Node, NodeDesired, Problem},
    net::{
        Net, NetError,
        linux::{LinuxNet, NetConfig},
    },
    observe::{Events, Metrics},
    runtime::{ContainerdRuntime, Runtime, RuntimeConfig},
    schedule::ServiceRanges,
    store::{RedbStore, StoreError},
};

/// The port of the name server.
const DNS_PORT: u16 = 53;

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// If something it needs is missing or taken; then nothing that it began is left.
pub async fn run(config: DaemonConfig) -> Result<(), Problem> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Problem::new(ErrorCode::NotRoot, "the daemon needs root").hint("sudo hivemind daemon"));
    }
    let readiness = Readiness::default();
    let block = readiness.block("start");
    for dir in [&config.state_dir, &config.run_dir] {
        private_dir(dir)?;
    }
    let token_path = config.state_dir.join("api-token");
    let token = Token::read_or_create(&token_path).map_err(|error| file("write", &token_path, &error))?;
    // The listeners come first: they are what tells two daemons apart, and a taken port is the commonest mistake.
    let listeners = api::bind(&config.socket, Some((config.listen, token))).await?;

    let runtime = runtime(&config).await?;
    let network = config.network();
    let net = LinuxNet::new(NetConfig::new(config.run_dir.join("netns"))).map_err(network_problem)?;
    net.check_ranges(&network).await.map_err(network_problem)?;
    net.ensure_node(&network).await.map_err(network_problem)?;
    let net: Arc<dyn Net> = Arc::new(net);

    let dataplane = BpfDataplane::open(DataplaneConfig {
        root: config.bpf_root.clone(),
        cgroup: cgroup(&config)?,
        network: network.clone(),
        publish_device: "hm-pub".into(),
        log_dir: config.state_dir.join("verifier"),
    })
    .map_err(dataplane_problem)?;
    let internal = |error: std::io::Error| Problem::new(ErrorCode::Internal, error.to_string());
    let (datapath, thread) = datapath::start(Box::new(dataplane), config.node_name.clone()).map_err(internal)?;

    let events = Events::default();
    let store = RedbStore::open(config.state_dir.join("store.redb")).await.map_err(store_problem)?;
    let services = ServiceRanges { v4: network.services_v4, v6: network.services_v6 };
    let (control, control_loop) =
        control::start(Arc::new(store), ControlConfig { services }, events.clone()).await.map_err(store_problem)?;
    let upstream: Arc<dyn Upstream> =
        Arc::new(LocalUpstream { control: control.clone(), node: config.node_name.clone() });

    let (desired, told) = watch::channel(Arc::new(NodeDesired::default()));
    let dns = DnsConfig {
        clients: network.instance_ranges().collect(),
        upstreams: config.dns_upstreams.clone(),
        ..DnsConfig::new(config.name_servers().into_iter().map(|ip| (ip, DNS_PORT).into()).collect())
    };
    let (names, table) = watch::channel(Arc::new(DnsTable::default()));
    let mut dns = DnsServer::start(&dns, table)
        .await
        .map_err(|error| Problem::new(ErrorCode::PortTaken, error.to_string()).hint("hivemind doctor"))?;

    let keeper = NodeKeeper {
        node: Node {
            name: config.node_name.clone(),
            instances_v4: network.instances_v4,
            instances_v6: network.instances_v6,
            created_at: clock::now(),
        },
        network: network.clone(),
        uplinks: config.uplinks.clone(),
        net: Arc::clone(&net),
        datapath: datapath.clone(),
        runtime: Arc::clone(&runtime),
        upstream: Arc::clone(&upstream),
        events: events.clone(),
        facts: node::facts(),
    };
    let agent = Agent {
        upstream,
        runtime: Arc::clone(&runtime),
        net,
        datapath: datapath.clone(),
        events: events.clone(),
        gateway: network.gateway,
        parallel: std::thread::available_parallelism().map_or(4, |n| n.get() * 2),
    };

    let (stop, stopped) = watch::channel(false);
    let (registered, mut first_round) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        if let Err(error) = control_loop.await {
            tracing::error!(%error, "the control loop has ended");
        }
        "control"
    });
    tasks.spawn(async move {
        keeper.run(registered).await;
        "node"
    });
    tasks.spawn(async move {
        agent.run(desired).await;
        "agent"
    });
    tasks.spawn(async move {
        dns.ended().await;
        "dns"
    });
    tasks.spawn(follow_names(told.clone(), names));
    let node = config.node_name.clone();
    let state = ApiState { node, control, runtime, datapath, events, metrics: Metrics::default(), readiness };
    tasks.spawn(async move {
        api::serve(listeners, state, stopped).await;
        "api"
    });
    tasks.spawn(async move {
        // Ready when the node is registered and everything it was told about has been taken in.
        let mut told = told;
        let _ = first_round.wait_for(|done| *done).await;
        let _ = told.wait_for(|desired| desired.revision > 0).await;
        drop(block);
        std::future::pending::<&str>().await
    });

    let ended = tokio::select! {
        () = stop_signal() => None,
        ended = tasks.join_next() => ended,
    };
    stop.send_replace(true);
    // The API ends its streams; the others are safe to cancel at any moment, as kill -9 would.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    tasks.shutdown().await;
    thread.stop();
    let _ = fs::remove_file(&config.socket);
    match ended {
        None => {
            tracing::info!("stopped; containers go on");
            Ok(())
        }
        Some(Ok(name)) => Err(Problem::new(ErrorCode::Internal, format!("the {name} task has ended"))),
        Some(Err(error)) => Err(Problem::new(ErrorCode::Internal, format!("a task has panicked: {error}"))),
    }
}

/// Rebuilds the table of names whenever the node is told something new.
async fn follow_names(
    mut told: watch::Receiver<Arc<NodeDesired>>,
    names: watch::Sender<Arc<DnsTable>>,
) -> &'static str {
    loop {
        let desired = told.borrow_and_update().clone();
        let table = DnsTable::new(&desired);
        names.send_if_modified(|before| {
            let differs = **before != table;
            if differs {
                *before = Arc::new(table);
            }
            differs
        });
        if told.changed().await.is_err() {
            return "names";
        }
    }
}

async fn runtime(config: &DaemonConfig) -> Result<Arc<dyn Runtime>, Problem> {
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
        run_dir: config.run_dir.join("containers"),
        log_writer: binary,
        cgroup_parent: config.cgroup_parent.clone(),
        plain_http_registries: config.plain_http_registries.clone(),
        registry_auth: config.registry_auth.clone(),
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
        return Ok(path.clone());
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

fn private_dir(dir: &std::path::Path) -> Result<(), Problem> {
    fs::create_dir_all(dir).map_err(|error| file("create", dir, &error))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(|error| file("set permissions of", dir, &error))
}

fn file(action: &str, path: &std::path::Path, error: &std::io::Error) -> Problem {
    let full = error.raw_os_error() == Some(nix::libc::ENOSPC);
    let code = if full { ErrorCode::DiskFull } else { ErrorCode::Internal };
    Problem::new(code, format!("cannot {action} {}: {error}", path.display()))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn network_problem(error: NetError) -> Problem {
    let code = if matches!(error, NetError::Overlaps(_)) { ErrorCode::RangeOverlap } else { ErrorCode::Network };
    Problem::new(code, error.to_string()).hint("hivemind doctor")
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn dataplane_problem(error: DataplaneError) -> Problem {
    let code = match &error {
        DataplaneError::Stub => ErrorCode::NoPrograms,
        DataplaneError::Kernel { .. } => ErrorCode::Kernel,
        DataplaneError::Full { .. } => ErrorCode::MapFull,
        _ => ErrorCode::Dataplane,
    };
    Problem::new(code, error.to_string()).hint("hivemind doctor")
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn store_problem(error: StoreError) -> Problem {
    let code = match &error {
        StoreError::NewerSchema { .. } => ErrorCode::StoreVersion,
        StoreError::DiskFull { .. } => ErrorCode::DiskFull,
        _ => ErrorCode::Store,
    };
    Problem::new(code, error.to_string())
}

/// Waits for SIGTERM or SIGINT.
async fn stop_signal() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        // Without handlers the signals end the process at once, which is safe.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
