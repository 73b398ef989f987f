//! The server transactions that live (RFC 3261 §17.2): the machines, and what they act with.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;

use super::allowance::{Allowances, Taken};
use super::common::{Common, Owner};
use super::invite_server::{self, InviteServer};
use super::key::TransactionKey;
use super::non_invite_server::{self, NonInviteServer};
use super::slab::Slab;
use super::timer::{OwnNumbers, Timer};
use super::{Event, SendTag, ServerId};
use crate::sip::{Destination, Flow, Message};

/// What a server machine wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Send the user's response, and keep it.
    Respond,
    /// Send the last response again.
    Repeat,
    /// Hand the ACK to the user.
    PassAck,
    Start(Timer),
    /// Start it for twice as long as the last time.
    Double(Timer),
    Stop(Timer),
    End,
}

#[derive(Debug)]
pub(super) struct Servers {
    entries: Slab<Server>,
    index: HashMap<TransactionKey, ServerId, OwnNumbers>,
    /// INVITEs whose client is not where its Via says: it may say otherwise next time.
    loose: HashMap<TransactionKey, ServerId, OwnNumbers>,
    loose_keys: HashMap<ServerId, TransactionKey, OwnNumbers>,
    allowances: Allowances,
    /// Of those that have taken something of an allowance.
    untrusted: usize,
}

/// What a transaction begins with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beginning {
    pub(super) is_invite: bool,
    /// Where its responses go.
    pub(super) destination: Destination,
    /// The client's address may be another's.
    pub(super) is_unproven: bool,
    /// Of its source's allowance.
    pub(super) taken: Option<Taken>,
    /// Of an INVITE whose client is not where its Via says.
    pub(super) loose: Option<TransactionKey>,
}

#[derive(Debug)]
pub(super) struct Server {
    key: TransactionKey,
    destination: Destination,
    /// The last one sent; empty before the first.
    response: Bytes,
    machine: Machine,
    doublings: u8,
    /// The connection that the request came by is gone, and `destination` is what its Via says instead.
    fell_back: bool,
    is_unproven: bool,
    taken: Option<Taken>,
}

#[derive(Debug)]
enum Machine {
    Invite(InviteServer),
    NonInvite(NonInviteServer),
}

/// An input of either machine.
#[derive(Debug, Clone, Copy)]
pub(super) enum Input {
    /// The request once more.
    Request,
    Ack,
    /// The user's, with its status.
    Response(u16),
    Expired(Timer),
    TransportError,
}

/// What came of an input.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) event: Option<Event>,
    /// The input was an ACK that the user is to have.
    pub(super) passes_ack: bool,
}

impl Servers {
    pub(super) fn new() -> Self {
        let (index, loose, loose_keys) = (HashMap::default(), HashMap::default(), HashMap::default());
        Self { entries: Slab::new(), index, loose, loose_keys, allowances: Allowances::default(), untrusted: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Those of sources that are not trusted.
    pub(super) fn untrusted(&self) -> usize {
        self.untrusted
    }

    pub(super) fn find(&self, key: TransactionKey) -> Option<ServerId> {
        self.index.get(&key).copied()
    }

    /// Whether [`Servers::find_loose`] may find anything.
    pub(super) fn has_loose(&self) -> bool {
        !self.loose.is_empty()
    }

    /// The INVITE that came from this address.
    pub(super) fn find_loose(&self, key: TransactionKey, peer: IpAddr) -> Option<ServerId> {
        let id = self.loose.get(&key).copied()?;
        self.entries.get(id.0).filter(|server| server.destination.remote().ip() == peer).map(|_| id)
    }

    /// Whether the source may have so much more kept.
    pub(super) fn has_room(&self, taken: Taken, bytes_max: usize) -> bool {
        self.allowances.has_room(taken, bytes_max)
    }

    /// `None` when there are no more ids.
    pub(super) fn start(&mut self, key: TransactionKey, beginning: Beginning) -> Option<ServerId> {
        let Beginning { is_invite, destination, is_unproven, taken, loose } = beginning;
        let machine = if is_invite {
            Machine::Invite(InviteServer::Proceeding)
        } else {
            Machine::NonInvite(NonInviteServer::Trying)
        };
        let server = Server {
            key,
            destination,
            response: Bytes::new(),
            machine,
            doublings: 0,
            fell_back: false,
            is_unproven,
            taken,
        };
        let id = ServerId(self.entries.insert(server)?);
        self.index.insert(key, id);
        if let Some(loose) = loose {
            self.loose.insert(loose, id);
            self.loose_keys.insert(id, loose);
        }
        if let Some(taken) = taken {
            self.allowances.take(taken);
            self.untrusted += 1;
        }
        Some(id)
    }

    /// `response` goes with [`Input::Response`].
    pub(super) fn receive(
        &mut self,
        id: ServerId,
        input: Input,
        response: Bytes,
        common: &mut Common,
        now: Instant,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(server) = self.entries.get_mut(id.0) else { return outcome };
        let mut response = Some(response);
        for action in server.machine.receive(input) {
            match *action {
                Action::Respond => {
                    server.response = response.take().unwrap_or_default();
                    server.repeat(id, common);
                }
                Action::Repeat => server.repeat(id, common),
                Action::PassAck => outcome.passes_ack = true,
                Action::Start(timer) => server.start(id, timer, 0, common, now),
                Action::Double(timer) => server.start(id, timer, server.doublings.saturating_add(1), common, now),
                Action::Stop(timer) => common.stop(Owner::Server(id), timer),
                Action::End => outcome.event = Some(Event::ServerEnded { server: id }),
            }
        }
        if outcome.event.is_some() {
            self.remove(id);
        }
        outcome
    }

    /// A response sent before (`fell_back` false) or after the fallback was taken could not be sent.
    ///
    /// RFC 3261 §18.2.2: where the connection is gone, the response goes to the address in the Via.
    pub(super) fn send_failed(
        &mut self,
        id: ServerId,
        fell_back: bool,
        common: &mut Common,
        now: Instant,
    ) -> Option<Event> {
        let server = self.entries.get_mut(id.0).filter(|server| server.fell_back == fell_back)?;
        if let Some(fallback) = server.fallback() {
            server.destination = fallback;
            server.fell_back = true;
            server.repeat(id, common);
            return None;
        }
        self.receive(id, Input::TransportError, Bytes::new(), common, now).event
    }

    /// From here on its responses go there.
    pub(super) fn redirect(&mut self, id: ServerId, destination: Destination) {
        if let Some(server) = self.entries.get_mut(id.0) {
            (server.destination, server.fell_back) = (destination, false);
        }
    }

    pub(super) fn destination(&self, id: ServerId) -> Option<Destination> {
        self.entries.get(id.0).map(|server| server.destination)
    }

    /// The last response once more, if there is one.
    pub(super) fn repeat(&self, id: ServerId, common: &mut Common) {
        if let Some(server) = self.entries.get(id.0).filter(|server| !server.response.is_empty()) {
            server.repeat(id, common);
        }
    }

    /// Whether an INVITE has its final response.
    pub(super) fn is_answered(&self, id: ServerId) -> bool {
        let machine = self.entries.get(id.0).map(|server| &server.machine);
        machine.is_some_and(|machine| !matches!(machine, Machine::Invite(InviteServer::Proceeding)))
    }

    /// The last response sent.
    pub(super) fn last_response(&self, id: ServerId) -> Option<Bytes> {
        self.entries.get(id.0).map(|server| server.response.clone())
    }

    /// Ends a transaction that is Proceeding and so has no timers: nothing is answered any more.
    pub(super) fn abandon(&mut self, id: ServerId) {
        self.remove(id);
    }

    /// The machine has ended, and stopped its timers.
    fn remove(&mut self, id: ServerId) {
        if let Some(server) = self.entries.remove(id.0) {
            self.index.remove(&server.key);
            if let Some(loose) = self.loose_keys.remove(&id)
                && self.loose.get(&loose) == Some(&id)
            {
                self.loose.remove(&loose);
            }
            if let Some(taken) = server.taken {
                self.allowances.give_back(taken);
                self.untrusted -= 1;
            }
        }
    }
}

impl Server {
    fn repeat(&self, id: ServerId, common: &mut Common) {
        common.send(self.destination, self.response.clone(), SendTag::server(id, self.fell_back));
    }

    fn start(&mut self, id: ServerId, timer: Timer, doublings: u8, common: &mut Common, now: Instant) {
        self.doublings = doublings;
        // Differs from RFC 3261 §17.2.1: a final response is not repeated (Timer G) to a client that may not be where its
        // request says, because anybody could have eleven of them sent to somebody else by one datagram. A client
        // that has heard nothing repeats its request and gets it then; one that has heard our 100 waits in vain if it is lost.
        let reliable = self.destination.transport().is_reliable() || timer == Timer::G && self.is_unproven;
        common.start(Owner::Server(id), timer, reliable, doublings, now);
    }

    /// The other way to the client, if it is not the one already taken. The response has the request's Via on top.
    fn fallback(&self) -> Option<Destination> {
        let Destination::Flow(Flow { transport, listener, .. }) = self.destination else { return None };
        if !transport.is_reliable() {
            return None;
        }
        let response = Message::parse(self.response.clone(), usize::MAX).ok()?;
        Some(Destination::Address { transport, listener, remote: response.top_via()?.response_address()? })
    }
}

/// Where responses to `request`, which came by `flow`, are sent (RFC 3261 §18.2.2, RFC 3581 §4): back by the flow; but
/// over UDP without `rport` to the port in the Via.
///
/// Differs from RFC 3261 §18.2.2: `maddr` is not followed, because anyone could have us send to anybody by it.
pub fn reply_destination(request: &Message, flow: Flow) -> Destination {
    let Some(via) = request.top_via().filter(|via| !flow.transport.is_reliable() && via.param("rport").is_none())
    else {
        return Destination::Flow(flow);
    };
    let remote = SocketAddr::new(flow.remote.ip(), via.port.unwrap_or(5060));
    if remote == flow.remote {
        return Destination::Flow(flow);
    }
    Destination::Address { transport: flow.transport, listener: flow.listener, remote }
}

impl Machine {
    fn receive(&mut self, input: Input) -> &'static [Action] {
        match self {
            Self::Invite(machine) => machine.receive(match input {
                Input::Request => invite_server::Input::Invite,
                Input::Ack => invite_server::Input::Ack,
                Input::Response(..200) => invite_server::Input::Provisional,
                Input::Response(200..300) => invite_server::Input::Success,
                Input::Response(300..) => invite_server::Input::Failure,
                Input::Expired(timer) => invite_server::Input::Expired(timer),
                Input::TransportError => invite_server::Input::TransportError,
            }),
            Self::NonInvite(machine) => machine.receive(match input {
                Input::Request => non_invite_server::Input::Request,
                Input::Response(..200) => non_invite_server::Input::Provisional,
                Input::Response(200..) => non_invite_server::Input::Final,
                Input::Expired(timer) => non_invite_server::Input::Expired(timer),
                Input::TransportError => non_invite_server::Input::TransportError,
                // An ACK matches an INVITE only.
                Input::Ack => return &[],
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_goes_back_with_its_transaction() {
        let mut servers = Servers::new();
        let source = crate::guard::Source::of([192, 0, 2, 1].into());
        let destination = Destination::Flow(super::super::test_support::flow(crate::sip::Transport::Udp));
        let taken = Some(Taken { source, bytes: 700 });
        let beginning = Beginning { is_invite: false, destination, is_unproven: true, taken, loose: None };
        let key = super::super::key::Keys::new(1).server(&super::super::test_support::request("OPTIONS", "1"));
        let id = servers.start(key, beginning).unwrap();
        assert!(!servers.allowances.is_empty() && servers.untrusted() == 1);
        servers.abandon(id);
        assert!(servers.allowances.is_empty() && servers.untrusted() == 0);
    }

    /// A held call has one of these for as long as it waits.
    #[test]
    fn a_server_transaction_is_small() {
        assert!(size_of::<Server>() <= 128, "{}", size_of::<Server>());
    }
}
