//! The end of a binding by the phone's own word.

use sip_push_proxy::store::EntryState;

use crate::agent::{Agent, Answer};
use crate::sim::{Phone, Sim, ms, s};

fn unregister(agent: &mut Agent) {
    agent.device.expires = Some(0);
}

#[test]
fn in_all_forms() {
    type Form = fn(&mut Agent);
    let forms: [(&str, Form); 4] = [
        ("the same as registered", unregister),
        ("without pn-prid, by its instance (RFC 8599 §4.1.2)", |agent| {
            unregister(agent);
            agent.device.push = ";pn-provider=fcm".into();
        }),
        ("without anything of push, by its instance", |agent| {
            unregister(agent);
            agent.device.push.clear();
        }),
        ("by its token alone, from another address", |agent| {
            unregister(agent);
            agent.device.instance = None;
            agent.device.user = "other".into();
        }),
    ];
    for (form, change) in forms {
        for local in [false, true] {
            let sim = if local { Sim::local(|_| {}) } else { Sim::new() };
            let alice = sim.phone("alice");
            alice.registers();
            alice.change(change);
            alice.registers();
            assert_eq!(sim.bindings().len(), 0, "{form}");
        }
    }
}

#[test]
fn by_an_expires_parameter() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.registers();
    alice.change(|agent| agent.device.params = ";expires=0".into());
    alice.registers();
    assert_eq!(alice.bindings(), 0);
}

#[test]
fn by_the_label() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.change(|agent| {
        agent.device.instance = None;
        agent.device.label = Some("mobile".into());
    });
    alice.registers();
    alice.change(|agent| {
        unregister(agent);
        agent.device.push.clear();
    });
    alice.registers();
    assert_eq!(alice.bindings(), 0);
}

#[test]
fn by_a_star() {
    for local in [false, true] {
        let sim = if local { Sim::local(|_| {}) } else { Sim::new() };
        let alice = sim.phone("alice");
        alice.registers();
        alice.change(unregister);
        assert_eq!(alice.registers_as(Some("*".into())).status(), Some(200));
        assert_eq!(alice.bindings(), 0);
    }
}

#[test]
fn a_star_with_expires_or_company_is_400() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.registers();
    assert_eq!(alice.registers_as(Some("*".into())).status(), Some(400));
    alice.change(unregister);
    assert_eq!(alice.registers_as(Some("*, <sip:alice@198.51.100.1>".into())).status(), Some(400));
    assert_eq!(alice.bindings(), 1);
}

#[test]
fn an_address_alone_ends_reachability_and_not_the_push() {
    let sim = Sim::new();
    let (alice, mut push) = (sim.phone("alice"), sim.push());
    alice.registers();
    alice.change(|agent| {
        unregister(agent);
        agent.device.instance = None;
        agent.device.push.clear();
    });
    // Its Contact is not the registered one by RFC 3261 §19.1.4 if pn-* had to agree; they need not.
    alice.registers();
    assert_eq!(alice.bindings(), 1);
    let binding = &sim.bindings()[0];
    assert!(binding.push.is_some() && binding.expires_at <= binding.registered_at.after(s(1)));
    let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(s(1));
    push.expects(1);
    call.cancels("");
}

/// All ways in which an app takes its registration out.
fn takes_itself_out(phone: &Phone, form: usize) {
    let expires = phone.expires();
    phone.change(unregister);
    match form {
        0 => assert_eq!(phone.registers_as(Some("*".into())).status(), Some(200)),
        1 => assert_eq!(phone.registers().status(), Some(200)),
        _ => {
            phone.change(|agent| agent.device.push.clear());
            phone.registers();
            let token = format!(";pn-provider=fcm;pn-param=project;pn-prid=token-{}", phone.name());
            phone.change(|agent| agent.device.push = token);
        }
    }
    assert_eq!(phone.bindings(), 0);
    phone.change(|agent| agent.device.expires = expires);
}

/// Apps that clean up before they register.
#[test]
fn a_call_goes_on_waiting_for_a_phone_that_unregisters_and_then_registers() {
    for form in 0..3 {
        for local in [false, true] {
            let sim = if local { Sim::local(|_| {}) } else { Sim::new() };
            let (alice, mut push) = (sim.phone("alice"), sim.push());
            alice.registers();
            let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
            sim.run_for(ms(100));
            push.expects(1);
            takes_itself_out(&alice, form);
            sim.run_for(s(1));
            alice.expects_invites(0);
            alice.does(Answer::Answers(s(1))).registers();
            sim.run_for(s(2));
            assert_eq!(call.status(), Some(200), "{form}");
            push.expects(0);
        }
    }
}

#[test]
fn its_missed_calls_are_told_when_it_is_back() {
    for form in 0..3 {
        let sim = Sim::new();
        let alice = sim.phone("alice");
        alice.registers();
        let [before, held] = [0, 1].map(|number| {
            let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
            sim.run_for(ms(100));
            if number == 0 {
                call.cancels("");
                sim.run_for(s(1));
            }
            call
        });
        alice.change(|agent| agent.is_awake = true);
        takes_itself_out(&alice, form);
        held.cancels("");
        sim.run_for(s(1));
        alice.registers();
        sim.run_for(s(1));
        assert_eq!(sim.push().reported(), [before.call_ref(), held.call_ref()], "{form}");
        assert_eq!(alice.bucket(), []);
    }
}

#[test]
fn after_a_logout_nobody_is_pushed_and_the_call_ends_with_its_wait() {
    for form in 0..3 {
        let sim = Sim::with(|policy| {
            policy.push_repeat = [s(3), s(8)].into();
            policy.push_call_ended = true;
        });
        let (alice, mut push) = (sim.phone("alice"), sim.push());
        alice.registers();
        let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
        sim.run_for(ms(100));
        push.expects(1);
        takes_itself_out(&alice, form);
        sim.run_for(s(20));
        assert_eq!(call.status(), None, "{form}");
        sim.run_for(s(20));
        assert_eq!(call.status(), Some(480), "{form}");
        push.expects(0);
    }
}

#[test]
fn a_push_that_failed_is_not_tried_again_for_a_phone_that_has_logged_out() {
    use sip_push_proxy::push::{Outcome, Trouble};
    let sim = Sim::new();
    let (alice, mut push) = (sim.phone("alice"), sim.push());
    alice.registers();
    push.next("alice", Outcome::TryAgain { trouble: Trouble::Failing, after: None, reason: "500".into() });
    let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(ms(100));
    push.expects(1);
    takes_itself_out(&alice, 0);
    sim.run_for(s(40));
    push.expects(0);
    assert_eq!(call.status(), Some(480));
}

#[test]
fn a_crash_between_the_two_loses_nothing() {
    let sim = Sim::new();
    sim.world().ledger.is_lenient = true;
    let alice = sim.phone("alice");
    alice.registers();
    let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(ms(100));
    takes_itself_out(&alice, 0);
    sim.world().restart();
    sim.run_for(s(1));
    assert_eq!(call.status(), None);
    alice.does(Answer::Answers(s(1))).registers();
    sim.run_for(s(3));
    assert_eq!(call.status(), Some(200));
    assert_eq!(alice.bucket(), []);
}

/// An operator's command is another thing: what was kept for the device goes, too.
#[test]
fn an_operator_removes_the_bucket_as_well() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.registers();
    let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(ms(100));
    call.cancels("");
    sim.run_for(s(1));
    assert_eq!(alice.bucket(), [(call.call_ref(), EntryState::Missed)]);
    let (aor, device) = (sim.bindings()[0].aor.clone(), sim.bindings()[0].device);
    {
        let world = &mut *sim.world();
        let change = sip_push_proxy::store::Change::Remove { aor, device };
        world.storage.apply(sip_push_proxy::store::Ticket(0), change, &mut world.random).result.expect("removed");
    }
    alice.registers();
    assert_eq!(sim.push().reported(), [""; 0]);
}
