//! Containers' logs: files of lines, written by a process of their own that outlives the daemon, read by the daemon.
//!
//! A container's folder holds numbered files, `00000001.log` and up. A line is
//! `2026-11-21T01:14:07.123456789Z stdout F text`, where `P` instead of `F` says that the next record of the same
//! stream continues it. The writer only ever appends to the newest file; when that is full it begins the next number
//! and removes the oldest. Nothing is renamed, so a reader that has reached the end of a file which has a successor
//! has seen all of it.
//!
//! How much is kept is said by a file beside them, `limits`, which the writer reads when it begins. By age, a file is followed
//! by another when its first line is so old, and removed when its last one is. Ages are told by the time since the machine
//! started, so that a step of the clock neither removes what is new nor keeps what is old; the clock is asked only for what an
//! earlier writer has written.
//!
//! Deliberately absent: compression and shipping to elsewhere.

mod keep;
mod live;
mod position;
mod reader;
mod sink;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;

pub use position::{LogPosition, NoPosition};
pub use writer::log_writer;

pub(super) use keep::write_limits;
pub(super) use live::{Heard, INPUT, Listening, make_input};
pub(super) use reader::{check, remove, stream};

use self::keep::Moment;
use super::{LogStream, RuntimeError};
use hivemind_core::lifecycle::clock;

/// A record carries at most so many bytes of a line.
const RECORD_BYTES: usize = 16 << 10;

/// One record of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    at: jiff::Timestamp,
    stream: LogStream,
    /// Whether the line ends with it.
    full: bool,
    text: Bytes,
}

impl Record {
    fn write_to(&self, out: &mut Vec<u8>) {
        use std::io::Write as _;
        let stream = match self.stream {
            LogStream::Stdout => "stdout",
            LogStream::Stderr => "stderr",
        };
        // Writing to memory does not fail.
        let _ = write!(out, "{:.9} {stream} {} ", self.at, if self.full { 'F' } else { 'P' });
        out.extend_from_slice(&self.text);
        out.push(b'\n');
    }

    /// Reads one line without its end; `None` if it is damaged, e.g. the last one before a crash.
    fn parse(line: &Bytes) -> Option<Self> {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let at = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        let stream = match parts.next()? {
            b"stdout" => LogStream::Stdout,
            b"stderr" => LogStream::Stderr,
            _ => return None,
        };
        let full = match parts.next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        Some(Self { at, stream, full, text: line.slice_ref(parts.next()?) })
    }
}

/// A record of now.
fn record(stream: LogStream, full: bool, text: Bytes) -> Record {
    let at = jiff::SignedDuration::try_from(clock::since_epoch()).unwrap_or_default();
    Record { at: jiff::Timestamp::from_duration(at).unwrap_or_default(), stream, full, text }
}

/// Now, by both clocks.
fn now() -> Moment {
    let millis = |time: std::time::Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    Moment { uptime: millis(clock::uptime()), wall: millis(clock::since_epoch()) }
}

fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.log"))
}

/// The numbers of the files in `dir`, ascending; none if there is no such folder.
fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|n| n.strip_suffix(".log")?.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RuntimeError {
    move |source| RuntimeError::File { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is in the files of a folder, in order.
    pub(super) fn records(dir: &Path) -> Vec<Record> {
        let files = numbers(dir).expect("lists").into_iter().map(|n| path_of(dir, n));
        let text: Vec<u8> = files.flat_map(|f| std::fs::read(f).expect("reads")).collect();
        text.split(|b| *b == b'\n').filter_map(|l| Record::parse(&Bytes::copy_from_slice(l))).collect()
    }

    #[test]
    fn records_survive_a_round_trip() {
        let at = "2026-11-21T01:14:07.123456789Z".parse().expect("is a time");
        for text in [&b""[..], b"a b  c", b"\xff\0\r", b" "] {
            for (stream, full) in [(LogStream::Stdout, true), (LogStream::Stderr, false)] {
                let record = Record { at, stream, full, text: Bytes::copy_from_slice(text) };
                let mut line = Vec::new();
                record.write_to(&mut line);
                assert_eq!(line.pop(), Some(b'\n'));
                assert_eq!(Record::parse(&Bytes::from(line)), Some(record));
            }
        }
        let mut line = Vec::new();
        Record { at, stream: LogStream::Stdout, full: true, text: Bytes::from_static(b"x") }.write_to(&mut line);
        assert_eq!(line, b"2026-11-21T01:14:07.123456789Z stdout F x\n");
    }

    #[test]
    fn damaged_lines_are_none() {
        for line in ["", "x", "2026-11-21T01:14:07Z stdout", "2026-11-21T01:14:07Z stdin F x", "z stdout F x"] {
            assert_eq!(Record::parse(&Bytes::from_static(line.as_bytes())), None, "{line}");
        }
    }
}
