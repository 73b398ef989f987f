//! Requests that come before memory has all of a large store: the store is asked first, and the request goes on then.

use super::context::Context;
use super::event::{Contacts, Effect, FetchTicket, Sought};
use super::secret::TokenRead;
use super::{BUSY_RETRY_AFTER_S, Proxy, Reject, route};
use crate::binding::{Aor, DeviceId};
use crate::clock::Now;
use crate::sip::{Message, Method, Uri};

impl Proxy {
    /// Asks the store for what the request is about where memory may lack it. If so, nothing is to be done before
    /// [`Proxy::fetched`].
    pub(super) fn fetch_first(&mut self, context: &Context, contacts: &dyn Contacts) -> bool {
        if contacts.is_loaded() || context.is_fetched {
            return false;
        }
        let Some(sought) = self.sought(&context.request, contacts) else { return false };
        self.tickets += 1;
        let ticket = FetchTicket(self.tickets);
        self.fetches.insert(ticket, context.server);
        self.effects.push_back(Effect::Fetch { ticket, sought });
        true
    }

    /// The store answered. A caller must not hear that a user is unknown who may be in a store that is away; a phone may
    /// register all the same, because what it registers can wait in the journal.
    pub(super) fn fetched(&mut self, ticket: FetchTicket, is_known: bool, contacts: &dyn Contacts, now: Now) {
        let Some(server) = self.fetches.remove(&ticket) else { return };
        self.with_context(server, |proxy, context| {
            context.is_fetched = true;
            let is_lost = !is_known
                && context.request.method() != Method::REGISTER
                && proxy.sought(&context.request, contacts).is_some();
            match (context.responses.is_cancelled, is_lost) {
                (true, _) => {}
                (false, true) => proxy.reject(context, &Reject::busy(BUSY_RETRY_AFTER_S), now),
                (false, false) => proxy.route_request(context, contacts, now),
            }
        });
    }

    /// Whose bindings decide about the request, unless memory has them.
    fn sought(&self, request: &Message, contacts: &dyn Contacts) -> Option<Sought> {
        if request.method() == Method::REGISTER {
            let aor = self.policy.aor(&request.to()?.parse_uri().ok()?)?;
            return contacts.of_aor(&aor).is_empty().then_some(Sought::Aor(aor));
        }
        let routed = route::preprocess(request, &self.policy, &self.keys);
        let uri = Uri::parse(routed.uri).ok();
        let own = uri.filter(|uri| self.policy.is_own_host(uri.host));
        let alias = own.and_then(|uri| uri.without_user_params().user).and_then(DeviceId::parse);
        let device = match routed.token {
            TokenRead::Flow(token) => Some(token.device),
            TokenRead::Dialog(token) => Some(token.device),
            TokenRead::Hop(_) => return None,
            TokenRead::Forged | TokenRead::NoToken => alias,
        };
        match device {
            Some(device) => contacts.of_device(device).is_none().then_some(Sought::Device(device)),
            None => {
                let aors = uri.map_or_else(|| self.aors_of_number(routed.uri), |uri| self.aors_of(&uri));
                let is_unknown = aors.iter().all(|aor| contacts.of_aor(aor).is_empty());
                // One of our domains, where there are any, rather than our address.
                let is_ours = |aor: &&Aor| self.policy.domains.iter().any(|domain| **domain == *aor.domain());
                let likeliest = aors.iter().rfind(is_ours).or_else(|| aors.last()).filter(|_| is_unknown);
                likeliest.map(|aor| Sought::Aor(self.policy.canonical(aor.clone())))
            }
        }
    }
}
