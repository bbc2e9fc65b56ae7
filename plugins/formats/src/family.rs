//! Which model families exist: a table, one row each.
//!
//! A new family is a new row, plus the features its configuration needs in `config` and
//! `tensors`; no file is named after a family. Detection happens on names alone, before any
//! weight is looked at.

use crate::ConfigError;
use crate::config::RopeLayout;

/// A group of models with one computation graph.
#[derive(Debug, PartialEq, Eq)]
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
    /// How query and key rows are ordered in this family's GGUF files.
    pub gguf_rope: RopeLayout,
}

/// All families of this build.
pub const FAMILIES: &[Family] = &[Family {
    name: "llama",
    description: "Llama 2, 3, 3.1, 3.2 and models of the same architecture",
    hf_model_types: &["llama"],
    hf_architectures: &["LlamaForCausalLM"],
    gguf_architectures: &["llama"],
    // llama.cpp's converter permutes the rows of q and k so that pairs become neighbours.
    gguf_rope: RopeLayout::Interleaved,
}];

impl Family {
    /// The family of a `config.json`.
    ///
    /// # Errors
    /// [`ConfigError::UnsupportedFamily`] if `model_type` is unknown, or if `architectures` is
    /// given and names only classes that do not generate text.
    pub fn from_hf(model_type: &str, architectures: &[&str]) -> Result<&'static Family, ConfigError> {
        let family = FAMILIES
            .iter()
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
    let rows = FAMILIES.iter();
    ConfigError::UnsupportedFamily {
        found: found.chars().take(80).collect(),
        supported: rows
            .map(|family| format!("{} ({})", family.name, family.description))
            .collect::<Vec<_>>()
            .join("; "),
    }
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
        check(Family::from_hf("mistral", &["MistralForCausalLM"]), Err("mistral"));
        check(Family::from_hf("Llama", &[]), Err("Llama"));
        let classifier = Family::from_hf("llama", &["LlamaForSequenceClassification"]);
        check(classifier, Err("LlamaForSequenceClassification"));
    }

    #[test]
    fn gguf_names() {
        check(Family::from_gguf("llama"), Ok("llama"));
        check(Family::from_gguf("qwen3"), Err("qwen3"));
        check(Family::from_gguf(""), Err("architecture"));
    }
}
