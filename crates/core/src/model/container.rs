//! An instance's containers: their ids, and how those are that run beside the app's.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ErrorCode, Exit, InstanceId, InstanceStatus, InvalidName, Phase, SidecarName, Timestamp};

/// One container of an instance: the app's own, or a sidecar. As text it is the instance's id, and behind a point the
/// sidecar's name: that names the containerd container, its cgroup, its folder of generated files and its mounts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId {
    instance: InstanceId,
    sidecar: Option<SidecarName>,
    text: String,
}

impl ContainerId {
    /// The sidecar of that name of an instance.
    pub fn of_sidecar(instance: InstanceId, name: SidecarName) -> Self {
        let text = format!("{instance}.{name}");
        Self { instance, sidecar: Some(name), text }
    }

    /// Whose it is.
    pub const fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// Which sidecar it is; `None` is the app's own container.
    pub const fn sidecar(&self) -> Option<&SidecarName> {
        self.sidecar.as_ref()
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl From<InstanceId> for ContainerId {
    /// The app's own container.
    fn from(instance: InstanceId) -> Self {
        let text = instance.to_string();
        Self { instance, sidecar: None, text }
    }
}

impl From<&InstanceId> for ContainerId {
    fn from(instance: &InstanceId) -> Self {
        instance.clone().into()
    }
}

impl From<&Self> for ContainerId {
    fn from(id: &Self) -> Self {
        id.clone()
    }
}

impl FromStr for ContainerId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text.split_once('.') {
            None => Ok(text.parse::<InstanceId>()?.into()),
            Some((instance, name)) => Ok(Self::of_sidecar(instance.parse()?, name.parse()?)),
        }
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What the agent saw of a sidecar of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct SidecarStatus {
    /// Where it is in its life.
    pub phase: Phase,
    /// The code of the fault that keeps it from being Ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
    /// Why it is there, in the user's words; empty when there is nothing to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// How often its process was started again.
    #[serde(default)]
    pub restarts: u32,
    /// How its process last ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<Exit>,
    /// The digest of the image it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// When its process was last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
}

impl InstanceStatus {
    /// How often that one of its containers was started again that was most often.
    pub fn most_restarts(&self) -> u32 {
        self.sidecars.values().map(|it| it.restarts).fold(self.restarts, u32::max)
    }

    /// Whether the process of any of its containers has ended yet.
    pub fn has_ended(&self) -> bool {
        self.last_exit.is_some() || self.sidecars.values().any(|it| it.last_exit.is_some())
    }
}

impl From<&InstanceStatus> for SidecarStatus {
    /// A sidecar's status is said in the words of an instance's.
    fn from(status: &InstanceStatus) -> Self {
        let InstanceStatus { phase, code, message, restarts, last_exit, image_digest, started_at, .. } = status.clone();
        Self { phase, code, message, restarts, last_exit, image_digest, started_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_text() {
        let instance = InstanceId::from_bits(7);
        let proxy = ContainerId::of_sidecar(instance.clone(), "proxy".parse().expect("a name"));
        for (id, sidecar) in [(ContainerId::from(&instance), None), (proxy, Some("proxy"))] {
            let read: ContainerId = id.as_str().parse().expect("an id");
            assert_eq!(read, id);
            assert_eq!((read.instance(), read.sidecar().map(SidecarName::as_str)), (&instance, sidecar));
        }
        for wrong in ["", "x", ".proxy", "haaaaaaaaa.", "haaaaaaaaa.A", "haaaaaaaaa.a.b", "haaaaaaaaa./"] {
            assert!(wrong.parse::<ContainerId>().is_err(), "{wrong}");
        }
    }
}
