//! Who may do what: sources, tokens, targets.

use sip_push_proxy::proxy::policy::UpstreamContact;
use sip_push_proxy::proxy::{DropReason, Warning};
use sip_push_proxy::sip::HeaderName;
use sip_push_proxy::timeline::{Reason, Step};

use crate::agent::Answer;
use crate::sim::{Sim, ms, s};
use crate::text;

#[test]
fn a_phones_request_never_reaches_a_phone() {
    let sim = Sim::new();
    let (alice, bob, mut push) = (sim.phone("alice"), sim.phone("bob"), sim.push());
    alice.registers();
    bob.registers();
    let alias = sim.switch().contacts("bob")[0].0.clone();
    let route = |uri: &str| format!("Route: <{uri};lr>");
    let tries = [
        alice.asks("INVITE", "sip:bob@example.org", |draft| draft),
        alice.asks("INVITE", &alias, |draft| draft),
        alice.asks("INVITE", "sip:bob@198.51.100.2:40002", |draft| draft),
        alice.asks("INVITE", "sip:bob@example.org", |draft| draft.header(route("sip:198.51.100.2:40002"))),
        alice.asks("MESSAGE", &alias, |draft| draft),
    ];
    sim.run_for(s(1));
    bob.expects_invites(0);
    assert!(bob.got("MESSAGE").is_empty());
    push.expects(0);
    assert_eq!(sim.switch().got("INVITE").len(), 4, "all of it is for the softswitch to judge");
    for request in tries.iter().take(4) {
        request.cancels("");
    }
}

#[test]
fn a_phones_request_goes_nowhere_but_to_the_softswitch() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    let call = alice.asks("INVITE", "sip:bob@203.0.113.9:5060", |draft| draft.header("Route: <sip:203.0.113.8;lr>"));
    sim.run_for(s(1));
    assert_eq!(sim.switch().got("INVITE").len(), 1);
    call.cancels("");
    sim.run_for(s(1));
    let elsewhere = |(to, _): &&(sip_push_proxy::sip::Destination, _)| to.remote().ip().to_string().starts_with("203");
    assert_eq!(sim.world().left.iter().filter(elsewhere).count(), 0);
}

#[test]
fn in_local_mode_a_phones_call_is_403() {
    let sim = Sim::local(|_| {});
    let (alice, bob) = (sim.phone("alice"), sim.phone("bob"));
    alice.registers();
    bob.registers();
    let call = alice.calls("bob");
    sim.run_for(s(1));
    call.expects(&[100, 403]);
}

#[test]
fn a_trusted_source_that_calls_a_domain_which_is_not_ours_is_403() {
    let sim = Sim::new();
    let call = sim.switch().asks("INVITE", "sip:bob@elsewhere.example", |draft| draft);
    sim.run_for(s(1));
    call.expects(&[100, 403]);
}

#[test]
fn a_forged_flow_token_is_403() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.does(Answer::Answers(ms(100))).wakes_on_push(ms(100));
    alice.registers();
    let call = sim.switch().invites("alice");
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
    let route = text::values(&call.response(), HeaderName::RecordRoute).remove(0);
    let at = route.find('@').unwrap();
    let letter = if &route[at - 20..=at - 20] == "A" { "B" } else { "A" };
    let forged = format!("{}{letter}{}", &route[..at - 20], &route[at - 19..]);
    let bye =
        sim.switch().asks("BYE", "sip:alice@198.51.100.1:40001", |draft| draft.header(format!("Route: {forged}")));
    sim.run_for(s(1));
    bye.expects(&[403]);
}

#[test]
fn an_ack_of_no_dialog_is_dropped() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.registers();
    let alias = sim.switch().contacts("alice")[0].0.clone();
    let ack = |uri: &str| text::Draft::new("ACK", uri, "<sip:x@y>;tag=a", "<sip:z@y>;tag=b", "none", 1);
    for uri in [alias.as_str(), "sip:alice@example.org", "sip:192.0.2.10", "sip:alice@198.51.100.1:40001"] {
        let bytes = {
            let world = sim.world();
            ack(uri).write(sip_push_proxy::sip::Transport::Udp, world.agents[0].address, &format!("z9hG4bK{uri}"))
        };
        sim.world().send_raw(0, bytes);
    }
    sim.run_for(s(1));
    assert_eq!(alice.acks(), 0);
    assert_eq!(sim.world().ledger.dropped, [DropReason::Ack; 4]);
}

#[test]
fn a_phone_at_the_softswitchs_own_address_is_a_phone() {
    let sim = Sim::with(|policy| {
        policy.trusted = vec!["192.0.2.20/32".parse().unwrap(), "198.51.100.0/24".parse().unwrap()];
        policy.phones_behind_trusted = true;
    });
    let (alice, bob, mut push) = (sim.phone("alice"), sim.phone("bob"), sim.push());
    alice.registers();
    bob.registers();
    let call = alice.calls("bob");
    sim.run_for(s(1));
    push.expects(0);
    assert_eq!(sim.switch().got("INVITE").len(), 1);
    call.cancels("");
}

/// What the operator is told of calls from an address that they may have forgotten.
fn strange(sim: &Sim) -> (Vec<bool>, usize) {
    let world = sim.world();
    let is_loop = |warning: &Warning| {
        if let Warning::StrangeSwitch { is_loop, .. } = warning { Some(*is_loop) } else { None }
    };
    let loops = world.warnings.iter().filter_map(is_loop);
    let counted = world.ledger.dropped.iter().filter(|reason| **reason == DropReason::StrangeSwitch).count();
    (loops.collect(), counted)
}

#[test]
fn a_call_to_an_alias_from_an_address_that_is_not_trusted_is_told_of() {
    let sim = Sim::new();
    let (alice, other) = (sim.phone("alice"), sim.phone("other"));
    alice.registers();
    let alias = sim.switch().contacts("alice")[0].0.clone();
    let call = other.asks("INVITE", &alias, |draft| draft);
    sim.run_for(ms(100));
    assert_eq!(strange(&sim), (vec![false], 1));
    let steps = call.story();
    assert_eq!(steps, [Step::Received, Step::Rejected]);
    let why = sim.world().ledger.steps.last().and_then(|step| step.why.clone()).unwrap();
    assert_eq!((why.reason, why.text().contains("198.51.100.2")), (Reason::SwitchNotTrusted, true));
    // The next one is counted, but has no story of its own.
    let again = other.asks("INVITE", &alias, |draft| draft);
    sim.run_for(ms(100));
    assert_eq!((strange(&sim).1, again.story().len()), (2, 0));
    call.cancels("");
    again.cancels("");
}

#[test]
fn so_is_one_by_a_path_and_one_to_a_user_in_local_mode() {
    let sim = Sim::with(|policy| policy.upstream_contact = UpstreamContact::Path);
    let (alice, other) = (sim.phone("alice"), sim.phone("other"));
    alice.registers();
    let (uri, path) = sim.switch().contacts("alice")[0].clone();
    let call = other.asks("INVITE", &uri, |draft| draft.header(format!("Route: {}", path.unwrap())));
    sim.run_for(ms(100));
    assert_eq!(strange(&sim), (vec![false], 1));
    call.cancels("");

    let sim = Sim::local(|_| {});
    let (alice, other) = (sim.phone("alice"), sim.phone("other"));
    alice.registers();
    let call = other.calls("alice");
    sim.run_for(ms(100));
    call.expects(&[100, 403]);
    assert_eq!((strange(&sim), call.story().len()), ((vec![false], 1), 2));
}

#[test]
fn a_call_that_comes_back_from_an_address_that_is_not_trusted_is_told_of() {
    let sim = Sim::new();
    let (other, switch) = (sim.phone("other"), sim.switch());
    let call = other.calls("bob");
    sim.run_for(s(1));
    let forwarded = text::text(switch.got("INVITE")[0].bytes());
    let via = "Via: SIP/2.0/UDP 198.51.100.1:40001;rport;branch=z9hG4bKagain\r\nVia: ";
    sim.world().send_raw(other.agent, forwarded.replacen("Via: ", via, 1).into());
    sim.run_for(s(1));
    assert_eq!((strange(&sim), call.story()), ((vec![true], 1), vec![]), "nobody here is called bob");
    call.cancels("");
}

#[test]
fn what_phones_do_is_nothing_strange() {
    let sim = Sim::new();
    let (alice, bob, stranger) = (sim.phone("alice"), sim.phone("bob"), sim.phone("stranger"));
    alice.registers();
    bob.registers();
    let alias = sim.switch().contacts("bob")[0].0.clone();
    let calls = [
        alice.calls("bob"),
        alice.asks("INVITE", &alias, |draft| draft),
        stranger.calls("bob"),
        stranger.asks("INVITE", "sip:aaaaaaaaaaaaaaaa@192.0.2.10", |draft| draft),
    ];
    sim.run_for(ms(100));
    assert_eq!(strange(&sim), (vec![], 0));
    calls.iter().for_each(|call| call.cancels(""));
}
