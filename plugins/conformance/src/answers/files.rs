//! The files of the check models: Llamas of one layer as GGUF, without a tokenizer.
//!
//! Every part of the layer moves the logits by far more than the limit, scores are spread so that attention is not
//! flat, and logits are of the order of one.
//!
//! Source of the format: ggml's `docs/gguf.md`; of names and shapes: what llama.cpp's converter writes.

use std::io;
use std::path::Path;

use super::weights::{Random, write, write_norm};
use super::{Storage, reference};

const HIDDEN: usize = 256;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 64;
const FFN: usize = 256;
/// Longer than the check's text, so that a plugin may round the context up or down.
pub const CONTEXT: u32 = 64;
const ALIGNMENT: usize = 32;

/// Rows, columns (0: a norm) and the standard deviation of the weights. That of 1/16 keeps the size of a vector of
/// 256; queries and keys are larger to spread the scores, and what the MLP adds is as large as what it reads.
const TENSORS: [(&str, usize, usize, f32); 12] = [
    ("token_embd.weight", reference::VOCAB, HIDDEN, 1.0),
    ("blk.0.attn_norm.weight", HIDDEN, 0, 0.0),
    ("blk.0.attn_q.weight", HEADS * HEAD_DIM, HIDDEN, 0.08),
    ("blk.0.attn_k.weight", KV_HEADS * HEAD_DIM, HIDDEN, 0.08),
    ("blk.0.attn_v.weight", KV_HEADS * HEAD_DIM, HIDDEN, 0.0625),
    ("blk.0.attn_output.weight", HIDDEN, HEADS * HEAD_DIM, 0.0625),
    ("blk.0.ffn_norm.weight", HIDDEN, 0, 0.0),
    ("blk.0.ffn_gate.weight", FFN, HIDDEN, 0.0625),
    ("blk.0.ffn_up.weight", FFN, HIDDEN, 0.0625),
    ("blk.0.ffn_down.weight", HIDDEN, FFN, 0.125),
    ("output_norm.weight", HIDDEN, 0, 0.0),
    ("output.weight", reference::VOCAB, HIDDEN, 0.0625),
];

/// Writes the four models into a directory, `answers-TYPE.gguf` each; 3 MiB in all, the same bytes everywhere.
///
/// # Errors
/// A file that cannot be written.
pub fn write_models(dir: &Path) -> io::Result<()> {
    Storage::ALL.iter().try_for_each(|storage| std::fs::write(storage.file(dir), model(*storage)))
}

fn model(storage: Storage) -> Vec<u8> {
    let data: Vec<Vec<u8>> = (0..TENSORS.len()).map(|at| tensor(storage, at)).collect();
    let mut bytes = header(storage, &data);
    for tensor in &data {
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(tensor);
    }
    bytes
}

/// The bytes of a tensor.
fn tensor(storage: Storage, at: usize) -> Vec<u8> {
    let (_, rows, columns, deviation) = TENSORS[at];
    let mut random = Random(u64::from(storage.ggml_type()) << 8 | at as u64);
    let mut bytes = Vec::new();
    match columns {
        0 => write_norm(rows, &mut random, &mut bytes),
        _ => write(storage, rows * columns, deviation, &mut random, &mut bytes),
    }
    bytes
}

fn header(storage: Storage, data: &[Vec<u8>]) -> Vec<u8> {
    let keys = keys(storage);
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((TENSORS.len() as u64).to_le_bytes());
    bytes.extend((keys.len() as u64).to_le_bytes());
    keys.iter().for_each(|(key, value)| write_key(&mut bytes, key, value));
    let mut offset = 0u64;
    for ((name, rows, columns, _), data) in TENSORS.iter().zip(data) {
        write_string(&mut bytes, name);
        // Innermost first.
        let (dims, ty) = match columns {
            0 => (vec![*rows], Storage::F32),
            _ => (vec![*columns, *rows], storage),
        };
        bytes.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| bytes.extend((*dim as u64).to_le_bytes()));
        bytes.extend(ty.ggml_type().to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += data.len().next_multiple_of(ALIGNMENT) as u64;
    }
    bytes
}

enum Value {
    Text(String),
    Count(usize),
    Float(f32),
}

fn keys(storage: Storage) -> Vec<(&'static str, Value)> {
    vec![
        ("general.architecture", Value::Text("llama".to_owned())),
        ("general.name", Value::Text(format!("{}{}", reference::TITLE, storage.name()))),
        ("llama.vocab_size", Value::Count(reference::VOCAB)),
        ("llama.context_length", Value::Count(CONTEXT as usize)),
        ("llama.embedding_length", Value::Count(HIDDEN)),
        ("llama.block_count", Value::Count(1)),
        ("llama.feed_forward_length", Value::Count(FFN)),
        ("llama.attention.head_count", Value::Count(HEADS)),
        ("llama.attention.head_count_kv", Value::Count(KV_HEADS)),
        ("llama.attention.layer_norm_rms_epsilon", Value::Float(1e-5)),
        ("llama.rope.dimension_count", Value::Count(HEAD_DIM)),
        ("llama.rope.freq_base", Value::Float(10_000.0)),
        ("tokenizer.ggml.model", Value::Text("no_vocab".to_owned())),
    ]
}

fn write_key(bytes: &mut Vec<u8>, key: &str, value: &Value) {
    write_string(bytes, key);
    match value {
        Value::Text(text) => {
            bytes.extend(8u32.to_le_bytes());
            write_string(bytes, text);
        }
        Value::Count(count) => {
            bytes.extend(4u32.to_le_bytes());
            bytes.extend((*count as u32).to_le_bytes());
        }
        Value::Float(number) => {
            bytes.extend(6u32.to_le_bytes());
            bytes.extend(number.to_le_bytes());
        }
    }
}

fn write_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FNV-1a.
    fn digest(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }

    /// The stored logits belong to exactly these bytes; other ones need another run of the script.
    #[test]
    fn the_files_are_those_of_the_stored_logits() {
        let check = |storage, bytes: usize, expected: u64| {
            let model = model(storage);
            assert_eq!((model.len(), digest(&model)), (bytes, expected), "{storage:?}");
        };
        check(Storage::F32, 1_708_288, 0x0cd6_7408_2331_3e43);
        check(Storage::F16, 856_320, 0xbcc7_e674_fae9_063c);
        check(Storage::Q8_0, 456_960, 0x66a2_63f4_94cb_884f);
        check(Storage::Q4K, 243_968, 0x7cc3_7685_8626_d440);
    }
}
