//! TLS in front of the doubles.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use sip_push_proxy::demo::apns_double::ApnsDouble;
use sip_push_proxy::demo::callback_double::CallbackDouble;
use sip_push_proxy::demo::fcm_double::FcmDouble;
use sip_push_proxy::demo::service_double::ServiceDouble;
use sip_push_proxy::demo::webpush_double::WebPushDouble;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A certificate for `name`, and its key, both in PEM in `file`; for whom it is to be trusted by as well.
pub(crate) fn identity(name: &str, file: &Path) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).unwrap();
    std::fs::write(file, format!("{}{}", cert.pem(), signing_key.serialize_pem())).unwrap();
    (cert.der().clone(), PrivatePkcs8KeyDer::from(signing_key.serialize_der()).into())
}

/// Puts TLS in front of a double, with a certificate for `localhost` in `ca.pem`. With `client`, only who shows that
/// certificate is served.
pub(crate) async fn with_tls<D: Served>(
    double: Arc<D>,
    folder: &Path,
    client: Option<CertificateDer<'static>>,
) -> SocketAddr {
    let (certificate, key) = identity("localhost", &folder.join("ca.pem"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let builder = match client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let mut roots = RootCertStore::empty();
            roots.add(client).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, double) = (acceptor.clone(), Arc::clone(&double));
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    double.serve(stream).await;
                }
            });
        }
    });
    address
}

/// A double that serves connections accepted elsewhere.
pub(crate) trait Served: Send + Sync + 'static {
    fn serve(&self, stream: TlsStream<TcpStream>) -> impl Future<Output = ()> + Send;
}

impl Served for ApnsDouble {
    async fn serve(&self, stream: TlsStream<TcpStream>) {
        self.serve_connection(stream).await;
    }
}

impl Served for FcmDouble {
    async fn serve(&self, stream: TlsStream<TcpStream>) {
        self.serve_connection(stream).await;
    }
}

impl Served for ServiceDouble {
    async fn serve(&self, stream: TlsStream<TcpStream>) {
        self.serve_connection(stream).await;
    }
}

impl Served for CallbackDouble {
    async fn serve(&self, stream: TlsStream<TcpStream>) {
        self.serve_connection(stream).await;
    }
}

impl Served for WebPushDouble {
    async fn serve(&self, stream: TlsStream<TcpStream>) {
        self.serve_connection(stream).await;
    }
}
