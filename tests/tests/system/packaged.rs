//! The Debian package on a machine of its own: installed, upgraded under a running daemon, removed, purged. What dpkg and the
//! package's scripts write goes to layers above the machine's own folders, which end with the sandbox.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, ensure};
use hivemind_tests::{Census, pids, unique, until_ready};
use xtask::{
    daemon, deb, image,
    machine::Machine,
    package::{self, Pressed},
    shell,
};

/// What dpkg writes to, and the daemon.
const LAYERED: [&str; 3] = ["/usr", "/etc", "/var/lib"];

/// Lays something to write on over each of the folders.
fn layer(machine: &Machine) -> Result<()> {
    for dir in LAYERED {
        let home = format!("/run/layers{dir}");
        shell::output(machine.sandbox.command("mkdir").args([
            "-p",
            &format!("{home}/upper"),
            &format!("{home}/work"),
        ]))?;
        let options = format!("lowerdir={dir},upperdir={home}/upper,workdir={home}/work");
        shell::output(machine.sandbox.command("mount").args(["-t", "overlay", "overlay", "-o", &options, dir]))?;
    }
    Ok(())
}

/// Everything there is in the folders but dpkg's own notes.
fn files(machine: &Machine) -> Result<BTreeSet<String>> {
    let listed = shell::output(machine.sandbox.command("find").args(LAYERED).args([
        "-xdev",
        "-not",
        "-path",
        "/var/lib/dpkg/*",
    ]))?;
    Ok(listed.lines().map(str::to_owned).collect())
}

fn dpkg(machine: &Machine, args: &[&str]) -> Result<String> {
    let ours = ["--log=/run/dpkg.log", "--no-triggers", "--force-unsafe-io"];
    shell::output(machine.sandbox.command("dpkg").args(ours).args(args).env("DEBIAN_FRONTEND", "noninteractive"))
}

/// The page at the published port.
fn page(machine: &Machine) -> Result<String> {
    let busybox = deb::program("busybox", "busybox-static")?;
    let mut ask = machine.sandbox.command("timeout");
    shell::output(ask.arg("5").arg(busybox).args(["wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]))
}

#[test]
fn installed_upgraded_removed_and_purged() -> Result<()> {
    let mut machine = Machine::prepare(&unique("packaged"), &[])?;
    layer(&machine)?;
    let dir = machine.sandbox.dir().to_owned();
    let binary = daemon::binary()?;
    let make =
        |version: &str| package::deb(&binary, version, &dir, Pressed::Not).map(|path| path.display().to_string());
    let (old, new) = (make("0.0.9")?, make("0.1.0")?);
    let (before, files_before) = (Census::take(&machine)?, files(&machine)?);

    dpkg(&machine, &["--install", &old])?;
    let listed = dpkg(&machine, &["--listfiles", "hivemind"])?;
    for file in [
        "/usr/bin/hivemind",
        "/usr/lib/systemd/system/hivemind.service",
        "/usr/share/man/man1/hivemind.1.gz",
        "/usr/share/man/man1/hivemind-app-deploy.1.gz",
        "/usr/share/bash-completion/completions/hivemind",
        "/usr/share/zsh/vendor-completions/_hivemind",
        "/usr/share/fish/vendor_completions.d/hivemind.fish",
        "/usr/share/doc/hivemind/docs/cli.md",
    ] {
        ensure!(listed.lines().any(|line| line == file), "{file} is not installed: {listed}");
    }
    ensure!(dpkg(&machine, &["--verify", "hivemind"])?.is_empty(), "what is installed is not what was packed");
    let wanted = "/etc/systemd/system/multi-user.target.wants/hivemind.service";
    shell::output(machine.sandbox.command("test").args(["-L", wanted])).context("the service is not enabled")?;

    // Configured by its file alone, with the usual folders.
    let settings = machine.daemon.take_flags()?;
    let own = |line: &&str| !line.starts_with("state-dir") && !line.starts_with("run-dir");
    let settings: String = settings.lines().filter(own).map(|line| format!("{line}\n")).collect();
    fs::write(dir.join("config.toml"), settings)?;
    let (from, to) = (dir.join("config.toml").display().to_string(), "/etc/hivemind/config.toml");
    shell::output(machine.sandbox.command("install").args(["-D", "-m", "644", &from, to]))?;
    machine.daemon.set_variable("HIVEMIND_CONFIG", None);
    machine.daemon.replace_binary(Path::new("/usr/bin/hivemind"));
    ensure!(package::unit("ExecStart")? == "/usr/bin/hivemind daemon", "the unit starts something else than the test");
    machine.daemon.start(&machine.sandbox)?;
    let image = machine.push(&image::web()?, "web", "1")?;
    let deploy =
        ["app", "deploy", "--image", &image, "--name", "web", "--port", "8080:80", "--volume", "data:/data", "--wait"];
    machine.hivemind(&deploy)?.ok()?;
    machine.hivemind(&["exec", "web", "--", "sh", "-c", "echo kept >/data/file"])?.ok()?;
    let (instances, processes) = (until_ready(&machine, "web", 1)?, pids(&machine)?);

    // The new version beneath the running daemon, which is started again then.
    dpkg(&machine, &["--install", &new])?;
    ensure!(page(&machine)?.starts_with("Hello from web-"), "the upgrade has cut the port");
    ensure!(machine.daemon.stop()? == 0, "it does not stop");
    machine.daemon.start(&machine.sandbox)?;
    ensure!(
        until_ready(&machine, "web", 1)? == instances && pids(&machine)? == processes,
        "the upgrade touched a container"
    );
    let said = machine.hivemind(&["exec", "web", "--", "cat", "/data/file"])?.ok()?;
    ensure!(said == "kept\n", "{said}");

    // Removed: what runs goes on, and the data stays.
    machine.daemon.stop()?;
    dpkg(&machine, &["--remove", "hivemind"])?;
    ensure!(
        machine.sandbox.command("test").args(["-e", "/usr/bin/hivemind"]).status()?.code() == Some(1),
        "it is there"
    );
    ensure!(page(&machine)?.starts_with("Hello from web-"), "the removal has cut the port");

    // Purged: nothing is left, of the package and of what the daemon has made.
    let said = dpkg(&machine, &["--purge", "hivemind"])?;
    before.again(&machine).context(said)?;
    let files_after = files(&machine)?;
    let more: Vec<_> = files_after.difference(&files_before).collect();
    let less: Vec<_> = files_before.difference(&files_after).collect();
    ensure!(more.is_empty() && less.is_empty(), "left behind: {more:#?}, lost: {less:#?}");
    let namespaces = machine.containerd.ctr(&["namespaces", "ls", "-q"])?;
    ensure!(!namespaces.lines().any(|name| name == "hivemind"), "containerd keeps the namespace");
    machine.close()
}

#[test]
fn uninstalling_is_refused_while_a_daemon_runs_and_in_folders_of_others() -> Result<()> {
    let (mut machine, image) = hivemind_tests::machine("uninstall")?;
    machine.hivemind(&["app", "deploy", "--image", &image, "--name", "web", "--wait"])?.ok()?;
    let settings = machine.sandbox.dir().join("config.toml").display().to_string();
    let said = machine.hivemind(&["uninstall", "--yes"])?;
    ensure!(said.code == 4 && said.err.contains("error[E-API-007]"), "{said}");
    machine.daemon.stop()?;
    fs::write(&settings, machine.daemon.take_flags()?)?;
    let foreign = machine.sandbox.dir().join("foreign");
    fs::create_dir(&foreign)?;
    fs::write(foreign.join("letter"), "words")?;
    let said = machine.hivemind(&[
        "uninstall",
        "--yes",
        "--config",
        &settings,
        "--state-dir",
        &foreign.display().to_string(),
    ])?;
    ensure!(said.code == 2 && said.err.contains("neither a store nor a token"), "{said}");
    let said = machine.hivemind(&["uninstall", "--config", &settings])?;
    ensure!(said.code == 2 && said.err.contains("nothing was removed"), "without an answer: {said}");
    ensure!(!machine.containerd.keeps()?.is_empty(), "it was removed all the same");

    // Without containerd all goes but what that keeps, and the processes end.
    machine.containerd.kill()?;
    let said = machine.hivemind(&["uninstall", "--yes", "--config", &settings])?;
    ensure!(said.code == 1 && said.err.contains("left: containers and images: "), "{said}");
    ensure!(!machine.daemon.dir().join("state").exists() && !machine.daemon.dir().join("run").exists(), "{said}");
    machine.containerd.restart(&machine.sandbox)?;
    let said = machine.hivemind(&["uninstall", "--yes", "--config", &settings])?.ok()?;
    ensure!(machine.containerd.keeps()?.is_empty(), "{said}: {:?}", machine.containerd.keeps()?);
    machine.close()
}
