//! Responses made here, from the request they answer (RFC 3261 §8.2.6).

use std::net::SocketAddr;

use bytes::Bytes;

use super::header::HeaderName;
use super::message::Message;
use super::scan;
use super::via::Via;

/// Writes a response without a body. `to_tag` is added where the request's To has none (never on a 100); `headers`
/// writes whole header lines, each with its CRLF.
pub fn build(
    request: &Message,
    source: SocketAddr,
    status: u16,
    reason: &str,
    to_tag: Option<&str>,
    headers: impl FnOnce(&mut Vec<u8>),
) -> Bytes {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"SIP/2.0 ");
    scan::put(&mut out, status);
    out.push(b' ');
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
    write_vias(request, source, &mut out);
    for name in [HeaderName::From, HeaderName::To, HeaderName::CallId, HeaderName::CSeq] {
        let Some(value) = request.first(name) else { continue };
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        if let Some(tag) = to_tag.filter(|_| name == HeaderName::To && request.to_tag().is_none()) {
            out.extend_from_slice(b";tag=");
            out.extend_from_slice(tag.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
    if let (100, Some(timestamp)) = (status, request.first(HeaderName::Timestamp)) {
        header(&mut out, "Timestamp", timestamp);
    }
    headers(&mut out);
    out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
    out.into()
}

/// Writes one header line.
pub fn header(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// All Via headers as they came, but for the top value, which is stamped with the source it came from.
///
/// They are not written one value a line, nor compact names in full: many small values would make the answer larger than
/// the request, and so worth sending in somebody else's name.
fn write_vias(request: &Message, source: SocketAddr, out: &mut Vec<u8>) {
    let mut is_top = true;
    for field in request.fields(HeaderName::Via) {
        let list = request.slice(field.value());
        out.extend_from_slice(request.slice(field.name_span()));
        out.extend_from_slice(b": ");
        let top = scan::values(list).next().filter(|_| std::mem::take(&mut is_top));
        match top.and_then(|value| Some((value, Via::parse(value)?))) {
            Some((value, via)) => {
                via.stamp(value, source, out);
                out.extend_from_slice(list.get(scan::span_in(list, value).end..).unwrap_or_default());
            }
            None => out.extend_from_slice(list),
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// The reason phrase that goes with a status (RFC 3261 §21, RFC 5626 §11, RFC 8599 §8.1).
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        182 => "Queued",
        183 => "Session Progress",
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        410 => "Gone",
        413 => "Request Entity Too Large",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        423 => "Interval Too Brief",
        430 => "Flow Failed",
        440 => "Max-Breadth Exceeded",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        485 => "Ambiguous",
        486 => "Busy Here",
        487 => "Request Terminated",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        555 => "Push Notification Service Not Supported",
        600 => "Busy Everywhere",
        603 => "Decline",
        _ if status < 200 => "Progress",
        _ if status < 300 => "OK",
        _ if status < 400 => "Redirection",
        _ if status < 500 => "Request Failure",
        _ if status < 600 => "Server Failure",
        _ => "Global Failure",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_goes_back_the_way_of_the_request() {
        let request = Message::parse(
            Bytes::from_static(
                b"OPTIONS sip:h SIP/2.0\r\nVia: SIP/2.0/UDP a;rport;branch=z9hG4bK1, SIP/2.0/TCP b;branch=2\r\n\
                  v: SIP/2.0/UDP c\r\nTo: <sip:h>\r\nFrom: <sip:x>;tag=f\r\nCall-ID: i\r\nCSeq: 7 OPTIONS\r\n\r\n",
            ),
            128,
        )
        .unwrap();
        let response = build(&request, "192.0.2.1:5070".parse().unwrap(), 480, reason_phrase(480), Some("t"), |out| {
            header(out, "Retry-After", b"5");
        });
        assert_eq!(
            std::str::from_utf8(&response).unwrap(),
            "SIP/2.0 480 Temporarily Unavailable\r\nVia: SIP/2.0/UDP a;rport=5070;branch=z9hG4bK1;received=192.0.2.1, \
             SIP/2.0/TCP b;branch=2\r\nv: SIP/2.0/UDP c\r\nFrom: <sip:x>;tag=f\r\nTo: <sip:h>;tag=t\r\n\
             Call-ID: i\r\nCSeq: 7 OPTIONS\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"
        );
    }
}
