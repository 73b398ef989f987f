//! The HTTP client of an account: its connections are kept, and given up once one of them has gone silent.
//!
//! HTTP/2 sends all requests by one connection, and a request that is given up leaves it open. Where something on the way has
//! forgotten the connection without closing it, its PINGs tell so after a minute, and TCP only if nothing acknowledges our
//! bytes. Until then every further attempt would be lost as well.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::dns::Resolve;
use reqwest::redirect::Policy;
use reqwest::{RequestBuilder, Url};
use rustls::pki_types::CertificateDer;

use super::clock;
use super::dial::Tls;
use super::http::{Answer, in_words};
use super::pushers::Setup;

/// Often enough for firewalls to keep a connection that carries no push, seldom enough for push services to tolerate.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Whom a push has left less time than this to answer, because its call was nearly over, has not been silent.
const PATIENCE: Duration = Duration::from_millis(500);

/// A clone is a handle to the same connections.
#[derive(Clone)]
pub(super) struct Client(Arc<Inner>);

struct Inner {
    setup: Setup,
    tls: Tls,
    /// `None`: the system's.
    resolver: Option<Arc<dyn Resolve>>,
    current: Mutex<Current>,
}

struct Current {
    client: reqwest::Client,
    /// How many were given up before it.
    number: u64,
}

impl Client {
    /// Never follows a redirect, and trusts the system's roots and `roots`. It speaks HTTP/1.1 over `http://`, and what TLS
    /// settles over `https://`. Whoever asks keeps the time. An error is in words.
    pub(super) fn new(setup: &Setup, roots: &[CertificateDer<'static>]) -> Result<Self, String> {
        Self::open(None, setup, roots)
    }

    /// The same, with names resolved by `resolver`, but for those whose addresses the operator has named.
    pub(super) fn resolving(
        resolver: Arc<dyn Resolve>,
        setup: &Setup,
        roots: &[CertificateDer<'static>],
    ) -> Result<Self, String> {
        Self::open(Some(resolver), setup, roots)
    }

    fn open(
        resolver: Option<Arc<dyn Resolve>>,
        setup: &Setup,
        roots: &[CertificateDer<'static>],
    ) -> Result<Self, String> {
        let tls = Tls::new(roots, None)?;
        let client = client(setup, &tls, resolver.as_ref()).map_err(in_words)?;
        let (setup, current) = (setup.clone(), Mutex::new(Current { client, number: 0 }));
        Ok(Self(Arc::new(Inner { setup, tls, resolver, current })))
    }

    pub(super) fn get(&self, url: Url) -> RequestBuilder {
        self.0.current.lock().client.get(url)
    }

    pub(super) fn post(&self, url: Url) -> RequestBuilder {
        self.0.current.lock().client.post(url)
    }

    pub(super) fn head(&self, url: Url) -> RequestBuilder {
        self.0.current.lock().client.head(url)
    }

    /// Sends a request that this client has begun, and reads its answer. Dropped before that, it was given up: the next
    /// request goes by another connection.
    pub(super) async fn answer(&self, request: RequestBuilder) -> reqwest::Result<Answer> {
        let mut listening = self.listen();
        let answer = match request.send().await {
            Ok(response) => Ok(Answer::read(response).await),
            Err(error) => Err(error),
        };
        // An error, too, is a word: the client gives up such a connection by itself.
        listening.is_over = true;
        answer
    }

    fn listen(&self) -> Listening<'_> {
        let number = self.0.current.lock().number;
        Listening { inner: &self.0, number, since: clock().instant, is_over: false }
    }
}

fn client(setup: &Setup, tls: &Tls, resolver: Option<&Arc<dyn Resolve>>) -> reqwest::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("sip-push-proxy/", env!("CARGO_PKG_VERSION")))
        .tls_backend_preconfigured(tls.with_http1())
        .redirect(Policy::none())
        .no_proxy()
        .connect_timeout(setup.timeout)
        .pool_idle_timeout(None)
        .tcp_nodelay(true)
        // A peer that vanished must not keep the next push waiting for it as well: the connection ends with the
        // first attempt that it lets down.
        .tcp_user_timeout(setup.timeout)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(true);
    if let Some(resolver) = resolver {
        builder = builder.dns_resolver(Arc::clone(resolver));
    }
    for (host, addresses) in &setup.hosts {
        let addresses: Vec<_> = addresses.iter().map(|ip| SocketAddr::new(*ip, 0)).collect();
        builder = builder.resolve_to_addrs(host, &addresses);
    }
    if let Some(proxy) = setup.https_proxy.clone() {
        builder = builder.proxy(reqwest::Proxy::custom(move |url| proxy.on_the_way_to(url)));
    }
    builder.build()
}

impl Inner {
    /// Requests that wait for answers of the client of this number keep it alive.
    fn give_up(&self, number: u64) {
        let mut current = self.current.lock();
        // Those that went silent together are one silence.
        if current.number != number {
            return;
        }
        match client(&self.setup, &self.tls, self.resolver.as_ref()) {
            Ok(client) => *current = Current { client, number: number + 1 },
            Err(error) => {
                tracing::warn!(error = %in_words(error), "no other client for a silent connection")
            }
        }
    }
}

/// A request that waits for its answer.
struct Listening<'a> {
    inner: &'a Inner,
    /// Of the client that it was sent by.
    number: u64,
    since: Instant,
    is_over: bool,
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        let waited = clock().instant.saturating_duration_since(self.since);
        if !self.is_over && is_silence(waited, self.inner.setup.timeout) {
            self.inner.give_up(self.number);
        }
    }
}

/// Whether not to have answered for so long is a sign of a dead connection, where an attempt may take `timeout`.
fn is_silence(waited: Duration, timeout: Duration) -> bool {
    waited >= PATIENCE.min(timeout / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_had_hardly_any_time_to_answer_was_not_silent() {
        let silence = |waited, timeout| is_silence(Duration::from_millis(waited), Duration::from_millis(timeout));
        assert!(silence(5000, 5000) && silence(500, 5000) && silence(200, 300));
        assert!(!silence(499, 5000) && !silence(0, 5000) && !silence(100, 300));
    }
}
