//! What a worker leaves for the export by HEP: each message, and each step of a call.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::json;

use super::Worker;
use crate::hep::{Captured, Tap, What};
use crate::proxy::CallStep;
use crate::sip::{Destination, Flow};
use crate::timeline::Why;

/// Finer than the clock of protocols, so that a collector finds the messages of a turn in their order.
#[expect(clippy::disallowed_methods, reason = "the driver reads the clock")]
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Worker {
    pub(super) fn tap_received(&self, tap: &Tap, flow: Flow, bytes: &Bytes) {
        if let Some(local) = self.transport.local_of(&Destination::Flow(flow)) {
            self.tap(tap, &Destination::Flow(flow), (flow.remote, local), bytes.clone());
        }
    }

    /// After it was sent: what opens a connection has one then.
    pub(super) fn tap_sent(&self, tap: &Tap, destination: &Destination, bytes: Bytes) {
        if let Some(local) = self.transport.local_of(destination) {
            self.tap(tap, destination, (local, destination.remote()), bytes);
        }
    }

    /// By the Call-ID of its messages, so that a collector shows it between them.
    pub(super) fn tap_step(&self, tap: &Tap, step: &CallStep) {
        let Some(listener) = self.transport.connections().listeners().first() else { return };
        let CallStep { call_ref, step, device, detail, why, push_id: _ } = step;
        let device = device.map(|device| device.to_string());
        let name = step.name();
        let (reason, code) = (why.as_ref().map_or("", Why::text), why.as_ref().map(|why| why.reason.code()));
        let json = json!({
            "call_ref": call_ref, "step": name, "device": device, "detail": detail, "reason": reason, "code": code,
        });
        let call_id = self.shared.timeline.call_id(call_ref).unwrap_or_else(|| call_ref.clone());
        let what = What::Step { call_id, json: json.to_string().into() };
        let (transport, here) = (listener.transport, listener.local);
        tap.take(Captured { at: since_1970(), transport, source: here, target: here, what });
    }

    fn tap(&self, tap: &Tap, way: &Destination, (source, target): (SocketAddr, SocketAddr), bytes: Bytes) {
        tap.take(Captured { at: since_1970(), transport: way.transport(), source, target, what: What::Sip(bytes) });
    }
}
