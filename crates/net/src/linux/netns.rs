//! Network namespaces: making, keeping, entering and removing them.
//!
//! A namespace belongs to a thread. Only threads of our own that end with the one thing they do enter one; a pooled
//! thread that stayed in the wrong namespace would poison whatever runs on it next. A namespace lives as long as the
//! file it is mounted on.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{FsType, statfs},
};
use tokio::sync::oneshot;

use super::sysctl;
use crate::NetError;
use hivemind_core::lifecycle::killpoint;

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);
/// The namespace of the thread that reads it.
pub(super) const OWN: &str = "/proc/thread-self/ns/net";

/// What every instance's namespace is set to before its device comes.
///
/// * Addresses come from us alone and are unique: no router advertisements, no duplicate address detection (which
///   would keep an address unusable for a second).
/// * Containers drop capabilities but expect to bind low ports and to ping, as with Docker.
/// * Reverse path checks are the data plane's, which knows exactly who may send what.
const SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/lo/disable_ipv6", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
];

/// Makes `dir` a mount of its own that is shared with other mount namespaces, so that a namespace mounted in it is
/// seen, and later freed, wherever a copy of the mount table was taken.
pub(super) fn prepare_dir(dir: &Path) -> Result<(), NetError> {
    std::fs::create_dir_all(dir).map_err(NetError::file("make the directory", dir))?;
    let none = None::<&str>;
    let share = || mount(none, dir, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    match share() {
        // Not a mount point yet.
        Err(Errno::EINVAL) => {
            mount(Some(dir), dir, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
                .map_err(NetError::file("mount onto itself", dir))?;
            share()
        }
        other => other,
    }
    .map_err(NetError::file("share the mount", dir))
}

/// Undoes [`prepare_dir`]. Leaves a directory that still keeps a namespace.
pub(super) fn release_dir(dir: &Path) -> Result<(), NetError> {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Ok(());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(NetError::file("read", dir)(error)),
    }
    match umount2(dir, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL) => std::fs::remove_dir(dir).map_err(NetError::file("remove", dir)),
        Err(error) => Err(NetError::file("unmount", dir)(error)),
    }
}

/// Whether a namespace is mounted on the file.
pub(super) fn is_kept(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC)
}

/// Runs `work` on a thread of its own in the namespace kept at `path`, which is made, set up and kept first if it is
/// not there. Set up before it is kept: what is kept is complete.
pub(super) async fn in_ensured<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    on_own_thread(path.clone(), move || {
        if is_kept(&path) {
            enter(&path)?;
        } else {
            unshare(CloneFlags::CLONE_NEWNET).map_err(NetError::file("make a network namespace for", &path))?;
            for (name, value) in SYSCTLS {
                sysctl::set(name, value)?;
            }
            killpoint::before("keeping a network namespace");
            keep(&path)?;
        }
        work()
    })
    .await
}

/// Runs `work` on a thread of its own in the namespace kept at `path`.
pub(super) async fn in_existing<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    on_own_thread(path.clone(), move || {
        enter(&path)?;
        work()
    })
    .await
}

/// Lets the namespace go. Ok if there is none.
pub(super) fn remove(path: &Path) -> Result<(), NetError> {
    // Mounts stack: one that came twice goes twice.
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(error) => return Err(NetError::file("unmount", path)(error)),
        }
    }
    killpoint::before("removing the file of a network namespace");
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(NetError::file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Opens the namespace kept at `path`.
pub(super) fn open(path: &Path) -> Result<File, NetError> {
    File::open(path).map_err(NetError::file("open the network namespace", path))
}

fn enter(path: &Path) -> Result<(), NetError> {
    setns(open(path)?, CloneFlags::CLONE_NEWNET).map_err(NetError::file("enter the network namespace", path))
}

/// Mounts the calling thread's namespace on `path`.
fn keep(path: &Path) -> Result<(), NetError> {
    let none = None::<&str>;
    // An empty file without a mount is what a killed daemon or a reboot left.
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o444)
        .open(path)
        .map_err(NetError::file("make the file", path))?;
    killpoint::before("mounting a network namespace");
    mount(Some(OWN), path, none, MsFlags::MS_BIND, none).map_err(NetError::file("mount a network namespace on", path))
}

/// Runs `work` on a thread that ends with it. If it panics, only the thread is lost.
pub(super) async fn on_own_thread<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    let (tx, rx) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || {
            let _runtime = runtime.enter();
            // The receiver is gone if the caller was cancelled: then nobody wants the result.
            let _ = tx.send(work());
        })
        .map_err(NetError::file("start a thread for", &path))?;
    rx.await
        .unwrap_or_else(|_| Err(NetError::file("finish the work in", path)(io::Error::other("the thread panicked"))))
}
