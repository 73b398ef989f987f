//! Who is calling, as far as a push may tell (RFC 3323, RFC 3325).

use crate::sip::{HeaderName, Message, NameAddr, scan};

/// What the called device is told of the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// The bare number or user part; `anonymous` when the caller hides it.
    pub number: Box<str>,
    /// Empty when there is none or the caller hides it.
    pub display_name: Box<str>,
    pub anonymous: bool,
}

impl Caller {
    /// P-Asserted-Identity counts because only trusted peers call phones (RFC 3325 §5); it gives way to any wish for
    /// privacy, for a push provider is not trusted (RFC 3325 §7).
    pub(super) fn of(request: &Message) -> Self {
        let from = request.from();
        if wants_privacy(request) || from.as_ref().is_some_and(is_anonymous) {
            return Self { number: "anonymous".into(), display_name: "".into(), anonymous: true };
        }
        let asserted = request.values(HeaderName::PAssertedIdentity).find_map(NameAddr::parse);
        let identity = asserted.or(from);
        let display = |identity: &NameAddr<'_>| scan::text(&scan::unquote(identity.display));
        let display_name = identity
            .as_ref()
            .map(display)
            .filter(|name| !name.is_empty())
            .or_else(|| from.as_ref().map(display))
            .unwrap_or_default();
        Self { number: identity.as_ref().map(number).unwrap_or_default(), display_name, anonymous: false }
    }
}

/// RFC 3323 §4.2: `none` forbids hiding; `id`, `user` and `header` ask for it.
fn wants_privacy(request: &Message) -> bool {
    let mut hidden = false;
    for field in request.fields(HeaderName::Privacy) {
        for value in request.slice(field.value()).split(|byte| matches!(byte, b';' | b',')) {
            let value = scan::trim(value);
            if value.eq_ignore_ascii_case(b"none") {
                return false;
            }
            hidden |= [&b"id"[..], b"user", b"header"].iter().any(|wish| value.eq_ignore_ascii_case(wish));
        }
    }
    hidden
}

/// RFC 3323 §4.1.1.3.
fn is_anonymous(from: &NameAddr<'_>) -> bool {
    from.parse_uri().is_ok_and(|uri| uri.host.eq_ignore_ascii_case(b"anonymous.invalid"))
}

/// The user part without parameters, or a `tel:` number.
fn number(identity: &NameAddr<'_>) -> Box<str> {
    let user = match identity.parse_uri() {
        Ok(uri) => uri.user_unescaped(),
        Err(_) => match scan::split_once(identity.uri, b':') {
            Some((scheme, number)) if scheme.eq_ignore_ascii_case(b"tel") => Some(number.into()),
            Some(_) | None => None,
        },
    };
    let user = user.unwrap_or_default();
    scan::text(user.split(|byte| *byte == b';').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(headers: &str) -> Caller {
        let text = format!("INVITE sip:a@h SIP/2.0\r\n{headers}\r\n\r\n");
        Caller::of(&Message::parse(text.into(), 128).unwrap())
    }

    #[test]
    fn number_and_name_come_from_the_asserted_identity_else_from_from() {
        let from = caller("From: \"Ivan \\\"V\\\"\" <sip:103;phone-context=x@h>;tag=1");
        assert_eq!((&*from.number, &*from.display_name, from.anonymous), ("103", "Ivan \"V\"", false));
        let asserted = caller("From: X <sip:1@h>;tag=1\r\nP-Asserted-Identity: Boss <sip:200@h>, <tel:+7999>");
        assert_eq!((&*asserted.number, &*asserted.display_name), ("200", "Boss"));
        assert_eq!(&*caller("From: <sip:1@h>;tag=1\r\nP-Asserted-Identity: <tel:+7999>").number, "+7999");
    }

    #[test]
    fn a_caller_who_hides_is_hidden() {
        for headers in [
            "From: \"Anonymous\" <sip:anonymous@anonymous.invalid>;tag=1\r\nP-Asserted-Identity: <sip:1@h>",
            "From: Ivan <sip:103@h>;tag=1\r\nPrivacy: critical;ID",
            "From: Ivan <sip:103@h>;tag=1\r\nPrivacy: user",
        ] {
            let hidden = caller(headers);
            assert_eq!((&*hidden.number, &*hidden.display_name, hidden.anonymous), ("anonymous", "", true));
        }
        assert!(!caller("From: Ivan <sip:103@h>;tag=1\r\nPrivacy: none").anonymous);
    }
}
