//! Lists: narrowed by labels and fields, and taken page by page as they were at the first page.

use anyhow::{Context, Result, ensure};
use hivemind_tests::unique;
use serde_json::{Value, json};
use xtask::machine::Machine;

use super::{
    APPS, changes,
    http::{Answer, Door},
    refused, unix,
};

/// Apps without instances: `a0` to `a6`, every second one at the front.
fn apps(door: &Door) -> Result<()> {
    for n in 0..7 {
        put(door, &format!("a{n}"), &[("tier", if n % 2 == 0 { "front" } else { "back" })])?;
    }
    Ok(())
}

fn put(door: &Door, name: &str, labels: &[(&str, &str)]) -> Result<()> {
    let labels: serde_json::Map<_, _> = labels.iter().map(|(key, value)| ((*key).into(), json!(value))).collect();
    let body = json!({"image": "registry.example/x", "replicas": 0, "labels": labels}).to_string();
    let answer = door.ask("PUT", &format!("{APPS}/{name}"), &["Content-Type: application/json"], Some(&body))?;
    ensure!(answer.status == 201, "{answer:?}");
    Ok(())
}

fn names(answer: &Answer) -> Result<Vec<String>> {
    let list = answer.json()?;
    let name = |item: &Value| item["name"].as_str().map(str::to_owned).context("no name");
    list.as_array().with_context(|| format!("no list: {answer:?}"))?.iter().map(name).collect()
}

fn listed(door: &Door, question: &str) -> Result<Vec<String>> {
    names(&door.ask("GET", &format!("{APPS}?{question}"), &[], None)?)
}

#[test]
fn lists_are_narrowed_by_labels_and_fields() -> Result<()> {
    let machine = Machine::start(&unique("api-narrow"), &[])?;
    let door = unix(&machine);
    apps(&door)?;
    for (question, expected) in [
        ("labelSelector=tier%3Dfront", vec!["a0", "a2", "a4", "a6"]),
        (
            "labelSelector=tier%20in%20(front,back),!old&fieldSelector=name!%3Da0,name!%3Da6",
            vec!["a1", "a2", "a3", "a4", "a5"],
        ),
        ("labelSelector=tier!%3Dfront&fieldSelector=state%3Dstopped", vec!["a1", "a3", "a5"]),
        ("fieldSelector=state%3Dready", vec![]),
        ("labelSelector=old", vec![]),
    ] {
        ensure!(listed(&door, question)? == expected, "{question}: {:?}", listed(&door, question)?);
    }
    ensure!(names(&door.ask("GET", "/v1/apps?tenant=default&labelSelector=tier%3Dback", &[], None)?)?.len() == 3);
    let kinds = [
        ("/v1/tenants", "name%3Ddefault", vec!["default"]),
        ("/v1/tenants/default/namespaces", "name!%3Ddefault", vec![]),
        ("/v1/nodes", "ready%3Dtrue", vec![]),
        ("/v1/tier-policies", "audit%3Dtrue", vec![]),
        ("/v1/policies", "namespace%3Ddefault", vec![]),
        ("/v1/volumes", "used%3Dfalse", vec![]),
        ("/v1/secrets", "used%3Dfalse", vec![]),
        ("/v1/configs", "name%3Dx", vec![]),
        ("/v1/instances", "phase%3Dready", vec![]),
        ("/v1/images", "used%3Dfalse", vec![]),
        ("/v1/tenants/default/namespaces/default/services", "name%3Dx", vec![]),
    ];
    for (path, field, expected) in kinds {
        let answer = door.ask("GET", &format!("{path}?fieldSelector={field}"), &[], None)?;
        ensure!(answer.header("x-revision").is_some_and(|number| number.parse::<u64>().is_ok()), "{answer:?}");
        if path != "/v1/nodes" {
            ensure!(names(&answer)? == expected, "{path}: {answer:?}");
        }
    }
    // Namespaces are selected by their name as well, as policies do it.
    let named = "/v1/tenants/default/namespaces?labelSelector=kubernetes.io/metadata.name%3Ddefault";
    ensure!(names(&door.ask("GET", named, &[], None)?)? == ["default"]);

    let problem =
        refused(&door.ask("GET", &format!("{APPS}?fieldSelector=color%3Dred&limit=0"), &[], None)?, 400, "E-API-001")?;
    let details = problem["details"].to_string();
    ensure!(
        details.contains("known: name, namespace, tenant, state, image") && details.contains("limit:"),
        "{problem}"
    );
    refused(&door.ask("GET", &format!("{APPS}?labelSelector=a%20b"), &[], None)?, 400, "E-API-001")?;
    refused(&door.ask("GET", "/v1/tenants?labelSelector=a", &[], None)?, 400, "E-API-001")?;
    refused(&door.ask("GET", &format!("{APPS}?labelselector=a"), &[], None)?, 400, "E-API-001")?;

    let shown = machine.hivemind(&["app", "ls", "-l", "tier=front", "--field", "name!=a0", "-o", "name"])?.ok()?;
    ensure!(shown.lines().collect::<Vec<_>>() == ["a2", "a4", "a6"], "{shown}");
    let nothing = machine.hivemind(&["app", "ls", "-A", "-l", "tier=none"])?;
    ensure!(nothing.code == 0 && nothing.err.contains("nothing fits"), "{nothing:?}");
    let wrong = machine.hivemind(&["app", "ls", "--field", "color=red"])?;
    ensure!(wrong.code == 2 && wrong.err.contains("known: name"), "{wrong:?}");
    machine.close()
}

#[test]
fn pages_are_of_the_list_as_it_was_at_the_first() -> Result<()> {
    let mut machine = Machine::start(&unique("api-pages"), &[])?;
    let door = unix(&machine);
    apps(&door)?;
    let first = door.ask("GET", &format!("{APPS}?limit=3"), &[], None)?;
    ensure!(names(&first)? == ["a0", "a1", "a2"], "{first:?}");
    let next = |answer: &Answer| -> Option<String> {
        let link = answer.header("link")?.strip_prefix('<')?.split_once('>')?;
        (link.1 == "; rel=\"next\"").then(|| link.0.to_owned())
    };
    let second = next(&first).context("no next page")?;
    // What changes meanwhile is for the next who asks.
    ensure!(door.ask("DELETE", &format!("{APPS}/a4"), &[], None)?.status == 202);
    put(&door, "a33", &[])?;
    let page = door.ask("GET", &second, &[], None)?;
    ensure!(names(&page)? == ["a3", "a4", "a5"], "{page:?}");
    ensure!(page.header("x-revision") == first.header("x-revision"), "{page:?}");
    let last = door.ask("GET", &next(&page).context("no third page")?, &[], None)?;
    ensure!(names(&last)? == ["a6"] && next(&last).is_none() && last.header("x-continue").is_none(), "{last:?}");
    // From the list's version a watch tells what came after it.
    let revision = first.header("x-revision").context("no revision")?;
    let told = changes(&machine, &format!("/v1/watch?revision={revision}"), &|seen| {
        seen.iter().any(|change| change["kind"] == "app" && change["object"]["name"] == "a33")
    })?;
    ensure!(!told.iter().any(|change| change["key"] == "default/default/a1"), "{told:?}");

    let token = first.header("x-continue").context("no token")?;
    for wrong in [
        format!("{APPS}?limit=3&continue={token}&labelSelector=tier"),
        format!("/v1/instances?continue={token}"),
        format!("{APPS}?continue=x"),
    ] {
        refused(&door.ask("GET", &wrong, &[], None)?, 400, "E-API-001").context(wrong)?;
    }
    // Only the list that is may be gone on with after a restart.
    let before = door.ask("GET", &format!("{APPS}?limit=2"), &[], None)?;
    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    let door = unix(&machine);
    let problem = refused(&door.ask("GET", &second, &[], None)?, 410, "E-API-008")?;
    ensure!(problem["hint"].as_str().is_some_and(|hint| hint.contains("without continue")), "{problem}");
    put(&door, "b", &[])?;
    refused(&door.ask("GET", &next(&before).context("no next page")?, &[], None)?, 410, "E-API-008")?;
    machine.close()
}
