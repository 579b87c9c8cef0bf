//! The API about itself: version, health, metrics, description.

use std::sync::Arc;

use axum::{
    Json as Body,
    extract::{MatchedPath, Request, State},
    http::{Method, StatusCode, Uri},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ApiState, problem::ApiError};
use crate::{
    model::{ErrorCode, Problem},
    observe::{Metrics, Sample},
};

/// What answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionView {
    /// Version of hivemind.
    pub version: String,
    /// ABI of its data plane.
    pub dataplane_abi: u32,
}

/// The version of the daemon.
#[utoipa::path(get, path = "/v1/version", tag = "meta", responses((status = 200, body = VersionView)))]
pub(super) async fn version(State(state): State<ApiState>) -> Body<VersionView> {
    let dataplane_abi = state.datapath.info().await.map(|info| info.abi).unwrap_or_default();
    Body(VersionView { version: env!("CARGO_PKG_VERSION").into(), dataplane_abi })
}

/// Whether the process answers.
#[utoipa::path(get, path = "/healthz", tag = "meta", responses((status = 200, body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether the daemon is ready; the answer names what it waits for.
#[utoipa::path(get, path = "/readyz", tag = "meta", responses((status = 200, body = String), (status = 503, body = String)))]
pub(super) async fn readyz(State(state): State<ApiState>) -> (StatusCode, String) {
    let waiting = state.readiness.waiting();
    if waiting.is_empty() {
        (StatusCode::OK, "ready\n".into())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", waiting.join(", ")))
    }
}

/// Metrics for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "meta", responses((status = 200, body = String)))]
pub(super) async fn metrics(State(state): State<ApiState>) -> Result<Response, ApiError> {
    let samples = samples(&state).await;
    let text = state.metrics.render(samples).map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([("content-type", kind)], text).into_response())
}

/// Everything that has state elsewhere, as samples.
async fn samples(state: &ApiState) -> Vec<Sample> {
    let snapshot = state.control.snapshot();
    let mut all = Vec::new();
    let mut gauge = |name, help, labels, value| all.push(Sample { name, help, counter: false, labels, value });
    gauge("build_info", "Version", vec![("version", env!("CARGO_PKG_VERSION").into())], 1.0);
    #[expect(clippy::cast_precision_loss, reason = "metrics are floating point; exact up to 2^53")]
    gauge("store_revision", "Revision of the store", vec![], snapshot.revision as f64);
    let mut phases = std::collections::BTreeMap::<&str, u32>::new();
    let mut restarts = Vec::new();
    for (id, row) in &snapshot.instances {
        let status = snapshot.status_of(id);
        *phases.entry(status.phase.as_str()).or_default() += 1;
        restarts.push((row.object.clone(), status.restarts));
    }
    for (phase, count) in phases {
        gauge("instances", "Instances by phase", vec![("phase", phase.into())], count.into());
    }
    for (key, row) in &snapshot.apps {
        let labels = || app_labels(key);
        gauge("app_replicas", "Instances that are wanted", labels(), row.object.spec.replicas.into());
    }
    for (instance, count) in restarts {
        let mut labels = app_labels(&instance.app);
        labels.push(("instance", instance.name()));
        let help = "How often the process was started again";
        all.push(Sample { name: "instance_restarts", help, counter: true, labels, value: count.into() });
    }
    let links = state.datapath.links().await.unwrap_or_default();
    for counter in state.datapath.counters().await.unwrap_or_default() {
        let owner = links.iter().find(|(_, link)| link.ifindex == counter.endpoint).map(|(id, _)| id);
        let instance = owner.and_then(|id| snapshot.instances.get(id)).map_or("node".into(), |row| row.object.name());
        let mut services = snapshot.services.values();
        let service = services.find(|row| row.object.id == counter.service).map(|row| row.object.key.to_string());
        let labels = vec![
            ("instance", instance),
            ("service", service.unwrap_or_default()),
            ("direction", if counter.direction == 0 { "out" } else { "in" }.into()),
            ("reason", reason(counter.reason).into()),
        ];
        for (name, help, value) in [
            ("dataplane_packets", "Packets seen by the data plane", counter.packets),
            ("dataplane_bytes", "Bytes seen by the data plane", counter.bytes),
        ] {
            #[expect(clippy::cast_precision_loss, reason = "metrics are floating point; exact up to 2^53")]
            all.push(Sample { name, help, counter: true, labels: labels.clone(), value: value as f64 });
        }
    }
    all
}

/// `forwarded`, or the drop reason's name.
fn reason(number: u8) -> &'static str {
    match hivemind_ebpf::reason::Reason::from_number(number) {
        None if number == 0 => "forwarded",
        None => "unknown",
        Some(reason) => reason.as_str(),
    }
}

fn app_labels(key: &crate::model::AppKey) -> Vec<(&'static str, String)> {
    vec![
        ("tenant", key.scope.tenant.to_string()),
        ("namespace", key.scope.namespace.to_string()),
        ("app", key.name.to_string()),
    ]
}

pub(super) async fn openapi(document: Arc<String>) -> Response {
    ([("content-type", "application/json")], document.as_str().to_owned()).into_response()
}

pub(super) async fn no_route(uri: Uri) -> ApiError {
    Problem::new(ErrorCode::NoRoute, format!("there is no {}", uri.path())).hint("GET /openapi.json").into()
}

pub(super) async fn no_method(method: Method, uri: Uri) -> ApiError {
    Problem::new(ErrorCode::NoRoute, format!("{} does not take {method}", uri.path())).hint("GET /openapi.json").into()
}

/// Counts every answer by route, never by path: paths are unbounded.
pub(super) async fn measure(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none".to_owned(), |path| path.as_str().to_owned());
    let response = next.run(request).await;
    metrics.request(&route, response.status().as_u16());
    response
}
