//! Version 1 of the documents.

mod app;
mod health;
mod policy;
mod validate;

pub use app::{AppSpec, PortSpec, PullPolicy, Resources, RestartPolicy, StopSpec};
pub use health::{Check, HealthSpec};
pub use policy::{
    BlockPeer, Entity, InstancePeer, Operator, PolicyPeer, PolicyPort, PolicyProtocol, PolicyRule, PolicySpec,
    PortMatch, Requirement, Selector,
};
pub use validate::{MAX_REPLICAS, MIN_MEMORY, validate_app};
