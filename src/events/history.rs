//! A bounded history of numbered events, so that a client that reconnects can recover those it missed.
//!
//! ```text
//!   Events ──► Recorder ──► History ──┬─► recent events, for clients that reconnect
//!                                     └─► connected clients
//! ```
//!
//! A position is an offset within an epoch. An epoch is one recording: it starts with the first client and ends some time
//! after the last client has disconnected, so that an unwatched server builds no events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::broadcast;

use super::{Event, Events, Seen, Watcher};

/// Events that a client may lag behind, even if fewer are kept: one call publishes several together.
const LAG_MIN: usize = 64;
/// How long recording continues without a connected client.
const KEPT: Duration = Duration::from_secs(300);
/// Upper bound of the kept events' size, in bytes of JSON.
const BYTES_MAX: usize = 16 << 20;

/// An event and its position.
#[derive(Debug)]
pub struct Entry {
    /// Starts at 1 in each epoch.
    pub offset: u64,
    /// The event as JSON.
    pub data: Box<RawValue>,
}

/// The last event that a client has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub epoch: Box<str>,
    /// 0: no event of this epoch.
    pub offset: u64,
}

/// A client's view of the history at the moment it joins.
#[derive(Debug)]
pub struct Joined {
    /// Position of the newest event.
    pub position: Position,
    /// Events between the requested position and `position`, oldest first; `None` if they are no longer complete, or if no
    /// position was requested.
    pub missed: Option<Vec<Arc<Entry>>>,
    /// Events after `position`; a slow receiver lags.
    pub entries: broadcast::Receiver<Arc<Entry>>,
    /// Present for the first client of an epoch, whose task must run it.
    pub recorder: Option<Recorder>,
}

/// Recent events, and the channel on which clients receive further ones.
#[derive(Debug)]
pub struct History {
    events: Arc<Events>,
    most: usize,
    run: u64,
    /// How long recording continues without a connected client.
    linger: Duration,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Epochs of this run so far.
    recordings: u64,
    /// Of the newest event. Lost events are counted, too.
    offset: u64,
    /// Consecutive; the last one is at `offset`.
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    /// Number of joins, to notice one during the linger time.
    joined: u64,
    /// `Some` while a recorder runs.
    sender: Option<broadcast::Sender<Arc<Entry>>>,
}

impl History {
    /// Keeps at most `most` events. `run` is random for each start, so that positions of another run never match.
    pub fn new(events: Arc<Events>, most: usize, run: u64) -> Self {
        Self { events, most: most.max(1), run, linger: KEPT, kept: Mutex::default() }
    }

    /// Subscribes a client, and recovers the events after `since` if they are still kept.
    pub fn join(self: &Arc<Self>, since: Option<&Position>) -> Joined {
        let mut kept = self.kept.lock();
        let mut recorder = None;
        let sender = kept.sender.clone().unwrap_or_else(|| {
            // A client that lags by half of the history still finds the other half when it reconnects.
            let sender = broadcast::Sender::new((self.most / 2).max(LAG_MIN));
            let recordings = kept.recordings.saturating_add(1);
            *kept = Kept { recordings, joined: kept.joined, sender: Some(sender.clone()), ..Kept::default() };
            recorder = Some(Recorder { history: Arc::clone(self), watcher: self.events.watch() });
            sender
        });
        kept.joined = kept.joined.wrapping_add(1);
        let epoch = format!("{:x}-{}", self.run, kept.recordings).into();
        let position = Position { epoch, offset: kept.offset };
        let missed = since.filter(|since| since.epoch == position.epoch).and_then(|since| kept.since(since.offset));
        Joined { position, missed, entries: sender.subscribe(), recorder }
    }

    fn record(&self, event: &Event) {
        let Ok(data) = to_raw_value(&event.to_json()) else { return };
        let mut kept = self.kept.lock();
        kept.offset += 1;
        let entry = Arc::new(Entry { offset: kept.offset, data });
        kept.bytes += entry.data.get().len();
        kept.entries.push_back(Arc::clone(&entry));
        while kept.entries.len() > self.most || kept.bytes > BYTES_MAX {
            let oldest = kept.entries.pop_front();
            kept.bytes -= oldest.map_or(0, |entry| entry.data.get().len());
        }
        if let Some(sender) = &kept.sender {
            // Fails when no client is connected, which is fine.
            let _ = sender.send(entry);
        }
    }

    /// Accounts for lost events: clients notice the gap in the offsets.
    fn skip(&self, count: u64) {
        let mut kept = self.kept.lock();
        kept.offset += count;
        kept.entries.clear();
        kept.bytes = 0;
    }

    /// Ends the epoch once no client has been connected for the linger time.
    async fn expire(&self) {
        let Some(sender) = self.kept.lock().sender.clone() else { return };
        loop {
            sender.closed().await;
            let joined = self.kept.lock().joined;
            tokio::time::sleep(self.linger).await;
            let mut kept = self.kept.lock();
            if kept.joined == joined {
                kept.sender = None;
                kept.entries.clear();
                return;
            }
        }
    }
}

impl Kept {
    fn since(&self, offset: u64) -> Option<Vec<Arc<Entry>>> {
        let count = usize::try_from(self.offset.checked_sub(offset)?).ok()?;
        let first = self.entries.len().checked_sub(count)?;
        Some(self.entries.range(first..).cloned().collect())
    }
}

/// Numbers events until the epoch expires.
#[derive(Debug)]
pub struct Recorder {
    history: Arc<History>,
    watcher: Watcher,
}

impl Recorder {
    pub async fn run(self) {
        let Self { history, mut watcher } = self;
        let recording = async {
            while let Some(seen) = watcher.next().await {
                match seen {
                    Seen::Event(event) => history.record(&event),
                    Seen::Missed(count) => history.skip(count),
                }
            }
        };
        tokio::select! {
            () = recording => {}
            () = history.expire() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::{Aor, DeviceId};
    use crate::clock::UnixMillis;
    use crate::events::What;

    fn event(at: u64) -> Event {
        Event { at: UnixMillis(at), what: What::ClientOnline { aor: Aor::new("a", "h"), device: DeviceId([0; 10]) } }
    }

    fn history(most: usize) -> Arc<History> {
        Arc::new(History::new(Arc::default(), most, 0xab))
    }

    fn offsets(missed: Option<Vec<Arc<Entry>>>) -> Option<Vec<u64>> {
        Some(missed?.iter().map(|entry| entry.offset).collect())
    }

    #[test]
    fn who_comes_back_gets_what_was_missed_or_learns_that_it_is_gone() {
        let history = history(3);
        let first = history.join(None);
        assert_eq!((&*first.position.epoch, first.position.offset, first.missed.is_none()), ("ab-1", 0, true));
        (1..=5).for_each(|at| history.record(&event(at)));
        let since = |epoch: &str, offset| {
            let joined = history.join(Some(&Position { epoch: epoch.into(), offset }));
            assert!(joined.recorder.is_none(), "one records");
            assert_eq!(joined.position.offset, 5);
            offsets(joined.missed)
        };
        assert_eq!(since("ab-1", 5), Some(vec![]));
        assert_eq!(since("ab-1", 2), Some(vec![3, 4, 5]));
        assert_eq!(since("ab-1", 1), None);
        assert_eq!(since("ab-1", 6), None, "nobody has seen it yet");
        assert_eq!(since("ab-2", 5), None);
        assert_eq!(since("", 0), None);
    }

    #[test]
    fn what_was_lost_is_a_gap_in_the_numbers() {
        let history = history(8);
        let mut joined = history.join(None);
        history.record(&event(1));
        history.skip(2);
        history.record(&event(4));
        let seen: Vec<_> = std::iter::from_fn(|| joined.entries.try_recv().ok()).map(|entry| entry.offset).collect();
        assert_eq!(seen, [1, 4]);
        let since = |offset| offsets(history.join(Some(&Position { offset, ..joined.position.clone() })).missed);
        assert_eq!((since(1), since(2), since(3)), (None, None, Some(vec![4])));
    }

    #[test]
    fn a_slow_one_lags_by_half_of_what_is_kept() {
        let history = history(256);
        let mut joined = history.join(None);
        (1..=200).for_each(|at| history.record(&event(at)));
        assert!(matches!(joined.entries.try_recv(), Err(broadcast::error::TryRecvError::Lagged(72))));
        assert_eq!(offsets(history.join(Some(&joined.position)).missed).map(|missed| missed.len()), Some(200));
    }

    /// A client leaves and returns after one event: its position, what it recovers, and whether a new epoch began.
    async fn away(history: &Arc<History>) -> (Position, Option<Vec<u64>>, bool) {
        let joined = history.join(None);
        let recorder = tokio::spawn(joined.recorder.unwrap().run());
        drop(joined.entries);
        if history.linger.is_zero() {
            recorder.await.unwrap();
        }
        history.events.publish(UnixMillis(1), || event(1).what);
        while history.events.is_watched() && history.kept.lock().offset == 0 {
            tokio::task::yield_now().await;
        }
        let again = history.join(Some(&joined.position));
        (again.position, offsets(again.missed), again.recorder.is_some())
    }

    #[tokio::test]
    async fn recording_goes_on_for_a_while_after_the_last_one() {
        let (position, missed, is_first) = away(&history(8)).await;
        assert_eq!((&*position.epoch, position.offset, missed, is_first), ("ab-1", 1, Some(vec![1]), false));
    }

    #[tokio::test]
    async fn nothing_is_recorded_when_nobody_has_been_here_for_long() {
        let history = Arc::new(History { linger: Duration::ZERO, ..History::new(Arc::default(), 8, 0xab) });
        let (position, missed, is_first) = away(&history).await;
        assert_eq!((&*position.epoch, position.offset, missed, is_first), ("ab-2", 0, None, true));
    }
}
