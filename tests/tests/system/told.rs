//! What the program says of the data plane to somebody who asks for the first time: that it is true, names whose doing it
//! was, and that nothing of it changes afterwards.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use hivemind_tests::{PATIENCE, machine};
use xtask::{daemon::Said, machine::Machine, wait};

use super::outside::Outside;

fn run(machine: &Machine, line: &str) -> Result<Said> {
    machine.hivemind(&line.split_whitespace().collect::<Vec<_>>())
}

fn ok(machine: &Machine, line: &str) -> Result<String> {
    run(machine, line)?.ok()
}

fn apply(machine: &Machine, text: &str) -> Result<()> {
    let path = machine.daemon.dir().join("policy.yaml");
    std::fs::write(&path, text)?;
    ok(machine, &format!("policy apply -f {}", path.display())).map(drop)
}

/// Whether `spy` gets a page of an app.
fn asks(machine: &Machine, app: &str) -> Result<bool> {
    let line = format!("exec spy -- timeout 5 ask 4 http://{app}.default.default.hivemind/ 1");
    Ok(run(machine, &line)?.code == 0)
}

/// Waits until a command's output has all of these in it.
fn until(machine: &Machine, line: &str, parts: &[&str]) -> Result<String> {
    wait::until(&format!("{line} to say {parts:?}"), PATIENCE, || {
        let said = run(machine, line)?;
        ensure!(parts.iter().all(|part| said.out.contains(part)), "{said}");
        Ok(said.out)
    })
}

/// Names that nobody has are errors, and what kernels say at their start is nobody's doing.
fn names_and_noise(machine: &Machine) -> Result<()> {
    for (line, near) in [
        ("flows --app nosuch", "app nosuch does not exist"),
        ("flows --app wep", "did you mean web?"),
        ("flows --from nosuch", "--from nosuch: there is no such instance"),
        ("flows -f --to nosuch", "--to nosuch: there is no such instance"),
        ("flows --instance nosuch", "instance nosuch does not exist"),
        ("flows -T nosuch", "tenant nosuch does not exist"),
        ("flows -n nosuch", "namespace default/nosuch does not exist"),
    ] {
        let said = run(machine, line)?;
        ensure!(said.code == 3 && said.err.contains(near), "{line}: {said}");
    }
    ok(machine, "flows --app web")?;
    let noise = wait::until("the instances' kernels to have spoken", PATIENCE, || {
        let all = run(machine, "flows --dropped --housekeeping -o json")?.json()?;
        let noise: Vec<_> =
            all.as_array().context("a list")?.iter().filter(|flow| flow["housekeeping"] == true).collect();
        ensure!(!noise.is_empty(), "nothing of it: {all}");
        Ok(noise.len())
    })?;
    let quiet = run(machine, "flows --dropped")?;
    for reason in ["spoofed-address", "multicast"] {
        ensure!(!quiet.out.contains(reason), "{noise} rows, and healthy instances look like attackers: {quiet}");
    }
    ensure!(quiet.err.contains("left out") && quiet.err.contains("--housekeeping"), "{quiet}");
    let counted = machine.daemon.get("/metrics")?;
    ensure!(counted.contains("reason=\"multicast\"") || counted.contains("reason=\"spoofed-address\""), "{counted}");
    Ok(())
}

/// The outside, a port that it may not come to, and the host.
fn host(machine: &Machine, outside: &Outside<'_>) -> Result<()> {
    let why = ok(machine, "why 192.0.2.2 host:8080")?;
    let says = "192.0.2.2 is in none of the source ranges: 10.0.0.0/8";
    ensure!(why.contains("is denied") && why.contains(says), "{why}");
    ensure!(outside.ask("http://192.0.2.1:8080/").is_err(), "somebody who is in no range is let in");
    let line = "flows --dropped --to host";
    until(machine, line, &["source-range", "source ranges of service default/default/web", "why 192.0.2.2 host:8080"])?;
    let inside = ok(machine, "why 10.1.2.3 host:8080")?;
    ensure!(inside.contains("passes") && inside.contains("leads to port 80 of web-"), "{inside}");
    ensure!(inside.contains("the kernel's tables say the same"), "{inside}");

    apply(machine, "policy: nodes\nhost: {}\ningress: [{from: [{block: 203.0.113.0/24}]}]\n")?;
    wait::until("the host to be closed", PATIENCE, || {
        ensure!(outside.ask("http://192.0.2.1:9999/").is_err());
        let said = run(machine, line)?;
        let row = said.out.lines().find(|line| line.contains("host-in")).with_context(|| said.to_string())?;
        let parts = ["no rule of policy nodes allows it", "hivemind why 192.0.2.2 host:9999/tcp"];
        ensure!(parts.iter().all(|part| row.contains(part)), "{said}");
        Ok(())
    })?;
    let others = ok(machine, "flows --dropped --to host -T acme -o json")?;
    ensure!(others.trim() == "[]", "the host is another tenant's to see: {others}");
    ok(machine, "policy tier rm nodes").map(drop)
}

/// A receiver's limit is the receiver's.
fn limit(machine: &Machine) -> Result<()> {
    let hold = "sleep 3600 | nc lim.default.default.hivemind 80 >/dev/null 2>&1";
    let script = format!("setsid sh -c '{hold}' >/dev/null 2>&1 </dev/null &");
    machine.hivemind(&["exec", "spy", "--", "sh", "-c", &script])?.ok()?;
    wait::until("the second connection to be refused", PATIENCE, || {
        ensure!(!asks(machine, "lim")?, "it is let in");
        Ok(())
    })?;
    let why = ok(machine, "why spy lim:80")?;
    let full = "1 of 1 connections that it has accepted are open, so another one is refused now";
    for part in ["passes; but a limit is full", "limits are counted apart: lim-", full] {
        ensure!(why.contains(part), "{part}: {why}");
    }
    let shown = ok(machine, "flows --reason connection-limit --from spy")?;
    ensure!(shown.contains("limit of lim-") && shown.contains("hivemind app info lim"), "{shown}");
    ensure!(!shown.contains("app info spy"), "the sender is innocent: {shown}");
    Ok(())
}

/// Of a policy on trial it is told how often it would have denied, and whom; of one that is gone what its rules were.
fn trial_and_history(machine: &Machine) -> Result<()> {
    let trial = "policy: trial\ninstances: app=web\naudit: true\ningress: [{from: [{instances: role=client}]}]\n";
    apply(machine, trial)?;
    wait::until("the trial to count", PATIENCE, || {
        ensure!(asks(machine, "web")?, "a trial denies");
        let shown = ok(machine, "policy show trial")?;
        ensure!(!shown.contains("denied 0 in") && shown.contains("would have denied "), "{shown}");
        Ok(())
    })?;
    let tried = ok(machine, "flows --reason audit")?;
    for part in ["spy-", "web-", "passes: audit", "policy default/default/trial, on trial", "hivemind why spy-"] {
        ensure!(tried.contains(part), "{part}: {tried}");
    }
    ensure!(!ok(machine, "flows --dropped -o json")?.contains("\"audit\""), "what passes is no drop");
    let metrics = machine.daemon.get("/metrics")?;
    let counted = "policy_tried_denials_total{policy=\"default/default/trial\",direction=\"in\"} ";
    let value = metrics.lines().find_map(|line| line.split_once(counted)).context("it is in the metrics")?.1;
    ensure!(value.parse::<f64>()? >= 1.0, "{value}");
    ok(machine, "policy delete trial")?;
    ensure!(ok(machine, "flows --reason audit")?.contains("policy default/default/trial, on trial"), "it is forgotten");

    apply(machine, "policy: no-web\ntier: admin\npriority: 1\negress: [{action: deny, to: [world], ports: [80]}]\n")?;
    let line = "flows --dropped --from spy --to 203.0.113.9";
    wait::until("the rule to deny", PATIENCE, || {
        run(machine, "exec spy -- timeout 1 nc 203.0.113.9 80")?;
        let said = run(machine, line)?;
        ensure!(said.out.contains("rule 0 of policy no-web"), "{said}");
        Ok(())
    })?;
    ok(machine, "policy tier rm no-web")?;
    let later = ok(machine, line)?;
    ensure!(later.contains("rule 0 of policy no-web"), "history is written anew: {later}");
    Ok(())
}

/// Who listens says so at once, unless told to be quiet.
fn says_that_it_listens(machine: &Machine) -> Result<()> {
    for (line, says) in [
        ("flows -f", "listening to flows"),
        ("capture web", "listening to what passes and what is dropped at web-"),
        ("dataplane stats --seconds 1", "measuring for 1 s"),
    ] {
        let words: Vec<_> = line.split_whitespace().collect();
        let mut command = machine.daemon.command(&machine.sandbox, &words);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut said = String::new();
        let read = BufReader::new(child.stderr.take().context("its errors")?).read_line(&mut said);
        child.kill()?;
        child.wait()?;
        read?;
        ensure!(said.contains(says), "{line}: {said}");
    }
    let quiet = run(machine, "-q dataplane stats --seconds 1")?;
    ensure!(quiet.code == 0 && quiet.err.is_empty(), "{quiet}");
    Ok(())
}

#[test]
fn what_is_said_of_the_data_plane_is_true() -> Result<()> {
    let (machine, image) = machine("told")?;
    let deploy = format!("app deploy --image {image} --wait --name");
    ok(
        &machine,
        &format!("{deploy} web --label app=web --service web.local --port 8080:80 --source-range 10.0.0.0/8"),
    )?;
    ok(&machine, &format!("{deploy} lim --port 80 --max-connections 1"))?;
    ok(&machine, &format!("{deploy} spy --entrypoint sleep -- 1d"))?;
    ok(&machine, "tenant create acme")?;
    wait::until("an answer", PATIENCE, || {
        ensure!(asks(&machine, "web")? && asks(&machine, "lim")?);
        Ok(())
    })?;
    names_and_noise(&machine)?;

    let service = run(&machine, "service info web -o json")?.json()?;
    let address = service["addresses"]["v4"].as_str().context("an address")?.to_owned();
    for to in ["web.local:80", "web.default.default.hivemind:80", &format!("{address}:80")] {
        let why = ok(&machine, &format!("why spy {to}"))?;
        let leads = "port 80/tcp of service default/default/web leads to port 80 of web-";
        ensure!(why.contains("passes") && why.contains(leads), "{to}: {why}");
    }
    let why = ok(&machine, "why spy web.local:81")?;
    ensure!(why.contains("is denied") && why.contains("it has no port 81/tcp; it has 80/tcp"), "{why}");
    let why = ok(&machine, "why spy web:9999")?;
    ensure!(why.contains("whether anybody listens there is not known here"), "{why}");

    limit(&machine)?;
    trial_and_history(&machine)?;
    host(&machine, &Outside::connect(&machine)?)?;
    says_that_it_listens(&machine)?;
    machine.close()
}
