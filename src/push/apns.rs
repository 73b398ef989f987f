//! Apple Push Notification service: the accounts we push by, and the sending
//! (Apple, "Sending notification requests to APNs"; "Responding to VoIP Notifications from PushKit").

use std::collections::{BTreeSet, HashSet};
use std::iter;
use std::path::PathBuf;
use std::sync::Arc;

use a2::{CollapseId, NotificationOptions, Priority, PushType};
use hyper::{Method, Request};
use parking_lot::Mutex;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::runtime::Handle;

use super::apns_answer::{verdict, wants_another_connection};
use super::connection::Lost;
use super::connections::Connections;
use super::dial::{Dialer, Identity, Tls};
use super::fcm::{http_url, read, roots};
use super::gate::Gate;
use super::http::REPEAT_PAUSE;
use super::identity;
use super::jwt::{SigningError, SigningKey};
use super::payload::{self, AppleForm, AppleProfile, Body};
use super::provider_token::{ProviderToken, ProviderTokens};
use super::pushers::Setup;
use super::{NoticeKind, Outcome, Preview, Push, Sent, SettingsError, Sign, TokenHash, Verdict, clock};
use crate::binding::{Provider, PushToken, Tokens};

/// Apple: keep connections open and few. One carries a thousand pushes at once.
const CONNECTIONS_MAX: usize = 4;

/// Apps of one team that are told apart from those that only a phone says there are.
const APPS_MAX: usize = 1000;

/// Tokens of the other environment that are remembered; beyond it all are found out again, by one more request each.
const ELSEWHERE_MAX: usize = 100_000;

/// Names the alert of missed calls, so that a later one replaces it on the screen.
const MISSED_CALLS_COLLAPSE_ID: &str = "missed_calls";

/// One team: a `[[push.apns]]` table.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Apple's `.p8` file.
    pub key_file: PathBuf,
    pub key_id: String,
    pub team_id: String,
    /// Bundle id for contacts whose `pn-param` does not name it; may be empty.
    pub topic: String,
    pub endpoint: String,
    /// For `pn-provider=apns.dev`; empty switches that off.
    pub sandbox_endpoint: String,
    /// Root certificates in PEM that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    pub custom_key: String,
    /// A number; empty leaves the badge out.
    pub badge: String,
    pub profile: AppleProfile,
    pub expiration: Expiration,
    /// Whether apps know a call that they are pushed twice, by its number and date: with [`AppleProfile::Extended`] they do.
    pub repeat: bool,
    /// TLS client certificate and its key in PEM, instead of `key_file` and `key_id`.
    pub certificate_file: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            key_file: "AuthKey.p8".into(),
            key_id: String::new(),
            team_id: String::new(),
            topic: String::new(),
            endpoint: "https://api.push.apple.com".into(),
            sandbox_endpoint: "https://api.sandbox.push.apple.com".into(),
            ca_file: None,
            custom_key: "acme".into(),
            badge: "10".into(),
            profile: AppleProfile::Ecss,
            expiration: Expiration::Wait,
            repeat: false,
            certificate_file: None,
        }
    }
}

/// How long Apple keeps a VoIP push for a phone that it cannot reach at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expiration {
    /// For what is left of the wait.
    #[default]
    Wait,
    /// Not at all.
    Zero,
}

/// A team ready to push.
pub(super) struct Account {
    team_id: Box<str>,
    topic: Box<str>,
    production: Endpoint,
    sandbox: Option<Endpoint>,
    form: AppleForm,
    expiration: Expiration,
    repeats_voip: bool,
    credential: Credential,
    /// Apps, by environment and bundle, whose pushes Apple has taken.
    apps: Mutex<BTreeSet<(Environment, Box<str>)>>,
    /// Tokens that are not of the environment that their contact names: the other one has taken them. Lost by a restart and
    /// by a reload of other settings, which costs one more request each.
    elsewhere: Mutex<HashSet<(Environment, TokenHash)>>,
}

/// Which of Apple's two sides a contact is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Environment {
    Production,
    Sandbox,
}

impl Environment {
    fn other(self) -> Self {
        match self {
            Self::Production => Self::Sandbox,
            Self::Sandbox => Self::Production,
        }
    }

    /// In a sentence.
    fn name(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Sandbox => "the sandbox",
        }
    }
}

struct Endpoint {
    url: Url,
    connections: Connections,
    /// Of its own: what is wrong with apps in development is nothing to those that people have.
    gate: Gate,
}

/// What Apple knows us by.
enum Credential {
    Tokens(ProviderTokens),
    /// It is shown when a connection is opened.
    Certificate,
}

impl Credential {
    fn read(settings: &Settings, table: &str) -> Result<Self, SettingsError> {
        if settings.certificate_file.is_some() {
            return Ok(Self::Certificate);
        }
        let key = |name: &str| format!("{table}.{name}");
        for (name, id) in [("key_id", &settings.key_id), ("team_id", &settings.team_id)] {
            if id.is_empty() || id.contains(|c: char| !c.is_ascii_alphanumeric()) {
                let problem = "must be the 10 letters and digits that Apple's developer pages show";
                return Err(SettingsError::value(key(name), problem));
            }
        }
        let pem = read(&key("key_file"), &settings.key_file)?;
        let signing_key = SigningKey::es256(&pem).map_err(|error| {
            SettingsError::file(key("key_file"), &settings.key_file, format!("{error}; must be Apple's .p8 file"))
        })?;
        Ok(Self::Tokens(ProviderTokens::new(signing_key, &settings.key_id, &settings.team_id)))
    }

    /// `None` where the connection says it all.
    fn current(&self) -> Result<Option<Arc<ProviderToken>>, SigningError> {
        match self {
            Self::Tokens(tokens) => tokens.current(clock()).map(Some),
            Self::Certificate => Ok(None),
        }
    }

    /// Another provider token than `stale`, if there may be one.
    fn replace(&self, stale: Option<&ProviderToken>) -> Option<Arc<ProviderToken>> {
        match self {
            Self::Tokens(tokens) => tokens.replace(stale?, clock()),
            Self::Certificate => None,
        }
    }
}

/// What one push needs of its target: which of the two tokens, and where to.
pub(super) struct Delivery<'a> {
    pub(super) token: &'a PushToken,
    endpoint: &'a Endpoint,
    environment: Environment,
    /// As the contact says.
    said: Environment,
    /// As the contact names it, else the account.
    bundle: &'a str,
    topic: HeaderValue,
    push_type: PushType,
}

impl<'a> Delivery<'a> {
    pub(super) fn gate(&self) -> &'a Gate {
        &self.endpoint.gate
    }
}

/// What came of a push to one environment.
struct There {
    verdict: Verdict,
    /// The oldest missed calls that did not fit in.
    left_out: usize,
    push_id: Option<Box<str>>,
}

impl There {
    fn sent(self) -> Sent {
        Sent { push_id: self.push_id, ..self.verdict.sent(self.left_out) }
    }
}

impl Account {
    /// `table` names the configuration table in errors. Connections are kept on `runtime`.
    pub(super) fn open(
        settings: &Settings,
        table: &str,
        setup: &Setup,
        runtime: &Handle,
    ) -> Result<Self, SettingsError> {
        let key = |name: &str| format!("{table}.{name}");
        let value = |name: &str, problem: &str| SettingsError::value(key(name), problem);
        let credential = Credential::read(settings, table)?;
        let identity = match &settings.certificate_file {
            Some(file) => Some(Identity::read(&key("certificate_file"), file)?),
            None => None,
        };
        let is_known = identity.is_some();
        let roots = roots(&key("ca_file"), settings.ca_file.as_deref())?;
        let certificate = if is_known { "certificate_file" } else { "ca_file" };
        let tls = Tls::new(&roots, identity).map_err(|problem| value(certificate, &problem))?;
        let account = match (settings.team_id.as_str(), settings.topic.as_str()) {
            ("", topic) => format!("topic {topic}"),
            (team, "") => format!("team {team}"),
            (team, topic) => format!("team {team} topic {topic}"),
        };
        let endpoint = |name: &str, text: &str, side: &str| {
            let wrong = || value(name, "must be an http:// or https:// URL");
            let url = http_url(text).ok_or_else(wrong)?;
            let dialer = Dialer::new(&url, &tls, setup).ok_or_else(wrong)?;
            let connections = Connections::new(dialer, is_known, CONNECTIONS_MAX, runtime.clone());
            let gate = Gate::new(format!("{side} {account}"), setup.limits);
            Ok(Endpoint { url, connections, gate })
        };
        let production = endpoint("endpoint", &settings.endpoint, "apns")?;
        let sandbox = match settings.sandbox_endpoint.as_str() {
            "" => None,
            text => Some(endpoint("sandbox_endpoint", text, "apns sandbox")?),
        };
        Ok(Self {
            team_id: settings.team_id.as_str().into(),
            topic: settings.topic.as_str().into(),
            production,
            sandbox,
            expiration: settings.expiration,
            repeats_voip: settings.repeat || settings.profile == AppleProfile::Extended,
            form: form(settings, setup).map_err(|(name, problem)| value(name, problem))?,
            credential,
            apps: Mutex::default(),
            elsewhere: Mutex::default(),
        })
    }

    /// Opens the connection that the first push will need. The sandbox is for apps in development, and can wait.
    pub(super) fn warm_up(&self) {
        self.production.connections.warm_up();
    }

    /// Whether it is for contacts of this team; a certificate may be for an app whatever its team.
    pub(super) fn is_of_team(&self, team: &str) -> bool {
        self.team_id.is_empty() || team == &*self.team_id
    }

    /// The app that it is for; empty where it is for all of its team.
    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    pub(super) fn has_team(&self) -> bool {
        !self.team_id.is_empty()
    }

    pub(super) fn serves(&self, provider: Provider) -> bool {
        environment(provider).is_some_and(|environment| self.endpoint(environment).is_some())
    }

    pub(super) fn gates(&self) -> impl Iterator<Item = (Provider, &Gate)> {
        let sandbox = self.sandbox.iter().map(|sandbox| (Provider::ApnsDev, &sandbox.gate));
        iter::once((Provider::Apns, &self.production.gate)).chain(sandbox)
    }

    fn endpoint(&self, environment: Environment) -> Option<&Endpoint> {
        match environment {
            Environment::Production => Some(&self.production),
            Environment::Sandbox => self.sandbox.as_ref(),
        }
    }

    /// How such a notice reaches a contact, or why it does not. The system kills apps that get a VoIP push without
    /// a call to show, so only an invite goes to the voip token.
    pub(super) fn delivery<'a>(
        &'a self,
        provider: Provider,
        tokens: &'a Tokens,
        kind: NoticeKind,
    ) -> Result<Delivery<'a>, String> {
        let is_off = || format!("provider {provider} is switched off");
        let said = environment(provider).filter(|said| self.endpoint(*said).is_some()).ok_or_else(is_off)?;
        let Tokens::Apple { bundle, voip, remote, .. } = tokens else {
            return Err("pn-prid does not say which tokens it has".to_owned());
        };
        let bundle = if bundle.is_empty() { &self.topic } else { bundle };
        if bundle.is_empty() {
            return Err("pn-param names no bundle id and push.apns.topic is not set".to_owned());
        }
        let (token, push_type, topic) = match (kind, voip, remote) {
            (NoticeKind::Invite, Some(token), _) => (token, PushType::Voip, format!("{bundle}.voip")),
            (NoticeKind::CallEnded | NoticeKind::Register | NoticeKind::Test, _, Some(token)) => {
                (token, PushType::Background, bundle.to_string())
            }
            (_, _, Some(token)) => (token, PushType::Alert, bundle.to_string()),
            (NoticeKind::Invite, None, None) => return Err("contact has no token".to_owned()),
            (NoticeKind::Message | NoticeKind::MissedCalls | NoticeKind::CallEnded, _, None)
            | (NoticeKind::Register | NoticeKind::Test | NoticeKind::Text, _, None) => {
                return Err(format!("contact has no remote token, and a voip token cannot take {kind}"));
            }
        };
        if !is_path_segment(token.reveal()) {
            return Err("a token in pn-prid is not one of APNs".to_owned());
        }
        let topic = HeaderValue::try_from(topic).map_err(|_| "the bundle id in pn-param is not one".to_owned())?;
        let environment = if self.is_elsewhere(said, token) { said.other() } else { said };
        let endpoint = self.endpoint(environment).ok_or_else(is_off)?;
        Ok(Delivery { token, endpoint, environment, said, bundle, topic, push_type })
    }

    /// Whether an invite may be pushed again after Apple took it. Each VoIP push must become a call on the screen, so the app
    /// has to know that it is the same one; an alert replaces the one before it.
    pub(super) fn repeats(&self, delivery: &Delivery<'_>) -> bool {
        delivery.push_type != PushType::Voip || self.repeats_voip
    }

    /// What would be sent, with `hash` in the place of the token.
    pub(super) fn preview(&self, push: &Push, delivery: &Delivery<'_>, hash: TokenHash) -> Preview {
        let alert = delivery.push_type == PushType::Alert;
        let body = payload::apns(push, &self.form, alert, payload::BYTES_MAX).bytes;
        let headers = self.headers(push, delivery);
        let shown = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        Preview {
            account: delivery.gate().name().to_owned(),
            token: hash,
            url: device_url(delivery).as_str().replace(delivery.token.reveal(), &hash.to_string()),
            headers: headers.iter().map(shown).collect(),
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    /// One attempt. A token that is not known where its contact says is tried in the other environment once within it.
    pub(super) async fn send(&self, push: &Push, delivery: &Delivery<'_>) -> Sent {
        let provider_token = match self.credential.current() {
            Ok(token) => token,
            Err(error) => return Verdict::Locked(error.to_string().into()).sent(0).before_any_push(),
        };
        let there = self.send_there(push, delivery, provider_token.clone()).await;
        let environment = delivery.environment.other();
        let (Verdict::Stranger(reason), Some(endpoint)) = (&there.verdict, self.endpoint(environment)) else {
            return there.sent();
        };
        let other = Delivery { environment, endpoint, topic: delivery.topic.clone(), ..*delivery };
        let There { verdict, left_out, push_id } = self.send_there(push, &other, provider_token).await;
        let name = environment.name();
        let outcome = match verdict {
            Verdict::Stranger(_) => {
                self.remember(delivery, delivery.said);
                Outcome::misfit(format!("{reason}, also at {name}"))
            }
            // Our key is not for the other one, or the phone's app is not; so it has none to be tried.
            Verdict::Locked(why) | Verdict::Suspect(why) | Verdict::StaleCredential(why) | Verdict::Foreign(why) => {
                Outcome::misfit(format!("{reason}; {name}: {why}"))
            }
            Verdict::Final(Outcome::Accepted) => {
                let token = TokenHash::of(delivery.token);
                tracing::info!(%token, environment = name, "the other environment of APNs has taken a token; it is remembered");
                self.remember(delivery, environment);
                Outcome::Accepted
            }
            verdict @ (Verdict::Final(_) | Verdict::Trouble { .. } | Verdict::TooLarge(_) | Verdict::Withdrawn) => {
                verdict.sent(left_out).outcome
            }
        };
        // Whatever the other one says, this one has looked at the push.
        Sent { outcome, sign: Sign::Works, left_out, push_id }
    }

    fn is_elsewhere(&self, said: Environment, token: &PushToken) -> bool {
        let elsewhere = self.elsewhere.lock();
        !elsewhere.is_empty() && elsewhere.contains(&(said, TokenHash::of(token)))
    }

    /// The token is of this environment, whatever its contact says.
    fn remember(&self, delivery: &Delivery<'_>, environment: Environment) {
        let token = (delivery.said, TokenHash::of(delivery.token));
        let mut elsewhere = self.elsewhere.lock();
        if environment == delivery.said {
            elsewhere.remove(&token);
            return;
        }
        if elsewhere.len() >= ELSEWHERE_MAX {
            elsewhere.clear();
        }
        elsewhere.insert(token);
    }

    /// To one environment. A stale provider token is renewed once and an oversized report shortened once.
    async fn send_there(
        &self,
        push: &Push,
        delivery: &Delivery<'_>,
        mut provider_token: Option<Arc<ProviderToken>>,
    ) -> There {
        let (mut limit, mut renewed) = (payload::BYTES_MAX, false);
        loop {
            if push.purpose.is_over() {
                return There { verdict: Verdict::Withdrawn, left_out: 0, push_id: None };
            }
            let alert = delivery.push_type == PushType::Alert;
            let Body { bytes, left_out } = payload::apns(push, &self.form, alert, limit);
            let (verdict, push_id) = self.post(push, delivery, bytes, provider_token.as_deref()).await;
            let verdict = match verdict {
                Verdict::StaleCredential(reason) if !renewed => {
                    renewed = true;
                    match self.credential.replace(provider_token.as_deref()) {
                        Some(token) => provider_token = Some(token),
                        None => return There { verdict: Verdict::Locked(reason), left_out, push_id },
                    }
                    continue;
                }
                Verdict::TooLarge(_) if push.notice.calls().len() > left_out && limit == payload::BYTES_MAX => {
                    limit /= 2;
                    continue;
                }
                verdict @ (Verdict::StaleCredential(_)
                | Verdict::TooLarge(_)
                | Verdict::Final(_)
                | Verdict::Trouble { .. }
                | Verdict::Locked(_)
                | Verdict::Suspect(_)
                | Verdict::Foreign(_)
                | Verdict::Stranger(_)
                | Verdict::Withdrawn) => verdict,
            };
            return There { verdict: self.with_regard_to_the_app(verdict, delivery), left_out, push_id };
        }
    }

    /// Bundle and environment are what the phone says, and Apple refuses our key for an app of another team as it refuses
    /// a bad key. So where it has taken pushes for other apps, a refusal for one for which it never has is about that one.
    fn with_regard_to_the_app(&self, verdict: Verdict, delivery: &Delivery<'_>) -> Verdict {
        let app = (delivery.environment, delivery.bundle.into());
        let mut apps = self.apps.lock();
        if verdict == Verdict::Final(Outcome::Accepted) && apps.len() < APPS_MAX {
            apps.insert(app);
            return verdict;
        }
        if let Verdict::Locked(reason) = &verdict
            && !apps.is_empty()
            && !apps.contains(&app)
        {
            return Verdict::Foreign(reason.clone());
        }
        verdict
    }

    fn headers(&self, push: &Push, delivery: &Delivery<'_>) -> HeaderMap {
        let id = identity::of(push, delivery.token);
        headers(&options(push, delivery, &id, self.expiration), &delivery.topic)
    }

    async fn post(
        &self,
        push: &Push,
        delivery: &Delivery<'_>,
        body: Vec<u8>,
        token: Option<&ProviderToken>,
    ) -> (Verdict, Option<Box<str>>) {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        let Ok(uri) = device_url(delivery).as_str().parse() else {
            return (Verdict::Final(Outcome::refused("the endpoint's URL is not one")), None);
        };
        *request.uri_mut() = uri;
        *request.version_mut() = hyper::Version::HTTP_2;
        *request.headers_mut() = self.headers(push, delivery);
        if let Some(token) = token {
            request.headers_mut().insert(AUTHORIZATION, token.authorization.clone());
        }
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        let sent_at = clock().instant;
        let verdict = match delivery.endpoint.connections.send(&request, &body.into(), &push.purpose).await {
            Ok(answer) => {
                let answer = answer.without(delivery.token);
                if wants_another_connection(&answer) {
                    delivery.endpoint.connections.retire();
                }
                return (verdict(&answer), answer.push_id);
            }
            Err(Lost::Unwanted) => Verdict::Withdrawn,
            Err(Lost::Unprocessed(reason)) => Verdict::unreached(None, reason),
            // See REPEAT_PAUSE for why a second push does no harm.
            Err(Lost::Unknown(reason)) => {
                let gone = clock().instant.saturating_duration_since(sent_at);
                Verdict::unreached(Some(REPEAT_PAUSE.saturating_sub(gone)), reason)
            }
        };
        (verdict, None)
    }
}

/// Which one a contact says that it is of.
fn environment(provider: Provider) -> Option<Environment> {
    match provider {
        Provider::Apns => Some(Environment::Production),
        Provider::ApnsDev => Some(Environment::Sandbox),
        Provider::Fcm
        | Provider::WebPush
        | Provider::Callback
        | Provider::RuStore
        | Provider::Hms
        | Provider::Harmony => None,
    }
}

fn form(settings: &Settings, setup: &Setup) -> Result<AppleForm, (&'static str, &'static str)> {
    let custom_key = settings.custom_key.as_str();
    if custom_key.is_empty() || custom_key == "aps" || custom_key.len() > 64 {
        return Err(("custom_key", "must be 1 to 64 bytes, and not \"aps\", which is Apple's own"));
    }
    let badge = match settings.badge.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| ("badge", "must be a number in quotes, or empty"))?),
    };
    let alerts = setup.alerts.clone();
    Ok(AppleForm { profile: settings.profile, custom_key: custom_key.into(), badge, alerts })
}

/// Apple's tokens are hexadecimal, of no promised length; whatever else means something in a path must not get there.
fn is_path_segment(token: &str) -> bool {
    !token.is_empty() && token.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '~'))
}

fn device_url(delivery: &Delivery<'_>) -> Url {
    let mut url = delivery.endpoint.url.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["3", "device", delivery.token.reveal()]);
    }
    url
}

/// `id` names the push in all its attempts.
fn options<'a>(push: &Push, delivery: &Delivery<'_>, id: &'a str, expiration: Expiration) -> NotificationOptions<'a> {
    // A call screen for a call that is over helps nobody: APNs must not keep a VoIP push for longer than the call waits.
    let expiration = match (delivery.push_type, expiration) {
        (PushType::Voip, Expiration::Zero) => 0,
        (_, Expiration::Wait | Expiration::Zero) => push.date.seconds().saturating_add(payload::seconds(push)),
    };
    let collapse_id = match push.notice.kind() {
        NoticeKind::MissedCalls => CollapseId::new(MISSED_CALLS_COLLAPSE_ID).ok(),
        NoticeKind::Invite if delivery.push_type == PushType::Alert => CollapseId::new(id).ok(),
        NoticeKind::Invite | NoticeKind::Message | NoticeKind::CallEnded => None,
        NoticeKind::Register | NoticeKind::Test | NoticeKind::Text => None,
    };
    // Apple wants 5 for what happens in the background.
    let is_background = delivery.push_type == PushType::Background;
    let priority = if is_background { Priority::Normal } else { Priority::High };
    NotificationOptions {
        apns_id: Some(id),
        apns_push_type: Some(delivery.push_type),
        apns_expiration: Some(expiration),
        apns_priority: Some(priority),
        apns_collapse_id: collapse_id,
        ..NotificationOptions::default()
    }
}

/// The `apns-…` headers. The topic comes apart from the other options, because it was checked to be a header value.
fn headers(options: &NotificationOptions<'_>, topic: &HeaderValue) -> HeaderMap {
    let text = |text: String| HeaderValue::try_from(text).ok();
    let values = [
        ("apns-id", options.apns_id.and_then(|id| text(id.to_owned()))),
        ("apns-push-type", options.apns_push_type.and_then(|push_type| text(push_type.to_string()))),
        ("apns-topic", Some(topic.clone())),
        ("apns-priority", options.apns_priority.as_ref().and_then(|priority| text(priority.to_string()))),
        ("apns-expiration", options.apns_expiration.map(HeaderValue::from)),
        ("apns-collapse-id", options.apns_collapse_id.as_ref().and_then(|id| text(id.value.to_owned()))),
    ];
    let present = |(name, value): (&'static str, Option<HeaderValue>)| Some((HeaderName::from_static(name), value?));
    values.into_iter().filter_map(present).collect()
}
