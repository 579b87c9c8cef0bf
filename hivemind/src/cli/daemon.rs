//! `hivemind daemon`.

use std::{
    io::IsTerminal as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, ValueEnum};
use ipnet::{Ipv4Net, Ipv6Net};
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use super::parse::duration;
use crate::{
    agent::images::ImageMarks,
    daemon::{
        DaemonConfig, IpFamilies,
        journal::{self, Journal},
    },
    model::{ErrorCode, NodeName, Problem},
    policy::{Failsafe, FailsafePort},
    runtime::Mirror,
};

/// Run the daemon: store, control loops, agent and API of this machine
#[derive(Args, Debug)]
pub(super) struct DaemonArgs {
    /// File with these settings [default: /etc/hivemind/config.toml if it is there]
    #[arg(long, env = "HIVEMIND_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Port of the web API on 127.0.0.1, for those who have the token
    #[arg(long, env = "HIVEMIND_WEB_PORT", default_value_t = 3000, value_parser = clap::value_parser!(u16).range(1..))]
    web_port: u16,
    /// Address of the web API instead of 127.0.0.1
    #[arg(long, env = "HIVEMIND_LISTEN", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
    /// Name of this node; the host's name by default
    #[arg(long, env = "HIVEMIND_NODE_NAME")]
    node_name: Option<NodeName>,
    /// Store, logs and token
    #[arg(long, env = "HIVEMIND_STATE_DIR", default_value = "/var/lib/hivemind")]
    state_dir: PathBuf,
    /// Files that need not outlive a reboot
    #[arg(long, env = "HIVEMIND_RUN_DIR", default_value = "/run/hivemind")]
    run_dir: PathBuf,
    /// containerd's socket
    #[arg(long, env = "HIVEMIND_CONTAINERD_SOCKET", default_value = "/run/containerd/containerd.sock")]
    containerd_socket: PathBuf,
    /// Hivemind's namespace in containerd
    #[arg(long, env = "HIVEMIND_CONTAINERD_NAMESPACE", default_value = "hivemind")]
    containerd_namespace: String,
    /// Address families of instances and services
    #[arg(long, env = "HIVEMIND_IP_FAMILY", value_enum, default_value_t = FamilyArg::Dual)]
    ip_family: FamilyArg,
    /// Addresses of instances, IPv4
    #[arg(long, env = "HIVEMIND_INSTANCE_CIDR4", default_value = "10.88.0.0/16")]
    instance_cidr4: Ipv4Net,
    /// Addresses of instances, IPv6
    #[arg(long, env = "HIVEMIND_INSTANCE_CIDR6", default_value = "fd68:6d00:0:1::/64")]
    instance_cidr6: Ipv6Net,
    /// Addresses of services, IPv4
    #[arg(long, env = "HIVEMIND_SERVICE_CIDR4", default_value = "10.96.0.0/16")]
    service_cidr4: Ipv4Net,
    /// Addresses of services, IPv6
    #[arg(long, env = "HIVEMIND_SERVICE_CIDR6", default_value = "fd68:6d00:0:2::/112")]
    service_cidr6: Ipv6Net,
    /// Folder in the BPF file system for the data plane
    #[arg(long, env = "HIVEMIND_BPF_ROOT", default_value = "/sys/fs/bpf/hivemind")]
    bpf_root: PathBuf,
    /// Only processes of this cgroup2 folder reach services; all processes of the machine by default
    #[arg(long, env = "HIVEMIND_CGROUP_ROOT")]
    cgroup_root: Option<PathBuf>,
    /// cgroup under which the containers run
    #[arg(long, env = "HIVEMIND_CGROUP_PARENT", default_value = "/hivemind")]
    cgroup_parent: String,
    /// Name server for other names, ADDRESS or ADDRESS:PORT; those of /etc/resolv.conf by default
    #[arg(long, env = "HIVEMIND_DNS_UPSTREAM", value_delimiter = ',', value_parser = upstream)]
    dns_upstream: Vec<SocketAddr>,
    /// Seconds for which an address is open at least that a policy opens by a name; longer if the name server says so
    #[arg(long, env = "HIVEMIND_DNS_EGRESS_TTL", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    dns_egress_ttl: u32,
    /// Registry that is spoken to without TLS, HOST:PORT
    #[arg(long, env = "HIVEMIND_PLAIN_HTTP_REGISTRY", value_delimiter = ',')]
    plain_http_registry: Vec<String>,
    /// File with credentials for registries, or the helpers that keep them, in the format of Docker's config.json
    #[arg(long, env = "HIVEMIND_REGISTRY_AUTH")]
    registry_auth: Option<PathBuf>,
    /// PEM file with certificates of authorities that registries' are signed by, besides those the machine trusts
    #[arg(long, env = "HIVEMIND_REGISTRY_CA")]
    registry_ca: Option<PathBuf>,
    /// Registry that is asked for images before another one, REGISTRY=HOST[:PORT][/PATH]; * is every registry. They are asked in this order
    #[arg(long, env = "HIVEMIND_REGISTRY_MIRROR", value_name = "REGISTRY=MIRROR", value_delimiter = ',')]
    registry_mirror: Vec<Mirror>,
    /// Fuller than so many percent of the disk: images that no instance uses go, the longest unused first; 100: never
    #[arg(long, env = "HIVEMIND_IMAGE_GC_HIGH", default_value_t = 85, value_name = "PERCENT")]
    image_gc_high: u8,
    /// Until the disk is no fuller than so many percent
    #[arg(long, env = "HIVEMIND_IMAGE_GC_LOW", default_value_t = 80, value_name = "PERCENT")]
    image_gc_low: u8,
    /// For so long an image stays after its last use
    #[arg(long, env = "HIVEMIND_IMAGE_GC_REST", default_value = "2m", value_parser = duration, value_name = "TIME")]
    image_gc_rest: Duration,
    /// Device through which published ports are reached; found by itself by default
    #[arg(long, env = "HIVEMIND_UPLINK", value_delimiter = ',')]
    uplink: Vec<String>,
    /// Ports of this machine that no policy of the host closes, besides the API's own
    #[arg(long, env = "HIVEMIND_FAILSAFE_INBOUND", value_name = "PORT/PROTOCOL", value_delimiter = ',',
        default_value = Failsafe::INBOUND)]
    failsafe_inbound: Vec<FailsafeArg>,
    /// Ports of others that this machine reaches whatever policies of the host say
    #[arg(long, env = "HIVEMIND_FAILSAFE_OUTBOUND", value_name = "PORT/PROTOCOL", value_delimiter = ',',
        default_value = Failsafe::OUTBOUND)]
    failsafe_outbound: Vec<FailsafeArg>,
    /// Begin with an empty store though there are instances of an earlier one on this machine, and remove them
    #[arg(long)]
    remove_unknown: bool,
    /// Form of the log; by itself the journal's, with priorities and fields, if systemd has connected standard error with it
    #[arg(long, env = "HIVEMIND_LOG_FORMAT", value_enum, default_value_t = LogFormat::Auto)]
    log_format: LogFormat,
    /// What to log: error, warn, info, debug, trace, or a tracing filter
    #[arg(long, env = "HIVEMIND_LOG_LEVEL", default_value = "info", value_parser = filter)]
    log_level: Filter,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FamilyArg {
    Dual,
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// The journal if standard error is connected with it, else text
    Auto,
    /// Lines for people, on standard error
    Text,
    /// Lines of JSON, on standard error
    Json,
    /// Entries of systemd's journal
    Journal,
}

/// What is logged, as it was written; it can be read.
#[derive(Clone, Debug)]
struct Filter(String);

fn filter(text: &str) -> Result<Filter, String> {
    let hint = "write error, warn, info, debug, trace or off; of a part: info,hivemind::net=debug";
    // To the library a word that is no level is the name of a part, of which it then logs everything.
    if let Some(word) = text.split(',').find(|word| !is_directive(word)) {
        return Err(format!("{word:?} is no level; {hint}"));
    }
    EnvFilter::try_new(text).map_err(|error| format!("{error}; {hint}"))?;
    Ok(Filter(text.to_owned()))
}

/// Whether it is a level, or says the level of something.
fn is_directive(word: &str) -> bool {
    word.contains(['=', '[']) || word.trim().parse::<tracing::level_filters::LevelFilter>().is_ok()
}

fn upstream(text: &str) -> Result<SocketAddr, String> {
    let alone = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    alone
        .or_else(|_| text.parse())
        .map_err(|_| "write ADDRESS or ADDRESS:PORT, e.g. 9.9.9.9 or [2620:fe::fe]:53".into())
}

impl DaemonArgs {
    /// Starts the daemon and stays until it is told to stop.
    pub(super) async fn run(self, socket: PathBuf) -> Result<(), Problem> {
        self.log()?;
        let config = self.config(socket)?;
        config.validate()?;
        crate::daemon::run(config).await
    }

    fn log(&self) -> Result<(), Problem> {
        let filter = EnvFilter::new(&self.log_level.0);
        let colours = std::io::stderr().is_terminal();
        let format = match self.log_format {
            LogFormat::Auto if journal::is_connected() => LogFormat::Journal,
            format => format,
        };
        if let LogFormat::Journal = format {
            let journal = Journal::new().map_err(|error| {
                Problem::new(ErrorCode::Internal, format!("--log-format journal: there can be no socket: {error}"))
            })?;
            tracing_subscriber::registry().with(journal.with_filter(filter)).init();
            return Ok(());
        }
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
        match format {
            LogFormat::Json => log.json().init(),
            _ => log.with_target(false).init(),
        }
        Ok(())
    }

    /// The configuration, not yet validated.
    pub(super) fn config(self, socket: PathBuf) -> Result<DaemonConfig, Problem> {
        let node_name = match self.node_name {
            Some(name) => name,
            None => host_name()?,
        };
        Ok(DaemonConfig {
            node_name,
            socket,
            listen: SocketAddr::new(self.listen, self.web_port),
            state_dir: self.state_dir,
            run_dir: self.run_dir,
            containerd_socket: self.containerd_socket,
            containerd_namespace: self.containerd_namespace,
            families: match self.ip_family {
                FamilyArg::Dual => IpFamilies::Dual,
                FamilyArg::V4 => IpFamilies::V4,
                FamilyArg::V6 => IpFamilies::V6,
            },
            instances_v4: self.instance_cidr4,
            instances_v6: self.instance_cidr6,
            services_v4: self.service_cidr4,
            services_v6: self.service_cidr6,
            bpf_root: self.bpf_root,
            cgroup_root: self.cgroup_root,
            cgroup_parent: self.cgroup_parent,
            dns_upstreams: self.dns_upstream,
            dns_least_ttl: Duration::from_secs(self.dns_egress_ttl.into()),
            plain_http_registries: self.plain_http_registry,
            registry_auth: self.registry_auth,
            registry_ca: self.registry_ca,
            registry_mirrors: self.registry_mirror,
            failsafe: failsafe(
                &self.failsafe_inbound,
                &self.failsafe_outbound,
                SocketAddr::new(self.listen, self.web_port),
            ),
            image_marks: ImageMarks { high: self.image_gc_high, low: self.image_gc_low, rest: self.image_gc_rest },
            uplinks: self.uplink,
            remove_unknown: self.remove_unknown,
        })
    }
}

/// A port, or none at all.
#[derive(Clone, Debug)]
struct FailsafeArg(Option<FailsafePort>);

impl std::str::FromStr for FailsafeArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            port => port.parse().map(|port| Self(Some(port))),
        }
    }
}

/// With the API's own port, if it can be reached from outside.
fn failsafe(inbound: &[FailsafeArg], outbound: &[FailsafeArg], api: SocketAddr) -> Failsafe {
    let ports = |args: &[FailsafeArg]| args.iter().filter_map(|arg| Some(arg.0.as_ref()?.0.clone())).collect();
    let mut failsafe = Failsafe { inbound: ports(inbound), outbound: ports(outbound) };
    if !api.ip().is_loopback() {
        failsafe.also(api.port());
    }
    failsafe
}

/// The host's name as a node's name: its first label in lower case.
fn host_name() -> Result<NodeName, Problem> {
    let full = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let label = full.split('.').next().unwrap_or_default();
    label.parse().map_err(|error| {
        Problem::new(ErrorCode::Invalid, format!("the host's name cannot name the node: {error}"))
            .hint("hivemind daemon --node-name NAME")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_is_open_if_it_listens_outside_and_nothing_else_when_none_is_asked_for() {
        let args =
            |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a port")).collect::<Vec<FailsafeArg>>();
        let said = |inbound: &[&str], api: &str| {
            failsafe(&args(inbound), &args(&["none"]), api.parse().expect("an address")).to_string()
        };
        assert_eq!(said(&["22/tcp"], "127.0.0.1:3000"), "in 22/tcp; out none");
        assert_eq!(said(&["none"], "0.0.0.0:3000"), "in 3000/tcp; out none");
        assert_eq!(said(&["2222", "3000/tcp"], "[::]:3000"), "in 2222/tcp, 3000/tcp; out none");
        assert!("22-23".parse::<FailsafeArg>().is_err());
    }
}
