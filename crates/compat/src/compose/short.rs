//! The short forms of ports, mounts, devices and hosts: texts that stand for mappings.

use std::net::IpAddr;

use super::forms::address;

/// Ports from the first to the last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last; not less than the first.
    pub last: u16,
}

impl Ports {
    /// How many they are, from 1.
    pub fn count(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    /// Whether a port is in both.
    pub fn meets(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl std::fmt::Display for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// A port's short form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Port {
    pub(super) host_ip: Option<String>,
    pub(super) published: Option<Ports>,
    pub(super) target: Ports,
    pub(super) protocol: Option<String>,
}

/// One port, or a range: `8000`, `8000-8010`.
pub(super) fn ports(text: &str) -> Result<Ports, String> {
    let one = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        let port = if digits { text.parse::<u16>().ok() } else { None };
        port.ok_or_else(|| match digits {
            true => format!("{text} is no port: ports go from 1 to 65535"),
            false => format!("\"{text}\" is no port: write a number from 1 to 65535, or a range like 8000-8010"),
        })
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let ports = Ports { first: one(first)?, last: one(last)? };
    if ports.first > ports.last {
        return Err(format!("the range {text} ends before it begins"));
    }
    Ok(ports)
}

/// A protocol's word.
fn protocol(text: &str) -> Result<String, String> {
    match text {
        "tcp" | "udp" | "sctp" => Ok(text.to_owned()),
        _ => Err(format!("\"{text}\" is no protocol: write tcp, udp or sctp")),
    }
}

/// `[IP:][PUBLISHED:]TARGET[/PROTOCOL]`.
pub(super) fn port(text: &str) -> Result<Port, String> {
    let (body, protocol) = match text.split_once('/') {
        Some((body, word)) => (body, Some(protocol(&word.to_ascii_lowercase())?)),
        None => (text, None),
    };
    let (rest, target) = match body.rsplit_once(':') {
        Some((rest, target)) => (Some(rest), target),
        None => (None, body),
    };
    let target = ports(target)?;
    if target.first == 0 {
        return Err("0 is no port of a container: write a number from 1 to 65535".to_owned());
    }
    let (host_ip, published) = match rest {
        None => (None, None),
        // An address of version 6 without brackets: the last colon before the published port ends it.
        Some(rest) => match rest.rsplit_once(':') {
            Some((ip, published)) => {
                let ip = if ip.is_empty() { None } else { Some(address(ip)?.to_string()) };
                (ip, if published.is_empty() { None } else { Some(ports(published)?) })
            }
            None if rest.parse::<IpAddr>().is_ok() => (Some(rest.to_owned()), None),
            None => (None, Some(ports(rest)?)),
        },
    };
    if let Some(published) = published
        && published.count() != target.count()
        && target.count() != 1
    {
        return Err(format!(
            "{} published ports do not fit {} of the container: make both ranges as long",
            published.count(),
            target.count()
        ));
    }
    Ok(Port { host_ip, published, target, protocol })
}

/// `PORT[-PORT][/PROTOCOL]`.
pub(super) fn exposed(text: &str) -> Result<(Ports, Option<String>), String> {
    match text.split_once('/') {
        Some((body, word)) => Ok((ports(body)?, Some(protocol(&word.to_ascii_lowercase())?))),
        None => Ok((ports(text)?, None)),
    }
}

/// A mount's short form.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Mount {
    pub(super) source: Option<String>,
    pub(super) target: String,
    pub(super) read_only: bool,
    pub(super) nocopy: bool,
    pub(super) propagation: Option<String>,
    pub(super) selinux: Option<String>,
    /// `cached` and such: accepted by everybody, with no effect on Linux.
    pub(super) consistency: Option<String>,
}

impl Mount {
    /// Whether the source is a path of the host, as opposed to a volume's name.
    pub(super) fn is_bind(&self) -> bool {
        self.source.as_deref().is_some_and(is_path)
    }
}

/// Whether a text is a path, as opposed to a name.
pub(super) fn is_path(text: &str) -> bool {
    text.starts_with(['.', '/', '~'])
}

/// `[SOURCE:]TARGET[:OPTION[,OPTION…]]`.
pub(super) fn mount(text: &str) -> Result<Mount, String> {
    if text.is_empty() {
        return Err("an empty text is no mount: write SOURCE:TARGET".to_owned());
    }
    let parts: Vec<&str> = text.split(':').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(format!("\"{text}\" has nothing between two colons, or before or after one: write SOURCE:TARGET"));
    }
    // `c:/a:/b` has two paths; a volume may well be named `v`.
    let letter = parts[0].len() == 1 && parts[0].chars().all(|c| c.is_ascii_alphabetic());
    let second = |start: char, at: usize| parts.get(at).is_some_and(|part| part.starts_with(start));
    if letter && (second('\\', 1) || second('/', 2)) {
        return Err(format!("\"{text}\" has a path of Windows: write one of this machine, e.g. /srv/data"));
    }
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err(format!("\"{text}\" has too many colons: write SOURCE:TARGET:OPTIONS")),
    };
    if !target.starts_with('/') {
        // `data:ro` is not meant as a volume without a name at `data`.
        return Err(format!("\"{target}\" is no absolute path in the container: write SOURCE:/PATH"));
    }
    let mut mount = Mount { source: source.map(str::to_owned), target: clean(target), ..Mount::default() };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.read_only = true,
            "rw" => mount.read_only = false,
            "nocopy" => mount.nocopy = true,
            "z" | "Z" => mount.selinux = Some(option.to_owned()),
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                mount.propagation = Some(option.to_owned());
            }
            "cached" | "delegated" | "consistent" => mount.consistency = Some(option.to_owned()),
            _ => {
                return Err(format!(
                    "\"{option}\" is no option of a mount: write ro, rw, nocopy, z, Z, or a propagation such as rslave"
                ));
            }
        }
    }
    Ok(mount)
}

/// A path without doubled and trailing slashes, `.` and `..`.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let absolute = path.starts_with('/');
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if absolute => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// `SOURCE[:TARGET[:RIGHTS]]`, or a device's name of CDI, `vendor/class=name`, which has no target.
pub(super) fn device(text: &str) -> Result<(String, String, String), String> {
    let cdi = !text.starts_with('/') && text.contains('/') && text.contains('=');
    let parts: Vec<&str> = if cdi { vec![text] } else { text.split(':').collect() };
    let wrong =
        || format!("\"{text}\" is no device: write /dev/NAME, /dev/NAME:/dev/TARGET or /dev/NAME:/dev/TARGET:rwm");
    if parts.iter().any(|part| part.is_empty()) {
        return Err(wrong());
    }
    let is_rights = |part: &str| part.chars().all(|c| matches!(c, 'r' | 'w' | 'm'));
    let (source, target, rights) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, rights] if is_rights(rights) => (source, source, rights),
        [source, target] => (source, target, "rwm"),
        [source, target, rights] if is_rights(rights) => (source, target, rights),
        _ => return Err(wrong()),
    };
    let absolute = source.starts_with('/') && target.starts_with('/');
    if !(cdi || absolute) {
        return Err(wrong());
    }
    Ok((source.to_owned(), target.to_owned(), rights.to_owned()))
}

/// `NAME=ADDRESS` or `NAME:ADDRESS`.
pub(super) fn host(text: &str) -> Result<(String, String), String> {
    let (name, ip) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or_else(|| format!("\"{text}\" names no address: write NAME=ADDRESS, e.g. db.local=10.0.0.5"))?;
    let ip = host_address(ip)?;
    if name.trim().is_empty() {
        return Err(format!("\"{text}\" names no host: write NAME=ADDRESS, e.g. db.local=10.0.0.5"));
    }
    Ok((name.trim().to_owned(), ip))
}

/// The address of a host's name: an IP address, or `host-gateway`, the node itself.
pub(super) fn host_address(text: &str) -> Result<String, String> {
    match text.trim() {
        "host-gateway" => Ok("host-gateway".to_owned()),
        text => address(text).map(|ip| ip.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_short() {
        let rows = [
            ("80", "- - 80 -"),
            ("8080:80", "- 8080 80 -"),
            ("8080:80/UDP", "- 8080 80 udp"),
            ("127.0.0.1:8080:80", "127.0.0.1 8080 80 -"),
            ("127.0.0.1::80", "127.0.0.1 - 80 -"),
            ("127.0.0.1:80", "127.0.0.1 - 80 -"),
            ("[::1]:8080:80", "::1 8080 80 -"),
            ("::1:8080:80", "::1 8080 80 -"),
            ("3000-3005", "- - 3000-3005 -"),
            ("9090-9091:8080-8081", "- 9090-9091 8080-8081 -"),
            ("8000-9000:80", "- 8000-9000 80 -"),
            ("0:80", "- 0 80 -"),
        ];
        for (text, wanted) in rows {
            let port = port(text).unwrap();
            let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            let published = dash(port.published.map(|ports| ports.to_string()));
            let read = format!("{} {published} {} {}", dash(port.host_ip), port.target, dash(port.protocol));
            assert_eq!(read, wanted, "{text}");
        }
        for text in ["", "x", "80:", "0", "70000", "80/icmp", "1-2:1-3", "9-8", "a:80:80", "80:x:80", "+80"] {
            assert!(port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn mounts_in_short() {
        let rows = [
            ("/data", false, None, "/data", false),
            ("db:/var/lib//x/", false, Some("db"), "/var/lib/x", false),
            ("./a:/b:ro", true, Some("./a"), "/b", true),
            ("~/a:/b:rw,z", true, Some("~/a"), "/b", false),
            ("/a:/b:ro,rslave", true, Some("/a"), "/b", true),
            ("..:/b:cached", true, Some(".."), "/b", false),
        ];
        for (text, bind, source, target, read_only) in rows {
            let mount = mount(text).unwrap();
            let read = (mount.is_bind(), mount.source.as_deref(), mount.target.as_str(), mount.read_only);
            assert_eq!(read, (bind, source, target, read_only), "{text}");
        }
        for text in ["", ":", "a:", ":/a", "a:b", "a:/b:ro:x", "a:/b:xyz", "C:\\a:/b", "c:/a:/b", "data:ro"] {
            assert!(mount(text).is_err(), "{text}");
        }
    }

    #[test]
    fn devices_and_hosts_in_short() {
        let device = |text| device(text).map(|(a, b, c)| format!("{a} {b} {c}"));
        assert_eq!(device("/dev/kvm").unwrap(), "/dev/kvm /dev/kvm rwm");
        assert_eq!(device("/dev/a:/dev/b:r").unwrap(), "/dev/a /dev/b r");
        assert_eq!(device("/dev/a:rw").unwrap(), "/dev/a /dev/a rw");
        assert_eq!(device("nvidia.com/gpu=all").unwrap(), "nvidia.com/gpu=all nvidia.com/gpu=all rwm");
        for text in ["", "x", "/dev/a:b", "/dev/a:/b:x", "/dev/a:/b:r:w"] {
            assert!(device(text).is_err(), "{text}");
        }
        let host = |text| host(text).map(|(a, b)| format!("{a} {b}"));
        for (text, wanted) in [
            ("a=10.0.0.1", "a 10.0.0.1"),
            ("a:10.0.0.1", "a 10.0.0.1"),
            ("a:::1", "a ::1"),
            ("a=[::1]", "a ::1"),
            ("host.docker.internal:host-gateway", "host.docker.internal host-gateway"),
        ] {
            assert_eq!(host(text).unwrap(), wanted);
        }
        for text in ["", "a", "=10.0.0.1", "a=b", "a="] {
            assert!(host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths_are_cleaned() {
        for (path, wanted) in [("/a//b/../c/.", "/a/c"), ("/..", "/"), ("a/..", "."), ("../a", "../a"), ("/", "/")] {
            assert_eq!(clean(path), wanted);
        }
    }
}
