//! Containers: what they run, as whom, within which limits, and how they end.

use std::{path::PathBuf, time::Duration};

use futures::StreamExt as _;
use hivemind::{
    model::{Bytes, MilliCpu},
    runtime::{ContainerSpec, RunState, Runtime as _, RuntimeError, RuntimeEvent},
    spec::v1::Resources,
};
use tokio::time::Instant;

use super::world::{World, ended, log_of, run, sandboxed, until};

#[test]
fn runs_what_the_spec_says() {
    sandboxed(|| async {
        let world = World::new().await?;
        let runtime = world.runtime()?;
        let image = world.image(&runtime).await?;
        let script = "id; pwd; echo $FROM $OWN $HOME; cat /etc/hostname /etc/resolv.conf; tail -n 1 /etc/hosts; \
                      cat /proc/self/attr/current >/dev/null 2>&1; echo x > /run/x && echo run; \
                      cat /proc/1/status | { while read k v; do case $k in NoNewPrivs:|Seccomp:|CapEff:) echo $k $v;; esac; done; }; \
                      exit 42";
        let mut spec = world.container(&image, 1, script);
        spec.user = Some("web".to_owned());
        spec.workdir = Some("/srv".to_owned());
        spec.env.insert("OWN".to_owned(), "mine".to_owned());
        assert_eq!(run(&runtime, &spec).await?, (42, false));
        let log = log_of(&runtime, &spec.id, 8).await?;
        assert_eq!(log[0], "uid=101(web) gid=102");
        assert_eq!(log[1..6], ["/srv", "image mine /srv", "box-1", "nameserver 10.88.0.1", "10.88.0.7\tbox-1"]);
        assert!(log.iter().any(|l| l == "Seccomp: 2") && log.iter().any(|l| l == "NoNewPrivs: 1"), "{log:?}");
        assert!(log.iter().any(|l| l == "CapEff: 0000000000000000"), "{log:?}");

        // Twice is once: the ended one is made again, and its labels are found.
        runtime.create(&spec).await?;
        let state = runtime.state(&spec.id).await?.expect("is there");
        assert_eq!((state.run, state.labels), (RunState::Created, spec.labels.clone()));
        runtime.create(&spec).await?;
        spec.command = Some(vec!["/bin/true-is-not-there".to_owned()]);
        runtime.create(&spec).await?;
        for (command, why) in [("/bin/nope", "no such file"), ("nope", "not found"), ("/etc/plain", "permission")] {
            spec.command = Some(vec![command.to_owned()]);
            runtime.create(&spec).await?;
            let error = runtime.start(&spec.id).await.expect_err("must fail");
            assert!(matches!(&error, RuntimeError::Start { why: w, .. } if w.contains(why)), "{error:?}");
        }
        let nowhere = ContainerSpec { netns: "/run/netns/none".into(), ..spec.clone() };
        runtime.create(&nowhere).await?;
        let error = runtime.start(&spec.id).await.expect_err("must fail");
        assert!(matches!(&error, RuntimeError::Start { why, .. } if why.contains("/run/netns/none")), "{error:?}");
        spec.user = Some("nobody-knows".to_owned());
        let error = runtime.create(&spec).await.expect_err("must fail");
        assert!(matches!(error, RuntimeError::Start { .. }), "{error:?}");
        for _ in 0..2 {
            runtime.remove(&spec.id).await?;
            runtime.remove_logs(&spec.id).await?;
        }
        assert_eq!(world.leftovers()?, [""; 0]);
        Ok(())
    });
}

#[test]
fn limits_hold() {
    sandboxed(|| async {
        let world = World::new().await?;
        let runtime = world.runtime()?;
        let image = world.image(&runtime).await?;
        let mut events = runtime.events().await?;

        let mut spec = world.container(&image, 1, "sleep 1000");
        spec.resources = Resources { cpu: Some(MilliCpu(250)), memory: Some(Bytes(32 << 20)), pids: Some(20) };
        runtime.create(&spec).await?;
        runtime.start(&spec.id).await?;
        let groups = world.containerd.cgroups();
        let read = |file: &str| {
            let of = |g: &PathBuf| std::fs::read_to_string(g.join(spec.id.as_str()).join(file)).ok();
            groups.iter().find_map(of).map(|t| t.trim().to_owned())
        };
        if read("memory.max").is_some() {
            let found = ["memory.max", "memory.swap.max", "cpu.max", "pids.max"].map(read);
            assert_eq!(found, ["33554432", "0", "25000 100000", "20"].map(|t| Some(t.to_owned())));
        } else {
            let found = ["memory.limit_in_bytes", "cpu.cfs_quota_us", "cpu.cfs_period_us", "pids.max"].map(read);
            assert_eq!(found, ["33554432", "25000", "100000", "20"].map(|t| Some(t.to_owned())));
        }
        runtime.remove(&spec.id).await?;

        let mut spec = world.container(&image, 2, "x=a; while :; do x=$x$x; done");
        spec.resources = Resources { memory: Some(Bytes(16 << 20)), ..Resources::default() };
        assert_eq!(run(&runtime, &spec).await?, (137, true));
        let id = spec.id.to_string();
        let mut seen = Vec::new();
        until("the events arrive", async || {
            while let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(10), events.next()).await {
                seen.push(event);
            }
            // containerd may miss to tell of the kill itself, if the process was quick; the state above knows it.
            seen.iter().any(|e| matches!(e, RuntimeEvent::Exited { id: i, code: 137, .. } if *i == id))
        })
        .await?;
        assert!(seen.contains(&RuntimeEvent::Started { id: id.clone() }));
        // A new daemon knows it too.
        assert_eq!(ended(&world.runtime()?, &spec.id).await?, (137, true));

        let script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 60 & done; echo unlimited";
        let mut spec = world.container(&image, 3, script);
        spec.resources = Resources { pids: Some(5), ..Resources::default() };
        let (code, _) = run(&runtime, &spec).await?;
        assert_ne!(code, 0, "the sixth process must be refused");
        Ok(())
    });
}

#[test]
fn signals_end_it() {
    sandboxed(|| async {
        let world = World::new().await?;
        let runtime = world.runtime()?;
        let image = world.image(&runtime).await?;
        let spec = world.container(&image, 1, "trap 'echo bye; exit 7' QUIT; echo ready; while :; do sleep 0.1; done");
        runtime.create(&spec).await?;
        let pid = runtime.start(&spec.id).await?;
        assert_eq!(runtime.start(&spec.id).await?, pid, "twice is once");
        log_of(&runtime, &spec.id, 1).await?;
        runtime.kill(&spec.id, nix::libc::SIGQUIT, false).await?;
        assert_eq!(ended(&runtime, &spec.id).await?, (7, false));
        assert_eq!(log_of(&runtime, &spec.id, 2).await?, ["ready", "bye"]);
        for all in [false, true] {
            runtime.kill(&spec.id, nix::libc::SIGKILL, all).await?;
        }
        let error = runtime.start(&spec.id).await.expect_err("has ended");
        assert!(matches!(error, RuntimeError::Start { .. }), "{error:?}");

        runtime.create(&spec).await?;
        runtime.start(&spec.id).await?;
        runtime.kill(&spec.id, nix::libc::SIGKILL, true).await?;
        assert_eq!(ended(&runtime, &spec.id).await?, (137, false));
        runtime.remove(&spec.id).await?;
        runtime.kill(&spec.id, nix::libc::SIGKILL, true).await?;
        Ok(())
    });
}

#[test]
fn create_and_start_are_quick() {
    sandboxed(|| async {
        let world = World::new().await?;
        let runtime = world.runtime()?;
        let image = world.image(&runtime).await?;
        let mut times = Vec::new();
        for n in 0..10 {
            let spec = world.container(&image, n, "sleep 1000");
            let begin = Instant::now();
            runtime.create(&spec).await?;
            let created = begin.elapsed();
            runtime.start(&spec.id).await?;
            times.push((begin.elapsed(), created));
            runtime.remove(&spec.id).await?;
        }
        times.sort();
        // A figure for people; how quick it is on a busy machine decides nothing here.
        println!("create and start: median {:?} (create {:?}), slowest {:?}", times[5].0, times[5].1, times[9].0);
        assert_eq!(world.leftovers()?, [""; 0]);
        Ok(())
    });
}
