//! A push that an operator asks for: nothing for the phone's user to see or hear, and the provider's answer in words.

use serde_json::{Value, json};
use sip_push_proxy::demo::fcm_double;
use sip_push_proxy::sip::Transport::Udp;

use crate::held_call::asleep;
use crate::phone::{Phone, Push};
use crate::world::{Mode, World};

/// What came of it for the one device.
#[track_caller]
fn push(world: &World, phone: &Phone, dry_run: bool) -> Value {
    let answer = world.admin.post("/api/v1/push", &json!({ "aor": phone.aor(), "dry_run": dry_run }));
    let [only] = answer["pushes"].as_array().expect("a list").as_slice() else { panic!("{answer}") };
    assert!(
        phone.token.is_empty() || !answer.to_string().contains(&phone.token),
        "no token leaves the server: {answer}"
    );
    only.clone()
}

#[test]
fn fcm_looks_at_a_test_and_delivers_nothing() {
    let mut world = World::start(Mode::Open, Udp);
    let phone = asleep(&mut world, Push::Fcm);
    let pushed = push(&world, &phone, false);
    assert_eq!((&pushed["result"], &pushed["account"]), (&"accepted".into(), &"fcm project demo-project".into()));
    let sent = world.pushed(&phone).json();
    assert_eq!(sent["validate_only"], true);
    assert_eq!(sent["message"]["data"]["type"], "test");
}

#[test]
fn apns_gets_a_test_for_the_background_and_never_by_voip() {
    let mut world = World::start(Mode::Open, Udp);
    let phone = asleep(&mut world, Push::Apns);
    assert_eq!(push(&world, &phone, false)["result"], "accepted");
    let sent = world.pushed(&phone);
    assert_eq!(sent.path, format!("/3/device/{}", phone.remote_token));
    let headers = ["apns-push-type", "apns-priority", "apns-topic"].map(|name| sent.header(name));
    assert_eq!(headers, ["background", "5", "org.example.phone"]);
    assert_eq!(sent.json()["aps"], json!({ "content-available": 1 }));
}

#[test]
fn dry_run_shows_what_a_call_would_send_and_sends_nothing() {
    let mut world = World::start(Mode::Open, Udp);
    let phone = asleep(&mut world, Push::Apns);
    let shown = push(&world, &phone, true);
    assert_eq!((&shown["result"], &shown["notice"]), (&"not_sent".into(), &"invite".into()));
    assert_eq!(shown["headers"]["apns-push-type"], "voip");
    assert!(shown["body"].as_str().is_some_and(|body| body.contains(r#""type":"invite""#)), "{shown}");
    assert_eq!(world.pushes(), 0);
}

#[test]
fn answers_of_the_provider_and_reasons_of_ours_are_shown_and_change_nothing() {
    let mut world = World::start(Mode::Open, Udp);
    let dead = asleep(&mut world, Push::Fcm);
    world.fcm.script(&dead.token, [fcm_double::Answer::Unregistered]);
    let pushed = push(&world, &dead, false);
    assert_eq!((&pushed["result"], &pushed["reason"]), (&"token_dead".into(), &"404 UNREGISTERED".into()));
    assert_eq!(world.admin.bindings(&dead.aor()).len(), 1, "a test ends no binding");

    let mut plain = Phone::new("bob", Push::None, Udp);
    plain.register(&mut world);
    let pushed = push(&world, &plain, false);
    assert_eq!(
        (&pushed["result"], &pushed["reason"]),
        (&"not_sent".into(), &"its contact has no push parameters".into())
    );
    let nobody = world.admin.post("/api/v1/push", &json!({ "aor": "nobody@example.org" }));
    assert_eq!(nobody, json!({ "pushes": [] }));
    assert_eq!(world.admin.status("POST", "/api/v1/push"), 400);
}

#[test]
fn command_says_it_in_words_and_by_its_exit_code() {
    let mut world = World::start(Mode::Open, Udp);
    let phone = asleep(&mut world, Push::Fcm);
    let (said, code) = world.command(&["push", &phone.aor()]);
    assert!(said.contains("fcm project demo-project") && said.contains("accepted: a call would be pushed"), "{said}");
    assert_eq!(code, Some(0));
    let (said, code) = world.command(&["push", &phone.aor(), "--dry-run"]);
    assert!(said.contains("would be sent") && said.contains("POST http://"), "{said}");
    assert_eq!(code, Some(0));
    world.fcm.script(&phone.token, [fcm_double::Answer::Unregistered]);
    let (said, code) = world.command(&["push", &phone.aor()]);
    assert!(said.contains("dead token") && said.contains("UNREGISTERED"), "{said}");
    assert_eq!(code, Some(1));
    let (said, code) = world.command(&["push", "nobody@example.org"]);
    assert_eq!((&*said, code), ("no devices\n", Some(1)));
}
