//! What came of a write or a read: shown and answered, made again on newer rows, done later, or given back to Redis.

use std::ops::Bound;

use super::super::super::change::{Change, Settlement, StoreError};
use super::super::super::draft::{Draft, Row};
use super::super::super::table::{Held, Table};
use super::super::journal::Late;
use super::super::record::{Position, Record, Version};
use super::effect::{Seen, Wrote};
use super::lane::{Flight, Op, Pending};
use super::memory::difference;
use super::{ATTEMPTS_MAX, Engine, VERIFY_STEP, claimer};
use crate::binding::Aor;
use crate::clock::UnixMillis;

impl Engine {
    #[expect(clippy::too_many_arguments, reason = "the parts of one flight")]
    pub(super) fn wrote_direct(
        &mut self,
        aor: &Aor,
        mut batch: Vec<Pending>,
        rows: &[Row],
        version: Version,
        mark: Position,
        outcome: Wrote,
        now: UnixMillis,
    ) {
        match outcome {
            Wrote::Done => {
                self.show(aor, rows);
                self.met(aor, version);
                self.has_mark(aor, mark);
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
    pub(super) fn wrote_replay(
        &mut self,
        aor: &Aor,
        count: usize,
        mut base: Record,
        rows: &[Row],
        version: Version,
        mark: Position,
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
                self.has_mark(aor, mark);
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
    pub(super) fn take_over(&mut self, aor: &Aor, record: Record, now: UnixMillis) {
        let has_journaled = self.lanes.get(aor).is_some_and(|lane| !lane.journaled.is_empty());
        let is_loss = self.is_loss(aor, &record);
        if !is_loss && !has_journaled {
            return self.install(aor, record, now);
        }
        let late: Vec<_> = self.lanes.get(aor).map(|lane| lane.journaled.iter().cloned().collect()).unwrap_or_default();
        let is_done = |position: &Position| record.mark.is_some_and(|done| done.covers(position));
        let rows = if is_loss {
            tracing::debug!("Redis has lost rows and gets them back from memory");
            difference(&record.rows, &self.merged(aor, &record))
        } else if late.iter().all(|late| is_done(&late.position)) {
            self.forget(aor, late.len());
            return self.install(aor, record, now);
        } else {
            let is_called_for = |late: &Late| {
                let Change::GiveBack { pick_up, .. } = late.change else { return true };
                is_done(&Position { number: pick_up, ..late.position })
            };
            let missing = late.iter().filter(|late| !is_done(&late.position) && is_called_for(late));
            self.replayed(aor, &record, missing, now)
        };
        let mark = late.last().map_or_else(|| self.settled_mark(aor), |late| late.position);
        let mark = record.mark.filter(|done| done.covers(&mark)).unwrap_or(mark);
        let number = self.version(aor).number.max(record.version.number) + 1;
        let version = self.stamped(number);
        let write = self.write(aor, &record.rows, record.version, version, &rows, mark);
        match write {
            Ok(write) => self.send(aor, write, Flight::Replay { count: late.len(), base: record, rows, version, mark }),
            Err(reason) => self.unreadable(aor, &reason),
        }
    }

    /// What changes that were acknowledged come to on rows that other nodes may have changed since.
    pub(super) fn replayed<'l>(
        &self,
        aor: &Aor,
        record: &Record,
        late: impl Iterator<Item = &'l Late>,
        now: UnixMillis,
    ) -> Vec<Row> {
        let table = Table::default();
        table
            .apply(aor, &record.rows.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect::<Vec<_>>());
        let mut draft = Draft::shared(&table, self.limits, claimer(&self.identity, now));
        for late in late {
            draft.set_claimer(self.claimer_of(late, now));
            draft.apply_late(late.change.clone(), late.made_at);
        }
        draft.rows()
    }

    /// Memory becomes what Redis has.
    pub(super) fn install(&mut self, aor: &Aor, record: Record, now: UnixMillis) {
        let rows = difference(&self.rows(aor), &record.rows);
        self.met(aor, record.version);
        if let Some(mark) = record.mark.filter(|mark| mark.epoch == self.position.epoch) {
            self.has_mark(aor, mark);
        }
        self.show_news(aor, &rows, now);
    }

    /// A call that this node held before it started: it is given out once, to be taken up. One that Redis still has after
    /// that is over.
    pub(super) fn left_over(&mut self, held: &Held, now: UnixMillis) {
        let call = &held.call;
        // A takeover whose answer was lost has come through.
        let is_taken = self.taking.remove(&call.id);
        if (held.run != self.identity.run || is_taken) && !self.adopted.contains(&call.id) {
            return self.adopt(call.id, None);
        }
        let settle = Change::Settle {
            aor: call.aor.clone(),
            id: call.id,
            call_ref: call.call_ref.clone(),
            devices: call.devices.iter().map(|device| (*device, Settlement::Missed)).collect(),
            ended: true,
        };
        self.enqueue(&call.aor, Op::Change(Box::new(settle)));
        self.advance(&call.aor, now);
    }

    pub(super) fn seen(&mut self, aor: &Aor, seen: Seen, now: UnixMillis) {
        let pass = self.pass;
        if let Some(known) = self.known.get_mut(aor) {
            known.pass = pass;
        }
        if let Some(lane) = self.lanes.get_mut(aor) {
            lane.is_behind = true;
            if !self.has_scanned {
                self.unread.insert(aor.clone());
            }
            return;
        }
        match seen {
            Seen::Version(version) if version == self.version(aor) => {}
            Seen::Record(record) if record.version.number > self.version(aor).number && !self.is_loss(aor, &record) => {
                self.install(aor, record, now);
                self.rest(aor);
            }
            Seen::Record(record) if record.version == self.version(aor) => {}
            Seen::Version(_) | Seen::Record(_) => self.fall_behind(aor, now),
        }
    }

    /// Looks at some of what the scan did not meet: Redis has lost it, or never had it.
    pub(super) fn verify(&mut self, now: UnixMillis) {
        let Some(from) = self.verify.take() else { return };
        let missed = self.known.range((from, Bound::Unbounded)).filter(|(_, known)| known.pass != self.pass);
        let step: Vec<_> = missed.take(VERIFY_STEP).map(|(aor, _)| aor.clone()).collect();
        self.verify = step.last().filter(|_| step.len() == VERIFY_STEP).map(|aor| Bound::Excluded(aor.clone()));
        for aor in step {
            self.fall_behind(&aor, now);
        }
    }

    pub(super) fn failed(&mut self, link: u64, reason: &str, now: UnixMillis) {
        if link == self.link && self.is_up() {
            tracing::warn!(reason, "Redis is away: changes go to the journal");
            self.disconnected(now);
        }
    }

    pub(super) fn unreadable(&mut self, aor: &Aor, reason: &str) {
        tracing::error!(reason, "a row in Redis cannot be read; its AOR is left alone");
        self.unread.remove(aor);
        let Some(lane) = self.lanes.get_mut(aor) else { return };
        lane.is_behind = false;
        // What is journaled stays there, for a program that can read it.
        lane.is_stuck = true;
        let waiting = std::mem::take(&mut lane.waiting);
        self.refuse(waiting, &StoreError::Broken(format!("a row in Redis cannot be read: {reason}")));
    }
}
