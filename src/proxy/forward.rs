//! The copy of a request that goes on (RFC 3261 §16.6), and of a response that goes back (§16.7 steps 3 and 9).

use std::net::SocketAddr;
use std::ops::Range;

use bytes::Bytes;

use super::policy::Listener;
use super::privacy::{Towards, hide};
use super::route::Routed;
use crate::sip::response::header;
use crate::sip::{Edits, HeaderName, Message, NameAddr, Transport, Uri, scan};
use crate::transaction::Branch;

/// What is different for one branch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Onward<'a> {
    /// The target, where it is not the Request-URI as received.
    pub uri: Option<&'a [u8]>,
    /// Route values to go on top of those that remain: the Path of the target's binding (RFC 3327 §5.2).
    pub routes: &'a [u8],
    /// User part of our Record-Route; `None` where we need not see the rest of the dialog.
    pub record_route: Option<&'a str>,
    /// Where the request came in.
    pub ingress: &'a Listener,
    /// Where it leaves.
    pub egress: &'a Listener,
    /// What it leaves by; may differ from the listener's own transport.
    pub transport: Transport,
    pub branch: &'a Branch,
    pub towards: Towards<'a>,
}

/// Steps 1-6, 8 and 9 of RFC 3261 §16.6. The first Via is stamped with the source that the request came from.
pub(super) fn request(request: &Message, source: SocketAddr, routed: &Routed<'_>, onward: &Onward<'_>) -> Bytes {
    let mut edits = Edits::new();
    let next_is_strict = onward.routes.is_empty() && routed.next_route.is_some_and(|route| !is_loose(route));
    let uri = onward.uri.or_else(|| routed.uri_restored.then_some(routed.uri));
    if next_is_strict {
        swap_strict(request, routed, uri, &mut edits);
    } else {
        if let Some(uri) = uri {
            edits.replace(request.uri_span(), |out| out.extend_from_slice(uri));
        }
        remove_values(request, HeaderName::Route, &routed.removed, &mut edits);
    }
    push_via(request, source, onward, &mut edits);
    if let Some(user) = onward.record_route {
        let at = first_line(request, HeaderName::RecordRoute);
        edits.insert(at, |out| write_record_route(out, user, onward));
    }
    if !onward.routes.is_empty() {
        edits.insert(first_line(request, HeaderName::Route), |out| header(out, "Route", onward.routes));
    }
    decrement_max_forwards(request, &mut edits);
    hide(request, onward.towards, &mut edits);
    complete_length(request, onward.transport, &mut edits);
    edits.apply(request.bytes())
}

/// What came as a datagram may do without the Content-Length that a stream is cut by (RFC 3261 §18.3).
fn complete_length(message: &Message, transport: Transport, edits: &mut Edits) {
    if transport.is_reliable() && message.fields(HeaderName::ContentLength).next().is_none() {
        let length = message.body().len();
        edits.insert(message.headers_end(), |out| header(out, "Content-Length", length.to_string().as_bytes()));
    }
}

/// A Contact URI as a Request-URI, which has no headers (RFC 3261 §19.1.1, §16.6 step 2).
pub(super) fn request_uri(contact: &[u8]) -> &[u8] {
    let headers = Uri::parse(contact).ok().and_then(|uri| uri.headers);
    let end = headers.map_or(contact.len(), |headers| scan::span_in(contact, headers).start.saturating_sub(1));
    contact.get(..end).unwrap_or(contact)
}

/// Our own Via on top; what the client wrote into its own is completed (RFC 3261 §18.2.1, RFC 3581 §4).
fn push_via(request: &Message, source: SocketAddr, onward: &Onward<'_>, edits: &mut Edits) {
    let at = first_line(request, HeaderName::Via);
    edits.insert(at, |out| write_via(out, onward.egress, onward.transport, onward.branch));
    let top = request.values(HeaderName::Via).next();
    if let (Some(value), Some(via)) = (top, request.top_via()) {
        edits.replace(request.span_of(value), |out| via.stamp(value, source, out));
    }
}

pub(super) fn write_via(out: &mut Vec<u8>, egress: &Listener, transport: Transport, branch: &Branch) {
    out.extend_from_slice(b"Via: SIP/2.0/");
    out.extend_from_slice(transport.via_name().as_bytes());
    out.push(b' ');
    out.extend_from_slice(egress.sent_by.as_bytes());
    out.extend_from_slice(b";rport;branch=");
    out.extend_from_slice(&branch.text());
    out.extend_from_slice(b"\r\n");
}

/// Where the first line called `name` begins; else where the first Via does, so that it comes early.
fn first_line(request: &Message, name: HeaderName) -> usize {
    let line = |name| request.fields(name).next().map(|field| field.line().start);
    line(name).or_else(|| line(HeaderName::Via)).unwrap_or_else(|| request.headers_end())
}

/// One value, or two where the sides differ, so that each side sees an address that it can use (RFC 5658 §4).
fn write_record_route(out: &mut Vec<u8>, user: &str, onward: &Onward<'_>) {
    let mut write = |listener: &Listener, transport: Transport| {
        out.extend_from_slice(b"Record-Route: <sip:");
        out.extend_from_slice(user.as_bytes());
        out.push(b'@');
        out.extend_from_slice(listener.sent_by.as_bytes());
        if transport.is_reliable() {
            out.extend_from_slice(b";transport=");
            out.extend_from_slice(transport.uri_name().as_bytes());
        }
        out.extend_from_slice(b";lr>\r\n");
    };
    write(onward.egress, onward.transport);
    let same = onward.egress.sent_by == onward.ingress.sent_by && onward.transport == onward.ingress.transport;
    if !same {
        write(onward.ingress, onward.ingress.transport);
    }
}

/// RFC 3261 §16.6 step 3. An unreadable value counts as absent, which allows a full 70.
fn decrement_max_forwards(request: &Message, edits: &mut Edits) {
    let hops = match request.number(HeaderName::MaxForwards) {
        Some(hops @ 1..=255) => hops - 1,
        Some(_) | None => 70,
    };
    match request.fields(HeaderName::MaxForwards).next() {
        Some(field) => edits.replace(field.value(), |out| scan::put(out, hops)),
        None => edits.insert(request.headers_end(), |out| header(out, "Max-Forwards", hops.to_string().as_bytes())),
    }
}

fn is_loose(route: &[u8]) -> bool {
    Uri::parse(route).is_ok_and(|uri| uri.has_param("lr"))
}

/// The next hop is a strict router: it gets itself as Request-URI, and the target as the last Route
/// (RFC 3261 §16.6 step 6).
fn swap_strict(request: &Message, routed: &Routed<'_>, uri: Option<&[u8]>, edits: &mut Edits) {
    let Some(next) = routed.next_route else { return };
    edits.replace(request.uri_span(), |out| out.extend_from_slice(next));
    let next_value = request
        .values(HeaderName::Route)
        .find(|value| NameAddr::parse(value).map_or(*value, |parsed| parsed.uri).as_ptr() == next.as_ptr());
    let mut removed = routed.removed.clone();
    removed.extend(next_value.map(|value| request.span_of(value)));
    remove_values(request, HeaderName::Route, &removed, edits);
    let after =
        request.fields(HeaderName::Route).last().map_or_else(|| request.headers_end(), |field| field.line().end);
    let target = uri.unwrap_or(routed.uri);
    edits.insert(after, |out| {
        out.extend_from_slice(b"Route: <");
        out.extend_from_slice(target);
        out.extend_from_slice(b">\r\n");
    });
}

/// Takes values out of the lists called `name`; a field that loses all goes with its line.
pub(super) fn remove_values(message: &Message, name: HeaderName, removed: &[Range<usize>], edits: &mut Edits) {
    if removed.is_empty() {
        return;
    }
    for field in message.fields(name) {
        let values = || scan::values(message.slice(field.value()));
        let keeps = |value: &&[u8]| !removed.contains(&message.span_of(value));
        match values().filter(keeps).count() {
            0 => edits.remove(field.line()),
            kept if kept == values().count() => {}
            _ => edits.replace(field.value(), |out| {
                for (index, value) in values().filter(keeps).enumerate() {
                    if index > 0 {
                        out.extend_from_slice(b", ");
                    }
                    out.extend_from_slice(value);
                }
            }),
        }
    }
}

/// The same where values that stay are edited, too: only what goes is cut out.
pub(super) fn cut_values(message: &Message, name: HeaderName, is_removed: impl Fn(&[u8]) -> bool, edits: &mut Edits) {
    for field in message.fields(name) {
        let values: Vec<&[u8]> = scan::values(message.slice(field.value())).collect();
        let Some(first_kept) = values.iter().position(|value| !is_removed(value)) else {
            edits.remove(field.line());
            continue;
        };
        let pairs = values.iter().zip(values.iter().skip(1));
        for (value, next) in pairs.clone().take(first_kept) {
            edits.remove(message.span_of(value).start..message.span_of(next).start);
        }
        for (before, value) in pairs.skip(first_kept).filter(|(_, value)| is_removed(value)) {
            edits.remove(message.span_of(before).end..message.span_of(value).end);
        }
    }
}

/// Takes our own Via off a response (RFC 3261 §16.7 step 3).
fn remove_top_via(response: &Message, edits: &mut Edits) {
    if let Some(top) = response.values(HeaderName::Via).next() {
        let span = response.span_of(top);
        remove_values(response, HeaderName::Via, &[span], edits);
    }
}

/// Takes out which program the softswitch is, and of which version.
pub(super) fn hide_server(response: &Message, edits: &mut Edits) {
    let is_it = |field: &&crate::sip::message::Field| {
        field.name == HeaderName::UserAgent || response.slice(field.name_span()).eq_ignore_ascii_case(b"server")
    };
    response.all_fields().iter().filter(is_it).for_each(|field| edits.remove(field.line()));
}

/// What is always different in a response that goes back to whom the request came from, by `transport`.
pub(super) fn response_edits(response: &Message, towards: Towards<'_>, transport: Transport) -> Edits {
    let mut edits = Edits::new();
    remove_top_via(response, &mut edits);
    hide(response, towards, &mut edits);
    complete_length(response, transport, &mut edits);
    edits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The Contact lines without the values whose numbers are given.
    fn without(contacts: &str, numbers: &[usize]) -> String {
        let text = format!("REGISTER sip:h SIP/2.0\r\nTo: a\r\n{contacts}X: y\r\n\r\n");
        let message = Message::parse(text.into(), 128).unwrap();
        let values: Vec<_> = message.values(HeaderName::Contact).collect();
        let mut edits = Edits::new();
        cut_values(
            &message,
            HeaderName::Contact,
            |value| numbers.iter().any(|number| values[*number] == value),
            &mut edits,
        );
        let text = String::from_utf8(edits.apply(message.bytes()).to_vec()).unwrap();
        text.trim_start_matches("REGISTER sip:h SIP/2.0\r\nTo: a\r\n").trim_end_matches("X: y\r\n\r\n").into()
    }

    #[test]
    fn values_go_with_their_commas_and_lines_with_their_last_value() {
        let line = "Contact: <sip:a>, <sip:b;x=1>,<sip:c>\r\n";
        assert_eq!(without(line, &[0]), "Contact: <sip:b;x=1>,<sip:c>\r\n");
        assert_eq!(without(line, &[1]), "Contact: <sip:a>,<sip:c>\r\n");
        assert_eq!(without(line, &[2]), "Contact: <sip:a>, <sip:b;x=1>\r\n");
        assert_eq!(without(line, &[0, 1]), "Contact: <sip:c>\r\n");
        assert_eq!(without(line, &[0, 2]), "Contact: <sip:b;x=1>\r\n");
        assert_eq!(without(line, &[1, 2]), "Contact: <sip:a>\r\n");
        assert_eq!(without(line, &[0, 1, 2]), "");
        assert_eq!(without("Contact: <sip:a>\r\nm: <sip:b>\r\n", &[0]), "m: <sip:b>\r\n");
        assert_eq!(without("Contact: <sip:a>\r\nm: <sip:b>, <sip:c>\r\n", &[0, 2]), "m: <sip:b>\r\n");
        assert_eq!(without(line, &[]), line);
    }
}
