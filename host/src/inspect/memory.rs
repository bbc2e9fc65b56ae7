//! What a model takes on the CPU backend, and whether this machine has it.
//!
//! The rules are `sconce_formats`', which the engine loads by; this only adds up. Other backends have memory of
//! their own, of which only they know.

use sconce_formats::memory::{CPU_PACKED_SHARE, Holding, KV_BLOCK, WeightBytes, kv_budget, machine};
use sconce_formats::{ModelConfig, ModelHeader};
use serde::Serialize;

use super::report::Known;
use crate::cli::{CpuWeights, InspectArgs};

/// Bytes of a number in the CPU's KV cache.
const KV_NUMBER: usize = 4;

/// Memory on the CPU backend.
#[derive(Debug, Serialize)]
pub struct Memory {
    /// As asked for: `auto`, `f32` or `q8_0`.
    pub cpu_weights: &'static str,
    /// All tensors as the files store them.
    pub weights_file_bytes: u64,
    /// Quantised weights, which stay in the mapped file.
    pub weights_mapped_bytes: u64,
    /// Plain floats of the file, held as Q8_0.
    pub weights_q8_0_bytes: u64,
    /// Plain floats of the file, held as f32.
    pub weights_f32_bytes: u64,
    /// The three together.
    pub weights_memory_bytes: u64,
    /// What kernels may hold beside quantised weights, at worst.
    pub weights_copies_bytes: u64,
    pub kv_bytes_per_token: u64,
    /// Longest sequence: as asked for, or as trained.
    pub context_tokens: usize,
    /// Sequences at once: as asked for.
    pub max_sequences: usize,
    pub machine: Known<Machine>,
}

/// This machine, or the container this runs in.
#[derive(Debug, Serialize)]
pub struct Machine {
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// Whether the weights can be allocated and leave room for a block of the KV cache.
    pub fits: bool,
    /// What an automatic KV cache may take.
    pub kv_budget_bytes: u64,
    /// Tokens of KV that would fit into that.
    pub kv_fitting_tokens: u64,
    /// Of these, what all sequences at full length can use.
    pub kv_capacity_tokens: u64,
    /// How many sequences of the full context fit at once.
    pub sequences_at_full_context: usize,
    /// How long each may be if all sequences run at once.
    pub tokens_per_sequence: usize,
}

impl Memory {
    /// The least that has to be free: allocated weights, copies, and twice a block of the KV cache, which takes half
    /// of what is left.
    pub fn least_bytes(&self) -> u64 {
        let allocated = self.weights_q8_0_bytes + self.weights_f32_bytes;
        allocated + self.weights_copies_bytes + 2 * KV_BLOCK as u64 * self.kv_bytes_per_token
    }
}

pub fn of(header: &ModelHeader, args: &InspectArgs) -> Memory {
    let config = &header.config;
    let weights = Holding::on_cpu(packs(args.cpu_weights), header.parameters()).weights(header);
    let context = args.ctx.map_or(config.context_length, |ctx| ctx as usize);
    let sequences = args.max_sequences as usize;
    Memory {
        cpu_weights: args.cpu_weights.name(),
        weights_file_bytes: header.weights_bytes,
        weights_mapped_bytes: weights.stored,
        weights_q8_0_bytes: weights.packed,
        weights_f32_bytes: weights.floats,
        weights_memory_bytes: weights.stored + weights.allocated(),
        weights_copies_bytes: (weights.quantised() as f64 * CPU_PACKED_SHARE) as u64,
        kv_bytes_per_token: config.kv_bytes_per_token(KV_NUMBER),
        context_tokens: context,
        max_sequences: sequences,
        machine: match machine() {
            Some(memory) => Known::Is(on_machine(config, weights, context, sequences, memory)),
            None => Known::Not { error: "this system does not tell how much memory is free".to_owned() },
        },
    }
}

fn packs(asked: CpuWeights) -> Option<bool> {
    match asked {
        CpuWeights::Auto => None,
        CpuWeights::F32 => Some(false),
        CpuWeights::Q8_0 => Some(true),
    }
}

/// As the engine sizes its cache: in blocks, no more than all sequences can use.
fn on_machine(
    config: &ModelConfig,
    weights: WeightBytes,
    context: usize,
    sequences: usize,
    memory: sconce_formats::memory::Memory,
) -> Machine {
    let left = memory.free.saturating_sub(weights.allocated());
    let budget = kv_budget(left, weights.quantised(), CPU_PACKED_SHARE);
    let block_bytes = KV_BLOCK as u64 * config.kv_bytes_per_token(KV_NUMBER);
    // A state that does not grow with the text fits however long that is.
    let fitting = budget.checked_div(block_bytes).and_then(|blocks| usize::try_from(blocks).ok());
    let fitting = fitting.unwrap_or(usize::MAX / KV_BLOCK);
    let needed = context.div_ceil(KV_BLOCK);
    let blocks = fitting.min(sequences.saturating_mul(needed));
    Machine {
        total_bytes: memory.total,
        free_bytes: memory.free,
        fits: weights.allocated() <= memory.free && fitting > 0,
        kv_budget_bytes: budget,
        kv_fitting_tokens: fitting as u64 * KV_BLOCK as u64,
        kv_capacity_tokens: (blocks * KV_BLOCK) as u64,
        sequences_at_full_context: blocks / needed,
        tokens_per_sequence: (blocks / sequences * KV_BLOCK).min(context),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two layers of two key/value heads of 16: 512 bytes a token, 8192 a block.
    fn tiny() -> ModelConfig {
        let json = r#"{"model_type": "llama", "vocab_size": 48, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 100, "rms_norm_eps": 1e-5}"#;
        sconce_formats::config::from_hf_json(json).expect("a sound configuration")
    }

    fn check(free: u64, floats: u64, sequences: usize, expected: (bool, u64, u64, usize, usize)) {
        let weights = WeightBytes { floats, ..WeightBytes::default() };
        let memory = sconce_formats::memory::Memory { total: 1 << 40, free };
        let found = on_machine(&tiny(), weights, 100, sequences, memory);
        let figures = (
            found.fits,
            found.kv_fitting_tokens,
            found.kv_capacity_tokens,
            found.sequences_at_full_context,
            found.tokens_per_sequence,
        );
        assert_eq!(figures, expected, "{free} {floats} {sequences}");
    }

    #[test]
    fn a_context_takes_whole_blocks() {
        // 100 tokens are 7 blocks; half of what is left goes to the cache.
        check(1000 + 2 * 8192 * 14, 1000, 2, (true, 14 * 16, 14 * 16, 2, 100));
        check(1000 + 2 * 8192 * 14, 1000, 1, (true, 14 * 16, 7 * 16, 1, 100));
        check(1000 + 2 * 8192 * 13, 1000, 2, (true, 13 * 16, 13 * 16, 1, 96));
    }

    #[test]
    fn without_room_for_weights_or_a_block_it_does_not_fit() {
        check(999, 1000, 1, (false, 0, 0, 0, 0));
        check(1000 + 2 * 8191, 1000, 1, (false, 0, 0, 0, 0));
        check(1000 + 2 * 8192, 1000, 1, (true, 16, 16, 0, 16));
    }
}
