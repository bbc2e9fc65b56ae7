//! The families: how a model of candle-transformers is made, fed and forgotten.
//!
//! Admitted is only what agrees with transformers, as `host/tests/long_tail.rs` checks. Cache rules, by the sources
//! of candle-transformers 0.11.1: `bigcode` cannot forget, so each sequence takes a new one; `deepseek2` clears its
//! cache when told; of `mamba` the state is apart, and takes one token at a time.

use candle_core::{DType, Device, Error, Result, Tensor};
use candle_transformers::models::{bigcode, deepseek2, mamba};
use serde_json::{Map, Value};

use super::weights::{Renames, Vars};

/// A model that holds one sequence.
pub(super) trait Model: Send {
    /// Appends tokens behind the `past` that it has seen, and returns the logits after the last: `[.., vocab]`.
    fn forward(&mut self, tokens: &[u32], past: usize) -> Result<Tensor>;

    /// The same without its sequence, if it can forget.
    fn forgotten(self: Box<Self>) -> Option<Box<dyn Model>>;
}

/// How to make instances of a loaded model.
pub(super) struct Recipe {
    /// Makes one that has seen nothing; weights are shared.
    pub open: Box<dyn Fn() -> Result<Box<dyn Model>> + Send>,
    /// Bytes of an instance beside weights and keys and values.
    pub instance_bytes: u64,
}

/// What there is to know of a family before its weights are read.
pub(super) struct Family {
    pub name: &'static str,
    pub renames: Renames,
    /// Makes a recipe from the settings of `config.json`, the weights, and the longest sequence.
    pub recipe: fn(&Settings, Vars, usize) -> Result<Recipe>,
}

/// All families that are implemented here.
pub(super) const FAMILIES: &[Family] = &[
    Family { name: "gpt_bigcode", renames: &[], recipe: BigCode::recipe },
    Family { name: "deepseek2", renames: &[], recipe: DeepSeek::recipe },
    Family {
        name: "mamba",
        renames: &[("backbone.embedding.", "backbone.embeddings.")],
        recipe: Mamba::recipe,
    },
];

/// A `config.json`, read with the family's defaults.
pub(super) struct Settings(pub Map<String, Value>);

impl Settings {
    fn count(&self, key: &str) -> Result<usize> {
        let found = self.0.get(key).and_then(Value::as_u64).and_then(|number| usize::try_from(number).ok());
        found.ok_or_else(|| Error::msg(format!("{key} is no number")))
    }

    fn float(&self, key: &str) -> Result<f64> {
        self.0.get(key).and_then(Value::as_f64).ok_or_else(|| Error::msg(format!("{key} is no number")))
    }

    /// All of it as one of the structs of candle-transformers.
    fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(Value::Object(self.0.clone())).map_err(|error| Error::msg(format!("config.json: {error}")))
    }
}

/// `[1, n]`.
fn row(tokens: &[u32], device: &Device) -> Result<Tensor> {
    Tensor::new(tokens, device)?.unsqueeze(0)
}

struct BigCode {
    model: bigcode::GPTBigCode,
    device: Device,
}

impl BigCode {
    fn recipe(settings: &Settings, vars: Vars, _: usize) -> Result<Recipe> {
        let positions = settings.count("n_positions")?;
        let (vocab_size, hidden_size) = (settings.count("vocab_size")?, settings.count("n_embd")?);
        let (layers, heads) = (settings.count("n_layer")?, settings.count("n_head")?);
        let inner = settings.count("n_inner").ok();
        let epsilon = settings.float("layer_norm_epsilon")?;
        let open = move || -> Result<Box<dyn Model>> {
            let config = bigcode::Config {
                vocab_size,
                max_position_embeddings: positions,
                num_hidden_layers: layers,
                hidden_size,
                layer_norm_epsilon: epsilon,
                n_inner: inner,
                num_attention_heads: heads,
                multi_query: true,
                use_cache: true,
            };
            let model = bigcode::GPTBigCode::load(vars.clone(), config)?;
            Ok(Box::new(BigCode { model, device: vars.device().clone() }))
        };
        // Each instance holds a mask over all positions.
        Ok(Recipe { open: Box::new(open), instance_bytes: (positions * positions) as u64 })
    }
}

impl Model for BigCode {
    fn forward(&mut self, tokens: &[u32], past: usize) -> Result<Tensor> {
        self.model.forward(&row(tokens, &self.device)?, past)
    }

    fn forgotten(self: Box<Self>) -> Option<Box<dyn Model>> {
        None
    }
}

struct DeepSeek {
    model: deepseek2::DeepSeekV2,
    device: Device,
}

impl DeepSeek {
    fn recipe(settings: &Settings, vars: Vars, context: usize) -> Result<Recipe> {
        let mut settings = settings.0.clone();
        complete_yarn(&mut settings);
        // The rotary table is made for so many positions, whatever comes.
        settings.insert("max_position_embeddings".to_owned(), context.into());
        let settings = Settings(settings);
        let table = (context * settings.count("qk_rope_head_dim")? * DType::F32.size_in_bytes()) as u64;
        let config: deepseek2::DeepSeekV2Config = settings.parse()?;
        let open = move || -> Result<Box<dyn Model>> {
            let model = deepseek2::DeepSeekV2::new(&config, vars.clone())?;
            Ok(Box::new(DeepSeek { model, device: vars.device().clone() }))
        };
        Ok(Recipe { open: Box::new(open), instance_bytes: table })
    }
}

/// Writes out what absent keys of YaRN mean; candle-transformers takes a description without them for another.
fn complete_yarn(settings: &mut Map<String, Value>) {
    let Some(Value::Object(scaling)) = settings.get_mut("rope_scaling") else { return };
    let kind = scaling.get("rope_type").cloned().unwrap_or_else(|| "yarn".into());
    scaling.entry("type").or_insert(kind);
    for (key, value) in [("beta_fast", 32), ("beta_slow", 1), ("mscale", 1), ("mscale_all_dim", 0)] {
        let entry = scaling.entry(key).or_insert(Value::Null);
        if entry.is_null() {
            *entry = value.into();
        }
    }
}

impl Model for DeepSeek {
    fn forward(&mut self, tokens: &[u32], past: usize) -> Result<Tensor> {
        self.model.forward(&row(tokens, &self.device)?, past)
    }

    fn forgotten(mut self: Box<Self>) -> Option<Box<dyn Model>> {
        self.model.clear_kv_cache();
        Some(self)
    }
}

struct Mamba {
    model: std::sync::Arc<mamba::Model>,
    state: mamba::State,
    device: Device,
}

impl Mamba {
    fn recipe(settings: &Settings, vars: Vars, _: usize) -> Result<Recipe> {
        let config = mamba::Config {
            d_model: settings.count("hidden_size")?,
            n_layer: settings.count("num_hidden_layers")?,
            vocab_size: settings.count("vocab_size")?,
            // Checkpoints of transformers are padded already.
            pad_vocab_size_multiple: 1,
        };
        let inner = 2 * config.d_model;
        let state_bytes = (config.n_layer * inner * (16 + 4) * DType::F32.size_in_bytes()) as u64;
        let device = vars.device().clone();
        let model = std::sync::Arc::new(mamba::Model::new(&config, vars.pp("backbone"))?);
        let open = move || -> Result<Box<dyn Model>> {
            let state = mamba::State::new(1, &config, DType::F32, &device)?;
            Ok(Box::new(Mamba { model: model.clone(), state, device: device.clone() }))
        };
        Ok(Recipe { open: Box::new(open), instance_bytes: state_bytes })
    }
}

impl Model for Mamba {
    fn forward(&mut self, tokens: &[u32], _: usize) -> Result<Tensor> {
        let mut logits = None;
        for token in tokens {
            logits = Some(self.model.forward(&Tensor::new(&[*token], &self.device)?, &mut self.state)?);
        }
        logits.ok_or_else(|| Error::msg("no tokens"))
    }

    fn forgotten(self: Box<Self>) -> Option<Box<dyn Model>> {
        None
    }
}
