//! Phones that answer a push by their open connection, and register only when their time is over.
//!
//! A connection that is merely open says nothing: an app that was suspended leaves it behind. What is sent by it after the
//! push was taken comes of somebody who is awake.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::Proxy;
use super::context::Context;
use super::event::{Contacts, Effect};
use super::held_call::DeviceState;
use crate::binding::DeviceId;
use crate::clock::Now;
use crate::sip::{ConnectionId, Flow};
use crate::timeline::{Reason, Step};
use crate::transaction::ServerId;

/// Calls that wait for a sign of life on a connection.
#[derive(Debug, Default)]
pub(super) struct AwaitedConnections {
    calls: HashMap<ConnectionId, SmallVec<[ServerId; 1]>>,
}

impl AwaitedConnections {
    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    fn take(&mut self, connection: ConnectionId) -> SmallVec<[ServerId; 1]> {
        self.calls.remove(&connection).unwrap_or_default()
    }

    /// The call does not wait for it any more.
    pub(super) fn forget(&mut self, connection: ConnectionId, server: ServerId) {
        if let Some(calls) = self.calls.get_mut(&connection) {
            calls.retain(|call| *call != server);
            if calls.is_empty() {
                self.calls.remove(&connection);
            }
        }
    }
}

impl Proxy {
    /// The push of a device was taken: what it sends by its connection from here on is its answer. Not behind another proxy,
    /// whose connection is not the phone's own.
    pub(super) fn await_connection(
        &mut self,
        context: &mut Context,
        device: DeviceId,
        contacts: &dyn Contacts,
        now: Now,
    ) {
        if !self.may_be_awake(context, device, contacts, now) {
            return;
        }
        let server = context.server;
        let Some(call) = context.call_mut() else { return };
        let Some(held) = call.device(device).filter(|held| held.state == DeviceState::Waiting) else { return };
        let is_own = held.binding.path.is_empty() && self.elsewhere(held.binding.home).is_none();
        if !is_own || held.awaits.is_some() {
            return;
        }
        let flow = held.binding.flow;
        held.awaits = Some(flow.connection);
        self.awaited.calls.entry(flow.connection).or_default().push(server);
        self.effects.push_back(Effect::Await { flow });
    }

    /// Something was sent by a connection that is waited for. The phone gets the INVITE there; it is waited for until it
    /// says something to it, because what it sent may have been its system's doing.
    pub(super) fn heard_on(&mut self, flow: Flow, contacts: &dyn Contacts, now: Now) {
        for server in self.awaited.take(flow.connection) {
            self.with_context(server, |proxy, context| {
                proxy.heard_in(context, flow, contacts, now);
                proxy.conclude(context, contacts, now);
            });
        }
    }

    fn heard_in(&mut self, context: &mut Context, flow: Flow, contacts: &dyn Contacts, now: Now) {
        let Some(call) = context.call_mut().filter(|call| call.is_open) else { return };
        let call_ref = call.call_ref.clone();
        let mut devices: SmallVec<[DeviceId; 1]> = SmallVec::new();
        for held in call.devices.iter_mut().filter(|held| held.awaits == Some(flow.connection)) {
            held.awaits = None;
            if matches!(held.state, DeviceState::Waiting | DeviceState::Repeating) && held.binding.flow == flow {
                devices.push(held.binding.device);
            }
        }
        for device in devices {
            // Another phone may have the connection's address by now, or this one may have logged out.
            let binding = contacts.of_device(device).filter(|binding| binding.flow == flow);
            let Some(binding) = binding.filter(|binding| self.is_reachable(binding, contacts, now)) else { continue };
            self.step_why(&call_ref, Step::DeviceFound, Some(device), flow.to_string(), Reason::AwakeByConnection);
            self.join(context, &binding, now);
        }
    }
}
