//! Many pushes at once: none is lost, none is doubled, and what they take stays bounded.

use std::collections::BTreeSet;
use std::sync::Arc;

use sip_push_proxy::binding::Provider;
use sip_push_proxy::demo::apns_double::{self, ApnsDouble};
use sip_push_proxy::demo::fcm_double::{self, FcmDouble};
use sip_push_proxy::push::{Busy, Outcome, Push, Pushers, Settings};
use tokio::sync::mpsc;

use crate::bench::*;
use crate::front::with_tls;

/// To each provider.
const PUSHES: usize = 2000;

fn token(number: usize) -> String {
    format!("{number:064x}")
}

/// Submits them as fast as the queue takes them.
async fn submit(
    pushers: Pushers,
    pushes: impl Iterator<Item = Push>,
    reply_to: mpsc::Sender<sip_push_proxy::push::Reply>,
) {
    for push in pushes {
        while pushers.submit(push.clone(), reply_to.clone()) == Err(Busy) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
}

/// Each push has one reply, and its token was accepted once.
fn check(tokens: Vec<String>) {
    assert_eq!(tokens.len(), PUSHES);
    assert_eq!(tokens.into_iter().collect::<BTreeSet<_>>(), (0..PUSHES).map(token).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_pushes_by_two_providers() {
    let apns = Arc::new(ApnsDouble::start_with_streams(100).await.unwrap());
    let fcm = Arc::new(FcmDouble::start().await.unwrap());
    let (folder, mut settings) = apns_settings(&apns);
    let (fcm_folder, of_fcm) = fcm_settings(&fcm);
    apns.set_delay_ms(2);
    let address = with_tls(Arc::clone(&fcm), fcm_folder.path(), None).await;
    settings.fcm = of_fcm.fcm;
    settings.fcm[0].endpoint = format!("https://localhost:{}", address.port());
    settings.fcm[0].ca_file = Some(fcm_folder.path().join("ca.pem"));
    // Now and then each of them has a bad moment, which is not ours to repeat: the core decides that.
    let bad = |number: usize| number % 100 == 7;
    for number in (0..PUSHES).filter(|number| bad(*number)) {
        apns.script(&token(number), [apns_double::Answer::Refuse]);
        fcm.script(&token(number), [fcm_double::Answer::Unavailable { retry_after_s: None }]);
    }
    // On a machine that is busy otherwise this is not about time.
    let timeout = std::time::Duration::from_secs(60);
    let pushers = open(&Settings { queue: 1000, timeout, ..settings });
    drop((folder, fcm_folder));

    let (reply_to, mut replies) = mpsc::channel(100);
    tokio::spawn(submit(
        pushers.clone(),
        (0..PUSHES).map(|number| invite(apns_target(Some(&token(number)), None))),
        reply_to.clone(),
    ));
    tokio::spawn(submit(pushers.clone(), (0..PUSHES).map(|number| invite(fcm_target(&token(number)))), reply_to));
    let (mut accepted, mut failed) = (0, 0);
    while let Some(reply) = soon(replies.recv()).await {
        if reply.outcome == Outcome::Accepted {
            accepted += 1;
        } else {
            assert_eq!((reply.provider, trouble(&reply.outcome)), (Provider::Fcm, "503 UNAVAILABLE"));
            failed += 1;
        }
    }
    let bad_count = (0..PUSHES).filter(|number| bad(*number)).count();
    assert_eq!((accepted, failed), (2 * PUSHES - bad_count, bad_count));
    check(std::iter::from_fn(|| apns.try_next()).map(|push| push.token).collect());
    let mut of_fcm: Vec<_> = std::iter::from_fn(|| fcm.try_next()).map(|push| push.token).collect();
    of_fcm.extend((0..PUSHES).filter(|number| bad(*number)).map(token));
    check(of_fcm);
    assert_eq!((apns.requests(), fcm.requests()), (PUSHES + bad_count, PUSHES));
    assert!(apns.connections() <= 4 && apns.early_streams() == 0, "{}", apns.connections());
    assert!(apns.most_streams() <= 100);
    assert_eq!((apns.provider_tokens(), fcm.token_fetches()), (1, 1));
}
