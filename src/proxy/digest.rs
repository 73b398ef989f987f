//! Digest authentication as a registrar does it (RFC 3261 §22, RFC 7616, RFC 8760).

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use md5::Md5;
use ring::hmac;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::policy::Credentials;
use crate::clock::UnixMillis;
use crate::sip::response::header;
use crate::sip::{HeaderName, Message, scan};

/// A nonce older than this is answered with a fresh one and `stale=true`.
const NONCE_LIFE_S: u64 = 300;
/// Nonces whose counts are remembered; the oldest are forgotten and count as stale.
const NONCES_MAX: usize = 65_536;

/// Makes nonces, and remembers which counts were used with them.
#[derive(Debug)]
pub(super) struct Nonces {
    key: hmac::Key,
    /// Highest `nc` seen by issue time and salt, of nonces that are still alive.
    used: HashMap<[u8; 16], u32>,
    order: std::collections::VecDeque<[u8; 16]>,
}

/// What an Authorization header proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Genuine,
    /// No credentials for this realm, or credentials that are only too old.
    Challenge {
        stale: bool,
    },
    /// Wrong user or password; which of the two is not told.
    Wrong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Md5,
    Sha256,
}

impl Algorithm {
    fn hash(self, parts: &[&[u8]]) -> String {
        fn digest<D: md5::Digest>(parts: &[&[u8]]) -> String {
            let mut hasher = D::new();
            for (index, part) in parts.iter().enumerate() {
                if index > 0 {
                    hasher.update(b":");
                }
                hasher.update(part);
            }
            hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
        }
        match self {
            Self::Md5 => digest::<Md5>(parts),
            Self::Sha256 => digest::<Sha256>(parts),
        }
    }
}

impl Nonces {
    pub(super) fn new(secret: &[u8; 32]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, b"digest nonce").as_ref());
        Self { key, used: HashMap::new(), order: std::collections::VecDeque::new() }
    }

    /// Issue time, salt, and a signature over both.
    fn make(&self, salt: u64, now: UnixMillis) -> String {
        let mut content = Vec::with_capacity(32);
        content.extend_from_slice(&now.seconds().to_be_bytes());
        content.extend_from_slice(&salt.to_be_bytes());
        let signature = hmac::sign(&self.key, &content);
        content.extend(signature.as_ref().iter().take(16));
        URL_SAFE_NO_PAD.encode(content)
    }

    /// The identity of a nonce that we made, and when.
    fn read(&self, nonce: &[u8]) -> Option<([u8; 16], u64)> {
        let octets = URL_SAFE_NO_PAD.decode(nonce).ok().filter(|octets| octets.len() == 32)?;
        let (content, signature) = octets.split_at_checked(16)?;
        let expected = hmac::sign(&self.key, content);
        if !bool::from(expected.as_ref().get(..16)?.ct_eq(signature)) {
            return None;
        }
        let issued = u64::from_be_bytes(*content.first_chunk::<8>()?);
        Some((<[u8; 16]>::try_from(content).ok()?, issued))
    }

    /// Notes the use of a count; false if it, or a higher one, was used before: a replay.
    fn use_count(&mut self, id: [u8; 16], count: u32) -> bool {
        if let Some(highest) = self.used.get_mut(&id) {
            let is_new = count > *highest;
            *highest = count.max(*highest);
            return is_new;
        }
        if self.order.len() >= NONCES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.used.remove(&oldest);
        }
        self.used.insert(id, count);
        self.order.push_back(id);
        true
    }

    /// The challenges for a realm, the better algorithm first (RFC 8760 §2.4).
    pub(super) fn challenges(&self, realm: &str, stale: bool, salt: u64, now: UnixMillis) -> Vec<u8> {
        let nonce = self.make(salt, now);
        let stale = if stale { ", stale=true" } else { "" };
        let mut lines = Vec::new();
        for algorithm in ["SHA-256", "MD5"] {
            let value =
                format!("Digest realm=\"{realm}\", nonce=\"{nonce}\", algorithm={algorithm}, qop=\"auth\"{stale}");
            header(&mut lines, "WWW-Authenticate", value.as_bytes());
        }
        lines
    }

    /// Checks the Authorization of a request of `user@realm`.
    pub(super) fn verify(
        &mut self,
        request: &Message,
        user: &str,
        realm: &str,
        users: &Credentials,
        now: UnixMillis,
    ) -> Verdict {
        let ours = |response: &DigestResponse<'_>| scan::unquote(response.get("realm")).as_ref() == realm.as_bytes();
        let response = request
            .fields(HeaderName::Authorization)
            .filter_map(|field| DigestResponse::read(request.slice(field.value())))
            .find(ours);
        let Some(response) = response else { return Verdict::Challenge { stale: false } };
        let nonce = scan::unquote(response.get("nonce")).into_owned();
        let Some((id, issued)) = self.read(&nonce) else { return Verdict::Challenge { stale: true } };
        let is_right = response.is_right(request, user, realm, users);
        if !is_right {
            return Verdict::Wrong;
        }
        let is_old = now.seconds().saturating_sub(issued) > NONCE_LIFE_S;
        let counted = match response.count() {
            Some(count) => self.use_count(id, count),
            // Without qop (RFC 2617's old clients) there is no count; the nonce's life is the limit.
            None => true,
        };
        if is_old || !counted { Verdict::Challenge { stale: true } } else { Verdict::Genuine }
    }
}

/// A `Digest` Authorization value.
struct DigestResponse<'a> {
    params: Vec<scan::Param<'a>>,
}

impl<'a> DigestResponse<'a> {
    fn read(value: &'a [u8]) -> Option<Self> {
        let (scheme, params) = scan::split_once(value, b' ')?;
        if !scheme.eq_ignore_ascii_case(b"Digest") {
            return None;
        }
        let params = scan::values(params).filter_map(|text| {
            let (name, value) = scan::split_once(text, b'=')?;
            Some(scan::Param { name: scan::trim(name), value: Some(scan::trim(value)) })
        });
        Some(Self { params: params.collect() })
    }

    fn get(&self, name: &str) -> &'a [u8] {
        let found = self.params.iter().find(|param| param.name.eq_ignore_ascii_case(name.as_bytes()));
        found.and_then(|param| param.value).unwrap_or_default()
    }

    fn count(&self) -> Option<u32> {
        let count = std::str::from_utf8(self.get("nc")).ok().filter(|count| count.len() == 8)?;
        u32::from_str_radix(count, 16).ok()
    }

    /// Computes what a client that knows the password would have sent (RFC 7616 §3.4.1). The same work is done for a
    /// user that does not exist, so that the time tells nothing.
    fn is_right(&self, request: &Message, user: &str, realm: &str, users: &Credentials) -> bool {
        let username = scan::unquote(self.get("username"));
        let algorithm = match self.get("algorithm") {
            b"" => Algorithm::Md5,
            name if scan::unquote(name).eq_ignore_ascii_case(b"MD5") => Algorithm::Md5,
            name if scan::unquote(name).eq_ignore_ascii_case(b"SHA-256") => Algorithm::Sha256,
            _ => return false,
        };
        let account = format!("{user}@{realm}");
        let names_account = username.as_ref() == user.as_bytes();
        let secrets = users.0.get(account.as_str());
        let ha1 = secrets.and_then(|secrets| match algorithm {
            Algorithm::Md5 => secrets.md5.as_deref(),
            Algorithm::Sha256 => secrets.sha256.as_deref(),
        });
        let ha2 = algorithm.hash(&[request.method_text(), &scan::unquote(self.get("uri"))]);
        let nonce = scan::unquote(self.get("nonce"));
        let known = ha1.unwrap_or("no such user").as_bytes();
        let expected = match self.get("qop") {
            b"" => algorithm.hash(&[known, &nonce, ha2.as_bytes()]),
            qop => algorithm.hash(&[
                known,
                &nonce,
                self.get("nc"),
                &scan::unquote(self.get("cnonce")),
                &scan::unquote(qop),
                ha2.as_bytes(),
            ]),
        };
        let answer = scan::unquote(self.get("response")).to_ascii_lowercase();
        let matches = bool::from(expected.as_bytes().ct_eq(&answer));
        matches && names_account && ha1.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::policy::Secrets;

    fn users() -> Credentials {
        let secrets = Secrets {
            md5: Some(Algorithm::Md5.hash(&[b"alice", b"example.org", b"secret"]).into()),
            sha256: Some(Algorithm::Sha256.hash(&[b"alice", b"example.org", b"secret"]).into()),
        };
        Credentials([("alice@example.org".into(), secrets)].into())
    }

    /// What a client sends back for a nonce.
    fn authorization(algorithm: Algorithm, user: &str, password: &str, nonce: &str, count: u32) -> String {
        let ha1 = algorithm.hash(&[user.as_bytes(), b"example.org", password.as_bytes()]);
        let ha2 = algorithm.hash(&[b"REGISTER", b"sip:example.org"]);
        let nc = format!("{count:08x}");
        let parts = [ha1.as_bytes(), nonce.as_bytes(), nc.as_bytes(), b"xyz", b"auth", ha2.as_bytes()];
        let response = algorithm.hash(&parts);
        let name = if algorithm == Algorithm::Md5 { "MD5" } else { "SHA-256" };
        format!(
            "Digest username=\"{user}\", realm=\"example.org\", nonce=\"{nonce}\", uri=\"sip:example.org\", \
             response=\"{response}\", algorithm={name}, cnonce=\"xyz\", qop=auth, nc={nc}"
        )
    }

    fn verify(nonces: &mut Nonces, authorization: &str, now: UnixMillis) -> Verdict {
        let text = format!("REGISTER sip:example.org SIP/2.0\r\nAuthorization: {authorization}\r\n\r\n");
        let request = Message::parse(text.into(), 128).unwrap();
        nonces.verify(&request, "alice", "example.org", &users(), now)
    }

    #[test]
    fn both_algorithms_prove_the_password() {
        let now = UnixMillis(1_000_000);
        for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
            let mut nonces = Nonces::new(&[9; 32]);
            let nonce = nonces.make(7, now);
            assert_eq!(
                verify(&mut nonces, &authorization(algorithm, "alice", "secret", &nonce, 1), now),
                Verdict::Genuine
            );
            assert_eq!(
                verify(&mut nonces, &authorization(algorithm, "alice", "wrong", &nonce, 2), now),
                Verdict::Wrong
            );
            assert_eq!(verify(&mut nonces, &authorization(algorithm, "bob", "secret", &nonce, 3), now), Verdict::Wrong);
        }
    }

    #[test]
    fn replayed_old_and_foreign_nonces_are_stale() {
        let now = UnixMillis(1_000_000);
        let stale = Verdict::Challenge { stale: true };
        let mut nonces = Nonces::new(&[9; 32]);
        let nonce = nonces.make(7, now);
        let good = authorization(Algorithm::Sha256, "alice", "secret", &nonce, 1);
        assert_eq!(verify(&mut nonces, &good, now), Verdict::Genuine);
        assert_eq!(verify(&mut nonces, &good, now), stale);
        let later = UnixMillis(now.0 + 1000 * (NONCE_LIFE_S + 1));
        assert_eq!(verify(&mut nonces, &authorization(Algorithm::Sha256, "alice", "secret", &nonce, 2), later), stale);
        let foreign = Nonces::new(&[8; 32]).make(7, now);
        assert_eq!(verify(&mut nonces, &authorization(Algorithm::Md5, "alice", "secret", &foreign, 1), now), stale);
    }

    #[test]
    fn no_or_other_credentials_are_challenged() {
        let mut nonces = Nonces::new(&[9; 32]);
        let first = Verdict::Challenge { stale: false };
        assert_eq!(verify(&mut nonces, "Basic YTpi", UnixMillis(0)), first);
        assert_eq!(verify(&mut nonces, "Digest realm=\"other\", nonce=\"x\"", UnixMillis(0)), first);
    }
}
