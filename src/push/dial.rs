//! From an endpoint to an open stream of bytes: TCP, by way of an HTTP proxy where there is one (RFC 9110 §9.3.6), and
//! TLS with the certificates that the operator named.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::fcm::read;
use super::no_proxy::NoProxy;
use super::pushers::Setup;
use super::{SettingsError, happy_eyeballs};

/// A proxy's answer to CONNECT is shorter.
const PROXY_HEAD_BYTES_MAX: usize = 8192;

/// Addresses of hosts for which the system's resolver is not asked.
pub type Hosts = BTreeMap<Box<str>, Vec<IpAddr>>;

/// A connection, whatever it is made of.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// `push.https_proxy`: through which `https://` endpoints are reached.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpsProxy {
    url: Url,
    host: Box<str>,
    port: u16,
    /// The value of a `Proxy-Authorization` header (RFC 7617).
    authorization: Option<Box<str>>,
    exceptions: Vec<NoProxy>,
}

impl fmt::Debug for HttpsProxy {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpsProxy({}:{})", self.host, self.port)
    }
}

impl HttpsProxy {
    /// `http://[USER:PASSWORD@]HOST[:PORT]`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok().filter(|url| url.scheme() == "http" && matches!(url.path(), "" | "/"))?;
        if url.query().is_some() || url.fragment().is_some() {
            return None;
        }
        let authorization = (!url.username().is_empty()).then(|| {
            let credentials =
                format!("{}:{}", unescaped(url.username()), unescaped(url.password().unwrap_or_default()));
            format!("Basic {}", STANDARD.encode(credentials)).into()
        });
        let host = url.host_str().filter(|host| !host.is_empty())?.trim_matches(['[', ']']).into();
        Some(Self { host, port: url.port_or_known_default().unwrap_or(80), authorization, exceptions: Vec::new(), url })
    }

    /// Hosts that are reached directly.
    #[must_use]
    pub fn except(self, exceptions: Vec<NoProxy>) -> Self {
        Self { exceptions, ..self }
    }

    fn serves(&self, host: &str) -> bool {
        !self.exceptions.iter().any(|exception| exception.covers(host))
    }

    /// Where requests to `url` go; `None`: there directly.
    pub(super) fn on_the_way_to(&self, url: &Url) -> Option<Url> {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        (url.scheme() == "https" && self.serves(host)).then(|| self.url.clone())
    }
}

/// Percent-encoding undone (RFC 3986 §2.1), as credentials need it.
fn unescaped(text: &str) -> String {
    let form = format!("x={}", text.replace('+', "%2B"));
    let mut query = Url::parse("http://x").map(|mut url| {
        url.set_query(Some(&form));
        url
    });
    let value = query.as_mut().ok().and_then(|url| url.query_pairs().next().map(|(_, value)| value.into_owned()));
    value.unwrap_or_else(|| text.to_owned())
}

/// A certificate and its key, shown to a server that asks who we are.
pub(super) struct Identity {
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Both in one PEM file. `key` names the configuration key in errors.
    pub(super) fn read(key: &str, file: &Path) -> Result<Self, SettingsError> {
        let pem = read(key, file)?;
        let wrong = |problem: &str| SettingsError::file(key, file, problem);
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
        if certificates.is_empty() {
            return Err(wrong("must hold a certificate in PEM form (-----BEGIN CERTIFICATE-----)"));
        }
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
            wrong("must hold the certificate's private key, too (-----BEGIN PRIVATE KEY-----, without a password)")
        })?;
        Ok(Self { certificates, key })
    }
}

/// How TLS is done with one account's endpoints.
#[derive(Clone)]
pub(super) struct Tls(Arc<ClientConfig>);

impl Tls {
    /// Trusts the system's roots and `extra_roots`. An error is in words.
    pub(super) fn new(extra_roots: &[CertificateDer<'static>], identity: Option<Identity>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        for root in extra_roots {
            roots.add(root.clone()).map_err(|error| error.to_string())?;
        }
        if roots.is_empty() {
            tracing::warn!("no system certificates; no provider can be trusted without ca_file");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let mut config = match identity {
            Some(Identity { certificates, key }) => {
                builder.with_client_auth_cert(certificates, key).map_err(|error| error.to_string())?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// For clients that also speak HTTP/1.1.
    pub(super) fn with_http1(&self) -> ClientConfig {
        let mut config = ClientConfig::clone(&self.0);
        config.alpn_protocols.push(b"http/1.1".to_vec());
        config
    }
}

/// Opens connections to one endpoint.
pub(super) struct Dialer {
    host: Box<str>,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    proxy: Option<HttpsProxy>,
    hosts: Hosts,
    timeout: Duration,
}

impl Dialer {
    /// `None` when the URL has no host that a certificate could be for.
    pub(super) fn new(endpoint: &Url, tls: &Tls, setup: &Setup) -> Option<Self> {
        let host = endpoint.host_str()?.trim_matches(['[', ']']);
        let port = endpoint.port_or_known_default()?;
        let is_https = endpoint.scheme() == "https";
        let tls = if is_https {
            Some((TlsConnector::from(Arc::clone(&tls.0)), ServerName::try_from(host.to_owned()).ok()?))
        } else {
            None
        };
        let proxy = setup.https_proxy.clone().filter(|proxy| is_https && proxy.serves(host));
        Some(Self { host: host.into(), port, tls, proxy, hosts: setup.hosts.clone(), timeout: setup.timeout })
    }

    pub(super) async fn dial(&self) -> io::Result<Box<dyn Stream>> {
        tokio::time::timeout(self.timeout, self.connect()).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("none within {} ms", self.timeout.as_millis())))
        })
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let mut stream = match &self.proxy {
            None => self.reach(&self.host, self.port).await?,
            Some(proxy) => self.reach(&proxy.host, proxy.port).await?,
        };
        stream.set_nodelay(true)?;
        // A peer that vanished must not keep the next push waiting for it as well.
        SockRef::from(&stream).set_tcp_user_timeout(Some(self.timeout))?;
        if let Some(proxy) = &self.proxy {
            self.tunnel(&mut stream, proxy).await?;
        }
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await?;
                if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                    return Err(io::Error::other("the server does not speak HTTP/2"));
                }
                Ok(Box::new(stream))
            }
        }
    }

    async fn reach(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let addresses: Vec<_> = match self.hosts.get(host) {
            Some(addresses) => addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect(),
            None => tokio::net::lookup_host((host, port)).await?.collect(),
        };
        happy_eyeballs::connect(&addresses).await
    }

    /// RFC 9110 §9.3.6: after a 2xx the proxy passes bytes through.
    async fn tunnel(&self, stream: &mut TcpStream, proxy: &HttpsProxy) -> io::Result<()> {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_string() };
        let target = format!("{host}:{}", self.port);
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(authorization) = &proxy.authorization {
            request.push_str("Proxy-Authorization: ");
            request.push_str(authorization);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;
        // Byte by byte: what follows the head is not ours to read.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() == PROXY_HEAD_BYTES_MAX {
                return Err(io::Error::other("https_proxy: its answer is too long"));
            }
            head.push(stream.read_u8().await?);
        }
        let status = std::str::from_utf8(&head).ok().and_then(|head| head.split(' ').nth(1)).unwrap_or_default();
        if head.starts_with(b"HTTP/1.") && status.len() == 3 && status.starts_with('2') {
            Ok(())
        } else {
            Err(io::Error::other(format!("https_proxy: {}", super::http::plain(status))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies() {
        let plain = HttpsProxy::parse("http://proxy.example:3128").unwrap();
        assert_eq!((&*plain.host, plain.port, plain.authorization.as_deref()), ("proxy.example", 3128, None));
        let named = HttpsProxy::parse("http://user:p%40ss+1@[::1]/").unwrap();
        assert_eq!((&*named.host, named.port), ("::1", 80));
        // printf user:p@ss+1 | base64
        assert_eq!(named.authorization.as_deref(), Some("Basic dXNlcjpwQHNzKzE="));
        assert_eq!(format!("{named:?}"), "HttpsProxy(::1:80)");
        for wrong in
            ["", "proxy:3128", "https://proxy", "socks5://proxy", "http://proxy/path", "http://proxy?x", "http://"]
        {
            assert!(HttpsProxy::parse(wrong).is_none(), "{wrong}");
        }
    }
}
