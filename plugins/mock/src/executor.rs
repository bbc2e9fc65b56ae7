//! The executor: sequences over the pool, steps, and the faults that belong to them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sconce_formats::ModelHeader;
use sconce_plugin_api::abi_stable::std_types::RVec;
use sconce_plugin_api::sdk::codes::{caps, dtype};
use sconce_plugin_api::sdk::{
    Batch, Chunk, Code, Error, Executor, ForwardStats, LoadRequest, ModelInfo, Options, Outputs, Reserve,
    Result, Sequences,
};

use crate::answers::Answers;
use crate::device::SWITCH;
use crate::fault::{Fault, Faults};
use crate::header::KV_BYTES_PER_TOKEN;
use crate::numbers::{self, Ending, Head};
use crate::pool::{BLOCK, Pool, Table};
use crate::rows::{Rows, Shape};
use crate::stats::Counters;

/// Without a budget: enough for any test, and small, since blocks are made as they are used.
const DEFAULT_KV_TOKENS: u64 = 1 << 20;

/// A loaded fake model.
pub struct MockExecutor {
    info: ModelInfo,
    /// Whether this is a model of the answer check.
    checks: bool,
    head: Head,
    pool: Pool,
    sequences: Sequences<Table>,
    max_sequences: usize,
    faults: Faults,
    counters: Arc<Counters>,
    steps: u64,
    /// What [`Fault::StaleKv`] and [`Fault::DirtySlots`] leave for the next sequence.
    residue: u64,
    /// A freed handle and the empty sequence that [`Fault::StaleHandles`] gives in its place.
    ghost: Option<(u64, u64)>,
}

/// What the mock can do, less what it was asked to lack.
pub fn caps(faults: &Faults) -> u64 {
    let lacks = [
        (Fault::NoBatch, caps::BATCH),
        (Fault::NoFork, caps::FORK | caps::FORK_SHARED),
        (Fault::NoTruncate, caps::TRUNCATE),
        (Fault::NoWantAll, caps::WANT_ALL),
        (Fault::NoTopk, caps::TOPK),
        (Fault::NoHidden, caps::HIDDEN),
    ];
    let all = lacks.iter().fold(caps::CONCURRENT_LOAD, |all, (_, cap)| all | cap);
    lacks.iter().filter(|(fault, _)| faults.has(*fault)).fold(all, |left, (_, cap)| left & !cap)
}

impl MockExecutor {
    /// Takes sizes from a header and limits from the request. `answers`: of a model of the check.
    ///
    /// # Errors
    /// UNSUPPORTED for element types other than float32, INVALID_ARGUMENT for bad options.
    pub fn new(
        header: &ModelHeader,
        answers: Option<Answers>,
        request: &LoadRequest,
        faults: Faults,
        counters: Arc<Counters>,
    ) -> Result<Self> {
        if [request.weight_dtype, request.kv_dtype].iter().any(|of| !matches!(*of, dtype::AUTO | dtype::F32))
        {
            return Err(Error::unsupported("the mock has float32 only"));
        }
        let trained = header.config.context_length as u32;
        let max_context = if request.max_context == 0 { trained } else { request.max_context };
        let pool = Pool::new(match (faults.value(Fault::KvFull), request.kv_bytes) {
            (Some(tokens), _) => tokens,
            (None, 0) => DEFAULT_KV_TOKENS,
            (None, bytes) => bytes / KV_BYTES_PER_TOKEN,
        });
        counters.kv_total_tokens.store(pool.capacity_tokens(), Ordering::Relaxed);
        let info = info(header, max_context, pool.capacity_tokens(), caps(&faults));
        let options = Options::of(request);
        let wrong = faults.has(Fault::WrongNumbers)
            || faults.has(Fault::WrongUnlessQuirk) && options.get(SWITCH).is_none();
        let checks = answers.is_some();
        // The option is meant for the model that is served, whose vocabulary is another.
        let ending = if checks { None } else { ending(&options, info.vocab)? };
        Ok(MockExecutor {
            head: Head::new(info.vocab, ending, answers.filter(|_| !wrong)),
            checks,
            info,
            pool,
            sequences: Sequences::default(),
            max_sequences: request.max_sequences as usize,
            faults,
            counters,
            steps: 0,
            residue: 0,
            ghost: None,
        })
    }

    /// The handle to look up: a ghost's, if freed handles are to work.
    fn real(&self, seq: u64) -> u64 {
        self.ghost.filter(|(stale, _)| *stale == seq).map_or(seq, |(_, real)| real)
    }

    fn table(&self, seq: u64) -> Result<&Table> {
        self.sequences.get(self.real(seq))
    }

    fn insert(&mut self, table: Table) -> Result<u64> {
        let alive = self.sequences.len() - usize::from(self.ghost.is_some());
        if alive >= self.max_sequences {
            let message = format!("{alive} sequences are alive, as many as the model was loaded for");
            return Err(Error::new(Code::KV_FULL, message));
        }
        let seq = self.sequences.insert(table);
        self.count_sequences();
        Ok(seq)
    }

    fn count_sequences(&self) {
        self.counters.sequences.store(self.sequences.len() as u64, Ordering::Relaxed);
    }

    /// Runs `change` on a sequence and its pool.
    fn change<T>(&mut self, seq: u64, change: impl FnOnce(&mut Pool, &mut Table) -> T) -> Result<T> {
        let seq = self.real(seq);
        let answer = change(&mut self.pool, self.sequences.get_mut(seq)?);
        self.counters.kv_used_tokens.store(self.pool.used_tokens(), Ordering::Relaxed);
        Ok(answer)
    }

    /// The states of every token of a step, in order of the token axis; changes nothing.
    fn compute(&self, batch: &Batch<'_>) -> Result<Vec<u64>> {
        let demands = batch.chunks.iter().map(|chunk| Ok((self.table(chunk.seq)?, chunk.len as usize)));
        self.pool.check(demands.collect::<Result<Vec<_>>>()?.into_iter())?;
        self.wait(Fault::SlowMs, batch)?;
        let neighbours = self.neighbours(batch);
        let mut states = Vec::with_capacity(batch.tokens.len());
        for chunk in batch.chunks {
            let mut state = self.state_before(chunk)? ^ neighbours;
            for token in batch.tokens_of(chunk) {
                self.wait(Fault::SlowTokenMs, batch)?;
                batch.check_cancelled()?;
                state = numbers::absorb(state, *token);
                states.push(state);
            }
        }
        Ok(states)
    }

    fn state_before(&self, chunk: &Chunk) -> Result<u64> {
        let table = self.table(chunk.seq)?;
        let (inside, last) = (chunk.pos as usize % BLOCK, (chunk.len - 1) as usize);
        if self.faults.has(Fault::ChunkEdge) && inside > 0 && inside + last >= BLOCK {
            return Ok(table.start);
        }
        Ok(self.pool.state(table, table.len()))
    }

    fn neighbours(&self, batch: &Batch<'_>) -> u64 {
        let mixed_in = self.faults.has(Fault::Neighbour) && batch.chunks.len() > 1;
        if mixed_in {
            batch.tokens.iter().fold(0, |sum, token| sum ^ numbers::mix(u64::from(*token)))
        } else {
            0
        }
    }

    /// Sleeps for a fault, in slices, so that a cancelled step ends soon.
    fn wait(&self, fault: Fault, batch: &Batch<'_>) -> Result<()> {
        for _ in 0..self.faults.value(fault).unwrap_or(0) {
            batch.check_cancelled()?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn shape(&self) -> Shape<'_> {
        let (vocab, hidden) = (self.info.vocab as usize, self.info.hidden as usize);
        Shape { vocab, hidden, head: &self.head, faults: &self.faults, steps: self.steps }
    }

    /// The faults that come after a number of steps.
    fn spring(&mut self) -> Result<()> {
        let due = |fault| self.faults.value(fault).is_some_and(|after| self.steps >= after);
        assert!(!due(Fault::PanicInForward), "asked to panic in forward");
        assert!(!(self.checks && due(Fault::PanicInCheck)), "asked to panic in the answer check");
        assert!(!due(Fault::PanicAfter), "asked to panic after {} steps", self.steps);
        if due(Fault::DeviceLostAfter) {
            return Err(Error::new(
                Code::DEVICE_LOST,
                format!("asked to lose the device after {} steps", self.steps),
            ));
        }
        if due(Fault::ErrorAfter) {
            return Err(Error::internal(format!("asked to fail after {} steps", self.steps)));
        }
        self.steps += 1;
        Ok(())
    }

    fn commit(&mut self, batch: &Batch<'_>, states: &[u64]) -> Result<()> {
        for chunk in batch.chunks {
            let states = &states[chunk.start as usize..(chunk.start + chunk.len) as usize];
            self.change(chunk.seq, |pool, table| pool.append(table, states))?;
        }
        Ok(())
    }

    /// [`Fault::NotAtomic`]: what a failed step leaves behind, where there is room.
    fn botch(&mut self, batch: &Batch<'_>) {
        let Some(chunk) = batch.chunks.first().filter(|_| self.faults.has(Fault::NotAtomic)) else { return };
        let fits = self.table(chunk.seq).and_then(|table| self.pool.check([(table, 1)].into_iter()));
        if fits.is_ok() {
            let _ = self.change(chunk.seq, |pool, table| pool.append(table, &[0]));
        }
    }
}

impl Executor for MockExecutor {
    fn info(&self) -> ModelInfo {
        self.info.clone()
    }

    fn seq_create(&mut self, _hint: u32) -> Result<u64> {
        let mut table = Table::new();
        table.start ^= self.residue;
        self.insert(table)
    }

    fn seq_free(&mut self, seq: u64) {
        let Ok(table) = self.sequences.get(seq) else { return };
        if self.faults.has(Fault::DirtySlots) {
            self.residue = self.pool.state(table, table.len());
        }
        if !self.faults.has(Fault::Leak) {
            let _ = self.change(seq, |pool, table| pool.truncate(table, 0));
        }
        self.sequences.remove(seq);
        if self.faults.has(Fault::StaleHandles) {
            self.ghost.take().and_then(|(_, old)| self.sequences.remove(old));
            self.ghost = Some((seq, self.sequences.insert(Table::new())));
        }
        self.count_sequences();
    }

    fn seq_truncate(&mut self, seq: u64, len: u32) -> Result<()> {
        let keeps_end = self.faults.has(Fault::TruncateOff);
        self.change(seq, |pool, table| {
            let end = pool.state(table, table.len());
            pool.truncate(table, len as usize);
            if keeps_end {
                pool.spoil(table, end);
            }
        })
    }

    fn seq_fork(&mut self, src: u64, len: u32, _hint: u32) -> Result<u64> {
        let lacks_end = self.faults.has(Fault::ForkOff);
        let fork = self.change(src, |pool, table| pool.fork(table, len as usize))?;
        // What the new table shares must be given back if there is no room for another sequence.
        let seq = match self.insert(Table::new()) {
            Ok(seq) => seq,
            Err(error) => {
                let mut fork = fork;
                self.pool.truncate(&mut fork, 0);
                return Err(error);
            }
        };
        self.change(seq, |pool, table| {
            *table = fork;
            if lacks_end && len > 0 {
                let before = pool.state(table, len as usize - 1);
                pool.spoil(table, before);
            }
        })?;
        Ok(seq)
    }

    fn seq_len(&self, seq: u64) -> Result<u32> {
        Ok(self.table(seq)?.len() as u32)
    }

    fn kv_reserve(&mut self, demands: &[Reserve]) -> Result<()> {
        let wanted = demands.iter().map(|demand| Ok((self.table(demand.seq)?, demand.extra as usize)));
        let wanted = wanted.collect::<Result<Vec<_>>>()?;
        let fits = self.pool.check(wanted.into_iter());
        let taken = match (&fits, self.faults.has(Fault::ReservesPart)) {
            (Ok(()), _) => demands,
            (Err(_), true) => &demands[..1],
            (Err(_), false) => return fits,
        };
        for demand in taken {
            self.change(demand.seq, |pool, table| pool.reserve(table, demand.extra as usize))?;
        }
        fits
    }

    fn forward(&mut self, batch: &Batch<'_>, out: &mut Outputs<'_>) -> Result<ForwardStats> {
        let start = std::time::Instant::now();
        let states = match self.spring().and_then(|()| self.compute(batch)) {
            Ok(states) => states,
            Err(error) => {
                self.botch(batch);
                return Err(error);
            }
        };
        self.commit(batch, &states)?;
        let rows = Rows::new(self.shape(), batch).write_all(&states, out);
        let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.counters.count(batch, ns);
        Ok(ForwardStats { rows, tokens: batch.tokens.len() as u32, ns, _r: [0; 4] })
    }

    fn warmup(&mut self, max_tokens: u32) -> Result<()> {
        if self.faults.has(Fault::StaleKv) {
            self.residue = numbers::mix(u64::from(max_tokens));
        }
        Ok(())
    }
}

impl Drop for MockExecutor {
    fn drop(&mut self) {
        assert!(!self.faults.has(Fault::PanicInDrop), "asked to panic in drop");
    }
}

fn info(header: &ModelHeader, max_context: u32, kv_capacity_tokens: u64, caps: u64) -> ModelInfo {
    let config = &header.config;
    ModelInfo {
        architecture: config.family.name.into(),
        vocab: config.vocab_size as u32,
        layers: config.layers.len() as u32,
        heads: config.heads as u32,
        kv_heads: config.kv_heads as u32,
        head_dim: config.head_dim as u32,
        hidden: config.hidden_size as u32,
        max_context,
        block_size: BLOCK as u32,
        weights_bytes: 0,
        kv_bytes_per_token: KV_BYTES_PER_TOKEN,
        kv_capacity_tokens,
        caps,
        compute_dtype: dtype::F32,
        weight_dtype: dtype::F32,
        kv_dtype: dtype::F32,
        _pad: 0,
        ext: RVec::new(),
        _r: [0; 8],
    }
}

/// The options `eos=ID` and `eos_after=N`.
fn ending(options: &Options, vocab: u32) -> Result<Option<Ending>> {
    let number = |key: &str| match options.get(key).map(str::parse::<u32>) {
        Some(Err(_)) => Err(Error::invalid(format!("the option `{key}` needs a whole number"))),
        Some(Ok(number)) => Ok(Some(number)),
        None => Ok(None),
    };
    match (number("eos")?, number("eos_after")?) {
        (None, None) => Ok(None),
        (Some(token), after) if token < vocab => Ok(Some(Ending { token, after: after.unwrap_or(0) })),
        (Some(token), _) => {
            Err(Error::invalid(format!("the option `eos` is {token}, outside the vocabulary")))
        }
        (None, Some(_)) => Err(Error::invalid("the option `eos_after` needs `eos=ID` beside it")),
    }
}
