//! Volumes and folders of the node, and how instances are replaced, which depends on them.

use std::time::Duration;

use super::{
    super::model::{Service, service::Mount},
    Work,
};
use crate::spec::v1::{AppSpec, MountSource, MountSpec, OnFailure, Order, UpdateSpec};

impl Work<'_> {
    pub(super) fn mounts(&mut self, name: &str, service: &Service, spec: &mut AppSpec) {
        for (at, mount) in service.volumes.iter().enumerate() {
            let index = at.to_string();
            let steps = ["services", name, "volumes", &index];
            let source = match mount.kind.as_str() {
                // A file system in memory is one of the container's.
                "tmpfs" => continue,
                "volume" => self.volume(&steps, mount),
                "bind" => self.bind(&steps, mount),
                other => {
                    self.fault(&steps, format!("{other} is not mounted here: write bind, volume or tmpfs"));
                    None
                }
            };
            let Some(source) = source else { continue };
            spec.mounts.push(MountSpec {
                target: mount.target.clone(),
                source,
                read_only: mount.read_only == Some(true),
            });
        }
    }

    fn volume(&mut self, steps: &[&str], mount: &Mount) -> Option<MountSource> {
        let options = mount.volume.clone().unwrap_or_default();
        let (subpath, nocopy) = (options.subpath, options.nocopy == Some(true));
        let Some(key) = &mount.source else { return Some(MountSource::Volume { name: None, subpath, nocopy }) };
        let declared = self.project.volumes.get(key);
        if declared.is_some_and(|volume| volume.external == Some(true)) {
            let message =
                format!("{key} is a volume of elsewhere, and volumes are the project's here: remove external");
            self.fault(&["volumes", key], message);
            return None;
        }
        if let Some(driver) = declared.and_then(|volume| volume.driver.clone()).filter(|driver| driver != "local") {
            self.fault(&["volumes", key, "driver"], format!("{driver} is no driver that is known here: remove it"));
        }
        if declared.is_some_and(|volume| !volume.driver_opts.is_empty()) {
            self.fault(
                &["volumes", key, "driver_opts"],
                "volumes take no options here: mount a folder of the node instead",
            );
        }
        match key.parse() {
            Ok(name) => Some(MountSource::Volume { name: Some(name), subpath, nocopy }),
            Err(error) => {
                self.fault(steps, error.to_string());
                None
            }
        }
    }

    fn bind(&mut self, steps: &[&str], mount: &Mount) -> Option<MountSource> {
        let options = mount.bind.clone().unwrap_or_default();
        if let Some(other) = options.propagation.filter(|word| !matches!(word.as_str(), "private" | "rprivate" | "")) {
            self.fault(steps, format!("{other} is no propagation that is known here: mounts are private. Remove it"));
        }
        let create = options.create_host_path == Some(true);
        mount.source.clone().map(|path| MountSource::Bind { path, create })
    }

    /// Without a word the new instance comes first, unless both would write to the same files.
    pub(super) fn update(&mut self, service: &Service, spec: &mut AppSpec) {
        let shares =
            |mount: &MountSpec| !mount.read_only && !matches!(mount.source, MountSource::Volume { name: None, .. });
        let Some(said) = &service.deploy.update_config else {
            if spec.mounts.iter().any(shares) {
                spec.update.order = Order::StopFirst;
            }
            return;
        };
        let seconds = |time: Option<Duration>| {
            time.map_or(0, |time| {
                u32::try_from(time.as_secs() + u64::from(time.subsec_nanos() > 0)).unwrap_or(u32::MAX)
            })
        };
        let update = UpdateSpec {
            order: if said.order.as_deref() == Some("start-first") { Order::StartFirst } else { Order::StopFirst },
            delay_seconds: seconds(said.delay),
            min_ready_seconds: seconds(said.monitor),
            on_failure: match said.failure_action.as_deref() {
                Some("continue") => OnFailure::Continue,
                Some("rollback") => OnFailure::Rollback,
                _ => OnFailure::Pause,
            },
            ..UpdateSpec::default()
        };
        spec.update = update.at_a_time(said.parallelism.map_or(1, |count| u32::try_from(count).unwrap_or(u32::MAX)));
    }
}
