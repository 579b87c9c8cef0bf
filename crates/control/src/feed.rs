//! What a node is told, and what it was told already.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use tokio::sync::mpsc;

use super::decode::Dirty;
use hivemind_core::model::{AppKey, ClusterSnapshot, FeedMessage, Instance, NodeName, Peer, ServedService, ServiceKey};

/// Messages that may wait for a slow agent; beyond that its feed is ended, and it asks for a new one.
const QUEUE: usize = 65_536;

/// The feed of one agent.
#[derive(Debug)]
pub(super) struct Feed {
    node: NodeName,
    to: mpsc::Sender<FeedMessage>,
    /// What was last said of each service: the same is not said twice.
    said: BTreeMap<ServiceKey, Arc<ServedService>>,
    /// The images that were last said of each app.
    images: BTreeMap<AppKey, Arc<BTreeSet<String>>>,
    /// What was last said of each node.
    nodes: BTreeMap<NodeName, Arc<Vec<IpAddr>>>,
    /// A message did not fit or the agent has gone: the feed ends, so that nothing is missed silently.
    broken: bool,
}

impl Feed {
    /// A new feed, with everything there is already in it.
    pub(super) fn begin(node: NodeName, snapshot: &ClusterSnapshot) -> (Self, mpsc::Receiver<FeedMessage>) {
        // Everything must fit beside what may come while the agent takes it in.
        let policies = snapshot.namespaces.len() + snapshot.policies.len() + snapshot.tiers.len();
        let policies = policies + snapshot.node_status.len() + snapshot.volumes.len() + snapshot.contents.len();
        let apps = snapshot.apps.len() + snapshot.services.len();
        let size = snapshot.instances.len() * 2 + apps + snapshot.tenants.len() + policies + QUEUE;
        let (to, messages) = mpsc::channel(size);
        let (said, images, nodes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut feed = Self { node, to, said, images, nodes, broken: false };
        let mut instances: BTreeMap<&AppKey, Vec<&Arc<Instance>>> = BTreeMap::new();
        for row in snapshot.instances.values() {
            let instance = &row.object;
            feed.say_instance(instance);
            instances.entry(&instance.app).or_default().push(instance);
        }
        for row in snapshot.services.values() {
            let of_app = instances.get(&row.object.app).into_iter().flatten().copied();
            feed.say_service(snapshot.served_by(&row.object, of_app));
        }
        for app in snapshot.apps.keys() {
            feed.say_images(app, snapshot);
        }
        for row in snapshot.namespaces.values() {
            feed.say(FeedMessage::Namespace(Arc::clone(&row.object)));
        }
        for row in snapshot.tenants.values() {
            feed.say(FeedMessage::Tenant(Arc::clone(&row.object)));
        }
        for row in snapshot.policies.values() {
            feed.say(FeedMessage::Policy(Arc::clone(&row.object)));
        }
        for row in snapshot.tiers.values() {
            feed.say(FeedMessage::TierPolicy(Arc::clone(&row.object)));
        }
        for row in snapshot.volumes.values() {
            feed.say(FeedMessage::Volume(Arc::clone(&row.object)));
        }
        for row in snapshot.contents.values() {
            feed.say(FeedMessage::Content(Arc::clone(&row.object)));
        }
        feed.say_nodes(snapshot);
        feed.say(FeedMessage::SnapshotEnd(snapshot.revision));
        (feed, messages)
    }

    /// Says what changed. False if the agent has gone, or is too slow.
    pub(super) fn update(&mut self, snapshot: &ClusterSnapshot, dirty: &Dirty) -> bool {
        for id in &dirty.instances {
            match snapshot.instances.get(id) {
                Some(row) => self.say_instance(&row.object),
                None => {
                    self.say(FeedMessage::InstanceGone(id.clone()));
                    self.say(FeedMessage::PeerGone(id.clone()));
                }
            }
        }
        for app in &dirty.apps {
            self.say_images(app, snapshot);
        }
        let of_apps = dirty.apps.iter().flat_map(|app| snapshot.services_of(app)).map(|service| service.key.clone());
        for key in of_apps.chain(dirty.services.iter().cloned()) {
            match snapshot.services.get(&key) {
                Some(row) => self.say_service(snapshot.served(&row.object)),
                None => {
                    if self.said.remove(&key).is_some() {
                        self.say(FeedMessage::ServiceGone(key));
                    }
                }
            }
        }
        for scope in &dirty.namespaces {
            self.say(match snapshot.namespaces.get(scope) {
                Some(row) => FeedMessage::Namespace(Arc::clone(&row.object)),
                None => FeedMessage::NamespaceGone(scope.clone()),
            });
        }
        for name in &dirty.tenants {
            self.say(match snapshot.tenants.get(name) {
                Some(row) => FeedMessage::Tenant(Arc::clone(&row.object)),
                None => FeedMessage::TenantGone(name.clone()),
            });
        }
        for key in &dirty.policies {
            self.say(match snapshot.policies.get(key) {
                Some(row) => FeedMessage::Policy(Arc::clone(&row.object)),
                None => FeedMessage::PolicyGone(key.clone()),
            });
        }
        for key in &dirty.tiers {
            self.say(match snapshot.tiers.get(key) {
                Some(row) => FeedMessage::TierPolicy(Arc::clone(&row.object)),
                None => FeedMessage::TierPolicyGone(key.clone()),
            });
        }
        for key in &dirty.volumes {
            self.say(match snapshot.volumes.get(key) {
                Some(row) => FeedMessage::Volume(Arc::clone(&row.object)),
                None => FeedMessage::VolumeGone(key.clone()),
            });
        }
        for key in &dirty.contents {
            self.say(match snapshot.contents.get(key) {
                Some(row) => FeedMessage::Content(Arc::clone(&row.object)),
                None => FeedMessage::ContentGone(key.0, key.1.clone()),
            });
        }
        if dirty.nodes {
            self.say_nodes(snapshot);
        }
        self.say(FeedMessage::SnapshotEnd(snapshot.revision));
        !self.broken
    }

    fn say_instance(&mut self, instance: &Arc<Instance>) {
        if instance.node == self.node {
            self.say(FeedMessage::Instance(Arc::clone(instance)));
        }
        self.say(FeedMessage::Peer(instance.id.clone(), Arc::new(Peer::from(&**instance))));
    }

    fn say_service(&mut self, served: ServedService) {
        let key = served.service.key.clone();
        if self.said.get(&key).is_none_or(|said| **said != served) {
            let served = Arc::new(served);
            self.said.insert(key, Arc::clone(&served));
            self.say(FeedMessage::Service(served));
        }
    }

    /// Says which images an app is made of, if they are others than were said.
    fn say_images(&mut self, app: &AppKey, snapshot: &ClusterSnapshot) {
        let images = snapshot.apps.get(app).map(|row| row.object.spec.images().map(str::to_owned).collect());
        let images: BTreeSet<_> = images.unwrap_or_default();
        if self.images.get(app).is_some_and(|said| **said == images) {
            return;
        }
        let images = Arc::new(images);
        if images.is_empty() {
            self.images.remove(app);
        } else {
            self.images.insert(app.clone(), Arc::clone(&images));
        }
        self.say(FeedMessage::Images(app.clone(), images));
    }

    /// Says what has changed of the nodes' addresses.
    fn say_nodes(&mut self, snapshot: &ClusterSnapshot) {
        let gone = self.nodes.extract_if(.., |name, _| !snapshot.node_status.contains_key(name));
        for (name, _) in gone.collect::<Vec<_>>() {
            self.say(FeedMessage::NodeGone(name));
        }
        for (name, row) in &snapshot.node_status {
            let addresses = &row.object.addresses;
            if self.nodes.get(name).is_none_or(|said| **said != *addresses) {
                let addresses = Arc::new(addresses.clone());
                self.nodes.insert(name.clone(), Arc::clone(&addresses));
                self.say(FeedMessage::Node(name.clone(), addresses));
            }
        }
    }

    fn say(&mut self, message: FeedMessage) {
        self.broken |= self.to.try_send(message).is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_nodes_are_said_once_and_when_they_change() {
        use hivemind_core::model::{NodeStatus, Row};
        let mut snapshot = ClusterSnapshot::at(1);
        let set = |snapshot: &mut ClusterSnapshot, addresses: Vec<IpAddr>, ready| {
            let status = NodeStatus { addresses, ready, ..NodeStatus::default() };
            snapshot.node_status.insert("b".parse().expect("a name"), Row { object: Arc::new(status), modified: 1 });
        };
        let said = |messages: &mut mpsc::Receiver<FeedMessage>| {
            let mut said = Vec::new();
            while let Ok(message) = messages.try_recv() {
                match message {
                    FeedMessage::Node(name, addresses) => said.push((name.to_string(), addresses.len())),
                    FeedMessage::NodeGone(name) => said.push((name.to_string(), 0)),
                    _ => {}
                }
            }
            said
        };
        set(&mut snapshot, vec![[192, 0, 2, 3].into()], false);
        let (mut feed, mut messages) = Feed::begin("a".parse().expect("a name"), &snapshot);
        assert_eq!(said(&mut messages), [("b".to_owned(), 1)]);
        let dirty = Dirty { nodes: true, ..Dirty::default() };
        set(&mut snapshot, vec![[192, 0, 2, 3].into()], true);
        assert!(feed.update(&snapshot, &dirty));
        assert_eq!(said(&mut messages), []);
        set(&mut snapshot, vec![[192, 0, 2, 3].into(), [192, 0, 2, 4].into()], true);
        assert!(feed.update(&snapshot, &dirty));
        assert_eq!(said(&mut messages), [("b".to_owned(), 2)]);
        snapshot.node_status.clear();
        assert!(feed.update(&snapshot, &dirty));
        assert_eq!(said(&mut messages), [("b".to_owned(), 0)]);
    }

    #[test]
    fn a_feed_whose_agent_has_gone_ends() {
        let snapshot = ClusterSnapshot::at(1);
        let (mut feed, messages) = Feed::begin("a".parse().expect("a name"), &snapshot);
        assert!(feed.update(&snapshot, &Dirty::default()));
        drop(messages);
        assert!(!feed.update(&snapshot, &Dirty::default()));
    }
}
