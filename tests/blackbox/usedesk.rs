//! Usedesk's webhook in its own form, and the tokens of its apps.

use serde_json::{Value, json};
use sip_push_proxy::demo::fcm_double;
use sip_push_proxy::sip::Transport::Udp;

use crate::peer::{DEADLINE, RUNTIME};
use crate::world::{Mode, World};

/// How Usedesk names the chat of a client.
const CHAT: &str = "dehwuwo13j12223";
const SECRET: &str = "secret-of-usedesk";
const TOKEN: &str = "token-of-notifications";

/// A comment that an operator has written.
fn comment() -> Value {
    let client = json!({
        "id": 98_765, "name": "Ivan", "avatar": "", "note": "", "emails": [{ "email": "i@example.org", "client_id": 98_765 }],
        "phones": [], "additional_ids": [{ "value": CHAT, "client_id": 98_765 }],
    });
    let ticket = json!({
        "id": 4711, "status_id": 1, "subject": "Order", "client_id": 98_765, "assignee_id": null, "group": null,
        "last_updated_at": "2026-11-27 12:00:00", "channel_id": 3, "email": null, "published_at": "2026-11-27 11:00:00",
        "company_id": 5, "additional_id": CHAT, "message": "Where is my order?",
    });
    json!({
        "chat_id": 123_456, "text": "It is on its way.", "client_id": 98_765, "client": client, "from": "user",
        "platform": "usedesk_tg", "secret": SECRET, "ticket": ticket, "state": null,
    })
}

fn app(token: &str, token_type: &str) -> Value {
    json!({
        "recipient_id": CHAT, "token": token, "recipient_type": "USEDESK_CHAT", "token_type": token_type, "locale": "ru",
    })
}

/// Status and body of the answer.
fn post(world: &World, path: &str, headers: &str, body: &Value) -> (u16, Value) {
    world.admin.send("POST", path, headers, body)
}

#[track_caller]
fn pushed(world: &World) -> Value {
    let push = RUNTIME.block_on(async { tokio::time::timeout(DEADLINE, world.fcm.next()).await });
    push.expect("a push").json()["message"].take()
}

#[test]
fn what_an_operator_writes_is_told_to_each_app_of_the_client() {
    let world = World::start(Mode::Open, Udp);
    for token in ["app-1", "app-2"] {
        assert_eq!(post(&world, "/notification/token", "", &app(token, "FCM")).0, 200);
    }
    world.fcm.script("app-2", [fcm_double::Answer::Unregistered]);
    let (status, answer) = post(&world, "/notification/post", "", &comment());
    assert_eq!((status, &answer["code"]), (200, &200.into()), "{answer}");
    let mut result = answer["result"].as_array().expect("a list").clone();
    result.sort_by_key(|told| told["success"] == false);
    let shown = |index: usize| (&result[index]["success"], &result[index]["message"]);
    assert_eq!((result.len(), shown(0)), (2, (&true.into(), &"".into())));
    assert_eq!(shown(1), (&false.into(), &"404 UNREGISTERED".into()));
    assert!(result.iter().all(|told| told["token"].as_str().is_some_and(|hash| hash.len() == 8)), "{answer}");
    let push = pushed(&world);
    let text = json!({ "title": "новое сообщение от поддержки", "body": "It is on its way." });
    assert_eq!((&push["token"], &push["notification"]), (&"app-1".into(), &text));
}

#[test]
fn clients_are_not_told_what_they_write_themselves() {
    let world = World::start(Mode::Open, Udp);
    assert_eq!(post(&world, "/notification/post", "", &comment()).0, 404, "there is no app");
    assert_eq!(post(&world, "/notification/token", "", &app("app-1", "FCM")).0, 200);
    for (pointer, value, word) in [
        ("/from", json!("client"), "\"from\""),
        ("/from", Value::Null, "\"from\""),
        ("/ticket/additional_id", json!(""), "additional_id"),
        ("/ticket/additional_id", Value::Null, "additional_id"),
        ("/text", Value::Null, "\"text\""),
        ("/text", json!(" "), "empty"),
        ("/text", json!(7), "text"),
    ] {
        let mut body = comment();
        *body.pointer_mut(pointer).expect("a field") = value;
        let (status, answer) = post(&world, "/notification/post", "", &body);
        let reason = answer["error"].as_str().unwrap_or_default();
        assert_eq!((status, reason.contains(word)), (400, true), "{pointer}: {answer}");
    }
    assert_eq!(world.pushes(), 0);
}

#[test]
fn the_secret_is_asked_for_and_lets_in() {
    let config = "notification.token_file = 'token.txt'\nnotification.secret_file = 'secret.txt'\n";
    let files = [("token.txt", TOKEN), ("secret.txt", SECRET)];
    let world = World::with_files(Mode::Open, Udp, config, &files);
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(post(&world, "/notification/token", "", &app("app-1", "FCM")).0, 401);
    assert_eq!(post(&world, "/notification/token", &bearer, &app("app-1", "FCM")).0, 200);
    let mut forged = comment();
    for secret in [json!("secret-of-others"), json!(""), Value::Null] {
        forged["secret"] = secret;
        for headers in ["", &bearer] {
            let (status, answer) = post(&world, "/notification/post", headers, &forged);
            let reason = answer["error"].as_str().unwrap_or_default();
            assert_eq!((status, reason.contains("notification.secret_file")), (403, true), "{answer}");
        }
    }
    // It is the proof of that form alone.
    let other = json!({ "recipient_id": CHAT, "message": "hi", "secret": SECRET });
    for body in [other, json!({ "secret": SECRET }), Value::Null] {
        assert_eq!(post(&world, "/notification/post", "", &body).0, 401, "{body}");
    }
    assert_eq!(world.pushes(), 0);
    assert_eq!(post(&world, "/notification/post", "", &comment()).0, 200);
    assert_eq!(pushed(&world)["token"], "app-1");
    let other = json!({ "recipient_id": CHAT, "message": "hi" });
    assert_eq!(post(&world, "/notification/post", &bearer, &other).0, 200);
}

#[test]
fn a_token_of_a_service_that_is_not_here_is_refused_in_words() {
    let world = World::start(Mode::Open, Udp);
    for (token_type, status, word) in [("HUAWEI", 409, "hms is switched off"), ("PIGEON", 400, "\"token_type\"")] {
        let (got, answer) = post(&world, "/notification/token", "", &app("app-1", token_type));
        let reason = answer["error"].as_str().unwrap_or_default();
        assert_eq!((got, reason.contains(word)), (status, true), "{answer}");
    }
    assert!(world.admin.bindings(&format!("{CHAT}@example.org")).is_empty());
    assert_eq!(post(&world, "/notification/token", "", &app("app-1", "")).0, 200, "as without one");
}

#[test]
fn a_token_of_huawei_is_pushed_by_hms() {
    let (double, _folder, config) = crate::without_google::hms();
    let world = World::with(Mode::Open, Udp, &config);
    assert_eq!(post(&world, "/notification/token", "", &app("app-1", "HUAWEI")).0, 200);
    assert_eq!(post(&world, "/notification/post", "", &comment()).0, 200);
    let push = RUNTIME.block_on(async { tokio::time::timeout(DEADLINE, double.service.next()).await });
    assert_eq!(push.expect("a push").token, "app-1");
    assert_eq!(world.pushes(), 0);
}
