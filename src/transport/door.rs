//! Who is let in, asked before anything is done for what a connection brings.

use std::fmt::Debug;
use std::net::IpAddr;

use super::drops::DropReason;
use crate::sip::flow::Flow;

/// Knows who may come in. Datagrams are their worker's to ask for.
pub trait Door: Debug + Send + Sync {
    /// Whether limits per source do not hold for it.
    fn is_trusted(&self, peer: IpAddr) -> bool;
    /// Whether a connection that this peer has opened is served.
    fn admits_connection(&self, peer: IpAddr) -> Result<(), DropReason>;
    /// Whether a message is delivered. For [`DropReason::Banned`] its connection is closed.
    fn admits(&self, flow: &Flow, message: &[u8]) -> Result<(), DropReason>;
}
