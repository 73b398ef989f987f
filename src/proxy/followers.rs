//! What follows a device to the flow that it registers by next (RFC 3261 §18.2.2, RFC 5626 §5.3): the CANCEL of an INVITE
//! that it has, the response to a request of its own, and requests within a dialog that wait for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use smallvec::SmallVec;

use super::Proxy;
use super::context::Context;
use super::event::Contacts;
use crate::binding::{Aor, Binding, DeviceId, Home};
use crate::clock::Now;
use crate::sip::response::header;
use crate::sip::{Destination, Flow};
use crate::transaction::{ClientId, SendTag, ServerId, Transactions};

/// A flow, and the other node that has it.
pub(super) type Place = (Flow, Option<Home>);

/// Something that is owed to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follower {
    /// The CANCEL of an INVITE that has no final response.
    Cancel(ClientId),
    /// A response that did not reach it.
    Response(ServerId),
    /// A request within a dialog.
    Request(ServerId),
}

#[derive(Debug, Default)]
struct Followed {
    /// Whose registrations are heard of; `None` until the end of the turn.
    aor: Option<Aor>,
    by: SmallVec<[Follower; 2]>,
}

/// An INVITE that was cancelled.
#[derive(Debug)]
struct Cancelled {
    device: DeviceId,
    server: ServerId,
    /// Where its CANCEL goes.
    at: Place,
    /// Header lines of its CANCEL.
    reason: Box<[u8]>,
}

/// At most one for each transaction.
#[derive(Debug, Default)]
pub(super) struct Followers {
    devices: BTreeMap<DeviceId, Followed>,
    cancelled: HashMap<ClientId, Cancelled>,
    /// Devices that are followed since this turn.
    fresh: Vec<DeviceId>,
    /// Whose registrations need not be heard of any more.
    left: Vec<Aor>,
}

impl Followers {
    pub(super) fn is_empty(&self) -> bool {
        self.devices.is_empty() && self.cancelled.is_empty() && self.fresh.is_empty() && self.left.is_empty()
    }

    fn add(&mut self, device: DeviceId, follower: Follower) {
        let followed = self.devices.entry(device).or_default();
        if followed.by.is_empty() {
            self.fresh.push(device);
        }
        if !followed.by.contains(&follower) {
            followed.by.push(follower);
        }
    }

    fn remove(&mut self, device: DeviceId, follower: Follower) {
        let Some(followed) = self.devices.get_mut(&device) else { return };
        followed.by.retain(|other| *other != follower);
        if followed.by.is_empty() {
            self.left.extend(followed.aor.take());
            self.devices.remove(&device);
        }
    }

    /// Requests within dialogs that wait for a device, in the order in which they came.
    pub(super) fn requests_for(&self, device: DeviceId) -> SmallVec<[ServerId; 2]> {
        let followers = self.devices.get(&device).map(|followed| &*followed.by).unwrap_or_default();
        let request = |follower: &Follower| match follower {
            Follower::Request(server) => Some(*server),
            Follower::Cancel(_) | Follower::Response(_) => None,
        };
        followers.iter().filter_map(request).collect()
    }

    pub(super) fn add_request(&mut self, device: DeviceId, server: ServerId) {
        self.add(device, Follower::Request(server));
    }

    pub(super) fn remove_request(&mut self, device: DeviceId, server: ServerId) {
        self.remove(device, Follower::Request(server));
    }

    /// The INVITE has its final response, or is given up.
    pub(super) fn remove_cancel(&mut self, client: ClientId) {
        if self.cancelled.is_empty() {
            return;
        }
        if let Some(Cancelled { device, .. }) = self.cancelled.remove(&client) {
            self.remove(device, Follower::Cancel(client));
        }
    }

    /// The request has ended that `device` sent.
    pub(super) fn remove_response(&mut self, device: DeviceId, server: ServerId) {
        if !self.devices.is_empty() {
            self.remove(device, Follower::Response(server));
        }
    }
}

/// Where a CANCEL goes, and its header lines.
struct CancelWay {
    place: Place,
    destination: Destination,
    lines: Vec<u8>,
}

impl Proxy {
    /// Before an INVITE is CANCELled that a device has by `client` and got by the flow `at`: the CANCEL goes where the device
    /// is by now, and wherever it comes before it has answered. The header lines for it, of which `reason` are some.
    pub(super) fn follow_cancel(
        &mut self,
        context: &Context,
        (client, device): (ClientId, DeviceId),
        at: Flow,
        reason: &[u8],
        contacts: &dyn Contacts,
    ) -> Vec<u8> {
        let reason: Box<[u8]> = reason.into();
        let mut lines = reason.to_vec();
        let mut cancelled = Cancelled { device, server: context.server, at: (at, None), reason };
        if let Some(way) = self.cancel_way(Some(context), &cancelled, contacts) {
            lines = way.lines;
            cancelled.at = way.place;
            self.transactions.redirect(client, way.destination);
        }
        self.followers.cancelled.insert(client, cancelled);
        self.followers.add(device, Follower::Cancel(client));
        lines
    }

    /// Where the CANCEL goes, if the device has come by another flow than it went by last.
    fn cancel_way(
        &self,
        context: Option<&Context>,
        cancelled: &Cancelled,
        contacts: &dyn Contacts,
    ) -> Option<CancelWay> {
        let device = cancelled.device;
        let binding = contacts.of_device(device).filter(|binding| self.is_there(binding, contacts))?;
        let place = (binding.flow, self.elsewhere(binding.home));
        if place == cancelled.at {
            return None;
        }
        let mut lines = Vec::new();
        let destination = match (context, place) {
            (_, (flow, None)) => Destination::Flow(flow),
            (Some(context), _) => {
                let way = self.way_to(&context.request, context.flow, device, place);
                header(&mut lines, "Route", &way.routes);
                way.destination
            }
            (None, _) => return None,
        };
        lines.extend_from_slice(&cancelled.reason);
        Some(CancelWay { place, destination, lines })
    }

    /// A response could not be sent to the device that waits for it. False: to nobody that could come.
    pub(super) fn response_lost(&mut self, tag: SendTag, contacts: &dyn Contacts) -> bool {
        let Some(server) = Transactions::server_of(tag) else { return false };
        let Some(context) = self.contexts.get(&server) else { return false };
        let Some(device) = context.sender else { return false };
        let before = self.transactions.reply_destination(server);
        self.aim(server, device, context.flow, contacts);
        if self.transactions.reply_destination(server) != before {
            self.transactions.repeat_response(server);
            return true;
        }
        self.followers.add(device, Follower::Response(server));
        false
    }

    /// Before a response goes back.
    pub(super) fn aim_responses(&mut self, context: &Context, contacts: &dyn Contacts) {
        if let Some(device) = context.sender {
            self.aim(context.server, device, context.flow, contacts);
        }
    }

    /// Responses to what a device sent by `flow` go there, or where the device has registered from since.
    ///
    /// Differs from RFC 3261 §18.2.2: an open connection is left for the one that the device has registered by later.
    pub(super) fn aim(&mut self, server: ServerId, device: DeviceId, flow: Flow, contacts: &dyn Contacts) {
        let Some(binding) = contacts.of_device(device) else { return };
        let is_here = self.elsewhere(binding.home).is_none() && self.is_there(&binding, contacts);
        let destination = Destination::Flow(binding.flow);
        if is_here && binding.flow != flow && self.transactions.reply_destination(server) != Some(destination) {
            self.transactions.redirect_responses(server, destination);
        }
    }

    /// A device has registered: what is owed to it goes where it is.
    pub(super) fn followed(&mut self, binding: &Arc<Binding>, contacts: &dyn Contacts, now: Now) {
        let Some(followed) = self.followers.devices.get(&binding.device) else { return };
        if !self.is_there(binding, contacts) {
            return;
        }
        for follower in followed.by.clone() {
            match follower {
                Follower::Cancel(client) => self.cancel_follows(client, contacts, now),
                Follower::Response(server) => self.response_follows(server, binding, contacts),
                Follower::Request(server) => self.request_follows(server, binding, contacts, now),
            }
        }
    }

    fn cancel_follows(&mut self, client: ClientId, contacts: &dyn Contacts, now: Now) {
        let Some(cancelled) = self.followers.cancelled.get(&client) else { return };
        let context = self.contexts.get(&cancelled.server).map(|context| &**context);
        let Some(way) = self.cancel_way(context, cancelled, contacts) else { return };
        let CancelWay { place, destination, lines } = way;
        if let Some(cancelled) = self.followers.cancelled.get_mut(&client) {
            cancelled.at = place;
        }
        self.transactions.redirect(client, destination);
        self.given_up.moved(client, place.1.is_none().then_some(destination));
        if !self.transactions.cancel_again(client, &lines, now.instant) {
            self.transactions.cancel(client, &lines, now.instant);
        }
    }

    fn response_follows(&mut self, server: ServerId, binding: &Binding, contacts: &dyn Contacts) {
        let Some(flow) = self.contexts.get(&server).map(|context| context.flow) else { return };
        let before = self.transactions.reply_destination(server);
        self.aim(server, binding.device, flow, contacts);
        if self.transactions.reply_destination(server) != before {
            self.followers.remove_response(binding.device, server);
            self.transactions.repeat_response(server);
        }
    }

    /// At the end of a turn: from here on this worker hears of the devices that are followed, and not of others. Who
    /// has come in between is not missed.
    pub(super) fn settle_followers(&mut self, contacts: &dyn Contacts, now: Now) {
        while let Some(device) = self.followers.fresh.pop() {
            let Some(binding) = contacts.of_device(device) else { continue };
            let Some(followed) = self.followers.devices.get_mut(&device) else { continue };
            if followed.aor.is_none() {
                followed.aor = Some(binding.aor.clone());
                self.watch(&binding.aor, contacts);
            }
            if let Some(binding) = contacts.of_device(device) {
                self.followed(&binding, contacts, now);
            }
        }
        for aor in std::mem::take(&mut self.followers.left) {
            self.unwatch(&aor, contacts);
        }
    }
}
