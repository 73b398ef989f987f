//! Live events: each step of a call and each coming and going of a device, for those who watch (design: events).
//!
//! ```text
//!   workers ── publish ──► Events (a ring) ──► server-sent events of the admin listener
//!                                         ├──► history: WebSockets of the admin listener, which resume after a break
//!                                         └──► relay: a Redis stream, which Centrifugo consumes
//! ```
//!
//! Nobody waits for a watcher: one that is too slow misses events and learns how many. Without a watcher nothing is made.

mod history;
mod relay;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::sync::broadcast;

pub use history::{Entry, History, Joined, Position, Recorder};
pub use relay::{Relay, Settings};

use crate::binding::{Aor, DeviceId};
use crate::clock::UnixMillis;
use crate::timeline::{Step, Why};

/// Events that a watcher may be behind.
const RING: usize = 4096;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub at: UnixMillis,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A step of a call.
    Call { call_ref: Box<str>, step: Step, device: Option<DeviceId>, detail: Box<str>, why: Option<Why> },
    /// A device's REGISTER was accepted.
    ClientOnline { aor: Aor, device: DeviceId },
    /// A device is not reachable any more, and why.
    ClientOffline { aor: Aor, device: DeviceId, reason: &'static str },
}

impl Event {
    /// As watchers know it.
    pub fn name(&self) -> &'static str {
        match &self.what {
            What::Call { step, .. } => step_name(*step),
            What::ClientOnline { .. } => "clientOnline",
            What::ClientOffline { .. } => "clientOffline",
        }
    }

    pub fn to_json(&self) -> Value {
        let (name, at) = (self.name(), self.at.to_rfc3339());
        match &self.what {
            What::Call { call_ref, step: _, device, detail, why } => json!({
                "event": name, "at": at, "call_ref": call_ref, "device": device.map(|device| device.to_string()),
                "detail": detail, "reason": why.as_ref().map_or("", Why::text),
                "code": why.as_ref().map(|why| why.reason.code()),
            }),
            What::ClientOnline { aor, device } => {
                json!({ "event": name, "at": at, "aor": aor.as_str(), "device": device.to_string() })
            }
            What::ClientOffline { aor, device, reason } => json!({
                "event": name, "at": at, "aor": aor.as_str(), "device": device.to_string(), "reason": reason,
            }),
        }
    }
}

fn step_name(step: Step) -> &'static str {
    match step {
        Step::Received => "callReceived",
        Step::DeviceFound => "deviceFound",
        Step::DeviceSkipped => "deviceSkipped",
        Step::Held => "callHeld",
        Step::PushSent => "pushSent",
        Step::PushAccepted => "pushAccepted",
        Step::PushRefused => "pushFailed",
        Step::PushRetried => "pushRetried",
        Step::Registered => "clientReturned",
        Step::Forwarded => "callForwarded",
        Step::Ringing => "callRinging",
        Step::Answered => "callAnswered",
        Step::Rejected => "callRejected",
        Step::Cancelled => "callCancelled",
        Step::NoReturn => "callNotReturned",
        Step::Expired => "callExpired",
        Step::Failed => "callFailed",
        Step::Missed => "callMissed",
        Step::MissedReported => "missedCallsReported",
    }
}

/// Where events go.
#[derive(Debug)]
pub struct Events {
    ring: broadcast::Sender<Arc<Event>>,
    /// Asked for at each step of each call, so it takes no lock.
    watchers: AtomicUsize,
    lost: AtomicU64,
}

impl Default for Events {
    fn default() -> Self {
        Self { ring: broadcast::Sender::new(RING), watchers: AtomicUsize::new(0), lost: AtomicU64::new(0) }
    }
}

impl Events {
    /// Whether somebody watches.
    pub fn is_watched(&self) -> bool {
        self.watchers() > 0
    }

    /// How many watch.
    pub fn watchers(&self) -> usize {
        self.watchers.load(Ordering::Relaxed)
    }

    /// Tells those who watch. `what` is made only if somebody does.
    pub fn publish(&self, at: UnixMillis, what: impl FnOnce() -> What) {
        if self.is_watched() {
            // The last watcher may have gone just now.
            let _ = self.ring.send(Arc::new(Event { at, what: what() }));
        }
    }

    /// From here on, until it is dropped.
    pub fn watch(self: &Arc<Self>) -> Watcher {
        self.watchers.fetch_add(1, Ordering::Relaxed);
        Watcher { events: Arc::clone(self), receiver: self.ring.subscribe() }
    }

    /// Events that watchers have missed.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn lose(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
    }
}

/// What a watcher sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Event(Arc<Event>),
    /// So many went by too fast.
    Missed(u64),
}

/// One who watches.
#[derive(Debug)]
pub struct Watcher {
    events: Arc<Events>,
    receiver: broadcast::Receiver<Arc<Event>>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.events.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Watcher {
    /// What comes next; `None` when nothing will. Safe to drop while waiting.
    pub async fn next(&mut self) -> Option<Seen> {
        match self.receiver.recv().await {
            Ok(event) => Some(Seen::Event(event)),
            Err(broadcast::error::RecvError::Lagged(count)) => {
                self.events.lose(count);
                Some(Seen::Missed(count))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// What is there already.
    fn take(&mut self) -> Option<Seen> {
        match self.receiver.try_recv() {
            Ok(event) => Some(Seen::Event(event)),
            Err(broadcast::error::TryRecvError::Lagged(count)) => {
                self.events.lose(count);
                Some(Seen::Missed(count))
            }
            Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::Reason;

    fn online() -> What {
        What::ClientOnline { aor: Aor::new("a", "h"), device: DeviceId([0; 10]) }
    }

    #[tokio::test]
    async fn watcher_sees_what_happens_after_it_began() {
        let events = Arc::new(Events::default());
        events.publish(UnixMillis(1), || panic!("nobody watches"));
        let mut watcher = events.watch();
        events.publish(UnixMillis(2), online);
        let Some(Seen::Event(event)) = watcher.next().await else { panic!() };
        assert_eq!((event.at, event.name()), (UnixMillis(2), "clientOnline"));
        drop(watcher);
        events.publish(UnixMillis(3), || panic!("nobody watches any more"));
    }

    #[tokio::test]
    async fn slow_watcher_learns_how_much_it_missed() {
        let events = Arc::new(Events::default());
        let mut watcher = events.watch();
        (0..RING as u64 + 3).for_each(|at| events.publish(UnixMillis(at), online));
        assert_eq!((watcher.next().await, events.lost()), (Some(Seen::Missed(3)), 3));
        let Some(Seen::Event(event)) = watcher.next().await else { panic!() };
        assert_eq!(event.at, UnixMillis(3));
    }

    #[test]
    fn events_are_json() {
        let call = What::Call {
            call_ref: "x\"y".into(),
            step: Step::PushRefused,
            device: None,
            detail: "3 ms".into(),
            why: Some(Why::new(Reason::TokenDead, "UNREGISTERED")),
        };
        let event = Event { at: UnixMillis(1_700_000_000_123), what: call };
        assert_eq!(
            event.to_json().to_string(),
            r#"{"event":"pushFailed","at":"2023-11-14T22:13:20.123Z","call_ref":"x\"y","device":null,"detail":"3 ms","reason":"UNREGISTERED","code":"token_dead"}"#
        );
    }
}
