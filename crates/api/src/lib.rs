//! Floor 4: REST under `/v1`. Handlers decode, authorise, call down; they decide nothing.
//!
//! Every request passes [`auth`] first: whoever reaches the root-only Unix socket is the operator, whoever comes over
//! TCP needs the token. Errors are [`hivemind_core::model::Problem`]s as `application/problem+json`. Streams are JSON documents,
//! one on a line, and end when the daemon stops. `docs/api.md` tells users.

pub mod apps;
mod attach;
pub mod auth;
pub mod capture;
pub mod changes;
pub mod connect;
pub mod contents;
pub mod dataplane;
mod describe;
pub mod ending;
pub mod events;
pub mod exec;
mod extract;
pub mod files;
mod flow_args;
mod flow_limits;
mod flow_names;
pub mod flow_view;
mod flows;
pub mod images;
pub mod instances;
mod list;
pub mod meta;
mod metrics;
mod nodes;
pub mod object_view;
pub mod pause;
mod policies;
mod problem;
pub mod projects;
pub mod round_trips;
mod serve;
mod services;
pub mod tenants;
mod terms;
mod tier_policies;
pub mod usage;
pub mod view;
pub mod volumes;
pub mod why;
mod why_target;

pub use serve::{Listeners, bind, ensure_alone, serve};

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRef},
    middleware,
};
use tokio::sync::watch;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use auth::Door;
use changes::History;
use hivemind_agent::datapath::Datapath;
use hivemind_control::Control;
use hivemind_core::{lifecycle::readiness::Readiness, model::NodeName};
use hivemind_observe::{Events, Metrics};
use hivemind_policy::Failsafe;
use hivemind_runtime::{ImageStore, Runtime};
use hivemind_storage::Storage;
use list::Pages;
use serve::Stop;
use terms::Keyed;

/// The largest body: a specification is a few kilobytes.
const BODY_LIMIT: usize = 1 << 20;

/// What handlers call.
#[derive(Clone, Debug)]
pub struct ApiState {
    /// The node that answers.
    pub node: NodeName,
    /// Commands and the snapshot.
    pub control: Control,
    /// Logs and exec of this node's instances.
    pub runtime: Arc<dyn Runtime>,
    /// The node's images.
    pub images: Arc<dyn ImageStore>,
    /// Counters of this node.
    pub datapath: Datapath,
    /// What happened.
    pub events: Events,
    /// What is measured.
    pub metrics: Metrics,
    /// What is waited for.
    pub readiness: Readiness,
    /// The ports of the host that no policy closes.
    pub failsafe: Failsafe,
    /// The folders of this node's volumes.
    pub storage: Storage,
}

/// What the routes share: the state, and what lives as long as the listeners.
#[derive(Clone, Debug, FromRef)]
struct Shared {
    state: ApiState,
    history: watch::Receiver<History>,
    stop: Stop,
    pages: Pages,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Hivemind", description = "The API of the hivemind container orchestrator"),
    modifiers(&BearerToken),
    security((), ("token" = [])),
    components(schemas(ending::Until)),
    tags(
        (name = "tenants", description = "Tenants and their namespaces"),
        (name = "policies", description = "What traffic is allowed"),
        (name = "apps", description = "What is wanted"),
        (name = "projects", description = "Apps that are changed together"),
        (name = "images", description = "Images of the node that answers"),
        (name = "instances", description = "What runs: state, logs, exec"),
        (name = "volumes", description = "What outlives the instances that write it"),
        (name = "contents", description = "Secrets and configs: small files of instances"),
        (name = "services", description = "Names, virtual addresses and who serves them"),
        (name = "flows", description = "Who talks with whom, what was dropped, and which rule decided"),
        (name = "dataplane", description = "What the kernel holds, and whether it is what it should be"),
        (name = "nodes", description = "Machines"),
        (name = "events", description = "What happens: events for people, changes for programs"),
        (name = "meta", description = "The daemon itself"),
    )
)]
struct Document;

/// Says how requests over TCP are authorised; on the Unix socket nothing is needed.
struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let token = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", token);
    }
}

/// All routes with their description.
fn described() -> (Router<Shared>, utoipa::openapi::OpenApi) {
    let (router, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(tenants::list))
        .routes(routes!(tenants::get, tenants::put, tenants::delete))
        .routes(routes!(tenants::list_namespaces))
        .routes(routes!(tenants::get_namespace, tenants::put_namespace, tenants::delete_namespace))
        .routes(routes!(policies::list_all))
        .routes(routes!(policies::list))
        .routes(routes!(policies::get, policies::put, policies::delete))
        .routes(routes!(why::why))
        .routes(routes!(tier_policies::list))
        .routes(routes!(tier_policies::get, tier_policies::put, tier_policies::delete))
        .routes(routes!(tier_policies::get_of_tenant, tier_policies::put_of_tenant, tier_policies::delete_of_tenant))
        .routes(routes!(apps::list_all))
        .routes(routes!(apps::list))
        .routes(routes!(apps::get, apps::put, apps::delete))
        .routes(routes!(apps::scale))
        .routes(routes!(apps::restart))
        .routes(routes!(projects::put, projects::delete))
        .routes(routes!(apps::history))
        .routes(routes!(apps::roll_back))
        .routes(routes!(images::list, images::remove))
        .routes(routes!(images::info))
        .routes(routes!(images::pull))
        .routes(routes!(images::push))
        .routes(routes!(images::tag))
        .routes(routes!(images::prune))
        .routes(routes!(images::missing_layers))
        .routes(routes!(images::import))
        .routes(routes!(images::export))
        .routes(routes!(instances::list_all))
        .routes(routes!(instances::list))
        .routes(routes!(instances::get))
        .routes(routes!(instances::logs))
        .routes(routes!(ending::kill))
        .routes(routes!(ending::wait))
        .routes(routes!(pause::pause))
        .routes(routes!(pause::unpause))
        .routes(routes!(files::get, files::put))
        .routes(routes!(connect::connect))
        .routes(routes!(usage::processes))
        .routes(routes!(usage::stats))
        .routes(routes!(usage::stats_of_all))
        .routes(routes!(capture::capture))
        .routes(routes!(dataplane::tables))
        .routes(routes!(dataplane::table))
        .routes(routes!(dataplane::check))
        .routes(routes!(dataplane::stats))
        .routes(routes!(exec::exec, exec::exec_detached))
        .routes(routes!(attach::attach))
        .routes(routes!(volumes::list_all))
        .routes(routes!(volumes::list))
        .routes(routes!(volumes::get, volumes::put, volumes::delete))
        .routes(routes!(contents::list_all_secrets))
        .routes(routes!(contents::list_secrets))
        .routes(routes!(contents::get_secret, contents::put_secret, contents::delete_secret))
        .routes(routes!(contents::list_all_configs))
        .routes(routes!(contents::list_configs))
        .routes(routes!(contents::get_config, contents::put_config, contents::delete_config))
        .routes(routes!(services::list))
        .routes(routes!(services::get))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::get))
        .routes(routes!(flows::list))
        .routes(routes!(flows::watch))
        .routes(routes!(events::events))
        .routes(routes!(events::watch))
        .routes(routes!(meta::version))
        .routes(routes!(meta::healthz))
        .routes(routes!(meta::readyz))
        .routes(routes!(meta::metrics))
        .split_for_parts();
    list::describe(&mut document);
    describe::refusals(&mut document);
    (router, document)
}

/// The description of the API, as `/openapi.json` shows it.
pub fn openapi() -> utoipa::openapi::OpenApi {
    described().1
}

/// All routes; nobody is kept out yet.
fn routes(state: ApiState, history: watch::Receiver<History>, stop: Stop) -> Router {
    let (router, document) = described();
    let keyed = Keyed::of(&document);
    let document: Bytes = document.to_json().unwrap_or_default().into();
    router
        .route("/openapi.json", axum::routing::get(move || meta::openapi(document.clone())))
        .fallback(meta::no_route)
        .method_not_allowed_fallback(meta::no_method)
        .layer(middleware::from_fn_with_state(keyed, terms::once))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(Shared { state, history, stop, pages: Pages::default() })
}

/// The routes behind a door. Every answer is counted and traced, refusals too.
fn guarded(routes: Router, state: &ApiState, door: Door) -> Router {
    routes
        .layer(middleware::from_fn_with_state(door, auth::guard))
        .layer(middleware::from_fn_with_state(state.metrics.clone(), meta::observe))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// The description as JSON, since that is what others read.
    fn document() -> serde_json::Value {
        serde_json::to_value(super::openapi()).expect("is JSON")
    }

    #[test]
    fn every_operation_is_described_and_has_an_id_of_its_own() {
        let document = document();
        let mut ids = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().expect("paths") {
            for (method, operation) in methods.as_object().expect("methods") {
                let id = operation["operationId"].as_str().expect("an id");
                assert!(ids.insert(id.to_owned()), "{id} is there twice");
                let says = |field: &str| operation[field].as_str().is_some_and(|text| !text.is_empty());
                assert!(says("summary") || says("description"), "{method} {path} is not described");
                assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{method} {path}");
            }
        }
        assert!(ids.len() >= 18, "{ids:?}");
    }

    #[test]
    fn every_route_is_in_the_document_for_people() {
        let text = include_str!("../../../docs/api.md");
        for (path, methods) in document()["paths"].as_object().expect("paths") {
            let short = path.replace("/v1/tenants/{tenant}/namespaces/{namespace}", "…");
            for method in methods.as_object().expect("methods").keys() {
                let row = format!("| `{}` | `{short}` |", method.to_uppercase());
                assert!(text.contains(&row), "docs/api.md lacks {row}");
            }
        }
        let rows = text.lines().filter(|line| line.starts_with("| `")).count();
        let described: usize =
            document()["paths"].as_object().expect("paths").values().filter_map(|m| Some(m.as_object()?.len())).sum();
        assert_eq!(rows, described + 1, "docs/api.md tells of a route that is not there");
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        fn references<'a>(value: &'a serde_json::Value, found: &mut BTreeSet<&'a str>) {
            match value {
                serde_json::Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(serde_json::Value::as_str));
                    fields.values().for_each(|value| references(value, found));
                }
                serde_json::Value::Array(items) => items.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.contains("#/components/schemas/AppSpec"), "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("local");
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    }
}
