//! All rows of the store, decoded. The maps share structure, so that a copy costs next to nothing.

use std::{collections::BTreeSet, sync::Arc};

use imbl::OrdMap;

use serde::{Deserialize, Serialize};

use super::{
    Addresses, App, AppKey, Backend, Content, ContentKey, ContentKind, ContentName, ContentVersions, Desired, Done,
    Instance, InstanceId, InstanceStatus, Namespace, Node, NodeName, NodeStatus, Past, Phase, Policy, PolicyKey,
    Protocol, Revision, Rollout, Scope, ServedService, Service, ServiceKey, ServicePort, Tenant, TenantName, TierKey,
    TierPolicy, Volume, VolumeKey,
    index::{Held, HeldAddresses, Index},
};

use crate::spec::v1::{AppSpec, FileSpec};

/// A decoded row with the revision that last wrote it (its ETag).
#[derive(Clone, Debug, PartialEq)]
pub struct Row<T> {
    /// The object.
    pub object: Arc<T>,
    /// The revision.
    pub modified: Revision,
}

/// The addresses that were given last. The search for a free one goes on behind them, also after a restart: somebody may
/// still know an address that was freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cursor {
    /// To an instance.
    pub instances: Addresses,
    /// To a service.
    pub services: Addresses,
}

/// Everything in the store as of one revision. Who changes apps, instances or services does so by its methods,
/// which keep an index of what they hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterSnapshot {
    /// The revision.
    pub revision: Revision,
    /// Apps.
    pub apps: OrdMap<AppKey, Row<App>>,
    /// Instances.
    pub instances: OrdMap<InstanceId, Row<Instance>>,
    /// What agents saw of them.
    pub instance_status: OrdMap<InstanceId, Row<InstanceStatus>>,
    /// How far apps are on the way to their newest generation.
    pub rollouts: OrdMap<AppKey, Row<Rollout>>,
    /// The generations that apps had.
    pub past: OrdMap<(AppKey, u64), Row<Past>>,
    /// Services.
    pub services: OrdMap<ServiceKey, Row<Service>>,
    /// Tenants that have a row: all but `default`, which has one if it was given limits.
    pub tenants: OrdMap<TenantName, Row<Tenant>>,
    /// Namespaces that have a row: those that were created, and those named `default` that were given labels.
    pub namespaces: OrdMap<Scope, Row<Namespace>>,
    /// Policies.
    pub policies: OrdMap<PolicyKey, Row<Policy>>,
    /// Policies of tiers.
    pub tiers: OrdMap<TierKey, Row<TierPolicy>>,
    /// Volumes.
    pub volumes: OrdMap<VolumeKey, Row<Volume>>,
    /// Secrets and configs.
    pub contents: OrdMap<(ContentKind, ContentKey), Row<Content>>,
    /// What was answered to requests with a key, by the key's digest.
    pub done: OrdMap<String, Row<Done>>,
    /// Nodes.
    pub nodes: OrdMap<NodeName, Row<Node>>,
    /// What agents say of them.
    pub node_status: OrdMap<NodeName, Row<NodeStatus>>,
    /// The highest number that a service ever had.
    pub last_service_id: u32,
    /// The addresses that were given last.
    pub cursor: Cursor,
    /// Why apps are not what they should be, in the user's words: no node fits, no address is free. Not of the
    /// store; found by the last planning.
    pub unmet: OrdMap<AppKey, Arc<Vec<String>>>,
    /// Which apps they wait for before their first instance is made. Not of the store either.
    pub waits: OrdMap<AppKey, Arc<Vec<String>>>,
    index: Index,
}

impl ClusterSnapshot {
    /// Nothing, as of `revision`.
    pub fn at(revision: Revision) -> Self {
        Self { revision, ..Self::default() }
    }

    /// The status of an instance; pending if its agent has said nothing yet.
    pub fn status_of(&self, id: &InstanceId) -> InstanceStatus {
        self.instance_status.get(id).map(|row| (*row.object).clone()).unwrap_or_default()
    }

    /// The phase of an instance.
    pub fn phase_of(&self, id: &InstanceId) -> Phase {
        self.instance_status.get(id).map(|row| row.object.phase).unwrap_or_default()
    }

    /// Whether there is such a tenant.
    pub fn has_tenant(&self, tenant: &TenantName) -> bool {
        tenant.is_default() || self.tenants.contains_key(tenant)
    }

    /// Whether there is such a namespace, and its tenant.
    pub fn has_namespace(&self, scope: &Scope) -> bool {
        self.has_tenant(&scope.tenant) && (scope.is_default_of_tenant() || self.namespaces.contains_key(scope))
    }

    /// The instances of an app, in id order.
    pub fn instances_of<'a>(&'a self, app: &'a AppKey) -> impl Iterator<Item = &'a Arc<Instance>> {
        let ids = self.index.by_app.get(app).into_iter().flat_map(|ids| ids.iter());
        ids.filter_map(|id| self.instances.get(id)).map(|row| &row.object)
    }

    /// Who uses a volume, in words: apps, and instances that are still there of what an app was.
    pub fn users_of(&self, volume: &VolumeKey) -> Vec<String> {
        self.users(&volume.scope, |spec| spec.all_mounts().any(|mount| mount.volume() == Some(&volume.name)))
    }

    /// Who uses a secret or a config, in the same words.
    pub fn users_of_content(&self, kind: ContentKind, key: &ContentKey) -> Vec<String> {
        self.users(&key.scope, |spec| spec.contents().any(|(other, file)| other == kind && file.name == key.name))
    }

    /// The secrets and configs of a specification as they are now.
    pub fn contents_of(&self, scope: &Scope, spec: &AppSpec) -> ContentVersions {
        let mut versions = ContentVersions::default();
        for (kind, file) in spec.contents() {
            let key = (kind, ContentKey::new(scope.clone(), file.name.clone()));
            if let Some(row) = self.contents.get(&key) {
                versions.set(kind, file.name.clone(), row.object.version);
            }
        }
        versions
    }

    /// The secrets and configs whose newest content an instance does not have, ordered and each once.
    pub fn outdated_contents(&self, instance: &Instance) -> BTreeSet<(ContentKind, ContentName)> {
        let started = self.instance_status.get(&instance.id).map(|row| &row.object.contents);
        let outdated = |(kind, file): &(ContentKind, &FileSpec)| {
            let key = (*kind, ContentKey::new(instance.app.scope.clone(), file.name.clone()));
            let Some(now) = self.contents.get(&key).map(|row| &row.object) else { return false };
            let placed = instance.contents.get(*kind, &file.name);
            match placed.max(started.and_then(|started| started.get(*kind, &file.name))) {
                Some(version) => version < now.version,
                // Placed by a version that noted none.
                None => instance.created_at < now.changed_at,
            }
        };
        instance.spec.contents().filter(outdated).map(|(kind, file)| (kind, file.name.clone())).collect()
    }

    fn users(&self, scope: &Scope, uses: impl Fn(&AppSpec) -> bool) -> Vec<String> {
        let apps = self.apps.values().map(|row| &row.object).filter(|app| app.key.scope == *scope);
        let apps = apps.filter(|app| !app.deleting && uses(&app.spec));
        let mut users: Vec<_> = apps.map(|app| format!("app {}", app.key.name)).collect();
        let instances = self.instances.values().map(|row| &row.object).filter(|i| i.app.scope == *scope);
        users.extend(instances.filter(|i| uses(&i.spec)).map(|i| format!("instance {}", i.name())));
        users
    }

    /// The generations that an app had, oldest first.
    pub fn past_of<'a>(&'a self, app: &AppKey) -> impl DoubleEndedIterator<Item = &'a Arc<Past>> + use<'a> {
        self.past.range((app.clone(), 0)..=(app.clone(), u64::MAX)).map(|(_, row)| &row.object)
    }

    /// What the instances of a node hold of it.
    pub fn held_of(&self, node: &NodeName) -> Held {
        self.index.nodes.get(node).copied().unwrap_or_default()
    }

    /// The addresses of all instances and services.
    pub fn held_addresses(&self) -> &HeldAddresses {
        &self.index.addresses
    }

    /// The app that has a DNS name besides its own, in any case of letters.
    pub fn app_named(&self, dns_name: &str) -> Option<&AppKey> {
        self.index.dns_names.get(&dns_name.to_ascii_lowercase())
    }

    /// The services of an app.
    pub fn services_of<'a>(&'a self, app: &AppKey) -> impl Iterator<Item = &'a Arc<Service>> + use<'a> {
        let keys = self.index.services.get(app).into_iter().flat_map(|keys| keys.iter());
        keys.filter_map(|key| self.services.get(key)).map(|row| &row.object)
    }

    /// The app that says it has a service of that name, besides the one of its own name.
    pub fn app_serving(&self, service: &ServiceKey) -> Option<&AppKey> {
        self.index.serving.get(service)
    }

    /// The app that publishes a port.
    pub fn app_publishing(&self, port: u16, protocol: Protocol) -> Option<&AppKey> {
        self.index.published.get(&(port, protocol))
    }

    /// The apps that wait for this one before their first instance is made.
    pub fn dependents_of(&self, app: &AppKey) -> impl Iterator<Item = &AppKey> {
        self.index.dependents.get(app).into_iter().flat_map(|dependents| dependents.iter())
    }

    /// Writes an app's row, or removes it.
    pub fn set_app(&mut self, key: &AppKey, row: Option<Row<App>>) {
        let new = row.as_ref().map(|row| Arc::clone(&row.object));
        let old = replace(&mut self.apps, key, row);
        if let Some(old) = old {
            self.index.remove_app(&old.object);
        }
        if let Some(new) = new {
            self.index.add_app(&new);
        }
    }

    /// Writes an instance's row, or removes it.
    pub fn set_instance(&mut self, id: &InstanceId, row: Option<Row<Instance>>) {
        let new = row.as_ref().map(|row| Arc::clone(&row.object));
        let old = replace(&mut self.instances, id, row);
        if let Some(old) = old {
            self.index.remove_instance(&old.object);
        }
        if let Some(new) = new {
            self.index.add_instance(&new);
        }
    }

    /// Writes a service's row, or removes it.
    pub fn set_service(&mut self, key: &ServiceKey, row: Option<Row<Service>>) {
        let new = row.as_ref().map(|row| Arc::clone(&row.object));
        let old = replace(&mut self.services, key, row);
        if let Some(old) = old {
            self.index.remove_service(&old.object);
        }
        if let Some(new) = new {
            self.index.add_service(&new);
        }
    }

    /// A service with its Ready instances.
    pub fn served(&self, service: &Service) -> ServedService {
        self.served_by(service, self.instances_of(&service.app))
    }

    /// A service with the Ready ones of these instances, which are its app's.
    pub fn served_by<'a>(
        &self,
        service: &Service,
        instances: impl Iterator<Item = &'a Arc<Instance>>,
    ) -> ServedService {
        let instances: Vec<_> = instances.collect();
        // Only while an app is changed do its instances have different ports.
        let several = instances.iter().any(|instance| instance.generation != instances[0].generation);
        let (mut ready, mut leaving) = (Vec::new(), Vec::new());
        for instance in instances {
            let status = self.instance_status.get(&instance.id).map(|row| &*row.object);
            let phase = status.map(|status| status.phase).unwrap_or_default();
            // One that is to stop gets no new connections from this revision on, unless there is nobody else.
            let among = match instance.desired {
                Desired::Run if phase == Phase::Ready => &mut ready,
                Desired::Stop if phase == Phase::Ready || status.is_some_and(|status| status.serving) => &mut leaving,
                _ => continue,
            };
            let own =
                several.then(|| ServicePort::of(service, &instance.spec, status.map_or(&[], |status| &status.exposed)));
            let ports = own.filter(|own| !service.ports.iter().all(|port| own.contains(port)));
            among.push(Backend {
                ports,
                id: instance.id.clone(),
                node: instance.node.clone(),
                addresses: instance.addresses,
                weight: service.shares.weight(&instance.id, instance.generation),
            });
        }
        let none_ready = ready.is_empty() && !leaving.is_empty();
        let backends = if none_ready { leaving } else { ready };
        ServedService { service: service.clone(), backends, leaving: none_ready }
    }
}

fn replace<K: Clone + Ord, V: Clone>(map: &mut OrdMap<K, V>, key: &K, row: Option<V>) -> Option<V> {
    match row {
        Some(row) => map.insert(key.clone(), row),
        None => map.remove(key),
    }
}
