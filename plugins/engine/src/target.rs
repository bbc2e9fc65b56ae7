//! What a backend brings: everything the engine needs to know of a device.

use std::sync::Arc;

use candle_core::{DType, Device};
use sconce_formats::memory::{self, Holding, KvType, PACK_FROM};
use sconce_formats::tensors::Role;
use sconce_plugin_api::sdk::codes::dtype;

use crate::error::{EngineError, Result};
use crate::ops::{Ops, Place};

/// Bytes of memory that weights and KV cache may still take, or `None` where nobody can tell.
pub type FreeMemory = Box<dyn Fn() -> Option<u64> + Send>;

/// One opened device.
pub struct Target {
    /// Where tensors live.
    pub device: Device,
    /// The hot operations, in the backend's own version where it has one.
    pub ops: Arc<dyn Ops>,
    /// Element types of activations and dense weights, the automatic choice first; F32 is among them.
    pub compute: &'static [DType],
    /// Asked after the weights are in place, to size the KV cache.
    pub free_memory: FreeMemory,
    /// Bytes that kernels will hold beside each byte of quantised weights (packed copies).
    pub packed_share: f64,
    /// Share of the memory that is left when the weights are in place which an automatic KV cache takes.
    pub kv_share: f64,
}

/// Which element types a load uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Types {
    /// Activations and dense weights.
    pub compute: DType,
    /// Quantised weights become dense as well.
    pub expand: bool,
    /// What becomes of weights that are dense in the file.
    pub dense: DenseAs,
    /// Keys and values.
    pub kv: KvType,
}

/// What dense weights are held as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DenseAs {
    /// The compute type.
    Compute,
    /// Blocks of eight bits.
    Q8_0,
    /// To be [settled](Types::settle) when the model is known.
    Undecided,
}

impl Types {
    /// What `LoadRequest::weight_dtype` and `kv_dtype` ask of a backend that computes in `offered` and has its KV
    /// cache in `place`.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for a type that is not offered.
    pub fn choose(offered: &[DType], place: Place, weight_dtype: u32, kv_dtype: u32) -> Result<Types> {
        let (compute, expand, dense) = match weight_dtype {
            dtype::AUTO => (offered[0], false, DenseAs::Undecided),
            wanted => match offered.iter().find(|offer| wire(**offer) == wanted) {
                Some(compute) => (*compute, wanted == dtype::F32, DenseAs::Compute),
                None => return Err(refuse("weights", wanted, offered.iter().map(|offer| wire(*offer)))),
            },
        };
        let kv = match kv_dtype {
            dtype::AUTO => wire(compute),
            wanted => wanted,
        };
        match place.types().iter().find(|offer| kv_wire(**offer) == kv) {
            Some(kv) => Ok(Types { compute, expand, dense, kv: *kv }),
            None => Err(refuse("a KV cache", kv, place.types().iter().map(|offer| kv_wire(*offer)))),
        }
    }

    /// Decides what the request left open: as `asked`, or else by the number of parameters.
    pub fn settle(self, asked: DenseAs, parameters: u64) -> Types {
        let packs = self.compute == DType::F32 && parameters >= PACK_FROM;
        let dense = match (self.dense, asked) {
            (DenseAs::Undecided, DenseAs::Undecided) if packs => DenseAs::Q8_0,
            (DenseAs::Undecided, DenseAs::Undecided) => DenseAs::Compute,
            (DenseAs::Undecided, asked) => asked,
            (decided, _) => decided,
        };
        Types { dense, ..self }
    }

    /// Whether a weight that is dense in the file is packed.
    pub fn packs(self, role: Role, shape: &[usize]) -> bool {
        self.dense == DenseAs::Q8_0 && memory::packable(role, shape)
    }

    /// The same as the rules for memory want it.
    pub fn holding(self) -> Holding {
        Holding {
            float_bytes: self.compute.size_in_bytes(),
            expand: self.expand,
            pack: self.dense == DenseAs::Q8_0,
        }
    }
}

fn refuse(what: &str, wanted: u32, offered: impl Iterator<Item = u32>) -> EngineError {
    let names: Vec<&str> = offered.map(dtype::name).collect();
    EngineError::Unsupported {
        what: format!("{what} of type {}", dtype::name(wanted)),
        fix: format!("ask for `auto` or {}", names.join(", ")),
    }
}

/// The wire number of an element type.
pub(crate) fn wire(ty: DType) -> u32 {
    match ty {
        DType::F32 => dtype::F32,
        DType::F16 => dtype::F16,
        DType::BF16 => dtype::BF16,
        // No target offers another one.
        _ => dtype::AUTO,
    }
}

/// The wire number of a type of the KV cache.
pub(crate) fn kv_wire(ty: KvType) -> u32 {
    match ty {
        KvType::F32 => dtype::F32,
        KvType::F16 => dtype::F16,
        KvType::BF16 => dtype::BF16,
        KvType::Q8_0 => dtype::Q8_0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(weight: u32, kv: u32, expected: Option<Types>) {
        assert_eq!(Types::choose(&[DType::F32], Place::Host, weight, kv).ok(), expected, "{weight} {kv}");
    }

    #[test]
    fn requests_become_types() {
        let kv = KvType::F32;
        let as_stored = Types { compute: DType::F32, expand: false, dense: DenseAs::Undecided, kv };
        let expanded = Types { expand: true, dense: DenseAs::Compute, ..as_stored };
        check(dtype::AUTO, dtype::AUTO, Some(as_stored));
        check(dtype::AUTO, dtype::F32, Some(as_stored));
        check(dtype::F32, dtype::AUTO, Some(expanded));
        check(dtype::Q8_0, dtype::AUTO, None);
        check(dtype::F16, dtype::AUTO, None);
        check(dtype::BF16, dtype::F32, None);
        check(dtype::QUANTISED, dtype::AUTO, None);
        check(dtype::AUTO, dtype::Q8_0, Some(Types { kv: KvType::Q8_0, ..as_stored }));
        check(dtype::F32, dtype::F16, Some(Types { kv: KvType::F16, ..expanded }));
        check(dtype::AUTO, dtype::BF16, Some(Types { kv: KvType::BF16, ..as_stored }));
        check(dtype::AUTO, dtype::QUANTISED, None);
        check(77, dtype::AUTO, None);
    }

    #[test]
    fn a_cache_in_tensors_has_their_types() {
        let kv = |offered: &[DType], wanted| {
            Types::choose(offered, Place::Tensors, dtype::AUTO, wanted).ok().map(|types| types.kv)
        };
        let with_half_types = &[DType::BF16, DType::F32];
        assert_eq!(kv(with_half_types, dtype::AUTO), Some(KvType::BF16), "as it computes");
        assert_eq!(kv(with_half_types, dtype::F16), Some(KvType::F16));
        assert_eq!(kv(&[DType::F32], dtype::AUTO), Some(KvType::F32));
        assert_eq!(kv(&[DType::F32], dtype::Q8_0), None);
    }

    #[test]
    fn large_models_are_packed_unless_told_otherwise() {
        use DenseAs::{Compute, Q8_0, Undecided};
        let settled = |offered: &[DType], wanted, asked, parameters| {
            let types = Types::choose(offered, Place::Host, wanted, dtype::AUTO).expect("offered");
            types.settle(asked, parameters).dense
        };
        let cpu = &[DType::F32];
        assert_eq!(settled(cpu, dtype::AUTO, Undecided, PACK_FROM), Q8_0);
        assert_eq!(settled(cpu, dtype::AUTO, Undecided, PACK_FROM - 1), Compute);
        assert_eq!(settled(cpu, dtype::AUTO, Compute, PACK_FROM), Compute);
        assert_eq!(settled(cpu, dtype::AUTO, Q8_0, 1), Q8_0);
        assert_eq!(settled(cpu, dtype::F32, Q8_0, PACK_FROM), Compute, "everything expanded");
        let with_half_types = &[DType::BF16, DType::F32];
        assert_eq!(settled(with_half_types, dtype::AUTO, Undecided, PACK_FROM), Compute);
    }

    #[test]
    fn odd_rows_and_routers_are_not_packed() {
        let types = Types { compute: DType::F32, expand: false, dense: DenseAs::Q8_0, kv: KvType::F32 };
        assert!(types.packs(Role::Q, &[8, 64]) && !types.packs(Role::Q, &[8, 72]));
        assert!(!types.packs(Role::Router, &[8, 64]));
    }

    #[test]
    fn a_refusal_names_what_there_is() {
        let error =
            |weights, kv| Types::choose(&[DType::F32], Place::Tensors, weights, kv).expect_err("not offered");
        let text = error(dtype::F16, dtype::AUTO).to_string();
        assert!(text.contains("weights of type float16") && text.contains("float32"), "{text}");
        let text = error(dtype::AUTO, dtype::Q8_0).to_string();
        assert!(
            text.contains("KV cache of type q8_0") && text.contains("float32, float16, bfloat16"),
            "{text}"
        );
    }
}
