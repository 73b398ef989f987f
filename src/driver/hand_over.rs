//! What came to one worker and belongs to another.

use bytes::Bytes;

use super::Worker;
use crate::metrics::DropReason;
use crate::sip::{Flow, Message};
use crate::transaction::Branch;
use crate::transport::{Event, Inbound};

impl Worker {
    /// Gives a response to the worker that made its branch, and a request of a call that was taken up to the worker that
    /// did. What finds no place there is lost like a datagram.
    pub(super) fn hand_over(&self, message: &Message, flow: Flow, bytes: Bytes) -> bool {
        if message.is_request() && !self.shared.resumed.is_used() {
            return false;
        }
        let Some(branch) = message.top_via().and_then(|via| via.branch()) else { return false };
        let owner = if message.is_request() {
            self.shared.resumed.worker(branch)
        } else {
            Branch::worker_of(branch).map(usize::from)
        };
        let Some(owner) = owner else { return false };
        if owner == self.index {
            return false;
        }
        let Some(inbox) = self.shared.inboxes.get(owner) else { return false };
        if inbox.try_send(Event::Received(Inbound { flow, bytes })).is_err() {
            self.shared.metrics.dropped(DropReason::QueueFull);
        }
        true
    }
}
