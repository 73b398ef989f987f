//! Web Push (RFC 8030), with the key that push services know us by (VAPID, RFC 8292).
//!
//! A push has a body, encrypted for the browser (RFC 8291), where the keys of the subscription are known. A REGISTER hands
//! over the subscription's URI alone (RFC 8599 §12): such a browser learns by SIP what it is woken for.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Serialize;

use super::client::Client;
use super::dial::HttpsProxy;
use super::encryption::{self, EncryptionError};
use super::fcm::{read, roots};
use super::gate::Gate;
use super::http::{self, Answer};
use super::identity;
use super::jwt::{SigningError, SigningKey};
use super::outside::{self, Outside};
use super::payload::{self, Body, FcmPayload};
use super::pushers::Setup;
use super::{NoticeKind, Outcome, Preview, Push, Sent, SettingsError, TokenHash, Trouble, Verdict, clock};
use crate::binding::{PushTarget, PushToken, SubscriptionKeys};
use crate::clock::UnixMillis;

const TABLE: &str = "push.webpush";
/// RFC 8030 §5.2.
const TTL: HeaderName = HeaderName::from_static("ttl");
/// RFC 8030 §5.3.
const URGENCY: HeaderName = HeaderName::from_static("urgency");
/// RFC 8030 §5.4.
const TOPIC: HeaderName = HeaderName::from_static("topic");
/// A browser may be closed for a day and still tell of the calls that it missed.
const MISSED_CALLS_TTL_S: u64 = 86_400;
/// A token is sent for the first half of its life. A day would be the most (RFC 8292 §2).
const TOKEN_LIFE_S: u64 = 12 * 3600;
/// Longest part of a phone's URI that is shown.
const HOST_BYTES_MAX: usize = 100;

/// The table `[push.webpush]`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A P-256 key in PKCS#8 and PEM.
    pub vapid_key_file: PathBuf,
    /// Whom a push service may write to: `mailto:` or `https:` (RFC 8292 §2.1).
    pub subject: String,
    pub allowed_hosts: Vec<AllowedHost>,
    /// Root certificates in PEM that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// What bodies tell of a call.
    pub payload: FcmPayload,
}

/// A push service that may be contacted. Subscriptions are what phones say; without this, a phone could have us send
/// requests wherever it likes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost {
    /// In lower case; an IPv6 address in brackets.
    pub host: Box<str>,
    /// Whether names below `host` are meant, and not `host` itself.
    pub is_suffix: bool,
    /// `None`: the scheme's own.
    pub port: Option<u16>,
    /// Whether it is this machine, which is reached without TLS, too.
    pub is_loopback: bool,
}

impl AllowedHost {
    fn admits(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        let is_host = match self.is_suffix {
            true => host.strip_suffix(&*self.host).is_some_and(|start| start.len() > 1 && start.ends_with('.')),
            false => host == &*self.host,
        };
        let (port, own) = match url.scheme() {
            "https" => (url.port_or_known_default(), 443),
            "http" if self.is_loopback => (url.port_or_known_default(), 80),
            _ => return false,
        };
        is_host && port == Some(self.port.unwrap_or(own))
    }
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = if self.is_suffix { "*." } else { "" };
        write!(f, "{start}{}", self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// All push services, ready to be posted to.
pub(super) struct Account {
    client: Client,
    /// For names that only a pattern allows and that no proxy looks up: it connects to public addresses alone.
    guarded: Client,
    /// It is the proxy that looks names up, and that says what may be reached.
    https_proxy: Option<HttpsProxy>,
    vapid: Vapid,
    payload: FcmPayload,
    /// As many as there are allowed hosts, so that one that hangs or fails is left alone for itself.
    services: Vec<Service>,
}

/// One allowed host.
pub(super) struct Service {
    allowed: AllowedHost,
    token: Mutex<Option<Token>>,
    /// Whether it has taken a push that was signed by our key.
    knows_us: AtomicBool,
    pub(super) gate: Gate,
}

/// A subscription whose service may be contacted.
pub(super) struct Subscription<'a> {
    pub(super) service: &'a Service,
    pub(super) token: &'a PushToken,
    keys: Option<&'a SubscriptionKeys>,
    url: Url,
}

/// What signs our pushes.
struct Vapid {
    key: SigningKey,
    /// The public key in base64url, as in `+sip.vapid` and `k`.
    public: Box<str>,
    subject: Box<str>,
}

/// The value of an `authorization` header for one origin.
struct Token {
    origin: String,
    authorization: HeaderValue,
    /// In seconds since 1970.
    expires_at: u64,
}

#[derive(Serialize)]
struct Header {
    typ: &'static str,
    alg: &'static str,
}

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    exp: u64,
    sub: &'a str,
}

impl Account {
    pub(super) fn open(settings: &Settings, setup: &Setup) -> Result<Self, SettingsError> {
        let key = format!("{TABLE}.vapid_key_file");
        let file = &settings.vapid_key_file;
        let wrong = |problem: &dyn fmt::Display| SettingsError::file(&key, file, problem.to_string());
        let signing_key = SigningKey::es256(&read(&key, file)?).map_err(|error| wrong(&error))?;
        let public = signing_key.public_point().ok_or_else(|| wrong(&"it is not a P-256 key"))?;
        let roots = roots(&format!("{TABLE}.ca_file"), settings.ca_file.as_deref())?;
        let problem = |problem| SettingsError::value(TABLE, problem);
        let client = Client::new(setup, &roots).map_err(problem)?;
        let direct = Setup { https_proxy: None, ..setup.clone() };
        let guarded = Client::resolving(Arc::new(Outside), &direct, &roots).map_err(problem)?;
        let service = |allowed: &AllowedHost| Service {
            gate: match Gate::new(format!("webpush {allowed}"), setup.limits) {
                gate if allowed.is_suffix => gate.of_many_hosts(),
                gate => gate,
            },
            allowed: allowed.clone(),
            token: Mutex::new(None),
            knows_us: AtomicBool::new(false),
        };
        Ok(Self {
            client,
            guarded,
            https_proxy: setup.https_proxy.clone(),
            payload: settings.payload,
            vapid: Vapid {
                public: URL_SAFE_NO_PAD.encode(public).into(),
                subject: settings.subject.as_str().into(),
                key: signing_key,
            },
            services: settings.allowed_hosts.iter().map(service).collect(),
        })
    }

    /// For `+sip.vapid` (RFC 8599 §8.3).
    pub(super) fn public_key(&self) -> &str {
        &self.vapid.public
    }

    pub(super) fn gates(&self) -> impl Iterator<Item = &Gate> {
        self.services.iter().map(|service| &service.gate)
    }

    /// Whether the URI that a phone gives is one to post to; else why not, without its path, which is a secret.
    pub(super) fn subscription<'a>(&'a self, target: &'a PushTarget) -> Result<Subscription<'a>, String> {
        let (token, keys) = (&target.prid, target.keys());
        if keys.is_some_and(|keys| !encryption::is_usable(keys)) {
            return Err("the subscription's p256dh is no public key".to_owned());
        }
        let url = Url::parse(token.reveal()).ok().filter(|url| url.has_host() && !is_authenticated(url));
        let Some(mut url) = url else {
            return Err("pn-prid is not the URI of a push subscription".to_owned());
        };
        let Some(service) = self.services.iter().find(|service| service.allowed.admits(&url)) else {
            let origin = url.origin().ascii_serialization();
            let origin = origin.get(..origin.floor_char_boundary(HOST_BYTES_MAX)).unwrap_or_default();
            return Err(format!("push.webpush.allowed_hosts does not have {origin:?}"));
        };
        url.set_fragment(None);
        Ok(Subscription { service, token, keys, url })
    }

    /// What would be sent, before it is encrypted; the subscription's URI is a secret beyond its origin.
    pub(super) fn preview(&self, push: &Push, subscription: &Subscription<'_>, hash: TokenHash) -> Preview {
        let body =
            subscription.keys.map(|_| self.body(push, encryption::PLAINTEXT_BYTES_MAX).bytes).unwrap_or_default();
        let coding = subscription.keys.map(|_| (CONTENT_ENCODING, encryption::CODING.to_owned()));
        let headers = headers(push).into_iter().chain(coding);
        Preview {
            account: subscription.service.gate.name().to_owned(),
            token: hash,
            url: format!("{}/{hash}", subscription.url.origin().ascii_serialization()),
            headers: headers.map(|(name, value)| (name.to_string(), value)).collect(),
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    /// One attempt. A report that is too large for the service is shortened once within it.
    pub(super) async fn send(&self, push: &Push, subscription: &Subscription<'_>) -> Sent {
        let mut limit = encryption::PLAINTEXT_BYTES_MAX;
        loop {
            let (body, left_out) = match subscription.keys.map(|keys| self.encrypted(push, keys, limit)).transpose() {
                Ok(body) => body.unwrap_or_default(),
                Err(error) => return Sent::unsent(Outcome::refused(error.to_string())),
            };
            let (verdict, push_id) = self.post(push, subscription, body).await;
            let is_first = limit == encryption::PLAINTEXT_BYTES_MAX;
            let is_shorter = subscription.keys.is_some() && push.notice.calls().len() > left_out;
            if matches!(verdict, Verdict::TooLarge(_)) && is_first && is_shorter {
                limit /= 2;
                continue;
            }
            return Sent { push_id, ..verdict.sent(left_out) };
        }
    }

    fn body(&self, push: &Push, limit: usize) -> Body {
        payload::web_push(push, self.payload, limit)
    }

    /// The body, and how many missed calls it does not tell.
    fn encrypted(
        &self,
        push: &Push,
        keys: &SubscriptionKeys,
        limit: usize,
    ) -> Result<(Vec<u8>, usize), EncryptionError> {
        let Body { bytes, left_out } = self.body(push, limit);
        Ok((encryption::encrypted(bytes, keys)?, left_out))
    }

    /// What came of it, and what the service calls the push. An empty body is none.
    async fn post(&self, push: &Push, subscription: &Subscription<'_>, body: Vec<u8>) -> (Verdict, Option<Box<str>>) {
        let Subscription { service, token, url, keys: _ } = subscription;
        let Ok(authorization) = self.authorization(service, url) else {
            return (Verdict::Locked(SigningError.to_string().into()), None);
        };
        if push.purpose.is_over() {
            return (Verdict::Withdrawn, None);
        }
        let client = self.client_for(service, url);
        let request = client.post(url.clone()).header(AUTHORIZATION, authorization);
        let request = headers(push).into_iter().fold(request, |request, (name, value)| request.header(name, value));
        let request = match body.is_empty() {
            true => request.header(CONTENT_LENGTH, 0),
            false => request
                .header(CONTENT_ENCODING, encryption::CODING)
                .header(CONTENT_TYPE, "application/octet-stream")
                .body(body),
        };
        match client.answer(request).await {
            Ok(answer) => {
                let last = url.path_segments().and_then(|mut segments| segments.next_back()).unwrap_or_default();
                let parts = [url.path(), last, url.query().unwrap_or_default()].map(PushToken::new);
                let answer = parts.iter().fold(answer.without(token), Answer::without);
                (service.verdict(&answer), answer.push_id)
            }
            Err(error) if outside::leads_inside(&error) => {
                (Verdict::Final(Outcome::misfit("the subscription's host has no public address")), None)
            }
            Err(error) => (http::no_answer(error), None),
        }
    }

    fn client_for(&self, service: &Service, url: &Url) -> &Client {
        let is_by_proxy = self.https_proxy.as_ref().is_some_and(|proxy| proxy.on_the_way_to(url).is_some());
        if service.allowed.is_suffix && !is_by_proxy { &self.guarded } else { &self.client }
    }

    fn authorization(&self, service: &Service, url: &Url) -> Result<HeaderValue, SigningError> {
        let origin = url.origin().ascii_serialization();
        let now = clock().unix;
        let mut kept = service.token.lock();
        if let Some(token) = &*kept
            && token.origin == origin
            && token.is_fresh(now)
        {
            return Ok(token.authorization.clone());
        }
        let token = self.vapid.token(origin, now)?;
        let authorization = token.authorization.clone();
        *kept = Some(token);
        Ok(authorization)
    }
}

impl Vapid {
    /// RFC 8292 §2, §3.
    fn token(&self, origin: String, now: UnixMillis) -> Result<Token, SigningError> {
        let expires_at = now.seconds() + TOKEN_LIFE_S;
        let claims = Claims { aud: &origin, exp: expires_at, sub: &self.subject };
        let jwt = self.key.sign(&Header { typ: "JWT", alg: "ES256" }, &claims)?;
        let authorization = HeaderValue::try_from(format!("vapid t={jwt}, k={}", self.public));
        let mut authorization = authorization.map_err(|_| SigningError)?;
        authorization.set_sensitive(true);
        Ok(Token { origin, authorization, expires_at })
    }
}

impl Token {
    /// By the wall clock, as the service sees it; also after the clock was set.
    fn is_fresh(&self, now: UnixMillis) -> bool {
        let left = self.expires_at.saturating_sub(now.seconds());
        (TOKEN_LIFE_S / 2..=TOKEN_LIFE_S).contains(&left)
    }
}

impl Service {
    fn verdict(&self, answer: &Answer) -> Verdict {
        let reason = answer.reason();
        match answer.status {
            200..=299 => {
                self.knows_us.store(true, Ordering::Relaxed);
                Verdict::Final(Outcome::Accepted)
            }
            // RFC 8030 §7.3.
            404 | 410 => Verdict::Final(Outcome::dead(None, reason)),
            // RFC 8292 §4.2. A service that has taken our key means this subscription: it was made for another key, and
            // others are none the worse for it. Of the token's form or its dates the services speak as of a JWT.
            401 | 403 if self.knows_us.load(Ordering::Relaxed) && !says_jwt(answer) => {
                Verdict::Final(Outcome::refused(reason))
            }
            401 | 403 if says_jwt(answer) => Verdict::Locked(reason.into()),
            401 | 403 => Verdict::Suspect(reason.into()),
            413 => Verdict::TooLarge(reason.into()),
            // RFC 8030 §8.4: each subscription has a rate of its own.
            429 => Verdict::token_limit(answer.retry_after, reason),
            // So ntfy answers for a topic that nobody has subscribed to lately.
            507 => Verdict::Final(Outcome::try_again(Trouble::Failing, answer.retry_after, reason)),
            408 | 425 | 500..=599 => Verdict::trouble(answer.retry_after, reason),
            _ => Verdict::Final(Outcome::refused(reason)),
        }
    }
}

fn says_jwt(answer: &Answer) -> bool {
    answer.body.windows(3).any(|word| word.eq_ignore_ascii_case(b"jwt"))
}

fn is_authenticated(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// How long a service may try, and how hard.
fn headers(push: &Push) -> Vec<(HeaderName, String)> {
    match push.notice.kind() {
        // What is left of the wait. The last three are not sent at all.
        NoticeKind::Invite | NoticeKind::Message | NoticeKind::CallEnded | NoticeKind::Register | NoticeKind::Test => {
            let urgent = [(TTL, payload::seconds(push).to_string()), (URGENCY, "high".to_owned())];
            // A repetition takes the place of one that is not delivered yet. A topic has 32 characters at most.
            let topic = push.is_repeat.then(|| (TOPIC, identity::of(push, &push.target.prid).replace('-', "")));
            urgent.into_iter().chain(topic).collect()
        }
        NoticeKind::Text => vec![(TTL, payload::seconds(push).to_string()), (URGENCY, "normal".to_owned())],
        kind @ NoticeKind::MissedCalls => vec![
            (TTL, MISSED_CALLS_TTL_S.to_string()),
            (URGENCY, "normal".to_owned()),
            // The next one tells of these calls, too, while this one is not delivered.
            (TOPIC, kind.name().to_owned()),
        ],
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use reqwest::dns::{Name, Resolve, Resolving};

    use super::*;
    use crate::binding::{Aor, Provider, Tokens};
    use crate::push::{NoProxy, Notice, Purpose, Sign, Ticket};

    fn allowed(host: &str, is_suffix: bool, port: Option<u16>, is_loopback: bool) -> AllowedHost {
        AllowedHost { host: host.into(), is_suffix, port, is_loopback }
    }

    fn account(allowed_hosts: Vec<AllowedHost>, setup: &Setup) -> Account {
        let folder = tempfile::tempdir().unwrap();
        let vapid_key_file = folder.path().join("vapid.pem");
        std::fs::write(&vapid_key_file, include_str!("../demo/throwaway_vapid.pem")).unwrap();
        let settings = Settings {
            vapid_key_file,
            subject: "mailto:ops@example.org".to_owned(),
            allowed_hosts,
            ca_file: None,
            payload: FcmPayload::Ecss,
        };
        Account::open(&settings, setup).unwrap()
    }

    #[test]
    fn only_allowed_hosts_are_contacted_and_only_by_https() {
        let exact = allowed("push.example.org", false, None, false);
        let below = allowed("example.org", true, None, false);
        let with_port = allowed("push.example.org", false, Some(8443), false);
        let here = allowed("127.0.0.1", false, Some(8000), true);
        for (url, expected) in [
            ("https://push.example.org/a", [true, true, false, false]),
            ("https://PUSH.example.org:443/a", [true, true, false, false]),
            ("https://push.example.org:8443/a", [false, false, true, false]),
            ("http://push.example.org/a", [false; 4]),
            ("http://push.example.org:443/a", [false; 4]),
            ("https://example.org/a", [false; 4]),
            ("https://evilexample.org/a", [false; 4]),
            ("https://.example.org/a", [false; 4]),
            ("https://push.example.org.evil.net/a", [false; 4]),
            ("https://push.example.org./a", [false; 4]),
            ("https://evil.net/push.example.org", [false; 4]),
            ("https://evil.net#push.example.org", [false; 4]),
            ("https://evil.net\\.push.example.org/", [false; 4]),
            ("http://127.0.0.1:8000/a", [false, false, false, true]),
            ("https://127.0.0.1:8000/a", [false, false, false, true]),
            ("http://127.0.0.1:8001/a", [false; 4]),
            ("ftp://127.0.0.1:8000/a", [false; 4]),
            ("http://[::1]:8000/a", [false; 4]),
        ] {
            let parsed = Url::parse(url).unwrap();
            assert_eq!([&exact, &below, &with_port, &here].map(|allowed| allowed.admits(&parsed)), expected, "{url}");
        }
    }

    /// Every name leads to this machine.
    struct Here;

    impl Resolve for Here {
        fn resolve(&self, _: Name) -> Resolving {
            let here = SocketAddr::from(([127, 0, 0, 1], 0));
            Box::pin(std::future::ready(outside::public(Ok(std::iter::once(here)))))
        }
    }

    #[tokio::test]
    async fn a_name_that_only_a_pattern_allows_is_not_connected_to_inside() {
        // Nobody listens there.
        let proxy = || HttpsProxy::parse("http://127.0.0.1:9").unwrap();
        let direct = proxy().except(vec![NoProxy::Domain("example.org".into())]);
        for https_proxy in [None, Some(direct)] {
            let outcome = pushed_inside(https_proxy).await;
            assert_eq!(outcome, Outcome::misfit("the subscription's host has no public address"));
        }
        let by_proxy = pushed_inside(Some(proxy())).await;
        assert!(matches!(by_proxy, Outcome::TryAgain { .. }), "the proxy is asked: {by_proxy:?}");
    }

    /// What comes of a push to a name that only a pattern allows and that leads inside.
    async fn pushed_inside(https_proxy: Option<HttpsProxy>) -> Outcome {
        let setup = Setup { https_proxy, ..Setup::default() };
        let mut account = account(vec![allowed("example.org", true, None, false)], &setup);
        account.guarded = Client::resolving(Arc::new(Here), &setup, &[]).unwrap();
        let push = Push {
            ticket: Ticket(1),
            aor: Aor::new("alice", "example.org"),
            target: PushTarget {
                provider: Provider::WebPush,
                prid: PushToken::new("https://push.example.org/wpush/v2/a"),
                param: "".into(),
                tokens: Tokens::Single,
                others: Box::default(),
            },
            notice: Notice::Message,
            date: UnixMillis(1_623_753_491_000),
            ttl: setup.timeout,
            language: None,
            is_repeat: false,
            purpose: Purpose::default(),
        };
        let sent = account.send(&push, &account.subscription(&push.target).unwrap()).await;
        let is_told_of_others = sent.sign != Sign::Works;
        assert_eq!(is_told_of_others, !matches!(sent.outcome, Outcome::Misfit { .. }), "of other subscriptions");
        sent.outcome
    }

    #[test]
    fn token_is_for_the_origin_of_the_subscription() {
        let allowed_hosts =
            vec![allowed("example.org", true, None, false), allowed("example.org", true, Some(8443), false)];
        let account = account(allowed_hosts, &Setup::default());
        let header = |uri: &str| {
            let (provider, prid) = (Provider::WebPush, PushToken::new(uri));
            let target =
                PushTarget { provider, prid, param: "".into(), tokens: Tokens::Single, others: Box::default() };
            let Subscription { service, url, .. } = account.subscription(&target).unwrap();
            account.authorization(service, &url).unwrap().to_str().unwrap().to_owned()
        };
        let before = clock().unix.seconds();
        for (uri, aud) in [
            ("https://push.example.org/wpush/v2/a", "https://push.example.org"),
            ("https://Push.example.org:443/a?b=c#d", "https://push.example.org"),
            ("https://push.example.org:8443/a", "https://push.example.org:8443"),
            ("https://other.example.org/a", "https://other.example.org"),
        ] {
            let header = header(uri);
            let (jwt, key) = header.strip_prefix("vapid t=").unwrap().split_once(", k=").unwrap();
            assert_eq!(key, account.public_key());
            let [start, claims, _] = jwt.split('.').collect::<Vec<_>>().try_into().unwrap();
            let json = |part: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
            assert_eq!(json(start), r#"{"typ":"JWT","alg":"ES256"}"#);
            let claims: serde_json::Value = serde_json::from_str(&json(claims)).unwrap();
            assert_eq!((&claims["aud"], &claims["sub"]), (&aud.into(), &"mailto:ops@example.org".into()));
            let exp = claims["exp"].as_u64().unwrap();
            assert!((before + TOKEN_LIFE_S..=clock().unix.seconds() + TOKEN_LIFE_S).contains(&exp), "{exp}");
        }
        let uri = "https://push.example.org/wpush/v2/a";
        assert_eq!(header(uri), header(uri), "it is kept");
    }

    #[test]
    fn token_is_sent_for_half_of_its_life_whatever_the_clock_does() {
        let token =
            |expires_at| Token { origin: String::new(), authorization: HeaderValue::from_static("vapid"), expires_at };
        let now = UnixMillis(1_623_753_491_000);
        let fresh = token(now.seconds() + TOKEN_LIFE_S);
        let hours = |hours: u64| UnixMillis(now.0 + hours * 3_600_000);
        assert!(
            fresh.is_fresh(now) && fresh.is_fresh(hours(5)) && !fresh.is_fresh(hours(7)) && !fresh.is_fresh(hours(13))
        );
        // The clock was an hour fast when it was made.
        assert!(!token(now.seconds() + TOKEN_LIFE_S + 3600).is_fresh(now));
    }
}
