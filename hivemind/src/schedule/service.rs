//! An app's service: its number, addresses, names and ports.

use std::collections::BTreeSet;

use super::{
    Change, Input, Plan,
    place::{free, last},
};
use crate::model::{App, AppKey, ClusterSnapshot, Desired, Phase, Service, ServiceKey, ServicePort, Shares};

pub(super) fn plan(input: &mut Input<'_>, key: &AppKey, plan: &mut Plan) {
    let snapshot = input.snapshot;
    let Ok(name) = key.name.as_str().parse() else { return };
    let key_of_service = ServiceKey::new(key.scope.clone(), name);
    let existing = snapshot.services.get(&key_of_service).map(|row| &*row.object);
    let app = snapshot.apps.get(key).map(|row| &*row.object);
    let wanted = app.filter(|app| {
        let named = !app.spec.ports.is_empty() || !app.spec.services.is_empty();
        !app.deleting && (named || has_ports_still(snapshot, app))
    });
    let Some(app) = wanted else {
        if existing.is_some() {
            plan.changes.push(Change::DeleteService(key_of_service));
        }
        return;
    };
    let ports = ports(snapshot, app);
    let dns_names: Vec<_> = app.spec.services.iter().map(|name| name.to_ascii_lowercase()).collect();
    let balance = app.spec.balance.clone();
    let service = match existing {
        Some(service) => Service { ports, dns_names, balance, ..service.clone() },
        None => match free(snapshot.held_addresses(), (input.services.v4, input.services.v6), input.cursor.services) {
            Ok(addresses) => {
                input.cursor.services = last(addresses, input.cursor.services);
                Service {
                    key: key_of_service,
                    id: snapshot.last_service_id + 1,
                    addresses,
                    dns_names,
                    ports,
                    app: key.clone(),
                    balance,
                    shares: Shares::default(),
                    created_at: input.now,
                }
            }
            Err(reason) => {
                plan.unmet.push(reason);
                return;
            }
        },
    };
    if existing != Some(&service) {
        plan.changes.push(Change::PutService(Box::new(service)));
    }
}

/// The ports of the newest generation, then those of older instances that serve: an app that is changed to other ports
/// has both until the last of them is gone, so that a wrong port takes nothing down.
fn ports(snapshot: &ClusterSnapshot, app: &App) -> Vec<ServicePort> {
    let mut ports = if app.spec.ports.is_empty() { Vec::new() } else { ServicePort::all(&app.spec, &[]) };
    let mut others = BTreeSet::new();
    for instance in snapshot.instances_of(&app.key) {
        let Some(status) = snapshot.instance_status.get(&instance.id).map(|row| &row.object) else { continue };
        let serves = status.phase == Phase::Ready || status.serving;
        let newest = instance.generation == app.generation && app.spec.ports.is_empty();
        if serves || newest {
            others.extend(ServicePort::all(&instance.spec, &status.exposed));
        }
    }
    others.retain(|port| !ports.contains(port));
    ports.extend(others);
    ports
}

/// Whether an instance that runs has declared ports, though the app has none any more.
fn has_ports_still(snapshot: &ClusterSnapshot, app: &App) -> bool {
    let mut running = snapshot.instances_of(&app.key).filter(|instance| instance.desired == Desired::Run);
    running.any(|instance| instance.generation != app.generation && !instance.spec.ports.is_empty())
}
