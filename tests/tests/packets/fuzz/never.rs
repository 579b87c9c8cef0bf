//! What no frame may do, whether the model knows what should become of it or not.

use hivemind_ebpf::{program, reason::Reason};

use super::{
    model::{Fate, Model, Opinion},
    parse::{self, Part},
};

impl Model {
    /// The same where the stack may have no room: an instance's fragments that go up there are often of packets that never
    /// become whole here, and how many it has room for the clock says. What finds none was a part of its flow all the same.
    pub(super) fn crowded(&self, program: &str, frame: &[u8], mut opinion: Opinion) -> Opinion {
        let passes = opinion.fates.iter().any(|fate| matches!(fate, Fate::Pass(_)));
        let part = parse::read(frame).is_ok_and(|packet| packet.part != Part::Whole);
        if program == program::FROM_CONTAINER && passes && part {
            opinion.fates.push(Fate::Drop(Reason::RateLimited));
        }
        opinion
    }

    /// What may never be, whatever the reason: a frame that goes on and speaks for another, or to whom policies close.
    pub(crate) fn violation(&self, program: &str, host: usize, frame: &[u8], out: &[u8]) -> Option<String> {
        let own = &self.world.hosts[host];
        let packet = parse::read(out).ok();
        if program == program::FROM_CONTAINER {
            if frame.get(6..12) != Some(&own.mac) {
                return Some("a forged Ethernet address leaves".into());
            }
            let src = parse::read(frame).ok().map(|packet| (packet.from.0, packet.is_neighbour()));
            if src.is_some_and(|(src, neighbour)| !own.addresses.contains(&src) && !neighbour) {
                return Some("a forged address leaves".into());
            }
        }
        let packet = packet?;
        if packet.is_neighbour() || packet.is_error() || packet.part == Part::Later {
            return None;
        }
        let dst = packet.to.0;
        let sent_by_own = program == program::FROM_CONTAINER;
        if sent_by_own && (parse::is_group(dst) || parse::is_unroutable(dst) || self.world.is_service(dst)) {
            return Some(format!("it goes to {dst}"));
        }
        let receiver = self.world.host_of(dst);
        if receiver.is_some_and(|n| !self.world.hosts[n].ready) && program != program::FROM_UPLINK {
            return Some("it goes to one that is not ready".into());
        }
        if program == program::FROM_UPLINK && out == frame {
            return None;
        }
        // Its source may be shown as a service: then it is an answer, of what was begun.
        let read = parse::read(frame).ok()?;
        let sender = if sent_by_own { Some(host) } else { None };
        let receiver =
            receiver.filter(|_| program != program::TO_CONTAINER || dst == own.addresses[0] || dst == own.addresses[1]);
        if self.world.may(&read, [(read.from.0, read.from.1), packet.to], [sender, receiver]).is_ok() {
            return None;
        }
        let id = (packet.protocol, packet.to, read.from);
        let answers = self.begun.contains(&id) || read.is_icmp() && self.begun.contains(&(id.0, read.from, packet.to));
        (!answers).then(|| "policies forbid it, and it answers nothing".into())
    }
}
