//! Sidecars: containers beside an app's own, in the network namespace of each of its instances.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use hivemind_tests::{PATIENCE, instances, machine, pids};
use serde_json::{Value, json};
use xtask::{image, machine::Machine, wait};

/// Writes the document of a sidecar that runs this script.
fn sidecar(machine: &Machine, image: &str, name: &str, script: &str, more: &Value) -> Result<PathBuf> {
    let mut document = json!({ "name": name, "image": image, "command": ["sh", "-c", script] });
    for (key, value) in more.as_object().into_iter().flatten() {
        document[key] = value.clone();
    }
    let path = machine.sandbox.dir().join(format!("{name}.json"));
    std::fs::write(&path, document.to_string())?;
    Ok(path)
}

/// Deploys `web` with these sidecars, and waits for it if `more` says so.
fn deploy(machine: &Machine, image: &str, sidecars: &[PathBuf], more: &[&str]) -> Result<()> {
    let mut args: Vec<String> = ["app", "deploy", "--image", image, "--name", "web"].map(str::to_owned).to_vec();
    args.extend(sidecars.iter().flat_map(|path| ["--sidecar".to_owned(), path.display().to_string()]));
    args.extend(more.iter().map(|word| (*word).to_owned()));
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    machine.hivemind(&args)?.ok().map(drop)
}

/// What a command line prints.
fn said(machine: &Machine, line: &str) -> Result<String> {
    machine.hivemind(&line.split(' ').collect::<Vec<_>>())?.ok()
}

/// What a shell in a container of the only instance of `web` prints.
fn inside(machine: &Machine, container: &[&str], script: &str) -> Result<String> {
    let args = [&["exec"], container, &["web", "--", "sh", "-c", script]].concat();
    let said = machine.hivemind(&args)?;
    Ok(format!("{}{}", said.out, said.err))
}

/// The only instance of `web`, as `ps` has it.
fn shown(machine: &Machine) -> Result<Value> {
    Ok(machine.hivemind(&["ps", "web", "-o", "json"])?.json()?[0].clone())
}

fn of<'a>(shown: &'a Value, name: &str) -> &'a Value {
    let all = shown["sidecars"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|it| it["name"] == name).unwrap_or(&Value::Null)
}

fn until(machine: &Machine, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
    wait::until(what, PATIENCE, || {
        let shown = shown(machine)?;
        ensure!(is(&shown), "{shown}");
        Ok(shown)
    })
}

const PAGE: &str = "mkdir -p /www /only-here; echo beside >/www/index.html; exec httpd -f -p 9000 -h /www";

#[test]
fn all_containers_of_an_instance_have_one_network_and_each_its_own_files() -> Result<()> {
    let (machine, image) = machine("beside")?;
    let shares = json!({ "mounts": [{ "target": "/shared", "source": { "type": "volume" } }] });
    let page = sidecar(&machine, &image, "page", &format!("echo of-page >/shared/file; echo begun; {PAGE}"), &shares)?;
    let more = ["--port", "8080:9000", "--mount", "target=/shared", "--hostname", "shop", "--wait"];
    deploy(&machine, &image, &[page], &more)?;
    let own =
        inside(&machine, &[], "hostname; wget -q -O - http://127.0.0.1:9000/; cat /shared/file; ls -d /only-here")?;
    let words: Vec<_> = own.lines().collect();
    ensure!(words[..3] == ["shop", "beside", "of-page"] && own.contains("/only-here: No such file"), "{own}");
    let beside = inside(
        &machine,
        &["-c", "page"],
        "hostname; wget -q -O - http://127.0.0.1:80/; cat /etc/hosts /etc/resolv.conf",
    )?;
    ensure!(beside.starts_with("shop\nHello from "), "{beside}");
    let same = "cat /etc/hosts /etc/resolv.conf; ip address show dev eth0";
    ensure!(inside(&machine, &[], same)? == inside(&machine, &["-c", "page"], same)?, "they differ");
    // A published port leads to whoever listens there.
    let mut ask = machine.sandbox.command("timeout");
    ask.arg("5").arg(xtask::deb::program("busybox", "busybox-static")?);
    ask.args(["wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]);
    ensure!(xtask::shell::output(&mut ask)?.trim() == "beside", "the published port does not lead there");

    ensure!(said(&machine, "logs -c page web")?.contains("begun"), "its log");
    let own = said(&machine, "logs web")?;
    ensure!(!own.contains("begun"), "{own}");
    let all = said(&machine, "logs --all-containers web")?;
    ensure!(all.contains("/page | begun"), "{all}");
    ensure!(said(&machine, "top -c page web")?.contains("httpd -f -p 9000"), "its processes");
    ensure!(!said(&machine, "top web")?.contains("-p 9000"), "processes of the app's own container only");
    let copied = said(&machine, "cp -c page web:/www/index.html -")?;
    ensure!(copied.contains("beside"), "{copied:?}");
    let wrong = machine.hivemind(&["exec", "-c", "pag", "web", "true"])?;
    ensure!(wrong.err.contains("has no container pag") && wrong.err.contains("page"), "{wrong}");
    let stats = machine.hivemind(&["stats", "--no-stream", "-o", "json"])?.json()?;
    ensure!(stats.as_array().is_some_and(|all| all.len() == 1), "{stats}");
    let info = said(&machine, "app info web")?;
    ensure!(info.contains("/page is ready") && info.contains("Sidecars"), "{info}");
    machine.hivemind(&["pause", "web"])?.ok()?;
    let paused =
        until(&machine, "all to stand still", |it| it["phase"] == "paused" && of(it, "page")["phase"] == "paused");
    paused?;
    machine.hivemind(&["unpause", "web"])?.ok()?;
    until(&machine, "all to go on", |it| it["phase"] == "ready")?;
    machine.close()
}

#[test]
fn they_begin_before_the_app_and_end_after_it() -> Result<()> {
    let (machine, image) = machine("ordered")?;
    let order = machine.sandbox.dir().join("order");
    std::fs::create_dir_all(&order)?;
    let mounts = json!([{ "target": "/order", "source": { "type": "bind", "path": order } }]);
    let script = |name: &str| {
        format!(
            "trap 'sleep 0.5; echo -{name} >>/order/log; exit 0' TERM; sleep 0.5; echo +{name} >>/order/log; touch /begun; \
             while :; do sleep 0.1; done"
        )
    };
    let probe = json!({ "startup": { "check": { "type": "exec", "command": ["test", "-e", "/begun"] }, "period_ms": 100, "failure_threshold": 100 } });
    // The image asks to be killed.
    let more = json!({ "mounts": mounts, "probes": probe, "stop": { "signal": "SIGTERM" } });
    let all = ["a", "b"].map(|name| sidecar(&machine, &image, name, &script(name), &more));
    let all = all.into_iter().collect::<Result<Vec<_>>>()?;
    let order_mount = format!("type=bind,source={},target=/order", order.display());
    let own = script("app");
    let flags = [
        "--mount",
        &order_mount,
        "--stop-signal",
        "SIGTERM",
        "--pre-start",
        "echo +before >/dev/console || true",
        "--wait",
        "--entrypoint",
        "sh",
        "--",
        "-c",
        &own,
    ];
    deploy(&machine, &image, &all, &flags)?;
    let log = || std::fs::read_to_string(order.join("log")).unwrap_or_default();
    wait::until("the app to begin", PATIENCE, || {
        ensure!(log() == "+a\n+b\n+app\n", "{:?}", log());
        Ok(())
    })?;
    machine.hivemind(&["app", "rm", "web", "--wait"])?.ok()?;
    ensure!(log() == "+a\n+b\n+app\n-app\n-b\n-a\n", "{:?}", log());
    machine.close()
}

#[test]
fn one_that_falls_is_started_again_alone_and_its_limits_are_its_own() -> Result<()> {
    let (machine, image) = machine("alone")?;
    let eats = "[ -e /shared/eat ] && { rm /shared/eat; echo it eats; tail /dev/zero; }; sleep 1; [ ! -e /shared/fail ] || \
                { echo it falls; exit 3; }; while [ ! -e /shared/eat ]; do sleep 0.1; done; rm /shared/eat; echo it eats; exec tail /dev/zero";
    let more = json!({
        "mounts": [{ "target": "/shared", "source": { "type": "volume" } }],
        "resources": { "memory": "16Mi" },
    });
    let eater = sidecar(&machine, &image, "eater", eats, &more)?;
    deploy(&machine, &image, &[eater], &["--mount", "target=/shared", "--wait"])?;
    let before = inside(&machine, &[], "cat /proc/1/stat | cut -d ' ' -f 22")?;
    inside(&machine, &[], "touch /shared/eat")?;
    let fallen = until(&machine, "the end for want of memory", |it| of(it, "eater")["last_exit"]["oom"] == true)?;
    ensure!(fallen["last_exit"].is_null() && fallen["restarts"] == 0, "{fallen}");
    until(&machine, "it to be well again", |it| it["phase"] == "ready" && of(it, "eater")["restarts"] == 1)?;
    let events = said(&machine, "events")?;
    ensure!(events.contains("/eater: killed by the kernel: it used more than its memory limit of 16Mi"), "{events}");
    ensure!(inside(&machine, &[], "cat /proc/1/stat | cut -d ' ' -f 22")? == before, "the app's process was replaced");

    // One that falls again and again is told with its last lines, and the app's own process goes on.
    inside(&machine, &[], "touch /shared/fail")?;
    machine.hivemind(&["kill", "-c", "eater", "web"])?.ok()?;
    until(&machine, "it to fall again and again", |it| {
        it["phase"] == "not-ready" && of(it, "eater")["restarts"].as_u64() >= Some(4)
    })?;
    wait::until("its last lines", PATIENCE, || {
        let info = said(&machine, "app info web")?;
        ensure!(info.contains("/eater is backoff") && info.contains("  | it falls"), "{info}");
        Ok(())
    })?;
    ensure!(inside(&machine, &[], "cat /proc/1/stat | cut -d ' ' -f 22")? == before, "the app's process was replaced");
    inside(&machine, &[], "rm /shared/fail")?;
    until(&machine, "it to be well again", |it| it["phase"] == "ready")?;
    machine.close()
}

#[test]
fn a_daemon_that_is_killed_finds_them_and_starts_again_what_ended_meanwhile() -> Result<()> {
    let (mut machine, image) = machine("killed-beside")?;
    let page = sidecar(&machine, &image, "page", PAGE, &json!({}))?;
    let idle = sidecar(&machine, &image, "idle", "exec sleep 1d", &json!({}))?;
    deploy(&machine, &image, &[page, idle], &["--wait"])?;
    let (before, id) = (pids(&machine)?, instances(&machine, "web")?.first().context("no instance")?.id.clone());
    ensure!(before.len() == 3, "{before:?}");
    machine.daemon.kill()?;
    machine.daemon.start(&machine.sandbox)?;
    until(&machine, "all to be found", |it| it["phase"] == "ready" && of(it, "idle")["phase"] == "ready")?;
    ensure!(pids(&machine)? == before, "processes were replaced");
    // While nobody is there, one of them ends.
    machine.daemon.kill()?;
    machine.containerd.ctr(&["tasks", "kill", "-s", "KILL", &format!("{id}.idle")])?;
    machine.daemon.start(&machine.sandbox)?;
    until(&machine, "it to be started again", |it| it["phase"] == "ready" && of(it, "idle")["restarts"] == 1)?;
    let now = pids(&machine)?;
    ensure!(now.len() == 3 && now.intersection(&before).count() == 2, "{before:?}, {now:?}");
    machine.close()
}

#[test]
fn a_changed_sidecar_rolls_the_instances() -> Result<()> {
    let (machine, image) = machine("rolled")?;
    let other = machine.push(&image::web()?, "other", "1")?;
    let page = sidecar(&machine, &image, "page", PAGE, &json!({}))?;
    deploy(&machine, &image, std::slice::from_ref(&page), &["--wait"])?;
    let before = instances(&machine, "web")?;
    deploy(&machine, &image, &[page], &["--wait"])?;
    ensure!(instances(&machine, "web")? == before, "nothing has changed");
    let page = sidecar(&machine, &other, "page", PAGE, &json!({}))?;
    deploy(&machine, &image, &[page], &["--wait"])?;
    let after = instances(&machine, "web")?;
    ensure!(after.iter().all(|it| before.iter().all(|other| other.id != it.id)), "{before:?}, {after:?}");
    ensure!(of(&shown(&machine)?, "page")["image"] == other.as_str(), "{}", shown(&machine)?);
    // What is wrong is said with its field, before anything is done.
    let wrong = sidecar(&machine, "", "page", PAGE, &json!({ "container": { "hostname": "x" } }))?;
    let refused = machine.hivemind(&[
        "app",
        "deploy",
        "--image",
        &image,
        "--name",
        "web",
        "--sidecar",
        &wrong.display().to_string(),
    ])?;
    ensure!(
        refused.code == 2 && refused.err.contains("sidecars.page.image") && refused.err.contains("container.hostname"),
        "{refused}"
    );
    machine.close()
}
