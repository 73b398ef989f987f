//! The scripted softswitch: registrar of the users, and where their calls come from.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use md5::{Digest, Md5};
use parking_lot::Mutex;
use tokio::net::UdpSocket;

use super::dialog::{self, DOMAIN, Dialog};
use super::ladder::Actor;
use super::narrator::{Narrator, text};
use super::peer::{Expected, Failure, Owner, Peer};
use crate::sip::response::{self, reason_phrase};
use crate::sip::{HeaderName, Message, Method};

/// Every user's password.
pub(super) const PASSWORD: &str = "open sesame";
/// One for all challenges: a real registrar makes a new one each time.
const NONCE: &str = "nonce-of-the-demo";
/// The same caller in all stories.
const CALLER: &str = "\"Ivan\" <sip:103@example.org>";

/// Speaks UDP to the proxy. REGISTERs are answered by reflex, calls are made by the stories.
pub(super) struct Softswitch {
    peer: Peer,
    registrar: Arc<Mutex<Registrar>>,
    calls: usize,
}

/// Where each user was last registered from, as far as the softswitch can see.
#[derive(Default)]
struct Registrar {
    contacts: HashMap<String, String>,
}

impl Softswitch {
    /// On the socket whose address the proxy was configured with.
    pub(super) fn open(socket: UdpSocket, proxy: SocketAddr, narrator: Narrator) -> Result<Self, Failure> {
        let registrar = Arc::new(Mutex::new(Registrar::default()));
        let answering = Arc::clone(&registrar);
        let reflex = move |message: &Message| answering.lock().answer(message, proxy);
        let owner = Owner { name: "the softswitch", actor: Actor::Softswitch, narrator };
        Ok(Self { peer: Peer::udp(owner, socket, proxy, Box::new(reflex))?, registrar, calls: 0 })
    }

    /// The Contact that a user's device registered with here: the alias.
    pub(super) fn alias_of(&self, user: &str) -> Result<String, Failure> {
        let missing = || Failure::Unexpected {
            who: "the softswitch".to_owned(),
            expected: format!("a registration of {user}"),
            came: "there is none".to_owned(),
        };
        self.registrar.lock().contacts.get(user).cloned().ok_or_else(missing)
    }

    /// INVITEs made so far.
    pub(super) fn calls(&self) -> usize {
        self.calls
    }

    /// Calls a user at `uri`.
    pub(super) async fn invites(&mut self, user: &str, uri: &str) -> Result<Dialog, Failure> {
        self.calls += 1;
        let call_id = format!("call-{}", self.calls);
        let dialog = Dialog::new(&self.peer, call_id, CALLER, &format!("<sip:{user}@{DOMAIN}>"), uri);
        self.peer.send(dialog.invite(&format!("sip:103@{}", self.peer.local))).await?;
        Ok(dialog)
    }

    /// The next response to the INVITE.
    pub(super) async fn hears(&mut self, status: u16) -> Result<Message, Failure> {
        self.peer.expect(Expected::Response(status, Method::INVITE)).await
    }

    /// The next response to the INVITE, which ends it.
    pub(super) async fn hears_final(&mut self, dialog: &mut Dialog, status: u16) -> Result<Message, Failure> {
        let response = self.hears(status).await?;
        self.peer.send(dialog.ack(&response)).await?;
        Ok(response)
    }

    pub(super) async fn cancels(&mut self, dialog: &mut Dialog) -> Result<(), Failure> {
        self.peer.send(dialog.cancel()).await?;
        self.peer.expect(Expected::Response(200, Method::CANCEL)).await?;
        self.hears_final(dialog, 487).await.map(drop)
    }

    pub(super) async fn hangs_up(&mut self, dialog: &mut Dialog) -> Result<(), Failure> {
        self.peer.send(dialog.bye()).await
    }

    pub(super) async fn is_hung_up_on(&mut self) -> Result<(), Failure> {
        let bye = self.peer.expect(Expected::Request(Method::BYE)).await?;
        self.peer.answer(&bye, 200, "").await
    }

    /// After its BYE.
    pub(super) async fn is_done(&mut self) -> Result<(), Failure> {
        self.peer.expect(Expected::Response(200, Method::BYE)).await.map(drop)
    }

    pub(super) fn expect_no_more(&mut self) -> Result<(), Failure> {
        self.peer.expect_no_more()
    }
}

impl Registrar {
    fn answer(&mut self, message: &Message, proxy: SocketAddr) -> Option<Bytes> {
        if !message.is_request() || message.method() != Method::REGISTER {
            return None;
        }
        let user = text(message.to()?.parse_uri().ok()?.user?);
        let expected = authorization(&user, &text(message.uri()));
        let is_genuine = message.first(HeaderName::Authorization).is_some_and(|value| value == expected.as_bytes());
        let (status, header) = if is_genuine {
            let contact = dialog::contact(message);
            let header = format!("Contact: <{contact}>;expires=3600\r\n");
            self.contacts.insert(user, contact);
            (200, header)
        } else {
            (401, format!("WWW-Authenticate: Digest realm=\"{DOMAIN}\", nonce=\"{NONCE}\"\r\n"))
        };
        let reason = reason_phrase(status);
        Some(response::build(message, proxy, status, reason, Some("registrar"), |out| {
            out.extend_from_slice(header.as_bytes());
        }))
    }
}

/// The Authorization of a REGISTER without `qop`, as RFC 3261 §22.4 still allows; phone and registrar make it alike.
pub(super) fn authorization(user: &str, uri: &str) -> String {
    let hash = |text: String| Md5::digest(text).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let secret = hash(format!("{user}:{DOMAIN}:{PASSWORD}"));
    let response = hash(format!("{secret}:{NONCE}:{}", hash(format!("REGISTER:{uri}"))));
    format!("Digest username=\"{user}\", realm=\"{DOMAIN}\", nonce=\"{NONCE}\", uri=\"{uri}\", response=\"{response}\"")
}
