//! One row for each decision.

use std::sync::Arc;

use super::*;
use hivemind_core::{
    model::{App, Problem, Row},
    spec::v1::AppSpec,
};

const NOW: Timestamp = Timestamp::from_millis(7);

fn tenant(name: &str) -> TenantName {
    name.parse().expect("a name")
}

fn scope(text: &str) -> Scope {
    let (tenant, namespace) = text.split_once('/').expect("tenant/namespace");
    Scope { tenant: tenant.parse().expect("a name"), namespace: namespace.parse().expect("a name") }
}

fn policy(place: &str, name: &str) -> PolicyKey {
    PolicyKey::new(scope(place), name.parse().expect("a name"))
}

fn closed() -> PolicySpec {
    serde_json::from_str(r#"{"ingress": []}"#).expect("a policy")
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn put_namespace(place: &str, pairs: &[(&str, &str)]) -> ObjectChange {
    ObjectChange::PutNamespace(scope(place), labels(pairs))
}

fn put_policy(place: &str, name: &str) -> ObjectChange {
    ObjectChange::PutPolicy(policy(place, name), Box::new(closed()))
}

/// Does what was decided, as the store would.
fn put(snapshot: &mut ClusterSnapshot, change: ObjectChange) {
    for row in rows_after(snapshot, change, None, NOW).expect("allowed") {
        snapshot.revision += 1;
        let modified = snapshot.revision;
        match row {
            RowChange::PutTenant(it) => {
                snapshot.tenants.insert(it.name.clone(), Row { object: Arc::new(it), modified });
            }
            RowChange::PutNamespace(it) => {
                snapshot.namespaces.insert(it.scope.clone(), Row { object: Arc::new(it), modified });
            }
            RowChange::PutPolicy(it) => {
                snapshot.policies.insert(it.key.clone(), Row { object: Arc::new(it), modified });
            }
            RowChange::Delete(ObjectName::Tenant(name)) => drop(snapshot.tenants.remove(&name)),
            RowChange::Delete(ObjectName::Namespace(scope)) => drop(snapshot.namespaces.remove(&scope)),
            RowChange::Delete(ObjectName::Volume(key)) => drop(snapshot.volumes.remove(&key)),
            RowChange::Delete(ObjectName::Policy(key)) => drop(snapshot.policies.remove(&key)),
            RowChange::PutVolume(volume) => {
                snapshot.volumes.insert(volume.key.clone(), Row { object: Arc::new(volume), modified });
            }
            RowChange::RenewApp(app) => {
                snapshot.set_app(&app.key.clone(), Some(Row { object: Arc::new(*app), modified }));
            }
            RowChange::PutContent(content) => {
                let key = (content.kind, content.key.clone());
                snapshot.contents.insert(key, Row { object: Arc::new(content), modified });
            }
            RowChange::Delete(ObjectName::Content(kind, key)) => drop(snapshot.contents.remove(&(kind, key))),
            RowChange::PutTier(policy) => {
                snapshot.tiers.insert(policy.key.clone(), Row { object: Arc::new(policy), modified });
            }
            RowChange::Delete(ObjectName::Tier(key)) => {
                snapshot.tiers.remove(&key);
            }
            RowChange::Delete(ObjectName::App(key)) => snapshot.set_app(&key, None),
        }
    }
}

fn put_app(snapshot: &mut ClusterSnapshot, place: &str, name: &str) {
    let key = AppKey::new(scope(place), name.parse().expect("a name"));
    let app = App { key: key.clone(), spec: AppSpec::new("web"), generation: 1, created_at: NOW, deleting: false };
    snapshot.set_app(&key, Some(Row { object: Arc::new(app), modified: 1 }));
}

/// Tenant acme with namespace prod.
fn acme() -> ClusterSnapshot {
    let mut snapshot = ClusterSnapshot::at(1);
    put(&mut snapshot, ObjectChange::PutTenant(tenant("acme"), None));
    put(&mut snapshot, put_namespace("acme/prod", &[("env", "prod")]));
    snapshot
}

fn rows(snapshot: &ClusterSnapshot, change: ObjectChange) -> usize {
    rows_after(snapshot, change, None, NOW).expect("allowed").len()
}

fn refused(snapshot: &ClusterSnapshot, change: ObjectChange) -> Problem {
    rows_after(snapshot, change, None, NOW).expect_err("is refused").into()
}

#[test]
fn the_same_twice_changes_nothing_and_what_always_exists_needs_no_row() {
    let mut snapshot = acme();
    put(&mut snapshot, put_policy("acme/prod", "closed"));
    for (change, expected) in [
        (ObjectChange::PutTenant(tenant("acme"), None), 0),
        (ObjectChange::PutTenant(tenant("default"), None), 0),
        (ObjectChange::PutTenant(tenant("other"), None), 1),
        (put_namespace("acme/prod", &[("env", "prod")]), 0),
        (put_namespace("acme/prod", &[("env", "prod"), (NAMESPACE_NAME_LABEL, "prod")]), 0),
        (put_namespace("acme/prod", &[]), 1),
        (put_namespace("acme/default", &[]), 0),
        (put_namespace("default/default", &[("env", "x")]), 1),
        (put_namespace("default/new", &[]), 1),
        (put_policy("acme/prod", "closed"), 0),
        (put_policy("acme/prod", "other"), 1),
        (put_policy("acme/default", "closed"), 1),
        (put_policy("default/default", "closed"), 1),
        (ObjectChange::RemovePolicy(policy("acme/prod", "closed")), 1),
    ] {
        assert_eq!(rows(&snapshot, change.clone()), expected, "{change:?}");
    }
}

#[test]
fn a_change_keeps_the_birthday() {
    let snapshot = acme();
    let change = put_namespace("acme/prod", &[]);
    let after = rows_after(&snapshot, change, None, Timestamp::from_millis(99)).expect("allowed");
    assert!(matches!(&after[..], [RowChange::PutNamespace(namespace)] if namespace.created_at == NOW), "{after:?}");
}

#[test]
fn what_is_not_there_is_said_with_the_command_that_creates_it() {
    let snapshot = acme();
    for (change, title, hint) in [
        (
            put_namespace("none/prod", &[]),
            "tenant none does not exist",
            "hivemind tenant create none && hivemind namespace create prod -T none",
        ),
        (put_policy("none/default", "p"), "tenant none does not exist", "hivemind tenant create none"),
        (put_policy("acme/test", "p"), "namespace acme/test does not exist", "hivemind namespace create test -T acme"),
        (put_policy("default/test", "p"), "namespace default/test does not exist", "hivemind namespace create test"),
        (ObjectChange::RemoveTenant(tenant("none")), "tenant none does not exist", "hivemind tenant ls"),
        (
            ObjectChange::RemoveNamespace(scope("acme/test")),
            "namespace acme/test does not exist",
            "hivemind namespace ls -T acme",
        ),
        (
            ObjectChange::RemoveNamespace(scope("none/default")),
            "namespace none/default does not exist",
            "hivemind namespace ls -T none",
        ),
        (
            ObjectChange::RemovePolicy(policy("acme/prod", "p")),
            "policy acme/prod/p does not exist",
            "hivemind policy ls -T acme -n prod",
        ),
    ] {
        let problem = refused(&snapshot, change);
        assert_eq!((problem.code.as_str(), &*problem.title), ("E-OBJ-001", title));
        assert_eq!(problem.hint.as_deref(), Some(hint));
    }
}

#[test]
fn who_owns_something_is_not_removed_and_says_what() {
    let mut snapshot = acme();
    put_app(&mut snapshot, "acme/prod", "web");
    put(&mut snapshot, put_policy("acme/default", "closed"));
    let problem = refused(&snapshot, ObjectChange::RemoveTenant(tenant("acme")));
    assert_eq!(problem.code.as_str(), "E-OBJ-002");
    assert_eq!(problem.details, ["app acme/prod/web", "policy acme/default/closed"]);
    assert_eq!(
        problem.hint.as_deref(),
        Some("hivemind app ls -T acme -A   hivemind policy ls -T acme -A   hivemind volume ls -T acme -A")
    );
    let problem = refused(&snapshot, ObjectChange::RemoveNamespace(scope("acme/prod")));
    assert_eq!(problem.details, ["app acme/prod/web"]);
    for change in [
        ObjectChange::RemoveTenant(tenant("default")),
        ObjectChange::RemoveNamespace(scope("acme/default")),
        ObjectChange::RemoveNamespace(scope("default/default")),
    ] {
        assert_eq!(refused(&snapshot, change).code.as_str(), "E-SPEC-001");
    }
    for n in 0..20 {
        put_app(&mut snapshot, "acme/prod", &format!("app-{n}"));
    }
    let problem = refused(&snapshot, ObjectChange::RemoveNamespace(scope("acme/prod")));
    assert_eq!((problem.details.len(), &*problem.details[10]), (11, "and 11 more"));
}

#[test]
fn a_tenant_goes_with_its_empty_namespaces() {
    let mut snapshot = acme();
    put(&mut snapshot, put_namespace("acme/default", &[("a", "b")]));
    put(&mut snapshot, put_namespace("default/prod", &[]));
    put(&mut snapshot, ObjectChange::RemoveTenant(tenant("acme")));
    assert!(snapshot.tenants.is_empty() && !snapshot.has_namespace(&scope("acme/default")));
    assert_eq!(snapshot.namespaces.keys().collect::<Vec<_>>(), [&scope("default/prod")]);
}

#[test]
fn all_faults_of_labels_and_policies_are_named() {
    let snapshot = acme();
    let problem = refused(&snapshot, put_namespace("acme/prod", &[("a b", "c"), (NAMESPACE_NAME_LABEL, "x")]));
    assert_eq!((problem.code.as_str(), problem.details.len()), ("E-SPEC-001", 2), "{problem}");
    let empty =
        ObjectChange::PutPolicy(policy("acme/prod", "p"), Box::new(serde_json::from_str("{}").expect("a policy")));
    assert_eq!(refused(&snapshot, empty).code.as_str(), "E-SPEC-001");
}

#[test]
fn a_condition_is_about_the_row() {
    let snapshot = acme();
    let revision = ObjectName::Namespace(scope("acme/prod")).row(&snapshot);
    let at = |if_match| rows_after(&snapshot, put_namespace("acme/prod", &[]), Some(if_match), NOW);
    assert!(at(revision.expect("a row")).is_ok());
    assert!(matches!(at(0), Err(ControlError::Conflict { found, .. }) if Some(found) == revision));
    let new = rows_after(&snapshot, put_namespace("acme/new", &[]), Some(0), NOW);
    assert!(new.is_ok(), "0 is the revision of what has no row");
}

#[test]
fn what_a_change_would_do_is_said() {
    let snapshot = acme();
    let says = |change: ObjectChange| {
        let object = change.object();
        let rows = rows_after(&snapshot, change, None, NOW).expect("allowed");
        let Changed { created, changed, .. } = outcome(&snapshot, &object, &rows);
        (created, changed)
    };
    assert_eq!(says(put_policy("acme/prod", "p")), (true, true));
    assert_eq!(says(put_namespace("acme/prod", &[])), (false, true));
    assert_eq!(says(put_namespace("acme/default", &[("a", "b")])), (false, true), "it always existed");
    assert_eq!(says(ObjectChange::PutTenant(tenant("acme"), None)), (false, false));
}

fn put_tier(name: &str, json: &str) -> ObjectChange {
    ObjectChange::PutTier(name.parse().expect("a name"), Box::new(serde_json::from_str(json).expect("a policy")))
}

const DENY: &str = r#"{"tier": "admin", "priority": 1, "ingress": [{"action": "deny"}]}"#;

#[test]
fn policies_of_tiers_belong_to_the_operator_or_a_tenant() {
    let mut snapshot = acme();
    assert_eq!(refused(&snapshot, put_tier("none/p", DENY)).title, "tenant none does not exist");
    let remove = ObjectChange::RemoveTier("p".parse().expect("a name"));
    let problem = refused(&snapshot, remove.clone());
    assert_eq!(problem.title, "tier policy p does not exist");
    assert_eq!(problem.hint.as_deref(), Some("hivemind policy tier ls"));
    put(&mut snapshot, put_tier("p", DENY));
    put(&mut snapshot, put_tier("acme/p", DENY));
    assert_eq!((snapshot.tiers.len(), rows(&snapshot, put_tier("acme/p", DENY))), (2, 0), "two, and nothing twice");
    let of_tenant = refused(&snapshot, put_tier("acme/p", &DENY.replace("admin", "host")));
    assert!(of_tenant.details[0].contains("the operator's alone"), "{of_tenant}");
    let wrong = refused(&snapshot, put_tier("p", &DENY.replace(": 1", ": 1001")));
    assert_eq!((wrong.code.as_str(), wrong.details.len()), ("E-SPEC-001", 1));
    let problem = refused(&snapshot, ObjectChange::RemoveTenant(tenant("acme")));
    assert_eq!(problem.details, ["tier policy acme/p"]);
    put(&mut snapshot, ObjectChange::RemoveTier("acme/p".parse().expect("a name")));
    put(&mut snapshot, ObjectChange::RemoveTenant(tenant("acme")));
    put(&mut snapshot, remove);
    assert!(snapshot.tiers.is_empty());
}

#[test]
fn what_does_not_fit_is_refused_with_its_numbers() {
    let mut snapshot = acme();
    let mut spec = AppSpec::new("x");
    spec.labels.insert("app".into(), "web".into());
    for n in 0..300 {
        spec.labels.insert("n".into(), n.to_string());
        let id = hivemind_core::model::InstanceId::from_bits(n);
        let instance = hivemind_core::model::Instance {
            id: id.clone(),
            app: AppKey::new(scope("acme/prod"), "web".parse().expect("a name")),
            generation: 1,
            spec: spec.clone(),
            node: "here".parse().expect("a name"),
            addresses: hivemind_core::model::Addresses::default(),
            desired: hivemind_core::model::Desired::Run,
            contents: hivemind_core::model::ContentVersions::default(),
            created_at: NOW,
        };
        snapshot.set_instance(&id, Some(Row { object: Arc::new(instance), modified: 1 }));
    }
    // Each instance is a class of its own, and every port an interval: 300 times 440 rows.
    let peers: Vec<_> =
        (0..300).map(|n| format!(r#"{{"instances": {{"instances": {{"labels": {{"n": "{n}"}}}}}}}}"#)).collect();
    let ports: Vec<_> = (1..=440).map(|port| format!(r#"{{"port": [{}, {}]}}"#, port * 2, port * 2)).collect();
    let large = format!(r#"{{"ingress": [{{"peers": [{}], "ports": [{}]}}]}}"#, peers.join(","), ports.join(","));
    let change = ObjectChange::PutPolicy(
        policy("acme/prod", "large"),
        Box::new(serde_json::from_str(&large).expect("a policy")),
    );
    let problem = refused(&snapshot, change);
    assert_eq!(problem.code.as_str(), "E-SPEC-001");
    assert!(
        problem.details[0].contains("would have 132000 rules") && problem.details[0].contains("131072"),
        "{problem}"
    );
}
