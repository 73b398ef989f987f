//! What can be mended without doubt in a message that is not sound.

use super::edit::Edits;
use super::header::HeaderName;
use super::message::Message;
use super::scan;

/// The message with quotes around the display names of From, To and Contact that need them: `Bell, Alexander <sip:…>`
/// (RFC 4475 §3.1.2.15), `bob@home <sip:…>`. `None`: there is nothing of the kind.
///
/// A name that has a quote, a bracket or a colon is left alone: it may be a URI, or half of something else.
pub fn display_names(message: &Message) -> Option<Message> {
    if message.defect().is_some() {
        return None;
    }
    let mut edits = Edits::new();
    let mut is_changed = false;
    for name in [HeaderName::From, HeaderName::To, HeaderName::Contact] {
        for field in message.fields(name) {
            if let Some(repaired) = quoted_names(message.slice(field.value())) {
                edits.replace(field.value(), |out| out.extend_from_slice(&repaired));
                is_changed = true;
            }
        }
    }
    is_changed.then(|| Message::parse(edits.apply(message.bytes()), usize::MAX).ok()).flatten()
}

/// A list of `[name] <URI> [;params]` with quotes around each name that needs them; `None` when none does.
fn quoted_names(value: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(value.len() + 16);
    let (mut rest, mut is_changed) = (value, false);
    while let Some(open) = scan::find_outside(rest, b"<") {
        let (name, address) = rest.split_at_checked(open)?;
        let name_only = scan::trim(name);
        if is_bare_name(name_only) {
            write_quoted(&mut out, name, name_only);
            is_changed = true;
        } else {
            out.extend_from_slice(name);
        }
        let close = memchr::memchr(b'>', address)?;
        let (uri, behind) = address.split_at_checked(close)?;
        let end = scan::find_outside(behind, b",").map_or(behind.len(), |comma| comma + 1);
        let (params, next) = behind.split_at_checked(end)?;
        out.extend_from_slice(uri);
        out.extend_from_slice(params);
        rest = next;
    }
    out.extend_from_slice(rest);
    is_changed.then_some(out)
}

/// Whether a name has no quotes and something that may stand within quotes only.
fn is_bare_name(name: &[u8]) -> bool {
    let needs_quotes = name.iter().any(|byte| matches!(byte, b',' | b'@'));
    needs_quotes && !name.iter().any(|byte| matches!(byte, b'"' | b'<' | b'>' | b':') || byte.is_ascii_control())
}

fn write_quoted(out: &mut Vec<u8>, name: &[u8], name_only: &[u8]) {
    let span = scan::span_in(name, name_only);
    out.extend_from_slice(name.get(..span.start).unwrap_or_default());
    out.push(b'"');
    for byte in name_only {
        if *byte == b'\\' {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.extend_from_slice(b"\" ");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repaired(value: &str) -> Option<String> {
        quoted_names(value.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn names_that_need_quotes_get_them() {
        for (value, expected) in [
            ("Bell, Alexander <sip:a@h>;tag=1", "\"Bell, Alexander\" <sip:a@h>;tag=1"),
            ("bob@home<sip:a@h>", "\"bob@home\" <sip:a@h>"),
            ("a\\b, c <sip:a@h>", "\"a\\\\b, c\" <sip:a@h>"),
            ("\"A\" <sip:a@h;x>;y=\",\", B, C <sip:b@h>", "\"A\" <sip:a@h;x>;y=\",\", \"B, C\" <sip:b@h>"),
        ] {
            assert_eq!(repaired(value).as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_message_that_is_at_fault_otherwise_is_not_read_again() {
        let text = format!("INVITE sip:a@h SIP/2.0\r\nFrom: A, B <sip:a@h>\r\n{}\r\n", "X: y\r\n".repeat(200));
        let message = Message::parse(text.into(), 128).unwrap();
        assert!(message.defect().is_some() && display_names(&message).is_none());
    }

    #[test]
    fn all_else_is_left_alone() {
        for value in [
            "Alexander Bell <sip:a@h>",
            "\"Bell, A\" <sip:a@h>",
            "<sip:a,b@h>",
            "sip:a@h, Bob <sip:b@h>",
            "sip:a,b@h",
            "Bell, \"A\" <sip:a@h>",
            "Bell, A <sip:a@h",
            "Bell, A",
            "*",
            "",
        ] {
            assert_eq!(repaired(value), None, "{value}");
        }
    }
}
