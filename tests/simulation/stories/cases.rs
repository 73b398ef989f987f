//! Messages of real phones and switches that went wrong somewhere.

use sip_push_proxy::proxy::CallStep;
use sip_push_proxy::sip::{HeaderName, Transport};
use sip_push_proxy::timeline::{Reason, Step};

use crate::agent::Answer;
use crate::sim::{Sim, ms, s};
use crate::text::{self, Draft};

#[test]
fn a_contact_without_a_host_is_400_and_goes_no_further() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    let register = alice.registers_as(Some("<sip:alice@:;transport=UDP>".into()));
    assert_eq!(register.status(), Some(400));
    assert!(sim.switch().got("REGISTER").is_empty());
}

#[test]
fn a_sips_phone_behind_a_tls_terminator_is_called() {
    let sim = Sim::new();
    let alice = sim.device("alice", "alice", Transport::Tcp);
    let (voip, remote) = ("A".repeat(64), "B".repeat(64));
    alice.change(|agent| {
        agent.aor = "sips:alice@example.org".into();
        agent.device.push = format!(
            ";pn-provider=apns;pn-param=DEF123GHIJ.org.example.phone.remote&voip;pn-prid={remote}:remote&{voip}:voip;\
             pn-call-remote-push-interval=3;pn-tok=AAAA"
        );
    });
    let contact = alice.contact_of(&sim).replace("<sip:", "<sips:").replace("transport=tcp", "transport=tls");
    alice.does(Answer::Answers(ms(100)));
    assert_eq!(alice.registers_as(Some(contact.clone())).status(), Some(200));
    let call = sim.switch().asks("INVITE", "sips:alice@example.org", |draft| draft);
    sim.run_for(ms(100));
    sim.push().expects(1);
    assert_eq!(alice.registers_as(Some(contact)).status(), Some(200));
    sim.run_for(s(1));
    call.expects(&[100, 182, 180, 200]);
    let bye = call.sends("BYE");
    sim.run_for(s(1));
    bye.expects(&[200]);
    assert_eq!((alice.acks(), alice.got("BYE").len()), (1, 1));
}

#[test]
fn a_billing_switch_with_its_own_record_route_is_served_both_ways() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.does(Answer::Answers(ms(100))).wakes_on_push(ms(100));
    alice.registers();
    let call = switch.sends("INVITE", "alice", |mut draft| {
        draft.headers[0] = "Contact: sip:192.0.2.20:5060".into();
        draft
            .header("Record-Route: <sip:192.0.2.20:5060;lr;ep>")
            .header("Via: SIP/2.0/UDP 192.0.2.20:5070;rport=5070;branch=z9hG4bK-inner1")
            .header("Expires: 300")
            .header("P-Asserted-Identity: <sip:103@192.0.2.20>")
    });
    sim.run_for(s(2));
    call.expects(&[100, 182, 180, 200]);
    // It takes itself out of the route set before it sends anything.
    let update = {
        let mut world = sim.world();
        let mut draft = world.agents[call.agent].within_sent(call.number, "UPDATE");
        draft.headers.retain(|line| !line.contains("192.0.2.20"));
        world.request(call.agent, draft)
    };
    sim.run_for(s(1));
    assert_eq!(sim.world().agents[call.agent].sent[update].finals(), [200]);
    assert_eq!(alice.got("UPDATE").len(), 1);
    let hung_up = alice.within_last("BYE");
    sim.run_for(s(1));
    hung_up.expects(&[200]);
    let bye = &switch.got("BYE")[0];
    assert_eq!(text::text(bye.uri()), "sip:192.0.2.20:5060");
    assert_eq!(text::first(bye, HeaderName::Route), "<sip:192.0.2.20:5060;lr;ep>");
}

#[test]
fn a_phone_that_has_learned_its_address_cancels_all_the_same() {
    let sim = Sim::new();
    sim.world().ledger.is_lenient = true;
    let (alice, mallory, switch) = (sim.phone("alice"), sim.phone("mallory"), sim.switch());
    switch.answers(Answer::Rings);
    alice.registers();
    let sends = |agent: usize, method: &str, via: &str, change: &dyn Fn(Draft) -> Draft| {
        let draft = Draft::new(
            method,
            "sip:103@example.org",
            "<sip:alice@example.org>;tag=a",
            "<sip:103@example.org>",
            "nat",
            1,
        );
        let bytes = change(draft).write(Transport::Udp, via.parse().unwrap(), "z9hG4bKnat");
        sim.world().send_raw(agent, bytes);
        sim.run_for(ms(100));
    };
    let invite = |draft: Draft| draft.header("Contact: <sip:alice@192.168.1.7>");
    sends(alice.agent, "INVITE", "192.168.1.7:49152", &invite);
    sends(alice.agent, "INVITE", "198.51.100.1:40001", &invite);
    assert_eq!(switch.got("INVITE").len(), 1, "the same INVITE");
    sends(mallory.agent, "CANCEL", "198.51.100.2:40002", &|draft| draft);
    sends(alice.agent, "CANCEL", "198.51.100.1:5099", &|draft| Draft { call_id: "other".into(), ..draft });
    assert!(switch.got("CANCEL").is_empty());
    sends(alice.agent, "CANCEL", "198.51.100.1:40001", &|draft| draft);
    assert_eq!(switch.got("CANCEL").len(), 1);
}

#[test]
fn an_alias_is_found_however_a_switch_decorates_it() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.does(Answer::Rings).registers();
    let alias = switch.contacts("alice")[0].0.clone();
    let mut push = sim.push();
    for decorated in [
        format!("{alias};x-ast-orig-host=10.0.0.5:5060"),
        format!("{alias};fs_nat=yes;fs_path=sip%3A192.0.2.10"),
        format!("{alias};ob"),
        format!("{alias};alias=192.0.2.10~5060~1"),
        format!("{alias};user=phone;transport=udp"),
        alias.replace('@', ";npdi@"),
    ] {
        let call = switch.asks("INVITE", &decorated, |draft| draft);
        sim.run_for(ms(100));
        push.expects(1);
        call.cancels("");
        sim.run_for(s(1));
    }
}

/// As a library sends them while iOS has yet to give the second token: three REGISTERs with Call-IDs of their own.
#[test]
fn three_registers_of_one_wake_bring_one_invite_and_leave_the_voip_token() {
    let voip = "a".repeat(64);
    let apple = |prid: &str| {
        format!(";pn-provider=apns;pn-param=DEF123GHIJ.org.example.phone.voip&remote;pn-prid={prid};pn-silent=1")
    };
    let (whole, cut) = (format!("{voip}:voip&{}:remote", "b".repeat(64)), format!("{voip}:voip&"));
    for order in [[&cut, &whole, &whole], [&whole, &cut, &whole], [&whole, &whole, &cut]] {
        let sim = Sim::new();
        let (alice, switch, mut push) = (sim.phone("alice"), sim.switch(), sim.push());
        alice.does(Answer::Answers(ms(1500)));
        alice.change(|agent| agent.device.push = apple(&whole));
        alice.registers();
        let call = switch.invites("alice");
        sim.run_for(ms(100));
        for (number, prid) in order.into_iter().enumerate() {
            let mut world = sim.world();
            let agent = &mut world.agents[alice.agent];
            agent.device.push = apple(prid);
            let contact = agent.contact();
            let draft = Draft { call_id: format!("wake-{number}"), cseq: 20, ..agent.register(Some(contact)) };
            world.request(alice.agent, draft);
        }
        sim.run_for(s(3));
        alice.expects_invites(1);
        call.expects(&[100, 182, 180, 200]);
        push.expects(1);
        let next = switch.invites("alice");
        sim.run_for(ms(100));
        push.expects(1);
        let told = &sim.world().pushes.sent.last().map(|push| push.target.clone()).unwrap();
        assert!(told.each().any(|token| token.reveal() == voip), "{order:?}");
        next.cancels("");
    }
}

/// Whose calls still ring there is the operator's to say (`push.aors_per_token_max`), and seen.
#[test]
fn a_phone_that_another_user_has_now_does_not_ring_for_the_first_one() {
    for most in [1, 5] {
        let sim = Sim::with(|policy| policy.aors_per_token_max = most);
        let (alice, bob, mut push) = (sim.phone("alice"), sim.phone("bob"), sim.push());
        alice.change(|agent| agent.device.expires = Some(60));
        alice.registers();
        alice.sleeps();
        let device = sim.world().agents[alice.agent].device.clone();
        bob.change(|agent| (agent.device.push, agent.device.instance) = (device.push, device.instance));
        sim.run_for(s(61));
        bob.registers();
        let call = sim.switch().invites("alice");
        sim.run_for(s(4));
        push.expects(usize::from(most > 1));
        bob.expects_invites(0);
        let skipped = |step: &CallStep| {
            step.step == Step::DeviceSkipped && step.why.as_ref().is_some_and(|why| why.reason == Reason::TooManyAors)
        };
        assert_eq!(sim.world().ledger.steps.iter().any(skipped), most == 1);
        call.cancels("");
        let own = sim.switch().invites("bob");
        sim.run_for(ms(100));
        push.expects(1);
        own.cancels("");
    }
}

#[test]
fn a_desk_phone_rings_at_once_and_a_phone_whose_connection_is_gone_joins() {
    let sim = Sim::new();
    let desk = sim.device("alice", "desk", Transport::Udp);
    let mobile = sim.device("alice", "mobile", Transport::Tcp);
    desk.change(|agent| agent.device.push.clear());
    desk.registers();
    mobile.registers();
    mobile.sleeps();
    let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(ms(100));
    desk.expects_invites(1);
    sim.push().expects(1);
    mobile.is_back();
    mobile.does(Answer::Answers(ms(50))).registers();
    sim.run_for(s(1));
    assert_eq!(call.status(), Some(200));
    let cancel = &desk.got("CANCEL")[0];
    assert!(text::first(cancel, HeaderName::Reason).contains("cause=200"));
    assert_eq!(mobile.bucket(), []);
}

/// The half-open connection of before ends later, and does no harm.
#[test]
fn a_phone_that_was_cut_off_is_reached_by_its_new_connection_only() {
    let sim = Sim::new();
    let (alice, switch) = (sim.device("alice", "alice", Transport::Tcp), sim.switch());
    alice.registers();
    let before = sim.bindings()[0].flow;
    alice.moves();
    alice.registers();
    let notify = switch.sends("NOTIFY", "alice", |draft| draft);
    sim.run_for(ms(100));
    assert_eq!(alice.got("NOTIFY").len(), 1);
    sim.world().input(sip_push_proxy::proxy::Input::Closed { flow: before });
    sim.run_for(s(1));
    notify.expects(&[200]);
    let call = switch.invites("alice");
    sim.run_for(ms(100));
    alice.does(Answer::Refuses(486)).registers();
    sim.run_for(s(1));
    alice.expects_invites(1);
    call.expects(&[100, 182, 486]);
    let to_old = |(to, message): &(sip_push_proxy::sip::Destination, sip_push_proxy::sip::Message)| {
        to.remote() == before.remote && message.is_request()
    };
    assert!(!sim.world().left.iter().any(to_old));
}
