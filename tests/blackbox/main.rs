//! The real server on loopback: raw bytes over real sockets, the push services' doubles over real HTTP.
//!
//! Deadlines but no sleeps, port 0 everywhere; each test has a server of its own. `STORE=redis` runs them all with a
//! redis-server for each, otherwise the embedded store is under test.

#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

mod admin;
mod cable;
#[expect(clippy::unwrap_used, reason = "as the tests of pushes have it")]
#[path = "../push/front.rs"]
mod front;
mod page;
mod peer;
mod phone;
mod program;
#[expect(dead_code, clippy::unwrap_used, reason = "as the tests of the store have it, for all that they need")]
#[path = "../store/server.rs"]
mod redis_server;
mod sip;
mod switch;
mod world;

mod aliases;
mod bad_input;
mod centrifuge;
mod check;
mod crash;
mod devices;
mod doors;
mod events;
mod flows;
mod gateways;
mod held_call;
mod hep;
#[path = "../kamailio/mod.rs"]
mod kamailio;
mod load;
mod logs;
mod moving;
mod nodes;
mod openapi;
mod provider_answers;
mod redis;
mod refresh;
mod registration;
mod reload;
mod reminders;
#[path = "../sipp/mod.rs"]
mod sipp;
mod sipvicious;
mod sleeping_phone;
mod spans;
mod stories;
mod strangers;
mod subscriptions;
mod systemd;
mod test_push;
mod tokens;
mod usedesk;
mod why;
mod without_google;
mod workers;
