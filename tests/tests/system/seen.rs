//! What there is to see: packets, through the command line.

use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use hivemind_tests::{PATIENCE, machine};
use xtask::{machine::Machine, shell, wait};

const CLOSED: &str = "policy: web\ninstances: app=web\ningress:\n- {from: [{instances: role=client}], ports: [80]}\n";

fn ok(machine: &Machine, words: &[&str]) -> Result<String> {
    machine.hivemind(words)?.ok()
}

fn ask(machine: &Machine, app: &str) -> Result<bool> {
    let words = ["exec", app, "--", "timeout", "2", "ask", "4", "http://web.local/", "1"];
    Ok(machine.hivemind(&words)?.code == 0)
}

fn begin(machine: &Machine, words: &[&str]) -> Result<Child> {
    let mut command = machine.daemon.command(&machine.sandbox, words);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("a capture")
}

/// Asks until the capture has what it wants. What it has written, and what it said.
fn end(machine: &Machine, mut child: Child, app: &str) -> Result<(Vec<u8>, String)> {
    let ended = wait::until("the capture to have enough", PATIENCE, || {
        ask(machine, app)?;
        child.try_wait()?.context("it goes on")
    });
    if ended.is_err() {
        child.kill()?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(ended?.success(), "{said}");
    Ok((output.stdout, said))
}

/// `dataplane dump` and `check`, and what happens when someone deletes a route.
fn held(machine: &Machine) -> Result<()> {
    let tables = ok(machine, &["dataplane", "dump"])?;
    ensure!(tables.contains("endpoints") && tables.contains("flows"), "{tables}");
    let backends = ok(machine, &["dataplane", "dump", "backends"])?;
    ensure!(backends.contains("default/default/web") && backends.contains(" web-"), "{backends}");
    let rules = machine.hivemind(&["dataplane", "dump", "rules", "-o", "json"])?.json()?;
    ensure!(rules[0]["rule"] == "rule 0 of default/default/web" && rules[0]["direction"] == "in", "{rules}");
    let drops = ok(machine, &["dataplane", "dump", "drops"])?;
    ensure!(drops.contains("policy-in") && drops.contains("other-"), "{drops}");
    let none = machine.hivemind(&["dataplane", "dump", "backend"])?;
    ensure!(none.code == 3 && none.err.contains("backends"), "{none}");
    let well = machine.hivemind(&["dataplane", "check"])?;
    ensure!(well.code == 0 && well.err.contains("is what it should be"), "{well}");
    let metrics = machine.daemon.get("/metrics")?;
    for kind in ["row", "attachment", "pin", "route", "address", "device"] {
        let line = format!("hivemind_dataplane_repairs_total{{kind=\"{kind}\"}} 0");
        ensure!(metrics.contains(&line), "{line} in {metrics}");
    }
    let denied = "hivemind_policy_denied_packets_total";
    ensure!(!metrics.contains(denied), "no rule denies: {metrics}");
    let mut child = begin(machine, &["dataplane", "stats", "--seconds", "2", "-o", "json"])?;
    wait::until("the measuring to end", PATIENCE, || {
        ask(machine, "client")?;
        child.try_wait()?.context("it goes on")
    })?;
    let runs: serde_json::Value = serde_json::from_slice(&child.wait_with_output()?.stdout)?;
    let of = |name: &str| runs.as_array()?.iter().find(|row| row["program"] == name).cloned();
    let from = of("hm_from_cont").context("a program")?;
    ensure!(
        from["runs"].as_u64() > Some(10) && (20..100_000).contains(&from["mean_ns"].as_u64().unwrap_or(0)),
        "{runs}"
    );
    let service = ok(machine, &["service", "info", "web"])?;
    ensure!(service.contains("Round trips from default/default/client: half within "), "{service}");
    let metrics = machine.daemon.get("/metrics")?;
    let pair = "from=\"default/default/client\",to=\"default/default/web\",service=\"default/default/web\"";
    ensure!(metrics.contains(&format!("hivemind_tcp_round_trip_seconds_count{{{pair}}}")), "{metrics}");
    // A program is detached: it is named, and back with the next sweep.
    let pin = format!("/sys/fs/bpf/hivemind/v{}/links/hm_connect4", hivemind_ebpf::ABI_VERSION);
    shell::run(machine.sandbox.command("rm").arg(pin))?;
    let wrong = machine.hivemind(&["dataplane", "check"])?;
    // The sweep may have been quicker: then it has counted what it did.
    let mended = "hivemind_dataplane_repairs_total{kind=\"attachment\"} 1";
    let quicker = wrong.code == 0 && machine.daemon.get("/metrics")?.contains(mended);
    ensure!(quicker || wrong.code == 1 && wrong.err.contains("hm_connect4 is missing"), "{wrong}");
    wait::until("the program to be attached again", PATIENCE, || {
        let metrics = machine.daemon.get("/metrics")?;
        ensure!(metrics.contains(mended), "{metrics}");
        Ok(())
    })?;
    ensure!(machine.hivemind(&["dataplane", "check"])?.code == 0, "it is not as it should be");
    ensure!(ask(machine, "client")?, "the service is reached");
    Ok(())
}

#[test]
fn packets_of_an_instance_are_shown_and_written() -> Result<()> {
    let (machine, image) = machine("seen")?;
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

    let dropped = begin(&machine, &["capture", "web", "--dropped", "--count", "1"])?;
    let (shown, said) = end(&machine, dropped, "other")?;
    let shown = String::from_utf8(shown)?;
    for part in [" in  10.88.", ":80 tcp SYN", "dropped: policy-in (no policy allows it into the instance)"] {
        ensure!(shown.contains(part), "{part} in {shown}");
    }
    ensure!(said.contains("1 packets, 1 of them dropped; 0 lost"), "{said}");

    let file = machine.daemon.dir().join("web.pcapng");
    let words = ["capture", "client", "--proto", "tcp", "--port", "80", "--count", "6", "-w"];
    let written = begin(&machine, &[&words[..], &[&file.display().to_string()]].concat())?;
    let (shown, _) = end(&machine, written, "client")?;
    let bytes = std::fs::read(&file)?;
    ensure!(shown.is_empty() && bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) && bytes.len() > 700, "{}", bytes.len());
    let piped = begin(&machine, &["capture", "client", "--count", "3", "-w", "-"])?;
    let (bytes, _) = end(&machine, piped, "client")?;
    ensure!(bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]), "{}", bytes.len());

    held(&machine)?;
    let nobody = machine.hivemind(&["capture", "nobody"])?;
    ensure!(nobody.code == 3 && nobody.err.contains("nobody"), "{nobody}");
    machine.close()
}
