//! What the node's instances were told of names that their policies have, kept over restarts of the daemon.
//!
//! The file is a record of what is in the kernel's tables: it is written before they are, and read before the first time
//! that they are. One that cannot be read is as none: instances ask again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use hivemind_core::{
    lifecycle::{clock, killpoint},
    model::{NodeDesired, Timestamp},
    spec::v1::dns_name_covers,
};
use hivemind_dns::Resolved;
use hivemind_policy::{Compiled, Hosts, KnownNames, SETS, may_stand_for};

/// The shortest time for which an address is kept, unless it is configured.
pub const LEAST_TTL: Duration = Duration::from_secs(60);
/// The format of the file.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    names: BTreeMap<String, BTreeMap<IpAddr, Timestamp>>,
}

/// The addresses of names with their file.
#[derive(Clone, Debug, Default)]
pub struct HostNames {
    /// None: nothing is kept.
    file: Option<PathBuf>,
    least: Duration,
    /// The cluster's own ranges.
    ours: Vec<IpNet>,
    /// The node's own addresses in them: by these the host asks.
    node: Vec<IpAddr>,
    hosts: Hosts,
    known: Arc<KnownNames>,
    /// The file is not what is in memory.
    unsaved: bool,
}

impl HostNames {
    /// What the file holds. Addresses are kept for `least` at the shortest; those in `ours` are not taken. What `node`
    /// asks for is the host's.
    pub fn open(file: PathBuf, least: Duration, ours: Vec<IpNet>, node: Vec<IpAddr>) -> Self {
        let hosts = match read(&file) {
            Ok(hosts) => hosts,
            Err(error) => {
                let path = file.display();
                tracing::warn!(%error, %path, "what names of hosts stand for is not known any more; instances ask again");
                Hosts::default()
            }
        };
        let known = Arc::new(hosts.known());
        Self { file: Some(file), least, ours, node, hosts, known, unsaved: false }
    }

    /// What each name stands for.
    pub(super) fn known(&self) -> &Arc<KnownNames> {
        &self.known
    }

    pub(super) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Takes in what an instance, or the host, is about to be told, if its policies have the name. True if the tables
    /// change.
    pub(super) fn learn(&mut self, resolved: &Resolved, desired: &NodeDesired, policies: &Compiled) -> bool {
        let asks = |address| address == resolved.asker;
        let endpoint = if self.node.contains(&resolved.asker) {
            policies.host.as_ref()
        } else {
            let mut instances = desired.instances.iter();
            let found = instances.find(|(_, instance)| instance.addresses.iter().any(asks));
            found.and_then(|(id, _)| policies.endpoints.get(id))
        };
        let sets = endpoint.map_or([0; SETS], |endpoint| endpoint.sets);
        let names = sets.iter().filter_map(|set| policies.hosts.get(set)).flatten();
        let names: BTreeSet<&String> = names.filter(|name| dns_name_covers(name, &resolved.name)).collect();
        let now = clock::now();
        let mut new = false;
        for name in names {
            for (address, ttl) in resolved.addresses.iter().filter(|(ip, _)| may_stand_for(*ip, &self.ours)) {
                new |= self.hosts.learn(name, *address, (*ttl).max(self.least), now);
                self.unsaved = true;
            }
        }
        if new {
            self.changed();
        }
        new
    }

    /// The addresses whose time is over.
    pub(super) fn over(&self) -> BTreeSet<IpAddr> {
        self.hosts.over(clock::now())
    }

    /// Removes what is over and not in use, and names that no policy has any more. True if the tables change.
    pub(super) fn forget(&mut self, in_use: &BTreeSet<IpAddr>, policies: &Compiled) -> bool {
        let named = policies.hosts.values().flatten().cloned().collect();
        let gone = self.hosts.forget(clock::now(), in_use, &named);
        if gone {
            self.changed();
        } else if self.unsaved {
            self.save();
        }
        gone
    }

    fn changed(&mut self) {
        self.known = Arc::new(self.hosts.known());
        self.save();
    }

    /// An error is said and tried again with the next change: that a restart may forget is better than no answer.
    fn save(&mut self) {
        let Some(path) = &self.file else { return };
        killpoint::before("keeping names of hosts");
        match write(path, &self.hosts) {
            Ok(()) => self.unsaved = false,
            Err(error) => {
                let path = path.display();
                tracing::error!(%error, %path, "what names of hosts stand for will not outlive the daemon");
            }
        }
    }
}

fn read(path: &Path) -> std::io::Result<Hosts> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Hosts::default()),
        read => read?,
    };
    let file: File = serde_json::from_slice(&bytes)?;
    if file.version != VERSION {
        return Err(std::io::Error::other(format!("version {} is not known", file.version)));
    }
    Ok(Hosts::new(file.names))
}

/// Without `fsync`: after a crash of the machine there is no kernel table to agree with either.
fn write(path: &Path, hosts: &Hosts) -> std::io::Result<()> {
    let next = path.with_extension("new");
    let file = File { version: VERSION, names: hosts.names().clone() };
    fs::File::create(&next)?.write_all(&serde_json::to_vec(&file)?)?;
    fs::rename(&next, path)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use hivemind_policy::EndpointPolicy;

    #[test]
    fn what_is_learned_holds_for_the_least_time_and_is_saved_also_if_only_the_time_is_new() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, asker) = (dir.path().join("hosts.json"), IpAddr::from([10, 88, 0, 1]));
        let address = IpAddr::from([203, 0, 113, 1]);
        let mut names = HostNames::open(path.clone(), LEAST_TTL, vec![], vec![asker]);
        let host = EndpointPolicy { sets: [0, 0, 9, 0, 0], ..EndpointPolicy::default() };
        let hosts = BTreeMap::from([(9, BTreeSet::from(["a.example".to_owned()]))]);
        let mut policies = Compiled::default();
        policies.host = Some(host);
        policies.hosts = hosts;
        let desired = NodeDesired::default();
        // The milliseconds from now until which the file keeps it: at least those, and a minute more at most.
        let mut holds = |ttl: Duration, new: bool, wanted: Duration| {
            let resolved = Resolved {
                asker,
                name: "a.example".into(),
                addresses: vec![(address, ttl)],
                opened: oneshot::channel().0,
            };
            let before = clock::now().as_millis();
            assert_eq!(names.learn(&resolved, &desired, &policies), new);
            assert!(!names.forget(&BTreeSet::new(), &policies), "it is not over");
            let kept = read(&path).expect("a file").names()["a.example"][&address].as_millis() - before;
            let wanted = i64::try_from(wanted.as_millis()).expect("small");
            assert!((wanted..wanted + 60_000).contains(&kept), "{ttl:?}: {kept} ms, not {wanted}");
        };
        holds(Duration::from_secs(1), true, LEAST_TTL);
        holds(Duration::from_secs(3_600), false, Duration::from_secs(3_600));
        // Who says less the next time takes nothing back.
        holds(Duration::ZERO, false, Duration::from_secs(3_550));
    }

    #[test]
    fn the_file_brings_back_what_it_was_given() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("hosts.json");
        let address: IpAddr = "2001:db8::1".parse().expect("an address");
        let mut names = HostNames::open(path.clone(), LEAST_TTL, vec![], vec![]);
        assert!(names.known().is_empty());
        names.hosts.learn("a.b", address, LEAST_TTL, clock::now());
        names.changed();
        let again = HostNames::open(path.clone(), LEAST_TTL, vec![], vec![]);
        assert_eq!(again.hosts.names(), names.hosts.names());
        assert_eq!(again.known()["a.b"], BTreeSet::from([address]));
        for broken in ["", "{}", "{\"version\": 2, \"names\": {}}"] {
            fs::write(&path, broken).expect("written");
            assert!(HostNames::open(path.clone(), LEAST_TTL, vec![], vec![]).known().is_empty(), "{broken:?}");
        }
    }
}
