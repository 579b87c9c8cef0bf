//! The short forms, as Docker's flags and Compose files have them. They only take text apart: whether what is said can
//! be is checked with the document.

use std::net::IpAddr;

use super::{DeviceSpec, ExtraHost, Seccomp, SecuritySpec, TmpfsSpec, UNLIMITED, Ulimit};

/// `nofile=1024:2048`, `nproc=64`, `memlock=-1` or `memlock=unlimited`.
pub fn ulimit(text: &str) -> Result<(String, Ulimit), String> {
    let form =
        || format!("{text:?} is not a limit; write nofile=1024, or nofile=1024:2048 (soft:hard), -1 is unlimited");
    let number = |text: &str| match text {
        "unlimited" => Ok(UNLIMITED),
        text => text.parse().map_err(|_| form()),
    };
    let (name, limits) = text.split_once('=').ok_or_else(form)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    Ok((name.to_owned(), Ulimit { soft: number(soft)?, hard: number(hard)? }))
}

/// `net.core.somaxconn=1024`.
pub fn sysctl(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("{text:?} is not a kernel parameter; write NAME=VALUE, e.g. net.core.somaxconn=1024")),
    }
}

/// `/run`, `/tmp:size=64m,mode=1777,uid=5,gid=5,exec`. Docker's other options are what is done in any case.
pub fn tmpfs(text: &str) -> Result<TmpfsSpec, String> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let mut spec = TmpfsSpec::new(path);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let bad = |why: &str| format!("{text:?}: {option:?} {why}");
        match option.split_once('=').unwrap_or((option, "")) {
            ("size", size) => spec.size = Some(size.parse().map_err(|why| bad(&format!("is not a size: {why}")))?),
            ("mode", mode) => spec.mode = Some(mode.to_owned()),
            ("uid", uid) => spec.uid = Some(uid.parse().map_err(|_| bad("is not a user's number"))?),
            ("gid", gid) => spec.gid = Some(gid.parse().map_err(|_| bad("is not a group's number"))?),
            ("exec", "") => spec.exec = true,
            ("noexec", "") => spec.exec = false,
            ("rw" | "nosuid" | "nodev", "") => {}
            _ => return Err(bad("is not known; write size=, mode=, uid=, gid= or exec")),
        }
    }
    Ok(spec)
}

/// What `--device` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// A device of the host.
    Host(DeviceSpec),
    /// A name of CDI.
    Cdi(String),
}

/// `/dev/fuse`, `/dev/sda:/dev/xvda:r`, `/dev/fuse:rw`, or a name of CDI as `nvidia.com/gpu=0`.
pub fn device_name(text: &str) -> Result<DeviceName, String> {
    if !text.starts_with('/') && text.contains('/') && text.contains('=') {
        return Ok(DeviceName::Cdi(text.to_owned()));
    }
    let parts: Vec<&str> = text.split(':').collect();
    let device = |container: Option<&&str>, permissions: Option<&&str>| {
        DeviceName::Host(DeviceSpec {
            host: parts[0].to_owned(),
            container: container.map(|path| (*path).to_owned()),
            permissions: permissions.map_or_else(DeviceSpec::all, |letters| (*letters).to_owned()),
        })
    };
    match parts.as_slice() {
        [_] => Ok(device(None, None)),
        [_, path] if path.starts_with('/') => Ok(device(Some(path), None)),
        [_, letters] => Ok(device(None, Some(letters))),
        [_, path, letters] => Ok(device(Some(path), Some(letters))),
        _ => {
            Err(format!("{text:?} is not a device; write HOST[:CONTAINER][:rwm], or a name of CDI as vendor.com/gpu=0"))
        }
    }
}

/// `db:10.1.2.3`, `db=10.1.2.3`, `db=[2001:db8::1]`, `db:2001:db8::1`, `node:host-gateway`.
pub fn extra_host(text: &str) -> Result<ExtraHost, String> {
    // A name has neither of the two; an address may have colons.
    match text.find(['=', ':']).map(|at| (&text[..at], &text[at + 1..])) {
        Some((name, address)) if !name.is_empty() && !address.is_empty() => {
            let inner = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
            // In one form, so that the same address is the same document.
            let address = inner.parse().map_or_else(|_| inner.to_owned(), |address: IpAddr| address.to_string());
            Ok(ExtraHost { name: name.to_owned(), address })
        }
        _ => Err(format!("{text:?} is not a host; write NAME:ADDRESS, e.g. db:192.0.2.7 or node:host-gateway")),
    }
}

/// Name and value of a security option.
fn security_words(text: &str) -> (&str, &str) {
    text.find(['=', ':']).map_or((text, ""), |at| (&text[..at], &text[at + 1..]))
}

/// The file that a security option names: that of `seccomp=FILE`.
pub fn seccomp_file(text: &str) -> Option<&str> {
    match security_words(text) {
        ("seccomp", "" | "unconfined" | "builtin" | "default") => None,
        ("seccomp", file) => Some(file),
        _ => None,
    }
}

/// `no-new-privileges[:true|false]`, `seccomp=unconfined`, `seccomp=FILE`, `apparmor=PROFILE`, with `=` or `:`. `read`
/// gives the content of a file.
pub fn security_option(
    security: &mut SecuritySpec,
    text: &str,
    read: impl FnOnce(&str) -> Result<String, String>,
) -> Result<(), String> {
    match security_words(text) {
        ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
        ("no-new-privileges", "false") => security.no_new_privileges = false,
        ("seccomp", "unconfined") => security.seccomp = Seccomp::Unconfined,
        // Docker's word for its own profile.
        ("seccomp", "builtin" | "default") => security.seccomp = Seccomp::Default,
        ("seccomp", file) if !file.is_empty() => {
            let profile = serde_json::from_str(&read(file)?).map_err(|why| format!("{file} is not JSON: {why}"))?;
            security.seccomp = Seccomp::Profile(profile);
        }
        ("apparmor", profile) if !profile.is_empty() => security.apparmor = Some(profile.to_owned()),
        _ => {
            let known = "no-new-privileges[=false], seccomp=unconfined, seccomp=FILE or apparmor=PROFILE";
            return Err(format!("{text:?} is not known; write {known}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Bytes;

    #[test]
    fn limits_are_soft_and_hard() {
        let limit = |soft, hard| Ulimit { soft, hard };
        assert_eq!(ulimit("nofile=1024:2048"), Ok(("nofile".into(), limit(1024, 2048))));
        assert_eq!(ulimit("nproc=64"), Ok(("nproc".into(), limit(64, 64))));
        assert_eq!(ulimit("memlock=unlimited:-1"), Ok(("memlock".into(), limit(-1, -1))));
        for wrong in ["nofile", "nofile=", "nofile=a", "nofile=1:2:3", "nofile=1,2"] {
            assert!(ulimit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn file_systems_in_memory_are_read_as_docker_reads_them() {
        assert_eq!(tmpfs("/run"), Ok(TmpfsSpec::new("/run")));
        let full = TmpfsSpec {
            size: Some(Bytes(64 << 20)),
            mode: Some("0755".into()),
            uid: Some(5),
            gid: Some(6),
            exec: true,
            ..TmpfsSpec::new("/tmp")
        };
        assert_eq!(tmpfs("/tmp:rw,nosuid,nodev,exec,size=65536k,mode=0755,uid=5,gid=6"), Ok(full));
        for wrong in ["/t:size=x", "/t:ro", "/t:uid=root", "/t:nr_inodes=5"] {
            assert!(tmpfs(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn devices_are_of_the_host_or_of_cdi() {
        let host = |host: &str, container: Option<&str>, permissions: &str| {
            let (host, container) = (host.to_owned(), container.map(str::to_owned));
            Ok(DeviceName::Host(DeviceSpec { host, container, permissions: permissions.to_owned() }))
        };
        assert_eq!(device_name("/dev/fuse"), host("/dev/fuse", None, "rwm"));
        assert_eq!(device_name("/dev/fuse:rw"), host("/dev/fuse", None, "rw"));
        assert_eq!(device_name("/dev/a:/dev/b"), host("/dev/a", Some("/dev/b"), "rwm"));
        assert_eq!(device_name("/dev/a:/dev/b:r"), host("/dev/a", Some("/dev/b"), "r"));
        assert_eq!(device_name("nvidia.com/gpu=all"), Ok(DeviceName::Cdi("nvidia.com/gpu=all".into())));
        assert!(device_name("/a:/b:r:w").is_err());
    }

    #[test]
    fn hosts_have_addresses_of_both_families() {
        for (text, name, address) in [
            ("db:10.1.2.3", "db", "10.1.2.3"),
            ("db=10.1.2.3", "db", "10.1.2.3"),
            ("db=[2001:DB8::1]", "db", "2001:db8::1"),
            ("db:2001:db8::1", "db", "2001:db8::1"),
            ("node:host-gateway", "node", "host-gateway"),
        ] {
            assert_eq!(extra_host(text), Ok(ExtraHost { name: name.into(), address: address.into() }), "{text}");
        }
        for wrong in ["db", "db:", ":10.0.0.1", "="] {
            assert!(extra_host(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn security_options_are_dockers() {
        let mut security = SecuritySpec::default();
        let set = |security: &mut SecuritySpec, text: &str| {
            security_option(security, text, |file| match file {
                "own.json" => Ok(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#.into()),
                "torn.json" => Ok("{".into()),
                other => Err(format!("{other}: no such file")),
            })
        };
        for text in ["no-new-privileges:false", "seccomp=own.json", "apparmor=own"] {
            set(&mut security, text).expect("is known");
        }
        let profile = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW"});
        let (seccomp, apparmor) = (Seccomp::Profile(profile), Some("own".to_owned()));
        assert_eq!(security, SecuritySpec { seccomp, no_new_privileges: false, apparmor });
        for text in ["no-new-privileges", "seccomp:unconfined", "apparmor=unconfined"] {
            set(&mut security, text).expect("is known");
        }
        let (seccomp, apparmor) = (Seccomp::Unconfined, Some("unconfined".to_owned()));
        assert_eq!(security, SecuritySpec { seccomp, no_new_privileges: true, apparmor });
        for wrong in ["label=disable", "seccomp", "seccomp=none.json", "seccomp=torn.json", "no-new-privileges=x", ""] {
            assert!(set(&mut security, wrong).is_err(), "{wrong}");
        }
    }
}
