//! Projects: all rows of one in one transaction, with what goes with each app's.

use std::collections::BTreeSet;

use super::{
    super::{
        ControlError, ObjectName,
        once::{self, Once},
        project::{self, ProjectChange, ProjectChanged, ProjectKey, ProjectRow},
        volumes,
    },
    Loop, encode, row_key, with,
};
use hivemind_core::{
    lifecycle::killpoint,
    model::{AppKey, EventKind, Subject},
};
use hivemind_schedule::history;
use hivemind_store::{Compare, keys};

impl Loop {
    /// Writes all rows of a project that change, or none.
    pub(super) async fn project(
        &mut self,
        key: &ProjectKey,
        change: ProjectChange,
        once: Option<&Once>,
    ) -> Result<ProjectChanged, ControlError> {
        killpoint::arm();
        let plan = project::after(&self.snapshot, key, change, self.clock.now())?;
        let mut done = plan.outcome;
        if plan.rows.is_empty() {
            let revision = done.revision;
            return self.unchanged(once, done, revision).await;
        }
        let (mut txn, mut made) = (once::kept(&self.snapshot, once, &done, None, self.clock.now())?, BTreeSet::new());
        for row in &plan.rows {
            let (object, value) = match row {
                ProjectRow::App(app, _) => (ObjectName::App(app.key.clone()), Some(encode(&**app)?)),
                ProjectRow::Policy(policy) => (ObjectName::Policy(policy.key.clone()), Some(encode(policy)?)),
                ProjectRow::Content(content) => {
                    (ObjectName::Content(content.kind, content.key.clone()), Some(encode(content)?))
                }
                ProjectRow::Volume(volume) => (ObjectName::Volume(volume.key.clone()), Some(encode(volume)?)),
                ProjectRow::Namespace(space) => (ObjectName::Namespace(space.scope.clone()), Some(encode(space)?)),
                ProjectRow::Delete(object) => (object.clone(), None),
            };
            let row = row_key(&object);
            txn = txn.when(match object.row(&self.snapshot) {
                Some(modified) => Compare::Modified(row.clone(), modified),
                None => Compare::Absent(row.clone()),
            });
            txn = match value {
                Some(value) => txn.put(row, value),
                None => txn.delete(row),
            };
        }
        for row in &plan.rows {
            let ProjectRow::App(app, cause) = row else { continue };
            let before = self.snapshot.apps.get(&app.key).map(|row| &*row.object);
            for change in history::recorded(&self.snapshot, before, app, *cause, None, self.clock.now()) {
                txn = with(txn, &self.snapshot, &app.key, &change)?;
            }
            // Two services may name one volume.
            for mut volume in volumes::missing(&self.snapshot, app, rand::random, self.clock.now()) {
                if let Some(spec) = plan.volumes.get(&volume.key) {
                    volume.spec.clone_from(spec);
                }
                if made.insert(volume.key.clone()) {
                    let row = keys::volume(&volume.key);
                    txn = txn.when(Compare::Absent(row.clone())).put(row, encode(&volume)?);
                }
            }
        }
        let Some(revision) = self.commit(txn).await? else {
            let object = ObjectName::Namespace(key.scope.clone());
            let found = object.row(&self.snapshot).unwrap_or(0);
            return Err(ControlError::Conflict { object, expected: done.revision, found });
        };
        for (name, app) in done.apps.iter().filter(|(_, app)| app.action.is_change()) {
            let app_key = AppKey::new(key.scope.clone(), name.clone());
            let message = format!("{name} of the project {}: {}", key.name, app.action);
            self.events.emit(EventKind::Normal, app.action.event(), &Subject::App(app_key), message);
        }
        done.revision = revision;
        Ok(done)
    }
}
