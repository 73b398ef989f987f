//! Non-INVITE server transaction (RFC 3261 §17.2.2).
//!
//! ```text
//!                    │ request goes to the user
//!              ┌─────▼──────┐  request: absorbed
//!      ┌───────┤   Trying   │
//!      │ 1xx   └─────┬──────┘
//! ┌────▼───────┐     │ 200-699: send
//! │ Proceeding ├─────┤ 200-699: send
//! └────┬───────┘     │
//!      │       ┌─────▼──────┐
//!      │       │ Completed  │  request: send again
//!      │       │     J      │
//!      │       └─────┬──────┘
//!      │ transport   │ J
//!      │ error       │ transport error
//!      │       ┌─────▼──────┐
//!      └───────► Terminated │
//!              └────────────┘
//! ```
//!
//! Nothing is sent here but what the user responds: a 100 is its affair (RFC 4320 §4.1), a 408 nobody's (§4.2). Where the user will not
//! respond at all, it lets J end a Trying or Proceeding transaction at once.

use super::servers::Action;
use super::timer::Timer;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NonInviteServer {
    Trying,
    Proceeding,
    Completed,
    Terminated,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// The same request once more.
    Request,
    /// A response of the user's: 1xx.
    Provisional,
    /// 200-699.
    Final,
    Expired(Timer),
    TransportError,
}

impl NonInviteServer {
    pub(super) fn receive(&mut self, input: Input) -> &'static [Action] {
        use Action::{End, Repeat, Respond, Start, Stop};
        match (*self, input) {
            (Self::Proceeding | Self::Completed, Input::Request) => &[Repeat],
            (Self::Trying | Self::Proceeding, Input::Provisional) => self.enter(Self::Proceeding, &[Respond]),
            (Self::Trying | Self::Proceeding, Input::Final) => self.enter(Self::Completed, &[Respond, Start(Timer::J)]),
            (Self::Proceeding, Input::TransportError) => self.enter(Self::Terminated, &[End]),
            (Self::Completed, Input::TransportError) => self.enter(Self::Terminated, &[Stop(Timer::J), End]),
            // Before its response, J is the user's word that there will be none.
            (Self::Trying | Self::Proceeding | Self::Completed, Input::Expired(Timer::J)) => {
                self.enter(Self::Terminated, &[End])
            }
            (
                Self::Trying | Self::Proceeding | Self::Completed | Self::Terminated,
                Input::Request | Input::Provisional | Input::Final | Input::Expired(_) | Input::TransportError,
            ) => &[],
        }
    }

    fn enter(&mut self, state: Self, actions: &'static [Action]) -> &'static [Action] {
        *self = state;
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::Action::{End, Repeat, Respond, Start, Stop};
    use super::Input::{Expired, Final, Provisional, Request, TransportError};
    use super::NonInviteServer::{Completed, Proceeding, Terminated, Trying};
    use super::Timer::J;
    use super::*;

    const STATES: [NonInviteServer; 4] = [Trying, Proceeding, Completed, Terminated];
    const INPUTS: [Input; 5] = [Request, Provisional, Final, Expired(J), TransportError];

    /// What does something. Everything else is ignored.
    const TABLE: [(NonInviteServer, Input, NonInviteServer, &[Action]); 11] = [
        (Trying, Provisional, Proceeding, &[Respond]),
        (Trying, Final, Completed, &[Respond, Start(J)]),
        (Trying, Expired(J), Terminated, &[End]),
        (Proceeding, Expired(J), Terminated, &[End]),
        (Proceeding, Request, Proceeding, &[Repeat]),
        (Proceeding, Provisional, Proceeding, &[Respond]),
        (Proceeding, Final, Completed, &[Respond, Start(J)]),
        (Proceeding, TransportError, Terminated, &[End]),
        (Completed, Request, Completed, &[Repeat]),
        (Completed, Expired(J), Terminated, &[End]),
        (Completed, TransportError, Terminated, &[Stop(J), End]),
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
