//! Credential helpers: asked as Docker asks them, with little to do harm with.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Result, ensure};
use base64::{Engine as _, engine::general_purpose};
use hivemind_tests::unique;
use serde_json::json;
use xtask::{
    daemon::{Daemon, Said},
    image,
    machine::Machine,
    registry::{Access, PASSWORD, Registry, USER},
    wait::Stopwatch,
};

/// Found nowhere else on the machine.
const SECRET: &str = "what-a-helper-says-is-nobodys-business";

/// Writes a helper.
fn helper(dir: &Path, name: &str, script: &str) -> Result<()> {
    let file = dir.join(format!("docker-credential-{name}"));
    fs::write(&file, format!("#!/bin/sh\n{script}\n"))?;
    Ok(fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?)
}

fn refused(said: &Said, words: &[&str]) -> Result<()> {
    ensure!(said.err.contains("error[E-IMG-003]") && said.code == 5, "{said}");
    for word in words {
        ensure!(said.err.contains(word), "{word:?} is not said: {said}");
    }
    Ok(())
}

#[test]
fn helpers_give_credentials_and_no_secret_is_told() -> Result<()> {
    let mut machine = Machine::prepare(&unique("helpers"), &[])?;
    let locked = Registry::start(&machine.sandbox, 5001, Access::Password)?;
    let image = locked.push(&machine.sandbox, &image::web()?, "web", "1")?;
    let dir = machine.sandbox.dir().join("helpers");
    fs::create_dir_all(&dir)?;
    // Whoever the file belongs to runs the helpers: they must be able to reach them and to write what they have seen.
    let owner = 65534;
    fs::set_permissions(machine.sandbox.dir(), fs::Permissions::from_mode(0o755))?;
    let seen = dir.join("seen");
    fs::create_dir_all(&seen)?;
    std::os::unix::fs::chown(&seen, Some(owner), Some(owner))?;
    let (auth, path) = (dir.join("config.json"), dir.display().to_string());
    let pair = json!({ "ServerURL": locked.host(), "Username": USER, "Secret": PASSWORD });
    let note = format!(
        "read -r server; {{ echo \"$1 $server $(id -u)\"; env; grep NoNewPrivs /proc/self/status; }} >{}/note",
        seen.display()
    );
    helper(&dir, "good", &format!("{note}\necho '{pair}'"))?;
    helper(&dir, "empty", "echo 'credentials not found in native keychain'; exit 1")?;
    helper(&dir, "bad", &format!("echo {SECRET}; echo {SECRET} >&2; exit 7"))?;
    helper(&dir, "odd", &format!("echo {SECRET}"))?;
    helper(&dir, "slow", "sleep 1000")?;
    helper(&dir, "open", &format!("echo '{pair}'"))?;
    fs::set_permissions(dir.join("docker-credential-open"), fs::Permissions::from_mode(0o777))?;
    let ask = |name: &str| -> Result<()> {
        fs::write(&auth, json!({ "credHelpers": { locked.host(): name } }).to_string())?;
        std::os::unix::fs::chown(&auth, Some(owner), Some(owner))?;
        Ok(fs::set_permissions(&auth, fs::Permissions::from_mode(0o600))?)
    };
    ask("good")?;
    let flags = ["--registry-auth", &auth.display().to_string(), "--log-level", "trace"];
    machine.daemon = Daemon::new(&machine.sandbox, &machine.containerd.socket(), &[locked.host()], &flags)?;
    machine.daemon.set_variable("PATH", Some(format!("{path}:/usr/sbin:/usr/bin:/sbin:/bin")));
    machine.daemon.set_variable("OF_THE_DAEMON", Some("not for others".into()));
    machine.daemon.start(&machine.sandbox)?;
    let pull = || machine.hivemind(&["image", "pull", &image]);

    pull()?.ok()?;
    let note = fs::read_to_string(seen.join("note"))?;
    ensure!(note.starts_with(&format!("get {} {owner}\n", locked.host())), "{note}");
    ensure!(note.contains("NoNewPrivs:\t1") && !note.contains("OF_THE_DAEMON"), "{note}");

    ask("empty")?;
    refused(&pull()?, &["none are configured"])?;
    for (name, words) in [
        ("bad", &["docker-credential-bad", "code 7"][..]),
        ("odd", &["no JSON"]),
        ("none", &["no docker-credential-none"]),
        ("../none", &["no name of a helper"]),
        ("open", &["chmod go-w"]),
    ] {
        ask(name)?;
        refused(&pull()?, words)?;
    }
    ask("good")?;
    fs::set_permissions(&auth, fs::Permissions::from_mode(0o622))?;
    refused(&pull()?, &["chmod go-w", "config.json"])?;
    ask("slow")?;
    let begun = Stopwatch::start();
    refused(&pull()?, &["has not answered for 20 s"])?;
    ensure!(begun.elapsed().as_secs() < 40, "it was waited for");

    // The general store is asked where the file has nothing of its own.
    fs::write(&auth, json!({ "auths": { locked.host(): {} }, "credsStore": "good" }).to_string())?;
    fs::set_permissions(&auth, fs::Permissions::from_mode(0o600))?;
    pull()?.ok()?;
    let log = machine.daemon.log();
    ensure!(log.contains("TRACE") || log.contains("DEBUG"), "the log is not at its most talkative");
    let said = machine.hivemind(&["events"])?;
    let basic = general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    for secret in [SECRET, &basic] {
        ensure!(!log.contains(secret) && !said.out.contains(secret), "{secret} is told");
    }
    machine.close()
}
