//! What was said of a container, as it is seen from inside.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hivemind_tests::{PATIENCE, instances, machine, until_ready};
use tokio::time::Instant;
use xtask::{machine::Machine, shell, wait};

use crate::hosts::Upstream;

/// Deploys `name` with these flags, and waits until it is ready.
fn deploy(machine: &Machine, image: &str, name: &str, flags: &[&str]) -> Result<()> {
    let args = ["app", "deploy", "--image", image, "--name", name, "--wait"];
    machine.hivemind(&[&args[..], flags].concat())?.ok().map(drop)
}

/// What a shell in `app` prints, whatever its exit code.
fn inside(machine: &Machine, app: &str, script: &str) -> Result<String> {
    let said = machine.hivemind(&["exec", app, "--", "sh", "-c", &format!("{{ {script}; }} 2>&1")])?;
    Ok(said.out.trim_end().to_owned())
}

/// Each script prints what stands beside it.
fn prints(machine: &Machine, app: &str, cases: &[(&str, &str)]) -> Result<()> {
    for (script, expected) in cases {
        let found = inside(machine, app, script)?;
        ensure!(found.contains(expected), "{app}: {script}: {found:?} instead of {expected:?}");
    }
    Ok(())
}

/// Waits until the only instance of `app` says this.
fn until_says(machine: &Machine, app: &str, phase: &str, words: &str) -> Result<()> {
    wait::until(&format!("{app} to be {phase}: {words}"), PATIENCE, || {
        let shown = machine.hivemind(&["ps", app, "-o", "json"])?.json()?;
        let said = shown[0]["message"].as_str().is_some_and(|message| message.contains(words));
        ensure!(shown[0]["phase"] == phase && said, "{shown}");
        Ok(())
    })
}

#[test]
fn what_is_said_of_a_container_is_seen_inside() -> Result<()> {
    let (machine, image) = machine("options")?;
    let flags = "--hostname box --domainname example.org --read-only --tmpfs /www:size=1m,mode=0750,gid=7 --shm-size 8m \
                 --cap-drop ALL --cap-add NET_BIND_SERVICE --ulimit nofile=77:99 --sysctl net.core.somaxconn=77 --init \
                 --device /dev/kmsg:/dev/log0:w --add-host db:192.0.2.7 --add-host node:host-gateway --group-add 4242 \
                 --dns-search example.org --dns-option ndots:3 --oom-score-adj 77";
    deploy(&machine, &image, "web", &flags.split_whitespace().collect::<Vec<_>>())?;
    prints(
        &machine,
        "web",
        &[
            ("hostname; cat /proc/sys/kernel/domainname", "box\nexample.org"),
            ("touch /x", "Read-only file system"),
            ("touch /www/x /run/x /dev/shm/x && echo written", "written"),
            ("df -k /dev/shm | tail -n 1 | awk '{print $2}'", "8192"),
            ("df -k /www | tail -n 1 | awk '{print $2}'", "1024"),
            ("stat -c '%a %g' /www", "750 7"),
            // Bit 10.
            ("grep CapEff /proc/1/status", "0000000000000400"),
            // Of process 1: runc's own language raises the soft limit of what is run besides it.
            ("grep 'open files' /proc/1/limits | tr -s ' '", "Max open files 77 99"),
            ("cat /proc/sys/net/core/somaxconn", "77"),
            ("grep NoNewPrivs /proc/1/status | tr -d '\t'", "NoNewPrivs:1"),
            ("tr '\\0' ' ' </proc/1/cmdline", "/dev/.hivemind-init reap -- /serve"),
            (": >/dev/log0 && echo opened", "opened"),
            (": </dev/log0", "Operation not permitted"),
            ("cat /etc/hosts", "192.0.2.7\tdb\n10.88.0.1\tnode\n"),
            ("cat /etc/hosts", "\tbox.example.org box\n"),
            ("cat /etc/resolv.conf", "search example.org\noptions ndots:3"),
            ("grep Groups /proc/1/status", "4242"),
            ("cat /proc/1/oom_score_adj", "77"),
        ],
    )?;
    // The same without a word.
    deploy(&machine, &image, "plain", &["--entrypoint", "sleep", "--", "1d"])?;
    prints(
        &machine,
        "plain",
        &[
            ("hostname", "plain-"),
            ("touch /x && echo written", "written"),
            ("df -k /dev/shm | tail -n 1 | awk '{print $2}'", "65536"),
            ("grep CapEff /proc/1/status", "00000000a80425fb"),
            ("mknod /k c 1 11 && : >/k", "Operation not permitted"),
            ("tr '\\0' ' ' </proc/1/cmdline", "sleep 1d"),
            ("mount -t tmpfs none /tmp", "are you root?"),
        ],
    )?;
    machine.close()
}

#[test]
fn rights_are_given_and_taken() -> Result<()> {
    let (machine, image) = machine("rights")?;
    let sleeps = |flags: &[&'static str]| [flags, &["--entrypoint", "sleep", "--", "1d"]].concat();
    deploy(&machine, &image, "admin", &sleeps(&["--cap-add", "SYS_ADMIN"]))?;
    // The capability brings its system calls.
    prints(&machine, "admin", &[("mount -t tmpfs x /tmp && echo mounted", "mounted")])?;

    let profile = machine.sandbox.dir().join("profile.json");
    let rule = r#"{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28, "includes": {}}"#;
    std::fs::write(&profile, format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}"#))?;
    let option = format!("seccomp={}", profile.display());
    let own =
        ["--security-opt", &option, "--security-opt", "no-new-privileges=false", "--entrypoint", "sleep", "--", "1d"];
    deploy(&machine, &image, "own", &own)?;
    prints(
        &machine,
        "own",
        &[("mkdir /tmp/x", "No space left"), ("grep NoNewPrivs /proc/1/status | tr -d '\t'", "NoNewPrivs:0")],
    )?;

    deploy(&machine, &image, "all", &sleeps(&["--privileged"]))?;
    prints(
        &machine,
        "all",
        &[
            ("grep ' /sys ' /proc/mounts", "sysfs rw,"),
            ("grep Seccomp: /proc/1/status | tr -d '\t'", "Seccomp:0"),
            (": >/dev/kmsg && echo opened", "opened"),
        ],
    )?;
    machine.close()
}

#[test]
fn a_terminal_an_open_input_and_process_one() -> Result<()> {
    let (machine, image) = machine("first")?;
    let script =
        |flags: &[&'static str], script: &'static str| [flags, &["--entrypoint", "sh", "--", "-c", script]].concat();
    let log = |app: &str| machine.hivemind(&["logs", app])?.ok();
    deploy(&machine, &image, "terminal", &script(&["-t"], "test -t 0 && test -t 1 && echo has one; sleep 1d"))?;
    wait::until("what it writes", PATIENCE, || {
        let said = log("terminal")?;
        ensure!(said.contains("has one"), "{said:?}");
        Ok(())
    })?;

    let reads = "echo reads; cat; echo has ended; sleep 1d";
    deploy(&machine, &image, "open", &script(&["-i"], reads))?;
    deploy(&machine, &image, "closed", &script(&[], reads))?;
    wait::until("the end of an empty input", PATIENCE, || {
        let said = log("closed")?;
        ensure!(said.contains("has ended"), "{said:?}");
        Ok(())
    })?;
    let said = log("open")?;
    ensure!(said.contains("reads") && !said.contains("has ended"), "{said:?}");

    // A process whose parent has ended is process 1's, which sleeps and takes care of nobody.
    let orphan = "(sleep 0.1 &); exec sleep 1d";
    let zombies = |app: &str| inside(&machine, app, "grep -c 'State:.Z' /proc/[0-9]*/status | grep -c ':1$'");
    deploy(&machine, &image, "without", &script(&[], orphan))?;
    wait::until("an orphan that nobody takes", PATIENCE, || {
        let found = zombies("without")?;
        ensure!(found == "1", "{found}");
        Ok(())
    })?;
    deploy(&machine, &image, "with", &script(&["--init"], orphan))?;
    wait::until("the orphan to be taken", PATIENCE, || {
        let found = zombies("with")?;
        let processes = inside(&machine, "with", "ls -d /proc/[0-9]*")?;
        ensure!(found == "0" && processes.contains("/proc/1\n"), "{found}: {processes}");
        Ok(())
    })?;

    // Signals and codes go through it.
    let begun = Instant::now();
    let trap = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
    deploy(&machine, &image, "trap", &script(&["--init", "--stop-grace", "1m", "--stop-signal", "SIGTERM"], trap))?;
    machine.hivemind(&["app", "rm", "trap", "--wait"])?.ok()?;
    ensure!(begun.elapsed() < Duration::from_secs(50), "the signal did not reach it: {:?}", begun.elapsed());
    let args = ["app", "deploy", "--image", &image, "--name", "code", "--init", "--restart", "never"];
    machine.hivemind(&[&args[..], &["--entrypoint", "sh", "--", "-c", "exit 7"]].concat())?.ok()?;
    until_says(&machine, "code", "failed", "exited with code 7")?;
    machine.close()
}

#[test]
fn hooks_run_after_the_begin_and_before_the_signal() -> Result<()> {
    let (mut machine, image) = machine("hooks")?;
    deploy(&machine, &image, "web", &["--post-start", "echo one >>/hooked", "--post-start", "echo two >>/hooked"])?;
    prints(&machine, "web", &[("cat /hooked", "one\ntwo")])?;

    let args = ["app", "deploy", "--image", &image, "--name", "bad", "--post-start", "echo it is broken >&2; exit 3"];
    machine.hivemind(&args)?.ok()?;
    until_says(
        &machine,
        "bad",
        "backoff",
        "post-start hook failed: /bin/sh ended with 3: it is broken; started again",
    )?;
    ensure!(instances(&machine, "bad")?.iter().all(|instance| instance.restarts > 0), "it was not started again");
    machine.hivemind(&["app", "rm", "bad", "--wait"])?.ok()?;

    deploy(&machine, &image, "after", &["--pre-start", "echo first", "--pre-start", "echo second"])?;
    let log = machine.hivemind(&["logs", "after"])?.ok()?;
    let at = |word: &str| log.find(word).with_context(|| format!("no {word}: {log}"));
    ensure!(at("first")? < at("second")? && at("second")? < at("serves on")?, "{log}");
    machine.hivemind(&["app", "deploy", "--image", &image, "--name", "never", "--pre-start", "exit 5"])?.ok()?;
    until_says(&machine, "never", "backoff", "pre-start 1 of 1 exited with code 5; started again")?;
    machine.hivemind(&["app", "rm", "never", "--wait"])?.ok()?;

    // It may take as long as the stop, and no longer; and a stop goes on when it fails.
    let slow = ["--pre-stop", "echo bye; exit 4", "--pre-stop", "sleep 1d", "--stop-grace", "3s"];
    deploy(&machine, &image, "slow", &slow)?;
    let begun = Instant::now();
    machine.hivemind(&["app", "rm", "slow", "--wait"])?.ok()?;
    ensure!(begun.elapsed() >= Duration::from_secs(3), "the hook was not waited for: {:?}", begun.elapsed());
    let events = machine.hivemind(&["events", "-o", "json"])?.ok()?;
    for words in ["/bin/sh ended with 4: bye; the stop goes on", "/bin/sh did not end within the time of the stop"] {
        ensure!(events.contains(words), "no {words:?}: {events}");
    }

    // One that was not noted as done is done again, whoever died.
    let hook = "echo tried >>/tries; sleep 3; echo done >/done";
    machine.hivemind(&["app", "deploy", "--image", &image, "--name", "late", "--post-start", hook])?.ok()?;
    let tries = |machine: &Machine| inside(machine, "late", "cat /tries");
    wait::until("the hook to begin", PATIENCE, || {
        let said = tries(&machine)?;
        ensure!(said == "tried", "{said}");
        Ok(())
    })?;
    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    until_ready(&machine, "late", 1)?;
    prints(&machine, "late", &[("cat /tries /done", "tried\ntried\ndone")])?;
    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    until_ready(&machine, "late", 1)?;
    prints(&machine, "late", &[("grep -c tried /tries", "2")])?;
    machine.close()
}

#[test]
fn devices_of_cdi_come_with_all_that_their_vendor_says() -> Result<()> {
    let (machine, image) = machine("cdi")?;
    let file = r#"{
        "cdiVersion": "0.6.0", "kind": "example.com/log",
        "containerEdits": {"mounts": [
            {"hostPath": "/etc/hostname", "containerPath": "/vendor", "options": ["ro", "bind"]}
        ]},
        "devices": [{"name": "first", "containerEdits": {
            "env": ["LOG=first"], "deviceNodes": [{"path": "/dev/log1", "hostPath": "/dev/kmsg", "permissions": "w"}]
        }}]
    }"#;
    let write = "mkdir -p /var/run/cdi && printf %s \"$1\" >/var/run/cdi/log.json";
    shell::output(machine.sandbox.command("sh").args(["-c", write, "sh", file]))?;
    deploy(&machine, &image, "web", &["--device", "example.com/log=first"])?;
    prints(
        &machine,
        "web",
        &[
            ("echo $LOG", "first"),
            (": >/dev/log1 && echo opened", "opened"),
            ("test -s /vendor && echo there", "there"),
        ],
    )?;
    let args = ["app", "deploy", "--image", &image, "--name", "none", "--device", "example.com/log=second"];
    machine.hivemind(&args)?.ok()?;
    until_says(&machine, "none", "backoff", "no CDI device example.com/log=second; of example.com/log it has: first")?;
    machine.close()
}

#[test]
fn an_app_asks_its_own_name_servers_and_still_finds_services() -> Result<()> {
    let (machine, image) = machine("resolver")?;
    let _upstream = Upstream::start(&machine, "127.0.0.53:53")?;
    let sleeps = ["--entrypoint", "sleep", "--", "1d"];
    deploy(&machine, &image, "web", &["--service", "web.local"])?;
    deploy(&machine, &image, "own", &[&["--dns", "127.0.0.53"][..], &sleeps].concat())?;
    deploy(&machine, &image, "nodes", &sleeps)?;
    let look = "nslookup -type=a edge.example.net";
    prints(&machine, "own", &[(look, "192.0.2.2"), ("nslookup -type=a web.local", "10.96.")])?;
    let found = inside(&machine, "nodes", look)?;
    ensure!(!found.contains("192.0.2.2"), "the node's own servers were not asked: {found}");
    machine.close()
}

#[test]
fn what_cannot_be_is_said_at_once_or_by_the_instance() -> Result<()> {
    let (machine, image) = machine("cannot")?;
    let args = |flags: &[&'static str]| [&["app", "deploy", "--image", &image, "--name", "web"][..], flags].concat();
    // All faults of the document together, with the code of documents.
    let flags = ["--cap-add", "NOPE", "--sysctl", "kernel.panic=1", "--tmpfs", "/proc", "--hostname", "a..b"];
    let said = machine.hivemind(&args(&flags))?;
    ensure!(said.code == 2 && said.err.contains("error[E-SPEC-001]"), "{said}");
    for field in ["container.cap_add", "container.sysctls", "container.tmpfs", "container.hostname"] {
        ensure!(said.err.contains(field), "no {field}: {said}");
    }
    for flags in [
        &["--ulimit", "nofile"][..],
        &["--add-host", "db"],
        &["--tmpfs", "/x:huge"],
        &["--security-opt", "label=disable"],
        &["--security-opt", "seccomp=/nonexistent"],
        &["--dns", "dns.example.org"],
    ] {
        let said = machine.hivemind(&args(flags))?;
        ensure!(said.code == 2 && said.err.contains("error"), "{said}");
    }
    ensure!(machine.hivemind(&["ps", "-o", "json"])?.json()? == serde_json::json!([]), "something was made");
    // What only the node knows.
    for (flags, words) in [
        (&["--device", "/dev/none"][..], "the device /dev/none cannot be looked at: No such file"),
        (&["--device", "/etc/hosts"], "/etc/hosts is neither a device nor a folder of devices"),
        (&["--group-add", "nobody-has-this"], "the image has no group \"nobody-has-this\""),
    ] {
        machine.hivemind(&args(flags))?.ok()?;
        until_says(&machine, "web", "backoff", words)?;
        machine.hivemind(&["app", "rm", "web", "--wait"])?.ok().context("nothing runs")?;
    }
    machine.close()
}
