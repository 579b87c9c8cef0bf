//! Reads the user database out of an image or a running container, neither of which can be trusted: paths are resolved
//! with the container's root as their end (`RESOLVE_IN_ROOT`), so that no symbolic link leads outside.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd, AsRawFd as _},
        unix::ffi::OsStringExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::stat::Mode,
};

use super::user::UserDb;

/// More of a user database than anybody has.
const MAX_FILE: u64 = 4 << 20;

/// A mount as containerd describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountPlan {
    pub kind: String,
    pub source: String,
    pub options: Vec<String>,
}

/// The user database in the file system that `plan` mounts. It is mounted over `scratch`, an existing directory, in a
/// mount namespace that ends with this call: nothing to clean up, even after `kill -9`.
pub(super) async fn user_db_of_image(plan: MountPlan, scratch: PathBuf) -> io::Result<UserDb> {
    in_image(plan, scratch, read).await
}

/// Copies the folder `path` of the file system that `plan` mounts into the folder `into`, with all rights; nothing if
/// there is none. Mounted as by [`user_db_of_image`].
pub(super) async fn copy(plan: MountPlan, scratch: PathBuf, path: String, into: PathBuf) -> io::Result<()> {
    in_image(plan, scratch, move |root| copy_beneath(root, &path, &into)).await
}

async fn in_image<T: Send + 'static>(
    plan: MountPlan,
    scratch: PathBuf,
    look: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (done, result) = tokio::sync::oneshot::channel();
    // A thread of its own, because it changes its mount namespace and working directory for good.
    let work = move || {
        let _ = done.send(mounted(&plan, &scratch).and_then(|()| look(&scratch)));
    };
    std::thread::Builder::new().name("image".to_owned()).spawn(work)?;
    result.await.map_err(io::Error::other)?
}

fn copy_beneath(root: &Path, path: &str, into: &Path) -> io::Result<()> {
    let root = File::open(root)?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let found = match openat2(&root, path.trim_start_matches('/'), how) {
        Ok(found) => File::from(found),
        Err(nix::Error::ENOENT | nix::Error::ENOTDIR | nix::Error::ELOOP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !found.metadata()?.is_dir() {
        let why = format!("the image has a file at {path}, and a volume is a folder");
        return Err(io::Error::new(io::ErrorKind::NotADirectory, why));
    }
    // coreutils' cp knows sparse files, extended attributes and names of the same file; the process is in this thread's
    // mount namespace.
    let from = format!("/proc/{}/fd/{}/.", std::process::id(), found.as_raw_fd());
    let copied = Command::new("cp").args(["-a", "--", &from]).arg(into).env("LC_ALL", "C").output()?;
    if copied.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&copied.stderr);
    let why = said.lines().next().unwrap_or("cp failed").to_owned();
    let full = said.contains("No space left on device") || said.contains("Disk quota exceeded");
    Err(io::Error::new(if full { io::ErrorKind::StorageFull } else { io::ErrorKind::Other }, why))
}

/// The user database that a running container sees now.
pub(super) async fn user_db_of_process(pid: u32) -> io::Result<UserDb> {
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    tokio::task::spawn_blocking(move || read(&root)).await.map_err(io::Error::other)?
}

fn mounted(plan: &MountPlan, target: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    let (flags, data, base) = mount_arguments(&plan.options);
    if let Some(base) = base {
        nix::unistd::chdir(&base)?;
    }
    mount(
        Some(plan.source.as_str()),
        target,
        Some(plan.kind.as_str()),
        flags | MsFlags::MS_NOSUID,
        Some(data.as_str()),
    )?;
    Ok(())
}

/// Flags, data, and the directory to which the paths of the data are relative. An overlay of many layers would not
/// fit into the one page that the kernel takes.
fn mount_arguments(options: &[String]) -> (MsFlags, String, Option<PathBuf>) {
    let mut flags = MsFlags::MS_NODEV;
    let mut data = Vec::new();
    let mut base = None;
    for option in options {
        match option.as_str() {
            "ro" => flags |= MsFlags::MS_RDONLY,
            "rw" => {}
            "bind" => flags |= MsFlags::MS_BIND,
            "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            other => match other.strip_prefix("lowerdir=") {
                Some(dirs) => {
                    let parent = common_parent(dirs.split(':').map(Path::new));
                    let relative = |d: &str| match Path::new(d).strip_prefix(&parent) {
                        Ok(rest) => rest.display().to_string(),
                        Err(_) => d.to_owned(),
                    };
                    let dirs: Vec<String> = dirs.split(':').map(relative).collect();
                    data.push(format!("lowerdir={}", dirs.join(":")));
                    base = Some(parent);
                }
                None => data.push(other.to_owned()),
            },
        }
    }
    (flags, data.join(","), base)
}

fn common_parent<'a>(paths: impl Iterator<Item = &'a Path>) -> PathBuf {
    let mut parents = paths.filter_map(Path::parent);
    let first = parents.next().unwrap_or(Path::new("/")).to_owned();
    parents.fold(first, |mut common, path| {
        while !path.starts_with(&common) && common.pop() {}
        common
    })
}

fn read(root: &Path) -> io::Result<UserDb> {
    let root = File::open(root)?;
    Ok(UserDb { passwd: text(&root, "etc/passwd")?, group: text(&root, "etc/group")? })
}

/// A regular file's text; empty if there is none.
fn text(root: &impl AsFd, path: &str) -> io::Result<String> {
    // Not blocking, because the image may have a FIFO there.
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(root, path, how) {
        Ok(fd) => File::from(fd),
        Err(nix::Error::ENOENT | nix::Error::ENOTDIR | nix::Error::ELOOP | nix::Error::ENXIO) => {
            return Ok(String::new());
        }
        Err(e) => return Err(e.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(OsString::from_vec(bytes).to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_layers_fit_into_a_page() {
        let root = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";
        let dirs: Vec<String> = (0..128).map(|n| format!("{root}/{n}/fs")).collect();
        let options = ["index=off".to_owned(), format!("lowerdir={}", dirs.join(":"))];
        let (_, data, base) = mount_arguments(&options);
        assert!(data.len() < 4000 && data.starts_with("index=off,lowerdir=0/fs:1/fs"), "{data}");
        assert_eq!(base, Some(root.into()));
    }

    #[test]
    fn a_copy_has_all_rights_and_stays_in_the_root() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let dir = tempfile::tempdir().expect("makes one");
        let (root, into) = (dir.path().join("root"), dir.path().join("into"));
        std::fs::create_dir_all(root.join("srv/data/sub")).expect("makes it");
        std::fs::create_dir(&into).expect("makes it");
        std::fs::write(root.join("srv/data/sub/file"), "x").expect("writes");
        std::fs::set_permissions(root.join("srv/data"), std::fs::Permissions::from_mode(0o2750)).expect("sets");
        std::fs::set_permissions(root.join("srv/data/sub/file"), std::fs::Permissions::from_mode(0o640)).expect("sets");
        std::os::unix::fs::symlink("/etc/passwd", root.join("srv/data/link")).expect("links");
        std::os::unix::fs::symlink("/srv/data", root.join("var")).expect("links");
        std::os::unix::fs::symlink("/etc", root.join("out")).expect("links");
        // Absolute links are meant from the image's root on.
        copy_beneath(&root, "/var", &into).expect("copies");
        let mode = |path: &Path| std::fs::metadata(path).expect("there").mode() & 0o7777;
        assert_eq!((mode(&into), mode(&into.join("sub/file"))), (0o2750, 0o640));
        assert_eq!(std::fs::read_link(into.join("link")).expect("a link"), Path::new("/etc/passwd"));
        for nothing in ["/out", "/none", "/srv/data/sub/file/x"] {
            let empty = dir.path().join("empty");
            std::fs::create_dir_all(&empty).expect("makes it");
            copy_beneath(&root, nothing, &empty).expect(nothing);
            assert_eq!(std::fs::read_dir(&empty).expect("lists").count(), 0, "{nothing}");
        }
        let error = copy_beneath(&root, "/srv/data/sub/file", &into).expect_err("a file");
        assert!(error.to_string().contains("a volume is a folder"), "{error}");
    }

    #[test]
    fn links_do_not_lead_out() {
        let root = tempfile::tempdir().expect("makes one");
        let etc = root.path().join("etc");
        std::fs::create_dir(&etc).expect("makes it");
        std::os::unix::fs::symlink("/etc/passwd", etc.join("group")).expect("links");
        std::os::unix::fs::symlink("../../../../../../../../etc/shadow", etc.join("passwd")).expect("links");
        assert_eq!(read(root.path()).expect("reads"), UserDb::default());
        std::fs::write(etc.join("shadow"), "x").expect("writes");
        let both = UserDb { passwd: "x".to_owned(), group: "x".to_owned() };
        assert_eq!(read(root.path()).expect("reads"), both);
    }
}
