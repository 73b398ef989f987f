//! Pushes through the real HTTP clients to doubles of both providers in this process: pushes per second, doubles included.

#![expect(clippy::unwrap_used, missing_docs, reason = "a benchmark that cannot go on has failed")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sip_push_proxy::binding::{Aor, Provider, PushTarget, PushToken, Tokens};
use sip_push_proxy::clock::UnixMillis;
use sip_push_proxy::demo::apns_double::{self, ApnsDouble};
use sip_push_proxy::demo::fcm_double::FcmDouble;
use sip_push_proxy::push::{Busy, Notice, Outcome, Purpose, Push, Pushers, Settings, Ticket, apns, fcm};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

const PUSHES: u64 = 2000;

fn push(provider: Provider, number: u64) -> Push {
    let token = || PushToken::new(format!("{number:064x}"));
    let tokens = match provider {
        Provider::Fcm
        | Provider::WebPush
        | Provider::Callback
        | Provider::RuStore
        | Provider::Hms
        | Provider::Harmony => Tokens::Single,
        Provider::Apns | Provider::ApnsDev => {
            Tokens::Apple { team: "".into(), bundle: "org.example".into(), voip: Some(token()), remote: None }
        }
    };
    Push {
        ticket: Ticket(number),
        aor: Aor::new("alice", "example.org"),
        target: PushTarget { provider, prid: token(), param: "".into(), tokens, others: Box::default() },
        notice: Notice::Invite { number: "103".into(), display_name: "Ivan".into(), call_ref: "1".into() },
        date: UnixMillis(1_623_753_491_000),
        ttl: std::time::Duration::from_secs(28),
        language: None,
        is_repeat: false,
        purpose: Purpose::default(),
    }
}

async fn push_all(pushers: &Pushers, providers: &[Provider]) {
    let (reply_to, mut replies) = mpsc::channel(1000);
    let submitter = pushers.clone();
    let providers = providers.to_vec();
    tokio::spawn(async move {
        for number in 0..PUSHES {
            for provider in &providers {
                while submitter.submit(push(*provider, number), reply_to.clone()) == Err(Busy) {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            }
        }
    });
    while let Some(reply) = replies.recv().await {
        assert_eq!(reply.outcome, Outcome::Accepted);
    }
}

fn pushes(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (fcm, apns) =
        runtime.block_on(async { (FcmDouble::start().await.unwrap(), ApnsDouble::start().await.unwrap()) });
    let settings = Settings {
        per_token_per_min: 0,
        queue: 1000,
        fcm: vec![fcm::Settings {
            service_account: fcm.write_credentials(folder.path()).unwrap(),
            endpoint: fcm.url(),
            ..fcm::Settings::default()
        }],
        apns: vec![apns::Settings {
            key_file: apns.write_credentials(folder.path()).unwrap(),
            key_id: apns_double::KEY_ID.to_owned(),
            team_id: apns_double::TEAM_ID.to_owned(),
            endpoint: apns.url(),
            ..apns::Settings::default()
        }],
        ..Settings::default()
    };
    let pushers = Pushers::open(&settings, runtime.handle().clone()).unwrap();
    let mut group = criterion.benchmark_group("push");
    group.sample_size(10);
    for (name, providers) in
        [("apns", [Provider::Apns].as_slice()), ("fcm", &[Provider::Fcm]), ("both", &[Provider::Apns, Provider::Fcm])]
    {
        group.throughput(Throughput::Elements(PUSHES * u64::try_from(providers.len()).unwrap()));
        group.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(push_all(&pushers, providers)));
        });
    }
    group.finish();
}

criterion_group!(benches, pushes);
criterion_main!(benches);
