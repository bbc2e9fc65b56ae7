//! What the server runs on now, and why: the one place that `/health`, metrics, response headers and the
//! ready-callback read it from.

use std::sync::{Arc, RwLock};

use crate::models::now_seconds;
use crate::registry::{Choice, Device, Judgement, Row, Selection};

/// The state, which changes when another backend takes over.
pub struct Standing(RwLock<Arc<State>>);

/// What runs here.
#[derive(Debug)]
pub struct State {
    pub backend: BackendFacts,
    /// `--backend` as typed.
    pub requested: String,
    /// What would run here if nothing stood against it; the same as [`BackendFacts::effective`] otherwise.
    pub wanted: String,
    /// Why something less than what was wanted runs.
    pub degraded: Option<Judgement>,
    /// Every plugin that was considered.
    pub plugins: Vec<Row>,
    /// Seconds since 1970.
    pub since: u64,
}

/// The backend in use.
#[derive(Debug, Clone)]
pub struct BackendFacts {
    pub id: String,
    pub variant: String,
    pub version: String,
    pub engine: String,
    pub abi: String,
    pub plugin: String,
    pub digest: String,
    pub device: Device,
    /// Not for production: it says so itself.
    pub test: bool,
}

impl BackendFacts {
    pub fn new(choice: &Choice) -> Self {
        let b = &choice.backend;
        BackendFacts {
            id: b.id.clone(),
            variant: b.variant.clone(),
            version: b.version.clone(),
            engine: b.engine.clone(),
            abi: b.abi.clone(),
            plugin: choice.path.display().to_string(),
            digest: choice.digest.clone(),
            device: choice.device.clone(),
            test: choice.test,
        }
    }

    /// As one would name it with `--backend`.
    pub fn effective(&self) -> String {
        format!("{}:{}", self.id, self.device.index)
    }

    /// The line of the log that says what is used.
    pub fn announce(&self) {
        let quirks = match self.device.quirks.as_slice() {
            [] => String::new(),
            quirks => format!(" with {}, without which it computes wrong numbers", quirks.join(", ")),
        };
        tracing::info!(
            "backend {} {} ({}) on {} {}{quirks}, ABI {} (preview), from {}",
            self.id,
            self.version,
            format!("{} {}", self.variant, self.engine).trim(),
            self.device.kind_name(),
            self.device.name,
            self.abi,
            self.plugin,
        );
    }
}

impl State {
    /// The state that a choice leads to.
    pub fn new(selection: &Selection, choice: &Choice) -> Self {
        let backend = BackendFacts::new(choice);
        let fallback = selection.fallback();
        State {
            requested: selection.policy.to_string(),
            wanted: fallback.map_or_else(|| backend.effective(), |fallback| fallback.wanted.clone()),
            degraded: fallback.map(|fallback| selection.judgement(fallback)),
            plugins: selection.rows(),
            since: now_seconds(),
            backend,
        }
    }
}

impl Standing {
    pub fn new(state: State) -> Self {
        Standing(RwLock::new(Arc::new(state)))
    }

    pub fn now(&self) -> Arc<State> {
        self.0.read().expect("no writer panics").clone()
    }

    pub fn set(&self, state: State) {
        *self.0.write().expect("no writer panics") = Arc::new(state);
    }
}

impl std::fmt::Debug for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.now().fmt(f)
    }
}
