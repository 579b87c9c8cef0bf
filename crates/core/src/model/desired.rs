//! What one node is told: its instances, every service with its Ready instances, and who has which address.
//!
//! The words of the feed from `control` to an agent. The agent never reads the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::{
    Addresses, AppKey, ClusterSnapshot, Content, ContentKey, ContentKind, Instance, InstanceId, InstanceStatus,
    Namespace, NodeName, Policy, PolicyKey, Revision, Scope, Service, ServiceKey, ServicePort, Tenant, TenantName,
    TierKey, TierPolicy, Volume, VolumeKey,
};

/// A service with those that serve it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedService {
    /// The service.
    pub service: Service,
    /// Its Ready instances, ordered by id. Without any, those that are being stopped and can still serve.
    pub backends: Vec<Backend>,
    /// Whether they are those that are being stopped. Who has the service's address still reaches them; its names have no
    /// address any more.
    pub leaving: bool,
}

/// An instance behind a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Backend {
    /// The instance.
    pub id: InstanceId,
    /// Where it runs.
    pub node: NodeName,
    /// Its addresses.
    pub addresses: Addresses,
    /// Its share of new connections, 0 to [`super::MAX_WEIGHT`].
    pub weight: u16,
    /// The ports that it has, if not all of the service's: while an app is changed to other ports, each generation serves
    /// its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<ServicePort>>,
}

impl ServedService {
    /// The ports of the service that a backend has.
    pub fn ports_of<'a>(&'a self, backend: &'a Backend) -> &'a [ServicePort] {
        backend.ports.as_ref().unwrap_or(&self.service.ports)
    }
}

/// Whose an address is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Where it runs.
    pub node: NodeName,
    /// Its addresses.
    pub addresses: Addresses,
    /// Tenant and namespace.
    pub scope: Scope,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl From<&Instance> for Peer {
    fn from(instance: &Instance) -> Self {
        Self {
            node: instance.node.clone(),
            addresses: instance.addresses,
            scope: instance.app.scope.clone(),
            labels: instance.spec.labels.clone(),
        }
    }
}

/// One message of the feed. A feed begins with everything there is, then [`FeedMessage::SnapshotEnd`], then changes.
/// Before the end mark nothing may be deleted: what was not named yet may still come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FeedMessage {
    /// An instance of this node is new or has changed.
    Instance(Arc<Instance>),
    /// An instance of this node is no longer wanted and all of it is to be removed.
    InstanceGone(InstanceId),
    /// A service is new or has changed.
    Service(Arc<ServedService>),
    /// A service is gone.
    ServiceGone(ServiceKey),
    /// An instance of any node has these addresses.
    Peer(InstanceId, Arc<Peer>),
    /// It is gone.
    PeerGone(InstanceId),
    /// A namespace is new or has changed.
    Namespace(Arc<Namespace>),
    /// A namespace is gone.
    NamespaceGone(Scope),
    /// A tenant is new or has changed.
    Tenant(Arc<Tenant>),
    /// A tenant is gone.
    TenantGone(TenantName),
    /// A policy is new or has changed.
    Policy(Arc<Policy>),
    /// A policy is gone.
    PolicyGone(PolicyKey),
    /// A policy of a tier is new or has changed.
    TierPolicy(Arc<TierPolicy>),
    /// A policy of a tier is gone.
    TierPolicyGone(TierKey),
    /// A volume is new or has changed.
    Volume(Arc<Volume>),
    /// A volume is gone.
    VolumeGone(VolumeKey),
    /// A secret or a config is new or has changed.
    Content(Arc<Content>),
    /// A secret or a config is gone.
    ContentGone(ContentKind, ContentKey),
    /// The images that an app is made of, as it names them, whether it has instances or not. None: the app is gone.
    Images(AppKey, Arc<BTreeSet<String>>),
    /// A node has these addresses.
    Node(NodeName, Arc<Vec<IpAddr>>),
    /// It is gone.
    NodeGone(NodeName),
    /// All that was there at this revision has been said; sent again after each later revision's changes.
    SnapshotEnd(Revision),
}

/// What an agent should bring about, assembled from the feed. A clone is cheap and shares what it has with the original,
/// so that two of them are compared by what differs.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct NodeDesired {
    /// The revision of the last complete state; 0 before the first end mark, and then nothing may be deleted.
    pub revision: Revision,
    /// The instances of this node.
    pub instances: OrdMap<InstanceId, Arc<Instance>>,
    /// All services.
    pub services: OrdMap<ServiceKey, Arc<ServedService>>,
    /// All instances' addresses.
    pub peers: OrdMap<InstanceId, Arc<Peer>>,
    /// All namespaces that have a row.
    pub namespaces: OrdMap<Scope, Arc<Namespace>>,
    /// All tenants that have a row.
    pub tenants: OrdMap<TenantName, Arc<Tenant>>,
    /// All policies.
    pub policies: OrdMap<PolicyKey, Arc<Policy>>,
    /// All policies of tiers.
    pub tiers: OrdMap<TierKey, Arc<TierPolicy>>,
    /// All volumes.
    pub volumes: OrdMap<VolumeKey, Arc<Volume>>,
    /// All secrets and configs.
    pub contents: OrdMap<(ContentKind, ContentKey), Arc<Content>>,
    /// The images of all apps, as they name them.
    pub images: OrdMap<AppKey, Arc<BTreeSet<String>>>,
    /// All nodes' own addresses.
    pub nodes: OrdMap<NodeName, Arc<Vec<IpAddr>>>,
}

impl NodeDesired {
    /// Everything that policies are compiled from, and nothing else.
    pub fn for_policies(snapshot: &ClusterSnapshot) -> Self {
        let instances = snapshot.instances.iter();
        Self {
            peers: instances.map(|(id, row)| (id.clone(), Arc::new(Peer::from(&*row.object)))).collect(),
            namespaces: snapshot.namespaces.iter().map(|(key, row)| (key.clone(), Arc::clone(&row.object))).collect(),
            policies: snapshot.policies.iter().map(|(key, row)| (key.clone(), Arc::clone(&row.object))).collect(),
            tiers: snapshot.tiers.iter().map(|(key, row)| (key.clone(), Arc::clone(&row.object))).collect(),
            ..Self::default()
        }
    }

    /// Takes in one message.
    pub fn apply(&mut self, message: FeedMessage) {
        match message {
            FeedMessage::Instance(instance) => {
                self.instances.insert(instance.id.clone(), instance);
            }
            FeedMessage::InstanceGone(id) => {
                self.instances.remove(&id);
            }
            FeedMessage::Service(served) => {
                self.services.insert(served.service.key.clone(), served);
            }
            FeedMessage::ServiceGone(key) => {
                self.services.remove(&key);
            }
            FeedMessage::Peer(id, peer) => {
                self.peers.insert(id, peer);
            }
            FeedMessage::PeerGone(id) => {
                self.peers.remove(&id);
            }
            FeedMessage::Namespace(namespace) => {
                self.namespaces.insert(namespace.scope.clone(), namespace);
            }
            FeedMessage::NamespaceGone(scope) => {
                self.namespaces.remove(&scope);
            }
            FeedMessage::Tenant(tenant) => {
                self.tenants.insert(tenant.name.clone(), tenant);
            }
            FeedMessage::TenantGone(name) => {
                self.tenants.remove(&name);
            }
            FeedMessage::Policy(policy) => {
                self.policies.insert(policy.key.clone(), policy);
            }
            FeedMessage::PolicyGone(key) => {
                self.policies.remove(&key);
            }
            FeedMessage::TierPolicy(policy) => {
                self.tiers.insert(policy.key.clone(), policy);
            }
            FeedMessage::TierPolicyGone(key) => {
                self.tiers.remove(&key);
            }
            FeedMessage::Volume(volume) => {
                self.volumes.insert(volume.key.clone(), volume);
            }
            FeedMessage::VolumeGone(key) => {
                self.volumes.remove(&key);
            }
            FeedMessage::Content(content) => {
                self.contents.insert((content.kind, content.key.clone()), content);
            }
            FeedMessage::ContentGone(kind, key) => {
                self.contents.remove(&(kind, key));
            }
            FeedMessage::Images(app, images) if images.is_empty() => {
                self.images.remove(&app);
            }
            FeedMessage::Images(app, images) => {
                self.images.insert(app, images);
            }
            FeedMessage::Node(name, addresses) => {
                self.nodes.insert(name, addresses);
            }
            FeedMessage::NodeGone(name) => {
                self.nodes.remove(&name);
            }
            FeedMessage::SnapshotEnd(revision) => self.revision = revision,
        }
    }
}

/// What an agent says of one of its instances. [`super::Phase::Gone`] is said when nothing of it is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The instance.
    pub id: InstanceId,
    /// Its app: the status is stored under it, also when the instance's row is gone.
    pub app: AppKey,
    /// What was seen.
    pub status: InstanceStatus,
}
