//! Push Kit of HarmonyOS: Huawei's phones without Android (HarmonyOS, "Scenario-based message API", v3).

use std::path::PathBuf;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use super::fcm::read;
use super::huawei_answer::verdict;
use super::jwt::SigningKey;
use super::oauth::{AccessTokens, Grant};
use super::payload::{self, FcmPayload, HarmonyForm};
use super::project::{self, Credential, Project};
use super::pushers::Setup;
use super::self_signed::SelfSigned;
use super::{NoticeKind, Preview, Push, Sent, SettingsError, TokenHash};
use crate::binding::PushToken;

/// What a message is, by which the system decides what becomes of it.
const PUSH_TYPE: HeaderName = HeaderName::from_static("push-type");
/// Starts the app, which has to show a call.
const CALL: HeaderValue = HeaderValue::from_static("10");
/// Shown by the system.
const ALERT: HeaderValue = HeaderValue::from_static("0");
/// Kept for the app until it runs; nothing is shown.
const BACKGROUND: HeaderValue = HeaderValue::from_static("6");

/// One project of AppGallery Connect: a `[[push.harmony]]` table.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Key file of a service account, as AppGallery Connect exports it.
    pub service_account: PathBuf,
    pub endpoint: String,
    /// Root certificates in PEM that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// What bodies tell of a call.
    pub payload: FcmPayload,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            service_account: "harmony.json".into(),
            endpoint: "https://push-api.cloud.huawei.com".into(),
            ca_file: None,
            payload: FcmPayload::Ecss,
        }
    }
}

/// What is needed of the key file.
#[derive(Deserialize)]
struct ServiceAccount {
    project_id: String,
    key_id: Box<str>,
    private_key: Box<str>,
    sub_account: Box<str>,
    /// The audience of tokens; nothing is asked there.
    #[serde(default = "huawei_token_uri")]
    token_uri: Box<str>,
}

fn huawei_token_uri() -> Box<str> {
    "https://oauth-login.cloud.huawei.com/oauth2/v3/token".into()
}

/// A project ready to push.
pub(super) struct Account {
    pub(super) project: Project,
    form: HarmonyForm,
}

impl Account {
    /// `table` names the configuration table in errors.
    pub(super) fn open(settings: &Settings, table: &str, setup: &Setup) -> Result<Self, SettingsError> {
        let key = format!("{table}.service_account");
        let file = &settings.service_account;
        let wrong = |problem: String| SettingsError::file(&key, file, problem);
        let account: ServiceAccount = serde_json::from_slice(&read(&key, file)?).map_err(|error| {
            wrong(format!("{error}; must be a service account's key file as AppGallery Connect exports it"))
        })?;
        let signing_key = SigningKey::ps256(account.private_key.as_bytes())
            .map_err(|error| wrong(format!("private_key: {error}")))?;
        let id = account.project_id.as_str();
        let url = project::url(&format!("{table}.endpoint"), &settings.endpoint, &["v3", id, "messages:send"])?;
        let client = project::client(table, settings.ca_file.as_deref(), setup)?;
        let grant = Grant::SelfSigned(SelfSigned {
            key: signing_key,
            key_id: account.key_id,
            sub_account: account.sub_account,
            audience: account.token_uri,
        });
        let credential = Credential::Access(AccessTokens::new(grant, client.clone(), setup.timeout));
        let project = Project::new("harmony", id, url, client, credential, setup);
        Ok(Self { project, form: HarmonyForm { payload: settings.payload, alerts: setup.alerts.clone() } })
    }

    pub(super) async fn send(&self, push: &Push, token: &PushToken) -> Sent {
        let body = |limit| payload::harmony(push, &self.form, token.reveal(), limit);
        self.project.send(push, token, headers(push), body, |answer| verdict(answer, &self.project)).await
    }

    pub(super) fn preview(&self, push: &Push, hash: TokenHash) -> Preview {
        let body = |token: &str| payload::harmony(push, &self.form, token, payload::BYTES_MAX);
        self.project.preview(hash, &headers(push), body)
    }
}

/// Why such a notice cannot be pushed, if that is so.
pub(super) fn check(kind: NoticeKind) -> Result<(), String> {
    match kind {
        NoticeKind::Message => Err("HarmonyOS wakes an app for calls only, so a message waits in vain".to_owned()),
        // Its service wants no call to be ended by a push.
        NoticeKind::CallEnded => Err("HarmonyOS must not be told by a push that a call is over".to_owned()),
        NoticeKind::Register => Err("HarmonyOS wakes an app for calls only, so it is not asked to register".to_owned()),
        NoticeKind::Invite | NoticeKind::MissedCalls | NoticeKind::Test | NoticeKind::Text => Ok(()),
    }
}

fn headers(push: &Push) -> HeaderMap {
    let push_type = match push.notice.kind() {
        NoticeKind::Invite => CALL,
        NoticeKind::MissedCalls | NoticeKind::Text => ALERT,
        NoticeKind::Message | NoticeKind::CallEnded | NoticeKind::Register | NoticeKind::Test => BACKGROUND,
    };
    HeaderMap::from_iter([(PUSH_TYPE, push_type)])
}
