//! A double of what grants Google's access tokens without a key file: a machine's metadata server, the token exchange and
//! the impersonation of workload identity federation, and another identity provider. Over real HTTP on loopback.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{HeaderMap, Method, Request, Response};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use super::double::{self, Connection, Serving, answer, unix_seconds};
use super::fcm_double::{FcmDouble, SCOPE};
use super::service_double::json_answer;

const METADATA: &str = "/computeMetadata/v1/instance/service-accounts/default/token";
const EXCHANGE: &str = "/v1/token";
const IMPERSONATION: &str =
    "/v1/projects/-/serviceAccounts/push@demo-project.iam.gserviceaccount.com:generateAccessToken";
const SUBJECT: &str = "/subject";
/// What the other provider says of who we are.
const SUBJECT_TOKEN: &str = "eyJ.throwaway.subject";
const AUDIENCE: &str = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/demo/providers/demo";
const SUBJECT_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:jwt";
const CLOUD_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Where the subject token of an external account is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// In a file, which is beside the account's.
    File,
    /// In a JSON that a URL gives to those who send a header.
    Url,
}

/// Runs from [`GoogleDouble::start`] until it is dropped.
#[derive(Debug)]
pub struct GoogleDouble {
    state: Arc<State>,
    server: AbortHandle,
}

#[derive(Debug)]
struct State {
    address: SocketAddr,
    /// Those that FCM takes.
    access_tokens: Arc<Mutex<Vec<String>>>,
    /// Those that may impersonate.
    federated: Mutex<Vec<String>>,
    count: AtomicUsize,
    paths: Mutex<Vec<String>>,
    /// Whether the machine runs as a service account.
    has_account: AtomicBool,
}

impl Drop for GoogleDouble {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl GoogleDouble {
    /// On a free port of 127.0.0.1. Its access tokens are good for `fcm`.
    pub async fn start(fcm: &FcmDouble) -> io::Result<Self> {
        let (listener, address) = double::listen(0).await?;
        let state = Arc::new(State {
            address,
            access_tokens: fcm.access_tokens(),
            federated: Mutex::default(),
            count: AtomicUsize::new(0),
            paths: Mutex::default(),
            has_account: AtomicBool::new(true),
        });
        let handler = double::handler(&state, State::handle);
        let server = tokio::spawn(double::serve(listener, Serving::default(), handler));
        Ok(Self { state, server: server.abort_handle() })
    }

    /// For `push.fcm.metadata_endpoint`.
    pub fn url(&self) -> String {
        format!("http://{}", self.state.address)
    }

    /// Writes an external account's file to `external.json` in `folder`, and its subject token where that is a file.
    pub fn write_external_account(&self, folder: &Path, subject: Subject, impersonates: bool) -> io::Result<PathBuf> {
        let url = self.url();
        let source = match subject {
            Subject::File => {
                std::fs::write(folder.join("subject.token"), format!("{SUBJECT_TOKEN}\n"))?;
                json!({"file": "subject.token"})
            }
            Subject::Url => json!({
                "url": format!("{url}{SUBJECT}"),
                "headers": {"Metadata": "True"},
                "format": {"type": "json", "subject_token_field_name": "access_token"},
            }),
        };
        let mut account = json!({
            "type": "external_account",
            "audience": AUDIENCE,
            "subject_token_type": SUBJECT_TOKEN_TYPE,
            "token_url": format!("{url}{EXCHANGE}"),
            "credential_source": source,
        });
        if impersonates {
            account["service_account_impersonation_url"] = json!(format!("{url}{IMPERSONATION}"));
        }
        let file = folder.join("external.json");
        std::fs::write(&file, format!("{account:#}\n"))?;
        Ok(file)
    }

    /// The machine runs as no service account any more.
    pub fn detach_account(&self) {
        self.state.has_account.store(false, Ordering::Relaxed);
    }

    /// The paths that were asked for, in their order.
    pub fn paths(&self) -> Vec<String> {
        self.state.paths.lock().clone()
    }
}

impl State {
    async fn handle(self: Arc<Self>, request: Request<Incoming>, _: Arc<Connection>) -> Response<Full<Bytes>> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let (query, headers) = (request.uri().query().unwrap_or_default().to_owned(), request.headers().clone());
        self.paths.lock().push(path.clone());
        let body = double::body(request).await.unwrap_or_default();
        match (method, path.as_str()) {
            (Method::GET, METADATA) if self.has_account.load(Ordering::Relaxed) => self.metadata(&headers, &query),
            (Method::GET, SUBJECT) if header(&headers, "metadata") == "True" => {
                json_answer(200, &json!({"access_token": SUBJECT_TOKEN}))
            }
            (Method::POST, EXCHANGE) => self.exchange(&headers, &body),
            (Method::POST, IMPERSONATION) => self.impersonation(&headers, &body),
            _ => answer(404, "<html>Not Found</html>"),
        }
    }

    fn token(&self, kind: &str) -> String {
        format!("ya29.{kind}-{}", self.count.fetch_add(1, Ordering::Relaxed))
    }

    fn metadata(&self, headers: &HeaderMap, query: &str) -> Response<Full<Bytes>> {
        if header(headers, "metadata-flavor") != "Google" {
            return answer(403, "Missing required header Metadata-Flavor");
        }
        if field(query.as_bytes(), "scopes") != SCOPE {
            return answer(400, "wrong scopes");
        }
        let token = self.token("machine");
        self.access_tokens.lock().push(token.clone());
        json_answer(200, &json!({"access_token": token, "expires_in": 3599, "token_type": "Bearer"}))
    }

    /// RFC 8693 §2.
    fn exchange(&self, headers: &HeaderMap, body: &[u8]) -> Response<Full<Bytes>> {
        let access_token = "urn:ietf:params:oauth:token-type:access_token";
        let expected = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("audience", AUDIENCE),
            ("requested_token_type", access_token),
            ("subject_token_type", SUBJECT_TOKEN_TYPE),
            ("subject_token", SUBJECT_TOKEN),
        ];
        let is_form = header(headers, CONTENT_TYPE.as_str()).starts_with("application/x-www-form-urlencoded");
        let wrong = expected.into_iter().find(|(name, value)| field(body, name) != *value);
        let wrong = if is_form { wrong.map(|(name, _)| name) } else { Some("form") };
        if let Some(name) = wrong {
            let description = format!("The {name} is not as it must be.");
            return json_answer(400, &json!({"error": "invalid_grant", "error_description": description}));
        }
        let token = self.token("federated");
        match field(body, "scope").as_str() {
            SCOPE => self.access_tokens.lock().push(token.clone()),
            CLOUD_SCOPE => self.federated.lock().push(token.clone()),
            _ => return json_answer(400, &json!({"error": "invalid_scope"})),
        }
        let answer = json!({
            "access_token": token, "issued_token_type": access_token, "token_type": "Bearer", "expires_in": 3599,
        });
        json_answer(200, &answer)
    }

    fn impersonation(&self, headers: &HeaderMap, body: &[u8]) -> Response<Full<Bytes>> {
        let bearer = header(headers, AUTHORIZATION.as_str()).strip_prefix("Bearer ").unwrap_or_default();
        let is_federated = self.federated.lock().iter().any(|token| token == bearer);
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        if !is_federated || request["scope"] != json!([SCOPE]) || request["lifetime"] != "3600s" {
            let error =
                json!({"code": 403, "status": "PERMISSION_DENIED", "message": "Permission denied on resource."});
            return json_answer(403, &json!({ "error": error }));
        }
        let token = self.token("impersonated");
        self.access_tokens.lock().push(token.clone());
        let now = i64::try_from(unix_seconds()).unwrap_or_default();
        let expires = Timestamp::from_second(now).unwrap_or_default() + SignedDuration::from_secs(3600);
        json_answer(200, &json!({"accessToken": token, "expireTime": expires.to_string()}))
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// A field of a form; empty when it is missing.
fn field(form: &[u8], name: &str) -> String {
    let form = reqwest::Url::parse(&format!("http://form/?{}", String::from_utf8_lossy(form)));
    let value = form.iter().flat_map(|form| form.query_pairs()).find(|(key, _)| key == name);
    value.map(|(_, value)| value.into_owned()).unwrap_or_default()
}
