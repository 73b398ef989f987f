//! Matching messages to transactions (RFC 3261 §17.1.3, §17.2.3).
//!
//! What a message is matched by is hashed to 128 bits under a secret key, so that nothing of the message is kept and
//! nobody can aim at another's transaction.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

use crate::sip::{HeaderName, Message, Via};

/// Stands for all that a transaction is matched by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TransactionKey(u128);

/// Makes keys, and the numbers in our branches.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    hasher: SipHasher24,
}

/// What is hashed, so that one kind never equals another.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Server,
    /// The client did not put the cookie into its branch.
    Rfc2543Server,
    /// An INVITE by what its client does not change when it learns its own address.
    Loose,
    Client,
    BranchNumber,
}

const DEFAULT_PORT: u16 = 5060;

impl Keys {
    pub(super) fn new(seed: u64) -> Self {
        Self { hasher: SipHasher24::new_with_keys(seed, seed.rotate_left(32) ^ 0x7369_702d_7075_7368) }
    }

    /// The server transaction of `request`. An ACK has the one of its INVITE.
    pub(super) fn server(&self, request: &Message) -> TransactionKey {
        let method = request.method_text();
        self.server_of(request, if method == b"ACK" { b"INVITE" } else { method })
    }

    /// The INVITE server transaction that a CANCEL is for (RFC 3261 §9.2).
    pub(super) fn cancelled_invite(&self, cancel: &Message) -> TransactionKey {
        self.server_of(cancel, b"INVITE")
    }

    /// The server transaction of an INVITE's CANCEL.
    pub(super) fn cancel_of(&self, invite: &Message) -> TransactionKey {
        self.server_of(invite, b"CANCEL")
    }

    /// The INVITE transaction of this request without its sent-by; `None` where the branch is not unique.
    pub(super) fn loose_invite(&self, request: &Message) -> Option<TransactionKey> {
        let via = request.top_via()?;
        let mut hash = self.hash(Kind::Loose);
        hash.text(via.unique_branch()?);
        hash.text(request.call_id());
        hash.text(request.from_tag().unwrap_or_default());
        Some(hash.finish())
    }

    fn server_of(&self, request: &Message, method: &[u8]) -> TransactionKey {
        let via = request.top_via();
        match via.and_then(|via| Some((via, via.unique_branch()?))) {
            Some((via, branch)) => self.by_branch(&via, branch, method),
            None => self.by_rfc2543(request, method),
        }
    }

    fn by_branch(&self, via: &Via<'_>, branch: &[u8], method: &[u8]) -> TransactionKey {
        let mut hash = self.hash(Kind::Server);
        hash.text(branch);
        hash.text_any_case(via.host);
        hash.0.write_u16(via.port.unwrap_or(DEFAULT_PORT));
        hash.text(method);
        hash.finish()
    }

    /// Request-URI and top Via are compared byte for byte, as repetitions of a request and its ACK have them.
    ///
    /// The To tag is left out for an INVITE: its ACK has the tag of our response, which it could not have.
    fn by_rfc2543(&self, request: &Message, method: &[u8]) -> TransactionKey {
        let mut hash = self.hash(Kind::Rfc2543Server);
        hash.text(method);
        hash.text(request.uri());
        if method != b"INVITE" {
            hash.text(request.to_tag().unwrap_or_default());
        }
        hash.text(request.from_tag().unwrap_or_default());
        hash.text(request.call_id());
        hash.0.write_u32(request.cseq().map_or(0, |cseq| cseq.number));
        hash.text(request.values(HeaderName::Via).next().unwrap_or_default());
        hash.finish()
    }

    /// The client transaction that sent `branch` and `method`.
    pub(super) fn client(&self, branch: &[u8], method: &[u8]) -> TransactionKey {
        let mut hash = self.hash(Kind::Client);
        hash.text(branch);
        hash.text(method);
        hash.finish()
    }

    /// The client transaction that `response` is for; `None` when it names none.
    pub(super) fn client_of(&self, response: &Message) -> Option<TransactionKey> {
        Some(self.client(response.top_via()?.branch()?, response.cseq()?.method))
    }

    /// A number that nobody can guess who has seen those of all other `count`s.
    pub(super) fn branch_number(&self, count: u64) -> u64 {
        let mut hash = self.hash(Kind::BranchNumber);
        hash.0.write_u64(count);
        hash.0.finish128().h1
    }

    fn hash(&self, kind: Kind) -> KeyHash {
        let mut hash = KeyHash(self.hasher);
        hash.0.write_u8(kind as u8);
        hash
    }
}

/// A key in the making.
struct KeyHash(SipHasher24);

impl KeyHash {
    /// The length goes first, so that no text runs into the next.
    fn text(&mut self, text: &[u8]) {
        self.0.write_u32(text.len() as u32);
        self.0.write(text);
    }

    fn text_any_case(&mut self, text: &[u8]) {
        self.0.write_u32(text.len() as u32);
        for part in text.chunks(32) {
            let mut lower = [0; 32];
            if let Some(lower) = lower.get_mut(..part.len()) {
                lower.copy_from_slice(part);
                lower.make_ascii_lowercase();
                self.0.write(lower);
            }
        }
    }

    fn finish(self) -> TransactionKey {
        TransactionKey(self.0.finish128().as_u128())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transaction::test_support::message;

    fn key(text: &str) -> TransactionKey {
        Keys::new(1).server(&message(text))
    }

    fn request(method: &str, via: &str) -> String {
        format!(
            "{method} sip:a@h SIP/2.0\nVia: SIP/2.0/UDP {via}\nFrom: <sip:b@h>;tag=f\nTo: <sip:a@h>\nCall-ID: c\n\
             CSeq: 1 {method}\n\n"
        )
    }

    #[test]
    fn a_request_with_the_cookie_is_matched_by_branch_sent_by_and_method() {
        let invite = key(&request("INVITE", "phone.example;branch=z9hG4bK1"));
        for same in [
            request("INVITE", "phone.example;branch=z9hG4bK1").replace("tag=f", "tag=g").replace("sip:a@h", "sip:x@h"),
            request("INVITE", "PHONE.example:5060;rport;received=192.0.2.1;branch=z9hG4bK1"),
            request("ACK", "phone.example;branch=z9hG4bK1"),
        ] {
            assert_eq!(key(&same), invite, "{same}");
        }
        for other in [
            request("INVITE", "phone.example;branch=z9hG4bK2"),
            request("INVITE", "phone.example:5070;branch=z9hG4bK1"),
            request("INVITE", "phone2.example;branch=z9hG4bK1"),
            request("CANCEL", "phone.example;branch=z9hG4bK1"),
            request("OPTIONS", "phone.example;branch=z9hG4bK1"),
        ] {
            assert_ne!(key(&other), invite, "{other}");
        }
        let cancel = message(&request("CANCEL", "phone.example;branch=z9hG4bK1"));
        assert_eq!(Keys::new(1).cancelled_invite(&cancel), invite);
        assert_ne!(Keys::new(2).cancelled_invite(&cancel), invite, "the seed is the key");
    }

    #[test]
    fn a_request_without_the_cookie_is_matched_by_its_headers() {
        let invite = request("INVITE", "phone.example;branch=1");
        let ack = request("ACK", "phone.example;branch=1").replace("To: <sip:a@h>", "To: <sip:a@h>;tag=ours");
        assert_eq!(key(&ack), key(&invite));
        let cancel = message(&request("CANCEL", "phone.example;branch=1"));
        assert_eq!(Keys::new(1).cancelled_invite(&cancel), key(&invite));
        for (from, to) in [
            ("sip:a@h SIP", "sip:b@h SIP"),
            ("tag=f", "tag=g"),
            ("Call-ID: c", "Call-ID: d"),
            ("CSeq: 1", "CSeq: 2"),
            ("phone.example", "phone2.example"),
            ("branch=1", "branch=2"),
        ] {
            assert_ne!(key(&invite.replace(from, to)), key(&invite), "{from}");
        }
        let bye = request("BYE", "phone.example");
        assert_ne!(key(&bye.replace("To: <sip:a@h>", "To: <sip:a@h>;tag=t")), key(&bye));
    }

    #[test]
    fn the_bare_cookie_is_no_branch() {
        let one = request("OPTIONS", "phone.example;branch=z9hG4bK");
        assert_ne!(key(&one), key(&one.replace("Call-ID: c", "Call-ID: d")));
    }

    #[test]
    fn a_response_is_matched_by_branch_and_cseq_method() {
        let keys = Keys::new(1);
        let response = |method: &str| {
            message(&format!("SIP/2.0 200 OK\nVia: SIP/2.0/UDP us;branch=z9hG4bK1\nCall-ID: c\nCSeq: 1 {method}\n\n"))
        };
        let invite = keys.client(b"z9hG4bK1", b"INVITE");
        assert_eq!(keys.client_of(&response("INVITE")), Some(invite));
        assert_ne!(keys.client_of(&response("CANCEL")), Some(invite));
        assert_eq!(keys.client_of(&message("SIP/2.0 200 OK\nCall-ID: c\n\n")), None);
    }
}
