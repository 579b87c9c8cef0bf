//! How a service spreads connections: its flags, and how it is shown.

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use crate::spec::v1::{Affinity, BalanceSpec, DEFAULT_AFFINITY, External, Internal, MAX_AFFINITY, Method};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MethodFlag {
    /// One at random
    Random,
    /// The one of two with fewer open connections of this node
    LeastConnections,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum InternalFlag {
    /// Those of all nodes
    Cluster,
    /// Those of the client's node if one is ready there
    PreferLocal,
    /// Those of the client's node only
    Local,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ExternalFlag {
    /// Those of all nodes
    Cluster,
    /// Those of the node that the client asks only
    Local,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Balancing")]
pub(super) struct BalanceArgs {
    /// Which instance gets a connection from inside
    #[arg(long, value_enum, default_value_t = MethodFlag::Random, value_name = "METHOD")]
    balance: MethodFlag,
    /// A client stays with its instance for so long after its last connection [default: 10800 seconds]
    #[arg(long, value_name = "client-ip[=SECONDS]", value_parser = affinity)]
    affinity: Option<Affinity>,
    /// Which instances clients inside get
    #[arg(long, value_enum, default_value_t = InternalFlag::Cluster, value_name = "WHICH")]
    internal_traffic: InternalFlag,
    /// Which instances clients of the published ports get
    #[arg(long, value_enum, default_value_t = ExternalFlag::Cluster, value_name = "WHICH")]
    external_traffic: ExternalFlag,
    /// From where the published ports are reached, but for the node itself; may be repeated [default: everywhere]
    #[arg(long, value_name = "CIDR", value_parser = source_range)]
    source_range: Vec<IpNet>,
}

impl BalanceArgs {
    pub(super) fn spec(self) -> BalanceSpec {
        BalanceSpec {
            method: match self.balance {
                MethodFlag::Random => Method::Random,
                MethodFlag::LeastConnections => Method::LeastConnections,
            },
            affinity: self.affinity,
            internal: match self.internal_traffic {
                InternalFlag::Cluster => Internal::Cluster,
                InternalFlag::PreferLocal => Internal::PreferLocal,
                InternalFlag::Local => Internal::Local,
            },
            external: match self.external_traffic {
                ExternalFlag::Cluster => External::Cluster,
                ExternalFlag::Local => External::Local,
            },
            source_ranges: self.source_range,
        }
    }
}

fn affinity(text: &str) -> Result<Affinity, String> {
    let form = || format!("write client-ip, or client-ip=SECONDS with 1 to {MAX_AFFINITY} seconds");
    let client_ip_seconds = match text.split_once('=') {
        None if text == "client-ip" => DEFAULT_AFFINITY,
        Some(("client-ip", seconds)) => seconds.parse().map_err(|_| form())?,
        _ => return Err(form()),
    };
    if (1..=MAX_AFFINITY).contains(&client_ip_seconds) { Ok(Affinity { client_ip_seconds }) } else { Err(form()) }
}

fn source_range(text: &str) -> Result<IpNet, String> {
    let block = text.parse().or_else(|_| text.parse().map(|address: std::net::IpAddr| address.into()));
    block.map_err(|_| "write an address or a block, e.g. 192.0.2.0/24 or 2001:db8::/32".into())
}

/// What is not as by default, as titles and texts.
pub(super) fn words(balance: &BalanceSpec) -> Vec<(&'static str, String)> {
    let mut words = Vec::new();
    if balance.method != Method::default() {
        words.push(("Balance", balance.method.as_str().to_owned()));
    }
    if let Some(affinity) = balance.affinity {
        words.push(("Affinity", format!("client-ip, {} seconds", affinity.client_ip_seconds)));
    }
    if balance.internal != Internal::default() {
        words.push(("Internal", balance.internal.as_str().to_owned()));
    }
    if balance.external != External::default() {
        words.push(("External", balance.external.as_str().to_owned()));
    }
    if !balance.source_ranges.is_empty() {
        let ranges: Vec<_> = balance.source_ranges.iter().map(ToString::to_string).collect();
        words.push(("Sources", ranges.join(" ")));
    }
    words
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    struct Line {
        #[command(flatten)]
        args: BalanceArgs,
    }

    fn spec(line: &[&str]) -> Result<BalanceSpec, String> {
        let parsed = Line::try_parse_from(["x"].iter().chain(line));
        parsed.map(|line| line.args.spec()).map_err(|error| error.to_string())
    }

    #[test]
    fn every_flag_has_its_field_and_its_word() {
        assert_eq!(spec(&[]), Ok(BalanceSpec::default()));
        assert!(words(&BalanceSpec::default()).is_empty());
        let line = "--balance least-connections --affinity client-ip=60 --internal-traffic prefer-local \
                    --external-traffic local --source-range 192.0.2.0/24 --source-range 2001:db8::1";
        let spec = spec(&line.split_whitespace().collect::<Vec<_>>()).expect("valid");
        let expected = serde_json::json!({
            "method": "least-connections",
            "affinity": { "client_ip_seconds": 60 },
            "internal": "prefer-local",
            "external": "local",
            "source_ranges": ["192.0.2.0/24", "2001:db8::1/128"],
        });
        assert_eq!(serde_json::to_value(&spec).expect("JSON"), expected);
        let shown: Vec<_> = words(&spec).into_iter().map(|(title, text)| format!("{title}: {text}")).collect();
        assert_eq!(
            shown,
            [
                "Balance: least-connections",
                "Affinity: client-ip, 60 seconds",
                "Internal: prefer-local",
                "External: local",
                "Sources: 192.0.2.0/24 2001:db8::1/128",
            ]
        );
    }

    #[test]
    fn an_affinity_without_a_time_lasts_three_hours_and_a_wrong_one_is_refused() {
        let of = |text: &str| spec(&["--affinity", text]).map(|spec| spec.affinity);
        assert_eq!(of("client-ip"), Ok(Some(Affinity { client_ip_seconds: 10_800 })));
        assert_eq!(of("client-ip=86400"), Ok(Some(Affinity { client_ip_seconds: 86_400 })));
        for text in ["cookie", "client-ip=0", "client-ip=86401", "client-ip=x", "client-ip="] {
            let error = of(text).expect_err(text);
            assert!(error.contains("client-ip=SECONDS with 1 to 86400"), "{error}");
        }
        assert!(spec(&["--source-range", "10.0.0.0/33"]).expect_err("refused").contains("192.0.2.0/24"));
    }
}
