//! Files that broke on the way: cut short, or with bytes turned into others.
//!
//! Real models are opened as a user's would be, by their path. Every cut is an error. A changed
//! byte may also go unnoticed, such as in the text of a token; what may not happen is a panic, an
//! answer that never comes, a tensor outside its file, or memory that a damaged count asks for.

mod memory;

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sconce_formats::model::{self, ModelHeader};
use sconce_formats::{FormatError, GenerationDefaults, chain};

/// Changes per file.
const ROUNDS: u64 = 10_000;
/// Far more than the milliseconds it takes: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(5);

/// A copy of a carried model in a directory of its own.
struct Copy {
    /// Removes the directory in the end.
    _directory: tempfile::TempDir,
    /// The file that is to be damaged.
    victim: PathBuf,
    /// What a user would give as the model.
    model: PathBuf,
    whole: Vec<u8>,
    /// All files together.
    bytes: usize,
}

impl Copy {
    /// `files`: names below the carried fixtures; the first is the one to be damaged.
    fn new(files: &[&str], in_directory: bool) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let carried = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../host/tests/fixtures");
        let copied = |name: &&str| {
            let from = carried.join(name);
            let to = directory.path().join(from.file_name().expect("a file has a name"));
            std::fs::copy(&from, &to).expect("the fixture is carried");
            to
        };
        let paths: Vec<PathBuf> = files.iter().map(copied).collect();
        let victim = paths[0].clone();
        let model = if in_directory { directory.path().to_owned() } else { victim.clone() };
        let whole = std::fs::read(&victim).expect("the copy is there");
        let length = |path: &PathBuf| std::fs::metadata(path).expect("the copy is there").len();
        let bytes = paths.iter().map(length).sum::<u64>() as usize;
        let copy = Self { _directory: directory, victim, model, whole, bytes };
        assert!(copy.open().is_ok(), "the whole model is refused: {}", copy.model.display());
        copy
    }

    fn gguf(name: &str) -> Self {
        Self::new(&[&format!("stories260k/gguf/stories260K.{name}.gguf")], false)
    }

    fn checkpoint(name: &str, victim: &str) -> Self {
        let other = if victim == "config.json" { "model.safetensors" } else { "config.json" };
        let files = [victim, other, "generation_config.json"].map(|file| format!("{name}/{file}"));
        Self::new(&files.each_ref().map(String::as_str), true)
    }

    /// Reads everything there is to know before the weights.
    fn open(&self) -> Result<ModelHeader, FormatError> {
        let header = model::open_path(&self.model)?;
        GenerationDefaults::open(&header)?;
        Ok(header)
    }

    fn file(&self) -> File {
        File::options().write(true).open(&self.victim).expect("the test's own file")
    }
}

#[test]
fn every_shorter_file_is_an_error() {
    let copies =
        [Copy::gguf("Q4_0"), Copy::gguf("f32"), Copy::checkpoint("stories260k", "model.safetensors")];
    for copy in copies {
        let file = copy.file();
        for length in (0..copy.whole.len()).step_by(1024).rev() {
            file.set_len(length as u64).expect("the test's own file");
            let Err(error) = copy.open() else { panic!("{length} bytes are accepted") };
            let text = chain(&error);
            assert!(text.contains(&*copy.victim.to_string_lossy()), "{length}: {text}");
        }
    }
}

/// Changes one to four bytes among the first `header` ones, over and over; how often that went unnoticed.
fn flip(copy: &Copy, header: usize, seed: u64) -> u64 {
    let mut file = copy.file();
    let mut write = |at: usize, byte: u8| {
        file.seek(SeekFrom::Start(at as u64)).expect("the test's own file");
        file.write_all(&[byte]).expect("the test's own file");
    };
    let mut random = Random(seed);
    let mut accepted = 0;
    for round in 0..ROUNDS {
        let changes: Vec<(usize, u8)> = (0..=random.below(4))
            .map(|_| {
                let at = random.below(header);
                (at, copy.whole[at] ^ (1 + random.below(255)) as u8)
            })
            .collect();
        changes.iter().for_each(|&(at, byte)| write(at, byte));
        accepted += u64::from(check_opening(copy, &format!("seed {seed}, round {round}: {changes:?}")));
        changes.iter().for_each(|&(at, _)| write(at, copy.whole[at]));
    }
    assert!(accepted < ROUNDS, "no damage was noticed");
    println!("{}: {accepted} of {ROUNDS} went unnoticed", copy.victim.display());
    accepted
}

/// Opens a damaged model; `true` if it was accepted.
fn check_opening(copy: &Copy, what: &str) -> bool {
    let begin = Instant::now();
    let (outcome, used) = memory::during(|| catch_unwind(|| copy.open()));
    let outcome = outcome.unwrap_or_else(|_| panic!("{what}: a panic"));
    assert!(begin.elapsed() < PATIENCE, "{what}: {:?}", begin.elapsed());
    let bytes = copy.bytes;
    // A count that grew may take what follows for numbers of 4 bytes, which are kept in 8.
    assert!(used.peak <= 2 * bytes, "{what}: {} bytes of memory for {bytes} in files", used.peak);
    let Ok(header) = outcome else { return false };
    let in_gguf = header.gguf.is_some();
    let last = header.tensors.values().map(|tensor| tensor.offset + tensor.bytes).max();
    assert!(!in_gguf || last.is_some_and(|end| end <= bytes as u64), "{what}: a tensor ends at {last:?}");
    true
}

#[test]
fn changed_bytes_in_a_gguf_header_do_no_harm() {
    let copy = Copy::gguf("Q4_0");
    let header = copy.open().expect("a sound model").gguf.expect("GGUF").data_offset;
    let unnoticed = flip(&copy, header as usize, 1);
    // Most of the header is the vocabulary, whose texts may be any.
    assert!(unnoticed > 0);
}

#[test]
fn changed_bytes_in_a_safetensors_header_do_no_harm() {
    let copy = Copy::checkpoint("stories260k", "model.safetensors");
    let length = copy.whole.first_chunk().expect("eight bytes of length");
    flip(&copy, 8 + u64::from_le_bytes(*length) as usize, 3);
}

#[test]
fn changed_bytes_in_a_configuration_do_no_harm() {
    let copy = Copy::checkpoint("stories260k", "config.json");
    flip(&copy, copy.whole.len(), 4);
}

/// A small linear congruential generator: the same damage on every run.
struct Random(u64);

impl Random {
    /// A number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        // Knuth's MMIX constants; the high bits are the good ones.
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit
    }
}
