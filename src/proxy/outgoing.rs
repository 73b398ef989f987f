//! Requests of phones that go out by the softswitch in local mode: of those that have registered here, and that prove it by
//! their password (RFC 3261 §22.3).

use std::sync::Arc;

use super::context::Context;
use super::digest::{self, Account, Role, Verdict};
use super::event::{Contacts, Effect};
use super::policy::{Auth, Credentials};
use super::{Proxy, Reject};
use crate::binding::Aor;
use crate::clock::Now;
use crate::sip::{Edits, Flow, Message, Uri};

impl Proxy {
    /// Who asks to be let out: the user in From, who has registered by the flow that the request comes by. From without a
    /// name of ours stands for the flow's own user: a caller who hides, or a telephone number.
    pub(super) fn user_of(&self, request: &Message, flow: Flow, contacts: &dyn Contacts) -> Option<Aor> {
        let is_possible = self.policy.softswitch.is_some() && matches!(self.policy.registrar.auth, Auth::Digest(_));
        let device = contacts.on_flow(flow.transport, flow.remote).filter(|_| is_possible)?;
        let own = || contacts.of_device(device).map(|binding| binding.aor.clone());
        let from = request.from()?;
        let Ok(uri) = from.parse_uri() else { return own() };
        if uri.host.eq_ignore_ascii_case(b"anonymous.invalid") {
            return own();
        }
        let aor = self.policy.aor(&uri)?;
        let bindings = contacts.of_aor(&aor);
        let is_here = |known: Flow| (known.transport, known.remote) == (flow.transport, flow.remote);
        bindings.iter().any(|binding| self.elsewhere(binding.home).is_none() && is_here(binding.flow)).then_some(aor)
    }

    /// Forwards the request once its sender has proved to be this user.
    pub(super) fn call_out(&mut self, context: &mut Context, aor: &Aor, contacts: &dyn Contacts, now: Now) {
        let Auth::Digest(users) = self.policy.registrar.auth.clone() else {
            return self.reject(context, &Reject::of(403), now);
        };
        if let Err(reject) = self.prove(&context.request, context.flow, (aor, Role::Proxy), &users, now) {
            return self.reject(context, &reject, now);
        }
        // What proves it here is of no use elsewhere.
        let mut edits = Edits::new();
        digest::remove_credentials(&context.request, self.policy.realm(aor, &users), &mut edits);
        match Message::parse(edits.apply(context.request.bytes()), usize::MAX) {
            Ok(onward) => context.onward = Some(Box::new(onward)),
            Err(_) => return self.reject(context, &Reject::of(500), now),
        }
        self.forward_to_softswitch(context, contacts, now);
    }

    /// Whether the sender of a request has shown to be this user; else what it is told.
    pub(super) fn prove(
        &mut self,
        request: &Message,
        flow: Flow,
        (aor, role): (&Aor, Role),
        users: &Credentials,
        now: Now,
    ) -> Result<(), Reject> {
        let policy = Arc::clone(&self.policy);
        let realm = policy.realm(aor, users);
        let account = Account { user: aor.user(), realm, source: flow.remote.ip(), role };
        let names_us = |uri: &[u8]| {
            let is_ours = |uri: Uri<'_>| uri.host.eq_ignore_ascii_case(realm.as_bytes()) || policy.is_named(uri.host);
            // A proxy is asked for what is elsewhere, too (RFC 7616 §3.4.6: the digest-uri is the Request-URI).
            role == Role::Proxy && uri == request.uri() || Uri::parse(uri).is_ok_and(is_ours)
        };
        match self.nonces.verify(request, account, users, names_us, now.unix) {
            Verdict::Genuine => Ok(()),
            Verdict::Wrong => {
                let reason = "wrong user or password";
                self.effects.push_back(Effect::AuthFailed { source: flow.remote.ip(), reason });
                Err(Reject::of(403))
            }
            Verdict::Elsewhere => Err(Reject::new(403, "Digest URI Names Another Server")),
            Verdict::Challenge { stale } => {
                let salt = self.random.draw();
                let headers = self.nonces.challenges(account, users, stale, salt, now.unix);
                Err(Reject { headers, ..Reject::of(role.status()) })
            }
        }
    }
}
