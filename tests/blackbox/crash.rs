//! The program dies, or is asked to stop: nothing that it has acknowledged is lost.

use std::collections::{BTreeSet, HashMap};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use sip_push_proxy::sip::Transport::{Tcp, Udp};

use crate::admin::Admin;
use crate::held_call::answered;
use crate::peer::{DEADLINE, Heard, eventually_is};
use crate::phone::{Phone, Push};
use crate::program::Program;
use crate::sip::in_brackets;
use crate::switch::Call;
use crate::world::{Mode, World};

/// 200 REGISTERs a second.
pub(crate) const PACE: Duration = Duration::from_millis(5);

/// Makes the phone another device of another user.
pub(crate) fn become_user(phone: &mut Phone, number: usize) {
    phone.user = format!("user{number}");
    phone.token = format!("token-{number}");
    phone.instance = format!(";+sip.instance=\"<urn:uuid:{number}>\"");
}

/// AORs whose REGISTER was answered 200, of all that came to the phone so far.
fn acknowledged(phone: &Phone) -> BTreeSet<String> {
    const MARK: &[u8] = b"MARK x SIP/2.0\r\nCSeq: 1 MARK\r\n\r\n";
    // Comes to the phone's socket after everything that is there already.
    let marker = UdpSocket::bind("127.0.0.2:0").expect("a port");
    marker.send_to(MARK, phone.peer().address).expect("sent");
    let mut acknowledged = BTreeSet::new();
    loop {
        let Some(Heard::Message(message, _)) = phone.peer().hear(DEADLINE) else { panic!("the mark did not come") };
        if message.method() == "MARK" {
            return acknowledged;
        }
        assert_eq!(message.status(), 200, "{message:?}");
        acknowledged.insert(in_brackets(message.header("To")).trim_start_matches("sip:").to_owned());
    }
}

/// All these AORs have a binding. A server on Redis reads them while it works already.
#[track_caller]
pub(crate) fn expect_bindings(admin: Admin, aors: &BTreeSet<String>) {
    eventually_is(&format!("all {} bindings", aors.len()), || {
        let answer = admin.get("/api/v1/bindings?limit=10000");
        let bindings = answer["bindings"].as_array().expect("a list");
        let kept = bindings.iter().map(|binding| binding["aor"].as_str().expect("an AOR").to_owned()).collect();
        let lost: Vec<_> = aors.difference(&kept).cloned().collect();
        if lost.is_empty() { Ok(()) } else { Err(lost) }
    });
}

/// Killed at five moments while phones register, each time after another number of REGISTERs.
#[test]
fn acknowledged_registrations_survive_a_kill() {
    let mut world = World::with_program(Mode::Open, Udp, "limits.source_requests_per_s = 0");
    let mut registered = BTreeSet::new();
    let mut number = 0;
    for registers in [7, 131, 40, 83, 1] {
        let mut phone = Phone::new("nobody", Push::Fcm, Udp);
        phone.wake(&world);
        for _ in 0..registers {
            number += 1;
            become_user(&mut phone, number);
            phone.send_register();
            std::thread::sleep(PACE);
        }
        // The last ones come all at once, so that many are under way.
        for _ in 0..20 {
            number += 1;
            become_user(&mut phone, number);
            phone.send_register();
        }
        world.program().kill();
        let acknowledged = acknowledged(&phone);
        registered.extend(acknowledged);
        world.start_program();
        expect_bindings(world.admin, &registered);
        // The last one that was acknowledged can be called.
        let Some(last) = registered.last() else { continue };
        phone.token = last.replace("user", "token-").replace("@example.org", "");
        let call = world.switch.call(last, "");
        world.switch.queued();
        world.pushed_invite(&phone, 28);
        crate::held_call::give_up(&world, &call, "");
    }
    assert!(registered.len() > number / 4, "only {} of {number} were acknowledged", registered.len());
}

/// What is to hold calls over a kill. Its phones are many behind one address.
pub(crate) const HOLDS_LONG: &str = "sip.workers = 2\nhold.wait_s = 60\nlimits.source_requests_per_s = 0\n";

/// Phones that are awake at a time: each has a port of its own, and a process may have a thousand files open.
const AWAKE_MAX: usize = 50;

/// Has each of these phones do its part, many at a time.
fn all_at_once(phones: &mut [Phone], part: impl Fn(&mut Phone) + Sync) {
    std::thread::scope(|scope| {
        for share in phones.chunks_mut(phones.len().div_ceil(AWAKE_MAX)) {
            scope.spawn(|| share.iter_mut().for_each(&part));
        }
    });
}

fn register_at(phone: &mut Phone, server: SocketAddr) {
    phone.wake_at(server);
    phone.send_register();
    phone.peer().response(200, "REGISTER");
}

/// Calls all phones. The calls by their Call-ID, each with the tag that its caller knows.
fn call_all(world: &World, phones: &[Phone]) -> HashMap<String, (Call, String)> {
    let (mut calls, mut waiting) = (HashMap::new(), phones.iter());
    let mut under_way = HashMap::new();
    while calls.len() < phones.len() {
        while under_way.len() < AWAKE_MAX
            && let Some(phone) = waiting.next()
        {
            let call = world.call(phone);
            under_way.insert(call.call_id.clone(), call);
        }
        let (response, _) = world.switch.peer.receive();
        if response.status() != 100 {
            assert_eq!((response.status(), response.method()), (182, "INVITE"), "{response:?}");
            let call = under_way.remove(response.header("Call-ID")).expect("a call of ours");
            calls.insert(call.call_id.clone(), (call, response.to_tag().to_owned()));
        }
    }
    calls
}

/// Ended while it holds so many calls, and started again; the callers hear nothing of it.
fn held_calls_survive(end: impl Fn(&mut Program), mut world: World, count: u16) {
    let transport = world.switch.peer.transport;
    let server = world.sip(Udp);
    let mut phones: Vec<_> = (0..count).map(|number| Phone::new(&format!("user{number}"), Push::Fcm, Udp)).collect();
    all_at_once(&mut phones, |phone| {
        register_at(phone, server);
        phone.sleep();
    });
    let mut calls = call_all(&world, &phones);
    // They come by many requests at once, in any order.
    let pushed: BTreeSet<_> = phones.iter().map(|phone| world.pushed(phone).token).collect();
    end(world.program());
    if transport == Tcp {
        world.switch.peer.closed();
    }
    world.start_program();
    let pushed_again: BTreeSet<_> = phones.iter().map(|phone| world.pushed(phone).token).collect();
    assert_eq!(pushed, pushed_again);
    world.admin.expect_metric("held_calls", f64::from(count));
    calls.values_mut().for_each(|(call, _)| call.reconnect(&world.switch));
    let phones_answer = || {
        all_at_once(&mut phones, |phone| {
            register_at(phone, server);
            let incoming = phone.invited();
            assert_eq!(in_brackets(incoming.invite.header("To")), format!("sip:{}", phone.aor()));
            assert!(calls.contains_key(incoming.invite.header("Call-ID")));
            incoming.answer(200, "OK");
            incoming.confirmed();
            phone.sleep();
        });
    };
    std::thread::scope(|scope| {
        let phones = scope.spawn(phones_answer);
        let mut answered = BTreeSet::new();
        while answered.len() < calls.len() {
            let (response, _) = world.switch.peer.receive();
            let (call, to_tag) = &calls[response.header("Call-ID")];
            match response.status() {
                100 => {}
                182 => assert_eq!(response.to_tag(), to_tag, "the tag that the caller knows"),
                status => {
                    assert_eq!((status, response.method()), (200, "INVITE"), "{response:?}");
                    assert_ne!(response.to_tag(), to_tag, "the device's own");
                    call.confirm(&response);
                    assert!(answered.insert(call.call_id.clone()), "answered twice: {response:?}");
                }
            }
        }
        phones.join().expect("phones that take their calls");
    });
    world.admin.expect_metric("held_calls", 0.0);
    world.admin.expect_metric("bucket_entries", 0.0);
    // Before and after; one that a machine under load was slow to answer is repeated.
    assert!(world.pushes() >= 2 * usize::from(count), "{}", world.pushes());
    world.admin.expect_healthy();
}

#[test]
fn held_calls_survive_a_kill_over_udp() {
    held_calls_survive(Program::kill, World::with_program(Mode::Open, Udp, HOLDS_LONG), 1000);
}

/// The callers' connections are gone; they are answered by new ones (RFC 3261 §18.2.2).
#[test]
fn held_calls_survive_a_kill_over_tcp() {
    held_calls_survive(Program::kill, World::with_program(Mode::Open, Tcp, HOLDS_LONG), 50);
}

/// As an upgrade does it: what the drain has not seen to an end goes on in the next run.
#[test]
fn held_calls_survive_a_restart() {
    let stop = |program: &mut Program| {
        program.terminate();
        assert_eq!(program.exit_status().code(), Some(0));
    };
    let config = format!("{HOLDS_LONG}node.drain_s = 0");
    held_calls_survive(stop, World::with_program(Mode::Open, Udp, &config), 50);
}

#[test]
fn calls_that_ran_out_while_the_server_was_dead_are_answered_and_missed() {
    let mut world = World::with_program(Mode::Open, Udp, "hold.wait_s = 1");
    let mut phone = crate::held_call::asleep(&mut world, Push::Fcm);
    let call = world.call(&phone);
    let queued = world.switch.queued();
    world.pushed(&phone);
    world.program().kill();
    // Not to wait for something: the wait is to be over before anybody is there to see it.
    std::thread::sleep(Duration::from_secs(1));
    world.start_program();
    world.switch.response(100, "INVITE");
    let refused = world.switch.response(480, "INVITE");
    assert_eq!(refused.to_tag(), queued.to_tag());
    call.ack(&refused);
    crate::peer::eventually("the missed call", || {
        world.admin.bucket(&phone.aor()).iter().any(|entry| entry["state"] == "missed").then_some(())
    });
    phone.register(&mut world);
    assert_eq!(world.pushed(&phone).json()["message"]["data"]["type"], "missed_calls");
}

/// It rings when the program dies; by UDP the way to it is still there, and a connection is made anew by the phone.
fn a_ringing_call_survives_a_kill(push: Push, transport: sip_push_proxy::sip::Transport) {
    let mut world = World::with_program(Mode::Open, Udp, "hold.push_when = 'unreachable'\nhold.wait_s = 60");
    let mut phone = Phone::new("alice", push, transport);
    phone.register(&mut world);
    let call = world.call(&phone);
    phone.invited().answer(180, "Ringing");
    world.switch.response(100, "INVITE");
    world.switch.response(180, "INVITE");
    world.program().kill();
    world.start_program();
    if transport == Tcp {
        phone.sleep();
        phone.register(&mut world);
    }
    // The same INVITE again, to which the phone says what it said.
    answered(&world, &phone, &call);
    world.admin.expect_metric("held_calls", 0.0);
    world.admin.expect_metric("bucket_entries", 0.0);
}

#[test]
fn a_call_that_rings_survives_a_kill() {
    for push in [Push::None, Push::Fcm] {
        for transport in [Udp, Tcp] {
            a_ringing_call_survives_a_kill(push, transport);
        }
    }
}

#[test]
fn server_that_is_asked_to_stop_ends_with_0() {
    let mut world = World::with_program(Mode::Alias, Udp, "");
    world.program().terminate();
    assert_eq!(world.program().exit_status().code(), Some(0));
}

#[test]
fn stopping_server_takes_no_calls_and_waits_for_those_it_holds() {
    let mut world = World::with_program(Mode::Alias, Udp, "");
    let mut phone = crate::held_call::asleep(&mut world, Push::Fcm);
    let held = world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    world.program().terminate();
    crate::peer::eventually("the server to stop taking calls", || {
        let second = world.call(&phone);
        world.switch.response(100, "INVITE");
        let (answer, _) = world.switch.peer.receive();
        if answer.status() == 503 {
            second.ack(&answer);
            return Some(());
        }
        // It had not heard yet.
        assert_eq!(answer.status(), 182);
        crate::held_call::give_up(&world, &second, "");
        None
    });
    phone.register(&mut world);
    let incoming = phone.invited();
    assert_eq!(incoming.invite.header("Call-ID"), held.call_id);
    incoming.answer(200, "OK");
    world.switch.response(200, "INVITE");
    assert_eq!(world.program().exit_status().code(), Some(0));
}

#[test]
fn stopping_server_waits_no_longer_than_it_may() {
    let mut world = World::with_program(Mode::Alias, Udp, "node.drain_s = 1");
    let phone = crate::held_call::asleep(&mut world, Push::Fcm);
    world.call(&phone);
    world.switch.queued();
    world.program().terminate();
    assert_eq!(world.program().exit_status().code(), Some(0));
}

/// Bindings, a connection and a held call cost no processor time while nothing happens.
#[test]
fn idle_server_sleeps() {
    let mut world = World::with_program(Mode::Alias, Udp, "sip.workers = 2");
    let mut awake = Phone::new("bob", Push::Fcm, Tcp);
    awake.register(&mut world);
    let phone = crate::held_call::asleep(&mut world, Push::Fcm);
    world.call(&phone);
    world.switch.queued();
    world.pushed_invite(&phone, 28);
    let before = world.program().processor_time();
    // Not to wait for something, but to see nothing for a second.
    std::thread::sleep(Duration::from_secs(1));
    let used = world.program().processor_time() - before;
    assert!(used <= Duration::from_millis(20), "{used:?} in a second");
}
