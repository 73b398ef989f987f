//! What must not leave for a collector: push tokens, and what a password was proven by.

use crate::sip::header::HeaderName;
use crate::sip::{Message, scan};

/// Parameters of URIs whose values are push tokens (RFC 8599 §8.7, and the one before it).
const TOKENS: [&[u8]; 4] = [b"pn-prid", b"pn-prid-2", b"pn-prid-3", b"pn-tok"];
/// Parameters by which a password could be found (RFC 7616 §3.4, §3.5).
const PROOFS: [&[u8]; 2] = [b"response", b"rspauth"];

/// The message with stars in the place of each secret byte. All lengths stay true.
pub(super) fn masked(message: &Message) -> Vec<u8> {
    let mut bytes = message.bytes().to_vec();
    let mut at = 0;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr(b'=', rest)) {
        let equals = at + found;
        at = match ends_of(name_before(&bytes, equals)) {
            Some(ends) => mask_value(&mut bytes, equals + 1, ends),
            None => equals + 1,
        };
    }
    for field in message.all_fields() {
        if matches!(field.name, HeaderName::Authorization | HeaderName::ProxyAuthorization) {
            mask_credentials(bytes.get_mut(field.value()).unwrap_or_default());
        }
    }
    bytes
}

/// What ends the value of a secret parameter; `None`: it is not secret.
fn ends_of(name: &[u8]) -> Option<&'static [u8]> {
    let is_in = |names: &[&[u8]]| names.iter().any(|known| name.eq_ignore_ascii_case(known));
    if is_in(&TOKENS) {
        // Commas, ampersands and question marks stand in tokens of phones that do not escape them.
        Some(b";<>\"")
    } else if is_in(&PROOFS) {
        Some(b",;<>\"")
    } else {
        None
    }
}

/// The token before an equals sign.
fn name_before(bytes: &[u8], equals: usize) -> &[u8] {
    let before = scan::trim(bytes.get(..equals).unwrap_or_default());
    let start = before.iter().rposition(|byte| !scan::is_token(&[*byte])).map_or(0, |at| at + 1);
    before.get(start..).unwrap_or_default()
}

/// Masks the value that begins at `at`, and says where it ends.
fn mask_value(bytes: &mut [u8], at: usize, ends: &[u8]) -> usize {
    let mut at = skip_space(bytes, at);
    let is_quoted = bytes.get(at) == Some(&b'"');
    if is_quoted {
        at += 1;
    }
    let mut is_escaped = false;
    while let Some(byte) = bytes.get_mut(at) {
        let is_end = if is_quoted {
            (*byte == b'"' && !is_escaped) || matches!(byte, b'\r' | b'\n')
        } else {
            *byte <= b' ' || ends.contains(byte)
        };
        if is_end {
            break;
        }
        is_escaped = *byte == b'\\' && !is_escaped;
        *byte = b'*';
        at += 1;
    }
    at
}

/// Over white space, and over the end of a line that goes on in the next one.
fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    loop {
        at += match bytes.get(at..).unwrap_or_default() {
            [b' ' | b'\t', ..] => 1,
            [b'\r', b'\n', b' ' | b'\t', ..] => 3,
            [b'\n', b' ' | b'\t', ..] => 2,
            _ => return at,
        };
    }
}

/// Of another scheme than Digest, such as Basic and Bearer, all credentials are the secret.
fn mask_credentials(value: &mut [u8]) {
    let scheme = value.iter().position(|byte| scan::is_lws(*byte)).unwrap_or(0);
    let (name, rest) = value.split_at_mut(scheme);
    if !name.eq_ignore_ascii_case(b"Digest") {
        rest.iter_mut().filter(|byte| !scan::is_lws(**byte)).for_each(|byte| *byte = b'*');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `line` as it leaves in a message.
    fn line(line: &str) -> String {
        let text = format!("REGISTER sip:h SIP/2.0\r\n{line}\r\nCall-ID: c\r\nContent-Length: 0\r\n\r\n");
        let message = Message::parse(text.clone().into(), 128).unwrap();
        let masked = String::from_utf8(masked(&message)).unwrap();
        assert_eq!(masked.len(), text.len());
        let rest = masked.strip_prefix("REGISTER sip:h SIP/2.0\r\n").unwrap();
        rest.strip_suffix("\r\nCall-ID: c\r\nContent-Length: 0\r\n\r\n").unwrap().to_owned()
    }

    #[test]
    fn tokens_are_masked_wherever_they_stand() {
        for (before, after) in [
            (
                "Contact: <sip:a@h;pn-provider=fcm;pn-param=p;pn-prid=ab:CD_-1>;expires=60",
                "Contact: <sip:a@h;pn-provider=fcm;pn-param=p;pn-prid=********>;expires=60",
            ),
            ("m: <sip:a@h;pn-prid=cYyZ0rXTR8-q5v_W1aB2cD>", "m: <sip:a@h;pn-prid=**********************>"),
            ("m: <sip:a@h;PN-PRID=aa:voip&bb:remote;x=1>", "m: <sip:a@h;PN-PRID=*****************;x=1>"),
            ("m: <sip:a@h;pn-type=apple;pn-tok=00ff>", "m: <sip:a@h;pn-type=apple;pn-tok=****>"),
            ("m: <sip:a@h;pn-prid-2=ab;pn-prid-3=c>", "m: <sip:a@h;pn-prid-2=**;pn-prid-3=*>"),
            ("To: sip:a@h;pn-prid=a,b?c", "To: sip:a@h;pn-prid=*****"),
            ("X: pn-prid = \"a\\\"b\" pn-prid=c", "X: pn-prid = \"****\" pn-prid=*"),
            ("m: <sip:a@h;pn-prid=\r\n ab>", "m: <sip:a@h;pn-prid=\r\n **>"),
            ("m: <sip:a@h;pn-prid>, <sip:a@h;pn-prid=>", "m: <sip:a@h;pn-prid>, <sip:a@h;pn-prid=>"),
            ("m: sip:a@h;pn-prid=\r\nX: b", "m: sip:a@h;pn-prid=\r\nX: b"),
            ("X: xpn-prid=a;pn-prid2=b;=c", "X: xpn-prid=a;pn-prid2=b;=c"),
        ] {
            assert_eq!(line(before), after);
        }
    }

    #[test]
    fn requests_uri_and_body_are_masked_too() {
        let text = "INVITE sip:a@h;pn-prid=abc SIP/2.0\r\nContent-Length: 26\r\n\r\nContact: <sip:a;pn-prid=b>";
        let message = Message::parse(text.into(), 128).unwrap();
        let expected = text.replace("=abc", "=***").replace("=b", "=*");
        assert_eq!(String::from_utf8(masked(&message)), Ok(expected));
    }

    #[test]
    fn what_proves_a_password_is_masked() {
        for (before, after) in [
            (
                "Authorization: Digest username=\"a\", response=\"00ff\", nc=1",
                "Authorization: Digest username=\"a\", response=\"****\", nc=1",
            ),
            ("Proxy-Authorization: digest response=00ff, nc=1", "Proxy-Authorization: digest response=****, nc=1"),
            ("Authentication-Info: rspauth=\"00ff\", nc=1", "Authentication-Info: rspauth=\"****\", nc=1"),
            ("Authorization: Basic YTpi", "Authorization: Basic ****"),
            ("authorization :\r\n Bearer a b", "authorization :\r\n Bearer * *"),
            ("Authorization: secret", "Authorization: ******"),
        ] {
            assert_eq!(line(before), after);
        }
    }
}
