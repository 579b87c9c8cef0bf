//! Floor 3: turns desired state into instances, services and feeds.
//!
//! [`Control`] is the handle; one loop ([`run`]) is the only writer of the store. It keeps a decoded snapshot of all
//! rows, publishes it, and answers a command only when the snapshot contains its result, so that whoever reads after
//! writing sees what was written (`docs/adr/0004-control-writes.md`).

mod commands;
mod contents;
mod decode;
mod error;
mod feed;
mod load;
mod objects;
mod once;
mod project;
mod run;
#[cfg(test)]
mod tests;
mod transaction;
mod volumes;

pub use contents::NewContent;
pub use decode::Unreadable;
pub use error::{ControlError, LoadError};
pub use load::{Loaded, load};
pub use objects::{Changed, ObjectChange, ObjectName, RowChange};
pub use once::Once;
pub use project::{AppAction, AppChanged, ProjectChange, ProjectChanged, ProjectKey};
pub use run::{ControlConfig, start};

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use utoipa::ToSchema;

use hivemind_core::{
    lifecycle::clock,
    model::{
        App, AppKey, Cause, ClusterSnapshot, FeedMessage, Node, NodeName, NodeStatus, Revision, StatusReport, VolumeId,
        VolumeKey,
    },
    spec::v1::AppSpec,
};

/// The handle of the control loop; cheap to clone.
#[derive(Clone, Debug)]
pub struct Control {
    commands: mpsc::Sender<Command>,
    snapshot: watch::Receiver<Arc<ClusterSnapshot>>,
    /// What is asked for through this handle is done once.
    once: Option<Once>,
}

/// What a command did, as the API says it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Written {
    /// The revision that has it.
    pub revision: Revision,
    /// Whether the app is new.
    pub created: bool,
    /// The app's generation after it.
    pub generation: u64,
    /// The generation that it goes back to, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_to: Option<u64>,
}

/// A condition on a command: the object's row was last written at this revision (the ETag of a former read).
pub type IfMatch = Option<Revision>;

type Answer<T> = oneshot::Sender<Result<T, ControlError>>;

/// What the loop is asked to do.
#[derive(Debug)]
enum Command {
    Write { key: AppKey, change: AppChange, if_match: IfMatch, once: Option<Once>, answer: Answer<Written> },
    Project { key: ProjectKey, change: ProjectChange, once: Option<Once>, answer: Answer<ProjectChanged> },
    Change { change: ObjectChange, if_match: IfMatch, once: Option<Once>, answer: Answer<Changed> },
    Register { node: Box<Node>, status: Box<NodeStatus>, answer: Answer<()> },
    Feed { node: NodeName, answer: Answer<mpsc::Receiver<FeedMessage>> },
    VolumeGone { key: VolumeKey, id: VolumeId, answer: Answer<()> },
    Report { reports: Vec<StatusReport>, answer: Answer<()> },
}

/// A change of an app's row.
#[derive(Clone, Debug, PartialEq)]
pub enum AppChange {
    /// Creates it, or makes it so.
    Deploy(Box<AppSpec>),
    /// Only the number of instances.
    Scale(u32),
    /// Replaces all instances.
    Restart,
    /// To this generation; without one, to the last that was in place and is another than now.
    RollBack(Option<u64>),
    /// Stops the instances and removes it.
    Remove,
}

impl Control {
    /// A handle through which the same request is done once: whoever asks again with the same key gets the first answer.
    pub fn once(&self, once: Option<Once>) -> Self {
        Self { once, ..self.clone() }
    }

    /// Everything, as of its revision.
    pub fn snapshot(&self) -> Arc<ClusterSnapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Every later snapshot; intermediate ones may be skipped.
    pub fn subscribe(&self) -> watch::Receiver<Arc<ClusterSnapshot>> {
        self.snapshot.clone()
    }

    /// Creates the app or changes it to `spec`. The same spec twice changes nothing.
    /// Fails with all faults of the spec at once; if a DNS name or a published port is another app's; or if
    /// `if_match` does not hold.
    pub async fn deploy(&self, key: AppKey, spec: AppSpec, if_match: IfMatch) -> Result<Written, ControlError> {
        self.write(key, AppChange::Deploy(Box::new(spec)), if_match).await
    }

    /// What [`Control::write`] would answer now, and the app's row as it would be; changes nothing.
    pub fn preview(
        &self,
        key: &AppKey,
        change: AppChange,
        if_match: IfMatch,
    ) -> Result<(Written, Option<App>), ControlError> {
        let snapshot = self.snapshot();
        let before = snapshot.apps.get(key);
        let after = commands::app_after(&snapshot, key, change, if_match, clock::now())?;
        let back_to = match &after {
            Some((_, Cause::RolledBack(to))) => Some(*to),
            _ => None,
        };
        let app = after.map(|(app, _)| app).or_else(|| before.map(|row| (*row.object).clone()));
        let written = Written {
            back_to,
            revision: before.map_or(0, |row| row.modified),
            created: before.is_none(),
            generation: app.as_ref().map_or(0, |app| app.generation),
        };
        Ok((written, app))
    }

    /// Changes only the number of instances.
    pub async fn scale(&self, key: &AppKey, replicas: u32, if_match: IfMatch) -> Result<Written, ControlError> {
        self.write(key.clone(), AppChange::Scale(replicas), if_match).await
    }

    /// Replaces all instances, one after the other.
    pub async fn restart(&self, key: &AppKey, if_match: IfMatch) -> Result<Written, ControlError> {
        self.write(key.clone(), AppChange::Restart, if_match).await
    }

    /// Makes the app what it was at a generation that is kept; without one, at the last that was in place and is another
    /// than now. The number of instances stays.
    pub async fn roll_back(&self, key: &AppKey, to: Option<u64>, if_match: IfMatch) -> Result<Written, ControlError> {
        self.write(key.clone(), AppChange::RollBack(to), if_match).await
    }

    /// Stops the instances and removes the app and its services.
    pub async fn remove(&self, key: &AppKey, if_match: IfMatch) -> Result<Written, ControlError> {
        self.write(key.clone(), AppChange::Remove, if_match).await
    }

    /// Changes an app's row. Fails as [`Control::deploy`] does.
    pub async fn write(&self, key: AppKey, change: AppChange, if_match: IfMatch) -> Result<Written, ControlError> {
        self.ask(|answer| Command::Write { key, change, if_match, once: self.once.clone(), answer }).await
    }

    /// Changes the apps and policies of a project together: all of it, or nothing.
    pub async fn project(&self, key: ProjectKey, change: ProjectChange) -> Result<ProjectChanged, ControlError> {
        self.ask(|answer| Command::Project { key, change, once: self.once.clone(), answer }).await
    }

    /// What [`Control::project`] would answer now; changes nothing.
    pub fn preview_project(&self, key: &ProjectKey, change: ProjectChange) -> Result<ProjectChanged, ControlError> {
        project::after(&self.snapshot(), key, change, clock::now()).map(|plan| plan.outcome)
    }

    /// Changes a tenant, a namespace, a policy or a volume. What is as it should be is left as it is.
    pub async fn change(&self, change: ObjectChange, if_match: IfMatch) -> Result<Changed, ControlError> {
        self.ask(|answer| Command::Change { change, if_match, once: self.once.clone(), answer }).await
    }

    /// What [`Control::change`] would answer now, and the rows that it would write; changes nothing.
    pub fn preview_change(
        &self,
        change: ObjectChange,
        if_match: IfMatch,
    ) -> Result<(Changed, Vec<RowChange>), ControlError> {
        let (snapshot, object) = (self.snapshot(), change.object());
        let rows = objects::rows_after(&snapshot, change, if_match, clock::now())?;
        Ok((objects::outcome(&snapshot, &object, &rows), rows))
    }

    /// Creates or updates a node and its status.
    pub async fn register_node(&self, node: Node, status: NodeStatus) -> Result<(), ControlError> {
        let (node, status) = (Box::new(node), Box::new(status));
        self.ask(|answer| Command::Register { node, status, answer }).await
    }

    /// The feed of a node: everything, the end mark, then changes.
    pub async fn feed(&self, node: &NodeName) -> Result<mpsc::Receiver<FeedMessage>, ControlError> {
        self.ask(|answer| Command::Feed { node: node.clone(), answer }).await
    }

    /// What agents saw. Many reports are written in one transaction.
    pub async fn report(&self, reports: Vec<StatusReport>) -> Result<(), ControlError> {
        self.ask(|answer| Command::Report { reports, answer }).await
    }

    /// The node has removed what a volume held: its row goes.
    pub async fn volume_gone(&self, key: VolumeKey, id: VolumeId) -> Result<(), ControlError> {
        self.ask(|answer| Command::VolumeGone { key, id, answer }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, ControlError> {
        let (answer, result) = oneshot::channel();
        self.commands.send(command(answer)).await.map_err(|_| ControlError::Stopping)?;
        result.await.map_err(|_| ControlError::Stopping)?
    }
}
