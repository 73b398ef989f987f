//! What a Firebase project is pushed by: a service account's key, an external account, or the machine's own account.

use std::path::Path;

use serde::Deserialize;

use super::SettingsError;
use super::external_account::ExternalAccount;
use super::fcm::{Settings, http_url, read};
use super::jwt::SigningKey;
use super::metadata::MetadataServer;
use super::oauth::{Assertion, Grant, ServiceAccount};

/// A project, and how its access tokens are come by.
pub(super) struct Credentials {
    pub(super) project_id: Box<str>,
    pub(super) grant: Grant,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type", default)]
    kind: String,
}

impl Credentials {
    /// Of the machine, whose metadata server is at `endpoint`.
    pub(super) fn of_machine(settings: &Settings, endpoint: &str, table: &str) -> Result<Self, SettingsError> {
        let endpoint = http_url(endpoint).ok_or_else(|| {
            SettingsError::value(format!("{table}.metadata_endpoint"), "must be an http:// or https:// URL")
        })?;
        Ok(Self { project_id: project_id(settings, "", table)?, grant: Grant::Metadata(MetadataServer::new(endpoint)) })
    }

    /// As the file `service_account` has them.
    pub(super) fn parse(settings: &Settings, content: &[u8], table: &str) -> Result<Self, SettingsError> {
        let file = &settings.service_account;
        let wrong = |problem: String| SettingsError::file(format!("{table}.service_account"), file, problem);
        let kind = serde_json::from_slice(content).map_or_else(|_| String::new(), |Kind { kind }| kind);
        if kind == "external_account" {
            let folder = file.parent().unwrap_or_else(|| Path::new(""));
            let account = ExternalAccount::parse(content, folder).map_err(wrong)?;
            let project_id = project_id(settings, "", table)?;
            return Ok(Self { project_id, grant: Grant::External(Box::new(account)) });
        }
        let account: ServiceAccount = serde_json::from_slice(content).map_err(|error| {
            wrong(format!("{error}; must be a service account's key file as Firebase's console exports it"))
        })?;
        let key = SigningKey::rs256(account.private_key.as_bytes())
            .map_err(|error| wrong(format!("private_key: {error}")))?;
        let token_uri = http_url(&account.token_uri)
            .ok_or_else(|| wrong("token_uri must be an http:// or https:// URL".to_owned()))?;
        let project_id = project_id(settings, &account.project_id, table)?;
        Ok(Self { project_id, grant: Grant::Assertion(Box::new(Assertion { account, key, token_uri })) })
    }
}

/// The file that `settings` names.
pub(super) fn content(settings: &Settings, table: &str) -> Result<Vec<u8>, SettingsError> {
    read(&format!("{table}.service_account"), &settings.service_account)
}

/// The setting, else what the credentials name.
fn project_id(settings: &Settings, named: &str, table: &str) -> Result<Box<str>, SettingsError> {
    match (settings.project_id.as_str(), named) {
        ("", "") => Err(SettingsError::value(format!("{table}.project_id"), "needed: the credentials do not name it")),
        ("", named) => Ok(named.into()),
        (id, _) => Ok(id.into()),
    }
}
