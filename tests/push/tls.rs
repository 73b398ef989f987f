//! APNs over TLS: HTTP/2 by ALPN, and a root certificate of the operator's own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sip_push_proxy::demo::apns_double::ApnsDouble;
use sip_push_proxy::push::Outcome;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::bench::*;

/// Puts TLS in front of a double, with a certificate for `localhost` in `ca.pem`.
async fn with_tls(double: Arc<ApnsDouble>, folder: &Path) -> SocketAddr {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("ca.pem"), cert.pem()).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, double) = (acceptor.clone(), Arc::clone(&double));
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    double.serve_connection(stream).await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn push_over_tls_with_a_root_certificate_of_our_own() {
    let double = Arc::new(ApnsDouble::start().await.unwrap());
    let (folder, mut settings) = apns_settings(&double);
    let address = with_tls(Arc::clone(&double), folder.path()).await;
    settings.apns[0].endpoint = format!("https://localhost:{}", address.port());
    settings.apns[0].ca_file = Some(folder.path().join("ca.pem"));
    assert_eq!(outcome(&open(&settings), invite(apns_target(Some("00fc13"), None))).await, Outcome::Accepted);
    assert_eq!(soon(double.next()).await.path, "/3/device/00fc13");
}

#[tokio::test]
async fn certificate_that_nobody_vouches_for_is_not_trusted() {
    let double = Arc::new(ApnsDouble::start().await.unwrap());
    let (folder, mut settings) = apns_settings(&double);
    let address = with_tls(Arc::clone(&double), folder.path()).await;
    settings.apns[0].endpoint = format!("https://localhost:{}", address.port());
    let outcome = outcome(&open(&settings), invite(apns_target(Some("00fc13"), None))).await;
    assert!(trouble(&outcome).contains("invalid peer certificate"), "{outcome:?}");
    assert_eq!(double.requests(), 0);
}
