//! The scripted phone: asleep it has no socket at all, awake it has a new one.

use std::net::SocketAddr;
use std::time::Duration;

use super::dialog::{DOMAIN, Dialog, Register};
use super::ladder::Actor;
use super::line::Tone;
use super::narrator::{Narrator, now};
use super::peer::{Expected, Failure, Owner, Peer};
use super::push_desk::Pushed;
use super::softswitch;
use crate::sip::{Message, Method, Transport};

/// What a phone is, asleep or awake.
pub(super) struct Device {
    pub(super) name: &'static str,
    pub(super) actor: Actor,
    pub(super) user: &'static str,
    pub(super) transport: Transport,
    /// `+sip.instance` (RFC 5626 §4.1).
    pub(super) instance: &'static str,
    /// `pn-provider`, `pn-param` and `pn-prid` of its Contact (RFC 8599 §4.1.1).
    pub(super) push_params: String,
    /// How long it takes from the push until it can send: a real one loads its app in that time.
    pub(super) wakes_in: Duration,
}

/// A [`Device`] with its socket.
pub(super) struct Phone {
    device: Device,
    proxy: SocketAddr,
    narrator: Narrator,
    /// `None`: asleep.
    peer: Option<Peer>,
    register_cseq: u32,
    has_credentials: bool,
    pub(super) wakes: Vec<Wake>,
}

/// One wake-up, from the push that reached its provider to the accepted REGISTER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wake {
    /// Until the phone could send its REGISTER.
    pub(super) phone: Duration,
    /// From then on.
    pub(super) register: Duration,
}

impl Phone {
    /// Asleep, and never registered.
    pub(super) fn new(device: Device, proxy: SocketAddr, narrator: Narrator) -> Self {
        Self { device, proxy, narrator, peer: None, register_cseq: 0, has_credentials: false, wakes: Vec::new() }
    }

    pub(super) fn user(&self) -> &'static str {
        self.device.user
    }

    /// Its socket is closed, as a mobile system does with an app in the background.
    pub(super) fn falls_asleep(&mut self) {
        self.peer = None;
        self.narrator.set_asleep(self.device.actor, true);
        self.narrator.deed(self.device.actor, "asleep, socket closed");
    }

    /// The push reaches it; a moment later it registers, from an address that nobody knew before.
    pub(super) async fn is_woken_by(&mut self, push: &Pushed) -> Result<(), Failure> {
        self.narrator.arrow(Actor::PushService, self.device.actor, "wakes", Tone::Push, &[]);
        self.wakes_up().await;
        let awake = now();
        self.registers().await?;
        let phone = awake.saturating_duration_since(push.at);
        self.wakes.push(Wake { phone, register: now().saturating_duration_since(awake) });
        Ok(())
    }

    /// Its system loads the app.
    pub(super) async fn wakes_up(&self) {
        tokio::time::sleep(self.device.wakes_in).await;
        self.narrator.set_asleep(self.device.actor, false);
    }

    /// A push that it gets, and what that means to it.
    pub(super) fn gets_push(&self, what: &str) {
        self.narrator.arrow(Actor::PushService, self.device.actor, what, Tone::Push, &[]);
    }

    /// Opens a socket and registers with it, with credentials once they have been asked for.
    pub(super) async fn registers(&mut self) -> Result<(), Failure> {
        let owner = Owner { name: self.device.name, actor: self.device.actor, narrator: self.narrator.clone() };
        self.peer = Some(Peer::open(owner, self.device.transport, self.proxy).await?);
        if !self.has_credentials {
            self.sends_register().await?;
            self.awake()?.expect(Expected::Response(401, Method::REGISTER)).await?;
            self.has_credentials = true;
        }
        self.sends_register().await?;
        self.awake()?.expect(Expected::Response(200, Method::REGISTER)).await.map(drop)
    }

    async fn sends_register(&mut self) -> Result<(), Failure> {
        self.register_cseq += 1;
        let contact = format!(
            "<{};{}>;+sip.instance=\"<urn:uuid:{}>\"",
            self.address()?,
            self.device.push_params,
            self.device.instance
        );
        let user = self.device.user;
        let authorization = softswitch::authorization(user, &format!("sip:{DOMAIN}"));
        let register = Register {
            user,
            call_id: &format!("register-{}", self.device.instance),
            cseq: self.register_cseq,
            contact: &contact,
            authorization: self.has_credentials.then_some(&authorization),
        };
        let peer = self.awake()?;
        let request = register.request(peer);
        peer.send(request).await
    }

    pub(super) async fn gets_invite(&mut self) -> Result<Message, Failure> {
        self.awake()?.expect(Expected::Request(Method::INVITE)).await
    }

    pub(super) async fn rings(&mut self, invite: &Message) -> Result<(), Failure> {
        self.answers(invite, 180).await
    }

    pub(super) async fn accepts(&mut self, invite: &Message) -> Result<Dialog, Failure> {
        self.answers(invite, 200).await?;
        let peer = self.awake()?;
        Ok(Dialog::accepted(peer, invite, &peer.tag()))
    }

    async fn answers(&mut self, invite: &Message, status: u16) -> Result<(), Failure> {
        let contact = format!("Contact: <{}>\r\n", self.address()?);
        self.awake()?.answer(invite, status, &contact).await
    }

    pub(super) async fn gets_ack(&mut self) -> Result<(), Failure> {
        self.awake()?.expect(Expected::Request(Method::ACK)).await.map(drop)
    }

    /// Stops ringing.
    pub(super) async fn is_cancelled(&mut self, invite: &Message) -> Result<Message, Failure> {
        let peer = self.awake()?;
        let cancel = peer.expect(Expected::Request(Method::CANCEL)).await?;
        peer.answer(&cancel, 200, "").await?;
        peer.answer(invite, 487, "").await?;
        peer.expect(Expected::Request(Method::ACK)).await?;
        Ok(cancel)
    }

    pub(super) async fn hangs_up(&mut self, dialog: &mut Dialog) -> Result<(), Failure> {
        self.awake()?.send(dialog.bye()).await
    }

    /// After its BYE.
    pub(super) async fn is_done(&mut self) -> Result<(), Failure> {
        self.awake()?.expect(Expected::Response(200, Method::BYE)).await.map(drop)
    }

    pub(super) async fn is_hung_up_on(&mut self) -> Result<(), Failure> {
        let peer = self.awake()?;
        let bye = peer.expect(Expected::Request(Method::BYE)).await?;
        peer.answer(&bye, 200, "").await
    }

    pub(super) fn expect_no_more(&mut self) -> Result<(), Failure> {
        self.peer.as_mut().map_or(Ok(()), Peer::expect_no_more)
    }

    /// Where it can be reached, while its socket is open.
    fn address(&mut self) -> Result<String, Failure> {
        let Device { user, transport, .. } = self.device;
        let local = self.awake()?.local;
        let transport = if transport == Transport::Udp { "" } else { ";transport=tcp" };
        Ok(format!("sip:{user}@{local}{transport}"))
    }

    fn awake(&mut self) -> Result<&mut Peer, Failure> {
        let name = self.device.name;
        self.peer.as_mut().ok_or_else(|| Failure::Stage(format!("{name} is asleep, and the script does not know it")))
    }
}
