//! Large messages, and connections that fail.

use sip_push_proxy::sip::Transport;

use crate::agent::Answer;
use crate::sim::{Sim, ms, s};
use crate::text::Draft;

fn large(draft: Draft) -> Draft {
    draft.body("x".repeat(1400))
}

fn transports(sim: &Sim, method: &str) -> Vec<Transport> {
    let world = sim.world();
    let to_switch = world.left.iter().filter(|(to, message)| {
        to.remote().to_string() == crate::options::SWITCH
            && message.is_request()
            && message.method_text() == method.as_bytes()
    });
    to_switch.map(|(to, _)| to.transport()).collect()
}

#[test]
fn a_large_request_goes_to_the_softswitch_by_tcp() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    let message = alice.asks("MESSAGE", "sip:bob@example.org", large);
    sim.run_for(s(1));
    message.expects(&[200]);
    assert_eq!(transports(&sim, "MESSAGE"), [Transport::Tcp]);
}

#[test]
fn a_large_request_within_a_dialog_too() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.does(Answer::Answers(ms(100))).wakes_on_push(ms(100));
    alice.registers();
    let call = sim.switch().invites("alice");
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
    let update = {
        let mut world = sim.world();
        let agent = &mut world.agents[alice.agent];
        let last = *agent.got_of("INVITE").last().unwrap();
        let draft = large(agent.within_got(last, "UPDATE"));
        world.request(alice.agent, draft)
    };
    sim.run_for(s(1));
    assert_eq!(sim.world().agents[alice.agent].sent[update].finals(), [200]);
    assert_eq!(transports(&sim, "UPDATE"), [Transport::Tcp]);
}

#[test]
fn and_by_udp_where_tcp_is_refused() {
    let sim = Sim::new();
    sim.switch().refuses_connections();
    let alice = sim.phone("alice");
    let message = alice.asks("MESSAGE", "sip:bob@example.org", large);
    sim.run_for(s(5));
    message.expects(&[100, 200]);
    assert_eq!(transports(&sim, "MESSAGE"), [Transport::Tcp, Transport::Udp]);
}

#[test]
fn a_large_invite_goes_to_a_phone_by_its_own_flow() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.does(Answer::Answers(ms(100))).wakes_on_push(ms(100));
    alice.registers();
    let call = sim.switch().sends("INVITE", "alice", large);
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
}
