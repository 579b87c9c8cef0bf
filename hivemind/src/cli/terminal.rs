//! The terminal in raw mode.

use std::os::fd::AsFd;

use nix::sys::termios::{self, SetArg, Termios};

use crate::api::exec::ExecSize;

/// Asks a question on standard error; whether the answer is yes.
pub(super) fn confirmed(question: &str) -> bool {
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// The size of a terminal that does not say.
const USUAL: ExecSize = ExecSize { rows: 24, cols: 80 };

/// The terminal of standard input in raw mode; restored when dropped.
pub(super) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// `None` if standard input is no terminal.
    pub(super) fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(stdin.as_fd()).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing more can be done: a terminal that has gone needs no restoring.
        let _ = termios::tcsetattr(std::io::stdin().as_fd(), SetArg::TCSADRAIN, &self.before);
    }
}

/// The size of the terminal of standard output.
pub(super) fn size() -> ExecSize {
    let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes a `winsize` to the valid, exclusive pointer, and nothing else (ioctl_tty(2)).
    let result = unsafe { nix::libc::ioctl(nix::libc::STDOUT_FILENO, nix::libc::TIOCGWINSZ, &raw mut size) };
    if result == 0 && size.ws_row > 0 { ExecSize { rows: size.ws_row, cols: size.ws_col } } else { USUAL }
}
