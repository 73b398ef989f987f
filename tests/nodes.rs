//! Two cores that share a store, as two nodes do: each story is one order in which a wake, an INVITE, a CANCEL and a
//! takeover can meet. Nothing is delayed but what the story delays.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

#[path = "core/mod.rs"]
mod core;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sip_push_proxy::binding::{Aor, Binding, DeviceId, Home};
use sip_push_proxy::clock::Now;
use sip_push_proxy::proxy::policy::Listener;
use sip_push_proxy::proxy::secret::{DialogToken, Keys, OtherSide};
use sip_push_proxy::proxy::{Contacts, Effect, Input, Outcome, Proxy};
use sip_push_proxy::sip::{ConnectionId, Destination, Flow, HeaderName, Message, Transport};
use sip_push_proxy::store::{Change, HeldCall, HeldCallId, LeftCall, Reply, Settlement};
use sip_push_proxy::transaction::SendTag;

use core::{Core, View, invite, register, switch};

const HOLDER: usize = 0;
const OTHER: usize = 1;
const ADDRESSES: [&str; 2] = ["192.0.2.10:5060", "192.0.2.11:5060"];
/// Registered with nobody at the start.
const PHONE: u32 = 1;

/// What one node sees of the shared table.
struct Shared<'a> {
    view: View<'a>,
    is_registering: bool,
    is_alone: bool,
}

impl Contacts for Shared<'_> {
    fn of_aor(&self, aor: &Aor) -> Vec<Arc<Binding>> {
        self.view.of_aor(aor)
    }

    fn of_device(&self, device: DeviceId) -> Option<Arc<Binding>> {
        self.view.of_device(device)
    }

    fn on_flow(&self, transport: Transport, remote: SocketAddr) -> Option<DeviceId> {
        self.view.on_flow(transport, remote)
    }

    fn has_missed(&self, device: DeviceId) -> bool {
        self.view.has_missed(device)
    }

    fn is_registering(&self, _device: DeviceId) -> bool {
        self.is_registering
    }

    fn has_home(&self, _binding: &Binding) -> bool {
        !self.is_alone
    }

    fn watch(&self, _aor: &Aor) {}

    fn unwatch(&self, _aor: &Aor) {}
}

/// Two nodes, the network between them, and what came out at its ends.
struct Pair {
    /// Both use the table of the first.
    nodes: [Core; 2],
    now: Now,
    /// At phones, by node and flow, and at the softswitch.
    at_phones: VecDeque<(usize, Flow, Message)>,
    at_switch: VecDeque<Message>,
    outcomes: Vec<Outcome>,
    pushes: usize,
    settled: Vec<(DeviceId, Settlement)>,
    held: Vec<HeldCall>,
    /// The 2xx of a REGISTER is not out yet.
    is_registering: bool,
    /// The other node is taken for gone.
    is_alone: bool,
    /// What goes to phones is lost, and the transport says so.
    is_flow_gone: bool,
}

impl Pair {
    fn new() -> Self {
        let node = |own: usize| {
            Core::new(0, |policy| {
                let local: SocketAddr = ADDRESSES[own].parse().unwrap();
                let listener = |transport| Listener {
                    transport,
                    local,
                    sent_by: ADDRESSES[own].into(),
                    host: local.ip().to_string().into(),
                    port: local.port(),
                };
                policy.listeners = vec![listener(Transport::Udp), listener(Transport::Tcp)];
                policy.home = Some(Home { transport: Transport::Udp, address: local });
            })
        };
        let nodes = [node(HOLDER), node(OTHER)];
        let now = nodes[0].now;
        let mut pair = Self {
            nodes,
            now,
            at_phones: VecDeque::new(),
            at_switch: VecDeque::new(),
            outcomes: vec![],
            pushes: 0,
            settled: vec![],
            held: vec![],
            is_registering: false,
            is_alone: false,
            is_flow_gone: false,
        };
        pair.register(HOLDER, 1);
        pair.wait(Duration::from_secs(60));
        pair
    }

    fn input(&mut self, node: usize, input: Input) {
        self.with_view(node, |proxy, view, now| proxy.handle(input, view, now));
    }

    fn with_view(&mut self, node: usize, work: impl FnOnce(&mut Proxy, &Shared<'_>, Now)) {
        let [first, second] = &mut self.nodes;
        let view = View(first.memory.table(), self.now.unix);
        let view = Shared { view, is_registering: self.is_registering, is_alone: self.is_alone };
        let proxy = if node == HOLDER { &mut first.proxy } else { &mut second.proxy };
        work(proxy, &view, self.now);
        self.perform(node);
    }

    fn proxy(&mut self, node: usize) -> &mut Proxy {
        &mut self.nodes[node].proxy
    }

    fn perform(&mut self, node: usize) {
        while let Some(effect) = self.proxy(node).poll_effect() {
            match effect {
                Effect::Send { destination, bytes, tag } => self.send(node, destination, bytes, tag),
                Effect::Save { ticket, change } => {
                    if let Change::Hold { call, .. } = &change {
                        self.held.push(call.clone());
                    }
                    if let Change::Settle { devices, .. } = &change {
                        self.settled.extend(devices.iter().copied());
                    }
                    let result = Ok(self.nodes[HOLDER].memory.apply(change));
                    self.input(node, Input::Saved(Reply { ticket, result }));
                }
                Effect::Push(push) => {
                    self.pushes += 1;
                    let mut sent = vec![];
                    self.nodes[node].perform(Effect::Push(push), &mut sent);
                    assert!(sent.is_empty());
                }
                Effect::Woken(binding) => self.input(1 - node, Input::Woken(binding)),
                Effect::CallEnded { outcome, .. } => self.outcomes.push(outcome),
                Effect::Fault(fault) => panic!("{fault}"),
                Effect::Resolve { .. }
                | Effect::Await { .. }
                | Effect::Fetch { .. }
                | Effect::Step(_)
                | Effect::CallBegan { .. }
                | Effect::Found(_)
                | Effect::WakeSeen { .. }
                | Effect::Refreshed { .. }
                | Effect::AuthFailed { .. }
                | Effect::AuthProven { .. }
                | Effect::Warning(_)
                | Effect::Dropped(_) => {}
            }
        }
    }

    fn send(&mut self, node: usize, destination: Destination, bytes: Bytes, tag: Option<SendTag>) {
        let remote = destination.remote();
        let message = Message::parse(bytes.clone(), 128).unwrap();
        if let Some(to) = ADDRESSES.iter().position(|address| remote == address.parse().unwrap()) {
            let source = ADDRESSES[node].parse().unwrap();
            return self.deliver(to, source, bytes);
        }
        if remote == switch().remote {
            return self.at_switch.push_back(message);
        }
        let Destination::Flow(flow) = destination else { panic!("{destination:?} is nobody's") };
        if self.is_flow_gone {
            if let Some(tag) = tag {
                self.input(node, Input::SendFailed { tag });
            }
            return;
        }
        self.at_phones.push_back((node, flow, message));
    }

    fn deliver(&mut self, node: usize, source: SocketAddr, bytes: Bytes) {
        let flow = Flow { transport: Transport::Udp, listener: 0, connection: ConnectionId::NONE, remote: source };
        let message = Message::parse(bytes, 128).unwrap();
        self.input(node, Input::Received { flow, message });
    }

    /// The phone registers with a node; its 200 comes back.
    fn register(&mut self, node: usize, cseq: u32) {
        self.deliver(node, core::phone(PHONE).remote, register(PHONE, cseq));
        let (by, _, message) = self.at_phones.pop_front().expect("a 200");
        assert_eq!((by, message.status()), (node, Some(200)));
    }

    /// A call for the sleeping phone is held and pushed.
    fn hold(&mut self) {
        self.deliver(HOLDER, switch().remote, invite(PHONE, 7));
        assert_eq!(self.statuses(), [100, 182]);
        assert_eq!((self.pushes, self.proxy(HOLDER).held_calls()), (1, 1));
    }

    /// Without repetitions in a row: nothing is ACKed.
    fn statuses(&mut self) -> Vec<u16> {
        let mut statuses: Vec<_> = self.at_switch.drain(..).filter_map(|message| message.status()).collect();
        statuses.dedup();
        statuses
    }

    /// The INVITE is at the phone by this node.
    #[track_caller]
    fn invited_by(&mut self, node: usize) -> Message {
        let (by, flow, message) = self.at_phones.pop_front().expect("an INVITE");
        assert_eq!((by, message.method_text(), flow.remote), (node, &b"INVITE"[..], core::phone(PHONE).remote));
        assert!(message.values(HeaderName::Route).next().is_none(), "{message:?}");
        message
    }

    /// The phone answers a request that came by a node.
    fn answer(&mut self, node: usize, request: &Message, status: u16) {
        let line = |name: HeaderName| {
            request.values(name).map(move |value| format!("{}: {}\r\n", name.as_str(), String::from_utf8_lossy(value)))
        };
        let vias: String = line(HeaderName::Via).collect();
        let others: String = [HeaderName::RecordRoute, HeaderName::From, HeaderName::CallId, HeaderName::CSeq]
            .into_iter()
            .flat_map(line)
            .collect();
        let to = String::from_utf8_lossy(request.first(HeaderName::To).unwrap()).into_owned();
        let text = format!("SIP/2.0 {status} X\r\n{vias}{others}To: {to};tag=phone\r\nContent-Length: 0\r\n\r\n");
        self.deliver(node, core::phone(PHONE).remote, text.into());
    }

    /// From the softswitch, within the INVITE's transaction.
    fn cancel(&mut self) {
        let text = String::from_utf8(invite(PHONE, 7).to_vec()).unwrap();
        let head = text.split_once("Contact:").unwrap().0.replace("INVITE", "CANCEL");
        self.deliver(HOLDER, switch().remote, format!("{head}Content-Length: 0\r\n\r\n").into());
    }

    /// Time goes on, and what is due happens.
    fn wait(&mut self, time: Duration) {
        let end = self.now.instant + time;
        loop {
            let due = (0..2).filter_map(|node| self.proxy(node).poll_timeout()).min().filter(|due| *due <= end);
            let next = due.unwrap_or(end).max(self.now.instant);
            self.now.unix = self.now.unix.after(next - self.now.instant);
            self.now.instant = next;
            if due.is_none() {
                return;
            }
            for node in 0..2 {
                self.with_view(node, |proxy, view, now| proxy.expire(view, now));
            }
        }
    }

    fn id(&self) -> (Aor, HeldCallId) {
        let call = self.held.last().expect("a held call");
        (call.aor.clone(), call.id)
    }

    /// Nothing is left in either node once all transactions are over.
    #[track_caller]
    fn end(mut self) {
        self.wait(Duration::from_secs(600));
        for node in [HOLDER, OTHER] {
            assert!(self.proxy(node).is_idle(), "node {node}");
        }
    }
}

#[test]
fn phone_that_wakes_elsewhere_is_invited_by_that_node() {
    let mut pair = Pair::new();
    pair.hold();
    pair.register(OTHER, 2);
    let invite = pair.invited_by(OTHER);
    let routes: Vec<_> = invite.values(HeaderName::RecordRoute).collect();
    assert_eq!(routes.len(), 1);
    assert!(
        String::from_utf8_lossy(routes[0]).contains("192.0.2.11"),
        "only the node with the phone stays in the dialog"
    );
    pair.answer(OTHER, &invite, 180);
    pair.answer(OTHER, &invite, 200);
    assert_eq!((pair.statuses(), &*pair.outcomes), (vec![180, 200], &[Outcome::Answered][..]));
    pair.end();
}

#[test]
fn invite_waits_for_the_2xx_of_the_register() {
    let mut pair = Pair::new();
    pair.hold();
    pair.is_registering = true;
    pair.register(OTHER, 2);
    pair.wait(Duration::from_millis(50));
    assert!(pair.at_phones.is_empty());
    pair.is_registering = false;
    pair.wait(Duration::from_millis(5));
    let invite = pair.invited_by(OTHER);
    pair.answer(OTHER, &invite, 200);
    assert_eq!(pair.statuses(), [200]);
    pair.end();
}

#[test]
fn cancel_reaches_an_invite_that_waits_for_the_2xx() {
    let mut pair = Pair::new();
    pair.hold();
    pair.is_registering = true;
    pair.register(OTHER, 2);
    pair.cancel();
    pair.is_registering = false;
    pair.wait(Duration::from_secs(1));
    assert!(pair.at_phones.is_empty(), "it never saw the call");
    let statuses = pair.statuses();
    assert!(statuses.contains(&487), "{statuses:?}");
    assert_eq!(&*pair.outcomes, [Outcome::Cancelled]);
    pair.end();
}

#[test]
fn flow_that_is_gone_elsewhere_is_not_the_devices_word() {
    let mut pair = Pair::new();
    pair.hold();
    pair.is_flow_gone = true;
    pair.deliver(OTHER, core::phone(PHONE).remote, register(PHONE, 2));
    assert_eq!(pair.statuses(), Vec::<u16>::new(), "the call is still held");
    assert_eq!((pair.proxy(HOLDER).held_calls(), &*pair.settled), (1, &[][..]));
    pair.is_flow_gone = false;
    pair.register(HOLDER, 3);
    let invite = pair.invited_by(HOLDER);
    pair.answer(HOLDER, &invite, 200);
    assert_eq!((pair.statuses(), &*pair.outcomes), (vec![200], &[Outcome::Answered][..]));
    pair.end();
}

#[test]
fn phone_that_moves_between_nodes_gets_the_invite_where_it_is() {
    let mut pair = Pair::new();
    pair.hold();
    pair.register(OTHER, 2);
    pair.invited_by(OTHER);
    pair.register(HOLDER, 3);
    let invite = pair.invited_by(HOLDER);
    pair.answer(HOLDER, &invite, 200);
    assert_eq!(pair.statuses(), [200]);
    assert_eq!(pair.pushes, 1);
    pair.end();
}

#[test]
fn caller_that_gives_up_is_heard_at_the_other_node() {
    let mut pair = Pair::new();
    pair.hold();
    pair.register(OTHER, 2);
    let invite = pair.invited_by(OTHER);
    pair.answer(OTHER, &invite, 180);
    pair.cancel();
    let (by, _, cancel) = pair.at_phones.pop_front().expect("a CANCEL");
    assert_eq!((by, cancel.method_text()), (OTHER, &b"CANCEL"[..]));
    pair.answer(OTHER, &cancel, 200);
    pair.answer(OTHER, &invite, 487);
    let statuses = pair.statuses();
    assert_eq!(statuses, [180, 200, 487]);
    pair.end();
}

#[test]
fn phone_that_rings_and_moves_to_another_node_is_cancelled_there() {
    for [first, then] in [[HOLDER, OTHER], [OTHER, HOLDER]] {
        let mut pair = Pair::new();
        pair.hold();
        pair.register(first, 2);
        let invite = pair.invited_by(first);
        pair.answer(first, &invite, 180);
        pair.register(then, 3);
        let again = pair.invited_by(then);
        pair.answer(then, &again, 180);
        pair.cancel();
        let (by, _, cancel) = pair.at_phones.pop_front().expect("a CANCEL");
        assert_eq!((by, cancel.method_text()), (then, &b"CANCEL"[..]));
        assert_eq!(cancel.first(HeaderName::Via), again.first(HeaderName::Via));
        assert!(cancel.values(HeaderName::Route).next().is_none(), "{cancel:?}");
        pair.answer(then, &cancel, 200);
        pair.answer(then, &again, 487);
        assert_eq!(pair.statuses(), [180, 200, 487]);
        pair.at_phones.clear();
        pair.end();
    }
}

#[test]
fn phone_that_rings_and_moves_after_the_cancel_gets_it_where_it_is() {
    let mut pair = Pair::new();
    pair.hold();
    pair.register(HOLDER, 2);
    let invite = pair.invited_by(HOLDER);
    pair.answer(HOLDER, &invite, 180);
    pair.cancel();
    pair.at_phones.clear();
    pair.register(OTHER, 3);
    let (by, _, cancel) = pair.at_phones.pop_front().expect("a CANCEL");
    assert_eq!((by, cancel.method_text()), (OTHER, &b"CANCEL"[..]));
    pair.answer(HOLDER, &invite, 487);
    assert_eq!(pair.statuses(), [180, 200, 487]);
    pair.at_phones.clear();
    pair.end();
}

#[test]
fn phone_of_a_node_that_is_gone_is_pushed() {
    let mut pair = Pair::new();
    pair.register(OTHER, 2);
    pair.is_alone = true;
    pair.hold();
    pair.register(HOLDER, 3);
    let invite = pair.invited_by(HOLDER);
    pair.answer(HOLDER, &invite, 200);
    assert_eq!(pair.statuses(), [200]);
    pair.end();
}

#[test]
fn call_that_was_taken_over_goes_on_there_alone() {
    let mut pair = Pair::new();
    pair.hold();
    let (aor, id) = pair.id();
    let call = pair.held[0].clone();
    pair.input(OTHER, Input::Resume(Box::new(LeftCall { call, from: Some("holder".into()) })));
    pair.input(HOLDER, Input::TakenOver { aor, id, by: None });
    assert_eq!([HOLDER, OTHER].map(|node| pair.proxy(node).held_calls()), [0, 1]);
    assert_eq!((pair.statuses(), pair.pushes), (vec![100, 182], 2));
    pair.wait(Duration::from_secs(10));
    assert_eq!(&*pair.settled, [], "nobody says that it is over");
    pair.register(OTHER, 2);
    let invite = pair.invited_by(OTHER);
    pair.answer(OTHER, &invite, 200);
    assert_eq!(pair.statuses(), [200]);
    assert!(pair.at_phones.is_empty(), "one INVITE for one wake");
    pair.end();
}

/// The softswitch knows of no other node than the one that it called.
#[test]
fn caller_that_gives_up_is_heard_where_its_call_was_taken_over() {
    let mut pair = Pair::new();
    pair.hold();
    let (aor, id) = pair.id();
    let call = pair.held[0].clone();
    pair.input(OTHER, Input::Resume(Box::new(LeftCall { call, from: Some("holder".into()) })));
    let by = Some(Home { transport: Transport::Udp, address: ADDRESSES[OTHER].parse().unwrap() });
    pair.input(HOLDER, Input::TakenOver { aor, id, by });
    pair.statuses();
    pair.cancel();
    assert_eq!(pair.statuses(), [200, 487]);
    assert_eq!([HOLDER, OTHER].map(|node| pair.proxy(node).held_calls()), [0, 0]);
    assert_eq!(&*pair.outcomes, [Outcome::Cancelled]);
    pair.register(OTHER, 2);
    assert!(pair.at_phones.is_empty(), "nobody calls any more");
    pair.end();
}

#[test]
fn device_that_rings_when_its_call_is_taken_over_can_answer_where_it_rings() {
    let mut pair = Pair::new();
    pair.hold();
    pair.register(HOLDER, 2);
    let invite = pair.invited_by(HOLDER);
    pair.answer(HOLDER, &invite, 180);
    let (aor, id) = pair.id();
    pair.input(HOLDER, Input::TakenOver { aor, id, by: None });
    assert_eq!(pair.proxy(HOLDER).held_calls(), 0);
    pair.answer(HOLDER, &invite, 200);
    assert_eq!(pair.statuses(), [180, 200]);
    let device = pair.held[0].devices[0];
    assert!(pair.settled.contains(&(device, Settlement::Seen)), "{:?}", pair.settled);
    pair.end();
}

#[test]
fn what_is_not_held_is_taken_over_without_harm() {
    let mut pair = Pair::new();
    pair.hold();
    let (aor, id) = pair.id();
    pair.input(OTHER, Input::TakenOver { aor: aor.clone(), id, by: None });
    pair.input(HOLDER, Input::TakenOver { aor, id: HeldCallId(id.0 ^ 1 << 64), by: None });
    assert_eq!(pair.proxy(HOLDER).held_calls(), 1);
    pair.wait(Duration::from_secs(30));
    assert_eq!(pair.statuses(), [480]);
    pair.end();
}

/// The Route that a node writes for another is no way to the phone for anybody else.
#[test]
fn route_for_a_node_serves_no_other_call() {
    let mut pair = Pair::new();
    pair.hold();
    pair.register(OTHER, 2);
    let invite = pair.invited_by(OTHER);
    pair.answer(OTHER, &invite, 200);
    pair.statuses();
    let hop = {
        let keys = Keys::new(&[7; 32]);
        let flow = core::phone(PHONE);
        let device = pair.held[0].devices[0];
        let other = OtherSide { flow: switch(), port: 5060 };
        keys.write_hop(&DialogToken { device, flow, other }, b"00000007@192.0.2.20")
    };
    let text = String::from_utf8(core::invite(PHONE, 8).to_vec()).unwrap();
    let text = text.replacen("Max-Forwards", &format!("Route: <sip:{hop}@192.0.2.11:5060;lr>\r\nMax-Forwards"), 1);
    let stranger: SocketAddr = "203.0.113.9:5060".parse().unwrap();
    pair.deliver(OTHER, stranger, text.into());
    let answers: Vec<_> = pair.at_phones.drain(..).map(|(_, flow, answer)| (flow.remote, answer.status())).collect();
    assert_eq!(answers, [(stranger, Some(100)), (stranger, Some(403))]);
}
