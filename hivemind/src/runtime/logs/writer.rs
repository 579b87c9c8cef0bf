//! The process that containerd's shim starts for each container: it reads the container's output from pipes, stamps
//! the lines and appends them to files.
//!
//! It must never block or end before the container: whatever cannot be written (full disk, broken file system) is
//! dropped and counted, and the count is written when there is room again. Memory is bounded by two lines.
//! It ends when both pipes have no writer any more, and ignores SIGTERM until then: the shim sends one when the task
//! is deleted, at which point the last lines may still be in the pipes.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::fd::{AsFd as _, FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{SigHandler, Signal, signal},
};

use super::{FILE_BYTES, FILES_KEPT, LogStream, RECORD_BYTES, Record, numbers, path_of};
use crate::lifecycle::clock;

/// A line that has not gone on for so long is written as far as it is: a prompt, or the last words of a process whose
/// pipe its runtime keeps open.
const PATIENCE_MILLIS: u16 = 250;

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
    drop(ready);
    pump([stdout, stderr], &mut sink);
    std::process::exit(0)
}

/// Moves everything from both pipes to `sink`, until both have ended.
fn pump(pipes: [File; 2], sink: &mut Sink) {
    let mut inputs: Vec<Input> =
        pipes.into_iter().zip([LogStream::Stdout, LogStream::Stderr]).map(Input::new).collect();
    let mut chunk = vec![0; READ_BYTES];
    let mut out = Vec::new();
    while !inputs.is_empty() {
        let mut fds: Vec<PollFd<'_>> = inputs.iter().map(|i| PollFd::new(i.pipe.as_fd(), PollFlags::POLLIN)).collect();
        let pending = inputs.iter().any(|i| !i.line.is_empty());
        let timeout = if pending { PollTimeout::from(PATIENCE_MILLIS) } else { PollTimeout::NONE };
        let count = match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            Err(_) => return,
            Ok(count) => count,
        };
        let ready: Vec<bool> = fds.iter().map(|f| f.any().unwrap_or(true)).collect();
        drop(fds);
        if count == 0 {
            inputs.iter_mut().filter(|i| !i.line.is_empty()).for_each(|i| i.record(false, &mut out));
        }
        let mut ready = ready.into_iter();
        inputs.retain_mut(|input| {
            if !ready.next().unwrap_or_default() {
                return true;
            }
            let open = match input.pipe.read(&mut chunk) {
                Ok(0) => false,
                Ok(n) => {
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
        sink.write(&out);
        out.clear();
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

fn record(stream: LogStream, full: bool, text: Bytes) -> Record {
    let at = jiff::SignedDuration::try_from(clock::since_epoch()).unwrap_or_default();
    Record { at: jiff::Timestamp::from_duration(at).unwrap_or_default(), stream, full, text }
}

/// The files.
struct Sink {
    dir: PathBuf,
    limit: u64,
    current: Option<Current>,
    dropped: u64,
}

struct Current {
    file: File,
    number: u64,
    length: u64,
}

impl Sink {
    fn open(dir: PathBuf) -> Self {
        Self { dir, limit: FILE_BYTES, current: None, dropped: 0 }
    }

    /// Appends whole records. What cannot be written is counted.
    fn write(&mut self, records: &[u8]) {
        if records.is_empty() {
            return;
        }
        let notice = self.dropped > 0;
        let mut text = Vec::new();
        if notice {
            let lost = format!("[hivemind: {} records were lost because they could not be written]", self.dropped);
            record(LogStream::Stderr, true, Bytes::from(lost)).write_to(&mut text);
        }
        let all = if notice {
            text.extend_from_slice(records);
            text.as_slice()
        } else {
            records
        };
        match self.append(all) {
            Ok(()) => self.dropped = 0,
            Err(_) => self.dropped += records.iter().filter(|b| **b == b'\n').count() as u64,
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let current = match self.current.take() {
            Some(current) if current.length < self.limit => current,
            Some(full) => self.next(full.number + 1)?,
            None => self.resume()?,
        };
        let current = self.current.insert(current);
        let written = current.file.write_all(bytes);
        match written {
            Ok(()) => current.length += bytes.len() as u64,
            // A half-written record would spoil the one after it.
            Err(_) => current.file.set_len(current.length)?,
        }
        written
    }

    /// Begins file `number` and removes what is too old.
    fn next(&self, number: u64) -> io::Result<Current> {
        let file = OpenOptions::new().append(true).create(true).open(path_of(&self.dir, number))?;
        let length = file.metadata()?.len();
        let all = numbers(&self.dir)?;
        for old in all.iter().rev().skip(FILES_KEPT) {
            std::fs::remove_file(path_of(&self.dir, *old))?;
        }
        Ok(Current { file, number, length })
    }

    /// Goes on where the last writer of this folder ended. It may have been killed in the middle of a record.
    fn resume(&self) -> io::Result<Current> {
        std::fs::create_dir_all(&self.dir)?;
        let newest = numbers(&self.dir)?.pop().unwrap_or(1);
        let mut current = self.next(newest)?;
        if current.length > 0 {
            let mut file = File::open(path_of(&self.dir, newest))?;
            file.seek(io::SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                current.file.write_all(b"\n")?;
                current.length += 1;
            }
        }
        Ok(current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(dir: &Path) -> Vec<Record> {
        let files = numbers(dir).expect("lists").into_iter().map(|n| path_of(dir, n));
        let text: Vec<u8> = files.flat_map(|f| std::fs::read(f).expect("reads")).collect();
        text.split(|b| *b == b'\n').filter_map(|l| Record::parse(&Bytes::copy_from_slice(l))).collect()
    }

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
        pump([pipe_with(&text), pipe_with(b"err\n")], &mut Sink::open(dir.path().to_owned()));
        let (out, err): (Vec<_>, Vec<_>) = records(dir.path()).into_iter().partition(|r| r.stream == LogStream::Stdout);
        assert_eq!(err.iter().map(|r| &r.text[..]).collect::<Vec<_>>(), [b"err"]);
        let shape: Vec<_> = out.iter().map(|r| (r.text.len(), r.full)).collect();
        let k = RECORD_BYTES;
        assert_eq!(shape, [(1, true), (0, true), (k, true), (k, false), (k, false), (5, true), (8, true)]);
    }

    #[test]
    fn keeps_the_newest_files() {
        let dir = tempfile::tempdir().expect("makes one");
        let mut sink = Sink { limit: 100, ..Sink::open(dir.path().to_owned()) };
        for n in 0..40 {
            let mut out = Vec::new();
            record(LogStream::Stdout, true, Bytes::from(format!("{n}"))).write_to(&mut out);
            sink.write(&out);
        }
        assert_eq!(numbers(dir.path()).expect("lists").len(), FILES_KEPT);
        let kept: Vec<String> =
            records(dir.path()).iter().map(|r| String::from_utf8_lossy(&r.text).into_owned()).collect();
        assert!(kept.len() >= 4, "{kept:?}");
        assert!(
            kept.iter().rev().map(String::as_str).eq((0..40).rev().take(kept.len()).map(|n| n.to_string())),
            "{kept:?}"
        );
    }

    #[test]
    fn goes_on_after_a_killed_writer() {
        let dir = tempfile::tempdir().expect("makes one");
        std::fs::write(path_of(dir.path(), 7), "2026-11-21T01:14:07Z stdout F whole\n2026-11-21T01:14:07Z std")
            .expect("writes");
        pump([pipe_with(b"new\n"), pipe_with(b"")], &mut Sink::open(dir.path().to_owned()));
        let texts: Vec<Bytes> = records(dir.path()).into_iter().map(|r| r.text).collect();
        assert_eq!(texts, [&b"whole"[..], b"new"]);
        assert_eq!(numbers(dir.path()).expect("lists"), [7]);
    }

    #[test]
    fn a_record_that_is_half_written_is_cut_off() {
        use nix::{
            fcntl::{FcntlArg, SealFlag, fcntl},
            sys::memfd::{MFdFlags, memfd_create},
        };
        const PAGE: u64 = 4096;
        let mut out = Vec::new();
        record(LogStream::Stdout, true, Bytes::from_static(b"whole")).write_to(&mut out);
        // A file that cannot grow takes what fits into its last page, as a disk that is full does.
        let file = File::from(memfd_create("log", MFdFlags::MFD_ALLOW_SEALING).expect("a file in memory"));
        (&file).write_all(&out).expect("there is room");
        file.set_len(PAGE).expect("there is room");
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)).expect("sealed");
        let mut look = file.try_clone().expect("the same file");
        let dir = tempfile::tempdir().expect("makes one");
        let mut sink = Sink::open(dir.path().to_owned());
        sink.current = Some(Current { file, number: 1, length: out.len() as u64 });
        let mut long = Vec::new();
        record(LogStream::Stdout, true, Bytes::from(vec![b'x'; 2 * PAGE as usize])).write_to(&mut long);
        sink.write(&long);
        assert_eq!(look.stream_position().expect("a position"), PAGE, "a part was written");
        assert_eq!(look.metadata().expect("a length").len(), out.len() as u64, "and is gone");
        assert_eq!(sink.dropped, 1);
        let mut kept = Vec::new();
        look.rewind().expect("back to the beginning");
        look.read_to_end(&mut kept).expect("reads");
        assert_eq!(kept, out);
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let dir = tempfile::tempdir().expect("makes one");
        let mut sink = Sink::open(dir.path().to_owned());
        let full = OpenOptions::new().append(true).open("/dev/full").expect("opens");
        sink.current = Some(Current { file: full, number: 1, length: 0 });
        let mut out = Vec::new();
        record(LogStream::Stdout, true, Bytes::from_static(b"lost")).write_to(&mut out);
        sink.write(&out);
        assert_eq!(sink.dropped, 1);
        sink.current = None;
        sink.write(&out);
        let texts: Vec<Bytes> = records(dir.path()).into_iter().map(|r| r.text).collect();
        assert_eq!((texts.len(), &texts[1][..]), (2, &b"lost"[..]));
        assert!(texts[0].starts_with(b"[hivemind: 1 records were lost"));
    }
}
