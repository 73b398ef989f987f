//! What agents do with what they get.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use sip_push_proxy::push::{NoticeKind, Push};
use sip_push_proxy::sip::{Flow, HeaderName, Message, Method, Transport, response};
use sip_push_proxy::transaction::{Event as Told, Incoming, ServerId, Standing};

use crate::agent::{Agent, Answer, Got, Registrar, Sent};
use crate::text::{self, Draft};
use crate::world::{Event, SOFTSWITCH, World};

const T1: Duration = Duration::from_millis(500);

impl World {
    /// Sends a request in a transaction; its number names it.
    pub(crate) fn request(&mut self, agent: usize, draft: Draft) -> usize {
        self.stir(agent);
        let who = &mut self.agents[agent];
        let branch = who.new_branch();
        let message = text::parse(draft.write(who.transport, who.address, &branch.to_string()));
        let client = who.transactions.send(message.clone(), branch, who.destination(), self.now.instant).unwrap();
        who.sent.push(Sent { draft, message, client, responses: Vec::new(), failed: false });
        who.sent.len() - 1
    }

    /// Sends something that has no transaction: an ACK, or anything odd.
    pub(crate) fn send_raw(&mut self, agent: usize, bytes: Bytes) {
        let destination = self.agents[agent].destination();
        self.agent_sends(agent, destination, bytes);
    }

    pub(crate) fn reaches_agent(&mut self, agent: usize, at: SocketAddr, flow: Flow, bytes: Bytes) {
        let who = &self.agents[agent];
        if !who.is_awake || who.address != at {
            return;
        }
        self.stir(agent);
        let message = text::parse(bytes);
        if message.is_request() {
            self.agent_gets_request(agent, message, flow);
        } else if let Some(told) = self.agents[agent].transactions.receive_response(message, self.now.instant) {
            self.agent_told(agent, told);
        }
    }

    pub(crate) fn agent_expires(&mut self, agent: usize) {
        while let Some(told) = self.agents[agent].transactions.expire(self.now.instant) {
            self.agent_told(agent, told);
        }
    }

    fn agent_told(&mut self, agent: usize, told: Told) {
        match told {
            Told::Response { client, response } => {
                let Some(sent) = self.agents[agent].sent.iter().rposition(|sent| sent.client == client) else { return };
                self.agents[agent].sent[sent].responses.push(response);
                self.agent_gets_response(agent, sent);
            }
            Told::Timeout { client } | Told::SendFailed { client } => {
                if let Some(sent) = self.agents[agent].sent.iter_mut().rfind(|sent| sent.client == client) {
                    sent.failed = true;
                }
            }
            Told::ServerEnded { .. } | Told::ClientEnded { .. } => {}
        }
    }

    fn agent_gets_response(&mut self, agent: usize, sent: usize) {
        let response = self.agents[agent].sent[sent].responses.last().unwrap().clone();
        let status = response.status().unwrap();
        if response.method() == Method::INVITE && (200..300).contains(&status) {
            let ack = self.agents[agent].within_answer(sent, &response, "ACK");
            let who = &mut self.agents[agent];
            let branch = who.new_branch().to_string();
            let bytes = ack.write(who.transport, who.address, &branch);
            self.send_raw(agent, bytes);
        }
        if matches!(status, 401 | 407) && response.method() == Method::REGISTER {
            self.agent_proves(agent, sent, &response);
        }
    }

    fn agent_proves(&mut self, agent: usize, sent: usize, challenge: &Message) {
        let who = &mut self.agents[agent];
        let has_tried = who.sent[sent].draft.headers.iter().any(|line| line.starts_with("Authorization"));
        let Some((password, algorithm)) = who.device.password.clone().filter(|_| !has_tried) else { return };
        who.cseq += 1;
        let mut draft = who.sent[sent].draft.clone();
        draft.cseq = who.cseq;
        let user = who.device.user.clone();
        draft.headers.push(crate::digest::authorization(challenge, &user, &password, algorithm));
        self.request(agent, draft);
    }

    fn agent_gets_request(&mut self, agent: usize, message: Message, flow: Flow) {
        let now = self.now.instant;
        let who = &mut self.agents[agent];
        if message.method() == Method::INVITE && who.answer == Answer::Silent {
            let is_new = who.got.iter().all(|got| text::branch(&got.message, 0) != text::branch(&message, 0));
            if is_new {
                who.keep(message, None, flow, now);
            }
            return;
        }
        match who.transactions.receive_request(&message, flow, || Standing::Trusted, now) {
            Incoming::Request(server) => {
                let got = who.keep(message, Some(server), flow, now);
                self.agent_serves(agent, got);
            }
            Incoming::Ack => {
                let cseq = message.cseq().map(|cseq| cseq.number);
                for got in who.got.iter_mut().filter(|got| got.message.call_id() == message.call_id()) {
                    got.acknowledged |= got.message.cseq().map(|cseq| cseq.number) == cseq;
                }
                who.acks.push(message);
            }
            Incoming::Cancel { cancel, invite } => {
                who.keep(message, Some(cancel), flow, now);
                let got = who.got.len() - 1;
                self.agent_responds(agent, got, if invite.is_some() { 200 } else { 481 }, &[], "");
                let invite = self.agents[agent].got.iter().rposition(|got| got.server == invite && invite.is_some());
                if let Some(invite) = invite {
                    self.agent_responds(agent, invite, 487, &[], "");
                }
            }
            Incoming::Absorbed | Incoming::Full | Incoming::SourceFull => {}
        }
    }

    fn agent_serves(&mut self, agent: usize, got: usize) {
        let who = &self.agents[agent];
        let message = who.got[got].message.clone();
        match (message.method(), who.answer) {
            (Method::REGISTER, _) => self.registrar_serves(got, &message),
            (Method::INVITE, Answer::Silent | Answer::Trying) => {}
            (Method::INVITE, Answer::Rings) => self.agent_responds(agent, got, 180, &[], ""),
            (Method::INVITE, Answer::Answers(after)) => {
                self.agent_responds(agent, got, 180, &[], "");
                self.schedule_after(after, Event::Answer { agent, got });
            }
            (Method::INVITE, Answer::Refuses(status)) => self.agent_responds(agent, got, status, &[], ""),
            (Method::OPTIONS, _) => {
                let said = ["Server: Switch/1.2.3", "User-Agent: Switch/1.2.3", "Allow: INVITE"].map(String::from);
                self.agent_responds(agent, got, 200, &said, "");
            }
            _ => self.agent_responds(agent, got, 200, &[], ""),
        }
    }

    /// The 200 of a phone that was picked up, unless its call is over.
    pub(crate) fn agent_answers(&mut self, agent: usize, got: usize) {
        let who = &self.agents[agent];
        if !who.is_awake || who.got[got].status.is_some_and(|status| status >= 200) {
            return;
        }
        let mut headers = vec![format!("Contact: {}", who.dialog_contact())];
        let routes = text::values(&who.got[got].message, HeaderName::RecordRoute);
        headers.extend(routes.into_iter().map(|route| format!("Record-Route: {route}")));
        self.agent_responds(agent, got, 200, &headers, "v=0\r\n");
        self.schedule_after(T1, Event::Repeat { agent, got, pause: T1 });
    }

    /// RFC 3261 §13.3.1.4.
    pub(crate) fn agent_repeats(&mut self, agent: usize, got: usize, pause: Duration) {
        let got_invite = &self.agents[agent].got[got];
        let is_over = self.now.instant.saturating_duration_since(got_invite.at) > Duration::from_secs(60);
        if got_invite.acknowledged || is_over || !self.agents[agent].is_awake {
            return;
        }
        let mut headers = vec![format!("Contact: {}", self.agents[agent].dialog_contact())];
        let routes = text::values(&got_invite.message, HeaderName::RecordRoute);
        headers.extend(routes.into_iter().map(|route| format!("Record-Route: {route}")));
        self.agent_responds(agent, got, 200, &headers, "v=0\r\n");
        let pause = (pause * 2).min(Duration::from_secs(4));
        self.schedule_after(pause, Event::Repeat { agent, got, pause });
    }

    pub(crate) fn agent_responds(&mut self, agent: usize, got: usize, status: u16, headers: &[String], body: &str) {
        self.stir(agent);
        let now = self.now.instant;
        let who = &mut self.agents[agent];
        let Got { message, server, flow, tag, .. } = &who.got[got];
        let Some(server) = *server else { return };
        let reason = response::reason_phrase(status);
        let bytes = response::build(message, flow.remote, status, reason, Some(tag), |out| {
            for line in headers {
                out.extend_from_slice(format!("{line}\r\n").as_bytes());
            }
            out.extend_from_slice(b"X-oDD :  left alone\r\n");
        });
        let bytes = match body {
            "" => bytes,
            body => {
                let whole = text::text(&bytes).replace("Content-Length: 0", &format!("l:{}", body.len()));
                Bytes::from(format!("{whole}{body}"))
            }
        };
        who.got[got].status = Some(status);
        who.transactions.respond(server, status, bytes, now);
    }

    fn registrar_challenges(&mut self, got: usize) {
        let challenge = format!("WWW-Authenticate: Digest realm=\"example.org\", nonce=\"n{got}\", qop=\"auth\"");
        self.agent_responds(SOFTSWITCH, got, 401, &[challenge], "");
    }

    fn registrar_serves(&mut self, got: usize, request: &Message) {
        let granted = match self.agents[SOFTSWITCH].registrar {
            Registrar::Silent => return,
            Registrar::ListsNothing => return self.agent_responds(SOFTSWITCH, got, 200, &[], ""),
            Registrar::Refuses(status) => return self.agent_responds(SOFTSWITCH, got, status, &[], ""),
            Registrar::Distrusts => return self.registrar_challenges(got),
            Registrar::Challenges if request.first(HeaderName::Authorization).is_none() => {
                return self.registrar_challenges(got);
            }
            Registrar::Challenges => 3600,
            Registrar::Accepts(granted) => granted,
            Registrar::Wants(least) if asked_for(request).is_some_and(|asked| asked < least.into()) => {
                let least = format!("Min-Expires: {least}");
                return self.agent_responds(SOFTSWITCH, got, 423, &[least], "");
            }
            Registrar::Wants(least) => least,
            Registrar::WantsMore => {
                let more = asked_for(request).unwrap_or_default() + 1;
                return self.agent_responds(SOFTSWITCH, got, 423, &[format!("Min-Expires: {more}")], "");
            }
        };
        let headers = self.agents[SOFTSWITCH].keep_contacts(request, granted);
        self.agent_responds(SOFTSWITCH, got, 200, &headers, "");
    }

    /// The phones with the token of a push that was accepted.
    pub(crate) fn wake_by(&mut self, push: &Push) {
        if matches!(push.notice.kind(), NoticeKind::MissedCalls | NoticeKind::CallEnded) {
            return;
        }
        let prid = format!("pn-prid={}", push.target.prid.reveal());
        for agent in 0..self.agents.len() {
            let who = &self.agents[agent];
            if let Some(after) = who.wakes_after.filter(|_| who.device.push.contains(&prid)) {
                self.schedule_after(after, Event::Wake { agent });
            }
        }
    }

    pub(crate) fn agent_wakes(&mut self, agent: usize) {
        if self.agents[agent].moves_when_waking {
            self.agent_moves(agent);
        }
        let connection = self.new_connection();
        let who = &mut self.agents[agent];
        who.is_awake = true;
        if who.transport == Transport::Tcp && who.connection.is_none() {
            who.connection = Some(connection);
        }
        let contact = who.contact();
        let draft = who.register(Some(contact));
        self.request(agent, draft);
    }

    /// To another port; a connection is another one then.
    pub(crate) fn agent_moves(&mut self, agent: usize) {
        let connection = self.new_connection();
        let who = &mut self.agents[agent];
        let port = who.address.port() + 1;
        who.address.set_port(port);
        if who.transport == Transport::Tcp {
            who.connection = Some(connection);
        }
        let address = who.address;
        self.addresses.insert(address, agent);
    }
}

/// With the Contact that is to last, else for all.
fn asked_for(request: &Message) -> Option<u64> {
    let contacts = request.values(HeaderName::Contact).filter_map(sip_push_proxy::sip::NameAddr::parse);
    let own =
        contacts.filter_map(|contact| contact.param("expires").flatten().and_then(sip_push_proxy::sip::scan::number));
    own.filter(|expires| *expires > 0).max().or_else(|| request.number(HeaderName::Expires))
}

impl Agent {
    fn keep(&mut self, message: Message, server: Option<ServerId>, flow: Flow, at: std::time::Instant) -> usize {
        let tag = format!("t{}{}", self.name, self.got.len());
        self.got.push(Got { message, server, flow, at, status: None, acknowledged: false, tag });
        self.got.len() - 1
    }

    /// What a registrar does with Contacts (RFC 3261 §10.3); the header lines of its 200.
    fn keep_contacts(&mut self, request: &Message, granted: u32) -> Vec<String> {
        let aor = text::text(request.to().unwrap().uri);
        let asked = request.number(HeaderName::Expires).unwrap_or(3600);
        let path = request.first(HeaderName::Path).map(text::text);
        let row = self.registered.entry(aor).or_default();
        for contact in request.values(HeaderName::Contact) {
            if contact == b"*" {
                row.clear();
                continue;
            }
            let contact = sip_push_proxy::sip::NameAddr::parse(contact).unwrap();
            let expires = contact.param("expires").flatten().and_then(sip_push_proxy::sip::scan::number);
            let uri = text::text(contact.uri);
            row.retain(|(known, _)| *known != uri);
            if expires.unwrap_or(asked) > 0 {
                row.push((uri, path.clone()));
            }
        }
        let granted = u64::from(granted).min(asked_for(request).unwrap_or(asked).max(1));
        row.iter().map(|(uri, _)| format!("Contact: <{uri}>;expires={granted}")).collect()
    }
}
