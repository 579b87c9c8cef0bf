//! Who captures packets of which instance. The programs look for nothing while nobody does.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use hivemind_ebpf::{abi, reason::Reason};
use tokio::sync::{mpsc, watch};

use super::DataplaneError;
use hivemind_policy::Direction;

/// Packets that a reader may be behind by. What comes then is lost to it, and counted.
const BEHIND: usize = 1024;

/// Which packets of an instance are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureFilter {
    /// Interface index of its host device.
    pub device: u32,
    /// How many bytes of a packet are kept at most, 1 to 65,536.
    pub snaplen: u32,
    /// Only what is dropped.
    pub dropped: bool,
    /// Only with this address at one end, the service's or the backend's.
    pub host: Option<IpAddr>,
    /// Only TCP, UDP and SCTP with this port at one end.
    pub port: Option<u16>,
    /// Only this protocol, by its number; ICMP of both families is 1.
    pub protocol: Option<u8>,
}

/// A packet that was captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedPacket {
    /// When, in nanoseconds since the Unix epoch. In step within a capture, also when the wall clock is set.
    pub at_ns: u64,
    /// Out of the instance, or into it.
    pub direction: Direction,
    /// Why it was dropped; none: it passes.
    pub reason: Option<Reason>,
    /// The number of the rule that dropped it; 0: none.
    pub rule: u32,
    /// Whether the data plane has made it, to answer one that it dropped.
    pub answer: bool,
    /// Bytes of the packet, with the Ethernet header. One that the kernel will still cut (GSO) is one.
    pub length: u32,
    /// The first of them.
    pub bytes: Bytes,
}

/// A packet as it comes from the kernel, for some captures.
pub(super) struct Record {
    /// A bit for each capture.
    pub(super) captures: u32,
    /// When, in nanoseconds of the monotonic clock.
    pub(super) time_ns: u64,
    /// The device of the instance.
    pub(super) device: u32,
    /// The packet; its time is not set yet.
    pub(super) packet: CapturedPacket,
}

/// Where the programs look what is captured, and the clocks.
pub(super) trait Slots: Send {
    /// Makes the capture of this number what is asked for, or none.
    fn set(&mut self, number: u32, filter: Option<&CaptureFilter>) -> Result<(), DataplaneError>;
    /// Says whether there is any.
    fn switch(&mut self, on: bool) -> Result<(), DataplaneError>;
    /// How many packets found no room since the programs were loaded.
    fn lost(&self) -> Result<u64, DataplaneError>;
    /// The monotonic clock of the programs and the time since the Unix epoch, in nanoseconds.
    fn clocks(&self) -> (u64, u64);
}

/// Where captures begin. Cheap to clone. The default one has no programs: nothing comes.
#[derive(Clone, Default)]
pub struct Captures {
    shared: Arc<Mutex<Shared>>,
    /// Whether anybody captures.
    wanted: watch::Sender<bool>,
}

#[derive(Default)]
struct Shared {
    slots: Option<Box<dyn Slots>>,
    running: [Option<Running>; abi::CAPTURES as usize],
}

struct Running {
    packets: mpsc::Sender<CapturedPacket>,
    missed: Arc<AtomicU64>,
    device: u32,
    snaplen: usize,
    since_ns: u64,
    epoch_ns: u64,
}

impl std::fmt::Debug for Captures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let running = self.lock().running.iter().flatten().count();
        f.debug_struct("Captures").field("running", &running).finish_non_exhaustive()
    }
}

impl Captures {
    /// Nothing is captured yet.
    pub(super) fn new(slots: Box<dyn Slots>) -> Self {
        let shared = Shared { slots: Some(slots), ..Shared::default() };
        Self { shared: Arc::new(Mutex::new(shared)), wanted: watch::Sender::default() }
    }

    /// Whether anybody captures, as it changes.
    pub(super) fn wanted(&self) -> watch::Receiver<bool> {
        self.wanted.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to capture. What passes or is dropped after this returns is caught, until the capture is dropped.
    ///
    /// # Errors
    /// [`DataplaneError::Captures`] if too many run; another if the programs cannot be told.
    pub fn start(&self, filter: CaptureFilter) -> Result<Capturing, DataplaneError> {
        let mut shared = self.lock();
        let Shared { slots, running } = &mut *shared;
        let free = running.iter().position(Option::is_none);
        let number = free.ok_or(DataplaneError::Captures { limit: abi::CAPTURES })?;
        let (packets, received) = mpsc::channel(BEHIND);
        let missed = Arc::new(AtomicU64::new(0));
        let (since_ns, epoch_ns) = slots.as_ref().map_or((0, 0), |slots| slots.clocks());
        let number_abi = u32::try_from(number).unwrap_or_default();
        let mut lost = 0;
        if let Some(slots) = slots {
            lost = slots.lost()?;
            slots.set(number_abi, Some(&filter))?;
            if let Err(error) = slots.switch(true) {
                let _ = slots.set(number_abi, None);
                return Err(error);
            }
        }
        let CaptureFilter { device, snaplen, .. } = filter;
        let snaplen = usize::try_from(snaplen).unwrap_or(usize::MAX);
        running[number] = Some(Running { packets, missed: Arc::clone(&missed), device, snaplen, since_ns, epoch_ns });
        self.wanted.send_replace(true);
        drop(shared);
        Ok(Capturing { packets: received, missed, lost_before: lost, number, captures: self.clone() })
    }

    /// Hands a packet to the captures that asked for it.
    pub(super) fn tell(&self, record: &Record) {
        let shared = self.lock();
        let all = shared.running.iter().enumerate().filter_map(|(number, running)| Some((number, running.as_ref()?)));
        for (number, running) in all {
            // What lay in the ring before is of whoever had this number before.
            let is_its = record.captures >> number & 1 != 0
                && record.device == running.device
                && record.time_ns >= running.since_ns;
            if !is_its {
                continue;
            }
            let kept = record.packet.bytes.len().min(running.snaplen);
            let packet = CapturedPacket {
                at_ns: running.epoch_ns + (record.time_ns - running.since_ns),
                bytes: record.packet.bytes.slice(..kept),
                ..record.packet.clone()
            };
            if running.packets.try_send(packet).is_err() {
                running.missed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// A capture that runs.
#[derive(Debug)]
pub struct Capturing {
    packets: mpsc::Receiver<CapturedPacket>,
    missed: Arc<AtomicU64>,
    lost_before: u64,
    number: usize,
    captures: Captures,
}

impl Capturing {
    /// The next packet. Safe to cancel.
    pub async fn next(&mut self) -> Option<CapturedPacket> {
        self.packets.recv().await
    }

    /// The same, if it is there already.
    pub fn try_next(&mut self) -> Option<CapturedPacket> {
        self.packets.try_recv().ok()
    }

    /// How many packets are lost since it began: those that this reader was too slow for, and those of any capture that
    /// found no room in the kernel.
    ///
    /// # Errors
    /// If the kernel's count cannot be read.
    pub fn lost(&self) -> Result<u64, DataplaneError> {
        let kernel = self.captures.lock().slots.as_ref().map_or(Ok(0), |slots| slots.lost())?;
        Ok(kernel.saturating_sub(self.lost_before) + self.missed.load(Ordering::Relaxed))
    }
}

impl Drop for Capturing {
    fn drop(&mut self) {
        let mut shared = self.captures.lock();
        let Shared { slots, running } = &mut *shared;
        running[self.number] = None;
        let any = running.iter().any(Option::is_some);
        self.captures.wanted.send_replace(any);
        let number = u32::try_from(self.number).unwrap_or_default();
        let Some(slots) = slots else { return };
        if let Err(error) = slots.set(number, None).and_then(|()| if any { Ok(()) } else { slots.switch(false) }) {
            tracing::error!(%error, "the programs go on capturing although nobody asks for it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Remembers(Arc<Mutex<(Vec<u32>, Vec<bool>)>>);

    impl Slots for Remembers {
        fn set(&mut self, number: u32, filter: Option<&CaptureFilter>) -> Result<(), DataplaneError> {
            let device = filter.map_or(0, |filter| filter.device);
            self.0.lock().expect("not poisoned").0.push(number * 100 + device);
            Ok(())
        }
        fn switch(&mut self, on: bool) -> Result<(), DataplaneError> {
            self.0.lock().expect("not poisoned").1.push(on);
            Ok(())
        }
        fn lost(&self) -> Result<u64, DataplaneError> {
            Ok(7)
        }
        fn clocks(&self) -> (u64, u64) {
            (1_000, 5_000_000)
        }
    }

    fn of(device: u32, snaplen: u32) -> CaptureFilter {
        CaptureFilter { device, snaplen, dropped: false, host: None, port: None, protocol: None }
    }

    fn record(captures: u32, device: u32, time_ns: u64) -> Record {
        let packet = CapturedPacket {
            at_ns: 0,
            direction: Direction::In,
            reason: None,
            rule: 0,
            answer: false,
            length: 60,
            bytes: Bytes::from_static(&[1; 60]),
        };
        Record { captures, time_ns, device, packet }
    }

    #[tokio::test]
    async fn each_gets_what_it_asked_for_since_it_began_and_no_more() {
        let slots = Remembers::default();
        let captures = Captures::new(Box::new(slots.clone()));
        let mut first = captures.start(of(3, 20)).expect("it starts");
        let mut second = captures.start(of(4, 100)).expect("it starts");
        captures.tell(&record(0b11, 3, 999));
        captures.tell(&record(0b11, 3, 1_500));
        let packet = first.next().await.expect("a packet");
        assert_eq!((packet.at_ns, packet.bytes.len(), packet.length), (5_000_500, 20, 60));
        captures.tell(&record(0b10, 4, 1_600));
        assert_eq!(second.try_next().map(|packet| packet.bytes.len()), Some(60));
        assert_eq!((first.try_next(), second.try_next()), (None, None));
        drop(first);
        assert_eq!(slots.0.lock().expect("not poisoned").1, [true, true], "the other one goes on");
        drop(second);
        assert_eq!(*slots.0.lock().expect("not poisoned"), (vec![3, 104, 0, 100], vec![true, true, false]));
    }

    #[tokio::test]
    async fn there_are_as_many_as_the_programs_look_for_and_what_is_missed_is_counted() {
        let captures = Captures::new(Box::new(Remembers::default()));
        let mut all: Vec<_> = (0..8).map(|_| captures.start(of(3, 20)).expect("it starts")).collect();
        let refused = captures.start(of(3, 20)).expect_err("no more");
        assert!(matches!(refused, DataplaneError::Captures { limit: 8 }), "{refused}");
        for _ in 0..BEHIND + 5 {
            captures.tell(&record(1, 3, 2_000));
        }
        assert_eq!(all[0].lost().expect("a count"), 5);
        assert_eq!(all[1].lost().expect("a count"), 0);
        all.pop();
        assert!(captures.start(of(3, 20)).is_ok(), "its place is free");
    }
}
