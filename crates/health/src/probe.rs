//! One check, once.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::future::{join_all, select_ok};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{error::Elapsed, timeout},
};

use super::grpc;
use hivemind_core::{
    model::{ContainerId, ErrorCode},
    spec::v1::Check,
};
use hivemind_runtime::{ExecIo, ExecSession, ExecSpec, Runtime};

/// The largest head of an answer that is read, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// How long is waited before a runtime that did not answer is asked again.
const UNANSWERED: Duration = Duration::from_millis(500);

/// Does a check within `limit`. Network checks must pass on every address. An error says why, for people.
///
/// While the runtime does not answer, a command is neither well nor failed: that says nothing of the process. Its time begins
/// when it runs.
pub(super) async fn probe(
    check: &Check,
    id: &ContainerId,
    addresses: &[IpAddr],
    runtime: &Arc<dyn Runtime>,
    limit: Duration,
) -> Result<(), String> {
    let each = |port: u16| addresses.iter().map(move |address| SocketAddr::new(*address, port));
    let (asked, late) = match check {
        Check::Exec { command } => return exec(command, id, runtime, limit).await,
        Check::Tcp { port } => (all(timeout(limit, join_all(each(*port).map(connect))).await), too_late(*port, limit)),
        Check::Http { port, path } => (
            all(timeout(limit, join_all(each(*port).map(|to| http(to, path)))).await),
            format!("GET :{port}{path} was not answered within {} ms", limit.as_millis()),
        ),
        Check::Grpc { port, service } => (
            all(timeout(limit, join_all(each(*port).map(|to| grpc::check(to, service)))).await),
            format!("gRPC :{port} was not answered within {} ms", limit.as_millis()),
        ),
    };
    asked.unwrap_or(Err(late))
}

/// Whether the port accepts a connection on one of the addresses within `limit`: a process that listens in one address
/// family only has started all the same.
pub(super) async fn listens(port: u16, addresses: &[IpAddr], limit: Duration) -> Result<(), String> {
    if addresses.is_empty() {
        return Ok(());
    }
    let attempts = addresses.iter().map(|address| Box::pin(connect(SocketAddr::new(*address, port))));
    match timeout(limit, select_ok(attempts)).await {
        Ok(first) => first.map(drop),
        Err(_) => Err(too_late(port, limit)),
    }
}

fn too_late(port: u16, limit: Duration) -> String {
    format!("port {port} did not accept a connection within {} ms", limit.as_millis())
}

/// Passes if all have; else the first failure. None: they were too late.
fn all<T>(results: Result<Vec<Result<T, String>>, Elapsed>) -> Option<Result<(), String>> {
    let results = results.ok()?;
    let some_passed = results.iter().any(Result::is_ok);
    Some(match results.into_iter().find_map(Result::err) {
        None => Ok(()),
        Some(why) if some_passed => {
            Err(format!("{why}; its other address is well: does it listen on both, IPv4 and IPv6?"))
        }
        Some(why) => Err(why),
    })
}

pub(super) async fn connect(to: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(to).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::ConnectionRefused => {
            format!("port {} does not accept connections ({})", to.port(), to.ip())
        }
        _ => format!("port {} cannot be reached at {}: {error}", to.port(), to.ip()),
    })
}

/// A status from 200 to 399 is well; the body is not read, redirects are not followed.
async fn http(to: SocketAddr, path: &str) -> Result<(), String> {
    let stream = connect(to).await?;
    let failed = |error: hyper::Error| format!("GET {to}{path}: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let request = http::Request::get(path)
        .header(http::header::HOST, to.to_string())
        .header(http::header::USER_AGENT, concat!("hivemind-health/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| format!("GET {to}{path}: {error}"))?;
    // The connection carries the request; when it ends, the answer is there or will never be.
    let answer = sender.send_request(request);
    tokio::pin!(answer);
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = connection => answer.await,
    };
    let status = answer.map_err(failed)?.status();
    if (200..400).contains(&status.as_u16()) { Ok(()) } else { Err(format!("GET {to}{path}: {status}")) }
}

async fn exec(command: &[String], id: &ContainerId, runtime: &Arc<dyn Runtime>, limit: Duration) -> Result<(), String> {
    let spec = ExecSpec { command: command.to_vec(), env: vec![], user: None, workdir: None, tty: None, stdin: false };
    loop {
        match runtime.exec(id, spec.clone()).await {
            Ok(session) => match timeout(limit, ended(session)).await {
                Ok(Some(result)) => return result,
                // The runtime went away while it ran.
                Ok(None) => {}
                Err(_) => return Err(format!("the command did not end within {} ms", limit.as_millis())),
            },
            Err(error) if error.code() == ErrorCode::NoContainerd => {}
            Err(error) => return Err(error.to_string()),
        }
        tokio::time::sleep(UNANSWERED).await;
    }
}

/// How a command has ended; none: nobody knows.
async fn ended(mut session: ExecSession) -> Option<Result<(), String>> {
    // The output is drained, so that the command does not block on a full pipe; its first line tells why it failed.
    let mut first = Vec::new();
    while let Some(ExecIo::Stdout(data) | ExecIo::Stderr(data)) = session.output.recv().await {
        if first.len() < 200 {
            first.extend_from_slice(&data);
        }
    }
    let code = session.exit.await.ok()?;
    if code == 0 {
        return Some(Ok(()));
    }
    let text = String::from_utf8_lossy(&first);
    let line: String = text.lines().next().unwrap_or_default().chars().take(120).collect();
    Some(Err(format!("the command ended with {code}: {line}")))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use hivemind_core::model::InstanceId;
    use hivemind_fakes::runtime::FakeRuntime;

    /// Answers every connection on a port of loopback with these bytes.
    async fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                if answer.is_empty() {
                    std::future::pending::<()>().await;
                }
            }
        });
        address
    }

    async fn check(check: Check, address: IpAddr) -> Result<(), String> {
        let runtime: Arc<dyn Runtime> = Arc::new(FakeRuntime::default());
        probe(&check, &ContainerId::from(InstanceId::from_bits(1)), &[address], &runtime, Duration::from_millis(300))
            .await
    }

    #[tokio::test]
    async fn http_statuses() {
        for (answer, well, part) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true, ""),
            ("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", true, ""),
            ("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", false, "500"),
            ("nonsense\r\n\r\n", false, "GET"),
            ("", false, "within 300 ms"),
        ] {
            let at = server(answer).await;
            let result = check(Check::Http { port: at.port(), path: "/".into() }, at.ip()).await;
            assert_eq!(result.is_ok(), well, "{answer:?}: {result:?}");
            assert!(result.err().unwrap_or_default().contains(part), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn tcp_open_and_refused() {
        let at = server("x").await;
        assert_eq!(check(Check::Tcp { port: at.port() }, at.ip()).await, Ok(()));
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("has an address");
        let why = check(Check::Tcp { port: closed.port() }, closed.ip()).await.expect_err("refused");
        assert!(why.contains("does not accept connections"), "{why}");
    }

    #[tokio::test]
    async fn the_commands_exit_code_decides() {
        let fake = FakeRuntime::default();
        let id = ContainerId::from(InstanceId::from_bits(1));
        fake.create(&FakeRuntime::container(&id)).await.expect("made");
        fake.start(&id).await.expect("started");
        fake.script_exec([0, 1]);
        let runtime: Arc<dyn Runtime> = Arc::new(fake);
        let check = Check::Exec { command: vec!["true".into()] };
        let limit = Duration::from_secs(10);
        assert_eq!(probe(&check, &id, &[], &runtime, limit).await, Ok(()));
        assert_eq!(probe(&check, &id, &[], &runtime, limit).await, Err("the command ended with 1: fake".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_does_not_answer_says_nothing_of_the_process() {
        let fake = FakeRuntime::default();
        let id = ContainerId::from(InstanceId::from_bits(1));
        fake.create(&FakeRuntime::container(&id)).await.expect("made");
        fake.start(&id).await.expect("started");
        fake.silence(1_000);
        let runtime: Arc<dyn Runtime> = Arc::new(fake);
        let check = Check::Exec { command: vec!["true".into()] };
        // However much longer than the check may take it is away.
        assert_eq!(probe(&check, &id, &[], &runtime, Duration::from_secs(1)).await, Ok(()));
    }
}
