//! Wrong input and failure: each gets its code and its exit code, says what to do, and leaves nothing behind.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use hivemind_tests::{Census, PATIENCE, machine, unique};
use xtask::{
    daemon::{Daemon, Said},
    deb,
    image::{self, Image},
    machine::Machine,
    registry::{Access, PASSWORD, Registry, USER},
    shell, wait,
};

/// The command must have failed with this code, and its exit code.
fn refused(said: &Said, code: &str, exit: i32) -> Result<()> {
    ensure!(said.err.contains(&format!("error[{code}]")) && said.code == exit, "expected {code}, {exit}: {said}");
    ensure!(said.out.is_empty(), "an error has no output: {said}");
    Ok(())
}

#[test]
fn commands_that_cannot_be() -> Result<()> {
    let (machine, image) = machine("cannot-be")?;
    let before = Census::take(&machine)?;
    let deploy = |more: &[&str]| machine.hivemind(&[&["app", "deploy", "--image", &image][..], more].concat());
    // Refused by the command line itself.
    for args in [
        &["app", "deploy"][..],
        &["app", "deploy", "--image", "x", "--name", "Web_App"],
        &["app", "deploy", "--image", "x", "--name", "-x"],
        &["app", "deploy", "--image", "x", "--name", "web", "--port", "0:80"],
        &["app", "deploy", "--image", "x", "--name", "web", "--port", "70000:80"],
        &["app", "deploy", "--image", "x", "--name", "web", "--memory", "much"],
        &["app", "deploy", "--image", "x", "--name", "web", "--replicas", "-1"],
        &["app", "scale", "web"],
        &["app", "scale", "web", "--replicas", "many"],
        &["no-such-command"],
        &["ps", "-o", "xml"],
    ] {
        let said = machine.hivemind(args)?;
        ensure!(said.code == 2 && said.err.contains("error"), "{said}");
    }
    // Refused by the daemon.
    for more in [
        &["--name", "web", "--replicas", "1000000"][..],
        &["--name", "web", "--memory", "1Ki"],
        &["--name", "web", "--cpu", "0"],
        &["--name", "web", "--pids", "0"],
        &["--name", "web", "--service", "not a name"],
        &["--name", "web", "--port", "8080:80", "--port", "8080:81"],
    ] {
        refused(&deploy(more)?, "E-SPEC-001", 2)?;
    }
    for args in [
        &["app", "info", "nobody"][..],
        &["app", "scale", "nobody", "--replicas", "1"],
        &["app", "rm", "nobody"],
        &["app", "restart", "nobody"],
        &["logs", "nobody"],
        &["service", "info", "nobody.local"],
        &["node", "info", "nobody"],
    ] {
        refused(&machine.hivemind(args)?, "E-OBJ-001", 3)?;
    }
    before.again(&machine)?;
    machine.close()
}

#[test]
fn what_is_taken() -> Result<()> {
    let (mut machine, image) = machine("taken")?;
    let deploy = |name: &str, more: &[&str]| {
        machine.hivemind(&[&["app", "deploy", "--image", &image, "--name", name, "--wait"][..], more].concat())
    };
    deploy("first", &["--service", "web.local", "--port", "8080:80"])?.ok()?;
    refused(&deploy("second", &["--service", "web.local"])?, "E-OBJ-002", 4)?;
    refused(&deploy("second", &["--port", "8080:80"])?, "E-OBJ-002", 4)?;
    // By a process of the machine: the registry's port.
    let port = machine.registry.host().rsplit(':').next().context("no port")?.to_owned();
    let ask = |machine: &Machine| {
        let busybox = deb::program("busybox", "busybox-static")?;
        let url = format!("http://127.0.0.1:{port}/");
        // With the socket programs looking on, unlike `on_network`.
        let mut command = machine.sandbox.command("timeout");
        shell::output(command.arg("5").arg(busybox).args(["wget", "-q", "-O", "-", &url]))
    };
    ask(&machine).context("before")?;
    refused(&deploy("third", &["--port", &format!("{port}:80"), "--timeout", "10s"])?, "E-NET-003", 4)?;
    ask(&machine).context("the process that has the port lost its clients")?;
    let rules = shell::output(machine.sandbox.command("nft").args(["list", "table", "ip", "hivemind_pub"]))?;
    ensure!(rules.contains("8080") && !rules.contains(&port), "a port that is refused is published: {rules}");
    machine.registry.kill()?;
    hivemind_tests::until_ready(&machine, "third", 1)?;
    wait::until("the free port to be published", PATIENCE, || {
        let page = ask(&machine)?;
        ensure!(page.starts_with("Hello from third-"), "{page}");
        Ok(())
    })?;
    machine.close()
}

/// Deploys an image that cannot come up; what remains after its removal must be what was before.
fn cannot_come_up(machine: &Machine, image: &str, more: &[&str], code: &str, exit: i32) -> Result<String> {
    let before = Census::take(machine)?;
    let args = ["app", "deploy", "--image", image, "--name", "broken", "--wait", "--timeout", "60s"];
    let said = machine.hivemind(&[&args[..], more].concat())?;
    refused(&said, code, exit)?;
    machine.hivemind(&["app", "rm", "broken", "--wait"])?.ok()?;
    before.again(machine)?;
    Ok(said.err)
}

#[test]
fn images_that_cannot_be_had() -> Result<()> {
    let (mut machine, _) = machine("no-image")?;
    let host = machine.registry.host().to_owned();
    cannot_come_up(&machine, &format!("{host}/web:no-such-tag"), &[], "E-IMG-001", 3)?;
    cannot_come_up(&machine, &format!("{host}/no-such-image:1"), &[], "E-IMG-001", 3)?;
    let foreign = image::Config { architecture: "s390x".into(), ..image::Config::default() };
    let foreign = machine.push(&Image::new(&[&image::Files::default()], &foreign)?, "foreign", "1")?;
    let said = cannot_come_up(&machine, &foreign, &[], "E-IMG-004", 1)?;
    ensure!(said.contains("s390x"), "the message does not name what there is: {said}");
    machine.registry.kill()?;
    cannot_come_up(&machine, &format!("{host}/web:2"), &[], "E-IMG-002", 1)?;
    machine.close()
}

#[test]
fn a_registry_with_a_password() -> Result<()> {
    let mut machine = Machine::prepare(&unique("password"), &[])?;
    let registry = Registry::start(&machine.sandbox, 5001, Access::Password)?;
    let image = registry.push(&machine.sandbox, &image::web()?, "web", "1")?;
    let auth = machine.sandbox.dir().join("auth.json");
    let flags = ["--registry-auth", &auth.display().to_string()];
    machine.daemon = Daemon::new(&machine.sandbox, &machine.containerd.socket(), &[registry.host()], &flags)?;
    let credentials = |user: &str, password: &str| {
        let document = serde_json::json!({ "auths": { registry.host(): { "username": user, "password": password } } });
        std::fs::write(&auth, document.to_string())
    };
    credentials(USER, "wrong")?;
    machine.daemon.start(&machine.sandbox)?;
    cannot_come_up(&machine, &image, &[], "E-IMG-003", 5)?;
    machine.daemon.stop()?;
    credentials(USER, PASSWORD)?;
    machine.daemon.start(&machine.sandbox)?;
    machine.hivemind(&["app", "deploy", "--image", &image, "--name", "web", "--wait"])?.ok()?;
    machine.close()
}

#[test]
fn programs_that_do_not_run() -> Result<()> {
    let (machine, image) = machine("no-run")?;
    // Once before, so that the image is there.
    machine.hivemind(&["app", "deploy", "--image", &image, "--name", "warm", "--wait"])?.ok()?;
    machine.hivemind(&["app", "rm", "warm", "--wait"])?.ok()?;
    cannot_come_up(&machine, &image, &["--entrypoint", "/no-such-program"], "E-RUN-002", 1)?;
    let crash = ["--port", "80", "--entrypoint", "sh", "--", "-c", "echo the last words; exit 3"];
    let said = cannot_come_up(&machine, &image, &crash, "E-RUN-002", 1)?;
    ensure!(said.contains("the last words"), "the last log lines are not shown: {said}");
    let ill = ["--health-http", "81/", "--health-interval", "200ms", "--health-retries", "2"];
    let said = cannot_come_up(&machine, &image, &ill, "E-HEALTH-001", 1)?;
    ensure!(said.contains("serves on port 80"), "the last log lines are not shown: {said}");
    let often = ["--health-interval", "200ms", "--health-retries", "2", "--health-start-period", "0s"];
    for (check, why) in [
        (["--health-tcp", "81"], "port 81 does not accept connections"),
        (["--health-exec", "echo it is ill; exit 4"], "the command ended with 4: it is ill"),
        (["--health-exec", "sleep 1000"], "the command did not end within 2000 ms"),
    ] {
        let said = cannot_come_up(&machine, &image, &[&check[..], &often].concat(), "E-HEALTH-001", 1)?;
        ensure!(said.contains(why), "it is not said why the check fails: {said}");
        ensure!(said.contains("serves on port 80"), "the last log lines are not shown: {said}");
    }
    let hungry = ["--port", "80", "--memory", "8Mi", "--entrypoint", "sh", "--", "-c", "exec tail /dev/zero"];
    let said = cannot_come_up(&machine, &image, &hungry, "E-RUN-002", 1)?;
    ensure!(said.to_lowercase().contains("memory"), "it is not said that memory was too little: {said}");
    machine.close()
}

#[test]
fn a_disk_that_is_full() -> Result<()> {
    let mut machine = Machine::prepare(&unique("disk"), &[])?;
    // containerd's content on a small disk: the image fits neither packed nor unpacked.
    machine.containerd.kill()?;
    let lib = machine.sandbox.dir().join("containerd/lib").display().to_string();
    let mount = ["-t", "tmpfs", "-o", "size=16m", "tmpfs", &lib];
    xtask::shell::output(machine.sandbox.command("mount").args(mount))?;
    machine.containerd.restart(&machine.sandbox)?;
    machine.daemon.start(&machine.sandbox)?;
    let mut files = image::busybox()?;
    // Does not compress: a linear congruential generator's high bytes (Knuth's MMIX constants).
    let mut state = 1_u64;
    let noise = (0..24 << 20).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    files.file("noise", 0o644, noise.collect::<Vec<_>>());
    let large = machine.push(&Image::new(&[&files], &image::Config::default())?, "large", "1")?;
    let said = cannot_come_up(&machine, &large, &[], "E-DISK-001", 1)?;
    ensure!(said.contains("full") || said.contains("space"), "{said}");
    // Nothing half done was kept: there is room for a small one.
    let small = machine.push(&image::web()?, "web", "1")?;
    machine.hivemind(&["app", "deploy", "--image", &small, "--name", "web", "--wait"])?.ok()?;
    machine.close()
}

/// Says `first`; when told to, more than a small disk holds; when told again, `after`.
const TALKS: &str = "echo first; while [ ! -e /go ]; do sleep 0.05; done; \
    for n in $(seq 300); do head -c 16000 /dev/zero | tr '\\0' x; echo; done; touch /wrote; \
    while [ ! -e /again ]; do sleep 0.05; done; echo after; exec sleep 1d";

#[test]
fn a_disk_that_is_full_of_logs() -> Result<()> {
    let mut machine = Machine::prepare(&unique("full-logs"), &[])?;
    let logs = machine.daemon.dir().join("state/logs");
    std::fs::create_dir_all(&logs)?;
    let dir = logs.display().to_string();
    let inside = |machine: &Machine, words: &[&str]| {
        let (program, args) = words.split_first().context("no words")?;
        shell::output(machine.sandbox.command(program).args(args))
    };
    inside(&machine, &["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", &dir])?;
    machine.daemon.start(&machine.sandbox)?;
    let image = machine.push(&image::web()?, "web", "1")?;
    let talker = ["app", "deploy", "--image", &image, "--name", "talker", "--port", "80", "--health-exec", "true"];
    let said = machine.hivemind(&[&talker[..], &["--wait", "--entrypoint", "sh", "--", "-c", TALKS]].concat())?;
    said.ok()?;
    // Full by others: not even one line has room.
    let ballast = format!("{dir}/ballast");
    ensure!(inside(&machine, &["dd", "if=/dev/zero", &format!("of={ballast}"), "bs=4k"]).is_err(), "it is not full");
    machine.hivemind(&["exec", "talker", "--", "touch", "/go"])?.ok()?;
    wait::until("the process to write on", PATIENCE, || {
        machine.hivemind(&["exec", "talker", "--", "test", "-e", "/wrote"])?.ok().map(drop)
    })?;
    // What was said before is still there, and people can read it.
    let before = machine.hivemind(&["logs", "talker"])?.ok()?;
    ensure!(before.contains("first") && !before.contains("after"), "{}", before.len());
    inside(&machine, &["rm", &ballast])?;
    machine.hivemind(&["exec", "talker", "--", "touch", "/again"])?.ok()?;
    wait::until("the log to go on", PATIENCE, || {
        let now = machine.hivemind(&["logs", "talker"])?.ok()?;
        ensure!(now.contains("records were lost") && now.contains("after"), "{} bytes", now.len());
        Ok(())
    })?;
    let one = hivemind_tests::until_ready(&machine, "talker", 1)?;
    ensure!(one.iter().all(|instance| instance.restarts == 0), "a full disk for logs ended it: {one:?}");
    machine.close()
}

/// A daemon that must not start.
fn does_not_start(machine: &mut Machine, code: &str, exit: i32) -> Result<()> {
    machine.daemon.spawn(&machine.sandbox)?;
    let (status, log) = machine.daemon.ended().with_context(|| format!("{code} was expected"))?;
    ensure!(status == exit && log.contains(&format!("error[{code}]")), "expected {code}, {exit}; {status}: {log}");
    Ok(())
}

#[test]
fn daemons_that_cannot_start() -> Result<()> {
    let mut machine = Machine::prepare(&unique("no-start"), &[])?;
    let before = Census::take(&machine)?;
    let said = machine.hivemind(&["ps"])?;
    refused(&said, "E-CLI-001", 9)?;
    let (containerd, registry) = (machine.containerd.socket(), machine.registry.host().to_owned());
    for (flags, code, exit) in [
        (&["--service-cidr4", "127.0.0.0/16"][..], "E-NET-002", 1),
        (&["--instance-cidr4", "10.96.0.0/16"], "E-SPEC-001", 2),
        (&["--instance-cidr4", "10.88.0.1/16"], "E-SPEC-001", 2),
        (&["--log-level", "bogus"], "E-SPEC-001", 2),
        (&["--uplink", "nosuch0"], "E-SPEC-001", 2),
        (&["--registry-auth", "/no/such/file", "--registry-ca", "/etc/hostname"], "E-SPEC-001", 2),
        (&["--web-port", "5000"], "E-NET-003", 4),
        // Known only when the network is made already: it is taken back.
        // No file of a BPF file system has a dot in its name.
        (&["--bpf-root", "/sys/fs/bpf/hive.mind"], "E-BPF-002", 1),
    ] {
        machine.daemon = Daemon::new(&machine.sandbox, &containerd, &[&registry], flags)?;
        does_not_start(&mut machine, code, exit).context(flags.join(" "))?;
        before.again(&machine).context(flags.join(" "))?;
    }
    machine.daemon = Daemon::new(&machine.sandbox, Path::new("/no/such/socket"), &[], &[])?;
    does_not_start(&mut machine, "E-RUN-001", 1)?;
    before.again(&machine)?;
    machine.close()
}

#[test]
fn a_daemon_with_other_ranges_than_what_runs_does_not_start() -> Result<()> {
    let (mut machine, image) = machine("other-ranges")?;
    let deploy = ["app", "deploy", "--image", &image, "--name", "web", "--port", "80", "--wait"];
    machine.hivemind(&deploy)?.ok()?;
    machine.daemon.stop()?;
    let before = Census::take(&machine)?;
    let (containerd, registry) = (machine.containerd.socket(), machine.registry.host().to_owned());
    for flags in [["--service-cidr4", "10.97.0.0/16"], ["--instance-cidr6", "fd68:9::/64"], ["--ip-family", "v4"]] {
        machine.daemon = Daemon::new(&machine.sandbox, &containerd, &[&registry], &flags)?;
        does_not_start(&mut machine, "E-SPEC-001", 2).context(flags.join(" "))?;
        before.again(&machine).context(flags.join(" "))?;
    }
    // Larger ranges have what is there.
    machine.daemon = Daemon::new(&machine.sandbox, &containerd, &[&registry], &["--service-cidr4", "10.96.0.0/12"])?;
    machine.daemon.start(&machine.sandbox)?;
    hivemind_tests::until_ready(&machine, "web", 1)?;
    machine.close()
}

#[test]
fn a_second_daemon_is_refused_and_the_first_is_not_disturbed() -> Result<()> {
    let (machine, image) = machine("second")?;
    machine.hivemind(&["app", "deploy", "--image", &image, "--name", "web", "--wait"])?.ok()?;
    let before = Census::take(&machine)?;
    let mut second = Daemon::new(&machine.sandbox, &machine.containerd.socket(), &[], &["--web-port", "3001"])?;
    second.spawn(&machine.sandbox)?;
    let (status, log) = second.ended()?;
    ensure!(status == 4 && log.contains("error[E-API-007]"), "{status}: {log}");
    before.again(&machine)?;
    machine.hivemind(&["ps"])?.ok()?;
    machine.close()
}

#[test]
fn a_daemon_without_root_says_so() -> Result<()> {
    let machine = Machine::prepare(&unique("no-root"), &[])?;
    let mut command = machine.sandbox.command("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.arg(machine.daemon.program()).args(["daemon", "--socket", "/tmp/hivemind-of-nobody.sock"]);
    let said = xtask::daemon::finish(command, "hivemind daemon", PATIENCE)?;
    refused(&said, "E-KERN-002", 5)?;
    machine.close()
}

#[test]
fn a_registry_that_comes_back_is_used_again() -> Result<()> {
    let (mut machine, image) = machine("comes-back")?;
    machine.registry.kill()?;
    machine.hivemind(&["app", "deploy", "--image", &image, "--name", "web"])?.ok()?;
    wait::until("the failure to be shown", PATIENCE, || {
        let shown = machine.hivemind(&["ps", "web"])?.ok()?;
        ensure!(shown.contains("backoff"), "{shown}");
        Ok(())
    })?;
    machine.registry = Registry::start(&machine.sandbox, 5000, Access::Open)?;
    hivemind_tests::until_ready(&machine, "web", 1)?;
    machine.close()
}
