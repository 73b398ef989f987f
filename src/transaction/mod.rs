//! Transactions (RFC 3261 §17, RFC 6026): the table of those that live.
//!
//! [`Transactions`] is a value: messages, the user's wishes and the time go in; what is to be sent, events and the next
//! deadline come out. Its user is the proxy core (the "TU" of the RFC). After each call, the user takes everything from
//! [`Transactions::poll_send`]; when the deadline has come, it calls [`Transactions::expire`] until `None`.
//!
//! ```text
//!  receive_request ──► key ──► servers ──► invite_server, non_invite_server ──┐
//!  respond ──────────────────────┘                                            ├──► poll_send, poll_timeout, Event
//!  receive_response ─► key ──► clients ──► invite_client, non_invite_client ──┘
//!  send, cancel … ───────────────┘
//! ```
//!
//! The four machines are pure tables of (state, input) → (state, actions); `servers` and `clients` perform the actions.

mod allowance;
pub mod branch;
mod clients;
mod common;
mod hop;
mod invite_client;
mod invite_server;
mod key;
mod non_invite_client;
mod non_invite_server;
mod servers;
mod slab;
pub mod timer;

#[cfg(test)]
mod exchange_tests;
#[cfg(test)]
mod test_support;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use bytes::Bytes;

pub use branch::Branch;
pub use servers::reply_destination;
pub use timer::{Timer, TimerQueue};

use crate::guard::Source;
use crate::sip::uri::host_ip;
use crate::sip::{Destination, Flow, Message, Method, response};
use allowance::Taken;
use clients::Clients;
use common::{Common, Owner};
use servers::Servers;
use slab::SlabId;

/// What the operator may set.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Estimate of the round trip (RFC 3261 §17.1.1.1).
    pub t1: Duration,
    /// Longest time between two repetitions of a request or response, other than an INVITE.
    pub t2: Duration,
    /// How long a message may stay in the network.
    pub t4: Duration,
    /// Server and client transactions together.
    pub transactions_max: usize,
    /// What the requests of one source that is not trusted may come to, while they are answered and repetitions absorbed.
    pub source_bytes_max: usize,
    /// The number of the worker that owns this table; part of every branch.
    pub worker: u8,
}

impl Settings {
    /// How long it takes until Timer E has grown to T2: only then, and no later, a request that is no INVITE gets a 100
    /// (RFC 4320 §4.1).
    pub fn until_t2(&self) -> Duration {
        let first = self.t1.max(Duration::from_millis(1));
        let pauses = std::iter::successors(Some(first), |pause| Some(*pause * 2));
        pauses.take_while(|pause| *pause < self.t2).sum::<Duration>().max(first)
    }

    /// 64·T1: how long an answer is waited for, and repetitions are absorbed.
    pub fn patience(&self) -> Duration {
        self.t1.saturating_mul(64)
    }
}

/// What is known of whoever sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The softswitch, or another node.
    Trusted,
    /// It really is where its messages come from: it has a connection, or has registered from there.
    Proven,
    /// A datagram from an address that anybody may have written into it.
    Unproven,
}

/// Names a server transaction. Never used again after its [`Event::ServerEnded`]; harmless when stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(SlabId);

/// Names a client transaction. Harmless when stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(SlabId);

/// Names who sent a message, to tell them that transport failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SendTag(Sender);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Sender {
    Server { id: ServerId, fell_back: bool },
    Client { id: ClientId },
}

impl SendTag {
    fn server(id: ServerId, fell_back: bool) -> Self {
        Self(Sender::Server { id, fell_back })
    }

    fn client(id: ClientId) -> Self {
        Self(Sender::Client { id })
    }

    /// For layers that only carry it: never 0.
    pub fn to_bits(self) -> u128 {
        match self.0 {
            Sender::Client { id } => 1 << 64 | u128::from(id.0.to_bits()),
            Sender::Server { id, fell_back } => (2 + u128::from(fell_back)) << 64 | u128::from(id.0.to_bits()),
        }
    }

    /// The opposite of [`SendTag::to_bits`].
    pub fn from_bits(bits: u128) -> Option<Self> {
        let id = SlabId::from_bits(u64::try_from(bits & u128::from(u64::MAX)).ok()?);
        match bits >> 64 {
            1 => Some(Self::client(ClientId(id))),
            kind @ (2 | 3) => Some(Self::server(ServerId(id), kind == 3)),
            _ => None,
        }
    }
}

/// There are `transactions_max` transactions already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many transactions")]
pub struct Full;

/// What a request from the network is to the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// Asks for a response, in this transaction. An INVITE has got its 100.
    Request(ServerId),
    /// A repetition, or the ACK for our 300-699, or a CANCEL that came after the final response: dealt with.
    Absorbed,
    /// To be answered in its own transaction: 200 where `invite`, which has no final response yet, is there, else 481
    /// (RFC 3261 §9.2).
    Cancel { cancel: ServerId, invite: Option<ServerId> },
    /// An ACK for a 2xx, or for nothing known: to be forwarded, in no transaction.
    Ack,
    /// Too many transactions: to be answered 503 in none.
    Full,
    /// Too much is kept for its source: likewise.
    SourceFull,
}

/// What happened in a transaction.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "lives within one turn; a box would cost each response an allocation")]
pub enum Event {
    /// A provisional or final response. A 2xx to an INVITE may come again, from the same or another fork.
    Response { client: ClientId, response: Message },
    /// No final response in time; the transaction is gone.
    Timeout { client: ClientId },
    /// The request could not be sent; the transaction is gone.
    SendFailed { client: ClientId },
    /// Gone, whatever the reason.
    ServerEnded { server: ServerId },
    /// Gone after its final response.
    ClientEnded { client: ClientId },
}

/// A message to be sent. If that fails at once or later, [`Transactions::send_failed`] wants to know.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub destination: Destination,
    pub bytes: Bytes,
    pub tag: SendTag,
}

/// The live transactions of one worker.
#[derive(Debug)]
pub struct Transactions {
    common: Common,
    servers: Servers,
    clients: Clients,
    branches: u64,
    stray: u64,
}

impl Transactions {
    /// `seed` must be secret, and another one in each run: it keys the hashes and the numbers in branches.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            common: Common::new(settings, seed),
            servers: Servers::new(),
            clients: Clients::new(),
            branches: 0,
            stray: 0,
        }
    }

    /// A request from the network. A new INVITE is answered 100 at once (RFC 3261 §17.2.1). `standing` is asked for when
    /// the request is a new one.
    pub fn receive_request(
        &mut self,
        request: &Message,
        flow: Flow,
        standing: impl FnOnce() -> Standing,
        now: Instant,
    ) -> Incoming {
        let key = self.common.keys.server(request);
        let method = request.method();
        let found = self.servers.find(key).or_else(|| {
            let is_of_invite = matches!(method, Method::INVITE | Method::ACK);
            is_of_invite.then(|| self.loose_invite(request, flow)).flatten()
        });
        if method == Method::ACK {
            let passes_ack = found.is_none_or(|id| self.serve(id, servers::Input::Ack, Bytes::new(), now).passes_ack);
            return if passes_ack { Incoming::Ack } else { Incoming::Absorbed };
        }
        if let Some(id) = found {
            self.serve(id, servers::Input::Request, Bytes::new(), now);
            return Incoming::Absorbed;
        }
        let invite = || self.servers.find(self.common.keys.cancelled_invite(request));
        let cancelled =
            (method == Method::CANCEL).then(|| invite().or_else(|| self.loose_invite(request, flow))).flatten();
        let standing = standing();
        // Room is needed for the request and for forwarding it: under load, a request that could only be answered 503
        // must not take the place of one that could be served. The CANCEL of a known INVITE, one at most, always fits.
        if cancelled.is_none() && self.len().saturating_add(1) >= self.room_for(standing).max(2) {
            return Incoming::Full;
        }
        let taken = (standing != Standing::Trusted).then(|| Taken {
            source: Source::of(flow.remote.ip()),
            bytes: u32::try_from(request.bytes().len()).unwrap_or(u32::MAX),
        });
        let bytes_max = self.common.settings.source_bytes_max;
        if cancelled.is_none() && taken.is_some_and(|taken| !self.servers.has_room(taken, bytes_max)) {
            return Incoming::SourceFull;
        }
        let start = servers::Beginning {
            is_invite: method == Method::INVITE,
            destination: reply_destination(request, flow),
            is_unproven: standing == Standing::Unproven,
            taken,
            loose: (method == Method::INVITE && !is_where_it_says(request, flow))
                .then(|| self.common.keys.loose_invite(request))
                .flatten(),
        };
        let Some(id) = self.servers.start(key, start) else { return Incoming::Full };
        if method == Method::CANCEL {
            return self.receive_cancel(id, cancelled, request, flow, now);
        }
        if method == Method::INVITE {
            self.respond(id, 100, build(request, flow, 100, None), now);
        }
        Incoming::Request(id)
    }

    /// Whether a CANCEL has come for an INVITE that was not known here then; it is remembered for Timer J (RFC 3261
    /// §17.2.2).
    pub fn is_cancelled(&self, invite: &Message) -> bool {
        self.servers.find(self.common.keys.cancel_of(invite)).is_some()
    }

    /// The INVITE that a repetition, an ACK or a CANCEL is for whose client has learned its own address meanwhile, and has
    /// another sent-by now.
    ///
    /// Differs from RFC 3261 §17.2.3: the sent-by is left out where the INVITE came from another address than its Via says.
    /// Branch, Call-ID, From tag and the source are the same.
    fn loose_invite(&self, request: &Message, flow: Flow) -> Option<ServerId> {
        let key = self.servers.has_loose().then(|| self.common.keys.loose_invite(request)).flatten()?;
        self.servers.find_loose(key, flow.remote.ip())
    }

    /// How many transactions there may be when a request of this standing comes. The last quarter is for the softswitch, as
    /// long as others have a quarter, too: calls that it has us hold must not keep their phones from coming.
    fn room_for(&self, standing: Standing) -> usize {
        let all = self.common.settings.transactions_max;
        let quarter = all / 4;
        match standing {
            Standing::Proven | Standing::Unproven if self.servers.untrusted() >= quarter => all - quarter,
            Standing::Trusted | Standing::Proven | Standing::Unproven => all,
        }
    }

    /// A CANCEL that comes after the final response is answered 200 and changes nothing (RFC 3261 §9.2).
    fn receive_cancel(
        &mut self,
        cancel: ServerId,
        invite: Option<ServerId>,
        request: &Message,
        flow: Flow,
        now: Instant,
    ) -> Incoming {
        let Some(answered) = invite.filter(|id| self.servers.is_answered(*id)) else {
            return Incoming::Cancel { cancel, invite };
        };
        let answer = self.servers.last_response(answered).and_then(|bytes| Message::parse(bytes, usize::MAX).ok());
        let to_tag = answer.as_ref().and_then(Message::to_tag).and_then(|tag| std::str::from_utf8(tag).ok());
        self.respond(cancel, 200, build(request, flow, 200, to_tag), now);
        Incoming::Absorbed
    }

    /// A response from the network. `None`: a repetition, the answer to a CANCEL that was made here, or a stray, which
    /// is dropped (RFC 6026 §7.3) and counted.
    pub fn receive_response(&mut self, response: Message, now: Instant) -> Option<Event> {
        let client = self.common.keys.client_of(&response).and_then(|key| self.clients.find(key));
        let (Some(id), Some(status)) = (client, response.status()) else {
            self.stray += 1;
            return None;
        };
        self.clients.receive(id, clients::Input::Response(status), Some(response), &mut self.common, now)
    }

    /// Sends the user's response, if the transaction still wants one: before the final response anything, after a 2xx
    /// further 2xx (RFC 6026 §7.1), else nothing.
    pub fn respond(&mut self, id: ServerId, status: u16, response: Bytes, now: Instant) {
        self.serve(id, servers::Input::Response(status), response, now);
    }

    /// Takes the 100 of an INVITE back that has just come and is to be durable before its client stops repeating it
    /// ([`Transactions::trying`]). A repetition gets it all the same. Whether there was one to be taken back.
    ///
    /// Differs from RFC 3261 §17.2.1: no 100 is sent within 200 ms where the user takes longer.
    pub fn withhold(&mut self, id: ServerId) -> bool {
        let sends = &mut self.common.sends;
        sends.back().is_some_and(|send| send.tag == SendTag::server(id, false)) && sends.pop_back().is_some()
    }

    /// Sends the 100 that was withheld; nothing once another response has been sent.
    pub fn trying(&mut self, id: ServerId, now: Instant) {
        if self.servers.last_response(id).is_some_and(|response| response.starts_with(b"SIP/2.0 100 ")) {
            self.serve(id, servers::Input::Request, Bytes::new(), now);
        }
    }

    fn serve(&mut self, id: ServerId, input: servers::Input, response: Bytes, now: Instant) -> servers::Outcome {
        self.servers.receive(id, input, response, &mut self.common, now)
    }

    /// A branch for one request that is to be forwarded.
    pub fn new_branch(&mut self, loop_hash: u64) -> Branch {
        self.branches += 1;
        Branch::new(self.common.settings.worker, self.common.keys.branch_number(self.branches), loop_hash)
    }

    /// The branch with a number of the user's own choice, which must be as hard to guess, and not in use: for a request
    /// that may have to be sent again by a later run, as the same transaction.
    pub fn branch(&self, number: u64, loop_hash: u64) -> Branch {
        Branch::new(self.common.settings.worker, number, loop_hash)
    }

    /// Sends a request, which is no ACK and has `branch` in its top Via, in a client transaction.
    pub fn send(
        &mut self,
        request: Message,
        branch: Branch,
        destination: Destination,
        now: Instant,
    ) -> Result<ClientId, Full> {
        debug_assert_eq!(request.top_via().and_then(|via| via.branch()), Some(&branch.text()[..]), "top Via");
        self.send_bytes(request.bytes().clone(), request.method_text(), branch, destination, now)
    }

    /// The same for a request that its sender has written itself and need not read again.
    pub fn send_bytes(
        &mut self,
        bytes: Bytes,
        method: &[u8],
        branch: Branch,
        destination: Destination,
        now: Instant,
    ) -> Result<ClientId, Full> {
        let is_invite = Method::of(method) == Method::INVITE;
        debug_assert_ne!(Method::of(method), Method::ACK, "an ACK has no transaction (RFC 3261 §17)");
        if self.len() >= self.common.settings.transactions_max {
            return Err(Full);
        }
        let key = self.common.keys.client(&branch.text(), method);
        let request = clients::Request { is_invite, is_own_cancel: false, bytes, destination };
        self.clients.start(key, request, &mut self.common, now).ok_or(Full)
    }

    /// Cancels an INVITE (RFC 3261 §9.1): at once if a provisional response has come, else when it comes. `extra` is
    /// header lines for the CANCEL, each with its CRLF. The final response (487, as a rule) is an [`Event::Response`]
    /// as always; without one, [`Event::Timeout`] comes 64·T1 after the CANCEL.
    pub fn cancel(&mut self, id: ClientId, extra: &[u8], now: Instant) {
        self.clients.cancel(id, clients::Input::Cancel, extra, &mut self.common, now);
    }

    /// The same for an INVITE that nobody waits for any more: what has had no response is not sent again. Whether that is
    /// so: if a response comes yet, the CANCEL follows it.
    pub fn give_up(&mut self, id: ClientId, extra: &[u8], now: Instant) -> bool {
        self.clients.cancel(id, clients::Input::GiveUp, extra, &mut self.common, now)
    }

    /// Whoever has the request of a client transaction is there by now: what follows it (repetitions, a CANCEL, the ACK of
    /// 300-699) goes to `destination`.
    pub fn redirect(&mut self, id: ClientId, destination: Destination) {
        self.clients.redirect(id, destination);
    }

    /// A CANCEL that was sent before [`Transactions::redirect`] once more, with these header lines; false where none was, or
    /// none is needed any more.
    pub fn cancel_again(&mut self, id: ClientId, extra: &[u8], now: Instant) -> bool {
        self.clients.cancel_again(id, extra, &mut self.common, now)
    }

    /// A request that had no response at all once more, at once.
    pub fn send_again(&mut self, id: ClientId) {
        self.clients.send_again(id, &mut self.common);
    }

    /// Sends the CANCEL of another node's INVITE, with that node's Via on top. Nobody is told what comes of it.
    pub fn pass_cancel(&mut self, cancel: &Message, bytes: Bytes, destination: Destination, now: Instant) {
        let Some(key) =
            cancel.top_via().and_then(|via| via.branch()).map(|branch| self.common.keys.client(branch, b"CANCEL"))
        else {
            return;
        };
        if self.len() < self.common.settings.transactions_max && self.clients.find(key).is_none() {
            let request = clients::Request { is_invite: false, is_own_cancel: true, bytes, destination };
            self.clients.start(key, request, &mut self.common, now);
        }
    }

    /// Whoever waits for the responses of a server transaction is there by now.
    pub fn redirect_responses(&mut self, id: ServerId, destination: Destination) {
        self.servers.redirect(id, destination);
    }

    /// Sends its last response once more, if there is one.
    pub fn repeat_response(&mut self, id: ServerId) {
        self.servers.repeat(id, &mut self.common);
    }

    /// Where the responses of a server transaction go.
    pub fn reply_destination(&self, id: ServerId) -> Option<Destination> {
        self.servers.destination(id)
    }

    /// Where a client transaction's request goes.
    pub fn destination(&self, id: ClientId) -> Option<Destination> {
        self.clients.destination(id)
    }

    /// The server transaction whose response has this tag.
    pub fn server_of(tag: SendTag) -> Option<ServerId> {
        match tag.0 {
            Sender::Server { id, .. } => Some(id),
            Sender::Client { .. } => None,
        }
    }

    /// Where the request with this tag goes; `None` of a response, or when its transaction is gone.
    pub fn destination_of(&self, tag: SendTag) -> Option<Destination> {
        match tag.0 {
            Sender::Client { id } => self.destination(id),
            Sender::Server { .. } => None,
        }
    }

    /// Sends an INVITE again, because whoever did not hear it the first time may hear it now; not over a stream. Only
    /// while there is no response at all. Its repetitions start again from T1.
    pub fn resend(&mut self, id: ClientId, now: Instant) {
        self.clients.resend(id, &mut self.common, now);
    }

    /// Forgets a client transaction: no more repetitions, no more events; what still comes for it is stray.
    pub fn abandon(&mut self, id: ClientId) {
        self.clients.remove(id, &mut self.common);
    }

    /// Ends a server transaction without a final response, which is right for a non-INVITE that nobody answered in time
    /// (RFC 4320 §4.2). Its [`Event::ServerEnded`] comes with the next [`Transactions::expire`].
    pub fn forget(&mut self, id: ServerId, now: Instant) {
        self.common.timers.set((Owner::Server(id), Timer::J), now);
    }

    /// Forgets the server transaction of an INVITE without a final response: somebody else gives that. There is no event.
    pub fn abandon_server(&mut self, id: ServerId) {
        self.servers.abandon(id);
    }

    /// Transport could not send the message with this tag. A response is then tried once more by the address in its
    /// Via, if it was to go by a connection (RFC 3261 §18.2.2).
    pub fn send_failed(&mut self, tag: SendTag, now: Instant) -> Option<Event> {
        match tag.0 {
            Sender::Server { id, fell_back } => self.servers.send_failed(id, fell_back, &mut self.common, now),
            Sender::Client { id } => {
                self.clients.receive(id, clients::Input::TransportError, None, &mut self.common, now)
            }
        }
    }

    /// A connection has ended: the requests that went by it and have had no response, each of which is as good as not sent
    /// ([`Transactions::send_failed`]), because nobody may have read it. Those that were heard are waited for: their
    /// responses may come by another connection (RFC 3261 §18.2.2).
    pub fn unheard_on(&self, flow: Flow) -> impl Iterator<Item = SendTag> + use<> {
        self.clients.unheard_on(flow).into_iter().map(SendTag::client)
    }

    /// The next message to be sent, in the order they arose.
    pub fn poll_send(&mut self) -> Option<Outgoing> {
        self.common.sends.pop_front()
    }

    /// When [`Transactions::expire`] is to be called next.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        self.common.timers.poll_timeout()
    }

    /// Lets the timers expire whose time has come, up to one that is an event for the user. To be called until `None`.
    pub fn expire(&mut self, now: Instant) -> Option<Event> {
        loop {
            let (owner, timer) = self.common.timers.expire(now)?;
            let event = match owner {
                Owner::Server(id) => self.serve(id, servers::Input::Expired(timer), Bytes::new(), now).event,
                Owner::Client(id) => {
                    self.clients.receive(id, clients::Input::Expired(timer), None, &mut self.common, now)
                }
            };
            if event.is_some() {
                return event;
            }
        }
    }

    /// Responses so far that belonged to no transaction.
    pub fn stray(&self) -> u64 {
        self.stray
    }

    /// Server and client transactions together.
    pub fn len(&self) -> usize {
        self.servers.len() + self.clients.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whether a request came from the address and port in its Via.
fn is_where_it_says(request: &Message, flow: Flow) -> bool {
    request.top_via().is_some_and(|via| {
        host_ip(via.host) == Some(flow.remote.ip()) && via.port.unwrap_or(5060) == flow.remote.port()
    })
}

/// A response of the transaction layer's own.
fn build(request: &Message, flow: Flow, status: u16, to_tag: Option<&str>) -> Bytes {
    response::build(request, flow.remote, status, response::reason_phrase(status), to_tag, |_| {})
}
