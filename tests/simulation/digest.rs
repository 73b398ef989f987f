//! A phone's answer to a Digest challenge (RFC 7616 §3.4.1).

use md5::{Digest, Md5};
use sha2::Sha256;
use sip_push_proxy::proxy::policy::{Algorithm, Credentials, Secrets};
use sip_push_proxy::sip::{HeaderName, Message};

use crate::text;

fn hash(algorithm: &str, text: &str) -> String {
    let octets = match algorithm {
        "MD5" => Md5::digest(text.as_bytes()).to_vec(),
        _ => Sha256::digest(text.as_bytes()).to_vec(),
    };
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// What a challenge says of realm and nonce: the one of that algorithm, or the only one.
fn challenge(challenge: &Message, algorithm: &str) -> (String, String) {
    let fields = [HeaderName::WwwAuthenticate, HeaderName::ProxyAuthenticate].map(|name| challenge.fields(name));
    let all: Vec<String> =
        fields.into_iter().flatten().map(|field| text::text(challenge.slice(field.value()))).collect();
    let named = all.iter().find(|line| line.contains(&format!("algorithm={algorithm}")));
    let line = named.unwrap_or(&all[0]);
    let quoted = |name: &str| {
        let start = line.find(&format!("{name}=\"")).unwrap() + name.len() + 2;
        line[start..].split('"').next().unwrap().to_owned()
    };
    (quoted("realm"), quoted("nonce"))
}

/// The Authorization line for a REGISTER.
pub(crate) fn authorization(response: &Message, user: &str, password: &str, algorithm: &str) -> String {
    authorization_for(response, "sip:example.org", (user, password), algorithm)
}

/// The same with any digest-uri.
pub(crate) fn authorization_for(
    response: &Message,
    uri: &str,
    (user, password): (&str, &str),
    algorithm: &str,
) -> String {
    format!("Authorization: {}", answer(response, ("REGISTER", uri), (user, password), algorithm))
}

/// The Proxy-Authorization line for any request.
pub(crate) fn proxy_authorization(challenge: &Message, request: (&str, &str), account: (&str, &str)) -> String {
    format!("Proxy-Authorization: {}", answer(challenge, request, account, "MD5"))
}

fn answer(response: &Message, (method, uri): (&str, &str), (user, password): (&str, &str), algorithm: &str) -> String {
    let (realm, nonce) = challenge(response, algorithm);
    let ha1 = hash(algorithm, &format!("{user}:{realm}:{password}"));
    let ha2 = hash(algorithm, &format!("{method}:{uri}"));
    let response = hash(algorithm, &format!("{ha1}:{nonce}:00000001:cn:auth:{ha2}"));
    format!(
        "Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
         response=\"{response}\", algorithm={algorithm}, cnonce=\"cn\", qop=auth, nc=00000001"
    )
}

/// As clients of RFC 2069 have it.
pub(crate) fn authorization_without_qop(response: &Message, user: &str, password: &str) -> String {
    let (realm, nonce) = challenge(response, "MD5");
    let uri = "sip:example.org";
    let (ha1, ha2) = (hash("MD5", &format!("{user}:{realm}:{password}")), hash("MD5", &format!("REGISTER:{uri}")));
    let response = hash("MD5", &format!("{ha1}:{nonce}:{ha2}"));
    format!(
        "Authorization: Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
         response=\"{response}\""
    )
}

/// Credentials of one user of `example.org`.
pub(crate) fn credentials(user: &str, password: &str) -> Credentials {
    let ha1 = |algorithm| Some(hash(algorithm, &format!("{user}:example.org:{password}")).into());
    let secrets = Secrets { md5: ha1("MD5"), sha256: ha1("SHA-256"), username: None };
    Credentials::new([(format!("{user}@example.org").into(), secrets)].into(), Algorithm::ALL.into())
}
