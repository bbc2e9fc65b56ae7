//! What is chosen for which vocabulary, and what the templates write.

use serde_json::{Map, json};

use super::super::template::{ChatTemplate, TemplateSource};
use super::super::testing::{Meta, byte_level_pairs, fixtures, metadata, sentencepiece_pairs};
use super::*;

/// `pairs` with control tokens put behind the others.
fn with_tokens(mut pairs: Vec<(&'static str, Meta)>, more: &[&'static str]) -> Tokenizer {
    for (key, value) in &mut pairs {
        match value {
            Meta::Strs(tokens) if key.ends_with(".tokens") => {
                tokens.retain(|token| !token.starts_with("<|"));
                tokens.extend(more);
            }
            _ => {}
        }
    }
    let size = pairs.iter().find_map(|(key, value)| match value {
        Meta::Strs(tokens) if key.ends_with(".tokens") => Some(tokens.len()),
        _ => None,
    });
    let size = size.expect("tokens");
    for (key, value) in &mut pairs {
        match value {
            Meta::I32s(kinds) if key.ends_with(".token_type") => {
                kinds.resize(size - more.len(), 1);
                kinds.resize(size, 3);
            }
            Meta::F32s(scores) => scores.resize(size, -99.0),
            Meta::U32(id) => *id = 0,
            _ => {}
        }
    }
    Tokenizer::from_gguf(&metadata(&pairs)).expect("well-formed")
}

#[track_caller]
fn check(family: &str, tokenizer: &Tokenizer, expected: Option<&str>) {
    let found = fallback_template(family, tokenizer).map(|(name, _)| name);
    assert_eq!(found, expected, "{family}");
}

#[test]
fn marker_tokens_decide() {
    let bytes = |more: &[&'static str]| with_tokens(byte_level_pairs(), more);
    let llama3 = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"];
    check("llama", &bytes(&llama3), Some("llama-3"));
    check("llama", &bytes(&llama3[..2]), None);
    check("qwen2", &bytes(&["<|im_start|>", "<|im_end|>"]), Some("chatml"));
    check("qwen2", &bytes(&[]), None);
    check("llama", &bytes(&[&llama3[..], &["<|im_start|>", "<|im_end|>"]].concat()), Some("chatml"));
    check("phi3", &bytes(&["<|im_start|>", "<|im_end|>", "<|im_sep|>"]), Some("phi-4"));
    check("phi3", &bytes(&["<|user|>", "<|assistant|>", "<|end|>"]), Some("phi-3"));
    check("stablelm", &bytes(&["<|user|>", "<|assistant|>"]), Some("zephyr"));
    check("glm4", &bytes(&["[gMASK]", "<sop>", "<|user|>", "<|assistant|>"]), Some("glm-4"));
    check("granite", &bytes(&["<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"]), Some("granite"));
    check("llama", &bytes(&["<｜User｜>", "<｜Assistant｜>"]), Some("deepseek"));
    check("llama", &bytes(&["[INST]", "[/INST]"]), Some("mistral-nemo"));
    let pieces = |more: &[&'static str]| with_tokens(sentencepiece_pairs(), more);
    check("mistral", &pieces(&["[INST]", "[/INST]"]), Some("mistral"));
    check("gemma2", &pieces(&["<start_of_turn>", "<end_of_turn>"]), Some("gemma"));
}

#[test]
fn plain_text_formats_need_family_and_vocabulary() {
    check("llama", &with_tokens(sentencepiece_pairs(), &[]), None);
    let Some(dir) = fixtures() else { return };
    let path = dir.join("tokenizers/ggml-vocab-llama-spm.gguf");
    let llama2 = Tokenizer::open(&path).expect("a tokenizer");
    check("llama", &llama2, Some("llama-2"));
    check("mistral", &llama2, Some("mistral-text"));
    check("gemma", &llama2, None);
    let path = dir.join("tokenizers/ggml-vocab-llama-bpe.gguf");
    check("llama", &Tokenizer::open(&path).expect("a tokenizer"), Some("llama-3"));
    let path = dir.join("tokenizers/ggml-vocab-qwen2.gguf");
    check("qwen2", &Tokenizer::open(&path).expect("a tokenizer"), Some("chatml"));
}

/// Two turns and a question, as each template writes them.
#[test]
fn conversations_are_written_as_the_models_expect() {
    let messages = json!([
        {"role": "system", "content": "S"}, {"role": "user", "content": "U"},
        {"role": "assistant", "content": "A"}, {"role": "user", "content": "V"},
    ]);
    for (name, expected) in [
        (
            "phi-4",
            "<|im_start|>system<|im_sep|>S<|im_end|><|im_start|>user<|im_sep|>U<|im_end|>\
                   <|im_start|>assistant<|im_sep|>A<|im_end|><|im_start|>user<|im_sep|>V<|im_end|>\
                   <|im_start|>assistant<|im_sep|>",
        ),
        (
            "chatml",
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n\
                    <|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n\
                    <|im_start|>assistant\n",
        ),
        (
            "llama-3",
            "[B]<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>\
                     <|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>\
                     <|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>\
                     <|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|>\
                     <|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            "gemma",
            "[B]<start_of_turn>user\nS\n\nU<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n\
                   <start_of_turn>user\nV<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            "command-r",
            "[B]<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>S<|END_OF_TURN_TOKEN|>\
                       <|START_OF_TURN_TOKEN|><|USER_TOKEN|>U<|END_OF_TURN_TOKEN|>\
                       <|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>A<|END_OF_TURN_TOKEN|>\
                       <|START_OF_TURN_TOKEN|><|USER_TOKEN|>V<|END_OF_TURN_TOKEN|>\
                       <|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        ),
        (
            "granite",
            "<|start_of_role|>system<|end_of_role|>S<|end_of_text|>\n\
                     <|start_of_role|>user<|end_of_role|>U<|end_of_text|>\n\
                     <|start_of_role|>assistant<|end_of_role|>A<|end_of_text|>\n\
                     <|start_of_role|>user<|end_of_role|>V<|end_of_text|>\n\
                     <|start_of_role|>assistant<|end_of_role|>",
        ),
        ("deepseek", "[B]S<｜User｜>U<｜Assistant｜>A[E]<｜User｜>V<｜Assistant｜>"),
        ("glm-4", "[gMASK]<sop><|system|>\nS<|user|>\nU<|assistant|>\nA<|user|>\nV<|assistant|>\n"),
        (
            "phi-3",
            "<|system|>\nS<|end|>\n<|user|>\nU<|end|>\n<|assistant|>\nA<|end|>\n<|user|>\nV<|end|>\n\
                   <|assistant|>\n",
        ),
        ("zephyr", "<|system|>\nS[E]\n<|user|>\nU[E]\n<|assistant|>\nA[E]\n<|user|>\nV[E]\n<|assistant|>\n"),
        ("mistral-nemo", "[B][INST]S\n\nU[/INST]A[E][INST]V[/INST]"),
        ("mistral", "[B][INST] S\n\nU[/INST] A[E][INST] V[/INST]"),
        ("mistral-text", "[B][INST] S\n\nU [/INST] A[E][INST] V [/INST]"),
        ("llama-2", "[B][INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A [E][B][INST] V [/INST]"),
    ] {
        let row = TABLE.iter().find(|row| row.name == name).expect("a row");
        let mut source = TemplateSource::from_text(row.template);
        source.variables.insert("bos_token".into(), "[B]".into());
        source.variables.insert("eos_token".into(), "[E]".into());
        let template = ChatTemplate::new(source).expect("compiles");
        let text = template.render(&messages, None, true, &Map::new()).expect("renders");
        assert_eq!(text, expected, "{name}");
    }
}

#[test]
fn the_conversations_above_cover_every_format() {
    assert_eq!(TABLE.len(), 14);
    assert!(TABLE.iter().all(|row| !row.markers.is_empty() || !row.families.is_empty()));
}
