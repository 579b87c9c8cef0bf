//! Instances: list, logs.

use std::{borrow::Cow, sync::Arc};

use axum::{Json as Body, extract::State, response::Response};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    events::{lines, ndjson},
    extract::{Args, InScope, Named},
    list::{Candidate, List, ListAll, ListAllArgs, ListArgs, key},
    problem::{ApiError, not_found, with_nearest},
    serve::Stop,
    view::InstanceView,
};
use hivemind_core::model::{AppKey, ContainerId, ErrorCode, Instance, Problem, Scope, SidecarName, Timestamp};
use hivemind_runtime::{LogLine, LogQuery, LogStream, NoPosition};

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLineView {
    /// When it was written.
    pub at: Timestamp,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// The line; bytes that are not UTF-8 are replaced.
    pub line: String,
    /// Where the log goes on behind it, for `?after=`.
    #[serde(default)]
    pub position: String,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogArgs {
    /// Only the last so many lines.
    tail: Option<usize>,
    /// Also the lines to come.
    #[serde(default)]
    follow: bool,
    /// Only lines at or after this moment, RFC 3339.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Only lines behind the one with this `position`.
    after: Option<String>,
    /// Of a sidecar of the instance, by its name; without it, of the app's own container.
    #[param(value_type = Option<String>)]
    container: Option<SidecarName>,
}

/// The instances of a namespace.
#[utoipa::path(get, operation_id = "listInstances", path = "/v1/tenants/{tenant}/namespaces/{namespace}/instances", tag = "instances",
    params(("tenant" = String, Path), ("namespace" = String, Path), ListArgs),
    responses((status = 200, body = [InstanceView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    InScope(scope): InScope,
    list: List,
) -> Result<Response, ApiError> {
    all(&state, list, |other| *other == scope)
}

/// The instances of all namespaces.
#[utoipa::path(get, operation_id = "listAllInstances", path = "/v1/instances", tag = "instances", params(ListAllArgs),
    responses((status = 200, body = [InstanceView]), (status = "4XX", body = Problem)))]
pub(super) async fn list_all(State(state): State<ApiState>, ListAll(of, list): ListAll) -> Result<Response, ApiError> {
    all(&state, list, |scope| of.has(scope))
}

/// The instances of some namespaces, by app and age.
fn all(state: &ApiState, list: List, of: impl Fn(&Scope) -> bool) -> Result<Response, ApiError> {
    let open = list.open::<InstanceView>(state)?;
    let snapshot = Arc::clone(&open.snapshot);
    let mut found: Vec<_> = snapshot.instances.values().map(|row| &row.object).filter(|i| of(&i.app.scope)).collect();
    found.sort_by(|a, b| (&a.app, age_of(a), &a.id).cmp(&(&b.app, age_of(b), &b.id)));
    Ok(open.answer(found.into_iter().map(|instance| {
        let AppKey { scope, name } = &instance.app;
        Candidate {
            key: key([&scope.tenant, &scope.namespace, name, &format_args!("{:020}", age_of(instance)), &instance.id]),
            labels: Cow::Borrowed(&instance.spec.labels),
            view: || InstanceView::new(&snapshot, instance),
        }
    })))
}

/// When it was made, as milliseconds that sort as text, too.
fn age_of(instance: &Instance) -> i64 {
    instance.created_at.as_millis().max(0)
}

/// The instance of that name, id, or beginning of an id that no other has.
pub(super) fn find(state: &ApiState, named: &Named) -> Result<Arc<Instance>, ApiError> {
    let Named(scope, name) = named;
    let snapshot = state.control.snapshot();
    let here = || snapshot.instances.values().map(|row| &row.object).filter(|instance| instance.app.scope == *scope);
    let exact = here().find(|instance| instance.name() == *name || instance.id.as_str() == name);
    let mut begins = here().filter(|instance| name.len() >= 3 && instance.id.as_str().starts_with(name.as_str()));
    let found = exact.or_else(|| begins.next().filter(|_| begins.next().is_none()));
    let names: Vec<_> = here().map(|instance| instance.name()).collect();
    found.cloned().ok_or_else(|| not_found("instance", name, Some(scope), names.iter().map(String::as_str)))
}

/// Which of an instance's containers. In a query: `container=proxy`.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct InContainer {
    /// A sidecar of the instance by its name; without it, the app's own container.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    pub(super) container: Option<SidecarName>,
}

/// The container of that name of an instance; without one the app's own, which the app's name stands for as well, unless a
/// sidecar has it.
pub(super) fn container_of(instance: &Instance, name: Option<&SidecarName>) -> Result<ContainerId, ApiError> {
    let own = ContainerId::from(&instance.id);
    let Some(name) = name else { return Ok(own) };
    let found = instance.containers().find(|id| id.sidecar() == Some(name));
    if let Some(found) = found.or_else(|| (name.as_str() == instance.app.name.as_str()).then_some(own)) {
        return Ok(found);
    }
    let there: Vec<_> = instance.spec.sidecars.iter().map(|it| it.name.to_string()).collect();
    let hint = match there[..] {
        [] => "leave it out: it has no sidecars".to_owned(),
        _ => format!("its sidecars are {}", there.join(", ")),
    };
    let problem = Problem::new(ErrorCode::NotFound, format!("{} has no container {name}", instance.name()));
    Err(with_nearest(problem, name.as_str(), there.iter().map(String::as_str)).hint(hint).into())
}

/// The number of a container's first process in the host; refused if it does not run.
pub(super) async fn pid_of(state: &ApiState, instance: &Instance, id: &ContainerId) -> Result<u32, ApiError> {
    let run = state.runtime.state(id).await?.map(|found| found.run);
    if let Some(pid) = run.and_then(|run| run.pid()) {
        return Ok(pid);
    }
    let status = state.control.snapshot().status_of(&instance.id);
    let (what, phase, option) = match id.sidecar() {
        None => (instance.name(), status.phase, String::new()),
        Some(name) => {
            let phase = status.sidecars.get(name).map(|status| status.phase).unwrap_or_default();
            (format!("the sidecar {name} of {}", instance.name()), phase, format!(" -c {name}"))
        }
    };
    let problem = Problem::new(ErrorCode::NotRunning, format!("{what} is not running: it is {phase}"));
    Err(problem.hint(format!("hivemind logs {}{option}", instance.name())).into())
}

/// An instance.
#[utoipa::path(get, operation_id = "getInstance", path = "/v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}", tag = "instances",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path, description = "Name or id")),
    responses((status = 200, body = InstanceView), (status = "4XX", body = Problem)))]
pub(super) async fn get(State(state): State<ApiState>, named: Named) -> Result<Body<InstanceView>, ApiError> {
    let instance = find(&state, &named)?;
    Ok(Body(InstanceView::new(&state.control.snapshot(), &instance)))
}

/// The log of an instance, a JSON document for each line.
#[utoipa::path(get, operation_id = "getInstanceLogs", path = "/v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/logs", tag = "instances",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path), LogArgs),
    responses((status = 200, body = LogLineView, content_type = "application/x-ndjson"), (status = "4XX", body = Problem)))]
pub(super) async fn logs(
    State(state): State<ApiState>,
    State(stop): State<Stop>,
    named: Named,
    Args(args): Args<LogArgs>,
) -> Result<Response, ApiError> {
    let container = container_of(&*find(&state, &named)?, args.container.as_ref())?;
    let after = args.after.map(|text| text.parse().map_err(|why| bad_position(&text, &why))).transpose()?;
    let query = LogQuery { tail: args.tail, follow: args.follow, since: args.since, after };
    let read = state.runtime.logs(&container, query).await?;
    Ok(ndjson(read.map(|line| line.map(|line| lines(&[LogLineView::from(line)]))), stop))
}

fn bad_position(text: &str, why: &NoPosition) -> ApiError {
    Problem::new(ErrorCode::BadRequest, format!("after={text}: {why}")).into()
}

impl From<LogLine> for LogLineView {
    fn from(line: LogLine) -> Self {
        let stream = match line.stream {
            LogStream::Stdout => "stdout",
            LogStream::Stderr => "stderr",
        };
        let text = String::from_utf8_lossy(&line.line).into_owned();
        Self { at: line.at, stream: stream.into(), line: text, position: line.position.to_string() }
    }
}
