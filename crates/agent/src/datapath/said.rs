//! What the owner of the data plane says when it is asked.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use hivemind_core::model::{InstanceId, Revision, TenantName};
use hivemind_dataplane::{
    SweepReport,
    drift::Repairs,
    flows::{DropRecord, FlowRecord},
};
use hivemind_policy::{self as policy, PolicyRef, RuleName, TrialPlace};

/// How the maps stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatapathState {
    /// The revision the maps show.
    pub revision: Revision,
    /// Why the last write failed; it is repeated.
    pub fault: Option<String>,
    /// What was found changed by someone else and put right, since the start.
    pub repairs: Repairs,
    /// The last sweep.
    pub sweep: SweepReport,
    /// What names of hosts in policies stand for.
    pub hosts: HostsReport,
}

/// How it stands with names of hosts in policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostsReport {
    /// Addresses of names, now.
    pub addresses: usize,
    /// Addresses for which there was no place, since the start.
    pub refused: u64,
    /// Answers that went out before their addresses were open, since the start.
    pub late: u64,
}

/// What the programs have seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The flows that are in the table.
    pub flows: Vec<FlowRecord>,
    /// The latest drops.
    pub drops: Vec<DropRecord>,
}

/// What numbers and addresses of the data plane stand for.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// What policies were compiled to, with the names of rules.
    pub policies: Arc<policy::Compiled>,
    /// The names of rules that are gone.
    pub retired: Arc<BTreeMap<u32, RuleName>>,
    /// Whose trial it is at which device, or was last.
    pub trials: Arc<BTreeMap<TrialPlace, Vec<PolicyRef>>>,
    /// The instances, by the interface index of their host device.
    pub devices: BTreeMap<u32, InstanceId>,
    /// The node's own addresses.
    pub addresses: Vec<IpAddr>,
}

/// Who uses something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// An instance of this node.
    Instance(InstanceId),
    /// The instances of a tenant on this node that has limits.
    Tenant(TenantName),
}

/// How many packets a rule of policies has decided about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleHits {
    /// The rule.
    pub name: RuleName,
    /// Whether it denies them.
    pub denies: bool,
    /// Packets; of what it allows without answers.
    pub packets: u64,
}
