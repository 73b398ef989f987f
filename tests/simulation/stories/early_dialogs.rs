//! Requests within the early dialog that our own provisional response began.

use sip_push_proxy::sip::{HeaderName, Message};
use sip_push_proxy::store::EntryState;
use sip_push_proxy::timeline::Step;

use crate::agent::Answer;
use crate::sim::{Phone, Request, Sim, ms, s};
use crate::text::{self, Draft};

/// Alice sleeps, and her caller has been told that the call waits.
fn held(sim: &Sim) -> (Phone, Request) {
    let alice = sim.phone("alice");
    alice.does(Answer::Rings).registers();
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(ms(200));
    call.expects(&[100, 182]);
    (alice, call)
}

/// The caller's request within the dialog of one of its responses.
fn within(sim: &Sim, call: &Request, response: &Message, method: &str, change: impl FnOnce(Draft) -> Draft) -> Request {
    let mut world = sim.world();
    let draft = change(world.agents[call.agent].within_answer(call.number, response, method));
    let number = world.request(call.agent, draft);
    Request { world: std::rc::Rc::clone(&call.world), agent: call.agent, number }
}

#[test]
fn our_own_provisional_response_says_where_its_dialog_is() {
    let sim = Sim::new();
    let (_, call) = held(&sim);
    assert_eq!(text::contact_uri(&call.response()), "sip:192.0.2.10:5060");
    call.cancels("");
}

#[test]
fn bye_ends_the_call_as_if_it_was_cancelled() {
    let sim = Sim::new();
    let (alice, call) = held(&sim);
    let bye = within(&sim, &call, &call.response(), "BYE", |draft| draft);
    sim.run_for(ms(100));
    bye.expects(&[200]);
    call.expects(&[100, 182, 487]);
    assert_eq!(text::to_tag(&call.response()), text::to_tag(&call.responses()[1]));
    assert_eq!(alice.bucket(), [(call.call_ref(), EntryState::Missed)]);
    assert!(call.story().contains(&Step::Cancelled));
    alice.registers();
    sim.run_for(s(1));
    alice.expects_invites(0);
    assert!(alice.got("BYE").is_empty());
    assert_eq!(sim.push().reported(), [call.call_ref()]);
}

#[test]
fn bye_to_the_address_of_the_invite_as_well() {
    let sim = Sim::new();
    let (alice, call) = held(&sim);
    let uri = text::text(call.message().uri());
    let bye =
        within(&sim, &call, &call.response(), "BYE", |draft| Draft { uri, ..draft }.header("Reason: SIP;cause=200"));
    sim.run_for(ms(100));
    bye.expects(&[200]);
    call.expects(&[100, 182, 487]);
    assert_eq!(alice.bucket(), [], "taken elsewhere");
}

#[test]
fn bye_while_a_phone_is_called_that_has_said_nothing_yet() {
    let sim = Sim::new();
    let (alice, call) = held(&sim);
    let queued = call.response();
    alice.does(Answer::Trying).registers();
    sim.run_for(ms(100));
    alice.expects_invites(1);
    let bye = within(&sim, &call, &queued, "BYE", |draft| draft);
    sim.run_for(s(1));
    bye.expects(&[200]);
    call.expects(&[100, 182, 487]);
    assert_eq!(alice.got("CANCEL").len(), 1);
}

#[test]
fn bye_leaves_a_phone_that_rings_to_its_own_dialog() {
    let sim = Sim::new();
    let (alice, call) = held(&sim);
    let queued = call.response();
    alice.registers();
    sim.run_for(ms(100));
    call.expects(&[100, 182, 180]);
    let bye = within(&sim, &call, &queued, "BYE", |draft| draft);
    sim.run_for(ms(100));
    bye.expects(&[200]);
    assert!(alice.got("BYE").is_empty() && alice.got("CANCEL").is_empty());
    alice.picks_up();
    sim.run_for(s(1));
    call.expects(&[100, 182, 180, 200]);
}

#[test]
fn bye_to_the_dialog_of_a_phone_goes_to_the_phone() {
    let sim = Sim::new();
    let (alice, call) = held(&sim);
    let queued = call.response();
    alice.registers();
    sim.run_for(ms(100));
    call.expects(&[100, 182, 180]);
    let invite = alice.got("INVITE").pop().expect("an INVITE");
    let to = text::first(&call.response(), HeaderName::To);
    let bye = within(&sim, &call, &queued, "BYE", |draft| {
        let draft = Draft { to, uri: text::text(invite.uri()), ..draft };
        draft.header(format!("Route: {}", text::first(&invite, HeaderName::RecordRoute)))
    });
    sim.run_for(ms(100));
    bye.expects(&[200]);
    assert_eq!(alice.got("BYE").len(), 1);
    call.cancels("");
}

#[test]
fn other_requests_of_the_dialog_are_answered_here() {
    let sim = Sim::new();
    let (alice, call) = held(&sim);
    let queued = call.response();
    for (method, status) in [("PRACK", 481), ("UPDATE", 200), ("INFO", 405), ("INVITE", 500), ("OPTIONS", 200)] {
        let request = within(&sim, &call, &queued, method, |draft| draft);
        sim.run_for(ms(100));
        assert_eq!(request.status(), Some(status), "{method}");
    }
    let offer =
        within(&sim, &call, &queued, "UPDATE", |draft| draft.header("Content-Type: application/sdp").body("v=0"));
    sim.run_for(ms(100));
    offer.expects(&[500]);
    assert_eq!(offer.response().number(HeaderName::RetryAfter).map(|after| after <= 10), Some(true));
    assert_eq!(sim.push().kinds().len(), 1);
    alice.registers();
    sim.run_for(ms(100));
    assert_eq!(alice.got("INVITE").len(), 1);
    for method in ["PRACK", "UPDATE", "INFO"] {
        assert!(alice.got(method).is_empty(), "{method}");
    }
    call.cancels("");
    sim.run_for(s(1));
    let late = within(&sim, &call, &queued, "BYE", |draft| draft);
    sim.run_for(ms(100));
    late.expects(&[481]);
}

#[test]
fn the_dialog_is_known_after_a_restart() {
    let sim = Sim::new();
    let (alice, call) = held(&sim);
    let queued = call.response();
    sim.world().restart();
    sim.run_for(ms(500));
    let bye = within(&sim, &call, &queued, "BYE", |draft| draft);
    sim.run_for(ms(100));
    bye.expects(&[200]);
    assert_eq!(call.status(), Some(487));
    alice.registers();
    sim.run_for(s(1));
    alice.expects_invites(0);
}

#[test]
fn nobody_else_ends_the_call() {
    let sim = Sim::new();
    let (_, call) = held(&sim);
    let (mallory, queued) = (sim.phone("mallory"), call.response());
    mallory.registers();
    let call_id = call.call_ref();
    let forged = mallory.asks("BYE", "sip:192.0.2.10:5060", |draft| Draft {
        from: text::first(&queued, HeaderName::From),
        to: text::first(&queued, HeaderName::To),
        call_id: call_id.clone(),
        ..draft
    });
    let other_tag = sim.switch().asks("BYE", "sip:192.0.2.10:5060", |draft| Draft {
        from: text::first(&queued, HeaderName::From),
        to: "<sip:alice@example.org>;tag=other".into(),
        call_id,
        ..draft
    });
    sim.run_for(s(1));
    assert_ne!(forged.status(), Some(200));
    assert_ne!(other_tag.status(), Some(200));
    call.expects(&[100, 182]);
    call.cancels("");
}
