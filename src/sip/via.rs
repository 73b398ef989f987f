//! Via (RFC 3261 §20.42, response port of RFC 3581).

use std::net::{IpAddr, SocketAddr};

use super::scan;
use super::uri::{host_ip, parse_hostport};

/// What every branch made by an RFC 3261 element begins with (§8.1.1.7).
pub const MAGIC_COOKIE: &[u8] = b"z9hG4bK";

/// A view of one Via value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Via<'a> {
    /// As written; any token (RFC 4475 §3.1.1.10).
    pub transport: &'a [u8],
    pub host: &'a [u8],
    pub port: Option<u16>,
    /// From the first `;` on.
    pub params: &'a [u8],
}

impl<'a> Via<'a> {
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        let (name, rest) = scan::split_once(value, b'/')?;
        let (version, rest) = scan::split_once(rest, b'/')?;
        if !scan::trim(name).eq_ignore_ascii_case(b"SIP") || scan::trim(version) != b"2.0" {
            return None;
        }
        let rest = scan::trim(rest);
        let transport_end = rest.iter().position(|byte| scan::is_lws(*byte))?;
        let transport = rest.get(..transport_end)?;
        if !scan::is_token(transport) {
            return None;
        }
        let rest = scan::trim(rest.get(transport_end..)?);
        let params_at = memchr::memchr(b';', rest).unwrap_or(rest.len());
        let sent_by = scan::trim(rest.get(..params_at)?);
        let (host, port) = match parse_hostport(sent_by) {
            Some(sent_by) => sent_by,
            None => parse_spaced_hostport(sent_by)?,
        };
        Some(Self { transport, host, port, params: rest.get(params_at..)? })
    }

    pub fn param(&self, name: &str) -> Option<Option<&'a [u8]>> {
        scan::param(self.params, name)
    }

    pub fn branch(&self) -> Option<&'a [u8]> {
        self.param("branch")?
    }

    /// The branch, if it is one that identifies a transaction (RFC 3261 §17.2.3).
    pub fn unique_branch(&self) -> Option<&'a [u8]> {
        self.branch().filter(|branch| branch.len() > MAGIC_COOKIE.len() && branch.starts_with(MAGIC_COOKIE))
    }

    /// Where a response goes when the connection or socket it came by is gone (RFC 3261 §18.2.2): `received`, or the
    /// sent-by host where it is an address, at the sent-by port.
    pub fn response_address(&self) -> Option<SocketAddr> {
        let ip = self.received().or_else(|| host_ip(self.host))?;
        Some(SocketAddr::new(ip, self.port.unwrap_or(5060)))
    }

    /// Writes the Via `value` that this view was made from with the source's address as `received` and its port as
    /// `rport`, as the server that got it does (RFC 3261 §18.2.1, RFC 3581 §4). What a client claims there is replaced.
    pub fn stamp(&self, value: &[u8], source: SocketAddr, out: &mut Vec<u8>) {
        let wants_rport = self.param("rport").is_some();
        let received_needed = wants_rport || host_ip(self.host) != Some(source.ip());
        let params_start = scan::span_in(value, self.params).start;
        let head = if self.params.is_empty() { value } else { value.get(..params_start).unwrap_or(value) };
        out.extend_from_slice(head);
        let mut has_rport = false;
        for param in scan::params(self.params) {
            let is_rport = param.name.eq_ignore_ascii_case(b"rport");
            // Each rport grows by being stamped, and one is enough.
            if param.name.eq_ignore_ascii_case(b"received") || (is_rport && has_rport) {
                continue;
            }
            out.push(b';');
            out.extend_from_slice(param.name);
            if is_rport {
                has_rport = true;
                out.push(b'=');
                scan::put(out, source.port());
            } else if let Some(text) = param.value {
                out.push(b'=');
                out.extend_from_slice(text);
            }
        }
        if received_needed {
            out.extend_from_slice(b";received=");
            scan::put(out, source.ip());
        }
    }

    /// With or without brackets round an IPv6 address (RFC 5118 §4.5).
    pub fn received(&self) -> Option<IpAddr> {
        host_ip(self.param("received")??)
    }
}

/// `host : port` with white space round the colon, which RFC 3261 §25.1 allows in a Via.
fn parse_spaced_hostport(text: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let colon = memchr::memrchr(b':', text)?;
    let (host, None) = parse_hostport(scan::trim(text.get(..colon)?))? else {
        return None;
    };
    let port = u16::try_from(scan::number(scan::trim(text.get(colon + 1..)?))?).ok()?;
    Some((host, Some(port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spacing_ipv6_and_odd_transports_are_read() {
        let via =
            Via::parse(b"SIP  /2.0\r\n /TLS-SCTP  192.0.2.2 : 5070 ;branch=z9hG4bK1;received=2001:db8::1").unwrap();
        assert_eq!((via.transport, via.host, via.port), (&b"TLS-SCTP"[..], &b"192.0.2.2"[..], Some(5070)));
        assert_eq!(via.received(), Some("2001:db8::1".parse().unwrap()));
        let via = Via::parse(b"SIP/2.0/UDP [2001:db8::9:1]:5060;rport;received=[::1];branch=z9hG4bK").unwrap();
        assert_eq!(via.host, b"[2001:db8::9:1]");
        assert_eq!(via.param("rport"), Some(None));
        assert_eq!(via.response_address(), Some("[::1]:5060".parse().unwrap()));
        assert_eq!(via.unique_branch(), None);
    }

    #[test]
    fn faults_are_refused() {
        for value in
            [&b"SIP/2.0/UDP"[..], b"SIP/2.0 UDP h", b"HTTP/2.0/UDP h", b"SIP/2.0/UDP h x", b"SIP/2.0/UDP 2001:db8::1"]
        {
            assert_eq!(Via::parse(value), None, "{}", String::from_utf8_lossy(value));
        }
    }

    #[test]
    fn stamp_shows_where_the_request_really_came_from() {
        let stamped = |value: &str, source: &str| {
            let mut out = Vec::new();
            Via::parse(value.as_bytes()).unwrap().stamp(value.as_bytes(), source.parse().unwrap(), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            stamped("SIP/2.0/UDP 10.0.0.1;rport;branch=z9hG4bK1", "192.0.2.1:9999"),
            "SIP/2.0/UDP 10.0.0.1;rport=9999;branch=z9hG4bK1;received=192.0.2.1"
        );
        assert_eq!(stamped("SIP/2.0/UDP 192.0.2.1;branch=b", "192.0.2.1:5060"), "SIP/2.0/UDP 192.0.2.1;branch=b");
        assert_eq!(
            stamped("SIP/2.0/UDP 192.0.2.1;rport;rport;RPORT=1", "192.0.2.1:5060"),
            "SIP/2.0/UDP 192.0.2.1;rport=5060;received=192.0.2.1"
        );
        assert_eq!(
            stamped("SIP/2.0/UDP phone.invalid:5060;branch=b;received=203.0.113.9", "[2001:db8::1]:1024"),
            "SIP/2.0/UDP phone.invalid:5060;branch=b;received=2001:db8::1"
        );
    }
}
