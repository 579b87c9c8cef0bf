//! A terminal that commands are typed in.

use std::{
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command},
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    pty::{Winsize, openpty},
    sys::termios::{LocalFlags, tcgetattr},
    unistd::{Pid, ttyname},
};
use xtask::{machine::Machine, shell, wait};

use crate::PATIENCE;

/// `hivemind <args>` with a terminal of its own, which is its controlling terminal, as in a person's window.
pub struct Terminal {
    master: OwnedFd,
    /// Kept open, so that the terminal can be looked at when the command has ended.
    slave: OwnedFd,
    child: Child,
    seen: String,
}

impl Terminal {
    /// Runs it in a terminal of this size.
    pub fn open(machine: &Machine, rows: u16, cols: u16, args: &[&str]) -> Result<Self> {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).context("cannot make a terminal")?;
        fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // A session of its own whose terminal this is: without one, nobody would tell of a new size.
        let mut command = machine.sandbox.command("setsid");
        command.args(["--ctty", "--wait"]).arg(machine.daemon.program()).args(args);
        command.env("HIVEMIND_SOCKET", machine.daemon.socket()).env("NO_COLOR", "1");
        command.stdin(pty.slave.try_clone()?).stdout(pty.slave.try_clone()?).stderr(pty.slave.try_clone()?);
        let child = command.spawn().context("cannot run setsid")?;
        Ok(Self { master: pty.master, slave: pty.slave, child, seen: String::new() })
    }

    /// The process of the command itself.
    pub fn pid(&self) -> Result<Pid> {
        // `setsid` leads a group, so it has forked: the command is its child.
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let pid = std::fs::read_to_string(children)?.trim().parse().context("no child")?;
        Ok(Pid::from_raw(pid))
    }

    /// What was shown after what was waited for last.
    pub fn seen(&self) -> &str {
        &self.seen
    }

    /// What its user types.
    pub fn types(&self, text: &str) -> Result<()> {
        nix::unistd::write(&self.master, text.as_bytes()).map(drop).context("the terminal takes nothing")
    }

    /// Waits until the screen shows `text` after what was waited for last.
    pub fn shows(&mut self, text: &str) -> Result<()> {
        wait::until(&format!("{text:?} on the terminal"), PATIENCE, || {
            self.read();
            let at = self.seen.find(text).with_context(|| format!("it shows {:?}", self.seen))?;
            self.seen.drain(..at + text.len());
            Ok(())
        })
    }

    fn read(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = nix::unistd::read(&self.master, &mut buffer) {
            self.seen += &String::from_utf8_lossy(&buffer[..n]);
        }
    }

    /// Its user drags the corner of the window.
    pub fn resize(&self, rows: u16, cols: u16) -> Result<()> {
        let (rows, cols) = (rows.to_string(), cols.to_string());
        let name = ttyname(&self.slave)?;
        shell::output(Command::new("stty").arg("-F").arg(name).args(["rows", &rows, "cols", &cols])).map(drop)
    }

    /// Whether lines are edited and echoed here: not while a terminal in the container does so.
    pub fn is_raw(&self) -> Result<bool> {
        let flags = tcgetattr(self.slave.as_fd())?.local_flags;
        Ok(!flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG))
    }

    /// The exit code; the terminal must be as it was before.
    pub fn ended(&mut self) -> Result<i32> {
        let status = wait::until("the command to end", PATIENCE, || {
            self.read();
            self.child.try_wait()?.ok_or_else(|| anyhow!("it still runs and shows {:?}", self.seen))
        })?;
        self.read();
        let now = tcgetattr(self.slave.as_fd())?;
        let usual = openpty(None, None)?;
        ensure!(now == tcgetattr(usual.slave.as_fd())?, "the terminal is left as {now:?}");
        status.code().context("a signal ended it")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // What it started ends with the sandbox.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
