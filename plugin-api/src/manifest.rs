//! The manifest: what the host knows of a plugin before it executes a byte of it.
//!
//! It lies in the library's section `.sconce` (`__DATA,__sconce` on Mach-O) as the bytes `SCONCE\0`, a format number
//! (1), a little-endian `u32` length and that many bytes of UTF-8 JSON. Unknown keys are ignored.
//! Here it is rendered at compile time; `loader::manifest` reads it.

pub(crate) mod features;

/// Begins the section.
pub const MAGIC: &[u8; 7] = b"SCONCE\0";
/// Version of the frame.
pub const FORMAT: u8 = 1;
/// Bytes before the JSON.
pub const HEADER_BYTES: usize = 12;

/// What a plugin says of itself at compile time.
pub struct Manifest {
    /// `cpu`, `cuda`, `metal`; reverse DNS for third parties.
    pub id: &'static str,
    /// Which build of it.
    pub variant: &'static str,
    /// The plugin's own version: `env!("CARGO_PKG_VERSION")`.
    pub version: &'static str,
    /// Who made it.
    pub vendor: &'static str,
    /// A sentence for people.
    pub description: &'static str,
    /// What computes.
    pub engine: &'static str,
    /// SPDX expression.
    pub licence: &'static str,
    /// Names of `codes::device` kinds.
    pub device_kinds: &'static [&'static str],
    /// `safetensors`, `gguf`.
    pub formats: &'static [&'static str],
    /// What devices it holds code for, where that is decided at compile time, such as `sm_90`; for people.
    pub device_code: &'static [&'static str],
    /// Libraries beyond the C runtime.
    pub libraries: &'static [Library],
    /// The driver without which no device works.
    pub driver: Option<Driver>,
    /// Whether it has been seen to work where it is meant to.
    pub status: Status,
    /// True for plugins that are never chosen automatically.
    pub test: bool,
}

/// How far a plugin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// `sconce plugin test` has passed on the devices it is for.
    Release,
    /// It has not, or nobody has recorded it. The host says so whenever it uses the plugin.
    PreRelease,
}

impl Status {
    /// The word for it in the manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Release => "release",
            Status::PreRelease => "pre-release",
        }
    }
}

/// A library the plugin needs, and where it is looked for before the system's own places.
pub struct Library {
    /// File name, such as `libcublas.so.13`.
    pub name: &'static str,
    /// Absolute directories, in order. `$ORIGIN` is the plugin's own, `$NAME` or `${NAME}` an environment
    /// variable (a directory with one that is not set is left out), `*` stands for any text within a name.
    pub search: &'static [&'static str],
    /// A command that makes it available, for people; may be empty.
    pub fix: &'static str,
}

/// A driver without which no device works, and how to ask it. Every function is C and answers 0 when all is well.
pub struct Driver {
    /// For people: `NVIDIA driver`.
    pub name: &'static str,
    /// File name of its library, which the system's loader looks up.
    pub library: &'static str,
    /// Tells the version: `int f(int *version)`.
    pub symbol: &'static str,
    /// Least version that works, as `symbol` counts.
    pub least: u64,
    /// The same as people call it, such as `580`; may be empty.
    pub least_name: &'static str,
    /// Starts the driver: `int f(unsigned flags)`, called with 0; empty if it needs none.
    pub init: &'static str,
    /// Counts devices: `int f(int *count)`; empty if the driver does not tell.
    pub count: &'static str,
    /// What `init` or `count` answers instead of a count when there is no device; 0 if there is no such answer.
    pub no_device: i32,
    /// A command or an address that gets the driver, for people; may be empty.
    pub fix: &'static str,
}

/// The largest manifest, frame included.
pub const MAX_BYTES: usize = 8192;

/// A rendered manifest: the frame and its length.
pub struct Rendered {
    bytes: [u8; MAX_BYTES],
    len: usize,
}

impl Rendered {
    /// Bytes used.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Never: the frame is always there.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// The first `N` bytes, to initialise a static of exactly that size.
    pub const fn take<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        let mut i = 0;
        while i < N {
            out[i] = self.bytes[i];
            i += 1;
        }
        out
    }

    const fn raw(mut self, text: &str) -> Self {
        let text = text.as_bytes();
        let mut i = 0;
        while i < text.len() {
            self.bytes[self.len] = text[i];
            self.len += 1;
            i += 1;
        }
        self
    }

    /// JSON text: quotes and backslashes escaped, control characters refused.
    const fn text(mut self, text: &str) -> Self {
        self = self.raw("\"");
        let text = text.as_bytes();
        let mut i = 0;
        while i < text.len() {
            assert!(text[i] >= 0x20, "a manifest holds no control characters");
            if text[i] == b'"' || text[i] == b'\\' {
                self = self.raw("\\");
            }
            self.bytes[self.len] = text[i];
            self.len += 1;
            i += 1;
        }
        self.raw("\"")
    }

    const fn field(self, key: &str, value: &str) -> Self {
        self.raw(",").text(key).raw(":").text(value)
    }

    const fn list(self, key: &str, values: &[&str]) -> Self {
        self.raw(",").text(key).raw(":").array(values)
    }

    const fn array(mut self, values: &[&str]) -> Self {
        self = self.raw("[");
        let mut i = 0;
        while i < values.len() {
            if i > 0 {
                self = self.raw(",");
            }
            self = self.text(values[i]);
            i += 1;
        }
        self.raw("]")
    }

    const fn number(self, value: u64) -> Self {
        let rest = if value >= 10 { self.number(value / 10) } else { self };
        let digit = [b'0' + (value % 10) as u8];
        match std::str::from_utf8(&digit) {
            Ok(digit) => rest.raw(digit),
            Err(_) => unreachable!(),
        }
    }

    const fn signed(self, value: i32) -> Self {
        let signed = if value < 0 { self.raw("-") } else { self };
        signed.number(value.unsigned_abs() as u64)
    }

    /// The names of the features this build uses.
    const fn cpu_features(mut self) -> Self {
        self = self.raw(",\"cpu_features\":[");
        let (mut i, mut first) = (0, true);
        while i < features::FEATURES.len() {
            let (name, used) = features::FEATURES[i];
            if used {
                self = if first { self } else { self.raw(",") };
                self = self.text(name);
                first = false;
            }
            i += 1;
        }
        self.raw("]")
    }

    const fn libraries(mut self, libraries: &[Library]) -> Self {
        self = self.raw(",\"libraries\":[");
        let mut i = 0;
        while i < libraries.len() {
            if i > 0 {
                self = self.raw(",");
            }
            self = self.raw("{\"name\":").text(libraries[i].name);
            self = self.list("search", libraries[i].search);
            self = self.field("fix", libraries[i].fix).raw("}");
            i += 1;
        }
        self.raw("]")
    }

    const fn driver(self, driver: &Option<Driver>) -> Self {
        match driver {
            None => self,
            Some(d) => self
                .raw(",\"driver\":{\"name\":")
                .text(d.name)
                .field("library", d.library)
                .field("symbol", d.symbol)
                .raw(",\"least\":")
                .number(d.least)
                .field("least_name", d.least_name)
                .field("init", d.init)
                .field("count", d.count)
                .raw(",\"no_device\":")
                .signed(d.no_device)
                .field("fix", d.fix)
                .raw("}"),
        }
    }

    const fn framed(mut self) -> Self {
        let length = ((self.len - HEADER_BYTES) as u32).to_le_bytes();
        let mut i = 0;
        while i < 4 {
            self.bytes[8 + i] = length[i];
            i += 1;
        }
        self
    }
}

impl Manifest {
    /// The frame and the JSON, computed at compile time.
    pub const fn render(&self) -> Rendered {
        let mut start = Rendered { bytes: [0; MAX_BYTES], len: HEADER_BYTES };
        let mut i = 0;
        while i < MAGIC.len() {
            start.bytes[i] = MAGIC[i];
            i += 1;
        }
        start.bytes[7] = FORMAT;
        start
            .raw("{\"id\":")
            .text(self.id)
            .field("variant", self.variant)
            .field("version", self.version)
            .field("vendor", self.vendor)
            .field("description", self.description)
            .field("engine", self.engine)
            .field("licence", self.licence)
            .field("abi", env!("CARGO_PKG_VERSION"))
            .field("arch", std::env::consts::ARCH)
            .field("os", std::env::consts::OS)
            .cpu_features()
            .list("device_kinds", self.device_kinds)
            .list("formats", self.formats)
            .list("device_code", self.device_code)
            .libraries(self.libraries)
            .driver(&self.driver)
            .field("status", self.status.name())
            .raw(if self.test { ",\"test\":true}" } else { ",\"test\":false}" })
            .framed()
    }
}
