//! Which model families exist, and how a file is recognised as one of them.
//!
//! A family is data: the names it goes by, the parts of its computation graph that no file states,
//! and how its checkpoints lay tensors out. The rows are in `table`; a new family is a new row. Detection
//! happens on names alone, before any weight is looked at.

pub(crate) mod long_tail;
mod table;

pub use long_tail::long_tail;
pub use table::FAMILIES;

use crate::ConfigError;
use crate::config::{Activation, BlockShape, NormKind, QkNorm, RopeLayout};
use crate::tensors::Role;

/// A group of models with one computation graph.
#[derive(Debug, PartialEq)]
pub struct Family {
    /// Name for users and logs.
    pub name: &'static str,
    /// What the name covers, for users.
    pub description: &'static str,
    /// Accepted `model_type` values of `config.json`.
    pub hf_model_types: &'static [&'static str],
    /// Accepted entries of `architectures` in `config.json`: the classes that generate text.
    pub hf_architectures: &'static [&'static str],
    /// Accepted `general.architecture` values of GGUF.
    pub gguf_architectures: &'static [&'static str],
    /// What is computed.
    pub graph: Graph,
    /// How checkpoints of transformers describe and store it.
    pub hf: Checkpoint,
    /// How llama.cpp's converter stores it.
    pub gguf: Converted,
}

/// The parts of the computation graph that files take for granted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Graph {
    /// Kind of the norms of the residual stream.
    pub norm: NormKind,
    /// Whether those norms have biases.
    pub norm_bias: bool,
    /// Where they stand.
    pub block: BlockShape,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// Whether the feed-forward block has a gate projection.
    pub gated: bool,
    /// Its activation, where the file does not name one.
    pub activation: Activation,
    /// Whether embeddings are multiplied by the square root of the hidden size.
    pub scaled_embeddings: bool,
    /// Whether the width that files give for the feed-forward block is that of gate and up together.
    pub halved_mlp: bool,
    /// Which layers rotate queries and keys, and how.
    pub positions: Positions,
}

/// Which layers rotate queries and keys, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// All alike.
    Same,
    /// Layers with a window may have a base of their own, and have no scaling.
    Local,
    /// Only layers with a window do, unless there is none.
    Windowed,
    /// All but every n-th, unless `config.json` lists them.
    Interval(usize),
}

/// Which layers have a window, where a file gives its length but does not list the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    /// None.
    Never,
    /// All.
    Every,
    /// All, if `use_sliding_window` is true.
    Used,
    /// Those from `max_window_layers` on, if `use_sliding_window` is true.
    From,
    /// The even ones below `max_window_layers`, if `use_sliding_window` is true.
    Alternate,
    /// Those that do not rotate queries and keys, if `use_sliding_window` is true.
    Unturned,
    /// All but every n-th, n being `sliding_window_pattern` or else this.
    Pattern(usize),
}

/// A GGUF file as llama.cpp's converter writes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Converted {
    /// Tensor names that differ from those of other families, without `.weight`.
    pub names: &'static [(Role, &'static str)],
    /// How query and key rows are ordered.
    pub rope: RopeLayout,
    /// The base of local layers where the file does not give it; without either it is that of all.
    pub local_base: Option<f64>,
    /// Which layers have a window; the rules that need keys of `config.json` do not occur.
    pub windows: Windows,
    /// The length of windows where the file does not give it.
    pub window: Option<usize>,
    /// Whether the probabilities of the chosen experts are divided by their sum.
    pub normalised_experts: bool,
    /// Models of so many layers take the attention scale from `hidden / heads` instead of the head size.
    pub wide_scale_layers: Option<usize>,
    /// The caps of scores and logits where the file gives none (0: none); `None` if the family never caps.
    pub softcaps: Option<(f64, f64)>,
    /// Whether files may scale embeddings, residuals, scores and logits.
    pub scales: Scales,
}

/// What the factors of embeddings, residuals, scores and logits in a file mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scales {
    /// The family has none.
    Never,
    /// They multiply.
    Multiplied,
    /// They multiply, but logits are divided by theirs.
    Divided,
}

/// A checkpoint of Hugging Face transformers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Checkpoint {
    /// A JSON object: what keys of `config.json` mean where they are absent.
    ///
    /// Source: the configuration classes of transformers.
    pub defaults: &'static str,
    /// What precedes the layer's number in tensor names.
    pub layers: &'static str,
    /// Tensor names that differ from Llama's, without `.weight`.
    pub names: &'static [(Role, &'static str)],
    /// Query, key and value projections are one tensor, in this order.
    pub fused_qkv: bool,
    /// Gate and up projections are one tensor, in this order.
    pub fused_gate_up: bool,
    /// All experts of a layer are one tensor for each projection.
    pub merged_experts: bool,
    /// And of these, gate and up projections are one tensor, in this order.
    pub fused_experts: bool,
    /// What is added to stored norm weights: families that multiply by `1 + w` have 1.
    pub norm_offset: f64,
    /// Which elements of a head are rotated together.
    pub rope: RopeLayout,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: Flag,
    /// Whether the attention output projection has one.
    pub attn_out_bias: Flag,
    /// Whether the feed-forward projections have them.
    pub mlp_bias: Flag,
    /// Whether the output projection has one.
    pub output_bias: bool,
    /// Names of activation functions that mean something else than elsewhere.
    pub activations: &'static [(&'static str, Activation)],
    /// A key that, if true, [parallelises](BlockShape::in_parallel) the layers.
    pub parallel: Option<&'static str>,
    /// Which layers have a window.
    pub windows: Windows,
    /// The object that holds the text model's configuration, where it is a part of a larger model.
    pub nested: Option<Nested>,
}

/// An object in `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nested {
    /// Its key.
    pub key: &'static str,
    /// The same with a dot.
    pub prefix: &'static str,
}

/// Something a family has always, never, or as `config.json` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// Always.
    Yes,
    /// Never.
    No,
    /// If the key is true.
    Key(&'static str),
}

impl Family {
    /// The family of a `config.json`.
    ///
    /// # Errors
    /// [`ConfigError::UnsupportedFamily`] if `model_type` is unknown, or if `architectures` is
    /// given and names only classes that do not generate text.
    pub fn from_hf(model_type: &str, architectures: &[&str]) -> Result<&'static Family, ConfigError> {
        let family = long_tail::all()
            .find(|family| family.hf_model_types.contains(&model_type))
            .ok_or_else(|| unsupported(model_type))?;
        let generates = |name: &&str| family.hf_architectures.contains(name);
        match architectures {
            [] => Ok(family),
            names if names.iter().any(generates) => Ok(family),
            names => Err(unsupported(&names.join(", "))),
        }
    }

    /// The family of a GGUF file by its `general.architecture`.
    ///
    /// # Errors
    /// [`ConfigError::UnsupportedFamily`] if it is unknown.
    pub fn from_gguf(architecture: &str) -> Result<&'static Family, ConfigError> {
        FAMILIES
            .iter()
            .find(|family| family.gguf_architectures.contains(&architecture))
            .ok_or_else(|| unsupported(architecture))
    }
}

fn unsupported(found: &str) -> ConfigError {
    let names: Vec<&str> = long_tail::all().map(|family| family.name).collect();
    ConfigError::UnsupportedFamily { found: found.chars().take(80).collect(), supported: names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: Result<&Family, ConfigError>, expected: Result<&str, &str>) {
        match (found, expected) {
            (Ok(family), Ok(name)) => assert_eq!(family.name, name),
            (Err(error), Err(part)) => {
                let text = error.to_string();
                assert!(text.contains(part) && text.contains("supported: llama"), "{text}");
            }
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn hf_names() {
        check(Family::from_hf("llama", &["LlamaForCausalLM"]), Ok("llama"));
        check(Family::from_hf("llama", &[]), Ok("llama"));
        check(Family::from_hf("mistral", &["MistralForCausalLM"]), Ok("mistral"));
        check(Family::from_hf("bert", &["BertForMaskedLM"]), Err("bert"));
        check(Family::from_hf("Llama", &[]), Err("Llama"));
        let classifier = Family::from_hf("llama", &["LlamaForSequenceClassification"]);
        check(classifier, Err("LlamaForSequenceClassification"));
    }

    #[test]
    fn gguf_names() {
        check(Family::from_gguf("llama"), Ok("llama"));
        check(Family::from_gguf("phi2"), Ok("phi"));
        check(Family::from_gguf("bert"), Err("bert"));
        check(Family::from_gguf(""), Err("architecture"));
    }

    #[test]
    fn no_name_means_two_families() {
        let mut seen = std::collections::HashSet::new();
        for family in long_tail::all() {
            for name in family.hf_model_types {
                assert!(seen.insert(("hf", name)), "{name}");
            }
            for name in family.gguf_architectures {
                assert!(seen.insert(("gguf", name)), "{name}");
            }
        }
    }

    #[test]
    fn the_document_lists_every_family() {
        let document = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/models.md");
        let document = std::fs::read_to_string(document).expect("docs/models.md");
        for family in FAMILIES.iter().chain(long_tail()) {
            let row = document.lines().find(|line| line.starts_with(&format!("| {} |", family.name)));
            let row = row.unwrap_or_else(|| panic!("{} has no row", family.name));
            let names = family.hf_model_types.iter().take(1).chain(family.gguf_architectures);
            names.for_each(|name| assert!(row.contains(&format!("`{name}`")), "{name} is not in {row}"));
        }
    }

    #[test]
    fn defaults_are_json_objects() {
        for family in long_tail::all() {
            assert!(crate::json::parse(family.hf.defaults).is_ok(), "{}", family.name);
        }
    }
}
