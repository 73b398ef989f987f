//! A phone's answer to a Digest challenge (RFC 7616 §3.4.1).

use md5::{Digest, Md5};
use sha2::Sha256;
use sip_push_proxy::proxy::policy::{Credentials, Secrets};
use sip_push_proxy::sip::{HeaderName, Message};

use crate::text;

fn hash(algorithm: &str, text: &str) -> String {
    let octets = match algorithm {
        "MD5" => Md5::digest(text.as_bytes()).to_vec(),
        _ => Sha256::digest(text.as_bytes()).to_vec(),
    };
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The Authorization line for a REGISTER, by the challenge of that algorithm (or the only one).
pub(crate) fn authorization(challenge: &Message, user: &str, password: &str, algorithm: &str) -> String {
    let all: Vec<String> =
        challenge.fields(HeaderName::WwwAuthenticate).map(|field| text::text(challenge.slice(field.value()))).collect();
    let named = all.iter().find(|line| line.contains(&format!("algorithm={algorithm}")));
    let line = named.unwrap_or(&all[0]);
    let quoted = |name: &str| {
        let start = line.find(&format!("{name}=\"")).unwrap() + name.len() + 2;
        line[start..].split('"').next().unwrap()
    };
    let (realm, nonce, uri) = (quoted("realm"), quoted("nonce"), "sip:example.org");
    let ha1 = hash(algorithm, &format!("{user}:{realm}:{password}"));
    let ha2 = hash(algorithm, &format!("REGISTER:{uri}"));
    let response = hash(algorithm, &format!("{ha1}:{nonce}:00000001:cn:auth:{ha2}"));
    format!(
        "Authorization: Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
         response=\"{response}\", algorithm={algorithm}, cnonce=\"cn\", qop=auth, nc=00000001"
    )
}

/// Credentials of one user of `example.org`.
pub(crate) fn credentials(user: &str, password: &str) -> Credentials {
    let ha1 = |algorithm| Some(hash(algorithm, &format!("{user}:example.org:{password}")).into());
    let secrets = Secrets { md5: ha1("MD5"), sha256: ha1("SHA-256") };
    Credentials([(format!("{user}@example.org").into(), secrets)].into())
}
