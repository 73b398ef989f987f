//! What is derived from the node's secret: names of devices, and flow tokens (RFC 5626 §5.2).

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use crate::binding::{Aor, DeviceId, Home, PushToken};
use crate::sip::{ConnectionId, Destination, Flow, HeaderName, Message, Transport};
use crate::store::HeldCallId;

/// The keys of one node. They live as long as its store does.
#[derive(Debug, Clone)]
pub struct Keys {
    device: hmac::Key,
    flow: hmac::Key,
    branch: hmac::Key,
}

/// What a flow token in a Path says: a device, and the flow that it registered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowToken {
    pub device: DeviceId,
    pub flow: Flow,
}

/// What the token in our Record-Route says, and the one by which a node sends a request to another: the device that a
/// dialog is with, the flow it was on then, and where the dialog's other side is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialogToken {
    pub device: DeviceId,
    pub flow: Flow,
    pub other: OtherSide,
}

/// The side of a dialog that is not the phone: an address that the softswitch itself has shown or the operator has
/// configured, never one that a phone has named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherSide {
    /// Without a connection: a datagram, or whatever connection there is to `remote`.
    pub flow: Flow,
    /// Where it listens, for when its connection is gone.
    pub port: u16,
}

impl OtherSide {
    pub fn at(destination: Destination) -> Self {
        let flow = match destination {
            Destination::Flow(flow) => flow,
            Destination::Address { transport, listener, remote } => {
                Flow { transport, listener, connection: ConnectionId::NONE, remote }
            }
        };
        Self { flow, port: flow.remote.port() }
    }

    /// The same for a node that does not have the connection.
    pub fn without_connection(self) -> Self {
        let remote = SocketAddr::new(self.flow.remote.ip(), self.port);
        Self { flow: Flow { connection: ConnectionId::NONE, remote, ..self.flow }, ..self }
    }

    /// Where to send, the best last.
    pub fn destinations(&self) -> Vec<Destination> {
        let Flow { transport, listener, connection, .. } = self.flow;
        let remote = SocketAddr::new(self.flow.remote.ip(), self.port);
        let address = Destination::Address { transport, listener, remote };
        if connection == ConnectionId::NONE { vec![address] } else { vec![address, Destination::Flow(self.flow)] }
    }
}

/// What follows from a user part that claims to be a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenRead {
    /// Of a Path: it leads to a device, and proves nothing about who has it.
    Flow(FlowToken),
    /// Of a Record-Route, in a request with the Call-ID that it was written for.
    Dialog(DialogToken),
    /// Written by another node for one request of a call: it goes to this flow of ours and to no other.
    Hop(DialogToken),
    /// It has the form of one, but not our signature, or is for another Call-ID.
    Forged,
    /// Something else.
    NoToken,
}

/// Leading octet of a token, by its kind. Another form gets another number.
const PATH_OF_0_1: u8 = 1;
const PATH: u8 = 3;
const DIALOG: u8 = 4;
const HOP: u8 = 5;
/// HMAC octets kept, as in RFC 5626 §5.2.
const SIGNATURE: usize = 10;
/// Of a flow: flags and listener, connection, port, address as IPv6.
const FLOW_MAX: usize = 2 + 8 + 2 + 16;
/// Kind, device, two flows, the other side's port.
const CONTENT_MAX: usize = 1 + 10 + 2 * FLOW_MAX + 2;
/// Flags of a flow.
const IS_STREAM: u8 = 1;
const IS_IPV6: u8 = 2;
const HAS_CONNECTION: u8 = 4;

type Octets = smallvec::SmallVec<[u8; CONTENT_MAX + SIGNATURE]>;

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

    /// Names the call of an INVITE that came to a worker of the node at `home`. The same INVITE has the same name in a later
    /// run of the program: what is repeated to it because nothing was durable yet is a repetition for the devices, too.
    pub fn held_call(&self, invite: &Message, home: Option<Home>, worker: u8) -> HeldCallId {
        let mut context = hmac::Context::with_key(&self.branch);
        let parts = [HeaderName::Via, HeaderName::From, HeaderName::CallId, HeaderName::CSeq];
        let values = parts.map(|name| invite.first(name).unwrap_or_default());
        let home = home.map(|home| home.address.to_string()).unwrap_or_default();
        for part in [&b"call"[..], invite.uri(), home.as_bytes()].into_iter().chain(values) {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        let signature = context.sign();
        let name = signature.as_ref().first_chunk().map_or(0, |octets| u128::from_be_bytes(*octets));
        HeldCallId::new(name, worker)
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

    /// The printed form of what a Path says, fit for the user part of a SIP URI.
    pub fn write(&self, token: &FlowToken) -> String {
        self.write_as(PATH, token.device, token.flow, None, b"")
    }

    /// The same for a Record-Route. It is good for requests with this Call-ID only.
    pub fn write_dialog(&self, token: &DialogToken, call_id: &[u8]) -> String {
        self.write_as(DIALOG, token.device, token.flow, Some(token.other), call_id)
    }

    /// The same for a node that has the flow. It is good for requests with this Call-ID only, so that who sees one can
    /// call nobody else by it.
    pub fn write_hop(&self, token: &DialogToken, call_id: &[u8]) -> String {
        self.write_as(HOP, token.device, token.flow, Some(token.other), call_id)
    }

    fn write_as(&self, kind: u8, device: DeviceId, flow: Flow, other: Option<OtherSide>, call_id: &[u8]) -> String {
        let mut content = Octets::new();
        content.push(kind);
        content.extend_from_slice(&device.0);
        pack_flow(flow, &mut content);
        if let Some(other) = other {
            pack_flow(other.flow, &mut content);
            content.extend_from_slice(&other.port.to_be_bytes());
        }
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
        let mut octets = [0; CONTENT_MAX + SIGNATURE + 2];
        let Ok(length) = URL_SAFE_NO_PAD.decode_slice(user, &mut octets) else { return TokenRead::NoToken };
        let parts = octets.get(..length).and_then(|octets| octets.split_at_checked(length.checked_sub(SIGNATURE)?));
        let Some((content, signature)) = parts else { return TokenRead::NoToken };
        let Some(token) = unpack(content) else { return TokenRead::NoToken };
        let call_id = if matches!(token, TokenRead::Flow(_)) { b"" } else { call_id };
        let expected = self.sign(content, call_id);
        let expected = expected.as_ref().get(..SIGNATURE).unwrap_or_default();
        if bool::from(subtle::ConstantTimeEq::ct_eq(expected, signature)) { token } else { TokenRead::Forged }
    }
}

fn pack_flow(flow: Flow, content: &mut Octets) {
    let has_connection = flow.connection != ConnectionId::NONE;
    let ip = flow.remote.ip().to_canonical();
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    content.push(
        flag(flow.transport.is_reliable(), IS_STREAM)
            | flag(ip.is_ipv6(), IS_IPV6)
            | flag(has_connection, HAS_CONNECTION),
    );
    content.push(flow.listener);
    if has_connection {
        content.extend_from_slice(&flow.connection.0.to_be_bytes());
    }
    content.extend_from_slice(&flow.remote.port().to_be_bytes());
    match ip {
        IpAddr::V4(ip) => content.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => content.extend_from_slice(&ip.octets()),
    }
}

/// What unsigned octets say, if they have the form of a token.
fn unpack(content: &[u8]) -> Option<TokenRead> {
    let (&kind, rest) = content.split_first()?;
    match kind {
        PATH_OF_0_1 => return unpack_0_1(rest).map(TokenRead::Flow),
        PATH | DIALOG | HOP => {}
        _ => return None,
    }
    let (device, rest) = rest.split_first_chunk::<10>()?;
    let device = DeviceId(*device);
    let (flow, rest) = unpack_flow(rest)?;
    if kind == PATH {
        return rest.is_empty().then_some(TokenRead::Flow(FlowToken { device, flow }));
    }
    let (other, rest) = unpack_flow(rest)?;
    let port = u16::from_be_bytes(*<&[u8; 2]>::try_from(rest).ok()?);
    let token = DialogToken { device, flow, other: OtherSide { flow: other, port } };
    Some(if kind == HOP { TokenRead::Hop(token) } else { TokenRead::Dialog(token) })
}

/// The form that registrars may still have in the Path of phones that sleep.
fn unpack_0_1(content: &[u8]) -> Option<FlowToken> {
    let (&kind, rest) = content.split_first()?;
    let (connection, rest) = rest.split_first_chunk::<8>()?;
    let (device, rest) = rest.split_first_chunk::<10>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let ip = IpAddr::from(<[u8; 16]>::try_from(rest).ok()?).to_canonical();
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

fn unpack_flow(content: &[u8]) -> Option<(Flow, &[u8])> {
    let (&[flags, listener], rest) = content.split_first_chunk::<2>()?;
    if flags & !(IS_STREAM | IS_IPV6 | HAS_CONNECTION) != 0 {
        return None;
    }
    let (connection, rest) = if flags & HAS_CONNECTION == 0 {
        (ConnectionId::NONE, rest)
    } else {
        let (connection, rest) = rest.split_first_chunk::<8>()?;
        (ConnectionId(u64::from_be_bytes(*connection)), rest)
    };
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let (ip, rest) = if flags & IS_IPV6 == 0 {
        let (ip, rest) = rest.split_first_chunk::<4>()?;
        (IpAddr::from(*ip), rest)
    } else {
        let (ip, rest) = rest.split_first_chunk::<16>()?;
        (IpAddr::from(*ip), rest)
    };
    let transport = if flags & IS_STREAM == 0 { Transport::Udp } else { Transport::Tcp };
    let remote = SocketAddr::new(ip, u16::from_be_bytes(*port));
    Some((Flow { transport, listener, connection, remote }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(remote: &str, transport: Transport, connection: u64) -> Flow {
        Flow { transport, listener: 200, connection: ConnectionId(connection), remote: remote.parse().unwrap() }
    }

    fn token(remote: &str) -> FlowToken {
        FlowToken { device: DeviceId([7; 10]), flow: flow(remote, Transport::Tcp, 99) }
    }

    fn dialog(remote: &str) -> DialogToken {
        let FlowToken { device, flow: own } = token(remote);
        DialogToken { device, flow: own, other: OtherSide { flow: flow(remote, Transport::Udp, 0), port: 5070 } }
    }

    #[test]
    fn only_our_own_tokens_are_read() {
        let keys = Keys::new(&[1; 32]);
        for remote in ["192.0.2.1:5060", "[2001:db8::1]:65535"] {
            let text = keys.write(&token(remote));
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
            assert_eq!(keys.read(text.as_bytes(), b"c"), TokenRead::Flow(token(remote)));
            assert_eq!(Keys::new(&[2; 32]).read(text.as_bytes(), b"c"), TokenRead::Forged);
            let mut forged = text.into_bytes();
            forged[10] = if forged[10] == b'A' { b'B' } else { b'A' };
            assert_eq!(keys.read(&forged, b"c"), TokenRead::Forged);
        }
        assert_eq!(keys.read(b"alice", b"c"), TokenRead::NoToken);
        assert_eq!(keys.read(b"", b"c"), TokenRead::NoToken);
        assert_eq!(keys.read("A".repeat(500).as_bytes(), b"c"), TokenRead::NoToken);
    }

    /// As 0.1 wrote it with this secret.
    #[test]
    fn a_path_that_a_registrar_has_since_0_1_is_read() {
        let path = "AYMAAAAAAAAAYwcHBwcHBwcHBwcTxAAAAAAAAAAAAAD__8AAAgE-kvMTsZMl75Ul";
        let flow = Flow { listener: 3, ..flow("192.0.2.1:5060", Transport::Tcp, 99) };
        assert_eq!(
            Keys::new(&[1; 32]).read(path.as_bytes(), b"c"),
            TokenRead::Flow(FlowToken { device: DeviceId([7; 10]), flow })
        );
    }

    #[test]
    fn tokens_of_a_dialog_and_of_a_hop_are_for_one_call_only() {
        let keys = Keys::new(&[1; 32]);
        for remote in ["192.0.2.1:5060", "[2001:db8::1]:65535"] {
            let token = dialog(remote);
            let (hop, route) = (keys.write_hop(&token, b"one@call"), keys.write_dialog(&token, b"one@call"));
            assert_eq!(keys.read(hop.as_bytes(), b"one@call"), TokenRead::Hop(token));
            assert_eq!(keys.read(route.as_bytes(), b"one@call"), TokenRead::Dialog(token));
            for text in [&hop, &route] {
                assert_eq!(keys.read(text.as_bytes(), b"other@call"), TokenRead::Forged);
            }
            assert_ne!(hop, route);
        }
    }

    #[test]
    fn the_other_side_is_reached_by_its_connection_and_then_where_it_listens() {
        let other = OtherSide { flow: flow("192.0.2.20:41000", Transport::Tcp, 5), port: 5060 };
        let listens = Destination::Address {
            transport: Transport::Tcp,
            listener: 200,
            remote: "192.0.2.20:5060".parse().unwrap(),
        };
        assert_eq!(other.destinations(), [listens, Destination::Flow(other.flow)]);
        assert_eq!(other.without_connection().destinations(), [listens]);
        assert_eq!(OtherSide::at(listens).destinations(), [listens]);
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
