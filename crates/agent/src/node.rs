//! Keeps the node itself as it should be, and says how it is.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use imbl::OrdMap;
use ipnet::IpNet;
use tokio::{sync::watch, time::timeout};

use super::{
    datapath::{Datapath, DatapathState},
    upstream::Upstream,
};
use hivemind_core::model::{EventKind, Node, NodeDesired, NodeName, NodeStatus, Subject};
use hivemind_dataplane::tables::NodeRow;
use hivemind_net::{InstanceLink, Mended, Net, NetError, NodeNet, PACING_QUEUE};
use hivemind_observe::{Events, Metrics};
use hivemind_runtime::Runtime;

/// How often the node's state is looked at when nothing says that it changed.
const PERIOD: Duration = Duration::from_secs(30);
/// How long to gather changes before acting on them: addresses come in bursts.
const SETTLE: Duration = Duration::from_millis(200);
/// How long the runtime may take to say its version.
const VERSION: Duration = Duration::from_secs(5);

/// The addresses of all nodes.
type Nodes = OrdMap<NodeName, Arc<Vec<IpAddr>>>;

/// What the data plane is told of the node.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Facts {
    /// The devices that lead out of it, by name.
    pub uplinks: Vec<String>,
    /// The queues of these, by their names.
    pub queues: BTreeMap<String, String>,
    /// Its own addresses and their networks.
    pub addresses: Vec<IpNet>,
    /// How the addresses of other nodes are reached.
    pub ways: BTreeMap<IpAddr, NodeRow>,
}

impl Facts {
    /// Whether every uplink keeps packets until their time of departure.
    pub fn paced(&self) -> bool {
        let paces = |device| self.queues.get(device).is_some_and(|queue| queue == PACING_QUEUE);
        !self.uplinks.is_empty() && self.uplinks.iter().all(paces)
    }
}

/// What keeping the node needs.
#[derive(Debug)]
pub struct NodeKeeper {
    /// Who it is.
    pub node: Node,
    /// Its ranges and own addresses.
    pub network: NodeNet,
    /// Devices that count as uplinks; all with a default route or a global address if empty.
    pub uplinks: Vec<String>,
    /// What the node is to run.
    pub desired: watch::Receiver<Arc<NodeDesired>>,
    /// Links, routes, rules.
    pub net: Arc<dyn Net>,
    /// The owner of the maps.
    pub datapath: Datapath,
    /// Runs the containers.
    pub runtime: Arc<dyn Runtime>,
    /// Where the node's status goes.
    pub upstream: Arc<dyn Upstream>,
    /// Where it says what happened.
    pub events: Events,
    /// Where it counts what it puts right.
    pub metrics: Metrics,
    /// Facts that do not change while the daemon runs.
    pub facts: NodeStatus,
}

impl NodeKeeper {
    /// Runs until cancelled. `first` becomes true after the first round.
    pub async fn run(self, first: watch::Sender<bool>) {
        let mut said: Option<NodeStatus> = None;
        let mut facts: Option<Facts> = None;
        let mut queues_known = true;
        let mut state = self.datapath.state();
        loop {
            let mut faults = Vec::new();
            faults.extend(self.mend().await);
            let nodes = self.desired.borrow().nodes.clone();
            match self.look(&nodes, &mut queues_known).await {
                Ok(now) => {
                    if facts.as_ref() != Some(&now) {
                        // Towards its own sockets the node has the gateway's addresses as well; other nodes have theirs.
                        let gateways = self.network.gateways().map(IpNet::from);
                        let addresses = now.addresses.iter().copied().chain(gateways).collect();
                        self.datapath.node_facts(Facts { addresses, ..now.clone() });
                        facts = Some(now);
                    }
                }
                Err(error) => faults.push(error.to_string()),
            }
            let version = match timeout(VERSION, self.runtime.version()).await {
                Ok(Ok(version)) => version,
                Ok(Err(error)) => {
                    faults.push(error.to_string());
                    String::new()
                }
                Err(_) => {
                    faults.push("containerd does not answer".into());
                    String::new()
                }
            };
            faults.extend(state.borrow_and_update().fault.clone());
            let status = NodeStatus {
                ready: faults.is_empty(),
                message: faults.join("; "),
                containerd: version,
                addresses: facts.iter().flat_map(|facts| facts.addresses.iter().map(IpNet::addr)).collect(),
                ..self.facts.clone()
            };
            if said.as_ref() != Some(&status) {
                self.event(&status, said.as_ref());
                match self.upstream.register(self.node.clone(), status.clone()).await {
                    Ok(()) => said = Some(status),
                    Err(error) => tracing::warn!(%error, "the node's status could not be sent; trying again"),
                }
            }
            first.send_replace(true);
            self.wait(&mut state, &nodes, said.as_ref().is_some_and(|said| said.ready)).await;
        }
    }

    /// Puts right what someone else has changed of the node's network and its instances'. Returns what could not be done.
    async fn mend(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut count = |mended: Result<Mended, NetError>| match mended {
            Ok(mended) => {
                for (kind, count) in mended.kinds() {
                    self.metrics.repaired(kind, count);
                    if count > 0 {
                        tracing::warn!(
                            kind,
                            count,
                            "something of the network was changed by someone else and put right"
                        );
                    }
                }
            }
            Err(error) => faults.push(error.to_string()),
        };
        count(self.net.ensure_node(&self.network).await);
        // Those whose programs are attached: who makes or removes a link has not done with it, or has begun.
        let attached = self.datapath.links().await.unwrap_or_default();
        let desired = self.desired.borrow().clone();
        let instances = desired.instances.values().filter(|instance| attached.contains_key(&instance.id));
        let links: Vec<_> = instances
            .map(|instance| InstanceLink {
                id: instance.id.clone(),
                addresses: instance.addresses,
                gateway: self.network.gateway,
            })
            .collect();
        count(self.net.mend_links(&links).await);
        faults
    }

    async fn look(&self, nodes: &Nodes, queues_known: &mut bool) -> Result<Facts, NetError> {
        let found = || async { Ok(self.net.uplinks().await?.into_iter().map(|uplink| uplink.name).collect()) };
        let uplinks: Vec<String> = if self.uplinks.is_empty() { found().await? } else { self.uplinks.clone() };
        // Without that nothing waits, and all else works.
        let queues = self.net.queues().await;
        if let (true, Err(error)) = (is_news(queues_known, queues.is_ok()), &queues) {
            tracing::warn!(%error, "the queues of the uplinks are not known: packets over a rate are dropped");
        }
        let mut queues = queues.unwrap_or_default();
        queues.retain(|device, _| uplinks.contains(device));
        let addresses = self.net.node_addresses().await?;
        let others = nodes.iter().filter(|(name, _)| **name != self.node.name).flat_map(|(_, theirs)| theirs.iter());
        let others: Vec<_> =
            others.copied().filter(|other| !addresses.iter().any(|own| own.addr() == *other)).collect();
        let ways = self.net.ways(&others).await?.into_iter().map(|(address, way)| {
            let row = way.map_or_else(NodeRow::default, |way| NodeRow { device: way.ifindex, mtu: way.mtu });
            (address, row)
        });
        Ok(Facts { uplinks, queues, ways: ways.collect(), addresses })
    }

    /// Until something may have changed.
    async fn wait(&self, state: &mut watch::Receiver<DatapathState>, nodes: &Nodes, well: bool) {
        let period = if well { PERIOD } else { Duration::from_secs(1) };
        let fault = state.borrow().fault.clone();
        tokio::select! {
            result = self.net.changed() => if result.is_err() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            },
            () = differs(state, fault) => {}
            () = others(self.desired.clone(), nodes) => {}
            () = tokio::time::sleep(period) => {}
        }
        tokio::time::sleep(SETTLE).await;
    }

    fn event(&self, status: &NodeStatus, before: Option<&NodeStatus>) {
        if before.is_some_and(|before| before.ready == status.ready && before.message == status.message) {
            return;
        }
        let about = Subject::Node(self.node.name.clone());
        if status.ready {
            self.events.emit(EventKind::Normal, "NodeReady", &about, "the node is ready".into());
        } else {
            self.events.emit(EventKind::Warning, "NodeNotReady", &about, status.message.clone());
        }
    }
}

/// Waits until there are other nodes than these, or they have other addresses; for ever if the feed has ended.
async fn others(mut desired: watch::Receiver<Arc<NodeDesired>>, nodes: &Nodes) {
    if desired.wait_for(|desired| !desired.nodes.ptr_eq(nodes)).await.is_err() {
        std::future::pending().await
    }
}

/// Whether what is looked at again and again has stopped working: that is said once, until it works again.
fn is_news(worked: &mut bool, works: bool) -> bool {
    std::mem::replace(worked, works) && !works
}

/// Waits until the fault is another one; for ever if the owner of the maps has ended.
async fn differs(state: &mut watch::Receiver<DatapathState>, fault: Option<String>) {
    if state.wait_for(|state| state.fault != fault).await.is_err() {
        std::future::pending().await
    }
}

/// What does not change while the daemon runs: size, kernel, operating system.
pub fn facts() -> NodeStatus {
    let uname = nix::sys::utsname::uname().ok();
    let text = |value: Option<&std::ffi::OsStr>| value.map(|v| v.to_string_lossy().into_owned()).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    NodeStatus {
        cpu_milli: u32::try_from(cpus * 1000).unwrap_or(u32::MAX),
        memory_bytes: memory_bytes(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()),
        kernel: text(uname.as_ref().map(|uname| uname.release())),
        hivemind: env!("CARGO_PKG_VERSION").into(),
        os: os_name(&std::fs::read_to_string("/etc/os-release").unwrap_or_default()),
        arch: arch.into(),
        ..NodeStatus::default()
    }
}

/// `MemTotal` of /proc/meminfo; 0 if it is not there.
fn memory_bytes(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: Option<u64> = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse().ok());
    kib.unwrap_or(0) * 1024
}

/// `PRETTY_NAME` of os-release(5).
fn os_name(os_release: &str) -> String {
    let line = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.unwrap_or("Linux").trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_wait_only_where_all_uplinks_have_them_wait() {
        let facts = |uplinks: &[&str]| {
            let queues = [("a", "fq"), ("b", "fq"), ("c", "fq_codel")];
            let queues = queues.map(|(device, queue)| (device.to_owned(), queue.to_owned())).into();
            Facts { uplinks: uplinks.iter().map(|name| (*name).to_owned()).collect(), queues, ..Facts::default() }
        };
        for (uplinks, expected) in
            [(&["a"][..], true), (&["a", "b"], true), (&["a", "c"], false), (&["a", "d"], false), (&[], false)]
        {
            assert_eq!(facts(uplinks).paced(), expected, "{uplinks:?}");
        }
    }

    #[test]
    fn what_fails_is_said_once_until_it_works_again() {
        let mut worked = true;
        let looks = [true, false, false, true, false].map(|works| is_news(&mut worked, works));
        assert_eq!(looks, [false, true, false, false, true]);
    }

    #[test]
    fn reads_the_systems_own_files() {
        assert_eq!(memory_bytes("MemTotal:       16384 kB\nMemFree: 1 kB\n"), 16 << 20);
        assert_eq!(memory_bytes(""), 0);
        assert_eq!(os_name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
    }
}
