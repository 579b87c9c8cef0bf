//! Metrics in Prometheus' conventions. Most are read from the daemon's state when somebody asks, so that they cannot
//! drift from it; only what has no state (requests) is counted as it happens.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::ConstCounter, counter::Counter, family::Family, gauge::ConstGauge},
    registry::Registry,
};

/// A sample that was read from state.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Without the `hivemind_` prefix; a counter's without `_total`.
    pub name: &'static str,
    /// What it counts, without a final full stop.
    pub help: &'static str,
    /// Whether it only grows.
    pub counter: bool,
    /// Names and values of its labels.
    pub labels: Vec<(&'static str, String)>,
    /// Its value, in base units.
    pub value: f64,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    status: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RetryLabels {
    cause: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MirrorLabels {
    mirror: String,
}

/// A histogram that was read from state.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSample {
    /// Without the `hivemind_` prefix.
    pub name: &'static str,
    /// What it measures, without a final full stop.
    pub help: &'static str,
    /// Names and values of its labels.
    pub labels: Vec<(&'static str, String)>,
    /// Ends of buckets but the last, in base units, and how many are not longer.
    pub buckets: Vec<(f64, u64)>,
    /// How many there are.
    pub count: u64,
    /// Their sum, in base units.
    pub sum: f64,
}

/// The daemon's metrics. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter<u64, AtomicU64>>,
    rendering: Arc<tokio::sync::Mutex<()>>,
    repairs: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    forgotten: Counter<u64, AtomicU64>,
    images_removed: Counter<u64, AtomicU64>,
    retries: Family<RetryLabels, Counter<u64, AtomicU64>>,
    mirror_failures: Family<MirrorLabels, Counter<u64, AtomicU64>>,
}

impl Metrics {
    /// Counts a request that was answered.
    pub fn request(&self, route: &str, status: u16) {
        let labels = RequestLabels { route: route.to_owned(), status: status.into() };
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts what of the network was not as it should be and was put right; `kind` as `route`.
    pub fn repaired(&self, kind: &'static str, count: u64) {
        *self.repairs.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += count;
    }

    /// Counts connections of instances' addresses that the host's connection tracking was made to forget.
    pub fn forgotten(&self, count: u64) {
        self.forgotten.inc_by(count);
    }

    /// Counts an image that made room.
    pub fn image_removed(&self) {
        self.images_removed.inc();
    }

    /// Counts a request to a registry that is made again, by its cause.
    pub fn registry_retried(&self, cause: &'static str) {
        self.retries.get_or_create(&RetryLabels { cause }).inc();
    }

    /// Counts a mirror (one that is configured) that did not give what it was asked for.
    pub fn mirror_failed(&self, mirror: &str) {
        self.mirror_failures.get_or_create(&MirrorLabels { mirror: mirror.to_owned() }).inc();
    }

    /// What was put right, by kind.
    pub fn repairs(&self) -> BTreeMap<&'static str, u64> {
        self.repairs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for one's turn to read the samples and show them. One at a time: a scraper that asks too often waits
    /// instead of multiplying the work.
    pub async fn turn(&self) -> Turn<'_> {
        Turn { metrics: self, _one: self.rendering.lock().await }
    }
}

/// The right to show the metrics. Take it before the samples are read: that is most of the work.
#[derive(Debug)]
pub struct Turn<'a> {
    metrics: &'a Metrics,
    _one: tokio::sync::MutexGuard<'a, ()>,
}

impl Turn<'_> {
    /// The text exposition of all metrics: what was counted, and `samples`.
    pub fn render(self, samples: Vec<Sample>, histograms: Vec<HistogramSample>) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("hivemind");
        registry.register("api_requests", "Requests answered by the API", self.metrics.requests.clone());
        registry.register(
            "tracked_forgotten",
            "Tracked connections of instances' addresses that were forgotten before somebody else could get the address",
            self.metrics.forgotten.clone(),
        );
        registry.register(
            "images_removed",
            "Images that nobody used and that were removed because the disk was full",
            self.metrics.images_removed.clone(),
        );
        registry.register(
            "registry_retries",
            "Requests to registries of images that were made again: stalled, broken, busy, failing",
            self.metrics.retries.clone(),
        );
        registry.register(
            "registry_mirror_failures",
            "Images for which a mirror failed, so that the next one or the registry was asked",
            self.metrics.mirror_failures.clone(),
        );
        registry.register_collector(Box::new(Samples(samples)));
        registry.register_collector(Box::new(Histograms(histograms)));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// Hands samples to the encoder, grouped by name.
#[derive(Debug)]
struct Samples(Vec<Sample>);

impl prometheus_client::collector::Collector for Samples {
    fn encode(&self, mut encoder: prometheus_client::encoding::DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut names: Vec<_> = self.0.iter().map(|s| (s.name, s.help, s.counter)).collect();
        names.sort_unstable();
        names.dedup();
        for (name, help, counter) in names {
            let kind = if counter {
                prometheus_client::metrics::MetricType::Counter
            } else {
                prometheus_client::metrics::MetricType::Gauge
            };
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for sample in self.0.iter().filter(|sample| sample.name == name) {
                let metric = family.encode_family(&sample.labels)?;
                if counter {
                    prometheus_client::encoding::EncodeMetric::encode(&ConstCounter::new(sample.value), metric)?;
                } else {
                    prometheus_client::encoding::EncodeMetric::encode(&ConstGauge::new(sample.value), metric)?;
                }
            }
        }
        Ok(())
    }
}

/// The same with histograms.
#[derive(Debug)]
struct Histograms(Vec<HistogramSample>);

impl prometheus_client::collector::Collector for Histograms {
    fn encode(&self, mut encoder: prometheus_client::encoding::DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut names: Vec<_> = self.0.iter().map(|s| (s.name, s.help)).collect();
        names.sort_unstable();
        names.dedup();
        for (name, help) in names {
            let kind = prometheus_client::metrics::MetricType::Histogram;
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for sample in self.0.iter().filter(|sample| sample.name == name) {
                let HistogramSample { labels, buckets, count, sum, .. } = sample;
                // The last bucket has no end.
                let all: Vec<_> = buckets.iter().copied().chain([(f64::INFINITY, *count)]).collect();
                // The encoder adds up what it is given.
                let mut before = 0;
                let each: Vec<_> = all.iter().map(|(end, n)| (*end, n - std::mem::replace(&mut before, *n))).collect();
                family.encode_family(labels)?.encode_histogram::<Vec<(String, String)>>(*sum, *count, &each, None)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_reads_and_shows_at_a_time() {
        use futures::FutureExt as _;
        let metrics = Metrics::default();
        let other = metrics.clone();
        let first = metrics.turn().await;
        assert!(other.turn().now_or_never().is_none(), "two at a time");
        first.render(vec![], vec![]).expect("renders");
        assert!(other.turn().now_or_never().is_some(), "the turn is not over");
    }

    #[tokio::test]
    async fn renders_what_was_counted_and_what_was_read() {
        let metrics = Metrics::default();
        metrics.request("/v1/nodes", 200);
        let sample = |phase: &str, value| Sample {
            name: "instances",
            help: "Instances by phase",
            counter: false,
            labels: vec![("phase", phase.to_owned())],
            value,
        };
        let dropped = Sample { name: "dropped_packets", help: "Drops", counter: true, labels: vec![], value: 7.0 };
        let histogram = HistogramSample {
            name: "round_trip_seconds",
            help: "Round trips",
            labels: vec![("from", "a".to_owned())],
            buckets: vec![(0.5, 2), (1.0, 5)],
            count: 6,
            sum: 9.5,
        };
        let text = metrics
            .turn()
            .await
            .render(vec![sample("ready", 3.0), dropped, sample("failed", 1.0)], vec![histogram])
            .expect("renders");
        for line in [
            "hivemind_api_requests_total{route=\"/v1/nodes\",status=\"200\"} 1",
            "hivemind_instances{phase=\"ready\"} 3.0",
            "hivemind_instances{phase=\"failed\"} 1.0",
            "hivemind_dropped_packets_total{} 7.0",
            "hivemind_round_trip_seconds_bucket{le=\"0.5\",from=\"a\"} 2",
            "hivemind_round_trip_seconds_bucket{le=\"1.0\",from=\"a\"} 5",
            "hivemind_round_trip_seconds_bucket{le=\"+Inf\",from=\"a\"} 6",
            "hivemind_round_trip_seconds_count{from=\"a\"} 6",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("# TYPE hivemind_instances gauge").count(), 1);
    }
}
