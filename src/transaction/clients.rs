//! The client transactions that live (RFC 3261 §17.1): the machines, and what they act with.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use smallvec::SmallVec;

use super::common::{Common, Owner};
use super::invite_client::{self, Cancellation, InviteClient};
use super::key::TransactionKey;
use super::non_invite_client::{self, NonInviteClient};
use super::slab::Slab;
use super::timer::{OwnNumbers, Timer};
use super::{ClientId, Event, SendTag, hop};
use crate::sip::{Destination, Flow, Message};

/// What a client machine wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Send the request; once there is an ACK, that.
    Send,
    /// Make the ACK, and send it.
    Acknowledge,
    SendCancel,
    /// The request will not be sent again.
    Forget,
    /// Hand the response to the user.
    Pass,
    Start(Timer),
    /// Start it for twice as long as the last time.
    Double(Timer),
    /// Start it for the longest time that it gets by doubling.
    Slow(Timer),
    Stop(Timer),
    TimeOut,
    Fail,
    End,
}

#[derive(Debug)]
pub(super) struct Clients {
    entries: Slab<Client>,
    index: HashMap<TransactionKey, ClientId, OwnNumbers>,
    /// Those that went by a connection, by its other end.
    by_connection: HashMap<SocketAddr, SmallVec<[ClientId; 2]>>,
}

#[derive(Debug)]
pub(super) struct Client {
    key: TransactionKey,
    destination: Destination,
    /// What is sent again: the request, then the ACK.
    message: Bytes,
    /// Header lines for a CANCEL that still waits.
    cancel_lines: Box<[u8]>,
    machine: Machine,
    doublings: u8,
    /// The CANCEL of another client transaction: nobody is told what comes of it.
    is_own_cancel: bool,
}

#[derive(Debug)]
enum Machine {
    Invite(InviteClient),
    NonInvite(NonInviteClient),
}

/// An input of either machine.
#[derive(Debug, Clone, Copy)]
pub(super) enum Input {
    /// With its status.
    Response(u16),
    Cancel,
    GiveUp,
    Resend,
    Expired(Timer),
    TransportError,
}

impl Clients {
    pub(super) fn new() -> Self {
        Self { entries: Slab::new(), index: HashMap::default(), by_connection: HashMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn find(&self, key: TransactionKey) -> Option<ClientId> {
        self.index.get(&key).copied()
    }

    /// Those that went by this connection and have had no response.
    pub(super) fn unheard_on(&self, flow: Flow) -> SmallVec<[ClientId; 2]> {
        let on_connection = self.by_connection.get(&flow.remote).map(|ids| &**ids).unwrap_or_default();
        let is_unheard = |id: &ClientId| {
            self.entries.get(id.0).is_some_and(|client| {
                let went_by_it = match client.destination {
                    Destination::Flow(own) => own.connection == flow.connection,
                    Destination::Address { .. } => true,
                };
                went_by_it && client.machine.is_unheard()
            })
        };
        on_connection.iter().copied().filter(is_unheard).collect()
    }

    pub(super) fn destination(&self, id: ClientId) -> Option<Destination> {
        self.entries.get(id.0).map(|client| client.destination)
    }

    /// Sends `request` in a transaction of its own. `None` when there are no more ids.
    pub(super) fn start(
        &mut self,
        key: TransactionKey,
        request: Request,
        common: &mut Common,
        now: Instant,
    ) -> Option<ClientId> {
        let (machine, actions) = if request.is_invite {
            (Machine::Invite(InviteClient::new()), InviteClient::START)
        } else {
            (Machine::NonInvite(NonInviteClient::Trying), NonInviteClient::START)
        };
        let id = ClientId(self.entries.insert(Client {
            key,
            destination: request.destination,
            message: request.bytes,
            cancel_lines: Box::default(),
            machine,
            doublings: 0,
            is_own_cancel: request.is_own_cancel,
        })?);
        self.index.insert(key, id);
        self.note_connection(id, request.destination);
        self.perform(id, actions, None, common, now);
        Some(id)
    }

    /// `response` goes with [`Input::Response`].
    pub(super) fn receive(
        &mut self,
        id: ClientId,
        input: Input,
        response: Option<Message>,
        common: &mut Common,
        now: Instant,
    ) -> Option<Event> {
        let actions = self.entries.get_mut(id.0)?.machine.receive(input);
        self.perform(id, actions, response, common, now)
    }

    /// `input` is [`Input::Cancel`] or [`Input::GiveUp`]. Whether the CANCEL has to wait for a response.
    pub(super) fn cancel(
        &mut self,
        id: ClientId,
        input: Input,
        lines: &[u8],
        common: &mut Common,
        now: Instant,
    ) -> bool {
        let Some(client) = self.entries.get_mut(id.0) else { return false };
        let actions = client.machine.receive(input);
        let waits = client.machine.wants_cancel();
        if actions.contains(&Action::SendCancel) || waits {
            client.cancel_lines = lines.into();
        }
        self.perform(id, actions, None, common, now);
        waits
    }

    /// From here on what the transaction sends goes there.
    pub(super) fn redirect(&mut self, id: ClientId, destination: Destination) {
        let Some(client) = self.entries.get_mut(id.0) else { return };
        let before = std::mem::replace(&mut client.destination, destination);
        self.leave_connection(id, before);
        self.note_connection(id, destination);
    }

    /// The CANCEL that has been sent once more, to where the transaction goes by now. False where there is none, or where
    /// its INVITE has its final response.
    pub(super) fn cancel_again(&mut self, id: ClientId, lines: &[u8], common: &mut Common, now: Instant) -> bool {
        let Some(client) = self.entries.get_mut(id.0).filter(|client| client.machine.is_being_cancelled()) else {
            return false;
        };
        client.cancel_lines = lines.into();
        let Some((key, cancel)) = client.cancel(common) else { return false };
        if let Some(before) = self.find(key) {
            self.remove(before, common);
        }
        self.start(key, cancel, common, now);
        true
    }

    /// The request once more, if no response has come at all.
    pub(super) fn send_again(&mut self, id: ClientId, common: &mut Common) {
        if let Some(client) = self.entries.get(id.0).filter(|client| client.machine.is_unheard()) {
            client.send(id, common);
        }
    }

    fn note_connection(&mut self, id: ClientId, destination: Destination) {
        if destination.transport().is_reliable() {
            self.by_connection.entry(destination.remote()).or_default().push(id);
        }
    }

    fn leave_connection(&mut self, id: ClientId, destination: Destination) {
        if destination.transport().is_reliable()
            && let Entry::Occupied(mut entry) = self.by_connection.entry(destination.remote())
        {
            entry.get_mut().retain(|other| *other != id);
            if entry.get().is_empty() {
                entry.remove();
            }
        }
    }

    pub(super) fn resend(&mut self, id: ClientId, common: &mut Common, now: Instant) {
        // A stream has delivered the first copy, or is gone and would not deliver a second either.
        if self.entries.get(id.0).is_some_and(|client| !client.is_reliable()) {
            self.receive(id, Input::Resend, None, common, now);
        }
    }

    /// Takes the transaction out of the table, with its timers.
    pub(super) fn remove(&mut self, id: ClientId, common: &mut Common) {
        let Some(client) = self.entries.remove(id.0) else { return };
        if self.index.get(&client.key) == Some(&id) {
            self.index.remove(&client.key);
        }
        self.leave_connection(id, client.destination);
        for timer in client.machine.timers() {
            common.stop(Owner::Client(id), *timer);
        }
    }

    fn perform(
        &mut self,
        id: ClientId,
        actions: &'static [Action],
        mut response: Option<Message>,
        common: &mut Common,
        now: Instant,
    ) -> Option<Event> {
        let client = self.entries.get_mut(id.0)?;
        let is_own_cancel = client.is_own_cancel;
        let (mut event, mut cancel, mut is_over) = (None, None, false);
        for action in actions {
            match *action {
                Action::Send => client.send(id, common),
                Action::Acknowledge => client.acknowledge(id, response.as_ref(), common),
                Action::SendCancel => cancel = client.cancel(common),
                Action::Forget => client.message = Bytes::new(),
                Action::Pass => event = response.take().map(|response| Event::Response { client: id, response }),
                Action::Start(timer) => client.start(id, timer, 0, common, now),
                Action::Double(timer) => client.start(id, timer, client.doublings.saturating_add(1), common, now),
                Action::Slow(timer) => client.start(id, timer, u8::MAX, common, now),
                Action::Stop(timer) => common.stop(Owner::Client(id), timer),
                Action::TimeOut => (event, is_over) = (Some(Event::Timeout { client: id }), true),
                Action::Fail => (event, is_over) = (Some(Event::SendFailed { client: id }), true),
                Action::End => (event, is_over) = (Some(Event::ClientEnded { client: id }), true),
            }
        }
        if is_over {
            self.remove(id, common);
        }
        if let Some((key, cancel)) = cancel {
            self.start(key, cancel, common, now);
        }
        event.filter(|_| !is_own_cancel)
    }
}

/// A request to be sent in a client transaction.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) is_invite: bool,
    pub(super) is_own_cancel: bool,
    pub(super) bytes: Bytes,
    pub(super) destination: Destination,
}

impl Client {
    fn is_reliable(&self) -> bool {
        self.destination.transport().is_reliable()
    }

    fn send(&self, id: ClientId, common: &mut Common) {
        common.send(self.destination, self.message.clone(), SendTag::client(id));
    }

    /// The ACK takes the place of the INVITE, to be sent for each repetition of the response (RFC 3261 §17.1.1.2).
    fn acknowledge(&mut self, id: ClientId, response: Option<&Message>, common: &mut Common) {
        if let Some(ack) = self.request().zip(response).and_then(|(invite, response)| hop::ack(&invite, response)) {
            self.message = ack;
            self.send(id, common);
        }
    }

    /// The CANCEL goes where the INVITE went (RFC 3261 §9.1).
    fn cancel(&mut self, common: &Common) -> Option<(TransactionKey, Request)> {
        let invite = self.request()?;
        let key = common.keys.client(invite.top_via()?.branch()?, b"CANCEL");
        let bytes = hop::cancel(&invite, &std::mem::take(&mut self.cancel_lines))?;
        Some((key, Request { is_invite: false, is_own_cancel: true, bytes, destination: self.destination }))
    }

    /// The request once more in parts, which are not kept because few transactions need them.
    fn request(&self) -> Option<Message> {
        Message::parse(self.message.clone(), usize::MAX).ok()
    }

    fn start(&mut self, id: ClientId, timer: Timer, doublings: u8, common: &mut Common, now: Instant) {
        self.doublings = doublings;
        common.start(Owner::Client(id), timer, self.is_reliable(), doublings, now);
    }
}

impl Machine {
    fn receive(&mut self, input: Input) -> &'static [Action] {
        match self {
            Self::Invite(machine) => machine.receive(match input {
                Input::Response(..200) => invite_client::Input::Provisional,
                Input::Response(200..300) => invite_client::Input::Success,
                Input::Response(300..) => invite_client::Input::Failure,
                Input::Cancel => invite_client::Input::Cancel,
                Input::GiveUp => invite_client::Input::GiveUp,
                Input::Resend => invite_client::Input::Resend,
                Input::Expired(timer) => invite_client::Input::Expired(timer),
                Input::TransportError => invite_client::Input::TransportError,
            }),
            Self::NonInvite(machine) => machine.receive(match input {
                Input::Response(..200) => non_invite_client::Input::Provisional,
                Input::Response(200..) => non_invite_client::Input::Final,
                Input::Expired(timer) => non_invite_client::Input::Expired(timer),
                Input::TransportError => non_invite_client::Input::TransportError,
                // Only an INVITE is ever cancelled (RFC 3261 §9.1) or rings a phone that wakes.
                Input::Cancel | Input::GiveUp | Input::Resend => return &[],
            }),
        }
    }

    /// Whether no response has come.
    fn is_unheard(&self) -> bool {
        match self {
            Self::Invite(machine) => machine.state == invite_client::State::Calling,
            Self::NonInvite(machine) => *machine == NonInviteClient::Trying,
        }
    }

    fn is_being_cancelled(&self) -> bool {
        let is_sent = |machine: &InviteClient| {
            machine.cancellation == Cancellation::Sent && machine.state == invite_client::State::Proceeding
        };
        matches!(self, Self::Invite(machine) if is_sent(machine))
    }

    fn wants_cancel(&self) -> bool {
        matches!(self, Self::Invite(machine) if machine.cancellation == Cancellation::Wanted)
    }

    fn timers(&self) -> &'static [Timer] {
        match self {
            Self::Invite(_) => InviteClient::TIMERS,
            Self::NonInvite(_) => NonInviteClient::TIMERS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A busy proxy holds hundreds of thousands of these.
    #[test]
    fn a_client_transaction_is_small() {
        assert!(size_of::<Client>() <= 144, "{}", size_of::<Client>());
    }
}
