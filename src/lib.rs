//! sip-push-proxy: holds a SIP call while a push wakes the phone it is for.
//!
//! The way of a message:
//!
//! ```text
//! transport ─► driver ─► proxy::Proxy::handle ─► transaction ─► proxy::request ─┬─► proxy::hold ─► proxy::branches
//!    ▲           │ ▲                                                            └─► proxy::register
//!    │           │ └─ Input: Saved, Pushed, Resolved, Woken
//!    └───────────┴──── Effect: Send │ Save ─► store │ Push ─► push
//! ```
//!
//! `ARCHITECTURE.md` tells the whole.

pub mod admin;
pub mod binding;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod driver;
pub mod events;
pub mod guard;
pub mod hep;
mod listener;
pub mod logging;
pub mod metrics;
pub mod proxy;
pub mod push;
pub mod readiness;
pub mod server;
pub mod sip;
pub mod spans;
pub mod store;
pub mod summary;
pub mod timeline;
pub mod transaction;
pub mod transport;
pub mod web;
