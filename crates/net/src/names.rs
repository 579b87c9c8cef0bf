//! The names and Ethernet addresses of what we make in the kernel. Pure: everything follows from the instance's id, so
//! that whatever a killed daemon left behind is found again without any record of it.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Mac;
use hivemind_core::model::InstanceId;

/// The node's device: it holds the gateway addresses.
pub(super) const NODE_DEVICE: &str = "hm-node";
/// The device that the first packets for published ports are sent to.
pub const PUBLISH_DEVICE: &str = "hm-pub";
/// What the names of all our devices begin with.
pub(super) const DEVICE_PREFIX: &str = "hm";
/// The instance's end of its veth pair.
pub(super) const INSTANCE_DEVICE: &str = "eth0";
/// Marks our routes (`rtm_protocol`): no routing daemon that is registered in `rt_protos` uses it.
pub(super) const ROUTE_PROTOCOL: u8 = 104;

/// The host's end of an instance's veth pair: `hm` and the id, 12 of the 15 characters a name may have.
pub fn host_device(id: &InstanceId) -> String {
    format!("{DEVICE_PREFIX}{id}")
}

/// The instance whose host end this is.
pub fn instance_of_device(name: &str) -> Option<InstanceId> {
    name.strip_prefix(DEVICE_PREFIX)?.parse().ok()
}

/// Whether we made the device.
pub(super) fn is_ours(name: &str) -> bool {
    name == NODE_DEVICE || name == PUBLISH_DEVICE || instance_of_device(name).is_some()
}

/// The file that keeps an instance's network namespace.
pub(super) fn netns_path(dir: &Path, id: &InstanceId) -> PathBuf {
    dir.join(format!("hm-{id}"))
}

/// The instance whose network namespace this file keeps.
pub(super) fn instance_of_netns(file_name: &str) -> Option<InstanceId> {
    file_name.strip_prefix("hm-")?.parse().ok()
}

/// The Ethernet address of the host's end.
pub(super) fn host_mac(id: &InstanceId) -> Mac {
    mac(id, b"host")
}

/// The Ethernet address of the instance's end.
pub(super) fn instance_mac(id: &InstanceId) -> Mac {
    mac(id, b"instance")
}

/// 46 bits of a hash; locally administered, unicast.
fn mac(id: &InstanceId, end: &[u8]) -> Mac {
    let hash = Sha256::new().chain_update(end).chain_update(id.as_str()).finalize();
    let mut bytes = [0; 6];
    bytes.copy_from_slice(&hash[..6]);
    bytes[0] = (bytes[0] & 0b1111_1100) | 0b10;
    Mac(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_the_instance() {
        let id = InstanceId::from_bits(77);
        assert!(host_device(&id).len() <= 15);
        assert_eq!(instance_of_device(&host_device(&id)), Some(id.clone()));
        let path = netns_path(Path::new("/run/x"), &id);
        assert_eq!(path.file_name().and_then(|n| n.to_str()).and_then(instance_of_netns), Some(id));
    }

    #[test]
    fn other_peoples_names_are_not_ours() {
        for name in ["hm", "hmi0", "hm-other", "eth0", "lo", "hmABCDEFGHIJ", "hmabcdefghi1"] {
            assert!(!is_ours(name), "{name}");
        }
        for name in [NODE_DEVICE, PUBLISH_DEVICE, "hmabcdefghij"] {
            assert!(is_ours(name), "{name}");
        }
    }

    #[test]
    fn ethernet_addresses_are_local_unicast_and_differ() {
        let macs: std::collections::BTreeSet<_> = (0..1000)
            .map(InstanceId::from_bits)
            .flat_map(|id| [host_mac(&id), instance_mac(&id)])
            .inspect(|mac| assert_eq!(mac.0[0] & 0b11, 0b10, "{mac}"))
            .collect();
        assert_eq!(macs.len(), 2000);
    }
}
