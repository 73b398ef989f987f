//! MESSAGE, which is held too, and other requests that are not.

use sip_push_proxy::push::NoticeKind;

use crate::agent::Answer;
use crate::sim::{Sim, ms, s};

#[test]
fn a_message_wakes_the_phone_and_is_delivered() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.registers();
    alice.sleeps();
    alice.wakes_on_push(s(2));
    let message = sim.switch().sends("MESSAGE", "alice", |draft| draft.header("Content-Type: text/plain").body("hi"));
    sim.run_for(ms(500));
    message.expects(&[]);
    assert_eq!(sim.push().kinds(), [NoticeKind::Message]);
    assert_eq!(alice.bucket(), []);
    sim.run_for(s(3));
    message.expects(&[200]);
    assert_eq!(alice.got("MESSAGE")[0].body(), b"hi");
}

#[test]
fn a_message_that_nobody_fetches_is_480_after_25_seconds() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.registers();
    alice.sleeps();
    let message = sim.switch().sends("MESSAGE", "alice", |draft| draft);
    sim.run_for(ms(24_900));
    message.expects(&[100]);
    sim.run_for(ms(200));
    message.expects(&[100, 480]);
    assert_eq!(alice.bucket(), []);
}

#[test]
fn a_message_that_was_forwarded_and_got_no_answer_is_480_as_early() {
    let sim = Sim::with(|policy| policy.hold.fresh = s(60));
    let alice = sim.phone("alice");
    alice.registers();
    alice.sleeps();
    let message = sim.switch().sends("MESSAGE", "alice", |draft| draft);
    sim.run_for(ms(25_100));
    message.expects(&[100, 480]);
}

#[test]
fn a_phone_with_a_voip_token_only_cannot_be_told_of_a_message() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.change(|agent| {
        agent.device.push = ";pn-provider=apns;pn-param=TEAM.org.example.app.voip;pn-prid=00aa".into();
        agent.device.expires = Some(60);
    });
    alice.registers();
    // While its registration lasts it gets the message as any phone does.
    let message = sim.switch().sends("MESSAGE", "alice", |draft| draft);
    sim.run_for(s(1));
    message.expects(&[200]);
    sim.run_for(s(61));
    let message = sim.switch().sends("MESSAGE", "alice", |draft| draft);
    sim.run_for(s(1));
    message.expects(&[480]);
    sim.push().expects(0);
}

#[test]
fn other_requests_go_to_the_phone_as_it_is() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.does(Answer::Rings);
    alice.registers();
    for method in ["SUBSCRIBE", "REFER", "NOTIFY", "INFO", "FANCY"] {
        let request = sim.switch().sends(method, "alice", |draft| draft);
        sim.run_for(ms(100));
        request.expects(&[200]);
    }
    sim.push().expects(0);
}

/// A waiting message's NOTIFY (RFC 3842) waits for its phone, where the operator says so.
#[test]
fn a_notify_is_held_where_it_is_among_the_methods() {
    for is_held in [true, false] {
        let sim = Sim::with(|policy| policy.hold.methods.extend(is_held.then(|| "NOTIFY".into())));
        let alice = sim.phone("alice");
        alice.registers();
        alice.sleeps();
        let notify = sim.switch().sends("NOTIFY", "alice", |draft| {
            draft.header("Event: message-summary").header("Subscription-State: active")
        });
        sim.run_for(ms(200));
        sim.push().expects(usize::from(is_held));
        alice.registers();
        sim.run_for(s(1));
        if is_held {
            assert_eq!((notify.status(), alice.got("NOTIFY").len()), (Some(200), 1));
        }
        sim.run_for(s(40));
    }
}
