//! The daemon as systemd starts it: with no more capabilities than the unit gives it, telling how it is, logging to the
//! journal.

use std::{
    fs,
    os::unix::{fs::MetadataExt as _, fs::PermissionsExt as _, net::UnixDatagram},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use hivemind::daemon::needs;
use hivemind_tests::{Census, PATIENCE, long, unique, until_ready};
use xtask::{
    deb,
    image::{self, Image},
    machine::Machine,
    package, shell, wait,
};

/// The unit's capabilities, as it writes them.
fn capabilities() -> Result<Vec<String>> {
    Ok(package::unit("CapabilityBoundingSet")?.split(' ').map(str::to_owned).collect())
}

/// What starts a program as the unit does, with these capabilities.
fn bounded(capabilities: &[String]) -> Vec<String> {
    let short = |name: &String| format!("+{}", name.trim_start_matches("CAP_").to_lowercase());
    let set = std::iter::once("-all".to_owned()).chain(capabilities.iter().map(short)).collect::<Vec<_>>().join(",");
    ["setpriv", "--inh-caps=-all", "--no-new-privs", &format!("--bounding-set={set}")].map(str::to_owned).to_vec()
}

/// An image whose folder `/data` has owners, a device and a program with capabilities.
fn rich() -> Result<Image> {
    let mut files = image::busybox()?;
    files.device("data/null", 1, 3).capable("data/program", "words").file("data/mode", 0o2755, "more words");
    Image::new(&[&files], &image::Config::default())
}

/// Does what needs rights, each once: images, networks, ports, volumes, files in and out, privileged containers, their end.
fn work(machine: &Machine, web: &str, rich: &str) -> Result<()> {
    let hivemind = |args: &[&str]| machine.hivemind(args)?.ok();
    hivemind(&[
        "app",
        "deploy",
        "--image",
        web,
        "--name",
        "web",
        "--service",
        "web.local",
        "--port",
        "8080:80",
        "--wait",
    ])?;
    let busybox = deb::program("busybox", "busybox-static")?;
    let mut ask = machine.sandbox.command("timeout");
    ask.arg("5").arg(busybox).args(["wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]);
    ensure!(shell::output(&mut ask)?.starts_with("Hello from web-"), "the published port does not answer");
    let named = hivemind(&["exec", "web", "--", "ask", "4", "http://web.local/", "1"])?;
    ensure!(named.starts_with("Hello from web-"), "the service's name does not answer: {named}");

    let sleep = ["--entrypoint", "sleep", "--wait", "--", "infinity"];
    let data = ["app", "deploy", "--image", rich, "--name", "data", "--user", "65534", "--volume", "rich:/data"];
    hivemind(&[&data[..], &sleep].concat())?;
    let folder = hivemind(&["volume", "info", "rich", "-o", "json"])?;
    let folder: serde_json::Value = serde_json::from_str(&folder)?;
    let folder = folder["path"].as_str().context("a volume has a path")?.to_owned();
    let listed = shell::output(machine.sandbox.command("stat").args([
        "-c",
        "%F %a",
        &format!("{folder}/null"),
        &format!("{folder}/mode"),
    ]))?;
    ensure!(listed == "character special file 660\nregular file 2755\n", "{listed}");
    let mut tar = machine.sandbox.command("tar");
    tar.args(["--xattrs", "--xattrs-include=*", "-C", &folder, "-cf", "-", "program"]);
    ensure!(shell::output(&mut tar)?.contains("security.capability"), "the file's capability is lost");

    // A file of somebody else's, with set-group-ID, in and out.
    let file = machine.sandbox.dir().join("file");
    fs::write(&file, "words")?;
    std::os::unix::fs::chown(&file, Some(101), Some(102))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o6640))?;
    let shown = file.display().to_string();
    hivemind(&["cp", &shown, "web:/tmp/file"])?;
    let inside = hivemind(&["exec", "web", "--", "stat", "-c", "%a %u %g", "/tmp/file"])?;
    ensure!(inside == "6640 101 102\n", "{inside}");

    let strong = ["app", "deploy", "--image", web, "--name", "strong", "--privileged", "--health-exec", "true"];
    hivemind(&[&strong[..], &sleep].concat())?;
    hivemind(&["cp", &shown, "strong:/tmp/file"])?;
    let back = machine.sandbox.dir().join("back").display().to_string();
    hivemind(&["cp", "strong:/tmp/file", &back])?;
    ensure!(hivemind(&["top", "strong"])?.contains("sleep"), "the processes of a privileged container are not seen");
    ensure!(hivemind(&["logs", "web"])?.contains("serves on port 80"), "no log");
    hivemind(&["kill", "web", "--signal", "KILL"])?;
    wait::until("the killed one to be started again", PATIENCE, || {
        ensure!(hivemind_tests::instances(machine, "web")?.iter().all(|it| it.restarts == 1 && it.phase == "ready"));
        Ok(())
    })?;
    Ok(())
}

/// Removes what [`work`] has made.
fn away(machine: &Machine) -> Result<()> {
    for app in ["web", "data", "strong"] {
        // It may not have come so far.
        machine.hivemind(&["app", "rm", app, "--wait"])?;
    }
    machine.hivemind(&["volume", "prune", "--yes"])?;
    Ok(())
}

#[test]
fn the_units_capabilities_are_enough() -> Result<()> {
    let mut machine = Machine::prepare(&unique("bounded"), &[])?;
    let unit = capabilities()?;
    for (_, needed) in needs::CAPABILITIES {
        ensure!(unit.iter().any(|name| name == needed), "doctor asks for {needed}, which the unit does not give");
    }
    machine.daemon.start_through(&bounded(&unit));
    machine.daemon.start(&machine.sandbox)?;
    let pid = machine.daemon.pid().context("it runs")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).context("CapEff")?;
    let effective = u64::from_str_radix(effective, 16)?.count_ones();
    ensure!(effective as usize == unit.len(), "it has {effective} capabilities, the unit gives {}", unit.len());
    let web = machine.push(&image::web()?, "web", "1")?;
    let rich = machine.push(&rich()?, "rich", "1")?;
    work(&machine, &web, &rich)?;
    away(&machine)?;
    let before = Census::take(&machine)?;
    work(&machine, &web, &rich)?;
    away(&machine)?;
    before.again(&machine)?;
    let log = machine.daemon.log();
    ensure!(!log.contains("ermitted") && !log.contains("ermission"), "something was refused: {log}");
    machine.close()
}

/// Minutes: the daemon is started once without each of them.
#[test]
fn none_of_the_units_capabilities_can_be_left_out() -> Result<()> {
    if !long() {
        return Ok(());
    }
    let mut machine = Machine::prepare(&unique("fewer"), &[])?;
    let unit = capabilities()?;
    machine.daemon.start(&machine.sandbox)?;
    let web = machine.push(&image::web()?, "web", "1")?;
    let rich = machine.push(&rich()?, "rich", "1")?;
    machine.daemon.stop()?;
    let mut idle = Vec::new();
    for left_out in &unit {
        let others: Vec<_> = unit.iter().filter(|name| *name != left_out).cloned().collect();
        machine.daemon.start_through(&bounded(&others));
        let done = machine.daemon.start(&machine.sandbox).and_then(|()| work(&machine, &web, &rich));
        match done {
            Ok(()) => idle.push(left_out.clone()),
            Err(error) => println!("without {left_out}: {}", error.to_string().lines().next().unwrap_or_default()),
        }
        if !machine.daemon.has_ended()? {
            machine.daemon.stop()?;
        }
        machine.daemon.start_through(&[]);
        machine.daemon.start(&machine.sandbox)?;
        away(&machine)?;
        machine.daemon.stop()?;
    }
    ensure!(idle.is_empty(), "everything works without {}", idle.join(", "));
    machine.close()
}

/// What a daemon tells systemd, until `wanted` comes.
fn told(systemd: &UnixDatagram, wanted: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    systemd.set_read_timeout(Some(PATIENCE))?;
    loop {
        let mut data = [0; 4096];
        let n = systemd.recv(&mut data).with_context(|| format!("{wanted} was not said, but {all:?}"))?;
        all.push(String::from_utf8_lossy(&data[..n]).into_owned());
        if all.last().is_some_and(|last| last.lines().any(|line| line == wanted)) {
            return Ok(all);
        }
    }
}

#[test]
fn systemd_is_told_how_it_is_and_the_journal_what_happens() -> Result<()> {
    let mut machine = Machine::prepare(&unique("service"), &[])?;
    let socket = machine.sandbox.dir().join("notify");
    let systemd = UnixDatagram::bind(&socket)?;
    machine.daemon.set_variable("NOTIFY_SOCKET", Some(socket.display().to_string()));
    machine.daemon.set_variable("WATCHDOG_USEC", Some("2000000".into()));
    // The sandbox has a /run of its own, which is reached by any of its processes.
    let run = format!("/proc/{}/root/run/systemd/journal", machine.containerd.pid());
    fs::create_dir_all(&run)?;
    let journal = UnixDatagram::bind(Path::new(&run).join("socket"))?;
    // As systemd does: standard error is this very file.
    let log = machine.daemon.dir().join("log");
    fs::write(&log, "")?;
    let meta = fs::metadata(&log)?;
    machine.daemon.set_variable("JOURNAL_STREAM", Some(format!("{}:{}", meta.dev(), meta.ino())));

    machine.daemon.start(&machine.sandbox)?;
    told(&systemd, "READY=1")?;
    let watch = wait::Stopwatch::start();
    for _ in 0..4 {
        told(&systemd, "WATCHDOG=1")?;
    }
    ensure!(watch.elapsed() < Duration::from_secs(8), "it took {:?} to be alive four times", watch.elapsed());
    let image = machine.push(&image::web()?, "web", "1")?;
    machine.hivemind(&["app", "deploy", "--image", &image, "--name", "web", "--wait"])?.ok()?;
    until_ready(&machine, "web", 1)?;
    ensure!(machine.daemon.stop()? == 0, "it was not stopped well");
    told(&systemd, "STOPPING=1")?;

    journal.set_nonblocking(true)?;
    let mut entries = Vec::new();
    let mut data = vec![0; 1 << 16];
    while let Ok(n) = journal.recv(&mut data) {
        entries.push(String::from_utf8_lossy(&data[..n]).into_owned());
    }
    let containerd = entries.iter().find(|entry| entry.starts_with("MESSAGE=containerd answers version=1."));
    let containerd = containerd.with_context(|| format!("{entries:#?}"))?;
    for line in ["PRIORITY=6", "SYSLOG_IDENTIFIER=hivemind", "TARGET=hivemind::daemon::prepare"] {
        ensure!(containerd.lines().any(|found| found == line), "{line}: {containerd}");
    }
    ensure!(containerd.contains("\nHIVEMIND_VERSION=1."), "{containerd}");
    ensure!(machine.daemon.log().is_empty(), "it was written to both: {}", machine.daemon.log());
    machine.close()
}
