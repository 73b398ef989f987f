//! One request that the proxy is responsible for until its server transaction ends.

use super::dialog_wait::DialogWait;
use super::forks::Fork;
use super::held_call::HeldCall;
use super::register::Registration;
use super::response_context::ResponseContext;
use super::secret::DialogToken;
use crate::binding::DeviceId;
use crate::sip::{Flow, Message, Method};
use crate::transaction::ServerId;

/// See the module's text. Lives in the proxy's table under its server transaction.
#[derive(Debug)]
pub(super) struct Context {
    pub server: ServerId,
    /// As it came, byte for byte.
    pub request: Message,
    /// What is forwarded instead of it, where that differs in more than the proxy's own headers (REGISTER).
    pub onward: Option<Box<Message>>,
    pub flow: Flow,
    pub loop_hash: u64,
    /// Whether its client is not to learn which program the softswitch is.
    pub hides_server: bool,
    /// Whether the store was asked for what memory did not have.
    pub is_fetched: bool,
    /// Tag of our own responses (RFC 3261 §8.2.6.2): the 182 and the final after it have the same.
    pub to_tag: Box<str>,
    pub responses: ResponseContext,
    /// The device that had registered by `flow` when it sent this to the softswitch.
    pub sender: Option<DeviceId>,
    pub purpose: Purpose,
}

/// What a request is about, beyond being forwarded.
#[derive(Debug)]
pub(super) enum Purpose {
    Plain,
    /// Another node sends it by this one, to this flow.
    ForNode(DialogToken),
    Registration(Box<Registration>),
    /// It waits for what comes of another request.
    Fork(Box<Fork>),
    Call(Box<HeldCall>),
    /// It waits, or has waited, for the device that its dialog is with.
    InDialog(Box<DialogWait>),
}

impl Context {
    /// A request that nothing is known of yet; `to_tag` is for our own responses.
    pub(super) fn new(server: ServerId, request: Message, flow: Flow, loop_hash: u64, to_tag: Box<str>) -> Self {
        Self {
            server,
            request,
            onward: None,
            flow,
            loop_hash,
            hides_server: false,
            is_fetched: false,
            to_tag,
            responses: ResponseContext::default(),
            sender: None,
            purpose: Purpose::Plain,
        }
    }

    pub(super) fn is_invite(&self) -> bool {
        self.request.method() == Method::INVITE
    }

    /// Whether it can go before its server transaction does: what is repeated is answered from there. An INVITE stays,
    /// for its 2xx comes again until the ACK is heard, and the provider's word on its push may come late.
    pub(super) fn is_done(&self) -> bool {
        !self.is_invite() && self.responses.is_final && self.responses.all_ended()
    }

    /// The message that branches are made from.
    pub(super) fn outgoing(&self) -> &Message {
        self.onward.as_deref().unwrap_or(&self.request)
    }

    pub(super) fn call(&self) -> Option<&HeldCall> {
        match &self.purpose {
            Purpose::Call(call) => Some(call),
            Purpose::Plain
            | Purpose::ForNode(_)
            | Purpose::Registration(_)
            | Purpose::Fork(_)
            | Purpose::InDialog(_) => None,
        }
    }

    pub(super) fn call_mut(&mut self) -> Option<&mut HeldCall> {
        match &mut self.purpose {
            Purpose::Call(call) => Some(call),
            Purpose::Plain
            | Purpose::ForNode(_)
            | Purpose::Registration(_)
            | Purpose::Fork(_)
            | Purpose::InDialog(_) => None,
        }
    }

    pub(super) fn dialog_wait(&self) -> Option<&DialogWait> {
        match &self.purpose {
            Purpose::InDialog(wait) => Some(wait),
            Purpose::Plain | Purpose::ForNode(_) | Purpose::Registration(_) | Purpose::Fork(_) | Purpose::Call(_) => {
                None
            }
        }
    }
}
