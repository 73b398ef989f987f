//! sip-push-proxy: arguments → configuration → log → server → exit code.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use sip_push_proxy::cli::{self, Arguments, Command};
use sip_push_proxy::{demo, logging, server};

fn main() -> ExitCode {
    let Arguments { config, command } = Arguments::parse();
    let file = config.as_deref();
    match command {
        Command::Serve => serve(file),
        Command::Check { online } => cli::check(file, online),
        Command::Demo => demo::run(),
        Command::Completions { shell } => cli::completions(shell),
        Command::Man { dir } => cli::man(dir.as_deref()),
        Command::Bans { .. }
        | Command::Bindings { .. }
        | Command::Calls { .. }
        | Command::Bucket { .. }
        | Command::Health { .. }
        | Command::Push { .. }
        | Command::Reload { .. }
        | Command::Settings { .. }
        | Command::Tune
        | Command::Log { .. }
        | Command::Why { .. } => cli::ask(file, &command),
    }
}

fn serve(file: Option<&Path>) -> ExitCode {
    let config = match cli::load(file) {
        Ok(config) => config,
        Err(problems) => return cli::wrong(file, &problems),
    };
    if let Err(error) = logging::start(&config.log) {
        cli::complain(error);
        return ExitCode::from(cli::COULD_NOT);
    }
    for note in config.notes() {
        tracing::warn!("{note}");
    }
    match server::run(config, || cli::load(file)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "cannot serve");
            ExitCode::from(cli::COULD_NOT)
        }
    }
}
