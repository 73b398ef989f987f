//! A scripted end on loopback: raw bytes over real sockets, each wait with a deadline.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock, mpsc};
use std::time::{Duration, Instant};

use sip_push_proxy::sip::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;

use crate::sip::{Sip, unique};

/// How long anything may take. A test that waits so long has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Where sockets are read and the doubles of the push services live; tests themselves are plain threads.
pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
});

/// Where a message came from and its answer goes.
#[derive(Clone)]
pub(crate) enum Link {
    Udp(Arc<UdpSocket>, SocketAddr),
    Tcp(Arc<Mutex<OwnedWriteHalf>>),
}

impl Link {
    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("cannot send");
    }

    /// As [`Link::send`], where the other end may be gone.
    pub(crate) fn try_send(&self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        RUNTIME.block_on(async {
            match self {
                Self::Udp(socket, to) => socket.send_to(bytes.as_ref(), *to).await.map(drop),
                Self::Tcp(stream) => stream.lock().await.write_all(bytes.as_ref()).await,
            }
        })
    }
}

/// What a peer hears.
pub(crate) enum Heard {
    Message(Sip, Link),
    /// A connection of this peer was closed by the other side.
    Closed,
}

/// One end. Its sockets close when it is dropped.
pub(crate) struct Peer {
    pub(crate) transport: Transport,
    pub(crate) address: SocketAddr,
    socket: Option<Arc<UdpSocket>>,
    sender: mpsc::Sender<Heard>,
    heard: mpsc::Receiver<Heard>,
    readers: Vec<AbortHandle>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        for reader in &self.readers {
            reader.abort();
        }
    }
}

impl Peer {
    /// A socket of its own on a free port of `ip`: for TCP one that listens.
    pub(crate) fn new(transport: Transport, ip: IpAddr) -> Self {
        let (sender, heard) = mpsc::channel();
        let any = SocketAddr::new(ip, 0);
        let mut peer = Self { transport, address: any, socket: None, sender, heard, readers: Vec::new() };
        RUNTIME.block_on(async {
            match transport {
                Transport::Udp => {
                    let socket = Arc::new(UdpSocket::bind(any).await.expect("a UDP port"));
                    peer.address = socket.local_addr().expect("its address");
                    peer.socket = Some(Arc::clone(&socket));
                    peer.readers.push(tokio::spawn(read_datagrams(socket, peer.sender.clone())).abort_handle());
                }
                Transport::Tcp => {
                    let listener = TcpListener::bind(any).await.expect("a TCP port");
                    peer.address = listener.local_addr().expect("its address");
                    peer.readers.push(tokio::spawn(accept(listener, peer.sender.clone())).abort_handle());
                }
            }
        });
        peer
    }

    /// An end that only has a connection (TCP) or a socket (UDP) to `server`, as a phone has.
    pub(crate) fn connected(transport: Transport, ip: IpAddr, server: SocketAddr) -> (Self, Link) {
        if transport == Transport::Udp {
            let mut peer = Self::new(transport, ip);
            let link = peer.link_to(server);
            return (peer, link);
        }
        let (sender, heard) = mpsc::channel();
        let address = SocketAddr::new(ip, 0);
        let mut peer = Self { transport, address, socket: None, sender, heard, readers: Vec::new() };
        let link = peer.link_to(server);
        (peer, link)
    }

    /// To `server` from this end's socket, or by a connection of its own that this end reads from now on.
    pub(crate) fn link_to(&mut self, server: SocketAddr) -> Link {
        if let Some(socket) = &self.socket {
            return Link::Udp(Arc::clone(socket), server);
        }
        let (stream, local) = RUNTIME.block_on(async {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind(SocketAddr::new(self.address.ip(), 0)).expect("a port");
            let stream = socket.connect(server).await.expect("a connection to the server");
            stream.set_nodelay(true).expect("a TCP socket");
            let local = stream.local_addr().expect("its address");
            (stream, local)
        });
        if self.address.port() == 0 {
            self.address = local;
        }
        let (reader, writer) = stream.into_split();
        let link = Link::Tcp(Arc::new(Mutex::new(writer)));
        let _within = RUNTIME.enter();
        self.readers.push(tokio::spawn(read_stream(reader, link.clone(), self.sender.clone())).abort_handle());
        link
    }

    /// What comes next, within `deadline`.
    pub(crate) fn hear(&self, deadline: Duration) -> Option<Heard> {
        self.heard.recv_timeout(deadline).ok()
    }

    #[track_caller]
    pub(crate) fn receive(&self) -> (Sip, Link) {
        match self.hear(DEADLINE) {
            Some(Heard::Message(message, link)) => (message, link),
            Some(Heard::Closed) => panic!("the connection was closed"),
            None => panic!("nothing came within {DEADLINE:?}"),
        }
    }

    /// The next message, which must be a response with this status to this method.
    #[track_caller]
    pub(crate) fn response(&self, status: u16, method: &str) -> Sip {
        let (message, _) = self.receive();
        assert_eq!((message.status(), message.method()), (status, method), "{message:?}");
        message
    }

    /// The next message, which must be a request of this method.
    #[track_caller]
    pub(crate) fn request(&self, method: &str) -> (Sip, Link) {
        let (message, link) = self.receive();
        assert_eq!((message.status(), message.method()), (0, method), "{message:?}");
        (message, link)
    }

    /// Nothing came that was not received yet. The server answers an OPTIONS on the same path after all that it had
    /// sent there before, so this needs no waiting.
    #[track_caller]
    pub(crate) fn expect_nothing_more(&self, link: &Link, server: SocketAddr) {
        link.send(options(self, server));
        let answer = self.response(200, "OPTIONS");
        assert_eq!(answer.header("Content-Length"), "0");
    }

    /// The other side closes the connection; nothing comes before that.
    #[track_caller]
    pub(crate) fn closed(&self) {
        match self.hear(DEADLINE) {
            Some(Heard::Closed) => {}
            Some(Heard::Message(message, _)) => panic!("a message instead of the end: {message:?}"),
            None => panic!("still open after {DEADLINE:?}"),
        }
    }

    /// `sent-by` of its Via, with the transport before it.
    pub(crate) fn via(&self) -> String {
        let branch = unique("z9hG4bK");
        format!("Via: SIP/2.0/{} {};rport;branch={branch}\r\n", self.transport.via_name(), self.address)
    }
}

/// A request to the server itself.
pub(crate) fn options(peer: &Peer, server: SocketAddr) -> String {
    format!(
        "OPTIONS sip:{server} SIP/2.0\r\n{}From: <sip:probe@127.0.0.1>;tag={}\r\nTo: <sip:{server}>\r\nCall-ID: {}\r\n\
         CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
        peer.via(),
        unique("t"),
        unique("options-"),
    )
}

async fn read_datagrams(socket: Arc<UdpSocket>, heard: mpsc::Sender<Heard>) {
    let mut buffer = vec![0; 65_536];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                let message = Sip::read(&buffer[..length]);
                if heard.send(Heard::Message(message, Link::Udp(Arc::clone(&socket), from))).is_err() {
                    return;
                }
            }
            // The port that something was sent to is closed.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(_) => return,
        }
    }
}

async fn accept(listener: TcpListener, heard: mpsc::Sender<Heard>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, heard.clone()));
    }
}

async fn serve(stream: TcpStream, heard: mpsc::Sender<Heard>) {
    stream.set_nodelay(true).expect("a TCP socket");
    let (reader, writer) = stream.into_split();
    read_stream(reader, Link::Tcp(Arc::new(Mutex::new(writer))), heard).await;
}

/// Cuts a stream into messages (RFC 3261 §18.3).
async fn read_stream(mut reader: OwnedReadHalf, link: Link, heard: mpsc::Sender<Heard>) {
    let mut buffer = Vec::new();
    loop {
        // The answer to a ping (RFC 5626 §4.4.1).
        let pong = buffer.iter().take_while(|byte| b"\r\n".contains(byte)).count();
        buffer.drain(..pong);
        while let Some(length) = message_length(&buffer) {
            let message = Sip::read(&buffer[..length]);
            buffer.drain(..length);
            if heard.send(Heard::Message(message, link.clone())).is_err() {
                return;
            }
        }
        if !matches!(reader.read_buf(&mut buffer).await, Ok(1..)) {
            // A test that does not ask need not hear of it.
            let _ = heard.send(Heard::Closed);
            return;
        }
    }
}

fn message_length(buffer: &[u8]) -> Option<usize> {
    let head = buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let message = Sip::read(&buffer[..head]);
    let body: usize = message.header("Content-Length").parse().expect("Content-Length on a stream");
    (buffer.len() >= head + body).then_some(head + body)
}

/// Looks until it is there, for what the server tells nobody.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    eventually_is(what, || look().ok_or("nothing"))
}

/// As [`eventually`]; `Err` is what there is instead.
#[track_caller]
pub(crate) fn eventually_is<T, E: std::fmt::Debug>(what: &str, look: impl FnMut() -> Result<T, E>) -> T {
    eventually_within(DEADLINE, what, look)
}

/// As [`eventually_is`], for what may take as long as this on a busy machine.
#[track_caller]
pub(crate) fn eventually_within<T, E: std::fmt::Debug>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, E>,
) -> T {
    #[expect(clippy::disallowed_methods, reason = "the deadline of a test")]
    let started = Instant::now();
    loop {
        let instead = match look() {
            Ok(found) => return found,
            Err(instead) => instead,
        };
        #[expect(clippy::disallowed_methods, reason = "the deadline of a test")]
        let waited = started.elapsed();
        assert!(waited < deadline, "not within {deadline:?}: {what}; there is {instead:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
