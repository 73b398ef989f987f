//! The embedded store: group commit, its queue, what a start finds, what it says when it cannot start.

use std::path::Path;

use fjall::KeyspaceCreateOptions;
use sip_push_proxy::binding::Binding;
use sip_push_proxy::store::{Applied, Change, Embedded, Memory, OpenError, Settlement, Store, Ticket};

use crate::rows::*;
use crate::subject::Asker;

impl Asker {
    /// One on the embedded store.
    pub(crate) fn open(folder: &Path) -> Self {
        let (store, loaded) = Embedded::open(folder, LIMITS, NOW).unwrap();
        Self::new(Store::Embedded(store), loaded, 10_000)
    }

    pub(crate) fn commits(&self) -> u64 {
        let Store::Embedded(store) = &*self.store else { panic!("{:?}", self.store) };
        store.commits()
    }
}

#[test]
fn a_start_drops_what_time_ended() {
    let folder = tempfile::tempdir().unwrap();
    let mut asker = Asker::open(folder.path());
    let over = Binding { expires_at: NOW, ..plain_binding(1, 1) };
    asker.apply(register(vec![over, Binding { expires_at: NOW, ..binding(1, 2) }])).unwrap();
    let Change::Hold { call, entry } = hold(1, 1, &[2]) else { unreachable!() };
    let entry = sip_push_proxy::store::BucketEntry {
        invited_at: sip_push_proxy::clock::UnixMillis(NOW.0 - 2 * 3_600_000),
        ..entry
    };
    asker.apply(Change::Hold { call, entry }).unwrap();
    drop(asker);

    let asker = Asker::open(folder.path());
    assert_eq!((asker.loaded.bindings, asker.loaded.entries), (1, 0));
    assert_eq!(asker.store.table().by_device(device(1)), None);
}

#[test]
fn each_folder_has_its_own_secret() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert_ne!(Asker::open(one.path()).loaded.secret, Asker::open(other.path()).loaded.secret);
}

#[test]
fn changes_share_commits_and_are_answered_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut asker = Asker::open(folder.path());
    let count = 1000;
    for number in 0..count {
        asker.submit(register(vec![binding(number, number)])).unwrap();
    }
    for number in 0..count {
        let reply = asker.reply();
        assert_eq!((reply.ticket, reply.result), (Ticket(number.into()), Ok(Applied::Done)));
        assert!(asker.store.table().by_device(device(number)).is_some(), "visible before it is answered");
    }
    let commits = asker.commits();
    assert!((1..u64::from(count) / 2).contains(&commits), "{commits} commits for {count} changes");
}

/// Any change on a handful of AORs and devices, by the numbers of a seeded generator.
pub(crate) fn any_change(mut random: impl FnMut(u32) -> u32) -> Change {
    let owner = random(3);
    let mut a_device = || owner + 10 * random(3);
    let (one, other) = (a_device(), a_device());
    let number = random(6) * 3 + owner;
    let settlement = if random(2) == 0 { Settlement::Seen } else { Settlement::Missed };
    match random(10) {
        0 | 1 => register(vec![binding(owner, one), plain_binding(owner, other)]),
        2 => unregister(owner, one, None),
        3 => Change::Register {
            aor: aor(owner),
            put: vec![binding(owner, other)],
            remove: vec![removal(one, Some(other))],
        },
        4 => Change::Remove { aor: aor(owner), device: device(one) },
        5 | 6 => hold(owner, number, &[one, other]),
        7 => settle(owner, number, &[(one, settlement), (other, Settlement::Missed)], random(2) == 0),
        8 => claim(owner, one),
        _ => Change::Reported { aor: aor(owner), device: device(one), call_refs: vec![call_ref(number)] },
    }
}

#[test]
fn whatever_happened_is_on_the_disk_as_it_was_in_memory() {
    for seed in 1..6_u32 {
        let mut state = seed;
        let mut random = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % below
        };
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::new(LIMITS);
        let mut asker = Asker::open(folder.path());
        // Many at once, so that most share a commit with others: the answers are those of one change at a time.
        let changes: Vec<_> = (0..500).map(|_| any_change(&mut random)).collect();
        for change in changes.clone() {
            asker.submit(change).unwrap();
        }
        for change in changes {
            assert_eq!(asker.reply().result, Ok(memory.apply(change)), "seed {seed}");
        }
        drop(asker);
        let asker = Asker::open(folder.path());
        assert_eq!(asker.loaded.held, memory.restart(NOW), "seed {seed}");
        for number in (0..3).flat_map(|owner| (0..3).map(move |place| owner + 10 * place)) {
            let (disk, memory) = (asker.store.table(), memory.table());
            assert_eq!(disk.by_device(device(number)), memory.by_device(device(number)), "seed {seed}");
            assert_eq!(disk.entries(&device(number)), memory.entries(&device(number)), "seed {seed}");
        }
        assert_eq!(asker.store.table().entry_count(), memory.table().entry_count(), "seed {seed}");
        assert_eq!(asker.store.table().binding_count(), memory.table().binding_count(), "seed {seed}");
    }
}

#[test]
fn a_claim_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut asker = Asker::open(folder.path());
    asker.apply(register(vec![binding(1, 1)])).unwrap();
    asker.apply(hold(1, 1, &[1])).unwrap();
    asker.apply(settle(1, 1, &[(1, Settlement::Missed)], true)).unwrap();
    let commits = asker.commits();
    assert!(matches!(asker.apply(claim(1, 1)), Ok(Applied::Claimed(entries)) if entries.len() == 1));
    assert_eq!(asker.commits(), commits);
}

/// Why this folder does not open.
fn refusal(folder: &Path) -> OpenError {
    Embedded::open(folder, LIMITS, NOW).unwrap_err()
}

/// Changes a row behind the store's back.
fn tamper(folder: &Path, keyspace: &str, change: impl FnOnce(&fjall::Keyspace)) {
    let database = fjall::Database::builder(folder.join("store")).open().unwrap();
    change(&database.keyspace(keyspace, KeyspaceCreateOptions::default).unwrap());
    database.persist(fjall::PersistMode::SyncAll).unwrap();
}

#[test]
fn a_second_open_of_a_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = Asker::open(folder.path());
    let refusal = refusal(folder.path());
    assert!(matches!(refusal, OpenError::InUse { .. }), "{refusal}");
    assert!(refusal.to_string().contains(folder.path().to_str().unwrap()), "{refusal}");
    drop(first);
    Asker::open(folder.path());
}

#[test]
fn an_unknown_schema_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(Asker::open(folder.path()));
    tamper(folder.path(), "meta", |meta| meta.insert("schema", [7]).unwrap());
    let refusal = refusal(folder.path());
    assert!(matches!(&refusal, OpenError::Schema { found, known: 2, .. } if found == "7"), "{refusal:?}");
    tamper(folder.path(), "meta", |meta| meta.remove("schema").unwrap());
    assert!(matches!(self::refusal(folder.path()), OpenError::Schema { .. }));
}

#[test]
fn a_damaged_row_is_refused_and_named() {
    for damage in [&[1, 2, 3][..], &[9], &[]] {
        let folder = tempfile::tempdir().unwrap();
        let mut asker = Asker::open(folder.path());
        asker.apply(register(vec![binding(1, 1)])).unwrap();
        drop(asker);
        tamper(folder.path(), "bindings", |bindings| {
            let key = bindings.first_key_value().unwrap().key().unwrap();
            bindings.insert(key, damage).unwrap();
        });
        let refusal = refusal(folder.path());
        assert!(matches!(refusal, OpenError::Damaged { .. }), "{refusal:?}");
        assert!(refusal.to_string().contains("bindings, row user000001@example.org"), "{refusal}");
    }
}

#[test]
fn files_of_another_kind_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    let not_a_folder = refusal(&file);
    assert!(matches!(not_a_folder, OpenError::Folder { .. }), "{not_a_folder:?}");
    assert!(not_a_folder.to_string().contains("node.data_dir"), "{not_a_folder}");

    let data_dir = folder.path().join("data");
    drop(Asker::open(&data_dir));
    std::fs::write(data_dir.join("store/version"), "nonsense").unwrap();
    let nonsense = refusal(&data_dir);
    assert!(matches!(nonsense, OpenError::Damaged { .. }), "{nonsense:?}");
}

#[test]
fn a_store_half_created_is_created_again() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("store.new")).unwrap();
    std::fs::write(folder.path().join("store.new/0.jnl"), "half").unwrap();
    assert_eq!(Asker::open(folder.path()).loaded.bindings, 0);
    assert!(!folder.path().join("store.new").exists());
}
