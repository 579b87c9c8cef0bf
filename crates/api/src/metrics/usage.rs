//! What running instances use, by the names that dashboards know from elsewhere.

use super::{ApiState, Sample, app_labels, counter, float, gauge};
use hivemind_core::model::ClusterSnapshot;

/// Nothing where containerd does not answer: that is said elsewhere, and the other metrics are still of use.
pub(super) async fn samples(state: &ApiState, snapshot: &ClusterSnapshot, all: &mut Vec<Sample>) {
    let Ok(used) = super::super::usage::usages(state).await else { return };
    for (id, (_, usage)) in used {
        let Some(row) = snapshot.instances.get(id.instance()) else { continue };
        let labels = || {
            let mut labels = app_labels(&row.object.app);
            labels.push(("instance", row.object.name()));
            labels.extend(id.sidecar().map(|name| ("container", name.to_string())));
            labels
        };
        let help = "CPU time of an instance, user and system";
        let (name, value) = ("container_cpu_usage_seconds", usage.cpu_seconds);
        all.push(Sample { name, help, counter: true, labels: labels(), value });
        let help = "Memory of an instance, without files that are kept only as long as there is room";
        all.push(gauge("container_memory_working_set_bytes", help, labels(), float(usage.memory_bytes)));
        if let Some(limit) = usage.memory_limit {
            let help = "The limit of an instance's memory";
            all.push(gauge("container_spec_memory_limit_bytes", help, labels(), float(limit)));
        }
        all.push(gauge("container_threads", "Processes and threads of an instance", labels(), float(usage.pids)));
        let help = "Bytes that an instance has read from block devices";
        all.push(counter("container_fs_reads_bytes", help, labels(), usage.read_bytes));
        let help = "Bytes that an instance has written to block devices";
        all.push(counter("container_fs_writes_bytes", help, labels(), usage.written_bytes));
    }
}
