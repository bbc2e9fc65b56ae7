//! Asking other programs what files do not tell: a GPU driver's tool, the Mac's list of hardware, the list of PCI
//! devices. Only for people who want the whole picture; a start never waits for it.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::nvidia::{self, SmiFailure};
use super::roots::Roots;
use super::vendor::Vendor;
use super::{Hardware, apple, cpu, gpu};

/// A driver that does not answer within this is as good as none; the first question after boot takes a second or two.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than any of these programs writes.
const MOST_BYTES: u64 = 1 << 20;
/// Where distributions keep the list of PCI devices.
const PCI_LISTS: [&str; 2] = ["usr/share/hwdata/pci.ids", "usr/share/misc/pci.ids"];

/// Why a program told nothing.
#[derive(Debug, PartialEq, Eq)]
enum Silence {
    Absent,
    TimedOut,
}

/// Adds to the facts what programs and lists tell.
pub fn ask(roots: &Roots, hardware: &mut Hardware) {
    hardware.cpu.cores = roots.text("proc/cpuinfo").as_deref().and_then(cpu::cores);
    name_by_list(roots, hardware);
    if hardware.gpus.iter().any(|gpu| gpu.vendor == Vendor::Nvidia) {
        ask_smi(hardware);
    }
    if hardware.system.name == "macos" {
        ask_mac(hardware);
    }
}

/// GPUs whose driver does not name them are named by the system's list.
fn name_by_list(roots: &Roots, hardware: &mut Hardware) {
    // A driver's own name has no numbers of the bus in it.
    let nameless = |gpu: &&mut gpu::Gpu| !gpu.id.is_empty() && gpu.name.ends_with(&gpu.id);
    let mut gpus = hardware.gpus.iter_mut().filter(nameless).peekable();
    if gpus.peek().is_none() {
        return;
    }
    let Some(list) = PCI_LISTS.iter().find_map(|path| roots.text(path)) else { return };
    for gpu in gpus {
        if let Some(name) = gpu::listed_name(&list, &gpu.id) {
            gpu.name = format!("{} {name}", gpu.vendor.facts().name);
        }
    }
}

fn ask_smi(hardware: &mut Hardware) {
    let ask = |program| output(program, &nvidia::SMI_ARGUMENTS, PATIENCE);
    let told = match ask("nvidia-smi") {
        Err(Silence::Absent) => ask(nvidia::SMI_PLACE),
        told => told,
    };
    match told.as_deref().map(nvidia::parse_smi) {
        Ok(Ok(gpus)) => nvidia::merge(&mut hardware.gpus, gpus),
        Ok(Err(failure)) => hardware.driver_tool = Some(failure),
        Err(Silence::TimedOut) => hardware.driver_tool = Some(SmiFailure::TimedOut),
        // Containers and small systems have the driver without its tool.
        Err(Silence::Absent) => {}
    }
}

fn ask_mac(hardware: &mut Hardware) {
    let arguments = ["SPDisplaysDataType", "-json"];
    if let Ok(text) = output("/usr/sbin/system_profiler", &arguments, PATIENCE) {
        let gpus = apple::parse_profiler(&text);
        if !gpus.is_empty() {
            hardware.gpus = gpus;
        }
    }
    if let Ok(name) = output("/usr/sbin/sysctl", &["-n", "machdep.cpu.brand_string"], PATIENCE)
        && !name.trim().is_empty()
    {
        hardware.cpu.name = name.trim().to_owned();
    }
}

/// What a program writes to its output, whatever its exit code: these tools write failures there too.
fn output(program: &str, arguments: &[&str], patience: Duration) -> Result<String, Silence> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.env("LC_ALL", "C").spawn().map_err(|_| Silence::Absent)?;
    let (send, receive) = mpsc::channel();
    let stdout = child.stdout.take().expect("the output is a pipe");
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = stdout.take(MOST_BYTES).read_to_end(&mut bytes);
        // The receiver is gone when its patience has ended.
        let _ = read.map(|_| send.send(bytes));
    });
    let bytes = receive.recv_timeout(patience);
    end(child, bytes.is_ok());
    bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).map_err(|_| Silence::TimedOut)
}

/// Takes leave of a program. One stuck in a driver does not die when told to: that is waited for by nobody.
fn end(mut child: Child, finished: bool) {
    if !finished {
        // It may have ended just now.
        let _ = child.kill();
    }
    std::thread::spawn(move || child.wait());
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::hardware::testing::Tree;

    #[test]
    fn programs_are_heard_or_given_up() {
        let run = |script, patience| output("/bin/sh", &["-c", script], Duration::from_millis(patience));
        assert_eq!(run("echo told; exit 9", 20_000).as_deref(), Ok("told\n"));
        assert_eq!(run("sleep 20", 50), Err(Silence::TimedOut));
        assert_eq!(output("/no/such/program", &[], PATIENCE), Err(Silence::Absent));
    }

    #[test]
    fn nameless_gpus_are_named_by_the_list() {
        let tree = Tree::new()
            .pci("0000:01:00.0", "0x030200", "0x10de", "0x2330", None)
            .pci("0000:02:00.0", "0x030200", "0x10de", "0xffff", None)
            .file("usr/share/misc/pci.ids", "10de  NVIDIA Corporation\n\t2330  GH100 [H100 SXM5 80GB]\n");
        let mut hardware = Hardware::read(&tree.roots());
        name_by_list(&tree.roots(), &mut hardware);
        let names: Vec<_> = hardware.gpus.iter().map(|gpu| gpu.name.as_str()).collect();
        assert_eq!(names, ["NVIDIA GH100 [H100 SXM5 80GB]", "NVIDIA GPU 10de:ffff"]);
    }
}
