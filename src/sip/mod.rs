//! SIP messages (RFC 3261 §7): pure, and the only place that names `rsip`.

pub mod flow;
pub mod framing;
pub mod stun;
