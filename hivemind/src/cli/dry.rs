//! Changes that are only checked.

/// Whether a change is only checked.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(super) struct Dry {
    /// Check only, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl Dry {
    /// The path of a change, to be made or checked.
    pub(super) fn of(self, path: String) -> String {
        if !self.dry_run {
            return path;
        }
        let sign = if path.contains('?') { '&' } else { '?' };
        format!("{path}{sign}dryRun=true")
    }

    /// What is said of it: `is removed`, `would be removed`.
    pub(super) const fn word(self, does: &'static str, would: &'static str) -> &'static str {
        if self.dry_run { would } else { does }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_says_that_it_is_only_checked() {
        let dry = Dry { dry_run: true };
        assert_eq!(dry.of("/v1/a".into()), "/v1/a?dryRun=true");
        assert_eq!(dry.of("/v1/a?b=c".into()), "/v1/a?b=c&dryRun=true");
        assert_eq!(Dry::default().of("/v1/a".into()), "/v1/a");
    }
}
