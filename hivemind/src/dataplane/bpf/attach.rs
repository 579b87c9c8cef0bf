//! Programs and links.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::Path,
};

use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, CgroupSockAddr, Program, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, LinkError},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    },
    util::KernelVersion,
};
use hivemind_ebpf::program;

use super::{BpfDataplane, chain, link::PinnedLink};
use crate::dataplane::DataplaneError;

/// Where our filter stands among others on kernels without TCX.
const TC_PRIORITY: u16 = 49_000;
/// Its handle.
const TC_HANDLE: u16 = 1;

/// Whether the kernel has TCX (6.6).
pub(super) fn has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
}

/// Loads every program. A refusal is shown in short and kept in full.
pub(super) fn load_programs(ebpf: &mut Ebpf, log_dir: &Path) -> Result<(), DataplaneError> {
    for name in program::DEVICE.iter().chain(&program::SOCKET) {
        let loaded = match ebpf.program_mut(name) {
            Some(Program::SchedClassifier(program)) => program.load(),
            Some(Program::CgroupSockAddr(program)) => program.load(),
            _ => return Err(DataplaneError::Kernel { what: "a program of the object", why: (*name).into() }),
        };
        loaded.map_err(|error| refused(name, &error, log_dir))?;
    }
    Ok(())
}

fn refused(name: &str, error: &ProgramError, log_dir: &Path) -> DataplaneError {
    let full = chain(error);
    let log = log_dir.join(format!("verifier-{name}.log"));
    if let Err(error) = fs::create_dir_all(log_dir).and_then(|()| fs::write(&log, &full)) {
        tracing::warn!(%error, path = %log.display(), "the verifier's log could not be kept");
    }
    let lines: Vec<_> = full.lines().filter(|line| !line.trim().is_empty()).collect();
    let short = lines[lines.len().saturating_sub(3)..].join(" / ");
    DataplaneError::Rejected { program: name.into(), short, log }
}

fn direction(name: &str) -> TcAttachType {
    match name {
        program::TO_CONTAINER | program::PUB_SELECT => TcAttachType::Egress,
        _ => TcAttachType::Ingress,
    }
}

impl BpfDataplane {
    /// Attaches a device's program, or puts it in the place of the one that a former daemon attached.
    pub(super) fn attach_device(&mut self, name: &'static str, link: &str, device: &str) -> Result<(), DataplaneError> {
        let fail = |why: String| DataplaneError::Attach { program: name, to: device.to_owned(), why };
        let pin = self.links().join(link);
        let program: &mut SchedClassifier = match self.ebpf.program_mut(name) {
            Some(Program::SchedClassifier(program)) => program,
            _ => return Err(fail("the program is not loaded".into())),
        };
        if !has_tcx() {
            return attach_filter(program, name, device).map_err(|error| fail(chain(&error)));
        }
        let index = nix::net::if_::if_nametoindex(device).map_err(|error| fail(error.to_string()))?;
        if let Some(pinned) = PinnedLink::open(&pin).map_err(|error| fail(error.to_string()))? {
            if pinned.ifindex() == Some(index) {
                let fd = program.fd().map_err(|error| fail(chain(&error)))?;
                return pinned.update(fd.as_fd()).map_err(|error| fail(error.to_string()));
            }
            // The device it was on has gone: the link was made anew.
            remove_pin(&pin)?;
        }
        let id = program.attach(device, direction(name)).map_err(|error| fail(chain(&error)))?;
        let taken = program.take_link(id).map_err(|error| fail(chain(&error)))?;
        let fd: FdLink = taken.try_into().map_err(|error: LinkError| fail(chain(&error)))?;
        fd.pin(&pin).map_err(|error| fail(chain(&error)))?;
        Ok(())
    }

    /// Attaches the socket programs to the cgroup, or takes over.
    pub(super) fn attach_sockets(&mut self) -> Result<(), DataplaneError> {
        let path = self.config.cgroup.clone();
        let cgroup = File::open(&path).map_err(|source| DataplaneError::File { action: "open", path, source })?;
        for name in program::SOCKET {
            let to = self.config.cgroup.display().to_string();
            let fail = |why: String| DataplaneError::Attach { program: name, to: to.clone(), why };
            let pin = self.links().join(name);
            let program: &mut CgroupSockAddr = match self.ebpf.program_mut(name) {
                Some(Program::CgroupSockAddr(program)) => program,
                _ => return Err(fail("the program is not loaded".into())),
            };
            if let Some(pinned) = PinnedLink::open(&pin).map_err(|error| fail(error.to_string()))? {
                let fd = program.fd().map_err(|error| fail(chain(&error)))?;
                match pinned.update(fd.as_fd()) {
                    Ok(()) => continue,
                    // The cgroup of the old link was removed: attach to the new one.
                    Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => remove_pin(&pin)?,
                    Err(error) => return Err(fail(error.to_string())),
                }
            }
            // With links this mode lets other programs of the cgroup run as well; the others are refused.
            let id = program.attach(&cgroup, CgroupAttachMode::Single).map_err(|error| fail(chain(&error)))?;
            let taken = program.take_link(id).map_err(|error| fail(chain(&error)))?;
            let fd: FdLink = taken.try_into().map_err(|error: LinkError| fail(chain(&error)))?;
            fd.pin(&pin).map_err(|error| fail(chain(&error)))?;
        }
        Ok(())
    }

    /// Detaches by removing the pin. Ok if there is none.
    pub(super) fn unpin_link(&mut self, link: &str) -> Result<(), DataplaneError> {
        remove_pin(&self.links().join(link))
    }
}

fn remove_pin(pin: &Path) -> Result<(), DataplaneError> {
    match fs::remove_file(pin) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(DataplaneError::File { action: "remove", path: pin.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Before Linux 6.6 the program is a filter of the clsact qdisc, which lives as long as the device.
fn attach_filter(program: &mut SchedClassifier, name: &str, device: &str) -> Result<(), ProgramError> {
    // It may be there already.
    let _ = tc::qdisc_add_clsact(device);
    let handle = TcHandle::from(u32::from(TC_HANDLE));
    let existing = SchedClassifierLink::attached(device, direction(name), TC_PRIORITY, handle, None);
    let replaced = existing.ok().and_then(|link| program.attach_to_link(link).ok());
    let id = match replaced {
        Some(id) => id,
        None => {
            let options = NlOptions { priority: TC_PRIORITY, handle, classid: None };
            program.attach_with_options(device, direction(name), TcAttachOptions::Netlink(options))?
        }
    };
    // Dropping the link would remove the filter.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}
