//! Histograms that cost their observers two atomic additions: the engine thread observes every token, and must not
//! wait for a scrape.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

const NANOSECONDS: f64 = 1e9;

/// A histogram over whole numbers: counts, or times in nanoseconds that are shown in seconds.
#[derive(Debug, Clone)]
pub struct Histogram(Arc<Cells>);

#[derive(Debug)]
struct Cells {
    /// Upper bounds, ascending; each belongs to its bucket.
    bounds: Vec<u64>,
    /// What a bound or the sum is divided by when shown.
    scale: f64,
    /// Observations by bucket; the last is of those above all bounds.
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
}

impl Histogram {
    /// Of times. `bounds`: seconds, ascending.
    pub fn of_seconds(bounds: &[f64]) -> Self {
        Histogram::new(bounds.iter().map(|s| (s * NANOSECONDS).round() as u64).collect(), NANOSECONDS)
    }

    /// Of counts. `bounds`: ascending.
    pub fn of_counts(bounds: impl IntoIterator<Item = u64>) -> Self {
        Histogram::new(bounds.into_iter().collect(), 1.0)
    }

    fn new(bounds: Vec<u64>, scale: f64) -> Self {
        debug_assert!(bounds.is_sorted_by(|a, b| a < b), "buckets are looked up by bisection: {bounds:?}");
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram(Arc::new(Cells { bounds, scale, counts, sum: AtomicU64::new(0) }))
    }

    pub fn observe_time(&self, time: Duration) {
        // 584 years fit.
        self.observe(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn observe(&self, value: u64) {
        let cells = &*self.0;
        let bucket = cells.bounds.partition_point(|bound| *bound < value);
        cells.counts[bucket].fetch_add(1, Ordering::Relaxed);
        cells.sum.fetch_add(value, Ordering::Relaxed);
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let cells = &*self.0;
        let bounds = cells.bounds.iter().map(|bound| *bound as f64 / cells.scale);
        let counts = cells.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<_> = bounds.chain([f64::INFINITY]).zip(counts).collect();
        // The count is that of the buckets, so that the two agree whoever observes meanwhile.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = cells.sum.load(Ordering::Relaxed) as f64 / cells.scale;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// One name with a series for each value of a label. All are there from the start, since a rate over a series that
/// begins with its first event misses that event.
#[derive(Debug, Clone)]
pub struct Split<M, const N: usize> {
    label: &'static str,
    series: [(&'static str, M); N],
}

impl<M, const N: usize> Split<M, N> {
    pub fn new(label: &'static str, values: [&'static str; N], metric: impl Fn() -> M) -> Self {
        Split { label, series: values.map(|value| (value, metric())) }
    }

    /// The series of a value of the label, if it is one of those named at the start.
    pub fn of(&self, value: &str) -> Option<&M> {
        self.series.iter().find(|(name, _)| *name == value).map(|(_, metric)| metric)
    }
}

impl<M: EncodeMetric, const N: usize> EncodeMetric for Split<M, N> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        self.series
            .iter()
            .try_for_each(|(value, metric)| metric.encode(encoder.encode_family(&[(self.label, *value)])?))
    }

    fn metric_type(&self) -> MetricType {
        self.series.first().map_or(MetricType::Unknown, |(_, metric)| metric.metric_type())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    fn shown(metric: impl EncodeMetric + fmt::Debug + Send + Sync + 'static) -> Vec<String> {
        let mut registry = Registry::default();
        registry.register("x", "help", metric);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("a String takes all");
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn bounds_belong_to_their_bucket_and_buckets_add_up() {
        let histogram = Histogram::of_counts([1, 4]);
        [0, 1, 2, 4, 5, 100].iter().for_each(|value| histogram.observe(*value));
        let expected = [
            "x_sum 112.0",
            "x_count 6",
            "x_bucket{le=\"1.0\"} 2",
            "x_bucket{le=\"4.0\"} 4",
            "x_bucket{le=\"+Inf\"} 6",
        ];
        assert_eq!(shown(histogram), expected);
    }

    #[test]
    fn times_are_seconds_with_bounds_as_they_were_written() {
        let histogram = Histogram::of_seconds(&[0.0025, 0.1]);
        histogram.observe_time(Duration::from_micros(2500));
        histogram.observe_time(Duration::from_micros(2501));
        histogram.observe_time(Duration::from_secs(60));
        let expected = [
            "x_sum 60.005001",
            "x_count 3",
            "x_bucket{le=\"0.0025\"} 1",
            "x_bucket{le=\"0.1\"} 2",
            "x_bucket{le=\"+Inf\"} 3",
        ];
        assert_eq!(shown(histogram), expected);
    }

    #[test]
    fn every_value_of_a_label_is_there_before_it_happens() {
        let split = Split::new("kind", ["a", "b"], || Histogram::of_counts([1]));
        split.of("b").expect("named").observe(7);
        assert!(split.of("c").is_none());
        let counts: Vec<_> = shown(split).into_iter().filter(|line| line.starts_with("x_count")).collect();
        assert_eq!(counts, ["x_count{kind=\"a\"} 0", "x_count{kind=\"b\"} 1"]);
    }
}
