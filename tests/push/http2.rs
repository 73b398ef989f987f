//! HTTP/2 as Apple wants it: how many streams, which connection, and what a lost one means.

use std::time::Duration;

use sip_push_proxy::demo::apns_double::{Answer, ApnsDouble};
use sip_push_proxy::push::{Limits, Outcome, Pushers, Settings};

use crate::bench::*;
use crate::relay::Relay;

fn target(token: &str) -> sip_push_proxy::binding::PushTarget {
    apns_target(Some(token), None)
}

fn unlimited(settings: Settings) -> Settings {
    Settings { per_token_per_min: 0, ..settings }
}

fn pushers_by(double: &ApnsDouble, endpoint: String) -> Pushers {
    let (_folder, mut settings) = apns_settings(double);
    settings.apns[0].endpoint = endpoint;
    open(&Settings { timeout: Duration::from_secs(2), ..unlimited(settings) })
}

async fn relayed(double: &ApnsDouble) -> (Relay, Pushers) {
    let relay = Relay::to(double.url().trim_start_matches("http://").parse().unwrap()).await;
    let pushers = pushers_by(double, format!("http://{}", relay.address()));
    (relay, pushers)
}

#[tokio::test]
async fn the_stream_limit_is_kept_and_more_connections_are_opened_under_load() {
    let double = ApnsDouble::start_with_streams(5).await.unwrap();
    double.set_delay_ms(5);
    let (_folder, settings) = apns_settings(&double);
    let pushers = open(&unlimited(settings));
    let outcomes = send_all(&pushers, (0..500).map(|n| invite(target(&format!("{n:064x}"))))).await;
    assert_eq!(outcomes, vec![Outcome::Accepted; 500]);
    assert_eq!((double.requests(), double.provider_tokens(), double.early_streams()), (500, 1, 0));
    assert_eq!(double.most_streams(), 5);
    assert!((2..=4).contains(&double.connections()), "{}", double.connections());
}

#[tokio::test]
async fn one_stream_until_the_first_success_on_each_connection() {
    let double = ApnsDouble::start().await.unwrap();
    let pushers = pushers_by(&double, double.url());
    double.set_delay_ms(5);
    for round in 1..=3 {
        let outcomes = send_all(&pushers, (0..50).map(|n| invite(target(&format!("{n:064x}"))))).await;
        assert_eq!(outcomes, vec![Outcome::Accepted; 50]);
        assert_eq!((double.early_streams(), double.connections()), (0, round));
        // The next round goes by a fresh connection.
        double.script("00fc13", [Answer::Disconnect]);
        trouble(&outcome(&pushers, invite(target("00fc13"))).await);
    }
}

#[tokio::test]
async fn a_push_that_does_not_prove_the_connection_gives_way_to_the_next() {
    let double = ApnsDouble::start().await.unwrap();
    let pushers = pushers_by(&double, double.url());
    double.script("00dead", [Answer::Unregistered { timestamp_ms: 1 }]);
    double.script("00busy", [Answer::Hang]);
    // The first one hangs: another connection is opened for those behind it.
    let pushes = ["00busy", "00dead", "00fc13", "00fc13"].map(|token| invite(target(token)));
    let outcomes = send_all(&pushers, pushes.into_iter()).await;
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Accepted).count(), 2, "{outcomes:?}");
    assert!(outcomes.contains(&silent(2000)));
    assert_eq!(double.early_streams(), 0);
}

#[tokio::test]
async fn a_stream_that_was_refused_is_sent_again_and_one_that_broke_is_not() {
    let double = ApnsDouble::start().await.unwrap();
    let pushers = pushers_by(&double, double.url());
    double.script("00fc13", [Answer::Refuse, Answer::Refuse]);
    assert_eq!(outcome(&pushers, invite(target("00fc13"))).await, Outcome::Accepted);
    assert_eq!(double.requests(), 3);

    // Whoever asked may send it again, but not before a phone that had it would have come.
    double.script("00fc13", [Answer::Reset]);
    let broken = outcome(&pushers, invite(target("00fc13"))).await;
    let Outcome::TryAgain { after: Some(after), reason, .. } = broken else { panic!("{broken:?}") };
    assert!(after > Duration::from_secs(1) && after <= Duration::from_secs(3), "{after:?}");
    assert!(reason.starts_with("no answer: stream error received"), "{reason}");
    assert_eq!(double.requests(), 4);
    assert_eq!(outcome(&pushers, invite(target("00fc13"))).await, Outcome::Accepted);
    assert_eq!(double.connections(), 1, "a stream that ends ends no connection");
}

#[tokio::test]
async fn refused_for_ever_is_passing_trouble() {
    let double = ApnsDouble::start().await.unwrap();
    let pushers = pushers_by(&double, double.url());
    double.script("00fc13", vec![Answer::Refuse; 100]);
    trouble(&outcome(&pushers, invite(target("00fc13"))).await);
    assert_eq!(double.requests(), 4);
}

#[tokio::test]
async fn a_connection_is_open_before_the_first_push_and_again_after_it_was_closed() {
    let double = ApnsDouble::start().await.unwrap();
    let (relay, pushers) = relayed(&double).await;
    assert_eq!(relay.accepted(), 0, "opening the account sends nothing: check does no more");
    pushers.warm_up();
    relay.has_accepted(1).await;
    assert_eq!(outcome(&pushers, invite(target("00fc13"))).await, Outcome::Accepted);
    assert_eq!(relay.accepted(), 1);
    relay.cut();
    relay.has_accepted(2).await;
    assert_eq!(outcome(&pushers, invite(target("00fc13"))).await, Outcome::Accepted);
    assert_eq!(relay.accepted(), 2);
}

#[tokio::test]
async fn an_endpoint_that_is_away_is_not_stormed_and_found_again() {
    let double = ApnsDouble::start().await.unwrap();
    let (relay, pushers) = relayed(&double).await;
    // Each connection ends as soon as it is open: as good as none.
    relay.refuse(true);
    pushers.warm_up();
    for _ in 0..20 {
        let outcome = outcome(&pushers, invite(target("00fc13"))).await;
        assert!(matches!(outcome, Outcome::TryAgain { .. } | Outcome::Skipped { .. }), "{outcome:?}");
    }
    assert!(relay.accepted() < 60, "{}", relay.accepted());
    relay.refuse(false);
    let before = relay.accepted();
    // Nobody pushes; it is warm again all the same.
    soon(async {
        while relay.accepted() == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_no_push() {
    let double = ApnsDouble::start().await.unwrap();
    let (relay, pushers) = relayed(&double).await;
    for connections in 1..5 {
        assert_eq!(outcome(&pushers, invite(target("00fc13"))).await, Outcome::Accepted);
        assert_eq!(relay.accepted(), connections);
        relay.cut();
        // The news of it has to arrive.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_connection_that_went_dead_is_left_after_one_push() {
    let double = ApnsDouble::start().await.unwrap();
    let (relay, pushers) = relayed(&double).await;
    assert_eq!(outcome(&pushers, invite(target("00fc13"))).await, Outcome::Accepted);
    relay.swallow();
    assert_eq!(outcome(&pushers, invite(target("00fc13"))).await, silent(2000));
    relay.clear_up();
    // No PING was answered yet: nothing goes by the dead one.
    assert_eq!(outcome(&pushers, invite(target("00fc13"))).await, Outcome::Accepted);
    assert_eq!(relay.accepted(), 2);
}

#[tokio::test]
async fn a_push_that_hangs_does_not_condemn_its_connection() {
    let double = ApnsDouble::start().await.unwrap();
    let (relay, pushers) = relayed(&double).await;
    assert_eq!(outcome(&pushers, invite(target("00fc13"))).await, Outcome::Accepted);
    double.script("00busy", [Answer::Hang]);
    let mut hangs = invite(target("00busy"));
    hangs.ttl = Duration::from_millis(100);
    trouble(&outcome(&pushers, hangs).await);
    // The PING is answered, so the connection is good again.
    soon(async {
        while double.connections() == 1 && double.requests() < 20 {
            assert_eq!(outcome(&pushers, invite(target("00fc13"))).await, Outcome::Accepted);
        }
    })
    .await;
    assert!(relay.accepted() <= 2);
}

#[tokio::test]
async fn endpoints_that_cannot_be_reached_say_why() {
    let double = ApnsDouble::start().await.unwrap();
    let refused = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    // No resolver asks the network for a label of more than 63 octets.
    let nowhere = format!("http://{}.invalid:1", "x".repeat(64));
    for (endpoint, why) in [
        (format!("http://{refused}"), "no connection: Connection refused"),
        (nowhere, "no connection: failed to lookup address"),
    ] {
        let pushers = pushers_by(&double, endpoint);
        for _ in 0..3 {
            let outcome = outcome(&pushers, invite(target("00fc13"))).await;
            assert!(trouble(&outcome).starts_with(why), "{outcome:?}");
        }
        let outcomes = send_all(&pushers, (0..20).map(|_| invite(target("00fc13")))).await;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::TryAgain { .. } | Outcome::Skipped { .. })));
    }
}

#[tokio::test]
async fn a_server_that_takes_connections_and_says_nothing_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let double = ApnsDouble::start().await.unwrap();
    let (_folder, mut settings) = apns_settings(&double);
    settings.apns[0].endpoint = format!("http://{}", silent.local_addr().unwrap());
    let limits = Limits { in_flight: 10, ..Limits::default() };
    let pushers = open(&Settings { timeout: Duration::from_millis(200), limits, ..unlimited(settings) });
    let outcomes = send_all(&pushers, (0..10).map(|_| invite(target("00fc13")))).await;
    assert!(outcomes.iter().all(|outcome| trouble(outcome) == "no answer within 200 ms"), "{outcomes:?}");
}

#[tokio::test]
async fn an_endpoint_that_speaks_something_else_is_trouble_and_no_harm() {
    use tokio::io::AsyncWriteExt;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
        }
    });
    let double = ApnsDouble::start().await.unwrap();
    let pushers = pushers_by(&double, format!("http://{address}"));
    for _ in 0..3 {
        trouble(&outcome(&pushers, invite(target("00fc13"))).await);
    }
}
