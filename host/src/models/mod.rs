//! Models by name: their text side (tokenizer, template, defaults), and the engine that runs them.

mod demo;
mod files;
mod load;

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

pub use demo::demo_model;
pub use files::{ModelFiles, Replacements, TextError, name_of};
pub use load::{Loading, MAX_BATCH_TOKENS, check, load_with_progress, plan, start};

use crate::executor::{ModelFacts, StatsReader};
use crate::scheduler::Engine;

/// A model that answers.
pub struct Model {
    pub name: String,
    pub files: Arc<ModelFiles>,
    pub facts: ModelFacts,
    pub stats: StatsReader,
    pub engine: Engine,
    /// Seconds since 1970, for `/v1/models`.
    pub created: u64,
}

/// A model, or how far it is.
#[derive(Clone)]
pub enum Slot {
    /// 0 to 100.
    Loading(u8),
    Ready(Arc<Model>),
}

/// All models of this process.
#[derive(Default)]
pub struct Models(RwLock<BTreeMap<String, Slot>>);

/// Why a request gets no model.
#[derive(Debug, thiserror::Error)]
pub enum NoModel {
    #[error("the model `{asked}` does not exist here; there are: {}", names.join(", "))]
    Unknown { asked: String, names: Vec<String> },
    #[error("the model `{name}` is still loading ({percent} %)")]
    Loading { name: String, percent: u8 },
    #[error("no model is being served")]
    Nothing,
}

impl Models {
    pub fn set(&self, name: &str, slot: Slot) {
        self.0.write().expect("no writer panics").insert(name.to_owned(), slot);
    }

    /// Every name with its state, by name.
    pub fn all(&self) -> Vec<(String, Slot)> {
        let models = self.0.read().expect("no writer panics");
        models.iter().map(|(name, slot)| (name.clone(), slot.clone())).collect()
    }

    /// The models that answer.
    pub fn ready(&self) -> Vec<Arc<Model>> {
        let ready = |(_, slot)| if let Slot::Ready(model) = slot { Some(model) } else { None };
        self.all().into_iter().filter_map(ready).collect()
    }

    /// The model a request names; without a name, the first.
    pub fn find(&self, asked: Option<&str>) -> Result<Arc<Model>, NoModel> {
        let all = self.all();
        let found = all.iter().find(|(name, _)| asked.is_none_or(|asked| asked == name));
        match (found, asked) {
            (Some((_, Slot::Ready(model))), _) => Ok(model.clone()),
            (Some((name, Slot::Loading(percent))), _) => {
                Err(NoModel::Loading { name: name.clone(), percent: *percent })
            }
            (None, Some(asked)) => Err(NoModel::Unknown {
                asked: asked.to_owned(),
                names: all.into_iter().map(|(name, _)| name).collect(),
            }),
            (None, None) => Err(NoModel::Nothing),
        }
    }
}

/// Seconds since 1970.
pub fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
