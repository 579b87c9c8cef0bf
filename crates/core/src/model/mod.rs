//! Floor 0, the words of the product: ids, quantities, states, objects and errors.
//!
//! Nothing here does I/O, reads a clock or draws a random number.

mod cluster;
mod container;
mod content;
mod desired;
mod done;
mod error;
mod event;
mod ids;
mod index;
mod object;
mod quantity;
mod rate;
mod rollout;
mod shares;
mod signal;
mod tier;
mod time;
mod volume;

pub use cluster::{ClusterSnapshot, Cursor, Row};
pub use container::{ContainerId, SidecarStatus};
pub use content::{Content, ContentKind, ContentVersions, Hidden};
pub use desired::{Backend, FeedMessage, NodeDesired, Peer, ServedService, StatusReport};
pub use done::Done;
pub use error::{ErrorCode, Problem, chain};
pub use event::{Event, EventKind, Subject};
pub use ids::{
    AppKey, AppName, ContentKey, ContentName, DNS_ZONE, InstanceId, InvalidName, NamespaceName, NodeName, PolicyKey,
    PolicyName, Scope, ServiceKey, ServiceName, SidecarName, TenantName, VolumeId, VolumeKey, VolumeName, in_dns_zone,
};
pub use index::{Held, HeldAddresses};
pub use object::{
    Addresses, App, AppStatus, Desired, Exit, Instance, InstanceStatus, NAMESPACE_NAME_LABEL, Namespace, Node,
    NodeStatus, Phase, Policy, PortProto, Protocol, Service, ServicePort, Tenant,
};
pub use quantity::{Bytes, InvalidQuantity, MilliCpu};
pub use rate::{BitRate, PerSecond};
pub use rollout::{Cause, Outcome, Past, Rollout, RolloutState, Undone};
pub use shares::{DEFAULT_WEIGHT, MAX_WEIGHT, Pin, Shares};
pub use signal::signal_number;
pub use tier::{TierKey, TierPolicy};
pub use time::Timestamp;
pub use volume::Volume;

/// A revision of the store: it grows by one with every committed transaction that changes a row.
/// 0 is the empty store.
pub type Revision = u64;
