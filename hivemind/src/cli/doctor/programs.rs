//! Programs that the daemon works with.

use std::{os::unix::net::UnixStream, path::PathBuf, time::Duration};

use super::Finding;
use crate::{
    daemon::DaemonConfig,
    runtime::{ContainerdRuntime, Runtime, RuntimeConfig},
};

/// A containerd that is well answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn containerd(config: &DaemonConfig) -> Finding {
    let socket = &config.containerd_socket;
    let fail = |why: String, mend: &str| Finding::fail("containerd", format!("{}: {why}", socket.display()), mend);
    if let Err(error) = UnixStream::connect(socket) {
        let mend = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "apt-get install containerd && systemctl start containerd; or name its socket with --containerd-socket"
            }
            std::io::ErrorKind::PermissionDenied => "run it with sudo",
            _ => "systemctl restart containerd; journalctl -u containerd",
        };
        return fail(error.to_string(), mend);
    }
    let runtime = RuntimeConfig {
        socket: socket.clone(),
        namespace: config.containerd_namespace.clone(),
        ..RuntimeConfig::default()
    };
    let asked = async { ContainerdRuntime::connect(runtime)?.version().await };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(version)) => Finding::ok("containerd", format!("{version} at {}", socket.display())),
        Ok(Err(error)) => fail(error.to_string(), "systemctl status containerd"),
        Err(_) => fail(format!("no answer for {} s", PATIENCE.as_secs()), "systemctl restart containerd"),
    }
}

pub(super) fn runc() -> Finding {
    program("runc", "apt-get install runc")
}

pub(super) fn nft() -> Finding {
    program("nft", "apt-get install nftables   (masquerade and published ports need it)")
}

fn program(name: &'static str, mend: &str) -> Finding {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&path).chain(usual).map(|dir| dir.join(name)).find(|file| file.is_file());
    match found {
        Some(file) => Finding::ok(name, file.display().to_string()),
        None => Finding::fail(name, "not found", mend),
    }
}
