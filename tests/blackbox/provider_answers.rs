//! What becomes of a call when its provider says this or that: the caller's answer, the operator's reason, the binding.

use serde_json::Value;
use sip_push_proxy::demo::apns_double::Answer as Apns;
use sip_push_proxy::demo::fcm_double::Answer as Fcm;
use sip_push_proxy::sip::Transport::Udp;

use crate::gateways::next;
use crate::peer::eventually;
use crate::phone::{Phone, Push};
use crate::world::{Mode, World, unix_seconds};

/// What is to come of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// 480 at once; the token may be good.
    Ends,
    /// 480 at once, and the binding is over.
    EndsBinding,
    /// Another push is sent while the call waits, and wakes the phone.
    IsPushedAgain,
    /// The same push is sent again within the same attempt, and wakes the phone.
    GoesOn,
}

fn fcm(status: u16, status_name: &str, code: &str, message: &str) -> Fcm {
    let details = if code.is_empty() { Value::Null } else { serde_json::json!([{"errorCode": code}]) };
    let body =
        serde_json::json!({"error": {"code": status, "status": status_name, "message": message, "details": details}});
    Fcm::Raw { status, headers: Vec::new(), body: body.to_string() }
}

fn apns(status: u16, reason: &'static str) -> Apns {
    Apns::Reason { status, reason }
}

/// Breakers would end the table.
const PATIENT: &str = "push.breaker_failures = 1000";

/// Makes one call to a phone whose provider will answer so, and follows it to its end.
#[track_caller]
fn check(world: &mut World, push: Push, number: usize, script: impl FnOnce(&World, &str), then: Then, reason: &str) {
    let mut phone = Phone::new(&format!("user{number}"), push, Udp);
    phone.register(world);
    phone.sleep();
    script(world, &phone.token);
    let call = world.call(&phone);
    world.switch.queued();
    let outcome = match then {
        Then::Ends | Then::EndsBinding => {
            call.ack(&world.switch.response(480, "INVITE"));
            "push_failed"
        }
        Then::IsPushedAgain | Then::GoesOn => {
            world.pushed(&phone);
            phone.register(world);
            let incoming = phone.invited();
            incoming.answer(200, "OK");
            call.confirm(&world.switch.response(200, "INVITE"));
            incoming.confirmed();
            "answered"
        }
    };
    let steps = world.admin.story(&call.call_id, outcome);
    assert_eq!(steps.contains(&"push_retried".to_owned()), then == Then::IsPushedAgain, "{reason}: {steps:?}");
    assert_eq!(steps.contains(&"push_refused".to_owned()), then != Then::GoesOn, "{reason}: {steps:?}");
    let told = world.admin.get(&format!("/api/v1/calls/{}", call.call_id));
    let told: Vec<_> =
        told["steps"].as_array().expect("steps").iter().filter_map(|step| step["reason"].as_str()).collect();
    assert!(then == Then::GoesOn || told.contains(&reason), "{reason:?} is not in {told:?}");
    if then == Then::EndsBinding {
        eventually("the binding to end", || world.admin.bindings(&phone.aor()).is_empty().then_some(()));
    } else {
        assert_eq!(world.admin.bindings(&phone.aor()).len(), 1, "{reason}");
    }
}

#[test]
fn every_answer_of_fcm() {
    let mut world = World::with(Mode::Alias, Udp, PATIENT);
    let unauthenticated = || fcm(401, "UNAUTHENTICATED", "", "Request had invalid authentication credentials.");
    let table: Vec<(Vec<Fcm>, Then, &str)> = vec![
        (
            vec![Fcm::InvalidToken],
            Then::Ends,
            "400 INVALID_ARGUMENT: The registration token is not a valid FCM registration token",
        ),
        (vec![Fcm::Unregistered], Then::EndsBinding, "404 UNREGISTERED"),
        (vec![Fcm::SenderIdMismatch], Then::Ends, "403 SENDER_ID_MISMATCH"),
        (
            vec![fcm(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "Invalid value at 'message.data'")],
            Then::Ends,
            "400 INVALID_ARGUMENT: Invalid value at 'message.data'",
        ),
        (
            vec![fcm(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR", "Auth error from APNS")],
            Then::Ends,
            "401 THIRD_PARTY_AUTH_ERROR: Auth error from APNS",
        ),
        (vec![unauthenticated()], Then::GoesOn, ""),
        (vec![unauthenticated(), unauthenticated()], Then::Ends, "401 UNAUTHENTICATED"),
        (
            vec![fcm(403, "PERMISSION_DENIED", "", "Permission denied on resource project")],
            Then::Ends,
            "403 PERMISSION_DENIED: Permission denied on resource project",
        ),
        (vec![fcm(404, "NOT_FOUND", "", "Project not found")], Then::Ends, "404 NOT_FOUND: Project not found"),
        (vec![fcm(413, "", "", "")], Then::Ends, "413"),
        (vec![Fcm::QuotaExceeded { retry_after_s: None }], Then::Ends, "429 QUOTA_EXCEEDED"),
        (vec![Fcm::QuotaExceeded { retry_after_s: Some(1) }], Then::IsPushedAgain, "429 QUOTA_EXCEEDED"),
        (vec![fcm(500, "INTERNAL", "INTERNAL", "")], Then::IsPushedAgain, "500 INTERNAL"),
        (vec![Fcm::Unavailable { retry_after_s: None }], Then::IsPushedAgain, "503 UNAVAILABLE"),
        (vec![Fcm::Unavailable { retry_after_s: Some(1) }], Then::IsPushedAgain, "503 UNAVAILABLE"),
        (vec![Fcm::Unavailable { retry_after_s: Some(60) }], Then::Ends, "503 UNAVAILABLE"),
        (vec![Fcm::Raw { status: 502, headers: Vec::new(), body: "<html>".into() }], Then::IsPushedAgain, "502"),
        (vec![fcm(400, "BRAND_NEW", "", "")], Then::Ends, "400 BRAND_NEW"),
        (vec![Fcm::Unavailable { retry_after_s: None }; 3], Then::IsPushedAgain, "503 UNAVAILABLE"),
    ];
    for (number, (answers, then, reason)) in table.into_iter().enumerate() {
        check(&mut world, Push::Fcm, number, |world, token| world.fcm.script(token, answers), then, reason);
    }
}

#[test]
fn every_answer_of_apns() {
    let mut world = World::with(Mode::Alias, Udp, PATIENT);
    let now = unix_seconds();
    let unregistered = |ago_s: i64| Apns::Unregistered { timestamp_ms: now.saturating_add_signed(-ago_s) * 1000 };
    let mut table: Vec<(Vec<Apns>, Then, &str)> = vec![
        (vec![unregistered(-60)], Then::EndsBinding, "410 Unregistered"),
        // It was dead before the phone registered with it again.
        (vec![unregistered(3600)], Then::Ends, "410 Unregistered"),
        (vec![apns(400, "IdleTimeout")], Then::IsPushedAgain, "400 IdleTimeout"),
        (vec![apns(403, "ExpiredProviderToken")], Then::GoesOn, ""),
        // A second new one within twenty minutes would only make Apple angry.
        (vec![apns(403, "ExpiredProviderToken")], Then::Ends, "403 ExpiredProviderToken"),
        (vec![apns(413, "PayloadTooLarge")], Then::Ends, "413 PayloadTooLarge"),
        (vec![apns(429, "TooManyProviderTokenUpdates")], Then::IsPushedAgain, "429 TooManyProviderTokenUpdates"),
        (vec![apns(429, "TooManyRequests")], Then::IsPushedAgain, "429 TooManyRequests"),
        (vec![apns(500, "InternalServerError")], Then::IsPushedAgain, "500 InternalServerError"),
        (vec![apns(503, "ServiceUnavailable")], Then::IsPushedAgain, "503 ServiceUnavailable"),
        (vec![apns(503, "Shutdown")], Then::IsPushedAgain, "503 Shutdown"),
        (vec![Apns::Refuse], Then::GoesOn, ""),
        (vec![apns(418, "SomethingNew")], Then::Ends, "418 SomethingNew"),
    ];
    let ends = [
        (400, ["DeviceTokenNotForTopic", "BadTopic", "MissingTopic", "TopicDisallowed"].as_slice()),
        (400, &["BadCollapseId", "BadExpirationDate", "BadMessageId", "BadPriority", "InvalidPushType"]),
        (400, &["DuplicateHeaders", "PayloadEmpty", "MissingDeviceToken"]),
        (
            403,
            &[
                "InvalidProviderToken",
                "UnrelatedKeyIdInToken",
                "BadEnvironmentKeyIdInToken",
                "BadEnvironmentKeyInToken",
            ],
        ),
        (403, &["BadCertificate", "BadCertificateEnvironment", "Forbidden"]),
        (404, &["BadPath"]),
        (405, &["MethodNotAllowed"]),
    ];
    let ends = ends.into_iter().flat_map(|(status, reasons)| reasons.iter().map(move |reason| (status, *reason)));
    let ends: Vec<_> = ends.map(|(status, reason)| (status, reason, format!("{status} {reason}"))).collect();
    table.extend(ends.iter().map(|(status, reason, told)| (vec![apns(*status, reason)], Then::Ends, told.as_str())));
    for (number, (answers, then, reason)) in table.into_iter().enumerate() {
        check(&mut world, Push::Apns, number, |world, token| world.apns.script(token, answers), then, reason);
    }
}

/// What `bindings` says of why the phone is not pushed.
fn barred(world: &World, phone: &Phone) -> Value {
    let bindings = world.admin.bindings(&phone.aor());
    let [binding] = bindings.as_slice() else { panic!("{bindings:?}") };
    binding["push_refused"].clone()
}

/// A call is held and ends with its push.
#[track_caller]
fn fails(world: &World, phone: &Phone) {
    let call = world.call(phone);
    world.switch.queued();
    call.ack(&world.switch.response(480, "INVITE"));
}

#[test]
fn a_wrong_setting_costs_no_phone_its_binding_and_ends_with_a_push_that_works() {
    let mut world = World::with(Mode::Alias, Udp, PATIENT);
    let phone = crate::held_call::asleep(&mut world, Push::Fcm);
    world.fcm.script(&phone.token, [Fcm::SenderIdMismatch]);
    fails(&world, &phone);
    let asked = world.pushes();
    let why = barred(&world, &phone);
    assert!(why.as_str().is_some_and(|why| why.starts_with("403 SENDER_ID_MISMATCH; not pushed before")), "{why}");
    // It gets the INVITE by the flow that it may still have, and is not pushed in vain.
    world.call(&phone);
    world.switch.response(100, "INVITE");
    let (told, _) = world.command(&["why", &phone.aor()]);
    assert!(told.contains("is not pushed: 403 SENDER_ID_MISMATCH"), "{told}");
    // The project's key is the right one by now.
    let (said, code) = world.command(&["push", &phone.aor()]);
    assert_eq!(code, Some(0), "{said}");
    world.pushed(&phone);
    assert_eq!(world.pushes(), asked + 1, "the operator's push is the only one");
    assert_eq!(barred(&world, &phone), Value::Null);
    world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
}

#[test]
fn a_token_of_the_other_environment_is_tried_there_once_and_remembered() {
    let mut world = World::with(Mode::Alias, Udp, PATIENT);
    for (push, is_production) in [(Push::Apns, true), (Push::ApnsDev, false)] {
        let mut phone = Phone::new(&format!("user{is_production}"), push, Udp);
        phone.register(&mut world);
        phone.sleep();
        let bad = || apns(400, "BadDeviceToken");
        let asked = |world: &World| (world.apns.requests(), world.sandbox.requests());
        let before = asked(&world);
        if is_production { &world.apns } else { &world.sandbox }.script(&phone.token, [bad(), bad(), bad()]);
        for number in 1..=2 {
            let call = world.call(&phone);
            world.switch.queued();
            next(if is_production { &world.sandbox } else { &world.apns }.next());
            // A push whose call is over before its answer has come is forgotten.
            eventually("the push to be accepted", || {
                let steps = world.admin.get(&format!("/api/v1/calls/{}", call.call_id))["steps"].to_string();
                steps.contains("push_accepted").then_some(())
            });
            crate::held_call::give_up(&world, &call, "");
            let after = asked(&world);
            let tried = (after.0 - before.0, after.1 - before.1);
            assert_eq!(tried, if is_production { (1, number) } else { (number, 1) }, "{push:?}");
        }
        assert_eq!(barred(&world, &phone), Value::Null);
    }
}

#[test]
fn a_token_that_neither_environment_knows_is_barred() {
    let mut world = World::with(Mode::Alias, Udp, PATIENT);
    let phone = crate::held_call::asleep(&mut world, Push::Apns);
    world.apns.script(&phone.token, [apns(400, "BadDeviceToken")]);
    world.sandbox.script(&phone.token, [apns(400, "BadDeviceToken")]);
    fails(&world, &phone);
    let why = barred(&world, &phone);
    assert!(why.as_str().is_some_and(|why| why.starts_with("400 BadDeviceToken, also at the sandbox")), "{why}");
}

#[test]
fn more_dead_tokens_than_can_be_cost_no_phone_its_binding_and_are_an_alarm() {
    let mut world = World::with(Mode::Alias, Udp, "push.dead_per_min = 2\nsip.workers = 2");
    let unregistered = |world: &World, token: &str| world.fcm.script(token, [Fcm::Unregistered]);
    for number in 0..2 {
        check(&mut world, Push::Fcm, number, unregistered, Then::EndsBinding, "404 UNREGISTERED");
    }
    world.admin.expect_ready("ready");
    let reason = "404 UNREGISTERED, as of too many others within a minute (push.dead_per_min)";
    for number in 2..4 {
        check(&mut world, Push::Fcm, number, unregistered, Then::Ends, reason);
    }
    world.admin.expect_ready("degraded");
    world.admin.expect_metric("push_accounts_doubted{provider=\"fcm\"}", 1.0);
    let ready = world.admin.get("/readyz").to_string();
    assert!(ready.contains("fcm project demo-project: more than 2 tokens are called dead within a minute"), "{ready}");
    let why = world.admin.bindings("user3@example.org")[0]["push_refused"].clone();
    assert!(why.as_str().is_some_and(|why| why.starts_with(reason)), "{why}");
    // Apple's tokens die by themselves.
    let gone = |world: &World, token: &str| {
        world.apns.script(token, [Apns::Unregistered { timestamp_ms: (unix_seconds() + 60) * 1000 }]);
    };
    check(&mut world, Push::Apns, 4, gone, Then::EndsBinding, "410 Unregistered");
}

#[test]
fn an_account_that_fails_for_longer_than_calls_wait_is_seen_by_the_operator_and_ends_them_at_once() {
    let mut world = World::with(Mode::Alias, Udp, "push.breaker_failures = 3\npush.breaker_pause_ms = 60000");
    let wrong = || fcm(403, "PERMISSION_DENIED", "", "");
    for number in 0..3 {
        let script = |world: &World, token: &str| world.fcm.script(token, [wrong()]);
        check(&mut world, Push::Fcm, number, script, Then::Ends, "403 PERMISSION_DENIED");
    }
    world.admin.expect_ready("degraded");
    world.admin.expect_metric("push_accounts_failing{provider=\"fcm\"}", 1.0);
    let ready = world.admin.get("/readyz").to_string();
    assert!(
        ready.contains("fcm project demo-project: credentials or rights are refused: 403 PERMISSION_DENIED"),
        "{ready}"
    );
    let asked = world.fcm.requests();
    let reason = "fcm project demo-project is not asked for a moment: 403 PERMISSION_DENIED";
    check(&mut world, Push::Fcm, 3, |_, _| {}, Then::Ends, reason);
    assert_eq!(world.fcm.requests(), asked);
    // Phones of the other provider are woken as ever.
    let mut phone = Phone::new("other", Push::Apns, Udp);
    phone.register(&mut world);
    phone.sleep();
    world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
}

#[test]
fn calls_wait_while_their_account_is_not_asked_and_are_pushed_when_it_works_again() {
    let mut world = World::with(Mode::Alias, Udp, "push.breaker_failures = 3\npush.breaker_pause_ms = 1000");
    let phones = (0..4).map(|number| {
        let mut phone = Phone::new(&format!("user{number}"), Push::Fcm, Udp);
        phone.register(&mut world);
        phone.sleep();
        world.fcm.script(&phone.token, [Fcm::Unavailable { retry_after_s: None }]);
        phone
    });
    let mut phones: Vec<_> = phones.collect();
    let calls = phones.iter().map(|phone| {
        let call = world.call(phone);
        world.switch.queued();
        call
    });
    let calls: Vec<_> = calls.collect();
    let mut pushed: Vec<_> = phones.iter().map(|phone| world.pushed(phone).token).collect();
    let mut tokens: Vec<_> = phones.iter().map(|phone| phone.token.clone()).collect();
    pushed.sort();
    tokens.sort();
    assert_eq!(pushed, tokens);
    for (phone, call) in phones.iter_mut().zip(&calls) {
        phone.register(&mut world);
        let incoming = phone.invited();
        incoming.answer(200, "OK");
        call.confirm(&world.switch.response(200, "INVITE"));
        incoming.confirmed();
    }
}

#[test]
fn trouble_of_apples_sandbox_is_named_and_is_not_productions() {
    let mut world = World::with(Mode::Alias, Udp, "push.breaker_failures = 3\npush.breaker_pause_ms = 60000");
    let refused = "403 BadEnvironmentKeyIdInToken";
    for number in 0..3 {
        let answer = apns(403, "BadEnvironmentKeyIdInToken");
        check(
            &mut world,
            Push::ApnsDev,
            number,
            |world, token| world.sandbox.script(token, [answer]),
            Then::Ends,
            refused,
        );
    }
    let skipped = format!("apns sandbox team DEF123GHIJ is not asked for a moment: {refused}");
    check(&mut world, Push::ApnsDev, 3, |_, _| {}, Then::Ends, &skipped);
    assert_eq!(world.sandbox.requests(), 3);
    world.admin.expect_ready("degraded");
    world.admin.expect_metric("push_accounts_failing{provider=\"apns.dev\"}", 1.0);
    world.admin.expect_metric("push_accounts_failing{provider=\"apns\"}", 0.0);
    let ready = world.admin.get("/readyz").to_string();
    assert!(ready.contains("apns sandbox team DEF123GHIJ: credentials or rights are refused"), "{ready}");
    for number in 0..12 {
        check(&mut world, Push::Apns, 100 + number, |_, _| {}, Then::GoesOn, "");
    }
}

#[test]
fn a_provider_that_hangs_does_not_slow_calls_to_the_other() {
    let config = "push.account_in_flight_max = 2\npush.account_queue_max = 4\nhold.wait_s = 20";
    let mut world = World::with(Mode::Alias, Udp, config);
    for number in 0..4 {
        let mut phone = Phone::new(&format!("user{number}"), Push::Fcm, Udp);
        phone.register(&mut world);
        phone.sleep();
        world.fcm.script(&phone.token, [Fcm::Hang, Fcm::Hang]);
        world.call(&phone);
        world.switch.queued();
    }
    for number in 0..10 {
        check(&mut world, Push::Apns, 100 + number, |_, _| {}, Then::GoesOn, "");
    }
}
