//! MESSAGEs that an app sends to an app, and that no person reads: nobody is woken for them.

use crate::sip::{HeaderName, Message, scan};

/// Receipts (RFC 5438 §7.1.1), and word that somebody is typing (RFC 3994 §3.2).
const UNREAD: [&[u8]; 2] = [b"message/imdn+xml", b"application/im-iscomposing+xml"];
/// What such a receipt may be wrapped in (RFC 5438 §8.1).
const WRAPPER: &[u8] = b"message/cpim";

/// Whether a request is a MESSAGE of this kind.
pub(super) fn is_for_nobody(request: &Message) -> bool {
    if request.method_text() != b"MESSAGE" {
        return false;
    }
    let kind = request.first(HeaderName::ContentType).map(media_type);
    kind.is_some_and(|kind| is_unread(kind) || kind.eq_ignore_ascii_case(WRAPPER) && wraps_unread(request.body()))
}

fn is_unread(kind: &[u8]) -> bool {
    UNREAD.iter().any(|unread| kind.eq_ignore_ascii_case(unread))
}

/// `type/subtype` without parameters.
fn media_type(value: &[u8]) -> &[u8] {
    scan::trim(value.split(|byte| *byte == b';').next().unwrap_or_default())
}

/// What is wrapped says in the second block of lines what it is (RFC 3862 §2).
fn wraps_unread(body: &[u8]) -> bool {
    let mut blocks = 0;
    for line in body.split(|byte| *byte == b'\n').map(scan::trim) {
        match (blocks, line) {
            (1, []) => return false,
            (_, []) => blocks += 1,
            (1, line) => {
                let field = scan::split_once(line, b':');
                let is_kind = |name: &[u8]| scan::trim(name).eq_ignore_ascii_case(b"Content-Type");
                if let Some((_, kind)) = field.filter(|(name, _)| is_kind(name)) {
                    return is_unread(media_type(kind));
                }
            }
            (_, _) => {}
        }
    }
    false
}
