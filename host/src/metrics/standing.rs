//! Figures of what runs here: this build, the backend in use, whether it is less than what was wanted, and what became
//! of the plugins.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::standing::Standing;

#[derive(Debug)]
pub struct StandingFigures(pub Arc<Standing>);

impl Collector for StandingFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let state = self.0.now();
        let b = &state.backend;
        let version = env!("CARGO_PKG_VERSION");
        let labels = [
            ("backend", b.id.as_str()),
            ("variant", &b.variant),
            ("device", &b.device.name),
            ("plugin_version", &b.version),
            ("digest", &b.digest),
            ("host_version", version),
        ];
        let mut gauge = |name, help, series: &[(&[(&str, &str)], f64)]| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            series
                .iter()
                .try_for_each(|(labels, value)| ConstGauge::new(*value).encode(family.encode_family(labels)?))
        };
        let build = [("version", version), ("os", std::env::consts::OS), ("arch", std::env::consts::ARCH)];
        gauge("build_info", "This program; always 1", &[(&build, 1.0)])?;
        gauge("backend_info", "The backend in use; always 1", &[(&labels, 1.0)])?;
        let reason = state.degraded().map_or("OK", |degraded| degraded.code);
        let degraded = f64::from(u8::from(state.overview.degraded));
        let help = "1 if something less than what was wanted is in use, by verdict";
        gauge("backend_degraded", help, &[(&[("reason", reason)], degraded)])?;
        let mut counts = BTreeMap::<&str, f64>::new();
        for plugin in &state.overview.plugins {
            *counts.entry(plugin.verdict.code).or_default() += 1.0;
        }
        let labels: Vec<_> = counts.iter().map(|(code, count)| ([("verdict", *code)], *count)).collect();
        let series: Vec<(&[_], f64)> = labels.iter().map(|(labels, count)| (&labels[..], *count)).collect();
        gauge("plugins", "Plugin files that were considered, by verdict", &series)
    }
}
