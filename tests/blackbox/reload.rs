//! SIGHUP and `reload`: what changes while the server goes on.

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

#[test]
fn operator_is_told_what_a_reload_has_changed_and_what_needs_a_restart() {
    let mut world = World::with_program(Mode::Alias, Udp, "hold.wait_s = 1\nhold.no_return_status = 480");
    let phone = crate::held_call::asleep(&mut world, Push::Fcm);
    assert_eq!(world.command(&["reload"]), ("the configuration is the same\n".to_owned(), Some(0)));
    world.rewrite_config("no_return_status = 480", "no_return_status = 404");
    world.rewrite_config("t1_ms = 5000", "t1_ms = 4000");
    let (told, code) = world.command(&["reload"]);
    let rows: Vec<Vec<_>> = told.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let expected = [
        ["hold.no_return_status", "480", "404", "in", "effect"].as_slice(),
        &["sip.t1_ms", "5000", "4000", "needs", "a", "restart"],
    ];
    assert_eq!((rows, code), (expected.map(<[_]>::to_vec).to_vec(), Some(0)), "{told}");
    calls_end_with(&world, &phone, 404);
    // What needs a restart is told each time, until there is one.
    let (told, _) = world.command(&["reload", "--json"]);
    assert_eq!(
        told.parse::<serde_json::Value>().expect("JSON"),
        serde_json::json!({
            "changed": [],
            "needs_restart": [{ "key": "sip.t1_ms", "from": "5000", "to": "4000" }]
        })
    );
    world.rewrite_config("no_return_status = 404", "no_return_status = 7");
    assert_eq!(world.command(&["reload"]), (String::new(), Some(1)));
    calls_end_with(&world, &phone, 404);
}

#[test]
fn log_level_changes_while_the_server_runs() {
    let world = World::with_program(Mode::Alias, Udp, "");
    let told = "the log's level is sip_push_proxy=debug until the next reload\n";
    assert_eq!(world.command(&["log", "sip_push_proxy=debug"]), (told.to_owned(), Some(0)));
    assert_eq!(world.command(&["log", "loud"]), (String::new(), Some(1)));
}
