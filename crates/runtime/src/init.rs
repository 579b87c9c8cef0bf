//! The first process of containers that ask for one (`init/main.rs`), as `build.rs` has compiled it.

/// The program: static, of a few kilobytes.
pub(super) const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hivemind-init"));

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
        process::{Command, Output, Stdio},
    };

    use super::PROGRAM;

    fn program() -> tempfile::TempPath {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), PROGRAM).expect("is written");
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o755)).expect("can be run");
        // Closed: what is open for writing cannot be run.
        file.into_temp_path()
    }

    fn run(args: &[&str]) -> Output {
        let program = program();
        Command::new(&program).args(args).stdin(Stdio::null()).output().expect("runs")
    }

    #[test]
    fn it_ends_as_the_program_does() {
        for (args, code) in [
            (&["reap", "--", "sh", "-c", "exit 7"][..], 7),
            (&["both", "--", "/bin/sh", "-c", "kill -KILL $$"], 137),
            (&["reap", "--", "no-such-program"], 127),
            (&["hold", "--", "/no/such/program"], 127),
            (&["reap", "--", "/etc/passwd"], 126),
            (&["reap", "--"], 126),
        ] {
            let done = run(args);
            assert_eq!(done.status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        }
        assert!(String::from_utf8_lossy(&run(&["reap", "--", "x/y"]).stderr).contains("x/y: no such file"));
    }

    #[test]
    fn a_held_input_does_not_end() {
        let read = "if read -t 1 line; then echo ended; else echo \"code $?\"; fi";
        let held = run(&["hold", "--", "bash", "-c", read]);
        assert_eq!(String::from_utf8_lossy(&held.stdout), "code 142\n", "bash's answer when the time is over");
        let not = run(&["reap", "--", "bash", "-c", read]);
        assert_eq!(String::from_utf8_lossy(&not.stdout), "code 1\n");
    }

    #[test]
    fn signals_go_to_the_program() {
        let program = program();
        let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done";
        let mut child = Command::new(&program)
            .args(["reap", "--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("begins");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("an output")).read_line(&mut line).expect("is ready");
        let pid = nix::unistd::Pid::from_raw(child.id().try_into().expect("a number"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("is sent");
        let ended = child.wait().expect("ends");
        assert_eq!((ended.code(), ended.signal()), (Some(9), None));
    }
}
