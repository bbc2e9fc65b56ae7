//! Small templates always, the published ones with reference renderings where there are fixtures.

use std::time::Duration;

use serde_json::json;

use super::super::testing::{self, byte_level, byte_level_pairs, fixtures, with};
use super::*;

const JULY: Duration = Duration::from_secs(1_721_952_000);

fn july() -> Clock {
    Clock::Fixed(SystemTime::UNIX_EPOCH + JULY)
}

/// A conversation, where it does not matter which.
fn any() -> Json {
    json!([{"role": "user", "content": "hi"}])
}

fn compile(text: &str) -> Result<ChatTemplate, TemplateError> {
    ChatTemplate::with_clock(TemplateSource::from_text(text), july())
}

fn render(text: &str, messages: Json) -> Result<String, TemplateError> {
    compile(text)?.render(&messages, None, true, &Map::new())
}

fn check(text: &str, messages: Json, expected: &str) {
    assert_eq!(render(text, messages).expect("renders"), expected, "{text}");
}

#[test]
fn templates_run_as_in_transformers() {
    let two = json!([{"role": "user", "content": " a "}, {"role": "assistant", "content": "b"}]);
    let text = "{% for m in messages %}\n  {%- if m.role == 'user' %}\nU:{{ m['content'].strip() }}\n\
                {% else %}\nA:{{ m.content | trim }}\n    {% endif %}\n{% endfor %}\n{% if \
                add_generation_prompt %}A:{% endif %}\n";
    check(text, two.clone(), "U:a\nA:b\nA:");
    check("{{ messages | length }}{{ tools }}{{ missing }}", two.clone(), "2None");
    check("{% for m in messages %}{{ m.role }}{% break %}{% endfor %}", two.clone(), "user");
    check("{{ messages[0] | tojson }}", two.clone(), r#"{"role": "user", "content": " a "}"#);
    check("{% generation %}x{%- endgeneration -%} y{{ 'generation' }}", two, "xygeneration");
    check("{{ strftime_now('%d %b %Y') }}", any(), "26 Jul 2024");
    check("<&\"é", any(), "<&\"é");
    check("{{ messages[0] }}", json!(["<é>"]), "<é>");
}

#[test]
fn refusals_and_mistakes_are_told_apart() {
    let raised = render("{{ raise_exception('roles must alternate') }}", any());
    let message = raised.expect_err("raises").to_string();
    assert!(message.ends_with("conversation: roles must alternate"), "{message}");
    let failed = render("\n\n{{ messages[0].content.x.y }}", json!([{}]));
    assert!(matches!(failed, Err(TemplateError::Render { line: 3, .. })), "{failed:?}");
    let compiled = compile("\n{% if %}");
    assert!(matches!(compiled, Err(TemplateError::Compile { line: 2, .. })), "{compiled:?}");
}

#[test]
fn hostile_templates_come_to_an_end() {
    let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}\
                 {% endfor %}{% endfor %}{% endfor %}";
    let stopped = render(loops, any());
    assert!(matches!(stopped, Err(TemplateError::OutOfFuel { .. })), "{stopped:?}");
    let recursion = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(render(recursion, any()).is_err());
    let writes = "{% for a in range(9999) %}{{ 'x' * 100000 }}{% endfor %}";
    let stopped = render(writes, any());
    assert!(matches!(stopped, Err(TemplateError::TooLong { .. })), "{stopped:?}");
}

#[test]
fn named_templates_are_chosen_by_tools() {
    let config = json!({
        "bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null,
        "chat_template": [
            {"name": "default", "template": "{{ bos_token }}plain{{ eos_token }}"},
            {"name": "tool_use", "template": "tools {{ tools | length }}"},
        ],
    });
    let template = ChatTemplate::new(TemplateSource::from_config(&config)).expect("compiles");
    let render = |tools: Option<&Json>, extra: Json| {
        let extra = extra.as_object().expect("an object");
        template.render(&any(), tools, false, extra).expect("renders")
    };
    assert_eq!(render(None, json!({})), "<s>plain</s>");
    assert_eq!(render(Some(&json!([1, 2])), json!({})), "tools 2");
    assert_eq!(render(None, json!({"bos_token": "!"})), "!plain</s>");
}

#[test]
fn a_directory_may_spread_its_templates() {
    let config = json!({"chat_template": [
        {"name": "default", "template": "old"}, {"name": "rag", "template": "rag of the list"},
    ]});
    let dir = testing::files(&[
        ("tokenizer_config.json", config.to_string().into_bytes()),
        ("chat_template.jinja", b"new".to_vec()),
        ("additional_chat_templates/tool_use.jinja", b"tools".to_vec()),
        ("additional_chat_templates/notes.txt", b"no template".to_vec()),
    ]);
    let mut source = TemplateSource::from_dir(dir.path()).expect("readable");
    let names: Vec<&str> = source.templates.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["default", "rag", "tool_use"]);
    let render = |source: TemplateSource, tools: bool| {
        let template = ChatTemplate::new(source).expect("compiles");
        let tools = tools.then(|| json!([1]));
        template.render(&any(), tools.as_ref(), false, &Map::new()).expect("renders")
    };
    assert_eq!((render(source.clone(), false), render(source.clone(), true)), ("new".into(), "tools".into()));
    assert!(!source.choose("nothing"));
    assert!(source.choose("rag"));
    assert_eq!(
        (render(source.clone(), false), render(source, true)),
        ("rag of the list".into(), "rag of the list".into())
    );
}

#[test]
fn the_file_of_a_processor_is_read() {
    let file = json!({"chat_template": "from the processor"}).to_string().into_bytes();
    let dir = testing::files(&[("chat_template.json", file)]);
    let source = TemplateSource::from_dir(dir.path()).expect("readable");
    assert_eq!(source.templates, [("default".to_owned(), "from the processor".to_owned())]);
    let dir = testing::files(&[("chat_template.json", b"{".to_vec())]);
    assert!(matches!(TemplateSource::from_dir(dir.path()), Err(TemplateError::Json { .. })));
}

#[test]
fn gguf_metadata_has_named_templates() {
    let text = testing::Meta::Str;
    let mut pairs = byte_level_pairs();
    pairs.extend([
        ("tokenizer.chat_template", text("plain")),
        ("tokenizer.chat_templates", testing::Meta::Strs(vec!["rag", "absent"])),
        ("tokenizer.chat_template.rag", text("rag")),
        ("tokenizer.chat_template.tool_use", text("tools")),
    ]);
    let source = TemplateSource::from_gguf(&testing::metadata(&pairs), &byte_level());
    let names: Vec<&str> = source.templates.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["default", "rag", "tool_use"]);
}

#[test]
fn absent_templates_have_errors_of_their_own() {
    let missing = ChatTemplate::new(TemplateSource::default()).expect_err("nothing there");
    assert!(missing.to_string().contains("/v1/completions"));
    let config = json!({"chat_template": [{"name": "rag", "template": ""}]});
    let named = ChatTemplate::new(TemplateSource::from_config(&config)).expect_err("no default");
    assert!(named.to_string().contains("rag"));
    assert!(matches!(render("", json!([])), Err(TemplateError::Empty)));
}

#[test]
fn gguf_metadata_has_template_and_tokens() {
    let text = testing::Meta::Str("{{ bos_token }}|{{ eos_token }}");
    let pairs = with(byte_level_pairs(), "tokenizer.chat_template", Some(text));
    let source = TemplateSource::from_gguf(&testing::metadata(&pairs), &byte_level());
    let template = ChatTemplate::new(source).expect("compiles");
    let text = template.render(&any(), None, false, &Map::new()).expect("renders");
    assert_eq!(text, "<|endoftext|>|<|endoftext|>");
}

#[test]
fn both_layouts_of_a_directory_give_the_same_template() {
    let Some(dir) = fixtures() else { return };
    let render = |path: &str| {
        let source = TemplateSource::from_dir(&dir.join(path)).expect("readable");
        let template = ChatTemplate::new(source).expect("compiles");
        let messages = json!([{"role": "user", "content": " Hi "}]);
        template.render(&messages, None, true, &Map::new()).expect("renders")
    };
    let text = render("models/tales");
    assert!(text.starts_with("<|begin_of_text|><|start_header_id|>user"), "{text}");
    assert_eq!(text, render("models/tales/v5-layout"));
}

/// Runs the recorded conversations of one published template; returns how many failed as told.
fn check_published(file: &Json, text: String) -> usize {
    let variables = ["bos_token", "eos_token"].map(|key| (key.to_owned(), file[key].clone()));
    let mut source = TemplateSource::from_text(text);
    source.variables = variables.into_iter().collect();
    let template = ChatTemplate::with_clock(source, july()).expect("compiles");
    let extra = file["extra_variables"].as_object().expect("variables");
    let mut refused = 0;
    for case in file["cases"].as_array().expect("cases") {
        let prompt = case["add_generation_prompt"] == true;
        let found = template.render(&case["messages"], case.get("tools"), prompt, extra);
        match case["text"].as_str() {
            Some(expected) => assert_eq!(found.expect("renders"), expected, "{}", case["name"]),
            None => {
                assert!(found.is_err(), "{} {}: {found:?}", file["template"], case["name"]);
                refused += 1;
            }
        }
    }
    refused
}

#[test]
fn published_templates_render_as_in_transformers() {
    let Some(dir) = fixtures() else { return };
    let mut refused = 0;
    for name in [
        "Qwen-Qwen2.5-7B-Instruct",
        "Qwen-Qwen3-0.6B",
        "google-gemma-2-2b-it",
        "meta-llama-Llama-3.1-8B-Instruct",
        "microsoft-Phi-3.5-mini-instruct",
        "mistralai-Mistral-Nemo-Instruct-2407",
    ] {
        let cases = testing::json(&dir, &format!("chat-templates/{name}.cases.json"));
        let path = dir.join(format!("chat-templates/{name}.jinja"));
        refused += check_published(&cases, std::fs::read_to_string(path).expect("a template"));
    }
    assert!(refused > 0, "some conversations have to be refused");
}
