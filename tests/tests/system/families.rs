//! Nodes of one address family: everything works in it, and nothing of the other is made.

use anyhow::{Context, Result, ensure};
use hivemind_tests::{Census, instances, machine_with, until_ready};
use xtask::{deb, shell};

/// `used` and `other` are `4` and `6` or the other way round.
fn one_family(used: &str, other: &str) -> Result<()> {
    let (machine, image) = machine_with(&format!("only-v{used}"), &["--ip-family", &format!("v{used}")])?;
    let web = |name: &str| ["app", "deploy", "--image", &image, "--name", name, "--wait"].map(str::to_owned).to_vec();
    let run = |mut args: Vec<String>, more: &[&str]| {
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        machine.hivemind(&args.iter().map(String::as_str).collect::<Vec<_>>())?.ok()
    };
    run(web("client"), &["--entrypoint", "sleep", "--", "1d"])?;
    let before = Census::take(&machine)?;
    run(web("web"), &["--service", "web.local", "--replicas", "2", "--port", "8080:80"])?;
    until_ready(&machine, "web", 2)?;
    let ask = |family: &str| machine.hivemind(&["exec", "client", "--", "ask", family, "http://web.local/", "20"]);
    let answers = ask(used)?.ok()?;
    ensure!(answers.lines().count() == 20 && answers.lines().all(|line| line.starts_with("Hello from web-")));
    ensure!(ask(other)?.code != 0, "the name has an address of the other family");

    let service = machine.hivemind(&["service", "info", "web.local", "-o", "json"])?.json()?;
    let addresses = service["addresses"].as_object().context("no addresses")?;
    ensure!(addresses.keys().eq([&format!("v{used}")]), "{addresses:?}");
    let ours = if other == "6" { "fd68:6d00:" } else { "10.88." };
    for listed in [vec!["address"], vec!["route", "show", "table", "all"]] {
        let family = format!("-{other}");
        let shown = shell::output(machine.sandbox.command("ip").arg(&family).args(&listed))?;
        ensure!(!shown.contains(ours), "{listed:?} of the other family: {shown}");
    }
    let busybox = deb::program("busybox", "busybox-static")?;
    // What the gateway has for instances it has for the node itself.
    for host in if used == "4" { ["127.0.0.1", "10.88.0.1"] } else { ["[::1]", "[fd68:6d00:0:1::1]"] } {
        let mut local = machine.sandbox.command("timeout");
        local.arg("5").arg(&busybox).args(["wget", "-q", "-O", "-", &format!("http://{host}:8080/")]);
        let page = shell::output(&mut local).with_context(|| format!("{host} from the node"))?;
        ensure!(page.starts_with("Hello from web-"), "{host}: {page}");
    }

    machine.hivemind(&["app", "rm", "web", "--wait"])?.ok()?;
    ensure!(instances(&machine, "client")?.len() == 1);
    before.again(&machine)?;
    machine.close()
}

#[test]
fn a_node_with_ipv4_only() -> Result<()> {
    one_family("4", "6")
}

#[test]
fn a_node_with_ipv6_only() -> Result<()> {
    one_family("6", "4")
}
