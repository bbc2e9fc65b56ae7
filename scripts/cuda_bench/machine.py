"""Runs the built programs on the GPU of this machine, or on the emulated one."""
import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

TOOLKITS = ["$CUDA_HOME/lib64", "$CUDA_PATH/lib64", "/usr/local/cuda/lib64", "/opt/cuda/lib64"]


class Failed(Exception):
    """A program that did not do what it should; the text says which and why."""


class Machine:
    """Where programs lie, and the environment they run in. What they say goes to `log`."""

    def __init__(self, stage, log, seconds):
        self.stage, self.log, self.deadline = stage, log, time.monotonic() + seconds
        self.emulated = (stage / "lib").is_dir()
        libraries = [str(stage / "lib")] if self.emulated else [
            path for path in map(os.path.expandvars, TOOLKITS) if pathlib.Path(path).is_dir()][:1]
        path = os.environ.get("LD_LIBRARY_PATH")
        self.environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries + [path] * bool(path)),
                            "SCONCE_EXPECT_GPU": "1", "SCONCE_PLUGIN_DIR": str(stage / "plugins")}

    def left(self):
        """Seconds that a program may still take."""
        return max(self.deadline - time.monotonic(), 1)

    def run(self, program, *arguments, prefix=(), environment=None, answers=(0,)):
        """What the program prints; `answers` are the exit codes that are no failure."""
        path = self.stage / program
        command = [*prefix, str(path if path.exists() else program), *map(str, arguments)]
        said = f"$ {' '.join(command)}\n"
        environment = {**self.environment, **(environment or {})}
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=self.left())
        except subprocess.TimeoutExpired:
            raise Failed(f"{program} took longer than was left; give more with --seconds, or run fewer parts") from None
        if not (environment.get("SCONCE_EMULATED_GPU") or "").endswith("launches"):
            said += done.stderr
        with open(self.log, "a") as log:
            log.write(said + done.stdout + "\n")
        if done.returncode not in answers:
            end = "\n    ".join((done.stderr or done.stdout).strip().splitlines()[-8:])
            raise Failed(f"{' '.join(command)}\n  ended with {done.returncode}:\n    {end}")
        return done

    def sconce(self, *arguments):
        """The JSON that `sconce` prints."""
        return json.loads(self.run("sconce", *arguments, "--json", "--log", "warn").stdout)

    @contextlib.contextmanager
    def server(self, *arguments):
        """The address of a server that lives as long as the block, and no longer than the time left."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # It ends by itself should this script be killed.
        command = ["timeout", "-k", "5", f"{self.left():.0f}", self.stage / "sconce", "serve", "--port", port, *arguments]
        with open(self.log, "a") as log:
            log.write(f"$ {' '.join(map(str, command))}\n")
            log.flush()
            server = subprocess.Popen(list(map(str, command)), env=self.environment, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            while not is_ready(url):
                if server.poll() is not None:
                    raise Failed(f"the server ended before it was ready; {self.log} says why")
                time.sleep(0.1)
            yield url
        finally:
            server.terminate()
            server.wait()


def is_ready(url):
    try:
        return urllib.request.urlopen(url + "/ready", timeout=5).status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def described():
    """Driver and clocks of the first GPU, where nvidia-smi is."""
    if not shutil.which("nvidia-smi"):
        return "no nvidia-smi"
    query = "--query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem,power.limit"
    done = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True)
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else "nvidia-smi does not answer"


def fail(error):
    sys.exit(f"scripts/bench-cuda: {error}")
