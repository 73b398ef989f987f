//! CANCEL (RFC 3261 §9.2, §16.10).

use super::context::Context;
use super::event::Contacts;
use super::secret::TokenRead;
use super::{Proxy, Reject, call_end, forward, route};
use crate::clock::Now;
use crate::sip::{Destination, Edits, Flow, HeaderName, Message, scan};
use crate::transaction::ServerId;

impl Proxy {
    /// CANCEL is hop by hop: answered here, whatever becomes of the INVITE.
    ///
    /// Differs from RFC 3261 §16.10: a CANCEL that matches nothing is answered 481, not forwarded statelessly, because
    /// the branches it would have to match downstream are ours and unknown to its sender.
    pub(super) fn receive_cancel(
        &mut self,
        request: Message,
        flow: Flow,
        cancel: ServerId,
        invite: Option<ServerId>,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        let mut context =
            Box::new(Context { is_fetched: true, ..Context::new(cancel, request, flow, 0, self.random.tag()) });
        match invite.filter(|invite| self.contexts.contains_key(invite)) {
            Some(invite) => {
                context.responses.is_final = true;
                self.respond(&context, 200, "OK", &[], now);
                self.collect_sends();
                let reasons = reason_lines(&context.request);
                let seen = is_dealt_with(&context.request);
                self.with_context(invite, |proxy, invite| {
                    proxy.pass_cancel_on(invite, &context.request);
                    proxy.cancel(invite, &reasons, seen, contacts, now);
                });
            }
            None if self.pass_cancel_for_node(&context.request, now) => {
                context.responses.is_final = true;
                self.respond(&context, 200, "OK", &[], now);
            }
            None => self.reject(&mut context, &Reject::of(481), now),
        }
        self.put_back(context);
    }

    /// A device has the INVITE from another node, and is on a flow of this one by now: the CANCEL goes on as that node wrote
    /// it, so that the device knows its branch (RFC 3261 §9.2).
    fn pass_cancel_for_node(&mut self, cancel: &Message, now: Now) -> bool {
        let routed = route::preprocess(cancel, &self.policy, &self.keys);
        let TokenRead::Hop(token) = routed.token else { return false };
        let mut edits = Edits::new();
        forward::remove_values(cancel, HeaderName::Route, &routed.removed, &mut edits);
        let bytes = edits.apply(cancel.bytes());
        self.transactions.pass_cancel(cancel, bytes, Destination::Flow(token.flow), now.instant);
        true
    }

    /// The caller leaves the early dialog that we began (RFC 3261 §15): as good as a CANCEL, unless a phone rings by now,
    /// which has a dialog of its own. Then nobody else is waited for.
    pub(super) fn hang_up_early(&mut self, invite: &mut Context, bye: &Message, contacts: &dyn Contacts, now: Now) {
        self.pass_cancel_on(invite, bye);
        if !invite.responses.is_ringing() {
            let (reasons, seen) = (reason_lines(bye), is_dealt_with(bye));
            return self.cancel(invite, &reasons, seen, contacts, now);
        }
        self.wait_for_nobody(invite);
        self.conclude(invite, contacts, now);
    }

    /// Ends what a request waits for: at once if nobody has said anything, else by the 487 of those that have.
    ///
    /// Differs from RFC 3261 §16.7 step 6: a branch without any response is not waited for. Its CANCEL may not be sent yet
    /// (§9.1), and whoever sleeps says nothing for as long as the INVITE is repeated.
    fn cancel(&mut self, context: &mut Context, reasons: &[u8], seen: bool, contacts: &dyn Contacts, now: Now) {
        if context.responses.is_final || context.responses.is_cancelled {
            return;
        }
        context.responses.is_cancelled = true;
        self.stop_waiting(context);
        self.cancel_branches(context, reasons, contacts, now);
        if context.call().is_some() {
            self.end_call(context, call_end::Ending::Cancelled { seen }, contacts, now);
        }
        if context.responses.all_ended() {
            self.reject(context, &Reject::of(487), now);
            self.fork_over(context);
        }
    }
}

/// The Reason lines of a CANCEL, to go into ours (RFC 3326 §2).
fn reason_lines(cancel: &Message) -> Vec<u8> {
    let mut lines = Vec::new();
    for field in cancel.fields(HeaderName::Reason) {
        crate::sip::response::header(&mut lines, "Reason", cancel.slice(field.value()));
    }
    lines
}

/// Whether the caller's side says that the call was taken or declined elsewhere, so that nobody missed it
/// (RFC 3326 §3.1; cause 26 of Q.850 is "non-selected user clearing"). Any other reason, or none, means that the caller
/// gave up.
fn is_dealt_with(cancel: &Message) -> bool {
    cancel.values(HeaderName::Reason).any(|value| {
        let (protocol, params) = scan::split_once(value, b';').unwrap_or((value, b""));
        let cause = scan::param(params, "cause").flatten().and_then(scan::number);
        let is = |name: &[u8]| scan::trim(protocol).eq_ignore_ascii_case(name);
        is(b"SIP") && matches!(cause, Some(200 | 600 | 603)) || is(b"Q.850") && cause == Some(26)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_call_taken_or_declined_elsewhere_is_not_missed() {
        let cancel = |reason: &str| {
            Message::parse(format!("CANCEL sip:a@h SIP/2.0\r\nReason: {reason}\r\n\r\n").into(), 128).unwrap()
        };
        for reason in [
            "SIP;cause=200;text=\"Call completed elsewhere\"",
            "Q.850;cause=16, sip ; cause = 200",
            "SIP;cause=603",
            "Q.850;cause=26",
        ] {
            assert!(is_dealt_with(&cancel(reason)), "{reason}");
        }
        for reason in ["Q.850;cause=16", "SIP;cause=487", "Q.850;cause=200", "SIP"] {
            assert!(!is_dealt_with(&cancel(reason)), "{reason}");
        }
    }
}
