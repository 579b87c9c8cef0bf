//! A cluster that is only a snapshot.

use std::{collections::BTreeSet, sync::Arc};

use super::super::*;
use hivemind_core::{
    model::{App, Desired, InstanceStatus, Node, NodeName, NodeStatus, Phase, Row, Scope},
    spec::v1::AppSpec,
};

/// A cluster and what the scheduler remembers.
pub(super) struct World {
    pub(super) snapshot: ClusterSnapshot,
    pub(super) services: ServiceRanges,
    pub(super) cursor: Cursor,
    /// Random numbers: a counter.
    pub(super) random: u64,
    pub(super) now: i64,
    pub(super) since: Timestamp,
}

pub(super) fn row<T>(object: T) -> Row<T> {
    Row { object: Arc::new(object), modified: 1 }
}

pub(super) fn key(name: &str) -> AppKey {
    AppKey::new(Scope::default(), name.parse().expect("a name"))
}

impl World {
    /// One node of 4 CPUs and 8 GiB.
    pub(super) fn new() -> Self {
        let services = ServiceRanges { v4: "10.96.0.0/16".parse().ok(), v6: "fd00:2::/112".parse().ok() };
        let mut world = Self {
            snapshot: ClusterSnapshot::at(1),
            services,
            cursor: Cursor::default(),
            random: 0,
            now: 0,
            since: Timestamp::default(),
        };
        world.node("node-1", "10.88.0.0/24", 4000, 8 << 30);
        world
    }

    pub(super) fn node(&mut self, name: &str, range: &str, cpu_milli: u32, memory_bytes: u64) {
        let name: NodeName = name.parse().expect("a name");
        let instances_v6 = format!("fd00:{}::/64", self.snapshot.nodes.len() + 16).parse().ok();
        let created_at = Timestamp::from_millis(0);
        let node = Node { name: name.clone(), instances_v4: range.parse().ok(), instances_v6, created_at };
        self.snapshot.nodes.insert(name.clone(), row(node));
        self.status(&name, NodeStatus { ready: true, cpu_milli, memory_bytes, ..NodeStatus::default() });
    }

    pub(super) fn status(&mut self, name: &NodeName, status: NodeStatus) {
        self.snapshot.node_status.insert(name.clone(), row(status));
    }

    /// Writes an app's row; the generation grows as `control` lets it grow.
    pub(super) fn deploy(&mut self, name: &str, change: impl FnOnce(&mut App)) -> AppKey {
        let key = key(name);
        let mut app = self.snapshot.apps.get(&key).map_or_else(
            || App {
                key: key.clone(),
                spec: AppSpec::new("web"),
                generation: 1,
                created_at: Timestamp::from_millis(0),
                deleting: false,
            },
            |row| (*row.object).clone(),
        );
        change(&mut app);
        self.snapshot.set_app(&key, Some(row(app)));
        key
    }

    pub(super) fn plan(&mut self, app: &AppKey) -> Plan {
        self.now += 1;
        let random = &mut self.random;
        let mut input = Input {
            snapshot: &self.snapshot,
            services: self.services,
            since: self.since,
            now: Timestamp::from_millis(self.now),
            // A multiplicative step: ids that follow each other do not look alike.
            random: &mut || {
                *random += 1;
                random.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            },
            cursor: &mut self.cursor,
        };
        super::plan(&mut input, app)
    }

    pub(super) fn change(&mut self, id: &InstanceId, change: impl FnOnce(&mut Instance)) {
        let mut instance = (*self.snapshot.instances.get(id).expect("it exists").object).clone();
        change(&mut instance);
        self.snapshot.set_instance(id, Some(row(instance)));
    }

    pub(super) fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change.clone() {
                Change::CreateInstance(instance) => {
                    let id = instance.id.clone();
                    self.snapshot.set_instance(&id, Some(row(*instance)));
                }
                Change::StopInstance(id) => self.change(&id, |instance| instance.desired = Desired::Stop),
                Change::EndInstance(id) => self.change(&id, |instance| {
                    instance.desired = Desired::Stop;
                    instance.spec.stop.drain_seconds = 0;
                }),
                Change::AdoptInstance(id, generation) => self.change(&id, |instance| instance.generation = generation),
                Change::PutRollout(key, rollout) => {
                    self.snapshot.rollouts.insert(key, row(*rollout));
                }
                Change::PutPast(past) => {
                    self.snapshot.past.insert((past.app.clone(), past.generation), row(*past));
                }
                Change::DeletePast(key, generation) => {
                    self.snapshot.past.remove(&(key, generation));
                }
                Change::AdaptInstance(id, limits, services) => self.change(&id, |instance| {
                    instance.spec.limits = limits;
                    instance.spec.more_services.clone_from(&services);
                }),
                Change::DeleteInstance(id) => {
                    self.snapshot.set_instance(&id, None);
                    self.snapshot.instance_status.remove(&id);
                }
                Change::PutService(service) => {
                    let key = service.key.clone();
                    self.snapshot.set_service(&key, Some(row(*service)));
                }
                Change::CountServices(last) => self.snapshot.last_service_id = last,
                Change::DeleteService(key) => self.snapshot.set_service(&key, None),
                Change::DeleteProject(scope) => drop(self.snapshot.namespaces.remove(&scope)),
                Change::DeleteApp(key) => {
                    self.snapshot.set_app(&key, None);
                    self.snapshot.rollouts.remove(&key);
                }
            }
        }
    }

    /// Plans and applies until there is nothing to do; what could not be met.
    pub(super) fn settle(&mut self, app: &AppKey) -> Vec<String> {
        for _ in 0..100 {
            let plan = self.plan(app);
            if plan.changes.is_empty() {
                return plan.unmet;
            }
            self.apply(&plan.changes);
        }
        panic!("the plans of {app} do not come to an end");
    }

    pub(super) fn instances(&self, app: &AppKey) -> Vec<Arc<Instance>> {
        self.snapshot.instances_of(app).cloned().collect()
    }

    pub(super) fn running(&self, app: &AppKey) -> Vec<Arc<Instance>> {
        self.instances(app).into_iter().filter(|instance| instance.desired == Desired::Run).collect()
    }

    pub(super) fn ids(&self, app: &AppKey) -> BTreeSet<InstanceId> {
        self.running(app).iter().map(|instance| instance.id.clone()).collect()
    }

    pub(super) fn ready(&self, app: &AppKey) -> usize {
        let ready = |instance: &&Arc<Instance>| self.snapshot.phase_of(&instance.id) == Phase::Ready;
        self.running(app).iter().filter(ready).count()
    }

    /// Those that serve, and those of the newest generation that have done their work.
    pub(super) fn in_place(&self, app: &AppKey) -> usize {
        let newest = self.snapshot.apps.get(app).map(|row| row.object.generation);
        let done = |instance: &&Arc<Instance>| {
            Some(instance.generation) == newest && self.snapshot.phase_of(&instance.id) == Phase::Completed
        };
        self.ready(app) + self.running(app).iter().filter(done).count()
    }

    pub(super) fn phase(&mut self, id: &InstanceId, phase: Phase) {
        let status = InstanceStatus { phase, ..InstanceStatus::default() };
        self.snapshot.instance_status.insert(id.clone(), row(status));
    }

    /// Everything that runs becomes Ready, everything that stops is gone.
    pub(super) fn agent(&mut self, app: &AppKey) {
        for instance in self.instances(app) {
            let phase = if instance.desired == Desired::Run { Phase::Ready } else { Phase::Gone };
            self.phase(&instance.id, phase);
        }
    }
}
