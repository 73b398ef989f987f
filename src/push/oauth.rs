//! Access tokens, however they are granted, and those of Google's service accounts (RFC 7523 §2.1; Google, "Using OAuth 2.0
//! for server to server applications").
//!
//! A token is fetched by one push while the others wait for it, and renewed in the background before it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use super::client::Client;
use super::client_credentials::ClientCredentials;
use super::external_account::ExternalAccount;
use super::http::{self, Answer};
use super::jwt::SigningKey;
use super::metadata::MetadataServer;
use super::oauth_answer::refusal;
use super::self_signed::SelfSigned;
use super::{Verdict, clock};
use crate::clock::Now;

pub(super) const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// Google refuses assertions that live longer.
const ASSERTION_LIFETIME_S: u64 = 3600;
/// What Google grants, where its answer does not say.
const LIFETIME_DEFAULT_S: u64 = 3600;
/// A token that is said to live longer is renewed then.
const LIFETIME_MAX: Duration = Duration::from_secs(365 * 86_400);
/// How long before its end a token is renewed, if it lives at least twice as long.
const RENEW_EARLY: Duration = Duration::from_secs(300);
/// Pause after a renewal that failed while the old token is still good.
const RENEW_PAUSE: Duration = Duration::from_secs(10);

/// A service account's key file, as Firebase's console exports it.
#[derive(Clone, Deserialize)]
pub(super) struct ServiceAccount {
    pub(super) project_id: Box<str>,
    pub(super) client_email: Box<str>,
    pub(super) private_key: Box<str>,
    #[serde(default)]
    pub(super) private_key_id: Box<str>,
    #[serde(default = "google_token_uri")]
    pub(super) token_uri: Box<str>,
}

fn google_token_uri() -> Box<str> {
    "https://oauth2.googleapis.com/token".into()
}

/// How access tokens are come by.
pub(super) enum Grant {
    /// For an assertion that a service account's key signs.
    Assertion(Box<Assertion>),
    /// For a client's secret.
    ClientCredentials(ClientCredentials),
    /// By the machine that this program runs on.
    Metadata(MetadataServer),
    /// For the token of another identity provider.
    External(Box<ExternalAccount>),
    /// By this program itself.
    SelfSigned(SelfSigned),
}

/// A service account that is known by its key.
pub(super) struct Assertion {
    pub(super) account: ServiceAccount,
    pub(super) key: SigningKey,
    pub(super) token_uri: Url,
}

/// The access tokens of one account.
#[derive(Clone)]
pub(super) struct AccessTokens(Arc<Inner>);

struct Inner {
    grant: Grant,
    client: Client,
    timeout: Duration,
    cached: Mutex<Cached>,
    /// Held by the one fetch that may be under way.
    fetching: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Cached {
    token: Option<Arc<AccessToken>>,
    /// Why the last fetch brought no token.
    failure: Option<Failure>,
    /// Fetches that ended. It has moved when a fetch that somebody waited for is over.
    fetches: u64,
    renew_not_before: Option<Instant>,
}

/// The value of an `Authorization` header.
pub(super) struct AccessToken {
    pub(super) authorization: HeaderValue,
    renew_at: Instant,
    expires_at: Instant,
}

/// Why there is no token: passing trouble, or an account that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure(pub(super) Verdict);

impl From<Failure> for Verdict {
    fn from(failure: Failure) -> Self {
        failure.0
    }
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    typ: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    kid: &'a str,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'static str,
    aud: &'a str,
    iat: u64,
    exp: u64,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: Option<u64>,
}

impl AccessTokens {
    pub(super) fn new(grant: Grant, client: Client, timeout: Duration) -> Self {
        let (cached, fetching) = (Mutex::default(), Arc::default());
        Self(Arc::new(Inner { grant, client, timeout, cached, fetching }))
    }

    /// A token that is good at `now`. Callers that come while it is fetched share that fetch and what comes of it.
    pub(super) async fn current(&self, now: Now) -> Result<Arc<AccessToken>, Failure> {
        let inner = &self.0;
        let seen = {
            let cached = inner.cached.lock();
            if let Some(token) = cached.good(now) {
                if cached.is_renewal_due(token, now)
                    && let Ok(turn) = Arc::clone(&inner.fetching).try_lock_owned()
                {
                    tokio::spawn(Arc::clone(inner).fetch(turn));
                }
                return Ok(Arc::clone(token));
            }
            cached.fetches
        };
        let turn = Arc::clone(&inner.fetching).lock_owned().await;
        {
            let cached = inner.cached.lock();
            if let Some(token) = cached.good(now) {
                return Ok(Arc::clone(token));
            }
            if cached.fetches != seen
                && let Some(failure) = &cached.failure
            {
                return Err(failure.clone());
            }
        }
        // In a task of its own, so that a push whose time is over does not end the fetch that others wait for.
        let fetch = tokio::spawn(Arc::clone(inner).fetch(turn));
        fetch.await.unwrap_or_else(|_| Err(Failure(Verdict::trouble(None, "the access token fetch was stopped"))))
    }

    /// Forgets `token` because it was refused before its time.
    pub(super) fn invalidate(&self, token: &Arc<AccessToken>) {
        self.0.cached.lock().token.take_if(|cached| Arc::ptr_eq(cached, token));
    }
}

impl Cached {
    fn good(&self, now: Now) -> Option<&Arc<AccessToken>> {
        self.token.as_ref().filter(|token| now.instant < token.expires_at)
    }

    fn is_renewal_due(&self, token: &AccessToken, now: Now) -> bool {
        now.instant >= token.renew_at && self.renew_not_before.is_none_or(|time| now.instant >= time)
    }
}

impl Inner {
    async fn fetch(self: Arc<Self>, turn: OwnedMutexGuard<()>) -> Result<Arc<AccessToken>, Failure> {
        let result = match tokio::time::timeout(self.timeout, self.request()).await {
            Ok(result) => result,
            Err(_) => Err(Failure(Verdict::trouble(None, "the token endpoint does not answer"))),
        };
        let mut cached = self.cached.lock();
        cached.fetches += 1;
        match &result {
            Ok(token) => {
                cached.token = Some(Arc::clone(token));
                cached.failure = None;
            }
            Err(failure) => {
                tracing::debug!(reason = ?failure.0, "no access token");
                cached.failure = Some(failure.clone());
                cached.renew_not_before = Some(clock().instant + RENEW_PAUSE);
            }
        }
        // The next in turn finds what this fetch left.
        drop(cached);
        drop(turn);
        result
    }

    async fn request(&self) -> Result<Arc<AccessToken>, Failure> {
        let now = clock();
        let token = match &self.grant {
            Grant::Assertion(account) => account.request(&self.client, now).await,
            Grant::ClientCredentials(of_client) => of_client.request(&self.client, now).await,
            Grant::Metadata(server) => server.request(&self.client, now).await,
            Grant::External(account) => account.request(&self.client, now).await,
            Grant::SelfSigned(account) => account.sign(now),
        };
        token.map(Arc::new)
    }
}

impl Assertion {
    async fn request(&self, client: &Client, now: Now) -> Result<AccessToken, Failure> {
        let assertion = self.assertion(now)?;
        let form = [("grant_type", GRANT_TYPE), ("assertion", assertion.as_str())];
        let answer = match client.answer(client.post(self.token_uri.clone()).form(&form)).await {
            Ok(answer) => answer,
            Err(error) => return Err(Failure(http::no_answer(error))),
        };
        granted(&answer, now)
    }

    fn assertion(&self, now: Now) -> Result<String, Failure> {
        let iat = now.unix.seconds();
        let claims = Claims {
            iss: &self.account.client_email,
            scope: SCOPE,
            aud: &self.account.token_uri,
            iat,
            exp: iat.saturating_add(ASSERTION_LIFETIME_S),
        };
        let header = Header { alg: "RS256", typ: "JWT", kid: &self.account.private_key_id };
        self.key.sign(&header, &claims).map_err(|error| Failure(Verdict::Locked(error.to_string().into())))
    }
}

/// What the token endpoint's answer gives from `now` on.
pub(super) fn granted(answer: &Answer, now: Now) -> Result<AccessToken, Failure> {
    if answer.status != 200 {
        let reason = refusal(answer, now);
        return Err(Failure(match answer.status {
            408 | 429 | 500.. => Verdict::trouble(answer.retry_after, reason),
            _ => Verdict::Locked(reason.into()),
        }));
    }
    let unfit = || Failure(Verdict::trouble(None, "token endpoint: 200 without an access token"));
    let granted: Granted = serde_json::from_slice(&answer.body).map_err(|_| unfit())?;
    let lifetime = Duration::from_secs(granted.expires_in.unwrap_or(LIFETIME_DEFAULT_S));
    AccessToken::new(&granted.access_token, lifetime, now).ok_or_else(unfit)
}

impl AccessToken {
    /// `None` when `token` cannot stand in a header.
    pub(super) fn new(token: &str, lifetime: Duration, now: Now) -> Option<Self> {
        let mut authorization = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
        authorization.set_sensitive(true);
        let lifetime = lifetime.min(LIFETIME_MAX);
        let renew_after = lifetime.saturating_sub(RENEW_EARLY).max(lifetime / 2);
        Some(Self { authorization, renew_at: now.instant + renew_after, expires_at: now.instant + lifetime })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::fcm_double::FcmDouble;
    use crate::push::pushers::Setup;

    fn tokens(double: &FcmDouble) -> AccessTokens {
        let account: ServiceAccount = serde_json::from_str(&double.service_account()).unwrap();
        let key = SigningKey::rs256(account.private_key.as_bytes()).unwrap();
        let token_uri = Url::parse(&account.token_uri).unwrap();
        let timeout = Duration::from_secs(5);
        let client = Client::new(&Setup { timeout, ..Setup::default() }, &[]).unwrap();
        AccessTokens::new(Grant::Assertion(Box::new(Assertion { account, key, token_uri })), client, timeout)
    }

    #[tokio::test]
    async fn token_is_cached_and_renewed_in_the_background_before_it_ends() {
        let double = FcmDouble::start().await.unwrap();
        let tokens = tokens(&double);
        let now = clock();
        let first = tokens.current(now).await.unwrap();
        let later = now.after(Duration::from_secs(3599 - 300 - 1));
        assert!(Arc::ptr_eq(&tokens.current(later).await.unwrap(), &first));
        assert_eq!(double.token_fetches(), 1);

        // Renewal is due: the old one is served, the new one is on its way.
        let due = now.after(Duration::from_secs(3599 - 300 + 1));
        assert!(Arc::ptr_eq(&tokens.current(due).await.unwrap(), &first));
        drop(tokens.0.fetching.lock().await);
        let second = tokens.current(due).await.unwrap();
        assert_ne!(first.authorization, second.authorization);
        assert_eq!(double.token_fetches(), 2);
    }

    #[tokio::test]
    async fn failed_renewal_leaves_the_old_token_in_use() {
        let double = FcmDouble::start().await.unwrap();
        let tokens = tokens(&double);
        let now = clock();
        let first = tokens.current(now).await.unwrap();
        double.refuse_tokens(Some(503));
        let due = now.after(Duration::from_secs(3400));
        for _ in 0..3 {
            assert!(Arc::ptr_eq(&tokens.current(due).await.unwrap(), &first));
            drop(tokens.0.fetching.lock().await);
        }
        let Err(failure) = tokens.current(now.after(Duration::from_secs(3600))).await else { panic!() };
        assert_eq!(failure.0, Verdict::trouble(None, "token endpoint: 503"));
    }

    #[tokio::test]
    async fn waiters_share_a_failure_and_the_next_caller_tries_again() {
        let double = FcmDouble::start().await.unwrap();
        let tokens = tokens(&double);
        double.refuse_tokens(Some(400));
        let now = clock();
        let waiting: Vec<_> = (0..20)
            .map(|_| (tokens.clone(), now))
            .map(|(tokens, now)| async move { tokens.current(now).await })
            .collect();
        let mut tasks = tokio::task::JoinSet::new();
        waiting.into_iter().for_each(|caller| drop(tasks.spawn(caller)));
        for result in tasks.join_all().await {
            assert!(matches!(result, Err(Failure(Verdict::Locked(_)))));
        }
        assert_eq!(double.token_fetches(), 1);
        double.refuse_tokens(None);
        assert!(tokens.current(now).await.is_ok());
        assert_eq!(double.token_fetches(), 2);
    }

    #[test]
    fn short_lived_tokens_are_renewed_at_half_their_life() {
        let now = clock();
        let answer = |expires_in: u64| Answer {
            status: 200,
            retry_after: None,
            push_id: None,
            body: format!(r#"{{"access_token":"a","expires_in":{expires_in},"token_type":"Bearer"}}"#).into_bytes(),
        };
        let token = granted(&answer(400), now).ok().unwrap();
        assert_eq!(token.renew_at, now.instant + Duration::from_secs(200));
        assert_eq!(token.expires_at, now.instant + Duration::from_secs(400));
        assert!(granted(&answer(u64::MAX), now).is_ok());
    }
}
