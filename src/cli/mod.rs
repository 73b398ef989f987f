//! The command line: what an operator types, and the commands that do not serve.
//!
//! Exit codes: 0 done, 1 could not, 2 wrong configuration or usage.

mod arguments;
mod certificates;
mod check;
mod client;
mod files;
mod pages;
mod secrets;
mod tables;
mod tune;
mod why;

use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

pub use arguments::{Arguments, Command};
pub use check::check;
pub use client::ask;
pub use pages::{completions, man};

use crate::config::{Config, Problems, Variables};

/// The file that is read when none is named.
const STANDARD_FILE: &str = "config.toml";

/// It was tried and did not work.
pub const COULD_NOT: u8 = 1;
/// The configuration or the command is wrong.
pub const WRONG: u8 = 2;

/// The configuration in `file`, else in `config.toml` of this folder, else the built-in defaults.
pub fn load(file: Option<&Path>) -> Result<Config, Problems> {
    Config::load_with(present_file(file), variables())
}

/// The environment, as far as it is text.
fn variables() -> Variables {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn present_file(file: Option<&Path>) -> Option<&Path> {
    file.or_else(|| Some(Path::new(STANDARD_FILE)).filter(|standard| standard.exists()))
}

/// Tells all that is wrong with the configuration.
pub fn wrong(file: Option<&Path>, problems: &Problems) -> ExitCode {
    complain(problems);
    if present_file(file).is_none() {
        complain(format_args!(
            "There is no {STANDARD_FILE} here: begin with config.toml.example, or name a file with --config."
        ));
    }
    ExitCode::from(WRONG)
}

/// A line to standard error.
pub fn complain(text: impl Display) {
    // Nobody is left to be told when this fails.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Text to standard output; a closed pipe is no fault.
fn print(text: impl Display) {
    let _ = write!(std::io::stdout().lock(), "{text}");
}
