//! What a plain scalar is: text, a number, a truth value or nothing, as the specification's reference reads it.
//!
//! YAML 1.2's core schema, with what people of YAML 1.1 write: `0755` is octal and `1_000` a thousand. `yes`, `no`,
//! `on`, `off`, `y` and `n` stay text, and are truth values where a key wants one. There are no numbers to the base
//! of 60 and no dates: `22:22` and `2024-01-01` are text.

use super::value::Data;

/// What a plain scalar holds.
pub(super) fn resolve(text: &str) -> Data {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Data::Null,
        "true" | "True" | "TRUE" => Data::Bool(true),
        "false" | "False" | "FALSE" => Data::Bool(false),
        _ => number(text).unwrap_or_else(|| Data::Text(text.to_owned())),
    }
}

/// A number, if the text is one that can be told exactly enough.
fn number(text: &str) -> Option<Data> {
    let first = text.bytes().next()?;
    if !(first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.')) || text.len() > 64 {
        return None;
    }
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.as_bytes()[0] {
        b'-' => (-1, &plain[1..]),
        b'+' => (1, &plain[1..]),
        _ => (1, plain.as_str()),
    };
    let radix = |prefix: [&str; 2], base| {
        let digits = prefix.iter().find_map(|prefix| digits.strip_prefix(prefix))?;
        let sound = digits.chars().all(|c| c.is_digit(base));
        sound.then(|| i64::from_str_radix(digits, base).ok()).flatten()
    };
    let octal = || {
        let old = digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|c| (b'0'..=b'7').contains(&c));
        if old { i64::from_str_radix(digits, 8).ok() } else { None }
    };
    if let Some(value) = radix(["0x", "0X"], 16).or_else(|| radix(["0b", "0B"], 2)).or_else(|| radix(["0o", "0O"], 8)) {
        return Some(Data::Int(sign * value));
    }
    if let Some(value) = octal() {
        return Some(Data::Int(sign * value));
    }
    if !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()) {
        // One digit of 8 or 9 behind a zero: no octal, and as decimal it would be read as something else than written.
        return match plain.parse::<i64>() {
            Ok(value) => Some(Data::Int(value)),
            Err(_) => float(&plain),
        };
    }
    float(&plain)
}

/// A number with a fraction or an exponent; `inf` and `nan` are text, since nothing takes them.
fn float(plain: &str) -> Option<Data> {
    let shape = plain.bytes().all(|c| c.is_ascii_digit() || matches!(c, b'+' | b'-' | b'.' | b'e' | b'E'));
    let digits = plain.bytes().any(|c| c.is_ascii_digit());
    let value = plain.parse::<f64>().ok().filter(|value| value.is_finite())?;
    (shape && digits).then_some(Data::Float(value))
}

/// A truth value as people write it, in any case.
pub(super) fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "y" | "on" => Some(true),
        "false" | "no" | "n" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_read_as_the_reference_does() {
        let text = |text: &str| Data::Text(text.to_owned());
        let rows = [
            ("", Data::Null),
            ("~", Data::Null),
            ("True", Data::Bool(true)),
            ("yes", text("yes")),
            ("off", text("off")),
            ("0755", Data::Int(493)),
            ("0o755", Data::Int(493)),
            ("0x1F", Data::Int(31)),
            ("0b11", Data::Int(3)),
            ("-0x10", Data::Int(-16)),
            ("0890", Data::Int(890)),
            ("1_000", Data::Int(1000)),
            ("+5", Data::Int(5)),
            ("22:22", text("22:22")),
            ("1.10", Data::Float(1.1)),
            (".5", Data::Float(0.5)),
            ("1e3", Data::Float(1000.0)),
            ("18446744073709551615", Data::Float(18_446_744_073_709_551_615.0)),
            (".inf", text(".inf")),
            ("-", text("-")),
            ("+", text("+")),
            ("..", text("..")),
            ("1.2.3", text("1.2.3")),
            ("2024-01-01", text("2024-01-01")),
            ("0x", text("0x")),
            ("0xg", text("0xg")),
            ("1e999", text("1e999")),
        ];
        for (written, wanted) in rows {
            assert_eq!(resolve(written), wanted, "{written:?}");
        }
    }
}
