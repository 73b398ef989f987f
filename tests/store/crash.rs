//! What a kill -9 and a disk that refuses writes leave: all that was acknowledged, and nothing by halves.
//!
//! The process that is killed is this test binary again, with [`FOLDER`] set and only one of the two `child_…` tests.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use sip_push_proxy::store::{Change, EntryState, HeldCallId};

use crate::rows::*;
use crate::subject::Asker;

const FOLDER: &str = "STORE_TEST_FOLDER";
const FIRST: &str = "STORE_TEST_FIRST";
/// Changes that the flooding child has under way.
const IN_FLIGHT: u32 = 48;

/// Even numbers register two devices of an AOR by one change, odd ones hold a call for both devices of the AOR before.
fn numbered(number: u32) -> Change {
    let owner = number & !1;
    let devices = [owner, second(owner)];
    if number == owner {
        register(devices.map(|device| binding(owner, device)).into())
    } else {
        hold(owner, number, &devices)
    }
}

fn second(owner: u32) -> u32 {
    owner + 1_000_000
}

/// Changes as fast as it can, each acknowledged one printed, until it is killed.
#[test]
fn child_floods() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let first: u32 = std::env::var(FIRST).unwrap().parse().unwrap();
    let mut asker = Asker::open(Path::new(&folder));
    for number in first..first + 100_000 {
        asker.submit(numbered(number)).unwrap();
        if number >= first + IN_FLIGHT {
            let reply = asker.reply();
            reply.result.unwrap();
            say(format_args!("ack {}", u64::from(first) + reply.ticket.0));
        }
    }
}

/// Registers each number that it is told and says what came of it.
#[test]
fn child_obeys() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut asker = Asker::open(Path::new(&folder));
    for line in std::io::stdin().lines() {
        let number: u32 = line.unwrap().parse().unwrap();
        let result = asker.apply(register(vec![binding(number, number)]));
        let visible = asker.store.table().by_device(device(number)).is_some();
        assert_eq!(result.is_ok(), visible, "what is not durable is not visible");
        say(format_args!("{} {number}", if result.is_ok() { "ack" } else { "broken" }));
    }
}

/// On a line of its own, whatever the test harness printed before.
pub(crate) fn say(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}").unwrap();
    out.flush().unwrap();
}

/// Through a shell that has SIGXFSZ ignored, so that a file over its limit is an error of the write.
fn spawn(child: &str, folder: &Path, first: u32) -> Child {
    Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("crash::{child}"), "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .env(FIRST, first.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The number of a whole line `WORD NUMBER`, among what the test harness prints.
pub(crate) fn number_of(line: &str, word: &str) -> Option<u32> {
    line.strip_suffix('\n')?.strip_prefix(word)?.strip_prefix(' ')?.parse().ok()
}

#[test]
fn kill_loses_nothing_acknowledged_and_leaves_nothing_half() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = 0;
    // How much is acknowledged before the kill. Where in a commit it strikes is up to chance.
    for acknowledged_min in [0, 1, 37, 150, 411, 902, 1500] {
        let mut child = spawn("child_floods", folder.path(), first);
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut acknowledged = Vec::new();
        let mut line = String::new();
        let mut killed = false;
        loop {
            if acknowledged.len() >= acknowledged_min && !killed {
                child.kill().unwrap();
                killed = true;
            }
            line.clear();
            if lines.read_line(&mut line).unwrap() == 0 {
                break;
            }
            acknowledged.extend(number_of(&line, "ack"));
        }
        child.wait().unwrap();
        assert!(killed, "the child ended by itself");
        let end = acknowledged.last().map_or(first, |last| last + 1) + 2 * IN_FLIGHT;
        check(&Asker::open(folder.path()), first..end, &acknowledged);
        first = end.next_multiple_of(2);
    }
}

fn check(asker: &Asker, numbers: std::ops::Range<u32>, acknowledged: &[u32]) {
    let table = asker.store.table();
    for number in numbers {
        let owner = number & !1;
        let devices = [owner, second(owner)];
        let is_there = if number == owner {
            let found = devices.map(|number| table.by_device(device(number)));
            let whole = devices.map(|number| binding(owner, number));
            for (found, whole) in found.iter().zip(&whole) {
                assert!(found.as_deref().is_none_or(|found| found == whole), "{number} is there by halves");
            }
            assert_eq!(found[0].is_some(), found[1].is_some(), "{number} is there by halves");
            found[0].is_some()
        } else {
            let found = devices.map(|number| table.entries(&device(number)));
            let held = asker.loaded.held.iter().find(|call| call.id == HeldCallId(number.into()));
            assert!(held.is_none_or(|held| *held == call(owner, number, &devices)), "{number} is there by halves");
            let states = found.map(|entries| entries.iter().map(|entry| entry.state).collect::<Vec<_>>());
            let expected = held.map(|_| EntryState::Live).into_iter().collect::<Vec<_>>();
            assert_eq!(states, [expected.clone(), expected], "{number} is there by halves");
            held.is_some()
        };
        assert!(is_there || !acknowledged.contains(&number), "{number} was acknowledged and is lost");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_refuses_writes_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = spawn("child_obeys", folder.path(), 0);
    let mut orders = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut order = |number: u32| {
        writeln!(orders, "{number}").unwrap();
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the child ended");
            if number_of(&line, "ack") == Some(number) {
                return true;
            }
            if number_of(&line, "broken") == Some(number) {
                return false;
            }
        }
    };
    let file_bytes_max = |bytes: &str| {
        let pid = child.id().to_string();
        let done = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}:")]).status();
        assert!(done.unwrap().success());
    };

    let mut durable: Vec<u32> = (0..5).filter(|number| order(*number)).collect();
    assert_eq!(durable.len(), 5);
    file_bytes_max("4096");
    let first_refused = (5..100).find(|number| {
        let is_durable = order(*number);
        durable.extend(is_durable.then_some(*number));
        !is_durable
    });
    let first_refused = first_refused.unwrap();
    let refused = first_refused..first_refused + 4;
    for number in refused.clone().skip(1) {
        assert!(!order(number), "the disk still refuses");
    }
    file_bytes_max("unlimited");
    for number in 200..205 {
        assert!(order(number), "the disk is well again");
        durable.push(number);
    }
    child.kill().unwrap();
    child.wait().unwrap();

    let asker = Asker::open(folder.path());
    for number in durable {
        assert_eq!(asker.store.table().by_device(device(number)).as_deref(), Some(&binding(number, number)));
    }
    for number in refused {
        assert_eq!(asker.store.table().by_device(device(number)), None, "{number} was refused");
    }
}
