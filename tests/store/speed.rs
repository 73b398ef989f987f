//! Figures of the embedded store, printed and not judged: `cargo test --test store speed -- --ignored --nocapture`.

use std::time::Instant;

use crate::rows::*;
use crate::subject::Asker;

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
    assert_eq!(asker.store.table().page(None, 100).len(), 100);
    println!("one page of 100: {:?}", start.elapsed());
}
