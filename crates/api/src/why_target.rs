//! Whom `why` is asked about, and what is known of them beside policies.

use std::net::IpAddr;

use super::why::LegView;
use hivemind_agent::datapath::User;
use hivemind_core::{
    model::{
        AppKey, ClusterSnapshot, ErrorCode, Instance, InstanceId, InvalidName, Phase, Problem, Scope, Service,
        ServiceKey, ServicePort,
    },
    spec::v1::{LimitSpec, PolicyProtocol},
};
use hivemind_dataplane::tables::Usage;
use hivemind_policy::End;

/// Somebody outside, of whom nothing else is known: an address of a range that is reserved for documents.
const WORLD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// Who is to be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// An instance, the host, or somebody outside.
    End(End),
    /// A service, at one of its own addresses.
    Service(ServiceKey),
    /// The service that publishes the port which is asked for.
    Published(ServiceKey),
}

impl Target {
    /// Whether nothing of the cluster is reached.
    pub(super) const fn is_outside(&self) -> bool {
        matches!(self, Self::End(End::Outside(_)))
    }
}

/// Whom a word and a port mean.
pub(super) fn target(
    snapshot: &ClusterSnapshot,
    scope: &Scope,
    word: &str,
    protocol: PolicyProtocol,
    port: u16,
) -> Result<Target, Problem> {
    let services = || snapshot.services.values().map(|row| &row.object);
    let address = word.parse::<IpAddr>().ok();
    let meant = |service: &Service| match address {
        Some(address) => service.addresses.iter().any(|own| own == address),
        None => service.all_dns_names().any(|name| name.eq_ignore_ascii_case(word)),
    };
    if let Some(service) = services().find(|service| meant(service)) {
        return Ok(Target::Service(service.key.clone()));
    }
    match end(snapshot, scope, word) {
        Ok(End::Node) => {
            let publishes = |service: &&std::sync::Arc<Service>| {
                service.ports.iter().any(|of| of.published == Some(port) && is(of, protocol))
            };
            let service = services().find(publishes);
            Ok(service.map_or(Target::End(End::Node), |service| Target::Published(service.key.clone())))
        }
        Ok(end) => Ok(Target::End(end)),
        // A service has another name than its app where that has several.
        Err(problem) => {
            let named = services().find(|of| of.key.scope == *scope && of.key.name.as_str() == word);
            named.map(|service| Target::Service(service.key.clone())).ok_or(problem)
        }
    }
}

fn is(port: &ServicePort, protocol: PolicyProtocol) -> bool {
    port.protocol.to_string() == protocol.as_str()
}

/// Whom a word means.
pub(super) fn end(snapshot: &ClusterSnapshot, scope: &Scope, word: &str) -> Result<End, Problem> {
    match word {
        "world" => return Ok(End::Outside(WORLD)),
        "host" => return Ok(End::Node),
        _ => {}
    }
    let instances = || snapshot.instances.values().map(|row| &row.object);
    if let Ok(address) = word.parse::<IpAddr>() {
        if let Some(found) = instances().find(|instance| instance.addresses.iter().any(|own| own == address)) {
            return Ok(End::Instance(found.id.clone()));
        }
        let mut services = snapshot.services.values().map(|row| &row.object);
        if let Some(service) = services.find(|service| service.addresses.iter().any(|own| own == address)) {
            let title = format!("{word} is the address of service {}; which begins nothing", service.key);
            return Err(Problem::new(ErrorCode::Invalid, title).hint(format!("name its app, {}", service.app)));
        }
        let of_node = snapshot.node_status.values().any(|row| row.object.addresses.contains(&address));
        return Ok(if of_node { End::Node } else { End::Outside(address) });
    }
    let id = word.parse::<InstanceId>().ok().filter(|id| snapshot.instances.contains_key(id));
    let named = || instances().find(|instance| instance.app.scope == *scope && instance.name() == word);
    if let Some(id) = id.or_else(|| named().map(|instance| instance.id.clone())) {
        return Ok(End::Instance(id));
    }
    let app = app(scope, word).map_err(|error| {
        Problem::new(ErrorCode::Invalid, format!("{word:?} is nobody: {error}")).hint("hivemind why --help")
    })?;
    // All instances of an app have the same labels; which of them matters to blocks of addresses only.
    let first = snapshot.instances_of(&app).next().map(|instance| End::Instance(instance.id.clone()));
    first.ok_or_else(|| {
        let title = format!("{word}: there is no such instance, and app {app} has none");
        Problem::new(ErrorCode::NotFound, title).hint("hivemind ps --all-tenants")
    })
}

/// `APP`, `NAMESPACE/APP` or `TENANT/NAMESPACE/APP`
fn app(scope: &Scope, word: &str) -> Result<AppKey, InvalidName> {
    let mut parts = word.rsplitn(3, '/');
    let name = parts.next().unwrap_or_default().parse()?;
    let mut scope = scope.clone();
    if let Some(namespace) = parts.next() {
        scope.namespace = namespace.parse()?;
    }
    if let Some(tenant) = parts.next() {
        scope.tenant = tenant.parse()?;
    }
    Ok(AppKey::new(scope, name))
}

/// What is known of a question beside policies.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// What services say.
    pub(super) legs: Vec<LegView>,
    /// Who is asked about in the end, at which port.
    pub(super) ends: Vec<(End, u16)>,
    /// Whether a limit of connections is full.
    pub(super) full: bool,
    /// In sentences.
    pub(super) notes: Vec<String>,
}

impl Facts {
    pub(super) fn new(
        snapshot: &ClusterSnapshot,
        uses: &[(User, Usage)],
        source: &End,
        target: &Target,
        protocol: PolicyProtocol,
        port: u16,
    ) -> Self {
        let mut facts = Self::default();
        match target {
            Target::End(end) => {
                facts.ends.push((end.clone(), port));
                if let End::Instance(id) = end {
                    facts.instance(snapshot, id, protocol, port);
                }
            }
            Target::Service(key) | Target::Published(key) => {
                let Some(row) = snapshot.services.get(key) else { return facts };
                let published = matches!(target, Target::Published(_));
                if published {
                    facts.ranges(snapshot, source, &row.object);
                    facts.ends.push((End::Published, port));
                }
                facts.service(snapshot, &row.object, protocol, port, published);
            }
        }
        let mut limited: Vec<(&InstanceId, usize)> = Vec::new();
        if let End::Instance(id) = source {
            limited.push((id, 0));
        }
        let ends = facts.ends.clone();
        limited.extend(ends.iter().filter_map(|(end, _)| match end {
            End::Instance(id) => Some((id, 1)),
            End::Node | End::Published | End::Outside(_) => None,
        }));
        facts.limits(snapshot, uses, &limited);
        facts
    }

    /// What is known of an instance that is asked for by itself.
    fn instance(&mut self, snapshot: &ClusterSnapshot, id: &InstanceId, protocol: PolicyProtocol, port: u16) {
        let Some(row) = snapshot.instances.get(id) else { return };
        self.notes.extend(not_ready(snapshot, &row.object));
        let app = &row.object.app;
        let mut ports =
            snapshot.services.values().filter(|row| row.object.app == *app).flat_map(|row| &row.object.ports);
        let ported = matches!(protocol, PolicyProtocol::Tcp | PolicyProtocol::Udp);
        if ported && !ports.any(|of| of.target == port && is(of, protocol)) {
            let what = format!("port {port}/{} of app {app}", protocol.as_str());
            self.notes.push(format!("no service names {what}: whether anybody listens there is not known here"));
        }
    }

    /// Whether a client of a published port is in the source ranges of its service.
    fn ranges(&mut self, snapshot: &ClusterSnapshot, source: &End, service: &Service) {
        let ranges = &service.balance.source_ranges;
        let client = match source {
            End::Outside(address) => Some(*address),
            End::Instance(id) => snapshot.instances.get(id).and_then(|row| row.object.addresses.iter().next()),
            End::Node | End::Published => None,
        };
        let Some(client) = client.filter(|_| !ranges.is_empty()) else { return };
        let passes = ranges.iter().any(|range| range.contains(&client));
        let all: Vec<_> = ranges.iter().map(ToString::to_string).collect();
        let is_in = if passes { "is in the source ranges" } else { "is in none of the source ranges" };
        self.say(service, passes, format!("{client} {is_in}: {}", all.join(", ")));
    }

    /// Who serves; `published`: the port is that of the node.
    fn service(
        &mut self,
        snapshot: &ClusterSnapshot,
        service: &Service,
        protocol: PolicyProtocol,
        port: u16,
        published: bool,
    ) {
        let asked = |of: &&ServicePort| {
            is(of, protocol) && if published { of.published == Some(port) } else { of.port == port }
        };
        let Some(found) = service.ports.iter().find(asked) else {
            let there: Vec<_> = service.ports.iter().map(|of| format!("{}/{}", of.port, of.protocol)).collect();
            let there = if there.is_empty() { "none".into() } else { there.join(", ") };
            return self.say(service, false, format!("it has no port {port}/{}; it has {there}", protocol.as_str()));
        };
        let mut served = snapshot.served(service);
        let all = served.clone();
        served.backends.retain(|backend| all.ports_of(backend).iter().any(|of| asked(&of)));
        let instances: Vec<_> = snapshot.instances_of(&service.app).collect();
        if served.backends.is_empty() {
            self.say(service, false, format!("no instance of app {} is Ready", service.app));
            self.notes.extend(instances.iter().filter_map(|instance| not_ready(snapshot, instance)));
            return;
        }
        let name = |id: &InstanceId| snapshot.instances.get(id).map_or_else(|| id.to_string(), |row| row.object.name());
        let names: Vec<_> = served.backends.iter().map(|backend| name(&backend.id)).collect();
        let way = if published { "published port" } else { "port" };
        self.notes.push(format!(
            "{way} {port}/{} of service {} leads to port {} of {}",
            found.protocol,
            service.key,
            found.target,
            names.join(", ")
        ));
        self.ends.extend(served.backends.into_iter().map(|backend| (End::Instance(backend.id), found.target)));
    }

    fn say(&mut self, service: &Service, passes: bool, says: String) {
        let (instance, direction) = (service.key.to_string(), "service".to_owned());
        self.legs.push(LegView { instance, direction, passes, says, ..LegView::default() });
    }

    /// The limits of those who take part, each for itself and for its tenant. Of several who serve, another one may have
    /// room.
    fn limits(&mut self, snapshot: &ClusterSnapshot, uses: &[(User, Usage)], who: &[(&InstanceId, usize)]) {
        let mut tenants = Vec::new();
        let (mut serve, mut full) = (0, 0);
        for &(id, end) in who {
            let Some(row) = snapshot.instances.get(id) else { continue };
            let instance = &row.object;
            let own = self.limit(&instance.name(), &instance.spec.limits, uses, &User::Instance(id.clone()), end);
            let tenant = &instance.app.scope.tenant;
            if end == 1 {
                (serve, full) = (serve + 1, full + usize::from(own));
            } else {
                self.full |= own;
            }
            let limits = snapshot.tenants.get(tenant).map(|row| row.object.limits).unwrap_or_default();
            if !tenants.contains(&(tenant, end)) {
                tenants.push((tenant, end));
                self.full |= self.limit(&format!("tenant {tenant}"), &limits, uses, &User::Tenant(tenant.clone()), end);
            }
        }
        self.full |= serve > 0 && full == serve;
    }

    /// Says what somebody may have, and has; true: nothing more.
    fn limit(&mut self, who: &str, limits: &LimitSpec, uses: &[(User, Usage)], user: &User, end: usize) -> bool {
        if limits.is_default() {
            return false;
        }
        let words: Vec<_> = limits.words().into_iter().map(|(name, value)| format!("{name} {value}")).collect();
        let mut text = format!("limits are counted apart: {who} has {}", words.join(", "));
        let usage = uses.iter().find(|(other, _)| other == user).map(|(_, usage)| *usage);
        let Some(usage) = usage else {
            self.notes.push(text + "; what is used of them is not counted on this node");
            return false;
        };
        let (now, refused) = (usage.connections[end], usage.refused[end]);
        let way = if end == 0 { "that it has begun" } else { "that it has accepted" };
        let mut full = false;
        if let Some(most) = limits.connections {
            full = now >= u64::from(most);
            text += &format!("; {now} of {most} connections {way} are open");
            text += if full { ", so another one is refused now" } else { "" };
        }
        if refused > 0 {
            text += &format!("; {refused} were refused so far");
        }
        if usage.dropped_packets[end] > 0 {
            text += &format!("; {} packets were dropped so far", usage.dropped_packets[end]);
        }
        self.notes.push(text);
        full
    }
}

/// That an instance is not Ready, and why.
fn not_ready(snapshot: &ClusterSnapshot, instance: &Instance) -> Option<String> {
    let status = snapshot.status_of(&instance.id);
    if status.phase == Phase::Ready {
        return None;
    }
    let why = if status.message.is_empty() { String::new() } else { format!(": {}", status.message) };
    Some(format!("{} is not Ready but {}{why}", instance.name(), status.phase))
}

#[cfg(test)]
#[path = "why_target_tests.rs"]
mod tests;
