//! The containers that run to their end before the app's, one after the other in its place: with its id, its link and its
//! log. A label says which one a container is, so that a daemon that starts knows where its predecessor was; without a
//! container it begins with the first again.

use tokio::time::Instant;

use super::Worker;
use hivemind_core::{model::Instance, spec::v1::InitSpec};
use hivemind_runtime::{ContainerSpec, ContainerState};

/// Label: which of the containers before the app's it is, from 0. The app's own has none.
const LABEL_STAGE: &str = "hivemind.stage";

impl Worker {
    /// The one that comes now; `None` is the app's.
    fn init<'a>(&self, instance: &'a Instance) -> Option<&'a InitSpec> {
        instance.spec.container.hooks.pre_start.get(self.stage)
    }

    /// The one that comes now, in words.
    pub(super) fn before(&self, instance: &Instance) -> Option<String> {
        let all = instance.spec.container.hooks.pre_start.len();
        self.init(instance).map(|_| format!("pre-start {} of {all}", self.stage + 1))
    }

    /// The image that comes now.
    pub(super) fn image_of_stage(&self, instance: &Instance) -> String {
        self.init(instance).and_then(|init| init.image.clone()).unwrap_or_else(|| instance.spec.image.clone())
    }

    /// Which one the container is that is there. One whose end was dealt with says nothing of what comes.
    pub(super) fn recall_stage(&mut self, instance: &Instance, state: Option<&ContainerState>) {
        if let Some(state) = state.filter(|_| !self.seen.exit_recorded) {
            let all = instance.spec.container.hooks.pre_start.len();
            self.stage = state.labels.get(LABEL_STAGE).and_then(|text| text.parse().ok()).unwrap_or(all);
        }
        self.seen.before = self.init(instance).is_some();
    }

    /// `spec`, the app's container, as the one that comes now.
    pub(super) fn of_stage(&self, instance: &Instance, mut spec: ContainerSpec) -> ContainerSpec {
        let Some(init) = self.init(instance) else { return spec };
        spec.labels.insert(LABEL_STAGE.to_owned(), self.stage.to_string());
        (spec.command, spec.args) = (init.command.clone(), init.args.clone());
        spec.env.extend(init.env.clone());
        // What the app says of its image's users and folders means nothing in another.
        let own = init.image.is_some();
        spec.user = init.user.clone().or(spec.user.filter(|_| !own));
        spec.workdir = init.workdir.clone().or(spec.workdir.filter(|_| !own));
        spec
    }

    /// The one that was there has ended well.
    pub(super) fn next_stage(&mut self, instance: &Instance) {
        let before = self.image_of_stage(instance);
        self.stage += 1;
        self.seen.failures = 0;
        self.seen.retry_at = None::<Instant>;
        if self.image_of_stage(instance) != before {
            (self.image, self.seen.image) = (None, false);
        }
    }
}
