//! Version 1 of the documents.

mod app;
mod health;
mod labels;
mod policy;
mod tier;
mod validate;
mod validate_policy;

pub use app::{AppSpec, PortSpec, PullPolicy, Resources, RestartPolicy, StopSpec};
pub use health::{Check, HealthSpec};
pub use labels::validate_labels;
pub use policy::{
    BlockPeer, Entity, InstancePeer, Operator, PolicyPeer, PolicyPort, PolicyProtocol, PolicyRule, PolicySpec,
    PortMatch, Requirement, Selector,
};
pub use tier::{Action, MAX_PRIORITY, Tier, TierRule, TierSpec, validate_tier};
pub use validate::{MAX_REPLICAS, MIN_MEMORY, validate_app};
pub use validate_policy::validate_policy;
