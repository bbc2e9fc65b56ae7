//! The feed-forward half of a layer: one block for all tokens, or a mixture of experts.
//!
//! Source of the mixture: Shazeer et al. 2017; softmax over all experts, the best few taken.

use candle_core::{DType, Device, Tensor};
use sconce_formats::config::Moe;
use sconce_formats::tensors::{Role, Slot};
use sconce_formats::{Activation, ModelConfig};

use crate::error::Result;
use crate::matrix::Linear;
use crate::ops::Ops;
use crate::projections::Projections;
use crate::weights::Weights;

/// The feed-forward block of a layer.
pub(super) enum FeedForward {
    Dense(Mlp),
    Experts(Experts),
}

/// Two or three projections around an activation.
pub(super) struct Mlp {
    activation: Activation,
    /// Of the gate, where there is one, and what it lets through.
    up: Projections,
    down: Linear,
}

/// A mixture of experts.
pub(super) struct Experts {
    moe: Moe,
    router: Linear,
    experts: Vec<Mlp>,
    shared: Option<Mlp>,
    /// Decides how much of the shared expert is added.
    shared_gate: Option<Linear>,
}

impl FeedForward {
    pub fn new(config: &ModelConfig, weights: &mut Weights<'_>, layer: usize) -> Result<FeedForward> {
        match config.moe.filter(|_| config.layers[layer].moe) {
            Some(moe) => Experts::new(config, moe, weights, layer).map(FeedForward::Experts),
            None => {
                let dense = [Role::Gate, Role::Up, Role::Down].map(|role| Slot::weight(role, layer));
                Mlp::new(config, weights, dense).map(FeedForward::Dense)
            }
        }
    }

    /// `x`: `[tokens, hidden]`; the answer has the same shape.
    pub fn forward(&self, ops: &dyn Ops, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(mlp) => mlp.forward(ops, x),
            Self::Experts(experts) => experts.forward(ops, x),
        }
    }
}

impl Mlp {
    fn new(config: &ModelConfig, weights: &mut Weights<'_>, [gate, up, down]: [Slot; 3]) -> Result<Mlp> {
        let gate_and_up = [gate, up];
        Ok(Mlp {
            activation: config.mlp.activation,
            up: weights.projections(if config.mlp.gated { &gate_and_up } else { &gate_and_up[1..] })?,
            down: weights.linear_at(down)?,
        })
    }

    fn forward(&self, ops: &dyn Ops, x: &Tensor) -> Result<Tensor> {
        let inner = match self.up.apply(ops, x)?.as_slice() {
            [gate, up] => ops.gate(self.activation, gate, up)?,
            up => ops.activate(self.activation, &up[0])?,
        };
        Ok(ops.linear(&inner, &self.down)?)
    }
}

/// Which experts the tokens of a step take.
struct Routes {
    /// Of each expert, the tokens that go through it, as indices on the token axis.
    visits: Vec<Vec<u32>>,
    /// `[tokens * used]`: for each choice of each token, its row in the experts' outputs one after another.
    rows: Vec<u32>,
    /// `[tokens * used]`, beside `rows`.
    weights: Vec<f32>,
}

impl Experts {
    fn new(config: &ModelConfig, moe: Moe, weights: &mut Weights<'_>, layer: usize) -> Result<Experts> {
        let expert = |weights: &mut Weights<'_>, at| {
            let roles = [Role::ExpertGate, Role::ExpertUp, Role::ExpertDown];
            Mlp::new(config, weights, roles.map(|role| Slot::expert(role, layer, at)))
        };
        let router = weights.linear(Role::Router, layer)?;
        let experts = (0..moe.experts).map(|at| expert(weights, at)).collect::<Result<_>>()?;
        let (shared, shared_gate) = match moe.shared {
            Some(shared) => {
                let roles = [Role::SharedGate, Role::SharedUp, Role::SharedDown];
                let mlp = Mlp::new(config, weights, roles.map(|role| Slot::weight(role, layer)))?;
                let gate = shared.gated.then(|| weights.linear(Role::SharedRouter, layer)).transpose()?;
                (Some(mlp), gate)
            }
            None => (None, None),
        };
        Ok(Experts { moe, router, experts, shared, shared_gate })
    }

    fn forward(&self, ops: &dyn Ops, x: &Tensor) -> Result<Tensor> {
        let routes = self.routes(ops, x)?;
        let mixed = self.mixed(ops, x, &routes)?;
        match &self.shared {
            Some(shared) => Ok((mixed + self.shared(ops, x, shared)?)?),
            None => Ok(mixed),
        }
    }

    /// The experts' outputs, weighted and summed for each token.
    fn mixed(&self, ops: &dyn Ops, x: &Tensor, routes: &Routes) -> Result<Tensor> {
        let ((tokens, hidden), device) = (x.dims2()?, x.device());
        let mut outputs = Vec::new();
        for (expert, visit) in self.experts.iter().zip(&routes.visits) {
            if !visit.is_empty() {
                let rows = x.index_select(&Tensor::new(visit.as_slice(), device)?, 0)?;
                outputs.push(expert.forward(ops, &rows)?);
            }
        }
        let by_token = Tensor::new(routes.rows.as_slice(), device)?;
        let chosen = Tensor::cat(&outputs, 0)?.index_select(&by_token, 0)?;
        let chosen = chosen.reshape((tokens, self.moe.used, hidden))?;
        let weights = Tensor::from_slice(&routes.weights, (tokens, self.moe.used, 1), device)?;
        Ok(chosen.broadcast_mul(&weights.to_dtype(x.dtype())?)?.sum(1)?)
    }

    /// What every token takes besides.
    fn shared(&self, ops: &dyn Ops, x: &Tensor, shared: &Mlp) -> Result<Tensor> {
        let output = shared.forward(ops, x)?;
        match &self.shared_gate {
            Some(gate) => Ok(output.broadcast_mul(&candle_nn::ops::sigmoid(&ops.linear(x, gate)?)?)?),
            None => Ok(output),
        }
    }

    fn routes(&self, ops: &dyn Ops, x: &Tensor) -> Result<Routes> {
        let logits = ops.linear(x, &self.router)?.to_dtype(DType::F32)?;
        let probabilities = candle_nn::ops::softmax_last_dim(&logits)?;
        let rows = probabilities.to_device(&Device::Cpu)?.to_vec2::<f32>()?;
        Ok(routes(&rows, self.moe.used, self.moe.normalised))
    }
}

/// Chooses for each row of `probabilities` the `used` largest, and orders the work by expert.
fn routes(probabilities: &[Vec<f32>], used: usize, normalised: bool) -> Routes {
    let experts = probabilities.first().map_or(0, Vec::len);
    let mut visits = vec![Vec::new(); experts];
    let mut choices = Vec::with_capacity(probabilities.len() * used);
    for (token, row) in probabilities.iter().enumerate() {
        let chosen = largest(row, used);
        let sum: f32 = if normalised { chosen.iter().map(|expert| row[*expert]).sum() } else { 1.0 };
        for expert in chosen {
            choices.push((expert, visits[expert].len(), row[expert] / sum));
            visits[expert].push(token as u32);
        }
    }
    let mut first = Vec::with_capacity(experts);
    visits.iter().fold(0, |row, visit| {
        first.push(row);
        row + visit.len()
    });
    let rows = choices.iter().map(|(expert, at, _)| (first[*expert] + at) as u32).collect();
    Routes { visits, rows, weights: choices.iter().map(|(_, _, weight)| *weight).collect() }
}

/// Indices of the `count` largest values, the earlier one first where two are equal.
fn largest(values: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]).then(a.cmp(b)));
    order.truncate(count);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_go_to_their_best_experts_and_find_their_rows() {
        let rows = [vec![0.1, 0.6, 0.3], vec![0.5, 0.1, 0.4], vec![0.2, 0.3, 0.5]];
        let found = routes(&rows, 2, false);
        assert_eq!(found.visits, [vec![1], vec![0, 2], vec![0, 1, 2]]);
        // Outputs lie one expert after another: token 0 took expert 1 (row 1), then expert 2 (row 3).
        assert_eq!(found.rows, [1, 3, 0, 4, 5, 2]);
        assert_eq!(found.weights, [0.6, 0.3, 0.5, 0.4, 0.5, 0.3]);
    }

    #[test]
    fn weights_of_the_chosen_sum_to_one_if_asked() {
        let found = routes(&[vec![0.1, 0.6, 0.3]], 2, true);
        assert!((found.weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((found.weights[0] - 0.6 / 0.9).abs() < 1e-6);
    }

    #[test]
    fn equal_probabilities_take_the_earlier_expert() {
        assert_eq!(largest(&[0.25; 4], 2), [0, 1]);
    }
}
