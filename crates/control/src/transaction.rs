//! From the changes of a plan to the rows of the store.

use super::{decode::encode, project, run::row_key};
use hivemind_core::model::{AppKey, ClusterSnapshot, Desired, Instance, InstanceId};
use hivemind_schedule::Change;
use hivemind_store::{Compare, StoreError, Txn, keys};

/// All changes of a plan in one transaction, on the condition that the app's row is the one that was planned for.
pub(super) fn transaction(snapshot: &ClusterSnapshot, app: &AppKey, changes: &[Change]) -> Result<Txn, StoreError> {
    let row = keys::app(app);
    let mut txn = Txn::new().when(match snapshot.apps.get(app) {
        Some(known) => Compare::Modified(row.clone(), known.modified),
        None => Compare::Absent(row.clone()),
    });
    for change in changes {
        txn = with(txn, snapshot, app, change)?;
    }
    Ok(txn)
}

/// The instance's row after `change`, if there is such an instance.
fn changed(
    txn: Txn,
    snapshot: &ClusterSnapshot,
    id: &InstanceId,
    change: impl FnOnce(&mut Instance),
) -> Result<Txn, StoreError> {
    let Some(row) = snapshot.instances.get(id) else { return Ok(txn) };
    let mut instance = (*row.object).clone();
    change(&mut instance);
    Ok(txn.put(keys::instance(&instance.app, id), encode(&instance)?))
}

/// Adds a change to a transaction.
pub(super) fn with(txn: Txn, snapshot: &ClusterSnapshot, app: &AppKey, change: &Change) -> Result<Txn, StoreError> {
    Ok(match change {
        Change::CreateInstance(instance) => {
            let key = keys::instance(&instance.app, &instance.id);
            txn.when(Compare::Absent(key.clone())).put(key, encode(&**instance)?)
        }
        Change::AdaptInstance(id, limits, services) => changed(txn, snapshot, id, |instance| {
            instance.spec.limits = *limits;
            instance.spec.more_services.clone_from(services);
        })?,
        Change::AdoptInstance(id, generation) => {
            changed(txn, snapshot, id, |instance| instance.generation = *generation)?
        }
        Change::StopInstance(id) => changed(txn, snapshot, id, |instance| instance.desired = Desired::Stop)?,
        Change::EndInstance(id) => changed(txn, snapshot, id, |instance| {
            instance.desired = Desired::Stop;
            instance.spec.stop.drain_seconds = 0;
        })?,
        Change::DeleteInstance(id) => txn.delete(keys::instance(app, id)).delete(keys::instance_status(app, id)),
        Change::PutService(service) => txn.put(keys::service(&service.key), encode(service)?),
        Change::CountServices(last) => txn.put(keys::LAST_SERVICE_ID, last.to_string()),
        Change::DeleteService(key) => txn.delete(keys::service(key)),
        Change::PutRollout(key, rollout) => txn.put(keys::rollout(key), encode(&**rollout)?),
        Change::PutPast(past) => txn.put(keys::past(&past.app, past.generation), encode(&**past)?),
        Change::DeletePast(key, generation) => txn.delete(keys::past(key, *generation)),
        Change::DeleteApp(key) => txn.delete(keys::rollout(key)).delete(keys::app(key)),
        Change::DeleteProject(scope) => {
            let (volumes, gone) = project::rows_of_removed(snapshot, scope);
            let mut txn = gone.iter().fold(txn, |txn, gone| txn.delete(row_key(gone)));
            for volume in volumes {
                txn = txn.put(keys::volume(&volume.key), encode(&volume)?);
            }
            txn
        }
    })
}
