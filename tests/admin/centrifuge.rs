//! Centrifugo's client protocol at `/connection/websocket`, and what becomes of those who do not keep to it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use sip_push_proxy::admin::{Limits, LiveSettings};
use sip_push_proxy::binding::{Aor, DeviceId};
use sip_push_proxy::clock::UnixMillis;
use sip_push_proxy::config::Token;
use sip_push_proxy::events::What;
use sip_push_proxy::timeline::Step;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::{Listener, configured, patient};

const DEADLINE: Duration = Duration::from_secs(10);
const CHANNEL: &str = "push-proxy";

fn listener(token: Option<Token>, live: LiveSettings) -> Listener {
    Listener::serving(token, None, Limits::default(), live)
}

fn request(listener: &Listener, headers: &[(&'static str, &str)]) -> Request {
    let mut request = format!("ws://{}/connection/websocket", listener.address).into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    request
}

/// A client of `listener`, which says and hears frames of text.
struct Client<'l> {
    listener: &'l Listener,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl<'l> Client<'l> {
    fn new(listener: &'l Listener) -> Self {
        Self::with(listener, &[]).expect("a WebSocket")
    }

    /// With header fields; else the status that it is refused with.
    fn with(listener: &'l Listener, headers: &[(&'static str, &str)]) -> Result<Self, u16> {
        match listener.runtime.block_on(connect_async(request(listener, headers))) {
            Ok((socket, _)) => Ok(Self { listener, socket }),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// One that is connected, and the reply to that.
    fn connected(listener: &'l Listener, connect: &Value) -> (Self, Value) {
        let mut client = Self::new(listener);
        client.say(&json!({ "id": 1, "connect": connect }));
        let mut reply = client.hear();
        assert_eq!(reply["id"], 1, "{reply}");
        let reply = reply["connect"].take();
        assert!(reply.is_object());
        (client, reply)
    }

    fn say(&mut self, command: &Value) {
        self.send(Message::text(command.to_string()));
    }

    fn send(&mut self, message: Message) {
        self.listener.runtime.block_on(self.socket.send(message)).unwrap();
    }

    #[track_caller]
    fn next(&mut self) -> Option<Result<Message, Error>> {
        let next = async { tokio::time::timeout(DEADLINE, self.socket.next()).await };
        self.listener.runtime.block_on(next).expect("something in time")
    }

    /// The lines of the next frame.
    #[track_caller]
    fn hear_lines(&mut self) -> Vec<Value> {
        match self.next() {
            Some(Ok(Message::Text(text))) => text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
            other => panic!("no frame of text: {other:?}"),
        }
    }

    #[track_caller]
    fn hear(&mut self) -> Value {
        let mut lines = self.hear_lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.remove(0)
    }

    /// Offsets of the next publications, which may share frames.
    #[track_caller]
    fn publications(&mut self, count: usize) -> Vec<u64> {
        let mut offsets = vec![];
        while offsets.len() < count {
            for line in self.hear_lines() {
                assert_eq!(line["push"]["channel"], CHANNEL);
                offsets.push(line["push"]["pub"]["offset"].as_u64().expect("an offset"));
            }
        }
        offsets
    }

    /// The code that the connection ends with, after whatever else comes.
    #[track_caller]
    fn end(&mut self) -> u16 {
        loop {
            match self.next() {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(Message::Text(_))) => {}
                other => panic!("no end with a code: {other:?}"),
            }
        }
    }
}

fn publish(listener: &Listener, count: u64) {
    let online =
        |at| move || What::ClientOnline { aor: Aor::new("a", "h"), device: DeviceId([u8::try_from(at).unwrap(); 10]) };
    (1..=count).for_each(|at| listener.events.publish(UnixMillis(at), online(at)));
}

fn sub(reply: &Value) -> &Value {
    &reply["subs"][CHANNEL]
}

/// Asks for what came after what that reply says.
fn resume(reply: &Value, offset: u64) -> Value {
    json!({ "subs": { CHANNEL: { "recover": true, "epoch": sub(reply)["epoch"], "offset": offset } } })
}

#[test]
fn a_client_is_subscribed_and_gets_each_event() {
    let listener = listener(None, patient());
    let data = json!({ "application": "notifications", "settings": {} });
    let (mut client, reply) = Client::connected(&listener, &json!({ "data": data, "name": "js" }));
    assert_eq!(reply["client"].as_str().map(str::len), Some(16));
    assert_eq!(
        (&reply["ping"], &reply["pong"], &reply["version"]),
        (&3600.into(), &true.into(), &env!("CARGO_PKG_VERSION").into())
    );
    let place = json!({ "recoverable": true, "positioned": true, "epoch": "ab-1", "offset": 0 });
    assert_eq!(reply["subs"], json!({ CHANNEL: place }));
    publish(&listener, 1);
    let data = json!({
        "event": "clientOnline", "at": "1970-01-01T00:00:00.001Z", "aor": "a@h", "device": DeviceId([1; 10]).to_string(),
    });
    assert_eq!(client.hear(), json!({ "push": { "channel": CHANNEL, "pub": { "data": data, "offset": 1 } } }));
    let (_, second) = Client::connected(&listener, &json!({}));
    assert_eq!((sub(&second)["offset"].as_u64(), second["client"] == reply["client"]), (Some(1), false));
}

#[test]
fn commands_of_one_frame_have_their_replies() {
    let listener = listener(None, patient());
    let mut client = Client::new(&listener);
    let commands = [
        r#"{"id":1,"connect":{}}"#,
        "",
        r#"{"id":2,"ping":{}}"#,
        "{}",
        r#"{"send":{"data":{}}}"#,
        r#"{"id":3,"subscribe":{"channel":"push-proxy"}}"#,
        r#"{"id":4,"subscribe":{"channel":"news"}}"#,
        r#"{"id":5,"publish":{"channel":"push-proxy","data":{}}}"#,
        r#"{"id":6,"history":{"channel":"push-proxy"}}"#,
    ];
    client.send(Message::text(commands.join("\n")));
    let mut replies = client.hear_lines();
    assert!(replies.remove(0)["connect"].is_object());
    let error = |id: u8, code: u16, message: &str| json!({ "id": id, "error": { "code": code, "message": message } });
    let expected = [
        json!({ "id": 2, "ping": {} }),
        error(3, 105, "already subscribed"),
        error(4, 102, "unknown channel"),
        error(5, 108, "not available"),
        error(6, 108, "not available"),
    ];
    assert_eq!(replies, expected);
}

#[test]
fn what_is_no_command_or_out_of_turn_ends_the_connection() {
    let listener = listener(None, patient());
    for line in [
        "{",
        "connect",
        "[]",
        r#"{"id":1}"#,
        r#"{"connect":{}}"#,
        r#"{"id":1,"dance":{}}"#,
        "{}",
        r#"{"id":1,"ping":{}}"#,
    ] {
        let mut client = Client::new(&listener);
        client.send(Message::text(line));
        assert_eq!(client.end(), 3501, "{line}");
    }
    let mut client = Client::new(&listener);
    client.send(Message::binary(&br#"{"id":1,"connect":{}}"#[..]));
    assert_eq!(client.end(), 3501, "that is the other form of the protocol");
    let (mut client, _) = Client::connected(&listener, &json!({}));
    client.say(&json!({ "id": 2, "connect": {} }));
    assert_eq!(client.end(), 3501, "once is enough");
}

#[test]
fn what_is_too_long_ends_the_connection() {
    let listener = listener(None, patient());
    for (length, expected) in [(20_000, Some(1009)), (200_000, None)] {
        let (mut client, _) = Client::connected(&listener, &json!({}));
        // One that is not even read may be cut off while it is sent.
        let message = Message::text(" ".repeat(length));
        let _ = listener.runtime.block_on(client.socket.send(message));
        match expected {
            Some(code) => assert_eq!(client.end(), code),
            None => assert!(!matches!(client.next(), Some(Ok(Message::Text(_))))),
        }
    }
    assert_eq!(listener.json("GET /healthz").0, 200);
}

#[test]
fn a_client_shows_the_token_where_it_can() {
    let secret = "0123456789abcdef";
    let listener = listener(Some(configured("admin", secret).admin.token.unwrap()), patient());
    let settings = |token: Value| json!({ "data": { "application": "notifications", "settings": { "token": token } } });
    for connect in [
        json!({}),
        settings("".into()),
        settings("0123456789abcdeF".into()),
        settings(Value::Null),
        json!({ "token": "0123456789abcde" }),
        json!({ "data": { "token": secret } }),
    ] {
        let mut client = Client::new(&listener);
        client.say(&json!({ "id": 1, "connect": connect }));
        assert_eq!(client.end(), 3500, "{connect}");
    }
    for connect in [settings(secret.into()), json!({ "token": secret })] {
        let (mut client, _) = Client::connected(&listener, &connect);
        publish(&listener, 1);
        client.publications(1);
    }
    let header = format!("Bearer {secret}");
    let mut client = Client::with(&listener, &[("authorization", &header)]).unwrap();
    client.say(&json!({ "id": 1, "connect": {} }));
    assert!(client.hear()["connect"].is_object());
}

#[test]
fn a_token_of_its_own_follows_the_events_and_does_nothing_else() {
    let own = configured("events", "fedcba9876543210").events.token;
    let listener =
        listener(configured("admin", "0123456789abcdef").admin.token, LiveSettings { token: own, ..patient() });
    Client::connected(&listener, &json!({ "data": { "settings": { "token": "fedcba9876543210" } } }));
    let mut client = Client::new(&listener);
    client.say(&json!({ "id": 1, "connect": { "token": "0123456789abcdef" } }));
    assert_eq!(client.end(), 3500);
    let headers = "Host: localhost\r\nAuthorization: Bearer fedcba9876543210\r\n";
    assert_eq!(listener.ask("GET /api/v1/events", headers).0, 401);
}

#[test]
fn pages_of_other_hosts_have_to_be_named() {
    let own = |listener: &Listener| format!("http://{}", listener.address);
    for token in [None, Some(configured("admin", "0123456789abcdef").admin.token.unwrap())] {
        let listener = listener(token, patient());
        for origin in [&*own(&listener), "https://panel.example.org"] {
            assert!(Client::with(&listener, &[("origin", origin)]).is_ok(), "{origin}");
        }
        for origin in ["https://evil.example.org", "null", "http://panel.example.org"] {
            assert_eq!(Client::with(&listener, &[("origin", origin)]).err(), Some(403), "{origin}");
        }
    }
    let listener = listener(None, patient());
    assert_eq!(Client::with(&listener, &[("host", "evil.example.org")]).err(), Some(403));
    assert_eq!(listener.ask("GET /connection/websocket", "Host: evil.example.org\r\n").0, 403);
    let (status, answer) = listener.json("GET /connection/websocket");
    assert_eq!((status, answer["error"].is_string()), (400, true), "{answer}");
    assert_eq!(listener.json("POST /connection/websocket").0, 405);
}

#[test]
fn silence_ends_a_connection() {
    let soon = Duration::from_millis(20);
    let stranger = listener(None, LiveSettings { handshake: soon, ..patient() });
    assert_eq!(Client::new(&stranger).end(), 3502);
    let listener = listener(None, LiveSettings { ping: soon, ..patient() });
    let (mut client, reply) = Client::connected(&listener, &json!({}));
    assert_eq!(reply["ping"], 1);
    for _ in 0..3 {
        assert_eq!(client.hear(), json!({}));
        client.say(&json!({}));
    }
    let impatient = self::listener(None, LiveSettings { ping: soon, pong: soon, ..patient() });
    let (mut client, _) = Client::connected(&impatient, &json!({}));
    assert_eq!(client.hear(), json!({}));
    // A command is no answer. It may come when all is over.
    let command = Message::text(json!({ "id": 2, "ping": {} }).to_string());
    let _ = impatient.runtime.block_on(client.socket.send(command));
    assert_eq!(client.end(), 3012);
}

#[test]
fn a_client_that_comes_back_gets_what_it_missed() {
    let listener = listener(None, patient());
    let (mut client, reply) = Client::connected(&listener, &json!({}));
    publish(&listener, 3);
    assert_eq!(client.publications(3), [1, 2, 3]);
    let (mut other, _) = Client::connected(&listener, &json!({}));
    drop(client);
    publish(&listener, 2);
    assert_eq!(other.publications(2), [4, 5]);
    let (mut client, again) = Client::connected(&listener, &resume(&reply, 3));
    let found = sub(&again);
    assert_eq!(
        (&found["recovered"], &found["was_recovering"], &found["offset"]),
        (&true.into(), &true.into(), &3.into())
    );
    let publications = found["publications"].as_array().expect("what was missed");
    let offsets: Vec<_> = publications.iter().map(|publication| publication["offset"].as_u64()).collect();
    assert_eq!((offsets, &publications[0]["data"]["event"]), (vec![Some(4), Some(5)], &"clientOnline".into()));
    publish(&listener, 1);
    assert_eq!(client.publications(1), [6]);

    // Nothing was missed.
    let (_, again) = Client::connected(&listener, &resume(&reply, 6));
    assert_eq!((&sub(&again)["recovered"], &sub(&again)["publications"]), (&true.into(), &Value::Null));
    // More was missed than is kept, or it was another epoch, or a position that there is not.
    other.publications(1);
    for _ in 7..=15 {
        publish(&listener, 1);
        other.publications(1);
    }
    for lost in [resume(&reply, 6), resume(&json!({}), 15), resume(&reply, 99)] {
        let (_, again) = Client::connected(&listener, &lost);
        let expected = json!({
            "recoverable": true, "positioned": true, "epoch": "ab-1", "offset": 15, "was_recovering": true,
        });
        assert_eq!(sub(&again), &expected, "{lost}");
    }
}

#[test]
fn what_was_missed_comes_in_parts() {
    let listener = listener(None, LiveSettings { history_max: 1000, ..patient() });
    let (mut other, reply) = Client::connected(&listener, &json!({}));
    publish(&listener, 200);
    other.publications(200);
    let (mut client, again) = Client::connected(&listener, &resume(&reply, 0));
    let first = sub(&again)["publications"].as_array().expect("the first of them").len();
    assert_eq!((&sub(&again)["recovered"], &sub(&again)["offset"], first), (&true.into(), &0.into(), 64));
    publish(&listener, 1);
    assert_eq!(client.publications(137), (65..=201).collect::<Vec<_>>());
}

fn publish_large(listener: &Listener) {
    let detail = " ".repeat(64 * 1024).into();
    let what = || What::Call { call_ref: "x".into(), step: Step::Held, device: None, detail, why: None };
    listener.events.publish(UnixMillis(1), what);
}

#[test]
fn one_that_reads_nothing_does_not_keep_its_place() {
    let soon = Duration::from_millis(20);
    let listener = listener(None, LiveSettings { connections_max: 1, write: soon, ..patient() });
    let (_silent, _) = Client::connected(&listener, &json!({}));
    let mut next = Client::new(&listener);
    let is_connected = (0..10_000).any(|_| {
        publish_large(&listener);
        next.say(&json!({ "id": 1, "connect": {} }));
        next.hear()["connect"].is_object()
    });
    assert!(is_connected);
}

#[test]
fn one_that_reads_too_slowly_is_sent_to_come_back() {
    let listener = listener(None, LiveSettings { history_max: 64, ..patient() });
    let (mut slow, _) = Client::connected(&listener, &json!({}));
    let (mut quick, _) = Client::connected(&listener, &json!({}));
    // More than systems keep for a connection; what is kept for clients is less than that.
    for number in 1..=400 {
        publish_large(&listener);
        assert_eq!(quick.publications(1), [number]);
    }
    assert_eq!(slow.end(), 3008);
}

#[test]
fn clients_are_few_and_make_room_when_they_go() {
    let listener = listener(None, LiveSettings { connections_max: 1, ..patient() });
    let strangers: Vec<_> = (0..8).map(|_| Client::new(&listener)).collect();
    let (client, _) = Client::connected(&listener, &json!({}));
    let mut next = Client::new(&listener);
    let mut connect = || {
        next.say(&json!({ "id": 1, "connect": {} }));
        next.hear()
    };
    let expected = json!({ "code": 106, "message": "limit exceeded", "temporary": true });
    assert_eq!(connect()["error"], expected);
    drop((client, strangers));
    // The server sees that they are gone when it looks.
    assert!((0..10_000).any(|_| connect()["connect"].is_object()));
}

#[test]
fn connected_clients_are_counted() {
    let listener = listener(None, patient());
    let count = || {
        let (_, text) = listener.ask("GET /metrics", "Host: localhost\r\n");
        let line = text.lines().find_map(|line| line.strip_prefix("sip_push_proxy_events_clients "));
        line.map(|number| number.parse::<u32>().unwrap())
    };
    assert_eq!(count(), Some(0));
    let _stranger = Client::new(&listener);
    let clients = [Client::connected(&listener, &json!({})), Client::connected(&listener, &json!({}))];
    assert_eq!(count(), Some(2), "who has not shown a token is none");
    drop(clients);
    // The server sees that they are gone when it looks.
    assert!((0..10_000).any(|_| count() == Some(0)));
}

#[test]
fn strangers_make_room_for_each_other() {
    let listener = listener(None, patient());
    let mut strangers: Vec<_> = (0..33).map(|_| Client::new(&listener)).collect();
    assert_eq!(strangers[0].end(), 3011);
    let last = strangers.last_mut().unwrap();
    last.say(&json!({ "id": 1, "connect": {} }));
    assert!(last.hear()["connect"].is_object());
}

#[test]
fn a_stop_sends_clients_away_to_come_back() {
    let Listener { stop, runtime, events, address, timeline, summary, readiness } = listener(None, patient());
    let (silent, _silent) = tokio::sync::oneshot::channel();
    let listener =
        Listener { stop: silent, runtime, events: Arc::clone(&events), address, timeline, summary, readiness };
    let mut stranger = Client::new(&listener);
    let (mut client, _) = Client::connected(&listener, &json!({}));
    drop(stop);
    assert_eq!((client.end(), stranger.end()), (3001, 3001));
}
