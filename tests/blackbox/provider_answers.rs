//! What becomes of a call when its provider says this or that: the caller's answer, the operator's reason, the binding.

use serde_json::Value;
use sip_push_proxy::demo::apns_double::Answer as Apns;
use sip_push_proxy::demo::fcm_double::Answer as Fcm;
use sip_push_proxy::sip::Transport::Udp;

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
        (vec![Fcm::InvalidToken], Then::EndsBinding, "400 INVALID_ARGUMENT: message.token"),
        (vec![Fcm::Unregistered], Then::EndsBinding, "404 UNREGISTERED"),
        (vec![Fcm::SenderIdMismatch], Then::EndsBinding, "403 SENDER_ID_MISMATCH"),
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
        (vec![apns(400, "BadDeviceToken")], Then::EndsBinding, "400 BadDeviceToken"),
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
