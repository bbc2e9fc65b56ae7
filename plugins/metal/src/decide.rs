//! Which of Metal's ways to take, decided from plain numbers and words. Nothing here touches a device.
//!
//! Most of it is about what candle's kernels do not do, or do wrongly: see `docs/metal.md` for where that was found.

pub mod attention;
pub mod faults;
pub mod machine;
pub mod products;
pub mod switches;
