//! The shapes of published models, one row each.
//!
//! Source: the `config.json` that each was published with.

/// What a model's tensors are sized by.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// The published name, without its publisher.
    pub name: &'static str,
    /// `general.architecture` of converted files.
    pub architecture: &'static str,
    pub layers: usize,
    pub hidden: usize,
    pub ffn: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab: usize,
    pub rope_base: f32,
    /// By which long waves of the rotary embedding are stretched, for a model that was trained for 8192 tokens
    /// first (`rope_type` `llama3`).
    pub rope_factor: Option<f64>,
    /// Tokens.
    pub context: usize,
    /// Whether the embedding is the output matrix too.
    pub tied: bool,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    pub norm_eps: f32,
}

const LLAMA_31_8B: Shape = Shape {
    name: "Llama-3.1-8B",
    architecture: "llama",
    layers: 32,
    hidden: 4096,
    ffn: 14336,
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
    vocab: 128_256,
    rope_base: 500_000.0,
    rope_factor: Some(8.0),
    context: 131_072,
    tied: false,
    qkv_bias: false,
    norm_eps: 1e-5,
};

const QWEN_25_05B: Shape = Shape {
    name: "Qwen2.5-0.5B",
    architecture: "qwen2",
    layers: 24,
    hidden: 896,
    ffn: 4864,
    heads: 14,
    kv_heads: 2,
    head_dim: 64,
    vocab: 151_936,
    rope_base: 1_000_000.0,
    rope_factor: None,
    context: 32_768,
    tied: true,
    qkv_bias: true,
    norm_eps: 1e-6,
};

/// By size.
pub const SHAPES: [Shape; 7] = [
    QWEN_25_05B,
    Shape {
        name: "TinyLlama-1.1B",
        layers: 22,
        hidden: 2048,
        ffn: 5632,
        kv_heads: 4,
        head_dim: 64,
        vocab: 32_000,
        rope_base: 10_000.0,
        rope_factor: None,
        context: 2048,
        ..LLAMA_31_8B
    },
    Shape {
        name: "Llama-3.2-1B",
        layers: 16,
        hidden: 2048,
        ffn: 8192,
        head_dim: 64,
        rope_factor: Some(32.0),
        tied: true,
        ..LLAMA_31_8B
    },
    Shape {
        name: "Qwen2.5-1.5B",
        layers: 28,
        hidden: 1536,
        ffn: 8960,
        heads: 12,
        head_dim: 128,
        ..QWEN_25_05B
    },
    Shape {
        name: "Llama-3.2-3B",
        layers: 28,
        hidden: 3072,
        ffn: 8192,
        heads: 24,
        rope_factor: Some(32.0),
        tied: true,
        ..LLAMA_31_8B
    },
    Shape {
        name: "Mistral-7B-v0.3",
        vocab: 32_768,
        rope_base: 1_000_000.0,
        rope_factor: None,
        context: 32_768,
        ..LLAMA_31_8B
    },
    LLAMA_31_8B,
];

/// The shape of a name, in whatever case; for the command line.
///
/// # Errors
/// The names that there are.
pub fn named(name: &str) -> Result<&'static Shape, String> {
    let found = SHAPES.iter().find(|shape| shape.name.eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        let names: Vec<&str> = SHAPES.iter().map(|shape| shape.name).collect();
        format!("expected one of {}", names.join(", "))
    })
}

impl Shape {
    /// What each frequency of the rotary embedding is divided by, `head_dim / 2` numbers, where they are scaled.
    ///
    /// Source: the Llama 3.1 release; waves up to a quarter of the first context stay, those longer than all of it
    /// are stretched by the factor, and between them the two are mixed.
    pub fn rope_factors(&self) -> Option<Vec<f32>> {
        const FIRST_CONTEXT: f64 = 8192.0;
        const SHORT: f64 = 4.0;
        let factor = self.rope_factor?;
        let of = |at: usize| {
            let turn = f64::from(self.rope_base).powf(2.0 * at as f64 / self.head_dim as f64);
            let waves = FIRST_CONTEXT / (std::f64::consts::TAU * turn);
            let kept = ((waves - 1.0) / (SHORT - 1.0)).clamp(0.0, 1.0);
            (1.0 / ((1.0 - kept) / factor + kept)) as f32
        };
        Some((0..self.head_dim / 2).map(of).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case_and_unknown_ones_list_all() {
        assert_eq!(named("llama-3.2-1b").map(|shape| shape.name), Ok("Llama-3.2-1B"));
        let error = named("Llama-4").expect_err("there is none");
        assert!(SHAPES.iter().all(|shape| error.contains(shape.name)), "{error}");
    }

    #[test]
    fn heads_divide_as_published() {
        for shape in &SHAPES {
            assert_eq!(shape.heads * shape.head_dim, shape.hidden, "{}", shape.name);
            assert_eq!(shape.heads % shape.kv_heads, 0, "{}", shape.name);
        }
    }

    #[test]
    fn long_waves_are_stretched_and_short_ones_stay() {
        let factors = named("Llama-3.2-1B").expect("it is there").rope_factors().expect("it is scaled");
        assert_eq!((factors.len(), factors[0], factors[31]), (32, 1.0, 32.0));
        assert!(factors.windows(2).all(|pair| pair[0] <= pair[1]), "{factors:?}");
        assert!(factors.iter().any(|factor| (1.1..31.0).contains(factor)), "{factors:?}");
        assert_eq!(named("TinyLlama-1.1B").expect("it is there").rope_factors(), None);
    }
}
