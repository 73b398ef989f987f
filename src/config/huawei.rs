//! `[[push.hms]]` and `[[push.harmony]]`: projects of AppGallery Connect.

use std::path::{Path, PathBuf};

use ring::signature::RsaKeyPair;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;

use super::address;
use super::push::{FcmPayload, has_certificate};
use super::rustore::{has_secret, project_id_of};
use super::section::Section;

const ENDPOINT: &str = "https://push-api.cloud.huawei.com";

/// `[[push.hms]]`: phones with Android.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hms {
    /// Empty: pushes go to the app of `client_id` (v1).
    pub project_id: String,
    /// Of the project or of its app; an app's own is its app id.
    pub client_id: String,
    /// It was read and has a secret.
    pub client_secret_file: PathBuf,
    /// Without a slash at its end.
    pub endpoint: String,
    pub token_endpoint: String,
    /// An extra root certificate; it was read and is one.
    pub ca_file: Option<PathBuf>,
    /// Whether apps are told who calls, too.
    pub payload: FcmPayload,
}

/// `[[push.harmony]]`: phones with HarmonyOS alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Harmony {
    /// The JSON of a service account; it was read and its key is one.
    pub service_account: PathBuf,
    /// From the service account.
    pub project_id: String,
    /// Without a slash at its end.
    pub endpoint: String,
    /// An extra root certificate; it was read and is one.
    pub ca_file: Option<PathBuf>,
    /// Whether apps are told who calls, too.
    pub payload: FcmPayload,
}

impl Hms {
    /// `None` when it is switched off or wrong.
    pub(super) fn read(section: &Section<'_>) -> Option<Self> {
        let enabled = section.boolean("enabled", true);
        let (project_id, client_id) = (section.bare("project_id"), section.bare("client_id"));
        let client_secret_file = section.path("client_secret_file", "hms.secret");
        let endpoint = section.string("endpoint", ENDPOINT);
        let token_endpoint = section.string("token_endpoint", "https://oauth-login.cloud.huawei.com/oauth2/v3/token");
        let ca_file = section.path("ca_file", "");
        let payload = section.choice("payload", [("ecss", FcmPayload::Ecss), ("extended", FcmPayload::Extended)]);
        if !enabled {
            return None;
        }
        let project_id = match project_id {
            None => Some(String::new()),
            id => project_id_of(section, id, "AppGallery Connect, under Project settings"),
        };
        let is_id = |id: &str| id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        match client_id {
            None => section.wrong("client_id", "needed: the OAuth client id, as shown in AppGallery Connect"),
            Some(id) if !is_id(id) => {
                section.wrong(
                    "client_id",
                    format_args!("{id:?} is not an OAuth client id, as shown in AppGallery Connect"),
                );
            }
            Some(_) => {}
        }
        let client_id = client_id.filter(|id| is_id(id));
        let endpoint = section.parsed("endpoint", endpoint, address::service);
        let token_endpoint = section.parsed("token_endpoint", token_endpoint, address::service);
        let ca_file = ca_file.filter(|file| has_certificate(section, "ca_file", file));
        if client_secret_file.is_none() {
            section.wrong("client_secret_file", "needed: a file with the client secret from AppGallery Connect");
        }
        let client_secret_file = client_secret_file.filter(|file| has_secret(section, "client_secret_file", file));
        Some(Self {
            project_id: project_id?,
            client_id: client_id?.to_owned(),
            client_secret_file: client_secret_file?,
            endpoint: endpoint?,
            token_endpoint: token_endpoint?,
            ca_file,
            payload,
        })
    }

    /// What `pn-param` names: the project, or the app where there is none.
    pub fn id(&self) -> &str {
        if self.project_id.is_empty() { &self.client_id } else { &self.project_id }
    }

    pub(super) fn check_unlike(&self, others: &[Self], section: &Section<'_>) {
        if others.iter().any(|other| other.id() == self.id()) {
            let (key, what) = if self.project_id.is_empty() { ("client_id", "app") } else { ("project_id", "project") };
            section.wrong(key, format_args!("{what} {} has an account already; leave one out", self.id()));
        }
    }
}

/// What is needed of a service account's JSON.
#[derive(Deserialize)]
struct ServiceAccount {
    project_id: String,
    #[serde(rename = "key_id")]
    _key_id: String,
    private_key: String,
    #[serde(rename = "sub_account")]
    _sub_account: String,
}

impl Harmony {
    /// `None` when it is switched off or wrong.
    pub(super) fn read(section: &Section<'_>) -> Option<Self> {
        let enabled = section.boolean("enabled", true);
        let service_account = section.path("service_account", "harmony.json");
        let endpoint = section.string("endpoint", ENDPOINT);
        let ca_file = section.path("ca_file", "");
        let payload = section.choice("payload", [("ecss", FcmPayload::Ecss), ("extended", FcmPayload::Extended)]);
        if !enabled {
            return None;
        }
        let endpoint = section.parsed("endpoint", endpoint, address::service);
        let ca_file = ca_file.filter(|file| has_certificate(section, "ca_file", file));
        let Some(service_account) = service_account else {
            section.wrong("service_account", "needed: the JSON file of a service account from AppGallery Connect");
            return None;
        };
        let project_id = project_id(section, &service_account);
        Some(Self { service_account, project_id: project_id?, endpoint: endpoint?, ca_file, payload })
    }

    pub(super) fn check_unlike(&self, others: &[Self], section: &Section<'_>) {
        if others.iter().any(|other| other.project_id == self.project_id) {
            let id = &self.project_id;
            section.wrong("service_account", format_args!("project {id} has an account already; leave one out"));
        }
    }
}

fn project_id(section: &Section<'_>, file: &Path) -> Option<String> {
    let text = section.file_text("service_account", file)?;
    let wrong = |problem: String| section.wrong("service_account", format_args!("{} {problem}", file.display()));
    let account: ServiceAccount = serde_json::from_str(&text)
        .map_err(|error| wrong(format!("is not the JSON of a service account: {error}")))
        .ok()?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(account.private_key.as_bytes()).ok();
    if key.and_then(|key| RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).ok()).is_none() {
        wrong("has no usable RSA key in private_key; fetch a new one from AppGallery Connect".to_owned());
        return None;
    }
    project_id_of(section, Some(&account.project_id), "AppGallery Connect")
}
