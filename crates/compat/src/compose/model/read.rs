//! How leaves are read: numbers, truth values, durations and sizes that may also be text.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Deserializer, de::Error};
use serde_json::Value;

use super::super::{forms, short, short::Ports};

/// A value that may be written as a number or as text.
pub(super) trait Leaf: Sized {
    /// Reads a text.
    fn text(text: &str) -> Result<Self, String>;
}

macro_rules! leaves {
    ($($type:ty = $read:expr;)*) => {
        $(impl Leaf for $type {
            fn text(text: &str) -> Result<Self, String> {
                $read(text)
            }
        })*
    };
}

leaves! {
    bool = forms::flag;
    f64 = forms::number;
    Duration = forms::duration;
    Ports = short::ports;
    String = |text: &str| Ok(text.to_owned());
    u64 = forms::count;
    i64 = |text: &str| forms::whole(text).or_else(|_| forms::micros(text));
}

/// Bytes; -1 is without a limit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Size(pub i64);

impl Leaf for Size {
    fn text(text: &str) -> Result<Self, String> {
        forms::size(text).map(Self)
    }
}

/// Rights of a file, as `chmod` takes them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Mode(pub u32);

impl Leaf for Mode {
    fn text(text: &str) -> Result<Self, String> {
        forms::mode(text).map(Self)
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            // A number was octal already: 0440 in YAML is 288 here.
            Value::Number(number) => {
                number.as_u64().and_then(|n| u32::try_from(n).ok()).map(Mode).ok_or("rights".into())
            }
            Value::String(text) => Self::text(&text),
            other => Err(format!("{other} are no rights of a file")),
        }
        .map_err(D::Error::custom)
    }
}

/// A leaf, or nothing.
pub(super) fn leaf<'de, D: Deserializer<'de>, T: Leaf>(from: D) -> Result<Option<T>, D::Error> {
    let text = match Value::deserialize(from)? {
        Value::Null => return Ok(None),
        Value::Bool(value) => value.to_string(),
        // 5.0 is 5 where a whole number is wanted.
        Value::Number(number) => match number.as_f64() {
            Some(value) if value.fract() == 0.0 && !number.is_i64() && value.abs() < 9e15 => format!("{value:.0}"),
            _ => number.to_string(),
        },
        Value::String(text) => text,
        other => return Err(D::Error::custom(format!("{other} is no single value"))),
    };
    T::text(&text).map(Some).map_err(D::Error::custom)
}

/// Names with values that may be numbers or nothing.
pub(super) fn settings<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let values = Option::<BTreeMap<String, Value>>::deserialize(from)?.unwrap_or_default();
    Ok(values
        .into_iter()
        .map(|(name, value)| match value {
            Value::Null => (name, String::new()),
            Value::String(text) => (name, text),
            other => (name, other.to_string()),
        })
        .collect())
}

/// Items that may be numbers.
pub(super) fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let values = Option::<Vec<Value>>::deserialize(from)?.unwrap_or_default();
    Ok(values.into_iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect())
}

/// A value whose absence is its default, also if the key is there with nothing.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}
