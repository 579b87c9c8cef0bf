//! Floor 1, decisions: from policies to the rows that the data plane decides by. Pure.
//!
//! What a packet is judged by (`docs/adr/0007-policies.md`):
//! * An instance belongs to a *class*: its scope and which selectors of peers match it. Classes, not instances, are in
//!   the rules, so that a selector that matches ten thousand instances is a few rows.
//! * The policies that are about an instance are its *sets*: the operator's and the tenant's of the tier `Admin`, its
//!   namespace's, the tenant's and the operator's of the tier `Baseline`. Instances of the same set share their rules.
//! * The host has sets as well: what always passes, its rules, and those of its published ports.
//! * Addresses of blocks belong to a *block class*: which blocks of rules hold them.
//! * Ports belong to an *interval* between the ports that rules name; its number is its first port and its length, so
//!   that another interval has another number.
//!
//! Numbers of classes, sets and rules are hashes of what they stand for: they stay the same over changes of other
//! policies and restarts of the daemon, so that rows can be replaced one by one while packets are judged. Those of
//! classes and of sets of namespaces go over to what the same instances have next (`keep`), so that one policy more
//! writes its own rows and no others.

mod blocks;
mod cache;
mod classes;
mod compile;
mod document;
mod explain;
mod failsafe;
mod hosts;
mod judge;
mod keep;
mod matching;
mod number;
mod retired;
mod room;
mod sets;
#[cfg(test)]
mod tests;
mod trials;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Bound,
};

use imbl::OrdMap;
use ipnet::IpNet;

use hivemind_core::{
    model::{InstanceId, PolicyKey, TierKey},
    spec::v1::{Action, PolicyProtocol},
};

use keep::Given;

pub use cache::Cache;
pub use compile::{compile, compile_with};
pub use document::{Document, Expectation, read, read_expectations, read_port};
pub use explain::{Asked, End, Held, Leg, Subject, closed_by_host, explain};
pub use failsafe::{Failsafe, FailsafePort};
pub use hosts::{Hosts, KnownNames, may_stand_for};
pub use judge::{Peer, Verdict, judge, judge_host};
pub use retired::{MOST_RETIRED, Retired};
pub use room::{MAX_BLOCK_ROWS, MAX_RULE_ROWS, too_large};
pub use trials::{Trial, TrialPlace, Trials};

/// Numbers of classes and of block classes begin here; the highest bit tells a block class.
pub const FIRST_CLASS: u32 = 256;
/// The bit that tells a block class from a class.
pub const BLOCK: u32 = 1 << 31;

pub use hivemind_ebpf::policy::{
    ADMIN, ALL_PORTS, ANYBODY, BASELINE, FAILSAFE, HOST, HOST_RULES, OTHERS, OWN, PUBLISHED_RULES, PUBLISHED_TRIAL,
    SETS, TENANT_ADMIN, TENANT_BASELINE, TRIAL_RULES, WORLD,
};

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Into the instance.
    In,
    /// Out of it.
    Out,
    /// To a published port of the host, which is into it with other rules.
    Published,
}

impl Direction {
    /// `in`, `out` or `published`
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Published => "published",
        }
    }

    /// The direction that rules are looked up by.
    pub const fn asked(self) -> Self {
        match self {
            Self::In | Self::Published => Self::In,
            Self::Out => Self::Out,
        }
    }
}

/// Everything that policies make of a node's view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// The class and the tenant of every instance of the cluster.
    pub peers: BTreeMap<InstanceId, PeerClass>,
    /// The set of every instance of this node that some policy is about.
    pub endpoints: BTreeMap<InstanceId, EndpointPolicy>,
    /// That of the host, if some policy is about it.
    pub host: Option<EndpointPolicy>,
    /// What is allowed, denied or left to the next tier.
    pub rules: OrdMap<RuleKey, RuleRow>,
    /// Where intervals of ports begin, by protocol; 0 always does.
    pub ports: BTreeMap<PolicyProtocol, BTreeSet<u16>>,
    /// The block class of addresses, by longest prefix.
    pub blocks: OrdMap<IpNet, u32>,
    /// The sets whose rules name blocks.
    pub with_blocks: BTreeSet<u32>,
    /// The names of hosts that rules of a set have.
    pub hosts: BTreeMap<u32, BTreeSet<String>>,
    /// What rules are called, by their number.
    pub names: BTreeMap<u32, RuleName>,
    /// What has which number, for the next time.
    pub(crate) given: Given,
}

impl Compiled {
    /// Whether a rule of an endpoint's sets names a block of addresses.
    pub fn has_blocks(&self, endpoint: &EndpointPolicy) -> bool {
        endpoint.sets.iter().any(|set| self.with_blocks.contains(set))
    }
}

/// What an instance is to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerClass {
    /// Its class; [`FIRST_CLASS`] or more.
    pub class: u32,
    /// Its tenant's number; not 0.
    pub tenant: u32,
}

/// What policies are about an instance, or the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointPolicy {
    /// The numbers of its sets, by tier; 0: none.
    pub sets: [u32; SETS],
    /// Whether only what rules allow may come in.
    pub isolated_in: bool,
    /// Whether only what rules allow may go out.
    pub isolated_out: bool,
    /// Of a direction that is isolated: whether only policies in audit mode say so. Of the host: whether one of them
    /// would close it, beside those that do.
    pub audit_in: bool,
    /// The same, outwards.
    pub audit_out: bool,
    /// Whether some set has rules for what comes in, or it is isolated inwards.
    pub ruled_in: bool,
    /// The same, outwards.
    pub ruled_out: bool,
    /// Of a direction that is isolated: whether the sender of what is denied is told.
    pub reject_in: bool,
    /// The same, outwards.
    pub reject_out: bool,
    /// Of the host: whether only what rules allow may come to published ports.
    pub isolated_published: bool,
    /// Whether there are rules about them, or they are isolated.
    pub ruled_published: bool,
    /// Whether the sender of what is denied there is told.
    pub reject_published: bool,
    /// Whether a policy in audit mode would close them.
    pub audit_published: bool,
}

impl EndpointPolicy {
    /// No policy is about it.
    pub const NONE: Self = Self {
        sets: [0; SETS],
        isolated_in: false,
        isolated_out: false,
        audit_in: false,
        audit_out: false,
        ruled_in: false,
        ruled_out: false,
        reject_in: false,
        reject_out: false,
        isolated_published: false,
        ruled_published: false,
        reject_published: false,
        audit_published: false,
    };
}

/// What a rule is looked up by. All wildcards stand in keys of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey {
    /// One of [`EndpointPolicy::sets`].
    pub set: u32,
    /// Which way.
    pub direction: Direction,
    /// A class, a block class, [`HOST`], [`WORLD`], [`OTHERS`] or [`ANYBODY`].
    pub peer: u32,
    /// The protocol; `None`: all.
    pub protocol: Option<PolicyProtocol>,
    /// The number of an interval, see [`interval`], or [`ALL_PORTS`].
    pub port: u32,
}

/// What a rule says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleRow {
    /// The rule's number, up to 2^29 - 1.
    pub number: u32,
    /// What it does with what matches.
    pub action: Action,
    /// Of all rules of a set that match, the one with the lowest decides.
    pub order: u32,
}

/// The number of the interval that a port is in, given where intervals begin: its first port, then how many more there
/// are in it.
pub fn interval(begins: Option<&BTreeSet<u16>>, port: u16) -> u32 {
    let first = begins.and_then(|begins| begins.range(..=port).next_back()).copied().unwrap_or(0);
    let next = begins.and_then(|begins| begins.range((Bound::Excluded(port), Bound::Unbounded)).next()).copied();
    let last = next.map_or(u16::MAX, |next| next - 1);
    u32::from(first) << 16 | u32::from(last - first)
}

impl RuleKey {
    /// Whether the peer is a block class.
    pub const fn is_block(&self) -> bool {
        self.peer & BLOCK != 0
    }
}

/// A policy of a namespace or of a tier.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyRef {
    /// `TENANT/NAMESPACE/NAME`
    Namespace(PolicyKey),
    /// `NAME` or `TENANT/NAME`
    Tier(TierKey),
    /// The ports of the host that no policy closes.
    Failsafe,
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(key) => key.fmt(f),
            Self::Tier(key) => key.fmt(f),
            Self::Failsafe => f.write_str("the fail-safe ports"),
        }
    }
}

/// What a rule is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleName {
    /// The policy.
    pub policy: PolicyRef,
    /// Which way.
    pub direction: Direction,
    /// Which of its rules, from 0.
    pub index: usize,
}
