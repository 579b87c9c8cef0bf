//! Volumes with a limit: met as a full disk, grown while they are used, there again after a kill and a reboot, and gone
//! without a trace.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use hivemind_tests::{Census, PATIENCE, machine, until_ready};
use serde_json::Value;
use xtask::{daemon::Said, machine::Machine, wait};

fn run(machine: &Machine, line: &str) -> Result<Said> {
    machine.hivemind(&line.split_whitespace().collect::<Vec<_>>())
}

fn ok(machine: &Machine, line: &str) -> Result<String> {
    run(machine, line)?.ok()
}

fn info(machine: &Machine, volume: &str) -> Result<Value> {
    run(machine, &format!("volume info {volume} -o json"))?.json()
}

fn sh(machine: &Machine, script: &str) -> Result<Said> {
    machine.hivemind(&["exec", "box", "--", "sh", "-c", script])
}

/// Writes until nothing more fits, and says how many MiB did.
fn fill(machine: &Machine, file: &str) -> Result<u64> {
    let said = sh(machine, &format!("dd if=/dev/zero of={file} bs=1M 2>&1; stat -c 'MiB %s' {file}"))?;
    ensure!(said.out.contains("No space left on device"), "it never was full: {said}");
    let bytes = said.out.lines().find_map(|line| line.strip_prefix("MiB ")).context("no size")?;
    Ok(bytes.parse::<u64>()? >> 20)
}

/// What `/metrics` says of a volume.
fn metric(machine: &Machine, name: &str) -> Result<f64> {
    let all = machine.daemon.get("/metrics")?;
    let line = all.lines().find(|line| line.starts_with(&format!("hivemind_{name}{{")) && line.contains("\"data\""));
    let line = line.with_context(|| format!("no {name}"))?;
    Ok(line.rsplit(' ').next().context("no value")?.parse()?)
}

#[test]
fn a_limit_is_met_as_a_full_disk_grows_online_and_leaves_nothing() -> Result<()> {
    let (mut machine, image) = machine("disks")?;
    let deploy = format!("app deploy --image {image} --name box --wait --stop-grace 1s --volume data:/data");
    ok(&machine, &deploy)?;
    ok(&machine, "app rm box --wait")?;
    ok(&machine, "volume rm data")?;
    let before = Census::take(&machine)?;

    for (size, word) in [("1Mi", "is not from 32Mi"), ("17Ti", "is not from 32Mi")] {
        let said = run(&machine, &format!("volume create data --size {size}"))?;
        ensure!(said.code == 2 && said.err.contains(word), "{said}");
    }
    ok(&machine, "volume create data --size 64MiB")?;
    ok(&machine, &deploy)?;
    let empty = sh(&machine, "ls -A /data; stat -c %a /data")?.ok()?;
    ensure!(empty == "755\n", "a new volume is not as a folder: {empty:?}");
    let held = fill(&machine, "/data/full")?;
    ensure!((48..64).contains(&held), "{held} MiB in a volume of 64");
    // The rest of the node is as it was.
    ensure!(sh(&machine, "echo x >/tmp/x")?.code == 0);
    wait::until("the volume to be said to be nearly full", PATIENCE, || {
        let said = ok(&machine, "events")?;
        ensure!(said.contains("volume data is ") && said.contains("% full"), "{said}");
        Ok(())
    })?;
    wait::until("the metrics to say so, too", PATIENCE, || {
        let (used, limit) = (metric(&machine, "volume_used_bytes")?, metric(&machine, "volume_limit_bytes")?);
        ensure!(used > 0.98 * limit && limit < f64::from(64 << 20), "{used} of {limit}");
        Ok(())
    })?;

    // It grows while it is used, and only grows.
    let said = run(&machine, "volume resize data --size 32MiB")?;
    ensure!(said.code == 2 && said.err.contains("cannot be made smaller"), "{said}");
    let said = run(&machine, "volume resize data --size 128MiB")?;
    if said.code != 0 {
        // The kernel lets only who has CAP_SYS_RESOURCE do it while it is used.
        ensure!(said.err.contains("CAP_SYS_RESOURCE"), "{said}");
        ok(&machine, "scale box=0 --wait")?;
        ok(&machine, "volume resize data --size 128MiB")?;
        ok(&machine, "scale box=1 --wait")?;
    }
    ensure!(sh(&machine, "stat -c %s /data/full")?.ok()?.trim().parse::<u64>()? >> 20 == held, "what was in it is not");
    let more = fill(&machine, "/data/more")?;
    ensure!((48..=64).contains(&more), "{more} MiB more");
    sh(&machine, "rm /data/more; echo kept >/data/kept; sync")?.ok()?;
    let shown = info(&machine, "data")?;
    ensure!(shown["size"] == "128Mi" && shown["size_there"] == "128Mi" && shown["fault"].is_null(), "{shown}");

    // What was removed in it makes room on the node.
    let folder = Path::new(shown["path"].as_str().context("no path")?).parent().context("no folder")?.to_owned();
    let taken = |dir: &Path| -> Result<u64> {
        Ok((std::os::unix::fs::MetadataExt::blocks(&fs::metadata(dir.join("disk"))?) * 512) >> 20)
    };
    sh(&machine, "rm /data/full; sync")?.ok()?;
    wait::until("room to be made", PATIENCE, || {
        let mib = taken(&folder)?;
        ensure!(mib < 40, "{mib} MiB are taken");
        Ok(())
    })?;

    // A daemon that is killed leaves it to its process; one that comes again finds it.
    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    ensure!(sh(&machine, "cat /data/kept")?.ok()? == "kept\n");
    // As after a reboot: nothing runs, and nothing is mounted.
    ok(&machine, "scale box=0 --wait")?;
    machine.daemon.kill()?;
    let data = folder.join("data");
    xtask::shell::output(machine.sandbox.command("umount").arg(&data))?;
    ensure!(fs::read_dir(&data)?.next().is_none(), "it is no file system of its own");
    machine.daemon.start(&machine.sandbox)?;
    wait::until("it to be mounted again", PATIENCE, || {
        ensure!(info(&machine, "data")?["usage"]["limit"].as_u64().is_some());
        Ok(())
    })?;
    ok(&machine, "scale box=1 --wait")?;
    ensure!(sh(&machine, "cat /data/kept")?.ok()? == "kept\n");

    // Two at once have the same one.
    ok(&machine, "scale box=2 --wait")?;
    let names: Vec<_> = until_ready(&machine, "box", 2)?.into_iter().map(|instance| instance.name).collect();
    for name in &names {
        let seen = machine.hivemind(&["exec", name, "--", "cat", "/data/kept"])?.ok()?;
        ensure!(seen == "kept\n", "{name}: {seen}");
    }
    ok(&machine, "app rm box --wait")?;
    ok(&machine, "volume rm data")?;
    ensure!(!folder.exists(), "{} is left", folder.display());
    before.again(&machine)?;

    // What an image has there, and what does not fit.
    let said = run(&machine, "volume create plain")?;
    ensure!(said.code == 0, "{said}");
    let said = run(&machine, "volume resize plain --size 64MiB")?;
    ensure!(said.code == 2 && said.err.contains("without a limit"), "{said}");
    ok(&machine, "volume rm plain")?;
    before.again(&machine)?;
    machine.close()
}
