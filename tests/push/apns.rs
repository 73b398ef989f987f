//! APNs: what is sent, and what each answer comes to.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sip_push_proxy::binding::{Provider, PushTarget, PushToken, Tokens};
use sip_push_proxy::clock::UnixMillis;
use sip_push_proxy::demo::Recorded;
use sip_push_proxy::demo::apns_double::{Answer, ApnsDouble};
use sip_push_proxy::push::apns::Expiration;
use sip_push_proxy::push::payload::AppleProfile;
use sip_push_proxy::push::{Notice, NoticeKind, Outcome, Push, Settings, Trouble};

use crate::bench::*;

const HEADERS: [&str; 5] = ["apns-push-type", "apns-topic", "apns-priority", "apns-expiration", "apns-collapse-id"];

#[track_caller]
fn check(push: &Recorded, path: &str, headers: [&str; 5], body: &str) {
    assert_eq!(push.path, path);
    assert_eq!(HEADERS.map(|name| push.header(name)), headers);
    assert_eq!(String::from_utf8_lossy(&push.body), body);
}

#[tokio::test]
async fn invite_goes_to_the_voip_token() {
    let double = ApnsDouble::start().await.unwrap();
    let pushers = apns_pushers(&double);
    assert_eq!(outcome(&pushers, invite(apns_target(Some("00FC13"), Some("ab12")))).await, Outcome::Accepted);
    check(
        &soon(double.next()).await,
        "/3/device/00FC13",
        ["voip", "org.example.phone.voip", "10", "1623753519", ""],
        r#"{"aps":{"badge":"10"},"acme":{"badge":"10","type":"invite","date":1623753491,"number":"103","dispaly_name":"Ivan"}}"#,
    );
}

#[tokio::test]
async fn a_voip_push_is_kept_while_the_call_waits_or_not_at_all() {
    let double = ApnsDouble::start().await.unwrap();
    let (_folder, mut settings) = apns_settings(&double);
    settings.apns[0].expiration = Expiration::Zero;
    let pushers = open(&settings);
    // An alert of a call is no call screen, and may come late.
    for (voip, expiration) in [(Some("00fc13"), "0"), (None, "1623753519")] {
        assert_eq!(outcome(&pushers, invite(apns_target(voip, Some("ab12")))).await, Outcome::Accepted);
        assert_eq!(soon(double.next()).await.header("apns-expiration"), expiration);
    }
}

#[tokio::test]
async fn all_attempts_of_a_calls_push_have_one_apns_id() {
    let production = ApnsDouble::start().await.unwrap();
    let sandbox = production.start_sandbox().await.unwrap();
    let (_folder, mut settings) = apns_settings(&production);
    settings.apns[0].sandbox_endpoint = sandbox.url();
    let pushers = open(&settings);
    let ids = Arc::new(Mutex::new(Vec::new()));
    for double in [&production, &sandbox] {
        let ids = Arc::clone(&ids);
        double.observe(Box::new(move |push, _, _| ids.lock().push(push.header("apns-id").to_owned())));
    }
    let push = |call_ref: &str, token: &str| {
        let notice = Notice::Invite { number: "103".into(), display_name: "".into(), call_ref: call_ref.into() };
        Push { notice, ..invite(apns_target(Some(token), None)) }
    };
    // Within an attempt, over attempts, and with a push that the call repeats.
    production.script("aa", [Answer::Reason { status: 400, reason: "BadDeviceToken" }]);
    sandbox.script("aa", [Answer::Reason { status: 503, reason: "ServiceUnavailable" }]);
    trouble(&outcome(&pushers, push("1", "aa")).await);
    assert_eq!(outcome(&pushers, push("1", "aa")).await, Outcome::Accepted);
    let later = Push { date: UnixMillis(DATE.0 + 3000), is_repeat: true, ..push("1", "aa") };
    assert_eq!(outcome(&pushers, later).await, Outcome::Accepted);
    let of_the_call = ids.lock().split_off(0);
    assert_eq!(of_the_call, vec![of_the_call[0].clone(); 4]);
    // Another device, and another call.
    assert_eq!(outcome(&pushers, push("1", "bb")).await, Outcome::Accepted);
    assert_eq!(outcome(&pushers, push("2", "aa")).await, Outcome::Accepted);
    let others = ids.lock().split_off(0);
    assert!(!others.contains(&of_the_call[0]) && others[0] != others[1], "{others:?}");
}

#[tokio::test]
async fn a_voip_push_is_repeated_only_for_apps_that_know_the_call_again() {
    let double = ApnsDouble::start().await.unwrap();
    let target = || apns_target(Some("00fc13"), Some("ab12"));
    for (profile, repeat, repeatable) in [
        (AppleProfile::Ecss, false, false),
        (AppleProfile::Apple, false, false),
        (AppleProfile::Extended, false, true),
        (AppleProfile::Ecss, true, true),
    ] {
        let (_folder, mut settings) = apns_settings(&double);
        (settings.apns[0].profile, settings.apns[0].repeat) = (profile, repeat);
        let pushers = open(&settings);
        assert_eq!(send(&pushers, invite(target())).await.repeatable, repeatable, "{profile:?}");
        // A later alert takes the place of the one before.
        assert!(send(&pushers, invite(apns_target(None, Some("ab12")))).await.repeatable);
        let message = Push { notice: Notice::Message, ..invite(target()) };
        assert!(!send(&pushers, message).await.repeatable, "only calls are");
    }
}

#[tokio::test]
async fn what_a_phone_says_of_its_app_is_not_the_accounts_fault() {
    let double = ApnsDouble::start().await.unwrap();
    let pushers = apns_pushers(&double);
    let refusal = || [Answer::Reason { status: 403, reason: "InvalidProviderToken" }];
    let own = || apns_target(Some("aa"), None);
    let foreign = |token: &str, provider| {
        let mut target = PushTarget { provider, ..apns_target(Some(token), None) };
        if let (Provider::Apns, Tokens::Apple { bundle, .. }) = (provider, &mut target.tokens) {
            *bundle = "org.example.foreign".into();
        }
        target
    };
    assert_eq!(outcome(&pushers, invite(own())).await, Outcome::Accepted);
    // A bundle of another team, and an environment that the key is not for.
    for (token, provider) in [("bb", Provider::Apns), ("cc", Provider::ApnsDev)] {
        double.script(token, refusal());
        assert_eq!(outcome(&pushers, invite(foreign(token, provider))).await, refused("403 InvalidProviderToken"));
        assert_eq!(pushers.troubles(), []);
    }
    double.script("aa", refusal());
    assert_eq!(outcome(&pushers, invite(own())).await, locked("403 InvalidProviderToken"));
    // Nor does it say that all is well.
    double.script("bb", refusal());
    assert_eq!(outcome(&pushers, invite(foreign("bb", Provider::Apns))).await, refused("403 InvalidProviderToken"));
    assert_eq!(pushers.troubles().len(), 1);
}

#[tokio::test]
async fn invite_without_a_voip_token_is_an_alert() {
    let double = ApnsDouble::start().await.unwrap();
    assert_eq!(outcome(&apns_pushers(&double), invite(apns_target(None, Some("ab12")))).await, Outcome::Accepted);
    check(
        &soon(double.next()).await,
        "/3/device/ab12",
        // The next push of this call to this device takes its place.
        ["alert", "org.example.phone", "10", "1623753519", "219b7d5a-a3a7-83ac-9983-eb35d9e960af"],
        r#"{"aps":{"alert":{"loc-key":"INCOMING_CALL"},"badge":10,"sound":"default"},"acme":{"badge":"10","type":"invite","date":1623753491,"number":"103","dispaly_name":"Ivan"}}"#,
    );
}

#[tokio::test]
async fn missed_calls_and_message_go_to_the_remote_token() {
    let double = ApnsDouble::start().await.unwrap();
    let pushers = apns_pushers(&double);
    let target = apns_target(Some("00fc13"), Some("ab12"));
    assert_eq!(outcome(&pushers, missed_calls(target.clone(), 2)).await, Outcome::Accepted);
    check(
        &soon(double.next()).await,
        "/3/device/ab12",
        ["alert", "org.example.phone", "10", "1623753611", "missed_calls"],
        r#"{"aps":{"alert":{"loc-key":"MISSED_CALLS","loc-args":["2"]},"badge":10,"sound":"default"},"acme":{"type":"missed_calls","date":1623753491,"calls":[{"id":0,"remote_uri":"100","date":1623753491},{"id":1,"remote_uri":"101","date":1623753492}]}}"#,
    );
    let message = Push { notice: Notice::Message, ttl: Duration::from_secs(25), ..invite(target) };
    assert_eq!(outcome(&pushers, message).await, Outcome::Accepted);
    check(
        &soon(double.next()).await,
        "/3/device/ab12",
        ["alert", "org.example.phone", "10", "1623753516", ""],
        r#"{"aps":{"alert":{"loc-key":"MESSAGE"},"sound":"default"},"acme":{"type":"message","date":1623753491}}"#,
    );
}

#[tokio::test]
async fn sandbox_is_another_endpoint() {
    let (production, sandbox) = (ApnsDouble::start().await.unwrap(), ApnsDouble::start().await.unwrap());
    let (folder, mut settings) = apns_settings(&production);
    // One key for both, as Apple has it; here only the sandbox's double knows it.
    settings.apns[0].sandbox_endpoint = sandbox.url();
    settings.apns[0].key_file = sandbox.write_credentials(folder.path()).unwrap();
    let target = PushTarget { provider: Provider::ApnsDev, ..apns_target(Some("00fc13"), None) };
    let reply = send(&open(&settings), invite(target)).await;
    assert_eq!((reply.outcome, reply.provider), (Outcome::Accepted, Provider::ApnsDev));
    assert_eq!((production.requests(), sandbox.requests()), (0, 1));
}

#[tokio::test]
async fn hundred_pushes_at_once_share_connection_and_provider_token() {
    let double = ApnsDouble::start().await.unwrap();
    let pushers = apns_pushers(&double);
    let pushes = (0..100).map(|n| invite(apns_target(Some(&format!("{n:064x}")), None)));
    assert_eq!(send_all(&pushers, pushes).await, vec![Outcome::Accepted; 100]);
    assert_eq!((double.requests(), double.connections(), double.provider_tokens()), (100, 1, 1));
}

#[tokio::test]
async fn each_answer_has_its_outcome() {
    let double = ApnsDouble::start().await.unwrap();
    let pushers = apns_pushers(&double);
    let reason = |status: u16, reason: &'static str| Answer::Reason { status, reason };
    let busy = Answer::Raw {
        status: 503,
        headers: vec![(hyper::header::RETRY_AFTER, "4".parse().unwrap())],
        body: r#"{"reason":"ServiceUnavailable"}"#.to_owned(),
    };
    let token_limit =
        Outcome::TryAgain { trouble: Trouble::TokenLimit, after: None, reason: "429 TooManyRequests".into() };
    let table = [
        (Answer::Accept, Outcome::Accepted),
        (
            Answer::Unregistered { timestamp_ms: 1_508_249_865_488 },
            Outcome::TokenDead { since: Some(UnixMillis(1_508_249_865_488)), reason: "410 Unregistered".into() },
        ),
        (reason(400, "DeviceTokenNotForTopic"), Outcome::Misfit { reason: "400 DeviceTokenNotForTopic".into() }),
        (reason(400, "TopicDisallowed"), refused("400 TopicDisallowed")),
        (reason(403, "InvalidProviderToken"), locked("403 InvalidProviderToken")),
        (reason(413, "PayloadTooLarge"), refused("413 PayloadTooLarge")),
        (reason(429, "TooManyRequests"), token_limit),
        (reason(500, "InternalServerError"), try_again(None, "500 InternalServerError")),
        (busy, try_again(Some(4), "503 ServiceUnavailable")),
        (reason(418, "SomethingNew"), refused("418 SomethingNew")),
    ];
    for (number, (answer, expected)) in table.into_iter().enumerate() {
        let token = format!("{number:064x}");
        double.script(&token, [answer.clone()]);
        assert_eq!(outcome(&pushers, invite(apns_target(Some(&token), None))).await, expected, "{answer:?}");
    }
    assert_eq!(double.provider_tokens(), 1);
}

#[tokio::test]
async fn a_token_of_the_other_environment_is_tried_there_and_remembered() {
    let production = ApnsDouble::start().await.unwrap();
    let sandbox = production.start_sandbox().await.unwrap();
    let (_folder, mut settings) = apns_settings(&production);
    settings.apns[0].sandbox_endpoint = sandbox.url();
    let pushers = open(&settings);
    let bad = || Answer::Reason { status: 400, reason: "BadDeviceToken" };
    let asked = || (production.requests(), sandbox.requests());
    let push = |token: &str| invite(apns_target(Some(token), None));
    let dev = |token: &str| invite(PushTarget { provider: Provider::ApnsDev, ..apns_target(Some(token), None) });

    production.script("aa", [bad(), bad()]);
    assert_eq!(outcome(&pushers, push("aa")).await, Outcome::Accepted);
    assert_eq!(asked(), (1, 1));
    assert_eq!(outcome(&pushers, push("aa")).await, Outcome::Accepted);
    assert_eq!(asked(), (1, 2), "remembered");
    sandbox.script("bb", [bad()]);
    assert_eq!(outcome(&pushers, dev("bb")).await, Outcome::Accepted);
    assert_eq!(outcome(&pushers, dev("bb")).await, Outcome::Accepted);
    assert_eq!(asked(), (3, 3));

    // It was taken back by the one, and is not known to the other any more.
    sandbox.script("aa", [bad()]);
    let nowhere = Outcome::Misfit { reason: "400 BadDeviceToken, also at production".into() };
    assert_eq!(outcome(&pushers, push("aa")).await, nowhere);
    assert_eq!(asked(), (4, 4));
    production.script("cc", [bad()]);
    sandbox.script("cc", [bad()]);
    let nowhere = Outcome::Misfit { reason: "400 BadDeviceToken, also at the sandbox".into() };
    assert_eq!(outcome(&pushers, push("cc")).await, nowhere);

    // What the other one says of itself is no word on the token, and none on the account.
    production.script("dd", [bad()]);
    sandbox.script("dd", [Answer::Reason { status: 503, reason: "ServiceUnavailable" }]);
    assert_eq!(outcome(&pushers, push("dd")).await, try_again(None, "503 ServiceUnavailable"));
    production.script("ee", [bad()]);
    sandbox.script("ee", [Answer::Reason { status: 403, reason: "BadEnvironmentKeyIdInToken" }]);
    let not_ours = Outcome::Misfit { reason: "400 BadDeviceToken; the sandbox: 403 BadEnvironmentKeyIdInToken".into() };
    assert_eq!(outcome(&pushers, push("ee")).await, not_ours);
    assert_eq!(pushers.troubles(), []);

    // A certificate, or a gateway, may be for one environment alone.
    settings.apns[0].sandbox_endpoint = String::new();
    production.script("ff", [bad()]);
    let only = Outcome::Misfit { reason: "400 BadDeviceToken".into() };
    assert_eq!(outcome(&open(&settings), push("ff")).await, only);
}

#[tokio::test]
async fn expired_provider_token_is_renewed_once() {
    let double = ApnsDouble::start().await.unwrap();
    let pushers = apns_pushers(&double);
    let target = apns_target(Some("00fc13"), None);
    assert_eq!(outcome(&pushers, invite(target.clone())).await, Outcome::Accepted);
    double.expire_provider_tokens();
    assert_eq!(outcome(&pushers, invite(target.clone())).await, Outcome::Accepted);
    assert_eq!((double.requests(), double.provider_tokens()), (3, 2));
    double.expire_provider_tokens();
    assert_eq!(outcome(&pushers, invite(target)).await, locked("403 ExpiredProviderToken"));
    assert_eq!((double.requests(), double.provider_tokens()), (4, 2));
}

#[tokio::test]
async fn connection_that_goes_away_is_replaced() {
    let double = ApnsDouble::start().await.unwrap();
    let (_folder, settings) = apns_settings(&double);
    let pushers = open(&Settings { per_token_per_min: 0, ..settings });
    let target = apns_target(Some("00fc13"), None);
    double.script("00fc13", [Answer::AcceptAndGoAway]);
    assert_eq!(outcome(&pushers, invite(target.clone())).await, Outcome::Accepted);
    // The news may be on its way still; no push is lost to it.
    while double.connections() == 1 {
        assert_eq!(outcome(&pushers, invite(target.clone())).await, Outcome::Accepted);
    }
    double.script("00fc13", [Answer::Disconnect]);
    trouble(&outcome(&pushers, invite(target.clone())).await);
    assert_eq!(outcome(&pushers, invite(target)).await, Outcome::Accepted);
    assert_eq!(double.connections(), 3);
}

#[tokio::test]
async fn silence_is_passing_trouble_and_the_token_stays_secret() {
    let double = ApnsDouble::start().await.unwrap();
    let (_folder, settings) = apns_settings(&double);
    let pushers = open(&Settings { timeout: Duration::from_millis(200), ..settings });
    double.script("5ec2e7", [Answer::Hang]);
    let push = invite(apns_target(Some("5ec2e7"), None));
    assert_eq!(outcome(&pushers, push.clone()).await, silent(200));
    drop(double);
    let outcome = outcome(&pushers, push).await;
    assert!(!trouble(&outcome).contains("5ec2e7"), "{outcome:?}");
}

#[tokio::test]
async fn contacts_that_cannot_be_pushed_say_why() {
    let double = ApnsDouble::start().await.unwrap();
    let (_folder, mut settings) = apns_settings(&double);
    settings.apns[0].sandbox_endpoint = String::new();
    let pushers = open(&settings);
    assert_eq!(pushers.providers(), [Provider::Apns]);
    let why = |target: &PushTarget| pushers.supports(target).unwrap_err();

    let both = apns_target(Some("00fc13"), Some("ab12"));
    assert_eq!(pushers.supports(&both), Ok(()));
    assert_eq!(why(&PushTarget { provider: Provider::ApnsDev, ..both.clone() }), "provider apns.dev is switched off");
    assert_eq!(why(&fcm_target("t")), "provider fcm is switched off");
    assert_eq!(why(&apns_target(None, None)), "contact has no token");
    assert_eq!(why(&PushTarget { tokens: Tokens::Single, ..both.clone() }), "pn-prid does not say which tokens it has");

    let voip_only = apns_target(Some("00fc13"), None);
    assert_eq!(pushers.supports(&voip_only), Ok(()));
    let why = pushers.supports_notice(&voip_only, NoticeKind::MissedCalls).unwrap_err();
    assert_eq!(why, "contact has no remote token, and a voip token cannot take missed_calls");
    assert_eq!(outcome(&pushers, missed_calls(voip_only.clone(), 1)).await, refused(&why));
    let why = pushers.supports_notice(&voip_only, NoticeKind::Register).unwrap_err();
    assert_eq!(why, "contact has no remote token, and a voip token cannot take register");
    assert_eq!(pushers.supports_notice(&both, NoticeKind::Register), Ok(()));
    assert_eq!(double.requests(), 0);
}

#[tokio::test]
async fn topic_is_configured_where_pn_param_does_not_name_it() {
    let double = ApnsDouble::start().await.unwrap();
    let (_folder, mut settings) = apns_settings(&double);
    let tokens = |bundle: &str| Tokens::Apple {
        team: "".into(),
        bundle: bundle.into(),
        voip: Some(PushToken::new("00fc13")),
        remote: None,
    };
    let target = PushTarget { tokens: tokens(""), ..apns_target(None, None) };
    assert_eq!(
        open(&settings).supports(&target),
        Err("pn-param names no bundle id and push.apns.topic is not set".to_owned())
    );
    settings.apns[0].topic = "org.example.configured".to_owned();
    let pushers = open(&settings);
    assert_eq!(outcome(&pushers, invite(target.clone())).await, Outcome::Accepted);
    assert_eq!(soon(double.next()).await.header("apns-topic"), "org.example.configured.voip");

    // From the network into a header: what is not a header value must not get there.
    let hostile = PushTarget { tokens: tokens("a\r\nb"), ..target };
    assert_eq!(outcome(&pushers, invite(hostile)).await, refused("the bundle id in pn-param is not one"));
}

#[tokio::test]
async fn account_is_chosen_by_team_and_app() {
    let doubles = [ApnsDouble::start().await.unwrap(), ApnsDouble::start().await.unwrap()];
    let (folder, mut settings) = apns_settings(&doubles[0]);
    let mut account = |team: &str, topic: &str, double: &ApnsDouble| {
        let other = sip_push_proxy::push::apns::Settings {
            team_id: team.to_owned(),
            topic: topic.to_owned(),
            endpoint: double.url(),
            ..settings.apns[0].clone()
        };
        settings.apns.push(other);
    };
    account("DEF123GHIJ", "org.example.special", &doubles[1]);
    account("OTHER12345", "", &doubles[1]);
    let pushers = open(&settings);
    drop(folder);
    let target = |team: &str, bundle: &str| PushTarget {
        tokens: Tokens::Apple {
            team: team.into(),
            bundle: bundle.into(),
            voip: Some(PushToken::new("00fc13")),
            remote: None,
        },
        ..apns_target(None, None)
    };
    let mut asked = [0, 0];
    for (team, bundle, double) in [
        // The account for all apps of the team, and the one for a single app.
        ("DEF123GHIJ", "org.example.phone", 0),
        ("DEF123GHIJ", "org.example.special", 1),
        ("OTHER12345", "org.example.other", 1),
        ("", "org.example.special", 1),
    ] {
        asked[double] += 1;
        outcome(&pushers, invite(target(team, bundle))).await;
        assert_eq!([doubles[0].requests(), doubles[1].requests()], asked, "{team} {bundle}");
    }
    for (team, bundle, why) in [
        (
            "",
            "org.example.phone",
            "pn-param names no team, and there are several [[push.apns]] (app \"org.example.phone\")",
        ),
        ("UNKNOWN123", "org.example.phone", "no [[push.apns]] for team \"UNKNOWN123\" and app \"org.example.phone\""),
    ] {
        assert_eq!(pushers.supports(&target(team, bundle)), Err(why.to_owned()));
    }
}

#[tokio::test]
async fn hostile_tokens_do_not_get_into_the_path() {
    let double = ApnsDouble::start().await.unwrap();
    let pushers = apns_pushers(&double);
    for token in ["", "..", "a/b", "a?b#c", "../../secret", "a\r\nb", "\u{e9}", "%2e%2e"] {
        let why = "a token in pn-prid is not one of APNs";
        assert_eq!(pushers.supports(&apns_target(Some(token), None)), Err(why.to_owned()));
        assert_eq!(outcome(&pushers, invite(apns_target(Some(token), None))).await, refused(why));
    }
    assert_eq!(double.requests(), 0);
}

#[tokio::test]
async fn wrong_settings_are_named_with_what_would_be_right() {
    let double = ApnsDouble::start().await.unwrap();
    let (folder, settings) = apns_settings(&double);
    let problem = |change: &dyn Fn(&mut sip_push_proxy::push::apns::Settings)| {
        let mut settings = settings.clone();
        change(&mut settings.apns[0]);
        let result = sip_push_proxy::push::Pushers::open(&settings, tokio::runtime::Handle::current());
        result.err().map(|error| error.to_string()).unwrap()
    };
    let garbage = folder.path().join("garbage");
    std::fs::write(&garbage, "garbage").unwrap();
    let check = |error: String, key: &str, right: &str| {
        assert!(error.starts_with(&format!("push.apns[0].{key}")) && error.contains(right), "{error}");
    };
    check(problem(&|s| s.key_id = "".into()), "key_id: ", "10 letters and digits");
    check(problem(&|s| s.team_id = "a b".into()), "team_id: ", "10 letters and digits");
    check(problem(&|s| s.endpoint = "api".into()), "endpoint: ", "https:// URL");
    check(problem(&|s| s.badge = "ten".into()), "badge: ", "a number in quotes");
    check(problem(&|s| s.custom_key = "aps".into()), "custom_key: ", "Apple's own");
    check(problem(&|s| s.key_file = garbage.clone()), "key_file = ", "must be Apple's .p8 file");
    check(problem(&|s| s.key_file = "/nowhere/key.p8".into()), "key_file = \"/nowhere/key.p8\"", "cannot be read");
    check(problem(&|s| s.ca_file = Some(garbage.clone())), "ca_file = ", "certificates in PEM form");
    let certificate = Some(garbage);
    check(problem(&|s| s.certificate_file = certificate.clone()), "certificate_file = ", "a certificate in PEM form");
}
