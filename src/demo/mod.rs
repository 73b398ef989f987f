//! To be written.

use std::process::ExitCode;

/// Plays the whole story on loopback.
pub fn run() -> ExitCode {
    ExitCode::FAILURE
}
