//! INVITE client transaction (RFC 3261 §17.1.1, RFC 6026 §7.2).
//!
//! ```text
//!                        │ INVITE is sent; A, B run
//!                   ┌────▼─────┐  A: send again
//!   ┌───────────────┤ Calling  ├──────────────────┐
//!   │ 1xx           └─┬──────┬─┘                  │ B: timeout
//!   │             2xx │      │ 300-699: ACK       │ transport error: failed
//! ┌─▼──────────┐      │      │                    │
//! │ Proceeding ├──────┤ 2xx  │                    │
//! │            ├──────┼──────┤ 300-699: ACK       │
//! └─────┬──────┘      │      │                    │
//!       │        ┌────▼───┐ ┌▼──────────┐         │
//!       │        │Accepted│ │ Completed │ 300-699:│
//!       │        │  M     │ │   D       │ ACK     │
//!       │        └────┬───┘ └┬──────────┘ again   │
//!       │ no final    │ M    │ D                  │
//!       │ after CANCEL│      │ transport error    │
//!   ┌───▼─────────────▼──────▼────────────────────▼─┐
//!   │                  Terminated                   │
//!   └───────────────────────────────────────────────┘
//! ```
//!
//! All 1xx, the first 300-699 and each 2xx go to the user. A CANCEL (§9.1) is sent once, in Proceeding; one that is
//! wanted in Calling waits for the first 1xx. From then on B runs once more: it limits the wait for a final response.
//! Who gives up cancels as well, and what has had no response is not sent again.

use super::clients::Action;
use super::timer::Timer;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Calling,
    Proceeding,
    Accepted,
    Completed,
    Terminated,
}

/// What became of the user's wish to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cancellation {
    None,
    /// Waits for a provisional response.
    Wanted,
    Sent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InviteClient {
    pub(super) state: State,
    pub(super) cancellation: Cancellation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    Provisional,
    /// 2xx.
    Success,
    /// 300-699.
    Failure,
    Cancel,
    GiveUp,
    Resend,
    Expired(Timer),
    TransportError,
}

impl InviteClient {
    pub(super) const START: &'static [Action] = &[Action::Send, Action::Start(Timer::A), Action::Start(Timer::B)];
    pub(super) const TIMERS: &'static [Timer] = &[Timer::A, Timer::B, Timer::D, Timer::M];

    pub(super) fn new() -> Self {
        Self { state: State::Calling, cancellation: Cancellation::None }
    }

    pub(super) fn receive(&mut self, input: Input) -> &'static [Action] {
        match self.state {
            State::Calling => self.receive_calling(input),
            State::Proceeding => self.receive_proceeding(input),
            State::Accepted => match input {
                Input::Success => &[Action::Pass],
                Input::Expired(Timer::M) => self.enter(State::Terminated, &[Action::End]),
                Input::Provisional | Input::Failure | Input::Cancel | Input::GiveUp | Input::Resend => &[],
                Input::Expired(_) | Input::TransportError => &[],
            },
            State::Completed => match input {
                Input::Failure => &[Action::Send],
                Input::Expired(Timer::D) => self.enter(State::Terminated, &[Action::End]),
                // The user has its final response, so this is an end like any other.
                Input::TransportError => self.enter(State::Terminated, &[Action::Stop(Timer::D), Action::End]),
                Input::Provisional | Input::Success | Input::Cancel | Input::GiveUp => &[],
                Input::Resend | Input::Expired(_) => &[],
            },
            State::Terminated => &[],
        }
    }

    fn receive_calling(&mut self, input: Input) -> &'static [Action] {
        use Action::{Acknowledge, Double, Fail, Forget, Pass, Send, SendCancel, Start, Stop, TimeOut};
        match input {
            Input::Provisional if self.cancellation == Cancellation::Wanted => {
                self.cancellation = Cancellation::Sent;
                self.enter(State::Proceeding, &[Stop(Timer::A), Start(Timer::B), SendCancel, Pass])
            }
            Input::Provisional => self.enter(State::Proceeding, &[Stop(Timer::A), Stop(Timer::B), Pass]),
            Input::Success => {
                self.enter(State::Accepted, &[Stop(Timer::A), Stop(Timer::B), Start(Timer::M), Forget, Pass])
            }
            Input::Failure => {
                self.enter(State::Completed, &[Stop(Timer::A), Stop(Timer::B), Start(Timer::D), Acknowledge, Pass])
            }
            Input::Cancel => {
                self.cancellation = Cancellation::Wanted;
                &[]
            }
            Input::GiveUp => {
                self.cancellation = Cancellation::Wanted;
                &[Stop(Timer::A)]
            }
            Input::Resend => &[Send, Start(Timer::A)],
            Input::Expired(Timer::A) => &[Send, Double(Timer::A)],
            Input::Expired(Timer::B) => self.enter(State::Terminated, &[Stop(Timer::A), TimeOut]),
            Input::TransportError => self.enter(State::Terminated, &[Stop(Timer::A), Stop(Timer::B), Fail]),
            Input::Expired(_) => &[],
        }
    }

    fn receive_proceeding(&mut self, input: Input) -> &'static [Action] {
        use Action::{Acknowledge, Forget, Pass, SendCancel, Start, Stop, TimeOut};
        match input {
            Input::Provisional => &[Pass],
            Input::Success => self.enter(State::Accepted, &[Stop(Timer::B), Start(Timer::M), Forget, Pass]),
            Input::Failure => self.enter(State::Completed, &[Stop(Timer::B), Start(Timer::D), Acknowledge, Pass]),
            Input::Cancel | Input::GiveUp if self.cancellation != Cancellation::Sent => {
                self.cancellation = Cancellation::Sent;
                &[SendCancel, Start(Timer::B)]
            }
            Input::Expired(Timer::B) => self.enter(State::Terminated, &[TimeOut]),
            Input::Cancel | Input::GiveUp | Input::Resend | Input::Expired(_) | Input::TransportError => &[],
        }
    }

    fn enter(&mut self, state: State, actions: &'static [Action]) -> &'static [Action] {
        self.state = state;
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::Action::{Acknowledge, Double, End, Fail, Forget, Pass, Send, SendCancel, Start, Stop, TimeOut};
    use super::Cancellation::{None, Sent, Wanted};
    use super::Input::{Cancel, Expired, Failure, GiveUp, Provisional, Resend, Success, TransportError};
    use super::State::{Accepted, Calling, Completed, Proceeding, Terminated};
    use super::Timer::{A, B, D, M};
    use super::*;

    const STATES: [State; 5] = [Calling, Proceeding, Accepted, Completed, Terminated];
    const CANCELLATIONS: [Cancellation; 3] = [None, Wanted, Sent];
    const INPUTS: [Input; 11] = [
        Provisional,
        Success,
        Failure,
        Cancel,
        GiveUp,
        Resend,
        Expired(A),
        Expired(B),
        Expired(D),
        Expired(M),
        TransportError,
    ];

    /// What does something, whatever was asked about cancelling. Everything else is ignored.
    const TABLE: [(State, Input, State, &[Action]); 17] = [
        (Calling, Success, Accepted, &[Stop(A), Stop(B), Start(M), Forget, Pass]),
        (Calling, Failure, Completed, &[Stop(A), Stop(B), Start(D), Acknowledge, Pass]),
        (Calling, Resend, Calling, &[Send, Start(A)]),
        (Calling, Expired(A), Calling, &[Send, Double(A)]),
        (Calling, Expired(B), Terminated, &[Stop(A), TimeOut]),
        (Calling, TransportError, Terminated, &[Stop(A), Stop(B), Fail]),
        (Proceeding, Provisional, Proceeding, &[Pass]),
        (Proceeding, Success, Accepted, &[Stop(B), Start(M), Forget, Pass]),
        (Proceeding, Failure, Completed, &[Stop(B), Start(D), Acknowledge, Pass]),
        (Proceeding, Expired(B), Terminated, &[TimeOut]),
        (Accepted, Success, Accepted, &[Pass]),
        (Accepted, Expired(M), Terminated, &[End]),
        (Completed, Failure, Completed, &[Send]),
        (Completed, Expired(D), Terminated, &[End]),
        (Completed, TransportError, Terminated, &[Stop(D), End]),
        // A 2xx after a 300-699 is nobody's: the call is already over for the user.
        (Completed, Success, Completed, &[]),
        (Accepted, Failure, Accepted, &[]),
    ];

    type Row = (State, Cancellation, Input, State, Cancellation, &'static [Action]);

    /// Where cancelling matters.
    const CANCELLING: [Row; 12] = [
        (Calling, None, Provisional, Proceeding, None, &[Stop(A), Stop(B), Pass]),
        (Calling, Wanted, Provisional, Proceeding, Sent, &[Stop(A), Start(B), SendCancel, Pass]),
        (Calling, Sent, Provisional, Proceeding, Sent, &[Stop(A), Stop(B), Pass]),
        (Calling, None, Cancel, Calling, Wanted, &[]),
        (Calling, Sent, Cancel, Calling, Wanted, &[]),
        (Calling, None, GiveUp, Calling, Wanted, &[Stop(A)]),
        (Calling, Sent, GiveUp, Calling, Wanted, &[Stop(A)]),
        (Calling, Wanted, GiveUp, Calling, Wanted, &[Stop(A)]),
        (Proceeding, None, Cancel, Proceeding, Sent, &[SendCancel, Start(B)]),
        (Proceeding, Wanted, Cancel, Proceeding, Sent, &[SendCancel, Start(B)]),
        (Proceeding, None, GiveUp, Proceeding, Sent, &[SendCancel, Start(B)]),
        (Proceeding, Wanted, GiveUp, Proceeding, Sent, &[SendCancel, Start(B)]),
    ];

    #[test]
    fn every_pair_of_state_and_input() {
        for state in STATES {
            for cancellation in CANCELLATIONS {
                for input in INPUTS {
                    let plain = TABLE.iter().find(|row| (row.0, row.1) == (state, input));
                    let cancelling =
                        CANCELLING.iter().find(|row| (row.0, row.1, row.2) == (state, cancellation, input));
                    let expected = match (plain, cancelling) {
                        (Some(row), _) => (InviteClient { state: row.2, cancellation }, row.3),
                        (_, Some(row)) => (InviteClient { state: row.3, cancellation: row.4 }, row.5),
                        _ => (InviteClient { state, cancellation }, &[][..]),
                    };
                    let mut machine = InviteClient { state, cancellation };
                    let actions = machine.receive(input);
                    assert_eq!((machine, actions), expected, "{state:?} {cancellation:?} {input:?}");
                }
            }
        }
    }
}
