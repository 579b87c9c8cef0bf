//! Services, with the traffic that this node's data plane counted.

use std::collections::BTreeMap;

use axum::{Json as Body, extract::State};

use super::{
    ApiState,
    apps::not_found,
    extract::{InScope, Named},
    problem::ApiError,
    view::{ServiceView, Traffic},
};
use crate::{dataplane::Counter, model::Problem};

/// Traffic by service number.
fn traffic(counters: &[Counter]) -> BTreeMap<u32, Traffic> {
    let mut sums: BTreeMap<u32, Traffic> = BTreeMap::new();
    for counter in counters {
        let sum = sums.entry(counter.service).or_default();
        match (counter.reason, counter.direction) {
            (0, 0) => {
                sum.packets_out += counter.packets;
                sum.bytes_out += counter.bytes;
            }
            (0, _) => {
                sum.packets_in += counter.packets;
                sum.bytes_in += counter.bytes;
            }
            _ => sum.packets_dropped += counter.packets,
        }
    }
    sums
}

/// The services of a namespace.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/namespaces/{namespace}/services", tag = "services",
    params(("tenant" = String, Path), ("namespace" = String, Path)),
    responses((status = 200, body = [ServiceView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(State(state): State<ApiState>, InScope(scope): InScope) -> Body<Vec<ServiceView>> {
    // Without the counters the list is still true.
    let sums = state.datapath.counters().await.map(|counters| traffic(&counters)).unwrap_or_default();
    let snapshot = state.control.snapshot();
    let services = snapshot.services.values().map(|row| &row.object).filter(|service| service.key.scope == scope);
    Body(services.map(|service| ServiceView::new(&snapshot, service, sums.get(&service.id).copied())).collect())
}

/// A service.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/namespaces/{namespace}/services/{name}", tag = "services",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = ServiceView), (status = "4XX", body = Problem)))]
pub(super) async fn get(State(state): State<ApiState>, named: Named) -> Result<Body<ServiceView>, ApiError> {
    let sums = state.datapath.counters().await.map(|counters| traffic(&counters)).unwrap_or_default();
    let snapshot = state.control.snapshot();
    let (scope, name) = (named.0.clone(), named.1.clone());
    // People know a service by its DNS name as well.
    let by_dns = |name: &str| {
        let mut services = snapshot.services.values().filter(|row| row.object.key.scope == scope);
        services.find(|row| row.object.dns_names.iter().any(|dns| dns.eq_ignore_ascii_case(name)))
    };
    let row = named.service().ok().and_then(|key| snapshot.services.get(&key)).or_else(|| by_dns(&name));
    match row {
        Some(row) => {
            let own = sums.get(&row.object.id).copied().unwrap_or_default();
            Ok(Body(ServiceView::new(&snapshot, &row.object, Some(own))))
        }
        None => {
            let there = snapshot.services.keys().filter(|key| key.scope == scope).map(|key| key.name.as_str());
            Err(not_found("service", &name, there))
        }
    }
}
