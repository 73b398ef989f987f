//! Two nodes on one Redis: a phone wakes on the other node than the one that holds its call, and a node goes away while it
//! holds calls (design: several nodes).

use std::collections::BTreeSet;

use sip_push_proxy::sip::Transport::{self, Tcp, Udp};

use crate::held_call::answered;
use crate::peer::eventually;
use crate::phone::{Phone, Push};
use crate::sip::in_brackets;
use crate::switch::Call;
use crate::world::{Mode, Node, Store, World};

/// Silence is noticed soon, but not within the pauses that a busy machine makes.
const LEASE: &str = "node.lease_s = 2\nhold.wait_s = 60\n";

fn world(mode: Mode) -> World {
    World::with_program_on(Store::Redis, mode, Udp, LEASE)
}

/// A phone that registered with the first node and sleeps.
fn asleep(world: &mut World, transport: Transport) -> Phone {
    let mut phone = Phone::new("alice", Push::Fcm, transport);
    phone.register(world);
    phone.sleep();
    phone
}

/// What both nodes show of the phone's bucket.
#[track_caller]
fn expect_bucket(world: &World, other: &Node, phone: &Phone, expected: &[(&str, &str)]) {
    world.admin.expect_bucket(&phone.aor(), expected);
    other.admin.expect_bucket(&phone.aor(), expected);
}

#[track_caller]
fn phone_wakes_on_the_other_node(mode: Mode, transport: Transport) {
    let mut world = world(mode);
    let other = world.another_node("");
    let mut phone = asleep(&mut world, transport);
    let call = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 60);
    expect_bucket(&world, &other, &phone, &[(&call.call_id, "live")]);

    world.phones_go_to(&other);
    phone.register(&mut world);
    let incoming = phone.invited();
    assert_eq!(incoming.invite.header("Call-ID"), call.call_id);
    assert_eq!(incoming.invite.uri(), phone.contact());
    // The dialog goes by the node that has the phone, and by no other. A token for nodes leaves nodes never.
    let routes = incoming.invite.headers("Record-Route");
    let through = |address: std::net::SocketAddr| routes.iter().any(|route| route.contains(&address.to_string()));
    assert!(through(other.sip(transport)), "{routes:?}");
    assert_eq!(incoming.invite.headers("Route"), Vec::<String>::new());
    incoming.answer(180, "Ringing");
    world.switch.response(180, "INVITE");
    incoming.answer(200, "OK");
    let ok = world.switch.response(200, "INVITE");
    call.confirm(&ok);
    incoming.confirmed();
    call.bye(&ok);
    incoming.hung_up();
    world.switch.response(200, "BYE");
    expect_bucket(&world, &other, &phone, &[]);
    let story = world.admin.story(&call.call_id, "answered");
    assert!(story.ends_with(&["registered", "forwarded", "ringing", "answered"].map(str::to_owned)), "{story:?}");
    phone.expect_nothing_more(&world);
    world.switch.expect_nothing_more();
    assert_eq!(world.pushes(), 1);
    world.admin.expect_healthy();
    other.admin.expect_healthy();
}

#[test]
fn phone_wakes_on_the_other_node_by_udp() {
    phone_wakes_on_the_other_node(Mode::Open, Udp);
}

#[test]
fn phone_wakes_on_the_other_node_by_tcp() {
    phone_wakes_on_the_other_node(Mode::Open, Tcp);
}

#[test]
fn phone_wakes_on_the_other_node_behind_a_registrar() {
    phone_wakes_on_the_other_node(Mode::Alias, Udp);
}

#[test]
fn phone_wakes_on_the_other_node_by_its_path() {
    phone_wakes_on_the_other_node(Mode::Path, Tcp);
}

#[test]
fn caller_gives_up_while_the_phone_of_the_other_node_rings() {
    let mut world = world(Mode::Open);
    let other = world.another_node("");
    let mut phone = asleep(&mut world, Udp);
    let call = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 60);
    world.phones_go_to(&other);
    phone.register(&mut world);
    let incoming = phone.invited();
    incoming.answer(180, "Ringing");
    world.switch.response(180, "INVITE");
    call.cancel("");
    world.switch.response(200, "CANCEL");
    incoming.cancelled();
    call.ack(&world.switch.response(487, "INVITE"));
    // It rang, so the phone knows of the call itself.
    expect_bucket(&world, &other, &phone, &[]);
    assert_eq!(world.pushes(), 1);
}

#[test]
fn missed_calls_are_reported_by_one_push_whatever_the_number_of_nodes() {
    let mut world = world(Mode::Open);
    let other = world.another_node("");
    let mut phone = asleep(&mut world, Udp);
    let call = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 60);
    crate::held_call::give_up(&world, &call, "");
    expect_bucket(&world, &other, &phone, &[(&call.call_id, "missed")]);
    world.phones_go_to(&other);
    phone.register(&mut world);
    assert_eq!(world.pushed(&phone).json()["message"]["data"]["type"], "missed_calls");
    expect_bucket(&world, &other, &phone, &[]);
    phone.expect_nothing_more(&world);
    assert_eq!(world.pushes(), 2);
}

/// The other node says that the connection is gone, so the call is held and the phone pushed.
#[test]
fn phone_that_left_the_other_node_is_pushed() {
    let mut world = World::with_program_on(
        Store::Redis,
        Mode::Open,
        Udp,
        &format!("{LEASE}hold.push_when = 'unreachable'\nhold.probe_ms = 30000\n"),
    );
    let other = world.another_node("");
    let first_node = [Udp, Tcp].map(|transport| world.sip(transport));
    world.phones_go_to(&other);
    let mut phone = asleep(&mut world, Tcp);
    eventually("the binding on the first node", || (!world.admin.bindings(&phone.aor()).is_empty()).then_some(()));
    let call = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 60);
    world.phones_go_back(first_node);
    phone.register(&mut world);
    answered(&world, &phone, &call);
    expect_bucket(&world, &other, &phone, &[]);
}

/// Nobody is told that it died; the INVITE that goes there finds nobody.
#[test]
fn phone_of_a_node_that_died_is_pushed() {
    let config = format!("{LEASE}hold.push_when = 'unreachable'\nhold.probe_ms = 200\n");
    let mut world = World::with_program_on(Store::Redis, Mode::Open, Udp, &config);
    let mut other = world.another_node("");
    let first_node = [Udp, Tcp].map(|transport| world.sip(transport));
    world.phones_go_to(&other);
    let mut phone = asleep(&mut world, Udp);
    eventually("the binding on the first node", || (!world.admin.bindings(&phone.aor()).is_empty()).then_some(()));
    other.program.kill();
    let call = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 60);
    world.phones_go_back(first_node);
    phone.register(&mut world);
    answered(&world, &phone, &call);
    world.admin.expect_bucket(&phone.aor(), &[]);
}

/// Sleeping phones, each with a call that the first node holds.
fn held(world: &mut World, count: usize) -> Vec<(Phone, Call)> {
    held_with_tags(world, count).0
}

/// As [`held`], and the To tags that the callers know.
fn held_with_tags(world: &mut World, count: usize) -> (Vec<(Phone, Call)>, BTreeSet<String>) {
    let mut phones: Vec<_> = (0..count).map(|number| Phone::new(&format!("callee{number}"), Push::Fcm, Udp)).collect();
    for phone in &mut phones {
        phone.register(world);
        phone.sleep();
    }
    let mut tags = BTreeSet::new();
    let hold = |phone: Phone| {
        let call = world.call(&phone);
        tags.insert(world.switch.queued().to_tag().to_owned());
        assert_eq!(world.pushed(&phone).token, phone.token);
        (phone, call)
    };
    (phones.into_iter().map(hold).collect(), tags)
}

/// The other node pushes each phone once more, and each takes its call there.
#[track_caller]
fn taken_over(world: &mut World, other: &Node, held: &mut [(Phone, Call)]) {
    other.admin.expect_metric("held_calls", f64::from(u32::try_from(held.len()).expect("few")));
    let pushed: BTreeSet<_> = held.iter().map(|(phone, _)| world.pushed(phone).token).collect();
    assert_eq!(pushed, held.iter().map(|(phone, _)| phone.token.clone()).collect());
    world.phones_go_to(other);
    for (phone, call) in held {
        phone.register(world);
        answered(world, phone, call);
        other.admin.expect_bucket(&phone.aor(), &[]);
        phone.expect_nothing_more(world);
    }
    other.admin.expect_metric("held_calls", 0.0);
    other.admin.expect_healthy();
}

#[test]
fn calls_of_a_node_that_is_killed_go_on_at_the_other() {
    let mut world = world(Mode::Open);
    let other = world.another_node("");
    let (mut held, to_tags) = held_with_tags(&mut world, 20);
    world.program().kill();
    // The callers' early dialogs go on.
    let tags: BTreeSet<_> = (0..held.len()).map(|_| world.switch.queued().to_tag().to_owned()).collect();
    assert_eq!(tags, to_tags);
    taken_over(&mut world, &other, &mut held);
    other.admin.expect_metric("nodes", 1.0);
}

/// Its answer would go to nobody, so it is woken once more.
#[test]
fn call_that_rang_by_a_node_that_died_rings_again_by_the_other() {
    let mut world = world(Mode::Open);
    let other = world.another_node("");
    let mut held = held(&mut world, 1);
    let (phone, call) = &mut held[0];
    phone.register(&mut world);
    let incoming = phone.invited();
    incoming.answer(180, "Ringing");
    world.switch.response(180, "INVITE");
    world.program().kill();
    assert_eq!(world.pushed(phone).token, phone.token);
    world.phones_go_to(&other);
    phone.register(&mut world);
    answered(&world, phone, call);
    other.admin.expect_bucket(&phone.aor(), &[]);
}

/// It has registered, and need not register again.
#[test]
fn phone_that_came_before_its_call_was_taken_over_gets_it() {
    let mut world = world(Mode::Open);
    let other = world.another_node("");
    let mut held = held(&mut world, 1);
    let (phone, call) = &mut held[0];
    world.program().kill();
    world.phones_go_to(&other);
    phone.register(&mut world);
    answered(&world, phone, call);
    other.admin.expect_bucket(&phone.aor(), &[]);
    assert_eq!(world.pushes(), 1);
}

/// It may have gone to sleep again in the time in which nobody had the call, so it is probed.
#[test]
fn phone_that_came_long_before_its_call_was_taken_over_gets_it() {
    let mut world = World::with_program_on(
        Store::Redis,
        Mode::Open,
        Udp,
        "node.lease_s = 8\nhold.wait_s = 60\nhold.probe_ms = 30000\n",
    );
    let other = world.another_node("");
    let mut held = held(&mut world, 1);
    let (phone, call) = &mut held[0];
    world.program().kill();
    world.phones_go_to(&other);
    phone.register(&mut world);
    answered(&world, phone, call);
    assert_eq!(world.pushes(), 1);
}

#[test]
fn calls_of_a_node_that_is_stopped_go_on_at_the_other() {
    let mut world = World::with_program_on(
        Store::Redis,
        Mode::Open,
        Udp,
        "node.lease_s = 600\nhold.wait_s = 60\nnode.drain_s = 0\n",
    );
    let other = world.another_node("");
    let mut held = held(&mut world, 10);
    world.program().terminate();
    assert_eq!(world.program().exit_status().code(), Some(0));
    taken_over(&mut world, &other, &mut held);
}

/// It was only slow: what it holds is the other's then, and it does not interfere.
#[test]
fn node_that_stood_still_leaves_its_calls_to_the_other() {
    let mut world = world(Mode::Open);
    let other = world.another_node("");
    let mut held = held(&mut world, 5);
    let first = world.admin;
    world.program().signal("-STOP");
    other.admin.expect_metric("held_calls", 5.0);
    world.program().signal("-CONT");
    first.expect_metric("held_calls", 0.0);
    taken_over(&mut world, &other, &mut held);
    // It takes calls as before.
    let mut phone = Phone::new("bob", Push::Fcm, Udp);
    phone.register(&mut world);
    phone.sleep();
    eventually("the binding on the first node", || (!first.bindings(&phone.aor()).is_empty()).then_some(()));
    let call = world.call(&phone);
    let queued = world.switch.queued();
    assert_eq!(in_brackets(queued.header("To")), format!("sip:{}", phone.aor()));
    assert_eq!(world.pushed(&phone).token, phone.token);
    phone.register(&mut world);
    answered(&world, &phone, &call);
    first.expect_metric("held_calls", 0.0);
    world.switch.expect_nothing_more();
    first.expect_healthy();
}
