//! INVITEs that a device, or the softswitch, has and whose call is over (RFC 3261 §9.1): a CANCEL follows their first
//! response, and who picks up before it comes is told that nobody is there.

use std::collections::BTreeMap;

use super::context::Context;
use super::event::Contacts;
use super::{Proxy, forward};
use crate::binding::{Aor, DeviceId};
use crate::clock::Now;
use crate::sip::response::header;
use crate::sip::{Destination, HeaderName, Message, NameAddr};
use crate::store::{Change, HeldCallId, Settlement};
use crate::transaction::{Branch, ClientId};

/// Those under way.
#[derive(Debug, Default)]
pub(super) struct GivenUp {
    invites: BTreeMap<ClientId, Invite>,
}

#[derive(Debug)]
pub(super) struct Invite {
    /// Who learns of a call by it.
    told: Option<Told>,
    loop_hash: u64,
    destination: Destination,
    /// Route values for the node on the way.
    routes: Box<[u8]>,
    /// Whether the device has shown that it knows of the call.
    is_seen: bool,
    /// Whether it picked up before the CANCEL came, and was told that nobody is there.
    is_ended: bool,
}

/// A device that may have an entry of the call in its bucket.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub aor: Aor,
    pub id: HeldCallId,
    pub call_ref: Box<str>,
    pub device: DeviceId,
}

impl Invite {
    pub(super) fn new(told: Option<Told>, loop_hash: u64, destination: Destination, routes: Box<[u8]>) -> Self {
        Self { told, loop_hash, destination, routes, is_seen: false, is_ended: false }
    }
}

impl GivenUp {
    pub(super) fn is_empty(&self) -> bool {
        self.invites.is_empty()
    }

    pub(super) fn has(&self, client: ClientId) -> bool {
        self.invites.contains_key(&client)
    }

    pub(super) fn keep(&mut self, client: ClientId, invite: Invite) {
        self.invites.insert(client, invite);
    }

    /// The device has come by another flow of this node, by which it is told what follows.
    pub(super) fn moved(&mut self, client: ClientId, destination: Option<Destination>) {
        if let Some((invite, destination)) = self.invites.get_mut(&client).zip(destination) {
            (invite.destination, invite.routes) = (destination, Box::default());
        }
    }

    /// The device gave no answer, or its answer has been dealt with.
    pub(super) fn end(&mut self, client: ClientId) {
        self.invites.remove(&client);
    }

    /// Whether the device may be about to learn of a call.
    pub(super) fn is_under_way(&self, device: DeviceId) -> bool {
        let is_to = |invite: &&Invite| invite.told.as_ref().is_some_and(|told| told.device == device);
        self.invites.values().filter(is_to).any(|invite| !invite.is_seen)
    }
}

impl Proxy {
    /// Cancels a branch of an INVITE, where its device is by now. One that nobody has heard of, and one whose device has lost
    /// its connection and is not back yet, is over with that, and what comes of it yet is dealt with here; the others end by
    /// their final response.
    pub(super) fn cancel_branch(
        &mut self,
        context: &mut Context,
        index: usize,
        reason: &[u8],
        contacts: &dyn Contacts,
        now: Now,
    ) {
        let Some(branch) = context.responses.branches.get(index) else { return };
        let Some(client) = branch.client else { return };
        let (device, flow) = (branch.hop.device, branch.hop.flow);
        let lines = match (device, flow) {
            (Some(device), Some((flow, None))) => self.follow_cancel(context, (client, device), flow, reason, contacts),
            _ => reason.to_vec(),
        };
        let waits = self.transactions.give_up(client, &lines, now.instant);
        let Some(destination) = self.transactions.destination(client) else { return };
        let is_gone = matches!(destination, Destination::Flow(flow) if !contacts.is_open(flow));
        if !waits && !is_gone {
            return;
        }
        let way = device.zip(flow).map(|(device, flow)| self.way_to(&context.request, context.flow, device, flow));
        let routes = way.map(|way| way.routes).unwrap_or_default();
        let told = context.call().zip(device).map(|(call, device)| Told {
            aor: call.aor.clone(),
            id: call.id,
            call_ref: call.call_ref.clone(),
            device,
        });
        self.clients.remove(&client);
        self.timers.cancel(&super::Timer::C(context.server, index));
        context.responses.end(index, 487);
        self.given_up.keep(client, Invite::new(told, context.loop_hash, destination, routes));
    }

    /// Nobody waits for the response; but whatever it says, the device knows of the call, and need not be told of it again.
    pub(super) fn given_up_response(&mut self, client: ClientId, response: &Message, now: Now) {
        let status = response.status().unwrap_or_default();
        let Some(invite) = self.given_up.invites.get_mut(&client) else { return };
        let is_news = status > 100 && !std::mem::replace(&mut invite.is_seen, true);
        if let Some(Told { aor, id, call_ref, device }) = invite.told.clone().filter(|_| is_news) {
            self.keep(Change::Settle { aor, id, call_ref, devices: vec![(device, Settlement::Seen)], ended: false });
        }
        if (200..300).contains(&status) {
            self.hang_up(client, response, now);
        }
    }

    /// The user was quicker than the CANCEL: each 2xx gets its ACK, and the first one a BYE, as by a caller who hangs up
    /// (RFC 3261 §13.2.2.4, §15.1.1).
    fn hang_up(&mut self, client: ClientId, response: &Message, now: Now) {
        let Some(invite) = self.given_up.invites.get_mut(&client) else { return };
        let (destination, routes, loop_hash) = (invite.destination, invite.routes.clone(), invite.loop_hash);
        let was_ended = std::mem::replace(&mut invite.is_ended, true);
        let via = self.transactions.new_branch(loop_hash);
        if let Some(ack) = self.as_caller(b"ACK", response, destination, &routes, &via) {
            self.collect_sends();
            self.send_stateless(destination, ack.into());
        }
        if was_ended {
            return;
        }
        let via = self.transactions.new_branch(loop_hash);
        let bye = self.as_caller(b"BYE", response, destination, &routes, &via);
        if let Some(Ok(bye)) = bye.map(|bye| Message::parse(bye.into(), usize::MAX)) {
            // A phone that is gone again needs no BYE.
            let _ = self.transactions.send(bye, via, destination, now.instant);
        }
    }

    /// A request in the dialog that a 2xx has made, with us in the caller's place (RFC 3261 §12.2.1.1).
    fn as_caller(
        &self,
        method: &[u8],
        response: &Message,
        destination: Destination,
        way: &[u8],
        branch: &Branch,
    ) -> Option<Vec<u8>> {
        let egress = self.policy.listener(destination.listener())?;
        let contact = response.values(HeaderName::Contact).find_map(NameAddr::parse)?;
        let number = response.cseq()?.number;
        let number = if method == b"BYE" { number.checked_add(1)? } else { number };
        let mut out = Vec::new();
        out.extend_from_slice(method);
        out.push(b' ');
        out.extend_from_slice(forward::request_uri(contact.uri));
        out.extend_from_slice(b" SIP/2.0\r\nVia: SIP/2.0/");
        out.extend_from_slice(destination.transport().via_name().as_bytes());
        out.push(b' ');
        out.extend_from_slice(egress.sent_by.as_bytes());
        out.extend_from_slice(b";rport;branch=");
        out.extend_from_slice(&branch.text());
        out.extend_from_slice(b"\r\nMax-Forwards: 70\r\n");
        if !way.is_empty() {
            header(&mut out, "Route", way);
        }
        // The route set in reverse, without ourselves.
        let routes: Vec<_> = response.values(HeaderName::RecordRoute).collect();
        for route in routes.into_iter().rev() {
            let is_own = NameAddr::parse(route)
                .and_then(|address| address.parse_uri().ok().map(|uri| self.policy.is_own(&uri)))
                .unwrap_or(true);
            if !is_own {
                header(&mut out, "Route", route);
            }
        }
        for name in [HeaderName::From, HeaderName::To, HeaderName::CallId] {
            let field = response.fields(name).next()?;
            header(&mut out, name.as_str(), response.slice(field.value()));
        }
        header(&mut out, "CSeq", format!("{number} {}", String::from_utf8_lossy(method)).as_bytes());
        header(&mut out, "Content-Length", b"0");
        out.extend_from_slice(b"\r\n");
        Some(out)
    }
}
