//! A call to a sleeping phone, from the INVITE to the BYE.

use crate::agent::Answer;
use crate::sim::{Sim, ms, s};

#[test]
fn a_sleeping_phone_is_pushed_wakes_rings_and_answers() {
    let sim = Sim::new();
    let (alice, switch, mut push) = (sim.phone("alice"), sim.switch(), sim.push());
    alice.does(Answer::Answers(s(3)));
    alice.registers();
    alice.sleeps();
    let call = switch.invites("alice");
    sim.run_for(ms(100));
    call.expects(&[100, 182]);
    push.expects(1);
    alice.expects_invites(0);
    alice.registers();
    alice.expects_invites(1);
    sim.run_for(s(4));
    call.expects(&[100, 182, 180, 200]);
    assert_eq!(alice.acks(), 1);
    assert_eq!(alice.bucket(), []);
    let bye = call.sends("BYE");
    sim.run_for(ms(100));
    bye.expects(&[200]);
    assert_eq!(alice.got("BYE").len(), 1);
    push.expects(0);
}
