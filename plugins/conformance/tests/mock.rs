//! The cases pass on a sound plugin, skip what one lacks, and each of them notices what it is there for.

mod support;

use std::collections::BTreeSet;

use sconce_conformance::{Verdict, case_names};
use sconce_plugin_api::abi::Code;
use sconce_plugin_api::abi::codes::source;
use support::tamper::{Tamper, tampered};
use support::{mock, names, report, report_on, request};

#[test]
fn a_sound_plugin_passes_every_case() {
    let report = report(&mock("").expect("a mock without faults"));
    assert!(report.passed(), "{report}");
    assert_eq!(names(&report, Verdict::Passed), case_names(), "{report}");
    let json = serde_json::to_value(&report).expect("a report is plain data");
    assert_eq!(json["cases"][0]["verdict"], "passed");
    assert_eq!(json["model"]["vocab"], 4096);
    assert_eq!(json["device"]["kind"], "cpu");
    assert!(report.to_string().starts_with("[mock] devices_are_sound ... ok\n"), "{report}");
}

#[test]
fn a_model_of_several_files_is_as_good() {
    let Some(fixtures) = std::env::var_os("SCONCE_FIXTURES").map(std::path::PathBuf::from) else {
        println!("skipped: SCONCE_FIXTURES is not set");
        return;
    };
    let folder = fixtures.join("models/stories260k-sharded");
    let files = std::fs::read_dir(&folder).expect("the fixture is there");
    let mut files: Vec<String> =
        files.map(|file| file.expect("readable").path().display().to_string()).collect();
    files.retain(|file| file.contains("-of-") && file.ends_with(".safetensors"));
    files.sort();
    assert_eq!(files.len(), 3);
    let mut request = request();
    request.source.kind = source::SAFETENSORS;
    request.source.paths = files.into_iter().map(Into::into).collect();
    request.source.config_json =
        std::fs::read_to_string(folder.join("config.json")).expect("the fixture has one").into();
    let report = report_on(&mock("").expect("a mock without faults"), request);
    assert_eq!(names(&report, Verdict::Passed), case_names(), "{report}");
}

#[test]
fn what_a_plugin_lacks_is_skipped() {
    let check = |faults: &str, expected: &[&str]| {
        let report = report(&mock(faults).expect("a mock that lacks something"));
        assert!(report.passed(), "{faults}\n{report}");
        assert_eq!(names(&report, Verdict::Skipped), expected, "{faults}");
    };
    let sharing = ["fork_equals_recomputation", "truncate_equals_recomputation", "drafts_equal_single_steps"];
    let best = ["best_tokens_agree_with_full_rows", "bias_and_masks_are_applied", "ties_go_to_the_lowest_id"];
    check("no_batch", &["batch_equals_alone"]);
    let room = ["shared_forks_take_no_room"];
    check("no_fork", &[&sharing[..1], &room].concat());
    check("no_truncate", &sharing[1..]);
    check("no_want_all", &sharing[2..]);
    check("no_hidden", &["hidden_rows_agree"]);
    check("no_topk", &best);
    let none = [&["batch_equals_alone"], &sharing[..], &["hidden_rows_agree"], &best, &room].concat();
    check("no_batch,no_fork,no_truncate,no_want_all,no_topk,no_hidden", &none);
}

/// Faults of the mock, and exactly the cases that fail for each.
const FAULTS: &[(&str, &[&str])] = &[
    ("stale_kv", &["stale_cache_after_a_token_of_warmup", "warmup_leaves_no_trace"]),
    (
        "neighbour",
        &[
            "batch_equals_alone",
            "many_sequences_equal_alone",
            "wanted_rows_agree",
            "hidden_rows_agree",
            "best_tokens_agree_with_full_rows",
        ],
    ),
    (
        "chunk_edge",
        &[
            "chunked_prefill_equals_one_shot",
            "batch_equals_alone",
            "fork_equals_recomputation",
            "truncate_equals_recomputation",
            "drafts_equal_single_steps",
        ],
    ),
    // Its forks write, and so do not share.
    ("fork_off", &["fork_equals_recomputation", "shared_forks_take_no_room"]),
    ("truncate_off", &["truncate_equals_recomputation", "drafts_equal_single_steps"]),
    ("wrong_numbers", &["answers_are_right"]),
    ("wrong_unless_quirk", &[]),
    ("panic_in_check", &["answers_are_right"]),
    (
        "rows_off",
        &[
            "answers_are_right",
            "drafts_equal_single_steps",
            "wanted_rows_agree",
            "bias_and_masks_are_applied",
        ],
    ),
    ("hidden_off", &["hidden_rows_agree"]),
    ("topk_unbiased", &["bias_and_masks_are_applied", "ties_go_to_the_lowest_id"]),
    ("topk_ties", &["ties_go_to_the_lowest_id"]),
    ("not_atomic,slow_token_ms=1", &["cancelled_is_atomic", "kv_full_is_atomic"]),
    ("reserves_part", &["reservations_are_whole"]),
    ("stale_handles", &["stale_handles_are_refused"]),
    (
        "leak",
        &["context_overflow_is_atomic", "kv_full_is_atomic", "reservations_are_whole", "free_returns_memory"],
    ),
];

#[test]
fn each_fault_fails_exactly_its_cases() {
    for (faults, expected) in FAULTS {
        let report = report(&mock(faults).expect("a mock with faults"));
        assert_eq!(&names(&report, Verdict::Failed), expected, "{faults}\n{report}");
    }
}

/// What the SDK would not let an author do, and exactly the cases that fail for it.
const TAMPERS: &[(Tamper, &[&str])] = &[
    (Tamper::TwoDevices, &["devices_are_sound"]),
    (Tamper::NoHeads, &["model_is_described"]),
    (Tamper::BadFigure, &["figures_are_readable"]),
    (Tamper::FallingFigure, &["figures_are_readable"]),
    (Tamper::WrongSum, &["best_tokens_agree_with_full_rows", "bias_and_masks_are_applied"]),
    (Tamper::UnpackedRows, &["wanted_rows_agree"]),
    (Tamper::UnpackedHidden, &["hidden_rows_agree"]),
    (Tamper::BindingHints, &["many_sequences_equal_alone"]),
    (Tamper::LostForks, &["kv_full_is_atomic", "shared_forks_take_no_room", "free_returns_memory"]),
    (Tamper::CostlyForks, &["shared_forks_take_no_room"]),
    (Tamper::HarmfulTrim, &["trim_leaves_no_trace"]),
    (
        Tamper::CountsLoads,
        // Full rows only, so that the best tokens differ from them too.
        &[
            "answers_are_right",
            "stale_cache_after_a_token_of_warmup",
            "warmup_leaves_no_trace",
            "best_tokens_agree_with_full_rows",
            "bias_and_masks_are_applied",
            "reload_equals_first",
            "another_thread_equals_first",
        ],
    ),
    (Tamper::KnowsThreads, &["another_thread_equals_first"]),
    (Tamper::DeafLoad, &["loads_are_cancelled"]),
    (Tamper::SilentLoad, &["loads_are_cancelled"]),
    (Tamper::Swallow(Code::INVALID_ARGUMENT), &["bad_batches_change_nothing"]),
    (Tamper::Swallow(Code::UNSUPPORTED), &["unsupported_is_said"]),
    (Tamper::Swallow(Code::STALE_SEQUENCE), &["stale_handles_are_refused"]),
    (Tamper::Swallow(Code::CANCELLED), &["cancelled_is_atomic"]),
    (Tamper::Swallow(Code::CONTEXT_OVERFLOW), &["context_overflow_is_atomic"]),
    (Tamper::Swallow(Code::KV_FULL), &["kv_full_is_atomic", "reservations_are_whole"]),
    (Tamper::Recode, REFUSALS),
    (Tamper::Mute, REFUSALS),
];

/// The cases in which something is refused.
const REFUSALS: &[&str] = &[
    "bad_batches_change_nothing",
    "unsupported_is_said",
    "stale_handles_are_refused",
    "cancelled_is_atomic",
    "trim_leaves_no_trace",
    "context_overflow_is_atomic",
    "kv_full_is_atomic",
    "reservations_are_whole",
    "loads_are_cancelled",
    "bad_loads_are_refused",
    "bad_files_are_refused",
];

#[test]
fn each_tampering_fails_exactly_its_cases() {
    for (tamper, expected) in TAMPERS {
        let report = report(&tampered(mock("").expect("a mock without faults"), *tamper));
        assert_eq!(&names(&report, Verdict::Failed), expected, "{tamper:?}\n{report}");
    }
}

/// Breaches so wide that most cases see them; the one that is there for them does.
#[test]
fn wide_breaches_are_seen_by_their_case() {
    let check = |plugin, expected: &str| {
        let report = report(&plugin);
        assert!(names(&report, Verdict::Failed).contains(&expected), "{expected}\n{report}");
    };
    let sound = || mock("").expect("a mock without faults");
    check(mock("dirty_slots").expect("a mock with faults"), "second_request_equals_first");
    check(mock("dirty_slots").expect("a mock with faults"), "greedy_is_repeatable");
    check(tampered(sound(), Tamper::Constant), "prompts_are_told_apart");
    check(tampered(sound(), Tamper::Miscount), "prompts_are_told_apart");
    check(tampered(sound(), Tamper::Overrun), "prompts_are_told_apart");
}

#[test]
fn every_case_is_shown_to_fail() {
    let listed = FAULTS.iter().flat_map(|(_, cases)| *cases);
    let listed = listed.chain(TAMPERS.iter().flat_map(|(_, cases)| *cases));
    let wide = ["second_request_equals_first", "greedy_is_repeatable", "prompts_are_told_apart"];
    let shown: BTreeSet<&str> = listed.copied().chain(wide).collect();
    assert_eq!(shown, case_names().into_iter().collect::<BTreeSet<&str>>());
}

#[test]
fn a_plugin_that_cannot_load_is_told_once() {
    for faults in ["panic_in_load", "error_in_load"] {
        let report = report(&mock(faults).expect("a mock with faults"));
        assert_eq!(names(&report, Verdict::Failed), ["model_is_described"], "{report}");
        assert_eq!(names(&report, Verdict::Passed), ["devices_are_sound"], "{report}");
        assert!(!report.passed() && report.model.is_none());
    }
}

#[test]
fn a_plugin_that_panics_is_reported_and_survived() {
    for faults in ["panic_after=40", "device_lost_after=40", "panic_in_drop", "panic_in_devices"] {
        let report = report(&mock(faults).expect("a mock with faults"));
        assert_eq!(report.cases.len(), case_names().len(), "{report}");
        assert_eq!(report.passed(), faults == "panic_in_drop", "{faults}\n{report}");
    }
}
