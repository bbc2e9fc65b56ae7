//! Whether both sides mean the same types. abi_stable checks one way only ("library newer than its user");
//! ours checks in the order of the minors, so that an old plugin works in a new host and the other way round.

use abi_stable::abi_stability::abi_checking::check_layout_compatibility;
use abi_stable::type_layout::TypeLayout;
use abi_stable::StableAbi;

use crate::abi::{Executor_TO, PluginRoot_Ref, Plugin_TO, Progress_TO, Stats_TO};

use super::AbiVersion;

/// Compares our root module's layout with the plugin's; the older minor plays the interface.
pub(super) fn check(theirs: AbiVersion, layout: &'static TypeLayout) -> Result<(), LayoutMismatch> {
    let ours = <PluginRoot_Ref as StableAbi>::LAYOUT;
    let result = if theirs.minor >= AbiVersion::ours().minor {
        check_layout_compatibility(ours, layout)
    } else {
        check_layout_compatibility(layout, ours)
    };
    result.map_err(|errors| LayoutMismatch::shorten(&errors.to_string()))
}

/// A layout error: the full text is hundreds of lines, so people get its last finding.
#[derive(Debug)]
pub struct LayoutMismatch {
    /// One line.
    pub summary: String,
    /// Everything.
    pub full: String,
}

impl LayoutMismatch {
    fn shorten(full: &str) -> Self {
        let last = |prefix: &str| {
            full.lines().rev().map(str::trim).find_map(|line| line.strip_prefix(prefix)).unwrap_or("").trim()
        };
        let finding = full.rsplit("Error:").next().unwrap_or("").split_whitespace().take(40);
        let finding: Vec<&str> = finding.collect();
        let place =
            [last("field_name:"), last("type:")].map(|part| part.chars().take(80).collect::<String>());
        let summary = format!("{} [{}]", finding.join(" "), place.join(" ").trim());
        LayoutMismatch { summary, full: full.to_owned() }
    }
}

/// The printed layouts of the root module and of every object: what `tests/golden` holds per minor.
pub fn golden_text() -> String {
    use abi_stable::std_types::{RArc, RBox};
    let layouts: [(&str, &'static TypeLayout); 5] = [
        ("root module", <PluginRoot_Ref as StableAbi>::LAYOUT),
        ("plugin", <Plugin_TO<'static, RBox<()>> as StableAbi>::LAYOUT),
        ("executor", <Executor_TO<'static, RBox<()>> as StableAbi>::LAYOUT),
        ("stats", <Stats_TO<'static, RArc<()>> as StableAbi>::LAYOUT),
        ("progress", <Progress_TO<'static, RBox<()>> as StableAbi>::LAYOUT),
    ];
    layouts.iter().map(|(name, layout)| format!("=== {name}\n{layout}\n")).collect()
}

/// FNV-1a of [`golden_text`], 64 bits, for documents to quote.
pub fn golden_digest() -> String {
    let digest = golden_text().bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{digest:016x}")
}
