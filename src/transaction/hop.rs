//! The requests that an INVITE client transaction makes from its INVITE for the next hop: ACK for a 300-699 (RFC 3261
//! §17.1.1.3) and CANCEL (§9.1).

use bytes::Bytes;

use crate::sip::{HeaderName, Message, response};

/// The ACK for a final `response` other than 2xx. `None` if `invite` lacks a CSeq.
pub(super) fn ack(invite: &Message, response: &Message) -> Option<Bytes> {
    build(invite, b"ACK", response.first(HeaderName::To)?, &[])
}

/// The CANCEL of `invite`; `extra` is whole header lines to go with it, such as the Reason (RFC 3326 §2).
pub(super) fn cancel(invite: &Message, extra: &[u8]) -> Option<Bytes> {
    build(invite, b"CANCEL", invite.first(HeaderName::To)?, extra)
}

fn build(invite: &Message, method: &[u8], to: &[u8], extra: &[u8]) -> Option<Bytes> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(method);
    out.push(b' ');
    out.extend_from_slice(invite.uri());
    out.extend_from_slice(b" SIP/2.0\r\n");
    response::header(&mut out, "Via", invite.values(HeaderName::Via).next()?);
    response::header(&mut out, "Max-Forwards", b"70");
    for field in invite.fields(HeaderName::Route) {
        response::header(&mut out, "Route", invite.slice(field.value()));
    }
    response::header(&mut out, "From", invite.first(HeaderName::From)?);
    response::header(&mut out, "To", to);
    response::header(&mut out, "Call-ID", invite.call_id());
    let mut cseq = invite.cseq()?.number.to_string().into_bytes();
    cseq.push(b' ');
    cseq.extend_from_slice(method);
    response::header(&mut out, "CSeq", &cseq);
    out.extend_from_slice(extra);
    out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
    Some(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transaction::test_support::message;

    const INVITE: &str = "INVITE sip:a@192.0.2.9:5061;ob SIP/2.0\nv: SIP/2.0/UDP us;branch=z9hG4bK1, SIP/2.0/UDP them\n\
        Via: SIP/2.0/TCP first\nRoute: <sip:p1;lr>,\n <sip:p2;lr>\nMax-Forwards: 12\nf: <sip:b@h>;tag=f\nTo: <sip:a@h>\n\
        i: c@h\nCSeq: 0042 INVITE\nRoute: <sip:p3;lr>\nRequire: x\nContent-Type: application/sdp\nl: 2\n\nhi";

    #[test]
    fn ack_has_the_responses_to_and_the_invites_rest() {
        let response = message("SIP/2.0 486 Busy\nTo: <sip:a@h>;tag=t\n\n");
        let ack = ack(&message(INVITE), &response).unwrap();
        assert_eq!(
            std::str::from_utf8(&ack).unwrap(),
            "ACK sip:a@192.0.2.9:5061;ob SIP/2.0\r\nVia: SIP/2.0/UDP us;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n\
             Route: <sip:p1;lr>,\r\n <sip:p2;lr>\r\nRoute: <sip:p3;lr>\r\nFrom: <sip:b@h>;tag=f\r\n\
             To: <sip:a@h>;tag=t\r\nCall-ID: c@h\r\nCSeq: 42 ACK\r\nContent-Length: 0\r\n\r\n"
        );
    }

    #[test]
    fn cancel_has_the_invites_to_and_the_extra_lines() {
        let cancel = cancel(&message(INVITE), b"Reason: SIP;cause=200\r\n").unwrap();
        assert_eq!(
            std::str::from_utf8(&cancel).unwrap(),
            "CANCEL sip:a@192.0.2.9:5061;ob SIP/2.0\r\nVia: SIP/2.0/UDP us;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n\
             Route: <sip:p1;lr>,\r\n <sip:p2;lr>\r\nRoute: <sip:p3;lr>\r\nFrom: <sip:b@h>;tag=f\r\n\
             To: <sip:a@h>\r\nCall-ID: c@h\r\nCSeq: 42 CANCEL\r\nReason: SIP;cause=200\r\nContent-Length: 0\r\n\r\n"
        );
    }
}
