//! An app's instances: how many, which generation, which go.

use std::sync::Arc;

use super::{Change, Input, Plan, depends, place};
use crate::{
    model::{App, AppKey, ClusterSnapshot, Desired, Instance, Namespace, Phase, Row},
    spec::v1::REMOVING_LABEL,
};

/// How many instances more than asked for a replacement may make.
const SURGE: usize = 1;

pub(super) fn plan(input: &mut Input<'_>, key: &AppKey, plan: &mut Plan) {
    let snapshot = input.snapshot;
    let mut alive = Vec::new();
    for instance in snapshot.instances_of(key) {
        if snapshot.phase_of(&instance.id) == Phase::Gone {
            plan.changes.push(Change::DeleteInstance(instance.id.clone()));
        } else {
            alive.push(Arc::clone(instance));
        }
    }
    let app = snapshot.apps.get(key).map(|row| &row.object);
    let wanted = app.filter(|app| !app.deleting);
    let running = || alive.iter().filter(|instance| instance.desired == Desired::Run);
    match wanted {
        None => {
            plan.changes.extend(running().map(|instance| Change::StopInstance(instance.id.clone())));
            if alive.is_empty() && app.is_some() {
                plan.changes.push(Change::DeleteApp(key.clone()));
                if last_of_project(snapshot, key) {
                    plan.changes.push(Change::DeleteProject(key.scope.clone()));
                }
            }
        }
        Some(app) => {
            replicas(input, app, running().cloned().collect(), plan);
            let limits = app.spec.limits;
            let stays = |id| !plan.changes.iter().any(|change| matches!(change, Change::StopInstance(it) if it == id));
            let others = running().filter(|instance| instance.spec.limits != limits && stays(&instance.id));
            let limited: Vec<_> = others.map(|instance| Change::LimitInstance(instance.id.clone(), limits)).collect();
            plan.changes.extend(limited);
        }
    }
}

/// Whether with this app all of a project that is being removed is gone.
fn last_of_project(snapshot: &ClusterSnapshot, key: &AppKey) -> bool {
    let removing = |row: &Row<Namespace>| row.object.labels.contains_key(REMOVING_LABEL);
    let others = || snapshot.apps.iter().any(|(other, _)| other.scope == key.scope && other != key);
    snapshot.namespaces.get(&key.scope).is_some_and(removing) && !others()
}

/// Instances of the newest generation are made before older ones that serve are stopped, and those are stopped only as
/// newer ones take their place: a generation that does not come up takes nothing down that works. Older ones that serve
/// nobody go at once: they only hold what the newer ones need.
fn replicas(input: &mut Input<'_>, app: &App, running: Vec<Arc<Instance>>, plan: &mut Plan) {
    let snapshot = input.snapshot;
    let desired = app.spec.replicas as usize;
    let (mut new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|i| i.generation == app.generation);
    let phase = |instance: &Arc<Instance>| snapshot.phase_of(&instance.id);
    // One that has done its work is in its place as one that serves is.
    let in_place = |instance: &Arc<Instance>| matches!(phase(instance), Phase::Ready | Phase::Completed);
    let stop = |instance: Arc<Instance>, plan: &mut Plan| plan.changes.push(Change::StopInstance(instance.id.clone()));

    // What goes first: what is not in its place, then what has done its work, then the youngest.
    let worth = |instance: &Arc<Instance>| {
        (in_place(instance), phase(instance) == Phase::Ready, std::cmp::Reverse(instance.created_at))
    };
    new.sort_by_key(worth);
    while new.len() > desired {
        stop(new.remove(0), plan);
    }
    let (mut old, useless): (Vec<_>, Vec<_>) = old.into_iter().partition(|i| phase(i) == Phase::Ready);
    useless.into_iter().for_each(|instance| stop(instance, plan));
    old.sort_by_key(worth);
    let keep = desired.saturating_sub(new.iter().filter(|instance| in_place(instance)).count());
    while old.len() > keep {
        stop(old.remove(0), plan);
    }
    let room = (desired + SURGE).saturating_sub(new.len() + old.len());
    let missing = desired.saturating_sub(new.len());
    if new.is_empty() && missing > 0 {
        plan.waits = depends::waits(snapshot, app);
        if !plan.waits.is_empty() {
            return;
        }
    }
    // With nothing old to protect, all are made at once.
    let make = if old.is_empty() { missing } else { missing.min(room) };
    create(input, app, make, plan);
}

fn create(input: &mut Input<'_>, app: &App, count: usize, plan: &mut Plan) {
    if count == 0 {
        return;
    }
    let mut nodes = place::Nodes::new(input.snapshot);
    for _ in 0..count {
        match nodes.place(&app.spec.resources, input.cursor) {
            Ok((node, addresses)) => plan.changes.push(Change::CreateInstance(Box::new(Instance {
                id: crate::model::InstanceId::from_bits((input.random)()),
                app: app.key.clone(),
                generation: app.generation,
                spec: app.spec.clone(),
                node,
                addresses,
                desired: Desired::Run,
                created_at: input.now,
            }))),
            Err(reasons) => {
                plan.unmet = reasons;
                break;
            }
        }
    }
}
