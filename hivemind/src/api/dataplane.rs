//! What the data plane holds, in words, and whether it is what it should be.

mod limits;

use std::{net::IpAddr, time::Duration};

use axum::{
    Json as Body,
    extract::{Path, State},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    ApiState,
    extract::Args,
    flow_names::Who,
    problem::{ApiError, not_found},
    serve::Stop,
};
use crate::{
    agent::datapath::{Seen, User},
    dataplane::{
        Counter, DataplaneInfo, ProgramRuns,
        drift::{Difference, Fault},
        tables::{Frontend, Tables, Usage},
    },
    model::{ErrorCode, Problem},
    policy::ALL_PORTS,
    spec::v1::Action,
};

/// The tables that can be shown, each with what it holds.
const TABLES: &[(&str, &str)] = &[
    ("endpoints", "the instances of this node, by their devices"),
    ("peers", "whose address it is, for all instances of the cluster"),
    ("services", "virtual addresses and published ports"),
    ("backends", "who gets the connections of a service"),
    ("served", "which ports of instances belong to a service"),
    ("sources", "from where published ports are reached that have source ranges"),
    ("node-addresses", "the node's own addresses"),
    ("nodes", "the addresses of other nodes, and how they are reached"),
    ("uplinks", "who sends packets of published ports on to other nodes, and what becomes of packets over a rate"),
    ("limits", "what instances and tenants may use that have limits"),
    ("uses", "what instances use, and tenants that have limits"),
    ("rules", "what policies say"),
    ("ports", "where intervals of ports begin that rules name"),
    ("blocks", "blocks of addresses that rules name"),
    ("flows", "live flows"),
    ("drops", "what was dropped last"),
    ("counters", "packets and bytes, forwarded or dropped"),
];

/// A table, and how many rows it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TableView {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub about: String,
    /// How many rows there are.
    pub rows: usize,
}

/// The rows of a table, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RowsView {
    /// Titles of the columns.
    pub columns: Vec<String>,
    /// A cell for each column, of each row.
    pub rows: Vec<Vec<String>>,
}

/// Something in the kernel that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DifferenceView {
    /// `missing`, `extra` or `different`.
    pub fault: String,
    /// A table, `attachment`, `pin` or `write`.
    pub place: String,
    /// Of what.
    pub what: String,
    /// What it should be; empty if it should not be.
    pub wanted: String,
    /// What it is; empty if it is not there.
    pub found: String,
}

impl From<Difference> for DifferenceView {
    fn from(difference: Difference) -> Self {
        let fault = match difference.fault {
            Fault::Missing => "missing",
            Fault::Extra => "extra",
            Fault::Different => "different",
        };
        let Difference { place, what, wanted, found, .. } = difference;
        Self { fault: fault.into(), place: place.into(), what, wanted, found }
    }
}

/// Everything that tables are made of.
struct Held {
    tables: Tables,
    seen: Seen,
    counters: Vec<Counter>,
    uses: Vec<(User, Usage)>,
    info: DataplaneInfo,
    who: Who,
}

impl Held {
    async fn now(state: &ApiState) -> Result<Self, ApiError> {
        Ok(Self {
            tables: state.datapath.held().await?,
            seen: state.datapath.seen().await?,
            counters: state.datapath.counters().await?,
            uses: state.datapath.uses().await?,
            info: state.datapath.info().await?,
            who: Who::now(state).await?,
        })
    }

    fn table(&self, name: &str) -> Option<RowsView> {
        let Self { tables, who, .. } = self;
        let view = match name {
            "endpoints" => rows(
                "INTERFACE INSTANCE IPV4 IPV6 CLASS TENANT POLICIES",
                tables.endpoints.iter().map(|(ifindex, row)| {
                    let address = |ip: Option<String>| ip.unwrap_or_default();
                    vec![
                        ifindex.to_string(),
                        who.instance_at(*ifindex),
                        address(row.v4.map(|ip| ip.to_string())),
                        address(row.v6.map(|ip| ip.to_string())),
                        row.class.to_string(),
                        row.tenant.to_string(),
                        policies(row),
                    ]
                }),
            ),
            "peers" => rows(
                "ADDRESS WHO CLASS TENANT INTERFACE NODE",
                tables.peers.iter().map(|(address, row)| {
                    let (class, tenant) = (row.class.to_string(), row.tenant.to_string());
                    let interface = if row.ifindex == 0 { "another node".into() } else { row.ifindex.to_string() };
                    let node = row.node.map(|node| node.to_string()).unwrap_or_default();
                    vec![address.to_string(), who.name_of(*address), class, tenant, interface, node]
                }),
            ),
            "services" => rows(
                "AT SERVICE BACKENDS CHOICE",
                tables.services.iter().map(|(front, row)| {
                    vec![at(front), who.service_of(row.id), row.backends.len().to_string(), choice(front, &row.choice)]
                }),
            ),
            "backends" => rows(
                "AT SERVICE BACKEND INSTANCE WEIGHT",
                tables.services.iter().flat_map(|(front, row)| {
                    row.backends.iter().map(|backend| {
                        let address = std::net::SocketAddr::new(backend.address, backend.port).to_string();
                        let (name, weight) = (who.name_of(backend.address), backend.weight.to_string());
                        vec![at(front), who.service_of(row.id), address, name, weight]
                    })
                }),
            ),
            "served" => rows(
                "INSTANCE PORT SERVICE",
                tables.served.iter().map(|((ifindex, port, protocol), service)| {
                    vec![who.instance_at(*ifindex), format!("{port}/{protocol}"), who.service_of(*service)]
                }),
            ),
            "sources" => rows(
                "SERVICE RANGE",
                tables.sources.iter().map(|(service, range)| vec![who.service_of(*service), range.to_string()]),
            ),
            "node-addresses" => rows("ADDRESS", tables.node_addresses.iter().map(|address| vec![address.to_string()])),
            "nodes" => rows(
                "ADDRESS INTERFACE MTU",
                tables.nodes.iter().map(|(address, row)| {
                    let interface = if row.device == 0 { "no way".into() } else { row.device.to_string() };
                    vec![address.to_string(), interface, row.mtu.to_string()]
                }),
            ),
            "uplinks" => rows(
                "DEVICE BY WHY QUEUE OVER-RATE",
                self.info.uplinks.iter().map(|uplink| {
                    let by = if uplink.driver { "driver" } else { "kernel" };
                    let over = if self.info.paced { "waits" } else { "dropped" };
                    vec![uplink.device.clone(), by.into(), uplink.why.clone(), uplink.queue.clone(), over.into()]
                }),
            ),
            "rules" => rows("SET DIRECTION PEER PROTOCOL PORTS RULE ACTION ORDER", self.rules()),
            "ports" => rows(
                "PROTOCOL BEGINS",
                tables.intervals.iter().map(|(protocol, begins)| {
                    let begins: Vec<_> = begins.iter().map(u16::to_string).collect();
                    vec![format!("{protocol:?}").to_lowercase(), begins.join(" ")]
                }),
            ),
            "blocks" => rows(
                "BLOCK CLASS",
                tables.blocks.iter().map(|(block, class)| vec![block.to_string(), format!("{class:#x}")]),
            ),
            "flows" => self.flows(),
            "drops" => self.drops(),
            "counters" => self.counters(),
            "limits" => limits::limits(&tables.limits, who),
            "uses" => limits::uses(&self.uses, who),
            _ => return None,
        };
        Some(view)
    }

    fn rules(&self) -> impl Iterator<Item = Vec<String>> {
        self.tables.rules.iter().map(|(key, row)| {
            let ports = match key.port {
                ALL_PORTS => "all".into(),
                port => {
                    let (first, more) = (port >> 16, port & 0xffff);
                    if more == 0 { first.to_string() } else { format!("{first}-{}", first + more) }
                }
            };
            let action = match row.action {
                Action::Accept => "accept",
                Action::Deny => "deny",
                Action::Pass => "pass",
                Action::Reject => "reject",
            };
            vec![
                key.set.to_string(),
                key.direction.as_str().into(),
                format!("{:#x}", key.peer),
                key.protocol.map_or_else(|| "all".into(), |protocol| format!("{protocol:?}").to_lowercase()),
                ports,
                self.who.rule_of(row.number),
                action.into(),
                row.order.to_string(),
            ]
        })
    }

    fn flows(&self) -> RowsView {
        rows(
            "FROM TO PROTOCOL SERVICE RULE PACKETS BYTES LAST",
            self.seen.flows.iter().map(|flow| {
                let end = |end: &crate::dataplane::flows::FlowEnd| self.who.end_of(end.address, end.port);
                vec![
                    end(&flow.from),
                    end(&flow.to),
                    super::flow_names::protocol(flow.protocol),
                    self.who.service_of(flow.service),
                    self.who.rule_of(flow.rule),
                    format!("{}/{}", flow.from.packets, flow.to.packets),
                    format!("{}/{}", flow.from.bytes, flow.to.bytes),
                    flow.last.to_string(),
                ]
            }),
        )
    }

    fn drops(&self) -> RowsView {
        rows(
            "FROM TO PROTOCOL AT DIRECTION REASON RULE PACKETS LAST",
            self.seen.drops.iter().map(|drops| {
                let end = |end: Option<std::net::SocketAddr>| {
                    end.map_or_else(|| "unknown".into(), |end| self.who.end_of(end.ip(), end.port()))
                };
                vec![
                    end(drops.ends.map(|(from, _)| from)),
                    end(drops.ends.map(|(_, to)| to)),
                    super::flow_names::protocol(drops.protocol),
                    self.who.instance_at(drops.device),
                    drops.direction.as_str().into(),
                    drops.reason.as_str().into(),
                    self.who.rule_of(drops.rule),
                    drops.packets.to_string(),
                    drops.last.to_string(),
                ]
            }),
        )
    }

    fn counters(&self) -> RowsView {
        rows(
            "INSTANCE SERVICE DIRECTION REASON PACKETS BYTES",
            self.counters.iter().map(|counter| {
                let direction = match counter.direction {
                    hivemind_ebpf::abi::OUT => "out",
                    hivemind_ebpf::abi::IN => "in",
                    _ => "opened",
                };
                vec![
                    self.who.instance_at(counter.endpoint),
                    self.who.service_of(counter.service),
                    direction.into(),
                    super::metrics::reason(counter.reason).into(),
                    counter.packets.to_string(),
                    counter.bytes.to_string(),
                ]
            }),
        )
    }
}

fn rows(columns: &str, rows: impl Iterator<Item = Vec<String>>) -> RowsView {
    RowsView { columns: columns.split(' ').map(str::to_owned).collect(), rows: rows.collect() }
}

/// Where a service is reached.
fn at(front: &Frontend) -> String {
    match front {
        Frontend::Address(IpAddr::V6(address)) => format!("[{address}]"),
        Frontend::Address(address) => address.to_string(),
        Frontend::Virtual(address, port, protocol) => {
            format!("{}/{protocol}", std::net::SocketAddr::new(*address, *port))
        }
        Frontend::Published(family, port, protocol) => format!("node:{port}/{protocol} {family:?}").to_lowercase(),
    }
}

fn choice(front: &Frontend, choice: &crate::dataplane::tables::Choice) -> String {
    if matches!(front, Frontend::Address(_)) {
        return "(the address)".into();
    }
    let words = [
        (choice.least, "least connections"),
        (choice.alike, "alike on every node"),
        (choice.local, "of this node only"),
        (choice.sources, "source ranges"),
        (choice.affinity != 0, "clients stay"),
    ];
    let words: Vec<_> = words.into_iter().filter(|(set, _)| *set).map(|(_, word)| word).collect();
    if words.is_empty() { "by weight".into() } else { words.join(", ") }
}

fn policies(row: &crate::dataplane::tables::EndpointRow) -> String {
    let policy = &row.policy;
    let sets: Vec<_> = policy.sets.iter().filter(|set| **set != 0).map(|set| format!("set {set}")).collect();
    let words = [
        (policy.isolated_in, "closed in"),
        (policy.isolated_out, "closed out"),
        (policy.audit_in || policy.audit_out, "audit"),
    ];
    let words = words.into_iter().filter(|(set, _)| *set).map(|(_, word)| word.to_owned());
    sets.into_iter().chain(words).collect::<Vec<_>>().join(", ")
}

/// The tables of the data plane on this node.
#[utoipa::path(get, operation_id = "listTables", path = "/v1/dataplane/tables", tag = "dataplane",
    responses((status = 200, body = [TableView]), (status = "4XX", body = Problem)))]
pub(super) async fn tables(State(state): State<ApiState>) -> Result<Body<Vec<TableView>>, ApiError> {
    let held = Held::now(&state).await?;
    let view = |(name, about): &(&str, &str)| TableView {
        name: (*name).into(),
        about: (*about).into(),
        rows: held.table(name).map_or(0, |table| table.rows.len()),
    };
    Ok(Body(TABLES.iter().map(view).collect()))
}

/// The rows of a table, as the kernel has them now, in words.
#[utoipa::path(get, operation_id = "getTable", path = "/v1/dataplane/tables/{name}", tag = "dataplane",
    params(("name" = String, Path)), responses((status = 200, body = RowsView), (status = "4XX", body = Problem)))]
pub(super) async fn table(State(state): State<ApiState>, Path(name): Path<String>) -> Result<Body<RowsView>, ApiError> {
    let there = || TABLES.iter().map(|(name, _)| *name);
    if !there().any(|known| known == name) {
        return Err(not_found("table", &name, None, there()));
    }
    let found = Held::now(&state).await?.table(&name);
    found.map(Body).ok_or_else(|| not_found("table", &name, None, there()))
}

#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct StatsArgs {
    /// For how many seconds: 1 to 60; 5 without it.
    seconds: Option<u64>,
}

/// How often a program has run, and how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunsView {
    /// The program.
    pub program: String,
    /// How often it has run.
    pub runs: u64,
    /// How long one run took, in nanoseconds: the mean.
    pub mean_ns: u64,
    /// Which share of one processor it took.
    pub share: f64,
}

/// How long each of the data plane's programs takes: the kernel measures it for some seconds, which costs every program a
/// little, and then the answer comes.
#[utoipa::path(get, operation_id = "measureDataplane", path = "/v1/dataplane/stats", tag = "dataplane", params(StatsArgs),
    responses((status = 200, body = [RunsView]), (status = "4XX", body = Problem)))]
pub(super) async fn stats(
    State(state): State<ApiState>,
    State(stop): State<Stop>,
    Args(args): Args<StatsArgs>,
) -> Result<Body<Vec<RunsView>>, ApiError> {
    let seconds = args.seconds.unwrap_or(5);
    if !(1..=60).contains(&seconds) {
        let title = format!("seconds {seconds}: programs are measured for 1 to 60 seconds");
        return Err(Problem::new(ErrorCode::Invalid, title).into());
    }
    let measuring = state.datapath.measure().await?;
    let before = state.datapath.runs().await?;
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
        () = stop.stopped() => {}
    }
    let after = state.datapath.runs().await?;
    drop(measuring);
    Ok(Body(between(&before, &after, Duration::from_secs(seconds))))
}

/// What has run between two looks that far apart. A program that was replaced meanwhile begins anew.
#[expect(clippy::cast_precision_loss, reason = "a share, rounded")]
fn between(before: &[ProgramRuns], after: &[ProgramRuns], time: Duration) -> Vec<RunsView> {
    let view = |now: &ProgramRuns| {
        let first = before.iter().find(|then| then.name == now.name && then.runs <= now.runs);
        let runs = now.runs - first.map_or(0, |then| then.runs);
        let spent = now.time.saturating_sub(first.map_or(Duration::ZERO, |then| then.time));
        let mean_ns = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX).checked_div(runs).unwrap_or(0);
        RunsView { program: now.name.clone(), runs, mean_ns, share: spent.as_nanos() as f64 / time.as_nanos() as f64 }
    };
    after.iter().map(view).collect()
}

/// What in the kernel is not as the daemon has written and attached it. It is put right within a minute, and counted.
#[utoipa::path(get, operation_id = "checkDataplane", path = "/v1/dataplane/check", tag = "dataplane",
    responses((status = 200, body = [DifferenceView]), (status = "4XX", body = Problem)))]
pub(super) async fn check(State(state): State<ApiState>) -> Result<Body<Vec<DifferenceView>>, ApiError> {
    let found = state.datapath.check().await?;
    let mut views: Vec<DifferenceView> = found.into_iter().map(Into::into).collect();
    // The tables that should be there are not all written: then what is there is not what should be.
    let fault = state.datapath.state().borrow().fault.clone();
    if let Some(fault) = fault {
        let (what, wanted) = ("the last write of the tables".into(), "done".into());
        views.push(DifferenceView { fault: "missing".into(), place: "write".into(), what, wanted, found: fault });
    }
    Ok(Body(views))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_before_is_not_counted() {
        let runs = |name: &str, runs, nanos| ProgramRuns { name: name.into(), runs, time: Duration::from_nanos(nanos) };
        let before = [runs("a", 10, 1_000), runs("b", 5, 500), runs("c", 9, 9_000)];
        let after = [runs("a", 30, 5_000), runs("b", 5, 500), runs("c", 2, 100)];
        let views = between(&before, &after, Duration::from_micros(8));
        let told: Vec<_> = views.iter().map(|view| (view.program.as_str(), view.runs, view.mean_ns)).collect();
        assert_eq!(told, [("a", 20, 200), ("b", 0, 0), ("c", 2, 50)]);
        assert!((views[0].share - 0.5).abs() < 1e-9, "{}", views[0].share);
    }
}
