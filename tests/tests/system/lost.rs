//! What somebody else takes away from under an instance, or from under the daemon.

use anyhow::{Context, Result, ensure};
use hivemind::store::{RedbStore, Store, Txn, keys};
use hivemind_tests::{Census, PATIENCE, instances, machine, pids};
use xtask::{shell, wait};

#[test]
fn an_instance_whose_device_is_deleted_is_started_again_and_reached() -> Result<()> {
    let (machine, image) = machine("lost")?;
    let web = ["app", "deploy", "--image", &image, "--name", "web", "--port", "8080:80", "--wait"];
    machine.hivemind(&web)?.ok()?;
    let before = instances(&machine, "web")?.into_iter().next().context("no instance")?;
    shell::output(machine.sandbox.command("ip").args(["link", "del", &format!("hm{}", before.id)]))?;
    wait::until("the instance to be well again", PATIENCE, || {
        let now = instances(&machine, "web")?.into_iter().next().context("no instance")?;
        ensure!(now.id == before.id, "another instance");
        ensure!(now.restarts == 1 && now.phase == "ready", "{} restarts, {}", now.restarts, now.phase);
        Ok(())
    })?;
    let mut ask = machine.sandbox.command("timeout");
    ask.arg("5").arg(xtask::deb::program("busybox", "busybox-static")?);
    ask.args(["wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]);
    ensure!(shell::output(&mut ask)?.starts_with("Hello from web-"), "it is not reached");
    let events = machine.hivemind(&["events"])?.ok()?;
    ensure!(events.contains("LinkLost") && events.contains("was removed by somebody else"), "{events}");
    let metrics = machine.daemon.get("/metrics")?;
    ensure!(metrics.contains("hivemind_dataplane_repairs_total{kind=\"link\"} 1"), "not counted");
    ensure!(machine.hivemind(&["dataplane", "check"])?.code == 0, "something differs");
    machine.close()
}

/// Writes a row of a store that no daemon has open. What it was before.
fn write_row(store: &std::path::Path, key: &str, change: impl FnOnce(&str) -> String) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = RedbStore::open(store).await?;
        let row = store.get(key).await?.0.context("no such row")?;
        let before = String::from_utf8(row.value.to_vec())?;
        store.txn(Txn::new().put(key, change(&before))).await?;
        Ok(before)
    })
}

#[test]
fn a_daemon_that_cannot_read_a_row_does_not_start_and_touches_nothing() -> Result<()> {
    let (mut machine, image) = machine("unread")?;
    machine.hivemind(&["app", "deploy", "--image", &image, "--name", "web", "--port", "8080:80", "--wait"])?.ok()?;
    let id = instances(&machine, "web")?.into_iter().next().context("no instance")?.id;
    let (running, census) = (pids(&machine)?, Census::take(&machine)?);
    machine.daemon.kill()?;
    let store = machine.daemon.dir().join("state/store.redb");
    // As a newer version writes them: a field of the document more.
    let newer = |row: &str| row.replacen("\"spec\":{", "\"spec\":{\"of-tomorrow\":1,", 1);
    machine.daemon.add_flag("--remove-unknown");
    for key in [format!("{}default/default/web", keys::APPS), format!("{}default/default/web/{id}", keys::INSTANCES)] {
        let before = write_row(&store, &key, newer)?;
        machine.daemon.spawn(&machine.sandbox)?;
        let (code, log) = machine.daemon.ended()?;
        let told = ["E-STORE-002", &key, "of-tomorrow", "hivemind explain E-STORE-002"];
        ensure!(code == 1 && told.iter().all(|words| log.contains(words)), "exit code {code}: {log}");
        ensure!(pids(&machine)? == running, "containers were touched");
        write_row(&store, &key, |_| before)?;
    }
    machine.daemon.start(&machine.sandbox)?;
    let after = instances(&machine, "web")?;
    ensure!(after.len() == 1 && after.iter().all(|it| it.id == id && it.phase == "ready"), "{after:?}");
    ensure!(pids(&machine)? == running, "processes were replaced");
    census.again(&machine)?;
    machine.close()
}
