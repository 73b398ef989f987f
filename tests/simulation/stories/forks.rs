//! A softswitch that has several contacts of one device, and calls all of them.

use sip_push_proxy::proxy::policy::UpstreamContact;
use sip_push_proxy::push::Outcome;
use sip_push_proxy::sip::Transport;
use sip_push_proxy::store::EntryState;
use sip_push_proxy::timeline::Step;

use crate::agent::Answer;
use crate::sim::{Phone, Request, Sim, ms, s};

fn sim() -> (Sim, Phone) {
    let sim = Sim::with(|policy| policy.upstream_contact = UpstreamContact::Path);
    let alice = sim.phone("alice");
    alice.registers();
    alice.sleeps();
    (sim, alice)
}

/// One fork of the call: to the phone's Path, by whatever Request-URI.
fn fork(sim: &Sim, port: u16, change: impl FnOnce(crate::text::Draft) -> crate::text::Draft) -> Request {
    let switch = sim.switch();
    let (_, path) = switch.contacts("alice")[0].clone();
    switch.asks("INVITE", &format!("sip:alice@198.51.100.1:{port}"), |mut draft| {
        draft.call_id = "forked".into();
        draft.from = "<sip:103@example.org>;tag=f".into();
        draft.cseq = 7;
        change(draft.header(format!("Route: {}", path.unwrap())))
    })
}

fn forks(sim: &Sim) -> [Request; 4] {
    let forks = [1, 2, 3, 4].map(|port| fork(sim, port, |draft| draft));
    sim.run_for(ms(200));
    forks
}

fn cancels(sim: &Sim, forks: &[Request]) {
    forks.iter().for_each(|fork| fork.cancels(""));
    sim.run_for(s(1));
}

#[test]
fn a_device_has_one_push_one_invite_and_one_entry() {
    let (sim, alice) = sim();
    let forks = forks(&sim);
    sim.push().expects(1);
    assert_eq!(alice.bucket(), [("forked".to_owned(), EntryState::Live)]);
    forks[0].expects(&[100, 182]);
    forks[3].expects(&[100]);
    alice.does(Answer::Answers(s(1))).registers();
    sim.run_for(s(3));
    alice.expects_invites(1);
    forks[0].expects(&[100, 182, 180, 200]);
    forks[1..].iter().for_each(|fork| fork.expects(&[100, 482]));
    assert_eq!((alice.acks(), alice.bucket()), (1, vec![]));
}

#[test]
fn a_call_that_nobody_takes_is_missed_once() {
    let (sim, alice) = sim();
    let forks = forks(&sim);
    cancels(&sim, &forks);
    forks[0].expects(&[100, 182, 487]);
    forks[1..].iter().for_each(|fork| fork.expects(&[100, 487]));
    assert_eq!(alice.bucket(), [("forked".to_owned(), EntryState::Missed)]);
    alice.registers();
    sim.run_for(s(1));
    alice.expects_invites(0);
    assert_eq!(sim.push().reported(), ["forked"]);
    sim.push().expects(2);
}

#[test]
fn what_the_phone_says_is_said_to_each() {
    let (sim, alice) = sim();
    let forks = forks(&sim);
    alice.does(Answer::Refuses(486)).registers();
    sim.run_for(s(1));
    forks.iter().for_each(|fork| assert_eq!(fork.status(), Some(486)));
    alice.expects_invites(1);
}

#[test]
fn so_is_what_we_say() {
    let (sim, alice) = sim();
    let forks = forks(&sim);
    sim.run_for(s(30));
    forks.iter().for_each(|fork| assert_eq!(fork.status(), Some(480)));
    sim.push().expects(1);
    alice.expects_invites(0);
    assert_eq!(alice.bucket(), [("forked".to_owned(), EntryState::Missed)]);
}

#[test]
fn one_fork_that_is_cancelled_is_not_the_call() {
    let (sim, alice) = sim();
    let forks = forks(&sim);
    forks[2].cancels("");
    sim.run_for(s(1));
    assert_eq!(forks[2].status(), Some(487));
    alice.does(Answer::Answers(s(1))).registers();
    sim.run_for(s(2));
    assert_eq!(forks[0].status(), Some(200));
    alice.expects_invites(1);
}

#[test]
fn another_fork_is_the_call_when_the_first_alone_is_cancelled() {
    let (sim, alice) = sim();
    let forks = forks(&sim);
    sim.world().ledger.is_lenient = true;
    forks[0].cancels("");
    sim.run_for(s(1));
    assert_eq!(forks[0].status(), Some(487));
    assert_eq!(alice.bucket(), [("forked".to_owned(), EntryState::Live)]);
    alice.does(Answer::Answers(s(1))).registers();
    sim.run_for(s(3));
    alice.expects_invites(1);
    assert_eq!(forks[1].status(), Some(200));
    forks[2..].iter().for_each(|fork| assert_eq!(fork.status(), Some(482)));
}

#[test]
fn a_phone_that_is_awake_has_one_invite() {
    let (sim, alice) = sim();
    alice.change(|agent| agent.device.push.clear());
    alice.registers();
    let forks = forks(&sim);
    alice.expects_invites(1);
    assert!(forks[0].story().contains(&Step::DeviceSkipped));
    cancels(&sim, &forks);
}

#[test]
fn only_what_another_fork_has_is_left_out() {
    let sim = Sim::new();
    let devices = ["one", "two"].map(|name| sim.device("alice", name, Transport::Udp));
    for device in &devices {
        device.registers();
        device.sleeps();
    }
    let alias = sim.switch().contacts("alice")[0].0.clone();
    let fork = |uri: &str| {
        sim.switch().asks("INVITE", uri, |draft| crate::text::Draft {
            call_id: "forked".into(),
            from: "<sip:103@example.org>;tag=f".into(),
            cseq: 7,
            ..draft
        })
    };
    let forks = [fork(&alias), fork("sip:alice@example.org")];
    sim.run_for(ms(200));
    sim.push().expects(2);
    devices[1].does(Answer::Refuses(486)).registers();
    sim.run_for(s(1));
    assert_eq!((forks[0].status(), forks[1].status()), (None, Some(486)));
    devices[0].does(Answer::Answers(ms(100))).registers();
    sim.run_for(s(1));
    assert_eq!(forks[0].status(), Some(200));
}

/// A back-to-back user agent has a Call-ID for each of its legs.
#[test]
fn legs_with_one_call_ref_are_one_call() {
    let sim = Sim::with(|policy| policy.missed.call_ref_header = "X-Call-Ref".into());
    let alice = sim.phone("alice");
    alice.registers();
    alice.sleeps();
    let leg = || sim.switch().sends("INVITE", "alice", |draft| draft.header("X-Call-Ref: 42"));
    let legs = [leg(), leg()];
    sim.run_for(ms(200));
    sim.push().expects(1);
    alice.does(Answer::Refuses(603)).registers();
    sim.run_for(s(1));
    alice.expects_invites(1);
    legs.iter().for_each(|leg| assert_eq!(leg.status(), Some(603)));
}

#[test]
fn messages_of_one_conversation_are_not_forks() {
    let (sim, alice) = sim();
    let message = |cseq| {
        sim.switch().sends("MESSAGE", "alice", |draft| crate::text::Draft {
            call_id: "talk".into(),
            from: "<sip:103@example.org>;tag=f".into(),
            cseq,
            ..draft
        })
    };
    let messages = [message(1), message(2), message(2)];
    sim.run_for(ms(200));
    sim.push().expects(2);
    alice.registers();
    sim.run_for(s(1));
    assert_eq!(alice.got("MESSAGE").len(), 2);
    assert_eq!(messages.map(|message| message.status()), [Some(200), Some(200), Some(482)]);
}

#[test]
fn too_many_forks_are_merged_at_once() {
    let (sim, _alice) = sim();
    let forks: Vec<_> = (1..=20).map(|port| fork(&sim, port, |draft| draft)).collect();
    sim.run_for(ms(200));
    assert_eq!(forks.iter().filter(|fork| fork.status() == Some(482)).count(), 3);
    cancels(&sim, &forks[..17]);
}

#[test]
fn forks_are_answered_after_a_crash() {
    for answer in [486, 200] {
        let (sim, alice) = sim();
        sim.world().ledger.is_lenient = true;
        let forks = forks(&sim);
        sim.world().restart();
        sim.run_for(s(1));
        alice.does(if answer == 200 { Answer::Answers(ms(100)) } else { Answer::Refuses(answer) });
        alice.registers();
        sim.run_for(s(2));
        assert_eq!(forks[0].status(), Some(answer));
        let others = if answer == 200 { 482 } else { answer };
        forks[1..].iter().for_each(|fork| assert_eq!(fork.status(), Some(others)));
        alice.expects_invites(1);
        assert_eq!(sim.world().storage.table().call_count(), 0);
    }
}

#[test]
fn a_fork_is_answered_although_its_call_has_ended_in_the_crash() {
    let (sim, _alice) = sim();
    sim.world().ledger.is_lenient = true;
    let forks = forks(&sim);
    sim.world().dies();
    // The call's own end was durable, and the process died before the others'.
    let first = sim.world().storage.table().calls().into_iter().find(|call| !call.devices.is_empty()).unwrap();
    let change = sip_push_proxy::store::Change::Settle {
        aor: first.aor.clone(),
        id: first.id,
        call_ref: first.call_ref.clone(),
        devices: first.devices.iter().map(|device| (*device, sip_push_proxy::store::Settlement::Missed)).collect(),
        ended: true,
    };
    {
        let world = &mut *sim.world();
        world.storage.apply(sip_push_proxy::store::Ticket(0), change, &mut world.random).result.unwrap();
    }
    sim.world().starts();
    sim.run_for(s(2));
    forks[1..].iter().for_each(|fork| assert_eq!(fork.status(), Some(480)));
    assert_eq!(sim.world().storage.table().call_count(), 0);
}

#[test]
fn forks_of_a_call_with_a_dead_token_end_with_it() {
    let (sim, _alice) = sim();
    sim.push().next("alice", Outcome::TokenDead { since: None, reason: "UNREGISTERED".into() });
    let forks = forks(&sim);
    sim.run_for(s(1));
    forks.iter().for_each(|fork| assert_eq!(fork.status(), Some(480)));
}
