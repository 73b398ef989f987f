//! What a browser has to show: a ticket to subscribe, a contact id for what waits for it.
//!
//! Both are signed with keys derived from the secret that all nodes of a store share, so nothing is kept for them, and any
//! node knows them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use crate::binding::{Aor, DeviceId};
use crate::clock::UnixMillis;

/// Leading octet of a ticket; another form gets another number.
const TICKET_VERSION: u8 = 1;
/// HMAC-SHA256 as a whole.
const TICKET_TAG: usize = 32;
/// Bits that nobody can guess: 128.
const CONTACT_TAG: usize = 16;
/// Longest AOR that a ticket is made for.
const AOR_BYTES_MAX: usize = 512;

/// The keys of one store.
pub struct Keys {
    ticket: hmac::Key,
    contact: hmac::Key,
}

/// Why a ticket is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    #[error("the ticket was not made here")]
    Forged,
    #[error("the ticket has expired")]
    Expired,
}

impl Keys {
    pub fn new(secret: &[u8; 32]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derive = |purpose: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, purpose).as_ref());
        Self { ticket: derive(b"web ticket"), contact: derive(b"web contact") }
    }

    /// Lets whoever has it subscribe for an AOR until then, in whole seconds. `None` for an AOR that is too long.
    pub fn ticket(&self, aor: &Aor, expires_at: UnixMillis) -> Option<String> {
        let aor = Some(aor.as_str().as_bytes()).filter(|aor| aor.len() <= AOR_BYTES_MAX)?;
        let content = [&[TICKET_VERSION], &expires_at.seconds().to_be_bytes()[..], aor].concat();
        let tag = hmac::sign(&self.ticket, &content);
        Some(URL_SAFE_NO_PAD.encode([&content, tag.as_ref()].concat()))
    }

    /// For whom a ticket is.
    pub fn read_ticket(&self, text: &str, now: UnixMillis) -> Result<Aor, TicketError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TicketError::Forged)?;
        let (content, tag) = split_end(&bytes, TICKET_TAG).ok_or(TicketError::Forged)?;
        hmac::verify(&self.ticket, content, tag).map_err(|_| TicketError::Forged)?;
        let Some((&TICKET_VERSION, content)) = content.split_first() else { return Err(TicketError::Forged) };
        let (expires_at, aor) = content.split_first_chunk().ok_or(TicketError::Forged)?;
        let aor = std::str::from_utf8(aor).ok().and_then(|aor| aor.rsplit_once('@'));
        let (user, domain) = aor.ok_or(TicketError::Forged)?;
        if now.seconds() >= u64::from_be_bytes(*expires_at) {
            return Err(TicketError::Expired);
        }
        Ok(Aor::new(user, domain))
    }

    /// What the browser of a subscription shows. Once the subscription is another user's it is good for nothing.
    pub fn contact_id(&self, aor: &Aor, device: DeviceId) -> String {
        let tag = self.contact_tag(aor, device);
        let tag = tag.as_ref().get(..CONTACT_TAG).unwrap_or_default();
        URL_SAFE_NO_PAD.encode([&device.0, tag].concat())
    }

    /// Which device a contact id says it is of.
    pub fn device_of(contact_id: &str) -> Option<DeviceId> {
        let bytes = URL_SAFE_NO_PAD.decode(contact_id).ok()?;
        bytes.first_chunk().copied().map(DeviceId)
    }

    /// Whether a contact id is that of a device; in a time that tells nothing.
    pub fn is_contact_id(&self, contact_id: &str, aor: &Aor, device: DeviceId) -> bool {
        let right = self.contact_id(aor, device);
        subtle::ConstantTimeEq::ct_eq(contact_id.as_bytes(), right.as_bytes()).into()
    }

    fn contact_tag(&self, aor: &Aor, device: DeviceId) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.contact);
        context.update(&device.0);
        context.update(aor.as_str().as_bytes());
        context.sign()
    }
}

fn split_end(bytes: &[u8], length: usize) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(bytes.len().checked_sub(length)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> Aor {
        Aor::new("alice@home", "example.org")
    }

    #[test]
    fn a_ticket_is_for_its_aor_until_it_expires() {
        let keys = Keys::new(&[7; 32]);
        let ticket = keys.ticket(&alice(), UnixMillis(600_000)).unwrap();
        assert!(ticket.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')), "{ticket}");
        assert_eq!(keys.read_ticket(&ticket, UnixMillis(599_999)), Ok(alice()));
        assert_eq!(keys.read_ticket(&ticket, UnixMillis(600_000)), Err(TicketError::Expired));
        assert_eq!(keys.ticket(&Aor::new(&"x".repeat(600), "example.org"), UnixMillis(1)), None);
    }

    #[test]
    fn what_is_changed_or_another_stores_is_no_ticket() {
        let keys = Keys::new(&[7; 32]);
        let ticket = keys.ticket(&alice(), UnixMillis(600_000)).unwrap();
        let refused = |text: &str| keys.read_ticket(text, UnixMillis(0)).unwrap_err();
        assert_eq!(refused(&Keys::new(&[8; 32]).ticket(&alice(), UnixMillis(600_000)).unwrap()), TicketError::Forged);
        let bytes = URL_SAFE_NO_PAD.decode(&ticket).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(refused(&URL_SAFE_NO_PAD.encode(changed)), TicketError::Forged, "{at}");
            assert_eq!(refused(&URL_SAFE_NO_PAD.encode(&bytes[..at])), TicketError::Forged, "{at}");
        }
        for text in ["", "=", "ticket", &keys.contact_id(&alice(), DeviceId([1; 10]))] {
            assert_eq!(refused(text), TicketError::Forged, "{text}");
        }
    }

    #[test]
    fn a_contact_id_is_of_one_device_of_one_aor() {
        let (keys, device) = (Keys::new(&[7; 32]), DeviceId([1; 10]));
        let id = keys.contact_id(&alice(), device);
        assert_eq!(Keys::device_of(&id), Some(device));
        assert!(keys.is_contact_id(&id, &alice(), device));
        assert!(!keys.is_contact_id(&id, &Aor::new("bob", "example.org"), device));
        assert!(!keys.is_contact_id(&id, &alice(), DeviceId([2; 10])));
        assert!(!keys.is_contact_id(&id[..id.len() - 1], &alice(), device));
        assert_eq!(Keys::device_of("short"), None);
    }
}
