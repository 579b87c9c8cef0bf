//! The image of an instance.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{Fault, Worker, words};
use hivemind_core::{
    model::{EventKind, Instance, Phase},
    spec::v1::PullPolicy,
};
use hivemind_runtime::{Image, PullProgress};

impl Worker {
    pub(super) async fn ensure_image(&mut self, instance: &Instance) -> Result<(), Fault> {
        let (progress, mut seen) = watch::channel(PullProgress::default());
        let runtime = Arc::clone(&self.shared.runtime);
        let reference = self.image_of_stage(instance);
        let fetch = runtime.ensure_image(&reference, instance.spec.pull, progress);
        tokio::pin!(fetch);
        // A few a second are enough for a progress bar.
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        let mut fetched = false;
        let image = loop {
            tokio::select! {
                biased;
                image = &mut fetch => break image?,
                _ = tick.tick() => {
                    let now = seen.borrow_and_update().clone();
                    if !now.step.is_empty() && now.step != "done" {
                        fetched = true;
                        self.say(instance, Phase::Pulling, words::progress(&now), None);
                    }
                }
            }
        };
        if fetched {
            self.event(EventKind::Normal, "Pulled", instance, format!("{} is on the node", image.reference));
        }
        self.take_image(instance, image);
        Ok(())
    }

    fn take_image(&mut self, instance: &Instance, image: Image) {
        // Not of one that only comes before.
        if self.image_of_stage(instance) == instance.spec.image {
            self.status.image_digest = Some(image.digest.clone());
            self.status.exposed.clone_from(&image.exposed);
        }
        self.image = Some(image);
        self.seen.image = true;
    }

    /// The image of a container that this process did not make itself.
    pub(super) async fn recall_image(&mut self, instance: &Instance) {
        if self.image.is_none() {
            let (progress, _) = watch::channel(PullProgress::default());
            let known = self.shared.runtime.ensure_image(&instance.spec.image, PullPolicy::Never, progress).await;
            match known {
                Ok(image) => self.take_image(instance, image),
                Err(error) => tracing::debug!(instance = %instance.id, %error, "its image is no longer known"),
            }
        }
    }
}
