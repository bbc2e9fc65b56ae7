use super::*;
use crate::hardware::nvidia::SmiFailure;
use crate::hardware::system::System;
use crate::hardware::testing::Tree;

const MODULE: &str = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n";

/// A machine with a GPU on the bus, held by a driver or not.
fn bus(driver: Option<&str>) -> Tree {
    Tree::new().pci("0000:01:00.0", "0x030000", "0x10de", "0x2204", driver)
}

/// A machine on which all is well.
fn sound() -> Tree {
    bus(Some("nvidia"))
        .file("sys/module/nvidia/version", "580.95.05\n")
        .file("proc/driver/nvidia/version", MODULE)
        .file("dev/nvidia0", "")
        .file("dev/nvidiactl", "")
        .file("dev/nvidia-uvm", "")
        .file("usr/lib64/libcuda.so.580.95.05", "library")
        .link("usr/lib64/libcuda.so.1", "libcuda.so.580.95.05")
}

fn read(tree: &Tree) -> Hardware {
    let mut hardware = Hardware::read(&tree.roots());
    // The processor is this machine's.
    hardware.cpu.os_disabled.clear();
    hardware.cpu.hypervisor = false;
    hardware
}

/// `expected`: words of what is wrong and of the fix, and whether it is serious; nothing where all is well.
fn check_hardware(hardware: &Hardware, expected: Option<(&str, &str, bool)>) {
    let findings = hardware.findings();
    match (findings.as_slice(), expected) {
        ([], None) => {}
        ([finding], Some((what, fix, serious))) => {
            assert!(finding.what.contains(what), "{finding:?} lacks {what:?}");
            assert!(finding.fix.contains(fix), "{finding:?} lacks {fix:?}");
            assert_eq!(finding.serious, serious, "{finding:?}");
        }
        other => panic!("{other:?}"),
    }
}

fn check(tree: &Tree, expected: Option<(&str, &str, bool)>) {
    check_hardware(&read(tree), expected);
}

#[test]
fn a_sound_machine_has_none() {
    check(&Tree::new(), None);
    check(&sound(), None);
    // A toolkit's newer library on the user's search path fits an older driver.
    let compat = sound().file("opt/compat/libcuda.so.590.10", "").variable("LD_LIBRARY_PATH", "/opt/compat");
    check(&compat.link("opt/compat/libcuda.so.1", "libcuda.so.590.10"), None);
    check(&sound().variable("CUDA_VISIBLE_DEVICES", "0"), None);
}

#[test]
fn a_gpu_without_its_driver_is_told() {
    let release = |id: &str| bus(None).file("etc/os-release", &format!("ID={id}\n"));
    check(&bus(None), Some(("0000:01:00.0 has no kernel driver", "https://", true)));
    check(&release("ubuntu"), Some(("has no kernel driver", "sudo ubuntu-drivers install", true)));
    check(
        &release("mint\nID_LIKE=\"ubuntu debian\""),
        Some(("kernel driver", "sudo ubuntu-drivers install", true)),
    );
    check(&release("arch"), Some(("kernel driver", "sudo pacman -S nvidia-open", true)));
    check(
        &bus(None).file(".dockerenv", ""),
        Some(("kernel driver", "on the machine that runs this container", true)),
    );
    check(&bus(Some("nouveau")), Some(("held by the driver nouveau", "https://", true)));
    check(&bus(Some("vfio-pci")), Some(("virtual machines", "driverctl unset-override 0000:01:00.0", true)));
    check(
        &bus(None).file("sys/module/nvidia/version", "580.95.05\n"),
        Some(("was not accepted", "dmesg", true)),
    );
}

#[test]
fn containers_without_the_gpu_are_told_how_to_get_it() {
    let hidden = || bus(Some("nvidia")).file("sys/module/nvidia/version", "580.95.05\n");
    check(&hidden(), Some(("device nodes", "sudo nvidia-modprobe -c 0 -u", true)));
    check(
        &hidden().file(".dockerenv", ""),
        Some(("docker container was started without", "--gpus all", true)),
    );
    let podman = hidden().file("run/.containerenv", "");
    check(&podman, Some(("podman container", "--device nvidia.com/gpu=all", true)));
    let pod =
        hidden().variable("KUBERNETES_SERVICE_HOST", "10.0.0.1").variable("NVIDIA_VISIBLE_DEVICES", "void");
    check(&pod, Some(("(NVIDIA_VISIBLE_DEVICES=\"void\")", "\"nvidia.com/gpu\": 1", true)));
    check(
        &hidden().file("run/systemd/container", "lxc"),
        Some(("lxc container", "lxc config device add", true)),
    );
}

#[test]
fn a_missing_part_of_the_driver_is_named() {
    let partly = || {
        bus(Some("nvidia")).file("dev/nvidia0", "").file("dev/nvidiactl", "").file("usr/lib/libcuda.so.1", "")
    };
    check(&partly(), Some(("/dev/nvidia-uvm is missing", "sudo nvidia-modprobe", true)));
    check(&partly().file(".dockerenv", ""), Some(("/dev/nvidia-uvm is missing", "--gpus all", true)));
    let no_library =
        || bus(Some("nvidia")).file("dev/nvidia0", "").file("dev/nvidiactl", "").file("dev/nvidia-uvm", "");
    check(&no_library(), Some(("libcuda.so.1 is in none", "https://", false)));
    let capabilities = ("libcuda.so.1", "NVIDIA_DRIVER_CAPABILITIES=compute,utility", false);
    check(&no_library().file(".dockerenv", ""), Some(capabilities));
}

#[test]
fn closed_nodes_are_told_apart() {
    let with = |path: &str, access, group: Option<&str>| {
        let mut hardware = read(&sound());
        let node = hardware.nodes.iter_mut().find(|node| node.path == path).expect("a node of the tree");
        (node.access, node.group) = (access, group.map(str::to_owned));
        hardware
    };
    let denied = with("/dev/nvidia0", Access::Denied, Some("video"));
    check_hardware(
        &denied,
        Some(("may not use /dev/nvidia0: its group is video", "usermod -aG video", true)),
    );
    let mut some = with("/dev/nvidia0", Access::Blocked, None);
    some.nodes.push(Node { path: "/dev/nvidia1".to_owned(), access: Access::Granted, group: None });
    check_hardware(&some, None);
    let root = with("/dev/nvidia-uvm", Access::Denied, Some("root"));
    check_hardware(&root, Some(("may not use /dev/nvidia-uvm", "sudo chmod a+rw /dev/nvidia-uvm", true)));
    let mut blocked = with("/dev/nvidiactl", Access::Blocked, None);
    check_hardware(&blocked, Some(("refuses access to /dev/nvidiactl", "DevicePolicy", true)));
    blocked.container = Some("docker".to_owned());
    check_hardware(&blocked, Some(("refuses access to /dev/nvidiactl", "start the container anew", true)));
}

#[test]
fn versions_that_do_not_fit_are_told_without_the_tool() {
    let updated = sound().file("sys/module/nvidia/version", "580.65.06\n");
    check(&updated, Some(("driver is 580.65.06, its library is 580.95.05", "sudo reboot", true)));
}

#[test]
fn what_the_tool_said_is_told() {
    let with = |failure: SmiFailure| Hardware { driver_tool: Some(failure), ..read(&sound()) };
    let mismatch = SmiFailure::Mismatch { library: Some("580.178".to_owned()) };
    check_hardware(&with(mismatch), Some(("(580.178) are of different versions", "sudo reboot", true)));
    check_hardware(&with(SmiFailure::NotRunning), Some(("does not answer", "sudo modprobe nvidia", true)));
    check_hardware(&with(SmiFailure::LostDevice), Some(("no longer answers", "sudo reboot", true)));
    check_hardware(&with(SmiFailure::TimedOut), Some(("hangs", "dmesg", true)));
    check_hardware(
        &with(SmiFailure::Other("odd".to_owned())),
        Some(("nvidia-smi says: odd", "dmesg", false)),
    );
}

#[test]
fn gpus_off_the_bus_need_no_nodes_of_the_bus() {
    let windows = Tree::new().file("dev/dxg", "").file("usr/lib/wsl/lib/libcuda.so.1", "");
    check(&windows, None);
    let board = Tree::new().file("dev/nvhost-gpu", "").file("usr/lib/libcuda.so.1", "");
    check(&board, None);
    // A sandbox hides the bus and gives the nodes.
    let sandbox = Tree::new().file("dev/nvidia0", "").file("dev/nvidiactl", "").file("dev/nvidia-uvm", "");
    check(&sandbox.file("usr/local/nvidia/lib64/libcuda.so.1", ""), None);
}

#[test]
fn variables_that_hide_gpus_are_told() {
    let two = || sound().pci("0000:02:00.0", "0x030000", "0x10de", "0x2204", Some("nvidia"));
    let hides = |value| sound().variable("CUDA_VISIBLE_DEVICES", value);
    check(
        &hides(""),
        Some(("CUDA_VISIBLE_DEVICES=\"\" hides every NVIDIA GPU", "unset CUDA_VISIBLE_DEVICES", true)),
    );
    check(&hides("-1"), Some(("hides every", "unset", true)));
    check(&hides("NoDevFiles"), Some(("hides every", "unset", true)));
    check(&two().variable("CUDA_VISIBLE_DEVICES", "1"), Some(("shows 1 of 2 GPUs", "unset", false)));
    check(&two().variable("CUDA_VISIBLE_DEVICES", "GPU-8932f937, GPU-d1f5"), None);
    check(&two().variable("CUDA_VISIBLE_DEVICES", "0,-1,1"), Some(("shows 1 of 2", "unset", false)));
    let intel = || Tree::new().pci("0000:03:00.0", "0x030000", "0x8086", "0x56a0", Some("xe"));
    check(&intel().variable("ZE_AFFINITY_MASK", "0.1"), None);
    check(&intel().variable("ONEAPI_DEVICE_SELECTOR", "level_zero:gpu"), None);
    // No such GPU, so nothing is hidden.
    check(&Tree::new().variable("CUDA_VISIBLE_DEVICES", ""), None);
    let amd = || Tree::new().pci("0000:05:00.0", "0x030000", "0x1002", "0x744c", Some("amdgpu"));
    check(&amd().variable("HIP_VISIBLE_DEVICES", "-1"), Some(("hides every AMD GPU", "unset", false)));
}

#[test]
fn other_makers_nodes_are_told_mildly() {
    let tree =
        Tree::new().pci("0000:05:00.0", "0x030000", "0x1002", "0x744c", Some("amdgpu")).file("dev/kfd", "");
    let mut hardware = read(&tree);
    check_hardware(&hardware, None);
    (hardware.nodes[0].access, hardware.nodes[0].group) = (Access::Denied, Some("render".to_owned()));
    check_hardware(&hardware, Some(("may not use /dev/kfd", "usermod -aG render", false)));
}

#[test]
fn processors_that_could_do_more_are_told() {
    let with = |level, hypervisor, os_disabled: &[&'static str]| {
        let mut hardware = read(&Tree::new());
        (hardware.cpu.level, hardware.cpu.hypervisor) = (level, hypervisor);
        hardware.cpu.os_disabled = os_disabled.to_vec();
        hardware.system = System::default();
        hardware
    };
    check_hardware(&with("x86-64-v2", true, &[]), Some(("without AVX2", "-cpu host", false)));
    check_hardware(&with("x86-64-v2", false, &[]), None);
    check_hardware(&with("x86-64-v3", true, &[]), None);
    check_hardware(&with("aarch64", true, &[]), None);
    check_hardware(
        &with("x86-64-v2", true, &["xsave", "avx", "avx2"]),
        Some(("has avx, avx2,", "noxsave", false)),
    );
}
