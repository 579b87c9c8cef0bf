//! Networks: who is in which, under which names, and the policies that keep them apart.

use std::collections::BTreeSet;

use super::{super::model::Service, Work};
use hivemind_core::{
    model::{AppName, PolicyName, Protocol},
    spec::v1::{
        AppSpec, Entity, InstancePeer, NETWORK_LABEL, Operator, POLICY_PREFIX, PROJECT_LABEL, PolicyPeer, PolicyPort,
        PolicyProtocol, PolicyRule, PolicySpec, PortMatch, Requirement, SERVICE_LABEL, SHARED_NETWORK,
        SHARED_NETWORK_LABEL, Selector, validate_labels,
    },
};

/// The value of the label of who is in a network.
const MEMBER: &str = "member";

/// The label of who is in a network.
fn label(network: &str) -> String {
    match network.strip_prefix(SHARED_NETWORK) {
        Some(name) => format!("{SHARED_NETWORK_LABEL}{name}"),
        None => format!("{NETWORK_LABEL}{network}"),
    }
}

impl Work<'_> {
    pub(super) fn networks(&mut self, name: &str, service: &Service, spec: &mut AppSpec) {
        match service.network_mode.as_deref() {
            None | Some("bridge" | "default" | "") => {}
            // The two would be one: scaled, updated and waited for together, which services are not.
            Some(other) if other.starts_with("service:") => {
                let message = format!(
                    "{other} is not known here: a container in another's network is a part of that one's app, a sidecar \
                     (hivemind app deploy --sidecar). Remove it, or deploy the two as one app"
                );
                self.fault(&["services", name, "network_mode"], message);
            }
            Some(other) => {
                let message = format!("{other} is not known here: every instance has a network of its own. Remove it");
                self.fault(&["services", name, "network_mode"], message);
            }
        }
        // Docker's own bridge is for those who are in nothing else.
        let bridge = || vec![("default".to_owned(), None)];
        let mut attached: Vec<_> = service.networks.clone().into_iter().collect();
        if attached.is_empty() {
            attached = bridge();
        }
        for (key, attachment) in attached {
            let network = self.network(&key);
            let label = label(&network);
            if !validate_labels(&[(label.clone(), MEMBER.to_owned())].into()).is_empty() {
                let message = format!(
                    "{network} is no name of a network here: use letters, digits, '-', '_' and '.', at most 63"
                );
                self.fault(&["networks", &key], message);
                continue;
            }
            spec.labels.insert(label, MEMBER.into());
            let mut aliases: BTreeSet<String> =
                attachment.map(|it| it.aliases).unwrap_or_default().into_iter().collect();
            aliases.extend(service.container_name.clone());
            aliases.extend(self.linked(name, &key));
            // An app's own name is there without a word.
            aliases.extend(
                Some(name.to_owned()).filter(|name| self.names.get(name).is_none_or(|app| app.as_str() != name)),
            );
            spec.networks.insert(network, aliases);
        }
    }

    /// A network as the API knows it: the project's own, by its key; one with a name beyond the project is shared.
    fn network(&self, key: &str) -> String {
        let declared = self.project.networks.get(key);
        let named = self.project.document.get("networks").and_then(|all| all.get(key)?.get("name")).is_some();
        match declared
            .filter(|network| named || network.external == Some(true))
            .and_then(|network| network.name.as_ref())
        {
            Some(name) => format!("{SHARED_NETWORK}{name}"),
            None => key.to_owned(),
        }
    }

    /// The names that other services of a network give this one by their links.
    fn linked(&self, name: &str, network: &str) -> Vec<String> {
        let others = self.project.services.values().filter(|other| other.networks.contains_key(network));
        let links = others.flat_map(|other| &other.links).filter_map(|link| link.split_once(':'));
        links.filter(|(to, _)| *to == name).map(|(_, alias)| alias.to_owned()).collect()
    }

    /// What may come to a service, and, if it is in internal networks only, go from it: its networks, and who comes to its
    /// published ports.
    pub(super) fn policy(&self, name: &str, app: &AppName, spec: &AppSpec) -> Option<(PolicyName, PolicySpec)> {
        let members: Vec<PolicyPeer> = spec
            .networks
            .keys()
            .map(|network| {
                let key = label(network);
                let member = Requirement { key, operator: Operator::Exists, values: Vec::new() };
                let instances = Selector { expressions: vec![member], ..Selector::default() };
                // Without namespaces it is the policy's own.
                let namespaces = network.starts_with(SHARED_NETWORK).then(Selector::default);
                PolicyPeer::Instances(InstancePeer { namespaces, instances })
            })
            .collect();
        let ports: BTreeSet<PolicyPort> = spec
            .ports
            .iter()
            .filter(|port| port.published.is_some())
            .map(|port| PolicyPort {
                protocol: match port.protocol {
                    Protocol::Tcp => PolicyProtocol::Tcp,
                    Protocol::Udp => PolicyProtocol::Udp,
                },
                port: Some(PortMatch::Range(port.target, port.target)),
            })
            .collect();
        let inside =
            |key: &String| self.project.networks.get(key).is_some_and(|network| network.internal == Some(true));
        let attached = self.project.services.get(name).map(|service| &service.networks);
        let internal = attached.is_some_and(|networks| !networks.is_empty() && networks.keys().all(inside));
        let mut ingress = vec![PolicyRule { peers: members.clone(), ports: Vec::new() }];
        // A port of an internal network is not published, as in Compose.
        if !ports.is_empty() && !internal {
            let peers = vec![PolicyPeer::Entity(Entity::World), PolicyPeer::Entity(Entity::SameTenant)];
            ingress.push(PolicyRule { peers, ports: ports.into_iter().collect() });
        }
        let own = [(PROJECT_LABEL.to_owned(), self.project.name.clone()), (SERVICE_LABEL.to_owned(), name.to_owned())];
        let policy = PolicySpec {
            instances: Selector { labels: own.into(), ..Selector::default() },
            ingress: Some(ingress),
            egress: internal.then(|| vec![PolicyRule { peers: members, ports: Vec::new() }]),
            ..PolicySpec::default()
        };
        Some((format!("{POLICY_PREFIX}{app}").parse().ok()?, policy))
    }
}
