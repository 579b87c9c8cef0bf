//! What instances and tenants may use, and what they use, in words.

use imbl::OrdMap;

use super::{RowsView, Who, rows};
use hivemind_agent::datapath::User;
use hivemind_dataplane::tables::{LimitOwner, LimitRow, Usage};

/// A row for each that has limits of its own, or whose tenant has some.
pub(super) fn limits(limits: &OrdMap<LimitOwner, LimitRow>, who: &Who) -> RowsView {
    rows(
        "WHO TENANT EGRESS INGRESS EGRESS-PACKETS INGRESS-PACKETS CONNECTIONS NEW-CONNECTIONS",
        limits.iter().map(|(owner, row)| {
            let name = match owner {
                LimitOwner::Instance(ifindex) => who.instance_at(*ifindex),
                LimitOwner::Tenant(number) => format!("tenant {}", who.tenant_of(*number)),
            };
            let spec = &row.spec;
            vec![
                name,
                who.tenant_of(row.tenant),
                shown(spec.egress),
                shown(spec.ingress),
                shown(spec.egress_packets),
                shown(spec.ingress_packets),
                shown(spec.connections),
                shown(spec.new_connections),
            ]
        }),
    )
}

/// A row for each that uses something which is counted for limits. Pairs are what goes out, or is begun, and what comes
/// in.
pub(super) fn uses(uses: &[(User, Usage)], who: &Who) -> RowsView {
    rows(
        "WHO CONNECTIONS REFUSED DROPPED-PACKETS DROPPED-BYTES FLOWS FLOWS-REFUSED",
        uses.iter().map(|(user, usage)| {
            let name = match user {
                User::Instance(id) => who.name_of_instance(id),
                User::Tenant(name) => format!("tenant {name}"),
            };
            let pair = |[out, into]: [u64; 2]| format!("{out}/{into}");
            vec![
                name,
                pair(usage.connections),
                pair(usage.refused),
                pair(usage.dropped_packets),
                pair(usage.dropped_bytes),
                usage.flows.to_string(),
                usage.unshared.to_string(),
            ]
        }),
    )
}

/// A limit; nothing for none.
fn shown(limit: Option<impl ToString>) -> String {
    limit.map(|limit| limit.to_string()).unwrap_or_default()
}
