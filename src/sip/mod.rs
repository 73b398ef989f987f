//! SIP messages (RFC 3261 §7): pure, and the only place that names `rsip`.
//!
//! A message is scanned once into offsets over its one [`bytes::Bytes`]; views such as [`uri::Uri`] or [`via::Via`] are
//! made from those bytes when somebody asks; [`edit::Edits`] writes a changed copy in which everything untouched is
//! byte for byte the same.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod edit;
pub mod flow;
pub mod framing;
pub mod header;
pub mod message;
pub mod method;
pub mod name_addr;
pub mod peek;
pub mod push_param;
pub mod repair;
pub mod response;
pub mod scan;
pub mod stun;
pub mod uri;
pub mod validity;
pub mod via;

pub use edit::Edits;
pub use flow::{ConnectionId, Destination, Flow, Transport};
pub use header::HeaderName;
pub use message::{Defect, Message};
pub use method::Method;
pub use name_addr::NameAddr;
pub use uri::Uri;
pub use via::Via;
