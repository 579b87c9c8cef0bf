//! Removes volumes that are to go, mounts and grows those with a limit, measures all, and says what nobody knows. A folder that no row is about is never
//! removed: somebody may have brought it, or the store may be an old copy.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::{upstream::Upstream, worker::Shared};
use hivemind_core::{
    model::{EventKind, NodeDesired, Subject, Volume, VolumeId},
    spec::v1::MountSpec,
};
use hivemind_storage::Place;

/// How soon what could not be removed is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// How long a round of measuring is after the last one at least; and how many times as long as that one took, so that it
/// never is more than a small part of what the disk does.
const MEASURE: Duration = Duration::from_secs(60);
const MEASURE_SHARE: u32 = 20;
/// How long the measuring of one volume may take.
const MEASURE_LONGEST: Duration = Duration::from_secs(30);
/// How often those with a limit are looked at: their file systems count for themselves.
const LOOK: Duration = Duration::from_secs(5);
/// A volume is said to be nearly full from so many hundredths of its limit on, and again when it has been below the second.
const NEARLY_FULL: (u64, u64) = (90, 85);

/// Runs until cancelled.
pub(super) async fn run(
    shared: Arc<Shared>,
    upstream: Arc<dyn Upstream>,
    mut desired: watch::Receiver<Arc<NodeDesired>>,
) {
    // Nothing is decided before the first end mark.
    if desired.wait_for(|desired| desired.revision > 0).await.is_err() {
        return;
    }
    let mut said = BTreeSet::new();
    let mut failing = BTreeSet::new();
    let mut measure_at = Instant::now();
    let mut look_at = Instant::now();
    let mut full = BTreeSet::new();
    loop {
        let now = desired.borrow_and_update().clone();
        tell_unknown(&shared, &now, &mut said).await;
        let mut retry = false;
        for volume in now.volumes.values().filter(|volume| volume.deleting) {
            match remove(&shared, &*upstream, volume).await {
                Ok(()) => drop(failing.remove(&volume.id)),
                Err(why) => {
                    retry = true;
                    if failing.insert(volume.id.clone()) {
                        let message = format!("volume {} could not be removed: {why}", volume.key);
                        shared.events.emit(EventKind::Warning, "VolumeStays", &subject(volume), message);
                    }
                }
            }
        }
        let limited: Vec<_> = now.volumes.values().filter(|it| !it.deleting && it.spec.size.is_some()).collect();
        for volume in &limited {
            retry |= !keep(&shared, volume).await;
        }
        // What waits until nobody uses a volume waits for instances.
        let differs = |new: &Arc<NodeDesired>| {
            !new.volumes.ptr_eq(&now.volumes) || (retry && !new.instances.ptr_eq(&now.instances))
        };
        let changed = tokio::select! {
            changed = async { desired.wait_for(differs).await.is_ok() } => changed,
            () = tokio::time::sleep(RETRY), if retry => true,
            () = tokio::time::sleep_until(measure_at) => {
                let begun = Instant::now();
                for volume in now.volumes.values().filter(|it| !it.deleting && it.spec.size.is_none()) {
                    if let Err(error) = shared.storage.measure(&volume.id, MEASURE_LONGEST).await {
                        tracing::warn!(volume = %volume.key, %error, "a volume cannot be measured");
                    }
                }
                measure_at = Instant::now() + MEASURE.max(begun.elapsed() * MEASURE_SHARE);
                true
            }
            () = tokio::time::sleep_until(look_at), if !limited.is_empty() => {
                for volume in &limited {
                    look(&shared, volume, &mut full).await;
                }
                look_at = Instant::now() + LOOK;
                true
            }
        };
        if !changed {
            return;
        }
    }
}

/// Has a volume with a limit mounted, as after a reboot, and as large as it is to be. Whether all is as it should be.
async fn keep(shared: &Shared, volume: &Volume) -> bool {
    let place = Place::Volume(volume.id.clone());
    let Some(size) = volume.spec.size else { return true };
    // Whoever fills it has it mounted.
    let Some(_one) = shared.storage.try_hold(&place) else { return false };
    let kept = async {
        shared.storage.attach(&place).await?;
        // Looked at while the place is held: whoever comes after this look waits for it.
        let desired = Arc::clone(&shared.desired.borrow());
        let mut instances = desired.instances.values().filter(|instance| instance.app.scope == volume.key.scope);
        let uses = |mount: &MountSpec| mount.volume() == Some(&volume.key.name);
        let idle = !instances.any(|instance| instance.spec.all_mounts().any(uses));
        shared.storage.grow(&place, size, idle).await
    };
    let fault = kept.await.err().map(|error| error.to_string());
    let fine = fault.is_none();
    if shared.storage.note_fault(&volume.id, fault.clone())
        && let Some(why) = fault
    {
        let message = format!("volume {} is not as it should be, and is tried again: {why}", volume.key);
        shared.events.emit(EventKind::Warning, "VolumeFault", &subject(volume), message);
    }
    fine
}

/// Measures a volume with a limit, and says once that it is nearly full.
async fn look(shared: &Shared, volume: &Volume, full: &mut BTreeSet<VolumeId>) {
    let usage = match shared.storage.measure(&volume.id, MEASURE_LONGEST).await {
        Ok(usage) => usage,
        Err(error) => return tracing::warn!(volume = %volume.key, %error, "a volume cannot be measured"),
    };
    let Some((used, limit)) = usage.and_then(|usage| Some((usage.bytes, usage.limit?))) else { return };
    let percent = (u128::from(used) * 100).checked_div(limit.into()).unwrap_or(0);
    if percent < NEARLY_FULL.1.into() {
        full.remove(&volume.id);
    } else if percent >= NEARLY_FULL.0.into() && full.insert(volume.id.clone()) {
        let name = &volume.key.name;
        let message = format!(
            "volume {name} is {percent} % full: {} of {} MiB; hivemind volume resize {name} --size SIZE makes it larger",
            used >> 20,
            limit >> 20
        );
        shared.events.emit(EventKind::Warning, "VolumeNearlyFull", &subject(volume), message);
    }
}

async fn remove(shared: &Shared, upstream: &dyn Upstream, volume: &Volume) -> Result<(), String> {
    shared.storage.remove(&volume.id).await.map_err(|error| error.to_string())?;
    hivemind_core::lifecycle::killpoint::before("saying that a volume is gone");
    upstream.volume_gone(volume.key.clone(), volume.id.clone()).await.map_err(|error| error.to_string())
}

/// Says once what folders nobody knows.
async fn tell_unknown(shared: &Shared, desired: &NodeDesired, said: &mut BTreeSet<PathBuf>) {
    let known = desired.volumes.values().map(|volume| volume.id.clone()).collect();
    let unknown = match shared.storage.unknown(known).await {
        Ok(unknown) => unknown,
        Err(error) => return tracing::warn!(%error, "the folders of volumes cannot be listed"),
    };
    for path in unknown {
        let message = format!("{} belongs to no volume; it is left alone", path.display());
        if said.insert(path) {
            let about = Subject::Node(shared.node.clone());
            shared.events.emit(EventKind::Warning, "UnknownVolume", &about, message);
        }
    }
}

fn subject(volume: &Volume) -> Subject {
    Subject::Object {
        kind: "volume",
        tenant: Some(volume.key.scope.tenant.clone()),
        namespace: Some(volume.key.scope.namespace.clone()),
        name: volume.key.name.to_string(),
    }
}
