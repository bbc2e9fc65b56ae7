//! What a probe child writes for its parent: one JSON object a line, the last of which is the answer.
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
    Opened(Opened),
    Refused(Verdict),
}

/// The child's end.
pub struct Writer {
    file: File,
    nonce: u64,
}

/// What the parent found in the file.
#[derive(Debug, PartialEq)]
pub struct Read {
    /// How far the child came.
    pub stage: Stage,
    /// Its answer, if it came to one.
    pub answer: Option<Result<Opened, Verdict>>,
}

impl Writer {
    pub fn create(path: &Path, nonce: u64) -> std::io::Result<Self> {
        Ok(Writer { file: File::create(path)?, nonce })
    }

    pub fn stage(&mut self, stage: Stage) -> std::io::Result<()> {
        self.line(Said::Stage(stage))
    }

    pub fn answer(&mut self, answer: Result<Opened, Verdict>) -> std::io::Result<()> {
        self.line(answer.map_or_else(Said::Refused, Said::Opened))
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
    let lines = text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok());
    let mut read = Read { stage: Stage::Start, answer: None };
    for line in lines.filter(|line| line.nonce == nonce) {
        match line.said {
            Said::Stage(stage) => read.stage = stage,
            Said::Opened(opened) => read.answer = Some(Ok(opened)),
            Said::Refused(verdict) => read.answer = Some(Err(verdict)),
        }
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let file = tempfile::NamedTempFile::new().expect("a file for the test");
        let mut writer = Writer::create(file.path(), 7).expect("our own file");
        writer.stage(Stage::Open).expect("our own file");
        assert_eq!(read(file.path(), 7), Read { stage: Stage::Open, answer: None });
        let refused = Verdict::NoDevice { why: "none".into() };
        writer.answer(Err(refused.clone())).expect("our own file");
        writer.file.write_all(b"{\"nonce\":8,\"opened\":{}}\nnoise\n{\"nonce\":").expect("our own file");
        assert_eq!(read(file.path(), 7), Read { stage: Stage::Open, answer: Some(Err(refused)) });
        assert_eq!(read(file.path(), 8), Read { stage: Stage::Start, answer: None });
    }
}
