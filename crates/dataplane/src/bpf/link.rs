//! Pinned links, by the system call: aya neither updates cgroup links nor says which device a link is on.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Commands of bpf(2).
const BPF_OBJ_GET: i32 = 7;
const BPF_LINK_UPDATE: i32 = 29;

/// A pinned link that was opened.
#[derive(Debug)]
pub(super) struct PinnedLink(OwnedFd);

impl PinnedLink {
    /// Opens a pin; `None` if there is none.
    pub(super) fn open(pin: &Path) -> io::Result<Option<Self>> {
        #[repr(C)]
        struct Attr {
            pathname: u64,
            bpf_fd: u32,
            file_flags: u32,
        }
        let path = CString::new(pin.as_os_str().as_bytes()).map_err(io::Error::other)?;
        let attr = Attr { pathname: path.as_ptr().expose_provenance() as u64, bpf_fd: 0, file_flags: 0 };
        // SAFETY: the command reads a valid structure of that size and the path it names, which lives longer.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const attr, size_of::<Attr>()) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) };
        }
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just given this descriptor to us alone.
        Ok(Some(Self(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Puts another program in the place of the attached one, in one step. ENOLINK: what it was attached to is gone.
    pub(super) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        #[repr(C)]
        struct Attr {
            link_fd: i32,
            new_prog_fd: i32,
            flags: u32,
            old_prog_fd: u32,
        }
        let attr = Attr { link_fd: self.0.as_raw_fd(), new_prog_fd: program.as_raw_fd(), flags: 0, old_prog_fd: 0 };
        // SAFETY: the command reads a valid structure of that size and keeps no pointer to it.
        let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_UPDATE, &raw const attr, size_of::<Attr>()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The interface a TCX link is on; 0 once the device has gone (Linux 6.6, commit 054e5fbd2c34).
    pub(super) fn ifindex(&self) -> Option<u32> {
        self.fact("ifindex:")?.parse().ok()
    }

    /// The cgroup a link is on, by its inode number; 0 once it was removed.
    pub(super) fn cgroup(&self) -> Option<u64> {
        self.fact("cgroup_id:")?.parse().ok()
    }

    /// The number of the program that is attached.
    pub(super) fn program(&self) -> Option<u32> {
        self.fact("prog_id:")?.parse().ok()
    }

    fn fact(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd())).ok()?;
        Some(text.lines().find_map(|line| line.strip_prefix(name))?.trim().to_owned())
    }
}
