//! `[push.webpush]`: browsers, and the page at which they subscribe.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::DAY_S;
use super::address::{self, AllowedHost};
use super::push::{FcmPayload, has_certificate};
use super::section::Section;

/// `[push.webpush]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebPush {
    /// It was read and is a P-256 key.
    pub vapid_key_file: PathBuf,
    /// Its public key, as browsers need it to subscribe.
    pub public_key: String,
    /// `mailto:` or `https:`.
    pub subject: String,
    pub allowed_hosts: Vec<AllowedHost>,
    /// An extra root certificate; it was read and is one.
    pub ca_file: Option<PathBuf>,
    /// What browsers are told of a call, where it can be encrypted.
    pub payload: FcmPayload,
    /// The page at which browsers subscribe; `None`: there is none.
    pub page: Option<Page>,
}

/// The public listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub listen: SocketAddr,
    /// How long somebody may subscribe by a ticket.
    pub ticket_life: Duration,
    /// Requests that are answered in a second, of all browsers together.
    pub requests_per_s: u32,
}

impl Page {
    fn read(section: &Section<'_>) -> Option<Self> {
        let listen = section.optional("listen");
        let ticket_life = section.seconds("ticket_expires_s", 600, 1..=DAY_S, "");
        let requests_per_s = section.integer("requests_per_s", 100, 1..=100_000);
        let listen = section.parsed("listen", listen?, |text| {
            text.parse().map_err(|_| "is not ADDRESS:PORT; write for example 127.0.0.1:8081, or \"\" for none".into())
        });
        Some(Self { listen: listen?, ticket_life, requests_per_s })
    }
}

impl WebPush {
    /// `None` when it is switched off or wrong.
    pub(super) fn read(section: &Section<'_>) -> Option<Self> {
        /// Of Chrome, Firefox, Safari and Edge.
        const HOSTS: [&str; 4] =
            ["fcm.googleapis.com", "updates.push.services.mozilla.com", "web.push.apple.com", "*.notify.windows.com"];
        let enabled = section.boolean("enabled", false);
        let vapid_key_file = section.path("vapid_key_file", "vapid.pem");
        let subject = section.string("subject", "mailto:ops@example.org");
        let allowed_hosts = section.list("allowed_hosts", Some(&HOSTS), address::allowed_host).unwrap_or_default();
        let ca_file = section.path("ca_file", "");
        let payload = section.choice("payload", [("extended", FcmPayload::Extended), ("ecss", FcmPayload::Ecss)]);
        let page = Page::read(section);
        if !enabled {
            return None;
        }
        if allowed_hosts.is_empty() {
            section.wrong("allowed_hosts", "names no push service, so that no browser could be woken; name them");
        }
        if !is_contact(subject) {
            let text = "is not an address for push services to write to; write mailto:USER@HOST or https://HOST/PATH";
            section.wrong("subject", format_args!("{subject:?} {text}"));
        }
        let Some(vapid_key_file) = vapid_key_file else {
            section.wrong("vapid_key_file", format_args!("needed: a P-256 key; {MAKE_VAPID}"));
            return None;
        };
        let public_key = vapid_public_key(section, &vapid_key_file)
            .map_err(|problem| section.wrong("vapid_key_file", format_args!("{} {problem}", vapid_key_file.display())));
        let ca_file = ca_file.filter(|file| has_certificate(section, "ca_file", file));
        let subject = subject.to_owned();
        Some(Self { vapid_key_file, public_key: public_key.ok()?, subject, allowed_hosts, ca_file, payload, page })
    }
}

const MAKE_VAPID: &str =
    "make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out vapid.pem`";

/// The key in the file, in base64url; else what is wrong with the file.
fn vapid_public_key(section: &Section<'_>, file: &Path) -> Result<String, String> {
    let pem = std::fs::read(file).map_err(|error| format!("cannot be read: {error}; {MAKE_VAPID}"))?;
    section.has_read("vapid_key_file", &pem);
    let key = match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(PrivateKeyDer::Pkcs8(key)) => key,
        Ok(_) => {
            return Err(
                "has a key that is not in PKCS#8 form; convert it with `openssl pkcs8 -topk8 -nocrypt`".to_owned()
            );
        }
        Err(_) if memchr::memmem::find(&pem, b"BEGIN ENCRYPTED PRIVATE KEY").is_some() => {
            return Err("has a password; take it off with `openssl pkcs8 -topk8 -nocrypt`".to_owned());
        }
        Err(_) => return Err(format!("has no private key in PEM form; {MAKE_VAPID}")),
    };
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_pkcs8_der(), &SystemRandom::new())
        .map(|pair| URL_SAFE_NO_PAD.encode(pair.public_key()))
        .map_err(|_| format!("has a key, but not on the curve P-256; {MAKE_VAPID}"))
}

/// RFC 8292 §2.1.
fn is_contact(subject: &str) -> bool {
    let is_mail =
        |address: &str| address.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty());
    subject.bytes().all(|byte| byte.is_ascii_graphic())
        && (subject.strip_prefix("mailto:").is_some_and(is_mail)
            || subject.starts_with("https://") && address::url(subject).is_ok())
}
