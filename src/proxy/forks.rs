//! Forks of one call to one device. A registrar that has several contacts of a device sends it several INVITEs, which are one
//! request (RFC 3261 §8.2.2.2): the first is the call, with its push, its INVITE and its bucket entry, and the others wait for
//! what comes of it.
//!
//! They are durable like the call itself, so that a later run answers them, too.

use std::sync::Arc;
use std::time::Duration;

use super::call_end::Ending;
use super::context::{Context, Purpose};
use super::event::Contacts;
use super::request::call_ref;
use super::{Proxy, Reject, SavePurpose, Timer};
use crate::binding::{Aor, Binding};
use crate::clock::{Now, UnixMillis};
use crate::sip::{Flow, Message};
use crate::store::{self, BucketEntry, Change, EntryState, HeldCallId};
use crate::timeline::{Reason, Step};
use crate::transaction::ServerId;

/// Forks that may wait for one call.
const FORKS_MAX: usize = 16;
/// Whoever cancels all forks of a call does so within this time. Later, one of those that are left is the call.
const CANCELLED_TOGETHER: Duration = Duration::from_millis(500);

/// A fork that waits for the call of another one.
#[derive(Debug)]
pub(super) struct Fork {
    id: HeldCallId,
    aor: Aor,
    call_ref: Box<str>,
    /// Whether the store has it, so that its end must be stored, too.
    is_recorded: bool,
    /// Whether it is left from an earlier run, and the call may still be.
    is_resumed: bool,
}

impl Proxy {
    /// Those devices of a request that no other fork of it has, and the call that has the others.
    pub(super) fn not_forked(
        &self,
        request: &Message,
        aor: &Aor,
        bindings: Vec<Arc<Binding>>,
    ) -> (Vec<Arc<Binding>>, Option<ServerId>) {
        if !self.waiting.contains_key(aor) {
            return (bindings, None);
        }
        let mut leader = None;
        let (taken, free): (Vec<_>, Vec<_>) = bindings.into_iter().partition(|binding| {
            let first = self.first_fork(request, aor, |call| call.has(binding.device));
            leader = leader.or(first);
            first.is_some()
        });
        debug_assert_eq!(leader.is_none(), taken.is_empty());
        (free, leader)
    }

    /// An open call that the request is a fork of.
    fn first_fork(
        &self,
        request: &Message,
        aor: &Aor,
        is_it: impl Fn(&super::held_call::HeldCall) -> bool,
    ) -> Option<ServerId> {
        let calls = self.waiting.get(aor).map(|calls| &**calls).unwrap_or_default();
        let header = &*self.policy.missed.call_ref_header;
        let name = call_ref(request, header);
        calls.iter().copied().find(|server| {
            let Some(context) = self.contexts.get(server) else { return false };
            let is_same = |call: &&super::held_call::HeldCall| call.call_ref == name && is_it(call);
            context.call().filter(is_same).is_some() && is_fork(request, &context.request)
        })
    }

    /// The request waits for what comes of another fork.
    pub(super) fn follow(&mut self, context: &mut Context, leader: ServerId, aor: Aor, now: Now) {
        let name = call_ref(&context.request, &self.policy.missed.call_ref_header);
        if !self.joins_forks(leader, context.server) {
            return self.reject(context, &Reject::new(482, "Merged Request"), now);
        }
        self.step_why(&name, Step::DeviceSkipped, None, "", Reason::ForkMerged);
        let is_recorded = context.is_invite();
        let id = self.keys.held_call(&context.request, self.policy.home, self.worker);
        if is_recorded {
            self.transactions.withhold(context.server);
            let call = store::HeldCall {
                id,
                call_ref: name.clone(),
                aor: aor.clone(),
                invite: context.request.bytes().clone(),
                flow: context.flow,
                to_tag: context.to_tag.clone(),
                held_at: now.unix,
                until: now.unix.after(self.policy.hold.wait),
                devices: Vec::new(),
            };
            let entry = nobodys_entry(&name, now.unix);
            self.save(Change::Hold { call, entry }, SavePurpose::Fork(context.server));
        }
        context.purpose = Purpose::Fork(Box::new(Fork { id, aor, call_ref: name, is_recorded, is_resumed: false }));
    }

    fn joins_forks(&mut self, leader: ServerId, fork: ServerId) -> bool {
        let is_there = |server: &ServerId| self.contexts.get(server).is_some_and(|fork| !fork.responses.is_final);
        let mut forks = match self.contexts.get(&leader).and_then(|context| context.call()) {
            Some(call) => call.forks.iter().copied().filter(is_there).collect::<Vec<_>>(),
            None => return false,
        };
        let has_room = forks.len() < FORKS_MAX;
        forks.extend(has_room.then_some(fork));
        if let Some(call) = self.contexts.get_mut(&leader).and_then(|context| context.call_mut()) {
            call.forks = forks;
        }
        has_room
    }

    /// It is durable, or cannot be, so its client need not repeat it.
    pub(super) fn fork_saved(&mut self, server: ServerId, now: Now) {
        self.transactions.trying(server, now.instant);
    }

    /// The call is over: its forks get the same answer, but for a 2xx, which comes from one branch only.
    pub(super) fn end_forks(&mut self, forks: Vec<ServerId>, ending: Ending, sent: u16, now: Now) {
        for server in forks {
            if matches!(ending, Ending::Cancelled { seen: false }) {
                self.timers.set(Timer::Fork(server), now.instant + CANCELLED_TOGETHER);
                continue;
            }
            let reject = match ending {
                Ending::Answered => Reject::new(482, "Answered By Another Fork"),
                Ending::Cancelled { .. } => Reject::of(487),
                Ending::Rejected
                | Ending::NoReturn { .. }
                | Ending::Expired
                | Ending::PushFailed
                | Ending::Overload => Reject::of(if sent >= 300 { sent } else { 480 }),
            };
            self.end_fork(server, &reject, now);
        }
    }

    fn end_fork(&mut self, server: ServerId, reject: &Reject, now: Now) {
        self.with_context(server, |proxy, context| {
            if matches!(context.purpose, Purpose::Fork(_)) && !context.responses.is_final {
                proxy.reject(context, reject, now);
                proxy.fork_over(context);
            }
        });
    }

    /// A fork has its answer, or becomes a call of its own.
    pub(super) fn fork_over(&mut self, context: &mut Context) {
        let Purpose::Fork(fork) = &mut context.purpose else { return };
        if std::mem::take(&mut fork.is_recorded) {
            let (aor, id, call_ref) = (fork.aor.clone(), fork.id, fork.call_ref.clone());
            self.keep(Change::Settle { aor, id, call_ref, devices: Vec::new(), ended: true });
        }
        self.timers.cancel(&Timer::Fork(context.server));
    }

    /// The call of a fork was cancelled, and the fork was not; or it may be that its call is not taken up again.
    pub(super) fn fork_alone(&mut self, server: ServerId, contacts: &dyn Contacts, now: Now) {
        self.with_context(server, |proxy, context| {
            let Purpose::Fork(fork) = &context.purpose else { return };
            if context.responses.is_final {
                return;
            }
            if fork.is_resumed {
                let aor = fork.aor.clone();
                let leader = proxy.first_fork(&context.request, &aor, |_| true);
                if leader.is_some_and(|leader| proxy.joins_forks(leader, context.server)) {
                    return;
                }
                proxy.reject(context, &Reject::of(480), now);
                return proxy.fork_over(context);
            }
            proxy.fork_over(context);
            context.purpose = Purpose::Plain;
            proxy.route_request(context, contacts, now);
        });
    }

    /// A fork of an earlier run, whose call is about to be taken up as well.
    pub(super) fn resume_fork(
        &mut self,
        server: ServerId,
        request: Message,
        flow: Flow,
        stored: &store::HeldCall,
        now: Now,
    ) {
        let (id, aor, call_ref) = (stored.id, stored.aor.clone(), stored.call_ref.clone());
        let fork = Fork { id, aor, call_ref, is_recorded: true, is_resumed: true };
        self.timers.set(Timer::Fork(server), now.instant + CANCELLED_TOGETHER);
        self.put_back(Box::new(Context {
            purpose: Purpose::Fork(Box::new(fork)),
            ..self.left_context(server, request, flow, stored)
        }));
    }
}

/// Whether two requests with one call_ref are one: with one Call-ID by From tag and CSeq as well (RFC 3261 §8.2.2.2), since a
/// conversation of MESSAGEs may have one Call-ID; with several, as a back-to-back user agent has them, only INVITEs.
fn is_fork(request: &Message, first: &Message) -> bool {
    let has_one_name = request.call_id() == first.call_id();
    request.method_text() == first.method_text()
        && match has_one_name {
            true => {
                let cseq = |message: &Message| message.cseq().map(|cseq| cseq.number);
                request.from_tag() == first.from_tag() && cseq(request) == cseq(first)
            }
            false => request.method() == crate::sip::Method::INVITE,
        }
}

fn nobodys_entry(call_ref: &str, invited_at: UnixMillis) -> BucketEntry {
    BucketEntry {
        call_ref: call_ref.into(),
        remote_uri: "".into(),
        display_name: "".into(),
        anonymous: false,
        invited_at,
        state: EntryState::Live,
    }
}
