//! What comes with a package and is made from the arguments: completions of shells, man pages.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Arguments, COULD_NOT, complain, print};

/// Prints the completions of `shell`.
pub fn completions(shell: Shell) -> ExitCode {
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    // By way of memory, because a closed pipe is no fault.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    print(String::from_utf8_lossy(&text));
    ExitCode::SUCCESS
}

/// Prints the man page, or writes those of all commands into `dir`.
pub fn man(dir: Option<&Path>) -> ExitCode {
    let done = match dir {
        Some(dir) => clap_mangen::generate_to(Arguments::command(), dir),
        None => page().map(print),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let place = dir.unwrap_or_else(|| Path::new("the page")).display();
            complain(format_args!("{place}: cannot be written: {error}"));
            ExitCode::from(COULD_NOT)
        }
    }
}

fn page() -> io::Result<String> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Arguments::command()).render(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}
