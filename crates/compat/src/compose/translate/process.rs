//! What runs, as whom, when it is started again, and how it is stopped.

use super::{
    super::model::{Service, deploy},
    Work,
};
use hivemind_core::spec::v1::{AppSpec, PullPolicy, RestartPolicy};

/// Whether a service is started again also when it ends with 0.
pub(super) fn is_kept(service: &Service) -> bool {
    restart(service).0 == RestartPolicy::Always
}

/// When a service is started again, and whether it is said how often at most. Without a word it is not started again.
fn restart(service: &Service) -> (RestartPolicy, bool) {
    match (&service.deploy.restart_policy, service.restart.as_deref()) {
        (Some(deploy::RestartPolicy { condition, max_attempts, .. }), _) => {
            let policy = match condition.as_deref() {
                Some("none") => RestartPolicy::Never,
                Some("on-failure") => RestartPolicy::OnFailure,
                _ => RestartPolicy::Always,
            };
            (policy, max_attempts.is_some())
        }
        (None, Some("always" | "unless-stopped")) => (RestartPolicy::Always, false),
        (None, Some(text)) if text.starts_with("on-failure") => (RestartPolicy::OnFailure, text.contains(':')),
        (None, _) => (RestartPolicy::Never, false),
    }
}

impl Work<'_> {
    pub(super) fn process(&mut self, name: &str, service: &Service, spec: &mut AppSpec) {
        self.words(name, service, spec);
        // A variable that was named and has no value is not set.
        let set = service.environment.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
        spec.env = set.collect();
        spec.user = service.user.clone().filter(|user| !user.is_empty());
        spec.workdir = service.working_dir.clone().filter(|dir| !dir.is_empty());
        let (policy, counted) = restart(service);
        spec.restart = policy;
        if counted {
            let key = if service.deploy.restart_policy.is_some() { "deploy" } else { "restart" };
            self.warn(
                &["services", name, key],
                "it is tried again without end, with growing pauses: the number is ignored",
            );
        }
        spec.stop.signal.clone_from(&service.stop_signal);
        if let Some(grace) = service.stop_grace_period {
            let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
            spec.stop.grace_seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        }
        spec.pull = match service.pull_policy.as_deref() {
            // What is built is sent to the node, and run by its digest: there is nothing to fetch.
            _ if service.build.is_some() => PullPolicy::Never,
            Some("always") => PullPolicy::Always,
            Some("never" | "build") => PullPolicy::Never,
            None | Some("missing" | "if_not_present") => PullPolicy::IfMissing,
            Some(_) => {
                let message = "an image is not fetched again after a time: it is fetched if it is missing";
                self.warn(&["services", name, "pull_policy"], message);
                PullPolicy::IfMissing
            }
        };
    }

    /// The entry point and its words. An entry point of nobody's leaves the command as it is.
    fn words(&mut self, name: &str, service: &Service, spec: &mut AppSpec) {
        let given = |words: &Option<Vec<String>>| words.clone().filter(|words| !words.iter().all(String::is_empty));
        let command = given(&service.command);
        match (&service.entrypoint, given(&service.entrypoint)) {
            (_, Some(entrypoint)) => (spec.command, spec.args) = (Some(entrypoint), command),
            (None, None) => spec.args = service.command.as_ref().map(|_| command.unwrap_or_default()),
            (Some(_), None) => match command {
                Some(command) => spec.command = Some(command),
                None => self.fault(
                    &["services", name, "entrypoint"],
                    "the image's entry point is taken away, and no command is said: say the whole command",
                ),
            },
        }
    }
}
