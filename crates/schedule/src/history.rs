//! The generations that an app had: which are kept, and to which one goes back. Pure.

use std::{collections::BTreeSet, sync::Arc};

use super::Change;
use hivemind_core::model::{
    App, AppKey, Cause, ClusterSnapshot, Outcome, Past, Rollout, RolloutState, Timestamp, Undone,
};

/// Generations of an app that are kept, with the newest. The last that was in place is kept besides.
pub const KEPT: usize = 10;

/// Why there is nothing to go back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoTarget {
    /// What was asked for, if something was.
    pub asked: Option<u64>,
    /// The generations that are kept.
    pub kept: Vec<u64>,
}

/// The rows that go with a change of an app's row.
pub fn recorded(
    snapshot: &ClusterSnapshot,
    before: Option<&App>,
    after: &App,
    cause: Cause,
    undone: Option<Undone>,
    now: Timestamp,
) -> Vec<Change> {
    let key = &after.key;
    let mut changes = Vec::new();
    let past = |app: &App, at, cause| {
        let outcome = Outcome::Unknown;
        Past { app: key.clone(), generation: app.generation, spec: app.spec.clone(), at, cause, outcome }
    };
    let kept = |generation: u64| snapshot.past.get(&(key.clone(), generation)).map(|row| &*row.object);
    if let Some(before) = before.filter(|before| before.generation == after.generation) {
        // What changes without new instances is a part of the generation: going back to it brings that as well.
        if let Some(known) = kept(before.generation).filter(|known| known.spec != after.spec) {
            changes.push(Change::PutPast(Box::new(Past { spec: after.spec.clone(), ..known.clone() })));
        }
        return changes;
    }
    let rollout = snapshot.rollouts.get(key).filter(|_| before.is_some()).map(|row| &*row.object);
    let good = rollout.and_then(|rollout| rollout.good);
    let mut there: BTreeSet<u64> = snapshot.past_of(key).map(|past| past.generation).collect();
    if before.is_none() {
        // Left by a version that knows of no history, and removed an app of that name.
        let left = std::mem::take(&mut there).into_iter();
        changes.extend(
            left.filter(|other| *other != after.generation).map(|other| Change::DeletePast(key.clone(), other)),
        );
    }
    if let Some(before) = before.filter(|before| !there.contains(&before.generation)) {
        // Deployed by a version that kept none.
        there.insert(before.generation);
        changes.push(Change::PutPast(Box::new(past(before, before.created_at, Cause::Deployed))));
    }
    if let Some(failed) = undone.as_ref().and_then(|undone| Some((kept(undone.generation)?, &undone.reason))) {
        let (known, reason) = failed;
        changes.push(Change::PutPast(Box::new(Past { outcome: Outcome::Failed(reason.clone()), ..known.clone() })));
    }
    there.insert(after.generation);
    changes.push(Change::PutPast(Box::new(past(after, now, cause))));
    let surplus = there.len().saturating_sub(KEPT);
    let old = there.into_iter().take(surplus).filter(|generation| Some(*generation) != good);
    changes.extend(old.map(|generation| Change::DeletePast(key.clone(), generation)));
    let same_as = match cause {
        Cause::Deployed | Cause::Restarted | Cause::Contents => None,
        Cause::RolledBack(to) | Cause::Recovered(to) => Some(to),
    };
    let rollout = Rollout {
        generation: after.generation,
        state: RolloutState::Progressing,
        good,
        same_as,
        undone,
        begun_at: now,
        moved_at: now,
        ..Rollout::default()
    };
    changes.push(Change::PutRollout(key.clone(), Box::new(rollout)));
    changes
}

/// The generation to go back to: the one that was asked for, or the last that was in place and is another than now.
pub fn target(snapshot: &ClusterSnapshot, app: &App, asked: Option<u64>) -> Result<Arc<Past>, NoTarget> {
    let kept = || snapshot.past_of(&app.key).map(|past| past.generation).collect();
    let found = match asked {
        Some(generation) => snapshot.past.get(&(app.key.clone(), generation)).map(|row| Arc::clone(&row.object)),
        None => {
            let other = |past: &&Arc<Past>| {
                let other = past.generation < app.generation && app.spec.needs_new_instances(&past.spec);
                other && past.outcome == Outcome::Complete
            };
            snapshot.past_of(&app.key).rev().find(other).cloned()
        }
    };
    found.ok_or_else(|| NoTarget { asked, kept: kept() })
}

/// The changes that note what became of the generation that a rollout leads to, if it is not noted yet.
pub(super) fn concluded(snapshot: &ClusterSnapshot, app: &App, outcome: Outcome, now: Timestamp) -> Option<Change> {
    let known = snapshot.past.get(&(app.key.clone(), app.generation)).map(|row| &*row.object);
    let mut past = known.cloned().unwrap_or_else(|| Past {
        app: app.key.clone(),
        generation: app.generation,
        spec: app.spec.clone(),
        at: now.min(app.created_at),
        cause: Cause::Deployed,
        outcome: Outcome::Unknown,
    });
    if past.outcome == outcome {
        return None;
    }
    past.outcome = outcome;
    Some(Change::PutPast(Box::new(past)))
}

/// The rows of the history of an app that goes.
pub(super) fn forgotten(snapshot: &ClusterSnapshot, key: &AppKey) -> Vec<Change> {
    snapshot.past_of(key).map(|past| Change::DeletePast(key.clone(), past.generation)).collect()
}
