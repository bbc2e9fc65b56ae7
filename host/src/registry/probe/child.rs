//! The probe child: does with one plugin what the host would do, where it can do no harm.

use sconce_plugin_api::loader::{DriverFloor, ask_driver, read_manifest};

use crate::cli::ProbeArgs;
use crate::error::{Error, Exit};
use crate::hardware::VENDORS;
use crate::registry::verdict::{Stage, Verdict};
use crate::registry::{Backend, Device, judge};

use super::answer::{ProbedDevice, Writer};

/// The status of a child that could not write down what it found.
pub(super) const UNWRITTEN: i32 = 97;

/// Probes, writes the answer, and ends the process in a way that runs no code of the plugin.
pub fn run(args: &ProbeArgs) -> Result<Exit, Error> {
    quiet_death();
    let written = Writer::create(&args.answer, args.nonce).and_then(|mut writer| {
        let found = probe(args, &mut writer)?;
        found.map_or_else(|verdict| writer.refused(verdict), |()| Ok(()))
    });
    match written {
        Ok(()) => end(),
        // No handler of the plugin is worth running here either, but the parent is told by the status.
        Err(_) => std::process::exit(UNWRITTEN),
    }
}

/// The outer result is that of writing, the inner one that of the plugin.
fn probe(args: &ProbeArgs, writer: &mut Writer) -> std::io::Result<Result<(), Verdict>> {
    let (backend, devices) = match open(args, writer)? {
        Ok(opened) => opened,
        Err(verdict) => return Ok(Err(verdict)),
    };
    writer.stage(Stage::Answers)?;
    writer.opened(&backend.abi, &backend.engine, &devices)?;
    for device in devices {
        writer.device(check(&backend, device, args))?;
    }
    Ok(Ok(()))
}

type Opened = (Backend, Vec<Device>);

fn open(args: &ProbeArgs, writer: &mut Writer) -> std::io::Result<Result<Opened, Verdict>> {
    let manifest = match read_manifest(&args.file) {
        Ok(manifest) => manifest,
        Err(error) => return Ok(Err(judge::manifest(&error))),
    };
    if let Some(driver) = &manifest.driver {
        writer.stage(Stage::Driver)?;
        if let Err(verdict) = preflight(driver, &manifest.id) {
            return Ok(Err(verdict));
        }
    }
    writer.stage(Stage::Open)?;
    let mut created = Ok(());
    let backend = Backend::open_in_steps(&args.file, &args.option, || created = writer.stage(Stage::Create));
    created?;
    writer.stage(Stage::Devices)?;
    Ok(backend.map_err(|e| judge::file(&e)).and_then(|backend| {
        let devices = backend.devices().map_err(|e| judge::plugin(&e))?;
        match devices.as_slice() {
            [] => Err(Verdict::NoDevice { why: "it finds no device on this machine".into() }),
            _ => Ok((backend, devices)),
        }
    }))
}

/// Asks the driver before the plugin does: is it there, is it new enough, has it devices.
fn preflight(floor: &DriverFloor, backend: &str) -> Result<(), Verdict> {
    let verdict = match ask_driver(floor) {
        Err(error) => judge::driver(floor, &error),
        Ok(answer) if answer.devices == Some(0) => {
            Verdict::NoDevice { why: format!("the {} sees no device", floor.name) }
        }
        Ok(_) => return Ok(()),
    };
    Err(match verdict {
        Verdict::NoDevice { why } => {
            Verdict::NoDevice { why: why + &choice(backend, |name| std::env::var(name).ok()) }
        }
        other => other,
    })
}

/// The variables that choose which devices a backend's driver shows, where they are set.
fn choice(backend: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let facts = VENDORS.iter().filter(|facts| facts.backend == Some(backend));
    let set = facts.flat_map(|facts| facts.visible).filter_map(|name| Some((name, value(name)?)));
    set.map(|(name, value)| format!(", with {name}={value:?}")).collect()
}

fn check(backend: &Backend, mut device: Device, args: &ProbeArgs) -> ProbedDevice {
    let mut unchecked = Vec::new();
    let verdict = if device.score == 0 {
        let why = device.why.clone().unwrap_or_else(|| "the plugin gives it a score of 0".into());
        Verdict::NoCodeForDevice { why: format!("{}: {why}", device.name) }
    } else {
        match backend.check_answers(device.index, &args.models, &args.option) {
            Ok(passed) => {
                device.quirks = passed.quirks;
                unchecked = passed.unchecked.into_iter().map(str::to_owned).collect();
                Verdict::Ok
            }
            Err(error) => judge::answers(&device, error),
        }
    };
    ProbedDevice { device, verdict, unchecked }
}

/// No core file for a crash that is expected, and no life beyond the parent's.
fn quiet_death() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        // Without these two a crash leaves a file, and a hang outlives a parent that was killed.
        let _ = setrlimit(Resource::Core, none);
    }
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}

/// A plugin's handlers at exit may hang or crash: they do not run.
fn end() -> ! {
    #[cfg(unix)]
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::exit(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hides_devices_is_named() {
        let check = |backend, set: Option<&str>, expected| {
            let value = |name: &str| set.filter(|_| name == "CUDA_VISIBLE_DEVICES").map(str::to_owned);
            assert_eq!(choice(backend, value), expected, "{backend} {set:?}");
        };
        check("cuda", None, "");
        check("cuda", Some(""), ", with CUDA_VISIBLE_DEVICES=\"\"");
        check("cuda", Some("7"), ", with CUDA_VISIBLE_DEVICES=\"7\"");
        check("other", Some(""), "");
    }
}
