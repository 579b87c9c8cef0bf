//! Who talks with whom, who dropped a packet and by which rule: through the command line.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use hivemind_tests::{PATIENCE, machine};
use xtask::{machine::Machine, wait};

/// How long a line may take that should come.
const SOON: Duration = Duration::from_secs(10);

const CLOSED: &str = "policy: web\ninstances: app=web\ningress:\n- {from: [{instances: role=client}], ports: [80]}\n";

fn ok(machine: &Machine, words: &[&str]) -> Result<String> {
    machine.hivemind(words)?.ok()
}

fn ask(machine: &Machine, app: &str) -> Result<bool> {
    let words = ["exec", app, "--", "timeout", "2", "ask", "4", "http://web.local/", "1"];
    Ok(machine.hivemind(&words)?.code == 0)
}

#[test]
fn who_dropped_a_packet_is_told() -> Result<()> {
    let (mut machine, image) = machine("flows")?;
    let web = ["app", "deploy", "--image", &image, "--name", "web", "--label", "app=web", "--service", "web.local"];
    ok(&machine, &[&web[..], &["--port", "80", "--wait"]].concat())?;
    for app in ["client", "other"] {
        let label = format!("role={app}");
        let deploy =
            ["app", "deploy", "--image", &image, "--name", app, "--label", &label, "--entrypoint", "sleep", "--wait"];
        ok(&machine, &[&deploy[..], &["--", "1d"]].concat())?;
    }
    let path = machine.daemon.dir().join("policy.yaml").display().to_string();
    std::fs::write(&path, CLOSED)?;
    ok(&machine, &["policy", "apply", "-f", &path])?;
    wait::until("the policy to close", PATIENCE, || {
        ensure!(!ask(&machine, "other")?, "it is open");
        Ok(())
    })?;
    ensure!(ask(&machine, "client")?, "the client is let in");

    let table = ok(&machine, &["flows", "--dropped", "--from", "other", "--to", "web"])?;
    let row = table.lines().nth(1).context("a row")?;
    for part in ["other-", "web-", ":80/tcp", "dropped: policy-in", "no rule allows it", "hivemind why other-"] {
        ensure!(row.contains(part), "{part} in:\n{table}");
    }
    let why = row.split("hivemind why ").nth(1).context("a command")?;
    let asked: Vec<&str> = ["why"].into_iter().chain(why.split_whitespace()).collect();
    ensure!(ok(&machine, &asked)?.contains("closed by default/default/web"), "what is to be tried answers");

    // The connection itself is over with its last packet; the question for the name is in the table for a while.
    let dns = ["flows", "--from", "client", "--to", "host", "--port", "53", "--protocol", "udp", "-o", "json"];
    let flows = machine.hivemind(&dns)?.json()?;
    let flow = flows.get(0).with_context(|| format!("a flow: {flows}"))?;
    ensure!(flow["verdict"] == "forwarded" && flow["answered"] == true, "{flow}");
    ensure!(flow["from"]["app"] == "client" && flow["to"]["bytes"].as_u64() > Some(40), "{flow}");
    ensure!(flow["from"]["tenant"] == "default" && flow["to"].get("tenant").is_none(), "{flow}");
    for nothing in [&["--protocol", "udp", "--app", "web"][..], &["--reason", "malformed"]] {
        let none = machine.hivemind(&[&["flows", "-o", "json"], nothing].concat())?.json()?;
        ensure!(none == serde_json::json!([]), "{nothing:?}: {none}");
    }
    for (flag, wrong, near) in [("--reason", "polcy-in", "policy-in"), ("--protocol", "tpc", "sctp")] {
        let said = machine.hivemind(&["flows", flag, wrong])?;
        ensure!(said.code == 2 && said.err.contains(near), "{said}");
    }
    let metrics = machine.daemon.get("/metrics")?;
    for name in ["hivemind_dataplane_flows{", "dataplane_flows_capacity{} 65536", "dataplane_lost_events_total{} 0"] {
        ensure!(metrics.contains(name), "{name} in {metrics}");
    }
    follow(&machine)?;

    let unload = |machine: &Machine, more: &[&str]| machine.hivemind(&[&["dataplane", "unload"], more].concat());
    let runs = unload(&machine, &[])?;
    ensure!(runs.code == 4 && runs.err.contains("E-API-007") && runs.err.contains("systemctl stop"), "{runs}");
    machine.daemon.stop()?;
    let used = unload(&machine, &[])?;
    ensure!(used.code == 4 && used.err.contains("3 instances") && used.err.contains("--force"), "{used}");
    let gone = unload(&machine, &["--force"])?;
    ensure!(gone.code == 0 && gone.err.contains("is gone"), "{gone}");
    let again = unload(&machine, &[])?;
    ensure!(again.code == 0 && again.err.contains("there is no data plane"), "{again}");
    // The next start puts everything back.
    machine.daemon.start(&machine.sandbox)?;
    wait::until("the client to be let in again", PATIENCE, || {
        ensure!(ask(&machine, "client")?, "it is kept out");
        Ok(())
    })?;
    ensure!(!ask(&machine, "other")?, "the policy is not enforced any more");
    machine.close()
}

/// `hivemind flows -f` tells of a new flow and of its end.
fn follow(machine: &Machine) -> Result<()> {
    let mut command = machine.daemon.command(&machine.sandbox, &["flows", "-f", "--from", "client", "--to", "web"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let out = child.stdout.take().context("its output")?;
    let (tell, told) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        BufReader::new(out).lines().map_while(Result::ok).for_each(|line| drop(tell.send(line)));
    });
    let found = wait::until("a flow to be told", PATIENCE, || {
        ensure!(ask(machine, "client")?, "the client is let in");
        let begun = told.recv_timeout(SOON)?;
        let ended = told.recv_timeout(SOON)?;
        Ok((begun, ended))
    });
    child.kill()?;
    child.wait()?;
    if reader.join().is_err() {
        bail!("the reader has panicked");
    }
    let (begun, ended) = found?;
    ensure!(begun.contains(" begun ") && begun.contains("client-") && begun.contains(":80/tcp"), "{begun}");
    ensure!(ended.contains(" ended ") && ended.contains("rule 0 of policy default/default/web"), "{ended}");
    Ok(())
}
