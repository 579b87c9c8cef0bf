//! Removes volumes that are to go, measures the others, and says what nobody knows. A folder that no row is about is never
//! removed: somebody may have brought it, or the store may be an old copy.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::{upstream::Upstream, worker::Shared};
use crate::model::{EventKind, NodeDesired, Subject, Volume};

/// How soon what could not be removed is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// How long a round of measuring is after the last one at least; and how many times as long as that one took, so that it
/// never is more than a small part of what the disk does.
const MEASURE: Duration = Duration::from_secs(60);
const MEASURE_SHARE: u32 = 20;
/// How long the measuring of one volume may take.
const MEASURE_LONGEST: Duration = Duration::from_secs(30);

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
        let changed = tokio::select! {
            changed = async { desired.wait_for(|new| !new.volumes.ptr_eq(&now.volumes)).await.is_ok() } => changed,
            () = tokio::time::sleep(RETRY), if retry => true,
            () = tokio::time::sleep_until(measure_at) => {
                let begun = Instant::now();
                for volume in now.volumes.values().filter(|volume| !volume.deleting) {
                    if let Err(error) = shared.storage.measure(&volume.id, MEASURE_LONGEST).await {
                        tracing::warn!(volume = %volume.key, %error, "a volume cannot be measured");
                    }
                }
                measure_at = Instant::now() + MEASURE.max(begun.elapsed() * MEASURE_SHARE);
                true
            }
        };
        if !changed {
            return;
        }
    }
}

async fn remove(shared: &Shared, upstream: &dyn Upstream, volume: &Volume) -> Result<(), String> {
    shared.storage.remove(&volume.id).await.map_err(|error| error.to_string())?;
    crate::lifecycle::killpoint::before("saying that a volume is gone");
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
