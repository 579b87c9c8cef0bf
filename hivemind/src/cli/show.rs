//! `hivemind service|node|events|version`

use clap::{Args, Subcommand};
use futures::StreamExt;

use super::{
    Context,
    instance::escape,
    output::{Format, Listed, addresses, bytes},
};
use crate::{
    api::{
        meta::VersionView,
        view::{NodeView, ServiceView},
    },
    model::{Event, EventKind, Problem},
};

#[derive(Subcommand, Debug)]
pub(super) enum ServiceCommand {
    /// List the services
    Ls,
    /// Show a service with those that serve it and its traffic
    Info {
        /// Name of the service, or a DNS name of it
        name: String,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum NodeCommand {
    /// List the nodes
    Ls,
    /// Show a node
    Info {
        /// Name of the node
        name: String,
    },
}

#[derive(Args, Debug)]
pub(super) struct EventArgs {
    /// Also what is yet to come
    #[arg(short, long)]
    follow: bool,
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
            addresses(&self.addresses),
            ports(self),
            self.backends.len().to_string(),
            self.app.clone(),
            bytes(traffic.bytes_in),
            bytes(traffic.bytes_out),
            traffic.packets_dropped.to_string(),
        ]
    }
}

fn ports(service: &ServiceView) -> String {
    let port = |port: &crate::model::ServicePort| {
        let published = port.published.map(|published| format!("{published}:")).unwrap_or_default();
        format!("{published}{}/{}", port.port, port.protocol)
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
}

pub(super) async fn service(context: &Context, command: ServiceCommand) -> Result<(), Problem> {
    match command {
        ServiceCommand::Ls => {
            let services: Vec<ServiceView> = context.client.get(&context.path("services")).await?;
            context.output.list(&services, "no services; an app with --service or --port has one")
        }
        ServiceCommand::Info { name } => {
            let service: ServiceView =
                context.client.get(&context.path(&format!("services/{}", escape(&name)))).await?;
            if context.output.wants_document() {
                return context.output.document(&service);
            }
            if context.output.format == Format::Name {
                println!("{}", service.name);
                return Ok(());
            }
            let traffic = service.traffic.unwrap_or_default();
            println!("Name        {}", service.name);
            println!("DNS         {}", service.dns_names.join(" "));
            println!("Addresses   {}", addresses(&service.addresses));
            let none = "none: declare --port, or EXPOSE one in the image";
            let shown = ports(&service);
            println!("Ports       {}", if shown.is_empty() { none } else { &shown });
            println!("App         {}", service.app);
            println!("In          {} packets, {}", traffic.packets_in, bytes(traffic.bytes_in));
            println!("Out         {} packets, {}", traffic.packets_out, bytes(traffic.bytes_out));
            println!("Dropped     {} packets", traffic.packets_dropped);
            println!("Ready       {}", service.backends.len());
            for backend in &service.backends {
                println!("  {:<24} {:<16} {}", backend.instance, backend.node, addresses(&backend.addresses));
            }
            Ok(())
        }
    }
}

pub(super) async fn node(context: &Context, command: NodeCommand) -> Result<(), Problem> {
    match command {
        NodeCommand::Ls => {
            let nodes: Vec<NodeView> = context.client.get("/v1/nodes").await?;
            context.output.list(&nodes, "no nodes")
        }
        NodeCommand::Info { name } => {
            let node: NodeView = context.client.get(&format!("/v1/nodes/{}", escape(&name))).await?;
            if context.output.wants_document() {
                return context.output.document(&node);
            }
            let (narrow, wide) = NodeView::COLUMNS;
            for (title, cell) in narrow.iter().chain(wide).zip(node.cells()) {
                println!("{title:<12}{cell}");
            }
            let ranges = node.node.instances_v4.map(|range| range.to_string()).into_iter();
            let ranges: Vec<_> = ranges.chain(node.node.instances_v6.map(|range| range.to_string())).collect();
            println!("{:<12}{}", "RANGES", ranges.join(" "));
            Ok(())
        }
    }
}

pub(super) async fn events(context: &Context, args: &EventArgs) -> Result<(), Problem> {
    let mut events = context.client.lines::<Event>(&format!("/v1/events?follow={}", args.follow)).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        if context.output.wants_document() {
            println!("{}", serde_json::to_string(&event).unwrap_or_default());
        } else {
            let kind = if event.kind == EventKind::Warning { "warning" } else { "normal" };
            println!("{}  {kind:<8}{:<14}{:<28}{}", event.at, event.reason, event.object, event.message);
        }
    }
    Ok(())
}

pub(super) async fn version(context: &Context) -> Result<(), Problem> {
    let daemon = context.client.get::<VersionView>("/v1/version").await;
    if context.output.wants_document() {
        let document = serde_json::json!({ "client": env!("CARGO_PKG_VERSION"), "daemon": daemon.ok() });
        return context.output.document(&document);
    }
    println!("hivemind  {}", env!("CARGO_PKG_VERSION"));
    match daemon {
        Ok(version) => println!("daemon    {} (data plane ABI {})", version.version, version.dataplane_abi),
        Err(problem) => println!("daemon    {}", problem.title),
    }
    Ok(())
}
