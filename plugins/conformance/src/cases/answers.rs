//! Whether the device computes what it should, not only the same each time.

use crate::answers::{check_on, write_models};
use crate::bench::{Bench, Outcome, Stop};

/// The models of the answer check give the stored logits, with the device's switches if it takes them.
pub fn answers_are_right(bench: &mut Bench<'_>) -> Outcome {
    bench.put_away();
    let request = bench.request();
    let devices = bench.plugin().devices().into_result()?;
    let listed = devices.iter().find(|device| request.devices.first() == Some(&device.index));
    let device =
        listed.ok_or_else(|| Stop::Failed(format!("the device {:?} is not in the list", request.devices)))?;
    let unwritable = |error| Stop::Failed(format!("the models of the check could not be written: {error}"));
    let dir = tempfile::tempdir().map_err(unwritable)?;
    write_models(dir.path()).map_err(unwritable)?;
    let passed = check_on(bench.plugin(), device, dir.path(), &request.options, request.threads)
        .map_err(|error| Stop::Failed(error.to_string()))?;
    match passed.errors.is_empty() {
        true => Err(Stop::Skipped("it supports none of the models of the check".to_owned())),
        false => Ok(()),
    }
}
