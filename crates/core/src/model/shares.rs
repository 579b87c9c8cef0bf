//! How new connections are shared among the instances of a service: what rollouts set. Connections that are open do
//! not move.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::InstanceId;

/// The weight of an instance that nobody has given another: weights can be thought of as per cent.
pub const DEFAULT_WEIGHT: u16 = 100;
/// The greatest weight; what is said beyond counts as this.
pub const MAX_WEIGHT: u16 = 256;

/// The weights of instances, from 0 (no new connection) to [`MAX_WEIGHT`]. The most exact wins: the instance's, its
/// generation's, [`DEFAULT_WEIGHT`].
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Shares {
    /// The weight of each instance of a generation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub generations: BTreeMap<u64, u16>,
    /// The weight of an instance.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub instances: BTreeMap<InstanceId, u16>,
    /// All others get no new connection, also while none of these is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Pin>,
}

/// Who alone gets new connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pin {
    /// The instances of this generation.
    Generation(u64),
    /// This instance.
    Instance(InstanceId),
}

impl Shares {
    /// The weight of an instance of a generation.
    pub fn weight(&self, id: &InstanceId, generation: u64) -> u16 {
        let pinned = match &self.pin {
            None => true,
            Some(Pin::Generation(only)) => *only == generation,
            Some(Pin::Instance(only)) => only == id,
        };
        let said = self.instances.get(id).or_else(|| self.generations.get(&generation));
        if pinned { said.copied().unwrap_or(DEFAULT_WEIGHT).min(MAX_WEIGHT) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_exact_word_wins_and_a_pin_beats_all() {
        let (one, other) = (InstanceId::from_bits(1), InstanceId::from_bits(2));
        let mut shares = Shares::default();
        assert_eq!(shares.weight(&one, 1), DEFAULT_WEIGHT);
        shares.generations.insert(2, 10);
        assert_eq!((shares.weight(&one, 2), shares.weight(&one, 1)), (10, DEFAULT_WEIGHT));
        shares.instances.insert(one.clone(), 999);
        assert_eq!((shares.weight(&one, 2), shares.weight(&other, 2)), (MAX_WEIGHT, 10));
        shares.pin = Some(Pin::Generation(1));
        assert_eq!((shares.weight(&one, 2), shares.weight(&other, 1)), (0, DEFAULT_WEIGHT));
        shares.pin = Some(Pin::Instance(other.clone()));
        assert_eq!((shares.weight(&one, 1), shares.weight(&other, 2)), (0, 10));
    }

    #[test]
    fn they_come_back_from_json() {
        let mut shares = Shares { pin: Some(Pin::Generation(3)), ..Shares::default() };
        shares.generations.insert(3, 90);
        shares.instances.insert(InstanceId::from_bits(1), 0);
        let json = serde_json::to_string(&shares).expect("JSON");
        assert_eq!(serde_json::from_str::<Shares>(&json).expect("the same"), shares);
    }
}
