//! How full volumes are, as they were last measured.

use super::{ApiState, Sample, float, gauge};
use hivemind_core::model::ClusterSnapshot;

pub(super) fn samples(state: &ApiState, snapshot: &ClusterSnapshot, all: &mut Vec<Sample>) {
    for row in snapshot.volumes.values() {
        let (key, Some(usage)) = (&row.object.key, state.storage.usage(&row.object.id)) else { continue };
        let labels = || {
            vec![
                ("tenant", key.scope.tenant.to_string()),
                ("namespace", key.scope.namespace.to_string()),
                ("volume", key.name.to_string()),
            ]
        };
        all.push(gauge("volume_used_bytes", "Bytes on the disk of a volume", labels(), float(usage.bytes)));
        if let Some(limit) = usage.limit {
            let help = "The most that a volume with a limit can hold";
            all.push(gauge("volume_limit_bytes", help, labels(), float(limit)));
        }
    }
}
