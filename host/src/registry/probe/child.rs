//! The probe child: does with one plugin what the host would do, where it can do no harm.

use sconce_plugin_api::loader::{DriverFloor, ask_driver, read_manifest};

use crate::cli::ProbeArgs;
use crate::error::{Error, Exit};
use crate::registry::verdict::{Stage, Verdict};
use crate::registry::{Backend, Device, judge};

use super::answer::{ProbedDevice, Writer};

/// Probes, writes the answer, and ends the process in a way that runs no code of the plugin.
pub fn run(args: &ProbeArgs) -> Result<Exit, Error> {
    quiet_death();
    let failed = |source| Error::Output { path: args.answer.clone(), source };
    let mut writer = Writer::create(&args.answer, args.nonce).map_err(failed)?;
    if let Err(verdict) = probe(args, &mut writer) {
        writer.refused(verdict).map_err(failed)?;
    }
    end()
}

fn probe(args: &ProbeArgs, writer: &mut Writer) -> Result<(), Verdict> {
    // A line that cannot be written is missed by the parent, which says so.
    let mut stage = |stage| drop(writer.stage(stage));
    let manifest = read_manifest(&args.file).map_err(|e| judge::manifest(&e))?;
    if let Some(driver) = &manifest.driver {
        stage(Stage::Driver);
        preflight(driver)?;
    }
    stage(Stage::Open);
    let backend = Backend::open_in_steps(&args.file, &args.option, || stage(Stage::Create));
    let backend = backend.map_err(|e| judge::file(&e))?;
    stage(Stage::Devices);
    let devices = backend.devices().map_err(|e| judge::plugin(&e))?;
    if devices.is_empty() {
        return Err(Verdict::NoDevice { why: "it finds no device on this machine".into() });
    }
    stage(Stage::Answers);
    drop(writer.opened(&backend.abi, &backend.engine, &devices));
    for device in devices {
        drop(writer.device(check(&backend, device, args)));
    }
    Ok(())
}

/// Asks the driver before the plugin does: is it there, is it new enough, has it devices.
fn preflight(floor: &DriverFloor) -> Result<(), Verdict> {
    let answer = ask_driver(floor).map_err(|error| judge::driver(floor, &error))?;
    match answer.devices {
        Some(0) => Err(Verdict::NoDevice { why: format!("the {} sees no device", floor.name) }),
        _ => Ok(()),
    }
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
