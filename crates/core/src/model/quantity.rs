//! Amounts with a unit.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why an amount was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not an amount of {kind}: {why}")]
pub struct InvalidQuantity {
    /// What it is an amount of, e.g. `CPU`.
    pub kind: &'static str,
    /// What was given.
    pub value: String,
    /// The form it should have.
    pub why: &'static str,
}

/// Thousandths of a CPU. Written `500m`, `0.5` or `2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MilliCpu(pub u32);

impl FromStr for MilliCpu {
    type Err = InvalidQuantity;
    fn from_str(value: &str) -> Result<Self, InvalidQuantity> {
        let refuse = |why| InvalidQuantity { kind: "CPU", value: value.to_owned(), why };
        let form = "write 500m, 0.5 or 2";
        if let Some(milli) = value.strip_suffix('m') {
            return milli.parse().map(Self).map_err(|_| refuse(form));
        }
        let (whole, part) = value.split_once('.').unwrap_or((value, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && part.is_empty()) || !digits(whole) || !digits(part) {
            return Err(refuse(form));
        }
        if part.len() > 3 {
            return Err(refuse("at most three digits after the point (a thousandth of a CPU)"));
        }
        let whole: u32 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| refuse(form))? };
        let part: u32 = format!("{part:0<3}").parse().map_err(|_| refuse(form))?;
        let total = whole.checked_mul(1000).and_then(|w| w.checked_add(part));
        total.map(Self).ok_or_else(|| refuse("more than any machine has"))
    }
}

impl fmt::Display for MilliCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) { write!(f, "{}", self.0 / 1000) } else { write!(f, "{}m", self.0) }
    }
}

/// A number of bytes. Written `128Mi`, `1Gi`, `512k`, `64M`, `1073741824` or, as Docker does, `256m`, `1g`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = InvalidQuantity;
    fn from_str(value: &str) -> Result<Self, InvalidQuantity> {
        let refuse = |why| InvalidQuantity { kind: "memory", value: value.to_owned(), why };
        let digits = value.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = value.split_at(digits);
        let number: u64 = number.parse().map_err(|_| refuse("write 64Mi, 1Gi or 256m"))?;
        // Docker's lower-case units are powers of 1024, as are Ki, Mi, Gi, Ti; K, M, G, T are powers of 1000.
        let factor: u64 = match unit {
            "" | "b" | "B" => 1,
            "k" | "kb" | "Ki" | "KiB" => 1 << 10,
            "m" | "mb" | "Mi" | "MiB" => 1 << 20,
            "g" | "gb" | "Gi" | "GiB" => 1 << 30,
            "t" | "tb" | "Ti" | "TiB" => 1 << 40,
            "K" | "KB" | "kB" => 1_000,
            "M" | "MB" => 1_000_000,
            "G" | "GB" => 1_000_000_000,
            "T" | "TB" => 1_000_000_000_000,
            _ => return Err(refuse("unknown unit; use Ki, Mi, Gi, Ti")),
        };
        number.checked_mul(factor).map(Self).ok_or_else(|| refuse("more than any machine has"))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
        let exact = units.iter().find(|(_, shift)| self.0 >= 1 << shift && self.0.trailing_zeros() >= *shift);
        match exact {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Quantities travel as text, and a bare JSON number is accepted, in the unit without a letter.
macro_rules! as_text {
    ($type:ident, $example:literal) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let value = serde_json::Value::deserialize(d)?;
                let text = match &value {
                    serde_json::Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        impl utoipa::PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .examples([$example])
                    .into()
            }
        }
        impl utoipa::ToSchema for $type {}
    };
}
pub(super) use as_text;

as_text!(MilliCpu, "500m");
as_text!(Bytes, "128Mi");

#[cfg(test)]
mod tests {
    use super::{Bytes, MilliCpu};

    #[test]
    fn cpu() {
        for (text, milli) in [("500m", 500), ("0.5", 500), ("2", 2000), (".25", 250), ("1.005", 1005)] {
            assert_eq!(text.parse(), Ok(MilliCpu(milli)), "{text}");
        }
        for text in ["", ".", "-1", "1.0005", "abc", "5000000", "1e3", "0,5"] {
            assert!(text.parse::<MilliCpu>().is_err(), "{text}");
        }
        assert_eq!(MilliCpu(2000).to_string(), "2");
        assert_eq!(MilliCpu(1500).to_string(), "1500m");
    }

    #[test]
    fn bytes() {
        for (text, n) in [("64Mi", 64 << 20), ("256m", 256 << 20), ("1g", 1 << 30), ("5M", 5_000_000), ("42", 42)] {
            assert_eq!(text.parse(), Ok(Bytes(n)), "{text}");
        }
        for text in ["", "Mi", "1.5Gi", "-1", "12 Mi", "1X", "99999999999Ti"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        assert_eq!(Bytes(64 << 20).to_string(), "64Mi");
        assert_eq!(Bytes(1500).to_string(), "1500");
        assert_eq!(Bytes(0).to_string(), "0");
    }
}
