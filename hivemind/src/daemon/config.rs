//! How the daemon is configured. Flags win over the environment, the environment over the defaults.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::{
    agent::images::ImageMarks,
    ipam,
    model::{ErrorCode, NodeName, Problem},
    net::NodeNet,
    policy::Failsafe,
    runtime::Mirror,
};

/// Which address families instances and services have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IpFamilies {
    /// Both.
    #[default]
    Dual,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonConfig {
    /// The node's name.
    pub node_name: NodeName,
    /// Store, logs and token.
    pub state_dir: PathBuf,
    /// Network namespaces, generated files; does not outlive a reboot.
    pub run_dir: PathBuf,
    /// The root-only socket of the API.
    pub socket: PathBuf,
    /// Where the API listens for those who have the token.
    pub listen: SocketAddr,
    /// containerd's socket.
    pub containerd_socket: PathBuf,
    /// Our namespace in containerd.
    pub containerd_namespace: String,
    /// Families.
    pub families: IpFamilies,
    /// Range of the instances, IPv4.
    pub instances_v4: Ipv4Net,
    /// Range of the instances, IPv6.
    pub instances_v6: Ipv6Net,
    /// Range of the services, IPv4.
    pub services_v4: Ipv4Net,
    /// Range of the services, IPv6.
    pub services_v6: Ipv6Net,
    /// Where programs, maps and links are pinned.
    pub bpf_root: PathBuf,
    /// The cgroup whose processes reach services; the root of the cgroup2 tree if not given.
    pub cgroup_root: Option<PathBuf>,
    /// The cgroup under which containers run.
    pub cgroup_parent: String,
    /// Name servers for other names; those of the host's resolv.conf if empty.
    pub dns_upstreams: Vec<SocketAddr>,
    /// The shortest time for which addresses of names in policies are open.
    pub dns_least_ttl: Duration,
    /// Registries that are spoken to without TLS, as `host:port`.
    pub plain_http_registries: Vec<String>,
    /// Credentials for registries, in the format of Docker's config.json.
    pub registry_auth: Option<PathBuf>,
    /// Certificates, in PEM, of authorities that registries' are signed by, besides those the machine trusts.
    pub registry_ca: Option<PathBuf>,
    /// Who is asked for images before their registries, in this order.
    pub registry_mirrors: Vec<Mirror>,
    /// Whether a new store may begin on a machine that has instances, which are removed then.
    pub remove_unknown: bool,
    /// The ports of the host that no policy closes.
    pub failsafe: Failsafe,
    /// When images that nobody uses go.
    pub image_marks: ImageMarks,
    /// Devices through which published ports are reached; found if empty.
    pub uplinks: Vec<String>,
}

impl DaemonConfig {
    /// Checks what flags cannot check one by one, and names all faults.
    pub fn validate(&self) -> Result<(), Problem> {
        let mut faults = Vec::new();
        let dirs = [("--state-dir", &self.state_dir), ("--run-dir", &self.run_dir), ("--socket", &self.socket)];
        for (flag, path) in dirs {
            if !path.is_absolute() {
                faults.push(format!("{flag} {}: must be an absolute path", path.display()));
            }
        }
        // A socket's address holds 108 bytes with the final zero (unix(7)).
        if self.socket.as_os_str().len() > 107 {
            faults.push(format!("--socket {}: is longer than 107 bytes", self.socket.display()));
        }
        let v4 = [("--instance-cidr4", self.instances_v4), ("--service-cidr4", self.services_v4)];
        for (flag, range) in v4 {
            if range.addr() != range.network() {
                faults.push(format!("{flag} {range}: has host bits set; write {}", range.trunc()));
            }
            if !(8..=28).contains(&range.prefix_len()) {
                faults.push(format!("{flag} {range}: the prefix must be from /8 to /28"));
            }
        }
        let v6 = [("--instance-cidr6", self.instances_v6), ("--service-cidr6", self.services_v6)];
        for (flag, range) in v6 {
            if range.addr() != range.network() {
                faults.push(format!("{flag} {range}: has host bits set; write {}", range.trunc()));
            }
            if !(32..=120).contains(&range.prefix_len()) {
                faults.push(format!("{flag} {range}: the prefix must be from /32 to /120"));
            }
        }
        let (i4, s4) = (self.instances_v4, self.services_v4);
        if i4.contains(&s4) || s4.contains(&i4) {
            faults.push(format!("--instance-cidr4 {i4} and --service-cidr4 {s4} overlap"));
        }
        let (i6, s6) = (self.instances_v6, self.services_v6);
        if i6.contains(&s6) || s6.contains(&i6) {
            faults.push(format!("--instance-cidr6 {i6} and --service-cidr6 {s6} overlap"));
        }
        let ImageMarks { high, low, .. } = self.image_marks;
        if high > 100 || low > high {
            faults.push(format!("--image-gc-high {high} and --image-gc-low {low}: write 100 >= high >= low"));
        }
        if !self.cgroup_parent.starts_with('/') || self.cgroup_parent.contains("..") {
            faults.push(format!("--cgroup-parent {}: must be an absolute path in the cgroup tree", self.cgroup_parent));
        }
        if faults.is_empty() {
            return Ok(());
        }
        let title = format!("the daemon's configuration has {} fault(s)", faults.len());
        Err(Problem { code: ErrorCode::Invalid, title, details: faults, hint: Some("hivemind daemon --help".into()) })
    }

    /// The node's network: ranges of the families that are on, and the node's own addresses in them.
    pub fn network(&self) -> NodeNet {
        let v4 = self.families != IpFamilies::V6;
        let v6 = self.families != IpFamilies::V4;
        NodeNet {
            instances_v4: v4.then_some(self.instances_v4),
            instances_v6: v6.then_some(self.instances_v6),
            services_v4: v4.then_some(self.services_v4),
            services_v6: v6.then_some(self.services_v6),
            gateway: crate::model::Addresses {
                v4: v4.then(|| ipam::node_v4(self.instances_v4)).flatten(),
                v6: v6.then(|| ipam::node_v6(self.instances_v6)),
            },
        }
    }

    /// The name servers that instances ask: the node's own addresses.
    pub fn name_servers(&self) -> Vec<IpAddr> {
        self.network().gateway.iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> DaemonConfig {
        DaemonConfig {
            node_name: "node-1".parse().expect("a name"),
            state_dir: "/var/lib/h".into(),
            run_dir: "/run/h".into(),
            socket: "/run/h.sock".into(),
            listen: ([127, 0, 0, 1], 3000).into(),
            containerd_socket: "/run/containerd.sock".into(),
            containerd_namespace: "h".into(),
            families: IpFamilies::Dual,
            instances_v4: "10.88.0.0/16".parse().expect("a range"),
            instances_v6: "fd00:1::/64".parse().expect("a range"),
            services_v4: "10.96.0.0/16".parse().expect("a range"),
            services_v6: "fd00:2::/112".parse().expect("a range"),
            bpf_root: "/sys/fs/bpf/h".into(),
            cgroup_root: None,
            cgroup_parent: "/h".into(),
            dns_upstreams: Vec::new(),
            dns_least_ttl: Duration::ZERO,
            plain_http_registries: Vec::new(),
            registry_auth: None,
            registry_ca: None,
            registry_mirrors: Vec::new(),
            remove_unknown: false,
            failsafe: Failsafe::default(),
            image_marks: ImageMarks { high: 85, low: 80, rest: Duration::ZERO },
            uplinks: Vec::new(),
        }
    }

    /// The faults of what is changed so.
    fn faults(change: impl FnOnce(&mut DaemonConfig)) -> Vec<String> {
        let mut config = config();
        change(&mut config);
        config.validate().err().map(|problem| problem.details).unwrap_or_default()
    }

    #[test]
    fn ranges_have_prefixes_within_limits() {
        let v4 = |range: &str| range.parse().expect("a range");
        for (range, allowed) in
            [("16.0.0.0/7", false), ("16.0.0.0/8", true), ("16.0.0.0/28", true), ("16.0.0.0/29", false)]
        {
            for (flag, found) in [
                ("--instance-cidr4", faults(|config| config.instances_v4 = v4(range))),
                ("--service-cidr4", faults(|config| config.services_v4 = v4(range))),
            ] {
                let expected = format!("{flag} {range}: the prefix must be from /8 to /28");
                assert_eq!(found, if allowed { vec![] } else { vec![expected] });
            }
        }
        let v6 = |range: &str| range.parse().expect("a range");
        for (range, allowed) in [("fc00::/31", false), ("fc00::/32", true), ("fc00::/120", true), ("fc00::/121", false)]
        {
            for (flag, found) in [
                ("--instance-cidr6", faults(|config| config.instances_v6 = v6(range))),
                ("--service-cidr6", faults(|config| config.services_v6 = v6(range))),
            ] {
                let expected = format!("{flag} {range}: the prefix must be from /32 to /120");
                assert_eq!(found, if allowed { vec![] } else { vec![expected] });
            }
        }
    }

    #[test]
    fn every_other_fault_is_named_alone_and_all_together() {
        type Change = fn(&mut DaemonConfig);
        let cases: [(Change, &str); 8] = [
            (|config| config.state_dir = "x".into(), "--state-dir x: must be an absolute path"),
            (|config| config.run_dir = "y".into(), "--run-dir y: must be an absolute path"),
            (|config| config.socket = format!("/{}", "s".repeat(107)).into(), "is longer than 107 bytes"),
            (|config| config.instances_v4 = "10.88.0.1/16".parse().expect("a range"), "write 10.88.0.0/16"),
            (|config| config.instances_v6 = "fd00:1::1/64".parse().expect("a range"), "write fd00:1::/64"),
            (|config| config.services_v4 = "10.88.7.0/24".parse().expect("a range"), "10.88.7.0/24 overlap"),
            (|config| config.services_v6 = "fd00:1::/48".parse().expect("a range"), "fd00:1::/48 overlap"),
            (|config| config.cgroup_parent = "/h/../x".into(), "--cgroup-parent /h/../x"),
        ];
        assert_eq!(faults(|_| ()), Vec::<String>::new());
        for (change, said) in cases {
            let found = faults(change);
            assert!(found.len() == 1 && found[0].contains(said), "{said}: {found:?}");
        }
        let most = faults(|config| cases.iter().for_each(|(change, _)| change(config)));
        assert_eq!(most.len(), cases.len(), "{most:?}");
        assert!(faults(|config| config.socket = format!("/{}", "s".repeat(106)).into()).is_empty());
    }
}
