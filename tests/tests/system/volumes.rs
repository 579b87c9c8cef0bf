//! Volumes and mounts: filled once, kept, shared, refused, removed, and nothing left behind.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use hivemind_tests::{Census, PATIENCE, machine, pids, until_ready};
use serde_json::{Value, json};
use xtask::{
    daemon::Said,
    image::{self, Config, Image},
    machine::Machine,
    wait,
};

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
    ensure!(said.code == exit && said.err.contains(&format!("error[{code}]")), "{said}");
    for word in words {
        ensure!(said.err.contains(word), "{word:?} is not said: {said}");
    }
    Ok(())
}

/// A shell's command in an instance of the app.
fn sh(machine: &Machine, app: &str, script: &str) -> Result<Said> {
    machine.hivemind(&["exec", app, "--", "sh", "-c", script])
}

/// An image with a folder of its own content, which it declares as a volume.
fn stocked(machine: &Machine) -> Result<String> {
    let mut files = image::busybox()?;
    files
        .file("stock/plain", 0o644, "from the image\n")
        .file("stock/sub/private", 0o640, "x")
        .dir("stock/empty", 0o1777);
    files.link("stock/link", "/etc/passwd").dir("declared", 0o750).file("declared/first", 0o600, "1\n");
    let config = Config {
        entrypoint: vec!["sleep".into()],
        command: vec!["1d".into()],
        stop_signal: "SIGKILL".into(),
        volumes: vec!["/declared".into()],
        ..Config::default()
    };
    machine.push(&Image::new(&[&files], &config)?, "stocked", "1")
}

/// The folder that the daemon says a volume has.
fn folder(machine: &Machine, volume: &str) -> Result<String> {
    let shown = json(machine, &format!("volume info {volume}"))?;
    shown["path"].as_str().map(str::to_owned).context("no path")
}

/// Kills an app's only process and waits until it runs again in another container.
fn crash(machine: &Machine, app: &str) -> Result<()> {
    let before = pids(machine)?;
    let pid = before.iter().next().context("nothing runs")?;
    xtask::shell::output(std::process::Command::new("kill").args(["-KILL", pid]))?;
    wait::until("another process", PATIENCE, || {
        let now = pids(machine)?;
        ensure!(now.len() == before.len() && now != before, "{now:?}");
        Ok(())
    })?;
    until_ready(machine, app, 1).map(drop)
}

#[test]
fn a_volume_is_filled_once_and_outlives_everything_but_its_removal() -> Result<()> {
    let (mut machine, _) = machine("volumes")?;
    let image = stocked(&machine)?;
    let deploy = format!("app deploy --image {image} --name box --wait --stop-grace 1s");
    ok(&machine, &deploy)?;
    ok(&machine, "app rm box --wait")?;
    let before = Census::take(&machine)?;

    // An app brings the volume it names.
    ok(&machine, &format!("{deploy} --volume data:/stock"))?;
    let listed = sh(&machine, "box", "cd /stock; stat -c '%n %a %F' * sub/private; cat plain; readlink link")?.ok()?;
    let expected = "empty 1777 directory\nlink 777 symbolic link\nplain 644 regular file\nsub 755 directory\n\
                    sub/private 640 regular file\nfrom the image\n/etc/passwd\n";
    ensure!(listed == expected, "{listed}");
    sh(
        &machine,
        "box",
        "echo changed >/stock/plain; rm /stock/sub/private; echo kept >/stock/new; echo 2 >/declared/second",
    )?
    .ok()?;

    // Kept over a crash of the process, which is another container, and not filled again.
    crash(&machine, "box")?;
    let kept = |machine: &Machine| -> Result<()> {
        let seen = sh(machine, "box", "cat /stock/plain /stock/new; ls /stock/sub")?.ok()?;
        ensure!(seen == "changed\nkept\n", "{seen:?}");
        Ok(())
    };
    kept(&machine)?;
    let declared = sh(&machine, "box", "cat /declared/first /declared/second")?.ok()?;
    ensure!(declared == "1\n2\n", "what the image declares as a volume does not outlive a container: {declared:?}");
    // Over the daemon's death, other instances, and the app's removal.
    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    kept(&machine)?;
    ok(&machine, "app restart box --wait")?;
    kept(&machine)?;
    ensure!(sh(&machine, "box", "cat /declared/second")?.code != 0, "another instance has the first one's own volume");
    ok(&machine, "app rm box --wait")?;
    ok(&machine, &format!("{deploy} --volume data:/stock"))?;
    kept(&machine)?;

    // Who uses it is named.
    refused(
        &machine,
        "volume delete --name data",
        4,
        "E-OBJ-002",
        &["app box", "instance box-", "hivemind app rm box"],
    )?;
    let info = json(&machine, "volume info --name data")?;
    ensure!(info["used_by"][0] == "app box" && info["usage"]["complete"] == true, "{info}");
    ensure!(info["usage"]["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{info}");
    let path = folder(&machine, "data")?;
    ensure!(fs::read_to_string(Path::new(&path).join("new"))? == "kept\n");
    ok(&machine, "app rm box --wait")?;
    ok(&machine, "volume delete --name data")?;
    ensure!(!Path::new(&path).exists(), "{path} is left");
    refused(&machine, "volume info data", 3, "E-OBJ-001", &["hivemind volume ls"])?;
    // Another one of that name has nothing of the first.
    ok(&machine, &format!("{deploy} --volume data:/stock"))?;
    let fresh = sh(&machine, "box", "cat /stock/plain; ls /stock/sub")?.ok()?;
    ensure!(fresh == "from the image\nprivate\n", "{fresh:?}");
    ok(&machine, "app rm box --wait")?;
    ok(&machine, "volume prune --yes")?;
    before.again(&machine)?;
    let left: Vec<_> =
        fs::read_dir(machine.daemon.dir().join("state/volumes"))?.flatten().map(|e| e.file_name()).collect();
    ensure!(
        left == ["own"] && fs::read_dir(machine.daemon.dir().join("state/volumes/own"))?.next().is_none(),
        "{left:?}"
    );
    machine.close()
}

#[test]
fn volumes_are_listed_labelled_pruned_and_apart_in_namespaces() -> Result<()> {
    let (mut machine, image) = machine("volumels")?;
    ok(&machine, "namespace create prod")?;
    ok(&machine, "volume create --name data --label team=blue")?;
    ok(&machine, "volume create data -n prod")?;
    ok(&machine, "volume create spare")?;
    let again = run(&machine, "volume create data")?;
    ensure!(again.code == 0 && again.err.contains("there already"), "{again}");
    for place in ["", "-n prod"] {
        let deploy = format!("app deploy --image {image} --name web --wait --volume data:/data {place}");
        ok(&machine, &deploy)?;
    }
    sh(&machine, "web", "echo default >/data/whose")?.ok()?;
    let other = machine.hivemind(&["-n", "prod", "exec", "web", "--", "ls", "/data"])?.ok()?;
    ensure!(other.is_empty(), "two namespaces share a volume: {other}");
    ensure!(ok(&machine, "volume ls -o name")? == "data\nspare\n");
    let table = ok(&machine, "volume ls -A")?;
    ensure!(table.starts_with("NAMESPACE") && table.lines().count() == 4 && table.contains("team=blue"), "{table}");
    refused(&machine, "volume info dat", 3, "E-OBJ-001", &["did you mean data?"])?;
    refused(&machine, "namespace rm prod", 4, "E-OBJ-002", &["volume default/prod/data"])?;
    refused(&machine, "volume ls -n none", 3, "E-OBJ-001", &["hivemind namespace create none"])?;
    refused(&machine, "volume create data -n none", 3, "E-OBJ-001", &["hivemind namespace create none"])?;

    // Nothing is removed without a yes, and what is used never.
    refused(&machine, "volume prune", 2, "E-SPEC-001", &["spare", "--yes"])?;
    ok(&machine, "volume prune --yes")?;
    ensure!(ok(&machine, "volume ls -o name")? == "data\n");

    // A folder that nobody knows is said and stays.
    let strange = machine.daemon.dir().join("state/volumes/strange");
    fs::create_dir_all(&strange)?;
    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    wait::until("the strange folder to be told of", PATIENCE, || {
        let said = ok(&machine, "events")?;
        ensure!(said.contains("volumes/strange belongs to no volume"), "{said}");
        Ok(())
    })?;
    ensure!(strange.is_dir(), "a folder that nobody knows was removed");
    let seen = sh(&machine, "web", "cat /data/whose")?.ok()?;
    ensure!(seen == "default\n", "{seen}");
    machine.close()
}

#[test]
fn mounts_are_what_was_asked_for_and_nothing_else() -> Result<()> {
    let (machine, _) = machine("mounts")?;
    let image = stocked(&machine)?;
    let site = machine.daemon.dir().join("site");
    fs::create_dir(&site)?;
    fs::write(site.join("page"), "hello\n")?;
    let site = site.display();
    let deploy = format!("app deploy --image {image} --name box --wait --stop-grace 1s");

    // Read-only, shared by several, a part of one, without the image's content, and the operator's folder.
    ok(
        &machine,
        &format!(
            "{deploy} --replicas 2 --volume data:/stock:ro,z --volume data:/rw --volume {site}:/site:ro \
             --mount type=volume,source=data,target=/part,volume-subpath=a/b --volume bare:/declared:nocopy --volume /own"
        ),
    )?;
    let names: Vec<_> = until_ready(&machine, "box", 2)?.into_iter().map(|instance| instance.name).collect();
    let [one, two] = &names[..] else { anyhow::bail!("{names:?}") };
    sh(&machine, one, "echo x >/rw/shared; echo y >/part/deep; echo mine >/own/mine")?.ok()?;
    let seen = sh(&machine, two, "cat /stock/shared /stock/a/b/deep /site/page; ls /own /declared")?.ok()?;
    ensure!(seen == "x\ny\nhello\n/declared:\n\n/own:\n" || seen == "x\ny\nhello\n/own:\n\n/declared:\n", "{seen:?}");
    for script in ["echo no >/stock/shared", "echo no >/site/page", "mount -o remount,rw /site"] {
        ensure!(sh(&machine, one, script)?.code != 0, "{script} was let");
    }
    let shown = ok(&machine, "app info box")?;
    ensure!(shown.contains("data:/stock:ro") && shown.contains("data/a/b:/part"), "{shown}");

    // A link that an instance puts into a volume leads the next one nowhere.
    sh(&machine, one, "rm -r /rw/a; ln -s / /rw/a")?.ok()?;
    ok(&machine, "app rm box --wait")?;
    let stays = format!("app deploy --image {image} --name box --stop-grace 1s");
    let until_said = |what: &str, words: &[&str]| {
        wait::until(what, PATIENCE, || {
            let listed = json(&machine, "ps box")?;
            let message = listed[0]["message"].as_str().unwrap_or_default().to_owned();
            ensure!(words.iter().all(|word| message.contains(word)), "{listed}");
            Ok(())
        })
    };
    ok(&machine, &format!("{stays} --mount type=volume,source=data,target=/part,volume-subpath=a/b"))?;
    until_said("the link to be refused", &["symbolic link"])?;
    // What is not there, and what is the daemon's own.
    for (source, words) in [
        (format!("{site}/none"), ["there is nothing", "site/none"]),
        (machine.daemon.dir().join("state").display().to_string(), ["hivemind's own", "state"]),
        (machine.daemon.dir().join("run/netns").display().to_string(), ["hivemind's own", "run/netns"]),
    ] {
        ok(&machine, &format!("{stays} --volume {source}:/x"))?;
        until_said("the path to be refused", &words)?;
    }
    ok(&machine, &format!("{deploy} --mount type=bind,source={site}/made,target=/x,bind-create-src"))?;
    sh(&machine, "box", "echo z >/x/z")?.ok()?;
    ensure!(fs::read_to_string(format!("{site}/made/z"))? == "z\n");
    ok(&machine, "app rm box --wait")?;
    ensure!(fs::read_to_string(format!("{site}/made/z"))? == "z\n", "a folder of the node went with the app");

    // All faults at once.
    refused(
        &machine,
        &format!("{deploy} --volume a:/ --volume b:/x --volume c:/x --volume d:/proc/x"),
        2,
        "E-SPEC-001",
        &["a:/:", "c:/x:", "d:/proc/x:"],
    )?;
    ensure!(json(&machine, "volume ls")?.as_array().is_some_and(|all| all.len() == 2), "a refused app brought volumes");
    machine.close()
}

#[test]
fn rows_of_an_app_from_before_volumes_are_read() -> Result<()> {
    let (machine, image) = machine("oldrows")?;
    // As an older version's clients write it: without the field.
    let document = json!({"image": image, "replicas": 1});
    machine.daemon.put("/v1/tenants/default/namespaces/default/apps/old", &document)?;
    until_ready(&machine, "old", 1)?;
    let shown = json(&machine, "app info old")?;
    ensure!(shown["spec"].get("mounts").is_none(), "{shown}");
    machine.close()
}
