//! What differs from layer to layer: windows, rotary embeddings, mixtures of experts.

use super::section::Section;
use crate::ConfigError;
use crate::config::{Layer, Ropes, range, unsupported};
use crate::family::{Positions, Windows};
use crate::gguf::{Array, Value};
use crate::tensors::Role;

const WINDOW: &str = "attention.sliding_window";
const PATTERN: &str = "attention.sliding_window_pattern";

impl Section<'_> {
    pub fn layers(&self, count: usize, experts: bool, ropes: &Ropes) -> Result<Vec<Layer>, ConfigError> {
        let rule = self.family.graph.positions;
        let turned = |at: usize| match rule {
            Positions::Interval(interval) => !(at + 1).is_multiple_of(interval),
            _ => true,
        };
        let moe = |at| experts && self.shape(Role::Up, at).is_none();
        Ok(ropes.layers(rule, self.windows(count)?, turned, moe))
    }

    /// The window of each layer.
    fn windows(&self, count: usize) -> Result<Vec<Option<usize>>, ConfigError> {
        let rule = self.family.gguf.windows;
        let window = self.usize(WINDOW)?.or(self.family.gguf.window).filter(|&window| window > 0);
        match (window, rule) {
            (Some(window), Windows::Never) => Err(unsupported(self.key(WINDOW), window, "0 (no window)")),
            (None, _) => Ok(vec![None; count]),
            (window, _) => {
                let slides = self.slides(rule, count)?;
                Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
            }
        }
    }

    /// Which layers have a window: all but every n-th, or as listed.
    fn slides(&self, rule: Windows, count: usize) -> Result<Vec<bool>, ConfigError> {
        if let Some(Value::Array(Array::Bool(listed))) = self.value(PATTERN) {
            if listed.len() != count {
                let each = format!("one entry for each of the {count} layers");
                return Err(range(PATTERN, each, listed.len()));
            }
            return Ok(listed.clone());
        }
        let usual = match rule {
            Windows::Pattern(usual) => usual,
            _ => 0,
        };
        // llama.cpp takes 0 for a window everywhere and 1 for none.
        let pattern = self.usize(PATTERN)?.unwrap_or(usual);
        Ok((0..count).map(|at| pattern == 0 || !(at + 1).is_multiple_of(pattern)).collect())
    }
}
