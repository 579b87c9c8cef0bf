//! What numbers of rules meant that are of no policy any more: flows and drops that name them are shown for a while. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::RuleName;

/// How many are kept when not all of them are known to be named by something: as many as there are kinds of drops.
pub const MOST_RETIRED: usize = 4096;

/// The names of rules that are gone.
#[derive(Clone, Debug, Default)]
pub struct Retired {
    names: Arc<BTreeMap<u32, RuleName>>,
    /// When each went, as a number that rises.
    order: BTreeMap<u32, u64>,
    last: u64,
}

impl Retired {
    /// Takes in that rules were changed: who is gone is remembered, who is back is not gone.
    pub fn changed(&mut self, before: &BTreeMap<u32, RuleName>, now: &BTreeMap<u32, RuleName>) {
        let gone: Vec<_> = before.iter().filter(|(number, _)| !now.contains_key(number)).collect();
        let back: Vec<u32> = self.names.keys().filter(|number| now.contains_key(number)).copied().collect();
        if gone.is_empty() && back.is_empty() {
            return;
        }
        self.last += 1;
        let names = Arc::make_mut(&mut self.names);
        for number in back {
            names.remove(&number);
            self.order.remove(&number);
        }
        for (number, name) in gone {
            names.insert(*number, name.clone());
            self.order.insert(*number, self.last);
        }
    }

    /// Whether there are so many that those which nothing names should go: [`Retired::keep`].
    pub fn is_full(&self) -> bool {
        self.names.len() > MOST_RETIRED
    }

    /// Forgets all but those that something names, and of these the oldest beyond [`MOST_RETIRED`].
    pub fn keep(&mut self, named: &BTreeSet<u32>) {
        let names = Arc::make_mut(&mut self.names);
        names.retain(|number, _| named.contains(number));
        let mut by_age: Vec<(u64, u32)> = names.keys().map(|number| (self.order[number], *number)).collect();
        by_age.sort_unstable();
        for (_, number) in &by_age[..by_age.len().saturating_sub(MOST_RETIRED)] {
            names.remove(number);
        }
        self.order.retain(|number, _| names.contains_key(number));
    }

    /// By number.
    pub const fn names(&self) -> &Arc<BTreeMap<u32, RuleName>> {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Direction, PolicyRef};

    fn names(numbers: impl IntoIterator<Item = u32>) -> BTreeMap<u32, RuleName> {
        let name = |index| RuleName { policy: PolicyRef::Failsafe, direction: Direction::In, index };
        numbers.into_iter().map(|number| (number, name(number as usize))).collect()
    }

    #[test]
    fn what_is_gone_is_known_until_it_is_back() {
        let mut retired = Retired::default();
        retired.changed(&names([1, 2, 3]), &names([2]));
        assert_eq!(**retired.names(), names([1, 3]));
        retired.changed(&names([2]), &names([2, 3]));
        assert_eq!(**retired.names(), names([1]));
    }

    #[test]
    fn the_oldest_that_nothing_names_go_first() {
        let most = u32::try_from(MOST_RETIRED).expect("small");
        let mut retired = Retired::default();
        retired.changed(&names([1, 2]), &names([]));
        retired.changed(&names(10..10 + most), &names([]));
        assert!(retired.is_full());
        let mut few = retired.clone();
        few.keep(&[2, 10].into());
        assert_eq!(**few.names(), names([2, 10]));
        retired.keep(&(0..20 + most).collect());
        assert_eq!(**retired.names(), names(10..10 + most));
        assert!(!retired.is_full());
    }
}
