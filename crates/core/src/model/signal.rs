//! Leaf: names of signals, as images and documents write them.

use nix::sys::signal::Signal;

/// The number of a signal: by its name with or without `SIG`, as `RTMIN+3` (which systemd's images use), or by its
/// number. `None` if there is no such signal.
pub fn signal_number(text: &str) -> Option<i32> {
    let named = || {
        let full = if text.starts_with("SIG") { text.to_owned() } else { format!("SIG{text}") };
        full.parse::<Signal>().ok().map(|signal| signal as i32)
    };
    let real_time = || {
        let offset: i32 = text.trim_start_matches("SIG").strip_prefix("RTMIN+")?.parse().ok()?;
        let number = nix::libc::SIGRTMIN() + offset;
        (0..=nix::libc::SIGRTMAX() - nix::libc::SIGRTMIN()).contains(&offset).then_some(number)
    };
    let number = || text.parse().ok().filter(|number| (1..=64).contains(number));
    named().or_else(real_time).or_else(number)
}

#[cfg(test)]
mod tests {
    use super::signal_number;

    #[test]
    fn every_form_that_images_use_is_read() {
        for (text, number) in [
            ("SIGQUIT", Some(3)),
            ("QUIT", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(nix::libc::SIGRTMIN() + 3)),
            ("RTMIN+99", None),
            ("0", None),
            ("nonsense", None),
        ] {
            assert_eq!(signal_number(text), number, "{text}");
        }
    }
}
