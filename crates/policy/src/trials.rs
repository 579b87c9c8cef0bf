//! What policies on trial would have denied, each for itself, of counts that the kernel has for instances. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Compiled, Direction, PolicyRef, Subject, Verdict,
    explain::{closed_by, closed_by_host},
};
use hivemind_core::model::{NodeDesired, NodeName, Policy, TierPolicy, Timestamp};

/// The device of an instance (0: the host), and which way.
pub type TrialPlace = (u32, Direction);

/// What a policy on trial would have denied on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trial {
    /// Since when it is counted: since the policy is what it is, or the daemon runs.
    pub since: Timestamp,
    /// How often it was decided about something that comes in, and would have been denied.
    pub inwards: u64,
    /// The same of what goes out.
    pub outwards: u64,
    /// Policies on trial about the same instances: what is counted there, only all of them together do not allow.
    pub beside: BTreeSet<PolicyRef>,
}

/// A policy on trial, to see whether it is another one.
#[derive(Clone, Debug)]
enum Tried {
    Policy(Arc<Policy>),
    Tier(Arc<TierPolicy>),
}

impl Tried {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Policy(one), Self::Policy(other)) => one.spec == other.spec,
            (Self::Tier(one), Self::Tier(other)) => one.spec == other.spec,
            _ => false,
        }
    }
}

/// Which policies are on trial, where, and what they would have denied.
#[derive(Clone, Debug, Default)]
pub struct Trials {
    /// Whose trial it is or, where none is now, was last.
    places: Arc<BTreeMap<TrialPlace, Vec<PolicyRef>>>,
    /// Where there is one now.
    now: BTreeSet<TrialPlace>,
    seen: BTreeMap<TrialPlace, u64>,
    trials: BTreeMap<PolicyRef, (Tried, Trial)>,
}

impl Trials {
    /// Whether nothing is on trial now.
    pub fn is_empty(&self) -> bool {
        self.trials.is_empty()
    }

    /// Takes in the kernel's counts: what came since the last ones is of those on trial there.
    pub fn count(&mut self, counted: &BTreeMap<TrialPlace, u64>) {
        for (place, packets) in counted {
            let seen = self.seen.insert(*place, *packets).unwrap_or(0);
            // A device that is another one has begun again.
            let more = if *packets < seen { *packets } else { *packets - seen };
            if more == 0 || !self.now.contains(place) {
                continue;
            }
            for policy in self.places.get(place).into_iter().flatten() {
                if let Some((_, trial)) = self.trials.get_mut(policy) {
                    let count = if place.1 == Direction::Out { &mut trial.outwards } else { &mut trial.inwards };
                    *count += more;
                }
            }
        }
    }

    /// Takes in what is on trial from now on. The counts are to be as new.
    ///
    /// `devices` are the subjects that are here.
    pub fn change(
        &mut self,
        at: Timestamp,
        desired: &NodeDesired,
        node: &NodeName,
        compiled: &Compiled,
        devices: &BTreeMap<u32, Subject>,
    ) {
        let mut tried = BTreeMap::new();
        let policies = desired.policies.values().filter(|policy| policy.spec.audit);
        tried.extend(policies.map(|of| (PolicyRef::Namespace(of.key.clone()), Tried::Policy(Arc::clone(of)))));
        let tiers = desired.tiers.values().filter(|policy| policy.spec.audit);
        tried.extend(tiers.map(|of| (PolicyRef::Tier(of.key.clone()), Tried::Tier(Arc::clone(of)))));
        if tried.is_empty() && self.trials.is_empty() {
            return;
        }
        let mut before = std::mem::take(&mut self.trials);
        for (policy, tried) in tried {
            let kept = before.remove(&policy).filter(|(other, _)| other.is(&tried)).map(|(_, trial)| trial);
            let trial = kept.unwrap_or_else(|| Trial { since: at, ..Trial::default() });
            self.trials.insert(policy, (tried, Trial { beside: BTreeSet::new(), ..trial }));
        }
        let places = Arc::make_mut(&mut self.places);
        // Who was on trial is known as long as the device is there.
        places.retain(|(device, _), _| devices.contains_key(device));
        self.seen.retain(|(device, _), _| devices.contains_key(device));
        self.now.clear();
        for (device, subject) in devices {
            for direction in [Direction::In, Direction::Out] {
                let who = on_trial(desired, node, compiled, subject, direction);
                for policy in &who {
                    if let Some((_, trial)) = self.trials.get_mut(policy) {
                        trial.beside.extend(who.iter().filter(|other| *other != policy).cloned());
                    }
                }
                if !who.is_empty() {
                    places.insert((*device, direction), who);
                    self.now.insert((*device, direction));
                }
            }
        }
    }

    /// Whose trial is or was where.
    pub const fn places(&self) -> &Arc<BTreeMap<TrialPlace, Vec<PolicyRef>>> {
        &self.places
    }

    /// What each would have denied.
    pub fn counted(&self) -> BTreeMap<PolicyRef, Trial> {
        self.trials.iter().map(|(policy, (_, trial))| (policy.clone(), trial.clone())).collect()
    }
}

/// The policies on trial about a subject's direction. Of the host, what comes to published ports is counted with what
/// comes in.
fn on_trial(
    desired: &NodeDesired,
    node: &NodeName,
    compiled: &Compiled,
    subject: &Subject,
    direction: Direction,
) -> Vec<PolicyRef> {
    match subject {
        Subject::Instance(id) => {
            let endpoint = compiled.endpoints.get(id).copied().unwrap_or_default();
            let audit = if direction == Direction::Out { endpoint.audit_out } else { endpoint.audit_in };
            if audit { closed_by(desired, id, direction) } else { Vec::new() }
        }
        Subject::Host => {
            let ways: &[Direction] = match direction {
                Direction::Out => &[Direction::Out],
                Direction::In | Direction::Published => &[Direction::In, Direction::Published],
            };
            let of = |way: &Direction| closed_by_host(desired, node, *way, Verdict::WouldDeny);
            let all: BTreeSet<_> = ways.iter().flat_map(of).collect();
            all.into_iter().collect()
        }
    }
}
