//! What the host knows of this backend before it opens it.

use sconce_plugin_api::sdk::{Manifest, Status};

/// See [`Manifest`]. Every Mac has the libraries, and a driver is part of its system.
pub const MANIFEST: Manifest = Manifest {
    id: "metal",
    variant: "",
    version: env!("CARGO_PKG_VERSION"),
    vendor: "the sconce developers",
    description: "Runs models on the GPU of a Mac",
    engine: "candle 0.11.1",
    licence: "MIT OR Apache-2.0",
    device_kinds: &["igpu", "gpu"],
    formats: &["safetensors", "gguf"],
    device_code: &[],
    libraries: &[],
    driver: None,
    // Until a report of `sconce plugin test` on a Mac is in docs/metal.md.
    status: Status::PreRelease,
    test: false,
};
