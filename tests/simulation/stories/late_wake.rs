//! A phone that comes when its call is over, with `hold.late_wake = "invite_cancel"`: its call screen is closed.

use std::sync::Arc;

use sip_push_proxy::proxy::policy::LateWake;
use sip_push_proxy::push::NoticeKind;
use sip_push_proxy::sip::{HeaderName, Transport};

use crate::agent::Answer;
use crate::sim::{Phone, Request, Sim, ms, s};
use crate::support::Support;

fn sim() -> Sim {
    Sim::with(|policy| policy.hold.late_wake = LateWake::InviteCancel)
}

fn prid(name: &str) -> String {
    let hex: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("aa{hex}:voip&bb{hex}:remote")
}

/// An iPhone with both tokens.
fn iphone(sim: &Sim, name: &str) -> Phone {
    let phone = sim.device("alice", name, Transport::Udp);
    let prid = prid(name);
    phone.change(|agent| {
        agent.device.push = format!(";pn-provider=apns;pn-param=DEF123GHIJ.org.example.voip&remote;pn-prid={prid}");
    });
    phone.registers();
    phone.sleeps();
    phone
}

/// A call to alice that has been pushed.
fn call(sim: &Sim) -> Request {
    let call = sim.switch().asks("INVITE", "sip:alice@example.org", |draft| draft);
    sim.run_for(ms(500));
    call
}

#[test]
fn a_phone_that_comes_after_the_caller_gave_up_gets_invite_and_cancel() {
    let sim = sim();
    let (alice, mut push) = (iphone(&sim, "alice"), sim.push());
    let call = call(&sim);
    call.cancels("");
    sim.run_for(s(1));
    call.expects(&[100, 182, 487]);
    push.expects(1);
    alice.expects_invites(0);

    alice.registers();
    sim.run_for(s(2));
    alice.expects_invites(1);
    let cancels = alice.got("CANCEL");
    assert_eq!(cancels.len(), 1);
    assert_eq!(cancels[0].fields(HeaderName::Reason).count(), 0);
    // It is in the phone's own log: no push tells of it again.
    sim.run_for(s(60));
    push.expects(0);
    assert_eq!(alice.bucket(), []);
    // Another REGISTER is about nothing.
    alice.registers();
    sim.run_for(s(2));
    alice.expects_invites(1);
}

#[test]
fn a_phone_that_comes_after_the_wait_gets_them_too() {
    let sim = sim();
    let alice = iphone(&sim, "alice");
    let call = call(&sim);
    sim.run_for(s(30));
    call.expects(&[100, 182, 480]);
    alice.registers();
    sim.run_for(s(2));
    alice.expects_invites(1);
    assert_eq!(alice.got("CANCEL").len(), 1);
}

#[test]
fn a_call_taken_elsewhere_is_cancelled_as_such() {
    let sim = sim();
    let (alice, desk) = (iphone(&sim, "mobile"), sim.device("alice", "desk", Transport::Udp));
    desk.does(Answer::Answers(s(1)));
    desk.registers();
    desk.sleeps();
    let call = call(&sim);
    desk.registers();
    sim.run_for(s(3));
    assert_eq!(call.status(), Some(200));
    alice.registers();
    sim.run_for(s(2));
    alice.expects_invites(1);
    let cancels = alice.got("CANCEL");
    let reason = cancels[0].fields(HeaderName::Reason).next().unwrap();
    assert_eq!(cancels[0].slice(reason.value()), b"SIP;cause=200;text=\"Call completed elsewhere\"");
    desk.expects_invites(1);
}

#[test]
fn a_phone_that_picks_up_before_the_cancel_is_hung_up_on() {
    let sim = sim();
    let alice = iphone(&sim, "alice");
    call(&sim).cancels("");
    sim.run_for(s(1));
    alice.does(Answer::Answers(ms(0)));
    alice.registers();
    sim.run_for(s(3));
    alice.expects_invites(1);
    assert!(alice.acks() >= 1);
    assert_eq!(alice.got("BYE").len(), 1);
}

#[test]
fn a_phone_that_does_not_answer_is_told_by_a_push() {
    let sim = sim();
    let (alice, mut push) = (iphone(&sim, "alice"), sim.push());
    let call = call(&sim);
    call.cancels("");
    sim.run_for(s(1));
    push.expects(1);
    alice.does(Answer::Silent);
    alice.registers();
    sim.run_for(s(4));
    push.expects(0);
    sim.run_for(s(4));
    push.expects(1);
    assert_eq!(push.kinds(), [NoticeKind::Invite, NoticeKind::MissedCalls]);
    assert_eq!(push.reported(), [call.call_ref()]);
}

#[test]
fn after_a_minute_the_screen_is_closed_anyway() {
    let sim = sim();
    let (alice, mut push) = (iphone(&sim, "alice"), sim.push());
    let call = call(&sim);
    call.cancels("");
    sim.run_for(s(61));
    push.expects(1);
    alice.registers();
    sim.run_for(s(2));
    alice.expects_invites(0);
    assert_eq!(push.reported(), [call.call_ref()]);
}

#[test]
fn each_call_that_is_over_is_cancelled_and_one_that_goes_on_rings() {
    let sim = sim();
    let alice = iphone(&sim, "alice");
    for _ in 0..2 {
        call(&sim).cancels("");
    }
    let goes_on = call(&sim);
    alice.does(Answer::Answers(s(2)));
    alice.registers();
    sim.run_for(s(4));
    alice.expects_invites(3);
    assert_eq!(alice.got("CANCEL").len(), 2);
    assert_eq!(goes_on.status(), Some(200));
}

#[test]
fn only_what_a_voip_push_has_shown_is_cancelled() {
    let sim = sim();
    let (android, mut push) = (sim.device("alice", "android", Transport::Udp), sim.push());
    android.registers();
    android.sleeps();
    call(&sim).cancels("");
    sim.run_for(s(1));
    android.registers();
    sim.run_for(s(2));
    android.expects_invites(0);
    push.expects(2);

    // As by default.
    let sim = Sim::new();
    let alice = iphone(&sim, "alice");
    call(&sim).cancels("");
    sim.run_for(s(1));
    alice.registers();
    sim.run_for(s(2));
    alice.expects_invites(0);
}

/// What `hold.late_wake` means where it is not set.
#[test]
fn by_default_it_is_what_suits_the_app() {
    for (knows_calls_again, kind, invites) in
        [(true, "iphone", 1), (false, "iphone", 0), (true, "remote only", 0), (true, "android", 0)]
    {
        let sim = Sim::with(|policy| {
            policy.hold.late_wake = LateWake::ByPlatform;
            policy.push = Arc::new(Support { knows_calls_again, ..Support::default() });
        });
        let mut push = sim.push();
        let phone = if kind == "iphone" { iphone(&sim, "alice") } else { sim.device("alice", "alice", Transport::Udp) };
        if kind == "remote only" {
            let push = ";pn-provider=apns;pn-param=DEF123GHIJ.org.example.remote;pn-prid=bb".to_owned();
            phone.change(|agent| agent.device.push = push);
        }
        phone.registers();
        phone.sleeps();
        let call = call(&sim);
        call.cancels("");
        sim.run_for(s(1));
        push.expects(1);
        phone.registers();
        sim.run_for(s(2));
        phone.expects_invites(invites);
        assert_eq!(phone.got("CANCEL").len(), invites);
        // Who has not had it by INVITE is told by a push.
        push.expects(1 - invites);
    }
}

#[test]
fn a_phone_whose_push_was_not_taken_knows_of_nothing() {
    let sim = sim();
    let alice = iphone(&sim, "alice");
    sim.world()
        .pushes
        .script
        .entry(prid("alice"))
        .or_default()
        .push_back(sip_push_proxy::push::Outcome::Refused { reason: "TopicDisallowed".into() });
    let call = call(&sim);
    call.expects(&[100, 182, 480]);
    alice.registers();
    sim.run_for(s(2));
    alice.expects_invites(0);
}

#[test]
fn a_device_with_only_a_voip_token_keeps_its_entries() {
    let sim = Sim::new();
    let (alice, mut push) = (sim.phone("alice"), sim.push());
    alice.change(|agent| {
        agent.device.push = ";pn-provider=apns;pn-param=DEF123GHIJ.org.example.voip;pn-prid=aa".into();
    });
    alice.registers();
    alice.sleeps();
    let call = call(&sim);
    call.cancels("");
    sim.run_for(s(1));
    alice.registers();
    sim.run_for(s(60));
    assert_eq!(alice.bucket().len(), 1);
    assert_eq!(push.kinds(), [NoticeKind::Invite]);
    // With a remote token it can be told.
    alice.change(|agent| {
        agent.device.push =
            ";pn-provider=apns;pn-param=DEF123GHIJ.org.example.voip&remote;pn-prid=aa:voip&bb:remote".into();
    });
    alice.registers();
    sim.run_for(s(2));
    push.expects(2);
    assert_eq!((alice.bucket().len(), push.reported()), (0, vec![call.call_ref()]));
}
