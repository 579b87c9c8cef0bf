//! The daemon is killed at any moment, containerd too: whatever was begun is finished or removed by the next call.

use std::time::Duration;

use hivemind::runtime::{RunState, Runtime as _};

use super::world::{World, ended, log_of, sandboxed, until};

/// Where the calls are broken off, milliseconds; create takes some 15 and start some 60.
const MOMENTS: [u64; 9] = [0, 2, 5, 10, 20, 30, 45, 60, 90];

#[test]
fn killed_between_any_two_steps() {
    sandboxed(|| async {
        let world = World::new().await?;
        let image = world.image(&world.runtime()?).await?;
        for (n, millis) in MOMENTS.into_iter().enumerate() {
            let spec = world.container(&image, n as u64, "echo up; sleep 1000");
            let killed = world.runtime()?;
            let begun = async {
                killed.create(&spec).await?;
                killed.start(&spec.id).await
            };
            let _ = tokio::time::timeout(Duration::from_millis(millis), begun).await;
            drop(killed);

            let next = world.runtime()?;
            match next.state(&spec.id).await?.map(|s| s.run) {
                Some(RunState::Running { .. }) => {}
                _ => next.create(&spec).await?,
            }
            let pid = next.start(&spec.id).await?;
            assert_eq!(next.start(&spec.id).await?, pid);
            log_of(&next, &spec.id, 1).await?;

            let killed = world.runtime()?;
            let _ = tokio::time::timeout(Duration::from_millis(millis), killed.remove(&spec.id)).await;
            drop(killed);
            world.runtime()?.remove(&spec.id).await?;
        }
        assert_eq!(world.leftovers()?, [""; 0]);
        Ok(())
    });
}

#[test]
fn runcs_record_of_a_broken_start_is_no_obstacle() {
    sandboxed(|| async {
        let world = World::new().await?;
        let runtime = world.runtime()?;
        let spec = world.container(&world.image(&runtime).await?, 1, "echo up; sleep 1000");
        // As runc leaves it when it is killed before it has written its state.
        let record = std::path::Path::new("/run/containerd/runc").join(&world.name).join(spec.id.as_str());
        std::fs::create_dir_all(&record)?;
        runtime.create(&spec).await?;
        runtime.start(&spec.id).await?;
        log_of(&runtime, &spec.id, 1).await?;
        runtime.remove(&spec.id).await?;
        assert!(!record.exists());
        Ok(())
    });
}

#[test]
fn containers_outlive_us_and_containerd() {
    sandboxed(|| async {
        let mut world = World::new().await?;
        let first = world.runtime()?;
        let image = world.image(&first).await?;
        let spec = world.container(&image, 1, "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done");
        first.create(&spec).await?;
        let pid = first.start(&spec.id).await?;
        log_of(&first, &spec.id, 2).await?;
        drop(first);

        let second = world.runtime()?;
        let all = second.list().await?;
        assert_eq!(all.len(), 1);
        assert_eq!((&all[0].run, &all[0].labels), (&RunState::Running { pid }, &spec.labels));
        world.containerd.restart().await?;
        // The same client connects again; the one call that notices may fail.
        until("it answers again", async || second.list().await.is_ok()).await?;
        assert_eq!(second.state(&spec.id).await?.map(|s| s.run), Some(RunState::Running { pid }));
        let before = log_of(&second, &spec.id, 2).await?.len();
        let log = log_of(&second, &spec.id, before + 5).await?;
        assert!(log.iter().enumerate().all(|(n, l)| *l == n.to_string()), "no line is lost: {log:?}");
        second.kill(&spec.id, nix::libc::SIGKILL, false).await?;
        assert_eq!(ended(&second, &spec.id).await?, (137, false));
        second.remove(&spec.id).await?;
        assert_eq!(world.leftovers()?, [""; 0]);
        Ok(())
    });
}
