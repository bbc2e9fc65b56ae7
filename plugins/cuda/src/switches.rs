//! Switches to other kernels, which the host tries one by one when a device's answers are wrong.

use sconce_plugin_api::sdk::{Error, Options, Result};

/// All that may help, as options of a load.
pub const QUIRKS: [&str; 3] = ["quantised_matmul=dequantise", "tensor_cores=off", "kernels=candle"];

/// Which kernels a model runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Switches {
    /// Quantised weights become floats before they are multiplied: slower, and not by the kernels whose launches go
    /// wrong unnoticed.
    pub dequantise: bool,
    /// Attention of prompts without tensor cores.
    pub no_tensor_cores: bool,
    /// candle's operations only, none of this crate's.
    pub candle_only: bool,
}

impl Switches {
    /// What the options of a load say.
    ///
    /// # Errors
    /// A value that is none.
    pub fn of(options: &Options<'_>) -> Result<Switches> {
        let is = |key, usual, other| one(options.get(key), key, usual, other);
        Ok(Switches {
            dequantise: is("quantised_matmul", "fast", "dequantise")?,
            no_tensor_cores: is("tensor_cores", "on", "off")?,
            candle_only: is("kernels", "own", "candle")?,
        })
    }
}

/// Whether an option has its other value.
fn one(value: Option<&str>, key: &str, usual: &str, other: &str) -> Result<bool> {
    match value {
        None => Ok(false),
        Some(value) if value == usual => Ok(false),
        Some(value) if value == other => Ok(true),
        Some(value) => Err(Error::invalid(format!("option {key}: {value} is neither {usual} nor {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: Option<&str>, expected: Option<bool>) {
        assert_eq!(one(value, "tensor_cores", "on", "off").ok(), expected, "{value:?}");
    }

    #[test]
    fn a_switch_has_two_values() {
        check(None, Some(false));
        check(Some("on"), Some(false));
        check(Some("off"), Some(true));
        check(Some(""), None);
        check(Some("OFF"), None);
    }

    #[test]
    fn every_quirk_is_a_switch() {
        for quirk in QUIRKS {
            let (key, value) = quirk.split_once('=').expect("a key and a value");
            let known = [("quantised_matmul", "dequantise"), ("tensor_cores", "off"), ("kernels", "candle")];
            assert!(known.contains(&(key, value)), "{quirk}");
        }
    }
}
