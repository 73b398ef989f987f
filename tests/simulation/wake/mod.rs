//! Many sleeping phones, callers who do not wait for ever, and a proxy between them: which share of the calls that could be
//! delivered it delivers.
//!
//! One [`Day`] is one run: a seed decides what happens to each phone, call and push ([`fate`]), a [`Plan`] how the proxy is
//! set. Everything that is not the proxy is the same for all plans of one seed.
//!
//! **Deliverable** is a call whose phone could have rung by the time that its caller gave up, [`WAIT_MAX`] after the INVITE
//! at the latest, by an ideal proxy. That one pushes from the first moment on at which the push service takes pushes, and
//! again [each second](IDEAL_EVERY); but only once where the app cannot take the same call twice (an iPhone with the body of
//! ECSS-10). From the first of these pushes that is there, the phone takes what it takes to wake, until a REGISTER of it gets
//! through from where it stays; then comes [`SIGNALLING`]. A phone that is awake only has to hear of the push. One with a dead
//! token is out of reach. A proxy that dies is no excuse. A call that was delivered although it is not so by this reckoning
//! counts as deliverable, too.
//!
//! **Reachable** is the same without that "only once": what a body that can be repeated would make deliverable.
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
/// Between two pushes of an ideal proxy.
const IDEAL_EVERY: Duration = Duration::from_secs(1);
/// Nobody can be waited for longer: `hold.wait_s` at its most.
const WAIT_MAX: Duration = Duration::from_secs(170);
