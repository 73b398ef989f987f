//! The transport on loopback: real sockets, port 0, raw bytes.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test's way to say what it relies on, in its helpers too"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sip_push_proxy::sip::flow::{self, ConnectionId, Flow};
use sip_push_proxy::sip::framing::{FramingError, FramingErrorKind, FramingLimits};
use sip_push_proxy::transport::{
    self, Bound, Connections, Destination, Door, DropReason, Event, Inbound, Limits, SendError, Settings, Transport,
    WorkerSockets,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

const DEADLINE: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(200);
const OPTIONS: &[u8] = b"OPTIONS sip:a@b SIP/2.0\r\nContent-Length: 0\r\n\r\n";
const REFUSED: &[u8] = b"SIP/2.0 400 Bad Request\r\n\r\n";

const UDP: usize = 0;
const TCP: usize = 1;

/// A server of one or more workers, of which the test is the driver.
struct Server {
    addresses: Vec<SocketAddr>,
    workers: Vec<Transport>,
    inboxes: Vec<mpsc::Receiver<Event>>,
    connections: Connections,
    stop: watch::Sender<bool>,
}

struct Setup {
    workers: usize,
    inbox: usize,
    limits: Limits,
    door: Arc<dyn Door>,
}

/// Lets everybody in, and trusts nobody.
#[derive(Debug)]
struct Open;

impl Door for Open {
    fn is_trusted(&self, _peer: IpAddr) -> bool {
        false
    }

    fn admits_connection(&self, _peer: IpAddr) -> Result<(), DropReason> {
        Ok(())
    }

    fn admits(&self, _flow: &Flow, _message: &[u8]) -> Result<(), DropReason> {
        Ok(())
    }
}

/// Lets nothing in that says so.
#[derive(Debug)]
struct Strict {
    connections: Result<(), DropReason>,
}

impl Door for Strict {
    fn is_trusted(&self, _peer: IpAddr) -> bool {
        false
    }

    fn admits_connection(&self, _peer: IpAddr) -> Result<(), DropReason> {
        self.connections
    }

    fn admits(&self, _flow: &Flow, message: &[u8]) -> Result<(), DropReason> {
        match message.strip_prefix(b"OPTIONS sip:") {
            Some(uri) if uri.starts_with(b"often@") => Err(DropReason::SourceRate),
            Some(uri) if uri.starts_with(b"banned@") => Err(DropReason::Banned),
            Some(_) | None => Ok(()),
        }
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self { workers: 1, inbox: 16, limits: Limits::new(100), door: Arc::new(Open) }
    }
}

impl Setup {
    fn start(self) -> Server {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listen = [(flow::Transport::Udp, any), (flow::Transport::Tcp, any)];
        let Bound { listeners, workers, tcp } = transport::bind(&listen, self.workers).unwrap();
        let (senders, inboxes): (Vec<_>, Vec<_>) = (0..self.workers).map(|_| mpsc::channel(self.inbox)).unzip();
        let (stop, stopped) = watch::channel(false);
        let settings = Settings {
            limits: self.limits,
            framing: FramingLimits::default(),
            worker_of: |bytes, _, _| usize::from(bytes.ends_with(b"1")),
            refusal: |error: &FramingError| {
                (error.kind != FramingErrorKind::NotSip).then_some(Bytes::from_static(REFUSED))
            },
            door: self.door,
        };
        let connections = Connections::start(settings, Arc::clone(&listeners), tcp, senders, stopped).unwrap();
        let take = |(worker, sockets): (usize, WorkerSockets)| Transport::new(worker, sockets, connections.clone());
        Server {
            addresses: listeners.iter().map(|listener| listener.local).collect(),
            workers: workers.into_iter().enumerate().map(take).collect::<Result<_, _>>().unwrap(),
            inboxes,
            connections,
            stop,
        }
    }
}

impl Server {
    async fn phone(&self) -> TcpStream {
        within(TcpStream::connect(self.addresses[TCP])).await.unwrap()
    }

    /// A connection on which a message has been received.
    async fn phone_with_flow(&mut self) -> (TcpStream, Flow) {
        let mut phone = self.phone().await;
        phone.write_all(OPTIONS).await.unwrap();
        let flow = self.receives().await.flow;
        (phone, flow)
    }

    async fn event(&mut self) -> Event {
        within(self.inboxes[0].recv()).await.expect("the inbox is open")
    }

    async fn receives(&mut self) -> Inbound {
        let event = self.event().await;
        let Event::Received(inbound) = event else { panic!("{event:?} instead of a message") };
        inbound
    }

    async fn closes(&mut self) -> Flow {
        let event = self.event().await;
        let Event::Closed { flow } = event else { panic!("{event:?} instead of a close") };
        flow
    }

    /// Receives `count` datagrams with SIP in them.
    async fn receives_datagrams(&mut self, count: usize) -> Vec<Inbound> {
        let mut received = Vec::new();
        while received.len() < count {
            within(self.workers[0].readable()).await;
            self.workers[0].receive(&mut received);
        }
        received
    }

    fn send(&mut self, destination: Destination, bytes: impl Into<Bytes>, tag: u128) -> Vec<Event> {
        self.workers[0].send(destination, bytes.into(), tag);
        let mut failed = Vec::new();
        self.workers[0].flush(&mut failed);
        failed
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.connections.drops().total(reason)
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.expect("in time")
}

async fn reads(stream: &mut TcpStream, expected: &[u8]) {
    let mut read = vec![0; expected.len()];
    within(stream.read_exact(&mut read)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&read), String::from_utf8_lossy(expected));
}

/// What the stream still gives before it ends, in order or by a reset.
async fn reads_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = within(stream.read_to_end(&mut rest)).await;
    rest
}

fn tcp(remote: SocketAddr) -> Destination {
    Destination::Address { transport: flow::Transport::Tcp, listener: 0, remote }
}

fn udp(remote: SocketAddr) -> Destination {
    Destination::Address { transport: flow::Transport::Udp, listener: 0, remote }
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn datagrams_come_and_go_in_batches() {
    let mut server = Setup::default().start();
    let phone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let messages: Vec<Bytes> = (0..100).map(|number| Bytes::from(format!("MESSAGE {number}"))).collect();
    for message in &messages {
        phone.send_to(message, server.addresses[UDP]).await.unwrap();
    }
    let received = server.receives_datagrams(100).await;
    assert_eq!(received.iter().map(|inbound| inbound.bytes.clone()).collect::<Vec<_>>(), messages);
    let flow = received[0].flow;
    let expected = Flow {
        transport: flow::Transport::Udp,
        listener: 0,
        connection: ConnectionId::NONE,
        remote: phone.local_addr().unwrap(),
    };
    assert_eq!(flow, expected);

    for message in &messages {
        server.workers[0].send(Destination::Flow(flow), message.clone(), 1);
    }
    let mut failed = Vec::new();
    server.workers[0].flush(&mut failed);
    assert_eq!(failed, []);
    let mut buffer = [0; 100];
    for message in &messages {
        let (length, from) = within(phone.recv_from(&mut buffer)).await.unwrap();
        assert_eq!((&buffer[..length], from), (&message[..], server.addresses[UDP]));
    }
}

#[tokio::test]
async fn a_worker_sleeps_when_all_is_received() {
    let mut server = Setup::default().start();
    let phone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for round in 0..3 {
        phone.send_to(OPTIONS, server.addresses[UDP]).await.unwrap();
        assert_eq!(server.receives_datagrams(1).await.len(), 1, "round {round}");
        assert!(timeout(Duration::from_millis(20), server.workers[0].readable()).await.is_err(), "round {round}");
    }
}

#[tokio::test]
async fn a_datagram_may_have_sixty_kilobytes() {
    let mut server = Setup::default().start();
    let phone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let message = Bytes::from(vec![b'x'; 60_000]);
    phone.send_to(&message, server.addresses[UDP]).await.unwrap();
    let received = server.receives_datagrams(1).await;
    assert_eq!(received[0].bytes, message);
    assert_eq!(server.send(Destination::Flow(received[0].flow), message.clone(), 7), []);
    let mut buffer = vec![0; 65_536];
    let (length, _) = within(phone.recv_from(&mut buffer)).await.unwrap();
    assert_eq!(buffer[..length], message);
}

#[tokio::test]
async fn a_datagram_that_fails_does_so_alone() {
    let mut server = Setup::default().start();
    let phone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let remote = phone.local_addr().unwrap();
    for (length, tag) in [(10, 1), (65_530, 2), (20, 3), (65_530, 0), (30, 4)] {
        server.workers[0].send(udp(remote), Bytes::from(vec![b'x'; length]), tag);
    }
    let mut failed = Vec::new();
    server.workers[0].flush(&mut failed);
    assert_eq!(failed, [Event::SendFailed { tag: 2, error: SendError::TooLarge }]);
    assert_eq!(server.dropped(DropReason::UdpSendError), 2);
    let mut buffer = [0; 100];
    for length in [10, 20, 30] {
        assert_eq!(within(phone.recv(&mut buffer)).await.unwrap(), length);
    }
}

#[tokio::test]
async fn keep_alives_end_in_the_transport() {
    let mut server = Setup::default().start();
    let phone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let binding_request = b"\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl";
    for datagram in [&b""[..], b"\r\n\r\n", b"\0\0\0\0", binding_request, OPTIONS] {
        phone.send_to(datagram, server.addresses[UDP]).await.unwrap();
    }
    let received = server.receives_datagrams(1).await;
    assert_eq!(received.iter().map(|inbound| &inbound.bytes[..]).collect::<Vec<_>>(), [OPTIONS]);
    server.workers[0].flush(&mut Vec::new());
    let mut buffer = [0; 100];
    let length = within(phone.recv(&mut buffer)).await.unwrap();
    assert_eq!(
        buffer[..length],
        sip_push_proxy::sip::stun::binding_response(binding_request, phone.local_addr().unwrap()).unwrap()
    );
}

#[tokio::test]
async fn workers_share_an_address_and_nobody_else_does() {
    let server = Setup { workers: 3, ..Setup::default() }.start();
    for address in [(flow::Transport::Udp, server.addresses[UDP]), (flow::Transport::Tcp, server.addresses[TCP])] {
        for workers in [1, 3] {
            let error = transport::bind(&[address], workers).unwrap_err();
            assert_eq!(error.error.kind(), std::io::ErrorKind::AddrInUse);
            assert!(error.to_string().contains(&address.1.to_string()), "{error}");
        }
    }
    // Datagrams of many phones reach workers of all numbers.
    let mut reached = [0; 3];
    for _ in 0..60 {
        let phone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        phone.send_to(OPTIONS, server.addresses[UDP]).await.unwrap();
    }
    let mut workers = server.workers;
    let mut received = Vec::new();
    let until = Instant::now() + DEADLINE;
    while received.len() < 60 && Instant::now() < until {
        for (worker, count) in workers.iter_mut().zip(&mut reached) {
            *count += worker.receive(&mut received);
        }
        tokio::task::yield_now().await;
    }
    assert!(received.len() == 60 && reached.iter().all(|count| *count > 0), "{reached:?}");
}

/// RFC 3261 §18.2.1. Once in a while somebody else has the port, so one start of ten is enough.
#[tokio::test]
async fn tcp_listens_on_the_port_that_udp_got() {
    let is_same = |_| {
        let server = Setup::default().start();
        server.addresses[UDP] == server.addresses[TCP]
    };
    assert!((0..10).any(is_same));
}

#[tokio::test]
async fn ipv6_has_its_own_listeners() {
    let any =
        [(flow::Transport::Udp, "[::1]:0".parse().unwrap()), (flow::Transport::Udp, "127.0.0.1:0".parse().unwrap())];
    let Ok(Bound { listeners, mut workers, tcp }) = transport::bind(&any, 1) else {
        return; // A machine without IPv6 has nothing to test.
    };
    let settings = Settings {
        limits: Limits::new(1),
        framing: FramingLimits::default(),
        worker_of: |_, _, _| 0,
        refusal: |_| None,
        door: Arc::new(Open),
    };
    let (_stop, stopped) = watch::channel(false);
    let connections = Connections::start(settings, Arc::clone(&listeners), tcp, Vec::new(), stopped).unwrap();
    let mut worker = Transport::new(0, workers.remove(0), connections).unwrap();
    for index in [0, 1] {
        let local = listeners[index].local;
        let phone = UdpSocket::bind((local.ip(), 0)).await.unwrap();
        phone.send_to(OPTIONS, local).await.unwrap();
        let mut received = Vec::new();
        while received.is_empty() {
            within(worker.readable()).await;
            worker.receive(&mut received);
        }
        assert_eq!(received[0].flow.remote, phone.local_addr().unwrap());
        assert_eq!(usize::from(received[0].flow.listener), index);
        worker.send(udp(received[0].flow.remote), Bytes::from_static(b"answer"), 0);
        worker.flush(&mut Vec::new());
        assert_eq!(within(phone.recv_from(&mut [0; 10])).await.unwrap(), (6, local));
    }
}

#[tokio::test]
async fn a_torn_stream_is_put_together() {
    let mut server = Setup::default().start();
    let mut phone = server.phone().await;
    phone.set_nodelay(true).unwrap();
    let body = b"MESSAGE sip:a SIP/2.0\r\nl: 4\r\n\r\nbody";
    for byte in [OPTIONS, b"\r\n", body].concat() {
        phone.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let first = server.receives().await;
    assert_eq!(first.bytes, OPTIONS);
    assert_eq!((first.flow.transport, first.flow.listener), (flow::Transport::Tcp, 1));
    assert_eq!(first.flow.remote, phone.local_addr().unwrap());
    assert_eq!(server.receives().await, Inbound { flow: first.flow, bytes: Bytes::from_static(body) });

    // Both ways, and many at once.
    for number in 0..100 {
        assert_eq!(server.send(Destination::Flow(first.flow), format!("answer {number:03}"), 1), []);
    }
    for number in 0..100 {
        reads(&mut phone, format!("answer {number:03}").as_bytes()).await;
    }
}

#[tokio::test]
async fn a_ping_gets_its_pong() {
    let server = Setup::default().start();
    let mut phone = server.phone().await;
    for _ in 0..3 {
        phone.write_all(b"\r\n\r\n").await.unwrap();
        reads(&mut phone, b"\r\n").await;
    }
}

/// For who waits for one: a request, or a line end. A REGISTER tells of itself, and a response answers something older.
#[tokio::test]
async fn a_sign_of_life_on_a_connection_is_told_once() {
    let mut server = Setup::default().start();
    let (mut phone, flow) = server.phone_with_flow().await;
    let register = b"REGISTER sip:a SIP/2.0\r\nl: 0\r\n\r\n";
    for sign in [&b"\r\n"[..], b"\r\n\r\n", OPTIONS] {
        server.workers[0].connections().expect(flow.connection);
        for message in [&register[..], b"SIP/2.0 200 OK\r\nl: 0\r\n\r\n"] {
            phone.write_all(message).await.unwrap();
            assert_eq!(server.receives().await.bytes, message);
        }
        phone.write_all(sign).await.unwrap();
        if sign == OPTIONS {
            assert_eq!(server.receives().await.bytes, OPTIONS);
        }
        assert_eq!(server.event().await, Event::Heard { flow });
        phone.write_all(OPTIONS).await.unwrap();
        assert_eq!(server.receives().await.bytes, OPTIONS);
    }
    phone.shutdown().await.unwrap();
    assert_eq!(server.closes().await, flow);
    server.workers[0].connections().expect(flow.connection);
}

#[tokio::test]
async fn a_message_must_be_complete_in_time() {
    let limits = Limits { partial_timeout: SHORT, ..Limits::new(10) };
    let mut server = Setup { limits, ..Setup::default() }.start();
    let (mut phone, flow) = server.phone_with_flow().await;
    let started = Instant::now();
    let (mut reader, mut writer) = phone.split();
    // More bytes of the same message do not buy more time.
    let drip = async {
        loop {
            if writer.write_all(b"I").await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(SHORT / 8).await;
        }
    };
    let mut rest = Vec::new();
    tokio::select! {
        ended = within(reader.read_to_end(&mut rest)) => drop(ended),
        () = drip => {}
    }
    assert!((SHORT..SHORT * 5).contains(&started.elapsed()), "{:?}", started.elapsed());
    assert_eq!(server.closes().await, flow);
    assert_eq!(server.dropped(DropReason::PartialTimeout), 1);
}

#[tokio::test]
async fn who_has_said_something_may_be_silent() {
    let limits = Limits { partial_timeout: SHORT, silent_timeout: SHORT, ..Limits::new(10) };
    let mut server = Setup { limits, ..Setup::default() }.start();
    let mut silent = server.phone().await;
    let (_phone, flow) = server.phone_with_flow().await;
    assert_eq!(reads_to_end(&mut silent).await, b"");
    assert_eq!(server.closes().await.remote, silent.local_addr().unwrap());
    assert!(timeout(SHORT * 2, server.inboxes[0].recv()).await.is_err());
    assert!(server.connections.is_open(flow.connection));
}

#[tokio::test]
async fn what_is_not_sip_is_closed_at_once() {
    let mut server = Setup::default().start();
    for stream in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut scanner = server.phone().await;
        scanner.write_all(stream).await.unwrap();
        assert_eq!(reads_to_end(&mut scanner).await, b"");
        server.closes().await;
    }
    assert_eq!(server.dropped(DropReason::NotSip), 2);
}

#[tokio::test]
async fn what_cannot_be_framed_is_answered_and_closed() {
    let mut server = Setup::default().start();
    let mut phone = server.phone().await;
    let request = [OPTIONS, b"INVITE sip:a SIP/2.0\r\nl: -1\r\n\r\n", &[b'x'; 5000]].concat();
    phone.write_all(&request).await.unwrap();
    assert_eq!(server.receives().await.bytes, OPTIONS);
    reads(&mut phone, REFUSED).await;
    assert_eq!(reads_to_end(&mut phone).await, b"");
    drop(phone);
    server.closes().await;
    assert_eq!(server.dropped(DropReason::BadFraming), 1);
}

#[tokio::test]
async fn what_is_not_let_in_goes_no_further() {
    let door = Arc::new(Strict { connections: Ok(()) });
    let mut server = Setup { door, ..Setup::default() }.start();
    let (mut phone, _) = server.phone_with_flow().await;
    let to = |user: &str| format!("OPTIONS sip:{user}@b SIP/2.0\r\nContent-Length: 0\r\n\r\n").into_bytes();
    phone.write_all(&[to("often"), to("often"), OPTIONS.to_vec()].concat()).await.unwrap();
    assert_eq!(server.receives().await.bytes, OPTIONS);
    assert_eq!(server.dropped(DropReason::SourceRate), 2);
    phone.write_all(&[to("banned"), OPTIONS.to_vec()].concat()).await.unwrap();
    assert_eq!(reads_to_end(&mut phone).await, b"");
    server.closes().await;
    assert_eq!(server.dropped(DropReason::Banned), 1);
}

#[tokio::test]
async fn connections_of_a_banned_peer_are_closed() {
    let door = Arc::new(Strict { connections: Err(DropReason::Banned) });
    let server = Setup { door, ..Setup::default() }.start();
    let mut phone = server.phone().await;
    assert_eq!(reads_to_end(&mut phone).await, b"");
    assert_eq!((server.dropped(DropReason::Banned), server.connections.open()), (1, 0));
}

#[tokio::test]
async fn connections_have_a_limit() {
    for (limits, reason) in [
        (Limits::new(2), DropReason::ConnectionLimit),
        (Limits { connections_per_source: 2, ..Limits::new(9) }, DropReason::SourceLimit),
    ] {
        let mut server = Setup { limits, ..Setup::default() }.start();
        let (first, flow) = server.phone_with_flow().await;
        let _second = server.phone_with_flow().await;
        let mut third = server.phone().await;
        assert_eq!(reads_to_end(&mut third).await, b"");
        assert_eq!(server.dropped(reason), 1);
        // A place that becomes free is given again.
        drop(first);
        assert_eq!(server.closes().await, flow);
        let _ = within(async {
            while server.connections.open() > 1 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let _fourth = server.phone_with_flow().await;
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_closed() {
    let limits = Limits { queue_messages: 50, queue_bytes: 100_000, ..Limits::new(10) };
    let mut server = Setup { limits, ..Setup::default() }.start();
    let (phone, flow) = server.phone_with_flow().await;
    let message = Bytes::from(vec![b'x'; 1000]);
    let mut sent = 0u128;
    // What the system buffers is not ours; what we queue is at most 50 messages more.
    let refused = within(async {
        loop {
            sent += 1;
            if let [failed] = &server.send(Destination::Flow(flow), message.clone(), sent)[..] {
                return failed.clone();
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(refused, Event::SendFailed { tag: sent, error: SendError::QueueFull });
    let mut failed = Vec::new();
    loop {
        match server.event().await {
            Event::SendFailed { tag, error: SendError::NotConnected } => failed.push(tag),
            Event::Closed { flow: closed } => break assert_eq!(closed, flow),
            event @ (Event::Received(_) | Event::Heard { .. } | Event::SendFailed { .. }) => panic!("{event:?}"),
        }
    }
    // All that was queued is reported, in order, each once. Beside the queue there is what was being written.
    let oldest = failed[0];
    assert_eq!(failed, (oldest..sent).collect::<Vec<_>>());
    assert!((50..=50 + 32).contains(&failed.len()), "{}", failed.len());
    assert_eq!(server.dropped(DropReason::QueueFull), 1);
    drop(phone);
}

#[tokio::test]
async fn a_worker_that_is_behind_slows_its_peers_down() {
    let mut server = Setup { inbox: 1, ..Setup::default() }.start();
    let mut phone = server.phone().await;
    let body = vec![b'x'; 50_000];
    let message = [format!("MESSAGE sip:a SIP/2.0\r\nl: {}\r\n\r\n", body.len()).as_bytes(), &body].concat();
    let mut sent = 0;
    let mut written = 0;
    // Writes until nothing is taken for a while: the worker takes nothing, so neither does its transport.
    while let Ok(count) = timeout(SHORT, phone.write(&message[written..])).await {
        written = (written + count.unwrap()) % message.len();
        sent += usize::from(written == 0);
        assert!(sent < 2000, "100 megabytes are not kept for one peer");
    }
    let rest = message[written..].to_vec();
    let finish = async {
        phone.write_all(&rest).await.unwrap();
        phone
    };
    let receive = async {
        for _ in 0..=sent {
            assert_eq!(server.receives().await.bytes.len(), message.len());
        }
    };
    let (_phone, ()) = within(async { tokio::join!(finish, receive) }).await;
}

#[tokio::test]
async fn a_connection_that_cannot_be_opened_fails_its_messages() {
    let mut server = Setup::default().start();
    let remote = nobody().await;
    for tag in [1, 0, 2] {
        assert_eq!(server.send(tcp(remote), OPTIONS, tag), []);
    }
    for tag in [1, 2] {
        assert_eq!(server.event().await, Event::SendFailed { tag, error: SendError::ConnectFailed });
    }
    assert_eq!(server.dropped(DropReason::ConnectFailed), 1, "one attempt for all three");
    within(async {
        while server.connections.open() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn our_end_of_each_way_is_known() {
    let mut server = Setup::default().start();
    let phone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    phone.send_to(OPTIONS, server.addresses[UDP]).await.unwrap();
    let by_datagram = server.receives_datagrams(1).await[0].flow;
    assert_eq!(server.workers[0].local_of(&Destination::Flow(by_datagram)), Some(server.addresses[UDP]));
    let (phone, flow) = server.phone_with_flow().await;
    assert_eq!(server.workers[0].local_of(&Destination::Flow(flow)), Some(phone.peer_addr().unwrap()));
    // One that is not there is where it would be listened for; without a listener there is no way.
    let gone = Flow { connection: ConnectionId(1), ..flow };
    assert_eq!(server.workers[0].local_of(&Destination::Flow(gone)), Some(server.addresses[TCP]));
    let nowhere =
        Destination::Address { transport: flow.transport, listener: 0, remote: "[::1]:5060".parse().unwrap() };
    assert_eq!(server.workers[0].local_of(&nowhere), None);
}

#[tokio::test]
async fn a_connection_is_opened_once_and_used_again() {
    let mut server = Setup::default().start();
    let softswitch = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let remote = softswitch.local_addr().unwrap();
    for _ in 0..3 {
        assert_eq!(server.send(tcp(remote), OPTIONS, 1), []);
    }
    let (mut peer, from) = within(softswitch.accept()).await.unwrap();
    reads(&mut peer, &OPTIONS.repeat(3)).await;
    assert_eq!(server.workers[0].local_of(&tcp(remote)), Some(from));
    peer.write_all(b"SIP/2.0 200 OK\r\nl: 0\r\n\r\n").await.unwrap();
    let flow = server.receives().await.flow;
    assert_eq!((flow.remote, server.connections.connect(1, remote)), (remote, Ok(flow)));
    assert_eq!(server.send(Destination::Flow(flow), OPTIONS, 1), []);
    assert_eq!(server.send(tcp(remote), OPTIONS, 1), []);
    reads(&mut peer, &OPTIONS.repeat(2)).await;

    // After its end the next message opens another.
    drop(peer);
    assert_eq!(server.closes().await, flow);
    let gone = server.send(Destination::Flow(flow), OPTIONS, 5);
    assert_eq!(gone, [Event::SendFailed { tag: 5, error: SendError::NotConnected }]);
    assert_eq!(server.send(tcp(remote), OPTIONS, 6), []);
    let (mut peer, _) = within(softswitch.accept()).await.unwrap();
    reads(&mut peer, OPTIONS).await;
    assert_ne!(server.connections.connect(1, remote).unwrap().connection, flow.connection);
}

#[tokio::test]
async fn a_phones_own_connection_is_the_way_to_its_address() {
    let mut server = Setup::default().start();
    let (mut phone, _) = server.phone_with_flow().await;
    assert_eq!(server.send(tcp(phone.local_addr().unwrap()), OPTIONS, 1), []);
    reads(&mut phone, OPTIONS).await;
    assert_eq!(server.connections.open(), 1);
}

#[tokio::test]
async fn without_a_listener_nothing_leaves() {
    let mut server = Setup::default().start();
    let v6: SocketAddr = "[::1]:5060".parse().unwrap();
    for destination in [tcp(v6), udp(v6)] {
        let failed = server.send(destination, OPTIONS, 3);
        assert_eq!(failed, [Event::SendFailed { tag: 3, error: SendError::NoListener }]);
    }
}

#[tokio::test]
async fn messages_find_their_worker() {
    let mut server = Setup { workers: 2, ..Setup::default() }.start();
    let mut phone = server.phone().await;
    for worker in [0, 1, 1, 0] {
        phone.write_all(format!("SIP/2.0 200 OK\r\nl: 1\r\n\r\n{worker}").as_bytes()).await.unwrap();
        let event = within(server.inboxes[worker].recv()).await.unwrap();
        assert!(matches!(event, Event::Received(_)), "{event:?}");
    }
    // Requests of one address go to one worker, whatever the connection.
    let mut phones = Vec::new();
    for _ in 0..10 {
        let mut phone = server.phone().await;
        phone.write_all(OPTIONS).await.unwrap();
        phones.push(phone);
    }
    let [first, second] = &mut server.inboxes[..] else { unreachable!() };
    let (inbox, other) = within(async {
        tokio::select! {
            _ = first.recv() => (first, second),
            _ = second.recv() => (second, first),
        }
    })
    .await;
    for _ in 1..10 {
        assert!(matches!(within(inbox.recv()).await, Some(Event::Received(_))));
    }
    assert!(other.try_recv().is_err());
    // A failure is told to the worker whose message it was, a close to all.
    let nobody = nobody().await;
    server.workers[1].send(tcp(nobody), Bytes::from_static(OPTIONS), 9);
    let failed = Event::SendFailed { tag: 9, error: SendError::ConnectFailed };
    assert_eq!(within(server.inboxes[1].recv()).await.unwrap(), failed);
    drop(phone);
    for inbox in &mut server.inboxes {
        assert!(matches!(within(inbox.recv()).await, Some(Event::Closed { .. })));
    }
}

#[tokio::test]
async fn a_stop_closes_all_and_says_the_last_words() {
    let mut server = Setup::default().start();
    let (mut phone, flow) = server.phone_with_flow().await;
    let mut silent = server.phone().await;
    silent.write_all(b"\r\n\r\n").await.unwrap();
    reads(&mut silent, b"\r\n").await;
    assert_eq!(server.send(Destination::Flow(flow), &b"last words"[..], 1), []);
    server.stop.send(true).unwrap();
    assert_eq!(reads_to_end(&mut phone).await, b"last words");
    assert_eq!(reads_to_end(&mut silent).await, b"");
    within(server.connections.closed()).await;
    assert_eq!(server.connections.open(), 0);
    within(async {
        while TcpStream::connect(server.addresses[TCP]).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_thousand_connections_leave_nothing_behind() {
    let setup = Setup { limits: Limits::new(2000), inbox: 4096, ..Setup::default() };
    let mut server = setup.start();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let mut phones = Vec::new();
    for _ in 0..1000 {
        phones.push(server.phone_with_flow().await);
    }
    assert_eq!((server.connections.open(), tasks()), (1000, before + 1000));
    let mut connections: Vec<ConnectionId> = phones.iter().map(|(_, flow)| flow.connection).collect();
    connections.dedup();
    assert_eq!(connections.len(), 1000);
    drop(phones);
    for _ in 0..1000 {
        connections.retain({
            let closed = server.closes().await.connection;
            move |connection| *connection != closed
        });
    }
    assert_eq!(connections, []);
    within(async {
        while tasks() > before {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(server.connections.open(), 0);
}

/// As the server does it: connections on one runtime, a worker on a thread of its own.
#[test]
fn a_worker_has_its_own_thread() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listen = [(flow::Transport::Udp, any), (flow::Transport::Tcp, any)];
        let Bound { listeners, mut workers, tcp } = transport::bind(&listen, 1).unwrap();
        let sockets = workers.remove(0);
        let (sender, inbox) = mpsc::channel(4);
        let (stop, stopped) = watch::channel(false);
        let settings = Settings {
            limits: Limits::new(100),
            framing: FramingLimits::default(),
            worker_of: |_, _, _| 0,
            refusal: |_| None,
            door: Arc::new(Open),
        };
        let connections =
            Connections::start(settings, Arc::clone(&listeners), tcp, vec![sender], stopped.clone()).unwrap();
        let softswitch = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let next_hop = softswitch.local_addr().unwrap();
        let all = connections.clone();
        let worker = std::thread::spawn(move || forward_all(sockets, all, inbox, stopped, next_hop));

        let phone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        phone.send_to(OPTIONS, listeners[UDP].local).await.unwrap();
        let (mut peer, _) = within(softswitch.accept()).await.unwrap();
        reads(&mut peer, OPTIONS).await;
        for _ in 0..50 {
            let mut phone = within(TcpStream::connect(listeners[TCP].local)).await.unwrap();
            phone.write_all(&OPTIONS.repeat(20)).await.unwrap();
            reads(&mut peer, &OPTIONS.repeat(20)).await;
        }
        stop.send(true).unwrap();
        within(connections.closed()).await;
        worker.join().unwrap();
    });
}

/// Sends whatever comes to `next_hop` until the stop.
fn forward_all(
    sockets: WorkerSockets,
    connections: Connections,
    mut inbox: mpsc::Receiver<Event>,
    mut stopped: watch::Receiver<bool>,
    next_hop: SocketAddr,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut transport = Transport::new(0, sockets, connections).unwrap();
        let mut received = Vec::new();
        loop {
            tokio::select! {
                () = transport.readable() => drop(transport.receive(&mut received)),
                event = inbox.recv() => match event {
                    Some(Event::Received(inbound)) => received.push(inbound),
                    Some(Event::Closed { .. } | Event::Heard { .. } | Event::SendFailed { .. }) | None => {}
                },
                _ = stopped.wait_for(|stop| *stop) => return,
            }
            for inbound in received.drain(..) {
                transport.send(tcp(next_hop), inbound.bytes, 1);
            }
            transport.flush(&mut Vec::new());
        }
    });
}

#[tokio::test]
async fn a_later_run_has_higher_connection_numbers() {
    let mut numbers = Vec::new();
    for _ in 0..3 {
        let mut server = Setup::default().start();
        let (_first, _) = server.phone_with_flow().await;
        numbers.push(server.phone_with_flow().await.1.connection);
        // Runs within one millisecond would need a faster machine than there is.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(numbers.is_sorted_by(|earlier, later| earlier < later), "{numbers:?}");
}
