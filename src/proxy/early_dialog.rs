//! The early dialog that our own provisional response begins (RFC 3261 §12.1): until a phone answers, its other end is a
//! user agent in this proxy. What the caller sends within it is answered here, because no phone knows of it.

use std::collections::HashMap;

use super::context::Context;
use super::event::Contacts;
use super::{Proxy, Reject};
use crate::clock::Now;
use crate::sip::Message;
use crate::sip::response::header;
use crate::transaction::ServerId;

/// Methods that have an answer within such a dialog.
const ALLOW: &[u8] = b"INVITE, ACK, CANCEL, BYE, OPTIONS, PRACK, UPDATE";
/// Seconds in the Retry-After of a refused offer are fewer than this (RFC 3261 §14.2, RFC 3311 §5.2).
const RETRY_BEFORE_S: u64 = 10;

/// Open dialogs of this kind, by our tag, which nobody can guess: at most one for each call that is kept here.
#[derive(Debug, Default)]
pub(super) struct EarlyDialogs(HashMap<Box<str>, ServerId>);

impl EarlyDialogs {
    pub(super) fn begin(&mut self, tag: &str, invite: ServerId) {
        if !self.0.contains_key(tag) {
            self.0.insert(tag.into(), invite);
        }
    }

    pub(super) fn end(&mut self, tag: &str) {
        if !self.0.is_empty() {
            self.0.remove(tag);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, request: &Message) -> Option<ServerId> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(std::str::from_utf8(request.to_tag()?).ok()?).copied()
    }
}

impl Proxy {
    /// The Contact line of our own provisional response: this proxy, as its caller reaches it.
    pub(super) fn early_contact(&self, context: &Context) -> Vec<u8> {
        let mut line = Vec::new();
        let Some(listener) = self.policy.listener(context.flow.listener) else { return line };
        let transport = match listener.transport.is_reliable() {
            true => format!(";transport={}", listener.transport.uri_name()),
            false => String::new(),
        };
        header(&mut line, "Contact", format!("<sip:{}{transport}>", listener.sent_by).as_bytes());
        line
    }

    /// The INVITE whose early dialog with us a request of the softswitch is in, also one that another node passes on.
    pub(super) fn early_dialog_of(&self, context: &Context, contacts: &dyn Contacts) -> Option<ServerId> {
        let request = &context.request;
        let invite = self.early.find(request)?;
        let is_same = |known: &Message| known.call_id() == request.call_id() && known.from_tag() == request.from_tag();
        let is_its = self.contexts.get(&invite).is_some_and(|invite| is_same(&invite.request));
        let flow = context.flow;
        let is_of_caller = || self.is_of_softswitch(flow, contacts) || contacts.is_node(flow.remote.ip());
        (is_its && is_of_caller()).then_some(invite)
    }

    pub(super) fn receive_in_early_dialog(
        &mut self,
        context: &mut Context,
        invite: ServerId,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        if self.contexts.get(&invite).is_none_or(|invite| invite.responses.is_final) {
            // The final response has ended it (RFC 3261 §12.3, §13.2.2.4).
            return self.reject(context, &Reject::of(481), now);
        }
        let has_offer = !context.request.body().is_empty();
        match context.request.method_text() {
            b"BYE" => {
                self.accept(context, &[], now);
                self.collect_sends();
                let bye = context.request.clone();
                self.with_context(invite, |proxy, invite| proxy.hang_up_early(invite, &bye, contacts, now));
            }
            b"OPTIONS" => self.answer_options(context, now),
            // No provisional response of ours is reliable (RFC 3262 §3).
            b"PRACK" => self.reject(context, &Reject::of(481), now),
            b"UPDATE" if !has_offer => {
                let contact = self.early_contact(context);
                self.accept(context, &contact, now);
            }
            // The offer of the INVITE has no answer yet.
            b"UPDATE" | b"INVITE" => {
                let mut reject = Reject::of(500);
                let seconds = self.random.draw() % RETRY_BEFORE_S;
                header(&mut reject.headers, "Retry-After", seconds.to_string().as_bytes());
                self.reject(context, &reject, now);
            }
            _ => {
                let mut reject = Reject::of(405);
                header(&mut reject.headers, "Allow", ALLOW);
                self.reject(context, &reject, now);
            }
        }
    }

    fn accept(&mut self, context: &mut Context, headers: &[u8], now: Now) {
        context.responses.is_final = true;
        self.respond(context, 200, "OK", headers, now);
    }
}
