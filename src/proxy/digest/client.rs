//! The client's end: the answer to a softswitch's challenge (RFC 7616 §3.4, RFC 3261 §22.2, §22.3).

use super::{Params, Proof, hash};
use crate::proxy::policy::Algorithm;
use crate::sip::response::header;
use crate::sip::{HeaderName, Message};

/// A whole Authorization or Proxy-Authorization line that answers the first challenge of `response` that can be answered;
/// `None` where there is none. `is_stale`: only a challenge that says that the last answer was too old.
pub(in crate::proxy) fn answer(
    response: &Message,
    (method, uri): (&str, &str),
    (user, password): (&str, &str),
    cnonce: &str,
    is_stale: bool,
) -> Option<Vec<u8>> {
    let kinds =
        [(HeaderName::WwwAuthenticate, "Authorization"), (HeaderName::ProxyAuthenticate, "Proxy-Authorization")];
    kinds.into_iter().find_map(|(asked, name)| {
        let (challenge, algorithm) = Params::each(response, asked)
            .filter(|challenge| challenge.is_stale() || !is_stale)
            .find_map(|challenge| challenge.algorithm().map(|algorithm| (challenge, algorithm)))?;
        let value = credentials(&challenge, algorithm, (method, uri), (user, password), cnonce)?;
        let mut line = Vec::new();
        header(&mut line, name, value.as_bytes());
        Some(line)
    })
}

fn credentials(
    challenge: &Params<'_>,
    algorithm: Algorithm,
    (method, uri): (&str, &str),
    (user, password): (&str, &str),
    cnonce: &str,
) -> Option<String> {
    const FIRST: &str = "00000001";
    let (realm, nonce, opaque) = (challenge.get("realm"), challenge.get("nonce"), challenge.get("opaque"));
    let offered = challenge.get("qop");
    let mut qualities = offered.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let is_counted = qualities.any(|quality| quality.eq_ignore_ascii_case(b"auth"));
    if !is_counted && !offered.is_empty() {
        return None;
    }
    let ha1 = hash(algorithm, &[user.as_bytes(), &realm, password.as_bytes()]);
    let counted = is_counted.then_some((FIRST.as_bytes(), cnonce.as_bytes()));
    let proof = Proof { algorithm, method: method.as_bytes(), uri: uri.as_bytes(), nonce: &nonce, counted };
    let response = proof.response(ha1.as_bytes());
    // Whatever stood between quotes goes between quotes again, so it must not end them.
    let quoted = |text: &[u8]| {
        let text = std::str::from_utf8(text).ok()?;
        Some(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
    };
    let mut value = format!(
        "Digest username={}, realm={}, nonce={}, uri=\"{uri}\", response=\"{response}\", algorithm={}",
        quoted(user.as_bytes())?,
        quoted(&realm)?,
        quoted(&nonce)?,
        algorithm.name()
    );
    if is_counted {
        value.push_str(&format!(", cnonce=\"{cnonce}\", qop=auth, nc={FIRST}"));
    }
    if !challenge.raw("opaque").is_empty() {
        value.push_str(&format!(", opaque={}", quoted(&opaque)?));
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(lines: &str, is_stale: bool) -> Option<String> {
        let response = Message::parse(format!("SIP/2.0 401 x\r\n{lines}\r\n").into(), 128).unwrap();
        let line = answer(&response, ("GET", "/dir/index.html"), ("Mufasa", "Circle Of Life"), "0a4f113b", is_stale)?;
        Some(String::from_utf8(line).unwrap())
    }

    /// RFC 2617 §3.5.
    #[test]
    fn the_example_of_the_rfc() {
        let challenge = "WWW-Authenticate: Digest realm=\"testrealm@host.com\", qop=\"auth,auth-int\", \
                         nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"\r\n";
        let line = answered(challenge, false).unwrap();
        assert!(line.contains("response=\"6629fae49393a05397450978507c4ef1\""), "{line}");
        assert!(line.starts_with("Authorization: Digest username=\"Mufasa\""), "{line}");
        assert!(line.ends_with("opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"\r\n"), "{line}");
    }

    #[test]
    fn the_first_challenge_that_can_be_answered_is() {
        let unknown = "WWW-Authenticate: Digest realm=\"r\", nonce=\"1\", algorithm=SHA-512-256, qop=\"auth\"\r\n";
        let sha256 = "WWW-Authenticate: Digest realm=\"r\", nonce=\"2\", algorithm=SHA-256, qop=\"auth\"\r\n";
        let proxy = "Proxy-Authenticate: Digest realm=\"r\", nonce=\"3\"\r\n";
        let line = answered(&[unknown, sha256, proxy].concat(), false).unwrap();
        assert!(line.contains("nonce=\"2\"") && line.contains("algorithm=SHA-256"), "{line}");
        let line = answered(&[unknown, proxy].concat(), false).unwrap();
        assert!(line.starts_with("Proxy-Authorization: ") && !line.contains("qop"), "{line}");
        assert_eq!(answered(unknown, false), None);
        assert_eq!(answered("WWW-Authenticate: Digest realm=\"r\", nonce=\"1\", qop=\"auth-int\"\r\n", false), None);
    }

    #[test]
    fn after_an_answer_only_a_stale_one_is_answered_again() {
        let challenge = "WWW-Authenticate: Digest realm=\"r\", nonce=\"1\", qop=\"auth\"";
        assert_eq!(answered(&format!("{challenge}\r\n"), true), None);
        assert!(answered(&format!("{challenge}, stale=TRUE\r\n"), true).is_some());
    }
}
