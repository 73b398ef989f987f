//! Over any limit: 503 with Retry-After.

use sip_push_proxy::proxy::Outcome;
use sip_push_proxy::sip::HeaderName;

use crate::options;
use crate::sim::{Sim, ms, s};

#[test]
fn held_calls() {
    let sim = Sim::with(|policy| policy.held_calls_max = 2);
    let alice = sim.phone("alice");
    alice.registers();
    alice.sleeps();
    let calls: Vec<_> = (0..3).map(|_| sim.switch().invites("alice")).collect();
    sim.run_for(ms(200));
    calls[0].expects(&[100, 182]);
    calls[1].expects(&[100, 182]);
    calls[2].expects(&[100, 503]);
    assert_eq!(calls[2].header(HeaderName::RetryAfter), "5");
    assert_eq!(sim.world().ledger.outcomes, [Outcome::Overload]);
    calls[0].cancels("");
    sim.run_for(s(1));
    let next = sim.switch().invites("alice");
    sim.run_for(ms(200));
    next.expects(&[100, 182]);
}

#[test]
fn transactions() {
    let sim = Sim::of(options::policy(), 4, 1);
    let alice = sim.phone("alice");
    alice.registers();
    sim.run_for(s(100));
    alice.sleeps();
    let calls: Vec<_> = (0..4).map(|_| sim.switch().invites("alice")).collect();
    sim.run_for(ms(200));
    for call in &calls[..3] {
        call.expects(&[100, 182]);
    }
    calls[3].expects(&[503]);
    assert_eq!(calls[3].header(HeaderName::RetryAfter), "5");
    // A call that is held has room to be forwarded no more; it ends, and says so.
    alice.registers_as(None);
    for call in &calls[..3] {
        call.cancels("");
    }
    sim.run_for(s(100));
}

#[test]
fn a_woken_call_that_finds_no_room_is_503() {
    let sim = Sim::of(options::policy(), 5, 1);
    let alice = sim.phone("alice");
    alice.registers();
    sim.run_for(s(100));
    alice.sleeps();
    let calls: Vec<_> = (0..3).map(|_| sim.switch().invites("alice")).collect();
    sim.run_for(ms(200));
    alice.registers();
    sim.run_for(ms(200));
    for call in &calls {
        assert_eq!(call.status(), Some(503), "{:?}", call.statuses());
    }
}

#[test]
fn what_a_binding_keeps_is_bounded() {
    for sim in [Sim::new(), Sim::local(|_| {})] {
        let (alice, bob) = (sim.phone("alice"), sim.phone("bob"));
        for contact in [
            format!("<sip:alice@198.51.100.1;pn-provider=fcm;pn-param=p;pn-prid={}>", "x".repeat(5000)),
            format!("<sip:alice@198.51.100.1>;+sip.instance=\"<{}>\"", "x".repeat(5000)),
            format!("<sip:{}@198.51.100.1>", "x".repeat(5000)),
        ] {
            assert_eq!(alice.registers_as(Some(contact)).status(), Some(400));
        }
        alice
            .change(|agent| agent.device.headers = vec![format!("Path: <sip:edge.example;x={};lr>", "x".repeat(3000))]);
        assert_eq!(alice.tries_to_register().status(), Some(400));
        alice.change(|agent| agent.device.headers = vec![format!("User-Agent: {}", "x".repeat(3000))]);
        assert_eq!(alice.tries_to_register().status(), Some(200), "a name for people is cut");
        bob.registers();
        let kept = &sim.bindings()[0];
        assert_eq!(kept.app.user_agent.as_deref().map(str::len), Some(256));
    }
}
