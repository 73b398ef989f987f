//! A request that somebody sent, and what came back.

use std::cell::{Ref, RefCell};
use std::rc::Rc;

use sip_push_proxy::sip::{HeaderName, Message};
use sip_push_proxy::timeline::Step;

use crate::agent::Sent;
use crate::text;
use crate::world::World;

/// A user agent's request, and what came back.
pub(crate) struct Request {
    pub(crate) world: Rc<RefCell<World>>,
    pub(crate) agent: usize,
    pub(crate) number: usize,
}

impl Request {
    pub(crate) fn sent(&self) -> Ref<'_, Sent> {
        Ref::map(self.world.borrow(), |world| &world.agents[self.agent].sent[self.number])
    }

    /// Statuses in order, without repetitions in a row.
    pub(crate) fn statuses(&self) -> Vec<u16> {
        let mut statuses: Vec<u16> = self.sent().responses.iter().filter_map(Message::status).collect();
        statuses.dedup();
        statuses
    }

    pub(crate) fn status(&self) -> Option<u16> {
        self.sent().finals().first().copied()
    }

    pub(crate) fn expects(&self, statuses: &[u16]) {
        assert_eq!(self.statuses(), statuses);
    }

    /// The last response.
    pub(crate) fn response(&self) -> Message {
        self.sent().responses.last().expect("a response").clone()
    }

    pub(crate) fn responses(&self) -> Vec<Message> {
        self.sent().responses.clone()
    }

    pub(crate) fn message(&self) -> Message {
        self.sent().message.clone()
    }

    pub(crate) fn call_ref(&self) -> String {
        self.sent().draft.call_id.clone()
    }

    pub(crate) fn header(&self, name: HeaderName) -> String {
        text::first(&self.response(), name)
    }

    /// `lines` are whole header lines with their ends.
    pub(crate) fn cancels(&self, lines: &str) {
        let mut world = self.world.borrow_mut();
        let now = world.now.instant;
        world.stir(self.agent);
        let agent = &mut world.agents[self.agent];
        let client = agent.sent[self.number].client;
        agent.transactions.cancel(client, lines.as_bytes(), now);
    }

    /// Within the dialog that this INVITE made.
    pub(crate) fn sends(&self, method: &str) -> Self {
        let mut world = self.world.borrow_mut();
        let draft = world.agents[self.agent].within_sent(self.number, method);
        let number = world.request(self.agent, draft);
        Self { world: Rc::clone(&self.world), agent: self.agent, number }
    }

    pub(crate) fn story(&self) -> Vec<Step> {
        self.world.borrow().ledger.story(&self.call_ref())
    }
}
