//! The server's end, registrar or proxy: nonces, challenges, and what credentials prove.
//!
//! A nonce is good in one run of one worker, for the address that it was given to. So a count that was used is known for as
//! long as its nonce lives, whatever happens to the process: a later run, another worker and another node take the nonce for
//! stale, and the phone answers a new one without asking its user. And only who got a challenge can fail at it, so that
//! nobody is banned by datagrams in his name.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use subtle::ConstantTimeEq as _;

use super::{Params, Proof, QOP, octets};
use crate::clock::UnixMillis;
use crate::proxy::policy::Credentials;
use crate::sip::response::header;
use crate::sip::{HeaderName, Message};

/// A nonce older than this is answered with a fresh one and `stale=true`.
const NONCE_LIFE_S: u64 = 300;
/// Nonces whose counts are remembered. When there are more, the oldest count as stale.
const NONCES_MAX: usize = 65_536;
/// What counts as the `nc` of credentials without `qop`, so that their nonce serves once.
const LAST_COUNT: u32 = u32::MAX;

/// Issue time and salt.
type NonceId = [u8; 16];

/// Makes nonces, and remembers which counts were used with them.
#[derive(Debug)]
pub(in crate::proxy) struct Nonces {
    key: hmac::Key,
    /// Highest `nc` seen, of nonces that are still alive.
    used: HashMap<NonceId, u32>,
    order: VecDeque<NonceId>,
    /// Nonces that were issued in this second or before may have been forgotten.
    forgotten_until: u64,
}

/// What a user proves himself to (RFC 3261 §22.2, §22.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Role {
    Registrar,
    Proxy,
}

impl Role {
    pub(in crate::proxy) fn status(self) -> u16 {
        match self {
            Self::Registrar => 401,
            Self::Proxy => 407,
        }
    }

    fn challenge(self) -> HeaderName {
        match self {
            Self::Registrar => HeaderName::WwwAuthenticate,
            Self::Proxy => HeaderName::ProxyAuthenticate,
        }
    }

    fn credentials(self) -> HeaderName {
        match self {
            Self::Registrar => HeaderName::Authorization,
            Self::Proxy => HeaderName::ProxyAuthorization,
        }
    }
}

/// Whose credentials are looked at: `user@realm`, and where the request came from.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Account<'a> {
    pub user: &'a str,
    pub realm: &'a str,
    pub source: IpAddr,
    pub role: Role,
}

/// What credentials prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Verdict {
    Genuine,
    /// No credentials for this realm, or credentials that are only too old.
    Challenge {
        stale: bool,
    },
    /// The password is right, but they were made for another server (RFC 7616 §3.4.6).
    Elsewhere,
    /// Wrong user or password; which of the two is not told.
    Wrong,
}

impl Nonces {
    /// `run` is another number in each run and worker.
    pub(in crate::proxy) fn new(secret: &[u8; 32], run: u128) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let mut purpose = b"digest nonce".to_vec();
        purpose.extend_from_slice(&run.to_be_bytes());
        let key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, &purpose).as_ref());
        Self { key, used: HashMap::new(), order: VecDeque::new(), forgotten_until: 0 }
    }

    fn sign(&self, content: &[u8], source: IpAddr) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(content);
        context.update(&octets(source));
        context.sign()
    }

    /// Issue time, salt, and a signature over both and the source.
    fn make(&self, salt: u64, source: IpAddr, now: UnixMillis) -> String {
        let mut content = Vec::with_capacity(32);
        content.extend_from_slice(&now.seconds().to_be_bytes());
        content.extend_from_slice(&salt.to_be_bytes());
        let signature = self.sign(&content, source);
        content.extend(signature.as_ref().iter().take(16));
        URL_SAFE_NO_PAD.encode(content)
    }

    /// The identity of a nonce that we made for `source` in this run, and when.
    fn read(&self, nonce: &[u8], source: IpAddr) -> Option<(NonceId, u64)> {
        let octets = URL_SAFE_NO_PAD.decode(nonce).ok().filter(|octets| octets.len() == 32)?;
        let (content, signature) = octets.split_at_checked(16)?;
        let expected = self.sign(content, source);
        if !bool::from(expected.as_ref().get(..16)?.ct_eq(signature)) {
            return None;
        }
        let issued = u64::from_be_bytes(*content.first_chunk::<8>()?);
        Some((NonceId::try_from(content).ok()?, issued))
    }

    /// Notes the use of a count; false if it, or a higher one, was used before, or may have been.
    fn use_count(&mut self, id: NonceId, issued: u64, count: u32) -> bool {
        if let Some(highest) = self.used.get_mut(&id) {
            let is_new = count > *highest;
            *highest = count.max(*highest);
            return is_new;
        }
        if issued <= self.forgotten_until {
            return false;
        }
        if self.order.len() >= NONCES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.used.remove(&oldest);
            let issued = oldest.first_chunk().map_or(u64::MAX, |issued| u64::from_be_bytes(*issued));
            self.forgotten_until = self.forgotten_until.max(issued);
        }
        self.used.insert(id, count);
        self.order.push_back(id);
        issued > self.forgotten_until
    }

    /// The challenges for an account, one for each algorithm that can be checked for it, in the order of
    /// `register.digest_algorithms` (RFC 8760 §2.4).
    pub(in crate::proxy) fn challenges(
        &self,
        account: Account<'_>,
        users: &Credentials,
        stale: bool,
        salt: u64,
        now: UnixMillis,
    ) -> Vec<u8> {
        let Account { user, realm, source, role } = account;
        let nonce = self.make(salt, source, now);
        let stale = if stale { ", stale=true" } else { "" };
        let mut lines = Vec::new();
        for algorithm in users.offered(user, realm) {
            let algorithm = algorithm.name();
            let value =
                format!("Digest realm=\"{realm}\", nonce=\"{nonce}\", algorithm={algorithm}, qop=\"auth\"{stale}");
            header(&mut lines, role.challenge().as_str(), value.as_bytes());
        }
        lines
    }

    /// Checks the credentials of a request. `is_ours` says whether a digest-uri names this server.
    pub(in crate::proxy) fn verify(
        &mut self,
        request: &Message,
        account: Account<'_>,
        users: &Credentials,
        is_ours: impl FnOnce(&[u8]) -> bool,
        now: UnixMillis,
    ) -> Verdict {
        let credentials = Params::each(request, account.role.credentials())
            .find(|params| *params.get("realm") == *account.realm.as_bytes());
        let Some(credentials) = credentials else { return Verdict::Challenge { stale: false } };
        let nonce = credentials.get("nonce");
        let Some((id, issued)) = self.read(&nonce, account.source) else { return Verdict::Challenge { stale: true } };
        let Some(count) = proven_count(&credentials, request.method_text(), &account, users) else {
            return Verdict::Wrong;
        };
        let is_old = now.seconds().saturating_sub(issued) > NONCE_LIFE_S;
        match self.use_count(id, issued, count) && !is_old {
            false => Verdict::Challenge { stale: true },
            true if is_ours(&credentials.get("uri")) => Verdict::Genuine,
            true => Verdict::Elsewhere,
        }
    }
}

/// The count that credentials were used with, if they are what a client computes that knows the password. The same work is
/// done for a user that does not exist, so that the time tells nothing.
fn proven_count(credentials: &Params<'_>, method: &[u8], account: &Account<'_>, users: &Credentials) -> Option<u32> {
    let algorithm = credentials.algorithm()?;
    let secrets = users.find(account.user, account.realm);
    let username = secrets.and_then(|secrets| secrets.username.as_deref()).unwrap_or(account.user);
    let ha1 = secrets.and_then(|secrets| secrets.ha1(algorithm));
    let (nonce, uri, cnonce) = (credentials.get("nonce"), credentials.get("uri"), credentials.get("cnonce"));
    let (counted, count) = match &*credentials.get("qop") {
        b"" => (None, LAST_COUNT),
        QOP => {
            let text = credentials.raw("nc");
            let digits = std::str::from_utf8(text).ok().filter(|digits| digits.len() == 8)?;
            (Some((text, &*cnonce)), u32::from_str_radix(digits, 16).ok()?)
        }
        _ => return None,
    };
    let proof = Proof { algorithm, method, uri: &uri, nonce: &nonce, counted };
    let expected = proof.response(ha1.unwrap_or("no such user").as_bytes());
    let answer = credentials.get("response").to_ascii_lowercase();
    let matches = bool::from(expected.as_bytes().ct_eq(&answer));
    let names_account = *credentials.get("username") == *username.as_bytes();
    (matches && names_account && ha1.is_some()).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::digest::hash;
    use crate::proxy::policy::{Algorithm, Secrets};

    const NOW: UnixMillis = UnixMillis(1_000_000);
    const STALE: Verdict = Verdict::Challenge { stale: true };

    fn ha1(algorithm: Algorithm, username: &str) -> Option<Box<str>> {
        Some(hash(algorithm, &[username.as_bytes(), b"example.org", b"secret"]).into())
    }

    fn users() -> Credentials {
        let both = |username: &str, own: Option<&str>| Secrets {
            md5: ha1(Algorithm::Md5, username),
            sha256: ha1(Algorithm::Sha256, username),
            username: own.map(Box::from),
        };
        let accounts = [
            ("alice@example.org".into(), both("alice", None)),
            ("carol@example.org".into(), both("line-7", Some("line-7"))),
        ];
        Credentials::new(accounts.into(), Algorithm::ALL.into())
    }

    fn source() -> IpAddr {
        "192.0.2.1".parse().unwrap()
    }

    struct Client {
        algorithm: Algorithm,
        username: &'static str,
        password: &'static str,
        uri: &'static str,
        /// `None`: without qop.
        count: Option<u32>,
    }

    const ALICE: Client = Client {
        algorithm: Algorithm::Md5,
        username: "alice",
        password: "secret",
        uri: "sip:example.org",
        count: Some(1),
    };

    impl Client {
        /// What it sends back for a nonce.
        fn answer(&self, nonce: &str) -> String {
            let Self { algorithm, username, password, uri, count } = *self;
            let ha1 = hash(algorithm, &[username.as_bytes(), b"example.org", password.as_bytes()]);
            let nc = format!("{:08x}", count.unwrap_or_default());
            let counted = count.map(|_| (nc.as_bytes(), &b"xyz"[..]));
            let proof = Proof { algorithm, method: b"REGISTER", uri: uri.as_bytes(), nonce: nonce.as_bytes(), counted };
            let response = proof.response(ha1.as_bytes());
            let qop = count.map(|_| format!(", cnonce=\"xyz\", qop=auth, nc={nc}")).unwrap_or_default();
            format!(
                "Digest username=\"{username}\", realm=\"example.org\", nonce=\"{nonce}\", uri=\"{uri}\", \
                 response=\"{response}\", algorithm={}{qop}",
                algorithm.name()
            )
        }
    }

    fn verify_from(nonces: &mut Nonces, user: &str, authorization: &str, source: IpAddr, now: UnixMillis) -> Verdict {
        let text = format!("REGISTER sip:example.org SIP/2.0\r\nAuthorization: {authorization}\r\n\r\n");
        let request = Message::parse(text.into(), 128).unwrap();
        let account = Account { user, realm: "example.org", source, role: Role::Registrar };
        nonces.verify(&request, account, &users(), |uri| uri.ends_with(b"example.org"), now)
    }

    fn verify(nonces: &mut Nonces, authorization: &str, now: UnixMillis) -> Verdict {
        verify_from(nonces, "alice", authorization, source(), now)
    }

    #[test]
    fn both_algorithms_prove_the_password() {
        for algorithm in Algorithm::ALL {
            let mut nonces = Nonces::new(&[9; 32], 1);
            let nonce = nonces.make(7, source(), NOW);
            let client =
                |username, password, count| Client { algorithm, username, password, count: Some(count), ..ALICE };
            for (client, verdict) in [
                (client("alice", "secret", 1), Verdict::Genuine),
                (client("alice", "wrong", 2), Verdict::Wrong),
                (client("bob", "secret", 3), Verdict::Wrong),
            ] {
                assert_eq!(verify(&mut nonces, &client.answer(&nonce), NOW), verdict);
            }
        }
    }

    #[test]
    fn a_user_may_have_another_name_to_prove_himself_by() {
        let mut nonces = Nonces::new(&[9; 32], 1);
        let nonce = nonces.make(7, source(), NOW);
        for (username, verdict) in [("line-7", Verdict::Genuine), ("carol", Verdict::Wrong)] {
            let answer = Client { username, ..ALICE }.answer(&nonce);
            assert_eq!(verify_from(&mut nonces, "carol", &answer, source(), NOW), verdict);
        }
    }

    #[test]
    fn replayed_old_and_foreign_nonces_are_stale() {
        let mut nonces = Nonces::new(&[9; 32], 1);
        let nonce = nonces.make(7, source(), NOW);
        let good = ALICE.answer(&nonce);
        assert_eq!(verify(&mut nonces, &good, NOW), Verdict::Genuine);
        assert_eq!(verify(&mut nonces, &good, NOW), STALE);
        let next = Client { count: Some(2), ..ALICE }.answer(&nonce);
        let later = UnixMillis(NOW.0 + 1000 * (NONCE_LIFE_S + 1));
        assert_eq!(verify(&mut nonces, &next, later), STALE);
        let elsewhere = "192.0.2.2".parse().unwrap();
        assert_eq!(verify_from(&mut nonces, "alice", &next, elsewhere, NOW), STALE);
        for mut later_run in [Nonces::new(&[9; 32], 2), Nonces::new(&[8; 32], 1)] {
            assert_eq!(verify(&mut later_run, &good, NOW), STALE, "what was used before is not known any more");
        }
    }

    #[test]
    fn without_qop_a_nonce_serves_once() {
        let mut nonces = Nonces::new(&[9; 32], 1);
        let nonce = nonces.make(7, source(), NOW);
        let old_client = Client { count: None, ..ALICE }.answer(&nonce);
        assert_eq!(verify(&mut nonces, &old_client, NOW), Verdict::Genuine);
        assert_eq!(verify(&mut nonces, &old_client, NOW), STALE);
        assert_eq!(verify(&mut nonces, &Client { count: Some(9), ..ALICE }.answer(&nonce), NOW), STALE);
    }

    #[test]
    fn a_count_that_was_forgotten_is_not_new() {
        let mut nonces = Nonces::new(&[9; 32], 1);
        let first = nonces.make(0, source(), NOW);
        let good = ALICE.answer(&first);
        assert_eq!(verify(&mut nonces, &good, NOW), Verdict::Genuine);
        for number in 1..=u32::try_from(NONCES_MAX).unwrap() {
            let issued = NOW.seconds() + 1;
            let mut id = [0; 16];
            id[..8].copy_from_slice(&issued.to_be_bytes());
            id[12..].copy_from_slice(&number.to_be_bytes());
            assert!(nonces.use_count(id, issued, 1));
        }
        assert!(!nonces.used.contains_key(&nonces.read(first.as_bytes(), source()).unwrap().0));
        assert_eq!(verify(&mut nonces, &good, NOW), STALE);
        assert_eq!(nonces.used.len(), NONCES_MAX);
    }

    #[test]
    fn credentials_for_another_server_are_none_for_this_one() {
        let mut nonces = Nonces::new(&[9; 32], 1);
        let nonce = nonces.make(7, source(), NOW);
        let elsewhere = Client { uri: "sip:evil.example", ..ALICE }.answer(&nonce);
        assert_eq!(verify(&mut nonces, &elsewhere, NOW), Verdict::Elsewhere);
    }

    #[test]
    fn no_or_other_credentials_are_challenged() {
        let mut nonces = Nonces::new(&[9; 32], 1);
        let first = Verdict::Challenge { stale: false };
        assert_eq!(verify(&mut nonces, "Basic YTpi", NOW), first);
        assert_eq!(verify(&mut nonces, "Digest realm=\"other\", nonce=\"x\"", NOW), first);
    }

    #[test]
    fn odd_counts_and_qualities_prove_nothing() {
        let mut nonces = Nonces::new(&[9; 32], 1);
        let nonce = nonces.make(7, source(), NOW);
        let good = ALICE.answer(&nonce);
        for (from, to) in [("nc=00000001", "nc=1"), ("nc=00000001", "nc=0000000g"), ("qop=auth", "qop=auth-int")] {
            assert_eq!(verify(&mut nonces, &good.replace(from, to), NOW), Verdict::Wrong, "{to}");
        }
    }

    #[test]
    fn only_what_can_be_checked_is_offered() {
        let secrets = |md5: bool, sha256: bool| Secrets {
            md5: ha1(Algorithm::Md5, "x").filter(|_| md5),
            sha256: ha1(Algorithm::Sha256, "x").filter(|_| sha256),
            username: None,
        };
        let accounts = [
            ("both@example.org".into(), secrets(true, true)),
            ("old@example.org".into(), secrets(true, false)),
            ("new@example.org".into(), secrets(false, true)),
        ];
        let nonces = Nonces::new(&[9; 32], 1);
        let offered = |user: &str, order: &[Algorithm]| {
            let users = Credentials::new(accounts.clone().into(), order.into());
            let account = Account { user, realm: "example.org", source: source(), role: Role::Registrar };
            let lines = String::from_utf8(nonces.challenges(account, &users, false, 1, NOW)).unwrap();
            let names = lines.split("algorithm=").skip(1).map(|rest| rest.split(',').next().unwrap().to_owned());
            names.collect::<Vec<_>>()
        };
        let [md5, sha256] = ["MD5", "SHA-256"];
        assert_eq!(offered("both", &Algorithm::ALL), [md5, sha256]);
        assert_eq!(offered("both", &[Algorithm::Sha256, Algorithm::Md5]), [sha256, md5]);
        assert_eq!(offered("old", &Algorithm::ALL), [md5]);
        assert_eq!(offered("new", &Algorithm::ALL), [sha256]);
        assert_eq!(offered("new", &[Algorithm::Md5]), [sha256], "better than a challenge that none can answer");
        for number in 0..20 {
            let user = format!("nobody-{number}");
            let first = offered(&user, &Algorithm::ALL);
            assert!(!first.is_empty());
            assert_eq!(offered(&user, &Algorithm::ALL), first, "as of a user that is there");
        }
    }
}
