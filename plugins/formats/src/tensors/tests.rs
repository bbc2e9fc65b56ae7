//! Names, shapes, and files that lack or garble a tensor.

use std::collections::BTreeMap;

use ::safetensors::Dtype;

use super::*;
use crate::testing::llama_config;

fn table(config: &ModelConfig, format: Format) -> BTreeMap<String, TensorEntry> {
    let dtype = match format {
        Format::Safetensors => ElementType::Safetensors(Dtype::BF16),
        Format::Gguf => ElementType::Ggml(GgmlType::F32),
    };
    let entry = |shape| TensorEntry { dtype, shape, offset: 0, bytes: 0, shard: 0 };
    let expected = expected(config, format).into_iter();
    expected.map(|tensor| (tensor.name, entry(tensor.shape))).collect()
}

fn run(config: &ModelConfig, format: Format, table: &BTreeMap<String, TensorEntry>) -> Result<(), String> {
    let names = table.keys().map(String::as_str);
    check(config, format, names, |name| table.get(name)).map_err(|error| error.to_string())
}

#[test]
fn each_format_has_its_names() {
    let config = llama_config();
    let check = |slot: Slot, hf: &str, gguf: &str| {
        assert_eq!(slot.place(&config, Format::Safetensors).name, hf);
        assert_eq!(slot.place(&config, Format::Gguf).name, gguf);
    };
    let case = |role, hf: &str, gguf: &str| check(Slot::weight(role, 7), hf, gguf);
    case(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight");
    case(Role::Output, "lm_head.weight", "output.weight");
    case(Role::O, "model.layers.7.self_attn.o_proj.weight", "blk.7.attn_output.weight");
    let norm = "model.layers.7.post_attention_layernorm.weight";
    case(Role::MlpNorm, norm, "blk.7.ffn_norm.weight");
    let bias = Slot::weight(Role::Down, 7).bias();
    check(bias, "model.layers.7.mlp.down_proj.bias", "blk.7.ffn_down.bias");
}

#[test]
fn shapes_tell_the_projections_apart() {
    let config = llama_config();
    let shapes: BTreeMap<_, _> = expected(&config, Format::Gguf)
        .into_iter()
        .filter(|tensor| tensor.name.starts_with("blk.1."))
        .map(|tensor| (tensor.name, tensor.shape))
        .collect();
    assert_eq!(shapes.len(), 9);
    assert_eq!(shapes["blk.1.attn_q.weight"], [64, 64]);
    assert_eq!(shapes["blk.1.attn_k.weight"], [32, 64]);
    assert_eq!(shapes["blk.1.ffn_gate.weight"], [96, 64]);
    assert_eq!(shapes["blk.1.ffn_down.weight"], [64, 96]);
}

#[test]
fn optional_parts_follow_the_configuration() {
    let has = |config: &ModelConfig, format, slot: Slot| slots(config, format).any(|found| found == slot);
    let bias = |role| Slot::weight(role, 1).bias();
    let output = Slot::weight(Role::Output, 0);
    let mut config = llama_config();
    assert!(has(&config, Format::Gguf, output) && !has(&config, Format::Gguf, bias(Role::Q)));
    config.tied_embeddings = true;
    config.attention.qkv_bias = true;
    config.ropes[0].scaling = RopeScaling::FrequencyFactors;
    assert!(!has(&config, Format::Gguf, output));
    let repeated =
        expected(&config, Format::Safetensors).into_iter().find(|tensor| tensor.name == "lm_head.weight");
    assert!(repeated.is_some_and(|tensor| tensor.optional));
    assert!(has(&config, Format::Gguf, bias(Role::V)) && !has(&config, Format::Gguf, bias(Role::O)));
    assert!(has(&config, Format::Gguf, Slot::weight(Role::RopeFactors, 0)));
}

#[test]
fn sound_tables_pass() {
    let mut config = llama_config();
    for tied in [false, true] {
        config.tied_embeddings = tied;
        for format in [Format::Safetensors, Format::Gguf] {
            assert_eq!(run(&config, format, &table(&config, format)), Ok(()));
        }
    }
    // The repeated embedding of a tied checkpoint may be left out.
    let mut table = table(&config, Format::Safetensors);
    assert!(table.remove("lm_head.weight").is_some());
    assert_eq!(run(&config, Format::Safetensors, &table), Ok(()));
}

#[test]
fn every_absent_tensor_is_named() {
    let config = llama_config();
    for format in [Format::Safetensors, Format::Gguf] {
        let sound = table(&config, format);
        for name in sound.keys() {
            let mut table = sound.clone();
            table.remove(name);
            let error = run(&config, format, &table).expect_err(name);
            assert!(error.contains(&format!("tensor {name} is missing")), "{error}");
        }
    }
}

#[test]
fn shapes_and_types_are_compared() {
    let config = llama_config();
    let spoil = |format, name: &str, spoil: fn(&mut TensorEntry), part: &str| {
        let mut table = table(&config, format);
        spoil(table.get_mut(name).expect("the tensor is in the table"));
        let error = run(&config, format, &table).expect_err(part);
        assert!(error.contains(name) && error.contains(part), "{error}");
    };
    let transpose = |entry: &mut TensorEntry| entry.shape.reverse();
    spoil(Format::Gguf, "blk.1.ffn_up.weight", transpose, "[64, 96], expected [96, 64]");
    let bytes = |entry: &mut TensorEntry| entry.dtype = ElementType::Safetensors(Dtype::F8_E4M3);
    spoil(Format::Safetensors, "model.norm.weight", bytes, "stored as F8_E4M3");
}

#[test]
fn unknown_tensors_are_refused_in_gguf_and_tolerated_in_safetensors() {
    let config = llama_config();
    let with = |format, name: &str| {
        let mut table = table(&config, format);
        let any = table.values().next().cloned().expect("a table has tensors");
        table.insert(name.to_owned(), any);
        run(&config, format, &table)
    };
    let error = with(Format::Gguf, "blk.0.attn_q_norm.weight").expect_err("another family");
    assert!(error.contains("blk.0.attn_q_norm.weight has no meaning in the llama family"), "{error}");
    // A second layer's bias without the first layer's is no bias the configuration knows.
    assert!(with(Format::Gguf, "blk.1.attn_q.bias").is_err());
    assert_eq!(with(Format::Gguf, "blk.0.attn_rot_embd.weight"), Ok(()));
    let frequencies = "model.layers.0.self_attn.rotary_emb.inv_freq";
    assert_eq!(with(Format::Safetensors, frequencies), Ok(()));
}

#[test]
fn frequency_factors_have_to_be_floats() {
    let mut config = llama_config();
    config.ropes[0].scaling = RopeScaling::FrequencyFactors;
    let mut table = table(&config, Format::Gguf);
    assert_eq!(run(&config, Format::Gguf, &table), Ok(()));
    let factors = table.get_mut("rope_freqs.weight").expect("factors are expected");
    assert_eq!(factors.shape, [8]);
    factors.dtype = ElementType::Ggml(GgmlType::F16);
    let error = run(&config, Format::Gguf, &table).expect_err("not F32");
    assert!(error.contains("rope_freqs.weight is stored as F16"), "{error}");
}
