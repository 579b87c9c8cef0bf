//! An app's life: deployed, changed, scaled, restarted, removed.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use hivemind_tests::{Census, instances, machine, pids, until_ready};
use xtask::{
    image::{self, Image, Index},
    machine::Machine,
};

/// Deploys `web` and waits for it.
fn deploy(machine: &Machine, image: &str, replicas: &str, more: &[&str]) -> Result<()> {
    let args = ["app", "deploy", "--image", image, "--name", "web", "--replicas", replicas, "--wait"];
    machine.hivemind(&[&args[..], more].concat())?.ok().map(drop)
}

#[test]
fn an_app_comes_scales_and_goes_without_a_trace() -> Result<()> {
    let (machine, image) = machine("life")?;
    // Once before, so that the image is there.
    deploy(&machine, &image, "1", &[])?;
    machine.hivemind(&["app", "rm", "web", "--wait"])?.ok()?;
    let before = Census::take(&machine)?;
    for _ in 0..2 {
        deploy(&machine, &image, "2", &["--service", "web.local", "--port", "8080:80"])?;
        let two = until_ready(&machine, "web", 2)?;
        machine.hivemind(&["app", "scale", "--name", "web", "--replicas", "4", "--wait"])?.ok()?;
        let four = until_ready(&machine, "web", 4)?;
        ensure!(two.is_subset(&four), "scaling up replaced instances: {two:?}, {four:?}");
        machine.hivemind(&["scale", "web=1"])?.ok()?;
        let one = until_ready(&machine, "web", 1)?;
        ensure!(one.is_subset(&four), "scaling down replaced instances: {four:?}, {one:?}");
        machine.hivemind(&["app", "scale", "web", "--replicas", "0", "--wait"])?.ok()?;
        until_ready(&machine, "web", 0)?;
        machine.hivemind(&["app", "rm", "--name", "web", "--wait"])?.ok()?;
        before.again(&machine)?;
    }
    machine.close()
}

#[test]
fn the_same_deploy_twice_changes_nothing() -> Result<()> {
    let (machine, image) = machine("same")?;
    let more = ["--service", "web.local", "--env", "A=1", "--memory", "64Mi"];
    deploy(&machine, &image, "2", &more)?;
    let (before, processes) = (until_ready(&machine, "web", 2)?, pids(&machine)?);
    deploy(&machine, &image, "2", &more)?;
    ensure!(before == until_ready(&machine, "web", 2)?, "instances were replaced");
    ensure!(processes == pids(&machine)?, "processes were replaced");
    machine.close()
}

#[test]
fn a_changed_app_gets_new_instances_and_keeps_no_old_ones() -> Result<()> {
    let (machine, image) = machine("change")?;
    deploy(&machine, &image, "2", &["--env", "COLOUR=red"])?;
    let red = until_ready(&machine, "web", 2)?;
    deploy(&machine, &image, "2", &["--env", "COLOUR=blue"])?;
    let blue = until_ready(&machine, "web", 2)?;
    let names = |of: &BTreeSet<hivemind_tests::Instance>| of.iter().map(|i| i.id.clone()).collect::<BTreeSet<_>>();
    ensure!(names(&red).is_disjoint(&names(&blue)), "an instance outlived the change: {red:?}, {blue:?}");
    let colour = machine.hivemind(&["exec", "web", "--", "sh", "-c", "echo $COLOUR"])?.ok()?;
    ensure!(colour == "blue\n", "{colour:?}");
    machine.hivemind(&["app", "restart", "web", "--wait"])?.ok()?;
    let again = until_ready(&machine, "web", 2)?;
    ensure!(names(&blue).is_disjoint(&names(&again)), "an instance outlived the restart: {blue:?}, {again:?}");
    machine.close()
}

#[test]
fn a_service_follows_its_app() -> Result<()> {
    let (machine, image) = machine("follow")?;
    deploy(&machine, &image, "1", &["--service", "web.local"])?;
    let client =
        ["app", "deploy", "--image", &image, "--name", "client", "--entrypoint", "sleep", "--wait", "--", "1d"];
    machine.hivemind(&client)?.ok()?;
    let ask = |family: &str, times: &str| {
        machine.hivemind(&["exec", "client", "--", "ask", family, "http://web.local/", times])
    };
    for count in [3, 1, 2] {
        let replicas = count.to_string();
        machine.hivemind(&["app", "scale", "web", "--replicas", &replicas, "--wait"])?.ok()?;
        let expected: BTreeSet<String> =
            until_ready(&machine, "web", count)?.iter().map(|i| format!("Hello from {}", i.name)).collect();
        for family in ["4", "6"] {
            let answers = ask(family, "100")?.ok()?;
            let seen: BTreeSet<String> = answers.lines().map(str::to_owned).collect();
            ensure!(seen == expected, "IPv{family}: {seen:?} instead of {expected:?}");
        }
    }
    machine.hivemind(&["app", "rm", "web", "--wait"])?.ok()?;
    ensure!(ask("4", "1")?.code != 0, "the name of a removed app is still answered");
    machine.close()
}

#[test]
fn images_of_all_kinds_run() -> Result<()> {
    let (machine, _) = machine("images")?;
    let web = image::web()?;
    let foreign = image::Config { architecture: "s390x".into(), ..image::Config::default() };
    let index = Index::new(vec![Image::new(&[&image::Files::default()], &foreign)?, web.clone()]);
    let several = machine.registry.push_index(&machine.sandbox, &index, "several", "1")?;
    let by_digest = format!("{}/web@{}", machine.registry.host(), web.manifest.digest);
    let nginx = machine.push(&image::nginx()?, "nginx", "latest")?;
    let without_tag = nginx.trim_end_matches(":latest").to_owned();
    for image in [several, by_digest, nginx, without_tag] {
        deploy(&machine, &image, "1", &["--health-http", "80/"])?;
    }
    let page = machine.hivemind(&["exec", "web", "--", "wget", "-q", "-O", "-", "http://127.0.0.1/"])?.ok()?;
    ensure!(page.contains("Welcome to nginx"), "{page}");
    machine.close()
}

#[test]
fn a_process_that_ends_is_started_again() -> Result<()> {
    let (machine, image) = machine("ends")?;
    deploy(&machine, &image, "2", &["--service", "web.local"])?;
    let before = until_ready(&machine, "web", 2)?;
    let victim = before.first().map(|instance| instance.name.clone()).unwrap_or_default();
    // Process 1 of a container cannot be killed from inside; its parent's namespace can.
    let tasks = machine.containerd.ctr(&["tasks", "ls"])?;
    let id = before.first().map(|instance| instance.id.clone()).unwrap_or_default();
    let pid = tasks.lines().find(|line| line.starts_with(&id)).and_then(|line| line.split_whitespace().nth(1));
    let pid = pid.unwrap_or_default();
    xtask::shell::output(std::process::Command::new("kill").args(["-KILL", pid]))?;
    xtask::wait::until("the process to be started again", hivemind_tests::PATIENCE, || {
        let now = instances(&machine, "web")?;
        let again = now.iter().find(|instance| instance.name == victim);
        ensure!(again.is_some_and(|i| i.restarts == 1 && i.phase == "ready"), "{now:?}");
        Ok(())
    })?;
    machine.close()
}

#[test]
fn a_daemon_that_starts_again_knows_how_often_a_process_was_started() -> Result<()> {
    let (mut machine, image) = machine("counts")?;
    deploy(&machine, &image, "1", &["--service", "web.local"])?;
    end_process(&machine, 1)?;
    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    end_process(&machine, 2)?;
    machine.close()
}

/// Kills the only process there is, and waits until it is Ready again, started so many times.
fn end_process(machine: &Machine, times: u64) -> Result<()> {
    let pid = pids(machine)?.into_iter().next().unwrap_or_default();
    xtask::shell::output(std::process::Command::new("kill").args(["-KILL", &pid]))?;
    xtask::wait::until("the process to be started again", hivemind_tests::PATIENCE, || {
        let now = instances(machine, "web")?;
        ensure!(now.len() == 1 && now.iter().all(|i| i.restarts == times && i.phase == "ready"), "{now:?}");
        Ok(())
    })
}
