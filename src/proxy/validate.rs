//! Request validation (RFC 3261 §16.3), in its order.

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;

use siphasher::sip::SipHasher24;

use super::Reject;
use super::policy::Policy;
use crate::sip::response::header;
use crate::sip::{HeaderName, Message, Method, Via, validity};
use crate::transaction::Branch;

/// Option tags that a proxy must understand to forward (RFC 3261 §16.3 item 5). Privacy asks for somebody to hide the
/// caller (RFC 3323 §4.2), which the softswitch does; towards phones it is kept here.
const PROXY_EXTENSIONS: [&str; 1] = ["privacy"];

/// What is wrong with a request, if anything is.
pub(super) fn request(message: &Message, policy: &Policy, loop_hash: u64) -> Option<Reject> {
    if let Some(fault) = validity::request_fault(message) {
        return Some(Reject::new(fault.status, fault.reason));
    }
    let hops = message.number(HeaderName::MaxForwards);
    // An OPTIONS to the proxy itself needs no more hops.
    if hops == Some(0) && message.method() != Method::OPTIONS {
        return Some(Reject::new(483, "Too Many Hops"));
    }
    if is_loop(message, policy, loop_hash) {
        return Some(Reject::new(482, "Loop Detected"));
    }
    let unsupported: Vec<_> = message
        .values(HeaderName::ProxyRequire)
        .filter(|option| !PROXY_EXTENSIONS.iter().any(|known| option.eq_ignore_ascii_case(known.as_bytes())))
        .collect();
    if !unsupported.is_empty() && message.method() != Method::ACK && message.method() != Method::CANCEL {
        let mut reject = Reject::new(420, "Bad Extension");
        header(&mut reject.headers, "Unsupported", &unsupported.join(&b", "[..]));
        return Some(reject);
    }
    None
}

/// Everything that decides where a request goes (RFC 5393 §4.2): if a request comes back with all of it unchanged, it
/// is in a loop. The source is part of it: the same call of a phone that a softswitch sends back for another phone goes
/// elsewhere this time. The method is left out, so that CANCEL and ACK fit their INVITE.
pub(super) fn loop_hash(message: &Message, source: SocketAddr, secret: &[u8; 32]) -> u64 {
    let (key, _) = secret.split_at(16);
    let mut hasher = SipHasher24::new_with_key(&<[u8; 16]>::try_from(key).unwrap_or_default());
    let mut part = |bytes: &[u8]| {
        hasher.write(bytes);
        hasher.write_u8(0);
    };
    part(message.uri());
    part(message.call_id());
    part(message.from_tag().unwrap_or_default());
    part(message.to_tag().unwrap_or_default());
    part(&message.cseq().map_or(0, |cseq| cseq.number).to_be_bytes());
    for name in [HeaderName::Route, HeaderName::ProxyRequire, HeaderName::ProxyAuthorization] {
        part(message.first(name).unwrap_or_default());
    }
    source.hash(&mut hasher);
    hasher.finish()
}

/// A Via of ours with the same loop hash is in the message already (RFC 3261 §16.3 item 4).
fn is_loop(message: &Message, policy: &Policy, loop_hash: u64) -> bool {
    message
        .values(HeaderName::Via)
        .filter_map(Via::parse)
        .any(|via| policy.is_own_host(via.host) && via.branch().and_then(Branch::loop_hash_of) == Some(loop_hash))
}
