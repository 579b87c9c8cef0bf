//! Makes room where the images are. When that disk is fuller than a mark, images that nothing uses go, those that were
//! used longest ago first, until it is emptier than another. What an instance of this node runs with never goes, nor what an
//! app is made of: it may have no instance now, and its image may have come out of an archive.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use hivemind_core::{
    lifecycle::clock,
    model::{EventKind, NodeDesired, NodeName, Subject, Timestamp},
};
use hivemind_observe::{Events, Metrics};
use hivemind_runtime::{Disk, ImageStore, RuntimeError, StoredImage, complete_reference};

/// How often the disk is looked at.
const PERIOD: Duration = Duration::from_secs(30);

/// When images go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageMarks {
    /// Fuller than so many hundredths of the disk: images go. 100: never.
    pub high: u8,
    /// Until it is no fuller than so many.
    pub low: u8,
    /// For so long an image stays after its last use.
    pub rest: Duration,
}

/// What keeping images needs.
#[derive(Debug)]
pub struct ImageKeeper {
    /// The images.
    pub images: Arc<dyn ImageStore>,
    /// What the node is to run.
    pub desired: watch::Receiver<Arc<NodeDesired>>,
    /// The node.
    pub node: NodeName,
    /// Where it says what it has removed.
    pub events: Events,
    /// Where it counts that.
    pub metrics: Metrics,
    /// When it does so.
    pub marks: ImageMarks,
}

impl ImageKeeper {
    /// Runs until cancelled.
    pub async fn run(mut self) {
        // Before everything is known, everything would seem unused.
        let _ = self.desired.wait_for(|desired| desired.revision > 0).await;
        let mut used = BTreeMap::new();
        let mut stuck = false;
        loop {
            let now = clock::now();
            let in_use = self.in_use();
            used.extend(in_use.iter().map(|name| (name.clone(), now)));
            match self.round(&in_use, &mut used, now).await {
                Ok(disk) => {
                    let full = disk.is_fuller_than(self.marks.high);
                    if full && !stuck {
                        let text = format!("{} is {} % full, and no image can go", disk.path.display(), disk.percent());
                        self.say(EventKind::Warning, "ImageDiskFull", text);
                    }
                    stuck = full;
                }
                Err(error) => tracing::warn!(%error, "no room could be made where the images are; trying again"),
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// The images of the instances that are, or are to be, and of all apps.
    fn in_use(&self) -> BTreeSet<String> {
        let desired = self.desired.borrow();
        let images = desired.instances.values().flat_map(|instance| instance.spec.images());
        let of_apps = desired.images.values().flat_map(|images| images.iter().map(String::as_str));
        images.chain(of_apps).filter_map(|image| complete_reference(image).ok()).collect()
    }

    /// Looks at the disk, and removes what is to go. Returns how the disk is afterwards.
    async fn round(
        &self,
        in_use: &BTreeSet<String>,
        used: &mut BTreeMap<String, Timestamp>,
        now: Timestamp,
    ) -> Result<Disk, RuntimeError> {
        let mut disk = self.images.disk().await?;
        if !disk.is_fuller_than(self.marks.high) {
            return Ok(disk);
        }
        let images = self.images.images().await?;
        used.retain(|name, _| images.iter().any(|image| image.reference == *name));
        for name in expendable(&images, used, in_use, now, self.marks.rest) {
            if !disk.is_fuller_than(self.marks.low) {
                break;
            }
            // An instance may have come meanwhile.
            if !self.in_use().contains(&name) && self.images.remove_image(&name).await? {
                self.metrics.image_removed();
                let text = format!("image {name} is removed: {} was {} % full", disk.path.display(), disk.percent());
                self.say(EventKind::Normal, "ImageRemoved", text);
                disk = self.images.disk().await?;
            }
        }
        Ok(disk)
    }

    fn say(&self, kind: EventKind, reason: &str, text: String) {
        self.events.emit(kind, reason, &Subject::Node(self.node.clone()), text);
    }
}

/// The images that may go, those that were used longest ago first. One that was never seen in use counts from when it came.
fn expendable(
    images: &[StoredImage],
    used: &BTreeMap<String, Timestamp>,
    in_use: &BTreeSet<String>,
    now: Timestamp,
    rest: Duration,
) -> Vec<String> {
    let last = |image: &StoredImage| used.get(&image.reference).copied().unwrap_or(image.created_at);
    let rested =
        |at: Timestamp| u128::try_from(now.as_millis() - at.as_millis()).is_ok_and(|age| age >= rest.as_millis());
    let unused = images.iter().filter(|image| !in_use.contains(&image.reference));
    let mut unused: Vec<_> =
        unused.map(|image| (last(image), &image.reference)).filter(|(at, _)| rested(*at)).collect();
    unused.sort();
    unused.into_iter().map(|(_, name)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_goes_first_and_what_is_used_never() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        let image = |name: &str, created: i64| StoredImage {
            reference: name.into(),
            digest: String::new(),
            created_at: at(created),
            content: None,
        };
        let images = [image("new", 95), image("old", 1), image("used", 0), image("lately", 2), image("never", 10)];
        let used = [("old", 50), ("lately", 85), ("used", 100)].map(|(name, when)| (name.to_owned(), at(when))).into();
        let in_use = BTreeSet::from(["used".to_owned()]);
        let rest = Duration::from_secs(10);
        assert_eq!(expendable(&images, &used, &in_use, at(100), rest), ["never", "old", "lately"]);
        assert!(expendable(&images, &used, &in_use, at(0), rest).is_empty(), "the clock was set back");
    }
}
