//! What the schema cannot say: references, what excludes each other, circles, ports that are published twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    fault::{Findings, nearest},
    model::{Project, Secret, Service, service::Port},
    select::needs,
    short::Ports,
    value::{Data, Node},
};

/// Checks a project, its services in networks already.
pub(super) fn project(project: &mut Project, found: &mut Findings) {
    let mut services = std::mem::take(&mut project.services);
    for service in services.values_mut() {
        // What may be missing is not waited for.
        service
            .depends_on
            .retain(|name, needed| needed.required != Some(false) || !project.disabled.contains_key(name));
    }
    project.services = services;
    let mut check = Check { project, found };
    for (name, service) in &project.services {
        check.basics(name, service);
        check.references(name, service);
        check.needs(name, service);
        check.mounts(name, service);
        check.ports(name, service);
        check.amounts(name, service);
        check.words(name, service);
        check.names(name, service);
    }
    for kind in ["networks", "volumes", "secrets", "configs"] {
        check.external(kind);
    }
    check.sources("secrets", &project.secrets, &["file", "environment"]);
    check.sources("configs", &project.configs, &["file", "environment", "content"]);
    check.published_twice();
    check.circle();
}

struct Check<'a> {
    project: &'a Project,
    found: &'a mut Findings,
}

/// A path as messages have it: numbers are indexes.
pub(super) fn path(steps: &[&str]) -> String {
    let mut path = String::new();
    for step in steps {
        match step.parse::<usize>() {
            Ok(index) if !path.is_empty() => path.push_str(&format!("[{index}]")),
            _ if path.is_empty() => path.push_str(step),
            _ => {
                path.push('.');
                path.push_str(step);
            }
        }
    }
    path
}

impl Check<'_> {
    fn fault(&mut self, steps: &[&str], message: impl Into<String>) {
        self.found.fault(self.project.place(steps), path(steps), message);
    }

    fn basics(&mut self, name: &str, service: &Service) {
        let at = ["services", name];
        let provided = self.project.document.get("services").and_then(|all| all.get(name)?.get("provider")).is_some();
        match service.image.as_deref() {
            _ if service.build.is_some() || provided => {}
            None => self.fault(&at, "the service has neither image nor build: give it one of them"),
            Some("") => {
                self.fault(&["services", name, "image"], "the image is empty: is the variable set that it comes from?");
            }
            Some(_) => {}
        }
        let both =
            |build: &super::model::deploy::Build| build.dockerfile.is_some() && build.dockerfile_inline.is_some();
        if service.build.as_ref().is_some_and(both) {
            self.fault(&["services", name, "build"], "dockerfile and dockerfile_inline exclude each other: remove one");
        }
        if service.network_mode.is_some() && !service.networks.is_empty() {
            let message = "network_mode and networks exclude each other: remove one of them";
            self.fault(&["services", name, "network_mode"], message);
        }
        let count = service.scale.or(service.deploy.replicas);
        if let (Some(scale), Some(replicas)) = (service.scale, service.deploy.replicas)
            && scale != replicas
        {
            let message = format!("scale says {scale} and deploy.replicas says {replicas}: remove one of them");
            self.fault(&["services", name, "scale"], message);
        }
        if let (Some(own), Some(2..)) = (&service.container_name, count) {
            let message = format!("several instances cannot all be named {own}: remove container_name");
            self.fault(&["services", name, "container_name"], message);
        }
        if let Some(test) = service.healthcheck.as_ref().and_then(|check| check.test.as_ref()) {
            let at = ["services", name, "healthcheck", "test"];
            match test.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["NONE"] | ["CMD-SHELL", _] | ["CMD", _, ..] => {}
                ["NONE" | "CMD-SHELL", ..] => self.fault(&at, "NONE takes nothing, and CMD-SHELL one text"),
                ["CMD"] | [] => self.fault(&at, "the check has no command"),
                _ => self.fault(&at, "the list begins with CMD, CMD-SHELL or NONE: or write the command as one text"),
            }
        }
    }

    /// A name that must be in a section.
    fn known<'n>(
        &mut self,
        steps: &[&str],
        section: &str,
        name: &str,
        mut names: impl Iterator<Item = &'n String> + Clone,
    ) {
        if names.clone().any(|known| known == name) {
            return;
        }
        let near = nearest(name, names.clone().map(String::as_str));
        let advice = match near {
            Some(near) => format!("did you mean {near}?"),
            None if names.next().is_none() => format!("the files have no {section}: add the section {section} with it"),
            None => format!("add it to the section {section}"),
        };
        self.fault(steps, format!("{name} is not among the {section}; {advice}"));
    }

    fn references(&mut self, name: &str, service: &Service) {
        let project = self.project;
        for network in service.networks.keys() {
            self.known(&["services", name, "networks", network], "networks", network, project.networks.keys());
        }
        for (at, mount) in service.volumes.iter().enumerate() {
            if let (true, Some(source)) = (mount.kind == "volume", &mount.source) {
                let steps = ["services", name, "volumes", &at.to_string()];
                self.known(&steps, "volumes", source, project.volumes.keys());
            }
        }
        for (at, grant) in service.secrets.iter().enumerate() {
            let steps = ["services", name, "secrets", &at.to_string()];
            self.known(&steps, "secrets", &grant.source, project.secrets.keys());
        }
        for (at, grant) in service.configs.iter().enumerate() {
            let steps = ["services", name, "configs", &at.to_string()];
            self.known(&steps, "configs", &grant.source, project.configs.keys());
        }
        let Some(build) = &service.build else { return };
        for (at, grant) in build.secrets.iter().enumerate() {
            let steps = ["services", name, "build", "secrets", &at.to_string()];
            self.known(&steps, "secrets", &grant.source, project.secrets.keys());
        }
        for (context, value) in &build.additional_contexts {
            if let Some(other) = value.strip_prefix("service:") {
                let steps = ["services", name, "build", "additional_contexts", context];
                let all = project.services.keys().chain(project.disabled.keys());
                self.known(&steps, "services", other, all);
            }
        }
    }

    /// Services that it needs are there and enabled.
    fn needs(&mut self, name: &str, service: &Service) {
        let project = self.project;
        for (other, key) in needs(service) {
            let steps = match key {
                "depends_on" => vec!["services", name, key, other],
                _ => vec!["services", name, key],
            };
            match project.disabled.get(other) {
                Some(_) if project.services.contains_key(other) => {}
                Some(disabled) => {
                    let message = match disabled.profiles.first() {
                        Some(first) => format!(
                            "{other} is needed, and only the profile {} enables it: add --profile {first}",
                            disabled.profiles.join(" or ")
                        ),
                        None => format!("{other} is needed, and was not asked for: name it too"),
                    };
                    self.fault(&steps, message);
                }
                None => self.known(&steps, "services", other, project.services.keys()),
            }
        }
    }

    fn mounts(&mut self, name: &str, service: &Service) {
        let mut taken: BTreeMap<&str, String> = BTreeMap::new();
        for (at, mount) in service.volumes.iter().enumerate() {
            let index = at.to_string();
            let steps = ["services", name, "volumes", &index];
            if mount.target.is_empty() {
                self.fault(&steps, "the mount has no target: give the path in the container");
                continue;
            }
            match (mount.kind.as_str(), &mount.source) {
                ("bind", None) => self.fault(&steps, "a bind has no source: give the path on this machine"),
                ("tmpfs", Some(_)) => self.fault(&steps, "a tmpfs has no source: remove it"),
                _ => {}
            }
            taken.insert(&mount.target, path(&steps));
        }
        for (at, text) in service.tmpfs.iter().enumerate() {
            let target = text.split(':').next().unwrap_or_default();
            let index = at.to_string();
            let steps = ["services", name, "tmpfs", &index];
            if !target.starts_with('/') {
                self.fault(&steps, format!("\"{target}\" is no absolute path in the container"));
            } else if let Some(other) = taken.get(target) {
                self.fault(&steps, format!("{target} is mounted by {other} already"));
            }
        }
    }

    fn ports(&mut self, name: &str, service: &Service) {
        for (at, port) in service.ports.iter().enumerate() {
            let index = at.to_string();
            let steps = ["services", name, "ports", &index];
            let Some(target) = port.target else {
                self.fault(&steps, "the port has no target: give the port in the container");
                continue;
            };
            if target.first == 0 {
                self.fault(&steps, "0 is no port of a container: write a number from 1 to 65535");
            }
            let published = port.published.map_or(target.count(), Ports::count);
            if target.count() != 1 && published != target.count() {
                let message = format!(
                    "{published} published ports do not fit {} of the container: make both ranges as long",
                    target.count()
                );
                self.fault(&steps, message);
            }
            match port.protocol.as_deref() {
                None | Some("tcp" | "udp" | "sctp") => {}
                Some(other) => self.fault(&steps, format!("\"{other}\" is no protocol: write tcp, udp or sctp")),
            }
            match port.mode.as_deref() {
                None | Some("ingress" | "host") => {}
                Some(other) => self.fault(&steps, format!("\"{other}\" is no mode: write ingress or host")),
            }
        }
    }

    /// What is said in two places is said alike.
    fn amounts(&mut self, name: &str, service: &Service) {
        let (limits, kept) = (&service.deploy.resources.limits, &service.deploy.resources.reservations);
        let differ = |a: Option<String>, b: Option<String>| a.is_some() && b.is_some() && a != b;
        let text = |value: Option<f64>| value.map(|value| value.to_string());
        let size = |value: Option<super::model::Size>| value.map(|size| size.0.to_string());
        let pids = |value: Option<i64>| value.map(|value| value.to_string());
        let rows = [
            ("cpus", "limits.cpus", differ(text(service.cpus), text(limits.cpus))),
            ("mem_limit", "limits.memory", differ(size(service.mem_limit), size(limits.memory))),
            ("mem_reservation", "reservations.memory", differ(size(service.mem_reservation), size(kept.memory))),
            ("pids_limit", "limits.pids", differ(pids(service.pids_limit), pids(limits.pids))),
        ];
        for (key, other, _) in rows.into_iter().filter(|(_, _, differ)| *differ) {
            let message = format!("this and deploy.resources.{other} say different things: remove one of them");
            self.fault(&["services", name, key], message);
        }
        let requests = [
            ("gpus", &service.gpus, vec!["gpus"]),
            ("devices", &kept.devices, vec!["deploy", "resources", "reservations", "devices"]),
        ];
        for (_, list, steps) in requests {
            for (at, _) in list.iter().enumerate().filter(|(_, one)| one.count.is_some() && !one.device_ids.is_empty())
            {
                let index = at.to_string();
                let steps: Vec<&str> =
                    ["services", name].into_iter().chain(steps.iter().copied()).chain([&*index]).collect();
                self.fault(&steps, "count and device_ids exclude each other: remove one of them");
            }
        }
    }

    /// Variables have names.
    fn names(&mut self, name: &str, service: &Service) {
        for variable in service.environment.keys().filter(|name| name.is_empty() || name.contains(['=', '\0'])) {
            let message = format!("\"{variable}\" is no name of a variable: write NAME=value");
            self.fault(&["services", name, "environment", variable], message);
        }
    }

    /// Words that the specification gives, and its schema leaves open.
    fn words(&mut self, name: &str, service: &Service) {
        let deploy = &service.deploy;
        let of = |rollout: &Option<super::model::deploy::Rollout>| rollout.as_ref()?.failure_action.clone();
        let condition = deploy.restart_policy.as_ref().and_then(|policy| policy.condition.clone());
        let rows: [(&[&str], Option<String>, &[&str]); 4] = [
            (&["mode"], deploy.mode.clone(), &["replicated", "global", "replicated-job", "global-job"]),
            (&["update_config", "failure_action"], of(&deploy.update_config), &["continue", "rollback", "pause"]),
            (&["rollback_config", "failure_action"], of(&deploy.rollback_config), &["continue", "pause"]),
            (&["restart_policy", "condition"], condition, &["none", "on-failure", "any"]),
        ];
        for (steps, word, known) in rows {
            let Some(word) = word.filter(|word| !known.contains(&word.as_str())) else { continue };
            let steps: Vec<&str> = ["services", name, "deploy"].iter().chain(steps).copied().collect();
            self.fault(&steps, format!("\"{word}\" is not known: write one of {}", known.join(", ")));
        }
    }

    /// What something else makes has no settings here.
    fn external(&mut self, kind: &'static str) {
        let Some(section) = self.project.document.get(kind).and_then(Node::map) else { return };
        for (name, entry) in section {
            let outside = match entry.value.get("external").map(|node| &node.data) {
                Some(Data::Bool(value)) => *value,
                Some(Data::Text(text)) => super::scalar::flag(text) == Some(true),
                _ => false,
            };
            let more = entry.value.map().into_iter().flat_map(|map| map.keys());
            let more = more.filter(|key| !matches!(key.as_str(), "external" | "name") && !key.starts_with("x-"));
            if outside {
                for key in more {
                    let message = "what is external has only a name: something else has made it";
                    self.fault(&[kind, name, key], message);
                }
            }
        }
    }

    /// A secret or config has one source.
    fn sources(&mut self, kind: &str, section: &BTreeMap<String, Secret>, keys: &[&str]) {
        for (name, one) in section {
            let node = self.project.document.get(kind).and_then(|all| all.get(name));
            let has = |key: &&&str| node.is_some_and(|node| node.get(key).is_some());
            let said: Vec<&str> = keys.iter().filter(has).copied().collect();
            let driver = node.is_some_and(|node| node.get("driver").is_some());
            match said.len() {
                0 if one.external != Some(true) && !driver => {
                    self.fault(
                        &[kind, name],
                        format!("nothing says where it comes from: give it one of {}", keys.join(", ")),
                    );
                }
                0 | 1 => {}
                _ => self.fault(&[kind, name], format!("{} exclude each other: keep one of them", said.join(" and "))),
            }
        }
    }

    /// No two services publish the same port.
    fn published_twice(&mut self) {
        let mut all: Vec<(Ports, &Port, &str, usize)> = Vec::new();
        for (name, service) in &self.project.services {
            for (at, port) in service.ports.iter().enumerate() {
                // Of a range for one port any that is free is taken.
                let fixed =
                    port.target.is_some_and(|target| port.published.is_none_or(|p| p.count() == target.count()));
                if let Some(published) = port.published.filter(|ports| fixed && ports.first > 0) {
                    all.push((published, port, name, at));
                }
            }
        }
        all.sort_by_key(|(ports, ..)| *ports);
        for (index, (ports, port, name, at)) in all.iter().enumerate() {
            for (later, other, other_name, other_at) in &all[index + 1..] {
                if later.first > ports.last {
                    break;
                }
                let protocol = |port: &Port| port.protocol.clone().unwrap_or_else(|| "tcp".to_owned());
                if ports.meets(*later) && protocol(port) == protocol(other) && meet(port, other) {
                    let (protocol, first) = (protocol(port), later.first.max(ports.first));
                    let index = at.to_string();
                    let here = self.project.place(&["services", name, "ports", &index]).clone();
                    let message =
                        format!("port {first}/{protocol} is published at {here} already, by the service {name}");
                    self.fault(&["services", other_name, "ports", &other_at.to_string()], message);
                }
            }
            if self.found.faults.len() > 50 {
                break;
            }
        }
    }

    /// No service needs itself, over however many others.
    fn circle(&mut self) {
        let services = &self.project.services;
        let mut left: BTreeMap<&str, BTreeSet<&str>> = services
            .iter()
            .map(|(name, service)| {
                let needed = needs(service).map(|(other, _)| other).filter(|other| services.contains_key(*other));
                (name.as_str(), needed.collect())
            })
            .collect();
        let mut needed_by: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, needed) in &left {
            needed.iter().for_each(|other| needed_by.entry(other).or_default().push(name));
        }
        let mut free: Vec<&str> = left.iter().filter(|(_, needed)| needed.is_empty()).map(|(name, _)| *name).collect();
        while let Some(name) = free.pop() {
            left.remove(name);
            for other in needed_by.get(name).into_iter().flatten() {
                if let Some(needed) = left.get_mut(other) {
                    needed.remove(name);
                    if needed.is_empty() {
                        free.push(other);
                    }
                }
            }
        }
        // What is left leads into a circle: whoever follows it comes to a name twice.
        let Some(mut at) = left.keys().next().copied() else { return };
        let mut chain: Vec<&str> = Vec::new();
        while !chain.contains(&at) {
            chain.push(at);
            let Some(next) = left.get(at).and_then(|needed| needed.first().copied()) else { return };
            at = next;
        }
        let start = chain.iter().position(|name| *name == at).unwrap_or_default();
        let names: Vec<&str> = chain[start..].iter().copied().chain([at]).collect();
        let message = format!("services wait for each other in a circle: {}", names.join(" -> "));
        self.fault(&["services", at, "depends_on", names[1]], message);
    }
}

/// Whether two ports are published on an address that both have.
fn meet(a: &Port, b: &Port) -> bool {
    let ip = |port: &Port| port.host_ip.as_deref().and_then(|text| super::forms::address(text).ok());
    match (ip(a), ip(b)) {
        (Some(a), Some(b)) => {
            a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified())) || any(a) || any(b)
        }
        _ => true,
    }
}

/// `::` takes both families.
fn any(ip: IpAddr) -> bool {
    ip.is_ipv6() && ip.is_unspecified()
}
