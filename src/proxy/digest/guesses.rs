//! Passwords that are tried at the softswitch by way of us.
//!
//! The softswitch judges, so all that is seen here is its 401 or 403 to credentials. It counts against a source only where
//! the nonce of those credentials was given to that very source: who sends in another's name does not get him banned. And it
//! is taken back when the same user proves himself from there: a phone that tries an old nonce first, at a softswitch that
//! does not say `stale`, is no guesser, and an office has hundreds of them behind one address.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

use super::{Params, octets};
use crate::sip::{HeaderName, Message, Method, NameAddr};

/// Challenges that are remembered; the oldest go.
const CHALLENGES_MAX: usize = 65_536;

/// Users whose failures are remembered; the oldest go.
const FAILED_MAX: usize = 65_536;

/// Which source was given which nonce, and which users failed from where.
#[derive(Debug)]
pub(in crate::proxy) struct Guesses {
    key: (u64, u64),
    given: HashSet<u64>,
    order: VecDeque<u64>,
    failed: HashMap<u64, u32>,
    failed_order: VecDeque<u64>,
}

impl Guesses {
    pub(in crate::proxy) fn new(key: [u64; 2]) -> Self {
        Self {
            key: (key[0], key[1]),
            given: HashSet::new(),
            order: VecDeque::new(),
            failed: HashMap::new(),
            failed_order: VecDeque::new(),
        }
    }

    /// A final response to a request from `source` that carries challenges.
    pub(in crate::proxy) fn challenged(&mut self, source: IpAddr, response: &Message) {
        for name in [HeaderName::WwwAuthenticate, HeaderName::ProxyAuthenticate] {
            for challenge in Params::each(response, name) {
                let given = self.mark(source, &challenge.get("nonce"));
                if self.given.insert(given) {
                    self.order.push_back(given);
                }
            }
        }
        while self.order.len() > CHALLENGES_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.given.remove(&oldest);
            }
        }
    }

    /// Whether a final response means that the request's credentials are wrong. To be asked before
    /// [`Guesses::challenged`]. A 403 may have any reason but for a REGISTER.
    pub(in crate::proxy) fn is_wrong(&self, source: IpAddr, request: &Message, response: &Message) -> bool {
        let is_refused = match response.status() {
            Some(401 | 407) => !is_stale(response),
            Some(403) => request.method() == Method::REGISTER,
            Some(_) | None => false,
        };
        is_refused
            && [HeaderName::Authorization, HeaderName::ProxyAuthorization].into_iter().any(|name| {
                Params::each(request, name).any(|params| self.given.contains(&self.mark(source, &params.get("nonce"))))
            })
    }

    /// Notes a failure of the user that the request names.
    pub(in crate::proxy) fn failed(&mut self, source: IpAddr, request: &Message) {
        let mark = self.mark(source, user_of(request));
        let failures = self.failed.entry(mark).or_insert_with(|| {
            self.failed_order.push_back(mark);
            0
        });
        *failures = failures.saturating_add(1);
        while self.failed_order.len() > FAILED_MAX {
            if let Some(oldest) = self.failed_order.pop_front() {
                self.failed.remove(&oldest);
            }
        }
    }

    /// How many failures are to be taken back, because that user has proved himself now.
    pub(in crate::proxy) fn proven(&mut self, source: IpAddr, request: &Message) -> u32 {
        let mark = self.mark(source, user_of(request));
        // Its place in the order goes with the others.
        self.failed.get_mut(&mark).map_or(0, std::mem::take)
    }

    fn mark(&self, source: IpAddr, nonce: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_keys(self.key.0, self.key.1);
        hasher.write(&octets(source));
        hasher.write(nonce);
        hasher.finish()
    }
}

/// Whose password it is about.
fn user_of(request: &Message) -> &[u8] {
    let name = if request.method() == Method::REGISTER { HeaderName::To } else { HeaderName::From };
    request.first(name).and_then(NameAddr::parse).map_or(&[], |address| address.uri)
}

fn is_stale(response: &Message) -> bool {
    let names = [HeaderName::WwwAuthenticate, HeaderName::ProxyAuthenticate];
    names.into_iter().any(|name| Params::each(response, name).any(|challenge| challenge.is_stale()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, nonce: &str, more: &str) -> Message {
        let line = format!("WWW-Authenticate: Digest realm=\"r\", nonce=\"{nonce}\"{more}\r\n");
        Message::parse(format!("SIP/2.0 {status} x\r\n{line}\r\n").into(), 128).unwrap()
    }

    fn request(method: &str, nonce: &str) -> Message {
        let line = format!("Authorization: Digest username=\"a\", realm=\"r\", nonce=\"{nonce}\", response=\"x\"\r\n");
        Message::parse(format!("{method} sip:h SIP/2.0\r\n{line}\r\n").into(), 128).unwrap()
    }

    #[test]
    fn only_who_was_challenged_can_fail() {
        let [own, other]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let mut guesses = Guesses::new([1, 2]);
        guesses.challenged(own, &response(401, "n1", ""));
        let register = request("REGISTER", "n1");
        assert!(guesses.is_wrong(own, &register, &response(401, "n2", "")));
        assert!(guesses.is_wrong(own, &register, &response(403, "", "")));
        assert!(!guesses.is_wrong(other, &register, &response(401, "n2", "")), "in another's name");
        assert!(!guesses.is_wrong(own, &request("REGISTER", "n9"), &response(401, "n2", "")), "a nonce of nobody");
        assert!(!guesses.is_wrong(own, &register, &response(401, "n2", ", stale=true")));
        assert!(!guesses.is_wrong(own, &register, &response(404, "", "")));
        assert!(!guesses.is_wrong(own, &request("INVITE", "n1"), &response(403, "", "")), "a call that is barred");
        assert!(guesses.is_wrong(own, &request("INVITE", "n1"), &response(407, "n2", "")));
    }

    #[test]
    fn who_proves_himself_in_the_end_has_not_guessed() {
        let of = |user: &str| {
            let text = format!("REGISTER sip:h SIP/2.0\r\nTo: <sip:{user}@h>;tag=1\r\n\r\n");
            Message::parse(text.into(), 128).unwrap()
        };
        let [own, other]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let mut guesses = Guesses::new([1, 2]);
        (0..3).for_each(|_| guesses.failed(own, &of("alice")));
        assert_eq!((guesses.proven(own, &of("bob")), guesses.proven(other, &of("alice"))), (0, 0));
        assert_eq!((guesses.proven(own, &of("alice")), guesses.proven(own, &of("alice"))), (3, 0));
        for number in 0..=FAILED_MAX {
            guesses.failed(own, &of(&number.to_string()));
        }
        assert!(guesses.failed.len() <= FAILED_MAX && guesses.failed_order.len() <= FAILED_MAX);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let source: IpAddr = "2001:db8::1".parse().unwrap();
        let mut guesses = Guesses::new([1, 2]);
        for number in 0..=CHALLENGES_MAX {
            guesses.challenged(source, &response(401, &number.to_string(), ""));
        }
        assert_eq!((guesses.given.len(), guesses.order.len()), (CHALLENGES_MAX, CHALLENGES_MAX));
        assert!(!guesses.is_wrong(source, &request("REGISTER", "0"), &response(401, "x", "")));
        assert!(guesses.is_wrong(source, &request("REGISTER", "1"), &response(401, "x", "")));
    }
}
