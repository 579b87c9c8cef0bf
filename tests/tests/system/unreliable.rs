//! Registries that stall, break, lie, are busy, and send elsewhere.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose};
use hivemind_tests::{
    Census,
    front::{Asked, Deed, Front},
    unique,
};
use serde_json::{Value, json};
use xtask::{
    daemon::{Daemon, Said},
    image::{self, Image, Packing},
    machine::Machine,
    registry::{Access, PASSWORD, Registry, USER},
    wait::Stopwatch,
};

/// A machine whose daemon pulls through a front.
fn machine(
    test: &str,
    judge: impl Fn(&Asked, usize) -> Deed + Send + Sync + 'static,
) -> Result<(Machine, Front, String)> {
    let mut machine = Machine::prepare(&unique(test), &[])?;
    machine.push(&image::web()?, "web", "1")?;
    let front = Front::start(&machine.sandbox, machine.registry.port(), judge)?;
    let (host, auth) = (front.host(), machine.sandbox.dir().join("auth.json"));
    fs::write(&auth, "{}")?;
    let flags = ["--registry-auth", &auth.display().to_string()];
    machine.daemon = Daemon::new(&machine.sandbox, &machine.containerd.socket(), &[&host], &flags)?;
    machine.daemon.start(&machine.sandbox)?;
    Ok((machine, front, format!("{host}/web:1")))
}

fn pull(machine: &Machine, image: &str) -> Result<Said> {
    machine.hivemind(&["image", "pull", image])
}

fn refused(said: &Said, code: &str, exit: i32, words: &[&str]) -> Result<()> {
    ensure!(said.err.contains(&format!("error[{code}]")) && said.code == exit, "expected {code}, {exit}: {said}");
    for word in words {
        ensure!(said.err.contains(word), "{word:?} is not said: {said}");
    }
    Ok(())
}

fn retried(machine: &Machine, cause: &str) -> Result<u64> {
    let metrics = machine.daemon.get("/metrics")?;
    let name = format!("hivemind_registry_retries_total{{cause=\"{cause}\"}} ");
    let found = metrics.lines().find_map(|line| line.strip_prefix(&name));
    found.map_or(Ok(0), |count| count.parse().context("no number"))
}

/// The largest layer, which there is time to break.
fn large() -> Result<(String, usize)> {
    let image = image::web()?;
    let layer = image.layers.iter().max_by_key(|layer| layer.bytes.len()).context("no layers")?;
    Ok((layer.digest.clone(), layer.bytes.len()))
}

#[test]
fn a_connection_that_breaks_goes_on_where_it_was() -> Result<()> {
    let (digest, size) = large()?;
    let (wanted, times) = (digest.clone(), AtomicUsize::new(0));
    let (machine, front, image) = machine("cut", move |asked, _| {
        if !asked.target.contains(&wanted) {
            return Deed::Pass;
        }
        // Twice in the middle; the second time of the rest.
        match times.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => Deed::Cut(size / 3),
            _ => Deed::Pass,
        }
    })?;
    pull(&machine, &image)?.ok()?;
    let asked: Vec<_> = front.asked().into_iter().filter(|asked| asked.target.contains(&digest)).collect();
    let ranges: Vec<_> = asked.iter().map(|asked| asked.header("range").map(str::to_owned)).collect();
    let from = |bytes: usize| Some(format!("bytes={bytes}-"));
    ensure!(ranges == [None, from(size / 3), from(size / 3 * 2)], "{ranges:?}");
    ensure!(retried(&machine, "broken")? == 2);
    machine.hivemind(&["app", "deploy", "--image", &image, "--name", "web", "--port", "80", "--wait"])?.ok()?;
    machine.close()
}

#[test]
fn a_registry_that_stalls_is_given_up_and_asked_again() -> Result<()> {
    let (digest, size) = large()?;
    let first = AtomicUsize::new(0);
    let (machine, front, image) = machine("stall", move |asked, _| {
        match asked.target.contains(&digest) && first.fetch_add(1, Ordering::Relaxed) == 0 {
            true => Deed::Stall(size / 2),
            false => Deed::Pass,
        }
    })?;
    let begun = Stopwatch::start();
    pull(&machine, &image)?.ok()?;
    ensure!(retried(&machine, "stalled")? == 1);
    ensure!(begun.elapsed() > Duration::from_secs(29) && begun.elapsed() < Duration::from_secs(60));
    ensure!(front.asked().iter().any(|asked| asked.header("range").is_some()), "{:?}", front.asked());
    machine.close()
}

#[test]
fn a_registry_that_breaks_for_ever_is_given_up() -> Result<()> {
    let (digest, _) = large()?;
    let (machine, front, image) = machine("cut-ever", move |asked, _| match asked.target.contains(&digest) {
        // Not a byte more than before: there is no progress that would be forgiven.
        true => Deed::Cut(0),
        false => Deed::Pass,
    })?;
    refused(&pull(&machine, &image)?, "E-IMG-002", 1, &[&front.host(), "does not answer"])?;
    ensure!(retried(&machine, "broken")? == 3);
    machine.close()
}

#[test]
fn a_busy_registry_is_waited_for_as_long_as_it_says_if_that_is_not_too_long() -> Result<()> {
    let (machine, front, image) = machine("busy", |asked, before| match before {
        0 => Deed::Answer("429 Too Many\r\nRetry-After: 2\r\nContent-Length: 0".into()),
        1 => Deed::Answer("503 Busy\r\nContent-Length: 0".into()),
        _ if asked.target.contains("/later/") => {
            Deed::Answer("429 Too Many\r\nRetry-After: 3600\r\nContent-Length: 0".into())
        }
        _ => Deed::Pass,
    })?;
    let begun = Stopwatch::start();
    pull(&machine, &image)?.ok()?;
    ensure!(begun.elapsed() > Duration::from_secs(2), "it was not waited for");
    ensure!(retried(&machine, "busy")? == 2);
    let begun = Stopwatch::start();
    let said = pull(&machine, &format!("{}/later/web:1", front.host()))?;
    refused(&said, "E-IMG-002", 1, &["too many requests", "3600 s"])?;
    ensure!(begun.elapsed() < Duration::from_secs(10), "it was waited for");
    machine.close()
}

#[test]
fn what_does_not_have_its_digest_is_not_taken() -> Result<()> {
    let web = image::web()?;
    // The configuration comes first: what has come before a lie stays for a moment.
    let lies = [web.config.digest, large()?.0, web.manifest.digest.clone()];
    let now = Arc::new(AtomicUsize::new(0));
    let which = Arc::clone(&now);
    let (machine, _front, image) = machine("lies", move |asked, _| {
        let lie = &lies[which.load(Ordering::Relaxed)];
        if asked.target.ends_with(lie.as_str()) { Deed::Lie(30) } else { Deed::Pass }
    })?;
    let before = Census::take(&machine)?;
    refused(&pull(&machine, &image)?, "E-IMG-005", 1, &["is damaged", "sha256:"])?;
    now.store(1, Ordering::Relaxed);
    refused(&pull(&machine, &image)?, "E-IMG-005", 1, &["is damaged", "sha256:"])?;
    now.store(2, Ordering::Relaxed);
    let by_digest = image.replace("web:1", &format!("web@{}", web.manifest.digest));
    refused(&pull(&machine, &by_digest)?, "E-IMG-005", 1, &["its manifest should be"])?;
    ensure!(machine.hivemind(&["image", "ls", "-o", "name"])?.ok()?.trim().is_empty(), "something was taken");
    before.again(&machine)?;
    machine.close()
}

/// The web server's image with another size of its first layer in the manifest.
fn resized(by: i64) -> Result<Image> {
    let mut image = image::web()?;
    let mut manifest: Value = serde_json::from_slice(&image.manifest.bytes)?;
    let size = manifest["layers"][0]["size"].as_i64().context("no size")?;
    manifest["layers"][0]["size"] = json!(size + by);
    image.manifest = image::Blob::json("application/vnd.oci.image.manifest.v1+json", &manifest);
    Ok(image)
}

#[test]
fn a_layer_of_another_size_is_not_taken() -> Result<()> {
    let (machine, front, _) = machine("sizes", |_, _| Deed::Pass)?;
    for (by, said) in [(1, "instead of"), (-1, "is longer than")] {
        let tag = if by > 0 { "more" } else { "less" };
        machine.push(&resized(by)?, "web", tag)?;
        refused(&pull(&machine, &format!("{}/web:{tag}", front.host()))?, "E-IMG-005", 1, &[said])?;
    }
    machine.close()
}

#[test]
fn a_registry_that_never_has_enough_of_credentials_is_asked_twice() -> Result<()> {
    let no = "401 No\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0";
    let (machine, front, image) = machine("login-loop", move |_, _| Deed::Answer(no.into()))?;
    refused(&pull(&machine, &image)?, "E-IMG-003", 5, &["none are configured"])?;
    ensure!(front.asked().len() == 1, "{:?}", front.asked());
    let pair = general_purpose::STANDARD.encode("who:what");
    let auth = json!({ "auths": { front.host(): { "auth": pair } } }).to_string();
    fs::write(machine.sandbox.dir().join("auth.json"), auth)?;
    refused(&pull(&machine, &image)?, "E-IMG-003", 5, &["the credentials are wrong"])?;
    ensure!(front.asked().len() == 3, "{:?}", front.asked());
    machine.close()
}

#[test]
fn credentials_are_not_sent_where_a_registry_redirects_to() -> Result<()> {
    let mut machine = Machine::prepare(&unique("redirect"), &[])?;
    machine.push(&image::web()?, "web", "1")?;
    let locked = Registry::start(&machine.sandbox, 5001, Access::Password)?;
    locked.push(&machine.sandbox, &image::web()?, "web", "1")?;
    // The store of its blobs is another host. It asks for credentials once, as a thief would.
    let store = Front::start(&machine.sandbox, machine.registry.port(), |_, before| match before {
        0 => Deed::Answer("401 No\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0".into()),
        _ => Deed::Pass,
    })?;
    let place = store.host();
    let front = Front::start(&machine.sandbox, locked.port(), move |asked, _| match asked.is_blob() {
        true => {
            let target = &asked.target;
            Deed::Answer(format!("307 Elsewhere\r\nLocation: http://{place}{target}\r\nContent-Length: 0"))
        }
        false => Deed::Pass,
    })?;
    let auth = machine.sandbox.dir().join("auth.json");
    let pair = general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    fs::write(&auth, json!({ "auths": { front.host(): { "auth": pair } } }).to_string())?;
    let flags = ["--registry-auth", &auth.display().to_string()];
    machine.daemon = Daemon::new(&machine.sandbox, &machine.containerd.socket(), &[&front.host()], &flags)?;
    machine.daemon.start(&machine.sandbox)?;
    let image = format!("{}/web:1", front.host());
    refused(&pull(&machine, &image)?, "E-IMG-003", 5, &["web:1"])?;
    pull(&machine, &image)?.ok()?;
    ensure!(front.asked().iter().any(|asked| asked.header("authorization").is_some()), "{:?}", front.asked());
    let (asked, sent) = (store.asked(), |asked: &Asked| asked.header("authorization").is_some());
    ensure!(asked.len() > 1 && !asked.iter().any(sent), "{asked:?}");
    machine.close()
}

#[test]
fn layers_are_packed_by_zstd_or_gzip_or_not_at_all() -> Result<()> {
    let (machine, front, _) = machine("packings", |_, _| Deed::Pass)?;
    for (packing, name) in [(Packing::Zstd, "zstd"), (Packing::Plain, "plain"), (Packing::Gzip, "gzip")] {
        machine.push(&image::web_packed(packing)?, name, "1")?;
        let image = format!("{}/{name}:1", front.host());
        machine.hivemind(&["app", "deploy", "--image", &image, "--name", name, "--port", "80", "--wait"])?.ok()?;
        machine.hivemind(&["app", "rm", name, "--wait"])?.ok()?;
        // Nothing of one packing is left for the next: its layers unpack to the same.
        machine.hivemind(&["image", "rm", &image])?.ok()?;
    }
    machine.close()
}
