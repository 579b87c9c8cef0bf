//! Changes that are only checked.

use crate::client::{ChangeArgs, DryRunArgs};

/// Whether a change is only checked.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(super) struct Dry {
    /// Check only, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl Dry {
    /// How a change is made that can have a condition; it has none.
    pub(super) fn change(self) -> ChangeArgs {
        ChangeArgs { dry_run: self.dry_run, if_match: None }
    }

    /// How another one is made.
    pub(super) const fn args(self) -> DryRunArgs {
        DryRunArgs { dry_run: self.dry_run }
    }

    /// What is said of it: `is removed`, `would be removed`.
    pub(super) const fn word(self, does: &'static str, would: &'static str) -> &'static str {
        if self.dry_run { would } else { does }
    }
}
