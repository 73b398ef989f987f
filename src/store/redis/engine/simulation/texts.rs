//! Texts that wait for a browser: each that was acknowledged is handed over once at most, and never lost but by a disaster
//! amid its pick-up.

use super::super::super::super::messages::Message;
use super::*;

/// Fewer than a device may have, so that none has to go for others.
const WAITING_MAX: usize = 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Whether it is kept is not known: nobody was told yet, or whoever had it was gone before he said so.
    Open,
    Kept,
    HandedOver,
}

#[derive(Default)]
pub(super) struct Texts(BTreeMap<MessageId, (DeviceId, State)>);

/// One device of an AOR that stays bound.
fn browser(aor: u64) -> DeviceId {
    device(aor, 9)
}

impl World {
    /// All nodes know of the browsers before anything goes wrong.
    pub(super) fn subscribe(&mut self) {
        for number in 0..AORS {
            let put = vec![binding(browser(number), 0, self.clock)];
            let change = Change::Register { aor: aor(number), put, remove: vec![] };
            let now = self.now();
            self.nodes[0].engine.submit(change, now);
        }
        self.settle();
    }

    pub(super) fn ask_for_text(&mut self, node: usize) {
        if !self.nodes[node].is_open {
            return;
        }
        let number = u64::try_from(self.random.below(usize::try_from(AORS).unwrap())).unwrap();
        let (aor, device, now) = (aor(number), browser(number), self.now());
        let waiting = self.texts.0.values().filter(|(_, state)| *state != State::HandedOver).count();
        let (change, asked) = if waiting < WAITING_MAX && self.random.once_in(2) {
            self.next += 1;
            let id = MessageId(self.next.into());
            self.texts.0.insert(id, (device, State::Open));
            let message = Message { id, title: "".into(), body: "".into(), sent_at: now };
            (Change::Message { aor, device, message }, Asked::Text(id))
        } else {
            (Change::PickUp { aor, device }, Asked::PickUp)
        };
        let ticket = self.nodes[node].engine.submit(change, now);
        self.nodes[node].asked.insert(ticket, asked);
    }

    /// It may have been handed over before its sender was told.
    pub(super) fn text_is_kept(&mut self, id: MessageId) {
        let (_, state) = self.texts.0.get_mut(&id).unwrap();
        if *state == State::Open {
            *state = State::Kept;
        }
    }

    /// An error is the answer while Redis is away.
    pub(super) fn picked_up(&mut self, result: Result<Applied, StoreError>) {
        let seed = self.seed;
        let Ok(applied) = result else { return };
        let Applied::PickedUp(messages) = applied else { panic!("seed {seed}: {applied:?}") };
        for message in messages.iter() {
            let (_, state) = self.texts.0.get_mut(&message.id).unwrap();
            // What Redis forgot comes back from nodes that had not heard of its end.
            let is_first = *state != State::HandedOver || self.disaster == Disaster::RedisForgets;
            assert!(is_first, "seed {seed}: {:?} is handed over twice", message.id);
            *state = State::HandedOver;
        }
    }

    /// A node dies, or Redis forgets what it said of a pick-up: what the node was about to hand over may be gone.
    pub(super) fn forget_texts_under_way(&mut self, node: usize) {
        let it = &self.nodes[node];
        let gives_back = |late: &Late| matches!(late.change, Change::GiveBack { .. });
        let returns =
            |request: &Request| matches!(request, Request::Append(_, changes) if changes.iter().any(gives_back));
        let picks_up = it.asked.values().any(|asked| matches!(asked, Asked::PickUp))
            || it.requests.iter().any(returns)
            || (self.disaster == Disaster::RedisForgets && it.journal.values().any(gives_back));
        for (_, state) in self.texts.0.values_mut().filter(|_| picks_up) {
            if *state == State::Kept {
                *state = State::Open;
            }
        }
    }

    pub(super) fn check_texts(&self) {
        let seed = self.seed;
        let table = &self.nodes[0].engine.table;
        for (id, (device, state)) in &self.texts.0 {
            let is_there = table.messages(device).iter().any(|message| message.id == *id);
            match state {
                State::Kept => assert!(is_there, "seed {seed}: {id:?} is lost"),
                State::HandedOver if self.disaster == Disaster::NodeDies => {
                    assert!(!is_there, "seed {seed}: {id:?} is there after it was handed over");
                }
                State::HandedOver | State::Open => {}
            }
        }
    }
}
