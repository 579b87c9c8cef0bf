//! A server that speaks the health protocol of gRPC on port 50051, IPv4 and IPv6, for containers of tests. The server as a
//! whole is well; its service `shop` is while there is a file `/tmp/well`.

use std::{net::Ipv6Addr, path::Path, time::Duration};

use tonic::transport::Server;
use tonic_health::ServingStatus;

/// From one look at the files to the next.
const LOOK: Duration = Duration::from_millis(20);

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (reporter, service) = tonic_health::server::health_reporter();
        let look = async move {
            loop {
                let well = Path::new("/tmp/well").exists();
                let status = if well { ServingStatus::Serving } else { ServingStatus::NotServing };
                reporter.set_service_status("shop", status).await;
                tokio::time::sleep(LOOK).await;
            }
        };
        let serve = Server::builder().add_service(service).serve((Ipv6Addr::UNSPECIFIED, 50051).into());
        tokio::select! {
            served = serve => Ok(served?),
            () = look => Ok(()),
        }
    })
}
