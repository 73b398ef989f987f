//! `push.refresh`: a phone that sleeps is pushed so that it registers before the softswitch forgets it.

use sip_push_proxy::binding::Home;
use sip_push_proxy::proxy::{Policy, RefreshResult};
use sip_push_proxy::push::{Notice, NoticeKind, Outcome, Push, Trouble};
use sip_push_proxy::sip::Transport;
use sip_push_proxy::store::{Change, ReminderRule, Ticket};

use crate::agent::Registrar;
use crate::random::Random;
use crate::sim::{Phone, Sim, ms, s};

const RULE: ReminderRule = ReminderRule { before: s(120), are_refreshed: false };

/// Of an hour's registration: 80 %, 90 % and the end of the time that ends two minutes before it.
const FIRST: u64 = 2784;
const LAST: u64 = 3132;
const OVER: u64 = 3480;

fn reminding() -> Sim {
    reminding_with(|_| {})
}

fn reminding_with(change: impl FnOnce(&mut Policy)) -> Sim {
    let sim = Sim::with(|policy| {
        policy.push_refresh = Some(RULE);
        change(policy);
    });
    sim.world().begin_reminders();
    sim
}

/// A phone that is registered for an hour, and asleep.
fn asleep(sim: &Sim, name: &str) -> Phone {
    let phone = sim.phone(name);
    phone.registers();
    phone.sleeps();
    phone
}

fn reminders(sim: &Sim) -> Vec<Push> {
    let world = sim.world();
    world.pushes.sent.iter().filter(|push| push.notice.kind() == NoticeKind::Register).cloned().collect()
}

/// Whether each was urgent.
fn urgency(sim: &Sim) -> Vec<bool> {
    reminders(sim).iter().map(|push| push.notice == Notice::Register { is_urgent: true }).collect()
}

#[test]
fn a_sleeping_phone_is_pushed_before_its_time_is_over_and_stays_registered() {
    let sim = reminding();
    let alice = asleep(&sim, "alice");
    alice.wakes_on_push(s(2));
    sim.run_for(s(FIRST - 1));
    assert_eq!(reminders(&sim).len(), 0, "not before 80 %");
    sim.run_for(s(LAST - FIRST + 2));
    assert_eq!(urgency(&sim), [false], "once, and it may sleep on if it sleeps deeply");
    let push = &reminders(&sim)[0];
    assert!(push.ttl > s(120) && push.ttl < s(3600 - FIRST), "for as long as it is registered: {:?}", push.ttl);
    let now = sim.world().now.unix;
    assert!(now.since(sim.bindings()[0].registered_at) < s(LAST - FIRST + 2), "it has registered");
    // So it goes on.
    for _ in 0..20 {
        sim.run_for(s(1000));
        assert!(sim.bindings()[0].expires_at > sim.world().now.unix);
    }
    assert!(urgency(&sim).iter().all(|is_urgent| !is_urgent));
    assert!((20_000 / LAST as usize..=20_000 / FIRST as usize + 1).contains(&(reminders(&sim).len() - 1)));
}

#[test]
fn one_that_has_not_come_is_pushed_once_more_and_urgently() {
    let sim = reminding();
    let _alice = asleep(&sim, "alice");
    sim.run_for(s(LAST));
    assert_eq!(urgency(&sim), [false]);
    sim.run_for(s(OVER - LAST));
    assert_eq!(urgency(&sim), [false, true]);
    let left = reminders(&sim)[1].ttl;
    assert!(left >= s(120), "{left:?}, RFC 8599 §5.5");
    // Its registration is over, and nobody is pushed for that.
    sim.run_for(s(20_000));
    assert_eq!(reminders(&sim).len(), 2);
}

#[test]
fn a_phone_that_is_awake_is_left_alone() {
    let sim = reminding();
    let alice = sim.phone("alice");
    for _ in 0..10 {
        alice.registers();
        sim.run_for(s(FIRST - 10));
    }
    assert_eq!(reminders(&sim).len(), 0);
}

#[test]
fn one_that_wakes_itself_is_pushed_only_when_it_has_not() {
    let sim = reminding();
    let alice = sim.phone("alice");
    alice.change(|agent| agent.device.params = ";q=0.5;+sip.pnsreg".into());
    alice.registers();
    sim.run_for(s(OVER - 1));
    assert_eq!(reminders(&sim).len(), 0);
    alice.registers();
    alice.sleeps();
    sim.run_for(s(OVER - 1));
    assert_eq!(reminders(&sim).len(), 0, "it has till two minutes before the end");
    sim.run_for(s(61));
    assert_eq!(urgency(&sim), [true]);
    sim.run_for(s(5000));
    assert_eq!(reminders(&sim).len(), 1);
}

#[test]
fn who_is_refreshed_here_is_not_pushed_until_the_softswitch_refuses_that() {
    let sim = reminding_with(|policy| {
        policy.push_refresh = Some(ReminderRule { are_refreshed: true, ..RULE });
    });
    sim.world().begin_refreshes();
    let alice = asleep(&sim, "alice");
    sim.run_for(s(10_000));
    assert!(sim.world().refreshed.iter().all(|result| *result == RefreshResult::Granted));
    assert_eq!(reminders(&sim).len(), 0);
    sim.switch().registrar(Registrar::Challenges);
    sim.run_for(s(3600));
    assert_eq!(urgency(&sim), [false, true], "at once, and once more by the end");
    assert!(sim.bindings()[0].upstream.as_ref().is_some_and(|upstream| upstream.refused.is_some()));
    sim.run_for(s(5000));
    assert_eq!(reminders(&sim).len(), 2);
    // A short registration leaves no time for the second.
    sim.switch().registrar(Registrar::Accepts(600));
    alice.registers();
    alice.sleeps();
    sim.switch().registrar(Registrar::Refuses(403));
    sim.run_for(s(600));
    assert_eq!(urgency(&sim), [false, true, true]);
}

#[test]
fn a_registration_that_is_too_short_is_not_kept_alive_by_pushes() {
    for (granted, count) in [(239, 0), (240, 2)] {
        let sim = reminding();
        let alice = sim.phone("alice");
        alice.change(|agent| agent.device.expires = Some(granted)).registers();
        alice.sleeps();
        sim.run_for(s(300));
        assert_eq!(reminders(&sim).len(), count, "{granted} s");
    }
}

#[test]
fn a_restart_pushes_nobody_twice_and_forgets_nobody() {
    let sim = reminding();
    let (_alice, others) = (asleep(&sim, "alice"), sim.phone("bob"));
    sim.run_for(s(LAST));
    assert_eq!(urgency(&sim), [false]);
    let restart = || {
        sim.world().restart();
        sim.run_for(ms(500));
    };
    restart();
    assert_eq!(urgency(&sim), [false], "the last one is to come");
    sim.run_for(s(OVER - LAST));
    assert_eq!(urgency(&sim), [false, true]);
    // Somebody has registered since, so it has had its turn.
    others.registers();
    restart();
    assert_eq!(urgency(&sim), [false, true]);
    others.change(|agent| agent.device.expires = Some(0)).registers();
}

#[test]
fn what_fell_due_while_the_process_was_away_is_made_up_for_once() {
    let sim = reminding();
    let _alice = asleep(&sim, "alice");
    sim.run_for(s(1000));
    sim.world().dies();
    sim.world().reminders = None;
    sim.run_for(s(OVER - 1000 + 10));
    sim.world().begin_reminders();
    sim.world().starts();
    sim.run_for(s(1));
    assert_eq!(urgency(&sim), [true]);
    sim.run_for(s(5000));
    assert_eq!(reminders(&sim).len(), 1);
}

#[test]
fn an_iphone_is_pushed_by_its_remote_token_alone() {
    for (prid, param, count) in [("aa:voip&bb:remote", "voip&remote", 2), ("aa", "voip", 0)] {
        let sim = reminding();
        let alice = sim.phone("alice");
        let push = format!(";pn-provider=apns;pn-param=DEF123GHIJ.org.example.{param};pn-prid={prid}");
        alice.change(|agent| agent.device.push = push).registers();
        alice.sleeps();
        sim.run_for(s(4000));
        assert_eq!(reminders(&sim).len(), count, "{param}");
    }
}

#[test]
fn who_cannot_be_pushed_is_not() {
    let misfit = || Outcome::Misfit { reason: "SENDER_ID_MISMATCH".into() };
    let dead = || Outcome::TokenDead { since: None, reason: "UNREGISTERED".into() };
    for outcome in [misfit(), dead()] {
        let sim = reminding();
        let _alice = asleep(&sim, "alice");
        sim.push().next("alice", outcome);
        sim.run_for(s(4000));
        assert_eq!(reminders(&sim).len(), 1, "not again, for what is known of its token");
    }
    let sim = reminding();
    let (plain, gone) = (sim.phone("plain"), asleep(&sim, "gone"));
    plain.change(|agent| agent.device.push = String::new()).registers();
    gone.is_back();
    gone.change(|agent| agent.device.expires = Some(0)).registers();
    sim.binds_token("carol", "token-of-carol", "en");
    sim.run_for(s(4000));
    assert_eq!(reminders(&sim).len(), 0);
}

#[test]
fn passing_trouble_is_met_by_repetition_while_the_registration_lasts() {
    let trouble = || Outcome::TryAgain { trouble: Trouble::Failing, after: Some(s(30)), reason: "503".into() };
    let sim = reminding();
    let alice = asleep(&sim, "alice");
    alice.wakes_on_push(s(1));
    sim.push().next("alice", trouble());
    sim.push().next("alice", Outcome::Skipped { after: s(20), reason: "paused".into() });
    sim.run_for(s(LAST + 120));
    assert_eq!(reminders(&sim).len(), 3);
    assert!(sim.bindings()[0].expires_at.since(sim.world().now.unix) > s(3000), "it has registered");

    let sim = reminding();
    let _bob = asleep(&sim, "bob");
    (0..1000).for_each(|_| sim.push().next("bob", trouble()));
    sim.run_for(s(8000));
    let tries = reminders(&sim).len();
    assert!((10..40).contains(&tries), "{tries}");
    assert!(reminders(&sim).iter().all(|push| !push.ttl.is_zero()));
}

#[test]
fn a_phone_that_registers_during_the_trouble_is_not_pushed_any_more() {
    let sim = reminding();
    let alice = asleep(&sim, "alice");
    let after = Some(s(20));
    sim.push().next("alice", Outcome::TryAgain { trouble: Trouble::Failing, after, reason: "503".into() });
    while reminders(&sim).is_empty() {
        sim.run_for(s(1));
    }
    alice.registers();
    sim.run_for(s(1000));
    assert_eq!(reminders(&sim).len(), 1);
}

#[test]
fn many_that_registered_together_are_not_pushed_together() {
    let sim = reminding();
    let phones: Vec<_> = (0..200).map(|number| sim.phone(&format!("user{number}"))).collect();
    let contact = |phone: &Phone| sim.world().agents[phone.agent].contact();
    phones.iter().for_each(|phone| drop(phone.sends_register(Some(contact(phone)))));
    sim.run_for(s(FIRST));
    let mut most = 0;
    for _ in FIRST..LAST + 2 {
        let before = reminders(&sim).len();
        sim.run_for(s(1));
        most = most.max(reminders(&sim).len() - before);
    }
    assert_eq!(reminders(&sim).len(), 200);
    assert!(most < 12, "{most} in a second");
}

/// After a long stop, when all of them are overdue.
#[test]
fn no_more_are_pushed_in_a_second_than_the_pace_allows() {
    let sim = reminding();
    let phones: Vec<_> = (0..200).map(|number| sim.phone(&format!("user{number}"))).collect();
    let contact = |phone: &Phone| sim.world().agents[phone.agent].contact();
    phones.iter().for_each(|phone| drop(phone.sends_register(Some(contact(phone)))));
    sim.run_for(s(1));
    sim.world().dies();
    sim.world().reminders = None;
    sim.run_for(s(OVER + 20));
    sim.world().begin_reminders();
    sim.world().starts();
    for tenth in 1..=10 {
        sim.run_for(ms(100));
        let sent = reminders(&sim).len();
        assert!(sent <= 10 * (tenth + 1), "{sent} in {tenth} tenths of a second");
    }
    sim.run_for(s(2));
    assert_eq!(reminders(&sim).len(), 200);
}

#[test]
fn a_server_that_is_stopping_pushes_nobody() {
    let sim = reminding();
    let _alice = asleep(&sim, "alice");
    sim.world().proxy.drain();
    sim.run_for(s(4000));
    assert_eq!(reminders(&sim).len(), 0);
}

#[test]
fn a_device_on_another_node_is_that_nodes() {
    let home = |port| Home { transport: Transport::Udp, address: format!("192.0.2.10:{port}").parse().unwrap() };
    for (is_ours, is_there, count) in [(true, true, 2), (false, true, 0), (false, false, 2)] {
        let sim = reminding_with(|policy| policy.home = Some(home(5060)));
        let _alice = asleep(&sim, "alice");
        sim.world().nodes.extend(is_there.then(|| home(5062)));
        if !is_ours {
            let mut binding = sim.bindings()[0].clone();
            binding.home = Some(home(5062));
            let change = Change::Register { aor: binding.aor.clone(), put: vec![binding], remove: vec![] };
            sim.world().storage.apply(Ticket(1_000_000), change, &mut Random::new(1));
        }
        sim.run_for(s(4000));
        assert_eq!(reminders(&sim).len(), count);
    }
}

#[test]
fn without_the_setting_nobody_is_pushed() {
    let sim = Sim::new();
    let _alice = asleep(&sim, "alice");
    sim.world().begin_reminders();
    sim.run_for(s(4000));
    assert_eq!(reminders(&sim).len(), 0);
}

/// Whatever happens in between: nobody is pushed more than twice for one registration by one run.
#[test]
fn chance() {
    for seed in crate::sim::seed().map_or(0..8, |seed| seed..seed + 1) {
        let mut policy = crate::options::policy();
        policy.push_refresh = Some(RULE);
        let sim = Sim::of(policy, 10_000, seed);
        sim.world().begin_reminders();
        let phones: Vec<_> = (0..5).map(|number| sim.phone(&format!("user{number}"))).collect();
        phones.iter().for_each(|phone| drop(phone.change(|agent| agent.device.expires = Some(600)).registers()));
        let mut chance = Random::new(seed);
        let (mut registered, mut restarts) = (phones.len(), 0);
        for _ in 0..100 {
            let phone = &phones[chance.below(phones.len())];
            match chance.below(8) {
                0..4 => phone.sleeps(),
                4..7 => {
                    phone.is_back();
                    phone.registers();
                    registered += 1;
                }
                _ => {
                    sim.world().restart();
                    restarts += 1;
                }
            }
            sim.run_for(ms(chance.below(120_000) as u64));
        }
        let most = 2 * registered + phones.len() * restarts;
        assert!(reminders(&sim).len() <= most, "seed {seed}: {} of {most}", reminders(&sim).len());
        // Each that is asleep with a registration that goes on is pushed before its end.
        let before = reminders(&sim).len();
        phones.iter().for_each(|phone| drop(phone.registers()));
        phones.iter().for_each(Phone::sleeps);
        sim.run_for(s(600));
        assert_eq!(reminders(&sim).len() - before, 2 * phones.len(), "seed {seed}");
    }
}
