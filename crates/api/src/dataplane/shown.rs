//! The tables of the data plane: what each is made of, and how it looks.

use std::net::IpAddr;

use super::{RowsView, limits};
use crate::{ApiState, flow_names::Who, problem::ApiError};
use hivemind_agent::datapath::{Seen, User};
use hivemind_core::spec::v1::Action;
use hivemind_dataplane::{
    Counter, DataplaneInfo,
    tables::{Frontend, Part, Tables, Usage},
};
use hivemind_policy::ALL_PORTS;

/// What a table is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Rows that the daemon writes.
    Rows(&'static [Part]),
    /// What the programs have seen.
    Seen,
    /// What they have counted.
    Counters,
    /// What is used that may have limits.
    Uses,
    /// What the data plane uses.
    Info,
}

/// The tables that can be shown, each with what it holds, and what it is made of.
pub(super) const TABLES: &[(&str, &str, Source)] = &[
    ("endpoints", "the instances of this node, by their devices", Source::Rows(&[Part::Endpoints])),
    ("peers", "whose address it is, for all instances of the cluster", Source::Rows(&[Part::Peers])),
    ("services", "virtual addresses and published ports", Source::Rows(&[Part::Services])),
    ("backends", "who gets the connections of a service", Source::Rows(&[Part::Services])),
    ("served", "which ports of instances belong to a service", Source::Rows(&[Part::Served])),
    ("sources", "from where published ports are reached that have source ranges", Source::Rows(&[Part::Sources])),
    ("node-addresses", "the node's own addresses", Source::Rows(&[Part::NodeAddresses])),
    ("nodes", "the addresses of other nodes, and how they are reached", Source::Rows(&[Part::Nodes])),
    (
        "uplinks",
        "who sends packets of published ports on to other nodes, and what becomes of packets over a rate",
        Source::Info,
    ),
    ("limits", "what instances and tenants may use that have limits", Source::Rows(&[Part::Limits])),
    ("uses", "what instances use, and tenants that have limits", Source::Uses),
    ("rules", "what policies say", Source::Rows(&[Part::Rules])),
    ("ports", "where intervals of ports begin that rules name", Source::Rows(&[Part::Intervals])),
    ("blocks", "blocks of addresses that rules name", Source::Rows(&[Part::Blocks])),
    ("flows", "live flows", Source::Seen),
    ("drops", "what was dropped last", Source::Seen),
    ("counters", "packets and bytes, forwarded or dropped", Source::Counters),
];

/// What tables are made of, as far as it was read.
#[derive(Debug, Default)]
pub(super) struct Held {
    tables: Tables,
    seen: Seen,
    counters: Vec<Counter>,
    uses: Vec<(User, Usage)>,
    info: DataplaneInfo,
}

impl Held {
    /// Reads what is asked for, and nothing else: the data plane does nothing else meanwhile.
    pub(super) async fn read(state: &ApiState, sources: &[Source]) -> Result<Self, ApiError> {
        let (datapath, mut held) = (&state.datapath, Self::default());
        for source in sources {
            match source {
                Source::Rows(parts) => held.tables = datapath.held(parts).await?,
                Source::Seen => held.seen = datapath.seen().await?,
                Source::Counters => held.counters = datapath.counters().await?,
                Source::Uses => held.uses = datapath.uses().await?,
                Source::Info => held.info = datapath.info().await?,
            }
        }
        Ok(held)
    }

    /// How many rows [`Shown::table`] has.
    pub(super) fn count(&self, name: &str) -> Option<usize> {
        let tables = &self.tables;
        let count = match name {
            "endpoints" => tables.endpoints.len(),
            "peers" => tables.peers.len(),
            "services" => tables.services.len(),
            "backends" => tables.services.values().map(|row| row.backends.len()).sum(),
            "served" => tables.served.len(),
            "sources" => tables.sources.len(),
            "node-addresses" => tables.node_addresses.len(),
            "nodes" => tables.nodes.len(),
            "uplinks" => self.info.uplinks.len(),
            "limits" => tables.limits.len(),
            "uses" => self.uses.len(),
            "rules" => tables.rules.len(),
            "ports" => tables.intervals.len(),
            "blocks" => tables.blocks.len(),
            "flows" => self.seen.flows.len(),
            "drops" => self.seen.drops.len(),
            "counters" => self.counters.len(),
            _ => return None,
        };
        Some(count)
    }
}

/// The same, with what numbers and addresses stand for.
pub(super) struct Shown {
    pub(super) held: Held,
    pub(super) who: Who,
}

impl Shown {
    /// The rows of a table, in words; none if there is no such table.
    pub(super) fn table(&self, name: &str) -> Option<RowsView> {
        let Self { held: Held { tables, uses, info, .. }, who } = self;
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
                info.uplinks.iter().map(|uplink| {
                    let by = if uplink.driver { "driver" } else { "kernel" };
                    let over = if info.paced { "waits" } else { "dropped" };
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
            "uses" => limits::uses(uses, who),
            _ => return None,
        };
        Some(view)
    }

    fn rules(&self) -> impl Iterator<Item = Vec<String>> {
        self.held.tables.rules.iter().map(|(key, row)| {
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
            self.held.seen.flows.iter().map(|flow| {
                let end = |end: &hivemind_dataplane::flows::FlowEnd| self.who.end_of(end.address, end.port);
                vec![
                    end(&flow.from),
                    end(&flow.to),
                    crate::flow_names::protocol(flow.protocol),
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
            self.held.seen.drops.iter().map(|drops| {
                let end = |end: Option<std::net::SocketAddr>| {
                    end.map_or_else(|| "unknown".into(), |end| self.who.end_of(end.ip(), end.port()))
                };
                vec![
                    end(drops.ends.map(|(from, _)| from)),
                    end(drops.ends.map(|(_, to)| to)),
                    crate::flow_names::protocol(drops.protocol),
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
            self.held.counters.iter().map(|counter| {
                vec![
                    self.who.instance_at(counter.endpoint),
                    self.who.service_of(counter.service),
                    counter.direction.as_str().into(),
                    counter.verdict().into(),
                    counter.packets.to_string(),
                    counter.bytes.to_string(),
                ]
            }),
        )
    }
}

/// A table of these columns.
pub(super) fn rows(columns: &str, rows: impl Iterator<Item = Vec<String>>) -> RowsView {
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

fn choice(front: &Frontend, choice: &hivemind_dataplane::tables::Choice) -> String {
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

fn policies(row: &hivemind_dataplane::tables::EndpointRow) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::tests::who;
    use hivemind_core::model::Protocol;
    use hivemind_dataplane::{
        Uplink,
        tables::{BackendRow, Choice, PeerRow, ServiceRow},
    };

    #[test]
    fn every_table_is_shown_with_as_many_rows_as_are_counted() {
        let address = |n| IpAddr::from([10, 88, 0, n]);
        let backends = [2, 3].map(|n| BackendRow { address: address(n), port: 80, weight: 1 }).to_vec();
        let front = Frontend::Virtual(address(9), 80, Protocol::Tcp);
        let tables = Tables {
            services: [(front, ServiceRow { id: 3, backends, choice: Choice::default() })].into_iter().collect(),
            peers: (2..5).map(|n| (address(n), PeerRow { class: 256, tenant: 1, ifindex: 0, node: None })).collect(),
            node_addresses: (1..5).map(address).collect(),
            ..Tables::default()
        };
        let info = DataplaneInfo { uplinks: vec![Uplink::default(); 5], ..DataplaneInfo::default() };
        let shown = Shown { held: Held { tables, info, ..Held::default() }, who: who() };
        for (name, ..) in TABLES {
            assert_eq!(shown.table(name).map(|table| table.rows.len()), shown.held.count(name), "{name}");
        }
        let counts = ["services", "backends", "peers", "node-addresses", "uplinks", "rules", "unheard-of"];
        let counts = counts.map(|name| shown.held.count(name));
        assert_eq!(counts, [Some(1), Some(2), Some(3), Some(4), Some(5), Some(0), None]);
    }
}
