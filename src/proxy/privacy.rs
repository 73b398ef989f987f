//! What each side may see of the other: what only a network can assert (RFC 3325 §5, §7), and what wakes a phone
//! (RFC 8599 §13).

use super::contact::{write_params_without_push, write_uri_without_push};
use crate::sip::message::Field;
use crate::sip::push_param::names_push;
use crate::sip::{Edits, HeaderName, Message, Method, NameAddr, scan};

/// Whom a message goes to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Towards<'a> {
    /// With the header fields, in lower case, that a phone cannot assert.
    Softswitch {
        asserted: &'a [Box<str>],
    },
    Phone,
}

/// Takes out of a message that passes what its receiver must not see.
pub(super) fn hide(message: &Message, towards: Towards<'_>, edits: &mut Edits) {
    match towards {
        Towards::Softswitch { asserted } => strip(message, asserted, edits),
        Towards::Phone => hide_caller(message, edits),
    }
    // Contacts of REGISTER are shown to each side in its own way.
    if message.method() != Method::REGISTER {
        hide_push(message, edits);
    }
}

/// A response says no more than a request what its sender is called; but a redirection tells of diversions.
fn strip(message: &Message, asserted: &[Box<str>], edits: &mut Edits) {
    const OF_REDIRECTIONS: [&[u8]; 2] = [b"diversion", b"history-info"];
    for field in message.all_fields() {
        if !matches!(
            field.name,
            HeaderName::Other | HeaderName::PAssertedIdentity | HeaderName::UserAgent | HeaderName::Timestamp
        ) {
            continue;
        }
        let name = message.slice(field.name_span());
        let is_one_of = |names: &[&[u8]]| names.iter().any(|known| name.eq_ignore_ascii_case(known));
        let is_asserted = asserted.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        if is_asserted && (message.is_request() || !is_one_of(&OF_REDIRECTIONS)) {
            edits.remove(field.line());
        }
    }
}

/// Who asks for privacy is not named to a phone, which nobody has told to keep it to itself (RFC 3325 §7).
fn hide_caller(message: &Message, edits: &mut Edits) {
    let is_party = |field: &Field| {
        field.name == HeaderName::Other && message.slice(field.name_span()).eq_ignore_ascii_case(b"Remote-Party-ID")
    };
    let names_caller = |field: &&Field| field.name == HeaderName::PAssertedIdentity || is_party(field);
    for field in message.all_fields().iter().filter(names_caller) {
        if is_private(message) || wants_privacy(message.slice(field.value())) {
            edits.remove(field.line());
        }
    }
}

fn is_private(message: &Message) -> bool {
    message
        .fields(HeaderName::Privacy)
        .flat_map(|field| message.slice(field.value()).split(|byte| matches!(byte, b';' | b',')))
        .any(|value| scan::trim(value).eq_ignore_ascii_case(b"id"))
}

/// A Remote-Party-ID may have a privacy parameter of its own, which may also stand in quotes.
fn wants_privacy(value: &[u8]) -> bool {
    let asked = NameAddr::parse(value).and_then(|party| party.param("privacy").flatten());
    asked.is_some_and(|asked| !scan::unquote(asked).eq_ignore_ascii_case(b"off"))
}

fn hide_push(message: &Message, edits: &mut Edits) {
    let fields = message.fields(HeaderName::Contact).map(|field| message.slice(field.value()));
    for contact in fields.filter(|contacts| names_push(contacts)).flat_map(scan::values).filter_map(NameAddr::parse) {
        strip_push(message, &contact, edits);
    }
}

/// Takes push parameters out of a Contact. Some apps write them behind the URI.
pub(super) fn strip_push(message: &Message, contact: &NameAddr<'_>, edits: &mut Edits) {
    edits.replace(message.span_of(contact.uri), |out| write_uri_without_push(out, contact.uri));
    if names_push(contact.params) {
        edits.replace(message.span_of(contact.params), |out| write_params_without_push(out, contact.params));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(lines: &str) -> Message {
        Message::parse(format!("INVITE sip:a@h SIP/2.0\r\n{lines}\r\n").into(), 128).unwrap()
    }

    fn hidden(message: &Message, towards: Towards<'_>) -> String {
        let mut edits = Edits::new();
        hide(message, towards, &mut edits);
        let whole = String::from_utf8(edits.apply(message.bytes()).to_vec()).unwrap();
        let (_, lines) = whole.split_once("\r\n").unwrap();
        lines.strip_suffix("\r\n").unwrap().to_owned()
    }

    #[test]
    fn what_a_phone_asserts_does_not_reach_the_softswitch() {
        let asserted = ["p-asserted-identity".into(), "x-billing".into()];
        let request = message("p-asserted-IDENTITY: <sip:boss@h>\r\nX-Other: 1\r\nX-Billing: a,\r\n b\r\n");
        assert_eq!(hidden(&request, Towards::Softswitch { asserted: &asserted }), "X-Other: 1\r\n");
    }

    #[test]
    fn diversions_of_a_redirection_stay() {
        let asserted = ["p-asserted-identity".into(), "diversion".into()];
        let lines = "CSeq: 1 INVITE\r\nDiversion: <sip:a@h>\r\nP-Asserted-Identity: <sip:a@h>\r\n";
        let response = Message::parse(format!("SIP/2.0 302 x\r\n{lines}\r\n").into(), 128).unwrap();
        let left = hidden(&response, Towards::Softswitch { asserted: &asserted });
        assert_eq!(left, "CSeq: 1 INVITE\r\nDiversion: <sip:a@h>\r\n");
    }

    #[test]
    fn who_asks_for_privacy_is_not_named_to_phones() {
        let named = "P-Asserted-Identity: <sip:1@h>\r\nRemote-Party-ID: <sip:1@h>;party=calling\r\n";
        assert_eq!(hidden(&message(named), Towards::Phone), named);
        for privacy in ["id", "header;id", "ID ;critical", "user, id"] {
            let line = format!("Privacy: {privacy}\r\n");
            assert_eq!(hidden(&message(&(line.clone() + named)), Towards::Phone), line);
        }
        for privacy in ["none", "header", "idle"] {
            let lines = format!("Privacy: {privacy}\r\n{named}");
            assert_eq!(hidden(&message(&lines), Towards::Phone), lines);
        }
        for (own, stays) in [("off", true), ("\"off\"", true), ("full", false), ("uri", false)] {
            let line = format!("Remote-Party-ID: <sip:1@h>;privacy={own}\r\n");
            assert_eq!(!hidden(&message(&line), Towards::Phone).is_empty(), stays, "{own}");
        }
    }

    #[test]
    fn push_parameters_leave_each_contact() {
        for (contact, left) in [
            ("<sip:a@h;pn-provider=fcm;transport=tcp;PN-prid=x>;q=1", "<sip:a@h;transport=tcp>;q=1"),
            ("<sip:a@h;app-id=x>", "<sip:a@h>"),
            ("<sip:a@h>;pn-tok=x;q=1;APP-ID=x", "<sip:a@h>;q=1"),
            ("sip:a@h;pn-tok=x;q=1", "sip:a@h;q=1"),
            ("sip:open@h", "sip:open@h"),
            ("<sip:pn-x@h>", "<sip:pn-x@h>"),
        ] {
            let line = format!("Contact: {contact}\r\n");
            assert_eq!(hidden(&message(&line), Towards::Phone), format!("Contact: {left}\r\n"));
        }
    }
}
