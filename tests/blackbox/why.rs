//! Why a phone did not ring: one command, and the answer is in its first line.

use sip_push_proxy::demo::{apns_double, fcm_double};
use sip_push_proxy::sip::Transport::Udp;

use crate::held_call::{asleep, give_up};
use crate::phone::{Phone, Push};
use crate::world::{Mode, Store, World};

/// The first line that the command says of this user, or call.
#[track_caller]
fn why(world: &World, what: &str) -> String {
    let (said, code) = world.command(&["why", what]);
    assert_eq!(code, Some(0), "{said}");
    said.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn user_that_nobody_knows() {
    let world = World::start(Mode::Open, Udp);
    assert!(why(&world, "nobody@example.org").contains("no phone has registered"));
    let (_, code) = world.command(&["why", "no-such-call"]);
    assert_eq!(code, Some(1));
}

#[test]
fn phone_without_push_parameters_and_one_with_bad_ones() {
    let mut world = World::start(Mode::Open, Udp);
    let mut plain = Phone::new("bob", Push::None, Udp);
    plain.register(&mut world);
    assert!(why(&world, &plain.aor()).contains("1 awake, 0 that a push can wake"));
    let mut bad = Phone::new("alice", Push::Fcm, Udp);
    bad.params = Some(";pn-provider=nonesuch;pn-prid=x".to_owned());
    bad.register(&mut world);
    let (said, _) = world.command(&["why", &bad.aor()]);
    assert!(said.contains("is not pushed: pn-provider is not one of"), "{said}");
}

#[test]
fn token_that_is_dead() {
    let mut world = World::start(Mode::Open, Udp);
    let phone = asleep(&mut world, Push::Fcm);
    world.fcm.script(&phone.token, [fcm_double::Answer::Unregistered]);
    let call = world.call(&phone);
    world.switch.queued();
    call.ack(&world.switch.response(480, "INVITE"));
    let (said, _) = world.command(&["why", &call.call_id]);
    assert!(said.contains("No device could be woken; the push was refused: 404 UNREGISTERED"), "{said}");
    assert!(said.contains("What to do: nothing here: the app was removed") && said.contains("token_dead"), "{said}");
}

/// For asking the provider what became of a push.
#[test]
fn push_that_was_taken_has_its_providers_name() {
    let told = |world: &World, call_ref: &str| {
        let call = world.admin.get(&format!("/api/v1/calls/{call_ref}"));
        let steps = call["steps"].as_array().expect("steps").clone();
        let taken = steps.iter().find(|step| step["step"] == "push_accepted").expect("a push").clone();
        assert!(steps.iter().filter(|step| **step != taken).all(|step| step.get("push_id").is_none()), "{steps:?}");
        taken["push_id"].as_str().expect("a name").to_owned()
    };
    for push in [Push::Fcm, Push::Apns] {
        let mut world = World::with(Mode::Open, Udp, "hold.wait_s = 5\n");
        let phone = asleep(&mut world, push);
        let call = world.call(&phone);
        world.switch.queued();
        let pushed = world.pushed(&phone);
        call.ack(&world.switch.response(480, "INVITE"));
        let id = told(&world, &call.call_id);
        if push == Push::Apns {
            assert_eq!(id, pushed.header("apns-id"));
        } else {
            assert!(id.starts_with("projects/demo-project/messages/0:"), "{id}");
        }
        let said = why(&world, &call.call_id);
        assert!(said.contains(&format!(" ms, as {id}.")), "{said}");
    }
}

#[test]
fn phone_that_came_too_late_and_one_that_rejected_and_a_caller_that_gave_up() {
    let mut world = World::with(Mode::Open, Udp, "hold.wait_s = 5\n");
    let mut phone = asleep(&mut world, Push::Fcm);
    let late = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 5);
    late.ack(&world.switch.response(480, "INVITE"));
    let said = why(&world, &late.call_id);
    assert!(said.contains("The phone did not come back in time; its provider took the push after"), "{said}");

    let given_up = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 5);
    give_up(&world, &given_up, "");
    assert!(why(&world, &given_up.call_id).contains("The caller gave up before the phone had come back"));

    let rejected = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 5);
    phone.register(&mut world);
    let incoming = phone.invited();
    incoming.answer(486, "Busy Here");
    incoming.confirmed();
    rejected.ack(&world.switch.response(486, "INVITE"));
    assert!(why(&world, &rejected.call_id).contains("rejected it with 486"));

    // Of the user all of them, the newest first.
    let (said, _) = world.command(&["why", &phone.aor()]);
    let places: Vec<_> = [&rejected, &given_up, &late].iter().map(|call| said.find(&call.call_id)).collect();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{said}");
}

#[test]
fn provider_that_is_off() {
    let mut world = World::with(Mode::Open, Udp, "register.expires_min_s = 1\n");
    let mut phone = Phone::new("alice", Push::Fcm, Udp);
    phone.params = Some(";pn-provider=webpush;pn-prid=https%3A%2F%2Fpush.example%2F1".to_owned());
    phone.register(&mut world);
    let (said, _) = world.command(&["why", &phone.aor()]);
    assert!(said.contains("is not pushed: provider webpush is switched off"), "{said}");
}

#[test]
fn credentials_that_are_wrong() {
    let mut world = World::start(Mode::Open, Udp);
    let phone = asleep(&mut world, Push::Apns);
    world.apns.script(
        &phone.token,
        [(); 2].map(|()| apns_double::Answer::Reason { status: 403, reason: "InvalidProviderToken" }),
    );
    let call = world.call(&phone);
    world.switch.queued();
    call.ack(&world.switch.response(480, "INVITE"));
    let said = why(&world, &call.call_id);
    assert!(said.contains("No device could be woken; the push was refused: 403 InvalidProviderToken"), "{said}");
    world.admin.expect_ready("degraded");
    let (said, _) = world.command(&["why", &phone.aor()]);
    assert!(said.contains("The server is degraded: push: apns team"), "{said}");
}

#[test]
fn provider_that_does_not_answer() {
    let mut world = World::with(Mode::Open, Udp, "push.timeout_ms = 1000\nhold.wait_s = 2\n");
    let phone = asleep(&mut world, Push::Fcm);
    world.fcm.script(&phone.token, std::iter::repeat_n(fcm_double::Answer::Hang, 10));
    let call = world.call(&phone);
    world.switch.queued();
    call.ack(&world.switch.response(480, "INVITE"));
    let said = why(&world, &call.call_id);
    assert!(said.contains("The phone did not come back in time; the push was refused: no answer within"), "{said}");
}

#[test]
fn redis_that_is_away() {
    let mut world = World::with_program_on(Store::Redis, Mode::Open, Udp, "store.timeout_ms = 100\n");
    let phone = asleep(&mut world, Push::Fcm);
    world.redis().kill();
    world.admin.expect_ready("degraded");
    let call = world.call(&phone);
    world.switch.queued();
    give_up(&world, &call, "");
    let (said, code) = world.command(&["why", &call.call_id]);
    assert_eq!(code, Some(0));
    let mut lines = said.lines();
    assert!(lines.next().unwrap_or_default().contains("The caller gave up before the phone had come back"), "{said}");
    assert!(lines.next().unwrap_or_default().starts_with("The server is degraded: store: Redis is away"), "{said}");
}
