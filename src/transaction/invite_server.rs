//! INVITE server transaction (RFC 3261 §17.2.1, RFC 6026 §7.1).
//!
//! ```text
//!                      │ INVITE goes to the user, 100 is sent
//!                ┌─────▼──────┐
//!                │ Proceeding │  1xx: send · INVITE: send the last 1xx again
//!                └──┬──────┬──┘
//!           2xx:    │      │  300-699:
//!           send    │      │  send; G, H run
//!            ┌──────▼───┐ ┌▼──────────┐
//!            │ Accepted │ │ Completed │  INVITE: send again · G: send again, G doubles up to T2
//!            │    L     │ └┬───────┬──┘
//!            └──────┬───┘  │ ACK   │
//!  2xx: send        │   ┌──▼──────┐│
//!  ACK: to the user │   │Confirmed││
//!  INVITE: absorbed │   │    I    ││ H: no ACK came
//!                   │ L └──┬──────┘│
//!                   │      │ I     │
//!                ┌──▼──────▼───────▼──┐
//!                │     Terminated     │
//!                └────────────────────┘
//! ```
//!
//! A transport error changes nothing: the transaction remains in its state (RFC 3261 §17.2.4 as RFC 6026 §8 has it), and
//! what the user sends next is tried again. [`super::servers`] has by then found another way, if there is one.

use super::servers::Action;
use super::timer::Timer;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InviteServer {
    Proceeding,
    Accepted,
    Completed,
    Confirmed,
    Terminated,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// The same INVITE once more.
    Invite,
    Ack,
    /// A response of the user's: 1xx.
    Provisional,
    /// 2xx.
    Success,
    /// 300-699.
    Failure,
    Expired(Timer),
    TransportError,
}

impl InviteServer {
    pub(super) fn receive(&mut self, input: Input) -> &'static [Action] {
        use Action::{Double, End, PassAck, Repeat, Respond, Start, Stop};
        match (*self, input) {
            (Self::Proceeding, Input::Invite) => &[Repeat],
            (Self::Proceeding, Input::Provisional) => &[Respond],
            (Self::Proceeding, Input::Success) => self.enter(Self::Accepted, &[Respond, Start(Timer::L)]),
            (Self::Proceeding, Input::Failure) => {
                self.enter(Self::Completed, &[Respond, Start(Timer::G), Start(Timer::H)])
            }
            (Self::Accepted, Input::Success) => &[Respond],
            (Self::Accepted, Input::Ack) => &[PassAck],
            (Self::Accepted, Input::Expired(Timer::L)) => self.enter(Self::Terminated, &[End]),
            (Self::Completed, Input::Invite) => &[Repeat],
            (Self::Completed, Input::Expired(Timer::G)) => &[Repeat, Double(Timer::G)],
            (Self::Completed, Input::Ack) => {
                self.enter(Self::Confirmed, &[Stop(Timer::G), Stop(Timer::H), Start(Timer::I)])
            }
            (Self::Completed, Input::Expired(Timer::H)) => self.enter(Self::Terminated, &[Stop(Timer::G), End]),
            (Self::Confirmed, Input::Expired(Timer::I)) => self.enter(Self::Terminated, &[End]),
            (
                Self::Proceeding | Self::Accepted | Self::Completed | Self::Confirmed | Self::Terminated,
                Input::Invite
                | Input::Ack
                | Input::Provisional
                | Input::Success
                | Input::Failure
                | Input::Expired(_)
                | Input::TransportError,
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
    use super::Action::{Double, End, PassAck, Repeat, Respond, Start, Stop};
    use super::Input::{Ack, Expired, Failure, Invite, Provisional, Success, TransportError};
    use super::InviteServer::{Accepted, Completed, Confirmed, Proceeding, Terminated};
    use super::Timer::{G, H, I, L};
    use super::*;

    const STATES: [InviteServer; 5] = [Proceeding, Accepted, Completed, Confirmed, Terminated];
    const INPUTS: [Input; 10] =
        [Invite, Ack, Provisional, Success, Failure, Expired(G), Expired(H), Expired(I), Expired(L), TransportError];

    /// What does something. Everything else is ignored.
    const TABLE: [(InviteServer, Input, InviteServer, &[Action]); 12] = [
        (Proceeding, Invite, Proceeding, &[Repeat]),
        (Proceeding, Provisional, Proceeding, &[Respond]),
        (Proceeding, Success, Accepted, &[Respond, Start(L)]),
        (Proceeding, Failure, Completed, &[Respond, Start(G), Start(H)]),
        (Accepted, Success, Accepted, &[Respond]),
        (Accepted, Ack, Accepted, &[PassAck]),
        (Accepted, Expired(L), Terminated, &[End]),
        (Completed, Invite, Completed, &[Repeat]),
        (Completed, Ack, Confirmed, &[Stop(G), Stop(H), Start(I)]),
        (Completed, Expired(G), Completed, &[Repeat, Double(G)]),
        (Completed, Expired(H), Terminated, &[Stop(G), End]),
        (Confirmed, Expired(I), Terminated, &[End]),
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
