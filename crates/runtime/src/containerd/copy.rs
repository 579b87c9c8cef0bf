//! What an image has at a path, copied out of it: the first content of a volume.

use std::{io, path::Path};

use super::{
    ContainerdRuntime,
    containers::{file_error, mount_plan},
};
use crate::{Image, RuntimeError, rootfs};

impl ContainerdRuntime {
    pub(super) async fn copy_of_image(&self, image: &Image, path: &str, into: &Path) -> Result<(), RuntimeError> {
        tokio::fs::create_dir_all(&self.config.files_dir)
            .await
            .map_err(file_error("make", self.config.files_dir.clone()))?;
        // The view is not held by anything, so that a crash leaves nothing: the garbage collector may take it in this
        // moment, and then it is made again. Once it is mounted, the image holds what it shows.
        let key = format!("hivemind-copy-{:016x}", rand::random::<u64>());
        let mut last = None;
        for _ in 0..3 {
            let plan = mount_plan(self.snapshots.view(&key, &image.chain_id).await?);
            let copied = rootfs::copy(plan, self.config.files_dir.clone(), path.to_owned(), into.to_owned()).await;
            match copied {
                Ok(()) => return self.snapshots.remove(&key).await,
                Err(error) => {
                    let full = error.kind() == io::ErrorKind::StorageFull;
                    last = Some(error);
                    if full {
                        break;
                    }
                }
            }
        }
        self.snapshots.remove(&key).await?;
        let error = last.unwrap_or_else(|| io::ErrorKind::NotFound.into());
        Err(file_error("copy what the image has into", into.to_owned())(error))
    }
}
