//! What the proxy does, capability by capability.

mod calls;
mod cancel;
mod chance;
mod devices;
mod dialogs;
mod forking;
mod late_wake;
mod limits;
mod local;
mod messages;
mod missed_calls;
mod options;
mod provisional;
mod push_outcomes;
mod query;
mod refresh;
mod relay;
mod routing;
mod shared_tokens;
mod time_out;
mod tokens;
mod torture;
mod transports;
mod trust;
mod unreachable;
mod unregister;
