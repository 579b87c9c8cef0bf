//! Changes that carry a key are done once, and changes that are only checked are not done at all.

use anyhow::{Context, Result, ensure};
use hivemind_tests::unique;
use serde_json::{Value, json};
use xtask::machine::Machine;

use super::{
    APPS,
    http::{Answer, Door},
    refused, unix,
};

const JSON: &str = "Content-Type: application/json";
const SCOPE: &str = "/v1/tenants/default/namespaces/default";

fn generation(door: &Door, app: &str) -> Result<u64> {
    let view = door.ask("GET", &format!("{APPS}/{app}"), &[], None)?.json()?;
    view["generation"].as_u64().with_context(|| format!("no generation: {view}"))
}

fn ok(answer: Answer, status: u16) -> Result<Value> {
    ensure!(answer.status == status, "{status} was expected: {answer:?}");
    answer.json()
}

/// The revision of everything.
fn revision(door: &Door) -> Result<String> {
    let list = door.ask("GET", APPS, &[], None)?;
    list.header("x-revision").map(str::to_owned).context("no revision")
}

#[test]
fn the_same_key_is_done_once_also_when_the_daemon_is_killed_in_between() -> Result<()> {
    let mut machine = Machine::start(&unique("api-once"), &[])?;
    let door = unix(&machine);
    let app = format!("{APPS}/web");
    let body = json!({"image": "registry.example/x", "replicas": 0}).to_string();
    let key = |key: &str| format!("Idempotency-Key: {key}");

    let first = door.ask("PUT", &app, &[JSON, &key("create")], Some(&body))?;
    let made = ok(door.ask("PUT", &app, &[JSON, &key("create")], Some(&body))?, 201)?;
    ensure!(first.status == 201 && made == first.json()? && made["created"] == true, "{first:?} {made}");
    let restarted = ok(door.ask("POST", &format!("{app}/restart"), &[&key("restart")], None)?, 202)?;
    let again = ok(door.ask("POST", &format!("{app}/restart"), &[&key("restart")], None)?, 202)?;
    ensure!(again == restarted && generation(&door, "web")? == 2, "{restarted} {again}");

    // Another request with the key of one that was done: other path, other body, other condition.
    let other = json!({"image": "registry.example/x", "replicas": 1}).to_string();
    let condition = "If-Match: \"1\"";
    for (method, path, more, body) in [
        ("PUT", app.clone(), "Accept: */*", Some(&*other)),
        ("PUT", format!("{APPS}/other"), "Accept: */*", Some(&*body)),
        ("PUT", app.clone(), condition, Some(&*body)),
        ("DELETE", app.clone(), "Accept: */*", None),
    ] {
        refused(&door.ask(method, &path, &[JSON, &key("create"), more], body)?, 422, "E-API-009").context(path)?;
    }
    // What was refused may be asked for again with the same key when it fits.
    let volume = format!("{SCOPE}/volumes/data");
    refused(&door.ask("DELETE", &volume, &[&key("volume")], None)?, 404, "E-OBJ-001")?;
    ok(door.ask("PUT", &volume, &[JSON], Some("{}"))?, 201)?;
    ok(door.ask("DELETE", &volume, &[&key("volume")], None)?, 200)?;
    ok(door.ask("DELETE", &volume, &[&key("volume")], None)?, 200)?;
    // A key that would not be heeded, or that is none, is refused.
    refused(&door.ask("POST", "/v1/images/prune", &[&key("x")], None)?, 400, "E-API-001")?;
    refused(&door.ask("POST", &format!("{app}/restart"), &[&key("a b")], None)?, 400, "E-API-001")?;
    // That there is no such operation is said first.
    for word in ["x", "a b"] {
        refused(&door.ask("POST", &app, &[JSON, &key(word)], Some(&body))?, 405, "E-API-005")?;
        refused(&door.ask("POST", "/v1/nothing", &[&key(word)], None)?, 404, "E-API-002")?;
    }

    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    let door = unix(&machine);
    let after = ok(door.ask("POST", &format!("{app}/restart"), &[&key("restart")], None)?, 202)?;
    ensure!(after == restarted && generation(&door, "web")? == 2, "{after}");
    refused(&door.ask("DELETE", &app, &[&key("restart")], None)?, 422, "E-API-009")?;
    ok(door.ask("POST", &format!("{app}/restart"), &[&key("another")], None)?, 202)?;
    ensure!(generation(&door, "web")? == 3, "another key is another restart");
    machine.close()
}

#[test]
fn a_dry_run_checks_everything_shows_what_would_be_and_changes_nothing() -> Result<()> {
    let machine = Machine::start(&unique("api-dry"), &[])?;
    let door = unix(&machine);
    let app = format!("{APPS}/web");
    let spec = json!({"image": "registry.example/x", "replicas": 0, "services": ["web.local"]}).to_string();
    ok(door.ask("PUT", &app, &[JSON], Some(&spec))?, 201)?;
    ok(door.ask("PUT", &format!("{SCOPE}/secrets/key"), &[JSON], Some(r#"{"data": "aGVsbG8="}"#))?, 201)?;
    let before = revision(&door)?;
    let dry = |method: &str, path: &str, body: Option<&str>| door.ask(method, path, &[JSON], body);

    let scaled = ok(dry("POST", &format!("{app}/scale?dryRun=true"), Some(r#"{"replicas": 3}"#))?, 200)?;
    ensure!(scaled["object"]["spec"]["replicas"] == 3 && scaled["created"] == false, "{scaled}");
    let restarted = ok(dry("POST", &format!("{app}/restart?dryRun=true"), None)?, 200)?;
    ensure!(restarted["generation"] == 2 && restarted["object"]["generation"] == 2, "{restarted}");
    let gone = ok(dry("DELETE", &format!("{app}?dryRun=true"), None)?, 200)?;
    ensure!(gone["object"]["state"] == "removing", "{gone}");
    let new = ok(dry("PUT", &format!("{APPS}/new?dry_run=true"), Some(r#"{"image": "registry.example/x"}"#))?, 200)?;
    ensure!(new["created"] == true && new["object"]["spec"]["replicas"] == 1, "with defaults: {new}");
    for (path, body, field) in [
        ("/v1/tenants/acme", r#"{"limits": {"egress": "1gbit"}}"#, "name"),
        ("/v1/tenants/default/namespaces/prod", r#"{"labels": {"env": "prod"}}"#, "labels"),
        (&format!("{SCOPE}/volumes/data"), r#"{"labels": {"env": "prod"}}"#, "labels"),
        (&format!("{SCOPE}/configs/settings"), r#"{"data": "aGVsbG8="}"#, "bytes"),
        (&format!("{SCOPE}/secrets/new"), r#"{"data": "aGVsbG8="}"#, "bytes"),
        (&format!("{SCOPE}/policies/closed"), r#"{"ingress": []}"#, "spec"),
    ] {
        let answer = ok(dry("PUT", &format!("{path}?dryRun=true"), Some(body))?, 200).context(path.to_owned())?;
        let shown = answer["created"] == true && !answer["object"][field].is_null();
        ensure!(shown && !answer.to_string().contains("aGVsbG8"), "{path}: {answer}");
    }
    ensure!(ok(dry("DELETE", &format!("{SCOPE}/secrets/key?dryRun=true"), None)?, 200)?["changed"] == true);

    // What would be refused is refused.
    let taken = json!({"image": "registry.example/x", "services": ["web.local"]}).to_string();
    refused(&dry("PUT", &format!("{APPS}/thief?dryRun=true"), Some(&taken))?, 409, "E-OBJ-002")?;
    refused(&dry("POST", &format!("{app}/scale?dryRun=true"), Some(r#"{"replicas": 1000000}"#))?, 422, "E-SPEC-001")?;
    refused(&dry("POST", &format!("{app}/rollback?dryRun=true"), Some("{}"))?, 404, "E-OBJ-001")?;
    refused(&dry("DELETE", &format!("{APPS}/nobody?dryRun=true"), None)?, 404, "E-OBJ-001")?;
    refused(&dry("DELETE", "/v1/tenants/default?dryRun=true", None)?, 422, "E-SPEC-001")?;
    refused(
        &dry("PUT", &format!("{SCOPE}/secrets/key?dryRun=true"), Some(r#"{"data": "b3RoZXI="}"#))?,
        409,
        "E-OBJ-002",
    )?;
    let stale = door.ask("DELETE", &format!("{app}?dryRun=true"), &["If-Match: \"999\""], None)?;
    refused(&stale, 412, "E-OBJ-003")?;
    refused(&dry("DELETE", &format!("{app}?dryRun=maybe"), None)?, 400, "E-API-001")?;

    ensure!(revision(&door)? == before, "a dry run has written something");
    let said = machine.hivemind(&["app", "rm", "web", "--dry-run"])?;
    ensure!(said.code == 0 && said.err.contains("web would be removed"), "{said}");
    let said = machine.hivemind(&["scale", "web=2", "--dry-run"])?;
    ensure!(said.code == 0 && said.err.contains("web would be scaled to 2"), "{said}");
    let said = machine.hivemind(&["tenant", "rm", "default", "--dry-run"])?;
    ensure!(said.code == 2, "{said}");
    ensure!(revision(&door)? == before, "a dry run has written something");
    machine.close()
}
