//! The tensors and the keys of a file, and the random bytes of its tensors.

use std::io::Write;

use sconce_formats::GgmlType;
use sconce_formats::gguf::random::{self, Random};
use sconce_formats::gguf::{GgufWriter, TensorData, Value, WriteError};

use super::quant::{Place, Quant};
use super::shapes::Shape;

/// Bytes that are made before they are written.
const CHUNK: usize = 1 << 20;
/// How far norms lie from one, and biases from zero.
const SPREAD: f32 = 0.1;

/// A model that can be written.
pub struct Model<'a> {
    shape: &'a Shape,
    layers: usize,
    quant: Quant,
    seed: u64,
    tokenizer: Vec<(String, Value)>,
    tensors: Vec<Tensor>,
}

struct Tensor {
    name: String,
    /// Outermost first.
    dims: Vec<usize>,
    ty: GgmlType,
    content: Content,
}

/// What a tensor is filled with.
enum Content {
    /// Weights around zero.
    Weights { deviation: f32 },
    /// Floats around a number.
    Around(f32),
    /// These, which are no parameters.
    Factors(Vec<f32>),
}

impl<'a> Model<'a> {
    /// A model of a shape, though with another number of layers; `tokenizer` goes into its keys.
    pub fn new(
        shape: &'a Shape,
        layers: usize,
        quant: Quant,
        seed: u64,
        tokenizer: Vec<(String, Value)>,
    ) -> Self {
        let tensors = Layout { shape, layers, quant, tensors: Vec::new() }.all();
        Self { shape, layers, quant, seed, tokenizer, tensors }
    }

    pub fn tensors(&self) -> usize {
        self.tensors.len()
    }

    #[cfg(test)]
    pub fn types(&self) -> Vec<GgmlType> {
        self.tensors.iter().map(|tensor| tensor.ty).collect()
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        let learned = self.tensors.iter().filter(|tensor| !matches!(tensor.content, Content::Factors(_)));
        learned.map(|tensor| tensor.dims.iter().product::<usize>() as u64).sum()
    }

    /// The file without its tensors' data.
    pub fn header(&self) -> Result<GgufWriter, WriteError> {
        let mut writer = GgufWriter::new();
        self.keys().into_iter().for_each(|(key, value)| writer.key(&key, value));
        self.tokenizer.iter().for_each(|(key, value)| writer.key(key, value.clone()));
        for tensor in &self.tensors {
            writer.tensor(&tensor.name, &tensor.dims, tensor.ty)?;
        }
        Ok(writer)
    }

    /// The data of all tensors, the same for the same seed.
    pub fn write_data<W: Write>(&self, mut data: TensorData<W>) -> Result<W, WriteError> {
        let mut random = Random(self.seed);
        let mut bytes = Vec::with_capacity(CHUNK + CHUNK / 8);
        for tensor in &self.tensors {
            tensor.write(&mut random, &mut bytes, &mut data)?;
        }
        data.finish()
    }

    fn keys(&self) -> Vec<(String, Value)> {
        let Shape { name, architecture, .. } = self.shape;
        let text = |text: String| Value::String(text);
        let mut keys = vec![
            ("general.architecture".to_owned(), text((*architecture).to_owned())),
            ("general.name".to_owned(), text(format!("{name}, random weights"))),
            (
                "general.description".to_owned(),
                text(format!("the shape of {name} for measuring speed; seed {}", self.seed)),
            ),
            ("general.file_type".to_owned(), Value::Uint(self.quant.file_type())),
            // Of the block layouts.
            ("general.quantization_version".to_owned(), Value::Uint(2)),
        ];
        let sizes = self.sizes().map(|(key, size)| (key, Value::Uint(size as u64)));
        let floats = [
            ("attention.layer_norm_rms_epsilon", self.shape.norm_eps),
            ("rope.freq_base", self.shape.rope_base),
        ];
        let floats = floats.map(|(key, number)| (key, Value::Float(f64::from(number))));
        let own = sizes.into_iter().chain(floats);
        keys.extend(own.map(|(key, value)| (format!("{architecture}.{key}"), value)));
        keys
    }

    fn sizes(&self) -> [(&'static str, usize); 10] {
        let shape = self.shape;
        [
            ("vocab_size", shape.vocab),
            ("context_length", shape.context),
            ("embedding_length", shape.hidden),
            ("block_count", self.layers),
            ("feed_forward_length", shape.ffn),
            ("attention.head_count", shape.heads),
            ("attention.head_count_kv", shape.kv_heads),
            ("attention.key_length", shape.head_dim),
            ("attention.value_length", shape.head_dim),
            ("rope.dimension_count", shape.head_dim),
        ]
    }
}

impl Tensor {
    fn write<W: Write>(
        &self,
        random: &mut Random,
        bytes: &mut Vec<u8>,
        data: &mut TensorData<W>,
    ) -> Result<(), WriteError> {
        let elements: usize = self.dims.iter().product();
        bytes.clear();
        match &self.content {
            Content::Around(middle) => random::floats(elements, *middle, SPREAD, random, bytes),
            Content::Factors(factors) => {
                factors.iter().for_each(|factor| bytes.extend(factor.to_le_bytes()));
            }
            Content::Weights { deviation } => {
                let block = random::block(self.ty).expect("a `Quant` names types that can be made");
                for _ in 0..elements / self.ty.block_size() {
                    block(*deviation, random, bytes);
                    if bytes.len() >= CHUNK {
                        data.write(bytes)?;
                        bytes.clear();
                    }
                }
            }
        }
        data.write(bytes)
    }
}

/// Lists the tensors in the order of converted files.
struct Layout<'a> {
    shape: &'a Shape,
    layers: usize,
    quant: Quant,
    tensors: Vec<Tensor>,
}

impl Layout<'_> {
    fn all(mut self) -> Vec<Tensor> {
        let Shape { hidden, vocab, tied, .. } = *self.shape;
        if let Some(factors) = self.shape.rope_factors() {
            self.floats("rope_freqs.weight".to_owned(), factors.len(), Content::Factors(factors));
        }
        let embedding = if tied { Place::Head } else { Place::Other };
        self.matrix("token_embd.weight".to_owned(), vocab, hidden, embedding, 1.0);
        (0..self.layers).for_each(|layer| self.layer(layer));
        self.norm("output_norm.weight".to_owned());
        if !tied {
            self.matrix("output.weight".to_owned(), vocab, hidden, Place::Head, 1.0);
        }
        self.tensors
    }

    fn layer(&mut self, layer: usize) {
        let Shape { hidden, ffn, heads, kv_heads, head_dim, qkv_bias, .. } = *self.shape;
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        let sensitive = Place::Sensitive { layer };
        // What layers add to each other stays of the size of what one of them reads.
        let share = 1.0 / (2.0 * self.layers as f32).sqrt();
        let name = |part: &str| format!("blk.{layer}.{part}");
        self.norm(name("attn_norm.weight"));
        for (part, rows, place) in
            [("attn_q", q, Place::Other), ("attn_k", kv, Place::Other), ("attn_v", kv, sensitive)]
        {
            self.matrix(name(&format!("{part}.weight")), rows, hidden, place, 1.0);
            if qkv_bias {
                self.floats(name(&format!("{part}.bias")), rows, Content::Around(0.0));
            }
        }
        self.matrix(name("attn_output.weight"), hidden, q, Place::Other, share);
        self.norm(name("ffn_norm.weight"));
        self.matrix(name("ffn_gate.weight"), ffn, hidden, Place::Other, 1.0);
        self.matrix(name("ffn_up.weight"), ffn, hidden, Place::Other, 1.0);
        self.matrix(name("ffn_down.weight"), hidden, ffn, sensitive, share);
    }

    /// A matrix that gives a vector the size that it had, times `gain`.
    fn matrix(&mut self, name: String, rows: usize, columns: usize, place: Place, gain: f32) {
        let ty = self.quant.of(place, columns, self.layers);
        let content = Content::Weights { deviation: gain / (columns as f32).sqrt() };
        self.tensors.push(Tensor { name, dims: vec![rows, columns], ty, content });
    }

    fn norm(&mut self, name: String) {
        self.floats(name, self.shape.hidden, Content::Around(1.0));
    }

    fn floats(&mut self, name: String, count: usize, content: Content) {
        self.tensors.push(Tensor { name, dims: vec![count], ty: GgmlType::F32, content });
    }
}
