//! Would a packet pass, who decides, and what would a change of policies make of it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{Json as Body, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiState,
    extract::{Args, InScope, Json, NoArgs},
    problem::ApiError,
    why_target::{Facts, Target, end, target},
};
use hivemind_agent::datapath::User;
use hivemind_core::{
    model::{
        ClusterSnapshot, ErrorCode, NodeDesired, NodeName, Policy, PolicyKey, Problem, Scope, TierKey, TierPolicy,
        Timestamp,
    },
    spec::v1::{PolicyProtocol, PolicySpec, TierSpec, validate_policy, validate_tier_of},
};
use hivemind_dataplane::{
    judged::{self, JUDGED},
    tables::Usage,
};
use hivemind_policy::{
    Asked, Compiled, Direction, End, Failsafe, KnownNames, Leg, Peer, Subject, compile_with, explain, judge_host,
    too_large,
};

/// How long the kernel's tables are waited for: they follow within a tenth of a second.
const SHOWN: Duration = Duration::from_secs(1);

/// What is asked, and with which policies beside those that are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WhyBody {
    /// The questions; without one it is only said what of the policies is wrong, and whether all of them fit.
    #[serde(default)]
    pub questions: Vec<Question>,
    /// Policies to try: each stands for the stored one of its name, if there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<TriedPolicy>,
    /// Policies of tiers to try.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<TriedTier>,
    /// Policies of tiers to do without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<TierKey>,
    /// Connections that must not be cut: those over which the policies are applied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operators: Vec<Operator>,
}

/// A TCP connection of whoever applies policies. In the description `Operator` is a word of selectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OperatorConnection)]
pub struct Operator {
    /// Where it comes from.
    #[schema(value_type = String)]
    pub from: IpAddr,
    /// The port of this node that it comes to.
    pub port: u16,
}

/// A packet that begins something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// An instance's id or name, an app as `APP`, `NAMESPACE/APP` or `TENANT/NAMESPACE/APP`, an IP address, `world` or
    /// `host`.
    pub from: String,
    /// The same, or a service, by one of its names in the DNS or one of its addresses.
    pub to: String,
    /// The protocol.
    pub protocol: PolicyProtocol,
    /// The receiving instance's port, or the ICMP type; of a service its own, of `host` maybe one that is published.
    pub port: u16,
}

/// A policy to try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TriedPolicy {
    /// Its full name.
    pub key: PolicyKey,
    /// What it says.
    pub spec: PolicySpec,
}

/// A policy of a tier to try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TriedTier {
    /// Its full name.
    pub key: TierKey,
    /// What it says.
    pub spec: TierSpec,
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhyView {
    /// Whether it passes with the policies that are stored.
    pub passes: bool,
    /// What happens at each end that is an instance or the host.
    pub legs: Vec<LegView>,
    /// Whether it would pass with the policies to try; absent without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would_pass: Option<bool>,
    /// What would happen then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub would: Vec<LegView>,
    /// Whether a limit of connections is full now, so that another one is refused whatever policies say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
    /// What is known beside policies: who serves, who is not Ready, limits and how full they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What happens at an instance, or at the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LegView {
    /// Its name, `host`, or a service's.
    pub instance: String,
    /// `out`, `in`, `published` (into a published port of the host), or `service`: what the service itself says.
    pub direction: String,
    /// Whether it passes here.
    pub passes: bool,
    /// The policy whose rule decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Which of its rules in this direction, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    /// The verdict in a sentence.
    pub says: String,
    /// Whether the tables that the kernel holds say the same; absent if they were not asked: of another node, or of
    /// policies to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_agrees: Option<bool>,
    /// What they say, if that is something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_says: Option<String>,
}

/// Would packets pass, and which rule of which policy decides.
#[utoipa::path(post, operation_id = "why", path = "/v1/tenants/{tenant}/namespaces/{namespace}/why", tag = "policies",
    params(("tenant" = String, Path), ("namespace" = String, Path)), request_body = WhyBody,
    responses((status = 200, body = [WhyView]), (status = "4XX", body = Problem)))]
pub(super) async fn why(
    State(state): State<ApiState>,
    InScope(scope): InScope,
    Args(NoArgs {}): Args<NoArgs>,
    Json(body): Json<WhyBody>,
) -> Result<Body<Vec<WhyView>>, ApiError> {
    // Without them it would say what is not so.
    let known = state.datapath.known_names().await?;
    let uses = state.datapath.uses().await?;
    let snapshot = state.control.snapshot();
    let held = if body.questions.is_empty() { None } else { Some(held(&state, &snapshot).await?) };
    let here = Here { node: &state.node, known: &known, failsafe: &state.failsafe, uses: &uses, held: held.as_ref() };
    Ok(Body(answers(&snapshot, here, &scope, body)?))
}

/// What the kernel's tables hold, once they should show what the snapshot has.
async fn held(state: &ApiState, snapshot: &ClusterSnapshot) -> Result<Compiled, ApiError> {
    // Later than that they are not what they should be, which is an answer.
    let _ = tokio::time::timeout(SHOWN, state.datapath.shows(snapshot.revision)).await;
    let tables = state.datapath.held(JUDGED).await?;
    let names = state.datapath.names().await?;
    let retired = names.retired.iter().map(|(number, name)| (*number, name.clone()));
    let names = retired.chain(names.policies.names.clone()).collect();
    let instances = snapshot.instances.values().map(|row| (row.object.id.clone(), row.object.addresses));
    Ok(judged::compiled(&tables, instances, names))
}

/// What the node that answers knows for itself.
#[derive(Clone, Copy)]
struct Here<'a> {
    node: &'a NodeName,
    known: &'a KnownNames,
    failsafe: &'a Failsafe,
    uses: &'a [(User, Usage)],
    /// What the kernel holds; not of policies to try.
    held: Option<&'a Compiled>,
}

impl<'a> Here<'a> {
    fn asked(self, desired: &'a NodeDesired) -> Asked<'a> {
        Asked { desired, node: self.node, known: self.known, failsafe: self.failsafe, held: self.held }
    }
}

fn answers(snapshot: &ClusterSnapshot, here: Here<'_>, scope: &Scope, body: WhyBody) -> Result<Vec<WhyView>, Problem> {
    let stored = NodeDesired::for_policies(snapshot);
    let tried = tried(&stored, body.policies, body.tiers, &body.without)?;
    if let Some(tried) = &tried {
        keeps_operators(snapshot, here, &stored, tried, &body.operators)?;
    }
    let mut views = Vec::new();
    for Question { from, to, protocol, port } in &body.questions {
        let source = end(snapshot, scope, from)?;
        let target = target(snapshot, scope, to, *protocol, *port)?;
        let about = |end: &End| matches!(end, End::Instance(_) | End::Node);
        if Target::End(source.clone()) == target || !about(&source) && target.is_outside() {
            let title =
                format!("{from} and {to}: policies are about instances and the host, and one of them is neither");
            return Err(Problem::new(ErrorCode::Invalid, title).hint("hivemind ps"));
        }
        let facts = Facts::new(snapshot, here.uses, &source, &target, *protocol, *port);
        let ask = |here: Here<'_>, desired: &NodeDesired| {
            let mut legs = facts.legs.clone();
            for (target, port) in &facts.ends {
                for leg in explain(here.asked(desired), &source, target, *protocol, *port) {
                    let leg = LegView::new(snapshot, &leg);
                    // Instances of an app mostly fare alike.
                    let told = |leg: &LegView| (leg.direction.clone(), leg.says.clone(), leg.kernel_says.clone());
                    let alike = |other: &LegView| told(other) == told(&leg);
                    if !legs.iter().any(alike) {
                        legs.push(leg);
                    }
                }
            }
            legs
        };
        let legs = ask(here, &stored);
        let would = tried.as_ref().map(|tried| ask(Here { held: None, ..here }, tried));
        let passes = |legs: &Vec<LegView>| legs.iter().all(|leg| leg.passes);
        views.push(WhyView {
            passes: passes(&legs),
            legs,
            would_pass: would.as_ref().map(passes),
            would: would.unwrap_or_default(),
            full: facts.full,
            notes: facts.notes,
        });
    }
    Ok(views)
}

/// The view with policies to try; none without any.
fn tried(
    stored: &NodeDesired,
    policies: Vec<TriedPolicy>,
    tiers: Vec<TriedTier>,
    without: &[TierKey],
) -> Result<Option<NodeDesired>, Problem> {
    if policies.is_empty() && tiers.is_empty() && without.is_empty() {
        return Ok(None);
    }
    let mut desired = stored.clone();
    let mut faults = Vec::new();
    let created_at = Timestamp::default();
    for key in without {
        desired.tiers.remove(key);
    }
    for TriedPolicy { key, spec } in policies {
        faults.extend(validate_policy(&spec).into_iter().map(|fault| format!("policy {key}: {fault}")));
        desired.policies.insert(key.clone(), Arc::new(Policy { key, spec, created_at }));
    }
    for TriedTier { key, spec } in tiers {
        faults.extend(
            validate_tier_of(key.tenant.is_some(), &spec)
                .into_iter()
                .map(|fault| format!("tier policy {key}: {fault}")),
        );
        desired.tiers.insert(key.clone(), Arc::new(TierPolicy { key, spec, created_at }));
    }
    if faults.is_empty() {
        faults = too_large(&desired);
    }
    if faults.is_empty() {
        return Ok(Some(desired));
    }
    Err(Problem { details: faults, ..Problem::new(ErrorCode::Invalid, "the policies to try are not valid") })
}

/// Refuses policies that would cut a connection over which they are applied, and that is not cut now.
fn keeps_operators(
    snapshot: &ClusterSnapshot,
    here: Here<'_>,
    stored: &NodeDesired,
    tried: &NodeDesired,
    operators: &[Operator],
) -> Result<(), Problem> {
    let own = |address: &IpAddr| snapshot.node_status.values().any(|row| row.object.addresses.contains(address));
    for Operator { from, port } in operators.iter().filter(|of| !own(&of.from)) {
        let judged = |desired: &NodeDesired| {
            let compiled = compile_with(desired, here.node, here.known, here.failsafe);
            judge_host(&compiled, Direction::In, Peer::Address(*from), Some(PolicyProtocol::Tcp), *port)
        };
        if judged(stored).passes() && !judged(tried).passes() {
            let legs = explain(here.asked(tried), &End::Outside(*from), &End::Node, PolicyProtocol::Tcp, *port);
            let title = format!("your own connection, from {from} to port {port} of this machine, would be cut");
            let problem =
                Problem { details: legs.iter().map(Leg::says).collect(), ..Problem::new(ErrorCode::OwnAccess, title) };
            let rule = format!("an ingress rule for {from} and {port}/tcp in a policy of the host, or --force");
            return Err(problem.hint(rule));
        }
    }
    Ok(())
}

impl LegView {
    fn new(snapshot: &ClusterSnapshot, leg: &Leg) -> Self {
        let instance = match &leg.subject {
            Subject::Host => "host".into(),
            Subject::Instance(id) => snapshot.instances.get(id).map_or_else(|| id.to_string(), |row| row.object.name()),
        };
        Self {
            instance,
            direction: leg.direction.as_str().into(),
            passes: leg.verdict.passes(),
            policy: leg.rule.as_ref().map(|rule| rule.policy.to_string()),
            rule: leg.rule.as_ref().map(|rule| rule.index),
            says: leg.says(),
            kernel_agrees: leg.held.as_ref().map(|_| leg.kernel_says().is_none()),
            kernel_says: leg.kernel_says(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hivemind_core::{
        model::{Addresses, AppKey, Desired, Instance, InstanceId, Protocol, Row, Service, ServiceKey, ServicePort},
        spec::v1::AppSpec,
    };
    use hivemind_policy::{Document, read};

    /// `web` and `client` of `default/default`, `spy` of another tenant.
    fn cluster() -> ClusterSnapshot {
        let mut snapshot = ClusterSnapshot::at(1);
        for (n, (tenant, app)) in [("default", "web"), ("default", "client"), ("other", "spy")].into_iter().enumerate()
        {
            let scope = Scope::default_of(tenant.parse().expect("a name"));
            let mut spec = AppSpec::new("x");
            spec.labels.insert("app".into(), app.into());
            let id = InstanceId::from_bits(n as u64 + 1);
            let instance = Instance {
                id: id.clone(),
                app: AppKey::new(scope, app.parse().expect("a name")),
                generation: 1,
                spec,
                node: "here".parse().expect("a name"),
                addresses: Addresses { v4: Some([10, 88, 0, n as u8 + 2].into()), v6: None },
                desired: Desired::Run,
                contents: hivemind_core::model::ContentVersions::default(),
                created_at: Timestamp::default(),
            };
            snapshot.set_instance(&id, Some(Row { object: Arc::new(instance), modified: 1 }));
        }
        snapshot
    }

    fn ask(snapshot: &ClusterSnapshot, from: &str, to: &str, with: &str) -> Result<WhyView, Problem> {
        let mut body = WhyBody::default();
        if !with.is_empty() {
            for document in read(with, &Scope::default()).expect("valid") {
                match document {
                    Document::Policy(key, spec) => body.policies.push(TriedPolicy { key, spec }),
                    Document::Tier(key, spec) => body.tiers.push(TriedTier { key, spec }),
                }
            }
        }
        let (from, to) = (from.into(), to.into());
        body.questions.push(Question { from, to, protocol: PolicyProtocol::Tcp, port: 80 });
        let (node, known, failsafe) = ("here".parse().expect("a name"), KnownNames::new(), Failsafe::default());
        let here = Here { node: &node, known: &known, failsafe: &failsafe, uses: &[], held: None };
        answers(snapshot, here, &Scope::default(), body).map(|mut answers| answers.remove(0))
    }

    const CLOSED: &str =
        "policy: web\ninstances: app=web\ningress:\n- {from: [{instances: app=client}], ports: [81]}\n";

    #[test]
    fn who_decides_is_said_and_nothing_is_stored() {
        let snapshot = cluster();
        let open = ask(&snapshot, "client", "web", "").expect("an answer");
        assert!(open.passes && open.would_pass.is_none() && open.legs.len() == 2);
        let closed = ask(&snapshot, "client", "10.88.0.2", CLOSED).expect("an answer");
        assert_eq!((closed.passes, closed.would_pass), (true, Some(false)));
        let says = "no rule allows it, and the direction is closed by default/default/web";
        assert_eq!((closed.would[1].says.as_str(), closed.would[1].direction.as_str()), (says, "in"));
        let allowed = ask(&snapshot, "client", "web", &CLOSED.replace("81", "80")).expect("an answer");
        assert_eq!(allowed.would[1].says, "rule 0 of policy default/default/web allows it");
        let tier = "policy: t\ntier: admin\npriority: 1\negress: [{action: deny, to: [world], ports: [80]}]\n";
        let denied = ask(&snapshot, "client", "world", tier).expect("an answer");
        assert_eq!(denied.would[0].says, "rule 0 of tier policy t denies it");
        assert_eq!((denied.would[0].policy.as_deref(), denied.would[0].rule), (Some("t"), Some(0)));
        let foreign = ask(&snapshot, "other/default/spy", "web", "").expect("an answer");
        assert!(!foreign.passes && foreign.legs[0].passes && !foreign.legs[1].passes);
        assert!(ask(&snapshot, "host", "web", CLOSED).expect("an answer").would_pass == Some(true));
    }

    #[test]
    fn the_kernels_tables_are_asked_as_well() {
        let snapshot = cluster();
        let (node, known, failsafe) = ("here".parse().expect("a name"), KnownNames::new(), Failsafe::default());
        let ask = |held: &Compiled| {
            let here = Here { node: &node, known: &known, failsafe: &failsafe, uses: &[], held: Some(held) };
            let question =
                Question { from: "client".into(), to: "web".into(), protocol: PolicyProtocol::Tcp, port: 80 };
            let body = WhyBody { questions: vec![question], ..WhyBody::default() };
            let view = answers(&snapshot, here, &Scope::default(), body).expect("an answer").remove(0);
            view.legs.into_iter().map(|leg| (leg.kernel_agrees, leg.kernel_says)).collect::<Vec<_>>()
        };
        let mut held = compile_with(&NodeDesired::for_policies(&snapshot), &node, &known, &failsafe);
        let unknown = "they know nothing of it yet, so that all its packets are dropped";
        assert_eq!(ask(&held), [(Some(false), Some(unknown.into())), (Some(false), Some(unknown.into()))]);
        for id in snapshot.instances.keys() {
            held.endpoints.insert(id.clone(), Default::default());
        }
        assert_eq!(ask(&held), [(Some(true), None), (Some(true), None)]);
        held.endpoints.get_mut(&InstanceId::from_bits(1)).expect("web").isolated_in = true;
        let closed = "no rule allows it, and the direction is closed by a policy that is gone";
        assert_eq!(ask(&held), [(Some(true), None), (Some(false), Some(closed.into()))]);
    }

    #[test]
    fn a_policy_that_would_cut_its_author_is_refused() {
        let snapshot = cluster();
        let apply = |text: &str, from: &str, port: u16| {
            let mut body = WhyBody {
                operators: vec![Operator { from: from.parse().expect("an address"), port }],
                ..WhyBody::default()
            };
            for document in read(text, &Scope::default()).expect("valid") {
                let Document::Tier(key, spec) = document else { panic!("of the host") };
                body.tiers.push(TriedTier { key, spec });
            }
            let (node, known) = ("here".parse().expect("a name"), KnownNames::new());
            let failsafe = Failsafe {
                inbound: vec!["22/tcp".parse::<hivemind_policy::FailsafePort>().expect("a port").0],
                ..Failsafe::default()
            };
            let here = Here { node: &node, known: &known, failsafe: &failsafe, uses: &[], held: None };
            answers(&snapshot, here, &Scope::default(), body).map(drop)
        };
        let closed = "policy: p\nhost: {}\ningress: [{from: [{block: 192.0.2.0/24}], ports: [2222]}]\n";
        let problem = apply(closed, "198.51.100.7", 2222).expect_err("it would be cut");
        assert_eq!(problem.code, ErrorCode::OwnAccess);
        assert_eq!(problem.details, ["no rule allows it, and the direction is closed by p"]);
        for (from, port) in [("198.51.100.7", 22), ("192.0.2.7", 2222)] {
            assert_eq!(apply(closed, from, port), Ok(()), "{from} {port}");
        }
        assert_eq!(apply("policy: p\nhost: {}\negress: []\n", "198.51.100.7", 2222), Ok(()), "answers go out");
        assert_eq!(apply(closed, "192.0.2.7", 2223).expect_err("another port").code, ErrorCode::OwnAccess);
    }

    #[test]
    fn a_port_is_published_by_its_protocol() {
        let mut snapshot = cluster();
        let key = ServiceKey::new(Scope::default(), "web".parse().expect("a name"));
        let service = Service {
            key: key.clone(),
            id: 3,
            addresses: Addresses::default(),
            dns_names: Vec::new(),
            networks: Default::default(),
            ports: vec![ServicePort { port: 80, target: 8080, protocol: Protocol::Udp, published: Some(9000) }],
            app: AppKey::new(Scope::default(), "web".parse().expect("a name")),
            balance: Default::default(),
            shares: Default::default(),
            created_at: Timestamp::default(),
        };
        snapshot.set_service(&key, Some(Row { object: Arc::new(service), modified: 1 }));
        for (protocol, port, published) in [
            (PolicyProtocol::Udp, 9000, true),
            (PolicyProtocol::Tcp, 9000, false),
            (PolicyProtocol::Udp, 80, false),
            (PolicyProtocol::Udp, 8080, false),
        ] {
            let asked = target(&snapshot, &Scope::default(), "host", protocol, port).expect("an end");
            assert_eq!(matches!(asked, Target::Published(_)), published, "{port}/{protocol:?}");
        }
    }

    #[test]
    fn whom_nobody_knows_is_said() {
        let snapshot = cluster();
        let code = |from, to| ask(&snapshot, from, to, "").expect_err("a problem").code;
        assert_eq!(code("world", "192.0.2.9"), ErrorCode::Invalid);
        assert_eq!(code("host", "host"), ErrorCode::Invalid);
        assert_eq!(code("client", "nobody"), ErrorCode::NotFound);
        assert_eq!(code("client", "a/b/c/d"), ErrorCode::Invalid);
        let named = "policy: web\ningress: [{ports: [http]}]\n";
        let problem = ask(&snapshot, "client", "web", named).expect_err("a problem");
        assert!(problem.details[0].contains("ports of apps have no names yet"), "{problem}");
    }
}
