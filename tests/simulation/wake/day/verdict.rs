//! What became of each call of a day.

use std::time::{Duration, Instant};

use sip_push_proxy::push::Notice;

use super::{Call, Day, Pushes};
use crate::text;
use crate::wake::WAIT_MAX;

/// What became of one call.
#[derive(Debug)]
pub(in crate::wake) struct Verdict {
    pub(in crate::wake) is_deliverable: bool,
    pub(in crate::wake) is_reachable: bool,
    pub(in crate::wake) is_iphone: bool,
    /// From the INVITE to the phone.
    pub(in crate::wake) rang_after: Option<Duration>,
    pub(in crate::wake) has_final: bool,
    /// Whether the phone, which was bound when the call came, neither got it nor was told of it.
    pub(in crate::wake) is_untold: bool,
    /// Whether the phone had a dead token then, and has come back with another.
    pub(in crate::wake) had_dead_token: bool,
    /// Whether it was told more than once, and no crash is the reason.
    pub(in crate::wake) is_told_twice: bool,
}

impl Day {
    pub(in crate::wake) fn verdict(&self, number: usize) -> Verdict {
        let call = &self.calls[number];
        let finals = self.sent(number).finals();
        let seen = self.seen_at(call);
        let rang = seen.filter(|at| call.cancelled.is_none_or(|cancelled| *at <= cancelled));
        let latest = call.gives_up.min(call.at + WAIT_MAX);
        let could_ring = |pushes: Pushes| call.could_ring[pushes as usize].is_some_and(|at| at <= latest);
        let is_iphone = self.fate.phone(call.phone).is_iphone;
        let pushes = if is_iphone && !self.repeats_apns { Pushes::Once } else { Pushes::EachSecond };
        let crashed = |at: Instant| {
            self.crashes.iter().any(|crash| at <= crash.start && crash.start <= at + Duration::from_secs(1))
        };
        Verdict {
            is_deliverable: could_ring(pushes) || rang.is_some(),
            is_reachable: could_ring(Pushes::EachSecond) || rang.is_some(),
            is_iphone,
            rang_after: rang.map(|rang| rang - call.at),
            has_final: !finals.is_empty(),
            is_untold: seen.is_none() && call.told.is_empty() && !self.is_unbound(number),
            had_dead_token: self.phones[call.phone].has_dead_token,
            is_told_twice: call.told.len() > 1 && !call.told.iter().any(|at| crashed(*at)),
        }
    }

    /// Whether its phone was not bound any more.
    pub(in crate::wake) fn is_unbound(&self, number: usize) -> bool {
        self.sent(number).finals().contains(&404)
    }

    /// When the INVITE was with the phone.
    pub(in crate::wake) fn seen_at(&self, call: &Call) -> Option<Instant> {
        let got = self.world.agents[self.phones[call.phone].agent].got.iter();
        let mut of_call = got
            .filter(|got| got.message.method_text() == b"INVITE" && text::text(got.message.call_id()) == call.call_ref);
        of_call.next().map(|got| got.at)
    }

    /// INVITE pushes that were sent, whatever came of them.
    pub(in crate::wake) fn pushes(&self) -> usize {
        self.world.pushes.sent.iter().filter(|push| matches!(push.notice, Notice::Invite { .. })).count()
    }

    /// When the call is waited for no longer.
    pub(in crate::wake) fn wait_ends(&self, call: &Call) -> Instant {
        call.at + self.world.policy.hold.wait
    }

    /// When the push services would have taken a push for this call.
    pub(in crate::wake) fn takes_at(&self, call: &Call) -> Instant {
        self.outages.iter().find(|outage| outage.contains(&call.at)).map_or(call.at, |outage| outage.end)
    }
}
