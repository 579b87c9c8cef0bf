//! Which files of a log are kept. Pure, but for the file that says how much.

use std::path::Path;

use super::file_error;
use crate::RuntimeError;
use hivemind_core::spec::v1::LogSpec;

/// A file of this size or larger is not appended to.
const FILE_BYTES: u64 = 10 << 20;
/// Files kept, the newest included.
const FILES_KEPT: usize = 3;
/// The file that says otherwise.
const LIMITS_FILE: &str = "limits";

/// Writes how much of the log in `dir` is kept, for its next writer.
pub(crate) async fn write_limits(dir: &Path, spec: &LogSpec) -> Result<(), RuntimeError> {
    let path = dir.join(LIMITS_FILE);
    if spec.is_default() && !path.exists() {
        return Ok(());
    }
    let text = serde_json::to_vec(spec).unwrap_or_default();
    let write = async {
        tokio::fs::create_dir_all(dir).await?;
        tokio::fs::write(&path, text).await
    };
    write.await.map_err(file_error("write", &path))
}

/// A moment, by both clocks, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// Since the machine started; it never jumps.
    pub(super) uptime: i64,
    /// Since the Unix epoch.
    pub(super) wall: i64,
}

impl Moment {
    /// When something was, by the machine's time, that the clock has noted as `wall`. What it has noted of later than now is
    /// of now.
    pub(super) fn of_wall(self, wall: i64) -> i64 {
        self.uptime - self.wall.saturating_sub(wall).max(0)
    }
}

/// A file that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Complete {
    /// Its number.
    pub(super) number: u64,
    /// When its last line came, in milliseconds since the machine started; below 0 if before.
    pub(super) ended: i64,
}

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) bytes: u64,
    pub(super) files: usize,
    /// In milliseconds.
    pub(super) age: Option<i64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: FILE_BYTES, files: FILES_KEPT, age: None }
    }
}

impl Limits {
    /// What [`write_limits`] has written. What cannot be read is no reason to lose what is to come.
    pub(super) fn read(dir: &Path) -> Self {
        let text = std::fs::read(dir.join(LIMITS_FILE)).unwrap_or_default();
        let spec: LogSpec = serde_json::from_slice(&text).unwrap_or_default();
        let default = Self::default();
        Self {
            bytes: spec.max_size.map_or(default.bytes, |size| size.0),
            files: spec.max_files.map_or(default.files, |files| files as usize),
            age: spec.max_age_seconds.map(|seconds| i64::from(seconds) * 1_000),
        }
    }

    /// Whether a file is to be followed by another that has so many bytes, the first line of which came at `begun`.
    pub(super) fn is_full(&self, length: u64, begun: i64, now: Moment) -> bool {
        length >= self.bytes || (length > 0 && self.age.is_some_and(|age| now.uptime - begun >= age))
    }

    /// The numbers of the complete files, ascending, that are too many or too old beside the one that is written.
    pub(super) fn surplus(&self, complete: &[Complete], now: Moment) -> Vec<u64> {
        let too_many = complete.len().saturating_sub(self.files.saturating_sub(1));
        let old = |file: &Complete| self.age.is_some_and(|age| now.uptime - file.ended >= age);
        // One that is kept keeps all after it, so that no part is missing between.
        let gone = complete.iter().enumerate().take_while(|(at, file)| *at < too_many || old(file));
        gone.map(|(_, file)| file.number).collect()
    }

    /// In how many milliseconds something will be too old, if nothing is written; `begun` is of the file that is written,
    /// if it has a line.
    pub(super) fn due(&self, begun: Option<i64>, complete: &[Complete], now: Moment) -> Option<i64> {
        let first = begun.into_iter().chain(complete.first().map(|file| file.ended)).min();
        Some((first? + self.age? - now.uptime).max(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hivemind_core::model::Bytes;

    fn at(uptime: i64) -> Moment {
        Moment { uptime, wall: 1_000_000 + uptime }
    }

    fn complete(files: &[(u64, i64)]) -> Vec<Complete> {
        files.iter().map(|(number, ended)| Complete { number: *number, ended: *ended }).collect()
    }

    const LIMITS: Limits = Limits { bytes: 100, files: 3, age: Some(1_000) };

    #[test]
    fn a_file_is_full_by_size_or_by_age() {
        for (length, begun, now, full) in [
            (99, 0, 999, false),
            (100, 0, 0, true),
            (1, 0, 1_000, true),
            // One without a line has no age.
            (0, 0, 9_000, false),
            (1, -5_000, 0, true),
        ] {
            assert_eq!(LIMITS.is_full(length, begun, at(now)), full, "{length} {begun} {now}");
        }
        assert!(!Limits { age: None, ..LIMITS }.is_full(1, 0, at(i64::MAX / 2)));
    }

    #[test]
    fn what_is_too_much_or_too_old_goes_from_the_oldest_on() {
        let files = complete(&[(4, 0), (5, 500), (6, 900)]);
        assert_eq!(LIMITS.surplus(&files, at(950)), [4], "three are kept, the one that is written among them");
        assert_eq!(LIMITS.surplus(&files, at(1_500)), [4, 5]);
        assert_eq!(LIMITS.surplus(&files, at(1_900)), [4, 5, 6]);
        assert_eq!(Limits { files: 1, age: None, ..LIMITS }.surplus(&files, at(0)), [4, 5, 6]);
        assert_eq!(Limits { files: 9, age: None, ..LIMITS }.surplus(&files, at(i64::MAX / 2)), Vec::<u64>::new());
        assert_eq!(LIMITS.surplus(&complete(&[(1, 900), (2, 0)]), at(1_000)), Vec::<u64>::new(), "no gaps");
    }

    #[test]
    fn what_comes_next_is_known() {
        let files = complete(&[(4, 100), (5, 500)]);
        assert_eq!(LIMITS.due(Some(600), &files, at(700)), Some(400));
        assert_eq!(LIMITS.due(Some(600), &[], at(700)), Some(900));
        assert_eq!(LIMITS.due(Some(600), &[], at(7_000)), Some(0));
        assert_eq!(LIMITS.due(None, &[], at(0)), None);
        assert_eq!(Limits { age: None, ..LIMITS }.due(Some(0), &files, at(0)), None);
    }

    #[test]
    fn a_clock_that_was_ahead_makes_nothing_younger_than_now() {
        assert_eq!(at(5_000).of_wall(1_000_000), 0);
        assert_eq!(at(5_000).of_wall(900_000), -100_000, "before the machine was started");
        assert_eq!(at(5_000).of_wall(9_000_000), 5_000);
    }

    #[tokio::test]
    async fn what_was_said_is_read_by_the_writer() {
        let dir = tempfile::tempdir().expect("makes one");
        let dir = dir.path().join("log");
        write_limits(&dir, &LogSpec::default()).await.expect("nothing to write");
        assert!(!dir.exists());
        let spec = LogSpec { max_size: Some(Bytes(4096)), max_files: Some(2), max_age_seconds: Some(60) };
        write_limits(&dir, &spec).await.expect("written");
        assert_eq!(Limits::read(&dir), Limits { bytes: 4096, files: 2, age: Some(60_000) });
        write_limits(&dir, &LogSpec::default()).await.expect("written");
        assert_eq!(Limits::read(&dir), Limits::default());
        std::fs::write(dir.join(LIMITS_FILE), "{").expect("written");
        assert_eq!(Limits::read(&dir), Limits::default());
    }
}
