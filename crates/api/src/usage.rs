//! What instances use: their processes, CPU time, memory, traffic and block I/O.

use std::collections::{BTreeMap, HashMap};

use axum::{Json as Body, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState,
    extract::{Args, InScope, Named},
    instances::{InContainer, container_of, find, pid_of},
    problem::ApiError,
    tenants::OfTenant,
};
use hivemind_core::{
    lifecycle::clock,
    model::{ContainerId, ErrorCode, InstanceId, NamespaceName, NodeName, Problem, Scope, TenantName, Timestamp},
};
use hivemind_dataplane::{Counter, Way};
use hivemind_runtime::{self as runtime, Process, Usage};

/// A process of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProcessView {
    /// The instance.
    pub instance: String,
    /// Its number in the host.
    pub pid: u32,
    /// Its number in the container.
    pub container_pid: u32,
    /// Its user: the name that the container has for it, or the number.
    pub user: String,
    /// `R` running, `S` sleeping, `D` in I/O, `T` stopped, `Z` ended and not waited for.
    pub state: String,
    /// Seconds of CPU time, user and system.
    pub cpu_seconds: f64,
    /// Bytes of resident memory.
    pub memory_bytes: u64,
    /// Its command with the arguments.
    pub command: String,
}

/// What an instance uses, all its containers together, now and since their processes were started. Limits are those of the
/// containers together, if each has one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatsView {
    /// The instance.
    pub instance: String,
    /// Its id.
    pub id: InstanceId,
    /// Its tenant.
    pub tenant: TenantName,
    /// Its namespace.
    pub namespace: NamespaceName,
    /// Its app.
    pub app: String,
    /// Its node.
    pub node: NodeName,
    /// When this was read.
    pub at: Timestamp,
    /// Seconds of CPU time: two answers show how much it takes.
    pub cpu_seconds: f64,
    /// CPUs it may use; all without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<f64>,
    /// Bytes of memory, without files that are kept only as long as there is room.
    pub memory_bytes: u64,
    /// The limit of memory in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
    /// How many it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_limit: Option<u64>,
    /// Packets that came to it.
    pub packets_in: u64,
    /// Bytes that came to it.
    pub bytes_in: u64,
    /// Packets that it sent.
    pub packets_out: u64,
    /// Bytes that it sent.
    pub bytes_out: u64,
    /// Bytes read from block devices.
    pub read_bytes: u64,
    /// Bytes written to block devices.
    pub written_bytes: u64,
}

/// What went to an instance and came from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Network {
    packets_in: u64,
    bytes_in: u64,
    packets_out: u64,
    bytes_out: u64,
}

/// The processes of an instance.
#[utoipa::path(get, operation_id = "listProcesses", path = "/v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/processes", tag = "instances",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path, description = "Name or id"), InContainer),
    responses((status = 200, body = [ProcessView]), (status = "4XX", body = Problem)))]
pub(super) async fn processes(
    State(state): State<ApiState>,
    named: Named,
    Args(InContainer { container }): Args<InContainer>,
) -> Result<Body<Vec<ProcessView>>, ApiError> {
    let instance = find(&state, &named)?;
    let id = container_of(&instance, container.as_ref())?;
    let pid = pid_of(&state, &instance, &id).await?;
    let name = instance.name();
    let found = blocking(move || runtime::processes(id.as_str(), pid)).await?;
    let ended = |error| Problem::new(ErrorCode::NotRunning, format!("{name} has just ended: {error}"));
    let view = |process: Process| ProcessView {
        instance: name.clone(),
        pid: process.pid,
        container_pid: process.container_pid,
        user: process.user,
        state: process.state.to_string(),
        cpu_seconds: process.cpu_seconds,
        memory_bytes: process.memory_bytes,
        command: process.command,
    };
    Ok(Body(found.map_err(ended)?.into_iter().map(view).collect()))
}

/// What the running instances of a namespace use.
#[utoipa::path(get, operation_id = "getStats", path = "/v1/tenants/{tenant}/namespaces/{namespace}/stats", tag = "instances",
    params(("tenant" = String, Path), ("namespace" = String, Path)),
    responses((status = 200, body = [StatsView]), (status = "4XX", body = Problem)))]
pub(super) async fn stats(
    State(state): State<ApiState>,
    InScope(scope): InScope,
) -> Result<Body<Vec<StatsView>>, ApiError> {
    measured(&state, |other| *other == scope).await
}

/// What the running instances of all namespaces use.
#[utoipa::path(get, operation_id = "getStatsOfAll", path = "/v1/stats", tag = "instances", params(OfTenant),
    responses((status = 200, body = [StatsView]), (status = "4XX", body = Problem)))]
pub(super) async fn stats_of_all(
    State(state): State<ApiState>,
    Args(of): Args<OfTenant>,
) -> Result<Body<Vec<StatsView>>, ApiError> {
    measured(&state, |scope| of.has(scope)).await
}

async fn measured(state: &ApiState, of: impl Fn(&Scope) -> bool) -> Result<Body<Vec<StatsView>>, ApiError> {
    let snapshot = state.control.snapshot();
    let found = snapshot.instances.values().map(|row| &row.object).filter(|instance| of(&instance.app.scope));
    let mut found: Vec<_> = found.cloned().collect();
    found.sort_by(|a, b| (&a.app, a.created_at, &a.id).cmp(&(&b.app, b.created_at, &b.id)));
    let mut used = usages(state).await?;
    let counters = state.datapath.counters().await?;
    let links = state.datapath.links().await?;
    let network = network(&counters);
    let views = found.into_iter().filter_map(|instance| {
        let (at, usage) =
            instance.containers().filter_map(|id| used.remove(&id)).reduce(|all, it| (all.0, all.1 + it.1))?;
        let net = links.get(&instance.id).and_then(|link| network.get(&link.ifindex)).copied().unwrap_or_default();
        Some(StatsView {
            instance: instance.name(),
            id: instance.id.clone(),
            tenant: instance.app.scope.tenant.clone(),
            namespace: instance.app.scope.namespace.clone(),
            app: instance.app.name.to_string(),
            node: instance.node.clone(),
            at,
            cpu_seconds: usage.cpu_seconds,
            cpu_limit: usage.cpu_limit,
            memory_bytes: usage.memory_bytes,
            memory_limit_bytes: usage.memory_limit,
            pids: usage.pids,
            pids_limit: usage.pids_limit,
            packets_in: net.packets_in,
            bytes_in: net.bytes_in,
            packets_out: net.packets_out,
            bytes_out: net.bytes_out,
            read_bytes: usage.read_bytes,
            written_bytes: usage.written_bytes,
        })
    });
    Ok(Body(views.collect()))
}

/// What all running containers of this node use, and when that was read. One that ends meanwhile is left out.
pub(super) async fn usages(state: &ApiState) -> Result<HashMap<ContainerId, (Timestamp, Usage)>, ApiError> {
    let listed = state.runtime.list().await?;
    let running = listed
        .into_iter()
        .filter_map(|container| Some((container.id.parse::<ContainerId>().ok()?, container.run.pid()?)));
    let running: Vec<_> = running.collect();
    let read = |(id, pid)| Some((id, (clock::now(), runtime::usage(pid).ok()?)));
    blocking(move || running.into_iter().filter_map(read).collect()).await
}

/// Runs what reads many files of the kernel where it holds nobody up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()).into())
}

/// What was forwarded, by the interface index of the host's device.
fn network(counters: &[Counter]) -> BTreeMap<u32, Network> {
    let mut all = BTreeMap::<u32, Network>::new();
    for counter in counters.iter().filter(|counter| counter.endpoint != 0 && counter.reason.is_none()) {
        let sum = all.entry(counter.endpoint).or_default();
        match counter.direction {
            Way::In => {
                sum.packets_in += counter.packets;
                sum.bytes_in += counter.bytes;
            }
            Way::Out => {
                sum.packets_out += counter.packets;
                sum.bytes_out += counter.bytes;
            }
            Way::Opened => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use hivemind_ebpf::reason::Reason;

    use super::*;

    #[test]
    fn what_was_forwarded_is_summed_over_services() {
        let count = |endpoint, service, direction, reason, packets| Counter {
            endpoint,
            service,
            direction,
            reason,
            packets,
            bytes: 10 * packets,
        };
        let all = network(&[
            count(3, 0, Way::In, None, 1),
            count(3, 7, Way::In, None, 2),
            count(3, 7, Way::Out, None, 5),
            count(3, 7, Way::In, Some(Reason::NotReady), 100),
            count(3, 7, Way::Opened, None, 100),
            count(0, 7, Way::In, None, 100),
            count(4, 0, Way::Out, None, 9),
        ]);
        let three = Network { packets_in: 3, bytes_in: 30, packets_out: 5, bytes_out: 50 };
        let four = Network { packets_out: 9, bytes_out: 90, ..Network::default() };
        assert_eq!(all, BTreeMap::from([(3, three), (4, four)]));
    }
}
