//! missed_calls: one push that tells a device of all calls it never saw, when it is back.
//!
//! Claim the entries, push them, and only when the provider took the push remove them: a crash in between reports a
//! call twice rather than never.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::call_push::millis;
use super::event::Contacts;
use super::{Proxy, PushPurpose, SavePurpose, Timer};
use crate::binding::{Aor, Binding, DeviceId};
use crate::clock::{Now, UnixMillis};
use crate::push::{self, Notice, NoticeKind, Outcome, Push};
use crate::store::{Applied, Change, StoreError};
use crate::timeline::Step;

/// How long a missed_calls push may be delivered (ECSS's figure).
const TTL: Duration = Duration::from_secs(120);
/// First pause after a refused push; doubled each time.
const RETRY_AFTER: Duration = Duration::from_secs(30);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(15 * 60);

/// Reports that are with the provider, and pushes that failed before.
#[derive(Debug, Default)]
pub(super) struct Reports {
    claimed: HashMap<DeviceId, Report>,
    failures: HashMap<DeviceId, u32>,
}

#[derive(Debug)]
struct Report {
    aor: Aor,
    call_refs: Vec<Box<str>>,
    sent_at: UnixMillis,
}

impl Proxy {
    /// A device registered after being away for `absence`; so the token devices that it comes for are back.
    pub(super) fn report_missed(
        &mut self,
        binding: &Arc<Binding>,
        absence: Duration,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        let missed = &self.policy.missed;
        if !missed.enabled || absence < missed.absence {
            return;
        }
        if !self.puts_off_report(binding.device, now) {
            self.claim(binding, contacts);
        }
        for token in self.tokens_of(binding, contacts) {
            self.claim(&token, contacts);
        }
    }

    fn claim(&mut self, binding: &Binding, contacts: &dyn Contacts) {
        // An iOS device without a remote token cannot be told; its entries wait for a REGISTER that brings one.
        let can_be_told = |target| self.policy.push.supports(target, NoticeKind::MissedCalls).is_ok();
        let can_be_told = binding.push.as_ref().is_some_and(can_be_told);
        if can_be_told && contacts.has_missed(binding.device) && self.admits(binding, contacts).is_ok() {
            let change = Change::Claim { aor: binding.aor.clone(), device: binding.device };
            self.save(change, SavePurpose::Claim(binding.aor.clone(), binding.device));
        }
    }

    pub(super) fn claimed(
        &mut self,
        (aor, device): (&Aor, DeviceId),
        result: Result<Applied, StoreError>,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        let Ok(applied) = result else { return self.retry_report(device, None, now) };
        let Applied::Claimed(entries) = applied else { return };
        if entries.is_empty() {
            return;
        }
        let binding = contacts.of_device(device);
        let Some((binding, target)) = binding.and_then(|binding| Some((Arc::clone(&binding), binding.push.clone()?)))
        else {
            // It has unregistered since, or registered without push; its entries wait for a token.
            return self.keep(Change::Release { aor: aor.clone(), device });
        };
        let call_refs = entries.iter().map(|entry| entry.call_ref.clone()).collect();
        self.missed.claimed.insert(device, Report { aor: binding.aor.clone(), call_refs, sent_at: now.unix });
        let push = Push::to(&binding, target, Notice::MissedCalls(entries), TTL, now.unix);
        self.submit(PushPurpose::Missed(device), push);
    }

    pub(super) fn report_pushed(&mut self, device: DeviceId, reply: push::Reply, contacts: &dyn Contacts, now: Now) {
        let Some(report) = self.missed.claimed.remove(&device) else { return };
        let Report { aor, call_refs, sent_at } = report;
        self.learn_of_token(device, &reply, sent_at, contacts);
        match reply.outcome {
            Outcome::Accepted => {
                self.missed.failures.remove(&device);
                let took = format!("{} ms", millis(reply.took));
                for call_ref in &call_refs {
                    let (took, push_id) = (took.clone(), reply.push_id.clone());
                    self.step_pushed(call_ref, Step::MissedReported, device, took, push_id, None);
                }
                self.keep(Change::Reported { aor, device, call_refs });
            }
            // The next REGISTER tries again; before it nothing would be different.
            Outcome::TokenDead { .. }
            | Outcome::Refused { .. }
            | Outcome::Locked { .. }
            | Outcome::Misfit { .. }
            | Outcome::Doubted { .. } => {
                self.missed.failures.remove(&device);
                self.keep(Change::Release { aor, device });
            }
            Outcome::TryAgain { after, .. } => {
                self.keep(Change::Release { aor, device });
                self.retry_report(device, after, now);
            }
            Outcome::Skipped { after, .. } => {
                self.keep(Change::Release { aor, device });
                self.retry_report(device, Some(after), now);
            }
            Outcome::Withdrawn => {
                self.keep(Change::Release { aor, device });
                self.retry_report(device, None, now);
            }
            Outcome::Limited => {
                self.keep(Change::Release { aor, device });
                self.retry_report(device, Some(Duration::from_secs(60)), now);
            }
        }
    }

    fn retry_report(&mut self, device: DeviceId, after: Option<Duration>, now: Now) {
        let failures = self.missed.failures.entry(device).or_default();
        let back_off = RETRY_AFTER.saturating_mul(1 << (*failures).min(10)).min(RETRY_AFTER_MAX);
        *failures += 1;
        let pause = after.unwrap_or(back_off).max(back_off.min(RETRY_AFTER));
        // What failed for many at once is not tried again for all at once.
        let quarter = u64::try_from(pause.as_millis() / 4).unwrap_or(u64::MAX);
        let pause = pause.saturating_add(Duration::from_millis(self.random.draw() % quarter.max(1)));
        self.timers.set(Timer::Report(device), now.instant + pause);
    }

    /// Tries again, with whatever token the device has by then.
    pub(super) fn report_due(&mut self, device: DeviceId, contacts: &dyn Contacts) {
        match contacts.of_device(device) {
            Some(binding) => self.claim(&binding, contacts),
            None => {
                self.missed.failures.remove(&device);
            }
        }
    }
}
