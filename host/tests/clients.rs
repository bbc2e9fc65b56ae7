//! Published clients against the server. They are installed once, below the build directory; where that is
//! not possible the test says so and ends.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Server, text};

#[test]
fn the_openai_client_for_python() {
    let python = match python_with("openai") {
        Ok(python) => python,
        Err(why) => return println!("skipped: the openai client for Python cannot be installed: {why}"),
    };
    let server = Server::demo();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/openai_chat.py");
    let output = Command::new(python).arg(script).arg(&server.url).output().expect("the interpreter starts");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim_end().ends_with("done"), "{said}");
}

/// An interpreter that has a package, from an environment that is made the first time.
fn python_with(package: &str) -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-clients");
    let python = dir.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python3" });
    if !python.is_file() {
        must_run(Command::new("python3").args(["-m", "venv", text(&dir)]))?;
    }
    if must_run(Command::new(&python).args(["-c", &format!("import {package}")])).is_err() {
        must_run(Command::new(&python).args(["-m", "pip", "install", "--quiet", package]))?;
    }
    Ok(python)
}

fn must_run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim_end()))
}
