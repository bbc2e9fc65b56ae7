//! Real files: every model of the fixtures is understood, in both formats and alike.
//!
//! The values below are those of the fixtures' `config.json`, written down by hand; bytes are
//! compared between files that hold the same weights.

use std::path::{Path, PathBuf};

use sconce_formats::gguf::Gguf;
use sconce_formats::model::{self, ModelHeader};
use sconce_formats::tensors::{Role, Slot};
use sconce_formats::{Format, GenerationDefaults, ModelConfig, RopeLayout, RopeScaling, chain, config, file};

const LLAMA3: RopeScaling =
    RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 32 };

/// A Llama model of the fixtures.
struct Case {
    dir: &'static str,
    /// Vocabulary, hidden, feed-forward, layers, heads, key/value heads, head size, context.
    sizes: [usize; 8],
    theta: f64,
    scaling: RopeScaling,
    tied: bool,
    /// The same configuration in the layout of transformers 5.
    new_layout: Option<&'static str>,
    bos: u32,
    eos: &'static [u32],
    /// GGUF files and how many of their tensors have each type.
    gguf: &'static [(&'static str, &'static str)],
}

const CASES: &[Case] = &[
    Case {
        dir: "models/random/llama2-mha",
        sizes: [512, 256, 256, 2, 4, 4, 64, 256],
        theta: 1e4,
        scaling: RopeScaling::None,
        tied: false,
        new_layout: Some("models/random/llama2-mha/config.v5-layout.json"),
        bos: 1,
        eos: &[2],
        gguf: &[
            ("llama2-mha.Q8_0.gguf", "F32 5, Q8_0 16"),
            ("llama2-mha.Q4_K_M.gguf", "F32 5, Q4_K 13, Q6_K 3"),
        ],
    },
    Case {
        dir: "models/random/llama3-gqa",
        sizes: [512, 256, 512, 2, 8, 2, 32, 256],
        theta: 5e5,
        scaling: LLAMA3,
        tied: false,
        new_layout: Some("models/random/llama3-gqa/config.v5-layout.json"),
        bos: 504,
        eos: &[505, 508],
        gguf: &[
            ("llama3-gqa.F16.gguf", "F16 16, F32 6"),
            ("llama3-gqa.Q8_0.gguf", "F32 6, Q8_0 16"),
            ("llama3-gqa.Q4_K_M.gguf", "F32 6, Q4_K 13, Q6_K 3"),
        ],
    },
    Case {
        dir: "models/tales",
        sizes: [4096, 256, 768, 4, 4, 2, 64, 1024],
        theta: 1e4,
        scaling: RopeScaling::None,
        tied: true,
        new_layout: Some("models/tales/v5-layout/config.json"),
        bos: 4088,
        eos: &[4089, 4092],
        gguf: &[
            ("tales.f16.gguf", "F16 29, F32 9"),
            ("tales.Q8_0.gguf", "F32 9, Q8_0 29"),
            ("tales.Q4_K_M.gguf", "F32 9, Q4_K 24, Q6_K 5"),
        ],
    },
    Case {
        dir: "models/stories260k",
        sizes: [512, 64, 172, 5, 8, 4, 8, 512],
        theta: 1e4,
        scaling: RopeScaling::None,
        tied: true,
        new_layout: None,
        bos: 1,
        eos: &[2],
        gguf: &[
            ("stories260K.f32.gguf", "F32 47"),
            ("stories260K.f16.gguf", "F16 36, F32 11"),
            ("stories260K.Q8_0.gguf", "F16 5, F32 11, Q8_0 31"),
            ("stories260K.Q4_0.gguf", "F16 5, F32 11, Q4_0 30, Q8_0 1"),
        ],
    },
    Case {
        dir: "models/stories260k-sharded",
        sizes: [512, 64, 172, 5, 8, 4, 8, 512],
        theta: 1e4,
        scaling: RopeScaling::None,
        tied: true,
        new_layout: None,
        bos: 1,
        eos: &[2],
        gguf: &[],
    },
];

fn fixtures() -> Option<PathBuf> {
    let found = std::env::var_os("SCONCE_FIXTURES").map(PathBuf::from);
    if found.is_none() {
        println!("skipped: SCONCE_FIXTURES is not set");
    }
    found
}

fn open(path: &Path) -> ModelHeader {
    model::open_path(path).unwrap_or_else(|error| panic!("{}: {}", path.display(), chain(&error)))
}

fn check_config(case: &Case, config: &ModelConfig) {
    let sizes = [
        config.vocab_size,
        config.hidden_size,
        config.mlp.size,
        config.layers.len(),
        config.heads,
        config.kv_heads,
        config.head_dim,
        config.context_length,
    ];
    assert_eq!((config.family.name, sizes), ("llama", case.sizes), "{}", case.dir);
    let [rope] = config.ropes.as_slice() else { panic!("{}: {:?}", case.dir, config.ropes) };
    assert_eq!((rope.theta, rope.dim), (case.theta, case.sizes[6]), "{}", case.dir);
    assert!((config.norm.epsilon - 1e-5).abs() < 1e-11, "{}", config.norm.epsilon);
    assert_eq!(config.tied_embeddings, case.tied, "{}", case.dir);
    let attention = config.attention;
    assert_eq!((attention.qkv_bias, attention.out_bias, config.mlp.bias), (false, false, false));
}

#[test]
fn checkpoints_have_the_recorded_configuration() {
    let Some(root) = fixtures() else { return };
    for case in CASES {
        let header = open(&root.join(case.dir));
        check_config(case, &header.config);
        assert_eq!(header.config.ropes[0].scaling, case.scaling);
        assert_eq!(header.config.ropes[0].layout, RopeLayout::HalfSplit);
        let element = if case.dir.contains("stories") { 4 } else { 2 };
        assert_eq!(header.weights_bytes, header.config.parameters() * element, "{}", case.dir);
    }
}

#[test]
fn both_layouts_of_config_json_give_one_model() {
    let Some(root) = fixtures() else { return };
    let mut compared = 0;
    for case in CASES {
        let Some(new_layout) = case.new_layout else { continue };
        let read = |path: &str| {
            let text = file::read_text(&root.join(path), 1 << 20).expect("a readable file");
            config::from_hf_json(&text.expect("the file exists")).expect("a sound configuration")
        };
        assert_eq!(read(new_layout), read(&format!("{}/config.json", case.dir)));
        compared += 1;
    }
    assert_eq!(compared, 3);
}

#[test]
fn gguf_files_have_the_recorded_configuration_and_tensors() {
    let Some(root) = fixtures() else { return };
    for case in CASES {
        for (name, types) in case.gguf {
            let header = open(&root.join(case.dir).join("gguf").join(name));
            check_config(case, &header.config);
            assert_eq!(header.config.ropes[0].layout, RopeLayout::Interleaved);
            let scaling = match case.scaling {
                RopeScaling::None => RopeScaling::None,
                _ => RopeScaling::FrequencyFactors,
            };
            assert_eq!(header.config.ropes[0].scaling, scaling, "{name}");
            assert_eq!(count_types(&header), *types, "{name}");
            check_extent(&header);
        }
    }
}

/// "F32 5, Q8_0 16": how many tensors have each type.
fn count_types(header: &ModelHeader) -> String {
    let mut counts = std::collections::BTreeMap::new();
    for tensor in header.tensors.values() {
        *counts.entry(tensor.dtype.to_string()).or_insert(0) += 1;
    }
    let counts: Vec<_> = counts.iter().map(|(ty, count)| format!("{ty} {count}")).collect();
    counts.join(", ")
}

/// The tensors fill the data section: no gap beyond the alignment, nothing twice.
fn check_extent(header: &ModelHeader) {
    let gguf = header.gguf.as_ref().expect("the model is GGUF");
    let mut places: Vec<_> = gguf.tensors.iter().map(|t| (t.offset, t.offset + t.bytes)).collect();
    places.sort();
    let mut end = gguf.data_offset;
    for (start, next) in places {
        assert_eq!(start, end.next_multiple_of(32));
        end = next;
    }
    let bytes = std::fs::metadata(&header.source.weights[0]).expect("the file exists").len();
    assert_eq!(end.next_multiple_of(32), bytes);
}

/// The bytes of a tensor, read by the header's word on where they are.
fn bytes(header: &ModelHeader, name: &str) -> Vec<u8> {
    let tensor = header.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}"));
    let file = std::fs::read(&header.source.weights[tensor.shard]).expect("the file exists");
    tensor.slice(&file).expect("the tensor lies in its file").to_vec()
}

#[test]
fn the_same_weights_are_found_in_one_file_in_three_and_in_gguf() {
    let Some(root) = fixtures() else { return };
    let one = open(&root.join("models/stories260k"));
    let three = open(&root.join("models/stories260k-sharded"));
    let gguf = open(&root.join("models/stories260k/gguf/stories260K.f32.gguf"));
    assert_eq!((one.source.weights.len(), three.source.weights.len()), (1, 3));
    assert_eq!(one.config, three.config);
    for name in one.tensors.keys() {
        assert_eq!(bytes(&one, name), bytes(&three, name), "{name}");
    }
    let shards: std::collections::BTreeSet<_> = three.tensors.values().map(|t| t.shard).collect();
    assert_eq!(shards.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
    // Query and key rows are in another order in GGUF; the others are the same.
    for role in [Role::AttnNorm, Role::V, Role::O, Role::Gate, Role::Down] {
        let slot = Slot::weight(role, 4);
        let hf = slot.place(&one.config, Format::Safetensors).name;
        let ggml = slot.place(&gguf.config, Format::Gguf).name;
        assert_eq!(bytes(&one, &hf), bytes(&gguf, &ggml), "{hf}");
    }
}

#[test]
fn ends_of_text_agree_between_formats() {
    let Some(root) = fixtures() else { return };
    for case in CASES {
        let dir = root.join(case.dir);
        let paths = case.gguf.iter().map(|(name, _)| dir.join("gguf").join(name));
        for path in std::iter::once(dir.clone()).chain(paths) {
            let header = open(&path);
            let defaults = GenerationDefaults::open(&header).expect("sound settings");
            assert_eq!(defaults.bos, Some(case.bos), "{}", path.display());
            assert_eq!(defaults.eos, case.eos, "{}", path.display());
            assert_eq!(defaults.add_bos, header.gguf.is_some().then_some(true));
            let sampled = case.dir == "models/tales";
            let close = |found: Option<f64>, wanted: f64| {
                assert_eq!(found.is_some(), sampled, "{}", path.display());
                assert!(found.is_none_or(|value| (value - wanted).abs() < 1e-6));
            };
            close(defaults.temperature, 0.6);
            close(defaults.top_p, 0.9);
        }
    }
}

/// The models of random weights: directory, family of the checkpoint, family of the GGUF files.
const RANDOM: [(&str, &str, &str); 10] = [
    ("llama2-mha", "llama", "llama"),
    ("llama3-gqa", "llama", "llama"),
    ("mistral-swa", "mistral", "llama"),
    ("mixtral", "mixtral", "llama"),
    ("phi2", "phi", "phi"),
    ("phi3", "phi3", "phi3"),
    ("phi3-longrope", "phi3", "phi3"),
    ("qwen2", "qwen2", "qwen2"),
    ("qwen3", "qwen3", "qwen3"),
    ("gemma2", "gemma2", "gemma2"),
];

fn gguf_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("gguf")).expect("a folder of GGUF files");
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "gguf")).collect()
}

#[test]
fn every_family_is_opened_in_both_formats() {
    let Some(root) = fixtures() else { return };
    for (dir, of_checkpoint, of_gguf) in RANDOM {
        let dir = root.join("models/random").join(dir);
        let header = open(&dir);
        assert_eq!(header.config.family.name, of_checkpoint, "{}", dir.display());
        assert_eq!(header.weights_bytes, header.config.parameters() * 2, "{}", dir.display());
        let text = file::read_text(&dir.join("config.v5-layout.json"), 1 << 20).expect("a readable file");
        let new_layout = config::from_hf_json(&text.expect("the file exists")).expect("sound");
        assert_eq!(new_layout, header.config, "{}", dir.display());
        let files = gguf_files(&dir);
        assert!(!files.is_empty(), "{}", dir.display());
        for file in files {
            let converted = open(&file);
            assert_eq!(converted.config.family.name, of_gguf, "{}", file.display());
            check_same_model(&header.config, converted.config, &file);
        }
    }
}

/// Compares a checkpoint's configuration with that of a GGUF file made from it.
fn check_same_model(checkpoint: &ModelConfig, mut converted: ModelConfig, file: &Path) {
    assert!((checkpoint.norm.epsilon / converted.norm.epsilon - 1.0).abs() < 1e-7, "{}", file.display());
    // What the formats store differently.
    converted.family = checkpoint.family;
    converted.storage = checkpoint.storage;
    converted.norm = checkpoint.norm;
    for (from_hf, from_gguf) in checkpoint.ropes.iter().zip(&mut converted.ropes) {
        from_gguf.layout = from_hf.layout;
        assert!(same_scaling(&from_hf.scaling, &from_gguf.scaling), "{}: {from_gguf:?}", file.display());
        from_gguf.scaling = from_hf.scaling.clone();
    }
    // Converters drop Mistral's window.
    if checkpoint.family.name == "mistral" {
        converted.layers.iter_mut().for_each(|layer| layer.window = Some(16));
    }
    assert_eq!(*checkpoint, converted, "{}", file.display());
}

fn same_scaling(from_hf: &RopeScaling, from_gguf: &RopeScaling) -> bool {
    match (from_hf, from_gguf) {
        (RopeScaling::Llama3 { .. }, RopeScaling::FrequencyFactors) => true,
        (
            RopeScaling::LongRope { original_context, attention_factor, .. },
            RopeScaling::LongRope { original_context: context, attention_factor: factor, factors },
        ) => {
            let close = (attention_factor / factor - 1.0).abs() < 1e-7;
            close && original_context == context && *factors == config::Factors::Tensors
        }
        (one, other) => one == other,
    }
}

fn refused(path: &Path, part: &str) {
    let error = chain(&model::open_path(path).expect_err(part));
    assert!(error.contains(part), "{}: {error}", path.display());
}

/// Converters write Mistral as architecture `llama`, and without its window it is one.
#[test]
fn mistral_in_gguf_is_a_llama() {
    let Some(root) = fixtures() else { return };
    let header = open(&root.join("models/random/mistral-swa/gguf/mistral-swa.Q8_0.gguf"));
    assert_eq!((header.config.heads, header.config.kv_heads), (8, 4));
}

#[test]
fn vocabularies_without_weights_are_parsed_but_are_no_models() {
    let Some(root) = fixtures() else { return };
    let check = |name: &str, tokens: usize, part: &str| {
        let path = root.join("tokenizers").join(name);
        let (gguf, _) = Gguf::open(&path).expect("a sound file");
        let found = gguf.metadata.strings("tokenizer.ggml.tokens").expect("a list of strings");
        assert_eq!(found.map(<[String]>::len), Some(tokens), "{name}");
        assert!(gguf.tensors.is_empty());
        refused(&path, part);
    };
    check("ggml-vocab-llama-spm.gguf", 32_000, "tensor token_embd.weight is missing");
    check("ggml-vocab-llama-bpe.gguf", 128_256, "tensor token_embd.weight is missing");
    check("ggml-vocab-qwen2.gguf", 151_936, "qwen2.vocab_size is missing");
}

#[test]
fn a_real_header_cut_anywhere_is_an_error() {
    let Some(root) = fixtures() else { return };
    let path = root.join("models/stories260k/gguf/stories260K.Q4_0.gguf");
    let (gguf, bytes) = Gguf::open(&path).expect("a sound file");
    let lengths = (0..gguf.data_offset as usize).step_by(61).chain([bytes.len() - 32]);
    for len in lengths {
        assert!(Gguf::parse(&bytes[..len]).is_err(), "{len} bytes");
    }
}
