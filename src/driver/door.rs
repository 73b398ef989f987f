//! Who is let in: the rules of [`crate::guard`], with the clock and the contact table that it lacks.

use std::net::IpAddr;
use std::sync::Arc;

use super::now;
use crate::guard::{Guard, Refused, Rules, Source};
use crate::sip::Flow;
use crate::store::Table;
use crate::transport::{self, DropReason};

/// One for all workers and connections.
#[derive(Debug)]
pub struct Door {
    pub guard: Guard,
    table: Arc<Table>,
}

impl Door {
    pub fn new(guard: Guard, table: Arc<Table>) -> Self {
        Self { guard, table }
    }

    /// Whether a message is looked at. What a response costs is little, and there is no answer to it.
    pub(super) fn admits(&self, rules: &Rules, flow: &Flow, message: &[u8]) -> Result<(), DropReason> {
        let peer = flow.remote.ip();
        if self.guard.is_trusted(rules, peer) || message.starts_with(b"SIP/2.0 ") {
            return Ok(());
        }
        let now = now();
        let is_registered = || self.table.device_on(flow.transport, flow.remote, now.unix).is_some();
        self.guard.admits(rules, Source::of(peer), is_registered, now.instant).map_err(reason)
    }
}

impl transport::Door for Door {
    fn is_trusted(&self, peer: IpAddr) -> bool {
        self.guard.is_trusted(&self.guard.rules(), peer)
    }

    fn admits_connection(&self, peer: IpAddr) -> Result<(), DropReason> {
        let is_banned = self.guard.is_banned(Source::of(peer), now().instant);
        if is_banned { Err(DropReason::Banned) } else { Ok(()) }
    }

    fn admits(&self, flow: &Flow, message: &[u8]) -> Result<(), DropReason> {
        self.admits(&self.guard.rules(), flow, message)
    }
}

fn reason(refused: Refused) -> DropReason {
    match refused {
        Refused::Rate => DropReason::SourceRate,
        Refused::Banned => DropReason::Banned,
    }
}
