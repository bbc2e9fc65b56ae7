//! The HTTP surface in front of the CPU backend: shapes, streams, sampling, concurrency, metrics. Bad input
//! is in `bad_input.rs`, what happens when a backend fails in `plugins.rs`.

mod support;

use serde_json::{Value, json};
use support::{
    DEADLINE, Metrics, Server, abandoned_post, events, eventually, fixture, job_events, run_checks, text,
};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const PROMPT: &str = "Once upon a time";

#[test]
fn the_demo_model_on_the_cpu() {
    let server = Server::demo();
    run_checks(
        &server,
        checks![
            health_names_backend_and_device,
            models_are_listed_and_described,
            chat_answers_whole,
            chat_streams,
            completions_answer_whole_and_stream,
            text_and_token_ids_are_the_same_prompt,
            content_parts_are_joined,
            length_and_stop,
            stop_strings,
            greedy_is_deterministic,
            seeds_reproduce,
            execute_speaks_the_worker_protocol,
            eight_streams_equal_their_single_runs,
            a_client_that_hangs_up_mid_stream_stops_its_request,
            a_client_that_hangs_up_before_the_answer_stops_its_request,
            metrics_count,
            afterwards_all_is_well,
        ],
    );
}

#[test]
fn a_model_whose_whole_text_is_certain() {
    let model = fixture("stories260k");
    let server = Server::start(&["--backend", "cpu", "--model", text(&model), "--model-name", "stories"]);
    run_checks(
        &server,
        checks![
            the_recorded_text,
            characters_are_never_split,
            a_model_without_a_template,
            the_context_is_a_limit
        ],
    );
}

fn health_names_backend_and_device(server: &Server) {
    let health = server.get("/health").ok();
    assert_eq!((&health["status"], &health["backend"]["id"]), (&json!("ok"), &json!("cpu")), "{health}");
    assert_eq!(health["backend"]["device"]["kind"], "cpu", "{health}");
    assert!(health["backend"]["device"]["name"].as_str().is_some_and(|name| !name.is_empty()), "{health}");
    assert!(health["backend"]["engine"].as_str().is_some_and(|engine| engine.contains("candle")), "{health}");
    assert_eq!(health["models"][0]["state"], "ready", "{health}");
    assert_eq!(server.get("/ready").ok(), json!({"ready": true}));
}

fn name(server: &Server) -> String {
    let models = server.get("/v1/models").ok();
    models["data"][0]["id"].as_str().expect("a model has a name").to_owned()
}

fn models_are_listed_and_described(server: &Server) {
    let list = server.get("/v1/models").ok();
    assert_eq!(list["object"], "list");
    let entry = &list["data"][0];
    assert_eq!(entry["object"], "model");
    assert!(entry["created"].as_u64().is_some_and(|seconds| seconds > 1_700_000_000), "{entry}");
    assert!(name(server).starts_with("tales"), "{list}");
    assert_eq!(&server.get(&format!("/v1/models/{}", name(server))).ok(), entry);
    assert_eq!(server.get("/v1/models/other").error(404)["code"], "model_not_found");
}

fn tale() -> Value {
    json!({"messages": [{"role": "user", "content": "Tell me a tale."}], "temperature": 0})
}

fn chat_answers_whole(server: &Server) {
    let answer = server.post(CHAT, &tale()).ok();
    assert_eq!(answer["object"], "chat.completion");
    assert!(answer["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-")), "{answer}");
    let choice = &answer["choices"][0];
    assert_eq!(answer["choices"].as_array().map(Vec::len), Some(1));
    assert_eq!((&choice["index"], &choice["message"]["role"]), (&json!(0), &json!("assistant")));
    assert!(choice["message"]["content"].as_str().is_some_and(|text| text.len() > 20), "{answer}");
    assert_eq!(choice["finish_reason"], "stop");
    let usage = |field: &str| answer["usage"][field].as_u64().expect("a count");
    assert_eq!(usage("prompt_tokens") + usage("completion_tokens"), usage("total_tokens"));
    // The reference's ids of this very conversation.
    assert_eq!(usage("prompt_tokens"), 21);
}

fn chat_streams(server: &Server) {
    let whole = server.post(CHAT, &tale()).ok();
    let stream = server.streamed(CHAT, &tale());
    assert_eq!(stream.object, "chat.completion.chunk");
    assert_eq!(Some(stream.text().as_str()), whole["choices"][0]["message"]["content"].as_str());
    assert_eq!((stream.finish.as_str(), &stream.usage), ("stop", &None));
    assert!(stream.pieces.len() > 10, "the text comes in pieces: {:?}", stream.pieces);

    let mut body = tale();
    body["stream_options"] = json!({"include_usage": true});
    assert_eq!(server.streamed(CHAT, &body).usage.as_ref(), Some(&whole["usage"]));

    body["stream"] = json!(true);
    let answer = server.post(CHAT, &body);
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    assert_eq!(events(&answer.body).last().map(String::as_str), Some("[DONE]"));
}

fn completions_answer_whole_and_stream(server: &Server) {
    let body = json!({"prompt": PROMPT, "temperature": 0, "max_tokens": 100});
    let whole = server.post(COMPLETIONS, &body).ok();
    assert_eq!(whole["object"], "text_completion");
    assert!(whole["id"].as_str().is_some_and(|id| id.starts_with("cmpl-")), "{whole}");
    let stream = server.streamed(COMPLETIONS, &body);
    assert_eq!(stream.object, "text_completion");
    assert_eq!(Some(stream.text().as_str()), whole["choices"][0]["text"].as_str());
    assert_eq!(stream.finish, whole["choices"][0]["finish_reason"]);
    // Left open, a completion has 16 tokens, as the API reference says.
    let short = server.post(COMPLETIONS, &json!({"prompt": PROMPT, "temperature": 0})).ok();
    assert_eq!(short["usage"]["completion_tokens"], 16);
}

fn text_and_token_ids_are_the_same_prompt(server: &Server) {
    // The reference's ids of the text, the automatic beginning included.
    assert_eq!(server.greedy(PROMPT, 20), server.greedy(json!([4088, 2052, 687, 258, 504]), 20));
    // A prompt may say what it likes in any script.
    let usage = |prompt: &str| {
        server.post_bytes(COMPLETIONS, prompt.as_bytes()).ok()["usage"]["prompt_tokens"].clone()
    };
    let written = usage(r#"{"prompt": "naïve 日本語 🚀", "max_tokens": 1}"#);
    let escaped = usage(r#"{"prompt": "na\u00efve \u65e5\u672c\u8a9e \ud83d\ude80", "max_tokens": 1}"#);
    assert_eq!(written, escaped);
}

fn content_parts_are_joined(server: &Server) {
    let mut parts = tale();
    parts["messages"][0]["content"] =
        json!([{"type": "text", "text": "Tell me "}, {"type": "text", "text": "a tale."}]);
    let content = |body: &Value| server.post(CHAT, body).ok()["choices"][0]["message"]["content"].clone();
    assert_eq!(content(&parts), content(&tale()));
}

fn length_and_stop(server: &Server) {
    let ends = |max: u32| {
        let answer =
            server.post(COMPLETIONS, &json!({"prompt": PROMPT, "temperature": 0, "max_tokens": max})).ok();
        let reason = answer["choices"][0]["finish_reason"].as_str().expect("a reason").to_owned();
        (reason, answer["usage"]["completion_tokens"].as_u64().expect("a count"))
    };
    assert_eq!(ends(1), ("length".to_owned(), 1));
    assert_eq!(ends(7), ("length".to_owned(), 7));
    let (reason, tokens) = ends(900);
    assert_eq!(reason, "stop");
    assert!((8..900).contains(&tokens), "{tokens}");
    // `max_completion_tokens` is the newer name, and wins.
    let mut body = tale();
    body["max_tokens"] = json!(50);
    body["max_completion_tokens"] = json!(3);
    let answer = server.post(CHAT, &body).ok();
    assert_eq!(
        (&answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"].as_str()),
        (&json!(3), Some("length"))
    );
}

/// Stop strings are found wherever they fall on token boundaries, and never shown, not even in part.
fn stop_strings(server: &Server) {
    let full = server.greedy(PROMPT, 40);
    for (from, to) in [(1, 6), (4, 9), (10, 11), (12, 25)] {
        let stop = &full[from..to];
        let expected = &full[..full.find(stop).expect("it was cut from there")];
        let body = json!({"prompt": PROMPT, "temperature": 0, "max_tokens": 40, "stop": ["\u{0}", stop]});
        let stream = server.streamed(COMPLETIONS, &body);
        assert_eq!((stream.text().as_str(), stream.finish.as_str()), (expected, "stop"), "stop at {stop:?}");
        assert_eq!(server.completion(&body), expected);
    }
    let body = json!({"prompt": PROMPT, "temperature": 0, "max_tokens": 40, "stop": "never said"});
    assert_eq!(server.completion(&body), full);
}

fn greedy_is_deterministic(server: &Server) {
    let one = server.greedy(PROMPT, 60);
    assert!(one.len() > 40, "{one}");
    assert_eq!(one, server.greedy(PROMPT, 60));
    let top_1 = json!({"prompt": PROMPT, "max_tokens": 60, "top_k": 1, "temperature": 5});
    assert_eq!(one, server.completion(&top_1), "one candidate leaves no choice");
}

fn seeds_reproduce(server: &Server) {
    let with = |seed: i64| {
        server.completion(&json!({"prompt": PROMPT, "max_tokens": 40, "temperature": 1.2, "seed": seed}))
    };
    assert_eq!(with(7), with(7));
    assert_eq!(with(-1), with(-1));
    assert_ne!(with(7), with(8));
}

fn execute_speaks_the_worker_protocol(server: &Server) {
    let body = json!({"job_id": "job-7", "prompt": PROMPT, "max_tokens": 12, "temperature": 0});
    let answer = server.post("/execute", &body);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")));
    let events = job_events(&answer.body);
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().expect("a type")).collect();
    let (started, end) = (&events[0], &events[events.len() - 1]);
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), ("started", "end"));
    let tokens = &events[1..events.len() - 1];
    assert!(tokens.iter().all(|event| event["type"] == "token"), "{kinds:?}");
    assert_eq!((&started["job_id"], &end["job_id"]), (&json!("job-7"), &json!("job-7")));
    let text: String = tokens.iter().map(|event| event["text"].as_str().expect("a text")).collect();
    assert_eq!(text, server.greedy(PROMPT, 12));
    let indices: Vec<u64> = tokens.iter().map(|event| event["index"].as_u64().expect("a number")).collect();
    assert!(indices.is_sorted_by(|a, b| a < b) && indices.last() < Some(&12), "{indices:?}");
    assert_eq!((&end["tokens_out"], &end["stop_reason"]), (&json!(12), &json!("length")));
    assert!(end["timings"]["decode_ms"].as_f64().is_some_and(|ms| ms >= 0.0), "{end}");
}

/// Sequences share steps, and nobody notices.
fn eight_streams_equal_their_single_runs(server: &Server) {
    let prompts = [
        "Once upon a time",
        "The King had a great many sons, and the youngest of them went out into the wide world",
        "A",
        "There was once a wolf who",
        "In the middle of the forest there stood a little house, and in the little house there lived",
        "The Princess said",
        "He took his sword and his horse and rode away, and when he had ridden for a long time he came to",
        "Then",
    ];
    let lengths = [60, 24, 80, 40, 12, 70, 33, 5];
    let body = |at: usize| json!({"prompt": prompts[at], "max_tokens": lengths[at], "temperature": 0});
    let alone: Vec<String> = (0..8).map(|at| server.streamed(COMPLETIONS, &body(at)).text()).collect();
    for _ in 0..3 {
        let together: Vec<String> = std::thread::scope(|scope| {
            let stream = |at| scope.spawn(move || server.streamed(COMPLETIONS, &body(at)).text());
            let running: Vec<_> = (0..8).map(stream).collect();
            running.into_iter().map(|thread| thread.join().expect("a sound stream")).collect()
        });
        assert_eq!(together, alone);
    }
    let metrics = server.metrics();
    let single = metrics.value("sconce_batch_size_bucket{le=\"1.0\"}");
    assert!(metrics.value("sconce_batch_size_count") > single, "no step held two sequences");
}

/// Nearly a thousand tokens, since at this temperature an end token is as unlikely as any other.
fn long_request() -> Value {
    json!({"prompt": "Long", "temperature": 100, "seed": 5, "max_tokens": 1000, "stream": true})
}

const CANCELLED: &str = "sconce_cancelled_requests_total";
const GENERATED: &str = "sconce_generated_tokens_total";

fn generated_less_than_all(server: &Server, before: &Metrics) {
    eventually("the request is cancelled", || server.metrics().value(CANCELLED) > before.value(CANCELLED));
    server.idle();
    let after = server.metrics();
    assert_eq!(after.value(CANCELLED), before.value(CANCELLED) + 1.0);
    let generated = after.value(GENERATED) - before.value(GENERATED);
    assert!((1.0..900.0).contains(&generated), "{generated} tokens were generated");
}

fn a_client_that_hangs_up_mid_stream_stops_its_request(server: &Server) {
    let before = server.metrics();
    let mut stream = server.stream(COMPLETIONS, &long_request());
    assert!(stream.by_ref().take(3).count() == 3);
    drop(stream);
    generated_less_than_all(server, &before);
}

fn a_client_that_hangs_up_before_the_answer_stops_its_request(server: &Server) {
    let before = server.metrics();
    let mut body = long_request();
    body["stream"] = json!(false);
    abandoned_post(&server.url, COMPLETIONS, &body, || {
        server.metrics().value(GENERATED) > before.value(GENERATED)
    });
    generated_less_than_all(server, &before);
}

fn metrics_count(server: &Server) {
    let answer = server.get("/metrics");
    let kind = answer.header("content-type").expect("a type");
    assert!(kind.starts_with("application/openmetrics-text") || kind.starts_with("text/plain"), "{kind}");
    let before = server.metrics();
    server.greedy(PROMPT, 3);
    server.post(COMPLETIONS, &json!({})).error(400);
    // The answer is out a moment before its sequence is gone.
    server.idle();
    let after = server.metrics();
    let rose = |name: &str, by: f64| {
        assert_eq!(after.value(name) - before.value(name), by, "{name}");
    };
    rose("sconce_requests_total{endpoint=\"completions\",status=\"200\"}", 1.0);
    rose("sconce_requests_total{endpoint=\"completions\",status=\"400\"}", 1.0);
    rose("sconce_prompt_tokens_total", 5.0);
    rose(GENERATED, 3.0);
    rose("sconce_steps_total", 3.0);
    rose("sconce_time_to_first_token_seconds_count", 1.0);
    assert_eq!(after.value("sconce_requests_running"), 0.0);
    let info = after.names().find(|name| name.starts_with("sconce_backend_info{")).expect("what runs here");
    assert!(info.contains("backend=\"cpu\""), "{info}");
}

fn afterwards_all_is_well(server: &Server) {
    server.idle();
    let metrics = server.metrics();
    let parked = metrics.value("sconce_kv_cache_tokens{model=\"tales\",use=\"parked\"}");
    assert!(parked > 0.0, "nothing is kept for later requests");
    assert_eq!(metrics.value("sconce_kv_cache_tokens{model=\"tales\",use=\"running\"}"), 0.0);
    let sequences = metrics.value("sconce_kv_cache_sequences{model=\"tales\",use=\"parked\"}");
    assert_eq!(metrics.value("sconce_plugin_sequences"), sequences, "only parked sequences are left");
    // Whole blocks are held.
    let slack = 64.0 * sequences;
    let used = metrics.value("sconce_plugin_kv_used_tokens");
    assert!(used <= parked + slack, "{used} tokens are held, {parked} of them parked");
    assert_eq!(server.get("/health").ok()["status"], "ok");
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}

/// In float32 every step of this model is certain, so the text is the reference's, word for word.
fn the_recorded_text(server: &Server) {
    let oracle = std::fs::read(fixture("stories260k/oracle.json")).expect("a fixture");
    let oracle: Value = serde_json::from_slice(&oracle).expect("a JSON file");
    let case = &oracle["cases"][0];
    let recorded = case["greedy_text"].as_str().expect("a recorded text");
    let tokens = case["greedy_ids"].as_array().expect("ids").len() as u32;
    assert_eq!(server.greedy(PROMPT, tokens), recorded);
    assert_eq!(server.greedy(case["prompt_ids"].clone(), tokens), recorded);
}

/// Half of this vocabulary are single bytes, so at a high temperature characters come in pieces.
fn characters_are_never_split(server: &Server) {
    let mut whole_characters = 0;
    for seed in 0..12 {
        let body = json!({"prompt": "A", "max_tokens": 100, "temperature": 100, "seed": seed});
        let stream = server.streamed(COMPLETIONS, &body);
        assert_eq!(stream.text(), server.completion(&body), "seed {seed}");
        let wide = |text: &str| text.chars().filter(|c| !c.is_ascii() && *c != '\u{fffd}').count();
        whole_characters += wide(&stream.text());
    }
    assert!(whole_characters > 0, "no character of more than a byte was generated, so nothing was tested");
}

fn a_model_without_a_template(server: &Server) {
    let error = server.post(CHAT, &tale()).error(400);
    assert!(
        error["message"].as_str().is_some_and(|message| message.contains("no usable chat template")),
        "{error}"
    );
}

fn the_context_is_a_limit(server: &Server) {
    let context = server.get("/v1/models/stories").ok()["max_model_len"].as_u64().expect("a length");
    let body = json!({"prompt": PROMPT, "temperature": 0.9, "seed": 1, "max_tokens": 100_000});
    let begin = std::time::Instant::now();
    let usage = server.post(COMPLETIONS, &body).ok()["usage"].clone();
    assert!(usage["total_tokens"].as_u64() <= Some(context) && begin.elapsed() < DEADLINE, "{usage}");
}
