//! What each change means, and what guards it.

use std::time::Duration;

use sip_push_proxy::binding::{Binding, PushTarget, Tokens, Upstream};
use sip_push_proxy::clock::UnixMillis;
use sip_push_proxy::store::{Applied, BucketEntry, Change, EntryState, HeldCallId, Settlement};

use crate::rows::*;
use crate::subject::{Kind, Subject, on_each};
use EntryState::{Live, Missed};

/// One AOR, number 1, as the operator would see it.
struct Phones(Subject);

impl Phones {
    /// These devices are registered.
    fn with(kind: Kind, numbers: &[u32]) -> Self {
        let mut phones = Self(Subject::open(kind));
        phones.apply(register(numbers.iter().map(|number| binding(1, *number)).collect()));
        phones
    }

    fn apply(&mut self, change: Change) -> Applied {
        self.0.apply(change).unwrap()
    }

    fn bound(&self) -> Vec<u32> {
        self.0.table().lookup(&aor(1)).iter().map(|binding| binding.cseq).collect()
    }

    fn entries(&self, number: u32) -> Vec<(u32, EntryState)> {
        let call = |entry: &BucketEntry| entry.call_ref.strip_prefix("call-").unwrap().parse().unwrap();
        self.0.table().entries(&device(number)).iter().map(|entry| (call(entry), entry.state)).collect()
    }

    fn claims(&mut self, number: u32) -> Vec<Box<str>> {
        let applied = self.apply(claim(1, number));
        let Applied::Claimed(entries) = applied else { panic!("{applied:?}") };
        entries.into_iter().map(|entry| entry.call_ref).collect()
    }

    fn held(&self) -> Vec<HeldCallId> {
        self.0.table().calls().iter().map(|call| call.id).collect()
    }

    fn token_dead(&mut self, number: u32, sent_at: UnixMillis, dead_since: Option<UnixMillis>) -> Applied {
        let (aor, device, token) = (aor(1), device(number), token(number));
        self.apply(Change::TokenDead { aor, device, token, sent_at, dead_since })
    }
}

fn register_puts_and_replaces_by_device(kind: Kind) {
    let mut phones = Phones::with(kind, &[1, 2]);
    let moved = Binding { flow: flow(7000), cseq: 9, ..binding(1, 1) };
    phones.apply(register(vec![moved.clone()]));
    assert_eq!(phones.bound(), [9, 2]);
    assert_eq!(phones.0.table().by_device(device(1)).as_deref(), Some(&moved));
    assert_eq!(phones.0.table().binding_count(), 2);
}

fn register_that_replaces_keeps_the_bucket(kind: Kind) {
    let mut phones = Phones::with(kind, &[1]);
    phones.apply(hold(1, 1, &[1]));
    phones.apply(register(vec![binding(1, 1)]));
    assert_eq!(phones.entries(1), [(1, Live)]);
}

fn a_device_removed_and_put_by_one_register_stays(kind: Kind) {
    let mut phones = Phones::with(kind, &[1]);
    phones.apply(hold(1, 1, &[1]));
    phones.apply(Change::Register { aor: aor(1), put: vec![binding(1, 1)], remove: vec![removal(1, None)] });
    assert_eq!((phones.bound(), phones.entries(1)), (vec![1], vec![(1, Live)]));
}

fn unregistration_ends_the_binding_and_leaves_the_bucket(kind: Kind) {
    let mut phones = Phones::with(kind, &[1, 2]);
    phones.apply(hold(1, 1, &[1, 2]));
    phones.apply(unregister(1, 1, None));
    let live = vec![(1, Live)];
    assert_eq!((phones.bound(), phones.entries(1), phones.entries(2)), (vec![2], live.clone(), live));
    assert_eq!(phones.0.table().by_device(device(1)), None);
    phones.apply(settle(1, 1, &[(1, Settlement::Missed), (2, Settlement::Seen)], true));
    phones.apply(register(vec![binding(1, 1)]));
    assert_eq!((phones.claims(1), phones.entries(2)), (vec![call_ref(1)], vec![]));
}

fn entries_follow_the_heir(kind: Kind) {
    let mut phones = Phones::with(kind, &[1]);
    phones.apply(hold(1, 1, &[1]));
    phones.apply(settle(1, 1, &[(1, Settlement::Missed)], true));
    phones.apply(hold(1, 2, &[1]));
    let heir = vec![binding(1, 2)];
    phones.apply(Change::Register { aor: aor(1), put: heir, remove: vec![removal(1, Some(2))] });
    assert_eq!((phones.entries(1), phones.entries(2)), (vec![], vec![(1, Missed), (2, Live)]));
}

fn entries_do_not_follow_an_heir_who_is_not_there(kind: Kind) {
    let mut phones = Phones::with(kind, &[1]);
    phones.apply(hold(1, 1, &[1]));
    phones.apply(unregister(1, 1, Some(2)));
    assert_eq!((phones.entries(1), phones.entries(2)), (vec![(1, Live)], vec![]));
}

fn a_call_is_settled_under_the_name_it_was_held_for(kind: Kind) {
    let mut phones = Phones::with(kind, &[1, 2, 3]);
    phones.apply(hold(1, 1, &[1]));
    phones.apply(unregister(1, 1, Some(2)));
    phones.apply(unregister(1, 2, Some(3)));
    phones.apply(settle(1, 1, &[(1, Settlement::Missed)], true));
    assert_eq!(phones.entries(3), [(1, Missed)]);
    // Nothing is settled under it any more: the name is free.
    phones.apply(hold(1, 2, &[3]));
    phones.apply(settle(1, 2, &[(1, Settlement::Seen)], true));
    assert_eq!(phones.entries(3), [(1, Missed), (2, Live)]);
}

fn an_heir_may_claim_what_the_old_name_claimed(kind: Kind) {
    let mut phones = Phones::with(kind, &[1, 2]);
    phones.apply(hold(1, 1, &[1]));
    phones.apply(settle(1, 1, &[(1, Settlement::Missed)], true));
    assert_eq!(phones.claims(1), [call_ref(1)]);
    phones.apply(unregister(1, 1, Some(2)));
    assert_eq!(phones.claims(2), [call_ref(1)]);
}

fn a_dead_token_ends_the_binding_and_leaves_the_bucket(kind: Kind) {
    let mut phones = Phones::with(kind, &[1, 2]);
    phones.apply(hold(1, 1, &[1, 2]));
    assert_eq!(phones.token_dead(1, NOW, None), Applied::Ended(true));
    assert_eq!((phones.bound(), phones.entries(1)), (vec![2], vec![(1, Live)]));
    phones.apply(settle(1, 1, &[(1, Settlement::Missed), (2, Settlement::Missed)], true));
    // It comes back with another.
    let push = PushTarget { prid: token(7), ..binding(1, 1).push.unwrap() };
    phones.apply(register(vec![Binding { push: Some(push), ..binding(1, 1) }]));
    assert_eq!(phones.claims(1), [call_ref(1)]);
}

fn a_dead_token_that_is_all_that_names_its_device_ends_the_bucket_too(kind: Kind) {
    let mut phones = Phones::with(kind, &[2]);
    phones.apply(register(vec![Binding { instance: None, ..binding(1, 1) }]));
    phones.apply(hold(1, 1, &[1, 2]));
    assert_eq!(phones.token_dead(1, NOW, None), Applied::Ended(true));
    assert_eq!((phones.bound(), phones.entries(1)), (vec![2], vec![]));
}

fn a_dead_token_does_not_end_what_registered_since(kind: Kind) {
    let earlier = UnixMillis(NOW.0 - 1);
    let mut phones = Phones::with(kind, &[1]);
    assert_eq!(phones.token_dead(1, earlier, None), Applied::Ended(false), "registered after the push");
    assert_eq!(phones.token_dead(1, NOW, Some(earlier)), Applied::Ended(false), "registered after the token died");
    assert_eq!(phones.token_dead(1, earlier, Some(NOW)), Applied::Ended(false), "registered after the push");
    assert_eq!(phones.token_dead(7, NOW, None), Applied::Ended(false), "no such device");
    assert_eq!(phones.bound(), [1]);
    assert_eq!(phones.token_dead(1, NOW, Some(NOW)), Applied::Ended(true));
}

fn a_dead_token_does_not_end_a_binding_with_another(kind: Kind) {
    let mut phones = Phones::with(kind, &[1]);
    let push = PushTarget { prid: token(2), ..binding(1, 1).push.unwrap() };
    phones.apply(register(vec![Binding { push: Some(push), ..binding(1, 1) }]));
    assert_eq!(phones.token_dead(1, NOW, None), Applied::Ended(false));
    phones.apply(register(vec![plain_binding(1, 1)]));
    assert_eq!(phones.token_dead(1, NOW, None), Applied::Ended(false));
    assert_eq!(phones.bound(), [1]);
}

fn a_dead_remote_token_leaves_an_apple_device_its_voip_token(kind: Kind) {
    for (voip, remote, ends) in [(Some(1), Some(2), true), (Some(2), Some(1), false), (None, Some(1), true)] {
        let mut phones = Phones::with(kind, &[1]);
        let tokens =
            Tokens::Apple { team: "T".into(), bundle: "b".into(), voip: voip.map(token), remote: remote.map(token) };
        let push = PushTarget { prid: token(9), tokens, ..binding(1, 1).push.unwrap() };
        phones.apply(register(vec![Binding { push: Some(push), ..binding(1, 1) }]));
        assert_eq!(phones.token_dead(1, NOW, None), Applied::Ended(ends), "{voip:?} {remote:?}");
        assert_eq!(phones.bound().len(), usize::from(!ends));
        // The rest ends with the other one.
        let rest =
            Change::TokenDead { aor: aor(1), device: device(1), token: token(2), sent_at: NOW, dead_since: None };
        assert_eq!(phones.apply(rest), Applied::Ended(!ends));
    }
}

fn an_operator_removes_a_device(kind: Kind) {
    let mut phones = Phones::with(kind, &[1, 2]);
    phones.apply(hold(1, 1, &[1]));
    let remove = || Change::Remove { aor: aor(1), device: device(1) };
    assert_eq!(phones.apply(remove()), Applied::Ended(true));
    assert_eq!(phones.apply(remove()), Applied::Ended(false));
    assert_eq!((phones.bound(), phones.entries(1)), (vec![2], vec![]));
}

fn hold_writes_call_and_entries(kind: Kind) {
    let mut phones = Phones::with(kind, &[1, 2]);
    phones.apply(hold(1, 1, &[1, 2]));
    assert_eq!((phones.entries(1), phones.entries(2)), (vec![(1, Live)], vec![(1, Live)]));
    assert_eq!(phones.0.table().call(HeldCallId(1)).as_deref(), Some(&call(1, 1, &[1, 2])));
}

fn hold_again_adds_only_what_is_not_there(kind: Kind) {
    let mut phones = Phones::with(kind, &[1, 2, 3]);
    phones.apply(hold(1, 1, &[1, 2]));
    phones.apply(settle(1, 1, &[(1, Settlement::Seen), (2, Settlement::Missed)], false));
    phones.apply(hold(1, 1, &[1, 2, 3]));
    assert_eq!(
        (phones.entries(1), phones.entries(2), phones.entries(3)),
        (vec![], vec![(1, Missed)], vec![(1, Live)]),
        "a device that is done with the call is not asked again"
    );
    assert_eq!(phones.0.table().call(HeldCallId(1)).unwrap().devices, [device(1), device(2), device(3)]);
}

fn hold_writes_no_entry_without_a_binding(kind: Kind) {
    let mut phones = Phones::with(kind, &[1]);
    phones.apply(hold(1, 1, &[2]));
    assert_eq!((phones.entries(2), phones.held()), (vec![], vec![HeldCallId(1)]));
}

fn a_full_bucket_loses_its_oldest_missed_entry(kind: Kind) {
    let mut phones = Phones::with(kind, &[1]);
    for number in 1..=4 {
        phones.apply(hold(1, number, &[1]));
        if number != 1 {
            phones.apply(settle(1, number, &[(1, Settlement::Missed)], true));
        }
    }
    assert_eq!(phones.entries(1), [(1, Live), (3, Missed), (4, Missed)]);
    assert_eq!(phones.0.table().entry_count(), LIMITS.entries_per_device);
}

fn settle_ends_the_call_only_when_it_ended(kind: Kind) {
    let mut phones = Phones::with(kind, &[1]);
    phones.apply(hold(1, 1, &[1]));
    phones.apply(settle(1, 1, &[(1, Settlement::Seen)], false));
    assert_eq!((phones.entries(1), phones.held()), (vec![], vec![HeldCallId(1)]));
    phones.apply(settle(1, 1, &[(1, Settlement::Missed)], true));
    assert_eq!((phones.entries(1), phones.held()), (vec![], vec![]), "what is gone stays gone");
}

fn claims_are_exclusive_until_reported_or_released(kind: Kind) {
    let mut phones = Phones::with(kind, &[1]);
    for number in [1, 2] {
        phones.apply(hold(1, number, &[1]));
        phones.apply(settle(1, number, &[(1, Settlement::Missed)], true));
    }
    phones.apply(hold(1, 3, &[1]));
    assert_eq!(phones.claims(1), [call_ref(1), call_ref(2)], "never a live one");
    assert!(phones.claims(1).is_empty());
    phones.apply(Change::Release { aor: aor(1), device: device(1) });
    assert_eq!(phones.claims(1), [call_ref(1), call_ref(2)]);
    phones.apply(Change::Reported { aor: aor(1), device: device(1), call_refs: vec![call_ref(1)] });
    assert_eq!(phones.entries(1), [(2, Missed), (3, Live)]);
    assert_eq!(phones.claims(1), [call_ref(2)]);
}

fn a_restart_keeps_held_calls_and_opens_claims(kind: Kind) {
    let mut phones = Phones::with(kind, &[1]);
    phones.apply(hold(1, 1, &[1]));
    phones.apply(settle(1, 1, &[(1, Settlement::Missed)], true));
    assert_eq!(phones.claims(1).len(), 1);
    phones.apply(hold(1, 3, &[1]));
    phones.apply(hold(1, 2, &[1]));
    let held = phones.0.restart(NOW);
    assert_eq!(held, [call(1, 2, &[1]), call(1, 3, &[1])]);
    let entries = vec![(1, Missed), (2, Live), (3, Live)];
    assert_eq!((phones.entries(1), phones.held()), (entries, vec![HeldCallId(2), HeldCallId(3)]));
    assert_eq!(phones.claims(1).len(), 1);
}

fn a_sweep_ends_what_time_ends(kind: Kind) {
    let mut phones = Phones::with(kind, &[1]);
    let short = Binding { expires_at: NOW.after(Duration::from_secs(60)), ..plain_binding(1, 2) };
    phones.apply(register(vec![short, plain_binding(1, 3)]));
    phones.apply(hold(1, 1, &[1]));
    phones.apply(hold(1, 2, &[1]));

    phones.0.sweep(NOW.after(Duration::from_secs(60)));
    assert_eq!((phones.bound(), phones.entries(1).len()), (vec![1, 3], 2), "Expires of the plain one is over");
    phones.0.sweep(UnixMillis(NOW.0 + 1).after(HOUR));
    assert_eq!(phones.bound(), [1], "a push binding outlives its Expires");
    assert_eq!(phones.entries(1), [(2, Live)], "the older entry's time is over");
    phones.0.sweep(NOW.after(HOUR * 2));
    assert_eq!((phones.bound(), phones.entries(1)), (vec![1], vec![]));
}

fn a_sweep_spares_what_registered_again(kind: Kind) {
    let mut phones = Phones::with(kind, &[1]);
    phones.apply(register(vec![plain_binding(1, 2)]));
    phones.apply(register(vec![Binding { expires_at: NOW.after(HOUR * 3), ..plain_binding(1, 2) }]));
    phones.0.sweep(NOW.after(HOUR * 2));
    assert_eq!(phones.bound(), [1, 2]);
}

fn upstream(expires_at: UnixMillis, refused: Option<&str>) -> Upstream {
    Upstream { registered_at: NOW, expires_at, refused: refused.map(Into::into) }
}

fn refreshed(number: u32, registered_at: UnixMillis, upstream: Upstream) -> Change {
    Change::Refreshed { aor: aor(1), device: device(number), registered_at, upstream }
}

fn a_refresh_changes_only_what_is_known_upstream(kind: Kind) {
    let mut phones = Phones::with(kind, &[1, 2]);
    let later = upstream(NOW.after(HOUR * 2), None);
    assert_eq!(phones.apply(refreshed(1, NOW, later.clone())), Applied::Done);
    let binding_1 = Binding { upstream: Some(later), ..binding(1, 1) };
    assert_eq!(phones.0.table().by_device(device(1)).as_deref(), Some(&binding_1));
    assert_eq!(phones.0.table().by_device(device(2)).as_deref(), Some(&binding(1, 2)));
    let refused = upstream(NOW.after(HOUR * 2), Some("401 Unauthorized"));
    phones.apply(refreshed(1, NOW, refused.clone()));
    phones.0.restart(NOW);
    assert_eq!(phones.0.table().by_device(device(1)).unwrap().upstream, Some(refused));
}

fn a_refresh_says_nothing_of_what_registered_since(kind: Kind) {
    let mut phones = Phones::with(kind, &[1]);
    let again = Binding { registered_at: NOW.after(HOUR), ..binding(1, 1) };
    phones.apply(register(vec![again.clone()]));
    phones.apply(refreshed(1, NOW, upstream(NOW.after(HOUR), Some("401 Unauthorized"))));
    assert_eq!(phones.0.table().by_device(device(1)).as_deref(), Some(&again));
}

fn a_refresh_binds_nothing_that_has_ended(kind: Kind) {
    let mut phones = Phones::with(kind, &[1, 2]);
    phones.apply(unregister(1, 1, None));
    phones.apply(refreshed(1, NOW, upstream(NOW.after(HOUR), None)));
    assert_eq!(phones.bound(), [2]);
}

on_each!(Memory as memory, Embedded as embedded, Redis as redis: [
    register_puts_and_replaces_by_device,
    register_that_replaces_keeps_the_bucket,
    a_device_removed_and_put_by_one_register_stays,
    unregistration_ends_the_binding_and_leaves_the_bucket,
    entries_follow_the_heir,
    entries_do_not_follow_an_heir_who_is_not_there,
    a_call_is_settled_under_the_name_it_was_held_for,
    an_heir_may_claim_what_the_old_name_claimed,
    a_dead_token_ends_the_binding_and_leaves_the_bucket,
    a_dead_token_that_is_all_that_names_its_device_ends_the_bucket_too,
    a_dead_token_does_not_end_what_registered_since,
    a_dead_token_does_not_end_a_binding_with_another,
    a_dead_remote_token_leaves_an_apple_device_its_voip_token,
    an_operator_removes_a_device,
    hold_writes_call_and_entries,
    hold_again_adds_only_what_is_not_there,
    hold_writes_no_entry_without_a_binding,
    a_full_bucket_loses_its_oldest_missed_entry,
    settle_ends_the_call_only_when_it_ended,
    claims_are_exclusive_until_reported_or_released,
    a_restart_keeps_held_calls_and_opens_claims,
    a_sweep_ends_what_time_ends,
    a_sweep_spares_what_registered_again,
    a_refresh_changes_only_what_is_known_upstream,
    a_refresh_says_nothing_of_what_registered_since,
    a_refresh_binds_nothing_that_has_ended,
]);
