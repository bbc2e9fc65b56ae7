//! What a model takes on the CPU backend, and whether this machine has it.
//!
//! The rules are `sconce_formats`', which the engine loads by; this only adds up. Other backends have memory of
//! their own, of which only they know.

use sconce_formats::memory::{
    Holding, KV_BLOCK, KV_SHARE, KvType, WeightBytes, cpu_packed_share, kv_budget, machine, packed_copies,
};
use sconce_formats::{ModelConfig, ModelHeader};
use serde::Serialize;

use super::report::Known;
use crate::cli::{CpuWeights, InspectArgs};
use crate::scheduler::held_sequences;

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
    /// What keys and values are stored as.
    pub kv_type: &'static str,
    pub kv_bytes_per_token: u64,
    /// As asked for; without it the cache takes a share of what is left.
    pub kv_memory_bytes: Option<u64>,
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
    /// Whether the weights can be allocated and, with the copies that kernels make of them, leave room for the KV cache:
    /// the one that was asked for, or a block.
    pub fits: bool,
    /// What the KV cache may take: as asked for, or what is automatic.
    pub kv_budget_bytes: u64,
    /// Tokens of KV that would fit into that.
    pub kv_fitting_tokens: u64,
    /// Of these, what all sequences at full length can use.
    pub kv_capacity_tokens: u64,
    /// How many sequences of the full context fit at once, those kept for their prefix included.
    pub sequences_at_full_context: usize,
    /// How long each may be if all sequences run at once.
    pub tokens_per_sequence: usize,
}

impl Memory {
    /// The least that has to be free: allocated weights and copies, and the KV cache that was asked for, or else twice a
    /// block of the cache, which takes half of what is left.
    pub fn least_bytes(&self) -> u64 {
        let tokens = match (self.kv_memory_bytes, &self.machine) {
            (Some(_), Known::Is(machine)) => machine.kv_capacity_tokens,
            _ => 2 * KV_BLOCK as u64,
        };
        let weights = self.weights_q8_0_bytes + self.weights_f32_bytes + self.weights_copies_bytes;
        weights + tokens * self.kv_bytes_per_token
    }
}

pub fn of(header: &ModelHeader, args: &InspectArgs) -> Memory {
    let config = &header.config;
    let weights = Holding::on_cpu(packs(args.cpu_weights), header.parameters()).weights(header);
    let context = args.ctx.map_or(config.context_length, |ctx| ctx as usize);
    let kv = args.kv_type.on_cpu();
    let asked = Asked {
        context,
        sequences: args.max_sequences as usize,
        held: held_sequences(args.max_sequences) as usize,
        kv,
        kv_bytes: args.kv_memory,
    };
    Memory {
        cpu_weights: args.cpu_weights.name(),
        weights_file_bytes: header.weights_bytes,
        weights_mapped_bytes: weights.stored,
        weights_q8_0_bytes: weights.packed,
        weights_f32_bytes: weights.floats,
        weights_memory_bytes: weights.stored + weights.allocated(),
        weights_copies_bytes: packed_copies(weights.quantised(), cpu_packed_share()),
        kv_type: kv.name(),
        kv_bytes_per_token: kv.bytes(config.kv_bytes_per_token(1)),
        kv_memory_bytes: args.kv_memory,
        context_tokens: context,
        max_sequences: asked.sequences,
        machine: match machine() {
            Some(memory) => Known::Is(on_machine(config, weights, asked, memory)),
            None => Known::Not { error: "this system does not tell how much memory is free".to_owned() },
        },
    }
}

/// What is asked of the KV cache.
struct Asked {
    context: usize,
    /// That run at once.
    sequences: usize,
    /// That there are, kept ones included.
    held: usize,
    kv: KvType,
    /// `None`: what is automatic.
    kv_bytes: Option<u64>,
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
    asked: Asked,
    memory: sconce_formats::memory::Memory,
) -> Machine {
    let Asked { context, sequences, held, kv, kv_bytes } = asked;
    let left = memory.free.saturating_sub(weights.allocated());
    let budget =
        kv_bytes.unwrap_or_else(|| kv_budget(left, weights.quantised(), cpu_packed_share(), KV_SHARE));
    let block_bytes = KV_BLOCK as u64 * kv.bytes(config.kv_bytes_per_token(1));
    // A state that does not grow with the text fits however long that is.
    let fitting = budget.checked_div(block_bytes).and_then(|blocks| usize::try_from(blocks).ok());
    let fitting = fitting.unwrap_or(usize::MAX / KV_BLOCK);
    let needed = context.div_ceil(KV_BLOCK);
    let blocks = fitting.min(held.saturating_mul(needed));
    let beside_copies = left.saturating_sub(packed_copies(weights.quantised(), cpu_packed_share()));
    let cache_fits = kv_bytes.is_none() || blocks as u64 * block_bytes <= beside_copies;
    Machine {
        total_bytes: memory.total,
        free_bytes: memory.free,
        fits: weights.allocated() <= memory.free && fitting > 0 && cache_fits,
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

    /// Two layers of two key/value heads of 16: 512 bytes a token, 16384 a block.
    fn tiny() -> ModelConfig {
        let json = r#"{"model_type": "llama", "vocab_size": 48, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 100, "rms_norm_eps": 1e-5}"#;
        sconce_formats::config::from_hf_json(json).expect("a sound configuration")
    }

    fn check(free: u64, floats: u64, sequences: usize, expected: (bool, u64, u64, usize, usize)) {
        let weights = WeightBytes { floats, ..WeightBytes::default() };
        let memory = sconce_formats::memory::Memory { total: 1 << 40, free };
        let asked = Asked { context: 100, sequences, held: sequences, kv: KvType::F32, kv_bytes: None };
        let found = on_machine(&tiny(), weights, asked, memory);
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
        // 100 tokens are 4 blocks; half of what is left goes to the cache.
        check(1000 + 2 * 16384 * 8, 1000, 2, (true, 8 * 32, 8 * 32, 2, 100));
        check(1000 + 2 * 16384 * 8, 1000, 1, (true, 8 * 32, 4 * 32, 1, 100));
        check(1000 + 2 * 16384 * 7, 1000, 2, (true, 7 * 32, 7 * 32, 1, 96));
    }

    #[test]
    fn without_room_for_weights_or_a_block_it_does_not_fit() {
        check(999, 1000, 1, (false, 0, 0, 0, 0));
        check(1000 + 2 * 16383, 1000, 1, (false, 0, 0, 0, 0));
        check(1000 + 2 * 16384, 1000, 1, (true, 32, 32, 0, 32));
    }

    #[test]
    fn a_budget_that_was_said_leaves_room_for_copies_of_weights() {
        let copies = packed_copies(1000, cpu_packed_share());
        let check = |weights, kv_bytes, expected| {
            let asked = Asked { context: 100, sequences: 2, held: 2, kv: KvType::F32, kv_bytes };
            let memory = sconce_formats::memory::Memory { total: 1 << 40, free: copies + 16384 };
            assert_eq!(
                on_machine(&tiny(), weights, asked, memory).fits,
                expected,
                "{weights:?} {kv_bytes:?}"
            );
        };
        let stored = |stored| WeightBytes { stored, ..WeightBytes::default() };
        check(stored(1000), Some(16384), true);
        check(stored(1001), Some(16384), false);
        check(stored(1000), None, false);
        // What is packed at load is copied as well as allocated.
        check(WeightBytes { packed: 1000, ..WeightBytes::default() }, Some(16384), false);
        check(stored(0), Some(16384), true);
    }

    #[test]
    fn a_budget_that_was_said_is_taken_if_it_is_there() {
        let check = |kv, kv_bytes, expected| {
            let asked = Asked { context: 100, sequences: 2, held: 2, kv, kv_bytes: Some(kv_bytes) };
            let memory = sconce_formats::memory::Memory { total: 1 << 40, free: 100_000 };
            let found = on_machine(&tiny(), WeightBytes::default(), asked, memory);
            let figures = (found.fits, found.kv_budget_bytes, found.kv_capacity_tokens);
            assert_eq!(figures, expected, "{kv:?} {kv_bytes}");
        };
        check(KvType::F32, 50_000, (true, 50_000, 3 * 32));
        check(KvType::F16, 50_000, (true, 50_000, 6 * 32));
        check(KvType::F32, 1 << 30, (false, 1 << 30, 8 * 32));
        check(KvType::F16, 1 << 30, (true, 1 << 30, 8 * 32));
    }
}
