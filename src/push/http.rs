//! What all providers need of HTTP: bounded answers, Retry-After (RFC 9110 §10.2.3), errors in words.

use std::error::Error;
use std::time::Duration;

use reqwest::Response;
use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use serde_json::Value;

use super::{Outcome, TokenHash, Verdict, clock};
use crate::binding::PushToken;

/// More of an answer than this is not read: error bodies are a few hundred bytes.
pub(super) const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// A token that is shorter may be part of other words. Those of the services are longer: a Firebase installation id has 22
/// characters.
const DISTINCT_BYTES_MIN: usize = 8;
/// Longest text of a peer that goes into a reason.
const REASON_CHARS_MAX: usize = 80;
/// Longest name of a push.
const PUSH_ID_CHARS_MAX: usize = 255;

/// A provider's answer, read as far as it matters.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    /// What a header calls the push.
    pub(super) push_id: Option<Box<str>>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The status decides; a body that breaks off is as good as none.
    pub(super) async fn read(mut response: Response) -> Self {
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            let room = ANSWER_BYTES_MAX.saturating_sub(body.len());
            body.extend_from_slice(chunk.get(..room.min(chunk.len())).unwrap_or_default());
            if body.len() == ANSWER_BYTES_MAX {
                break;
            }
        }
        let headers = response.headers();
        let (retry_after, push_id) = (retry_after(headers), push_id(headers));
        Self { status: response.status().as_u16(), retry_after, push_id, body }
    }

    /// The status, and what is said to it: the `error`, `message` or `reason` of a JSON, or a text as it is.
    pub(super) fn reason(&self) -> String {
        let said = match serde_json::from_slice::<Value>(&self.body) {
            Ok(json) => {
                let text = |key: &str| json.get(key).and_then(Value::as_str).map(str::to_owned);
                ["error", "message", "reason"].into_iter().find_map(text).unwrap_or_default()
            }
            Err(_) => String::from_utf8_lossy(&self.body).trim().to_owned(),
        };
        if said.is_empty() || said.starts_with('<') {
            return self.status.to_string();
        }
        format!("{}: {}", self.status, plain(&said))
    }

    /// What is said of a push must not tell its token: reasons are made of this. A short one is taken out where it stands
    /// by itself.
    pub(super) fn without(mut self, token: &PushToken) -> Self {
        let (token, hash) = (token.reveal(), TokenHash::of(token).to_string());
        if self.push_id.as_ref().is_some_and(|id| without_token(id, token, &hash) != **id) {
            self.push_id = None;
        }
        if !token.is_empty() && memchr::memmem::find(&self.body, token.as_bytes()).is_some() {
            let text = without_token(&String::from_utf8_lossy(&self.body), token, &hash);
            self.body = text.into_bytes();
        }
        self
    }
}

/// `text` with `hash` in the place of the token.
fn without_token(text: &str, token: &str, hash: &str) -> String {
    match token.len() {
        0 => text.to_owned(),
        1..DISTINCT_BYTES_MIN => without_word(text, token, hash),
        DISTINCT_BYTES_MIN.. => text.replace(token, hash),
    }
}

/// `text` with `substitute` where `word` is no part of a longer one.
fn without_word(text: &str, word: &str, substitute: &str) -> String {
    let is_inner = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || matches!(c, '-' | '_'));
    let (mut rest, mut rid) = (text, String::new());
    while let Some((before, after)) = rest.split_once(word) {
        let left = before.chars().next_back().or_else(|| rid.chars().next_back());
        let is_part = is_inner(left) || is_inner(after.chars().next());
        rid.push_str(before);
        rid.push_str(if is_part { word } else { substitute });
        rest = after;
    }
    rid + rest
}

/// A push service's name for a push, as it may be shown.
pub(super) fn shown_id(text: &str) -> Option<Box<str>> {
    let printable = |c: char| if c.is_ascii_graphic() { c } else { '?' };
    let shown: String = text.chars().take(PUSH_ID_CHARS_MAX).map(printable).collect();
    (!shown.is_empty()).then(|| shown.into())
}

/// APNs has two names for a push, of which its console knows the second; Web Push has a resource for it (RFC 8030 §5).
pub(super) fn push_id(headers: &HeaderMap) -> Option<Box<str>> {
    let text = |name: &str| headers.get(name)?.to_str().ok().and_then(shown_id);
    match (text("apns-id"), text("apns-unique-id")) {
        (Some(id), Some(unique)) => Some(format!("{id}, apns-unique-id {unique}").into()),
        (Some(id), None) | (None, Some(id)) => Some(id),
        (None, None) => text(LOCATION.as_str()),
    }
}

/// Seconds, or a date by our clock.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp().as_second();
    let now = clock().unix.seconds();
    Some(Duration::from_secs(u64::try_from(date).ok()?.saturating_sub(now)))
}

/// When the connection is lost with the answer, the phone may have the push. It may be sent again all the same, because a
/// phone that had the first one has registered by then, and the held call asks for no second one: so the phone gets this
/// time to do it. (A second alert of missed calls replaces the first on the screen, by its collapse id.)
pub(super) const REPEAT_PAUSE: Duration = Duration::from_secs(3);

/// When no answer came: only a request that could not even be built will not do better next time.
pub(super) fn no_answer(error: reqwest::Error) -> Verdict {
    if error.is_builder() {
        Verdict::Final(Outcome::refused(in_words(error)))
    } else {
        let after = (!error.is_connect()).then_some(REPEAT_PAUSE);
        Verdict::unreached(after, in_words(error))
    }
}

/// The root of the trouble, without the URL: APNs has the token in it.
pub(super) fn in_words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut root: &dyn Error = &error;
    while let Some(source) = root.source() {
        root = source;
    }
    let kind = if error.is_connect() { "no connection" } else { "no answer" };
    format!("{kind}: {}", plain(&root.to_string()))
}

/// Why a connection could not be opened.
pub(super) fn in_words_of_io(error: &std::io::Error) -> String {
    format!("no connection: {}", plain(&error.to_string()))
}

/// A peer's text as it may stand in a reason: short, printable ASCII.
pub(super) fn plain(text: &str) -> String {
    let printable = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    text.chars().take(REASON_CHARS_MAX).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn after(value: &str) -> Option<Duration> {
        retry_after(&HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(value).unwrap())]))
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(after("120"), Some(Duration::from_secs(120)));
        assert_eq!(after("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        assert!(after("Tue, 31 Dec 2199 23:59:59 GMT") > Some(Duration::from_secs(1_000_000)));
        assert_eq!(after("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn an_answer_is_rid_of_the_token() {
        let answer = |body: &str| Answer { status: 400, retry_after: None, push_id: None, body: body.into() };
        // As APNs has them, and an id of a Firebase installation.
        for text in ["0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "cYyZ0rXTR8-q5v_W1aB2cD"] {
            let token = PushToken::new(text);
            let rid = answer(&format!("token {text}, {text}")).without(&token);
            assert_eq!(rid.body, format!("token {0}, {0}", TokenHash::of(&token)).as_bytes());
        }
        let token = PushToken::new("0123456789abcdef");
        assert_eq!(answer("other").without(&token).body, b"other");
        // A Firebase installation id is a secret like any other token.
        let id = PushToken::new("dQw4w9WgXcQ_0123456789");
        assert_eq!(answer("xdQw4w9WgXcQ_0123456789").without(&id).body, format!("x{}", TokenHash::of(&id)).as_bytes());
        let short = PushToken::new("o");
        let hash = TokenHash::of(&short);
        for (said, rid) in [
            ("other", "other".to_owned()),
            ("no o: \"o\"", format!("no {hash}: \"{hash}\"")),
            ("o", hash.to_string()),
            ("oo o_o-o", "oo o_o-o".to_owned()),
        ] {
            assert_eq!(answer(said).without(&short).body, rid.as_bytes(), "{said}");
        }
        assert_eq!(answer("other").without(&PushToken::new("")).body, b"other");
    }

    #[test]
    fn reason_has_the_peers_words() {
        let told = |body: &str| Answer { status: 400, retry_after: None, push_id: None, body: body.into() }.reason();
        assert_eq!(told(r#"{"error":"no such app"}"#), "400: no such app");
        assert_eq!(told(r#"{"message":"no"}"#), "400: no");
        assert_eq!(told("bad\n"), "400: bad");
        for silent in ["", "<html>", "{}", "7"] {
            assert_eq!(told(silent), "400");
        }
    }

    #[test]
    fn reasons_are_short_and_printable() {
        assert_eq!(plain("a\nb\u{1F600}"), "a?b?");
        assert_eq!(plain(&"x".repeat(1000)).len(), REASON_CHARS_MAX);
    }
}
