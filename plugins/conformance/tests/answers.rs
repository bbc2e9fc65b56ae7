//! The answer check: the CPU computes what the reference does, and what does not is told.

mod support;

use sconce_conformance::answers::{AnswerError, LIMIT, Passed, check, write_models};
use sconce_plugin_api::abi::{DeviceInfo, PluginBox};
use sconce_plugin_api::loader;
use support::{host, library};

fn device(plugin: &PluginBox) -> DeviceInfo {
    plugin.devices().into_result().expect("the plugin has devices")[0].clone()
}

/// Checks the plugin's first device, as `change` makes it look.
fn checked(plugin: &PluginBox, change: impl FnOnce(&mut DeviceInfo)) -> Result<Passed, AnswerError> {
    let dir = tempfile::tempdir().expect("a directory for the test");
    write_models(dir.path()).expect("it can be written to");
    let mut device = device(plugin);
    change(&mut device);
    check(plugin, &device, dir.path(), &[])
}

#[test]
fn the_processor_computes_what_the_reference_does() {
    let open = loader::open(&library("cpu")).expect("the CPU plugin is sound");
    let plugin = open.create(host(), &[]).expect("it can be created");
    let start = std::time::Instant::now();
    let passed = checked(&plugin, |_| ()).expect("a processor computes rightly");
    println!("{:?} in {} ms, of {LIMIT}", passed.errors, start.elapsed().as_millis());
    let names: Vec<&str> = passed.errors.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["f32", "f16", "q8_0", "q4_k"]);
    assert!(passed.quirks.is_empty() && passed.unchecked.is_empty());
    // Far from the limit, so that it leaves room for half types on other devices.
    assert!(passed.worst < LIMIT / 3.0, "{passed:?}");
    let dense = &passed.errors[..2];
    assert!(dense.iter().all(|(_, error)| *error < 1e-5), "{dense:?}");
}
