//! More services over an app's instances, beside the one of the app's name.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AppSpec, app::port_text, validate::check_dns_name};
use crate::model::{Protocol, ServiceName};

/// The most services that an app may have besides its own.
pub const MAX_SERVICES: usize = 32;

/// A service of its own name and addresses over the instances of an app.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Its ports; at least one.
    pub ports: Vec<ServedPort>,
    /// DNS names besides `<service>.<namespace>.<tenant>.hivemind`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_names: Vec<String>,
    /// Whether it has no virtual address: its names stand for its Ready instances themselves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub headless: bool,
}

/// A port of a service. As text: `80`, `80:8080`, `53/udp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServedPort {
    /// The port on the service's addresses.
    pub port: u16,
    /// The instances' port.
    pub target: u16,
    /// TCP by default.
    #[serde(default)]
    pub protocol: Protocol,
}

impl FromStr for ServedPort {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (port, target, protocol) = port_text(text, "80, 80:8080 or 53/udp")?;
        Ok(Self { port: port.unwrap_or(target), target, protocol })
    }
}

impl fmt::Display for ServedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.port)?;
        if self.target != self.port {
            write!(f, ":{}", self.target)?;
        }
        write!(f, "/{}", self.protocol)
    }
}

/// Every fault of an app's services, as field and what is wrong with it. `names` are the DNS names it has by itself, in
/// lower case.
pub(super) fn check(spec: &AppSpec, names: &mut BTreeSet<String>, fault: &mut impl FnMut(&str, String)) {
    if spec.headless {
        if spec.ports.iter().any(|port| port.published.is_some()) {
            let why = "a published port is forwarded by the service's addresses, and without a virtual one it has none";
            fault("headless", format!("{why}; publish no port, or give the app a second service that is headless"));
        }
        let balance = super::BalanceSpec { source_ranges: vec![], ..spec.balance.clone() };
        if !balance.is_default() {
            fault("headless", "who connects chooses the instance, so that balance has no effect; leave one out".into());
        }
    }
    if spec.more_services.len() > MAX_SERVICES {
        fault("more_services", format!("{} are more than {MAX_SERVICES}", spec.more_services.len()));
    }
    for (name, service) in &spec.more_services {
        check_one(name, service, names, fault);
    }
}

fn check_one(
    name: &ServiceName,
    service: &ServiceSpec,
    names: &mut BTreeSet<String>,
    fault: &mut impl FnMut(&str, String),
) {
    let field = |part: &str| format!("more_services.{name}.{part}");
    if service.ports.is_empty() {
        fault(&field("ports"), "is empty; name at least one, e.g. 80 or 80:8080".into());
    }
    let mut ports = BTreeSet::new();
    for port in &service.ports {
        if port.port == 0 || port.target == 0 {
            fault(&field("ports"), format!("{port}: a port is from 1 to 65535"));
        }
        if !ports.insert((port.port, port.protocol)) {
            fault(&field("ports"), format!("{}/{} is there twice", port.port, port.protocol));
        }
        if service.headless && port.port != port.target {
            let why = "a service without a virtual address has its instances' ports";
            fault(&field("ports"), format!("{port}: {why}; write {}/{}", port.target, port.protocol));
        }
    }
    for dns_name in &service.dns_names {
        if let Err(why) = check_dns_name(dns_name) {
            fault(&field("dns_names"), format!("{dns_name:?} is not a DNS name: {why}"));
        } else if !names.insert(dns_name.to_ascii_lowercase()) {
            fault(&field("dns_names"), format!("{dns_name:?} is there twice"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::v1::{Affinity, validate_app};

    #[test]
    fn ports_are_written_in_one_way() {
        for (text, port) in [("80", "80/tcp"), ("80:8080/tcp", "80:8080/tcp"), ("53/udp", "53/udp"), ("5:5", "5/tcp")] {
            assert_eq!(text.parse::<ServedPort>().map(|port| port.to_string()).as_deref(), Ok(port));
        }
        for text in ["", "0", "80:0", "65536", "80/icmp", "a:b", "1:2:3"] {
            assert!(text.parse::<ServedPort>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_no_service_can_be_is_refused_with_what_would_be_right() {
        let mut spec = AppSpec::new("web");
        let port = |text: &str| text.parse().expect("a port");
        spec.services = vec!["web.local".into()];
        spec.headless = true;
        spec.balance.affinity = Some(Affinity { client_ip_seconds: 60 });
        spec.ports = vec!["8080:80".parse().expect("a port")];
        let bad = ServiceSpec {
            ports: vec![port("80:8080"), port("80:8081"), port("80/udp")],
            dns_names: vec!["WEB.local".into(), "no name".into()],
            headless: true,
        };
        spec.more_services.insert("admin".parse().expect("a name"), bad);
        spec.more_services.insert("empty".parse().expect("a name"), ServiceSpec::default());
        let faults = validate_app(&spec);
        let fields: Vec<_> = faults.iter().map(|fault| fault.split(':').next().expect("a field")).collect();
        let (ports, names) = ("more_services.admin.ports", "more_services.admin.dns_names");
        assert_eq!(
            fields,
            ["headless", "headless", ports, ports, ports, names, names, "more_services.empty.ports"],
            "{faults:#?}"
        );
        assert!(faults[2].ends_with("write 8080/tcp"), "{faults:#?}");
        spec.headless = false;
        spec.more_services.clear();
        let good = ServiceSpec { ports: vec![port("80:8080"), port("53/udp")], ..ServiceSpec::default() };
        spec.more_services.insert("admin".parse().expect("a name"), good);
        assert_eq!(validate_app(&spec), Vec::<String>::new());
    }
}
