//! Simulation: the real proxy core with phones, a softswitch, a store and a push service on one virtual clock.
//!
//! Stories are written with the words of `sim`; `ledger` watches every message, push and save of every run and knows
//! what must never happen. `SEED=n` runs with that seed alone.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

#[path = "../fixtures/mod.rs"]
mod fixtures;
#[path = "../random/mod.rs"]
mod random;

mod agent;
mod deliver;
mod digest;
mod ledger;
mod network;
mod options;
mod push_service;
mod request;
mod sim;
mod storage;
mod support;
mod text;
mod wake;
mod world;

mod stories;
