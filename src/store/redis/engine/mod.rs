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
//! - A held call is of one node. When that is gone another one writes itself in its place, which at most one can; the
//!   former, if it was only slow, learns of it by the notice and stands back.
//! - A hash without the mark of a change that Redis once had, or with a lower version: Redis has lost data, and gets
//!   it back from memory. Each node sees to what it acknowledged itself.

mod effect;
mod lane;
mod memory;
mod nodes;
mod outcome;
#[cfg(test)]
mod simulation;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::super::LeftCall;
use super::super::Limits;
use super::super::bucket::Claimer;
use super::super::change::{Change, HeldCallId, StoreError};
use super::super::draft::Draft;
use super::super::messages;
use super::super::table::Table;
use super::journal::{JournalError, Late};
use super::record::{Beat, Identity, Notice, Position, Record};
use crate::binding::Aor;
use crate::clock::UnixMillis;
pub(super) use effect::{Effect, Index, Lifetime, Page, ScanPlace, Seen, Unread, Write, Wrote};
use lane::{Flight, Lane, Op};
use memory::Known;
pub(super) use nodes::Homes;
use nodes::Nodes;

/// How long a missed_calls push may take before another node may send it: its life at the provider and some more.
const CLAIM_LEASE: Duration = Duration::from_secs(180);
/// Writes and reads that are with Redis at most; more would only wait there.
const FLIGHTS_MAX: usize = 512;
/// Of these, what is done without anybody waiting for it.
const BACKGROUND_MAX: usize = 64;
/// How often a change is made again on newer rows before it is given up as busy.
const ATTEMPTS_MAX: u32 = 40;
/// Calls of nodes that are gone that are taken over between two looks.
const TAKEN_MAX: usize = 4096;
/// AORs looked at in one step after a scan.
const VERIFY_STEP: usize = 512;

pub(super) struct Engine {
    table: Arc<Table>,
    limits: Limits,
    identity: Identity,
    /// Of the change that came last.
    position: Position,
    /// Counts connections; odd while there is one.
    link: u64,
    has_scanned: bool,
    /// Met by the first scan while something was under way for it: memory does not have what Redis has of it yet.
    unread: HashSet<Aor>,
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
    nodes: Nodes,
    leftovers: Vec<LeftCall>,
    /// All that were ever given out.
    adopted: HashSet<HeldCallId>,
    /// Calls of nodes that are gone, which this one asked for.
    taking: HashSet<HeldCallId>,
    /// Writes so far.
    writes: u64,
    effects: VecDeque<Effect>,
}

impl Engine {
    /// `journal`: what an earlier start acknowledged and Redis may not have, in order. It is shown at once. `patience`:
    /// looks at the signs of life of a silent node after which it is gone.
    pub(super) fn new(
        table: Arc<Table>,
        limits: Limits,
        identity: Identity,
        position: Position,
        journal: Vec<Late>,
        patience: u32,
    ) -> Self {
        let mut engine = Self {
            table,
            limits,
            nodes: Nodes::new(Arc::clone(&identity.node), patience),
            identity,
            position,
            link: 0,
            has_scanned: false,
            unread: HashSet::new(),
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
            adopted: HashSet::new(),
            taking: HashSet::new(),
            writes: 0,
            effects: VecDeque::new(),
        };
        engine.recover(journal);
        engine
    }

    pub(super) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Calls that an earlier start of this node held, or a node that is gone, and that nobody ended.
    pub(super) fn take_leftovers(&mut self) -> Vec<LeftCall> {
        std::mem::take(&mut self.leftovers)
    }

    /// For calls that are to be given out at another time.
    pub(super) fn give_back_leftovers(&mut self, calls: Vec<LeftCall>) {
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
        self.has_scanned && self.unread.is_empty()
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

    /// Where the other nodes are, and where those were that are gone.
    pub(super) fn homes(&self) -> Homes {
        self.nodes.homes()
    }

    /// How many nodes are there, this one among them.
    pub(super) fn node_count(&self) -> usize {
        self.nodes.count()
    }

    /// Whether an AOR is at rest.
    pub(super) fn is_idle(&self, aor: &Aor) -> bool {
        !self.lanes.contains_key(aor)
    }

    fn recover(&mut self, journal: Vec<Late>) {
        for late in journal {
            let aor = late.change.aor().clone();
            let mut draft = Draft::shared(&self.table, self.limits, self.claimer_of(&late, late.made_at));
            draft.apply(late.change.clone());
            let rows = draft.rows();
            self.show(&aor, &rows);
            self.journaled += 1;
            self.lanes.entry(aor).or_default().journaled.push_back(late);
        }
    }

    /// Who made a journaled change: this start, or one before it.
    fn claimer_of(&self, late: &Late, now: UnixMillis) -> Claimer {
        let is_ours = late.position.generation == self.position.generation;
        let run = if is_ours { self.identity.run } else { 0 };
        Claimer { run, ..claimer(&self.identity, now) }
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
        let is_found = |id| self.leftovers.iter().any(|left| left.call.id == id);
        let held = self.table.calls().into_iter().filter_map(|call| self.table.held(call.id));
        let ours: Vec<_> = held.filter(|held| held.owner.is_none() && !is_found(held.call.id)).collect();
        for held in ours {
            self.left_over(&held, now);
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
        if !self.is_up() || !self.is_loaded() {
            return false;
        }
        let ttl = u64::try_from(self.limits.entry_ttl.as_millis()).unwrap_or(u64::MAX);
        let mut due = self.table.over(now, most);
        if let Some(cutoff) = now.0.checked_sub(ttl).map(UnixMillis) {
            due.extend(self.table.aged(cutoff, most));
        }
        if let Some(cutoff) = messages::cutoff(now) {
            due.extend(self.table.waited(cutoff, most));
        }
        let aors: BTreeSet<_> = due.iter().filter_map(|device| self.table.aor_of(*device)).collect();
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
        self.nodes.begin_again();
        self.pass = self.pass.wrapping_add(1);
        self.scanned = 0;
        self.verify = None;
        self.effects.push_back(Effect::Scan {
            from: ScanPlace::default(),
            with_rows: !self.has_scanned,
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
            Some(Flight::Replay { count, base, rows, version, mark }) => {
                self.wrote_replay(aor, count, base, &rows, version, mark, outcome, now);
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
            Some(from) => self.effects.push_back(Effect::Scan { from, with_rows: !self.has_scanned, link }),
            None => {
                if !self.has_scanned {
                    tracing::info!(
                        aors = self.scanned,
                        bindings = self.table.binding_count(),
                        "all of Redis is in memory"
                    );
                }
                self.has_scanned = true;
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

    /// The signs of life of all nodes, looked at regularly. Calls of nodes that are gone are taken over.
    pub(super) fn looked_at_nodes(&mut self, beats: Vec<(Arc<str>, Beat)>, now: UnixMillis) {
        self.nodes.look(beats);
        if !self.is_up() {
            return;
        }
        let mut taken = 0;
        for (id, owner) in self.table.calls_of_others() {
            if taken == TAKEN_MAX {
                break;
            }
            let Some(aor) = self.table.call(id).map(|call| call.aor.clone()) else { continue };
            if self.nodes.is_there(&owner) || !self.nodes.takes(id) || !self.is_idle(&aor) {
                continue;
            }
            taken += 1;
            self.taking.insert(id);
            self.enqueue(&aor, Op::TakeOver { id, owner });
            self.advance(&aor, now);
        }
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
        if notice.version.number <= version.number {
            return;
        }
        match notice.rows(&self.identity) {
            Ok(rows) if notice.base == version => {
                self.met(aor, notice.version);
                self.show_news(aor, &rows, now);
                self.rest(aor);
            }
            Ok(_) | Err(_) => self.fall_behind(aor, now),
        }
        self.pump(now);
    }
}

fn claimer(identity: &Identity, now: UnixMillis) -> Claimer {
    Claimer { node: Arc::clone(&identity.node), run: identity.run, now, until: now.after(CLAIM_LEASE) }
}
