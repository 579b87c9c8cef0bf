//! What the host has of devices, of CDI's files, and of AppArmor's profiles.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use nix::sys::stat::{major, minor};

use super::oci::{Cdi, Device, cdi_of};
use hivemind_core::spec::v1::{ContainerSpec as Options, DeviceSpec, all_capabilities};

/// Where vendors describe their devices; what the later one says wins.
const CDI_FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// What every container has of its own in `/dev`, besides what the runtime makes.
const OWN: &[&str] =
    &["console", "fd", "full", "null", "ptmx", "pts", "random", "shm", "mqueue", "tty", "urandom", "zero"];

/// How deep devices lie beneath `/dev`.
const DEEPEST: u32 = 4;

/// The devices that a container asks for. The error is for people.
pub(super) fn devices_of(options: &Options) -> Result<Vec<Device>, String> {
    let mut devices = Vec::new();
    if options.privileged {
        // What goes while we look is no loss.
        folder(Path::new("/dev"), "/dev", "rwm", DEEPEST, &mut devices).map_err(|why| format!("/dev: {why}"))?;
        devices.retain(|device| {
            let name = device.path.trim_start_matches("/dev/").split('/').next().unwrap_or_default();
            !OWN.contains(&name)
        });
    }
    for wanted in &options.devices {
        devices_at(wanted, &mut devices)?;
    }
    Ok(devices)
}

fn devices_at(wanted: &DeviceSpec, devices: &mut Vec<Device>) -> Result<(), String> {
    let host = Path::new(&wanted.host);
    let inside = wanted.container.as_deref().unwrap_or(&wanted.host);
    let before = devices.len();
    let found = match fs::metadata(host) {
        Ok(about) if about.is_dir() => folder(host, inside, &wanted.permissions, DEEPEST, devices),
        Ok(about) => {
            devices.extend(device(&about, inside, &wanted.permissions));
            Ok(())
        }
        Err(why) => Err(why),
    };
    found.map_err(|why| format!("the device {} cannot be looked at: {why}", wanted.host))?;
    if devices.len() == before {
        return Err(format!("{} is neither a device nor a folder of devices", wanted.host));
    }
    Ok(())
}

fn folder(host: &Path, inside: &str, access: &str, deep: u32, devices: &mut Vec<Device>) -> io::Result<()> {
    for entry in fs::read_dir(host)? {
        let entry = entry?;
        let path = format!("{}/{}", inside.trim_end_matches('/'), entry.file_name().to_string_lossy());
        // Not through links: they name what is there anyway.
        let Ok(about) = entry.metadata() else { continue };
        if about.is_dir() && deep > 0 {
            // What may not be read has nothing for a container.
            let _ = folder(&entry.path(), &path, access, deep - 1, devices);
        } else {
            devices.extend(device(&about, &path, access));
        }
    }
    Ok(())
}

fn device(about: &fs::Metadata, path: &str, access: &str) -> Option<Device> {
    let (kind, number) = (about.file_type(), about.rdev());
    (kind.is_block_device() || kind.is_char_device()).then(|| Device {
        path: path.to_owned(),
        block: kind.is_block_device(),
        major: major(number),
        minor: minor(number),
        mode: about.mode() & 0o7777,
        uid: about.uid(),
        gid: about.gid(),
        access: access.to_owned(),
    })
}

/// What the devices of CDI ask for.
pub(super) fn cdi(names: &[String]) -> Result<Vec<Cdi>, String> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut files = BTreeMap::new();
    for (rank, dir) in CDI_FOLDERS.iter().rev().enumerate() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|end| ["json", "yaml", "yml"].iter().any(|known| end == *known)) {
                let text = fs::read_to_string(&path).map_err(|why| format!("{}: {why}", path.display()))?;
                // In the order of who wins.
                files.insert((rank, path.display().to_string()), text);
            }
        }
    }
    let mut edits = cdi_of(names, &files)?;
    for edit in &mut edits {
        for node in &edit.device_nodes {
            let host = node.host_path.clone().unwrap_or_else(|| node.path.clone());
            let permissions = node.permissions.clone().unwrap_or_else(DeviceSpec::all);
            let wanted = DeviceSpec { host, container: Some(node.path.clone()), permissions };
            devices_at(&wanted, &mut edit.devices)?;
        }
    }
    Ok(edits)
}

/// The capabilities that this process could give a container.
pub(super) fn capabilities() -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapBnd:")?.trim(), 16).ok());
    let has = |name: &str| number(name).is_none_or(|bit| set.is_none_or(|set| set & (1 << bit) != 0));
    all_capabilities().filter(|name| has(name)).map(str::to_owned).collect()
}

/// The capability's bit in the kernel's sets (`linux/capability.h`).
fn number(name: &str) -> Option<u32> {
    const ORDER: [&str; 41] = [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ];
    let bit = ORDER.iter().position(|known| name.strip_prefix("CAP_") == Some(known))?;
    u32::try_from(bit).ok()
}

/// The AppArmor profiles that are loaded; `None` where there is no AppArmor.
pub(super) fn apparmor() -> Option<Vec<String>> {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    enabled.starts_with('Y').then(|| {
        let text = fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default();
        // A line is `name (mode)`.
        text.lines().filter_map(|line| line.rsplit_once(" (").map(|(name, _)| name.to_owned())).collect()
    })
}

/// The kernel's version, e.g. (6, 1).
pub(super) fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.trim().parse().ok());
    (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_has_its_bit() {
        let bits: std::collections::BTreeSet<_> = all_capabilities().map(|name| number(name).expect(name)).collect();
        assert_eq!(bits, (0..41).collect());
        assert!(kernel() > (4, 0));
    }

    #[test]
    fn devices_are_those_of_the_host() {
        let of = |host: &str, container: Option<&str>, permissions: &str| {
            let (host, container) = (host.to_owned(), container.map(str::to_owned));
            let devices = vec![DeviceSpec { host, container, permissions: permissions.to_owned() }];
            devices_of(&Options { devices, ..Options::default() })
        };
        let null = of("/dev/null", Some("/dev/nothing"), "r").expect("is there");
        assert_eq!(null.len(), 1);
        assert_eq!((null[0].path.as_str(), null[0].major, null[0].minor), ("/dev/nothing", 1, 3));
        assert_eq!((null[0].block, null[0].access.as_str()), (false, "r"));
        for (host, part) in [("/dev/none", "No such file"), ("/etc/hosts", "neither a device nor")] {
            assert!(of(host, None, "rwm").expect_err(host).contains(part));
        }
        let all = devices_of(&Options { privileged: true, ..Options::default() }).expect("are there");
        assert!(!all.iter().any(|device| device.path == "/dev/null"), "every container has it anyway");
    }
}
