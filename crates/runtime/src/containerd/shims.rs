//! Shims that containerd has forgotten, and what they leave.
//!
//! A shim ends when its task is removed. Before 2.0 containerd breaks the removal off when the caller's connection ends
//! (the daemon was killed): the task is gone then, but the shim stays for ever, with nothing in it.

use std::{fs, path::Path, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

/// Where the shim has runc keep its records, by namespace.
const RUNC_ROOT: &str = "/run/containerd/runc";
/// A shim that was told to end has this long.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked for.
const PERIOD: Duration = Duration::from_millis(20);

/// Waits for the shim of a container that has neither a task nor a record, and ends it if it does not end by itself.
pub(super) async fn end_leftover(namespace: &str, id: &str) {
    let deadline = Instant::now() + PATIENCE;
    while let Some(pid) = find(namespace, id) {
        if Instant::now() >= deadline {
            tracing::warn!(id, %pid, "a shim that containerd has forgotten is ended");
            // It may have ended just now.
            let _ = kill(pid, Signal::SIGKILL);
            return;
        }
        sleep(PERIOD).await;
    }
}

/// Takes away what a start that was broken off left of a container that has no task: its shim, and runc's record of it.
pub(super) async fn clear_leftovers(namespace: &str, id: &str) {
    end_leftover(namespace, id).await;
    let root = Path::new(RUNC_ROOT).join(namespace);
    if !root.join(id).exists() {
        return;
    }
    let delete = Command::new("runc").arg("--root").arg(&root).args(["delete", "--force", id]).output().await;
    match delete {
        Ok(output) if output.status.success() => tracing::warn!(id, "runc's record of a broken start is removed"),
        Ok(output) => tracing::warn!(id, why = %String::from_utf8_lossy(&output.stderr), "runc keeps a broken start"),
        Err(error) => tracing::warn!(id, %error, "runc cannot be run"),
    }
}

/// The process of the shim. A look at every process's command line: a millisecond for some hundred.
fn find(namespace: &str, id: &str) -> Option<Pid> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .find(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command| is_shim(&command, namespace, id)))
}

fn is_shim(command: &[u8], namespace: &str, id: &str) -> bool {
    let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
    let has = |flag: &str, value: &str| {
        words.windows(2).any(|pair| pair[0] == flag.as_bytes() && pair[1] == value.as_bytes())
    };
    words[0].ends_with(b"containerd-shim-runc-v2") && has("-namespace", namespace) && has("-id", id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_own_shim_is_meant() {
        let command = |id: &str| {
            format!("/usr/bin/containerd-shim-runc-v2\0-namespace\0hivemind\0-id\0{id}\0-address\0/run/c.sock\0")
        };
        assert!(is_shim(command("abc").as_bytes(), "hivemind", "abc"));
        assert!(!is_shim(command("abcd").as_bytes(), "hivemind", "abc"));
        assert!(!is_shim(command("abc").as_bytes(), "k8s.io", "abc"));
        assert!(!is_shim(b"sh\0-namespace\0hivemind\0-id\0abc\0", "hivemind", "abc"));
        assert!(!is_shim(b"", "hivemind", "abc"));
    }
}
