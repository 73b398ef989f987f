//! Earlier Contacts of a device at the softswitch. Most apps begin each time at another port, and some change their name: what
//! the registrar has of them from before would be called beside the new Contact for as long as it lasts, so the REGISTER that
//! brings the new one takes the old one out (RFC 3261 §10.2.2).

use std::sync::Arc;

use super::Proxy;
use super::contact::{write_contact, write_uri_without_push};
use super::event::Contacts;
use super::forward::cut_values;
use super::policy::UpstreamContact;
use super::register::{RegisterContact, Registration};
use crate::binding::Binding;
use crate::sip::response::header;
use crate::sip::{Edits, HeaderName, Message, NameAddr, Uri};

impl Proxy {
    /// What the softswitch may still have of the devices that register, as it knows it: their earlier names, where it
    /// knows aliases; else their earlier addresses, but for those that stand in this REGISTER too, or are another device's as
    /// well.
    pub(super) fn earlier_contacts(
        &self,
        request: &Message,
        registration: &Registration,
        contacts: &dyn Contacts,
    ) -> Vec<Box<[u8]>> {
        if registration.contacts.is_empty() {
            return Vec::new();
        }
        let existing = contacts.of_aor(&registration.aor);
        let is_alias = self.policy.upstream_contact == UpstreamContact::Alias;
        let is_earlier = |binding: &&Arc<Binding>| {
            let names = |contact: &RegisterContact| {
                contact.replaced.contains(&binding.device) || !is_alias && contact.device == binding.device
            };
            !binding.is_token_device() && registration.contacts.iter().any(names)
        };
        let (earlier, others): (Vec<_>, Vec<_>) = existing.iter().partition(is_earlier);
        let mut uris = Vec::new();
        if is_alias {
            for binding in earlier {
                let mut alias = Vec::new();
                self.write_alias(&mut alias, binding.device);
                uris.extend(NameAddr::parse(&alias).map(|alias| alias.uri.into()));
            }
            return uris;
        }
        let bound = registration.contacts.iter().map(|contact| &contact.uri);
        let present = bound.chain(registration.former.iter().map(|former| &former.uri));
        let present = present.map(|uri| request.slice(uri.clone()));
        let kept: Vec<_> = present.chain(others.iter().map(|binding| &*binding.contact)).map(told_upstream).collect();
        for binding in earlier {
            let uri = told_upstream(&binding.contact);
            if !is_among(&uri, &kept) && !is_among(&uri, &uris) {
                uris.push(uri);
            }
        }
        uris
    }
}

/// `Contact: <…>;expires=0` for each.
pub(super) fn write_earlier(out: &mut Vec<u8>, earlier: &[Box<[u8]>]) {
    for uri in earlier {
        let mut value = Vec::new();
        write_contact(&mut value, uri, b";expires=0");
        header(out, "Contact", &value);
    }
}

/// Takes earlier Contacts out of a 2xx whose registrar lists them all the same.
pub(super) fn hide_earlier(response: &Message, earlier: &[Box<[u8]>], edits: &mut Edits) {
    if !earlier.is_empty() {
        cut_values(response, HeaderName::Contact, |value| is_listed_earlier(value, earlier), edits);
    }
}

/// Whether a Contact in a 2xx is an earlier one.
pub(super) fn is_listed_earlier(value: &[u8], earlier: &[Box<[u8]>]) -> bool {
    !earlier.is_empty() && NameAddr::parse(value).is_some_and(|listed| is_among(listed.uri, earlier))
}

/// As the softswitch was told of a Contact.
fn told_upstream(uri: &[u8]) -> Box<[u8]> {
    let mut out = Vec::with_capacity(uri.len());
    write_uri_without_push(&mut out, uri);
    out.into()
}

fn is_among(uri: &[u8], uris: &[Box<[u8]>]) -> bool {
    let Ok(uri) = Uri::parse(uri) else { return false };
    uris.iter().any(|other| Uri::parse(other).is_ok_and(|other| other.is_same(&uri)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_contact_leaves_a_2xx_and_nothing_else_does() {
        let earlier = [Box::from(&b"sip:a@old"[..]), Box::from(&b"sip:a@older"[..])];
        for (lines, left) in [
            ("Contact: <sip:a@new>;expires=9\r\nm: <sip:a@old>\r\n", "Contact: <sip:a@new>;expires=9\r\n"),
            ("m: <sip:a@old>, <sip:a@new>;expires=9\r\n", "m: <sip:a@new>;expires=9\r\n"),
            ("m: <sip:a@old>;q=1,sip:a@older , <sip:a@new>\r\n", "m: <sip:a@new>\r\n"),
            ("m: <sip:a@new>, <sip:a@old>, <sip:a@older>\r\n", "m: <sip:a@new>\r\n"),
            ("m: <sip:a@new>,<sip:a@old>,<sip:b@new>\r\n", "m: <sip:a@new>,<sip:b@new>\r\n"),
            ("m: <sip:b@old>\r\n", "m: <sip:b@old>\r\n"),
        ] {
            let response = Message::parse(format!("SIP/2.0 200 OK\r\n{lines}\r\n").into(), 128).unwrap();
            let mut edits = Edits::new();
            hide_earlier(&response, &earlier, &mut edits);
            let text = String::from_utf8(edits.apply(response.bytes()).to_vec()).unwrap();
            assert_eq!(text, format!("SIP/2.0 200 OK\r\n{left}\r\n"));
        }
    }
}
