//! The operator's own gateway: each push is a JSON posted to its URL, signed (`[push.callback]`).

use std::path::PathBuf;

use reqwest::Url;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use ring::hmac;
use serde_json::Value;

use super::client::Client;
use super::fcm::{http_url, read, roots};
use super::gate::Gate;
use super::http::{self, Answer};
use super::payload::{self, Body};
use super::pushers::Setup;
use super::{Outcome, Preview, Push, Sent, SettingsError, TokenHash, Verdict};
use crate::binding::PushToken;

const TABLE: &str = "push.callback";
/// `sha256=` and the HMAC-SHA256 (RFC 2104) of the body's bytes, keyed by the secret, in 64 lower-case hexadecimal digits.
const SIGNATURE: HeaderName = HeaderName::from_static("x-signature");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Room for some hundred missed calls.
const BYTES_MAX: usize = 64 * 1024;
/// `device[].type` when pn-param does not say it.
const DEVICE_TYPE: &str = "SIP";

/// The table `[push.callback]`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Never taken from what a phone says.
    pub url: String,
    /// Holds what bodies are signed with; `None`: they are not.
    pub secret_file: Option<PathBuf>,
    /// Root certificates in PEM that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
}

/// The gateway, ready to be posted to.
pub(super) struct Account {
    url: Url,
    secret: Option<hmac::Key>,
    client: Client,
    pub(super) gate: Gate,
}

impl Account {
    pub(super) fn open(settings: &Settings, setup: &Setup) -> Result<Self, SettingsError> {
        let url = http_url(&settings.url)
            .ok_or_else(|| SettingsError::value(format!("{TABLE}.url"), "must be an http:// or https:// URL"))?;
        let roots = roots(&format!("{TABLE}.ca_file"), settings.ca_file.as_deref())?;
        let client = Client::new(setup, &roots).map_err(|problem| SettingsError::value(TABLE, problem))?;
        let secret = settings.secret_file.as_ref().map(|file| {
            let key = format!("{TABLE}.secret_file");
            let content = read(&key, file)?;
            match content.trim_ascii() {
                [] => Err(SettingsError::file(key, file, "is empty; write the secret into it, on one line")),
                secret => Ok(hmac::Key::new(hmac::HMAC_SHA256, secret)),
            }
        });
        let secret = secret.transpose()?;
        let name = format!("callback {}", url.host_str().unwrap_or_default());
        Ok(Self { url, secret, client, gate: Gate::new(name, setup.limits) })
    }

    /// What would be sent, with `hash` in the place of the token. The URL's query may hold a key, and is left out.
    pub(super) fn preview(&self, push: &Push, hash: TokenHash) -> Preview {
        let body = payload::callback(push, device_type(push), &hash.to_string(), BYTES_MAX).bytes;
        let mut url = self.url.clone();
        url.set_query(None);
        Preview {
            account: self.gate.name().to_owned(),
            token: hash,
            url: url.into(),
            headers: Vec::new(),
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    /// One attempt. A report that is too large for the gateway is shortened once within it.
    pub(super) async fn send(&self, push: &Push, token: &PushToken) -> Sent {
        let mut limit = BYTES_MAX;
        loop {
            if push.purpose.is_over() {
                return Sent::unsent(Outcome::Withdrawn);
            }
            let Body { bytes, left_out } = payload::callback(push, device_type(push), token.reveal(), limit);
            let half = bytes.len() / 2;
            let (verdict, push_id) = self.post(bytes, token).await;
            let is_first = limit == BYTES_MAX;
            if matches!(verdict, Verdict::TooLarge(_)) && is_first && push.notice.calls().len() > left_out {
                limit = half;
                continue;
            }
            return Sent { push_id, ..verdict.sent(left_out) };
        }
    }

    /// What came of it, and what the gateway calls the push.
    async fn post(&self, body: Vec<u8>, token: &PushToken) -> (Verdict, Option<Box<str>>) {
        let mut request = self.client.post(self.url.clone()).header(CONTENT_TYPE, JSON).header(ACCEPT, JSON);
        if let Some(secret) = &self.secret {
            request = request.header(SIGNATURE, signature(secret, &body));
        }
        match self.client.answer(request.body(body)).await {
            Ok(answer) => {
                // A token may be a word that is looked for.
                let is_of_token = is_about_the_token(&answer.body);
                let answer = answer.without(token);
                (verdict(&answer, is_of_token), push_id(&answer.body))
            }
            Err(error) => (http::no_answer(error), None),
        }
    }
}

/// The `id` of a JSON, a text or a number.
fn push_id(body: &[u8]) -> Option<Box<str>> {
    let body: Value = serde_json::from_slice(body).ok()?;
    match body.get("id")? {
        Value::String(id) => http::shown_id(id),
        Value::Number(id) => http::shown_id(&id.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn signature(secret: &hmac::Key, body: &[u8]) -> String {
    let tag = hmac::sign(secret, body);
    tag.as_ref().iter().fold("sha256=".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// What the device is, as the operator's systems call it: what the phone says after the last colon of its pn-param, else
/// [`DEVICE_TYPE`]. Whose it is, it has no say in.
fn device_type(push: &Push) -> &str {
    let said = push.target.param.rsplit_once(':').map_or("", |(_, kind)| kind);
    if said.is_empty() { DEVICE_TYPE } else { said }
}

/// `is_of_token`: whether a 404 is about the token.
fn verdict(answer: &Answer, is_of_token: bool) -> Verdict {
    let reason = answer.reason();
    match answer.status {
        200..=299 => Verdict::Final(Outcome::Accepted),
        410 => Verdict::Final(Outcome::dead(None, reason)),
        // Only a 410 ends a binding; a wrong path at the gateway is no word on any token at all.
        404 if is_of_token => {
            Verdict::Final(Outcome::misfit(format!("{reason}; answer 410 where the token is gone for good")))
        }
        404 => Verdict::Locked(format!("{reason}; if it is about the token, answer 410").into()),
        401 | 403 => Verdict::Locked(reason.into()),
        413 => Verdict::TooLarge(reason.into()),
        429 => Verdict::token_limit(answer.retry_after, reason),
        408 | 425 | 500..=599 => Verdict::trouble(answer.retry_after, reason),
        _ => Verdict::Final(Outcome::refused(reason)),
    }
}

/// Whether a 404 is the gateway's word on the token: it has no body, or one that names the token or its device. What web
/// servers say of a path that they do not have is a page, or a text that names neither.
fn is_about_the_token(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body).trim().to_ascii_lowercase();
    let is_page = text.starts_with('<');
    text.is_empty() || !is_page && ["token", "device", "unregistered"].iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::binding::{Aor, Provider, PushTarget, Tokens};
    use crate::clock::UnixMillis;
    use crate::push::{Notice, Purpose, Ticket};
    use crate::store::{BucketEntry, EntryState};

    fn push(param: &str, notice: Notice) -> Push {
        let prid = PushToken::new("tok:1");
        Push {
            ticket: Ticket(1),
            aor: Aor::new("alice", "example.org"),
            target: PushTarget {
                provider: Provider::Callback,
                prid,
                param: param.into(),
                tokens: Tokens::Single,
                others: Box::default(),
            },
            notice,
            date: UnixMillis(1_623_753_491_500),
            ttl: Duration::from_millis(27_500),
            language: None,
            is_repeat: false,
            purpose: Purpose::default(),
        }
    }

    fn body(push: &Push) -> String {
        String::from_utf8(payload::callback(push, device_type(push), "tok:1", BYTES_MAX).bytes).unwrap()
    }

    #[test]
    fn bodies() {
        let invite = Notice::Invite { number: "103".into(), display_name: "Ivan".into(), call_ref: "c1".into() };
        assert_eq!(
            body(&push("", invite)),
            r#"{"user":{"user_id":"alice"},"device":[{"device_token":"tok:1","type":"SIP"}],"notification":{"type":"invite","date":1623753491,"number":"103","call_ref":"c1","uuid":"d0f631ca-1ddb-88db-bbcf-cb9e057cdc98","display_name":"Ivan","sent_at":1623753491500,"ttl":28}}"#
        );
        assert_eq!(
            body(&push("123:IOS", Notice::Message)),
            r#"{"user":{"user_id":"alice"},"device":[{"device_token":"tok:1","type":"IOS","pn_param":"123:IOS"}],"notification":{"type":"message","date":1623753491,"ttl":28}}"#
        );
        let entry = BucketEntry {
            call_ref: "c1".into(),
            remote_uri: "103".into(),
            display_name: "Ivan".into(),
            anonymous: false,
            invited_at: UnixMillis(1_623_753_480_000),
            state: EntryState::Missed,
        };
        assert_eq!(
            body(&push("123", Notice::MissedCalls(vec![entry]))),
            r#"{"user":{"user_id":"alice"},"device":[{"device_token":"tok:1","type":"SIP","pn_param":"123"}],"notification":{"type":"missed_calls","date":1623753491,"calls":[{"id":0,"remote_uri":"103","date":1623753480,"call_ref":"c1","display_name":"Ivan"}],"ttl":28}}"#
        );
    }

    #[test]
    fn pn_param_names_the_type_alone() {
        for (param, kind) in [("", "SIP"), ("123", "SIP"), (":IOS", "IOS"), ("a:b:IOS", "IOS"), ("123:", "SIP")] {
            let push = push(param, Notice::Message);
            assert_eq!(device_type(&push), kind, "{param}");
            assert!(body(&push).starts_with(r#"{"user":{"user_id":"alice"},"#), "{param}");
        }
    }

    #[test]
    fn signature_is_what_openssl_makes() {
        // printf '{"a":1}' | openssl dgst -sha256 -hmac secret
        let secret = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        assert_eq!(
            signature(&secret, br#"{"a":1}"#),
            "sha256=aa9e2e3575f5d7098b6caccd790888c36d5fdb63342a73bada2d6a51747a8494"
        );
    }

    #[test]
    fn a_404_is_about_the_token_or_about_the_path() {
        for dead in ["", r#"{"error":"unknown token"}"#, r#"{"code":"UNREGISTERED"}"#, "no such device"] {
            assert!(is_about_the_token(dead.as_bytes()), "{dead}");
        }
        let page = r#"<html><meta name="viewport" content="width=device-width">"#;
        for path in [page, "404 page not found", r#"{"detail":"Not Found"}"#] {
            assert!(!is_about_the_token(path.as_bytes()), "{path}");
        }
    }
}
