//! The health protocol of gRPC, <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>, without TLS.

use std::net::SocketAddr;

use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

/// The largest answer that is read, in bytes; one has two.
const MAX_ANSWER: usize = 4 << 10;

/// Whether the server says that `service` is `SERVING`; empty is the server as a whole.
pub(super) async fn check(to: SocketAddr, service: &str) -> Result<(), String> {
    let stream = super::probe::connect(to).await?;
    let what = if service.is_empty() { format!("gRPC {to}") } else { format!("gRPC {to} {service}") };
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| format!("{what}: {error}"))?;
    let origin = http::Uri::try_from(format!("http://{to}")).map_err(|error| format!("{what}: {error}"))?;
    let send = tower::service_fn(move |request| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    let mut client = HealthClient::with_origin(send, origin).max_decoding_message_size(MAX_ANSWER);
    let mut request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
    let agent = tonic::metadata::MetadataValue::from_static(concat!("hivemind-health/", env!("CARGO_PKG_VERSION")));
    request.metadata_mut().insert("user-agent", agent);
    let answer = client.check(request);
    tokio::pin!(answer);
    // The connection carries the request; when it ends, the answer is there or will never be.
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = connection => answer.await,
    };
    match answer.map(|answer| answer.into_inner().status()) {
        Ok(ServingStatus::Serving) => Ok(()),
        Ok(status) => Err(format!("{what}: {}", status.as_str_name())),
        Err(status) => Err(format!("{what}: {}", refusal(&status))),
    }
}

/// Why there is no answer, in words of who has to mend it.
fn refusal(status: &tonic::Status) -> String {
    match status.code() {
        Code::Unimplemented => "the server does not have grpc.health.v1.Health".into(),
        Code::NotFound => "the server knows no service of that name".into(),
        code if status.message().is_empty() => code.description().to_owned(),
        _ => status.message().chars().take(200).collect(),
    }
}
