//! Floor 4: REST under `/v1`. Handlers decode, authorise, call down; they decide nothing.
//!
//! Every request passes [`auth`] first: whoever reaches the root-only Unix socket is the operator, whoever comes over
//! TCP needs the token. Errors are [`crate::model::Problem`]s as `application/problem+json`.

pub mod apps;
pub mod auth;
pub mod events;
mod extract;
pub mod instances;
pub mod meta;
mod nodes;
mod problem;
mod serve;
mod services;
pub mod view;

pub use serve::{Listeners, bind, serve};

use std::sync::Arc;

use axum::{Router, extract::DefaultBodyLimit, middleware};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    agent::datapath::Datapath,
    control::Control,
    lifecycle::readiness::Readiness,
    observe::{Events, Metrics},
    runtime::Runtime,
};

/// The largest body: a specification is a few kilobytes.
const BODY_LIMIT: usize = 1 << 20;

/// What handlers call.
#[derive(Clone, Debug)]
pub struct ApiState {
    /// Commands and the snapshot.
    pub control: Control,
    /// Logs and exec of this node's instances.
    pub runtime: Arc<dyn Runtime>,
    /// Counters of this node.
    pub datapath: Datapath,
    /// What happened.
    pub events: Events,
    /// What is measured.
    pub metrics: Metrics,
    /// What is waited for.
    pub readiness: Readiness,
}

#[derive(OpenApi)]
#[openapi(info(title = "Hivemind", description = "The API of the hivemind container orchestrator"))]
struct Document;

/// All routes, without authentication (the listener adds it).
fn routes(state: ApiState) -> Router {
    let (router, document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(apps::list))
        .routes(routes!(apps::get, apps::put, apps::delete))
        .routes(routes!(apps::scale))
        .routes(routes!(apps::restart))
        .routes(routes!(instances::list))
        .routes(routes!(instances::get))
        .routes(routes!(instances::logs))
        .routes(routes!(instances::exec))
        .routes(routes!(services::list))
        .routes(routes!(services::get))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::get))
        .routes(routes!(events::events))
        .routes(routes!(events::watch))
        .routes(routes!(meta::version))
        .routes(routes!(meta::healthz))
        .routes(routes!(meta::readyz))
        .routes(routes!(meta::metrics))
        .split_for_parts();
    let document = Arc::new(document.to_json().unwrap_or_default());
    router
        .route("/openapi.json", axum::routing::get(move || meta::openapi(Arc::clone(&document))))
        .fallback(meta::no_route)
        .method_not_allowed_fallback(meta::no_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(state.metrics.clone(), meta::measure))
        .with_state(state)
}
