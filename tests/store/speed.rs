//! Figures of the stores, printed and not judged: `cargo test --test store speed -- --ignored --nocapture`.

use std::time::Instant;

use crate::rows::*;
use crate::server::{Server, wait_for};
use crate::subject::{Asker, settings};

#[test]
#[ignore = "measures"]
#[expect(clippy::disallowed_methods, reason = "it measures real time")]
fn durable_changes_per_second_and_time_to_open() {
    let folder = tempfile::tempdir().unwrap();
    let mut asker = Asker::open(folder.path());
    let mut number = 0;
    for (in_flight, count) in [(1, 2_000), (10, 10_000), (100, 40_000), (1000, 48_000)] {
        let commits = asker.commits();
        let start = Instant::now();
        for place in 0..count {
            asker.submit(register(vec![binding(number, number)])).unwrap();
            number += 1;
            if place + 1 >= in_flight {
                asker.reply().result.unwrap();
            }
        }
        for _ in 1..in_flight {
            asker.reply().result.unwrap();
        }
        let took = start.elapsed();
        let per_second = f64::from(count) / took.as_secs_f64();
        let commits = asker.commits() - commits;
        println!("{in_flight:4} in flight: {per_second:6.0} durable changes/s, {count} changes in {commits} commits");
    }
    asker.store.shutdown();
    let start = Instant::now();
    drop(asker);
    println!("close: {:?}", start.elapsed());
    let start = Instant::now();
    let asker = Asker::open(folder.path());
    println!("open with {} bindings: {:?}", asker.loaded.bindings, start.elapsed());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    println!("{}", status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default());
    let start = Instant::now();
    assert_eq!(asker.store.table().page(None, "", 100).len(), 100);
    println!("one page of 100: {:?}", start.elapsed());
}

#[test]
#[ignore = "measures"]
#[expect(clippy::disallowed_methods, reason = "it measures real time")]
fn redis_changes_per_second_and_time_to_load() {
    for (name, mut server) in [("appendfsync always", Server::durable()), ("in memory", Server::start())] {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&server, "node-1");
        let mut node = Asker::node(&settings, folder.path());
        wait_for("all of Redis is in memory", || node.redis().is_loaded());
        println!("Redis, {name}");
        let mut number = 0;
        let mut measure = |node: &mut Asker, in_flight: u32, count: u32, what: &str| {
            let start = Instant::now();
            for place in 0..count {
                node.submit(register(vec![binding(number, number)])).unwrap();
                number += 1;
                if place + 1 >= in_flight {
                    node.reply().result.unwrap();
                }
            }
            (1..in_flight).for_each(|_| assert!(node.reply().result.is_ok()));
            let per_second = f64::from(count) / start.elapsed().as_secs_f64();
            println!("{in_flight:4} in flight: {per_second:6.0} {what}/s");
        };
        for (in_flight, count) in [(1, 2_000), (100, 20_000), (1000, 78_000)] {
            measure(&mut node, in_flight, count, "new bindings");
        }
        let start = Instant::now();
        let (other, other_folder) = (super::subject::settings(&server, "node-2"), tempfile::tempdir().unwrap());
        let other = Asker::node(&other, other_folder.path());
        println!("open: {:?}", start.elapsed());
        wait_for("all of Redis is in memory", || other.redis().is_loaded());
        println!("{} bindings in memory: {:?}", other.table().binding_count(), start.elapsed());
        drop(other);
        if name == "in memory" {
            continue;
        }
        server.kill();
        wait_for("Redis away", || node.redis().is_degraded());
        for (in_flight, count) in [(1, 2_000), (100, 10_000), (1000, 20_000)] {
            measure(&mut node, in_flight, count, "changes to the journal");
        }
        server.run();
        let start = Instant::now();
        wait_for("an empty journal", || node.redis().journal_entries() == 0);
        println!("32,000 journaled changes in Redis: {:?}", start.elapsed());
    }
}
