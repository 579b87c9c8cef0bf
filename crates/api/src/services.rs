//! Services, with the traffic that this node's data plane counted.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use axum::{Json as Body, extract::State, response::Response};

use super::{
    ApiState,
    extract::{InScope, Named},
    list::{Candidate, List, ListArgs, key},
    problem::{ApiError, not_found},
    round_trips,
    view::{ServiceView, Traffic},
};
use hivemind_core::model::{AppKey, ClusterSnapshot, Problem, Service};
use hivemind_dataplane::{Counter, Way};

/// What this node's data plane counted for services.
struct Counted {
    counters: Vec<Counter>,
    /// Whose instance an interface index is.
    apps: BTreeMap<u32, AppKey>,
}

impl Counted {
    /// Reads the counters; without them the rest of the answer is still true.
    async fn read(state: &ApiState, snapshot: &ClusterSnapshot) -> Self {
        let counters = state.datapath.counters().await.unwrap_or_default();
        let links = state.datapath.links().await.unwrap_or_default();
        let app = |id| snapshot.instances.get(id).map(|row| row.object.app.clone());
        let apps = links.iter().filter_map(|(id, link)| Some((link.ifindex, app(id)?))).collect();
        Self { counters, apps }
    }

    /// What went to the instances of a service and came from them. A packet between two instances is counted at both
    /// ends; here only the end that serves counts.
    fn of(&self, service: &Service) -> Traffic {
        let mut sum = Traffic::default();
        for counter in self.counters.iter().filter(|counter| counter.service == service.id) {
            let client = self.apps.get(&counter.endpoint).is_some_and(|app| *app != service.app);
            match (counter.reason, counter.direction) {
                (None, Way::Opened) => sum.connections += counter.packets,
                (Some(_), Way::Opened) => sum.connections_refused += counter.packets,
                (None, _) if client => {}
                (None, Way::Out) => {
                    sum.packets_out += counter.packets;
                    sum.bytes_out += counter.bytes;
                }
                (None, Way::In) => {
                    sum.packets_in += counter.packets;
                    sum.bytes_in += counter.bytes;
                }
                (Some(_), Way::Out | Way::In) => sum.packets_dropped += counter.packets,
            }
        }
        sum
    }
}

/// The services of a namespace. A service has the labels of its app.
#[utoipa::path(get, operation_id = "listServices", path = "/v1/tenants/{tenant}/namespaces/{namespace}/services", tag = "services",
    params(("tenant" = String, Path), ("namespace" = String, Path), ListArgs),
    responses((status = 200, body = [ServiceView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    InScope(scope): InScope,
    list: List,
) -> Result<Response, ApiError> {
    let open = list.open::<ServiceView>(&state)?;
    let snapshot = Arc::clone(&open.snapshot);
    let counted = Counted::read(&state, &snapshot).await;
    let services = snapshot.services.values().map(|row| &row.object).filter(|service| service.key.scope == scope);
    Ok(open.answer(services.map(|service| Candidate {
        key: key([&service.key.name]),
        labels: match snapshot.apps.get(&service.app) {
            Some(app) => Cow::Borrowed(&app.object.spec.labels),
            None => Cow::Owned(BTreeMap::new()),
        },
        view: || ServiceView::new(&snapshot, service, Some(counted.of(service))),
    })))
}

/// A service, by its name or one of its DNS names.
#[utoipa::path(get, operation_id = "getService", path = "/v1/tenants/{tenant}/namespaces/{namespace}/services/{name}", tag = "services",
    params(("tenant" = String, Path), ("namespace" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = ServiceView), (status = "4XX", body = Problem)))]
pub(super) async fn get(State(state): State<ApiState>, named: Named) -> Result<Body<ServiceView>, ApiError> {
    let snapshot = state.control.snapshot();
    let here = || snapshot.services.values().map(|row| &row.object).filter(|service| service.key.scope == named.0);
    let called = |service: &&Arc<Service>| service.all_dns_names().any(|dns| dns.eq_ignore_ascii_case(&named.1));
    let by_name = named.service().ok().and_then(|key| snapshot.services.get(&key)).map(|row| &row.object);
    match by_name.or_else(|| here().find(called)) {
        Some(service) => {
            let counted = Counted::read(&state, &snapshot).await;
            let round_trips = round_trips::of_service(&state, service.id).await;
            Ok(Body(ServiceView { round_trips, ..ServiceView::new(&snapshot, service, Some(counted.of(service))) }))
        }
        None => {
            let names: Vec<_> = here().flat_map(|s| s.all_dns_names().chain([s.key.name.to_string()])).collect();
            Err(not_found("service", &named.1, Some(&named.0), names.iter().map(String::as_str)))
        }
    }
}

#[cfg(test)]
mod tests {
    use hivemind_ebpf::reason::Reason;

    use super::*;
    use hivemind_core::model::{Scope, Timestamp};

    #[test]
    fn a_service_is_billed_for_what_its_instances_see_and_not_for_its_clients() {
        let app = |name: &str| AppKey::new(Scope::default(), name.parse().expect("valid"));
        let service = Service {
            key: hivemind_core::model::ServiceKey::new(Scope::default(), "web".parse().expect("valid")),
            id: 7,
            addresses: hivemind_core::model::Addresses::default(),
            dns_names: vec![],
            networks: Default::default(),
            ports: vec![],
            app: app("web"),
            balance: hivemind_core::spec::v1::BalanceSpec::default(),
            shares: hivemind_core::model::Shares::default(),
            created_at: Timestamp::default(),
        };
        let count = |endpoint, service, direction, reason, packets| Counter {
            endpoint,
            service,
            direction,
            reason,
            packets,
            bytes: packets * 100,
        };
        let counted = Counted {
            apps: BTreeMap::from([(3, app("web")), (4, app("client"))]),
            counters: vec![
                count(3, 7, Way::In, None, 10),
                count(3, 7, Way::Out, None, 9),
                count(4, 7, Way::Out, None, 1_000),
                count(4, 7, Way::In, None, 1_000),
                count(0, 7, Way::In, None, 5),
                count(3, 7, Way::In, Some(Reason::NoSuchPort), 2),
                count(0, 7, Way::Opened, None, 4),
                count(0, 7, Way::Opened, Some(Reason::NoBackend), 3),
                count(3, 8, Way::In, None, 1_000),
            ],
        };
        let expected = Traffic {
            packets_in: 15,
            bytes_in: 1_500,
            packets_out: 9,
            bytes_out: 900,
            packets_dropped: 2,
            connections: 4,
            connections_refused: 3,
        };
        assert_eq!(counted.of(&service), expected);
    }
}
