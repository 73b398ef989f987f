//! The whole story on loopback, with doubles of the push services.

pub mod apns_double;
mod double;
pub mod fcm_double;

use std::process::ExitCode;

pub use double::Recorded;

/// Plays the whole story on loopback.
pub fn run() -> ExitCode {
    ExitCode::FAILURE
}
