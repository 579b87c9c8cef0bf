//! Volumes and folders of the node, and how instances are replaced, which depends on them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    super::{
        forms,
        model::{Service, Volume, service::Mount},
    },
    Work,
};
use hivemind_core::{
    model::{Bytes, VolumeName},
    spec::v1::{AppSpec, MountSource, MountSpec, OnFailure, Order, UpdateSpec, VolumeSpec},
};

/// The name in the project's namespace: what the project makes has the name that its files have for it.
fn named<'a>(key: &'a str, declared: Option<&'a Volume>) -> &'a str {
    let external = declared.filter(|volume| volume.external == Some(true));
    external.and_then(|volume| volume.name.as_deref()).unwrap_or(key)
}

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
        if let Some(driver) = declared.and_then(|volume| volume.driver.clone()).filter(|driver| driver != "local") {
            self.fault(&["volumes", key, "driver"], format!("{driver} is no driver that is known here: remove it"));
        }
        match named(key, declared).parse() {
            Ok(name) => Some(MountSource::Volume { name: Some(name), subpath, nocopy }),
            Err(error) => {
                self.fault(steps, error.to_string());
                None
            }
        }
    }

    /// What is asked for of the project's volumes that these services have, and those that are of elsewhere.
    pub(super) fn volumes(
        &mut self,
        services: &BTreeSet<&String>,
    ) -> (BTreeMap<VolumeName, VolumeSpec>, BTreeSet<VolumeName>) {
        let (mut own, mut external) = (BTreeMap::new(), BTreeSet::new());
        for (key, volume) in &self.project.volumes {
            let mounts = |service: &Service| {
                let mut mounts = service.volumes.iter().filter(|mount| mount.kind == "volume");
                mounts.any(|mount| mount.source.as_ref() == Some(key))
            };
            let used = self.project.services.iter().any(|(name, service)| services.contains(name) && mounts(service));
            // One of no good name was told where it is mounted.
            let Some(name) = named(key, Some(volume)).parse().ok().filter(|_| used) else { continue };
            if volume.external == Some(true) {
                external.insert(name);
            } else {
                let size = self.size(key, &volume.driver_opts);
                own.insert(name, VolumeSpec { size, labels: volume.labels.clone() });
            }
        }
        (own, external)
    }

    /// The one option of the driver `local` that is known here; the others are words for mount(8).
    fn size(&mut self, key: &str, options: &BTreeMap<String, String>) -> Option<Bytes> {
        let mut size = None;
        for (option, value) in options {
            let steps = ["volumes", key, "driver_opts", option];
            match (option.as_str(), forms::size(value)) {
                ("size", Ok(bytes)) => size = u64::try_from(bytes).ok().map(Bytes),
                ("size", Err(why)) => self.fault(&steps, why),
                _ => self.fault(&steps, "volumes take only size here: mount a folder of the node instead"),
            }
        }
        size
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
