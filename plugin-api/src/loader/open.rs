//! Opens a plugin library. Only call this for a file whose manifest was read: it executes the file.

use std::path::{Path, PathBuf};

use abi_stable::library::{AbiHeaderRef, LibHeader, RootModuleError, ROOT_MODULE_LOADER_NAME_WITH_NUL};
use abi_stable::sabi_types::VersionNumber;
use abi_stable::std_types::RSlice;

use crate::abi::codes::build;
use crate::abi::{AbiError, HostApi_Ref, KeyValue, PluginBox, PluginInfo, PluginRoot_Ref};

use super::abi::check_version;
use super::layout::{self, LayoutMismatch};
use super::libraries::find_one;
use super::{find_listed, inspect, read_manifest, AbiVersion, FoundLibrary, PluginManifest};

/// A plugin library whose types agree with ours.
pub struct OpenPlugin {
    root: PluginRoot_Ref,
    /// The ABI it was built against.
    pub abi: AbiVersion,
    /// Its static facts.
    pub info: PluginInfo,
}

/// Why a library could not be opened. The words serve after `PATH: `.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// dlopen failed; the text is the system loader's.
    #[error("the system cannot load it: {0}")]
    Dlopen(String),
    /// A library that it needs is nowhere.
    #[error("it needs {name}, which was not found in {}", places(.looked_in))]
    MissingLibrary {
        /// File name.
        name: String,
        /// Where it was looked for, in order.
        looked_in: Vec<PathBuf>,
        /// A command that makes it available; may be empty.
        fix: String,
    },
    /// No root module under our name.
    #[error("it does not export a sconce plugin")]
    NoRoot,
    /// The header is not one of abi_stable 0.11.
    #[error("its ABI header cannot be read: {0}")]
    Header(String),
    /// Another major.
    #[error("it was built for ABI {theirs}, this host speaks {ours}; install the plugin that belongs to this host")]
    Major {
        /// The plugin's.
        theirs: AbiVersion,
        /// Ours.
        ours: AbiVersion,
    },
    /// A minor that is no longer spoken.
    #[error("it was built for ABI {theirs}, and the oldest that this host speaks is {oldest}; install a newer one")]
    TooOld {
        /// The plugin's.
        theirs: AbiVersion,
        /// The oldest that works.
        oldest: AbiVersion,
    },
    /// The manifest's version is none.
    #[error("its manifest says ABI `{0}`, which is no version")]
    Version(String),
    /// Same major, other types: a build that broke the rules.
    #[error("its types differ from this host's although both say ABI {theirs}: {}", .mismatch.summary)]
    Layout {
        /// The plugin's.
        theirs: AbiVersion,
        /// What differs.
        mismatch: Box<LayoutMismatch>,
    },
    /// The root module's constructor failed or panicked.
    #[error("its entry point failed: {0}")]
    Root(String),
    /// Built with `panic = "abort"`.
    #[error("it was built with panic = \"abort\", so a panic in it would end the host; rebuild it with panic = \"unwind\"")]
    Aborts,
}

/// Opens the library at `path`, checks version and layout, and asks for its static facts.
///
/// The libraries that its manifest lists are found and loaded first, so that they are the ones it is bound to.
///
/// The library is never unloaded: its threads may outlive every object it made.
///
/// # Errors
/// [`LoadError`]. A library that crashes in its initialisers takes the process with it.
pub fn open(path: &Path) -> Result<OpenPlugin, LoadError> {
    // A relative name without a slash would be looked up in the system's directories.
    let path = path.canonicalize().map_err(|e| LoadError::Dlopen(e.to_string()))?;
    let manifest = read_manifest(&path).ok();
    if let Some(manifest) = &manifest {
        let libraries = listed(&path, manifest)?;
        preload(&libraries).map_err(|error| name_missing(error, &path, Some(manifest)))?;
    }
    let header = header(&path).map_err(|error| name_missing(error, &path, manifest.as_ref()))?;
    let theirs = version(header)?;
    check_version(AbiVersion::ours(), AbiVersion::OLDEST_MINOR, theirs)?;
    check_layout(header, theirs)?;
    // SAFETY: `check_layout` accepted this header just above, and the library is never unloaded.
    let root = unsafe { header.unchecked_layout::<PluginRoot_Ref>() };
    let root = root.map_err(|e: RootModuleError| LoadError::Root(e.to_string()))?;
    let info = (root.info())();
    if info.build_flags & build::PANIC_UNWIND == 0 {
        return Err(LoadError::Aborts);
    }
    Ok(OpenPlugin { root, abi: theirs, info })
}

impl OpenPlugin {
    /// Creates the plugin; once per library and process.
    ///
    /// # Errors
    /// What the plugin says.
    pub fn create(&self, host: HostApi_Ref, options: &[KeyValue]) -> Result<PluginBox, AbiError> {
        (self.root.create())(host, RSlice::from_slice(options)).into_result()
    }
}

/// Loads libraries into the process for good, with their symbols offered to whatever is loaded after them: a
/// plugin that needs a library of the same name is bound to these.
///
/// # Errors
/// [`LoadError::Dlopen`] for the first that fails. The libraries' initialisers run.
pub fn preload(libraries: &[PathBuf]) -> Result<(), LoadError> {
    for path in libraries {
        // SAFETY: the initialisers run; the plugin asks for this library, and the caller trusts the plugin.
        let library = unsafe { load_global(path) };
        std::mem::forget(library.map_err(|e| LoadError::Dlopen(chain(&e)))?);
    }
    Ok(())
}

/// Where the libraries of a manifest are.
fn listed(path: &Path, manifest: &PluginManifest) -> Result<Vec<PathBuf>, LoadError> {
    let found = find_listed(path, manifest).into_iter();
    found.map(|library| library.at.clone().ok_or_else(|| missing(library, manifest))).collect()
}

fn missing(library: FoundLibrary, manifest: &PluginManifest) -> LoadError {
    let fix = manifest.libraries.iter().find(|listed| listed.name == library.name);
    let fix = fix.map(|listed| listed.fix.clone()).unwrap_or_default();
    LoadError::MissingLibrary { name: library.name, looked_in: library.looked_in, fix }
}

/// A failed dlopen that only wants a library says so in its own words; say which, and where it was looked for.
fn name_missing(error: LoadError, path: &Path, manifest: Option<&PluginManifest>) -> LoadError {
    let LoadError::Dlopen(words) = &error else { return error };
    let (Some(name), Some(manifest)) = (missing_name(words, path), manifest) else { return error };
    let Ok(file) = inspect(path) else { return error };
    let found = find_one(path, &file, &name);
    // The loader knows better than we do: if it does not take what we found, its own words are the best.
    if found.at.is_none() {
        missing(found, manifest)
    } else {
        error
    }
}

/// The library that a loader's words say is missing: glibc, musl and macOS.
fn missing_name(words: &str, path: &Path) -> Option<String> {
    let name = match words.strip_prefix("Error loading shared library ") {
        Some(rest) => rest.split_once(": No such file")?.0,
        None => match words.split_once("Library not loaded: ") {
            Some((_, rest)) => rest.split_whitespace().next()?,
            None => words.split_once(": cannot open shared object file: No such file")?.0,
        },
    };
    (Path::new(name) != path).then(|| name.to_owned())
}

fn places(looked_in: &[PathBuf]) -> String {
    let places: Vec<String> = looked_in.iter().map(|place| place.display().to_string()).collect();
    if places.is_empty() {
        "any place".to_owned()
    } else {
        places.join(", ")
    }
}

fn header(path: &Path) -> Result<&'static LibHeader, LoadError> {
    // SAFETY: the library's initialisers run here; the caller read its manifest and chose to trust it.
    let library = unsafe { load(path) };
    let library = library.map_err(|e| LoadError::Dlopen(chain(&e)))?;
    // SAFETY: the symbol, if it is there, is abi_stable's header by construction of its mangled name.
    let symbol = unsafe { library.get::<AbiHeaderRef>(ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes()) };
    let header = symbol.map(|symbol| *symbol);
    std::mem::forget(library);
    header.map_err(|_| LoadError::NoRoot)?.upgrade().map_err(|e| LoadError::Header(e.to_string()))
}

/// Loads with every symbol resolved: one that is missing is an error here, instead of the end of the process in
/// the first call that needs it.
///
/// # Safety
/// The library's initialisers run.
#[cfg(unix)]
unsafe fn load(path: &Path) -> Result<libloading::Library, libloading::Error> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    // SAFETY: the caller's.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map(Into::into)
}

/// Loads with its symbols offered to later libraries.
///
/// # Safety
/// The library's initialisers run.
#[cfg(unix)]
unsafe fn load_global(path: &Path) -> Result<libloading::Library, libloading::Error> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: the caller's.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.map(Into::into)
}

/// Loads; on Windows a library's symbols belong to its name.
///
/// # Safety
/// The library's initialisers run.
#[cfg(windows)]
unsafe fn load_global(path: &Path) -> Result<libloading::Library, libloading::Error> {
    // SAFETY: the caller's.
    unsafe { load(path) }
}

/// Loads; libraries that it needs are looked for beside it first.
///
/// # Safety
/// The library's initialisers run.
#[cfg(windows)]
unsafe fn load(path: &Path) -> Result<libloading::Library, libloading::Error> {
    use libloading::os::windows::{Library, LOAD_WITH_ALTERED_SEARCH_PATH};
    // SAFETY: the caller's.
    unsafe { Library::load_with_flags(path, LOAD_WITH_ALTERED_SEARCH_PATH) }.map(Into::into)
}

/// libloading's own words are only "dlopen failed"; the reason is in the source.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

fn version(header: &LibHeader) -> Result<AbiVersion, LoadError> {
    let version =
        VersionNumber::new(header.version_strings()).map_err(|e| LoadError::Header(e.to_string()))?;
    Ok(AbiVersion { major: version.major, minor: version.minor })
}

fn check_layout(header: &'static LibHeader, theirs: AbiVersion) -> Result<(), LoadError> {
    let layout = header.layout().ok_or_else(|| LoadError::Header("it carries no layout".into()))?;
    layout::check(theirs, layout)
        .map_err(|mismatch| LoadError::Layout { theirs, mismatch: Box::new(mismatch) })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn loaders_say_in_their_own_words_what_is_missing() {
        let check = |words: &str, expected: Option<&str>| {
            assert_eq!(missing_name(words, Path::new("/p/plugin.so")).as_deref(), expected, "{words}");
        };
        let glibc = "cannot open shared object file: No such file or directory";
        check(&format!("libx.so.1: {glibc}"), Some("libx.so.1"));
        check(&format!("/p/plugin.so: {glibc}"), None);
        let musl =
            "Error loading shared library libx.so.1: No such file or directory (needed by /p/plugin.so)";
        check(musl, Some("libx.so.1"));
        let macos =
            "dlopen(/p/plugin.so, 0x0002): Library not loaded: @rpath/libx.dylib\n  Referenced from: /p";
        check(macos, Some("@rpath/libx.dylib"));
        check("/p/plugin.so: undefined symbol: absent", None);
    }

    #[test]
    fn a_missing_symbol_is_said_by_the_load() {
        let dir = std::env::temp_dir().join(format!("sconce-open-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for the test");
        let (source, library) = (dir.join("lazy.c"), dir.join("lazy.so"));
        std::fs::write(&source, "int absent(void); int call(void) { return absent(); }").expect("a file");
        // Some compilers bind at once by themselves, so ask for the opposite.
        let mut compiler = std::process::Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-Wl,-z,lazy", "-o"]).arg(&library).arg(&source);
        assert!(compiler.status().expect("Rust links with cc").success());
        let error = open(&library).err().expect("it lacks a symbol");
        std::fs::remove_dir_all(&dir).expect("the test's own directory");
        assert!(matches!(&error, LoadError::Dlopen(why) if why.contains("absent")), "{error}");
    }
}
