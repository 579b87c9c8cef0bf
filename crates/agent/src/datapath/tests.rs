use std::sync::Mutex;

use super::*;
use hivemind_core::{
    model::{Addresses, AppKey, Instance, Peer, Policy, PolicyKey, Scope, Timestamp},
    spec::v1::{AppSpec, InstancePeer, PolicyPeer, PolicyRule, PolicySpec, Selector},
};
use hivemind_dataplane::SyncReport;
use hivemind_dataplane::{
    SweepReport,
    flows::{DropRecord, FlowRecord},
    tables::{Part, Tables},
};
use hivemind_net::Mac;

/// Remembers what it was told to hold; may refuse the first write.
#[derive(Clone, Debug, Default)]
struct Recorder {
    written: Arc<Mutex<Vec<Tables>>>,
    refuses: bool,
}

impl Dataplane for Recorder {
    fn attach(&mut self, _: &InstanceId, _: &HostLink) -> Result<(), DataplaneError> {
        Ok(())
    }
    fn detach(&mut self, _: &InstanceId) -> Result<(), DataplaneError> {
        Ok(())
    }
    fn attached(&mut self) -> Result<Vec<InstanceId>, DataplaneError> {
        Ok(Vec::new())
    }
    fn attach_uplinks(&mut self, _: &[String]) -> Result<(), DataplaneError> {
        Ok(())
    }
    fn sync(&mut self, desired: &Tables) -> Result<SyncReport, DataplaneError> {
        self.written.lock().expect("not poisoned").push(desired.clone());
        if std::mem::take(&mut self.refuses) {
            return Err(DataplaneError::Full { map: "services", refused: 1, capacity: 0 });
        }
        Ok(SyncReport::default())
    }
    fn flows(&mut self) -> Result<Vec<FlowRecord>, DataplaneError> {
        Ok(Vec::new())
    }
    fn drops(&mut self) -> Result<Vec<DropRecord>, DataplaneError> {
        Ok(Vec::new())
    }
    fn watch(&self) -> Watch {
        Watch::default()
    }
    fn captures(&self) -> Captures {
        Captures::default()
    }
    fn measure(&mut self) -> Result<Measuring, DataplaneError> {
        Ok(Measuring::default())
    }

    fn runs(&mut self) -> Result<Vec<ProgramRuns>, DataplaneError> {
        Ok(Vec::new())
    }

    fn check(&mut self) -> Result<Vec<Difference>, DataplaneError> {
        Ok(Vec::new())
    }
    fn written(&self) -> Tables {
        self.written.lock().expect("not poisoned").last().cloned().unwrap_or_default()
    }
    fn held(&mut self, _: &[Part]) -> Result<Tables, DataplaneError> {
        Ok(Tables::default())
    }
    fn round_trips(&mut self) -> Result<Vec<RoundTrips>, DataplaneError> {
        Ok(Vec::new())
    }
    fn rule_hits(&mut self) -> Result<BTreeMap<u32, u64>, DataplaneError> {
        Ok(BTreeMap::new())
    }
    fn uses(&mut self) -> Result<BTreeMap<LimitOwner, Usage>, DataplaneError> {
        Ok(BTreeMap::new())
    }
    fn counters(&mut self) -> Result<Vec<Counter>, DataplaneError> {
        Ok(Vec::new())
    }
    fn sweep(&mut self) -> Result<SweepReport, DataplaneError> {
        Ok(SweepReport::default())
    }
    fn in_use(&mut self, _: &BTreeSet<IpAddr>) -> Result<BTreeSet<IpAddr>, DataplaneError> {
        Ok(BTreeSet::new())
    }
    fn info(&self) -> DataplaneInfo {
        DataplaneInfo::default()
    }
    fn unload(&mut self) -> Result<(), DataplaneError> {
        Ok(())
    }
}

fn link(ifindex: u32) -> HostLink {
    let (host_mac, instance_mac) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
    HostLink { netns: std::path::PathBuf::new(), name: "hm".into(), ifindex, host_mac, instance_mac }
}

/// What does not come in time is a fault, and no reason to wait for ever.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("in time")
}

/// Two instances of this node.
fn desired(node: &NodeName) -> NodeDesired {
    let mut desired = NodeDesired { revision: 7, ..NodeDesired::default() };
    for n in [1, 2] {
        let id = InstanceId::from_bits(n);
        let addresses = Addresses { v4: Some([10, 88, 0, 1 + n as u8].into()), v6: None };
        let (scope, labels) = (Scope::default(), BTreeMap::new());
        let peer = Peer { node: node.clone(), addresses, scope, labels };
        desired.peers.insert(id.clone(), Arc::new(peer));
        let instance = Instance {
            id: id.clone(),
            app: AppKey::new(Scope::default(), "web".parse().expect("a name")),
            generation: 1,
            spec: AppSpec::new("x"),
            node: node.clone(),
            addresses,
            desired: hivemind_core::model::Desired::Run,
            contents: hivemind_core::model::ContentVersions::default(),
            created_at: Timestamp::from_millis(0),
        };
        desired.instances.insert(id, Arc::new(instance));
    }
    desired
}

#[tokio::test]
async fn a_refused_write_is_said_and_repeated() {
    let node: NodeName = "here".parse().expect("a name");
    let recorder = Recorder { refuses: true, ..Recorder::default() };
    let (datapath, thread) =
        start(Box::new(recorder.clone()), node.clone(), InPlace::default(), policy::Failsafe::default())
            .expect("a thread");
    let mut state = datapath.state();
    datapath.desired(Arc::new(desired(&node)));
    soon(state.wait_for(|state| state.fault.is_some())).await.expect("the owner lives");
    soon(datapath.shows(7)).await;
    assert_eq!(state.borrow().fault, None);
    thread.stop();
    assert_eq!(recorder.written.lock().expect("not poisoned").len(), 2);
}

#[tokio::test]
async fn the_first_write_closes_nothing_that_was_open() {
    let node: NodeName = "here".parse().expect("a name");
    let recorder = Recorder::default();
    let address = IpAddr::from([192, 0, 2, 1]);
    let links = BTreeMap::from([(InstanceId::from_bits(1), link(8)), (InstanceId::from_bits(2), link(9))]);
    let in_place = InPlace { links, addresses: vec![address.into()], ..InPlace::default() };
    let (datapath, thread) =
        start(Box::new(recorder.clone()), node.clone(), in_place, policy::Failsafe::default()).expect("a thread");
    datapath.desired(Arc::new(desired(&node)));
    soon(datapath.shows(7)).await;
    // The workers come one after the other, and the first is made anew.
    soon(datapath.attach(InstanceId::from_bits(1), link(12))).await.expect("attached");
    soon(datapath.attach(InstanceId::from_bits(2), link(9))).await.expect("attached");
    soon(datapath.detach(InstanceId::from_bits(2))).await.expect("detached");
    thread.stop();
    let written = recorder.written.lock().expect("not poisoned").clone();
    let open: Vec<Vec<u32>> = written.iter().map(|tables| tables.endpoints.keys().copied().collect()).collect();
    assert_eq!(open, [vec![8, 9], vec![9, 12], vec![9, 12], vec![12]]);
    assert!(written.iter().all(|tables| tables.node_addresses.contains(&address)));
}

#[tokio::test]
async fn a_name_is_open_when_its_answer_goes_out_and_late_ones_are_counted() {
    let node: NodeName = "here".parse().expect("a name");
    let recorder = Recorder::default();
    let (datapath, thread) =
        start(Box::new(recorder.clone()), node.clone(), InPlace::default(), policy::Failsafe::default())
            .expect("a thread");
    let address = IpAddr::from([203, 0, 113, 1]);
    let tell = |asker: u8, name: &str| {
        let (opened, open) = oneshot::channel();
        let (asker, addresses) = (IpAddr::from([10, 88, 0, asker]), vec![(address, Duration::from_secs(60))]);
        datapath.resolved(Resolved { asker, name: name.into(), addresses, opened });
        open
    };
    // Before the first policies are known, answers wait for them.
    let (early, given_up) = (tell(2, "a.example"), tell(2, "a.example"));
    drop(given_up);
    let mut desired = desired(&node);
    let egress = vec![PolicyRule { peers: vec![PolicyPeer::Dns("a.example".into())], ports: vec![] }];
    let spec =
        PolicySpec { instances: Selector::default(), ingress: None, egress: Some(egress), ..PolicySpec::default() };
    let key = PolicyKey::new(Scope::default(), "out".parse().expect("a name"));
    let policy = Policy { key: key.clone(), spec, created_at: Timestamp::from_millis(0) };
    desired.policies.insert(key, Arc::new(policy));
    datapath.desired(Arc::new(desired));
    soon(early).await.expect("opened");
    let blocks = || recorder.written.lock().expect("not poisoned").last().map(|tables| tables.blocks.clone());
    let open: Vec<IpAddr> = blocks().expect("a write").keys().map(ipnet::IpNet::addr).collect();
    assert_eq!(open, [address]);
    let mut state = datapath.state();
    let report = HostsReport { addresses: 1, refused: 0, late: 1 };
    soon(state.wait_for(|state| state.hosts == report)).await.expect("the owner lives");
    // A name that no policy has, who is no instance of the node, and a host without policies wait for nothing and open nothing.
    soon(tell(2, "b.example")).await.expect("at once");
    soon(tell(77, "a.example")).await.expect("at once");
    assert_eq!(datapath.known_names().await.expect("known").len(), 1);
    thread.stop();
}

/// A policy that lets in to all instances from all.
fn lets_in(desired: &mut NodeDesired, called: &str) {
    let ingress = vec![PolicyRule { peers: vec![PolicyPeer::Instances(InstancePeer::default())], ports: vec![] }];
    let spec = PolicySpec { ingress: Some(ingress), ..PolicySpec::default() };
    let key = PolicyKey::new(Scope::default(), called.parse().expect("a name"));
    let policy = Policy { key: key.clone(), spec, created_at: Timestamp::from_millis(0) };
    desired.policies.insert(key, Arc::new(policy));
    desired.revision += 1;
}

#[tokio::test]
async fn numbers_stay_over_changes_and_over_a_restart() {
    let node: NodeName = "here".parse().expect("a name");
    let recorder = Recorder::default();
    let links = BTreeMap::from([(InstanceId::from_bits(1), link(8)), (InstanceId::from_bits(2), link(9))]);
    let open = || {
        let in_place = InPlace { links: links.clone(), ..InPlace::default() };
        start(Box::new(recorder.clone()), node.clone(), in_place, policy::Failsafe::default()).expect("a thread")
    };
    let mut desired = desired(&node);
    let (datapath, thread) = open();
    for called in ["one", "two"] {
        lets_in(&mut desired, called);
        datapath.desired(Arc::new(desired.clone()));
        soon(datapath.shows(desired.revision)).await;
    }
    thread.stop();
    // What the next daemon is told first differs from what the last one has written.
    lets_in(&mut desired, "three");
    let (datapath, thread) = open();
    datapath.desired(Arc::new(desired.clone()));
    soon(datapath.shows(desired.revision)).await;
    thread.stop();
    let written = recorder.written.lock().expect("not poisoned").clone();
    let set = |tables: &Tables| tables.endpoints[&8].policy.sets[policy::OWN];
    let class = |tables: &Tables| tables.endpoints[&8].class;
    assert_eq!(written.len(), 3);
    assert!(written.iter().all(|tables| (set(tables), class(tables)) == (set(&written[0]), class(&written[0]))));
    // By itself the last one would have another number.
    let fresh = policy::compile(&desired, &node);
    assert_ne!(fresh.endpoints[&InstanceId::from_bits(1)].sets[policy::OWN], set(&written[0]));
}
