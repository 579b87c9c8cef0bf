//! Programs and links.
//!
//! With TCX (Linux 6.6) and for cgroups an attachment is a pinned link, and a program is replaced through it. Before
//! TCX it is a filter of the device's clsact qdisc, which lives as long as the device and is replaced by its handle.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use aya::{
    programs::{
        CgroupAttachMode, LinkOrder, Program, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, LinkError},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
    },
    util::KernelVersion,
};
use hivemind_ebpf::program;
use nix::net::if_::{if_nameindex, if_nametoindex};

use super::{BpfDataplane, chain, link::PinnedLink};
use crate::DataplaneError;
use hivemind_core::{lifecycle::killpoint, model::InstanceId};
use hivemind_net::instance_of_device;

/// Where our filter stands among others on kernels without TCX.
const TC_PRIORITY: u16 = 49_000;
/// Its handle.
const TC_HANDLE: u32 = 1;

/// A program's place on a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// What an instance sends.
    From(InstanceId),
    /// What goes to an instance.
    To(InstanceId),
    /// What an uplink, by interface index, receives. (A name may hold a dot, which a pin may not.)
    Uplink(u32),
    /// What an uplink sends.
    UplinkOut(u32),
    /// What an uplink's driver receives.
    Driver(u32),
    /// What the firewall has accepted for published ports.
    Publish,
}

impl Place {
    /// The name of its pin.
    pub(super) fn pin(&self) -> String {
        match self {
            Self::From(id) => format!("{id}-from"),
            Self::To(id) => format!("{id}-to"),
            Self::Uplink(ifindex) => format!("uplink-{ifindex}"),
            Self::UplinkOut(ifindex) => format!("egress-{ifindex}"),
            Self::Driver(ifindex) => format!("driver-{ifindex}"),
            Self::Publish => "publish".into(),
        }
    }

    fn parse(pin: &str) -> Option<Self> {
        let place = match pin.rsplit_once('-') {
            Some((id, "from")) => Self::From(id.parse().ok()?),
            Some((id, "to")) => Self::To(id.parse().ok()?),
            Some(("uplink", ifindex)) => Self::Uplink(ifindex.parse().ok()?),
            Some(("egress", ifindex)) => Self::UplinkOut(ifindex.parse().ok()?),
            Some(("driver", ifindex)) => Self::Driver(ifindex.parse().ok()?),
            None if pin == "publish" => Self::Publish,
            _ => return None,
        };
        Some(place)
    }

    pub(super) const fn program(&self) -> &'static str {
        match self {
            Self::From(_) => program::FROM_CONTAINER,
            Self::To(_) => program::TO_CONTAINER,
            Self::Uplink(_) => program::FROM_UPLINK,
            Self::UplinkOut(_) => program::TO_UPLINK,
            Self::Driver(_) => program::UPLINK_DRIVER,
            Self::Publish => program::PUB_SELECT,
        }
    }
}

/// Whether the kernel has TCX.
pub(super) fn has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
}

fn direction(name: &str) -> TcAttachType {
    match name {
        program::TO_CONTAINER | program::TO_UPLINK | program::PUB_SELECT => TcAttachType::Egress,
        _ => TcAttachType::Ingress,
    }
}

/// The instances' devices in the calling thread's namespace.
pub(super) fn instance_devices() -> Vec<(InstanceId, String)> {
    let Ok(all) = if_nameindex() else { return Vec::new() };
    let names = all.iter().filter_map(|device| device.name().to_str().ok());
    names.filter_map(|name| Some((instance_of_device(name)?, name.to_owned()))).collect()
}

impl BpfDataplane {
    /// Attaches a device's program, or puts it in the place of the one that a former daemon attached.
    pub(super) fn attach_device(&mut self, place: &Place, device: &str) -> Result<(), DataplaneError> {
        if let Some(waiting) = &mut self.waiting {
            if !waiting.iter().any(|(other, _)| other == place) {
                waiting.push((place.clone(), device.to_owned()));
            }
            return Ok(());
        }
        if let Place::Driver(index) = place {
            return self.attach_driver(*index, device);
        }
        let name = place.program();
        let fail = |why: String| DataplaneError::Attach { program: name, to: device.to_owned(), why };
        let pin = self.links().join(place.pin());
        // It is to be there, whether this succeeds or not.
        self.attached.insert(place.clone());
        let Some(Program::SchedClassifier(program)) = self.ebpf.program_mut(name) else {
            return Err(fail("the program is not loaded".into()));
        };
        if !self.tcx {
            return attach_filter(program, name, device).map_err(|error| fail(chain(&error)));
        }
        let index = if_nametoindex(device).map_err(|error| fail(error.to_string()))?;
        inherit(&self.config.root, &pin, &place.pin())?;
        if let Some(pinned) = PinnedLink::open(&pin).map_err(|error| fail(error.to_string()))? {
            if pinned.ifindex() == Some(index) {
                let fd = program.fd().map_err(|error| fail(chain(&error)))?;
                pinned.update(fd.as_fd()).map_err(|error| fail(error.to_string()))?;
                return self.retire(&place.pin());
            }
            // The device it was on has gone: another was made under the same name.
            remove_pin(&pin)?;
        }
        // First: what others attach sees only what may pass.
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        killpoint::before("attaching a program");
        let id = program.attach_with_options(device, direction(name), order).map_err(|error| fail(chain(&error)))?;
        let taken = program.take_link(id).map_err(|error| fail(chain(&error)))?;
        let fd: FdLink = taken.try_into().map_err(|error: LinkError| fail(chain(&error)))?;
        killpoint::before("pinning a link");
        fd.pin(&pin).map_err(|error| fail(chain(&error)))?;
        self.retire(&place.pin())
    }

    /// Puts these programs in the place of those that a former daemon attached to devices, each in one step.
    /// Attaches what has waited for the tables. A device that has gone meanwhile needs nothing.
    ///
    /// First where connections to published ports come in: until then their answers leave by the older programs, which
    /// know what they were asked as.
    pub(super) fn follow(&mut self, mut waiting: Vec<(Place, String)>) -> Result<(), DataplaneError> {
        waiting.sort_by_key(|(place, _)| !matches!(place, Place::Publish | Place::Uplink(_) | Place::UplinkOut(_)));
        // Flows that go on count for the accounts that their instances have in these tables.
        let counted = self.shadow.accounts().recount(&self.maps);
        let mut done = 0;
        let result = counted.and_then(|()| self.attach_sockets()).and_then(|()| {
            for (place, device) in &waiting {
                if if_nametoindex(device.as_str()).is_ok() {
                    self.attach_device(place, device)?;
                }
                done += 1;
            }
            Ok(())
        });
        if result.is_err() {
            // The next write of the tables goes on where this one failed.
            self.waiting = Some(waiting.split_off(done));
        }
        result
    }

    /// Replaces what a former daemon of the same ABI has attached. What one of another has attached waits for the tables.
    pub(super) fn take_over(&mut self, former: Option<&Path>) -> Result<(), DataplaneError> {
        for place in former.map_or(Ok(Vec::new()), |former| list(&former.join("links")))? {
            // Drivers have their own time (`drive`). Where there is no device any more is nothing to replace.
            let Some(place) = Place::parse(&place).filter(|place| !matches!(place, Place::Driver(_))) else { continue };
            if let Some(device) = self.device_of(&place) {
                self.attach_device(&place, &device)?;
            }
        }
        if !self.tcx {
            for (id, device) in instance_devices() {
                self.attach_device(&Place::From(id.clone()), &device)?;
                self.attach_device(&Place::To(id), &device)?;
            }
        }
        for (pin, place) in self.places()? {
            self.attached.insert(place.clone());
            let name = place.program();
            let fail = |why: String| DataplaneError::Attach { program: name, to: place.pin(), why };
            let Some(program) = self.ebpf.program(name) else {
                return Err(fail("the program is not loaded".into()));
            };
            let fd = program.fd().map_err(|error| fail(chain(&error)))?;
            let Some(pinned) = PinnedLink::open(&pin).map_err(|error| fail(error.to_string()))? else { continue };
            match pinned.update(fd.as_fd()) {
                Ok(()) => {}
                // The device has gone while no daemon was there.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
                    self.attached.remove(&place);
                    remove_pin(&pin)?;
                }
                Err(error) => return Err(fail(error.to_string())),
            }
        }
        Ok(())
    }

    /// The pins of links on devices.
    pub(super) fn places(&self) -> Result<Vec<(std::path::PathBuf, Place)>, DataplaneError> {
        let entries = list(&self.links())?;
        Ok(entries.into_iter().filter_map(|name| Some((self.links().join(&name), Place::parse(&name)?))).collect())
    }

    /// The instances that something is attached for.
    pub(super) fn attached_instances(&self) -> Result<Vec<InstanceId>, DataplaneError> {
        if !self.tcx {
            return Ok(instance_devices().into_iter().map(|(id, _)| id).collect());
        }
        let of_instance = |place| match place {
            Place::From(id) => Some(id),
            _ => None,
        };
        // Those that a daemon of another ABI has attached are as good: they are replaced when their rows are written.
        let waiting = self.waiting.iter().flatten().map(|(place, _)| place.clone());
        let places = self.places()?.into_iter().map(|(_, place)| place).chain(waiting);
        Ok(places.filter_map(of_instance).collect())
    }

    /// Detaches from a device. Ok if nothing is attached, or the device is gone.
    pub(super) fn detach_device(&mut self, place: &Place, device: &str) -> Result<(), DataplaneError> {
        self.attached.remove(place);
        if self.tcx {
            return remove_pin(&self.links().join(place.pin()));
        }
        let name = place.program();
        match tc::qdisc_detach_program(device, direction(name), name) {
            Ok(()) => Ok(()),
            Err(_) if if_nametoindex(device).is_err() => Ok(()),
            Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(DataplaneError::Attach { program: name, to: device.to_owned(), why: chain(&error) }),
        }
    }

    /// Detaches from the uplinks that are no longer wanted, on kernels without TCX.
    pub(super) fn detach_uplinks_but(&mut self, wanted: &[Place]) -> Result<(), DataplaneError> {
        let all = if_nameindex().map_err(|error| DataplaneError::Attach {
            program: program::FROM_UPLINK,
            to: "the uplinks".into(),
            why: error.to_string(),
        })?;
        for device in &all {
            for place in [Place::Uplink(device.index()), Place::UplinkOut(device.index())] {
                if let (false, Ok(name)) = (wanted.contains(&place), device.name().to_str()) {
                    self.detach_device(&place, name)?;
                }
            }
        }
        Ok(())
    }

    /// Attaches the socket programs to the cgroup, or takes over.
    pub(super) fn attach_sockets(&mut self) -> Result<(), DataplaneError> {
        let path = self.config.cgroup.clone();
        let to = path.display().to_string();
        let file = |source| DataplaneError::file("open", &path, source);
        let cgroup = File::open(&path).map_err(file)?;
        let id = cgroup.metadata().map_err(file)?.ino();
        for name in program::SOCKET {
            let fail = |why: String| DataplaneError::Attach { program: name, to: to.clone(), why };
            let pin = self.links().join(name);
            inherit(&self.config.root, &pin, name)?;
            let Some(program) = self.ebpf.program_mut(name) else {
                return Err(fail("the program is not loaded".into()));
            };
            if let Some(pinned) = PinnedLink::open(&pin).map_err(|error| fail(error.to_string()))? {
                if pinned.cgroup() == Some(id) {
                    let fd = program.fd().map_err(|error| fail(chain(&error)))?;
                    pinned.update(fd.as_fd()).map_err(|error| fail(error.to_string()))?;
                    self.retire(name)?;
                    continue;
                }
                // It is on another cgroup, or on one that was removed.
                remove_pin(&pin)?;
            }
            let fd = attach_socket(program, &cgroup).map_err(|error| fail(chain(&error)))?;
            fd.pin(&pin).map_err(|error| fail(chain(&error)))?;
            self.retire(name)?;
        }
        Ok(())
    }

    /// Detaches what another daemon of another ABI attached in the same place: it would go on judging by tables that nobody
    /// keeps. What is left of a version goes with its last link.
    pub(super) fn retire(&self, pin: &str) -> Result<(), DataplaneError> {
        let own = super::base(&self.config.root);
        for version in list(&self.config.root)?.into_iter().map(|name| self.config.root.join(name)) {
            let links = version.join("links");
            if version != own && version.is_dir() {
                remove_pin(&links.join(pin))?;
                if list(&links)?.is_empty() {
                    super::remove_pins(&version)?;
                }
            }
        }
        Ok(())
    }
}

/// Makes the link of another ABI's daemon ours, if we have none there: then the program is replaced in one step, and no
/// packet meets both, or neither.
pub(super) fn inherit(root: &Path, pin: &Path, name: &str) -> Result<(), DataplaneError> {
    let own = super::base(root);
    for version in list(root)?.into_iter().map(|version| root.join(version)).filter(|version| *version != own) {
        let there = version.join("links").join(name);
        if !pin.exists() && there.exists() {
            killpoint::before("taking a link over");
            fs::rename(&there, pin).map_err(|source| DataplaneError::file("move", &there, source))?;
        }
    }
    Ok(())
}

/// The folder of a daemon of another ABI that has left links below `root`. Those without any are of no use: they are
/// removed.
pub(super) fn predecessor(root: &Path) -> Result<Option<PathBuf>, DataplaneError> {
    let own = super::base(root);
    let mut found = None;
    for version in list(root)?.into_iter().map(|name| root.join(name)).filter(|version| *version != own) {
        if !version.is_dir() {
            continue;
        }
        if list(&version.join("links"))?.is_empty() {
            super::remove_pins(&version)?;
        } else {
            found = Some(version);
        }
    }
    Ok(found)
}

/// Whether a pin is the one of what an instance sends.
pub(super) fn is_instance(pin: &str) -> bool {
    matches!(Place::parse(pin), Some(Place::From(_)))
}

/// Detaches our filters from every device in the calling thread's namespace: kernels without TCX have them.
pub(super) fn detach_filters() {
    let Ok(all) = if_nameindex() else { return };
    for device in all.iter().filter_map(|device| device.name().to_str().ok()) {
        for name in program::DEVICE {
            // Most devices have none of them.
            let _ = tc::qdisc_detach_program(device, direction(name), name);
        }
    }
}

/// The names in a folder; none if there is no such folder.
pub(super) fn list(path: &Path) -> Result<Vec<String>, DataplaneError> {
    match fs::read_dir(path) {
        Ok(entries) => Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(DataplaneError::file("list", path, source)),
    }
}

/// Removes a pin. Ok if there is none.
pub(super) fn remove_pin(pin: &Path) -> Result<(), DataplaneError> {
    killpoint::before("removing a pin");
    match fs::remove_file(pin) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(DataplaneError::file("remove", pin, source)),
        _ => Ok(()),
    }
}

/// Attaches one of the cgroup's programs. With links this mode lets other programs of the cgroup run as well; the other
/// modes are refused.
fn attach_socket(program: &mut Program, cgroup: &File) -> Result<FdLink, ProgramError> {
    let taken: Result<FdLink, LinkError> = match program {
        Program::CgroupSockAddr(program) => {
            let link = program.attach(cgroup, CgroupAttachMode::Single)?;
            program.take_link(link)?.try_into()
        }
        Program::CgroupSock(program) => {
            let link = program.attach(cgroup, CgroupAttachMode::Single)?;
            program.take_link(link)?.try_into()
        }
        Program::SockOps(program) => {
            let link = program.attach(cgroup, CgroupAttachMode::Single)?;
            program.take_link(link)?.try_into()
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    };
    taken.map_err(|error| ProgramError::IOError(io::Error::other(chain(&error))))
}

fn attach_filter(program: &mut SchedClassifier, name: &str, device: &str) -> Result<(), ProgramError> {
    // It may be there already.
    let _ = tc::qdisc_add_clsact(device);
    let handle = TcHandle::from(TC_HANDLE);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_from_their_pins() {
        let id = InstanceId::from_bits(42);
        let uplink = [Place::Uplink(7), Place::UplinkOut(7), Place::Driver(7)];
        for place in [Place::From(id.clone()), Place::To(id), Place::Publish].into_iter().chain(uplink) {
            assert_eq!(Place::parse(&place.pin()), Some(place));
        }
        for pin in ["hm_connect4", "uplink-eth0", "x-from", "publish-1", ""] {
            assert_eq!(Place::parse(pin), None, "{pin}");
        }
    }
}
