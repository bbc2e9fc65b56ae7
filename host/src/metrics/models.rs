//! Figures of the models that are read when asked for: queues, KV memory, and what the plugins tell of themselves.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::models::{Model, Models};

use super::EngineMetrics;

/// Shows them for all models that answer.
#[derive(Debug)]
pub struct ModelFigures {
    pub models: Arc<Models>,
    pub engine: Arc<EngineMetrics>,
}

/// All series of one name.
#[derive(Default)]
struct Family {
    help: &'static str,
    counter: bool,
    series: Vec<(Vec<(&'static str, String)>, f64)>,
}

/// Prometheus wants all series of a name together.
#[derive(Default)]
struct Families(BTreeMap<String, Family>);

impl Collector for ModelFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut families = Families::default();
        for model in self.models.ready() {
            families.add_own(&model, &self.engine);
            families.add_plugin(&model);
        }
        families.0.iter().try_for_each(|(name, family)| family.encode(name, &mut encoder))
    }
}

impl Families {
    /// The queues and KV memory of a model.
    fn add_own(&mut self, model: &Model, engine: &EngineMetrics) {
        let kv = engine.kv_now(model.facts.kv_capacity_tokens);
        let mut gauge = |name: &str, help, label: Option<(&'static str, &str)>, value| {
            let family = self.0.entry(name.to_owned()).or_insert(Family { help, ..Family::default() });
            family.push(model, label, value);
        };
        gauge("requests_running", "Requests being generated", None, model.engine.running() as f64);
        gauge("requests_waiting", "Requests in the queue", None, model.engine.waiting() as f64);
        gauge("kv_cache_usage_ratio", "Share of the KV cache that running requests hold", None, kv.usage());
        gauge("kv_cache_capacity_tokens", "Tokens the KV cache holds", None, kv.capacity as f64);
        let tokens = "Tokens in the KV cache, by whom they serve";
        gauge("kv_cache_tokens", tokens, Some(("use", "running")), kv.running as f64);
        gauge("kv_cache_tokens", tokens, Some(("use", "parked")), kv.parked as f64);
        let sequences = engine.sequences_now();
        let help = "Sequences in the KV cache, by whom they serve";
        gauge("kv_cache_sequences", help, Some(("use", "running")), sequences.running as f64);
        gauge("kv_cache_sequences", help, Some(("use", "parked")), sequences.parked as f64);
        let block = u64::from(model.facts.block_size.max(1));
        let labels = [("block_size", block), ("num_gpu_blocks", kv.capacity / block)];
        let info = Family { help: "How the KV cache is cut into blocks; always 1", ..Family::default() };
        let info = self.0.entry("cache_config_info".to_owned()).or_insert(info);
        info.push(model, labels.map(|(name, value)| (name, value.to_string())), 1.0);
    }

    /// What a plugin tells of a model.
    fn add_plugin(&mut self, model: &Model) {
        for figure in (model.stats)() {
            let family = self.0.entry(format!("plugin_{}", figure.name)).or_insert(Family {
                help: "A figure of the plugin",
                counter: figure.counter,
                series: Vec::new(),
            });
            family.counter &= figure.counter;
            family.push(model, None::<(&'static str, &str)>, figure.value);
        }
    }
}

impl Family {
    fn push<V: Into<String>>(
        &mut self,
        model: &Model,
        labels: impl IntoIterator<Item = (&'static str, V)>,
        value: f64,
    ) {
        let further = labels.into_iter().map(|(name, value)| (name, value.into()));
        self.series.push(([("model", model.name.clone())].into_iter().chain(further).collect(), value));
    }

    fn encode(&self, name: &str, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        // The encoder appends `_total` to counters.
        let name = if self.counter { name.trim_end_matches("_total") } else { name };
        let kind = if self.counter { MetricType::Counter } else { MetricType::Gauge };
        let mut family = encoder.encode_descriptor(name, self.help, None, kind)?;
        self.series.iter().try_for_each(|(labels, value)| {
            let labels: Vec<_> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let labels = &labels[..];
            let metric = family.encode_family(&labels)?;
            match self.counter {
                true => ConstCounter::new(*value).encode(metric),
                false => ConstGauge::new(*value).encode(metric),
            }
        })
    }
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all().iter().map(|(name, _)| name)).finish()
    }
}

impl fmt::Debug for EngineMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineMetrics").finish_non_exhaustive()
    }
}
