//! What goes into the proxy and what comes out: two closed lists.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use super::bars::Finding;
use crate::binding::{Aor, Binding, DeviceId, Home, Provider, PushTarget};
pub use crate::metrics::{Outcome, RefreshResult};
use crate::push::{self, NoticeKind, Push};
use crate::sip::{Destination, Flow, Message, Transport, Uri};
use crate::store::{self, Change};
use crate::timeline::{Step, Why};
use crate::transaction::SendTag;

/// Something happened.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "lives within one turn; a box would cost each message an allocation")]
pub enum Input {
    /// A message from the network that is recognisably SIP. A response is one to a branch of this worker.
    Received { flow: Flow, message: Message },
    /// The transport could not send what [`Effect::Send`] asked for.
    SendFailed { tag: SendTag },
    /// The same, because no connection could be opened.
    ConnectFailed { tag: SendTag },
    /// A connection has ended, after its last message.
    Closed { flow: Flow },
    /// The answer to an [`Effect::Await`]: a request that is no REGISTER, or a keep-alive, came by the connection.
    Heard { flow: Flow },
    /// The answer to an [`Effect::Save`].
    Saved(store::Reply),
    /// The answer to an [`Effect::Push`].
    Pushed(push::Reply),
    /// The answer to an [`Effect::Resolve`]; empty when the name leads nowhere.
    Resolved { ticket: ResolveTicket, addresses: Vec<(Transport, SocketAddr)> },
    /// The answer to an [`Effect::Fetch`]. `is_known`: what is known now is all there is; else the store is away.
    Fetched { ticket: FetchTicket, is_known: bool },
    /// A REGISTER was accepted by another worker or node.
    Woken(Arc<Binding>),
    /// A call whose holder is no more: an earlier run of the program, before anything comes from the network, or another
    /// node.
    Resume(Box<store::LeftCall>),
    /// Another node, which took this one for gone, has the call now.
    TakenOver { aor: Aor, id: store::HeldCallId, by: Option<Home> },
    /// A device is due to be refreshed upstream. To be given while [`super::Proxy::refresh_room`] lasts.
    Refresh(Arc<Binding>),
    /// A device is to be reminded to register. To be given while [`super::Proxy::reminder_room`] lasts.
    Remind(Arc<Binding>),
}

/// Something is to be done. Effects of one input are to be performed in order.
#[derive(Debug)]
pub enum Effect {
    /// Failure is told by [`Input::SendFailed`] or [`Input::ConnectFailed`] where there is a tag.
    Send { destination: Destination, bytes: Bytes, tag: Option<SendTag> },
    /// Make durable, then answer with [`Input::Saved`].
    Save { ticket: store::Ticket, change: Change },
    /// Try to send, then answer with [`Input::Pushed`].
    Push(Push),
    /// Answer with [`Input::Heard`] once, when something is sent by this connection.
    Await { flow: Flow },
    /// Find addresses by RFC 3263 §4, then answer with [`Input::Resolved`].
    Resolve { ticket: ResolveTicket, host: Box<str>, port: Option<u16>, transport: Option<Transport> },
    /// Read what memory may not have yet, then answer with [`Input::Fetched`].
    Fetch { ticket: FetchTicket, sought: Sought },
    /// A REGISTER was accepted here: tell the other workers.
    Woken(Arc<Binding>),
    /// What happened to a call, for the people who will ask.
    Step(CallStep),
    /// This proxy takes charge of a call for a user, whose messages have this Call-ID. Its steps follow.
    CallBegan { call_ref: Box<str>, call_id: Box<str>, aor: Aor },
    /// A call that this proxy took charge of is over.
    CallEnded { call_ref: Box<str>, outcome: Outcome },
    /// What a push has shown of its device, for all workers ([`Contacts::fits`]).
    Found(Finding),
    /// A pushed device registered: how long after the provider took the push.
    WakeSeen { provider: Provider, after: Duration },
    /// What came of refreshing a device upstream.
    Refreshed { device: DeviceId, result: RefreshResult, reason: Cow<'static, str> },
    /// Credentials from this source are wrong. It has got the challenge that they answer, so it is no other.
    AuthFailed { source: IpAddr, reason: &'static str },
    /// So many of those were a user's who has proved himself now.
    AuthProven { source: IpAddr, failures: u32 },
    /// Something that the operator may have to mend.
    Warning(Warning),
    /// A message was not processed; for the counters.
    Dropped(DropReason),
    /// Our own fault. It ended one call and is to be logged.
    Fault(&'static str),
}

/// What is wrong around the proxy, and keeps phones from being called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// A REGISTER came from an address of `softswitch.trusted`, and was refused.
    RegisterFromTrusted { source: SocketAddr },
    /// The softswitch's 2xx to a REGISTER does not list the phone's Contact, so that nothing is bound.
    ContactNotListed { aor: Aor },
    /// A call from an address that is not in `softswitch.trusted` names a device as only the softswitch can; `is_loop`: it comes
    /// back from there as it was sent to the softswitch.
    StrangeSwitch { source: SocketAddr, is_loop: bool },
    /// The softswitch calls a user by our address, and there are several of that name in different domains.
    AmbiguousUser { user: Box<str> },
    /// The softswitch takes no REGISTER for less than `least` seconds, and was asked for `asked`
    /// (`register.expires_upstream_s`).
    BriefUpstream { asked: u32, least: u32 },
    /// A phone has registered with push parameters that are wrong, in whole or, where it can be pushed all the same, in part.
    PushParameters { aor: Aor, device: DeviceId, reason: Box<str>, is_pushed: bool },
}

/// One line of a call's story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallStep {
    pub call_ref: Box<str>,
    pub step: Step,
    pub device: Option<DeviceId>,
    pub detail: Cow<'static, str>,
    /// `None` where the step says all.
    pub why: Option<Why>,
    /// What the push service calls the push that this is about.
    pub push_id: Option<Box<str>>,
}

/// Why a message went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// A response that is malformed, or that no transaction waits for.
    Response,
    /// An ACK that leads nowhere.
    Ack,
    /// A malformed request that cannot be answered.
    Request,
    /// A call that is the softswitch's by all but its address; it goes the way of a phone's.
    StrangeSwitch,
    /// There are too many transactions; it was answered 503.
    Overload,
    /// A request of a source that has too many others under way; it is answered.
    SourceBytes,
}

/// Names a resolution to the one who asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResolveTicket(pub u64);

/// Names a fetch to the one who asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FetchTicket(pub u64);

/// Whose bindings are to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sought {
    Aor(Aor),
    Device(DeviceId),
}

/// The contact table as the proxy reads it: always from memory, never waiting.
pub trait Contacts {
    fn of_aor(&self, aor: &Aor) -> Vec<Arc<Binding>>;
    fn of_device(&self, device: DeviceId) -> Option<Arc<Binding>>;
    /// Whether the flow that a binding names is still its device's, as far as others have registered by it since.
    fn holds_flow(&self, _binding: &Binding) -> bool {
        true
    }
    /// Whether the device has had this Contact until a moment ago, and has another one since.
    fn has_left(&self, _device: DeviceId, _contact: &Uri<'_>) -> bool {
        false
    }
    /// The reachable device that registered from this very address and transport.
    fn on_flow(&self, transport: Transport, remote: SocketAddr) -> Option<DeviceId>;
    /// Whether the node that has a binding's flow, if it is not this one, is there.
    fn has_home(&self, _binding: &Binding) -> bool {
        true
    }
    /// AORs that have this user part, unescaped. Asked only where no domains are known (`register.domains`).
    fn aors_of_user(&self, _user: &str) -> SmallVec<[Aor; 1]> {
        SmallVec::new()
    }
    /// Whether a flow of this node is there: its connection is open, or it needs none.
    fn is_open(&self, _flow: Flow) -> bool {
        true
    }
    /// The same of the flow that a binding of this node has come by.
    fn has_connection(&self, binding: &Binding) -> bool {
        self.is_open(binding.flow)
    }
    /// Whether another node of the same store sends from there.
    fn is_node(&self, _peer: IpAddr) -> bool {
        false
    }
    /// Whether a REGISTER of the device is about to be answered with 2xx by this node.
    fn is_registering(&self, _device: DeviceId) -> bool {
        false
    }
    /// Whether so many other AORs have registered a push token of this binding later than its own AOR has.
    fn has_too_many_aors(&self, _binding: &Binding, _most: usize) -> bool {
        false
    }
    /// Whether a device may be pushed as far as its provider has said of its token; else what it said.
    fn fits(&self, _binding: &Binding) -> Result<(), Why> {
        Ok(())
    }
    /// Whether the device has missed calls that no push has reported.
    fn has_missed(&self, device: DeviceId) -> bool;
    /// Whether what is not here is nowhere. A large store is read while calls go on already.
    fn is_loaded(&self) -> bool {
        true
    }
    /// From here on this worker must be told ([`Input::Woken`]) of each REGISTER of the AOR that is accepted
    /// elsewhere. Comes before the look-up that a held call relies on, so that no wake falls between the two.
    fn watch(&self, aor: &Aor);
    /// The opposite, once for each [`Contacts::watch`].
    fn unwatch(&self, aor: &Aor);
}

/// Which push targets can be told of what, and if not, why not.
pub trait PushSupport {
    /// By one of its services at least.
    fn supports(&self, target: &PushTarget, kind: NoticeKind) -> Result<(), Box<str>>;
    /// Whether the app behind a target takes what follows a push for the same call, not for another one.
    fn knows_calls_again(&self, _target: &PushTarget) -> bool {
        false
    }
    /// Providers to announce (RFC 8599 §5.6.1.2).
    fn providers(&self) -> Vec<Provider>;
    /// For which key browsers must subscribe (RFC 8599 §8.3).
    fn vapid_key(&self) -> Option<Box<str>> {
        None
    }
}
