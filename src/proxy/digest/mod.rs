//! Digest authentication (RFC 3261 §22, RFC 7616, RFC 8760): what both ends of it compute.

mod client;
mod guesses;
mod server;

use std::borrow::Cow;
use std::net::IpAddr;

use md5::Md5;
use sha2::Sha256;

pub(super) use client::answer;
pub(super) use guesses::Guesses;
pub(super) use server::{Account, Nonces, Role, Verdict};

use super::policy::Algorithm;
use crate::sip::{Edits, HeaderName, Message, scan};

/// The only quality of protection that is in use with SIP: `auth-int` fails behind everything that rewrites bodies.
const QOP: &[u8] = b"auth";

/// H of RFC 7616 §3.1, of the parts with a colon between each two.
fn hash(algorithm: Algorithm, parts: &[&[u8]]) -> String {
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
    match algorithm {
        Algorithm::Md5 => digest::<Md5>(parts),
        Algorithm::Sha256 => digest::<Sha256>(parts),
    }
}

/// Takes out of a request what proves something to the proxy of this realm, and to nobody else (RFC 3261 §22.3).
pub(super) fn remove_credentials(request: &Message, realm: &str, edits: &mut Edits) {
    let is_ours = |value: &[u8]| Params::read(value).is_some_and(|params| *params.get("realm") == *realm.as_bytes());
    for field in request.fields(HeaderName::ProxyAuthorization) {
        if is_ours(request.slice(field.value())) {
            edits.remove(field.line());
        }
    }
}

/// An address in a form that is the same however it is written, to be hashed.
fn octets(source: IpAddr) -> [u8; 16] {
    match source {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The parameters of a `Digest` challenge or of the credentials that answer one.
struct Params<'a>(Vec<scan::Param<'a>>);

impl<'a> Params<'a> {
    /// Of each header line of this name.
    fn each(message: &'a Message, name: HeaderName) -> impl Iterator<Item = Self> {
        message.fields(name).filter_map(|field| Self::read(message.slice(field.value())))
    }

    fn read(value: &'a [u8]) -> Option<Self> {
        let (scheme, params) = scan::split_once(value, b' ')?;
        if !scheme.eq_ignore_ascii_case(b"Digest") {
            return None;
        }
        let params = scan::values(params).filter_map(|text| {
            let (name, value) = scan::split_once(text, b'=')?;
            Some(scan::Param { name: scan::trim(name), value: Some(scan::trim(value)) })
        });
        Some(Self(params.collect()))
    }

    /// As written, with its quotes; empty where it is not there.
    fn raw(&self, name: &str) -> &'a [u8] {
        let found = self.0.iter().find(|param| param.name.eq_ignore_ascii_case(name.as_bytes()));
        found.and_then(|param| param.value).unwrap_or_default()
    }

    fn get(&self, name: &str) -> Cow<'a, [u8]> {
        scan::unquote(self.raw(name))
    }

    /// `None`: one that nobody here computes.
    fn algorithm(&self) -> Option<Algorithm> {
        match &*self.get("algorithm") {
            b"" => Some(Algorithm::Md5),
            name => Algorithm::ALL.into_iter().find(|known| name.eq_ignore_ascii_case(known.name().as_bytes())),
        }
    }

    fn is_stale(&self) -> bool {
        self.get("stale").eq_ignore_ascii_case(b"true")
    }
}

/// What is hashed besides the password (RFC 7616 §3.4.1, RFC 2617 §3.2.2.1 without `qop`).
struct Proof<'a> {
    algorithm: Algorithm,
    method: &'a [u8],
    uri: &'a [u8],
    nonce: &'a [u8],
    /// `nc` and `cnonce`, where there is a `qop`.
    counted: Option<(&'a [u8], &'a [u8])>,
}

impl Proof<'_> {
    fn response(&self, ha1: &[u8]) -> String {
        let Self { algorithm, method, uri, nonce, counted } = *self;
        let ha2 = hash(algorithm, &[method, uri]);
        match counted {
            Some((count, cnonce)) => hash(algorithm, &[ha1, nonce, count, cnonce, QOP, ha2.as_bytes()]),
            None => hash(algorithm, &[ha1, nonce, ha2.as_bytes()]),
        }
    }
}
