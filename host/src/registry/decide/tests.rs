//! The choice as a table: what is installed and asked for, and what is used, in order, and what is not.

use serde_json::json;

use super::*;
use crate::hardware::Vendor;
use crate::registry::Device;
use crate::registry::probe::{Opened, ProbedDevice};
use crate::registry::survey::Probe;
use crate::registry::verdict::Stage;

/// A plugin of our own for a kind of device, which works and has one device for each score.
fn plugin(name: &str, kind: &str, scores: &[u32]) -> Candidate {
    let (id, variant) = name.split_once('@').unwrap_or((name, ""));
    let manifest = json!({"id": id, "variant": variant, "abi": "1.1.0", "device_kinds": [kind]});
    let device = |(index, score): (usize, &u32)| ProbedDevice {
        device: Device {
            index: index as u32,
            kind: if kind == "gpu" { 1 } else { 0 },
            name: format!("{id} device"),
            description: String::new(),
            arch: String::new(),
            uuid: String::new(),
            mem_total: 0,
            mem_free: 0,
            score: *score,
            why: None,
            class: None,
            quirks: Vec::new(),
        },
        verdict: Verdict::Ok,
        unchecked: Vec::new(),
    };
    let devices = scores.iter().enumerate().map(device).collect();
    Candidate {
        path: format!("/plugins/libsconce_{id}.so").into(),
        manifest: Some(serde_json::from_value(manifest).expect("a sound manifest")),
        verdict: Verdict::Ok,
        opened: Some(Opened { abi: "1.1".into(), engine: String::new(), devices }),
        said: String::new(),
        probe: Probe::None,
        digest: String::new(),
        identity: String::new(),
    }
}

fn cpu() -> Candidate {
    plugin("cpu@x86-64-v3", "cpu", &[103])
}

fn cuda() -> Candidate {
    plugin("cuda", "gpu", &[1000, 1000])
}

/// The plugin with a verdict that its probe or its file came to.
fn refused(candidate: Candidate, verdict: Verdict) -> Candidate {
    Candidate { verdict, opened: None, ..candidate }
}

fn crashed(candidate: Candidate) -> Candidate {
    refused(
        candidate,
        Verdict::Crashed { signal: "SIGSEGV".into(), stage: Stage::Create, said: String::new() },
    )
}

fn driver_missing(candidate: Candidate) -> Candidate {
    refused(candidate, Verdict::DriverMissing { why: "none".into(), fix: String::new() })
}

fn not_chosen(candidate: Candidate) -> Candidate {
    refused(candidate, Verdict::NotChosen { why: "another is asked for".into() })
}

/// A file of which nothing can be read.
fn unreadable(path: &str) -> Candidate {
    let candidate = refused(cpu(), Verdict::Truncated { why: "it is cut".into() });
    Candidate { path: path.into(), manifest: None, ..candidate }
}

fn test_plugin(mut candidate: Candidate) -> Candidate {
    candidate.manifest.as_mut().expect("it has one").test = true;
    candidate
}

fn with_device(mut candidate: Candidate, at: usize, change: impl FnOnce(&mut ProbedDevice)) -> Candidate {
    change(&mut candidate.opened.as_mut().expect("it works").devices[at]);
    candidate
}

fn wrong_result(candidate: Candidate, at: usize) -> Candidate {
    with_device(candidate, at, |d| d.verdict = Verdict::WrongResult { why: "off by 100 %".into() })
}

fn free(candidate: Candidate, at: usize, bytes: u64) -> Candidate {
    with_device(candidate, at, |d| d.device.mem_free = bytes)
}

fn gpu() -> Gpu {
    Gpu {
        vendor: Vendor::Nvidia,
        name: "a GPU".into(),
        address: "0000:01:00.0".into(),
        id: String::new(),
        driver: None,
        driver_version: None,
        backend: Some("cuda"),
        memory_bytes: None,
    }
}

/// What a machine has and what is asked of it.
struct Case {
    policy: &'static str,
    require_gpu: bool,
    gpus: Vec<Gpu>,
    plugins: Vec<Candidate>,
}

fn asked(policy: &'static str, plugins: Vec<Candidate>) -> Case {
    Case { policy, require_gpu: false, gpus: Vec::new(), plugins }
}

impl Case {
    fn requiring_gpu(self) -> Self {
        Case { require_gpu: true, ..self }
    }

    fn with_gpu(self) -> Self {
        Case { gpus: vec![gpu()], ..self }
    }

    /// `picks`: `ID:DEVICE=SCORE`, best first. `fallback`: what was wanted and the code of its verdict.
    #[track_caller]
    fn gives(self, picks: &str, fallback: Option<(&str, &str)>) {
        let policy = self.policy.parse().expect("a sound policy");
        let facts = Facts {
            policy: &policy,
            require_gpu: self.require_gpu,
            candidates: &self.plugins,
            gpus: &self.gpus,
            searched: &["/plugins".to_owned()],
        };
        let decision = decide(&facts);
        let shown = |pick: &Pick| {
            let index = facts.device(*pick).index;
            format!("{}:{index}={}", self.plugins[pick.candidate].name(), pick.score)
        };
        let found: Vec<String> = decision.picks.iter().map(shown).collect();
        assert_eq!(found.join(" "), picks);
        let found = decision.fallback.as_ref();
        assert_eq!(found.map(|f| (f.wanted.as_str(), f.verdict.code())), fallback, "{found:?}");
    }
}

#[test]
fn the_highest_score_wins_then_free_memory_then_the_order() {
    asked("auto", vec![]).gives("", None);
    asked("auto", vec![cpu(), cuda()]).gives("cuda:0=1000 cuda:1=1000 cpu@x86-64-v3:0=103", None);
    let more = free(free(cuda(), 0, 1 << 30), 1, 2 << 30);
    asked("auto", vec![more]).gives("cuda:1=1000 cuda:0=1000", None);
    let levels = [102, 104, 103].map(|score| plugin(&format!("cpu@{score}"), "cpu", &[score])).to_vec();
    asked("auto", levels).gives("cpu@104:0=104 cpu@103:0=103 cpu@102:0=102", None);
    let twins = vec![plugin("one", "cpu", &[101]), free(plugin("two", "cpu", &[101]), 0, 1)];
    asked("auto", twins).gives("one:0=101 two:0=101", None);
}

#[test]
fn a_third_party_comes_behind_our_gpus_unless_it_is_named() {
    let others = || plugin("org.acme.npu", "accelerator", &[4_000_000_000]);
    asked("auto", vec![cpu(), others()]).gives("org.acme.npu:0=999 cpu@x86-64-v3:0=103", None);
    asked("auto", vec![others(), plugin("cuda", "gpu", &[1000])])
        .gives("cuda:0=1000 org.acme.npu:0=999", None);
    asked("org.acme.npu", vec![others(), cuda()]).gives("org.acme.npu:0=4000000000", None);
}

#[test]
fn devices_that_do_not_work_are_no_choice() {
    asked("auto", vec![wrong_result(cuda(), 0), cpu()]).gives("cuda:1=1000 cpu@x86-64-v3:0=103", None);
    asked("cuda:0,cpu", vec![wrong_result(cuda(), 0), cpu()])
        .gives("cpu@x86-64-v3:0=103", Some(("cuda:0", "WRONG_RESULT")));
}

#[test]
fn wishes_are_met_in_their_order() {
    let all = || vec![cpu(), cuda(), plugin("cpu@x86-64-v2", "cpu", &[102])];
    asked("cuda", all()).gives("cuda:0=1000 cuda:1=1000", None);
    asked("cpu", all()).gives("cpu@x86-64-v3:0=103 cpu@x86-64-v2:0=102", None);
    asked("cpu@x86-64-v2,cuda:1", all()).gives("cpu@x86-64-v2:0=102 cuda:1=1000", None);
    asked("cuda:1,cuda", all()).gives("cuda:1=1000 cuda:0=1000", None);
    asked("gpu", all()).gives("cuda:0=1000 cuda:1=1000", None);
    asked("cuda device", all()).gives("cuda:0=1000 cuda:1=1000", None);
    asked("CUDA DEVICE:1", all()).gives("cuda:1=1000", None);
}

#[test]
fn an_unmet_wish_is_told_with_its_own_reason() {
    let check = |policy, plugins: Vec<Candidate>, code: &str| {
        asked(policy, plugins).gives("", Some((policy, code)));
    };
    check("cuda", vec![not_chosen(cpu())], "NOT_INSTALLED");
    check("cuda", vec![not_chosen(cpu()), crashed(cuda())], "CRASHED");
    check("cpu@x86-64-v4", vec![not_chosen(cpu())], "NOT_INSTALLED");
    check("cuda:2", vec![not_chosen(cpu()), cuda()], "NO_DEVICE");
    check("cuda:0", vec![wrong_result(cuda(), 0)], "WRONG_RESULT");
    check("gpu", vec![plugin("both", "gpu", &[]), not_chosen(cpu())], "NO_DEVICE");
    check("gpu", vec![driver_missing(cuda())], "DRIVER_MISSING");
    // A file that cannot be read is known by its name, to the letter.
    check("cuda", vec![unreadable("/plugins/libsconce_cuda.so")], "TRUNCATED");
    check("cuda", vec![unreadable("/plugins/libsconce_cuda-13.so")], "TRUNCATED");
    check("cuda", vec![unreadable("/plugins/libsconce_cuda13.so")], "NOT_INSTALLED");
    check("cuda", vec![unreadable("/sconce_cuda/other.so")], "NOT_INSTALLED");
    // The plugin of that name that works says more than its copies, and one that failed more than one not needed.
    let copy = || refused(cuda(), Verdict::Duplicate { of: "another".into() });
    check("cuda:5", vec![copy(), cuda()], "NO_DEVICE");
    check("cuda", vec![copy(), crashed(cuda())], "CRASHED");
}

/// A plugin that is broken and was not asked for is no reason of anything.
#[test]
fn no_other_plugin_is_blamed() {
    let all = || vec![crashed(plugin("org.acme.npu", "accelerator", &[])), cpu()];
    asked("cuda", all()).gives("", Some(("cuda", "NOT_INSTALLED")));
    asked("metal,cpu", all()).gives("cpu@x86-64-v3:0=103", Some(("metal", "NOT_INSTALLED")));
    asked("cpu@x86-64-v4", vec![cpu()]).gives("", Some(("cpu@x86-64-v4", "NOT_INSTALLED")));
}

#[test]
fn a_later_wish_is_a_fallback() {
    let check = |plugins: Vec<Candidate>, code| {
        asked("cuda,cpu", plugins).gives("cpu@x86-64-v3:0=103", Some(("cuda", code)));
    };
    check(vec![cpu()], "NOT_INSTALLED");
    check(vec![crashed(cuda()), cpu()], "CRASHED");
    check(vec![driver_missing(cuda()), cpu()], "DRIVER_MISSING");
    asked("cpu,cuda", vec![crashed(cuda()), cpu()]).gives("cpu@x86-64-v3:0=103", None);
}

#[test]
fn only_gpus_where_one_is_required() {
    asked("auto", vec![cpu()]).requiring_gpu().gives("", Some(("gpu", "NO_DEVICE")));
    asked("auto", vec![cpu(), cuda()]).requiring_gpu().gives("cuda:0=1000 cuda:1=1000", None);
    asked("auto", vec![cpu()]).requiring_gpu().with_gpu().gives("", Some(("cuda", "NOT_INSTALLED")));
    asked("cpu", vec![cpu()]).requiring_gpu().gives("", Some(("cpu", "NO_DEVICE")));
    asked("cuda,cpu", vec![cpu(), crashed(cuda())]).requiring_gpu().gives("", Some(("cuda", "CRASHED")));
}

#[test]
fn hardware_that_is_there_and_not_used_is_a_fallback() {
    let check = |plugins: Vec<Candidate>, code| {
        asked("auto", plugins).with_gpu().gives("cpu@x86-64-v3:0=103", Some(("cuda", code)));
    };
    check(vec![cpu()], "NOT_INSTALLED");
    check(vec![driver_missing(cuda()), cpu()], "DRIVER_MISSING");
    check(vec![unreadable("/plugins/libsconce_cuda.so"), cpu()], "TRUNCATED");
    let variants = vec![
        refused(plugin("cuda@12", "gpu", &[]), Verdict::Duplicate { of: "another".into() }),
        driver_missing(plugin("cuda@13", "gpu", &[])),
        cpu(),
    ];
    check(variants, "DRIVER_MISSING");
    // The person who asks for the processor gets it.
    asked("cpu", vec![cpu()]).with_gpu().gives("cpu@x86-64-v3:0=103", None);
    asked("auto", vec![cpu(), cuda()]).with_gpu().gives("cuda:0=1000 cuda:1=1000 cpu@x86-64-v3:0=103", None);
    // It works, and gave itself less than a CPU has.
    let modest = plugin("cuda", "gpu", &[50]);
    asked("auto", vec![cpu(), modest]).with_gpu().gives("cpu@x86-64-v3:0=103 cuda:0=50", None);
}

#[test]
fn a_better_plugin_that_is_broken_is_a_fallback() {
    let check = |broken: Candidate, fallback| {
        asked("auto", vec![broken, cpu()]).gives("cpu@x86-64-v3:0=103", fallback);
    };
    check(crashed(cuda()), Some(("cuda", "CRASHED")));
    check(crashed(plugin("org.acme.npu", "accelerator", &[])), Some(("org.acme.npu", "CRASHED")));
    check(crashed(plugin("org.acme.cpu", "cpu", &[])), None);
    // Without a GPU nobody misses a plugin for it that finds no driver.
    check(driver_missing(cuda()), None);
    check(test_plugin(crashed(cuda())), None);
    let mut next_level = plugin("cpu@x86-64-v4", "cpu", &[]);
    next_level.manifest.as_mut().expect("it has one").cpu_features = vec!["avx512f".into()];
    check(
        refused(
            next_level.clone(),
            Verdict::CpuFeature { why: "avx512f".into(), fix: String::new(), died: false },
        ),
        None,
    );
    check(crashed(next_level), Some(("cpu@x86-64-v4", "CRASHED")));
    // Of several the one that would have come first.
    let both = vec![crashed(plugin("org.acme.npu", "accelerator", &[])), crashed(cuda()), cpu()];
    asked("auto", both).gives("cpu@x86-64-v3:0=103", Some(("cuda", "CRASHED")));
}

/// A GPU that computes wrongly is not forgotten because its plugin has another device.
#[test]
fn a_better_device_that_is_broken_is_a_fallback() {
    let broken = || wrong_result(plugin("cuda", "gpu", &[1000, 800]), 0);
    asked("auto", vec![broken(), cpu()])
        .with_gpu()
        .gives("cuda:1=800 cpu@x86-64-v3:0=103", Some(("cuda:0", "WRONG_RESULT")));
    let no_code = |d: &mut ProbedDevice| {
        d.device.score = 0;
        d.verdict = Verdict::NoCodeForDevice { why: "too new".into() };
    };
    let old = with_device(plugin("cuda", "gpu", &[1000, 50]), 0, no_code);
    asked("auto", vec![old, cpu()])
        .gives("cpu@x86-64-v3:0=103 cuda:1=50", Some(("cuda:0", "NO_CODE_FOR_DEVICE")));
}

#[test]
fn another_accelerator_does_not_hide_a_gpu_without_its_plugin() {
    let all = vec![plugin("org.acme.npu", "accelerator", &[2000]), cpu()];
    asked("auto", all)
        .with_gpu()
        .gives("org.acme.npu:0=999 cpu@x86-64-v3:0=103", Some(("cuda", "NOT_INSTALLED")));
}

/// Whoever may write to a file must not make a name mean something else.
#[test]
fn a_file_that_is_not_permitted_takes_no_name_away() {
    let planted = || {
        let verdict = Verdict::NotPermitted { why: "everybody may write to it".into(), fix: String::new() };
        refused(plugin("gpu", "gpu", &[]), verdict)
    };
    asked("gpu", vec![planted(), cuda()]).gives("cuda:0=1000 cuda:1=1000", None);
    asked("gpu", vec![planted()]).gives("", Some(("gpu", "NOT_PERMITTED")));
}
