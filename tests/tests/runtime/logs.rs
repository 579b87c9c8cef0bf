//! Logs as a real container writes them.

use futures::StreamExt as _;
use hivemind::runtime::{LogQuery, LogStream, Runtime as _};

use super::world::{World, ended, lines, log_of, run, sandboxed, until};

#[test]
fn complete_in_order_and_followed() {
    sandboxed(|| async {
        let world = World::new().await?;
        let runtime = world.runtime()?;
        let image = world.image(&runtime).await?;
        // Long lines, and more than one file: 14 MB.
        let script = "echo error >&2; seq 1 1000; head -c 100000 /dev/zero | tr '\\0' z; echo; \
                      dd if=/dev/zero bs=1000000 count=13 2>/dev/null | tr '\\0' y; echo; \
                      seq 1001 2000; printf 'no end'";
        let spec = world.container(&image, 1, script);
        runtime.create(&spec).await?;
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let mut follower = runtime.logs(&spec.id, query).await?;
        runtime.start(&spec.id).await?;

        let mut out: Vec<bytes::Bytes> = Vec::new();
        let mut err = Vec::new();
        while out.last().is_none_or(|l| &l[..] != b"2000") {
            let line = follower.next().await.expect("goes on")?;
            match line.stream {
                LogStream::Stdout => out.push(line.line),
                LogStream::Stderr => err.push(line.line),
            }
        }
        assert_eq!(err.iter().map(|l| &l[..]).collect::<Vec<_>>(), [b"error"]);
        let numbers = |lines: &[bytes::Bytes], from: usize| {
            lines.iter().enumerate().all(|(n, l)| l[..] == *(n + from).to_string().as_bytes())
        };
        assert!(numbers(&out[..1000], 1), "the first thousand, in order");
        assert_eq!(out[1000].len(), 100_000);
        let rest = &out[out.len() - 1000..];
        assert!(numbers(rest, 1001), "the second thousand, in order");
        let long: usize = out[1001..out.len() - 1000].iter().map(|l| l.len()).sum();
        assert_eq!(long, 13_000_000);
        assert_eq!(ended(&runtime, &spec.id).await?.0, 0);
        let tail = LogQuery { tail: Some(3), ..LogQuery::default() };
        // A line without an end is shown a moment later, for it may go on.
        until("the last words are written", async || {
            lines(&runtime, &spec.id, tail).await.is_ok_and(|l| l == ["1999", "2000", "no end"])
        })
        .await?;

        // The follower ends with the container, not before.
        assert!(futures::poll!(follower.next()).is_pending());
        runtime.remove(&spec.id).await?;
        assert_eq!(follower.next().await.transpose()?.map(|l| l.line), Some(bytes::Bytes::from("no end")));
        assert!(follower.next().await.is_none());
        assert_eq!(lines(&runtime, &spec.id, tail).await?.len(), 3, "the log stays");
        runtime.remove_logs(&spec.id).await?;
        assert_eq!(lines(&runtime, &spec.id, tail).await?, [""; 0]);
        Ok(())
    });
}

#[test]
fn a_restarted_container_goes_on_in_the_same_log() {
    sandboxed(|| async {
        let world = World::new().await?;
        let runtime = world.runtime()?;
        let image = world.image(&runtime).await?;
        let spec = world.container(&image, 1, "echo hello");
        for n in 1..=2 {
            run(&runtime, &spec).await?;
            assert_eq!(log_of(&runtime, &spec.id, n).await?, vec!["hello"; n]);
        }
        runtime.remove(&spec.id).await?;
        Ok(())
    });
}
