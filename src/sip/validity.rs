//! Whether a message is sound enough to be processed (RFC 3261 §16.3 items 1 and 2, §8.1.1, §18.3).
//!
//! What stands in headers that a proxy only passes on is not looked at. Loops, hops left and extensions
//! (RFC 3261 §16.3 items 3 to 5) are for the proxy, who alone knows what is its own.

use std::net::IpAddr;

use super::header::HeaderName;
use super::message::{CSeq, Defect, Message};
use super::method::Method;
use super::name_addr::NameAddr;
use super::scan;
use super::uri::{Uri, UriError, is_dialled};
use super::via::Via;

/// Why a message is refused. A request is answered so (an ACK never is, RFC 3261 §17.1.1.3: it is dropped).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub status: u16,
    /// The reason phrase: names the header at fault and nothing of our insides.
    pub reason: &'static str,
}

/// What is wrong with a request, or `None` if it may be processed.
///
/// Numbers that only some later element needs are not judged: a Max-Forwards or Expires that is no number or too
/// large counts as absent where it is read (RFC 4475 §3.1.2.4).
pub fn request_fault(request: &Message) -> Option<Fault> {
    if let Some(defect) = request.defect() {
        return Some(defect_fault(defect));
    }
    common_fault(request)
        .or_else(|| uri_fault(request.uri()))
        .or_else(|| contact_fault(request))
        .or_else(|| route_fault(request))
}

/// What is wrong with a response. Nobody is told; the response is dropped (RFC 3261 §18.1.2, §18.3).
pub fn response_fault(response: &Message) -> Option<Fault> {
    if let Some(defect) = response.defect() {
        return Some(defect_fault(defect));
    }
    common_fault(response).or_else(|| next_hop_fault(response))
}

/// Whether a response may be processed.
pub fn response_is_sound(response: &Message) -> bool {
    response_fault(response).is_none()
}

const fn bad_request(reason: &'static str) -> Fault {
    Fault { status: 400, reason }
}

fn defect_fault(defect: Defect) -> Fault {
    match defect {
        Defect::Version => Fault { status: 505, reason: "Version Not Supported" },
        Defect::RequestLine => bad_request("Malformed Request-Line"),
        Defect::HeaderLine => bad_request("Malformed Header Line"),
        Defect::ControlCharacter => bad_request("Control Character In A Line"),
        Defect::TooManyHeaders => bad_request("Too Many Header Lines"),
        Defect::HeadersUnfinished => bad_request("Unfinished Header Section"),
        Defect::ContentLength => bad_request("Malformed Content-Length"),
        Defect::BodyTooShort => bad_request("Body Shorter Than Content-Length"),
    }
}

/// What requests and responses have in common: the headers that each message must have (RFC 3261 §8.1.1).
fn common_fault(message: &Message) -> Option<Fault> {
    single_headers_fault(message)
        .or_else(|| via_fault(message))
        .or_else(|| address_fault(message.first(HeaderName::From), "Malformed From"))
        .or_else(|| address_fault(message.first(HeaderName::To), "Malformed To"))
        .or_else(|| cseq_fault(message))
}

/// Of To, From, Call-ID and CSeq there is one each; of Max-Forwards at most one, as an RFC 2543 client sends none
/// (RFC 4475 §3.4.1).
fn single_headers_fault(message: &Message) -> Option<Fault> {
    let (mut to, mut from, mut call_id, mut cseq, mut max_forwards) = (0, 0, 0, 0, 0);
    for field in message.all_fields() {
        let count = if field.name == HeaderName::To {
            &mut to
        } else if field.name == HeaderName::From {
            &mut from
        } else if field.name == HeaderName::CallId {
            &mut call_id
        } else if field.name == HeaderName::CSeq {
            &mut cseq
        } else if field.name == HeaderName::MaxForwards {
            &mut max_forwards
        } else {
            continue;
        };
        *count += 1;
    }
    if max_forwards > 1 {
        return Some(bad_request("Repeated Max-Forwards"));
    }
    [
        (to, "Missing To", "Repeated To"),
        (from, "Missing From", "Repeated From"),
        (call_id, "Missing Call-ID", "Repeated Call-ID"),
        (cseq, "Missing CSeq", "Repeated CSeq"),
    ]
    .into_iter()
    .find_map(|(count, missing, repeated)| match count {
        0 => Some(bad_request(missing)),
        1 => None,
        _ => Some(bad_request(repeated)),
    })
    .or_else(|| message.call_id().is_empty().then_some(bad_request("Empty Call-ID")))
}

/// Only the topmost Via is ours to use, but a stray separator makes it doubtful which one that is
/// (RFC 4475 §3.1.2.1).
fn via_fault(message: &Message) -> Option<Fault> {
    let mut values = message.values(HeaderName::Via).peekable();
    if values.peek().is_none() {
        return Some(bad_request("Missing Via"));
    }
    values.any(|value| Via::parse(value).is_none()).then_some(bad_request("Malformed Via"))
}

fn cseq_fault(message: &Message) -> Option<Fault> {
    let Some(CSeq { method, .. }) = message.cseq() else {
        return Some(bad_request("Malformed CSeq"));
    };
    if !message.is_request() || method == message.method_text() {
        return None;
    }
    // Of a method without a name here nobody can say which of the two is meant (RFC 4475 §3.1.2.18).
    Some(match message.method() {
        Method::Known(_) => bad_request("CSeq Method Differs"),
        Method::Extension => Fault { status: 501, reason: "CSeq Method Differs" },
    })
}

fn uri_fault(uri: &[u8]) -> Option<Fault> {
    match Uri::parse(uri) {
        Ok(Uri { headers: None, .. }) => None,
        // They would become headers of a request that nobody sent (RFC 4475 §3.1.2.11).
        Ok(Uri { headers: Some(_), .. }) => Some(bad_request("Headers In Request-URI")),
        Err(UriError::Malformed) => Some(bad_request("Malformed Request-URI")),
        Err(UriError::Scheme) if is_dialled(uri) => None,
        Err(UriError::Scheme) => Some(Fault { status: 416, reason: "Unsupported URI Scheme" }),
    }
}

/// `*` is a Contact of REGISTER only (RFC 3261 §10.2.2).
fn contact_fault(request: &Message) -> Option<Fault> {
    let is_register = request.method() == Method::REGISTER;
    request
        .values(HeaderName::Contact)
        .filter(|value| !(is_register && *value == b"*"))
        .find_map(|value| address_fault(Some(value), "Malformed Contact"))
}

/// A Route becomes the Request-URI where the next hop is a strict router, so it has to be one (RFC 3261 §16.6 step 6).
fn route_fault(request: &Message) -> Option<Fault> {
    let is_route = |value: &[u8]| NameAddr::parse(value).is_some_and(|route| route.parse_uri().is_ok());
    (!request.values(HeaderName::Route).all(is_route)).then_some(bad_request("Malformed Route"))
}

/// A From, To or Contact value. Any scheme will do: these are not for us to reach (RFC 4475 §3.3.4).
fn address_fault(value: Option<&[u8]>, reason: &'static str) -> Option<Fault> {
    let is_sound = value.and_then(|value| Some((value, NameAddr::parse(value)?))).is_some_and(|(value, address)| {
        // A bare URI begins where the value does. It must not have `?` nor `,` (RFC 3261 §20.10): whether they belong
        // to the URI or to the header is anybody's guess.
        let is_bare = scan::span_in(value, address.uri).start == 0;
        is_absolute_uri(address.uri) && !(is_bare && address.uri.iter().any(|byte| matches!(byte, b'?' | b',')))
    });
    (!is_sound).then_some(bad_request(reason))
}

/// A scheme and something after it, no white space, nothing that ends a URI.
fn is_absolute_uri(text: &[u8]) -> bool {
    let is_scheme = |scheme: &[u8]| {
        scheme.first().is_some_and(u8::is_ascii_alphabetic)
            && scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
    };
    scan::split_once(text, b':').is_some_and(|(scheme, rest)| is_scheme(scheme) && !rest.is_empty())
        && !text.iter().any(|byte| *byte <= b' ' || matches!(byte, b'<' | b'>' | b'"' | 0x7f))
}

/// The Via below ours says where a response goes on to. No request comes from a group of hosts, so none gets an
/// answer (RFC 4475 §3.3.10).
fn next_hop_fault(response: &Message) -> Option<Fault> {
    let next = response.values(HeaderName::Via).nth(1).and_then(Via::parse)?;
    let is_group = match next.response_address()?.ip() {
        IpAddr::V4(ip) => ip.is_broadcast() || ip.is_multicast(),
        IpAddr::V6(ip) => ip.is_multicast(),
    };
    is_group.then_some(bad_request("Via Names A Group Of Hosts"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const SOUND: [&str; 7] = [
        "OPTIONS sip:bob@example.org SIP/2.0",
        "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1",
        "From: \"A. B.\" <sip:alice@example.org>;tag=1",
        "To: <sip:bob@example.org>",
        "Call-ID: c",
        "CSeq: 1 OPTIONS",
        "Max-Forwards: many",
    ];

    fn message(lines: &[&str]) -> Message {
        Message::parse(Bytes::from(lines.join("\r\n") + "\r\n\r\n"), 128).unwrap()
    }

    /// The status and reason for the sound request with line `at` replaced.
    fn fault(at: usize, line: &str) -> Option<(u16, &'static str)> {
        let mut lines = SOUND;
        lines[at] = line;
        request_fault(&message(&lines)).map(|fault| (fault.status, fault.reason))
    }

    /// The status and reason for the sound request with one more line.
    fn fault_with(line: &str) -> Option<(u16, &'static str)> {
        fault(6, &format!("{}\r\n{line}", SOUND[6]))
    }

    #[test]
    fn a_sound_request_has_no_fault() {
        assert_eq!(request_fault(&message(&SOUND)), None);
        assert_eq!(fault(6, "X: y"), None, "Max-Forwards may be absent");
        assert_eq!(fault(3, "To: sip:bob@example.org;tag=2"), None);
        assert_eq!(fault(3, "To: <isbn:2983792873>"), None);
        assert_eq!(fault(2, "From: <sip:@192.0.2.1>"), None, "some gateways send an empty user");
        assert_eq!(fault_with("Expires: 99999999999999999999"), None);
        assert_eq!(fault_with("Contact: <sip:alice@192.0.2.1?Route=%3Csip:x%3E>, sip:a@h;expires=5"), None);
    }

    #[test]
    fn each_mandatory_header_is_there_once() {
        for (at, name) in [(1, "Via"), (2, "From"), (3, "To"), (4, "Call-ID"), (5, "CSeq")] {
            let (status, reason) = fault(at, "X: y").unwrap();
            assert_eq!((status, reason), (400, format!("Missing {name}").as_str()));
        }
        for at in [2, 3, 4, 5, 6] {
            let (status, reason) = fault_with(SOUND[at]).unwrap();
            assert_eq!(status, 400);
            assert!(reason.starts_with("Repeated"), "{reason}");
        }
        assert_eq!(fault_with(SOUND[1]), None);
        assert_eq!(fault(4, "i:"), Some((400, "Empty Call-ID")));
        assert_eq!(fault(1, "Via:,"), Some((400, "Missing Via")));
        assert_eq!(fault(1, "Via: SIP/2.0/UDP 192.0.2.15;;,;,,"), Some((400, "Malformed Via")));
    }

    #[test]
    fn defects_come_first() {
        assert_eq!(fault(0, "OPTIONS nonsense SIP/7.0"), Some((505, "Version Not Supported")));
        assert_eq!(fault(4, "Call-ID"), Some((400, "Malformed Header Line")));
    }

    #[test]
    fn the_request_uri_is_a_plain_sip_uri() {
        let uri = |uri: &str| fault(0, &format!("OPTIONS {uri} SIP/2.0"));
        assert_eq!(uri("sips:bob@[2001:db8::1]:5061;transport=tcp"), None);
        assert_eq!(uri("<sip:bob@example.org>"), Some((400, "Malformed Request-URI")));
        assert_eq!(uri("sip:bob@2001:db8::1"), Some((400, "Malformed Request-URI")));
        assert_eq!(uri("sip:bob@example.org?Route=%3Csip:x%3E"), Some((400, "Headers In Request-URI")));
        assert_eq!(uri("tel:+15550100"), None);
        assert_eq!(uri("urn:service:sos"), None);
        assert_eq!(uri("tel:+1 555"), Some((400, "Malformed Request-Line")));
        assert_eq!(uri("tel:"), Some((416, "Unsupported URI Scheme")));
        assert_eq!(uri("http://example.org"), Some((416, "Unsupported URI Scheme")));
    }

    #[test]
    fn cseq_agrees_with_the_request_line() {
        assert_eq!(fault(5, "CSeq: 4294967295 OPTIONS"), None);
        for malformed in ["4294967296 OPTIONS", "-1 OPTIONS", "OPTIONS", "1", "1 OPTIONS x", ""] {
            assert_eq!(fault(5, &format!("CSeq: {malformed}")), Some((400, "Malformed CSeq")), "{malformed}");
        }
        assert_eq!(fault(5, "CSeq: 1 INVITE"), Some((400, "CSeq Method Differs")));
        assert_eq!(fault(5, "CSeq: 1 options"), Some((400, "CSeq Method Differs")));
        assert_eq!(fault(0, "DANCE sip:bob@example.org SIP/2.0"), Some((501, "CSeq Method Differs")));
    }

    #[test]
    fn addresses_are_told_apart_from_their_parameters() {
        for value in [
            "\"Bob <sip:bob@example.org>",
            "Bell, Alexander <sip:bob@example.org>",
            "<sip:bob@example.org",
            "< sip:bob@example.org >",
            "sip:bob@example.org?Route=%3Csip:x%3E",
            "sip:bob,alice@example.org",
            "bob",
            "<>",
            "",
        ] {
            assert_eq!(fault(2, &format!("From: {value}")), Some((400, "Malformed From")), "{value}");
            assert_eq!(fault(3, &format!("To: {value}")), Some((400, "Malformed To")), "{value}");
            if !value.is_empty() {
                assert_eq!(fault_with(&format!("m: {value}")), Some((400, "Malformed Contact")), "{value}");
            }
        }
    }

    #[test]
    fn star_is_a_contact_of_register_only() {
        assert_eq!(fault_with("Contact: *"), Some((400, "Malformed Contact")));
        let mut lines = SOUND;
        (lines[0], lines[5], lines[6]) = ("REGISTER sip:example.org SIP/2.0", "CSeq: 1 REGISTER", "Contact: *");
        assert_eq!(request_fault(&message(&lines)), None);
    }

    #[test]
    fn an_unsound_response_is_known() {
        let sound = |via: &str, cseq: &str| {
            let via = format!("{}\r\nVia: {via}", SOUND[1]);
            response_is_sound(&message(&["SIP/2.0 200 OK", &via, SOUND[2], SOUND[3], SOUND[4], cseq]))
        };
        assert!(sound("SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK2", "CSeq: 1 INVITE"));
        assert!(sound("SIP/2.0/UDP 255.255.255.255;received=192.0.2.2", "CSeq: 1 INVITE"));
        assert!(!sound("SIP/2.0/UDP 192.0.2.2", "CSeq: 99999999999 INVITE"));
        for group in ["255.255.255.255", "224.0.1.75", "[ff02::1]"] {
            assert!(!sound(&format!("SIP/2.0/UDP {group}"), "CSeq: 1 INVITE"), "{group}");
        }
    }
}
