//! Limits: what they are, what is used of them, and what was refused.

use super::{app_labels, counter, float, gauge};
use hivemind_agent::datapath::User;
use hivemind_core::{model::ClusterSnapshot, spec::v1::LimitSpec};
use hivemind_dataplane::tables::Usage;
use hivemind_observe::Sample;

type Labels = Vec<(&'static str, String)>;

/// Names of both directions, as in [`Usage`].
const DIRECTIONS: [&str; 2] = ["out", "in"];

/// The limits of apps (of each of their instances) and of tenants (of all their instances on a node).
pub(super) fn configured(snapshot: &ClusterSnapshot, all: &mut Vec<Sample>) {
    for (key, row) in &snapshot.apps {
        limits(&row.object.spec.limits, &app_labels(key), all);
    }
    for (name, row) in &snapshot.tenants {
        let labels = vec![("tenant", name.to_string()), ("namespace", String::new()), ("app", String::new())];
        limits(&row.object.limits, &labels, all);
    }
}

fn limits(limits: &LimitSpec, labels: &Labels, all: &mut Vec<Sample>) {
    let mut both = |name, help, values: [Option<u64>; 2]| {
        for (value, direction) in values.into_iter().zip(DIRECTIONS) {
            if let Some(value) = value {
                let mut labels = labels.clone();
                labels.push(("direction", direction.to_owned()));
                all.push(gauge(name, help, labels, float(value)));
            }
        }
    };
    let bytes = [limits.egress, limits.ingress].map(|rate| rate.map(|rate| rate.0 / 8));
    both("limit_bytes_per_second", "Bytes that each instance of an app, or a tenant on a node, may pass", bytes);
    let packets = [limits.egress_packets, limits.ingress_packets].map(|rate| rate.map(|rate| rate.0));
    both("limit_packets_per_second", "Packets that each instance of an app, or a tenant on a node, may pass", packets);
    let connections = [limits.connections.map(u64::from); 2];
    both("limit_connections", "Connections that each instance of an app, or a tenant on a node, may have", connections);
    let begins = [limits.new_connections.map(|rate| rate.0); 2];
    let help = "Connections that each instance of an app, or a tenant on a node, may begin or accept";
    both("limit_new_connections_per_second", help, begins);
}

/// What instances of this node and tenants use; `name` is that of an instance.
pub(super) fn used(
    uses: &[(User, Usage)],
    name: impl Fn(&hivemind_core::model::InstanceId) -> Option<String>,
    all: &mut Vec<Sample>,
) {
    for (user, usage) in uses {
        let (instance, tenant) = match user {
            User::Instance(id) => (name(id).unwrap_or_else(|| id.to_string()), String::new()),
            User::Tenant(tenant) => (String::new(), tenant.to_string()),
        };
        let labels = vec![("instance", instance), ("tenant", tenant)];
        for (n, direction) in DIRECTIONS.into_iter().enumerate() {
            let labels = || labels.iter().cloned().chain([("direction", direction.to_owned())]).collect();
            let help = "Connections that are not closed, begun (out) or accepted (in)";
            all.push(gauge("limited_connections", help, labels(), float(usage.connections[n])));
            let help = "Packets that were dropped because they were over a rate";
            all.push(counter("limited_dropped_packets", help, labels(), usage.dropped_packets[n]));
            let help = "Bytes of packets that were dropped because they were over a rate";
            all.push(counter("limited_dropped_bytes", help, labels(), usage.dropped_bytes[n]));
            let help = "Connections that were refused because of a limit";
            all.push(counter("limited_refused_connections", help, labels(), usage.refused[n]));
        }
        if matches!(user, User::Instance(_)) {
            let help = "Rows of the table of flows that an instance holds";
            all.push(gauge("dataplane_instance_flows", help, labels.clone(), float(usage.flows)));
            let help = "Flows that got no row because the instance holds its share of the table";
            all.push(counter("dataplane_instance_flows_refused", help, labels, usage.unshared));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hivemind_core::model::{BitRate, InstanceId};

    #[test]
    fn limits_and_their_use_have_a_direction() {
        let mut all = Vec::new();
        let spec = LimitSpec { egress: Some(BitRate(8_000_000)), connections: Some(5), ..LimitSpec::default() };
        limits(&spec, &vec![("app", "web".to_owned())], &mut all);
        let usage = Usage { connections: [3, 4], dropped_packets: [7, 0], flows: 9, ..Usage::default() };
        let id = InstanceId::from_bits(1);
        let uses = [(User::Instance(id), usage), (User::Tenant("acme".parse().expect("a name")), usage)];
        used(&uses, |_| Some("web-1".into()), &mut all);
        let value = |name, label: (&str, &str), direction: &str| {
            let found = all.iter().find(|sample| {
                let has =
                    |label: (&str, &str)| sample.labels.iter().any(|(key, value)| (*key, value.as_str()) == label);
                sample.name == name && has(label) && (direction.is_empty() || has(("direction", direction)))
            });
            found.map(|sample| sample.value)
        };
        assert_eq!(value("limit_bytes_per_second", ("app", "web"), "out"), Some(1_000_000.0));
        assert_eq!(value("limit_bytes_per_second", ("app", "web"), "in"), None);
        assert_eq!(value("limit_connections", ("app", "web"), "in"), Some(5.0));
        assert_eq!(value("limited_connections", ("instance", "web-1"), "in"), Some(4.0));
        assert_eq!(value("limited_dropped_packets", ("tenant", "acme"), "out"), Some(7.0));
        assert_eq!(value("dataplane_instance_flows", ("instance", "web-1"), ""), Some(9.0));
        assert_eq!(value("dataplane_instance_flows", ("tenant", "acme"), ""), None);
    }
}
