//! Secrets and configs: files of instances, shown to nobody else, changed only for who starts anew.

use std::{fs, io::Write as _, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use hivemind_tests::{Census, PATIENCE, machine, pids, until_ready};
use xtask::{
    daemon::{Said, finish, shown},
    machine::Machine,
    shell, wait,
};

/// Runs a line of words.
fn run(machine: &Machine, line: &str) -> Result<Said> {
    machine.hivemind(&line.split_whitespace().collect::<Vec<_>>())
}

fn ok(machine: &Machine, line: &str) -> Result<String> {
    run(machine, line)?.ok()
}

/// A refusal, with its exit code, its error code, and words that it must have.
fn refused(machine: &Machine, line: &str, exit: i32, code: &str, words: &[&str]) -> Result<()> {
    let said = run(machine, line)?;
    ensure!(said.code == exit && said.err.contains(&format!("error[{code}]")), "{said}");
    for word in words {
        ensure!(said.err.contains(word), "{word:?} is not said: {said}");
    }
    Ok(())
}

fn sh(machine: &Machine, script: &str) -> Result<Said> {
    machine.hivemind(&["exec", "web", "--", "sh", "-c", script])
}

/// Writes a file of the test.
fn file(dir: &Path, name: &str, text: &str) -> Result<String> {
    let path = dir.join(name);
    fs::write(&path, text)?;
    Ok(path.to_str().context("a path of text")?.to_owned())
}

/// Makes the secret of what comes on standard input: a file would be found by who looks for it.
fn create(machine: &Machine, content: &str, more: &[&str]) -> Result<Said> {
    let args = [&["secret", "create", "db_password", "--stdin"][..], more].concat();
    let (from, mut to) = std::io::pipe()?;
    to.write_all(content.as_bytes())?;
    drop(to);
    let mut command = machine.daemon.command(&machine.sandbox, &args);
    command.stdin(from);
    finish(command, &shown(&args), PATIENCE)
}

/// What nobody else writes, in the forms in which it could be written.
const SECRET: &str = "hunter2-never-shown";
const SECRET_BASE64: &str = "aHVudGVyMi1uZXZlci1zaG93b";

/// The files beneath a folder in which the secret is, as text or in base64.
fn found(dir: &Path) -> Result<Vec<String>> {
    let mut grep = Command::new("grep");
    grep.args(["-rlaE", &format!("{SECRET}|{SECRET_BASE64}")]).arg(dir);
    let output = grep.output().context("cannot run grep")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

#[test]
fn a_secret_is_a_file_of_the_instance_and_nowhere_else() -> Result<()> {
    let (mut machine, image) = machine("secrets")?;
    ok(&machine, &format!("app deploy --image {image} --name web --wait"))?;
    ok(&machine, "app rm web --wait")?;
    let before = Census::take(&machine)?;
    create(&machine, SECRET, &[])?.ok()?;
    let again = create(&machine, SECRET, &[])?;
    ensure!(again.code == 0 && again.err.contains("already"), "{again}");

    let deploy = format!("app deploy --image {image} --name web --wait --update-contents keep --secret db_password");
    ok(&machine, &format!("{deploy} --secret source=db_password,target=/etc/key,uid=7,gid=8,mode=0400"))?;
    let seen =
        sh(&machine, "cat /run/secrets/db_password; stat -c ' %a %u %g' /run/secrets/db_password /etc/key")?.ok()?;
    ensure!(seen == format!("{SECRET} 444 0 0\n 400 7 8\n"), "{seen}");
    for script in ["echo no >/run/secrets/db_password", "rm /etc/key", "mount -o remount,rw /etc/key"] {
        ensure!(sh(&machine, script)?.code != 0, "{script} was let");
    }

    // Nowhere on the disk but in the store, which is root's alone; in nothing that is said.
    let dir = machine.sandbox.dir().to_owned();
    let files: Vec<_> = found(&dir)?.into_iter().filter(|path| !path.ends_with("/hivemind/state/store.redb")).collect();
    ensure!(files.is_empty(), "the secret is in {files:?}");
    let mode = shell::output(Command::new("stat").args(["-c", "%a"]).arg(dir.join("hivemind/state/store.redb")))?;
    ensure!(mode.trim() == "600", "others may read the store: {mode}");
    for line in [
        "secret info db_password",
        "secret info db_password -o json",
        "secret ls -o json",
        "app info web -o json",
        "app ls -o json",
        "ps -o json",
        "events",
        "events -o json",
    ] {
        let said = run(&machine, line)?;
        let text = format!("{}{}", said.out, said.err);
        ensure!(said.code == 0 && !text.contains(SECRET) && !text.contains(SECRET_BASE64), "{said}");
    }
    for path in ["/v1/secrets", "/v1/tenants/default/namespaces/default/secrets/db_password", "/metrics"] {
        let said = machine.daemon.get(path)?;
        ensure!(!said.contains(SECRET) && !said.contains(SECRET_BASE64), "{path}: {said}");
    }
    let specs = machine.containerd.ctr(&["containers", "ls", "-q"])?;
    for id in specs.lines() {
        let info = machine.containerd.ctr(&["containers", "info", id])?;
        ensure!(!info.contains(SECRET) && !info.contains(SECRET_BASE64), "{info}");
    }

    // A daemon that comes again finds it; another content is a new version, for who starts anew.
    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    let other = create(&machine, "other", &[])?;
    ensure!(other.code == 4 && other.err.contains("E-OBJ-002") && other.err.contains("--replace"), "{other}");
    create(&machine, "other", &["--replace"])?.ok()?;
    ensure!(sh(&machine, "cat /run/secrets/db_password")?.ok()? == SECRET, "it changed under a process");
    ensure!(ok(&machine, "app info web")?.contains("older content than there is of secret db_password"));
    let running = pids(&machine)?;
    let pid = running.iter().next().context("nothing runs")?;
    shell::output(Command::new("kill").args(["-KILL", pid]))?;
    wait::until("another process", PATIENCE, || {
        let now = pids(&machine)?;
        ensure!(now.len() == 1 && now != running, "{now:?}");
        Ok(())
    })?;
    until_ready(&machine, "web", 1)?;
    ensure!(sh(&machine, "cat /run/secrets/db_password")?.ok()? == "other");
    // Its process has the newest by now, and a daemon that comes again knows it.
    ensure!(!ok(&machine, "app info web")?.contains("older content"));
    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    ensure!(!ok(&machine, "app info web")?.contains("older content"));

    // An app that is replaced for it has it at once.
    ok(&machine, &deploy.replace("--update-contents keep", "--update-contents replace"))?;
    let changed = create(&machine, "third", &["--replace"])?;
    ensure!(changed.code == 0 && changed.err.contains("web gets new instances"), "{changed}");
    wait::until("the new content", PATIENCE, || {
        let seen = sh(&machine, "cat /run/secrets/db_password")?;
        ensure!(seen.out == "third", "{seen}");
        Ok(())
    })?;
    until_ready(&machine, "web", 1)?;

    refused(&machine, "secret rm db_password", 4, "E-OBJ-002", &["app web", "instance web-"])?;
    ok(&machine, "app rm web --wait")?;
    ok(&machine, "secret rm db_password")?;
    refused(&machine, "secret rm db_password", 3, "E-OBJ-001", &["hivemind secret ls"])?;
    let faults = ["there is no secret db_password", "hivemind secret create db_password"];
    refused(&machine, &deploy, 2, "E-SPEC-001", &faults)?;
    before.again(&machine)?;
    machine.close()
}

#[test]
fn a_config_is_shown_and_is_a_file_where_it_is_wanted() -> Result<()> {
    let (machine, image) = machine("configs")?;
    let site = file(machine.daemon.dir(), "site", "listen 80;\n")?;
    ok(&machine, &format!("config create site.conf --file {site} --label team=blue"))?;
    ensure!(ok(&machine, "config show site.conf")? == "listen 80;\n");
    ok(
        &machine,
        &format!("app deploy --image {image} --name web --wait --config site.conf --config site.conf:/etc/site"),
    )?;
    let seen = sh(&machine, "cat /site.conf /etc/site")?.ok()?;
    ensure!(seen == "listen 80;\nlisten 80;\n", "{seen}");
    let table = ok(&machine, "config ls")?;
    ensure!(table.lines().count() == 2 && table.contains("team=blue") && table.contains("web"), "{table}");
    ensure!(ok(&machine, "secret ls -o name")?.is_empty(), "a config is listed among the secrets");
    refused(&machine, "config show site", 3, "E-OBJ-001", &["did you mean site.conf?"])?;
    refused(&machine, "config rm site.conf", 4, "E-OBJ-002", &["app web"])?;
    ok(&machine, "namespace create prod")?;
    ok(&machine, &format!("config create site.conf --file {site} -n prod"))?;
    refused(&machine, "namespace rm prod", 4, "E-OBJ-002", &["config default/prod/site.conf"])?;
    // A file of more than there may be.
    let long = file(machine.daemon.dir(), "long", &"x".repeat(512_001))?;
    refused(&machine, &format!("config create long --file {long}"), 2, "E-SPEC-001", &["512000"])?;
    ok(&machine, "app rm web --wait")?;
    ok(&machine, "config rm site.conf")?;
    machine.close()
}
