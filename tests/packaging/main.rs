//! What is in packaging/: the Debian package and its unit, containers, and what Prometheus and Grafana are given.
//!
//! Needs cargo-deb, lintian, systemd-analyze, promtool and fail2ban; tests/run installs them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod debian;
mod deploy;
mod fail2ban;
mod monitoring;
mod promql;
mod unit;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn packaging(path: &str) -> PathBuf {
    root().join("packaging").join(path)
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Standard output and error of a command that has to succeed.
#[track_caller]
fn run(command: &mut Command) -> String {
    run_with(command, "")
}

/// As [`run`], with this as its standard input.
#[track_caller]
fn run_with(command: &mut Command, input: &str) -> String {
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run installs it"));
    // It may end before it has read all.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{told}", output.status);
    told
}
