//! The uplinks' drivers: with other nodes there, our program runs in them, where they let it. Where they do not, the
//! programs of the kernel's traffic control do the same; never the kernel's imitation of a driver, which costs more than
//! they do.

use std::{collections::BTreeMap, os::fd::AsFd};

use aya::programs::{
    Program, XdpMode,
    links::{FdLink, LinkError},
};
use hivemind_ebpf::program;

use super::{
    BpfDataplane,
    attach::{Place, inherit, remove_pin},
    chain,
    link::PinnedLink,
};
use crate::{DataplaneError, Uplink};
use hivemind_core::lifecycle::killpoint;

/// The uplinks, and what their drivers have said.
#[derive(Debug, Default)]
pub(super) struct Drivers {
    /// Name and interface index.
    uplinks: Vec<(String, u32)>,
    /// Why a driver does not run our program; it is not asked again until the uplinks are told anew.
    refused: BTreeMap<u32, String>,
    /// Whether there are other nodes.
    needed: bool,
    /// Whether all is as this says.
    done: bool,
}

impl Drivers {
    /// What a former daemon has left goes on until the tables are written.
    pub(super) fn new(other_nodes: bool) -> Self {
        Self { needed: other_nodes, ..Self::default() }
    }
}

impl BpfDataplane {
    /// These are the uplinks from now on.
    pub(super) fn drive_uplinks(&mut self, uplinks: Vec<(String, u32)>) -> Result<(), DataplaneError> {
        self.drivers.uplinks = uplinks;
        self.drivers.refused.clear();
        self.drivers.done = false;
        self.drive()
    }

    /// Whether there are other nodes.
    pub(super) fn drive_for(&mut self, other_nodes: bool) -> Result<(), DataplaneError> {
        let before = std::mem::replace(&mut self.drivers.needed, other_nodes);
        if before == other_nodes && self.drivers.done { Ok(()) } else { self.drive() }
    }

    /// Attaches where it is needed and was not refused, and detaches elsewhere. That a driver refuses is no error.
    fn drive(&mut self) -> Result<(), DataplaneError> {
        if self.waiting.is_some() {
            return Ok(());
        }
        let wanted = if self.drivers.needed { self.drivers.uplinks.clone() } else { Vec::new() };
        for (pin, place) in self.places()? {
            if let Place::Driver(index) = place
                && !wanted.iter().any(|(_, wanted)| *wanted == index)
            {
                remove_pin(&pin)?;
                self.attached.remove(&place);
            }
        }
        for (device, index) in wanted {
            if !self.drivers.refused.contains_key(&index)
                && let Err(error) = self.attach_driver(index, &device)
            {
                tracing::info!(device, %error, "its driver does not send packets on to other nodes; the kernel does");
            }
        }
        self.drivers.done = true;
        Ok(())
    }

    /// Attaches to a driver. A refusal is remembered.
    pub(super) fn attach_driver(&mut self, index: u32, device: &str) -> Result<(), DataplaneError> {
        let result = self.try_driver(index, device);
        if let Err(error) = &result {
            self.drivers.refused.insert(index, error.to_string());
        }
        result
    }

    /// Attaches to a driver, or puts our program in the place of the one that a former daemon attached.
    fn try_driver(&mut self, index: u32, device: &str) -> Result<(), DataplaneError> {
        let place = Place::Driver(index);
        let fail = |why: String| DataplaneError::Attach { program: program::UPLINK_DRIVER, to: device.to_owned(), why };
        let pin = self.links().join(place.pin());
        inherit(&self.config.root, &pin, &place.pin())?;
        if let Some(pinned) = PinnedLink::open(&pin).map_err(|error| fail(error.to_string()))? {
            if pinned.ifindex() == Some(index) {
                self.attached.insert(place);
                let Some(program) = self.ebpf.program(program::UPLINK_DRIVER) else {
                    return Err(fail("the program is not loaded".into()));
                };
                let fd = program.fd().map_err(|error| fail(chain(&error)))?;
                pinned.update(fd.as_fd()).map_err(|error| fail(error.to_string()))?;
                return self.retire(&Place::Driver(index).pin());
            }
            remove_pin(&pin)?;
        }
        // A driver runs one program.
        self.retire(&place.pin())?;
        self.attached.remove(&place);
        let Some(Program::Xdp(program)) = self.ebpf.program_mut(program::UPLINK_DRIVER) else {
            return Err(fail("the program is not loaded".into()));
        };
        killpoint::before("attaching a program");
        let id = program.attach_to_if_index(index, XdpMode::Driver).map_err(|error| fail(chain(&error)))?;
        let taken = program.take_link(id).map_err(|error| fail(chain(&error)))?;
        let fd: FdLink = taken.try_into().map_err(|error: LinkError| fail(chain(&error)))?;
        killpoint::before("pinning a link");
        fd.pin(&pin).map_err(|error| fail(chain(&error)))?;
        self.attached.insert(place);
        Ok(())
    }

    /// How each uplink sends packets on to other nodes.
    pub(super) fn uplinks(&self) -> Vec<Uplink> {
        let Drivers { uplinks, refused, needed, .. } = &self.drivers;
        let each = uplinks.iter().map(|(device, index)| Uplink {
            device: device.clone(),
            driver: self.attached.contains(&Place::Driver(*index)),
            why: match refused.get(index) {
                Some(why) => why.clone(),
                None if !needed => "there are no other nodes".into(),
                None => String::new(),
            },
            queue: String::new(),
        });
        each.collect()
    }
}
