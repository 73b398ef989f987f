//! The one STUN answer that a SIP port gives (RFC 5626 §8, RFC 8489 §6.3.1): a phone asks which address it is seen at.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};

const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: u16 = 0x0101;
const MAGIC_COOKIE: u32 = 0x2112_A442;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// Type, length, magic cookie, transaction id.
const HEADER_BYTES: usize = 20;

/// Whether a datagram is STUN (RFC 8489 §5): two zero bits, and the magic cookie in its place.
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER_BYTES
        && datagram.first().is_some_and(|byte| byte & 0xC0 == 0)
        && datagram.get(4..8) == Some(&MAGIC_COOKIE.to_be_bytes())
}

/// The success response to a Binding request that came from `source`; `None` for any other STUN message.
///
/// Differs from RFC 8489 §6.3.1: attributes of the request are not looked at, because keep-alives carry none
/// that would change the answer.
pub fn binding_response(request: &[u8], source: SocketAddr) -> Option<Bytes> {
    let transaction = request.get(4..HEADER_BYTES)?;
    let attribute_bytes = u16::from_be_bytes(*request.get(2..4)?.first_chunk()?);
    let is_whole = usize::from(attribute_bytes) + HEADER_BYTES == request.len();
    if !is_stun(request) || !request.starts_with(&BINDING_REQUEST) || !is_whole {
        return None;
    }
    let mut response = BytesMut::with_capacity(44);
    response.put_u16(BINDING_SUCCESS);
    response.put_u16(if source.is_ipv4() { 12 } else { 24 });
    response.put_slice(transaction);
    response.put_u16(XOR_MAPPED_ADDRESS);
    response.put_u16(if source.is_ipv4() { 8 } else { 20 });
    response.put_u16(if source.is_ipv4() { 1 } else { 2 });
    let [cookie_high, cookie_low, ..] = MAGIC_COOKIE.to_be_bytes();
    response.put_u16(source.port() ^ u16::from_be_bytes([cookie_high, cookie_low]));
    match source.ip() {
        IpAddr::V4(address) => response.put_u32(address.to_bits() ^ MAGIC_COOKIE),
        IpAddr::V6(address) => {
            // Magic cookie and transaction id together are as long as the address.
            let mask = u128::from_be_bytes(*transaction.first_chunk()?);
            response.put_u128(address.to_bits() ^ mask);
        }
    }
    Some(response.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &[u8] = b"\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl";

    #[test]
    fn answers_with_the_source_address() {
        let v4 = binding_response(REQUEST, "192.0.2.1:32853".parse().unwrap()).unwrap();
        // The address and port of RFC 5769 §2.2.
        assert_eq!(
            &v4[..],
            b"\x01\x01\x00\x0c\x21\x12\xa4\x42abcdefghijkl\x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43"
        );
        let v6 = binding_response(REQUEST, "[::]:0".parse().unwrap()).unwrap();
        assert_eq!(&v6[20..], b"\x00\x20\x00\x14\x00\x02\x21\x12\x21\x12\xa4\x42abcdefghijkl");
    }

    #[test]
    fn answers_nothing_else() {
        let source = "192.0.2.1:1".parse().unwrap();
        for other in [
            &b"\x01\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl"[..],
            b"\x00\x01\x00\x04\x21\x12\xa4\x42abcdefghijkl",
            b"\x00\x01\x00\x00\x21\x12\xa4\x43abcdefghijkl",
            b"\x00\x01",
        ] {
            assert_eq!(binding_response(other, source), None, "{other:?}");
        }
    }
}
