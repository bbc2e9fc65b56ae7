//! Asks a driver, from the manifest's words alone: is it there, is it new enough, does it see a device.
//!
//! The driver's own code runs, and some drivers hang or crash: the host asks in a child process only.

use std::os::raw::{c_int, c_uint};

use libloading::{Library, Symbol};
use serde::{Deserialize, Serialize};

use super::DriverFloor;

/// What a driver said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverAnswer {
    /// Its version, as its own function counts.
    pub version: u64,
    /// How many devices it sees, where the manifest names a function that tells.
    pub devices: Option<u32>,
}

/// Why a driver is of no use. The words serve after `PLUGIN: `.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum DriverError {
    /// Its library cannot be loaded.
    #[error("the {name} is not installed: {why}")]
    Missing {
        /// The driver's name.
        name: String,
        /// Its library.
        library: String,
        /// The system loader's words.
        why: String,
        /// How to get it; may be empty.
        fix: String,
    },
    /// Its library lacks a function.
    #[error("the {name} is not one that this plugin knows: {library} has no `{symbol}`")]
    NoSymbol {
        /// The driver's name.
        name: String,
        /// Its library.
        library: String,
        /// What it lacks.
        symbol: String,
        /// How to get another; may be empty.
        fix: String,
    },
    /// Older than the plugin needs.
    #[error("the {name} is too old: it says {have}, and {} is the least", least_words(.least, .least_name))]
    TooOld {
        /// The driver's name.
        name: String,
        /// Its version.
        have: u64,
        /// The least that works.
        least: u64,
        /// The same as people call it; may be empty.
        least_name: String,
        /// How to get a newer one; may be empty.
        fix: String,
    },
    /// It works and sees nothing.
    #[error("the {name} sees no device")]
    NoDevice {
        /// The driver's name.
        name: String,
        /// Its version.
        version: u64,
    },
    /// One of its functions failed.
    #[error("the {name} does not work: {call} answers {code}")]
    Failed {
        /// The driver's name.
        name: String,
        /// Which function.
        call: String,
        /// Its answer.
        code: i64,
        /// Its version, if it got as far as telling it.
        version: Option<u64>,
        /// How to get another; may be empty.
        fix: String,
    },
}

fn least_words(least: &u64, name: &str) -> String {
    if name.is_empty() {
        least.to_string()
    } else {
        format!("{least} ({name})")
    }
}

type Version = unsafe extern "C" fn(*mut c_int) -> c_int;
type Init = unsafe extern "C" fn(c_uint) -> c_int;

/// Loads the driver's library and asks for its version, then starts it and counts its devices.
///
/// # Errors
/// [`DriverError`]. A driver that crashes or hangs takes the process with it.
pub fn ask_driver(floor: &DriverFloor) -> Result<DriverAnswer, DriverError> {
    let driver = Driver::load(floor)?;
    let version = driver.number(&floor.symbol, None)?;
    let version = u64::try_from(version).map_err(|_| driver.failed(&floor.symbol, version, None))?;
    if version < floor.least {
        return Err(driver.too_old(version));
    }
    if !floor.init.is_empty() {
        let init: Symbol<'_, Init> = driver.symbol(&floor.init)?;
        // SAFETY: the manifest promises this signature; the driver's own code runs.
        driver.answered(&floor.init, unsafe { init(0) }, Some(version))?;
    }
    if floor.count.is_empty() {
        return Ok(DriverAnswer { version, devices: None });
    }
    match driver.number(&floor.count, Some(version))? {
        devices @ 1.. => Ok(DriverAnswer { version, devices: Some(devices.unsigned_abs()) }),
        _ => Err(driver.no_device(version)),
    }
}

struct Driver<'a> {
    library: &'static Library,
    floor: &'a DriverFloor,
}

impl<'a> Driver<'a> {
    /// Stays in the process: drivers have threads.
    fn load(floor: &'a DriverFloor) -> Result<Self, DriverError> {
        // SAFETY: the driver's initialisers run; the caller chose to ask it.
        let library = unsafe { Library::new(&floor.library) };
        let library = library.map_err(|error| DriverError::Missing {
            name: floor.name.clone(),
            library: floor.library.clone(),
            why: super::open::chain(&error),
            fix: floor.fix.clone(),
        })?;
        Ok(Driver { library: Box::leak(Box::new(library)), floor })
    }

    fn symbol<T>(&self, symbol: &str) -> Result<Symbol<'_, T>, DriverError> {
        // SAFETY: the manifest promises the signature of the symbol it names.
        let found = unsafe { self.library.get(symbol.as_bytes()) };
        found.map_err(|_| DriverError::NoSymbol {
            name: self.floor.name.clone(),
            library: self.floor.library.clone(),
            symbol: symbol.to_owned(),
            fix: self.floor.fix.clone(),
        })
    }

    /// Calls `int f(int *)`.
    fn number(&self, symbol: &str, version: Option<u64>) -> Result<i32, DriverError> {
        let (function, mut number): (Symbol<'_, Version>, c_int) = (self.symbol(symbol)?, 0);
        // SAFETY: the manifest promises this signature; the driver's own code runs.
        let code = unsafe { function(&mut number) };
        self.answered(symbol, code, version).map(|()| number)
    }

    fn answered(&self, call: &str, code: i32, version: Option<u64>) -> Result<(), DriverError> {
        match (code, version) {
            (0, _) => Ok(()),
            (code, Some(version)) if code == self.floor.no_device => Err(self.no_device(version)),
            _ => Err(self.failed(call, code, version)),
        }
    }

    fn failed(&self, call: &str, code: i32, version: Option<u64>) -> DriverError {
        let (name, fix) = (self.floor.name.clone(), self.floor.fix.clone());
        DriverError::Failed { name, call: call.to_owned(), code: code.into(), version, fix }
    }

    fn too_old(&self, have: u64) -> DriverError {
        let DriverFloor { name, least, least_name, fix, .. } = self.floor.clone();
        DriverError::TooOld { name, have, least, least_name, fix }
    }

    fn no_device(&self, version: u64) -> DriverError {
        DriverError::NoDevice { name: self.floor.name.clone(), version }
    }
}
