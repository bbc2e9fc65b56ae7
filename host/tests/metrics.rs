//! `/metrics` of a real server: exactly the documented names, values that move as they should, and what the endpoint
//! picker of a Kubernetes gateway asks for.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use support::{Metrics, Server, abandoned_post, eventually};

const COMPLETIONS: &str = "/v1/completions";

/// A documentation page, or a file beside it.
fn page(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of all tables of a page that have this head, by column.
fn rows(page: &str, head: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()
    };
    let mut lines = page.lines();
    let mut rows = Vec::new();
    while lines.by_ref().any(|line| line == head) {
        let table = lines.by_ref().skip(1).take_while(|line| line.starts_with('|'));
        rows.extend(table.map(cells));
    }
    assert!(!rows.is_empty(), "no table {head}");
    rows
}

/// Type and labels of a metric.
type Shape = (String, BTreeSet<String>);

/// What docs/metrics.md says is there.
fn documented() -> BTreeMap<String, Shape> {
    let shape = |row: Vec<String>| {
        let labels = row[2].split(',').map(|label| label.trim().to_owned()).filter(|label| !label.is_empty());
        (row[0].clone(), (row[1].clone(), labels.collect()))
    };
    rows(&page("metrics.md"), "| name | type | labels | unit | meaning |").into_iter().map(shape).collect()
}

/// What a server shows, without the suffixes that its format gives to the series of a histogram.
fn shown(text: &str) -> BTreeMap<String, Shape> {
    let types: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let mut shapes = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').expect("a value");
        let (full, labels) = series.split_once('{').unwrap_or((series, "}"));
        let family = |suffix: &str| types.get_key_value(full.strip_suffix(suffix)?);
        let (name, kind) = ["", "_total", "_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| family(suffix))
            .unwrap_or_else(|| panic!("no type: {line}"));
        let name = if *kind == "counter" { full } else { name };
        let labels = labels.split("\",").filter_map(|label| Some(label.split_once("=\"")?.0.to_owned()));
        let labels: BTreeSet<String> = labels.filter(|label| label != "le").collect();
        let shape: &mut Shape = shapes.entry(name.to_owned()).or_insert((kind.to_string(), labels.clone()));
        assert_eq!(shape.1, labels, "the series of a name have the same labels: {line}");
    }
    shapes
}

/// Plugins have figures of their own; of the documented ones the mock has some.
fn split(shapes: BTreeMap<String, Shape>) -> [BTreeMap<String, Shape>; 2] {
    let (plugin, own) = shapes.into_iter().partition(|(name, _)| name.starts_with("sconce_plugin_"));
    [own, plugin]
}

fn body(prompt: &str, max_tokens: u32) -> Value {
    json!({"prompt": prompt, "max_tokens": max_tokens, "temperature": 0})
}

#[test]
fn exactly_the_documented_names_are_there() {
    let server = Server::mock("error_after=8", &[]);
    server.post(COMPLETIONS, &body("Once", 4)).ok();
    // The backend fails somewhere in the middle of this one.
    server.post(COMPLETIONS, &body("Once", 40)).error(500);
    let [own, plugin] = split(shown(&server.get("/metrics").body));
    let [mut documented, documented_of_plugins] = split(documented());
    if cfg!(not(target_os = "linux")) {
        documented.retain(|name, _| !name.starts_with("process_"));
    }
    assert_eq!(own, documented);
    assert!(plugin.len() > 3, "{plugin:?}");
    for (name, shape) in plugin {
        assert_eq!(documented_of_plugins.get(&name), Some(&shape), "{name}");
    }
}

/// How much a value rose.
struct Rise<'a>(&'a Metrics, &'a Metrics);

impl Rise<'_> {
    #[track_caller]
    fn of(&self, name: &str) -> f64 {
        self.1.value(name) - self.0.value(name)
    }

    #[track_caller]
    fn is(&self, expected: &[(&str, f64)]) {
        for (name, by) in expected {
            assert_eq!(self.of(name), *by, "{name}");
        }
    }
}

#[test]
fn a_request_moves_what_it_should() {
    let server = Server::mock("slow_ms=10", &[]);
    let before = server.metrics();
    server.post(COMPLETIONS, &json!({"prompt": [1, 2, 3, 4, 5], "max_tokens": 6, "temperature": 0})).ok();
    server.post(COMPLETIONS, &json!({})).error(400);
    server.idle();
    let after = server.metrics();
    let rise = Rise(&before, &after);
    rise.is(&[
        ("sconce_requests_total{endpoint=\"completions\",status=\"200\"}", 1.0),
        ("sconce_requests_total{endpoint=\"completions\",status=\"400\"}", 1.0),
        ("sconce_request_errors_total{code=\"INVALID_REQUEST\"}", 1.0),
        ("sconce_prompt_tokens_total", 5.0),
        ("sconce_steps_total", 6.0),
        ("sconce_step_seconds_count{kind=\"prefill\"}", 1.0),
        ("sconce_step_seconds_count{kind=\"decode\"}", 5.0),
        ("sconce_step_seconds_count{kind=\"mixed\"}", 0.0),
        ("sconce_step_prefill_tokens_sum", 5.0),
        ("sconce_step_decode_tokens_sum", 5.0),
        ("sconce_batch_size_sum", 6.0),
        ("sconce_generated_tokens_total", 6.0),
        ("sconce_request_queue_time_seconds_count", 1.0),
        ("sconce_time_to_first_token_seconds_count", 1.0),
        ("sconce_inter_token_latency_seconds_count", 5.0),
        // A step takes 10 ms at least.
        ("sconce_inter_token_latency_seconds_bucket{le=\"0.0075\"}", 0.0),
        ("sconce_inter_token_latency_seconds_bucket{le=\"60.0\"}", 5.0),
        ("sconce_preemptions_total", 0.0),
        ("sconce_cancelled_requests_total", 0.0),
    ]);
    assert!(rise.of("sconce_step_seconds_sum{kind=\"decode\"}") >= 0.05);
    assert!(rise.of("sconce_time_to_first_token_seconds_sum") >= 0.01);
    assert!(rise.of("sconce_inter_token_latency_seconds_sum") >= 0.05);
    assert_eq!(after.value("sconce_kv_cache_usage_ratio"), 0.0, "nothing runs");
}

/// One status may have many reasons, and so may the end of a stream.
#[test]
fn errors_are_counted_by_code() {
    let server = Server::mock("error_after=8", &[]);
    let counted = |code: &str| {
        let metrics = server.metrics();
        metrics.value(&format!("sconce_request_errors_total{{code=\"{code}\"}}"))
    };
    server.post(COMPLETIONS, &json!({"prompt": vec![5; 5000]})).error(400);
    server.post(COMPLETIONS, &json!({"prompt": "A", "n": 2})).error(400);
    server.post(COMPLETIONS, &json!({"prompt": "A", "model": "gpt-4"})).error(404);
    assert!(server.streamed(COMPLETIONS, &body("Once", 40)).error.is_some(), "the backend fails");
    server.post("/execute", &body("Once", 40));
    server.post(COMPLETIONS, &body("Once", 40)).error(500);
    let codes = ["context_length_exceeded", "unsupported_parameter", "model_not_found", "inference_failed"];
    assert_eq!(codes.map(counted), [1.0, 1.0, 1.0, 3.0]);
    let all = server.metrics();
    assert_eq!(all.value("sconce_request_errors_total"), 6.0);
    let streams: f64 = ["completions", "execute"]
        .map(|endpoint| {
            all.value(&format!("sconce_requests_total{{endpoint=\"{endpoint}\",status=\"stream_error\"}}"))
        })
        .into_iter()
        .sum();
    assert_eq!(streams, 2.0);
}

/// What only the engine's loop knows: why requests end, whose prefix was known, and who holds the cache.
#[test]
fn ends_prefixes_and_memory_are_told() {
    let server = Server::mock("slow_ms=10", &[]);
    let prompt: Vec<u32> = (1..200).collect();
    let long = json!({"prompt": prompt, "max_tokens": 100, "temperature": 0, "stream": true});
    let before = server.metrics();
    let mut stream = server.stream(COMPLETIONS, &long);
    stream.next();
    // Figures follow the text, after the step that both come from.
    let held = "sconce_kv_cache_tokens{model=\"tales\",use=\"running\"}";
    eventually("the prompt is in the cache", || server.metrics().value(held) >= 199.0);
    let during = server.metrics();
    assert!(during.value("sconce_kv_cache_usage_ratio") > 0.0);
    let sequences = |metrics: &Metrics| {
        let of =
            |of: &str| metrics.value(&format!("sconce_kv_cache_sequences{{model=\"tales\",use=\"{of}\"}}"));
        [of("running"), of("parked")]
    };
    assert_eq!(sequences(&during), [1.0, 0.0]);
    stream.for_each(drop);
    server.streamed(COMPLETIONS, &long);
    server.idle();
    let after = server.metrics();
    let rise = Rise(&before, &after);
    assert_eq!(rise.of("sconce_finished_requests_total"), 2.0);
    assert_eq!(rise.of("sconce_e2e_request_latency_seconds_count"), 2.0);
    assert!(rise.of("sconce_e2e_request_latency_seconds_sum") >= 0.02);
    assert_eq!(rise.of("sconce_prefix_cache_queried_tokens_total"), 2.0 * 199.0);
    let hits = rise.of("sconce_prefix_cache_hit_tokens_total");
    assert!((150.0..199.0).contains(&hits), "the second prompt was there already: {hits}");
    assert_eq!(after.value("sconce_kv_cache_usage_ratio"), 0.0, "parked tokens are free");
    assert!(after.value("sconce_kv_cache_tokens{model=\"tales\",use=\"parked\"}") > 0.0);
    // The second's begins as the first's, which it took over.
    assert_eq!(sequences(&after), [0.0, after.value("sconce_plugin_sequences")]);
}

#[test]
fn queues_are_seen_while_they_last() {
    let server = Server::mock("slow_ms=20", &["--max-sequences", "1"]);
    let long = json!({"prompt": [1, 2, 3], "max_tokens": 500, "temperature": 0, "stream": true});
    let running = server.stream(COMPLETIONS, &long);
    abandoned_post(&server.url, COMPLETIONS, &body("Once", 4), || {
        let metrics = server.metrics();
        metrics.value("sconce_requests_running") == 1.0 && metrics.value("sconce_requests_waiting") == 1.0
    });
    eventually("who waited is gone", || server.metrics().value("sconce_requests_waiting") == 0.0);
    drop(running);
    server.idle();
    assert_eq!(server.metrics().value("sconce_cancelled_requests_total"), 2.0);
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_is_measured() {
    let server = Server::mock("", &[]);
    let before = server.metrics();
    assert!(before.value("process_resident_memory_bytes") > 1e6);
    assert!(before.value("process_threads") >= 2.0);
    let address = server.url.strip_prefix("http://").expect("an address");
    let connections: Vec<_> =
        (0..30).map(|_| std::net::TcpStream::connect(address).expect("a connection")).collect();
    // Figures are read once a second at most.
    let open = |metrics: &Metrics| metrics.value("process_open_fds");
    eventually("connections are seen", || open(&server.metrics()) >= open(&before) + 30.0);
    drop(connections);
    eventually("they are gone", || open(&server.metrics()) < open(&before) + 30.0);
    assert!(open(&before) < before.value("process_max_fds"));
    assert_eq!(
        server.metrics().value("process_start_time_seconds"),
        before.value("process_start_time_seconds")
    );
    eventually("time is spent", || {
        server.metrics().value("process_cpu_seconds_total") > before.value("process_cpu_seconds_total")
    });
}

/// What a reader of the text format 0.0.4 makes of a scrape: the first series of each gauge, with its labels. The
/// endpoint picker is one (`expfmt.TextParser`); a type that it does not know makes it refuse all.
fn gauges_for_old_readers(text: &str) -> BTreeMap<String, (BTreeMap<String, String>, f64)> {
    let mut gauges = BTreeSet::new();
    let mut first = BTreeMap::new();
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("# TYPE ") {
            let (name, kind) = head.split_once(' ').expect("a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            if kind == "gauge" {
                gauges.insert(name);
            }
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            assert!(!line.contains(" # "), "an exemplar: {line}");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            if gauges.contains(name) && !first.contains_key(name) {
                let label = |label: &str| {
                    let (name, value) = label.trim_end_matches('}').split_once("=\"")?;
                    Some((name.to_owned(), value.trim_end_matches('"').to_owned()))
                };
                let labels = labels.split("\",").filter_map(label).collect();
                first.insert(name.to_owned(), (labels, value.parse().expect("a number")));
            }
        }
    }
    first
}

/// The names that docs/deploy tells the picker, by field.
fn configured() -> BTreeMap<String, String> {
    let config = page("deploy/inference-pool.yaml");
    let fields = config.lines().filter_map(|line| line.trim().split_once("Spec: "));
    fields.map(|(field, name)| (format!("{field}Spec"), name.trim_matches('"').to_owned())).collect()
}

#[test]
fn the_endpoint_picker_finds_what_it_asks_for() {
    let table = rows(
        &page("metrics.md"),
        "| protocol | type | name here | flag of the picker | field of `engineConfigs` |",
    );
    let documented: BTreeMap<String, String> =
        table.iter().map(|row| (row[4].clone(), row[2].clone())).collect();
    assert_eq!(configured(), documented, "docs/deploy and docs/metrics.md name the same");
    let fields: Vec<&str> = documented.keys().map(String::as_str).collect();
    assert_eq!(fields, ["cacheInfoSpec", "kvUsageSpec", "queuedRequestsSpec", "runningRequestsSpec"]);

    let server = Server::mock("slow_ms=20", &["--max-sequences", "1"]);
    let scrape = || gauges_for_old_readers(&server.get("/metrics").body);
    let value = |field: &str| scrape()[&documented[field]].1;
    assert_eq!((value("queuedRequestsSpec"), value("runningRequestsSpec")), (0.0, 0.0));
    let (labels, one) = scrape()[&documented["cacheInfoSpec"]].clone();
    let number = |label: &str| labels[label].parse::<u64>().expect("the picker wants whole numbers");
    let capacity = server.metrics().value("sconce_kv_cache_capacity_tokens");
    assert_eq!(one, 1.0);
    assert_eq!((number("block_size") * number("num_gpu_blocks")) as f64, capacity);

    let long = json!({"prompt": [1, 2, 3], "max_tokens": 500, "temperature": 0, "stream": true});
    let running = server.stream(COMPLETIONS, &long);
    abandoned_post(&server.url, COMPLETIONS, &body("Once", 4), || {
        (value("queuedRequestsSpec"), value("runningRequestsSpec")) == (1.0, 1.0)
    });
    assert!((0.0..=1.0).contains(&value("kvUsageSpec")));
    drop(running);
    server.idle();
    assert_eq!(value("kvUsageSpec"), 0.0);
}
