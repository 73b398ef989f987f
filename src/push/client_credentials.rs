//! Access tokens for a client's secret (RFC 6749 §4.4), as Huawei grants them.

use reqwest::Url;
use serde_json::Value;

use super::Verdict;
use super::client::Client;
use super::http::{self, Answer, plain};
use super::oauth::{AccessToken, Failure, granted};
use crate::clock::Now;

/// What a client is known by at its token endpoint.
pub(super) struct ClientCredentials {
    pub(super) client_id: Box<str>,
    pub(super) client_secret: Box<str>,
    pub(super) token_endpoint: Url,
}

impl ClientCredentials {
    pub(super) async fn request(&self, client: &Client, now: Now) -> Result<AccessToken, Failure> {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &*self.client_id),
            ("client_secret", &*self.client_secret),
        ];
        let answer = match client.answer(client.post(self.token_endpoint.clone()).form(&form)).await {
            Ok(answer) => answer,
            Err(error) => return Err(Failure(http::no_answer(error))),
        };
        match refusal(&answer) {
            Some(reason) => Err(Failure(Verdict::Locked(reason.into()))),
            None => granted(&answer, now),
        }
    }
}

/// Huawei's errors are numbers, and it says them with any status.
fn refusal(answer: &Answer) -> Option<String> {
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    let error = body.get("error")?.as_u64()?;
    let sub = body.get("sub_error").and_then(Value::as_u64).map_or_else(String::new, |sub| format!("/{sub}"));
    let text = body.get("error_description").and_then(Value::as_str).unwrap_or_default();
    let is_passing = matches!(answer.status, 408 | 429 | 500..);
    (!is_passing).then(|| format!("token endpoint: {} {error}{sub}: {}", answer.status, plain(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_errors_and_words_are_of_the_rfc() {
        let answer = |status: u16, body: &str| Answer { status, retry_after: None, push_id: None, body: body.into() };
        let refusal = |status: u16, body: &str| refusal(&answer(status, body));
        let told = r#"{"sub_error":20044,"error":1101,"error_description":"The client secret is invalid"}"#;
        let expected = |status: u16| Some(format!("token endpoint: {status} 1101/20044: The client secret is invalid"));
        assert_eq!(refusal(400, told), expected(400));
        assert_eq!(refusal(200, told), expected(200));
        assert_eq!(refusal(503, told), None);
        assert_eq!(refusal(400, r#"{"error":"invalid_client"}"#), None);
        assert_eq!(refusal(200, r#"{"access_token":"a"}"#), None);
    }
}
