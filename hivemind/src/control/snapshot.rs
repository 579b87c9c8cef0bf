//! All rows, decoded.

use std::{collections::BTreeMap, sync::Arc};

use crate::model::{
    App, AppKey, Backend, Instance, InstanceId, InstanceStatus, Node, NodeName, NodeStatus, Phase, Revision,
    ServedService, Service, ServiceKey,
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
    pub apps: BTreeMap<AppKey, Row<App>>,
    /// Instances.
    pub instances: BTreeMap<InstanceId, Row<Instance>>,
    /// What agents saw of them.
    pub instance_status: BTreeMap<InstanceId, Row<InstanceStatus>>,
    /// Services.
    pub services: BTreeMap<ServiceKey, Row<Service>>,
    /// Nodes.
    pub nodes: BTreeMap<NodeName, Row<Node>>,
    /// What agents say of them.
    pub node_status: BTreeMap<NodeName, Row<NodeStatus>>,
    /// The next number for a service in the data plane.
    pub next_service_id: u32,
}

impl ClusterSnapshot {
    /// The status of an instance; pending if its agent has said nothing yet.
    pub fn status_of(&self, id: &InstanceId) -> InstanceStatus {
        self.instance_status.get(id).map(|row| (*row.object).clone()).unwrap_or_default()
    }

    /// The instances of an app, in id order.
    pub fn instances_of<'a>(&'a self, app: &'a AppKey) -> impl Iterator<Item = &'a Arc<Instance>> {
        self.instances.values().map(|row| &row.object).filter(move |instance| instance.app == *app)
    }

    /// A service with its Ready instances.
    pub fn served(&self, service: &Service) -> ServedService {
        let ready = |instance: &&Arc<Instance>| self.status_of(&instance.id).phase == Phase::Ready;
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
