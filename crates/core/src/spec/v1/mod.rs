//! Version 1 of the documents.

mod app;
mod balance;
mod container;
mod dns_name;
mod file;
mod health;
mod labels;
mod limit;
mod logs;
mod mount;
mod policy;
mod project;
mod selector;
mod service;
mod sidecar;
mod tier;
mod update;
mod validate;
mod validate_health;
mod validate_mounts;
mod validate_policy;
mod volume;

pub use app::{AppSpec, PortSpec, PullPolicy, Resources, RestartPolicy, StopSpec};
pub use balance::{
    Affinity, BalanceSpec, DEFAULT_AFFINITY, External, Internal, MAX_AFFINITY, MAX_SOURCE_RANGES, Method,
};
pub use container::{
    ContainerSpec, DEFAULT_CAPABILITIES, DeviceName, DeviceSpec, DnsSpec, ExtraHost, HOST_GATEWAY, HookSpec, HooksSpec,
    InitSpec, MAX_HOOK_SECONDS, Machine, Seccomp, SecuritySpec, TmpfsSpec, UNLIMITED, Ulimit, all_capabilities,
    capability, check_profile, device_name, extra_host, profile_for, seccomp_file, security_option, sysctl, tmpfs,
    ulimit,
};
pub use dns_name::{dns_name, dns_name_covers};
pub use file::{ContentSpec, FileMode, FileSpec, MAX_CONTENT};
pub use health::{Check, HealthSpec, Probe, ProbeSpec, ProbesSpec};
pub use labels::validate_labels;
pub use limit::{LimitSpec, MAX_BITS, MAX_PER_SECOND, MIN_BITS, validate_limits};
pub use logs::LogSpec;
pub use mount::{MAX_MOUNTS, MountSource, MountSpec, without_effect};
pub use policy::{
    BlockPeer, Entity, InstancePeer, Operator, Otherwise, PolicyPeer, PolicyPort, PolicyProtocol, PolicyRule,
    PolicySpec, PortMatch, Requirement, Selector,
};
pub use project::{
    Condition, Dependency, NETWORK_LABEL, POLICY_PREFIX, PROJECT_LABEL, ProjectSpec, REMOVING_LABEL, REMOVING_VOLUMES,
    SERVICE_LABEL, SHARED_NETWORK, SHARED_NETWORK_LABEL,
};
pub use selector::{SELECTOR_FORM, conditions};
pub use service::{MAX_SERVICES, ServedPort, ServiceSpec};
pub use sidecar::{MAX_SIDECARS, SidecarSpec};
pub use tier::{Action, MAX_PRIORITY, Tier, TierRule, TierSpec, Way, validate_tier, validate_tier_of};
pub use update::{DEFAULT_PROGRESS, OnContent, OnFailure, Order, Portion, Room, UpdateSpec};
pub use validate::{MAX_REPLICAS, MIN_MEMORY, validate_app};
pub use validate_mounts::is_target;
pub use validate_policy::{DNS_ONLY_OPENS, validate_policy};
pub use volume::{MAX_VOLUME, MIN_VOLUME, VolumeSpec, validate_volume};
