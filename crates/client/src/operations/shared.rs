//! Made of the API's description by `cargo xtask docs`: what several operations can be asked.

use crate::documents::*;

/// How something is changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChangeArgs {
    /// Check only and change nothing; the answer says what would be done. Also as `dry_run`.
    #[serde(rename = "dryRun", skip_serializing_if = "Not::not")]
    pub dry_run: bool,
    /// Only if what it is about was last written at this revision.
    #[serde(skip)]
    pub if_match: Option<Revision>,
}

/// How a secret or a config is written.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ContentArgs {
    /// Give one that is there another content; without it that is refused.
    #[serde(skip_serializing_if = "Not::not")]
    pub replace: bool,
    /// Check only and change nothing; the answer says what would be done. Also as `dry_run`.
    #[serde(rename = "dryRun", skip_serializing_if = "Not::not")]
    pub dry_run: bool,
    /// Only if what it is about was last written at this revision.
    #[serde(skip)]
    pub if_match: Option<Revision>,
}

/// How something is done.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DryRunArgs {
    /// Check only and change nothing; the answer says what would be done. Also as `dry_run`.
    #[serde(rename = "dryRun", skip_serializing_if = "Not::not")]
    pub dry_run: bool,
}

/// Which flows are asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FlowArgs {
    /// Only flows that an instance of this tenant takes part in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Only flows that an instance of a namespace of this name takes part in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Only flows that an instance of an app of this name takes part in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Only flows of the instance of this name or id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Only flows of this address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Who began it: an instance's name or id, an app as `APP`, `NAMESPACE/APP` or `TENANT/NAMESPACE/APP`, an IP
    /// address, `world` or `host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Who was to be reached: the same, or a service's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Only flows with this port at one end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u32>,
    /// Only flows of this protocol: `tcp`, `udp`, `icmp`, `sctp`, or a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Only what was forwarded, or dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<FlowVerdict>,
    /// Only what was dropped for this reason, as `policy-in`; `audit`: what passed, and policies on trial would have
    /// denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// With `tenant` or `namespace`: also what is of the host and of no instance, which is the operator's to see.
    #[serde(skip_serializing_if = "Not::not")]
    pub host: bool,
}

/// What of a list over all namespaces is asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ListAllArgs {
    /// Only of this tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Only what has such labels, as Kubernetes writes it: `app=web,tier in (a, b),!old`.
    #[serde(rename = "labelSelector", skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<String>,
    /// Only what has such fields: `state=ready,name!=web`.
    #[serde(rename = "fieldSelector", skip_serializing_if = "Option::is_none")]
    pub field_selector: Option<String>,
}

/// What of a list is asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ListArgs {
    /// Only what has such labels, as Kubernetes writes it: `app=web,tier in (a, b),!old`.
    #[serde(rename = "labelSelector", skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<String>,
    /// Only what has such fields: `state=ready,name!=web`.
    #[serde(rename = "fieldSelector", skip_serializing_if = "Option::is_none")]
    pub field_selector: Option<String>,
}
