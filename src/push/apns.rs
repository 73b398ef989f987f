//! Apple Push Notification service: the accounts we push by, and the sending
//! (Apple, "Sending notification requests to APNs"; "Responding to VoIP Notifications from PushKit").

use std::path::PathBuf;
use std::time::Duration;

use a2::{CollapseId, NotificationOptions, Priority, PushType};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Client, Url};

use super::apns_answer::verdict;
use super::fcm::{http_url, read};
use super::gate::{Gate, Limits};
use super::http::{self, Answer};
use super::jwt::SigningKey;
use super::payload::{self, AppleForm, AppleProfile, Body};
use super::provider_token::{ProviderToken, ProviderTokens};
use super::{NoticeKind, Outcome, Push, Sent, SettingsError, Verdict, clock};
use crate::binding::{Provider, PushToken, Tokens};

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
    /// TLS client certificate instead of a key.
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
            certificate_file: None,
        }
    }
}

/// A team ready to push.
pub(super) struct Account {
    team_id: Box<str>,
    topic: Box<str>,
    production: Url,
    sandbox: Option<Url>,
    form: AppleForm,
    tokens: ProviderTokens,
    client: Client,
    pub(super) gate: Gate,
}

/// What one push needs of its target: which of the two tokens, and where to.
pub(super) struct Delivery<'a> {
    pub(super) token: &'a PushToken,
    endpoint: &'a Url,
    topic: HeaderValue,
    push_type: PushType,
}

impl Account {
    /// `table` names the configuration table in errors.
    pub(super) fn open(
        settings: &Settings,
        table: &str,
        timeout: Duration,
        limits: Limits,
    ) -> Result<Self, SettingsError> {
        let key = |name: &str| format!("{table}.{name}");
        let value = |name: &str, problem: &str| SettingsError::value(key(name), problem);
        if settings.certificate_file.is_some() {
            return Err(value(
                "certificate_file",
                "pushing by certificate is not supported; use key_file, key_id and team_id",
            ));
        }
        for (name, id) in [("key_id", &settings.key_id), ("team_id", &settings.team_id)] {
            if id.is_empty() || id.contains(|c: char| !c.is_ascii_alphanumeric()) {
                return Err(value(name, "must be the 10 letters and digits that Apple's developer pages show"));
            }
        }
        let url =
            |name: &str, text: &str| http_url(text).ok_or_else(|| value(name, "must be an http:// or https:// URL"));
        let production = url("endpoint", &settings.endpoint)?;
        let sandbox = match settings.sandbox_endpoint.as_str() {
            "" => None,
            text => Some(url("sandbox_endpoint", text)?),
        };
        let client = http::client(http::Version::Http2, timeout, &roots(settings, table)?)
            .map_err(|error| SettingsError::value(table, http::in_words(error)))?;
        let pem = read(&key("key_file"), &settings.key_file)?;
        let signing_key = SigningKey::es256(&pem).map_err(|error| {
            SettingsError::file(key("key_file"), &settings.key_file, format!("{error}; must be Apple's .p8 file"))
        })?;
        Ok(Self {
            team_id: settings.team_id.as_str().into(),
            topic: settings.topic.as_str().into(),
            production,
            sandbox,
            form: form(settings).map_err(|(name, problem)| value(name, problem))?,
            tokens: ProviderTokens::new(signing_key, &settings.key_id, &settings.team_id),
            client,
            gate: Gate::new(format!("apns team {}", settings.team_id), limits),
        })
    }

    /// Whether a contact of this team is meant.
    pub(super) fn is_named(&self, team: &str) -> bool {
        team == &*self.team_id
    }

    pub(super) fn serves(&self, provider: Provider) -> bool {
        self.endpoint(provider).is_some()
    }

    fn endpoint(&self, provider: Provider) -> Option<&Url> {
        match provider {
            Provider::Apns => Some(&self.production),
            Provider::ApnsDev => self.sandbox.as_ref(),
            Provider::Fcm | Provider::WebPush | Provider::Callback => None,
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
        let endpoint = self.endpoint(provider).ok_or_else(|| format!("provider {provider} is switched off"))?;
        let Tokens::Apple { bundle, voip, remote, .. } = tokens else {
            return Err("pn-prid does not say which tokens it has".to_owned());
        };
        let bundle = if bundle.is_empty() { &self.topic } else { bundle };
        if bundle.is_empty() {
            return Err("pn-param names no bundle id and push.apns.topic is not set".to_owned());
        }
        let (token, push_type, topic) = match (kind, voip, remote) {
            (NoticeKind::Invite, Some(token), _) => (token, PushType::Voip, format!("{bundle}.voip")),
            (_, _, Some(token)) => (token, PushType::Alert, bundle.to_string()),
            (NoticeKind::Invite, None, None) => return Err("contact has no token".to_owned()),
            (NoticeKind::Message | NoticeKind::MissedCalls, _, None) => {
                return Err(format!("contact has no remote token, and a voip token cannot take {kind}"));
            }
        };
        if !is_path_segment(token.reveal()) {
            return Err("a token in pn-prid is not one of APNs".to_owned());
        }
        let topic = HeaderValue::try_from(topic).map_err(|_| "the bundle id in pn-param is not one".to_owned())?;
        Ok(Delivery { token, endpoint, topic, push_type })
    }

    /// One attempt. A stale provider token is renewed once and an oversized report shortened once within it.
    pub(super) async fn send(&self, push: &Push, delivery: &Delivery<'_>) -> Sent {
        let mut provider_token = match self.tokens.current(clock()) {
            Ok(token) => token,
            Err(error) => return Verdict::Locked(error.to_string().into()).sent(0),
        };
        let (mut limit, mut renewed) = (payload::BYTES_MAX, false);
        loop {
            if push.purpose.is_over() {
                return Sent::unsent(Outcome::Withdrawn);
            }
            let alert = delivery.push_type == PushType::Alert;
            let Body { bytes, left_out } = payload::apns(push, &self.form, alert, limit);
            let verdict = match self.post(push, delivery, bytes, &provider_token).await {
                Verdict::StaleCredential(reason) if !renewed => {
                    renewed = true;
                    match self.tokens.replace(&provider_token, clock()) {
                        Some(token) => provider_token = token,
                        None => return Verdict::Locked(reason).sent(left_out),
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
                | Verdict::Locked(_)) => verdict,
            };
            return verdict.sent(left_out);
        }
    }

    async fn post(&self, push: &Push, delivery: &Delivery<'_>, body: Vec<u8>, token: &ProviderToken) -> Verdict {
        let mut headers = headers(&options(push, delivery), &delivery.topic);
        headers.insert(AUTHORIZATION, token.authorization.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let request = self.client.post(device_url(delivery)).headers(headers).body(body);
        match request.send().await {
            Ok(response) => verdict(&Answer::read(response).await.without(delivery.token)),
            Err(error) => http::no_answer(error),
        }
    }
}

fn form(settings: &Settings) -> Result<AppleForm, (&'static str, &'static str)> {
    let custom_key = settings.custom_key.as_str();
    if custom_key.is_empty() || custom_key == "aps" || custom_key.len() > 64 {
        return Err(("custom_key", "must be 1 to 64 bytes, and not \"aps\", which is Apple's own"));
    }
    let badge = match settings.badge.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| ("badge", "must be a number in quotes, or empty"))?),
    };
    Ok(AppleForm { profile: settings.profile, custom_key: custom_key.into(), badge })
}

fn roots(settings: &Settings, table: &str) -> Result<Vec<Certificate>, SettingsError> {
    let Some(file) = &settings.ca_file else {
        return Ok(Vec::new());
    };
    let key = format!("{table}.ca_file");
    let certificates = Certificate::from_pem_bundle(&read(&key, file)?).unwrap_or_default();
    if certificates.is_empty() {
        return Err(SettingsError::file(key, file, "must hold certificates in PEM form (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(certificates)
}

/// Apple's tokens are hexadecimal, of no promised length; whatever else means something in a path must not get there.
fn is_path_segment(token: &str) -> bool {
    !token.is_empty() && token.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '~'))
}

fn device_url(delivery: &Delivery<'_>) -> Url {
    let mut url = delivery.endpoint.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["3", "device", delivery.token.reveal()]);
    }
    url
}

fn options<'a>(push: &Push, delivery: &Delivery<'_>) -> NotificationOptions<'a> {
    // A call screen for a call that is over helps nobody: APNs must not keep a VoIP push.
    let expiration = if delivery.push_type == PushType::Voip {
        0
    } else {
        push.date.seconds().saturating_add(payload::seconds(push))
    };
    let collapse_id = match push.notice.kind() {
        NoticeKind::MissedCalls => CollapseId::new(MISSED_CALLS_COLLAPSE_ID).ok(),
        NoticeKind::Invite | NoticeKind::Message => None,
    };
    NotificationOptions {
        apns_push_type: Some(delivery.push_type),
        apns_expiration: Some(expiration),
        apns_priority: Some(Priority::High),
        apns_collapse_id: collapse_id,
        ..NotificationOptions::default()
    }
}

/// The `apns-…` headers. The topic comes apart from the other options, because it was checked to be a header value.
fn headers(options: &NotificationOptions<'_>, topic: &HeaderValue) -> HeaderMap {
    let text = |text: String| HeaderValue::try_from(text).ok();
    let values = [
        ("apns-push-type", options.apns_push_type.and_then(|push_type| text(push_type.to_string()))),
        ("apns-topic", Some(topic.clone())),
        ("apns-priority", options.apns_priority.as_ref().and_then(|priority| text(priority.to_string()))),
        ("apns-expiration", options.apns_expiration.map(HeaderValue::from)),
        ("apns-collapse-id", options.apns_collapse_id.as_ref().and_then(|id| text(id.value.to_owned()))),
    ];
    let present = |(name, value): (&'static str, Option<HeaderValue>)| Some((HeaderName::from_static(name), value?));
    values.into_iter().filter_map(present).collect()
}
