//! Redis dies, stands still, or dies together with the server: calls and registrations go on, and nothing that was
//! acknowledged is lost (design: Redis away).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use sip_push_proxy::sip::Transport::Udp;

use crate::admin::Admin;
use crate::crash::{HOLDS_LONG, PACE, become_user, expect_bindings};
use crate::held_call::answered;
use crate::load::{Load, Outcome};
use crate::peer::{DEADLINE, Heard, eventually, eventually_within};
use crate::phone::{Phone, Push};
use crate::redis_server::{DURABLE, Sentinel, Server, ask, join_cluster, wait_for};
use crate::sip::in_brackets;
use crate::switch::Call;
use crate::world::{Mode, Store, World};

/// Where Redis dies, which is seen at once: whoever is only slow has time, so that a busy machine is not taken for it.
const PATIENT: &str = "store.timeout_ms = 1000\n";
/// Where it stands still.
const IMPATIENT: &str = "store.timeout_ms = 300\n";

fn world(store: &str) -> World {
    let config = format!("{HOLDS_LONG}{store}");
    World::with_program_on(Store::Redis, Mode::Open, Udp, &config)
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
    answered(world, phone, call);
    phone.sleep();
}

/// Redis has everything. A machine that is too busy for the load gets there when the load is over.
#[track_caller]
fn expect_recovered(world: &World) {
    const PATIENCE: Duration = Duration::from_secs(60);
    eventually_within(PATIENCE, "an empty journal", || match world.admin.metric("journal_entries") {
        0.0 => Ok(()),
        entries => Err(entries),
    });
    world.admin.expect_ready("ready");
    world.admin.expect_metric("store_up", 1.0);
}

/// The server starts anew with nothing but what Redis has.
fn restart_without_data(world: &mut World) {
    world.program().kill();
    std::fs::remove_dir_all(world.folder.path().join("data")).expect("the journal's folder");
    world.start_program();
}

/// Redis has all that was acknowledged, and with nothing but that a server goes on.
#[track_caller]
fn expect_kept(world: &mut World, outcome: &Outcome) {
    let Outcome { registered, answered, missed, .. } = outcome;
    // Nine of ten calls are to be answered, and each fourth phone is called.
    assert!(*answered > registered.len() / 5 && missed.len() > registered.len() / 50, "{answered}, {missed:?}");
    // What Redis had acknowledged and lost it gets back without a sign to wait for, so a stranger looks first.
    let stranger = world.stranger();
    expect_all(Admin(stranger.admin), outcome);
    drop(stranger);
    restart_without_data(world);
    expect_all(world.admin, outcome);
    world.admin.expect_metric("held_calls", 0.0);
    let mut phone = Phone::new("nobody", Push::Fcm, Udp);
    phone.wake(world);
    while world.fcm.try_next().is_some() {}
    for number in missed.keys() {
        become_user(&mut phone, *number);
        phone.send_register();
        phone.peer().response(200, "REGISTER");
    }
    let told = |_| {
        let push = world.pushed(&phone);
        assert_eq!(push.json()["message"]["data"]["type"], "missed_calls");
        push.token
    };
    let told: BTreeSet<_> = missed.keys().map(told).collect();
    assert_eq!(told, missed.keys().map(|number| format!("token-{number}")).collect());
    world.admin.expect_metric("bucket_entries", 0.0);
    world.admin.expect_healthy();
}

/// Neither less nor more than the bindings of all phones, and the entries of the calls that nobody saw.
#[track_caller]
fn expect_all(admin: Admin, outcome: &Outcome) {
    let number = |count: usize| f64::from(u32::try_from(count).expect("few"));
    expect_bindings(admin, &outcome.registered);
    admin.expect_metric("bindings", number(outcome.registered.len()));
    for (number, call_id) in &outcome.missed {
        admin.expect_bucket(&format!("user{number}@example.org"), &[(call_id, "missed")]);
    }
    admin.expect_metric("bucket_entries", number(outcome.missed.len()));
}

#[test]
fn nothing_is_lost_while_redis_is_dead() {
    let mut world = world(PATIENT);
    let load = Load::start(&world);
    load.go_on(400);
    world.admin.expect_ready("ready");
    world.redis().kill();
    // Ten seconds. Phones come without Redis for calls that Redis holds, and with it for those that the journal does.
    load.go_on(600);
    world.admin.expect_ready("degraded");
    assert!(world.admin.metric("journal_entries") > 0.0);
    load.wake_late();
    load.go_on(400);
    load.let_sleep();
    load.go_on(1000);
    world.admin.expect_ready("degraded");
    world.redis().run();
    load.go_on(200);
    let outcome = load.stop();
    expect_recovered(&world);
    expect_kept(&mut world, &outcome);
}

#[test]
fn nobody_waits_for_a_redis_that_stands_still() {
    let mut world = world(IMPATIENT);
    let load = Load::start(&world);
    load.go_on(200);
    world.redis().signal("STOP");
    let before = load.sent();
    load.go_on(400);
    world.admin.expect_ready("degraded");
    load.wake_late();
    load.go_on(600);
    let after = load.sent();
    world.redis().signal("CONT");
    load.let_sleep();
    load.go_on(200);
    let outcome = load.stop();
    for (what, latencies) in [
        ("before", &outcome.latencies[..before]),
        ("while Redis stands still", &outcome.latencies[before..after]),
        ("after", &outcome.latencies[after..]),
    ] {
        println!("{what}: {}", percentiles(latencies));
    }
    expect_recovered(&world);
    expect_kept(&mut world, &outcome);
}

/// For a reader's judgement; how fast a machine is proves nothing.
fn percentiles(latencies: &[Duration]) -> String {
    let mut sorted = latencies.to_vec();
    sorted.sort_unstable();
    let at = |percent: usize| sorted[(sorted.len() - 1) * percent / 100];
    format!("{} REGISTERs answered, p50 {:?}, p99 {:?}, max {:?}", sorted.len(), at(50), at(99), at(100))
}

/// The configuration of a world whose Redis the test sees to.
fn world_on(url: &str) -> World {
    let config = format!("{HOLDS_LONG}{PATIENT}store.url = '{url}'\n");
    World::with_program_on(Store::Embedded, Mode::Open, Udp, &config)
}

/// The master dies with changes that it acknowledged and its replica never heard of.
#[test]
fn nothing_is_lost_when_a_replica_becomes_master() {
    let mut master = Server::durable();
    let port = master.port.to_string();
    let replica = Server::with(&[DURABLE, &["--replicaof", "127.0.0.1", &port]].concat());
    wait_for("the replica", || replica.ask(&["INFO", "replication"]).contains("master_link_status:up"));
    let sentinel = Sentinel::watch(master.port);
    // A replica that has been cut off for ten times as long is not promoted, and the test cuts it off.
    assert_eq!(ask(sentinel.port, &["SENTINEL", "SET", "main", "down-after-milliseconds", "2000"]), "OK");
    wait_for("the Sentinel knows both", || {
        ask(sentinel.port, &["SENTINEL", "master", "main"]).replace('\n', " ").contains("num-slaves 1")
    });
    let mut world = world_on(&format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port));
    let load = Load::start(&world);
    load.go_on(300);
    wait_for("what came first on the replica", || replica.ask(&["EXISTS", "spp:2:{user1@example.org}"]) == "1");
    assert_eq!(replica.ask(&["REPLICAOF", "127.0.0.1", "1"]), "OK");
    let aors = |server: &Server| server.ask(&["DBSIZE"]).parse::<usize>().expect("a number");
    wait_for("what the replica does not hear of", || aors(&master) > aors(&replica) + 100);
    master.kill();
    load.go_on(200);
    world.admin.expect_ready("degraded");
    load.wake_late();
    wait_for("the new master", || replica.ask(&["ROLE"]).starts_with("master"));
    load.go_on(200);
    load.let_sleep();
    load.go_on(200);
    let outcome = load.stop();
    expect_recovered(&world);
    expect_kept(&mut world, &outcome);
}

/// A phone registers, is called, comes and answers; then it misses a call and is told.
#[track_caller]
fn main_story(world: &mut World) {
    let mut phone = sleeping(world, 1).remove(0);
    let call = hold(world, &phone);
    answer(world, &mut phone, &call);
    world.admin.expect_bucket(&phone.aor(), &[]);
    let missed = hold(world, &phone);
    crate::held_call::give_up(world, &missed, "");
    world.admin.expect_bucket(&phone.aor(), &[(&missed.call_id, "missed")]);
    phone.register(world);
    assert_eq!(world.pushed(&phone).json()["message"]["data"]["type"], "missed_calls");
    world.admin.expect_bucket(&phone.aor(), &[]);
    let device = world.admin.bindings(&phone.aor())[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(world.admin.delete(&format!("/api/v1/bindings/{}/{device}", phone.aor())), 200);
}

#[test]
fn nothing_is_lost_while_a_node_of_a_cluster_is_dead() {
    const NODE: [&str; 4] = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
    let mut servers = [0; 3].map(|_| Server::with(&[DURABLE, &NODE].concat()));
    join_cluster(&servers);
    let addresses = servers.each_ref().map(|server| format!("127.0.0.1:{}", server.port));
    let mut world = world_on(&format!("redis+cluster://{}", addresses.join(",")));
    main_story(&mut world);
    let load = Load::start(&world);
    load.go_on(300);
    servers[1].kill();
    load.go_on(300);
    world.admin.expect_ready("degraded");
    load.wake_late();
    load.go_on(300);
    load.let_sleep();
    servers[1].run();
    load.go_on(400);
    let outcome = load.stop();
    expect_recovered(&world);
    for server in &servers {
        let keys = server.ask(&["--scan", "--pattern", "spp:2:{*}"]);
        assert!(keys.lines().count() > outcome.registered.len() / 6, "each has its share");
    }
    expect_kept(&mut world, &outcome);
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
        let mut world = world(PATIENT);
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
    expect_bindings(world.admin, &acknowledged);
    answer_all(&mut world, &mut held);
    expect_recovered(&world);
    restart_without_data(&mut world);
    expect_bindings(world.admin, &acknowledged);
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
    expect_bindings(world.admin, &acknowledged);
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
