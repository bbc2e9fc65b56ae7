//! The one device, which is whatever a test wants it to be.

use sconce_plugin_api::abi_stable::std_types::{RString, RVec};
use sconce_plugin_api::sdk::codes::device;
use sconce_plugin_api::sdk::{DeviceInfo, KeyValue};

use crate::executor;
use crate::fault::{Fault, Faults};

/// The option that [`Fault::WrongUnlessQuirk`] needs, which the device then lists.
pub const SWITCH: &str = "mock_plain";

/// The device.
pub fn describe(faults: &Faults) -> DeviceInfo {
    let number = |fault, otherwise| faults.value(fault).unwrap_or(otherwise);
    let small = |fault, otherwise| u32::try_from(number(fault, otherwise)).unwrap_or(u32::MAX);
    let why = why(faults);
    let mem_free = number(Fault::MemFree, 0);
    DeviceInfo {
        index: 0,
        kind: small(Fault::Kind, device::CPU.into()),
        name: "mock".into(),
        description: "no device at all".into(),
        mem_total: number(Fault::MemTotal, mem_free),
        mem_free,
        flags: device::FLAG_UNIFIED_MEMORY,
        score: if faults.has(Fault::NoCode) { 0 } else { small(Fault::Score, 1) },
        caps: executor::caps(faults),
        arch: RString::new(),
        uuid: RString::new(),
        quirks: faults.has(Fault::WrongUnlessQuirk).then(|| SWITCH.into()).into_iter().collect(),
        ext: why.map(|why| KeyValue::string("why", why)).into_iter().collect::<RVec<_>>(),
        _r: [0; 8],
    }
}

/// Why the device cannot be used, which is what a score of 0 says.
fn why(faults: &Faults) -> Option<&'static str> {
    match (faults.has(Fault::NoCode), faults.value(Fault::Score)) {
        (true, _) => Some("asked to have no code for this device"),
        (false, Some(0)) => Some("asked to be of no use here"),
        (false, _) => None,
    }
}
