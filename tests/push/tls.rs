//! The providers over TLS: HTTP/2 by ALPN, and a root certificate of the operator's own.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use sip_push_proxy::demo::apns_double::ApnsDouble;
use sip_push_proxy::demo::fcm_double::FcmDouble;
use sip_push_proxy::demo::webpush_double::WebPushDouble;
use sip_push_proxy::push::{HttpsProxy, NoProxy, Outcome, Settings, webpush};

use crate::bench::*;
use crate::front::{identity, with_tls};
use crate::relay::Relay;
use crate::webpush::{settings as webpush_settings, target as webpush_target};

#[tokio::test]
async fn push_over_tls_with_a_root_certificate_of_our_own() {
    let double = Arc::new(ApnsDouble::start().await.unwrap());
    let (folder, mut settings) = apns_settings(&double);
    let address = with_tls(Arc::clone(&double), folder.path(), None).await;
    settings.apns[0].endpoint = format!("https://localhost:{}", address.port());
    settings.apns[0].ca_file = Some(folder.path().join("ca.pem"));
    assert_eq!(outcome(&open(&settings), invite(apns_target(Some("00fc13"), None))).await, Outcome::Accepted);
    assert_eq!(soon(double.next()).await.path, "/3/device/00fc13");
}

#[tokio::test]
async fn certificate_that_nobody_vouches_for_is_not_trusted() {
    let double = Arc::new(ApnsDouble::start().await.unwrap());
    let (folder, mut settings) = apns_settings(&double);
    let address = with_tls(Arc::clone(&double), folder.path(), None).await;
    settings.apns[0].endpoint = format!("https://localhost:{}", address.port());
    let outcome = outcome(&open(&settings), invite(apns_target(Some("00fc13"), None))).await;
    assert!(trouble(&outcome).contains("invalid peer certificate"), "{outcome:?}");
    assert_eq!(double.requests(), 0);
}

#[tokio::test]
async fn a_certificate_stands_for_the_provider_token() {
    let double = Arc::new(ApnsDouble::start_for_certificates().await.unwrap());
    let (folder, mut settings) = apns_settings(&double);
    let (client, _) = identity("Apple Push Services: org.example.phone", &folder.path().join("client.pem"));
    let address = with_tls(Arc::clone(&double), folder.path(), Some(client)).await;
    let account = &mut settings.apns[0];
    account.endpoint = format!("https://localhost:{}", address.port());
    account.ca_file = Some(folder.path().join("ca.pem"));
    account.key_file = "/nowhere".into();
    account.certificate_file = Some(folder.path().join("client.pem"));
    let pushers = open(&settings);
    let pushes = (0..50).map(|n| invite(apns_target(Some(&format!("{n:064x}")), None)));
    assert_eq!(send_all(&pushers, pushes).await, vec![Outcome::Accepted; 50]);
    let push = soon(double.next()).await;
    assert_eq!((push.header("authorization"), push.header("apns-topic")), ("", "org.example.phone.voip"));
    assert_eq!(double.connections(), 1);

    // Another one is refused before it comes to a push.
    identity("somebody else", &folder.path().join("other.pem"));
    settings.apns[0].certificate_file = Some(folder.path().join("other.pem"));
    let outcome = outcome(&open(&settings), invite(apns_target(Some("00fc13"), None))).await;
    assert!(trouble(&outcome).contains("alert"), "{outcome:?}");
    assert_eq!(double.requests(), 50);
}

#[tokio::test]
async fn a_certificate_without_its_key_is_said_to_be_so() {
    let double = ApnsDouble::start().await.unwrap();
    let (folder, mut settings) = apns_settings(&double);
    let CertifiedKey { cert, .. } = generate_simple_self_signed(["x".to_owned()]).unwrap();
    let file = folder.path().join("client.pem");
    std::fs::write(&file, cert.pem()).unwrap();
    settings.apns[0].certificate_file = Some(file);
    let error = sip_push_proxy::push::Pushers::open(&settings, tokio::runtime::Handle::current()).err().unwrap();
    assert!(error.to_string().contains("private key, too"), "{error}");
}

#[tokio::test]
async fn web_push_over_tls_with_a_root_certificate_of_our_own() {
    let double = Arc::new(WebPushDouble::start().await.unwrap());
    let (folder, mut settings) = webpush_settings(&[&double]);
    let port = with_tls(Arc::clone(&double), folder.path(), None).await.port();
    double.is_reached_at(&format!("https://localhost:{port}"));
    let host = webpush::AllowedHost { host: "localhost".into(), is_suffix: false, port: Some(port), is_loopback: true };
    let of_webpush = settings.webpush.as_mut().unwrap();
    of_webpush.allowed_hosts = vec![host];
    let push = || invite(webpush_target(&double.subscription("a")));
    let unknown = outcome(&open(&settings), push()).await;
    assert!(trouble(&unknown).contains("invalid peer certificate"), "{unknown:?}");
    assert_eq!(double.requests(), 0);

    settings.webpush.as_mut().unwrap().ca_file = Some(folder.path().join("ca.pem"));
    assert_eq!(outcome(&open(&settings), push()).await, Outcome::Accepted);
    assert_eq!(soon(double.next()).await.path, "/wpush/v2/a");
}

/// Both providers behind TLS, and the settings for them.
async fn both(proxy: &str) -> (Arc<ApnsDouble>, Arc<FcmDouble>, SocketAddr, Settings, [tempfile::TempDir; 2]) {
    let (apns, fcm) = (Arc::new(ApnsDouble::start().await.unwrap()), Arc::new(FcmDouble::start().await.unwrap()));
    let (apns_folder, mut settings) = apns_settings(&apns);
    let (fcm_folder, of_fcm) = fcm_settings(&fcm);
    let address = with_tls(Arc::clone(&apns), apns_folder.path(), None).await;
    settings.apns[0].endpoint = format!("https://localhost:{}", address.port());
    settings.apns[0].ca_file = Some(apns_folder.path().join("ca.pem"));
    settings.fcm = of_fcm.fcm;
    settings.https_proxy = HttpsProxy::parse(proxy);
    (apns, fcm, address, settings, [apns_folder, fcm_folder])
}

#[tokio::test]
async fn some_hosts_are_reached_without_the_proxy() {
    let (apns, fcm, address, mut settings, folders) = both("").await;
    let proxy = Relay::proxy(address, |_| "HTTP/1.1 407 No\r\n\r\n").await;
    let address = with_tls(Arc::clone(&fcm), folders[1].path(), None).await;
    settings.fcm[0].endpoint = format!("https://localhost:{}", address.port());
    settings.fcm[0].ca_file = Some(folders[1].path().join("ca.pem"));
    for (exception, accepted, connections) in [("example.org", 0, 2), ("localhost", 2, 2)] {
        let exceptions = vec![NoProxy::parse(exception).unwrap()];
        let parsed = HttpsProxy::parse(&format!("http://{}", proxy.address()));
        settings.https_proxy = parsed.map(|proxy| proxy.except(exceptions));
        let pushers = open(&settings);
        let targets = [apns_target(Some("00fc13"), None), fcm_target("a")];
        let outcomes = send_all(&pushers, targets.into_iter().map(invite)).await;
        let taken = outcomes.iter().filter(|outcome| **outcome == Outcome::Accepted).count();
        assert_eq!((taken, proxy.accepted()), (accepted, connections), "{exception}: {outcomes:?}");
    }
    assert_eq!((apns.requests(), fcm.requests()), (1, 1));
}

#[tokio::test]
async fn closed_networks_have_a_proxy() {
    let (apns, fcm, address, mut settings, folders) = both("").await;
    let by_proxy = |head: &str| {
        let is_connect = head.starts_with("CONNECT localhost:") && head.contains("\r\nHost: localhost:");
        let is_named = head.to_ascii_lowercase().contains("proxy-authorization: basic dxnlcjpwyxnz");
        if is_connect && is_named { "HTTP/1.1 200 Connection established\r\n\r\n" } else { "HTTP/1.1 407 No\r\n\r\n" }
    };
    let proxy = Relay::proxy(address, by_proxy).await;
    settings.https_proxy = HttpsProxy::parse(&format!("http://user:pass@{}", proxy.address()));
    assert_eq!(outcome(&open(&settings), invite(apns_target(Some("00fc13"), None))).await, Outcome::Accepted);
    assert_eq!((apns.requests(), proxy.accepted()), (1, 1));

    let address = with_tls(Arc::clone(&fcm), folders[1].path(), None).await;
    let proxy = Relay::proxy(address, by_proxy).await;
    settings.https_proxy = HttpsProxy::parse(&format!("http://user:pass@{}", proxy.address()));
    settings.fcm[0].endpoint = format!("https://localhost:{}", address.port());
    settings.fcm[0].ca_file = Some(folders[1].path().join("ca.pem"));
    assert_eq!(outcome(&open(&settings), invite(fcm_target("a"))).await, Outcome::Accepted);
    assert_eq!((fcm.requests(), proxy.accepted()), (1, 1));

    settings.https_proxy = HttpsProxy::parse(&format!("http://user:word@{}", proxy.address()));
    let pushers = open(&settings);
    let refused = outcome(&pushers, invite(apns_target(Some("00fc13"), None))).await;
    assert_eq!(trouble(&refused), "no connection: https_proxy: 407");
    trouble(&outcome(&pushers, invite(fcm_target("a"))).await);
    assert_eq!((apns.requests(), fcm.requests()), (1, 1));
}
