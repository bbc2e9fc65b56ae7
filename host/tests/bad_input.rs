//! Requests that make no sense: each gets the status, the shape and the words that say what is wrong with it.

mod support;

use serde_json::{Value, json};
use support::{Server, run_checks};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const PROMPT: &str = "Once upon a time";

#[test]
fn requests_that_make_no_sense() {
    let server = Server::demo();
    run_checks(
        &server,
        checks![
            the_body_may_name_the_model,
            unsupported_fields_are_refused,
            bad_bodies,
            bad_prompts,
            bad_routes,
            execute_errors,
            afterwards_requests_are_served,
        ],
    );
}

fn name(server: &Server) -> String {
    let models = server.get("/v1/models").ok();
    models["data"][0]["id"].as_str().expect("a model has a name").to_owned()
}

fn tale() -> Value {
    json!({"messages": [{"role": "user", "content": "Tell me a tale."}], "temperature": 0})
}

fn the_body_may_name_the_model(server: &Server) {
    let mut body = tale();
    body["model"] = json!(name(server));
    assert_eq!(server.post(CHAT, &body).ok()["model"], body["model"]);
    for path in [CHAT, COMPLETIONS] {
        body["model"] = json!("gpt-4");
        body["prompt"] = json!(PROMPT);
        let error = server.post(path, &body).error(404);
        assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
        let message = error["message"].as_str().expect("words");
        assert!(message.contains("gpt-4") && message.contains(&name(server)), "{message}");
    }
}

fn unsupported_fields_are_refused(server: &Server) {
    let fields = [
        ("n", json!(2)),
        ("logprobs", json!(true)),
        ("tools", json!([{"type": "function"}])),
        ("logit_bias", json!({"1": 2})),
    ];
    for (field, value) in fields {
        let mut body = tale();
        body[field] = value;
        let error = server.post(CHAT, &body).error(400);
        assert_eq!((&error["code"], &error["param"]), (&json!("unsupported_parameter"), &json!(field)));
    }
}

/// A body, and the `param` and words of its refusal.
fn refused(server: &Server, path: &str, body: &[u8], param: Option<&str>, words: &str) {
    let error = server.post_bytes(path, body).error(400);
    let shown = String::from_utf8_lossy(body);
    assert_eq!(error["param"].as_str(), param, "{shown}: {error}");
    assert_eq!(error["type"], "invalid_request_error", "{shown}: {error}");
    assert!(error["message"].as_str().is_some_and(|message| message.contains(words)), "{shown}: {error}");
}

fn bad_bodies(server: &Server) {
    for path in [CHAT, COMPLETIONS] {
        let check = |body: &[u8], param, words| refused(server, path, body, param, words);
        check(b"", None, "JSON");
        check(b"{\"messages\": [", None, "JSON");
        check(b"[]", None, "object");
        check(b"{\"prompt\": \"\xff\xfe\"}", None, "UTF-8");
        check(br#"{"prompt": "\ud800"}"#, None, "JSON");
        check(br#"{"max_tokens": -5}"#, Some(if path == CHAT { "messages" } else { "prompt" }), "missing");
    }
    let chat = |fields: &str, param, words| {
        let body = format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"Hi\"}}], {fields}}}");
        refused(server, CHAT, body.as_bytes(), Some(param), words);
    };
    chat(r#""max_tokens": -5"#, "max_tokens", "-5");
    chat(r#""max_tokens": 0"#, "max_tokens", "at least 1");
    chat(r#""max_tokens": "ten""#, "max_tokens", "string");
    chat(r#""max_tokens": 1.5"#, "max_tokens", "1.5");
    chat(r#""temperature": "hot""#, "temperature", "string");
    chat(r#""temperature": -1"#, "temperature", "-1");
    chat(r#""top_p": 2"#, "top_p", "2");
    chat(r#""stream": 1"#, "stream", "boolean");
    chat(r#""stop": """#, "stop", "empty");
    chat(r#""stop": {}"#, "stop", "array of strings");
    chat(r#""stream_options": true"#, "stream_options", "stream_options");
    let messages = |messages: Value, words| {
        refused(server, CHAT, json!({"messages": messages}).to_string().as_bytes(), Some("messages"), words);
    };
    messages(json!([]), "empty");
    messages(json!("Hi"), "array");
    messages(json!(["Hi"]), "object");
    messages(json!([{"content": "Hi"}]), "role");
    messages(json!([{"role": "user"}]), "content");
    messages(json!([{"role": "user", "content": 5}]), "content");
    let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}});
    messages(json!([{"role": "user", "content": [image]}]), "text only");
    // One byte over: a server that answers before all was sent may reset the connection.
    let error = server.post_bytes(CHAT, &vec![b' '; (32 << 20) + 1]).error(413);
    assert!(error["message"].as_str().is_some_and(|message| message.contains("bytes")), "{error}");
}

fn bad_prompts(server: &Server) {
    let check = |prompt: Value, param: Option<&str>, words: &str| {
        refused(server, COMPLETIONS, json!({"prompt": prompt}).to_string().as_bytes(), param, words);
    };
    check(json!(""), Some("prompt"), "empty");
    check(json!([]), None, "empty");
    check(json!([1, 4096]), None, "4096");
    check(json!([1, -1]), Some("prompt"), "token ids");
    check(json!([1, u64::MAX]), Some("prompt"), "token ids");
    check(json!([1.5]), Some("prompt"), "token ids");
    check(json!({"text": "Hi"}), Some("prompt"), "expected a string");
    let long = json!({"prompt": vec![5; 1024]});
    let error = server.post(COMPLETIONS, &long).error(400);
    assert_eq!(error["code"], "context_length_exceeded");
    assert!(
        error["message"].as_str().is_some_and(|m| m.contains("1024 tokens") && m.contains("shorten")),
        "{error}"
    );
    // One token less leaves room for one.
    let body = json!({"prompt": vec![5; 1023], "max_tokens": 9});
    assert_eq!(server.post(COMPLETIONS, &body).ok()["usage"]["completion_tokens"], 1);
}

fn bad_routes(server: &Server) {
    let error = server.get("/v1/nothing").error(404);
    assert!(error["message"].as_str().is_some_and(|message| message.contains("/v1/nothing")), "{error}");
    assert_eq!(server.post("/", &json!({})).error(404)["code"], "unknown_url");
    let error = server.get(CHAT).error(405);
    assert!(error["message"].as_str().is_some_and(|message| message.contains("GET")), "{error}");
    server.post("/health", &json!({})).error(405);
}

fn execute_errors(server: &Server) {
    let check = |body: &Value, status: u16, code: &str| {
        let answer = server.post("/execute", body);
        assert_eq!(answer.status, status, "{answer:?}");
        let error = answer.json();
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!(code)), "{error}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
    };
    check(&json!({"job_id": "j"}), 400, "INVALID_REQUEST");
    check(&json!({"job_id": "j", "prompt": PROMPT, "max_tokens": -1}), 400, "INVALID_REQUEST");
    check(&json!({"job_id": "j", "prompt": [99999]}), 400, "INVALID_REQUEST");
    check(&json!({"job_id": "j", "prompt": vec![5; 2000]}), 400, "CONTEXT_EXCEEDED");
    check(&json!({"job_id": "j", "prompt": PROMPT, "model": "gpt-4"}), 404, "MODEL_NOT_FOUND");
}

fn afterwards_requests_are_served(server: &Server) {
    assert!(!server.greedy(PROMPT, 5).is_empty());
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}
