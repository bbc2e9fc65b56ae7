//! What a case works with: the plugin, a loaded model that cases share, and loads of its own.

use sconce_plugin_api::abi::{AbiError, Code, LoadRequest, ModelInfo, PluginBox};

use crate::Subject;
use crate::model::Model;

/// Why a case ended early.
#[derive(Debug)]
pub enum Stop {
    /// The promise is broken, in a sentence.
    Failed(String),
    /// The case does not apply, with the reason.
    Skipped(String),
}

/// What a case answers.
pub type Outcome = Result<(), Stop>;

impl From<AbiError> for Stop {
    fn from(error: AbiError) -> Self {
        Stop::Failed(format!("unexpected error: {error}"))
    }
}

/// A failure, unless `holds`.
pub fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(Stop::Failed(otherwise())) }
}

/// The call was refused with one of the codes, and with words.
pub fn refused<T>(what: &str, answer: Result<T, AbiError>, codes: &[Code]) -> Outcome {
    let names: Vec<&str> = codes.iter().map(|code| code.name()).collect();
    let Err(error) = answer else {
        return Err(Stop::Failed(format!("{what} was accepted instead of {}", names.join(" or "))));
    };
    ensure(codes.contains(&error.code), || {
        format!("{what} was answered with `{error}` instead of {}", names.join(" or "))
    })?;
    ensure(!error.message.is_empty(), || format!("{what} was refused without a word"))
}

/// One run over all cases.
pub struct Bench<'a> {
    subject: &'a Subject<'a>,
    shared: Option<Model>,
    seen: Option<ModelInfo>,
    tried: bool,
}

impl<'a> Bench<'a> {
    /// Nothing is loaded yet.
    pub fn new(subject: &'a Subject<'a>) -> Self {
        Bench { subject, shared: None, seen: None, tried: false }
    }

    /// The plugin.
    pub fn plugin(&self) -> &'a PluginBox {
        self.subject.plugin
    }

    /// A copy of the caller's request, to be changed.
    pub fn request(&self) -> LoadRequest {
        self.subject.request.clone()
    }

    /// The model that cases share, loaded by the first that asks.
    pub fn model(&mut self) -> Result<&mut Model, Stop> {
        if self.shared.is_none() {
            self.shared = Some(self.load(&self.request())?);
        }
        Ok(self.shared.as_mut().expect("it was loaded just above"))
    }

    /// A model that nothing has run on. The shared one is dropped first, so that weights lie in memory once.
    pub fn fresh(&mut self) -> Result<Model, Stop> {
        self.load_alone(&self.request())
    }

    /// Drops the shared model, for a case that loads others.
    pub fn put_away(&mut self) {
        self.shared = None;
    }

    /// As [`Bench::fresh`], with another request.
    pub fn load_alone(&mut self, request: &LoadRequest) -> Result<Model, Stop> {
        self.put_away();
        self.load(request)
    }

    /// A model with room for about 64 tokens or four blocks in all, and that much context.
    ///
    /// Fails if the plugin takes more KV memory than its budget.
    pub fn small(&mut self) -> Result<Model, Stop> {
        let info = self.model()?.info.clone();
        let block = info.block_size.max(1);
        let tokens = 64u32.next_multiple_of(block).max(4 * block).min(info.max_context / block * block);
        let mut request = self.request();
        request.max_context = tokens;
        request.kv_bytes = u64::from(tokens) * info.kv_bytes_per_token;
        let model = self.load_alone(&request)?;
        let taken = model.info.kv_capacity_tokens * model.info.kv_bytes_per_token;
        ensure(taken <= request.kv_bytes, || {
            format!("the KV cache takes {taken} bytes, the budget was {}", request.kv_bytes)
        })?;
        ensure(model.info.kv_capacity_tokens >= 2 * u64::from(block), || {
            let has = model.info.kv_capacity_tokens;
            format!("a budget of {tokens} tokens became a cache of {has}, less than two blocks of {block}")
        })?;
        Ok(model)
    }

    fn load(&mut self, request: &LoadRequest) -> Result<Model, Stop> {
        self.tried = true;
        let model = Model::load(self.subject.plugin, request, u32::MAX)
            .map_err(|error| Stop::Failed(format!("the load failed: {error}")))?;
        self.seen.get_or_insert_with(|| model.info.clone());
        Ok(model)
    }

    /// What the first model said of itself.
    pub fn seen(&self) -> Option<&ModelInfo> {
        self.seen.as_ref()
    }

    /// Whether a load was tried and none has ever succeeded.
    pub fn never_loaded(&self) -> bool {
        self.tried && self.seen.is_none()
    }

    /// Between cases: frees what a case left; a model on which one failed is not used again.
    pub fn tidy(&mut self, failed: bool) {
        if failed {
            self.shared = None;
        } else if let Some(model) = &mut self.shared {
            model.free_all();
        }
    }
}
