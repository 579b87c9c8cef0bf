//! The ports of the host that no policy closes, so that nobody locks themself out.

use std::{fmt, str::FromStr};

use super::read_port;
use hivemind_core::spec::v1::{PolicyPort, PolicyProtocol, PortMatch};

/// What always passes between the host and the outside. What instances send to the host is not meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Failsafe {
    /// Ports of the host.
    pub inbound: Vec<PolicyPort>,
    /// Ports of others that the host reaches.
    pub outbound: Vec<PolicyPort>,
}

impl Failsafe {
    /// SSH, and the answers of DHCP for both families.
    pub const INBOUND: &str = "22/tcp,68/udp,546/udp";
    /// Names, DHCP for both families, and the time.
    pub const OUTBOUND: &str = "53/udp,53/tcp,67/udp,547/udp,123/udp";

    /// Adds a TCP port of the host, if it is not there.
    pub fn also(&mut self, port: u16) {
        let port = PolicyPort { protocol: PolicyProtocol::Tcp, port: Some(PortMatch::Range(port, port)) };
        if !self.inbound.contains(&port) {
            self.inbound.push(port);
        }
    }
}

/// One port with its protocol, as flags have it: `22/tcp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailsafePort(pub PolicyPort);

impl FromStr for FailsafePort {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (protocol, port) = read_port(text)?;
        Ok(Self(PolicyPort { protocol, port: Some(PortMatch::Range(port, port)) }))
    }
}

/// `in 22/tcp, 68/udp; out 53/udp`
impl fmt::Display for Failsafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (word, ports)) in [("in", &self.inbound), ("out", &self.outbound)].into_iter().enumerate() {
            let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
            let ports = if ports.is_empty() { "none".into() } else { ports.join(", ") };
            write!(f, "{}{word} {ports}", if at == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_ports_and_a_port_is_there_once() {
        let ports = |text: &str| {
            let read = |text: &str| text.parse::<FailsafePort>().map(|port| port.0).expect("a port");
            text.split(',').map(read).collect::<Vec<_>>()
        };
        let (inbound, outbound) = (ports(Failsafe::INBOUND), ports(Failsafe::OUTBOUND));
        let mut failsafe = Failsafe { inbound, outbound };
        failsafe.also(22);
        failsafe.also(3000);
        let said = "in 22/tcp, 68/udp, 546/udp, 3000/tcp; out 53/udp, 53/tcp, 67/udp, 547/udp, 123/udp";
        assert_eq!(failsafe.to_string(), said);
        assert_eq!(Failsafe::default().to_string(), "in none; out none");
        assert!("22-23".parse::<FailsafePort>().is_err() && "x".parse::<FailsafePort>().is_err());
    }
}
