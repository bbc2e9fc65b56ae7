//! Norms, rotary embedding and gates: what is computed row by row.

use candle_core::{DType, Result, Tensor, bail};
use sconce_engine::ops::{Norm, RopeRows};
use sconce_formats::{Activation, RopeLayout};

use super::tensors::{Rows, int, same_type, type_name, type_number};
use super::{Arg, Extent, GATE, Kernels, NORM, ROPE};

/// Threads of a block that goes through a part of a row.
const THREADS: u32 = 256;

/// Threads of a block that goes through a row, at most.
const MOST_THREADS: usize = 1024;

const NONE: Arg = Arg::Address(0);

impl Kernels {
    /// A norm over the last axis of `x`: `[rows, n]`, with gaps between rows or without.
    ///
    /// # Errors
    /// Shapes and types that do not go together; a failing device.
    pub fn norm(&self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        let (_, normed) = self.norm_of(x, None, norm)?;
        Ok(normed)
    }

    /// `x + residual`, and its norm. Both: `[rows, n]`, `residual` without gaps. The sum is rounded to its type before
    /// it is normed, as if two kernels had done it.
    ///
    /// # Errors
    /// As for [`Kernels::norm`].
    pub fn add_norm(&self, x: &Tensor, residual: &Tensor, norm: &Norm) -> Result<(Tensor, Tensor)> {
        self.norm_of(x, Some(residual), norm)
    }

    /// The row that was normed (`x` itself without a residual), and its norm.
    fn norm_of(&self, x: &Tensor, residual: Option<&Tensor>, norm: &Norm) -> Result<(Tensor, Tensor)> {
        let rows = Rows::new(x, "a norm's rows")?;
        let (Norm::Rms { weight, .. } | Norm::Layer { weight, .. }) = norm;
        let weight = parameter(weight, rows, "a norm's weight")?;
        let out = self.empty(x.dims(), x.dtype())?;
        let to = Rows::dense(&out, "normed rows")?;
        let (sum, added, summed) = match residual {
            None => (x.clone(), NONE, NONE),
            Some(residual) => {
                let added = Rows::dense(residual, "a residual")?;
                check_like(added, rows, "a residual")?;
                if rows.width.is_multiple_of(8) {
                    added.need_wide("a residual")?;
                }
                let sum = self.empty(x.dims(), x.dtype())?;
                let to = Rows::dense(&sum, "a sum")?.at();
                (sum, added.at(), to)
            }
        };
        let threads = rows.width.div_ceil(8).next_multiple_of(32).clamp(32, MOST_THREADS);
        let extent = Extent::new((rows.count, 1, 1), threads as u32)?;
        let name = type_name(rows.dtype)?;
        let (n, stride) = (int(rows.width)?, rows.stride()?);
        if rows.width.is_multiple_of(8) && rows.stride.is_multiple_of(8) {
            rows.need_wide("a norm's rows")?;
        }
        match norm {
            Norm::Rms { epsilon, .. } => {
                let epsilon = Arg::Float(*epsilon as f32);
                let args = [rows.at(), added, weight.at(), summed, to.at(), n, stride, epsilon];
                // SAFETY: the parameters of `rms_norm`; all rows are of one width and count, the weight of that width.
                unsafe { self.launch(NORM, &format!("sconce_rms_norm_{name}"), extent, &args) }?;
            }
            Norm::Layer { bias, epsilon, .. } => {
                let bias = parameter(bias, rows, "a norm's bias")?;
                let epsilon = Arg::Float(*epsilon as f32);
                let args = [rows.at(), added, weight.at(), bias.at(), summed, to.at(), n, stride, epsilon];
                // SAFETY: the parameters of `layer_norm`; as above, and the bias is as wide.
                unsafe { self.launch(NORM, &format!("sconce_layer_norm_{name}"), extent, &args) }?;
            }
        }
        Ok((sum, out))
    }

    /// Turns the leading `rows.dim` elements of each head by the token's position.
    ///
    /// `x`: `[tokens, heads, head_dim]`; there may be gaps from token to token. The tables are of any type; f32 keeps
    /// long positions exact. The answer has no gaps.
    ///
    /// # Errors
    /// Shapes and types that do not go together; a failing device.
    pub fn rope(&self, x: &Tensor, rows: &RopeRows) -> Result<Tensor> {
        let (turned, _) = self.rope_of(x, None, rows)?;
        Ok(turned)
    }

    /// [`Kernels::rope`] of queries and keys, each with as many heads as it has, in one launch.
    ///
    /// # Errors
    /// As for one.
    pub fn rope_both(&self, q: &Tensor, k: &Tensor, rows: &RopeRows) -> Result<(Tensor, Tensor)> {
        let (q, turned) = self.rope_of(q, Some(k), rows)?;
        Ok((q, turned.expect("keys were given, so there are turned ones")))
    }

    fn rope_of(&self, q: &Tensor, k: Option<&Tensor>, rows: &RopeRows) -> Result<(Tensor, Option<Tensor>)> {
        let (tokens, q_heads, head_dim) = q.dims3()?;
        let k_heads = k.map_or(Ok(0), |k| k.dim(1))?;
        let from_q = Rows::new(q, "queries")?;
        let from_k = k.map(|k| Rows::new(k, "keys")).transpose()?;
        if k.is_some_and(|k| k.dims() != [tokens, k_heads, head_dim]) || rows.dim > head_dim {
            bail!("cannot turn {} elements of {:?} and {:?}", rows.dim, q.dims(), k.map(Tensor::dims));
        }
        if let Some(from_k) = from_k {
            same_type(from_q.dtype, from_k.dtype, "queries and keys")?;
        }
        if !head_dim.is_multiple_of(2) || !rows.dim.is_multiple_of(2) {
            bail!("cannot turn pairs of {} of {head_dim} elements: a number is odd", rows.dim);
        }
        let (cos, sin) = (Rows::dense(&rows.cos, "cosines")?, Rows::dense(&rows.sin, "sines")?);
        same_type(cos.dtype, sin.dtype, "cosines and sines")?;
        for (table, what) in [(cos, "cosines"), (sin, "sines")] {
            if table.count != tokens || table.width != rows.dim / 2 {
                bail!("{what} are {} rows of {}, for {tokens} of {}", table.count, table.width, rows.dim / 2);
            }
        }
        let q_out = self.empty(q.dims(), q.dtype())?;
        let k_out = k.map(|k| self.empty(k.dims(), k.dtype())).transpose()?;
        let to_k = k_out.as_ref().map(|k| Rows::dense(k, "turned keys")).transpose()?;
        let pairs = (q_heads + k_heads) * head_dim / 2;
        let extent = Extent::new((tokens, pairs.div_ceil(THREADS as usize), 1), THREADS)?;
        let args = [
            from_q.at(),
            from_k.map_or(NONE, |rows| rows.at()),
            Rows::dense(&q_out, "turned queries")?.at(),
            to_k.map_or(NONE, |rows| rows.at()),
            cos.at(),
            sin.at(),
            type_number(cos.dtype)?,
            int(q_heads)?,
            int(k_heads)?,
            int(head_dim)?,
            int(rows.dim)?,
            from_q.stride()?,
            from_k.map_or(Ok(Arg::Int(0)), |rows| rows.stride())?,
            Arg::Int(i32::from(rows.layout == RopeLayout::Interleaved)),
        ];
        let name = format!("sconce_rope_{}", type_name(from_q.dtype)?);
        // SAFETY: the parameters of `rope`; tokens, heads and tables were compared above, the answers are as large.
        unsafe { self.launch(ROPE, &name, extent, &args) }?;
        Ok((q_out, k_out))
    }

    /// `activation(gate) * up`, element by element. Both: `[tokens, n]`, with gaps between rows or without: halves of
    /// one row will do. The answer has none.
    ///
    /// # Errors
    /// Shapes and types that do not go together; a failing device.
    pub fn gate(&self, activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        self.gate_of(activation, gate, Some(up))
    }

    /// An activation, element by element, of `[tokens, n]`, with gaps between rows or without.
    ///
    /// # Errors
    /// A type that no kernel computes with; a failing device.
    pub fn activate(&self, activation: Activation, x: &Tensor) -> Result<Tensor> {
        self.gate_of(activation, x, None)
    }

    fn gate_of(&self, activation: Activation, gate: &Tensor, up: Option<&Tensor>) -> Result<Tensor> {
        let from = Rows::new(gate, "gates")?;
        let other = up.map(|up| Rows::new(up, "what is gated")).transpose()?;
        if let Some(other) = other {
            check_like(other, from, "what is gated")?;
        }
        let out = self.empty(gate.dims(), gate.dtype())?;
        let to = Rows::dense(&out, "gated rows")?;
        let wide = from.is_wide() && other.is_none_or(|other| other.is_wide());
        let units = if wide { from.width / 8 } else { from.width };
        let extent = Extent::new((from.count, units.div_ceil(THREADS as usize), 1), THREADS)?;
        let kind = match activation {
            Activation::Silu => 0,
            Activation::GeluTanh => 1,
            Activation::GeluErf => 2,
            Activation::Relu2 => 3,
        };
        let args = [
            from.at(),
            other.map_or(NONE, |other| other.at()),
            to.at(),
            int(from.width)?,
            from.stride()?,
            other.map_or(Ok(Arg::Int(0)), |other| other.stride())?,
            Arg::Int(kind),
            Arg::Int(i32::from(wide)),
        ];
        let name = format!("sconce_gate_{}", type_name(from.dtype)?);
        // SAFETY: the parameters of `gate`; both inputs and the answer have the same rows, and wide loads were checked.
        unsafe { self.launch(GATE, &name, extent, &args) }?;
        Ok(out)
    }
}

/// A vector over the last axis of `rows`.
fn parameter(tensor: &Tensor, rows: Rows, what: &str) -> Result<Rows> {
    let mut tensor = Rows::dense(&tensor.unsqueeze(0)?, what)?;
    tensor.count = rows.count;
    check_like(tensor, rows, what)?;
    tensor.count = 1;
    if rows.width.is_multiple_of(8) {
        tensor.need_wide(what)?;
    }
    Ok(tensor)
}

/// Refuses what is not as many rows as `rows`, as wide and of the same type.
fn check_like(other: Rows, rows: Rows, what: &str) -> Result<()> {
    let same: fn(Rows) -> (usize, usize, DType) = |of| (of.count, of.width, of.dtype);
    if same(other) == same(rows) {
        return Ok(());
    }
    bail!(
        "{what}: {} rows of {} {}, for {} of {} {}",
        other.count,
        other.width,
        other.dtype.as_str(),
        rows.count,
        rows.width,
        rows.dtype.as_str()
    )
}
