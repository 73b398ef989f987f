//! Requests within a dialog: to the phone, and to the side that the phone talks with (RFC 3261 §12.2, §16.12).
//!
//! Our Record-Route carries a token that says both. It is signed together with the Call-ID, so that it leads nowhere in any
//! other dialog, and it serves a phone only on the phone's own flow.

use std::net::SocketAddr;
use std::sync::Arc;

use super::context::Context;
use super::event::Contacts;
use super::policy::transport_param;
use super::request::{Target, Way, keeps_dialog};
use super::response_context::{Hop, RecordRoute};
use super::secret::{DialogToken, FlowToken, OtherSide};
use super::{Proxy, Reject, Timer, route};
use crate::clock::Now;
use crate::sip::{Destination, Flow, HeaderName, Message, Method, NameAddr, Transport};
use crate::transaction::reply_destination;

impl Proxy {
    /// To a phone, on the flow that it registered by last; where nothing is known of it, on that of the dialog's start. One
    /// that is asleep is waited for.
    pub(super) fn forward_in_dialog(
        &mut self,
        context: &mut Context,
        token: &FlowToken,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        let binding = contacts.of_device(token.device).filter(|binding| !binding.is_token_device());
        if binding.as_ref().is_some_and(|binding| !self.is_there(binding, contacts)) {
            self.wait_in_dialog(context, token.device, contacts, now);
            if context.dialog_wait().is_none() && !context.responses.is_final {
                return self.reject(context, &Reject::of(430), now);
            }
            return self.conclude(context, contacts, now);
        }
        let way = self.way_in_dialog(&context.request, context.flow, token, contacts);
        if binding.is_some_and(|binding| binding.push.is_some()) && is_datagram(&way) {
            let due = now.instant + self.policy.hold.probe;
            self.timers.set(Timer::Probe(context.server, token.device), due);
        }
        let mut destinations = vec![way.destination];
        self.prefer_stream(&context.request, &mut destinations, now);
        let record_route = keeps_dialog(&context.request)
            .then(|| RecordRoute::ToPhone(self.dialog_with(*token, &context.request, context.flow)));
        let hop = Hop {
            uri: None,
            routes: way.routes,
            record_route,
            destinations,
            device: Some(token.device),
            flow: Some(way.flow),
        };
        self.start_branch(context, hop, now);
        self.conclude(context, contacts, now);
    }

    pub(super) fn way_in_dialog(
        &self,
        request: &Message,
        source: Flow,
        token: &FlowToken,
        contacts: &dyn Contacts,
    ) -> Way {
        match contacts.of_device(token.device).filter(|binding| !binding.is_token_device()) {
            Some(binding) => self.way_to(request, source, binding.device, (binding.flow, binding.home)),
            None => self.way_to(request, source, token.device, (token.flow, None)),
        }
    }

    /// A request within a dialog whose device was away, and has come.
    pub(super) fn forward_again(&mut self, context: &mut Context, contacts: &dyn Contacts, now: Now) {
        let policy = Arc::clone(&self.policy);
        let request = context.request.clone();
        let routed = route::preprocess(&request, &policy, &self.keys);
        match self.target(&request, &routed, context.flow, contacts) {
            Ok(Target::Flow(token)) => self.forward_in_dialog(context, &token, contacts, now),
            Ok(Target::Phones { bindings, .. }) => self.forward_to_reachable(context, &bindings, contacts, now),
            Ok(Target::Hop(_) | Target::OtherSide(_) | Target::Softswitch | Target::SoftswitchFor(_))
            | Ok(Target::Ourselves)
            | Err(_) => self.conclude(context, contacts, now),
        }
    }

    /// A BYE to a device has its final response.
    pub(super) fn ends_dialog(&mut self, context: &Context, index: usize, now: Now) {
        let device = context.responses.branches.get(index).and_then(|branch| branch.hop.device);
        if let Some(device) = device.filter(|_| context.request.method() == Method::BYE) {
            self.dialog_is_over(&context.request, device, now);
        }
    }

    /// A phone's request to whom its dialog is with.
    pub(super) fn forward_to_other_side(
        &mut self,
        context: &mut Context,
        token: &DialogToken,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        if context.request.method() == Method::BYE {
            self.dialog_is_over(&context.request, token.device, now);
        }
        let mut destinations = self.ways_to_other_side(token);
        self.prefer_stream_upstream(&context.request, &mut destinations, now);
        let hop = self.hop_from_phone(context, destinations, contacts);
        self.start_branch(context, hop, now);
        self.conclude(context, contacts, now);
    }

    /// The best last. A listener that an earlier run had may be another one, or none.
    pub(super) fn ways_to_other_side(&self, token: &DialogToken) -> Vec<Destination> {
        let is_there = |destination: &Destination| {
            let listener = self.policy.listener(destination.listener());
            listener.is_some_and(|listener| listener.transport == destination.transport())
        };
        let ways = token.other.destinations().into_iter();
        ways.filter_map(|way| if is_there(&way) { Some(way) } else { self.address(way.transport(), way.remote()) })
            .collect()
    }

    /// What a token says of a phone's dialog with the softswitch, which sent `request` by `source`.
    pub(super) fn dialog_with(&self, phone: FlowToken, request: &Message, source: Flow) -> DialogToken {
        DialogToken { device: phone.device, flow: phone.flow, other: self.other_side(request, source) }
    }

    /// Where the softswitch, which sent `request` by `source`, is to get what a phone sends it within the dialog: by its own
    /// Contact, where that names another port of the same address; else where responses go.
    ///
    /// Differs from RFC 3261 §12.2.1.1: a Contact with another address, or with a name, is not followed, because it may be
    /// the word of whoever the softswitch speaks for. The request goes back to the softswitch, with that Contact as its
    /// Request-URI.
    pub(super) fn other_side(&self, request: &Message, source: Flow) -> OtherSide {
        let by_contact = own_contact(request, source).and_then(|(transport, port)| {
            if transport == source.transport && transport.is_reliable() {
                return Some(OtherSide { flow: source, port });
            }
            let remote = SocketAddr::new(source.remote.ip(), port);
            let listener = self.policy.listener_for(transport, remote.ip())?;
            Some(OtherSide::at(Destination::Address { transport, listener, remote }))
        });
        by_contact.unwrap_or_else(|| {
            if source.transport.is_reliable() {
                let port = request.top_via().and_then(|via| via.port).unwrap_or(5060);
                OtherSide { flow: source, port }
            } else {
                OtherSide::at(reply_destination(request, source))
            }
        })
    }
}

/// Whether a phone may use a token: on the flow that the dialog began on, or on the one that its device has now.
pub(super) fn is_of_phone(token: &DialogToken, flow: Flow, contacts: &dyn Contacts) -> bool {
    let is_flow = |known: Flow| (known.transport, known.remote) == (flow.transport, flow.remote);
    is_flow(token.flow) || contacts.of_device(token.device).is_some_and(|binding| is_flow(binding.flow))
}

/// Whether a way leads to a device by what may be lost without a word.
fn is_datagram(way: &Way) -> bool {
    way.is_direct() && !way.destination.transport().is_reliable()
}

/// Transport and port of the sender's Contact, where that is surely its own word: no other has passed the request on
/// (one Via, no Record-Route), and it names the address that the request came from.
fn own_contact(request: &Message, source: Flow) -> Option<(Transport, u16)> {
    let mut vias = request.fields(HeaderName::Via).map(|field| request.slice(field.value()));
    let is_only_via = vias.next().is_some_and(|via| memchr::memchr(b',', via).is_none()) && vias.next().is_none();
    let is_first_hand = is_only_via && request.fields(HeaderName::RecordRoute).next().is_none();
    let contact = request.first(HeaderName::Contact).filter(|_| is_first_hand)?;
    let uri = NameAddr::parse(contact)?.parse_uri().ok().filter(|uri| !uri.is_sips)?;
    let transport = match uri.param("transport") {
        None => source.transport,
        Some(_) => transport_param(&uri)?,
    };
    let is_same = uri.host_ip()? == source.remote.ip().to_canonical();
    is_same.then_some((transport, uri.port.unwrap_or(5060)))
}
