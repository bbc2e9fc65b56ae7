use super::testing::Tree;
use super::*;

/// A machine with one GPU in good order.
fn machine() -> Tree {
    Tree::new()
        .pci("0000:01:00.0", "0x030000", "0x10de", "0x2204", Some("nvidia"))
        .file("sys/module/nvidia/version", "580.95.05\n")
        .file("dev/nvidia0", "")
        .file("proc/sys/kernel/osrelease", "6.8.0-1\n")
}

#[test]
fn the_fingerprint_changes_with_what_a_probe_would_see() {
    let fingerprint = |tree: Tree| Hardware::read(&tree.roots()).fingerprint().to_owned();
    let before = fingerprint(machine());
    assert_eq!(fingerprint(machine()), before);
    let changes = [
        machine().file("sys/module/nvidia/version", "580.105.08\n"),
        machine().file("dev/nvidia-uvm", ""),
        machine().file("proc/sys/kernel/osrelease", "6.8.0-2\n"),
        machine().file("usr/lib64/libcuda.so.1", "library"),
        machine().variable("CUDA_VISIBLE_DEVICES", ""),
        machine().pci("0000:02:00.0", "0x030000", "0x1002", "0x744c", None),
    ];
    for (index, tree) in changes.into_iter().enumerate() {
        assert_ne!(fingerprint(tree), before, "change {index}");
    }
    assert_eq!(fingerprint(machine().variable("HOME", "/root").file("dev/null", "")), before);
}

#[test]
fn this_machine_is_read_quickly_and_the_same_each_time() {
    let begin = std::time::Instant::now();
    let hardware = Hardware::quick();
    println!("quick: {:?}", begin.elapsed());
    assert_eq!(hardware.fingerprint(), Hardware::quick().fingerprint());
    assert_eq!(hardware.fingerprint(), Hardware::full().fingerprint());
    let json = serde_json::to_value(&hardware).expect("plain data");
    assert_eq!(json["cpu"]["arch"], std::env::consts::ARCH);
}
