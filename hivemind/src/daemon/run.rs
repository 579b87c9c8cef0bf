//! Starts everything in order, runs until told to stop, and leaves containers, links and the data plane as they are.

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    DaemonConfig,
    local::LocalUpstream,
    memory, named, needs,
    prepare::{Prepared, prepare, store_problem},
    service,
};
use crate::{
    agent::{
        Agent,
        datapath::{self, Datapath},
        host_names,
        images::ImageKeeper,
        node::{self, NodeKeeper},
        registries::RegistryWatch,
        upstream::Upstream,
    },
    api::{self, ApiState, auth::Token},
    control::{self, ControlConfig},
    dns::{DnsTable, Resolved},
    lifecycle::{
        clock,
        readiness::{BlockReady, Readiness},
    },
    model::{ErrorCode, Node, NodeDesired, Problem},
    observe::{Events, Metrics},
    runtime::{ContainerdRuntime, ImageStore, Runtime},
    schedule::ServiceRanges,
    storage::Storage,
};

/// Answers that may wait to be taken in.
const RESOLVED: usize = 512;

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// If something it needs is missing or taken; then nothing that it began is left.
pub async fn run(config: DaemonConfig) -> Result<(), Problem> {
    needs::check(&config)?;
    named::check(&config)?;
    let readiness = Readiness::default();
    let block = readiness.block("start");
    // Before anything is written: the folders may be those of the daemon that runs.
    api::ensure_alone(&config.socket)?;
    for dir in [&config.state_dir, &config.run_dir] {
        private_dir(dir)?;
    }
    let token_path = config.state_dir.join("api-token");
    let token = Token::read_or_create(&token_path).map_err(|error| file("write", &token_path, &error))?;
    // The listeners come first: they are what tells two daemons apart, and a taken port is the commonest mistake.
    let listeners = api::bind(&config.socket, Some((config.listen, token))).await?;

    serve(&config, listeners, readiness, block).await
}

async fn serve(
    config: &DaemonConfig,
    listeners: api::Listeners,
    readiness: Readiness,
    block: BlockReady,
) -> Result<(), Problem> {
    let network = config.network();
    let (names, table) = watch::channel(Arc::new(DnsTable::default()));
    let (opener, resolved) = mpsc::channel(RESOLVED);
    let Prepared { runtime, rows, net, mut dns, mut dataplane, in_place } =
        prepare(config, &network, table, opener).await?;
    // Not earlier: a start that fails leaves nothing.
    private_dir(&config.run_dir.join(Storage::MOUNTS))?;
    let internal = |error: std::io::Error| Problem::new(ErrorCode::Internal, error.to_string());
    let (ring, packets) = (dataplane.ring(), dataplane.packets());
    let (datapath, thread) =
        datapath::start(Box::new(dataplane), config.node_name.clone(), in_place, config.failsafe.clone())
            .map_err(internal)?;

    let events = Events::default();
    let services = ServiceRanges { v4: network.services_v4, v6: network.services_v6 };
    let (control, control_loop) =
        control::start(rows, ControlConfig { services }, events.clone()).await.map_err(store_problem)?;
    let upstream: Arc<dyn Upstream> =
        Arc::new(LocalUpstream { control: control.clone(), node: config.node_name.clone() });
    let (desired, told) = watch::channel(Arc::new(NodeDesired::default()));

    let metrics = Metrics::default();
    let keeper = NodeKeeper {
        node: Node {
            name: config.node_name.clone(),
            instances_v4: network.instances_v4,
            instances_v6: network.instances_v6,
            created_at: clock::now(),
        },
        network: network.clone(),
        uplinks: config.uplinks.clone(),
        desired: told.clone(),
        net: Arc::clone(&net),
        datapath: datapath.clone(),
        runtime: Arc::clone(&runtime) as Arc<dyn Runtime>,
        upstream: Arc::clone(&upstream),
        events: events.clone(),
        metrics: metrics.clone(),
        facts: node::facts(),
    };
    let storage = Storage::new(&config.state_dir, &config.run_dir);
    let agent = Agent {
        storage: storage.clone(),
        upstream,
        runtime: Arc::clone(&runtime) as Arc<dyn Runtime>,
        net,
        datapath: datapath.clone(),
        events: events.clone(),
        node: config.node_name.clone(),
        metrics: metrics.clone(),
        gateway: network.gateway,
        ranges: network.instances().collect(),
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
    let (looked_up, lookups, least) = (datapath.names_of_host(), dns.lookups(), config.dns_least_ttl);
    tasks.spawn(async move {
        host_names::run(looked_up, lookups, least).await;
        "host names"
    });
    tasks.spawn(async move {
        dns.ended().await;
        "dns"
    });
    if let Some(ring) = ring {
        tasks.spawn(async move { match ring.run().await {} });
    }
    if let Some(packets) = packets {
        tasks.spawn(async move {
            let error = packets.run().await;
            tracing::error!(%error, "captured packets cannot be read");
            "captures"
        });
    }
    tasks.spawn(follow_names(told.clone(), names, DnsTable::of(network.ranges())));
    tasks.spawn(open_names(resolved, datapath.clone()));
    let (node, failsafe) = (config.node_name.clone(), config.failsafe.clone());
    let images: Arc<dyn ImageStore> = Arc::<ContainerdRuntime>::clone(&runtime);
    let images_kept = ImageKeeper {
        images: Arc::clone(&images),
        desired: told.clone(),
        node: config.node_name.clone(),
        events: events.clone(),
        metrics: metrics.clone(),
        marks: config.image_marks,
    };
    tasks.spawn(async move {
        images_kept.run().await;
        "images"
    });
    let registries = RegistryWatch {
        notices: images.notices(),
        node: config.node_name.clone(),
        events: events.clone(),
        metrics: metrics.clone(),
    };
    tasks.spawn(async move {
        registries.run().await;
        "registries"
    });
    let (of_control, of_datapath) = (control.clone(), datapath.clone());
    tasks.spawn(async move {
        // Whatever they answer: what counts is that they do.
        let alive = || async {
            let _ = of_control.report(Vec::new()).await;
            let _ = of_datapath.info().await;
        };
        match service::watch(alive).await {}
    });
    let state = ApiState { node, control, runtime, images, datapath, events, metrics, readiness, failsafe, storage };
    let mut api = AbortOnDropHandle::new(tokio::spawn(api::serve(listeners, state, stopped)));
    tasks.spawn(async move {
        // Ready when the node is registered and everything it was told about has been taken in.
        let mut told = told;
        let _ = first_round.wait_for(|done| *done).await;
        let _ = told.wait_for(|desired| desired.revision > 0).await;
        drop(block);
        service::ready();
        memory::give_back().await
    });

    let ended = tokio::select! {
        () = stop_signal() => None,
        ended = tasks.join_next() => ended,
        ended = &mut api => Some(ended.map(|()| "api")),
    };
    service::stopping();
    stop.send_replace(true);
    // The API first: open requests get their answers, within the time it gives them.
    if !api.is_finished() {
        let _ = api.await;
    }
    // The others are safe to cancel at any moment, as kill -9 would.
    tasks.shutdown().await;
    thread.stop();
    match ended {
        None => {
            tracing::info!("stopped; containers go on");
            Ok(())
        }
        Some(Ok(name)) => Err(Problem::new(ErrorCode::Internal, format!("the {name} task has ended"))),
        Some(Err(error)) => Err(Problem::new(ErrorCode::Internal, format!("a task has panicked: {error}"))),
    }
}

/// Hands what instances are told of names to the data plane.
async fn open_names(mut resolved: mpsc::Receiver<Resolved>, datapath: Datapath) -> &'static str {
    while let Some(resolved) = resolved.recv().await {
        datapath.resolved(resolved);
    }
    "opener"
}

/// Keeps the table of names in step with what the node is told.
async fn follow_names(
    mut told: watch::Receiver<Arc<NodeDesired>>,
    names: watch::Sender<Arc<DnsTable>>,
    mut table: DnsTable,
) -> &'static str {
    loop {
        let desired = told.borrow_and_update().clone();
        if table.follow(&desired) {
            names.send_replace(Arc::new(table.clone()));
        }
        if told.changed().await.is_err() {
            return "names";
        }
    }
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
