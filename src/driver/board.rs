//! News for a worker from elsewhere: a call is held by one worker, and its phone may register with another, or with
//! another node; and calls change hands when a node is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::pulse::Pulse;
use crate::binding::{Aor, Binding, DeviceId, Home};
use crate::store::{HeldCallId, LeftCall};

/// A call that another node has, and where that is reached.
pub(super) type TakenOver = (Aor, HeldCallId, Option<Home>);

/// One worker's board: which AORs it waits for, the wakes that others put up, and calls to be taken up.
///
/// A wake cannot be lost or pile up: of one device only the newest counts, and only devices of watched AORs are taken.
/// Calls to be taken up, and those that others have taken over, are as many as were held.
#[derive(Debug, Default)]
pub(super) struct Board {
    watched: DashMap<Aor, usize>,
    woken: Mutex<BTreeMap<DeviceId, Arc<Binding>>>,
    calls: Mutex<Vec<LeftCall>>,
    taken_over: Mutex<Vec<TakenOver>>,
    pub(super) pulse: Pulse,
    notify: Notify,
}

impl Board {
    pub(super) fn watch(&self, aor: &Aor) {
        *self.watched.entry(aor.clone()).or_default() += 1;
    }

    pub(super) fn unwatch(&self, aor: &Aor) {
        self.watched.remove_if_mut(aor, |_, watchers| {
            *watchers = watchers.saturating_sub(1);
            *watchers == 0
        });
    }

    /// Another worker accepted a REGISTER.
    pub(super) fn put(&self, binding: &Arc<Binding>) {
        if self.watched.contains_key(&binding.aor) {
            self.woken.lock().insert(binding.device, Arc::clone(binding));
            self.notify.notify_one();
        }
    }

    /// Nobody holds this call any more.
    pub(super) fn put_call(&self, call: LeftCall) {
        self.calls.lock().push(call);
        self.notify.notify_one();
    }

    /// Another node has this call now.
    pub(super) fn put_taken_over(&self, call: TakenOver) {
        self.taken_over.lock().push(call);
        self.notify.notify_one();
    }

    /// Asks whether the worker still takes turns; gives how many questions before this one have no answer.
    pub(super) fn ask(&self) -> u32 {
        let unanswered = self.pulse.ask();
        self.notify.notify_one();
        unanswered
    }

    /// Ends when there is something to take, or a turn is asked for. Safe to drop while waiting.
    pub(super) async fn changed(&self) {
        self.notify.notified().await;
    }

    pub(super) fn take_calls(&self) -> Vec<LeftCall> {
        std::mem::take(&mut *self.calls.lock())
    }

    pub(super) fn take_taken_over(&self) -> Vec<TakenOver> {
        std::mem::take(&mut *self.taken_over.lock())
    }

    pub(super) fn take(&self) -> Vec<Arc<Binding>> {
        std::mem::take(&mut *self.woken.lock()).into_values().collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::sip::{ConnectionId, Flow, Transport};

    pub(in super::super) fn binding(user: &str, registered_at: u64) -> Arc<Binding> {
        Arc::new(Binding {
            aor: Aor::new(user, "h"),
            device: DeviceId([1; 10]),
            instance: None,
            reg_id: None,
            label: None,
            contact: [].into(),
            contact_params: [].into(),
            path: [].into(),
            flow: Flow {
                transport: Transport::Udp,
                listener: 0,
                connection: ConnectionId::NONE,
                remote: "127.0.0.1:1".parse().unwrap(),
            },
            home: None,
            call_id: "c".into(),
            cseq: 1,
            registered_at: UnixMillis(registered_at),
            expires_at: UnixMillis(registered_at),
            push: None,
            push_refused: None,
            app: crate::binding::App::default(),
            upstream: None,
        })
    }

    #[test]
    fn only_the_newest_wake_of_a_watched_device_is_kept() {
        let board = Board::default();
        board.put(&binding("a", 1));
        board.watch(&Aor::new("a", "h"));
        board.watch(&Aor::new("a", "h"));
        board.put(&binding("a", 2));
        board.put(&binding("a", 3));
        board.put(&binding("b", 4));
        assert_eq!(board.take().iter().map(|woken| woken.registered_at.0).collect::<Vec<_>>(), [3]);
        board.unwatch(&Aor::new("a", "h"));
        board.put(&binding("a", 5));
        assert_eq!(board.take().len(), 1, "one call still waits");
        board.unwatch(&Aor::new("a", "h"));
        board.put(&binding("a", 6));
        assert!(board.take().is_empty());
    }
}
