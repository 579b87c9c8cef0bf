//! Reads a container's log: all of it, its end, and what is still to come.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read as _, Seek as _},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt as _};

use super::{LogPosition, LogStream, Record, file_error, numbers, path_of, position::Place};
use crate::{LogLine, LogQuery, RuntimeError};
use hivemind_core::model::Timestamp;

/// How often a follower looks for more.
const POLL: Duration = Duration::from_millis(100);

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// A longer line is handed out in pieces, so that one without an end does not fill our memory.
const LINE_BYTES: usize = 1 << 20;

/// The lines of the log in `dir` that `query` asks for. A follower ends when `alive`, a path, is gone and everything
/// has been read.
pub(crate) fn stream(
    dir: PathBuf,
    query: LogQuery,
    alive: PathBuf,
) -> BoxStream<'static, Result<LogLine, RuntimeError>> {
    let state = Reading {
        reader: Reader::new(dir, query.after),
        query,
        alive,
        ready: VecDeque::new(),
        at_end: false,
        over: false,
    };
    stream::unfold(state, |mut state| async move {
        let item = state.next().await?;
        state.over = item.is_err();
        Some((item, state))
    })
    .boxed()
}

/// Whether the log in `dir` still has what comes behind a position.
pub(crate) fn check(dir: &Path, position: LogPosition) -> Result<(), RuntimeError> {
    let numbers = numbers(dir).map_err(file_error("read", dir))?;
    match numbers.contains(&position.behind.file) {
        true => Ok(()),
        false => Err(RuntimeError::LogGone { position, oldest: numbers.first().copied().unwrap_or(0) }),
    }
}

/// A log being read.
struct Reading {
    reader: Reader,
    query: LogQuery,
    alive: PathBuf,
    /// Lines read and not handed out yet.
    ready: VecDeque<LogLine>,
    /// Whether what was there when we began has been read.
    at_end: bool,
    over: bool,
}

impl Reading {
    async fn next(&mut self) -> Option<Result<LogLine, RuntimeError>> {
        loop {
            if self.over {
                return None;
            }
            let held_back = !self.at_end && self.query.tail.is_some();
            if !held_back && let Some(line) = self.ready.pop_front() {
                return Some(Ok(line));
            }
            // Asked before reading: what was written before the end is then read after it.
            let alive = self.query.follow && self.alive.exists();
            let progress = match self.fill().await {
                Ok(progress) => progress,
                Err(error) => return Some(Err(error)),
            };
            if progress {
                continue;
            }
            if !self.at_end {
                self.at_end = true;
                if !self.query.follow {
                    self.take_partial();
                }
            } else if alive {
                tokio::time::sleep(POLL).await;
            } else {
                self.take_partial();
                self.over = self.ready.is_empty();
            }
        }
    }

    /// Nothing more is awaited: what was begun is all there is of it.
    fn take_partial(&mut self) {
        let partial = self.reader.partial.iter_mut().filter_map(Option::take).map(|begun| begun.line);
        self.ready.extend(partial.filter(|l| self.query.since.is_none_or(|since| l.at >= since)));
        if let Some(tail) = self.query.tail.filter(|_| !self.query.follow) {
            self.ready.drain(..self.ready.len().saturating_sub(tail));
        }
    }

    /// Reads one batch. `false` at the end of what there is.
    async fn fill(&mut self) -> Result<bool, RuntimeError> {
        let mut reader = std::mem::take(&mut self.reader);
        let task = tokio::task::spawn_blocking(move || {
            let batch = reader.batch();
            (reader, batch)
        });
        let (reader, batch) = task.await.map_err(|e| file_error("read", &self.alive)(io::Error::other(e)))?;
        self.reader = reader;
        let batch = batch.map_err(file_error("read", &self.reader.dir))?;
        let Some(lines) = batch else { return Ok(false) };
        let since = self.query.since;
        self.ready.extend(lines.into_iter().filter(|l| since.is_none_or(|since| l.at >= since)));
        if let (false, Some(tail)) = (self.at_end, self.query.tail) {
            self.ready.drain(..self.ready.len().saturating_sub(tail));
        }
        Ok(true)
    }
}

/// A position in the files of a log.
#[derive(Default)]
struct Reader {
    dir: PathBuf,
    open: Option<(u64, File)>,
    /// Where it begins to read.
    from: Place,
    /// Lines that end up to here are not wanted.
    behind: Place,
    /// The end of what was read, where no line has ended.
    rest: BytesMut,
    /// Where in the file that is.
    offset: u64,
    /// Lines whose last record has not come, of standard output and error.
    partial: [Option<Begun>; 2],
}

/// A line whose last record has not come.
struct Begun {
    line: LogLine,
    /// Where its first record begins.
    place: Place,
}

impl Reader {
    fn new(dir: PathBuf, after: Option<LogPosition>) -> Self {
        let LogPosition { behind, from } = after.unwrap_or_default();
        Self { dir, behind, from, ..Self::default() }
    }

    /// The lines that the next bytes complete; `None` at the end of the newest file.
    fn batch(&mut self) -> io::Result<Option<Vec<LogLine>>> {
        loop {
            // Asked before reading: if there is a successor, nothing is added to this file any more.
            let successor = self.successor()?;
            let n = match &mut self.open {
                Some((_, file)) => {
                    let start = self.rest.len();
                    self.rest.resize(start + READ_BYTES, 0);
                    let read = file.read(&mut self.rest[start..]);
                    self.rest.truncate(start + *read.as_ref().unwrap_or(&0));
                    read?
                }
                None => 0,
            };
            if n > 0 {
                return Ok(Some(self.lines()));
            }
            let Some(number) = successor else { return Ok(None) };
            let start = if number == self.from.file { self.from.offset } else { 0 };
            match self.begin(number, start) {
                Ok(()) => {}
                // Removed by the writer just now: look again.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            }
        }
    }

    /// Goes over to a file.
    fn begin(&mut self, number: u64, start: u64) -> io::Result<()> {
        let mut file = File::open(path_of(&self.dir, number))?;
        // A record that could not be written whole was taken back: the file may be shorter than it was.
        self.offset = start.min(file.metadata()?.len());
        file.seek(io::SeekFrom::Start(self.offset))?;
        self.open = Some((number, file));
        // What has no end in a finished file will never have one.
        self.rest.clear();
        Ok(())
    }

    fn successor(&self) -> io::Result<Option<u64>> {
        let first = self.open.as_ref().map_or(self.from.file, |(number, _)| *number + 1);
        Ok(numbers(&self.dir)?.into_iter().find(|n| *n >= first))
    }

    fn lines(&mut self) -> Vec<LogLine> {
        let file = self.open.as_ref().map_or(0, |(number, _)| *number);
        let mut lines = Vec::new();
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let begin = Place { file, offset: self.offset };
            self.offset += end as u64 + 1;
            let behind = Place { file, offset: self.offset };
            let line = self.rest.split_to(end + 1).freeze();
            let Some(record) = Record::parse(&line.slice(..end)) else { continue };
            let own = usize::from(record.stream == LogStream::Stderr);
            let other = self.partial[1 - own].as_ref().map(|begun| begun.place);
            let position = LogPosition { behind, from: other.unwrap_or(behind) };
            let joined = match self.partial[own].take() {
                Some(Begun { line: begun, place }) => {
                    let line = Bytes::from([&begun.line[..], &record.text].concat());
                    Begun { line: LogLine { line, position, ..begun }, place }
                }
                None => {
                    let at = Timestamp::from_millis(record.at.as_millisecond());
                    let line = LogLine { at, stream: record.stream, line: record.text, position };
                    Begun { line, place: begin }
                }
            };
            if !record.full && joined.line.line.len() < LINE_BYTES {
                self.partial[own] = Some(joined);
            } else if behind > self.behind {
                lines.push(joined.line);
            }
        }
        lines
    }
}

/// Removes the log in `dir`; ok if there is none.
pub(crate) async fn remove(dir: &Path) -> Result<(), RuntimeError> {
    match tokio::fs::remove_dir_all(dir).await {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(file_error("remove", dir)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn write(dir: &Path, number: u64, texts: &[&str]) {
        let mut file = File::options().append(true).create(true).open(path_of(dir, number)).expect("opens");
        for text in texts {
            let (flag, text) = text.strip_prefix('~').map_or(('F', *text), |t| ('P', t));
            let second = number % 60;
            writeln!(file, "2026-11-21T01:14:{second:02}.5Z stdout {flag} {text}").expect("writes");
        }
    }

    async fn all(dir: &Path, query: LogQuery) -> Vec<String> {
        let lines = stream(dir.to_owned(), query, dir.join("alive"));
        lines.map(|l| String::from_utf8_lossy(&l.expect("reads").line).into_owned()).collect().await
    }

    #[tokio::test]
    async fn reads_all_tail_and_since() {
        let dir = tempfile::tempdir().expect("makes one");
        let path = dir.path();
        write(path, 3, &["a", "b"]);
        std::fs::write(path.join("other"), "x").expect("writes");
        write(path, 4, &["c", "~d", "e", "f"]);
        let query = LogQuery::default();
        assert_eq!(all(path, query).await, ["a", "b", "c", "de", "f"]);
        assert_eq!(all(path, LogQuery { tail: Some(2), ..query }).await, ["de", "f"]);
        assert_eq!(all(path, LogQuery { tail: Some(0), ..query }).await, [""; 0]);
        assert_eq!(all(path, LogQuery { tail: Some(99), ..query }).await.len(), 5);
        let since = Some("2026-11-21T01:14:04.5Z".parse::<jiff::Timestamp>().expect("is one").as_millisecond());
        let since = since.map(Timestamp::from_millis);
        assert_eq!(all(path, LogQuery { since, ..query }).await, ["c", "de", "f"]);
        assert_eq!(all(&path.join("none"), query).await, [""; 0]);
        write(path, 5, &["~begun"]);
        assert_eq!(all(path, LogQuery { tail: Some(2), ..query }).await, ["f", "begun"]);
    }

    #[tokio::test]
    async fn follows_across_files_and_ends_with_the_container() {
        let dir = tempfile::tempdir().expect("makes one");
        let path = dir.path().to_owned();
        std::fs::write(path.join("alive"), "").expect("writes");
        write(&path, 1, &["old", "one"]);
        let query = LogQuery { tail: Some(1), follow: true, ..LogQuery::default() };
        let mut lines = stream(path.clone(), query, path.join("alive"));
        let mut next = async || lines.next().await.map(|l| l.expect("reads").line);
        assert_eq!(next().await, Some(Bytes::from("one")));
        write(&path, 1, &["two"]);
        write(&path, 2, &["three"]);
        for expected in ["two", "three"] {
            assert_eq!(next().await, Some(Bytes::from(expected)));
        }
        // The writer was so much quicker that a file came and went.
        write(&path, 9, &["four"]);
        std::fs::remove_file(path.join("alive")).expect("removes");
        assert_eq!(next().await, Some(Bytes::from("four")));
        assert_eq!(next().await, None);
    }

    /// The texts with the positions behind them.
    async fn placed(dir: &Path, query: LogQuery) -> Vec<(String, LogPosition)> {
        let lines = stream(dir.to_owned(), query, dir.join("alive")).map(|line| line.expect("reads"));
        lines.map(|line| (String::from_utf8_lossy(&line.line).into_owned(), line.position)).collect().await
    }

    #[tokio::test]
    async fn goes_on_behind_any_line_without_one_lost_or_doubled() {
        let dir = tempfile::tempdir().expect("makes one");
        let path = dir.path();
        let record = |stream: &str, flag: char, text: &str| format!("2026-11-21T01:14:07.5Z {stream} {flag} {text}\n");
        // Lines of both streams, cut into records that lie between each other, over two files, all of one moment.
        let first = [
            record("stdout", 'F', "a"),
            record("stderr", 'P', "b1"),
            record("stdout", 'F', "c"),
            "damaged\n".into(),
            record("stdout", 'P', "d1"),
            record("stderr", 'F', "b2"),
        ];
        let second = [record("stderr", 'F', "e"), record("stdout", 'F', "d2"), record("stdout", 'F', "f")];
        std::fs::write(path_of(path, 7), first.concat()).expect("writes");
        std::fs::write(path_of(path, 8), second.concat()).expect("writes");
        let all = placed(path, LogQuery::default()).await;
        let texts: Vec<_> = all.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(texts, ["a", "c", "b1b2", "e", "d1d2", "f"]);
        for (at, (text, position)) in all.iter().enumerate() {
            check(path, *position).expect("is there");
            let after = Some(position.to_string().parse().expect("is one"));
            let rest = placed(path, LogQuery { after, ..LogQuery::default() }).await;
            assert_eq!(rest, all[at + 1..], "behind {text}");
        }
        std::fs::remove_file(path_of(path, 7)).expect("removes");
        assert!(matches!(check(path, all[0].1), Err(RuntimeError::LogGone { oldest: 8, .. })));
        let rest = placed(path, LogQuery { after: Some(all[3].1), ..LogQuery::default() }).await;
        assert_eq!(rest.last().map(|(text, _)| text.as_str()), Some("f"), "though the beginning of a line is gone");
        assert!(check(&path.join("none"), all[0].1).is_err());
    }
}
