//! What a daemon of another ABI has left and this one goes on with: the tables that connections depend on
//! ([`map::KEPT`]). A packet in the middle of a balanced connection finds its backend nowhere else, and an answer whom it
//! answers: with empty tables both would be refused.
//!
//! They are not copied: both versions' programs use the same map while they are replaced, device by device. So nothing
//! that begins or ends meanwhile is missed, whichever of them sees it. What a row says that depends on the other tables
//! was decided at a generation of the other daemon's, and is decided anew at the flow's next packet.

use std::{fs, path::Path};

use aya::maps::{Array, Map, MapData, MapInfo};
use aya_obj::Object;
use hivemind_ebpf::map;

use super::{
    attach,
    maps::{Maps, differs},
};
use crate::DataplaneError;
use hivemind_core::lifecycle::killpoint;

/// Half of the way around: generations of the two daemons do not meet, however long either runs.
const APART: u32 = 1 << 31;

/// Before the programs are loaded: pins in `own` the tables of `former`, if they are as ours would be. Returns the
/// generation of its tables if their flows are among them.
pub(super) fn take(former: &Path, own: &Path, object: &Object) -> Result<Option<u32>, DataplaneError> {
    let [former_maps, own_maps] = [former, own].map(|version| version.join("maps"));
    let generation = generation(&former_maps.join(map::GENERATION));
    // Of a daemon that ended while it replaced programs: it has decided this.
    if attach::list(&own.join("links"))?.is_empty() {
        for group in map::KEPT {
            let of_flows = group.contains(&map::FLOWS);
            if of_flows && generation.is_none() || !group.iter().all(|name| is_ours(&former_maps, name, object)) {
                tracing::warn!(
                    maps = group.join(", "),
                    former = %former.display(),
                    "what the former daemon's programs remember cannot be read by these: what depends on it begins anew \
                     (connections to services and published ports are refused, their clients make new ones)"
                );
                continue;
            }
            for name in group {
                link(&former_maps.join(name), &own_maps.join(name))?;
            }
        }
    }
    Ok(generation.filter(|_| is_same(&former_maps.join(map::FLOWS), &own_maps.join(map::FLOWS))))
}

/// The generation of the tables is far from that of the other daemon's: no row of its making passes for one of ours,
/// nor one of ours with its programs.
pub(super) fn move_away(maps: &mut Maps, from: u32) -> Result<(), DataplaneError> {
    let far = maps.generation()?.wrapping_sub(from);
    if (APART / 2..APART / 2 * 3).contains(&far) { Ok(()) } else { maps.set_generation(from.wrapping_add(APART)) }
}

fn is_ours(maps: &Path, name: &'static str, object: &Object) -> bool {
    let wanted = object.maps.get(name);
    wanted.is_some_and(|wanted| matches!(differs(&maps.join(name), name, wanted), Ok(None)))
}

/// Whether two pins are of one map.
fn is_same(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| Some(MapInfo::from_pin(path).ok()?.id());
    id(one).is_some_and(|one| id(other) == Some(one))
}

/// Another pin of the same map, in the place of one that nothing uses.
fn link(map: &Path, pin: &Path) -> Result<(), DataplaneError> {
    if is_same(map, pin) {
        return Ok(());
    }
    attach::remove_pin(pin)?;
    killpoint::before("pinning a map");
    fs::hard_link(map, pin).map_err(|source| DataplaneError::file("pin", pin, source))
}

/// Its word has been the first of this array in every version that has flows.
fn generation(pin: &Path) -> Option<u32> {
    let array = Array::<_, u32>::try_from(Map::Array(MapData::from_pin(pin).ok()?)).ok()?;
    array.get(&0, 0).ok()
}
