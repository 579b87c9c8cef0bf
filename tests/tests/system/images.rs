//! Images of the node: listed, looked at, removed, and carried in and out without a registry.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use hivemind_tests::{Census, machine, until_ready};
use serde_json::{Value, json};
use xtask::{
    daemon::Said,
    image::{self, Image},
    machine::Machine,
    shell,
};

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

fn names(machine: &Machine) -> Result<Vec<String>> {
    Ok(ok(machine, "image ls -o name")?.lines().map(str::to_owned).collect())
}

/// An image as `docker save` wrote it before version 25: layers by any name, one of them compressed.
pub(super) fn saved(image: &Image, dir: &Path, name: &str) -> Result<std::path::PathBuf> {
    let folder = dir.join("saved");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("config.json"), &image.config.bytes)?;
    let mut layers = Vec::new();
    for (n, layer) in image.layers.iter().enumerate() {
        let path = folder.join(format!("layer-{n}.tar"));
        fs::write(&path, &layer.bytes)?;
        layers.push(format!("layer-{n}.tar"));
    }
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": layers}]);
    fs::write(folder.join("manifest.json"), manifest.to_string())?;
    let archive = dir.join("saved.tar");
    shell::output(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&folder).arg("."))?;
    Ok(archive)
}

#[test]
fn images_are_listed_and_removed_and_travel_in_archives() -> Result<()> {
    let (machine, image) = machine("images")?;
    let before = Census::take(&machine)?;
    ok(&machine, &format!("app deploy --image {image} --name web --port 80 --wait"))?;

    let list: Value = run(&machine, "image ls -o json")?.json()?;
    let [shown] = &list.as_array().context("a list")?[..] else { anyhow::bail!("one image: {list}") };
    ensure!(shown["name"] == image && shown["used_by"] == json!(["default/default/web"]), "{shown}");
    let size: u64 = image::web()?.layers.iter().map(|layer| layer.bytes.len() as u64).sum();
    ensure!(shown["size"] == size, "{shown}, not {size} bytes");
    let info = ok(&machine, &format!("image info {image}"))?;
    for word in [&*image, "linux/", "sha256:", "default/default/web"] {
        ensure!(info.contains(word), "{word}: {info}");
    }
    refused(&machine, &format!("image rm {image}"), 4, "E-OBJ-002", &["default/default/web", "--force"])?;
    let kept = run(&machine, "image prune")?;
    ensure!(kept.code == 0 && kept.err.contains("nothing to remove"), "{kept}");
    refused(&machine, "image info nothing:1", 3, "E-OBJ-001", &["docker.io/library/nothing:1"])?;
    refused(&machine, &format!("image rm {}", image.replace("web", "wbe")), 3, "E-OBJ-001", &["did you mean"])?;
    refused(&machine, &format!("image pull {}", image.replace("web", "none")), 3, "E-IMG-001", &["none"])?;
    refused(&machine, "image pull Not_An_Image", 2, "E-SPEC-001", &["Not_An_Image"])?;
    let pulled = run(&machine, &format!("image pull {image}"))?;
    ensure!(pulled.code == 0 && pulled.err.contains("is there"), "{pulled}");

    // Out, away, and in again, under its own name and another.
    let file = machine.daemon.dir().join("own.tar");
    let shown = file.display();
    ok(&machine, &format!("image tag {image} own:1"))?;
    ok(&machine, &format!("image export {image} own:1 -f {shown}"))?;
    ok(&machine, "app rm web --wait")?;
    let said = run(&machine, "image prune --dry-run")?;
    ensure!(said.err.contains("would be removed") && names(&machine)?.len() == 2, "{said}");
    ok(&machine, "image prune")?;
    ensure!(names(&machine)?.is_empty(), "something is left");
    before.again(&machine)?;
    ok(&machine, &format!("image import {shown}"))?;
    ensure!(names(&machine)? == [image.clone(), "docker.io/library/own:1".into()], "{:?}", names(&machine)?);
    ok(&machine, "app deploy --image own:1 --pull never --name web --port 80 --wait")?;
    until_ready(&machine, "web", 1)?;
    ok(&machine, "image rm own:1 --force")?;
    until_ready(&machine, "web", 1)?;
    machine.close()
}

#[test]
fn archives_of_docker_come_in_and_broken_ones_leave_nothing() -> Result<()> {
    let (machine, _) = machine("archives")?;
    let before = Census::take(&machine)?;
    let archive = saved(&image::web()?, machine.daemon.dir(), "own:docker")?;
    let whole = fs::read(&archive)?;
    let broken = machine.daemon.dir().join("broken.tar");
    let import = format!("image import {}", broken.display());
    // Cut off, with another byte in a layer, no archive at all, and none.
    let middle = whole.len() / 2;
    fs::write(&broken, &whole[..middle])?;
    refused(&machine, &import, 1, "E-IMG-006", &["cannot be imported"])?;
    fs::write(&broken, b"")?;
    refused(&machine, &import, 1, "E-IMG-006", &["there is nothing in it"])?;
    fs::write(&broken, b"this is no archive, and long enough to be read as the first block of one".repeat(20))?;
    refused(&machine, &import, 1, "E-IMG-006", &["no tar archive"])?;
    refused(&machine, "image import /no/such/file", 2, "E-SPEC-001", &["/no/such/file"])?;
    let mut other = whole.clone();
    let config = br#""diff_ids":["sha256:"#;
    let at = other.windows(config.len()).position(|bytes| bytes == config).context("no diff ids in the archive")?;
    let digit = &mut other[at + config.len()];
    *digit = if *digit == b'0' { b'1' } else { b'0' };
    fs::write(&broken, &other)?;
    refused(&machine, &import, 1, "E-IMG-006", &["docker.io/library/own:docker", "unpacks to"])?;
    ensure!(names(&machine)?.is_empty(), "{:?}", names(&machine)?);
    before.again(&machine)?;

    // By standard input, under another name.
    let mut command = machine.sandbox.command(machine.daemon.program());
    command.args(["image", "import", "-", "--name", "registry.local/own:2"]);
    command.env("HIVEMIND_SOCKET", machine.daemon.socket()).stdin(fs::File::open(&archive)?);
    let said = command.output()?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    ok(&machine, &format!("image import {}", archive.display()))?;
    ensure!(names(&machine)? == ["docker.io/library/own:docker", "registry.local/own:2"], "{:?}", names(&machine)?);
    ok(&machine, "app deploy --image registry.local/own:2 --pull never --name web --port 80 --wait")?;
    machine.close()
}

/// What containerd calls `parked:1`.
const PARKED: &str = "docker.io/library/parked:1";

#[test]
fn a_full_disk_makes_room_of_what_nobody_uses() -> Result<()> {
    // Every disk is fuller than this.
    let flags = ["--image-gc-high", "0", "--image-gc-low", "0", "--image-gc-rest", "0s"];
    let (mut machine, image) = hivemind_tests::machine_with("image-gc", &flags)?;
    ok(&machine, &format!("app deploy --image {image} --name web --port 80 --wait"))?;
    // One that is nobody's, and one of an app that has no instance now: nobody else has it.
    for name in ["own:1", "parked:1"] {
        let archive = saved(&image::web()?, machine.daemon.dir(), name)?;
        ok(&machine, &format!("image import {}", archive.display()))?;
    }
    ok(&machine, "app deploy --image parked:1 --pull never --replicas 0 --name parked")?;
    // It looks at the disk when it starts, too.
    machine.daemon.stop()?;
    machine.daemon.start(&machine.sandbox)?;
    xtask::wait::until("the unused image to go", hivemind_tests::PATIENCE, || {
        ensure!(names(&machine)? == [&image, PARKED], "{:?}", names(&machine)?);
        Ok(())
    })?;
    let events = ok(&machine, "events")?;
    ensure!(events.contains("ImageRemoved") && events.contains("docker.io/library/own:1 is removed"), "{events}");
    ensure!(events.contains("ImageDiskFull"), "{events}");
    until_ready(&machine, "web", 1)?;
    ensure!(machine.daemon.get("/metrics")?.contains("hivemind_images_removed_total 1"));
    ok(&machine, "app scale --name parked --replicas 1 --wait")?;
    machine.close()
}
