//! What every store that outlives its process does alike.

use sip_push_proxy::sip::flow::Transport;
use sip_push_proxy::store::{Applied, Change, EntryState, Limits, Settlement, StoreError, Ticket};
use tokio::sync::mpsc;

use crate::rows::*;
use crate::server::wait_for;
use crate::subject::{Kind, Subject, on_each};

fn what_was_stored_is_there_again(kind: Kind) {
    let mut subject = Subject::open(kind);
    subject.apply(register(vec![binding(1, 1), binding(1, 2)])).unwrap();
    subject.apply(register(vec![plain_binding(2, 3)])).unwrap();
    subject.apply(unregister(1, 2, None)).unwrap();
    subject.apply(hold(1, 1, &[1])).unwrap();
    subject.apply(hold(1, 2, &[1])).unwrap();
    subject.apply(settle(1, 1, &[(1, Settlement::Seen)], true)).unwrap();
    let secret = subject.loaded.secret;
    let held = subject.restart(NOW);
    assert_eq!(subject.loaded.secret, secret);
    assert_eq!((subject.table().binding_count(), subject.table().entry_count()), (2, 1));
    assert_eq!(held, [call(1, 2, &[1])]);
    let table = subject.table();
    assert_eq!(table.by_device(device(1)).as_deref(), Some(&binding(1, 1)));
    assert_eq!(table.by_device(device(3)).as_deref(), Some(&plain_binding(2, 3)));
    assert_eq!(table.lookup(&aor(1)).len(), 1);
    assert!(table.device_on(Transport::Udp, flow(5060).remote, NOW).is_some());
    let entries = table.entries(&device(1));
    assert_eq!(entries.len(), 1);
    assert_eq!((&*entries[0].call_ref, entries[0].state), (&*call_ref(2), EntryState::Live));
    assert_eq!(subject.restart(NOW), [call(1, 2, &[1])], "nobody has settled it");
    assert_eq!(subject.table().entry_count(), 1);
}

fn changes_of_one_commit_see_those_before(kind: Kind) {
    let mut subject = Subject::open(kind);
    // Registered, held, missed, claimed, and away: whatever falls into one commit.
    let script = || {
        (0..50).flat_map(|number| {
            let missed = settle(number, number, &[(number, Settlement::Missed)], true);
            [
                register(vec![binding(number, number)]),
                hold(number, number, &[number]),
                missed,
                claim(number, number),
                claim(number, number),
                unregister(number, number, None),
            ]
        })
    };
    let mut claims = Vec::new();
    for change in script() {
        let is_claim = matches!(change, Change::Claim { .. });
        let ticket = subject.submit(change).unwrap();
        claims.extend(is_claim.then_some(ticket));
    }
    for _ in script() {
        let reply = subject.reply();
        let place = claims.iter().position(|ticket| *ticket == reply.ticket);
        match (reply.result.unwrap(), place) {
            (Applied::Claimed(entries), Some(place)) => assert_eq!(entries.len(), (place + 1) % 2),
            (applied, place) => assert_eq!((applied, place), (Applied::Done, None)),
        }
    }
    // What a device has not seen is kept for when it registers again.
    assert_eq!((subject.table().binding_count(), subject.table().entry_count()), (0, 50));
    assert_eq!(subject.restart(NOW), []);
    assert_eq!((subject.table().binding_count(), subject.table().entry_count()), (0, 50));
}

fn a_full_queue_is_busy_and_what_was_taken_is_answered(kind: Kind) {
    let mut subject = Subject::with(kind, Limits { queue: 4, ..LIMITS }, 1);
    let mut taken = 0;
    // Nobody reads the replies, so the writer waits and the queue fills.
    let refused = loop {
        match subject.submit(register(vec![binding(taken, taken)])) {
            Ok(_) => taken += 1,
            Err(refused) => break refused,
        }
        assert!(taken < 100_000, "the queue has no end");
    };
    assert_eq!(refused, StoreError::Busy);
    let mut tickets: Vec<_> = (0..taken)
        .map(|_| {
            let reply = subject.reply();
            assert_eq!(reply.result, Ok(Applied::Done));
            reply.ticket
        })
        .collect();
    tickets.sort_unstable();
    assert_eq!(tickets, (0..u64::from(taken)).map(Ticket).collect::<Vec<_>>());
    assert_eq!(subject.apply(register(vec![binding(7, 7)])), Ok(Applied::Done));
}

fn a_shutdown_finishes_what_was_submitted(kind: Kind) {
    let mut subject = Subject::open(kind);
    for number in 0..100 {
        subject.submit(register(vec![binding(number, number)])).unwrap();
    }
    subject.store.shutdown();
    for _ in 0..100 {
        subject.reply().result.unwrap();
    }
    assert!(matches!(subject.submit(register(vec![binding(1, 1)])), Err(StoreError::Broken(_))));
    subject.restart(NOW);
    assert_eq!(subject.table().binding_count(), 100);
}

fn nobody_waits_for_one_who_left(kind: Kind) {
    let mut subject = Subject::open(kind);
    let (gone, _) = mpsc::channel(1);
    for number in 0..10 {
        subject.store.submit(Ticket(0), register(vec![binding(number, number)]), &gone).unwrap();
    }
    assert_eq!(subject.apply(register(vec![binding(10, 10)])), Ok(Applied::Done));
    wait_for("all eleven", || subject.table().binding_count() == 11);
}

fn a_long_sweep_goes_on_by_itself(kind: Kind) {
    let mut subject = Subject::open(kind);
    let count = 2000;
    for owner in 0..count / 20 {
        let first = owner * 20;
        let plain = (first..first + 20).map(|number| plain_binding(owner, number)).collect();
        subject.apply(register(plain)).unwrap();
    }
    subject.apply(register(vec![binding(1, count)])).unwrap();
    subject.store.sweep(NOW.after(HOUR));
    wait_for("the end of what is over", || subject.table().binding_count() == 1);
    subject.restart(NOW);
    assert_eq!(subject.table().binding_count(), 1);
}

fn long_names_are_stored(kind: Kind) {
    let mut subject = Subject::open(kind);
    subject.apply(register(vec![binding(1, 1)])).unwrap();
    let Change::Hold { mut call, mut entry } = hold(1, 1, &[1]) else { unreachable!() };
    call.call_ref = "x".repeat(100_000).into();
    entry.call_ref = call.call_ref.clone();
    subject.apply(Change::Hold { call, entry: entry.clone() }).unwrap();
    subject.restart(NOW);
    assert_eq!(subject.table().entries(&device(1))[0].call_ref, entry.call_ref);
}

on_each!(Embedded as embedded, Redis as redis: [
    what_was_stored_is_there_again,
    changes_of_one_commit_see_those_before,
    a_full_queue_is_busy_and_what_was_taken_is_answered,
    a_shutdown_finishes_what_was_submitted,
    nobody_waits_for_one_who_left,
    a_long_sweep_goes_on_by_itself,
    long_names_are_stored,
]);
