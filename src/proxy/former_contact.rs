//! Contacts that name where a device was: several of one device in one REGISTER, as a phone sends them that has changed its
//! network, and those that are taken out afterwards.
//!
//! A device has one Contact upstream. Which one that is, is decided before the REGISTER goes on, because with an alias all of
//! them are written alike there.

use std::ops::Range;

use super::Proxy;
use super::contact::{write_contact, write_uri_without_push};
use super::event::Contacts;
use super::forward::cut_values;
use super::policy::{Mode, UpstreamContact};
use super::register::{RegisterContact, Registration};
use crate::binding::PushTarget;
use crate::sip::{Edits, HeaderName, Message, Uri};

/// A Contact of a REGISTER that another one has taken the place of: it binds nothing, and ends nothing.
#[derive(Debug)]
pub(super) struct FormerContact {
    /// Where its value and its URI stand in the request.
    pub value: Range<usize>,
    pub uri: Range<usize>,
}

impl From<RegisterContact> for FormerContact {
    fn from(contact: RegisterContact) -> Self {
        Self { value: contact.value, uri: contact.uri }
    }
}

impl Proxy {
    /// Leaves one Contact of each device: the one that lives longest, of those that live as long the first. One that is
    /// taken out, and that its device has left already, is no word about where the device is.
    pub(super) fn set_former_apart(&self, request: &Message, registration: &mut Registration, contacts: &dyn Contacts) {
        let mut lasting: Vec<RegisterContact> = Vec::new();
        for contact in std::mem::take(&mut registration.contacts) {
            let Some(other) = lasting.iter_mut().find(|other| other.is_same_device(&contact)) else {
                lasting.push(contact);
                continue;
            };
            let mut former = contact;
            if self.lifetime(&former) > self.lifetime(other) {
                std::mem::swap(other, &mut former);
            }
            other.take_place_of(&former);
            registration.former.push(former.into());
        }
        for contact in lasting {
            if contact.expires == Some(0) && self.is_left(request, &contact, registration, contacts) {
                registration.former.push(contact.into());
            } else {
                registration.contacts.push(contact);
            }
        }
    }

    fn lifetime(&self, contact: &RegisterContact) -> u64 {
        contact.expires.map_or_else(|| self.policy.registrar.expires_default.as_secs(), u64::from)
    }

    /// Whether a Contact that is taken out is not where its device is: it has just come from there, or the word is older
    /// than its registration (RFC 3261 §10.3 step 7; a registrar of our own refuses that).
    fn is_left(
        &self,
        request: &Message,
        contact: &RegisterContact,
        registration: &Registration,
        contacts: &dyn Contacts,
    ) -> bool {
        let uri = Uri::parse(request.slice(contact.uri.clone()));
        if uri.is_ok_and(|uri| contacts.has_left(contact.device, &uri)) {
            return true;
        }
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        let known = contacts.of_device(contact.device).filter(|known| known.aor == registration.aor);
        self.policy.mode == Mode::Relay
            && known.is_some_and(|known| known.call_id.as_bytes() == request.call_id() && cseq < known.cseq)
    }

    /// What the softswitch is to see of them: nothing where an alias stands for all of a device's Contacts; else that they
    /// end, unless the device still has that address.
    pub(super) fn edit_former(&self, request: &Message, registration: &Registration, edits: &mut Edits) {
        let without_push = |uri: Range<usize>| {
            let mut out = Vec::new();
            write_uri_without_push(&mut out, request.slice(uri));
            out
        };
        let is_kept = |former: &FormerContact| {
            let uri = without_push(former.uri.clone());
            let is_same = |other: &RegisterContact| is_same_uri(&uri, &without_push(other.uri.clone()));
            self.policy.upstream_contact == UpstreamContact::Path && !registration.contacts.iter().any(is_same)
        };
        let (kept, removed): (Vec<_>, Vec<_>) = registration.former.iter().partition(|former| is_kept(former));
        for former in kept {
            // By its address alone: registrars that go by the instance would take the present Contact out (RFC 5626 §6).
            edits.replace(former.value.clone(), |out| {
                write_contact(out, &without_push(former.uri.clone()), b";expires=0")
            });
        }
        if !removed.is_empty() {
            let is_removed = |value: &[u8]| removed.iter().any(|former| former.value == request.span_of(value));
            cut_values(request, HeaderName::Contact, is_removed, edits);
        }
    }
}

impl RegisterContact {
    /// By the names that tell which device a Contact is, as for a binding that is known.
    fn is_same_device(&self, other: &Self) -> bool {
        let is_same_push = |(own, other): (&PushTarget, &PushTarget)| own.is_same_param(other);
        self.device == other.device
            || self.replaced.contains(&other.device)
            || other.replaced.contains(&self.device)
            || (self.instance.is_some() && (&self.instance, self.reg_id) == (&other.instance, other.reg_id))
            || (self.label.is_some() && self.label == other.label)
            || self.push.as_ref().zip(other.push.as_ref()).is_some_and(is_same_push)
    }

    /// The names of the other one are its own.
    fn take_place_of(&mut self, former: &Self) {
        self.names_device |= former.names_device;
        for name in std::iter::once(&former.device).chain(&former.replaced) {
            if *name != self.device && !self.replaced.contains(name) {
                self.replaced.push(*name);
            }
        }
    }
}

fn is_same_uri(uri: &[u8], other: &[u8]) -> bool {
    uri == other || Uri::parse(uri).is_ok_and(|uri| Uri::parse(other).is_ok_and(|other| uri.is_same(&other)))
}
