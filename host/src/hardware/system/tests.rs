use super::*;
use crate::hardware::testing::Tree;

#[test]
fn containers_are_told_by_their_marks() {
    let check =
        |tree: Tree, expected: Option<&str>| assert_eq!(container(&tree.roots()).as_deref(), expected);
    check(Tree::new(), None);
    check(Tree::new().file("proc/1/cgroup", "0::/init.scope\n"), None);
    check(Tree::new().file(".dockerenv", ""), Some("docker"));
    check(Tree::new().file("run/.containerenv", "engine=\"podman-4.9.3\"\n"), Some("podman"));
    check(
        Tree::new().file(".dockerenv", "").variable("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        Some("kubernetes"),
    );
    check(Tree::new().file("run/systemd/container", "lxc\n"), Some("lxc"));
    check(Tree::new().variable("container", "systemd-nspawn"), Some("systemd-nspawn"));
    check(
        Tree::new().file("proc/1/cgroup", "12:cpu:/docker/0f3a\n1:name=systemd:/docker/0f3a\n"),
        Some("docker"),
    );
    check(
        Tree::new().file("proc/1/cgroup", "0::/kubepods.slice/pod1/cri-containerd-1.scope\n"),
        Some("kubernetes"),
    );
    // The name of a controller is no sign.
    check(Tree::new().file("proc/1/cgroup", "3:name=docker:/\n"), None);
}

#[test]
fn libraries_are_found_with_their_versions() {
    let folder = "usr/lib/x86_64-linux-gnu";
    let tree = Tree::new()
        .file(&format!("{folder}/libcuda.so.580.95.05"), "library")
        .link(&format!("{folder}/libcuda.so.1"), "libcuda.so.580.95.05")
        .link("usr/lib64", "lib/x86_64-linux-gnu")
        .file("usr/lib/wsl/lib/libcuda.so.1", "windows")
        .file("opt/compat/libcuda.so.1", "other")
        .variable("LD_LIBRARY_PATH", "/opt/compat:relative:");
    let found = libraries(&tree.roots());
    let seen: Vec<_> = found.iter().map(|it| (it.path.as_str(), it.version.as_deref(), it.chosen)).collect();
    let expected = [
        ("/opt/compat/libcuda.so.1", None, true),
        ("/usr/lib/x86_64-linux-gnu/libcuda.so.1", Some("580.95.05"), false),
        ("/usr/lib/wsl/lib/libcuda.so.1", None, false),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn only_variables_that_matter_are_kept() {
    let tree = Tree::new().variable("HOME", "/root").variable("NVIDIA_VISIBLE_DEVICES", "all");
    let tree = tree.variable("CUDA_VISIBLE_DEVICES", "");
    let names: Vec<String> = variables(&tree.roots()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"]);
}

#[test]
fn systems_are_told_by_their_files() {
    let text = "PRETTY_NAME=\"Linux Mint 22\"\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n";
    assert_eq!(distribution(text).as_deref(), Some("linuxmint ubuntu debian"));
    assert_eq!(distribution("NAME=x\n"), None);
    let plist = "<dict>\n\t<key>ProductBuildVersion</key>\n\t<string>24D81</string>\n</dict>";
    assert_eq!(plist_value(plist, "ProductBuildVersion").as_deref(), Some("24D81"));
    assert_eq!(plist_value(plist, "ProductName"), None);
    let tree =
        Tree::new().file("sys/module/nvidia/version", "580.95.05\n").file("sys/module/amdgpu/refcnt", "0\n");
    let loaded: Vec<_> =
        drivers(&tree.roots()).into_iter().map(|driver| (driver.name, driver.version)).collect();
    assert_eq!(loaded, [("nvidia".to_owned(), Some("580.95.05".to_owned())), ("amdgpu".to_owned(), None)]);
}
