//! What a token endpoint says when it gives no access token (RFC 6749 §5.2), and what is to be done about it.

use serde::Deserialize;

use super::http::{Answer, plain};
use crate::clock::Now;

#[derive(Deserialize, Default)]
struct NotGranted {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
}

/// For people. `now`: when the token was asked for.
pub(super) fn refusal(answer: &Answer, now: Now) -> String {
    let NotGranted { error, error_description } = serde_json::from_slice(&answer.body).unwrap_or_default();
    let said = format!("token endpoint: {} {}", answer.status, plain(&error)).trim_end().to_owned();
    let remedy = remedy(&error_description.to_ascii_lowercase(), now);
    match (error_description.is_empty(), remedy) {
        (true, _) => said,
        (false, None) => format!("{said}: {}", plain(&error_description)),
        (false, Some(remedy)) => {
            format!("{said}: {}: {remedy}", plain(&error_description).trim_end_matches(['.', ' ']))
        }
    }
}

/// Google tells by its description alone which of the things behind `invalid_grant` it is.
fn remedy(description: &str, now: Now) -> Option<String> {
    let says = |words: &[&str]| words.iter().any(|word| description.contains(word));
    if says(&["signature"]) {
        return Some(
            "the key was deleted, or is not this account's; fetch a new one in the Google Cloud console".to_owned(),
        );
    }
    if says(&["account not found", "account has been deleted", "account is disabled", "invalid email"]) {
        return Some("the service account was deleted or disabled; make another one, with its key and role".to_owned());
    }
    if says(&["timeframe", "short-lived", "iat and exp", "expired"]) {
        let time = i64::try_from(now.unix.seconds()).ok().and_then(|time| jiff::Timestamp::from_second(time).ok());
        let time = time.map_or_else(|| "another time".to_owned(), |time| time.to_string());
        return Some(format!("this machine's clock says {time}; set it right"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::push::clock;

    fn told(status: u16, body: &str) -> String {
        let now = Now { unix: UnixMillis(1_623_753_491_500), ..clock() };
        refusal(&Answer { status, retry_after: None, push_id: None, body: body.as_bytes().to_vec() }, now)
    }

    fn invalid_grant(description: &str) -> String {
        told(400, &format!(r#"{{"error":"invalid_grant","error_description":"{description}"}}"#))
    }

    #[test]
    fn a_wrong_clock_a_deleted_key_and_a_deleted_account_are_told_apart() {
        assert_eq!(
            invalid_grant(
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat \
                 and exp values in the JWT claim."
            ),
            "token endpoint: 400 invalid_grant: Invalid JWT: Token must be a short-lived token (60 minutes) and in a \
             reasonable: this machine's clock says 2021-06-15T10:38:11Z; set it right"
        );
        assert_eq!(
            invalid_grant("Invalid JWT Signature."),
            "token endpoint: 400 invalid_grant: Invalid JWT Signature: the key was deleted, or is not this account's; fetch \
             a new one in the Google Cloud console"
        );
        assert_eq!(
            invalid_grant("Invalid grant: account not found"),
            "token endpoint: 400 invalid_grant: Invalid grant: account not found: the service account was deleted or \
             disabled; make another one, with its key and role"
        );
    }

    #[test]
    fn what_else_is_said_is_passed_on() {
        assert_eq!(invalid_grant("Brand\\nNew"), "token endpoint: 400 invalid_grant: Brand?New");
        assert_eq!(told(401, r#"{"error":"invalid_client"}"#), "token endpoint: 401 invalid_client");
        assert_eq!(told(503, "<html>"), "token endpoint: 503");
        assert_eq!(told(400, r#"{"error":7}"#), "token endpoint: 400");
    }
}
