//! Phones that change their network, or lose their connection, in the middle of something.

use sip_push_proxy::sip::{HeaderName, Message, Transport};

use crate::agent::Answer;
use crate::sim::{Phone, Request, Sim, ms, s};
use crate::text;

const BOTH: [Transport; 2] = [Transport::Udp, Transport::Tcp];

/// A phone that rings.
fn ringing(sim: &Sim, transport: Transport) -> (Phone, Request) {
    let alice = sim.device("alice", "alice", transport);
    alice.wakes_on_push(ms(100)).change(|agent| agent.answers_by_any_connection = true);
    alice.registers();
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(s(2));
    assert_eq!(call.statuses(), [100, 182, 180]);
    (alice, call)
}

fn via(message: &Message) -> String {
    text::values(message, HeaderName::Via)[0].clone()
}

#[test]
fn a_cancel_follows_a_phone_that_has_moved() {
    for transport in BOTH {
        let sim = Sim::new();
        let (alice, call) = ringing(&sim, transport);
        alice.moves();
        alice.registers();
        call.cancels("Reason: SIP;cause=200\r\n");
        sim.run_for(s(1));
        assert_eq!(call.status(), Some(487), "{transport:?}");
        let cancels = alice.got("CANCEL");
        assert_eq!(cancels.len(), 1, "{transport:?}");
        assert_eq!(via(&cancels[0]), via(&alice.got("INVITE")[0]), "{transport:?}");
        assert_eq!(cancels[0].first(HeaderName::Reason), Some(&b"SIP;cause=200"[..]));
    }
}

#[test]
fn a_cancel_reaches_a_phone_that_comes_back_after_it() {
    for transport in BOTH {
        for reaches in [false, true] {
            let sim = Sim::new();
            let (alice, call) = ringing(&sim, transport);
            if transport == Transport::Tcp && !reaches {
                alice.closes();
                alice.is_back();
            }
            alice.moves();
            call.cancels("");
            sim.run_for(s(5));
            assert_eq!(alice.got("CANCEL").len(), 0);
            alice.registers();
            sim.run_for(s(1));
            assert_eq!(alice.got("CANCEL").len(), 1, "{transport:?} {reaches}");
            assert_eq!(call.status(), Some(487), "{transport:?} {reaches}");
        }
    }
}

#[test]
fn a_cancel_finds_a_phone_that_changes_its_transport() {
    let sim = Sim::new();
    let (alice, call) = ringing(&sim, Transport::Udp);
    alice.change(|agent| agent.transport = Transport::Tcp);
    alice.moves();
    alice.registers();
    call.cancels("");
    sim.run_for(s(1));
    assert_eq!(alice.got("CANCEL").len(), 1);
    assert_eq!(call.status(), Some(487));
}

#[test]
fn a_cancel_and_the_answer_of_a_phone_that_has_moved_may_cross() {
    for transport in BOTH {
        let sim = Sim::new();
        let (alice, call) = ringing(&sim, transport);
        alice.moves();
        alice.registers();
        alice.picks_up();
        call.cancels("");
        sim.run_for(s(2));
        assert_eq!(call.status(), Some(200), "{transport:?}");
        assert!(alice.acks() >= 1, "{transport:?}");
        let bye = call.sends("BYE");
        sim.run_for(s(1));
        bye.expects(&[200]);
    }
}

#[test]
fn a_phone_that_moves_is_cancelled_when_another_one_answers() {
    for transport in BOTH {
        let sim = Sim::new();
        let (desk, mobile) = (sim.device("alice", "desk", Transport::Udp), sim.device("alice", "mobile", transport));
        for phone in [&desk, &mobile] {
            phone.wakes_on_push(ms(100)).change(|agent| agent.answers_by_any_connection = true);
            phone.registers();
            phone.sleeps();
        }
        let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
        sim.run_for(s(2));
        mobile.moves();
        mobile.registers();
        desk.picks_up();
        sim.run_for(s(1));
        assert_eq!(call.status(), Some(200));
        assert_eq!(mobile.got("CANCEL").len(), 1, "{transport:?}");
    }
}

#[test]
fn a_cancel_that_is_lost_is_repeated_where_the_phone_is() {
    let sim = Sim::new();
    let (alice, call) = ringing(&sim, Transport::Udp);
    alice.moves();
    alice.registers();
    sim.world().network.loss = 1000;
    sim.run_for(ms(0));
    call.cancels("");
    sim.run_for(ms(400));
    sim.world().network.loss = 300;
    sim.run_for(s(25));
    assert_eq!(alice.got("CANCEL").len(), 1);
    assert_eq!(call.status(), Some(487));
}

#[test]
fn the_answer_to_a_phones_own_call_finds_it_where_it_is() {
    for transport in BOTH {
        let sim = Sim::new();
        let (alice, switch) = (sim.device("alice", "alice", transport), sim.switch());
        switch.answers(Answer::Answers(s(3)));
        alice.registers();
        let call = alice.calls("bob");
        sim.run_for(s(1));
        alice.moves();
        alice.registers();
        sim.run_for(s(4));
        assert_eq!(call.status(), Some(200), "{transport:?}");
        assert_eq!(switch.acks(), 1, "{transport:?}");
    }
}

#[test]
fn the_answer_to_any_other_request_of_a_phone_does_too() {
    for transport in BOTH {
        for method in ["MESSAGE", "OPTIONS"] {
            let sim = Sim::new();
            let alice = sim.device("alice", "alice", transport);
            alice.registers();
            let request = alice.asks(method, "sip:bob@example.org", |draft| draft);
            sim.run_for(ms(0));
            sim.world().network.delay = (2000, 2000);
            sim.run_for(ms(1));
            sim.world().network.delay = (1, 1);
            alice.moves();
            alice.registers();
            sim.run_for(s(3));
            assert_eq!(request.status(), Some(200), "{transport:?} {method}");
        }
    }
}

#[test]
fn an_answer_waits_for_a_phone_that_is_not_back_yet() {
    let sim = Sim::new();
    let (alice, switch) = (sim.device("alice", "alice", Transport::Tcp), sim.switch());
    switch.answers(Answer::Refuses(486));
    alice.registers();
    let call = alice.calls("bob");
    sim.run_for(ms(0));
    sim.world().network.delay = (1000, 1000);
    sim.run_for(ms(1));
    sim.world().network.delay = (1, 1);
    alice.moves();
    sim.run_for(s(4));
    assert_eq!(call.status(), None);
    alice.registers();
    sim.run_for(s(1));
    assert_eq!(call.status(), Some(486));
}

#[test]
fn an_answer_is_for_the_device_that_asked_and_nobody_else() {
    let sim = Sim::new();
    let (alice, mallory) = (sim.device("alice", "alice", Transport::Tcp), sim.device("alice", "other", Transport::Tcp));
    sim.switch().answers(Answer::Answers(s(3)));
    alice.registers();
    let call = alice.calls("bob");
    sim.run_for(s(1));
    alice.closes();
    mallory.registers();
    sim.run_for(s(4));
    assert_eq!(call.status(), None);
    let world = sim.world();
    let other = world.agents[mallory.agent].address;
    let is_answer = |message: &Message| message.status().is_some() && message.method_text() == b"INVITE";
    assert!(!world.left.iter().any(|(to, message)| to.remote() == other && is_answer(message)));
}

#[test]
fn a_dialog_follows_its_phone_in_both_directions() {
    for transport in BOTH {
        let sim = Sim::new();
        let switch = sim.switch();
        let (alice, call) = ringing(&sim, transport);
        alice.picks_up();
        sim.run_for(s(1));
        switch.answers(Answer::Answers(ms(10)));
        alice.does(Answer::Answers(ms(10)));
        alice.moves();
        alice.registers();
        for method in ["INVITE", "UPDATE", "INFO", "REFER", "NOTIFY"] {
            let requests = [call.sends(method), alice.within_last(method)];
            sim.run_for(s(3));
            for request in requests {
                assert_eq!(request.status(), Some(200), "{transport:?} {method}");
            }
        }
        assert_eq!((alice.acks(), switch.acks()), (2, 1), "{transport:?}");
        let bye = call.sends("BYE");
        sim.run_for(s(1));
        bye.expects(&[200]);
    }
}

#[test]
fn after_its_expires_a_phone_is_where_it_was_last() {
    for transport in BOTH {
        let sim = Sim::new();
        let switch = sim.switch();
        let (alice, call) = ringing(&sim, transport);
        alice.picks_up();
        sim.run_for(s(1));
        alice.moves();
        alice.change(|agent| agent.device.expires = Some(60));
        alice.registers();
        sim.run_for(s(70));
        let info = call.sends("INFO");
        sim.run_for(s(1));
        assert_eq!(info.status(), Some(200), "{transport:?}");
        let bye = alice.within_last("BYE");
        sim.run_for(s(1));
        bye.expects(&[200]);
        assert_eq!(switch.got("BYE").len(), 1);
        sim.push().expects(1);
    }
}

#[test]
fn another_phone_does_not_get_into_a_dialog() {
    let sim = Sim::new();
    let switch = sim.switch();
    let (alice, call) = ringing(&sim, Transport::Udp);
    alice.picks_up();
    sim.run_for(s(1));
    let mallory = sim.device("alice", "other", Transport::Udp);
    mallory.registers();
    let bye = {
        let mut world = sim.world();
        let last = *world.agents[alice.agent].got_of("INVITE").last().expect("it came");
        let draft = world.agents[alice.agent].within_got(last, "BYE");
        world.request(mallory.agent, draft)
    };
    sim.run_for(s(1));
    // It goes where all requests of phones go, and its Route leads nowhere.
    assert_eq!(sim.world().agents[mallory.agent].sent[bye].finals().len(), 1);
    assert_eq!(switch.got("BYE").len(), 1);
    assert_eq!(call.status(), Some(200));
}
