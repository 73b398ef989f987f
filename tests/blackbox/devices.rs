//! Several devices of one user, and several workers.

use sip_push_proxy::sip::Transport::{Tcp, Udp};

use crate::phone::{Phone, Push};
use crate::world::{Mode, World};

/// The softswitch calls the AOR, as a trunk does; with an alias it would name one device.
const MODE: Mode = Mode::Open;

fn two_devices(world: &mut World) -> (Phone, Phone) {
    let mut android = Phone::new("alice", Push::Fcm, Udp);
    let mut iphone = Phone::new("alice", Push::Apns, Tcp);
    android.register(world);
    iphone.register(world);
    android.sleep();
    iphone.sleep();
    assert_eq!(world.admin.bindings("alice@example.org").len(), 2);
    (android, iphone)
}

#[test]
fn first_device_to_answer_has_the_call() {
    let mut world = World::start(MODE, Udp);
    let (mut android, mut iphone) = two_devices(&mut world);
    let call = world.call(&android);
    world.switch.queued();
    world.pushed_invite(&android, 28);
    world.pushed_invite(&iphone, 28);
    android.register(&mut world);
    let at_android = android.invited();
    at_android.answer(180, "Ringing");
    world.switch.response(180, "INVITE");
    iphone.register(&mut world);
    let at_iphone = iphone.invited();
    at_iphone.answer(180, "Ringing");
    world.switch.response(180, "INVITE");
    at_iphone.answer(200, "OK");
    let ok = world.switch.response(200, "INVITE");
    let cancel = at_android.cancelled();
    assert_eq!(cancel.headers("Reason"), ["SIP;cause=200;text=\"Call completed elsewhere\""]);
    call.confirm(&ok);
    at_iphone.confirmed();
    call.bye(&ok);
    at_iphone.hung_up();
    world.switch.response(200, "BYE");
    world.admin.expect_bucket("alice@example.org", &[]);
    android.expect_nothing_more(&world);
    iphone.expect_nothing_more(&world);
    world.switch.expect_nothing_more();
    assert_eq!(world.pushes(), 2);
}

#[test]
fn device_that_wakes_after_the_answer_hears_nothing() {
    let mut world = World::start(MODE, Udp);
    let (mut android, mut iphone) = two_devices(&mut world);
    let call = world.call(&android);
    world.switch.queued();
    world.pushed_invite(&android, 28);
    world.pushed_invite(&iphone, 28);
    android.register(&mut world);
    let incoming = android.invited();
    incoming.answer(200, "OK");
    call.confirm(&world.switch.response(200, "INVITE"));
    incoming.confirmed();
    iphone.register(&mut world);
    iphone.expect_nothing_more(&world);
    world.admin.expect_bucket("alice@example.org", &[]);
    assert_eq!(world.pushes(), 2);
}

#[test]
fn busy_device_leaves_the_call_to_the_other() {
    let mut world = World::start(MODE, Udp);
    let (mut android, mut iphone) = two_devices(&mut world);
    let call = world.call(&android);
    world.switch.queued();
    world.pushed_invite(&android, 28);
    world.pushed_invite(&iphone, 28);
    android.register(&mut world);
    let at_android = android.invited();
    at_android.answer(486, "Busy Here");
    at_android.confirmed();
    iphone.register(&mut world);
    let at_iphone = iphone.invited();
    at_iphone.answer(486, "Busy Here");
    at_iphone.confirmed();
    call.ack(&world.switch.response(486, "INVITE"));
    world.admin.expect_bucket("alice@example.org", &[]);
}

/// Which worker a datagram comes to depends on its source port, so with so many ports each of two workers holds calls
/// whose phones wake at the other one. The 2xx of the REGISTER comes before the INVITE all the same.
#[test]
fn phone_may_wake_at_another_worker() {
    for (mode, transport) in [(Mode::Alias, Udp), (Mode::Open, Udp), (Mode::Alias, Tcp)] {
        let mut world = World::with(mode, Udp, "sip.workers = 2");
        for _ in 0..16 {
            let mut phone = Phone::new("alice", Push::Fcm, transport);
            phone.register(&mut world);
            phone.sleep();
            let call = world.call(&phone);
            world.switch.queued();
            world.pushed_invite(&phone, 28);
            phone.register(&mut world);
            let incoming = phone.invited();
            incoming.answer(180, "Ringing");
            world.switch.response(180, "INVITE");
            incoming.answer(200, "OK");
            let ok = world.switch.response(200, "INVITE");
            call.confirm(&ok);
            incoming.confirmed();
            incoming.bye();
            let (bye, link) = world.switch.peer.request("BYE");
            link.send(bye.answer(200, "OK", "", ""));
            phone.peer().response(200, "BYE");
            world.admin.expect_bucket(&phone.aor(), &[]);
            let id = world.admin.bindings(&phone.aor())[0]["id"].as_str().expect("an id").to_owned();
            assert_eq!(world.admin.delete(&format!("/api/v1/bindings/{}/{id}", phone.aor())), 200);
        }
        assert_eq!(world.pushes(), 16);
        world.admin.expect_metric("held_calls", 0.0);
        world.admin.expect_healthy();
    }
}
