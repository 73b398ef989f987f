//! Non-INVITE client transaction (RFC 3261 §17.1.2).
//!
//! ```text
//!                     │ request is sent; E, F run
//!                ┌────▼─────┐  E: send again, E doubles up to T2
//!   ┌────────────┤  Trying  ├───────────┐
//!   │ 1xx        └────┬─────┘           │ F: timeout
//!   │                 │ 200-699         │ transport error: failed
//! ┌─▼──────────┐      │                 │
//! │ Proceeding ├──────┤ 200-699         │
//! │            ├──────┼─────────────────┤ F, transport error
//! └────────────┘      │                 │
//!  E: send again ┌────▼──────┐          │
//!  after T2      │ Completed │          │
//!                │     K     │          │
//!                └────┬──────┘          │
//!                     │ K               │
//!                ┌────▼─────────────────▼───┐
//!                │        Terminated        │
//!                └──────────────────────────┘
//! ```
//!
//! Provisional responses and the first final one go to the user.

use super::clients::Action;
use super::timer::Timer;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NonInviteClient {
    Trying,
    Proceeding,
    Completed,
    Terminated,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    Provisional,
    /// 200-699.
    Final,
    Expired(Timer),
    TransportError,
}

impl NonInviteClient {
    pub(super) const START: &'static [Action] = &[Action::Send, Action::Start(Timer::E), Action::Start(Timer::F)];
    pub(super) const TIMERS: &'static [Timer] = &[Timer::E, Timer::F, Timer::K];

    pub(super) fn receive(&mut self, input: Input) -> &'static [Action] {
        use Action::{Double, End, Fail, Forget, Pass, Send, Slow, Start, Stop, TimeOut};
        match (*self, input) {
            (Self::Trying | Self::Proceeding, Input::Provisional) => self.enter(Self::Proceeding, &[Pass]),
            (Self::Trying | Self::Proceeding, Input::Final) => {
                self.enter(Self::Completed, &[Stop(Timer::E), Stop(Timer::F), Start(Timer::K), Forget, Pass])
            }
            (Self::Trying, Input::Expired(Timer::E)) => &[Send, Double(Timer::E)],
            (Self::Proceeding, Input::Expired(Timer::E)) => &[Send, Slow(Timer::E)],
            (Self::Trying | Self::Proceeding, Input::Expired(Timer::F)) => {
                self.enter(Self::Terminated, &[Stop(Timer::E), TimeOut])
            }
            (Self::Trying | Self::Proceeding, Input::TransportError) => {
                self.enter(Self::Terminated, &[Stop(Timer::E), Stop(Timer::F), Fail])
            }
            (Self::Completed, Input::Expired(Timer::K)) => self.enter(Self::Terminated, &[End]),
            (Self::Trying | Self::Proceeding, Input::Expired(_)) | (Self::Completed | Self::Terminated, _) => &[],
        }
    }

    fn enter(&mut self, state: Self, actions: &'static [Action]) -> &'static [Action] {
        *self = state;
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::Action::{Double, End, Fail, Forget, Pass, Send, Slow, Start, Stop, TimeOut};
    use super::Input::{Expired, Final, Provisional, TransportError};
    use super::NonInviteClient::{Completed, Proceeding, Terminated, Trying};
    use super::Timer::{E, F, K};
    use super::*;

    const STATES: [NonInviteClient; 4] = [Trying, Proceeding, Completed, Terminated];
    const INPUTS: [Input; 6] = [Provisional, Final, Expired(E), Expired(F), Expired(K), TransportError];

    /// What does something. Everything else is ignored.
    const TABLE: [(NonInviteClient, Input, NonInviteClient, &[Action]); 11] = [
        (Trying, Provisional, Proceeding, &[Pass]),
        (Trying, Final, Completed, &[Stop(E), Stop(F), Start(K), Forget, Pass]),
        (Trying, Expired(E), Trying, &[Send, Double(E)]),
        (Trying, Expired(F), Terminated, &[Stop(E), TimeOut]),
        (Trying, TransportError, Terminated, &[Stop(E), Stop(F), Fail]),
        (Proceeding, Provisional, Proceeding, &[Pass]),
        (Proceeding, Final, Completed, &[Stop(E), Stop(F), Start(K), Forget, Pass]),
        (Proceeding, Expired(E), Proceeding, &[Send, Slow(E)]),
        (Proceeding, Expired(F), Terminated, &[Stop(E), TimeOut]),
        (Proceeding, TransportError, Terminated, &[Stop(E), Stop(F), Fail]),
        (Completed, Expired(K), Terminated, &[End]),
    ];

    #[test]
    fn every_pair_of_state_and_input() {
        for state in STATES {
            for input in INPUTS {
                let row = TABLE.iter().find(|row| (row.0, row.1) == (state, input));
                let expected = row.map_or((state, &[][..]), |row| (row.2, row.3));
                let mut machine = state;
                let actions = machine.receive(input);
                assert_eq!((machine, actions), expected, "{state:?} {input:?}");
            }
        }
    }
}
