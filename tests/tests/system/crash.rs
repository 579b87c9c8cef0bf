//! The daemon is killed, restarted, replaced: what runs goes on, what was begun is finished, nothing is left over.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hivemind::lifecycle::killpoint;
use hivemind_tests::{Census, Client, PATIENCE, instances, machine, pids, until_ready};
use xtask::{daemon::Said, machine::Machine, wait};

/// Steps at which the daemon is killed while it works. A deploy takes about half a second.
const STEPS: u64 = 16;
/// From one to the next.
const STEP: Duration = Duration::from_millis(50);

fn deploy(machine: &Machine, image: &str, wait: bool) -> Result<()> {
    let args = ["app", "deploy", "--image", image, "--name", "web", "--service", "web.local", "--replicas", "2"];
    let waiting: &[&str] = if wait { &["--wait"] } else { &[] };
    machine.hivemind(&[&args[..], &["--port", "8080:80"], waiting].concat())?.ok().map(drop)
}

/// One instance with all that an instance has.
fn deploy_one(machine: &Machine, image: &str) -> Result<Said> {
    let args = ["app", "deploy", "--image", image, "--name", "web", "--service", "web.local", "--port", "8080:80"];
    machine.hivemind(&args)
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

#[test]
fn killed_stopped_and_replaced_while_everything_runs_on() -> Result<()> {
    let (mut machine, image) = machine("runs-on")?;
    deploy(&machine, &image, true)?;
    let mut client = client(&machine, &image)?;
    let before = (until_ready(&machine, "web", 2)?, pids(&machine)?, Census::take(&machine)?);
    // Of the same name, so that the processes' names stay the same.
    let newer = machine.sandbox.dir().join("newer/hivemind");
    std::fs::create_dir(machine.sandbox.dir().join("newer"))?;
    std::fs::copy(machine.daemon.program(), &newer)?;
    for way in ["kill", "stop", "replace", "kill"] {
        match way {
            "stop" => ensure!(machine.daemon.stop()? == 0, "the daemon did not stop well"),
            _ => machine.daemon.kill()?,
        }
        client.all_good().context(format!("{way}: without a daemon"))?;
        if way == "replace" {
            machine.daemon.replace_binary(&newer);
        }
        machine.daemon.start(&machine.sandbox)?;
        client.all_good().context(format!("{way}: with the next daemon"))?;
        ensure!(until_ready(&machine, "web", 2)? == before.0, "{way}: instances were replaced");
        ensure!(pids(&machine)? == before.1, "{way}: processes were replaced");
        before.2.again(&machine).context(way)?;
    }
    drop(client);
    machine.close()
}

/// The exit code of what asks for something that is not there.
const NOT_FOUND: i32 = 3;

/// Only every so many effects are tried, unless the tests may take long. So CI sees one effect in five: a step that is
/// broken between two of them is found by `cargo xtask test --long` only.
const STRIDE: usize = 5;

/// Lets the daemon work for a moment, then kills it.
fn kill_after(machine: &mut Machine, moment: Duration) -> Result<()> {
    // The one place where time itself is what is tested: any moment will do, and no moment is waited for.
    let watch = wait::Stopwatch::start();
    wait::until("the moment", PATIENCE, || {
        ensure!(watch.elapsed() >= moment);
        Ok(())
    })?;
    machine.daemon.kill()
}

#[test]
fn killed_at_any_moment_of_a_deploy_and_of_a_removal() -> Result<()> {
    let (mut machine, image) = machine("any-moment")?;
    deploy(&machine, &image, true)?;
    machine.hivemind(&["app", "rm", "web", "--wait"])?.ok()?;
    let before = Census::take(&machine)?;
    for step in 0..STEPS {
        let moment = STEP * u32::try_from(step)?;
        let at = format!("killed {} ms after a deploy", moment.as_millis());
        deploy(&machine, &image, false)?;
        kill_after(&mut machine, moment)?;
        machine.daemon.start(&machine.sandbox).context(at.clone())?;
        until_ready(&machine, "web", 2).context(at.clone())?;
        let at = format!("killed {} ms after a removal", moment.as_millis());
        machine.hivemind(&["app", "rm", "web"])?.ok().context(at.clone())?;
        kill_after(&mut machine, moment)?;
        machine.daemon.start(&machine.sandbox).context(at.clone())?;
        before.again(&machine).context(at)?;
    }
    machine.close()
}

/// A daemon that dies before its n-th effect after the first write by the API, if it comes that far.
fn start_to_die(machine: &mut Machine, n: Option<u32>) -> Result<()> {
    machine.daemon.set_variable(killpoint::VARIABLE, n.map(|n| n.to_string()));
    machine.daemon.start(&machine.sandbox)
}

/// Waits until the daemon has died, or until `done`; says which it was.
fn dies_before(machine: &mut Machine, done: impl Fn(&Machine) -> Result<()>) -> Result<bool> {
    wait::until("the daemon to die or to be done", PATIENCE, || {
        if machine.daemon.has_ended()? {
            return Ok(true);
        }
        done(machine).map(|()| false)
    })
}

#[test]
fn killed_before_every_effect_of_a_deploy_and_of_a_removal() -> Result<()> {
    let (mut machine, image) = machine("effects")?;
    machine.daemon.stop()?;
    machine.daemon.replace_binary(&hivemind_tests::testkit_binary()?);
    start_to_die(&mut machine, None)?;
    deploy_one(&machine, &image)?.ok()?;
    until_ready(&machine, "web", 1)?;
    machine.hivemind(&["app", "rm", "web", "--wait"])?.ok()?;
    let before = Census::take(&machine)?;
    machine.daemon.stop()?;
    let (mut deploys, mut removals) = (0_usize, 0_usize);
    let stride = if hivemind_tests::long() { 1 } else { STRIDE };
    for n in (1..).step_by(stride) {
        start_to_die(&mut machine, Some(n))?;
        before.again(&machine).context(format!("killed before the effect of a removal that is before {n}"))?;
        let said = deploy_one(&machine, &image)?;
        let died_of_deploy = dies_before(&mut machine, |machine| {
            let ready = instances(machine, "web")?.iter().filter(|instance| instance.phase == "ready").count();
            ensure!(ready == 1);
            Ok(())
        })?;
        deploys += usize::from(died_of_deploy);
        if !died_of_deploy {
            // The removal's effects are counted from the removal.
            machine.daemon.stop()?;
        }
        start_to_die(&mut machine, Some(n))?;
        let at = format!("killed before effect {n} of a deploy");
        let known = machine.hivemind(&["app", "info", "web"])?.code != NOT_FOUND;
        ensure!(known || said.code != 0, "{at}: what was acknowledged is lost: {said}");
        if !known {
            machine.daemon.stop()?;
            continue;
        }
        until_ready(&machine, "web", 1).context(at)?;
        let said = machine.hivemind(&["app", "rm", "web"])?;
        // A daemon that dies while it is asked does not answer either.
        let removed = |machine: &Machine| {
            let said = machine.hivemind(&["app", "info", "web"])?;
            ensure!(said.code == NOT_FOUND, "{said}");
            Ok(())
        };
        let died_of_removal = dies_before(&mut machine, removed)?;
        removals += usize::from(died_of_removal);
        if !died_of_removal {
            machine.daemon.stop()?;
        } else if said.code != 0 {
            // Nobody was told that it goes; whether it does or not, it can be asked for again.
            start_to_die(&mut machine, None)?;
            if removed(&machine).is_err() {
                machine.hivemind(&["app", "rm", "web", "--wait"])?.ok()?;
            }
            machine.daemon.stop()?;
        }
        if !died_of_deploy && !died_of_removal {
            break;
        }
    }
    println!("killed before {deploys} effects of a deploy and {removals} of a removal");
    ensure!(deploys * stride > 50 && removals * stride > 15, "only {deploys} and {removals} effects: do they count?");
    machine.close()
}

#[test]
fn what_no_store_knows_of_is_removed() -> Result<()> {
    let (mut machine, image) = machine("orphans")?;
    deploy(&machine, &image, true)?;
    machine.hivemind(&["app", "rm", "web", "--wait"])?.ok()?;
    let before = Census::take(&machine)?;
    deploy(&machine, &image, true)?;
    machine.daemon.kill()?;
    std::fs::remove_file(machine.daemon.dir().join("state/store.redb"))?;
    // It may only not be mounted: nothing is removed because of that, however often it is tried.
    let running = pids(&machine)?;
    for _ in 0..2 {
        machine.daemon.spawn(&machine.sandbox)?;
        let (code, log) = machine.daemon.ended()?;
        ensure!(
            code == 4 && log.contains("E-STORE-003") && log.contains("--remove-unknown"),
            "exit code {code}: {log}"
        );
        ensure!(pids(&machine)? == running && running.len() == 2, "containers were touched");
    }
    machine.daemon.add_flag("--remove-unknown");
    machine.daemon.start(&machine.sandbox)?;
    before.again(&machine)?;
    ensure!(instances(&machine, "web").is_err(), "an app came from nowhere");
    machine.close()
}

#[test]
fn what_ended_while_no_daemon_ran_is_started_again() -> Result<()> {
    let (mut machine, image) = machine("ended")?;
    deploy(&machine, &image, true)?;
    let before = until_ready(&machine, "web", 2)?;
    machine.daemon.kill()?;
    let pid = pids(&machine)?.into_iter().next().context("no process")?;
    xtask::shell::output(std::process::Command::new("kill").args(["-KILL", &pid]))?;
    machine.daemon.start(&machine.sandbox)?;
    wait::until("the process to be started again", PATIENCE, || {
        let now = instances(&machine, "web")?;
        ensure!(now.iter().map(|i| i.restarts).sum::<u64>() == 1, "{now:?}");
        ensure!(now.iter().all(|i| i.phase == "ready"), "{now:?}");
        let same = |a: &hivemind_tests::Instance| before.iter().any(|b| a.id == b.id);
        ensure!(now.len() == 2 && now.iter().all(same), "instances were replaced: {before:?}, {now:?}");
        Ok(())
    })?;
    machine.close()
}

#[test]
fn containerd_is_killed_and_comes_back() -> Result<()> {
    let (mut machine, image) = machine("containerd")?;
    deploy(&machine, &image, true)?;
    let (before, processes) = (until_ready(&machine, "web", 2)?, pids(&machine)?);
    machine.containerd.kill()?;
    // The daemon must stay, and say that it cannot do anything now; what it knows it still tells.
    machine.hivemind(&["ps"])?.ok()?;
    machine.containerd.restart(&machine.sandbox)?;
    machine.hivemind(&["app", "scale", "web", "--replicas", "3", "--wait"])?.ok()?;
    let after = until_ready(&machine, "web", 3)?;
    ensure!(before.is_subset(&after), "instances were replaced: {before:?}, {after:?}");
    ensure!(processes.is_subset(&pids(&machine)?), "processes were replaced");
    machine.close()
}
