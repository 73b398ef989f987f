//! What APNs' answers mean (Apple, "Handling notification responses from APNs").

use a2::ErrorReason;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as ValueError;

use super::http::{Answer, plain};
use super::{Outcome, Verdict};
use crate::clock::UnixMillis;

#[derive(Deserialize, Default)]
struct ErrorText {
    #[serde(default)]
    reason: String,
    /// Milliseconds since 1970: from then on the token is known to be dead.
    timestamp: Option<u64>,
}

pub(super) fn verdict(answer: &Answer) -> Verdict {
    if answer.status == 200 {
        return Verdict::Final(Outcome::Accepted);
    }
    let ErrorText { reason: name, timestamp } = serde_json::from_slice(&answer.body).unwrap_or_default();
    let reason = format!("{} {}", answer.status, plain(&name)).trim_end().to_owned();
    // Both reasons that come with it, Unregistered and ExpiredToken, mean the same.
    if answer.status == 410 {
        return Verdict::Final(Outcome::dead(timestamp.map(UnixMillis), reason));
    }
    match known(&name) {
        Some(known) => by_reason(&known, answer, reason),
        None => by_status(answer, reason),
    }
}

/// Whether Apple will take no other push by the connection that this came by.
pub(super) fn wants_another_connection(answer: &Answer) -> bool {
    let ErrorText { reason, .. } = serde_json::from_slice(&answer.body).unwrap_or_default();
    matches!(reason.as_str(), "IdleTimeout" | "UnrelatedKeyIdInToken" | "Shutdown")
}

/// a2 does not know the reasons of later years.
fn known(name: &str) -> Option<ErrorReason> {
    let name: serde::de::value::StrDeserializer<'_, ValueError> = name.into_deserializer();
    ErrorReason::deserialize(name).ok()
}

fn by_reason(known: &ErrorReason, answer: &Answer, reason: String) -> Verdict {
    use ErrorReason as R;
    match known {
        // Apps say by pn-provider which endpoint they are for, and some are wrong.
        R::BadDeviceToken => Verdict::Stranger(reason.into()),
        // Only a 410 says that it is gone for good.
        R::Unregistered => Verdict::Final(Outcome::misfit(reason)),
        R::ExpiredProviderToken | R::MissingProviderToken => Verdict::StaleCredential(reason.into()),
        R::PayloadTooLarge => Verdict::TooLarge(reason.into()),
        // It is about this device; others are served.
        R::TooManyRequests => Verdict::token_limit(answer.retry_after, reason),
        R::IdleTimeout
        | R::TooManyProviderTokenUpdates
        | R::InternalServerError
        | R::ServiceUnavailable
        | R::Shutdown => Verdict::trouble(answer.retry_after, reason),
        R::BadCertificate | R::BadCertificateEnvironment | R::Forbidden | R::InvalidProviderToken => {
            Verdict::Locked(reason.into())
        }
        R::DeviceTokenNotForTopic => Verdict::Final(Outcome::misfit(reason)),
        // The topic comes from the contact where it has one, so this says nothing of other contacts.
        R::BadTopic
        | R::MissingTopic
        | R::TopicDisallowed
        | R::BadCollapseId
        | R::BadExpirationDate
        | R::BadMessageId
        | R::BadPriority
        | R::DuplicateHeaders
        | R::MissingDeviceToken
        | R::PayloadEmpty
        | R::BadPath
        | R::MethodNotAllowed => Verdict::Final(Outcome::refused(reason)),
    }
}

fn by_status(answer: &Answer, reason: String) -> Verdict {
    match answer.status {
        // UnrelatedKeyIdInToken, BadEnvironmentKeyIdInToken, and whatever may come: all of them are about the key.
        403 => Verdict::Locked(reason.into()),
        413 => Verdict::TooLarge(reason.into()),
        408 | 429 | 500..=599 => Verdict::trouble(answer.retry_after, reason),
        _ => Verdict::Final(Outcome::refused(reason)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[track_caller]
    fn check(status: u16, body: &str, expected: Verdict) {
        let answer =
            Answer { status, retry_after: Some(Duration::from_secs(7)), push_id: None, body: body.as_bytes().to_vec() };
        assert_eq!(verdict(&answer), expected, "{status} {body}");
    }

    #[test]
    fn every_reason_has_its_verdict() {
        let after = Some(Duration::from_secs(7));
        let stranger = |reason: &str| Verdict::Stranger(reason.into());
        let refused = |reason: &str| Verdict::Final(Outcome::refused(reason));
        let trouble = |reason: &str| Verdict::trouble(after, reason);
        let try_again = |reason: &str| Verdict::token_limit(after, reason);
        let misfit = |reason: &str| Verdict::Final(Outcome::misfit(reason));
        let locked = |reason: &str| Verdict::Locked(reason.into());
        let stale = |reason: &str| Verdict::StaleCredential(reason.into());
        let too_large = |reason: &str| Verdict::TooLarge(reason.into());
        type Expected<'a> = &'a dyn Fn(&str) -> Verdict;
        let table: [(u16, &[&str], Expected<'_>); 14] = [
            (400, &["BadDeviceToken"], &stranger),
            (400, &["DeviceTokenNotForTopic", "Unregistered"], &misfit),
            (400, &["BadTopic", "MissingTopic", "TopicDisallowed"], &refused),
            (400, &["BadCollapseId", "BadExpirationDate", "BadMessageId", "BadPriority", "InvalidPushType"], &refused),
            (400, &["DuplicateHeaders", "PayloadEmpty", "MissingDeviceToken"], &refused),
            (400, &["IdleTimeout"], &trouble),
            (403, &["ExpiredProviderToken", "MissingProviderToken"], &stale),
            (403, &["InvalidProviderToken", "UnrelatedKeyIdInToken", "BadEnvironmentKeyIdInToken"], &locked),
            (403, &["BadCertificate", "BadCertificateEnvironment", "Forbidden", "BadEnvironmentKeyInToken"], &locked),
            (404, &["BadPath"], &refused),
            (405, &["MethodNotAllowed"], &refused),
            (413, &["PayloadTooLarge"], &too_large),
            (429, &["TooManyProviderTokenUpdates"], &trouble),
            (429, &["TooManyRequests"], &try_again),
        ];
        for (status, reasons, expected) in table {
            for reason in reasons {
                check(status, &format!(r#"{{"reason":"{reason}"}}"#), expected(&format!("{status} {reason}")));
            }
        }
        for reason in ["InternalServerError", "ServiceUnavailable", "Shutdown", "SomethingNew"] {
            for status in [500, 503] {
                check(status, &format!(r#"{{"reason":"{reason}"}}"#), trouble(&format!("{status} {reason}")));
            }
        }
    }

    #[test]
    fn a_410_tells_when_the_token_died() {
        for reason in ["Unregistered", "ExpiredToken", "SomethingNew"] {
            check(
                410,
                &format!(r#"{{"reason":"{reason}","timestamp":1508249865488}}"#),
                Verdict::Final(Outcome::dead(Some(UnixMillis(1508249865488)), format!("410 {reason}"))),
            );
        }
        check(410, "", Verdict::Final(Outcome::dead(None, "410")));
    }

    #[test]
    fn unknown_reasons_keep_their_text_and_go_by_http_class() {
        check(400, r#"{"reason":"Brand\nNew"}"#, Verdict::Final(Outcome::refused("400 Brand?New")));
        check(502, "<html>", Verdict::trouble(Some(Duration::from_secs(7)), "502"));
        check(413, "<html>", Verdict::TooLarge("413".into()));
        check(302, "", Verdict::Final(Outcome::refused("302")));
        check(403, "[]", Verdict::Locked("403".into()));
    }
}
