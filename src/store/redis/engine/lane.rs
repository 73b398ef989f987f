//! Lanes: what is under way for one AOR, one thing after the other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::super::super::change::{Applied, Change, HeldCallId, StoreError};
use super::super::super::draft::{Draft, Key, Row, Value};
use super::super::journal::Late;
use super::super::record::{Position, Record, Version, fields, mark_field};
use super::effect::{Effect, Index, Lifetime, Write};
use super::{BACKGROUND_MAX, Engine, FLIGHTS_MAX, VERIFY_STEP, claimer};
use crate::binding::Aor;
use crate::clock::UnixMillis;

#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) waiting: VecDeque<Pending>,
    /// Acknowledged, and not known to be in Redis.
    pub(super) journaled: VecDeque<Late>,
    pub(super) flight: Option<Flight>,
    /// Memory may be behind Redis.
    pub(super) is_behind: bool,
    /// Those who want to know when it no longer is.
    pub(super) asked: Vec<u64>,
    pub(super) is_queued: bool,
    /// Its hash cannot be read.
    pub(super) is_stuck: bool,
    pub(super) attempt: u32,
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) number: u64,
    pub(super) op: Op,
    /// What it came to when it was last made.
    pub(super) result: Applied,
    /// A write of it may have been done.
    pub(super) is_unsure: bool,
}

#[derive(Debug)]
pub(super) enum Op {
    Change(Box<Change>),
    /// Ends what time alone ends.
    Expire(UnixMillis),
    /// Makes a call this node's, if it still is that of a node that is gone.
    TakeOver {
        id: HeldCallId,
        owner: Arc<str>,
    },
}

/// What a lane waits for.
#[derive(Debug)]
pub(super) enum Flight {
    Fetch,
    Direct {
        batch: Vec<Pending>,
        rows: Vec<Row>,
        version: Version,
        mark: Position,
    },
    /// Journaled changes, as many as they were then.
    Replay {
        count: usize,
        base: Record,
        rows: Vec<Row>,
        version: Version,
        mark: Position,
    },
    Append {
        batch: Vec<Pending>,
        rows: Vec<Row>,
        changes: Vec<Late>,
    },
}

/// Lanes.
impl Engine {
    pub(super) fn next_number(&mut self) -> u64 {
        self.position.number += 1;
        self.position.number
    }

    fn numbered(&mut self, op: Op) -> Pending {
        self.pending += 1;
        Pending { number: self.next_number(), op, result: Applied::Done, is_unsure: false }
    }

    pub(super) fn enqueue(&mut self, aor: &Aor, op: Op) -> u64 {
        let pending = self.numbered(op);
        let number = pending.number;
        self.lanes.entry(aor.clone()).or_default().waiting.push_back(pending);
        number
    }

    pub(super) fn fall_behind(&mut self, aor: &Aor, now: UnixMillis) {
        self.lanes.entry(aor.clone()).or_default().is_behind = true;
        self.advance(aor, now);
    }

    pub(super) fn advance_all(&mut self, now: UnixMillis) {
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
    pub(super) fn advance(&mut self, aor: &Aor, now: UnixMillis) {
        loop {
            let is_up = self.is_up();
            let is_known = self.has_scanned || self.known.contains_key(aor);
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
    pub(super) fn pump(&mut self, now: UnixMillis) {
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
    pub(super) fn direct(&mut self, aor: &Aor, now: UnixMillis) {
        let Some(lane) = self.lanes.get_mut(aor) else { return };
        let mut batch: Vec<_> = lane.waiting.drain(..).collect();
        let rows = self.make(aor, &mut batch, now);
        let Some(last) = batch.last() else { return };
        // What finds nothing to do may not have heard of another node's change: Redis has the last word. A claim that
        // finds nothing is none, whoever has the calls.
        let is_certain = |op: &Op| match op {
            Op::Change(change) => matches!(**change, Change::Claim { .. }),
            Op::Expire(_) | Op::TakeOver { .. } => true,
        };
        if rows.is_empty() && batch.iter().all(|pending| is_certain(&pending.op)) {
            return self.settled(aor, batch);
        }
        let mark = Position { number: last.number, ..self.position };
        let base = self.version(aor);
        // A hash begun again must not repeat versions that it had before.
        let number = if base.number == 0 { now.0.saturating_mul(1000).max(1) } else { base.number + 1 };
        let version = self.stamped(number);
        let may_be_empty = rows.iter().all(|(_, value)| value.is_none());
        let before = if may_be_empty { self.rows(aor) } else { BTreeMap::new() };
        match self.write(aor, &before, base, version, &rows, mark) {
            Ok(write) => self.send(aor, write, Flight::Direct { batch, rows, version, mark }),
            Err(reason) => self.refuse(batch, &StoreError::Broken(reason)),
        }
    }

    /// A version for one write only: an attempt that came to nothing, or that Redis forgot, must not look like another.
    pub(super) fn stamped(&mut self, number: u64) -> Version {
        self.writes = self.writes.wrapping_add(1);
        Version { number, stamp: self.identity.run.wrapping_add(self.writes) }
    }

    pub(super) fn make(&self, aor: &Aor, batch: &mut [Pending], now: UnixMillis) -> Vec<Row> {
        let mut draft = Draft::shared(&self.table, self.limits, claimer(&self.identity, now));
        for pending in batch {
            pending.result = match &pending.op {
                Op::Change(change) => draft.apply(Change::clone(change)),
                Op::Expire(now) => {
                    draft.expire(aor, *now);
                    Applied::Done
                }
                Op::TakeOver { id, owner } => Applied::Ended(draft.take_over(*id, owner)),
            };
        }
        draft.rows()
    }

    /// The same, by the journal. What needs the other nodes' word is left for a time when they can be heard.
    pub(super) fn append(&mut self, aor: &Aor, now: UnixMillis) {
        let Some(lane) = self.lanes.get_mut(aor) else { return };
        let waiting: Vec<_> = lane.waiting.drain(..).collect();
        let (mut batch, mut changes, mut claims, mut returned) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for mut pending in waiting {
            let change = match &mut pending.op {
                Op::Change(change) => change,
                Op::TakeOver { id, .. } if !pending.is_unsure => {
                    self.taking.remove(id);
                    self.answer(pending.number, Ok(Applied::Done));
                    continue;
                }
                Op::TakeOver { .. } | Op::Expire(_) => {
                    self.answer(pending.number, Ok(Applied::Done));
                    continue;
                }
            };
            if let Change::PickUp { aor, device } = &**change {
                if let (true, Applied::PickedUp(messages)) = (pending.is_unsure, &pending.result) {
                    let (aor, device, messages) = (aor.clone(), *device, Arc::clone(messages));
                    returned.push(Change::GiveBack { aor, device, messages, pick_up: pending.number });
                }
                self.answer(pending.number, Err(StoreError::Broken("Redis is away".to_owned())));
                continue;
            }
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
        for change in returned {
            // Under a number of its own: the mark of the pick-up does not cover it.
            let pending = self.numbered(Op::Change(Box::new(change.clone())));
            let position = Position { number: pending.number, ..self.position };
            changes.push(Late { position, made_at: now, change });
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
    pub(super) fn write(
        &self,
        aor: &Aor,
        before: &BTreeMap<Key, Value>,
        base: Version,
        version: Version,
        rows: &[Row],
        mark: Position,
    ) -> Result<Write, String> {
        let mut fields = fields(&self.identity.node, rows)?;
        fields.push(mark_field(&self.identity.node, mark));
        let stays = |key: &Key| !rows.iter().any(|(changed, value)| changed == key && value.is_none());
        let is_left = rows.iter().any(|(_, value)| value.is_some()) || before.keys().any(stays);
        let was_empty = base.number == 0 || !self.has_rows(aor);
        let lifetime = match (is_left, was_empty) {
            (false, _) => Lifetime::Ends,
            (true, true) => Lifetime::Endless,
            (true, false) => Lifetime::AsItIs,
        };
        let own = || Arc::clone(&self.identity.node);
        let (mut found_by, mut gone) = (Vec::new(), Vec::new());
        for (key, value) in rows {
            match (key, value) {
                (Key::Binding(_, device), Some(_)) if base.number == 0 || self.table.by_device(*device).is_none() => {
                    found_by.push(Index::Device(*device));
                }
                (Key::Binding(_, device), None) => gone.push(Index::Device(*device)),
                (Key::Call(id), Some(_)) => {
                    found_by.push(Index::Call(own(), *id));
                    gone.extend(self.table.owner(*id).map(|owner| Index::Call(owner, *id)));
                }
                (Key::Call(id), None) => gone.push(Index::Call(own(), *id)),
                (Key::Binding(..) | Key::Entry(..) | Key::Claim(_) | Key::Heir(_) | Key::Messages(_), _) => {}
            }
        }
        let attempt = self.lanes.get(aor).map_or(0, |lane| lane.attempt);
        let (link, run) = (self.link, self.identity.run);
        Ok(Write { aor: aor.clone(), link, base, version, fields, run, lifetime, found_by, gone, attempt })
    }

    pub(super) fn send(&mut self, aor: &Aor, write: Write, flight: Flight) {
        if let Some(lane) = self.lanes.get_mut(aor) {
            lane.flight = Some(flight);
            self.flights += 1;
            self.effects.push_back(Effect::Write(write));
        }
    }

    pub(super) fn back_to_front(&mut self, aor: &Aor, batch: Vec<Pending>) {
        if let Some(lane) = self.lanes.get_mut(aor) {
            for pending in batch.into_iter().rev() {
                lane.waiting.push_front(pending);
            }
        }
    }

    pub(super) fn settled(&mut self, aor: &Aor, batch: Vec<Pending>) {
        if let Some(lane) = self.lanes.get_mut(aor) {
            lane.attempt = 0;
        }
        for pending in batch {
            if let Op::TakeOver { id, owner } = pending.op {
                self.taking.remove(&id);
                if pending.result == Applied::Ended(true) {
                    self.adopt(id, Some(owner));
                }
            }
            self.answer(pending.number, Ok(pending.result));
        }
    }

    pub(super) fn refuse(&mut self, batch: impl IntoIterator<Item = Pending>, error: &StoreError) {
        for pending in batch {
            self.answer(pending.number, Err(error.clone()));
        }
    }

    pub(super) fn answer(&mut self, number: u64, result: Result<Applied, StoreError>) {
        self.pending = self.pending.saturating_sub(1);
        self.effects.push_back(Effect::Answer { number, result });
    }

    pub(super) fn looked(&mut self, asked: Vec<u64>, is_known: bool) {
        self.effects.extend(asked.into_iter().map(|number| Effect::Looked { number, is_known }));
    }

    pub(super) fn forget(&mut self, aor: &Aor, count: usize) {
        let Some(lane) = self.lanes.get_mut(aor) else { return };
        let done: Vec<_> = lane.journaled.drain(..count.min(lane.journaled.len())).map(|late| late.position).collect();
        self.journaled = self.journaled.saturating_sub(done.len());
        if !done.is_empty() {
            self.effects.push_back(Effect::Forget(done));
        }
    }

    /// Of all changes before those that wait.
    pub(super) fn settled_mark(&self, aor: &Aor) -> Position {
        let waiting = self.lanes.get(aor).and_then(|lane| lane.waiting.front());
        let number = waiting.map_or(self.position.number, |pending| pending.number.saturating_sub(1));
        Position { number, ..self.position }
    }
}
