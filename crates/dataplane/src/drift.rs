//! What is not as it should be in the kernel. Floor 1: pure.

use std::fmt::Debug;

use imbl::OrdMap;

use super::diff::changes;

/// What is wrong with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It is not there.
    Missing,
    /// It should not be there.
    Extra,
    /// It says something else.
    Different,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// A table, `attachment` or `pin`.
    pub place: &'static str,
    /// What is wrong.
    pub fault: Fault,
    /// Of what.
    pub what: String,
    /// What it should be; empty if it should not be.
    pub wanted: String,
    /// What it is; empty if it is not there.
    pub found: String,
}

/// What was put right, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Repairs {
    /// Rows of tables.
    pub rows: u64,
    /// Programs that were not attached where they should be.
    pub attachments: u64,
    /// Names of maps in the BPF file system.
    pub pins: u64,
}

impl std::ops::AddAssign for Repairs {
    fn add_assign(&mut self, more: Self) {
        self.rows += more.rows;
        self.attachments += more.attachments;
        self.pins += more.pins;
    }
}

impl Repairs {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.rows + self.attachments + self.pins
    }
}

/// Compares a table with what it should hold.
pub(super) fn compare<K: Ord + Clone + Debug, V: PartialEq + Debug>(
    place: &'static str,
    found: &OrdMap<K, V>,
    wanted: &OrdMap<K, V>,
) -> Vec<Difference> {
    let changes = changes(found, wanted);
    let wrong = changes.put.into_iter().map(|(key, value)| {
        let there = found.get(key);
        let fault = if there.is_some() { Fault::Different } else { Fault::Missing };
        let found = there.map(|value| format!("{value:?}")).unwrap_or_default();
        Difference { place, fault, what: format!("{key:?}"), wanted: format!("{value:?}"), found }
    });
    let extra = changes.cut.iter().map(|key| {
        let found = found.get(key).map(|value| format!("{value:?}")).unwrap_or_default();
        Difference { place, fault: Fault::Extra, what: format!("{key:?}"), wanted: String::new(), found }
    });
    let mut all: Vec<_> = wrong.collect();
    all.extend(extra);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_is_named_with_both_sides() {
        let found = OrdMap::<i32, &str>::from([(1, "a"), (2, "b"), (3, "c")].as_slice());
        let wanted = OrdMap::<i32, &str>::from([(2, "b"), (3, "x"), (4, "d")].as_slice());
        let told: Vec<_> =
            compare("t", &found, &wanted).into_iter().map(|d| (d.fault, d.what, d.wanted, d.found)).collect();
        let row = |fault, what: &str, wanted: &str, found: &str| (fault, what.into(), wanted.into(), found.into());
        assert_eq!(
            told,
            [
                row(Fault::Different, "3", "\"x\"", "\"c\""),
                row(Fault::Missing, "4", "\"d\"", ""),
                row(Fault::Extra, "1", "", "\"a\""),
            ]
        );
        assert!(compare("t", &found, &found).is_empty());
    }
}
