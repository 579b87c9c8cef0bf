//! Policies of the host on a whole machine: what another machine still reaches, who is warned, and who is told.

use anyhow::{Result, ensure};
use hivemind_tests::{PATIENCE, machine, until_ready};
use xtask::{daemon::Said, deb, machine::Machine, shell, wait};

use super::outside::Outside;

/// A web server of the host's own.
const OWN: u16 = 9100;

/// Two policies, so that a removal can cut as well.
const CLOSED: &str = "policy: nodes\nhost: {}\ningress: [{from: [{block: 203.0.113.0/24}]}]\n";
const OPERATORS: &str = "policy: operators\nhost: {}\ningress: [{from: [{block: 192.0.2.2/32}], ports: [2222]}]\n";
const PUBLISHED: &str =
    "policy: entrance\nhost: {}\notherwise: reject\npublished: [{from: [{block: 203.0.113.0/24}]}]\n";

/// `hivemind <words>` as somebody gives it who has come from the other machine to this port.
fn over_ssh(machine: &Machine, port: u16, words: &[&str]) -> Result<Said> {
    let mut command = machine.daemon.command(&machine.sandbox, words);
    command.env("SSH_CONNECTION", format!("192.0.2.2 50312 192.0.2.1 {port}"));
    xtask::daemon::finish(command, &words.join(" "), PATIENCE)
}

fn file(machine: &Machine, name: &str, text: &str) -> Result<String> {
    let path = machine.daemon.dir().join(name);
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

fn reaches(outside: &Outside<'_>, port: u16) -> [bool; 2] {
    ["192.0.2.1", "[2001:db8::1]"].map(|node| outside.ask(&format!("http://{node}:{port}/")).is_ok())
}

fn until(outside: &Outside<'_>, port: u16, expected: bool) -> Result<()> {
    wait::until(&format!("port {port} to be {}", if expected { "open" } else { "closed" }), PATIENCE, || {
        let got = reaches(outside, port);
        ensure!(got == [expected; 2], "{got:?}");
        Ok(())
    })
}

#[test]
fn a_closed_host_is_told_of_first_and_keeps_what_is_published() -> Result<()> {
    let (mut machine, image) = machine("hostpolicy")?;
    let web = ["app", "deploy", "--image", &image, "--name", "web", "--port", "8080:80", "--wait"];
    machine.hivemind(&web)?.ok()?;
    let busybox = deb::program("busybox", "busybox-static")?;
    std::fs::write(machine.daemon.dir().join("index.html"), "own\n")?;
    let mut server = machine.sandbox.command("sh");
    let dir = machine.daemon.dir().display().to_string();
    server.args(["-ec", &format!("{} httpd -p {OWN} -h {dir}", busybox.display())]);
    shell::output(&mut server)?;
    let outside = Outside::connect(&machine)?;
    until(&outside, OWN, true)?;
    until(&outside, 8080, true)?;

    let closed = file(&machine, "closed.yaml", CLOSED)?;
    let test = ["policy", "test", "-f", &closed, "--from", "192.0.2.2", "--to", "host", "--denied", "--port"];
    machine.hivemind(&[&test[..], &["9100"]].concat())?.ok()?;
    ensure!(machine.hivemind(&[&test[..], &["22"]].concat())?.code == 1, "a fail-safe port is open");
    let apply = ["policy", "apply", "-f", &closed];
    let refused = over_ssh(&machine, 2222, &apply)?;
    ensure!(refused.code == 4 && refused.err.contains("E-POL-002"), "{refused}");
    ensure!(refused.err.contains("from 192.0.2.2 to port 2222 of this machine, would be cut"), "{refused}");
    ensure!(reaches(&outside, OWN) == [true; 2], "a refused policy closes nothing");
    // Both at once are well, in whatever order they stand; so is one who has come by a fail-safe port.
    let both = file(&machine, "both.yaml", &format!("{CLOSED}---\n{OPERATORS}"))?;
    over_ssh(&machine, 2222, &["policy", "apply", "-f", &both])?.ok()?;
    over_ssh(&machine, 22, &apply)?.ok()?;
    until(&outside, OWN, false)?;
    until(&outside, 8080, true)?;
    let why = machine.hivemind(&["why", "192.0.2.2", "host:9100"])?.ok()?;
    ensure!(why.contains("into host: no rule allows it, and the direction is closed by nodes, operators"), "{why}");
    let why = machine.hivemind(&["why", "192.0.2.2", "host:22"])?.ok()?;
    ensure!(why.contains("the port is always open"), "{why}");
    let shown = machine.hivemind(&["policy", "tier", "show", "nodes"])?.ok()?;
    ensure!(shown.contains("Always open in 22/tcp, 68/udp, 546/udp; out 53/udp"), "{shown}");
    ensure!(shown.contains("deny everything else"), "{shown}");
    let drops = machine.daemon.get("/metrics")?;
    ensure!(drops.lines().any(|line| line.contains("reason=\"host-in\"")), "no drop is counted");

    let remove = ["policy", "tier", "rm", "operators"];
    let refused = over_ssh(&machine, 2222, &remove)?;
    ensure!(refused.code == 4 && refused.err.contains("E-POL-002"), "{refused}");
    over_ssh(&machine, 2222, &[&remove[..], &["--force"]].concat())?.ok()?;

    let published = file(&machine, "published.yaml", PUBLISHED)?;
    machine.hivemind(&["policy", "apply", "-f", &published])?.ok()?;
    until(&outside, 8080, false)?;
    let why = machine.hivemind(&["why", "192.0.2.2", "host:8080"])?.ok()?;
    ensure!(why.contains("into a published port of the host: no rule allows it"), "{why}");
    let mut own = machine.sandbox.command("timeout");
    own.arg("5").arg(&busybox).args(["wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]);
    ensure!(shell::output(&mut own)?.starts_with("Hello from web-"), "the host reaches its own");

    // What is in the kernel goes on without a daemon, and with the next one.
    machine.daemon.kill()?;
    ensure!(reaches(&Outside::again(&machine), OWN) == [false; 2], "a killed daemon opens the host");
    machine.daemon.start(&machine.sandbox)?;
    until_ready(&machine, "web", 1)?;
    let outside = Outside::again(&machine);
    ensure!(reaches(&outside, OWN) == [false; 2] && reaches(&outside, 8080) == [false; 2], "a new daemon opens it");
    for name in ["nodes", "entrance"] {
        machine.hivemind(&["policy", "tier", "rm", name])?.ok()?;
    }
    until(&outside, OWN, true)?;
    until(&outside, 8080, true)?;
    machine.close()
}
