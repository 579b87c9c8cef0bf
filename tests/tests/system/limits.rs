//! Limits of traffic as the command line asks for them: on instances that run, without new ones.

use anyhow::{Context, Result, ensure};
use hivemind_tests::{PATIENCE, instances, machine, until_ready};
use xtask::{machine::Machine, wait};

fn ok(machine: &Machine, line: &str) -> Result<String> {
    machine.hivemind(&line.split_whitespace().collect::<Vec<_>>())?.ok()
}

/// A refusal with these words.
fn refused(machine: &Machine, line: &str, exit: i32, words: &[&str]) -> Result<()> {
    let said = machine.hivemind(&line.split_whitespace().collect::<Vec<_>>())?;
    ensure!(said.code == exit, "{line}: {said}");
    for word in words {
        ensure!(said.err.contains(word), "{word:?} is not said: {said}");
    }
    Ok(())
}

/// The sum of a metric over what has all these labels.
fn metric(machine: &Machine, name: &str, labels: &[&str]) -> Result<f64> {
    let text = machine.daemon.get("/metrics")?;
    let lines = text.lines().filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
    let values = lines.map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<f64>());
    values.sum::<Result<f64, _>>().with_context(|| format!("a number of {name}"))
}

/// Whether the client gets a page.
fn asks(machine: &Machine) -> Result<bool> {
    let url = "http://web.default.default.hivemind/";
    let said = machine.hivemind(&["exec", "client", "--", "timeout", "5", "ask", "4", url, "1"])?;
    Ok(said.code == 0 && said.out.starts_with("Hello from "))
}

#[test]
fn limits_hold_are_shown_and_change_without_new_instances() -> Result<()> {
    let (mut machine, image) = machine("limits")?;
    let web = format!("app deploy --image {image} --name web --port 80 --wait");
    ok(&machine, &web)?;
    ok(&machine, &format!("app deploy --image {image} --name client --entrypoint sleep --wait -- 1d"))?;
    let before = until_ready(&machine, "web", 1)?;
    wait::until("an answer", PATIENCE, || {
        ensure!(asks(&machine)?);
        Ok(())
    })?;

    for (flags, exit, words) in [
        ("--limit-egress 10mbps", 2, &["write 10mbit or 1gbit"][..]),
        ("--limit-ingress fast", 2, &["write 500kbit, 10mbit or 1gbit"]),
        ("--limit-egress-packets 10kbit", 2, &["write 500, 10k or 1M"]),
        (
            "--limit-egress 1kbit --max-connections 0",
            2,
            &["limits.egress: 1kbit is not from 8kbit", "limits.connections"],
        ),
    ] {
        refused(&machine, &format!("{web} {flags}"), exit, words)?;
    }

    // One connection holds the only place; it is held for longer than the test lasts.
    let said = ok(&machine, &format!("{web} --max-connections 1 --limit-egress 10mbit --limit-ingress-packets 10k"))?;
    println!("{said}");
    let shown = ok(&machine, "app info web")?;
    ensure!(shown.contains("egress 10mbit, ingress-packets 10k/s, connections 1"), "{shown}");
    let hold = "sleep 3600 | nc web.default.default.hivemind 80 >/dev/null 2>&1";
    let script = format!("setsid sh -c '{hold}' >/dev/null 2>&1 </dev/null &");
    machine.hivemind(&["exec", "client", "--", "sh", "-c", &script])?.ok()?;
    wait::until("the second to be refused", PATIENCE, || {
        ensure!(!asks(&machine)?);
        Ok(())
    })?;
    let instance = instances(&machine, "web")?.into_iter().next().context("an instance")?.name;
    let label = format!("instance=\"{instance}\"");
    let incoming = [label.as_str(), "direction=\"in\""];
    ensure!(metric(&machine, "hivemind_limited_connections{", &incoming)? == 1.0, "one is counted");
    ensure!(metric(&machine, "hivemind_limited_refused_connections_total{", &incoming)? >= 1.0, "one was refused");
    ensure!(metric(&machine, "hivemind_dataplane_packets_total{", &["reason=\"connection-limit\""])? >= 1.0);
    ensure!(metric(&machine, "hivemind_limit_bytes_per_second{", &["app=\"web\""])? == 1_250_000.0);
    let row = |said: &str| said.lines().find(|line| line.contains(&instance)).map(str::to_owned);
    let may = row(&ok(&machine, "dataplane dump limits")?).context("a row of limits")?;
    let words: Vec<_> = may.split_whitespace().collect();
    ensure!(words[words.len() - 3..] == ["10mbit", "10k", "1"], "{may}");
    let does = row(&ok(&machine, "dataplane dump uses")?).context("a row of uses")?;
    ensure!(does.split_whitespace().nth(1) == Some("0/1"), "{does}");
    // The place stays taken while the daemon is dead and after it.
    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    ensure!(!asks(&machine)?, "the new daemon let a second one in");
    ok(&machine, &format!("{web} --max-connections 2"))?;
    wait::until("the second to be let in", PATIENCE, || {
        ensure!(asks(&machine)?);
        Ok(())
    })?;
    ensure!(until_ready(&machine, "web", 1)? == before, "a change of limits replaced the instance");

    // All instances of a tenant together: the one that is open is one of them.
    ok(&machine, "tenant set default --max-connections 1 --limit-ingress 1gbit")?;
    let shown = ok(&machine, "tenant ls -o wide")?;
    ensure!(shown.contains("ingress 1gbit, connections 1"), "{shown}");
    // A tenant's connections from before are counted by the second sweep.
    wait::until("the tenant's limit to hold", PATIENCE, || {
        ensure!(!asks(&machine)?);
        Ok(())
    })?;
    let said = ok(&machine, "tenant create default")?;
    let kept = ok(&machine, "tenant ls -o wide")?;
    ensure!(kept.contains("ingress 1gbit, connections 1"), "what is there keeps its limits: {said}{kept}");
    ok(&machine, "tenant set default --no-limits")?;
    wait::until("the tenant's limit to be gone", PATIENCE, || {
        ensure!(asks(&machine)?);
        Ok(())
    })?;
    ok(&machine, "tenant create acme --limit-egress 1gbit")?;
    ensure!(ok(&machine, "tenant ls -o wide")?.contains("egress 1gbit"));
    refused(&machine, "tenant set nobody --limit-egress 1gbit", 3, &["tenant nobody does not exist"])?;
    ensure!(until_ready(&machine, "web", 1)? == before, "a change of limits replaced the instance");
    machine.close()
}
