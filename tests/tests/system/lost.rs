//! What somebody else takes away from under an instance.

use anyhow::{Context, Result, ensure};
use hivemind_tests::{PATIENCE, instances, machine};
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
