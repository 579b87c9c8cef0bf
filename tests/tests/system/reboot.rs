//! The machine starts again: of what runs and of what lies in memory nothing is left, what is on the disk is.

use anyhow::{Result, ensure};
use hivemind_tests::{instances, machine, until_ready};
use xtask::shell;

#[test]
fn apps_come_back_after_the_machine_was_switched_off() -> Result<()> {
    let (mut machine, image) = machine("reboot")?;
    let args = ["app", "deploy", "--image", &image, "--name", "web", "--service", "web.local", "--port", "8080:80"];
    machine.hivemind(&[&args[..], &["--replicas", "2", "--wait"]].concat())?.ok()?;
    let before = instances(&machine, "web")?;

    machine.daemon.kill()?;
    for instance in &before {
        machine.containerd.ctr(&["tasks", "rm", "-f", &instance.id])?;
    }
    // /run and the BPF file system are in memory.
    let run = machine.daemon.dir().join("run");
    let script = format!(
        "for it in {0}/netns/* {0}/netns; do umount -l $it; done; rm -r {0} /sys/fs/bpf/hivemind",
        run.display()
    );
    let status = machine.sandbox.command("sh").args(["-ec", &script]).status()?;
    ensure!(status.success() && !run.exists(), "{status}");

    machine.daemon.start(&machine.sandbox)?;
    let after = until_ready(&machine, "web", 2)?;
    let ids = |all: &std::collections::BTreeSet<hivemind_tests::Instance>| -> Vec<String> {
        all.iter().map(|instance| instance.id.clone()).collect()
    };
    ensure!(ids(&after) == ids(&before), "other instances: {after:?}, {before:?}");
    let busybox = xtask::deb::program("busybox", "busybox-static")?;
    let mut asks = machine.sandbox.command(busybox);
    ensure!(
        shell::output(asks.args(["wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]))?.contains("Hello"),
        "no page"
    );
    machine.close()
}
