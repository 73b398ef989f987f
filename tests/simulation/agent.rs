//! A user agent: a phone, or the softswitch. It has its own transactions, and what it saw is kept for the stories.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sip_push_proxy::sip::{ConnectionId, Destination, Flow, HeaderName, Message, Transport};
use sip_push_proxy::transaction::{Branch, ClientId, ServerId, Transactions};

use crate::options::{PROXY, settings, socket};
use crate::text::{self, Draft};

/// What a phone does with an INVITE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing at all, as if it had not come.
    Silent,
    /// 100 and no more.
    Trying,
    Rings,
    /// 180, and 200 after that time.
    Answers(Duration),
    Refuses(u16),
}

/// What the softswitch does with a REGISTER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registrar {
    /// For at most so many seconds.
    Accepts(u32),
    /// With a 2xx that lists nobody.
    ListsNothing,
    /// 401 to what has no Authorization.
    Challenges,
    /// 401 to everything.
    Distrusts,
    Refuses(u16),
    /// 423 to what asks for less than so many seconds.
    Wants(u32),
    /// 423 to everything, with a second more than was asked for.
    WantsMore,
    Silent,
}

/// What a phone says of itself when it registers.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    pub(crate) user: String,
    /// By which it goes in the Contacts of dialogs, in place of its address.
    pub(crate) name: Option<String>,
    /// `;pn-provider=…` and others.
    pub(crate) push: String,
    pub(crate) instance: Option<String>,
    pub(crate) label: Option<String>,
    /// Further header parameters of the Contact.
    pub(crate) params: String,
    pub(crate) expires: Option<u32>,
    /// Whole header lines for REGISTER.
    pub(crate) headers: Vec<String>,
    /// With the algorithm it answers a challenge by.
    pub(crate) password: Option<(String, &'static str)>,
}

/// A request that was sent.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) draft: Draft,
    pub(crate) message: Message,
    pub(crate) client: ClientId,
    pub(crate) responses: Vec<Message>,
    /// No response came in time, or it could not be sent.
    pub(crate) failed: bool,
}

impl Sent {
    pub(crate) fn finals(&self) -> Vec<u16> {
        self.responses.iter().filter_map(Message::status).filter(|status| *status >= 200).collect()
    }
}

/// A request that came, but no ACK.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) message: Message,
    pub(crate) server: Option<ServerId>,
    pub(crate) flow: Flow,
    pub(crate) at: Instant,
    pub(crate) status: Option<u16>,
    pub(crate) acknowledged: bool,
    pub(crate) tag: String,
}

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) name: String,
    /// `sip:alice@example.org`.
    pub(crate) aor: String,
    pub(crate) address: SocketAddr,
    pub(crate) transport: Transport,
    /// The open connection of a TCP agent.
    pub(crate) connection: Option<u64>,
    pub(crate) is_awake: bool,
    /// Whether the proxy may open connections to it.
    pub(crate) accepts_connections: bool,
    pub(crate) transactions: Transactions,
    pub(crate) sent: Vec<Sent>,
    pub(crate) got: Vec<Got>,
    pub(crate) acks: Vec<Message>,
    pub(crate) device: Device,
    pub(crate) answer: Answer,
    /// What it cannot send by a connection that is gone, it sends by the one that it has (RFC 3261 §18.2.2).
    pub(crate) answers_by_any_connection: bool,
    /// It has a network from then on; what it sends before is lost.
    pub(crate) network_from: Option<Instant>,
    /// It registers so long after a push.
    pub(crate) wakes_after: Option<Duration>,
    /// It has another port when it wakes.
    pub(crate) moves_when_waking: bool,
    pub(crate) cseq: u32,
    pub(crate) registrar: Registrar,
    /// Contacts and Path by AOR, as the registrar keeps them.
    pub(crate) registered: BTreeMap<String, Vec<(String, Option<String>)>>,
}

impl Agent {
    pub(crate) fn new(name: &str, user: &str, address: &str, transport: Transport, seed: u64) -> Self {
        Self {
            name: name.into(),
            aor: format!("sip:{user}@example.org"),
            address: socket(address),
            transport,
            connection: None,
            is_awake: true,
            accepts_connections: true,
            transactions: Transactions::new(settings(), seed),
            sent: Vec::new(),
            got: Vec::new(),
            acks: Vec::new(),
            device: Device {
                user: user.into(),
                name: None,
                push: format!(";pn-provider=fcm;pn-param=project;pn-prid=token-{name}"),
                instance: Some(format!("urn:uuid:{name}")),
                label: None,
                params: String::new(),
                expires: Some(3600),
                headers: Vec::new(),
                password: None,
            },
            answer: Answer::Rings,
            answers_by_any_connection: false,
            network_from: None,
            wakes_after: None,
            moves_when_waking: false,
            cseq: 0,
            registrar: Registrar::Accepts(3600),
            registered: BTreeMap::new(),
        }
    }

    pub(crate) fn destination(&self) -> Destination {
        let connection = self.connection.map_or(ConnectionId::NONE, ConnectionId);
        Destination::Flow(Flow { transport: self.transport, listener: 0, connection, remote: socket(PROXY) })
    }

    pub(crate) fn contact_uri(&self) -> String {
        let transport = if self.transport == Transport::Tcp { ";transport=tcp" } else { "" };
        format!("sip:{}@{}{transport}{}", self.device.user, self.address, self.device.push)
    }

    /// The Contact of a REGISTER.
    pub(crate) fn contact(&self) -> String {
        let label = self.device.label.as_ref().map(|label| format!(";label={label}")).unwrap_or_default();
        let instance = self
            .device
            .instance
            .as_ref()
            .map(|instance| format!(";+sip.instance=\"<{instance}>\""))
            .unwrap_or_default();
        format!("<{}{label}>{instance}{}", self.contact_uri(), self.device.params)
    }

    /// The Contact of a dialog: without anything of push (RFC 8599 §4.1).
    pub(crate) fn dialog_contact(&self) -> String {
        let transport = if self.transport == Transport::Tcp { ";transport=tcp" } else { "" };
        let address = self.device.name.clone().unwrap_or_else(|| self.address.to_string());
        format!("<sip:{}@{address}{transport}>", self.device.user)
    }

    pub(crate) fn register(&mut self, contact: Option<String>) -> Draft {
        self.cseq += 1;
        let call_id = format!("register-{}", self.name);
        let from = format!("<{}>;tag=r{}", self.aor, self.name);
        let to = format!("<{}>", self.aor);
        let mut draft = Draft::new("REGISTER", "sip:example.org", &from, &to, &call_id, self.cseq);
        draft.headers.extend(contact.map(|contact| format!("Contact: {contact}")));
        draft.headers.extend(self.device.expires.map(|expires| format!("Expires: {expires}")));
        draft.headers.extend(self.device.headers.clone());
        draft
    }

    /// A request that begins a dialog or stands alone.
    pub(crate) fn request(&mut self, method: &str, uri: &str, to: &str) -> Draft {
        self.cseq += 1;
        let call_id = format!("{}-{}", self.name, self.cseq);
        let from = format!("\"{}\" <{}>;tag=f{}", self.name, self.aor, self.cseq);
        let draft = Draft::new(method, uri, &from, &format!("<{to}>"), &call_id, self.cseq);
        match method {
            "INVITE" => draft
                .header(format!("Contact: {}", self.dialog_contact()))
                .header("Content-Type: application/sdp")
                .body("v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\n"),
            _ => draft,
        }
    }

    /// A request within the dialog of an INVITE that was sent and answered.
    pub(crate) fn within_sent(&mut self, sent: usize, method: &str) -> Draft {
        let is_2xx = |response: &&Message| response.status().is_some_and(|status| (200..300).contains(&status));
        let answer = self.sent[sent].responses.iter().find(is_2xx).expect("the INVITE was answered").clone();
        self.within_answer(sent, &answer, method)
    }

    /// The same for one of several answers.
    pub(crate) fn within_answer(&mut self, sent: usize, answer: &Message, method: &str) -> Draft {
        let Sent { draft, .. } = &self.sent[sent];
        let mut routes = text::values(answer, HeaderName::RecordRoute);
        routes.reverse();
        let cseq = if method == "ACK" { draft.cseq } else { draft.cseq + self.cseq + 1 };
        let to = text::first(answer, HeaderName::To);
        let request = Draft::new(method, &text::contact_uri(answer), &draft.from, &to, &draft.call_id, cseq);
        self.cseq += 1;
        self.routed(request, routes)
    }

    /// A request within the dialog of an INVITE that came and was answered.
    pub(crate) fn within_got(&mut self, got: usize, method: &str) -> Draft {
        self.cseq += 1;
        let Got { message, tag, .. } = &self.got[got];
        let from = format!("{};tag={tag}", text::first(message, HeaderName::To));
        let to = text::first(message, HeaderName::From);
        let call_id = text::first(message, HeaderName::CallId);
        let routes = text::values(message, HeaderName::RecordRoute);
        let request = Draft::new(method, &text::contact_uri(message), &from, &to, &call_id, self.cseq);
        self.routed(request, routes)
    }

    fn routed(&self, mut request: Draft, routes: Vec<String>) -> Draft {
        request.headers.extend(routes.into_iter().map(|route| format!("Route: {route}")));
        if request.method == "INVITE" {
            request = request.header(format!("Contact: {}", self.dialog_contact()));
        }
        request
    }

    pub(crate) fn new_branch(&mut self) -> Branch {
        self.transactions.new_branch(0)
    }

    /// Requests of `method` that came, but no repetitions.
    pub(crate) fn got_of(&self, method: &str) -> Vec<usize> {
        let of_method = |index: &usize| self.got[*index].message.method_text() == method.as_bytes();
        (0..self.got.len()).filter(of_method).collect()
    }
}
