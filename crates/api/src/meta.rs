//! The API about itself: version, health, metrics, description.

use axum::{
    Json as Body,
    body::Bytes,
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, StatusCode, Uri},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tracing::Instrument;
use utoipa::ToSchema;

use super::{ApiState, metrics::samples, problem::ApiError};
use hivemind_core::model::{ErrorCode, Problem};
use hivemind_observe::Metrics;

/// What answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionView {
    /// Version of hivemind.
    pub version: String,
    /// ABI of its data plane.
    pub dataplane_abi: u32,
}

/// The version of the daemon.
#[utoipa::path(get, operation_id = "getVersion", path = "/v1/version", tag = "meta", responses((status = 200, body = VersionView)))]
pub(super) async fn version(State(state): State<ApiState>) -> Body<VersionView> {
    let dataplane_abi = state.datapath.info().await.map(|info| info.abi).unwrap_or_default();
    Body(VersionView { version: env!("CARGO_PKG_VERSION").into(), dataplane_abi })
}

/// Whether the process answers.
#[utoipa::path(get, operation_id = "getHealth", path = "/healthz", tag = "meta", responses((status = 200, body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether the daemon is ready; the answer names what it waits for.
#[utoipa::path(get, operation_id = "getReadiness", path = "/readyz", tag = "meta", responses((status = 200, body = String), (status = 503, body = String)))]
pub(super) async fn readyz(State(state): State<ApiState>) -> (StatusCode, String) {
    let waiting = state.readiness.waiting();
    if waiting.is_empty() {
        (StatusCode::OK, "ready\n".into())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", waiting.join(", ")))
    }
}

/// Metrics for Prometheus.
#[utoipa::path(get, operation_id = "getMetrics", path = "/metrics", tag = "meta",
    responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
pub(super) async fn metrics(State(state): State<ApiState>) -> Result<Response, ApiError> {
    let turn = state.metrics.turn().await;
    let samples = samples(&state).await;
    let text = turn
        .render(samples, super::round_trips::samples(&state).await)
        .map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([("content-type", kind)], text).into_response())
}

pub(super) async fn openapi(document: Bytes) -> Response {
    ([("content-type", "application/json")], document).into_response()
}

pub(super) async fn no_route(uri: Uri) -> ApiError {
    Problem::new(ErrorCode::NoRoute, format!("there is no {}", uri.path())).hint("GET /openapi.json").into()
}

pub(super) async fn no_method(method: Method, uri: Uri) -> ApiError {
    Problem::new(ErrorCode::NoMethod, format!("{} does not take {method}", uri.path())).hint("GET /openapi.json").into()
}

/// Gives every request an id, which the answer carries, and a span; counts the answer by route, never by path: paths
/// are unbounded.
pub(super) async fn observe(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let id = format!("{:016x}", rand::random::<u64>());
    let route = request.extensions().get::<MatchedPath>().map_or("none".to_owned(), |path| path.as_str().to_owned());
    let span = tracing::debug_span!("request", id, method = %request.method(), path = request.uri().path());
    async {
        let begun = tokio::time::Instant::now();
        let mut response = next.run(request).await;
        let status = response.status().as_u16();
        metrics.request(&route, status);
        tracing::debug!(status, micros = begun.elapsed().as_micros(), "answered");
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert("x-request-id", id);
        }
        response
    }
    .instrument(span)
    .await
}
