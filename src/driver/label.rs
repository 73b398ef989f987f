//! What the proxy, the store and the providers say, under the labels of the metrics.

use crate::metrics::{DropReason, Kind, PushKind, PushResult, StoreOp};
use crate::push::{NoticeKind, Outcome};
use crate::store::Change;
use crate::transport;

/// What bytes of our own making are, for the counters.
pub(super) fn kind_of(bytes: &[u8]) -> Kind {
    let mut words = bytes.split(|byte| *byte == b' ');
    match (words.next(), words.next()) {
        (Some(b"SIP/2.0"), Some(status)) => {
            Kind::of_status(crate::sip::scan::number(status).and_then(|status| u16::try_from(status).ok()).unwrap_or(0))
        }
        (method, _) => Kind::of_method(method.unwrap_or_default()),
    }
}

pub(super) fn store_op(change: &Change) -> StoreOp {
    match change {
        Change::Register { .. } => StoreOp::Register,
        Change::TokenDead { .. } => StoreOp::TokenDead,
        Change::Remove { .. } => StoreOp::Remove,
        Change::Hold { .. } => StoreOp::Hold,
        Change::Settle { .. } => StoreOp::Settle,
        Change::Claim { .. } => StoreOp::Claim,
        Change::Reported { .. } => StoreOp::Reported,
        Change::Release { .. } => StoreOp::Release,
        Change::Refreshed { .. } => StoreOp::Refreshed,
        Change::BindToken { .. } => StoreOp::BindToken,
        Change::Message { .. } => StoreOp::Message,
        Change::PickUp { .. } | Change::GiveBack { .. } => StoreOp::PickUp,
    }
}

/// The push's kind under the name of the metrics.
pub fn push_kind(notice: NoticeKind) -> PushKind {
    match notice {
        NoticeKind::Invite => PushKind::Invite,
        NoticeKind::Message => PushKind::Message,
        NoticeKind::MissedCalls => PushKind::MissedCalls,
        NoticeKind::CallEnded => PushKind::CallEnded,
        NoticeKind::Register => PushKind::Register,
        NoticeKind::Test => PushKind::Test,
        NoticeKind::Text => PushKind::Text,
    }
}

/// What came of it, in the same way.
pub fn push_result(outcome: &Outcome) -> PushResult {
    match outcome {
        Outcome::Accepted => PushResult::Accepted,
        Outcome::TokenDead { .. } | Outcome::Doubted { .. } => PushResult::TokenDead,
        Outcome::TryAgain { .. } => PushResult::TryAgain,
        Outcome::Refused { .. } | Outcome::Locked { .. } | Outcome::Misfit { .. } => PushResult::Refused,
        Outcome::Limited => PushResult::Limited,
        Outcome::Skipped { .. } => PushResult::Skipped,
        Outcome::Withdrawn => PushResult::Withdrawn,
    }
}

/// The transport's drops under the names of the metrics.
pub fn transport_drop(reason: transport::DropReason) -> Option<DropReason> {
    DropReason::ALL.iter().copied().find(|known| known.name() == reason.name())
}
