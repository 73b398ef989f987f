//! Requests within a dialog whose phone is asleep wait for it, and wake it (RFC 8599 §6).

use sip_push_proxy::push::{NoticeKind, Outcome, Trouble};
use sip_push_proxy::sip::{HeaderName, Transport};

use crate::agent::Answer;
use crate::sim::{Phone, Request, Sim, ms, s};
use crate::text;

const BOTH: [Transport; 2] = [Transport::Udp, Transport::Tcp];

/// A phone that has fallen asleep in a call.
fn asleep(sim: &Sim, transport: Transport) -> (Phone, Request) {
    let alice = sim.device("alice", "alice", transport);
    alice.does(Answer::Answers(ms(100))).wakes_on_push(ms(100));
    alice.registers();
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
    alice.change(|agent| agent.wakes_after = None);
    sim.push().expects(1);
    alice.sleeps();
    (alice, call)
}

#[test]
fn what_is_no_bye_wakes_it() {
    for transport in BOTH {
        for method in ["INVITE", "UPDATE", "INFO", "REFER", "NOTIFY", "MESSAGE"] {
            let sim = Sim::new();
            let (alice, call) = asleep(&sim, transport);
            alice.wakes_on_push(s(2)).change(|agent| agent.moves_when_waking = true);
            let request = call.sends(method);
            sim.run_for(s(9));
            assert_eq!(request.status(), Some(200), "{transport:?} {method}");
            assert_eq!(alice.got(method).len(), 1 + usize::from(method == "INVITE"), "{transport:?} {method}");
            assert_eq!(sim.push().kinds(), [NoticeKind::Invite, NoticeKind::Message], "{transport:?} {method}");
            assert_eq!(alice.bucket(), []);
        }
    }
}

#[test]
fn a_bye_waits_for_it_and_wakes_nobody() {
    for transport in BOTH {
        let sim = Sim::new();
        let (alice, call) = asleep(&sim, transport);
        let bye = call.sends("BYE");
        sim.run_for(s(5));
        assert_eq!(bye.status(), None);
        alice.is_back();
        alice.moves();
        alice.registers();
        sim.run_for(s(1));
        assert_eq!(bye.status(), Some(200), "{transport:?}");
        assert_eq!(alice.got("BYE").len(), 1);
        sim.push().expects(1);
    }
}

#[test]
fn who_does_not_come_is_430() {
    for transport in BOTH {
        for (method, until) in [("BYE", 8), ("INFO", 25), ("INVITE", 28)] {
            let sim = Sim::new();
            let (alice, call) = asleep(&sim, transport);
            let request = call.sends(method);
            sim.run_for(s(until - 1));
            assert_eq!(request.status(), None, "{transport:?} {method}");
            sim.run_for(s(2));
            assert_eq!(request.status(), Some(430), "{transport:?} {method}");
            sim.push().expects(1 + usize::from(method != "BYE"));
            alice.is_back();
            alice.registers();
            sim.run_for(s(1));
            assert_eq!(alice.got("BYE").len() + alice.got("INFO").len(), 0, "it comes too late");
            assert_eq!(sim.push().reported(), [""; 0], "nothing of it is a missed call");
        }
    }
}

#[test]
fn what_waits_comes_in_its_order_and_by_one_push() {
    for transport in BOTH {
        let sim = Sim::new();
        let (alice, call) = asleep(&sim, transport);
        let requests = ["INFO", "INVITE", "BYE"].map(|method| {
            let request = call.sends(method);
            sim.run_for(ms(1200));
            request
        });
        sim.push().expects(2);
        let before = sim.world().agents[alice.agent].got.len();
        alice.is_back();
        alice.moves();
        alice.registers();
        sim.run_for(s(5));
        let world = sim.world();
        let got = world.agents[alice.agent].got[before..].iter();
        let methods: Vec<_> = got.map(|got| text::text(got.message.method_text())).collect();
        drop(world);
        assert_eq!(methods, ["INFO", "INVITE", "BYE"], "{transport:?}");
        for request in requests {
            assert_eq!(request.status(), Some(200), "{transport:?}");
        }
    }
}

#[test]
fn a_re_invite_that_waits_can_be_cancelled() {
    for transport in BOTH {
        let sim = Sim::new();
        let (alice, call) = asleep(&sim, transport);
        let refresh = call.sends("INVITE");
        sim.run_for(s(3));
        refresh.cancels("");
        sim.run_for(s(1));
        assert_eq!(refresh.status(), Some(487), "{transport:?}");
        alice.is_back();
        alice.moves();
        alice.registers();
        sim.run_for(s(1));
        assert_eq!(alice.got("INVITE").len(), 1, "{transport:?}");
    }
}

#[test]
fn what_is_repeated_is_sent_once() {
    let sim = Sim::new();
    let (alice, call) = asleep(&sim, Transport::Tcp);
    let info = call.sends("INFO");
    sim.run_for(s(10));
    sim.push().expects(2);
    info.expects(&[100]);
    alice.is_back();
    alice.registers();
    sim.run_for(s(1));
    assert_eq!(alice.got("INFO").len(), 1);
    info.expects(&[100, 200]);
}

#[test]
fn a_bye_in_vain_takes_what_waits_in_its_dialog_with_it() {
    let sim = Sim::new();
    let (alice, call) = asleep(&sim, Transport::Tcp);
    let (refresh, info) = (call.sends("INVITE"), call.sends("INFO"));
    sim.run_for(s(1));
    let bye = call.sends("BYE");
    sim.run_for(s(9));
    assert_eq!(bye.status(), Some(430));
    assert_eq!((refresh.status(), info.status()), (Some(487), Some(481)));
    alice.is_back();
    alice.registers();
    sim.run_for(s(1));
    assert_eq!((alice.got("INVITE").len(), alice.got("INFO").len()), (1, 0));
}

#[test]
fn so_does_a_bye_of_the_phone() {
    let sim = Sim::new();
    let (alice, call) = asleep(&sim, Transport::Udp);
    let (refresh, info) = (call.sends("INVITE"), call.sends("INFO"));
    sim.run_for(s(4));
    alice.is_back();
    let bye = alice.within_last("BYE");
    sim.run_for(s(1));
    assert_eq!(bye.status(), Some(200));
    assert_eq!((refresh.status(), info.status()), (Some(487), Some(481)));
}

#[test]
fn an_iphone_with_a_voip_token_alone_is_waited_for_and_not_pushed() {
    let sim = Sim::new();
    let alice = sim.device("alice", "alice", Transport::Tcp);
    alice.does(Answer::Answers(ms(100)));
    alice.change(|agent| {
        let token = "A".repeat(64);
        agent.device.push = format!(";pn-provider=apns;pn-param=DEF123GHIJ.org.example.phone.voip;pn-prid={token}");
    });
    alice.registers();
    let call = sim.switch().invites("alice");
    sim.run_for(ms(100));
    alice.registers();
    sim.run_for(s(1));
    assert_eq!(call.status(), Some(200));
    alice.closes();
    let info = call.sends("INFO");
    sim.run_for(s(3));
    sim.push().expects(1);
    alice.is_back();
    alice.registers();
    sim.run_for(s(1));
    assert_eq!(info.status(), Some(200));
}

#[test]
fn a_push_that_fails_is_tried_again() {
    let sim = Sim::new();
    let (alice, call) = asleep(&sim, Transport::Tcp);
    alice.wakes_on_push(s(1));
    let trouble = Outcome::TryAgain { trouble: Trouble::Failing, after: None, reason: "x".into() };
    sim.push().next("alice", trouble);
    let info = call.sends("INFO");
    sim.run_for(s(5));
    sim.push().expects(3);
    assert_eq!(info.status(), Some(200));
}

#[test]
fn waiting_requests_have_a_limit() {
    let sim = Sim::with(|policy| policy.held_calls_max = 2);
    let (_alice, call) = asleep(&sim, Transport::Tcp);
    let requests = [0, 1, 2].map(|_| call.sends("INFO"));
    sim.run_for(s(1));
    assert_eq!(requests[2].status(), Some(503));
    assert_eq!(text::first(&requests[2].response(), HeaderName::RetryAfter), "5");
    assert_eq!([requests[0].status(), requests[1].status()], [None, None]);
}

#[test]
fn a_proxy_that_stops_makes_nobody_wait() {
    let sim = Sim::new();
    let (alice, call) = asleep(&sim, Transport::Tcp);
    let info = call.sends("INFO");
    sim.run_for(s(1));
    sim.world().proxy.drain();
    let late = call.sends("INFO");
    sim.run_for(s(1));
    assert_eq!((info.status(), late.status()), (None, Some(430)));
    alice.is_back();
    alice.registers();
    sim.run_for(s(1));
    assert_eq!(info.status(), Some(200));
}

#[test]
fn a_connection_that_ends_with_the_request_in_it_is_waited_for() {
    let sim = Sim::new();
    let alice = sim.device("alice", "alice", Transport::Tcp);
    alice.does(Answer::Answers(ms(100))).wakes_on_push(ms(100));
    alice.registers();
    let call = sim.switch().invites("alice");
    sim.run_for(s(2));
    alice.change(|agent| agent.wakes_after = None);
    alice.does(Answer::Silent);
    let refresh = call.sends("INVITE");
    sim.run_for(ms(500));
    alice.closes();
    sim.run_for(s(1));
    alice.is_back();
    alice.does(Answer::Answers(ms(10)));
    alice.registers();
    sim.run_for(s(1));
    assert_eq!(refresh.status(), Some(200));
}

#[test]
fn over_a_bad_network_most_of_it_comes_and_all_of_it_ends() {
    let mut delivered = 0;
    for seed in 0..40 {
        for transport in BOTH {
            let sim = Sim::of(crate::options::policy(), 10_000, seed);
            let (alice, call) = asleep(&sim, transport);
            alice.wakes_on_push(s(1)).change(|agent| agent.moves_when_waking = true);
            sim.world().network.loss = 200;
            let [info, bye] = ["INFO", "BYE"].map(|method| call.sends(method));
            sim.run_for(s(60));
            for request in [&info, &bye] {
                let is_over = request.status().is_some() || request.sent().failed;
                assert!(is_over, "{seed} {transport:?} {:?}", request.statuses());
            }
            delivered += usize::from(!alice.got("INFO").is_empty());
        }
    }
    assert!(delivered > 60, "{delivered} of 80");
}
