//! What is derived from the node's secret: names of devices, and flow tokens (RFC 5626 §5.2).

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use crate::binding::{Aor, DeviceId, PushToken};
use crate::sip::{ConnectionId, Flow, Transport};
use crate::store::HeldCallId;

/// The keys of one node. They live as long as its store does.
#[derive(Debug, Clone)]
pub struct Keys {
    device: hmac::Key,
    flow: hmac::Key,
    branch: hmac::Key,
}

/// What a flow token says: the device that a dialog is with, and the flow it was on then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowToken {
    pub device: DeviceId,
    pub flow: Flow,
}

/// What follows from a user part that claims to be a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenRead {
    Token(FlowToken),
    /// Written by another node for one request of a call: it goes to this flow of ours and to no other.
    Hop(FlowToken),
    /// It has the form of one, but not our signature.
    Forged,
    /// Something else.
    NoToken,
}

/// Leading octet of a token; another form gets another number.
const VERSION: u8 = 1;
const HOP_VERSION: u8 = 2;
/// HMAC octets kept, as in RFC 5626 §5.2.
const SIGNATURE: usize = 10;
/// version, transport and listener, connection, device, port, address as IPv6.
const CONTENT: usize = 1 + 1 + 8 + 10 + 2 + 16;

impl Keys {
    pub fn new(secret: &[u8; 32]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derive = |purpose: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, purpose).as_ref());
        Self { device: derive(b"device id"), flow: derive(b"flow token"), branch: derive(b"branch") }
    }

    /// The id of a device of `aor` that is known by `mark`, which must be the same whenever the device is.
    pub fn device_id(&self, aor: &Aor, kind: &str, mark: &[&[u8]]) -> DeviceId {
        let mut context = hmac::Context::with_key(&self.device);
        for part in [aor.as_str().as_bytes(), kind.as_bytes()].iter().chain(mark) {
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part);
        }
        let mut id = [0; 10];
        id.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        DeviceId(id)
    }

    /// The id of a token device, which is the same for every AOR: a token is in one place only.
    pub fn token_device(&self, token: &PushToken) -> DeviceId {
        self.device_id(&Aor::new("", ""), "token", &[token.reveal().as_bytes()])
    }

    /// The number of the branch by which a device gets a held call. It is the same in a later run of the program, so
    /// that the device takes an INVITE from there for a repetition, and its answers find their way.
    pub fn branch_number(&self, call: HeldCallId, device: DeviceId) -> u64 {
        let mut context = hmac::Context::with_key(&self.branch);
        context.update(&call.0.to_be_bytes());
        context.update(&device.0);
        let signature = context.sign();
        signature.as_ref().first_chunk().map_or(0, |octets| u64::from_be_bytes(*octets))
    }

    /// The printed form, fit for the user part of a SIP URI.
    pub fn write(&self, token: &FlowToken) -> String {
        self.write_as(VERSION, token, b"")
    }

    /// The same for a node that has the flow. It is good for requests with this Call-ID only, so that who sees one can
    /// call nobody else by it.
    pub fn write_hop(&self, token: &FlowToken, call_id: &[u8]) -> String {
        self.write_as(HOP_VERSION, token, call_id)
    }

    fn write_as(&self, version: u8, token: &FlowToken, call_id: &[u8]) -> String {
        let mut content = smallvec::SmallVec::<[u8; CONTENT + SIGNATURE]>::new();
        content.push(version);
        let transport = match token.flow.transport {
            Transport::Udp => 0,
            Transport::Tcp => 0x80,
        };
        content.push(transport | token.flow.listener & 0x7f);
        content.extend_from_slice(&token.flow.connection.0.to_be_bytes());
        content.extend_from_slice(&token.device.0);
        content.extend_from_slice(&token.flow.remote.port().to_be_bytes());
        let ip = match token.flow.remote.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        content.extend_from_slice(&ip.octets());
        let signature = self.sign(&content, call_id);
        content.extend(signature.as_ref().iter().take(SIGNATURE).copied());
        URL_SAFE_NO_PAD.encode(content)
    }

    fn sign(&self, content: &[u8], call_id: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.flow);
        context.update(content);
        context.update(call_id);
        context.sign()
    }

    /// Reads what may be a token, in a request with this Call-ID. Only those written with the same secret come back.
    pub fn read(&self, user: &[u8], call_id: &[u8]) -> TokenRead {
        let mut octets = [0; CONTENT + SIGNATURE];
        let is_hop = match URL_SAFE_NO_PAD.decode_slice(user, &mut octets) {
            Ok(length) if length == octets.len() && octets[0] == VERSION => false,
            Ok(length) if length == octets.len() && octets[0] == HOP_VERSION => true,
            Ok(_) | Err(_) => return TokenRead::NoToken,
        };
        let (content, signature) = octets.split_at(CONTENT);
        let expected = self.sign(content, if is_hop { call_id } else { b"" });
        let expected = expected.as_ref().get(..SIGNATURE).unwrap_or_default();
        if !bool::from(subtle::ConstantTimeEq::ct_eq(expected, signature)) {
            return TokenRead::Forged;
        }
        match Self::unpack(content) {
            Some(token) if is_hop => TokenRead::Hop(token),
            Some(token) => TokenRead::Token(token),
            None => TokenRead::Forged,
        }
    }

    fn unpack(content: &[u8]) -> Option<FlowToken> {
        let (head, rest) = content.split_at_checked(2)?;
        let (connection, rest) = rest.split_first_chunk::<8>()?;
        let (device, rest) = rest.split_first_chunk::<10>()?;
        let (port, rest) = rest.split_first_chunk::<2>()?;
        let ip = IpAddr::from(*rest.first_chunk::<16>()?).to_canonical();
        let kind = *head.get(1)?;
        Some(FlowToken {
            device: DeviceId(*device),
            flow: Flow {
                transport: if kind & 0x80 == 0 { Transport::Udp } else { Transport::Tcp },
                listener: kind & 0x7f,
                connection: ConnectionId(u64::from_be_bytes(*connection)),
                remote: SocketAddr::new(ip, u16::from_be_bytes(*port)),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(remote: &str) -> FlowToken {
        FlowToken {
            device: DeviceId([7; 10]),
            flow: Flow {
                transport: Transport::Tcp,
                listener: 3,
                connection: ConnectionId(99),
                remote: remote.parse().unwrap(),
            },
        }
    }

    #[test]
    fn only_our_own_tokens_are_read() {
        let keys = Keys::new(&[1; 32]);
        for remote in ["192.0.2.1:5060", "[2001:db8::1]:65535"] {
            let text = keys.write(&token(remote));
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
            assert_eq!(keys.read(text.as_bytes(), b"c"), TokenRead::Token(token(remote)));
            assert_eq!(Keys::new(&[2; 32]).read(text.as_bytes(), b"c"), TokenRead::Forged);
            let mut forged = text.into_bytes();
            forged[20] = if forged[20] == b'A' { b'B' } else { b'A' };
            assert_eq!(keys.read(&forged, b"c"), TokenRead::Forged);
        }
        assert_eq!(keys.read(b"alice", b"c"), TokenRead::NoToken);
        assert_eq!(keys.read(b"", b"c"), TokenRead::NoToken);
    }

    #[test]
    fn a_hop_is_for_one_call_only() {
        let keys = Keys::new(&[1; 32]);
        let text = keys.write_hop(&token("192.0.2.1:5060"), b"one@call");
        assert_eq!(keys.read(text.as_bytes(), b"one@call"), TokenRead::Hop(token("192.0.2.1:5060")));
        assert_eq!(keys.read(text.as_bytes(), b"other@call"), TokenRead::Forged);
        let flow = keys.write(&token("192.0.2.1:5060"));
        assert_ne!(flow, text);
    }

    #[test]
    fn device_ids_depend_on_every_part() {
        let keys = Keys::new(&[1; 32]);
        let aor = Aor::new("a", "h");
        let id = keys.device_id(&aor, "label", &[b"x"]);
        assert_eq!(id, keys.device_id(&aor, "label", &[b"x"]));
        assert_ne!(id, keys.device_id(&aor, "instance", &[b"x"]));
        assert_ne!(id, keys.device_id(&Aor::new("b", "h"), "label", &[b"x"]));
        assert_ne!(keys.device_id(&aor, "push", &[b"ab", b"c"]), keys.device_id(&aor, "push", &[b"a", b"bc"]));
    }
}
