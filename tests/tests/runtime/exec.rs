//! Further processes in a container.

use anyhow::Result;
use bytes::Bytes;
use hivemind::{
    model::ContainerId,
    runtime::{ContainerdRuntime, ExecIo, ExecSession, ExecSpec, Runtime as _, RuntimeError, TtySize},
};

use super::world::{World, log_of, sandboxed, until};

fn command(words: &[&str]) -> ExecSpec {
    ExecSpec {
        command: words.iter().map(|w| (*w).to_owned()).collect(),
        env: Vec::new(),
        user: None,
        workdir: None,
        tty: None,
        stdin: false,
    }
}

/// Output, error output and exit code.
async fn finish(mut session: ExecSession) -> Result<(String, String, u32)> {
    drop(session.stdin);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(part) = session.output.recv().await {
        match part {
            ExecIo::Stdout(bytes) => out.extend_from_slice(&bytes),
            ExecIo::Stderr(bytes) => err.extend_from_slice(&bytes),
            ExecIo::Lost(bytes) => panic!("{bytes} bytes were left out of an exec"),
        }
    }
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((text(out), text(err), session.exit.await?))
}

async fn output(runtime: &ContainerdRuntime, id: &ContainerId, spec: ExecSpec) -> Result<(String, String, u32)> {
    finish(runtime.exec(id, spec).await?).await
}

#[test]
fn every_way() {
    sandboxed(|| async {
        let world = World::new().await?;
        let runtime = world.runtime()?;
        let image = world.image(&runtime).await?;
        let spec = world.container(&image, 1, "echo up; sleep 1000");
        let id = &spec.id;
        let error = runtime.exec(id, command(&["id"])).await.expect_err("must fail");
        assert!(matches!(error, RuntimeError::NotRunning { .. }), "{error:?}");
        runtime.create(&spec).await?;
        runtime.start(id).await?;
        log_of(&runtime, id, 1).await?;

        let both = output(&runtime, id, command(&["sh", "-c", "echo out; echo err >&2; exit 3"])).await?;
        assert_eq!(both, ("out\n".to_owned(), "err\n".to_owned(), 3));
        for (word, code) in [("nope", 127), ("/bin/nope", 127), ("/etc/plain", 126), ("/etc", 126)] {
            let (_, err, exit) = output(&runtime, id, command(&[word])).await?;
            assert_eq!(exit, code, "{word}: {err}");
            assert!(err.contains(word), "{err}");
        }
        let other = ExecSpec {
            user: Some("web".to_owned()),
            workdir: Some("/srv".to_owned()),
            env: vec!["NEW=1".to_owned()],
            ..command(&["sh", "-c", "id -u; pwd; echo $FROM $NEW $HOME"])
        };
        assert_eq!(output(&runtime, id, other).await?.0, "101\n/srv\nimage 1 /srv\n");

        // Much input comes back whole, and its end is seen.
        let cat = runtime.exec(id, ExecSpec { stdin: true, ..command(&["cat"]) }).await?;
        let stdin = cat.stdin.clone();
        let writing = async move {
            for _ in 0..64 {
                stdin.send(Bytes::from(vec![b'x'; 16 << 10])).await.expect("is read");
            }
        };
        let (done, ()) = tokio::join!(finish(cat), writing);
        let (out, _, code) = done?;
        assert_eq!((out.len(), code), (1 << 20, 0));

        let tty = Some(TtySize { rows: 40, cols: 100 });
        let script = "stty size; read x; stty size; exit 5";
        let mut terminal = runtime.exec(id, ExecSpec { tty, stdin: true, ..command(&["sh", "-c", script]) }).await?;
        let mut seen = String::new();
        until("the first size is shown", async || {
            if let Some(ExecIo::Stdout(bytes)) = terminal.output.recv().await {
                seen += &String::from_utf8_lossy(&bytes);
            }
            seen.contains("40 100")
        })
        .await?;
        terminal.resize.send(TtySize { rows: 50, cols: 120 }).await?;
        // The size is set before the line is sent: the queue has room for one only.
        terminal.resize.send(TtySize { rows: 50, cols: 120 }).await?;
        terminal.resize.send(TtySize { rows: 50, cols: 120 }).await?;
        terminal.stdin.send(Bytes::from_static(b"\n")).await?;
        let (out, _, code) = finish(terminal).await?;
        assert!(out.contains("50 120") && code == 5, "{out:?} {code}");

        // Dropped is killed.
        let session = runtime.exec(id, command(&["sh", "-c", "echo here; sleep 777"])).await?;
        let sleeping = async || {
            let (out, ..) = output(&runtime, id, command(&["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]))
                .await
                .expect("runs");
            out.contains("sleep 777")
        };
        until("it runs", sleeping).await?;
        drop(session);
        until("it is killed", async || !sleeping().await).await?;

        // Nothing is left in the container's folder.
        let files = world.dir.join("files").join(id.as_str());
        until("the pipes are removed", async || std::fs::read_dir(&files).map(|d| d.count()).unwrap_or(0) == 3).await?;
        runtime.remove(id).await?;
        assert_eq!(world.leftovers()?, [""; 0]);
        Ok(())
    });
}
