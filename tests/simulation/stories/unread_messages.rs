//! MESSAGEs that are for the app and not for a person: they wake nobody.

use crate::sim::{Sim, ms, s};

const CPIM: &str =
    "From: <sip:bob@example.org>\r\nTo: <sip:alice@example.org>\r\n\r\nContent-Type: message/imdn+xml\r\n\r\n<imdn/>";

#[test]
fn receipts_and_typing_are_not_pushed() {
    for (kind, body) in [
        ("Content-Type: message/imdn+xml", "<imdn/>"),
        ("c: Message/IMDN+xml ; charset=UTF-8", "<imdn/>"),
        ("Content-Type: application/im-iscomposing+xml", "<isComposing/>"),
        ("Content-Type: message/cpim", CPIM),
    ] {
        let sim = Sim::new();
        let alice = sim.phone("alice");
        alice.registers();
        let awake = sim.switch().sends("MESSAGE", "alice", |draft| draft.header(kind).body(body));
        sim.run_for(ms(100));
        awake.expects(&[200]);
        sim.run_for(s(3600));
        alice.sleeps();
        let asleep = sim.switch().sends("MESSAGE", "alice", |draft| draft.header(kind).body(body));
        sim.run_for(s(1));
        asleep.expects(&[480]);
        sim.push().expects(0);
        assert_eq!(alice.bucket(), []);
    }
}

#[test]
fn texts_are() {
    for (kind, body) in [
        ("Content-Type: text/plain", "message/imdn+xml"),
        (
            "Content-Type: message/cpim",
            "From: <sip:b@h>\r\n\r\nContent-Type: text/plain\r\n\r\nContent-Type: message/imdn+xml",
        ),
        ("X: y", ""),
    ] {
        let sim = Sim::new();
        let alice = sim.phone("alice");
        alice.registers();
        alice.sleeps();
        let message = sim.switch().sends("MESSAGE", "alice", |draft| draft.header(kind).body(body));
        sim.run_for(ms(100));
        message.expects(&[]);
        sim.push().expects(1);
        alice.registers();
        message.expects(&[200]);
    }
}
