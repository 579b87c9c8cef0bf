//! `hivemind service|node|events|version`

use clap::{Args, Subcommand};
use futures::TryStreamExt;

use super::{
    Context, complete,
    follow::{is_away, patiently, pause},
    list::Only,
    output::{Format, Listed, Tone, addresses, bytes, line},
    parse::{Since, since},
};
use crate::{
    api::{
        round_trips::RoundTripView,
        view::{NodeView, ServiceView},
    },
    client::{Client, ListEventsArgs},
    lifecycle::clock,
    model::{DEFAULT_WEIGHT, ErrorCode, Event, EventKind, Problem, Scope},
};

#[derive(Subcommand, Debug)]
pub(super) enum ServiceCommand {
    /// List the services
    #[command(visible_alias = "list")]
    Ls(Only),
    /// Show a service with those that serve it and its traffic
    #[command(visible_alias = "inspect")]
    Info {
        /// Name of the service, or a DNS name of it
        #[arg(add = complete::services())]
        name: String,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum NodeCommand {
    /// List the nodes
    #[command(visible_alias = "list")]
    Ls(Only),
    /// Show a node; with -o wide its data plane
    #[command(visible_alias = "inspect")]
    Info {
        /// Name of the node
        #[arg(add = complete::nodes())]
        name: String,
    },
}

#[derive(Args, Debug)]
pub(super) struct EventArgs {
    /// Only of this app and its instances
    #[arg(value_name = "APP", add = super::complete::apps())]
    app: Option<String>,
    /// Only the last ones
    #[arg(long, value_name = "NUMBER")]
    tail: Option<usize>,
    /// Only those since then: 10m, or 2026-11-21T01:14:07Z
    #[arg(long, value_parser = since, value_name = "TIME")]
    since: Option<Since>,
    /// Also what is yet to come, over restarts of the daemon
    #[arg(short, long)]
    follow: bool,
    /// Only those that have such a field, e.g. kind=warning; may be repeated
    #[arg(long, value_name = "FIELD=VALUE")]
    field: Vec<String>,
}

impl EventArgs {
    /// Those behind a position; those to come as well, if there is one.
    fn asked(&self, after: Option<&str>) -> ListEventsArgs {
        ListEventsArgs {
            after: after.map(str::to_owned),
            follow: after.is_some(),
            field_selector: (!self.field.is_empty()).then(|| self.field.join(",")),
            limit: None,
        }
    }
}

impl Listed for ServiceView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["NAME", "DNS", "ADDRESSES", "PORTS", "READY"], &["APP", "IN", "OUT", "DROPPED"]);

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self) -> Vec<String> {
        let traffic = self.traffic.unwrap_or_default();
        vec![
            self.name.clone(),
            self.dns_names.first().cloned().unwrap_or_default(),
            or_headless(&self.addresses),
            ports(self),
            self.backends.len().to_string(),
            self.app.clone(),
            bytes(traffic.bytes_in),
            bytes(traffic.bytes_out),
            traffic.packets_dropped.to_string(),
        ]
    }

    fn tone(&self) -> Option<(usize, Tone)> {
        Some((4, if self.backends.is_empty() { Tone::Bad } else { Tone::Good }))
    }
}

/// A service's addresses, or that it has none.
fn or_headless(own: &crate::model::Addresses) -> String {
    let shown = addresses(own);
    if shown.is_empty() { "headless".into() } else { shown }
}

fn ports(service: &ServiceView) -> String {
    let port = |port: &crate::model::ServicePort| {
        let published = port.published.map(|published| format!("{published}:")).unwrap_or_default();
        let target = if port.target == port.port { String::new() } else { format!(":{}", port.target) };
        format!("{published}{}{target}/{}", port.port, port.protocol)
    };
    service.ports.iter().map(port).collect::<Vec<_>>().join(" ")
}

impl Listed for NodeView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["NAME", "READY", "INSTANCES", "CPU", "MEMORY", "MESSAGE"], &["KERNEL", "CONTAINERD", "OS", "ADDRESSES"]);

    fn name(&self) -> String {
        self.node.name.to_string()
    }

    fn cells(&self) -> Vec<String> {
        let status = &self.status;
        let own: Vec<_> = status.addresses.iter().map(ToString::to_string).collect();
        vec![
            self.node.name.to_string(),
            if status.ready { "yes" } else { "no" }.into(),
            self.instances.to_string(),
            (status.cpu_milli / 1000).to_string(),
            bytes(status.memory_bytes),
            status.message.clone(),
            status.kernel.clone(),
            status.containerd.clone(),
            status.os.clone(),
            own.join(" "),
        ]
    }

    fn tone(&self) -> Option<(usize, Tone)> {
        Some((1, if self.status.ready { Tone::Good } else { Tone::Bad }))
    }
}

pub(super) async fn service(context: &Context, command: ServiceCommand) -> Result<(), Problem> {
    match command {
        ServiceCommand::Ls(only) => {
            let services: Vec<ServiceView> = context.list_here(&only, Client::list_services).await?;
            context.show_all(&only, &services, "no services yet; an app with a --port or a --service has one")
        }
        ServiceCommand::Info { name } => {
            let service: ServiceView = context.client.get_service(&context.scope, &name).await?;
            if context.output.wants_document() {
                return context.output.document(&service);
            }
            if context.output.format == Format::Name {
                line(&service.name);
            } else {
                describe_service(&service);
            }
            Ok(())
        }
    }
}

fn describe_service(service: &ServiceView) {
    let show = |title: &str, text: String| line(&format!("{title:<12}{text}"));
    let traffic = service.traffic.unwrap_or_default();
    show("Name", service.name.clone());
    show("DNS", service.dns_names.join(" "));
    show("Addresses", or_headless(&service.addresses));
    let shown = ports(service);
    show(
        "Ports",
        if shown.is_empty() { "none: give the app a --port, or let its image EXPOSE one".into() } else { shown },
    );
    show("App", service.app.clone());
    super::balance::words(&service.balance).into_iter().for_each(|(title, text)| show(title, text));
    show("Opened", format!("{} connections, {} refused", traffic.connections, traffic.connections_refused));
    show("In", format!("{} packets, {}", traffic.packets_in, bytes(traffic.bytes_in)));
    show("Out", format!("{} packets, {}", traffic.packets_out, bytes(traffic.bytes_out)));
    show("Dropped", format!("{} packets", traffic.packets_dropped));
    for round_trips in &service.round_trips {
        let RoundTripView { from, count, p50_us, p99_us } = round_trips;
        let (half, most) = (micros(*p50_us), micros(*p99_us));
        show("Round trips", format!("from {from}: half within {half}, 99 of 100 within {most}, of {count}"));
    }
    show("Ready", service.backends.len().to_string());
    let equal = service.backends.iter().all(|backend| backend.weight == DEFAULT_WEIGHT);
    for backend in &service.backends {
        let weight = if equal { String::new() } else { format!(" weight {}", backend.weight) };
        let own = addresses(&backend.addresses);
        line(&format!("  {:<24} {:<16} {own}{weight}", backend.instance, backend.node));
    }
}

/// A time in the unit that suits it.
fn micros(us: u64) -> String {
    if us < 1_000 { format!("{us} µs") } else { format!("{} ms", us / 1_000) }
}

pub(super) async fn node(context: &Context, command: NodeCommand) -> Result<(), Problem> {
    match command {
        NodeCommand::Ls(only) => {
            let nodes: Vec<NodeView> = context.client.list_nodes(&only.asked()).await?;
            context.show_all(&only, &nodes, "no nodes")
        }
        NodeCommand::Info { name } => {
            let node: NodeView = context.client.get_node(&name).await?;
            if context.output.wants_document() {
                return context.output.document(&node);
            }
            if context.output.format == Format::Name {
                line(node.node.name.as_str());
            } else {
                describe_node(&node, context.output.format == Format::Wide);
            }
            Ok(())
        }
    }
}

fn describe_node(node: &NodeView, wide: bool) {
    let (narrow, extra) = NodeView::COLUMNS;
    for (title, cell) in narrow.iter().chain(extra).zip(node.cells()).filter(|(_, cell)| !cell.is_empty()) {
        line(&format!("{title:<12}{cell}"));
    }
    let ranges = node.node.instances_v4.map(|range| range.to_string()).into_iter();
    let ranges: Vec<_> = ranges.chain(node.node.instances_v6.map(|range| range.to_string())).collect();
    line(&format!("{:<12}{}", "RANGES", ranges.join(" ")));
    let Some(dataplane) = &node.dataplane else { return };
    let memory: u64 = dataplane.maps.iter().map(|map| map.bytes).sum();
    let counts = format!(
        "ABI {}, {}, {} programs, {} maps with {}, {} connections, {} repairs",
        dataplane.abi,
        dataplane.attach,
        dataplane.programs.len(),
        dataplane.maps.len(),
        bytes(memory),
        dataplane.connections,
        dataplane.repaired
    );
    line(&format!("{:<12}{counts}", "DATA PLANE"));
    if wide {
        for program in &dataplane.programs {
            line(&format!("  program {:<16}{:>8} instructions verified", program.name, program.instructions));
        }
        for map in &dataplane.maps {
            line(&format!("  map     {:<16}{:>8} rows, {}", map.name, map.capacity, bytes(map.bytes)));
        }
    }
}

pub(super) async fn events(context: &Context, args: &EventArgs) -> Result<(), Problem> {
    let since = args.since.map(|since| since.at(clock::now()));
    let wanted = |event: &Event| {
        args.app.as_ref().is_none_or(|app| concerns(event, &context.scope, app))
            && since.is_none_or(|since| event.at >= since)
    };
    let all: Vec<Event> = context.client.list_events(&args.asked(None)).await?.try_collect().await?;
    let last = all.last().map(|event| event.position.clone());
    let mut past: Vec<Event> = all.into_iter().filter(|event| wanted(event)).collect();
    if let Some(tail) = args.tail {
        past.drain(..past.len().saturating_sub(tail));
    }
    for event in &past {
        show_event(context, event)?;
    }
    if args.follow {
        return follow_events(context, args, last, wanted).await;
    }
    if past.is_empty() && !context.output.wants_document() {
        context.output.say("nothing of the kind has happened since the daemon was started");
    }
    Ok(())
}

/// Shows what is yet to come. What cannot be known of it is said as an event.
async fn follow_events(
    context: &Context,
    args: &EventArgs,
    mut last: Option<String>,
    wanted: impl Fn(&Event) -> bool,
) -> Result<(), Problem> {
    loop {
        // The beginning, if there was none.
        let asked = args.asked(Some(last.as_deref().unwrap_or("0")));
        let mut events = match patiently(context, || context.client.list_events(&asked)).await {
            Err(problem) if problem.code == ErrorCode::Expired => {
                show_event(context, &missed(&problem))?;
                last = None;
                continue;
            }
            opened => opened?,
        };
        loop {
            match events.try_next().await {
                Ok(Some(event)) => {
                    if wanted(&event) {
                        show_event(context, &event)?;
                    }
                    last = Some(event.position);
                }
                Err(problem) if !is_away(&problem) => return Err(problem),
                // The connection is broken, or the daemon stops.
                Ok(None) | Err(_) => break,
            }
        }
        pause().await;
    }
}

/// Says in the stream that something may be missing at this place.
fn missed(problem: &Problem) -> Event {
    let parts: Vec<_> = [&problem.title].into_iter().chain(&problem.details).map(String::as_str).collect();
    Event {
        seq: 0,
        position: String::new(),
        at: clock::now(),
        kind: EventKind::Warning,
        reason: "Missed".into(),
        object: "events".into(),
        tenant: None,
        namespace: None,
        app: None,
        message: parts.join("; "),
        fields: std::collections::BTreeMap::new(),
    }
}

/// Whether an event is about the app of this name in the scope, or an instance of it.
fn concerns(event: &Event, scope: &Scope, app: &str) -> bool {
    let there = event.tenant.as_ref() == Some(&scope.tenant) && event.namespace.as_ref() == Some(&scope.namespace);
    there && event.app.as_ref().is_some_and(|of| of.as_str() == app)
}

fn show_event(context: &Context, event: &Event) -> Result<(), Problem> {
    match context.output.format {
        Format::Json | Format::Yaml => context.output.streamed(event),
        Format::Name => {
            line(&event.object);
            Ok(())
        }
        Format::Table | Format::Wide => {
            let kind = if event.kind == EventKind::Warning { "warning" } else { "normal" };
            line(&format!("{}  {kind:<8}{:<14}{:<28}{}", event.at, event.reason, event.object, event.message));
            Ok(())
        }
    }
}

pub(super) async fn version(context: &Context) -> Result<(), Problem> {
    let daemon = context.client.get_version().await;
    if context.output.wants_document() {
        let document = serde_json::json!({ "client": env!("CARGO_PKG_VERSION"), "daemon": daemon.ok() });
        return context.output.document(&document);
    }
    line(&format!("hivemind  {}", env!("CARGO_PKG_VERSION")));
    match daemon {
        Ok(version) => line(&format!("daemon    {} (data plane ABI {})", version.version, version.dataplane_abi)),
        Err(problem) => line(&format!("daemon    {}", problem.title)),
    }
    Ok(())
}
