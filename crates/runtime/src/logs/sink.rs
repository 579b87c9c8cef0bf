//! The files that a log is written to.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    path::PathBuf,
};

use bytes::Bytes;

use super::{
    LogStream,
    keep::{Complete, Limits, Moment},
    numbers, path_of, record,
};

/// The files.
pub(super) struct Sink {
    dir: PathBuf,
    limits: Limits,
    current: Option<Current>,
    /// The files before it, ascending.
    complete: Vec<Complete>,
    dropped: u64,
}

/// The file that is written.
struct Current {
    file: File,
    number: u64,
    length: u64,
    /// When its first and its last line came, in milliseconds since the machine started.
    begun: i64,
    ended: i64,
}

impl Sink {
    pub(super) fn open(dir: PathBuf) -> Self {
        let limits = Limits::read(&dir);
        Self { dir, limits, current: None, complete: Vec::new(), dropped: 0 }
    }

    /// Appends whole records. What cannot be written is counted.
    pub(super) fn write(&mut self, records: &[u8], now: Moment) {
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
        match self.append(all, now) {
            Ok(()) => self.dropped = 0,
            Err(_) => self.dropped += records.iter().filter(|b| **b == b'\n').count() as u64,
        }
    }

    fn append(&mut self, bytes: &[u8], now: Moment) -> io::Result<()> {
        if self.current.is_none() {
            self.resume(now)?;
        }
        self.follow(now)?;
        let Some(current) = &mut self.current else { return Err(io::ErrorKind::NotFound.into()) };
        let written = current.file.write_all(bytes);
        match written {
            Ok(()) => {
                if current.length == 0 {
                    current.begun = now.uptime;
                }
                current.length += bytes.len() as u64;
                current.ended = now.uptime;
            }
            // A half-written record would spoil the one after it.
            Err(_) => current.file.set_len(current.length)?,
        }
        written
    }

    /// In how many milliseconds something will be too old.
    pub(super) fn due(&self, now: Moment) -> Option<i64> {
        let begun = self.current.as_ref().filter(|current| current.length > 0).map(|current| current.begun);
        self.limits.due(begun, &self.complete, now)
    }

    /// Removes what has become too old though nothing is written. What cannot be removed is tried again.
    pub(super) fn expire(&mut self, now: Moment) {
        if self.due(now) == Some(0) {
            let _ = self.follow(now);
            self.clean(now);
        }
    }

    /// Begins the next file if the one that is written is full.
    fn follow(&mut self, now: Moment) -> io::Result<()> {
        let full = self.current.as_ref().filter(|c| self.limits.is_full(c.length, c.begun, now));
        let Some(Complete { number, ended }) = full.map(|c| Complete { number: c.number, ended: c.ended }) else {
            return Ok(());
        };
        let next = self.begin(number + 1, now)?;
        self.current = Some(next);
        self.complete.push(Complete { number, ended });
        self.clean(now);
        Ok(())
    }

    /// Opens file `number`, which may be there.
    fn begin(&self, number: u64, now: Moment) -> io::Result<Current> {
        let file = OpenOptions::new().append(true).create(true).open(path_of(&self.dir, number))?;
        let length = file.metadata()?.len();
        Ok(Current { file, number, length, begun: now.uptime, ended: now.uptime })
    }

    /// Removes what is too much or too old. What cannot be removed is no reason to lose a line: it is tried again with the
    /// next file.
    fn clean(&mut self, now: Moment) {
        for old in self.limits.surplus(&self.complete, now) {
            match std::fs::remove_file(path_of(&self.dir, old)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return,
                _ => self.complete.retain(|file| file.number != old),
            }
        }
    }

    /// Goes on where the last writer of this folder ended. It may have been killed in the middle of a record.
    fn resume(&mut self, now: Moment) -> io::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        let mut all = numbers(&self.dir)?;
        let newest = all.pop().unwrap_or(1);
        let ended = |number| {
            let changed = std::fs::metadata(path_of(&self.dir, number)).and_then(|file| file.modified()).ok();
            let since_epoch = changed.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
            let wall = since_epoch.and_then(|time| i64::try_from(time.as_millis()).ok());
            Complete { number, ended: wall.map_or(now.uptime, |wall| now.of_wall(wall)) }
        };
        let complete = all.into_iter().map(ended).collect();
        let mut current = self.begin(newest, now)?;
        if current.length > 0 {
            let mut file = File::open(path_of(&self.dir, newest))?;
            current.ended = ended(newest).ended;
            current.begun = first_time(&mut file).map_or(current.ended, |wall| now.of_wall(wall));
            file.seek(io::SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                current.file.write_all(b"\n")?;
                current.length += 1;
            }
        }
        (self.current, self.complete) = (Some(current), complete);
        self.clean(now);
        Ok(())
    }
}

/// The time of a file's first record, in milliseconds since the Unix epoch.
fn first_time(file: &mut File) -> Option<i64> {
    let mut head = [0; 64];
    let read = file.read(&mut head).ok()?;
    let time = head[..read].split(|b| *b == b' ').next()?;
    let at: jiff::Timestamp = std::str::from_utf8(time).ok()?.parse().ok()?;
    Some(at.as_millisecond())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::logs::{now, tests::records};

    /// The texts that are kept, in order.
    fn texts(dir: &Path) -> Vec<String> {
        records(dir).iter().map(|r| String::from_utf8_lossy(&r.text).into_owned()).collect()
    }

    fn say(sink: &mut Sink, text: &str, now: Moment) {
        let mut out = Vec::new();
        record(LogStream::Stdout, true, Bytes::from(text.to_owned())).write_to(&mut out);
        sink.write(&out, now);
    }

    const AGED: Limits = Limits { bytes: 1 << 20, files: 10, age: Some(1_000) };

    #[test]
    fn keeps_the_newest_files() {
        let dir = tempfile::tempdir().expect("makes one");
        let limits = Limits { bytes: 100, ..Limits::default() };
        let mut sink = Sink { limits, ..Sink::open(dir.path().to_owned()) };
        for n in 0..40 {
            let mut out = Vec::new();
            record(LogStream::Stdout, true, Bytes::from(format!("{n}"))).write_to(&mut out);
            sink.write(&out, now());
        }
        assert_eq!(numbers(dir.path()).expect("lists").len(), limits.files);
        let kept: Vec<String> =
            records(dir.path()).iter().map(|r| String::from_utf8_lossy(&r.text).into_owned()).collect();
        assert!(kept.len() >= 4, "{kept:?}");
        assert!(
            kept.iter().rev().map(String::as_str).eq((0..40).rev().take(kept.len()).map(|n| n.to_string())),
            "{kept:?}"
        );
    }

    #[test]
    fn lines_go_when_they_are_old_also_if_nothing_is_written_and_new_ones_stay() {
        let dir = tempfile::tempdir().expect("makes one");
        let mut sink = Sink { limits: AGED, ..Sink::open(dir.path().to_owned()) };
        let at = |uptime: i64| Moment { uptime, wall: 1_700_000_000_000 + uptime };
        say(&mut sink, "a", at(0));
        say(&mut sink, "b", at(900));
        say(&mut sink, "c", at(1_100));
        assert_eq!(texts(dir.path()), ["a", "b", "c"], "all of a file go together, when its last line is old");
        assert_eq!(sink.due(at(1_100)), Some(800));
        sink.expire(at(1_899));
        assert_eq!(texts(dir.path()), ["a", "b", "c"]);
        sink.expire(at(1_900));
        assert_eq!(texts(dir.path()), ["c"]);
        sink.expire(at(2_100));
        assert_eq!(texts(dir.path()), Vec::<String>::new(), "once as old, as it is alone in its file");
        assert_eq!(sink.due(at(2_100)), None);
        // A reader that follows knows by its number that it is the next.
        say(&mut sink, "d", at(9_000));
        assert_eq!((texts(dir.path()), numbers(dir.path()).expect("lists")), (vec!["d".to_owned()], vec![3]));
    }

    #[test]
    fn a_clock_that_is_stepped_removes_and_keeps_nothing() {
        const YEAR: i64 = 365 * 86_400_000;
        for step in [YEAR, -YEAR] {
            let dir = tempfile::tempdir().expect("makes one");
            let mut sink = Sink { limits: AGED, ..Sink::open(dir.path().to_owned()) };
            let at = |uptime: i64, stepped: bool| Moment {
                uptime,
                wall: 1_700_000_000_000 + uptime + if stepped { step } else { 0 },
            };
            say(&mut sink, "a", at(0, false));
            say(&mut sink, "b", at(10, true));
            sink.expire(at(20, true));
            assert_eq!(texts(dir.path()), ["a", "b"], "{step}");
            say(&mut sink, "c", at(1_000, true));
            sink.expire(at(1_100, true));
            assert_eq!(texts(dir.path()), ["c"], "{step}");
        }
    }

    #[test]
    fn another_writer_knows_how_old_the_lines_of_the_first_are() {
        let dir = tempfile::tempdir().expect("makes one");
        let mut sink = Sink { limits: AGED, ..Sink::open(dir.path().to_owned()) };
        let begun = now();
        let later = |millis: i64| Moment { uptime: begun.uptime + millis, wall: begun.wall + millis };
        say(&mut sink, "a", begun);
        let mut next = Sink { limits: AGED, ..Sink::open(dir.path().to_owned()) };
        say(&mut next, "b", later(100));
        assert_eq!(texts(dir.path()), ["a", "b"]);
        say(&mut next, "c", later(1_050));
        assert_eq!(numbers(dir.path()).expect("lists").len(), 2, "by the first line's age, not by the writer's");
        // The machine was off for a day, and its time since the start begins anew.
        let day = Moment { uptime: 5, wall: begun.wall + 86_400_000 };
        let mut next = Sink { limits: AGED, ..Sink::open(dir.path().to_owned()) };
        say(&mut next, "d", day);
        next.expire(day);
        assert_eq!(texts(dir.path()), ["d"]);
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
        sink.current = Some(Current { file, number: 1, length: out.len() as u64, begun: 0, ended: 0 });
        let mut long = Vec::new();
        record(LogStream::Stdout, true, Bytes::from(vec![b'x'; 2 * PAGE as usize])).write_to(&mut long);
        sink.write(&long, now());
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
        sink.current = Some(Current { file: full, number: 1, length: 0, begun: 0, ended: 0 });
        let mut out = Vec::new();
        record(LogStream::Stdout, true, Bytes::from_static(b"lost")).write_to(&mut out);
        sink.write(&out, now());
        assert_eq!(sink.dropped, 1);
        sink.current = None;
        sink.write(&out, now());
        let texts: Vec<Bytes> = records(dir.path()).into_iter().map(|r| r.text).collect();
        assert_eq!((texts.len(), &texts[1][..]), (2, &b"lost"[..]));
        assert!(texts[0].starts_with(b"[hivemind: 1 records were lost"));
    }
}
