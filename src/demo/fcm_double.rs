//! A double of Firebase Cloud Messaging and of Google's token endpoint, over real HTTP on loopback.
//!
//! It is as strict as its original: tokens, fields and their types are checked before a script has its say.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response};
use parking_lot::Mutex;
use ring::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, JoinHandle};

use super::double::{
    self, Connection, Jwt, Observed, Observer, Recorded, Records, Script, Serving, answer, strict_jwt, unix_seconds,
};

/// Made for this double and known to everybody who has the program: it opens nothing.
const THROWAWAY_KEY: &str = include_str!("throwaway_rsa.pem");
const KEY_ID: &str = "throwaway0000000000000000000000000000000";
const CLIENT_EMAIL: &str = "push@demo-project.iam.gserviceaccount.com";
pub(super) const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
const DATA_BYTES_MAX: usize = 4096;

/// Google's words for an assertion that is not of this hour.
pub const WRONG_CLOCK: &str = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. \
                               Check your iat and exp values in the JWT claim.";
/// For one that is signed by a key that the account does not have any more.
pub const WRONG_SIGNATURE: &str = "Invalid JWT Signature.";
/// For one of an account that was deleted.
pub const ACCOUNT_NOT_FOUND: &str = "Invalid grant: account not found";

/// The project that [`FcmDouble`] serves.
pub const PROJECT_ID: &str = "demo-project";
/// What the legacy API takes in `Authorization: key=…`.
pub const SERVER_KEY: &str = "throwaway-server-key";

/// What is answered to one push.
#[derive(Debug, Clone)]
pub enum Answer {
    Accept,
    /// 404: the app was uninstalled, or its token expired.
    Unregistered,
    /// 400: it never was a token.
    InvalidToken,
    /// 403: the token is of another project.
    SenderIdMismatch,
    /// 429: too many messages for this device.
    QuotaExceeded {
        retry_after_s: Option<u64>,
    },
    /// 429: too many messages of the project.
    ProjectQuotaExceeded {
        retry_after_s: Option<u64>,
    },
    /// 500.
    Internal,
    /// 503.
    Unavailable {
        retry_after_s: Option<u64>,
    },
    /// Any other answer, word for word.
    Raw {
        status: u16,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: String,
    },
    /// None at all, while the connection stays open.
    Hang,
    /// The connection is closed.
    Disconnect,
}

/// Runs from [`FcmDouble::start`] until it is dropped.
#[derive(Debug)]
pub struct FcmDouble {
    state: Arc<State>,
    server: AbortHandle,
}

#[derive(Debug)]
struct State {
    address: SocketAddr,
    /// Where it is reached, if that is not `address`.
    origin: OnceLock<String>,
    records: Records,
    observed: Observed,
    script: Script<Answer>,
    requests: AtomicUsize,
    token_fetches: AtomicUsize,
    token_lifetime_s: AtomicU64,
    refuse_tokens: Mutex<Option<u16>>,
    refuse_grants: Mutex<Option<&'static str>>,
    access_tokens: Arc<Mutex<Vec<String>>>,
}

impl Drop for FcmDouble {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl FcmDouble {
    /// On a free port of 127.0.0.1.
    pub async fn start() -> io::Result<Self> {
        Self::start_on(0).await
    }

    pub async fn start_on(port: u16) -> io::Result<Self> {
        let (listener, address) = double::listen(port).await?;
        let state = Arc::new(State {
            address,
            origin: OnceLock::new(),
            records: Records::default(),
            observed: Observed::default(),
            script: Script::default(),
            requests: AtomicUsize::new(0),
            token_fetches: AtomicUsize::new(0),
            token_lifetime_s: AtomicU64::new(3599),
            refuse_tokens: Mutex::new(None),
            refuse_grants: Mutex::new(None),
            access_tokens: Arc::default(),
        });
        let handler = double::handler(&state, State::handle);
        let server: JoinHandle<()> = tokio::spawn(double::serve(listener, Serving::default(), handler));
        Ok(Self { state, server: server.abort_handle() })
    }

    /// For `push.fcm.endpoint`.
    pub fn url(&self) -> String {
        format!("http://{}", self.state.address)
    }

    /// Serves a connection that was accepted elsewhere, such as one with TLS.
    pub async fn serve_connection(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        double::serve_connection(stream, Serving::default(), double::handler(&self.state, State::handle)).await;
    }

    /// Has the token endpoint be of this origin. Once, before the first credentials are written.
    pub fn is_reached_at(&self, origin: &str) {
        let _ = self.state.origin.set(origin.to_owned());
    }

    /// A service account's key file, whose `token_uri` is this double.
    pub fn service_account(&self) -> String {
        let account = json!({
            "type": "service_account",
            "project_id": PROJECT_ID,
            "private_key_id": KEY_ID,
            "private_key": THROWAWAY_KEY,
            "client_email": CLIENT_EMAIL,
            "token_uri": self.state.token_uri(),
        });
        format!("{account:#}\n")
    }

    /// Writes [`Self::service_account`] to `fcm.json` in `folder`.
    pub fn write_credentials(&self, folder: &Path) -> io::Result<PathBuf> {
        let file = folder.join("fcm.json");
        std::fs::write(&file, self.service_account())?;
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

    /// Lets `observer` hear of each push that is looked at and answered; once, before the first push.
    pub fn observe(&self, observer: Observer) {
        self.state.observed.by(observer);
    }

    /// How many pushes came, accepted or not.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// How often an access token was asked for.
    pub fn token_fetches(&self) -> usize {
        self.state.token_fetches.load(Ordering::Relaxed)
    }

    /// `expires_in` of the access tokens given from now on.
    pub fn set_token_lifetime_s(&self, seconds: u64) {
        self.state.token_lifetime_s.store(seconds, Ordering::Relaxed);
    }

    /// Answers requests for access tokens with this status; `None` gives them again.
    pub fn refuse_tokens(&self, status: Option<u16>) {
        *self.state.refuse_tokens.lock() = status;
    }

    /// Answers requests for access tokens with `invalid_grant` and this description; `None` gives them again.
    pub fn refuse_grants(&self, description: Option<&'static str>) {
        *self.state.refuse_grants.lock() = description;
    }

    /// The access tokens that are taken.
    pub(super) fn access_tokens(&self) -> Arc<Mutex<Vec<String>>> {
        Arc::clone(&self.state.access_tokens)
    }

    /// No access token given so far is good any more.
    pub fn revoke_access_tokens(&self) {
        self.state.access_tokens.lock().clear();
    }
}

/// The answer to a push that no script is asked about.
type Refusal = Box<Response<Full<Bytes>>>;

impl State {
    fn token_uri(&self) -> String {
        let origin = self.origin.get_or_init(|| format!("http://{}", self.address));
        format!("{origin}/token")
    }

    async fn handle(self: Arc<Self>, request: Request<Incoming>, connection: Arc<Connection>) -> Response<Full<Bytes>> {
        if request.method() != Method::POST {
            return answer(405, "");
        }
        let path = request.uri().path().to_owned();
        if path == "/token" {
            return self.token(request).await;
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        let headers = request.headers().clone();
        let Some(body) = double::body(request).await else {
            return answer(413, "");
        };
        let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let checked = match path.as_str() {
            "/fcm/send" => self.check_legacy(authorization, &body),
            path => self.check_v1(path, authorization, &body),
        };
        let token = match checked {
            Ok(token) => token,
            Err(refusal) => return *refusal,
        };
        let record = Recorded { token, path, headers, body };
        let refusal = match self.script.next(&record.token) {
            Some(Answer::Accept) | None => return self.accept(record),
            Some(Answer::Hang) => std::future::pending().await,
            Some(Answer::Disconnect) => {
                connection.cut();
                std::future::pending().await
            }
            Some(Answer::Unregistered) => {
                fcm_error((404, "NOT_FOUND"), "UNREGISTERED", "Requested entity was not found.", None)
            }
            Some(Answer::SenderIdMismatch) => {
                fcm_error((403, "PERMISSION_DENIED"), "SENDER_ID_MISMATCH", "SenderId mismatch", None)
            }
            Some(Answer::InvalidToken) => invalid_token(),
            Some(Answer::QuotaExceeded { retry_after_s }) => with_retry_after(device_quota(), retry_after_s),
            Some(Answer::ProjectQuotaExceeded { retry_after_s }) => with_retry_after(project_quota(), retry_after_s),
            Some(Answer::Internal) => fcm_error((500, "INTERNAL"), "INTERNAL", "Internal error encountered.", None),
            Some(Answer::Unavailable { retry_after_s }) => {
                let message = "The service is currently unavailable.";
                with_retry_after(fcm_error((503, "UNAVAILABLE"), "UNAVAILABLE", message, None), retry_after_s)
            }
            Some(Answer::Raw { status, headers, body }) => {
                let mut response = answer(status, body);
                response.headers_mut().extend(headers);
                response
            }
        };
        self.observed.refused(&record, &refusal).await;
        refusal
    }

    fn accept(&self, record: Recorded) -> Response<Full<Bytes>> {
        let number = self.requests.load(Ordering::Relaxed);
        let body = if record.path == "/fcm/send" {
            json!({"multicast_id": number, "success": 1, "failure": 0, "results": [{"message_id": format!("0:{number}")}]})
        } else {
            json!({"name": format!("projects/{PROJECT_ID}/messages/0:{number}")})
        };
        self.observed.accepted(&record);
        self.records.push(record);
        json_answer(200, &body)
    }

    /// RFC 6749 §4.5 with an assertion of RFC 7523 §2.1.
    async fn token(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.token_fetches.fetch_add(1, Ordering::Relaxed);
        if let Some(status) = *self.refuse_tokens.lock() {
            return answer(status, "");
        }
        let is_form = request
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
        let body = double::body(request).await.unwrap_or_default();
        let problem = if is_form { assertion_problem(&body, &self.token_uri()) } else { Some("not a form") };
        let problem = problem.or_else(|| *self.refuse_grants.lock());
        if let Some(problem) = problem {
            return json_answer(400, &json!({"error": "invalid_grant", "error_description": problem}));
        }
        let access_token = format!("ya29.double-{}", self.token_fetches.load(Ordering::Relaxed));
        self.access_tokens.lock().push(access_token.clone());
        let expires_in = self.token_lifetime_s.load(Ordering::Relaxed);
        json_answer(200, &json!({"access_token": access_token, "expires_in": expires_in, "token_type": "Bearer"}))
    }

    /// The registration token of a push that the original would look at; else its answer.
    fn check_v1(&self, path: &str, authorization: &str, body: &[u8]) -> Result<String, Refusal> {
        if !self.is_access_token(authorization) {
            return Err(refusal(401, "UNAUTHENTICATED", "Request had invalid authentication credentials."));
        }
        if path != format!("/v1/projects/{PROJECT_ID}/messages:send") {
            return Err(refusal(404, "NOT_FOUND", "Requested entity was not found."));
        }
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        let invalid = |message: &str| refusal(400, "INVALID_ARGUMENT", message);
        let message = request.get("message").and_then(Value::as_object).ok_or_else(|| invalid("no message"))?;
        let known =
            |key: &String| ["token", "data", "android", "notification", "apns", "webpush"].contains(&key.as_str());
        if let Some(unknown) = message.keys().find(|key| !known(key)) {
            return Err(invalid(&format!("Invalid JSON payload received. Unknown name {unknown:?} at 'message'")));
        }
        let data = message.get("data").and_then(Value::as_object).ok_or_else(|| invalid("no data"))?;
        let mut bytes = 0;
        for (key, value) in data {
            let value = value.as_str().ok_or_else(|| invalid("Invalid value at 'message.data' (TYPE_STRING)"))?;
            bytes += key.len() + value.len();
        }
        if bytes > DATA_BYTES_MAX {
            return Err(invalid("Android message is too big"));
        }
        if !message.get("android").is_none_or(is_android_config) {
            return Err(invalid("Invalid value at 'message.android'"));
        }
        message.get("token").and_then(Value::as_str).map(str::to_owned).ok_or_else(|| Box::new(invalid_token()))
    }

    fn check_legacy(&self, authorization: &str, body: &[u8]) -> Result<String, Refusal> {
        if authorization.strip_prefix("key=") != Some(SERVER_KEY) && !self.is_access_token(authorization) {
            return Err(Box::new(answer(401, "<HTML><TITLE>Unauthorized</TITLE></HTML>")));
        }
        let request: Value = serde_json::from_slice(body).map_err(|_| Box::new(answer(400, "JSON_PARSING_ERROR")))?;
        request.get("to").and_then(Value::as_str).map(str::to_owned).ok_or_else(|| Box::new(answer(400, "to")))
    }

    fn is_access_token(&self, authorization: &str) -> bool {
        authorization
            .strip_prefix("Bearer ")
            .is_some_and(|token| self.access_tokens.lock().iter().any(|given| given == token))
    }
}

fn is_android_config(android: &Value) -> bool {
    let is_duration = |text: &str| text.strip_suffix('s').is_some_and(|n| n.parse::<f64>().is_ok_and(|n| n >= 0.0));
    let ttl = android.get("ttl").is_none_or(|ttl| ttl.as_str().is_some_and(is_duration));
    let is_priority = |text: &str| ["HIGH", "NORMAL"].contains(&text);
    let is_flag = android.get("direct_boot_ok").is_none_or(Value::is_boolean);
    let is_known = |key: &String| ["collapse_key", "priority", "ttl", "direct_boot_ok"].contains(&key.as_str());
    let fields = android.as_object().is_some_and(|fields| fields.keys().all(is_known));
    ttl && is_flag
        && fields
        && android.get("priority").is_none_or(|priority| priority.as_str().is_some_and(is_priority))
}

/// What is wrong with the request for an access token.
fn assertion_problem(body: &[u8], token_uri: &str) -> Option<&'static str> {
    let form = reqwest::Url::parse(&format!("http://form/?{}", String::from_utf8_lossy(body))).ok()?;
    let field = |name: &str| form.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    if field("grant_type").as_deref() != Some("urn:ietf:params:oauth:grant-type:jwt-bearer") {
        return Some("wrong grant_type");
    }
    let assertion = field("assertion").unwrap_or_default();
    let Some(Jwt { header, claims, input, signature }) = strict_jwt(&assertion) else {
        return Some("assertion is not a JWT in base64url");
    };
    if header != json!({"alg": "RS256", "typ": "JWT", "kid": KEY_ID}) {
        return Some("wrong JWT header");
    }
    if claims["iss"] != CLIENT_EMAIL {
        return Some(ACCOUNT_NOT_FOUND);
    }
    if claims["scope"] != SCOPE || claims["aud"] != token_uri {
        return Some("wrong scope or aud");
    }
    let (now, time) = (unix_seconds(), |name: &str| claims.get(name).and_then(Value::as_u64).unwrap_or_default());
    if time("iat") > now + 60 || time("exp") <= now || time("exp").saturating_sub(time("iat")) > 3600 {
        return Some(WRONG_CLOCK);
    }
    let key = PrivatePkcs8KeyDer::from_pem_slice(THROWAWAY_KEY.as_bytes()).ok()?;
    let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).ok()?;
    let verified =
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key()).verify(input.as_bytes(), &signature);
    verified.is_err().then_some(WRONG_SIGNATURE)
}

fn json_answer(status: u16, body: &Value) -> Response<Full<Bytes>> {
    let mut response = answer(status, body.to_string());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
    response
}

fn refusal(code: u16, status: &str, message: &str) -> Refusal {
    Box::new(json_answer(code, &json!({"error": {"code": code, "message": message, "status": status}})))
}

/// With FCM's own code, and what there is beside it.
fn fcm_error(
    (code, status): (u16, &str),
    error_code: &str,
    message: &str,
    more: Option<Value>,
) -> Response<Full<Bytes>> {
    let own = json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": error_code});
    let details: Vec<_> = std::iter::once(own).chain(more).collect();
    let error = json!({"code": code, "message": message, "status": status, "details": details});
    json_answer(code, &json!({ "error": error }))
}

/// Nothing names the field.
fn invalid_token() -> Response<Full<Bytes>> {
    let message = "The registration token is not a valid FCM registration token";
    fcm_error((400, "INVALID_ARGUMENT"), "INVALID_ARGUMENT", message, None)
}

fn device_quota() -> Response<Full<Bytes>> {
    let violation = json!({"subject": "device", "description": "Device message rate exceeded"});
    let failure = json!({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]});
    let message = "Resource has been exhausted (e.g. check quota).";
    fcm_error((429, "RESOURCE_EXHAUSTED"), "QUOTA_EXCEEDED", message, Some(failure))
}

/// It comes from the gateway before FCM, and has no code of FCM's.
fn project_quota() -> Response<Full<Bytes>> {
    let info = json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "RATE_LIMIT_EXCEEDED",
        "domain": "googleapis.com",
        "metadata": {"service": "fcm.googleapis.com", "quota_limit": "SendsPerMinutePerProject"},
    });
    let help = json!({
        "@type": "type.googleapis.com/google.rpc.Help",
        "links": [{"description": "Request a higher quota limit.", "url": "https://cloud.google.com/docs/quotas"}],
    });
    let message = "Quota exceeded for quota metric 'Send requests' and limit 'Send requests per minute' of service \
                   'fcm.googleapis.com'.";
    let error = json!({"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": [info, help]});
    json_answer(429, &json!({ "error": error }))
}

fn with_retry_after(mut response: Response<Full<Bytes>>, seconds: Option<u64>) -> Response<Full<Bytes>> {
    response.headers_mut().extend(seconds.map(|seconds| (RETRY_AFTER, HeaderValue::from(seconds))));
    response
}
