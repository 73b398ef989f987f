//! Limits: pushes to one token, pushes under way.

use sip_push_proxy::binding::{Aor, Provider};
use sip_push_proxy::demo::fcm_double::{Answer, FcmDouble};
use sip_push_proxy::push::{Busy, Outcome, Push, Pushers, Settings};
use tokio::sync::mpsc;

use crate::bench::*;

#[tokio::test]
async fn token_takes_so_many_pushes_in_a_minute() {
    let double = FcmDouble::start().await.unwrap();
    let (_folder, settings) = fcm_settings(&double);
    let pushers = open(&Settings { per_token_per_min: 3, ..settings.clone() });
    for _ in 0..3 {
        assert_eq!(outcome(&pushers, invite(fcm_target("a"))).await, Outcome::Accepted);
    }
    assert_eq!(outcome(&pushers, invite(fcm_target("a"))).await, Outcome::Limited);
    assert_eq!(outcome(&pushers, invite(fcm_target("b"))).await, Outcome::Accepted);
    assert_eq!(double.requests(), 4);

    let unlimited = open(&Settings { per_token_per_min: 0, ..settings });
    let outcomes = send_all(&unlimited, (0..100).map(|_| invite(fcm_target("a")))).await;
    assert_eq!(outcomes, vec![Outcome::Accepted; 100]);
}

#[tokio::test]
async fn who_has_got_hold_of_a_token_does_not_use_up_the_pushes_of_its_owner() {
    let double = FcmDouble::start().await.unwrap();
    let (_folder, settings) = fcm_settings(&double);
    let pushers = open(&Settings { per_token_per_min: 2, ..settings });
    let to = |user: &str| Push { aor: Aor::new(user, "example.org"), ..invite(fcm_target("a")) };
    for _ in 0..2 {
        assert_eq!(outcome(&pushers, to("mallory")).await, Outcome::Accepted);
    }
    assert_eq!(outcome(&pushers, to("mallory")).await, Outcome::Limited);
    for _ in 0..2 {
        assert_eq!(outcome(&pushers, to("alice")).await, Outcome::Accepted);
    }
    assert_eq!(outcome(&pushers, to("alice")).await, Outcome::Limited);
}

#[tokio::test]
async fn full_queue_takes_no_more_and_recovers() {
    let double = FcmDouble::start().await.unwrap();
    let (_folder, settings) = fcm_settings(&double);
    let pushers = open(&Settings { queue: 2, ..settings });
    double.script("a", [Answer::Hang]);
    let (reply_to, mut replies) = mpsc::channel(1);
    let mut hanging = invite(fcm_target("a"));
    hanging.ttl = std::time::Duration::from_millis(300);
    pushers.submit(hanging, reply_to.clone()).unwrap();
    pushers.submit(invite(fcm_target("b")), reply_to.clone()).unwrap();
    assert_eq!(pushers.submit(invite(fcm_target("c")), reply_to.clone()), Err(Busy));

    assert_eq!(soon(replies.recv()).await.unwrap().outcome, Outcome::Accepted);
    trouble(&soon(replies.recv()).await.unwrap().outcome);
    assert_eq!(outcome(&pushers, invite(fcm_target("c"))).await, Outcome::Accepted);
}

#[tokio::test]
async fn replies_that_are_not_taken_count_as_pushes_under_way() {
    let double = FcmDouble::start().await.unwrap();
    let (_folder, settings) = fcm_settings(&double);
    let pushers = open(&Settings { queue: 3, ..settings });
    let (reply_to, mut replies) = mpsc::channel(1);
    // One fits into the channel and leaves its place; the other three keep theirs.
    let mut taken = 0;
    while taken < 4 {
        match pushers.submit(invite(fcm_target("a")), reply_to.clone()) {
            Ok(()) => taken += 1,
            Err(Busy) => tokio::task::yield_now().await,
        }
    }
    for _ in 0..4 {
        soon(double.next()).await;
    }
    assert_eq!(pushers.submit(invite(fcm_target("a")), reply_to.clone()), Err(Busy));
    for _ in 0..4 {
        assert_eq!(soon(replies.recv()).await.unwrap().outcome, Outcome::Accepted);
    }
    assert_eq!(outcome(&pushers, invite(fcm_target("a"))).await, Outcome::Accepted);
}

#[tokio::test]
async fn asker_that_is_gone_harms_nobody() {
    let double = FcmDouble::start().await.unwrap();
    let (_folder, settings) = fcm_settings(&double);
    let pushers = open(&Settings { queue: 1, ..settings });
    let (reply_to, replies) = mpsc::channel(1);
    drop(replies);
    pushers.submit(invite(fcm_target("a")), reply_to).unwrap();
    soon(double.next()).await;
    let (reply_to, mut replies) = mpsc::channel(1);
    while pushers.submit(invite(fcm_target("b")), reply_to.clone()).is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(soon(replies.recv()).await.unwrap().outcome, Outcome::Accepted);
}

#[tokio::test]
async fn without_accounts_every_provider_is_off() {
    let pushers = open(&Settings::default());
    assert_eq!(pushers.providers(), []);
    let target = |provider| sip_push_proxy::binding::PushTarget { provider, ..fcm_target("t") };
    for provider in Provider::ALL {
        let reason = format!("provider {provider} is switched off");
        assert_eq!(outcome(&pushers, invite(target(provider))).await, refused(&reason));
    }
}

#[test]
fn pushes_run_on_the_given_runtime_whichever_thread_submits() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let double = runtime.block_on(FcmDouble::start()).unwrap();
    let (_folder, settings) = fcm_settings(&double);
    let pushers = Pushers::open(&settings, runtime.handle().clone()).unwrap();
    let (reply_to, mut replies) = mpsc::channel(1);
    pushers.submit(invite(fcm_target("a")), reply_to).unwrap();
    assert_eq!(runtime.block_on(soon(replies.recv())).unwrap().outcome, Outcome::Accepted);
}

#[tokio::test]
async fn more_dead_tokens_of_one_account_than_can_be_are_not_believed() {
    let double = FcmDouble::start().await.unwrap();
    let (_folder, settings) = fcm_settings(&double);
    let pushers = open(&settings);
    let (mut believed, mut doubted) = (0, 0);
    for number in 0..40 {
        let token = format!("token-{number}");
        double.script(&token, [Answer::Unregistered]);
        let outcome = outcome(&pushers, invite(fcm_target(&token))).await;
        if let Outcome::Doubted { reason } = &outcome {
            assert!(reason.starts_with("404 UNREGISTERED, as of too many others"), "{reason}");
            doubted += 1;
        } else {
            assert_eq!(outcome, dead("404 UNREGISTERED"));
            believed += 1;
        }
        assert_eq!(pushers.alarms().len(), usize::from(doubted > 0));
    }
    assert_eq!((believed, doubted), (30, 10));
    let alarm = "fcm project demo-project: more than 30 tokens are called dead within a minute; their devices are kept and \
                 not pushed";
    assert_eq!(pushers.alarms(), [(Provider::Fcm, alarm.to_owned())]);
    assert_eq!(pushers.troubles(), []);
    assert_eq!(outcome(&pushers, invite(fcm_target("good"))).await, Outcome::Accepted, "who lives is pushed");

    let pushers = open(&Settings { dead_per_min: 0, ..settings });
    for number in 0..40 {
        let token = format!("token-{number}");
        double.script(&token, [Answer::Unregistered]);
        assert_eq!(outcome(&pushers, invite(fcm_target(&token))).await, dead("404 UNREGISTERED"));
    }
}
