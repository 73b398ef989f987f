//! OPTIONS: whether we are alive, and whether a phone is.

use crate::sim::{Sim, ms};
use crate::text;

#[test]
fn to_the_proxy_it_is_answered() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    let asked = [
        sim.switch().asks("OPTIONS", "sip:192.0.2.10", |draft| draft),
        sim.switch().asks("OPTIONS", "sip:192.0.2.10:5060", |draft| draft),
        alice.asks("OPTIONS", "sip:192.0.2.10:5060", |draft| draft),
    ];
    sim.run_for(ms(100));
    for request in asked {
        request.expects(&[200]);
        assert!(text::text(request.response().bytes()).contains("\r\nAllow: INVITE, ACK, "));
    }
}

#[test]
fn to_a_phone_that_can_be_pushed_it_is_answered_for_the_phone() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.registers();
    alice.sleeps();
    let request = sim.switch().sends("OPTIONS", "alice", |draft| draft);
    sim.run_for(ms(100));
    request.expects(&[200]);
    sim.push().expects(0);
}

#[test]
fn to_a_plain_phone_it_goes() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.change(|agent| agent.device.push.clear());
    alice.registers();
    let request = sim.switch().sends("OPTIONS", "alice", |draft| draft);
    sim.run_for(ms(100));
    request.expects(&[200]);
    assert_eq!(alice.got("OPTIONS").len(), 1);
}

#[test]
fn with_no_hops_left_it_is_for_the_proxy_itself_or_nobody() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.change(|agent| agent.device.push.clear());
    alice.registers();
    let no_hops = |mut draft: text::Draft| {
        draft.max_forwards = 0;
        draft
    };
    let asked =
        [sim.switch().sends("OPTIONS", "alice", no_hops), alice.asks("OPTIONS", "sip:bob@example.org", no_hops)];
    sim.run_for(ms(100));
    for request in asked {
        request.expects(&[483]);
    }
    let ours = alice.asks("OPTIONS", "sip:192.0.2.10", no_hops);
    sim.run_for(ms(100));
    ours.expects(&[200]);
    assert!(alice.got("OPTIONS").is_empty() && sim.switch().got("OPTIONS").is_empty());
}

#[test]
fn of_a_proxy_that_is_stopping_it_is_503() {
    let sim = Sim::new();
    sim.world().proxy.drain();
    let request = sim.switch().asks("OPTIONS", "sip:192.0.2.10", |draft| draft);
    sim.run_for(ms(100));
    request.expects(&[503]);
    assert!(text::text(request.response().bytes()).contains("\r\nRetry-After: "));
}

/// What the softswitch is, and how old, is what scanners look for.
#[test]
fn a_stranger_does_not_learn_which_program_the_softswitch_is() {
    let sim = Sim::new();
    let (alice, stranger) = (sim.phone("alice"), sim.phone("stranger"));
    alice.registers();
    for (who, learns) in [(&alice, true), (&stranger, false)] {
        let asked = who.asks("OPTIONS", "sip:example.org", |draft| draft);
        sim.run_for(ms(100));
        let answer = text::text(asked.response().bytes());
        assert!(answer.contains("Allow: INVITE"), "{answer}");
        assert_eq!(answer.contains("Switch/1.2.3"), learns, "{answer}");
    }
}
