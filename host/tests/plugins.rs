//! Backends that fail, in front of a living host: the mock plugin on request. Also the conformance cases as
//! a plugin author runs them.

mod support;

use serde_json::{Value, json};
use support::requests::{COMPLETIONS, out_of_service, says};
use support::{
    Answer, Run, Server, eventually, fixture, job_events, plugin, sconce, sconce_with, temp_dir, text,
};

fn prompt(max_tokens: u32) -> Value {
    json!({"prompt": "Once", "max_tokens": max_tokens, "temperature": 0})
}

fn complete(server: &Server, max_tokens: u32) -> Answer {
    server.post(COMPLETIONS, &prompt(max_tokens))
}

#[test]
fn a_panic_in_forward_ends_its_requests_and_not_the_server() {
    let server = Server::mock("panic_in_forward", &[]);
    let error = complete(&server, 5).error(500);
    assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("inference_failed")));
    says(&error, &["inference failed", "panicked", "asked to panic in forward"]);
    assert_eq!(server.metrics().value("sconce_backend_errors_total{code=\"PANICKED\"}"), 1.0);
    assert!(server.log().contains("asked to panic in forward"), "{}", server.log());
    out_of_service(&server, "asked to panic in forward");
}

#[test]
fn a_panic_mid_stream_is_an_event_of_the_stream() {
    let server = Server::mock("panic_after=3", &[]);
    let stream = server.streamed(COMPLETIONS, &prompt(10));
    let error = stream.error.as_ref().expect("the stream ends with an error");
    assert_eq!(error["code"], "inference_failed", "{error}");
    says(error, &["asked to panic after 3 steps"]);
    assert!(stream.pieces.len() <= 3 && stream.finish.is_empty(), "{stream:?}");
    let failed =
        server.metrics().value("sconce_requests_total{endpoint=\"completions\",status=\"stream_error\"}");
    assert_eq!(failed, 1.0);
    out_of_service(&server, "asked to panic after 3 steps");
}

#[test]
fn the_worker_protocol_tells_code_message_and_causes() {
    let server = Server::mock("panic_after=2", &[]);
    let mut job = prompt(10);
    job["job_id"] = json!(17);
    let events = job_events(&server.post("/execute", &job).body);
    let (first, last) = (&events[0], &events[events.len() - 1]);
    assert_eq!((&first["type"], &first["job_id"]), (&json!("started"), &json!(17)));
    assert_eq!((&last["type"], &last["code"]), (&json!("error"), &json!("INFERENCE_FAILED")), "{last}");
    assert_eq!(last["job_id"], 17, "{last}");
    says(last, &["inference failed", "panicked"]);
    let detail = last["detail"].as_str().expect("the chain of causes");
    assert!(detail.contains("PANICKED") && detail.contains("asked to panic after 2 steps"), "{detail}");
}

#[test]
fn a_lost_device_is_remembered() {
    let server = Server::mock("device_lost_after=2", &[]);
    says(&complete(&server, 5).error(500), &["asked to lose the device"]);
    out_of_service(&server, "asked to lose the device");
}

/// Requests behind one that breaks the backend are answered too.
#[test]
fn those_who_wait_are_told() {
    let server = Server::mock("panic_after=20,slow_ms=20", &["--max-sequences", "1"]);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| complete(&server, 100).error(500));
        eventually("the first request runs", || server.metrics().value("sconce_requests_running") == 1.0);
        let behind: Vec<_> = (0..3).map(|_| scope.spawn(|| complete(&server, 100).error(500))).collect();
        says(&first.join().expect("an answer"), &["asked to panic"]);
        behind.into_iter().for_each(|thread| says(&thread.join().expect("an answer"), &["inference failed"]));
    });
    server.idle();
}

/// An error that is no panic ends its request; the backend stays in service.
#[test]
fn an_error_ends_its_request_only() {
    let server = Server::mock("error_after=5", &["--prefix-cache", "0"]);
    complete(&server, 5).ok();
    for _ in 0..2 {
        says(&complete(&server, 5).error(500), &["inference failed", "asked to fail after 5 steps"]);
        assert_eq!(server.get("/ready").status, 200);
    }
    assert_eq!(server.metrics().value("sconce_backend_errors_total{code=\"INTERNAL\"}"), 2.0);
    assert_eq!(server.metrics().value("sconce_plugin_kv_used_tokens"), 0.0);
}

/// Four requests of 24 tokens with room for 64: they take turns, and none fails.
#[test]
fn a_small_cache_is_shared_in_turns() {
    let server = Server::mock("kv_full=64,slow_ms=2", &[]);
    let one = server.greedy("Once", 20);
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| server.greedy("Once", 20))).collect();
        all.into_iter().for_each(|thread| assert_eq!(thread.join().expect("an answer"), one));
    });
    let error = server.post(COMPLETIONS, &json!({"prompt": vec![5; 70]})).error(400);
    assert_eq!(error["code"], "context_length_exceeded");
}

/// What a backend cannot do, the scheduler does without.
#[test]
fn a_backend_that_cannot_batch_serves_many_all_the_same() {
    let batching = Server::mock("", &[]);
    let server = &Server::mock("no_batch,no_fork,no_truncate,no_want_all,no_topk,no_hidden", &[]);
    let prompts = ["One", "Two of them", "Three of them went out", "Four"];
    std::thread::scope(|scope| {
        let ask = |prompt: &'static str| scope.spawn(move || server.greedy(prompt, 30));
        let all: Vec<_> = prompts.into_iter().map(ask).collect();
        for (prompt, thread) in prompts.into_iter().zip(all) {
            assert_eq!(thread.join().expect("an answer"), batching.greedy(prompt, 30), "{prompt}");
        }
    });
    let metrics = server.metrics();
    let alone = metrics.value("sconce_batch_size_bucket{le=\"1.0\"}");
    assert_eq!(alone, metrics.value("sconce_batch_size_count"), "a step held two sequences");
}

/// Requests of all kinds, side by side: those for which the backend can choose the best tokens, and others.
fn kinds_of_sampling() -> Vec<Value> {
    let temperatures = [json!({"temperature": 0}), json!({"temperature": 0.8}), json!({"temperature": 1.6})];
    let cuts =
        [json!({"top_k": 1}), json!({"top_k": 40, "top_p": 0.9}), json!({"top_k": 64}), json!({"top_k": 65})];
    let penalties = [
        json!({}),
        json!({"frequency_penalty": 0.7, "presence_penalty": -0.2}),
        json!({"repeat_penalty": 1.3, "min_p": 0.02}),
    ];
    let mut bodies = Vec::new();
    for (temperature, cut) in temperatures.iter().flat_map(|one| cuts.iter().map(move |other| (one, other))) {
        for (seed, penalty) in penalties.iter().enumerate() {
            let mut body = json!({"prompt": format!("Once, at {seed},"), "max_tokens": 40, "seed": seed});
            let fields = [temperature, cut, penalty].map(|part| part.as_object().expect("an object").clone());
            body.as_object_mut().expect("an object").extend(fields.into_iter().flatten());
            bodies.push(body);
        }
    }
    bodies
}

/// Whether the backend or the host takes the largest logits of a row, and whoever else is in the step.
#[test]
fn who_chooses_the_best_tokens_changes_no_answer() {
    let (choosing, full) = (&Server::mock("", &[]), &Server::mock("no_topk", &["--max-sequences", "1"]));
    let text =
        |server: &Server, body: &Value| server.post(COMPLETIONS, body).ok()["choices"][0]["text"].clone();
    std::thread::scope(|scope| {
        let bodies = kinds_of_sampling();
        let ask = |body: Value| (body.clone(), scope.spawn(move || text(choosing, &body)));
        let answers: Vec<_> = bodies.into_iter().map(ask).collect();
        for (body, thread) in answers {
            assert_eq!(thread.join().expect("an answer"), text(full, &body), "{body}");
        }
    });
}

/// In full rows and where the backend chooses.
#[test]
fn rows_without_numbers_end_their_requests_only() {
    for faults in ["nan_after=2", "nan_after=2,no_topk"] {
        let server = Server::mock(faults, &["--prefix-cache", "0"]);
        for (temperature, top_k) in [(0.0, 0), (1.0, 40), (1.0, 0)] {
            let mut body = prompt(10);
            body["temperature"] = json!(temperature);
            body["top_k"] = json!(top_k);
            says(&server.post(COMPLETIONS, &body).error(500), &["logits that are not numbers"]);
        }
        assert_eq!(server.get("/ready").status, 200, "{faults}");
    }
}

/// A step takes 50 ms here, so "within one step" can be counted.
#[test]
fn a_request_whose_client_left_stops_within_a_step() {
    let server = Server::mock("slow_ms=50", &[]);
    let mut body = prompt(1000);
    body["stream"] = json!(true);
    let mut stream = server.stream(COMPLETIONS, &body);
    assert_eq!(stream.by_ref().take(3).count(), 3);
    let generated = || server.metrics().value("sconce_generated_tokens_total");
    let then = generated();
    drop(stream);
    server.idle();
    assert!(generated() - then <= 2.0, "{} tokens after the client left", generated() - then);
    assert_eq!(server.metrics().value("sconce_cancelled_requests_total"), 1.0);
}

#[test]
fn a_backend_that_fails_at_the_start_is_explained() {
    let check = |fault: &str, code: i32, words: &[&str]| {
        let args = ["serve", "--port", "0", "--backend", "mock", "--backend-opt", &format!("fault={fault}")];
        sconce(&args).explained(code, words);
    };
    check("panic_in_create", 3, &["cannot use backend `mock`", "panicked", "asked to panic in create"]);
    check("panic_in_devices", 3, &["cannot use backend `mock`", "panicked", "asked to panic in devices"]);
    check("error_in_devices", 3, &["cannot use backend `mock`", "asked to have no driver"]);
    check("no_devices", 3, &["cannot use backend `mock`", "no device"]);
    check("no_such_fault", 3, &["cannot use backend `mock`", "no fault `no_such_fault`"]);
    check("panic_in_load", 3, &["cannot use model", "asked to panic in load", "fix: the backend failed"]);
    check("error_in_load", 3, &["cannot use model", "asked to fail in load", "fix: the backend failed"]);
}

#[test]
fn types_of_keys_and_values_that_a_backend_lacks_are_refused_by_name() {
    let check = |args: &[&str], words: &str| {
        let run = sconce(&[&["bench", "--prompt", "4", "--generate", "2"], args].concat());
        assert_eq!(run.code, 4, "{run}");
        assert!(run.stderr.contains(words), "{run}");
    };
    check(&["--backend", "mock", "--kv-type", "q8_0"], "the mock has float32 only");
    let odd = fixture("stories260k");
    check(&["--backend", "cpu", "--model", text(&odd), "--kv-type", "q8_0"], "q8_0 for heads of 8 values");
    check(&["--backend", "cpu", "--kv-memory", "10"], "the KV cache");
}

#[test]
fn what_a_plugin_logs_is_in_the_hosts_log() {
    let args = ["serve", "--port", "0", "--backend", "mock", "--log", "debug", "--backend-opt"];
    let run = sconce(&[&args[..], &["fault=log", "--backend-opt", "eos=99999999"]].concat());
    run.failed_with(4, &["eos"]);
    let levels = |run: &Run| {
        let said = run.stderr.lines().filter(|line| line.contains("asked to log"));
        said.filter_map(|line| line.split_whitespace().nth(1).map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(levels(&run), ["ERROR", "WARN", "INFO", "DEBUG"], "{run}");
    let quiet = sconce_with(
        &[&args[..4], &["mock", "--backend-opt", "eos=99999999"]].concat(),
        &[("SCONCE_LOG", "sconce_plugin=error"), ("SCONCE_MOCK_FAULT", "log")],
    );
    assert_eq!(levels(&quiet), ["ERROR"], "{quiet}");
}

fn conformance(name: &str, args: &[&str]) -> Run {
    sconce(&[&["plugin", "test", text(&plugin(name))], args].concat())
}

#[test]
fn our_plugins_conform() {
    for name in ["cpu", "mock"] {
        conformance(name, &[])
            .done_with(&[&format!("[{name}] second_request_equals_first ... ok"), " 0 failed"]);
    }
    let model = support::fixture("stories260k");
    conformance("cpu", &["--model", text(&model)]).done_with(&[" 0 failed"]);
}

#[test]
fn a_report_is_data() {
    let dir = temp_dir();
    let file = dir.path().join("report.json");
    let run = conformance("mock", &["--json", "--report", text(&file)]);
    let printed: Value = serde_json::from_str(&run.done_with(&[]).stdout).expect("a JSON report");
    let written: Value =
        serde_json::from_slice(&std::fs::read(&file).expect("a report")).expect("a JSON report");
    assert_eq!(printed, written);
    assert_eq!(printed["id"], "mock", "{printed}");
    assert!(printed["cases"].as_array().is_some_and(|cases| cases.len() > 20), "{printed}");
}

/// Each case notices what it is there for: the faults, and a case that must fail for each.
#[test]
fn every_fault_is_noticed_by_its_case() {
    let faults = [
        ("stale_kv", "stale_cache_after_a_token_of_warmup"),
        ("stale_kv", "warmup_leaves_no_trace"),
        ("dirty_slots", "second_request_equals_first"),
        ("neighbour", "batch_equals_alone"),
        ("chunk_edge", "chunked_prefill_equals_one_shot"),
        ("fork_off", "fork_equals_recomputation"),
        ("truncate_off", "truncate_equals_recomputation"),
        ("rows_off", "wanted_rows_agree"),
        ("topk_unbiased", "bias_and_masks_are_applied"),
        ("topk_ties", "ties_go_to_the_lowest_id"),
        ("hidden_off", "hidden_rows_agree"),
        ("not_atomic", "kv_full_is_atomic"),
        ("reserves_part", "reservations_are_whole"),
        ("stale_handles", "stale_handles_are_refused"),
        ("leak", "free_returns_memory"),
        ("panic_in_load", "model_is_described"),
        ("panic_in_forward", "greedy_is_repeatable"),
    ];
    for (fault, case) in faults {
        let run = conformance("mock", &["--backend-opt", &format!("fault={fault}")]);
        run.failed_with(6, &[]);
        assert!(run.stdout.contains(&format!("[mock] {case} ... FAILED: ")), "{fault}\n{run}");
    }
}

/// What a plugin lacks is skipped aloud.
#[test]
fn what_a_plugin_lacks_is_skipped_aloud() {
    let lacks = [
        ("no_batch", "batch_equals_alone"),
        ("no_fork", "fork_equals_recomputation"),
        ("no_truncate", "truncate_equals_recomputation"),
        ("no_want_all", "drafts_equal_single_steps"),
        ("no_topk", "bias_and_masks_are_applied"),
        ("no_topk", "ties_go_to_the_lowest_id"),
        ("no_hidden", "hidden_rows_agree"),
    ];
    for (fault, case) in lacks {
        let run = conformance("mock", &["--backend-opt", &format!("fault={fault}")]);
        run.done_with(&[&format!("[mock] {case} ... skipped: it lacks "), " 0 failed"]);
    }
}
