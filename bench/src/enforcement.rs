//! From the request that changes a policy to its being enforced on a flow that lives, where a node has 10,000 rules.
//!
//! The real daemon on a machine of its own. A client in a container asks a server in another every millisecond, packet by
//! packet. The change takes away, or gives back, the rule that lets it: when answers cease, or come, it is in force.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use xtask::machine::Machine;

use crate::{
    Common,
    child::Role,
    clock::{Moment, pause, wait_for},
    lab::Place,
    live::{Happened, Live, Until, now},
    report::{Report, Target},
    stage::{PATIENCE, PORT, Stage},
    stats::Series,
};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// How many rules there are about the server
    #[arg(long, default_value_t = 10_000)]
    rules: u32,
}

const POLICIES: &str = "/v1/tenants/default/namespaces/default/policies";
/// The policy that changes.
const OPEN: &str = "open";
/// The most rules that a direction of a policy may have.
const RULES_EACH: u32 = 500;
/// The ports of the rules that do not matter begin here.
const FIRST_PORT: u32 = 20_000;
/// What a change has caused is done by then.
const SETTLE: Duration = Duration::from_millis(500);

/// How often the flow asks, and what the clock shows: milliseconds.
const RESOLUTION: f64 = 2.0;

/// A change, what it is measured on, and how long it took.
struct Change {
    name: &'static str,
    tcp: bool,
    until: Until,
    took: Series,
    answered: Series,
}

/// Measures and reports.
pub(crate) fn run(common: &Common, args: &Args) -> Result<()> {
    let mut report = Report::new(format!("From a policy's request to its enforcement, {} rules", args.rules));
    let machine = Machine::start("enforce", &[])?;
    let result = measure(&machine, common, args, &mut report);
    let log = machine.daemon.log();
    machine.close()?;
    result.with_context(|| log.lines().rev().take(20).collect::<Vec<_>>().join("\n"))?;
    report.note("From just before the request is sent by the daemon's socket until the last answer of the flow, or the first; to whole milliseconds. \"answered\" is the API's answer, which does not wait for the node.");
    report.print(common.json)
}

fn measure(machine: &Machine, common: &Common, args: &Args, report: &mut Report) -> Result<()> {
    let stage = Stage::set(machine, None)?;
    let to = SocketAddr::new(stage.service(machine, false)?, PORT);
    let client = Place { netns: stage.client.clone(), cgroup: None, cpu: None };
    eprintln!("making {} rules", args.rules);
    for first in (0..args.rules).step_by(RULES_EACH as usize) {
        let ports: Vec<u32> = (first..args.rules.min(first + RULES_EACH)).map(|n| FIRST_PORT + n).collect();
        let rules: Vec<Value> = ports.into_iter().map(|port| rule(&[("tcp", port)])).collect();
        machine.daemon.put(&format!("{POLICIES}/rules-{first}"), &policy(&rules))?;
    }
    open(machine, true)?;
    wait_for(
        "the rules to be in the kernel",
        PATIENCE,
        || Ok((rows(machine)? >= u64::from(args.rules)).then_some(())),
    )?;
    pause(SETTLE);
    let change = |name, tcp, until| Change { name, tcp, until, took: Series::default(), answered: Series::default() };
    let mut changes = [
        change("policy enforced: a TCP connection cut", true, Until::Cut),
        change("policy enforced: a UDP flow opened", false, Until::Open),
        change("policy enforced: a UDP flow cut", false, Until::Cut),
    ];
    let rounds = common.pick(3, 15);
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for change in &mut changes {
            change.measure(machine, &client, to).with_context(|| change.name)?;
        }
        open(machine, true)?;
        pause(SETTLE);
    }
    for change in &changes {
        report.figure(format!("{}: answered", change.name), "ms", &change.answered);
        report.limit(change.name, "ms", &change.took, Target::AtMost(100.0));
    }
    Ok(())
}

impl Change {
    fn measure(&mut self, machine: &Machine, client: &Place, to: SocketAddr) -> Result<()> {
        let mut flow = client.start(&Role::Live(Live { to, tcp: self.tcp, until: self.until }))?;
        let said = flow.line()?;
        ensure!(said == "live", "the flow is not as it should be: {said:?}");
        let (begin, wall) = (Moment::now(), now());
        open(machine, self.until == Until::Open)?;
        self.answered.0.push(begin.elapsed().as_secs_f64() * 1e3);
        let happened: Happened = flow.finish()?;
        let took = happened.at - wall;
        ensure!(took > -RESOLUTION, "it happened {:.0} ms before it was asked for", -took);
        self.took.0.push(took.max(0.0));
        Ok(())
    }
}

/// Lets the client reach the server, or nobody.
fn open(machine: &Machine, open: bool) -> Result<()> {
    let port = u32::from(PORT);
    let rules = if open { vec![rule(&[("tcp", port), ("udp", port)])] } else { Vec::new() };
    machine.daemon.put(&format!("{POLICIES}/{OPEN}"), &policy(&rules))
}

/// A policy about the server.
fn policy(ingress: &[Value]) -> Value {
    json!({ "instances": { "labels": { "app": "echo" } }, "ingress": ingress })
}

/// Lets the client in to these ports.
fn rule(ports: &[(&str, u32)]) -> Value {
    let ports: Vec<Value> =
        ports.iter().map(|(protocol, port)| json!({ "protocol": protocol, "port": [port, port] })).collect();
    let client = json!({ "instances": { "instances": { "labels": { "app": "client" } } } });
    json!({ "peers": [client], "ports": ports })
}

/// How many rows of rules the kernel has.
fn rows(machine: &Machine) -> Result<u64> {
    let tables = machine.hivemind(&["dataplane", "dump", "-o", "json"])?.json()?;
    let tables = tables.as_array().context("no list of tables")?;
    let rules = tables.iter().find(|table| table["name"] == "rules").context("no table of rules")?;
    rules["rows"].as_u64().context("no number of rows")
}
