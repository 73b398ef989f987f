//! A flow has one device: the one that registered by it last.

use std::time::Duration;

use sip_push_proxy::proxy::Policy;
use sip_push_proxy::proxy::policy::PushWhen;
use sip_push_proxy::sip::Transport;
use sip_push_proxy::store::EntryState;

use crate::agent::Answer;
use crate::sim::{Phone, Sim, ms, s};

fn unreachable(policy: &mut Policy) {
    policy.hold.push_when = PushWhen::Unreachable;
}

fn fresh(policy: &mut Policy) {
    policy.hold.fresh = Duration::from_secs(60);
}

/// A NAT gives it the other one's port.
fn gets_address_of(sim: &Sim, phone: &Phone, other: &Phone) {
    let world = &mut *sim.world();
    let (address, connection) = (world.agents[other.agent].address, world.agents[other.agent].connection);
    world.agents[phone.agent].address = address;
    world.agents[phone.agent].connection = connection;
    world.addresses.insert(address, phone.agent);
}

#[test]
fn a_call_does_not_go_to_the_phone_that_a_nat_gave_the_port_to() {
    for change in [unreachable, fresh] {
        let sim = Sim::with(change);
        let (alice, bob, mut push) = (sim.phone("alice"), sim.phone("bob"), sim.push());
        bob.does(Answer::Refuses(404));
        alice.registers();
        alice.sleeps();
        gets_address_of(&sim, &bob, &alice);
        bob.registers();
        let call = sim.switch().invites("alice");
        sim.run_for(s(2));
        push.expects(1);
        bob.expects_invites(0);
        alice.moves();
        alice.does(Answer::Answers(s(1))).registers();
        sim.run_for(s(2));
        call.expects(&[100, 182, 180, 200]);
    }
}

#[test]
fn the_port_stays_taken_when_the_other_phone_has_gone() {
    type Goes = fn(&Sim, &Phone);
    let ways: [Goes; 2] = [
        |_, bob| {
            bob.change(|agent| agent.device.expires = Some(0));
            bob.registers();
        },
        |_, bob| {
            bob.moves();
            bob.registers();
        },
    ];
    for goes in ways {
        let sim = Sim::with(unreachable);
        let (alice, bob, mut push) = (sim.phone("alice"), sim.phone("bob"), sim.push());
        alice.registers();
        alice.sleeps();
        gets_address_of(&sim, &bob, &alice);
        bob.registers();
        goes(&sim, &bob);
        let call = sim.switch().invites("alice");
        sim.run_for(ms(100));
        push.expects(1);
        call.cancels("");
    }
}

#[test]
fn who_registers_again_has_it_again() {
    let sim = Sim::with(unreachable);
    let (alice, bob) = (sim.phone("alice"), sim.phone("bob"));
    alice.registers();
    gets_address_of(&sim, &bob, &alice);
    bob.registers();
    sim.run_for(s(1));
    gets_address_of(&sim, &alice, &bob);
    alice.registers();
    let call = sim.switch().invites("alice");
    sim.run_for(ms(100));
    sim.push().expects(0);
    alice.expects_invites(1);
    call.cancels("");
}

/// Lines of one phone, accounts of one app, and phones that nobody could push.
#[test]
fn bindings_of_one_device_share_a_flow() {
    type Said = (&'static str, &'static str);
    let token = |token: &str| match token {
        "" => String::new(),
        token => format!(";pn-provider=fcm;pn-param=p;pn-prid={token}"),
    };
    // Instance and token of the first, and of the second, which registers later.
    let cases: [(Said, Said); 5] = [
        (("i", "t1"), ("i", "t2")),
        (("i", "t1"), ("j", "t1")),
        (("", "t1"), ("", "t1")),
        (("i", ""), ("j", "")),
        (("i", ""), ("j", "t1")),
    ];
    for (first, second) in cases {
        let sim = Sim::with(unreachable);
        let lines = [("alice", first), ("bob", second)].map(|(user, (instance, prid))| {
            let line = sim.phone(user);
            line.change(|agent| {
                agent.device.instance = Some(instance).filter(|instance| !instance.is_empty()).map(Into::into);
                agent.device.push = token(prid);
            });
            line
        });
        lines[0].registers();
        gets_address_of(&sim, &lines[1], &lines[0]);
        lines[1].registers();
        let calls = ["alice", "bob"].map(|user| sim.switch().invites(user));
        sim.run_for(ms(100));
        sim.push().expects(0);
        lines[1].expects_invites(2);
        calls.iter().for_each(|call| call.cancels(""));
    }
}

#[test]
fn a_path_tells_flows_apart() {
    for paths in [["<sip:a@edge.example;lr>", "<sip:b@edge.example;lr>"], ["<sip:edge.example;lr>"; 2]] {
        let sim = Sim::with(unreachable);
        let phones = ["alice", "bob"].map(|user| sim.phone(user));
        for (phone, path) in phones.iter().zip(paths) {
            phone.change(|agent| agent.device.headers = vec![format!("Path: {path}"), "Supported: path".into()]);
        }
        phones[0].registers();
        // The edge proxy's address; Contacts are the phones' own.
        let contact = phones[1].contact_of(&sim);
        gets_address_of(&sim, &phones[1], &phones[0]);
        assert_eq!(phones[1].registers_as(Some(contact)).status(), Some(200));
        let call = sim.switch().invites("alice");
        sim.run_for(ms(100));
        sim.push().expects(0);
        phones[1].expects_invites(1);
        call.cancels("");
    }
}

/// Whoever has the port by now says nothing of the device that had it.
#[test]
fn what_another_phone_answers_does_not_end_the_call() {
    let sim = Sim::with(unreachable);
    let (alice, bob, mut push) = (sim.phone("alice"), sim.phone("bob"), sim.push());
    bob.does(Answer::Refuses(404));
    alice.registers();
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(ms(100));
    gets_address_of(&sim, &bob, &alice);
    bob.registers();
    sim.run_for(ms(600));
    bob.expects_invites(1);
    push.expects(1);
    assert_eq!(alice.bucket(), [(call.call_ref(), EntryState::Live)]);
    alice.moves();
    alice.does(Answer::Answers(s(1))).registers();
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
}

/// Behind one edge proxy the user in From says whose dialog it is.
#[test]
fn a_dialogs_device_is_chosen_by_its_user() {
    let sim = Sim::new();
    let phones = ["alice", "bob"].map(|user| sim.device(user, user, Transport::Udp));
    for phone in &phones {
        let path = format!("Path: <sip:{}@edge.example;lr>", phone.agent);
        phone.change(|agent| agent.device.headers = vec![path, "Supported: path".into()]);
    }
    let [alice, bob] = &phones;
    alice.registers();
    gets_address_of(&sim, bob, alice);
    bob.registers();
    gets_address_of(&sim, alice, bob);
    sim.switch().answers(Answer::Answers(s(1)));
    let call = alice.calls("carol");
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
    alice.moves();
    alice.registers();
    let bye = sim.switch().within_last("BYE");
    sim.run_for(s(1));
    bye.expects(&[200]);
    assert_eq!((alice.got("BYE").len(), bob.got("BYE").len()), (1, 0));
}
