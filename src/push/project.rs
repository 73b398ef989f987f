//! What the accounts of RuStore and of Huawei have in common: a project whose pushes are JSON, posted to one URL, with a
//! credential in `Authorization`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::Value;

use super::client::Client;
use super::fcm::{http_url, read, roots};
use super::gate::Gate;
use super::http::{self, Answer, shown_id};
use super::oauth::{AccessToken, AccessTokens};
use super::payload::{self, Body};
use super::pushers::Setup;
use super::{Outcome, Preview, Push, Sent, SettingsError, TokenHash, Verdict, clock};
use crate::binding::PushToken;

/// A project ready to push.
pub(super) struct Project {
    /// What `pn-param` may name.
    id: Box<str>,
    url: Url,
    client: Client,
    credential: Credential,
    /// Whether a push was taken since the account was opened: then its settings are right, and what the service says of
    /// a token is about the token.
    takes_pushes: AtomicBool,
    pub(super) gate: Gate,
}

/// What each request is authorized by.
pub(super) enum Credential {
    /// Always the same.
    Static(HeaderValue),
    Access(AccessTokens),
}

/// What one request is authorized by.
enum Authorization {
    Static(HeaderValue),
    Access(Arc<AccessToken>),
}

impl Authorization {
    fn header(&self) -> HeaderValue {
        match self {
            Self::Static(header) => header.clone(),
            Self::Access(token) => token.authorization.clone(),
        }
    }
}

impl Credential {
    /// `Bearer` and what stands in the file, on one line. `key` names the configuration key in errors.
    pub(super) fn bearer(key: &str, file: &Path) -> Result<Self, SettingsError> {
        let content = read(key, file)?;
        let token = std::str::from_utf8(&content).unwrap_or_default().trim();
        let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        let header = HeaderValue::try_from(format!("Bearer {token}")).ok().filter(|_| is_token);
        let mut header = header.ok_or_else(|| SettingsError::file(key, file, "must hold the token, on one line"))?;
        header.set_sensitive(true);
        Ok(Self::Static(header))
    }

    async fn current(&self) -> Result<Authorization, Verdict> {
        match self {
            Self::Static(header) => Ok(Authorization::Static(header.clone())),
            Self::Access(tokens) => Ok(Authorization::Access(tokens.current(clock()).await?)),
        }
    }

    /// Whether there will be another authorization than `refused`.
    fn renew(&self, refused: &Authorization) -> bool {
        match (self, refused) {
            (Self::Access(tokens), Authorization::Access(token)) => {
                tokens.invalidate(token);
                true
            }
            (Self::Access(_) | Self::Static(_), _) => false,
        }
    }
}

/// The client of an account, with the root certificates that its table names.
pub(super) fn client(table: &str, ca_file: Option<&Path>, setup: &Setup) -> Result<Client, SettingsError> {
    let roots = roots(&format!("{table}.ca_file"), ca_file)?;
    Client::new(setup, &roots).map_err(|problem| SettingsError::value(table, problem))
}

/// The address of a service with `path` behind it. `key` names the configuration key in errors.
pub(super) fn url(key: &str, endpoint: &str, path: &[&str]) -> Result<Url, SettingsError> {
    let mut url = http_url(endpoint).ok_or_else(|| SettingsError::value(key, "must be an http:// or https:// URL"))?;
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    Ok(url)
}

impl Project {
    /// `service` and `id` name it to people.
    pub(super) fn new(
        service: &str,
        id: &str,
        url: Url,
        client: Client,
        credential: Credential,
        setup: &Setup,
    ) -> Self {
        let gate = Gate::new(format!("{service} project {id}"), setup.limits);
        Self { id: id.into(), url, client, credential, takes_pushes: AtomicBool::new(false), gate }
    }

    /// Whether `pn-param` names this project.
    pub(super) fn is_named(&self, param: &str) -> bool {
        *self.id == *param
    }

    /// Has a credential and a connection ready before the first push. What fails here fails again with a push, and is
    /// told then.
    pub(super) async fn warm_up(&self) {
        if self.credential.current().await.is_ok() {
            let mut root = self.url.clone();
            root.set_path("/");
            let _ = self.client.answer(self.client.head(root)).await;
        }
    }

    /// One attempt. A stale credential is renewed once and an oversized report shortened once within it. `body` is given
    /// the bytes that it may have.
    pub(super) async fn send(
        &self,
        push: &Push,
        token: &PushToken,
        headers: HeaderMap,
        body: impl Fn(usize) -> Body,
        verdict: impl Fn(&Answer) -> Verdict,
    ) -> Sent {
        let (mut limit, mut renewed) = (payload::BYTES_MAX, false);
        loop {
            let authorization = match self.credential.current().await {
                Ok(authorization) => authorization,
                Err(verdict) => return verdict.sent(0).before_any_push(),
            };
            if push.purpose.is_over() {
                return Sent::unsent(Outcome::Withdrawn);
            }
            let Body { bytes, left_out } = body(limit);
            let (verdict, push_id) = match self.post(bytes, authorization.header(), headers.clone(), token).await {
                Ok(answer) => (verdict(&answer), request_id(&answer)),
                Err(verdict) => (verdict, None),
            };
            if matches!(verdict, Verdict::StaleCredential(_)) && !renewed && self.credential.renew(&authorization) {
                renewed = true;
                continue;
            }
            let is_shorter = limit == payload::BYTES_MAX && push.notice.calls().len() > left_out;
            if matches!(verdict, Verdict::TooLarge(_)) && is_shorter {
                limit /= 2;
                continue;
            }
            if matches!(verdict, Verdict::Final(Outcome::Accepted)) {
                self.takes_pushes.store(true, Ordering::Relaxed);
            }
            return Sent { push_id, ..verdict.sent(left_out) };
        }
    }

    /// What would be sent, with `hash` in the place of the token.
    pub(super) fn preview(&self, hash: TokenHash, headers: &HeaderMap, body: impl FnOnce(&str) -> Body) -> Preview {
        let shown = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        Preview {
            account: self.gate.name().to_owned(),
            token: hash,
            url: self.url.to_string(),
            headers: headers.iter().map(|(name, value)| (name.to_string(), shown(value))).collect(),
            body: String::from_utf8_lossy(&body(&hash.to_string()).bytes).into_owned(),
        }
    }

    /// The service does not know the token. Of one that is gone and of one of another project it says the same: so it
    /// is believed when the account has had a push taken; before that, its settings may be wrong for every phone.
    pub(super) fn unknown_token(&self, reason: String) -> Verdict {
        Verdict::Final(match self.takes_pushes.load(Ordering::Relaxed) {
            true => Outcome::dead(None, reason),
            false => Outcome::misfit(format!("{reason}; no push of this account was taken so far")),
        })
    }

    async fn post(
        &self,
        body: Vec<u8>,
        authorization: HeaderValue,
        headers: HeaderMap,
        token: &PushToken,
    ) -> Result<Answer, Verdict> {
        let request = self
            .client
            .post(self.url.clone())
            .header(AUTHORIZATION, authorization)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .headers(headers)
            .body(body);
        match self.client.answer(request).await {
            Ok(answer) => Ok(answer.without(token)),
            Err(error) => Err(http::no_answer(error)),
        }
    }
}

/// What Huawei calls a push. RuStore does not name one.
fn request_id(answer: &Answer) -> Option<Box<str>> {
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    body.get("requestId").and_then(Value::as_str).and_then(shown_id)
}
