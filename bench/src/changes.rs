//! What one change costs where there is much: a policy more among 10,000, a rule more of 10,000 about one instance, a
//! backend less of 10,000. From the rows that should be there to the maps in the kernel, by the adapter as the daemon
//! calls it; what comes before (policies to rows) is measured beside it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use hivemind::{
    dataplane::tables::{BackendRow, EndpointRow, Frontend, PeerRow, ServiceRow, Tables},
    model::{Addresses, InstanceId, NodeDesired, NodeName, Peer, Policy, PolicyKey, Protocol, Scope, Timestamp},
    net::{Family, Mac},
    policy::Cache,
    spec::v1::{InstancePeer, PolicyPeer, PolicyPort, PolicyProtocol, PolicyRule, PolicySpec, PortMatch, Selector},
};

use crate::{
    Common,
    clock::timed,
    lab::Netns,
    plane::Plane,
    report::{Report, Target},
    rules::SERVICE_PORT,
    stats::Series,
    supervisor::Run,
};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// How many policies, rules and backends there are
    #[arg(long, default_value_t = 10_000)]
    count: u32,
}

/// The most rules that a direction of a policy may have.
const RULES_EACH: u32 = 500;
/// No change may take longer, milliseconds.
const LIMIT: f64 = 5.0;

/// Something that changes, there and back.
struct Change {
    name: String,
    before: Tables,
    after: Tables,
    /// Milliseconds from policies to rows.
    compiled: Option<Series>,
    written: Series,
    /// The way back.
    undone: Series,
    /// Rows written and removed, the last time.
    rows: u64,
}

impl Change {
    fn new(name: &str, before: Tables, after: Tables) -> Self {
        let (name, written, undone) = (name.to_owned(), Series::default(), Series::default());
        Self { name, before, after, compiled: None, written, undone, rows: 0 }
    }
}

/// Measures and reports.
pub(crate) fn run(run: &Run, common: &Common, args: &Args) -> Result<()> {
    let rounds = common.pick(3, 15);
    let count = args.count;
    let mut changes = vec![
        policy(
            &format!("one policy more of {count}, about an instance of 100"),
            &spread(count)?,
            &one_more(0)?,
            rounds,
        )?,
        policy(
            &format!("one policy more about an instance with {count} rules"),
            &heaped(count)?,
            &one_more(0)?,
            rounds,
        )?,
        policy(
            &format!("one rule of a policy is another, {count} rules about one instance"),
            &heaped(count)?,
            &longer(count)?,
            rounds,
        )?,
        backend(&format!("a service of {count} backends loses one"), count, false),
        backend(&format!("a published service of {count} backends loses one"), count, true),
    ];
    let node = Netns::new(run, "hm")?;
    let mut plane = Plane::open(run, "hm", &node, &run.cgroup()?)?;
    for change in &mut changes {
        eprintln!("{}", change.name);
        plane.sync(&change.before)?;
        for _ in 0..rounds {
            let (done, seconds) = timed(|| plane.sync(&change.after));
            let done = done.with_context(|| change.name.clone())?;
            ensure!(done.written > 0, "{}: nothing was written", change.name);
            change.rows = done.written + done.removed;
            change.written.0.push(seconds * 1e3);
            let (done, seconds) = timed(|| plane.sync(&change.before));
            done.with_context(|| change.name.clone())?;
            change.undone.0.push(seconds * 1e3);
        }
    }
    let mut report = Report::new(format!("One change among {count}: from the tables to the kernel's maps"));
    for change in &changes {
        if let Some(compiled) = &change.compiled {
            report.figure(format!("{}: from policies to rows", change.name), "ms", compiled);
        }
        report.figure(format!("{}: rows", change.name), "written or removed", &Series(vec![change.rows as f64]));
        report.limit(&change.name, "ms", &change.written, Target::AtMost(LIMIT));
        report.limit(format!("{}, and back", change.name), "ms", &change.undone, Target::AtMost(LIMIT));
    }
    report.note("Each is done and undone; the way back is measured as \"and back\". Policies are compiled after one another, as the daemon does: numbers of sets and classes stay with the instances that have them.");
    report.print(common.json)
}

/// The instances of a node, a label each, and policies.
#[derive(Clone)]
struct World(NodeDesired);

/// How many instances the node has.
const INSTANCES: u32 = 100;

impl World {
    fn new() -> Result<Self> {
        let mut desired = NodeDesired::default();
        for n in 0..INSTANCES {
            let peer = Peer {
                node: node()?,
                addresses: Addresses { v4: Some(address(n)), v6: None },
                scope: Scope::default(),
                labels: labels(n),
            };
            desired.peers.insert(InstanceId::from_bits(u64::from(n) + 1), Arc::new(peer));
        }
        Ok(Self(desired))
    }

    fn add(&mut self, policy: Policy) {
        self.0.policies.insert(policy.key.clone(), Arc::new(policy));
    }

    /// The rows of a node whose instances' devices have the interface indices 1 and on. `cache` has compiled what was
    /// there before. Says how many seconds it took from policies to rows.
    fn tables(&self, cache: &mut Cache) -> Result<(Tables, f64)> {
        let desired = Arc::new(self.0.clone());
        let (compiled, seconds) = timed(|| Ok::<_, anyhow::Error>(cache.compile(&desired, &node()?, &Arc::default())));
        let compiled = compiled?;
        let mut tables = Tables::default();
        for ((id, peer), ifindex) in self.0.peers.iter().zip(1..) {
            let who = compiled.peers.get(id).copied().unwrap_or_default();
            let policy = compiled.endpoints.get(id).copied().unwrap_or_default();
            let (class, tenant) = (who.class, who.tenant);
            let row = EndpointRow {
                v4: peer.addresses.v4,
                v6: None,
                instance_mac: Mac([2, 0, 0, 0, 1, 1]),
                host_mac: Mac([2, 0, 0, 0, 2, 1]),
                class,
                tenant,
                policy,
                blocks: compiled.has_blocks(&policy),
                limited: false,
            };
            tables.endpoints.insert(ifindex, row);
            tables
                .peers
                .extend(peer.addresses.iter().map(|address| (address, PeerRow { class, tenant, ifindex, node: None })));
        }
        tables.rules.clone_from(&compiled.rules);
        tables.intervals.clone_from(&compiled.ports);
        tables.blocks.clone_from(&compiled.blocks);
        Ok((tables, seconds))
    }
}

fn node() -> Result<NodeName> {
    "node-1".parse().map_err(|error| anyhow::anyhow!("{error}"))
}

fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 88, 16, 0).to_bits() + n)
}

fn labels(n: u32) -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), format!("app-{}", n % INSTANCES))])
}

fn selector(n: u32) -> Selector {
    Selector { labels: labels(n), expressions: Vec::new() }
}

/// Lets in to instance `to` what `rules` say: from whom, and to which port.
fn lets_in(name: &str, to: u32, rules: impl Iterator<Item = (u32, u16)>) -> Result<Policy> {
    let rule = |(from, port): (u32, u16)| PolicyRule {
        peers: vec![PolicyPeer::Instances(InstancePeer { namespaces: None, instances: selector(from) })],
        ports: vec![PolicyPort { protocol: PolicyProtocol::Tcp, port: Some(PortMatch::Range(port, port)) }],
    };
    let spec =
        PolicySpec { instances: selector(to), ingress: Some(rules.map(rule).collect()), ..PolicySpec::default() };
    let name = name.parse().map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
    Ok(Policy { key: PolicyKey::new(Scope::default(), name), spec, created_at: Timestamp::default() })
}

/// Policies of one rule each, as many about each instance.
fn spread(count: u32) -> Result<World> {
    let mut world = World::new()?;
    for n in 0..count {
        let rule = (n / INSTANCES, 80);
        world.add(lets_in(&format!("policy-{n}"), n, [rule].into_iter())?);
    }
    Ok(world)
}

/// As many rules, all about one instance, in policies as large as may be.
fn heaped(count: u32) -> Result<World> {
    let mut world = World::new()?;
    for first in (0..count).step_by(RULES_EACH as usize) {
        world.add(heap(first, count.min(first + RULES_EACH))?);
    }
    Ok(world)
}

/// A policy about the first instance with the rules of these numbers, a hundred ports for each of the others.
fn heap(first: u32, end: u32) -> Result<Policy> {
    let rules = (first..end).map(|n| (n % INSTANCES, 1000 + (n / INSTANCES) as u16));
    lets_in(&format!("heap-{first}"), 0, rules)
}

/// One more policy about an instance.
fn one_more(about: u32) -> Result<Policy> {
    lets_in("one-more", about, [(about + 1, 81)].into_iter())
}

/// The last of the heaps with a rule on a port of its own.
fn longer(count: u32) -> Result<Policy> {
    let first = count.saturating_sub(1) / RULES_EACH * RULES_EACH;
    let mut policy = heap(first, count)?;
    let more = lets_in("one-more", 0, [(1, 999)].into_iter())?;
    if let (Some(rules), Some(more)) = (&mut policy.spec.ingress, more.spec.ingress) {
        // In place of one: there are as many as may be.
        rules.pop();
        rules.extend(more);
    }
    Ok(policy)
}

fn policy(name: &str, world: &World, more: &Policy, rounds: usize) -> Result<Change> {
    let mut with = world.clone();
    with.add(more.clone());
    let mut compiled = Series::default();
    let (mut before, mut after) = (Tables::default(), Tables::default());
    for _ in 0..rounds {
        // As the daemon does it: one after the other.
        let mut cache = Cache::default();
        before = world.tables(&mut cache)?.0;
        let seconds;
        (after, seconds) = with.tables(&mut cache)?;
        compiled.0.push(seconds * 1e3);
    }
    Ok(Change { compiled: Some(compiled), ..Change::new(name, before, after) })
}

fn backend(name: &str, count: u32, published: bool) -> Change {
    let row = |gone: Option<u32>| {
        let there: BTreeSet<u32> = (0..count).filter(|n| Some(*n) != gone).collect();
        let backend = |n: u32| BackendRow { address: address(n).into(), port: 8080, weight: 1 };
        ServiceRow { id: 1, backends: there.into_iter().map(backend).collect(), ..ServiceRow::default() }
    };
    let tables = |gone: Option<u32>| {
        let mut tables = Tables::default();
        let vip = Ipv4Addr::new(10, 96, 1, 0).into();
        tables.services.insert(Frontend::Address(vip), ServiceRow { id: 1, ..ServiceRow::default() });
        tables.services.insert(Frontend::Virtual(vip, SERVICE_PORT, Protocol::Tcp), row(gone));
        if published {
            let mut row = row(gone);
            row.choice.alike = true;
            tables.services.insert(Frontend::Published(Family::V4, SERVICE_PORT, Protocol::Tcp), row);
        }
        let peer = PeerRow { class: 300, tenant: 300, ifindex: 0, node: None };
        tables.peers.extend((0..count).map(|n| (IpAddr::V4(address(n)), peer)));
        tables
    };
    let before = tables(None);
    // As the daemon's are: what is the same is shared.
    let after = Tables { services: tables(Some(count / 2)).services, ..before.clone() };
    Change::new(name, before, after)
}

#[cfg(test)]
mod tests {
    use super::{Cache, World, heaped, longer, one_more, spread};

    fn rules(mut world: World, more: Option<hivemind::model::Policy>) -> hivemind::dataplane::tables::Tables {
        more.into_iter().for_each(|policy| world.add(policy));
        world.tables(&mut Cache::default()).expect("tables").0
    }

    #[test]
    fn there_are_as_many_rules_as_are_said() {
        let (spread, heaped) = (spread(1_000).expect("a world"), heaped(1_000).expect("a world"));
        for world in [&spread, &heaped] {
            assert_eq!(rules(world.clone(), None).rules.len(), 1_000);
            let more = one_more(0).expect("a policy");
            assert_eq!(rules(world.clone(), Some(more)).rules.len(), 1_001);
        }
        // One instance has all of them, or each has some.
        let sets = |world: &World| {
            let tables = rules(world.clone(), None);
            tables.rules.keys().map(|key| key.set).collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!((sets(&spread), sets(&heaped)), (100, 1));
    }

    #[test]
    fn a_longer_policy_is_another_rule_and_nothing_else() {
        let world = heaped(1_000).expect("a world");
        let (before, after) = (rules(world.clone(), None), rules(world, Some(longer(1_000).expect("a policy"))));
        let new = after.rules.keys().filter(|key| !before.rules.contains_key(*key)).count();
        assert_eq!((after.rules.len(), new), (1_000, 1));
    }
}
