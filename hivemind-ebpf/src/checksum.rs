//! The Internet checksum, changed without reading the packet again (RFC 1624, equation 3).

/// The checksum after a 16-bit field has changed from `old` to `new`. All three in the packet's own byte order,
/// whichever that is: the sum does not mind.
#[inline(always)]
pub const fn replace(checksum: u16, old: u16, new: u16) -> u16 {
    // ~(~HC + ~m + m'), with the carries added back.
    let sum = (!checksum) as u32 + (!old) as u32 + new as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::replace;

    /// The checksum from scratch (RFC 1071).
    fn full(words: &[u16]) -> u16 {
        let mut sum: u32 = words.iter().map(|&w| u32::from(w)).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn is_the_same_as_computing_it_anew() {
        // The corner case of RFC 1624, section 4.
        assert_eq!(replace(0xdd2f, 0x5555, 0x3285), 0x0000);
        let mut words = [0x4500, 0x0054, 0x1234, 0x4000, 0x4001, 0x0a58, 0x0005, 0x0a60, 0x0001];
        for new in [0u16, 1, 0x00ff, 0x3f01, 0xfffe, 0xffff] {
            let before = full(&words);
            let old = std::mem::replace(&mut words[4], new);
            assert_eq!(replace(before, old, new), full(&words), "{old:#x} -> {new:#x}");
        }
    }
}
