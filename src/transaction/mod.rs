//! Transactions (RFC 3261 §17, RFC 6026): the table of those that live, and what goes in and comes out.

pub mod branch;

use std::time::{Duration, Instant};

use bytes::Bytes;

pub use branch::Branch;

use crate::sip::{Destination, Flow, Message};

/// What the operator may set.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub t1: Duration,
    pub t2: Duration,
    pub t4: Duration,
    pub transactions_max: usize,
    pub worker: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(u32, u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(u32, u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendTag(u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many transactions")]
pub struct Full;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    Request(ServerId),
    Absorbed,
    Cancel { cancel: ServerId, invite: Option<ServerId> },
    Ack,
    Full,
}

#[derive(Debug, Clone)]
pub enum Event {
    Response { client: ClientId, response: Message },
    Timeout { client: ClientId },
    SendFailed { client: ClientId },
    ServerEnded { server: ServerId },
    ClientEnded { client: ClientId },
}

#[derive(Debug, Clone)]
pub struct Outgoing {
    pub destination: Destination,
    pub bytes: Bytes,
    pub tag: SendTag,
}

#[derive(Debug)]
pub struct Transactions {
    settings: Settings,
}

impl Transactions {
    pub fn new(settings: Settings, _seed: u64) -> Self {
        Self { settings }
    }
    pub fn receive_request(&mut self, _request: &Message, _flow: Flow, _now: Instant) -> Incoming {
        Incoming::Absorbed
    }
    pub fn receive_response(&mut self, _response: Message, _now: Instant) -> Option<Event> {
        None
    }
    pub fn respond(&mut self, _id: ServerId, _status: u16, _response: Bytes, _now: Instant) {}
    pub fn new_branch(&mut self, loop_hash: u64) -> Branch {
        Branch::new(self.settings.worker, 0, loop_hash)
    }
    pub fn send(&mut self, _: Message, _: Branch, _: Destination, _now: Instant) -> Result<ClientId, Full> {
        Err(Full)
    }
    pub fn cancel(&mut self, _id: ClientId, _extra: &[u8], _now: Instant) {}
    pub fn resend(&mut self, _id: ClientId, _now: Instant) {}
    pub fn abandon(&mut self, _id: ClientId) {}
    pub fn send_failed(&mut self, _tag: SendTag, _now: Instant) -> Option<Event> {
        None
    }
    pub fn poll_send(&mut self) -> Option<Outgoing> {
        None
    }
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        None
    }
    pub fn expire(&mut self, _now: Instant) -> Option<Event> {
        None
    }
    pub fn stray(&self) -> u64 {
        0
    }
    pub fn len(&self) -> usize {
        0
    }
    pub fn is_empty(&self) -> bool {
        true
    }
}
