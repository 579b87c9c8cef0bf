//! An update's next step: which instances come, which go, and whether it has failed. Pure.
//!
//! It looks at rows only, never at how they came about: a daemon that starts in the middle goes on where the last one was.

use std::cmp::Reverse;

use hivemind_core::{
    model::{ErrorCode, InstanceId, InstanceStatus, Phase, Rollout, RolloutState, Timestamp},
    spec::v1::{AppSpec, OnFailure, Order},
};

/// So many times started again in a row: another try will not help.
const CRASHES: u32 = 3;

/// An instance, as far as an update is concerned.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) id: InstanceId,
    /// What people call it.
    pub(super) name: String,
    /// Of the newest generation.
    pub(super) new: bool,
    /// It is to go.
    pub(super) stopping: bool,
    pub(super) status: InstanceStatus,
    pub(super) created_at: Timestamp,
}

/// What is to be done now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Next {
    /// These go.
    pub(super) stop: Vec<InstanceId>,
    /// So many of the newest generation come.
    pub(super) make: usize,
    /// So many of the last good one come: the newest has failed and is held.
    pub(super) make_former: usize,
    /// The row after it.
    pub(super) rollout: Rollout,
    /// When to look again though nothing has happened.
    pub(super) again_at: Option<Timestamp>,
    /// It is to be taken back, and why.
    pub(super) failed: Option<String>,
}

impl Member {
    fn ready(&self) -> bool {
        self.status.phase == Phase::Ready
    }

    /// When it counts as in its place; `None` as long as nobody knows.
    fn placed_at(&self, min_ready: i64) -> Option<Timestamp> {
        match self.status.phase {
            // One that has done its work is in its place as one that serves is.
            Phase::Completed => Some(Timestamp::default()),
            Phase::Ready => Some(later(self.status.ready_since.unwrap_or_default(), min_ready)),
            _ => None,
        }
    }

    fn placed(&self, min_ready: i64, now: Timestamp) -> bool {
        self.placed_at(min_ready).is_some_and(|at| at <= now)
    }

    /// Who goes first: what is not in its place, then what has done its work, then the youngest.
    fn worth(&self) -> (bool, bool, Reverse<Timestamp>) {
        let in_place = matches!(self.status.phase, Phase::Ready | Phase::Completed);
        (in_place, self.ready(), Reverse(self.created_at))
    }

    /// Why it will not come up, if that is known.
    fn hopeless(&self) -> Option<String> {
        use ErrorCode as Code;
        let InstanceStatus { phase, code, message, .. } = &self.status;
        let lost = match phase {
            Phase::Failed | Phase::Unhealthy => true,
            Phase::Backoff => {
                let at_once = matches!(
                    code,
                    Some(
                        Code::ImageNotFound
                            | Code::RegistryAuth
                            | Code::ImagePlatform
                            | Code::ImageCorrupt
                            | Code::Invalid
                            | Code::PortTaken
                            | Code::Unhealthy
                    )
                );
                // The runtime refused to start it at all: the same will happen again.
                let refused = *code == Some(Code::StartFailed) && !self.status.has_ended();
                at_once || self.status.most_restarts() >= CRASHES || refused
            }
            _ => false,
        };
        lost.then(|| format!("{} is {phase}: {message}", self.name))
    }
}

fn later(at: Timestamp, millis: i64) -> Timestamp {
    Timestamp::from_millis(at.as_millis().saturating_add(millis))
}

fn millis(seconds: u32) -> i64 {
    i64::from(seconds) * 1_000
}

/// The next step of the way to what `app` says, from where `rollout` and the instances are.
pub(super) fn next(app: &AppSpec, rollout: &Rollout, members: &[Member], now: Timestamp) -> Next {
    let mut next = Next { rollout: rollout.clone(), ..Next::default() };
    if rollout.state == RolloutState::Paused {
        hold(app, members, &mut next);
        return next;
    }
    step(app, members, now, &mut next);
    progress(app, members, now, &mut next);
    next
}

/// Instances of the newest generation are made before older ones that serve are stopped, as far as there is room, and
/// those are stopped only as newer ones take their place: a generation that does not come up takes nothing down that works.
/// Older ones that serve nobody go at once: they only hold what the newer ones need.
fn step(app: &AppSpec, members: &[Member], now: Timestamp, next: &mut Next) {
    let desired = app.replicas as usize;
    let room = app.update.room(desired);
    let min_ready = millis(app.update.min_ready_seconds);
    let stop_first = app.update.order == Order::StopFirst;
    let (mut new, mut old): (Vec<&Member>, Vec<&Member>) =
        members.iter().filter(|member| !member.stopping).partition(|member| member.new);
    new.sort_by_key(|member| member.worth());
    let surplus = new.len().saturating_sub(desired);
    next.stop.extend(new.drain(..surplus).map(|member| member.id.clone()));
    let useless = old.extract_if(.., |member| !member.ready());
    next.stop.extend(useless.map(|member| member.id.clone()));
    old.sort_by_key(|member| member.worth());

    // The pause after the last one that came is over, or there is nothing to pause between.
    let delay = millis(app.update.delay_seconds);
    let last = new.iter().filter_map(|member| member.placed_at(min_ready)).max();
    let go_on_at = last.map_or(now, |at| later(at, delay));
    let pausing = delay > 0 && !old.is_empty() && go_on_at > now;
    if pausing {
        look_again(next, go_on_at);
    }
    for member in &new {
        let due = member.placed_at(min_ready).filter(|at| *at > now);
        due.into_iter().for_each(|at| look_again(next, at));
    }

    let placed = new.iter().filter(|member| member.placed(min_ready, now)).count();
    let mut keep = desired.saturating_sub(placed + room.unavailable);
    if placed >= desired {
        keep = 0;
    } else if pausing && stop_first {
        keep = old.len();
    }
    let surplus = old.len().saturating_sub(keep);
    next.stop.extend(old.drain(..surplus).map(|member| member.id.clone()));

    // Who stops first is gone first, too: it may hold what the new one needs.
    let leaving = members.iter().filter(|member| member.stopping && !member.new).count() + surplus;
    let leaving = if stop_first { leaving } else { 0 };
    let missing = desired.saturating_sub(new.len());
    let free = (desired + room.surge).saturating_sub(new.len() + old.len() + leaving);
    next.make = match old.is_empty() && leaving == 0 {
        // With nothing old to protect, all are made at once.
        true => missing,
        false if pausing && !stop_first => 0,
        false => missing.min(free),
    };
}

/// Notes how far it is, whether it is done, and whether it has failed.
fn progress(app: &AppSpec, members: &[Member], now: Timestamp, next: &mut Next) {
    let desired = app.replicas as usize;
    let update = &app.update;
    let min_ready = millis(update.min_ready_seconds);
    let stays = |member: &&Member| !member.stopping && !next.stop.contains(&member.id);
    let (new, old): (Vec<&Member>, Vec<&Member>) = members.iter().filter(stays).partition(|member| member.new);
    let placed = new.iter().filter(|member| member.placed(min_ready, now)).count();
    let rollout = &mut next.rollout;
    if old.is_empty() && new.len() == desired && placed == desired {
        rollout.state = RolloutState::Complete;
        rollout.message.clear();
        // That nobody is there shows nothing.
        if desired > 0 {
            rollout.good = Some(rollout.generation);
        }
        return;
    }
    // Without something to go back to it is tried until somebody says something else.
    if rollout.state == RolloutState::Complete || rollout.good.is_none() {
        return;
    }
    let placed = u32::try_from(placed).unwrap_or(u32::MAX);
    if placed > rollout.placed {
        (rollout.placed, rollout.moved_at) = (placed, now);
        rollout.message.clear();
    }
    let start = app.start_allowance_ms();
    let limit = millis(update.progress_seconds) + millis(update.delay_seconds) + min_ready + start;
    if new.iter().any(|member| member.status.phase == Phase::Pulling) {
        // How long that takes is no word about what is fetched. The note is made now and then, not all the time.
        if later(rollout.moved_at, limit / 4) <= now {
            rollout.moved_at = now;
        }
        let at = later(now, limit / 2);
        look_again(next, at);
        return;
    }
    let at = later(rollout.moved_at, limit);
    let reason = new.iter().find_map(|member| member.hopeless()).or_else(|| (at <= now).then(|| late(app, &new)));
    let Some(reason) = reason else {
        look_again(next, at);
        return;
    };
    match update.on_failure {
        // What was put back and fails as well is not taken back to itself.
        OnFailure::Rollback if rollout.undone.is_none() => next.failed = Some(reason),
        OnFailure::Rollback | OnFailure::Pause => {
            rollout.state = RolloutState::Paused;
            rollout.message = reason;
            (next.make, next.make_former) = (0, 0);
        }
        // Said once: the words of a fault change with every try.
        OnFailure::Continue if rollout.message.is_empty() => rollout.message = reason,
        OnFailure::Continue => {}
    }
}

/// Why it is late.
fn late(app: &AppSpec, new: &[&Member]) -> String {
    let seconds = app.update.progress_seconds;
    let waiting = new.iter().find(|member| !matches!(member.status.phase, Phase::Ready | Phase::Completed));
    let why = match waiting.map(|member| (member, member.status.message.as_str())) {
        None => "no further instance could be made".into(),
        Some((member, "")) => format!("{} is {}", member.name, member.status.phase),
        Some((member, message)) => format!("{} is {}: {message}", member.name, member.status.phase),
    };
    format!("nothing came further for {seconds} s: {why}")
}

/// It has failed and stays as it is, but for the number of instances.
fn hold(app: &AppSpec, members: &[Member], next: &mut Next) {
    let desired = app.replicas as usize;
    let room = app.update.room(desired);
    let mut running: Vec<&Member> = members.iter().filter(|member| !member.stopping).collect();
    running.sort_by_key(|member| member.worth());
    let (serving, others): (Vec<_>, Vec<_>) =
        running.into_iter().partition(|member| matches!(member.status.phase, Phase::Ready | Phase::Completed));
    let surplus = serving.len().saturating_sub(desired);
    next.stop.extend(serving[..surplus].iter().map(|member| member.id.clone()));
    let most = room.surge.max(desired.saturating_sub(serving.len()));
    let too_many = others.len().saturating_sub(most);
    next.stop.extend(others[..too_many].iter().map(|member| member.id.clone()));
    next.make_former = desired.saturating_sub(serving.len() + others.len());
}

fn look_again(next: &mut Next, at: Timestamp) {
    next.again_at = Some(next.again_at.map_or(at, |other| other.min(at)));
}
