//! Redis dies, stands still, or dies together with the server: calls and registrations go on, and nothing that was
//! acknowledged is lost (design: Redis away).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sip_push_proxy::sip::Transport::Udp;

use crate::crash::{HOLDS_LONG, PACE, become_user, expect_bindings, held_calls_survive_a_kill};
use crate::peer::{DEADLINE, Heard, eventually};
use crate::phone::{Phone, Push};
use crate::sip::{Sip, in_brackets};
use crate::switch::Call;
use crate::world::{Mode, Store, World};

fn world() -> World {
    let config = format!("{HOLDS_LONG}store.timeout_ms = 300\n");
    let world = World::with_program_on(Store::Redis, Mode::Open, Udp, &config);
    world.keep_ports();
    world
}

/// AORs of REGISTERs that were sent from this phone's socket: each is answered within `patience`, with 200.
#[track_caller]
fn accepted(phone: &Phone, count: usize, patience: Duration) -> BTreeSet<String> {
    let answer = |_| match phone.peer().hear(patience) {
        Some(Heard::Message(message, _)) => {
            assert_eq!((message.status(), message.method()), (200, "REGISTER"), "{message:?}");
            in_brackets(message.header("To")).trim_start_matches("sip:").to_owned()
        }
        Some(Heard::Closed) | None => panic!("a REGISTER was not answered within {patience:?}"),
    };
    (0..count).map(answer).collect()
}

/// Phones of as many users register one after another, 200 a second, from one socket.
struct Registrations {
    sent: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Phone>,
}

impl Registrations {
    /// More than any of these tests needs.
    const MAX: usize = 10_000;

    fn start(world: &World) -> Self {
        let mut phone = Phone::new("nobody", Push::Fcm, Udp);
        phone.wake(world);
        let (sent, is_over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (sent_here, is_over_here) = (Arc::clone(&sent), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            for number in 1..=Self::MAX {
                if is_over_here.load(Ordering::Relaxed) {
                    break;
                }
                become_user(&mut phone, number);
                phone.send_register();
                sent_here.store(number, Ordering::Relaxed);
                std::thread::sleep(PACE);
            }
            phone
        });
        Self { sent, is_over, thread }
    }

    /// Waits until so many more have been sent.
    #[track_caller]
    fn go_on(&self, more: usize) {
        let enough = self.sent.load(Ordering::Relaxed) + more;
        eventually("REGISTERs to be sent", || (self.sent.load(Ordering::Relaxed) >= enough).then_some(()));
    }

    /// AORs of all, each of which has been accepted.
    #[track_caller]
    fn stop(self) -> BTreeSet<String> {
        self.is_over.store(true, Ordering::Relaxed);
        let phone = self.thread.join().expect("phones that register");
        let sent = self.sent.load(Ordering::Relaxed);
        let accepted = accepted(&phone, sent, DEADLINE);
        assert_eq!(accepted.len(), sent, "each REGISTER is answered once");
        accepted
    }
}

/// As many phones that registered and sleep.
fn sleeping(world: &mut World, count: usize) -> Vec<Phone> {
    let mut phones: Vec<_> = (0..count).map(|number| Phone::new(&format!("callee{number}"), Push::Fcm, Udp)).collect();
    for phone in &mut phones {
        phone.register(world);
        phone.sleep();
    }
    phones
}

/// The phone is called and its push is out.
#[track_caller]
fn hold(world: &World, phone: &Phone) -> Call {
    let call = world.call(phone);
    world.switch.queued();
    assert_eq!(world.pushed(phone).token, phone.token);
    call
}

/// The phone comes back for its call and takes it.
#[track_caller]
fn answer(world: &mut World, phone: &mut Phone, call: &Call) {
    phone.register(world);
    let incoming = phone.invited();
    assert_eq!(incoming.invite.header("Call-ID"), call.call_id);
    incoming.answer(200, "OK");
    let ok = final_response(world);
    assert_eq!((ok.status(), ok.header("Call-ID")), (200, &*call.call_id), "{ok:?}");
    call.confirm(&ok);
    incoming.confirmed();
    phone.sleep();
}

/// The next final response: a call that is taken up again repeats its provisional ones.
#[track_caller]
fn final_response(world: &World) -> Sip {
    loop {
        let (response, _) = world.switch.peer.receive();
        if response.status() >= 200 {
            return response;
        }
    }
}

#[track_caller]
fn expect_recovered(world: &World) {
    world.admin.expect_ready("ready");
    world.admin.expect_metric("journal_entries", 0.0);
    world.admin.expect_metric("store_up", 1.0);
}

/// The server starts anew with nothing but what Redis has.
fn restart_without_data(world: &mut World) {
    world.program().kill();
    std::fs::remove_dir_all(world.folder.path().join("data")).expect("the journal's folder");
    world.start_program();
}

#[test]
fn many_held_calls_survive_a_kill_on_redis() {
    held_calls_survive_a_kill(World::with_program_on(Store::Redis, Mode::Open, Udp, HOLDS_LONG), 200);
}

#[test]
fn nothing_is_lost_while_redis_is_dead() {
    let mut world = world();
    let mut phones = sleeping(&mut world, 8);
    let held_before = hold(&world, &phones[0]);
    let registrations = Registrations::start(&world);
    registrations.go_on(100);
    world.admin.expect_ready("ready");
    world.redis().kill();
    registrations.go_on(1);
    world.admin.expect_ready("degraded");
    eventually("changes in the journal", || (world.admin.metric("journal_entries") > 0.0).then_some(()));
    // One was held by Redis, the others are held and answered without it, one is given up.
    answer(&mut world, &mut phones[0], &held_before);
    for phone in &mut phones[1..7] {
        let call = hold(&world, phone);
        answer(&mut world, phone, &call);
    }
    let missed = hold(&world, &phones[7]);
    crate::held_call::give_up(&world, &missed, "");
    // Three seconds of REGISTERs since Redis died.
    registrations.go_on(600);
    world.admin.expect_ready("degraded");
    world.redis().run();
    expect_recovered(&world);
    registrations.go_on(100);
    let mut acknowledged = registrations.stop();
    acknowledged.extend(phones.iter().map(Phone::aor));
    expect_bindings(&world, &acknowledged);

    restart_without_data(&mut world);
    expect_bindings(&world, &acknowledged);
    phones.iter().take(7).for_each(|phone| world.admin.expect_bucket(&phone.aor(), &[]));
    world.admin.expect_bucket(&phones[7].aor(), &[(&missed.call_id, "missed")]);
    world.admin.expect_metric("held_calls", 0.0);
    phones[7].register(&mut world);
    assert_eq!(world.pushed(&phones[7]).json()["message"]["data"]["type"], "missed_calls");
    world.admin.expect_healthy();
}

#[test]
fn registrations_do_not_wait_for_a_redis_that_stands_still() {
    const AT_ONCE: usize = 20;
    /// `store.timeout_ms`, and a margin for a busy machine. Redis goes on only when all are answered, so that whoever
    /// waits for it is too late with any margin.
    const PATIENCE: Duration = Duration::from_millis(300 + 2700);
    const STANDSTILL: Duration = Duration::from_secs(2);
    let mut world = world();
    let mut phone = Phone::new("nobody", Push::Fcm, Udp);
    phone.wake(&world);
    let (mut number, mut acknowledged) = (0, BTreeSet::new());
    world.redis().signal("STOP");
    #[expect(clippy::disallowed_methods, reason = "how long a process stands still")]
    let stopped = Instant::now();
    loop {
        for _ in 0..AT_ONCE {
            number += 1;
            become_user(&mut phone, number);
            phone.send_register();
        }
        acknowledged.extend(accepted(&phone, AT_ONCE, PATIENCE));
        #[expect(clippy::disallowed_methods, reason = "how long a process stands still")]
        let stood = stopped.elapsed();
        if stood > STANDSTILL {
            break;
        }
        std::thread::sleep(20 * PACE);
    }
    world.admin.expect_ready("degraded");
    world.redis().signal("CONT");
    expect_recovered(&world);
    assert_eq!(acknowledged.len(), number);
    expect_bindings(&world, &acknowledged);
    restart_without_data(&mut world);
    expect_bindings(&world, &acknowledged);
    world.admin.expect_metric("bindings", f64::from(u32::try_from(number).expect("few")));
}

/// What stood when both had died.
struct BothDead {
    world: World,
    acknowledged: BTreeSet<String>,
    /// Asleep, each with the call that is held for it: known to Redis alone; with the call in the journal; with call and
    /// binding in the journal.
    held: [(Phone, Call); 3],
}

impl BothDead {
    /// Redis dies while phones register and are called, then the server does.
    fn new() -> Self {
        let mut world = world();
        let mut phones = sleeping(&mut world, 3).into_iter();
        let mut next = || phones.next().expect("three phones");
        let (on_redis, called_later, mut registers_later) = (next(), next(), next());
        let registrations = Registrations::start(&world);
        registrations.go_on(50);
        let first = hold(&world, &on_redis);
        world.redis().kill();
        world.admin.expect_ready("degraded");
        registrations.go_on(50);
        let second = hold(&world, &called_later);
        registers_later.register(&mut world);
        registers_later.sleep();
        let third = hold(&world, &registers_later);
        let held = [(on_redis, first), (called_later, second), (registers_later, third)];
        let mut acknowledged = registrations.stop();
        acknowledged.extend(held.iter().map(|(phone, _)| phone.aor()));
        world.program().kill();
        Self { world, acknowledged, held }
    }
}

/// Each of these phones is pushed once more, in any order, and takes its call.
#[track_caller]
fn answer_all(world: &mut World, held: &mut [(Phone, Call)]) {
    let pushed: BTreeSet<_> = held.iter().map(|(phone, _)| world.pushed(phone).token).collect();
    assert_eq!(pushed, held.iter().map(|(phone, _)| phone.token.clone()).collect());
    for (phone, call) in held {
        answer(world, phone, call);
        world.admin.expect_bucket(&phone.aor(), &[]);
    }
}

#[test]
fn nothing_is_lost_when_redis_dies_and_then_the_server() {
    let BothDead { mut world, acknowledged, mut held } = BothDead::new();
    world.redis().run();
    world.start_program();
    expect_bindings(&world, &acknowledged);
    answer_all(&mut world, &mut held);
    expect_recovered(&world);
    restart_without_data(&mut world);
    expect_bindings(&world, &acknowledged);
    world.admin.expect_metric("held_calls", 0.0);
}

/// What the journal has is there at once, the rest when Redis is.
#[test]
fn server_starts_without_its_redis() {
    let BothDead { mut world, acknowledged, mut held } = BothDead::new();
    world.start_program();
    world.admin.expect_ready("degraded");
    answer_all(&mut world, &mut held[2..]);
    world.redis().run();
    answer_all(&mut world, &mut held[..2]);
    expect_recovered(&world);
    expect_bindings(&world, &acknowledged);
    world.admin.expect_metric("held_calls", 0.0);
}

/// Its call waits for it though nothing but the device's name is known.
#[test]
fn phone_that_only_redis_knows_comes_before_redis_does() {
    let BothDead { mut world, mut held, .. } = BothDead::new();
    world.start_program();
    let [_, (phone, call), _] = &mut held;
    answer(&mut world, phone, call);
    world.redis().run();
    expect_recovered(&world);
    world.admin.expect_bucket(&phone.aor(), &[]);
}
