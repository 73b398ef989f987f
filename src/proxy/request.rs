//! Where a request goes (RFC 3261 §16.4, §16.5), and who may send it there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::context::{Context, Purpose};
use super::dialog::is_of_phone;
use super::event::{Contacts, DropReason, Effect, Warning};
use super::policy::{CallsFrom, Mode};
use super::response_context::{Hop, RecordRoute};
use super::route::{self, Routed};
use super::secret::{DialogToken, FlowToken, TokenRead};
use super::{BUSY_RETRY_AFTER_S, Proxy, Reject, Timer, forward, validate};
use crate::binding::{Aor, Binding, DeviceId, Home};
use crate::clock::Now;
use crate::sip::response::header;
use crate::sip::uri::is_dialled;
use crate::sip::{Destination, Flow, HeaderName, Message, Method, NameAddr, Uri, repair};
use crate::transaction::{Incoming, ServerId};

/// Methods we say in Allow: everything passes through, so everything that is in use.
const ALLOW: &[u8] =
    b"INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER, MESSAGE, INFO, PRACK, UPDATE, REFER, SUBSCRIBE, NOTIFY, PUBLISH";

/// How long a request of another node waits before it is looked whether its device has had its 2xx: about as long as a
/// store takes to answer.
const AFTER_REGISTER: Duration = Duration::from_millis(5);

/// A device without a name: of a flow that nobody registered from.
const NO_DEVICE: DeviceId = DeviceId([0; 10]);

/// Which side of us a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Softswitch,
    Phone,
}

/// How a device is reached.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub destination: Destination,
    /// Route values for the node on the way.
    pub routes: Box<[u8]>,
    pub flow: (Flow, Option<Home>),
}

impl Way {
    /// Whether the flow is this node's own.
    pub(super) fn is_direct(&self) -> bool {
        self.flow.1.is_none()
    }

    /// Route values to the device: by the node on the way, then by the device's own Path (RFC 3327 §5.2).
    pub(super) fn routes_to(&self, binding: &Binding) -> Box<[u8]> {
        let parts = [&*self.routes, &*binding.path].into_iter().filter(|values| !values.is_empty());
        parts.collect::<Vec<_>>().join(&b", "[..]).into()
    }
}

/// Where a request may go.
pub(super) enum Target {
    /// A request within a dialog, to the flow that its Route names.
    Flow(FlowToken),
    /// A request that another node sends by this one, which has the device's flow.
    Hop(DialogToken),
    /// A phone's request within a dialog, to whom the dialog is with.
    OtherSide(DialogToken),
    /// Any other request of a phone.
    Softswitch,
    /// The same in local mode, if the phone proves to be this user.
    SoftswitchFor(Aor),
    /// A request for one or all devices of an AOR.
    Phones { aor: Aor, bindings: Vec<Arc<Binding>>, only: Option<DeviceId> },
    /// The request is for this proxy itself.
    Ourselves,
}

impl Proxy {
    pub(super) fn receive_request(&mut self, request: Message, flow: Flow, contacts: &dyn Contacts, now: Now) {
        // No Via, no way for a response (RFC 3261 §18.2.2): one to the source would be heard by whoever was named so.
        if request.values(HeaderName::Via).next().is_none() {
            return self.effects.push_back(Effect::Dropped(DropReason::Request));
        }
        let policy = &self.policy;
        match self.transactions.receive_request(&request, flow, || policy.standing(flow, contacts), now.instant) {
            Incoming::Absorbed => {}
            Incoming::SourceFull => {
                self.effects.push_back(Effect::Dropped(DropReason::SourceBytes));
                self.respond_stateless(&request, flow, &Reject::busy(BUSY_RETRY_AFTER_S));
            }
            Incoming::Full => {
                self.effects.push_back(Effect::Dropped(DropReason::Overload));
                self.respond_stateless(&request, flow, &Reject::busy(BUSY_RETRY_AFTER_S));
            }
            Incoming::Ack => self.forward_ack(request, flow, contacts),
            Incoming::Cancel { cancel, invite } => self.receive_cancel(request, flow, cancel, invite, contacts, now),
            Incoming::Request(server) => {
                let (request, loop_hash, fault) = self.checked(request, flow);
                let mut context = Box::new(Context::new(server, request, flow, loop_hash, self.random.tag()));
                match fault {
                    Some(reject) => {
                        if reject.status == 482 {
                            self.note_strange_switch(&context, true, contacts, now);
                        }
                        self.reject(&mut context, &reject, now);
                    }
                    None => self.route_request(&mut context, contacts, now),
                }
                if !context.is_invite() && !context.is_done() {
                    self.timers.set(Timer::Slow(server), now.instant + self.slow_after);
                }
                self.put_back(context);
            }
        }
    }

    /// A request, mended where that can be, with its loop hash and what is wrong with it.
    fn checked(&self, request: Message, flow: Flow) -> (Message, u64, Option<Reject>) {
        let check = |request: &Message| {
            let loop_hash = validate::loop_hash(request, flow.remote, &self.policy.secret);
            (loop_hash, validate::request(request, &self.policy, loop_hash))
        };
        let (loop_hash, fault) = check(&request);
        let is_bad = fault.as_ref().is_some_and(|fault| fault.status == 400);
        match is_bad.then(|| repair::display_names(&request)).flatten() {
            Some(repaired) => {
                let (loop_hash, fault) = check(&repaired);
                (repaired, loop_hash, fault)
            }
            None => (request, loop_hash, fault),
        }
    }

    pub(super) fn route_request(&mut self, context: &mut Context, contacts: &dyn Contacts, now: Now) {
        if self.fetch_first(context, contacts) {
            return;
        }
        if context.request.method() == Method::REGISTER {
            if !self.may_register(context.flow) {
                // One datagram in its name must not make the softswitch a phone, which nobody would take calls from.
                let reject = Reject::new(403, "Registrations From The Softswitch Are Not Taken");
                let source = context.flow.remote;
                self.effects.push_back(Effect::Warning(Warning::RegisterFromTrusted { source }));
                return self.reject(context, &reject, now);
            }
            return self.register(context, contacts, now);
        }
        if let Some(invite) = self.early_dialog_of(context, contacts) {
            return self.receive_in_early_dialog(context, invite, contacts, now);
        }
        let policy = Arc::clone(&self.policy);
        let request = context.request.clone();
        let routed = route::preprocess(&request, &policy, &self.keys);
        let target = self.target(&request, &routed, context.flow, contacts);
        let is_far = !matches!(target, Ok(Target::Ourselves));
        // Only an OPTIONS comes as far as this without hops left (RFC 3261 §16.3 item 3).
        if is_far && request.number(HeaderName::MaxForwards) == Some(0) {
            return self.reject(context, &Reject::new(483, "Too Many Hops"), now);
        }
        // Scanners ask everybody what they are.
        context.hides_server = context.request.method() == Method::OPTIONS && self.is_stranger(context.flow, contacts);
        if matches!(target, Ok(Target::Softswitch) | Err(Reject { status: 403, .. })) {
            self.note_strange_switch(context, false, contacts, now);
        }
        match target {
            Ok(Target::Flow(token)) => self.forward_in_dialog(context, &token, contacts, now),
            Ok(Target::Hop(token)) => self.forward_for_node(context, &token, contacts, now),
            Ok(Target::OtherSide(token)) => self.forward_to_other_side(context, &token, contacts, now),
            Ok(Target::Softswitch) => self.forward_to_softswitch(context, contacts, now),
            Ok(Target::SoftswitchFor(aor)) => self.call_out(context, &aor, contacts, now),
            Ok(Target::Ourselves) => self.answer_ourselves(context, now),
            Ok(Target::Phones { aor, bindings, only }) => {
                self.call_phones(context, aor, &bindings, only, contacts, now);
            }
            Err(reject) => {
                if reject.status == 485 {
                    let user = Uri::parse(routed.uri).ok().and_then(|uri| uri.aor());
                    let user = user.map(|aor| aor.user().into()).unwrap_or_default();
                    self.effects.push_back(Effect::Warning(Warning::AmbiguousUser { user }));
                }
                self.reject(context, &reject, now);
            }
        }
    }

    pub(super) fn target(
        &self,
        request: &Message,
        routed: &Routed<'_>,
        flow: Flow,
        contacts: &dyn Contacts,
    ) -> Result<Target, Reject> {
        let is_in_dialog = request.to_tag().is_some();
        match routed.token {
            TokenRead::Forged => return Err(Reject::new(403, "Forbidden Flow Token")),
            TokenRead::Hop(token) => return Ok(Target::Hop(token)),
            TokenRead::Flow(_) | TokenRead::Dialog(_) | TokenRead::NoToken => {}
        }
        let uri = Uri::parse(routed.uri).ok();
        if uri.is_none() && !is_dialled(routed.uri) {
            return Err(Reject::of(416));
        }
        if self.side(flow, contacts) == Side::Phone {
            let may_call =
                || self.policy.calls_from == CallsFrom::Any || contacts.on_flow(flow.transport, flow.remote).is_some();
            if let TokenRead::Dialog(token) = routed.token
                && is_in_dialog
                && is_of_phone(&token, flow, contacts)
            {
                return Ok(Target::OtherSide(token));
            }
            let names_us = |uri: Uri<'_>| uri.user.is_none() && self.policy.is_own(&uri);
            return if !may_call() {
                Err(Reject::of(403))
            } else if routed.next_route.is_none() && uri.is_some_and(names_us) {
                Ok(Target::Ourselves)
            } else if self.policy.mode == Mode::Relay {
                Ok(Target::Softswitch)
            } else {
                let user = self.user_of(request, flow, contacts).map(Target::SoftswitchFor);
                // Who has registered may not be read yet.
                let is_known = contacts.is_loaded();
                user.ok_or_else(|| if is_known { Reject::of(403) } else { Reject::busy(BUSY_RETRY_AFTER_S) })
            };
        }
        match routed.token {
            TokenRead::Flow(token) if is_in_dialog => return Ok(Target::Flow(token)),
            TokenRead::Dialog(DialogToken { device, flow, .. }) if is_in_dialog => {
                return Ok(Target::Flow(FlowToken { device, flow }));
            }
            TokenRead::Flow(token) => {
                // By the Path that its REGISTER left: a binding that has ended is as good as a flow that is gone, and the
                // registrar is to forget it (RFC 5626 §5.3).
                let binding = contacts.of_device(token.device).ok_or_else(|| Reject::of(430))?;
                let only = Some(binding.device);
                return Ok(Target::Phones { aor: binding.aor.clone(), bindings: vec![binding], only });
            }
            TokenRead::Dialog(_) | TokenRead::Hop(_) | TokenRead::Forged | TokenRead::NoToken => {}
        }
        match uri {
            Some(uri) => self.phones(&uri, contacts),
            None => self.phones_of_number(routed.uri, contacts),
        }
    }

    /// The softswitch is known by its address, which comes before what has registered: nobody becomes a phone by a
    /// REGISTER in its name. Only where the operator says that phones share the address
    /// (`register.phones_behind_trusted`) a device's own flow is the device's.
    fn side(&self, flow: Flow, contacts: &dyn Contacts) -> Side {
        let is_phone = !self.policy.is_trusted(flow.remote.ip())
            || (self.may_register(flow) && contacts.on_flow(flow.transport, flow.remote).is_some());
        if is_phone { Side::Phone } else { Side::Softswitch }
    }

    pub(super) fn is_of_softswitch(&self, flow: Flow, contacts: &dyn Contacts) -> bool {
        self.side(flow, contacts) == Side::Softswitch
    }

    /// Whether a REGISTER that comes by this flow may be a phone's.
    fn may_register(&self, flow: Flow) -> bool {
        let is_next_hop = || {
            let numeric = self.policy.softswitch.as_ref().and_then(|softswitch| {
                let ip = crate::sip::uri::host_ip(softswitch.host.as_bytes())?;
                Some(SocketAddr::new(ip, softswitch.port.unwrap_or(5060)))
            });
            numeric == Some(flow.remote) || self.next_hops.contains(&flow.remote)
        };
        !self.policy.is_trusted(flow.remote.ip()) || (self.policy.phones_behind_trusted && !is_next_hop())
    }

    pub(super) fn registered_for_node(&mut self, server: ServerId, contacts: &dyn Contacts, now: Now) {
        self.with_context(server, |proxy, context| {
            if let Purpose::ForNode(token) = context.purpose
                && !context.responses.is_final
            {
                proxy.forward_for_node(context, &token, contacts, now);
            }
        });
    }

    /// Whether a device may be expected on its flow, and the flow is there and its own: its connection, or the node that has
    /// it, and nobody else has registered by it since.
    pub(super) fn is_reachable(&self, binding: &Binding, contacts: &dyn Contacts, now: Now) -> bool {
        self.is_there(binding, contacts) && binding.is_reachable(now.unix)
    }

    /// The same of its last flow, be its registration over or not.
    pub(super) fn is_there(&self, binding: &Binding, contacts: &dyn Contacts) -> bool {
        let is_open = match self.elsewhere(binding.home) {
            None => contacts.has_connection(binding),
            Some(_) => contacts.has_home(binding),
        };
        is_open && contacts.holds_flow(binding)
    }

    /// A flow's node, where that is another one.
    pub(super) fn elsewhere(&self, home: Option<Home>) -> Option<Home> {
        home.filter(|home| Some(*home) != self.policy.home)
    }

    /// To a flow of this node, or by the node that has it, with a Route that only that node can follow. `source` is where
    /// `request` came from.
    pub(super) fn way_to(
        &self,
        request: &Message,
        source: Flow,
        device: DeviceId,
        (flow, home): (Flow, Option<Home>),
    ) -> Way {
        let by_other = self.elsewhere(home).and_then(|home| Some((home, self.address(home.transport, home.address)?)));
        let Some((home, destination)) = by_other else {
            return Way { destination: Destination::Flow(flow), routes: [].into(), flow: (flow, None) };
        };
        let other = self.other_side(request, source).without_connection();
        let token = self.keys.write_hop(&DialogToken { device, flow, other }, request.call_id());
        let mut routes = format!("<sip:{token}@{}", home.address);
        if home.transport.is_reliable() {
            routes.push_str(";transport=");
            routes.push_str(home.transport.uri_name());
        }
        routes.push_str(";lr>");
        Way { destination, routes: routes.into_bytes().into(), flow: (flow, Some(home)) }
    }

    /// For another node, which holds the call: to the very flow that it names. A later one of the device's it learns of by
    /// itself.
    fn forward_for_node(&mut self, context: &mut Context, token: &DialogToken, contacts: &dyn Contacts, now: Now) {
        context.purpose = Purpose::ForNode(*token);
        if contacts.is_registering(token.device) {
            // The other node has heard of the REGISTER before its 2xx was sent, which is to come first.
            self.timers.set(Timer::AfterRegister(context.server), now.instant + AFTER_REGISTER);
            return;
        }
        let hop = Hop {
            uri: None,
            routes: [].into(),
            record_route: keeps_dialog(&context.request).then_some(RecordRoute::ToPhone(*token)),
            destinations: vec![Destination::Flow(token.flow)],
            device: Some(token.device),
            flow: Some((token.flow, None)),
        };
        self.start_branch(context, hop, now);
        self.conclude(context, contacts, now);
    }

    /// What a phone says chooses no address: whatever stands in Route and Request-URI, it goes to `softswitch.uri`.
    pub(super) fn forward_to_softswitch(&mut self, context: &mut Context, contacts: &dyn Contacts, now: Now) {
        let hop = self.hop_from_phone(context, Vec::new(), contacts);
        self.start_upstream(context, hop, now);
        self.conclude(context, contacts, now);
    }

    /// The way of a phone's request. Its responses will go where the device is that sends it.
    pub(super) fn hop_from_phone(
        &self,
        context: &mut Context,
        destinations: Vec<Destination>,
        contacts: &dyn Contacts,
    ) -> Hop {
        let flow = context.flow;
        let device = self.sender(&context.request, flow, contacts);
        context.sender = Some(device).filter(|device| *device != NO_DEVICE);
        let record_route = keeps_dialog(&context.request).then_some(RecordRoute::FromPhone(FlowToken { device, flow }));
        Hop { uri: None, routes: [].into(), record_route, destinations, device: None, flow: None }
    }

    /// The device that sends a request: that of the user in From, where several have registered by the flow, as behind an
    /// edge proxy; of several of one user the one whose Contact it has. Whoever lies about it names a device of its own flow.
    fn sender(&self, request: &Message, flow: Flow, contacts: &dyn Contacts) -> DeviceId {
        let Some(last) = contacts.on_flow(flow.transport, flow.remote) else { return NO_DEVICE };
        let is_here = |binding: &Arc<Binding>| {
            let known = binding.flow;
            self.elsewhere(binding.home).is_none() && (known.transport, known.remote) == (flow.transport, flow.remote)
        };
        let aor = request.from().and_then(|from| self.policy.aor(&from.parse_uri().ok()?));
        let mut own = aor.map(|aor| contacts.of_aor(&aor)).unwrap_or_default();
        own.retain(is_here);
        let contact = request.first(HeaderName::Contact).and_then(NameAddr::parse);
        let is_at = |binding: &&Arc<Binding>| {
            let contact = contact.as_ref().and_then(|contact| contact.parse_uri().ok());
            contact.zip(Uri::parse(&binding.contact).ok()).is_some_and(|(contact, known)| contact.is_at_same(&known))
        };
        let found = own.iter().find(is_at).or_else(|| own.iter().max_by_key(|binding| binding.registered_at));
        found.map_or(last, |binding| binding.device)
    }

    /// A request to the proxy itself: OPTIONS tells that we are alive (RFC 3261 §11), nothing else has a meaning.
    fn answer_ourselves(&mut self, context: &mut Context, now: Now) {
        if context.request.method() == Method::OPTIONS {
            self.answer_options(context, now);
        } else {
            self.reject(context, &Reject::of(404), now);
        }
    }

    pub(super) fn answer_options(&mut self, context: &mut Context, now: Now) {
        if self.is_draining {
            // Who asks whether we are alive is to send its calls elsewhere.
            return self.reject(context, &Reject::busy(BUSY_RETRY_AFTER_S), now);
        }
        let mut headers = Vec::new();
        header(&mut headers, "Allow", ALLOW);
        header(&mut headers, "Supported", b"path");
        context.responses.is_final = true;
        self.respond(context, 200, "OK", &headers, now);
    }

    /// The ACK of a 2xx is end-to-end and has no transaction (RFC 3261 §13.2.2.4, §17.1.1.3).
    fn forward_ack(&mut self, request: Message, flow: Flow, contacts: &dyn Contacts) {
        self.acknowledged(request.call_id());
        if let Err(reason) = self.try_forward_ack(request, flow, contacts) {
            self.effects.push_back(Effect::Dropped(reason));
        }
    }

    fn try_forward_ack(&mut self, request: Message, flow: Flow, contacts: &dyn Contacts) -> Result<(), DropReason> {
        let policy = Arc::clone(&self.policy);
        let (request, loop_hash, fault) = self.checked(request, flow);
        if fault.is_some() {
            return Err(DropReason::Ack);
        }
        let request = &request;
        let routed = route::preprocess(request, &policy, &self.keys);
        let (device, destination, routes): (_, _, Box<[u8]>) = match self.target(request, &routed, flow, contacts) {
            Ok(Target::Flow(token)) => {
                let way = self.way_in_dialog(request, flow, &token, contacts);
                (Some(token.device), way.destination, way.routes)
            }
            Ok(Target::Hop(token)) => (Some(token.device), Destination::Flow(token.flow), [].into()),
            Ok(Target::OtherSide(token)) => {
                let destination = self.ways_to_other_side(&token).into_iter().next_back();
                (None, destination.ok_or(DropReason::Ack)?, [].into())
            }
            Ok(Target::Softswitch) => {
                let destination = self.upstream_addresses().into_iter().next_back();
                (None, destination.ok_or(DropReason::Ack)?, [].into())
            }
            // Nobody can prove anything by an ACK (RFC 3261 §22.1).
            Ok(Target::Phones { .. } | Target::Ourselves | Target::SoftswitchFor(_)) | Err(_) => {
                return Err(DropReason::Ack);
            }
        };
        let (ingress, egress) =
            policy.listener(flow.listener).zip(policy.listener(destination.listener())).ok_or(DropReason::Ack)?;
        let branch = self.transactions.new_branch(loop_hash);
        let onward = forward::Onward {
            uri: None,
            routes: &routes,
            record_route: None,
            ingress,
            egress,
            transport: destination.transport(),
            branch: &branch,
            towards: self.towards(device),
        };
        let bytes = forward::request(request, flow.remote, &routed, &onward);
        self.collect_sends();
        self.send_stateless(destination, bytes);
        Ok(())
    }
}

/// Requests that form or may refresh a dialog keep us on its path (RFC 3261 §16.6 step 4).
pub(super) fn keeps_dialog(request: &Message) -> bool {
    matches!(request.method_text(), b"INVITE" | b"SUBSCRIBE" | b"REFER" | b"NOTIFY")
}

/// The header that names the call to the operator and the bucket, else Call-ID (design of ECSS's call_ref).
pub(super) fn call_ref(request: &Message, header: &str) -> Box<str> {
    let named =
        |field: &&crate::sip::message::Field| request.slice(field.name_span()).eq_ignore_ascii_case(header.as_bytes());
    let value = request.all_fields().iter().find(named).map(|field| request.slice(field.value()));
    let value = value.filter(|value| !header.is_empty() && !value.is_empty());
    crate::sip::scan::text(value.unwrap_or_else(|| request.first(HeaderName::CallId).unwrap_or_default()))
}
