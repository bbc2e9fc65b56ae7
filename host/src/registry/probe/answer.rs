//! What a probe child writes for its parent: one JSON object a line, as soon as it knows.
//!
//! A file and not a pipe, since plugins may print to any descriptor they inherit; with a number that only this
//! parent and this child know.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::registry::Device;
use crate::registry::verdict::{Stage, Verdict};

/// A plugin that could be opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// `major.minor`
    pub abi: String,
    pub engine: String,
    pub devices: Vec<ProbedDevice>,
}

/// A device, and whether it computes rightly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbedDevice {
    pub device: Device,
    pub verdict: Verdict,
    /// Kinds of weights that the plugin does not take and that were not checked.
    pub unchecked: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    nonce: u64,
    #[serde(flatten)]
    said: Said,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Stage(Stage),
    Refused(Verdict),
    /// It could be opened, and this is what it has.
    Opened {
        abi: String,
        engine: String,
        devices: Vec<Device>,
    },
    /// The next of the devices was checked.
    Device(Box<ProbedDevice>),
}

/// The child's end.
pub struct Writer {
    file: File,
    nonce: u64,
}

/// What the parent found in the file.
#[derive(Debug, Default, PartialEq)]
pub struct Read {
    /// How far the child came.
    pub stage: Stage,
    refused: Option<Verdict>,
    abi: String,
    engine: String,
    /// What the plugin has; none as long as it was not opened.
    devices: Option<Vec<Device>>,
    /// Those of them that were checked, in their order.
    checked: Vec<ProbedDevice>,
}

impl Writer {
    pub fn create(path: &Path, nonce: u64) -> std::io::Result<Self> {
        Ok(Writer { file: File::create(path)?, nonce })
    }

    pub fn stage(&mut self, stage: Stage) -> std::io::Result<()> {
        self.line(Said::Stage(stage))
    }

    pub fn refused(&mut self, verdict: Verdict) -> std::io::Result<()> {
        self.line(Said::Refused(verdict))
    }

    pub fn opened(&mut self, abi: &str, engine: &str, devices: &[Device]) -> std::io::Result<()> {
        let devices = devices.to_vec();
        self.line(Said::Opened { abi: abi.to_owned(), engine: engine.to_owned(), devices })
    }

    pub fn device(&mut self, device: ProbedDevice) -> std::io::Result<()> {
        self.line(Said::Device(Box::new(device)))
    }

    fn line(&mut self, said: Said) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(&Line { nonce: self.nonce, said }).expect("plain data");
        line.push(b'\n');
        // In one call, so that a child that dies leaves whole lines.
        self.file.write_all(&line)
    }
}

/// Reads what there is. Lines that are not ours are passed over.
pub fn read(path: &Path, nonce: u64) -> Read {
    // A child that died at once has written no file.
    let text = std::fs::read(path).unwrap_or_default();
    let lines =
        text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok());
    let mut read = Read::default();
    for line in lines.filter(|line| line.nonce == nonce) {
        match line.said {
            Said::Stage(stage) => read.stage = stage,
            Said::Refused(verdict) => read.refused = Some(verdict),
            Said::Opened { abi, engine, devices } => {
                (read.abi, read.engine, read.devices) = (abi, engine, Some(devices));
            }
            Said::Device(device) => read.checked.push(*device),
        }
    }
    read
}

impl Read {
    /// The answer, if it is complete. Otherwise `death` says how the child ended, and that becomes the verdict:
    /// of the devices that were not checked, where another one works; else of the plugin.
    pub fn outcome(self, death: impl FnOnce(Stage) -> Verdict) -> Result<Opened, Verdict> {
        if let Some(verdict) = self.refused {
            return Err(verdict);
        }
        let left =
            self.devices.as_ref().map_or(1, |devices| devices.len().saturating_sub(self.checked.len()));
        let mut devices = self.checked;
        if left > 0 {
            let verdict = death(self.stage);
            if !devices.iter().any(|device| device.verdict.is_ok()) {
                return Err(verdict);
            }
            let all = self.devices.unwrap_or_default().into_iter().skip(devices.len());
            devices.extend(all.map(|device| ProbedDevice {
                device,
                verdict: verdict.clone(),
                unchecked: Vec::new(),
            }));
        }
        Ok(Opened { abi: self.abi, engine: self.engine, devices })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32) -> Device {
        let fields = serde_json::json!({"index": index, "kind": 1, "name": "a", "description": "", "arch": "",
            "uuid": "", "mem_total": 0, "mem_free": 0, "score": 1000, "why": null, "quirks": []});
        serde_json::from_value(fields).expect("a sound device")
    }

    fn checked(index: u32, verdict: Verdict) -> ProbedDevice {
        ProbedDevice { device: device(index), verdict, unchecked: Vec::new() }
    }

    fn died(stage: Stage) -> Verdict {
        Verdict::Crashed { signal: "SIGSEGV".into(), stage, said: String::new() }
    }

    /// What a child wrote before it died.
    fn after(write: impl FnOnce(&mut Writer)) -> Result<Opened, Verdict> {
        let file = tempfile::NamedTempFile::new().expect("a file for the test");
        let mut writer = Writer::create(file.path(), 7).expect("our own file");
        write(&mut writer);
        writer.file.write_all(b"{\"nonce\":8,\"refused\":{}}\nnoise\n{\"nonce\":").expect("our own file");
        read(file.path(), 7).outcome(died)
    }

    #[test]
    fn a_child_that_dies_is_blamed_for_the_stage_it_reached() {
        assert_eq!(after(|_| {}), Err(died(Stage::Start)));
        assert_eq!(after(|w| w.stage(Stage::Create).expect("our own file")), Err(died(Stage::Create)));
        let refused = Verdict::NoDevice { why: "none".into() };
        assert_eq!(after(|w| w.refused(refused.clone()).expect("our own file")), Err(refused));
    }

    #[test]
    fn a_crash_on_one_device_takes_nothing_from_those_that_work() {
        let opened = |w: &mut Writer| {
            w.stage(Stage::Answers).expect("our own file");
            w.opened("1.1", "none", &[device(0), device(1)]).expect("our own file");
        };
        assert_eq!(after(opened), Err(died(Stage::Answers)));
        let first = |w: &mut Writer| {
            opened(w);
            w.device(checked(0, Verdict::Ok)).expect("our own file");
        };
        let devices = after(first).expect("one works").devices;
        assert_eq!(devices, [checked(0, Verdict::Ok), checked(1, died(Stage::Answers))]);
        let both = |w: &mut Writer| {
            first(w);
            w.device(checked(1, Verdict::NoDevice { why: "gone".into() })).expect("our own file");
        };
        assert_eq!(after(both).expect("complete").devices[1].verdict.code(), "NO_DEVICE");
    }
}
