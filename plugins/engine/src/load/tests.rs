//! Loading: whole models against reference logits, and requests that cannot be met.

use std::path::{Path, PathBuf};

use sconce_plugin_api::sdk::Code;
use sconce_plugin_api::sdk::codes::dtype;
use serde_json::json;

use super::*;
use crate::cpu::CpuOps;
use crate::ops::{CandleOps, Ops};
use crate::testing::{Logits, Model, distance, fixtures, option, request, target, tiny, tiny_config};

/// Reference logits and ids beside a model, and how far a run may be off.
struct Oracle {
    json: Value,
    tensors: std::collections::HashMap<String, candle_core::Tensor>,
}

impl Oracle {
    fn open(json: &Path, tensors: &Path) -> Oracle {
        let text = std::fs::read_to_string(json).expect("an oracle");
        let tensors = match tensors.exists() {
            true => candle_core::safetensors::load(tensors, &candle_core::Device::Cpu).expect("its logits"),
            false => Default::default(),
        };
        Oracle { json: serde_json::from_str(&text).expect("JSON"), tensors }
    }

    fn rows(&self, name: &str) -> Option<Logits> {
        let tensor = self.tensors.get(name)?;
        let width = tensor.dim(candle_core::D::Minus1).expect("a last axis");
        Some(tensor.reshape(((), width)).and_then(|rows| rows.to_vec2()).expect("f32 rows"))
    }

    fn cases(&self) -> &[Value] {
        self.json["cases"].as_array().expect("cases")
    }

    /// `max_abs` for a kind of run.
    fn limit(&self, kind: &str) -> f32 {
        self.json["limits"][kind]["max_abs"].as_f64().expect("a limit") as f32
    }
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("ids");
    ids.iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

/// Ids and logits of a recorded top 50, `[[id, logit], ...]`.
fn top50(recorded: &Value) -> (Vec<usize>, Vec<f32>) {
    let pairs = recorded.as_array().expect("pairs").iter();
    pairs
        .map(|pair| (pair[0].as_u64().expect("an id") as usize, pair[1].as_f64().expect("a logit") as f32))
        .unzip()
}

/// Checks every case of an f32 reference and returns the largest difference seen.
fn check_dense(directory: &Path, weights: &Path) -> f32 {
    let oracle = Oracle::open(&directory.join("oracle.json"), &directory.join("oracle.safetensors"));
    let limit = oracle.limit("float32");
    let mut model = Model::open(weights);
    let stop = oracle.json.get("eos_token_ids").map_or(Vec::new(), ids);
    let mut worst = 0.0f32;
    for case in oracle.cases() {
        let name = case["name"].as_str().expect("a name");
        let prompt = ids(&case["prompt_ids"]);
        let all = model.all_logits(&prompt);
        if let Some(expected) = oracle.rows(&format!("{name}.prompt_logits")) {
            worst = worst.max(distance(&all, &expected));
        }
        if let Some(expected) = oracle.rows(&format!("{name}.last_logits")) {
            worst = worst.max(distance(&all[prompt.len() - 1..], &expected));
        }
        let (top, recorded) = top50(&case["last_logits_top50"]);
        let row: Vec<f32> = top.iter().map(|id| all[prompt.len() - 1][*id]).collect();
        worst = worst.max(distance(&[row], &[recorded]));
        let expected = ids(&case["greedy_ids"]);
        let (found, rows) = model.greedy(&prompt, expected.len(), &stop);
        assert_eq!(found, expected, "{name} of {}", weights.display());
        if let Some(first8) = oracle.rows(&format!("{name}.greedy_logits_first8")) {
            worst = worst.max(distance(&rows[..8], &first8));
        }
    }
    assert!(worst <= limit, "{}: off by {worst}, limit {limit}", weights.display());
    println!("{}: off by {worst:e}, limit {limit}", weights.display());
    worst
}

#[test]
fn safetensors_models_give_the_reference_logits() {
    let Some(root) = fixtures() else { return };
    let models = root.join("models");
    for name in ["random/llama2-mha", "random/llama3-gqa", "tales", "stories260k"] {
        check_dense(&models.join(name), &models.join(name));
    }
    check_dense(&models.join("stories260k"), &models.join("stories260k-sharded"));
}

/// Every GGUF file of the Llama family, with its oracle beside it.
fn gguf_files(root: &Path) -> Vec<PathBuf> {
    let folders = ["random/llama2-mha", "random/llama3-gqa", "tales", "stories260k"];
    let entries = folders
        .iter()
        .flat_map(|name| std::fs::read_dir(root.join("models").join(name).join("gguf")).expect("a folder"));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    files.sort();
    assert_eq!(files.len(), 12, "{files:?}");
    files
}

/// How a run compares with one reference of a GGUF file, over all its cases.
#[derive(Debug)]
struct Agreement {
    /// Largest difference of a logit.
    worst: f32,
    /// Least cosine of a position's logits.
    cosine: f64,
    /// Ids that were compared: those up to the first step decided by less than four times the limit, since
    /// from there on a run within the limit may choose another one.
    firm: usize,
    /// Whether all of these agree.
    firm_equal: bool,
}

fn against(oracle: &Oracle, model: &mut Model, reference: &str, limit: f32) -> Agreement {
    let mut found = Agreement { worst: 0.0, cosine: 1.0, firm: 0, firm_equal: true };
    for case in oracle.cases() {
        let (expected, prompt) = (&case[reference], ids(&case["prompt_ids"]));
        let all = model.all_logits(&prompt);
        let name = case["name"].as_str().expect("a name");
        match oracle.rows(&format!("{name}.{reference}_logits")) {
            Some(rows) => all.iter().zip(&rows).for_each(|(a, b)| found.compare(a, b)),
            None => {
                let (ids, recorded) = top50(&expected["last_logits_top50"]);
                let row: Vec<f32> = ids.iter().map(|id| all[prompt.len() - 1][*id]).collect();
                found.compare(&row, &recorded);
            }
        }
        let margins = expected["greedy_margins"].as_array().expect("margins").iter();
        let firm =
            margins.take_while(|margin| margin.as_f64().expect("a margin") >= 4.0 * f64::from(limit)).count();
        let (chosen, _) = model.greedy(&prompt, firm, &[]);
        found.firm += firm;
        found.firm_equal &= chosen == ids(&expected["greedy_ids"])[..firm];
    }
    found
}

impl Agreement {
    fn compare(&mut self, found: &[f32], expected: &[f32]) {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let cosine = dot(found, expected) / (dot(found, found) * dot(expected, expected)).sqrt();
        self.cosine = self.cosine.min(if cosine.is_nan() { -1.0 } else { cosine });
        self.worst = self.worst.max(distance(&[found.to_vec()], &[expected.to_vec()]));
    }
}

fn oracle_of(gguf: &Path) -> Oracle {
    Oracle::open(&gguf.with_extension("oracle.json"), &gguf.with_extension("oracle.safetensors"))
}

#[test]
fn gguf_models_are_within_the_limits_of_their_quantisation() {
    let Some(root) = fixtures() else { return };
    for path in gguf_files(&root) {
        let oracle = oracle_of(&path);
        let mut model = Model::open(&path);
        for (reference, limits) in oracle.json["limits"].as_object().expect("limits") {
            let limit = oracle.limit(reference);
            let found = against(&oracle, &mut model, reference, limit);
            println!("{} to {reference}, limit {limit}: {found:?}", path.display());
            assert!(found.worst <= limit && found.firm_equal, "{}: {found:?}", path.display());
            let least = limits.get("min_cosine").map_or(-1.0, |least| least.as_f64().expect("a cosine"));
            assert!(found.cosine >= least, "{}: {found:?}", path.display());
        }
    }
}

/// In f32 the reference computes from the same numbers, so only the order of additions differs.
#[test]
fn expanded_gguf_models_give_the_reference_logits() {
    let Some(root) = fixtures() else { return };
    const LIMIT: f32 = 1e-3;
    for path in gguf_files(&root) {
        let mut request = request(&path);
        request.weight_dtype = dtype::F32;
        let mut model = Model::load(&request, Arc::new(CpuOps)).expect("it loads");
        assert_eq!(model.info.weight_dtype, dtype::F32);
        let found = against(&oracle_of(&path), &mut model, "dequantised", LIMIT);
        println!("{} in f32: {found:?}", path.display());
        assert!(found.worst <= LIMIT && found.firm_equal && found.firm > 0, "{}: {found:?}", path.display());
    }
}

fn load(change: impl FnOnce(&mut LoadRequest)) -> sdk::Result<Model> {
    let dir = tiny();
    let mut request = request(dir.path());
    change(&mut request);
    Model::load(&request, Arc::new(CpuOps))
}

#[track_caller]
fn check_refused(change: impl FnOnce(&mut LoadRequest), code: Code, part: &str) {
    let error = load(change).map(|_| ()).expect_err("a refusal");
    assert_eq!(error.code, code, "{error:?}");
    assert!(error.message.contains(part), "{error:?}");
}

#[test]
fn requests_that_cannot_be_met_say_why() {
    check_refused(|r| r.weight_dtype = dtype::BF16, Code::UNSUPPORTED, "bfloat16");
    check_refused(|r| r.kv_dtype = dtype::Q8_0, Code::UNSUPPORTED, "q8_0 for heads of 16 values");
    check_refused(|r| r.kv_dtype = dtype::QUANTISED, Code::UNSUPPORTED, "KV cache of type quantised");
    check_refused(|r| r.kv_bytes = 10, Code::OUT_OF_MEMORY, "KV cache");
    check_refused(|r| r.source.kind = 9, Code::UNSUPPORTED, "kind 9");
    check_refused(|r| r.source.paths.clear(), Code::UNSUPPORTED, "without files");
    check_refused(|r| r.source.paths[0] = "/no/such/file".into(), Code::NOT_FOUND, "/no/such/file");
    check_refused(|r| r.source.config_json = "{".into(), Code::BAD_MODEL_FILE, "JSON");
    check_refused(|r| r.options.push(option(CONFIG_OVERRIDES, "[]")), Code::INVALID_ARGUMENT, "JSON object");
}

#[test]
fn a_model_of_another_family_is_unsupported() {
    let mut config = tiny_config();
    config["model_type"] = "mamba".into();
    check_refused(|r| r.source.config_json = config.to_string().into(), Code::UNSUPPORTED, "mamba");
}

#[test]
fn a_model_that_lacks_a_weight_is_a_bad_file() {
    let mut config = tiny_config();
    config["num_hidden_layers"] = 4.into();
    check_refused(|r| r.source.config_json = config.to_string().into(), Code::BAD_MODEL_FILE, "layers.3");
}

#[test]
fn weights_beyond_the_memory_are_refused_before_they_are_read() {
    let dir = tiny();
    let small = Target { free_memory: Box::new(|| Some(1000)), ..target(Arc::new(CpuOps)) };
    let mut go_on = |stage, _, _| {
        assert_eq!(stage, sconce_plugin_api::sdk::codes::stage::OPEN, "nothing is read");
        true
    };
    let loaded = super::load(small, &request(dir.path()), &mut Progress::new(&mut go_on));
    assert_eq!(loaded.map(|_| ()).expect_err("too large").code, Code::OUT_OF_MEMORY);
}

#[test]
fn progress_counts_every_byte_and_can_stop_the_load() {
    let dir = tiny();
    let mut seen = Vec::new();
    let mut go_on = |stage, done, total| {
        seen.push((stage, done, total));
        true
    };
    let request = request(dir.path());
    super::load(target(Arc::new(CpuOps)), &request, &mut Progress::new(&mut go_on)).expect("it loads");
    let (stage, done, total) = *seen.last().expect("reports");
    assert_eq!((stage, done), (sconce_plugin_api::sdk::codes::stage::READ, total));
    assert!(seen.len() > 30 && seen[1..].is_sorted_by_key(|(_, done, _)| *done), "{seen:?}");
    let mut calls = 0;
    let mut stop = |_, _, _| {
        calls += 1;
        calls < 5
    };
    let stopped = super::load(target(Arc::new(CpuOps)), &request, &mut Progress::new(&mut stop));
    assert_eq!(stopped.map(|_| ()).expect_err("cancelled").code, Code::CANCELLED);
    assert_eq!(calls, 5);
}

#[test]
fn the_request_decides_context_and_budget() {
    let model = load(|_| {}).expect("it loads");
    assert_eq!((model.info.max_context, model.info.kv_capacity_tokens), (2048, 8 * 2048));
    let model = load(|r| (r.max_context, r.max_sequences) = (100, 2)).expect("it loads");
    assert_eq!((model.info.max_context, model.info.kv_capacity_tokens), (100, 2 * 128));
    let model = load(|r| r.kv_bytes = 65 * 768).expect("it loads");
    assert_eq!(model.info.kv_capacity_tokens, 64);
    assert_eq!((model.info.compute_dtype, model.info.kv_dtype), (dtype::F32, dtype::F32));
}

#[test]
fn an_automatic_budget_is_a_share_of_what_is_free() {
    let dir = tiny();
    let target = Target { free_memory: Box::new(|| Some(4_000_000)), ..target(Arc::new(CpuOps)) };
    let mut go_on = |_, _, _| true;
    let loaded = super::load(target, &request(dir.path()), &mut Progress::new(&mut go_on)).expect("it loads");
    let info = sdk::Executor::info(&loaded.executor);
    // Half of it, in blocks of 32 tokens of 768 bytes.
    assert_eq!(info.kv_capacity_tokens, 2_000_000 / (32 * 768) * 32);
}

#[test]
fn the_type_of_the_cache_decides_what_a_token_takes() {
    let check = |kv, bytes| {
        let model = load(|r| (r.kv_dtype, r.kv_bytes) = (kv, 128 * 768)).expect("it loads");
        assert_eq!((model.info.kv_dtype, model.info.kv_bytes_per_token), (kv, bytes));
        assert_eq!(model.info.kv_capacity_tokens, 128 * 768 / bytes);
    };
    check(dtype::F32, 768);
    check(dtype::F16, 384);
    check(dtype::BF16, 384);
}

#[test]
fn a_cache_beyond_the_memory_is_refused() {
    let dir = tiny();
    let target = Target { free_memory: Box::new(|| Some(4_000_000)), ..target(Arc::new(CpuOps)) };
    let mut request = request(dir.path());
    request.kv_bytes = 5_000_000;
    let mut go_on = |_, _, _| true;
    let error =
        super::load(target, &request, &mut Progress::new(&mut go_on)).map(|_| ()).expect_err("too large");
    assert_eq!(error.code, Code::OUT_OF_MEMORY);
    assert!(error.message.contains("KV cache"), "{error:?}");
}

#[test]
fn a_cache_leaves_room_for_the_copies_of_weights() {
    let dir = tiny();
    let mut request = request(dir.path());
    request.options.push(option(DENSE_WEIGHTS, "q8_0"));
    request.kv_bytes = 64 * 768;
    // Matrices: embedding and output, and in each layer four of attention and three of the feed-forward part.
    let elements = 2 * 96 * 64 + 3 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64);
    let copies = elements / 32 * 34 * 2;
    let load_in = |free: u64| {
        let free_memory = Box::new(move || Some(free));
        let target = Target { free_memory, packed_share: 2.0, ..target(Arc::new(CpuOps)) };
        let mut go_on = |_, _, _| true;
        super::load(target, &request, &mut Progress::new(&mut go_on))
    };
    let loaded = load_in(copies + 64 * 768).expect("both fit");
    assert_eq!(sdk::Executor::info(&loaded.executor).kv_capacity_tokens, 64);
    let error = load_in(copies + 64 * 768 - 1).map(|_| ()).expect_err("a byte too little");
    assert_eq!(error.code, Code::OUT_OF_MEMORY);
    for number in [copies, 64 * 768, copies + 64 * 768 - 1] {
        assert!(error.message.contains(&number.to_string()), "{number}: {error:?}");
    }
}

#[test]
fn overrides_replace_keys_of_the_configuration() {
    let overrides = json!({ "rope_theta": 500.0 }).to_string();
    let mut changed = load(|r| r.options.push(option(CONFIG_OVERRIDES, &overrides))).expect("it loads");
    let mut config = tiny_config();
    config["rope_theta"] = 500.0.into();
    let mut rewritten = load(|r| r.source.config_json = config.to_string().into()).expect("it loads");
    let mut plain = load(|_| {}).expect("it loads");
    let tokens = [5, 6, 7, 8];
    let expected = rewritten.all_logits(&tokens);
    assert_eq!(distance(&changed.all_logits(&tokens), &expected), 0.0);
    assert!(distance(&plain.all_logits(&tokens), &expected) > 0.01);
}

#[test]
fn quantised_weights_are_reported_as_such() {
    let Some(root) = fixtures() else { return };
    let path = root.join("models/tales/gguf/tales.Q4_K_M.gguf");
    let model = Model::open(&path);
    assert_eq!((model.info.weight_dtype, model.info.compute_dtype), (dtype::QUANTISED, dtype::F32));
    assert!(model.info.weights_bytes < std::fs::metadata(&path).expect("a file").len());
}

#[test]
fn a_backend_that_expands_has_nothing_packed() {
    let dir = tiny();
    let mut request = request(dir.path());
    request.options.push(option(DENSE_WEIGHTS, "q8_0"));
    let mut model = Model::load(&request, Arc::new(Expanding)).expect("it loads");
    assert_eq!(model.info.weight_dtype, dtype::F32);
    model.all_logits(&[1, 2, 3]);
}

/// Operations that shall not multiply with quantised weights.
struct Expanding;

impl Ops for Expanding {
    fn expands(&self) -> bool {
        true
    }

    fn linear(
        &self,
        x: &candle_core::Tensor,
        linear: &crate::Linear,
    ) -> candle_core::Result<candle_core::Tensor> {
        assert!(!linear.weight.is_quantised(), "its weights are floats");
        CandleOps.linear(x, linear)
    }
}

#[test]
fn a_backend_that_expands_gets_floats_and_the_same_answers() {
    let Some(root) = fixtures() else { return };
    let path = root.join("models/tales/gguf/tales.Q4_K_M.gguf");
    let prompt = [1, 9, 40, 7];
    let mut expanded = Model::load(&request(&path), Arc::new(Expanding)).expect("it loads");
    assert_eq!(expanded.info.weight_dtype, dtype::F32);
    let floats = LoadRequest { weight_dtype: dtype::F32, ..request(&path) };
    let mut expected = Model::load(&floats, Arc::new(CpuOps)).expect("it loads");
    assert!(distance(&expanded.all_logits(&prompt), &expected.all_logits(&prompt)) < 1e-3);
}

#[test]
fn dense_weights_are_packed_on_request_and_said_to_be() {
    let mut packed = load(|r| r.options.push(option(DENSE_WEIGHTS, "q8_0"))).expect("it loads");
    let mut plain = load(|r| r.options.push(option(DENSE_WEIGHTS, "f32"))).expect("it loads");
    assert_eq!((packed.info.weight_dtype, plain.info.weight_dtype), (dtype::Q8_0, dtype::F32));
    assert!(packed.info.weights_bytes * 3 < plain.info.weights_bytes);
    let tokens = crate::testing::tokens(40, 1, crate::testing::TINY_VOCAB);
    let far = distance(&packed.all_logits(&tokens), &plain.all_logits(&tokens));
    assert!(far > 0.0 && far < 0.5, "off by {far}");
    check_refused(
        |r| r.options.push(option(DENSE_WEIGHTS, "q4_k")),
        Code::INVALID_ARGUMENT,
        "not auto, f32 or q8_0",
    );
}
