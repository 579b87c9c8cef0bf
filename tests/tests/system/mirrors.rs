//! Mirrors of registries: asked first, believed only what has the right digest, and left out of the way when they fail.

use std::fs;

use anyhow::{Result, ensure};
use base64::{Engine as _, engine::general_purpose};
use hivemind_tests::{
    front::{Asked, Deed, Front},
    unique, until_ready,
};
use serde_json::json;
use xtask::{
    daemon::Daemon,
    image,
    machine::Machine,
    registry::{PASSWORD, USER},
};

/// The registry that images are named by. Nobody listens there unless a test does.
const NAMED: &str = "127.0.0.1:5002";

/// A machine with the web server's image in its registry, whose daemon runs with these flags.
fn machine(test: &str, plain: &[&str], flags: impl FnOnce(&Machine) -> Result<Vec<String>>) -> Result<Machine> {
    let mut machine = Machine::prepare(&unique(test), &[])?;
    machine.push(&image::web()?, "web", "1")?;
    machine.push(&image::web()?, "hub/web", "1")?;
    let flags = flags(&machine)?;
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let plain: Vec<_> = [machine.registry.host(), NAMED].into_iter().chain(plain.iter().copied()).collect();
    machine.daemon = Daemon::new(&machine.sandbox, &machine.containerd.socket(), &plain, &flags)?;
    Ok(machine)
}

fn failures(machine: &Machine) -> Result<u64> {
    let metrics = machine.daemon.get("/metrics")?;
    let lines = metrics.lines().filter(|line| line.starts_with("hivemind_registry_mirror_failures_total{"));
    lines.map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse::<u64>()?)).sum()
}

#[test]
fn a_mirror_has_the_image_and_the_registry_is_not_asked() -> Result<()> {
    let mut machine = machine("mirror", &[], |machine| {
        let mirror = format!("{NAMED}={}/hub", machine.registry.host());
        Ok(vec!["--registry-mirror".into(), mirror])
    })?;
    machine.daemon.start(&machine.sandbox)?;
    let image = format!("{NAMED}/web:1");
    machine.hivemind(&["app", "deploy", "--image", &image, "--name", "web", "--port", "80", "--wait"])?.ok()?;
    until_ready(&machine, "web", 1)?;
    // It has the name that was asked for.
    ensure!(machine.hivemind(&["image", "ls", "-o", "name"])?.ok()?.trim() == image);
    ensure!(failures(&machine)? == 0, "nothing failed");
    // What the mirror does not have, the registry is asked for; it does not run.
    let said = machine.hivemind(&["image", "pull", &format!("{NAMED}/none:1")])?;
    ensure!(said.err.contains("error[E-IMG-002]") && said.err.contains(NAMED), "{said}");
    ensure!(failures(&machine)? == 0, "to have not everything is no failure");
    machine.close()
}

#[test]
fn mirrors_that_fail_are_passed_over_in_their_order() -> Result<()> {
    let mut machine = machine("mirror-fails", &[], |_| Ok(vec![]))?;
    let port = machine.registry.port();
    // One says that it cannot, one lies in a layer, one cuts; the registry itself is well.
    let broken = Front::start(&machine.sandbox, port, |_, _| Deed::Answer("500 No\r\nContent-Length: 0".into()))?;
    let lies = |asked: &Asked, _| if asked.is_blob() { Deed::Lie(20) } else { Deed::Pass };
    let lying = Front::start(&machine.sandbox, port, lies)?;
    let cuts = |asked: &Asked, _| if asked.is_blob() { Deed::Cut(100) } else { Deed::Pass };
    let cutting = Front::start(&machine.sandbox, port, cuts)?;
    let registry = Front::start(&machine.sandbox, port, |_, _| Deed::Pass)?;
    for mirror in [&broken, &lying, &cutting] {
        for word in ["--registry-mirror", &format!("{}={}", registry.host(), mirror.host())] {
            machine.daemon.add_flag(word);
        }
    }
    for host in [&broken, &lying, &cutting, &registry] {
        machine.daemon.add_flag("--plain-http-registry");
        machine.daemon.add_flag(&host.host());
    }
    machine.daemon.start(&machine.sandbox)?;
    let image = format!("{}/web:1", registry.host());
    machine.hivemind(&["app", "deploy", "--image", &image, "--name", "web", "--port", "80", "--wait"])?.ok()?;
    until_ready(&machine, "web", 1)?;

    let events = machine.hivemind(&["events"])?.ok()?;
    for mirror in [&broken, &lying, &cutting] {
        ensure!(
            events.contains("MirrorFailed") && events.contains(&format!("mirror {} of", mirror.host())),
            "{events}"
        );
        let asked = mirror.asked();
        let namespace = format!("ns={}", registry.host().replace(':', "%3A"));
        ensure!(asked.iter().all(|asked| asked.target.contains(&namespace)), "{asked:?}");
    }
    // The first one is asked once, and then left alone.
    ensure!(broken.asked().len() == 1, "{:?}", broken.asked());
    ensure!(failures(&machine)? == 3, "{}", failures(&machine)?);
    // The manifest came from the second; only layers are asked of the registry.
    ensure!(registry.asked().iter().all(Asked::is_blob), "{:?}", registry.asked());
    machine.close()
}

#[test]
fn credentials_go_to_their_own_host_alone() -> Result<()> {
    let mut machine = machine("mirror-credentials", &[], |_| Ok(vec![]))?;
    let port = machine.registry.port();
    let wants = |asked: &Asked, _| match asked.header("authorization") {
        None => Deed::Answer("401 No\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0".into()),
        Some(_) => Deed::Pass,
    };
    let mirror = Front::start(&machine.sandbox, port, wants)?;
    let registry = Front::start(&machine.sandbox, port, wants)?;
    let auth = machine.sandbox.dir().join("auth.json");
    let pair = general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    fs::write(&auth, json!({ "auths": { registry.host(): { "auth": pair } } }).to_string())?;
    for words in [
        ["--registry-mirror", &format!("*={}", mirror.host())],
        ["--registry-auth", &auth.display().to_string()],
        ["--plain-http-registry", &mirror.host()],
        ["--plain-http-registry", &registry.host()],
    ] {
        words.iter().for_each(|word| machine.daemon.add_flag(word));
    }
    machine.daemon.start(&machine.sandbox)?;
    let image = format!("{}/web:1", registry.host());
    machine.hivemind(&["image", "pull", &image])?.ok()?;
    let sent = |front: &Front| front.asked().iter().any(|asked| asked.header("authorization").is_some());
    ensure!(!mirror.asked().is_empty() && !sent(&mirror), "the mirror was given the registry's: {:?}", mirror.asked());
    ensure!(sent(&registry), "{:?}", registry.asked());
    let events = machine.hivemind(&["events"])?.ok()?;
    ensure!(events.contains("MirrorFailed") && events.contains("none are configured"), "{events}");
    machine.close()
}

#[test]
fn a_mirror_that_is_none_is_named() -> Result<()> {
    let mut machine = machine("mirror-wrong", &[], |_| Ok(vec!["--registry-mirror".into(), "docker.io".into()]))?;
    machine.daemon.spawn(&machine.sandbox)?;
    let (code, log) = machine.daemon.ended()?;
    ensure!(code == 2 && log.contains("--registry-mirror") && log.contains("REGISTRY=HOST"), "{code}: {log}");
    machine.close()
}
