//! `hivemind cp`, both ways.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use hivemind_tests::{PATIENCE, machine};
use xtask::{machine::Machine, shell, wait};

/// What a line of shell says in an instance.
fn inside(machine: &Machine, app: &str, script: &str) -> Result<String> {
    machine.hivemind(&["exec", app, "--", "sh", "-c", script])?.ok()
}

#[test]
fn folders_go_in_and_come_out_as_they_were() -> Result<()> {
    let (machine, image) = machine("cp")?;
    machine.hivemind(&["app", "deploy", "--image", &image, "--name", "web", "--wait"])?.ok()?;
    let dir = machine.sandbox.dir().join("copies");
    let site = dir.join("site");
    fs::create_dir_all(site.join("deep"))?;
    fs::write(site.join("deep/page"), "words\n")?;
    // In this order: a change of the owner takes set-user-ID away.
    std::os::unix::fs::chown(site.join("deep/page"), Some(101), Some(102))?;
    fs::set_permissions(site.join("deep/page"), fs::Permissions::from_mode(0o4750))?;
    symlink("deep/page", site.join("link"))?;
    nix::unistd::mkfifo(&site.join("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o600))?;
    let text = |path: &std::path::Path| path.display().to_string();

    // Into a folder that is there, and under a name that is not.
    let said = machine.hivemind(&["cp", &text(&site), "web:/tmp"])?;
    ensure!(said.code == 0 && said.err.contains("left out site/pipe"), "{said}");
    machine.hivemind(&["cp", &text(&site.join(".")), "web:/new"])?.ok()?;
    for path in ["/tmp/site", "/new"] {
        let seen =
            inside(&machine, "web", &format!("cd {path}; stat -c '%a %u %g' deep/page; readlink link; cat link"))?;
        ensure!(seen == "4750 101 102\ndeep/page\nwords\n", "{path}: {seen}");
    }
    machine.hivemind(&["cp", "web:/tmp/site/deep/page", &text(&dir.join("one"))])?.ok()?;
    machine.hivemind(&["cp", "web:/new", &text(&dir)])?.ok()?;
    ensure!(fs::read_to_string(dir.join("one"))? == "words\n");
    let page = fs::metadata(dir.join("new/deep/page"))?;
    let before = fs::metadata(site.join("deep/page"))?;
    ensure!((page.mode(), page.uid(), page.gid()) == (before.mode(), 101, 102) && page.mtime() == before.mtime());
    ensure!(fs::read_link(dir.join("new/link"))?.as_os_str() == "deep/page");

    // All of it, but for what the kernel makes when it is read.
    let said = machine.hivemind(&["cp", "web:/", &text(&dir.join("all"))])?;
    ensure!(said.code == 0 && said.err.contains("proc: the kernel makes it when it is read"), "{said}");
    ensure!(dir.join("all/new/deep/page").is_file() && !dir.join("all/proc").exists(), "{said}");

    // As a stream, which tar understands, and back.
    let mut out = machine.daemon.command(&machine.sandbox, &["cp", "web:/new", "-"]);
    let mut out = out.stdout(Stdio::piped()).spawn()?;
    let listed = Command::new("tar").arg("t").stdin(out.stdout.take().context("a pipe")?).output()?;
    ensure!(out.wait()?.success() && listed.status.success(), "{listed:?}");
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    ensure!(names.lines().any(|line| line == "new/deep/page"), "{names}");
    let mut tar = Command::new("tar").arg("-C").arg(&site).args(["-c", "deep"]).stdout(Stdio::piped()).spawn()?;
    let mut back = machine.daemon.command(&machine.sandbox, &["cp", "-", "web:/tmp"]);
    let back = back.stdin(tar.stdout.take().context("a pipe")?).stdout(Stdio::null()).output()?;
    tar.wait()?;
    ensure!(back.status.success(), "{back:?}");
    ensure!(inside(&machine, "web", "cat /tmp/deep/page")? == "words\n");

    for (args, code, word) in [
        (["cp", "web:/nowhere", "x"], 3, "does not exist"),
        (["cp", "nobody:/etc", "x"], 3, "E-OBJ-001"),
        (["cp", "/nowhere", "web:/tmp"], 3, "does not exist here"),
        (["cp", "web:/dev/null", "x"], 1, "a device"),
        (["cp", "web:/etc", "web:/tmp"], 2, "one must be here"),
        (["cp", "web:/etc", "/nowhere/deep/"], 3, "does not exist here"),
        // The kernel has no room for new files there, and says that there is no such place.
        (["cp", "/etc/hostname", "web:/proc/hostname"], 3, "does not exist"),
    ] {
        let said = machine.hivemind(&args)?;
        ensure!(said.code == code && said.err.contains(word), "{said}");
    }
    // 64 MB are what /dev/shm holds: nothing half done stays in it.
    fs::write(dir.join("big"), vec![1; 80 << 20])?;
    let full = machine.hivemind(&["cp", &text(&dir.join("big")), "web:/dev/shm"])?;
    ensure!(full.code == 1 && full.err.contains("E-DISK-001"), "{full}");
    ensure!(inside(&machine, "web", "ls -A /dev/shm")?.is_empty());
    fs::remove_dir_all(&dir)?;
    machine.close()
}

#[test]
fn no_link_leads_out_whatever_the_instance_does() -> Result<()> {
    let (machine, image) = machine("cp-out")?;
    let dir = machine.sandbox.dir().join("outside");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("page"), "secret")?;
    // A folder that is a link to a folder of the host every other moment.
    let out = dir.display();
    let script = format!(
        "mkdir -p /a; echo own > /a/page; ln -s {out} /b; ln -s ../../../../../../../..{out} /c; touch /begun; \
         while :; do mv /a /d; mv /d /a; mv /b /d; mv /d /b; done"
    );
    let args = ["app", "deploy", "--image", &image, "--name", "evil", "--entrypoint", "sh", "--wait", "--", "-c"];
    machine.hivemind(&[&args[..], &[&script]].concat())?.ok()?;
    wait::until("the loop to begin", PATIENCE, || inside(&machine, "evil", "test -e /begun").map(drop))?;
    let here = machine.sandbox.dir().join("here");
    fs::create_dir_all(&here)?;
    fs::write(here.join("new"), "new")?;
    let (to, new) = (here.display().to_string(), here.join("new").display().to_string());
    let mut own = 0;
    for round in 0..20 {
        for path in ["/d/page", "/d", "/c/page", "/b/page"] {
            // It may be there or not in that moment; what comes is the instance's own.
            machine.hivemind(&["cp", &format!("evil:{path}"), &to])?;
        }
        machine.hivemind(&["cp", &new, "evil:/d/new"])?;
        machine.hivemind(&["cp", &new, "evil:/c/new"])?;
        let said = machine.hivemind(&["cp", "evil:/a/page", &to])?;
        own += u32::from(said.code == 0 || said.code == 3);
        let found =
            shell::output(Command::new("grep").args(["-rls", "secret", &to]).arg("/dev/null")).unwrap_or_default();
        ensure!(found.is_empty(), "in round {round}, what is outside came in: {found}");
        ensure!(fs::read_dir(&dir)?.count() == 1, "in round {round}, something was written outside");
    }
    ensure!(own == 20, "only {own} copies were answered as they should");
    machine.close()
}
