//! Chat templates for models that bring none.
//!
//! A format is recognised by its marker tokens: a vocabulary has them only because its model was trained with
//! them. Formats that are plain text leave no such trace and are tied to the model family and to the shape of
//! the vocabulary. `docs/cli.md` lists them; tools are beyond them.

use super::pieces::Pieces;
use super::tokenizer::Tokenizer;

/// A way of writing conversations.
#[derive(Debug)]
struct Fallback {
    /// Name for users and logs.
    name: &'static str,
    /// Families it is for; none means any.
    families: &'static [&'static str],
    /// Tokens that have to be in the vocabulary.
    markers: &'static [&'static str],
    /// Tokens that must not be there, since they mean another format.
    without: &'static [&'static str],
    /// What else the vocabulary has to be.
    shape: Shape,
    /// The Jinja program.
    template: &'static str,
}

/// A demand on the vocabulary as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Any,
    ByteLevel,
    SentencePiece,
    /// SentencePiece of at least the 32 000 pieces of Llama 2, which its relatives extend.
    Llama2,
}

const LLAMA2_PIECES: usize = 32_000;

const ANY: Fallback =
    Fallback { name: "", families: &[], markers: &[], without: &[], shape: Shape::Any, template: "" };

/// The first that fits is taken, so formats whose markers include another's come before it.
static TABLE: &[Fallback] = &[
    Fallback {
        name: "phi-4",
        markers: &["<|im_start|>", "<|im_sep|>", "<|im_end|>"],
        template: "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}\
                   {% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}",
        ..ANY
    },
    Fallback {
        name: "chatml",
        markers: &["<|im_start|>", "<|im_end|>"],
        template: "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{{ '\\n' }}\
                   {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}{% endif %}",
        ..ANY
    },
    Fallback {
        name: "llama-3",
        markers: &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        template: "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n\
                   {{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}\
                   <|start_header_id|>assistant<|end_header_id|>{{ '\\n\\n' }}{% endif %}",
        ..ANY
    },
    Fallback {
        name: "gemma",
        markers: &["<start_of_turn>", "<end_of_turn>"],
        template: "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}\
                   {% if m.role == 'system' %}{% set ns.system = m.content | trim ~ '\\n\\n' %}{% else %}\
                   <start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n\
                   {{ ns.system if m.role == 'user' }}{{ m.content | trim }}<end_of_turn>{{ '\\n' }}\
                   {% if m.role == 'user' %}{% set ns.system = '' %}{% endif %}{% endif %}{% endfor %}\
                   {% if add_generation_prompt %}<start_of_turn>model{{ '\\n' }}{% endif %}",
        ..ANY
    },
    Fallback {
        name: "command-r",
        markers: &[
            "<|START_OF_TURN_TOKEN|>",
            "<|END_OF_TURN_TOKEN|>",
            "<|SYSTEM_TOKEN|>",
            "<|USER_TOKEN|>",
            "<|CHATBOT_TOKEN|>",
        ],
        template: "{{ bos_token }}{% for m in messages %}<|START_OF_TURN_TOKEN|>\
                   {% if m.role == 'assistant' %}<|CHATBOT_TOKEN|>{% elif m.role == 'system' %}<|SYSTEM_TOKEN|>\
                   {% else %}<|USER_TOKEN|>{% endif %}{{ m.content | trim }}<|END_OF_TURN_TOKEN|>{% endfor %}\
                   {% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}",
        ..ANY
    },
    Fallback {
        name: "granite",
        markers: &["<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"],
        template: "{% for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}\
                   <|end_of_text|>{{ '\\n' }}{% endfor %}\
                   {% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}",
        ..ANY
    },
    Fallback {
        name: "deepseek",
        markers: &["<｜User｜>", "<｜Assistant｜>"],
        template: "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\
                   {% elif m.role == 'assistant' %}<｜Assistant｜>{{ m.content }}{{ eos_token }}\
                   {% else %}<｜User｜>{{ m.content }}{% endif %}{% endfor %}\
                   {% if add_generation_prompt %}<｜Assistant｜>{% endif %}",
        ..ANY
    },
    Fallback {
        name: "glm-4",
        markers: &["[gMASK]", "<sop>", "<|user|>", "<|assistant|>"],
        template: "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}\
                   {% if add_generation_prompt %}<|assistant|>{{ '\\n' }}{% endif %}",
        ..ANY
    },
    Fallback {
        name: "phi-3",
        markers: &["<|user|>", "<|assistant|>", "<|end|>"],
        template: "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>{{ '\\n' }}{% endfor %}\
                   {% if add_generation_prompt %}<|assistant|>{{ '\\n' }}{% endif %}",
        ..ANY
    },
    Fallback {
        name: "zephyr",
        markers: &["<|user|>", "<|assistant|>"],
        without: &["<|end|>"],
        template: "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}{{ '\\n' }}{% endfor %}\
                   {% if add_generation_prompt %}<|assistant|>{{ '\\n' }}{% endif %}",
        ..ANY
    },
    Fallback {
        name: "mistral-nemo",
        markers: &["[INST]", "[/INST]"],
        shape: Shape::ByteLevel,
        template: INST_TIGHT,
        ..ANY
    },
    Fallback {
        name: "mistral",
        markers: &["[INST]", "[/INST]"],
        shape: Shape::SentencePiece,
        template: INST_TOKENS,
        ..ANY
    },
    Fallback {
        name: "mistral-text",
        families: &["mistral", "mixtral"],
        shape: Shape::Llama2,
        template: INST_TEXT,
        ..ANY
    },
    Fallback { name: "llama-2", families: &["llama"], shape: Shape::Llama2, template: LLAMA2, ..ANY },
];

const INST_TIGHT: &str = "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}\
    {% if m.role == 'system' %}{% set ns.system = m.content ~ '\\n\\n' %}\
    {% elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}\
    {% else %}[INST]{{ ns.system }}{{ m.content }}[/INST]{% set ns.system = '' %}{% endif %}{% endfor %}";
const INST_TOKENS: &str = "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}\
    {% if m.role == 'system' %}{% set ns.system = m.content ~ '\\n\\n' %}\
    {% elif m.role == 'assistant' %}{{ ' ' ~ m.content | trim }}{{ eos_token }}\
    {% else %}[INST] {{ ns.system }}{{ m.content }}[/INST]{% set ns.system = '' %}{% endif %}{% endfor %}";
const INST_TEXT: &str = "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}\
    {% if m.role == 'system' %}{% set ns.system = m.content ~ '\\n\\n' %}\
    {% elif m.role == 'assistant' %}{{ ' ' ~ m.content | trim }}{{ eos_token }}\
    {% else %}[INST] {{ ns.system }}{{ m.content }} [/INST]{% set ns.system = '' %}{% endif %}{% endfor %}";
const LLAMA2: &str = "{% set ns = namespace(system='') %}{% for m in messages %}\
    {% if m.role == 'system' %}{% set ns.system = '<<SYS>>\\n' ~ m.content ~ '\\n<</SYS>>\\n\\n' %}\
    {% elif m.role == 'assistant' %}{{ ' ' ~ m.content | trim ~ ' ' }}{{ eos_token }}\
    {% else %}{{ bos_token }}[INST] {{ ns.system }}{{ m.content | trim }} [/INST]\
    {% set ns.system = '' %}{% endif %}{% endfor %}";

/// Name and template for a model of `family` with this vocabulary, if one is known.
pub fn fallback_template(family: &str, tokenizer: &Tokenizer) -> Option<(&'static str, &'static str)> {
    let row = TABLE.iter().find(|row| row.fits(family, tokenizer));
    row.map(|row| (row.name, row.template))
}

impl Fallback {
    fn fits(&self, family: &str, tokenizer: &Tokenizer) -> bool {
        let special = |text: &&str| tokenizer.id(text).is_some_and(|id| tokenizer.is_added(id));
        (self.families.is_empty() || self.families.contains(&family))
            && self.markers.iter().all(&special)
            && !self.without.iter().any(special)
            && self.shape.fits(tokenizer)
    }
}

impl Shape {
    fn fits(self, tokenizer: &Tokenizer) -> bool {
        let sentencepiece = matches!(tokenizer.pieces(), Pieces::SentencePiece { .. });
        match self {
            Self::Any => true,
            Self::ByteLevel => !sentencepiece,
            Self::SentencePiece => sentencepiece,
            Self::Llama2 => {
                let (bos, eos) = (tokenizer.bos(), tokenizer.eos());
                let named =
                    |id: Option<u32>, text| id.and_then(|id| tokenizer.token(id)).as_deref() == Some(text);
                sentencepiece
                    && tokenizer.vocab_size() >= LLAMA2_PIECES
                    && named(bos, "<s>")
                    && named(eos, "</s>")
            }
        }
    }
}

#[cfg(test)]
mod tests;
