//! Credential helpers: programs `docker-credential-NAME` that keep what a file should not
//! (github.com/docker/docker-credential-helpers). `get` reads the server from standard input and writes JSON.
//!
//! A helper runs as the owner of the file that names it, can gain no privileges, has an environment of two variables, and a
//! limit of time. What it writes is shown to nobody: it may be a secret.

use std::{
    ffi::OsString,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::{
        prctl,
        signal::{Signal, killpg},
    },
    unistd::{Pid, Uid, User},
};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    runtime::Handle,
    time::timeout,
};

use super::credentials::{Credentials, credentials};

/// Long enough for one that asks a cloud; who pulls waits.
const LIMIT: Duration = Duration::from_secs(20);

/// Bytes of an answer at most.
const MAX_ANSWER: u64 = 1 << 20;

/// What helpers say that have nothing (docker-credential-helpers, credentials/error.go).
const NOT_FOUND: &str = "credentials not found";

/// As whom a helper runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// A helper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Helper {
    /// What follows `docker-credential-`.
    pub(super) name: String,
    pub(super) owner: Owner,
}

/// As the protocol has it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Asks a helper for the credentials of a server. The error says why there are none, without what the helper wrote.
pub(super) async fn ask(helper: &Helper, server: &str) -> Result<Credentials, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = find(&helper.name, &path)?;
    let mut child = spawn(program, path, helper.owner).await?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let talked = timeout(LIMIT, talk(&mut child, server)).await;
    let (well, answer) = match talked {
        Ok(talked) => talked.map_err(|error| error.to_string())?,
        Err(_) => {
            // With whatever it has started.
            if let Some(group) = group {
                let _ = killpg(group, Signal::SIGKILL);
            }
            let _ = child.wait().await;
            return Err(format!("it has not answered for {} s", LIMIT.as_secs()));
        }
    };
    let by_hand = format!("see what it says: echo {server} | docker-credential-{} get", helper.name);
    match well {
        Some(0) => {
            let read = serde_json::from_slice(&answer);
            let Answer { username, secret } = read.map_err(|_| format!("its answer is no JSON; {by_hand}"))?;
            Ok(if secret.is_empty() { Credentials::None } else { credentials(username, secret) })
        }
        _ if String::from_utf8_lossy(&answer).contains(NOT_FOUND) => Ok(Credentials::None),
        Some(code) => Err(format!("it ended with code {code}; {by_hand}")),
        None => Err(format!("it was ended by a signal; {by_hand}")),
    }
}

/// Asks, and returns the exit code with what was said.
async fn talk(child: &mut Child, server: &str) -> std::io::Result<(Option<i32>, Vec<u8>)> {
    if let Some(mut input) = child.stdin.take() {
        // One that needs no question may have closed it.
        let _ = input.write_all(server.as_bytes()).await;
    }
    let mut answer = Vec::new();
    if let Some(output) = child.stdout.take() {
        output.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    }
    Ok((child.wait().await?.code(), answer))
}

/// The program of a helper, in the first absolute folder of `path` that has it.
fn find(name: &str, path: &std::ffi::OsStr) -> Result<PathBuf, String> {
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Err("that is no name of a helper".to_owned());
    }
    let program = format!("docker-credential-{name}");
    let folders = std::env::split_paths(path).filter(|folder| folder.is_absolute());
    let found = folders.map(|folder| folder.join(&program)).find(|file| file.is_file());
    let found = found.ok_or_else(|| format!("there is no {program} in the daemon's PATH"))?;
    match writable(&found) {
        Ok(false) => Ok(found),
        Ok(true) => Err(format!("others than its owner may write {}: chmod go-w it", found.display())),
        Err(error) => Err(format!("{}: {error}", found.display())),
    }
}

fn writable(file: &Path) -> std::io::Result<bool> {
    Ok(std::fs::metadata(file)?.mode() & 0o022 != 0)
}

/// Starts a helper from a thread of its own: what a thread may not gain, its children may not, and threads of the
/// runtime's are used again.
async fn spawn(program: PathBuf, path: OsString, owner: Owner) -> Result<Child, String> {
    let (sender, started) = tokio::sync::oneshot::channel();
    let runtime = Handle::current();
    std::thread::spawn(move || {
        let start = || -> std::io::Result<Child> {
            let _entered = runtime.enter();
            let home = User::from_uid(Uid::from_raw(owner.uid)).ok().flatten().map_or("/".into(), |user| user.dir);
            prctl::set_no_new_privs()?;
            let mut command = Command::new(program);
            command.arg("get").env_clear().env("PATH", path).env("HOME", home).current_dir("/");
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            command.process_group(0).kill_on_drop(true);
            // Root's stay root's; std clears the groups when it may.
            if owner.uid != nix::unistd::geteuid().as_raw() {
                command.uid(owner.uid).gid(owner.gid);
            }
            command.spawn()
        };
        // Whoever asked may be gone.
        let _ = sender.send(start());
    });
    match started.await {
        Ok(Ok(child)) => Ok(child),
        Ok(Err(error)) => Err(format!("it cannot be started: {error}")),
        Err(_) => Err("the thread that starts it has ended".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_programs_that_nobody_else_can_change_are_helpers() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("docker-credential-own");
        std::fs::write(&file, "").expect("written");
        let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("set");
        let path = std::env::join_paths([Path::new("relative"), dir.path()]).expect("a path");
        mode(0o755);
        assert_eq!(find("own", &path), Ok(file.clone()));
        mode(0o775);
        assert!(find("own", &path).expect_err("is refused").contains("chmod"));
        assert!(find("other", &path).expect_err("is refused").contains("no docker-credential-other"));
        for name in ["", "../own", "a b", "a/b"] {
            assert!(find(name, &path).expect_err(name).contains("no name"), "{name}");
        }
    }

    async fn run(script: &str) -> Result<Credentials, String> {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("helper");
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("set");
        let owner = Owner { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
        let mut child = spawn(file, "/usr/bin:/bin".into(), owner).await.expect("started");
        let (code, answer) = talk(&mut child, "r.io").await.expect("answers");
        Ok(Credentials::Password { user: format!("{code:?}"), password: String::from_utf8_lossy(&answer).into() })
    }

    #[tokio::test]
    async fn a_helper_has_little() {
        let said = run("cat; echo; env | sort; grep NoNewPrivs /proc/self/status; exit 3").await.expect("runs");
        let Credentials::Password { user, password } = said else { panic!("{said:?}") };
        assert_eq!(user, "Some(3)");
        // The shell adds some of its own.
        let own = |line: &&str| !["_=", "PWD=", "OLDPWD=", "SHLVL="].iter().any(|start| line.starts_with(start));
        let lines: Vec<_> = password.lines().filter(own).collect();
        let [server, home, path, privileges] = lines[..] else { panic!("{lines:?}") };
        assert_eq!((server, path, privileges), ("r.io", "PATH=/usr/bin:/bin", "NoNewPrivs:\t1"));
        assert!(home.starts_with("HOME=/"), "{home}");
        // The thread that started it is gone; this one may still gain.
        let own = std::fs::read_to_string("/proc/thread-self/status").expect("is read");
        assert!(own.lines().any(|line| line == "NoNewPrivs:\t0"), "{own}");
    }
}
