//! A phone with a push token: registers, sleeps, answers (RFC 8599 §4.1).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use md5::Digest as _;
use sip_push_proxy::sip::Transport;

use crate::peer::{Link, Peer};
use crate::sip::{Sip, unique};
use crate::world::World;

/// Phones are not where the softswitch is, so nothing takes one for the other.
pub(crate) const PHONE_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
pub(crate) const PASSWORD: &str = "correct horse";

/// Who wakes a phone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Push {
    Fcm,
    Apns,
    /// APNs' sandbox.
    ApnsDev,
    /// Nobody.
    None,
}

impl Push {
    /// As in `pn-provider`.
    pub(crate) fn provider(self) -> &'static str {
        match self {
            Self::Fcm => "fcm",
            Self::Apns => "apns",
            Self::ApnsDev => "apns.dev",
            Self::None => "",
        }
    }
}

pub(crate) struct Phone {
    pub(crate) user: String,
    pub(crate) push: Push,
    pub(crate) transport: Transport,
    /// FCM registration token, or the VoIP token.
    pub(crate) token: String,
    /// APNs only.
    pub(crate) remote_token: String,
    /// Header parameters of its Contact: what makes it the same device after each sleep.
    pub(crate) instance: String,
    /// Asked for; `None` leaves it to the registrar.
    pub(crate) expires: Option<u32>,
    /// URI parameters instead of those that `push` comes to.
    pub(crate) params: Option<String>,
    call_id: String,
    cseq: u32,
    line: Option<(Peer, Link)>,
    pub(crate) credentials: String,
}

impl Phone {
    pub(crate) fn new(user: &str, push: Push, transport: Transport) -> Self {
        let number = unique("");
        let hex: String = number.bytes().map(|byte| format!("{byte:02x}")).collect();
        let (token, remote_token) = match push {
            Push::Fcm => (format!("fcm-{number}:APA91b"), String::new()),
            Push::Apns | Push::ApnsDev => (format!("aa{hex}"), format!("bb{hex}")),
            Push::None => (String::new(), String::new()),
        };
        Self {
            user: user.to_owned(),
            push,
            transport,
            token,
            remote_token,
            instance: format!(";+sip.instance=\"<urn:uuid:{number}>\""),
            expires: Some(3600),
            params: None,
            call_id: unique("register-"),
            cseq: 0,
            line: None,
            credentials: String::new(),
        }
    }

    pub(crate) fn aor(&self) -> String {
        format!("{}@example.org", self.user)
    }

    /// Takes a port that it did not have before. What it had closes.
    pub(crate) fn wake(&mut self, world: &World) {
        self.wake_at(world.sip(self.transport));
    }

    /// As [`Phone::wake`], where the world is out of reach.
    pub(crate) fn wake_at(&mut self, server: SocketAddr) {
        self.line = Some(Peer::connected(self.transport, PHONE_IP, server));
    }

    /// Its socket closes, as on a phone whose app was suspended.
    pub(crate) fn sleep(&mut self) {
        self.line = None;
    }

    /// As [`Phone::sleep`], but the test goes on to listen where the phone was.
    pub(crate) fn walk_away(&mut self) -> (Peer, Link) {
        self.line.take().expect("a phone that is awake")
    }

    /// A NAT gives it the port of another phone.
    pub(crate) fn takes_line(&mut self, line: (Peer, Link)) {
        self.line = Some(line);
    }

    /// Registers with these Contact lines where the registrar asks for a password. The 2xx.
    #[track_caller]
    pub(crate) fn register_by_password(&mut self, contacts: &str) -> Sip {
        self.send_register_with(contacts);
        let challenge = self.peer().response(401, "REGISTER");
        self.answer_challenge(&challenge);
        self.send_register_with(contacts);
        self.credentials.clear();
        self.peer().response(200, "REGISTER")
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.line.as_ref().expect("a phone that is awake").0
    }

    pub(crate) fn link(&self) -> &Link {
        &self.line.as_ref().expect("a phone that is awake").1
    }

    fn push_params(&self) -> String {
        match (&self.params, self.push) {
            (Some(params), _) => params.clone(),
            (None, Push::Fcm) => format!(";pn-provider=fcm;pn-param=demo-project;pn-prid={}", self.token),
            (None, Push::Apns | Push::ApnsDev) => format!(
                ";pn-provider={};pn-param=DEF123GHIJ.org.example.phone.voip&remote;pn-prid={}:voip&{}:remote",
                self.push.provider(),
                self.token,
                self.remote_token
            ),
            (None, Push::None) => String::new(),
        }
    }

    /// URI of its Contact, as it is now.
    pub(crate) fn contact(&self) -> String {
        let transport = match self.transport {
            Transport::Udp => "",
            Transport::Tcp => ";transport=tcp",
        };
        format!("sip:{}@{}{transport}{}", self.user, self.peer().address, self.push_params())
    }

    /// Sends a REGISTER with its Contact, and nothing else.
    pub(crate) fn send_register(&mut self) {
        self.send_register_text();
    }

    /// As [`Phone::send_register`]; the message as it was sent.
    pub(crate) fn send_register_text(&mut self) -> String {
        let text = self.own_register();
        self.link().send(&text);
        text
    }

    /// Sends a REGISTER with these header lines instead of its own Contact.
    pub(crate) fn send_register_with(&mut self, headers: &str) {
        let text = self.next_register(headers);
        self.link().send(text);
    }

    /// Its next REGISTER, with its Contact.
    pub(crate) fn own_register(&mut self) -> String {
        let contact = format!("Contact: <{}>{}\r\n", self.contact(), self.instance);
        self.next_register(&contact)
    }

    fn next_register(&mut self, headers: &str) -> String {
        self.cseq += 1;
        let expires = self.expires.map(|expires| format!("Expires: {expires}\r\n")).unwrap_or_default();
        format!(
            "REGISTER sip:example.org SIP/2.0\r\n{}From: <sip:{aor}>;tag={}\r\nTo: <sip:{aor}>\r\nCall-ID: {}\r\n\
             CSeq: {} REGISTER\r\nMax-Forwards: 70\r\n{headers}{expires}{}Supported: path\r\n\
             User-Agent: Test phone\r\nContent-Length: 0\r\n\r\n",
            self.peer().via(),
            unique("t"),
            self.call_id,
            self.cseq,
            self.credentials,
            aor = self.aor(),
        )
    }

    /// From a port it did not have before, until it is accepted. The 2xx.
    #[track_caller]
    pub(crate) fn register(&mut self, world: &mut World) -> Sip {
        self.wake(world);
        self.refresh(world)
    }

    /// From where it is.
    #[track_caller]
    pub(crate) fn refresh(&mut self, world: &mut World) -> Sip {
        self.send_register();
        self.accepted(world)
    }

    /// Sees a REGISTER through that was sent: challenge, softswitch, 2xx.
    #[track_caller]
    pub(crate) fn accepted(&mut self, world: &mut World) -> Sip {
        if world.mode.is_relay() {
            world.switch.accept_register(&self.aor());
        } else if world.mode == crate::world::Mode::Digest && self.credentials.is_empty() {
            let challenge = self.peer().response(401, "REGISTER");
            self.answer_challenge(&challenge);
            self.send_register();
        }
        self.credentials.clear();
        self.peer().response(200, "REGISTER")
    }

    /// Takes the topmost challenge, as phones do that know no better (RFC 8760 §2.4).
    pub(crate) fn answer_challenge(&mut self, challenge: &Sip) {
        self.answer_challenge_by(challenge, PASSWORD);
    }

    /// As [`Phone::answer_challenge`], by what may be the wrong password.
    pub(crate) fn answer_challenge_by(&mut self, challenge: &Sip, password: &str) {
        let value = challenge.header("WWW-Authenticate");
        // MD5 is what is meant where none is named (RFC 7616 §3.3).
        assert!(value.contains("algorithm=MD5") || !value.contains("algorithm="), "{value}");
        let hash = |text: String| md5::Md5::digest(text).iter().map(|b| format!("{b:02x}")).collect::<String>();
        let quoted = |name: &str| {
            let start = value.find(&format!("{name}=\"")).expect("a parameter of the challenge") + name.len() + 2;
            value[start..].split('"').next().unwrap_or_default().to_owned()
        };
        let (realm, nonce) = (quoted("realm"), quoted("nonce"));
        let ha1 = hash(format!("{}:{realm}:{password}", self.user));
        let ha2 = hash("REGISTER:sip:example.org".to_owned());
        let response = hash(format!("{ha1}:{nonce}:00000001:c0ffee:auth:{ha2}"));
        self.credentials = format!(
            "Authorization: Digest username=\"{}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"sip:example.org\", \
             response=\"{response}\", algorithm=MD5, cnonce=\"c0ffee\", qop=auth, nc=00000001\r\n",
            self.user
        );
    }

    /// A REGISTER with the wrong password; it is refused.
    #[track_caller]
    pub(crate) fn is_refused_by_password(&mut self) {
        self.credentials.clear();
        self.send_register();
        let challenge = self.peer().response(401, "REGISTER");
        self.answer_challenge_by(&challenge, "wrong horse");
        self.send_register();
        self.credentials.clear();
        self.peer().response(403, "REGISTER");
    }

    /// The next message must be an INVITE.
    #[track_caller]
    pub(crate) fn invited(&self) -> Incoming<'_> {
        let (invite, link) = self.peer().request("INVITE");
        Incoming { phone: self, invite, link, tag: unique("uas") }
    }

    /// The INVITE, and the 200 to a request of its own, in either order: workers do not wait for each other.
    #[track_caller]
    pub(crate) fn invited_and_heard(&self, method: &str) -> Incoming<'_> {
        let (requests, responses): (Vec<_>, Vec<_>) =
            [self.peer().receive(), self.peer().receive()].into_iter().partition(|(message, _)| message.status() == 0);
        for (response, _) in responses {
            assert_eq!((response.status(), response.method()), (200, method), "{response:?}");
        }
        let (invite, link) = requests.into_iter().next().expect("the INVITE");
        assert_eq!(invite.method(), "INVITE");
        Incoming { phone: self, invite, link, tag: unique("uas") }
    }

    #[track_caller]
    pub(crate) fn expect_nothing_more(&self, world: &World) {
        self.peer().expect_nothing_more(self.link(), world.sip(self.transport));
    }
}

/// A call as the phone sees it.
pub(crate) struct Incoming<'p> {
    phone: &'p Phone,
    pub(crate) invite: Sip,
    link: Link,
    tag: String,
}

impl Incoming<'_> {
    pub(crate) fn answer(&self, status: u16, reason: &str) {
        let contact = format!("Contact: <{}>\r\n", self.phone.contact().split(";pn-").next().unwrap_or_default());
        self.link.send(self.invite.answer(status, reason, &self.tag, &contact));
    }

    #[track_caller]
    pub(crate) fn confirmed(&self) {
        let (ack, _) = self.phone.peer().request("ACK");
        assert_eq!((ack.header("Call-ID"), ack.to_tag()), (self.invite.header("Call-ID"), &*self.tag), "{ack:?}");
    }

    /// The CANCEL comes; both it and the INVITE are answered.
    #[track_caller]
    pub(crate) fn cancelled(&self) -> Sip {
        let (cancel, link) = self.phone.peer().request("CANCEL");
        assert_eq!(cancel.header("Via"), self.invite.header("Via"));
        link.send(cancel.answer(200, "OK", &self.tag, ""));
        self.answer(487, "Request Terminated");
        self.confirmed();
        cancel
    }

    /// Within the dialog (RFC 3261 §12.2.1.1).
    pub(crate) fn bye(&self) {
        let mut routes = String::new();
        for route in self.invite.headers("Record-Route") {
            routes.push_str(&format!("Route: {route}\r\n"));
        }
        self.link.send(format!(
            "BYE {} SIP/2.0\r\n{}{routes}From: {};tag={}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: 9 BYE\r\nMax-Forwards: 70\r\n\
             Content-Length: 0\r\n\r\n",
            self.invite.contact(),
            self.phone.peer().via(),
            self.invite.header("To"),
            self.tag,
            self.invite.header("From"),
            self.invite.header("Call-ID"),
        ));
    }

    #[track_caller]
    pub(crate) fn hung_up(&self) {
        let (bye, link) = self.phone.peer().request("BYE");
        link.send(bye.answer(200, "OK", "", ""));
    }
}
