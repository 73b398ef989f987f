//! Redis away: what was acknowledged is there afterwards, whoever died, and nobody waits.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sip_push_proxy::binding::Binding;
use sip_push_proxy::clock::UnixMillis;
use sip_push_proxy::config::Redis;
use sip_push_proxy::store::{
    Applied, Change, EntryState, HeldCallId, LeftCall, OpenError, RedisSettings, RedisStore, Settlement,
};

use crate::crash::{number_of, say};
use crate::rows::*;
use crate::server::{Sentinel, Server, ask, join_cluster, wait_for};
use crate::subject::{Asker, settings};

const PORT: &str = "STORE_TEST_PORT";
const FOLDER: &str = "STORE_TEST_REDIS_FOLDER";
/// Changes that the flooding child has under way.
const IN_FLIGHT: u32 = 48;

pub(crate) fn loaded(settings: &RedisSettings, folder: &Path) -> Asker {
    let node = Asker::node(settings, folder);
    wait_for("all of Redis is in memory", || node.redis().is_loaded());
    node
}

/// What a node without a past finds in Redis.
fn stranger(settings: &RedisSettings) -> (Asker, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let settings = RedisSettings { node: "stranger".to_owned(), ..settings.clone() };
    (loaded(&settings, folder.path()), folder)
}

pub(crate) fn is_drained(node: &Asker) -> bool {
    !node.redis().is_degraded() && node.redis().journal_entries() == 0
}

#[expect(clippy::disallowed_methods, reason = "it measures real time")]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn killed_and_started_again_it_has_all_that_was_acknowledged() {
    let mut server = Server::durable();
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&server, "node-1");
    let mut node = loaded(&settings, folder.path());
    for number in 0..1200 {
        match number {
            400 => server.kill(),
            900 => {
                wait_for("Redis away", || node.redis().is_degraded());
                server.run();
            }
            _ => {}
        }
        node.submit(register(vec![binding(number, number)])).unwrap();
        if number % 4 == 0 {
            node.submit(hold(number, number, &[number])).unwrap();
        }
        if number % 8 == 0 {
            node.submit(settle(number, number, &[(number, Settlement::Missed)], true)).unwrap();
        }
    }
    (0..1200 + 300 + 150).for_each(|_| assert!(node.reply().result.is_ok()));
    wait_for("an empty journal", || is_drained(&node));

    let (stranger, _folder) = stranger(&settings);
    for table in [node.table(), stranger.table()] {
        for number in 0..1200 {
            assert_eq!(table.by_device(device(number)).as_deref(), Some(&binding(number, number)));
            let states: Vec<_> = table.entries(&device(number)).iter().map(|entry| entry.state).collect();
            let expected = match (number % 4, number % 8) {
                (_, 0) => vec![EntryState::Missed],
                (0, _) => vec![EntryState::Live],
                _ => vec![],
            };
            assert_eq!(states, expected, "{number}");
            assert_eq!(table.call(HeldCallId(number.into())).is_some(), number % 8 == 4);
        }
    }
}

#[test]
fn stopped_for_a_while_nobody_waits_longer_than_configured() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let settings = RedisSettings { timeout: Duration::from_millis(200), ..settings(&server, "node-1") };
    let mut node = loaded(&settings, folder.path());
    node.apply(register(vec![binding(0, 0)])).unwrap();
    server.signal("STOP");
    let start = now();
    for number in 0..200 {
        // One AOR, so that each waits for the one before.
        node.apply(register(vec![binding(1, number)])).unwrap();
    }
    // Whether a machine is slow or not: had each of them waited for Redis, it would be 200 times the timeout.
    let all = now().duration_since(start);
    assert!(all < 100 * settings.timeout, "{all:?}");
    assert!(node.redis().is_degraded());
    assert!(node.redis().journal_entries() >= 199);
    assert_eq!(node.table().lookup(&aor(1)).len(), 200, "visible all the same");
    server.signal("CONT");
    wait_for("an empty journal", || is_drained(&node));
    let (stranger, _folder) = stranger(&settings);
    assert_eq!(stranger.table().lookup(&aor(1)).len(), 200);
}

#[test]
fn empty_after_a_restart_it_gets_all_back_from_memory() {
    let mut server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&server, "node-1");
    let mut node = loaded(&settings, folder.path());
    for number in 0..300 {
        node.apply(register(vec![binding(number, number)])).unwrap();
        node.apply(hold(number, number, &[number])).unwrap();
    }
    server.kill();
    for number in 300..400 {
        node.apply(register(vec![binding(number - 300, number)])).unwrap();
    }
    server.run();
    wait_for("an empty journal", || is_drained(&node));
    wait_for("all rows in Redis", || server.ask(&["DBSIZE"]).parse::<u32>().unwrap_or_default() >= 703);
    let (stranger, _folder) = stranger(&settings);
    assert_eq!(stranger.loaded.secret, node.loaded.secret);
    assert_eq!((stranger.table().binding_count(), stranger.table().entry_count()), (400, 300));
    assert_eq!(stranger.table().calls(), node.table().calls());
    assert_eq!(stranger.table().by_device(device(399)).as_deref(), Some(&binding(99, 399)));
}

/// As a replica is that becomes master before it has heard of everything.
#[test]
fn a_redis_that_has_fallen_behind_brings_no_seen_call_back() {
    const HASH: &str = "spp:2:{user000001@example.org}";
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&server, "node-1");
    let mut node = loaded(&settings, folder.path());
    node.apply(register(vec![binding(1, 1), binding(1, 2)])).unwrap();
    for number in 1..=3 {
        node.apply(hold(1, number, &[1, 2])).unwrap();
    }
    assert_eq!(server.ask(&["COPY", HASH, "behind"]), "1");
    // One is still held, and one device rings; one is answered; one has the first device missed.
    let (seen, missed) = (Settlement::Seen, Settlement::Missed);
    node.apply(settle(1, 1, &[(1, seen)], false)).unwrap();
    node.apply(settle(1, 2, &[(1, seen), (2, seen)], true)).unwrap();
    node.apply(settle(1, 3, &[(1, missed), (2, seen)], true)).unwrap();
    let states = |node: &Asker, number| -> Vec<_> {
        let entries = node.table().entries(&device(number));
        entries.iter().map(|entry| (entry.call_ref.to_string(), entry.state)).collect()
    };
    let live = ("call-1".to_owned(), EntryState::Live);
    let expected = [vec![("call-3".to_owned(), EntryState::Missed)], vec![live]];
    assert_eq!([1, 2].map(|number| states(&node, number)), expected);
    assert_eq!(server.ask(&["COPY", "behind", HASH, "REPLACE"]), "1");
    let store = Arc::clone(&node.store);
    assert!(node.block_on(store.fetch(&aor(1))));
    let (stranger, _folder) = stranger(&settings);
    for node in [&node, &stranger] {
        assert_eq!([1, 2].map(|number| states(node, number)), expected);
        assert_eq!(node.table().calls().iter().map(|call| call.id).collect::<Vec<_>>(), [HeldCallId(1)]);
    }
}

#[test]
fn a_node_starts_without_redis_only_if_it_knows_it() {
    let mut server = Server::durable();
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&server, "node-1");
    let secret = {
        let mut node = loaded(&settings, folder.path());
        node.apply(register(vec![binding(1, 1)])).unwrap();
        server.kill();
        node.apply(register(vec![binding(1, 2)])).unwrap();
        node.apply(hold(1, 1, &[2])).unwrap();
        node.loaded.secret
    };
    let stranger = tempfile::tempdir().unwrap();
    let refusal = RedisStore::open(&settings, stranger.path(), LIMITS).unwrap_err();
    assert!(matches!(refusal, OpenError::Redis(_)), "{refusal}");

    let mut node = Asker::node(&settings, folder.path());
    assert_eq!(node.loaded.secret, secret);
    assert_eq!(node.loaded.held, [call(1, 1, &[2])]);
    assert!(node.redis().is_degraded() && !node.redis().is_loaded());
    assert_eq!(node.table().lookup(&aor(1)).len(), 1, "what the journal has");
    node.apply(register(vec![binding(1, 3)])).unwrap();
    server.run();
    wait_for("an empty journal", || is_drained(&node) && node.redis().is_loaded());
    assert_eq!(node.table().lookup(&aor(1)).len(), 3);
    assert_eq!(node.table().entries(&device(2))[0].state, EntryState::Live);
    drop(node);
    let node = loaded(&settings, folder.path());
    assert_eq!(node.table().lookup(&aor(1)).len(), 3);
    assert_eq!(node.loaded.held, [call(1, 1, &[2])], "nobody has settled it");
}

#[test]
fn calls_left_in_redis_are_found_when_it_is_back() {
    let mut server = Server::durable();
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&server, "node-1");
    let mut node = loaded(&settings, folder.path());
    node.apply(register(vec![binding(1, 1)])).unwrap();
    node.apply(hold(1, 1, &[1])).unwrap();
    server.kill();
    drop(node);
    let node = Asker::node(&settings, folder.path());
    assert_eq!(node.loaded.held, []);
    server.run();
    let mut held = Vec::new();
    wait_for("the call", || {
        held.extend(node.redis().take_held());
        !held.is_empty()
    });
    assert_eq!(held, [LeftCall { call: call(1, 1, &[1]), from: None }]);
    assert_eq!(node.table().entries(&device(1))[0].state, EntryState::Live);
}

#[test]
fn what_another_node_bound_meanwhile_stands() {
    // The journal is dated by the real clock: long after `early`, before the time of the tests.
    let early = UnixMillis(1_000_000_000_000);
    let at = |number: u32, registered_at: UnixMillis, port: u16| Binding {
        registered_at,
        flow: flow(port),
        ..binding(1, number)
    };
    let server = Server::start();
    let gate = Gate::before(server.port);
    let (folder, other_folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut node = loaded(&RedisSettings { url: gate.url(), ..settings(&server, "node-1") }, folder.path());
    let mut other = loaded(&settings(&server, "node-2"), other_folder.path());
    node.apply(register(vec![at(1, early, 5001), at(2, early, 5001)])).unwrap();
    gate.close();
    node.apply(register(vec![at(1, early, 5002), at(2, early, 5002)])).unwrap();
    node.apply(unregister(1, 1, None)).unwrap();
    other.apply(register(vec![at(1, NOW, 5003)])).unwrap();
    gate.open();
    wait_for("an empty journal", || is_drained(&node));
    for node in [&node, &other] {
        wait_for("one truth", || {
            node.table().by_device(device(2)).is_some_and(|found| found.flow.remote.port() == 5002)
        });
        assert_eq!(node.table().by_device(device(1)).unwrap().flow.remote.port(), 5003);
    }
}

#[test]
fn a_lost_answer_is_not_a_second_change() {
    let server = Server::start();
    let gate = Gate::before(server.port);
    let (folder, other_folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let settings = settings(&server, "node-1");
    let mut node = loaded(
        &RedisSettings { url: gate.url(), timeout: Duration::from_millis(300), ..settings.clone() },
        folder.path(),
    );
    let mut other = loaded(&RedisSettings { node: "node-2".to_owned(), ..settings }, other_folder.path());
    node.apply(register(vec![binding(1, 1), binding(1, 2)])).unwrap();
    gate.mute();
    // Redis does it and nobody hears; it is acknowledged by way of the journal.
    assert_eq!(node.apply(unregister(1, 1, None)), Ok(Applied::Done));
    assert!(node.redis().is_degraded());
    wait_for("the end of the binding", || other.table().by_device(device(1)).is_none());
    // The phone is back on the other node: done again, the change would end this.
    other.apply(register(vec![binding(1, 1)])).unwrap();
    gate.open();
    wait_for("an empty journal", || is_drained(&node));
    wait_for("the phone", || node.table().by_device(device(1)).is_some());
    assert_eq!(other.table().lookup(&aor(1)).len(), 2);
}

#[test]
fn claims_wait_for_the_other_nodes_word() {
    let mut server = Server::durable();
    let folder = tempfile::tempdir().unwrap();
    let mut node = loaded(&settings(&server, "node-1"), folder.path());
    node.apply(register(vec![binding(1, 1)])).unwrap();
    node.apply(hold(1, 1, &[1])).unwrap();
    node.apply(settle(1, 1, &[(1, Settlement::Missed)], true)).unwrap();
    server.kill();
    wait_for("Redis away", || node.redis().is_degraded());
    assert_eq!(node.apply(claim(1, 1)), Ok(Applied::Claimed(vec![])));
    server.run();
    wait_for("an empty journal", || is_drained(&node));
    assert!(matches!(node.apply(claim(1, 1)), Ok(Applied::Claimed(entries)) if entries.len() == 1));
}

/// Registers as fast as it can, each acknowledged one printed, until it is killed.
#[test]
fn child_floods_redis() {
    let (Some(folder), Ok(port)) = (std::env::var_os(FOLDER), std::env::var(PORT)) else { return };
    let settings = RedisSettings {
        url: Redis::parse(&format!("redis://127.0.0.1:{port}")).unwrap().unwrap(),
        timeout: Duration::from_millis(300),
        node: "child".to_owned(),
        lease: Duration::from_secs(10),
        home: None,
    };
    let mut asker = Asker::node(&settings, Path::new(&folder));
    for number in 0..200_000 {
        asker.submit(register(vec![binding(number, number)])).unwrap();
        if number >= IN_FLIGHT {
            let reply = asker.reply();
            reply.result.unwrap();
            say(format_args!("ack {}", reply.ticket.0));
        }
    }
}

#[test]
fn redis_dies_then_the_node_and_nothing_is_lost() {
    let mut server = Server::durable();
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "away::child_floods_redis", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder.path())
        .env(PORT, server.port.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let (mut acknowledged, mut line, mut killed) = (Vec::new(), String::new(), false);
    loop {
        match acknowledged.len() {
            300 => server.kill(),
            1500 if !killed => {
                child.kill().unwrap();
                killed = true;
            }
            _ => {}
        }
        line.clear();
        if lines.read_line(&mut line).unwrap() == 0 {
            break;
        }
        acknowledged.extend(number_of(&line, "ack"));
    }
    child.wait().unwrap();
    assert!(killed, "the child ended by itself");
    let settings = settings(&server, "child");
    let node = Asker::node(&settings, folder.path());
    assert!(node.redis().journal_entries() > 500);
    server.run();
    wait_for("an empty journal", || is_drained(&node) && node.redis().is_loaded());
    let (stranger, _folder) = stranger(&settings);
    for number in acknowledged {
        for table in [node.table(), stranger.table()] {
            assert_eq!(table.by_device(device(number)).as_deref(), Some(&binding(number, number)), "{number}");
        }
    }
}

#[test]
fn sentinels_name_a_new_master() {
    let mut master = Server::start();
    let replica =
        Server::with(&["--save", "", "--appendonly", "no", "--replicaof", "127.0.0.1", &master.port.to_string()]);
    wait_for("the replica", || replica.ask(&["INFO", "replication"]).contains("master_link_status:up"));
    let sentinel = Sentinel::watch(master.port);
    wait_for("the Sentinel knows both", || {
        ask(sentinel.port, &["SENTINEL", "master", "main"]).replace('\n', " ").contains("num-slaves 1")
    });
    let folder = tempfile::tempdir().unwrap();
    let url = Redis::parse(&format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port)).unwrap().unwrap();
    let settings = RedisSettings { url, ..settings(&master, "node-1") };
    let mut node = loaded(&settings, folder.path());
    for number in 0..100 {
        node.apply(register(vec![binding(number, number)])).unwrap();
    }
    master.kill();
    for number in 100..200 {
        node.apply(register(vec![binding(number, number)])).unwrap();
    }
    wait_for("an empty journal", || is_drained(&node));
    for number in 200..300 {
        node.apply(register(vec![binding(number, number)])).unwrap();
    }
    assert!(replica.ask(&["ROLE"]).starts_with("master"));
    let (stranger, _folder) = stranger(&settings);
    assert_eq!(stranger.table().binding_count(), 300);
}

#[test]
fn a_cluster_of_three() {
    let folder_less =
        ["--save", "", "--appendonly", "no", "--cluster-enabled", "yes", "--cluster-node-timeout", "10000"];
    let servers: Vec<_> = (0..3).map(|_| Server::with(&folder_less)).collect();
    let addresses: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    join_cluster(&servers);
    let url = Redis::parse(&format!("redis+cluster://{}", addresses.join(","))).unwrap().unwrap();
    let settings = RedisSettings { url, ..settings(&servers[0], "node-1") };
    let (folder, other_folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut node = loaded(&settings, folder.path());
    let other = loaded(&RedisSettings { node: "node-2".to_owned(), ..settings.clone() }, other_folder.path());
    for number in 0..300 {
        node.submit(register(vec![binding(number, number)])).unwrap();
        node.submit(hold(number, number, &[number])).unwrap();
    }
    (0..600).for_each(|_| assert_eq!(node.reply().result, Ok(Applied::Done)));
    for server in &servers {
        assert_ne!(server.ask(&["DBSIZE"]), "0", "each has its share");
    }
    wait_for("all on the other node", || other.table().call_count() == 300);
    let (stranger, _folder) = stranger(&settings);
    assert_eq!((stranger.table().binding_count(), stranger.table().entry_count()), (300, 300));
    drop(node);
    let node = Asker::node(&settings, folder.path());
    assert_eq!(node.loaded.held.len(), 300);
}

/// Stands between a node and Redis, and lets through what it is told to.
pub(crate) struct Gate {
    address: SocketAddr,
    state: Arc<GateState>,
}

#[derive(Default)]
pub(crate) struct GateState {
    is_closed: AtomicBool,
    is_mute: AtomicBool,
}

impl Gate {
    pub(crate) fn before(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(GateState::default());
        let gate = Self { address, state: Arc::clone(&state) };
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect((Ipv4Addr::LOCALHOST, port))) else {
                    return;
                };
                let (from_client, from_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (requests, answers) = (Arc::clone(&state), Arc::clone(&state));
                std::thread::spawn(move || {
                    pass(from_client, server, || requests.is_closed.load(Ordering::Relaxed), || false)
                });
                std::thread::spawn(move || {
                    let is_closed = || answers.is_closed.load(Ordering::Relaxed);
                    pass(from_server, client, is_closed, || answers.is_mute.load(Ordering::Relaxed));
                });
            }
        });
        gate
    }

    pub(crate) fn url(&self) -> Redis {
        Redis::parse(&format!("redis://{}", self.address)).unwrap().unwrap()
    }

    /// Connections end, and no new one comes to anything.
    pub(crate) fn close(&self) {
        self.state.is_closed.store(true, Ordering::Relaxed);
    }

    /// Requests go through, answers do not.
    pub(crate) fn mute(&self) {
        self.state.is_mute.store(true, Ordering::Relaxed);
    }

    pub(crate) fn open(&self) {
        self.state.is_closed.store(false, Ordering::Relaxed);
        self.state.is_mute.store(false, Ordering::Relaxed);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, is_closed: impl Fn() -> bool, is_mute: impl Fn() -> bool) {
    let mut bytes = [0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        if is_closed() {
            break;
        }
        if !is_mute() && to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn remove_of_an_unknown_device_while_away_is_done_later() {
    let mut server = Server::durable();
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&server, "node-1");
    let mut node = loaded(&settings, folder.path());
    node.apply(register(vec![binding(1, 1)])).unwrap();
    server.kill();
    drop(node);
    let mut node = Asker::node(&settings, folder.path());
    node.apply(Change::Remove { aor: aor(1), device: device(1) }).unwrap();
    server.run();
    wait_for("an empty journal", || is_drained(&node) && node.redis().is_loaded());
    assert_eq!(stranger(&settings).0.table().binding_count(), 0);
}
