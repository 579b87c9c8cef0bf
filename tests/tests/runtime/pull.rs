//! Fetching images.

use std::time::Duration;

use hivemind::{
    runtime::{ContainerdRuntime, PullProgress, Runtime as _, RuntimeConfig, RuntimeError},
    spec::v1::PullPolicy,
};
use serde_json::json;
use tokio::sync::watch;
use xtask::registry::{HTPASSWD, USER};

use super::{
    image::{Packed, busybox, layer, users},
    world::{Registry, World, architecture, pull, run, sandboxed},
};

async fn ensure(
    runtime: &ContainerdRuntime,
    reference: &str,
    policy: PullPolicy,
) -> (Result<hivemind::runtime::Image, RuntimeError>, PullProgress) {
    let (sender, receiver) = watch::channel(PullProgress::default());
    let result = runtime.ensure_image(reference, policy, sender).await;
    (result, receiver.borrow().clone())
}

#[test]
fn forms_of_references_and_layers() {
    sandboxed(|| async {
        let world = World::new().await?;
        let runtime = world.runtime()?;
        assert!(runtime.version().await?.contains('.'));
        let target = &world.registry.target;
        let layers = [(busybox()?, Packed::Zstd), (users(), Packed::Plain), (layer("srv/hello", b"hi"), Packed::Gzip)];
        let process = json!({"Cmd": ["cat", "/srv/hello", "/etc/passwd"], "Env": ["PATH=/bin"]});
        let native = target.push("team/app", Some("latest"), &layers, architecture(), process.clone())?;
        let foreign = target.push("team/app", None, &layers[1..], "s390x", json!({}))?;
        let here = format!("linux/{}", architecture());
        let index = target.push_index("team/app", "multi", &[("linux/s390x", &foreign), (&here, &native)])?;
        let name = format!("{}/team/app", target.host);

        let (never, _) = ensure(&runtime, &name, PullPolicy::Never).await;
        assert!(matches!(never, Err(RuntimeError::ImageAbsent { .. })), "{never:?}");
        let (image, progress) = ensure(&runtime, &name, PullPolicy::IfMissing).await;
        let image = image?;
        assert_eq!((image.reference, image.digest), (format!("{name}:latest"), native.digest.clone()));
        assert_eq!((progress.step, progress.done), ("done", progress.total));
        assert!(progress.total > 500_000, "{progress:?}");

        let multi = pull(&runtime, &format!("{name}:multi")).await?;
        assert_eq!((multi.digest.clone(), multi.chain_id.clone()), (index.clone(), image.chain_id));
        let exact = pull(&runtime, &format!("{name}@{index}")).await?;
        assert_eq!(exact.cmd, multi.cmd);

        let mut spec = world.container(&multi, 1, "");
        spec.command = None;
        assert_eq!(run(&runtime, &spec).await?, (0, false));
        let log = super::world::log_of(&runtime, &spec.id, 2).await?;
        assert_eq!(log[0], "hiroot:x:0:0::/root:/bin/sh");
        runtime.remove(&spec.id).await?;

        // What is there is found again by others, without a registry.
        drop(world.registry.target.request("GET", "/v2/", "", &[])?);
        let offline = ContainerdRuntime::connect(RuntimeConfig { plain_http_registries: vec![], ..world.config() })?;
        assert_eq!(pull(&offline, &name).await?.digest, native.digest);
        let (always, _) = ensure(&offline, &name, PullPolicy::Always).await;
        assert!(
            matches!(&always, Err(RuntimeError::RegistryUnreachable { why, .. }) if why.contains("plain HTTP")),
            "{always:?}"
        );
        Ok(())
    });
}

#[test]
fn every_refusal_has_its_name() {
    sandboxed(|| async {
        let world = World::new().await?;
        let runtime = world.runtime()?;
        let target = &world.registry.target;
        let host = &target.host;
        let foreign = target.push("team/app", Some("s390x"), &[(users(), Packed::Gzip)], "s390x", json!({}))?;
        target.push_index("team/app", "far", &[("linux/s390x", &foreign), ("unknown/unknown", &foreign)])?;
        let damaged =
            target.push("team/bad", Some("latest"), &[(busybox()?, Packed::Gzip)], architecture(), json!({}))?;
        world.registry.damage(&damaged.layers[0])?;

        let failure = async |name: &str| {
            pull(&runtime, name).await.err().and_then(|e| e.downcast::<RuntimeError>().ok()).expect("must fail")
        };
        for name in ["team/app:none", "none:latest"] {
            let error = failure(&format!("{host}/{name}")).await;
            assert!(matches!(error, RuntimeError::ImageNotFound { .. }), "{error:?}");
        }
        for name in ["team/app:s390x", "team/app:far"] {
            let error = failure(&format!("{host}/{name}")).await;
            let RuntimeError::NoPlatform { available, .. } = error else { panic!("{error:?}") };
            assert_eq!(available, ["linux/s390x"]);
        }
        let error = failure(&format!("{host}/team/bad")).await;
        assert!(matches!(error, RuntimeError::Corrupt { .. }), "{error:?}");
        let error = failure("127.0.0.1:5999/x").await;
        assert!(
            matches!(&error, RuntimeError::RegistryUnreachable { why, .. } if why.contains("refused")),
            "{error:?}"
        );
        let error = failure("registry.invalid/x").await;
        assert!(matches!(error, RuntimeError::RegistryUnreachable { .. }), "{error:?}");
        let error = failure("Bad Name").await;
        assert!(matches!(error, RuntimeError::BadReference { .. }), "{error:?}");

        let nobody = ContainerdRuntime::connect(RuntimeConfig { socket: "/nonexistent".into(), ..world.config() })?;
        let error = nobody.list().await.expect_err("must fail");
        assert!(matches!(&error, RuntimeError::Unavailable { why, .. } if why.contains("No such file")), "{error:?}");
        Ok(())
    });
}

#[test]
fn credentials() {
    sandboxed(|| async {
        let world = World::new().await?;
        let users = world.dir.join("htpasswd");
        std::fs::write(&users, HTPASSWD)?;
        // base64 of USER:PASSWORD
        let registry = Registry::start(&world.dir, 5001, Some(&users), Some("Basic ZGVtbzpzZWNyZXQ=")).await?;
        let layers = [(super::image::users(), Packed::Gzip)];
        registry.target.push("secret", Some("latest"), &layers, architecture(), json!({}))?;
        let host = registry.target.host.clone();
        let name = format!("{host}/secret");

        let file = world.dir.join("config.json");
        let config = RuntimeConfig {
            plain_http_registries: vec![host.clone()],
            registry_auth: Some(file.clone()),
            ..world.config()
        };
        let runtime = ContainerdRuntime::connect(config)?;
        for content in [None, Some(json!({"auths": {&host: {"username": USER, "password": "wrong"}}}))] {
            if let Some(content) = content {
                std::fs::write(&file, content.to_string())?;
            }
            let error = pull(&runtime, &name).await.expect_err("must fail").downcast::<RuntimeError>()?;
            assert!(matches!(error, RuntimeError::RegistryAuth { .. }), "{error:?}");
        }
        std::fs::write(&file, json!({"auths": {&host: {"auth": "ZGVtbzpzZWNyZXQ="}}}).to_string())?;
        pull(&runtime, &name).await?;
        Ok(())
    });
}

#[test]
fn at_once_and_broken_off() {
    sandboxed(|| async {
        let world = World::new().await?;
        let runtime = world.runtime()?;
        let noise: Vec<u8> = (0..8_000_000u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
        let layers = [(busybox()?, Packed::Gzip), (layer("srv/noise", &noise), Packed::Plain)];
        let target = &world.registry.target;
        target.push("team/big", Some("latest"), &layers, architecture(), json!({}))?;
        let name = format!("{}/team/big", target.host);

        // Killed at any moment, the next attempt succeeds.
        for millis in [1, 5, 10, 20, 40, 80] {
            let killed = world.runtime()?;
            let _ = tokio::time::timeout(Duration::from_millis(millis), pull(&killed, &name)).await;
        }
        let both = tokio::join!(
            ensure(&runtime, &name, PullPolicy::IfMissing),
            ensure(&runtime, &name, PullPolicy::IfMissing)
        );
        let (first, second) = (both.0.0?, both.1.0?);
        assert_eq!(first, second);
        let totals = [both.0.1.total, both.1.1.total];
        assert!(totals.contains(&0), "the second waits for the first: {totals:?}");
        Ok(())
    });
}

#[test]
fn a_registry_that_goes_down_in_the_middle() {
    sandboxed(|| async {
        let mut world = World::new().await?;
        let runtime = world.runtime()?;
        let noise: Vec<u8> =
            (0..12_000_000u64).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
        let layers = [(busybox()?, Packed::Gzip), (layer("srv/noise", &noise), Packed::Plain)];
        world.registry.target.push("team/big", Some("latest"), &layers, architecture(), json!({}))?;
        let name = format!("{}/team/big", world.registry.target.host);

        let (progress, mut told) = watch::channel(PullProgress::default());
        let fetching = runtime.ensure_image(&name, PullPolicy::IfMissing, progress);
        let going_down = async {
            // Something has come, and most is yet to come.
            let begun = told.wait_for(|progress| progress.done > 0).await.expect("it is told").clone();
            world.registry.kill().expect("killed");
            begun
        };
        let (fetched, begun) = tokio::join!(fetching, going_down);
        assert!(begun.done < begun.total, "{begun:?}");
        let error = fetched.expect_err("must fail");
        assert!(matches!(&error, RuntimeError::RegistryUnreachable { .. }), "{error:?}");
        assert!(error.to_string().contains(&world.registry.target.host), "{error}");
        // While it is down, too; and what was fetched is no image.
        let error = pull(&runtime, &name).await.expect_err("must fail").downcast::<RuntimeError>()?;
        assert!(matches!(&error, RuntimeError::RegistryUnreachable { .. }), "{error:?}");

        world.registry = Registry::start(&world.dir, 5000, None, None).await?;
        pull(&runtime, &name).await?;
        Ok(())
    });
}

#[test]
fn a_full_disk() {
    sandboxed(|| async {
        let world = World::with_disk(Some(16)).await?;
        let runtime = world.runtime()?;
        let target = &world.registry.target;
        let small = [(busybox()?, Packed::Gzip)];
        target.push("team/small", Some("latest"), &small, architecture(), json!({}))?;
        let noise: Vec<u8> =
            (0..3_000_000u64).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
        let large = [(busybox()?, Packed::Gzip), (layer("srv/noise", &noise), Packed::Plain)];
        target.push("team/large", Some("latest"), &large, architecture(), json!({}))?;

        let error = pull(&runtime, &format!("{}/team/large", target.host)).await.expect_err("must fail");
        let error = error.downcast::<RuntimeError>()?;
        let root = world.dir.join("containerd");
        assert!(matches!(&error, RuntimeError::DiskFull { path, .. } if path.starts_with(&root)), "{error:?}");
        // What was fetched is gone, so that others find room.
        pull(&runtime, &format!("{}/team/small", target.host)).await?;
        Ok(())
    });
}
