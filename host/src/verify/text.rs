//! Tokenizer cases and chat-template cases.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::cli::VerifyArgs;
use crate::error::{Error, ModelError};
use crate::models::{ModelFiles, TextError};
use crate::text::{ChatTemplate, Clock, Specials, TemplateSource, Tokenizer};

use super::read_json;
use super::report::{Report, Row};

/// Texts and their ids.
#[derive(Debug, Deserialize)]
struct TokenizerCases {
    #[serde(default)]
    plain: Vec<PlainCase>,
    #[serde(default)]
    with_specials: Vec<SpecialCase>,
}

/// Special tokens are not recognised, nothing is added.
#[derive(Debug, Deserialize)]
struct PlainCase {
    text: String,
    ids: Vec<u32>,
}

/// Special tokens are recognised, without and with the automatic beginning.
#[derive(Debug, Deserialize)]
struct SpecialCase {
    text: String,
    parse_special_ids: Vec<u32>,
    add_special_parse_special_ids: Vec<u32>,
}

/// Conversations and how a template writes them.
#[derive(Debug, Deserialize)]
struct TemplateCases {
    bos_token: Option<String>,
    eos_token: Option<String>,
    #[serde(default)]
    extra_variables: Map<String, Value>,
    #[serde(default)]
    uses_strftime_now: bool,
    /// The reference's clock, in seconds since 1970 UTC.
    clock: Option<u64>,
    cases: Vec<TemplateCase>,
}

#[derive(Debug, Deserialize)]
struct TemplateCase {
    name: String,
    add_generation_prompt: bool,
    messages: Value,
    tools: Option<Value>,
    #[serde(default)]
    extra_variables: Map<String, Value>,
    /// The exact rendering.
    text: Option<String>,
    /// Rendering has to fail; the wording is free.
    error: Option<Value>,
}

/// Runs a cases file on the tokenizer or template that the arguments name.
pub fn verify(cases: &Path, args: &VerifyArgs) -> Result<Report, Error> {
    match (&args.tokenizer, &args.template) {
        (Some(tokenizer), _) => tokenizer_cases(cases, tokenizer, args.gguf_pre.as_deref()),
        (None, Some(template)) => template_cases(cases, template),
        (None, None) => Err(Error::Usage {
            what: format!("--cases {}", cases.display()),
            cause: "nothing to run them on was given".into(),
            fix: "add --tokenizer PATH or --template PATH".into(),
        }),
    }
}

fn in_model(path: &Path, source: impl Into<TextError>) -> Error {
    Error::model(path, ModelError::Text(source.into()))
}

fn tokenizer_cases(cases: &Path, path: &Path, pre: Option<&str>) -> Result<Report, Error> {
    let file: TokenizerCases = read_json(cases)?;
    let tokenizer = Tokenizer::open_as(path, pre).map_err(|e| in_model(path, e))?;
    let check = |kind: &str, text: &str, specials: Specials, expected: &[u32]| {
        let got = tokenizer.encode(text, specials).map_err(|e| e.to_string());
        let passed = got.as_deref() == Ok(expected);
        let note = if passed { String::new() } else { format!("got {got:?}, expected {expected:?}") };
        let text: String = text.chars().take(14).collect();
        Row::equality(format!("{kind} {text:?}"), passed, note)
    };
    let parse = Specials { parse: true, add: false };
    let both = Specials { parse: true, add: true };
    let plain = file.plain.iter().map(|c| check("plain", &c.text, Specials::NONE, &c.ids));
    let special = file.with_specials.iter().flat_map(|c| {
        let with = check("begun", &c.text, both, &c.add_special_parse_special_ids);
        [check("special", &c.text, parse, &c.parse_special_ids), with]
    });
    let cases = plain.chain(special).collect();
    Ok(Report { subject: format!("{} ({})", path.display(), tokenizer.kind()), cases })
}

fn template_cases(cases: &Path, path: &Path) -> Result<Report, Error> {
    let file: TemplateCases = read_json(cases)?;
    let template = template(path, &file)?;
    let mut rows = Vec::new();
    for case in &file.cases {
        let name = format!("{}{}", case.name, if case.add_generation_prompt { " +prompt" } else { "" });
        if file.uses_strftime_now && file.clock.is_none() {
            rows.push(Row::skipped(&name, "the reference's clock was fixed and is not recorded"));
            continue;
        }
        let mut extra = file.extra_variables.clone();
        extra.extend(case.extra_variables.clone());
        let got = template.render(&case.messages, case.tools.as_ref(), case.add_generation_prompt, &extra);
        let (passed, note) = match (&got, &case.text, &case.error) {
            (Ok(text), Some(expected), _) if text == expected => (true, String::new()),
            (Err(_), None, Some(_)) => (true, String::new()),
            (Ok(text), expected, _) => (false, format!("got {text:?}, expected {expected:?}")),
            (Err(error), ..) => (false, format!("failed: {error}")),
        };
        rows.push(Row::equality(name, passed, note));
    }
    Ok(Report { subject: path.display().to_string(), cases: rows })
}

/// A `.jinja` file with the cases' tokens, or a model's own template; both by the cases' clock.
fn template(path: &Path, file: &TemplateCases) -> Result<Arc<ChatTemplate>, Error> {
    let recorded = file.clock.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    let clock = recorded.map_or(Clock::System, Clock::Fixed);
    if path.extension().is_none_or(|extension| extension != "jinja") {
        let files = ModelFiles::open(path).map_err(|e| Error::model(path, e))?;
        let template = files.template.map_err(|e| in_model(path, e))?;
        return Ok(Arc::new(template.at(clock)));
    }
    let mut source = TemplateSource::from_file(path).map_err(|e| in_model(path, e))?;
    let tokens = [("bos_token", &file.bos_token), ("eos_token", &file.eos_token)];
    for (name, token) in tokens {
        source.variables.extend(token.clone().map(|token| (name.to_owned(), token.into())));
    }
    ChatTemplate::with_clock(source, clock).map(Arc::new).map_err(|e| in_model(path, e))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::report::Verdict;
    use super::*;

    /// The verdict on a template that writes the date, by the clock of the cases file.
    fn run(clock: Option<u64>) -> Verdict {
        let dir = tempfile::tempdir().expect("a directory");
        let (template, cases) = (dir.path().join("date.jinja"), dir.path().join("cases.json"));
        std::fs::write(&template, "{{ strftime_now('%d %b %Y') }}").expect("a file");
        let case = json!({"name": "date", "add_generation_prompt": false, "text": "26 Jul 2024",
                          "messages": [{"role": "user", "content": "x"}]});
        let file = json!({"uses_strftime_now": true, "clock": clock, "cases": [case]});
        std::fs::write(&cases, file.to_string()).expect("a file");
        let report = template_cases(&cases, &template).expect("it runs");
        report.cases[0].verdict
    }

    #[test]
    fn the_recorded_clock_is_used() {
        assert_eq!(run(Some(1_721_952_000)), Verdict::Pass);
        assert_eq!(run(Some(0)), Verdict::Fail);
        assert_eq!(run(None), Verdict::Skipped);
    }
}
