//! An app is changed: its instances are replaced while it serves, and what does not come up is taken back.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use hivemind_tests::{Client, PATIENCE, instances, machine, until_ready};
use serde_json::Value;
use xtask::{daemon::Said, machine::Machine, wait};

/// The exit code of a deploy that was taken back.
const ROLLED_BACK: i32 = 7;

/// Deploys `web` with a colour, so that each deploy is another one.
fn deploy(machine: &Machine, image: &str, colour: &str, more: &[&str]) -> Result<Said> {
    let colour = format!("COLOUR={colour}");
    let args = ["app", "deploy", "--image", image, "--name", "web", "--service", "web.local", "--env", &colour];
    machine.hivemind(&[&args[..], more].concat())
}

/// A container that asks `web.local` all the time.
fn client(machine: &Machine, image: &str) -> Result<Client> {
    let args = ["app", "deploy", "--image", image, "--name", "client", "--entrypoint", "sleep", "--wait", "--", "1d"];
    machine.hivemind(&args)?.ok()?;
    let container = instances(machine, "client")?.into_iter().next().context("no client")?.id;
    let service = machine.hivemind(&["service", "info", "web.local", "-o", "json"])?.json()?;
    let address = service["addresses"]["v4"].as_str().context("the service has no IPv4 address")?.to_owned();
    Client::start(machine, &container, &address)
}

fn ids(machine: &Machine) -> Result<BTreeSet<String>> {
    Ok(instances(machine, "web")?.into_iter().map(|instance| instance.id).collect())
}

/// Waits until the update of `web` is complete, at this generation.
fn until_complete(machine: &Machine, generation: u64) -> Result<Value> {
    wait::until("the update to be complete", PATIENCE, || {
        let app = machine.hivemind(&["app", "info", "web", "-o", "json"])?.json()?;
        let rollout = &app["rollout"];
        let there = app["generation"] == generation && rollout["generation"] == generation;
        ensure!(there && rollout["state"] == "complete" && app["state"] == "ready", "{rollout} {}", app["state"]);
        Ok(app)
    })
}

/// The colour that an instance of `web` has.
fn colour(machine: &Machine) -> Result<String> {
    machine.hivemind(&["exec", "web", "--", "sh", "-c", "echo $COLOUR"])?.ok().map(|text| text.trim().to_owned())
}

/// What the history says of each generation: its number, how it came about, what became of it.
fn history(machine: &Machine) -> Result<Vec<(u64, String, String)>> {
    let all = machine.hivemind(&["history", "web", "-o", "json"])?.json()?;
    let word = |value: &Value| value["kind"].as_str().unwrap_or_default().to_owned();
    let read = |past: &Value| (past["generation"].as_u64().unwrap_or(0), word(&past["cause"]), word(&past["outcome"]));
    Ok(all.as_array().context("no list")?.iter().map(read).collect())
}

#[test]
fn no_request_fails_while_instances_are_replaced() -> Result<()> {
    let (machine, image) = machine("rolls")?;
    deploy(&machine, &image, "red", &["--replicas", "3", "--wait"])?.ok()?;
    let mut client = client(&machine, &image)?;
    for (generation, (name, flags)) in [
        ("blue", &["--max-surge", "2"][..]),
        ("green", &["--update-order", "stop-first"]),
        ("grey", &["--update-parallelism", "0"]),
    ]
    .into_iter()
    .enumerate()
    {
        let before = ids(&machine)?;
        deploy(&machine, &image, name, &[&["--replicas", "3", "--wait"], flags].concat())?.ok()?;
        client.all_good().context(name)?;
        ensure!(until_ready(&machine, "web", 3)?.iter().all(|now| !before.contains(&now.id)), "{name}: an old one");
        ensure!(colour(&machine)? == name);
        until_complete(&machine, generation as u64 + 2)?;
    }
    machine.hivemind(&["app", "restart", "web", "--wait"])?.ok()?;
    client.all_good().context("restart")?;
    machine.hivemind(&["rollback", "web", "--wait"])?.ok()?;
    client.all_good().context("rollback")?;
    ensure!(colour(&machine)? == "green", "back to what was in place before");
    drop(client);
    machine.close()
}

#[test]
fn with_stop_first_the_old_one_is_gone_before_the_new_one_comes() -> Result<()> {
    let (machine, image) = machine("stop-first")?;
    let flags = ["--update-order", "stop-first", "--wait"];
    deploy(&machine, &image, "red", &flags)?.ok()?;
    let old = instances(&machine, "web")?.into_iter().next().context("no instance")?.name;
    deploy(&machine, &image, "blue", &flags)?.ok()?;
    let new = instances(&machine, "web")?.into_iter().next().context("no instance")?.name;
    let events = machine.hivemind(&["events", "web"])?.ok()?;
    let at = |what: &str, name: &str| {
        let found = events.lines().position(|line| line.contains(what) && line.contains(name));
        found.with_context(|| format!("no {what} of {name}: {events}"))
    };
    ensure!(at("Stopped", &old)? < at("Started", &new)?, "{events}");
    machine.close()
}

#[test]
fn what_does_not_come_up_is_taken_back() -> Result<()> {
    let (machine, image) = machine("back")?;
    deploy(&machine, &image, "red", &["--replicas", "2", "--wait"])?.ok()?;
    let before = ids(&machine)?;
    let mut client = client(&machine, &image)?;
    let nowhere = image.replace("/web:1", "/web:none");
    let said = deploy(&machine, &nowhere, "blue", &["--replicas", "2", "--wait"])?;
    ensure!(said.code == ROLLED_BACK && said.err.contains("E-UPD-001"), "{said}");
    ensure!(said.err.contains("web:none") && said.err.contains("generation 1 is put back as 3"), "{said}");
    until_complete(&machine, 3)?;
    ensure!(ids(&machine)? == before, "instances that served were replaced");
    // Nothing was taken down, and what was there is what is wanted.
    deploy(&machine, &image, "red", &["--replicas", "2", "--wait"])?.ok()?;
    ensure!(ids(&machine)? == before);
    // One that ends again and again.
    let said = deploy(&machine, &image, "blue", &["--replicas", "2", "--wait", "--entrypoint", "false"])?;
    ensure!(said.code == ROLLED_BACK && said.err.contains("exit code 1") || said.err.contains("code 1"), "{said}");
    until_complete(&machine, 5)?;
    ensure!(ids(&machine)? == before);
    client.all_good()?;
    let expected = [
        (1, "deployed", "complete"),
        (2, "deployed", "failed"),
        (3, "recovered", "complete"),
        (4, "deployed", "failed"),
        (5, "recovered", "complete"),
    ];
    let expected = expected.map(|(n, cause, outcome)| (n, cause.to_owned(), outcome.to_owned()));
    ensure!(history(&machine)? == expected, "{:?}", history(&machine)?);
    let events = machine.hivemind(&["events", "web"])?.ok()?;
    ensure!(events.contains("RolledBack"), "{events}");
    // As it was asked for, it is held, and goes on with the next change.
    let flags = ["--replicas", "2", "--wait", "--update-failure", "pause"];
    let said = deploy(&machine, &nowhere, "blue", &flags)?;
    ensure!(said.code == 1 && said.err.contains("E-UPD-002"), "{said}");
    ensure!(before.is_subset(&ids(&machine)?));
    machine.hivemind(&["rollback", "web", "--wait"])?.ok()?;
    ensure!(ids(&machine)? == before);
    client.all_good()?;
    drop(client);
    machine.close()
}

/// What a published port of the node answers.
fn page(machine: &Machine, port: u16) -> Result<String> {
    let mut ask = machine.sandbox.command("timeout");
    ask.arg("5").arg(xtask::deb::program("busybox", "busybox-static")?);
    ask.args(["wget", "-q", "-O", "-", &format!("http://127.0.0.1:{port}/")]);
    xtask::shell::output(&mut ask)
}

#[test]
fn other_ports_come_with_the_instances_that_have_them_and_a_wrong_one_is_no_outage() -> Result<()> {
    let (machine, image) = machine("ports")?;
    let flags = ["--replicas", "2", "--update-deadline", "3s", "--wait"];
    deploy(&machine, &image, "red", &[&flags[..], &["--port", "8080:80"]].concat())?.ok()?;
    let before = ids(&machine)?;
    let mut client = client(&machine, &image)?;
    // Nobody listens there.
    let said = deploy(&machine, &image, "blue", &[&flags[..], &["--port", "8080:81"]].concat())?;
    ensure!(said.code == ROLLED_BACK && said.err.contains("nothing came further for 3 s"), "{said}");
    client.all_good().context("while a wrong port was tried")?;
    ensure!(page(&machine, 8080)?.starts_with("Hello from web-"));
    until_complete(&machine, 3)?;
    ensure!(ids(&machine)? == before, "instances that served were replaced");
    let service = machine.hivemind(&["service", "info", "web.local", "-o", "json"])?.json()?;
    ensure!(service["ports"].as_array().is_some_and(|ports| ports.len() == 1), "{service}");
    // Another place on the node: the former one goes with the last that had it.
    deploy(&machine, &image, "blue", &[&flags[..], &["--port", "8081:80"]].concat())?.ok()?;
    client.all_good().context("while the port was published elsewhere")?;
    ensure!(page(&machine, 8081)?.starts_with("Hello from web-"));
    wait::until("the former port to be free", PATIENCE, || {
        ensure!(page(&machine, 8080).is_err(), "it is still there");
        Ok(())
    })?;
    drop(client);
    machine.close()
}

#[test]
fn an_update_goes_on_after_the_daemon_is_killed() -> Result<()> {
    let (mut machine, image) = machine("goes-on")?;
    deploy(&machine, &image, "red", &["--replicas", "3", "--wait"])?.ok()?;
    let before = ids(&machine)?;
    let mut client = client(&machine, &image)?;
    deploy(&machine, &image, "blue", &["--replicas", "3", "--update-delay", "1s"])?.ok()?;
    wait::until("the first new instance", PATIENCE, || {
        let app = machine.hivemind(&["app", "info", "web", "-o", "json"])?.json()?;
        ensure!(app["status"]["ready"].as_u64() > Some(0), "{}", app["status"]);
        Ok(())
    })?;
    machine.daemon.kill()?;
    let there = client.all_good();
    machine.daemon.start(&machine.sandbox)?;
    there.context("without a daemon")?;
    until_complete(&machine, 2)?;
    client.all_good()?;
    ensure!(ids(&machine)?.is_disjoint(&before) && ids(&machine)?.len() == 3);
    ensure!(colour(&machine)? == "blue");
    drop(client);
    machine.close()
}

#[test]
fn changes_in_a_row_and_ways_back() -> Result<()> {
    let (machine, image) = machine("in-a-row")?;
    deploy(&machine, &image, "red", &["--wait"])?.ok()?;
    // A second change, and another number, while the first is on its way.
    deploy(&machine, &image, "blue", &["--replicas", "2"])?.ok()?;
    deploy(&machine, &image, "green", &["--replicas", "2"])?.ok()?;
    machine.hivemind(&["scale", "web=3", "--wait"])?.ok()?;
    let app = until_complete(&machine, 3)?;
    ensure!(app["status"]["serving"] == 3 && colour(&machine)? == "green", "{}", app["status"]);
    // What would change is said, and nothing changes.
    let args = ["app", "diff", "--image", &image, "--name", "web", "--service", "web.local", "--exit-code"];
    let same = machine.hivemind(&[&args[..], &["--env", "COLOUR=green"]].concat())?;
    ensure!(same.code == 0 && same.out.is_empty(), "{same}");
    let other = machine.hivemind(&[&args[..], &["--env", "COLOUR=grey", "--env", "A=1"]].concat())?;
    ensure!(other.code == 10 && other.out.contains("env.COLOUR is set anew") && !other.out.contains("grey"), "{other}");
    ensure!(other.out.contains("its instances would be replaced"), "{other}");
    // Back to the one that was asked for, with as many as there are now.
    let said = machine.hivemind(&["rollback", "web", "--to", "2", "--wait"])?;
    ensure!(said.err.contains("goes back to generation 2, as generation 4"), "{said}");
    ensure!(said.code == 0 && colour(&machine)? == "blue" && ids(&machine)?.len() == 3, "{said}");
    let missing = machine.hivemind(&["rollback", "web", "--to", "99"])?;
    ensure!(missing.code == 3 && missing.err.contains("kept are 1, 2, 3, 4"), "{missing}");
    ensure!(machine.hivemind(&["rollback", "nobody"])?.code == 3);
    // The history has an end, and it is told in words too.
    machine.hivemind(&["scale", "web=1", "--wait"])?.ok()?;
    for n in 0..12 {
        deploy(&machine, &image, &format!("colour-{n}"), &[])?.ok()?;
    }
    until_complete(&machine, 16)?;
    let kept = history(&machine)?;
    ensure!(kept.len() <= 11 && kept.last().is_some_and(|(newest, ..)| *newest == 16), "{kept:?}");
    let shown = machine.hivemind(&["history", "web"])?.ok()?;
    ensure!(shown.contains("in place") && shown.contains("env.COLOUR is set anew"), "{shown}");
    machine.hivemind(&["app", "rm", "web", "--wait"])?.ok()?;
    ensure!(machine.hivemind(&["history", "web"])?.code == 3);
    // A name that comes again begins anew.
    deploy(&machine, &image, "red", &["--wait"])?.ok()?;
    ensure!(history(&machine)?.len() == 1);
    machine.close()
}
