//! The rules of nftables: pure rule sets, and the one call that applies one of them in one transaction.
//!
//! Tables of our own only; nobody else's rule is read or written. Each transaction replaces a table whole, which
//! makes it idempotent and repairs whatever was changed in it. What was written is read back, with the numbers that the
//! kernel has given its rules: so the next time it is known whether somebody has changed anything.

use std::{net::IpAddr, path::Path, process::Stdio};

use ipnet::IpNet;
use nftables::{
    batch::Batch,
    expr::{
        CT, Expression, Fib, FibFlag, FibResult, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix, SetItem,
    },
    schema::{Chain, NfListObject, Nftables, Rule, Set, SetType, SetTypeValue, Table},
    stmt::{Dup, Match, NAT, NATFlag, Operator, Statement},
    types::{NfChainPolicy, NfChainType, NfFamily, NfHook},
};
use tokio::io::AsyncWriteExt;

use super::{
    NetError, NodeNet, PublishedPort,
    names::{DEVICE_PREFIX, PUBLISH_DEVICE},
};
use hivemind_core::model::Protocol;

/// Holds the masquerade rules.
const NODE_TABLE: (NfFamily, &str) = (NfFamily::INet, "hivemind");
/// Hold the rules for published ports: `dup` needs a table of the packet's family.
const PUBLISHED_TABLE: &str = "hivemind_pub";
/// `filter`, where the kernel's own names put it.
const FILTER: i32 = 0;
/// `srcnat`, where the kernel's own names put it.
const SRCNAT: i32 = 100;
/// After every filter a host has (`filter` is 0, `security` 50), before connection tracking confirms.
const AFTER_ALL_FILTERS: i32 = 300;

/// The rules of the node: instances reach the outside with its address, and the outside reaches them by published ports
/// only, whatever way it knows to them. Without `masquerade` their addresses are the outside's to know, and there are
/// none.
pub(super) fn node_rules(node: &NodeNet, masquerade: bool) -> Nftables<'static> {
    let mut batch = Batch::new();
    replace_table(&mut batch, NODE_TABLE);
    let (family, table) = NODE_TABLE;
    batch.add(NfListObject::Chain(Chain {
        family,
        table: table.into(),
        name: "postrouting".into(),
        _type: Some(NfChainType::NAT),
        hook: Some(NfHook::Postrouting),
        prio: Some(SRCNAT),
        policy: Some(NfChainPolicy::Accept),
        ..Chain::default()
    }));
    batch.add(NfListObject::Chain(Chain {
        family,
        table: table.into(),
        name: "forward".into(),
        _type: Some(NfChainType::Filter),
        hook: Some(NfHook::Forward),
        prio: Some(FILTER),
        policy: Some(NfChainPolicy::Accept),
        ..Chain::default()
    }));
    let v4 = (node.instances_v4.map(IpNet::from), node.services_v4.map(IpNet::from), "ip");
    let v6 = (node.instances_v6.map(IpNet::from), node.services_v6.map(IpNet::from), "ip6");
    for (instances, services, protocol) in [v4, v6] {
        let Some(instances) = instances.filter(|_| masquerade) else { continue };
        let inside = [Some(instances), services].into_iter().flatten().map(|net| SetItem::Element(prefix(net)));
        let inside = Expression::Named(NamedExpression::Set(inside.collect()));
        let flags = Some([NATFlag::FullyRandom].into());
        let rule = vec![
            matches(field(protocol, "saddr"), Operator::EQ, prefix(instances)),
            matches(field(protocol, "daddr"), Operator::NEQ, inside),
            matches(meta(MetaKey::Oifname), Operator::NEQ, our_devices()),
            Statement::Masquerade(Some(NAT { addr: None, family: None, port: None, flags })),
        ];
        add_rule(&mut batch, NODE_TABLE, "postrouting", rule);
        let state = Expression::Named(NamedExpression::CT(CT { key: "state".into(), family: None, dir: None }));
        let answers = ["established", "related"].map(|state| SetItem::Element(text(state)));
        let rule = vec![
            matches(meta(MetaKey::Iifname), Operator::NEQ, our_devices()),
            matches(field(protocol, "daddr"), Operator::EQ, prefix(instances)),
            matches(state, Operator::NEQ, Expression::Named(NamedExpression::Set(answers.to_vec()))),
            Statement::Drop(None),
        ];
        add_rule(&mut batch, NODE_TABLE, "forward", rule);
    }
    batch.to_nftables()
}

/// The rules for published ports. `next_hops` are addresses that are reached through the publish device, one of a
/// family.
pub(super) fn published_rules(ports: &[PublishedPort], next_hops: [IpAddr; 2]) -> Nftables<'static> {
    let mut batch = Batch::new();
    for next_hop in next_hops {
        let table = (if next_hop.is_ipv4() { NfFamily::IP } else { NfFamily::IP6 }, PUBLISHED_TABLE);
        replace_table(&mut batch, table);
        batch.add(NfListObject::Chain(Chain {
            family: table.0,
            table: table.1.into(),
            name: "input".into(),
            _type: Some(NfChainType::Filter),
            hook: Some(NfHook::Input),
            prio: Some(AFTER_ALL_FILTERS),
            policy: Some(NfChainPolicy::Accept),
            ..Chain::default()
        }));
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            add_published(&mut batch, table, protocol, ports, next_hop);
        }
    }
    batch.to_nftables()
}

/// No rules of ours at all.
fn no_rules() -> Nftables<'static> {
    let mut batch = Batch::new();
    for table in [NODE_TABLE, (NfFamily::IP, PUBLISHED_TABLE), (NfFamily::IP6, PUBLISHED_TABLE)] {
        remove_table(&mut batch, table);
    }
    batch.to_nftables()
}

/// The set of a protocol's ports, and the rule that sends what goes to them to the publish device.
fn add_published(
    batch: &mut Batch<'static>,
    table: (NfFamily, &'static str),
    protocol: Protocol,
    ports: &[PublishedPort],
    next_hop: IpAddr,
) {
    let name = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let of_protocol = ports.iter().filter(|port| port.protocol == protocol);
    let elements: Vec<_> = of_protocol.map(|port| Expression::Number(port.port.into())).collect();
    batch.add(NfListObject::Set(Box::new(Set {
        family: table.0,
        table: table.1.into(),
        name: name.into(),
        set_type: SetTypeValue::Single(SetType::InetService),
        elem: Some(elements).filter(|elements| !elements.is_empty()).map(Into::into),
        ..Set::default()
    })));
    let fib = Fib { result: FibResult::Type, flags: [FibFlag::Daddr].into() };
    let rule = vec![
        matches(field(name, "dport"), Operator::EQ, text(format!("@{name}"))),
        matches(meta(MetaKey::Iifname), Operator::NEQ, text("lo")),
        matches(Expression::Named(NamedExpression::Fib(fib)), Operator::EQ, text("local")),
        Statement::Dup(Dup { addr: text(next_hop.to_string()), dev: Some(text(PUBLISH_DEVICE)) }),
        Statement::Drop(None),
    ];
    add_rule(batch, table, "input", rule);
}

/// A set of rules that is kept as it was written.
#[derive(Debug)]
pub(super) struct Rules {
    /// What shows its tables: one each, since nft 1.0.6 finds the second of two no more.
    lists: &'static [&'static str],
    written: tokio::sync::Mutex<Option<Written>>,
}

/// What was written last, and what the kernel had made of it then.
#[derive(Debug)]
struct Written {
    rules: Vec<u8>,
    shown: Vec<u8>,
}

impl Rules {
    /// Those of [`node_rules`].
    pub(super) fn of_node() -> Self {
        Self { lists: &["list table inet hivemind"], written: tokio::sync::Mutex::default() }
    }

    /// Those of [`published_rules`].
    pub(super) fn of_published() -> Self {
        let lists = &["list table ip hivemind_pub", "list table ip6 hivemind_pub"];
        Self { lists, written: tokio::sync::Mutex::default() }
    }

    /// Writes the rules, unless they are there as they were written. Returns 1 if somebody else had changed them.
    pub(super) async fn keep(&self, nft: &Path, rules: &Nftables<'static>) -> Result<u64, NetError> {
        let rules = serde_json::to_vec(rules).map_err(|error| NetError::Nftables { why: error.to_string() })?;
        let mut written = self.written.lock().await;
        let before = written.take().filter(|before| before.rules == rules);
        let known = before.is_some();
        if let Some(before) = before
            && self.shown(nft).await.is_some_and(|shown| shown == before.shown)
        {
            *written = Some(before);
            return Ok(0);
        }
        run(nft, &["-j", "-f", "-"], &rules).await?;
        *written = self.shown(nft).await.map(|shown| Written { rules, shown });
        Ok(u64::from(known))
    }

    /// The tables as they are; none if one of them is not there.
    async fn shown(&self, nft: &Path) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        for list in self.lists {
            all.extend(run(nft, &["-j", list], &[]).await.ok()?);
        }
        Some(all)
    }
}

/// Removes all rules of ours.
pub(super) async fn remove(nft: &Path) -> Result<(), NetError> {
    let rules = serde_json::to_vec(&no_rules()).map_err(|error| NetError::Nftables { why: error.to_string() })?;
    run(nft, &["-j", "-f", "-"], &rules).await.map(drop)
}

/// Runs nft and returns what it prints.
async fn run(nft: &Path, words: &[&str], input: &[u8]) -> Result<Vec<u8>, NetError> {
    let run = async {
        let mut child = tokio::process::Command::new(nft)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // If it ends before it has read all, its words say why.
            let _ = stdin.write_all(input).await;
        }
        child.wait_with_output().await
    };
    let output = run.await.map_err(|source| NetError::NoNft { program: nft.to_owned(), source })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(NetError::Nftables { why: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}

/// Adding first makes removing valid whether it was there or not.
fn remove_table(batch: &mut Batch<'static>, (family, name): (NfFamily, &'static str)) {
    let table = Table { family, name: name.into(), handle: None };
    batch.add(NfListObject::Table(table.clone()));
    batch.delete(NfListObject::Table(table));
}

fn replace_table(batch: &mut Batch<'static>, table: (NfFamily, &'static str)) {
    remove_table(batch, table);
    batch.add(NfListObject::Table(Table { family: table.0, name: table.1.into(), handle: None }));
}

fn add_rule(
    batch: &mut Batch<'static>,
    (family, table): (NfFamily, &'static str),
    chain: &'static str,
    rule: Vec<Statement<'static>>,
) {
    let (table, chain) = (table.into(), chain.into());
    batch.add(NfListObject::Rule(Rule { family, table, chain, expr: rule.into(), ..Rule::default() }));
}

fn matches(left: Expression<'static>, op: Operator, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, op, right })
}

fn text(text: impl Into<String>) -> Expression<'static> {
    Expression::String(text.into().into())
}

fn our_devices() -> Expression<'static> {
    text(format!("{DEVICE_PREFIX}*"))
}

fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn field(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn prefix(net: IpNet) -> Expression<'static> {
    let addr = Box::new(text(net.network().to_string()));
    Expression::Named(NamedExpression::Prefix(Prefix { addr, len: net.prefix_len().into() }))
}
