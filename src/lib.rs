//! sip-push-proxy: holds a SIP call while a push wakes the phone it is for.

pub mod admin;
pub mod binding;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod driver;
pub mod logging;
pub mod metrics;
pub mod proxy;
pub mod push;
pub mod server;
pub mod sip;
pub mod store;
pub mod timeline;
pub mod transaction;
pub mod transport;
