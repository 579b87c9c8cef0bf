//! How the API shows flows and drops.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use hivemind_core::model::{Instance, TenantName, Timestamp};

/// What is said of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FlowKind {
    /// It is in the table.
    Live,
    /// It has begun.
    Begun,
    /// It is over.
    Ended,
    /// Packets were dropped: those of a kind in a list, the first of a kind in a stream.
    Dropped,
    /// Packets passed that are told like drops: policies on trial would have denied them (`audit`), or the table of flows
    /// had no room for them (`untracked`).
    Tried,
    /// The reader was too slow for some.
    Missed,
}

/// What became of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FlowVerdict {
    /// They pass.
    Forwarded,
    /// They do not.
    Dropped,
}

/// One end of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlowEndView {
    /// An instance's name, `host` (the node), `service` (a virtual address), `gone` (an address of instances that none
    /// has now), `world`, or `unknown` where a packet's headers could not be read.
    pub who: String,
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// Its port; of an ICMP echo the identifier, of another ICMP message its type at whom it is for.
    pub port: u16,
    /// The instance's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Its app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Packets that it has sent.
    pub packets: u64,
    /// Bytes of them, with the Ethernet header.
    pub bytes: u64,
}

/// Why and where packets were dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DroppedView {
    /// Why, as `policy-in`.
    pub reason: String,
    /// The instance at whose device it was, or `node`.
    pub at: String,
    /// `out` of it or `in`.
    pub direction: String,
}

/// Who has a limit: an instance, or a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitOfView {
    /// The tenant.
    pub tenant: String,
    /// The namespace of the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its app, whose specification has the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

impl LimitOfView {
    /// An instance's.
    pub(super) fn instance(instance: &Instance) -> Self {
        let scope = &instance.app.scope;
        Self {
            tenant: scope.tenant.to_string(),
            namespace: Some(scope.namespace.to_string()),
            app: Some(instance.app.name.to_string()),
            instance: Some(instance.name()),
        }
    }

    /// A tenant's.
    pub(super) fn tenant(tenant: &TenantName) -> Self {
        Self { tenant: tenant.to_string(), namespace: None, app: None, instance: None }
    }
}

impl fmt::Display for LimitOfView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.instance {
            Some(instance) => f.write_str(instance),
            None => write!(f, "tenant {}", self.tenant),
        }
    }
}

/// A flow, or packets of one kind that were dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlowView {
    /// What is said of it.
    pub kind: FlowKind,
    /// What became of its packets.
    pub verdict: FlowVerdict,
    /// Who began it; who sent what was dropped.
    pub from: FlowEndView,
    /// Who was reached, or was to be.
    pub to: FlowEndView,
    /// `tcp`, `udp`, `icmp`, `sctp`, or the number.
    pub protocol: String,
    /// The service that was asked for, as `tenant/namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The virtual or published address that was asked for, where the packets themselves carry it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// The policy whose rule decided; without one, none was needed, or none allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Which of its rules in this direction, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    /// Who decided, in words: a rule, that no rule allows it, source ranges, whose limit, which policies on trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Of what was dropped, and of what only passed because policies are on trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<DroppedView>,
    /// Whose limit it was dropped at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<LimitOfView>,
    /// Whether it is what an instance's kernel says of itself when its interface goes up, and nobody's doing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub housekeeping: bool,
    /// When it began.
    pub first: Timestamp,
    /// When its last packet came.
    pub last: Timestamp,
    /// Whether both ends have spoken.
    pub answered: bool,
    /// Whether it is over.
    pub closed: bool,
    /// How many documents the reader was too slow for.
    #[serde(default, skip_serializing_if = "is_none")]
    pub missed: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_none(missed: &u64) -> bool {
    *missed == 0
}

impl FlowEndView {
    /// Makes it that instance's.
    pub(super) fn is_of(&mut self, instance: &Instance) {
        self.who = instance.name();
        self.instance = Some(instance.id.to_string());
        self.app = Some(instance.app.name.to_string());
        self.namespace = Some(instance.app.scope.namespace.to_string());
        self.tenant = Some(instance.app.scope.tenant.to_string());
    }

    /// Whether it is the instance of that name or id.
    pub(super) fn is_instance(&self, wanted: &str) -> bool {
        self.instance.as_ref().is_some_and(|id| id == wanted || self.who == wanted)
    }

    /// Whether a word means it: `world`, `host`, an address, an instance's name or id, an app with or without where
    /// it is.
    pub(super) fn is(&self, wanted: &str) -> bool {
        if let Ok(address) = wanted.parse::<IpAddr>() {
            return self.address == Some(address);
        }
        self.who == wanted || self.is_instance(wanted) || self.is_app(wanted)
    }

    fn is_app(&self, wanted: &str) -> bool {
        let own = [self.app.as_deref(), self.namespace.as_deref(), self.tenant.as_deref()];
        let mut words = wanted.rsplit('/');
        let all = words.by_ref().zip(own).all(|(word, own)| own == Some(word));
        all && wanted.split('/').count() <= own.len()
    }
}

impl FlowView {
    /// So many documents were not read in time.
    pub(super) fn missed(missed: u64, at: Timestamp) -> Self {
        Self { missed, ..Self::default_at(at) }
    }

    /// Nothing but the time.
    pub fn default_at(at: Timestamp) -> Self {
        Self {
            kind: FlowKind::Missed,
            verdict: FlowVerdict::Forwarded,
            from: FlowEndView::default(),
            to: FlowEndView::default(),
            protocol: String::new(),
            service: None,
            asked: None,
            policy: None,
            rule: None,
            by: None,
            dropped: None,
            limit: None,
            housekeeping: false,
            first: at,
            last: at,
            answered: false,
            closed: false,
            missed: 0,
        }
    }

    /// Whether the service asked for has that name, with or without where it is.
    pub(super) fn service_is(&self, wanted: &str) -> bool {
        let named = |service: &str| service == wanted || service.ends_with(&format!("/{wanted}"));
        self.service.as_deref().is_some_and(named)
    }
}
