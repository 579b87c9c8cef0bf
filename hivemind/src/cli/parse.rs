//! Values of flags.

use std::time::Duration;

use crate::model::Timestamp;

/// `90s`, `5m`, `1h30m`, `500ms`, or seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let form = || format!("{text:?} is not a time; write e.g. 90s, 5m, 1h30m or 500ms");
    if text.is_empty() {
        return Err(form());
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let number: u64 = number.parse().map_err(|_| form())?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "" if rest.len() == digits && rest == text => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(form()),
        };
        let part = number.checked_mul(millis).map(Duration::from_millis);
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(|| format!("{text:?} is too long"))?;
        rest = after;
    }
    Ok(total)
}

/// A moment: `10m` ago, or RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    Ago(Duration),
    At(Timestamp),
}

pub(super) fn since(text: &str) -> Result<Since, String> {
    if let Ok(ago) = duration(text) {
        return Ok(Since::Ago(ago));
    }
    let at: Result<jiff::Timestamp, _> = text.parse();
    at.map(|at| Since::At(Timestamp::from_millis(at.as_millisecond())))
        .map_err(|_| format!("{text:?} is no time; write e.g. 10m, or 2026-11-21T01:14:07Z"))
}

impl Since {
    pub(super) fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => {
                let millis = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
                Timestamp::from_millis(now.as_millis().saturating_sub(millis).max(0))
            }
        }
    }
}

/// `web=3`.
pub(super) fn assignment(text: &str) -> Result<(String, u32), String> {
    let (app, number) = text.split_once('=').ok_or("write APP=NUMBER, e.g. web=3")?;
    let number = number.parse().map_err(|_| format!("{number:?} is not a number of instances"))?;
    Ok((app.to_owned(), number))
}

/// `env=prod`.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.to_owned(), value.to_owned())).ok_or_else(|| "write NAME=VALUE, e.g. env=prod".into())
}

/// A change of one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LabelChange {
    Set(String, String),
    Remove(String),
}

/// `env=prod`, or `env-` to take it away.
pub(super) fn label_change(text: &str) -> Result<LabelChange, String> {
    match text.strip_suffix('-').filter(|key| !key.is_empty() && !key.contains('=')) {
        Some(key) => Ok(LabelChange::Remove(key.to_owned())),
        None => label(text)
            .map(|(key, value)| LabelChange::Set(key, value))
            .map_err(|_| "write NAME=VALUE, or NAME- to take it away".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("90s", 90_000),
            ("5m", 300_000),
            ("500ms", 500),
            ("2", 2_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("1m500ms", 60_500),
            ("1d", 86_400_000),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1s", "1w", "1m30", "1.5h", " 1s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn labels_are_set_and_taken_away() {
        let set = |key: &str, value: &str| Ok(LabelChange::Set(key.into(), value.into()));
        for (text, expected) in [
            ("a=b", set("a", "b")),
            ("a=", set("a", "")),
            ("a=b-", set("a", "b-")),
            ("a=b=c", set("a", "b=c")),
            ("a-", Ok(LabelChange::Remove("a".into()))),
            ("a-b-", Ok(LabelChange::Remove("a-b".into()))),
        ] {
            assert_eq!(label_change(text), expected, "{text}");
        }
        for text in ["", "a", "-", "=b"] {
            assert!(label_change(text).is_err(), "{text}");
        }
    }

    #[test]
    fn moments() {
        let now = Timestamp::from_millis(100_000);
        let at = |text| since(text).map(|since| since.at(now).as_millis());
        assert_eq!(at("10s"), Ok(90_000));
        assert_eq!(at("10d"), Ok(0), "never before the epoch");
        assert_eq!(at("1970-01-01T00:00:07Z"), Ok(7_000));
        assert!(at("yesterday").is_err());
    }
}
