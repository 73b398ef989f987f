//! Branches of a request: sending them, their responses, and the one that goes back (RFC 3261 §16.6-16.9).

use std::net::SocketAddr;

use bytes::Bytes;

use super::context::{Context, Purpose};
use super::event::{Contacts, Effect, ResolveTicket};
use super::held_call::{DeviceState, HeldDevice};
use super::policy::Policy;
use super::privacy::Towards;
use super::response_context::{Branch, BranchState, Hop, Reaction};
use super::route;
use super::{BUSY_RETRY_AFTER_S, Proxy, Reject, Timer, forward};
use crate::binding::DeviceId;
use crate::clock::Now;
use crate::sip::response::header;
use crate::sip::{Destination, HeaderName, Message, Transport};
use crate::transaction::{self, ClientId, SendTag, ServerId};

/// What we add to a request at most, as a rule: Via, Record-Route, Route.
const ADDED_BYTES: usize = 200;

/// What the CANCEL of a branch says when another one was answered (RFC 3326 §3.1).
pub(super) const ANSWERED_ELSEWHERE: &[u8] = b"Reason: SIP;cause=200;text=\"Call completed elsewhere\"\r\n";

impl Proxy {
    /// Adds a branch and sends it to the first of its addresses that takes it.
    pub(super) fn start_branch(&mut self, context: &mut Context, hop: Hop, now: Now) {
        let index = context.responses.start(hop);
        self.send_branch(context, index, 503, now);
    }

    /// Sends branch `index` to its next address (RFC 3263 §4.3: with a new branch). When there is none it ends as if
    /// `failure` had come.
    fn send_branch(&mut self, context: &mut Context, index: usize, failure: u16, now: Now) {
        while let Some(destination) = self.next_destination(context, index) {
            let device = context.responses.branches.get(index).and_then(|branch| branch.hop.device);
            let branch = self.branch(context, device);
            let Some(bytes) = self.branch_bytes(context, index, destination, &branch) else { continue };
            let method = context.request.method_text();
            match self.transactions.send_bytes(bytes, method, branch, destination, now.instant) {
                Ok(client) => {
                    self.clients.insert(client, (context.server, index));
                    if let Some(branch) = context.responses.branches.get_mut(index) {
                        branch.client = Some(client);
                        branch.state = BranchState::Calling;
                    }
                    if context.is_invite() {
                        self.timers.set(Timer::C(context.server, index), now.instant + self.policy.timer_c);
                    }
                    return;
                }
                Err(_) => {
                    context.responses.is_overloaded = true;
                    break;
                }
            }
        }
        context.responses.end(index, failure);
    }

    fn next_destination(&self, context: &mut Context, index: usize) -> Option<Destination> {
        let branch = context.responses.branches.get_mut(index)?;
        branch.hop.destinations.pop()
    }

    /// Writes the request of one branch.
    fn branch_bytes(
        &self,
        context: &Context,
        index: usize,
        destination: Destination,
        branch: &transaction::Branch,
    ) -> Option<Bytes> {
        let policy: &Policy = &self.policy;
        let outgoing = context.outgoing();
        let routed = route::remains(outgoing, policy, &self.keys);
        let state = context.responses.branches.get(index)?;
        let record_route = state
            .hop
            .record_route
            .map(|record_route| self.keys.write_dialog(&record_route.token(destination), outgoing.call_id()));
        let onward = forward::Onward {
            uri: state.hop.uri.as_deref(),
            routes: &state.hop.routes,
            record_route: record_route.as_deref(),
            ingress: policy.listener(context.flow.listener)?,
            egress: policy.listener(destination.listener())?,
            transport: destination.transport(),
            branch,
            towards: self.towards(state.hop.device),
        };
        Some(forward::request(outgoing, context.flow.remote, &routed, &onward))
    }

    /// The same for what goes to the softswitch, where `softswitch.uri` does not say `transport=udp`.
    pub(super) fn prefer_stream_upstream(&mut self, request: &Message, destinations: &mut Vec<Destination>, now: Now) {
        let said = self.policy.softswitch.as_ref().and_then(|softswitch| softswitch.transport);
        if said != Some(Transport::Udp) {
            self.prefer_stream(request, destinations, now);
        }
    }

    /// A stream first for what is too large for a datagram (RFC 3261 §18.1.1); the datagram stays as the way out. A
    /// device's flow is kept whatever the size, since nothing else reaches it.
    pub(super) fn prefer_stream(&mut self, request: &Message, destinations: &mut Vec<Destination>, now: Now) {
        let most = self.policy.datagram_bytes_max;
        if most == 0 || request.bytes().len() + ADDED_BYTES <= most {
            return;
        }
        let streams: Vec<_> = destinations
            .iter()
            .filter_map(|destination| match *destination {
                Destination::Address { transport: Transport::Udp, remote, .. } => {
                    let listener = self.policy.listener_for(Transport::Tcp, remote.ip())?;
                    let stream = Destination::Address { transport: Transport::Tcp, listener, remote };
                    self.streams.may_try(remote, now.instant).then_some(stream)
                }
                Destination::Address { .. } | Destination::Flow(_) => None,
            })
            .collect();
        destinations.extend(streams);
    }

    /// No connection could be opened for what has this tag.
    pub(super) fn connect_failed(&mut self, tag: SendTag, contacts: &dyn Contacts, now: Now) {
        let destination = self.transactions.destination_of(tag);
        if let Some(Destination::Address { transport: Transport::Tcp, remote, .. }) = destination {
            self.streams.failed(remote, now.instant);
        }
        self.send_failed(tag, contacts, now);
    }

    fn note_stream(&mut self, client: ClientId) {
        if self.streams.is_empty() {
            return;
        }
        let destination = self.transactions.destination(client);
        if let Some(Destination::Address { transport: Transport::Tcp, remote, .. }) = destination {
            self.streams.worked(remote);
        }
    }

    /// Adds a branch to the softswitch; its name is resolved first if it is one.
    pub(super) fn start_upstream(&mut self, context: &mut Context, hop: Hop, now: Now) {
        let Some(softswitch) = self.policy.softswitch.clone() else {
            return self.reject(context, &Reject::of(403), now);
        };
        let mut destinations = self.upstream_addresses();
        if !destinations.is_empty() {
            self.prefer_stream_upstream(context.outgoing(), &mut destinations, now);
            return self.start_branch(context, Hop { destinations, ..hop }, now);
        }
        let index = context.responses.start(hop);
        self.tickets += 1;
        let ticket = ResolveTicket(self.tickets);
        self.resolutions.insert(ticket, (context.server, index));
        self.effects.push_back(Effect::Resolve {
            ticket,
            host: softswitch.host,
            port: softswitch.port,
            transport: softswitch.transport,
        });
    }

    /// The softswitch's address, where `softswitch.uri` is numeric.
    pub(super) fn upstream_addresses(&self) -> Vec<Destination> {
        let Some(softswitch) = &self.policy.softswitch else { return Vec::new() };
        let Some(ip) = crate::sip::uri::host_ip(softswitch.host.as_bytes()) else { return Vec::new() };
        let transport = softswitch.transport.unwrap_or(Transport::Udp);
        let remote = SocketAddr::new(ip, softswitch.port.unwrap_or(5060));
        self.address(transport, remote).into_iter().collect()
    }

    pub(super) fn address(&self, transport: Transport, remote: SocketAddr) -> Option<Destination> {
        let listener = self.policy.listener_for(transport, remote.ip()).or_else(|| {
            transport.is_reliable().then(|| self.policy.listener_for(Transport::Udp, remote.ip())).flatten()
        })?;
        Some(Destination::Address { transport, listener, remote })
    }

    /// The softswitch's name was looked up.
    pub(super) fn resolved(
        &mut self,
        ticket: ResolveTicket,
        addresses: &[(Transport, SocketAddr)],
        contacts: &dyn Contacts,
        now: Now,
    ) {
        let Some((server, index)) = self.resolutions.remove(&ticket) else { return };
        // The best address is tried first, and destinations are taken from the end.
        let mut destinations: Vec<_> =
            addresses.iter().rev().filter_map(|(transport, remote)| self.address(*transport, *remote)).collect();
        self.with_context(server, |proxy, context| {
            if context.responses.is_cancelled {
                destinations.clear();
            }
            proxy.prefer_stream_upstream(context.outgoing(), &mut destinations, now);
            if let Some(branch) = context.responses.branches.get_mut(index) {
                branch.hop.destinations = destinations;
            }
            proxy.send_branch(context, index, 503, now);
            proxy.conclude(context, contacts, now);
        });
    }

    /// A response came for a branch.
    pub(super) fn branch_response(&mut self, client: ClientId, response: &Message, contacts: &dyn Contacts, now: Now) {
        let Some((server, index)) = self.clients.get(&client).copied() else { return };
        self.note_stream(client);
        self.with_context(server, |proxy, context| {
            proxy.aim_responses(context, contacts);
            if let Purpose::InDialog(_) = context.purpose {
                proxy.stop_waiting(context);
            }
            let status = response.status().unwrap_or_default();
            if status > 100 && status < 200 {
                let due = now.instant + proxy.policy.timer_c;
                proxy.timers.set(Timer::C(server, index), due);
            } else if status >= 200 {
                proxy.timers.cancel(&Timer::C(server, index));
                // A server that is overloaded or gone: its other addresses may serve (RFC 3263 §4.3).
                let has_more =
                    context.responses.branches.get(index).is_some_and(|branch| !branch.hop.destinations.is_empty());
                if status == 503 && has_more && !context.responses.is_cancelled {
                    proxy.send_branch(context, index, 503, now);
                    return proxy.conclude(context, contacts, now);
                }
            }
            if status == 423 && proxy.asks_for_more(context, index, response, contacts, now) {
                return;
            }
            let is_by_node = proxy.is_by_node(context, index);
            if is_by_node && matches!(status, 430 | 503) {
                // That node's word, not the device's: its flow is gone, or no room.
                context.responses.end(index, 503);
                if let Some(device) = context.responses.branches.get(index).and_then(|branch| branch.hop.device) {
                    proxy.device_unreachable(context, device, 503, contacts, now);
                }
                return proxy.conclude(context, contacts, now);
            }
            if status >= 300 && proxy.is_by_another(context, index, contacts) {
                // Whoever has the flow now speaks for nobody else.
                context.responses.end(index, 503);
                if let Some(device) = context.responses.branches.get(index).and_then(|branch| branch.hop.device) {
                    proxy.device_unreachable(context, device, 503, contacts, now);
                }
                return proxy.conclude(context, contacts, now);
            }
            if status >= 200 {
                proxy.ends_dialog(context, index, now);
            }
            if status > 100 || !is_by_node {
                proxy.device_answered(context, index, response, now);
            }
            match context.responses.receive(index, response, context.is_invite()) {
                Reaction::Wait => {}
                Reaction::Forward => proxy.forward_response(context, index, response, now),
                Reaction::Answer => {
                    if let Purpose::Registration(_) = context.purpose {
                        return proxy.registration_accepted(context, response, contacts, now);
                    }
                    proxy.forward_response(context, index, response, now);
                    proxy.cancel_branches(context, ANSWERED_ELSEWHERE, contacts, now);
                    proxy.call_answered(context, contacts, now);
                }
                Reaction::CancelOthers => proxy.cancel_branches(context, b"", contacts, now),
            }
            proxy.conclude(context, contacts, now);
        });
    }

    /// Whether a branch leads to its device by another node.
    fn is_by_node(&self, context: &Context, index: usize) -> bool {
        let branch = context.responses.branches.get(index);
        branch.and_then(|branch| branch.hop.flow).is_some_and(|(_, home)| home.is_some())
    }

    /// Whether a branch that has not rung went by a flow that is another device's by now.
    fn is_by_another(&self, context: &Context, index: usize, contacts: &dyn Contacts) -> bool {
        let branch = context.responses.branches.get(index).filter(|branch| branch.state == BranchState::Calling);
        let Some((device, (flow, _))) = branch.and_then(|branch| branch.hop.device.zip(branch.hop.flow)) else {
            return false;
        };
        let held = context.call().and_then(|call| call.devices.iter().find(|held| held.binding.device == device));
        held.is_some_and(|held| held.binding.flow == flow && !contacts.holds_flow(&held.binding))
    }

    fn forward_response(&mut self, context: &mut Context, index: usize, response: &Message, now: Now) {
        self.send_trying(context, now);
        let status = response.status().unwrap_or_default();
        let device = context.responses.branches.get(index).and_then(|branch| branch.hop.device);
        let mut edits = forward::response_edits(response, self.back_from(device), context.flow.transport);
        if context.hides_server {
            forward::hide_server(response, &mut edits);
        }
        self.transactions.respond(context.server, status, edits.apply(response.bytes()), now.instant);
    }

    /// Whom a request goes to that leads to this device, or to none.
    pub(super) fn towards(&self, device: Option<DeviceId>) -> Towards<'_> {
        match device {
            Some(_) => Towards::Phone,
            None => Towards::Softswitch { asserted: &self.policy.strip_headers },
        }
    }

    /// Whom the responses to it go to.
    pub(super) fn back_from(&self, device: Option<DeviceId>) -> Towards<'_> {
        match device {
            Some(_) => Towards::Softswitch { asserted: &self.policy.strip_headers },
            None => Towards::Phone,
        }
    }

    /// A branch got no final response, or could not be sent: its next address, or as if `status` had come
    /// (RFC 3261 §16.7, §16.8, §16.9).
    pub(super) fn branch_failed(&mut self, client: ClientId, status: u16, contacts: &dyn Contacts, now: Now) {
        let Some((server, index)) = self.clients.remove(&client) else { return };
        self.with_context(server, |proxy, context| {
            proxy.timers.cancel(&Timer::C(server, index));
            let Some(branch) = context.responses.branches.get_mut(index) else { return };
            if branch.client != Some(client) {
                return;
            }
            branch.client = None;
            if branch.state == BranchState::Calling && !context.responses.is_cancelled {
                proxy.send_branch(context, index, status, now);
            } else {
                context.responses.end(index, status);
            }
            let branch = context.responses.branches.get(index);
            if let Some(device) = branch.filter(|branch| branch.client.is_none()).and_then(|branch| branch.hop.device) {
                proxy.device_unreachable(context, device, status, contacts, now);
            }
            proxy.conclude(context, contacts, now);
        });
    }

    /// Timer C (RFC 3261 §16.8): a branch that was heard, were it but by a 100, is CANCELled, a silent one counts as timed
    /// out.
    pub(super) fn timer_c(&mut self, server: ServerId, index: usize, contacts: &dyn Contacts, now: Now) {
        self.with_context(server, |proxy, context| {
            let Some(branch) = context.responses.branches.get_mut(index) else { return };
            if branch.client.is_none() {
                return;
            }
            match branch.state {
                BranchState::Ringing => proxy.cancel_branch(context, index, b"", contacts, now),
                BranchState::Calling if branch.is_heard => proxy.cancel_branch(context, index, b"", contacts, now),
                BranchState::Calling => {
                    proxy.drop_branch(context, index);
                    context.responses.end(index, 408);
                }
                BranchState::Ended => {}
            }
            proxy.conclude(context, contacts, now);
        });
    }

    /// CANCELs all pending branches (RFC 3261 §16.7 step 10).
    pub(super) fn cancel_branches(&mut self, context: &mut Context, reason: &[u8], contacts: &dyn Contacts, now: Now) {
        let is_invite = context.is_invite();
        for index in 0..context.responses.branches.len() {
            let Some(branch) = context.responses.branches.get_mut(index) else { continue };
            match (branch.state, branch.client) {
                (BranchState::Ended, _) => {}
                (BranchState::Calling | BranchState::Ringing, Some(_)) if is_invite => {
                    self.cancel_branch(context, index, reason, contacts, now);
                }
                (BranchState::Calling | BranchState::Ringing, Some(_)) => {}
                (BranchState::Calling | BranchState::Ringing, None) => branch.state = BranchState::Ended,
            }
        }
    }

    /// Forgets a branch: no timer, and nothing more is heard of it.
    pub(super) fn drop_branch(&mut self, context: &mut Context, index: usize) {
        self.timers.cancel(&Timer::C(context.server, index));
        if let Some(client) = context.responses.branches.get_mut(index).and_then(|branch| branch.client.take()) {
            self.transactions.abandon(client);
            self.followers.remove_cancel(client);
            self.clients.remove(&client);
        }
    }

    /// Sends the final response if nothing better can come any more (RFC 3261 §16.7 step 5).
    pub(super) fn conclude(&mut self, context: &mut Context, contacts: &dyn Contacts, now: Now) {
        let waits = context.call().is_some_and(|call| call.is_waiting(now.instant));
        let waits = waits || context.dialog_wait().is_some_and(|wait| wait.is_open);
        let may_wait = waits && !context.responses.has_declined() && !context.responses.is_cancelled;
        if !may_wait {
            self.give_up_on_silent(context, contacts, now);
        }
        if context.responses.is_final || !context.responses.all_ended() || may_wait {
            return;
        }
        context.responses.is_final = true;
        self.aim_responses(context, contacts);
        match context.responses.best() {
            Some(best) => {
                self.note_credentials(context, best);
                let (status, bytes) = self.final_response(context, best);
                context.responses.sent = status;
                match bytes {
                    Some(bytes) => self.transactions.respond(context.server, status, bytes, now.instant),
                    None => self.respond(context, status, crate::sip::response::reason_phrase(status), &[], now),
                }
                self.call_failed(context, Some(status), contacts, now);
            }
            None => self.conclude_unanswered(context, contacts, now),
        }
    }

    /// A call that waits for nobody does not wait for branches, either, that lead to devices which have been silent and
    /// cannot be woken, nor for those that no push is for, when the wait for the others is over.
    fn give_up_on_silent(&mut self, context: &mut Context, contacts: &dyn Contacts, now: Now) {
        let Some(call) = context.call() else { return };
        let has_waited = now.instant >= call.until && call.devices.iter().any(|held| held.binding.push.is_some());
        let is_given_up =
            |held: &HeldDevice| held.state == DeviceState::Unwakeable || has_waited && held.is_only_called;
        let is_pending = |branch: &&Branch| branch.state != BranchState::Ended;
        let is_hopeless = |branch: &Branch| {
            let held = call.devices.iter().find(|held| Some(held.binding.device) == branch.hop.device);
            !branch.is_heard && held.is_some_and(is_given_up)
        };
        if context.responses.branches.iter().filter(is_pending).all(is_hopeless) {
            self.cancel_branches(context, b"", contacts, now);
        }
    }

    /// What the softswitch says of a phone's credentials.
    fn note_credentials(&mut self, context: &Context, response: &Message) {
        let is_from_phone = context.responses.branches.iter().all(|branch| branch.hop.device.is_none());
        if !is_from_phone || !matches!(response.status(), Some(401 | 403 | 407)) {
            return;
        }
        let source = context.flow.remote.ip();
        if self.guesses.is_wrong(source, &context.request, response) {
            let reason = "the softswitch refuses its credentials";
            self.guesses.failed(source, &context.request);
            self.effects.push_back(Effect::AuthFailed { source, reason });
        }
        self.guesses.challenged(source, response);
    }

    /// No branch brought a response.
    fn conclude_unanswered(&mut self, context: &mut Context, contacts: &dyn Contacts, now: Now) {
        if context.call().is_some() {
            return self.call_unanswered(context, contacts, now);
        }
        let branches = &context.responses.branches;
        let timed_out = branches.iter().any(|branch| branch.failure == Some(408));
        let to_phone = branches.iter().any(|branch| branch.hop.device.is_some()) || context.dialog_wait().is_some();
        let in_dialog = context.request.to_tag().is_some();
        match (timed_out, context.is_invite()) {
            (true, true) => self.reject(context, &Reject::of(408), now),
            // The client of a non-INVITE has timed out as well, and a 408 would only do harm (RFC 4320 §4.2).
            (true, false) => self.transactions.forget(context.server, now.instant),
            (false, _) if context.responses.is_overloaded => {
                self.reject(context, &Reject::busy(BUSY_RETRY_AFTER_S), now);
            }
            // The flow of a dialog's phone is gone (RFC 5626 §5.3).
            (false, _) if to_phone => {
                let is_flow_asked_for = in_dialog || matches!(context.purpose, Purpose::ForNode(_));
                self.reject(context, &Reject::of(if is_flow_asked_for { 430 } else { 480 }), now);
            }
            // A transport error counts as 503, and a 503 is not passed on (RFC 3261 §16.9, §16.7 step 6).
            (false, _) => self.reject(context, &Reject::of(500), now),
        }
    }

    /// The response to go back: the best one with all challenges (RFC 3261 §16.7 step 8), or `None` and 500 for a 503,
    /// which would make the softswitch stop sending to us (step 6).
    fn final_response(&self, context: &Context, best: &Message) -> (u16, Option<Bytes>) {
        let status = best.status().unwrap_or_default();
        if status == 503 {
            return (500, None);
        }
        let device = context.responses.branches.iter().find_map(|branch| branch.hop.device);
        let mut edits = forward::response_edits(best, self.back_from(device), context.flow.transport);
        if context.hides_server {
            forward::hide_server(best, &mut edits);
        }
        if matches!(status, 401 | 407) {
            for other in context.responses.other_challenges(best) {
                for name in [HeaderName::WwwAuthenticate, HeaderName::ProxyAuthenticate] {
                    for field in other.fields(name) {
                        edits.insert(best.headers_end(), |out| header(out, name.as_str(), other.slice(field.value())));
                    }
                }
            }
        }
        (status, Some(edits.apply(best.bytes())))
    }
}
