//! Request methods (RFC 3261 §7.1).

use std::fmt;

/// A method. What we have no name for is an [`Method::Extension`], proxied like any other (RFC 3261 §16.3 item 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Known(rsip::Method),
    Extension,
}

impl Method {
    pub const INVITE: Self = Self::Known(rsip::Method::Invite);
    pub const ACK: Self = Self::Known(rsip::Method::Ack);
    pub const CANCEL: Self = Self::Known(rsip::Method::Cancel);
    pub const BYE: Self = Self::Known(rsip::Method::Bye);
    pub const REGISTER: Self = Self::Known(rsip::Method::Register);
    pub const OPTIONS: Self = Self::Known(rsip::Method::Options);
    pub const MESSAGE: Self = Self::Known(rsip::Method::Message);

    /// Methods are case-sensitive (RFC 3261 §7.1), so `invite` is an extension.
    pub fn of(text: &[u8]) -> Self {
        Self::Known(match text {
            b"INVITE" => rsip::Method::Invite,
            b"ACK" => rsip::Method::Ack,
            b"BYE" => rsip::Method::Bye,
            b"CANCEL" => rsip::Method::Cancel,
            b"REGISTER" => rsip::Method::Register,
            b"OPTIONS" => rsip::Method::Options,
            b"MESSAGE" => rsip::Method::Message,
            b"INFO" => rsip::Method::Info,
            b"NOTIFY" => rsip::Method::Notify,
            b"PRACK" => rsip::Method::PRack,
            b"PUBLISH" => rsip::Method::Publish,
            b"REFER" => rsip::Method::Refer,
            b"SUBSCRIBE" => rsip::Method::Subscribe,
            b"UPDATE" => rsip::Method::Update,
            _ => return Self::Extension,
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(method) => method.fmt(f),
            Self::Extension => f.write_str("extension"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_method_is_read_as_it_prints() {
        for method in rsip::Method::all() {
            assert_eq!(Method::of(method.to_string().as_bytes()), Method::Known(method));
        }
        assert_eq!(Method::of(b"invite"), Method::Extension);
    }
}
