//! SIGHUP: what changes while the server goes on.

use sip_push_proxy::sip::Transport::Udp;

use crate::phone::Push;
use crate::world::{Mode, World};

/// Calls a sleeping phone until the answer is `status`.
#[track_caller]
fn calls_end_with(world: &World, phone: &crate::phone::Phone, status: u16) {
    crate::peer::eventually("calls to end as configured", || {
        let call = world.call(phone);
        world.switch.queued();
        let (answer, _) = world.switch.peer.receive();
        call.ack(&answer);
        (answer.status() == status).then_some(())
    });
}

#[test]
fn hang_up_signal_reloads_and_a_wrong_file_changes_nothing() {
    let mut world = World::with_program(Mode::Alias, Udp, "hold.wait_s = 1\nhold.no_return_status = 480");
    let phone = crate::held_call::asleep(&mut world, Push::Fcm);
    calls_end_with(&world, &phone, 480);
    world.rewrite_config("no_return_status = 480", "no_return_status = 404");
    world.program().hang_up();
    calls_end_with(&world, &phone, 404);
    world.rewrite_config("no_return_status = 404", "no_return_status = 7");
    world.program().hang_up();
    calls_end_with(&world, &phone, 404);
}
