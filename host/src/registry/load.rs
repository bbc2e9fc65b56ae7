//! A plugin of this process as the rest of the host sees it: its devices, and models loaded onto them.

use std::path::Path;

use abi_stable::std_types::{RString, RVec};
use sconce_conformance::{CaseReport, Report, Subject, run_cases};
use sconce_formats::{Format, source::ModelSource as Files};
use sconce_plugin_api::abi::codes::{device, dtype, source};
use sconce_plugin_api::abi::{DeviceInfo, KeyValue, LoadRequest, ModelSource, PluginBox};
use sconce_plugin_api::loader::{self, PluginManifest, open};

use crate::error::{ModelError, PluginFileError};
use crate::executor::{ExecError, InProcess};
use crate::logging::host_api;

/// An opened plugin.
pub struct Backend {
    plugin: PluginBox,
    pub id: String,
    pub variant: String,
    pub version: String,
    pub engine: String,
    pub abi: String,
}

/// One device of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub index: u32,
    pub kind: &'static str,
    pub name: String,
    pub arch: String,
    pub mem_total: u64,
    pub mem_free: u64,
    pub score: u32,
}

/// What to load and within which limits. Zero means the backend's own choice.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    pub device: u32,
    pub max_context: u32,
    pub max_batch_tokens: u32,
    pub max_sequences: u32,
    pub threads: u32,
    pub weight_dtype: u32,
    pub options: Vec<(String, String)>,
}

/// What a backend says of a model after reading its headers.
#[derive(Debug, Clone)]
pub struct ModelVerdict {
    pub parameters: u64,
    pub weights_bytes: u64,
}

/// Refuses a plugin for another ABI before any of it is executed.
pub fn check_abi(manifest: &PluginManifest) -> Result<(), PluginFileError> {
    Ok(loader::check_abi(manifest)?)
}

impl Backend {
    /// Opens a plugin file whose manifest was read, and creates the plugin.
    pub fn open(path: &Path, options: &[(String, String)]) -> Result<Self, PluginFileError> {
        let open = open(path)?;
        let plugin = open.create(host_api(), &key_values(options)).map_err(ExecError::from)?;
        Ok(Backend {
            plugin,
            id: open.info.id.to_string(),
            variant: open.info.variant.to_string(),
            version: open.info.version.to_string(),
            engine: open.info.engine.to_string(),
            abi: open.abi.to_string(),
        })
    }

    /// The devices this backend can use here.
    pub fn devices(&self) -> Result<Vec<Device>, ExecError> {
        let devices = self.plugin.devices().into_result()?;
        Ok(devices.iter().map(Device::from_wire).collect())
    }

    /// Asks whether a model could be loaded; reads headers only.
    pub fn check_model(&self, files: &Files) -> Result<ModelVerdict, ModelError> {
        let check = self.plugin.check_model(&wire_source(files)?).into_result().map_err(ExecError::from)?;
        if check.supported == 0 {
            return Err(ModelError::Unsupported(check.reason.to_string()));
        }
        Ok(ModelVerdict { parameters: check.parameters, weights_bytes: check.weights_bytes })
    }

    /// Loads a model; call it on the thread that will own the executor.
    pub fn load(
        &self,
        files: &Files,
        plan: &LoadPlan,
        progress: &mut dyn FnMut(u32, u64, u64) -> bool,
    ) -> Result<InProcess, ModelError> {
        Ok(InProcess::load(&self.plugin, &wire_request(files, plan)?, progress)?)
    }

    /// Runs the cases every plugin passes; `observe` hears of each when it is done.
    pub fn conformance(
        &self,
        files: &Files,
        plan: &LoadPlan,
        observe: impl FnMut(&str, &CaseReport),
    ) -> Result<Report, ModelError> {
        let subject = Subject {
            plugin: &self.plugin,
            id: self.id.clone(),
            version: self.version.clone(),
            abi: self.abi.clone(),
            request: wire_request(files, plan)?,
        };
        Ok(run_cases(&subject, |_| true, observe))
    }

    /// Lets the plugin stop its threads; call it once, after its last executor is gone.
    pub fn shutdown(&self) {
        self.plugin.shutdown();
    }
}

impl Device {
    fn from_wire(info: &DeviceInfo) -> Self {
        Device {
            index: info.index,
            kind: device::name(info.kind),
            name: info.name.to_string(),
            arch: info.arch.to_string(),
            mem_total: info.mem_total,
            mem_free: info.mem_free,
            score: info.score,
        }
    }
}

fn wire_source(files: &Files) -> Result<ModelSource, ModelError> {
    let path = |path: &std::path::PathBuf| path.to_str().map(RString::from).ok_or(ModelError::PathNotUtf8);
    Ok(ModelSource {
        kind: match files.format {
            Format::Safetensors => source::SAFETENSORS,
            Format::Gguf => source::GGUF,
        },
        _pad: 0,
        paths: files.weights.iter().map(path).collect::<Result<RVec<_>, _>>()?,
        config_json: files.config_json.clone().unwrap_or_default().into(),
        _r: [0; 4],
    })
}

fn wire_request(files: &Files, plan: &LoadPlan) -> Result<LoadRequest, ModelError> {
    Ok(LoadRequest {
        devices: RVec::from(vec![plan.device]),
        source: wire_source(files)?,
        weight_dtype: plan.weight_dtype,
        kv_dtype: dtype::AUTO,
        max_context: plan.max_context,
        max_batch_tokens: plan.max_batch_tokens,
        max_sequences: plan.max_sequences,
        threads: plan.threads,
        kv_bytes: 0,
        options: key_values(&plan.options).into(),
        _r: [0; 16],
    })
}

fn key_values(options: &[(String, String)]) -> Vec<KeyValue> {
    options.iter().map(|(key, value)| KeyValue::string(key, value)).collect()
}
