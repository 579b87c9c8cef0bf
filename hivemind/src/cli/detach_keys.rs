//! The keys that leave a terminal, as Docker has them: `ctrl-p,ctrl-q`. Pure.

use std::str::FromStr;

use bytes::Bytes;

/// A sequence of keys, and how far it has been typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DetachKeys {
    keys: Vec<u8>,
    typed: usize,
}

/// What comes of what was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// It is for the process.
    Bytes(Bytes),
    /// All keys of the sequence were typed.
    Detach,
}

impl FromStr for DetachKeys {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let key = |word: &str| match word.as_bytes() {
            [one] if one.is_ascii_graphic() => Ok(*one),
            [b'c', b't', b'r', b'l', b'-', one] => match one.to_ascii_lowercase() {
                letter @ b'a'..=b'z' => Ok(letter - b'a' + 1),
                // As the terminal has them: the letter's code without its upper bits.
                sign @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_') => Ok(sign & 0x1f),
                _ => Err(()),
            },
            _ => Err(()),
        };
        let keys: Result<Vec<u8>, ()> = text.split(',').map(key).collect();
        let keys =
            keys.map_err(|()| "write keys with commas between them, e.g. ctrl-p,ctrl-q or ctrl-],d".to_owned())?;
        Ok(Self { keys, typed: 0 })
    }
}

impl DetachKeys {
    /// What comes of these bytes. The beginning of a sequence is held back until it is known to be none.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<Typed> {
        let mut pass = Vec::new();
        for byte in bytes {
            if *byte == self.keys[self.typed] {
                self.typed += 1;
                if self.typed == self.keys.len() {
                    self.typed = 0;
                    let before = (!pass.is_empty()).then(|| Typed::Bytes(pass.into()));
                    return before.into_iter().chain([Typed::Detach]).collect();
                }
                continue;
            }
            pass.extend_from_slice(&self.keys[..std::mem::take(&mut self.typed)]);
            if *byte == self.keys[0] && self.keys.len() > 1 {
                self.typed = 1;
            } else {
                pass.push(*byte);
            }
        }
        if pass.is_empty() { Vec::new() } else { vec![Typed::Bytes(pass.into())] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static [u8]) -> Typed {
        Typed::Bytes(Bytes::from_static(text))
    }

    #[test]
    fn keys_are_read_as_docker_has_them() {
        for (text, keys) in [("ctrl-p,ctrl-q", &[16, 17][..]), ("ctrl-],d", &[29, b'd']), ("x", b"x"), ("ctrl-@", &[0])]
        {
            assert_eq!(text.parse::<DetachKeys>().expect(text).keys, keys, "{text}");
        }
        for text in ["", "ctrl-", "ctrl-1", "ab", "ctrl-p,", "ctrl-p ctrl-q"] {
            assert!(text.parse::<DetachKeys>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_the_whole_sequence_leaves_and_everything_else_passes() {
        let mut keys: DetachKeys = "ctrl-p,ctrl-q".parse().expect("keys");
        assert_eq!(keys.take(b"ls\n"), [bytes(b"ls\n")]);
        // Ctrl-P alone is the line before in a shell: it comes with the next key.
        assert_eq!(keys.take(b"\x10"), []);
        assert_eq!(keys.take(b"x"), [bytes(b"\x10x")]);
        assert_eq!(keys.take(b"\x10\x10"), [bytes(b"\x10")]);
        assert_eq!(keys.take(b"\x11ls"), [Typed::Detach]);
        assert_eq!(keys.take(b"a\x10\x11b"), [bytes(b"a"), Typed::Detach]);
    }
}
