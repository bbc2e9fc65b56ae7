//! What the server runs on now, and why: the one place that `/health`, metrics, response headers and the
//! ready-callback read it from.

use std::sync::{Arc, RwLock};

use crate::models::now_seconds;
use crate::registry::{Choice, Device, Judgement, Overview, Selection};

/// The state, which changes when another backend takes over.
pub struct Standing(RwLock<Arc<State>>);

/// What runs here.
#[derive(Debug)]
pub struct State {
    pub backend: BackendFacts,
    pub overview: Overview,
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
    /// It says of itself that it has not been seen to work where it is meant to, or that it is for tests.
    pub pre_release: bool,
}

impl BackendFacts {
    pub fn new(choice: &Choice) -> Self {
        let m = &choice.manifest;
        BackendFacts {
            id: m.id.clone(),
            variant: m.variant.clone(),
            version: m.version.clone(),
            engine: m.engine.clone(),
            abi: choice.backend.abi.clone(),
            plugin: choice.path.display().to_string(),
            digest: choice.digest.clone(),
            device: choice.device.clone(),
            pre_release: m.test || m.is_pre_release(),
        }
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
        if self.pre_release {
            tracing::warn!(
                "backend {} is a pre-release: it has not been recorded to work on devices like this one. Its answers \
                 were compared with known ones just now; `sconce plugin test` says more",
                self.id,
            );
        }
    }

    /// How far the backend is, in the words of pool managers.
    pub fn status(&self) -> &'static str {
        if self.pre_release { "pre-release" } else { "production" }
    }
}

impl State {
    /// The state that a choice leads to.
    pub fn new(selection: &Selection, choice: &Choice) -> Self {
        State { backend: BackendFacts::new(choice), overview: selection.overview(), since: now_seconds() }
    }

    /// The verdict on what was wanted, if something less is used.
    pub fn degraded(&self) -> Option<&Judgement> {
        self.overview.reason.as_ref()
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
