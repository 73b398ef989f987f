//! Phones that change their address: several Contacts of one device, and calls that ring meanwhile.

use sip_push_proxy::proxy::policy::{Mode, UpstreamContact};
use sip_push_proxy::sip::{HeaderName, Transport};
use sip_push_proxy::transaction::Transactions;

use crate::agent::Answer;
use crate::options::settings;
use crate::sim::{Phone, Request, Sim, ms, s};
use crate::text;

type Kind = (&'static str, fn() -> Sim);

const KINDS: [Kind; 3] = [
    ("alias", Sim::new),
    ("path", || Sim::with(|policy| policy.upstream_contact = UpstreamContact::Path)),
    ("local", || Sim::local(|_| {})),
];

/// The app starts again: it has forgotten its calls, and has another port.
fn starts_anew(sim: &Sim, phone: &Phone) {
    phone.moves();
    let seed = sim.world().seed;
    phone.change(|agent| agent.transactions = Transactions::new(settings(), !seed));
}

/// How often the INVITE, or its CANCEL, went to where the phone is or was.
fn sent_to(sim: &Sim, phone: &Phone, method: &str) -> usize {
    let world = sim.world();
    let is_to = |remote| world.addresses.get(&remote) == Some(&phone.agent);
    let of_method = |message: &sip_push_proxy::sip::Message| message.method_text() == method.as_bytes();
    let left =
        world.left.iter().filter(|(to, message)| is_to(to.remote()) && message.is_request() && of_method(message));
    left.count()
}

fn has_only(kind: &str, sim: &Sim, phone: &Phone, register: &Request) {
    assert_eq!(register.status(), Some(200), "{kind}");
    let (address, is_local) = (sim.world().agents[phone.agent].address.to_string(), kind == "local");
    let contacts = text::values(&register.response(), HeaderName::Contact);
    assert!(contacts.len() == 1 && contacts[0].contains(&address), "{kind}: {contacts:?}");
    assert!(contacts[0].ends_with(";expires=3600"), "{kind}: {contacts:?}");
    let bindings = sim.bindings();
    assert_eq!(bindings.len(), 1, "{kind}");
    assert!(text::text(&bindings[0].contact).contains(&address), "{kind}");
    assert_eq!(sim.switch().contacts("alice").len(), usize::from(!is_local), "{kind}");
}

fn is_called(sim: &Sim, phone: &Phone, by_alias: bool) {
    let (switch, before) = (sim.switch(), phone.got("INVITE").len());
    let call =
        if by_alias { switch.invites("alice") } else { switch.asks("INVITE", "sip:alice@example.org", |draft| draft) };
    sim.run_for(ms(100));
    phone.registers();
    assert_eq!(phone.got("INVITE").len(), before + 1);
    call.cancels("");
    sim.run_for(s(1));
    call.expects(&[100, 182, 180, 487]);
}

/// As belle-sip and pjsip register after a network change.
#[test]
fn the_new_contact_and_the_old_one_in_one_register_are_one_device() {
    for (kind, sim) in KINDS {
        for order in ["new, old", "old, new", "old\r\nContact: new", "new\r\nm: old, old"] {
            let (sim, is_local) = (sim(), kind == "local");
            let alice = sim.phone("alice");
            alice.registers();
            let old = format!("{};expires=0", alice.contact_of(&sim));
            alice.moves();
            let contacts = order.replace("new", "NEW").replace("old", &old).replace("NEW", &alice.contact_of(&sim));
            has_only(kind, &sim, &alice, &alice.registers_as(Some(contacts)));
            is_called(&sim, &alice, !is_local);
        }
    }
}

#[test]
fn the_same_by_label_by_token_and_with_another_token() {
    for (kind, sim) in KINDS {
        for (instance, label, token) in [(None, Some("l"), "t1"), (None, None, "t1"), (Some("i"), None, "t2")] {
            let sim = sim();
            let alice = sim.phone("alice");
            alice.change(|agent| {
                agent.device.instance = instance.map(Into::into);
                agent.device.label = label.map(Into::into);
                agent.device.push = ";pn-provider=fcm;pn-param=p;pn-prid=t1".into();
            });
            alice.registers();
            let old = format!("{};expires=0", alice.contact_of(&sim));
            alice.moves();
            alice.change(|agent| agent.device.push = format!(";pn-provider=fcm;pn-param=p;pn-prid={token}"));
            let new = alice.contact_of(&sim);
            has_only(kind, &sim, &alice, &alice.registers_as(Some(format!("{new}, {old}"))));
        }
    }
}

/// The address is the same, so the registrar must not be told to forget it.
#[test]
fn a_new_token_at_the_old_address_is_one_contact() {
    for (kind, sim) in KINDS {
        let sim = sim();
        let alice = sim.phone("alice");
        alice.registers();
        let old = format!("{};expires=0", alice.contact_of(&sim));
        alice.change(|agent| agent.device.push = ";pn-provider=fcm;pn-param=project;pn-prid=token-other".into());
        let new = alice.contact_of(&sim);
        has_only(kind, &sim, &alice, &alice.registers_as(Some(format!("{new}, {old}"))));
    }
}

#[test]
fn the_one_that_lives_longest_is_the_devices() {
    for (kind, sim) in KINDS {
        let sim = sim();
        let alice = sim.phone("alice");
        let short = format!("{};expires=600", alice.contact_of(&sim));
        alice.moves();
        let long = alice.contact_of(&sim);
        let register = alice.registers_as(Some(format!("{short}, {long}")));
        has_only(kind, &sim, &alice, &register);
        let gone = format!("{short}, {long};expires=0").replace("expires=600", "expires=0");
        assert_eq!(alice.registers_as(Some(gone)).status(), Some(200));
        assert_eq!((sim.bindings().len(), sim.switch().contacts("alice").len()), (0, 0), "{kind}");
    }
}

#[test]
fn many_contacts_of_one_device_count_once() {
    for (kind, sim) in KINDS {
        let sim = sim();
        let mode = sim.world().policy.upstream_contact;
        sim.world().policy_with(|policy| {
            policy.upstream_contact = mode;
            policy.registrar.contacts_per_aor_max = 1;
        });
        let alice = sim.phone("alice");
        let first = alice.contact_of(&sim);
        alice.moves();
        let second = alice.contact_of(&sim);
        has_only(kind, &sim, &alice, &alice.registers_as(Some(format!("{second}, {first};expires=60"))));
    }
}

#[test]
fn other_devices_in_the_same_register_stay_others() {
    for (kind, sim) in KINDS {
        let sim = sim();
        let (alice, desk) = (sim.phone("alice"), sim.device("alice", "desk", Transport::Udp));
        alice.registers();
        let old = format!("{};expires=0", alice.contact_of(&sim));
        alice.moves();
        let (new, other) = (alice.contact_of(&sim), desk.contact_of(&sim));
        let register = alice.registers_as(Some(format!("{old}, {other}, {new}")));
        assert_eq!(text::values(&register.response(), HeaderName::Contact).len(), 2, "{kind}");
        assert_eq!(sim.bindings().len(), 2, "{kind}");
    }
}

/// Of its own, by its old or its new Call-ID, before the new Contact or after it.
#[test]
fn an_old_contact_that_is_taken_out_by_a_register_of_its_own_does_not_end_the_device() {
    for (kind, sim) in KINDS {
        for (is_late, call_id) in
            [(false, "register-alice"), (false, "net-one"), (true, "register-alice"), (true, "net-one")]
        {
            let (sim, is_local) = (sim(), kind == "local");
            let alice = sim.phone("alice");
            alice.registers();
            let old = format!("{};expires=0", alice.contact_of(&sim));
            alice.moves();
            let unregister = || {
                let mut world = sim.world();
                let mut draft = world.agents[alice.agent].register(Some(old.clone()));
                draft.call_id = call_id.into();
                world.request(alice.agent, draft);
            };
            if !is_late {
                unregister();
                sim.run_for(ms(100));
            }
            let register = alice.registers();
            if is_late {
                unregister();
                sim.run_for(ms(100));
                assert_eq!(sim.bindings().len(), 1, "{kind}");
                has_only(kind, &sim, &alice, &alice.registers());
            } else {
                has_only(kind, &sim, &alice, &register);
            }
            is_called(&sim, &alice, !is_local);
        }
    }
}

/// RFC 3261 §10.3 step 7: what was sent before the last REGISTER and comes after it says nothing.
#[test]
fn an_unregistration_that_comes_late_does_not_end_the_device() {
    for (kind, sim) in KINDS {
        let (sim, is_local) = (sim(), kind == "local");
        sim.world().ledger.is_lenient = true;
        let alice = sim.phone("alice");
        alice.change(|agent| agent.cseq = 10);
        alice.registers();
        alice.change(|agent| (agent.cseq, agent.device.expires) = (5, Some(0)));
        let late = alice.tries_to_register();
        assert_eq!(late.status(), Some(if is_local { 500 } else { 200 }), "{kind}");
        assert_eq!(sim.bindings().len(), 1, "{kind}");
    }
}

#[test]
fn a_real_logout_ends_the_device_wherever_it_is() {
    for (kind, sim) in KINDS {
        let sim = sim();
        let alice = sim.phone("alice");
        alice.registers();
        sim.run_for(s(120));
        alice.moves();
        alice.change(|agent| agent.device.expires = Some(0));
        alice.registers();
        assert_eq!(sim.bindings().len(), 0, "{kind}: from an address that it has not registered from");
    }
    for (kind, sim) in KINDS {
        let sim = sim();
        let alice = sim.phone("alice");
        alice.registers();
        alice.moves();
        alice.registers();
        alice.change(|agent| agent.device.expires = Some(0));
        alice.registers();
        assert_eq!(sim.bindings().len(), 0, "{kind}: right after it has moved");
        assert!(sim.world().policy.mode == Mode::Local || sim.switch().got("REGISTER").len() == 3);
    }
}

#[test]
fn an_app_that_was_killed_while_it_rang_gets_the_invite_again() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let sim = Sim::new();
        let (alice, switch, mut push) = (sim.device("alice", "alice", transport), sim.switch(), sim.push());
        alice.registers();
        let call = switch.invites("alice");
        sim.run_for(ms(100));
        alice.registers();
        sim.run_for(s(1));
        alice.expects_invites(1);
        starts_anew(&sim, &alice);
        alice.does(Answer::Answers(s(1)));
        alice.registers();
        alice.expects_invites(2);
        sim.run_for(s(3));
        assert_eq!(call.status(), Some(200), "{transport:?}");
        assert_eq!((alice.acks(), sent_to(&sim, &alice, "CANCEL")), (1, 0), "{transport:?}");
        let bye = call.sends("BYE");
        sim.run_for(s(1));
        bye.expects(&[200]);
        push.expects(1);
    }
}

#[test]
fn it_gets_it_also_when_the_wait_is_over_and_is_cancelled_where_it_is() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.registers();
    let call = switch.invites("alice");
    sim.run_for(ms(100));
    alice.registers();
    sim.run_for(s(40));
    starts_anew(&sim, &alice);
    alice.registers();
    alice.expects_invites(2);
    call.cancels("");
    sim.run_for(s(1));
    assert_eq!((call.status(), sent_to(&sim, &alice, "CANCEL")), (Some(487), 1));
}

#[test]
fn a_phone_that_rings_and_registers_again_by_the_same_flow_does_not_get_it_twice() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let sim = Sim::new();
        let (alice, switch) = (sim.device("alice", "alice", transport), sim.switch());
        alice.registers();
        let call = switch.invites("alice");
        sim.run_for(ms(100));
        for _ in 0..3 {
            alice.registers();
            sim.run_for(s(1));
        }
        assert_eq!(sent_to(&sim, &alice, "INVITE"), 1, "{transport:?}");
        call.cancels("");
    }
}

/// The same branch again, so it takes it for a repetition and says once more that it rings.
#[test]
fn a_phone_that_rings_and_moves_goes_on_ringing() {
    let sim = Sim::new();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.registers();
    let call = switch.invites("alice");
    sim.run_for(ms(100));
    alice.registers();
    alice.moves();
    alice.registers();
    alice.registers();
    sim.run_for(s(1));
    alice.expects_invites(1);
    assert_eq!(sent_to(&sim, &alice, "INVITE"), 2);
    alice.picks_up();
    sim.run_for(s(1));
    assert_eq!(call.status(), Some(200));
}

/// What it said is said: it is not asked again because it has another address.
#[test]
fn a_phone_that_has_refused_is_not_asked_again() {
    let sim = Sim::new();
    let (alice, desk, switch) = (sim.phone("alice"), sim.device("alice", "desk", Transport::Udp), sim.switch());
    alice.does(Answer::Refuses(486));
    alice.registers();
    desk.registers();
    let call = switch.asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(ms(100));
    alice.registers();
    desk.registers();
    starts_anew(&sim, &alice);
    alice.registers();
    assert_eq!(sent_to(&sim, &alice, "INVITE"), 1);
    call.cancels("");
}
