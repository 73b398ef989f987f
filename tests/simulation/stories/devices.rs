//! Which registrations are of the same device: never two bindings of one phone, never one of two.

use sip_push_proxy::binding::Tokens;
use sip_push_proxy::proxy::Warning;
use sip_push_proxy::sip::Transport;
use sip_push_proxy::store::EntryState;

use crate::agent::Device;
use crate::sim::{Sim, ms, s};

/// What a phone says of itself: token, instance, label.
fn says(device: &mut Device, token: &str, instance: Option<&str>, label: Option<&str>) {
    device.push = match token {
        "" => String::new(),
        token => format!(";pn-provider=fcm;pn-param=p;pn-prid={token}"),
    };
    device.instance = instance.map(Into::into);
    device.label = label.map(Into::into);
}

#[test]
fn instance_else_label_else_token_name_the_device() {
    type Said = (&'static str, Option<&'static str>, Option<&'static str>);
    let cases: [(Said, Said, usize); 8] = [
        // The same by instance, label, token, and nothing but the address.
        (("t1", Some("i"), None), ("t2", Some("i"), None), 1),
        (("t1", None, Some("l")), ("t2", None, Some("l")), 1),
        (("t1", None, None), ("t1", None, None), 1),
        (("t1", Some("i"), None), ("t1", None, None), 1),
        (("t1", None, None), ("t1", Some("i"), None), 1),
        // Others.
        (("t1", Some("i"), None), ("t2", Some("j"), None), 2),
        (("t1", None, Some("l")), ("t2", None, Some("m")), 2),
        (("t1", None, None), ("t2", None, None), 2),
    ];
    for (first, second, bindings) in cases {
        for local in [false, true] {
            let sim = if local { Sim::local(|_| {}) } else { Sim::new() };
            let alice = sim.phone("alice");
            alice.change(|agent| says(&mut agent.device, first.0, first.1, first.2));
            alice.registers();
            alice.moves();
            alice.change(|agent| says(&mut agent.device, second.0, second.1, second.2));
            alice.registers();
            assert_eq!(alice.bindings(), bindings, "{first:?} {second:?}");
        }
    }
}

#[test]
fn two_names_that_turn_out_to_be_one_device_become_one_with_all_missed_calls() {
    let sim = Sim::new();
    let (alice, switch, mut push) = (sim.phone("alice"), sim.switch(), sim.push());
    alice.change(|agent| says(&mut agent.device, "t1", Some("i"), None));
    alice.registers();
    alice.change(|agent| says(&mut agent.device, "t2", None, None));
    alice.registers();
    assert_eq!(alice.bindings(), 2);
    alice.sleeps();
    let call = switch.asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(ms(100));
    push.expects(2);
    call.cancels("");
    sim.run_for(s(1));
    assert_eq!(alice.bucket(), [(call.call_ref(), EntryState::Missed)]);
    alice.change(|agent| says(&mut agent.device, "t2", Some("i"), None));
    alice.registers();
    assert_eq!(alice.bindings(), 1);
    sim.run_for(s(1));
    push.expects(1);
    assert_eq!(push.reported(), [call.call_ref()]);
    assert_eq!(alice.bucket(), []);
}

#[test]
fn over_the_limit_the_newcomer_is_refused_and_nobody_thrown_out() {
    let sim = Sim::with(|policy| policy.registrar.contacts_per_aor_max = 2);
    let phones = ["one", "two", "three"].map(|name| sim.device("alice", name, Transport::Udp));
    phones[0].registers();
    phones[1].registers();
    assert_eq!(phones[2].tries_to_register().status(), Some(403));
    phones[0].moves();
    phones[0].registers();
    assert_eq!(phones[0].bindings(), 2);
}

#[test]
fn a_plain_contact_lives_by_expires_and_a_push_contact_for_ever() {
    let sim = Sim::new();
    let (desk, mobile) = (sim.device("alice", "desk", Transport::Udp), sim.phone("bob"));
    desk.change(|agent| says(&mut agent.device, "", Some("d"), None));
    desk.registers();
    mobile.registers();
    mobile.sleeps();
    sim.run_for(s(100_000));
    let (to_desk, to_mobile) = (sim.switch().invites("alice"), sim.switch().invites("bob"));
    sim.run_for(s(1));
    assert_eq!(to_desk.status(), Some(404));
    to_mobile.expects(&[100, 182]);
    mobile.registers();
    mobile.expects_invites(1);
    to_mobile.cancels("");
}

const VOIP: &str = "aaaa";
const REMOTE: &str = "bbbb";

fn apple(prid: &str) -> String {
    format!(";pn-provider=apns;pn-param=DEF123GHIJ.org.example.phone.voip&remote;pn-prid={prid}")
}

/// What the operator has been told of push parameters.
fn told(sim: &Sim) -> Vec<(String, bool)> {
    let world = sim.world();
    let told = world.warnings.iter().filter_map(|warning| match warning {
        Warning::PushParameters { reason, is_pushed, .. } => Some((reason.to_string(), *is_pushed)),
        Warning::RegisterFromTrusted { .. } | Warning::ContactNotListed { .. } => None,
        Warning::BriefUpstream { .. } | Warning::StrangeSwitch { .. } | Warning::AmbiguousUser { .. } => None,
    });
    told.collect()
}

/// As a library registers while iOS has yet to give the second token.
#[test]
fn one_bad_apple_token_of_two_leaves_the_other_in_use() {
    let (whole, cut) = (format!("{VOIP}:voip&{REMOTE}:remote"), format!("{VOIP}:voip&"));
    for order in [[&whole, &cut, &whole], [&whole, &whole, &cut], [&cut, &whole, &cut]] {
        let sim = Sim::new();
        let alice = sim.phone("alice");
        for prid in order {
            alice.change(|agent| agent.device.push = apple(prid));
            alice.registers();
        }
        let push = sim.bindings()[0].push.clone().unwrap();
        let Tokens::Apple { voip, remote, .. } = push.tokens else { panic!("{order:?}") };
        assert_eq!((voip.unwrap().reveal(), remote.unwrap().reveal()), (VOIP, REMOTE), "{order:?}");
        let flaws = told(&sim);
        assert!(flaws.iter().all(|(reason, is_pushed)| reason.contains("hexadecimal") && *is_pushed), "{flaws:?}");
        assert!((1..=2).contains(&flaws.len()), "each time that it is new: {flaws:?}");
    }
}

#[test]
fn what_is_wrong_with_push_parameters_is_told_once() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    let inside = std::mem::take(&mut sim.world().agents[alice.agent].device.push);
    alice.change(|agent| agent.device.params = ";pn-type=apple;pn-tok=aaaa;app-id=org.example.phone".into());
    alice.registers();
    alice.registers();
    let reasons = told(&sim);
    assert_eq!(reasons.len(), 1);
    assert!(reasons[0].0.contains("behind the URI") && !reasons[0].1, "{reasons:?}");
    assert_eq!(sim.bindings()[0].push_refused.as_deref(), Some(&*reasons[0].0));
    // None of it is the softswitch's business.
    let register = sim.switch().got("REGISTER").pop().unwrap();
    let contact = crate::text::first(&register, sip_push_proxy::sip::HeaderName::Contact);
    assert!(!contact.contains("pn-") && !contact.contains("app-id"), "{contact}");

    alice.change(|agent| {
        agent.device.params.clear();
        agent.device.push = inside;
    });
    alice.registers();
    assert_eq!((told(&sim).len(), sim.bindings()[0].push_refused.as_deref()), (1, None));
}
