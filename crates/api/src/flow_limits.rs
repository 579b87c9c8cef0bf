//! Whose limit it was that something was dropped at: the program that drops is the sender's, the limit often is not.

use hivemind_ebpf::reason::Reason;

use super::flow_view::LimitOfView;
use hivemind_agent::datapath::User;
use hivemind_core::{
    model::{ClusterSnapshot, Instance},
    spec::v1::LimitSpec,
};
use hivemind_dataplane::tables::Usage;

/// Ends of a flow, as [`Usage`] counts them.
const OUT: usize = 0;
const IN: usize = 1;

/// Who, of the sender, the receiver and their tenants, has a limit that can have been met: those that have met one. With
/// several, the first that the programs ask.
pub(super) fn whose(
    snapshot: &ClusterSnapshot,
    uses: &[(User, Usage)],
    reason: Reason,
    from: Option<&Instance>,
    to: Option<&Instance>,
) -> Option<LimitOfView> {
    match reason {
        Reason::FlowShare => return from.or(to).map(LimitOfView::instance),
        Reason::ConnectionLimit | Reason::RateLimited => {}
        _ => return None,
    }
    let usage = |user: &User| uses.iter().find(|(other, _)| other == user).map(|(_, usage)| *usage);
    let mut all = Vec::new();
    for (instance, end) in [(from, OUT), (to, IN)] {
        let Some(instance) = instance else { continue };
        let tenant = &instance.app.scope.tenant;
        let of_tenant = snapshot.tenants.get(tenant).map(|row| row.object.limits).unwrap_or_default();
        let own = (instance.spec.limits, User::Instance(instance.id.clone()), LimitOfView::instance(instance));
        let whole = (of_tenant, User::Tenant(tenant.clone()), LimitOfView::tenant(tenant));
        for (limits, user, view) in [own, whole] {
            if limits_so(&limits, reason, end) {
                all.push((usage(&user).is_some_and(|usage| was_met(&usage, reason, end)), view));
            }
        }
    }
    let met = all.iter().position(|(met, _)| *met).unwrap_or(0);
    (met < all.len()).then(|| all.swap_remove(met).1)
}

const fn limits_so(limits: &LimitSpec, reason: Reason, end: usize) -> bool {
    match (reason, end) {
        (Reason::ConnectionLimit, _) => limits.connections.is_some() || limits.new_connections.is_some(),
        (_, OUT) => limits.egress.is_some() || limits.egress_packets.is_some(),
        _ => limits.ingress.is_some() || limits.ingress_packets.is_some(),
    }
}

const fn was_met(usage: &Usage, reason: Reason, end: usize) -> bool {
    match reason {
        Reason::ConnectionLimit => usage.refused[end] > 0,
        _ => usage.dropped_packets[end] > 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use hivemind_core::{
        model::{Addresses, AppKey, Desired, InstanceId, Row, Scope, Tenant, Timestamp},
        spec::v1::AppSpec,
    };

    fn instance(n: u64, app: &str, connections: Option<u32>) -> Instance {
        let mut spec = AppSpec::new("x");
        spec.limits.connections = connections;
        Instance {
            id: InstanceId::from_bits(n),
            app: AppKey::new(Scope::default(), app.parse().expect("a name")),
            generation: 1,
            spec,
            node: "here".parse().expect("a name"),
            addresses: Addresses::default(),
            desired: Desired::Run,
            contents: hivemind_core::model::ContentVersions::default(),
            created_at: Timestamp::default(),
        }
    }

    #[test]
    fn the_limit_is_of_who_has_met_one() {
        let mut snapshot = ClusterSnapshot::at(1);
        let (spy, lim) = (instance(1, "spy", None), instance(2, "lim", Some(1)));
        let whose = |snapshot: &ClusterSnapshot, uses: &[(User, Usage)], from: &Instance, to: &Instance| {
            let of = super::whose(snapshot, uses, Reason::ConnectionLimit, Some(from), Some(to));
            of.map(|of| of.to_string())
        };
        assert_eq!(whose(&snapshot, &[], &spy, &lim), Some(lim.name()), "only the receiver has one");
        assert_eq!(whose(&snapshot, &[], &lim, &spy), Some(lim.name()));
        assert_eq!(whose(&snapshot, &[], &spy, &spy), None);
        let tenant = Scope::default().tenant;
        let limits = LimitSpec { connections: Some(5), ..LimitSpec::default() };
        let row = Tenant { name: tenant.clone(), limits, created_at: Timestamp::default() };
        snapshot.tenants.insert(tenant.clone(), Row { object: Arc::new(row), modified: 1 });
        // The tenant may begin no more, and the receiver has room.
        let usage = Usage { refused: [1, 0], ..Usage::default() };
        let uses = [(User::Tenant(tenant), usage)];
        assert_eq!(whose(&snapshot, &uses, &spy, &lim).as_deref(), Some("tenant default"));
        let uses = [(User::Instance(lim.id.clone()), Usage { refused: [0, 1], ..Usage::default() })];
        assert_eq!(whose(&snapshot, &uses, &spy, &lim), Some(lim.name()));
        let share = super::whose(&snapshot, &[], Reason::FlowShare, Some(&spy), Some(&lim));
        assert_eq!(share.map(|of| of.to_string()), Some(spy.name()), "who begins holds the row");
        assert_eq!(super::whose(&snapshot, &uses, Reason::PolicyIn, Some(&spy), Some(&lim)), None);
    }
}
