//! A connection that has gone silent without being closed: it costs the attempt that finds it out, and not the next.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sip_push_proxy::binding::PushTarget;
use sip_push_proxy::demo::apns_double::ApnsDouble;
use sip_push_proxy::demo::callback_double::CallbackDouble;
use sip_push_proxy::demo::fcm_double::FcmDouble;
use sip_push_proxy::demo::rustore_double;
use sip_push_proxy::demo::webpush_double::WebPushDouble;
use sip_push_proxy::push::{Outcome, Pushers, Settings, webpush};

use crate::bench::*;
use crate::front::{Served, with_tls};
use crate::relay::Relay;
use crate::{callback, rustore, webpush as browsers};

/// Of one attempt.
const TIMEOUT_MS: u64 = 2000;

fn open_briefly(settings: Settings) -> Pushers {
    open(&Settings { timeout: Duration::from_millis(TIMEOUT_MS), ..settings })
}

/// Speaks HTTP/2 with the double; the origin is the relay's.
async fn relayed<D: Served>(double: &Arc<D>, folder: &Path) -> (Relay, String) {
    let relay = Relay::to(with_tls(Arc::clone(double), folder, None).await).await;
    let origin = format!("https://localhost:{}", relay.address().port());
    (relay, origin)
}

/// From here on the open connections carry nothing; the next ones do.
async fn only_one_attempt_is_lost(relay: &Relay, pushers: &Pushers, target: impl Fn() -> PushTarget) {
    relay.swallow();
    // Several that are lost together are one silence.
    let lost = send_all(pushers, (0..3).map(|_| invite(target()))).await;
    assert_eq!(lost, vec![silent(TIMEOUT_MS); 3]);
    relay.clear_up();
    let before = relay.accepted();
    for _ in 0..3 {
        assert_eq!(outcome(pushers, invite(target())).await, Outcome::Accepted);
    }
    assert_eq!(relay.accepted(), before + 1, "and what is found instead is kept");
}

#[tokio::test]
async fn fcm_is_asked_again_by_another_connection() {
    let double = Arc::new(FcmDouble::start().await.unwrap());
    let (folder, mut settings) = fcm_settings(&double);
    let (relay, origin) = relayed(&double, folder.path()).await;
    settings.fcm[0].endpoint = origin;
    settings.fcm[0].ca_file = Some(folder.path().join("ca.pem"));
    let pushers = open_briefly(settings);
    assert_eq!(outcome(&pushers, invite(fcm_target("a"))).await, Outcome::Accepted);
    only_one_attempt_is_lost(&relay, &pushers, || fcm_target("a")).await;
}

#[tokio::test]
async fn rustore_is_asked_again_by_another_connection() {
    let double = Arc::new(rustore_double::start().await.unwrap());
    let (folder, mut settings) = rustore::settings(&double);
    let (relay, origin) = relayed(&double, folder.path()).await;
    settings.rustore[0].endpoint = origin;
    settings.rustore[0].ca_file = Some(folder.path().join("ca.pem"));
    let pushers = open_briefly(settings);
    assert_eq!(outcome(&pushers, invite(rustore::target("a"))).await, Outcome::Accepted);
    only_one_attempt_is_lost(&relay, &pushers, || rustore::target("a")).await;
}

#[tokio::test]
async fn the_token_endpoint_is_asked_again_by_another_connection() {
    let double = Arc::new(FcmDouble::start().await.unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (relay, origin) = relayed(&double, folder.path()).await;
    double.is_reached_at(&origin);
    let (_folder, mut settings) = fcm_settings(&double);
    settings.fcm[0].ca_file = Some(folder.path().join("ca.pem"));
    let pushers = open_briefly(settings);
    assert_eq!(outcome(&pushers, invite(fcm_target("a"))).await, Outcome::Accepted);
    relay.swallow();
    double.revoke_access_tokens();
    // The push itself is answered: its access token is stale, and there is no other in time.
    trouble(&outcome(&pushers, invite(fcm_target("a"))).await);
    relay.clear_up();
    // Who comes in the moment before that fetch ends shares its end.
    let next = outcome(&pushers, invite(fcm_target("a"))).await;
    if next != Outcome::Accepted {
        assert_eq!(trouble(&next), "the token endpoint does not answer");
        assert_eq!(outcome(&pushers, invite(fcm_target("a"))).await, Outcome::Accepted);
    }
    assert_eq!(relay.accepted(), 2);
}

#[tokio::test]
async fn browsers_services_are_asked_again_by_another_connection() {
    let double = Arc::new(WebPushDouble::start().await.unwrap());
    let (folder, mut settings) = browsers::settings(&[&double]);
    let (relay, origin) = relayed(&double, folder.path()).await;
    double.is_reached_at(&origin);
    let of_webpush = settings.webpush.as_mut().unwrap();
    let port = Some(relay.address().port());
    of_webpush.allowed_hosts =
        vec![webpush::AllowedHost { host: "localhost".into(), is_suffix: false, port, is_loopback: true }];
    of_webpush.ca_file = Some(folder.path().join("ca.pem"));
    let pushers = open_briefly(settings);
    let target = || browsers::target(&double.subscription("a"));
    assert_eq!(outcome(&pushers, invite(target())).await, Outcome::Accepted);
    only_one_attempt_is_lost(&relay, &pushers, target).await;
}

#[tokio::test]
async fn the_operators_gateway_is_asked_again_by_another_connection() {
    let double = Arc::new(CallbackDouble::start().await.unwrap());
    let (folder, mut settings) = callback::settings(&double);
    let (relay, origin) = relayed(&double, folder.path()).await;
    let gateway = settings.callback.as_mut().unwrap();
    gateway.url = format!("{origin}/push");
    gateway.ca_file = Some(folder.path().join("ca.pem"));
    let pushers = open_briefly(settings);
    assert_eq!(outcome(&pushers, invite(callback::target("a"))).await, Outcome::Accepted);
    only_one_attempt_is_lost(&relay, &pushers, || callback::target("a")).await;
}

#[tokio::test]
async fn apns_is_asked_again_by_another_connection() {
    let double = Arc::new(ApnsDouble::start().await.unwrap());
    let (folder, mut settings) = apns_settings(&double);
    let (relay, origin) = relayed(&double, folder.path()).await;
    settings.apns[0].endpoint = origin;
    settings.apns[0].ca_file = Some(folder.path().join("ca.pem"));
    let pushers = open_briefly(settings);
    let target = || apns_target(Some("00fc13"), None);
    assert_eq!(outcome(&pushers, invite(target())).await, Outcome::Accepted);
    only_one_attempt_is_lost(&relay, &pushers, target).await;
}
