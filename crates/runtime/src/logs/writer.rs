//! The process that containerd's shim starts for each container: it reads the container's output from pipes, stamps
//! the lines and appends them to files.
//!
//! It must never block or end before the container: whatever cannot be written (full disk, broken file system) is
//! dropped and counted, and the count is written when there is room again. Memory is bounded by two lines. Who listens
//! (`live`) is not waited for either.
//! It ends when both pipes have no writer any more, and ignores SIGTERM until then: the shim sends one when the task
//! is deleted, at which point the last lines may still be in the pipes.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use bytes::Bytes;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{SigHandler, Signal, signal},
};

use super::{LogStream, RECORD_BYTES, live::Live, now, record, sink::Sink};

/// A line that has not gone on for so long is written as far as it is: a prompt, or the last words of a process whose
/// pipe its runtime keeps open.
const PATIENCE_MILLIS: u16 = 250;

/// How soon what was not removed is tried again, and how long at most nobody looks: the machine may have slept.
const LEAST_WAIT_MILLIS: i64 = 100;
const LONGEST_WAIT_MILLIS: i64 = 60_000;

/// Bytes taken from a pipe at once: what a pipe holds.
const READ_BYTES: usize = 64 << 10;

/// The log writer: standard output arrives on descriptor 3, standard error on 4; closing 5 says that we are ready.
/// Never returns. Must be called first thing in `main`, before anything opens a file.
pub fn log_writer(dir: &Path) -> ! {
    // SAFETY: the shim hands over these descriptors, and nothing in this process has opened or owns them.
    let [stdout, stderr, ready] = unsafe { [3, 4, 5].map(|fd| File::from(OwnedFd::from_raw_fd(fd))) };
    // SAFETY: no handler is installed that could run; the signals are ignored.
    unsafe {
        for s in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE] {
            let _ = signal(s, SigHandler::SigIgn);
        }
    }
    let mut sink = Sink::open(dir.to_owned());
    let mut live = Live::open(dir);
    drop(ready);
    pump([stdout, stderr], &mut sink, &mut live);
    live.end();
    std::process::exit(0)
}

/// Moves everything from both pipes to `sink`, until both have ended, and tells who listens.
fn pump(pipes: [File; 2], sink: &mut Sink, live: &mut Live) {
    let mut inputs: Vec<Input> =
        pipes.into_iter().zip([LogStream::Stdout, LogStream::Stderr]).map(Input::new).collect();
    let mut chunk = vec![0; READ_BYTES];
    let mut out = Vec::new();
    while !inputs.is_empty() {
        let mut fds: Vec<PollFd<'_>> = inputs.iter().map(|i| PollFd::new(i.pipe.as_fd(), PollFlags::POLLIN)).collect();
        fds.extend(live.fds());
        let pending = inputs.iter().any(|i| !i.line.is_empty());
        let timeout = match sink.due(now()) {
            _ if pending => PollTimeout::from(PATIENCE_MILLIS),
            Some(due) => {
                let wait = due.clamp(LEAST_WAIT_MILLIS, LONGEST_WAIT_MILLIS);
                PollTimeout::from(u16::try_from(wait).unwrap_or(u16::MAX))
            }
            None => PollTimeout::NONE,
        };
        let count = match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            Err(_) => return,
            Ok(count) => count,
        };
        // Events that nix does not know are taken for a broken descriptor.
        let events: Vec<PollFlags> = fds.iter().map(|f| f.revents().unwrap_or(PollFlags::POLLERR)).collect();
        drop(fds);
        live.look(&events[inputs.len()..]);
        if count == 0 {
            inputs.iter_mut().filter(|i| !i.line.is_empty()).for_each(|i| i.record(false, &mut out));
        }
        let mut events = events.into_iter();
        inputs.retain_mut(|input| {
            if events.next().is_none_or(|events| events.is_empty()) {
                return true;
            }
            let open = match input.pipe.read(&mut chunk) {
                Ok(0) => false,
                Ok(n) => {
                    live.say(input.stream, &chunk[..n]);
                    input.take(&chunk[..n], &mut out);
                    true
                }
                Err(e) => e.kind() == io::ErrorKind::Interrupted,
            };
            if !open {
                input.finish(&mut out);
            }
            open
        });
        sink.write(&out, now());
        out.clear();
        sink.expire(now());
    }
}

/// One pipe, with the line that has not ended yet.
struct Input {
    pipe: File,
    stream: LogStream,
    line: Vec<u8>,
    /// Whether a part of the line has been written already.
    begun: bool,
}

impl Input {
    fn new((pipe, stream): (File, LogStream)) -> Self {
        Self { pipe, stream, line: Vec::new(), begun: false }
    }

    /// Cuts what was read into records.
    fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = RECORD_BYTES - self.line.len();
            let end = bytes.iter().take(room + 1).position(|b| *b == b'\n');
            let (part, full, rest) = match end {
                Some(end) => (&bytes[..end], true, &bytes[end + 1..]),
                // One byte more than fits: so it is known that the line goes on.
                None if bytes.len() > room => (&bytes[..room], false, &bytes[room..]),
                None => return self.line.extend_from_slice(bytes),
            };
            self.line.extend_from_slice(part);
            self.record(full, out);
            bytes = rest;
        }
    }

    /// The pipe has ended: so has its last line.
    fn finish(&mut self, out: &mut Vec<u8>) {
        if self.begun || !self.line.is_empty() {
            self.record(true, out);
        }
    }

    fn record(&mut self, full: bool, out: &mut Vec<u8>) {
        record(self.stream, full, Bytes::copy_from_slice(&self.line)).write_to(out);
        self.line.clear();
        self.begun = !full;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::logs::{numbers, path_of, tests::records};

    fn pipe_with(text: &[u8]) -> File {
        let (reader, writer) = io::pipe().expect("makes one");
        let text = text.to_owned();
        std::thread::spawn(move || File::from(OwnedFd::from(writer)).write_all(&text));
        OwnedFd::from(reader).into()
    }

    #[test]
    fn long_lines_are_split_and_nothing_is_lost() {
        let dir = tempfile::tempdir().expect("makes one");
        let exact = vec![b'e'; RECORD_BYTES];
        let long = vec![b'l'; RECORD_BYTES * 2 + 5];
        let text = [b"a\n\n", exact.as_slice(), b"\n", &long, b"\nno end \xff"].concat();
        pump([pipe_with(&text), pipe_with(b"err\n")], &mut Sink::open(dir.path().to_owned()), &mut Live::default());
        let (out, err): (Vec<_>, Vec<_>) = records(dir.path()).into_iter().partition(|r| r.stream == LogStream::Stdout);
        assert_eq!(err.iter().map(|r| &r.text[..]).collect::<Vec<_>>(), [b"err"]);
        let shape: Vec<_> = out.iter().map(|r| (r.text.len(), r.full)).collect();
        let k = RECORD_BYTES;
        assert_eq!(shape, [(1, true), (0, true), (k, true), (k, false), (k, false), (5, true), (8, true)]);
    }

    #[test]
    fn goes_on_after_a_killed_writer() {
        let dir = tempfile::tempdir().expect("makes one");
        std::fs::write(path_of(dir.path(), 7), "2026-11-21T01:14:07Z stdout F whole\n2026-11-21T01:14:07Z std")
            .expect("writes");
        pump([pipe_with(b"new\n"), pipe_with(b"")], &mut Sink::open(dir.path().to_owned()), &mut Live::default());
        let texts: Vec<Bytes> = records(dir.path()).into_iter().map(|r| r.text).collect();
        assert_eq!(texts, [&b"whole"[..], b"new"]);
        assert_eq!(numbers(dir.path()).expect("lists"), [7]);
    }
}
