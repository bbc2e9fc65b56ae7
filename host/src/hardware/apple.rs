//! Apple's GPUs: built into its processors, named by `system_profiler`.

use super::gpu::Gpu;
use super::vendor::Vendor;

/// Where an Apple GPU is.
const ADDRESS: &str = "built in";

/// Every Mac with a processor of its maker has a GPU in it.
pub fn built_in(os: &str, arch: &str) -> Option<Gpu> {
    (os == "macos" && arch == "aarch64").then(|| Gpu::new(Vendor::Apple.facts(), ADDRESS))
}

/// The GPUs in what `system_profiler SPDisplaysDataType -json` writes; none where the text is something else.
///
/// A list of devices under `SPDisplaysDataType`. Used are `sppci_model` (the name), `sppci_cores` (a number as text,
/// on Apple's own only), `sppci_bus` (`spdisplays_builtin`, ...), `spdisplays_vendor` (`sppci_vendor_Apple`, or
/// `sppci_vendor_amd`, or words with a number such as `Intel (0x8086)`) and `spdisplays_device-id`.
pub fn parse_profiler(text: &str) -> Vec<Gpu> {
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let devices = value["SPDisplaysDataType"].as_array().into_iter().flatten();
    devices.filter_map(device).collect()
}

fn device(value: &serde_json::Value) -> Option<Gpu> {
    let field = |name: &str| value[name].as_str();
    let vendor = field("spdisplays_vendor").or_else(|| field("sppci_vendor"))?.to_lowercase();
    let named = |facts: &&super::vendor::Facts| vendor.contains(&facts.name.to_lowercase());
    let facts = super::vendor::VENDORS.iter().find(named)?;
    let name = field("sppci_model").or_else(|| field("_name"))?;
    let cores = field("sppci_cores").map(|cores| format!(" ({cores} cores)")).unwrap_or_default();
    // Other makers' GPUs have no backend on macOS: their own drivers are not there.
    let own = facts.vendor == Vendor::Apple;
    let backend = facts.backend.filter(|_| own);
    let address = if own { ADDRESS } else { field("sppci_bus").unwrap_or_default() };
    let address = address.trim_start_matches("spdisplays_");
    Some(Gpu { name: format!("{name}{cores}"), backend, ..Gpu::new(facts, address) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&str, &str, Option<&str>)]) {
        let gpus = parse_profiler(text);
        let seen: Vec<_> =
            gpus.iter().map(|gpu| (gpu.name.as_str(), gpu.address.as_str(), gpu.backend)).collect();
        assert_eq!(seen, expected, "{text}");
    }

    #[test]
    fn the_profiler_names_gpus() {
        check(
            include_str!("captures/system_profiler.m2.json"),
            &[("Apple M2 Pro (19 cores)", "built in", Some("metal"))],
        );
        let expected =
            [("Intel UHD Graphics 630", "builtin", None), ("AMD Radeon Pro 5500M", "pcie_device", None)];
        check(include_str!("captures/system_profiler.intel.json"), &expected);
        check("{}", &[]);
        check("system_profiler: not found", &[]);
        check(r#"{"SPDisplaysDataType": [{"_name": "Display"}, 3]}"#, &[]);
    }
}
