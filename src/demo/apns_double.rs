//! A double of the Apple Push Notification service, over real HTTP/2 on loopback.
//!
//! It is as strict as its original about headers and provider tokens, and stricter about base64url.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response};
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, JoinHandle};

use super::double::{
    self, Answered, Connection, Jwt, Observed, Observer, Recorded, Records, Script, Serving, answer, strict_jwt,
    unix_seconds,
};

/// For `push.apns.key_id`.
pub const KEY_ID: &str = "ABC123DEFG";
/// For `push.apns.team_id`.
pub const TEAM_ID: &str = "DEF123GHIJ";

const PUSH_TYPES: [&str; 9] =
    ["alert", "background", "voip", "location", "complication", "fileprovider", "mdm", "liveactivity", "pushtotalk"];
const TOKEN_AGE_MAX_S: u64 = 3600;

/// What is answered to one push.
#[derive(Debug, Clone)]
pub enum Answer {
    Accept,
    /// 410: the token died at this time.
    Unregistered {
        timestamp_ms: u64,
    },
    /// An error with its reason, as in Apple's table.
    Reason {
        status: u16,
        reason: &'static str,
    },
    /// Any other answer, word for word.
    Raw {
        status: u16,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: String,
    },
    /// Accepted, and the connection takes no further pushes.
    AcceptAndGoAway,
    /// None at all, while the connection stays open.
    Hang,
    /// The connection is closed.
    Disconnect,
    /// The stream is reset without having been looked at (RFC 9113 §8.7).
    Refuse,
    /// The stream is reset, nobody knows when.
    Reset,
}

/// Runs from [`ApnsDouble::start`] until it is dropped.
#[derive(Debug)]
pub struct ApnsDouble {
    state: Arc<State>,
    address: SocketAddr,
    key: Vec<u8>,
    server: AbortHandle,
}

#[derive(Debug)]
struct State {
    public_key: Vec<u8>,
    records: Records,
    observed: Observed,
    script: Script<Answer>,
    requests: AtomicUsize,
    connections: AtomicUsize,
    /// Requests that came beside another one before the connection had a success.
    early_streams: AtomicUsize,
    /// The most requests that one connection had under way at once.
    most_streams: AtomicUsize,
    streams_max: Option<u32>,
    delay_ms: AtomicU64,
    /// Whether clients are known by their certificates, so that provider tokens are not asked for.
    knows_certificates: bool,
    /// Then each push has a second name, by which its console finds it.
    is_sandbox: bool,
    provider_tokens: Mutex<Vec<String>>,
    /// How many of `provider_tokens`, from the first, are no longer good.
    expired: AtomicUsize,
}

impl Drop for ApnsDouble {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl ApnsDouble {
    /// On a free port of 127.0.0.1, without TLS (HTTP/2 with prior knowledge), with a key of its own.
    pub async fn start() -> io::Result<Self> {
        Self::start_on(0).await
    }

    pub async fn start_on(port: u16) -> io::Result<Self> {
        Self::start_with(port, None, false, false, throwaway_key()).await
    }

    /// With a limit of streams for each connection.
    pub async fn start_with_streams(streams_max: u32) -> io::Result<Self> {
        Self::start_with(0, Some(streams_max), false, false, throwaway_key()).await
    }

    /// For [`Self::serve_connection`] by somebody who has asked for certificates.
    pub async fn start_for_certificates() -> io::Result<Self> {
        Self::start_with(0, None, true, false, throwaway_key()).await
    }

    /// The other environment of this one: it has tokens of its own and knows the same key.
    pub async fn start_sandbox(&self) -> io::Result<Self> {
        Self::start_with(0, None, false, true, Some((self.key.clone(), self.state.public_key.clone()))).await
    }

    /// `key`: a private and a public one.
    async fn start_with(
        port: u16,
        streams_max: Option<u32>,
        knows_certificates: bool,
        is_sandbox: bool,
        key: Option<(Vec<u8>, Vec<u8>)>,
    ) -> io::Result<Self> {
        let (listener, address) = double::listen(port).await?;
        let (key, public_key) = key.ok_or_else(|| io::Error::other("no random numbers for a key"))?;
        let state = Arc::new(State {
            public_key,
            records: Records::default(),
            observed: Observed::default(),
            script: Script::default(),
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            early_streams: AtomicUsize::new(0),
            most_streams: AtomicUsize::new(0),
            streams_max,
            delay_ms: AtomicU64::new(0),
            knows_certificates,
            is_sandbox,
            provider_tokens: Mutex::default(),
            expired: AtomicUsize::new(0),
        });
        let server: JoinHandle<()> = tokio::spawn(double::serve(listener, state.serving(), state.handler()));
        Ok(Self { state, address, key, server: server.abort_handle() })
    }

    /// For `push.apns.endpoint`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Serves a connection that was accepted elsewhere, such as one with TLS.
    pub async fn serve_connection(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        double::serve_connection(stream, self.state.serving(), self.state.handler()).await;
    }

    /// Writes the key, as Apple hands it out, to `AuthKey.p8` in `folder`.
    pub fn write_credentials(&self, folder: &Path) -> io::Result<PathBuf> {
        let file = folder.join("AuthKey.p8");
        let base64 = STANDARD.encode(&self.key);
        std::fs::write(&file, format!("-----BEGIN PRIVATE KEY-----\n{base64}\n-----END PRIVATE KEY-----\n"))?;
        Ok(file)
    }

    /// The answers to the next pushes to `token`; those after them are accepted.
    pub fn script(&self, token: &str, answers: impl IntoIterator<Item = Answer>) {
        self.state.script.add(token, answers);
    }

    /// Waits for the next accepted push. Safe to drop, so the caller sets the deadline.
    pub async fn next(&self) -> Recorded {
        self.state.records.next().await
    }

    /// The next accepted push, if it came already.
    pub fn try_next(&self) -> Option<Recorded> {
        self.state.records.try_next()
    }

    /// How long it thinks before it looks at a push.
    pub fn set_delay_ms(&self, delay_ms: u64) {
        self.state.delay_ms.store(delay_ms, Ordering::Relaxed);
    }

    /// Lets `observer` hear of each push that is looked at and answered; once, before the first push.
    pub fn observe(&self, observer: Observer) {
        self.state.observed.by(observer);
    }

    /// How many pushes came, accepted or not.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// How many connections pushes came by.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// How many pushes came beside another one by a connection that had no accepted one yet: Apple wants none.
    pub fn early_streams(&self) -> usize {
        self.state.early_streams.load(Ordering::Relaxed)
    }

    /// The most pushes that one connection had under way at once.
    pub fn most_streams(&self) -> usize {
        self.state.most_streams.load(Ordering::Relaxed)
    }

    /// How many different provider tokens were used.
    pub fn provider_tokens(&self) -> usize {
        self.state.provider_tokens.lock().len()
    }

    /// Every provider token used so far gets ExpiredProviderToken.
    pub fn expire_provider_tokens(&self) {
        self.state.expired.store(self.provider_tokens(), Ordering::Relaxed);
    }
}

fn throwaway_key() -> Option<(Vec<u8>, Vec<u8>)> {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).ok()?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).ok()?;
    Some((pkcs8.as_ref().to_vec(), key.public_key().as_ref().to_vec()))
}

type Refusal = (u16, &'static str);

impl State {
    fn serving(&self) -> Serving {
        Serving { http2_only: true, streams_max: self.streams_max }
    }

    fn handler(
        self: &Arc<Self>,
    ) -> impl Fn(Request<Incoming>, Arc<Connection>) -> AnswerFuture + Clone + Send + Sync + 'static {
        let state = Arc::clone(self);
        move |request, connection| Box::pin(Arc::clone(&state).handle(request, connection))
    }

    async fn handle(self: Arc<Self>, request: Request<Incoming>, connection: Arc<Connection>) -> Answered {
        let (_stream, streams) = connection.stream();
        self.most_streams.fetch_max(streams, Ordering::Relaxed);
        if streams > 1 && !connection.is_proven() {
            self.early_streams.fetch_add(1, Ordering::Relaxed);
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        if connection.is_new() {
            self.connections.fetch_add(1, Ordering::Relaxed);
        }
        let path = request.uri().path().to_owned();
        if request.method() != Method::POST {
            return Ok(reason((405, "MethodNotAllowed")));
        }
        let delay_ms = self.delay_ms.load(Ordering::Relaxed);
        if delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        }
        let headers = request.headers().clone();
        let Some(body) = double::body(request).await else {
            return Ok(reason((413, "PayloadTooLarge")));
        };
        let token = match self.check(&path, &headers, &body) {
            Ok(token) => token,
            Err(refusal) => return Ok(reason(refusal)),
        };
        let record = Recorded { token, path, headers, body };
        let refusal = match self.script.next(&record.token) {
            Some(Answer::Hang) => std::future::pending().await,
            Some(Answer::Disconnect) => {
                connection.cut();
                std::future::pending().await
            }
            Some(Answer::AcceptAndGoAway) => {
                connection.go_away();
                return Ok(self.accept(record));
            }
            Some(Answer::Refuse) => return Err(h2::Reason::REFUSED_STREAM.into()),
            Some(Answer::Reset) => return Err(h2::Reason::INTERNAL_ERROR.into()),
            Some(Answer::Accept) | None => {
                connection.prove();
                return Ok(self.accept(record));
            }
            Some(Answer::Unregistered { timestamp_ms }) => {
                answer(410, json!({"reason": "Unregistered", "timestamp": timestamp_ms}).to_string())
            }
            Some(Answer::Reason { status, reason: text }) => reason((status, text)),
            Some(Answer::Raw { status, headers, body }) => {
                let mut response = answer(status, body);
                response.headers_mut().extend(headers);
                response
            }
        };
        self.observed.refused(&record, &refusal).await;
        Ok(refusal)
    }

    fn accept(&self, record: Recorded) -> Response<Full<Bytes>> {
        let number = self.requests.load(Ordering::Relaxed);
        let made = || HeaderValue::try_from(format!("00000000-0000-4000-8000-{number:012x}")).ok();
        let id = record.headers.get("apns-id").cloned().or_else(made);
        self.observed.accepted(&record);
        self.records.push(record);
        let mut response = answer(200, "");
        let unique = made().filter(|_| self.is_sandbox);
        let names = [("apns-id", id), ("apns-unique-id", unique)];
        let present = names.into_iter().filter_map(|(name, id)| Some((HeaderName::from_static(name), id?)));
        response.headers_mut().extend(present);
        response
    }

    /// The device token of a push that the original would look at.
    fn check(&self, path: &str, headers: &HeaderMap, body: &[u8]) -> Result<String, Refusal> {
        let token = path.strip_prefix("/3/device/").ok_or((404, "BadPath"))?;
        if token.is_empty() {
            return Err((400, "MissingDeviceToken"));
        }
        if !self.knows_certificates {
            self.check_provider_token(headers)?;
        }
        check_headers(headers)?;
        let size_max = if headers.get("apns-push-type").is_some_and(|kind| kind == "voip") { 5120 } else { 4096 };
        if body.is_empty() {
            return Err((400, "PayloadEmpty"));
        }
        if body.len() > size_max {
            return Err((413, "PayloadTooLarge"));
        }
        let payload: Value = serde_json::from_slice(body).unwrap_or_default();
        if !payload.get("aps").is_some_and(Value::is_object) {
            return Err((400, "PayloadEmpty"));
        }
        Ok(token.to_owned())
    }

    fn check_provider_token(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token =
            authorization.and_then(|value| value.strip_prefix("bearer ")).ok_or((403, "MissingProviderToken"))?;
        let invalid = (403, "InvalidProviderToken");
        let Jwt { header, claims, input, signature } = strict_jwt(token).ok_or(invalid)?;
        let issued_at = claims.get("iat").and_then(Value::as_u64).ok_or(invalid)?;
        if header != json!({"alg": "ES256", "kid": KEY_ID}) || claims != json!({"iss": TEAM_ID, "iat": issued_at}) {
            return Err(invalid);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.public_key)
            .verify(input.as_bytes(), &signature)
            .map_err(|_| invalid)?;
        let mut seen = self.provider_tokens.lock();
        let place = seen.iter().position(|other| other == token).unwrap_or_else(|| {
            seen.push(token.to_owned());
            seen.len() - 1
        });
        let is_expired = place < self.expired.load(Ordering::Relaxed);
        if is_expired || issued_at.abs_diff(unix_seconds()) > TOKEN_AGE_MAX_S {
            return Err((403, "ExpiredProviderToken"));
        }
        Ok(())
    }
}

type AnswerFuture = Pin<Box<dyn Future<Output = Answered> + Send>>;

fn check_headers(headers: &HeaderMap) -> Result<(), Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let push_type = text("apns-push-type").filter(|kind| PUSH_TYPES.contains(kind)).ok_or((400, "InvalidPushType"))?;
    let topic = text("apns-topic").filter(|topic| !topic.is_empty()).ok_or((400, "MissingTopic"))?;
    if (push_type == "voip") != topic.ends_with(".voip") {
        return Err((400, "DeviceTokenNotForTopic"));
    }
    if text("apns-expiration").and_then(|time| time.parse::<u64>().ok()).is_none() {
        return Err((400, "BadExpirationDate"));
    }
    if !text("apns-priority").is_some_and(|priority| ["10", "5", "1"].contains(&priority)) {
        return Err((400, "BadPriority"));
    }
    if headers.get("apns-id").is_some_and(|id| !id.to_str().is_ok_and(is_uuid)) {
        return Err((400, "BadMessageId"));
    }
    if text("apns-collapse-id").is_some_and(|id| id.len() > 64) {
        return Err((400, "BadCollapseId"));
    }
    Ok(())
}

/// As Apple wants it: 32 lower-case hexadecimal digits in five groups.
fn is_uuid(text: &str) -> bool {
    let is_hex = |group: &str| group.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    text.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && text.split('-').all(is_hex)
}

fn reason((status, reason): Refusal) -> Response<Full<Bytes>> {
    answer(status, json!({ "reason": reason }).to_string())
}
