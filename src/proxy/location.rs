//! The location service (RFC 3261 §16.5): whom a Request-URI of the softswitch means.

use std::sync::Arc;

use super::event::Contacts;
use super::request::Target;
use super::{Proxy, Reject};
use crate::binding::{Aor, Binding, DeviceId};
use crate::sip::Uri;
use crate::sip::uri::tel_number;

impl Proxy {
    /// An alias names one device, an AOR all of its devices.
    pub(super) fn phones(&self, uri: &Uri<'_>, contacts: &dyn Contacts) -> Result<Target, Reject> {
        let own = self.policy.is_own_host(uri.host);
        let Some(user) = uri.without_user_params().user else {
            return if own { Ok(Target::Ourselves) } else { Err(Reject::of(404)) };
        };
        let alias = || DeviceId::parse(user).and_then(|device| contacts.of_device(device));
        // A token device has no contact that anybody could know.
        let is_known = |binding: &Arc<Binding>| !binding.is_token_device() && self.policy.knows(&binding.aor);
        if own && let Some(binding) = alias().filter(is_known) {
            let only = Some(binding.device);
            return Ok(Target::Phones { aor: binding.aor.clone(), bindings: vec![binding], only });
        }
        if !self.policy.serves(uri.host) {
            return Err(Reject::new(403, "Domain Not Served"));
        }
        match self.phones_of(&self.aors_of(uri), contacts) {
            Err(_) if own && self.policy.domains.is_empty() => self.phones_of_user(&self.users_of(uri), contacts),
            found => found,
        }
    }

    /// All devices of the one AOR with the first of these user parts that any has, where we are told no domains.
    fn phones_of_user(&self, users: &[Box<str>], contacts: &dyn Contacts) -> Result<Target, Reject> {
        let has_devices = |aor: &Aor| self.policy.knows(aor) && !contacts.of_aor(aor).is_empty();
        for user in users {
            let mut aors = contacts.aors_of_user(user);
            aors.retain(|aor| has_devices(aor));
            match &aors[..] {
                [] => {}
                [_] => return self.phones_of(&aors, contacts),
                [_, ..] => return Err(Reject::of(485)),
            }
        }
        Err(Reject::of(404))
    }

    /// The user part of a Request-URI, as written, then without its parameters.
    fn users_of(&self, uri: &Uri<'_>) -> Vec<Box<str>> {
        let forms = [uri.aor(), uri.without_user_params().aor()];
        let mut users: Vec<Box<str>> = forms.into_iter().flatten().map(|aor| aor.user().into()).collect();
        users.dedup();
        users
    }

    /// All devices of the first of these AORs that has any.
    fn phones_of(&self, aors: &[Aor], contacts: &dyn Contacts) -> Result<Target, Reject> {
        let known = aors.iter().filter(|aor| self.policy.knows(aor));
        let found = known.map(|aor| (aor, contacts.of_aor(aor))).find(|(_, bindings)| !bindings.is_empty());
        let (aor, bindings) = found.ok_or_else(|| Reject::of(404))?;
        Ok(Target::Phones { aor: aor.clone(), bindings, only: None })
    }

    /// Whom a Request-URI of the softswitch may mean, the likeliest first: the user as written, then without its parameters.
    /// A trunk that sends numbers to our address means the users of our domains.
    pub(super) fn aors_of(&self, uri: &Uri<'_>) -> Vec<Aor> {
        let own = self.policy.is_own_host(uri.host);
        let bare = uri.without_user_params();
        let forms = [Some(uri), Some(&bare).filter(|bare| bare.user != uri.user)];
        let mut aors = Vec::new();
        for form in forms.into_iter().flatten() {
            aors.extend(self.policy.aor(form));
            // What was registered before its domain became one with others.
            let has_other_names = aors.last().is_some_and(|aor| self.policy.is_alias(aor));
            if own || has_other_names {
                aors.extend(self.policy.domains.iter().filter_map(|domain| form.aor_in(domain)));
            }
        }
        aors
    }

    /// All devices of whoever has a telephone number (RFC 3966). No phone is reached by another URI that is none of SIP.
    pub(super) fn phones_of_number(&self, uri: &[u8], contacts: &dyn Contacts) -> Result<Target, Reject> {
        let Some(number) = tel_number(uri) else { return Err(Reject::of(416)) };
        match self.policy.domains.is_empty() {
            true => self.phones_of_user(&[number.into()], contacts),
            false => self.phones_of(&self.aors_of_number(uri), contacts),
        }
    }

    /// The same for a telephone number (RFC 3966), which has no domain.
    pub(super) fn aors_of_number(&self, uri: &[u8]) -> Vec<Aor> {
        let Some(number) = tel_number(uri) else { return Vec::new() };
        self.policy.domains.iter().map(|domain| Aor::new(&number, domain)).collect()
    }
}
