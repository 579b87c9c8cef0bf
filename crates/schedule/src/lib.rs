//! Floor 1, decisions: which instances and services should exist. Pure: snapshot, time and random numbers come in,
//! changes come out. `control` writes all changes of a plan in one transaction, or none.

mod app;
mod depends;
pub mod history;
mod place;
mod rollout;
mod service;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use ipnet::{Ipv4Net, Ipv6Net};

use hivemind_core::{
    model::{
        AppKey, ClusterSnapshot, Cursor, Instance, InstanceId, Past, Rollout, Scope, Service, ServiceKey, ServiceName,
        Timestamp,
    },
    spec::v1::{LimitSpec, ServiceSpec},
};

/// A change of one row.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A new instance.
    CreateInstance(Box<Instance>),
    /// An instance is to stop.
    StopInstance(InstanceId),
    /// An instance is to stop at once: nothing takes its place, so nothing is waited for.
    EndInstance(InstanceId),
    /// An instance counts as one of this generation: it has the same specification.
    AdoptInstance(InstanceId, u64),
    /// An instance is of an app with these services, and gets these limits while it runs.
    AdaptInstance(InstanceId, LimitSpec, BTreeMap<ServiceName, ServiceSpec>),
    /// Nothing is left of an instance: its rows go.
    DeleteInstance(InstanceId),
    /// A new service, or a changed one.
    PutService(Box<Service>),
    /// The highest number that a service ever had is this one.
    CountServices(u32),
    /// A service goes.
    DeleteService(ServiceKey),
    /// How far an app is on the way to its newest generation.
    PutRollout(AppKey, Box<Rollout>),
    /// A generation that an app has or had.
    PutPast(Box<Past>),
    /// It is no longer kept.
    DeletePast(AppKey, u64),
    /// An app goes, and how far it was.
    DeleteApp(AppKey),
    /// The last app of a project that is being removed goes: so do the project's policies, and its namespace if that is
    /// not one that always exists.
    DeleteProject(Scope),
}

/// The cluster's ranges of service addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ServiceRanges {
    /// IPv4; absent in an IPv6-only cluster.
    pub v4: Option<Ipv4Net>,
    /// IPv6; absent in an IPv4-only cluster.
    pub v6: Option<Ipv6Net>,
}

/// What a plan needs besides the snapshot.
pub struct Input<'a> {
    /// Everything that is.
    pub snapshot: &'a ClusterSnapshot,
    /// Ranges of service addresses.
    pub services: ServiceRanges,
    /// Since when plans are made: while there was no daemon, nothing could come further.
    pub since: Timestamp,
    /// Now.
    pub now: Timestamp,
    /// Random numbers.
    pub random: &'a mut dyn FnMut() -> u64,
    /// The addresses that were given last: the search goes on behind them.
    pub cursor: &'a mut Cursor,
}

/// What should change for one app.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Plan {
    /// The changes.
    pub changes: Vec<Change>,
    /// Why something that is wanted is not among them: one line for each reason.
    pub unmet: Vec<String>,
    /// Which apps are waited for: one line for each.
    pub waits: Vec<String>,
    /// When to plan again though nothing has changed.
    pub again_at: Option<Timestamp>,
    /// The newest generation does not come up, and why: it is to be taken back, and nothing else of the plan is to be done.
    pub failed: Option<String>,
}

/// What should change for `app`, so that its instances and its service are what its row says. An empty plan means
/// that nothing is to do until something changes.
pub fn plan(input: &mut Input<'_>, app: &AppKey) -> Plan {
    let mut plan = Plan::default();
    app::plan(input, app, &mut plan);
    if plan.failed.is_none() {
        service::plan(input, app, &mut plan);
    }
    plan
}
