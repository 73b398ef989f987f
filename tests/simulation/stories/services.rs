//! Phones with several push services: what one of them cannot, or does not, another one can.

use sip_push_proxy::proxy::Policy;
use sip_push_proxy::proxy::policy::LateWake;
use sip_push_proxy::push::{Notice, NoticeKind, Outcome};

use crate::sim::{Phone, Sim, ms, s};

/// For calls alone, then FCM.
const VOIP_AND_FCM: &str = ";pn-provider=apns;pn-param=DEF123GHIJ.org.example.voip;pn-prid=aa\
                            ;pn-provider-2=fcm;pn-prid-2=second";
const FCM_AND_VOIP: &str = ";pn-provider=fcm;pn-prid=first\
                            ;pn-provider-2=apns;pn-param-2=DEF123GHIJ.org.example.voip&remote;pn-prid-2=aa:voip&bb:remote";
const TWO_PROJECTS: &str = ";pn-provider=fcm;pn-prid=first;pn-param=one\
                            ;pn-provider-2=fcm;pn-prid-2=second;pn-param-2=two";

/// Alice, who sleeps.
fn asleep(change: impl FnOnce(&mut Policy), push: &str) -> (Sim, Phone) {
    let sim = Sim::with(change);
    let alice = sim.phone("alice");
    alice.change(|agent| agent.device.push = push.to_owned()).registers();
    alice.sleeps();
    (sim, alice)
}

/// The service's next word on a token.
fn says(sim: &Sim, prid: &str, outcome: Outcome) {
    sim.world().pushes.script.entry(prid.to_owned()).or_default().push_back(outcome);
}

fn dead() -> Outcome {
    Outcome::TokenDead { since: None, reason: "UNREGISTERED".into() }
}

/// What was pushed, and to which token.
fn pushed(sim: &Sim) -> Vec<(NoticeKind, String)> {
    let world = sim.world();
    world.pushes.sent.iter().map(|push| (push.notice.kind(), push.target.prid.reveal().to_owned())).collect()
}

/// Those that were taken.
fn taken(sim: &Sim) -> Vec<(NoticeKind, String)> {
    let world = sim.world();
    world.pushes.taken.iter().map(|push| (push.notice.kind(), push.target.prid.reveal().to_owned())).collect()
}

#[test]
fn a_message_is_told_by_the_service_that_can() {
    let (sim, alice) = asleep(|_| {}, VOIP_AND_FCM);
    let message = sim.switch().sends("MESSAGE", "alice", |draft| draft);
    sim.run_for(s(1));
    assert!(pushed(&sim).contains(&(NoticeKind::Message, "second".to_owned())), "{:?}", pushed(&sim));
    alice.registers();
    sim.run_for(s(1));
    assert_eq!(message.status(), Some(200));
}

#[test]
fn missed_calls_are_told_by_the_service_that_can() {
    let (sim, alice) = asleep(|_| {}, VOIP_AND_FCM);
    let call = sim.switch().invites("alice");
    sim.run_for(s(1));
    call.cancels("");
    sim.run_for(s(1));
    alice.registers();
    sim.run_for(s(1));
    assert!(pushed(&sim).contains(&(NoticeKind::MissedCalls, "second".to_owned())), "{:?}", pushed(&sim));
}

#[test]
fn a_repetition_goes_to_the_service_that_took_the_push() {
    let (sim, _alice) = asleep(|policy| policy.push_repeat = [s(3), s(8)].into(), TWO_PROJECTS);
    says(&sim, "first", dead());
    let call = sim.switch().invites("alice");
    sim.run_for(s(4));
    let invite = |prid: &str| (NoticeKind::Invite, prid.to_owned());
    assert_eq!(pushed(&sim), [invite("first"), invite("second"), invite("second")]);
    // When that does not take it any more, the others are asked, and one of them goes on with it.
    says(&sim, "second", dead());
    sim.run_for(s(5));
    assert_eq!(taken(&sim), [invite("second"), invite("second"), invite("first")]);
    call.cancels("");
}

#[test]
fn a_push_that_is_tried_again_begins_with_the_first_service() {
    let (sim, _alice) = asleep(|_| {}, TWO_PROJECTS);
    let trouble =
        || Outcome::TryAgain { trouble: sip_push_proxy::push::Trouble::Failing, after: None, reason: "503".into() };
    says(&sim, "first", trouble());
    says(&sim, "second", trouble());
    let call = sim.switch().invites("alice");
    sim.run_for(s(2));
    assert_eq!(taken(&sim), [(NoticeKind::Invite, "first".to_owned())]);
    call.cancels("");
}

#[test]
fn the_end_of_a_call_is_told_by_the_service_that_told_of_the_call() {
    let (sim, _alice) = asleep(|policy| policy.push_call_ended = true, TWO_PROJECTS);
    says(&sim, "first", dead());
    let call = sim.switch().invites("alice");
    sim.run_for(s(1));
    call.cancels("");
    sim.run_for(s(1));
    let told: Vec<_> = taken(&sim).into_iter().map(|(kind, prid)| (kind.name(), prid)).collect();
    assert_eq!(told, [("invite", "second".to_owned()), ("call_ended", "second".to_owned())]);
}

#[test]
fn a_screen_is_closed_when_the_service_that_took_the_push_has_shown_it() {
    let late = |policy: &mut Policy| policy.hold.late_wake = LateWake::InviteCancel;
    for (push, first, is_shown) in
        [(FCM_AND_VOIP, Some("first"), true), (FCM_AND_VOIP, None, false), (VOIP_AND_FCM, Some("aa"), false)]
    {
        let (sim, alice) = asleep(late, push);
        if let Some(prid) = first {
            says(&sim, prid, dead());
        }
        let call = sim.switch().invites("alice");
        sim.run_for(s(1));
        call.cancels("");
        sim.run_for(s(1));
        alice.registers();
        sim.run_for(s(2));
        alice.expects_invites(usize::from(is_shown));
    }
}

#[test]
fn a_phone_is_reminded_by_the_service_that_can() {
    let rule = sip_push_proxy::store::ReminderRule { before: s(120), are_refreshed: false };
    let (sim, _alice) = asleep(|policy| policy.push_refresh = Some(rule), VOIP_AND_FCM);
    sim.world().begin_reminders();
    sim.run_for(s(3600) + ms(1));
    let register = |prid: &str, is_urgent| (prid.to_owned(), Notice::Register { is_urgent });
    let world = sim.world();
    let taken: Vec<_> =
        world.pushes.taken.iter().map(|push| (push.target.prid.reveal().to_owned(), push.notice.clone())).collect();
    assert_eq!(taken, [register("second", false), register("second", true)]);
}
