//! Limits of traffic: their flags, and how they are shown.

use clap::Args;

use crate::{
    model::{BitRate, PerSecond},
    spec::v1::LimitSpec,
};

/// The same of each instance of an app, and of all instances of a tenant on a node together.
#[derive(Args, Debug)]
#[command(next_help_heading = "Limits")]
pub(super) struct TrafficArgs {
    /// Bits in a second that are sent: 500kbit, 10mbit, 1gbit
    #[arg(long, value_name = "RATE")]
    limit_egress: Option<BitRate>,
    /// Bits in a second that are received
    #[arg(long, value_name = "RATE")]
    limit_ingress: Option<BitRate>,
    /// Packets in a second that are sent: 500, 10k
    #[arg(long, value_name = "NUMBER")]
    limit_egress_packets: Option<PerSecond>,
    /// Packets in a second that are received
    #[arg(long, value_name = "NUMBER")]
    limit_ingress_packets: Option<PerSecond>,
    /// Connections at a time: so many begun, and so many accepted
    #[arg(long, value_name = "NUMBER")]
    max_connections: Option<u32>,
    /// New connections in a second: so many begun, and so many accepted
    #[arg(long, value_name = "NUMBER")]
    max_new_connections: Option<PerSecond>,
}

impl TrafficArgs {
    pub(super) const fn spec(&self) -> LimitSpec {
        LimitSpec {
            egress: self.limit_egress,
            ingress: self.limit_ingress,
            egress_packets: self.limit_egress_packets,
            ingress_packets: self.limit_ingress_packets,
            connections: self.max_connections,
            new_connections: self.max_new_connections,
        }
    }
}

/// Those of `set`, and those of `before` that it does not say.
pub(super) fn over(before: LimitSpec, set: LimitSpec) -> LimitSpec {
    LimitSpec {
        egress: set.egress.or(before.egress),
        ingress: set.ingress.or(before.ingress),
        egress_packets: set.egress_packets.or(before.egress_packets),
        ingress_packets: set.ingress_packets.or(before.ingress_packets),
        connections: set.connections.or(before.connections),
        new_connections: set.new_connections.or(before.new_connections),
    }
}

/// `egress 10mbit, connections 100`; empty without limits.
pub(super) fn shown(limits: &LimitSpec) -> String {
    let word = |(name, value): (&str, String)| format!("{name} {value}");
    limits.words().into_iter().map(word).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: TrafficArgs,
    }

    #[test]
    fn every_flag_has_its_field_and_is_shown() {
        let line = "x --limit-egress 10mbit --limit-ingress 1gbit --limit-egress-packets 10k --limit-ingress-packets 500 \
                    --max-connections 100 --max-new-connections 50";
        let limits = Line::try_parse_from(line.split_whitespace()).expect("is understood").args.spec();
        assert_eq!(
            shown(&limits),
            "egress 10mbit, ingress 1gbit, egress-packets 10k/s, ingress-packets 500/s, connections 100, \
             new-connections 50/s"
        );
        assert_eq!((over(LimitSpec::default(), limits), over(limits, LimitSpec::default())), (limits, limits));
        let other = LimitSpec { egress: Some("1gbit".parse().expect("a rate")), ..LimitSpec::default() };
        assert_eq!(over(limits, other), LimitSpec { egress: other.egress, ..limits }, "what is said wins");
        let none = Line::try_parse_from(["x"]).expect("is understood").args.spec();
        assert_eq!((none.is_default(), shown(&none)), (true, String::new()));
        for wrong in
            ["--limit-egress=10mbps", "--limit-egress=fast", "--max-connections=-1", "--limit-egress-packets=1.5"]
        {
            assert!(Line::try_parse_from(["x", wrong]).is_err(), "{wrong}");
        }
    }
}
