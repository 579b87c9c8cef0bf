//! Kernel parameters. `/proc/sys/net` shows those of the calling thread's network namespace.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::NetError;

/// What routing for instances needs on the node.
const FORWARDING: [(&str, bool); 2] = [("net/ipv4/ip_forward", false), ("net/ipv6/conf/all/forwarding", true)];

fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

/// The parameter's value, without surrounding space.
pub(super) fn get(name: &str) -> io::Result<String> {
    Ok(std::fs::read_to_string(path(name))?.trim().to_owned())
}

/// Sets a parameter, unless it has that value. A parameter that this kernel lacks (IPv6 is switched off) is no error:
/// what needs it fails by itself, with a clearer message.
pub(super) fn set(name: &str, value: &str) -> Result<(), NetError> {
    match get(name) {
        Ok(is) if is.split_whitespace().eq(value.split_whitespace()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => std::fs::write(path(name), value).map_err(NetError::file("write", path(name))),
    }
}

/// Lets the node forward. `others` are the devices that are not ours: a device that listened to router advertisements
/// (`accept_ra` 1) would stop, and lose its default route, the moment the node forwards; 2 says "all the same".
pub(super) fn ensure_forwarding(v4: bool, v6: bool, others: &[String]) -> Result<(), NetError> {
    if v6 {
        for device in others {
            // '.' is allowed in names (VLANs) and is no separator in a path.
            let name = format!("net/ipv6/conf/{device}/accept_ra");
            if get(&name).is_ok_and(|is| is == "1") {
                set(&name, "2")?;
            }
        }
    }
    for (name, is_v6) in FORWARDING {
        if if is_v6 { v6 } else { v4 } {
            set(name, "1")?;
        }
    }
    Ok(())
}
