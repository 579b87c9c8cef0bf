//! How much of something in a second.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::quantity::{InvalidQuantity, as_text};

/// Bits in a second. Written as `tc` has them: `500kbit`, `10mbit`, `2.5gbit`, or `10M`, `10mbit/s`; powers of 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BitRate(pub u64);

/// Packets or connections in a second. Written `500`, `10k`, `1M`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PerSecond(pub u64);

/// Powers of 1000 by their letter, the largest first.
const UNITS: [(char, u64); 4] = [('t', 1_000_000_000_000), ('g', 1_000_000_000), ('m', 1_000_000), ('k', 1_000)];

/// A number, with a point or without, and a letter of [`UNITS`] or none.
fn scaled(text: &str) -> Option<u64> {
    let unit = text.chars().last().and_then(|last| UNITS.iter().find(|(letter, _)| *letter == last));
    let (number, factor) = unit.map_or((text, 1), |(_, factor)| (&text[..text.len() - 1], *factor));
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || number.contains('.') && !digits(part) {
        return None;
    }
    let decimals = 10u64.checked_pow(u32::try_from(part.len()).ok()?)?;
    let fraction = if part.is_empty() { 0 } else { part.parse::<u64>().ok()?.checked_mul(factor)? };
    if !fraction.is_multiple_of(decimals) {
        return None;
    }
    whole.parse::<u64>().ok()?.checked_mul(factor)?.checked_add(fraction / decimals)
}

/// With the largest unit of which it is a whole number.
fn shown(number: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match UNITS.iter().find(|(_, factor)| number >= *factor && number.is_multiple_of(*factor)) {
        Some((letter, factor)) => write!(f, "{}{letter}", number / factor),
        None => write!(f, "{number}"),
    }
}

impl FromStr for BitRate {
    type Err = InvalidQuantity;
    fn from_str(value: &str) -> Result<Self, InvalidQuantity> {
        let refuse = |why| InvalidQuantity { kind: "bits in a second", value: value.to_owned(), why };
        let lower = value.to_ascii_lowercase();
        if lower.ends_with("bps") {
            // For tc it is bytes, for most others bits.
            return Err(refuse("bps means bytes to some and bits to others; write 10mbit or 1gbit"));
        }
        let text = lower.strip_suffix("/s").unwrap_or(&lower);
        let text = text.strip_suffix("bits").or_else(|| text.strip_suffix("bit")).unwrap_or(text);
        scaled(text).map(Self).ok_or_else(|| refuse("write 500kbit, 10mbit or 1gbit"))
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        shown(self.0, f)?;
        f.write_str("bit")
    }
}

impl FromStr for PerSecond {
    type Err = InvalidQuantity;
    fn from_str(value: &str) -> Result<Self, InvalidQuantity> {
        let lower = value.to_ascii_lowercase();
        let text = lower.strip_suffix("/s").or_else(|| lower.strip_suffix("pps")).unwrap_or(&lower);
        let refuse = |why| InvalidQuantity { kind: "times in a second", value: value.to_owned(), why };
        scaled(text).map(Self).ok_or_else(|| refuse("write 500, 10k or 1M"))
    }
}

impl fmt::Display for PerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        shown(self.0, f)
    }
}

as_text!(BitRate, "10mbit");
as_text!(PerSecond, "10k");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_of_bits() {
        for (text, bits) in [
            ("10mbit", 10_000_000),
            ("10Mbit/s", 10_000_000),
            ("10M", 10_000_000),
            ("2.5gbit", 2_500_000_000),
            ("500kbit", 500_000),
            ("1tbit", 1_000_000_000_000),
            ("8000", 8_000),
            ("8000bit", 8_000),
            ("0.5k", 500),
        ] {
            assert_eq!(text.parse(), Ok(BitRate(bits)), "{text}");
        }
        for text in [
            "",
            "bit",
            "m",
            "ten",
            "-1m",
            "1.m",
            ".5m",
            "1.0005k",
            "10mbps",
            "10MB",
            "10mib",
            "1e6",
            "99999999t",
            "1,5m",
        ] {
            assert!(text.parse::<BitRate>().is_err(), "{text}");
        }
        let why = "10mbps".parse::<BitRate>().expect_err("refused").to_string();
        assert_eq!(
            why,
            "\"10mbps\" is not an amount of bits in a second: bps means bytes to some and bits to others; write 10mbit or 1gbit"
        );
        for (bits, text) in [(10_000_000, "10mbit"), (2_500_000_000, "2500mbit"), (8_001, "8001bit"), (0, "0bit")] {
            assert_eq!(BitRate(bits).to_string(), text);
            assert_eq!(text.parse(), Ok(BitRate(bits)));
        }
    }

    #[test]
    fn rates_of_things() {
        for (text, number) in [("500", 500), ("10k", 10_000), ("1.5M", 1_500_000), ("10kpps", 10_000), ("7/s", 7)] {
            assert_eq!(text.parse(), Ok(PerSecond(number)), "{text}");
        }
        for text in ["", "k", "10kbit", "-5", "1.5"] {
            assert!(text.parse::<PerSecond>().is_err(), "{text}");
        }
        assert_eq!((PerSecond(10_000).to_string(), PerSecond(1_500).to_string()), ("10k".into(), "1500".into()));
    }
}
