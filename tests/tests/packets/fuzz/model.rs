//! What should become of a frame, by `docs/dataplane.md`, `docs/policies.md` and ADRs 2, 7 and 9: a second opinion, written
//! without the programs. Of more reasons for a drop the first in the order of this file counts: what cannot be read,
//! who sends, to whom, about what, to which service, and whether policies let it pass.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv6Addr},
};

use hivemind_ebpf::{program, reason::Reason};

use super::{
    parse::{self, End, Packet, Part, be16, is_reply, question},
    place::{Device, Place, place},
    world::{Behind, World},
};
use crate::{
    bench::{DROP, PASS, REDIRECT},
    frame::{SCTP, TCP, UDP},
};

/// What is written to a packet on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    Source(End),
    Destination(End),
    /// An error is shown as being about what was asked for.
    Quoted,
}

/// What may become of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Pass(Change),
    Redirect(Change),
    Drop(Reason),
}

impl Fate {
    pub(crate) fn verdict(self) -> i32 {
        match self {
            Self::Pass(_) => PASS,
            Self::Redirect(_) => REDIRECT,
            Self::Drop(_) => DROP,
        }
    }
}

/// A flow, by protocol and its two ends.
type Key = (u8, End, End);

fn key(protocol: u8, a: End, b: End) -> Key {
    (protocol, a.min(b), a.max(b))
}

#[derive(Clone, Debug)]
struct Flow {
    origin: End,
    /// What the origin asked for, if that is another than the other end.
    asked: Option<End>,
    /// Who has sent something, who a FIN, who a reset: the origin, the other end.
    sent: [bool; 2],
    finished: [bool; 2],
    reset: [bool; 2],
    opened: bool,
}

impl Flow {
    fn is_over(&self, protocol: u8) -> bool {
        protocol == TCP && (self.reset != [false; 2] || self.finished == [true; 2])
    }
}

/// What there is to remember if the frame goes on.
#[derive(Clone, Debug)]
struct Step {
    packet: Packet,
    from: End,
    to: End,
    asked: Option<End>,
    /// Not a part of the flow that is there, but the beginning of another.
    begins: bool,
}

/// What the model says: what may become of the frame, and what is to be remembered then.
#[derive(Debug)]
pub(crate) struct Opinion {
    pub(crate) fates: Vec<Fate>,
    step: Option<Step>,
}

impl From<Reason> for Opinion {
    fn from(reason: Reason) -> Self {
        Self { fates: vec![Fate::Drop(reason)], step: None }
    }
}

impl Opinion {
    fn one(fate: Fate) -> Self {
        Self { fates: vec![fate], step: None }
    }
}

/// The model and what it remembers.
pub(crate) struct Model {
    pub(crate) world: World,
    flows: HashMap<Key, Flow>,
    /// The backends of what was asked for: client, address asked for, protocol.
    backends: HashMap<(End, End, u8), End>,
    /// Ports by where it is seen, addresses, identification and protocol of what is in fragments.
    fragments: HashMap<Place, (u16, u16)>,
    /// Every flow that was ever let through, and its beginnings: nothing but it and its answers may pass.
    pub(super) begun: BTreeSet<(u8, End, End)>,
}

type Judged = Result<Opinion, Reason>;

impl Model {
    pub(crate) fn new(world: World) -> Self {
        let (flows, backends, fragments) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { world, flows, backends, fragments, begun: BTreeSet::new() }
    }

    /// What becomes of a frame at a program, on the device of instance `host`.
    pub(crate) fn opinion(&self, program: &str, host: usize, frame: &[u8]) -> Opinion {
        let judged = match program {
            program::FROM_CONTAINER => self.sent_by(host, frame),
            program::TO_CONTAINER => self.to_container(host, frame),
            program::FROM_UPLINK => self.arrives(frame),
            _ => self.published(frame),
        };
        self.crowded(program, frame, judged.unwrap_or_else(Opinion::from))
    }

    /// Reads a frame; later fragments get the ports of their first. True: it is one of these.
    fn read(&self, device: Device, frame: &[u8]) -> Result<(Packet, bool), Reason> {
        let mut packet = parse::read(frame)?;
        let mut follows = false;
        if packet.part == Part::Later
            && let Some((from, to)) = self.fragments.get(&place(device, &packet))
        {
            (packet.from.1, packet.to.1) = (*from, *to);
            follows = true;
        }
        Ok((packet, follows))
    }

    fn sent_by(&self, host: usize, frame: &[u8]) -> Judged {
        let own = &self.world.hosts[host];
        let is_own = |at: usize, length: usize, what: &[u8]| frame.get(at..at + length) == Some(what);
        let ready = if own.ready { Ok(()) } else { Err(Reason::NotReady) };
        if be16(frame, 12) == Some(0x0806) {
            ready?;
            if !is_own(6, 6, &own.mac) {
                return Err(Reason::SpoofedMac);
            }
            frame.get(14..42).ok_or(Reason::Malformed)?;
            let IpAddr::V4(four) = own.addresses[0] else { unreachable!("the first is IPv4") };
            let honest = is_own(22, 6, &own.mac) && is_own(28, 4, &four.octets());
            return if honest { Ok(Opinion::one(Fate::Pass(Change::Nothing))) } else { Err(Reason::SpoofedAddress) };
        }
        let (packet, follows) = self.read(Device::Instance(host), frame)?;
        ready?;
        if !is_own(6, 6, &own.mac) {
            return Err(Reason::SpoofedMac);
        }
        let (src, dst) = (packet.from.0, packet.to.0);
        let quiet = matches!(src, IpAddr::V6(six) if six.is_unspecified() || six.is_unicast_link_local());
        if !(own.addresses.contains(&src) || quiet && packet.is_neighbour()) {
            return Err(Reason::SpoofedAddress);
        }
        let gateway = &self.world.node[2..];
        if packet.is_neighbour() {
            let near = parse::is_group(dst)
                || dst == gateway[1]
                || parse::is_unroutable(dst) && { matches!(dst, IpAddr::V6(six) if six.is_unicast_link_local()) };
            let fine = near && packet.is_resolution();
            return if fine { Ok(Opinion::one(Fate::Pass(Change::Nothing))) } else { Err(Reason::Neighbour) };
        }
        if parse::is_group(dst) {
            return Err(Reason::Multicast);
        }
        if parse::is_unroutable(dst) {
            return Err(Reason::Unroutable);
        }
        if packet.part == Part::Later && !follows {
            return self.lost(packet, [Some(host), self.world.host_of(dst)], true);
        }
        if packet.is_error() {
            return self.error(frame, &packet, true);
        }
        if dst == src {
            return Err(Reason::Hairpin);
        }
        let (mut to, mut asked) = (packet.to, None);
        if self.world.is_service(dst) {
            if !self.world.vips.contains(&dst) {
                return Err(Reason::NoSuchService);
            }
            if !matches!(packet.protocol, TCP | UDP) {
                return Err(Reason::NoSuchPort);
            }
            let behind = self.world.frontends.get(&(dst, to.1, packet.protocol));
            (to, asked) = (self.backend(&packet, follows, behind)?, Some(packet.to));
            if to.0 == src {
                return Err(Reason::Hairpin);
            }
        }
        let receiver = self.world.host_of(to.0);
        let nobody = receiver.is_none() && !self.world.remotes.contains(&to.0) && !gateway.contains(&to.0);
        if self.world.is_instance(to.0) && nobody {
            return Err(Reason::NoSuchInstance);
        }
        self.flow(packet, to, asked, [Some(host), receiver], follows, true)
    }

    /// The backend of a packet that asks for a service or a published port.
    fn backend(&self, packet: &Packet, follows: bool, behind: Option<&Behind>) -> Result<End, Reason> {
        let opens = packet.opens();
        if let Some(known) = self.backends.get(&(packet.from, packet.to, packet.protocol)) {
            let flow = self.flows.get(&key(packet.protocol, packet.from, *known));
            if flow.is_some_and(|flow| !(opens && flow.is_over(TCP) && packet.protocol == TCP)) {
                return Ok(*known);
            }
        }
        if packet.protocol == TCP && !opens {
            let known = self.backends.contains_key(&(packet.from, packet.to, TCP));
            return Err(if known { Reason::BackendGone } else { Reason::NoConnection });
        }
        if follows {
            return Err(Reason::Fragment);
        }
        match behind {
            None => Err(Reason::NoSuchPort),
            Some(Behind::Nobody(reason)) => Err(*reason),
            Some(Behind::Backend(end)) => Ok(*end),
        }
    }

    /// A later fragment whose first is not known. It may be one of a flow without ports, which needs no first.
    fn lost(&self, packet: Packet, hosts: [Option<usize>; 2], sends: bool) -> Judged {
        if !self.flows.contains_key(&key(packet.protocol, packet.from, packet.to)) {
            return Err(Reason::Fragment);
        }
        let to = packet.to;
        let mut opinion = self.flow(packet, to, None, hosts, true, sends)?;
        opinion.fates.push(Fate::Drop(Reason::Fragment));
        Ok(opinion)
    }

    /// A packet of a flow, or the beginning of one. `sends`: it comes out of an instance or from outside; else it goes into one.
    fn flow(
        &self,
        packet: Packet,
        to: End,
        asked: Option<End>,
        hosts: [Option<usize>; 2],
        follows: bool,
        sends: bool,
    ) -> Judged {
        let from = packet.from;
        let here = self.flows.get(&key(packet.protocol, from, to));
        let over = here.is_some_and(|flow| flow.is_over(packet.protocol));
        let mut fates = Vec::new();
        let mut begins = true;
        if let Some(flow) = here {
            let origin = flow.origin == from;
            let sent = flow.sent[usize::from(!origin)];
            let same = if origin { flow.asked == asked || !sends } else { asked.is_none() };
            if !same && !over && sent {
                return Err(Reason::TupleClash);
            }
            begins = !same || packet.opens() && (over || !origin);
            if !begins && !origin {
                // An answer: it passes because what it answers does.
                let mut asks = packet.clone();
                asks.detail = question(&packet);
                (asks.from, asks.to) = (to, from);
                if self.world.may(&asks, [to, from], [hosts[1], hosts[0]]).is_ok() && is_reply(&packet) {
                    let change = flow.asked.map_or(Change::Nothing, Change::Source);
                    fates.push(go(sends, hosts[1], change));
                    if !over {
                        let step = Some(Step { packet, from, to, asked: flow.asked, begins: false });
                        return Ok(Opinion { fates, step });
                    }
                }
            } else if !begins && follows {
                fates.push(go(sends, hosts[1], asked.map_or(Change::Nothing, Change::Destination)));
            }
        }
        let refused = [Reason::PolicyIn, Reason::PolicyOut, Reason::OtherTenant].map(Fate::Drop);
        let change = asked.map_or(Change::Nothing, |_| Change::Destination(to));
        if let Some(flow) = here.filter(|_| !begins) {
            if flow.origin == from && packet.is_icmp() {
                // A ping is decided by its first packet, of whatever type the others are.
                fates.push(go(sends, hosts[1], change));
            } else if flow.origin != from
                && (flow.asked.is_some() || flow.opened || matches!(packet.protocol, UDP | SCTP))
            {
                // Without what it answers it has no meaning.
                fates.extend(refused);
                // An answer to what seemed to be reset: it was not.
                let step = Some(Step { packet, from, to, asked: flow.asked, begins: false });
                return Ok(Opinion { fates, step });
            } else if flow.origin != from {
                // What is no answer any more may still be allowed for itself.
                begins = fates.is_empty();
                fates.extend(refused);
            }
        }
        match self.world.may(&packet, [from, to], hosts) {
            Ok(()) => fates.push(go(sends, hosts[1], change)),
            Err(reason) => fates.push(Fate::Drop(reason)),
        }
        if follows && packet.is_icmp() {
            // Of which type it is a part it does not say.
            fates.extend(refused);
            fates.push(go(sends, hosts[1], change));
        }
        Ok(Opinion { fates, step: Some(Step { packet, from, to, asked, begins }) })
    }

    fn to_container(&self, host: usize, frame: &[u8]) -> Judged {
        let own = &self.world.hosts[host];
        let ready = if own.ready { Ok(()) } else { Err(Reason::NotReady) };
        if be16(frame, 12) == Some(0x0806) {
            return ready.map(|()| Opinion::one(Fate::Pass(Change::Nothing)));
        }
        let (packet, follows) = self.read(Device::Instance(host), frame)?;
        ready?;
        let dst = packet.to.0;
        if packet.is_neighbour() {
            let fine = packet.is_resolution();
            return if fine { Ok(Opinion::one(Fate::Pass(Change::Nothing))) } else { Err(Reason::Neighbour) };
        }
        if parse::is_group(dst) {
            return Err(Reason::Multicast);
        }
        if !own.addresses.contains(&dst) {
            return Err(Reason::NotForInstance);
        }
        if packet.part == Part::Later && !follows {
            return self.lost(packet, [None, Some(host)], false);
        }
        if packet.is_error() {
            return self.error(frame, &packet, false);
        }
        let to = packet.to;
        self.flow(packet, to, None, [None, Some(host)], follows, false)
    }

    /// An error that an instance sends or gets: it must tell of a known flow, of a packet of whom it is for.
    fn error(&self, frame: &[u8], packet: &Packet, sent: bool) -> Judged {
        let (protocol, src, dst) = parse::quoted(frame, packet).ok_or(Reason::Unrelated)?;
        // An instance is no router: it speaks of what it was sent.
        if src.0 != packet.to.0 || sent && dst.0 != packet.from.0 {
            return Err(Reason::Unrelated);
        }
        let flow = self.flows.get(&key(protocol, src, dst)).ok_or(Reason::Unrelated)?;
        let change = if flow.asked.is_some() && flow.origin == src { Change::Quoted } else { Change::Nothing };
        let to = if sent { self.world.host_of(src.0) } else { None };
        let mut fates = vec![if to.is_some() { Fate::Redirect(change) } else { Fate::Pass(change) }];
        if flow.is_over(protocol) {
            fates.push(Fate::Drop(Reason::Unrelated));
        }
        Ok(Opinion { fates, step: None })
    }

    fn arrives(&self, frame: &[u8]) -> Judged {
        let passes = || Opinion::one(Fate::Pass(Change::Nothing));
        if parse::source(frame).is_some_and(|src| self.world.is_instance(src) || self.world.is_service(src)) {
            return Err(Reason::SpoofedAddress);
        }
        // What cannot be read is the stack's.
        let Ok((packet, _)) = self.read(Device::Uplink, frame) else { return Ok(passes()) };
        if packet.is_error() {
            let told = parse::quoted(frame, &packet).filter(|(_, src, _)| src.0 == packet.to.0);
            let known = told.and_then(|(protocol, src, dst)| self.backends.get(&(dst, src, protocol)));
            let mut opinion = passes();
            if known.is_some_and(|end| self.world.host_of(end.0).is_some()) {
                opinion.fates.push(Fate::Redirect(Change::Quoted));
            }
            return Ok(opinion);
        }
        // Whatever the order of fragments, the stack puts them together.
        if packet.part != Part::Whole || !matches!(packet.protocol, TCP | UDP) {
            return Ok(passes());
        }
        let Some(backend) = self.backends.get(&(packet.from, packet.to, packet.protocol)).copied() else {
            return Ok(passes());
        };
        let Some(flow) = self.flows.get(&key(packet.protocol, packet.from, backend)) else { return Ok(passes()) };
        if flow.origin != packet.from {
            // The backend has taken the ports for something of its own.
            let mut opinion = passes();
            opinion.fates.extend([Fate::Drop(Reason::TupleClash)]);
            return Ok(opinion);
        }
        if flow.asked == Some(packet.to) && packet.opens() && flow.is_over(TCP) {
            return Ok(passes());
        }
        let (asked, receiver) = (Some(packet.to), self.world.host_of(backend.0));
        let opens = packet.protocol == TCP && packet.opens();
        let judged = self.flow(packet, backend, asked, [None, receiver], false, true);
        if !opens {
            return judged;
        }
        // What begins is the firewall's to decide, once the tables have changed since it was decided.
        let mut opinion = judged.unwrap_or_else(Opinion::from);
        opinion.fates.push(Fate::Pass(Change::Nothing));
        Ok(opinion)
    }

    fn published(&self, frame: &[u8]) -> Judged {
        let (packet, follows) = self.read(Device::Publish, frame)?;
        if !matches!(packet.protocol, TCP | UDP) || packet.part == Part::Later && !follows {
            return Err(Reason::NoSuchPort);
        }
        // The node says nothing to itself by this way, and nobody has no address.
        if self.world.node.contains(&packet.from.0) || packet.from.0 == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            return Err(Reason::SpoofedAddress);
        }
        let front = self.world.published.get(&(packet.from.0.is_ipv4(), packet.to.1, packet.protocol));
        let behind = front.map(|(end, friends)| {
            let stranger = *friends && !self.world.is_friend(packet.from.0);
            if stranger { Behind::Nobody(Reason::SourceRange) } else { Behind::Backend(*end) }
        });
        let to = self.backend(&packet, follows, behind.as_ref())?;
        if to.0 == packet.from.0 {
            return Err(Reason::Hairpin);
        }
        let (asked, sender) = (Some(packet.to), self.world.host_of(packet.from.0));
        let receiver = self.world.host_of(to.0);
        self.flow(packet, to, asked, [sender, receiver], follows, true)
    }

    /// Remembers what was seen and let through.
    pub(crate) fn remember(&mut self, program: &str, host: usize, frame: &[u8], opinion: Opinion, fate: Fate) {
        let crowded = matches!(fate, Fate::Drop(Reason::RateLimited));
        let forwarded = crowded || !matches!(fate, Fate::Drop(_));
        if let Ok(packet) = parse::read(frame) {
            let device = match program {
                program::FROM_CONTAINER | program::TO_CONTAINER => Device::Instance(host),
                program::FROM_UPLINK => Device::Uplink,
                _ => Device::Publish,
            };
            if crowded {
                self.fragments.remove(&place(device, &packet));
            } else if packet.part == Part::First {
                self.fragments.insert(place(device, &packet), (packet.from.1, packet.to.1));
            }
        }
        let Some(step) = opinion.step.filter(|_| forwarded) else { return };
        let Step { packet, from, to, asked, begins } = step;
        let id = key(packet.protocol, from, to);
        let flags = if packet.protocol == TCP && packet.part != Part::Later { packet.detail } else { 0 };
        let is_new = !self.flows.contains_key(&id);
        if is_new && flags & 5 != 0 {
            // Its last words are no beginning.
            return;
        }
        if begins {
            self.begun.insert((packet.protocol, from, to));
            let none = [false; 2];
            let fresh = Flow { origin: from, asked, sent: none, finished: none, reset: none, opened: false };
            self.flows.insert(id, fresh);
        }
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let side = usize::from(flow.origin != from);
        flow.sent[side] = true;
        flow.finished[side] |= flags & 1 != 0;
        if flow.reset[1 - side] && !flow.reset[side] && flags & 6 == 0 {
            // Who goes on was not reset.
            flow.reset[1 - side] = false;
        }
        flow.reset[side] |= flags & 4 != 0;
        flow.opened |= side == 0 && flags & 0x12 == 2;
        if begins && let Some(asked) = asked {
            self.backends.insert((from, asked, packet.protocol), to);
        }
        let between = [from, to].iter().all(|end| self.world.host_of(end.0).is_some());
        let last = flow.reset != [false; 2] || flow.finished == [true; 2] && flags & 3 == 0;
        if packet.protocol == TCP && last && between && flow.asked.is_none() {
            self.flows.remove(&id);
        }
    }
}

fn go(sends: bool, receiver: Option<usize>, change: Change) -> Fate {
    if sends && receiver.is_some() { Fate::Redirect(change) } else { Fate::Pass(change) }
}
