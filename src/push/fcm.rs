//! Firebase Cloud Messaging: the accounts we push by, and the sending (FCM HTTP v1, "projects.messages: send").

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::client::Client;
use super::fcm_answer::{legacy_verdict, message_name, verdict};
use super::gate::Gate;
use super::google::{self, Credentials};
use super::http;
use super::oauth::{AccessToken, AccessTokens};
use super::payload::{self, Body, FcmForm, FcmPayload};
use super::pushers::Setup;
use super::{Outcome, Preview, Push, Sent, SettingsError, TokenHash, Verdict, clock};
use crate::binding::PushToken;

/// One Firebase project: a `[[push.fcm]]` table.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Key file as Firebase's console exports it, or an external account's. In the legacy profile it may be a file with
    /// the server key alone.
    pub service_account: PathBuf,
    /// Where the metadata server of this machine is, whose account is used instead of a file.
    pub metadata_endpoint: Option<String>,
    /// Empty where the file names it.
    pub project_id: String,
    /// What apps may send as `pn-param` instead of the project id; empty when they do not.
    pub project_number: String,
    pub endpoint: String,
    /// Root certificates in PEM that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    pub profile: Profile,
    /// Of the v1 profile.
    pub payload: FcmPayload,
    /// Of the v1 profile: as in [`FcmForm`].
    pub direct_boot_ok: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            service_account: "fcm.json".into(),
            metadata_endpoint: None,
            project_id: String::new(),
            project_number: String::new(),
            endpoint: "https://fcm.googleapis.com".into(),
            ca_file: None,
            profile: Profile::V1,
            payload: FcmPayload::Ecss,
            direct_boot_ok: false,
        }
    }
}

impl Settings {
    fn form(&self) -> FcmForm {
        FcmForm { payload: self.payload, direct_boot_ok: self.direct_boot_ok }
    }
}

/// The form on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    #[default]
    V1,
    /// `POST /fcm/send`, which Google shut down in 2024: for private gateways that still speak it.
    Legacy,
}

/// A project ready to push.
pub(super) struct Account {
    project_id: Box<str>,
    project_number: Box<str>,
    url: Url,
    profile: Profile,
    form: FcmForm,
    credential: Credential,
    lanes: Lanes,
    pub(super) gate: Gate,
}

enum Credential {
    ServiceAccount(AccessTokens),
    ServerKey(HeaderValue),
}

/// Connections: each client keeps one of HTTP/2 to a host, whose server allows a hundred streams or so.
struct Lanes([Lane; LANES]);

struct Lane {
    client: Client,
    under_way: AtomicUsize,
}

const LANES: usize = 4;
/// Requests on a lane before the next one is used.
const LANE_FULL: usize = 100;

/// A request on a lane.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lanes {
    /// An error is in words.
    fn open(setup: &Setup, roots: &[CertificateDer<'static>]) -> Result<Self, String> {
        let lane = || -> Result<Lane, String> {
            let client = Client::new(setup, roots)?;
            Ok(Lane { client, under_way: AtomicUsize::new(0) })
        };
        Ok(Self([lane()?, lane()?, lane()?, lane()?]))
    }

    fn client(&self) -> Client {
        let [first, ..] = &self.0;
        first.client.clone()
    }

    /// The first lane that is not full, so that few connections are kept; else the emptiest.
    fn place(&self) -> (&Client, Place<'_>) {
        let [first, ..] = &self.0;
        let load = |lane: &&Lane| lane.under_way.load(Ordering::Relaxed);
        let lane = self.0.iter().find(|lane| load(lane) < LANE_FULL);
        let lane = lane.or_else(|| self.0.iter().min_by_key(load)).unwrap_or(first);
        lane.under_way.fetch_add(1, Ordering::Relaxed);
        (&lane.client, Place(&lane.under_way))
    }
}

/// What one request is authorized by.
enum Authorization {
    Access(Arc<AccessToken>),
    ServerKey(HeaderValue),
}

impl Authorization {
    fn header(&self) -> HeaderValue {
        match self {
            Self::Access(token) => token.authorization.clone(),
            Self::ServerKey(key) => key.clone(),
        }
    }
}

impl Account {
    /// `table` names the configuration table in errors.
    pub(super) fn open(settings: &Settings, table: &str, setup: &Setup) -> Result<Self, SettingsError> {
        let timeout = setup.timeout;
        let endpoint = http_url(&settings.endpoint)
            .ok_or_else(|| SettingsError::value(format!("{table}.endpoint"), "must be an http:// or https:// URL"))?;
        let roots = roots(&format!("{table}.ca_file"), settings.ca_file.as_deref())?;
        let lanes = Lanes::open(setup, &roots).map_err(|problem| SettingsError::value(table, problem))?;
        let credentials = match &settings.metadata_endpoint {
            Some(endpoint) => Credentials::of_machine(settings, endpoint, table)?,
            None => match google::content(settings, table)? {
                content if settings.profile == Profile::Legacy && !content.trim_ascii_start().starts_with(b"{") => {
                    return Self::of_server_key(settings, &content, endpoint, table, lanes, setup);
                }
                content => Credentials::parse(settings, &content, table)?,
            },
        };
        let Credentials { project_id, grant } = credentials;
        let url = match settings.profile {
            Profile::V1 => v1_url(endpoint, &project_id),
            Profile::Legacy => legacy_url(endpoint),
        };
        let tokens = AccessTokens::new(grant, lanes.client(), timeout);
        Ok(Self {
            gate: Gate::new(format!("fcm project {project_id}"), setup.limits),
            project_id,
            project_number: settings.project_number.as_str().into(),
            url,
            profile: settings.profile,
            form: settings.form(),
            credential: Credential::ServiceAccount(tokens),
            lanes,
        })
    }

    /// In the legacy profile, with the key that the file has.
    fn of_server_key(
        settings: &Settings,
        content: &[u8],
        endpoint: Url,
        table: &str,
        lanes: Lanes,
        setup: &Setup,
    ) -> Result<Self, SettingsError> {
        let wrong = "must hold the server key on one line, or a service account's JSON";
        let wrong = || SettingsError::file(format!("{table}.service_account"), &settings.service_account, wrong);
        Ok(Self {
            project_id: "".into(),
            project_number: settings.project_number.as_str().into(),
            url: legacy_url(endpoint),
            profile: Profile::Legacy,
            form: settings.form(),
            credential: Credential::ServerKey(server_key(content).ok_or_else(wrong)?),
            lanes,
            gate: Gate::new(format!("fcm gateway {}", settings.endpoint), setup.limits),
        })
    }

    /// Whether `pn-param` names this project.
    pub(super) fn is_named(&self, param: &str) -> bool {
        !param.is_empty() && (param == &*self.project_id || param == &*self.project_number)
    }

    /// One attempt. A stale access token is renewed once and an oversized report shortened once within it.
    pub(super) async fn send(&self, push: &Push, token: &PushToken) -> Sent {
        let (mut limit, mut renewed) = (payload::BYTES_MAX, false);
        loop {
            let authorization = match self.authorization().await {
                Ok(authorization) => authorization,
                Err(verdict) => return verdict.sent(0).before_any_push(),
            };
            if push.purpose.is_over() {
                return Sent::unsent(Outcome::Withdrawn);
            }
            let Body { bytes, left_out } = self.body(push, token, limit);
            let (verdict, push_id) = self.post(bytes, authorization.header(), token).await;
            let verdict = match verdict {
                Verdict::StaleCredential(_) if !renewed && self.renew(&authorization) => {
                    renewed = true;
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
            return Sent { push_id, ..verdict.sent(left_out) };
        }
    }

    /// Has an access token and a connection ready before the first push. What fails here fails again with a push, and is
    /// told then.
    pub(super) async fn warm_up(&self) {
        if let Ok(authorization) = self.authorization().await {
            drop(authorization);
            let mut root = self.url.clone();
            root.set_path("/");
            let client = self.lanes.client();
            let _ = client.answer(client.head(root)).await;
        }
    }

    /// What would be sent, with `hash` in the place of the token.
    pub(super) fn preview(&self, push: &Push, hash: TokenHash) -> Preview {
        let shown = PushToken::new(hash.to_string());
        let body = self.body(push, &shown, payload::BYTES_MAX).bytes;
        Preview {
            account: self.gate.name().to_owned(),
            token: hash,
            url: self.url.to_string(),
            headers: Vec::new(),
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    fn body(&self, push: &Push, token: &PushToken, limit: usize) -> Body {
        match self.profile {
            Profile::V1 => payload::fcm_v1(push, self.form, token.reveal(), limit),
            Profile::Legacy => payload::fcm_legacy(push, token.reveal(), limit),
        }
    }

    async fn authorization(&self) -> Result<Authorization, Verdict> {
        match &self.credential {
            Credential::ServiceAccount(tokens) => Ok(Authorization::Access(tokens.current(clock()).await?)),
            Credential::ServerKey(key) => Ok(Authorization::ServerKey(key.clone())),
        }
    }

    /// Whether there will be another authorization than `refused`.
    fn renew(&self, refused: &Authorization) -> bool {
        match (&self.credential, refused) {
            (Credential::ServiceAccount(tokens), Authorization::Access(token)) => {
                tokens.invalidate(token);
                true
            }
            (Credential::ServiceAccount(_) | Credential::ServerKey(_), _) => false,
        }
    }

    /// What came of it, and what FCM calls the message.
    async fn post(&self, body: Vec<u8>, authorization: HeaderValue, token: &PushToken) -> (Verdict, Option<Box<str>>) {
        let (client, _place) = self.lanes.place();
        let request = client
            .post(self.url.clone())
            .header(AUTHORIZATION, authorization)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(body);
        match client.answer(request).await {
            Ok(answer) => {
                let answer = answer.without(token);
                let verdict = match self.profile {
                    Profile::V1 => verdict(&answer),
                    Profile::Legacy => legacy_verdict(&answer),
                };
                (verdict, message_name(&answer))
            }
            Err(error) => (http::no_answer(error), None),
        }
    }
}

fn v1_url(mut endpoint: Url, project_id: &str) -> Url {
    if let Ok(mut path) = endpoint.path_segments_mut() {
        path.pop_if_empty().extend(["v1", "projects", project_id, "messages:send"]);
    }
    endpoint
}

fn legacy_url(mut endpoint: Url) -> Url {
    if let Ok(mut path) = endpoint.path_segments_mut() {
        path.pop_if_empty().extend(["fcm", "send"]);
    }
    endpoint
}

fn server_key(content: &[u8]) -> Option<HeaderValue> {
    let key = std::str::from_utf8(content).ok()?.trim();
    if key.is_empty() || key.contains(|c: char| !c.is_ascii_graphic()) {
        return None;
    }
    let mut header = HeaderValue::try_from(format!("key={key}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

pub(super) fn http_url(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// The certificates in a PEM file that are trusted besides the system's. `key` names the configuration key in errors.
pub(super) fn roots(key: &str, file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let Some(file) = file else { return Ok(Vec::new()) };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&read(key, file)?).filter_map(Result::ok).collect();
    if certificates.is_empty() {
        return Err(SettingsError::file(key, file, "must hold certificates in PEM form (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(certificates)
}

pub(super) fn read(key: &str, file: &Path) -> Result<Vec<u8>, SettingsError> {
    std::fs::read(file).map_err(|error| SettingsError::file(key, file, format!("cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let url = |endpoint: &str| v1_url(http_url(endpoint).unwrap(), "my-project").to_string();
        assert_eq!(
            url("https://fcm.googleapis.com"),
            "https://fcm.googleapis.com/v1/projects/my-project/messages:send"
        );
        assert_eq!(url("http://[::1]:8080/fcm/"), "http://[::1]:8080/fcm/v1/projects/my-project/messages:send");
        assert_eq!(legacy_url(http_url("http://gateway").unwrap()).as_str(), "http://gateway/fcm/send");
        for wrong in ["", "fcm.googleapis.com", "ftp://host", "http:"] {
            assert!(http_url(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn wrong_files_are_named_with_what_would_be_right() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fcm.json");
        let setup = Setup::default();
        let problem = |content: Option<&str>, profile: Profile| {
            if let Some(content) = content {
                std::fs::write(&file, content).unwrap();
            }
            let settings = Settings { service_account: file.clone(), profile, ..Settings::default() };
            let error = Account::open(&settings, "push.fcm[0]", &setup).err().unwrap().to_string();
            assert!(error.starts_with("push.fcm[0].service_account = \""), "{error}");
            assert!(error.contains("fcm.json"), "{error}");
            error
        };
        assert!(problem(None, Profile::V1).contains("cannot be read: No such file"));
        assert!(problem(Some("{}"), Profile::V1).contains("missing field `project_id`"));
        let garbage = r#"{"project_id":"p","client_email":"e","private_key":"k"}"#;
        assert!(problem(Some(garbage), Profile::V1).contains("private_key: it is not a private key in PEM form"));
        assert!(problem(Some("two words"), Profile::Legacy).contains("server key on one line"));
    }
}
