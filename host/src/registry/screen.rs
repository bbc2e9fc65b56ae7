//! What a plugin file says of itself, before any of it runs.

use std::path::Path;

use sconce_plugin_api::loader::{LibraryFile, PluginManifest, check_abi, inspect};

use crate::hardware::{Cpu, Missing};

use super::judge;
use super::verdict::{OLDER_BUILD, Verdict};

/// Reads the manifest, and refuses what cannot run here whatever a probe might say. A file that was refused may
/// still have a manifest to show.
pub fn screen(path: &Path, cpu: &Cpu) -> (Option<PluginManifest>, Result<(), Verdict>) {
    match inspect(path) {
        Err(error) => (None, Err(judge::manifest(&error))),
        Ok(file) => {
            let fits = check_file(&file, cpu);
            (file.manifest.ok(), fits)
        }
    }
}

/// Whether this machine and this host could open a file, as far as it tells itself.
pub fn check_file(file: &LibraryFile, cpu: &Cpu) -> Result<(), Verdict> {
    file.check_target().map_err(|error| judge::manifest(&error))?;
    let manifest = file.manifest.as_ref().map_err(judge::manifest)?;
    check_abi(manifest).map_err(|error| judge::load(&error))?;
    check_features(&manifest.id, cpu.missing(&manifest.cpu_features))
}

/// `id`: of the plugin, which decides what can be done about it.
fn check_features(id: &str, missing: Vec<Missing>) -> Result<(), Verdict> {
    let (disabled, lacking): (Vec<_>, Vec<_>) = missing.into_iter().partition(|missing| missing.os_disabled);
    let names =
        |missing: &[Missing]| missing.iter().map(|m| m.feature.as_str()).collect::<Vec<_>>().join(", ");
    let why = match (names(&lacking), names(&disabled)) {
        (lacking, disabled) if lacking.is_empty() && disabled.is_empty() => return Ok(()),
        (lacking, disabled) if disabled.is_empty() => {
            format!("it needs {lacking}, which this processor lacks")
        }
        (lacking, disabled) if lacking.is_empty() => {
            format!("it needs {disabled}, which the processor has and the system has not enabled")
        }
        (lacking, disabled) => format!(
            "it needs {lacking}, which this processor lacks; it also needs {disabled}, which the system has not enabled"
        ),
    };
    let fix = match id {
        "cpu" => {
            "nothing, if another variant is used; else build one for this machine: scripts/build-plugins cpu"
        }
        _ => OLDER_BUILD,
    };
    Err(Verdict::CpuFeature { why, fix: fix.to_owned(), died: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(id: &str, missing: &[(&str, bool)], expected: Option<(&str, &str)>) {
        let missing =
            missing.iter().map(|&(feature, os_disabled)| Missing { feature: feature.into(), os_disabled });
        match (check_features(id, missing.collect()), expected) {
            (Ok(()), None) => {}
            (Err(Verdict::CpuFeature { why, fix, .. }), Some((cause, command))) => {
                assert_eq!(why, cause);
                assert!(fix.contains(command), "{fix}");
            }
            (other, _) => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_processor_lacks_and_what_the_system_withholds_are_told_apart() {
        check("cpu", &[], None);
        check(
            "cpu",
            &[("avx2", false), ("fma", false)],
            Some(("it needs avx2, fma, which this processor lacks", "scripts/build-plugins cpu")),
        );
        check(
            "cuda",
            &[("avx512f", true)],
            Some((
                "it needs avx512f, which the processor has and the system has not enabled",
                "install a build for older processors",
            )),
        );
        check(
            "cuda",
            &[("avx512f", true), ("amx-int8", false)],
            Some((
                "it needs amx-int8, which this processor lacks; it also needs avx512f, which the system has not enabled",
                "install a build for older processors",
            )),
        );
    }
}
