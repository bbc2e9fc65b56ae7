//! From a checked header to tensors on a device, one weight at a time.
//!
//! Files are mapped. Dense weights are converted while they are read; quantised ones stay in the map
//! where the device is the host ([`mapped`]), and are copied to any other. Which weights there are and
//! how they are called is `sconce_formats`' knowledge.

pub(crate) mod dense;
pub(crate) mod mapped;

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use sconce_formats::tensors::{self, Role};
use sconce_formats::{ElementType, ModelHeader, RopeScaling, TensorEntry, file};
use sconce_plugin_api::sdk::{Code, Progress, codes::stage};

use crate::error::{EngineError, Result};
use crate::matrix::Matrix;
use crate::target::Types;

/// Hands out the weights of one model, and reports how far it is.
pub(crate) struct Weights<'a> {
    header: &'a ModelHeader,
    files: Vec<Arc<Mmap>>,
    device: Device,
    types: Types,
    progress: &'a mut dyn FnMut(u64) -> Result<()>,
    read_bytes: u64,
    /// Bytes of quantised and of dense weights handed out.
    pub quantised_bytes: u64,
    /// See `quantised_bytes`.
    pub dense_bytes: u64,
}

/// A callback for [`Weights`] that reports to the host.
pub(crate) fn report<'a>(progress: &'a mut Progress<'_>, total: u64) -> impl FnMut(u64) -> Result<()> + 'a {
    move |done| {
        progress.update(stage::READ, done.min(total), total).map_err(|error| match error.code {
            Code::CANCELLED => EngineError::Cancelled,
            _ => EngineError::Tensor(candle_core::Error::msg(error.message)),
        })
    }
}

impl<'a> Weights<'a> {
    /// Maps the model's files. `progress` hears the bytes read so far, and may stop the load.
    pub fn open(
        header: &'a ModelHeader,
        device: &Device,
        types: Types,
        progress: &'a mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Weights<'a>> {
        let map = |path: &std::path::PathBuf| Ok(Arc::new(file::map(path)?));
        let files = header.source.weights.iter().map(map).collect::<Result<_>>()?;
        let device = device.clone();
        Ok(Weights {
            header,
            files,
            device,
            types,
            progress,
            read_bytes: 0,
            quantised_bytes: 0,
            dense_bytes: 0,
        })
    }

    /// Element type of activations and of dense weights.
    pub fn compute(&self) -> DType {
        self.types.compute
    }

    /// Where the weights go.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether models of this configuration have such a bias.
    pub fn expects(&self, bias: Role) -> bool {
        let config = &self.header.config;
        match bias {
            Role::QBias | Role::KBias | Role::VBias => config.qkv_bias,
            Role::OBias => config.attn_out_bias,
            _ => config.mlp_bias,
        }
    }

    /// A weight `[out, in]`, quantised where the file has it so and the load keeps it.
    pub fn matrix(&mut self, role: Role, layer: usize) -> Result<Matrix> {
        let (name, entry) = self.entry(role, layer)?;
        let matrix = match entry.dtype {
            ElementType::Ggml(ty) if !ty.is_float() => self.quantised(&name, entry)?,
            _ => Matrix::Dense(self.dense(&name, entry)?),
        };
        let counter = match matrix.is_quantised() {
            true => &mut self.quantised_bytes,
            false => &mut self.dense_bytes,
        };
        *counter += matrix.bytes();
        self.advance(entry)?;
        Ok(matrix)
    }

    /// A norm or bias `[n]`, always dense.
    pub fn vector(&mut self, role: Role, layer: usize) -> Result<Tensor> {
        let (name, entry) = self.entry(role, layer)?;
        let vector = self.dense(&name, entry)?;
        self.dense_bytes += (vector.elem_count() * vector.dtype().size_in_bytes()) as u64;
        self.advance(entry)?;
        Ok(vector)
    }

    /// `rope_freqs.weight`, where the configuration asks for it.
    pub fn rope_factors(&mut self) -> Result<Option<Vec<f32>>> {
        if self.header.config.rope.scaling != RopeScaling::FrequencyFactors {
            return Ok(None);
        }
        let (name, entry) = self.entry(Role::RopeFactors, 0)?;
        let factors = dense::to_f32(self.bytes(&name, entry)?, entry)?;
        self.advance(entry)?;
        Ok(Some(factors))
    }

    fn entry(&self, role: Role, layer: usize) -> Result<(String, &'a TensorEntry)> {
        let name = tensors::name(self.header.source.format, role, layer);
        match self.header.tensors.get(&name) {
            Some(entry) => Ok((name, entry)),
            None => Err(EngineError::MissingTensor { name }),
        }
    }

    fn bytes(&self, name: &str, entry: &TensorEntry) -> Result<&[u8]> {
        entry.slice(&self.files[entry.shard]).ok_or_else(|| EngineError::Truncated {
            path: self.header.source.weights[entry.shard].clone(),
            name: name.to_owned(),
        })
    }

    fn dense(&self, name: &str, entry: &TensorEntry) -> Result<Tensor> {
        let values = dense::to_f32(self.bytes(name, entry)?, entry)?;
        let tensor = Tensor::from_vec(values, entry.shape.as_slice(), &Device::Cpu)?;
        Ok(tensor.to_dtype(self.types.compute)?.to_device(&self.device)?)
    }

    fn quantised(&self, name: &str, entry: &TensorEntry) -> Result<Matrix> {
        let ElementType::Ggml(ty) = entry.dtype else {
            return Ok(Matrix::Dense(self.dense(name, entry)?));
        };
        let bytes = self.bytes(name, entry)?;
        let blocks = mapped::storage(&self.files[entry.shard], bytes, mapped::candle_type(ty));
        let on_host = QTensor::new(QStorage::Cpu(blocks), entry.shape.as_slice())?;
        if self.types.expand {
            let dense = on_host.dequantize(&Device::Cpu)?.to_dtype(self.types.compute)?;
            return Ok(Matrix::Dense(dense.to_device(&self.device)?));
        }
        if self.device.is_cpu() {
            return Ok(Matrix::Quantised(Arc::new(on_host)));
        }
        self.upload(&on_host, mapped::candle_type(ty))
    }

    /// Copies blocks to a device that is not the host.
    fn upload(&self, on_host: &QTensor, ty: GgmlDType) -> Result<Matrix> {
        let storage = QStorage::from_data(on_host.data()?, &self.device, ty)?;
        Ok(Matrix::Quantised(Arc::new(QTensor::new(storage, on_host.shape())?)))
    }

    fn advance(&mut self, entry: &TensorEntry) -> Result<()> {
        self.read_bytes += entry.bytes;
        (self.progress)(self.read_bytes)
    }
}
