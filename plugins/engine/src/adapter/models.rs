//! The families: how a model of candle-transformers is made, fed and forgotten.
//!
//! Admitted is only what agrees with transformers, as `host/tests/long_tail.rs` checks. Cache rules, by the sources
//! of candle-transformers 0.11.1: `bigcode` cannot forget, so each sequence takes a new one; `deepseek2` clears its
//! cache when told; of `mamba`, `mamba2` and `lfm2` the state is apart; of `recurrent_gemma` a clone is made before
//! its first token. `mamba` and `mamba2` take one token at a time; `recurrent_gemma` and `lfm2` do so behind the
//! first call: the one refuses more, the other would forget what its convolutions have seen.

use std::sync::Arc;

use candle_core::{DType, Device, Error, Result, Tensor};
use candle_transformers::models::{bigcode, deepseek2, lfm2, mamba, mamba2, recurrent_gemma};
use serde_json::{Map, Value};

use super::weights::{Renames, Tensors, Vars};

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
    /// Whether a sequence may be longer than `config.json` says.
    pub stretches: bool,
    /// Changes weights so that what is computed with them is right.
    pub adjust: fn(&Settings, &mut Tensors) -> Result<()>,
    /// Makes a recipe from the settings of `config.json`, the weights, and the longest sequence.
    pub recipe: fn(&Settings, Vars, usize) -> Result<Recipe>,
}

/// All families that are implemented here.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "gpt_bigcode",
        renames: &[],
        stretches: false,
        adjust: as_stored,
        recipe: BigCode::recipe,
    },
    Family { name: "deepseek2", renames: &[], stretches: true, adjust: as_stored, recipe: DeepSeek::recipe },
    Family {
        name: "mamba",
        renames: &[("backbone.embedding.", "backbone.embeddings.")],
        stretches: true,
        adjust: as_stored,
        recipe: Mamba::recipe,
    },
    Family { name: "mamba2", renames: &[], stretches: true, adjust: as_stored, recipe: Mamba2::recipe },
    Family {
        name: "recurrent_gemma",
        renames: &[],
        stretches: false,
        adjust: RecurrentGemma::adjust,
        recipe: RecurrentGemma::recipe,
    },
    Family { name: "lfm2", renames: &[], stretches: true, adjust: as_stored, recipe: Lfm2::recipe },
];

fn as_stored(_: &Settings, _: &mut Tensors) -> Result<()> {
    Ok(())
}

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
        serde_json::from_value(Value::Object(self.0.clone()))
            .map_err(|error| Error::msg(format!("config.json: {error}")))
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

struct Mamba;

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
        let model = mamba::Model::new(&config, vars.pp("backbone"))?;
        let step: Step<mamba::State> = Arc::new(move |token, state| model.forward(token, state));
        let open = move || -> Result<Box<dyn Model>> {
            let state = mamba::State::new(1, &config, DType::F32, &device)?;
            Ok(Box::new(Stepwise { state, step: step.clone(), device: device.clone() }))
        };
        Ok(Recipe { open: Box::new(open), instance_bytes: state_bytes })
    }
}

struct Mamba2;

impl Mamba2 {
    fn recipe(settings: &Settings, vars: Vars, _: usize) -> Result<Recipe> {
        let config = mamba2::Config {
            d_model: settings.count("hidden_size")?,
            n_layer: settings.count("num_hidden_layers")?,
            vocab_size: settings.count("vocab_size")?,
            d_state: settings.count("state_size")?,
            expand: settings.count("expand")?,
            headdim: settings.count("head_dim")?,
            ngroups: settings.count("n_groups")?,
            pad_vocab_size_multiple: 1,
        };
        let inner = config.d_model * config.expand;
        let values = inner * config.d_state + (inner + 2 * config.ngroups * config.d_state) * 4;
        let state_bytes = (config.n_layer * values * DType::F32.size_in_bytes()) as u64;
        let device = vars.device().clone();
        let model = mamba2::Model::new(&config, vars.pp("backbone"))?;
        let step: Step<mamba2::State> = Arc::new(move |token, state| model.forward(token, state));
        let open = move || -> Result<Box<dyn Model>> {
            let state = mamba2::State::new(1, &config, DType::F32, &device)?;
            Ok(Box::new(Stepwise { state, step: step.clone(), device: device.clone() }))
        };
        Ok(Recipe { open: Box::new(open), instance_bytes: state_bytes })
    }
}

/// A model that takes one token at a time and has its state apart.
struct Stepwise<S> {
    state: S,
    step: Step<S>,
    device: Device,
}

/// From one token (`[1]`) and the state to logits.
type Step<S> = Arc<dyn Fn(&Tensor, &mut S) -> Result<Tensor> + Send + Sync>;

impl<S: Send> Model for Stepwise<S> {
    fn forward(&mut self, tokens: &[u32], _: usize) -> Result<Tensor> {
        let mut logits = None;
        for token in tokens {
            logits = Some((self.step)(&Tensor::new(&[*token], &self.device)?, &mut self.state)?);
        }
        logits.ok_or_else(|| Error::msg("no tokens"))
    }

    fn forgotten(self: Box<Self>) -> Option<Box<dyn Model>> {
        None
    }
}

struct RecurrentGemma {
    model: recurrent_gemma::Model,
    device: Device,
}

impl RecurrentGemma {
    /// The reference multiplies embeddings by the root of the width rounded to bfloat16, candle-transformers by the
    /// root itself. The embedding takes the difference, and the last norm takes it from the logits again.
    fn adjust(settings: &Settings, tensors: &mut Tensors) -> Result<()> {
        let root = (settings.count("hidden_size")? as f64).sqrt();
        let ratio = half::bf16::from_f64(root).to_f64() / root;
        let mut replace = |name: &str, change: &dyn Fn(&Tensor) -> Result<Tensor>| match tensors.get_mut(name)
        {
            Some(tensor) => change(tensor).map(|changed| *tensor = changed),
            None => Err(Error::msg(format!("tensor {name} is missing"))),
        };
        replace("model.embed_tokens.weight", &|tensor| tensor * ratio)?;
        // It multiplies by one more than the weight.
        replace("model.final_norm.weight", &|tensor| ((tensor + 1.0)? / ratio)? - 1.0)
    }

    fn recipe(settings: &Settings, vars: Vars, context: usize) -> Result<Recipe> {
        let mut settings = Settings(settings.0.clone());
        let (hidden, heads) = (settings.count("hidden_size")?, settings.count("num_attention_heads")?);
        let mut default = |key: &str, value: usize| {
            let entry = settings.0.entry(key).or_insert(Value::Null);
            if entry.is_null() {
                *entry = value.into();
            }
        };
        default("head_dim", hidden / heads);
        default("num_key_value_heads", heads);
        default("lru_width", hidden);
        settings.0.insert("max_seq_len".to_owned(), context.into());
        let config: recurrent_gemma::Config = settings.parse()?;
        let kept = config.lru_width.unwrap_or(hidden).saturating_mul(config.conv1d_width);
        let state_bytes = (config.num_hidden_layers * kept * DType::F32.size_in_bytes()) as u64;
        let device = vars.device().clone();
        let unused = recurrent_gemma::Model::new(&config, vars.pp("model"))?;
        let open = move || -> Result<Box<dyn Model>> {
            Ok(Box::new(RecurrentGemma { model: unused.clone(), device: device.clone() }))
        };
        Ok(Recipe { open: Box::new(open), instance_bytes: state_bytes })
    }
}

impl Model for RecurrentGemma {
    fn forward(&mut self, tokens: &[u32], past: usize) -> Result<Tensor> {
        singly_behind_the_first(tokens, past, |tokens, past| {
            self.model.forward(&row(tokens, &self.device)?, past)
        })
    }

    fn forgotten(self: Box<Self>) -> Option<Box<dyn Model>> {
        None
    }
}

struct Lfm2 {
    model: Arc<lfm2::Model>,
    cache: lfm2::Cache,
    device: Device,
}

impl Lfm2 {
    fn recipe(settings: &Settings, vars: Vars, context: usize) -> Result<Recipe> {
        let config = Self::config(settings, &vars, context)?;
        let values = config.num_hidden_layers * config.hidden_size * config.conv_l_cache;
        let device = vars.device().clone();
        let model = Arc::new(lfm2::Model::new(&config, vars)?);
        let unused = lfm2::Cache::new(true, DType::F32, &config, &device)?;
        let open = move || -> Result<Box<dyn Model>> {
            Ok(Box::new(Lfm2 { model: model.clone(), cache: unused.clone(), device: device.clone() }))
        };
        Ok(Recipe { open: Box::new(open), instance_bytes: (values * DType::F32.size_in_bytes()) as u64 })
    }

    fn config(settings: &Settings, vars: &Vars, context: usize) -> Result<lfm2::Config> {
        let layers = settings.count("num_hidden_layers")?;
        let tied =
            ["tie_embedding", "tie_word_embeddings"].iter().find_map(|key| settings.0.get(*key)?.as_bool());
        Ok(lfm2::Config {
            vocab_size: settings.count("vocab_size")?,
            hidden_size: settings.count("hidden_size")?,
            // Files derive it in several ways; the weights have one.
            intermediate_size: vars.get_unchecked("model.layers.0.feed_forward.w1.weight")?.dim(0)?,
            num_hidden_layers: layers,
            num_attention_heads: settings.count("num_attention_heads")?,
            num_key_value_heads: settings.count("num_key_value_heads")?,
            norm_eps: settings.float("norm_eps")?,
            rope_theta: settings.float("rope_theta")? as f32,
            // The rotary table is made for so many positions, whatever comes.
            max_position_embeddings: context,
            conv_l_cache: settings.count("conv_L_cache")?,
            conv_bias: false,
            layer_types: Self::layer_types(settings, layers)?,
            tie_embedding: tied.unwrap_or(true),
            bos_token_id: None,
            eos_token_id: None,
            use_flash_attn: false,
        })
    }

    fn layer_types(settings: &Settings, layers: usize) -> Result<Vec<lfm2::LayerType>> {
        if let Some(types) = settings.0.get("layer_types").filter(|types| !types.is_null()) {
            let types: Vec<lfm2::LayerType> = serde_json::from_value(types.clone()).map_err(Error::wrap)?;
            if types.len() == layers {
                return Ok(types);
            }
            return Err(Error::msg(format!("layer_types names {} of {layers} layers", types.len())));
        }
        let places = settings.0.get("full_attn_idxs").and_then(Value::as_array);
        let attends =
            |layer: usize| places.is_none_or(|all| all.iter().any(|at| at.as_u64() == Some(layer as u64)));
        let of = |layer| if attends(layer) { lfm2::LayerType::FullAttention } else { lfm2::LayerType::Conv };
        Ok((0..layers).map(of).collect())
    }
}

impl Model for Lfm2 {
    fn forward(&mut self, tokens: &[u32], past: usize) -> Result<Tensor> {
        singly_behind_the_first(tokens, past, |tokens, past| {
            self.model.forward(&row(tokens, &self.device)?, past, &mut self.cache)
        })
    }

    fn forgotten(mut self: Box<Self>) -> Option<Box<dyn Model>> {
        self.cache.clear();
        Some(self)
    }
}

/// Runs all tokens in one call at the beginning of a sequence, and each in its own behind it.
fn singly_behind_the_first(
    tokens: &[u32],
    past: usize,
    mut forward: impl FnMut(&[u32], usize) -> Result<Tensor>,
) -> Result<Tensor> {
    if past == 0 {
        return forward(tokens, 0);
    }
    let mut logits = None;
    for (at, token) in tokens.iter().enumerate() {
        logits = Some(forward(&[*token], past + at)?);
    }
    logits.ok_or_else(|| Error::msg("no tokens"))
}
