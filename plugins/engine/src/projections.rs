//! Projections of one input: each with a weight of its own, or neighbours in one weight where a backend computes that
//! faster.

use candle_core::{Result, Tensor};

use crate::matrix::Linear;
use crate::ops::Ops;

/// Several projections of one input, in order.
pub(crate) struct Projections(Vec<Product>);

/// Neighbours in one weight.
pub(crate) struct Product {
    pub linear: Linear,
    /// Rows of the weight that belong to each.
    pub rows: Vec<usize>,
}

impl Projections {
    pub fn new(products: Vec<Product>) -> Projections {
        Projections(products)
    }

    /// Of `x`: `[tokens, in]`, contiguous, each as `[tokens, out]`, perhaps with gaps between rows.
    pub fn apply(&self, ops: &dyn Ops, x: &Tensor) -> Result<Vec<Tensor>> {
        self.split(ops, x, |product, output| parts(output, &product.rows))
    }

    /// The same, each as `[tokens, heads, head_dim]`.
    pub fn heads(&self, ops: &dyn Ops, x: &Tensor, head_dim: usize) -> Result<Vec<Tensor>> {
        self.split(ops, x, |product, output| {
            let heads: Vec<usize> = product.rows.iter().map(|rows| rows / head_dim).collect();
            parts(&output.reshape((x.dim(0)?, heads.iter().sum::<usize>(), head_dim))?, &heads)
        })
    }

    fn split(
        &self,
        ops: &dyn Ops,
        x: &Tensor,
        apart: impl Fn(&Product, &Tensor) -> Result<Vec<Tensor>>,
    ) -> Result<Vec<Tensor>> {
        let linears: Vec<&Linear> = self.0.iter().map(|product| &product.linear).collect();
        let outputs = ops.linears(x, &linears)?;
        let parts = self.0.iter().zip(&outputs).map(|(product, output)| apart(product, output));
        Ok(parts.collect::<Result<Vec<_>>>()?.concat())
    }
}

/// Cuts the second axis of `x`.
fn parts(x: &Tensor, sizes: &[usize]) -> Result<Vec<Tensor>> {
    let mut start = 0;
    let part = |size: &usize| {
        let part = x.narrow(1, start, *size);
        start += size;
        part
    };
    sizes.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Matrix;
    use crate::ops::CandleOps;
    use candle_core::Device;

    fn linear(first: f32, rows: usize) -> Linear {
        let values: Vec<f32> = (0..rows * 4).map(|at| first + at as f32).collect();
        let weight = Tensor::from_vec(values, (rows, 4), &Device::Cpu).expect("a weight");
        Linear { weight: Matrix::Dense(weight), bias: None }
    }

    #[test]
    fn neighbours_in_one_weight_are_what_they_were() {
        let x = Tensor::arange(0f32, 12.0, &Device::Cpu).and_then(|x| x.reshape((3, 4))).expect("an input");
        let apart = Projections::new(
            [(0.0, 4), (16.0, 2), (24.0, 2)]
                .map(|(first, rows)| Product { linear: linear(first, rows), rows: vec![rows] })
                .into(),
        );
        let joined = Projections::new(vec![
            Product { linear: linear(0.0, 6), rows: vec![4, 2] },
            Product { linear: linear(24.0, 2), rows: vec![2] },
        ]);
        let values = |of: Vec<Tensor>| -> Vec<(Vec<usize>, Vec<f32>)> {
            let one =
                |t: &Tensor| (t.dims().to_vec(), t.flatten_all().and_then(|t| t.to_vec1()).expect("f32"));
            of.iter().map(one).collect()
        };
        let rows = [&apart, &joined].map(|of| values(of.apply(&CandleOps, &x).expect("products")));
        assert_eq!(rows[0], rows[1]);
        let heads = [&apart, &joined].map(|of| values(of.heads(&CandleOps, &x, 2).expect("products")));
        assert_eq!(heads[0], heads[1]);
        assert_eq!(heads[0][0].0, [3, 2, 2]);
    }
}
