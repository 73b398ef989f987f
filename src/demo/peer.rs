//! One end of a real socket: sends, receives, reports both to the narrator, and knows what it expects.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::ladder::Actor;
use super::narrator::{Narrator, labels, text};
use crate::sip::framing::{Frame, Framer, FramingLimits};
use crate::sip::response::{self, reason_phrase};
use crate::sip::{HeaderName, Message, Method, Transport};

/// Nothing takes longer, unless something is wrong.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Messages that were not looked at yet.
const INBOX: usize = 64;
/// Messages that are remembered, to know retransmissions.
const SEEN: usize = 64;

/// Why the demo does not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{who} expected {expected}, but {came}")]
    Unexpected { who: String, expected: String, came: String },
    #[error("{0}")]
    Stage(String),
    #[error("{what}: {error}")]
    Io { what: &'static str, error: io::Error },
    #[error("story {number}: {failure}")]
    Story { number: usize, failure: Box<Self> },
    #[error("interrupted")]
    Interrupted,
}

/// What must come next.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expected {
    Request(Method),
    /// With the method of its request.
    Response(u16, Method),
}

impl Expected {
    fn is(self, message: &Message) -> bool {
        match self {
            Self::Request(method) => message.is_request() && message.method() == method,
            Self::Response(status, method) => message.status() == Some(status) && message.method() == method,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(method) => write!(f, "{method}"),
            Self::Response(status, method) => write!(f, "{status} {} to {method}", reason_phrase(*status)),
        }
    }
}

/// What an actor answers at once, by itself.
pub(super) type Reflex = Box<dyn FnMut(&Message) -> Option<Bytes> + Send>;

/// An actor's socket. Dropping it closes it.
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) transport: Transport,
    /// Its own address, for Via and Contact.
    pub(super) local: SocketAddr,
    actor: Actor,
    narrator: Narrator,
    proxy: SocketAddr,
    sending: Sending,
    inbox: mpsc::Receiver<Message>,
    reading: AbortHandle,
}

enum Sending {
    Udp(Arc<UdpSocket>),
    Tcp(OwnedWriteHalf),
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// Who has the socket.
pub(super) struct Owner {
    pub(super) name: &'static str,
    pub(super) actor: Actor,
    pub(super) narrator: Narrator,
}

impl Peer {
    pub(super) async fn open(owner: Owner, transport: Transport, proxy: SocketAddr) -> Result<Self, Failure> {
        match transport {
            Transport::Udp => {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await;
                let socket = socket.map_err(|error| Failure::Io { what: "cannot open a UDP socket", error })?;
                Self::udp(owner, socket, proxy, Box::new(|_| None))
            }
            Transport::Tcp => {
                let stream = TcpStream::connect(proxy).await;
                let stream = stream.map_err(|error| Failure::Io { what: "cannot connect to the proxy", error })?;
                Self::tcp(owner, stream, proxy)
            }
        }
    }

    pub(super) fn udp(owner: Owner, socket: UdpSocket, proxy: SocketAddr, reflex: Reflex) -> Result<Self, Failure> {
        let local = address(socket.local_addr())?;
        let socket = Arc::new(socket);
        let (ear, inbox) = Ear::new(&owner, reflex);
        let reading = tokio::spawn(hear_datagrams(Arc::clone(&socket), ear)).abort_handle();
        Ok(Self::new(owner, Transport::Udp, local, proxy, Sending::Udp(socket), inbox, reading))
    }

    fn tcp(owner: Owner, stream: TcpStream, proxy: SocketAddr) -> Result<Self, Failure> {
        let local = address(stream.local_addr())?;
        let (read, write) = stream.into_split();
        let (ear, inbox) = Ear::new(&owner, Box::new(|_| None));
        let reading = tokio::spawn(hear_stream(read, ear)).abort_handle();
        Ok(Self::new(owner, Transport::Tcp, local, proxy, Sending::Tcp(write), inbox, reading))
    }

    fn new(
        owner: Owner,
        transport: Transport,
        local: SocketAddr,
        proxy: SocketAddr,
        sending: Sending,
        inbox: mpsc::Receiver<Message>,
        reading: AbortHandle,
    ) -> Self {
        let Owner { name, actor, narrator } = owner;
        Self { name, transport, local, actor, narrator, proxy, sending, inbox, reading }
    }

    /// Sends to the proxy.
    pub(super) async fn send(&mut self, bytes: impl Into<Bytes>) -> Result<(), Failure> {
        let bytes = bytes.into();
        if let Ok(message) = Message::parse(bytes.clone(), usize::MAX) {
            self.narrator.message(self.actor, Actor::Proxy, &message);
        }
        let sent = match &mut self.sending {
            Sending::Udp(socket) => socket.send_to(&bytes, self.proxy).await.map(drop),
            Sending::Tcp(stream) => stream.write_all(&bytes).await,
        };
        sent.map_err(|error| Failure::Io { what: "cannot send to the proxy", error })
    }

    /// Answers a request; `headers` are whole lines.
    pub(super) async fn answer(&mut self, request: &Message, status: u16, headers: &str) -> Result<(), Failure> {
        let tag = self.tag();
        let bytes = response::build(request, self.proxy, status, reason_phrase(status), Some(&tag), |out| {
            for route in request.fields(HeaderName::RecordRoute) {
                response::header(out, "Record-Route", request.slice(route.value()));
            }
            out.extend_from_slice(headers.as_bytes());
        });
        self.send(bytes).await
    }

    /// Its To tag in all dialogs.
    pub(super) fn tag(&self) -> String {
        format!("callee-{}", self.local.port())
    }

    /// The next message, which must be `expected`.
    pub(super) async fn expect(&mut self, expected: Expected) -> Result<Message, Failure> {
        let came = match tokio::time::timeout(PATIENCE, self.inbox.recv()).await {
            Ok(Some(message)) if expected.is(&message) => return Ok(message),
            Ok(Some(other)) => came(&other),
            Ok(None) => "the connection was closed".to_owned(),
            Err(_) => format!("nothing came in {} s", PATIENCE.as_secs()),
        };
        Err(self.unexpected(expected.to_string(), came))
    }

    /// Nothing must have come but what was expected.
    pub(super) fn expect_no_more(&mut self) -> Result<(), Failure> {
        match self.inbox.try_recv() {
            Ok(message) => Err(self.unexpected("no more messages".to_owned(), came(&message))),
            Err(_) => Ok(()),
        }
    }

    fn unexpected(&self, expected: String, came: String) -> Failure {
        Failure::Unexpected { who: self.name.to_owned(), expected, came }
    }
}

fn came(message: &Message) -> String {
    let name = labels(message).into_iter().next().unwrap_or_default();
    if message.is_request() { format!("{name} {} came", text(message.uri())) } else { format!("{name} came") }
}

fn address(address: io::Result<SocketAddr>) -> Result<SocketAddr, Failure> {
    address.map_err(|error| Failure::Io { what: "a socket has no address", error })
}

/// Hears what comes: reports it, answers by reflex, or keeps it until it is expected.
struct Ear {
    actor: Actor,
    narrator: Narrator,
    reflex: Reflex,
    inbox: mpsc::Sender<Message>,
    /// The last messages: a slow machine may see retransmissions, which are no part of a story.
    seen: VecDeque<Bytes>,
}

impl Ear {
    fn new(owner: &Owner, reflex: Reflex) -> (Self, mpsc::Receiver<Message>) {
        let (inbox, receiver) = mpsc::channel(INBOX);
        (Self { actor: owner.actor, narrator: owner.narrator.clone(), reflex, inbox, seen: VecDeque::new() }, receiver)
    }

    fn hear(&mut self, bytes: Bytes) -> Option<Bytes> {
        if self.seen.contains(&bytes) {
            return None;
        }
        let message = Message::parse(bytes.clone(), usize::MAX).ok()?;
        if self.seen.len() == SEEN {
            self.seen.pop_front();
        }
        self.seen.push_back(bytes);
        self.narrator.message(Actor::Proxy, self.actor, &message);
        let Some(answer) = (self.reflex)(&message) else {
            // Full, or nobody listens any more: an expectation that misses it will say so.
            let _ = self.inbox.try_send(message);
            return None;
        };
        if let Ok(answer) = Message::parse(answer.clone(), usize::MAX) {
            self.narrator.message(self.actor, Actor::Proxy, &answer);
        }
        Some(answer)
    }
}

async fn hear_datagrams(socket: Arc<UdpSocket>, mut ear: Ear) {
    let mut buffer = vec![0; 65_535];
    while let Ok((length, source)) = socket.recv_from(&mut buffer).await {
        let bytes = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
        if let Some(answer) = ear.hear(bytes) {
            // A lost answer is asked for again.
            let _ = socket.send_to(&answer, source).await;
        }
    }
}

async fn hear_stream(mut stream: OwnedReadHalf, mut ear: Ear) {
    let mut framer = Framer::new(FramingLimits::default());
    let mut buffer = vec![0; 16_384];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        framer.feed(buffer.get(..length).unwrap_or_default());
        while let Ok(Some(frame)) = framer.next_frame() {
            if let Frame::Message(bytes) = frame {
                ear.hear(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str = "Via: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:x>;tag=f\r\nTo: <sip:h>\r\nCall-ID: i\r\n";

    /// A peer, and a socket that plays the proxy.
    async fn peer() -> (Peer, UdpSocket) {
        let proxy = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let owner = Owner { name: "the phone", actor: Actor::Phone(0), narrator: Narrator::new() };
        let peer = Peer::open(owner, Transport::Udp, proxy.local_addr().unwrap()).await.unwrap();
        (peer, proxy)
    }

    #[tokio::test]
    async fn what_comes_instead_is_told() {
        let (mut peer, proxy) = peer().await;
        let bye = format!("BYE sip:a@h SIP/2.0\r\n{MESSAGE}CSeq: 2 BYE\r\n\r\n");
        let ringing = format!("SIP/2.0 180 Ringing\r\n{MESSAGE}CSeq: 1 INVITE\r\n\r\n");
        for message in [&bye, &ringing] {
            proxy.send_to(message.as_bytes(), peer.local).await.unwrap();
        }
        let failure = peer.expect(Expected::Request(Method::INVITE)).await.unwrap_err();
        assert_eq!(failure.to_string(), "the phone expected INVITE, but BYE sip:a@h came");
        let failure = peer.expect(Expected::Response(200, Method::INVITE)).await.unwrap_err();
        assert_eq!(failure.to_string(), "the phone expected 200 OK to INVITE, but 180 Ringing came");
    }

    #[tokio::test]
    async fn retransmissions_are_no_part_of_the_story() {
        let (mut peer, proxy) = peer().await;
        for (cseq, method) in [(1, "INVITE"), (1, "INVITE"), (1, "CANCEL")] {
            let request = format!("{method} sip:a@h SIP/2.0\r\n{MESSAGE}CSeq: {cseq} {method}\r\n\r\n");
            proxy.send_to(request.as_bytes(), peer.local).await.unwrap();
        }
        peer.expect(Expected::Request(Method::INVITE)).await.unwrap();
        peer.expect(Expected::Request(Method::CANCEL)).await.unwrap();
        peer.expect_no_more().unwrap();
    }
}
