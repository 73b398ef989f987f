//! Tokens that apps bind by HTTP, calls that wake them, and texts that a back end sends.

use serde_json::{Value, json};
use sip_push_proxy::demo::Recorded;
use sip_push_proxy::sip::Transport::Udp;

use crate::held_call::{answered, give_up};
use crate::peer::{DEADLINE, RUNTIME};
use crate::phone::{Phone, Push};
use crate::world::{Mode, World};

const TOKEN: &str = "/notification/token";
const POST: &str = "/notification/post";

fn bind(world: &World, recipient: &str, token: &str, locale: &str) -> String {
    let body = json!({
        "recipient_id": recipient, "token": token, "recipient_type": "USEDESK_CHAT", "locale": locale,
    });
    world.admin.post(TOKEN, &body)["id"].as_str().expect("an id").to_owned()
}

/// The status, and the reason in words.
fn refused(world: &World, method: &str, path: &str, body: &Value) -> (u16, String) {
    let (status, answer) = world.admin.send(method, path, "", body);
    (status, answer["error"].as_str().expect("a reason").to_owned())
}

#[track_caller]
fn pushed_by_fcm(world: &World) -> Recorded {
    let push = RUNTIME.block_on(async { tokio::time::timeout(DEADLINE, world.fcm.next()).await });
    push.expect("a push")
}

/// Token and type of the next push by FCM.
#[track_caller]
fn pushed(world: &World) -> (String, String) {
    let json = pushed_by_fcm(world).json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&json["message"]["token"]), text(&json["message"]["data"]["type"]))
}

fn expect_push(world: &World, token: &str, kind: &str) {
    assert_eq!(pushed(world), (token.to_owned(), kind.to_owned()));
}

/// A phone of alice's that says nothing of push, and the token of its app.
fn phone_and_token(world: &mut World) -> (Phone, String) {
    let mut phone = Phone::new("alice", Push::None, Udp);
    phone.register(world);
    (phone, bind(world, "alice@example.org", "app-token:1", "ru"))
}

/// Unregisters as the phone likes it, by its Contact.
pub(crate) fn unregister(phone: &mut Phone, world: &mut World) {
    let expires = phone.expires.replace(0);
    phone.refresh(world);
    phone.expires = expires;
    phone.sleep();
    world.switch.forgets(&phone.aor());
}

fn a_token_wakes_the_phone(mode: Mode) {
    let mut world = World::start(mode, Udp);
    let (mut phone, id) = phone_and_token(&mut world);
    unregister(&mut phone, &mut world);
    let bindings = world.admin.bindings(&phone.aor());
    let shown = ["id", "source", "provider", "locale", "contact"].map(|key| bindings[0][key].clone());
    assert_eq!((bindings.len(), shown), (1, [json!(id), json!("token_api"), json!("fcm"), json!("ru"), json!("")]));
    assert!(!bindings[0].to_string().contains("app-token"), "{bindings:?}");

    let call = world.call(&phone);
    world.switch.queued();
    expect_push(&world, "app-token:1", "invite");
    world.admin.expect_bucket(&phone.aor(), &[(&call.call_id, "live")]);
    phone.register(&mut world);
    answered(&world, &phone, &call);
    world.admin.expect_bucket(&phone.aor(), &[]);
    assert_eq!(world.pushes(), 1);

    // The next one it misses.
    unregister(&mut phone, &mut world);
    let call = world.call(&phone);
    world.switch.queued();
    expect_push(&world, "app-token:1", "invite");
    give_up(&world, &call, "");
    world.admin.expect_bucket(&phone.aor(), &[(&call.call_id, "missed")]);
    phone.register(&mut world);
    expect_push(&world, "app-token:1", "missed_calls");
    world.admin.expect_bucket(&phone.aor(), &[]);
    phone.expect_nothing_more(&world);
    world.stop();
}

#[test]
fn a_token_wakes_the_phone_behind_a_registrar() {
    a_token_wakes_the_phone(Mode::Alias);
}

#[test]
fn a_token_wakes_the_phone_behind_a_registrar_with_path() {
    a_token_wakes_the_phone(Mode::Path);
}

#[test]
fn a_token_wakes_the_phone_of_our_own_registrar() {
    a_token_wakes_the_phone(Mode::Digest);
}

#[test]
fn missed_calls_are_told_in_the_language_of_the_token() {
    let alerts = "[push]\nalert_language = 'en'\n[[push.alert]]\nlanguage = 'en'\n[[push.alert]]\nlanguage = 'ru'\n\
                  title = 'Пропущенные'\none = '{count} звонок'\nother = '{count} звонков'\n";
    let mut world = World::with(Mode::Open, Udp, alerts);
    let mut phone = Phone::new("alice", Push::None, Udp);
    phone.register(&mut world);
    world.admin.post(
        TOKEN,
        &json!({
            "recipient_id": "sip:alice@example.org", "token": "00FFAA", "recipient_type": "apns", "locale": "ru_RU",
            "param": "DEF123GHIJ.org.example.phone",
        }),
    );
    unregister(&mut phone, &mut world);
    let call = world.call(&phone);
    world.switch.queued();
    let next = || RUNTIME.block_on(async { tokio::time::timeout(DEADLINE, world.apns.next()).await });
    let invite = next().expect("a push");
    assert_eq!((&*invite.path, invite.header("apns-push-type")), ("/3/device/00ffaa", "alert"));
    give_up(&world, &call, "");
    world.admin.expect_bucket(&phone.aor(), &[(&call.call_id, "missed")]);
    phone.wake(&world);
    phone.send_register();
    phone.peer().response(200, "REGISTER");
    let missed = next().expect("a push").json();
    assert_eq!(missed["aps"]["alert"], json!({ "title": "Пропущенные", "body": "1 звонок" }));
    let ended = world.admin.send("DELETE", TOKEN, "", &json!({ "token": "00ffAA" }));
    assert_eq!(ended, (200, json!({ "removed": true })), "a hexadecimal token is one in either case");
}

#[test]
fn a_token_moves_to_the_newest_and_ends_once() {
    let world = World::start(Mode::Open, Udp);
    let id = bind(&world, "alice@example.org", "one", "");
    assert_eq!(bind(&world, "alice", "one", ""), id, "one domain is served");
    bind(&world, "alice", "two", "");
    assert_eq!(world.admin.bindings("alice@example.org").len(), 2);
    assert_eq!(bind(&world, "bob", "one", "de"), id, "the same token is the same device");
    assert_eq!(world.admin.bindings("alice@example.org").len(), 1);
    assert_eq!(world.admin.bindings("bob@example.org").len(), 1);
    for removed in [true, false] {
        let answer = world.admin.send("DELETE", TOKEN, "", &json!({ "token": "one" }));
        assert_eq!(answer, (200, json!({ "removed": removed })));
    }
    assert_eq!(world.admin.bindings("bob@example.org").len(), 0);
    // The operator may end one, too.
    let id = bind(&world, "bob", "three", "");
    assert_eq!(world.admin.delete(&format!("/api/v1/bindings/bob@example.org/{id}")), 200);
    assert_eq!(world.admin.bindings("bob@example.org").len(), 0);
}

#[test]
fn a_token_outlives_the_server() {
    let mut world = World::with_program(Mode::Open, Udp, "");
    let mut phone = Phone::new("alice", Push::None, Udp);
    bind(&world, "alice", "kept", "fr");
    world.program().kill();
    world.start_program();
    world.admin.expect_ready("ready");
    let bindings = world.admin.bindings("alice@example.org");
    assert_eq!((bindings.len(), &bindings[0]["locale"]), (1, &json!("fr")));
    let call = world.call(&phone);
    world.switch.queued();
    expect_push(&world, "kept", "invite");
    // And so does a call that it was pushed for.
    world.program().kill();
    world.start_program();
    expect_push(&world, "kept", "invite");
    phone.register(&mut world);
    assert_eq!(phone.invited().invite.header("Call-ID"), call.call_id);
}

#[test]
fn texts_are_told_in_the_languages_of_their_readers() {
    let config = "[[notification.title]]\nlanguage = 'de'\ntext = 'Post vom Support'\n";
    let world = World::with(Mode::Open, Udp, config);
    bind(&world, "alice", "english", "en");
    bind(&world, "alice", "deutsch", "de-AT");
    let (status, refusal) = refused(&world, "POST", TOKEN, &json!({ "recipient_id": "alice", "token": "русский" }));
    assert_eq!((status, &*refusal), (400, "\"token\" has a character that no push token has"));
    bind(&world, "alice", "russian", "ru");
    let message = format!("Hello\r\n there {}", "word ".repeat(100));
    let told = world.admin.post(POST, &json!({ "recipient_id": "alice@example.org", "message": message }));
    let devices = told["devices"].as_array().expect("a list");
    assert!(devices.iter().all(|device| device["result"] == "accepted"), "{told}");
    assert!(!told.to_string().contains("english"), "tokens are hashed: {told}");
    let mut titles: Vec<_> = (0..3)
        .map(|_| {
            let json = pushed_by_fcm(&world).json();
            let message = &json["message"];
            assert_eq!(message["data"]["type"], "text");
            let body = message["notification"]["body"].as_str().expect("a body");
            assert!(body.starts_with("Hello there word ") && body.ends_with(" word…"), "{body}");
            assert!(body.chars().count() <= 200, "{body}");
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (text(&message["token"]), text(&message["notification"]["title"]))
        })
        .collect();
    titles.sort();
    let expected = [
        ("deutsch", "Post vom Support"),
        ("english", "new message from support"),
        ("russian", "новое сообщение от поддержки"),
    ];
    assert_eq!(titles, expected.map(|(token, title)| (token.to_owned(), title.to_owned())));
}

#[test]
fn a_callback_of_another_system_is_a_text() {
    let world = World::start(Mode::Open, Udp);
    bind(&world, "123", "one", "en");
    bind(&world, "123", "two", "en");
    let callback = |device: Value, notification: Value| json!({ "user": { "user_id": 123 }, "device": device, "notification": notification });
    let two = json!([{ "device_token": "two", "type": "IOS" }]);
    let told = world.admin.post(POST, &callback(two, json!({ "message": "hello", "type": "im" })));
    assert_eq!(told["devices"].as_array().map(Vec::len), Some(1), "{told}");
    let json = pushed_by_fcm(&world).json();
    assert_eq!((&json["message"]["token"], &json["message"]["notification"]["body"]), (&"two".into(), &"hello".into()));
    let ticket = json!({ "ticket_id": "77", "type": "ticket" });
    let told = world.admin.post(POST, &callback(json!([]), ticket));
    assert_eq!(told["devices"].as_array().map(Vec::len), Some(2), "{told}");
    assert_eq!(pushed_by_fcm(&world).json()["message"]["notification"]["body"], "77");
}

#[test]
fn a_text_goes_to_registered_phones_too_and_never_by_voip() {
    let mut world = World::start(Mode::Open, Udp);
    let (status, reason) = refused(&world, "POST", POST, &json!({ "recipient_id": "alice", "message": "hi" }));
    assert_eq!(status, 404);
    assert!(reason.starts_with("nobody can be told"), "{reason}");

    let mut voip = Phone::new("bob", Push::Apns, Udp);
    voip.params = Some(";pn-provider=apns;pn-param=DEF123GHIJ.org.example.phone.voip;pn-prid=aabb".to_owned());
    voip.register(&mut world);
    let (status, answer) = world.admin.send("POST", POST, "", &json!({ "recipient_id": "bob", "message": "hi" }));
    assert_eq!((status, &answer["devices"][0]["result"]), (404, &"refused".into()));
    let reason = answer["devices"][0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("no remote token"), "{reason}");

    let mut phone = Phone::new("alice", Push::Apns, Udp);
    phone.register(&mut world);
    world.admin.post(POST, &json!({ "recipient_id": "alice", "text": "hi", "title": "Order 7" }));
    let push = world.pushed(&phone);
    assert_eq!(push.path, format!("/3/device/{}", phone.remote_token));
    assert_eq!(push.header("apns-push-type"), "alert");
    assert_eq!(push.json()["aps"]["alert"], json!({ "title": "Order 7", "body": "hi" }));
}

#[test]
fn a_dead_token_ends_when_a_text_finds_it() {
    let world = World::start(Mode::Open, Udp);
    bind(&world, "alice", "dead", "");
    world.fcm.script("dead", [sip_push_proxy::demo::fcm_double::Answer::Unregistered]);
    let told = world.admin.post(POST, &json!({ "recipient_id": "alice", "message": "hi" }));
    let shown = ["result", "reason"].map(|key| told["devices"][0][key].clone());
    assert_eq!(shown, [json!("refused"), json!("404 UNREGISTERED")]);
    assert_eq!(world.admin.bindings("alice@example.org").len(), 0);
}

#[test]
fn what_is_wrong_is_said_in_words() {
    let world = World::with(Mode::Open, Udp, "notification.tokens_per_aor_max = 1\n");
    bind(&world, "alice", "one", "");
    let token =
        |recipient: &str, kind: &str| json!({ "recipient_id": recipient, "token": "t", "recipient_type": kind });
    let keys = json!({ "recipient_id": "bob", "token": "t", "keys": { "p256dh": "AAAA", "auth": "AAAA" } });
    for (body, status, words) in [
        (json!({}), 400, "recipient_id"),
        (json!({ "recipient_id": "bob" }), 400, "token"),
        (json!({ "recipient_id": "bob", "token": "" }), 400, "\"token\" is empty"),
        (json!({ "recipient_id": "bob", "token": "t", "locale": "no locale" }), 400, "language tag"),
        (token("bob@elsewhere.org", ""), 400, "register.domains"),
        (token("@example.org", ""), 400, "alice@example.org"),
        (token("b b@example.org", ""), 400, "alice@example.org"),
        (token("bob", "apns"), 400, "hexadecimal"),
        (token("bob", "webpush"), 409, "switched off"),
        (token("bob", "callback"), 409, "switched off"),
        (token("alice", ""), 409, "notification.tokens_per_aor_max"),
        (keys, 400, "p256dh"),
        (json!({ "recipient_id": "bob", "token": "t".repeat(70_000) }), 413, "65536"),
    ] {
        let (got, reason) = refused(&world, "POST", TOKEN, &body);
        assert_eq!((got, reason.contains(words)), (status, true), "{body:.100}: {reason}");
    }
    for (body, words) in [
        (json!({ "recipient_id": "bob" }), "\"message\""),
        (json!({ "recipient_id": "bob", "message": " \n" }), "empty"),
        (json!({ "message": "hi" }), "recipient_id"),
        (json!({ "recipient_id": "bob", "message": 7 }), "message"),
    ] {
        let (got, reason) = refused(&world, "POST", POST, &body);
        assert_eq!((got, reason.contains(words)), (400, true), "{body}: {reason}");
    }
    assert_eq!(refused(&world, "DELETE", TOKEN, &json!({})).0, 400);
    assert_eq!(world.pushes(), 0);
}
