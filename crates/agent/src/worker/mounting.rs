//! What is mounted for the instance's container.

use super::Worker;
use crate::{fault::Fault, mounts};
use hivemind_core::model::{ErrorCode, Instance};
use hivemind_runtime::Mount;

impl Worker {
    /// Brings about what is mounted for the container that is to be made or started.
    pub(super) async fn mount(&mut self, instance: &Instance) -> Result<Vec<Mount>, Fault> {
        let Some(image) = &self.image else {
            return Err(Fault { code: ErrorCode::Internal, message: "the image is not known".into() });
        };
        let (mounts, contents) = mounts::prepare(&self.shared, &self.id, instance, image).await?;
        self.mounted = true;
        // Said with the start of the process.
        self.contents = contents;
        Ok(mounts)
    }
}
