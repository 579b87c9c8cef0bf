//! What someone else has detached or removed: found, and put right.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt, path::PathBuf};

use aya::{
    Ebpf,
    maps::{MapData, MapInfo},
};
use hivemind_ebpf::{map, program};
use nix::net::if_::{if_indextoname, if_nametoindex};

use super::{BpfDataplane, attach::Place, base, chain, link::PinnedLink};
use crate::{
    DataplaneError,
    drift::{Difference, Fault, Repairs},
};
use hivemind_net::host_device;

/// What the kernel calls the programs and maps that this daemon has loaded.
#[derive(Debug, Default)]
pub(super) struct Ids {
    programs: BTreeMap<&'static str, u32>,
    maps: BTreeMap<&'static str, u32>,
}

impl Ids {
    /// Call before the maps are taken.
    pub(super) fn of(ebpf: &Ebpf) -> Self {
        let programs = program::all();
        let programs = programs.filter_map(|name| Some((name, ebpf.program(name)?.info().ok()?.id())));
        let maps = map::ALL.into_iter().filter_map(|name| Some((name, super::maps::id(ebpf, name)?)));
        Self { programs: programs.collect(), maps: maps.collect() }
    }
}

/// Something wrong with an attachment.
fn wrong(what: String, fault: Fault, wanted: &str, found: String) -> Difference {
    Difference { place: "attachment", fault, what, wanted: wanted.to_owned(), found }
}

impl BpfDataplane {
    /// The device of a place; none if there is no such device.
    pub(super) fn device_of(&self, place: &Place) -> Option<String> {
        let name = match place {
            Place::From(id) | Place::To(id) => host_device(id),
            Place::Uplink(index) | Place::UplinkOut(index) | Place::Driver(index) => {
                if_indextoname(*index).ok()?.into_string().ok()?
            }
            Place::Publish => self.config.publish_device.clone(),
        };
        if_nametoindex(name.as_str()).ok().map(|_| name)
    }

    /// What is wrong with the link at a pin, which should be of `program` and where `is_there` says.
    fn look_at(&self, pin: &str, program: &'static str, is_there: impl Fn(&PinnedLink) -> bool) -> Option<Difference> {
        let link = match PinnedLink::open(&self.links().join(pin)) {
            Ok(Some(link)) => link,
            Ok(None) => return Some(wrong(pin.into(), Fault::Missing, program, String::new())),
            Err(error) => return Some(wrong(pin.into(), Fault::Different, program, error.to_string())),
        };
        if !is_there(&link) {
            return Some(wrong(
                pin.into(),
                Fault::Different,
                program,
                "it is attached somewhere else, or nowhere".into(),
            ));
        }
        let wanted = self.ids.programs.get(program).copied();
        (link.program() != wanted).then(|| {
            let id = |id: Option<u32>| id.map_or_else(|| "none".into(), |id| format!("number {id}"));
            let found = format!("program {}, not {}", id(link.program()), id(wanted));
            wrong(pin.into(), Fault::Different, program, found)
        })
    }

    /// Whether what is attached there is a link, and not a filter.
    const fn has_link(&self, place: &Place) -> bool {
        self.tcx || matches!(place, Place::Driver(_))
    }

    fn look_at_place(&self, place: &Place) -> Option<Difference> {
        let index = if_nametoindex(self.device_of(place)?.as_str()).ok()?;
        self.look_at(&place.pin(), place.program(), |link| link.ifindex() == Some(index))
    }

    fn look_at_sockets(&self) -> Vec<Difference> {
        let cgroup = fs::metadata(&self.config.cgroup).ok().map(|file| file.ino());
        let each = |name: &&'static str| self.look_at(name, name, |link| link.cgroup() == cgroup);
        if self.waiting.is_some() { Vec::new() } else { program::SOCKET.iter().filter_map(each).collect() }
    }

    fn pin_of(&self, name: &str) -> PathBuf {
        base(&self.config.root).join("maps").join(name)
    }

    fn look_at_pins(&self) -> Vec<(&'static str, Difference)> {
        let each = |(name, id): (&&'static str, &u32)| {
            let path = self.pin_of(name);
            let found = if path.exists() { MapInfo::from_pin(&path).ok().map(|info| info.id()) } else { None };
            let fault = match found {
                Some(found) if found == *id => return None,
                Some(_) => Fault::Different,
                None => Fault::Missing,
            };
            let found = found.map(|found| format!("map {found}")).unwrap_or_default();
            let what = path.display().to_string();
            Some((*name, Difference { place: "pin", fault, what, wanted: format!("map {id}"), found }))
        };
        self.ids.maps.iter().filter_map(each).collect()
    }

    /// Attachments and pins that are not as they should be. On kernels without TCX filters of devices have no pins, and
    /// are not looked at.
    pub(super) fn look(&self) -> Vec<Difference> {
        let mut all: Vec<_> = self.look_at_pins().into_iter().map(|(_, difference)| difference).collect();
        if self.waiting.is_none() {
            let linked = self.attached.iter().filter(|place| self.has_link(place));
            all.extend(linked.filter_map(|place| self.look_at_place(place)));
        }
        all.extend(self.look_at_sockets());
        all
    }

    /// Puts attachments and pins right. What fails is tried again the next time; the first error is returned.
    pub(super) fn mend(&mut self) -> Result<Repairs, DataplaneError> {
        let mut repairs = Repairs::default();
        // Who removed the pins may have removed the folders as well.
        let mut first = super::make_folders(&super::base(&self.config.root));
        for (name, difference) in self.look_at_pins() {
            tracing::warn!(pin = difference.what, "the pin of a map is not there, or of another one; it is made again");
            match self.pin_again(name) {
                Ok(()) => repairs.pins += 1,
                Err(error) => first = first.and(Err(error)),
            }
        }
        if self.waiting.is_none() {
            for place in self.attached.clone() {
                let (Some(device), true) = (self.device_of(&place), self.has_link(&place)) else { continue };
                let Some(Difference { found, .. }) = self.look_at_place(&place) else { continue };
                tracing::warn!(program = place.program(), device, found, "a program is not attached; it is again");
                match self.attach_device(&place, &device) {
                    Ok(()) => repairs.attachments += 1,
                    Err(error) => first = first.and(Err(error)),
                }
            }
            let sockets = self.look_at_sockets();
            if !sockets.is_empty() {
                tracing::warn!(programs = sockets.len(), "programs are not attached to the cgroup; they are again");
                match self.attach_sockets() {
                    Ok(()) => repairs.attachments += sockets.len() as u64,
                    Err(error) => first = first.and(Err(error)),
                }
            }
        }
        first.map(|()| repairs)
    }

    fn pin_again(&self, name: &'static str) -> Result<(), DataplaneError> {
        let path = self.pin_of(name);
        super::attach::remove_pin(&path)?;
        let fail = |why: String| DataplaneError::Map { action: "pin", map: name, why };
        let id = self.ids.maps.get(name).copied().unwrap_or_default();
        let map = MapData::from_id(id).map_err(|error| fail(chain(&error)))?;
        map.pin(&path).map_err(|error| fail(chain(&error)))
    }
}
