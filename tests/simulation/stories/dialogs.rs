//! Requests within a dialog: found by the token in our Record-Route, in both directions, with no state of ours.

use sip_push_proxy::sip::{HeaderName, Transport};

use crate::agent::Answer;
use crate::sim::{Phone, Request, Sim, ms, s};
use crate::text;

fn answered(sim: &Sim, transport: Transport) -> (Phone, Request) {
    let alice = sim.device("alice", "alice", transport);
    alice.does(Answer::Answers(ms(100))).wakes_on_push(ms(100));
    alice.registers();
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
    (alice, call)
}

#[test]
fn both_sides_refresh_and_hang_up() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let sim = Sim::new();
        let switch = sim.switch();
        let (alice, call) = answered(&sim, transport);
        switch.answers(Answer::Answers(ms(10)));
        let refreshes = [call.sends("INVITE"), alice.within_last("INVITE")];
        sim.run_for(s(3));
        for refresh in refreshes {
            assert_eq!(refresh.status(), Some(200));
        }
        assert_eq!((alice.acks(), switch.acks()), (2, 1));
        sim.push().expects(1);
        let bye = alice.within_last("BYE");
        sim.run_for(s(1));
        bye.expects(&[200]);
    }
}

#[test]
fn a_phone_that_moved_is_found_where_it_is() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let sim = Sim::new();
        let (alice, call) = answered(&sim, transport);
        alice.moves();
        alice.registers();
        let info = call.sends("INFO");
        sim.run_for(s(1));
        info.expects(&[200]);
        let own = alice.within_last("INFO");
        sim.run_for(s(1));
        own.expects(&[200]);
        assert_eq!(sim.switch().got("INFO").len(), 1);
    }
}

#[test]
fn a_device_that_nobody_knows_any_more_is_430() {
    let sim = Sim::new();
    let (alice, call) = answered(&sim, Transport::Tcp);
    let contact = format!("{};expires=0", alice.contact_of(&sim));
    assert_eq!(alice.registers_as(Some(contact)).status(), Some(200));
    alice.sleeps();
    let bye = call.sends("BYE");
    sim.run_for(s(1));
    bye.expects(&[430]);
}

#[test]
fn a_phone_calls_out_and_is_called_back_within_the_dialog() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let sim = Sim::new();
        let (alice, switch) = (sim.device("alice", "alice", transport), sim.switch());
        alice.registers();
        switch.answers(Answer::Answers(ms(100)));
        let call = alice.calls("bob");
        sim.run_for(s(1));
        call.expects(&[100, 180, 200]);
        assert_eq!(switch.acks(), 1);
        let info = switch.within_last("INFO");
        let bye = call.sends("BYE");
        sim.run_for(s(1));
        info.expects(&[200]);
        bye.expects(&[200]);
    }
}

#[test]
fn two_record_routes_where_the_sides_differ_and_one_where_not() {
    for (transport, count) in [(Transport::Udp, 1), (Transport::Tcp, 2)] {
        let sim = Sim::new();
        let (alice, _) = answered(&sim, transport);
        let routes = text::values(&alice.got("INVITE")[0], HeaderName::RecordRoute);
        assert_eq!(routes.len(), count, "{routes:?}");
        assert_eq!(routes[0].contains("transport=tcp"), transport == Transport::Tcp);
    }
}

#[test]
fn a_callers_other_route_values_are_kept() {
    let sim = Sim::new();
    let (alice, call) = answered(&sim, Transport::Udp);
    let _ = alice;
    let info = call.sends("INFO");
    sim.run_for(s(1));
    info.expects(&[200]);
    assert_eq!(text::values(&alice.got("INFO")[0], HeaderName::Route), [""; 0]);
}
