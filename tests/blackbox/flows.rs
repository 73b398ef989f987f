//! Phones that move, share a port, or are heard of by their open connection alone.

use sip_push_proxy::sip::Transport::{Tcp, Udp};

use crate::peer::options;
use crate::phone::{Phone, Push};
use crate::world::{Mode, World};

/// It answers the push by what its platform keeps the connection open with, and registers only when its time is over.
#[test]
fn a_phone_that_answers_its_push_by_its_open_connection_is_called_by_it() {
    for workers in [1, 2] {
        for sign in ["\r\n\r\n", "\r\n", "OPTIONS"] {
            let mut world = World::with(Mode::Alias, Udp, &format!("sip.workers = {workers}"));
            let mut phone = Phone::new("alice", Push::Fcm, Tcp);
            phone.register(&mut world);
            let call = world.call(&phone);
            world.switch.queued();
            world.pushed_invite(&phone, 28);
            world.admin.expect_step(&call.call_id, "push_accepted");
            let incoming = if sign == "OPTIONS" {
                phone.link().send(options(phone.peer(), world.sip(Tcp)));
                phone.invited_and_heard("OPTIONS")
            } else {
                phone.link().send(sign);
                phone.invited()
            };
            incoming.answer(200, "OK");
            call.confirm(&world.switch.response(200, "INVITE"));
            incoming.confirmed();
            phone.expect_nothing_more(&world);
            assert_eq!(world.pushes(), 1);
            world.stop();
        }
    }
}

/// As belle-sip and pjsip register after a network change: the new Contact, and the old one with `expires=0`.
#[test]
fn a_phone_that_takes_its_old_contact_out_as_it_moves_can_be_called() {
    for mode in [Mode::Alias, Mode::Path, Mode::Open] {
        let mut world = World::start(mode, Udp);
        let mut phone = Phone::new("alice", Push::Fcm, Udp);
        phone.register(&mut world);
        let old = phone.contact();
        phone.wake(&world);
        let contacts = [(phone.contact(), ""), (old.clone(), ";expires=0")];
        let contacts = contacts.map(|(uri, expires)| format!("Contact: <{uri}>{}{expires}\r\n", phone.instance));
        phone.send_register_with(&contacts.concat());
        if mode.is_relay() {
            let register = world.switch.accept_register(&phone.aor());
            let is_alias = mode == Mode::Alias;
            assert_eq!(register.headers("Contact").len(), if is_alias { 1 } else { 2 }, "{register:?}");
        }
        let accepted = phone.peer().response(200, "REGISTER");
        assert_eq!(accepted.headers("Contact").len(), 1, "{accepted:?}");
        assert_eq!(accepted.contact(), phone.contact());
        let call = world.call(&phone);
        world.switch.queued();
        world.pushed_invite(&phone, 28);
        phone.refresh(&mut world);
        let incoming = phone.invited();
        assert_eq!(incoming.invite.uri(), phone.contact());
        incoming.answer(200, "OK");
        call.confirm(&world.switch.response(200, "INVITE"));
        incoming.confirmed();
        assert_eq!(world.admin.bindings(&phone.aor()).len(), 1);
        world.stop();
    }
}

#[test]
fn a_phone_that_a_nat_gave_the_port_of_another_to_does_not_get_its_calls() {
    let mut world = World::with(Mode::Alias, Udp, "hold.push_when = 'unreachable'");
    let (mut alice, mut bob) = (Phone::new("alice", Push::Fcm, Udp), Phone::new("bob", Push::Fcm, Udp));
    alice.register(&mut world);
    bob.takes_line(alice.walk_away());
    bob.refresh(&mut world);
    let [taken] = &world.admin.bindings(&alice.aor())[..] else { panic!("one binding") };
    assert_eq!(taken["reachable"], false);
    let call = world.call(&alice);
    world.switch.queued();
    world.pushed_invite(&alice, 28);
    bob.expect_nothing_more(&world);
    alice.register(&mut world);
    let incoming = alice.invited();
    incoming.answer(200, "OK");
    call.confirm(&world.switch.response(200, "INVITE"));
    incoming.confirmed();
}

/// Its connection closes while it rings; the app that starts again has forgotten the call.
#[test]
fn an_app_that_was_killed_while_it_rang_gets_the_invite_again() {
    for transport in [Udp, Tcp] {
        let mut world = World::with(Mode::Alias, Udp, "sip.workers = 2");
        let mut phone = Phone::new("alice", Push::Fcm, transport);
        phone.register(&mut world);
        let call = world.call(&phone);
        world.switch.queued();
        world.pushed_invite(&phone, 28);
        phone.refresh(&mut world);
        let incoming = phone.invited();
        incoming.answer(180, "Ringing");
        world.switch.response(180, "INVITE");
        let branch = incoming.invite.header("Via").to_owned();
        phone.register(&mut world);
        let again = phone.invited();
        let branch_of = |via: &str| via.split("branch=").nth(1).map(str::to_owned);
        assert_eq!(branch_of(again.invite.header("Via")), branch_of(&branch));
        again.answer(200, "OK");
        call.confirm(&world.switch.response(200, "INVITE"));
        again.confirmed();
        phone.expect_nothing_more(&world);
        assert_eq!(world.pushes(), 1);
        world.stop();
    }
}

/// Apps that clean up before they register.
#[test]
fn a_phone_that_unregisters_and_registers_while_it_is_called_gets_its_call() {
    for mode in [Mode::Alias, Mode::Open] {
        let mut world = World::start(mode, Udp);
        let mut phone = Phone::new("alice", Push::Fcm, Udp);
        phone.register(&mut world);
        phone.sleep();
        let call = world.call(&phone);
        world.switch.queued();
        world.pushed_invite(&phone, 28);
        phone.wake(&world);
        phone.expires = Some(0);
        phone.send_register_with("Contact: *\r\n");
        if mode.is_relay() {
            world.switch.accept_register(&phone.aor());
        }
        phone.peer().response(200, "REGISTER");
        assert_eq!(world.admin.bindings(&phone.aor()).len(), 0);
        phone.expires = Some(3600);
        phone.refresh(&mut world);
        let incoming = phone.invited();
        incoming.answer(200, "OK");
        call.confirm(&world.switch.response(200, "INVITE"));
        incoming.confirmed();
        assert_eq!(world.pushes(), 1);
        world.stop();
    }
}
