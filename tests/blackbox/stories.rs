//! What happened to calls is known after a restart, and on other nodes.

use sip_push_proxy::demo::fcm_double;
use sip_push_proxy::sip::Transport::Udp;

use crate::held_call::{answered, asleep};
use crate::peer::eventually_is;
use crate::phone::Push;
use crate::switch::Call;
use crate::world::{Mode, Store, World};

/// A call to a phone whose token is dead.
fn failed(world: &mut World) -> (String, Call) {
    let phone = asleep(world, Push::Fcm);
    world.fcm.script(&phone.token, [fcm_double::Answer::Unregistered]);
    let call = world.call(&phone);
    world.switch.queued();
    call.ack(&world.switch.response(480, "INVITE"));
    (phone.aor(), call)
}

const FAILED: [&str; 6] = ["received", "device_found", "held", "push_sent", "push_refused", "failed"];

/// The command finds the call by its user and by its call_ref, with its reason.
#[track_caller]
fn expect_told(world: &World, aor: &str, call: &Call) {
    let story = world.admin.story(&call.call_id, "push_failed");
    assert!(story.starts_with(&FAILED.map(str::to_owned)), "{story:?}");
    for what in [aor, &call.call_id] {
        let (said, code) = world.command(&["why", what]);
        assert!(said.contains("the push was refused: 404 UNREGISTERED") && code == Some(0), "{said}");
    }
}

#[test]
fn are_told_after_a_restart_and_after_a_crash() {
    let mut world = World::with_program(Mode::Open, Udp, "");
    let (aor, call) = failed(&mut world);
    world.program().terminate();
    assert!(world.program().exit_status().success());
    world.start_program();
    expect_told(&world, &aor, &call);
    // It is written within a second or so; what is older than that is not lost with the process.
    let (_, later) = failed(&mut world);
    std::thread::sleep(std::time::Duration::from_millis(2500));
    world.program().kill();
    world.start_program();
    expect_told(&world, &aor, &call);
    expect_told(&world, &aor, &later);
}

#[test]
fn are_told_by_each_node() {
    let mut world = World::with_program_on(Store::Redis, Mode::Open, Udp, "");
    let other = world.another_node("");
    let (aor, call) = failed(&mut world);
    let story = other.admin.story(&call.call_id, "push_failed");
    assert!(story.starts_with(&FAILED.map(str::to_owned)), "{story:?}");
    for list in ["/api/v1/calls".to_owned(), format!("/api/v1/calls?aor={aor}")] {
        eventually_is(&list, || {
            let (here, there) = (world.admin.get(&list), other.admin.get(&list));
            let refs = |list: &serde_json::Value| list["calls"][0]["call_ref"] == call.call_id.as_str();
            if refs(&here) && refs(&there) { Ok(()) } else { Err(format!("{here} {there}")) }
        });
    }
    // Where it was seen stands with each step that was not seen here.
    let steps = |admin: crate::admin::Admin| admin.get(&format!("/api/v1/calls/{}", call.call_id))["steps"].clone();
    let nodes = |steps: &serde_json::Value| -> Vec<_> {
        steps.as_array().expect("steps").iter().map(|step| step["node"].as_str().map(str::to_owned)).collect()
    };
    assert!(nodes(&steps(world.admin)).iter().all(Option::is_none));
    let there = nodes(&steps(other.admin));
    assert!(there.iter().all(|node| node.is_some() && *node == there[0]), "{there:?}");
}

#[test]
fn of_a_call_that_was_taken_over_are_one() {
    let mut world = World::with_program_on(Store::Redis, Mode::Open, Udp, "node.lease_s = 2\nhold.wait_s = 60\n");
    let other = world.another_node("");
    let mut phone = asleep(&mut world, Push::Fcm);
    let call = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 60);
    eventually_is("the story at the other node", || {
        let status = other.admin.status("GET", &format!("/api/v1/calls/{}", call.call_id));
        if status == 200 { Ok(()) } else { Err(status) }
    });
    world.program().kill();
    world.phones_go_to(&other);
    phone.register(&mut world);
    answered(&world, &phone, &call);
    let story = other.admin.story(&call.call_id, "answered");
    let places: Vec<_> =
        ["held", "push_sent", "answered"].iter().map(|name| story.iter().position(|step| step == name)).collect();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{story:?}");
}

#[test]
fn of_this_node_are_told_when_redis_is_away() {
    let mut world = World::with_program_on(Store::Redis, Mode::Open, Udp, "store.timeout_ms = 100\n");
    let (aor, call) = failed(&mut world);
    world.redis().kill();
    let calls = eventually_is("a partial list", || {
        let calls = world.admin.get(&format!("/api/v1/calls?aor={aor}"));
        if calls["partial"].is_string() { Ok(calls) } else { Err(calls) }
    });
    assert_eq!(calls["calls"][0]["call_ref"], call.call_id.as_str());
    expect_told(&world, &aor, &call);
}
