//! Round-trip times of TCP, between apps.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiState;
use hivemind_agent::datapath::Names;
use hivemind_core::model::ClusterSnapshot;
use hivemind_dataplane::round_trips::{Histogram, RoundTrips};
use hivemind_observe::HistogramSample;
use hivemind_policy::{HOST, WORLD};

/// How many pairs have a histogram of their own in the metrics: those with the most round trips. The others are one.
const PAIRS: usize = 100;
/// Apps of one class that are named.
const NAMED: usize = 3;

/// The round-trip times of connections of one app, as TCP has smoothed them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoundTripView {
    /// Who has connected: an app as `TENANT/NAMESPACE/APP` (several, if policies do not tell them apart), or `host`.
    pub from: String,
    /// How many were measured.
    pub count: u64,
    /// Half of them are not longer, in microseconds: a power of two.
    pub p50_us: u64,
    /// 99 of 100 are not longer.
    pub p99_us: u64,
}

/// Between whom, in words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    from: String,
    to: String,
    service: String,
}

/// What classes and numbers of services are called.
struct Called {
    classes: BTreeMap<u32, BTreeSet<String>>,
    /// By number: a service's name and whose instances serve it.
    services: HashMap<u32, (String, String)>,
}

impl Called {
    fn new(snapshot: &ClusterSnapshot, names: &Names) -> Self {
        let mut classes: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
        for (id, peer) in &names.policies.peers {
            if let Some(row) = snapshot.instances.get(id) {
                classes.entry(peer.class).or_default().insert(row.object.app.to_string());
            }
        }
        let services = snapshot.services.values().map(|row| &row.object);
        let services = services.map(|s| (s.id, (s.key.to_string(), s.app.to_string()))).collect();
        Self { classes, services }
    }

    fn class(&self, class: u32) -> String {
        match self.classes.get(&class) {
            _ if class == HOST => "host".into(),
            _ if class == WORLD => "world".into(),
            None => "gone".into(),
            Some(apps) => {
                let mut text = apps.iter().take(NAMED).cloned().collect::<Vec<_>>().join(",");
                if apps.len() > NAMED {
                    text += ",…";
                }
                text
            }
        }
    }

    fn pair(&self, row: &RoundTrips) -> Pair {
        let named = self.services.get(&row.service).cloned();
        let (service, to) = named.unwrap_or_else(|| (String::new(), self.class(row.to)));
        Pair { from: self.class(row.from), to, service }
    }
}

async fn read(state: &ApiState) -> (Vec<RoundTrips>, Called) {
    let rows = state.datapath.round_trips().await.unwrap_or_default();
    let names = state.datapath.names().await.unwrap_or_default();
    (rows, Called::new(&state.control.snapshot(), &names))
}

/// Those of a service, by who has connected; the most come first.
pub(super) async fn of_service(state: &ApiState, service: u32) -> Vec<RoundTripView> {
    let (rows, called) = read(state).await;
    let mut sums: BTreeMap<String, Histogram> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.service == service) {
        sums.entry(called.class(row.from)).or_default().add(&row.histogram);
    }
    let view = |(from, sum): (String, Histogram)| RoundTripView {
        from,
        count: sum.count(),
        p50_us: sum.quantile_us(500).unwrap_or(0),
        p99_us: sum.quantile_us(990).unwrap_or(0),
    };
    let mut views: Vec<_> = sums.into_iter().map(view).collect();
    views.sort_by_key(|view| std::cmp::Reverse(view.count));
    views
}

/// All of them, for Prometheus.
pub(super) async fn samples(state: &ApiState) -> Vec<HistogramSample> {
    let (rows, called) = read(state).await;
    bounded(rows.iter().map(|row| (called.pair(row), row.histogram)))
}

fn bounded(rows: impl Iterator<Item = (Pair, Histogram)>) -> Vec<HistogramSample> {
    let mut sums: BTreeMap<Pair, Histogram> = BTreeMap::new();
    rows.for_each(|(pair, histogram)| sums.entry(pair).or_default().add(&histogram));
    let mut all: Vec<_> = sums.into_iter().collect();
    all.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.count()));
    let rest = all.split_off(all.len().min(PAIRS));
    if !rest.is_empty() {
        let mut sum = Histogram::default();
        rest.iter().for_each(|(_, histogram)| sum.add(histogram));
        let other = || "other".to_owned();
        all.push((Pair { from: other(), to: other(), service: String::new() }, sum));
    }
    all.into_iter().map(|(pair, sum)| sample(pair, &sum)).collect()
}

#[expect(clippy::cast_precision_loss, reason = "metrics are floating point; exact up to 2^53")]
fn sample(pair: Pair, sum: &Histogram) -> HistogramSample {
    HistogramSample {
        name: "tcp_round_trip_seconds",
        help: "Round-trip times that TCP has measured between instances, as it has smoothed them",
        labels: vec![("from", pair.from), ("to", pair.to), ("service", pair.service)],
        buckets: sum.cumulative(),
        count: sum.count(),
        sum: sum.sum_us as f64 / 1e6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_one_name_are_one_and_those_beyond_the_bound_too() {
        let row = |n: u32, count| {
            let pair = Pair { from: format!("app-{n}"), to: "web".into(), service: "web".into() };
            let mut histogram = Histogram { sum_us: 10, ..Histogram::default() };
            histogram.buckets[4] = count;
            (pair, histogram)
        };
        let rows = (0..150).map(|n| row(n, u64::from(n) + 1)).chain([row(3, 1_000)]);
        let all = bounded(rows);
        assert_eq!(all.len(), PAIRS + 1);
        assert_eq!((all[0].labels[0].1.as_str(), all[0].count), ("app-3", 1_004));
        let other = all.last().expect("the rest");
        assert_eq!((other.labels[0].1.as_str(), other.count), ("other", (1..=51).sum::<u64>() - 4));
        assert!((other.sum - 50.0 * 10e-6).abs() < 1e-9, "{}", other.sum);
    }
}
