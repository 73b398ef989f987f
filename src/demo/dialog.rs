//! Requests from templates, and the little that a user agent must remember of a call (RFC 3261 §12).

use super::narrator::text;
use super::peer::Peer;
use crate::sip::{HeaderName, Message, NameAddr};

/// The user's domain in all stories.
pub(super) const DOMAIN: &str = "example.org";

/// One call as one of its two ends sees it.
#[derive(Debug, Clone)]
pub(super) struct Dialog {
    pub(super) call_id: String,
    /// `SIP/2.0/UDP host:port`.
    via: String,
    from: String,
    to: String,
    uri: String,
    routes: Vec<String>,
    cseq: u32,
}

impl Dialog {
    /// A call that is about to begin.
    pub(super) fn new(peer: &Peer, call_id: String, from: &str, to: &str, uri: &str) -> Self {
        let from = format!("{from};tag=caller-{call_id}");
        Self { call_id, via: via(peer), from, to: to.to_owned(), uri: uri.to_owned(), routes: Vec::new(), cseq: 1 }
    }

    /// The called end of a call, whose `response` accepted `invite` (RFC 3261 §12.1.1).
    pub(super) fn accepted(peer: &Peer, invite: &Message, to_tag: &str) -> Self {
        let first = |name| text(invite.first(name).unwrap_or_default());
        Self {
            call_id: text(invite.call_id()),
            via: via(peer),
            from: format!("{};tag={to_tag}", first(HeaderName::To)),
            to: first(HeaderName::From),
            uri: contact(invite),
            routes: record_routes(invite),
            cseq: 100,
        }
    }

    pub(super) fn invite(&self, contact: &str) -> String {
        self.request("INVITE", "", &format!("Contact: <{contact}>\r\n"))
    }

    /// Of the INVITE, so it has the INVITE's branch (RFC 3261 §9.1).
    pub(super) fn cancel(&self) -> String {
        self.request("CANCEL", "", "")
    }

    /// For a final response. That of a 2xx is a transaction of its own and goes to the Contact that the 2xx named
    /// (RFC 3261 §13.2.2.4); any other belongs to the INVITE's transaction (§17.1.1.3).
    pub(super) fn ack(&mut self, response: &Message) -> String {
        let to = std::mem::replace(&mut self.to, text(response.first(HeaderName::To).unwrap_or_default()));
        if response.status().is_some_and(|status| status < 300) {
            self.uri = contact(response);
            self.routes = record_routes(response);
            self.routes.reverse();
            return self.request("ACK", "-ack", "");
        }
        let ack = self.request("ACK", "", "");
        self.to = to;
        ack
    }

    pub(super) fn bye(&mut self) -> String {
        self.cseq += 1;
        self.request("BYE", "", "")
    }

    fn request(&self, method: &str, branch: &str, headers: &str) -> String {
        let Self { call_id, via, from, to, uri, routes, cseq } = self;
        let routes: String = routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
        format!(
            "{method} {uri} SIP/2.0\r\nVia: {via};rport;branch=z9hG4bK-{call_id}-{cseq}{branch}\r\nMax-Forwards: 70\r\n\
             {routes}From: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n{headers}\
             Content-Length: 0\r\n\r\n"
        )
    }
}

/// What a REGISTER is made of.
pub(super) struct Register<'a> {
    pub(super) user: &'a str,
    pub(super) call_id: &'a str,
    pub(super) cseq: u32,
    /// The whole value.
    pub(super) contact: &'a str,
    /// The whole value, once there is a challenge to answer.
    pub(super) authorization: Option<&'a str>,
}

impl Register<'_> {
    pub(super) fn request(&self, peer: &Peer) -> String {
        let Self { user, call_id, cseq, contact, authorization } = self;
        let via = via(peer);
        let authorization = authorization.map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
        format!(
            "REGISTER sip:{DOMAIN} SIP/2.0\r\nVia: {via};rport;branch=z9hG4bK-{call_id}-{cseq}\r\nMax-Forwards: 70\r\n\
             From: <sip:{user}@{DOMAIN}>;tag={call_id}\r\nTo: <sip:{user}@{DOMAIN}>\r\nCall-ID: {call_id}\r\n\
             CSeq: {cseq} REGISTER\r\nContact: {contact}\r\nExpires: 3600\r\n{authorization}Content-Length: 0\r\n\r\n"
        )
    }
}

fn via(peer: &Peer) -> String {
    format!("SIP/2.0/{} {}", peer.transport.via_name(), peer.local)
}

/// The URI in a message's Contact.
pub(super) fn contact(message: &Message) -> String {
    let value = message.first(HeaderName::Contact).and_then(NameAddr::parse);
    text(value.map(|value| value.uri).unwrap_or_default())
}

fn record_routes(message: &Message) -> Vec<String> {
    message.values(HeaderName::RecordRoute).map(text).collect()
}
