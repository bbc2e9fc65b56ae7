//! What a plugin file says of itself, before any of it runs.

use std::path::Path;

use sconce_plugin_api::loader::{PluginManifest, check_abi, inspect};

use crate::hardware::Cpu;

use super::judge;
use super::verdict::Verdict;

/// Reads the manifest, and refuses what cannot run here whatever a probe might say. A file that was refused may
/// still have a manifest to show.
pub fn screen(path: &Path, cpu: &Cpu) -> (Option<PluginManifest>, Result<(), Verdict>) {
    let file = match inspect(path) {
        Ok(file) => file,
        Err(error) => return (None, Err(judge::manifest(&error))),
    };
    let target = file.check_target();
    match file.manifest {
        Err(error) => (None, Err(judge::manifest(&target.err().unwrap_or(error)))),
        Ok(manifest) => {
            let target = target.map_err(|e| judge::manifest(&e));
            let speaks = target.and_then(|()| check_abi(&manifest).map_err(|e| judge::load(&e)));
            let fits = speaks.and_then(|()| features(&manifest, cpu));
            (Some(manifest), fits)
        }
    }
}

fn features(manifest: &PluginManifest, cpu: &Cpu) -> Result<(), Verdict> {
    let missing = cpu.missing(&manifest.cpu_features);
    if missing.is_empty() {
        return Ok(());
    }
    let words = |os_disabled: bool| {
        let names = missing.iter().filter(|m| m.os_disabled == os_disabled).map(|m| m.feature.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let missing = match (words(false), words(true)) {
        (cpu, os) if os.is_empty() => cpu,
        (cpu, os) if cpu.is_empty() => format!("{os} (which the system has not enabled)"),
        (cpu, os) => format!("{cpu}, {os} (the latter not enabled by the system)"),
    };
    Err(Verdict::CpuFeature { missing })
}
