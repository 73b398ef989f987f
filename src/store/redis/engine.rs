//! How nodes share rows by Redis, without a socket, a file or a clock: what comes back goes in, what is to be done
//! comes out.
//!
//! Each AOR has a version in Redis; a write names the version that it was made on and fails on any other, giving the
//! rows as they are, and the change is made again on those. One lane for each AOR that something is under way for:
//!
//! ```text
//!                 ┌── up ──► Write ──┬── done ───► shown, answered
//!   change ─► waiting                ├── behind ─► rows taken over, made again
//!                 │                  └── unknown ► link down ┐
//!                 └── down ─► Append (the journal) ◄─────────┘──► shown, answered, journaled
//!                                                                        │ up
//!                              Forget ◄── done ── Write (Replay) ◄── Fetch
//! ```
//!
//! - A lane does one thing at a time, so its changes keep their order; lanes do not wait for each other.
//! - A write whose answer is lost may have been done, may not, or may be done later. Its changes go to the journal
//!   under the same [`Position`]s, and the mark in the hash tells whether they are to be done again.
//! - A version lower than one that was seen: Redis has lost data, and gets the rows back from memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::super::Limits;
use super::super::bucket::Claimer;
use super::super::change::{Applied, Change, HeldCall, HeldCallId, Settlement, StoreError};
use super::super::draft::{Draft, Key, Row, Value};
use super::super::table::Table;
use super::journal::{JournalError, Late};
use super::record::{Field, Identity, Notice, Position, Record, fields, mark_field};
use crate::binding::{Aor, Binding, DeviceId};
use crate::clock::UnixMillis;

/// How long a missed_calls push may take before another node may send it: its life at the provider and some more.
const CLAIM_LEASE: Duration = Duration::from_secs(180);
/// Writes and reads that are with Redis at most; more would only wait there.
const FLIGHTS_MAX: usize = 512;
/// Of these, what is done without anybody waiting for it.
const BACKGROUND_MAX: usize = 64;
/// How often a change is made again on newer rows before it is given up as busy.
const ATTEMPTS_MAX: u32 = 40;
/// AORs looked at in one step after a scan.
const VERIFY_STEP: usize = 512;

/// What is to be done outside. Each but the last four is answered by one call of the method of the same name.
#[derive(Debug)]
pub(super) enum Effect {
    /// To [`Engine::wrote`].
    Write(Write),
    /// To [`Engine::fetched`].
    Fetch { aor: Aor, link: u64 },
    /// To [`Engine::scanned`].
    Scan { from: ScanPlace, with_rows: bool, link: u64 },
    /// To [`Engine::appended`].
    Append { aor: Aor, changes: Vec<Late> },
    /// Redis has these: they are done with.
    Forget(Vec<Position>),
    Answer { number: u64, result: Result<Applied, StoreError> },
    /// Whether memory is right about an AOR that was asked for.
    Looked { number: u64, is_known: bool },
    /// Another node accepted a REGISTER.
    Woken(Arc<Binding>),
}

/// A compare-and-set of one hash.
#[derive(Debug, Clone)]
pub(super) struct Write {
    pub(super) aor: Aor,
    pub(super) link: u64,
    /// Version that it is made on.
    pub(super) base: u64,
    pub(super) version: u64,
    pub(super) fields: Vec<Field>,
    pub(super) run: u64,
    pub(super) lifetime: Lifetime,
    /// What must be findable before the hash is written.
    pub(super) found_by: Vec<Index>,
    /// What need not be findable once it is.
    pub(super) gone: Vec<Index>,
    /// How often the same was tried before.
    pub(super) attempt: u32,
}

/// Whether the hash is to go by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lifetime {
    AsItIs,
    /// Nothing is left in it but its version, which late writes are still to meet.
    Ends,
    /// There is something in it again.
    Endless,
}

/// Keys beside the hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Index {
    Device(DeviceId),
    Call(HeldCallId),
}

/// What came of a write.
#[derive(Debug)]
pub(super) enum Wrote {
    Done,
    /// The hash had another version: this is what it holds.
    Behind(Record),
    /// It may have been done, or be done later.
    Unknown(String),
    /// The hash has another version and cannot be read.
    Unreadable(String),
}

/// Why nothing was read.
#[derive(Debug)]
pub(super) enum Unread {
    Away(String),
    Unreadable(String),
}

/// Where a scan is: each node of a Cluster is scanned in turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ScanPlace {
    pub(super) server: usize,
    pub(super) cursor: u64,
}

/// One step of a scan.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) seen: Vec<(Aor, Seen)>,
    /// `None`: the scan is over.
    pub(super) next: Option<ScanPlace>,
}

#[derive(Debug)]
pub(super) enum Seen {
    Version(u64),
    Record(Record),
}

/// What memory knows of an AOR beyond its rows.
#[derive(Debug, Clone, Default)]
struct Known {
    version: u64,
    /// The resynchronisation that met it last.
    pass: u32,
    calls: Vec<HeldCallId>,
    /// Former names of devices.
    names: Vec<DeviceId>,
}

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Pending>,
    /// Acknowledged, and not known to be in Redis.
    journaled: VecDeque<Late>,
    flight: Option<Flight>,
    /// Memory may be behind Redis.
    is_behind: bool,
    /// Those who want to know when it no longer is.
    asked: Vec<u64>,
    is_queued: bool,
    /// Its hash cannot be read.
    is_stuck: bool,
    attempt: u32,
}

#[derive(Debug)]
struct Pending {
    number: u64,
    op: Op,
    /// What it came to when it was last made.
    result: Applied,
    /// A write of it may have been done.
    is_unsure: bool,
}

#[derive(Debug)]
enum Op {
    Change(Box<Change>),
    /// Ends what time alone ends.
    Expire(UnixMillis),
}

/// What a lane waits for.
#[derive(Debug)]
enum Flight {
    Fetch,
    Direct { batch: Vec<Pending>, rows: Vec<Row>, version: u64, mark: Position },
    /// Journaled changes, as many as they were then.
    Replay { count: usize, base: Record, rows: Vec<Row>, version: u64 },
    Append { batch: Vec<Pending>, rows: Vec<Row>, changes: Vec<Late> },
}

pub(super) struct Engine {
    table: Arc<Table>,
    limits: Limits,
    identity: Identity,
    /// Of the change that came last.
    position: Position,
    /// Counts connections; odd while there is one.
    link: u64,
    is_loaded: bool,
    pass: u32,
    /// AORs met by the scan under way.
    scanned: usize,
    /// What the scan did not meet is looked at from here on.
    verify: Option<Bound<Aor>>,
    known: BTreeMap<Aor, Known>,
    lanes: BTreeMap<Aor, Lane>,
    ready: VecDeque<Aor>,
    background: VecDeque<Aor>,
    flights: usize,
    /// Changes that have no answer.
    pending: usize,
    journaled: usize,
    leftovers: Vec<HeldCall>,
    effects: VecDeque<Effect>,
}

impl Engine {
    /// `journal`: what an earlier start acknowledged and Redis may not have, in order. It is shown at once.
    pub(super) fn new(
        table: Arc<Table>,
        limits: Limits,
        identity: Identity,
        position: Position,
        journal: Vec<Late>,
    ) -> Self {
        let mut engine = Self {
            table,
            limits,
            identity,
            position,
            link: 0,
            is_loaded: false,
            pass: 0,
            scanned: 0,
            verify: None,
            known: BTreeMap::new(),
            lanes: BTreeMap::new(),
            ready: VecDeque::new(),
            background: VecDeque::new(),
            flights: 0,
            pending: 0,
            journaled: 0,
            leftovers: Vec::new(),
            effects: VecDeque::new(),
        };
        engine.recover(journal);
        engine
    }

    pub(super) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Calls that an earlier start of this node held and that nobody ended. They are in the store as missed ones.
    pub(super) fn take_leftovers(&mut self) -> Vec<HeldCall> {
        std::mem::take(&mut self.leftovers)
    }

    /// For calls that are to be given out at another time.
    pub(super) fn give_back_leftovers(&mut self, calls: Vec<HeldCall>) {
        self.leftovers.extend(calls);
    }

    /// The number of the present connection.
    pub(super) fn link(&self) -> u64 {
        self.link
    }

    pub(super) fn is_up(&self) -> bool {
        self.link % 2 == 1
    }

    /// Whether memory has seen everything that is in Redis.
    pub(super) fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// AORs met by the scan under way, or by the last one.
    pub(super) fn scanned(&self) -> usize {
        self.scanned
    }

    /// Changes that have no answer yet.
    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    /// Changes in the journal.
    pub(super) fn journaled(&self) -> usize {
        self.journaled
    }

    /// Whether an AOR is at rest.
    pub(super) fn is_idle(&self, aor: &Aor) -> bool {
        !self.lanes.contains_key(aor)
    }

    fn recover(&mut self, journal: Vec<Late>) {
        for late in journal {
            let aor = late.change.aor().clone();
            let mut draft = Draft::shared(&self.table, self.limits, claimer(&self.identity, late.made_at));
            draft.apply(late.change.clone());
            let rows = draft.rows();
            self.show(&aor, &rows);
            self.journaled += 1;
            self.lanes.entry(aor).or_default().journaled.push_back(late);
        }
    }

    /// Reads the AORs of which the journal has changes, and these. To be called once, with the first connection.
    pub(super) fn look_first(&mut self, aors: Vec<Aor>, now: UnixMillis) {
        for aor in aors {
            self.look(&aor, now);
        }
        self.advance_all(now);
    }

    /// From here on what this node holds in memory is of this start. To be called once, when the store opens.
    pub(super) fn opened(&mut self, now: UnixMillis) {
        let ours = |call: &Arc<HeldCall>| self.table.owner(call.id).is_none();
        let known: Vec<_> = self.table.calls().into_iter().filter(ours).collect();
        for call in known.iter().filter(|call| !self.leftovers.iter().any(|left| left.id == call.id)).collect::<Vec<_>>() {
            self.left_over(call, now);
        }
        self.pump(now);
    }
}

/// What comes in.
impl Engine {
    /// A change that somebody wants. Its number comes back in [`Effect::Answer`].
    pub(super) fn submit(&mut self, change: Change, now: UnixMillis) -> u64 {
        let aor = change.aor().clone();
        let number = self.enqueue(&aor, Op::Change(Box::new(change)));
        self.advance(&aor, now);
        self.pump(now);
        number
    }

    /// Memory should be right about an AOR: [`Effect::Looked`] follows.
    pub(super) fn look(&mut self, aor: &Aor, now: UnixMillis) -> u64 {
        let number = self.next_number();
        let lane = self.lanes.entry(aor.clone()).or_default();
        lane.asked.push(number);
        lane.is_behind = true;
        self.advance(aor, now);
        self.pump(now);
        number
    }

    /// Ends what time alone ends, some at a time. Whether there may be more.
    pub(super) fn sweep(&mut self, now: UnixMillis, most: usize) -> bool {
        if !self.is_up() || !self.is_loaded {
            return false;
        }
        let ttl = u64::try_from(self.limits.entry_ttl.as_millis()).unwrap_or(u64::MAX);
        let mut due = self.table.over(now, most);
        if let Some(cutoff) = now.0.checked_sub(ttl).map(UnixMillis) {
            due.extend(self.table.aged(cutoff, most));
        }
        let bindings = due.iter().filter_map(|device| self.table.by_device(*device));
        let aors: BTreeSet<_> = bindings.map(|binding| binding.aor.clone()).collect();
        for aor in &aors {
            if self.is_idle(aor) {
                self.enqueue(aor, Op::Expire(now));
                self.advance(aor, now);
            }
        }
        self.pump(now);
        due.len() >= most
    }

    /// There is a connection; notices come by it from now on.
    pub(super) fn connected(&mut self, now: UnixMillis) {
        if self.is_up() {
            return;
        }
        self.link += 1;
        self.pass = self.pass.wrapping_add(1);
        self.scanned = 0;
        self.verify = None;
        self.effects.push_back(Effect::Scan {
            from: ScanPlace::default(),
            with_rows: !self.is_loaded,
            link: self.link,
        });
        self.advance_all(now);
    }

    /// The connection is gone, or does not answer in time.
    pub(super) fn disconnected(&mut self, now: UnixMillis) {
        if self.is_up() {
            self.link += 1;
            self.advance_all(now);
        }
    }

    pub(super) fn wrote(&mut self, aor: &Aor, link: u64, outcome: Wrote, now: UnixMillis) {
        self.flights = self.flights.saturating_sub(1);
        if let Wrote::Unknown(reason) = &outcome {
            self.failed(link, reason, now);
        }
        let flight = self.lanes.get_mut(aor).and_then(|lane| lane.flight.take());
        match flight {
            Some(Flight::Direct { batch, rows, version, mark }) => {
                self.wrote_direct(aor, batch, &rows, version, mark, outcome, now);
            }
            Some(Flight::Replay { count, base, rows, version }) => {
                self.wrote_replay(aor, count, base, &rows, version, outcome, now);
            }
            Some(Flight::Fetch | Flight::Append { .. }) | None => debug_assert!(false, "nothing was written"),
        }
        self.advance(aor, now);
        self.pump(now);
    }

    pub(super) fn fetched(&mut self, aor: &Aor, link: u64, record: Result<Record, Unread>, now: UnixMillis) {
        self.flights = self.flights.saturating_sub(1);
        if let Some(lane) = self.lanes.get_mut(aor) {
            lane.flight = None;
        }
        match record {
            Ok(record) => {
                if let Some(lane) = self.lanes.get_mut(aor) {
                    lane.is_behind = false;
                    lane.is_stuck = false;
                }
                self.take_over(aor, record, now);
            }
            Err(Unread::Away(reason)) => self.failed(link, &reason, now),
            Err(Unread::Unreadable(reason)) => self.unreadable(aor, &reason),
        }
        self.advance(aor, now);
        self.pump(now);
    }

    /// A step of the scan that follows each connection.
    pub(super) fn scanned_page(&mut self, link: u64, page: Result<Page, String>, now: UnixMillis) {
        let page = match page {
            Ok(page) => page,
            Err(reason) => return self.failed(link, &reason, now),
        };
        if link != self.link {
            return;
        }
        self.scanned += page.seen.len();
        for (aor, seen) in page.seen {
            self.seen(&aor, seen, now);
        }
        match page.next {
            Some(from) => self.effects.push_back(Effect::Scan { from, with_rows: !self.is_loaded, link }),
            None => {
                if !self.is_loaded {
                    tracing::info!(aors = self.scanned, bindings = self.table.binding_count(), "all of Redis is in memory");
                }
                self.is_loaded = true;
                self.verify = Some(Bound::Unbounded);
            }
        }
        self.pump(now);
    }

    pub(super) fn appended(&mut self, aor: &Aor, result: Result<(), JournalError>, now: UnixMillis) {
        let flight = self.lanes.get_mut(aor).and_then(|lane| lane.flight.take());
        let Some(Flight::Append { batch, rows, changes }) = flight else {
            debug_assert!(false, "nothing was appended");
            return;
        };
        match result {
            Ok(()) => {
                self.show(aor, &rows);
                self.journaled += changes.len();
                if let Some(lane) = self.lanes.get_mut(aor) {
                    lane.journaled.extend(changes);
                }
                for pending in batch {
                    self.answer(pending.number, Ok(pending.result));
                }
            }
            Err(error) => {
                let error = match error {
                    JournalError::Full => StoreError::Busy,
                    JournalError::Disk(what) => StoreError::Broken(format!("Redis is away, and the journal: {what}")),
                };
                self.refuse(batch, &error);
                // What was refused may still be done by Redis.
                if let Some(lane) = self.lanes.get_mut(aor) {
                    lane.is_behind = true;
                }
            }
        }
        self.advance(aor, now);
        self.pump(now);
    }

    /// Another node's change.
    pub(super) fn notice(&mut self, notice: &Notice, now: UnixMillis) {
        let aor = &notice.aor;
        if notice.run == self.identity.run {
            return;
        }
        if let Some(lane) = self.lanes.get_mut(aor) {
            lane.is_behind = true;
            return;
        }
        let version = self.version(aor);
        if notice.version <= version {
            return;
        }
        match notice.rows(&self.identity) {
            Ok(rows) if notice.base == version => {
                self.show(aor, &rows);
                self.met(aor, notice.version);
                self.wake(&rows);
                self.rest(aor);
            }
            Ok(_) | Err(_) => self.fall_behind(aor, now),
        }
        self.pump(now);
    }
}

/// What came of it.
impl Engine {
    #[expect(clippy::too_many_arguments, reason = "the parts of one flight")]
    fn wrote_direct(
        &mut self,
        aor: &Aor,
        mut batch: Vec<Pending>,
        rows: &[Row],
        version: u64,
        mark: Position,
        outcome: Wrote,
        now: UnixMillis,
    ) {
        match outcome {
            Wrote::Done => {
                self.show(aor, rows);
                self.met(aor, version);
                self.settled(aor, batch);
            }
            // It was done, by an attempt whose answer was lost.
            Wrote::Behind(record) if record.mark.is_some_and(|done| done.covers(&mark)) => {
                self.show(aor, rows);
                self.settled(aor, batch);
                self.take_over(aor, record, now);
            }
            Wrote::Behind(record) => {
                let attempt = self.lanes.get(aor).map_or(0, |lane| lane.attempt);
                if attempt >= ATTEMPTS_MAX {
                    self.refuse(batch, &StoreError::Busy);
                    self.take_over(aor, record, now);
                    return;
                }
                self.back_to_front(aor, batch);
                if let Some(lane) = self.lanes.get_mut(aor) {
                    lane.attempt = attempt + 1;
                }
                self.take_over(aor, record, now);
            }
            Wrote::Unknown(_) => {
                batch.iter_mut().for_each(|pending| pending.is_unsure = true);
                self.back_to_front(aor, batch);
            }
            Wrote::Unreadable(reason) => {
                self.back_to_front(aor, batch);
                self.unreadable(aor, &reason);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one flight")]
    fn wrote_replay(
        &mut self,
        aor: &Aor,
        count: usize,
        mut base: Record,
        rows: &[Row],
        version: u64,
        outcome: Wrote,
        now: UnixMillis,
    ) {
        match outcome {
            Wrote::Done => {
                base.change(rows);
                base.version = version;
                self.forget(aor, count);
                if let Some(lane) = self.lanes.get_mut(aor) {
                    lane.attempt = 0;
                }
                self.install(aor, base, now);
            }
            Wrote::Behind(record) => {
                if let Some(lane) = self.lanes.get_mut(aor) {
                    lane.attempt = lane.attempt.saturating_add(1);
                }
                self.take_over(aor, record, now);
            }
            // Acknowledged changes are tried for ever.
            Wrote::Unknown(_) => {}
            Wrote::Unreadable(reason) => self.unreadable(aor, &reason),
        }
    }

    /// Makes memory and Redis agree, whichever of them has what the other lacks.
    fn take_over(&mut self, aor: &Aor, record: Record, now: UnixMillis) {
        let has_journaled = self.lanes.get(aor).is_some_and(|lane| !lane.journaled.is_empty());
        let is_loss = record.version < self.version(aor) && self.has_rows(aor);
        if !is_loss && !has_journaled {
            return self.install(aor, record, now);
        }
        let late: Vec<_> =
            self.lanes.get(aor).map(|lane| lane.journaled.iter().cloned().collect()).unwrap_or_default();
        let is_done = |position: &Position| record.mark.is_some_and(|done| done.covers(position));
        let rows = if is_loss {
            tracing::debug!(%aor, "Redis has lost it and gets it back from memory");
            difference(&record.rows, &self.rows(aor))
        } else if late.iter().all(|late| is_done(&late.position)) {
            self.forget(aor, late.len());
            return self.install(aor, record, now);
        } else {
            self.replayed(aor, &record, late.iter().filter(|late| !is_done(&late.position)), now)
        };
        let mark = late.last().map_or_else(|| self.settled_mark(aor), |late| late.position);
        let mark = record.mark.filter(|done| done.covers(&mark)).unwrap_or(mark);
        let version = self.version(aor).max(record.version) + 1;
        let write = self.write(aor, &record.rows, record.version, version, &rows, mark);
        match write {
            Ok(write) => self.send(aor, write, Flight::Replay { count: late.len(), base: record, rows, version }),
            Err(reason) => self.unreadable(aor, &reason),
        }
    }

    /// What changes that were acknowledged come to on rows that other nodes may have changed since.
    fn replayed<'l>(
        &self,
        aor: &Aor,
        record: &Record,
        late: impl Iterator<Item = &'l Late>,
        now: UnixMillis,
    ) -> Vec<Row> {
        let table = Table::default();
        table.apply(aor, &record.rows.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect::<Vec<_>>());
        let mut draft = Draft::shared(&table, self.limits, claimer(&self.identity, now));
        for late in late {
            draft.apply_late(late.change.clone(), late.made_at);
        }
        draft.rows()
    }

    /// Memory becomes what Redis has.
    fn install(&mut self, aor: &Aor, record: Record, now: UnixMillis) {
        let rows = difference(&self.rows(aor), &record.rows);
        let left: Vec<_> = rows
            .iter()
            .filter_map(|(_, value)| match value {
                Some(Value::Call(held)) if held.owner.is_none() => Some(held),
                _ => None,
            })
            .filter(|held| self.table.call(held.call.id).is_none())
            .map(|held| Arc::clone(&held.call))
            .collect();
        self.show(aor, &rows);
        self.met(aor, record.version);
        self.wake(&rows);
        for call in left {
            self.left_over(&call, now);
        }
    }

    /// A call that this node held before it started: nobody else will end it.
    fn left_over(&mut self, call: &Arc<HeldCall>, now: UnixMillis) {
        let settle = Change::Settle {
            aor: call.aor.clone(),
            id: call.id,
            call_ref: call.call_ref.clone(),
            devices: call.devices.iter().map(|device| (*device, Settlement::Missed)).collect(),
            ended: true,
        };
        self.leftovers.push(HeldCall::clone(call));
        self.enqueue(&call.aor, Op::Change(Box::new(settle)));
        self.advance(&call.aor, now);
    }

    fn seen(&mut self, aor: &Aor, seen: Seen, now: UnixMillis) {
        let pass = self.pass;
        if let Some(known) = self.known.get_mut(aor) {
            known.pass = pass;
        }
        if let Some(lane) = self.lanes.get_mut(aor) {
            lane.is_behind = true;
            return;
        }
        match seen {
            Seen::Version(version) if version == self.version(aor) => {}
            Seen::Record(record) if record.version > self.version(aor) => {
                self.install(aor, record, now);
                self.rest(aor);
            }
            Seen::Record(record) if record.version == self.version(aor) => {}
            Seen::Version(_) | Seen::Record(_) => self.fall_behind(aor, now),
        }
    }

    /// Looks at some of what the scan did not meet: Redis has lost it, or never had it.
    fn verify(&mut self, now: UnixMillis) {
        let Some(from) = self.verify.take() else { return };
        let missed = self.known.range((from, Bound::Unbounded)).filter(|(_, known)| known.pass != self.pass);
        let step: Vec<_> = missed.take(VERIFY_STEP).map(|(aor, _)| aor.clone()).collect();
        self.verify = step.last().filter(|_| step.len() == VERIFY_STEP).map(|aor| Bound::Excluded(aor.clone()));
        for aor in step {
            self.fall_behind(&aor, now);
        }
    }

    fn failed(&mut self, link: u64, reason: &str, now: UnixMillis) {
        if link == self.link && self.is_up() {
            tracing::warn!(reason, "Redis is away: changes go to the journal");
            self.disconnected(now);
        }
    }

    fn unreadable(&mut self, aor: &Aor, reason: &str) {
        tracing::error!(reason, "a row in Redis cannot be read; its AOR is left alone");
        let Some(lane) = self.lanes.get_mut(aor) else { return };
        lane.is_behind = false;
        // What is journaled stays there, for a program that can read it.
        lane.is_stuck = true;
        let waiting = std::mem::take(&mut lane.waiting);
        self.refuse(waiting, &StoreError::Broken(format!("a row in Redis cannot be read: {reason}")));
    }
}

/// Lanes.
impl Engine {
    fn next_number(&mut self) -> u64 {
        self.position.number += 1;
        self.position.number
    }

    fn enqueue(&mut self, aor: &Aor, op: Op) -> u64 {
        let number = self.next_number();
        self.pending += 1;
        let pending = Pending { number, op, result: Applied::Done, is_unsure: false };
        self.lanes.entry(aor.clone()).or_default().waiting.push_back(pending);
        number
    }

    fn fall_behind(&mut self, aor: &Aor, now: UnixMillis) {
        self.lanes.entry(aor.clone()).or_default().is_behind = true;
        self.advance(aor, now);
    }

    fn advance_all(&mut self, now: UnixMillis) {
        let aors: Vec<_> = self.lanes.keys().cloned().collect();
        for aor in aors {
            if let Some(lane) = self.lanes.get_mut(&aor) {
                lane.is_stuck = false;
            }
            self.advance(&aor, now);
        }
        self.pump(now);
    }

    /// Lets a lane do what is next.
    fn advance(&mut self, aor: &Aor, now: UnixMillis) {
        loop {
            let is_up = self.is_up();
            let is_known = self.is_loaded || self.known.contains_key(aor);
            let Some(lane) = self.lanes.get_mut(aor) else { return };
            if lane.flight.is_some() || lane.is_queued {
                return;
            }
            let is_unsure = lane.waiting.front().is_some_and(|pending| pending.is_unsure);
            if !lane.waiting.is_empty() && (!is_up || is_unsure) {
                self.append(aor, now);
                continue;
            }
            if !is_up || lane.is_stuck {
                let asked = std::mem::take(&mut lane.asked);
                let is_over = lane.journaled.is_empty() && lane.waiting.is_empty();
                if lane.is_stuck && !lane.waiting.is_empty() {
                    let waiting = std::mem::take(&mut lane.waiting);
                    self.refuse(waiting, &StoreError::Broken("a row in Redis cannot be read".to_owned()));
                }
                self.looked(asked, false);
                if is_over {
                    self.lanes.remove(aor);
                    self.rest(aor);
                }
                return;
            }
            let must_read = !lane.journaled.is_empty() || lane.is_behind || (!is_known && !lane.waiting.is_empty());
            if !must_read {
                let asked = std::mem::take(&mut lane.asked);
                let is_over = lane.waiting.is_empty();
                self.looked(asked, true);
                if is_over {
                    self.lanes.remove(aor);
                    self.rest(aor);
                    return;
                }
            }
            // Whoever waits for Redis goes before what nobody waits for.
            let Some(lane) = self.lanes.get_mut(aor) else { return };
            let (queue, most) = if lane.waiting.is_empty() && lane.asked.is_empty() {
                (&mut self.background, BACKGROUND_MAX)
            } else {
                (&mut self.ready, FLIGHTS_MAX)
            };
            if self.flights >= most {
                lane.is_queued = true;
                queue.push_back(aor.clone());
                return;
            }
            if must_read {
                lane.flight = Some(Flight::Fetch);
                self.flights += 1;
                self.effects.push_back(Effect::Fetch { aor: aor.clone(), link: self.link });
                return;
            }
            self.direct(aor, now);
        }
    }

    /// Lets lanes go on that waited for room.
    fn pump(&mut self, now: UnixMillis) {
        if self.background.len() < VERIFY_STEP {
            self.verify(now);
        }
        loop {
            let next = if self.flights < FLIGHTS_MAX { self.ready.pop_front() } else { None };
            let next = match next {
                None if self.flights < BACKGROUND_MAX => self.background.pop_front(),
                next => next,
            };
            let Some(aor) = next else { return };
            if let Some(lane) = self.lanes.get_mut(&aor) {
                lane.is_queued = false;
                self.advance(&aor, now);
            }
        }
    }

    /// Makes all waiting changes on what memory has, as one write.
    fn direct(&mut self, aor: &Aor, now: UnixMillis) {
        let Some(lane) = self.lanes.get_mut(aor) else { return };
        let mut batch: Vec<_> = lane.waiting.drain(..).collect();
        let rows = self.make(aor, &mut batch, now);
        let Some(last) = batch.last() else { return };
        if rows.is_empty() {
            return self.settled(aor, batch);
        }
        let mark = Position { number: last.number, ..self.position };
        let base = self.version(aor);
        // A hash begun again must not repeat versions that it had before.
        let version = if base == 0 { now.0.saturating_mul(1000).max(1) } else { base + 1 };
        let before = if rows.iter().any(|(_, value)| value.is_none()) { self.rows(aor) } else { BTreeMap::new() };
        match self.write(aor, &before, base, version, &rows, mark) {
            Ok(write) => self.send(aor, write, Flight::Direct { batch, rows, version, mark }),
            Err(reason) => self.refuse(batch, &StoreError::Broken(reason)),
        }
    }

    fn make(&self, aor: &Aor, batch: &mut [Pending], now: UnixMillis) -> Vec<Row> {
        let mut draft = Draft::shared(&self.table, self.limits, claimer(&self.identity, now));
        for pending in batch {
            pending.result = match &pending.op {
                Op::Change(change) => draft.apply(Change::clone(change)),
                Op::Expire(now) => {
                    draft.expire(aor, *now);
                    Applied::Done
                }
            };
        }
        draft.rows()
    }

    /// The same, by the journal. What needs the other nodes' word is left for a time when they can be heard.
    fn append(&mut self, aor: &Aor, now: UnixMillis) {
        let Some(lane) = self.lanes.get_mut(aor) else { return };
        let waiting: Vec<_> = lane.waiting.drain(..).collect();
        let (mut batch, mut changes, mut claims) = (Vec::new(), Vec::new(), Vec::new());
        for mut pending in waiting {
            let Op::Change(change) = &mut pending.op else {
                self.answer(pending.number, Ok(Applied::Done));
                continue;
            };
            if let Change::Claim { aor, device } = &**change {
                claims.push(pending.number);
                if !pending.is_unsure {
                    continue;
                }
                // The claim may stand there; nobody makes use of it.
                **change = Change::Release { aor: aor.clone(), device: *device };
            }
            let position = Position { number: pending.number, ..self.position };
            changes.push(Late { position, made_at: now, change: Change::clone(change) });
            batch.push(pending);
        }
        let rows = self.make(aor, &mut batch, now);
        batch.retain(|pending| !claims.contains(&pending.number));
        for number in claims {
            self.answer(number, Ok(Applied::Claimed(Vec::new())));
        }
        if changes.is_empty() {
            return;
        }
        self.effects.push_back(Effect::Append { aor: aor.clone(), changes: changes.clone() });
        if let Some(lane) = self.lanes.get_mut(aor) {
            lane.flight = Some(Flight::Append { batch, rows, changes });
        }
    }

    /// `before`: the rows so far, as far as they matter to whether any are left.
    fn write(
        &self,
        aor: &Aor,
        before: &BTreeMap<Key, Value>,
        base: u64,
        version: u64,
        rows: &[Row],
        mark: Position,
    ) -> Result<Write, String> {
        let mut fields = fields(&self.identity.node, rows)?;
        fields.push(mark_field(&self.identity.node, mark));
        let stays = |key: &Key| !rows.iter().any(|(changed, value)| changed == key && value.is_none());
        let is_left = rows.iter().any(|(_, value)| value.is_some()) || before.keys().any(stays);
        let was_empty = base == 0 || !self.has_rows(aor);
        let lifetime = match (is_left, was_empty) {
            (false, _) => Lifetime::Ends,
            (true, true) => Lifetime::Endless,
            (true, false) => Lifetime::AsItIs,
        };
        let (mut found_by, mut gone) = (Vec::new(), Vec::new());
        for (key, value) in rows {
            match (key, value) {
                (Key::Binding(_, device), Some(_)) if base == 0 || self.table.by_device(*device).is_none() => {
                    found_by.push(Index::Device(*device));
                }
                (Key::Binding(_, device), None) => gone.push(Index::Device(*device)),
                (Key::Call(id), Some(_)) => found_by.push(Index::Call(*id)),
                (Key::Call(id), None) => gone.push(Index::Call(*id)),
                (Key::Binding(..) | Key::Entry(..) | Key::Claim(_) | Key::Heir(_), _) => {}
            }
        }
        let attempt = self.lanes.get(aor).map_or(0, |lane| lane.attempt);
        let (link, run) = (self.link, self.identity.run);
        Ok(Write { aor: aor.clone(), link, base, version, fields, run, lifetime, found_by, gone, attempt })
    }

    fn send(&mut self, aor: &Aor, write: Write, flight: Flight) {
        if let Some(lane) = self.lanes.get_mut(aor) {
            lane.flight = Some(flight);
            self.flights += 1;
            self.effects.push_back(Effect::Write(write));
        }
    }

    fn back_to_front(&mut self, aor: &Aor, batch: Vec<Pending>) {
        if let Some(lane) = self.lanes.get_mut(aor) {
            for pending in batch.into_iter().rev() {
                lane.waiting.push_front(pending);
            }
        }
    }

    fn settled(&mut self, aor: &Aor, batch: Vec<Pending>) {
        if let Some(lane) = self.lanes.get_mut(aor) {
            lane.attempt = 0;
        }
        for pending in batch {
            self.answer(pending.number, Ok(pending.result));
        }
    }

    fn refuse(&mut self, batch: impl IntoIterator<Item = Pending>, error: &StoreError) {
        for pending in batch {
            self.answer(pending.number, Err(error.clone()));
        }
    }

    fn answer(&mut self, number: u64, result: Result<Applied, StoreError>) {
        self.pending = self.pending.saturating_sub(1);
        self.effects.push_back(Effect::Answer { number, result });
    }

    fn looked(&mut self, asked: Vec<u64>, is_known: bool) {
        self.effects.extend(asked.into_iter().map(|number| Effect::Looked { number, is_known }));
    }

    fn forget(&mut self, aor: &Aor, count: usize) {
        let Some(lane) = self.lanes.get_mut(aor) else { return };
        let done: Vec<_> = lane.journaled.drain(..count.min(lane.journaled.len())).map(|late| late.position).collect();
        self.journaled = self.journaled.saturating_sub(done.len());
        if !done.is_empty() {
            self.effects.push_back(Effect::Forget(done));
        }
    }

    /// Of all changes before those that wait.
    fn settled_mark(&self, aor: &Aor) -> Position {
        let waiting = self.lanes.get(aor).and_then(|lane| lane.waiting.front());
        let number = waiting.map_or(self.position.number, |pending| pending.number.saturating_sub(1));
        Position { number, ..self.position }
    }
}

/// Memory.
impl Engine {
    fn version(&self, aor: &Aor) -> u64 {
        self.known.get(aor).map_or(0, |known| known.version)
    }

    fn has_rows(&self, aor: &Aor) -> bool {
        let has_more = |known: &Known| !known.calls.is_empty() || !known.names.is_empty();
        !self.table.lookup(aor).is_empty() || self.known.get(aor).is_some_and(has_more)
    }

    fn rows(&self, aor: &Aor) -> BTreeMap<Key, Value> {
        let known = self.known.get(aor);
        let (calls, names) = known.map(|known| (&*known.calls, &*known.names)).unwrap_or_default();
        self.table.rows(aor, calls, names)
    }

    fn show(&mut self, aor: &Aor, rows: &[Row]) {
        if rows.is_empty() {
            return;
        }
        self.table.apply(aor, rows);
        let known = self.known.entry(aor.clone()).or_default();
        known.pass = self.pass;
        for (key, value) in rows {
            match key {
                Key::Call(id) => {
                    known.calls.retain(|other| other != id);
                    known.calls.extend(value.is_some().then_some(*id));
                }
                Key::Heir(name) => {
                    known.names.retain(|other| other != name);
                    known.names.extend(value.is_some().then_some(*name));
                }
                Key::Binding(..) | Key::Entry(..) | Key::Claim(_) => {}
            }
        }
    }

    fn met(&mut self, aor: &Aor, version: u64) {
        let known = self.known.entry(aor.clone()).or_default();
        known.version = version;
        known.pass = self.pass;
    }

    /// Of an AOR without rows nothing need be known while nothing is under way for it.
    fn rest(&mut self, aor: &Aor) {
        if !self.has_rows(aor) && self.is_idle(aor) {
            self.known.remove(aor);
        }
    }

    fn wake(&mut self, rows: &[Row]) {
        let woken = rows.iter().filter_map(|(_, value)| match value {
            Some(Value::Binding(binding)) => Some(Effect::Woken(Arc::clone(binding))),
            _ => None,
        });
        self.effects.extend(woken);
    }
}

fn claimer(identity: &Identity, now: UnixMillis) -> Claimer {
    Claimer { node: Arc::clone(&identity.node), run: identity.run, now, until: now.after(CLAIM_LEASE) }
}

/// What makes rows `from` into rows `to`.
fn difference(from: &BTreeMap<Key, Value>, to: &BTreeMap<Key, Value>) -> Vec<Row> {
    let gone = from.keys().filter(|key| !to.contains_key(*key)).map(|key| (key.clone(), None));
    let come = to.iter().filter(|(key, value)| from.get(*key) != Some(*value));
    gone.chain(come.map(|(key, value)| (key.clone(), Some(value.clone())))).collect()
}
