//! The store: what each change means, what a crash leaves, what a start finds (design: store).

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod away;
mod changes;
mod crash;
mod durable;
mod embedded;
mod messages;
mod nodes;
mod refreshes;
mod rows;
mod server;
mod speed;
mod stories;
mod subject;
mod table;
mod tokens;
