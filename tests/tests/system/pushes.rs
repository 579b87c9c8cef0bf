//! Images that are sent to registries.

use std::fs;

use super::images::saved;
use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose};
use hivemind_tests::{
    Census,
    front::{Asked, Deed, Front},
    unique, until_ready,
};
use serde_json::{Value, json};
use xtask::{
    containerd,
    daemon::{Daemon, Said},
    image::{self, Config, Files, Image, Index},
    machine::Machine,
    registry::{Access, PASSWORD, Registry, USER},
    shell,
};

/// A machine with one registry more, which asks for a password; the file says which one.
fn machine(test: &str, plain: &[&str]) -> Result<(Machine, Registry, std::path::PathBuf, String)> {
    let mut machine = Machine::prepare(&unique(test), &[])?;
    let other = Registry::start(&machine.sandbox, 5001, Access::Password)?;
    let auth = machine.sandbox.dir().join("auth.json");
    fs::write(&auth, "{}")?;
    let plain: Vec<_> = [machine.registry.host(), other.host()].into_iter().chain(plain.iter().copied()).collect();
    let flags = ["--registry-auth", &auth.display().to_string()];
    machine.daemon = Daemon::new(&machine.sandbox, &machine.containerd.socket(), &plain, &flags)?;
    machine.daemon.start(&machine.sandbox)?;
    let image = machine.push(&image::web()?, "web", "1")?;
    machine.hivemind(&["image", "pull", &image])?.ok()?;
    Ok((machine, other, auth, image))
}

fn allow(auth: &std::path::Path, hosts: &[&str]) -> Result<()> {
    let pair = general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let auths: serde_json::Map<_, _> = hosts.iter().map(|host| ((*host).to_owned(), json!({ "auth": pair }))).collect();
    Ok(fs::write(auth, json!({ "auths": auths }).to_string())?)
}

fn push(machine: &Machine, image: &str, to: &str) -> Result<Value> {
    machine.hivemind(&["image", "push", image, "--to", to, "-o", "json"])?.json()
}

fn refused(said: &Said, code: &str, exit: i32, why: &str) -> Result<()> {
    let well = said.err.contains(&format!("error[{code}]")) && said.code == exit && said.err.contains(why);
    ensure!(well, "expected {code}, {exit}, {why:?}: {said}");
    Ok(())
}

fn size(image: &Image) -> u64 {
    (image.size() + image.config.bytes.len()) as u64
}

#[test]
fn an_image_is_sent_and_what_is_there_is_not() -> Result<()> {
    let (machine, other, auth, image) = machine("push", &[])?;
    let all = size(&image::web()?);
    let digest = image::web()?.manifest.digest;

    // To another repository of its registry: that takes the layers from the first one. The configuration is sent.
    let copy = format!("{}/team/copy:2", machine.registry.host());
    let pushed = push(&machine, &image, &copy)?;
    let layers = image::web()?.size() as u64;
    ensure!(pushed["name"] == copy && pushed["digest"] == digest.as_str(), "{pushed}");
    ensure!(pushed["mounted"] == layers && pushed["sent"] == all - layers && pushed["there"] == 0, "{pushed}");
    let again = push(&machine, &image, &copy)?;
    ensure!(again["there"] == all && again["sent"] == 0 && again["mounted"] == 0, "{again}");

    // To one that asks for a password.
    let to = format!("{}/web:1", other.host());
    let said = machine.hivemind(&["image", "push", &image, "--to", &to])?;
    refused(&said, "E-IMG-003", 5, "none are configured")?;
    allow(&auth, &[other.host()])?;
    let pushed = push(&machine, &image, &to)?;
    ensure!(pushed["sent"] == all && pushed["digest"] == digest.as_str(), "{pushed}");

    // What was sent is an image that runs, and the node had nothing else of it.
    machine.hivemind(&["image", "rm", &image])?.ok()?;
    for name in [&copy, &to] {
        let deploy = ["app", "deploy", "--image", name, "--name", "web", "--port", "80", "--pull", "always", "--wait"];
        machine.hivemind(&deploy)?.ok()?;
        until_ready(&machine, "web", 1)?;
        machine.hivemind(&["app", "rm", "web", "--wait"])?.ok()?;
        // Under its own name, as people do.
        let said = machine.hivemind(&["image", "push", name])?;
        ensure!(said.code == 0 && said.err.contains("is in its registry") && said.err.contains("0 B sent"), "{said}");
    }

    refused(&machine.hivemind(&["image", "push", "none:1"])?, "E-OBJ-001", 3, "docker.io/library/none:1")?;
    refused(&machine.hivemind(&["image", "push", &copy, "--to", "No"])?, "E-SPEC-001", 2, "No")?;
    let wrong = format!("{}/web@sha256:{}", other.host(), "0".repeat(64));
    refused(&machine.hivemind(&["image", "push", &copy, "--to", &wrong])?, "E-SPEC-001", 2, &digest)?;
    let exact = format!("{}/exact@{digest}", other.host());
    ensure!(push(&machine, &copy, &exact)?["digest"] == digest.as_str());
    let nobody = machine.hivemind(&["image", "push", &copy, "--to", "127.0.0.1:5999/web:1"])?;
    refused(&nobody, "E-IMG-002", 1, "127.0.0.1:5999")?;
    machine.close()
}

#[test]
fn an_index_is_sent_whole_or_the_variant_of_this_machine_alone() -> Result<()> {
    let (machine, other, auth, _) = machine("push-index", &[])?;
    allow(&auth, &[other.host()])?;
    let mut files = Files::default();
    files.file("other", 0o644, "of another machine");
    let config = Config { architecture: "s390x".into(), ..Config::default() };
    let strange = Image::new(&[&files], &config)?;
    let index = Index::new(vec![image::web()?, strange.clone()]);
    let name = machine.registry.push_index(&machine.sandbox, &index, "multi", "1")?;

    // A pull fetches what this machine can run. Elsewhere it stands alone.
    machine.hivemind(&["image", "pull", &name])?.ok()?;
    let to = format!("{}/multi:1", other.host());
    let said = machine.hivemind(&["image", "push", &name, "--to", &to])?;
    ensure!(said.code == 0 && said.err.contains("linux/s390x is not on it"), "{said}");
    let pushed = push(&machine, &name, &to)?;
    ensure!(pushed["digest"] == index.images[0].manifest.digest.as_str(), "{pushed}");
    ensure!(pushed["left_out"] == json!(["linux/s390x"]), "{pushed}");
    // Where the registry has the rest, the whole index is named.
    let here = format!("{}/multi:2", machine.registry.host());
    let pushed = push(&machine, &name, &here)?;
    ensure!(pushed["digest"] == index.manifest.digest.as_str() && pushed["left_out"].is_null(), "{pushed}");

    // With all variants on the node it goes as it is.
    let mut ctr = machine.sandbox.command(containerd::program("ctr")?);
    ctr.arg("--address").arg(machine.containerd.socket()).args(["--namespace", "hivemind", "images", "pull"]);
    shell::output(ctr.args(["--all-platforms", "--plain-http", &name]))?;
    let to = format!("{}/multi:3", other.host());
    let pushed = push(&machine, &name, &to)?;
    ensure!(pushed["digest"] == index.manifest.digest.as_str() && pushed["left_out"].is_null(), "{pushed}");
    ensure!(pushed["sent"] == size(&strange), "the variant of this machine is there from before: {pushed}");
    machine.hivemind(&["image", "pull", &to])?.ok()?;
    machine.close()
}

#[test]
fn a_push_that_breaks_goes_on() -> Result<()> {
    let mut machine = Machine::prepare(&unique("push-breaks"), &[])?;
    let other = Registry::start(&machine.sandbox, 5001, Access::Open)?;
    let judge = |asked: &Asked, before: usize| match asked.method.as_str() {
        // The first uploads break in the middle: three blobs are looked for, begun and sent at once.
        "PUT" if asked.target.contains("/uploads/") && before < 8 => Deed::CutRequest(1000),
        _ => Deed::Pass,
    };
    let front = Front::start(&machine.sandbox, other.port(), judge)?;
    let plain = [machine.registry.host(), &front.host()].map(str::to_owned);
    let plain: Vec<_> = plain.iter().map(String::as_str).collect();
    machine.daemon = Daemon::new(&machine.sandbox, &machine.containerd.socket(), &plain, &[])?;
    machine.daemon.start(&machine.sandbox)?;
    let image = machine.push(&image::web()?, "web", "1")?;
    machine.hivemind(&["image", "pull", &image])?.ok()?;

    let pushed = push(&machine, &image, &format!("{}/web:1", front.host()))?;
    let all = size(&image::web()?);
    ensure!(pushed["sent"] == all, "{pushed}, not {all}");
    let metrics = machine.daemon.get("/metrics")?;
    let retried = |cause: &str| -> Result<u64> {
        let name = format!("hivemind_registry_retries_total{{cause=\"{cause}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        Ok(line.with_context(|| format!("no {name} in\n{metrics}"))?.parse()?)
    };
    ensure!(retried("broken")? >= 1, "{metrics}");
    // It is whole where it was sent to.
    let to = format!("{}/web:1", front.host());
    machine.hivemind(&["image", "rm", &image])?.ok()?;
    machine.hivemind(&["image", "pull", &to])?.ok()?;

    // One that never comes through is given up, and says so.
    let deaf = Front::start(&machine.sandbox, other.port(), |asked, _| match asked.method.as_str() {
        "POST" => Deed::Answer("500 Broken\r\nContent-Length: 0".into()),
        _ => Deed::Pass,
    })?;
    machine.daemon.add_flag("--plain-http-registry");
    machine.daemon.add_flag(&deaf.host());
    machine.daemon.stop()?;
    machine.daemon.start(&machine.sandbox)?;
    let said = machine.hivemind(&["image", "push", &to, "--to", &format!("{}/new:1", deaf.host())])?;
    refused(&said, "E-IMG-002", 1, "HTTP 500")?;
    let posts = deaf.asked().iter().filter(|asked| asked.method == "POST").count();
    // Three blobs at once, and each is tried four times at most.
    ensure!((4..=12).contains(&posts), "{posts} attempts");
    machine.close()
}

#[test]
fn only_the_layers_that_a_node_lacks_are_sent_to_it() -> Result<()> {
    let (machine, image) = hivemind_tests::machine("push-node")?;
    let before = Census::take(&machine)?;
    let dir = machine.daemon.dir().to_owned();
    let run = |line: &str| machine.hivemind(&line.split_whitespace().collect::<Vec<_>>());
    let sent = |line: &str, how: &str| -> Result<()> {
        let said = run(line)?;
        ensure!(said.code == 0 && said.err.contains(how) && said.err.contains("is there"), "{how:?}: {said}");
        Ok(())
    };
    // The layers of this archive are as the registry has them.
    let web = image::web()?;
    let archive = saved(&web, &dir, "own:1")?;
    let push = format!("image push --from {}", archive.display());
    sent(&push, "2 of 2 layers sent")?;
    sent(&push, "nothing to send: the node has all 2")?;
    run("image rm own:1")?.ok()?;
    run(&format!("image pull {image}"))?.ok()?;
    sent(&push, "nothing to send")?;
    // A new build: what is on top has changed.
    let mut files = Files::default();
    files.file("serve", 0o755, "#!/bin/sh\nmkdir -p /www\necho new >/www/index.html\nexec httpd -f -p 80 -h /www\n");
    let config = Config { entrypoint: vec!["/serve".into()], stop_signal: "SIGKILL".into(), ..Config::default() };
    let built = saved(&Image::new(&[&image::busybox()?, &files], &config)?, &dir, "own:2")?;
    sent(&format!("image push --from {}", built.display()), "1 of 2 layers sent")?;
    run("app deploy --image own:2 --pull never --name web --port 80 --wait")?.ok()?;
    until_ready(&machine, "web", 1)?;
    run("app rm web --wait")?.ok()?;

    // As a folder with a layout, and through a pipe, under another name.
    let (exported, folder) = (dir.join("own.tar"), dir.join("layout"));
    run(&format!("image export own:2 -f {}", exported.display()))?.ok()?;
    run("image prune")?.ok()?;
    before.again(&machine)?;
    fs::create_dir_all(&folder)?;
    shell::output(std::process::Command::new("tar").arg("-xf").arg(&exported).arg("-C").arg(&folder))?;
    sent(&format!("image push --from {} own:3", folder.display()), "2 of 2 layers sent")?;
    let mut command = machine.daemon.command(&machine.sandbox, &["image", "push", "--from", "-", "own:4"]);
    let said = command.stdin(fs::File::open(&exported)?).output()?;
    let err = String::from_utf8_lossy(&said.stderr).into_owned();
    ensure!(said.status.success() && err.contains("nothing to send") && err.contains("own:4"), "{err}");
    let names = run("image ls -o name")?.ok()?;
    ensure!(names.lines().eq(["docker.io/library/own:3", "docker.io/library/own:4"]), "{names}");
    run("app deploy --image own:4 --pull never --name web --port 80 --wait")?.ok()?;
    run("app rm web --wait")?.ok()?;
    run("image prune")?.ok()?;

    // What is wrong with an archive is said before anything is sent; a layer that is not what it says is not taken.
    let broken = dir.join("broken.tar");
    let refuse = |words: &[&str]| -> Result<()> {
        let said = run(&format!("image push --from {}", broken.display()))?;
        ensure!(said.code == 1 && said.err.contains("error[E-IMG-006]"), "{said}");
        for word in words {
            ensure!(said.err.contains(word), "{word:?} is not said: {said}");
        }
        Ok(())
    };
    fs::write(&broken, b"no archive".repeat(200))?;
    refuse(&["no tar archive"])?;
    let mut bytes = fs::read(&exported)?;
    let layer = web.layers[0].bytes.get(1000..1064).context("a small layer")?;
    let at =
        bytes.windows(layer.len()).position(|window| window == layer).context("the layer is not in the archive")?;
    bytes[at] ^= 1;
    fs::write(&broken, &bytes)?;
    refuse(&["sha256:"])?;
    refused(&run("image push --from /no/such/file own:1")?, "E-SPEC-001", 2, "/no/such/file")?;
    before.again(&machine)?;
    machine.close()
}

#[test]
fn layers_are_asked_for_by_digests_alone() -> Result<()> {
    let (machine, _) = hivemind_tests::machine("push-missing")?;
    let ask = |layers: &str| {
        let path = machine.daemon.socket();
        let mut curl = machine.sandbox.command("curl");
        curl.args(["-s", "-w", "%{http_code}", "-H", "Content-Type: application/json", "--unix-socket"]).arg(path);
        shell::output(curl.args(["-d", layers, "http://localhost/v1/images/missing"]))
    };
    let wrong = ask(r#"{"layers": ["sha256:12", "../etc/passwd"]}"#)?;
    ensure!(wrong.ends_with("422") && wrong.contains("../etc/passwd") && wrong.contains("sha256:12"), "{wrong}");
    let digest = format!("sha256:{}", "0".repeat(64));
    let missing = ask(&json!({ "layers": [digest] }).to_string())?;
    ensure!(missing.ends_with("200") && missing.contains(&digest), "{missing}");
    machine.close()
}
