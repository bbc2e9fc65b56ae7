"""What scripts/bench-cuda runs: built and put together in target/bench-cuda, and packed to be carried to a machine with a
GPU, which needs neither Rust nor a network.
"""
import json
import lzma
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

# Of the tree, as it lies there.
CARRIED = [
    "scripts/bench-cuda", "scripts/cuda_bench", "scripts/verify-all", "host/tests/fixtures/oracles",
    "host/tests/fixtures/llama3-gqa", "host/tests/fixtures/stories260k", "host/tests/fixtures/tales",
]
# The same kernels are in four binaries: with a window over all of them they are stored once.
WINDOW = 1 << 28
# Whose tokens have text, each of them: without text a server's first token cannot be timed.
TOKENIZER = "tokenizers/ggml-vocab-llama-bpe.gguf"


def build(root, emulated):
    """Builds everything into `stage(root)`. The real plugin is that of scripts/build-plugins."""
    to = stage(root)
    shutil.rmtree(to, ignore_errors=True)
    (to / "plugins").mkdir(parents=True)
    run(root, ["cargo", "build", "--release", "--locked", "-p", "sconce"])
    take(root / "target/release/sconce", to / "sconce")
    if emulated:
        run(root, ["scripts/emulated-gpu"])
        # The plugin before its tests: both leave a library of the same name.
        run(root, ["scripts/emulated-gpu", "cargo", "build", "--release", "--locked", "-p", "sconce-plugin-cuda"])
        take(root / "target/emulated/release/libsconce_cuda.so", to / "plugins/libsconce_cuda.so")
        cargo = ["scripts/emulated-gpu", "cargo"]
        shutil.copytree(root / "target/emulated-gpu/lib", to / "lib", symlinks=True, ignore=shutil.ignore_patterns("*.a", "stubs"))
    else:
        run(root, ["scripts/build-plugins", "cuda"])
        take(root / "target/plugins/libsconce_cuda.so", to / "plugins/libsconce_cuda.so")
        cargo = ["scripts/cuda-env", "cargo"]
    cpu = root / "target/plugins/libsconce_cpu-x86-64-v4.so"
    if not emulated and not cpu.exists():
        run(root, ["scripts/build-plugins", "x86-64-v4"])
    if cpu.exists():
        take(cpu, to / "plugins" / cpu.name)
    for name, file in executables(root, cargo).items():
        take(file, to / name)
    tokenizer = pathlib.Path(os.environ.get("SCONCE_FIXTURES", "")) / TOKENIZER
    if os.environ.get("SCONCE_FIXTURES") and tokenizer.exists():
        take(tokenizer, to / "tokenizer.gguf")
    else:
        print("without SCONCE_FIXTURES there is no tokenizer as large as the model's vocabulary: tokens mostly lack text, "
              "and first tokens are not timed through HTTP")
    print(f"built: {to}")


def stage(root):
    return root / "target/bench-cuda"


def executables(root, cargo):
    """The tests of the plugin and the measuring example, by name."""
    done = subprocess.run([*cargo, "test", "--release", "--locked", "-p", "sconce-plugin-cuda", "--no-run",
                           "--message-format", "json"], cwd=root, stdout=subprocess.PIPE, check=True)
    names = {"sconce_cuda": "unit-tests", "candle_on_device": "candle-tests", "measure-device": "measure-device"}
    found = {}
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] in names:
            found[names[message["target"]["name"]]] = pathlib.Path(message["executable"])
    missing = set(names.values()) - set(found)
    if missing:
        sys.exit(f"scripts/bench-cuda: cargo built no {', '.join(sorted(missing))}")
    return found


def take(file, to):
    shutil.copy(file, to)
    to.chmod(0o755)
    if shutil.which("strip") and to.suffix != ".gguf":
        subprocess.run(["strip", "--strip-unneeded", to], check=True)


def run(root, command):
    subprocess.run(command, cwd=root, check=True)


def pack(root, file):
    """Writes FILE, a .tar.xz of what was built, of scripts and of reference models."""
    if not (stage(root) / "sconce").exists():
        sys.exit("scripts/bench-cuda: nothing is built\n  fix: scripts/bench-cuda build")
    paths = [root / name for name in CARRIED] + [stage(root)]
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": WINDOW}]
    with lzma.open(file, "wb", filters=filters) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for path in paths:
            tar.add(path, path.relative_to(root), filter=lambda entry: None if "__pycache__" in entry.name else entry)
    size = pathlib.Path(file).stat().st_size
    print(f"{file}: {size / 2**20:.1f} MiB; unpack it with: tar -xJf {file} -C DIR, or scripts/bench-cuda unpack {file} DIR")


def unpack(file, directory):
    directory.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "r:xz") as tar:
        tar.extractall(directory, filter="data")
    print(f"unpacked; next: {directory}/scripts/bench-cuda all --out RESULTS")
