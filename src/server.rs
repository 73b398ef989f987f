//! To be written.

use crate::config::Config;

/// Why the server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("serving is not built in yet")]
    NotBuilt,
}

/// Serves until SIGTERM or SIGINT; builds its own runtimes and blocks.
pub fn run(config: Config) -> Result<(), StartError> {
    drop(config);
    Err(StartError::NotBuilt)
}
