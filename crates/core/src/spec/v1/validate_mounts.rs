//! The rules for mounts.

use std::{
    collections::BTreeSet,
    path::{Component, Path},
};

use super::{AppSpec, FileSpec, MAX_MOUNTS, MountSource};
use crate::model::ContentKind;

/// Every fault of an app's mounts.
pub(super) fn check(spec: &AppSpec, fault: &mut impl FnMut(&str, String)) {
    let all = spec.mounts.len() + spec.secrets.len() + spec.configs.len();
    if all > MAX_MOUNTS {
        fault(
            "mounts",
            format!("{all}, with secrets and configs, are more than {MAX_MOUNTS}, the most an app may have"),
        );
    }
    let mut targets: BTreeSet<_> = spec.container.tmpfs.iter().map(|it| it.path.trim_end_matches('/')).collect();
    for mount in &spec.mounts {
        if let Err(why) = check_target(&mount.target) {
            fault("mounts", format!("{mount}: the path {:?} in the instance {why}", mount.target));
        } else if !targets.insert(mount.target.trim_end_matches('/')) {
            fault("mounts", format!("{mount}: something else is mounted at {}", mount.target));
        }
        match &mount.source {
            MountSource::Volume { subpath: Some(path), name, .. } => {
                let normal = |part| matches!(part, Component::Normal(_));
                if name.is_none() {
                    fault("mounts", format!("{mount}: a folder of a volume needs the volume's name"));
                }
                if path.is_empty() || path.contains('\0') || !Path::new(path).components().all(normal) {
                    fault("mounts", format!("{mount}: {path:?} is no folder of a volume; write a/b, without '..'"));
                }
            }
            MountSource::Bind { path, .. } => {
                if let Err(why) = check_absolute(path) {
                    fault("mounts", format!("{mount}: the path {path:?} on the node {why}"));
                }
            }
            MountSource::Volume { .. } => {}
        }
    }
    let targets = targets.into_iter().map(str::to_owned).collect();
    check_files(spec, targets, fault);
}

/// Every fault of an app's secrets and configs as files; `targets` are the paths that mounts have.
fn check_files<'a>(spec: &'a AppSpec, mut targets: BTreeSet<String>, fault: &mut impl FnMut(&str, String)) {
    let of = |kind, files: &'a [FileSpec]| files.iter().map(move |file| (kind, file));
    for (kind, file) in of(ContentKind::Secret, &spec.secrets).chain(of(ContentKind::Config, &spec.configs)) {
        let (field, path) = (format!("{kind}s"), file.path(kind));
        if let Err(why) = check_target(&path) {
            fault(&field, format!("{file}: the path {path:?} in the instance {why}"));
        } else if path.ends_with('/') {
            fault(&field, format!("{file}: the path {path:?} in the instance is that of a folder"));
        } else if !targets.insert(path.clone()) {
            fault(&field, format!("{file}: something else is mounted at {path}"));
        }
    }
}

/// Whether something can be mounted at a path in an instance.
pub fn is_target(path: &str) -> bool {
    check_target(path).is_ok()
}

fn check_target(path: &str) -> Result<(), &'static str> {
    check_absolute(path)?;
    let mut parts = Path::new(path).components().skip(1);
    match parts.next().and_then(|first| first.as_os_str().to_str()) {
        None => Err("is the root of its file system"),
        Some("proc") => Err("is the kernel's own"),
        Some(_) => Ok(()),
    }
}

fn check_absolute(path: &str) -> Result<(), &'static str> {
    if !path.starts_with('/') {
        return Err("is not absolute; begin with '/'");
    }
    if path.chars().any(char::is_control) {
        return Err("contains control characters");
    }
    if Path::new(path).components().any(|part| part == Component::ParentDir) {
        return Err("contains '..'");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{AppSpec, validate_app};

    fn faults(mounts: &[&str]) -> Vec<String> {
        let mut spec = AppSpec::new("x");
        spec.mounts = mounts.iter().map(|text| text.parse().expect("understood")).collect();
        validate_app(&spec)
    }

    #[test]
    fn all_faults_of_mounts_are_named() {
        assert_eq!(
            faults(&["data:/data", "/srv:/srv:ro", "/cache", "data:/other", "/proc:/host/proc"]),
            Vec::<String>::new()
        );
        assert_eq!(
            faults(&["a:/", "b:/x", "c:/x/", "d:/proc/sys", "e:/a/../b", "/srv/../etc:/y"]),
            [
                "mounts: a:/: the path \"/\" in the instance is the root of its file system",
                "mounts: c:/x/: something else is mounted at /x/",
                "mounts: d:/proc/sys: the path \"/proc/sys\" in the instance is the kernel's own",
                "mounts: e:/a/../b: the path \"/a/../b\" in the instance contains '..'",
                "mounts: /srv/../etc:/y: the path \"/srv/../etc\" on the node contains '..'",
            ]
        );
    }

    #[test]
    fn files_are_where_nothing_else_is() {
        let mut spec = AppSpec::new("x");
        spec.mounts = vec!["data:/run/secrets/db".parse().expect("understood")];
        let files = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("understood")).collect();
        spec.secrets = files(&["db", "key:tls/", "up:../../etc/passwd", "fine"]);
        spec.configs = files(&["a:/run/secrets/fine", "b"]);
        assert_eq!(
            validate_app(&spec),
            [
                "secrets: db: something else is mounted at /run/secrets/db",
                "secrets: key:tls/: the path \"/run/secrets/tls/\" in the instance is that of a folder",
                "secrets: up:../../etc/passwd: the path \"/run/secrets/../../etc/passwd\" in the instance contains '..'",
                "configs: a:/run/secrets/fine: something else is mounted at /run/secrets/fine",
            ]
        );
    }

    #[test]
    fn a_folder_of_a_volume_stays_in_it() {
        for (path, right) in
            [("a", true), ("a/b", true), ("", false), ("/etc", false), ("../x", false), ("a/../..", false)]
        {
            let mut spec = AppSpec::new("x");
            spec.mounts = vec!["data:/data".parse().expect("understood")];
            if let super::MountSource::Volume { subpath, .. } = &mut spec.mounts[0].source {
                *subpath = Some(path.into());
            }
            assert_eq!(validate_app(&spec).is_empty(), right, "{path:?}: {:?}", validate_app(&spec));
        }
    }
}
