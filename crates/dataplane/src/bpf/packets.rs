//! Captured packets, read from the kernel, and where the programs look what is captured.

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, PerCpuArray, RingBuf},
};
use bytes::Bytes;
use hivemind_ebpf::{
    abi::{ANSWER, Addr, Capture, Captured, IN, ONLY_DROPPED},
    map,
    reason::Reason,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{maps::failed, seen::read};
use crate::{
    DataplaneError,
    capture::{CaptureFilter, CapturedPacket, Captures, Record, Slots},
};
use hivemind_core::lifecycle::clock;
use hivemind_policy::Direction;

/// The ring of captured packets. What is in it is told to those who capture; while nobody does it takes no memory of the
/// daemon.
pub struct PacketRing {
    ring: Map,
    captures: Captures,
}

impl std::fmt::Debug for PacketRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketRing").field("captures", &self.captures).finish_non_exhaustive()
    }
}

struct Kernel {
    slots: Array<MapData, Capture>,
    switch: Array<MapData, u32>,
    lost: PerCpuArray<MapData, u64>,
}

/// Takes what belongs to captures out of the object.
pub(super) fn take(ebpf: &mut Ebpf) -> Result<(PacketRing, Captures), DataplaneError> {
    fn take<T: TryFrom<Map, Error = aya::maps::MapError>>(
        ebpf: &mut Ebpf,
        name: &'static str,
    ) -> Result<T, DataplaneError> {
        let map = ebpf.take_map(name);
        let map = map.ok_or_else(|| DataplaneError::Kernel { what: "a map of the object", why: name.into() })?;
        T::try_from(map).map_err(|error| failed("use", name, &error))
    }
    let kernel = Kernel {
        slots: take(ebpf, map::CAPTURES)?,
        switch: take(ebpf, map::CAPTURING)?,
        lost: take(ebpf, map::UNCAPTURED)?,
    };
    let captures = Captures::new(Box::new(kernel));
    let ring = ebpf.take_map(map::PACKETS);
    let ring = ring.ok_or_else(|| DataplaneError::Kernel { what: "a map of the object", why: map::PACKETS.into() })?;
    Ok((PacketRing { ring, captures: captures.clone() }, captures))
}

impl Slots for Kernel {
    fn set(&mut self, number: u32, filter: Option<&CaptureFilter>) -> Result<(), DataplaneError> {
        let row = filter.map_or(Capture::default(), |filter| Capture {
            host: filter.host.map_or(Addr::default(), Addr::from),
            device: filter.device,
            snaplen: filter.snaplen,
            port_be: filter.port.unwrap_or(0).to_be(),
            protocol: filter.protocol.unwrap_or(0),
            flags: if filter.dropped { ONLY_DROPPED } else { 0 },
        });
        self.slots.set(number, row, 0).map_err(|error| failed("write", map::CAPTURES, &error))
    }

    fn switch(&mut self, on: bool) -> Result<(), DataplaneError> {
        self.switch.set(0, u32::from(on), 0).map_err(|error| failed("write", map::CAPTURING, &error))
    }

    fn lost(&self) -> Result<u64, DataplaneError> {
        let lost = self.lost.get(&0, 0).map_err(|error| failed("read", map::UNCAPTURED, &error))?;
        Ok(lost.iter().sum())
    }

    fn clocks(&self) -> (u64, u64) {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes one `timespec` to a valid pointer.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
        let part = |n: i64| u64::try_from(n).unwrap_or(0);
        let monotonic = part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec);
        (monotonic, u64::try_from(clock::since_epoch().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// A record of the ring; `None`: it is of another version.
fn record(bytes: &[u8]) -> Option<Record> {
    let (head, rest) = bytes.split_at_checked(size_of::<Captured>())?;
    let head: Captured = read(head)?;
    let reason = match head.reason {
        0 => None,
        number => Some(Reason::from_number(number)?),
    };
    let kept = rest.get(..usize::try_from(head.kept).ok()?)?;
    let packet = CapturedPacket {
        at_ns: 0,
        direction: if head.direction == IN { Direction::In } else { Direction::Out },
        reason,
        rule: head.rule,
        answer: head.flags & ANSWER != 0,
        length: head.length,
        bytes: Bytes::copy_from_slice(kept),
    };
    Some(Record { captures: head.captures, time_ns: head.time_ns, device: head.device, packet })
}

impl PacketRing {
    /// Hands on captured packets, as they come. Ends only with an error.
    pub async fn run(self) -> DataplaneError {
        let mut wanted = self.captures.wanted();
        loop {
            // The sender is in what the receiver was taken of, which lives on.
            let _ = wanted.wait_for(|wanted| *wanted).await;
            let ring = match RingBuf::try_from(&self.ring) {
                Ok(ring) => ring,
                Err(error) => return failed("map into memory", map::PACKETS, &error),
            };
            let over = async {
                let _ = wanted.wait_for(|wanted| !*wanted).await;
            };
            tokio::select! {
                () = over => {}
                ended = hand_on(ring, &self.captures) => match ended {
                    Ok(never) => match never {},
                    Err(source) => {
                        return DataplaneError::Map { action: "read", map: map::PACKETS, why: source.to_string() };
                    }
                },
            }
        }
    }
}

async fn hand_on(ring: RingBuf<&MapData>, captures: &Captures) -> std::io::Result<std::convert::Infallible> {
    // SAFETY: the ring has one descriptor, its map's, as long as it lives.
    let mut ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
    loop {
        let mut ready = ring.readable_mut().await?;
        while let Some(item) = ready.get_inner_mut().next() {
            if let Some(record) = record(&item) {
                captures.tell(&record);
            }
        }
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_with_its_bytes_only() {
        let head = Captured { time_ns: 5, length: 1_500, kept: 3, device: 9, reason: 22, ..Captured::default() };
        // SAFETY: plain data without padding.
        let head: [u8; 32] = unsafe { std::mem::transmute(head) };
        let mut bytes = head.to_vec();
        bytes.extend([1, 2, 3, 4, 5]);
        let found = record(&bytes).expect("a record");
        assert_eq!((found.device, found.time_ns, found.packet.length), (9, 5, 1_500));
        assert_eq!((found.packet.reason, &found.packet.bytes[..]), (Some(Reason::PolicyIn), &[1, 2, 3][..]));
        assert!(record(&bytes[..34]).is_none() && record(&bytes[..20]).is_none(), "cut off");
    }
}
