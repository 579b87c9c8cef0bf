//! Links and processes that somebody else takes away.

use super::{Because, Worker};
use hivemind_core::{
    lifecycle::clock,
    model::{Desired, ErrorCode, EventKind, Instance},
    spec::v1::RestartPolicy,
};
use hivemind_net::LinkState;
use hivemind_runtime::RunState;

/// The code of a process whose end nobody has seen: as if SIGKILL had ended it, which is what containerd sends to all that
/// has lost its shim.
const KILLED: u32 = 128 + 9;

impl Worker {
    /// Takes what the runtime says of the container. One that ran and now has no process, nor an end that anybody knows of,
    /// has lost the shim that kept it: that is an end like any other, and the next process begins with the image's files.
    pub(super) fn look_at_task(&mut self, run: Option<RunState>) {
        let ran = self.seen.container.as_ref().is_some_and(|run| run.pid().is_some());
        let nothing = matches!(run, None | Some(RunState::Created));
        if ran && nothing {
            self.lost = Some(clock::now());
            let message = "its process is gone: containerd's process that kept it (the shim) has ended".to_owned();
            self.ended_because = Some(Because { message, code: ErrorCode::StartFailed, well: None });
        }
        self.seen.container = match self.lost {
            Some(at) if nothing => Some(RunState::Exited { code: KILLED, oom: false, at }),
            _ => run,
        };
    }

    /// Looks whether the link is still there that this worker has brought up. One that is down is brought up again. When
    /// its device is gone, all that the process knew of its network is gone as well: it is started again on another one.
    /// A process that is to run once only gets another device as it runs.
    pub(super) async fn look_at_link(&mut self, instance: &Instance) {
        let Some(link) = self.link.as_ref().filter(|_| self.seen.link && instance.desired == Desired::Run) else {
            return;
        };
        let (state, device) = match self.shared.net.look_at_link(link).await {
            Ok(state) => (state, link.name.clone()),
            Err(error) => {
                tracing::warn!(instance = %instance.id, %error, "the link could not be looked at");
                return;
            }
        };
        let name = instance.name();
        match state {
            LinkState::Up => {}
            LinkState::Down => {
                self.seen.link = false;
                self.shared.metrics.repaired("device", 1);
                let message = format!("{name}: somebody else has set its network device {device} down; it is up again");
                self.event(EventKind::Warning, "LinkDown", instance, message);
            }
            LinkState::Gone => {
                self.seen.link = false;
                self.count_lost_link();
                self.shared.metrics.repaired("link", 1);
                let running = self.seen.container.as_ref().is_some_and(|run| run.pid().is_some());
                let because = format!("its network device {device} was removed by somebody else");
                self.seen.unlinked = running && instance.spec.restart != RestartPolicy::Never;
                let then = if self.seen.unlinked { "it is started again on a new one" } else { "it gets a new one" };
                self.event(EventKind::Warning, "LinkLost", instance, format!("{name}: {because}; {then}"));
                if self.seen.unlinked {
                    self.ended_because = Some(Because { message: because, code: ErrorCode::Network, well: None });
                }
            }
        }
    }
}
