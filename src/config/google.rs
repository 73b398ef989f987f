//! What `[[push.fcm]]` is authorized by: the files that Google hands out, or the account of the machine.

use std::borrow::Cow;
use std::path::PathBuf;

use ring::signature::RsaKeyPair;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::Value;

use super::address::{self, Host};
use super::section::Section;

/// What a Firebase project is pushed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FcmCredential {
    /// The JSON of a service account, or of an external account; it was read and has what is needed.
    File(PathBuf),
    /// The account that the machine runs as, by the metadata server at this address.
    Metadata(String),
}

#[derive(Clone, Copy)]
enum Kind {
    File,
    Metadata,
}

/// What is needed of a service account's JSON.
#[derive(Deserialize)]
struct ServiceAccount {
    project_id: String,
    #[serde(rename = "client_email")]
    _client_email: String,
    private_key: String,
}

/// What is needed of an external account's JSON.
#[derive(Deserialize)]
struct ExternalAccount {
    #[serde(rename = "audience")]
    _audience: String,
    #[serde(rename = "subject_token_type")]
    _subject_token_type: String,
    token_url: String,
    service_account_impersonation_url: Option<String>,
    credential_source: Value,
}

/// The credential, and the project that it is for; `None` when something is wrong.
pub(super) fn credential(section: &Section<'_>, is_enabled: bool) -> Option<(FcmCredential, String)> {
    let kind = section.choice("credentials", [("file", Kind::File), ("metadata", Kind::Metadata)]);
    let service_account = section.path("service_account", "fcm.json");
    let project_id = section.optional("project_id");
    let endpoint = section.string("metadata_endpoint", "http://metadata.google.internal");
    if !is_enabled {
        return None;
    }
    let project_id = match project_id {
        Some(id) if !is_project_id(id) => {
            section.wrong("project_id", format_args!("{id:?} is not a project's id, such as \"my-project\""));
            return None;
        }
        project_id => project_id.map(str::to_owned),
    };
    let (credential, named) = match kind {
        Kind::File => {
            let Some(file) = service_account else {
                section.wrong("service_account", "needed: the JSON file of a service account of the Firebase project");
                return None;
            };
            let text = section.file_text("service_account", &file)?;
            let named = named_project(&text)
                .map_err(|error| section.wrong("service_account", format_args!("{} {error}", file.display())))
                .ok()?;
            (FcmCredential::File(file), named)
        }
        Kind::Metadata => {
            (FcmCredential::Metadata(section.parsed("metadata_endpoint", endpoint, metadata_server)?), None)
        }
    };
    let project_id = project_id.or(named);
    if project_id.is_none() {
        let text = "needed: the id of the Firebase project, which these credentials do not name";
        section.wrong("project_id", text);
    }
    Some((credential, project_id?))
}

/// It becomes part of a path.
fn is_project_id(id: &str) -> bool {
    id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'))
}

/// The project that a file is for, where it says so; else what is wrong with the file.
fn named_project(json: &str) -> Result<Option<String>, String> {
    let file: Value = serde_json::from_str(json).unwrap_or_default();
    match file.get("type").and_then(Value::as_str) {
        Some("external_account") => external_account(file).map(|()| None),
        Some(other) if other != "service_account" => {
            Err(format!("is of type {other:?}; a file of type service_account or external_account is needed"))
        }
        Some(_) | None => service_account(json).map(Some),
    }
}

fn service_account(json: &str) -> Result<String, String> {
    let account: ServiceAccount =
        serde_json::from_str(json).map_err(|error| format!("is not the JSON of a service account: {error}"))?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(account.private_key.as_bytes()).ok();
    key.and_then(|key| RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).ok())
        .map(|_| account.project_id)
        .ok_or_else(|| "has no usable RSA key in private_key; fetch a new one from the Google Cloud console".to_owned())
}

fn external_account(file: Value) -> Result<(), String> {
    let account: ExternalAccount = serde_json::from_value(file)
        .map_err(|error| format!("is not the JSON of an external account: {error}; gcloud writes one by `iam workload-identity-pools create-cred-config`"))?;
    let url =
        |key: &str, text: &str| address::service(text).map(drop).map_err(|error| format!("has a {key} that {error}"));
    url("token_url", &account.token_url)?;
    account
        .service_account_impersonation_url
        .as_deref()
        .map_or(Ok(()), |text| url("service_account_impersonation_url", text))?;
    let has = |key: &str| account.credential_source.get(key).is_some_and(Value::is_string);
    match has("file") || has("url") {
        true => Ok(()),
        false => {
            Err("takes its token neither from a file nor from a URL (credential_source); AWS and programs are not \
                      supported"
                .to_owned())
        }
    }
}

/// Its answers go over no network that others share: Google's own name and addresses for it, or this machine.
fn metadata_server(text: &str) -> Result<String, Cow<'static, str>> {
    let wrong = || Cow::from("is not a metadata server; write http://metadata.google.internal");
    let authority = text.strip_prefix("http://").ok_or_else(wrong)?.trim_end_matches('/');
    let address = address::host_port(authority).map_err(|_| wrong())?;
    let is_it = match &address.host {
        Host::Name(name) => matches!(&**name, "metadata.google.internal" | "localhost"),
        Host::Ip(ip) => ip.is_loopback() || matches!(ip.to_string().as_str(), "169.254.169.254" | "fd20:ce::254"),
    };
    if is_it { Ok(text.trim_end_matches('/').to_owned()) } else { Err(wrong()) }
}
