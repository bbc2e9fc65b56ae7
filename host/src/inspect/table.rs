//! The report for people: a line for each fact, a label in front.

use super::memory::{Machine, Memory};
use super::report::{Declared, Files, Known, Report};
use super::shape::{Experts, Model, Positions, Window};
use super::words::{Generation, SpecialTokens, Template, Text, Token, TokenizerFacts};

/// Columns of a label.
const LABEL: usize = 16;

/// The whole report.
pub fn of(report: &Report) -> String {
    let mut lines = Lines::default();
    lines.add("path", &report.path);
    report.files.iter().for_each(|part| files(&mut lines, part));
    report.model.iter().for_each(|part| model(&mut lines, part));
    report.text.iter().for_each(|part| text(&mut lines, part));
    report.memory.iter().for_each(|part| memory(&mut lines, part));
    lines.0
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, label: &str, text: impl std::fmt::Display) {
        self.0 += &format!("{label:<LABEL$}{text}\n");
    }

    fn known<T>(&mut self, label: &str, part: &Known<T>, text: impl Fn(&T) -> String) {
        match part {
            Known::Is(part) => self.add(label, text(part)),
            Known::Not { error } => self.add(label, error),
        }
    }
}

fn files(lines: &mut Lines, files: &Files) {
    let count = match files.weights.len() {
        1 => "1 file".to_owned(),
        count => format!("{count} files"),
    };
    lines.add("format", format!("{}, {count}, {}", files.format, bytes(files.size_bytes)));
}

fn model(lines: &mut Lines, model: &Model) {
    lines.add("family", format!("{} ({})", model.family, model.family_description));
    lines.add("called", called(&model.declared));
    if let Some(note) = model.note {
        lines.add("note", note);
    }
    if let Some(all) = model.parameters {
        let active = model.active_parameters.filter(|active| *active != all);
        let active = active.map_or_else(String::new, |active| format!(", {} for one token", count(active)));
        lines.add("parameters", count(all) + &active);
    }
    lines.add("layers", model.layers);
    let (heads, kv_heads, size) = (model.heads, model.kv_heads, model.head_size);
    match heads {
        0 => lines.add("heads", "none: no attention"),
        _ => lines.add("heads", format!("{heads} on {kv_heads} of keys and values, size {size}")),
    }
    let dense = model.feed_forward_size.map_or_else(String::new, |size| format!(", feed-forward {size}"));
    lines.add("width", format!("hidden {}{dense}", model.hidden_size));
    if let Some(experts) = &model.experts {
        lines.add("experts", experts_text(experts, model.layers));
    }
    let output = if model.tied_embeddings { "tied to the output" } else { "not tied to the output" };
    lines.add("vocabulary", format!("{}, embeddings {output}", model.vocabulary_size));
    lines.add("context", format!("{} tokens as trained", model.trained_context_tokens));
    for positions in &model.positions {
        lines.add("positions", positions_text(positions, model.layers));
    }
    for window in &model.windows {
        lines.add("window", window_text(window, model.layers));
    }
    for (at, row) in model.stored.iter().enumerate() {
        let tensors = if row.tensors == 1 { "tensor" } else { "tensors" };
        let label = if at == 0 { "stored as" } else { "" };
        let (size, share) = (bytes(row.bytes), 100.0 * row.share);
        lines.add(
            label,
            format!("{:<6} {:>5} {tensors:<7} {size:>9} {share:>6.1} %", row.element_type, row.tensors),
        );
    }
}

fn called(names: &Declared) -> String {
    let architectures = (!names.architectures.is_empty()).then(|| names.architectures.join(", "));
    let parts = [
        names.model_type.as_ref().map(|name| format!("model_type {name}")),
        architectures,
        names.gguf_architecture.as_ref().map(|name| format!("architecture {name}")),
        names.gguf_name.as_ref().map(|name| format!("name {}", quoted(name))),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn experts_text(experts: &Experts, layers: usize) -> String {
    let shared =
        experts.shared_size.map_or_else(String::new, |size| format!(", and a shared one of width {size}"));
    format!(
        "{} of width {}, {} for each token{shared}; in {}",
        experts.total,
        experts.size,
        experts.used,
        layer_names(&experts.layers, layers)
    )
}

fn positions_text(positions: &Positions, layers: usize) -> String {
    let place = match layer_names(&positions.layers, layers) {
        all if all == ALL => String::new(),
        some => format!("; in {some}"),
    };
    let (Some(base), Some(size)) = (positions.base, positions.rotated_size) else {
        return format!("none{place}");
    };
    let words = positions.scaling_in_words.as_deref().unwrap_or_default();
    format!("rotary, base {base}, {size} of each head; {words}{place}")
}

fn window_text(window: &Window, layers: usize) -> String {
    format!("{} tokens in {}", window.tokens, layer_names(&window.layers, layers))
}

fn text(lines: &mut Lines, text: &Text) {
    lines.known("tokenizer", &text.tokenizer, tokenizer_text);
    lines.known("chat template", &text.chat_template, template_text);
    match &text.special_tokens {
        Known::Is(tokens) => special_tokens(lines, tokens),
        Known::Not { error } => lines.add("special tokens", error),
    }
    lines.known("sampling", &text.generation, generation_text);
}

fn tokenizer_text(facts: &TokenizerFacts) -> String {
    let pre = facts.gguf_pre.as_ref().map_or_else(String::new, |pre| format!(", pre {pre}"));
    format!("{} from {}{pre}, {} tokens", facts.kind, facts.source, facts.tokens)
}

fn template_text(template: &Template) -> String {
    match template.names.as_slice() {
        [] => "the family's usual one; the model has none of its own".to_owned(),
        names => format!("{} from {}", names.join(", "), template.source),
    }
}

fn special_tokens(lines: &mut Lines, tokens: &SpecialTokens) {
    let one = |token: &Option<Token>, adds: Option<bool>, place: &str| {
        let added = if adds == Some(true) { format!(", added {place} every text") } else { String::new() };
        token.as_ref().map_or_else(|| "none".to_owned(), |token| token_text(token) + &added)
    };
    lines.add("bos", one(&tokens.bos, tokens.adds_bos, "in front of"));
    lines.add("eos", one(&tokens.eos, tokens.adds_eos, "behind"));
    let stop: Vec<String> = tokens.stop.iter().map(token_text).collect();
    lines.add("stop tokens", if stop.is_empty() { "none".to_owned() } else { stop.join(", ") });
}

fn token_text(token: &Token) -> String {
    match &token.text {
        Some(text) => format!("{} {}", token.id, quoted(text)),
        None => token.id.to_string(),
    }
}

fn generation_text(defaults: &Generation) -> String {
    let number = |name: &str, value: Option<f32>| value.map(|value| format!("{name} {value}"));
    let parts = [
        defaults.do_sample.filter(|sample| !sample).map(|_| "greedy".to_owned()),
        number("temperature", defaults.temperature),
        number("top_p", defaults.top_p),
        defaults.top_k.map(|top_k| format!("top_k {top_k}")),
        number("min_p", defaults.min_p),
        number("repetition_penalty", defaults.repetition_penalty),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "the model suggests nothing".to_owned() } else { parts.join(", ") }
}

fn memory(lines: &mut Lines, memory: &Memory) {
    let parts = [
        (memory.weights_mapped_bytes, "mapped as stored"),
        (memory.weights_q8_0_bytes, "allocated as q8_0"),
        (memory.weights_f32_bytes, "allocated as f32"),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(size, _)| *size > 0)
        .map(|(size, how)| format!("{} {how}", bytes(size)))
        .collect();
    let (file, all) = (bytes(memory.weights_file_bytes), bytes(memory.weights_memory_bytes));
    lines.add("weights", format!("{file} in the file, {all} on a CPU: {}", parts.join(", ")));
    if memory.weights_copies_bytes > 0 {
        lines.add("", format!("up to {} of copies for kernels", bytes(memory.weights_copies_bytes)));
    }
    lines.add(
        "kv cache",
        format!("{} for each token, in {}", bytes(memory.kv_bytes_per_token), memory.kv_type),
    );
    lines.known("this machine", &memory.machine, machine_text);
    if let Known::Is(machine) = &memory.machine {
        lines.add("", room_text(memory, machine));
    }
}

fn machine_text(machine: &Machine) -> String {
    let fits = if machine.fits { "the model fits" } else { "the model does not fit" };
    format!("{fits}: {} free of {}", bytes(machine.free_bytes), bytes(machine.total_bytes))
}

fn room_text(memory: &Memory, machine: &Machine) -> String {
    let (context, sequences) = (memory.context_tokens, memory.max_sequences);
    let (tokens, full) = (machine.kv_fitting_tokens, machine.sequences_at_full_context);
    if memory.kv_bytes_per_token == 0 {
        return format!("its state does not grow with the text: enough for {sequences} x {context}");
    }
    let most = match (full, machine.tokens_per_sequence) {
        (full, _) if full >= sequences => format!("enough for {sequences} x {context}"),
        (0, each) => {
            format!("one sequence of {tokens}, or {sequences} x {each} (asked: {sequences} x {context})")
        }
        (full, each) => {
            format!("{full} x {context} or {sequences} x {each} (asked: {sequences} x {context})")
        }
    };
    format!("room for {tokens} tokens of kv cache: {most}")
}

const ALL: &str = "all layers";

/// Layers in few words: all, every n-th, or ranges. `all`: how many there are.
fn layer_names(layers: &[usize], all: usize) -> String {
    if layers.len() == all {
        return ALL.to_owned();
    }
    if let [first, second, .., last] = layers {
        let step = second - first;
        let even = layers.windows(2).all(|pair| pair[1] - pair[0] == step);
        if even && step > 1 && layers.len() > 2 {
            return format!("every {} layer from {first} to {last}", ordinal(step));
        }
    }
    let ranges: Vec<String> = layers.chunk_by(|a, b| a + 1 == *b).map(range).collect();
    format!("{} {}", if layers.len() == 1 { "layer" } else { "layers" }, ranges.join(", "))
}

fn range(layers: &[usize]) -> String {
    match layers {
        [first, .., last] => format!("{first}-{last}"),
        layers => layers.iter().map(usize::to_string).collect(),
    }
}

fn ordinal(n: usize) -> String {
    match n {
        2 => "second".to_owned(),
        3 => "third".to_owned(),
        n => format!("{n}th"),
    }
}

/// A text on one line.
fn quoted(text: &str) -> String {
    text.escape_debug().to_string()
}

/// Bytes in decimal units, as everywhere in the log.
fn bytes(count: u64) -> String {
    match scaled(count, [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")]) {
        Some(text) => text,
        None => format!("{count} B"),
    }
}

/// A number, in words too where it is long.
fn count(count: u64) -> String {
    match scaled(count, [(1e12, "trillion"), (1e9, "billion"), (1e6, "million"), (1e6, "million")]) {
        Some(words) => format!("{words} ({count})"),
        None => count.to_string(),
    }
}

fn scaled(count: u64, units: [(f64, &str); 4]) -> Option<String> {
    let (unit, name) = units.into_iter().find(|(unit, _)| count as f64 >= *unit)?;
    Some(format!("{:.1} {name}", count as f64 / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_named_in_few_words() {
        let check = |layers: &[usize], all, expected| assert_eq!(layer_names(layers, all), expected);
        check(&[0, 1, 2], 3, "all layers");
        check(&[0, 2, 4], 6, "every second layer from 0 to 4");
        check(&[5, 11, 17], 18, "every 6th layer from 5 to 17");
        check(&[0, 1, 2, 4, 5], 6, "layers 0-2, 4-5");
        check(&[0, 2], 4, "layers 0, 2");
        check(&[3], 4, "layer 3");
    }

    #[test]
    fn sizes_have_their_unit() {
        let check = |size, expected| assert_eq!(bytes(size), expected);
        check(0, "0 B");
        check(999, "999 B");
        check(1000, "1.0 kB");
        check(2_860_000, "2.9 MB");
        check(7_500_000_000, "7.5 GB");
        assert_eq!(count(262_144), "262144");
        assert_eq!(count(46_702_792_704), "46.7 billion (46702792704)");
    }
}
