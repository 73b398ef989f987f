//! Access tokens of Google for the token of another identity provider (workload identity federation): an exchange
//! (RFC 8693), and where the file says so a service account that is impersonated.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Verdict;
use super::client::Client;
use super::fcm::http_url;
use super::http::{self, plain};
use super::oauth::{AccessToken, Failure, SCOPE, granted};
use crate::clock::Now;

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// What an account may do that only has others to speak for it.
const IMPERSONATING_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// Google's own, where the file does not say.
const LIFETIME_DEFAULT_S: u64 = 3600;

/// A credential configuration of `type` `external_account`, as `gcloud iam workload-identity-pools create-cred-config`
/// writes it.
pub(super) struct ExternalAccount {
    audience: Box<str>,
    subject_token_type: Box<str>,
    token_url: Url,
    source: Source,
    impersonated: Option<Impersonated>,
}

/// Where the token is that is exchanged.
struct Source {
    place: Place,
    /// The member of a JSON that has it; `None`: it stands alone.
    field: Option<Box<str>>,
}

enum Place {
    File(PathBuf),
    Url { url: Url, headers: HeaderMap },
}

/// `generateAccessToken` of a service account.
struct Impersonated {
    url: Url,
    lifetime_s: u64,
}

#[derive(Deserialize)]
struct File {
    audience: Box<str>,
    subject_token_type: Box<str>,
    token_url: String,
    credential_source: CredentialSource,
    service_account_impersonation_url: Option<String>,
    #[serde(default)]
    service_account_impersonation: Impersonation,
}

#[derive(Deserialize)]
struct CredentialSource {
    file: Option<PathBuf>,
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    format: Format,
}

#[derive(Deserialize, Default)]
struct Format {
    #[serde(rename = "type")]
    kind: Option<String>,
    subject_token_field_name: Option<Box<str>>,
}

#[derive(Deserialize, Default)]
struct Impersonation {
    token_lifetime_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Generated {
    access_token: String,
    /// RFC 3339.
    expire_time: String,
}

impl ExternalAccount {
    /// Reads the file; relative paths in it start at `folder`. An error is for people.
    pub(super) fn parse(json: &[u8], folder: &Path) -> Result<Self, String> {
        let file: File = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let url = |key: &str, text: &str| http_url(text).ok_or_else(|| format!("{key} must be an https:// URL"));
        let impersonated = file.service_account_impersonation_url.as_deref().map(|text| {
            let url = url("service_account_impersonation_url", text)?;
            let lifetime_s = file.service_account_impersonation.token_lifetime_seconds.unwrap_or(LIFETIME_DEFAULT_S);
            Ok::<_, String>(Impersonated { url, lifetime_s })
        });
        Ok(Self {
            token_url: url("token_url", &file.token_url)?,
            impersonated: impersonated.transpose()?,
            source: Source::of(file.credential_source, folder)?,
            audience: file.audience,
            subject_token_type: file.subject_token_type,
        })
    }

    pub(super) async fn request(&self, client: &Client, now: Now) -> Result<AccessToken, Failure> {
        let subject = self.source.token(client).await?;
        let scope = if self.impersonated.is_some() { IMPERSONATING_SCOPE } else { SCOPE };
        let form = [
            ("grant_type", GRANT_TYPE),
            ("audience", &*self.audience),
            ("scope", scope),
            ("requested_token_type", ACCESS_TOKEN),
            ("subject_token_type", &*self.subject_token_type),
            ("subject_token", subject.as_str()),
        ];
        let answer = match client.answer(client.post(self.token_url.clone()).form(&form)).await {
            Ok(answer) => answer,
            Err(error) => return Err(Failure(http::no_answer(error))),
        };
        let exchanged = granted(&answer, now)?;
        match &self.impersonated {
            None => Ok(exchanged),
            Some(impersonated) => impersonated.request(client, exchanged.authorization, now).await,
        }
    }
}

impl Source {
    fn of(source: CredentialSource, folder: &Path) -> Result<Self, String> {
        let CredentialSource { file, url, headers, format } = source;
        let field = match (format.kind.as_deref(), format.subject_token_field_name) {
            (Some("json"), Some(field)) => Some(field),
            (Some("json"), None) => return Err("credential_source.format has no subject_token_field_name".to_owned()),
            (None | Some("text"), _) => None,
            (Some(other), _) => return Err(format!("credential_source.format.type is {other:?}, not text or json")),
        };
        let place = match (file, url) {
            (Some(file), _) => Place::File(folder.join(file)),
            (None, Some(url)) => {
                let url = http_url(&url).ok_or("credential_source.url must be an http:// or https:// URL")?;
                let headers = headers.into_iter().map(|(name, value)| {
                    Ok((HeaderName::try_from(name).map_err(drop)?, HeaderValue::try_from(value).map_err(drop)?))
                });
                let headers = headers.collect::<Result<_, ()>>();
                Place::Url { url, headers: headers.map_err(|()| "credential_source.headers are no headers")? }
            }
            (None, None) => {
                return Err("credential_source has neither file nor url; AWS and programs are not supported".to_owned());
            }
        };
        Ok(Self { place, field })
    }

    /// Read anew each time: such tokens are short-lived, and replaced in their place.
    async fn token(&self, client: &Client) -> Result<String, Failure> {
        let locked = |reason: String| Failure(Verdict::Locked(format!("subject token: {reason}").into()));
        let content = match &self.place {
            Place::File(file) => tokio::fs::read(file)
                .await
                .map_err(|error| locked(format!("{} cannot be read: {error}", file.display())))?,
            Place::Url { url, headers } => {
                match client.answer(client.get(url.clone()).headers(headers.clone())).await {
                    Ok(answer) => match answer.status {
                        200..=299 => answer.body,
                        408 | 429 | 500.. => {
                            let reason = format!("subject token: {}", answer.reason());
                            return Err(Failure(Verdict::trouble(answer.retry_after, reason)));
                        }
                        _ => return Err(locked(answer.reason())),
                    },
                    Err(error) => return Err(Failure(http::no_answer(error))),
                }
            }
        };
        let token = match &self.field {
            None => String::from_utf8(content).ok(),
            Some(field) => {
                let json: Value = serde_json::from_slice(&content).unwrap_or_default();
                json.get(&**field).and_then(Value::as_str).map(str::to_owned)
            }
        };
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        token.ok_or_else(|| locked("its source has none".to_owned()))
    }
}

impl Impersonated {
    async fn request(&self, client: &Client, authorization: HeaderValue, now: Now) -> Result<AccessToken, Failure> {
        let body = json!({"scope": [SCOPE], "lifetime": format!("{}s", self.lifetime_s)});
        let request = client.post(self.url.clone()).header(AUTHORIZATION, authorization).json(&body);
        let answer = match client.answer(request).await {
            Ok(answer) => answer,
            Err(error) => return Err(Failure(http::no_answer(error))),
        };
        if answer.status != 200 {
            let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let text = body.pointer("/error/message").and_then(Value::as_str).map_or_else(String::new, plain);
            let reason = format!("impersonation: {} {text}", answer.status);
            return Err(Failure(match answer.status {
                408 | 429 | 500.. => Verdict::trouble(answer.retry_after, reason.trim_end()),
                _ => Verdict::Locked(reason.trim_end().into()),
            }));
        }
        let unfit = || Failure(Verdict::trouble(None, "impersonation: 200 without an access token"));
        let generated: Generated = serde_json::from_slice(&answer.body).map_err(|_| unfit())?;
        let expires_at: Timestamp = generated.expire_time.parse().map_err(|_| unfit())?;
        let left = u64::try_from(expires_at.as_second()).unwrap_or_default().saturating_sub(now.unix.seconds());
        let lifetime = Duration::from_secs(left);
        AccessToken::new(&generated.access_token, lifetime, now).ok_or_else(unfit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl Fn(&mut Value)) -> String {
        let mut file = json!({
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": "https://sts.googleapis.com/v1/token",
            "credential_source": {"file": "token"},
        });
        change(&mut file);
        let parsed = ExternalAccount::parse(file.to_string().as_bytes(), Path::new("/keys"));
        parsed.err().unwrap_or_default()
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        assert_eq!(problem(|_| ()), "");
        assert!(problem(|file| drop(file.as_object_mut().unwrap().remove("audience"))).contains("audience"));
        assert_eq!(problem(|file| file["token_url"] = json!("sts")), "token_url must be an https:// URL");
        let source = |source: Value| problem(|file| file["credential_source"] = source.clone());
        assert_eq!(source(json!({"url": "http://[::1]/t", "headers": {"Metadata": "True"}})), "");
        assert!(source(json!({"environment_id": "aws1"})).contains("neither file nor url"));
        assert!(source(json!({"executable": {"command": "x"}})).contains("programs are not supported"));
        assert!(source(json!({"file": "t", "format": {"type": "json"}})).contains("subject_token_field_name"));
        assert!(source(json!({"file": "t", "format": {"type": "xml"}})).contains("\"xml\""));
    }
}
