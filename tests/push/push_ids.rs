//! What push services call a push, for asking them what became of it.

use sip_push_proxy::binding::{Provider, PushTarget};
use sip_push_proxy::demo::apns_double::{self, ApnsDouble};
use sip_push_proxy::demo::callback_double::{self, CallbackDouble};
use sip_push_proxy::demo::fcm_double::{self, FcmDouble, SERVER_KEY};
use sip_push_proxy::demo::harmony_double;
use sip_push_proxy::demo::hms_double::{HmsDouble, code};
use sip_push_proxy::demo::webpush_double::{self, WebPushDouble};
use sip_push_proxy::push::{Outcome, Push, Pushers, fcm};

use crate::bench::*;
use crate::{callback, huawei, webpush};

/// What the reply to a push says.
async fn push_id(pushers: &Pushers, push: Push) -> Option<String> {
    send(pushers, push).await.push_id.map(String::from)
}

#[tokio::test]
async fn fcm_has_a_name_for_a_message_that_it_took() {
    let double = FcmDouble::start().await.unwrap();
    let (folder, mut settings) = fcm_settings(&double);
    let pushers = open(&settings);
    let push = || invite(fcm_target("a"));
    assert_eq!(push_id(&pushers, push()).await.as_deref(), Some("projects/demo-project/messages/0:1"));
    double.script("a", [fcm_double::Answer::Internal]);
    assert_eq!(push_id(&pushers, push()).await, None);

    settings.fcm[0].profile = fcm::Profile::Legacy;
    settings.fcm[0].service_account = folder.path().join("server.key");
    std::fs::write(&settings.fcm[0].service_account, SERVER_KEY).unwrap();
    assert_eq!(push_id(&open(&settings), push()).await.as_deref(), Some("0:3"));
}

#[tokio::test]
async fn apns_says_our_name_again_and_its_own_in_the_sandbox() {
    let production = ApnsDouble::start().await.unwrap();
    let sandbox = production.start_sandbox().await.unwrap();
    let (_folder, mut settings) = apns_settings(&production);
    settings.apns[0].sandbox_endpoint = sandbox.url();
    let pushers = open(&settings);
    let target = || apns_target(Some("00fc13"), None);
    let id = push_id(&pushers, invite(target())).await.unwrap();
    assert_eq!(soon(production.next()).await.header("apns-id"), id);
    let in_sandbox = PushTarget { provider: Provider::ApnsDev, ..target() };
    let told = push_id(&pushers, invite(in_sandbox)).await.unwrap();
    assert_eq!(told, format!("{id}, apns-unique-id 00000000-0000-4000-8000-000000000001"));

    // The other environment's word is the one that counts.
    production.script("00fc13", [apns_double::Answer::Reason { status: 400, reason: "BadDeviceToken" }]);
    let told = push_id(&pushers, invite(target())).await.unwrap();
    assert_eq!(told, format!("{id}, apns-unique-id 00000000-0000-4000-8000-000000000002"));
}

#[tokio::test]
async fn web_push_has_a_resource_for_a_message() {
    let double = WebPushDouble::start().await.unwrap();
    let (_folder, settings) = webpush::settings(&[&double]);
    let pushers = open(&settings);
    let secret = "gAAAAABh0123456789abcdefghijklmnopqrstuvwxyz";
    let push = || invite(webpush::target(&double.subscription(secret)));
    assert_eq!(push_id(&pushers, push()).await, Some(format!("http://{}/m/0", double.host())));
    // Who sees it must not be able to push.
    let subscription = double.subscription(secret);
    for location in [subscription.clone(), format!("{subscription}/message"), format!("http://other/m/{secret}")] {
        let headers = vec![(hyper::header::LOCATION, location.parse().unwrap())];
        double.script(secret, [webpush_double::Answer::Raw { status: 201, headers, body: String::new() }]);
        let reply = send(&pushers, push()).await;
        assert_eq!((reply.outcome, reply.push_id), (Outcome::Accepted, None));
    }
}

#[tokio::test]
async fn huawei_has_a_name_for_each_request() {
    let id = Some("157440955549500001002006");
    let hms = HmsDouble::start().await.unwrap();
    let (_folder, settings) = huawei::hms_settings(&hms);
    let pushers = open(&settings);
    assert_eq!(push_id(&pushers, invite(huawei::of(Provider::Hms, "a"))).await.as_deref(), id);
    hms.service.script("a", [code("80300008", "")]);
    assert_eq!(push_id(&pushers, invite(huawei::of(Provider::Hms, "a"))).await.as_deref(), id, "of a refused one, too");

    let harmony = harmony_double::start().await.unwrap();
    let (_folder, settings) = huawei::harmony_settings(&harmony);
    assert_eq!(push_id(&open(&settings), invite(huawei::of(Provider::Harmony, "a"))).await.as_deref(), id);
}

#[tokio::test]
async fn the_operators_gateway_may_name_a_push() {
    let double = CallbackDouble::start().await.unwrap();
    let (_folder, settings) = callback::settings(&double);
    let pushers = open(&settings);
    let long = "x".repeat(300);
    for (body, expected) in [
        ("", None),
        (r#"{"id":"7f\n3"}"#, Some("7f?3")),
        (r#"{"id":73,"state":"queued"}"#, Some("73")),
        (r#"{"id":""}"#, None),
        (r#"{"id":{}}"#, None),
        (&format!(r#"{{"id":"{long}"}}"#), Some(&long[..255])),
    ] {
        double.script("a", [callback_double::Answer::Raw { status: 202, headers: Vec::new(), body: body.to_owned() }]);
        assert_eq!(push_id(&pushers, invite(callback::target("a"))).await.as_deref(), expected, "{body}");
    }
}
