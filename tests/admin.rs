//! The admin listener over a real socket: its routes, its JSON, and who is let in.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

#[path = "admin/centrifuge.rs"]
mod centrifuge;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use sip_push_proxy::admin::{
    self, Answering, Held, Limits, Live, LiveSettings, Notifications, Pushed, Pushing, Recall, Recalled, Recalling,
    Refusal, ReloadError, Reloading, Removing, Source, State, TextWish, Ticket, TokenWish,
};
use sip_push_proxy::binding::{Aor, App, Binding, DeviceId, Provider, PushTarget, PushToken, Tokens};
use sip_push_proxy::clock::UnixMillis;
use sip_push_proxy::config::{Config, Token, Values};
use sip_push_proxy::events::{Events, What};
use sip_push_proxy::guard::{self, Ban};
use sip_push_proxy::metrics::{self, Metrics};
use sip_push_proxy::push::{NoticeKind, Outcome};
use sip_push_proxy::readiness::{Part, Readiness};
use sip_push_proxy::sip::flow::{ConnectionId, Flow, Transport};
use sip_push_proxy::store::{BucketEntry, EntryState, HeldCall, HeldCallId, StoreError};
use sip_push_proxy::summary::Summary;
use sip_push_proxy::timeline::{Reason, Step, Timeline, Why};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

const SECRET: &str = "cNqVqDy2TzU:APA91b-very-secret";
const ALICE: DeviceId = DeviceId([1; 10]);
const BOB: DeviceId = DeviceId([2; 10]);

fn binding(user: &str, device: DeviceId, expires_at: u64) -> Arc<Binding> {
    let contact = format!("sip:{user}@192.0.2.7:5060;ob;pn-provider=fcm;pn-param=acme;pn-prid={SECRET}");
    Arc::new(Binding {
        aor: Aor::new(user, "example.org"),
        device,
        instance: None,
        reg_id: None,
        label: None,
        contact: contact.into_bytes().into(),
        contact_params: Box::default(),
        path: Box::default(),
        flow: Flow {
            transport: Transport::Udp,
            listener: 0,
            connection: ConnectionId::NONE,
            remote: "192.0.2.7:5060".parse().unwrap(),
        },
        home: None,
        call_id: "x".into(),
        cseq: 1,
        registered_at: UnixMillis(1_625_158_716_000),
        expires_at: UnixMillis(expires_at),
        push: Some(PushTarget {
            provider: Provider::Fcm,
            prid: PushToken::new(SECRET),
            param: "acme".into(),
            tokens: Tokens::Single,
            others: Box::default(),
        }),
        push_refused: None,
        app: App { user_agent: Some("Phone/1".into()), locale: None },
        upstream: None,
    })
}

/// A server that knows alice and bob.
struct Two(Mutex<Vec<Arc<Binding>>>, Arc<Timeline>);

impl Source for Two {
    fn recall(&self, what: Recall) -> Recalling<'_> {
        let (calls, partial) = match what {
            Recall::Call(call_ref) => (self.1.call(&call_ref).into_iter().collect(), None),
            Recall::Aor(aor, limit) => (self.1.calls_for(&aor, limit), Some("Redis is away".to_owned())),
            Recall::Last(limit) => (self.1.calls(limit), None),
        };
        Box::pin(std::future::ready(Recalled { calls, partial }))
    }

    fn bindings(&self, aor: &Aor) -> Vec<Arc<Binding>> {
        self.0.lock().iter().filter(|binding| binding.aor == *aor).cloned().collect()
    }

    fn page(&self, after: Option<&Aor>, part: &str, limit: usize) -> Vec<Arc<Binding>> {
        let bindings = self.0.lock();
        let later = bindings.iter().filter(|binding| after.is_none_or(|after| binding.aor > *after));
        later.filter(|binding| binding.aor.as_str().contains(part)).take(limit).cloned().collect()
    }

    fn admits(&self, _binding: &Binding) -> Result<(), Why> {
        Ok(())
    }

    fn bucket(&self, device: &DeviceId) -> Vec<Arc<BucketEntry>> {
        let entry = BucketEntry {
            call_ref: "call-1".into(),
            remote_uri: "103".into(),
            display_name: "Ivan".into(),
            anonymous: false,
            invited_at: UnixMillis(1_625_158_716_000),
            state: EntryState::Missed,
        };
        if *device == ALICE { vec![Arc::new(entry)] } else { Vec::new() }
    }

    fn held(&self, limit: usize) -> (Vec<Held>, usize) {
        let call = HeldCall {
            id: HeldCallId(7),
            call_ref: "call-1".into(),
            aor: Aor::new("alice", "example.org"),
            invite: bytes::Bytes::new(),
            flow: binding("alice", ALICE, 0).flow,
            to_tag: "t".into(),
            held_at: UnixMillis(1_625_158_716_000),
            until: UnixMillis(1_625_158_744_000),
            devices: vec![ALICE],
        };
        let entry = self.bucket(&ALICE).into_iter().next();
        let held = [
            Held { call: Arc::new(call.clone()), entry, node: None },
            Held { call: Arc::new(call), entry: None, node: Some("node-2".into()) },
        ];
        (held.into_iter().take(limit).collect(), 2)
    }

    fn push_services(&self) -> BTreeMap<Provider, Vec<String>> {
        BTreeMap::from([(Provider::Fcm, vec![]), (Provider::Apns, vec!["apns team T: fails: 503".to_owned()])])
    }

    fn remove(&self, aor: Aor, device: DeviceId) -> Removing<'_> {
        Box::pin(async move {
            let mut bindings = self.0.lock();
            let before = bindings.len();
            bindings.retain(|binding| binding.aor != aor || binding.device != device);
            if aor.as_str() == "broken@example.org" { Err(StoreError::Busy) } else { Ok(bindings.len() < before) }
        })
    }

    fn push(&self, aor: Aor, is_dry: bool) -> Pushing<'_> {
        let bindings = self.bindings(&aor);
        Box::pin(async move {
            let pushed = |binding: &Arc<Binding>| Pushed {
                device: binding.device,
                provider: Some(Provider::Fcm),
                notice: NoticeKind::Test,
                preview: Err("switched off".to_owned()),
                answer: (!is_dry).then_some((Outcome::Limited, Duration::from_millis(7))),
            };
            bindings.iter().map(pushed).collect()
        })
    }

    fn reload(&self) -> Reloading<'_> {
        Box::pin(async { Err(ReloadError("config.toml:1:1: hold.wait_s: wrong".to_owned())) })
    }

    fn settings(&self) -> Arc<Values> {
        Arc::default()
    }

    fn bans(&self) -> Vec<Ban> {
        let ban = Ban {
            source: "2001:db8::/64".parse().unwrap(),
            reason: "wrong password",
            since: UnixMillis(1_625_158_716_000),
            until: UnixMillis(1_625_159_016_000),
            failures: 20,
        };
        vec![ban]
    }

    fn lift(&self, source: guard::Source) -> bool {
        self.bans().iter().any(|ban| ban.source == source)
    }

    fn measure(&self, metrics: &Metrics) {
        metrics.bindings.set(i64::try_from(self.0.lock().len()).unwrap());
    }
}

/// A running listener; it ends with the value.
struct Listener {
    address: SocketAddr,
    timeline: Arc<Timeline>,
    summary: Arc<Summary>,
    events: Arc<Events>,
    readiness: Arc<Readiness>,
    stop: oneshot::Sender<()>,
    runtime: Runtime,
}

/// Nothing of a client of live events is cut off by time.
fn patient() -> LiveSettings {
    let hour = Duration::from_secs(3600);
    LiveSettings {
        channel: "push-proxy".to_owned(),
        token: None,
        origins: vec!["https://panel.example.org".into()],
        connections_max: 4,
        history_max: 8,
        handshake: hour,
        ping: hour,
        pong: hour,
        write: hour,
    }
}

/// A server that binds nothing and tells nobody.
struct Nobody;

impl Notifications for Nobody {
    fn bind(&self, wish: TokenWish) -> Answering<'_, DeviceId> {
        Box::pin(async move { Err(Refusal::Conflict(format!("{} {}", wish.kind, wish.token))) })
    }

    fn unbind(&self, _token: Box<str>) -> Answering<'_, bool> {
        Box::pin(async { Ok(false) })
    }

    fn ticket(&self, aor: &str) -> Result<Ticket, Refusal> {
        Err(Refusal::Conflict(aor.to_owned()))
    }

    fn tell(&self, _wish: TextWish) -> Answering<'_, Vec<Pushed>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

impl Listener {
    fn start(token: Option<Token>) -> Self {
        Self::with(token, None)
    }

    fn with(token: Option<Token>, notification_token: Option<Token>) -> Self {
        Self::limited(token, notification_token, Limits::default())
    }

    fn limited(token: Option<Token>, notification_token: Option<Token>, limits: Limits) -> Self {
        Self::serving(token, notification_token, limits, patient())
    }

    fn serving(token: Option<Token>, notification_token: Option<Token>, limits: Limits, live: LiveSettings) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let bindings = vec![binding("alice", ALICE, u64::MAX), binding("bob", BOB, 0)];
        let (timeline, summary, events, readiness) =
            <(Arc<Timeline>, Arc<Summary>, Arc<Events>, Arc<Readiness>)>::default();
        let state = State {
            source: Arc::new(Two(Mutex::new(bindings), Arc::clone(&timeline))),
            summary: Arc::clone(&summary),
            events: Arc::clone(&events),
            live: Arc::new(Live::new(live, &events, 0xab)),
            metrics: Arc::new(Metrics::new()),
            readiness: Arc::clone(&readiness),
            notifications: Arc::new(Nobody),
            notification_token,
            webhook_secret: None,
            token,
        };
        let (stop, stopped) = oneshot::channel();
        runtime.spawn(admin::serve(listener, state, limits, async {
            let _ = stopped.await;
        }));
        Self { address, timeline, summary, events, readiness, stop, runtime }
    }

    /// Status and body of the answer to a request with these header lines.
    fn ask(&self, request: &str, headers: &str) -> (u16, String) {
        let (head, body) = self.answer(request, headers);
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
    }

    /// Head and body of the answer.
    fn answer(&self, request: &str, headers: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(stream, "{request} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        (head.to_owned(), body.to_owned())
    }

    fn json(&self, request: &str) -> (u16, Value) {
        let (status, body) = self.ask(request, "Host: localhost\r\n");
        (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body} is not JSON")))
    }
}

#[test]
fn health_and_readiness() {
    let listener = Listener::start(None);
    assert_eq!(listener.json("GET /healthz"), (200, json!({ "status": "ok" })));
    let (status, answer) = listener.json("GET /readyz");
    assert_eq!((status, answer), (503, json!({ "status": "not_ready", "reasons": ["start: the server starts"] })));
    listener.readiness.well(Part::Start);
    assert_eq!(listener.json("GET /readyz"), (200, json!({ "status": "ready", "reasons": [] })));
    listener.readiness.failed(Part::Sip, "worker 1 does not go on");
    assert_eq!(listener.json("GET /healthz"), (503, json!({ "status": "stuck" })));
}

/// Nothing is cut off by time.
fn few_connections(connections: usize) -> Listener {
    let patient = Duration::from_secs(3600);
    let limits = Limits { connections, head: patient, body: patient, answer: patient, ..Limits::default() };
    Listener::limited(None, None, limits)
}

#[test]
fn silent_clients_keep_nobody_out() {
    let listener = few_connections(4);
    let mut silent: Vec<_> = (0..100).map(|_| TcpStream::connect(listener.address).unwrap()).collect();
    for stream in silent.iter_mut().step_by(2) {
        // One that is cut off already is as good.
        let head = "POST /api/v1/push HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
        let _ = write!(stream, "{head}Content-Length: 9\r\n\r\n{{");
    }
    for path in ["/healthz", "/metrics", "/api/v1/bindings"] {
        assert_eq!(listener.ask(&format!("GET {path}"), "Host: localhost\r\n").0, 200, "{path}");
    }
    assert_eq!(listener.ask("GET /readyz", "Host: localhost\r\n").0, 503, "it says that the server starts");
}

/// Sends a body without end, an octet at a time; what the server says to it.
fn drips(listener: &Listener) -> String {
    let mut stream = TcpStream::connect(listener.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let head = "POST /api/v1/push HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    write!(stream, "{head}Transfer-Encoding: chunked\r\n\r\n").unwrap();
    let (mut answer, mut part) = (Vec::new(), [0; 1024]);
    for _ in 0..1000 {
        let is_open = stream.write_all(b"1\r\n \r\n").is_ok();
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => answer.extend(&part[..count]),
            Err(_) if is_open => {}
            Err(_) => break,
        }
    }
    String::from_utf8(answer).unwrap()
}

/// Somebody who watches the events.
struct Watcher(BufReader<TcpStream>);

impl Watcher {
    fn new(listener: &Listener) -> Self {
        let mut stream = TcpStream::connect(listener.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut watcher = Self(BufReader::new(stream));
        assert_eq!(watcher.line(), "HTTP/1.1 200 OK");
        while !watcher.line().is_empty() {}
        watcher
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The next event is that of a device that registers now.
    fn sees_what_happens(&mut self, listener: &Listener) {
        let aor = Aor::new("alice", "example.org");
        listener.events.publish(UnixMillis(1), || What::ClientOnline { aor, device: ALICE });
        let is_event = |line: &String| line.starts_with("event: ");
        assert_eq!(std::iter::repeat_with(|| self.line()).find(is_event).unwrap(), "event: clientOnline");
    }
}

#[test]
fn a_body_that_comes_too_slowly_is_cut_off_and_a_stream_is_not() {
    let soon = Duration::from_millis(50);
    let listener = Listener::limited(None, None, Limits { body: soon, answer: soon, ..Limits::default() });
    let mut watcher = Watcher::new(&listener);
    let answer = drips(&listener);
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("connection: close"), "{answer}");
    watcher.sees_what_happens(&listener);
}

#[test]
fn a_head_that_comes_too_slowly_is_cut_off() {
    let soon = Duration::from_millis(50);
    let listener = Listener::limited(None, None, Limits { head: soon, ..Limits::default() });
    let mut stream = TcpStream::connect(listener.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    let mut answer = String::new();
    assert_eq!(stream.read_to_string(&mut answer).unwrap(), 0, "{answer}");
}

#[test]
fn health_is_told_while_all_connections_are_busy() {
    let listener = few_connections(2);
    let mut watchers = [Watcher::new(&listener), Watcher::new(&listener)];
    // The places for this are only a few, too.
    let _silent: Vec<_> = (0..20).map(|_| TcpStream::connect(listener.address).unwrap()).collect();
    for (path, expected) in [("/healthz", 200), ("/metrics", 200), ("/readyz", 503), ("/api/v1/bindings", 503)] {
        let (head, body) = listener.answer(&format!("GET {path}"), "Host: localhost\r\n");
        assert!(head.starts_with(&format!("HTTP/1.1 {expected} ")), "{path}: {head}");
        assert_eq!(head.contains("retry-after"), path.starts_with("/api"), "{path}: {head}\n{body}");
    }
    for watcher in &mut watchers {
        watcher.sees_what_happens(&listener);
    }
}

#[test]
fn a_connection_may_ask_many_things() {
    let listener = few_connections(1);
    let mut stream = TcpStream::connect(listener.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for _ in 0..3 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut lines = reader.by_ref().lines().map(|line| line.unwrap());
        assert_eq!(lines.next().unwrap(), "HTTP/1.1 200 OK");
        assert!(lines.by_ref().any(|line| line.is_empty()));
        let mut body = [0; r#"{"status":"ok"}"#.len()];
        reader.read_exact(&mut body).unwrap();
        assert_eq!(body, *br#"{"status":"ok"}"#);
    }
    // Between two questions it is the one that others need not wait for.
    assert_eq!(listener.ask("GET /healthz", "Host: localhost\r\n").0, 200);
}

#[test]
fn metrics_are_measured_when_asked() {
    let (status, text) = Listener::start(None).ask("GET /metrics", "Host: localhost\r\n");
    assert_eq!(status, 200);
    assert!(text.contains("\nsip_push_proxy_bindings 2\n"), "{text}");
    assert!(text.contains("# TYPE sip_push_proxy_calls_total counter\n"), "{text}");
}

#[test]
fn metrics_are_open_metrics_for_those_who_ask() {
    // As Prometheus asks.
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n";
    let headers = format!("Host: localhost\r\n{accept}");
    let (status, text) = Listener::start(None).ask("GET /metrics", &headers);
    assert_eq!(status, 200);
    assert!(text.contains("# TYPE sip_push_proxy_calls counter\n"), "{text}");
    assert!(text.ends_with("\n# EOF\n"), "{text}");
}

#[test]
fn bindings_without_their_tokens() {
    let listener = Listener::start(None);
    let (status, answer) = listener.json("GET /api/v1/bindings?aor=sip:alice@EXAMPLE.org");
    assert_eq!(status, 200);
    assert!(!answer.to_string().contains("APA91b"), "{answer}");
    let expected = json!({ "bindings": [{
        "id": ALICE.to_string(),
        "aor": "alice@example.org",
        "contact": "sip:alice@192.0.2.7:5060;ob",
        "provider": "fcm",
        "pn_param": "acme",
        // By sha256sum.
        "tokens": [{ "for": "any", "sha256": "651b4f5d" }],
        "push_refused": null,
        "reachable": true,
        "flow": "udp:192.0.2.7:5060",
        "registered_at": "2021-07-01T16:58:36.000Z",
        "expires_at": u64::MAX.to_string(),
        "upstream_expires_at": null,
        "upstream_refused": null,
        "instance": null,
        "label": null,
        "user_agent": "Phone/1",
        "locale": null,
        "source": "register",
    }]});
    assert_eq!(answer, expected);
    assert_eq!(listener.json("GET /api/v1/bindings?aor=nobody@example.org"), (200, json!({ "bindings": [] })));
}

#[test]
fn all_bindings_by_pages() {
    let listener = Listener::start(None);
    let names = |answer: &Value| {
        let list = answer.get("bindings").and_then(Value::as_array).unwrap().iter();
        list.map(|binding| binding.get("aor").unwrap().as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (_, all) = listener.json("GET /api/v1/bindings");
    assert_eq!((names(&all), all.get("next")), (vec!["alice@example.org".into(), "bob@example.org".into()], None));
    let (_, first) = listener.json("GET /api/v1/bindings?limit=1");
    assert_eq!(
        (names(&first), first.get("next")),
        (vec!["alice@example.org".into()], Some(&"alice@example.org".into()))
    );
    let (_, second) = listener.json("GET /api/v1/bindings?limit=1&after=alice@example.org");
    assert_eq!(names(&second), ["bob@example.org"]);
    assert_eq!(listener.json("GET /api/v1/bindings?limit=x").0, 400);
    let (_, found) = listener.json("GET /api/v1/bindings?contains=ob%40ex");
    assert_eq!(names(&found), ["bob@example.org"]);
    assert_eq!(listener.json("GET /api/v1/bindings?contains=Bob").1, json!({ "bindings": [] }));
}

#[test]
fn a_binding_is_removed_once() {
    let listener = Listener::start(None);
    let request = format!("DELETE /api/v1/bindings/alice%40example.org/{ALICE}");
    assert_eq!(listener.json(&request), (200, json!({ "removed": true })));
    assert_eq!(listener.json(&request), (404, json!({ "error": "no such binding" })));
    assert_eq!(listener.json("DELETE /api/v1/bindings/alice@example.org/xyz").0, 404);
    let (status, answer) = listener.json(&format!("DELETE /api/v1/bindings/broken@example.org/{ALICE}"));
    assert_eq!((status, answer), (503, json!({ "error": "the store's queue is full" })));
}

#[test]
fn calls_and_their_steps() {
    let listener = Listener::start(None);
    let timeline = &listener.timeline;
    timeline.record("a/1@pbx", UnixMillis(0), Step::Received, None, "from 103", None);
    timeline.record(
        "a/1@pbx",
        UnixMillis(1),
        Step::PushRefused,
        Some(ALICE),
        "fcm",
        Some(&Why::new(Reason::TokenDead, "UNREGISTERED")),
    );
    timeline.end("a/1@pbx", metrics::Outcome::PushFailed);
    timeline.record("b", UnixMillis(2), Step::Received, None, "", None);
    let call = json!({ "call_ref": "a/1@pbx", "outcome": "push_failed", "steps": [
        { "at": "1970-01-01T00:00:00.000Z", "step": "received", "device": null, "detail": "from 103", "reason": "",
          "code": null },
        { "at": "1970-01-01T00:00:00.001Z", "step": "push_refused", "device": ALICE.to_string(), "detail": "fcm",
          "reason": "UNREGISTERED", "code": "token_dead" },
    ]});
    assert_eq!(listener.json("GET /api/v1/calls/a%2F1@pbx"), (200, call.clone()));
    let (_, all) = listener.json("GET /api/v1/calls");
    let all = all.get("calls").and_then(Value::as_array).unwrap().clone();
    assert_eq!((all.len(), all.last()), (2, Some(&call)));
    assert_eq!(all.first().unwrap().get("outcome"), Some(&Value::Null));
    assert_eq!(listener.json("GET /api/v1/calls/c").0, 404);
    let (_, of_alice) = listener.json("GET /api/v1/calls?aor=alice@example.org");
    assert_eq!(of_alice, json!({ "calls": [], "partial": "Redis is away" }));
}

#[test]
fn buckets() {
    let listener = Listener::start(None);
    let entry = json!({ "call_ref": "call-1", "remote_uri": "103", "date": "2021-07-01T16:58:36.000Z",
        "state": "missed", "display_name": "Ivan", "device": ALICE.to_string() });
    assert_eq!(listener.json("GET /api/v1/buckets/alice@example.org"), (200, json!({ "entries": [entry] })));
    assert_eq!(listener.json("GET /api/v1/buckets/nobody@example.org"), (200, json!({ "entries": [] })));
}

#[test]
fn held_calls() {
    let listener = Listener::start(None);
    let held = json!({ "call_ref": "call-1", "aor": "alice@example.org", "remote_uri": "103", "display_name": "Ivan",
        "devices": [ALICE.to_string()], "held_at": "2021-07-01T16:58:36.000Z", "until": "2021-07-01T16:59:04.000Z",
        "left_ms": 0, "node": null });
    assert_eq!(listener.json("GET /api/v1/held?limit=1"), (200, json!({ "held": [held], "total": 2 })));
    let (_, all) = listener.json("GET /api/v1/held");
    let other = &all["held"][1];
    assert_eq!((&other["node"], &other["remote_uri"]), (&json!("node-2"), &Value::Null));
    assert_eq!(listener.json("GET /api/v1/held?limit=x").0, 400);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the last hour is the one before the request")]
fn the_last_hour() {
    let listener = Listener::start(None);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = UnixMillis(u64::try_from(now.as_millis()).unwrap());
    let long_ago = UnixMillis(now.0 - 90 * 60_000);
    for step in [Step::Received, Step::Held, Step::PushAccepted] {
        listener.timeline.record("a", now, step, None, "", None);
    }
    listener.summary.ended(&listener.timeline.call("a").unwrap(), now);
    listener.summary.pushed(Provider::WebPush, metrics::PushResult::TokenDead, "410 Gone", long_ago);
    listener.summary.pushed(Provider::Fcm, metrics::PushResult::Accepted, "", now);
    listener.summary.woken(Provider::Fcm, Duration::from_millis(13), now);
    let (status, answer) = listener.json("GET /api/v1/summary");
    let provider = |name: &str, enabled: bool, troubles: Value, numbers: [u64; 3], wake: Value, last: Value| {
        json!({ "provider": name, "enabled": enabled, "troubles": troubles, "accepted": numbers[0],
            "refused": numbers[1], "last_refusal": last, "wakes": numbers[2], "wake_p50_ms": wake, "wake_p90_ms": wake,
            "wake_p99_ms": wake })
    };
    let gone = json!({ "at": long_ago.to_rfc3339(), "result": "token_dead", "reason": "410 Gone" });
    let expected = json!({
        "span_s": 3600,
        "calls": { "held": 1, "push_accepted": 1, "woken": 0, "answered": 0 },
        "providers": [
            provider("fcm", true, json!([]), [1, 0, 1], json!(13), Value::Null),
            provider("apns", true, json!(["apns team T: fails: 503"]), [0; 3], Value::Null, Value::Null),
            // Switched off, but it has refused something.
            provider("webpush", false, json!([]), [0; 3], Value::Null, gone),
        ],
        "store": { "up": false, "journal_entries": 0, "nodes": 0, "bindings": 2, "bucket_entries": 0 },
    });
    assert_eq!((status, answer), (200, expected));
}

#[test]
fn console_needs_no_token_and_nothing_from_elsewhere() {
    let listener = Listener::start(configured("admin", "0123456789abcdef\n").admin.token);
    let headers = "Host: proxy.example.org\r\n";
    let (head, page) = listener.answer("GET /", headers);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut files: Vec<_> = page.split('"').filter(|part| part.starts_with("/console/")).map(str::to_owned).collect();
    let mut seen = 0;
    while let Some(file) = files.get(seen).cloned() {
        seen += 1;
        let (head, text) = listener.answer(&format!("GET {file}"), headers);
        assert!(head.starts_with("HTTP/1.1 200"), "{file}: {head}");
        for line in ["x-content-type-options: nosniff", "cache-control: no-store"] {
            assert!(head.contains(line), "{file} has no {line}: {head}");
        }
        assert!(head.contains("content-security-policy: default-src 'none'; script-src 'self';"), "{file}: {head}");
        let imports = text.split("from \"./").skip(1).filter_map(|rest| rest.split('"').next());
        for import in imports.map(|name| format!("/console/{name}")) {
            if !files.contains(&import) {
                files.push(import);
            }
        }
        assert!(!text.contains("innerHTML") && !text.contains("https://"), "{file}");
    }
    assert!(files.len() >= 8, "{files:?}");
    for forbidden in ["<script>", " style=", " onclick=", "https://"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    assert_eq!(listener.ask("GET /console/nothing.js", headers).0, 401);
    assert_eq!(listener.ask("GET /api/v1/summary", headers).0, 401);
    assert_eq!(listener.ask("GET /api/v1/held", headers).0, 401);
}

#[test]
fn errors_are_json() {
    let listener = Listener::start(None);
    assert_eq!(listener.json("GET /nothing"), (404, json!({ "error": "there is nothing here" })));
    assert_eq!(listener.json("POST /healthz"), (405, json!({ "error": "not by this method" })));
}

#[test]
fn pages_of_others_are_kept_out() {
    let listener = Listener::start(None);
    let status = |headers: &str| listener.ask("GET /api/v1/bindings", headers).0;
    assert_eq!(status(&format!("Host: {}\r\n", listener.address)), 200);
    assert_eq!(status("Host: rebound.example.org\r\n"), 403);
    assert_eq!(status("Host: localhost\r\nOrigin: https://example.org\r\n"), 403);
    assert_eq!(status("Host: localhost\r\nSec-Fetch-Site: cross-site\r\n"), 403);
}

/// What stands in `token_file` of that section.
fn configured(section: &str, token: &str) -> Config {
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("token"), token).unwrap();
    let text = "[softswitch]\nuri = \"sip:192.0.2.1\"\n[sip]\nadvertise = \"a.org\"\n";
    let text = format!("{text}[{section}]\ntoken_file = \"token\"\n");
    Config::parse(&text, &folder.path().join("config.toml")).unwrap()
}

#[test]
fn a_token_of_its_own_opens_notifications_and_nothing_else() {
    let own = configured("notification", "fedcba9876543210\n").notification.token;
    let asked = |listener: &Listener, request: &str, token: &str| {
        listener.ask(request, &format!("Host: proxy.example.org\r\nAuthorization: Bearer {token}\r\n"))
    };
    let listener = Listener::with(configured("admin", "0123456789abcdef\n").admin.token, own);
    for request in ["POST /notification/token", "DELETE /notification/token", "POST /notification/post"] {
        let (status, body) = asked(&listener, request, "0123456789abcdef");
        assert_eq!((status, body.contains("notification.token_file")), (401, true), "{request}: {body}");
        // A request without a body is let in, and is wrong.
        assert_eq!(asked(&listener, request, "fedcba9876543210").0, 400, "{request}");
    }
    assert_eq!(asked(&listener, "GET /api/v1/calls", "fedcba9876543210").0, 401);
    assert_eq!(asked(&listener, "GET /notification/token", "fedcba9876543210").0, 405);

    let listener = Listener::start(configured("admin", "0123456789abcdef\n").admin.token);
    assert_eq!(asked(&listener, "POST /notification/post", "0123456789abcdef").0, 400);
    assert_eq!(asked(&listener, "POST /notification/post", "").0, 401);
    let listener = Listener::start(None);
    assert_eq!(listener.ask("POST /notification/post", "Host: localhost\r\n").0, 400);
    assert_eq!(listener.ask("POST /notification/post", "Host: rebound.example.org\r\n").0, 403);
}

#[test]
fn the_token_opens() {
    let listener = Listener::start(configured("admin", "0123456789abcdef\n").admin.token);
    for path in ["/healthz", "/metrics", "/api/v1/calls"] {
        let status = |authorization: &str| {
            let headers = format!("Host: proxy.example.org\r\n{authorization}");
            listener.ask(&format!("GET {path}"), &headers).0
        };
        assert_eq!(status("Authorization: Bearer 0123456789abcdef\r\n"), 200, "{path}");
        assert_eq!(status(""), 401, "{path}");
        assert_eq!(status("Authorization: Bearer 0123456789abcdeF\r\n"), 401, "{path}");
        assert_eq!(status("Authorization: Basic  0123456789abcdef\r\n"), 401, "{path}");
    }
}
