//! Which flows are asked for.

use std::net::IpAddr;

use hivemind_ebpf::reason::Reason;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    ApiState,
    flow_names::Who,
    flow_view::{FlowVerdict, FlowView},
    problem::{ApiError, not_found, with_nearest},
    tenants::{check, refused},
};
use hivemind_control::{ControlError, ObjectName};
use hivemind_core::model::{ClusterSnapshot, ErrorCode, NamespaceName, Problem, Scope, TenantName};

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FlowArgs {
    /// Only flows that an instance of this tenant takes part in.
    #[param(value_type = Option<String>)]
    tenant: Option<TenantName>,
    /// Only flows that an instance of a namespace of this name takes part in.
    #[param(value_type = Option<String>)]
    namespace: Option<NamespaceName>,
    /// Only flows that an instance of an app of this name takes part in.
    app: Option<String>,
    /// Only flows of the instance of this name or id.
    instance: Option<String>,
    /// Only flows of this address.
    #[param(value_type = Option<String>)]
    address: Option<IpAddr>,
    /// Who began it: an instance's name or id, an app as `APP`, `NAMESPACE/APP` or `TENANT/NAMESPACE/APP`, an IP
    /// address, `world` or `host`.
    from: Option<String>,
    /// Who was to be reached: the same, or a service's name.
    to: Option<String>,
    /// Only flows with this port at one end.
    port: Option<u16>,
    /// Only flows of this protocol: `tcp`, `udp`, `icmp`, `sctp`, or a number.
    protocol: Option<String>,
    /// Only what was forwarded, or dropped.
    verdict: Option<FlowVerdict>,
    /// Only what was dropped for this reason, as `policy-in`; `audit`: what passed, and policies on trial would have denied.
    reason: Option<String>,
    /// With `tenant` or `namespace`: also what is of the host and of no instance, which is the operator's to see.
    #[serde(default)]
    host: bool,
}

impl FlowArgs {
    /// What can match nothing is a slip of the pen, not an empty list.
    pub(super) fn check(self) -> Result<Self, ApiError> {
        if let Some(wanted) = &self.reason {
            let mut known = Reason::ALL.iter().map(|reason| reason.as_str());
            if !known.any(|known| known == wanted) {
                let problem =
                    Problem::new(ErrorCode::Invalid, format!("there is no reason {wanted} to drop a packet for"));
                let known = Reason::ALL.iter().map(|reason| reason.as_str());
                return Err(with_nearest(problem, wanted, known).hint("hivemind flows --dropped").into());
            }
        }
        if let Some(wanted) = &self.protocol {
            let known = ["tcp", "udp", "icmp", "sctp"];
            if !known.iter().any(|known| wanted.eq_ignore_ascii_case(known)) && wanted.parse::<u8>().is_err() {
                let what = format!("there is no protocol {wanted}: tcp, udp, icmp, sctp, or a number from 0 to 255");
                return Err(Problem::new(ErrorCode::Invalid, what).into());
            }
        }
        Ok(self)
    }

    pub(super) fn wants(&self, view: &FlowView) -> bool {
        let ends = [&view.from, &view.to];
        // Tenant, namespace, app and instance are to be those of one end.
        let of_one = ends.iter().any(|end| {
            let is = |wanted: Option<&str>, own: Option<&str>| wanted.is_none() || wanted == own;
            is(self.tenant.as_ref().map(TenantName::as_str), end.tenant.as_deref())
                && is(self.namespace.as_ref().map(NamespaceName::as_str), end.namespace.as_deref())
                && is(self.app.as_deref(), end.app.as_deref())
                && self.instance.as_ref().is_none_or(|wanted| end.is_instance(wanted))
        });
        (of_one || self.wants_service(view) || self.host && self.is_of_host(view))
            && self.address.is_none_or(|wanted| ends.iter().any(|end| end.address == Some(wanted)))
            && self.port.is_none_or(|wanted| ends.iter().any(|end| end.port == wanted))
            && self.from.as_ref().is_none_or(|wanted| view.from.is(wanted))
            && self.to.as_ref().is_none_or(|wanted| view.to.is(wanted) || view.service_is(wanted))
            && self.protocol.as_ref().is_none_or(|wanted| view.protocol.eq_ignore_ascii_case(wanted))
            && self.verdict.is_none_or(|wanted| wanted == view.verdict)
            && self.reason.as_ref().is_none_or(|wanted| view.dropped.as_ref().is_some_and(|d| d.reason == *wanted))
    }

    /// What was dropped on its way to a published port is its service's as well: no end is an instance then.
    fn wants_service(&self, view: &FlowView) -> bool {
        let mut words = view.service.as_deref().unwrap_or_default().split('/');
        let is = |wanted: Option<&str>, own: Option<&str>| own.is_some() && (wanted.is_none() || wanted == own);
        view.dropped.is_some()
            && self.instance.is_none()
            && is(self.tenant.as_ref().map(TenantName::as_str), words.next())
            && is(self.namespace.as_ref().map(NamespaceName::as_str), words.next())
            && is(self.app.as_deref(), words.next())
    }

    /// No end is an instance, and none was asked for.
    fn is_of_host(&self, view: &FlowView) -> bool {
        let nobody = [&view.from, &view.to].iter().all(|end| end.tenant.is_none());
        nobody && self.app.is_none() && self.instance.is_none()
    }

    /// Refuses names that nobody has, and that nothing which is still shown has: what can match nothing is a slip of the
    /// pen, not an empty list.
    pub(super) fn known(&self, state: &ApiState, who: &Who, views: &[FlowView]) -> Result<(), ApiError> {
        let snapshot = who.snapshot();
        let ends = || views.iter().flat_map(|view| [&view.from, &view.to]);
        if let Some(tenant) = self.tenant.as_ref().filter(|tenant| !snapshot.has_tenant(tenant))
            && !ends().any(|end| end.tenant.as_deref() == Some(tenant.as_str()))
        {
            let gone = ControlError::NotFound { object: ObjectName::Tenant(tenant.clone()) };
            return Err(refused(state, gone));
        }
        if let (Some(tenant), Some(namespace)) = (&self.tenant, &self.namespace) {
            check(state, &Scope { tenant: tenant.clone(), namespace: namespace.clone() })?;
        }
        let here = |scope: &Scope| {
            self.tenant.as_ref().is_none_or(|wanted| *wanted == scope.tenant)
                && self.namespace.as_ref().is_none_or(|wanted| *wanted == scope.namespace)
        };
        let scope = self.tenant.clone().zip(self.namespace.clone());
        let scope = scope.map(|(tenant, namespace)| Scope { tenant, namespace });
        let apps = || snapshot.apps.keys().filter(|key| here(&key.scope)).map(|key| key.name.as_str());
        if let Some(app) = &self.app
            && !apps().any(|name| name == app)
            && !ends().any(|end| end.app.as_ref() == Some(app))
        {
            return Err(not_found("app", app, scope.as_ref(), apps()));
        }
        let instances = || snapshot.instances.values().map(|row| &row.object);
        if let Some(wanted) = &self.instance
            && !instances().any(|instance| instance.name() == *wanted || instance.id.as_str() == wanted)
            && !ends().any(|end| end.is_instance(wanted))
        {
            let names: Vec<_> = instances().filter(|of| here(&of.app.scope)).map(|of| of.name()).collect();
            return Err(not_found("instance", wanted, scope.as_ref(), names.iter().map(String::as_str)));
        }
        for (flag, wanted, to) in [("from", &self.from, false), ("to", &self.to, true)] {
            let Some(wanted) = wanted else { continue };
            let shown = |view: &FlowView| {
                if to { view.to.is(wanted) || view.service_is(wanted) } else { view.from.is(wanted) }
            };
            if is_somebody(snapshot, wanted, to) || views.iter().any(shown) {
                continue;
            }
            let names = instances().map(|of| of.name()).chain(apps().map(str::to_owned)).collect::<Vec<_>>();
            let title = format!("--{flag} {wanted}: there is no such instance, app, service or address");
            let problem = Problem::new(ErrorCode::NotFound, title);
            let problem = with_nearest(problem, wanted, names.iter().map(String::as_str));
            return Err(problem.hint("hivemind ps --all-tenants").into());
        }
        Ok(())
    }
}

/// Whether somebody may be meant by a word; of a receiver (`to`) a service too.
pub(super) fn is_somebody(snapshot: &ClusterSnapshot, wanted: &str, to: bool) -> bool {
    let words = ["world", "host", "gone", "service", "unknown"];
    if words.contains(&wanted) || wanted.parse::<IpAddr>().is_ok() {
        return true;
    }
    // `APP`, `NAMESPACE/APP`, `TENANT/NAMESPACE/APP`
    let ends_so = |full: &str| full == wanted || full.ends_with(&format!("/{wanted}"));
    let mut instances = snapshot.instances.values().map(|row| &row.object);
    snapshot.apps.keys().any(|key| ends_so(&key.to_string()))
        || to && snapshot.services.keys().any(|key| ends_so(&key.to_string()))
        || instances.any(|of| of.name() == wanted || of.id.as_str() == wanted || ends_so(&of.app.to_string()))
}
