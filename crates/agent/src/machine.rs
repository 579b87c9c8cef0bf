//! Floor 1: what to do next for one container of an instance. Pure: time comes in as an argument, the step comes out as a
//! value. The app's own container and its sidecars go by the same steps; `beside` says whose turn it is.
//!
//! The machine is level-triggered. It looks at what is wanted and what is there, never at how it came about, so
//! that after `kill -9` at any moment the next call names the step that finishes or removes what was begun.

mod beside;

use std::time::Duration;

use tokio::time::Instant;

use hivemind_core::{lifecycle::backoff, model::Desired, spec::v1::RestartPolicy};
use hivemind_runtime::RunState;

pub use beside::{Beside, Own, Turn, turns};

/// First pause before a restart or another try.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A process that ran this long was well: the pauses begin anew.
pub const WELL_AFTER: Duration = Duration::from_secs(10);
/// How long after SIGKILL to send it again.
const KILL_AGAIN: Duration = Duration::from_secs(5);

/// What the user wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Run or stop.
    pub desired: Desired,
    /// When to start it again.
    pub restart: RestartPolicy,
    /// How long who is connected may finish before the first signal.
    pub drain: Duration,
    /// From the first signal to SIGKILL, the hooks before the signal included.
    pub grace: Duration,
    /// Whether something is to be run in it after its process has begun.
    pub post_start: bool,
    /// Whether something is to be run in it before the first signal.
    pub pre_stop: bool,
}

/// What is there, and what this process remembers of its own doing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// The image was looked up or fetched.
    pub image: bool,
    /// The link was made, attached, programmed and brought up by this process.
    pub link: bool,
    /// The sidecars that come before it have started.
    pub sidecars: bool,
    /// Nothing is left of the sidecars that end after it.
    pub sidecars_gone: bool,
    /// The container.
    pub container: Option<RunState>,
    /// The container is one that comes before the app's: it is to end.
    pub before: bool,
    /// The end of the container's process has been dealt with by [`Step::RecordExit`].
    pub exit_recorded: bool,
    /// What is to be run after the process has begun was run.
    pub post_started: bool,
    /// What is to be run before the first signal was run, since then.
    pub pre_stop: Option<Instant>,
    /// The process is not to be started again.
    pub finished: bool,
    /// The health check says that the process must be started again.
    pub unhealthy: bool,
    /// Its device was removed under the process, which is to be started again on another.
    pub unlinked: bool,
    /// Since when no new connection reaches it any more.
    pub drained_at: Option<Instant>,
    /// Nobody is connected to it any more.
    pub quiet: bool,
    /// How far its stop is.
    pub stop: Stop,
    /// Nothing further towards running before this moment.
    pub retry_at: Option<Instant>,
    /// Nothing further towards stopping before this moment: a step of it was refused.
    pub stop_retry_at: Option<Instant>,
    /// Tries that failed in a row.
    pub failures: u32,
    /// The container and its files are removed for good.
    pub container_removed: bool,
    /// The link is removed for good.
    pub link_removed: bool,
}

/// How far the stop of a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Stop {
    /// Nothing was sent.
    #[default]
    NotBegun,
    /// The first signal was sent.
    Signalled(Instant),
    /// SIGKILL was sent.
    Killed(Instant),
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Look up or fetch the image.
    EnsureImage,
    /// Make the link, attach the programs, program the tables, bring it up.
    EnsureLink,
    /// Wait for the sidecars: to start before it, or to end after it.
    AwaitSidecars,
    /// Make the container.
    Create,
    /// Start its process.
    Start,
    /// Run in it what is to be run after its process has begun.
    PostStart,
    /// The process runs: watch its health until something changes.
    Watch,
    /// The processes stand still: leave them so, and look after nothing, until something changes.
    Hold,
    /// Have the processes go on: they are to end.
    Resume,
    /// The process has ended: note how, and decide whether and when to start it again.
    RecordExit,
    /// Wait until the data plane sends no new connection there.
    Drain,
    /// Wait for those who are connected.
    Linger,
    /// Run in it what is to be run before the stop signal.
    PreStop,
    /// Send the stop signal.
    Signal,
    /// Send SIGKILL to all processes.
    Kill,
    /// Remove the container.
    RemoveContainer,
    /// Remove the link.
    RemoveLink,
    /// Nothing to do until this moment, or until something changes.
    Wait(Instant),
    /// Nothing to do until something changes.
    Rest,
    /// Nothing is left of it.
    Gone,
}

/// The next step.
pub fn next(want: &Want, seen: &Seen, now: Instant) -> Step {
    match want.desired {
        Desired::Run => next_to_run(want, seen, now),
        Desired::Stop => next_to_stop(want, seen, now),
    }
}

fn next_to_run(want: &Want, seen: &Seen, now: Instant) -> Step {
    match &seen.container {
        Some(RunState::Running { .. }) if seen.link && seen.before && !seen.unlinked => Step::Rest,
        Some(RunState::Running { .. }) if seen.link && !seen.unhealthy && !seen.unlinked => match seen.retry_at {
            _ if !want.post_start || seen.post_started => Step::Watch,
            Some(at) if now < at => Step::Wait(at),
            _ => Step::PostStart,
        },
        Some(RunState::Paused { .. }) if seen.link && !seen.unhealthy && !seen.unlinked => Step::Hold,
        Some(RunState::Exited { .. }) if !seen.exit_recorded => Step::RecordExit,
        _ if seen.finished => Step::Rest,
        container => match (seen.retry_at, container) {
            (Some(at), _) if now < at => Step::Wait(at),
            // What stands still cannot do what it does when it is told to end.
            (_, Some(RunState::Paused { .. })) if seen.unlinked || seen.link => Step::Resume,
            (_, Some(RunState::Paused { .. })) => Step::EnsureLink,
            (_, Some(RunState::Running { .. })) if seen.unlinked => end_process(want, seen, now),
            (_, Some(RunState::Running { .. })) if !seen.link => Step::EnsureLink,
            (_, Some(RunState::Running { .. })) => end_process(want, seen, now),
            _ if !seen.image => Step::EnsureImage,
            // A container needs no link, its process does: while links are waited for, other containers are made.
            (_, Some(RunState::Created)) if !seen.link => Step::EnsureLink,
            (_, Some(RunState::Created)) if !seen.sidecars && !seen.before => Step::AwaitSidecars,
            (_, Some(RunState::Created)) => Step::Start,
            _ => Step::Create,
        },
    }
}

fn next_to_stop(want: &Want, seen: &Seen, now: Instant) -> Step {
    if let Some(at) = seen.stop_retry_at.filter(|at| now < *at) {
        return Step::Wait(at);
    }
    match &seen.container {
        Some(RunState::Running { .. }) => match seen.drained_at {
            None => Step::Drain,
            Some(at) if !seen.quiet && seen.stop == Stop::NotBegun && now < at + want.drain => Step::Linger,
            Some(_) => end_process(want, seen, now),
        },
        Some(RunState::Paused { .. }) if seen.drained_at.is_none() => Step::Drain,
        Some(RunState::Paused { .. }) => Step::Resume,
        _ if !seen.sidecars_gone => Step::AwaitSidecars,
        _ if !seen.container_removed => Step::RemoveContainer,
        _ if !seen.link_removed => Step::RemoveLink,
        _ => Step::Gone,
    }
}

/// Hooks, signal, grace, kill.
fn end_process(want: &Want, seen: &Seen, now: Instant) -> Step {
    let due = |at: Instant, step| if now < at { Step::Wait(at) } else { step };
    match seen.stop {
        Stop::NotBegun if want.grace.is_zero() => Step::Kill,
        Stop::NotBegun if want.pre_stop && !seen.before && seen.pre_stop.is_none() => Step::PreStop,
        Stop::NotBegun => Step::Signal,
        Stop::Signalled(at) => due(at + want.grace, Step::Kill),
        Stop::Killed(at) => due(at + KILL_AGAIN, Step::Kill),
    }
}

/// Whether a process that ended with `code` is to be started again.
pub fn restarts(policy: RestartPolicy, code: u32) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => code != 0,
        RestartPolicy::Never => false,
    }
}

/// The pause before the next try after so many failures in a row; `jitter` is a random number from 0 to 1.
pub fn pause(failures: u32, jitter: f64) -> Duration {
    backoff::delay(failures, FIRST_PAUSE, LONGEST_PAUSE, jitter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hivemind_core::model::Timestamp;

    const RUN: Want = Want {
        desired: Desired::Run,
        restart: RestartPolicy::Always,
        drain: Duration::from_secs(5),
        grace: Duration::from_secs(10),
        post_start: false,
        pre_stop: false,
    };
    const STOP: Want = Want { desired: Desired::Stop, ..RUN };

    /// Nothing was done yet, and there are no sidecars.
    fn alone() -> Seen {
        Seen { sidecars: true, sidecars_gone: true, ..Seen::default() }
    }

    fn exited() -> Option<RunState> {
        Some(RunState::Exited { code: 1, oom: false, at: Timestamp::from_millis(0) })
    }

    fn running() -> Option<RunState> {
        Some(RunState::Running { pid: 7 })
    }

    #[tokio::test(start_paused = true)]
    async fn a_fresh_instance_goes_through_every_step_in_order() {
        let now = Instant::now();
        let mut seen = alone();
        assert_eq!(next(&RUN, &seen, now), Step::EnsureImage);
        seen.image = true;
        assert_eq!(next(&RUN, &seen, now), Step::Create);
        seen.container = Some(RunState::Created);
        assert_eq!(next(&RUN, &seen, now), Step::EnsureLink);
        seen.link = true;
        assert_eq!(next(&RUN, &seen, now), Step::Start);
        seen.container = running();
        assert_eq!(next(&RUN, &seen, now), Step::Watch);
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_container_found_after_a_restart_is_adopted_not_touched() {
        let now = Instant::now();
        let mut seen = Seen { container: running(), ..alone() };
        assert_eq!(next(&RUN, &seen, now), Step::EnsureLink);
        seen.link = true;
        assert_eq!(next(&RUN, &seen, now), Step::Watch, "neither pulled nor created again");
    }

    #[tokio::test(start_paused = true)]
    async fn an_exit_is_recorded_once_then_waits_then_creates_anew() {
        let now = Instant::now();
        let mut seen = Seen { image: true, link: true, container: exited(), ..alone() };
        assert_eq!(next(&RUN, &seen, now), Step::RecordExit);
        seen.exit_recorded = true;
        seen.retry_at = Some(now + Duration::from_secs(1));
        assert_eq!(next(&RUN, &seen, now), Step::Wait(now + Duration::from_secs(1)));
        assert_eq!(next(&RUN, &seen, now + Duration::from_secs(1)), Step::Create);
        seen.finished = true;
        assert_eq!(next(&RUN, &seen, now + Duration::from_secs(9)), Step::Rest);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_drains_signals_waits_kills_and_removes() {
        let now = Instant::now();
        let mut seen = Seen { image: true, link: true, container: running(), ..alone() };
        assert_eq!(next(&STOP, &seen, now), Step::Drain);
        seen.drained_at = Some(now);
        assert_eq!(next(&STOP, &seen, now), Step::Linger);
        assert_eq!(next(&STOP, &seen, now + RUN.drain), Step::Signal, "whoever is connected has had the time");
        let at_once = Want { drain: Duration::ZERO, ..STOP };
        assert_eq!(next(&at_once, &seen, now), Step::Signal);
        seen.quiet = true;
        assert_eq!(next(&STOP, &seen, now), Step::Signal);
        seen.stop = Stop::Signalled(now);
        let killed = now + RUN.grace;
        assert_eq!(next(&STOP, &seen, now), Step::Wait(killed));
        assert_eq!(next(&STOP, &seen, killed), Step::Kill);
        seen.stop = Stop::Killed(killed);
        assert_eq!(next(&STOP, &seen, killed), Step::Wait(killed + KILL_AGAIN));
        assert_eq!(next(&STOP, &seen, killed + KILL_AGAIN), Step::Kill);
        seen.container = exited();
        assert_eq!(next(&STOP, &seen, killed), Step::RemoveContainer);
        seen.container = None;
        seen.container_removed = true;
        assert_eq!(next(&STOP, &seen, killed), Step::RemoveLink);
        seen.link_removed = true;
        assert_eq!(next(&STOP, &seen, killed), Step::Gone);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_in_the_middle_of_creation_removes_what_is_there() {
        let now = Instant::now();
        for container in [None, Some(RunState::Created), exited()] {
            let seen = Seen { container, retry_at: Some(now + Duration::from_secs(60)), ..alone() };
            assert_eq!(next(&STOP, &seen, now), Step::RemoveContainer, "back-off does not delay it");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_step_of_a_stop_is_repeated_after_its_pause() {
        let now = Instant::now();
        let at = now + Duration::from_secs(1);
        let seen = Seen { stop_retry_at: Some(at), ..alone() };
        assert_eq!(next(&STOP, &seen, now), Step::Wait(at));
        assert_eq!(next(&STOP, &seen, at), Step::RemoveContainer);
    }

    #[tokio::test(start_paused = true)]
    async fn no_grace_means_kill_at_once() {
        let want = Want { grace: Duration::ZERO, ..STOP };
        let seen = Seen { container: running(), drained_at: Some(Instant::now()), quiet: true, ..alone() };
        assert_eq!(next(&want, &seen, Instant::now()), Step::Kill);
    }

    #[tokio::test(start_paused = true)]
    async fn hooks_come_after_the_start_and_before_the_signal_once_each() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let want = Want { post_start: true, pre_stop: true, ..RUN };
        let mut seen = Seen { image: true, link: true, container: running(), ..alone() };
        assert_eq!(next(&want, &seen, now), Step::PostStart);
        seen.retry_at = Some(now + second);
        assert_eq!(next(&want, &seen, now), Step::Wait(now + second), "it could not be asked");
        seen.post_started = true;
        assert_eq!(next(&want, &seen, now), Step::Watch);
        let want = Want { desired: Desired::Stop, ..want };
        (seen.drained_at, seen.quiet) = (Some(now), true);
        assert_eq!(next(&want, &seen, now), Step::PreStop);
        seen.pre_stop = Some(now);
        assert_eq!(next(&want, &seen, now), Step::Signal);
        assert_eq!(next(&Want { grace: Duration::ZERO, ..want }, &seen, now), Step::Kill);
        seen.pre_stop = None;
        assert_eq!(next(&Want { grace: Duration::ZERO, ..want }, &seen, now), Step::Kill, "there is no time for hooks");
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_before_is_left_alone_until_it_ends() {
        let now = Instant::now();
        let want = Want { post_start: true, pre_stop: true, ..RUN };
        let mut seen = Seen { image: true, link: true, before: true, container: running(), ..alone() };
        assert_eq!(next(&want, &seen, now), Step::Rest, "no hooks, no health");
        (seen.drained_at, seen.quiet) = (Some(now), true);
        assert_eq!(next(&Want { desired: Desired::Stop, ..want }, &seen, now), Step::Signal);
        seen.container = exited();
        assert_eq!(next(&want, &seen, now), Step::RecordExit);
        seen.exit_recorded = true;
        assert_eq!(next(&want, &seen, now), Step::Create, "the next, or the app");
    }

    #[tokio::test(start_paused = true)]
    async fn the_app_begins_when_its_sidecars_have_started_and_what_comes_before_does_not_wait_for_them() {
        let now = Instant::now();
        let mut seen = Seen { image: true, link: true, sidecars: false, before: true, ..alone() };
        assert_eq!(next(&RUN, &seen, now), Step::Create);
        seen.container = Some(RunState::Created);
        assert_eq!(next(&RUN, &seen, now), Step::Start);
        seen.before = false;
        assert_eq!(next(&RUN, &seen, now), Step::AwaitSidecars);
        seen.sidecars = true;
        assert_eq!(next(&RUN, &seen, now), Step::Start);
        (seen.container, seen.sidecars) = (running(), false);
        assert_eq!(next(&RUN, &seen, now), Step::Watch, "one that runs is left alone");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_stop_removes_is_removed_when_the_sidecars_have_ended() {
        let now = Instant::now();
        let mut seen = Seen { container: running(), drained_at: Some(now), quiet: true, ..alone() };
        seen.sidecars_gone = false;
        assert_eq!(next(&STOP, &seen, now), Step::Signal, "the app ends first");
        for container in [None, Some(RunState::Created), exited()] {
            seen.container = container;
            assert_eq!(next(&STOP, &seen, now), Step::AwaitSidecars);
        }
        seen.sidecars_gone = true;
        assert_eq!(next(&STOP, &seen, now), Step::RemoveContainer);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unhealthy_process_is_ended_as_a_stop_would_end_it() {
        let now = Instant::now();
        let seen = Seen { image: true, link: true, container: running(), unhealthy: true, ..alone() };
        assert_eq!(next(&RUN, &seen, now), Step::Signal);
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_one_is_left_alone_and_goes_on_to_end() {
        let now = Instant::now();
        let paused = Some(RunState::Paused { pid: 7 });
        let mut seen = Seen { container: paused.clone(), ..alone() };
        assert_eq!(next(&RUN, &seen, now), Step::EnsureLink, "after a restart of the daemon as well");
        seen.link = true;
        assert_eq!(next(&RUN, &seen, now), Step::Hold);
        assert_eq!(next(&Want { post_start: true, ..RUN }, &seen, now), Step::Hold);
        assert_eq!(next(&RUN, &Seen { unhealthy: true, ..seen.clone() }, now), Step::Resume);
        assert_eq!(next(&RUN, &Seen { unlinked: true, link: false, ..seen.clone() }, now), Step::Resume);
        assert_eq!(next(&STOP, &seen, now), Step::Drain, "nobody new is sent there first");
        seen.drained_at = Some(now);
        assert_eq!(next(&STOP, &seen, now), Step::Resume);
        seen.container = running();
        assert_eq!(next(&STOP, &seen, now + RUN.drain), Step::Signal);
        seen.container = paused;
        assert_eq!(next(&STOP, &seen, now + RUN.drain), Step::Resume, "however often somebody pauses it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_whose_device_is_gone_ends_and_gets_another_device_before_it_begins_again() {
        let now = Instant::now();
        let mut seen = Seen { image: true, container: running(), unlinked: true, ..alone() };
        assert_eq!(next(&RUN, &seen, now), Step::Signal);
        assert_eq!(next(&RUN, &Seen { link: true, ..seen.clone() }, now), Step::Signal, "a sidecar's is there already");
        seen.stop = Stop::Signalled(now);
        assert_eq!(next(&RUN, &seen, now + RUN.grace), Step::Kill);
        seen.container = exited();
        assert_eq!(next(&RUN, &seen, now), Step::RecordExit);
        (seen.exit_recorded, seen.unlinked) = (true, false);
        assert_eq!(next(&RUN, &seen, now), Step::Create);
        seen.container = Some(RunState::Created);
        assert_eq!(next(&RUN, &seen, now), Step::EnsureLink);
        seen.link = true;
        assert_eq!(next(&RUN, &seen, now), Step::Start);
    }

    #[test]
    fn restart_policies() {
        for (policy, code, again) in [
            (RestartPolicy::Always, 0, true),
            (RestartPolicy::Always, 1, true),
            (RestartPolicy::OnFailure, 0, false),
            (RestartPolicy::OnFailure, 137, true),
            (RestartPolicy::Never, 1, false),
        ] {
            assert_eq!(restarts(policy, code), again, "{policy:?} {code}");
        }
    }

    #[test]
    fn pauses_grow_to_a_minute() {
        let millis = |n| pause(n, 0.5).as_millis();
        assert_eq!([millis(1), millis(2), millis(4), millis(20)], [200, 400, 1_600, 60_000]);
    }
}
