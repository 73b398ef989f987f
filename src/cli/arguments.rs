//! Commands and their arguments.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

/// Holds a SIP call while a push wakes the phone it is for.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Arguments {
    /// Configuration file [default: config.toml if it exists, else the built-in defaults]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run until SIGTERM
    Serve,
    /// Read the configuration, keys and credentials and say what is wrong
    Check {
        /// Ask softswitch, Redis and providers, too, whether they answer and take our credentials
        #[arg(long)]
        online: bool,
    },
    /// Say whether the running server lives: for probes where no HTTP client is at hand
    Health {
        /// Say whether it takes new calls
        #[arg(long)]
        ready: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Play the whole story on loopback, without network or accounts
    Demo,
    /// List bindings: the devices that can be called
    Bindings {
        /// Only those of this user (user@domain)
        aor: Option<String>,
        /// End the binding with this id
        #[arg(long, value_name = "ID", requires = "aor")]
        remove: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the sources that are shut out for a while, because they tried passwords
    Bans {
        /// Let this one in again: an address, or an IPv6 network as listed
        #[arg(long, value_name = "SOURCE")]
        remove: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the last calls, or tell one step by step
    Calls {
        /// The call's reference: its Call-ID, unless the configuration names another header
        call_ref: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the calls in the push buckets of a user's devices
    Bucket {
        /// user@domain
        aor: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say why a phone did or did not ring
    Why {
        /// A user (user@domain), or a call's reference
        #[arg(value_name = "AOR|CALL_REF")]
        what: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Have the server read its configuration again, and say what has changed
    Reload {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show each key of the configuration as it is in effect
    Settings {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what other settings of [hold] would have brought for the last calls
    Tune,
    /// Change the log's level until the next reload
    Log {
        /// error, warn, info, debug or trace, or directives such as info,sip_push_proxy::push=debug
        level: String,
    },
    /// Try whether a user's devices can be pushed: a test that nobody sees or hears
    Push {
        /// user@domain
        aor: String,
        /// Send nothing, but show what a call's push would be
        #[arg(long)]
        dry_run: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the completions of a shell
    // For those who build packages; it would only be noise to operators.
    #[command(hide = true)]
    Completions {
        /// Which shell's
        shell: Shell,
    },
    /// Print the man page
    #[command(hide = true)]
    Man {
        /// Write the pages of all commands into this folder instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}
