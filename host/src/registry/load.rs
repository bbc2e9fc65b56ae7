//! A plugin of this process as the rest of the host sees it: its devices, and models loaded onto them.

use std::path::Path;

use abi_stable::std_types::{RString, RVec};
use sconce_conformance::answers::{self, AnswerError};
use sconce_conformance::{CaseReport, Report, Subject, run_cases};
use sconce_formats::{Format, source::ModelSource as Files};
use sconce_plugin_api::abi::codes::{device, source};
use sconce_plugin_api::abi::{AbiError, Code, DeviceInfo, KeyValue, LoadRequest, ModelSource, PluginBox};
use sconce_plugin_api::loader::open;
use serde::{Deserialize, Serialize};

use crate::error::{ModelError, PluginFileError};
use crate::executor::{ExecError, InProcess};
use crate::logging::host_api;

/// An opened plugin.
pub struct Backend {
    plugin: PluginBox,
    pub id: String,
    pub version: String,
    pub engine: String,
    pub abi: String,
}

/// One device of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub index: u32,
    /// `codes::device`.
    pub kind: u32,
    pub name: String,
    pub description: String,
    pub arch: String,
    /// Stable identity; may be empty.
    pub uuid: String,
    /// Bytes; 0 if unknown.
    pub mem_total: u64,
    pub mem_free: u64,
    /// The plugin's preference; 0 = it cannot use this device.
    pub score: u32,
    /// Why it cannot, if it says so.
    pub why: Option<String>,
    /// What pool managers know such devices as, if the plugin says.
    #[serde(default)]
    pub class: Option<String>,
    /// Option switches that made it compute rightly, as `KEY` or `KEY=VALUE`.
    pub quirks: Vec<String>,
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
    pub kv_dtype: u32,
    /// Bytes of the KV cache.
    pub kv_bytes: u64,
    pub options: Vec<(String, String)>,
}

/// What a backend says of a model after reading its headers.
#[derive(Debug, Clone)]
pub struct ModelVerdict {
    pub parameters: u64,
    pub weights_bytes: u64,
}

impl Backend {
    /// Opens a plugin file whose manifest was read, and creates the plugin.
    pub fn open(path: &Path, options: &[(String, String)]) -> Result<Self, PluginFileError> {
        Self::open_in_steps(path, options, || ())
    }

    /// The same; `opened` hears when the library is open and the plugin is about to be created.
    pub fn open_in_steps(
        path: &Path,
        options: &[(String, String)],
        opened: impl FnOnce(),
    ) -> Result<Self, PluginFileError> {
        let open = open(path)?;
        opened();
        let plugin = open.create(host_api(), &key_values(options)).map_err(ExecError::from)?;
        Ok(Backend {
            plugin,
            id: open.info.id.to_string(),
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

    /// Loads the check's models onto a device and compares what it computes with the reference.
    /// `dir`: where [`answers::write_models`] wrote them.
    pub fn check_answers(
        &self,
        device: u32,
        dir: &Path,
        options: &[(String, String)],
    ) -> Result<answers::Passed, AnswerError> {
        let devices = self.plugin.devices().into_result();
        let devices = devices.map_err(|error| AnswerError::Failed {
            model: "no",
            call: "devices",
            error: error.into(),
        })?;
        let gone = || AnswerError::Failed {
            model: "no",
            call: "devices",
            error: AbiError::new(Code::DEVICE_UNAVAILABLE, "the device is gone").into(),
        };
        let device = devices.iter().find(|d| d.index == device).ok_or_else(gone)?;
        answers::check(&self.plugin, device, dir, &key_values(options))
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
}

/// Lets the plugin stop its threads. Whoever has an executor of it holds on to the backend, so this comes last.
impl Drop for Backend {
    fn drop(&mut self) {
        self.plugin.shutdown();
    }
}

/// A plugin's name with its variant, where it has one.
pub(super) fn full_name(id: &str, variant: &str) -> String {
    if variant.is_empty() { id.to_owned() } else { format!("{id}@{variant}") }
}

impl Device {
    fn from_wire(info: &DeviceInfo) -> Self {
        let more = |key: &str| info.ext.iter().find(|kv| kv.key == key).map(|kv| kv.s.to_string());
        Device {
            index: info.index,
            kind: info.kind,
            name: info.name.to_string(),
            description: info.description.to_string(),
            arch: info.arch.to_string(),
            uuid: info.uuid.to_string(),
            mem_total: info.mem_total,
            mem_free: info.mem_free,
            score: info.score,
            why: more("why"),
            class: more("class"),
            quirks: Vec::new(),
        }
    }

    /// `cpu`, `gpu`, …
    pub fn kind_name(&self) -> &'static str {
        device::name(self.kind)
    }

    /// Whether another device at the same index may be this one.
    pub fn may_be(&self, other: &Device) -> bool {
        self.uuid.is_empty() || other.uuid.is_empty() || self.uuid == other.uuid
    }

    /// The switches it needs, as options of a load.
    pub fn quirk_options(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.quirks.iter().map(|quirk| {
            let (key, value) = answers::switch(quirk);
            (key.to_owned(), value.to_owned())
        })
    }

    /// Whether it is anything else than the host's processor.
    pub fn is_accelerator(&self) -> bool {
        self.kind != device::CPU
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
        kv_dtype: plan.kv_dtype,
        max_context: plan.max_context,
        max_batch_tokens: plan.max_batch_tokens,
        max_sequences: plan.max_sequences,
        threads: plan.threads,
        kv_bytes: plan.kv_bytes,
        options: key_values(&plan.options).into(),
        _r: [0; 16],
    })
}

fn key_values(options: &[(String, String)]) -> Vec<KeyValue> {
    options.iter().map(|(key, value)| KeyValue::string(key, value)).collect()
}
