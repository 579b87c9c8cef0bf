//! Who serves, and how, from the loop's side.

use super::*;
use hivemind_core::{
    model::{DEFAULT_WEIGHT, Desired, Pin, ServedService},
    spec::v1::{Affinity, BalanceSpec, Method},
};

fn served(control: &Control) -> ServedService {
    let snapshot = control.snapshot();
    let service = &snapshot.services.values().next().expect("a service").object;
    snapshot.served(service)
}

fn serving(control: &Control) -> Vec<InstanceId> {
    served(control).backends.into_iter().map(|backend| backend.id).collect()
}

#[tokio::test]
async fn who_is_being_stopped_serves_only_while_nobody_else_is_ready() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let (control, app) = (&running.control, key("web"));
    control.deploy(app.clone(), spec(2), None).await.expect("deployed");
    agent(control).await.expect("reported");
    let both = ids(control, &app);
    assert_eq!(serving(control), both);
    // One of two: the other is ready, so this one gets nothing new from the same revision on.
    control.deploy(app.clone(), spec(1), None).await.expect("scaled");
    let stops = |id: &InstanceId| control.snapshot().instances[id].object.desired == Desired::Stop;
    let (stopped, left): (Vec<_>, Vec<_>) = both.iter().cloned().partition(stops);
    assert_eq!((stopped.len(), serving(control), served(control).leaving), (1, left.clone(), false));
    // The other becomes unhealthy: the one that drains still has its process, and is better than nobody.
    let stopping = |serving| {
        let mut report = report(&app, &stopped[0], Phase::Stopping);
        report.status.serving = serving;
        report
    };
    control.report(vec![stopping(true), report(&app, &left[0], Phase::Unhealthy)]).await.expect("reported");
    assert_eq!((serving(control), served(control).leaving), (stopped.clone(), true));
    control.report(vec![report(&app, &left[0], Phase::Ready)]).await.expect("reported");
    assert_eq!(serving(control), left);
    // Its process has ended: it is nobody's last resort.
    control.report(vec![stopping(false), report(&app, &left[0], Phase::Unhealthy)]).await.expect("reported");
    assert_eq!(serving(control), []);
    running.stop().await;
}

#[tokio::test]
async fn a_change_of_balancing_is_the_services_and_needs_no_new_instances() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let (control, app) = (&running.control, key("web"));
    control.deploy(app.clone(), spec(2), None).await.expect("deployed");
    agent(control).await.expect("reported");
    let (before, generation) = (ids(control, &app), control.snapshot().apps[&app].object.generation);
    let balance = BalanceSpec {
        method: Method::LeastConnections,
        affinity: Some(Affinity { client_ip_seconds: 60 }),
        ..BalanceSpec::default()
    };
    let changed = AppSpec { balance: balance.clone(), ..spec(2) };
    control.deploy(app.clone(), changed, None).await.expect("deployed");
    assert_eq!(served(control).service.balance, balance);
    assert_eq!((ids(control, &app), control.snapshot().apps[&app].object.generation), (before, generation));
    running.stop().await;
}

#[tokio::test]
async fn weights_are_those_of_the_service_and_a_pin_takes_the_others_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let (control, app) = (&running.control, key("web"));
    control.deploy(app.clone(), spec(2), None).await.expect("deployed");
    agent(control).await.expect("reported");
    let both = ids(control, &app);
    let mut service = served(control).service;
    let weights = |service: &hivemind_core::model::Service| -> Vec<u16> {
        control.snapshot().served(service).backends.iter().map(|backend| backend.weight).collect()
    };
    assert_eq!(weights(&service), [DEFAULT_WEIGHT; 2]);
    service.shares.instances.insert(both[0].clone(), 10);
    assert_eq!(weights(&service), [10, DEFAULT_WEIGHT]);
    service.shares.pin = Some(Pin::Instance(both[0].clone()));
    assert_eq!(weights(&service), [10, 0]);
    running.stop().await;
}

#[tokio::test]
async fn limits_change_on_instances_that_run_and_tenants_are_told_to_nodes() {
    use crate::ObjectChange;
    use hivemind_core::{
        model::{BitRate, NodeDesired},
        spec::v1::LimitSpec,
    };
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let (control, app) = (&running.control, key("web"));
    control.deploy(app.clone(), spec(2), None).await.expect("deployed");
    agent(control).await.expect("reported");
    let (before, generation) = (ids(control, &app), control.snapshot().apps[&app].object.generation);
    let limits = LimitSpec { egress: Some(BitRate(10_000_000)), ..LimitSpec::default() };
    control.deploy(app.clone(), AppSpec { limits, ..spec(2) }, None).await.expect("deployed");
    let snapshot = control.snapshot();
    assert_eq!((ids(control, &app), snapshot.apps[&app].object.generation), (before, generation));
    assert!(snapshot.instances.values().all(|row| row.object.spec.limits == limits));
    let too_slow = LimitSpec { egress: Some(BitRate(1)), ..LimitSpec::default() };
    let tenant = app.scope.tenant.clone();
    for refused in [
        control.deploy(app.clone(), AppSpec { limits: too_slow, ..spec(2) }, None).await.map(drop),
        control.change(ObjectChange::PutTenant(tenant.clone(), Some(too_slow)), None).await.map(drop),
    ] {
        assert!(matches!(refused, Err(ControlError::Invalid { .. })), "{refused:?}");
    }

    // The tenant that always exists gets a row with its limits, and loses nothing without a word of them.
    let put = |limits| control.change(ObjectChange::PutTenant(tenant.clone(), limits), None);
    for (limits, changed) in [(Some(limits), true), (None, false), (Some(limits), false)] {
        assert_eq!(put(limits).await.expect("put").changed, changed, "{limits:?}");
    }
    let mut feed = control.feed(&"node-2".parse().expect("a name")).await.expect("a feed");
    let mut desired = NodeDesired::default();
    while desired.revision == 0 {
        desired.apply(feed.recv().await.expect("a message"));
    }
    assert_eq!(desired.tenants[&tenant].limits, limits);
    put(Some(LimitSpec::default())).await.expect("put");
    let revision = control.snapshot().revision;
    while desired.revision < revision {
        desired.apply(feed.recv().await.expect("a message"));
    }
    assert!(desired.tenants[&tenant].limits.is_default());
    running.stop().await;
}
