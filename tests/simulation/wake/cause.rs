//! Why a call that could have been delivered was not.

use std::fmt;
use std::time::{Duration, Instant};

use sip_push_proxy::timeline::{Reason, Step};

use super::day::Day;
use super::fate::PushFate;

/// What was in the way of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// An earlier call found its token dead, so that the binding of the phone ended, awake as it was.
    Unbound,
    /// The process was killed while the call was under way.
    Crash,
    /// The proxy said no while the caller was still waiting and `hold.wait_s` was not over.
    EndedEarly(&'static str),
    /// It got the INVITE at once, did not hear it, and was not pushed.
    SilentUnpushed,
    /// No push was taken until the end.
    NeverTaken(&'static str),
    /// The push was taken more than a second later than it could have been.
    TakenLate(&'static str),
    AllLost,
    AllLate,
    /// The phone registered in time, and the INVITE did not reach it.
    BackWithoutInvite,
    /// `hold.wait_s` was over.
    WaitOver,
    Unclear,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unbound => f.write_str("its binding had ended with its token, though it was awake"),
            Self::Crash => f.write_str("the process was killed meanwhile"),
            Self::BackWithoutInvite => f.write_str("the phone was back, and the INVITE did not reach it"),
            Self::EndedEarly(reason) => write!(f, "ended early ({reason})"),
            Self::SilentUnpushed => f.write_str("got the INVITE asleep, and was not pushed"),
            Self::NeverTaken(reason) => write!(f, "no push was taken ({reason})"),
            Self::TakenLate(reason) => write!(f, "the push was taken late ({reason})"),
            Self::AllLost => f.write_str("each push was lost after it was taken"),
            Self::AllLate => f.write_str("each push that was not lost was late"),
            Self::WaitOver => f.write_str("the phone came after hold.wait_s"),
            Self::Unclear => f.write_str("unclear"),
        }
    }
}

impl Day {
    pub(super) fn cause(&self, number: usize) -> Cause {
        let call = &self.calls[number];
        if self.is_unbound(number) {
            return Cause::Unbound;
        }
        let has = |step: Step| call.steps.iter().any(|(_, had, ..)| *had == step);
        let refused = call.steps.iter().rev().filter(|(_, step, ..)| *step == Step::PushRefused);
        let refusal = refused.filter_map(|(.., reason)| *reason).map(Reason::code).next().unwrap_or("not sent");
        let is_end = |step: Step| matches!(step, Step::Cancelled | Step::NoReturn | Step::Expired | Step::Failed);
        let end = call.steps.iter().rev().find(|(_, step, is_of_phone, _)| is_end(*step) && !is_of_phone);
        let ended_at = end.map_or(call.gives_up, |(at, ..)| *at).min(call.gives_up);
        if let Some(crash) = self.crashes.iter().find(|crash| crash.start <= ended_at && call.at <= crash.end) {
            // A call that came while the process was down is only late by it; what its pushes met counts as for any other.
            let counts = |at: Instant| at < crash.start || call.at >= crash.start;
            let before: Vec<_> = call.pushes.iter().filter(|(at, _)| counts(*at)).map(|(_, fate)| *fate).collect();
            return unheard(&before).unwrap_or(Cause::Crash);
        }
        let is_early = ended_at < self.wait_ends(call);
        if let Some((_, Step::Failed | Step::NoReturn, _, Some(reason))) = end.filter(|_| is_early) {
            let is_unpushed = *reason == Reason::NotAnswered && !has(Step::PushSent);
            let why = if *reason == Reason::NothingToWake { refusal } else { reason.code() };
            return if is_unpushed { Cause::SilentUnpushed } else { Cause::EndedEarly(why) };
        }
        let Some((first, _)) = call.pushes.first() else {
            return if has(Step::Registered) {
                Cause::BackWithoutInvite
            } else if has(Step::PushSent) {
                Cause::NeverTaken(refusal)
            } else {
                Cause::SilentUnpushed
            };
        };
        let fates: Vec<_> = call.pushes.iter().map(|(_, fate)| *fate).collect();
        let is_late = *first > self.takes_at(call) + Duration::from_secs(1);
        match unheard(&fates) {
            Some(cause) => cause,
            None if is_late && has(Step::PushRefused) => Cause::TakenLate(refusal),
            None if has(Step::Registered) => Cause::BackWithoutInvite,
            None if has(Step::NoReturn) => Cause::WaitOver,
            None if has(Step::Forwarded) => Cause::TakenLate("probed first"),
            None => Cause::Unclear,
        }
    }
}

/// Why none of these pushes was there at once; `None` if one was, or if there is none.
fn unheard(pushes: &[PushFate]) -> Option<Cause> {
    let is_prompt = |fate: &PushFate| matches!(fate, PushFate::Prompt(_));
    if pushes.is_empty() || pushes.iter().any(is_prompt) {
        return None;
    }
    Some(if pushes.iter().all(|fate| *fate == PushFate::Lost) { Cause::AllLost } else { Cause::AllLate })
}
