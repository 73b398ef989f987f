//! What becomes of a call while its phone sleeps: repeated, cancelled, timed out, refused (RFC 8599 §5.6.2).

use sip_push_proxy::demo::{apns_double, fcm_double};
use sip_push_proxy::sip::Transport::{Tcp, Udp};

use crate::peer::eventually;
use crate::phone::{Phone, Push};
use crate::sip::Sip;
use crate::switch::Call;
use crate::world::{Mode, World, unix_seconds};

/// A phone that registered once and sleeps.
#[track_caller]
pub(crate) fn asleep(world: &mut World, push: Push) -> Phone {
    let mut phone = Phone::new("alice", push, Udp);
    phone.register(world);
    phone.sleep();
    phone
}

/// The caller gives up a held call.
#[track_caller]
pub(crate) fn give_up(world: &World, call: &Call, headers: &str) {
    call.cancel(headers);
    world.switch.response(200, "CANCEL");
    call.ack(&world.switch.response(487, "INVITE"));
}

/// The phone takes the call, and its caller hears of it, after provisional responses that a call which was taken up again
/// repeats. The 200.
#[track_caller]
pub(crate) fn answered(world: &World, phone: &Phone, call: &Call) -> Sip {
    let incoming = phone.invited();
    assert_eq!(incoming.invite.header("Call-ID"), call.call_id);
    incoming.answer(200, "OK");
    let ok = world.switch.final_response();
    assert_eq!((ok.status(), ok.header("Call-ID")), (200, &*call.call_id), "{ok:?}");
    call.confirm(&ok);
    incoming.confirmed();
    ok
}

/// A call that the caller gives up when its push is out; when that was, in seconds.
#[track_caller]
pub(crate) fn missed_call(world: &World, phone: &Phone) -> u64 {
    let before = unix_seconds();
    let call = world.call(phone);
    world.switch.queued();
    world.pushed_invite(phone, 28);
    give_up(world, &call, "");
    let bucket = eventually("the missed call", || {
        let bucket = world.admin.bucket(&phone.aor());
        bucket.iter().any(|entry| entry["call_ref"] == *call.call_id && entry["state"] == "missed").then_some(bucket)
    });
    let entry = bucket.iter().find(|entry| entry["call_ref"] == *call.call_id).expect("just found");
    let date: jiff::Timestamp = entry["date"].as_str().and_then(|date| date.parse().ok()).expect("a date");
    let date = u64::try_from(date.as_second()).expect("after 1970");
    assert!((before..=unix_seconds()).contains(&date));
    date
}

#[test]
fn repeated_invite_is_answered_and_not_pushed_again() {
    let mut world = World::start(Mode::Alias, Udp);
    let mut phone = asleep(&mut world, Push::Fcm);
    let call = world.call(&phone);
    let queued = world.switch.queued();
    for _ in 0..3 {
        call.repeat();
        assert_eq!(world.switch.response(182, "INVITE").text, queued.text);
    }
    world.pushed_invite(&phone, 28);
    phone.register(&mut world);
    let incoming = phone.invited();
    incoming.answer(486, "Busy Here");
    incoming.confirmed();
    call.ack(&world.switch.response(486, "INVITE"));
    assert_eq!(world.admin.story(&call.call_id, "rejected").last().map(String::as_str), Some("rejected"));
    world.admin.expect_bucket(&phone.aor(), &[]);
    phone.expect_nothing_more(&world);
    assert_eq!(world.pushes(), 1);
}

#[track_caller]
fn cancelled_call_is_reported(mode: Mode, push: Push) {
    let mut world = World::start(mode, Udp);
    let mut phone = asleep(&mut world, push);
    let dates = [missed_call(&world, &phone), missed_call(&world, &phone)];
    phone.register(&mut world);
    world.pushed_missed_calls(&phone, &dates);
    world.admin.expect_bucket(&phone.aor(), &[]);
    phone.expect_nothing_more(&world);
    phone.refresh(&mut world);
    phone.expect_nothing_more(&world);
    assert_eq!(world.pushes(), 3);
}

#[test]
fn cancelled_calls_are_reported_by_fcm() {
    cancelled_call_is_reported(Mode::Alias, Push::Fcm);
}

#[test]
fn cancelled_calls_are_reported_by_apns() {
    cancelled_call_is_reported(Mode::Open, Push::Apns);
}

#[test]
fn call_taken_elsewhere_is_not_missed() {
    let mut world = World::start(Mode::Path, Udp);
    let mut phone = asleep(&mut world, Push::Fcm);
    let call = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    give_up(&world, &call, "Reason: SIP;cause=200;text=\"Call completed elsewhere\"\r\n");
    world.admin.expect_bucket(&phone.aor(), &[]);
    phone.register(&mut world);
    phone.expect_nothing_more(&world);
    assert_eq!(world.pushes(), 1);
}

#[test]
fn ringing_call_that_is_cancelled_was_seen() {
    let mut world = World::start(Mode::Alias, Tcp);
    let mut phone = asleep(&mut world, Push::Fcm);
    let call = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    phone.register(&mut world);
    let incoming = phone.invited();
    incoming.answer(180, "Ringing");
    world.switch.response(180, "INVITE");
    call.cancel("Reason: Q.850;cause=16\r\n");
    world.switch.response(200, "CANCEL");
    assert_eq!(incoming.cancelled().headers("Reason"), ["Q.850;cause=16"]);
    call.ack(&world.switch.response(487, "INVITE"));
    world.admin.expect_bucket(&phone.aor(), &[]);
    phone.expect_nothing_more(&world);
}

#[test]
fn push_that_brings_nobody_is_repeated_by_the_same_name() {
    for push in [Push::Fcm, Push::Apns] {
        let mut world = World::with(Mode::Alias, Udp, "push.repeat_s = [1, 2]\nhold.wait_s = 60");
        let mut phone = asleep(&mut world, push);
        let call = world.call(&phone);
        world.switch.queued();
        let pushes: Vec<_> = (0..if push == Push::Fcm { 3 } else { 1 }).map(|_| world.pushed(&phone)).collect();
        assert!(pushes.iter().all(|push| push.token == phone.token));
        phone.register(&mut world);
        answered(&world, &phone, &call);
        assert_eq!(world.pushes(), pushes.len(), "iPhones would show a second call");
    }
}

#[test]
fn phone_that_has_not_come_is_told_that_its_call_is_over() {
    for push in [Push::Fcm, Push::Apns] {
        let mut world = World::with(Mode::Alias, Udp, "push.call_ended = true");
        let phone = asleep(&mut world, push);
        let call = world.call(&phone);
        world.switch.queued();
        world.pushed_invite(&phone, 28);
        eventually("the word on the push", || {
            let story = world.admin.get(&format!("/api/v1/calls/{}", call.call_id)).to_string();
            story.contains("push_accepted").then_some(())
        });
        give_up(&world, &call, "");
        let told = world.pushed(&phone);
        let body = told.json();
        let content = if push == Push::Fcm { &body["message"]["data"] } else { &body["acme"] };
        assert_eq!((&content["type"], &content["reason"]), (&"call_ended".into(), &"cancelled".into()), "{body}");
        assert_eq!(content["call_ref"], *call.call_id);
        if push == Push::Apns {
            assert_eq!(told.token, phone.remote_token);
            let header = |name| told.headers.get(name).and_then(|value| value.to_str().ok());
            assert_eq!((header("apns-push-type"), header("apns-priority")), (Some("background"), Some("5")));
        }
    }
}

#[test]
fn call_ends_with_480_when_the_phone_does_not_come() {
    let mut world = World::with(Mode::Alias, Udp, "hold.wait_s = 2");
    let phone = asleep(&mut world, Push::Fcm);
    let call = world.call(&phone);
    let queued = world.switch.queued();
    world.pushed_invite(&phone, 2);
    let over = world.switch.response(480, "INVITE");
    assert_eq!(over.to_tag(), queued.to_tag());
    call.ack(&over);
    world.admin.expect_bucket(&phone.aor(), &[(&call.call_id, "missed")]);
    world.admin.story(&call.call_id, "no_return");
    world.switch.expect_nothing_more();
}

#[test]
fn call_ends_with_487_when_its_own_expires_is_over() {
    let mut world = World::start(Mode::Open, Udp);
    let phone = asleep(&mut world, Push::Fcm);
    let call = world.switch.call(&phone.aor(), "Expires: 1\r\n");
    world.switch.queued();
    world.pushed_invite(&phone, 1);
    call.ack(&world.switch.response(487, "INVITE"));
    world.admin.expect_bucket(&phone.aor(), &[(&call.call_id, "missed")]);
    world.admin.story(&call.call_id, "expired");
}

#[test]
fn nothing_is_sent_to_a_phone_that_did_not_come_back() {
    for transport in [Udp, Tcp] {
        let mut world = World::with(Mode::Alias, Udp, "hold.wait_s = 1");
        let mut phone = Phone::new("alice", Push::Fcm, transport);
        phone.register(&mut world);
        let (old, link) = phone.walk_away();
        let call = world.call(&phone);
        world.switch.queued();
        world.pushed_invite(&phone, 1);
        call.ack(&world.switch.response(480, "INVITE"));
        old.expect_nothing_more(&link, world.sip(transport));
        // Nor when it comes back elsewhere and too late.
        phone.register(&mut world);
        phone.expect_nothing_more(&world);
        old.expect_nothing_more(&link, world.sip(transport));
    }
}

#[test]
fn iphone_that_wakes_too_late_has_its_call_screen_closed() {
    for mode in [Mode::Alias, Mode::Open] {
        let mut world = World::with(mode, Udp, "hold.late_wake = 'invite_cancel'");
        let mut phone = asleep(&mut world, Push::Apns);
        let call = world.call(&phone);
        world.switch.queued();
        world.pushed_invite(&phone, 28);
        give_up(&world, &call, "");
        world.admin.story(&call.call_id, "cancelled");
        phone.register(&mut world);
        let incoming = phone.invited();
        incoming.answer(180, "Ringing");
        incoming.cancelled();
        // It knows of the call, so no push tells of it.
        world.admin.expect_bucket(&phone.aor(), &[]);
        assert_eq!(world.pushes(), 1);
    }
}

#[test]
fn iphone_whose_app_knows_a_call_again_has_its_call_screen_closed_by_default() {
    for knows_calls_again in [true, false] {
        let mut world = World::with_program(Mode::Alias, Udp, "");
        if knows_calls_again {
            world.rewrite_config("[[push.apns]]\n", "[[push.apns]]\nrepeat = true\n");
            assert_eq!(world.command(&["reload"]).1, Some(0));
        }
        let mut phone = asleep(&mut world, Push::Apns);
        let date = missed_call(&world, &phone);
        phone.register(&mut world);
        if knows_calls_again {
            let incoming = phone.invited();
            incoming.answer(180, "Ringing");
            incoming.cancelled();
            assert_eq!(world.pushes(), 1);
        } else {
            world.pushed_missed_calls(&phone, &[date]);
            phone.expect_nothing_more(&world);
        }
        world.admin.expect_bucket(&phone.aor(), &[]);
    }
}

#[test]
fn caller_that_requires_100rel_gets_no_provisional() {
    let mut world = World::start(Mode::Alias, Udp);
    let mut phone = asleep(&mut world, Push::Fcm);
    let call = world.switch.call(&phone.aor(), "Require: 100rel\r\n");
    world.switch.response(100, "INVITE");
    world.pushed_invite(&phone, 28);
    phone.register(&mut world);
    let incoming = phone.invited();
    incoming.answer(200, "OK");
    call.confirm(&world.switch.response(200, "INVITE"));
    incoming.confirmed();
}

#[test]
fn caller_who_hides_is_anonymous() {
    let mut world = World::start(Mode::Alias, Udp);
    let phone = asleep(&mut world, Push::Apns);
    world.switch.call(&phone.aor(), "Privacy: id\r\n");
    world.switch.queued();
    let push = world.pushed(&phone);
    let date = crate::world::check_date(&push);
    let body = format!(
        r#"{{"aps":{{"badge":"10"}},"acme":{{"badge":"10","type":"invite","date":{date},"number":"anonymous","dispaly_name":[]}}}}"#
    );
    assert_eq!(String::from_utf8_lossy(&push.body), body);
}

#[track_caller]
fn dead_token_ends_call_and_binding(push: Push, kill: impl FnOnce(&World, &Phone)) {
    let mut world = World::start(Mode::Alias, Udp);
    let mut phone = asleep(&mut world, push);
    kill(&world, &phone);
    let call = world.call(&phone);
    world.switch.queued();
    call.ack(&world.switch.response(480, "INVITE"));
    world.admin.story(&call.call_id, "push_failed");
    eventually("the binding to end", || world.admin.bindings(&phone.aor()).is_empty().then_some(()));
    // With its next REGISTER the phone is told of the call, and can be called again.
    phone.register(&mut world);
    let told = String::from_utf8_lossy(&world.pushed(&phone).body).into_owned();
    assert!(told.contains("missed_calls"), "{told}");
    phone.sleep();
    world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
}

#[test]
fn token_that_fcm_calls_unregistered_ends_the_binding() {
    dead_token_ends_call_and_binding(Push::Fcm, |world, phone| {
        world.fcm.script(&phone.token, [fcm_double::Answer::Unregistered]);
    });
}

#[test]
fn token_that_apns_calls_gone_ends_the_binding() {
    dead_token_ends_call_and_binding(Push::Apns, |world, phone| {
        let timestamp_ms = (unix_seconds() + 1) * 1000;
        world.apns.script(&phone.token, [apns_double::Answer::Unregistered { timestamp_ms }]);
    });
}

#[test]
fn token_that_died_before_the_last_register_keeps_its_binding() {
    let mut world = World::start(Mode::Alias, Udp);
    let phone = asleep(&mut world, Push::Apns);
    let timestamp_ms = (unix_seconds() - 3600) * 1000;
    world.apns.script(&phone.token, [apns_double::Answer::Unregistered { timestamp_ms }]);
    let call = world.call(&phone);
    world.switch.queued();
    call.ack(&world.switch.response(480, "INVITE"));
    world.admin.story(&call.call_id, "push_failed");
    world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    assert_eq!(world.admin.bindings(&phone.aor()).len(), 1);
}

#[test]
fn push_refused_for_a_moment_is_tried_again() {
    let mut world = World::start(Mode::Alias, Udp);
    let mut phone = asleep(&mut world, Push::Fcm);
    world.fcm.script(&phone.token, [fcm_double::Answer::Unavailable { retry_after_s: Some(1) }]);
    let call = world.call(&phone);
    world.switch.queued();
    // The second attempt tells what is left of the wait.
    let push = world.pushed(&phone);
    assert_eq!(push.json()["message"]["android"]["ttl"], "27s");
    phone.register(&mut world);
    let incoming = phone.invited();
    incoming.answer(200, "OK");
    call.confirm(&world.switch.response(200, "INVITE"));
    incoming.confirmed();
    assert_eq!(world.pushes(), 2);
}

#[test]
fn message_waits_for_its_phone() {
    for push in [Push::Fcm, Push::Apns] {
        let mut world = World::start(Mode::Path, Udp);
        let mut phone = asleep(&mut world, push);
        world.switch.send("MESSAGE", &phone.aor(), "good morning");
        let told = world.pushed(&phone);
        let date = crate::world::check_date(&told);
        let body = match push {
            Push::Apns | Push::ApnsDev => format!(
                r#"{{"aps":{{"alert":{{"loc-key":"MESSAGE"}},"sound":"default"}},"acme":{{"type":"message","date":{date}}}}}"#
            ),
            Push::Fcm | Push::None => format!(
                r#"{{"message":{{"token":"{}","data":{{"type":"message","date":"{date}"}},"android":{{"priority":"HIGH","ttl":"25s"}}}}}}"#,
                phone.token
            ),
        };
        assert_eq!(String::from_utf8_lossy(&told.body), body);
        phone.register(&mut world);
        let (message, link) = phone.peer().request("MESSAGE");
        assert_eq!(message.body, "good morning");
        link.send(message.answer(200, "OK", "m", ""));
        world.switch.response(200, "MESSAGE");
        world.admin.expect_bucket(&phone.aor(), &[]);
        phone.expect_nothing_more(&world);
        world.switch.expect_nothing_more();
        assert_eq!(world.pushes(), 1);
    }
}

#[test]
fn refused_missed_calls_push_goes_out_with_the_next_register() {
    let mut world = World::start(Mode::Alias, Udp);
    let mut phone = asleep(&mut world, Push::Fcm);
    let date = missed_call(&world, &phone);
    world.fcm.script(&phone.token, [fcm_double::Answer::Unavailable { retry_after_s: None }]);
    phone.register(&mut world);
    let refused = "pushes_total{provider=\"fcm\",type=\"missed_calls\",result=\"try_again\"}";
    world.admin.expect_metric(refused, 1.0);
    assert_eq!(world.admin.bucket(&phone.aor())[0]["state"], "missed");
    phone.refresh(&mut world);
    world.pushed_missed_calls(&phone, &[date]);
    world.admin.expect_bucket(&phone.aor(), &[]);
    assert_eq!(world.pushes(), 3);
}

#[test]
fn held_calls_over_the_limit_are_told_to_come_later() {
    let mut world = World::with(Mode::Open, Udp, "limits.held_calls = 1");
    let phone = asleep(&mut world, Push::Fcm);
    let first = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    let second = world.call(&phone);
    let refused = world.switch.refused(503);
    assert_eq!(refused.headers("Retry-After"), ["5"]);
    second.ack(&refused);
    world.admin.expect_metric("calls_total{outcome=\"overload\"}", 1.0);
    give_up(&world, &first, "");
    world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    assert_eq!(world.pushes(), 2);
}

#[test]
fn transactions_over_the_limit_are_told_to_come_later() {
    let mut world = World::with(Mode::Open, Tcp, "limits.transactions = 1");
    // Over TCP a REGISTER's transaction ends with its 2xx.
    let mut phone = Phone::new("alice", Push::Fcm, Tcp);
    phone.register(&mut world);
    phone.sleep();
    eventually("the end of the REGISTER's transaction", || {
        world.call(&phone);
        (world.switch.peer.receive().0.status() == 100).then_some(())
    });
    world.switch.response(182, "INVITE");
    world.pushed_invite(&phone, 28);
    phone.wake(&world);
    phone.send_register();
    let refused = phone.peer().response(503, "REGISTER");
    assert_eq!(refused.headers("Retry-After"), ["5"]);
    world.admin.expect_healthy();
}
