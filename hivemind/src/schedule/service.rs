//! An app's service: its number, addresses, names and ports.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Change, Input, Plan,
    place::{free, last},
};
use crate::model::{App, AppKey, ClusterSnapshot, PortProto, Service, ServiceKey, ServicePort, Shares};

pub(super) fn plan(input: &mut Input<'_>, key: &AppKey, plan: &mut Plan) {
    let snapshot = input.snapshot;
    let Ok(name) = key.name.as_str().parse() else { return };
    let key_of_service = ServiceKey::new(key.scope.clone(), name);
    let existing = snapshot.services.get(&key_of_service).map(|row| &*row.object);
    let app = snapshot.apps.get(key).map(|row| &*row.object);
    let named =
        |app: &&App| !app.spec.ports.is_empty() || !app.spec.services.is_empty() || !app.spec.networks.is_empty();
    let wanted = app.filter(|app| !app.deleting).filter(named);
    let Some(app) = wanted else {
        if existing.is_some() {
            plan.changes.push(Change::DeleteService(key_of_service));
        }
        return;
    };
    let ports = ports(snapshot, app);
    let dns_names: Vec<_> = app.spec.services.iter().map(|name| name.to_ascii_lowercase()).collect();
    let balance = app.spec.balance.clone();
    let networks = networks(app);
    let service = match existing {
        Some(service) => Service { ports, dns_names, networks, balance, ..service.clone() },
        None => match free(snapshot.held_addresses(), (input.services.v4, input.services.v6), input.cursor.services) {
            Ok(addresses) => {
                input.cursor.services = last(addresses, input.cursor.services);
                Service {
                    key: key_of_service,
                    id: snapshot.last_service_id + 1,
                    addresses,
                    dns_names,
                    networks,
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

/// The networks of the app, with all names that it has in each.
fn networks(app: &App) -> BTreeMap<String, BTreeSet<String>> {
    let names = |aliases: &BTreeSet<String>| {
        aliases.iter().map(|name| name.to_ascii_lowercase()).chain([app.key.name.to_string()]).collect()
    };
    app.spec.networks.iter().map(|(network, aliases)| (network.clone(), names(aliases))).collect()
}

/// The declared ports; without any, those the image says it listens on.
fn ports(snapshot: &ClusterSnapshot, app: &App) -> Vec<ServicePort> {
    if !app.spec.ports.is_empty() {
        let port = |port: &crate::spec::v1::PortSpec| ServicePort {
            port: port.target,
            target: port.target,
            protocol: port.protocol,
            published: port.published,
        };
        return app.spec.ports.iter().map(port).collect();
    }
    let statuses = snapshot.instances_of(&app.key).filter_map(|instance| snapshot.instance_status.get(&instance.id));
    let exposed: BTreeSet<PortProto> = statuses.flat_map(|row| row.object.exposed.iter().copied()).collect();
    let port = |exposed: PortProto| ServicePort {
        port: exposed.port,
        target: exposed.port,
        protocol: exposed.protocol,
        published: None,
    };
    exposed.into_iter().map(port).collect()
}
