use super::*;
use crate::hardware::testing::Tree;

fn check_smi(text: &str, expected: Result<&[(&str, &str)], SmiFailure>) {
    let result = parse_smi(text);
    let seen = result
        .as_ref()
        .map(|gpus| gpus.iter().map(|gpu| (gpu.address.as_str(), gpu.name.as_str())).collect::<Vec<_>>());
    assert_eq!(seen.map_err(Clone::clone), expected.map(<[_]>::to_vec), "{text}");
}

#[test]
fn the_tool_lists_gpus() {
    let text = "00000000:01:00.0, 580.95.05, 24576, NVIDIA GeForce RTX 3090\n\
                00000001:C1:00.0, 580.95.05, [N/A], NVIDIA GB10\n";
    check_smi(text, Ok(&[("0000:01:00.0", "NVIDIA GeForce RTX 3090"), ("0001:c1:00.0", "NVIDIA GB10")]));
    let memory: Vec<_> = parse_smi(text).expect("two").iter().map(|gpu| gpu.memory_bytes).collect();
    assert_eq!(memory, [Some(24 << 30), None]);
    // A notice above the lines does not hide them.
    check_smi(
        &format!(
            "WARNING: infoROM is corrupted at gpu 0000:01:00.0\n{}",
            text.lines().next().expect("a line")
        ),
        Ok(&[("0000:01:00.0", "NVIDIA GeForce RTX 3090")]),
    );
}

#[test]
fn the_tools_failures_are_told_apart() {
    let mismatch =
        "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.178\n";
    check_smi(mismatch, Err(SmiFailure::Mismatch { library: Some("580.178".to_owned()) }));
    let older = "Failed to initialize NVML: Driver/library version mismatch\n";
    check_smi(older, Err(SmiFailure::Mismatch { library: None }));
    let absent = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the \
                  latest NVIDIA driver is installed and running.\n\n";
    check_smi(absent, Err(SmiFailure::NotRunning));
    check_smi("Failed to initialize NVML: Unknown Error\n", Err(SmiFailure::LostAccess));
    check_smi("Failed to initialize NVML: Insufficient Permissions\n", Err(SmiFailure::NoPermission));
    check_smi(
        "Failed to initialize NVML: GPU access blocked by the operating system\n",
        Err(SmiFailure::Blocked),
    );
    check_smi("No devices were found\n", Err(SmiFailure::NoDevices));
    let lost = "Unable to determine the device handle for GPU 0000:0B:00.0: GPU is lost.  Reboot the system to recover \
                this GPU\n";
    check_smi(lost, Err(SmiFailure::LostDevice));
    check_smi(
        &format!("00000000:01:00.0, 580.95.05, 24576, NVIDIA A10\n{lost}"),
        Err(SmiFailure::LostDevice),
    );
    let library = "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA \
                   Display Driver is properly installed and present in your system.\n";
    check_smi(library, Err(SmiFailure::NoLibrary));
    check_smi("Segmentation fault\n", Err(SmiFailure::Other("Segmentation fault".to_owned())));
    check_smi("", Err(SmiFailure::Other("it wrote nothing".to_owned())));
}

#[test]
fn the_modules_version_is_read_from_both_kinds() {
    let check =
        |text: &str, expected: Option<&str>| assert_eq!(module_version(text).as_deref(), expected, "{text}");
    let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.173.02  Tue Jun 23 08:38:17 UTC 2026\n\
                  GCC version:  gcc version 14.2.0 (Ubuntu 14.2.0-4ubuntu2~24.04.1)\n";
    check(closed, Some("580.173.02"));
    let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  565.57.01  Release Build  \
                (dvs-builder@U16-A24-9-2)  Thu Oct 10 12:15:00 UTC 2024\nGCC version:  gcc version 13.3.0\n";
    check(open, Some("565.57.01"));
    let arm = "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.65.06  Release Build\n";
    check(arm, Some("580.65.06"));
    check("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64 malformed\n", None);
    check("", None);
}

#[test]
fn the_model_is_read_from_information() {
    let text = "Model: \t\t NVIDIA GeForce RTX 3090\nIRQ:   \t\t 142\nGPU UUID: \t GPU-e3f822b9-8c5f-95a5-b379-8dfdeefd7758\n\
                Video BIOS: \t 94.02.42.00.a8\nBus Type: \t PCIe\nBus Location: \t 0000:01:00.0\nDevice Minor: \t 0\n";
    assert_eq!(information_model(text).as_deref(), Some("NVIDIA GeForce RTX 3090"));
    assert_eq!(information_model("Model: \t\t Unknown\n"), None);
}

#[test]
fn gpus_show_without_the_bus() {
    let check = |tree: Tree, expected: &[(&str, &str)]| {
        let mut gpus = Vec::new();
        complete(&tree.roots(), &mut gpus);
        let seen: Vec<_> = gpus.iter().map(|gpu| (gpu.address.as_str(), gpu.name.as_str())).collect();
        assert_eq!(seen, expected);
        assert!(gpus.iter().all(|gpu| gpu.driven() && gpu.backend == Some("cuda")));
    };
    let sandbox = Tree::new().file("dev/nvidia0", "").file("dev/nvidia3", "").file("dev/nvidiactl", "");
    check(sandbox, &[("/dev/nvidia0", "NVIDIA GPU"), ("/dev/nvidia3", "NVIDIA GPU")]);
    let information =
        Tree::new().file("proc/driver/nvidia/gpus/0000:07:00.0/information", "Model: \t\t NVIDIA L4\n");
    check(information, &[("0000:07:00.0", "NVIDIA L4")]);
    let windows = Tree::new().file("dev/dxg", "").file("usr/lib/wsl/lib/libcuda.so.1", "");
    check(windows, &[("/dev/dxg", "NVIDIA GPU of the Windows host")]);
    check(Tree::new().file("dev/dxg", ""), &[]);
    let board = Tree::new().file("dev/nvhost-gpu", "");
    let board = board.file("proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0");
    check(board, &[("/dev/nvhost-gpu", "NVIDIA GPU of NVIDIA Jetson AGX Orin Developer Kit")]);
    check(Tree::new(), &[]);
}

#[test]
fn what_the_tool_tells_is_added() {
    let tree = Tree::new().pci("0000:01:00.0", "0x030000", "0x10de", "0x2204", Some("nvidia")).pci(
        "0000:05:00.0",
        "0x030000",
        "0x1002",
        "0x744c",
        Some("amdgpu"),
    );
    let mut gpus = crate::hardware::gpu::find(&tree.roots(), "linux", "x86_64");
    let told = parse_smi("00000000:01:00.0, 580.95.05, 24576, NVIDIA GeForce RTX 3090").expect("one");
    merge(&mut gpus, told.clone());
    assert_eq!((gpus.len(), gpus[0].name.as_str()), (2, "NVIDIA GeForce RTX 3090"));
    assert_eq!(
        (gpus[0].memory_bytes, gpus[0].driver_version.as_deref()),
        (Some(24 << 30), Some("580.95.05"))
    );

    let mut by_node = vec![new("/dev/nvidia0")];
    merge(&mut by_node, told);
    assert_eq!((by_node.len(), by_node[0].address.as_str()), (1, "0000:01:00.0"));
}
