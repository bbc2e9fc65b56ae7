//! Which type each tensor of a file gets.

use clap::ValueEnum;
use sconce_formats::GgmlType;

/// What the matrices of a file are stored as. Norms and biases are always 32-bit floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Quant {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q6_k")]
    Q6K,
    /// The usual mixture of Q4_K and Q6_K
    #[value(name = "q4_k_m")]
    Q4KM,
    /// Q4_K everywhere
    #[value(name = "q4_k")]
    Q4K,
    #[value(name = "q4_0")]
    Q4_0,
}

/// What a matrix is for, as far as its type depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It makes the logits.
    Head,
    /// `attn_v` or `ffn_down` of a layer.
    Sensitive { layer: usize },
    /// Any other.
    Other,
}

impl Quant {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Quant::F32 => "f32",
            Quant::F16 => "f16",
            Quant::Bf16 => "bf16",
            Quant::Q8_0 => "q8_0",
            Quant::Q6K => "q6_k",
            Quant::Q4KM => "q4_k_m",
            Quant::Q4K => "q4_k",
            Quant::Q4_0 => "q4_0",
        }
    }

    /// `general.file_type`, llama.cpp's number for what most tensors are.
    pub fn file_type(self) -> u64 {
        match self {
            Quant::F32 => 0,
            Quant::F16 => 1,
            Quant::Q4_0 => 2,
            Quant::Q8_0 => 7,
            // Its name is Q4_K_S, whose mixture is nearly plain.
            Quant::Q4K => 14,
            Quant::Q4KM => 15,
            Quant::Q6K => 18,
            Quant::Bf16 => 32,
        }
    }

    /// The type of a matrix with rows of `columns`, in a model of so many layers.
    ///
    /// The mixture, and what rows that do not divide into blocks get, are llama.cpp's.
    pub fn of(self, place: Place, columns: usize, layers: usize) -> GgmlType {
        let wanted = match self {
            Quant::F32 => GgmlType::F32,
            Quant::F16 => GgmlType::F16,
            Quant::Bf16 => GgmlType::BF16,
            Quant::Q8_0 => GgmlType::Q8_0,
            Quant::Q4_0 => GgmlType::Q4_0,
            Quant::Q4K => GgmlType::Q4K,
            Quant::Q6K => GgmlType::Q6K,
            Quant::Q4KM => match place {
                Place::Head => GgmlType::Q6K,
                Place::Sensitive { layer } if more_bits(layer, layers) => GgmlType::Q6K,
                _ => GgmlType::Q4K,
            },
        };
        fitting(wanted, columns)
    }
}

/// The first and the last eighth of the layers, and every third between them.
fn more_bits(layer: usize, layers: usize) -> bool {
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

/// The type, or the next that rows of this length divide into.
fn fitting(ty: GgmlType, columns: usize) -> GgmlType {
    let next = match ty {
        _ if columns.is_multiple_of(ty.block_size()) => return ty,
        GgmlType::Q4K => GgmlType::Q5_0,
        GgmlType::Q6K => GgmlType::Q8_0,
        _ => return GgmlType::F16,
    };
    fitting(next, columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_do_not_divide_get_the_next_type() {
        let check = |quant: Quant, columns, expected| {
            assert_eq!(quant.of(Place::Other, columns, 8), expected, "{quant:?} {columns}");
        };
        check(Quant::Q4KM, 2048, GgmlType::Q4K);
        check(Quant::Q4KM, 896, GgmlType::Q5_0);
        check(Quant::Q6K, 896, GgmlType::Q8_0);
        check(Quant::Q4_0, 896, GgmlType::Q4_0);
        check(Quant::Q4K, 100, GgmlType::F16);
        check(Quant::F32, 100, GgmlType::F32);
        check(Quant::Bf16, 100, GgmlType::BF16);
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        for quant in Quant::value_variants() {
            let name = quant.to_possible_value().expect("all can be given");
            assert_eq!(name.get_name(), quant.name());
        }
    }
}
