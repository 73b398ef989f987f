//! One token of several users: the accounts of one app, or somebody who has got hold of it.

use sip_push_proxy::proxy::CallStep;
use sip_push_proxy::proxy::policy::PushWhen;
use sip_push_proxy::push::{Outcome, Trouble};
use sip_push_proxy::sip::Transport;
use sip_push_proxy::timeline::{Reason, Step};

use crate::sim::{Phone, Request, Sim, ms, s};

/// A phone of the user whose app has the one token.
fn account(sim: &Sim, user: &str) -> Phone {
    let phone = sim.phone(user);
    phone.change(|agent| {
        agent.device.push = ";pn-provider=fcm;pn-param=project;pn-prid=token-app".into();
        agent.device.expires = Some(60);
    });
    phone.registers();
    phone.sleeps();
    phone
}

/// A call that its caller gives up.
fn calls(sim: &Sim, user: &str) -> Request {
    let call = sim.switch().invites(user);
    sim.run_for(s(1));
    call.cancels("");
    sim.run_for(s(1));
    call
}

fn two_for_a_token() -> Sim {
    Sim::with(|policy| policy.aors_per_token_max = 2)
}

/// Why the call left a device out.
fn reasons(sim: &Sim, call: &Request) -> Vec<Reason> {
    let (call_ref, world) = (call.call_ref(), sim.world());
    let skipped = |step: &&CallStep| *step.call_ref == *call_ref && step.step == Step::DeviceSkipped;
    let steps = world.ledger.steps.iter().filter(skipped);
    steps.filter_map(|step| step.why.as_ref()).map(|why| why.reason).collect()
}

#[test]
fn those_that_registered_last_are_pushed() {
    let sim = two_for_a_token();
    let mut push = sim.push();
    let alice = account(&sim, "alice");
    account(&sim, "bob");
    account(&sim, "carol");
    sim.run_for(s(100));
    let call = calls(&sim, "alice");
    call.expects(&[100, 480]);
    push.expects(0);
    assert_eq!(reasons(&sim, &call), [Reason::TooManyAors]);
    for user in ["bob", "carol"] {
        assert_eq!(reasons(&sim, &calls(&sim, user)), []);
        push.expects(1);
    }
    alice.registers();
    alice.sleeps();
    sim.run_for(s(100));
    calls(&sim, "alice");
    push.expects(1);
    assert_eq!(reasons(&sim, &calls(&sim, "bob")), [Reason::TooManyAors]);
    push.expects(0);
}

#[test]
fn several_phones_of_a_user_count_once() {
    let sim = two_for_a_token();
    let mut push = sim.push();
    account(&sim, "alice");
    for name in ["bob-1", "bob-2", "bob-3"] {
        let phone = sim.device("bob", name, Transport::Udp);
        phone.change(|agent| agent.device.push = ";pn-provider=fcm;pn-param=project;pn-prid=token-app".into());
        phone.registers();
        phone.sleeps();
    }
    calls(&sim, "alice");
    push.expects(1);
}

#[test]
fn a_phone_that_is_awake_gets_its_call_and_is_not_pushed_when_it_is_lost() {
    let sim = Sim::with(|policy| {
        policy.aors_per_token_max = 2;
        policy.hold.push_when = PushWhen::Unreachable;
    });
    let mut push = sim.push();
    let alice = sim.device("alice", "alice", Transport::Tcp);
    alice.change(|agent| agent.device.push = ";pn-provider=fcm;pn-param=project;pn-prid=token-app".into());
    alice.registers();
    account(&sim, "bob");
    account(&sim, "carol");
    let call = sim.switch().invites("alice");
    sim.run_for(s(1));
    call.expects(&[100, 180]);
    alice.expects_invites(1);
    call.cancels("");
    sim.run_for(s(1));
    alice.sleeps();
    let call = sim.switch().invites("alice");
    sim.run_for(s(1));
    assert_eq!((call.status(), reasons(&sim, &call)), (Some(480), vec![Reason::TooManyAors]));
    push.expects(0);
}

#[test]
fn missed_calls_are_kept_until_the_token_is_the_users_again() {
    let sim = two_for_a_token();
    let mut push = sim.push();
    let alice = account(&sim, "alice");
    let missed = calls(&sim, "alice");
    push.expects(1);
    sim.push().next("app", Outcome::TryAgain { trouble: Trouble::Failing, after: None, reason: "503".into() });
    alice.registers();
    alice.sleeps();
    sim.run_for(ms(100));
    push.expects(1);
    account(&sim, "bob");
    account(&sim, "carol");
    sim.run_for(s(600));
    push.expects(0);
    alice.registers();
    sim.run_for(s(1));
    push.expects(1);
    assert_eq!(push.reported(), [missed.call_ref()]);
}
