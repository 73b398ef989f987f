//! Live events: what an operator's panel sees of a call while it happens.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use serde_json::Value;
use sip_push_proxy::sip::Transport::Udp;

use crate::admin::Admin;
use crate::peer::{DEADLINE, eventually_is};
use crate::phone::{Phone, Push};
use crate::world::{Mode, Store, World};

/// A watcher of `/api/v1/events`.
struct Watch(BufReader<TcpStream>);

impl Watch {
    fn begin(admin: Admin) -> Self {
        let mut stream = TcpStream::connect(admin.0).expect("the admin listener");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        write!(stream, "GET /api/v1/events HTTP/1.1\r\nHost: {}\r\n\r\n", admin.0).expect("sent");
        let mut watch = Self(BufReader::new(stream));
        let head: Vec<_> = std::iter::from_fn(|| Some(watch.line())).take_while(|line| !line.is_empty()).collect();
        assert_eq!(head[0], "HTTP/1.1 200 OK");
        assert!(head.iter().any(|line| line == "content-type: text/event-stream"), "{head:?}");
        watch
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line in time");
        line.trim_end().to_owned()
    }

    /// The next event: its name and what it says.
    #[track_caller]
    fn next(&mut self) -> (String, Value) {
        let mut name = String::new();
        loop {
            // Chunk lengths and comments stand between.
            let line = self.line();
            if let Some(event) = line.strip_prefix("event: ") {
                name = event.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (name, serde_json::from_str(data).expect("JSON"));
            }
        }
    }

    /// The next event but for the provider's answer, which may come before its phone, after it, or after the call.
    #[track_caller]
    fn next_sure(&mut self) -> (String, Value) {
        loop {
            let (name, event) = self.next();
            if name != "pushAccepted" {
                return (name, event);
            }
        }
    }

    /// Names of the events up to this one.
    #[track_caller]
    fn until(&mut self, last: &str) -> Vec<String> {
        let mut names: Vec<String> = vec![];
        while names.last().is_none_or(|name| name != last) {
            names.push(self.next_sure().0);
        }
        names
    }
}

const STORY: [&str; 7] =
    ["callReceived", "deviceFound", "callHeld", "pushSent", "clientOnline", "clientReturned", "callForwarded"];

#[test]
fn call_is_seen_while_it_happens() {
    let mut world = World::start(Mode::Open, Udp);
    let mut watch = Watch::begin(world.admin);
    let mut phone = Phone::new("alice", Push::Fcm, Udp);
    phone.register(&mut world);
    let (name, online) = watch.next();
    assert_eq!((&*name, &online["aor"], &online["event"]), ("clientOnline", &phone.aor().into(), &name.clone().into()));
    phone.sleep();
    let call = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    phone.register(&mut world);
    let incoming = phone.invited();
    incoming.answer(200, "OK");
    call.confirm(&world.switch.response(200, "INVITE"));
    incoming.confirmed();
    let mut expected = STORY.map(str::to_owned).to_vec();
    expected.push("callAnswered".to_owned());
    assert_eq!(watch.until("callAnswered"), expected);
    phone.expires = Some(0);
    phone.refresh(&mut world);
    let (name, offline) = watch.next_sure();
    assert_eq!(
        (&*name, &offline["device"], &offline["reason"]),
        ("clientOffline", &online["device"], &"it unregistered".into())
    );
}

#[test]
fn device_that_the_operator_removes_is_seen_to_leave() {
    let mut world = World::start(Mode::Open, Udp);
    let mut watch = Watch::begin(world.admin);
    let mut phone = Phone::new("alice", Push::Fcm, Udp);
    phone.register(&mut world);
    let (_, online) = watch.next();
    let device = online["device"].as_str().expect("a device");
    assert_eq!(world.admin.delete(&format!("/api/v1/bindings/{}/{device}", phone.aor())), 200);
    let (name, offline) = watch.next();
    assert_eq!(
        (&*name, &offline["device"], &offline["reason"]),
        ("clientOffline", &online["device"], &"the operator removed it".into())
    );
}

#[test]
fn watchers_are_few_and_make_room_when_they_go() {
    let world = World::start(Mode::Open, Udp);
    let watches: Vec<_> = (0..16).map(|_| Watch::begin(world.admin)).collect();
    assert_eq!(world.admin.status("GET", "/api/v1/events"), 503);
    drop(watches);
    // The server sees that they are gone when it tells them something.
    eventually_is("room for a watcher", || {
        let mut phone = Phone::new("alice", Push::Fcm, Udp);
        phone.wake(&world);
        phone.send_register();
        phone.peer().response(200, "REGISTER");
        let status = world.admin.status_of_head("/api/v1/events");
        if status == 200 { Ok(()) } else { Err(status) }
    });
}

#[test]
fn stream_has_the_events_as_centrifugo_takes_them() {
    let config = "events.redis_stream = 'calls'\nevents.channel = 'panel'\n";
    let mut world = World::with_program_on(Store::Redis, Mode::Open, Udp, config);
    let mut phone = Phone::new("alice", Push::Fcm, Udp);
    phone.register(&mut world);
    phone.sleep();
    let call = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    crate::held_call::give_up(&world, &call, "");
    let redis = world.redis();
    let entries = eventually_is("the end of the call in the stream", || {
        let listed = redis.ask(&["XRANGE", "calls", "-", "+"]);
        if listed.contains("callMissed") { Ok(listed) } else { Err(listed) }
    });
    let lines: Vec<_> = entries.lines().collect();
    let mut keys = std::collections::BTreeSet::new();
    let mut names = vec![];
    for entry in lines.chunks(5) {
        let [_, method, publish, name, payload] = entry else { panic!("{entry:?}") };
        assert_eq!((*method, *publish, *name), ("method", "publish", "payload"));
        let payload: Value = serde_json::from_str(payload).expect("JSON");
        assert_eq!(payload["channel"], "panel");
        assert!(keys.insert(payload["idempotency_key"].as_str().expect("a key").to_owned()));
        names.push(payload["data"]["payload"]["event"].as_str().expect("a name").to_owned());
    }
    names.retain(|name| name != "pushAccepted");
    let expected =
        ["clientOnline", "callReceived", "deviceFound", "callHeld", "pushSent", "callCancelled", "callMissed"];
    assert_eq!(names, expected);
    world.admin.expect_metric("events_lost", 0.0);
}
