//! The end of our namespace in containerd.

use std::time::Duration;

use containerd_client::services::v1::{DeleteNamespaceRequest, DeleteRequest, ListRequest};

use super::{ContainerdRuntime, client::found};
use crate::{ImageStore as _, RuntimeError};

/// containerd collects what nothing refers to any more some time after the last reference has gone.
const COLLECTED: Duration = Duration::from_secs(30);
/// How often it is asked.
const AGAIN: Duration = Duration::from_millis(250);

impl ContainerdRuntime {
    /// Removes all images and leases, and the namespace itself once containerd has collected what they held. To be called
    /// when no container is left in it. Ok if there is no such namespace.
    ///
    /// # Errors
    /// If containerd does not answer, or still finds something in the namespace.
    pub async fn remove_namespace(&self) -> Result<(), RuntimeError> {
        for image in self.images().await? {
            self.remove_image(&image.reference).await?;
        }
        let client = &self.client;
        let leases = client.call(client.leases().list(client.request(ListRequest { filters: Vec::new() }))).await;
        let leases = leases.map_err(|status| client.error("list the leases of", &self.config.namespace, &status))?;
        for lease in leases.leases {
            let request = client.request(DeleteRequest { id: lease.id.clone(), sync: true });
            let gone = found(client.call(client.leases().delete(request)).await);
            gone.map_err(|status| client.error("delete the lease", &lease.id, &status))?;
        }
        // Giving one back makes containerd collect now what nothing holds.
        client.release(client.lease("hivemind-uninstall", 1).await?, true).await;
        let deadline = tokio::time::Instant::now() + COLLECTED;
        loop {
            let request = client.request(DeleteNamespaceRequest { name: self.config.namespace.clone() });
            match found(client.call(client.namespaces().delete(request)).await) {
                Ok(_) => return Ok(()),
                Err(_) if tokio::time::Instant::now() < deadline => tokio::time::sleep(AGAIN).await,
                Err(status) => return Err(client.error("delete the namespace", &self.config.namespace, &status)),
            }
        }
    }
}
