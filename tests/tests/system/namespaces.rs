//! Tenants, namespaces and policies as objects: created, listed, labelled, refused, removed, and kept over a kill.

use anyhow::{Context, Result, ensure};
use hivemind_tests::machine;
use serde_json::{Value, json};
use xtask::{daemon::Said, machine::Machine};

/// Runs a line of words.
fn run(machine: &Machine, line: &str) -> Result<Said> {
    machine.hivemind(&line.split_whitespace().collect::<Vec<_>>())
}

fn ok(machine: &Machine, line: &str) -> Result<String> {
    run(machine, line)?.ok()
}

fn json(machine: &Machine, line: &str) -> Result<Value> {
    run(machine, &format!("{line} -o json"))?.json()
}

/// A refusal, with its exit code, its error code, and words that it must have.
fn refused(machine: &Machine, line: &str, exit: i32, code: &str, words: &[&str]) -> Result<()> {
    let said = run(machine, line)?;
    ensure!(said.code == exit && said.err.starts_with(&format!("error[{code}]")), "{said}");
    for word in words {
        ensure!(said.err.contains(word), "{word:?} is not said: {said}");
    }
    Ok(())
}

/// What a shell is told at the end of this line.
fn completed(machine: &Machine, line: &[&str]) -> Result<String> {
    let mut command = machine.sandbox.command(machine.daemon.program());
    command.args(["--", "hivemind"]).args(line).env("HIVEMIND_SOCKET", machine.daemon.socket());
    command.env("HIVEMIND_COMPLETE", "bash").env("_CLAP_IFS", "\n").env("_CLAP_COMPLETE_INDEX", line.len().to_string());
    xtask::shell::output(&mut command)
}

/// Writes a file of the test.
fn file(machine: &Machine, name: &str, text: &str) -> Result<String> {
    let path = machine.daemon.dir().join(name);
    std::fs::write(&path, text)?;
    Ok(path.to_str().context("a path of text")?.to_owned())
}

const POLICY: &str = "\
policy: web
instances: app=web
ingress:
- from: [{namespaces: team=blue, instances: {}}, {block: 10.0.0.0/8}]
  ports: [80]
";

#[test]
fn apps_live_in_namespaces_that_were_created() -> Result<()> {
    let (mut machine, image) = machine("scopes")?;
    let deploy = format!("app deploy --image {image} --name web --label app=web --wait");
    // What is not there is said with the command that makes it, and each of them works.
    refused(
        &machine,
        &format!("-T acme -n prod {deploy}"),
        3,
        "E-OBJ-001",
        &["tenant acme does not exist", "hivemind tenant create acme && hivemind namespace create prod -T acme"],
    )?;
    ok(&machine, "tenant create acme")?;
    refused(
        &machine,
        &format!("-T acme -n prod {deploy}"),
        3,
        "E-OBJ-001",
        &["hivemind namespace create prod -T acme"],
    )?;
    ok(&machine, "namespace create prod -T acme --label env=prod --label team=red")?;
    for line in ["tenant create acme", "namespace create prod -T acme", "tenant create default"] {
        let said = run(&machine, line)?;
        ensure!(said.code == 0 && said.err.contains("already"), "the same again is no error: {said}");
    }
    refused(&machine, &format!("-T acme -n prdo {deploy}"), 3, "E-OBJ-001", &["did you mean prod?"])?;
    for list in ["app ls", "ps", "service ls", "policy ls"] {
        refused(&machine, &format!("{list} -T acme -n prdo"), 3, "E-OBJ-001", &["did you mean prod?"])?;
        ok(&machine, &format!("{list} -T acme -n prod"))?;
    }
    ok(&machine, &format!("-T acme -n prod {deploy}"))?;
    ok(&machine, &format!("-T acme {deploy}"))?;
    ok(&machine, &deploy)?;

    // The same name thrice, each in its own place.
    for (line, title, count) in [
        ("app ls", "NAME", 1),
        ("app ls -T acme -A", "NAMESPACE", 2),
        ("app ls --all-tenants", "TENANT", 3),
        ("ps --all-tenants", "TENANT", 3),
        ("ps -T acme -n prod", "INSTANCE", 1),
    ] {
        let table = ok(&machine, line)?;
        ensure!(table.starts_with(title) && table.lines().count() == count + 1, "{line}: {table}");
    }

    // What is elsewhere is said to be there.
    ok(&machine, "namespace create empty -T acme")?;
    for (line, words) in [
        (
            "app ls -T acme -n empty",
            "no apps in the namespace empty of the tenant acme; 2 in other namespaces (-A), 1 in other",
        ),
        ("ps -T acme -n empty", "2 in other namespaces (-A), 1 in other tenants (--all-tenants)"),
    ] {
        let said = run(&machine, line)?;
        ensure!(said.code == 0 && said.err.contains(words), "{line}: {said}");
    }
    ok(&machine, "namespace rm empty -T acme")?;
    // Names are completed in the scope of the line.
    ok(&machine, &format!("-T acme -n prod app deploy --image {image} --name only-there"))?;
    for (flags, there) in
        [(&["-T", "acme", "-n", "prod"][..], true), (&["--tenant=acme", "-nprod"], true), (&[], false)]
    {
        let words = completed(&machine, &[flags, &["app", "info", ""]].concat())?;
        ensure!(words.contains("web") && words.contains("only-there") == there, "{flags:?}: {words}");
    }
    ok(&machine, "-T acme -n prod app rm only-there --wait")?;
    for (line, words) in [
        ("tenant info acme", &["acme", "prod", "default"][..]),
        ("namespace info prod -T acme", &["prod", "acme", "env=prod team=red"]),
    ] {
        let shown = ok(&machine, line)?;
        ensure!(words.iter().all(|word| shown.contains(word)), "{line}: {shown}");
    }
    ok(&machine, "namespace label prod -T acme team=blue owner=ops env-")?;
    refused(&machine, "namespace label prod -T acme kubernetes.io/metadata.name=x", 2, "E-SPEC-001", &["always"])?;
    let labels = json!({"team": "blue", "owner": "ops"});
    let prod = |machine: &Machine| -> Result<Value> {
        let all = json(machine, "namespace ls -T acme")?;
        all.as_array().and_then(|all| all.iter().find(|it| it["name"] == "prod")).cloned().context("no prod")
    };
    ensure!(prod(&machine)?["labels"] == labels, "{}", prod(&machine)?);

    // What is in the way is named.
    let in_the_way = ["app acme/prod/web", "hivemind app ls -T acme"];
    refused(&machine, "namespace rm prod -T acme", 4, "E-OBJ-002", &in_the_way)?;
    refused(&machine, "tenant rm acme", 4, "E-OBJ-002", &["app acme/prod/web", "app acme/default/web"])?;
    refused(&machine, "tenant rm default", 2, "E-SPEC-001", &["always exists"])?;
    refused(&machine, "namespace rm default -T acme", 2, "E-SPEC-001", &["always exists"])?;

    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    ensure!(prod(&machine)?["labels"] == labels, "labels do not outlive the daemon");
    ensure!(ok(&machine, "tenant ls -o name")? == "acme\ndefault\n");
    ensure!(ok(&machine, "ns ls -T acme -o name")? == "default\nprod\n");

    ok(&machine, "app rm web -T acme -n prod --wait")?;
    ok(&machine, "namespace rm prod -T acme")?;
    refused(&machine, "namespace rm prod -T acme", 3, "E-OBJ-001", &["hivemind namespace ls -T acme"])?;
    ok(&machine, "app rm web -T acme --wait")?;
    ok(&machine, "namespace create empty -T acme")?;
    ok(&machine, "tenant rm acme")?;
    refused(&machine, "namespace ls -T acme", 3, "E-OBJ-001", &["tenant acme"])?;
    ensure!(ok(&machine, "app ls --all-tenants -o name")? == "web\n");
    machine.close()
}

#[test]
fn policies_are_applied_shown_and_deleted() -> Result<()> {
    let (mut machine, image) = machine("policies")?;
    ok(&machine, &format!("app deploy --image {image} --name web --label app=web --replicas 2 --wait"))?;
    ok(&machine, &format!("app deploy --image {image} --name other --wait"))?;
    let path = file(&machine, "policy.yaml", POLICY)?;
    let apply = format!("policy apply -f {path}");

    let dry = run(&machine, &format!("{apply} --dry-run"))?;
    ensure!(dry.code == 0 && dry.err.contains("would be created"), "{dry}");
    ensure!(json(&machine, "policy ls")? == json!([]), "a dry run applied it");
    let first = run(&machine, &apply)?;
    ensure!(first.code == 0 && first.err.contains("is created"), "{first}");
    let revision = json(&machine, "policy show web")?["revision"].clone();
    let again = run(&machine, &apply)?;
    ensure!(again.code == 0 && again.err.contains("already as asked for"), "{again}");
    let shown = json(&machine, "policy show web")?;
    ensure!(shown["revision"] == revision && shown["instances"] == 2, "{shown}");

    let table = ok(&machine, "policy ls")?;
    ensure!(table.lines().count() == 2 && table.contains("app=web") && table.contains("1 rule"), "{table}");
    ensure!(ok(&machine, "policy ls -A -o name")? == "web\n");
    let words = ok(&machine, "policy info web")?;
    for word in ["app=web", "2 now", "of namespaces team=blue, or 10.0.0.0/8; on 80/tcp", "says nothing"] {
        ensure!(words.contains(word), "{word}: {words}");
    }
    let copy = POLICY.replacen("web", "copy", 1);
    ok(&machine, &format!("policy apply -f {}", file(&machine, "copy.yaml", &copy)?))?;
    let yaml = ok(&machine, "policy show copy -o yaml")?;
    ensure!(!yaml.contains('!') && yaml.contains("cidr: 10.0.0.0/8"), "{yaml}");

    let tier = "policy: far\ntier: admin\npriority: 10\negress: [{to: [world], ports: [25], action: deny}]\n";
    let tier = file(&machine, "tier.yaml", tier)?;
    ok(&machine, &format!("policy apply -f {tier}"))?;
    refused(&machine, "policy delete far", 3, "E-OBJ-001", &["hivemind policy tier delete far"])?;
    ok(&machine, "policy tier delete far")?;

    let bad = file(&machine, "bad.yaml", "policy: bad\ningress: [{ports: [90-80]}]\n")?;
    refused(&machine, &format!("policy apply -f {bad}"), 2, "E-SPEC-001", &["ingress[0].ports[0]", "90"])?;
    refused(&machine, &format!("policy apply -f {path} -n none"), 3, "E-OBJ-001", &["hivemind namespace create none"])?;
    refused(&machine, "policy show we", 3, "E-OBJ-001", &["did you mean web?", "hivemind policy ls"])?;

    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    ensure!(json(&machine, "policy show web")?["revision"] == revision, "the policy does not outlive the daemon");
    ok(&machine, "namespace create prod")?;
    ok(&machine, &format!("policy apply -f {path} -n prod"))?;
    refused(&machine, "namespace rm prod", 4, "E-OBJ-002", &["policy default/prod/web"])?;
    for line in ["policy delete web -n prod", "namespace rm prod", "policy rm copy", "policy delete web"] {
        ok(&machine, line)?;
    }
    refused(&machine, "policy delete web", 3, "E-OBJ-001", &["hivemind policy ls"])?;
    machine.close()
}
