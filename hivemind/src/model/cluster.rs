//! All rows of the store, decoded. The maps share structure, so that a copy costs next to nothing.

use std::sync::Arc;

use imbl::OrdMap;

use super::{
    App, AppKey, Backend, Desired, Instance, InstanceId, InstanceStatus, Node, NodeName, NodeStatus, Phase, Revision,
    Scope, ServedService, Service, ServiceKey,
};

/// A decoded row with the revision that last wrote it (its ETag).
#[derive(Clone, Debug, PartialEq)]
pub struct Row<T> {
    /// The object.
    pub object: Arc<T>,
    /// The revision.
    pub modified: Revision,
}

/// Everything in the store as of one revision.
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
    /// Services.
    pub services: OrdMap<ServiceKey, Row<Service>>,
    /// Nodes.
    pub nodes: OrdMap<NodeName, Row<Node>>,
    /// What agents say of them.
    pub node_status: OrdMap<NodeName, Row<NodeStatus>>,
    /// The identity of each namespace.
    pub identities: OrdMap<Scope, u32>,
    /// The highest number that a service ever had.
    pub last_service_id: u32,
}

impl ClusterSnapshot {
    /// The status of an instance; pending if its agent has said nothing yet.
    pub fn status_of(&self, id: &InstanceId) -> InstanceStatus {
        self.instance_status.get(id).map(|row| (*row.object).clone()).unwrap_or_default()
    }

    /// The phase of an instance.
    pub fn phase_of(&self, id: &InstanceId) -> Phase {
        self.instance_status.get(id).map(|row| row.object.phase).unwrap_or_default()
    }

    /// The instances of an app, in id order.
    pub fn instances_of<'a>(&'a self, app: &'a AppKey) -> impl Iterator<Item = &'a Arc<Instance>> {
        self.instances.values().map(|row| &row.object).filter(move |instance| instance.app == *app)
    }

    /// A service with its Ready instances.
    pub fn served(&self, service: &Service) -> ServedService {
        // One that is to stop gets no new connections from this revision on.
        let ready =
            |instance: &&Arc<Instance>| instance.desired == Desired::Run && self.phase_of(&instance.id) == Phase::Ready;
        let backends = self
            .instances_of(&service.app)
            .filter(ready)
            .map(|instance| Backend {
                id: instance.id.clone(),
                node: instance.node.clone(),
                addresses: instance.addresses,
            })
            .collect();
        ServedService { service: service.clone(), backends }
    }
}
