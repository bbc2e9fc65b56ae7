//! The files of the check models: Llamas of one layer as GGUF, without a tokenizer.
//!
//! Every part of the layer moves the logits by far more than the limit, scores are spread so that attention is not
//! flat, and logits are of the order of one.
//!
//! The weights are [`random`] ones. Source of names and shapes: what llama.cpp's converter writes.

use std::io;
use std::path::Path;

use sconce_formats::gguf::random::{self, Random};
use sconce_formats::gguf::{GgmlType, GgufWriter, Value};

use super::{Storage, reference};

const HIDDEN: usize = 256;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 64;
const FFN: usize = 256;
/// Longer than the check's text, so that a plugin may round the context up or down.
pub const CONTEXT: u32 = 64;

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

/// A whole file.
fn model(storage: Storage) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    keys(storage).into_iter().for_each(|(key, value)| writer.key(key, value));
    for (name, rows, columns, _) in TENSORS {
        let (dims, ty) = match columns {
            0 => (vec![rows], GgmlType::F32),
            _ => (vec![rows, columns], storage.ggml_type()),
        };
        writer.tensor(name, &dims, ty).expect("the table's shapes divide into blocks");
    }
    let mut data = writer.begin(Vec::new()).expect("the alignment is the usual one");
    for at in 0..TENSORS.len() {
        data.write(&tensor(storage, at)).expect("memory takes the bytes of the tensors that were added");
    }
    data.finish().expect("every tensor was written")
}

/// The bytes of a tensor.
fn tensor(storage: Storage, at: usize) -> Vec<u8> {
    let (_, rows, columns, deviation) = TENSORS[at];
    let ty = storage.ggml_type();
    let mut random = Random(u64::from(ty.id()) << 8 | at as u64);
    let mut bytes = Vec::new();
    match columns {
        0 => random::floats(rows, 1.0, 0.5, &mut random, &mut bytes),
        _ => {
            let block = random::block(ty).expect("all storage types can be made");
            let blocks = rows * columns / ty.block_size();
            (0..blocks).for_each(|_| block(deviation, &mut random, &mut bytes));
        }
    }
    bytes
}

fn keys(storage: Storage) -> Vec<(&'static str, Value)> {
    let text = |text: &str| Value::String(text.to_owned());
    let count = |count: usize| Value::Uint(count as u64);
    let float = |number: f32| Value::Float(f64::from(number));
    vec![
        ("general.architecture", text("llama")),
        ("general.name", text(&format!("{}{}", reference::TITLE, storage.name()))),
        ("llama.vocab_size", count(reference::VOCAB)),
        ("llama.context_length", count(CONTEXT as usize)),
        ("llama.embedding_length", count(HIDDEN)),
        ("llama.block_count", count(1)),
        ("llama.feed_forward_length", count(FFN)),
        ("llama.attention.head_count", count(HEADS)),
        ("llama.attention.head_count_kv", count(KV_HEADS)),
        ("llama.attention.layer_norm_rms_epsilon", float(1e-5)),
        ("llama.rope.dimension_count", count(HEAD_DIM)),
        ("llama.rope.freq_base", float(10_000.0)),
        ("tokenizer.ggml.model", text("no_vocab")),
    ]
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
