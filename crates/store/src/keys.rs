//! The keys of the store. Tenant and namespace are in every key that belongs to someone.

use hivemind_core::model::{
    AppKey, ContentKey, ContentKind, InstanceId, NodeName, PolicyKey, Scope, ServiceKey, TenantName, TierKey, VolumeKey,
};

/// All apps.
pub const APPS: &str = "/v1/apps/";
/// All instances.
pub const INSTANCES: &str = "/v1/instances/";
/// All statuses of instances.
pub const INSTANCE_STATUS: &str = "/v1/instance-status/";
/// How far all apps are on the way to their newest generation.
pub const ROLLOUTS: &str = "/v1/rollouts/";
/// The generations that all apps had.
pub const HISTORY: &str = "/v1/history/";
/// All services.
pub const SERVICES: &str = "/v1/services/";
/// All tenants.
pub const TENANTS: &str = "/v1/tenants/";
/// All namespaces.
pub const NAMESPACES: &str = "/v1/namespaces/";
/// All policies.
pub const POLICIES: &str = "/v1/policies/";
/// All policies of tiers.
pub const TIERS: &str = "/v1/tier-policies/";
/// All volumes.
pub const VOLUMES: &str = "/v1/volumes/";
/// All secrets.
pub const SECRETS: &str = "/v1/secrets/";
/// All configs.
pub const CONFIGS: &str = "/v1/configs/";
/// What was answered to requests with a key.
pub const DONE: &str = "/v1/done/";
/// All nodes.
pub const NODES: &str = "/v1/nodes/";
/// All statuses of nodes.
pub const NODE_STATUS: &str = "/v1/node-status/";
/// Everything.
pub const ALL: &str = "/v1/";
/// The highest number that a service had in the data plane.
pub const LAST_SERVICE_ID: &str = "/v1/counters/service-id";

/// The addresses that were given last: what was freed before a restart is not given again at once.
pub const CURSOR: &str = "/v1/counters/addresses";

/// `/v1/apps/<tenant>/<namespace>/<app>`
pub fn app(key: &AppKey) -> String {
    format!("{APPS}{key}")
}

/// `/v1/instances/<tenant>/<namespace>/<app>/<id>`
pub fn instance(app: &AppKey, id: &InstanceId) -> String {
    format!("{INSTANCES}{app}/{id}")
}

/// `/v1/instance-status/<tenant>/<namespace>/<app>/<id>`
pub fn instance_status(app: &AppKey, id: &InstanceId) -> String {
    format!("{INSTANCE_STATUS}{app}/{id}")
}

/// `/v1/rollouts/<tenant>/<namespace>/<app>`
pub fn rollout(app: &AppKey) -> String {
    format!("{ROLLOUTS}{app}")
}

/// `/v1/history/<tenant>/<namespace>/<app>/<generation>`
pub fn past(app: &AppKey, generation: u64) -> String {
    format!("{HISTORY}{app}/{generation}")
}

/// `/v1/services/<tenant>/<namespace>/<service>`
pub fn service(key: &ServiceKey) -> String {
    format!("{SERVICES}{key}")
}

/// `/v1/tenants/<tenant>`
pub fn tenant(name: &TenantName) -> String {
    format!("{TENANTS}{name}")
}

/// `/v1/namespaces/<tenant>/<namespace>`
pub fn namespace(scope: &Scope) -> String {
    format!("{NAMESPACES}{scope}")
}

/// `/v1/policies/<tenant>/<namespace>/<policy>`
pub fn policy(key: &PolicyKey) -> String {
    format!("{POLICIES}{key}")
}

/// `/v1/tier-policies/<policy>`, or `/v1/tier-policies/<tenant>/<policy>`
pub fn tier(key: &TierKey) -> String {
    format!("{TIERS}{key}")
}

/// `/v1/volumes/<tenant>/<namespace>/<volume>`
pub fn volume(key: &VolumeKey) -> String {
    format!("{VOLUMES}{key}")
}

/// `/v1/secrets/<tenant>/<namespace>/<name>`, or `/v1/configs/…`
pub fn content(kind: ContentKind, key: &ContentKey) -> String {
    match kind {
        ContentKind::Secret => format!("{SECRETS}{key}"),
        ContentKind::Config => format!("{CONFIGS}{key}"),
    }
}

/// `/v1/done/<digest>`
pub fn done(digest: &str) -> String {
    format!("{DONE}{digest}")
}

/// `/v1/nodes/<node>`
pub fn node(name: &NodeName) -> String {
    format!("{NODES}{name}")
}

/// `/v1/node-status/<node>`
pub fn node_status(name: &NodeName) -> String {
    format!("{NODE_STATUS}{name}")
}
