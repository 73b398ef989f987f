//! The end of a binding by the phone's own word.

use crate::agent::Agent;
use crate::sim::Sim;

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
    assert!(binding.push.is_some() && binding.expires_at <= binding.registered_at.after(crate::sim::s(1)));
    let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(crate::sim::s(1));
    push.expects(1);
    call.cancels("");
}
