//! What FCM's answers mean (Firebase, "ErrorCode"; "FCM throttling and quotas").

use std::time::Duration;

use serde_json::Value;

use super::http::{Answer, plain, shown_id};
use super::{Outcome, Verdict};

/// Firebase's advice for a 429 without Retry-After.
const QUOTA_PAUSE: Duration = Duration::from_secs(60);

/// FCM's own error code decides, else the API's status, else the HTTP class: gateways on the way answer in HTML.
pub(super) fn verdict(answer: &Answer) -> Verdict {
    if (200..300).contains(&answer.status) {
        return Verdict::Final(Outcome::Accepted);
    }
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let error = body.get("error").unwrap_or(&Value::Null);
    let code = error_code(error).or_else(|| error.get("status").and_then(Value::as_str)).unwrap_or_default();
    let reason = format!("{} {}", answer.status, plain(code)).trim_end().to_owned();
    // What only people can mend comes with what the provider says of it.
    let in_full = || match error.get("message").and_then(Value::as_str) {
        Some(message) if !message.is_empty() => format!("{reason}: {}", plain(message)),
        Some(_) | None => reason.clone(),
    };
    match code {
        "UNREGISTERED" => Verdict::Final(Outcome::dead(None, reason)),
        // A key of another project makes every good token such a one.
        "SENDER_ID_MISMATCH" => Verdict::Final(Outcome::misfit(reason)),
        "INVALID_ARGUMENT" if names_the_token(error) => {
            Verdict::Final(Outcome::misfit(format!("{reason}: message.token")))
        }
        "INVALID_ARGUMENT" if says_too_big(error) => Verdict::TooLarge(reason.into()),
        "INVALID_ARGUMENT" if is_no_token(error) => Verdict::Final(Outcome::misfit(in_full())),
        "UNAUTHENTICATED" => Verdict::StaleCredential(reason.into()),
        "QUOTA_EXCEEDED" if !is_of_the_project(error) => {
            Verdict::token_limit(answer.retry_after.or(Some(QUOTA_PAUSE)), reason)
        }
        "QUOTA_EXCEEDED" | "RESOURCE_EXHAUSTED" => Verdict::trouble(answer.retry_after.or(Some(QUOTA_PAUSE)), reason),
        "UNAVAILABLE" | "INTERNAL" => Verdict::trouble(answer.retry_after, reason),
        // The first is about the project's own rights with Apple, which only some of its contacts need.
        "THIRD_PARTY_AUTH_ERROR" | "INVALID_ARGUMENT" => Verdict::Final(Outcome::refused(in_full())),
        "PERMISSION_DENIED" | "NOT_FOUND" => Verdict::Locked(in_full().into()),
        _ => by_status(answer, reason),
    }
}

fn by_status(answer: &Answer, reason: String) -> Verdict {
    match answer.status {
        401 => Verdict::StaleCredential(reason.into()),
        413 => Verdict::TooLarge(reason.into()),
        403 => Verdict::Locked(reason.into()),
        429 => Verdict::trouble(answer.retry_after.or(Some(QUOTA_PAUSE)), reason),
        408 | 500..=599 => Verdict::trouble(answer.retry_after, reason),
        _ => Verdict::Final(Outcome::refused(reason)),
    }
}

/// `details[].errorCode` of the entry of type `google.firebase.fcm.v1.FcmError`.
fn error_code(error: &Value) -> Option<&str> {
    details(error).find_map(|detail| detail.get("errorCode")?.as_str())
}

/// Whether a `google.rpc.BadRequest` among the details is about the token.
fn names_the_token(error: &Value) -> bool {
    details(error)
        .filter_map(|detail| detail.get("fieldViolations")?.as_array())
        .flatten()
        .any(|violation| violation.get("field").and_then(Value::as_str) == Some("message.token"))
}

/// So FCM answers to what never was a token: its own code, and no `google.rpc.BadRequest` that says which field it is about.
/// What it says of other fields has one, or no code of its own.
fn is_no_token(error: &Value) -> bool {
    let names_fields = details(error).any(|detail| detail.get("fieldViolations").is_some());
    let message = error.get("message").and_then(Value::as_str).unwrap_or_default();
    error_code(error).is_some() && !names_fields && !message.contains("'message")
}

/// Whether a quota is the whole project's, as far as the answer says which it is: in a `google.rpc.QuotaFailure`, or by
/// the limit's name in a `google.rpc.ErrorInfo`. Else it is the device's or the topic's.
fn is_of_the_project(error: &Value) -> bool {
    let violations = details(error).filter_map(|detail| detail.get("violations")?.as_array()).flatten();
    let said = violations.flat_map(|violation| [violation.get("subject"), violation.get("description")]).flatten();
    let limits = details(error).filter_map(|detail| detail.pointer("/metadata/quota_limit"));
    let said: Vec<_> = said.chain(limits).filter_map(Value::as_str).map(str::to_ascii_lowercase).collect();
    let says = |word: &str| said.iter().any(|text| text.contains(word));
    says("project") && !says("device") && !says("topic")
}

/// FCM has no code of its own for a message over its limit.
fn says_too_big(error: &Value) -> bool {
    error.get("message").and_then(Value::as_str).is_some_and(|message| message.contains("too big"))
}

fn details(error: &Value) -> impl Iterator<Item = &Value> {
    error.get("details").and_then(Value::as_array).into_iter().flatten()
}

/// `projects/…/messages/…`, of a message that was taken; the legacy API has a `message_id`.
pub(super) fn message_name(answer: &Answer) -> Option<Box<str>> {
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    let name = body.get("name").or_else(|| body.pointer("/results/0/message_id"));
    name.and_then(Value::as_str).and_then(shown_id)
}

/// The legacy API says 200 to a failed push and has the error in `results`.
pub(super) fn legacy_verdict(answer: &Answer) -> Verdict {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let error = body.pointer("/results/0/error").and_then(Value::as_str);
    let Some(error) = error else {
        return match answer.status {
            200..=299 => Verdict::Final(Outcome::Accepted),
            status => by_status(answer, status.to_string()),
        };
    };
    let reason = format!("{} {}", answer.status, plain(error));
    match error {
        "NotRegistered" => Verdict::Final(Outcome::dead(None, reason)),
        "InvalidRegistration" | "MismatchSenderId" => Verdict::Final(Outcome::misfit(reason)),
        "MessageTooBig" => Verdict::TooLarge(reason.into()),
        "Unavailable" | "InternalServerError" => Verdict::trouble(answer.retry_after, reason),
        "DeviceMessageRateExceeded" => Verdict::token_limit(answer.retry_after, reason),
        _ => Verdict::Final(Outcome::refused(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, retry_after: None, push_id: None, body: body.as_bytes().to_vec() }
    }

    #[test]
    fn unknown_bodies_go_by_http_class() {
        let html = "<html><body><h1>502 Bad Gateway</h1></body></html>";
        let try_again = |status: u16| Verdict::trouble(None, status.to_string());
        let refused = |status: u16| Verdict::Final(Outcome::refused(status.to_string()));
        for status in [500, 502, 503, 504, 408] {
            assert_eq!(verdict(&answer(status, html)), try_again(status));
            assert_eq!(legacy_verdict(&answer(status, html)), try_again(status));
        }
        for status in [301, 302, 307, 400, 404, 405] {
            assert_eq!(verdict(&answer(status, html)), refused(status));
            assert_eq!(verdict(&answer(status, "[1")), refused(status));
            assert_eq!(verdict(&answer(status, r#"{"error":[{"details":7}]}"#)), refused(status));
            assert_eq!(legacy_verdict(&answer(status, html)), refused(status));
        }
        assert_eq!(verdict(&answer(401, html)), Verdict::StaleCredential("401".into()));
        assert_eq!(verdict(&answer(413, html)), Verdict::TooLarge("413".into()));
        assert_eq!(verdict(&answer(429, html)), Verdict::trouble(Some(QUOTA_PAUSE), "429"));
        assert_eq!(verdict(&answer(403, html)), Verdict::Locked("403".into()));
        assert_eq!(legacy_verdict(&answer(403, html)), Verdict::Locked("403".into()));
        assert_eq!(verdict(&answer(200, html)), Verdict::Final(Outcome::Accepted));
    }

    #[test]
    fn own_code_comes_before_the_status() {
        let body = r#"{"error":{"code":404,"status":"NOT_FOUND","details":[{"@type":"other"},
            {"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"UNREGISTERED"}]}}"#;
        assert_eq!(verdict(&answer(404, body)), Verdict::Final(Outcome::dead(None, "404 UNREGISTERED")));
        let body = r#"{"error":{"code":404,"status":"NOT_FOUND","message":"Project not found"}}"#;
        assert_eq!(verdict(&answer(404, body)), Verdict::Locked("404 NOT_FOUND: Project not found".into()));
    }

    #[test]
    fn a_quota_is_the_devices_unless_the_answer_says_that_it_is_the_projects() {
        let quota = |status: &str, details: &str| {
            let body = format!(r#"{{"error":{{"code":429,"status":"{status}","details":[{details}]}}}}"#);
            verdict(&answer(429, &body))
        };
        let of_fcm = r#"{"errorCode":"QUOTA_EXCEEDED"}"#;
        let failure = |subject: &str, description: &str| {
            format!(r#"{of_fcm},{{"violations":[{{"subject":"{subject}","description":"{description}"}}]}}"#)
        };
        let of_token = Verdict::token_limit(Some(QUOTA_PAUSE), "429 QUOTA_EXCEEDED");
        for details in [
            of_fcm.to_owned(),
            failure("device:abc", "Device message rate exceeded"),
            failure("project:demo", "Topic message rate exceeded"),
        ] {
            assert_eq!(quota("RESOURCE_EXHAUSTED", &details), of_token, "{details}");
        }
        let of_project = Verdict::trouble(Some(QUOTA_PAUSE), "429 QUOTA_EXCEEDED");
        assert_eq!(quota("RESOURCE_EXHAUSTED", &failure("project:demo", "Message rate exceeded")), of_project);
        let info = r#"{"reason":"RATE_LIMIT_EXCEEDED","metadata":{"quota_limit":"SendsPerMinutePerProject"}}"#;
        let of_project = Verdict::trouble(Some(QUOTA_PAUSE), "429 RESOURCE_EXHAUSTED");
        assert_eq!(quota("RESOURCE_EXHAUSTED", info), of_project);
    }

    #[test]
    fn what_is_no_token_is_told_from_what_is_no_message() {
        let of_fcm =
            r#"{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"INVALID_ARGUMENT"}"#;
        let field = |name: &str| {
            let of_field =
                r#"{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":"FIELD"}]}"#;
            of_field.replace("FIELD", name)
        };
        let verdict = |details: &str, message: &str| {
            let status = r#""code":400,"status":"INVALID_ARGUMENT""#;
            let body = format!(r#"{{"error":{{{status},"message":"{message}","details":[{details}]}}}}"#);
            verdict(&answer(400, &body))
        };
        let misfit = |reason: &str| Verdict::Final(Outcome::misfit(format!("400 INVALID_ARGUMENT: {reason}")));
        let refused = |reason: &str| Verdict::Final(Outcome::refused(format!("400 INVALID_ARGUMENT: {reason}")));
        let no_token = "The registration token is not a valid FCM registration token";
        assert_eq!(verdict(of_fcm, no_token), misfit(no_token));
        let unspecific = "Request contains an invalid argument.";
        assert_eq!(verdict(of_fcm, unspecific), misfit(unspecific));
        assert_eq!(verdict(&[of_fcm, &field("message.token")].join(","), no_token), misfit("message.token"));
        // Ours.
        assert_eq!(verdict(&[of_fcm, &field("message.data")].join(","), unspecific), refused(unspecific));
        assert_eq!(verdict(&field("message.data"), unspecific), refused(unspecific));
        let of_data = "Invalid value at 'message.data[0].value' (TYPE_STRING), 7";
        assert_eq!(verdict(of_fcm, of_data), refused(of_data));
        assert_eq!(verdict("", unspecific), refused(unspecific));
        assert_eq!(verdict(of_fcm, "Android message is too big"), Verdict::TooLarge("400 INVALID_ARGUMENT".into()));
    }

    #[test]
    fn message_over_the_limit_is_to_be_shortened() {
        let body = r#"{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"Android message is too big"}}"#;
        assert_eq!(verdict(&answer(400, body)), Verdict::TooLarge("400 INVALID_ARGUMENT".into()));
    }

    #[test]
    fn legacy_answers() {
        let check = |error: &str, expected: Verdict| {
            let body = format!(r#"{{"multicast_id":1,"success":0,"failure":1,"results":[{{"error":"{error}"}}]}}"#);
            assert_eq!(legacy_verdict(&answer(200, &body)), expected);
        };
        check("NotRegistered", Verdict::Final(Outcome::dead(None, "200 NotRegistered")));
        check("InvalidRegistration", Verdict::Final(Outcome::misfit("200 InvalidRegistration")));
        check("MismatchSenderId", Verdict::Final(Outcome::misfit("200 MismatchSenderId")));
        check("MessageTooBig", Verdict::TooLarge("200 MessageTooBig".into()));
        check("Unavailable", Verdict::trouble(None, "200 Unavailable"));
        check("DeviceMessageRateExceeded", Verdict::token_limit(None, "200 DeviceMessageRateExceeded"));
        check("InvalidParameters", Verdict::Final(Outcome::refused("200 InvalidParameters")));
        let body = r#"{"multicast_id":1,"success":1,"failure":0,"results":[{"message_id":"1:08"}]}"#;
        assert_eq!(legacy_verdict(&answer(200, body)), Verdict::Final(Outcome::Accepted));
    }
}
