//! What is mounted for a container of an instance: volumes, filled at their first use, and paths of the node.

use std::path::{Path, PathBuf};

use super::{fault::Fault, worker::Shared};
use hivemind_core::{
    lifecycle::killpoint,
    model::{Bytes, ContainerId, ContentKey, ContentKind, ContentVersions, ErrorCode, Instance, VolumeKey},
    spec::v1::{FileSpec, MountSource},
};
use hivemind_runtime::{Image, Mount};
use hivemind_storage::{InstanceFile, Place};

/// Brings about all mounts of a container whose process does not run, and says what it is to have, and which versions of
/// its secrets and configs. `instance` has its part of the specification.
pub(super) async fn prepare(
    shared: &Shared,
    container: &ContainerId,
    instance: &Instance,
    image: &Image,
) -> Result<(Vec<Mount>, ContentVersions), Fault> {
    let storage = &shared.storage;
    // What a former container had.
    storage.release(container).await?;
    let mut mounts = Vec::new();
    for (number, mount) in instance.spec.mounts.iter().enumerate() {
        let source = match &mount.source {
            MountSource::Bind { path, create } => storage.of_node(path.into(), *create).await?,
            MountSource::Volume { name: None, nocopy, .. } => {
                let place = Place::Own(instance.id.clone(), mount.target.clone());
                fill(shared, &place, (instance.name(), None), image, (!nocopy).then_some(&mount.target)).await?;
                storage.data(&place)
            }
            MountSource::Volume { name: Some(name), subpath, nocopy } => {
                let key = VolumeKey::new(instance.app.scope.clone(), name.clone());
                let known = shared.desired.borrow().volumes.get(&key).map(|row| (row.id.clone(), row.spec.size));
                let Some((id, size)) = known else {
                    let message = format!("the volume {name} does not exist");
                    return Err(Fault { code: ErrorCode::NotFound, message });
                };
                let place = Place::Volume(id);
                // What the image has at the target belongs into the root of a volume, not into a part of it.
                let copy = (!nocopy && subpath.is_none()).then_some(&mount.target);
                fill(shared, &place, (key.to_string(), size), image, copy).await?;
                match subpath {
                    Some(part) => storage.within(container, number, storage.data(&place), part.clone()).await?,
                    None => storage.data(&place),
                }
            }
        };
        mounts.push(Mount { source, target: mount.target.clone(), read_only: mount.read_only });
    }
    let (files, versions) = files(shared, container, instance).await?;
    mounts.extend(files);
    let in_memory = instance.spec.container.tmpfs.iter().map(|tmpfs| tmpfs.path.as_str());
    let taken: Vec<_> = mounts.iter().map(|mount| mount.target.as_str()).chain(in_memory).collect();
    for target in of_image(image, &taken) {
        // Two images of an instance may say the same path and mean nothing by it.
        let key = container.sidecar().map_or_else(|| target.clone(), |name| format!("{name}:{target}"));
        let place = Place::Own(instance.id.clone(), key);
        fill(shared, &place, (instance.name(), None), image, Some(&target)).await?;
        mounts.push(Mount { source: storage.data(&place), target, read_only: false });
    }
    // Who is mounted beneath another comes after it.
    mounts.sort_by_key(|mount| Path::new(&mount.target).components().count());
    Ok((mounts, versions))
}

/// Secrets and configs, as they are now.
async fn files(
    shared: &Shared,
    container: &ContainerId,
    instance: &Instance,
) -> Result<(Vec<Mount>, ContentVersions), Fault> {
    let wanted: Vec<_> = instance.spec.own_contents().collect();
    let mut versions = ContentVersions::default();
    if wanted.is_empty() {
        return Ok((Vec::new(), versions));
    }
    let known = shared.desired.borrow().contents.clone();
    let mut files = Vec::new();
    for (kind, file) in &wanted {
        let key = ContentKey::new(instance.app.scope.clone(), file.name.clone());
        let Some(content) = known.get(&(*kind, key)) else {
            let message = format!("the {kind} {} does not exist", file.name);
            return Err(Fault { code: ErrorCode::NotFound, message });
        };
        versions.set(*kind, file.name.clone(), content.version);
        let data = content.data.clone();
        files.push(InstanceFile { data, uid: file.uid, gid: file.gid, mode: file.mode.0 });
    }
    let paths = shared.storage.files(container, files).await?;
    let mount = |(source, (kind, file)): (PathBuf, &(ContentKind, &FileSpec))| Mount {
        source,
        target: file.path(*kind),
        read_only: true,
    };
    Ok((paths.into_iter().zip(&wanted).map(mount).collect(), versions))
}

/// The paths that the image declares as volumes, where nothing else is mounted.
fn of_image(image: &Image, taken: &[&str]) -> Vec<String> {
    let free = |path: &&String| !taken.iter().any(|taken| Path::new(taken) == Path::new(path));
    // What an image says is not checked by anybody else.
    let usable = |path: &&String| hivemind_core::spec::v1::is_target(path);
    image.volumes.iter().filter(usable).filter(free).cloned().collect()
}

/// Makes a place that is not there yet, with a name, a size, and what the image has at `copy`.
async fn fill(
    shared: &Shared,
    place: &Place,
    (name, size): (String, Option<Bytes>),
    image: &Image,
    copy: Option<&String>,
) -> Result<(), Fault> {
    let storage = &shared.storage;
    let _one = storage.hold(place).await;
    if storage.is_there(place).await? {
        // After a reboot it is not mounted yet.
        return Ok(storage.attach(place).await?);
    }
    let new = storage.begin(place, name, size).await?;
    killpoint::before("filling a volume");
    if let Some(path) = copy {
        shared.runtime.copy_out(image, path, &new).await?;
    }
    Ok(storage.finish(place, new).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hivemind_fakes::runtime::FakeRuntime;

    #[test]
    fn volumes_of_an_image_are_where_nothing_else_is() {
        let mut image = FakeRuntime::image("x");
        image.volumes = ["/data", "/var/lib/db/", "/proc/1", "relative", "/", "/a/../b"].map(str::to_owned).to_vec();
        assert_eq!(of_image(&image, &[]), ["/data", "/var/lib/db/"]);
        assert_eq!(of_image(&image, &["/var/lib/db", "/data/sub"]), ["/data"]);
    }
}
