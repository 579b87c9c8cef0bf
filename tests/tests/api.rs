//! The REST API of a running daemon, byte by byte: who may ask, what is refused and how, what is promised in
//! `/openapi.json`.

#[path = "api/http.rs"]
mod http;
#[path = "api/lists.rs"]
mod lists;
#[path = "api/once.rs"]
mod once;

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use hivemind_tests::{PATIENCE, machine, unique, until_ready};
use http::{Answer, Door, stream};
use serde_json::{Value, json};
use xtask::{machine::Machine, wait};

const APPS: &str = "/v1/tenants/default/namespaces/default/apps";

fn unix(machine: &Machine) -> Door {
    Door::Unix(machine.daemon.socket())
}

/// A refusal: its status, its code, and a body that says the same.
fn refused(answer: &Answer, status: u16, code: &str) -> Result<Value> {
    ensure!(answer.status == status, "{status} was expected: {answer:?}");
    ensure!(answer.header("content-type") == Some("application/problem+json"), "{answer:?}");
    let problem = answer.json()?;
    ensure!(problem["code"] == code && problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{problem}");
    Ok(problem)
}

#[test]
fn only_root_comes_in_by_the_socket_and_only_the_token_by_tcp() -> Result<()> {
    let machine = Machine::start(&unique("api-doors"), &[])?;
    let mode = |path: &Path| Ok::<_, anyhow::Error>(std::fs::metadata(path)?.permissions().mode() & 0o777);
    ensure!(mode(&machine.daemon.socket())? == 0o600, "others may open the socket");
    let token = machine.daemon.dir().join("state/api-token");
    ensure!(mode(&token)? == 0o600, "others may read the token");
    let token = format!("Authorization: Bearer {}", std::fs::read_to_string(token)?);
    let tcp =
        |path: &str, headers: &[&str]| machine.sandbox.on_network(|| Door::Tcp(3000).ask("GET", path, headers, None));
    ensure!(tcp("/healthz", &[])?.status == 200 && tcp("/readyz", &[])?.status == 200);
    for path in [APPS, "/metrics", "/openapi.json", "/v1/watch", "/no-such-path"] {
        refused(&tcp(path, &[])?, 401, "E-AUTH-002")?;
        refused(&tcp(path, &["Authorization: Bearer 0123"])?, 403, "E-AUTH-001")?;
    }
    ensure!(tcp(APPS, &[&token])?.status == 200);
    // A page of elsewhere whose name was made to point here.
    refused(&tcp(APPS, &[&token, "Host: evil.example"])?, 421, "E-API-006")?;
    machine.close()
}

#[test]
fn what_is_wrong_is_refused_with_its_code_and_changes_nothing() -> Result<()> {
    let machine = Machine::start(&unique("api-wrong"), &[])?;
    let door = unix(&machine);
    let web = format!("{APPS}/web");
    let put = |body: &str| door.ask("PUT", &web, &["Content-Type: application/json"], Some(body));
    let problem = refused(&put("{\n  \"image\": web\n}")?, 400, "E-API-001")?;
    ensure!(problem.to_string().contains("line 2 column"), "{problem}");
    let problem = refused(&put(r#"{"image": "web", "replica": 2}"#)?, 422, "E-SPEC-001")?;
    ensure!(problem.to_string().contains("replica"), "{problem}");
    let all = json!({"image": "", "replicas": 1_000_000, "services": ["not a name"]}).to_string();
    let problem = refused(&put(&all)?, 422, "E-SPEC-001")?;
    ensure!(problem["details"].as_array().is_some_and(|faults| faults.len() >= 3), "not all faults: {problem}");
    let large = json!({"image": "web", "env": {"A": "x".repeat(2 << 20)}}).to_string();
    refused(&put(&large)?, 413, "E-API-004")?;
    let named =
        door.ask("PUT", &format!("{APPS}/Web"), &["Content-Type: application/json"], Some(r#"{"image": "web"}"#))?;
    ensure!(
        named.status / 100 == 4 && named.json()?["title"].as_str().is_some_and(|why| why.contains("Web")),
        "{named:?}"
    );
    refused(&door.ask("GET", &web, &[], None)?, 404, "E-OBJ-001")?;
    refused(&door.ask("GET", "/v1/nothing", &[], None)?, 404, "E-API-002")?;
    let answer = door.ask("DELETE", APPS, &[], None)?;
    refused(&answer, 405, "E-API-005")?;
    ensure!(answer.header("allow").is_some_and(|allow| allow.contains("GET")), "{answer:?}");
    let misspelt = door.ask("DELETE", &format!("{web}?dry-run=true"), &[], None)?;
    refused(&misspelt, 400, "E-API-001")?;
    ensure!(door.ask("GET", APPS, &[], None)?.json()? == json!([]), "something was made");
    machine.close()
}

#[test]
fn a_change_may_depend_on_what_was_read() -> Result<()> {
    let (machine, image) = machine("api-etag")?;
    let door = unix(&machine);
    let web = format!("{APPS}/web");
    let kind = "Content-Type: application/json";
    let body = json!({"image": image, "replicas": 1}).to_string();
    let dry = door.ask("PUT", &format!("{web}?dry_run=true"), &[kind], Some(&body))?;
    ensure!(dry.status == 200 && door.ask("GET", &web, &[], None)?.status == 404, "a dry run made something: {dry:?}");
    let made = door.ask("PUT", &web, &[kind], Some(&body))?;
    ensure!(made.status == 201, "{made:?}");
    until_ready(&machine, "web", 1)?;
    let read = door.ask("GET", &web, &[], None)?;
    let etag = read.header("etag").context("no ETag")?.to_owned();
    let condition = format!("If-Match: {etag}");
    let again = door.ask("PUT", &web, &[kind, &condition], Some(&body))?;
    ensure!(again.status == 202 && again.header("etag") == Some(&*etag), "the same changes nothing: {again:?}");
    let scaled = door.ask("POST", &format!("{web}/scale"), &[kind, &condition], Some(r#"{"replicas": 2}"#))?;
    ensure!(scaled.status == 202 && scaled.header("etag") != Some(&*etag), "{scaled:?}");
    for (method, path, body) in [
        ("PUT", web.clone(), Some(&*body)),
        ("POST", format!("{web}/scale"), Some(r#"{"replicas": 3}"#)),
        ("POST", format!("{web}/restart"), None),
        ("DELETE", web.clone(), None),
    ] {
        refused(&door.ask(method, &path, &[kind, &condition], body)?, 412, "E-OBJ-003").context(method)?;
    }
    until_ready(&machine, "web", 2)?;
    machine.close()
}

#[test]
fn a_watch_tells_everything_then_changes_and_goes_on_after_a_restart() -> Result<()> {
    let (mut machine, image) = machine("api-watch")?;
    let door = unix(&machine);
    let body = json!({"image": image}).to_string();
    ensure!(door.ask("PUT", &format!("{APPS}/one"), &["Content-Type: application/json"], Some(&body))?.status == 201);
    until_ready(&machine, "one", 1)?;
    // Everything there is, up to the first bookmark.
    let first = changes(&machine, "/v1/watch", &|seen| seen.iter().any(|change| change["kind"] == "bookmark"))?;
    ensure!(first.iter().any(|change| change["kind"] == "app" && change["object"]["name"] == "one"), "{first:?}");
    let revision = first.last().context("nothing")?["revision"].as_u64().context("no revision")?;

    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    let door = unix(&machine);
    ensure!(door.ask("PUT", &format!("{APPS}/two"), &["Content-Type: application/json"], Some(&body))?.status == 201);
    let later = changes(&machine, &format!("/v1/watch?revision={revision}"), &|seen| {
        seen.iter().any(|change| change["kind"] == "app" && change["object"]["name"] == "two")
    })?;
    ensure!(later.iter().all(|change| change["revision"].as_u64() > Some(0)), "{later:?}");
    machine.close()
}

#[test]
fn tenants_namespaces_and_policies_are_changed_on_conditions_and_told_to_watchers() -> Result<()> {
    let machine = Machine::start(&unique("api-objects"), &[])?;
    let door = unix(&machine);
    let (acme, prod) = ("/v1/tenants/acme", "/v1/tenants/acme/namespaces/prod");
    let policy = format!("{prod}/policies/closed");
    let put = |path: &str, more: &str, body: &str| {
        door.ask("PUT", path, &["Content-Type: application/json", more], Some(body))
    };
    let any = "Accept: */*";
    refused(&put(prod, any, "{}")?, 404, "E-OBJ-001")?;
    ensure!(door.ask("PUT", acme, &[], None)?.status == 201);
    ensure!(door.ask("PUT", acme, &[], None)?.json()?["changed"] == false);
    refused(&put(&format!("{prod}?dry-run=true"), any, "{}")?, 400, "E-API-001")?;
    refused(&put(&policy, any, r#"{"ingress": []}"#)?, 404, "E-OBJ-001")?;
    ensure!(put(prod, any, r#"{"labels": {"env": "prod"}}"#)?.status == 201);
    let read = door.ask("GET", prod, &[], None)?;
    let condition = format!("If-Match: {}", read.header("etag").context("no ETag")?);
    ensure!(put(prod, &condition, r#"{"labels": {"env": "test"}}"#)?.status == 200);
    refused(&put(prod, &condition, "{}")?, 412, "E-OBJ-003")?;

    let dry = put(&format!("{policy}?dry_run=true"), any, r#"{"ingress": []}"#)?;
    ensure!(dry.status == 200 && dry.json()?["created"] == true, "{dry:?}");
    refused(&door.ask("GET", &policy, &[], None)?, 404, "E-OBJ-001")?;
    ensure!(put(&policy, "If-Match: \"0\"", r#"{"ingress": []}"#)?.status == 201);
    refused(&put(&policy, "If-Match: \"0\"", r#"{"egress": []}"#)?, 412, "E-OBJ-003")?;
    refused(&put(&policy, any, r#"{"ingres": []}"#)?, 422, "E-SPEC-001")?;
    refused(&door.ask("DELETE", prod, &[], None)?, 409, "E-OBJ-002")?;
    let all = door.ask("GET", "/v1/policies?tenant=acme", &[], None)?.json()?;
    ensure!(all.as_array().map(Vec::len) == Some(1) && all[0]["instances"] == 0, "{all}");

    let told = changes(&machine, "/v1/watch", &|seen| seen.iter().any(|change| change["kind"] == "bookmark"))?;
    let revision = &told.last().context("nothing")?["revision"];
    let keys = |told: &[Value], gone: bool| -> Vec<String> {
        let of = |change: &&Value| {
            change["key"].is_string() && change["kind"] != "node" && change["object"].is_null() == gone
        };
        told.iter().filter(of).map(|change| format!("{} {}", change["kind"], change["key"])).collect()
    };
    let expected =
        [r#""tenant" "acme""#, r#""namespace" "acme/prod""#, r#""policy" "acme/prod/closed""#].map(str::to_owned);
    ensure!(keys(&told, false) == expected, "{told:?}");
    for path in [&policy, prod, acme] {
        ensure!(door.ask("DELETE", path, &[], None)?.status == 200, "{path}");
    }
    let later = changes(&machine, &format!("/v1/watch?revision={revision}"), &|seen| {
        seen.iter().any(|change| change["kind"] == "bookmark")
    })?;
    ensure!(keys(&later, true).iter().rev().eq(&expected), "{later:?}");
    machine.close()
}

/// The lines of a watch until `enough`.
fn changes(machine: &Machine, path: &str, enough: &dyn Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
    let mut seen = Vec::new();
    for line in BufReader::new(stream(&machine.daemon.socket(), path)?).lines() {
        // The head and the sizes of chunks are no JSON objects.
        let line = line.context("the watch has ended")?;
        if let Ok(change @ Value::Object(_)) = serde_json::from_str(&line) {
            seen.push(change);
        }
        if enough(&seen) {
            return Ok(seen);
        }
    }
    anyhow::bail!("the watch ended after {seen:?}")
}

#[test]
fn the_description_and_the_routes_are_the_same() -> Result<()> {
    let machine = Machine::start(&unique("api-open"), &[])?;
    let door = unix(&machine);
    let document = door.ask("GET", "/openapi.json", &[], None)?.json()?;
    ensure!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")), "{}", document["openapi"]);
    let paths = document["paths"].as_object().context("no paths")?;
    ensure!(paths.len() > 15, "{:?}", paths.keys());
    for (path, methods) in paths {
        let real = path.replace("{tenant}", "default").replace("{namespace}", "default").replace("{name}", "nobody");
        // Streams without an end are tried above.
        if path == "/v1/watch" {
            continue;
        }
        for (method, operation) in methods.as_object().context("no methods")? {
            let answer = door.ask(&method.to_uppercase(), &real, &["Content-Type: application/json"], Some("{}"))?;
            let code = answer.json().ok().and_then(|problem| problem["code"].as_str().map(str::to_owned));
            ensure!(
                !matches!(code.as_deref(), Some("E-API-002" | "E-API-005" | "E-INT-001")),
                "{method} {path} is described, but: {answer:?}"
            );
            let described = operation["responses"].as_object().context("no responses")?;
            let class = format!("{}XX", answer.status / 100);
            let known = described.contains_key(&answer.status.to_string()) || described.contains_key(&class);
            ensure!(known, "{method} {path} answers {}, which is not described", answer.status);
            let described = described.get(&answer.status.to_string()).or_else(|| described.get(&class));
            let kinds = described.and_then(|answer| answer["content"].as_object()).map(|kinds| kinds.keys());
            let kind = answer.header("content-type").and_then(|kind| kind.split(';').next()).unwrap_or_default();
            ensure!(kinds.into_iter().flatten().any(|known| known == kind), "{method} {path}: {kind} is not described");
        }
    }
    machine.close()
}

#[test]
fn streams_go_on_behind_a_position_or_say_why_not() -> Result<()> {
    let (mut machine, image) = machine("api-positions")?;
    let door = unix(&machine);
    let lines = |answer: &Answer| -> Result<Vec<Value>> {
        ensure!(answer.status == 200, "{answer:?}");
        Ok(answer.body.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    };
    let ask = |path: &str| door.ask("GET", path, &[], None);
    for name in ["a", "b", "c"] {
        let path = format!("/v1/tenants/default/namespaces/{name}");
        ensure!(door.ask("PUT", &path, &["Content-Type: application/json"], Some("{}"))?.status == 201);
    }
    let created = "fieldSelector=reason%3DCreated";
    let first = lines(&ask(&format!("/v1/events?{created}&limit=2"))?)?;
    let objects = |events: &[Value]| events.iter().map(|event| event["object"].to_string()).collect::<Vec<_>>();
    ensure!(objects(&first) == ["\"namespace/a\"", "\"namespace/b\""], "{first:?}");
    let position = first[1]["position"].as_str().context("no position")?.to_owned();
    let rest = lines(&ask(&format!("/v1/events?{created}&after={position}"))?)?;
    ensure!(objects(&rest) == ["\"namespace/c\""], "{rest:?}");
    for wrong in ["after=x", "limit=0", "fieldSelector=color%3Dred", "from=1"] {
        refused(&ask(&format!("/v1/events?{wrong}"))?, 400, "E-API-001").context(wrong)?;
    }

    let script = "for i in 1 2 3 4 5; do echo line $i; done; sleep 1d";
    machine
        .hivemind(&["app", "deploy", "--image", &image, "--name", "web", "--entrypoint", "sh", "--", "-c", script])?
        .ok()?;
    let instance = until_ready(&machine, "web", 1)?.pop_first().context("an instance")?.name;
    let logs = format!("/v1/tenants/default/namespaces/default/instances/{instance}/logs");
    let all = wait::until("all lines", PATIENCE, || {
        let all = lines(&ask(&logs)?)?;
        ensure!(all.len() == 5, "{all:?}");
        Ok(all)
    })?;
    for (at, line) in all.iter().enumerate() {
        let position = line["position"].as_str().context("no position")?;
        ensure!(lines(&ask(&format!("{logs}?after={position}"))?)? == all[at + 1..], "behind {line}");
    }
    refused(&ask(&format!("{logs}?after=x"))?, 400, "E-API-001")?;
    refused(&ask(&format!("{logs}?after=99.0"))?, 410, "E-API-008")?;

    // Events are of one life of the daemon, logs are files.
    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    let door = unix(&machine);
    let gone = refused(&door.ask("GET", &format!("/v1/events?after={position}"), &[], None)?, 410, "E-API-008")?;
    ensure!(gone["hint"] == "ask again without after", "{gone}");
    let position = all[2]["position"].as_str().context("no position")?;
    let rest = lines(&door.ask("GET", &format!("{logs}?after={position}"), &[], None)?)?;
    ensure!(rest == all[3..], "{rest:?}");
    machine.close()
}

#[test]
fn metrics_are_what_prometheus_reads() -> Result<()> {
    let (machine, image) = machine("api-metrics")?;
    let args =
        ["app", "deploy", "--image", &image, "--name", "web", "--service", "web.local", "--port", "8080:80", "--wait"];
    machine.hivemind(&args)?.ok()?;
    machine.hivemind(&["exec", "web", "--", "ask", "4", "http://web.local/", "10"])?.ok()?;
    let text = unix(&machine).ask("GET", "/metrics", &[], None)?.body;
    ensure!(text.ends_with("# EOF\n"), "OpenMetrics ends so");
    let mut types = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(named) = line.strip_prefix("# TYPE ") {
            types.insert(named.split(' ').next().unwrap_or_default().to_owned());
        } else if !line.starts_with('#') {
            let (name, rest) = line.split_at(line.find(['{', ' ']).context(line.to_owned())?);
            let value = rest.rsplit(' ').next().unwrap_or_default();
            ensure!(value.parse::<f64>().is_ok(), "{line}");
            let family = |suffix| name.strip_suffix(suffix).is_some_and(|name| types.contains(name));
            let typed =
                types.contains(name) || ["_total", "_bucket", "_sum", "_count", "_info"].into_iter().any(family);
            ensure!(name.starts_with("hivemind_") && typed, "{line}");
        }
    }
    ensure!(text.contains("service=\"") && text.contains("reason=\""), "no counters of the data plane: {text}");
    machine.close()
}
