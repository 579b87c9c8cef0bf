//! An app's services: their numbers, addresses, names and ports. One has the app's name and all of its ports; others are
//! there if the app says so.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Change, Input, Plan,
    place::{free, last},
};
use hivemind_core::model::{
    Addresses, App, AppKey, ClusterSnapshot, Desired, Instance, InstanceStatus, Phase, Service, ServiceKey,
    ServiceName, ServicePort, Shares, Timestamp,
};

/// How long until it is looked again whether another app has let go of a service's name, in milliseconds.
const LOOK_AGAIN_MS: i64 = 1_000;

/// What a service is to be, but for its number and addresses.
struct Wanted {
    dns_names: Vec<String>,
    networks: BTreeMap<String, BTreeSet<String>>,
    ports: Vec<ServicePort>,
    headless: bool,
}

pub(super) fn plan(input: &mut Input<'_>, key: &AppKey, plan: &mut Plan) {
    let snapshot = input.snapshot;
    let app = snapshot.apps.get(key).map(|row| &*row.object).filter(|app| !app.deleting);
    let wanted = app.map(|app| wanted(snapshot, app)).unwrap_or_default();
    let gone = snapshot.services_of(key).filter(|service| !wanted.contains_key(&service.key.name));
    plan.changes.extend(gone.map(|service| Change::DeleteService(service.key.clone())));
    let Some(app) = app else { return };
    let mut last_id = snapshot.last_service_id;
    let mut held = snapshot.held_addresses().clone();
    for (name, Wanted { dns_names, networks, ports, headless }) in wanted {
        let key_of_service = ServiceKey::new(key.scope.clone(), name);
        let existing = snapshot.services.get(&key_of_service).map(|row| &*row.object);
        if let Some(other) = existing.filter(|service| service.app != *key) {
            plan.unmet.push(format!("the service {} is of app {} still", key_of_service.name, other.app.name));
            let again = Timestamp::from_millis(input.now.as_millis().saturating_add(LOOK_AGAIN_MS));
            plan.again_at = Some(plan.again_at.map_or(again, |at| at.min(again)));
            continue;
        }
        let kept = existing.map(|service| service.addresses).filter(|addresses| *addresses != Addresses::default());
        let addresses = match (headless, kept) {
            (true, _) => Addresses::default(),
            (false, Some(kept)) => kept,
            (false, None) => match free(&held, (input.services.v4, input.services.v6), input.cursor.services) {
                Ok(addresses) => {
                    input.cursor.services = last(addresses, input.cursor.services);
                    held.add(&addresses);
                    addresses
                }
                Err(reason) => {
                    plan.unmet.push(reason);
                    continue;
                }
            },
        };
        let balance = app.spec.balance.clone();
        let service = match existing {
            Some(service) => Service { addresses, ports, dns_names, networks, balance, ..service.clone() },
            None => {
                last_id += 1;
                Service {
                    key: key_of_service,
                    id: last_id,
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
        };
        if existing != Some(&service) {
            plan.changes.push(Change::PutService(Box::new(service)));
        }
    }
    if last_id > snapshot.last_service_id {
        plan.changes.push(Change::CountServices(last_id));
    }
}

/// The services that an app is to have.
fn wanted(snapshot: &ClusterSnapshot, app: &App) -> BTreeMap<ServiceName, Wanted> {
    let mut wanted = BTreeMap::new();
    let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect::<Vec<_>>();
    let named = !app.spec.ports.is_empty()
        || !app.spec.services.is_empty()
        || !app.spec.networks.is_empty()
        || !app.spec.more_services.is_empty()
        || app.spec.headless;
    if let Ok(name) = app.key.name.as_str().parse()
        && (named || has_ports_still(snapshot, app))
    {
        let ports = ports(snapshot, app);
        let own = Wanted {
            dns_names: lower(&app.spec.services),
            networks: networks(app),
            ports,
            headless: app.spec.headless,
        };
        wanted.insert(name, own);
    }
    for (name, spec) in &app.spec.more_services {
        // Where there are networks, its name is seen in those of its app.
        let networks = app.spec.networks.keys().map(|network| (network.clone(), BTreeSet::from([name.to_string()])));
        let mut ports = ServicePort::further(spec);
        let former = serving(snapshot, app).filter(|(instance, _)| instance.generation != app.generation);
        let former = former.filter_map(|(instance, _)| instance.spec.more_services.get(name));
        let others: BTreeSet<_> = former.flat_map(ServicePort::further).collect();
        ports.extend(others.into_iter().filter(|port| !ports.contains(port)).collect::<Vec<_>>());
        let one =
            Wanted { dns_names: lower(&spec.dns_names), networks: networks.collect(), ports, headless: spec.headless };
        wanted.insert(name.clone(), one);
    }
    wanted
}

/// The networks of the app, with all names that it has in each.
fn networks(app: &App) -> BTreeMap<String, BTreeSet<String>> {
    let names = |aliases: &BTreeSet<String>| {
        aliases.iter().map(|name| name.to_ascii_lowercase()).chain([app.key.name.to_string()]).collect()
    };
    app.spec.networks.iter().map(|(network, aliases)| (network.clone(), names(aliases))).collect()
}

/// The instances of an app that somebody has said something of, with that.
fn said<'a>(snapshot: &'a ClusterSnapshot, app: &'a App) -> impl Iterator<Item = (&'a Instance, &'a InstanceStatus)> {
    snapshot.instances_of(&app.key).filter_map(|instance| {
        let status = snapshot.instance_status.get(&instance.id)?;
        Some((&**instance, &*status.object))
    })
}

/// Those of them that serve.
fn serving<'a>(
    snapshot: &'a ClusterSnapshot,
    app: &'a App,
) -> impl Iterator<Item = (&'a Instance, &'a InstanceStatus)> {
    said(snapshot, app).filter(|(_, status)| status.phase == Phase::Ready || status.serving)
}

/// The ports of the newest generation, then those of older instances that serve: an app that is changed to other ports
/// has both until the last of them is gone, so that a wrong port takes nothing down.
fn ports(snapshot: &ClusterSnapshot, app: &App) -> Vec<ServicePort> {
    let mut ports = if app.spec.ports.is_empty() { Vec::new() } else { ServicePort::all(&app.spec, &[]) };
    let newest = |instance: &Instance| instance.generation == app.generation && app.spec.ports.is_empty();
    let newest = said(snapshot, app).filter(|(instance, _)| newest(instance));
    let all = newest.chain(serving(snapshot, app));
    let mut others: BTreeSet<_> =
        all.flat_map(|(instance, status)| ServicePort::all(&instance.spec, &status.exposed)).collect();
    others.retain(|port| !ports.contains(port));
    ports.extend(others);
    ports
}

/// Whether an instance that runs has declared ports, though the app has none any more.
fn has_ports_still(snapshot: &ClusterSnapshot, app: &App) -> bool {
    let mut running = snapshot.instances_of(&app.key).filter(|instance| instance.desired == Desired::Run);
    running.any(|instance| instance.generation != app.generation && !instance.spec.ports.is_empty())
}
