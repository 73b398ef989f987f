//! Calls from an address that is not in `softswitch.trusted` and that has, nevertheless, what only the softswitch can know, or
//! that returns what it got from here: most likely the softswitch, by an address that the operator has forgotten. It stays a
//! phone's request, but nobody has to guess why no phone rings.

use std::time::{Duration, Instant};

use super::Proxy;
use super::context::Context;
use super::event::{Contacts, DropReason, Effect, Outcome, Warning};
use super::policy::Mode;
use super::request::{Target, call_ref};
use super::route::{self, Routed};
use super::secret::TokenRead;
use crate::binding::{Aor, DeviceId};
use crate::clock::Now;
use crate::sip::{Flow, Message, Uri, scan};
use crate::timeline::{Reason, Step, Why};

/// Strangers can send such calls, too, and are not to fill the list of calls.
const STORY_EVERY: Duration = Duration::from_secs(1);

/// When a story of such a call was told last.
#[derive(Debug, Default)]
pub(super) struct StrangeCalls(Option<Instant>);

impl Proxy {
    /// Tells the operator of a call that is the softswitch's by all but its address. `is_loop`: it was here before.
    pub(super) fn note_strange_switch(&mut self, context: &Context, is_loop: bool, contacts: &dyn Contacts, now: Now) {
        let (request, flow) = (&context.request, context.flow);
        let is_new_call = context.is_invite() && request.to_tag().is_none();
        if !is_new_call || !self.is_stranger(flow, contacts) {
            return;
        }
        let routed = route::preprocess(request, &self.policy, &self.keys);
        let aor = match self.device_named(&routed, contacts) {
            Some(aor) => Some(aor),
            None if is_loop || self.policy.mode == Mode::Local => self.user_named(&routed, contacts),
            None => return,
        };
        if aor.is_none() && !is_loop {
            return;
        }
        let source = flow.remote;
        self.effects.push_back(Effect::Dropped(DropReason::StrangeSwitch));
        self.effects.push_back(Effect::Warning(Warning::StrangeSwitch { source, is_loop }));
        if let Some(aor) = aor {
            self.tell_strange_call(request, flow, aor, now);
        }
    }

    /// Neither trusted nor a node, and nobody has registered by its flow.
    pub(super) fn is_stranger(&self, flow: Flow, contacts: &dyn Contacts) -> bool {
        let is_known = self.policy.is_trusted(flow.remote.ip()) || contacts.is_node(flow.remote.ip());
        !is_known && contacts.on_flow(flow.transport, flow.remote).is_none()
    }

    /// Whom a request means by an alias or a Path token: nobody can guess either.
    fn device_named(&self, routed: &Routed<'_>, contacts: &dyn Contacts) -> Option<Aor> {
        let device = match routed.token {
            TokenRead::Flow(token) => Some(token.device),
            TokenRead::Dialog(_) | TokenRead::Hop(_) | TokenRead::Forged | TokenRead::NoToken => {
                let uri = Uri::parse(routed.uri).ok()?.without_user_params();
                uri.user.filter(|_| self.policy.is_own_host(uri.host)).and_then(DeviceId::parse)
            }
        }?;
        contacts.of_device(device).map(|binding| binding.aor.clone())
    }

    fn user_named(&self, routed: &Routed<'_>, contacts: &dyn Contacts) -> Option<Aor> {
        match self.phones(&Uri::parse(routed.uri).ok()?, contacts) {
            Ok(Target::Phones { aor, .. }) => Some(aor),
            Ok(_) | Err(_) => None,
        }
    }

    fn tell_strange_call(&mut self, request: &Message, flow: Flow, aor: Aor, now: Now) {
        let last = self.strange_calls.0;
        if last.is_some_and(|last| now.instant.saturating_duration_since(last) < STORY_EVERY) {
            return;
        }
        self.strange_calls.0 = Some(now.instant);
        let name = call_ref(request, &self.policy.missed.call_ref_header);
        let call_id = scan::text(request.call_id());
        let detail = format!("for {aor}, from {}", flow.remote);
        self.effects.push_back(Effect::CallBegan { call_ref: name.clone(), call_id, aor });
        self.step(&name, Step::Received, None, detail);
        let reason = Reason::SwitchNotTrusted;
        let why = Why::new(reason, format!("{}: {}", reason.meaning(), flow.remote.ip()));
        self.step_why(&name, Step::Rejected, None, "", why);
        self.effects.push_back(Effect::CallEnded { call_ref: name, outcome: Outcome::Rejected });
    }
}
