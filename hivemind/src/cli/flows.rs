//! `hivemind flows`: who talks with whom, what was dropped, and by which rule.

use std::net::IpAddr;

use clap::Args;
use futures::TryStreamExt;
use serde::Serialize;

use super::{
    Context, Reach,
    follow::{is_away, patiently, pause},
    output::{Format, Listed, Tone, age, bytes, line},
};
use crate::{
    api::flow_view::{FlowEndView, FlowKind, FlowVerdict, FlowView, LimitOfView},
    client,
    model::{Problem, Scope},
};

/// Shown beneath `hivemind flows --help`.
const EXAMPLES: &str = "\
Examples:
  hivemind flows                                        who talks with whom in this namespace
  hivemind flows --dropped                              what was dropped, by which rule, and what to ask next
  hivemind flows --from client --to web                 instances, apps, addresses, 'world', 'host'; to a service too
  hivemind flows -f --app web --port 80                 as it happens, from now on
  hivemind flows --reason policy-in --all-tenants
  hivemind flows --reason audit                         what passed, and a policy on trial would have denied
In the namespace default of the tenant default (without -T and -n) flows of the host are shown as well.
Ports of a service are those of its instances. Of packets that are dropped again and again one line is told.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct FlowArgs {
    /// As flows begin and end and packets are dropped, from now on
    #[arg(short, long)]
    follow: bool,
    /// Who began it: instance, app, IP address, 'world' or 'host'
    #[arg(long, value_name = "WHO")]
    from: Option<String>,
    /// Who was to be reached: the same, or a service
    #[arg(long, value_name = "WHO")]
    to: Option<String>,
    /// Only of instances of this app
    #[arg(long, add = super::complete::apps())]
    app: Option<String>,
    /// Only of this instance, by name or id
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// Only with this port at one end
    #[arg(long, value_name = "NUMBER")]
    port: Option<u16>,
    /// Only of this protocol: tcp, udp, icmp, sctp, or a number
    #[arg(long, value_name = "NAME")]
    protocol: Option<String>,
    /// Only what was dropped
    #[arg(long)]
    dropped: bool,
    /// Only what was dropped for this reason, as policy-in; audit: what passed, and policies on trial would have denied
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Also what instances' kernels say of themselves when they start (ICMPv6), which is dropped
    #[arg(long)]
    housekeeping: bool,
    #[command(flatten)]
    reach: Reach,
}

impl FlowArgs {
    /// The filters.
    fn asked(&self, context: &Context) -> client::FlowArgs {
        let Scope { tenant, namespace } = &context.scope;
        let Reach { all_namespaces, all_tenants } = self.reach;
        // Today whoever asks is the operator, whose is what is nobody's. A tenant will name itself, and not see it.
        let operators = tenant.is_default() && (all_namespaces || *namespace == Scope::default().namespace);
        client::FlowArgs {
            host: operators && !all_tenants,
            tenant: (!all_tenants).then(|| tenant.to_string()),
            namespace: (!all_tenants && !all_namespaces).then(|| namespace.to_string()),
            from: self.from.clone(),
            to: self.to.clone(),
            app: self.app.clone(),
            instance: self.instance.clone(),
            address: None,
            port: self.port.map(u32::from),
            protocol: self.protocol.clone(),
            verdict: self.dropped.then_some(FlowVerdict::Dropped),
            reason: self.reason.clone(),
        }
    }
}

/// A flow, as seen from a namespace.
#[derive(Serialize)]
#[serde(transparent)]
struct Shown<'a> {
    flow: &'a FlowView,
    #[serde(skip)]
    scope: &'a Scope,
}

impl Shown<'_> {
    /// An end as people call it: instances of other namespaces with the whole way to them.
    fn end(&self, end: &FlowEndView) -> String {
        let name = match (&end.tenant, &end.namespace, end.address) {
            (Some(tenant), Some(namespace), _) if !self.is_here(end) => format!("{tenant}/{namespace}/{}", end.who),
            (Some(_), ..) | (.., None) => end.who.clone(),
            (.., Some(_)) if end.who == "host" => end.who.clone(),
            (.., Some(IpAddr::V6(address))) => format!("[{address}]"),
            (.., Some(address)) => address.to_string(),
        };
        // Of ICMP there is an identifier at best, which tells people nothing.
        if end.port == 0 || self.flow.protocol == "icmp" { name } else { format!("{name}:{}", end.port) }
    }

    fn is_here(&self, end: &FlowEndView) -> bool {
        end.tenant.as_deref() == Some(self.scope.tenant.as_str())
            && end.namespace.as_deref() == Some(self.scope.namespace.as_str())
    }

    fn to(&self) -> String {
        format!("{}/{}", self.end(&self.flow.to), self.flow.protocol)
    }

    fn verdict(&self) -> String {
        match &self.flow.dropped {
            Some(told) if self.flow.kind == FlowKind::Tried => format!("passes: {}", told.reason),
            Some(dropped) => format!("dropped: {}", dropped.reason),
            None if self.flow.closed => "passed, closed".into(),
            None if !self.flow.answered => "passes, unanswered".into(),
            None => "passes".into(),
        }
    }

    /// At whose device it was dropped. What may not come into an instance is dropped where it leaves another one of the
    /// node.
    fn at(&self) -> String {
        self.flow.dropped.as_ref().map_or_else(String::new, |dropped| {
            let way = if dropped.direction == "in" { "entering" } else { "leaving" };
            format!("{way} {}", dropped.at)
        })
    }

    /// Who decided.
    fn by(&self) -> String {
        self.flow.by.clone().unwrap_or_default()
    }

    /// The command that tells more of what was dropped.
    fn hint(&self) -> String {
        let Some(dropped) = &self.flow.dropped else { return String::new() };
        let command = command_in(self.scope.tenant.as_str(), self.scope.namespace.as_str());
        match dropped.reason.as_str() {
            "policy-in" | "policy-out" | "other-tenant" | "audit" | "host-in" | "host-out" | "published"
            | "rejected" | "source-range" => match self.why() {
                Some(question) => format!("{command} why {question}"),
                None => format!("{command} policy ls"),
            },
            "no-such-service" | "no-such-port" | "no-backend" | "no-local-backend" | "backend-gone" => {
                format!("{command} service ls")
            }
            "rate-limited" | "connection-limit" | "flow-share" => {
                self.flow.limit.as_ref().map(limit_hint).unwrap_or_default()
            }
            "not-ready" | "peer-not-ready" | "no-such-instance" | "not-for-instance" => format!("{command} ps"),
            _ => String::new(),
        }
    }

    /// `FROM TO:PORT/PROTOCOL`; none of what is not asked for by a name.
    fn why(&self) -> Option<String> {
        let word = |end: &FlowEndView| match (&end.tenant, &end.namespace, &end.app) {
            (Some(_), ..) if self.is_here(end) => Some(end.who.clone()),
            (Some(tenant), Some(namespace), Some(app)) => Some(format!("{tenant}/{namespace}/{app}")),
            _ if end.who == "host" => Some(end.who.clone()),
            _ => end.address.map(|address| address.to_string()),
        };
        let (from, to) = (word(&self.flow.from)?, word(&self.flow.to)?);
        let to = if to.contains(':') { format!("[{to}]") } else { to };
        match self.flow.protocol.as_str() {
            // Of an echo request the type.
            "icmp" => Some(format!("{from} {to}:8/icmp")),
            _ if self.flow.to.port == 0 => None,
            protocol @ ("tcp" | "udp" | "sctp") => Some(format!("{from} {to}:{}/{protocol}", self.flow.to.port)),
            _ => None,
        }
    }

    /// A line of the stream.
    fn line(&self) -> String {
        let flow = self.flow;
        let at = flow.last.to_string();
        let time = at.split_once('T').map_or(at.as_str(), |(_, time)| time);
        if flow.kind == FlowKind::Missed {
            return format!("{time} missed   {} more, which came faster than they could be shown", flow.missed);
        }
        let kind = match flow.kind {
            FlowKind::Ended => "ended",
            FlowKind::Dropped => "dropped",
            FlowKind::Tried => "passes",
            _ => "begun",
        };
        let mut parts = vec![format!("{time} {kind:<8} {} -> {}", self.end(&flow.from), self.to())];
        if flow.dropped.is_some() {
            parts.extend(flow.dropped.as_ref().map(|dropped| dropped.reason.clone()));
        }
        parts.push(self.by());
        if flow.kind == FlowKind::Ended {
            parts.push(format!("{} out, {} back", bytes(flow.from.bytes), bytes(flow.to.bytes)));
        }
        if flow.dropped.is_some() && !self.hint().is_empty() {
            parts.push(format!("try: {}", self.hint()));
        }
        parts.retain(|part| !part.is_empty());
        parts.join("  ")
    }
}

/// The command line that asks in a namespace.
fn command_in(tenant: &str, namespace: &str) -> String {
    let default = Scope::default();
    let mut command = "hivemind".to_owned();
    if tenant != default.tenant.as_str() {
        command += &format!(" -T {tenant}");
    }
    if namespace != default.namespace.as_str() {
        command += &format!(" -n {namespace}");
    }
    command
}

/// The command that shows a limit.
fn limit_hint(of: &LimitOfView) -> String {
    match (&of.namespace, &of.app) {
        (Some(namespace), Some(app)) => format!("{} app info {app}", command_in(&of.tenant, namespace)),
        _ => "hivemind tenant ls -o wide".into(),
    }
}

impl Listed for Shown<'_> {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["FROM", "TO", "VERDICT", "BY", "PACKETS", "BYTES", "LAST", "TRY"], &["AT", "SERVICE", "ASKED", "FIRST"]);

    fn name(&self) -> String {
        format!("{} {}", self.end(&self.flow.from), self.to())
    }

    fn cells(&self) -> Vec<String> {
        let FlowView { from, to, .. } = self.flow;
        vec![
            self.end(from),
            self.to(),
            self.verdict(),
            self.by(),
            format!("{}/{}", from.packets, to.packets),
            format!("{}/{}", bytes(from.bytes), bytes(to.bytes)),
            age(self.flow.last),
            self.hint(),
            self.at(),
            self.flow.service.clone().unwrap_or_default(),
            self.flow.asked.clone().unwrap_or_default(),
            age(self.flow.first),
        ]
    }

    fn tone(&self) -> Option<(usize, Tone)> {
        Some((2, if self.flow.verdict == FlowVerdict::Dropped { Tone::Bad } else { Tone::Good }))
    }
}

pub(super) async fn run(context: &Context, args: &FlowArgs) -> Result<(), Problem> {
    let asked = args.asked(context);
    let scope = &context.scope;
    if args.follow {
        return listen(context, args, &asked).await;
    }
    let flows: Vec<FlowView> = context.client.list_flows(&asked).await?;
    let (left_out, flows): (Vec<_>, Vec<_>) = flows.iter().partition(|flow| flow.housekeeping && !args.housekeeping);
    let shown: Vec<_> = flows.into_iter().map(|flow| Shown { flow, scope }).collect();
    context.output.list(&shown, "no such flows on this node")?;
    if !left_out.is_empty() {
        let packets: u64 = left_out.iter().map(|flow| flow.from.packets).sum();
        context.output.say(&format!(
            "{packets} packets are left out that instances' kernels sent when they started; with --housekeeping they are shown"
        ));
    }
    Ok(())
}

/// Shows flows as they come. Those of the time when the daemon is away are seen by nobody, which is said.
async fn listen(context: &Context, args: &FlowArgs, asked: &client::FlowArgs) -> Result<(), Problem> {
    let mut flows = context.client.watch_flows(asked).await?;
    let without = if args.housekeeping { "" } else { "; what instances' kernels say at their start is left out" };
    context.output.say(&format!("listening to flows that begin and end, and to drops{without}; Ctrl-C ends it"));
    loop {
        match flows.try_next().await {
            Ok(Some(flow)) if flow.housekeeping && !args.housekeeping => {}
            Ok(Some(flow)) => {
                let shown = Shown { flow: &flow, scope: &context.scope };
                match context.output.format {
                    Format::Json | Format::Yaml => context.output.streamed(&flow)?,
                    Format::Name => line(&shown.name()),
                    Format::Table | Format::Wide => line(&shown.line()),
                }
            }
            Err(problem) if !is_away(&problem) => return Err(problem),
            // The connection is broken, or the daemon stops.
            Ok(None) | Err(_) => {
                pause().await;
                flows = patiently(context, || context.client.watch_flows(asked)).await?;
                context
                    .output
                    .say("the connection was broken: what began, ended or was dropped meanwhile is not shown");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::flow_view::DroppedView, model::Timestamp};

    fn end(who: &str, tenant: Option<&str>, address: &str, port: u16) -> FlowEndView {
        FlowEndView {
            who: who.into(),
            address: address.parse().ok(),
            port,
            app: tenant.map(|_| who.split('-').next().unwrap_or_default().to_owned()),
            namespace: tenant.map(|_| "default".into()),
            tenant: tenant.map(str::to_owned),
            ..FlowEndView::default()
        }
    }

    fn dropped(from: FlowEndView, to: FlowEndView, reason: &str, by: Option<&str>) -> FlowView {
        let dropped = DroppedView { reason: reason.into(), at: "web-abcde".into(), direction: "in".into() };
        FlowView {
            kind: FlowKind::Dropped,
            verdict: FlowVerdict::Dropped,
            protocol: "tcp".into(),
            dropped: Some(dropped),
            by: by.map(str::to_owned),
            from,
            to,
            ..FlowView::default_at(Timestamp::default())
        }
    }

    #[test]
    fn who_dropped_it_is_said_in_a_line_with_the_next_command() {
        let web = || end("web-abcde", Some("default"), "10.88.0.2", 80);
        let scope = Scope::default();
        for (flow, expected) in [
            (
                dropped(
                    end("spy-fghij", Some("other"), "10.88.0.3", 4000),
                    web(),
                    "other-tenant",
                    Some("no rule names that tenant"),
                ),
                "00:00:00.000Z dropped  other/default/spy-fghij:4000 -> web-abcde:80/tcp  other-tenant  \
                 no rule names that tenant  try: hivemind why other/default/spy web-abcde:80/tcp",
            ),
            (
                dropped(web(), end("world", None, "2001:db8::1", 443), "policy-out", Some("no rule allows it")),
                "00:00:00.000Z dropped  web-abcde:80 -> [2001:db8::1]:443/tcp  policy-out  \
                 no rule allows it  try: hivemind why web-abcde [2001:db8::1]:443/tcp",
            ),
            (
                dropped(web(), end("service", None, "10.96.0.1", 81), "no-such-port", None),
                "00:00:00.000Z dropped  web-abcde:80 -> 10.96.0.1:81/tcp  no-such-port  \
                 try: hivemind service ls",
            ),
        ] {
            assert_eq!(Shown { flow: &flow, scope: &scope }.line(), expected);
        }
        let ruled = FlowView {
            policy: Some("guard".into()),
            rule: Some(1),
            ..dropped(end("host", None, "10.88.0.1", 5), web(), "policy-in", Some("rule 1 of policy guard"))
        };
        let elsewhere = Scope { namespace: "prod".parse().expect("a name"), ..Scope::default() };
        let shown = Shown { flow: &ruled, scope: &elsewhere };
        assert_eq!((shown.by(), shown.at()), ("rule 1 of policy guard".into(), "entering web-abcde".into()));
        assert_eq!(shown.hint(), "hivemind -n prod why host default/default/web:80/tcp");

        let host = || end("host", None, "192.0.2.1", 8080);
        let ranges = dropped(end("world", None, "192.0.2.2", 5), host(), "source-range", None);
        assert_eq!(Shown { flow: &ranges, scope: &scope }.hint(), "hivemind why 192.0.2.2 host:8080/tcp");
        // The sender is innocent: the limit is another one's.
        let of = |namespace: Option<&str>, app: Option<&str>| LimitOfView {
            tenant: "acme".into(),
            namespace: namespace.map(str::to_owned),
            app: app.map(str::to_owned),
            instance: None,
        };
        for (limit, hint) in [
            (of(Some("default"), Some("lim")), "hivemind -T acme app info lim"),
            (of(None, None), "hivemind tenant ls -o wide"),
        ] {
            let spy = end("spy-fghij", Some("default"), "10.88.0.3", 4000);
            let flow = FlowView { limit: Some(limit), ..dropped(spy, web(), "connection-limit", None) };
            assert_eq!(Shown { flow: &flow, scope: &scope }.hint(), hint);
        }
        let spy = end("spy-fghij", Some("default"), "10.88.0.3", 4000);
        let tried = FlowView { kind: FlowKind::Tried, ..dropped(spy, web(), "audit", Some("policy trial, on trial")) };
        assert_eq!(Shown { flow: &tried, scope: &scope }.verdict(), "passes: audit");
    }
}
