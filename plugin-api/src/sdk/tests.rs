//! What the adapter promises to the host whatever an author's code does, shown on a toy with traps.

use std::sync::atomic::AtomicU32;

use abi_stable::sabi_types::RMut;
use abi_stable::std_types::{RSlice, RSliceMut, RString, RVec};
use abi_stable::type_level::downcasting::TD_Opaque;

use crate::abi::codes::{caps, out, want};
use crate::abi::{
    self, AbiError, Blob, BlobMut, Chunk, Code, ExecutorBox, ForwardBatch, ForwardOut, PluginBox,
    Progress_TO, Res,
};

use super::{adapter, *};

const VOCAB: u32 = 10;
const CONTEXT: u32 = 8;
/// Tokens that spring a trap in the toy's `forward`.
const PANIC: u32 = 9;
const LOSE_DEVICE: u32 = 8;

/// A plugin whose executor counts tokens and nothing else; `caps` is what it claims to be able to do.
struct Toy {
    caps: u64,
    panics: bool,
}

struct ToyExecutor {
    caps: u64,
    sequences: Sequences<u32>,
    panics_in_drop: bool,
}

struct Quiet {
    panics_in_drop: bool,
}

impl Stats for Quiet {
    fn metrics(&self) -> Vec<Metric> {
        panic!("the toy cannot count");
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        assert!(!self.panics_in_drop, "the figures do not want to go");
    }
}

impl Plugin for Toy {
    const MANIFEST: Manifest = Manifest {
        id: "org.example.toy",
        variant: "",
        version: "0",
        vendor: "",
        description: "",
        engine: "",
        licence: "",
        device_kinds: &["cpu"],
        formats: &["gguf"],
        device_code: &[],
        libraries: &[],
        driver: None,
        status: Status::Release,
        test: true,
    };
    type Executor = ToyExecutor;

    fn create(options: &Options) -> Result<Self> {
        match options.get("caps").map(str::parse) {
            Some(Err(_)) => Err(Error::invalid("the option `caps` is a number")),
            Some(Ok(caps)) => Ok(Toy { caps, panics: false }),
            None => Ok(Toy { caps: u64::MAX, panics: options.get("panics").is_some() }),
        }
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        assert!(!self.panics, "the toy has no devices");
        Ok(Vec::new())
    }

    fn check_model(&self, _: &ModelSource) -> Result<ModelCheck> {
        Err(Error::from(std::io::Error::other("no such disk")))
    }

    fn load(&self, _: &LoadRequest, progress: &mut Progress<'_>) -> Result<super::Loaded<ToyExecutor>> {
        progress.update(codes::stage::OPEN, 0, 2)?;
        progress.update(codes::stage::READ, 1, 2)?;
        let executor =
            ToyExecutor { caps: self.caps, sequences: Sequences::default(), panics_in_drop: self.panics };
        Ok(Loaded { executor, stats: Box::new(Quiet { panics_in_drop: self.panics }) })
    }
}

impl Drop for Toy {
    fn drop(&mut self) {
        assert!(!self.panics, "the toy does not want to go");
    }
}

impl Drop for ToyExecutor {
    fn drop(&mut self) {
        assert!(!self.panics_in_drop, "the toy does not want to go");
    }
}

impl Executor for ToyExecutor {
    fn info(&self) -> ModelInfo {
        ModelInfo {
            architecture: "toy".into(),
            vocab: VOCAB,
            layers: 1,
            heads: 1,
            kv_heads: 1,
            head_dim: 1,
            hidden: 2,
            max_context: CONTEXT,
            block_size: 1,
            weights_bytes: 0,
            kv_bytes_per_token: 1,
            kv_capacity_tokens: 100,
            caps: self.caps,
            compute_dtype: codes::dtype::F32,
            weight_dtype: codes::dtype::F32,
            kv_dtype: codes::dtype::F32,
            _pad: 0,
            ext: RVec::new(),
            _r: [0; 8],
        }
    }

    fn seq_create(&mut self, _: u32) -> Result<u64> {
        Ok(self.sequences.insert(0))
    }

    fn seq_free(&mut self, seq: u64) {
        self.sequences.remove(seq);
    }

    fn seq_truncate(&mut self, seq: u64, len: u32) -> Result<()> {
        *self.sequences.get_mut(seq)? = len;
        Ok(())
    }

    fn seq_fork(&mut self, src: u64, len: u32, _: u32) -> Result<u64> {
        self.sequences.get(src)?;
        Ok(self.sequences.insert(len))
    }

    fn seq_len(&self, seq: u64) -> Result<u32> {
        self.sequences.get(seq).copied()
    }

    fn kv_reserve(&mut self, demands: &[Reserve]) -> Result<()> {
        demands.iter().try_for_each(|demand| self.sequences.get(demand.seq).map(|_| ()))
    }

    fn forward(&mut self, batch: &Batch<'_>, out: &mut Outputs<'_>) -> Result<ForwardStats> {
        assert!(!batch.tokens.contains(&PANIC), "trapped");
        if batch.tokens.contains(&LOSE_DEVICE) {
            return Err(Error::new(Code::DEVICE_LOST, "the toy fell off the table"));
        }
        for chunk in batch.chunks {
            *self.sequences.get_mut(chunk.seq)? += chunk.len;
        }
        out.logits.fill(1.0);
        out.hidden.fill(2.0);
        let rows = batch.wanted_tokens().len() as u32;
        Ok(ForwardStats { rows, tokens: batch.tokens.len() as u32, ns: 0, _r: [0; 4] })
    }

    fn warmup(&mut self, max_tokens: u32) -> Result<()> {
        assert!((1..=4).contains(&max_tokens), "the adapter keeps a warm-up within the limits");
        Ok(())
    }
}

fn plugin(option: (&str, &str)) -> PluginBox {
    let options = [KeyValue::string(option.0, option.1)];
    adapter::plugin(Toy::create(&Options(&options)).expect("the toy takes this option"))
}

fn request() -> LoadRequest {
    LoadRequest {
        devices: vec![0].into(),
        source: ModelSource {
            kind: codes::source::GGUF,
            _pad: 0,
            paths: RVec::new(),
            config_json: RString::new(),
            _r: [0; 4],
        },
        weight_dtype: 0,
        kv_dtype: 0,
        max_context: 0,
        max_batch_tokens: 4,
        max_sequences: 4,
        threads: 0,
        kv_bytes: 0,
        options: RVec::new(),
        _r: [0; 16],
    }
}

/// The host's progress object: cancels from the given update on.
struct Ear {
    cancel_at: u32,
    heard: u32,
}

impl abi::Progress for Ear {
    fn update(&mut self, _: u32, _: u64, _: u64) -> u32 {
        self.heard += 1;
        u32::from(self.heard >= self.cancel_at)
    }
}

fn load(plugin: &PluginBox, request: &LoadRequest, cancel_at: u32) -> Res<abi::Loaded> {
    let mut ear = Ear { cancel_at, heard: 0 };
    plugin.load(request, Progress_TO::from_ptr(RMut::new(&mut ear), TD_Opaque))
}

fn executor(caps: u64) -> ExecutorBox {
    let plugin = plugin(("caps", &caps.to_string()));
    load(&plugin, &request(), u32::MAX).into_result().expect("the toy loads").executor
}

/// A step with room for every output, to be spoiled by a test.
struct Step {
    tokens: Vec<u32>,
    chunks: Vec<Chunk>,
    bias: Vec<Bias>,
    masks: Vec<Mask>,
    allow: Vec<u32>,
    blobs: usize,
    blobs_out: usize,
    cancel: u32,
    room: usize,
    reserved: (u64, u64),
}

impl Step {
    fn of(seq: u64, pos: u32, tokens: &[u32]) -> Self {
        let len = tokens.len() as u32;
        Step {
            tokens: tokens.to_vec(),
            chunks: vec![Chunk { seq, len, pos, want: want::LAST, ..Chunk::default() }],
            bias: vec![],
            masks: vec![],
            allow: vec![],
            blobs: 0,
            blobs_out: 0,
            cancel: 0,
            room: 64,
            reserved: (0, 0),
        }
    }

    fn run(&self, executor: &mut ExecutorBox) -> std::result::Result<u32, AbiError> {
        let (mut logits, mut ids, mut vals) =
            (vec![0.0; self.room], vec![0; self.room], vec![0.0; self.room]);
        let (mut lse, mut hidden) = (vec![0.0; self.room], vec![0.0; self.room]);
        let cancel = AtomicU32::new(self.cancel);
        let blobs = vec![Blob { key: 7, chunk: 0, data: RSlice::EMPTY }; self.blobs];
        let mut blobs_out: Vec<BlobMut<'_>> = (0..self.blobs_out)
            .map(|_| BlobMut { key: 7, chunk: 0, data: RSliceMut::from_mut_slice(&mut []) })
            .collect();
        let batch = ForwardBatch {
            tokens: RSlice::from_slice(&self.tokens),
            chunks: RSlice::from_slice(&self.chunks),
            bias: RSlice::from_slice(&self.bias),
            masks: RSlice::from_slice(&self.masks),
            allow_masks: RSlice::from_slice(&self.allow),
            ext: RSlice::from_slice(&blobs),
            cancel: &cancel,
            step_id: 1,
            _r: [self.reserved.0; 8],
        };
        let mut out = ForwardOut {
            logits: RSliceMut::from_mut_slice(&mut logits),
            ids: RSliceMut::from_mut_slice(&mut ids),
            vals: RSliceMut::from_mut_slice(&mut vals),
            lse: RSliceMut::from_mut_slice(&mut lse),
            hidden: RSliceMut::from_mut_slice(&mut hidden),
            ext: RSliceMut::from_mut_slice(&mut blobs_out),
            _r: [self.reserved.1; 4],
        };
        executor.forward(&batch, &mut out).into_result().map(|stats| stats.rows)
    }
}

/// Spoils a sound step of two tokens on a sequence of three; the step must be refused and change nothing.
fn refused(caps: u64, spoil: impl FnOnce(&mut Step), expected: Code) {
    let mut executor = executor(caps);
    let seq = executor.seq_create(0).unwrap();
    Step::of(seq, 0, &[1, 2, 3]).run(&mut executor).expect("a sound step");
    let mut step = Step::of(seq, 3, &[4, 5]);
    spoil(&mut step);
    let error = step.run(&mut executor).expect_err("a spoilt step");
    assert_eq!(error.code, expected, "{error}");
    assert!(!error.message.is_empty());
    assert_eq!(executor.seq_len(seq).unwrap(), 3, "{error}: the sequence changed");
    Step::of(seq, 3, &[4, 5]).run(&mut executor).expect("the sound step is still possible");
}

#[test]
fn bad_batches_are_refused_and_change_nothing() {
    let refused = |spoil: fn(&mut Step), expected| refused(u64::MAX, spoil, expected);
    refused(|s| (s.tokens, s.chunks) = (vec![], vec![]), Code::INVALID_ARGUMENT);
    refused(|s| s.tokens = vec![4, VOCAB], Code::INVALID_ARGUMENT);
    refused(|s| s.tokens = vec![4], Code::INVALID_ARGUMENT);
    refused(|s| s.tokens.push(6), Code::INVALID_ARGUMENT);
    refused(|s| (s.tokens, s.chunks[0].len) = (vec![1; 5], 5), Code::INVALID_ARGUMENT);
    refused(|s| s.chunks[0].start = 1, Code::INVALID_ARGUMENT);
    refused(|s| s.chunks[0].len = u32::MAX, Code::INVALID_ARGUMENT);
    refused(|s| s.chunks[0].pos = 2, Code::INVALID_ARGUMENT);
    refused(|s| s.chunks[0].seq += 1, Code::STALE_SEQUENCE);
    refused(|s| s.chunks[0].want = 3, Code::UNSUPPORTED);
    refused(|s| s.chunks[0].out = 3, Code::UNSUPPORTED);
    refused(|s| s.chunks[0]._r[4] = 1, Code::UNSUPPORTED);
    refused(|s| (s.chunks[0].out, s.chunks[0].topk) = (out::TOPK, 0), Code::INVALID_ARGUMENT);
    refused(|s| (s.chunks[0].out, s.chunks[0].topk) = (out::TOPK, VOCAB + 1), Code::INVALID_ARGUMENT);
    refused(|s| s.bias = vec![Bias { row: 1, token: 0, add: 1.0 }], Code::INVALID_ARGUMENT);
    refused(|s| s.bias = vec![Bias { row: 0, token: VOCAB, add: 1.0 }], Code::INVALID_ARGUMENT);
    refused(|s| s.masks = vec![Mask { row: 0, offset: 0 }], Code::INVALID_ARGUMENT);
    refused(|s| s.blobs = 1, Code::INVALID_ARGUMENT);
    refused(|s| s.blobs_out = 1, Code::INVALID_ARGUMENT);
    refused(|s| s.room = VOCAB as usize - 1, Code::INVALID_ARGUMENT);
    refused(|s| s.reserved.0 = 1, Code::UNSUPPORTED);
    refused(|s| s.reserved.1 = 1, Code::UNSUPPORTED);
    refused(|s| s.cancel = 1, Code::CANCELLED);
}

#[test]
fn a_sequence_appears_once_in_a_batch() {
    let twice = |s: &mut Step| {
        s.chunks[0].len = 1;
        s.chunks.push(Chunk { start: 1, ..s.chunks[0] });
    };
    refused(u64::MAX, twice, Code::INVALID_ARGUMENT);
}

#[test]
fn the_context_is_not_exceeded() {
    let mut executor = executor(u64::MAX);
    let seq = executor.seq_create(0).unwrap();
    Step::of(seq, 0, &[1; 4]).run(&mut executor).expect("four tokens");
    Step::of(seq, 4, &[1; 3]).run(&mut executor).expect("seven tokens");
    let error = Step::of(seq, 7, &[1; 2]).run(&mut executor).expect_err("nine tokens");
    assert_eq!(error.code, Code::CONTEXT_OVERFLOW);
    Step::of(seq, 7, &[1]).run(&mut executor).expect("eight tokens");
}

#[test]
fn what_is_not_implemented_answers_unsupported() {
    let lacking = |cap: u64, spoil: fn(&mut Step)| refused(!cap, spoil, Code::UNSUPPORTED);
    lacking(caps::WANT_ALL, |s| s.chunks[0].want = want::ALL);
    lacking(caps::HIDDEN, |s| s.chunks[0].want |= want::HIDDEN);
    lacking(caps::ADAPTER, |s| s.chunks[0].adapter = 1);
    lacking(caps::TOPK, |s| s.chunks[0].out = out::ARGMAX);
    lacking(caps::TOPK, |s| (s.chunks[0].out, s.chunks[0].topk) = (out::TOPK, 1));

    let mut bare = executor(0);
    let seq = bare.seq_create(0).unwrap();
    let other = bare.seq_create(0).unwrap();
    assert_eq!(bare.seq_truncate(seq, 0).unwrap_err().code, Code::UNSUPPORTED);
    assert_eq!(bare.seq_fork(seq, 0, 0).unwrap_err().code, Code::UNSUPPORTED);
    assert_eq!(bare.trim().unwrap_err().code, Code::UNSUPPORTED);
    let mut both = Step::of(seq, 0, &[1, 2]);
    both.chunks[0].len = 1;
    both.chunks.push(Chunk { seq: other, start: 1, len: 1, ..Chunk::default() });
    assert_eq!(both.run(&mut bare).expect_err("two sequences").code, Code::UNSUPPORTED);
    let reserved = [Reserve { seq, extra: 1, _r: 1 }];
    assert_eq!(bare.kv_reserve(RSlice::from_slice(&reserved)).unwrap_err().code, Code::UNSUPPORTED);
}

#[test]
fn masks_may_overlap_and_an_all_row_of_one_token_needs_no_capability() {
    let mut executor = executor(caps::TOPK);
    let seq = executor.seq_create(0).unwrap();
    let mut step = Step::of(seq, 0, &[1]);
    (step.chunks[0].want, step.chunks[0].out) = (want::ALL, out::ARGMAX);
    (step.masks, step.allow) = (vec![Mask { row: 0, offset: 0 }; 2], vec![1]);
    assert_eq!(step.run(&mut executor).expect("a sound step"), 1);
}

#[test]
fn lengths_beyond_the_sequence_are_refused() {
    let mut executor = executor(u64::MAX);
    let seq = executor.seq_create(0).unwrap();
    Step::of(seq, 0, &[1, 2]).run(&mut executor).expect("a sound step");
    assert_eq!(executor.seq_truncate(seq, 3).unwrap_err().code, Code::INVALID_ARGUMENT);
    assert_eq!(executor.seq_fork(seq, 3, 0).unwrap_err().code, Code::INVALID_ARGUMENT);
    executor.seq_free(seq);
    assert_eq!(executor.seq_truncate(seq, 0).unwrap_err().code, Code::STALE_SEQUENCE);
    assert_eq!(executor.seq_fork(seq, 0, 0).unwrap_err().code, Code::STALE_SEQUENCE);
}

fn poisons(trap: u32, expected: Code) {
    let mut executor = executor(u64::MAX);
    let seq = executor.seq_create(0).unwrap();
    let error = Step::of(seq, 0, &[trap]).run(&mut executor).expect_err("a trap");
    assert_eq!(error.code, expected);
    let later: [AbiError; 5] = [
        Step::of(seq, 0, &[1]).run(&mut executor).expect_err("poisoned"),
        executor.seq_create(0).unwrap_err(),
        executor.seq_len(seq).unwrap_err(),
        executor.warmup(1).unwrap_err(),
        executor.trim().unwrap_err(),
    ];
    for later in later {
        assert_eq!(later.code, expected);
        assert!(later.message.contains(error.message.as_str()), "{later} does not name the first failure");
    }
    executor.seq_free(seq);
}

#[test]
fn a_panic_becomes_an_error_and_poisons() {
    poisons(PANIC, Code::PANICKED);
}

#[test]
fn a_lost_device_poisons() {
    poisons(LOSE_DEVICE, Code::DEVICE_LOST);
}

#[test]
fn panics_outside_a_step_stay_inside() {
    let toy = plugin(("panics", "yes"));
    let error = toy.devices().unwrap_err();
    assert_eq!(error.code, Code::PANICKED);
    assert!(error.message.contains("the toy has no devices"), "{error}");
    let loaded = load(&toy, &request(), u32::MAX).unwrap();
    assert!(loaded.stats.metrics().is_empty(), "a panic in the figures costs the figures only");
    drop(loaded);
    drop(toy);
}

#[test]
fn what_is_thrown_is_not_dropped_outside_the_fence() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("the bomb went off");
        }
    }
    let answer: Res<()> = fence::fence(|| std::panic::panic_any(Bomb));
    assert_eq!(answer.unwrap_err().code, Code::PANICKED);
    fence::fence_drop(|| std::panic::panic_any(Bomb));
}

#[test]
fn a_warm_up_is_kept_within_the_limits() {
    let mut executor = executor(u64::MAX);
    for tokens in [0, 1, u32::MAX] {
        assert!(executor.warmup(tokens).is_ok(), "{tokens}");
    }
}

#[test]
fn loads_that_make_no_sense_are_refused() {
    let check = |spoil: fn(&mut LoadRequest), expected| {
        let mut request = request();
        spoil(&mut request);
        let code = load(&plugin(("caps", "0")), &request, u32::MAX).map(|_| ()).unwrap_err().code;
        assert_eq!(code, expected);
    };
    check(|r| r.devices = vec![0, 1].into(), Code::UNSUPPORTED);
    check(|r| r.devices = RVec::new(), Code::UNSUPPORTED);
    check(|r| r._r[15] = 1, Code::UNSUPPORTED);
    check(|r| r.source._r[3] = 1, Code::UNSUPPORTED);
    check(|r| r.source._pad = 1, Code::UNSUPPORTED);
    check(|r| r.max_batch_tokens = 0, Code::INVALID_ARGUMENT);
    check(|r| r.max_sequences = 0, Code::INVALID_ARGUMENT);
}

#[test]
fn a_load_is_cancelled_at_any_update() {
    let toy = plugin(("caps", "0"));
    for at in 1..=2 {
        assert_eq!(load(&toy, &request(), at).map(|_| ()).unwrap_err().code, Code::CANCELLED);
    }
    assert!(load(&toy, &request(), 3).is_ok());
}

#[test]
fn options_and_other_errors_reach_the_host() {
    let options = [KeyValue::string("caps", "many"), KeyValue::string("caps", "1")];
    assert_eq!(Options(&options).get("caps"), Some("many"), "the first of a name counts");
    assert_eq!(Options(&options).get("other"), None);
    let error = Toy::create(&Options(&options)).err().expect("`many` is no number");
    assert_eq!(error.code, Code::INVALID_ARGUMENT);
    let source = request().source;
    let error = plugin(("caps", "0")).check_model(&source).unwrap_err();
    assert_eq!(error.code, Code::INTERNAL);
    assert_eq!(error.detail, "no such disk");
}
