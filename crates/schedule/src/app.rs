//! An app's instances: how many, which generation, which go.

use std::sync::Arc;

use super::{
    Change, Input, Plan, depends, history, place,
    rollout::{self, Member, Next},
};
use hivemind_core::{
    model::{
        App, AppKey, ClusterSnapshot, Desired, Instance, InstanceStatus, Namespace, Outcome, Phase, Rollout,
        RolloutState, Row, Timestamp,
    },
    spec::v1::{AppSpec, REMOVING_LABEL},
};

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
            // Nobody is to take over what they serve: there is nothing to wait for.
            let all = alive
                .iter()
                .filter(|instance| instance.desired == Desired::Run || instance.spec.stop.drain_seconds > 0);
            plan.changes.extend(all.map(|instance| Change::EndInstance(instance.id.clone())));
            if alive.is_empty() && app.is_some() {
                plan.changes.extend(history::forgotten(snapshot, key));
                plan.changes.push(Change::DeleteApp(key.clone()));
                if last_of_project(snapshot, key) {
                    plan.changes.push(Change::DeleteProject(key.scope.clone()));
                }
            }
        }
        Some(app) => {
            replicas(input, app, &alive, plan);
            let limits = app.spec.limits;
            // What a former generation serves is its own until it goes.
            let services = |instance: &Instance| match instance.generation == app.generation {
                true => app.spec.more_services.clone(),
                false => instance.spec.more_services.clone(),
            };
            let stays = |id| !plan.changes.iter().any(|change| matches!(change, Change::StopInstance(it) if it == id));
            let others = running().filter(|instance| {
                let differs = instance.spec.limits != limits || instance.spec.more_services != services(instance);
                differs && stays(&instance.id)
            });
            let adapted: Vec<_> =
                others.map(|instance| Change::AdaptInstance(instance.id.clone(), limits, services(instance))).collect();
            plan.changes.extend(adapted);
        }
    }
}

/// Whether with this app all of a project that is being removed is gone.
fn last_of_project(snapshot: &ClusterSnapshot, key: &AppKey) -> bool {
    let removing = |row: &Row<Namespace>| row.object.labels.contains_key(REMOVING_LABEL);
    let others = || snapshot.apps.iter().any(|(other, _)| other.scope == key.scope && other != key);
    snapshot.namespaces.get(&key.scope).is_some_and(removing) && !others()
}

/// Goes a step further to the newest generation, and to as many instances as are wanted.
fn replicas(input: &mut Input<'_>, app: &App, alive: &[Arc<Instance>], plan: &mut Plan) {
    let snapshot = input.snapshot;
    let row = snapshot.rollouts.get(&app.key).map(|row| &*row.object);
    let mut rollout = match row {
        Some(row) if row.generation == app.generation => {
            let moved_at = row.moved_at.max(input.since).min(input.now);
            Rollout { moved_at, ..row.clone() }
        }
        // Changed by a version that kept no such rows.
        row => Rollout {
            generation: app.generation,
            good: row.and_then(|row| row.good),
            begun_at: input.now,
            moved_at: input.now,
            ..Rollout::default()
        },
    };
    let as_good = |instance: &Instance| {
        let same = Some(instance.generation) == rollout.same_as && instance.desired == Desired::Run;
        same && !instance.spec.needs_new_instances(&app.spec)
    };
    let adopted = alive.iter().filter(|instance| as_good(instance));
    plan.changes.extend(adopted.map(|instance| Change::AdoptInstance(instance.id.clone(), app.generation)));
    let member = |instance: &Arc<Instance>| Member {
        id: instance.id.clone(),
        name: instance.name(),
        new: instance.generation == app.generation || as_good(instance),
        stopping: instance.desired == Desired::Stop,
        status: known(snapshot.status_of(&instance.id), input.now),
        created_at: instance.created_at,
    };
    let members: Vec<_> = alive.iter().map(member).collect();
    if app.spec.replicas > 0 && !app.spec.depends_on.is_empty() && !members.iter().any(|member| member.new) {
        plan.waits = depends::waits(snapshot, app);
        if !plan.waits.is_empty() {
            return;
        }
        // Who waits for others does not fail to come up.
        rollout.moved_at = input.now;
    }
    let Next { stop, make, make_former, rollout: after, again_at, failed } =
        rollout::next(&app.spec, &rollout, &members, input.now);
    plan.again_at = again_at;
    if failed.is_some() {
        // The whole plan is another one then.
        plan.failed = failed;
        return;
    }
    plan.changes.extend(stop.into_iter().map(Change::StopInstance));
    conclude(input, app, &rollout, after, plan);
    create(input, app, (&app.spec, app.generation), make, plan);
    let good = rollout.good.and_then(|good| snapshot.past.get(&(app.key.clone(), good)));
    match good {
        Some(row) => create(input, app, (&row.object.spec, row.object.generation), make_former, plan),
        None => create(input, app, (&app.spec, app.generation), make_former, plan),
    }
}

/// A moment that is yet to come was noted by a clock that has been set back since: it is long past.
fn known(status: InstanceStatus, now: Timestamp) -> InstanceStatus {
    InstanceStatus { ready_since: status.ready_since.filter(|since| *since <= now), ..status }
}

/// Writes the row of the update if it is another one now, and into the history what became of it.
fn conclude(input: &Input<'_>, app: &App, before: &Rollout, after: Rollout, plan: &mut Plan) {
    if *before == after {
        return;
    }
    let outcome = match after.state {
        RolloutState::Complete if after.good == Some(after.generation) => Some(Outcome::Complete),
        RolloutState::Paused => Some(Outcome::Failed(after.message.clone())),
        _ => None,
    };
    plan.changes.extend(outcome.and_then(|outcome| history::concluded(input.snapshot, app, outcome, input.now)));
    plan.changes.push(Change::PutRollout(app.key.clone(), Box::new(after)));
}

fn create(input: &mut Input<'_>, app: &App, (spec, generation): (&AppSpec, u64), count: usize, plan: &mut Plan) {
    if count == 0 {
        return;
    }
    let mut nodes = place::Nodes::new(input.snapshot);
    for _ in 0..count {
        match nodes.place(&spec.resources, input.cursor) {
            Ok((node, addresses)) => plan.changes.push(Change::CreateInstance(Box::new(Instance {
                id: hivemind_core::model::InstanceId::from_bits((input.random)()),
                app: app.key.clone(),
                generation,
                spec: spec.clone(),
                node,
                addresses,
                desired: Desired::Run,
                contents: input.snapshot.contents_of(&app.key.scope, spec),
                created_at: input.now,
            }))),
            Err(reasons) => {
                plan.unmet = reasons;
                break;
            }
        }
    }
}
