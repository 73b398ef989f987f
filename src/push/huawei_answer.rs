//! What Huawei's answers mean: a code in the body decides, whatever the status (HMS, "Result codes"; HarmonyOS,
//! "Response").

use serde_json::Value;

use super::http::{Answer, plain};
use super::project::Project;
use super::{Outcome, Verdict};

/// The code decides, else the HTTP class: gateways on the way answer in HTML.
pub(super) fn verdict(answer: &Answer, project: &Project) -> Verdict {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let code = match body.get("code") {
        Some(Value::String(code)) => code.clone(),
        Some(Value::Number(code)) => code.to_string(),
        Some(_) | None => String::new(),
    };
    let message = body.get("msg").and_then(Value::as_str).unwrap_or_default();
    let reason = format!("{} {}", answer.status, plain(&code)).trim_end().to_owned();
    let in_full = || if message.is_empty() { reason.clone() } else { format!("{reason}: {}", plain(message)) };
    match (code.as_str(), answer.status) {
        ("80000000", _) => Verdict::Final(Outcome::Accepted),
        // Some, or all, of the tokens that a push was for; each push is for one.
        ("80100000" | "80300007", _) => illegal(message, &reason, project),
        // The app is another project's, or its project has no right to push.
        ("80300002", _) => Verdict::Final(Outcome::misfit(in_full())),
        ("80200001" | "80200003" | "80200005", _) | ("", 401) => Verdict::StaleCredential(in_full().into()),
        // A penalty, or an app that was taken off.
        ("80200006" | "80300037", _) | ("", 403) => Verdict::Locked(in_full().into()),
        ("80300008", _) | ("", 413) => Verdict::TooLarge(reason.into()),
        ("81000001" | "82000001", _) | (_, 408 | 429 | 500..=599) => Verdict::trouble(answer.retry_after, in_full()),
        ("", 200..=299) => Verdict::trouble(None, format!("{reason} without a code")),
        _ => Verdict::Final(Outcome::refused(in_full())),
    }
}

/// Why the token is not taken: HarmonyOS says it, HMS does not.
fn illegal(message: &str, reason: &str, project: &Project) -> Verdict {
    let message: Value = serde_json::from_str(message).unwrap_or_default();
    let why = message.get("illegalTokens").and_then(Value::as_object).and_then(|tokens| tokens.keys().next());
    let Some(why) = why.map(|why| why.trim()) else { return project.unknown_token(reason.to_owned()) };
    let told = format!("{reason}: {}", plain(why));
    match why {
        // So it will be for every phone.
        "noPushTypeRight" | "appinfoError" | "disableSendHuaweiMsgBecauseOfPenalty" => Verdict::Locked(told.into()),
        "noRight" | "tokenFormatError" | "tokenPlatformNotSupport" => Verdict::Final(Outcome::misfit(told)),
        _ => Verdict::Final(Outcome::refused(told)),
    }
}
