//! Response context (RFC 3261 §16.7): the branches of one request and what they answered.
//!
//! A pure value: it is told what happened and says what follows; the proxy does it.

use smallvec::SmallVec;

use super::secret::{DialogToken, FlowToken, OtherSide};
use crate::binding::{DeviceId, Home};
use crate::sip::{Destination, Flow, Message};
use crate::transaction::ClientId;

/// Where one branch goes, kept for the next address or transport if the first fails (RFC 3263 §4.3).
#[derive(Debug, Clone)]
pub(super) struct Hop {
    /// The target, where it is not the Request-URI as received.
    pub uri: Option<Box<[u8]>>,
    /// Route values of the target's Path.
    pub routes: Box<[u8]>,
    /// What our Record-Route says; `None` where we need not see the rest of the dialog.
    pub record_route: Option<RecordRoute>,
    /// Addresses to try, the next one last.
    pub destinations: Vec<Destination>,
    /// The device it leads to, when it does.
    pub device: Option<DeviceId>,
    /// That device's flow, and the other node that has it.
    pub flow: Option<(Flow, Option<Home>)>,
}

/// Whose dialog our Record-Route keeps us in.
#[derive(Debug, Clone, Copy)]
pub(super) enum RecordRoute {
    /// The branch leads to a phone.
    ToPhone(DialogToken),
    /// The request is a phone's. The dialog's other side is where the branch leads.
    FromPhone(FlowToken),
}

impl RecordRoute {
    /// What it says in a branch that goes to `destination`.
    pub(super) fn token(self, destination: Destination) -> DialogToken {
        match self {
            Self::ToPhone(token) => token,
            Self::FromPhone(FlowToken { device, flow }) => {
                DialogToken { device, flow, other: OtherSide::at(destination) }
            }
        }
    }
}

/// One target's share of a request.
#[derive(Debug)]
pub(super) struct Branch {
    pub hop: Hop,
    /// `None` until its address is known, and after the last attempt.
    pub client: Option<ClientId>,
    pub state: BranchState,
    /// Whether any response came, a 100 included.
    pub is_heard: bool,
    /// What counts as its response where none came: 408 after silence, 503 when nothing could be sent.
    pub failure: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BranchState {
    /// No response yet.
    Calling,
    /// A provisional response above 100 came.
    Ringing,
    /// Its final response came, or there will be none.
    Ended,
}

/// What a response leads to.
#[derive(Debug)]
pub(super) enum Reaction {
    /// Nothing to be sent now.
    Wait,
    /// To be forwarded at once (RFC 3261 §16.7 step 5).
    Forward,
    /// A 2xx: forward it and CANCEL all other branches (step 10).
    Answer,
    /// A 6xx: CANCEL all other branches; the best response goes when they have ended.
    CancelOthers,
}

/// The branches of one request, in the order they were started.
#[derive(Debug, Default)]
pub(super) struct ResponseContext {
    pub branches: SmallVec<[Branch; 1]>,
    /// Finals that were not forwarded at once. Few calls have any, and a message is large.
    finals: Vec<Message>,
    /// Whether a final response went back.
    pub is_final: bool,
    /// The status of our own or the best final response, where no 2xx was forwarded; 0 before that.
    pub sent: u16,
    /// Whether the client has heard a device, so that it hears nothing less of us any more.
    pub has_rung: bool,
    /// Whether a branch could not be sent for want of room for its transaction.
    pub is_overloaded: bool,
    /// Whether the client CANCELled, so that no branch may be started.
    pub is_cancelled: bool,
}

impl ResponseContext {
    /// Adds a branch; the index names it from now on.
    pub(super) fn start(&mut self, hop: Hop) -> usize {
        self.branches.push(Branch { hop, client: None, state: BranchState::Calling, is_heard: false, failure: None });
        self.branches.len() - 1
    }

    /// The pending branch to a device.
    pub(super) fn branch_to(&self, device: DeviceId) -> Option<usize> {
        self.branches.iter().position(|branch| branch.hop.device == Some(device) && branch.state != BranchState::Ended)
    }

    /// Whether no branch can bring a response any more.
    pub(super) fn all_ended(&self) -> bool {
        self.branches.iter().all(|branch| branch.state == BranchState::Ended)
    }

    /// Whether any branch has brought any response.
    pub(super) fn is_heard(&self) -> bool {
        self.branches.iter().any(|branch| branch.is_heard)
    }

    /// Whether a branch has brought a provisional response, and no final one.
    pub(super) fn is_ringing(&self) -> bool {
        self.branches.iter().any(|branch| branch.state == BranchState::Ringing)
    }

    pub(super) fn has_declined(&self) -> bool {
        self.finals.iter().any(|response| response.status() >= Some(600))
    }

    /// A response of branch `index`. The response is kept here unless it is to be forwarded at once.
    pub(super) fn receive(&mut self, index: usize, response: &Message, is_invite: bool) -> Reaction {
        let Some(branch) = self.branches.get_mut(index) else { return Reaction::Wait };
        let status = response.status().unwrap_or_default();
        branch.is_heard = true;
        match (status, branch.state) {
            (0..=100, _) => Reaction::Wait,
            (101..=199, BranchState::Calling | BranchState::Ringing) => {
                branch.state = BranchState::Ringing;
                self.has_rung |= !self.is_final;
                if self.is_final { Reaction::Wait } else { Reaction::Forward }
            }
            (101..=199, BranchState::Ended) => Reaction::Wait,
            // Every 2xx to an INVITE goes back, also one after the final and a repeated one.
            (200..=299, _) if is_invite || !self.is_final => {
                branch.state = BranchState::Ended;
                self.is_final = true;
                Reaction::Answer
            }
            (_, BranchState::Ended) => Reaction::Wait,
            (_, BranchState::Calling | BranchState::Ringing) => {
                branch.state = BranchState::Ended;
                self.finals.push(response.clone());
                if status >= 600 { Reaction::CancelOthers } else { Reaction::Wait }
            }
        }
    }

    /// The branch will bring no response; `failure` counts for it.
    pub(super) fn end(&mut self, index: usize, failure: u16) {
        if let Some(branch) = self.branches.get_mut(index) {
            branch.state = BranchState::Ended;
            branch.failure = Some(failure);
            branch.client = None;
        }
    }

    /// The same for a branch of which it is not known yet.
    pub(super) fn end_if_pending(&mut self, index: usize, failure: u16) {
        if self.branches.get(index).is_some_and(|branch| branch.state != BranchState::Ended) {
            self.end(index, failure);
        }
    }

    /// The best of the finals (RFC 3261 §16.7 step 6), and all others that carry a challenge.
    pub(super) fn best(&self) -> Option<&Message> {
        self.finals.iter().min_by_key(|response| rank(response.status().unwrap_or_default()))
    }

    /// The 401 and 407 responses other than `best`, whose challenges go along with it (step 8).
    pub(super) fn other_challenges<'a>(&'a self, best: &'a Message) -> impl Iterator<Item = &'a Message> {
        self.finals
            .iter()
            .filter(move |response| matches!(response.status(), Some(401 | 407)) && !std::ptr::eq(*response, best))
    }
}

/// Lower is better: any 6xx, else the lowest class; within 4xx first those that tell the client what to do.
fn rank(status: u16) -> (u8, u8, u16) {
    match status {
        600.. => (0, 0, status),
        401 | 407 => (4, 0, status),
        415 | 420 | 484 => (4, 1, status),
        // Nobody was there; whatever else another device said tells more.
        408 => (4, 3, status),
        400..=499 => (4, 2, status),
        503 => (5, 1, status),
        _ => (u8::try_from(status / 100).unwrap_or(9), 0, status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16) -> Message {
        Message::parse(format!("SIP/2.0 {status} x\r\nCSeq: 1 INVITE\r\n\r\n").into(), 128).unwrap()
    }

    fn context(branches: usize) -> ResponseContext {
        let mut context = ResponseContext::default();
        for _ in 0..branches {
            let hop = Hop {
                uri: None,
                routes: [].into(),
                record_route: None,
                destinations: vec![],
                device: None,
                flow: None,
            };
            context.start(hop);
        }
        context
    }

    fn best_of(statuses: &[u16]) -> Option<u16> {
        let mut context = context(statuses.len());
        for (index, status) in statuses.iter().enumerate() {
            context.receive(index, &response(*status), true);
        }
        assert!(context.all_ended());
        context.best().and_then(Message::status)
    }

    #[test]
    fn best_response_is_chosen_by_class_and_use() {
        assert_eq!(best_of(&[486, 603, 302]), Some(603));
        assert_eq!(best_of(&[486, 302, 500]), Some(302));
        assert_eq!(best_of(&[404, 486, 407]), Some(407));
        assert_eq!(best_of(&[408, 486]), Some(486));
        assert_eq!(best_of(&[503, 500]), Some(500));
        assert_eq!(best_of(&[]), None);
    }

    #[test]
    fn provisional_and_2xx_go_at_once_and_nothing_provisional_after_a_final() {
        let mut context = context(2);
        assert!(matches!(context.receive(0, &response(100), true), Reaction::Wait));
        assert!(matches!(context.receive(0, &response(180), true), Reaction::Forward));
        assert!(matches!(context.receive(1, &response(200), true), Reaction::Answer));
        assert!(matches!(context.receive(1, &response(200), true), Reaction::Answer), "a repeated 2xx goes, too");
        assert!(matches!(context.receive(0, &response(183), true), Reaction::Wait));
        assert!(matches!(context.receive(0, &response(487), true), Reaction::Wait));
        assert!(context.all_ended() && context.is_final);
    }

    #[test]
    fn a_second_2xx_to_a_non_invite_does_not_go() {
        let mut context = context(2);
        assert!(matches!(context.receive(0, &response(200), false), Reaction::Answer));
        assert!(matches!(context.receive(1, &response(200), false), Reaction::Wait));
    }

    #[test]
    fn a_decline_cancels_the_others() {
        let mut context = context(2);
        assert!(matches!(context.receive(0, &response(600), true), Reaction::CancelOthers));
        assert!(!context.all_ended());
        assert!(context.has_declined());
    }
}
