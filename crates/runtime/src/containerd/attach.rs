//! Looking on what a container's own process writes, and writing to its input.
//!
//! Output comes from the log writer, which sends everybody what it reads (`logs/live.rs`); input goes into the pipe beside
//! its socket, which the process or, with a terminal, the shim reads. So nothing of it depends on the daemon that
//! started the process, and several may be attached at once.

use tokio::io::AsyncWriteExt as _;
use tokio::sync::{mpsc, watch};

use super::{
    ContainerdRuntime,
    containers::file_error,
    exec::{Ends, Exec, LINGER, session, writer},
};
use crate::{
    AttachSpec, ExecIo, ExecSession, LogStream, RuntimeError,
    logs::{self, Heard, Listening},
};
use hivemind_core::model::ContainerId;

impl ContainerdRuntime {
    pub(super) async fn look_on(&self, id: &ContainerId, spec: AttachSpec) -> Result<ExecSession, RuntimeError> {
        let refuse = |why: &str| RuntimeError::Attach { id: id.to_string(), why: why.to_owned() };
        self.running(id).await?;
        let dir = self.log_files(id);
        let input = dir.join(logs::INPUT);
        if spec.stdin && !input.exists() {
            return Err(refuse("its process has no input: deploy the app with --interactive"));
        }
        let listening = match Listening::begin(&dir) {
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) =>
            {
                return Err(refuse("its process was started by an older version: start it again"));
            }
            listening => listening.map_err(file_error("listen at", dir))?,
        };
        let stdin = match spec.stdin {
            true => Some(writer(&input).await.ok_or_else(|| refuse("its process does not read its input"))?),
            false => None,
        };
        let process = Exec { client: self.client.clone(), container: id.to_string(), exec_id: String::new() };
        if let Some(size) = spec.size {
            process.resize(size).await;
        }
        let (session, ends) = session();
        self.follow(carry(process, listening, stdin, ends));
        Ok(session)
    }
}

/// Until the process has ended, or nobody looks on any more.
async fn carry(process: Exec, listening: Listening, stdin: Option<tokio::net::unix::pipe::Sender>, ends: Ends) {
    let Ends { stdin: mut input, output, mut resize, mut exit } = ends;
    let (ended, watch_end) = watch::channel(false);
    let reading = read(listening, output, watch_end);
    let feeding = async {
        if let Some(mut stdin) = stdin {
            while let Some(bytes) = input.recv().await {
                if stdin.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        }
        // Nobody reads any more; what still comes is refused. The process's input does not end with ours.
        drop(input);
        std::future::pending::<()>().await;
    };
    let resizing = async {
        while let Some(size) = resize.recv().await {
            process.resize(size).await;
        }
        std::future::pending::<()>().await;
    };
    let code = {
        let living = async {
            tokio::select! {
                code = process.wait() => {
                    let _ = ended.send(true);
                    Some(code)
                }
                () = exit.closed() => None,
                () = async { tokio::join!(feeding, resizing); } => None,
            }
        };
        let mut living = std::pin::pin!(living);
        let mut reading = std::pin::pin!(reading);
        tokio::select! {
            code = &mut living => {
                if code.is_some() {
                    // What was written before the end.
                    reading.await;
                }
                code
            }
            () = &mut reading => living.await,
        }
    };
    if let Some(code) = code {
        let _ = exit.send(code);
    }
}

/// Passes on what is heard. Who does not take it makes the socket full, which the writer notes and does not wait for.
async fn read(mut listening: Listening, output: mpsc::Sender<ExecIo>, mut ended: watch::Receiver<bool>) {
    loop {
        let heard = tokio::select! {
            heard = listening.next() => heard,
            // What runs on in the background may hold the log open for ever.
            () = async { let _ = ended.wait_for(|ended| *ended).await; tokio::time::sleep(LINGER).await } => return,
        };
        let Ok(Some(heard)) = heard else { return };
        let chunk = match heard {
            Heard::Said(LogStream::Stdout, bytes) => ExecIo::Stdout(bytes),
            Heard::Said(LogStream::Stderr, bytes) => ExecIo::Stderr(bytes),
            Heard::Lost(bytes) => ExecIo::Lost(bytes),
        };
        if output.send(chunk).await.is_err() {
            return;
        }
    }
}
