//! The smallest pieces of RFC 3261 §25.1: white space, tokens, quoted strings, comma lists, parameters.
//!
//! All functions take bytes as they came, folded lines included: CR and LF inside a value are white space (§7.3.1).

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;
use std::ops::Range;

/// Linear white space, the line break of a folded line included.
pub fn is_lws(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// `token` of RFC 3261 §25.1.
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(byte))
}

pub fn trim(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text {
        if !is_lws(*first) {
            break;
        }
        text = rest;
    }
    while let [rest @ .., last] = text {
        if !is_lws(*last) {
            break;
        }
        text = rest;
    }
    text
}

/// The parts before and after the first `separator`, which belongs to neither.
pub fn split_once(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(separator, text)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// A decimal number as SIP writes them: digits only, no sign.
pub fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))
}

/// Where the first of `stops` stands outside quoted strings and angle brackets.
///
/// An unclosed quote or bracket reaches to the end, so nothing is found after it.
pub fn find_outside(text: &[u8], stops: &[u8]) -> Option<usize> {
    let (mut quoted, mut escaped, mut bracketed) = (false, false, false);
    for (at, byte) in text.iter().enumerate() {
        if escaped {
            escaped = false;
        } else if quoted {
            match byte {
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => {}
            }
        } else if !bracketed && stops.contains(byte) {
            return Some(at);
        } else {
            match byte {
                b'"' if !bracketed => quoted = true,
                b'<' => bracketed = true,
                b'>' => bracketed = false,
                _ => {}
            }
        }
    }
    None
}

/// The comma-separated values of one header field (RFC 3261 §7.3.1), trimmed, empty ones left out.
pub fn values(text: &[u8]) -> Values<'_> {
    Values { rest: Some(text) }
}

/// See [`values`].
#[derive(Debug, Clone)]
pub struct Values<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for Values<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let rest = self.rest?;
            let value = match find_outside(rest, b",") {
                Some(comma) => {
                    self.rest = rest.get(comma + 1..);
                    rest.get(..comma)?
                }
                None => {
                    self.rest = None;
                    rest
                }
            };
            let value = trim(value);
            if !value.is_empty() {
                return Some(value);
            }
        }
    }
}

/// One `;name` or `;name=value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param<'a> {
    pub name: &'a [u8],
    /// As written: a quoted string has its quotes, a URI parameter its escapes.
    pub value: Option<&'a [u8]>,
}

/// The parameters in `;a;b=c`, in order. The first `;` may be missing.
pub fn params(text: &[u8]) -> Params<'_> {
    Params { rest: Some(text) }
}

/// The value of the first parameter called `name` (without regard to case): `Some(None)` when it has none.
pub fn param<'a>(text: &'a [u8], name: &str) -> Option<Option<&'a [u8]>> {
    params(text).find(|param| param.name.eq_ignore_ascii_case(name.as_bytes())).map(|param| param.value)
}

/// See [`params`].
#[derive(Debug, Clone)]
pub struct Params<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for Params<'a> {
    type Item = Param<'a>;

    fn next(&mut self) -> Option<Param<'a>> {
        loop {
            let rest = self.rest?;
            let text = match find_outside(rest, b";") {
                Some(end) => {
                    self.rest = rest.get(end + 1..);
                    rest.get(..end)?
                }
                None => {
                    self.rest = None;
                    rest
                }
            };
            if trim(text).is_empty() {
                continue;
            }
            return Some(match split_once(text, b'=') {
                Some((name, value)) => Param { name: trim(name), value: Some(trim(value)) },
                None => Param { name: trim(text), value: None },
            });
        }
    }
}

/// The text of a quoted string without quotes and backslashes; anything else as it is.
pub fn unquote(text: &[u8]) -> Cow<'_, [u8]> {
    let [b'"', inner @ .., b'"'] = text else {
        return Cow::Borrowed(text);
    };
    if !inner.contains(&b'\\') {
        return Cow::Borrowed(inner);
    }
    let mut plain = Vec::with_capacity(inner.len());
    let mut escaped = false;
    for byte in inner {
        if *byte == b'\\' && !escaped {
            escaped = true;
        } else {
            escaped = false;
            plain.push(*byte);
        }
    }
    Cow::Owned(plain)
}

/// `%HH` undone (RFC 3261 §19.1.2). A `%` without two hex digits stays as it is.
pub fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return Cow::Owned(plain),
            [b'%', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                plain.push(hex_digit(*high) << 4 | hex_digit(*low));
                after
            }
            [byte, after @ ..] => {
                plain.push(*byte);
                after
            }
        };
    }
}

fn hex_digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        _ => 0,
    }
}

/// Appends what `value` prints.
pub fn put(out: &mut Vec<u8>, value: impl fmt::Display) {
    // Writing into memory does not fail.
    let _ = write!(out, "{value}");
}

/// Text for people and stores: what is not UTF-8 is replaced.
pub fn text(bytes: &[u8]) -> Box<str> {
    String::from_utf8_lossy(bytes).into()
}

/// Where `part` stands in `whole`. `part` must be a slice of `whole`; otherwise the range is empty.
pub fn span_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    match start.checked_add(part.len()) {
        Some(end) if end <= whole.len() => start..end,
        _ => 0..0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_inside_quotes_and_brackets_do_not_separate() {
        let list = br#""a,b" <sip:x@h;p=1,2>;q=1 , <sip:y@h> ,, "q\",q" <sip:z@h>"#;
        let found: Vec<_> = values(list).collect();
        assert_eq!(found, [&br#""a,b" <sip:x@h;p=1,2>;q=1"#[..], b"<sip:y@h>", br#""q\",q" <sip:z@h>"#]);
    }

    #[test]
    fn params_keep_quotes_and_empty_values() {
        let found: Vec<_> = params(b" ;a ; b = 1;c=\"x;y\";d=").collect();
        assert_eq!(found.len(), 4);
        assert_eq!(found[1], Param { name: b"b", value: Some(b"1") });
        assert_eq!(found[2].value, Some(&b"\"x;y\""[..]));
        assert_eq!(found[3].value, Some(&b""[..]));
        assert_eq!(param(b";Lr;x=1", "lr"), Some(None));
    }

    #[test]
    fn escapes_are_undone_once_and_only_when_whole() {
        assert_eq!(&*unescape(b"a%20b%2541%G1%"), b"a b%41%G1%");
        assert_eq!(&*unescape(b"%00x"), b"\0x");
        assert_eq!(&*unquote(br#""a\"b\\c""#), br#"a"b\c"#);
    }

    #[test]
    fn numbers_have_no_sign_and_do_not_overflow() {
        assert_eq!(number(b"042"), Some(42));
        assert_eq!(number(b"-1"), None);
        assert_eq!(number(b""), None);
        assert_eq!(number(b"99999999999999999999"), None);
    }
}
