//! `register.upstream_refresh`: the softswitch goes on knowing phones that sleep.

use std::collections::BTreeSet;

use sip_push_proxy::binding::{Home, Upstream};
use sip_push_proxy::proxy::policy::UpstreamContact;
use sip_push_proxy::proxy::{Policy, RefreshResult};
use sip_push_proxy::sip::{HeaderName, Message, Transport};
use sip_push_proxy::store::Change;

use crate::agent::{Answer, Registrar};
use crate::network::Network;
use crate::options::{PROXY, socket};
use crate::random::Random;
use crate::sim::{Phone, Sim, Switch, ms, s};
use crate::text;
use crate::world::SOFTSWITCH;

fn refreshing() -> Sim {
    refreshing_with(|_| {})
}

fn refreshing_with(change: impl FnOnce(&mut Policy)) -> Sim {
    let sim = Sim::with(change);
    sim.world().begin_refreshes();
    sim
}

/// A phone that is registered for an hour, and asleep.
fn asleep(sim: &Sim) -> Phone {
    let alice = sim.phone("alice");
    alice.registers();
    alice.sleeps();
    alice
}

/// REGISTERs that were no phone's.
fn refreshes(switch: &Switch) -> Vec<Message> {
    switch.got("REGISTER").into_iter().filter(|register| text::branch(register, 1).is_none()).collect()
}

fn upstream(sim: &Sim) -> Option<Upstream> {
    sim.bindings()[0].upstream.clone()
}

fn refused(sim: &Sim) -> Option<String> {
    upstream(sim)?.refused.map(Into::into)
}

fn cseq(register: &Message) -> u32 {
    register.cseq().unwrap().number
}

#[test]
fn a_sleeping_phone_is_refreshed_before_its_time_is_over_for_as_long_as_it_sleeps() {
    let sim = refreshing();
    let (alice, switch) = (asleep(&sim), sim.switch());
    sim.run_for(s(2870));
    assert_eq!(refreshes(&switch).len(), 0, "not before 80 %");
    sim.run_for(s(370));
    assert_eq!(refreshes(&switch).len(), 1, "before 90 %");
    let Upstream { registered_at, expires_at, refused } = upstream(&sim).unwrap();
    assert_eq!((expires_at.since(registered_at), refused), (s(3600), None));
    sim.run_for(s(40_000));
    let all = refreshes(&switch);
    assert!((40_000 / 3240..=40_000 / 2880).contains(&(all.len() - 1)), "{}", all.len());
    assert!(all.is_sorted_by(|one, next| cseq(one) < cseq(next)), "CSeq grows");
    let call = switch.invites("alice");
    sim.run_for(ms(100));
    sim.push().expects(1);
    alice.does(Answer::Answers(s(1)));
    alice.registers();
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
}

#[test]
fn a_refresh_is_the_phones_registration_by_another_call_id() {
    let sim = refreshing();
    let alice = sim.phone("alice");
    alice.change(|agent| {
        agent.aor = "sip:alice%2f%c3%a9@example.org".into();
        agent.device.params = ";q=0.5;reg-id=1".into();
    });
    alice.registers();
    let switch = sim.switch();
    sim.run_for(s(3300));
    let (phones, refresh) = (switch.got("REGISTER")[0].clone(), refreshes(&switch)[0].clone());
    assert_eq!(text::text(refresh.uri()), "sip:example.org");
    assert_eq!(text::first(&refresh, HeaderName::To), "<sip:alice/%C3%A9@example.org>");
    assert!(text::first(&refresh, HeaderName::From).starts_with("<sip:alice/%C3%A9@example.org>;tag="));
    let (contact, contact_of_phones) =
        (text::first(&refresh, HeaderName::Contact), text::first(&phones, HeaderName::Contact));
    assert_eq!(contact, contact_of_phones);
    assert!(contact.contains(";q=0.5") && !contact.contains("reg-id"), "{contact}");
    assert_eq!(refresh.number(HeaderName::Expires), Some(3600));
    assert_ne!(refresh.call_id(), phones.call_id());
    assert!(text::first(&refresh, HeaderName::UserAgent).starts_with("sip-push-proxy/"));
}

/// The listening point of refreshes alone.
fn own_socket(policy: &mut Policy) {
    let own = policy.listeners[0].clone();
    policy.refresh_from = Some(sip_push_proxy::proxy::policy::Listener {
        local: socket("192.0.2.10:5070"),
        sent_by: "192.0.2.10:5070".into(),
        port: 5070,
        ..own
    });
}

#[test]
fn nothing_but_refreshes_leaves_by_their_socket() {
    let sim = refreshing_with(own_socket);
    let (alice, switch) = (asleep(&sim), sim.switch());
    sim.run_for(s(3300));
    assert_eq!(refreshes(&switch).len(), 1);
    alice.does(Answer::Answers(ms(100)));
    let call = switch.invites("alice");
    sim.run_for(ms(100));
    alice.registers();
    sim.run_for(s(2));
    assert_eq!(call.status(), Some(200));
    alice.within_last("BYE");
    alice.asks("MESSAGE", "sip:bob@example.org", |draft| draft.body("x".repeat(3000)));
    sim.run_for(s(2));
    let world = sim.world();
    let is_refresh = |message: &Message| text::text(message.call_id()).ends_with("-refresh");
    for (to, message) in &world.left {
        let by_socket = to.listener() == sip_push_proxy::sip::flow::REFRESH_LISTENER;
        assert_eq!(by_socket, is_refresh(message), "{}", text::summary(message));
        if by_socket {
            let via = message.top_via().unwrap();
            assert_eq!((via.host, via.port), (&b"192.0.2.10"[..], Some(5070)));
        }
    }
}

#[test]
fn a_challenge_is_answered_once_with_the_proxys_own_password() {
    for (registrar, count) in [(Registrar::Challenges, 2), (Registrar::Distrusts, 2)] {
        let sim = refreshing_with(|policy| {
            policy.refresh_user =
                Some(sip_push_proxy::proxy::policy::RefreshUser { user: "push".into(), password: "secret".into() });
        });
        let (_alice, switch) = (asleep(&sim), sim.switch());
        switch.registrar(registrar);
        sim.run_for(s(3300));
        let sent = refreshes(&switch);
        assert_eq!(sent.len(), count);
        assert!(text::first(&sent[0], HeaderName::From).starts_with("<sip:push@example.org>"));
        assert_eq!(text::first(&sent[0], HeaderName::Authorization), "");
        let credentials = text::first(&sent[1], HeaderName::Authorization);
        assert!(credentials.starts_with("Digest username=\"push\", realm=\"example.org\""), "{credentials}");
        let result =
            if registrar == Registrar::Challenges { RefreshResult::Granted } else { RefreshResult::Challenged };
        assert_eq!(sim.world().refreshed, [result]);
    }
}

#[test]
fn with_path_the_phones_contact_and_the_path_are_the_same() {
    let sim = refreshing_with(|policy| policy.upstream_contact = UpstreamContact::Path);
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.change(|agent| agent.device.headers = vec!["Path: <sip:edge.example;lr>".into(), "Supported: path".into()]);
    alice.registers();
    alice.sleeps();
    sim.run_for(s(3300));
    let (phones, refresh) = (switch.got("REGISTER")[0].clone(), refreshes(&switch)[0].clone());
    assert_eq!(text::values(&refresh, HeaderName::Path), text::values(&phones, HeaderName::Path));
    assert!(refresh.has_option(HeaderName::Supported, "path"));
    let contact = |register| text::contact_uri(register);
    assert_eq!(contact(&refresh), contact(&phones));
    assert_eq!(sim.world().refreshed, [RefreshResult::Granted]);
    let call = switch.invites("alice");
    sim.run_for(ms(100));
    sim.push().expects(1);
    call.cancels("");
}

#[test]
fn each_device_of_a_user_is_refreshed_by_itself() {
    let sim = refreshing();
    let devices = [sim.device("alice", "desk", Transport::Tcp), sim.device("alice", "mobile", Transport::Udp)];
    for device in &devices {
        device.registers();
        device.sleeps();
    }
    sim.run_for(s(3300));
    let switch = sim.switch();
    let all = refreshes(&switch);
    let contacts: BTreeSet<_> = all.iter().map(text::contact_uri).collect();
    let call_ids: BTreeSet<_> = all.iter().map(|refresh| text::text(refresh.call_id())).collect();
    assert_eq!((all.len(), contacts.len(), call_ids.len()), (2, 2, 2));
    assert_eq!(contacts, switch.contacts("alice").into_iter().map(|(contact, _)| contact).collect());
}

#[test]
fn a_softswitch_with_a_name_is_tried_at_its_next_address() {
    let sim = refreshing_with(|policy| policy.softswitch.as_mut().unwrap().host = "switch.example".into());
    let (_alice, switch) = (asleep(&sim), sim.switch());
    sim.world().softswitch_at = vec!["192.0.2.21:5060", "192.0.2.20:5060"];
    sim.run_for(s(3300));
    assert_eq!(sim.world().refreshed, [RefreshResult::Granted]);
    assert_eq!(refreshes(&switch).len(), 1);
    sim.world().softswitch_at = vec![];
    sim.run_for(s(3300));
    assert!(sim.world().refreshed.len() > 1);
    assert!(sim.world().refreshed[1..].iter().all(|result| *result == RefreshResult::TryAgain));
}

#[test]
fn a_phone_that_refreshes_itself_in_time_is_left_alone() {
    let sim = refreshing();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    for _ in 0..10 {
        alice.registers();
        sim.run_for(s(1800));
    }
    assert_eq!(refreshes(&switch).len(), 0);
    assert_eq!(upstream(&sim), None);
}

#[test]
fn a_plain_phone_has_to_refresh_itself() {
    let sim = refreshing();
    let alice = sim.phone("alice");
    alice.change(|agent| agent.device.push = String::new());
    alice.registers();
    sim.run_for(s(4000));
    assert_eq!(refreshes(&sim.switch()).len(), 0);
}

#[test]
fn a_challenge_or_a_refusal_stops_it_visibly_until_the_phone_registers() {
    use RefreshResult::{Challenged, Refused};
    let password = "the softswitch asks for a password: 401 Unauthorized";
    let proxy = "the softswitch asks for a password: 407 Proxy Authentication Required";
    for (registrar, result, reason) in [
        (Registrar::Challenges, Challenged, password),
        (Registrar::Refuses(407), Challenged, proxy),
        (Registrar::Refuses(403), Refused, "the softswitch answers 403 Forbidden"),
        (Registrar::Refuses(404), Refused, "the softswitch answers 404 Not Found"),
        (Registrar::Refuses(603), Refused, "the softswitch answers 603 Decline"),
        (Registrar::Accepts(0), Refused, "the softswitch grants nothing"),
        (Registrar::Refuses(423), Refused, "the softswitch answers 423 Interval Too Brief"),
    ] {
        let sim = refreshing();
        let (alice, switch) = (asleep(&sim), sim.switch());
        let known_until = sim.bindings()[0].expires_at;
        switch.registrar(registrar);
        sim.run_for(s(8_000));
        assert_eq!(refreshes(&switch).len(), 1, "{registrar:?}");
        assert_eq!(sim.world().refreshed, [result]);
        assert_eq!(refused(&sim).as_deref(), Some(reason));
        assert_eq!(upstream(&sim).unwrap().expires_at, known_until, "what was granted before stands");
        switch.registrar(Registrar::Accepts(3600));
        alice.registers();
        assert_eq!(upstream(&sim), None);
        alice.sleeps();
        sim.run_for(s(3300));
        assert_eq!(refreshes(&switch).len(), 2);
        assert_eq!(refused(&sim), None);
    }
}

#[test]
fn an_interval_that_is_too_brief_is_asked_for_once_more_with_what_the_softswitch_wants() {
    let sim = refreshing();
    let (_alice, switch) = (asleep(&sim), sim.switch());
    switch.registrar(Registrar::Wants(7200));
    sim.run_for(s(3300));
    let asked: Vec<_> = refreshes(&switch).iter().map(|refresh| refresh.number(HeaderName::Expires)).collect();
    assert_eq!(asked, [Some(3600), Some(7200)]);
    assert!(cseq(&refreshes(&switch)[0]) < cseq(&refreshes(&switch)[1]));
    let Upstream { registered_at, expires_at, .. } = upstream(&sim).unwrap();
    assert_eq!(expires_at.since(registered_at), s(7200));
    sim.run_for(s(7200));
    assert_eq!(refreshes(&switch)[2].number(HeaderName::Expires), Some(7200), "and from then on");
    assert_eq!(refreshes(&switch).len(), 3);
}

#[test]
fn a_softswitch_that_grants_less_is_asked_sooner_and_for_as_much_as_ever() {
    let sim = refreshing();
    let (_alice, switch) = (asleep(&sim), sim.switch());
    switch.registrar(Registrar::Accepts(600));
    sim.run_for(s(3300 + 540));
    let all = refreshes(&switch);
    assert!(all.len() >= 2, "{}", all.len());
    assert!(all.iter().all(|refresh| refresh.number(HeaderName::Expires) == Some(3600)));
}

#[test]
fn loss_is_met_by_repetition() {
    for seed in 0..20 {
        let sim = refreshing();
        let (_alice, switch) = (asleep(&sim), sim.switch());
        {
            let mut world = sim.world();
            world.random = Random::new(seed);
            world.network.loss = 300;
        }
        sim.run_for(s(3600));
        assert_eq!(upstream(&sim).and_then(|upstream| upstream.refused), None);
        assert!(upstream(&sim).is_some());
        assert_eq!(refreshes(&switch).len(), 1);
        sim.world().network.loss = 0;
    }
}

#[test]
fn a_silent_softswitch_is_asked_less_and_less_and_knows_the_phone_when_it_is_back() {
    for registrar in [Registrar::Silent, Registrar::Refuses(500), Registrar::Refuses(503)] {
        let sim = refreshing();
        let (_alice, switch) = (asleep(&sim), sim.switch());
        switch.registrar(registrar);
        sim.run_for(s(3600 + 4 * 3600));
        let tries = sim.world().refreshed.len();
        assert!((20..60).contains(&tries), "{tries} tries in four hours");
        assert!(sim.world().refreshed.iter().all(|result| *result == RefreshResult::TryAgain));
        assert_eq!(upstream(&sim), None, "nobody has refused");
        switch.registrar(Registrar::Accepts(3600));
        sim.run_for(s(700));
        assert!(upstream(&sim).unwrap().expires_at > sim.world().now.unix);
    }
}

#[test]
fn a_softswitch_that_cannot_be_reached_is_tried_later() {
    let sim = refreshing_with(|policy| {
        policy.softswitch.as_mut().unwrap().transport = Some(Transport::Tcp);
    });
    let (_alice, switch) = (asleep(&sim), sim.switch());
    switch.refuses_connections();
    sim.run_for(s(3600));
    assert!(sim.world().refreshed.len() > 3);
    assert_eq!(refreshes(&switch).len(), 0);
}

#[test]
fn a_phone_that_registers_meanwhile_has_the_last_word() {
    let sim = refreshing();
    let (alice, switch) = (asleep(&sim), sim.switch());
    switch.registrar(Registrar::Silent);
    sim.run_for(s(3240));
    let refresh = *sim.world().agents[SOFTSWITCH].got_of("REGISTER").last().unwrap();
    switch.registrar(Registrar::Accepts(3600));
    alice.registers();
    sim.world().agent_responds(SOFTSWITCH, refresh, 401, &[], "");
    sim.run_for(s(60));
    assert_eq!(sim.world().refreshed, [RefreshResult::Challenged]);
    assert_eq!(upstream(&sim), None, "the challenge says nothing of the new registration");
    alice.sleeps();
    sim.run_for(s(3240));
    assert!(upstream(&sim).is_some());
}

#[test]
fn what_has_ended_is_not_refreshed() {
    let sim = refreshing();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.registers();
    alice.change(|agent| agent.device.expires = Some(0));
    alice.registers();
    sim.run_for(s(8000));
    assert_eq!(refreshes(&switch).len(), 0);
}

/// It named neither itself nor its token when it unregistered, so it is still there to be pushed; not upstream, though.
#[test]
fn a_phone_that_unregistered_by_its_address_alone_stays_unregistered_upstream() {
    let sim = refreshing();
    let (alice, switch) = (sim.phone("alice"), sim.switch());
    alice.change(|agent| agent.device.instance = None);
    alice.registers();
    alice.change(|agent| {
        agent.device.push = String::new();
        agent.device.expires = Some(0);
    });
    let before = sim.bindings().len();
    alice.registers();
    sim.run_for(s(8000));
    assert_eq!((before, sim.bindings().len()), (1, 1));
    assert_eq!(refreshes(&switch).len(), 0);
}

#[test]
fn many_phones_that_registered_together_are_refreshed_one_by_one() {
    let sim = refreshing();
    let phones: Vec<_> = (0..60).map(|number| sim.phone(&format!("user{number}"))).collect();
    phones.iter().for_each(|phone| drop(phone.sends_register(Some(contact(&sim, phone)))));
    sim.run_for(s(1));
    let switch = sim.switch();
    let mut seconds = BTreeSet::new();
    sim.run_for(s(2879));
    for second in 0..364 {
        let before = refreshes(&switch).len();
        sim.run_for(s(1));
        if refreshes(&switch).len() > before {
            seconds.insert(second);
        }
    }
    assert_eq!(refreshes(&switch).len(), 60);
    assert!(seconds.len() > 40, "{seconds:?}");
}

fn contact(sim: &Sim, phone: &Phone) -> String {
    sim.world().agents[phone.agent].contact()
}

/// All of them are overdue then.
#[test]
fn after_a_long_stop_they_are_not_all_sent_at_once() {
    let sim = refreshing();
    let phones: Vec<_> = (0..60).map(|number| sim.phone(&format!("user{number}"))).collect();
    phones.iter().for_each(|phone| drop(phone.sends_register(Some(contact(&sim, phone)))));
    sim.run_for(s(1));
    sim.world().pace = None;
    sim.run_for(s(10_000));
    {
        let mut world = sim.world();
        world.begin_refreshes();
        world.restart();
    }
    let switch = sim.switch();
    let mut before = 0;
    for _ in 0..6 {
        sim.run_for(ms(100));
        let sent = refreshes(&switch).len();
        assert!(sent - before <= 12, "{}", sent - before);
        before = sent;
    }
    sim.run_for(ms(200));
    assert_eq!(refreshes(&switch).len(), 60);
    sim.run_for(s(10));
    assert!(sim.bindings().iter().all(|binding| binding.upstream.is_some()));
}

#[test]
fn a_softswitch_that_is_slow_is_not_given_more_than_it_can_take() {
    let sim = refreshing();
    let phones: Vec<_> = (0..300).map(|number| sim.phone(&format!("user{number}"))).collect();
    phones.iter().for_each(|phone| drop(phone.sends_register(Some(contact(&sim, phone)))));
    sim.run_for(s(1));
    sim.world().pace = None;
    sim.run_for(s(10_000));
    sim.switch().registrar(Registrar::Silent);
    sim.world().begin_refreshes();
    sim.run_for(s(20));
    assert_eq!(refreshes(&sim.switch()).len(), 256);
    assert_eq!(sim.world().proxy.refresh_room(), 0);
}

#[test]
fn a_process_that_died_in_between_leaves_nothing_undone() {
    let sim = refreshing();
    let (_alice, switch) = (asleep(&sim), sim.switch());
    switch.registrar(Registrar::Silent);
    sim.run_for(s(3240));
    let tried = refreshes(&switch);
    assert!(!tried.is_empty());
    switch.registrar(Registrar::Accepts(3600));
    sim.world().restart();
    sim.run_for(s(1));
    let all = refreshes(&switch);
    assert!(upstream(&sim).is_some());
    let (first, last) = (all.first().unwrap(), all.last().unwrap());
    assert_eq!(first.call_id(), last.call_id());
    assert!(cseq(first) < cseq(last), "CSeq grows from run to run");
}

#[test]
fn what_the_store_refuses_is_found_out_again() {
    let sim = refreshing();
    let (_alice, switch) = (asleep(&sim), sim.switch());
    sim.world().storage.refuses = |change| matches!(change, Change::Refreshed { .. });
    sim.run_for(s(3300));
    assert_eq!(upstream(&sim), None);
    let tries = refreshes(&switch).len();
    assert!(tries > 1, "{tries}");
    sim.world().storage.refuses = |_| false;
    sim.run_for(s(700));
    assert!(upstream(&sim).is_some());
}

#[test]
fn a_server_that_is_stopping_begins_no_refresh() {
    let sim = refreshing();
    let (_alice, switch) = (asleep(&sim), sim.switch());
    sim.world().proxy.drain();
    sim.run_for(s(4000));
    assert_eq!(refreshes(&switch).len(), 0);
}

#[test]
fn a_device_on_another_node_is_that_nodes() {
    let home = |port| Home { transport: Transport::Udp, address: format!("192.0.2.10:{port}").parse().unwrap() };
    assert_eq!(home(5060).address, socket(PROXY));
    for (is_ours, is_there, count) in [(true, true, 1), (false, true, 0), (false, false, 1)] {
        let sim = refreshing_with(|policy| policy.home = Some(home(5060)));
        let (_alice, switch) = (asleep(&sim), sim.switch());
        sim.world().nodes.extend(is_there.then(|| home(5062)));
        if !is_ours {
            let mut binding = sim.bindings()[0].clone();
            binding.home = Some(home(5062));
            let change = Change::Register { aor: binding.aor.clone(), put: vec![binding], remove: vec![] };
            let world = sim.world();
            let mut random = Random::new(1);
            world.storage.apply(sip_push_proxy::store::Ticket(1_000_000), change, &mut random);
        }
        sim.run_for(s(3300));
        assert_eq!(refreshes(&switch).len(), count);
    }
}

/// Whatever happens in between: in the end the softswitch knows each phone, or the operator why it does not.
#[test]
fn chance() {
    for seed in crate::sim::seed().map_or(0..8, |seed| seed..seed + 1) {
        let sim = Sim::of(crate::options::policy(), 10_000, seed);
        sim.world().begin_refreshes();
        let phones: Vec<_> = (0..5).map(|number| sim.phone(&format!("user{number}"))).collect();
        phones.iter().for_each(|phone| drop(phone.change(|agent| agent.device.expires = Some(600)).registers()));
        let mut chance = Random::new(seed);
        {
            let mut world = sim.world();
            world.network = Network::rough(&mut chance);
            world.storage.failures = chance.below(200);
        }
        for _ in 0..100 {
            let phone = &phones[chance.below(phones.len())];
            match chance.below(12) {
                0..4 => phone.sleeps(),
                4 | 5 => {
                    phone.is_back();
                    drop(phone.sends_register(Some(contact(&sim, phone))));
                }
                6 => sim.world().restart(),
                7 => sim.switch().registrar(Registrar::Silent),
                8 => sim.switch().registrar(Registrar::Refuses(*chance.choice(&[500, 503]))),
                9 => sim.switch().registrar(Registrar::Wants(900)),
                _ => sim.switch().registrar(Registrar::Accepts(*chance.choice(&[60, 600, 7200]))),
            }
            sim.run_for(ms(chance.below(120_000) as u64));
        }
        sim.switch().registrar(Registrar::Accepts(600));
        {
            let mut world = sim.world();
            world.network = Network::calm();
            world.storage.failures = 0;
        }
        sim.run_for(s(800));
        let now = sim.world().now.unix;
        for binding in sim.bindings() {
            let is_refused = binding.upstream.as_ref().is_some_and(|upstream| upstream.refused.is_some());
            assert!(is_refused || binding.known_upstream().1 > now, "seed {seed}: {binding:?}");
        }
        assert_eq!(sim.bindings().len(), phones.len());
    }
}
