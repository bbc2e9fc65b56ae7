//! What the crate's tests share: a small random model on disk, and a loaded model that is easy to drive.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use candle_core::{DType, Device, Tensor};
use sconce_formats::{Format, ModelSource};
use sconce_plugin_api::abi_stable::std_types::{RString, RVec};
use sconce_plugin_api::sdk::codes::{source, want};
use sconce_plugin_api::sdk::{
    self, Batch, Chunk, Executor, KeyValue, LoadRequest, Loaded, ModelInfo, Outputs, Progress, Stats,
};

use crate::cpu::CpuOps;
use crate::executor::{AnyExecutor, EngineExecutor};
use crate::ops::{CandleOps, Ops};
use crate::target::Target;

/// Where the large test files are; tests that need them say so and pass without.
pub fn fixtures() -> Option<PathBuf> {
    let set = std::env::var_os("SCONCE_FIXTURES").map(PathBuf::from);
    if set.is_none() {
        println!("skipped: SCONCE_FIXTURES is not set");
    }
    set
}

/// A CPU with plenty of memory.
pub fn target(ops: Arc<dyn Ops>) -> Target {
    Target {
        device: Device::Cpu,
        ops,
        compute: &[DType::F32],
        free_memory: Box::new(|| Some(1 << 32)),
        packed_share: 0.0,
        kv_share: 0.5,
    }
}

/// A request for the model at `path`, automatic in everything.
pub fn request(path: &Path) -> LoadRequest {
    let files = ModelSource::resolve(path).expect("a model");
    let kind = match files.format {
        Format::Safetensors => source::SAFETENSORS,
        Format::Gguf => source::GGUF,
    };
    let paths = files.weights.iter().map(|path| RString::from(path.to_str().expect("UTF-8"))).collect();
    LoadRequest {
        devices: RVec::from(vec![0]),
        source: sdk::ModelSource {
            kind,
            _pad: 0,
            paths,
            config_json: files.config_json.unwrap_or_default().into(),
            _r: [0; 4],
        },
        weight_dtype: 0,
        kv_dtype: 0,
        max_context: 0,
        max_batch_tokens: 512,
        max_sequences: 8,
        threads: 0,
        kv_bytes: 0,
        options: RVec::new(),
        _r: [0; 16],
    }
}

/// A loaded model.
pub struct Model<E = EngineExecutor> {
    pub executor: E,
    pub info: ModelInfo,
    pub stats: Box<dyn Stats>,
    pub cancel: AtomicU32,
}

/// Rows of logits, each as long as the vocabulary.
pub type Logits = Vec<Vec<f32>>;

impl Model {
    /// Loads with the CPU's operations.
    pub fn open(path: &Path) -> Model {
        Self::load(&request(path), Arc::new(CpuOps)).expect("the model loads")
    }

    /// Loads with candle's operations.
    pub fn open_plain(path: &Path) -> Model {
        Self::load(&request(path), Arc::new(CandleOps)).expect("the model loads")
    }

    pub fn load(request: &LoadRequest, ops: Arc<dyn Ops>) -> sdk::Result<Model> {
        let mut go_on = |_, _, _| true;
        let loaded = crate::load(target(ops), request, &mut Progress::new(&mut go_on))?;
        let AnyExecutor::Decoder(executor) = loaded.executor else { panic!("a model of the decoder") };
        Ok(Model::of(Loaded { executor: *executor, stats: loaded.stats }))
    }
}

impl<E: Executor> Model<E> {
    pub fn of(loaded: Loaded<E>) -> Model<E> {
        let info = loaded.executor.info();
        Model { executor: loaded.executor, info, stats: loaded.stats, cancel: AtomicU32::new(0) }
    }

    pub fn sequence(&mut self) -> u64 {
        self.executor.seq_create(0).expect("room for a sequence")
    }

    pub fn len(&self, seq: u64) -> u32 {
        self.executor.seq_len(seq).expect("a live sequence")
    }

    /// One step: `(sequence, tokens, want)` for each chunk. All wanted rows, and their hidden states.
    pub fn step_with_hidden(&mut self, parts: &[(u64, &[u32], u32)]) -> sdk::Result<(Logits, Logits)> {
        let tokens: Vec<u32> = parts.iter().flat_map(|(_, tokens, _)| tokens.iter().copied()).collect();
        let mut start = 0;
        let mut chunks = Vec::new();
        for (seq, tokens, want) in parts {
            let (len, pos) = (tokens.len() as u32, self.executor.seq_len(*seq)?);
            chunks.push(Chunk { seq: *seq, start, len, pos, want: *want, ..Default::default() });
            start += len;
        }
        let (vocab, hidden) = (self.info.vocab as usize, self.info.hidden as usize);
        let batch = Batch::internal(&tokens, &chunks, &self.cancel);
        let rows = batch.wanted_tokens().len();
        let hidden_rows = chunks.iter().filter(|c| c.want & want::HIDDEN != 0).map(|c| match c.want & 3 {
            want::LAST => 1,
            _ => c.len as usize,
        });
        let mut logits = vec![f32::NAN; rows * vocab];
        let mut states = vec![f32::NAN; hidden_rows.sum::<usize>() * hidden];
        let mut out =
            Outputs { logits: &mut logits, ids: &mut [], vals: &mut [], lse: &mut [], hidden: &mut states };
        let done = self.executor.forward(&batch, &mut out)?;
        assert_eq!((done.rows as usize, done.tokens as usize), (rows, tokens.len()));
        let split = |values: Vec<f32>, width: usize| values.chunks(width).map(<[f32]>::to_vec).collect();
        Ok((split(logits, vocab), split(states, hidden)))
    }

    /// As [`Model::step_with_hidden`], without hidden states.
    pub fn step(&mut self, parts: &[(u64, &[u32], u32)]) -> sdk::Result<Logits> {
        self.step_with_hidden(parts).map(|(logits, _)| logits)
    }

    /// Logits at every position of `tokens`, on a sequence that is freed again.
    pub fn all_logits(&mut self, tokens: &[u32]) -> Logits {
        let seq = self.sequence();
        let rows = self.step(&[(seq, tokens, want::ALL)]).expect("a step");
        self.executor.seq_free(seq);
        rows
    }

    /// Greedy continuation of `prompt`: ids and the rows that chose them.
    pub fn greedy(&mut self, prompt: &[u32], count: usize, stop: &[u32]) -> (Vec<u32>, Logits) {
        let seq = self.sequence();
        let (mut ids, mut rows) = (Vec::new(), Vec::new());
        let mut next = prompt.to_vec();
        while ids.len() < count && ids.last().is_none_or(|id| !stop.contains(id)) {
            let row = self.step(&[(seq, &next, want::LAST)]).expect("a step").remove(0);
            let best = argmax(&row);
            next = vec![best];
            ids.push(best);
            rows.push(row);
        }
        self.executor.seq_free(seq);
        (ids, rows)
    }

    /// A figure of the statistics.
    pub fn metric(&self, name: &str) -> f64 {
        let metrics = self.stats.metrics();
        metrics.iter().find(|metric| metric.name.as_str() == name).expect("a known metric").value
    }
}

pub fn argmax(row: &[f32]) -> u32 {
    let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.expect("rows are not empty").0 as u32
}

/// Largest difference between two sets of rows.
pub fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len(), "as many rows");
    let rows = a.iter().zip(b).map(|(a, b)| {
        assert_eq!(a.len(), b.len(), "as many columns");
        a.iter()
            .zip(b)
            .map(|(a, b)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() })
            .fold(0.0, f32::max)
    });
    rows.fold(0.0, f32::max)
}

/// Asserts that two sets of rows agree up to rounding.
#[track_caller]
pub fn assert_close(a: &[Vec<f32>], b: &[Vec<f32>], limit: f32) {
    let far = distance(a, b);
    assert!(far <= limit, "rows differ by {far}, more than {limit}");
}

/// Tokens for a test: every id below `vocab` that comes up, none special.
pub fn tokens(count: usize, seed: u32, vocab: u32) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 31 + seed * 17 + (i * i) % 7) % vocab).collect()
}

/// Vocabulary of [`tiny`].
pub const TINY_VOCAB: u32 = 96;

/// A `config.json` for [`tiny`]: 3 layers, 4 heads on 2 of size 16.
pub fn tiny_config() -> serde_json::Value {
    serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": null,
        "tie_word_embeddings": false, "attention_bias": false, "vocab_size": TINY_VOCAB, "bos_token_id": 1,
        "eos_token_id": 2, "torch_dtype": "float32"
    })
}

/// Writes a model of [`tiny_config`] with random weights.
pub fn tiny() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("config.json"), tiny_config().to_string()).expect("config.json");
    candle_core::safetensors::save(&tiny_weights(), dir.path().join("model.safetensors")).expect("weights");
    dir
}

/// Writes the tiny model again, with tied embeddings or without, and with other weights.
pub fn rewrite(dir: &Path, tied: bool, change: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let mut config = tiny_config();
    config["tie_word_embeddings"] = tied.into();
    std::fs::write(dir.join("config.json"), config.to_string()).expect("config.json");
    let file = dir.join("model.safetensors");
    let mut weights = candle_core::safetensors::load(&file, &Device::Cpu).expect("weights");
    change(&mut weights);
    candle_core::safetensors::save(&weights, file).expect("weights");
}

/// An output projection that is a copy of the embedding.
pub fn repeat_embedding(weights: &mut HashMap<String, Tensor>) {
    weights.insert("lm_head.weight".to_owned(), weights["model.embed_tokens.weight"].clone());
}

fn tiny_weights() -> HashMap<String, Tensor> {
    let mut state = 1u64;
    let mut random = |shape: &[usize]| {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| noise(&mut state) * 0.3).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor")
    };
    let (vocab, hidden, ffn, kv) = (TINY_VOCAB as usize, 64, 96, 32);
    let mut all = HashMap::new();
    let mut put = |name: String, shape: &[usize]| {
        let weight = random(shape);
        let weight = if shape.len() == 1 { (weight + 1.0).expect("norms lie around 1") } else { weight };
        all.insert(name, weight);
    };
    put("model.embed_tokens.weight".into(), &[vocab, hidden]);
    put("model.norm.weight".into(), &[hidden]);
    put("lm_head.weight".into(), &[vocab, hidden]);
    for layer in 0..3 {
        let mut in_layer =
            |name: &str, shape: &[usize]| put(format!("model.layers.{layer}.{name}.weight"), shape);
        in_layer("input_layernorm", &[hidden]);
        in_layer("post_attention_layernorm", &[hidden]);
        in_layer("self_attn.q_proj", &[hidden, hidden]);
        in_layer("self_attn.k_proj", &[kv, hidden]);
        in_layer("self_attn.v_proj", &[kv, hidden]);
        in_layer("self_attn.o_proj", &[hidden, hidden]);
        in_layer("mlp.gate_proj", &[ffn, hidden]);
        in_layer("mlp.up_proj", &[ffn, hidden]);
        in_layer("mlp.down_proj", &[hidden, ffn]);
    }
    all
}

/// The next of a sequence of values in -1..1 (a linear congruential generator, Knuth's constants).
pub fn noise(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// A text option of a load request.
pub fn option(key: &str, value: &str) -> KeyValue {
    KeyValue::string(key, value)
}
