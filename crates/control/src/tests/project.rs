//! Projects: all of one or nothing, what a change does with each app, and what goes with the last.

use super::*;
use hivemind_core::{
    model::{AppName, Cause, PolicyName},
    spec::v1::{Condition, Dependency, PROJECT_LABEL, PolicySpec, ProjectSpec},
};

fn project(name: &str) -> ProjectKey {
    let namespace = name.replace('_', "-").parse().expect("a name");
    ProjectKey { scope: Scope { namespace, ..Scope::default() }, name: name.to_owned() }
}

fn name(text: &str) -> AppName {
    text.parse().expect("a name")
}

/// A project of apps, each with a published port or none.
fn document(apps: &[(&str, Option<&str>)]) -> ProjectSpec {
    let mut spec = ProjectSpec::default();
    for (app, port) in apps {
        let mut one = AppSpec::new("x:1");
        one.ports = port.iter().map(|port| port.parse().expect("a port")).collect();
        spec.apps.insert(name(app), one);
        let policy: PolicyName = format!("project-{app}").parse().expect("a name");
        spec.policies.insert(policy, PolicySpec { ingress: Some(vec![]), ..PolicySpec::default() });
    }
    spec
}

async fn apply(control: &Control, key: &ProjectKey, spec: ProjectSpec) -> Result<ProjectChanged, ControlError> {
    let preview = control.preview_project(key, ProjectChange::Apply(Box::new(spec.clone())));
    let done = control.project(key.clone(), ProjectChange::Apply(Box::new(spec))).await;
    if let (Ok(mut preview), Ok(done)) = (preview, &done) {
        preview.revision = done.revision;
        assert_eq!(preview, *done, "a preview says something else");
    }
    done
}

fn actions(done: &ProjectChanged) -> Vec<String> {
    done.apps.iter().map(|(name, app)| format!("{name} {}", app.action)).collect()
}

#[tokio::test]
async fn a_change_says_what_it_does_with_each_app_and_the_same_again_does_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let (control, shop) = (&running.control, project("shop"));
    let mut spec = document(&[("web", Some("8080:80")), ("db", None)]);
    let done = apply(control, &shop, spec.clone()).await.expect("taken");
    assert!(done.created && done.policies_put.len() == 2, "{done:?}");
    assert_eq!(actions(&done), ["db created", "web created"]);
    let again = apply(control, &shop, spec.clone()).await.expect("taken");
    assert!(!again.created && again.policies_put.is_empty(), "{again:?}");
    assert_eq!(actions(&again), ["db unchanged", "web unchanged"]);
    assert_eq!(control.snapshot().namespaces[&shop.scope].object.labels[PROJECT_LABEL], "shop");

    let dependency = Dependency { condition: Condition::Started, restart: true };
    spec.apps.get_mut(&name("web")).expect("web").depends_on.insert(name("db"), dependency);
    assert_eq!(actions(&apply(control, &shop, spec.clone()).await.expect("taken")), ["db unchanged", "web changed"]);
    spec.apps.get_mut(&name("db")).expect("db").replicas = 3;
    assert_eq!(actions(&apply(control, &shop, spec.clone()).await.expect("taken")), ["db scaled", "web unchanged"]);
    // Who restarts with another is replaced with it.
    spec.apps.get_mut(&name("db")).expect("db").image = "x:2".into();
    assert_eq!(actions(&apply(control, &shop, spec.clone()).await.expect("taken")), ["db replaced", "web replaced"]);
    let renew = ProjectSpec { renew: [name("web")].into(), ..spec.clone() };
    assert_eq!(actions(&apply(control, &shop, renew).await.expect("taken")), ["db unchanged", "web replaced"]);

    // What is named no more stays, with its policy, until it is to go; what is named as staying is no orphan.
    spec.apps.remove(&name("db"));
    spec.apps.get_mut(&name("web")).expect("web").depends_on.clear();
    let kept = ProjectSpec { others: [name("db")].into(), ..spec.clone() };
    assert_eq!(actions(&apply(control, &shop, kept).await.expect("taken")), ["web changed"]);
    spec.policies.remove(&"project-db".parse().expect("a name"));
    let orphan = apply(control, &shop, spec.clone()).await.expect("taken");
    assert_eq!(
        (actions(&orphan), orphan.policies_removed.len()),
        (vec!["db orphan".into(), "web unchanged".into()], 0)
    );
    spec.remove_orphans = true;
    assert_eq!(actions(&apply(control, &shop, spec).await.expect("taken")), ["db removed", "web unchanged"]);
    running.stop().await;
}

#[tokio::test]
async fn a_secret_that_two_share_renews_both_whoever_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let (control, shop) = (&running.control, project("shop"));
    let mut spec = document(&[("web", None), ("db", None), ("other", None)]);
    for app in ["web", "db"] {
        spec.apps.get_mut(&name(app)).expect("one").secrets = vec!["key".parse().expect("a file")];
    }
    let with_key = |spec: &ProjectSpec, text: &str| {
        let data = hivemind_core::model::Hidden(text.as_bytes().to_vec());
        let content = hivemind_core::spec::v1::ContentSpec { data, labels: Default::default() };
        ProjectSpec { secrets: [("key".parse().expect("a name"), content)].into(), ..spec.clone() }
    };
    apply(control, &shop, with_key(&spec, "one")).await.expect("taken");
    // As `up web` says it: the others are there and not named.
    let mut web = with_key(&spec, "two");
    web.others = [name("db"), name("other")].into();
    web.apps.retain(|app, _| app.as_str() == "web");
    let done = apply(control, &shop, web.clone()).await.expect("taken");
    assert_eq!(actions(&done), ["db replaced", "web replaced"]);
    assert_eq!(done.contents_put.iter().collect::<Vec<_>>(), ["secret key"]);
    let causes: Vec<_> =
        control.snapshot().past.values().map(|row| (row.object.generation, row.object.cause)).collect();
    assert_eq!(causes.iter().filter(|(_, cause)| *cause == Cause::Contents).count(), 2, "{causes:?}");
    let all = apply(control, &shop, with_key(&spec, "two")).await.expect("taken");
    assert_eq!(actions(&all), ["db unchanged", "other unchanged", "web unchanged"]);
    // An orphan has it, too.
    web.others.clear();
    web.secrets.values_mut().for_each(|key| key.data = hivemind_core::model::Hidden(b"three".to_vec()));
    let done = apply(control, &shop, web).await.expect("taken");
    assert_eq!(actions(&done), ["db replaced", "other orphan", "web replaced"]);
    running.stop().await;
}

#[tokio::test]
async fn all_of_a_project_is_refused_or_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let (control, shop) = (&running.control, project("shop"));
    let before = control.snapshot().revision;
    let mut wrong = document(&[("a", None), ("b", None)]);
    wrong.apps.get_mut(&name("b")).expect("b").image = String::new();
    let dependency = Dependency { condition: Condition::Started, restart: false };
    for (app, first) in [("a", "b"), ("b", "a"), ("a", "none")] {
        wrong.apps.get_mut(&name(app)).expect("one").depends_on.insert(name(first), dependency);
    }
    let Err(ControlError::Invalid { faults, .. }) = apply(control, &shop, wrong).await else { panic!("taken") };
    let has = |words: &str| faults.iter().any(|fault| fault.contains(words));
    assert!(
        has("b: image: is empty") && has("there is no app none") && has("a: depends_on: it waits for itself"),
        "{faults:?}"
    );
    let twice = document(&[("a", Some("80:80")), ("b", Some("80:80"))]);
    assert!(matches!(apply(control, &shop, twice).await, Err(ControlError::Taken { .. })));
    assert_eq!(control.snapshot().revision, before, "something was written");

    apply(control, &project("a_b"), document(&[("web", Some("80:80"))])).await.expect("taken");
    let other = apply(control, &project("a-b"), document(&[("web", None)])).await;
    assert!(matches!(other, Err(ControlError::OtherProject { .. })), "{other:?}");
    // A port is its service's as long as instances of that serve it.
    let moved = document(&[("api", Some("80:80")), ("web", None)]);
    let moved = apply(control, &project("a_b"), moved).await;
    assert!(matches!(moved, Err(ControlError::Taken { .. })), "{moved:?}");
    // An app that is nobody's stays what it is.
    let hand = AppKey::new(project("a_b").scope, name("hand"));
    control.deploy(hand.clone(), AppSpec::new("x"), None).await.expect("deployed");
    let taken = apply(control, &project("a_b"), document(&[("hand", None)])).await;
    assert!(matches!(taken, Err(ControlError::Taken { .. })), "{taken:?}");
    running.stop().await;
}

#[tokio::test]
async fn with_the_last_app_everything_of_a_project_goes() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let (control, shop) = (&running.control, project("shop"));
    let none = control.project(shop.clone(), ProjectChange::Remove { volumes: false }).await;
    assert!(matches!(none, Err(ControlError::NoProject { .. })), "{none:?}");
    apply(control, &shop, document(&[("web", None), ("db", None)])).await.expect("taken");
    for _ in 0..2 {
        let removed = control.project(shop.clone(), ProjectChange::Remove { volumes: false }).await.expect("taken");
        assert_eq!(actions(&removed), ["db removed", "web removed"]);
    }
    assert_eq!(control.snapshot().policies.len(), 2, "instances that still run are open to others");
    let gone: Vec<_> = control.snapshot().instances.values().map(|row| Arc::clone(&row.object)).collect();
    let report = |instance: &hivemind_core::model::Instance| StatusReport {
        id: instance.id.clone(),
        app: instance.app.clone(),
        status: InstanceStatus { phase: Phase::Gone, ..InstanceStatus::default() },
    };
    control.report(gone.iter().map(|instance| report(instance)).collect()).await.expect("reported");
    let snapshot = control.snapshot();
    assert!(snapshot.apps.is_empty() && snapshot.policies.is_empty() && snapshot.namespaces.is_empty(), "{snapshot:?}");
    running.stop().await;
}

/// The volumes that there are, and whether they go.
fn volumes(control: &Control) -> Vec<(String, bool)> {
    let rows = control.snapshot().volumes.clone();
    rows.values().map(|row| (row.object.key.name.to_string(), row.object.deleting)).collect()
}

#[tokio::test]
async fn volumes_of_a_project_go_only_with_a_word_and_others_never() {
    use hivemind_core::{
        model::{Bytes, VolumeId, VolumeKey},
        spec::v1::VolumeSpec,
    };
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let (control, shop) = (&running.control, project("shop"));
    let mut spec = document(&[("db", None)]);
    spec.apps.get_mut(&name("db")).expect("db").mounts =
        ["data:/d", "theirs:/t"].map(|text| text.parse().expect("a mount")).to_vec();
    let of = |size: u64| VolumeSpec { size: Some(Bytes(size << 20)), ..VolumeSpec::default() };
    spec.volumes.insert("data".parse().expect("a name"), of(64));
    spec.external_volumes.insert("theirs".parse().expect("a name"));
    let Err(ControlError::Invalid { faults, .. }) = apply(control, &shop, spec.clone()).await else { panic!("taken") };
    assert!(faults.len() == 1 && faults[0].contains("there is no volume theirs in default/shop"), "{faults:?}");
    control.change(ObjectChange::PutNamespace(shop.scope.clone(), Default::default()), None).await.expect("made");
    let theirs = VolumeKey::new(shop.scope.clone(), "theirs".parse().expect("a name"));
    let made = ObjectChange::PutVolume(theirs, VolumeId::from_bits(7), VolumeSpec::default());
    control.change(made, None).await.expect("made");
    let done = apply(control, &shop, spec.clone()).await.expect("taken");
    assert_eq!(done.volumes_put.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["data"]);
    assert!(apply(control, &shop, spec.clone()).await.expect("taken").volumes_put.is_empty(), "nothing has changed");
    spec.volumes.insert("data".parse().expect("a name"), of(128));
    assert_eq!(apply(control, &shop, spec.clone()).await.expect("taken").volumes_put.len(), 1, "it grows");
    let mut smaller = spec.clone();
    smaller.volumes.insert("data".parse().expect("a name"), of(64));
    let Err(ControlError::Invalid { faults, .. }) = apply(control, &shop, smaller).await else { panic!("taken") };
    assert!(
        faults.len() == 1 && faults[0].contains("volume data: size: a volume cannot be made smaller"),
        "{faults:?}"
    );

    let gone = |control: &Control| {
        let all = control.snapshot().instances.values().map(|row| Arc::clone(&row.object)).collect::<Vec<_>>();
        all.iter().map(|it| super::report(&it.app, &it.id, Phase::Gone)).collect::<Vec<_>>()
    };
    let removed = control.project(shop.clone(), ProjectChange::Remove { volumes: false }).await.expect("taken");
    assert!(removed.volumes_removed.is_empty());
    control.report(gone(control)).await.expect("reported");
    assert!(control.snapshot().apps.is_empty());
    assert_eq!(volumes(control), [("data".into(), false), ("theirs".into(), false)]);
    // When all else is gone, and while it goes; twice is once.
    apply(control, &shop, spec).await.expect("taken");
    for _ in 0..2 {
        let removed = control.project(shop.clone(), ProjectChange::Remove { volumes: true }).await.expect("taken");
        assert_eq!(removed.volumes_removed.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["data"]);
    }
    assert_eq!(volumes(control)[0], ("data".into(), false), "an instance has it yet");
    control.report(gone(control)).await.expect("reported");
    assert_eq!(volumes(control), [("data".into(), true), ("theirs".into(), false)]);
    let again = control.project(shop.clone(), ProjectChange::Remove { volumes: true }).await.expect("taken");
    assert_eq!(again.volumes_removed.len(), 1, "it is still being removed");
    // The namespace goes with the last that is in it.
    let row = |name: &str| {
        let rows = control.snapshot().volumes.clone();
        let row = rows.values().find(|row| row.object.key.name.as_str() == name).expect("there");
        (row.object.key.clone(), row.object.id.clone())
    };
    let (key, id) = row("data");
    control.volume_gone(key, id).await.expect("taken");
    assert!(control.snapshot().namespaces.contains_key(&shop.scope));
    let (key, id) = row("theirs");
    control.change(ObjectChange::RemoveVolume(key.clone()), None).await.expect("taken");
    control.volume_gone(key, id).await.expect("taken");
    assert!(!control.snapshot().namespaces.contains_key(&shop.scope));
    running.stop().await;
}

#[tokio::test]
async fn apps_that_are_planned_together_are_written_together_and_each_has_addresses_of_its_own() {
    let dir = tempfile::tempdir().expect("a folder");
    let running = Running::with_node(dir.path()).await;
    let apps: Vec<_> = (0..100).map(|n| format!("app-{n}")).collect();
    let apps: Vec<_> = apps.iter().map(|name| (name.as_str(), Some("80"))).collect();
    let before = running.control.snapshot().revision;
    apply(&running.control, &project("many"), document(&apps)).await.expect("applied");
    let snapshot = running.control.snapshot();
    assert_eq!(snapshot.instances.len(), 100);
    let addresses: std::collections::BTreeSet<_> =
        snapshot.instances.values().flat_map(|row| row.object.addresses.iter()).collect();
    let services: std::collections::BTreeSet<_> =
        snapshot.services.values().flat_map(|row| row.object.addresses.iter()).collect();
    assert_eq!((addresses.len(), services.len()), (100 * 2, snapshot.services.len() * 2));
    let ids: std::collections::BTreeSet<_> = snapshot.services.values().map(|row| row.object.id).collect();
    assert_eq!(ids.len(), 100);
    // The project, and its apps in two parts.
    assert_eq!(snapshot.revision - before, 3);
    running.stop().await;
}
