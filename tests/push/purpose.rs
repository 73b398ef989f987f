//! No push for a call that is over: looked at right before each request.

use sip_push_proxy::demo::apns_double::{self, ApnsDouble};
use sip_push_proxy::demo::fcm_double::{Answer, FcmDouble};
use sip_push_proxy::push::{Limits, Outcome, Settings};
use tokio::sync::mpsc;

use crate::bench::*;

#[tokio::test]
async fn a_push_without_purpose_is_not_sent_and_does_not_count() {
    let double = FcmDouble::start().await.unwrap();
    let (_folder, settings) = fcm_settings(&double);
    let pushers = open(&Settings { per_token_per_min: 1, ..settings });
    let push = invite(fcm_target("a"));
    push.purpose.end();
    assert_eq!(outcome(&pushers, push).await, Outcome::Withdrawn);
    assert_eq!((double.requests(), double.token_fetches()), (0, 0));
    assert_eq!(outcome(&pushers, invite(fcm_target("a"))).await, Outcome::Accepted);
}

#[tokio::test]
async fn a_call_that_ends_while_its_push_waits_for_its_turn_is_not_pushed() {
    let double = FcmDouble::start().await.unwrap();
    let (_folder, settings) = fcm_settings(&double);
    let pushers = open(&Settings { limits: Limits { in_flight: 1, ..Limits::default() }, ..settings });
    double.script("hangs", [Answer::Hang]);
    let (reply_to, mut replies) = mpsc::channel(2);
    let mut hanging = invite(fcm_target("hangs"));
    hanging.ttl = std::time::Duration::from_millis(300);
    pushers.submit(hanging, reply_to.clone()).unwrap();
    soon(async {
        while double.requests() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let waiting = invite(fcm_target("waits"));
    let purpose = waiting.purpose.clone();
    pushers.submit(waiting, reply_to).unwrap();
    // On a runtime of one thread it has gone as far as it can when everybody else had a turn.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    purpose.end();
    trouble(&soon(replies.recv()).await.unwrap().outcome);
    assert_eq!(soon(replies.recv()).await.unwrap().outcome, Outcome::Withdrawn);
    assert_eq!(double.requests(), 1);
}

#[tokio::test]
async fn a_push_is_not_sent_anew_with_fresh_credentials_for_a_call_that_has_ended() {
    let double = ApnsDouble::start().await.unwrap();
    let pushers = apns_pushers(&double);
    let push = invite(apns_target(Some("00fc13"), None));
    let purpose = push.purpose.clone();
    // The caller gives up while Apple says no.
    double.observe(Box::new(move |_, _, _| purpose.end()));
    double.script("00fc13", [apns_double::Answer::Reason { status: 403, reason: "ExpiredProviderToken" }]);
    assert_eq!(outcome(&pushers, push).await, Outcome::Withdrawn);
    assert_eq!(double.requests(), 1);
}

#[tokio::test]
async fn a_call_that_ends_while_its_push_waits_for_a_connection_is_not_pushed() {
    let double = ApnsDouble::start().await.unwrap();
    let (_folder, settings) = apns_settings(&double);
    let pushers = open(&Settings { timeout: std::time::Duration::from_secs(2), ..settings });
    // The only stream of a new connection is taken, and its answer does not come.
    double.script("00b0", [apns_double::Answer::Hang]);
    let (reply_to, mut replies) = mpsc::channel(2);
    pushers.submit(invite(apns_target(Some("00b0"), None)), reply_to.clone()).unwrap();
    soon(async {
        while double.requests() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let waiting = invite(apns_target(Some("00fc13"), None));
    let purpose = waiting.purpose.clone();
    pushers.submit(waiting, reply_to).unwrap();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    purpose.end();
    assert_eq!(soon(replies.recv()).await.unwrap().outcome, Outcome::Withdrawn);
    trouble(&soon(replies.recv()).await.unwrap().outcome);
    assert_eq!(double.requests(), 1);
    // The connection that was opened for it is as good as before.
    assert_eq!(outcome(&pushers, invite(apns_target(Some("00fc13"), None))).await, Outcome::Accepted);
}
