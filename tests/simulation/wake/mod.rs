//! Many sleeping phones, callers who do not wait for ever, and a proxy between them: which share of the calls that could be
//! delivered it delivers.
//!
//! One [`Day`] is one run: a seed decides what happens to each phone, call and push ([`fate`]), a [`Plan`] how the proxy is
//! set. Everything that is not the proxy is the same for all plans of one seed.
//!
//! **Deliverable** is a call whose phone could have rung by the time that its caller gave up, [`WAIT_MAX`] after the INVITE
//! at the latest, had the proxy pushed from the first moment on and as often as it likes. That is: from the first moment at
//! which the push service takes pushes, one that is neither lost nor late; then what this phone takes to wake, until a
//! REGISTER of it gets through from where it stays; then [`SIGNALLING`]. A phone that is awake only has to hear of the push.
//! One with a dead token is out of reach while it sleeps. A proxy that dies is no excuse. A call that was delivered although
//! it is not so by this reckoning counts as deliverable, too.
//!
//! **Delivered** is a call whose INVITE reached its phone before the caller gave up.

mod cause;
mod day;
mod fate;
mod plan;
mod tally;

use std::time::Duration;

pub(crate) use day::{Day, Size};
pub(crate) use plan::{PLANS, Plan};
pub(crate) use tally::{Tally, Which};

/// From the first REGISTER that gets through to the INVITE at the phone, if one datagram on the way is lost.
const SIGNALLING: Duration = Duration::from_secs(1);
/// Nobody can be waited for longer: `hold.wait_s` at its most.
const WAIT_MAX: Duration = Duration::from_secs(170);
