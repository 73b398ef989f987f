//! The softswitch: registrar of the phones in relay mode, and the one that calls them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use sip_push_proxy::sip::Transport;

use crate::peer::{Link, Peer};
use crate::sip::{Sip, in_brackets, unique};

/// Offered in each INVITE.
pub(crate) const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
                                m=audio 40000 RTP/AVP 8\r\n";

pub(crate) struct Switch {
    pub(crate) peer: Peer,
    link: Option<Link>,
    server: Option<SocketAddr>,
    /// What each user's phone registered last: Contact URI and Path.
    registered: HashMap<String, (String, String)>,
}

impl Switch {
    pub(crate) fn new(transport: Transport) -> Self {
        Self::at(transport, IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    pub(crate) fn at(transport: Transport, ip: IpAddr) -> Self {
        let peer = Peer::new(transport, ip);
        Self { peer, link: None, server: None, registered: HashMap::new() }
    }

    pub(crate) fn connect(&mut self, server: SocketAddr) {
        self.link = Some(self.peer.link_to(server));
        self.server = Some(server);
    }

    pub(crate) fn link(&self) -> &Link {
        self.link.as_ref().expect("connected")
    }

    pub(crate) fn server(&self) -> SocketAddr {
        self.server.expect("connected")
    }

    /// For `softswitch.uri`.
    pub(crate) fn uri(&self) -> String {
        match self.peer.transport {
            Transport::Udp => format!("sip:{}", self.peer.address),
            Transport::Tcp => format!("sip:{};transport=tcp", self.peer.address),
        }
    }

    /// A REGISTER that was relayed is accepted. Nothing in it tells of push.
    #[track_caller]
    pub(crate) fn accept_register(&mut self, aor: &str) -> Sip {
        let (register, link) = self.peer.request("REGISTER");
        self.answer_register(&register, &link, aor);
        register
    }

    #[track_caller]
    pub(crate) fn answer_register(&mut self, register: &Sip, link: &Link, aor: &str) {
        assert_eq!(in_brackets(register.header("To")), format!("sip:{aor}"));
        assert!(!register.text.contains("pn-"), "{register:?}");
        let contact = register.header("Contact");
        if contact == "*" {
            return link.send(register.answer(200, "OK", &unique("r"), ""));
        }
        self.registered.insert(aor.to_owned(), (in_brackets(contact).to_owned(), register.header("Path").to_owned()));
        let expires = if contact.contains("expires=") { "" } else { ";expires=3600" };
        link.send(register.answer(200, "OK", &unique("r"), &format!("Contact: {contact}{expires}\r\n")));
    }

    /// It calls the user by the AOR from here on.
    pub(crate) fn forgets(&mut self, aor: &str) {
        self.registered.remove(aor);
    }

    /// Request-URI and Route that lead to the phone: by what it registered, else by its AOR (trunk).
    pub(crate) fn way_to(&self, aor: &str) -> (String, String) {
        match self.registered.get(aor) {
            Some((contact, path)) if path.is_empty() => (contact.clone(), String::new()),
            Some((contact, path)) => (contact.clone(), format!("Route: {path}\r\n")),
            None => (format!("sip:{aor}"), String::new()),
        }
    }

    /// Sends an INVITE from 103, with these header lines besides the usual ones.
    pub(crate) fn call(&self, aor: &str, headers: &str) -> Call {
        self.call_by(self.link().clone(), aor, headers)
    }

    pub(crate) fn call_by(&self, link: Link, aor: &str, headers: &str) -> Call {
        let contact = match self.peer.transport {
            Transport::Udp => format!("sip:switch@{}", self.peer.address),
            Transport::Tcp => format!("sip:switch@{};transport=tcp", self.peer.address),
        };
        self.call_as(link, aor, &contact, headers)
    }

    /// With this URI in the Contact.
    pub(crate) fn call_with_contact(&self, aor: &str, contact: &str) -> Call {
        self.call_as(self.link().clone(), aor, contact, "")
    }

    fn call_as(&self, link: Link, aor: &str, contact: &str, headers: &str) -> Call {
        let (uri, routes) = self.way_to(aor);
        let (call_id, from) = (unique("call-"), format!("\"Ivan\" <sip:103@example.org>;tag={}", unique("t")));
        let common = format!("From: {from}\r\nCall-ID: {call_id}\r\nMax-Forwards: 70\r\n");
        let (to, via) = (format!("<sip:{aor}>"), self.peer.via());
        let invite = format!(
            "INVITE {uri} SIP/2.0\r\n{via}{routes}{common}To: {to}\r\nCSeq: 1 INVITE\r\nContact: <{contact}>\r\n{headers}\
             Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{OFFER}",
            OFFER.len()
        );
        link.send(&invite);
        Call { link, uri, routes, via, common, to, call_id, invite, sent_by: (self.peer.transport, self.peer.address) }
    }

    /// A request out of a dialog other than INVITE.
    pub(crate) fn send(&self, method: &str, aor: &str, body: &str) {
        let (uri, routes) = self.way_to(aor);
        self.link().send(format!(
            "{method} {uri} SIP/2.0\r\n{}{routes}From: <sip:103@example.org>;tag={}\r\nTo: <sip:{aor}>\r\nCall-ID: {}\r\n\
             CSeq: 1 {method}\r\nMax-Forwards: 70\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
            self.peer.via(),
            unique("t"),
            unique("call-"),
            body.len(),
        ));
    }

    #[track_caller]
    pub(crate) fn response(&self, status: u16, method: &str) -> Sip {
        self.peer.response(status, method)
    }

    /// The next final response.
    #[track_caller]
    pub(crate) fn final_response(&self) -> Sip {
        loop {
            let (response, _) = self.peer.receive();
            if response.status() >= 200 {
                return response;
            }
        }
    }

    /// The call is refused at once.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16) -> Sip {
        self.response(100, "INVITE");
        self.response(status, "INVITE")
    }

    /// The call was taken charge of: 100, and 182 when it is durable.
    #[track_caller]
    pub(crate) fn queued(&self) -> Sip {
        let trying = self.response(100, "INVITE");
        assert_eq!(trying.to_tag(), "");
        let queued = self.response(182, "INVITE");
        assert_ne!(queued.to_tag(), "");
        queued
    }

    #[track_caller]
    pub(crate) fn expect_nothing_more(&self) {
        self.peer.expect_nothing_more(self.link(), self.server());
    }
}

/// A call as the softswitch sees it.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) call_id: String,
    pub(crate) link: Link,
    /// The INVITE byte for byte.
    pub(crate) invite: String,
    uri: String,
    routes: String,
    via: String,
    common: String,
    to: String,
    sent_by: (Transport, SocketAddr),
}

impl Call {
    /// The same INVITE once more, as a registrar with another contact of the device sends it, from `peer`.
    pub(crate) fn fork(&self, peer: &Peer, link: &Link) -> Self {
        let mut fork = self.clone();
        (fork.link, fork.via) = (link.clone(), peer.via());
        fork.sent_by = (peer.transport, peer.address);
        fork.invite = self.invite.replacen(&self.via, &fork.via, 1);
        link.send(&fork.invite);
        fork
    }

    /// Goes on by the switch's present connection.
    pub(crate) fn reconnect(&mut self, switch: &Switch) {
        self.link = switch.link().clone();
    }

    /// The same INVITE once more.
    pub(crate) fn repeat(&self) {
        self.link.send(&self.invite);
    }

    pub(crate) fn cancel(&self, headers: &str) {
        self.hop_by_hop("CANCEL", &self.to, headers);
    }

    /// ACK of a failure: same transaction (RFC 3261 §17.1.1.3).
    pub(crate) fn ack(&self, failure: &Sip) {
        self.hop_by_hop("ACK", failure.header("To"), "");
    }

    fn hop_by_hop(&self, method: &str, to: &str, headers: &str) {
        self.link.send(format!(
            "{method} {} SIP/2.0\r\n{}{}{}To: {to}\r\nCSeq: 1 {method}\r\n{headers}Content-Length: 0\r\n\r\n",
            self.uri, self.via, self.routes, self.common
        ));
    }

    /// ACK of a 2xx: end to end, by the route set (RFC 3261 §13.2.2.4).
    pub(crate) fn confirm(&self, ok: &Sip) {
        self.within("ACK", 1, ok);
    }

    pub(crate) fn bye(&self, ok: &Sip) {
        self.within("BYE", 2, ok);
    }

    /// Where the first Route leads: another node may have taken the call on.
    fn next_hop(&self, routes: &str) -> Link {
        let first = routes.split('>').next().and_then(|route| route.split_once("sip:"));
        let host = first.and_then(|(_, uri)| uri.split(';').next()?.rsplit('@').next());
        let address = host.and_then(|host| host.parse().ok());
        match (&self.link, address) {
            (Link::Udp(socket, _), Some(address)) => Link::Udp(Arc::clone(socket), address),
            (link, _) => link.clone(),
        }
    }

    /// Any request in the dialog.
    pub(crate) fn within(&self, method: &str, cseq: u32, ok: &Sip) {
        let mut routes = String::new();
        for route in ok.headers("Record-Route").into_iter().rev() {
            routes.push_str(&format!("Route: {route}\r\n"));
        }
        let (transport, address) = self.sent_by;
        self.next_hop(&routes).send(format!(
            "{method} {} SIP/2.0\r\nVia: SIP/2.0/{} {address};rport;branch={}\r\n{routes}{}To: {}\r\n\
             CSeq: {cseq} {method}\r\nContent-Length: 0\r\n\r\n",
            ok.contact(),
            transport.via_name(),
            unique("z9hG4bK"),
            self.common,
            ok.header("To"),
        ));
    }
}
