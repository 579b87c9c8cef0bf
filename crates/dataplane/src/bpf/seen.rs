//! Flows, drops and what the programs tell of them, read from the kernel.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use aya::{
    Ebpf, Pod,
    maps::{Array, Map, MapData, RingBuf},
};
use hivemind_ebpf::{
    abi::{BEGUN, DROPPED, DropKey, Drops, ENDED, Event, Flow, FlowKey, IN, Tuple},
    flow, map,
    packet::{ICMP, ICMPV6, TCP},
    reason::Reason,
};
use tokio::time::{MissedTickBehavior, interval};

use super::{maps::failed, sweep};
use crate::{
    DataplaneError,
    flows::{DropRecord, FlowEnd, FlowRecord, Told},
    watch::{MOST_AT_ONCE, Switch, Watch},
};
use hivemind_core::{lifecycle::clock, model::Timestamp};
use hivemind_policy::Direction;

/// `hm_watch`: how many listen.
const WATCHERS: u32 = 0;
/// `hm_watch`: how much found no room in the ring.
const LOST: u32 = 1;

/// How often the ring is read while somebody listens: what is told waits for no longer, and the ring holds twenty times
/// what a quick node tells meanwhile.
const TURN: Duration = Duration::from_millis(5);

/// What the kernel's monotonic clock shows, in the time of people.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    monotonic_ns: u64,
    wall: Timestamp,
}

impl Clock {
    /// As both clocks stand now.
    pub(super) fn now() -> Self {
        Self { monotonic_ns: sweep::now(), wall: clock::now() }
    }

    fn at(self, ns: u64) -> Timestamp {
        let millis = |ns: u64| i64::try_from(ns / 1_000_000).unwrap_or(i64::MAX);
        Timestamp::from_millis(self.wall.as_millis() + millis(ns) - millis(self.monotonic_ns))
    }
}

/// A row of the flows; `gone`: it is no longer there.
pub(super) fn flow(key: &FlowKey, row: &Flow, gone: bool, clock: Clock) -> FlowRecord {
    let (from, to) = (usize::from(row.origin & 1), usize::from(1 - (row.origin & 1)));
    let end = |side: usize| FlowEnd {
        address: key.addrs[side].into(),
        port: port(key.protocol, key.ports_be, side),
        packets: row.packets[side],
        bytes: row.bytes[side],
    };
    let asked = || SocketAddr::new(row.vip.into(), u16::from_be(row.vip_port_be));
    FlowRecord {
        from: end(from),
        to: end(to),
        protocol: key.protocol,
        asked: (!row.vip.is_none()).then(asked),
        service: row.service,
        rule: row.rule,
        first: clock.at(row.first_ns),
        last: clock.at(row.last_ns),
        answered: flow::is_answered(key.protocol, row.seen),
        closed: gone || key.protocol == TCP && flow::is_closed(row.seen),
    }
}

/// A side's port. Of ICMP the programs have an echo's identifier on both sides, and on the second one the type of any other
/// message, which is no number of two bytes in a packet.
fn port(protocol: u8, ports_be: [u16; 2], side: usize) -> u16 {
    match protocol {
        ICMP | ICMPV6 if ports_be[0] != ports_be[1] => ports_be[side],
        _ => u16::from_be(ports_be[side]),
    }
}

fn ends(tuple: &Tuple) -> Option<(SocketAddr, SocketAddr)> {
    let ports = [tuple.sport_be, tuple.dport_be];
    let at = |addr, side| SocketAddr::new(IpAddr::from(addr), port(tuple.protocol, ports, side));
    (!tuple.src.is_none() || !tuple.dst.is_none()).then(|| (at(tuple.src, 0), at(tuple.dst, 1)))
}

const fn direction(number: u8) -> Direction {
    if number == IN { Direction::In } else { Direction::Out }
}

/// A row of the drops; `None`: its reason is of another version.
pub(super) fn dropped(key: &DropKey, row: &Drops, clock: Clock) -> Option<DropRecord> {
    Some(DropRecord {
        ends: ends(&key.tuple),
        protocol: key.tuple.protocol,
        device: key.device,
        direction: direction(key.direction),
        reason: Reason::from_number(key.reason)?,
        rule: row.rule,
        packets: row.packets,
        bytes: row.bytes,
        first: clock.at(row.first_ns),
        last: clock.at(row.last_ns),
    })
}

fn told(event: &Event, clock: Clock) -> Option<Told> {
    let key = FlowKey { addrs: event.addrs, ports_be: event.ports_be, protocol: event.protocol, pad: [0; 3] };
    let record = |gone| {
        let Event { first_ns, last_ns, packets, bytes, vip, vip_port_be, service, rule, .. } = *event;
        let row = Flow {
            first_ns,
            last_ns,
            packets,
            bytes,
            vip,
            vip_port_be,
            service,
            rule,
            origin: event.side,
            ..Flow::default()
        };
        FlowRecord { answered: event.answered != 0, ..flow(&key, &row, gone, clock) }
    };
    match event.kind {
        BEGUN => Some(Told::Begun(record(false))),
        ENDED => Some(Told::Ended(record(true))),
        DROPPED => {
            let tuple = key.sent_by(0);
            Some(Told::Dropped(DropRecord {
                ends: ends(&tuple),
                protocol: tuple.protocol,
                device: event.device,
                direction: direction(event.direction),
                reason: Reason::from_number(event.reason)?,
                rule: event.rule,
                packets: 1,
                bytes: event.bytes[0],
                first: clock.wall,
                last: clock.wall,
            }))
        }
        _ => None,
    }
}

/// The ring that the programs write to. What is in it is told to those who listen.
pub struct Ring {
    ring: RingBuf<MapData>,
    watch: Watch,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("watch", &self.watch).finish_non_exhaustive()
    }
}

/// Takes the ring and the switch out of the object.
pub(super) fn take(ebpf: &mut Ebpf) -> Result<(Ring, Watch), DataplaneError> {
    let mut take = |name: &'static str| {
        ebpf.take_map(name).ok_or_else(|| DataplaneError::Kernel { what: "a map of the object", why: name.into() })
    };
    let (ring, switch): (Map, Map) = (take(map::EVENTS)?, take(map::WATCH)?);
    let switch = Array::try_from(switch).map_err(|error| failed("use", map::WATCH, &error))?;
    let watch = Watch::new(Box::new(Words(switch)))?;
    let ring = RingBuf::try_from(ring).map_err(|error| failed("use", map::EVENTS, &error))?;
    Ok((Ring { ring, watch: watch.clone() }, watch))
}

struct Words(Array<MapData, u32>);

impl Switch for Words {
    fn set(&mut self, listeners: u32) -> Result<(), DataplaneError> {
        self.0.set(WATCHERS, listeners, 0).map_err(|error| failed("write", map::WATCH, &error))
    }

    fn lost(&self) -> Result<u64, DataplaneError> {
        self.0.get(&LOST, 0).map(Into::into).map_err(|error| failed("read", map::WATCH, &error))
    }
}

impl Ring {
    /// Hands on what the programs tell, within [`TURN`] and without being woken up for it; does nothing while nobody
    /// listens. Runs until it is dropped.
    pub async fn run(mut self) -> Infallible {
        loop {
            self.watch.listened().await;
            let mut turns = interval(TURN);
            turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                turns.tick().await;
                // Asked first: of what is told until then nothing is left for who listens next.
                let watched = self.watch.is_watched();
                self.hand_on();
                if !watched {
                    break;
                }
            }
        }
    }

    fn hand_on(&mut self) {
        let clock = Clock::now();
        loop {
            let mut all = Vec::new();
            while let Some(item) = (all.len() < MOST_AT_ONCE).then(|| self.ring.next()).flatten() {
                all.extend(read::<Event>(&item).and_then(|event| told(&event, clock)));
            }
            let more = all.len() == MOST_AT_ONCE;
            self.watch.tell(all);
            if !more {
                return;
            }
        }
    }
}

/// A value of the ABI; `None` if there are not as many bytes.
pub(super) fn read<T: Pod>(bytes: &[u8]) -> Option<T> {
    // SAFETY: `T` is plain data of any bit pattern, and there are as many bytes.
    (bytes.len() == size_of::<T>()).then(|| unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

#[cfg(test)]
mod tests {
    use hivemind_ebpf::abi::Addr;

    use super::*;

    fn tuple(src: &str, sport: u16, dst: &str, dport: u16) -> Tuple {
        let addr = |text: &str| Addr::from(text.parse::<IpAddr>().expect("an address"));
        let (sport_be, dport_be) = (sport.to_be(), dport.to_be());
        Tuple { src: addr(src), dst: addr(dst), sport_be, dport_be, protocol: 6, pad: [0; 3] }
    }

    const CLOCK: Clock = Clock { monotonic_ns: 10_000_000_000, wall: Timestamp::from_millis(1_000_000) };

    #[test]
    fn a_flow_is_told_from_its_beginner_in_the_time_of_people() {
        for (client, server) in [("10.88.0.9", "10.88.0.2"), ("10.88.0.2", "10.88.0.9")] {
            let mut key = FlowKey::default();
            let origin = key.set(&tuple(client, 40_000, server, 80));
            let mut row = Flow { first_ns: 8_000_000_000, last_ns: 9_500_000_000, ..Flow::default() };
            row.origin = u8::try_from(origin).expect("a side");
            row.packets[origin] = 7;
            row.bytes[1 - origin] = 900;
            (row.vip, row.vip_port_be) = (tuple("10.96.0.1", 0, "::", 0).src, 8080_u16.to_be());
            let record = flow(&key, &row, false, CLOCK);
            assert_eq!((record.from.address.to_string().as_str(), record.from.port), (client, 40_000));
            assert_eq!((record.to.address.to_string().as_str(), record.to.port), (server, 80));
            assert_eq!((record.from.packets, record.to.bytes), (7, 900));
            assert_eq!(record.asked, Some("10.96.0.1:8080".parse().expect("an address")));
            assert_eq!((record.first.as_millis(), record.last.as_millis()), (998_000, 999_500));
            assert!(!record.closed && flow(&key, &row, true, CLOCK).closed);
        }
    }

    #[test]
    fn a_drop_is_told_as_it_was_sent_and_may_have_no_ends() {
        let mut event = Event { kind: DROPPED, reason: Reason::PolicyIn as u8, direction: IN, ..Event::default() };
        let Tuple { src, dst, sport_be, dport_be, .. } = tuple("10.88.0.9", 5, "10.88.0.2", 6);
        (event.addrs, event.ports_be) = ([src, dst], [sport_be, dport_be]);
        let Some(Told::Dropped(record)) = told(&event, CLOCK) else { panic!("a drop") };
        let (from, to) = record.ends.expect("ends");
        assert_eq!((from.to_string(), to.to_string()), ("10.88.0.9:5".into(), "10.88.0.2:6".into()));
        assert_eq!((record.reason, record.direction), (Reason::PolicyIn, Direction::In));
        // The programs put the type of a message that is no echo where a port would be, and an echo's number in both places.
        for (ports_be, port) in [([0, 13], 13), ([7_u16.to_be(); 2], 7)] {
            let event = Event { protocol: ICMP, ports_be, ..event };
            let Some(Told::Dropped(record)) = told(&event, CLOCK) else { panic!("a drop") };
            assert_eq!(record.ends.expect("ends").1.port(), port);
        }
        event.addrs = Default::default();
        assert!(matches!(told(&event, CLOCK), Some(Told::Dropped(DropRecord { ends: None, .. }))));
        assert_eq!(told(&Event { kind: 9, ..event }, CLOCK), None, "of another version");
        assert_eq!(read::<Event>(&[0; 8]), None);
    }
}
