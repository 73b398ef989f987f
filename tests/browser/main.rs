//! Pages of the real server in a real browser: headless Chromium, driven by WebDriver.
//!
//! The server, its doubles and its phones are those of `tests/blackbox`; each test has a server and a browser of its own.

#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

mod browser;

#[allow(dead_code, clippy::unwrap_used, reason = "as tests/blackbox has it, for all that its own tests need")]
#[path = "../blackbox"]
mod surroundings {
    pub(crate) mod admin;
    pub(crate) mod cable;
    pub(crate) mod page;
    pub(crate) mod peer;
    pub(crate) mod phone;
    pub(crate) mod program;
    #[path = "../store/server.rs"]
    pub(crate) mod redis_server;
    pub(crate) mod sip;
    pub(crate) mod switch;
    pub(crate) mod world;
}
use surroundings::{admin, cable, page, peer, phone, program, redis_server, sip, switch, world};

mod console;
mod harness;
mod live;
mod subscriptions;
