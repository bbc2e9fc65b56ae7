//! Libraries and drivers that a plugin names, shown on small ones that the C compiler builds: found, missing,
//! loaded first, asked. Each has names of its own, since a library that is loaded stays loaded.
#![cfg(all(feature = "host", target_os = "linux"))]

#[path = "support/made.rs"]
mod made;

use std::path::{Path, PathBuf};
use std::process::Command;

use sconce_plugin_api::loader::{
    ask_driver, find_listed, find_needed, inspect, open, preload, read_manifest, DriverAnswer, DriverError,
    DriverFloor, LoadError,
};

/// A directory that is gone after its test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sconce-libraries-{}-{name}", std::process::id()));
        std::fs::create_dir_all(path.join("deps")).expect("a directory for the test");
        Scratch(path)
    }

    /// Builds a library from C.
    fn build(&self, file: &str, source: &str, arguments: &[&str]) -> PathBuf {
        let (library, c) = (self.0.join(file), self.0.join("source.c"));
        std::fs::write(&c, source).expect("a file for the test");
        let mut compiler = Command::new("cc");
        let soname = Path::new(file).file_name().expect("a name").to_string_lossy().into_owned();
        compiler.args(["-shared", "-fPIC", "-Wl,--no-as-needed", &format!("-Wl,-soname,{soname}"), "-o"]);
        compiler.arg(&library).arg(&c).args(arguments);
        assert!(compiler.status().expect("Rust links with cc").success(), "{file}");
        library
    }

    /// Builds a library with a manifest, which is no plugin beyond that: `open` gets as far as looking for the
    /// root module once every library is there.
    fn plugin(&self, file: &str, keys: &str, arguments: &[&str]) -> PathBuf {
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        let json = format!(r#"{{"id":"test","abi":"1.0.0","os":"{os}","arch":"{arch}"{keys}}}"#);
        let bytes: Vec<String> = made::frame(&json).iter().map(u8::to_string).collect();
        let (text, attributes) = (bytes.join(","), r#"section(".sconce"), used"#);
        let source = format!("static const unsigned char m[] __attribute__(({attributes})) = {{{text}}};");
        self.build(file, &source, arguments)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The next start of the system removes it otherwise.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_library_that_a_plugin_needs_and_nobody_lists_is_named() {
    let dir = Scratch::new("needed");
    dir.build("deps/libsconce_t_needed.so.1", "int needed;", &[]);
    let there = dir.0.join("deps/libsconce_t_needed.so.1").display().to_string();
    let plugin = dir.plugin("plugin.so", "", &[&there]);
    let file = inspect(&plugin).expect("a library");
    let found = find_needed(&plugin, &file);
    let missing = found.iter().find(|l| l.name == "libsconce_t_needed.so.1").expect("it is needed");
    assert_eq!(missing.at, None);
    let error = open(&plugin).map(drop).expect_err("a library is missing");
    let LoadError::MissingLibrary { name, looked_in, .. } = &error else { panic!("{error}") };
    assert_eq!((&**name, looked_in), ("libsconce_t_needed.so.1", &missing.looked_in));
    assert!(
        error.to_string().starts_with("it needs libsconce_t_needed.so.1, which was not found in /"),
        "{error}"
    );
}

#[test]
fn a_library_beside_the_plugin_is_found_by_its_run_path() {
    let dir = Scratch::new("runpath");
    let library = dir.build("deps/libsconce_t_run.so.1", "int run;", &[]);
    let there = library.display().to_string();
    let plugin = dir.plugin("plugin.so", "", &[&there, "-Wl,--enable-new-dtags,-rpath,$ORIGIN/deps"]);
    let found = find_needed(&plugin, &inspect(&plugin).expect("a library"));
    let found = found.iter().find(|l| l.name == "libsconce_t_run.so.1").expect("it is needed");
    assert_eq!(found.at.as_deref(), Some(library.canonicalize().expect("it exists").as_path()));
    assert!(matches!(open(&plugin).map(drop), Err(LoadError::NoRoot)), "its library was found");
}

#[test]
fn a_listed_library_is_loaded_first_from_where_the_manifest_says() {
    let dir = Scratch::new("listed");
    let library = dir.build("deps/libsconce_t_listed.so.1", "int listed;", &[]);
    let there = library.display().to_string();
    let keys =
        r#","libraries":[{"name":"libsconce_t_listed.so.1","search":["$ORIGIN/none","$ORIGIN/deps"]}]"#;
    let plugin = dir.plugin("plugin.so", keys, &[&there]);
    let found = find_listed(&plugin, &read_manifest(&plugin).expect("a manifest"));
    assert_eq!(found[0].at.as_deref(), Some(library.as_path()));
    assert!(matches!(open(&plugin).map(drop), Err(LoadError::NoRoot)), "its library was there already");
}

#[test]
fn a_listed_library_that_is_nowhere_comes_with_its_fix() {
    let dir = Scratch::new("fix");
    let keys =
        r#","libraries":[{"name":"libsconce_t_absent.so.1","search":["$ORIGIN/none"],"fix":"run get-it"}]"#;
    let plugin = dir.plugin("plugin.so", keys, &[]);
    let error = open(&plugin).map(drop).expect_err("a library is missing");
    let LoadError::MissingLibrary { name, looked_in, fix } = error else { panic!("{error}") };
    assert_eq!((&*name, &*fix), ("libsconce_t_absent.so.1", "run get-it"));
    assert_eq!(looked_in[0], dir.0.canonicalize().expect("it exists").join("none"));
}

#[test]
fn what_cannot_be_preloaded_is_said() {
    let dir = Scratch::new("preload");
    let lazy = dir.build(
        "libsconce_t_lazy.so",
        "int absent(void); int call(void) { return absent(); }",
        &["-Wl,-z,lazy"],
    );
    let error = preload(&[lazy]).expect_err("it lacks a symbol");
    assert!(matches!(&error, LoadError::Dlopen(why) if why.contains("absent")), "{error}");
    assert!(preload(&[]).is_ok());
}

/// A driver of version 570 with two devices, but for what `source` does otherwise.
fn driver(dir: &Scratch, file: &str, source: &str) -> DriverFloor {
    let library = dir.build(file, source, &[]).display().to_string();
    DriverFloor {
        name: "Toy driver".into(),
        library,
        symbol: "version".into(),
        least: 560,
        least_name: "release 56".into(),
        init: "init".into(),
        count: "count".into(),
        no_device: 100,
        fix: "install toys".into(),
    }
}

const VERSION: &str = "int version(int *v) { *v = 570; return 0; }";
const INIT: &str = "int init(unsigned flags) { return flags ? 1 : 0; }";
const COUNT: &str = "int count(int *n) { *n = 2; return 0; }";

#[test]
fn a_driver_tells_its_version_and_its_devices() {
    let dir = Scratch::new("driver");
    let floor = driver(&dir, "well.so", &[VERSION, INIT, COUNT].concat());
    assert_eq!(ask_driver(&floor), Ok(DriverAnswer { version: 570, devices: Some(2) }));
    let silent = DriverFloor { init: String::new(), count: String::new(), ..floor };
    assert_eq!(ask_driver(&silent), Ok(DriverAnswer { version: 570, devices: None }));
}

#[test]
fn what_is_wrong_with_a_driver_is_said() {
    let dir = Scratch::new("no-driver");
    let check = |floor: DriverFloor, expected: &str| {
        let error = ask_driver(&floor).expect_err("it is of no use");
        assert_eq!(error.to_string().replace(&floor.library, "FILE"), expected);
    };
    let well = driver(&dir, "good.so", &[VERSION, INIT, COUNT].concat());
    let too_old = "the Toy driver is too old: it says 570, and 580 (release 58) is the least";
    check(DriverFloor { least: 580, least_name: "release 58".into(), ..well.clone() }, too_old);
    let unknown = "the Toy driver is not one that this plugin knows: FILE has no `tell`";
    check(DriverFloor { symbol: "tell".into(), ..well }, unknown);
    let failing =
        driver(&dir, "fails.so", &[VERSION, "int init(unsigned f) { return 803; }", COUNT].concat());
    check(failing, "the Toy driver does not work: init answers 803");
    let bare = driver(&dir, "bare.so", &[VERSION, "int init(unsigned f) { return 100; }", COUNT].concat());
    check(bare, "the Toy driver sees no device");
    let none = driver(&dir, "none.so", &[VERSION, INIT, "int count(int *n) { *n = 0; return 0; }"].concat());
    check(none, "the Toy driver sees no device");
    let mute = driver(&dir, "mute.so", "int version(int *v) { return 3; }");
    check(mute, "the Toy driver does not work: version answers 3");
}

#[test]
fn a_driver_that_is_not_installed_is_missing() {
    let dir = Scratch::new("absent");
    let there = driver(&dir, "there.so", VERSION);
    let floor = DriverFloor { library: "libsconce_t_driver.so.1".into(), ..there };
    let error = ask_driver(&floor).expect_err("it is not there");
    let DriverError::Missing { library, why, fix, .. } = &error else { panic!("{error}") };
    assert_eq!((&**library, &**fix), ("libsconce_t_driver.so.1", "install toys"));
    assert!(why.contains("libsconce_t_driver.so.1"), "{why}");
}
