//! Places in a log, so that who was cut off can go on without a line lost or doubled.

use std::{fmt, str::FromStr};

/// A place in a log: so many bytes into one of its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file's number.
    pub file: u64,
    /// Bytes before it.
    pub offset: u64,
}

/// Behind a line of a log. As text it is opaque to users: `FILE.OFFSET`, and `~FILE.OFFSET` if a line of the other stream was
/// begun before and not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// Lines that end up to here have been read.
    pub behind: Place,
    /// Where reading begins again, so that lines that were begun are whole.
    pub from: Place,
}

/// The text is no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no position of a log; take that of the last line that you have, as it is")]
pub struct NoPosition;

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.file, self.offset)
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.behind)?;
        if self.from == self.behind { Ok(()) } else { write!(f, "~{}", self.from) }
    }
}

impl FromStr for Place {
    type Err = NoPosition;
    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let number = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits).ok_or(NoPosition)
        };
        let (file, offset) = text.split_once('.').ok_or(NoPosition)?;
        Ok(Self { file: number(file)?, offset: number(offset)? })
    }
}

impl FromStr for LogPosition {
    type Err = NoPosition;
    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let (behind, from) = text.split_once('~').unwrap_or((text, text));
        let (behind, from) = (behind.parse()?, from.parse()?);
        if from <= behind { Ok(Self { behind, from }) } else { Err(NoPosition) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_a_round_trip() {
        for text in ["1.0", "3.17", "3.17~2.4", "18446744073709551615.0"] {
            assert_eq!(text.parse::<LogPosition>().map(|position| position.to_string()), Ok(text.into()));
        }
        for text in ["", "1", "1.", ".1", "1.2~", "1.2~1.3", "+1.2", "1.2.3", "1.-2", "18446744073709551616.0"] {
            assert_eq!(text.parse::<LogPosition>(), Err(NoPosition), "{text}");
        }
    }
}
