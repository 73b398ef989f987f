//! SIP URIs (RFC 3261 §19.1).

use std::borrow::Cow;
use std::net::IpAddr;

use super::scan;
use crate::binding::Aor;

/// A view of a `sip:` or `sips:` URI; all parts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uri<'a> {
    pub is_sips: bool,
    pub user: Option<&'a [u8]>,
    pub password: Option<&'a [u8]>,
    /// IPv6 with its brackets.
    pub host: &'a [u8],
    pub port: Option<u16>,
    /// `;name=value…` with the first `;`, or empty.
    pub params: &'a [u8],
    /// What follows `?`.
    pub headers: Option<&'a [u8]>,
}

/// Most parameters, and most headers, of a URI that is compared with another.
const COMPARED_MAX: usize = 64;

/// Why bytes are no SIP URI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Well-formed, but not `sip:` or `sips:`.
    #[error("URI scheme not supported")]
    Scheme,
    #[error("malformed URI")]
    Malformed,
}

impl<'a> Uri<'a> {
    pub fn parse(text: &'a [u8]) -> Result<Self, UriError> {
        if text.iter().any(|byte| *byte <= b' ' || matches!(byte, b'<' | b'>' | b'"' | 0x7f)) {
            return Err(UriError::Malformed);
        }
        let (scheme, rest) = scan::split_once(text, b':').ok_or(UriError::Malformed)?;
        let is_sips = scheme.eq_ignore_ascii_case(b"sips");
        if !is_sips && !scheme.eq_ignore_ascii_case(b"sip") {
            let is_scheme = scheme.first().is_some_and(u8::is_ascii_alphabetic)
                && scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte));
            return Err(if is_scheme { UriError::Scheme } else { UriError::Malformed });
        }
        // A `;` or `?` before the `@` belongs to the user (RFC 4475 §3.1.1.9).
        let (userinfo, rest) = match scan::split_once(rest, b'@') {
            Some((userinfo, rest)) => (Some(userinfo), rest),
            None => (None, rest),
        };
        let (user, password) = match userinfo {
            Some([]) => return Err(UriError::Malformed),
            Some(userinfo) => match scan::split_once(userinfo, b':') {
                Some((user, password)) => (Some(user), Some(password)),
                None => (Some(userinfo), None),
            },
            None => (None, None),
        };
        let (rest, headers) = match scan::split_once(rest, b'?') {
            Some((rest, headers)) => (rest, Some(headers)),
            None => (rest, None),
        };
        let params_at = memchr::memchr(b';', rest).unwrap_or(rest.len());
        let (hostport, params) = (rest.get(..params_at), rest.get(params_at..));
        let (host, port) = parse_hostport(hostport.unwrap_or_default()).ok_or(UriError::Malformed)?;
        Ok(Self { is_sips, user, password, host, port, params: params.unwrap_or_default(), headers })
    }

    /// The raw value of a parameter; `Some(None)` when it stands without a value.
    pub fn param(&self, name: &str) -> Option<Option<&'a [u8]>> {
        scan::param(self.params, name)
    }

    pub fn has_param(&self, name: &str) -> bool {
        self.param(name).is_some()
    }

    pub fn host_ip(&self) -> Option<IpAddr> {
        host_ip(self.host)
    }

    pub fn user_unescaped(&self) -> Option<Cow<'a, [u8]>> {
        self.user.map(scan::unescape)
    }

    /// The address of record that this URI names; `None` without a user or when the user is no UTF-8.
    pub fn aor(&self) -> Option<Aor> {
        self.aor_in(std::str::from_utf8(self.host).ok()?)
    }

    /// The AOR of this URI's user in another domain.
    pub fn aor_in(&self, domain: &str) -> Option<Aor> {
        let user = self.user_unescaped()?;
        let user = std::str::from_utf8(&user).ok()?;
        // A NUL or a space may be escaped into a user part; neither names an account, and both upset logs and stores.
        let is_plain = !user.is_empty() && !user.bytes().any(|byte| byte <= b' ' || byte == 0x7f);
        is_plain.then(|| Aor::new(user, domain))
    }

    /// The same without the parameters of the user part, which say how a number is to be dialled and not whose it is
    /// (RFC 3966 §5.1, RFC 4694): `+7999;npdi;phone-context=+7` is `+7999`.
    pub fn without_user_params(&self) -> Self {
        Self { user: self.user.map(number_of), ..*self }
    }

    /// Whether `hostport` names its host and port.
    pub fn is_at(&self, hostport: &[u8]) -> bool {
        parse_hostport(hostport).is_some_and(|(host, port)| {
            host.eq_ignore_ascii_case(self.host) && port.unwrap_or(5060) == self.port.unwrap_or(5060)
        })
    }

    /// Whether both lead to the same host and port, as they are written.
    pub fn is_at_same(&self, other: &Uri<'_>) -> bool {
        self.host.eq_ignore_ascii_case(other.host) && self.port.unwrap_or(5060) == other.port.unwrap_or(5060)
    }

    /// Equality of RFC 3261 §19.1.4.
    ///
    /// Differs from it in two ways: what is written alike is equal, even if it says a thing twice; and a URI with more
    /// than 64 parameters or headers is equal to nothing else, as comparing each with each takes too long.
    pub fn is_same(&self, other: &Uri<'_>) -> bool {
        if self == other {
            return true;
        }
        self.is_comparable()
            && other.is_comparable()
            && self.is_sips == other.is_sips
            && same_unescaped(self.user, other.user, false)
            && same_unescaped(self.password, other.password, false)
            && self.host.eq_ignore_ascii_case(other.host)
            && self.port == other.port
            && self.params_agree(other)
            && other.params_agree(self)
            && same_headers(self.headers, other.headers)
    }

    fn is_comparable(&self) -> bool {
        scan::params(self.params).nth(COMPARED_MAX).is_none()
            && self.headers.unwrap_or_default().split(|byte| *byte == b'&').nth(COMPARED_MAX).is_none()
    }

    /// Of each parameter here: the other has the same value, or lacks it and it is not one that must be in both.
    fn params_agree(&self, other: &Uri<'_>) -> bool {
        scan::params(self.params).all(|param| {
            match scan::params(other.params).find(|each| each.name.eq_ignore_ascii_case(param.name)) {
                Some(each) => same_unescaped(param.value, each.value, true),
                None => !["user", "ttl", "method", "maddr", "transport"]
                    .iter()
                    .any(|needed| param.name.eq_ignore_ascii_case(needed.as_bytes())),
            }
        })
    }
}

fn same_unescaped(one: Option<&[u8]>, other: Option<&[u8]>, ignore_case: bool) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => {
            let (one, other) = (scan::unescape(one), scan::unescape(other));
            if ignore_case { one.eq_ignore_ascii_case(&other) } else { one == other }
        }
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// Headers must be the same set, in any order.
fn same_headers(one: Option<&[u8]>, other: Option<&[u8]>) -> bool {
    let (one, other) = (one.unwrap_or_default(), other.unwrap_or_default());
    let has = |all: &[u8], header: &[u8]| {
        all.split(|byte| *byte == b'&').any(|each| same_unescaped(Some(each), Some(header), true))
    };
    one.split(|byte| *byte == b'&').all(|header| has(other, header))
        && other.split(|byte| *byte == b'&').all(|header| has(one, header))
}

/// What stands before the first `;`.
fn number_of(user: &[u8]) -> &[u8] {
    user.split(|byte| *byte == b';').next().unwrap_or_default()
}

/// Whether a URI is one that phones dial and only a softswitch can resolve: a telephone number (RFC 3966), or a service
/// such as the emergency call (RFC 5031).
pub fn is_dialled(text: &[u8]) -> bool {
    [&b"tel:"[..], b"urn:service:"].iter().any(|scheme| {
        text.len() > scheme.len() && text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    })
}

/// The number of a `tel:` URI without its parameters and visual separators (RFC 3966 §5); `None`: it is none, or empty.
pub fn tel_number(text: &[u8]) -> Option<String> {
    let (scheme, rest) = scan::split_once(text, b':')?;
    let digits = number_of(rest).iter().filter(|byte| !b"-.()".contains(byte)).copied().collect();
    let number = String::from_utf8(digits).ok().filter(|number| !number.is_empty())?;
    scheme.eq_ignore_ascii_case(b"tel").then_some(number)
}

/// `host[:port]` with an IPv6 reference in brackets.
pub fn parse_hostport(text: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let host_end = match text {
        [b'[', ..] => memchr::memchr(b']', text)? + 1,
        _ => memchr::memchr(b':', text).unwrap_or(text.len()),
    };
    let (host, rest) = (text.get(..host_end)?, text.get(host_end..)?);
    let valid = match host {
        [b'[', inner @ .., b']'] => {
            !inner.is_empty() && inner.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
        }
        _ => !host.is_empty() && host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(byte)),
    };
    if !valid {
        return None;
    }
    match rest {
        [] => Some((host, None)),
        [b':', port @ ..] => Some((host, Some(u16::try_from(scan::number(port)?).ok()?))),
        _ => None,
    }
}

/// The address that a host part is, if it is one.
pub fn host_ip(host: &[u8]) -> Option<IpAddr> {
    let host = match host {
        [b'[', inner @ .., b']'] => inner,
        _ => host,
    };
    std::str::from_utf8(host).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri<'_> {
        Uri::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn parts_are_told_apart() {
        let uri =
            uri("sip:user;par=u%40example.net:pw@[2001:db8::9:1]:5070;pn-prid=T:voip&U:remote;lr?Route=%3Csip:x%3E");
        assert_eq!(uri.user, Some(&b"user;par=u%40example.net"[..]));
        assert_eq!(uri.password, Some(&b"pw"[..]));
        assert_eq!(uri.host, b"[2001:db8::9:1]");
        assert_eq!(uri.host_ip(), Some("2001:db8::9:1".parse().unwrap()));
        assert_eq!(uri.port, Some(5070));
        assert_eq!(uri.param("PN-PRID"), Some(Some(&b"T:voip&U:remote"[..])));
        assert_eq!(uri.param("lr"), Some(None));
        assert_eq!(uri.headers, Some(&b"Route=%3Csip:x%3E"[..]));
    }

    #[test]
    fn malformed_uris_are_refused() {
        for text in [
            "",
            "sip:",
            "sip:@h",
            "sip:a@",
            "sip:a@h:x",
            "sip:a@h:99999",
            "sip:a@2001:db8::1",
            "sip: a@h",
            "<sip:a@h>",
            "1x:y",
        ] {
            assert_eq!(Uri::parse(text.as_bytes()), Err(UriError::Malformed), "{text}");
        }
        for text in ["tel:+1555", "nobodyKnowsThisScheme:totallyopaquecontent", "http://x"] {
            assert_eq!(Uri::parse(text.as_bytes()), Err(UriError::Scheme), "{text}");
        }
    }

    /// The examples of RFC 3261 §19.1.4.
    #[test]
    fn equality_is_that_of_rfc_3261() {
        for (one, other) in [
            ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
            ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;newparam=5"),
            (
                "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
                "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
            ),
            (
                "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
                "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
            ),
        ] {
            assert!(uri(one).is_same(&uri(other)), "{one} and {other}");
        }
        for (one, other) in [
            ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
            ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
            ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
        ] {
            assert!(!uri(one).is_same(&uri(other)), "{one} and {other}");
        }
    }

    #[test]
    fn equality_is_reflexive_and_takes_no_long_time() {
        for twice in ["sip:a@h;x=1;x=2", "sip:a@h;=1;\u{ff}=2", "sip:a@h?x=1&x=2"] {
            assert!(uri(twice).is_same(&uri(twice)), "{twice}");
        }
        let params: fn(usize) -> String = |count| ";p".repeat(count);
        let headers: fn(usize) -> String = |count| format!("?{}", vec!["h"; count].join("&"));
        for many in [params, headers] {
            let same =
                |count| uri(&format!("sip:a@h{}", many(count))).is_same(&uri(&format!("sip:a@H{}", many(count))));
            assert!(same(COMPARED_MAX) && !same(COMPARED_MAX + 1));
        }
        let (one, other) = (format!("sip:a@h{}", params(30_000)), format!("sip:a@H{}", params(30_000)));
        assert!(!uri(&one).is_same(&uri(&other)));
    }

    #[test]
    fn what_is_dialled_is_known() {
        for text in ["tel:+7-999", "TEL:112;phone-context=+7", "urn:service:sos", "URN:Service:sos.fire"] {
            assert!(is_dialled(text.as_bytes()), "{text}");
        }
        for text in ["tel:", "urn:service:", "urn:ietf:rfc:3261", "sip:tel:1@h", "telnet:h"] {
            assert!(!is_dialled(text.as_bytes()), "{text}");
        }
        assert_eq!(tel_number(b"tel:+7-(999).1;npdi;rn=+7").as_deref(), Some("+79991"));
        assert_eq!(tel_number(b"tel:;npdi"), None);
        assert_eq!(tel_number(b"urn:service:sos"), None);
        assert_eq!(uri("sip:+7;npdi:pw@h;user=phone").without_user_params().user, Some(&b"+7"[..]));
        assert_eq!(uri("sip:a%3Bb@h").without_user_params().user, Some(&b"a%3Bb"[..]));
    }

    #[test]
    fn aor_is_unescaped_and_lower_case_in_the_domain() {
        assert_eq!(uri("sip:%61Lice@EXAMPLE.org:5060;x=1").aor().unwrap().as_str(), "aLice@example.org");
        assert_eq!(uri("sip:example.org").aor(), None);
        assert_eq!(uri("sip:a%00b@example.org").aor(), None);
    }
}
