//! Brings the rows of a step into the host's buffers: whole, or the best of each as the device picked them.

use candle_core::{DType, Tensor};
use sconce_plugin_api::sdk::{Batch, Outputs};

use crate::decoder::Rows;
use crate::error::Result;
use crate::ops::{Edits, Ops};

/// Writes the wanted rows of a step.
///
/// # Errors
/// A failing device.
pub(super) fn write(rows: &Rows, batch: &Batch<'_>, out: &mut Outputs<'_>, ops: &dyn Ops) -> Result<()> {
    let picks = batch.picks_by_row();
    match picks.iter().all(|picks| *picks == 0) {
        true => copy(&rows.logits, out.logits)?,
        false => mixed(&rows.logits, &picks, batch, out, ops)?,
    }
    let with_hidden = batch.rows_with_hidden();
    if with_hidden.is_empty() {
        return Ok(());
    }
    copy(&select(&rows.hidden, &with_hidden)?, out.hidden)
}

/// Some rows whole, of the others the best.
fn mixed(
    logits: &Tensor,
    picks: &[u32],
    batch: &Batch<'_>,
    out: &mut Outputs<'_>,
    ops: &dyn Ops,
) -> Result<()> {
    let those = |wanted: fn(u32) -> bool| -> Vec<u32> {
        (0..).zip(picks).filter(|(_, picks)| wanted(**picks)).map(|(row, _)| row).collect()
    };
    let (whole, picked) = (those(|picks| picks == 0), those(|picks| picks > 0));
    if !whole.is_empty() {
        copy(&select(logits, &whole)?, out.logits)?;
    }
    let pick = ops.pick().ok_or_else(|| candle_core::Error::msg("this backend picks no logits"))?;
    let most = picks.iter().max().map_or(0, |most| *most as usize);
    let own = OwnEdits::of(batch, &picked);
    let best = pick.best(&select(logits, &picked)?, most, own.edits(batch))?;
    let mut at = 0;
    for (row, k) in picked.iter().map(|row| picks[*row as usize] as usize).enumerate() {
        let from = row * most..row * most + k;
        out.ids[at..at + k].copy_from_slice(&best.ids[from.clone()]);
        out.vals[at..at + k].copy_from_slice(&best.values[from]);
        at += k;
    }
    out.lse.copy_from_slice(&best.lse);
    Ok(())
}

/// The edits of picked rows, by their place among these.
struct OwnEdits {
    bias: Vec<(u32, u32, f32)>,
    masks: Vec<(u32, u32)>,
}

impl OwnEdits {
    fn of(batch: &Batch<'_>, picked: &[u32]) -> OwnEdits {
        let place = |row: u32| picked.binary_search(&row).ok().map(|at| at as u32);
        OwnEdits {
            bias: batch.bias.iter().filter_map(|b| Some((place(b.row)?, b.token, b.add))).collect(),
            masks: batch.masks.iter().filter_map(|m| Some((place(m.row)?, m.offset))).collect(),
        }
    }

    fn edits<'a>(&'a self, batch: &Batch<'a>) -> Edits<'a> {
        Edits { bias: &self.bias, masks: &self.masks, words: batch.allow_masks }
    }
}

/// Some rows of a tensor, in order; no copy where these are all.
fn select(from: &Tensor, rows: &[u32]) -> Result<Tensor> {
    if rows.len() == from.dim(0)? {
        return Ok(from.clone());
    }
    Ok(from.index_select(&Tensor::new(rows, from.device())?, 0)?)
}

/// Copies rows into the host's buffer, which is as long as they are if the model is what it says.
pub(crate) fn copy(from: &Tensor, to: &mut [f32]) -> Result<()> {
    let values = from.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    if values.len() != to.len() {
        let message = format!("the rows have {} values instead of {}", values.len(), to.len());
        return Err(candle_core::Error::msg(message).into());
    }
    to.copy_from_slice(&values);
    Ok(())
}
