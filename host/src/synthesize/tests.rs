//! What is planned is what is published, and what is written is read back.

use sconce_formats::gguf::{Array, GgufWriter, Metadata, Value};
use sconce_formats::{GgmlType, config};

use super::shapes::SHAPES;
use super::*;

/// Small, with all that shapes differ in.
const SMALL: Shape = Shape {
    name: "Small",
    architecture: "qwen2",
    layers: 8,
    hidden: 256,
    ffn: 512,
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    vocab: 96,
    rope_base: 10_000.0,
    rope_factor: None,
    context: 128,
    tied: true,
    qkv_bias: true,
    norm_eps: 1e-6,
};

fn tokenizer(tokens: usize) -> Gguf {
    let mut writer = GgufWriter::new();
    let texts = (0..tokens).map(|id| format!("t{id}")).collect();
    writer.key("general.name", Value::String("another".to_owned()));
    writer.key("tokenizer.ggml.model", Value::String("llama".to_owned()));
    writer.key("tokenizer.ggml.tokens", Value::Array(Array::Strings(texts)));
    writer.key("tokenizer.ggml.scores", Value::Array(Array::Float(vec![-1.0; tokens])));
    writer.key("tokenizer.ggml.bos_token_id", Value::Uint(1));
    writer.key("tokenizer.chat_template", Value::String("{{ messages }}".to_owned()));
    let bytes = writer.begin(Vec::new()).and_then(|data| data.finish()).expect("a sound file");
    Gguf::parse(&bytes).expect("a sound file")
}

fn keys() -> Vec<(String, Value)> {
    vocabulary::keys(&tokenizer(5).metadata, SMALL.vocab).expect("there is room").keys
}

fn built(model: &Model) -> Vec<u8> {
    let writer = model.header().expect("the shapes fit");
    let bytes = model.write_data(writer.begin(Vec::new()).expect("memory")).expect("all is written");
    assert_eq!(bytes.len() as u64, writer.file_len().expect("the usual alignment"));
    bytes
}

#[test]
fn the_shapes_have_the_published_numbers_of_parameters() {
    let found: Vec<(&str, u64)> = SHAPES
        .iter()
        .map(|shape| (shape.name, Model::new(shape, shape.layers, Quant::Q8_0, 0, Vec::new()).parameters()))
        .collect();
    let published = [
        ("Qwen2.5-0.5B", 494_032_768),
        ("TinyLlama-1.1B", 1_100_048_384),
        ("Llama-3.2-1B", 1_235_814_400),
        ("Qwen2.5-1.5B", 1_543_714_304),
        ("Llama-3.2-3B", 3_212_749_824),
        ("Mistral-7B-v0.3", 7_248_023_552),
        ("Llama-3.1-8B", 8_030_261_248),
    ];
    assert_eq!(found, published);
}

/// The numbers of tensors by type in files that llama.cpp quantised.
#[test]
fn the_mixture_is_that_of_published_files() {
    use GgmlType::{F32, Q4K, Q5_0, Q6K, Q8_0};
    let check = |name: &str, expected: &[(GgmlType, usize)]| {
        let shape = named(name).expect("it is there");
        let types = Model::new(shape, shape.layers, Quant::Q4KM, 0, Vec::new()).types();
        for (ty, count) in expected {
            let found = types.iter().filter(|found| *found == ty).count();
            assert_eq!(found, *count, "{name}: {ty}");
        }
        assert_eq!(types.len(), expected.iter().map(|(_, count)| count).sum::<usize>(), "{name}");
    };
    check("Llama-3.2-1B", &[(F32, 34), (Q4K, 96), (Q6K, 17)]);
    check("Llama-3.1-8B", &[(F32, 66), (Q4K, 193), (Q6K, 33)]);
    check("Qwen2.5-0.5B", &[(F32, 121), (Q5_0, 132), (Q8_0, 13), (Q4K, 12), (Q6K, 12)]);
}

#[test]
fn every_type_is_written_and_read_back() {
    use clap::ValueEnum;
    for &quant in Quant::value_variants() {
        let gguf = Gguf::parse(&built(&Model::new(&SMALL, 8, quant, 1, keys()))).expect("a sound file");
        let config = config::from_gguf(&gguf).expect("a sound model");
        assert_eq!((config.vocab_size, config.layers.len(), config.hidden_size), (96, 8, 256), "{quant:?}");
        let ty = gguf.tensor("blk.3.attn_q.weight").expect("it is there").ty;
        assert_eq!(ty, quant.of(quant::Place::Other, 256, 8));
    }
}

#[test]
fn a_seed_gives_the_same_file_and_another_gives_another() {
    let bytes = |seed| built(&Model::new(&SMALL, 2, Quant::Q4KM, seed, keys()));
    assert_eq!(bytes(7), bytes(7));
    assert_ne!(bytes(7), bytes(8));
}

#[test]
fn a_vocabulary_is_filled_up_with_unused_tokens() {
    let padded = vocabulary::keys(&tokenizer(3).metadata, 5).expect("there is room");
    assert_eq!(padded.own, 3);
    let value = |key: &str| padded.keys.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
    let texts = ["t0", "t1", "t2", "[PAD3]", "[PAD4]"].map(str::to_owned).to_vec();
    assert_eq!(value("tokenizer.ggml.tokens"), Some(Value::Array(Array::Strings(texts))));
    assert_eq!(value("tokenizer.ggml.token_type"), Some(Value::Array(Array::Int(vec![1, 1, 1, 5, 5]))));
    let scores = vec![-1.0, -1.0, -1.0, -1000.0, -1000.0];
    assert_eq!(value("tokenizer.ggml.scores"), Some(Value::Array(Array::Float(scores))));
    assert_eq!(value("tokenizer.ggml.bos_token_id"), Some(Value::Uint(1)));
    assert!(value("tokenizer.chat_template").is_some());
    assert_eq!(value("general.name"), None);
}

#[test]
fn a_vocabulary_that_is_too_large_or_absent_is_refused() {
    let check =
        |metadata: &Metadata, expected| assert_eq!(vocabulary::keys(metadata, 4).err(), Some(expected));
    check(&tokenizer(5).metadata, vocabulary::Problem::TooLarge { found: 5 });
    check(&Metadata::default(), vocabulary::Problem::Missing);
}

#[test]
fn a_full_disk_is_told_before_it_is_written_to() {
    assert!(enough(10, Some(10)).is_ok() && enough(10, None).is_ok());
    let error = enough(2_000_000, Some(1_500_000)).expect_err("too little");
    assert_eq!(error.to_string(), "it takes 2.0 MB, and 1.5 MB are free there");
}

#[test]
fn a_file_is_there_whole_or_not_at_all() {
    let dir = tempfile::tempdir().expect("a directory for the test");
    let (out, model) = (dir.path().join("small.gguf"), Model::new(&SMALL, 1, Quant::Q8_0, 1, keys()));
    let length = write(&model, &out, false).expect("it can be written");
    assert_eq!(std::fs::metadata(&out).expect("it is there").len(), length);
    assert!(write(&model, &out, false).is_err(), "it is there already");
    assert_eq!(write(&model, &out, true).expect("it may be replaced"), length);
    assert!(write(&model, dir.path(), true).is_err(), "a directory is no file");
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("a directory").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}
