//! What `/metrics` shows of state that lives elsewhere.

mod limits;
mod usage;
mod volumes;

use std::collections::{BTreeMap, HashMap};

use super::ApiState;
use hivemind_agent::datapath::RuleHits;
use hivemind_core::model::{AppKey, ClusterSnapshot, InstanceId, Phase};
use hivemind_dataplane::{Counter, DataplaneError, DataplaneInfo, Way, drift::Repairs};
use hivemind_observe::{Sample, process};
use hivemind_policy::Trial;

/// Everything, read now.
pub(super) async fn samples(state: &ApiState) -> Vec<Sample> {
    let snapshot = state.control.snapshot();
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    let mut all = vec![
        gauge("build_info", "Version of hivemind", version, 1.0),
        gauge(
            "ready",
            "Whether the daemon is ready",
            vec![],
            f64::from(u8::from(state.readiness.waiting().is_empty())),
        ),
        gauge("store_revision", "Revision of the store", vec![], float(snapshot.revision)),
        counter("events", "Events said since the start", vec![], *state.events.newest().borrow()),
    ];
    all.extend(process::samples());
    cluster(&snapshot, &mut all);

    let mut unread = 0;
    let counters = read(state.datapath.counters().await, &mut unread);
    let links = read(state.datapath.links().await, &mut unread);
    let instance = |id: &InstanceId| snapshot.instances.get(id).map(|row| row.object.name());
    let names = links.iter().filter_map(|(id, link)| Some((link.ifindex, instance(id)?))).collect();
    traffic(&counters, &names, &snapshot, &mut all);
    usage::samples(state, &snapshot, &mut all).await;
    volumes::samples(state, &snapshot, &mut all);
    limits::configured(&snapshot, &mut all);
    limits::used(&read(state.datapath.uses().await, &mut unread), instance, &mut all);
    for RuleHits { name: rule, denies, packets } in read(state.datapath.rule_hits().await, &mut unread) {
        let way = rule.direction.as_str();
        let labels =
            vec![("policy", rule.policy.to_string()), ("direction", way.to_owned()), ("rule", rule.index.to_string())];
        let (name, help) = if denies {
            ("policy_denied_packets", "Packets that a policy's rule has denied")
        } else {
            ("policy_allowed_packets", "Packets that a policy's rule has allowed, without answers")
        };
        all.push(counter(name, help, labels, packets));
    }
    for (policy, Trial { inwards, outwards, .. }) in read(state.datapath.trials().await, &mut unread) {
        for (direction, count) in [("in", inwards), ("out", outwards)] {
            let labels = vec![("policy", policy.to_string()), ("direction", direction.to_owned())];
            let help = "Decisions about what passed, and a policy on trial would have denied";
            all.push(counter("policy_tried_denials", help, labels, count));
        }
    }
    match state.datapath.info().await {
        Ok(info) => dataplane(&info, &mut all),
        Err(_) => unread += 1,
    }
    let help = "Tables of the data plane that could not be read for this answer: what they count is missing from it";
    all.push(gauge("dataplane_unread_tables", help, vec![], f64::from(unread)));
    let datapath = state.datapath.state();
    let datapath = datapath.borrow();
    let help = "Connections that the data plane tracks";
    all.push(gauge("dataplane_connections", help, vec![], float(datapath.sweep.connections)));
    let rows = |verdict: &str| vec![("verdict", verdict.to_owned())];
    let help = "Flows in the table, and kinds of packets that were dropped of late";
    all.push(gauge("dataplane_flows", help, rows("forwarded"), float(datapath.sweep.connections)));
    all.push(gauge("dataplane_flows", help, rows("dropped"), float(datapath.sweep.dropped)));
    if let Ok(lost) = state.datapath.watch().lost() {
        let help = "Flows and drops that were to be told to a watcher and found no room";
        all.push(counter("dataplane_lost_events", help, vec![], lost));
    }
    let mut repairs = state.metrics.repairs();
    let Repairs { rows, attachments, pins } = datapath.repairs;
    repairs.extend([("row", rows), ("attachment", attachments), ("pin", pins)]);
    for (kind, count) in repairs {
        let help = "What of the data plane and the network was found changed by someone else, and put right";
        all.push(counter("dataplane_repairs", help, vec![("kind", kind.to_owned())], count));
    }
    let help = "Addresses that names of hosts in policies stand for";
    all.push(gauge("policy_host_addresses", help, vec![], float(u64::try_from(datapath.hosts.addresses).unwrap_or(0))));
    let help = "Addresses of names of hosts in policies for which there was no place";
    all.push(counter("policy_host_addresses_refused", help, vec![], datapath.hosts.refused));
    let help = "Answers of the name server that went out before their addresses were open";
    all.push(counter("policy_host_answers_late", help, vec![], datapath.hosts.late));
    let help = "Whether the data plane is what it should be";
    all.push(gauge("dataplane_in_sync", help, vec![], f64::from(u8::from(datapath.fault.is_none()))));
    all
}

/// What was read; nothing, and one more that is `unread`, if it could not be.
fn read<T: Default>(result: Result<T, DataplaneError>, unread: &mut u32) -> T {
    result.unwrap_or_else(|error| {
        tracing::warn!(%error, "a table of the data plane cannot be read for the metrics");
        *unread += 1;
        T::default()
    })
}

fn cluster(snapshot: &ClusterSnapshot, all: &mut Vec<Sample>) {
    let mut phases = BTreeMap::<Phase, u32>::new();
    let mut ready = HashMap::<&AppKey, u32>::new();
    for (id, row) in &snapshot.instances {
        let phase = snapshot.phase_of(id);
        *phases.entry(phase).or_default() += 1;
        *ready.entry(&row.object.app).or_default() += u32::from(phase == Phase::Ready);
        let restarts = snapshot.instance_status.get(id).map_or(0, |row| row.object.restarts);
        let mut labels = app_labels(&row.object.app);
        labels.push(("instance", row.object.name()));
        all.push(counter("instance_restarts", "How often the process was started again", labels, restarts.into()));
    }
    for (phase, count) in phases {
        let labels = vec![("phase", phase.to_string())];
        all.push(gauge("instances", "Instances by phase", labels, count.into()));
    }
    let total = |name, help, count| gauge(name, help, vec![], float(u64::try_from(count).unwrap_or(u64::MAX)));
    all.push(total("apps", "Apps", snapshot.apps.len()));
    all.push(total("services", "Services", snapshot.services.len()));
    for (key, row) in &snapshot.apps {
        let wanted = row.object.spec.replicas.into();
        all.push(gauge("app_replicas", "Instances that are wanted", app_labels(key), wanted));
        let there = ready.get(key).copied().unwrap_or_default().into();
        all.push(gauge("app_ready_replicas", "Instances that are Ready", app_labels(key), there));
    }
    for (name, row) in &snapshot.node_status {
        let labels = vec![("node", name.to_string())];
        let ready = f64::from(u8::from(row.object.ready));
        all.push(gauge("node_ready", "Whether the node takes and serves instances", labels, ready));
    }
}

/// `names` are the instances by the interface index of their host device.
fn traffic(counters: &[Counter], names: &BTreeMap<u32, String>, snapshot: &ClusterSnapshot, all: &mut Vec<Sample>) {
    let services: HashMap<u32, String> =
        snapshot.services.values().map(|row| (row.object.id, row.object.key.to_string())).collect();
    for counted in counters {
        let endpoint = match counted.endpoint {
            0 => "node".to_owned(),
            index => names.get(&index).cloned().unwrap_or_else(|| format!("interface-{index}")),
        };
        let mut labels = vec![
            ("instance", endpoint),
            ("service", services.get(&counted.service).cloned().unwrap_or_default()),
            ("reason", counted.verdict().to_owned()),
        ];
        if counted.direction == Way::Opened {
            let help = "Connections to services that sockets of the node opened or were refused";
            all.push(counter("dataplane_opened_connections", help, labels, counted.packets));
            continue;
        }
        labels.push(("direction", counted.direction.as_str().to_owned()));
        let help = "Packets seen by the data plane, forwarded or dropped for a reason";
        all.push(counter("dataplane_packets", help, labels.clone(), counted.packets));
        let help = "Bytes seen by the data plane, forwarded or dropped for a reason";
        all.push(counter("dataplane_bytes", help, labels, counted.bytes));
    }
}

fn dataplane(info: &DataplaneInfo, all: &mut Vec<Sample>) {
    for (map, capacity, bytes) in &info.maps {
        let labels = || vec![("map", map.clone())];
        all.push(gauge("dataplane_map_capacity", "Rows that a map can hold", labels(), (*capacity).into()));
        if map == hivemind_ebpf::map::FLOWS {
            all.push(gauge("dataplane_flows_capacity", "Flows that the table can hold", vec![], (*capacity).into()));
        }
        all.push(gauge("dataplane_map_size_bytes", "Memory that a map takes", labels(), float(*bytes)));
    }
    for uplink in &info.uplinks {
        let help =
            "Whether an uplink's driver sends packets of published ports on to other nodes (else the kernel does)";
        let labels = vec![("device", uplink.device.clone())];
        all.push(gauge("dataplane_uplink_driver", help, labels, f64::from(u8::from(uplink.driver))));
    }
    for (by, count) in ["driver", "kernel"].into_iter().zip(info.sent_on) {
        let labels = || vec![("by", by.to_owned())];
        let help =
            "Packets of published ports that were sent on to other nodes, by an uplink's driver or by the kernel";
        all.push(counter("dataplane_sent_on_packets", help, labels(), count.packets));
        let help = "Bytes of published ports that were sent on to other nodes, by an uplink's driver or by the kernel";
        all.push(counter("dataplane_sent_on_bytes", help, labels(), count.bytes));
    }
    for (program, instructions) in &info.programs {
        let labels = vec![("program", program.clone())];
        let help = "Instructions that the verifier looked at";
        all.push(gauge("dataplane_program_instructions", help, labels, (*instructions).into()));
    }
}

fn app_labels(key: &AppKey) -> Vec<(&'static str, String)> {
    vec![
        ("tenant", key.scope.tenant.to_string()),
        ("namespace", key.scope.namespace.to_string()),
        ("app", key.name.to_string()),
    ]
}

fn gauge(name: &'static str, help: &'static str, labels: Vec<(&'static str, String)>, value: f64) -> Sample {
    Sample { name, help, counter: false, labels, value }
}

fn counter(name: &'static str, help: &'static str, labels: Vec<(&'static str, String)>, value: u64) -> Sample {
    Sample { name, help, counter: true, labels, value: float(value) }
}

#[expect(clippy::cast_precision_loss, reason = "metrics are floating point; exact up to 2^53")]
fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use hivemind_ebpf::reason::Reason;

    use super::*;

    #[test]
    fn counters_are_named_after_instances_and_reasons() {
        let count = |endpoint, direction, reason, packets| Counter {
            endpoint,
            service: 0,
            direction,
            reason,
            packets,
            bytes: 10 * packets,
        };
        let counters = [
            count(3, Way::Out, None, 5),
            count(0, Way::Opened, Some(Reason::NoBackend), 2),
            count(0, Way::In, Some(Reason::NotReady), 1),
        ];
        let mut all = Vec::new();
        let names = BTreeMap::from([(3, "web-abcde".to_owned())]);
        traffic(&counters, &names, &ClusterSnapshot::default(), &mut all);
        let shown: Vec<_> = all
            .iter()
            .map(|sample| {
                let label = |name| sample.labels.iter().find(|(key, _)| *key == name).map_or("", |(_, v)| v.as_str());
                (sample.name, label("instance"), label("direction"), label("reason"), sample.value)
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("dataplane_packets", "web-abcde", "out", "forwarded", 5.0),
                ("dataplane_bytes", "web-abcde", "out", "forwarded", 50.0),
                ("dataplane_opened_connections", "node", "", Reason::NoBackend.as_str(), 2.0),
                ("dataplane_packets", "node", "in", Reason::NotReady.as_str(), 1.0),
                ("dataplane_bytes", "node", "in", Reason::NotReady.as_str(), 10.0),
            ]
        );
    }
}
