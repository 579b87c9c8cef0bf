//! A data plane without a kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::{journal::Journal, runtime::Fault};
use hivemind_core::model::InstanceId;
use hivemind_dataplane::{
    Captures, Counter, Dataplane, DataplaneError, DataplaneInfo, Measuring, ProgramRuns, SweepReport, SyncReport,
    Watch,
    drift::Difference,
    flows::{DropRecord, FlowRecord},
    round_trips::RoundTrips,
    tables::{LimitOwner, Part, Tables, Usage},
};
use hivemind_net::HostLink;

/// Keeps programs and rows in memory, as if they were pinned. Clones share them.
#[derive(Clone, Debug)]
pub struct FakeDataplane {
    shared: Arc<Shared>,
    journal: Journal,
}

#[derive(Debug, Default)]
struct Shared {
    pinned: Mutex<Pinned>,
    moved: Condvar,
}

/// What is pinned.
#[derive(Clone, Debug, Default)]
pub struct Pinned {
    /// The instances whose devices have the programs.
    pub attached: BTreeSet<InstanceId>,
    /// The rows.
    pub tables: Tables,
    /// Nothing is written while this is set.
    stuck: bool,
}

impl FakeDataplane {
    /// Nothing pinned; calls go into `journal`.
    pub fn new(journal: Journal) -> Self {
        Self { shared: Arc::default(), journal }
    }

    /// The same pins, as the next life of the daemon finds them.
    pub fn in_life(&self, journal: Journal) -> Self {
        Self { shared: Arc::clone(&self.shared), journal }
    }

    /// What is pinned now.
    pub fn pinned(&self) -> Pinned {
        self.lock().clone()
    }

    /// From now on every write of the maps waits for [`FakeDataplane::go_on`].
    pub fn stick(&self) {
        self.lock().stuck = true;
    }

    /// Ends [`FakeDataplane::stick`].
    pub fn go_on(&self) {
        self.lock().stuck = false;
        self.shared.moved.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Pinned> {
        self.shared.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass<T>(
        &self,
        what: &'static str,
        links: Vec<u32>,
        call: impl FnOnce(&mut Pinned) -> T,
    ) -> Result<T, DataplaneError> {
        let refused = || DataplaneError::Map { action: what, map: "fake", why: "a fault of the test".into() };
        let mut pinned = self.lock();
        match self.journal.pass(what, links) {
            Fault::None => Ok(call(&mut pinned)),
            Fault::After => {
                call(&mut pinned);
                Err(refused())
            }
            // The thread of a life that is over asks on until it is stopped, but does nothing any more.
            Fault::Before | Fault::Never => Err(refused()),
        }
    }
}

impl Dataplane for FakeDataplane {
    fn attach(&mut self, id: &InstanceId, link: &HostLink) -> Result<(), DataplaneError> {
        self.pass("dataplane.attach", vec![link.ifindex], |pinned| {
            pinned.attached.insert(id.clone());
        })
    }

    fn detach(&mut self, id: &InstanceId) -> Result<(), DataplaneError> {
        self.pass("dataplane.detach", Vec::new(), |pinned| {
            pinned.attached.remove(id);
        })
    }

    fn attached(&mut self) -> Result<Vec<InstanceId>, DataplaneError> {
        Ok(self.lock().attached.iter().cloned().collect())
    }

    fn attach_uplinks(&mut self, _: &[String]) -> Result<(), DataplaneError> {
        self.pass("dataplane.attach_uplinks", Vec::new(), |_| ())
    }

    fn sync(&mut self, desired: &Tables) -> Result<SyncReport, DataplaneError> {
        let free = self.shared.moved.wait_while(self.lock(), |pinned| pinned.stuck);
        drop(free);
        self.pass("dataplane.sync", desired.endpoints.keys().copied().collect(), |pinned| {
            pinned.tables = desired.clone();
            SyncReport::default()
        })
    }

    fn uses(&mut self) -> Result<BTreeMap<LimitOwner, Usage>, DataplaneError> {
        Ok(BTreeMap::new())
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

    fn round_trips(&mut self) -> Result<Vec<RoundTrips>, DataplaneError> {
        Ok(Vec::new())
    }

    fn rule_hits(&mut self) -> Result<BTreeMap<u32, u64>, DataplaneError> {
        Ok(BTreeMap::new())
    }

    fn counters(&mut self) -> Result<Vec<Counter>, DataplaneError> {
        Ok(Vec::new())
    }

    fn sweep(&mut self) -> Result<SweepReport, DataplaneError> {
        Ok(SweepReport::default())
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
        self.lock().tables.clone()
    }

    fn held(&mut self, _: &[Part]) -> Result<Tables, DataplaneError> {
        Ok(self.lock().tables.clone())
    }

    fn in_use(&mut self, _: &BTreeSet<IpAddr>) -> Result<BTreeSet<IpAddr>, DataplaneError> {
        Ok(BTreeSet::new())
    }

    fn info(&self) -> DataplaneInfo {
        DataplaneInfo::default()
    }

    fn unload(&mut self) -> Result<(), DataplaneError> {
        self.pass("dataplane.unload", Vec::new(), |pinned| *pinned = Pinned::default())
    }
}
