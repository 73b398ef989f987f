//! `name-addr` and `addr-spec` with header parameters: From, To, Contact, Route … (RFC 3261 §20.10).

use super::scan;
use super::uri::{Uri, UriError};

/// A view of one value; all parts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// Display name, with quotes if it has them; may be empty.
    pub display: &'a [u8],
    /// The URI without angle brackets.
    pub uri: &'a [u8],
    /// Header parameters from the first `;` on.
    pub params: &'a [u8],
}

impl<'a> NameAddr<'a> {
    /// `None` when brackets or quotes do not close, or something stands where only parameters may.
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        let value = scan::trim(value);
        let Some(open) = find_open(value) else {
            // Without brackets every parameter is the header's (RFC 3261 §20.10).
            let end = memchr::memchr(b';', value).unwrap_or(value.len());
            let (uri, params) = (scan::trim(value.get(..end)?), value.get(end..)?);
            let malformed = uri.is_empty() || uri.iter().any(|byte| scan::is_lws(*byte) || matches!(byte, b'"' | b'>'));
            return (!malformed && quotes_close(params)).then_some(Self { display: b"", uri, params });
        };
        let display = scan::trim(value.get(..open)?);
        let rest = value.get(open + 1..)?;
        let close = memchr::memchr(b'>', rest)?;
        let params = scan::trim(rest.get(close + 1..)?);
        let well_formed = (params.is_empty() || params.starts_with(b";"))
            && quotes_close(params)
            && (display.starts_with(b"\"") || !display.iter().any(|byte| matches!(byte, b'"' | b',' | b'<' | b'@')));
        well_formed.then_some(Self { display, uri: rest.get(..close)?, params })
    }

    pub fn param(&self, name: &str) -> Option<Option<&'a [u8]>> {
        scan::param(self.params, name)
    }

    pub fn parse_uri(&self) -> Result<Uri<'a>, UriError> {
        Uri::parse(self.uri)
    }
}

/// The `<` that opens the URI: the first outside a quoted string.
fn find_open(value: &[u8]) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in value.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'<' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

fn quotes_close(params: &[u8]) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for byte in params {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    !quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_belong_to_the_uri_only_inside_brackets() {
        let inside = NameAddr::parse(b"\"J<o>\" <sip:a@h;pn-prid=x> ; expires=60").unwrap();
        assert_eq!(inside.display, b"\"J<o>\"");
        assert_eq!(inside.uri, b"sip:a@h;pn-prid=x");
        assert_eq!(inside.param("expires"), Some(Some(&b"60"[..])));
        let outside = NameAddr::parse(b"sip:a@h;pn-prid=x").unwrap();
        assert_eq!(outside.uri, b"sip:a@h");
        assert_eq!(outside.param("pn-prid"), Some(Some(&b"x"[..])));
    }

    #[test]
    fn faults_are_refused() {
        for value in [
            &b"\"Unclosed <sip:a@h>"[..],
            b"<sip:a@h",
            b"<sip:a@h> x",
            b"Bell, Alexander <sip:a@h>",
            b"<sip:a@h>;p=\"x",
            b"",
            b"sip:a@h x",
        ] {
            assert_eq!(NameAddr::parse(value), None, "{}", String::from_utf8_lossy(value));
        }
    }
}
