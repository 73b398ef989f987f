//! RuStore Push: phones with VK's store, without Google's services (RuStore, "Sending push notifications (API)").
//!
//! It has the path and the body of FCM HTTP v1 but for the priority, and a service token that never ends.

use std::path::PathBuf;

use reqwest::header::HeaderMap;
use serde_json::Value;

use super::http::{Answer, plain};
use super::payload::{self, FcmPayload};
use super::project::{self, Credential, Project};
use super::pushers::Setup;
use super::{Outcome, Preview, Push, Sent, SettingsError, TokenHash, Verdict};
use crate::binding::PushToken;

/// One project of the RuStore console: a `[[push.rustore]]` table.
#[derive(Debug, Clone)]
pub struct Settings {
    pub project_id: String,
    /// Holds the service token.
    pub token_file: PathBuf,
    pub endpoint: String,
    /// Root certificates in PEM that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// What bodies tell of a call.
    pub payload: FcmPayload,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            project_id: String::new(),
            token_file: "rustore.token".into(),
            endpoint: "https://vkpns.rustore.ru".into(),
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
        let id = settings.project_id.as_str();
        let path = ["v1", "projects", id, "messages:send"];
        let url = project::url(&format!("{table}.endpoint"), &settings.endpoint, &path)?;
        let client = project::client(table, settings.ca_file.as_deref(), setup)?;
        let credential = Credential::bearer(&format!("{table}.token_file"), &settings.token_file)?;
        let project = Project::new("rustore", id, url, client, credential, setup);
        Ok(Self { project, payload: settings.payload })
    }

    pub(super) async fn send(&self, push: &Push, token: &PushToken) -> Sent {
        let body = |limit| payload::rustore(push, self.payload, token.reveal(), limit);
        self.project.send(push, token, HeaderMap::new(), body, |answer| self.verdict(answer)).await
    }

    pub(super) fn preview(&self, push: &Push, hash: TokenHash) -> Preview {
        let body = |token: &str| payload::rustore(push, self.payload, token, payload::BYTES_MAX);
        self.project.preview(hash, &HeaderMap::new(), body)
    }

    /// The status of the API decides, else that of HTTP.
    fn verdict(&self, answer: &Answer) -> Verdict {
        if (200..300).contains(&answer.status) {
            return Verdict::Final(Outcome::Accepted);
        }
        let (status, message) = said(answer);
        let reason = format!("{} {}", answer.status, plain(&status)).trim_end().to_owned();
        let in_full = if message.is_empty() { reason.clone() } else { format!("{reason}: {}", plain(&message)) };
        match (&*status, answer.status) {
            ("UNREGISTERED", _) => Verdict::Final(Outcome::dead(None, reason)),
            ("NOT_FOUND", _) | (_, 410) => self.project.unknown_token(reason),
            // The service token is another project's, or was withdrawn.
            ("PERMISSION_DENIED" | "UNAUTHENTICATED", _) | (_, 401 | 403) => Verdict::Locked(in_full.into()),
            ("INVALID_ARGUMENT", _) if message.contains("token") => Verdict::Final(Outcome::misfit(in_full)),
            (_, 413) => Verdict::TooLarge(reason.into()),
            ("INTERNAL" | "UNAVAILABLE" | "TOO_MANY_REQUESTS" | "RESOURCE_EXHAUSTED", _)
            | (_, 408 | 429 | 500..=599) => Verdict::trouble(answer.retry_after, reason),
            _ => Verdict::Final(Outcome::refused(in_full)),
        }
    }
}

/// `status` and `message` of an error, which stand in `error` as with FCM, or at the top.
fn said(answer: &Answer) -> (String, String) {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let error = body.get("error").filter(|error| error.is_object()).unwrap_or(&body);
    let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let own = error.pointer("/details/0/errorCode").and_then(Value::as_str);
    (own.map_or_else(|| text("status"), str::to_owned), text("message"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_files_are_named_with_what_would_be_right() {
        let folder = tempfile::tempdir().unwrap();
        let token_file = folder.path().join("rustore.token");
        let open = |content: Option<&str>| {
            if let Some(content) = content {
                std::fs::write(&token_file, content).unwrap();
            }
            let project_id = "my-project".to_owned();
            let settings = Settings { project_id, token_file: token_file.clone(), ..Settings::default() };
            Account::open(&settings, "push.rustore[0]", &Setup::default())
        };
        let problem = |content| open(content).err().unwrap().to_string();
        assert!(problem(None).contains("cannot be read: No such file"));
        for wrong in ["", " \n", "two words", "ключ"] {
            let told = problem(Some(wrong));
            assert!(told.starts_with("push.rustore[0].token_file = ") && told.ends_with("the token, on one line"));
        }
        assert!(open(Some("token\n")).is_ok());
    }

    #[test]
    fn errors_are_read_in_both_forms() {
        let said = |body: &str| said(&Answer { status: 404, retry_after: None, push_id: None, body: body.into() });
        let told = ("NOT_FOUND".to_owned(), "no".to_owned());
        assert_eq!(said(r#"{"error":{"code":404,"message":"no","status":"NOT_FOUND"}}"#), told);
        assert_eq!(said(r#"{"code":404,"message":"no","status":"NOT_FOUND"}"#), told);
        for none in ["", "<html>", "[]", r#"{"error":"x"}"#] {
            assert_eq!(said(none), (String::new(), String::new()), "{none}");
        }
    }
}
