//! What an error of a plugin means: the one place that turns errors into verdicts.

use std::io::ErrorKind;

use sconce_conformance::answers::AnswerError;
use sconce_plugin_api::abi::Code;
use sconce_plugin_api::loader::{DriverError, DriverFloor, LoadError, ManifestError};

use crate::error::{ModelError, PluginFileError};
use crate::executor::ExecError;

use super::Device;
use super::verdict::Verdict;

/// Of a manifest that cannot be read.
pub fn manifest(error: &ManifestError) -> Verdict {
    let why = error.to_string();
    match error {
        ManifestError::Unreadable(error) if error.kind() == ErrorKind::PermissionDenied => {
            Verdict::NotPermitted {
                why,
                fix: "let this user read it: chmod a+r, or start sconce as its owner".into(),
            }
        }
        ManifestError::Unreadable(_) => {
            Verdict::LoadFailed { why, fix: "see that it is there and readable: ls -l".into() }
        }
        ManifestError::NotALibrary(_) | ManifestError::NoManifest | ManifestError::Damaged(_) => {
            Verdict::NotAPlugin { why }
        }
        ManifestError::Truncated(what) => Verdict::Truncated { why: format!("it is cut short: {what}") },
        ManifestError::WrongArch { found, expected } => {
            Verdict::WrongArch { found: found.clone(), expected: expected.clone() }
        }
        ManifestError::WrongOs { found, expected } => {
            Verdict::WrongOs { found: found.clone(), expected: expected.clone() }
        }
    }
}

/// Of a driver that does not do.
pub fn driver(floor: &DriverFloor, error: &DriverError) -> Verdict {
    let (why, fix) = (error.to_string(), floor.fix.clone());
    match error {
        DriverError::Missing { .. } | DriverError::NoSymbol { .. } => Verdict::DriverMissing { why, fix },
        DriverError::TooOld { .. } => Verdict::DriverTooOld { why, fix },
        DriverError::NoDevice { .. } => Verdict::NoDevice { why },
        // It is there and does not start: that is broken, and not just of no use.
        DriverError::Failed { .. } => Verdict::LoadFailed { why, fix },
    }
}

/// Of a library that cannot be opened.
pub fn load(error: &LoadError) -> Verdict {
    let why = error.to_string();
    match error {
        LoadError::NoRoot | LoadError::Header(_) | LoadError::Version(_) => Verdict::NotAPlugin { why },
        LoadError::Major { theirs, ours } => {
            Verdict::AbiMajor { theirs: theirs.to_string(), ours: ours.to_string() }
        }
        LoadError::TooOld { theirs, oldest } => {
            Verdict::AbiTooOld { theirs: theirs.to_string(), oldest: oldest.to_string() }
        }
        LoadError::Layout { .. } => Verdict::AbiLayout { why },
        LoadError::MissingLibrary { name, looked_in, fix } => Verdict::MissingLibrary {
            name: name.clone(),
            looked_in: looked_in.iter().map(|dir| dir.display().to_string()).collect(),
            fix: fix.clone(),
        },
        LoadError::Dlopen(words) => match too_old(words) {
            Some(version) => Verdict::MissingLibrary {
                name: version.to_owned(),
                looked_in: Vec::new(),
                fix:
                    "the system's own library is older: install a build of the plugin for older systems, or \
                      update the system"
                        .into(),
            },
            None => failed(why),
        },
        LoadError::Root(_) | LoadError::Aborts => failed(why),
    }
}

/// For a reason of its own, which is in the cause.
fn failed(why: String) -> Verdict {
    Verdict::LoadFailed { why, fix: String::new() }
}

/// The version of a system library, such as `GLIBC_2.38`, that the loader says is not there.
fn too_old(words: &str) -> Option<&str> {
    let (_, rest) = words.split_once("version `")?;
    rest.split_once("' not found").map(|(version, _)| version)
}

/// Of a plugin that could not be opened or created.
pub fn file(error: &PluginFileError) -> Verdict {
    match error {
        PluginFileError::Manifest(error) => manifest(error),
        PluginFileError::Load(error) => load(error),
        PluginFileError::Plugin(error) => plugin(error),
    }
}

/// Of what a plugin answers itself.
pub fn plugin(error: &ExecError) -> Verdict {
    let why = error.causes();
    match error.code {
        Code::DEVICE_UNAVAILABLE => Verdict::NoDevice { why },
        Code::OUT_OF_MEMORY => Verdict::OutOfMemory { why },
        _ => failed(why),
    }
}

/// Of an answer check that did not succeed.
pub fn answers(device: &Device, error: AnswerError) -> Verdict {
    let why = format!("{}: {error}", device.name);
    match error {
        AnswerError::Wrong { .. } => Verdict::WrongResult { why },
        AnswerError::Failed { error, .. } => match plugin(&ExecError::from(*error)) {
            Verdict::NoDevice { .. } => Verdict::NoDevice { why },
            Verdict::OutOfMemory { .. } => Verdict::OutOfMemory { why },
            _ => failed(why),
        },
    }
}

/// Of a model that this backend does not run; none if another backend could do no better.
pub fn model(error: &ModelError) -> Option<Verdict> {
    match error {
        ModelError::Unsupported(why) => Some(failed(why.clone())),
        ModelError::Executor(error) if error.code == Code::OUT_OF_MEMORY => Some(plugin(error)),
        ModelError::Executor(error) if error.code == Code::UNSUPPORTED => Some(plugin(error)),
        error if error.blames_backend() => Some(match error {
            ModelError::Executor(error) => plugin(error),
            other => failed(other.to_string()),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_too_old_is_named() {
        let words = "/lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by /opt/a.so)";
        let verdict = load(&LoadError::Dlopen(words.into()));
        assert!(verdict.cause().contains("GLIBC_2.38"), "{}", verdict.cause());
        assert_eq!(verdict.code(), "MISSING_LIBRARY");
        assert_eq!(load(&LoadError::Dlopen("undefined symbol: x".into())).code(), "LOAD_FAILED");
    }
}
