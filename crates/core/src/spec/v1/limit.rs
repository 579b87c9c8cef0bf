//! What may pass in a second, and how many connections there may be.

use hivemind_ebpf::abi::FLOWS;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::{BitRate, PerSecond};

/// The least rate of bits: at less a single packet takes more than a second.
pub const MIN_BITS: BitRate = BitRate(8_000);
/// The highest: beyond it a rate limits nothing that a machine has.
pub const MAX_BITS: BitRate = BitRate(1_000_000_000_000);
/// The most packets or connections in a second, for the same reason.
pub const MAX_PER_SECOND: PerSecond = PerSecond(1_000_000_000);

/// Limits of the traffic of each instance of an app, or of all instances of a tenant on a node together. Absent means
/// unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitSpec {
    /// Bits in a second that are sent; 8kbit to 1tbit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<BitRate>,
    /// Bits in a second that are received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<BitRate>,
    /// Packets in a second that are sent; at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_packets: Option<PerSecond>,
    /// Packets in a second that are received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_packets: Option<PerSecond>,
    /// Connections at a time: so many that are begun, and so many that are accepted; 1 to 65,536.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// New connections in a second: so many that are begun, and so many that are accepted; at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_connections: Option<PerSecond>,
}

impl LimitSpec {
    /// Whether nothing is limited.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether packets are held to a rate.
    pub const fn has_rates(&self) -> bool {
        self.egress.is_some()
            || self.ingress.is_some()
            || self.egress_packets.is_some()
            || self.ingress_packets.is_some()
    }

    /// Each limit there is, by the name of its flag without what limits it, as text.
    pub fn words(&self) -> Vec<(&'static str, String)> {
        let mut words = Vec::new();
        let mut word = |name, value: Option<String>| words.extend(value.map(|value| (name, value)));
        word("egress", self.egress.map(|rate| rate.to_string()));
        word("ingress", self.ingress.map(|rate| rate.to_string()));
        word("egress-packets", self.egress_packets.map(|rate| format!("{rate}/s")));
        word("ingress-packets", self.ingress_packets.map(|rate| format!("{rate}/s")));
        word("connections", self.connections.map(|number| number.to_string()));
        word("new-connections", self.new_connections.map(|rate| format!("{rate}/s")));
        words
    }
}

/// Every fault of `limits`, as `limits.field: what is wrong`.
pub fn validate_limits(limits: &LimitSpec) -> Vec<String> {
    let mut faults = Vec::new();
    for (field, rate) in [("egress", limits.egress), ("ingress", limits.ingress)] {
        if let Some(rate) = rate.filter(|rate| !(MIN_BITS..=MAX_BITS).contains(rate)) {
            faults.push(format!("limits.{field}: {rate} is not from {MIN_BITS} to {MAX_BITS}"));
        }
    }
    for (field, rate) in [
        ("egress_packets", limits.egress_packets),
        ("ingress_packets", limits.ingress_packets),
        ("new_connections", limits.new_connections),
    ] {
        if let Some(rate) = rate.filter(|rate| !(PerSecond(1)..=MAX_PER_SECOND).contains(rate)) {
            faults.push(format!("limits.{field}: {rate} is not from 1 to {MAX_PER_SECOND} in a second"));
        }
    }
    if let Some(number) = limits.connections.filter(|number| !(1..=FLOWS).contains(number)) {
        faults.push(format!("limits.connections: {number} is not from 1 to {FLOWS}"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_limits_nothing_or_everything_is_refused() {
        assert_eq!(validate_limits(&LimitSpec::default()), Vec::<String>::new());
        let ends = LimitSpec {
            egress: Some(MIN_BITS),
            ingress: Some(MAX_BITS),
            egress_packets: Some(PerSecond(1)),
            ingress_packets: Some(MAX_PER_SECOND),
            connections: Some(FLOWS),
            new_connections: Some(PerSecond(1)),
        };
        assert_eq!(validate_limits(&ends), Vec::<String>::new());
        let beyond = LimitSpec {
            egress: Some(BitRate(7_999)),
            ingress: Some(BitRate(1_000_000_000_001)),
            egress_packets: Some(PerSecond(0)),
            ingress_packets: Some(PerSecond(1_000_000_001)),
            connections: Some(0),
            new_connections: Some(PerSecond(0)),
        };
        assert_eq!(
            validate_limits(&beyond),
            [
                "limits.egress: 7999bit is not from 8kbit to 1tbit",
                "limits.ingress: 1000000000001bit is not from 8kbit to 1tbit",
                "limits.egress_packets: 0 is not from 1 to 1g in a second",
                "limits.ingress_packets: 1000000001 is not from 1 to 1g in a second",
                "limits.new_connections: 0 is not from 1 to 1g in a second",
                "limits.connections: 0 is not from 1 to 65536",
            ]
        );
    }

    #[test]
    fn as_a_document_it_has_the_words_of_the_flags() {
        let text = r#"{"egress":"10mbit","ingress_packets":"10k","connections":100}"#;
        let limits: LimitSpec = serde_json::from_str(text).expect("valid");
        assert_eq!(serde_json::to_string(&limits).expect("json"), text);
        let words = [("egress", "10mbit"), ("ingress-packets", "10k/s"), ("connections", "100")];
        assert_eq!(limits.words(), words.map(|(name, value)| (name, value.to_owned())));
        assert!(limits.has_rates() && !LimitSpec { connections: Some(1), ..LimitSpec::default() }.has_rates());
    }
}
