//! The wire types as text, so that any change of the ABI shows as a changed line: every type that the root
//! module and the objects reach, with size, alignment, fields and function signatures. Types refer to each
//! other by number; source lines and addresses are left out, so the text changes with the ABI only.

use std::collections::HashMap;
use std::fmt::Write;

use abi_stable::std_types::{RArc, RBox, UTypeId};
use abi_stable::type_layout::{TLData, TLFunction, TypeLayout};
use abi_stable::StableAbi;

use crate::abi::{Executor_TO, PluginRoot_Ref, Plugin_TO, Progress_TO, Stats_TO};

type Layout = &'static TypeLayout;

/// The layouts of the root module, of every object and of all that they name: what `tests/golden` holds for
/// each released minor. The same on every 64-bit target.
pub fn golden_text() -> String {
    let mut types = Types::default();
    let roots: [Layout; 5] = [
        <PluginRoot_Ref as StableAbi>::LAYOUT,
        <Plugin_TO<'static, RBox<()>> as StableAbi>::LAYOUT,
        <Executor_TO<'static, RBox<()>> as StableAbi>::LAYOUT,
        <Stats_TO<'static, RArc<()>> as StableAbi>::LAYOUT,
        <Progress_TO<'static, RBox<()>> as StableAbi>::LAYOUT,
    ];
    for root in roots {
        types.name(root);
    }
    types.print()
}

/// FNV-1a of a text of [`golden_text`], 64 bits, for documents to quote.
pub fn golden_digest(text: &str) -> String {
    let digest = text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{digest:016x}")
}

/// Types in the order in which they were first named.
#[derive(Default)]
struct Types {
    order: Vec<Layout>,
    numbers: HashMap<UTypeId, usize>,
}

impl Types {
    /// `RString#7`; a type named for the first time is queued to be printed.
    fn name(&mut self, layout: Layout) -> String {
        let number = *self.numbers.entry(layout.get_utypeid()).or_insert_with(|| {
            self.order.push(layout);
            self.order.len() - 1
        });
        format!("{}#{number}", layout.name())
    }

    /// Prints every queued type; printing one may queue more.
    fn print(mut self) -> String {
        let (mut text, mut next) = (String::new(), 0);
        while let Some(&layout) = self.order.get(next) {
            self.print_type(layout, &mut text).expect("writing to a String cannot fail");
            next += 1;
        }
        text
    }

    fn print_type(&mut self, layout: Layout, text: &mut String) -> std::fmt::Result {
        let (name, kind, repr) = (self.name(layout), kind(layout), layout.repr_attr());
        writeln!(text, "{name}: {kind}, {repr:?}, size {}, align {}", layout.size(), layout.alignment())?;
        let fields = layout.get_fields().into_iter().flat_map(|fields| fields.iter());
        for field in fields.chain(layout.phantom_fields().iter()) {
            writeln!(text, "    {}: {}", field.name(), self.name(field.layout()))?;
            for function in field.function_range().iter() {
                writeln!(text, "        {}", self.signature(&function))?;
            }
        }
        Ok(())
    }

    fn signature(&mut self, function: &TLFunction) -> String {
        let params: Vec<String> =
            function.param_type_layouts.iter().map(|layout| self.name(layout())).collect();
        let answer = function.return_type_layout().map(|layout| self.name(layout()));
        format!("({}) -> {}", params.join(", "), answer.as_deref().unwrap_or("()"))
    }
}

fn kind(layout: Layout) -> String {
    match layout.data() {
        TLData::PrefixType(prefix) => format!("prefix type, {} fields fixed", prefix.first_suffix_field),
        TLData::Enum(of) => format!("enum of {}", of.variant_count()),
        TLData::Primitive(primitive) => format!("{primitive:?}"),
        TLData::Opaque => "opaque".into(),
        TLData::Struct { .. } => "struct".into(),
        TLData::Union { .. } => "union".into(),
    }
}
