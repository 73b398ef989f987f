//! A double of Huawei's Push Kit for phones with Android, and of Huawei's token endpoint, over real HTTP on loopback.
//!
//! It is as strict as its original: access token, path, fields and their types are checked before a script has its say.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::service_double::{Answer, Asked, Refusal, Service, ServiceDouble, is_duration, json_answer};

/// The project that the double serves.
pub const PROJECT_ID: &str = "388421841221000001";
/// By which it knows the proxy.
pub const CLIENT_ID: &str = "102345678";
/// Known to everybody who has the program: it opens nothing.
const CLIENT_SECRET: &str = "throwaway-client-secret";
const TOKEN_PATH: &str = "/oauth2/v3/token";
const BODY_BYTES_MAX: usize = 4096;

/// Runs until it is dropped.
#[derive(Debug)]
pub struct HmsDouble {
    /// Where pushes come in.
    pub service: ServiceDouble,
    tokens: Arc<Tokens>,
}

#[derive(Debug, Default)]
struct Tokens {
    given: Mutex<Vec<String>>,
    fetches: AtomicUsize,
}

impl HmsDouble {
    /// On a free port of 127.0.0.1.
    pub async fn start() -> io::Result<Self> {
        let tokens = Arc::<Tokens>::default();
        let known = Arc::clone(&tokens);
        let look = move |asked: &Asked| look(asked, &known);
        let accepted = json!({"code": "80000000", "msg": "Success", "requestId": "157440955549500001002006"});
        let service = ServiceDouble::start(Service { look: Box::new(look), accepted }).await?;
        Ok(Self { service, tokens })
    }

    /// For `push.hms.token_endpoint`.
    pub fn token_endpoint(&self) -> String {
        format!("{}{TOKEN_PATH}", self.service.url())
    }

    /// Writes the client secret to `hms.secret` in `folder`.
    pub fn write_credentials(&self, folder: &Path) -> io::Result<PathBuf> {
        let file = folder.join("hms.secret");
        std::fs::write(&file, format!("{CLIENT_SECRET}\n"))?;
        Ok(file)
    }

    /// How often an access token was asked for.
    pub fn token_fetches(&self) -> usize {
        self.tokens.fetches.load(Ordering::Relaxed)
    }

    /// No access token given so far is good any more.
    pub fn revoke_access_tokens(&self) {
        self.tokens.given.lock().clear();
    }
}

/// A code, as the service says it: with HTTP 200.
pub fn code(code: &str, message: &str) -> Answer {
    Answer::Raw { status: 200, headers: Vec::new(), body: said(code, message).to_string() }
}

fn said(code: &str, message: &str) -> Value {
    json!({"code": code, "msg": message, "requestId": "157440955549500001002006"})
}

fn look(asked: &Asked, tokens: &Tokens) -> Result<String, Refusal> {
    if asked.path == TOKEN_PATH {
        return Err(token(asked, tokens));
    }
    let refused = |status, code, message: &str| Box::new(json_answer(status, &said(code, message)));
    if !tokens.given.lock().iter().any(|given| given == asked.bearer()) {
        return Err(refused(401, "80200003", "OAuth token expired."));
    }
    if ![format!("/v2/{PROJECT_ID}/messages:send"), format!("/v1/{CLIENT_ID}/messages:send")].contains(&asked.path) {
        return Err(Box::new(json_answer(404, &json!({}))));
    }
    let request = asked.json();
    let wrong = |what: &str| refused(400, "80100003", what);
    let message = request.get("message").and_then(Value::as_object).ok_or_else(|| wrong("message is required"))?;
    let is_known = |key: &String| ["data", "notification", "android", "token"].contains(&key.as_str());
    if let Some(unknown) = message.keys().find(|key| !is_known(key)) {
        return Err(wrong(&format!("message has the field {unknown}")));
    }
    if message.get("data").is_some_and(|data| !data.is_string()) {
        return Err(wrong("data should be a string"));
    }
    let android = message.get("android").unwrap_or(&Value::Null);
    if android.get("ttl").is_some_and(|ttl| !is_duration(ttl)) {
        return Err(wrong("ttl format is invalid"));
    }
    if android.get("urgency").is_some_and(|urgency| urgency != "HIGH" && urgency != "NORMAL") {
        return Err(wrong("urgency should be in [HIGH, NORMAL]"));
    }
    if android.get("notification").is_some_and(|notification| notification.get("click_action").is_none()) {
        return Err(wrong("click_action is required"));
    }
    let [Value::String(token)] = message.get("token").and_then(Value::as_array).map_or(&[][..], Vec::as_slice) else {
        return Err(refused(400, "80300010", "the number of tokens"));
    };
    if asked.body.len().saturating_sub(token.len()) > BODY_BYTES_MAX {
        return Err(refused(400, "80300008", "the message is larger than 4096 bytes"));
    }
    Ok(token.clone())
}

/// RFC 6749 §4.4, with Huawei's errors.
fn token(asked: &Asked, tokens: &Tokens) -> Refusal {
    let fetches = tokens.fetches.fetch_add(1, Ordering::Relaxed) + 1;
    let form = reqwest::Url::parse(&format!("http://form/?{}", String::from_utf8_lossy(&asked.body)));
    let field = |name: &str| {
        let form = form.as_ref().ok()?;
        form.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    };
    let fields = ["grant_type", "client_id", "client_secret"].map(|name| field(name).unwrap_or_default());
    if fields != ["client_credentials", CLIENT_ID, CLIENT_SECRET] {
        let error = json!({"sub_error": 20044, "error": 1101, "error_description": "The client secret is invalid"});
        return Box::new(json_answer(400, &error));
    }
    // They have characters of base64, and slashes that are escaped.
    let access_token = format!("CgB6e3x9/double+{fetches}==");
    tokens.given.lock().push(access_token.clone());
    Box::new(json_answer(200, &json!({"access_token": access_token, "expires_in": 3600, "token_type": "Bearer"})))
}
