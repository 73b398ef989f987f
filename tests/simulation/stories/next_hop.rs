//! Where the softswitch is: by `softswitch.uri`, and by nothing that stands in a request.

use sip_push_proxy::proxy::policy::Softswitch;
use sip_push_proxy::sip::{Message, Transport, Uri};

use crate::agent::Answer;
use crate::sim::{Sim, ms, s};
use crate::text::Draft;

fn large(draft: Draft) -> Draft {
    draft.body("x".repeat(1400))
}

/// How the requests of a method left for the softswitch.
fn ways(sim: &Sim, method: &str) -> Vec<(Transport, String)> {
    let is_it = |message: &Message| message.is_request() && message.method_text() == method.as_bytes();
    let world = sim.world();
    let left =
        world.left.iter().filter(|(to, message)| is_it(message) && to.remote().to_string().starts_with("192.0.2.2"));
    left.map(|(to, _)| (to.transport(), to.remote().to_string())).collect()
}

fn softswitch(uri: &str) -> Option<Softswitch> {
    Softswitch::of(&Uri::parse(uri.as_bytes()).unwrap())
}

const STRANGE: [&str; 4] = [
    "sip:bob@example.org:5099;transport=tcp",
    "sips:bob@example.org",
    "sip:bob@192.0.2.20:5070;maddr=192.0.2.21;transport=tls",
    "sip:192.0.2.20:5099;transport=tcp",
];

#[test]
fn its_port_and_transport_are_those_of_its_uri_whatever_is_asked_for() {
    for (uri, transport) in
        [("sip:192.0.2.20:5060", Transport::Udp), ("sip:192.0.2.20:5060;transport=tcp", Transport::Tcp)]
    {
        let sim = Sim::with(|policy| policy.softswitch = softswitch(uri));
        let alice = sim.phone("alice");
        for uri in STRANGE {
            alice.asks("MESSAGE", uri, |draft| draft);
            alice.asks("MESSAGE", "sip:b@h", |draft| draft.header(format!("Route: <{uri};lr>")));
        }
        sim.run_for(s(2));
        assert_eq!(ways(&sim, "MESSAGE"), vec![(transport, "192.0.2.20:5060".to_owned()); 8]);
    }
}

#[test]
fn so_are_those_of_a_name() {
    let sim = Sim::with(|policy| policy.softswitch = softswitch("sip:switch.example.org:5060"));
    let alice = sim.phone("alice");
    for uri in STRANGE {
        alice.asks("MESSAGE", uri, |draft| draft);
    }
    sim.run_for(s(2));
    assert_eq!(ways(&sim, "MESSAGE"), vec![(Transport::Udp, "192.0.2.20:5060".to_owned()); 4]);
}

#[test]
fn what_is_large_goes_by_udp_where_the_uri_says_so() {
    let sim = Sim::with(|policy| policy.softswitch = softswitch("sip:192.0.2.20:5060;transport=udp"));
    let alice = sim.phone("alice");
    alice.does(Answer::Answers(ms(100))).wakes_on_push(ms(100));
    alice.registers();
    let message = alice.asks("MESSAGE", "sip:bob@example.org", large);
    let call = sim.switch().invites("alice");
    sim.run_for(s(2));
    message.expects(&[200]);
    assert_eq!(call.status(), Some(200));
    // As a phone's hold and resume are.
    let update = {
        let mut world = sim.world();
        let agent = &mut world.agents[alice.agent];
        let last = *agent.got_of("INVITE").last().unwrap();
        let draft = large(agent.within_got(last, "UPDATE"));
        world.request(alice.agent, draft)
    };
    sim.run_for(s(1));
    assert_eq!(sim.world().agents[alice.agent].sent[update].finals(), [200]);
    assert_eq!(ways(&sim, "MESSAGE"), [(Transport::Udp, "192.0.2.20:5060".to_owned())]);
    assert_eq!(ways(&sim, "UPDATE"), [(Transport::Udp, "192.0.2.20:5060".to_owned())]);
}

#[test]
fn how_large_a_datagram_may_be_is_the_operators_choice() {
    for (most, transport) in
        [(0, Transport::Udp), (1300, Transport::Tcp), (4000, Transport::Udp), (200, Transport::Tcp)]
    {
        let sim = Sim::with(|policy| policy.datagram_bytes_max = most);
        let alice = sim.phone("alice");
        alice.asks("MESSAGE", "sip:bob@example.org", large);
        sim.run_for(s(1));
        assert_eq!(ways(&sim, "MESSAGE"), [(transport, "192.0.2.20:5060".to_owned())], "{most}");
    }
}

#[test]
fn where_no_connection_can_be_opened_it_is_tried_only_now_and_then() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    switch.refuses_connections();
    let by = |sim: &Sim| ways(sim, "MESSAGE").into_iter().map(|(transport, _)| transport).collect::<Vec<_>>();
    let asks = || alice.asks("MESSAGE", "sip:bob@example.org", large);
    let first = asks();
    sim.run_for(s(5));
    assert_eq!(first.status(), Some(200));
    let next = asks();
    sim.run_for(ms(100));
    next.expects(&[200]);
    assert_eq!(by(&sim), [Transport::Tcp, Transport::Udp, Transport::Udp]);
    sim.run_for(s(60));
    let (probe, beside) = (asks(), asks());
    sim.run_for(ms(100));
    beside.expects(&[200]);
    sim.run_for(s(5));
    assert_eq!(probe.status(), Some(200));
    assert_eq!(by(&sim)[3..], [Transport::Tcp, Transport::Udp, Transport::Udp]);
    // From the time that one succeeds all go that way again.
    switch.takes_connections();
    sim.run_for(s(120));
    for _ in 0..2 {
        let message = asks();
        sim.run_for(ms(100));
        message.expects(&[200]);
    }
    assert_eq!(by(&sim)[6..], [Transport::Tcp, Transport::Tcp]);
}

#[test]
fn a_connection_that_the_softswitch_closes_is_tried_again() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    switch.answers(Answer::Silent);
    for _ in 0..2 {
        let call = alice.asks("INVITE", "sip:bob@example.org", large);
        sim.run_for(ms(100));
        let flow = sip_push_proxy::sip::Flow {
            transport: Transport::Tcp,
            listener: 1,
            connection: sip_push_proxy::sip::ConnectionId(0),
            remote: crate::options::socket(crate::options::SWITCH),
        };
        sim.world().input(sip_push_proxy::proxy::Input::Closed { flow });
        sim.run_for(ms(100));
        call.cancels("");
        sim.run_for(s(40));
    }
    let by: Vec<_> = ways(&sim, "INVITE").into_iter().map(|(transport, _)| transport).collect();
    assert_eq!(by.iter().filter(|transport| **transport == Transport::Tcp).count(), 2, "{by:?}");
}
