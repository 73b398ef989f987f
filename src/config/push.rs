//! `[push]`: the providers, their accounts and credentials.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::address;
use super::google::{self, FcmCredential};
use super::huawei::{Harmony, Hms};
use super::rustore::RuStore;
use super::section::Section;
use super::values::Files;
use super::webpush::WebPush;

/// `[push]`; a provider without an account is switched off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// For one attempt.
    pub timeout: Duration,
    /// Pushes to one token in a minute; further ones are not sent.
    pub per_token_per_min: u32,
    /// When a call push that was taken is repeated, counted from then, in ascending order.
    pub repeat: Vec<Duration>,
    /// Whether phones that have not come are told that their call is over.
    pub call_ended: bool,
    /// Whether sleeping phones are pushed so that they register before the softswitch forgets them.
    pub refresh: bool,
    /// How long before that, at the least.
    pub refresh_before: Duration,
    /// Tokens of one account that may die in a minute before that is not believed; 0: any number.
    pub dead_per_min: usize,
    /// How many AORs a token may serve.
    pub aors_per_token_max: usize,
    /// Pushes of one account that may wait for an answer.
    pub account_in_flight_max: usize,
    /// Those, and the ones that wait for their turn.
    pub account_queue_max: usize,
    /// Failures in a row after which an account is asked only now and then.
    pub breaker_failures: u32,
    pub breaker_pause: Duration,
    pub https_proxy: Option<HttpsProxy>,
    /// What is reached directly all the same: `HOST`, `.DOMAIN`, an address or a network.
    pub no_proxy: Vec<String>,
    /// The language of alerts for phones whose own is not known.
    pub alert_language: String,
    pub alerts: Vec<Alert>,
    pub fcm: Vec<Fcm>,
    pub apns: Vec<Apns>,
    /// `None`: off.
    pub callback: Option<Callback>,
    /// `None`: off.
    pub webpush: Option<WebPush>,
    pub rustore: Vec<RuStore>,
    pub hms: Vec<Hms>,
    pub harmony: Vec<Harmony>,
    /// What the files that it names held: a new key under an old name is another setting.
    pub files: Files,
}

/// `[[push.alert]]`: the texts of one language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    pub language: String,
    pub title: String,
    pub one: String,
    pub few: String,
    pub many: String,
    pub other: String,
    pub anonymous: String,
}

impl Alert {
    fn read(section: &Section<'_>) -> Self {
        let text = |key: &str, default: &'static str| section.string(key, default).to_owned();
        let read = Self {
            language: text("language", "en"),
            title: text("title", "Missed calls"),
            one: text("one", "{count} missed call"),
            few: text("few", ""),
            many: text("many", ""),
            other: text("other", "{count} missed calls"),
            anonymous: text("anonymous", "unknown"),
        };
        if read.language.is_empty() {
            section.wrong("language", "needed: a language such as \"en\", \"ru\" or \"zh\"");
        }
        if read.other.is_empty() {
            section.wrong("other", "needed: the text for all numbers that have no form of their own");
        }
        read
    }
}

/// Through which providers are reached.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpsProxy(String);

impl HttpsProxy {
    fn parse(text: &str) -> Option<Self> {
        let authority = text.strip_prefix("http://")?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
        address::host_port(address).ok()?;
        Some(Self(text.to_owned()))
    }

    /// With the password.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for HttpsProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpsProxy(…)")
    }
}

/// `[[push.fcm]]`: one Firebase project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fcm {
    pub credential: FcmCredential,
    /// As set, else from the service account.
    pub project_id: String,
    /// What apps send as pn-param when it is not the project id.
    pub project_number: Option<String>,
    /// Without a slash at its end.
    pub endpoint: String,
    /// An extra root certificate; it was read and is one.
    pub ca_file: Option<PathBuf>,
    pub profile: FcmProfile,
    /// Whether apps are told who calls, too.
    pub payload: FcmPayload,
    /// Whether a phone that was not unlocked since its start gets pushes.
    pub direct_boot_ok: bool,
}

/// What apps are told of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FcmPayload {
    Ecss,
    Extended,
}

/// The form of FCM's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FcmProfile {
    V1,
    /// As before 2024, for a private gateway.
    Legacy,
}

/// `[[push.apns]]`: one team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apns {
    pub credential: ApnsCredential,
    /// Only a certificate does without.
    pub team_id: Option<String>,
    /// Bundle id when pn-param does not name it.
    pub topic: Option<String>,
    /// Without a slash at its end.
    pub endpoint: String,
    pub sandbox_endpoint: String,
    /// An extra root certificate; it was read and is one.
    pub ca_file: Option<PathBuf>,
    /// The key beside `aps`.
    pub custom_key: String,
    /// The number on the app's icon; `None`: not sent.
    pub badge: Option<u32>,
    pub payload: ApnsPayload,
    pub expiration: ApnsExpiration,
    /// Whether apps know a call that they are pushed twice although the payload does not name it.
    pub repeat: bool,
}

/// How long Apple keeps a VoIP push for a phone that it cannot reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApnsExpiration {
    /// While the call waits.
    Wait,
    /// Not at all.
    Zero,
}

/// What apps are told of a call, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApnsPayload {
    /// The badge is a string, a missing name an empty list.
    Ecss,
    /// The badge is a number, a missing name an empty string.
    Apple,
    /// As `Apple`, and which call it is.
    Extended,
}

/// `[push.callback]`: the operator's own gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// By http or https.
    pub url: String,
    /// What requests are signed with; it was read and is not empty. `None`: they are not signed.
    pub secret_file: Option<PathBuf>,
    /// An extra root certificate; it was read and is one.
    pub ca_file: Option<PathBuf>,
}

/// What Apple knows us by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApnsCredential {
    /// A .p8 key; it was read and is one.
    Key { key_file: PathBuf, key_id: String },
    /// A certificate with its key in PEM form; it was read and has both.
    Certificate(PathBuf),
}

impl Push {
    /// `probe`: read an absent list of accounts as one, to learn its keys.
    pub(super) fn read(section: &Section<'_>, probe: bool) -> Self {
        let timeout = section.millis("timeout_ms", 5000, 1..=60_000);
        let per_token_per_min = section.integer("per_token_per_min", 30, 1..=100_000);
        let repeat = section.ascending("repeat_s", &[3, 8], 1..=300, 3);
        let repeat = repeat.into_iter().map(|seconds| Duration::from_secs(seconds.into())).collect();
        let call_ended = section.boolean("call_ended", false);
        let refresh = section.boolean("refresh", false);
        let refresh_before = section.seconds("refresh_before_s", 120, 1..=86_400, "");
        let dead_per_min = section.count("dead_per_min", 30, 0..=100_000);
        let aors_per_token_max = section.count("aors_per_token_max", 5, 1..=1000);
        let account_in_flight_max = section.count("account_in_flight_max", 1000, 1..=100_000);
        let account_queue_max = section.count("account_queue_max", 5000, 1..=10_000_000);
        let breaker_failures = section.integer("breaker_failures", 10, 1..=10_000);
        let breaker_pause = section.millis("breaker_pause_ms", 1000, 1..=60_000);
        let https_proxy = section.optional("https_proxy").and_then(|text| {
            let proxy = HttpsProxy::parse(text);
            if proxy.is_none() {
                let text = "is not an HTTP proxy; write http://[USER:PASSWORD@]HOST[:PORT], or \"\" for none";
                section.wrong("https_proxy", text);
            }
            proxy
        });
        let no_proxy = section.list("no_proxy", Some(&[]), address::no_proxy).unwrap_or_default();
        let alert_language = section.string("alert_language", "en").to_owned();
        let mut alerts = Vec::new();
        for text in section.sections("alert", probe) {
            let read = Alert::read(&text);
            if alerts.iter().any(|other: &Alert| other.language == read.language) && !probe {
                text.wrong("language", format_args!("{:?} has its texts already; leave one out", read.language));
            }
            alerts.push(read);
        }
        if !alerts.is_empty() && !alerts.iter().any(|text| text.language == alert_language) && !probe {
            let text = format_args!("{alert_language:?} has no [[push.alert]]; write one, or name another language");
            section.wrong("alert_language", text);
        }
        let mut fcm = Vec::new();
        for account in section.sections("fcm", probe) {
            let read = Fcm::read(&account);
            fcm.extend(read.inspect(|read| read.check_unlike(&fcm, &account)));
        }
        let mut apns = Vec::new();
        for account in section.sections("apns", probe) {
            let read = Apns::read(&account);
            apns.extend(read.inspect(|read| read.check_unlike(&apns, &account)));
        }
        let mut rustore = Vec::new();
        for account in section.sections("rustore", probe) {
            let read = RuStore::read(&account);
            rustore.extend(read.inspect(|read| read.check_unlike(&rustore, &account)));
        }
        let mut hms = Vec::new();
        for account in section.sections("hms", probe) {
            let read = Hms::read(&account);
            hms.extend(read.inspect(|read| read.check_unlike(&hms, &account)));
        }
        let mut harmony = Vec::new();
        for account in section.sections("harmony", probe) {
            let read = Harmony::read(&account);
            harmony.extend(read.inspect(|read| read.check_unlike(&harmony, &account)));
        }
        let webpush = WebPush::read(&section.section("webpush"));
        let callback = Callback::read(&section.section("callback"));
        Self {
            timeout,
            per_token_per_min,
            repeat,
            call_ended,
            refresh,
            refresh_before,
            dead_per_min,
            aors_per_token_max,
            account_in_flight_max,
            account_queue_max,
            breaker_failures,
            breaker_pause,
            https_proxy,
            no_proxy,
            alert_language,
            alerts,
            fcm,
            apns,
            callback,
            webpush,
            rustore,
            hms,
            harmony,
            files: section.files(),
        }
    }

    /// Whether no phone can be woken.
    pub(super) fn is_off(&self) -> bool {
        let of_huawei = self.hms.len() + self.harmony.len();
        let accounts = self.fcm.len() + self.apns.len() + self.rustore.len() + of_huawei;
        accounts == 0 && self.callback.is_none() && self.webpush.is_none()
    }
}

impl Fcm {
    /// `None` when it is switched off or wrong.
    fn read(section: &Section<'_>) -> Option<Self> {
        let enabled = section.boolean("enabled", true);
        let credential = google::credential(section, enabled);
        let project_number = section.optional("project_number");
        let endpoint = section.string("endpoint", "https://fcm.googleapis.com");
        let ca_file = section.path("ca_file", "");
        let profile = section.choice("profile", [("v1", FcmProfile::V1), ("legacy", FcmProfile::Legacy)]);
        let payload = section.choice("payload", [("ecss", FcmPayload::Ecss), ("extended", FcmPayload::Extended)]);
        let direct_boot_ok = section.boolean("direct_boot_ok", false);
        if !enabled {
            return None;
        }
        if let Some(number) = project_number.filter(|number| !number.bytes().all(|byte| byte.is_ascii_digit())) {
            let text = "is not a number; Firebase shows it under project settings";
            section.wrong("project_number", format_args!("{number:?} {text}"));
        }
        let endpoint = section.parsed("endpoint", endpoint, address::service);
        let ca_file = ca_file.filter(|file| has_certificate(section, "ca_file", file));
        let (credential, project_id) = credential?;
        Some(Self {
            credential,
            project_id,
            project_number: project_number.map(str::to_owned),
            endpoint: endpoint?,
            ca_file,
            profile,
            payload,
            direct_boot_ok,
        })
    }

    fn check_unlike(&self, others: &[Self], section: &Section<'_>) {
        if others.iter().any(|other| other.project_id == self.project_id) {
            let id = &self.project_id;
            section.wrong("service_account", format_args!("project {id} has an account already; leave one out"));
        }
        let number = self.project_number.as_ref();
        if number.is_some() && others.iter().any(|other| other.project_number.as_ref() == number) {
            section.wrong("project_number", "an account above has the same number; leave one out");
        }
    }
}

impl Apns {
    /// `None` when it is switched off or wrong.
    fn read(section: &Section<'_>) -> Option<Self> {
        let enabled = section.boolean("enabled", true);
        let key_file = section.path("key_file", "AuthKey.p8");
        let (key_id, team_id) = (section.bare("key_id"), section.bare("team_id"));
        let topic = section.optional("topic");
        let endpoint = section.string("endpoint", "https://api.push.apple.com");
        let sandbox_endpoint = section.string("sandbox_endpoint", "https://api.sandbox.push.apple.com");
        let ca_file = section.path("ca_file", "");
        let custom_key = section.string("custom_key", "acme");
        let badge = section.string("badge", "10");
        let payload = [("ecss", ApnsPayload::Ecss), ("apple", ApnsPayload::Apple), ("extended", ApnsPayload::Extended)];
        let payload = section.choice("payload", payload);
        let expiration = [("wait", ApnsExpiration::Wait), ("zero", ApnsExpiration::Zero)];
        let expiration = section.choice("expiration", expiration);
        let repeat = section.boolean("repeat", false);
        let certificate_file = section.path("certificate_file", "");
        if !enabled {
            return None;
        }
        let is_certificate = certificate_file.is_some();
        let credential = match certificate_file {
            Some(file) => has_identity(section, &file).then_some(ApnsCredential::Certificate(file)),
            None => key(section, key_file, key_id),
        };
        let team_id = match team_id {
            // A certificate is for the apps that it names.
            None if is_certificate => Some(None),
            team_id => identifier(section, "team_id", team_id).map(Some),
        };
        let endpoint = section.parsed("endpoint", endpoint, address::service);
        let sandbox_endpoint = section.parsed("sandbox_endpoint", sandbox_endpoint, address::service);
        if custom_key.is_empty() || custom_key == "aps" {
            section.wrong("custom_key", "needed, and not \"aps\": the key that apps read beside it");
        }
        let ca_file = ca_file.filter(|file| has_certificate(section, "ca_file", file));
        let badge = read_badge(section, badge);
        Some(Self {
            credential: credential?,
            team_id: team_id?,
            topic: topic.map(str::to_owned),
            endpoint: endpoint?,
            sandbox_endpoint: sandbox_endpoint?,
            ca_file,
            custom_key: custom_key.to_owned(),
            badge,
            payload,
            expiration,
            repeat,
        })
    }

    /// Accounts of one team are told apart by the app that they are for.
    fn check_unlike(&self, others: &[Self], section: &Section<'_>) {
        if !others.iter().any(|other| other.team_id == self.team_id && other.topic == self.topic) {
            return;
        }
        let text = match (&self.team_id, &self.topic) {
            (Some(id), None) => format!("team {id} has an account already; leave one out"),
            (Some(id), Some(topic)) => format!("team {id} has an account for {topic} already; leave one out"),
            (None, Some(topic)) => format!("{topic} has a certificate already; leave one out"),
            (None, None) => "another certificate has neither team_id nor topic; write for which app each is".to_owned(),
        };
        section.wrong("team_id", text);
    }
}

fn key(section: &Section<'_>, file: Option<PathBuf>, id: Option<&str>) -> Option<ApnsCredential> {
    let key_id = identifier(section, "key_id", id);
    if file.is_none() {
        section.wrong("key_file", "needed: the .p8 key from Apple's developer pages");
    }
    let key_file = file.filter(|file| is_key(section, file));
    Some(ApnsCredential::Key { key_file: key_file?, key_id: key_id? })
}

/// Key ids and team ids have ten characters.
fn identifier(section: &Section<'_>, key: &str, value: Option<&str>) -> Option<String> {
    let is_id = |id: &&str| id.len() == 10 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let Some(value) = value else {
        section.wrong(key, "needed: 10 characters, as Apple's developer pages show it");
        return None;
    };
    if !is_id(&value) {
        section.wrong(key, format_args!("{value:?} is not 10 letters and digits, as Apple's developer pages show it"));
    }
    Some(value).filter(is_id).map(str::to_owned)
}

fn read_badge(section: &Section<'_>, text: &str) -> Option<u32> {
    let badge = text.parse().ok();
    if badge.is_none() && !text.is_empty() {
        section.wrong("badge", format_args!("{text:?} is not a number; write \"10\", or \"\" to send none"));
    }
    badge
}

fn is_key(section: &Section<'_>, file: &Path) -> bool {
    let Some(text) = section.file_text("key_file", file) else { return false };
    let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).ok();
    let pair = key.and_then(|key| {
        let der = key.secret_pkcs8_der();
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new()).ok()
    });
    if pair.is_none() {
        let text = "is not a .p8 key of Apple: a P-256 key between BEGIN PRIVATE KEY and END PRIVATE KEY is expected";
        section.wrong("key_file", format_args!("{} {text}", file.display()));
    }
    pair.is_some()
}

pub(super) fn has_certificate(section: &Section<'_>, key: &str, file: &Path) -> bool {
    let Some(text) = section.file_text(key, file) else { return false };
    let has_one = CertificateDer::from_pem_slice(text.as_bytes()).is_ok();
    if !has_one {
        section.wrong(key, format_args!("{} has no certificate in PEM form", file.display()));
    }
    has_one
}

/// A certificate and its key.
fn has_identity(section: &Section<'_>, file: &Path) -> bool {
    let key = "certificate_file";
    if !has_certificate(section, key, file) {
        return false;
    }
    let Some(text) = section.file_text(key, file) else { return false };
    let has_key = PrivateKeyDer::from_pem_slice(text.as_bytes()).is_ok();
    if !has_key {
        let text = "has no private key beside the certificate; put both into one PEM file, the key without a password";
        section.wrong(key, format_args!("{} {text}", file.display()));
    }
    has_key
}

impl Callback {
    /// `None` when it is switched off or wrong.
    fn read(section: &Section<'_>) -> Option<Self> {
        let url = section.optional("url");
        let secret_file = section.path("secret_file", "");
        let ca_file = section.path("ca_file", "");
        // What is wrong with it may be a password in it, so it is not shown.
        let url = address::url(url?).map_err(|error| section.wrong("url", error)).ok();
        let secret_file = secret_file.filter(|file| {
            let Some(text) = section.file_text("secret_file", file) else { return false };
            let is_empty = text.trim().is_empty();
            if is_empty {
                section.wrong("secret_file", format_args!("{} is empty; write the secret into it", file.display()));
            }
            !is_empty
        });
        let ca_file = ca_file.filter(|file| has_certificate(section, "ca_file", file));
        Some(Self { url: url?, secret_file, ca_file })
    }

    /// Whether others on the way can read what is posted.
    pub(super) fn is_in_the_clear(&self) -> bool {
        self.url.starts_with("http://") && address::service(&self.url).is_err()
    }
}
