//! The registrar of local mode (RFC 3261 §10.3).

use super::contact::{write_contact, write_params_without_push, write_uri_without_push};
use super::context::{Context, Purpose};
use super::digest::Role;
use super::event::Contacts;
use super::policy::Auth;
use super::register::Registration;
use super::{Proxy, Reject, SavePurpose};
use crate::clock::Now;
use crate::sip::response::{self, header};
use crate::sip::{Flow, HeaderName, Message};

/// Option tags that a UA may Require of us.
const SUPPORTED: [&str; 1] = ["path"];

impl Proxy {
    /// The order is that of RFC 3261 §10.3: extensions, who it is, then the bindings, all of them or none.
    pub(super) fn register_locally(
        &mut self,
        context: &mut Context,
        mut registration: Registration,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        let granted = unsupported(&context.request)
            .and_then(|()| self.authenticate(&context.request, context.flow, &registration, now))
            .and_then(|()| self.check_count(&registration, contacts, now))
            .and_then(|()| check_order(&context.request, &registration, contacts))
            .and_then(|()| self.grant(&registration));
        match granted {
            Ok(granted) => {
                let nothing_changes = registration.contacts.is_empty() && !registration.is_star;
                let change = registration.change(&context.request, context.flow, &granted, contacts, now);
                context.purpose = Purpose::Registration(Box::new(registration));
                if nothing_changes {
                    context.responses.is_final = true;
                    let bytes = self.own_2xx(context, contacts, now);
                    return self.transactions.respond(context.server, 200, bytes, now.instant);
                }
                self.save(change, SavePurpose::Registration(context.server));
            }
            Err(reject) => self.reject(context, &reject, now),
        }
    }

    fn authenticate(
        &mut self,
        request: &Message,
        flow: Flow,
        registration: &Registration,
        now: Now,
    ) -> Result<(), Reject> {
        let auth = self.policy.registrar.auth.clone();
        let users = match auth {
            Auth::None(networks) => {
                let ip = flow.remote.ip().to_canonical();
                let is_open = networks.iter().any(|network| network.contains(&ip));
                return if is_open { Ok(()) } else { Err(Reject::of(403)) };
            }
            Auth::Digest(users) => users,
        };
        self.prove(request, flow, (&registration.aor, Role::Registrar), &users, now)
    }

    /// Seconds for each contact; 423 for an interval that is too short (RFC 3261 §10.3 step 7).
    fn grant(&self, registration: &Registration) -> Result<Vec<Option<u32>>, Reject> {
        let policy = &self.policy.registrar;
        let seconds = |duration: std::time::Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
        let (default, min, max) =
            (seconds(policy.expires_default), seconds(policy.expires_min), seconds(policy.expires_max));
        registration
            .contacts
            .iter()
            .map(|contact| match contact.expires {
                Some(0) => Ok(Some(0)),
                Some(asked) if asked < min && asked < 3600 => {
                    let mut reject = Reject::new(423, "Interval Too Brief");
                    header(&mut reject.headers, "Min-Expires", min.to_string().as_bytes());
                    Err(reject)
                }
                Some(asked) => Ok(Some(asked.min(max))),
                None => Ok(Some(default)),
            })
            .collect()
    }

    /// All bindings of the AOR that still mean something to its user (RFC 3261 §10.3 step 8).
    pub(super) fn own_2xx(&self, context: &Context, contacts: &dyn Contacts, now: Now) -> bytes::Bytes {
        let Purpose::Registration(registration) = &context.purpose else { return bytes::Bytes::new() };
        let bindings = contacts.of_aor(&registration.aor);
        response::build(&context.request, context.flow.remote, 200, "OK", Some(&context.to_tag), |out| {
            for binding in bindings.iter().filter(|binding| binding.is_reachable(now.unix)) {
                let is_own = registration.contacts.iter().any(|contact| contact.device == binding.device);
                // What was granted a moment ago is shown in full.
                let left = binding.expires_at.since(now.unix).as_millis().div_ceil(1000);
                out.extend_from_slice(b"Contact: ");
                if is_own {
                    write_contact(out, &binding.contact, &binding.contact_params);
                } else {
                    let (mut uri, mut params) = (Vec::new(), Vec::new());
                    write_uri_without_push(&mut uri, &binding.contact);
                    write_params_without_push(&mut params, &binding.contact_params);
                    write_contact(out, &uri, &params);
                }
                out.extend_from_slice(format!(";expires={left}\r\n").as_bytes());
            }
            for field in context.request.fields(HeaderName::Path) {
                header(out, "Path", context.request.slice(field.value()));
            }
            out.extend_from_slice(&registration.feature_caps.accepted);
        })
    }
}

/// RFC 3261 §10.3 step 2, §8.2.2.3.
fn unsupported(request: &Message) -> Result<(), Reject> {
    let unknown: Vec<_> = request
        .values(HeaderName::Require)
        .filter(|option| !SUPPORTED.iter().any(|known| option.eq_ignore_ascii_case(known.as_bytes())))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let mut reject = Reject::of(420);
    header(&mut reject.headers, "Unsupported", &unknown.join(&b", "[..]));
    Err(reject)
}

/// A REGISTER of the same Call-ID must be newer than what is known, or it came late (RFC 3261 §10.3 step 7).
fn check_order(request: &Message, registration: &Registration, contacts: &dyn Contacts) -> Result<(), Reject> {
    let cseq = request.cseq().map_or(0, |cseq| cseq.number);
    let is_late = contacts.of_aor(&registration.aor).iter().any(|binding| {
        let is_meant =
            registration.is_star || registration.contacts.iter().any(|contact| contact.device == binding.device);
        is_meant && binding.call_id.as_bytes() == request.call_id() && cseq <= binding.cseq
    });
    if is_late { Err(Reject::new(500, "Out Of Order")) } else { Ok(()) }
}
