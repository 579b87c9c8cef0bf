//! Instances whose health check begins to fail.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hivemind_tests::{PATIENCE, instances, machine, machine_with, until_ready};
use xtask::{machine::Machine, wait};

/// Three checks, 200 ms apart, and what a busy machine needs to act on them. The default check would take 30 s.
const THRESHOLD: Duration = Duration::from_secs(5);

#[test]
fn an_instance_that_fails_its_check_leaves_the_service_and_is_started_again() -> Result<()> {
    let (machine, image) = machine("unhealthy")?;
    let deploy = ["app", "deploy", "--image", &image, "--wait", "--name"];
    let check = ["--health-http", "80/", "--health-interval", "200ms", "--health-retries", "3"];
    let web = [&deploy[..], &["web", "--replicas", "2", "--service", "web.local"], &check].concat();
    machine.hivemind(&web)?.ok()?;
    machine.hivemind(&[&deploy[..], &["client", "--entrypoint", "sleep", "--", "1d"]].concat())?.ok()?;
    let before = until_ready(&machine, "web", 2)?;
    let victim = before.first().context("no instance")?.name.clone();

    machine.hivemind(&["exec", &victim, "--", "rm", "/www/index.html"])?.ok()?;
    wait::until("the instance to be taken out of service", THRESHOLD, || {
        let now = instances(&machine, "web")?;
        let found = now.iter().find(|instance| instance.name == victim).context("it is gone")?;
        ensure!(found.phase != "ready" || found.restarts > 0, "{now:?}");
        // Its page is not there: one question to it, and this fails.
        machine.hivemind(&["exec", "client", "--", "ask", "4", "http://web.local/", "20"])?.ok().map(drop)
    })?;
    wait::until("it to be started again", PATIENCE, || {
        let now = instances(&machine, "web")?;
        let again = |i: &hivemind_tests::Instance| i.name == victim && i.restarts == 1 && i.phase == "ready";
        ensure!(now.iter().any(again) && now.iter().filter(|i| i.name != victim).all(|i| i.restarts == 0), "{now:?}");
        Ok(())
    })?;
    machine.close()
}

/// Checks in quick succession. Until an instance is Ready for the first time, failures do not count.
const QUICK: [&str; 6] = ["--health-interval", "200ms", "--health-retries", "3", "--health-start-period", "5m"];

/// Deploys `web` with these flags after the image, without waiting.
fn deploy(machine: &Machine, image: &str, flags: &[&str]) -> Result<()> {
    let args = ["app", "deploy", "--image", image, "--name", "web", "--service", "web.local"];
    machine.hivemind(&[&args[..], &QUICK, flags].concat())?.ok().map(drop)
}

/// Waits until the only instance of `web` is not Ready, started so many times, and says why.
fn until_waiting(machine: &Machine, restarts: u64, why: &str) -> Result<()> {
    wait::until(&format!("the instance to wait: {why}"), PATIENCE, || {
        let shown = machine.hivemind(&["ps", "web", "-o", "json"])?.json()?;
        let one = &shown[0];
        let waits = one["phase"] == "starting" && one["restarts"] == restarts;
        ensure!(waits && one["message"].as_str().is_some_and(|message| message.contains(why)), "{shown}");
        Ok(())
    })
}

/// Whether `web` is served to the container `client`.
fn is_served(machine: &Machine) -> Result<bool> {
    // The name is there with the app; who asks it is told of no instance until one is Ready.
    machine.hivemind(&["exec", "client", "--", "nslookup", "-type=a", "web.local"])?.ok()?;
    let asked = machine.hivemind(&["exec", "client", "--", "timeout", "5", "ask", "4", "http://web.local/"])?;
    Ok(asked.code == 0)
}

/// From not Ready to Ready to failing to Ready again, as `well` and `ill`, commands in the instance, make it.
fn follows(machine: &Machine, why: &str, well: &str, ill: &str) -> Result<()> {
    let inside = |script: &str| machine.hivemind(&["exec", "web", "--", "sh", "-c", script])?.ok();
    until_waiting(machine, 0, why)?;
    ensure!(!is_served(machine)?, "an instance whose check fails is served");
    inside(well)?;
    until_ready(machine, "web", 1)?;
    ensure!(is_served(machine)?, "an instance that is Ready is not served");
    inside(ill)?;
    until_waiting(machine, 1, why)?;
    ensure!(!is_served(machine)?, "an instance whose check fails is served");
    inside(well)?;
    let again = until_ready(machine, "web", 1)?;
    ensure!(again.iter().all(|instance| instance.restarts == 1), "{again:?}");
    Ok(())
}

#[test]
fn a_command_decides_when_an_instance_is_ready() -> Result<()> {
    let (machine, image) = machine("health-exec")?;
    client(&machine, &image)?;
    deploy(&machine, &image, &["--health-exec", "test -e /tmp/well || { echo not well; exit 3; }"])?;
    follows(&machine, "the command ended with 3: not well", "touch /tmp/well", "rm /tmp/well")?;
    machine.close()
}

#[test]
fn a_port_decides_when_an_instance_is_ready() -> Result<()> {
    let (machine, image) = machine("health-tcp")?;
    client(&machine, &image)?;
    // The process that the container begins with never ends: only the check sees that its server has.
    let script = "while :; do [ ! -e /tmp/well ] || httpd -f -p 80 -h /; sleep 0.05; done";
    let process = ["--health-tcp", "80", "--port", "80", "--entrypoint", "sh", "--", "-c", script];
    deploy(&machine, &image, &process)?;
    let ill = "rm /tmp/well; killall httpd";
    // A folder without an index is an error to HTTP, but the port accepts.
    let well = "echo page >/index.html; touch /tmp/well";
    follows(&machine, "port 80 does not accept connections", well, ill)?;
    machine.close()
}

#[test]
fn every_address_must_be_well() -> Result<()> {
    let (machine, image) = machine("health-both")?;
    let serve =
        |address: &str| format!("mkdir -p /www; echo page >/www/index.html; exec httpd -f -p {address} -h /www");
    for (address, other) in [("0.0.0.0:80", "fd68:6d00:0:1:"), ("[::]:80", "")] {
        let script = serve(address);
        let process = ["--health-http", "80/", "--port", "80", "--entrypoint", "sh", "--", "-c", &script];
        deploy(&machine, &image, &process)?;
        if other.is_empty() {
            until_ready(&machine, "web", 1)?;
        } else {
            until_waiting(&machine, 0, "does it listen on both, IPv4 and IPv6?")?;
            let shown = machine.hivemind(&["ps", "web", "-o", "json"])?.json()?.to_string();
            ensure!(shown.contains(other), "the address that fails is not named: {shown}");
        }
    }
    machine.close()
}

#[test]
fn a_node_of_ipv6_alone_checks_by_http() -> Result<()> {
    let (machine, image) = machine_with("health-v6", &["--ip-family", "v6"])?;
    deploy(&machine, &image, &["--health-http", "80/index.html"])?;
    until_ready(&machine, "web", 1)?;
    machine.hivemind(&["exec", "web", "--", "rm", "/www/index.html"])?.ok()?;
    wait::until("it to be started again", PATIENCE, || {
        let now = instances(&machine, "web")?;
        ensure!(now.iter().all(|i| i.restarts == 1 && i.phase == "ready"), "{now:?}");
        Ok(())
    })?;
    machine.close()
}

/// A container to ask from.
fn client(machine: &Machine, image: &str) -> Result<()> {
    let args = ["app", "deploy", "--image", image, "--name", "client", "--entrypoint", "sleep", "--wait", "--", "1d"];
    machine.hivemind(&args)?.ok().map(drop)
}
