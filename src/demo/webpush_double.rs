//! A double of a Web Push service, and of the browsers behind it, over real HTTP on loopback (RFC 8030, RFC 8292).
//!
//! It is as strict as the services of the browsers: token, key and headers are checked before a script has its say. It
//! also refuses a body that its browser could not read (RFC 8291).

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, HeaderValue, LOCATION};
use hyper::{HeaderMap, Method, Request, Response};
use parking_lot::Mutex;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;

pub use super::double::Answer;
use super::double::{
    self, Connection, Observed, Observer, Recorded, Records, Script, Serving, answer, strict_jwt, unix_seconds,
};
use super::subscriber::Subscriber;
use crate::binding::SubscriptionKeys;

/// Made for this double and known to everybody who has the program: it opens nothing.
const THROWAWAY_KEY: &str = include_str!("throwaway_vapid.pem");
/// The key that subscriptions are made for, as `+sip.vapid` has it.
pub const PUBLIC_KEY: &str = "BHB7khtxAM0WEDEoaMsbP6aSntVQ0yYPvYsTKVThVdGYHcWl5IZImP3lKsjjlIgYnHELBbBII2WQrpCJyFS9EHc";
const SUBSCRIPTIONS: &str = "/wpush/v2/";
/// RFC 8292 §2.
const TOKEN_LIFE_MAX_S: u64 = 24 * 3600;
/// RFC 8030 §5.4.
const TOPIC_CHARS_MAX: usize = 32;
/// RFC 8030 §7.2.
const BODY_BYTES_MAX: usize = 4096;

/// Runs from [`WebPushDouble::start`] until it is dropped.
#[derive(Debug)]
pub struct WebPushDouble {
    state: Arc<State>,
    server: AbortHandle,
}

#[derive(Debug)]
struct State {
    address: SocketAddr,
    records: Records,
    observed: Observed,
    script: Script<Answer>,
    /// Where it is reached, if that is not its address.
    origin: OnceLock<String>,
    /// Those that have given away their keys, by subscription.
    subscribers: Mutex<BTreeMap<String, Subscriber>>,
    requests: AtomicUsize,
    connections: AtomicUsize,
}

impl Drop for WebPushDouble {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl WebPushDouble {
    /// On a free port of 127.0.0.1.
    pub async fn start() -> io::Result<Self> {
        let (listener, address) = double::listen(0).await?;
        let state = Arc::new(State {
            address,
            records: Records::default(),
            observed: Observed::default(),
            script: Script::default(),
            origin: OnceLock::new(),
            subscribers: Mutex::default(),
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        });
        let handler = double::handler(&state, State::handle);
        let server = tokio::spawn(double::serve(listener, Serving::default(), handler));
        Ok(Self { state, server: server.abort_handle() })
    }

    /// Serves a connection that was accepted elsewhere, such as one with TLS.
    pub async fn serve_connection(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        double::serve_connection(stream, Serving::default(), double::handler(&self.state, State::handle)).await;
    }

    /// Has subscriptions, and the tokens of who pushes to them, be of this origin. Once, before the first subscription.
    pub fn is_reached_at(&self, origin: &str) {
        let _ = self.state.origin.set(origin.to_owned());
    }

    /// For `push.webpush.allowed_hosts`.
    pub fn host(&self) -> String {
        self.state.address.to_string()
    }

    /// The URI of a browser's subscription, which is made for [`PUBLIC_KEY`] (RFC 8292 §4.1).
    pub fn subscription(&self, token: &str) -> String {
        format!("{}{SUBSCRIPTIONS}{token}", self.state.origin())
    }

    /// The same of a browser that gives away its keys; pushes to it are recorded as it reads them.
    pub fn subscribe(&self, token: &str) -> io::Result<(String, SubscriptionKeys)> {
        let subscriber = Subscriber::new().ok_or_else(|| io::Error::other("the system gives no random numbers"))?;
        let keys = subscriber.keys();
        self.state.subscribers.lock().insert(token.to_owned(), subscriber);
        Ok((self.subscription(token), keys))
    }

    /// Writes the private key to `vapid.pem` in `folder`.
    pub fn write_credentials(&self, folder: &Path) -> io::Result<PathBuf> {
        let file = folder.join("vapid.pem");
        std::fs::write(&file, THROWAWAY_KEY)?;
        Ok(file)
    }

    /// The answers to the next pushes to a subscription; those after them are accepted.
    pub fn script(&self, token: &str, answers: impl IntoIterator<Item = Answer>) {
        self.state.script.add(token, answers);
    }

    /// Waits for the next accepted push. Safe to drop, so the caller sets the deadline.
    pub async fn next(&self) -> Recorded {
        self.state.records.next().await
    }

    /// Lets `observer` hear of each push that is looked at and answered; once, before the first push.
    pub fn observe(&self, observer: Observer) {
        self.state.observed.by(observer);
    }

    /// How many requests came, accepted or not.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// How many connections they came by.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }
}

impl State {
    fn origin(&self) -> String {
        self.origin.get().cloned().unwrap_or_else(|| format!("http://{}", self.address))
    }

    /// What the browser of a subscription reads; nothing is read without a body.
    fn read(&self, token: &str, body: Bytes) -> Result<Bytes, Problem> {
        if body.is_empty() {
            return Ok(body);
        }
        let subscribers = self.subscribers.lock();
        let subscriber = subscribers.get(token).ok_or((400, "nobody was given keys of this subscription"))?;
        subscriber.read(&body).map(Bytes::from).map_err(|problem| (400, problem))
    }

    async fn handle(self: Arc<Self>, request: Request<Incoming>, connection: Arc<Connection>) -> Response<Full<Bytes>> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        if connection.is_new() {
            self.connections.fetch_add(1, Ordering::Relaxed);
        }
        let (path, headers) = (request.uri().path().to_owned(), request.headers().clone());
        let Some(token) = path.strip_prefix(SUBSCRIPTIONS).filter(|token| !token.is_empty()).map(str::to_owned) else {
            return refusal(404, "no such subscription");
        };
        if request.method() != Method::POST {
            return refusal(405, "only POST");
        }
        let Some(body) = double::body(request).await.filter(|body| body.len() <= BODY_BYTES_MAX) else {
            return refusal(413, "the body is too large");
        };
        let read = check_authorization(&headers, &self.origin())
            .and_then(|()| check_headers(&headers, &body))
            .and_then(|()| self.read(&token, body));
        let body = match read {
            Ok(body) => body,
            Err((status, problem)) => return refusal(status, problem),
        };
        let record = Recorded { token, path, headers, body };
        let scripted = self.script.next(&record.token).unwrap_or(Answer::Accept);
        if let Some(refusal) = scripted.refusal(&connection).await {
            self.observed.refused(&record, &refusal).await;
            return refusal;
        }
        self.observed.accepted(&record);
        self.records.push(record);
        let mut created = answer(201, "");
        // RFC 8030 §5: where the message itself is.
        if let Ok(location) = HeaderValue::try_from(format!("{}/m/{number}", self.origin())) {
            created.headers_mut().insert(LOCATION, location);
        }
        created
    }
}

/// As Mozilla's service says it.
fn refusal(status: u16, message: &str) -> Response<Full<Bytes>> {
    answer(status, json!({"code": status, "message": message}).to_string())
}

type Problem = (u16, &'static str);

/// RFC 8292 §2, §3, §4.2.
fn check_authorization(headers: &HeaderMap, origin: &str) -> Result<(), Problem> {
    let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let params = authorization.strip_prefix("vapid ").ok_or((401, "no VAPID"))?;
    let param = |name: &str| params.split(',').find_map(|param| param.trim().strip_prefix(name)?.strip_prefix('='));
    let (Some(token), Some(key)) = (param("t"), param("k")) else { return Err((401, "t or k is missing")) };
    let point = URL_SAFE_NO_PAD.decode(key).ok().filter(|point| point.len() == 65 && point.first() == Some(&4));
    let point = point.ok_or((401, "k is not a point of P-256"))?;
    let jwt = strict_jwt(token).ok_or((401, "t is not a JWT"))?;
    let (header, claim) = (&jwt.header, |name: &str| jwt.claims.get(name).cloned().unwrap_or_default());
    if header.get("typ").is_none_or(|typ| typ != "JWT") || header.get("alg").is_none_or(|alg| alg != "ES256") {
        return Err((401, "the JWT is not one of ES256"));
    }
    let signature = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    if signature.verify(jwt.input.as_bytes(), &jwt.signature).is_err() {
        return Err((401, "the JWT is signed by another key"));
    }
    if claim("aud") != origin {
        return Err((401, "the JWT is for another origin"));
    }
    let left = claim("exp").as_u64().map(|exp| exp.saturating_sub(unix_seconds()));
    if left.is_none_or(|left| !(1..=TOKEN_LIFE_MAX_S).contains(&left)) {
        return Err((401, "the JWT has expired, or lives too long"));
    }
    if !claim("sub").as_str().is_some_and(|sub| sub.starts_with("mailto:") || sub.starts_with("https:")) {
        return Err((401, "the JWT names no contact"));
    }
    if key != PUBLIC_KEY {
        return Err((403, "the subscription is for another key"));
    }
    Ok(())
}

/// RFC 8030 §5.2 to §5.4, RFC 8291 §4.
fn check_headers(headers: &HeaderMap, body: &[u8]) -> Result<(), Problem> {
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let ttl = header("ttl").ok_or((400, "no TTL"))?;
    if ttl.is_empty() || !ttl.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err((400, "TTL is not a number"));
    }
    if header("urgency").is_some_and(|urgency| !["very-low", "low", "normal", "high"].contains(&urgency)) {
        return Err((400, "no such urgency"));
    }
    let is_topic = |topic: &str| {
        let is_char = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=TOPIC_CHARS_MAX).contains(&topic.len()) && topic.bytes().all(is_char)
    };
    if header("topic").is_some_and(|topic| !is_topic(topic)) {
        return Err((400, "the topic is not 32 characters of base64url at most"));
    }
    if !body.is_empty() && headers.get(CONTENT_ENCODING).is_none_or(|coding| coding != "aes128gcm") {
        return Err((400, "the body is not encrypted"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use rustls::pki_types::pem::PemObject;
    use serde_json::Value;

    use super::*;

    const ORIGIN: &str = "http://127.0.0.1:8000";

    fn key(pkcs8: &[u8]) -> EcdsaKeyPair {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &SystemRandom::new()).unwrap()
    }

    fn authorization(key: &EcdsaKeyPair, k: &str, header: Value, claims: Value) -> HeaderMap {
        let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let input = format!("{}.{}", part(header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(key.sign(&SystemRandom::new(), input.as_bytes()).unwrap());
        HeaderMap::from_iter([(AUTHORIZATION, format!("vapid t={input}.{signature}, k={k}").parse().unwrap())])
    }

    #[test]
    fn vapid_is_checked_to_the_letter() {
        let own = key(PrivatePkcs8KeyDer::from_pem_slice(THROWAWAY_KEY.as_bytes()).unwrap().secret_pkcs8_der());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let other = key(pkcs8.as_ref());
        let header = || json!({"typ": "JWT", "alg": "ES256"});
        let exp = unix_seconds() + 3600;
        let claims = || json!({"aud": ORIGIN, "exp": exp, "sub": "mailto:ops@example.org"});
        let with = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            authorization(&own, PUBLIC_KEY, header(), claims)
        };
        let status = |headers: HeaderMap| check_authorization(&headers, ORIGIN).map_err(|(status, _)| status);
        let others_key = URL_SAFE_NO_PAD.encode(other.public_key());
        assert_eq!(status(authorization(&own, PUBLIC_KEY, header(), claims())), Ok(()));
        assert_eq!(status(authorization(&other, &others_key, header(), claims())), Err(403));
        for refused in [
            HeaderMap::new(),
            authorization(&other, PUBLIC_KEY, header(), claims()),
            authorization(&own, &PUBLIC_KEY.replace('-', "+"), header(), json!({})),
            authorization(&own, PUBLIC_KEY, json!({"typ": "JWT", "alg": "none"}), claims()),
            with("aud", "http://127.0.0.1".into()),
            with("aud", format!("{ORIGIN}/").into()),
            with("exp", (unix_seconds() - 1).into()),
            with("exp", (unix_seconds() + 25 * 3600).into()),
            with("exp", "soon".into()),
            with("sub", "ops".into()),
        ] {
            assert_eq!(status(refused.clone()), Err(401), "{refused:?}");
        }
    }

    #[test]
    fn ttl_is_mandatory() {
        let check = |headers: &[(&'static str, &'static str)], body: &[u8]| {
            let parsed = |name: &str, value: &str| (name.parse().unwrap(), value.parse().unwrap());
            let headers = headers.iter().map(|(name, value)| parsed(name, value)).collect::<HeaderMap>();
            check_headers(&headers, body).is_ok()
        };
        assert!(check(&[("ttl", "0")], b""));
        assert!(check(&[("ttl", "28"), ("urgency", "high"), ("topic", "missed_calls")], b""));
        assert!(!check(&[], b""));
        assert!(!check(&[("ttl", "28s")], b""));
        assert!(!check(&[("ttl", "28"), ("urgency", "urgent")], b""));
        assert!(!check(&[("ttl", "28"), ("topic", "missed calls")], b""));
        assert!(!check(&[("ttl", "28")], b"{}"));
        assert!(check(&[("ttl", "28"), ("content-encoding", "aes128gcm")], b"x"));
    }
}
