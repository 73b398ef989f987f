//! REGISTER in relay mode: on its way to the softswitch and back (RFC 8599 §5.6.1, RFC 3327).

use bytes::Bytes;

use super::contact::{
    write_contact, write_gruu_params, write_params_without_push, write_upstream_params, write_uri_without_push,
};
use super::context::{Context, Purpose};
use super::earlier::{hide_earlier, is_listed_earlier, write_earlier};
use super::event::{Contacts, Effect, Warning};
use super::policy::{Listener, UpstreamContact};
use super::privacy::{Towards, strip_push};
use super::register::{RegisterContact, Registration};
use super::response_context::Hop;
use super::secret::FlowToken;
use super::{Proxy, Reject, SavePurpose, forward};
use crate::binding::DeviceId;
use crate::clock::Now;
use crate::sip::push_param::names_push;
use crate::sip::response::header;
use crate::sip::{Edits, HeaderName, Message, NameAddr, Uri, scan};

impl Proxy {
    /// Sends the REGISTER on, with our contact in the place of the phone's.
    pub(super) fn relay(
        &mut self,
        context: &mut Context,
        mut registration: Registration,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        if let Err(reject) = self.check_count(&registration, contacts, now) {
            return self.reject(context, &reject, now);
        }
        registration.earlier = self.earlier_contacts(&context.request, &registration, contacts);
        for contact in &mut registration.contacts {
            contact.asked_upstream = self.expires_upstream(contact);
        }
        self.send_upstream(context, registration, contacts, now);
    }

    fn send_upstream(&mut self, context: &mut Context, registration: Registration, contacts: &dyn Contacts, now: Now) {
        match Message::parse(self.as_registered_upstream(context, &registration), usize::MAX) {
            Ok(onward) => context.onward = Some(Box::new(onward)),
            Err(_) => return self.reject(context, &Reject::of(500), now),
        }
        context.purpose = Purpose::Registration(Box::new(registration));
        let hop = Hop {
            uri: None,
            routes: [].into(),
            record_route: None,
            destinations: Vec::new(),
            device: None,
            flow: None,
        };
        self.start_upstream(context, hop, now);
        self.conclude(context, contacts, now);
    }

    /// The REGISTER with our contacts in the place of the phone's.
    fn as_registered_upstream(&self, context: &Context, registration: &Registration) -> Bytes {
        let request = &context.request;
        let mut edits = Edits::new();
        for contact in &registration.contacts {
            self.edit_contact(request, contact, &mut edits);
        }
        self.edit_former(request, registration, &mut edits);
        if self.policy.upstream_contact == UpstreamContact::Alias {
            // The way on from us is ours to know; told of it, the softswitch would go past us.
            request.fields(HeaderName::Path).for_each(|field| edits.remove(field.line()));
        }
        if let Some(contact) = registration.contacts.first()
            && self.policy.upstream_contact == UpstreamContact::Path
        {
            let token = self.keys.write(&FlowToken { device: contact.device, flow: context.flow });
            self.insert_path(request, &token, &mut edits);
        }
        edits.insert(request.headers_end(), |out| {
            write_earlier(out, &registration.earlier);
            out.extend_from_slice(&registration.feature_caps.onward);
        });
        edits.apply(request.bytes())
    }

    fn edit_contact(&self, request: &Message, contact: &RegisterContact, edits: &mut Edits) {
        match self.policy.upstream_contact {
            UpstreamContact::Alias => {
                let expires = contact.asked_upstream.or(contact.expires);
                edits.replace(contact.value.clone(), |out| {
                    self.write_alias(out, contact.device);
                    write_upstream_params(out, &contact.params, expires);
                });
            }
            UpstreamContact::Path => {
                if let Some(expires) = contact.asked_upstream {
                    return edits.replace(contact.value.clone(), |out| {
                        let (mut uri, mut params) = (Vec::new(), Vec::new());
                        write_uri_without_push(&mut uri, request.slice(contact.uri.clone()));
                        write_params_without_push(&mut params, &contact.params);
                        write_contact(out, &uri, &params);
                        out.extend_from_slice(format!(";expires={expires}").as_bytes());
                    });
                }
                let value = NameAddr::parse(request.slice(contact.value.clone()));
                value.iter().for_each(|value| strip_push(request, value, edits));
            }
        }
    }

    /// `<sip:ALIAS@advertise>`, by which the softswitch will call the device.
    pub(super) fn write_alias(&self, out: &mut Vec<u8>, device: DeviceId) {
        let Some(listener) = self.listener_upstream() else { return };
        out.extend_from_slice(b"<sip:");
        scan::put(out, device);
        out.push(b'@');
        out.extend_from_slice(listener.sent_by.as_bytes());
        if listener.transport.is_reliable() {
            out.extend_from_slice(b";transport=");
            out.extend_from_slice(listener.transport.uri_name().as_bytes());
        }
        out.push(b'>');
    }

    /// Where the softswitch reaches us.
    fn listener_upstream(&self) -> Option<&Listener> {
        let upstream = self.upstream_addresses().into_iter().next();
        let listener = upstream.and_then(|destination| self.policy.listener(destination.listener()));
        listener.or_else(|| self.policy.listeners.first())
    }

    pub(super) fn write_path(&self, out: &mut Vec<u8>, token: &str) {
        let Some(listener) = self.listener_upstream() else { return };
        out.extend_from_slice(b"Path: <sip:");
        out.extend_from_slice(token.as_bytes());
        out.push(b'@');
        out.extend_from_slice(listener.sent_by.as_bytes());
        out.extend_from_slice(b";lr>\r\n");
    }

    /// RFC 3327 §5.2. Differs from it: inserted also where the phone does not say `Supported: path`, because the
    /// operator chose `register.contact = "path"` for a registrar that understands it.
    fn insert_path(&self, request: &Message, token: &str, edits: &mut Edits) {
        let at =
            request.fields(HeaderName::Path).next().map_or_else(|| request.headers_end(), |field| field.line().start);
        edits.insert(at, |out| self.write_path(out, token));
        if !request.has_option(HeaderName::Supported, "path") {
            edits.insert(at, |out| header(out, "Supported", b"path"));
        }
    }

    /// For how long the softswitch is asked to know a phone, where that is not for the phone to say: one that can be woken is to
    /// be called while it sleeps (`register.expires_upstream_s`).
    fn expires_upstream(&self, contact: &RegisterContact) -> Option<u32> {
        let can_be_woken = contact.push.is_some() && contact.expires != Some(0);
        (self.policy.expires_upstream > 0 && can_be_woken)
            .then(|| self.policy.expires_upstream.max(self.brief_upstream))
    }

    /// What the phone hears then: its own time, unless the softswitch has granted less.
    fn own_expires(&self, response: &Message, listed: &NameAddr<'_>, contact: &RegisterContact) -> Option<u64> {
        contact.asked_upstream?;
        let granted = listed.param("expires").flatten().and_then(scan::number);
        let granted = granted.or_else(|| response.number(HeaderName::Expires));
        let own = contact.expires.map_or(self.policy.registrar.expires_default.as_secs(), u64::from);
        Some(granted.map_or(own, |granted| granted.min(own)))
    }

    /// Asks again where the softswitch wants to be asked for more than the operator has it asked for (RFC 3261 §10.2.8): the
    /// phone has not asked for that, and could not mend it. All later REGISTERs ask for as much. False: there is nothing to
    /// ask for.
    pub(super) fn asks_for_more(
        &mut self,
        context: &mut Context,
        index: usize,
        response: &Message,
        contacts: &dyn Contacts,
        now: Now,
    ) -> bool {
        let Purpose::Registration(registration) = &mut context.purpose else { return false };
        let asked = registration.contacts.iter().filter_map(|contact| contact.asked_upstream).max();
        let least = response.number(HeaderName::MinExpires).and_then(|least| u32::try_from(least).ok());
        let (Some(asked), Some(least)) = (asked, least) else { return false };
        if response.status() != Some(423) || least <= asked || registration.has_been_brief {
            return false;
        }
        registration.has_been_brief = true;
        for contact in registration.contacts.iter_mut().filter(|contact| contact.asked_upstream.is_some()) {
            contact.asked_upstream = Some(least);
        }
        self.brief_upstream = least;
        self.effects.push_back(Effect::Warning(Warning::BriefUpstream { asked, least }));
        context.responses.end(index, 423);
        if let Purpose::Registration(registration) = std::mem::replace(&mut context.purpose, Purpose::Plain) {
            self.send_upstream(context, *registration, contacts, now);
        }
        true
    }

    /// The softswitch accepted: save first, answer then.
    pub(super) fn registration_accepted(
        &mut self,
        context: &mut Context,
        response: &Message,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        context.responses.is_final = false;
        let request = context.request.clone();
        let flow = context.flow;
        let Purpose::Registration(registration) = &mut context.purpose else { return };
        if registration.accepted.is_some() {
            return;
        }
        let (source, failures) = (flow.remote.ip(), self.guesses.proven(flow.remote.ip(), &request));
        if failures > 0 {
            self.effects.push_back(Effect::AuthProven { source, failures });
        }
        let default = u32::try_from(self.policy.registrar.expires_default.as_secs()).unwrap_or(u32::MAX);
        let granted: Vec<Option<u32>> = registration
            .contacts
            .iter_mut()
            .map(|contact| {
                let own = contact.expires.unwrap_or(default);
                let seconds = match granted_expires(response, &request, contact) {
                    Granted::Seconds(seconds) => seconds,
                    Granted::Listed => contact.asked_upstream.unwrap_or(own),
                    Granted::NotListed => return None,
                };
                contact.granted_upstream = contact.asked_upstream.map(|_| seconds);
                Some(if contact.asked_upstream.is_some() { seconds.min(own) } else { seconds })
            })
            .collect();
        if granted.contains(&None) {
            let warning = Warning::ContactNotListed { aor: registration.aor.clone() };
            self.effects.push_back(Effect::Warning(warning));
        }
        // It asked only what is bound, or nothing that it asked for is.
        if !registration.is_star && granted.iter().all(Option::is_none) {
            context.responses.is_final = true;
            let bytes = self.relayed_2xx(context, response, contacts);
            return self.transactions.respond(context.server, 200, bytes, now.instant);
        }
        registration.accepted = Some(response.clone());
        let change = registration.change(&request, flow, &granted, contacts, now);
        self.save(change, SavePurpose::Registration(context.server));
    }

    /// The softswitch's 2xx as the phone is to see it: its own Contact again, and which pushes it can count on.
    pub(super) fn relayed_2xx(&self, context: &Context, response: &Message, contacts: &dyn Contacts) -> Bytes {
        let Purpose::Registration(registration) = &context.purpose else { return response.bytes().clone() };
        let mut edits = forward::response_edits(response, Towards::Phone, context.flow.transport);
        hide_earlier(response, &registration.earlier, &mut edits);
        let listed = response.values(HeaderName::Contact);
        for value in listed.filter(|value| !is_listed_earlier(value, &registration.earlier)) {
            self.restore_contact(context, registration, response, value, contacts, &mut edits);
        }
        edits.insert(response.headers_end(), |out| {
            if self.policy.upstream_contact == UpstreamContact::Alias {
                // RFC 3327 §5.3: whoever keeps the Path shows it in the 2xx.
                for field in context.request.fields(HeaderName::Path) {
                    header(out, "Path", context.request.slice(field.value()));
                }
            }
            out.extend_from_slice(&registration.feature_caps.accepted);
        });
        edits.apply(response.bytes())
    }

    fn restore_contact(
        &self,
        context: &Context,
        registration: &Registration,
        response: &Message,
        value: &[u8],
        contacts: &dyn Contacts,
        edits: &mut Edits,
    ) {
        let Some(listed) = NameAddr::parse(value) else { return };
        let Ok(uri) = listed.parse_uri() else { return };
        let own =
            registration.contacts.iter().find(|contact| is_listed(&listed, &uri, &contact.sent(&context.request)));
        let own_uri = own.map(|contact| context.request.slice(contact.uri.clone()));
        if let (Some(contact), Some(own_uri)) = (own, own_uri) {
            return edits.replace(response.span_of(value), |out| {
                write_contact(out, own_uri, &contact.params);
                write_gruu_params(out, listed.params, &contact.params);
                if let Some(own) = self.own_expires(response, &listed, contact) {
                    out.extend_from_slice(format!(";expires={own}").as_bytes());
                } else if let Some(expires) = listed.param("expires").flatten() {
                    out.extend_from_slice(b";expires=");
                    out.extend_from_slice(expires);
                }
            });
        }
        // Another device of the same user: its address, not what wakes it (RFC 8599 §13).
        let other = uri.user.and_then(DeviceId::parse).and_then(|device| contacts.of_device(device));
        if let Some(other) = other.filter(|_| self.policy.is_own_host(uri.host)) {
            edits.replace(response.span_of(listed.uri), |out| write_uri_without_push(out, &other.contact));
        } else if names_push(value) {
            strip_push(response, &listed, edits);
        }
    }
}

/// What a 2xx says of a Contact (RFC 3261 §10.3 step 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Granted {
    Seconds(u32),
    /// It is bound, for a time that the registrar does not tell.
    Listed,
    /// It is not bound.
    NotListed,
}

/// A Contact that a REGISTER sent upstream, by what it may be known in the 2xx.
#[derive(Debug, Clone, Copy)]
pub(super) struct SentContact<'a> {
    pub device: DeviceId,
    /// The device's own URI.
    pub uri: &'a [u8],
    pub instance: Option<&'a str>,
    pub reg_id: Option<u32>,
}

impl RegisterContact {
    fn sent<'a>(&'a self, request: &'a Message) -> SentContact<'a> {
        SentContact {
            device: self.device,
            uri: request.slice(self.uri.clone()),
            instance: self.instance.as_deref(),
            reg_id: self.reg_id,
        }
    }
}

/// Whether a Contact in a 2xx, whose URI is `uri`, is one that a REGISTER of ours sent: by its alias, by the device that it
/// says it is, or by its address, which Asterisk may have rewritten.
fn is_listed(listed: &NameAddr<'_>, uri: &Uri<'_>, sent: &SentContact<'_>) -> bool {
    if uri.user.and_then(DeviceId::parse) == Some(sent.device) {
        return true;
    }
    let instance = listed.param("+sip.instance").flatten().map(scan::unquote);
    if let (Some(listed_instance), Some(own)) = (instance, sent.instance) {
        let reg_id = listed.param("reg-id").flatten().and_then(scan::number);
        match *listed_instance == *own.as_bytes() {
            true if reg_id == sent.reg_id.map(u64::from) => return true,
            true => {}
            false => return false,
        }
    }
    let mut stripped = Vec::new();
    write_uri_without_push(&mut stripped, sent.uri);
    Uri::parse(&stripped).is_ok_and(|own| {
        let original = uri.param("x-ast-orig-host").flatten();
        own.is_same(uri) || (own.user == uri.user && original.is_some_and(|original| own.is_at(original)))
    })
}

/// What the registrar granted to one Contact of the phone's REGISTER. One that ends is not in the 2xx.
fn granted_expires(response: &Message, request: &Message, contact: &RegisterContact) -> Granted {
    if contact.expires == Some(0) {
        return Granted::Seconds(0);
    }
    listed_expires(response, &contact.sent(request))
}

/// Seconds that the registrar granted (RFC 3261 §10.2.4): with the Contact, else for the whole response.
pub(super) fn listed_expires(response: &Message, sent: &SentContact<'_>) -> Granted {
    let listed = response
        .values(HeaderName::Contact)
        .filter_map(NameAddr::parse)
        .find(|listed| listed.parse_uri().is_ok_and(|uri| is_listed(listed, &uri, sent)));
    let Some(listed) = listed else { return Granted::NotListed };
    let expires = listed.param("expires").flatten().and_then(scan::number);
    match expires.or_else(|| response.number(HeaderName::Expires)) {
        Some(expires) => Granted::Seconds(u32::try_from(expires).unwrap_or(u32::MAX)),
        None => Granted::Listed,
    }
}
