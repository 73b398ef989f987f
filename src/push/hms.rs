//! HMS Push Kit: Huawei's phones with Android (Huawei, "Downlink message sending": v2 by project, v1 by app).

use std::path::PathBuf;

use reqwest::header::HeaderMap;

use super::client_credentials::ClientCredentials;
use super::fcm::{http_url, read};
use super::huawei_answer::verdict;
use super::oauth::{AccessTokens, Grant};
use super::payload::{self, FcmPayload};
use super::project::{self, Credential, Project};
use super::pushers::Setup;
use super::{Preview, Push, Sent, SettingsError, TokenHash};
use crate::binding::PushToken;

/// One project of AppGallery Connect: a `[[push.hms]]` table.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Empty: pushes go to the app of `client_id`.
    pub project_id: String,
    /// Of the project, or of its app.
    pub client_id: String,
    pub client_secret_file: PathBuf,
    pub endpoint: String,
    /// Where the secret is changed for access tokens.
    pub token_endpoint: String,
    /// Root certificates in PEM that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// What bodies tell of a call.
    pub payload: FcmPayload,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            project_id: String::new(),
            client_id: String::new(),
            client_secret_file: "hms.secret".into(),
            endpoint: "https://push-api.cloud.huawei.com".into(),
            token_endpoint: "https://oauth-login.cloud.huawei.com/oauth2/v3/token".into(),
            ca_file: None,
            payload: FcmPayload::Ecss,
        }
    }
}

/// A project ready to push.
pub(super) struct Account {
    pub(super) project: Project,
    payload: FcmPayload,
}

impl Account {
    /// `table` names the configuration table in errors.
    pub(super) fn open(settings: &Settings, table: &str, setup: &Setup) -> Result<Self, SettingsError> {
        let (version, id) = match settings.project_id.as_str() {
            "" => ("v1", settings.client_id.as_str()),
            id => ("v2", id),
        };
        let url = project::url(&format!("{table}.endpoint"), &settings.endpoint, &[version, id, "messages:send"])?;
        let client = project::client(table, settings.ca_file.as_deref(), setup)?;
        let key = format!("{table}.client_secret_file");
        let file = &settings.client_secret_file;
        let content = read(&key, file)?;
        let secret = std::str::from_utf8(&content).unwrap_or_default().trim();
        if secret.is_empty() {
            return Err(SettingsError::file(key, file, "must hold the client secret, on one line"));
        }
        let token_endpoint = http_url(&settings.token_endpoint).ok_or_else(|| {
            SettingsError::value(format!("{table}.token_endpoint"), "must be an http:// or https:// URL")
        })?;
        let grant = Grant::ClientCredentials(ClientCredentials {
            client_id: settings.client_id.as_str().into(),
            client_secret: secret.into(),
            token_endpoint,
        });
        let credential = Credential::Access(AccessTokens::new(grant, client.clone(), setup.timeout));
        let project = Project::new("hms", id, url, client, credential, setup);
        Ok(Self { project, payload: settings.payload })
    }

    pub(super) async fn send(&self, push: &Push, token: &PushToken) -> Sent {
        let body = |limit| payload::hms(push, self.payload, token.reveal(), limit);
        self.project.send(push, token, HeaderMap::new(), body, |answer| verdict(answer, &self.project)).await
    }

    pub(super) fn preview(&self, push: &Push, hash: TokenHash) -> Preview {
        let body = |token: &str| payload::hms(push, self.payload, token, payload::BYTES_MAX);
        self.project.preview(hash, &HeaderMap::new(), body)
    }
}
