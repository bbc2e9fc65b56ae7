//! The weights of a long-tail model, read once and shared by all its instances.
//!
//! candle-transformers asks for tensors by the names its authors found in some checkpoint; where those of the
//! published ones differ, [`Renames`] translates.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use candle_nn::Init;
use candle_nn::var_builder::{SimpleBackend, VarBuilder, VarBuilderArgs};

/// Prefixes of names as candle-transformers asks for them, and what they are called in checkpoints.
pub(super) type Renames = &'static [(&'static str, &'static str)];

/// Tensors by their names in the checkpoint.
pub(super) type Tensors = HashMap<String, Tensor>;

/// The builder that models are made of.
pub(super) type Vars = VarBuilder<'static>;

/// All tensors of a model in the type they are computed in.
pub(super) struct Store {
    tensors: Tensors,
    renames: Renames,
}

impl Store {
    /// A builder over `tensors`, all of type f32 and on `device`.
    pub fn builder(tensors: Tensors, renames: Renames, device: &Device) -> Vars {
        let store = Store { tensors, renames };
        VarBuilderArgs::from_backend(Box::new(store), DType::F32, device.clone())
    }

    fn find(&self, name: &str) -> Option<&Tensor> {
        let renamed = self.renames.iter().find_map(|(asked, stored)| {
            let rest = name.strip_prefix(asked)?;
            self.tensors.get(&format!("{stored}{rest}"))
        });
        self.tensors.get(name).or(renamed)
    }
}

impl SimpleBackend for Store {
    fn get(&self, shape: Shape, name: &str, _: Init, _: DType, _: &Device) -> Result<Tensor> {
        let Some(tensor) = self.find(name) else { bail!("tensor {name} is missing") };
        if *tensor.shape() != shape {
            bail!("tensor {name} has the shape {:?} instead of {shape:?}", tensor.shape());
        }
        // Cloning shares the values.
        Ok(tensor.clone())
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        match self.find(name) {
            Some(tensor) => Ok(tensor.clone()),
            None => bail!("tensor {name} is missing"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}
