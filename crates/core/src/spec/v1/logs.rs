//! How much of a container's log is kept.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::Bytes;

/// The smallest file: a record of the longest piece of a line fits into a few of them.
const MIN_SIZE: Bytes = Bytes(4 << 10);
/// The largest file.
const MAX_SIZE: Bytes = Bytes(1 << 40);
/// The most files.
const MAX_FILES: u32 = 1_000;
/// Ten years, in seconds.
const MAX_AGE: u32 = 10 * 366 * 86_400;

/// How much of an instance's log is kept, in files that follow each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogSpec {
    /// A file of this size is followed by another; 4Ki to 1Ti, 10Mi by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<Bytes>,
    /// How many files are kept, the one that is written included; 1 to 1,000, 3 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_files: Option<u32>,
    /// Seconds after which a file is followed by another, and those after which one that is complete is removed; 1 to ten
    /// years, unlimited by default. So a line is removed when it is between once and twice as old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_seconds: Option<u32>,
}

impl LogSpec {
    /// Whether nothing was said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Takes one of Docker's options, `max-size` or `max-file`, or `max-age` in seconds.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let number = || value.parse().map_err(|_| format!("{name}: {value:?} is not a number"));
        match name {
            "max-size" => self.max_size = Some(Bytes::from_str(value).map_err(|why| format!("{name}: {why}"))?),
            "max-file" => self.max_files = Some(number()?),
            "max-age" => self.max_age_seconds = Some(number()?),
            _ => return Err(format!("there is no option {name:?}; there are max-size, max-file and max-age")),
        }
        Ok(())
    }
}

pub(super) fn check(spec: &LogSpec, fault: &mut impl FnMut(&str, String)) {
    if let Some(size) = spec.max_size.filter(|size| !(MIN_SIZE..=MAX_SIZE).contains(size)) {
        fault("logging.max_size", format!("{size} is not from {MIN_SIZE} to {MAX_SIZE}"));
    }
    for (field, value, high) in
        [("logging.max_files", spec.max_files, MAX_FILES), ("logging.max_age_seconds", spec.max_age_seconds, MAX_AGE)]
    {
        if let Some(value) = value.filter(|value| !(1..=high).contains(value)) {
            fault(field, format!("{value} is not from 1 to {high}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::v1::{AppSpec, validate_app};

    #[test]
    fn options_are_read_and_checked() {
        let mut spec = LogSpec::default();
        for (name, value) in [("max-size", "10m"), ("max-file", "5"), ("max-age", "60")] {
            spec.set(name, value).expect(name);
        }
        assert_eq!(spec, LogSpec { max_size: Some(Bytes(10 << 20)), max_files: Some(5), max_age_seconds: Some(60) });
        for (name, value, part) in [
            ("max-size", "much", "not an amount"),
            ("max-file", "x", "not a number"),
            ("tag", "x", "no option \"tag\""),
        ] {
            let why = spec.set(name, value).expect_err(name);
            assert!(why.contains(part), "{why}");
        }
        let mut app = AppSpec::new("web");
        app.logging = spec;
        assert_eq!(validate_app(&app), Vec::<String>::new());
        app.logging = LogSpec { max_size: Some(Bytes(4095)), max_files: Some(0), max_age_seconds: Some(u32::MAX) };
        assert_eq!(
            validate_app(&app),
            [
                "logging.max_size: 4095 is not from 4Ki to 1Ti",
                "logging.max_files: 0 is not from 1 to 1000",
                "logging.max_age_seconds: 4294967295 is not from 1 to 316224000",
            ]
        );
    }
}
