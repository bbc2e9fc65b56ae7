//! From a checked header to tensors on a device, one weight at a time.
//!
//! Dense weights are read from their file in pieces and converted on the way, so that no more than the result
//! is held ([`dense`]). Quantised ones stay in the mapped file where the device is the host ([`mapped`]), and
//! are copied to any other. Which weights there are, how they are called and which rows of which tensor they
//! take is `sconce_formats`' knowledge.

pub(crate) mod dense;
pub(crate) mod mapped;

pub use dense::ReadError;

use std::fs::File;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use sconce_formats::config::NormKind;
use sconce_formats::tensors::{self, Role, Slot};
use sconce_formats::{ElementType, FormatError, ModelHeader, TensorEntry, file};
use sconce_plugin_api::sdk::{Code, Progress, codes::stage};

use crate::error::{EngineError, Result};
use crate::matrix::{Linear, Matrix};
use crate::ops::{Norm, Upload};
use crate::projections::{Product, Projections};
use crate::rope::FactorTensors;
use crate::target::Types;

/// Hands out the weights of one model, and reports how far it is.
pub(crate) struct Weights<'a> {
    header: &'a ModelHeader,
    files: Vec<WeightFile>,
    device: Device,
    upload: Option<&'a dyn Upload>,
    types: Types,
    progress: &'a mut dyn FnMut(u64) -> Result<()>,
    read_bytes: u64,
    /// Bytes of quantised and of dense weights handed out.
    pub quantised_bytes: u64,
    /// See `quantised_bytes`.
    pub dense_bytes: u64,
    /// Bytes of the quantised weights that are dense in the file.
    pub packed_bytes: u64,
}

/// One file of a model, for reading and for mapping. A map costs nothing until its pages are touched.
struct WeightFile {
    file: File,
    map: Arc<Mmap>,
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
    /// Opens the model's files. `to`: the device, and its own way of taking weights. `progress` hears the bytes read so far, and may stop the load.
    pub fn open(
        header: &'a ModelHeader,
        (device, upload): (&Device, Option<&'a dyn Upload>),
        types: Types,
        progress: &'a mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Weights<'a>> {
        let open = |path: &std::path::PathBuf| {
            let map = Arc::new(file::map(path)?);
            let file = File::open(path).map_err(|source| FormatError::Io { path: path.clone(), source })?;
            Ok(WeightFile { file, map })
        };
        let files = header.source.weights.iter().map(open).collect::<Result<_>>()?;
        let device = device.clone();
        Ok(Weights {
            header,
            files,
            device,
            upload,
            types,
            progress,
            read_bytes: 0,
            quantised_bytes: 0,
            dense_bytes: 0,
            packed_bytes: 0,
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

    /// A projection with its bias, if the model has one.
    pub fn linear(&mut self, role: Role, layer: usize) -> Result<Linear> {
        self.linear_at(Slot::weight(role, layer))
    }

    /// As [`Self::linear`], for a weight that is one expert's.
    pub fn linear_at(&mut self, slot: Slot) -> Result<Linear> {
        let weight = self.matrix_at(slot)?;
        Ok(Linear { weight, bias: self.vector(slot.bias())? })
    }

    /// Projections of one input, neighbours in one weight where the device wants that and their types allow it.
    pub fn projections(&mut self, slots: &[Slot]) -> Result<Projections> {
        let mut groups: Vec<Vec<Slot>> = Vec::new();
        for slot in slots {
            match groups.last_mut() {
                Some(group) if self.can_join(group[0], *slot)? => group.push(*slot),
                _ => groups.push(vec![*slot]),
            }
        }
        let product = |group: Vec<Slot>| match group.as_slice() {
            [one] => self.apart(*one),
            several => self.joined(several),
        };
        Ok(Projections::new(groups.into_iter().map(product).collect::<Result<_>>()?))
    }

    /// Projections of one input, each with a weight of its own.
    pub fn projections_apart(&mut self, slots: &[Slot]) -> Result<Projections> {
        Ok(Projections::new(slots.iter().map(|slot| self.apart(*slot)).collect::<Result<_>>()?))
    }

    fn apart(&mut self, slot: Slot) -> Result<Product> {
        let rows = self.found(slot)?.0.shape[0];
        Ok(Product { linear: self.linear_at(slot)?, rows: vec![rows] })
    }

    /// The bias of a projection, if the model has one.
    pub fn bias(&mut self, role: Role, layer: usize) -> Result<Option<Tensor>> {
        self.vector(Slot::weight(role, layer).bias())
    }

    /// A weight `[out, in]`, quantised where the file has it so and the load keeps it.
    pub fn matrix(&mut self, role: Role, layer: usize) -> Result<Matrix> {
        self.matrix_at(Slot::weight(role, layer))
    }

    /// A norm, if the family has it.
    pub fn norm(&mut self, role: Role, layer: usize) -> Result<Option<Norm>> {
        let slot = Slot::weight(role, layer);
        let norm = self.header.config.norm;
        let Some(weight) = self.vector(slot)? else { return Ok(None) };
        let weight = if norm.offset == 0.0 { weight } else { (weight + norm.offset)? };
        let epsilon = norm.epsilon;
        // Norms of queries and keys are RMS norms in every family.
        if norm.kind == NormKind::Rms || matches!(role, Role::QNorm | Role::KNorm) {
            return Ok(Some(Norm::Rms { weight, epsilon }));
        }
        let bias = self.vector(slot.bias())?.map_or_else(|| weight.zeros_like(), Ok)?;
        Ok(Some(Norm::Layer { weight, bias, epsilon }))
    }

    /// A norm that every family has.
    pub fn required_norm(&mut self, role: Role, layer: usize) -> Result<Norm> {
        self.norm(role, layer)?.ok_or_else(|| self.missing(Slot::weight(role, layer)))
    }

    /// Whether the file has an output projection of its own although the configuration says that it is the embedding.
    ///
    /// A copy of the embedding is none; where the two differ, the file counts, as in transformers.
    pub fn unties(&self) -> Result<bool> {
        let (config, format) = (&self.header.config, self.header.source.format);
        let entry = |role| self.header.tensors.get(&Slot::weight(role, 0).place(config, format).name);
        let (Some(own), Some(embedding)) = (entry(Role::Output), entry(Role::TokenEmbedding)) else {
            return Ok(false);
        };
        if !config.tied_embeddings || (own.dtype, &own.shape) != (embedding.dtype, &embedding.shape) {
            return Ok(config.tied_embeddings);
        }
        let file = |entry: &TensorEntry| &self.files[entry.shard].file;
        let equal = dense::same((file(own), own), (file(embedding), embedding));
        Ok(!equal.map_err(|error| self.at(error, "the output projection", own))?)
    }

    /// The divisors of rotary frequencies, where the file holds them as tensors.
    pub fn rope_factors(&mut self) -> Result<FactorTensors> {
        let mut read = |role| {
            let Some((entry, name)) = self.find(Slot::weight(role, 0))? else { return Ok(None) };
            let values = self.values(&name, &entry)?;
            self.advance(&entry)?;
            Ok::<_, EngineError>(Some(values))
        };
        Ok(FactorTensors {
            all: read(Role::RopeFactors)?,
            short: read(Role::RopeShortFactors)?,
            long: read(Role::RopeLongFactors)?,
        })
    }

    /// A stored tensor as it is, whatever it is for.
    #[cfg(feature = "long-tail")]
    pub fn whole(&mut self, name: &str, entry: &TensorEntry) -> Result<Tensor> {
        let tensor = self.dense(name, entry)?;
        self.dense_bytes += (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64;
        self.advance(entry)?;
        Ok(tensor)
    }

    /// Whether two weights can be one: the device joins, and they are stored and held alike, with biases or without.
    fn can_join(&self, a: Slot, b: Slot) -> Result<bool> {
        let (one, other) = (self.found(a)?.0, self.found(b)?.0);
        let as_stored = match one.dtype {
            ElementType::Ggml(ty) if !ty.is_float() => !self.types.expand,
            ty => dense::stored_type(ty).is_some(),
        };
        let packs = self.types.packs(a.role, &one.shape) || self.types.packs(b.role, &other.shape);
        let biases = self.find(a.bias())?.is_some() == self.find(b.bias())?.is_some();
        let alike = one.dtype == other.dtype && one.shape[1..] == other.shape[1..];
        Ok(self.upload.is_some_and(Upload::joins) && as_stored && !packs && biases && alike)
    }

    /// Weights that [can be joined](Self::can_join), as one.
    fn joined(&mut self, slots: &[Slot]) -> Result<Product> {
        let found = slots.iter().map(|slot| self.found(*slot)).collect::<Result<Vec<_>>>()?;
        let rows: Vec<usize> = found.iter().map(|(entry, _)| entry.shape[0]).collect();
        let shape = [&[rows.iter().sum()], &found[0].0.shape[1..]].concat();
        let weight = self.upload_as_one(&found, &shape)?;
        self.count(&weight);
        found.iter().try_for_each(|(entry, _)| self.advance(entry))?;
        let biases = slots.iter().map(|slot| self.vector(slot.bias())).collect::<Result<Option<Vec<_>>>>()?;
        let bias = biases.map(|biases| Tensor::cat(&biases, 0)).transpose()?;
        Ok(Product { linear: Linear { weight, bias }, rows })
    }

    fn upload_as_one(&self, found: &[(TensorEntry, String)], shape: &[usize]) -> Result<Matrix> {
        let (first, name) = &found[0];
        let upload = self.upload.expect("only who joins is asked to");
        let files = found.iter().map(|(entry, _)| (&self.files[entry.shard].file, entry)).collect();
        let mut read = dense::in_pieces(files);
        let at = |error| self.at(error, name, first);
        match first.dtype {
            ElementType::Ggml(ty) if !ty.is_float() => {
                let blocks = upload.blocks(mapped::candle_type(ty), shape, &mut read);
                Ok(self.matrix_of(blocks.map_err(at)?))
            }
            ty => {
                let ty = dense::stored_type(ty).expect("other types are not joined");
                let tensor = upload.floats(ty, shape, &mut read).map_err(at)?;
                Ok(Matrix::Dense(tensor.to_dtype(self.types.compute)?))
            }
        }
    }

    /// Where a weight lies that every model has, and its tensor's name.
    fn found(&self, slot: Slot) -> Result<(TensorEntry, String)> {
        self.find(slot)?.ok_or_else(|| self.missing(slot))
    }

    fn count(&mut self, matrix: &Matrix) {
        match matrix.is_quantised() {
            true => self.quantised_bytes += matrix.bytes(),
            false => self.dense_bytes += matrix.bytes(),
        }
    }

    fn matrix_at(&mut self, slot: Slot) -> Result<Matrix> {
        let (entry, name) = self.found(slot)?;
        let matrix = match entry.dtype {
            ElementType::Ggml(ty) if !ty.is_float() => self.quantised(&name, &entry, ty)?,
            _ if self.types.packs(slot.role, &entry.shape) => {
                let packed = self.packed(&name, &entry)?;
                self.packed_bytes += packed.bytes();
                packed
            }
            _ => Matrix::Dense(self.dense(&name, &entry)?),
        };
        self.count(&matrix);
        self.advance(&entry)?;
        Ok(matrix)
    }

    /// A norm or bias `[n]`, always dense, if the model has it.
    fn vector(&mut self, slot: Slot) -> Result<Option<Tensor>> {
        let Some((entry, name)) = self.find(slot)? else { return Ok(None) };
        let vector = self.dense(&name, &entry)?;
        self.dense_bytes += (vector.elem_count() * vector.dtype().size_in_bytes()) as u64;
        self.advance(&entry)?;
        Ok(Some(vector))
    }

    /// Where a weight lies, as if it were a tensor of its own, and the name of the tensor that holds it; `None` if
    /// models of this configuration have no such weight.
    fn find(&self, slot: Slot) -> Result<Option<(TensorEntry, String)>> {
        let (config, format) = (&self.header.config, self.header.source.format);
        if !slot.exists(config, format) {
            return Ok(None);
        }
        let place = slot.place(config, format);
        let Some(whole) = self.header.tensors.get(&place.name) else {
            return Err(EngineError::MissingTensor { name: place.name });
        };
        let row_bytes = whole.bytes / tensors::leading(&place.stored).max(1) as u64;
        let entry = TensorEntry {
            shape: place.shape,
            offset: whole.offset + place.rows.start as u64 * row_bytes,
            bytes: place.rows.len() as u64 * row_bytes,
            ..whole.clone()
        };
        Ok(Some((entry, place.name)))
    }

    /// A weight that every model has, of a configuration that says it has not.
    fn missing(&self, slot: Slot) -> EngineError {
        let name = slot.place(&self.header.config, self.header.source.format).name;
        EngineError::MissingTensor { name }
    }

    fn values(&self, name: &str, entry: &TensorEntry) -> Result<Vec<f32>> {
        dense::to_f32(&self.files[entry.shard].file, entry).map_err(|error| self.at(error, name, entry))
    }

    fn dense(&self, name: &str, entry: &TensorEntry) -> Result<Tensor> {
        if let (Some(upload), Some(ty)) = (self.upload, dense::stored_type(entry.dtype)) {
            let mut read = dense::in_pieces(vec![(&self.files[entry.shard].file, entry)]);
            let tensor = upload.floats(ty, &entry.shape, &mut read);
            return Ok(tensor.map_err(|error| self.at(error, name, entry))?.to_dtype(self.types.compute)?);
        }
        let tensor = Tensor::from_vec(self.values(name, entry)?, entry.shape.as_slice(), &Device::Cpu)?;
        Ok(tensor.to_dtype(self.types.compute)?.to_device(&self.device)?)
    }

    /// Dense in the file, Q8_0 in memory.
    fn packed(&self, name: &str, entry: &TensorEntry) -> Result<Matrix> {
        let blocks = dense::to_q8_0(&self.files[entry.shard].file, entry);
        let blocks = blocks.map_err(|error| self.at(error, name, entry))?;
        let on_host = QTensor::new(QStorage::Cpu(blocks), entry.shape.as_slice())?;
        self.placed(on_host, GgmlDType::Q8_0)
    }

    fn quantised(&self, name: &str, entry: &TensorEntry, ty: sconce_formats::GgmlType) -> Result<Matrix> {
        let file = &self.files[entry.shard];
        if let (Some(upload), false) = (self.upload, self.types.expand) {
            let mut read = dense::in_pieces(vec![(&file.file, entry)]);
            let tensor = upload.blocks(mapped::candle_type(ty), &entry.shape, &mut read);
            return Ok(self.matrix_of(tensor.map_err(|error| self.at(error, name, entry))?));
        }
        let bytes = entry.slice(&file.map).ok_or_else(|| self.truncated(name, entry))?;
        let blocks = mapped::storage(&file.map, bytes, mapped::candle_type(ty));
        let on_host = QTensor::new(QStorage::Cpu(blocks), entry.shape.as_slice())?;
        if self.types.expand {
            let dense = on_host.dequantize(&Device::Cpu)?.to_dtype(self.types.compute)?;
            return Ok(Matrix::Dense(dense.to_device(&self.device)?));
        }
        self.placed(on_host, mapped::candle_type(ty))
    }

    /// Blocks on the device, copied there if it is not the host.
    fn placed(&self, on_host: QTensor, ty: GgmlDType) -> Result<Matrix> {
        let placed = if self.device.is_cpu() {
            on_host
        } else {
            QTensor::new(QStorage::from_data(on_host.data()?, &self.device, ty)?, on_host.shape())?
        };
        Ok(self.matrix_of(placed))
    }

    fn matrix_of(&self, blocks: QTensor) -> Matrix {
        // A rounding that is harmless elsewhere sends a token to another expert here. Coarser weights than
        // these are off by more than their inputs.
        match self.header.config.moe {
            Some(_) if blocks.dtype() == GgmlDType::Q8_0 => Matrix::Unrounded(Arc::new(blocks)),
            _ => Matrix::Quantised(Arc::new(blocks)),
        }
    }

    /// What a failed read means for the caller.
    fn at(&self, error: dense::ReadError, name: &str, entry: &TensorEntry) -> EngineError {
        match error {
            dense::ReadError::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                self.truncated(name, entry)
            }
            dense::ReadError::Io(source) => {
                let path = self.header.source.weights[entry.shard].clone();
                FormatError::Io { path, source }.into()
            }
            dense::ReadError::Tensor(error) => error.into(),
        }
    }

    fn truncated(&self, name: &str, entry: &TensorEntry) -> EngineError {
        let path = self.header.source.weights[entry.shard].clone();
        EngineError::Truncated { path, name: name.to_owned() }
    }

    fn advance(&mut self, entry: &TensorEntry) -> Result<()> {
        self.read_bytes += entry.bytes;
        (self.progress)(self.read_bytes)
    }
}
