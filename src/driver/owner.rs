//! Which worker a message belongs to, by whichever worker's socket it came.
//!
//! A response belongs to the worker that made its branch. Requests of the softswitch are spread by Call-ID, so that all that
//! belongs to one call meets: its INVITE once more, its forks, CANCEL, ACK, and what comes within an early dialog of ours.
//! Those of a phone are spread by its source, so that one worker sees all that the source does: its challenges, and what is
//! kept for it.

use std::hash::{Hash as _, Hasher};
use std::net::SocketAddr;

use bytes::Bytes;
use siphasher::sip::SipHasher13;

use super::Worker;
use crate::guard::Source;
use crate::metrics::DropReason;
use crate::sip::{Via, peek, scan};
use crate::transaction::Branch;
use crate::transport::{Event, Inbound};

/// To be taken modulo the number of workers. What belongs to nobody is the first's.
pub fn worker_of_message(bytes: &Bytes, remote: SocketAddr, is_trusted: bool) -> usize {
    if is_response(bytes) {
        return worker_of_branch(bytes).unwrap_or(0);
    }
    match call_id(bytes).filter(|_| is_trusted) {
        Some(call_id) => spread(|hasher| hasher.write(call_id)),
        None => spread(|hasher| Source::of(remote.ip()).hash(hasher)),
    }
}

/// What a later run and another worker reckon alike.
fn spread(write: impl FnOnce(&mut SipHasher13)) -> usize {
    let mut hasher = SipHasher13::new();
    write(&mut hasher);
    usize::try_from(hasher.finish() >> 32).unwrap_or_default()
}

fn is_response(bytes: &[u8]) -> bool {
    bytes.starts_with(b"SIP/")
}

fn worker_of_branch(bytes: &[u8]) -> Option<usize> {
    let top = scan::values(peek::header(bytes, "Via", b'v')?).next()?;
    Branch::worker_of(Via::parse(top)?.branch()?).map(usize::from)
}

fn call_id(bytes: &[u8]) -> Option<&[u8]> {
    peek::header(bytes, "Call-ID", b'i')
}

impl Worker {
    /// Gives a message to the worker that it belongs to; false when that is this one. What finds no place there is lost like
    /// a datagram.
    pub(super) fn hand_over(&self, inbound: &Inbound) -> bool {
        let inboxes = &self.shared.inboxes;
        if inboxes.len() < 2 {
            return false;
        }
        let owner = self.owner(inbound) % inboxes.len();
        let Some(inbox) = inboxes.get(owner).filter(|_| owner != self.index) else { return false };
        if inbox.try_send(Event::Received(inbound.clone())).is_err() {
            self.shared.metrics.dropped(DropReason::QueueFull);
        }
        true
    }

    fn owner(&self, Inbound { flow, bytes }: &Inbound) -> usize {
        if is_response(bytes) {
            return worker_of_branch(bytes).unwrap_or(self.index);
        }
        let is_trusted = self.shared.door.guard.is_trusted(&self.rules, flow.remote.ip());
        let resumed = &self.shared.resumed;
        let taken_up = call_id(bytes).filter(|_| is_trusted && resumed.is_used()).and_then(|id| resumed.worker(id));
        taken_up.unwrap_or_else(|| worker_of_message(bytes, flow.remote, is_trusted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(text: &str, remote: &str, is_trusted: bool) -> usize {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        worker_of_message(&bytes, remote.parse().unwrap(), is_trusted) % 8
    }

    #[test]
    fn all_of_a_call_meets_and_calls_are_spread() {
        let request = |method: &str, call: usize| format!("{method} sip:h SIP/2.0\r\nCall-ID: call-{call}\r\n\r\n");
        let mut seen = [false; 8];
        for call in 0..100 {
            let own = worker(&request("INVITE", call), "192.0.2.20:5060", true);
            seen[own] = true;
            for (method, remote) in [("CANCEL", "192.0.2.20:5070"), ("BYE", "192.0.2.21:5060"), ("ACK", "192.0.2.20:1")]
            {
                assert_eq!(worker(&request(method, call), remote, true), own);
            }
        }
        assert_eq!(seen, [true; 8]);
    }

    #[test]
    fn all_that_a_phone_sends_meets() {
        let request = |call: usize| format!("INVITE sip:h SIP/2.0\r\ni: {call}\r\n\r\n");
        for (one, other) in [("198.51.100.1:1", "198.51.100.1:2"), ("[2001:db8::1]:1", "[2001:db8::2]:2")] {
            assert_eq!(worker(&request(1), one, false), worker(&request(2), other, false));
        }
    }

    #[test]
    fn a_response_goes_to_the_worker_that_made_its_branch() {
        let branch = "z9hG4bK0500000000000000ab0000000000000002";
        let response = |line: &str| {
            format!("SIP/2.0 200 OK\r\nCSeq: 1 INVITE\r\n{line}\r\nVia: SIP/2.0/UDP b;branch=z9hG4bKx\r\n\r\n")
        };
        for line in [
            format!("v: SIP/2.0/UDP a;rport;branch={branch}, SIP/2.0/UDP c"),
            format!("Via :SIP/2.0/TCP a;branch={branch}"),
        ] {
            assert_eq!(worker(&response(&line), "192.0.2.20:5060", true), 5);
        }
        assert_eq!(worker(&response("Via: SIP/2.0/UDP a;branch=z9hG4bKother"), "192.0.2.20:5060", true), 0);
    }
}
