//! What a machine may meet that has run for long: shims that die, a clock that is set, programs that never come up, more
//! lines than anybody reads.

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::{Context, Result, ensure};
use hivemind_tests::{PATIENCE, instances, long, machine, until_ready};
use xtask::{deb, machine::Machine, shell, wait};

fn deploy(machine: &Machine, image: &str, name: &str, more: &[&str]) -> Result<()> {
    let args = ["app", "deploy", "--image", image, "--name", name];
    machine.hivemind(&[&args[..], more].concat())?.ok().map(drop)
}

#[test]
fn an_instance_whose_shim_dies_is_started_again() -> Result<()> {
    let (machine, image) = machine("shim")?;
    deploy(&machine, &image, "web", &["--service", "web.local", "--replicas", "2", "--wait"])?;
    let before = until_ready(&machine, "web", 2)?;
    let victim = before.first().context("no instance")?.clone();
    let shim = shim_of(&machine, &victim.id)?;
    shell::output(Command::new("kill").args(["-KILL", &shim]))?;
    wait::until("the instance to be started again", PATIENCE, || {
        let now = instances(&machine, "web")?;
        let again = now.iter().find(|instance| instance.id == victim.id);
        ensure!(again.is_some_and(|instance| instance.restarts == 1 && instance.phase == "ready"), "{now:?}");
        let other = now.iter().filter(|instance| instance.id != victim.id).collect::<Vec<_>>();
        ensure!(other.iter().all(|instance| instance.restarts == 0), "{now:?}");
        Ok(())
    })?;
    let events = machine.hivemind(&["events"])?.ok()?;
    ensure!(events.contains("(the shim) has ended; started again in"), "{events}");
    // The process that had lost its shim is gone: there is one for each instance.
    ensure!(hivemind_tests::pids(&machine)?.len() == 2, "{:?}", hivemind_tests::pids(&machine)?);
    let told = machine.hivemind(&["exec", &victim.name, "--", "wget", "-q", "-O", "-", "http://web.local/"])?;
    ensure!(told.code == 0, "{told}");
    machine.close()
}

#[test]
fn a_shim_that_does_not_answer_for_a_while_says_nothing_of_its_container() -> Result<()> {
    let (mut machine, image) = machine("silent-shim")?;
    deploy(&machine, &image, "web", &["--wait"])?;
    let before = until_ready(&machine, "web", 1)?;
    let shim = shim_of(&machine, &before.first().context("no instance")?.id)?;
    let signal = |name: &str| shell::output(Command::new("kill").args([name, &shim])).map(drop);
    signal("-STOP")?;
    // Whoever takes the instance over looks at it, and containerd waits 2 s for the shim before it says "unknown".
    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    let asked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| machine.hivemind(&["exec", "web", "--", "true"]));
        let told = wait::until("the daemon to be told that nothing is known", PATIENCE, || {
            ensure!(machine.daemon.log().matches("its shim does not answer").count() >= 2, "not in its log");
            Ok(())
        });
        signal("-CONT")?;
        told?;
        asked.join().map_err(|_| anyhow::anyhow!("the command panicked"))?
    })?;
    ensure!(asked.code == 0, "{asked}");
    ensure!(until_ready(&machine, "web", 1)? == before, "the instance changed");
    machine.close()
}

/// The process of containerd's that keeps a container.
fn shim_of(machine: &Machine, id: &str) -> Result<String> {
    let pids = fs::read_to_string(machine.sandbox.cgroup().join("main/cgroup.procs"))?;
    let is_it = |pid: &&str| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.first().is_some_and(|program| program.ends_with(b"containerd-shim-runc-v2"))
            && words.contains(&id.as_bytes())
    };
    pids.lines().find(is_it).map(str::to_owned).with_context(|| format!("no shim of {id}"))
}

#[test]
fn a_clock_that_is_set_forwards_and_back_changes_nothing() -> Result<()> {
    let (mut machine, image) = machine("clock")?;
    let library = deb::unpacked("libfaketime")?.join("usr/lib");
    let library = shell::output(Command::new("find").arg(library).args(["-name", "libfaketimeMT.so.1"]))?;
    let clock = machine.sandbox.dir().join("clock");
    let set = |offset: &str| fs::write(&clock, offset);
    set("+0")?;
    machine.daemon.stop()?;
    for (name, value) in [
        ("LD_PRELOAD", library.trim().to_owned()),
        ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".into()),
        // As when somebody sets the machine's clock: the time since it was started goes on.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ("DONT_FAKE_MONOTONIC", "1".into()),
    ] {
        machine.daemon.set_variable(name, Some(value));
    }
    machine.daemon.start(&machine.sandbox)?;
    let checked = ["--health-exec", "true", "--health-interval", "1s", "--wait"];
    deploy(&machine, &image, "web", &[&["--service", "web.local", "--replicas", "2"][..], &checked].concat())?;
    let before = until_ready(&machine, "web", 2)?;
    let mut years = BTreeSet::new();
    for (step, offset) in ["+3650d", "-3650d", "+1h"].into_iter().enumerate() {
        set(offset)?;
        // What is begun now goes its way: a new app, one more instance, an instance that fails and comes back.
        let name = format!("new-{step}");
        deploy(&machine, &image, &name, &["--wait", "--timeout", "60s"])?;
        machine.hivemind(&["kill", &name])?.ok()?;
        wait::until("it to be started again", PATIENCE, || {
            let now = instances(&machine, &name)?;
            ensure!(now.iter().all(|instance| instance.restarts == 1 && instance.phase == "ready"), "{now:?}");
            Ok(())
        })?;
        // What runs is not disturbed, and still checked.
        ensure!(until_ready(&machine, "web", 2)? == before, "instances changed at {offset}");
        // The daemon says the time as it is now, and what it said before stays.
        let events = machine.hivemind(&["events", "-o", "json"])?.ok()?;
        ensure!(events.contains(&name) && events.contains("web"), "{events}");
        years.extend(events.split("\"at\":\"").skip(1).map(|rest| rest.chars().take(4).collect::<String>()));
    }
    ensure!(years.len() >= 3, "the daemon's clock was not set: {years:?}");
    // A restart in another time than what is stored.
    set("-400d")?;
    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    ensure!(until_ready(&machine, "web", 2)? == before, "instances changed at the daemon's restart");
    machine.hivemind(&["app", "scale", "web", "--replicas", "3", "--wait"])?.ok()?;
    machine.close()
}

#[test]
fn programs_that_never_come_up_are_nobody_elses_trouble() -> Result<()> {
    let (machine, image) = machine("crashing")?;
    let count = if long() { "500" } else { "60" };
    deploy(&machine, &image, "web", &["--service", "web.local", "--wait"])?;
    let web = until_ready(&machine, "web", 1)?;
    deploy(&machine, &image, "bad", &["--replicas", count, "--entrypoint", "sh", "--", "-c", "echo no; exit 3"])?;
    let restarts = || -> Result<u64> { Ok(instances(&machine, "bad")?.iter().map(|instance| instance.restarts).sum()) };
    let all: u64 = count.parse()?;
    wait::until("each to have crashed twice", PATIENCE * 5, || {
        let sum = restarts()?;
        ensure!(sum >= all * 2, "{sum} restarts");
        Ok(())
    })?;
    // Everybody else is served all the same: a deploy, an answer, a list.
    deploy(&machine, &image, "good", &["--wait", "--timeout", "60s"])?;
    let told = machine.hivemind(&["exec", "good", "--", "wget", "-q", "-O", "-", "http://web.local/"])?;
    ensure!(told.code == 0, "{told}");
    ensure!(until_ready(&machine, "web", 1)? == web, "an instance that runs was disturbed");
    let shown = machine.hivemind(&["ps", "bad"])?.ok()?;
    ensure!(shown.contains("exit") && shown.contains('3'), "{shown}");
    // And they go, whatever they are at.
    machine.hivemind(&["app", "rm", "bad", "--wait", "--timeout", "3m"])?.ok()?;
    machine.close()
}

#[test]
fn many_lines_are_neither_lost_nor_doubled_while_daemons_die() -> Result<()> {
    let (mut machine, image) = machine("many-lines")?;
    // Ten thousand lines a second, in a hundred pieces.
    let script = "for piece in $(seq 0 399); do seq $((piece*100)) $((piece*100+99)); usleep 10000; done; sleep 1d";
    deploy(
        &machine,
        &image,
        "web",
        &["--log-opt", "max-size=100m", "--entrypoint", "sh", "--wait", "--", "-c", script],
    )?;
    for _ in 0..3 {
        machine.daemon.kill()?;
        machine.daemon.start(&machine.sandbox)?;
    }
    let lines = wait::until("the last line", PATIENCE, || {
        let said = machine.hivemind(&["logs", "web", "--tail", "1"])?.ok()?;
        ensure!(said.contains("39999"), "{said}");
        machine.hivemind(&["logs", "web"])?.ok()
    })?;
    let numbers: Vec<u32> = lines.lines().filter_map(|line| line.split_whitespace().last()?.parse().ok()).collect();
    let different: BTreeSet<u32> = numbers.iter().copied().collect();
    ensure!(
        numbers.len() == 40_000 && different.len() == 40_000,
        "{} lines, {} different",
        numbers.len(),
        different.len()
    );
    ensure!(numbers.is_sorted(), "not in their order");
    machine.close()
}
