//! What the flags name: whether it is there, and whether it is what it is to be. A file that is read when the first image is
//! fetched, or a device that is looked for once a minute, would be missed long after whoever has mistyped it has gone.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use ipnet::{Ipv4Net, Ipv6Net};

use super::DaemonConfig;
use crate::{
    control::Loaded,
    model::{ErrorCode, Problem},
    net::NodeNet,
};

/// Names all that is not there.
pub(super) fn check(config: &DaemonConfig) -> Result<(), Problem> {
    let mut faults = Vec::new();
    let mut file = |flag: &str, path: &Option<PathBuf>, wrong: fn(&[u8]) -> Option<String>| {
        let Some(path) = path else { return };
        if let Some(why) = read(path, wrong) {
            faults.push(format!("{flag} {}: {why}", path.display()));
        }
    };
    file("--registry-auth", &config.registry_auth, |bytes| {
        serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(bytes)
            .err()
            .map(|error| format!("is not in the format of Docker's config.json: {error}"))
    });
    file("--registry-ca", &config.registry_ca, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        (!text.contains("-----BEGIN CERTIFICATE-----")).then(|| "has no certificate in PEM in it".to_owned())
    });
    for uplink in &config.uplinks {
        if nix::net::if_::if_nametoindex(uplink.as_str()).is_err() {
            faults.push(format!("--uplink {uplink}: there is no such device"));
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    let title = format!("the daemon's configuration has {} fault(s)", faults.len());
    let hint = "hivemind daemon --help   (ip link: the devices)";
    Err(Problem { details: faults, ..Problem::new(ErrorCode::Invalid, title).hint(hint) })
}

/// What is wrong with a file.
fn read(path: &Path, wrong: impl Fn(&[u8]) -> Option<String>) -> Option<String> {
    match fs::read(path) {
        Ok(bytes) => wrong(&bytes),
        Err(error) => Some(error.to_string()),
    }
}

/// Refuses ranges that do not have what is stored: whoever runs with such an address would be cut off without a word.
pub(super) fn check_ranges(rows: &Loaded, network: &NodeNet) -> Result<(), Problem> {
    let NodeNet { instances_v4, instances_v6, services_v4, services_v6, .. } = network;
    let instances: Vec<_> = rows.instance_addresses().collect();
    let services: Vec<_> = rows.service_addresses().collect();
    let within = |address: &Ipv4Addr, range: &Option<Ipv4Net>| range.is_some_and(|range| range.contains(address));
    let within6 = |address: &Ipv6Addr, range: &Option<Ipv6Net>| range.is_some_and(|range| range.contains(address));
    let v4 = [("--instance-cidr4", &instances, instances_v4), ("--service-cidr4", &services, services_v4)];
    let v6 = [("--instance-cidr6", &instances, instances_v6), ("--service-cidr6", &services, services_v6)];
    let mut faults = Vec::new();
    let mut outside = |flag: &str, addresses: Vec<IpAddr>| {
        if let Some(first) = addresses.first() {
            faults.push(format!("{flag} has not what is in use: {first}, {} in all", addresses.len()));
        }
    };
    for (flag, rows, range) in v4 {
        outside(flag, rows.iter().filter_map(|row| row.v4).filter(|it| !within(it, range)).map(IpAddr::from).collect());
    }
    for (flag, rows, range) in v6 {
        outside(
            flag,
            rows.iter().filter_map(|row| row.v6).filter(|it| !within6(it, range)).map(IpAddr::from).collect(),
        );
    }
    if faults.is_empty() {
        return Ok(());
    }
    let title = "instances or services have addresses outside of the configured ranges, and would be cut off";
    let hint = "start it with the ranges and the --ip-family that it had; to change them, remove all apps first";
    Err(Problem { details: faults, ..Problem::new(ErrorCode::Invalid, title).hint(hint) })
}
