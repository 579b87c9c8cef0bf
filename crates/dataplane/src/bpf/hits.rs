//! What rules have decided. The programs count near, where the rule has the place, else far ([`map::HITS`]).

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::MapError;
use hivemind_ebpf::{map, policy::NEAR_HITS};

use super::maps::{Maps, failed};
use crate::DataplaneError;

/// What was last read of each rule.
#[derive(Debug, Default)]
pub(super) struct Seen(BTreeMap<u32, u64>);

impl Seen {
    /// How often each rule has decided, on all CPUs. It never falls: what goes from near to far while it is read is in
    /// neither.
    pub(super) fn read(&mut self, maps: &Maps) -> Result<BTreeMap<u32, u64>, DataplaneError> {
        let most = maps.capacity(map::HITS) as usize * 2;
        let mut all = BTreeMap::new();
        for row in maps.hits.iter().take(most).filter(|row| !matches!(row, Err(MapError::KeyNotFound))) {
            let (rule, values) = row.map_err(|error| failed("read", map::HITS, &error))?;
            *all.entry(rule).or_default() += values.iter().map(|count| count.packets).sum::<u64>();
        }
        for place in 0..NEAR_HITS {
            let values = maps.hits_near.get(&place, 0).map_err(|error| failed("read", map::HITS_NEAR, &error))?;
            for near in values.iter().filter(|near| near.rule != 0) {
                *all.entry(near.rule).or_default() += near.packets;
            }
        }
        for (rule, packets) in all {
            let seen = self.0.entry(rule).or_default();
            *seen = (*seen).max(packets);
        }
        Ok(self.0.clone())
    }

    /// Forgets the rules that are none of these: their numbers stand for nothing any more.
    pub(super) fn retire(&mut self, maps: &mut Maps, rules: &BTreeSet<u32>) -> Result<(), DataplaneError> {
        self.0.retain(|rule, _| rules.contains(rule));
        let gone: Vec<u32> = maps.hits.keys().filter_map(Result::ok).filter(|rule| !rules.contains(rule)).collect();
        for rule in gone {
            match maps.hits.remove(&rule) {
                Ok(()) | Err(MapError::KeyNotFound | MapError::ElementNotFound) => {}
                Err(error) => return Err(failed("sweep", map::HITS, &error)),
            }
        }
        Ok(())
    }
}
