//! Somebody who listens to what the programs tell of flows, the way the daemon does: its runtime, its reader of the
//! ring, and a listener as the API has one for `hivemind flows --follow`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use hivemind::dataplane::{
    Listener, Watch,
    bpf::Ring,
    flows::{FlowRecord, Told},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use tokio::runtime::{Builder, Runtime};

use crate::clock::wait_for;

/// Threads of the daemon's runtime.
const THREADS: usize = 2;
/// How long what was told is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A listener at work until it is dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    watch: Watch,
    heard: Arc<Heard>,
    _runtime: Runtime,
}

/// What it heard.
#[derive(Debug, Default)]
struct Heard {
    told: AtomicU64,
    /// Packets of flows that were over: looked at, so that it is not optimised away.
    packets: AtomicU64,
}

/// How much was told, and how much of it got lost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    /// What arrived.
    pub(crate) told: u64,
    /// What found no room, in the kernel or with the listener.
    pub(crate) lost: u64,
}

impl Watcher {
    /// Begins to listen. `cpu`: on this one only.
    pub(crate) fn start(ring: Ring, watch: Watch, cpu: Option<usize>) -> Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(THREADS).enable_all();
        if let Some(cpu) = cpu {
            builder.on_thread_start(move || {
                // Refused it listens from any CPU, which the figures show.
                let _ = bind(cpu);
            });
        }
        let runtime = builder.build().context("cannot start the listener")?;
        let heard = Arc::<Heard>::default();
        let listener = watch.listen().context("cannot listen")?;
        runtime.spawn(ring.run());
        runtime.spawn(listen(listener, Arc::clone(&heard)));
        Ok(Self { watch, heard, _runtime: runtime })
    }

    /// How much there was so far, once `count` more than `since` were told or lost.
    pub(crate) fn until(&self, since: Sum, count: u64) -> Result<Sum> {
        wait_for("the flows to be told", PATIENCE, || {
            let now = self.sum()?;
            Ok((now.told + now.lost >= since.told + since.lost + count).then_some(now))
        })
    }

    /// How much there was so far.
    pub(crate) fn sum(&self) -> Result<Sum> {
        let lost = self.watch.lost().context("cannot read what was lost")?;
        Ok(Sum { told: self.heard.told.load(Ordering::Relaxed), lost })
    }

    /// Fails if flows were over of which no packet was ever counted.
    pub(crate) fn check(&self) -> Result<()> {
        let heard = &self.heard;
        let (told, packets) = (heard.told.load(Ordering::Relaxed), heard.packets.load(Ordering::Relaxed));
        ensure!(told == 0 || packets > 0, "{told} messages told of no packet");
        Ok(())
    }
}

async fn listen(mut listener: Listener, heard: Arc<Heard>) {
    while let Some(told) = listener.next().await {
        match told {
            Ok(Told::Ended(FlowRecord { from, to, .. })) => {
                heard.packets.fetch_add(from.packets + to.packets, Ordering::Relaxed);
                heard.told.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => {
                heard.told.fetch_add(1, Ordering::Relaxed);
            }
            // It is among what the watch says was lost.
            Err(_) => {}
        }
    }
}

fn bind(cpu: usize) -> nix::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)
}
