//! What memory may not have yet, read from the store.

use std::sync::Arc;

use super::Worker;
use crate::proxy::event::{FetchTicket, Sought};

impl Worker {
    pub(super) fn fetch(&self, ticket: FetchTicket, sought: Sought) {
        let shared = Arc::clone(&self.shared);
        let reply_to = self.fetched.0.clone();
        self.shared.runtime.spawn(async move {
            let is_known = match sought {
                Sought::Aor(aor) => shared.store.fetch(&aor).await,
                Sought::Device(device) => shared.store.fetch_device(device).await,
            };
            // A worker that has stopped needs no answer.
            let _ = reply_to.send((ticket, is_known)).await;
        });
    }
}
