//! Policies as people write them: YAML, one or several documents divided by `---`, in either of two forms.
//!
//! The first is Kubernetes' NetworkPolicy (`networking.k8s.io/v1`), unchanged, also as the items of a `List`
//! (`kubernetes`). The second is our own, shorter one (`short`):
//!
//! ```yaml
//! policy: db                       # its name
//! namespace: shop                  # absent: the one that is applied to
//! instances: role=db               # whom it is about; absent: all of the namespace
//! audit: true                      # only counts what it would deny; absent: false
//! otherwise: reject                # of what no rule allows the sender is told; absent: deny
//! ingress:                         # absent: says nothing about what comes in; []: nothing may
//! - from:                          # any of them; absent: everybody
//!   - instances: role=api          # of this namespace
//!   - namespaces: team in (a, b)   # of the tenant's namespaces with these labels; {} is all
//!     instances: {role: api}       # and with these labels themselves
//!   - block: 10.0.0.0/8
//!     except: [10.1.0.0/16]
//!   - same-tenant                  # or host, world, cluster, other-tenants
//!   ports: [5432, 53/udp, 8000-8999/tcp, sctp, 8/icmp]   # any of them; absent: all
//! egress:
//! - to: [world]
//!   ports: [443]
//! - to: [{dns: [api.example.com, "*.example.org"]}]   # what the node's name server has told the instance
//! ```
//!
//! With `tier: admin` or `tier: baseline` it is a policy of a tier, Kubernetes' ClusterNetworkPolicy
//! (`policy.networking.k8s.io/v1alpha2`, `tiers`), whose rules decide in their order:
//!
//! ```yaml
//! policy: no-mail
//! tier: admin                      # before the policies of namespaces; baseline: where none of them is about it
//! priority: 10                     # 0 to 1000; the lowest decides first
//! of: tenant                       # absent: of the cluster, which is the operator's
//! namespaces: team=web             # absent: all
//! egress:
//! - action: deny                   # or reject (the sender is told), accept, or pass: the next tier decides
//!   to: [world]
//!   ports: [25]
//! ```
//!
//! With `host` it is a policy of the nodes themselves, and the operator's. Of a way that it names, only what it accepts
//! passes:
//!
//! ```yaml
//! policy: nodes
//! host: {}                         # or {nodes: [a, b]}
//! priority: 500                    # absent: 500; of all policies of the host the first rule that matches decides
//! otherwise: reject                # of what no rule accepts the sender is told; absent: deny
//! audit: true                      # only counts what it would deny; absent: false
//! ingress:                         # what comes to the host by an uplink, or from instances
//! - {from: [{block: 10.0.0.0/8}], ports: [9100]}
//! - {action: reject, ports: [113]} # or deny, or accept, which it is without a word
//! egress:                          # what the host sends by uplinks; [] closes it
//! - {to: [{dns: [registry.example.com]}], ports: [443]}
//! published:                       # what comes to published ports, by the port of the node
//! - {from: [{block: 10.0.0.0/8}], ports: [8080]}
//! ```
//!
//! Labels are a mapping, or a text in the words of `kubectl --selector`: `a=b`, `a!=b`, `a in (b, c)`, `a notin (b)`,
//! `a`, `"!a"` (in YAML a `!` needs quotes), divided by commas. Of ICMP the "port" is the type.
//!
//! In our own form a field without a value and an empty list of peers or ports are refused: to Kubernetes they mean
//! everybody, to some readers nobody.
//!
//! Nothing is guessed: what is not known is refused, and all faults of all documents are said at once, each with where
//! it is and what to write instead.

mod expect;
mod fields;
mod kubernetes;
mod short;
mod tiers;
mod words;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tiers_tests;

use std::collections::{BTreeMap, btree_map};

use serde_norway::Value;

pub use self::expect::{Expectation, read_expectations, read_port};
use self::fields::{Faults, Node};
use hivemind_core::{
    model::{PolicyKey, Scope, TierKey},
    spec::v1::{PolicySpec, TierSpec},
};

/// A policy that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// Of a namespace.
    Policy(PolicyKey, PolicySpec),
    /// Of a tier.
    Tier(TierKey, TierSpec),
}

/// A policy with the path of its name.
type Named = (String, Document);

/// What two documents cannot share.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Called {
    Policy(PolicyKey),
    Tier(TierKey),
}

impl Document {
    fn called(&self) -> Called {
        match self {
            Self::Policy(key, _) => Called::Policy(key.clone()),
            Self::Tier(key, _) => Called::Tier(key.clone()),
        }
    }

    /// Its name, with the namespace if it has one.
    fn shown(&self) -> String {
        match self {
            Self::Policy(key, _) => format!("{}/{}", key.scope.namespace, key.name),
            Self::Tier(key, _) => key.to_string(),
        }
    }
}

/// The policies of `text`, in its order. What names no namespace is in that of `default_scope`; the tenant is always
/// its. Otherwise all faults, as `document N: field: what is wrong; what to write`.
pub fn read(text: &str, default_scope: &Scope) -> Result<Vec<Document>, Vec<String>> {
    let mut faults = Faults::default();
    let mut policies = Vec::new();
    let mut places: BTreeMap<Called, String> = BTreeMap::new();
    for document in split(text) {
        faults.next_document();
        let value = match serde_norway::from_str::<Value>(&document) {
            Ok(value) => value,
            Err(error) => {
                faults.say("", format_args!("this is not YAML as it should be: {error}"));
                continue;
            }
        };
        for (path, policy) in read_document(&Node::root(&value), default_scope, &mut faults) {
            match places.entry(policy.called()) {
                btree_map::Entry::Vacant(place) => {
                    place.insert(faults.place(&path));
                }
                btree_map::Entry::Occupied(first) => {
                    let why = format!("{} is already in {}; give it another name", policy.shown(), first.get());
                    faults.say(&path, why);
                }
            }
            policies.push(policy);
        }
    }
    faults.into_result(policies)
}

/// The documents of a stream, each behind as many empty lines as there are before it: lines that the parser names are
/// then those of the whole text. One that cannot be parsed does not hide the others.
fn split(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    let mut first_mark = true;
    for (at, line) in text.lines().enumerate() {
        // At the begin of a line this is always the mark, also in the middle of a text.
        let marked = line.strip_prefix("---").filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
        let content = match marked {
            Some(rest) => {
                // What is before the first mark is a document only if there is something.
                if std::mem::take(&mut first_mark) {
                    documents.retain(|document| !is_blank(document));
                }
                documents.push("\n".repeat(at));
                rest
            }
            None => line,
        };
        if let Some(document) = documents.last_mut() {
            document.push_str(content);
            document.push('\n');
        }
    }
    documents
}

/// Whether there are only comments and directives.
fn is_blank(document: &str) -> bool {
    document.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with(['#', '%']))
}

/// The policies of a document with the paths of their names.
fn read_document(node: &Node<'_>, scope: &Scope, faults: &mut Faults) -> Vec<Named> {
    let Value::Mapping(mapping) = node.value else {
        let empty = node.value.is_null();
        let why = if empty { "is empty; write a policy, or remove its '---'" } else { "is not a mapping of fields" };
        faults.say("", why);
        return Vec::new();
    };
    if mapping.contains_key("policy") {
        return short::policy(node, scope, faults).map(|policy| ("policy".into(), policy)).into_iter().collect();
    }
    if mapping.contains_key("kind") || mapping.contains_key("apiVersion") {
        return kubernetes::read(node, scope, faults);
    }
    faults.say("", "is no policy; write \"policy: NAME\", or Kubernetes' \"kind: NetworkPolicy\"");
    Vec::new()
}
