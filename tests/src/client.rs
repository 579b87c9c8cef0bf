//! A container that asks a service for its page, again and again, while something happens to the daemon.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::mpsc,
};

use anyhow::{Context, Result, ensure};
use xtask::{machine::Machine, shell};

use crate::PATIENCE;

/// Asks without the daemon: through containerd, as `hivemind exec` would stop with it. Prints a letter for each answer
/// and one for each failure, and a line for every ten.
const LOOP: &str = r#"
while :; do
    line=
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        if wget -q -O /dev/null "http://$0/" 2>/dev/null; then line="${line}y"; else line="${line}n"; fi
    done
    echo "$line"
done
"#;

/// A client that asks until it is dropped.
#[derive(Debug)]
pub struct Client {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Client {
    /// Starts one in the container `container`; asks `name`, a host name or an address.
    pub fn start(machine: &Machine, container: &str, name: &str) -> Result<Self> {
        let ctr = shell::find("ctr").context("ctr is missing (hint: cargo xtask setup)")?;
        let mut command = machine.sandbox.command(ctr);
        command.arg("--address").arg(machine.containerd.socket()).args(["--namespace", "hivemind", "tasks", "exec"]);
        command.args(["--exec-id", "client", container, "sh", "-c", LOOP, name]);
        let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start the client")?;
        let out = child.stdout.take().context("the client has no output")?;
        let (sender, lines) = mpsc::channel();
        // Ends when the client's output does, or nobody listens any more.
        std::thread::spawn(move || {
            BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| sender.send(line).ok())
        });
        let mut client = Self { child, lines };
        client.all_good()?;
        Ok(client)
    }

    /// Every question since the last look must have been answered, and at least ten that are asked from now on.
    pub fn all_good(&mut self) -> Result<()> {
        let before: Vec<String> = self.lines.try_iter().collect();
        // The line that is being made may have begun before now: the second is surely later.
        let after = [(); 2].map(|()| self.lines.recv_timeout(PATIENCE));
        for line in before.into_iter().map(Ok).chain(after) {
            let line = line.context("the client says nothing any more")?;
            ensure!(line == "y".repeat(10), "questions were not answered: {line}");
        }
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // What runs in the container ends with the container.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
