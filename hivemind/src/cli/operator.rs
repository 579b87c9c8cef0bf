//! Over which connection a command is given.

use std::{net::IpAddr, path::Path};

use crate::{api::why::Operator, client::Client};

/// How many ancestors are asked.
const ANCESTORS: usize = 64;

/// The SSH connection over which the command is given, if it is, and if it is to the daemon's own machine. sudo(8) hides it
/// from its children, but not from those who may look at their ancestors.
pub(super) fn operators(client: &Client) -> Vec<Operator> {
    if !client.is_local() {
        return Vec::new();
    }
    if let Ok(text) = std::env::var("SSH_CONNECTION") {
        return read(&text).into_iter().collect();
    }
    ancestors(Path::new("/proc"), std::os::unix::process::parent_id()).into_iter().collect()
}

/// `CLIENT PORT SERVER PORT` (ssh(1)). An address of a link has its name behind it.
fn read(text: &str) -> Option<Operator> {
    let mut words = text.split_whitespace();
    let from: IpAddr = words.next()?.split('%').next()?.parse().ok()?;
    let port = words.nth(2)?.parse().ok()?;
    Some(Operator { from: from.to_canonical(), port })
}

fn ancestors(proc: &Path, first: u32) -> Option<Operator> {
    let mut pid = first;
    for _ in 0..ANCESTORS {
        let dir = proc.join(pid.to_string());
        let environment = std::fs::read(dir.join("environ")).unwrap_or_default();
        let own = |entry: &[u8]| read(std::str::from_utf8(entry.strip_prefix(b"SSH_CONNECTION=")?).ok()?);
        if let Some(found) = environment.split(|byte| *byte == 0).find_map(own) {
            return Some(found);
        }
        let status = std::fs::read_to_string(dir.join("status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        pid = parent.trim().parse().ok().filter(|pid| *pid > 0)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(from: &str, port: u16) -> Option<Operator> {
        Some(Operator { from: from.parse().expect("an address"), port })
    }

    #[test]
    fn a_connection_is_read_in_all_its_forms() {
        assert_eq!(read("192.0.2.7 50312 192.0.2.1 2222"), operator("192.0.2.7", 2222));
        assert_eq!(read("fe80::7%eth0 50312 fe80::1%eth0 22"), operator("fe80::7", 22));
        assert_eq!(read("::ffff:192.0.2.7 50312 ::ffff:192.0.2.1 22"), operator("192.0.2.7", 22));
        for wrong in ["", "192.0.2.7 1", "UNKNOWN 65535 UNKNOWN 65535", "192.0.2.7 1 192.0.2.1 x"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_ancestor_is_asked_when_sudo_has_hidden_it() {
        let proc = tempfile::tempdir().expect("a folder");
        for (pid, parent, environment) in
            [(30, 20, "A=1\0B=2\0"), (20, 10, "X=\0SSH_CONNECTION=192.0.2.7 1 192.0.2.1 22\0")]
        {
            let dir = proc.path().join(pid.to_string());
            std::fs::create_dir(&dir).expect("a folder");
            std::fs::write(dir.join("environ"), environment).expect("a file");
            std::fs::write(dir.join("status"), format!("Name:\tsh\nPPid:\t{parent}\n")).expect("a file");
        }
        assert_eq!(ancestors(proc.path(), 30), operator("192.0.2.7", 22));
        assert_eq!(ancestors(proc.path(), 10), None);
    }
}
