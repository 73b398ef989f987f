//! A held call: an INVITE (or MESSAGE) that waits for devices to wake (RFC 8599 §5.6.2).
//!
//! ```text
//!            ┌────────────── Woke ───────────────────────────────────────────┐
//!            │                                                               ▼
//!  asleep ► Recording ─Recorded► Pushing ─Accepted, Limited► Waiting ─Woke► Joined
//!              ▲  │                │ ▲ │                                      ▲
//!       Silent │  │ Unrecorded     │ │ └TryAgain, Paused► Retrying            │
//!        Lost  │  ▼                │ └──────RetryDue────┘                     │
//!              │  Unwakeable ◄─────┼ Dead, Refused                            │
//!              │                   └ OnlyByFlow ──┐                           │
//!              │                                  ▼                           │
//!  awake ► Noting ─Recorded, Unrecorded► Probing ──── Answered, Woke ─────────┘
//! ```
//!
//! (Silent and Lost are Probing's; after a push they lead to Unwakeable.) A device that no push is for and that is awake goes
//! from Noting to Joined. While one waits its push is repeated now and then: Waiting ─RepeatDue► Repeating ─► Waiting.
//!
//! A device that had the INVITE and whose flow is Lost is waited for again: Joined ► Waiting, or Recording if it was
//! never pushed.
//!
//! [`next`] is the whole machine of one device; every race between push, wake, store and timer is a line of its match.

use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::caller::Caller;
use super::event::Effect;
use crate::binding::{Aor, Binding, DeviceId, Home, PushTarget};
use crate::clock::Now;
use crate::push::{Purpose, TokenHash};
use crate::sip::ConnectionId;
use crate::store::HeldCallId;
use crate::transaction::ServerId;

/// Pause before the second attempt where the provider names none; doubled with each further one.
const RETRY_AFTER: Duration = Duration::from_millis(500);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(8);
/// Within this time all that have waited for a provider ask it again.
const PAUSED_APART_MAX: Duration = Duration::from_secs(1);

/// One call of one AOR (or of one device of it) that this worker takes care of.
#[derive(Debug)]
pub(super) struct HeldCall {
    pub id: HeldCallId,
    pub call_ref: Box<str>,
    pub aor: Aor,
    pub caller: Caller,
    /// Set when the request names one device by its alias.
    pub only: Option<DeviceId>,
    /// Other devices of the AOR that were known then.
    pub others: Box<[DeviceId]>,
    pub since: Now,
    pub until: Instant,
    /// Whether the INVITE's own Expires sets the end, not `hold.wait_s` (RFC 3261 §13.3.1).
    pub ends_by_expires: bool,
    /// Whether devices may still join.
    pub is_open: bool,
    /// Whether the store has it, so that its end must be stored, too.
    pub is_recorded: bool,
    /// Whether its caller has not had the 100 yet.
    pub owes_trying: bool,
    /// Whether another node has it, and where that is reached.
    pub is_let_go: bool,
    pub taken_by: Option<Home>,
    /// Whether the store refused it, so that no device could be pushed.
    pub store_failed: bool,
    pub devices: SmallVec<[HeldDevice; 1]>,
    /// Requests that are forks of this one and wait for what comes of it.
    pub forks: Vec<ServerId>,
    /// Devices with an entry of this call whose bindings memory does not have yet, after a start without Redis.
    pub unread: SmallVec<[DeviceId; 1]>,
}

/// One device of a held call.
#[derive(Debug)]
pub(super) struct HeldDevice {
    pub binding: Arc<Binding>,
    pub state: DeviceState,
    /// Pushes sent so far.
    pub attempts: u8,
    /// When the provider took the first push of this wait.
    pub accepted_at: Option<Instant>,
    /// Of its services the one that took it: by that the phone may be on its way.
    pub taken_by: Option<TokenHash>,
    /// How many of `push.repeat_s` are over.
    pub repeats: u8,
    /// Whether its last push was not sent, because its provider is not asked for a moment.
    pub is_paused: bool,
    /// Of its pushes: over when it has joined, and when the call is over.
    pub purpose: Purpose,
    /// Whether no push is for it: it is called, and not probed.
    pub is_only_called: bool,
    /// Of whose connection a sign of life is waited for.
    pub awaits: Option<ConnectionId>,
    /// Whether it has registered during the call.
    pub has_come: bool,
    /// Whether it has no binding any more. It may be about to register anew, but nothing is sent to it before.
    pub has_left: bool,
    /// Whether the store's record of the call names it, or is about to, so that a later run finds it.
    pub is_noted: bool,
    /// Whether its bucket has, or is about to have, an entry of this call that is not settled.
    pub has_entry: bool,
    /// Whether that entry is durable, so that a push may follow.
    pub is_durable: bool,
}

/// Where a device stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeviceState {
    /// It may be awake. The call, and its bucket entry, are on the way to be durable; then its live flow gets the INVITE.
    Noting,
    /// Its live flow has the INVITE; it has said nothing yet.
    Probing,
    /// Its bucket entry is on the way to be durable.
    Recording,
    /// A push is with the provider.
    Pushing,
    /// The provider has passing trouble; there will be another push.
    Retrying,
    /// The provider took the push.
    Waiting,
    /// The provider took a push, and has one more.
    Repeating,
    /// It has the INVITE, and is awake.
    Joined,
    /// No push can wake it. It may still come by itself.
    Unwakeable,
}

/// What can happen to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeviceInput {
    Recorded,
    Unrecorded,
    Accepted,
    /// Enough pushes went to this token already; one of them may wake it.
    Limited,
    Dead,
    Refused,
    /// No push reaches it, but it may be awake and has not had the INVITE.
    OnlyByFlow,
    /// After this pause.
    TryAgain(Duration),
    /// After this pause, even if the wait is over by then: the device may come by itself before.
    Paused(Duration),
    RetryDue,
    RepeatDue,
    /// It registered.
    Woke,
    /// `hold.probe_ms` are over, or its flow is gone.
    Silent,
    /// Its flow is gone, and the INVITE did not reach it.
    Lost,
    /// It answered the INVITE, whatever it said.
    Answered,
}

/// What is to be done next for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Nothing,
    /// Make its bucket entry durable.
    Record,
    Push,
    PushAfter(Duration),
    RepeatAfter(Duration),
    /// Give it the INVITE, and see within `hold.probe_ms` whether it says anything.
    Probe,
    /// Give it the INVITE on its present flow, unless that flow has it already.
    Join,
    /// See whether anybody is left to wait for.
    Conclude,
}

/// The machine of one device. `attempts` counts pushes sent, `left` is what remains of the wait.
pub(super) fn next(state: DeviceState, input: DeviceInput, attempts: u8, left: Duration) -> (DeviceState, Deed) {
    use DeviceInput as In;
    use DeviceState as Is;
    match (state, input) {
        // A wake ends every kind of waiting. A second one gives the INVITE again only to another flow.
        (Is::Noting | Is::Probing | Is::Recording | Is::Pushing | Is::Retrying, In::Woke)
        | (Is::Waiting | Is::Repeating | Is::Joined | Is::Unwakeable, In::Woke) => (Is::Joined, Deed::Join),
        // An answer to the probe does the same.
        (Is::Noting | Is::Probing | Is::Recording | Is::Pushing | Is::Retrying, In::Answered)
        | (Is::Waiting | Is::Repeating | Is::Unwakeable, In::Answered) => (Is::Joined, Deed::Nothing),

        // A device that may be awake is rung even if its missed call could not be told.
        (Is::Noting, In::Recorded | In::Unrecorded) => (Is::Probing, Deed::Probe),

        (Is::Probing, In::Silent | In::Lost) | (Is::Joined, In::Lost) if left.is_zero() => {
            (Is::Unwakeable, Deed::Conclude)
        }
        // It was pushed in vain, and called in vain.
        (Is::Probing, In::Silent | In::Lost) if attempts > 0 => (Is::Unwakeable, Deed::Conclude),
        (Is::Probing, In::Silent | In::Lost) => (Is::Recording, Deed::Record),
        (Is::Joined, In::Lost) if attempts == 0 => (Is::Recording, Deed::Record),
        (Is::Joined, In::Lost) => (Is::Waiting, Deed::Nothing),

        (Is::Recording, In::Recorded) => (Is::Pushing, Deed::Push),
        (Is::Recording, In::Unrecorded) => (Is::Unwakeable, Deed::Conclude),

        (Is::Pushing, In::Accepted | In::Limited) => (Is::Waiting, Deed::Nothing),
        (Is::Pushing, In::Dead | In::Refused) => (Is::Unwakeable, Deed::Conclude),
        (Is::Pushing, In::OnlyByFlow) => (Is::Probing, Deed::Probe),
        (Is::Pushing, In::TryAgain(pause)) if pause < left => (Is::Retrying, Deed::PushAfter(pause)),
        (Is::Pushing, In::TryAgain(_)) => (Is::Unwakeable, Deed::Conclude),
        (Is::Pushing, In::Paused(pause)) => (Is::Retrying, Deed::PushAfter(pause)),
        (Is::Retrying, In::RetryDue) => (Is::Pushing, Deed::Push),

        // What was taken may be lost or late. Whatever becomes of a repetition, the one before it may still wake it.
        (Is::Waiting, In::RepeatDue) => (Is::Repeating, Deed::Push),
        (Is::Repeating, In::TryAgain(pause) | In::Paused(pause)) if pause < left => {
            (Is::Waiting, Deed::RepeatAfter(pause))
        }
        (Is::Repeating, In::TryAgain(_) | In::Paused(_)) => (Is::Waiting, Deed::Nothing),
        (Is::Repeating, In::Accepted | In::Limited | In::Dead | In::Refused | In::OnlyByFlow) => {
            (Is::Waiting, Deed::Nothing)
        }

        // What comes too late, or for a state that is over, changes nothing.
        (
            Is::Noting | Is::Probing | Is::Recording | Is::Retrying | Is::Waiting | Is::Joined | Is::Unwakeable,
            In::Accepted | In::Limited | In::Dead | In::Refused | In::OnlyByFlow | In::TryAgain(_) | In::Paused(_),
        )
        | (Is::Probing | Is::Pushing | Is::Retrying | Is::Waiting, In::Recorded | In::Unrecorded)
        | (Is::Repeating | Is::Joined | Is::Unwakeable, In::Recorded | In::Unrecorded)
        | (Is::Noting | Is::Probing | Is::Recording | Is::Pushing, In::RetryDue | In::RepeatDue)
        | (Is::Repeating | Is::Joined | Is::Unwakeable, In::RetryDue | In::RepeatDue)
        | (Is::Waiting, In::RetryDue)
        | (Is::Retrying, In::RepeatDue)
        | (Is::Noting | Is::Recording | Is::Pushing | Is::Retrying, In::Silent | In::Lost)
        | (Is::Waiting | Is::Repeating | Is::Unwakeable, In::Silent | In::Lost)
        | (Is::Joined, In::Silent | In::Answered) => (state, Deed::Nothing),
    }
}

/// How long to wait with the next push. What failed for many calls at the same moment must not be tried again by all of
/// them at the same moment, so `chance` lengthens each pause by up to a quarter.
pub(super) fn retry_pause(attempts: u8, after: Option<Duration>, chance: u64) -> Duration {
    let doublings = u32::from(attempts.saturating_sub(1).min(10));
    let pause = after.unwrap_or_else(|| RETRY_AFTER.saturating_mul(1 << doublings).min(RETRY_AFTER_MAX));
    let quarter = u64::try_from(pause.as_millis() / 4).unwrap_or(u64::MAX);
    pause.saturating_add(Duration::from_millis(chance % quarter.max(1)))
}

/// Of a push that its provider has trouble with. What the provider asks for can outlast the wait; our own pauses cannot.
pub(super) fn try_again(attempts: u8, after: Option<Duration>, left: Duration, chance: u64) -> DeviceInput {
    let pause = retry_pause(attempts, after, chance);
    if pause < left || left.is_zero() {
        return DeviceInput::TryAgain(pause);
    }
    match after {
        Some(after) => DeviceInput::TryAgain(after),
        None if left / 2 >= RETRY_AFTER => DeviceInput::TryAgain(left / 2),
        None => DeviceInput::Paused(pause),
    }
}

/// Of a push that was not sent, because its provider is in trouble and is not asked before `after` is over. Only when the
/// wait surely ends before that is there nothing to wait for. All that wait for the same moment come a little apart.
pub(super) fn paused(after: Duration, left: Duration, chance: u64) -> DeviceInput {
    if after >= left {
        return DeviceInput::Refused;
    }
    let soonest = after.max(RETRY_AFTER);
    let quarter = u64::try_from((soonest / 4).min(PAUSED_APART_MAX).as_millis()).unwrap_or(u64::MAX);
    let pause = soonest.saturating_add(Duration::from_millis(chance % quarter.max(1)));
    DeviceInput::Paused(if pause < left { pause } else { soonest })
}

impl HeldDevice {
    pub(super) fn new(binding: Arc<Binding>, state: DeviceState) -> Self {
        let purpose = Purpose::default();
        Self {
            binding,
            state,
            attempts: 0,
            accepted_at: None,
            taken_by: None,
            repeats: 0,
            is_paused: false,
            purpose,
            is_only_called: false,
            awaits: None,
            has_come: false,
            has_left: false,
            is_noted: false,
            has_entry: false,
            is_durable: false,
        }
    }

    /// Its services: that which took its last push, then the others as the phone prefers them.
    pub(super) fn target(&self) -> Option<PushTarget> {
        let target = self.binding.push.clone()?;
        Some(match self.taken_by {
            Some(token) => target.beginning_with(|service| TokenHash::of(&service.prid) == token),
            None => target,
        })
    }

    /// The service by which it has been told, as far as is known.
    pub(super) fn told_by(&self) -> Option<&PushTarget> {
        let target = self.binding.push.as_ref()?;
        let took = |service: &&PushTarget| self.taken_by == Some(TokenHash::of(&service.prid));
        Some(target.ranked().find(took).unwrap_or(target))
    }

    /// How long after its push was taken it has come, once.
    pub(super) fn wake_seen(&mut self, now: Instant) -> Option<Effect> {
        let after = now.saturating_duration_since(self.accepted_at.take()?);
        Some(Effect::WakeSeen { provider: self.told_by()?.provider, after })
    }

    /// When its push is due again, if it is: after that of `repeat` which is next, counted from the first that was taken.
    pub(super) fn next_repeat(&mut self, repeat: &[Duration], now: Instant) -> Option<Instant> {
        let first = self.accepted_at?;
        let (number, due) = (1..)
            .zip(repeat)
            .skip(self.repeats.into())
            .map(|(number, after)| (number, first + *after))
            .find(|(_, due)| *due > now)?;
        self.repeats = number;
        Some(due)
    }

    /// Whether the store has to know of it: what is on its way there is not asked for again, since its own reply counts.
    pub(super) fn is_to_be_noted(&self) -> bool {
        match self.state {
            DeviceState::Noting | DeviceState::Recording => !self.is_noted,
            DeviceState::Joined => !self.is_noted && !self.binding.is_token_device(),
            DeviceState::Probing | DeviceState::Pushing | DeviceState::Retrying => false,
            DeviceState::Waiting | DeviceState::Repeating | DeviceState::Unwakeable => false,
        }
    }

    /// Whether something may still bring it into the call without its own doing.
    pub(super) fn is_expected(&self) -> bool {
        match self.state {
            DeviceState::Noting | DeviceState::Recording => true,
            DeviceState::Pushing | DeviceState::Retrying | DeviceState::Waiting | DeviceState::Repeating => true,
            DeviceState::Probing | DeviceState::Joined | DeviceState::Unwakeable => false,
        }
    }
}

impl HeldCall {
    pub(super) fn device(&mut self, device: DeviceId) -> Option<&mut HeldDevice> {
        self.devices.iter_mut().find(|held| held.binding.device == device)
    }

    /// Whether the store has to know of a device.
    pub(super) fn is_to_be_recorded(&self) -> bool {
        self.devices.iter().any(HeldDevice::is_to_be_noted)
    }

    /// Whether the call still waits for a device to wake.
    pub(super) fn is_waiting(&self, now: Instant) -> bool {
        let may_be_read = !self.unread.is_empty() && now < self.until;
        self.is_open && (may_be_read || self.devices.iter().any(HeldDevice::is_expected))
    }

    /// Takes a device out of those that memory does not have; false if it was not among them.
    pub(super) fn take_unread(&mut self, device: DeviceId) -> bool {
        let before = self.unread.len();
        self.unread.retain(|unread| *unread != device);
        self.unread.len() < before
    }

    pub(super) fn left(&self, now: Instant) -> Duration {
        self.until.saturating_duration_since(now)
    }

    /// Tells a device's machine what happened.
    pub(super) fn tell(&mut self, device: DeviceId, input: DeviceInput, now: Instant) -> Deed {
        let left = self.left(now);
        let Some(held) = self.device(device) else { return Deed::Nothing };
        let (state, deed) = next(held.state, input, held.attempts, left);
        held.state = state;
        if held.has_left && !matches!(deed, Deed::Nothing | Deed::Conclude | Deed::Join) {
            held.state = DeviceState::Waiting;
            return Deed::Nothing;
        }
        if deed == Deed::Probe && held.is_only_called {
            held.state = DeviceState::Joined;
            return Deed::Join;
        }
        if state == DeviceState::Joined {
            held.purpose.end();
        }
        if deed == Deed::Record && held.is_durable {
            if !held.has_entry {
                // It rang, came back by another flow and is lost again: it knows of the call.
                held.state = DeviceState::Waiting;
                return Deed::Nothing;
            }
            // It woke by itself before its push, and is lost again.
            held.state = DeviceState::Pushing;
            return Deed::Push;
        }
        deed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::{Provider, PushTarget, PushToken, Tokens};
    use crate::clock::UnixMillis;

    const STATES: [DeviceState; 9] = [
        DeviceState::Noting,
        DeviceState::Probing,
        DeviceState::Recording,
        DeviceState::Pushing,
        DeviceState::Retrying,
        DeviceState::Waiting,
        DeviceState::Repeating,
        DeviceState::Joined,
        DeviceState::Unwakeable,
    ];
    const INPUTS: [DeviceInput; 15] = [
        DeviceInput::Recorded,
        DeviceInput::Unrecorded,
        DeviceInput::Accepted,
        DeviceInput::Limited,
        DeviceInput::Dead,
        DeviceInput::Refused,
        DeviceInput::OnlyByFlow,
        DeviceInput::TryAgain(Duration::from_secs(1)),
        DeviceInput::Paused(Duration::from_secs(1)),
        DeviceInput::RetryDue,
        DeviceInput::RepeatDue,
        DeviceInput::Woke,
        DeviceInput::Silent,
        DeviceInput::Lost,
        DeviceInput::Answered,
    ];

    #[test]
    fn a_silent_device_is_pushed_once() {
        let left = Duration::from_secs(28);
        for input in [DeviceInput::Silent, DeviceInput::Lost] {
            assert_eq!(next(DeviceState::Probing, input, 0, left), (DeviceState::Recording, Deed::Record));
            assert_eq!(next(DeviceState::Probing, input, 1, left), (DeviceState::Unwakeable, Deed::Conclude));
        }
    }

    fn held() -> HeldDevice {
        let prid = PushToken::new("token");
        let (provider, tokens, others) = (Provider::Fcm, Tokens::Single, Box::default());
        let target = PushTarget { provider, prid, param: "project".into(), tokens, others };
        let binding =
            Binding::of_token(Aor::new("alice", "example.org"), DeviceId([7; 10]), target, None, UnixMillis(0));
        HeldDevice::new(Arc::new(binding), DeviceState::Waiting)
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the only way to have an Instant at all")]
    fn repetitions_count_from_the_first_push_that_was_taken() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let repeat = [3, 8].map(Duration::from_secs);
        let mut device = HeldDevice { accepted_at: Some(at(0)), ..held() };
        assert_eq!(device.next_repeat(&repeat, at(0)), Some(at(3)));
        assert_eq!(device.next_repeat(&repeat, at(4)), Some(at(8)));
        assert_eq!(device.next_repeat(&repeat, at(8)), None);
        // What was late skips those that it has missed.
        let mut device = HeldDevice { accepted_at: Some(at(0)), ..held() };
        assert_eq!(device.next_repeat(&repeat, at(5)), Some(at(8)));
        assert_eq!(device.next_repeat(&repeat, at(5)), None);
        assert_eq!(HeldDevice { accepted_at: None, ..held() }.next_repeat(&repeat, at(0)), None);
        assert_eq!(HeldDevice { accepted_at: Some(at(0)), ..held() }.next_repeat(&[], at(0)), None);
    }

    /// Each state's row: what each input of `INPUTS` leads to. `-` nothing, else the new state's letter and the deed's.
    #[test]
    fn every_state_and_input() {
        let rows = [
            //Recd Unrec Acc  Lim  Dead Ref  Flow Try  Pau  Due  Rep  Woke Sil  Lost Ans
            ["Oo", "Oo", "-", "-", "-", "-", "-", "-", "-", "-", "-", "Jj", "-", "-", "J-"], // Noting
            ["-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "Jj", "Uc", "Uc", "J-"], // Probing, after a push
            ["Pp", "Uc", "-", "-", "-", "-", "-", "-", "-", "-", "-", "Jj", "-", "-", "J-"], // Recording
            ["-", "-", "W-", "W-", "Uc", "Uc", "Oo", "Ta", "Ta", "-", "-", "Jj", "-", "-", "J-"], // Pushing
            ["-", "-", "-", "-", "-", "-", "-", "-", "-", "Pp", "-", "Jj", "-", "-", "J-"],  // Retrying
            ["-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "Gp", "Jj", "-", "-", "J-"],  // Waiting
            ["-", "-", "W-", "W-", "W-", "W-", "W-", "Wb", "Wb", "-", "-", "Jj", "-", "-", "J-"], // Repeating
            ["-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "Jj", "-", "W-", "-"],   // Joined
            ["-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "Jj", "-", "-", "J-"],   // Unwakeable
        ];
        for (state, row) in STATES.into_iter().zip(rows) {
            for (input, expected) in INPUTS.into_iter().zip(row) {
                let (after, deed) = next(state, input, 1, Duration::from_secs(28));
                let letter = match after {
                    DeviceState::Noting => 'N',
                    DeviceState::Probing => 'O',
                    DeviceState::Recording => 'R',
                    DeviceState::Pushing => 'P',
                    DeviceState::Retrying => 'T',
                    DeviceState::Waiting => 'W',
                    DeviceState::Repeating => 'G',
                    DeviceState::Joined => 'J',
                    DeviceState::Unwakeable => 'U',
                };
                let deed = match deed {
                    Deed::Nothing => '-',
                    Deed::Record => 'r',
                    Deed::Push => 'p',
                    Deed::PushAfter(_) => 'a',
                    Deed::RepeatAfter(_) => 'b',
                    Deed::Probe => 'o',
                    Deed::Join => 'j',
                    Deed::Conclude => 'c',
                };
                let got = if after == state && deed == '-' { "-".to_owned() } else { format!("{letter}{deed}") };
                assert_eq!(got, expected, "{state:?} and {input:?}");
            }
        }
    }

    #[test]
    fn a_device_that_is_lost_is_pushed_if_it_was_not_but_not_after_the_wait() {
        let lost = |state, attempts, left| next(state, DeviceInput::Lost, attempts, Duration::from_secs(left));
        assert_eq!(lost(DeviceState::Joined, 0, 9), (DeviceState::Recording, Deed::Record));
        for state in [DeviceState::Joined, DeviceState::Probing] {
            assert_eq!(lost(state, 1, 0), (DeviceState::Unwakeable, Deed::Conclude));
        }
    }

    #[test]
    fn a_push_is_tried_again_for_as_long_as_the_call_waits() {
        let again = |attempts, pause, left| {
            let pause = DeviceInput::TryAgain(Duration::from_secs(pause));
            next(DeviceState::Pushing, pause, attempts, Duration::from_secs(left))
        };
        let gives_up = (DeviceState::Unwakeable, Deed::Conclude);
        let tries = (DeviceState::Retrying, Deed::PushAfter(Duration::from_secs(1)));
        assert_eq!(again(1, 1, 5), tries);
        assert_eq!(again(200, 1, 2), tries);
        assert_eq!(again(1, 60, 28), gives_up);
        assert_eq!(again(1, 1, 1), gives_up);
    }

    #[test]
    fn only_what_the_provider_asks_for_outlasts_the_wait() {
        let ms = Duration::from_millis;
        let again = |attempts, after: Option<u64>, left| try_again(attempts, after.map(ms), ms(left), 1999);
        assert_eq!(again(5, None, 28_000), DeviceInput::TryAgain(ms(9999)));
        assert_eq!(again(5, None, 9999), DeviceInput::TryAgain(ms(9999) / 2));
        assert_eq!(again(5, None, 1000), DeviceInput::TryAgain(ms(500)));
        assert_eq!(again(5, None, 999), DeviceInput::Paused(ms(9999)), "the call waits to its end");
        assert_eq!(again(5, None, 0), DeviceInput::TryAgain(ms(9999)));
        assert_eq!(again(1, Some(25_000), 26_000), DeviceInput::TryAgain(ms(25_000)), "not a little later");
        assert_eq!(again(1, Some(25_000), 25_000), DeviceInput::TryAgain(ms(25_000)));
    }

    #[test]
    fn a_provider_that_pauses_is_waited_for_unless_it_pauses_longer() {
        let ms = Duration::from_millis;
        let after = |after, left, chance| paused(ms(after), ms(left), chance);
        assert_eq!(after(5000, 28_000, 0), DeviceInput::Paused(ms(5000)));
        assert_eq!(after(5000, 28_000, 999), DeviceInput::Paused(ms(5999)));
        assert_eq!(after(5000, 28_000, 1000), DeviceInput::Paused(ms(5000)));
        assert_eq!(after(0, 28_000, 124), DeviceInput::Paused(ms(624)), "a probe is under way");
        assert_eq!(after(5000, 5500, 999), DeviceInput::Paused(ms(5000)));
        assert_eq!(after(0, 100, 0), DeviceInput::Paused(ms(500)), "the call waits to its end");
        for left in [0, 4999, 5000] {
            assert_eq!(after(5000, left, 0), DeviceInput::Refused);
        }
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_vary() {
        let pause = |attempts, after, chance| retry_pause(attempts, after, chance).as_millis();
        assert_eq!(
            [1, 2, 3, 4, 5, 6, 255].map(|attempts| pause(attempts, None, 0)),
            [500, 1000, 2000, 4000, 8000, 8000, 8000]
        );
        assert_eq!(pause(1, Some(Duration::from_secs(3)), 0), 3000);
        assert_eq!(pause(1, Some(Duration::ZERO), 77), 0);
        assert_eq!(pause(1, None, 124), 624);
        assert_eq!(pause(1, None, 125), 500);
        assert!((0..1000).all(|chance| (3000..3750).contains(&pause(9, Some(Duration::from_secs(3)), chance))));
        assert_eq!(retry_pause(1, Some(Duration::MAX), 7), Duration::MAX);
    }
}
