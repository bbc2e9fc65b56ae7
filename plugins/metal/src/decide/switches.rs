//! The switches with which a device may compute rightly after all, in the order in which the host tries them.

/// Attends by products of matrices instead of fused kernels.
pub const PLAIN_ATTENTION: &str = "attention=matmul";
/// Makes quantised weights floats as they are loaded, and takes as much more memory.
pub const DEQUANTISE: &str = "quantised_matmul=dequantise";

/// All of them.
pub const ALL: [&str; 2] = [PLAIN_ATTENTION, DEQUANTISE];

/// What is switched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Switches {
    /// See [`PLAIN_ATTENTION`].
    pub plain_attention: bool,
    /// See [`DEQUANTISE`].
    pub dequantise: bool,
}

impl Switches {
    /// What a load's options say. `option`: the value of one.
    ///
    /// # Errors
    /// What to tell the host of a value that makes no sense.
    pub fn of<'a>(option: impl Fn(&str) -> Option<&'a str>) -> Result<Self, String> {
        Ok(Switches {
            plain_attention: is_set(&option, PLAIN_ATTENTION, "fused")?,
            dequantise: is_set(&option, DEQUANTISE, "fast")?,
        })
    }
}

/// Whether an option has the value of a switch `KEY=VALUE`, and not the usual one or none.
fn is_set<'a>(option: impl Fn(&str) -> Option<&'a str>, switch: &str, usual: &str) -> Result<bool, String> {
    let (key, value) = switch.split_once('=').expect("a switch has a key and a value");
    match option(key) {
        None => Ok(false),
        Some(set) if set == usual => Ok(false),
        Some(set) if set == value => Ok(true),
        Some(other) => Err(format!("option {key}: {other} is not {usual} or {value}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(options: &[(&str, &'static str)]) -> Result<Switches, String> {
        Switches::of(|key| options.iter().find(|(name, _)| *name == key).map(|(_, value)| *value))
    }

    #[test]
    fn options_switch() {
        let check = |options: &[(&str, &'static str)], plain_attention, dequantise| {
            assert_eq!(of(options), Ok(Switches { plain_attention, dequantise }), "{options:?}");
        };
        check(&[], false, false);
        check(
            &[("attention", "fused"), ("quantised_matmul", "fast"), ("dense_weights", "f32")],
            false,
            false,
        );
        check(&[("attention", "matmul")], true, false);
        check(&[("quantised_matmul", "dequantise")], false, true);
    }

    /// As the host passes them when a device answers wrongly.
    #[test]
    fn every_switch_is_an_option() {
        let all = ALL.map(|switch| switch.split_once('=').expect("KEY=VALUE"));
        assert_eq!(of(&all), Ok(Switches { plain_attention: true, dequantise: true }));
        for one in all {
            assert_ne!(of(&[one]), Ok(Switches::default()));
        }
    }

    #[test]
    fn other_values_are_refused_with_those_there_are() {
        let why = of(&[("attention", "naive")]).expect_err("no such value");
        assert_eq!(why, "option attention: naive is not fused or matmul");
    }
}
